/* JSON, as json.h says: a reader into a tree and a writer. */
#include "json.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* --- memory: everything of a document lies in a few blocks --------------------------------------------- */

typedef struct block {
    struct block *next;
    size_t used, size;
} block;

struct json_document {
    block *blocks;
    const json *root;
};

/* Bytes aligned for a json, or NULL. */
static void *arena(json_document *d, size_t size) {
    block *b = d->blocks;
    void *p;
    size = (size + 15) / 16 * 16;
    if (!b || b->size - b->used < size) {
        size_t want = b ? b->size * 2 : 1024;
        if (want > (size_t)1 << 24) want = (size_t)1 << 24;
        if (want < size) want = size;
        if (!(b = malloc(sizeof *b + 16 + want))) return NULL;
        b->next = d->blocks;
        b->used = 0;
        b->size = want;
        d->blocks = b;
    }
    p = (char *)b + (sizeof *b + 15) / 16 * 16 + b->used;
    b->used += size;
    return p;
}

void json_free(json_document *d) {
    if (!d) return;
    for (block *b = d->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(d);
}

/* --- reading ------------------------------------------------------------------------------------------- */

#define MAX_DEPTH 256

typedef struct reader {
    const char *at, *end;
    const char *error;
    json_document *document;
    int depth;
} reader;

static int bad(reader *r, const char *error) {
    if (!r->error) r->error = error;
    return 0;
}

static int peek(const reader *r) {
    return r->at < r->end ? (unsigned char)*r->at : -1;
}

static void skip_space(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) r->at++;
}

static int is_digit(int c) {
    return c >= '0' && c <= '9';
}

/* Value of a hexadecimal digit, or -1. */
static int hex_value(int c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int read_hex4(reader *r, unsigned *code) {
    *code = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        int v = hex_value(peek(r));
        if (v < 0) return bad(r, "\\u needs four hexadecimal digits");
        *code = *code * 16 + (unsigned)v;
    }
    return 1;
}

static char *put_utf8(char *out, unsigned code) {
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
        *out++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *out++ = (char)(0xe0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    } else {
        *out++ = (char)(0xf0 | code >> 18);
        *out++ = (char)(0x80 | (code >> 12 & 63));
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    }
    return out;
}

/* After "\u": one code point. Halves of a surrogate pair that stand alone become U+FFFD. */
static int read_code(reader *r, unsigned *code) {
    unsigned low;
    if (!read_hex4(r, code)) return 0;
    if (*code < 0xd800 || *code > 0xdfff) return 1;
    if (*code < 0xdc00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u') {
        const char *before = r->at;
        r->at += 2;
        if (!read_hex4(r, &low)) return 0;
        if (low >= 0xdc00 && low <= 0xdfff) {
            *code = 0x10000 + ((*code - 0xd800) << 10 | (low - 0xdc00));
            return 1;
        }
        r->at = before;
    }
    *code = 0xfffd;
    return 1;
}

static int read_escape(reader *r, char **out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(r);
    const char *found = c > 0 ? strchr(from, c) : NULL;
    unsigned code;
    if (c < 0) return bad(r, "a string does not end");
    r->at++;
    if (found) {
        *(*out)++ = to[found - from];
        return 1;
    }
    if (c != 'u') return bad(r, "unknown escape in a string");
    if (!read_code(r, &code)) return 0;
    *out = put_utf8(*out, code);
    return 1;
}

/* At the opening quote. An escape is never shorter than what it stands for. */
static const char *read_string(reader *r, size_t *length) {
    const char *start = ++r->at, *s = start;
    char *text, *out;
    while (s < r->end && *s != '"') s += *s == '\\' && s + 1 < r->end ? 2 : 1;
    if (s >= r->end) return bad(r, "a string does not end"), NULL;
    if (!(text = out = arena(r->document, (size_t)(s - start) + 1))) return bad(r, "out of memory"), NULL;
    while (peek(r) != '"') {
        int c = peek(r);
        if (c < 32) return bad(r, "control character in a string"), NULL;
        r->at++;
        if (c != '\\') *out++ = (char)c;
        else if (!read_escape(r, &out)) return NULL;
    }
    r->at++;
    *out = 0;
    *length = (size_t)(out - text);
    return text;
}

