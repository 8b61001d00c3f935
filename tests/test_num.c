/* [num]: numbers as text, against the C library. */
#include "inside.h"
#include "test.h"

static const char *put_double(double x) {
    static char at[64];
    text_buffer t = {at, sizeof at, 0};
    text_put_number(&t, x, 0);
    return at;
}

static const char *put_float(float x) {
    static char at[64];
    text_buffer t = {at, sizeof at, 0};
    text_put_number(&t, (double)x, 1);
    return at;
}

/* Digits of a number as written, without zeros at its ends. */
static int significant(const char *s) {
    int n = 0, last = 0;
    for (; *s && *s != 'e'; s++) {
        n += *s >= '0' && *s <= '9' && (n || *s > '0');
        if (*s >= '1' && *s <= '9') last = n;
    }
    return last;
}

/* Reads back as the same if 15 digits suffice for that, else as near as 15 digits are; with no more than are needed. */
static void check_double(double x) {
    char s[64], shortest[64];
    double back;
    int precision = 0;
    strcpy(s, put_double(x));
    back = strtod(s, NULL);
    do snprintf(shortest, sizeof shortest, "%.*e", precision, x);
    while (strtod(shortest, NULL) != x && ++precision < 15);
    if (precision < 14) CHECK(f64_bits(back) == f64_bits(x));
    CHECK(fabs(back - x) <= fabs(x) * 5.1e-15 + 5e-324 && significant(s) <= MIN(precision + 1, 15));
}

TEST(print_doubles) {
    uint64_t state = 2;
    static const struct {
        double x;
        const char *text;
    } cases[] = {{0, "0"},
                 {-0.0, "-0"},
                 {1, "1"},
                 {-2.5, "-2.5"},
                 {0.1, "0.1"},
                 {100, "100"},
                 {1e15, "1000000000000000"},
                 {1e16, "1e16"},
                 {0.0001, "0.0001"},
                 {0.00001, "1e-5"},
                 {1.5e-7, "1.5e-7"},
                 {123456.789, "123456.789"},
                 {1e23, "1e23"},
                 {9007199254740993.0, "9007199254740990"},
                 {5e-324, "5e-324"},
                 {5.684341886080802e-14, "5.6843418860808e-14"},
                 {1.79769313486231e308, "1.79769313486231e308"},
                 {2.2250738585072014e-308, "2.2250738585072e-308"},
                 {2e-44, "2e-44"},
                 {9.5, "9.5"},
                 {0.3, "0.3"},
                 {0.1 + 0.2, "0.3"}};
    for (int i = 0; i < COUNT(cases); i++) CHECK_STR(put_double(cases[i].x), cases[i].text);
    CHECK_STR(put_double(bits_f64(0x7ff0000000000000u)), "inf");
    CHECK_STR(put_double(bits_f64(0xfff0000000000000u)), "-inf");
    CHECK_STR(put_double(bits_f64(0x7ff8000000000000u)), "nan");
    for (int i = 0, n_random = test_repeat(20000); i < n_random; i++) {
        double x = bits_f64(rng_next(&state));
        if (x - x == 0) check_double(x);
        check_double((double)(int64_t)rng_next(&state) / 1048576);
        check_double((double)rng_float(&state));
    }
    for (int e = -1074; e < 1024;
         e += 2098 / test_repeat(2098)) { /* powers of two and their neighbours: gaps of unequal width */
        double x = ldexp(1, e);
        check_double(x);
        check_double(bits_f64(f64_bits(x) - 1));
        check_double(bits_f64(f64_bits(x) + 1));
    }
}

TEST(print_floats) {
    uint64_t state = 3;
    CHECK_STR(put_float(0.1f), "0.1");
    CHECK_STR(put_float(16777216.0f), "16777216");
    CHECK_STR(put_float(3.4028235e38f), "3.4028235e38");
    CHECK_STR(put_float(1e-45f), "1e-45");
    for (int i = 0, n_random = test_repeat(200000); i < n_random; i++) {
        float x = bits_f32((uint32_t)rng_next(&state));
        const char *s = put_float(x);
        if (x - x != 0) continue;
        CHECK(f32_bits(strtof(s, NULL)) == f32_bits(x) && significant(s) <= 9);
    }
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(print_doubles), T(print_floats),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
