/* Files that somebody damaged: a small model cut at every byte and with every bit flipped is refused with a message, or
 * runs; never more. And every allocation of every function that makes something fails in turn. */
#include "inside.h"
#include "../examples/cli/gguf_writer.c"
#include "test.h"
#include "fixture.h"

/* Counts what is borrowed and refuses the allocation number fail_at. */
typedef struct counter {
    size_t live, largest;
    int n, fail_at; /* -1: none */
} counter;

static const char guard[64] = "bytes behind a block that nobody may touch";

static void *count_alloc(void *user, size_t size) {
    counter *c = user;
    char *p;
    if (c->n++ == c->fail_at || size > SIZE_MAX - sizeof guard) return NULL;
    c->live += size;
    c->largest = MAX(c->largest, size);
    if ((p = malloc(size + sizeof guard))) memcpy(p + size, guard, sizeof guard);
    return p;
}

static void count_free(void *user, void *p, size_t size) {
    counter *c = user;
    c->live -= size;
    CHECK(!memcmp((char *)p + size, guard, sizeof guard));
    free(p);
}

static const int32_t prompt[] = {1, 4, 5, 9, 3};

/* A session with a skip and a loop, a prompt and an answer. It may fail, with a message. */
static void use_model(const polar_model *m, const polar_allocator *a) {
    polar_session_options o = {0};
    polar_generate_options g = {0};
    polar_session *s = NULL;
    polar_error e;
    polar_result r;
    polar_status status;
    int path[4] = {0, 0, 0, 0};
    char text[64];
    int n;
    o.allocator = a;
    o.n_ctx = MIN(12, m->n_ctx_train);
    o.n_threads = 1;
    o.max_calls = MAX(4, m->n_layer);
    g.max_tokens = 3;
    path[2] = m->n_layer - 1;
    polar_tokenize(m, "abc", 3, POLAR_TOKENIZE_BOS, NULL, 0, &n, &e);
    if (polar_session_create(&s, m, NULL, &o, &e)) CHECK(e.message[0]);
    else {
        status = polar_session_eval(s, prompt, COUNT(prompt), &e);
        if (!status) status = polar_session_generate(s, NULL, 0, &g, text, sizeof text, &r, &e);
        CHECK(!status == !e.message[0]);
        CHECK(!polar_session_set_path(s, path, 4, &e));
        status = polar_session_eval(s, prompt, 3, &e);
        CHECK(!status == !e.message[0]);
    }
    polar_session_free(s);
}

/* Opens a copy that ends where the bytes end. 1 if it is a model. */
static int open_copy(const uint8_t *bytes, size_t n) {
    counter c = {0, 0, 0, -1};
    const polar_allocator a = {count_alloc, count_free, &c};
    polar_model_options o = {0};
    uint8_t *copy = malloc(n ? n : 1);
    polar_model *m = NULL;
    polar_error e;
    int opened;
    if (n) memcpy(copy, bytes, n);
    o.allocator = &a;
    opened = !polar_model_open_memory(&m, copy, n, &o, &e);
    CHECK(opened == !e.message[0] && opened == (m != NULL));
    CHECK(c.largest <= 16 * n + 65536);
    if (m) use_model(m, &a);
    polar_model_close(m);
    CHECK(c.live == 0);
    free(copy);
    return opened;
}

TEST(truncation) {
    fixture f = fixture_small("qwen2", QUANT_Q8_0, 1);
    size_t whole = f.size;
    CHECK(open_copy(f.data, f.size));
    while (open_copy(f.data, whole - 1)) whole--; /* padding after the last tensor may be missing */
    CHECK(f.size - whole < 32);
    for (size_t n = 0; n < whole; n += test_quick() && n > 2000 ? 31 : 1) CHECK(!open_copy(f.data, n));
    free(f.data);
}

/* Where the weights begin: bits before are all flipped, of the weights some. */
static size_t data_start(const fixture *f) {
    polar_gguf *g = NULL;
    polar_gguf_tensor t;
    size_t at = 0;
    CHECK(!polar_gguf_open_memory(&g, f->data, f->size, NULL, NULL));
    if (polar_gguf_get_tensor(g, 0, &t)) at = (size_t)((const uint8_t *)t.data - f->data);
    polar_gguf_close(g);
    return at;
}

