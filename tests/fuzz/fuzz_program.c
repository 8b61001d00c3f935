/* Fuzzer of the text and path forms of programs. It uses the API only:
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_program.c polar.c -lm -lpthread
 * tests/test_prog.c runs it over random input. */
#include "polar.h"

#include <stdlib.h>
#include <string.h>

static void require(int condition) {
    if (!condition) abort();
}

/* What a program that was accepted must fulfil. */
static void check_program(const polar_program *p) {
    static int path[POLAR_MAX_CALLS];
    char text[8192], strip[POLAR_MAX_LAYER + 1];
    polar_program q;
    int n = polar_program_calls(p, path, POLAR_MAX_CALLS);
    require(!polar_program_validate(p, p->n_layer, NULL));
    require(n >= 1 && n <= POLAR_MAX_CALLS && n == polar_program_length(p));
    require(polar_program_format(p, text, sizeof text) < sizeof text);
    require(!polar_program_parse(&q, p->n_layer, text, NULL) && !memcmp(p, &q, sizeof q));
    require(polar_program_strip(p, strip, sizeof strip) == (size_t)p->n_layer);
    require(!polar_program_from_path(&q, p->n_layer, path, n, POLAR_MAX_LAYER, POLAR_MAX_CALLS, NULL));
    require(polar_program_equal(p, &q));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    polar_error error;
    polar_program p;
    int path[POLAR_MAX_CALLS] = {0}, n = 0;
    char *text;
    if (size < 3) return 0;
    if ((text = malloc(size - 2))) {
        memcpy(text, data + 3, size - 3);
        text[size - 3] = 0;
        if (!polar_program_parse(&p, data[0] + 1, text, &error)) check_program(&p);
        else require(error.status != POLAR_OK && error.message[0]);
        free(text);
    }
    for (size_t i = 3; i < size && n < POLAR_MAX_CALLS; i++) path[n++] = (int8_t)data[i];
    if (!polar_program_from_path(&p, data[0] + 1, path, n, data[1] % 8, data[2] % 8, &error)) {
        if (n) check_program(&p);
        else require(polar_program_length(&p) == 0);
    }
    return 0;
}
