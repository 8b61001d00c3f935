/* Fuzzer of examples/cli/json.c: what is accepted is copied value by value; the copy of the copy must be the same.
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_json.c */
#include "../../examples/cli/json.c"

static void copy_value(FILE *f, const json *v) {
    if (v->type == JSON_NULL) fputs("null", f);
    if (v->type == JSON_FALSE || v->type == JSON_TRUE) fputs(v->type == JSON_TRUE ? "true" : "false", f);
    if (v->type == JSON_NUMBER) json_put_double(f, v->number);
    if (v->type == JSON_STRING) json_put_string(f, v->text, v->length);
    if (v->type != JSON_ARRAY && v->type != JSON_OBJECT) return;
    fputc(v->type == JSON_ARRAY ? '[' : '{', f);
    for (const json *x = v->child; x; x = x->next) {
        if (x != v->child) fputc(',', f);
        if (x->key) {
            json_put_text(f, x->key);
            fputc(':', f);
        }
        copy_value(f, x);
    }
    fputc(v->type == JSON_ARRAY ? ']' : '}', f);
}

/* The copy of a text, to be freed, NUL-terminated; NULL if it is not accepted. */
static char *copy_text(const char *text, size_t n, size_t *length) {
    static FILE *f;
    const char *error;
    char *copy;
    size_t at;
    json_document *d = json_read(text, n, &error, &at);
    if (!d) {
        if (!error || at > n) abort();
        return NULL;
    }
    if (!f && !(f = tmpfile())) abort();
    rewind(f);
    copy_value(f, json_root(d));
    json_free(d);
    *length = (size_t)ftell(f);
    rewind(f);
    if (!(copy = malloc(*length + 1)) || fread(copy, 1, *length, f) != *length) abort();
    copy[*length] = 0;
    return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t n = 0, m = 0;
    char *one = copy_text((const char *)data, size, &n), *two = one ? copy_text(one, n, &m) : NULL;
    if (one && (!two || n != m || memcmp(one, two, n))) abort();
    free(one);
    free(two);
    return 0;
}
