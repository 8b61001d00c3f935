/* A reader of JSON for tests/test_answer.c. */
#ifndef JSON_MORE_H
#define JSON_MORE_H

#define JSON_MAX_DEPTH 128

typedef enum json_type {
    JSON_ABSENT, /* no value: what looking up a missing key gives */
    JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT
} json_type;

/* A value in a checked text: its bytes from the first to behind the last. {NULL, NULL} is absent. */
typedef struct json {
    const char *at, *end;
} json;

/* A text under examination: one document, or many, one per line or not. */
typedef struct json_reader {
    const char *at, *end;
    const char *file; /* for messages */
    int line;
    polar_status status;
    polar_error *error;
} json_reader;

/* --- checking */

static const char *json_fail(json_reader *r, const char *expected) {
    if (r->status != POLAR_OK) return NULL;
    if (r->at >= r->end)
        r->status = fail(r->error, POLAR_FORMAT, "%s:%d: the text ends, expected %s", r->file, r->line, expected);
    else if (*r->at > 32 && *r->at < 127)
        r->status = fail(r->error, POLAR_FORMAT, "%s:%d: found '%c', expected %s", r->file, r->line, *r->at, expected);
    else
        r->status = fail(r->error, POLAR_FORMAT, "%s:%d: found byte 0x%x, expected %s", r->file, r->line,
                         (unsigned)(uint8_t)*r->at, expected);
    return NULL;
}

static void json_check_space(json_reader *r) {
    for (; r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'); r->at++)
        r->line += *r->at == '\n' && r->line < INT_MAX;
}

/* The value of a hexadecimal digit, -1 if it is none. */
static int json_hex(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static void json_check_string(json_reader *r) {
    if (r->at >= r->end || *r->at != '"') {
        json_fail(r, "a string");
        return;
    }
    for (r->at++; r->at < r->end && *r->at != '"'; r->at++) {
        if ((uint8_t)*r->at < 32) {
            json_fail(r, "an escape: control characters cannot stand in strings");
            return;
        }
        if (*r->at != '\\') continue;
        if (++r->at < r->end && *r->at == 'u') {
            for (int i = 0; i < 4; i++)
                if (++r->at >= r->end || json_hex(*r->at) < 0) {
                    json_fail(r, "four hexadecimal digits");
                    return;
                }
        } else if (r->at >= r->end || !*r->at || !strchr("\"\\/bfnrt", *r->at)) {
            json_fail(r, "one of \" \\ / b f n r t u after a backslash");
            return;
        }
    }
    if (r->at >= r->end) json_fail(r, "the end of the string");
    else r->at++;
}

static int json_check_digits(json_reader *r) {
    const char *first = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    if (r->at == first) json_fail(r, "a digit");
    return r->at > first;
}

static void json_check_number(json_reader *r) {
    if (*r->at == '-') r->at++;
    if (r->at < r->end && *r->at == '0') r->at++;
    else if (!json_check_digits(r)) return;
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        if (!json_check_digits(r)) return;
    }
    if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
        json_check_digits(r);
    }
}

/* A word; NaN and Infinity, which Python writes, are read as null. */
static void json_check_word(json_reader *r) {
    static const char *const words[] = {"null", "true", "false", "NaN", "Infinity", "-Infinity"};
    for (int i = 0; i < COUNT(words); i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(r->end - r->at) >= n && !memcmp(r->at, words[i], n)) {
            r->at += n;
            return;
        }
    }
    json_fail(r, "a value");
}

static void json_check_value(json_reader *r, int depth);

/* The inside of an array or object, the opening bracket read. */
static void json_check_members(json_reader *r, char close, int depth) {
    json_check_space(r);
    if (r->at < r->end && *r->at == close) {
        r->at++;
        return;
    }
    while (r->status == POLAR_OK) {
        json_check_space(r);
        if (close == '}') {
            json_check_string(r);
            json_check_space(r);
            if (r->status == POLAR_OK && (r->at >= r->end || *r->at != ':')) json_fail(r, "':' after the key");
            if (r->status != POLAR_OK) return;
            r->at++;
            json_check_space(r);
        }
        json_check_value(r, depth);
        json_check_space(r);
        if (r->status != POLAR_OK) return;
        if (r->at < r->end && *r->at == close) {
            r->at++;
            return;
        }
        if (r->at >= r->end || *r->at != ',') json_fail(r, close == '}' ? "',' or '}'" : "',' or ']'");
        else r->at++;
    }
}

