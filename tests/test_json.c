/* Decimal numbers and JSON: numbers against the C library, JSON against hand-made and broken texts. */
#include "fuzz/fuzz_json.c"
#include "test.h"

/* --- decimal numbers */

static const char *put_double(double x) {
    static char at[64];
    text t = {at, sizeof at, 0};
    text_put_double(&t, x);
    return at;
}

static const char *put_float(float x) {
    static char at[64];
    text t = {at, sizeof at, 0};
    text_put_float(&t, x);
    return at;
}

static void check_parse(const char *s) {
    double d = 7;
    float f = 7;
    size_t n = strlen(s);
    CHECK(num_parse_double(s, n, &d) == n && num_parse_float(s, n, &f) == n);
    CHECK(f64_bits(d) == f64_bits(strtod(s, NULL)) && f32_bits(f) == f32_bits(strtof(s, NULL)));
    if (test_failures == 1) printf("%.60s (%zu bytes)\n", s, n);
}

TEST(parse_numbers) {
    static const char *const cases[] = {"0",
                                        "-0",
                                        "1",
                                        "-1.5",
                                        "+3",
                                        "0.1",
                                        "1e22",
                                        "1e23",
                                        "9007199254740993",
                                        "9007199254740992.5",
                                        "123456789012345678",
                                        "1234567890123456789",
                                        "4.9e-324",
                                        "2.4703282292062327208e-324",
                                        "2.4703282292062328e-324",
                                        "2.2250738585072011e-308",
                                        "2.2250738585072014e-308",
                                        "1.7976931348623157e308",
                                        "1.7976931348623158e308",
                                        "1.7976931348623159e308",
                                        "1e309",
                                        "1e-400",
                                        "1e999999999999999999999",
                                        "1e-999999999999999999999",
                                        "0e999999999999999",
                                        "0.000000000000000000000000001",
                                        "3.4028235677973366e38",
                                        "3.4028235677973365e38",
                                        "1.401298464324817e-45",
                                        "7.006492321624085e-46",
                                        "7.0064923216240854e-46",
                                        "8.5899345920000005e9",
                                        "16777217",
                                        "16777216.9999999999999999999999999999",
                                        "16777217.0000000000000000000000000001",
                                        ".5",
                                        "5.",
                                        "1.e5",
                                        "00012",
                                        "6.0221409e+23",
                                        "5e-324",
                                        "0.30000000000000004"};
    char s[1400];
    for (int i = 0; i < COUNT(cases); i++) check_parse(cases[i]);
    for (int zeros = 0; zeros < 1200; zeros += 37) { /* a tie, broken or not by a digit far behind */
        memset(s, '0', sizeof s);
        memcpy(s, "9007199254740993.", 17);
        s[17 + zeros] = zeros % 2 ? '0' : '1';
        s[18 + zeros] = 0;
        check_parse(s);
    }
    memset(s, '9', 1300);
    strcpy(s + 1300, "e-1300");
    check_parse(s);
    /* 2^-1074 / 2 has 751 digits: exactly a tie, and just above it */
    snprintf(s, sizeof s, "%.1074f", ldexp(1, -1074) * 3); /* an exact multiple of the smallest */
    check_parse(s);
}

TEST(parse_prefix) {
    double x = 5;
    int64_t n = 5;
    CHECK(num_parse_double("12abc", 5, &x) == 2 && x == 12);
    CHECK(num_parse_double("1e+", 3, &x) == 1 && x == 1);
    CHECK(num_parse_double("1.2.3", 5, &x) == 3 && x == 1.2);
    CHECK(num_parse_double("123", 2, &x) == 2 && x == 12);
    CHECK(!num_parse_double("", 0, &x) && !num_parse_double("-", 1, &x) && !num_parse_double(".", 1, &x));
    CHECK(!num_parse_double("e5", 2, &x) && !num_parse_double("nan", 3, &x));
    CHECK(num_parse_i64("-9223372036854775808", 20, &n) == 20 && n == INT64_MIN);
    CHECK(num_parse_i64("9223372036854775807", 19, &n) == 19 && n == INT64_MAX);
    CHECK(!num_parse_i64("9223372036854775808", 19, &n) && !num_parse_i64("-", 1, &n) && !num_parse_i64("", 0, &n));
}