static int read_number(reader *r, json *v) {
    const char *start = r->at;
    char *text;
    if (peek(r) == '-') r->at++;
    if (!is_digit(peek(r))) return bad(r, "a value is expected");
    if (peek(r) == '0') r->at++;
    else while (is_digit(peek(r))) r->at++;
    if (peek(r) == '.') {
        r->at++;
        if (!is_digit(peek(r))) return bad(r, "a digit is expected after the point");
        while (is_digit(peek(r))) r->at++;
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        if (!is_digit(peek(r))) return bad(r, "a digit is expected in the exponent");
        while (is_digit(peek(r))) r->at++;
    }
    v->type = JSON_NUMBER;
    v->length = (size_t)(r->at - start);
    if (!(text = arena(r->document, v->length + 1))) return bad(r, "out of memory");
    memcpy(text, start, v->length);
    text[v->length] = 0;
    v->text = text;
    v->number = strtod(text, NULL);
    return 1;
}

/* A word or a number. What JSON has no numbers for, and Python and others write all the same, is no value: null. */
static int read_word(reader *r, json *v) {
    static const char *const words[] = {"null", "false", "true", "NaN", "Infinity", "-Infinity"};
    for (int i = 0; i < 6; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(r->end - r->at) < n || memcmp(r->at, words[i], n)) continue;
        v->type = i < 3 ? (json_type)i : JSON_NULL;
        r->at += n;
        return 1;
    }
    return read_number(r, v);
}

static json *read_value(reader *r, const char *key);

/* Elements of an array or members of an object, after the opening bracket. */
static int read_items(reader *r, json *v, char close) {
    const json **link = &v->child;
    if (++r->depth > MAX_DEPTH) return bad(r, "nested too deeply");
    skip_space(r);
    if (peek(r) == close) {
        r->at++;
        r->depth--;
        return 1;
    }
    for (;;) {
        const char *key = NULL;
        size_t length;
        json *item;
        skip_space(r);
        if (close == '}') {
            if (peek(r) != '"') return bad(r, "a name in quotes is expected");
            if (!(key = read_string(r, &length))) return 0;
            skip_space(r);
            if (peek(r) != ':') return bad(r, "':' is expected after a name");
            r->at++;
        }
        if (!(item = read_value(r, key))) return 0;
        *link = item;
        link = &item->next;
        v->length++;
        skip_space(r);
        if (peek(r) == close) break;
        if (peek(r) != ',') return bad(r, close == '}' ? "',' or '}' is expected" : "',' or ']' is expected");
        r->at++;
    }
    r->at++;
    r->depth--;
    return 1;
}

static json *read_value(reader *r, const char *key) {
    json *v = arena(r->document, sizeof *v);
    int c, ok;
    if (!v) return bad(r, "out of memory"), NULL;
    memset(v, 0, sizeof *v);
    v->key = key;
    skip_space(r);
    c = peek(r);
    if (c == '"') {
        v->type = JSON_STRING;
        ok = (v->text = read_string(r, &v->length)) != NULL;
    } else if (c == '[' || c == '{') {
        v->type = c == '[' ? JSON_ARRAY : JSON_OBJECT;
        r->at++;
        ok = read_items(r, v, c == '[' ? ']' : '}');
    } else if (c < 0) {
        ok = bad(r, "a value is expected, and the text ends");
    } else {
        ok = read_word(r, v);
    }
    return ok ? v : NULL;
}

json_document *json_read(const char *text, size_t length, const char **error, size_t *at) {
    reader r = {text, text + length, NULL, calloc(1, sizeof(json_document)), 0};
    if (!r.document) {
        *error = "out of memory";
        *at = 0;
        return NULL;
    }
    if (length >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) r.at += 3; /* a byte order mark */
    r.document->root = read_value(&r, NULL);
    skip_space(&r);
    if (!r.error && r.at < r.end) bad(&r, "something follows the value");
    if (!r.error) return r.document;
    *error = r.error;
    *at = (size_t)(r.at - text);
    json_free(r.document);
    return NULL;
}

