/* Writes small models for fuzzers to start from: make_corpus DIRECTORY [FIRST]. With FIRST, a number, each file starts
 * with that byte, as fuzz_model wants it. */
#include "../inside.h"

#include <stdio.h>

#include "../fixture.h"

int main(int argc, char **argv) {
    static const char *const archs_of[] = {"llama", "qwen2", "qwen3", "qwen2moe"};
    static const int types[] = {QUANT_Q4_0, QUANT_F16, QUANT_F32, QUANT_Q8_0};
    if (argc < 2) {
        fprintf(stderr, "usage: make_corpus DIRECTORY [FIRST]\n");
        return 2;
    }
    for (int i = 0; i < COUNT(archs_of); i++) {
        fixture f = fixture_small(archs_of[i], types[i], 1);
        char path[512];
        FILE *out;
        int ok;
        snprintf(path, sizeof path, "%s/%s.gguf", argv[1], archs_of[i]);
        if (!(out = fopen(path, "wb"))) return 1;
        if (argc > 2) putc(atoi(argv[2]), out);
        ok = fwrite(f.data, 1, f.size, out) == f.size;
        free(f.data);
        if (fclose(out) || !ok) return 1;
    }
    return 0;
}