static void json_check_value(json_reader *r, int depth) {
    char c = r->at < r->end ? *r->at : 0;
    if (c == '"') json_check_string(r);
    else if (c == '[' || c == '{') {
        if (depth == JSON_MAX_DEPTH) {
            r->status =
                fail(r->error, POLAR_FORMAT, "%s:%d: nested more than %d deep", r->file, r->line, JSON_MAX_DEPTH);
            return;
        }
        r->at++;
        json_check_members(r, c == '[' ? ']' : '}', depth + 1);
    } else if ((c >= '0' && c <= '9') || (c == '-' && r->end - r->at > 1 && r->at[1] != 'I')) json_check_number(r);
    else json_check_word(r);
}

/* Starts reading a text that stays where it is. `file` and the number of its first line are for messages. */
static json_reader json_begin(const char *text, size_t length, const char *file, int line, polar_error *e) {
    json_reader r = {text, text + length, file, line, POLAR_OK, e};
    if (length >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3)) r.at += 3; /* a byte order mark */
    return r;
}

/* The next value of a text of many. 0 at the end, or after an error, which r->status tells apart. r->line is
 * the line where the value ends. */
static int json_read(json_reader *r, json *value) {
    json_check_space(r);
    if (r->status != POLAR_OK || r->at == r->end) return 0;
    value->at = r->at;
    json_check_value(r, 0);
    value->end = r->at;
    if (r->status == POLAR_OK && r->at < r->end && (uint8_t)*r->at > 32) json_fail(r, "the end of the line");
    return r->status == POLAR_OK;
}

/* A text that is one value. */
static polar_status json_parse(json *out, const char *text, size_t length, const char *file, polar_error *e) {
    json_reader r = json_begin(text, length, file, 1, e);
    if (!json_read(&r, out)) json_fail(&r, "a value");
    json_check_space(&r);
    if (r.at < r.end) json_fail(&r, "the end of the text");
    return r.status;
}

/* --- values of a checked text
 *
 * Brackets and quotes match here, so walking needs no checks. */

static json_type json_kind(json v) {
    if (!v.at) return JSON_ABSENT;
    switch (*v.at) {
    case '"': return JSON_STRING;
    case '[': return JSON_ARRAY;
    case '{': return JSON_OBJECT;
    case 't': case 'f': return JSON_BOOL;
    case 'n': case 'N': case 'I': return JSON_NULL;
    case '-': return v.at[1] == 'I' ? JSON_NULL : JSON_NUMBER;
    default: return JSON_NUMBER;
    }
}

static const char *json_skip_string(const char *p) {
    for (p++; *p != '"'; p++) p += *p == '\\';
    return p + 1;
}

/* Behind the value at p, which ends before `end`. */
static const char *json_skip(const char *p, const char *end) {
    int depth = 0;
    if (*p == '"') return json_skip_string(p);
    if (*p != '[' && *p != '{') {
        while (p < end && *p != ',' && *p != ']' && *p != '}' && (uint8_t)*p > 32) p++;
        return p;
    }
    for (;;) {
        if (*p == '"') {
            p = json_skip_string(p);
            continue;
        }
        if (*p == '[' || *p == '{') depth++;
        if ((*p == ']' || *p == '}') && !--depth) return p + 1;
        p++;
    }
}

/* Walks an array or object; any other value has no members.
 *     json_iterator it = json_members(v);
 *     while (json_next(&it)) ... it.key, it.value ... */
typedef struct json_iterator {
    json key; /* a string; absent in an array */
    json value;
    const char *at, *end;
    int object;
} json_iterator;

static json_iterator json_members(json v) {
    json_iterator it = {{NULL, NULL}, {NULL, NULL}, NULL, NULL, 0};
    json_type kind = json_kind(v);
    if (kind != JSON_ARRAY && kind != JSON_OBJECT) return it;
    it.object = kind == JSON_OBJECT;
    it.at = v.at + 1;
    it.end = v.end - 1;
    return it;
}

static const char *json_skip_space(const char *p, const char *end) {
    while (p < end && ((uint8_t)*p <= 32 || *p == ',' || *p == ':')) p++;
    return p;
}

static int json_next(json_iterator *it) {
    it->at = json_skip_space(it->at, it->end);
    if (it->at == it->end) return 0;
    if (it->object) {
        it->key.at = it->at;
        it->key.end = json_skip_string(it->at);
        it->at = json_skip_space(it->key.end, it->end);
    }
    it->value.at = it->at;
    it->value.end = it->at = json_skip(it->at, it->end);
    return 1;
}