const json *json_root(const json_document *document) {
    return document->root;
}

const json *json_get(const json *object, const char *key) {
    if (!object || object->type != JSON_OBJECT) return NULL;
    for (const json *m = object->child; m; m = m->next)
        if (!strcmp(m->key, key)) return m;
    return NULL;
}

const char *json_get_text(const json *object, const char *key) {
    const json *v = json_get(object, key);
    return v && v->type == JSON_STRING ? v->text : NULL;
}

int json_int(const json *v, int *number) {
    if (!v || v->type != JSON_NUMBER || !(v->number >= INT_MIN && v->number <= INT_MAX)) return 0;
    if (v->number != (double)(int)v->number) return 0;
    *number = (int)v->number;
    return 1;
}

int json_u64(const json *v, uint64_t *number) {
    uint64_t n = 0;
    if (!v || v->type != JSON_NUMBER) return 0;
    for (const char *s = v->text; *s; s++) {
        unsigned digit = (unsigned)(*s - '0');
        if (!is_digit(*s) || n > (UINT64_MAX - digit) / 10) return 0;
        n = n * 10 + digit;
    }
    *number = n;
    return 1;
}

int32_t *json_ints(const json *array, size_t *n) {
    int32_t *values;
    size_t i = 0;
    if (!array || array->type != JSON_ARRAY || array->length > SIZE_MAX / sizeof *values - 1) return NULL;
    if (!(values = malloc((array->length + 1) * sizeof *values))) return NULL;
    for (const json *v = array->child; v; v = v->next) {
        int number;
        if (!json_int(v, &number)) {
            free(values);
            return NULL;
        }
        values[i++] = number;
    }
    *n = i;
    return values;
}

/* --- writing ------------------------------------------------------------------------------------------- */

/* Bytes of the UTF-8 character at s, 0 if there is none: cut, overlong, a surrogate, beyond U+10FFFF. */
static size_t utf8_bytes(const unsigned char *s, size_t n) {
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if ((s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4 || length > n) return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)) return 0;
    if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0;
    return length;
}

void json_put_string(FILE *f, const char *text, size_t length) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const unsigned char *s = (const unsigned char *)text;
    fputc('"', f);
    for (size_t i = 0; i < length;) {
        size_t n = utf8_bytes(s + i, length - i);
        const char *escape = s[i] ? strchr(from, s[i]) : NULL;
        if (escape) fprintf(f, "\\%c", to[escape - from]);
        else if (s[i] < 32) fprintf(f, "\\u%04x", s[i]);
        else if (n) fwrite(s + i, 1, n, f);
        else fputs("\xef\xbf\xbd", f);
        i += n ? n : 1;
    }
    fputc('"', f);
}

void json_put_text(FILE *f, const char *text) {
    json_put_string(f, text, strlen(text));
}

void json_put_double(FILE *f, double x) {
    char text[40] = "null";
    if (x - x == 0)
        for (int digits = 1; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, x);
            if (strtod(text, NULL) == x) break;
        }
    fputs(text, f);
}

void json_put_number(FILE *f, const char *name, double x) {
    fprintf(f, ",\"%s\":", name);
    json_put_double(f, x);
}

void json_put_float(FILE *f, float x) {
    char text[40] = "null";
    if (x - x == 0)
        for (int digits = 6; digits <= 9; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, (double)x);
            if (strtof(text, NULL) == x) break;
        }
    fputs(text, f);
}

void json_put_ints(FILE *f, const int *values, size_t n) {
    fputc('[', f);
    for (size_t i = 0; i < n; i++) fprintf(f, i ? ",%d" : "%d", values[i]);
    fputc(']', f);
}

void json_put_floats(FILE *f, const float *values, size_t n) {
    fputc('[', f);
    for (size_t i = 0; i < n; i++) {
        if (i) fputc(',', f);
        json_put_float(f, values[i]);
    }
    fputc(']', f);
}
