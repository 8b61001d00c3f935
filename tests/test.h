/* The test harness: CHECK, and a main that runs all tests of a file or those named on the command line.
 *
 *     #include "inside.h"
 *     #include "test.h"
 *     TEST(sum) { CHECK(1 + 1 == 2); }
 *     static const test_case tests[] = {{"sum", test_sum}};
 *     int main(int argc, char **argv) { return test_main(tests, 1, argc, argv); }
 *
 * A test that leaves something out, since a file or a program is not here, says so with SKIP and counts as skipped.
 * Every program ends with one line `N passed, N failed, N skipped`; exit status 1 if a test failed. */
#ifndef TEST_H
#define TEST_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int test_failures, test_skips; /* of the running test */

#define CHECK(cond) ((cond) ? (void)0 : (void)(test_failures++, test_fail(__FILE__, __LINE__, #cond)))
#define CHECK_BITS(a, b, n) CHECK(!memcmp(a, b, (n) * sizeof *(a)))
#define CHECK_STR(a, b) test_str(__FILE__, __LINE__, a, b)
/* SKIP(format, ...) says what is not here; the test goes on with what it can. */
#define SKIP(...) (test_skips++, printf("skipped: "), printf(__VA_ARGS__), printf("\n"))

static void test_fail(const char *file, int line, const char *what) {
    if (test_failures <= 10) printf("%s:%d: %s\n", file, line, what);
}

static void test_str(const char *file, int line, const char *a, const char *b) {
    if (!strcmp(a, b)) return;
    if (test_failures++ < 10) printf("%s:%d: found \"%s\", expected \"%s\"\n", file, line, a, b);
}

typedef struct test_case {
    const char *name;
    void (*run)(void);
} test_case;

/* One that no table lists is an unused function: an error from here on, whatever the flags. */
#ifdef __GNUC__
#define TEST(name) _Pragma("GCC diagnostic error \"-Wunused-function\"") static void test_##name(void)
#else
#define TEST(name) static void test_##name(void)
#endif

/* A file of tests/vectors, or one of ../shared, which users do not have: a test that needs it is skipped. */
static FILE *test_shared(const char *path) {
    const char *shared = getenv("POLAR_SHARED") ? getenv("POLAR_SHARED") : "../shared";
    char full[512];
    FILE *f;
    if (strncmp(path, "tests/", 6)) snprintf(full, sizeof full, "%s/%s", shared, path);
    else snprintf(full, sizeof full, "%s", path);
    if (!(f = fopen(full, "rb"))) SKIP("%s is not here", full);
    return f;
}

/* All of a file as text, to be freed, and closes it; NULL for NULL. */
static inline char *test_read(FILE *f, size_t *n) {
    char *text = NULL;
    long size;
    *n = 0;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    size = ftell(f);
    rewind(f);
    if (size >= 0 && (text = malloc((size_t)size + 1))) text[*n = fread(text, 1, (size_t)size, f)] = 0;
    fclose(f);
    return text;
}

/* Such a file as text, to be freed; NULL, and a line that says so, without it. */
static inline char *test_shared_text(const char *path, size_t *n) {
    return test_read(test_shared(path), n);
}

/* Under an emulator or a sanitizer, POLAR_TEST_QUICK in the environment asks for less of what takes long. */
static inline int test_quick(void) {
    return getenv("POLAR_TEST_QUICK") != NULL;
}

/* How often to repeat something random: n, or far less, but once. */
static inline int test_repeat(int n) {
    return !test_quick() ? n : n < 50 ? 1 : n / 50;
}

/* Whether what `body` does with n bytes takes time in proportion to them, and not to their square: 4 n take less than
 * 10 times as long as n, on any machine, in processor time, at the best of a few tries. */
static inline int test_linear(void (*body)(void *context, size_t n), void *context, size_t n) {
    double best[2] = {1e9, 1e9};
    for (int i = 0; i < 8 && (i < 2 || best[1] > 10 * best[0]); i++) {
        const clock_t start = clock();
        double seconds;
        body(context, i % 2 ? 4 * n : n);
        seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (seconds < best[i % 2]) best[i % 2] = seconds;
    }
    if (getenv("POLAR_TIMES")) printf("%zu bytes: %.4f s, four times as many: %.4f s\n", n, best[0], best[1]);
    return best[1] < 10 * best[0] + 0.02;
}

static int test_main(const test_case *tests, int n, int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    int passed = 0, failed = 0, skipped = 0;
    for (int i = 0; i < n; i++) {
        int wanted = argc < 2;
        for (int k = 1; k < argc; k++) wanted |= !strcmp(argv[k], tests[i].name);
        if (!wanted) continue;
        test_failures = test_skips = 0;
        tests[i].run();
        if (test_failures) printf("FAILED %s (%d)\n", tests[i].name, test_failures);
        test_failures ? failed++ : test_skips ? skipped++ : passed++;
        fflush(stdout);
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed > 0;
}
/* Bytes of the UTF-8 character at s, 0 if it is none: cut short, too long, a surrogate, past U+10FFFF. */
static inline int utf8_length(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    int length = !n ? 0 : p[0] < 0x80 ? 1 : p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : 0;
    if ((size_t)length > n) return 0;
    for (int i = 1; i < length; i++)
        if (p[i] >> 6 != 2) return 0;
    if (length >= 3 && ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F))) return 0;
    if (length >= 3 && ((p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))) return 0;
    return length;
}

#endif