TEST(flipped_bits) {
    const int types[] = {QUANT_Q4_0, QUANT_F16, QUANT_F32, QUANT_IQ4_NL};
    for (int a = 0; a < COUNT(fx_archs); a++) {
        fixture f = fixture_small(fx_archs[a], types[a % COUNT(types)], 1);
        const size_t start = data_start(&f) * 8, every = test_quick() ? 97 : a ? 5 : 1;
        int opened = 0, refused = 0;
        for (size_t i = 0; i < 8 * f.size; i += i < start ? every : 61 * every) {
            f.data[i / 8] ^= (uint8_t)(1 << i % 8);
            if (open_copy(f.data, f.size)) opened++;
            else refused++;
            f.data[i / 8] ^= (uint8_t)(1 << i % 8);
        }
        CHECK(opened && refused);
        for (size_t i = 0; i < start / 8; i += every) {
            const uint8_t old = f.data[i];
            f.data[i] = 0xFF;
            open_copy(f.data, f.size);
            f.data[i] = old;
        }
        free(f.data);
    }
}

/* --- sizes --- */

/* The parts of a block: bytes between them that nobody may touch are seen by the address sanitizer, and are free again
 * with the block; without it the parts lie as close as their alignment allows. */
TEST(layout_gaps) {
    counter c = {0, 0, 0, -1};
    const polar_allocator a = {count_alloc, count_free, &c};
    uint8_t *parts[3], *block = NULL;
    const size_t sizes[] = {64, 100, 7};
    size_t bytes = 0;
    for (int place = 0; place < 2; place++) {
        layout l = layout_begin(block);
        for (int i = 0; i < 3; i++) parts[i] = layout_place(&l, sizes[i], 1);
        if (!place) block = mem_alloc(&a, bytes = layout_bytes(&l), NULL);
    }
    for (int i = 0; i < 3; i++) memset(parts[i], i, sizes[i]);
#ifdef POLAR_ASAN
    for (int i = 0; i < 3; i++)
        CHECK(!__asan_address_is_poisoned(parts[i] + sizes[i] - 1) && __asan_address_is_poisoned(parts[i] + sizes[i]));
    mem_free(&a, block, bytes);
    block = mem_alloc(&a, bytes, NULL);
    memset(block, 0, bytes);
#else
    CHECK(parts[1] == parts[0] + 64 && parts[2] == parts[1] + 128 && bytes == 64 + 128 + 64 + LAYOUT_ALIGN);
#endif
    mem_free(&a, block, bytes);
    CHECK(size_of(SIZE_MAX / 2, 3) == SIZE_MAX && size_of(7, 6) == 42 && size_sum(SIZE_MAX, 1) == SIZE_MAX);
}

/* Every token is called like a control token: the list of special tokens has room for all of them, whatever their types
 * say. */
TEST(many_control_tokens) {
    static const char *const names[] = {"<EOT>", "<|im_end|>", "<|endoftext|>"};
    enum { N = 3000 };
    for (int kinds = 0; kinds < 2; kinds++) {
        static const char *tokens[N];
        static int32_t types[N];
        const char *merge = "a b";
        counter c = {0, 0, 0, -1};
        const polar_allocator a = {count_alloc, count_free, &c};
        polar_model_options o = {0};
        gguf_writer *w;
        polar_model *m;
        polar_error e;
        size_t size;
        int n;
        const void *data;
        for (int i = 0; i < N; i++) tokens[i] = names[i % 3], types[i] = 1;
        CHECK(!gguf_writer_open(&w, NULL, NULL, &e));
        gguf_writer_set_string(w, "general.architecture", "llama", 5);
        gguf_writer_set_string(w, "tokenizer.ggml.model", "gpt2", 4);
        gguf_writer_set_string(w, "tokenizer.ggml.pre", "qwen2", 5);
        gguf_writer_set_strings(w, "tokenizer.ggml.tokens", tokens, NULL, N);
        gguf_writer_set_strings(w, "tokenizer.ggml.merges", &merge, NULL, 1);
        if (kinds) gguf_writer_set_array(w, "tokenizer.ggml.token_type", POLAR_GGUF_I32, types, N);
        CHECK(!gguf_writer_finish(w, &e));
        data = gguf_writer_data(w, &size);
        o.vocab_only = 1;
        o.allocator = &a;
        CHECK(!polar_model_open_memory(&m, data, size, &o, &e));
        CHECK(!polar_tokenize(m, "<EOT><EOT>", 10, POLAR_TOKENIZE_SPECIAL, NULL, 0, &n, &e) && n == 2);
        polar_model_close(m);
        gguf_writer_close(w);
        CHECK(c.live == 0);
    }
}

