/* Fuzzer of the answer reader: extraction from any bytes, and equality of any two texts. It uses its functions only:
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_answer.c -lm
 * The two texts are divided by the first newline. tests/test_answer.c runs it over mutated answers. */
#include <stdlib.h>

static int fuzz_refuse; /* the next block is not there */

static void *fuzz_malloc(size_t size) {
    return fuzz_refuse ? NULL : malloc(size);
}

#define ANSWER_MALLOC fuzz_malloc
#include "../../examples/answer/answer.c"

static void require(int condition) {
    if (!condition) abort();
}

static int equal(const char *a, size_t n, const char *b, size_t m, int flags) {
    const int result = answer_equal(a, n, b, m, flags);
    require(result == 0 || result == 1);
    return result;
}

static void check_span(polar_span s, const char *text, size_t size) {
    require(s.text >= text && s.text + s.length <= text + size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    const char *line = size ? memchr(text, '\n', size) : NULL;
    size_t n = line ? (size_t)(line - text) : size / 2, m = size - n - (line != NULL);
    char *a = malloc(n + 1), *b = malloc(m + 1), *all = malloc(size + 1);
    int first, again;
    if (a && b && all && size) {
        memcpy(a, text, n); /* blocks of the exact size: reading past them is seen */
        memcpy(b, text + size - m, m);
        memcpy(all, text, size);
        a = realloc(a, n ? n : 1);
        b = realloc(b, m ? m : 1);
        check_span(answer_extract(all, size), all, size);
        check_span(answer_reference(all, size), all, size);
        answer_flags(all, size);
        first = equal(a, n, b, m, 0);
        again = equal(a, n, b, m, 0);
        require(first == again);
        equal(b, m, a, n, ANSWER_SETS);
        equal(a, n, a, n, 0);
    }
    free(a);
    free(b);
    free(all);
    return 0;
}