static size_t json_count(json v) {
    size_t n = 0;
    for (json_iterator it = json_members(v); json_next(&it);) n++;
    return n;
}

/* Element i of an array, absent past its end. Linear: to visit all use json_next. */
static json json_at(json v, size_t i) {
    json none = {NULL, NULL};
    json_iterator it = json_members(v);
    while (json_next(&it))
        if (!i--) return it.value;
    return none;
}

/* 1 and *out if the value is a number; what is too large is infinite. */
static int json_double(json v, double *out) {
    return json_kind(v) == JSON_NUMBER && (*out = strtod(v.at, NULL), 1);
}

/* 1 and *out if the value is a whole number in the range, however it is written (3, 3.0, 3e0). */
static int json_int(json v, int64_t *out, int64_t min, int64_t max) {
    size_t length;
    int64_t n = 0;
    double x;
    if (json_kind(v) != JSON_NUMBER) return 0;
    length = (size_t)(v.end - v.at);
    if (!length || !json_double(v, &x) || x != floor(x)) return 0;
    n = (int64_t)x;
    if (n < min || n > max) return 0;
    *out = n;
    return 1;
}

/* --- strings */

/* UTF-8 of a character up to U+10FFFF; returns its bytes. */
static int utf8_put(char *at, uint32_t c) {
    if (c < 0x80) {
        at[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        at[0] = (char)(0xC0 | c >> 6);
        at[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        at[0] = (char)(0xE0 | c >> 12);
        at[1] = (char)(0x80 | (c >> 6 & 63));
        at[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    at[0] = (char)(0xF0 | c >> 18);
    at[1] = (char)(0x80 | (c >> 12 & 63));
    at[2] = (char)(0x80 | (c >> 6 & 63));
    at[3] = (char)(0x80 | (c & 63));
    return 4;
}

static uint32_t json_hex4(const char *p) {
    uint32_t c = 0;
    for (int i = 0; i < 4; i++) c = c << 4 | (uint32_t)json_hex(p[i]);
    return c;
}

/* Decodes the character or escape at *p, moves *p behind it, returns the bytes written to `out` (at most 4, and
 * never more than were read). Half a surrogate pair becomes U+FFFD. */
static int json_decode(const char **p, char *out) {
    static const char escapes[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    uint32_t c;
    if (**p != '\\') {
        *out = *(*p)++;
        return 1;
    }
    if ((*p)[1] != 'u') {
        *out = meaning[strchr(escapes, (*p)[1]) - escapes];
        *p += 2;
        return 1;
    }
    c = json_hex4(*p + 2);
    *p += 6;
    if (c >= 0xD800 && c < 0xDC00 && (*p)[0] == '\\' && (*p)[1] == 'u') {
        uint32_t low = json_hex4(*p + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            *p += 6;
            return utf8_put(out, 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00));
        }
    }
    return utf8_put(out, c >= 0xD800 && c < 0xE000 ? 0xFFFD : c);
}

/* Bytes that json_text needs at most. */
static size_t json_text_bytes(json v) {
    return json_kind(v) == JSON_STRING ? (size_t)(v.end - v.at) - 2 : 0;
}

/* Writes a string decoded (not NUL-terminated) and returns its length; 0 if it is no string. */
static size_t json_text(json v, char *out) {
    char *start = out;
    if (json_kind(v) != JSON_STRING) return 0;
    for (const char *p = v.at + 1; p < v.end - 1;) out += json_decode(&p, out);
    return (size_t)(out - start);
}

/* 1 if the value is this string. */
static int json_equals(json v, const char *text) {
    char c[4];
    if (json_kind(v) != JSON_STRING) return 0;
    for (const char *p = v.at + 1; p < v.end - 1;) {
        int n = json_decode(&p, c);
        if (strncmp(text, c, (size_t)n)) return 0;
        if (!*text) return 0; /* a NUL in the value */
        text += n;
    }
    return !*text;
}

/* The member of an object, the first if there are several; absent if there is none or v is no object. */
static json json_get(json v, const char *key) {
    json none = {NULL, NULL};
    json_iterator it = json_members(v);
    while (it.object && json_next(&it))
        if (json_equals(it.key, key)) return it.value;
    return none;
}

static int json_bool(json v) {
    return json_kind(v) == JSON_BOOL && *v.at == 't';
}

#endif