/* Of hyperparameters whose products wrap, a session is refused or has room for its largest arrays; here they are counted
 * in floating point. */
TEST(wrapping_products) {
    polar_model m;
    memset(&m, 0, sizeof m);
    m.kern = kern_find(POLAR_CPU_AUTO);
    m.n_layer = 1;
    for (int i = 0; i < 2000; i++) {
        polar_session_options o = {0};
        double floats, kv;
        size_t bytes;
        m.arch = &archs[i % 2 ? 3 : 0];
        m.n_embd = 1 << fx_below(25);
        m.n_head = m.n_head_kv = 1 << fx_below(17);
        m.head_dim = 2 << fx_below(12);
        m.n_rot = m.head_dim;
        m.n_ff = i % 2 ? 0 : 1 << fx_below(25);
        m.n_vocab = 1 << fx_below(31);
        m.n_ctx_train = 1 << fx_below(31);
        m.n_expert = i % 2 ? 1024 : 0;
        m.n_expert_used = i % 2 ? 1 << fx_below(11) : 0;
        m.n_ff_exp = m.n_ff_shexp = i % 2 ? 1 << fx_below(31) : 0;
        o.n_ctx = 1 << fx_below(31);
        o.n_ctx = MIN(o.n_ctx, m.n_ctx_train);
        o.n_batch = o.n_logits = o.n_ctx;
        o.n_threads = 1;
        bytes = polar_session_bytes(&m, NULL, &o);
        floats = 2.0 * m.n_ff + 2.0 * m.n_ff_exp * m.n_expert_used + 1.0 * m.n_expert_used * m.n_embd +
                 4.0 * m.n_head * m.head_dim + 3.0 * m.n_embd + m.n_vocab + m.n_expert;
        kv = 2.0 * 2 * m.n_head_kv * m.head_dim;
        CHECK(!bytes || (double)bytes >= o.n_ctx * (4 * floats + kv));
    }
}

/* A feed-forward part of width 0 takes no width from its tensors. */
TEST(no_width) {
    static const char key[] = "llama.feed_forward_length";
    fixture f = fixture_small("llama", QUANT_F32, 1);
    uint8_t *at = f.data;
    while (memcmp(at, key, sizeof key - 1)) at++;
    wr_u32(at + sizeof key - 1 + 4, 0);
    CHECK(!open_copy(f.data, f.size));
    free(f.data);
}

/* --- allocations --- */

static fixture model_file; /* of what follows */
static polar_model *whole_model;

static polar_status try_pool(const polar_allocator *a, polar_error *e) {
    polar_pool *p = NULL;
    const polar_status status = polar_pool_create(&p, 3, a, e);
    CHECK(!status == (p != NULL));
    polar_pool_free(p);
    return status;
}

static polar_status try_gguf(const polar_allocator *a, polar_error *e) {
    polar_gguf *g = NULL;
    const polar_status status = polar_gguf_open_memory(&g, model_file.data, model_file.size, a, e);
    CHECK(!status == (g != NULL));
    polar_gguf_close(g);
    return status;
}

static polar_status try_writer(const polar_allocator *a, polar_error *e) {
    gguf_writer *w = NULL;
    const int64_t dims[] = {4};
    const float values[] = {1, 2, 3, 4};
    polar_status status = gguf_writer_open(&w, NULL, a, e);
    CHECK(!status == (w != NULL));
    if (status) return status;
    gguf_writer_set_string(w, "key", "value", 5);
    gguf_writer_set_u32(w, "number", 3);
    gguf_writer_add_tensor(w, "tensor", 0, 1, dims);
    gguf_writer_write_f32(w, values, 4);
    status = gguf_writer_finish(w, e);
    gguf_writer_close(w);
    return status;
}

