/* JSON beyond what the library needs, for its tests: writing, which is held against reading; floats, truth values. */
#ifndef JSON_MORE_H
#define JSON_MORE_H

/* As num_parse_double, rounded to float; a double in between would round twice. */
static MAYBE_UNUSED size_t num_parse_float(const char *s, size_t n, float *out) {
    num_decimal d;
    size_t used = num_scan(s, n, &d);
    if (used) *out = bits_f32((uint32_t)num_convert(&d, num_float) | (uint32_t)d.negative << 31);
    return used;
}

static MAYBE_UNUSED int json_bool(json v) {
    return json_kind(v) == JSON_BOOL && *v.at == 't';
}

static MAYBE_UNUSED int json_float(json v, float *out) {
    return json_kind(v) == JSON_NUMBER && num_parse_float(v.at, (size_t)(v.end - v.at), out);
}

static MAYBE_UNUSED void buf_put_json_text(buf *b, json v) {
    char *out = buf_room(b, json_text_bytes(v));
    if (out) b->length += json_text(v, out);
}

/* --- writing
 *
 *     json_writer w = {.out = &buffer};
 *     json_open(&w, '{');
 *     json_key(&w, "path");
 *     json_open(&w, '[');
 *     json_put_i64(&w, 3);
 *     json_close(&w, ']');
 *     json_close(&w, '}');
 *
 * Commas come by themselves. Failed memory shows in the buffer. */

typedef struct json_writer {
    buf *out;
    int comma; /* something precedes at this level */
} json_writer;

static void json_put_raw(json_writer *w, const char *text, size_t n) {
    if (w->comma) buf_put(w->out, ",", 1);
    buf_put(w->out, text, n);
    w->comma = 1;
}

static MAYBE_UNUSED void json_open(json_writer *w, char bracket) {
    json_put_raw(w, &bracket, 1);
    w->comma = 0;
}

static MAYBE_UNUSED void json_close(json_writer *w, char bracket) {
    buf_put(w->out, &bracket, 1);
    w->comma = 1;
}

/* Ends a line of JSONL. */
static MAYBE_UNUSED void json_end_line(json_writer *w) {
    buf_put(w->out, "\n", 1);
    w->comma = 0;
}

/* Bytes that are not UTF-8 become U+FFFD. */
static void json_put_string(json_writer *w, const char *s, size_t n) {
    json_put_raw(w, "\"", 1);
    for (size_t i = 0, plain; i < n;) {
        int length = 0;
        for (plain = i; plain < n && s[plain] != '"' && s[plain] != '\\' && (uint8_t)s[plain] >= 32;
             plain += (size_t)length)
            if (!(length = utf8_length(s + plain, n - plain))) break;
        buf_put(w->out, s + i, plain - i);
        if ((i = plain) == n) break;
        if (s[i] == '"' || s[i] == '\\') {
            buf_put(w->out, "\\", 1);
            buf_put(w->out, s + i, 1);
        } else if (s[i] == '\n') buf_put(w->out, "\\n", 2);
        else if (s[i] == '\t') buf_put(w->out, "\\t", 2);
        else if (s[i] == '\r') buf_put(w->out, "\\r", 2);
        else if ((uint8_t)s[i] < 32) {
            char escape[6] = {'\\', 'u', '0', '0', (char)('0' + (s[i] >> 4)), "0123456789abcdef"[s[i] & 15]};
            buf_put(w->out, escape, 6);
        } else buf_put(w->out, "\xEF\xBF\xBD", 3);
        i++;
    }
    buf_put(w->out, "\"", 1);
}

static void json_put_text(json_writer *w, const char *s) {
    json_put_string(w, s, strlen(s));
}

static MAYBE_UNUSED void json_key(json_writer *w, const char *key) {
    json_put_text(w, key);
    buf_put(w->out, ":", 1);
    w->comma = 0;
}

static MAYBE_UNUSED void json_put_i64(json_writer *w, int64_t n) {
    char at[NUM_TEXT];
    text t = {at, sizeof at, 0};
    text_put_i64(&t, n);
    json_put_raw(w, at, t.length);
}

/* What is not finite has no JSON: null. */
static MAYBE_UNUSED void json_put_double(json_writer *w, double x) {
    char at[NUM_TEXT];
    text t = {at, sizeof at, 0};
    if (x - x == 0) text_put_double(&t, x);
    else text_put(&t, "null", 4);
    json_put_raw(w, at, t.length);
}

static MAYBE_UNUSED void json_put_float(json_writer *w, float x) {
    char at[NUM_TEXT];
    text t = {at, sizeof at, 0};
    if (x - x == 0) text_put_float(&t, x);
    else text_put(&t, "null", 4);
    json_put_raw(w, at, t.length);
}

static MAYBE_UNUSED void json_put_bool(json_writer *w, int value) {
    json_put_raw(w, value ? "true" : "false", value ? 4 : 5);
}

#endif
