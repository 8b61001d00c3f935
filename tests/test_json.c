/* examples/cli/json.c: hand-made, broken and real texts. */
#include "fuzz/fuzz_json.c"
#include "test.h"

static uint64_t next(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int is_text(const json *v, const char *expected, size_t n) {
    return v->type == JSON_STRING && v->length == n && !memcmp(v->text, expected, n + 1);
}

static const json *element(const json *v, int i) {
    for (v = v->child; v && i > 0; i--) v = v->next;
    return v;
}

TEST(strings) {
    static const char text[] =
        "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\", \"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\", \"\\ud83dx\\ude00\\ud83d\\u0041\","
        "\"\\u0000z\", \"\", \"caf\xC3\xA9\"]";
    const char *error;
    size_t at;
    json_document *d = json_read(text, sizeof text - 1, &error, &at);
    const json *v;
    CHECK(d != NULL);
    if (!d) return;
    v = json_root(d);
    CHECK(v->length == 6 && is_text(element(v, 0), "\"\\/\b\f\n\r\t", 8));
    CHECK(is_text(element(v, 1), "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 10));
    CHECK(is_text(element(v, 2), "\xEF\xBF\xBDx\xEF\xBF\xBD\xEF\xBF\xBD" "A", 11));
    CHECK(is_text(element(v, 3), "\0z", 2) && is_text(element(v, 4), "", 0));
    CHECK(is_text(element(v, 5), "caf\xC3\xA9", 5));
    json_free(d);
}

TEST(errors) {
    static const struct {
        const char *text, *message;
        size_t at;
    } cases[] = {{"", "a value is expected, and the text ends", 0},
                 {"[1,\n2,,3]", "a value is expected", 6},
                 {"[1 2]", "',' or ']' is expected", 3},
                 {"{\"a\" 1}", "':' is expected after a name", 5},
                 {"{a:1}", "a name in quotes is expected", 1},
                 {"{\"a\":1", "',' or '}' is expected", 6},
                 {"\"a", "a string does not end", 1},
                 {"\"\\x\"", "unknown escape in a string", 3},
                 {"\"\\u12g4\"", "\\u needs four hexadecimal digits", 5},
                 {"01", "something follows the value", 1},
                 {"1.", "a digit is expected after the point", 2},
                 {"1e", "a digit is expected in the exponent", 2},
                 {"1\n2", "something follows the value", 2},
                 {"\"\x01\"", "control character in a string", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *error = "";
        size_t at = 99;
        json_document *d = json_read(cases[i].text, strlen(cases[i].text), &error, &at);
        CHECK(!d && at == cases[i].at);
        CHECK_STR(error, cases[i].message);
        json_free(d);
    }
}

/* Every prefix of a text is refused, and read only as far as it goes (exact copies, for the sanitizer). */
TEST(truncation) {
    const char *text = "{\"a\\u00e9\":[1.5e-3,true,null,\"\\ud83d\\ude00\\n\"],\"b\":{\"c\":-2}}";
    for (size_t n = 0; n < strlen(text); n++) {
        char *copy = malloc(n + 1);
        const char *error;
        size_t at;
        memcpy(copy, text, n);
        copy[n] = '"'; /* must not be seen */
        CHECK(!json_read(copy, n, &error, &at) && at <= n);
        free(copy);
        copy = malloc(n ? n : 1);
        memcpy(copy, text, n);
        CHECK(!json_read(copy, n, &error, &at));
        free(copy);
    }
}

/* Random bytes written as a string come back as they were, but for what was not UTF-8. */
TEST(string_round_trip) {
    uint64_t state = 4;
    FILE *f = tmpfile();
    CHECK(f != NULL);
    for (int i = 0, n_random = test_repeat(3000); f && i < n_random; i++) {
        char s[24], expected[3 * sizeof s + 1], text[200];
        size_t n = (size_t)(next(&state) % sizeof s), k = 0, m = 0, length, at;
        const char *error;
        json_document *d;
        for (size_t j = 0; j < n; j++) s[j] = (char)(next(&state) >> (i % 3 ? 57 : 56));
        if (i % 5 == 0) {
            for (n = 0; n + 4 <= sizeof s;) n = (size_t)(put_utf8(s + n, (unsigned)(next(&state) % 0x110000)) - s);
        }
        while (k < n) {
            const size_t one = utf8_bytes((const unsigned char *)s + k, n - k);
            memcpy(expected + m, one ? s + k : "\xEF\xBF\xBD", one ? one : 3);
            m += one ? one : 3;
            k += one ? one : 1;
        }
        expected[m] = 0;
        rewind(f);
        json_put_string(f, s, n);
        length = (size_t)ftell(f);
        rewind(f);
        CHECK(length < sizeof text && fread(text, 1, length, f) == length);
        d = json_read(text, length, &error, &at);
        CHECK(d && is_text(json_root(d), expected, m));
        json_free(d);
    }
    if (f) fclose(f);
}

TEST(shared_files) {
    static const char *const files[] = {"oracle/cases_llama.json", "oracle/predictor.json", "oracle/train.json",
                                        "data/repolar/sample_qwen3_8b_dart_math_diff1.part.json"};
    for (int i = 0; i < 4; i++) {
        size_t n, length = 0, again = 0;
        char *text = test_shared_text(files[i], &n), *one, *two;
        if (!text) return;
        one = copy_text(text, n, &length);
        two = one ? copy_text(one, length, &again) : NULL;
        CHECK(two && length == again && length && !memcmp(one, two, length));
        free(text);
        free(one);
        free(two);
    }
}

/* Broken texts: never a read outside, and what is accepted can be walked. */
TEST(mutations) {
    static const char text[] =
        "{\"question\":\"x\\u00e9 \\\"y\\\"\",\"paths\":[[0,1,2],[0,-1.5e3]],\"ok\":true,\"s\":{\"n\":null}}";
    uint64_t state = 5;
    int accepted = 0;
    for (int i = 0, n_random = test_repeat(20000); i < n_random; i++) {
        const size_t n = sizeof text - 1;
        size_t length;
        char *copy = malloc(n), *again;
        memcpy(copy, text, n);
        for (int k = (int)(next(&state) % 3); k >= 0; k--)
            copy[next(&state) % n] = i % 2 ? (char)next(&state) : "{}[],:\"\\0e-tn "[next(&state) % 14];
        again = copy_text(copy, n, &length);
        accepted += again != NULL;
        free(again);
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
    const size_t lines = n / strlen(supervision), line = sizeof supervision - 1;
    char *text = malloc(lines * line + 32);
    const char *error;
    size_t length = 12, sum = 0, at;
    json_document *d;
    (void)context;
    memcpy(text, "{\"samples\":[", 12);
    for (size_t i = 0; i < lines; i++, length += line) memcpy(text + length, supervision, line);
    memcpy(text + length - 2, "]}", 2);
    d = json_read(text, length, &error, &at);
    CHECK(d != NULL);
    for (const json *v = d ? json_get(json_root(d), "samples")->child : NULL; v; v = v->next) {
        CHECK(json_get_text(v, "question") != NULL);
        for (const json *path = json_get(v, "final_valid_transitions")->child; path; path = path->next)
            for (const json *x = path->child; x; x = x->next) sum += (size_t)x->number;
    }
    CHECK(sum == lines * (120 + 75));
    json_free(d);
    free(text);
}

TEST(linear_time) {
    CHECK(test_linear(read_supervision, NULL, (size_t)test_repeat(5000000)));
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(strings), T(errors), T(truncation), T(string_round_trip), T(shared_files), T(mutations), T(linear_time),
};

int main(int argc, char **argv) {
    return test_main(tests, sizeof tests / sizeof *tests, argc, argv);
}