static polar_status try_model(const polar_allocator *a, polar_error *e) {
    polar_model_options o = {0};
    polar_model *m = NULL;
    polar_status status;
    o.allocator = a;
    status = polar_model_open_memory(&m, model_file.data, model_file.size, &o, e);
    CHECK(!status == (m != NULL));
    polar_model_close(m);
    return status;
}

#ifndef POLAR_NO_STDIO
static polar_status try_model_file(const polar_allocator *a, polar_error *e) {
    polar_model_options o = {0};
    polar_model *m = NULL;
    polar_status status;
    o.allocator = a;
    o.no_mmap = 1;
    status = polar_model_open(&m, "build/test_hostile.gguf", &o, e);
    CHECK(!status == (m != NULL));
    polar_model_close(m);
    return status;
}
#endif

static polar_status try_session(const polar_allocator *a, polar_error *e) {
    polar_session_options o = {0};
    polar_session *s = NULL;
    polar_status status;
    o.allocator = a;
    o.n_threads = 2;
    status = polar_session_create(&s, whole_model, NULL, &o, e);
    CHECK(!status == (s != NULL));
    if (!status) status = polar_session_eval(s, prompt, COUNT(prompt), e);
    if (!status) status = polar_session_generate(s, NULL, 0, NULL, NULL, 0, NULL, e);
    polar_session_free(s);
    return status;
}

typedef struct some_paths {
    const polar_path *paths;
    int n, at;
} some_paths;

static int some_next(void *user, polar_path *path) {
    some_paths *s = user;
    if (s->at == s->n) return 0;
    *path = s->paths[s->at++];
    return 1;
}

static int some_done(void *user, int number, const polar_many_result *result) {
    (void)user;
    CHECK(number >= 0 && result->text);
    return 0;
}

static polar_status try_many(const polar_allocator *a, polar_error *e) {
    polar_many_options o = {0};
    const int calls[][4] = {{0, 1}, {0, 0, 1}, {0, 1, 1, 1}};
    const polar_path paths[] = {{calls[0], 2}, {calls[1], 3}, {calls[2], 4}};
    some_paths stream = {paths + 1, 2, 0};
    polar_many_result results[3];
    polar_many *many = NULL;
    polar_status status;
    double logprob;
    o.allocator = a;
    o.n_threads = 2;
    o.max_tokens = 4;
    status = polar_many_create(&many, whole_model, &o, e);
    CHECK(!status == (many != NULL));
    if (!status) status = polar_many_prompt(many, prompt, COUNT(prompt), e);
    if (!status) status = polar_many_draft(many, prompt, 2, e);
    if (!status) status = polar_many_run(many, paths, 2, results, e);
    if (!status) status = polar_many_stream(many, some_next, some_done, &stream, e);
    if (!status) status = polar_many_score(many, paths[1], prompt, 2, &logprob, e);
    polar_many_free(many);
    return status;
}

#ifndef POLAR_NO_TRAIN
static const int identity[] = {0, 1, 2, 3}, shorter[] = {0, 2, 3};
static const polar_train_path tried[] = {{identity, 4, POLAR_RESULT_VALID}, {shorter, 3, POLAR_RESULT_INVALID}};
static const polar_train_path tried_too[] = {{identity, 4, POLAR_RESULT_INVALID}, {shorter, 3, POLAR_RESULT_VALID}};

static void training_questions(polar_train_question *q, int n) {
    static const float features[] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (int i = 0; i < n; i++) {
        const polar_train_question one = {features + i % 5, 1, 2, i % 2 ? tried : tried_too};
        q[i] = one;
    }
}

