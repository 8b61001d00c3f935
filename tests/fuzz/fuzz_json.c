/* Fuzzer of JSON and decimal numbers: what is accepted is copied value by value; the copy of the copy must be
 * the same.
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_json.c -lm -lpthread */
#include "../../polar.c"
#include "../json_more.h"

static polar_allocator allocator;

static void require(int condition) {
    if (!condition) abort();
}

static void copy_value(json_writer *w, json v) {
    buf text = {&allocator, NULL, 0, 0, 0};
    json_type kind = json_kind(v);
    int64_t n;
    double x;
    if (kind == JSON_ARRAY || kind == JSON_OBJECT) {
        json_open(w, *v.at);
        for (json_iterator it = json_members(v); json_next(&it);) {
            if (kind == JSON_OBJECT) {
                text.length = 0;
                buf_put_json_text(&text, it.key);
                json_put_string(w, text.at, text.length);
                buf_put(w->out, ":", 1);
                w->comma = 0;
            }
            copy_value(w, it.value);
        }
        json_close(w, v.end[-1]);
    } else if (kind == JSON_STRING) {
        buf_put_json_text(&text, v);
        json_put_string(w, text.at, text.length);
        require(text.length <= json_text_bytes(v));
    } else if (json_int(v, &n, INT64_MIN, INT64_MAX)) json_put_i64(w, n);
    else if (json_double(v, &x)) json_put_double(w, x);
    else if (kind == JSON_BOOL) json_put_bool(w, json_bool(v));
    else json_put_raw(w, "null", 4);
    buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    buf one, two;
    json_writer w;
    json v;
    double x, strict;
    char *text = malloc(size + 1); /* NUL-terminated for strtod, which reads more forms than the library */
    allocator = mem_allocator(NULL);
    memcpy(text, data, size);
    text[size] = 0;
    if (num_parse_double(text, size, &x) && !memchr(text, 'x', size) && !memchr(text, 'X', size)) {
        strict = strtod(text, NULL);
        require(!memcmp(&x, &strict, sizeof x));
    }
    one = two = (buf){&allocator, NULL, 0, 0, 0};
    if (!json_parse(&v, (const char *)data, size, "fuzz", NULL)) {
        w = (json_writer){&one, 0};
        copy_value(&w, v);
        require(!json_parse(&v, one.at, one.length, "copy", NULL));
        w = (json_writer){&two, 0};
        copy_value(&w, v);
        require(one.length == two.length && !memcmp(one.at, two.at, one.length));
    }
    buf_free(&one);
    buf_free(&two);
    free(text);
    return 0;
}