TEST(random_decimals) {
    uint64_t state = 1;
    char s[80];
    for (int i = 0, n_random = test_repeat(100000); i < n_random; i++) {
        int digits = 1 + (int)(rng_next(&state) % 30), at = 0, point = (int)(rng_next(&state) % 30);
        for (int k = 0; k < digits; k++) {
            if (k == point && k) s[at++] = '.';
            s[at++] = (char)('0' + rng_next(&state) % 10);
        }
        snprintf(s + at, sizeof s - (size_t)at, "e%d",
                 (int)(rng_next(&state) % (i % 2 ? 60 : 700)) - (i % 2 ? 40 : 350));
        check_parse(s);
    }
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

/* Reads back as the same, and is not longer than the shortest that printf has. */
static void check_double(double x) {
    char s[64], shortest[64];
    double back = 0;
    int precision = 0;
    strcpy(s, put_double(x));
    CHECK(num_parse_double(s, strlen(s), &back) == strlen(s));
    CHECK(f64_bits(back) == f64_bits(x) && f64_bits(strtod(s, NULL)) == f64_bits(x));
    do snprintf(shortest, sizeof shortest, "%.*e", precision, x);
    while (strtod(shortest, NULL) != x && precision++ < 17);
    CHECK(significant(s) <= precision + 1);
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
                 {9007199254740993.0, "9007199254740992"},
                 {5e-324, "5e-324"},
                 {5.684341886080802e-14, "5.684341886080802e-14"},
                 {1.7976931348623157e308, "1.7976931348623157e308"},
                 {2.2250738585072014e-308, "2.2250738585072014e-308"},
                 {2e-44, "2e-44"},
                 {9.5, "9.5"},
                 {0.3, "0.3"},
                 {0.1 + 0.2, "0.30000000000000004"}};
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
        float x = bits_f32((uint32_t)rng_next(&state)), back = 0;
        const char *s = put_float(x);
        if (x - x != 0) continue;
        CHECK(num_parse_float(s, strlen(s), &back) == strlen(s) && f32_bits(back) == f32_bits(x));
        CHECK(f32_bits(strtof(s, NULL)) == f32_bits(x) && significant(s) <= 9);
    }
}

/* --- JSON */

static json parse(const char *text) {
    json v = {NULL, NULL};
    polar_error e = {0};
    CHECK(json_parse(&v, text, strlen(text), "text", &e) == POLAR_OK);
    CHECK_STR(e.message, "");
    return v;
}

static int is_text(json v, const char *expected, size_t n) {
    char *at = malloc(json_text_bytes(v) + 1);
    size_t length = json_text(v, at);
    int same = length == n && length <= json_text_bytes(v) && !memcmp(at, expected, n);
    free(at);
    return same;
}

