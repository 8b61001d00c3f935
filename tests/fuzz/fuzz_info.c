/* Fuzzer of `polar info`: it shows any file, for people and for machines, with all that it can list.
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_info.c tests/fuzz/mutate_gguf.c polar.c \
 *       -lm -lpthread
 * Start it with the files of tests/fuzz/make_corpus.c and -max_len=2000000. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdio.h>

static FILE *quiet; /* where messages go; what the fuzzer says is still seen */
#undef stderr
#define stderr quiet

#include "../../examples/cli/cli.c"
#include "../../examples/cli/same_file.c"
#include "../../examples/cli/json.c"
#include "../../examples/cli/model.c"
#include "../../examples/cli/info.c"

#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char path[64];
    char *options[2][4] = {{path, "--metadata", "--tensors", "--checksum"},
                           {path, "--metadata", "--tensors", "--json"}};
    FILE *f;
    if (!*path) {
        snprintf(path, sizeof path, "/tmp/fuzz_info-%d.gguf", (int)getpid());
        if (!freopen("/dev/null", "w", stdout) || !(quiet = fopen("/dev/null", "w"))) abort();
    }
    if (!(f = fopen(path, "wb"))) abort();
    if (fwrite(data, 1, size, f) != size || fclose(f)) abort();
    for (int i = 0; i < 2; i++) {
        cli c = {NULL, 4, options[i]};
        command_info(&c);
    }
    remove(path);
    return 0;
}
