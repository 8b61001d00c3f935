/* GGUF: real files, hostile files, writer and reader against each other. */
#include "../polar.c"
#include "test.h"
#include <time.h>

static const char *shared_path(const char *path) {
    static char full[512];
    snprintf(full, sizeof full, "%s/%s", getenv("POLAR_SHARED") ? getenv("POLAR_SHARED") : "../shared", path);
    return full;
}

TEST(real_files) {
    static const struct {
        const char *path;
        int n_kv, n_tensors, n_vocab;
    } files[] = {{"oracle/model_llama.gguf", 24, 57, 0},          {"oracle/model_qwen2moe.gguf", 27, 105, 0},
                 {"data/models/stories260K-f32.gguf", 21, 47, 512}, {"data/models/tinystories656K-f32.gguf", 22, 20, 2048},
                 {"data/tokenizer/llama3-vocab.gguf", 12, 0, 128256}, {"data/tokenizer/qwen3-vocab.gguf", 13, 0, 151936}};
    for (int i = 0; i < COUNT(files); i++)
        for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
            gguf_file g;
            polar_error e = {0};
            FILE *f = test_shared(files[i].path);
            const gguf_kv *tokens;
            clock_t start = clock();
            if (!f) return;
            fclose(f);
            CHECK(gguf_open(&g, shared_path(files[i].path), no_mmap, NULL, NULL, NULL, &e) == POLAR_OK);
            CHECK_STR(e.message, "");
            if (e.status) continue;
            CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 0.1);
            CHECK((int)g.n_kv == files[i].n_kv && (int)g.n_tensors == files[i].n_tensors);
            if (files[i].n_vocab) {
                gguf_strings it;
                const char *s;
                size_t n, count = 0;
                CHECK(gguf_get_array(&g, "tokenizer.ggml.tokens", GGUF_STRING, &tokens, 1, &e) == POLAR_OK);
                CHECK((int)tokens->count == files[i].n_vocab);
                for (it = gguf_strings_begin(tokens); gguf_strings_next(&it, &s, &n);) count++;
                CHECK(count == tokens->count);
            }
            gguf_close(&g);
        }
}

static const test_case tests[] = {{"real_files", test_real_files}};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