TEST(values) {
    const char *text =
        "\xEF\xBB\xBF { \"a\" : [1, -2.5e1 ,3.0,1e2, 99999999999] , \"b\":{\"c\":true,\"d\":null,\"e\":\"x\\\"}]\" },"
        "\"\\u0061b\":false, \"a\": 7, \"n\": [NaN, -Infinity], \"\":[] } ";
    json v = parse(text), a = json_get(v, "a"), b = json_get(v, "b"), first = json_at(a, 0);
    int64_t n = 0;
    double x = 0;
    float f = 0;
    CHECK(json_kind(v) == JSON_OBJECT && json_count(v) == 6 && json_count(a) == 5 && json_count(json_get(v, "")) == 0);
    CHECK(json_int(first, &n, 0, 9) && n == 1 && !json_int(first, &n, 2, 9));
    CHECK(json_int(json_at(a, 1), &n, -99, 0) && n == -25 && json_int(json_at(a, 3), &n, 0, 100) && n == 100);
    CHECK(json_int(json_at(a, 4), &n, 0, INT64_MAX) && n == 99999999999);
    CHECK(json_double(json_at(a, 1), &x) && x == -25 && json_float(json_at(a, 2), &f) && f == 3);
    CHECK(json_kind(json_at(a, 5)) == JSON_ABSENT && json_kind(json_get(a, "a")) == JSON_ABSENT);
    CHECK(json_bool(json_get(b, "c")) && json_kind(json_get(b, "d")) == JSON_NULL && !json_bool(json_get(b, "d")));
    CHECK(json_equals(json_get(b, "e"), "x\"}]") && !json_equals(json_get(b, "e"), "x\"}") && !json_equals(first, "1"));
    CHECK(!json_bool(json_get(v, "ab")) && json_kind(json_get(v, "ab")) == JSON_BOOL);
    CHECK(json_kind(json_at(json_get(v, "n"), 1)) == JSON_NULL && !json_double(json_at(json_get(v, "n"), 0), &x));
    CHECK(json_kind(json_get(json_get(v, "x"), "y")) == JSON_ABSENT);
}

