/* Fuzzer of the import of weights (safetensors, PyTorch) and of predictor files. It uses the API only:
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_import.c polar.c -lm -lpthread
 * tests/test_import.c changes files at random in the same way. */
#include "../../examples/cli/gguf_writer.c"
#include "../../examples/cli/import.c"
#include "../../examples/cli/json.c"

/* Nothing that a file says may take more memory than this. */
#define LIMIT ((size_t)1 << 30)

static size_t held;

static void *counting_alloc(void *user, size_t size) {
    (void)user;
    if (size > LIMIT - held) return NULL;
    held += size;
    return malloc(size);
}

static void counting_free(void *user, void *p, size_t size) {
    (void)user;
    held -= size;
    free(p);
}

static void use(polar_predictor *p) {
    polar_predictor_info info;
    polar_predictor_get_info(p, &info);
    if (info.q_dim <= 64 && info.n_layer <= 64 && info.d_model) {
        float features[64] = {1}, seg[64], op[192];
        polar_predictor_logits(p, features, 1, seg, op, NULL);
    }
    polar_predictor_close(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const polar_allocator a = {counting_alloc, counting_free, NULL};
    polar_predictor *p;
    polar_error error;
    if (!import_predictor(&p, "fuzz", data, size, 0, &error)) use(p);
    if (!polar_predictor_open_memory(&p, data, size, &a, &error)) use(p);
    if (held) abort();
    return 0;
}
