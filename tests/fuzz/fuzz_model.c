/* Fuzzer of whole models: what opens runs a prompt under a program with skips and loops, whatever was damaged.
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_model.c tests/fuzz/mutate_gguf.c -lm -lpthread
 * The first byte chooses a small model of the tests' fixtures, and the rest changes it: two bytes of a place and one to
 * change it with, again and again. A first byte from 128 on says that a file follows (tests/fuzz/make_corpus.c makes
 * some). tests/test_hostile.c flips every bit. */
#include "../inside.h"

#include <stdio.h>

#include "../fixture.h"

static void require(int condition) {
    if (!condition) abort();
}

static const struct {
    const char *arch;
    int type;
} kinds[] = {{"llama", QUANT_Q4_0}, {"qwen2", QUANT_F16}, {"qwen3", QUANT_F32}, {"qwen2moe", QUANT_Q8_0}};

static size_t held;

/* A model of a few KB has no reason to take more. */
static void *limited_alloc(void *user, size_t size) {
    (void)user;
    if (size > ((size_t)64 << 20) - held) return NULL;
    held += size;
    return malloc(size);
}

static void limited_free(void *user, void *p, size_t size) {
    (void)user;
    held -= size;
    free(p);
}

static const polar_allocator limited = {limited_alloc, limited_free, NULL};

static void run(const polar_model *m) {
    static const int32_t prompt[] = {1, 4, 5, 9, 3};
    polar_session_options o = {0};
    polar_generate_options g = {0};
    polar_session *s;
    polar_error e;
    const int path[] = {0, m->n_layer - 1, 0, 0};
    char text[64];
    polar_result r;
    o.n_ctx = MIN(12, m->n_ctx_train);
    o.n_threads = 1;
    o.max_calls = MAX(4, m->n_layer);
    g.max_tokens = 3;
    if (polar_session_create(&s, m, NULL, &o, &e)) {
        require(e.message[0] != 0);
        return;
    }
    if (!polar_session_eval(s, prompt, 5, &e)) polar_session_generate(s, NULL, 0, &g, text, sizeof text, &r, &e);
    if (!polar_session_set_path(s, path, 4, &e)) polar_session_eval(s, prompt, 3, &e);
    polar_session_free(s);
}

static void open_and_run(const uint8_t *data, size_t size) {
    polar_model_options o = {0};
    polar_model *m;
    polar_error e;
    o.allocator = &limited;
    if (polar_model_open_memory(&m, data, size, &o, &e)) require(!m && e.message[0] != 0);
    else run(m);
    polar_model_close(m);
    require(held == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static fixture models[COUNT(kinds)];
    fixture *f;
    uint8_t *copy;
    if (!size) return 0;
    if (data[0] & 128) {
        open_and_run(data + 1, size - 1);
        return 0;
    }
    f = &models[data[0] % COUNT(kinds)];
    if (!f->data) *f = fixture_small(kinds[f - models].arch, kinds[f - models].type, 1);
    if (!(copy = malloc(f->size))) return 0;
    memcpy(copy, f->data, f->size);
    for (size_t i = 1; i + 3 <= size; i += 3) copy[(size_t)(data[i] | data[i + 1] << 8) % f->size] ^= data[i + 2];
    open_and_run(copy, f->size);
    free(copy);
    return 0;
}