TEST(strings) {
    json v = parse(
        "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\", \"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\", \"\\ud83dx\\ude00\\ud83d\\u0041\","
        "\"\\u0000z\", \"\", \"caf\xC3\xA9\"]");
    CHECK(is_text(json_at(v, 0), "\"\\/\b\f\n\r\t", 8));
    CHECK(is_text(json_at(v, 1), "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 10));
    CHECK(is_text(json_at(v, 2), "\xEF\xBF\xBDx\xEF\xBF\xBD\xEF\xBF\xBD" "A", 11));
    CHECK(is_text(json_at(v, 3), "\0z", 2) && !json_equals(json_at(v, 3), "") && json_equals(json_at(v, 4), ""));
    CHECK(json_equals(json_at(v, 5), "caf\xC3\xA9"));
}

TEST(errors) {
    static const struct {
        const char *text, *message;
    } cases[] = {{"", "t:1: the text ends, expected a value"},
                 {"[1,\n2,,3]", "t:2: found ',', expected a value"},
                 {"[1 2]", "t:1: found '2', expected ',' or ']'"},
                 {"{\"a\" 1}", "t:1: found '1', expected ':' after the key"},
                 {"{a:1}", "t:1: found 'a', expected a string"},
                 {"{\"a\":1", "t:1: the text ends, expected ',' or '}'"},
                 {"[1,]", "t:1: found ']', expected a value"},
                 {"{\"a\":1,}", "t:1: found '}', expected a string"},
                 {"\"a", "t:1: the text ends, expected the end of the string"},
                 {"\"\\x\"", "t:1: found 'x', expected one of \" \\ / b f n r t u after a backslash"},
                 {"\"\\u12g4\"", "t:1: found 'g', expected four hexadecimal digits"},
                 {"01", "t:1: found '1', expected the end of the line"},
                 {"1.", "t:1: the text ends, expected a digit"},
                 {"1e", "t:1: the text ends, expected a digit"},
                 {"-", "t:1: found '-', expected a value"},
                 {".5", "t:1: found '.', expected a value"},
                 {"nul", "t:1: found 'n', expected a value"},
                 {"1\n2", "t:2: found '2', expected the end of the text"},
                 {"\n\n]", "t:3: found ']', expected a value"},
                 {"\"\x01\"", "t:1: found byte 0x1, expected an escape: control characters cannot stand in strings"}};
    char deep[2 * JSON_MAX_DEPTH + 4];
    json v;
    for (int i = 0; i < COUNT(cases); i++) {
        polar_error e = {0};
        CHECK(json_parse(&v, cases[i].text, strlen(cases[i].text), "t", &e) == POLAR_FORMAT);
        CHECK_STR(e.message, cases[i].message);
    }
    for (int n = JSON_MAX_DEPTH; n <= JSON_MAX_DEPTH + 1; n++) {
        memset(deep, '[', (size_t)n);
        memset(deep + n, ']', (size_t)n);
        CHECK((json_parse(&v, deep, (size_t)(2 * n), "t", NULL) == POLAR_OK) == (n == JSON_MAX_DEPTH));
    }
    memset(deep, '[', sizeof deep);
    CHECK(json_parse(&v, deep, sizeof deep, "t", NULL) == POLAR_FORMAT);
}

/* Every prefix of a text is refused, and read only as far as it goes (exact copies, for the sanitizer). */
TEST(truncation) {
    const char *text = "{\"a\\u00e9\":[1.5e-3,true,null,\"\\ud83d\\ude00\\n\"],\"b\":{\"c\":-Infinity}}";
    for (size_t n = 0; n < strlen(text); n++) {
        char *copy = malloc(n + 1);
        json v;
        memcpy(copy, text, n);
        copy[n] = '"'; /* must not be seen */
        CHECK(json_parse(&v, copy, n, "t", NULL) == POLAR_FORMAT);
        free(copy);
    }
}

TEST(lines) {
    const char *text = "{\"a\":1}\n\n{\"a\":2}\r\n3\n{\"a\":";
    polar_error e = {0};
    json_reader r = json_begin(text, strlen(text), "x.jsonl", 1, &e);
    json v;
    CHECK(json_read(&r, &v) && r.line == 1);
    CHECK(json_read(&r, &v) && r.line == 3);
    CHECK(json_read(&r, &v) && r.line == 4 && json_kind(v) == JSON_NUMBER);
    CHECK(!json_read(&r, &v) && r.status == POLAR_FORMAT);
    CHECK_STR(e.message, "x.jsonl:5: the text ends, expected a value");
}

static buf new_buf(void) {
    buf b = {&allocator, NULL, 0, 0, 0};
    allocator = mem_allocator(NULL);
    return b;
}

TEST(writing) {
    buf b = new_buf();
    json_writer w = {&b, 0};
    const char *expected = "{\"a\":[1,-2.5,0.1,null,[],{}],\"b\\\"\":"
                           "\"\\\\\\n\\t\\r\\u0001\\u001f\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\x7f\",\"c\":true}\nfalse";
    json_open(&w, '{');
    json_key(&w, "a");
    json_open(&w, '[');
    json_put_i64(&w, 1);
    json_put_double(&w, -2.5);
    json_put_float(&w, 0.1f);
    json_put_double(&w, bits_f64(0x7ff0000000000000u));
    json_open(&w, '[');
    json_close(&w, ']');
    json_open(&w, '{');
    json_close(&w, '}');
    json_close(&w, ']');
    json_key(&w, "b\"");
    json_put_text(&w, "\\\n\t\r\x01\x1f\xC3\xA9\xFF\xED\x7f");
    json_key(&w, "c");
    json_put_bool(&w, 1);
    json_close(&w, '}');
    json_end_line(&w);
    json_put_bool(&w, 0);
    CHECK(!b.failed && b.length == strlen(expected) && !memcmp(b.at, expected, b.length));
    buf_free(&b);
}

/* Random bytes written as a string come back as they were, but for what was not UTF-8. */
TEST(string_round_trip) {
    uint64_t state = 4;
    for (int i = 0, n_random = test_repeat(3000); i < n_random; i++) {
        char s[24], expected[3 * sizeof s];
        size_t n = (size_t)(rng_next(&state) % sizeof s), k = 0, m = 0;
        buf b = new_buf();
        json_writer w = {&b, 0};
        json v;
        for (size_t j = 0; j < n; j++) s[j] = (char)(rng_next(&state) >> (i % 3 ? 57 : 56));
        if (i % 5 == 0)
            for (n = 0; n + 4 <= sizeof s;) n += (size_t)utf8_put(s + n, (uint32_t)(rng_next(&state) % 0x110000));
        while (k < n) {
            int length = utf8_length(s + k, n - k);
            memcpy(expected + m, length ? s + k : "\xEF\xBF\xBD", length ? (size_t)length : 3);
            m += length ? (size_t)length : 3;
            k += length ? (size_t)length : 1;
        }
        json_put_string(&w, s, n);
        CHECK(json_parse(&v, b.at, b.length, "t", NULL) == POLAR_OK && is_text(v, expected, m));
        buf_free(&b);
    }
}

static int copy_text(buf *out, const char *text, size_t n) {
    json v;
    json_writer w = {out, 0};
    if (json_parse(&v, text, n, "t", NULL)) return 0;
    copy_value(&w, v);
    return 1;
}

TEST(shared_files) {
    static const char *const files[] = {"oracle/cases_llama.json", "oracle/predictor.json", "oracle/train.json",
                                        "data/repolar/sample_qwen3_8b_dart_math_diff1.part.json"};
    for (int i = 0; i < COUNT(files); i++) {
        size_t n;
        char *text = test_shared_text(files[i], &n);
        buf one = new_buf(), two = new_buf();
        if (!text) return;
        CHECK(copy_text(&one, text, n) && copy_text(&two, one.at, one.length));
        CHECK(one.length == two.length && one.length && !memcmp(one.at, two.at, one.length));
        free(text);
        buf_free(&one);
        buf_free(&two);
    }
}

/* Broken texts: never a read outside, and what is accepted can be walked. */
TEST(mutations) {
    static const char text[] =
        "{\"question\":\"x\\u00e9 \\\"y\\\"\",\"paths\":[[0,1,2],[0,-1.5e3]],\"ok\":true,\"s\":{\"n\":null}}";
    uint64_t state = 5;
    int accepted = 0;
    for (int i = 0, n_random = test_repeat(20000); i < n_random; i++) {
        size_t n = sizeof text - 1;
        char *copy = malloc(n);
        buf b = new_buf();
        memcpy(copy, text, n);
        for (int k = (int)(rng_next(&state) % 3); k >= 0; k--)
            copy[rng_next(&state) % n] = i % 2 ? (char)rng_next(&state) : "{}[],:\"\\0e-tn "[rng_next(&state) % 14];
        accepted += copy_text(&b, copy, n);
        buf_free(&b);
        free(copy);
    }
    CHECK(accepted > test_repeat(100) && accepted < test_repeat(19000));
}

static const char supervision[] =
    "{\"question\":\"How many apples does Tom have if he starts with 12 and eats 5?\",\"gt_ans\":\"7\","
    "\"final_valid_transitions\":[[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15],[0,1,2,4,5,6,7,8,9,10,11,12]],"
    "\"sample_info\":{\"level\":3}},\n";

/* Reads so many bytes of such lines, and everything in them. */
static void read_supervision(void *context, size_t n) {
    const size_t lines = n / strlen(supervision);
    buf b = new_buf();
    json v;
    json_iterator it;
    int64_t sum = 0, layer;
    (void)context;
    buf_put(&b, "{\"samples\":[", 12);
    for (size_t i = 0; i < lines; i++) buf_put(&b, supervision, strlen(supervision));
    b.length -= 2;
    buf_put(&b, "]}", 2);
    CHECK(json_parse(&v, b.at, b.length, "t", NULL) == POLAR_OK);
    for (it = json_members(json_get(v, "samples")); json_next(&it);) {
        json_iterator path = json_members(json_get(it.value, "final_valid_transitions"));
        CHECK(json_kind(json_get(it.value, "question")) == JSON_STRING);
        while (json_next(&path))
            for (json_iterator at = json_members(path.value); json_next(&at);)
                sum += json_int(at.value, &layer, 0, 99) ? layer : 0;
    }
    CHECK((size_t)sum == lines * (120 + 75));
    buf_free(&b);
}

TEST(linear_time) {
    CHECK(test_linear(read_supervision, NULL, (size_t)test_repeat(5000000)));
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(parse_numbers), T(parse_prefix), T(random_decimals), T(print_doubles), T(print_floats), T(values), T(strings),
    T(errors), T(truncation), T(lines), T(writing), T(string_round_trip), T(shared_files), T(mutations), T(linear_time),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