static polar_status try_trainer(const polar_allocator *a, polar_error *e) {
    polar_train_question q[12];
    polar_train_options o = {0};
    polar_trainer *t = NULL;
    polar_predictor *p = NULL;
    polar_status status;
    size_t size;
    o.allocator = a;
    o.d_model = 8, o.n_head = 2, o.n_block = 1;
    o.n_epochs = 1;
    o.n_threads = 2;
    training_questions(q, COUNT(q));
    status = polar_trainer_create(&t, 4, 4, q, COUNT(q), &o, e);
    CHECK(!status == (t != NULL));
    if (!status) status = polar_trainer_run(t, 0, e);
    if (!status) status = polar_trainer_predictor(t, &p, e);
    if (!status) status = polar_predictor_save(p, NULL, 0, &size, e);
    if (!status) status = polar_trainer_save(t, NULL, 0, &size, e);
    polar_predictor_close(p);
    polar_trainer_free(t);
    return status;
}

static polar_status try_menu(const polar_allocator *a, polar_error *e) {
    polar_train_question q[12];
    polar_program menu[2];
    polar_menu_options o = {0};
    polar_predictor *p = NULL;
    polar_status status;
    o.allocator = a;
    o.width = 8, o.n_head = 2;
    o.n_epochs = 2;
    o.n_threads = 1;
    training_questions(q, COUNT(q));
    menu[0] = polar_program_identity(4);
    polar_program_parse(&menu[1], 4, "1x0", NULL);
    status = polar_menu_train(&p, NULL, 4, 4, q, COUNT(q), menu, 2, &o, NULL, e);
    CHECK(!status == (p != NULL));
    polar_predictor_close(p);
    return status;
}
#endif

static polar_status try_tokens(const polar_allocator *a, polar_error *e) {
    const polar_message messages[] = {{"user", "abcabc"}};
    polar_model_options o = {0};
    polar_model *m = NULL;
    polar_status status;
    int32_t tokens[32];
    int n;
    o.allocator = a;
    o.vocab_only = 1;
    status = polar_model_open_memory(&m, model_file.data, model_file.size, &o, e);
    if (!status) status = polar_tokenize(m, "abcabc", 6, 0, tokens, COUNT(tokens), &n, e);
    if (!status) status = polar_chat_tokenize(m, POLAR_CHAT_RAW, 0, messages, 1, tokens, COUNT(tokens), &n, e);
    polar_model_close(m);
    return status;
}

typedef struct trial {
    const char *name;
    polar_status (*run)(const polar_allocator *a, polar_error *e);
} trial;

static const trial trials[] = {
    {"pool", try_pool}, {"gguf", try_gguf}, {"writer", try_writer}, {"model", try_model}, {"session", try_session},
    {"many", try_many}, {"tokens", try_tokens},
#ifndef POLAR_NO_STDIO
    {"model file", try_model_file},
#endif
#ifndef POLAR_NO_TRAIN
    {"trainer", try_trainer}, {"menu", try_menu},
#endif
};

/* Whatever fails, the status says so, the message is there, and nothing is leaked. */
TEST(allocations) {
    FILE *f = fopen("build/test_hostile.gguf", "wb");
    model_file = fixture_small("llama", QUANT_F32, 3);
    CHECK(f && fwrite(model_file.data, 1, model_file.size, f) == model_file.size);
    if (f) fclose(f);
    CHECK(!polar_model_open_memory(&whole_model, model_file.data, model_file.size, NULL, NULL));
    for (int i = 0; i < COUNT(trials); i++) {
        int at = 0, done = 0;
        for (; at < 3000 && !done; at++) {
            counter c = {0, 0, 0, at};
            const polar_allocator a = {count_alloc, count_free, &c};
            polar_error e;
            polar_status status;
            err_clear(&e);
            status = trials[i].run(&a, &e);
            done = c.n <= at;
            if (c.live || (done ? status != POLAR_OK : status && (status != POLAR_MEMORY || !e.message[0]))) {
                printf("%s, allocation %d: status %d, \"%s\", %zu bytes leaked\n", trials[i].name, at, (int)status,
                       e.message, c.live);
                CHECK(0);
            }
        }
        CHECK(done && at > 1);
    }
    polar_model_close(whole_model);
    free(model_file.data);
    remove("build/test_hostile.gguf");
    remove("build/test_hostile_q.gguf");
    remove("build/test_hostile.state");
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(truncation), T(flipped_bits), T(layout_gaps), T(many_control_tokens), T(wrapping_products), T(no_width),
    T(allocations),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
