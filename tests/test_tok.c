/* Unicode classes, tokenizers, chat formats: vectors of other implementations, naive versions of the same
 * algorithms, hostile vocabularies. */
#include "inside.h"
#include "fuzz/fuzz_tokenizer.c"
#include "test.h"
#include "command.h"
#include "tok_vectors.h"

/* --- files and vocabularies */

/* A vocabulary, of a file of ../shared or of bytes in memory. */
typedef struct fixture {
    gguf_file file;
    tok_vocab v;
    polar_allocator a;
    polar_error e;
    buf notes;
    void *bytes;
} fixture;

static int fixture_load(fixture *x) {
    x->notes.allocator = &x->a;
    if (tok_load(&x->v, &x->file, &x->notes, &x->a, &x->e) == POLAR_OK) return 1;
    buf_free(&x->notes);
    gguf_close(&x->file);
    free(x->bytes);
    return 0;
}

static int fixture_shared(fixture *x, const char *path) {
    char full[512];
    FILE *f = test_shared(path);
    if (!f) return 0;
    fclose(f);
    memset(x, 0, sizeof *x);
    x->a = mem_allocator(NULL);
    snprintf(full, sizeof full, "%s/%s", getenv("POLAR_SHARED") ? getenv("POLAR_SHARED") : "../shared", path);
    CHECK(gguf_open(&x->file, full, 0, NULL, &x->e) == POLAR_OK);
    CHECK(fixture_load(x));
    return !x->e.status;
}

static void fixture_free(fixture *x) {
    tok_free(&x->v, &x->a);
    buf_free(&x->notes);
    gguf_close(&x->file);
    free(x->bytes);
}

/* --- a GGUF file of metadata, written value by value */

typedef struct blob {
    uint8_t *at;
    size_t n, n_keys;
} blob;

static void blob_put(blob *b, const void *s, size_t n) {
    b->at = realloc(b->at, b->n + n + 1);
    memcpy(b->at + b->n, s, n);
    b->n += n;
}

static void blob_u32(blob *b, uint32_t u) {
    uint8_t le[4];
    wr_u32(le, u);
    blob_put(b, le, 4);
}

static void blob_u64(blob *b, uint64_t u) {
    uint8_t le[8];
    wr_u64(le, u);
    blob_put(b, le, 8);
}

static void blob_text(blob *b, const char *s, size_t n) {
    blob_u64(b, n);
    blob_put(b, s, n);
}

static void blob_key(blob *b, const char *key, uint32_t type) {
    blob_text(b, key, strlen(key));
    blob_u32(b, type);
    b->n_keys++;
}

static void blob_begin(blob *b, const char *arch, const char *model, const char *pre) {
    memset(b, 0, sizeof *b);
    blob_put(b, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    blob_key(b, "general.architecture", POLAR_GGUF_STRING);
    blob_text(b, arch, strlen(arch));
    blob_key(b, "tokenizer.ggml.model", POLAR_GGUF_STRING);
    blob_text(b, model, strlen(model));
    if (!pre) return;
    blob_key(b, "tokenizer.ggml.pre", POLAR_GGUF_STRING);
    blob_text(b, pre, strlen(pre));
}

static void blob_string(blob *b, const char *key, const char *s) {
    blob_key(b, key, POLAR_GGUF_STRING);
    blob_text(b, s, strlen(s));
}

static void blob_int(blob *b, const char *key, uint32_t u) {
    blob_key(b, key, POLAR_GGUF_U32);
    blob_u32(b, u);
}

static void blob_bool(blob *b, const char *key, int value) {
    uint8_t byte = (uint8_t)value;
    blob_key(b, key, POLAR_GGUF_BOOL);
    blob_put(b, &byte, 1);
}

static void blob_array(blob *b, const char *key, uint32_t type, size_t n) {
    blob_key(b, key, POLAR_GGUF_ARRAY);
    blob_u32(b, type);
    blob_u64(b, n);
}

/* Opens what was written; the blob now belongs to the fixture. 0 if it was refused: x->e says why. */
static int blob_open(blob *b, fixture *x) {
    memset(x, 0, sizeof *x);
    x->a = mem_allocator(NULL);
    x->bytes = b->at;
    wr_u64(b->at + 16, b->n_keys);
    if (gguf_open_memory(&x->file, b->at, b->n, NULL, &x->e) != POLAR_OK) {
        free(b->at);
        return 0;
    }
    return fixture_load(x);
}

/* A byte in the alphabet of GPT-2, as UTF-8. */
static size_t alphabet(uint8_t byte, char *out) {
    uint32_t c = 0;
    while (tok_alphabet(c) != byte) c++;
    if (c < 128) return out[0] = (char)c, 1;
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 63));
    return 2;
}

/* --- encoding in the tests */

#define MAX_IDS 4000
static int32_t ids[MAX_IDS];

static int encode(const fixture *x, const char *s, size_t n, int flags) {
    int count = 0;
    polar_error e = {0};
    CHECK(tok_encode(&x->v, &x->a, s, n, flags, ids, MAX_IDS, &count, &e) == POLAR_OK);
    CHECK_STR(e.message, "");
    return count;
}

/* The ids of a text are those that are written in a list of numbers. */
static void check_ids(const char *file, int line, const int32_t *found, int n, const char *expected) {
    char text[16000] = "";
    size_t at = 0;
    for (int i = 0; i < n && at + 16 < sizeof text; i++)
        at += (size_t)sprintf(text + at, i ? " %d" : "%d", (int)found[i]);
    test_str(file, line, text, expected);
}
#define CHECK_IDS(found, n, expected) check_ids(__FILE__, __LINE__, found, n, expected)

static void check_round_trip(const fixture *x, const char *s, size_t n) {
    const int count = encode(x, s, n, 0);
    size_t length = 0;
    char *text = malloc(n + 1);
    CHECK(tok_decode(&x->v, ids, count, 0, text, n, &length, NULL) == POLAR_OK);
    CHECK(length == n && !memcmp(text, s, n));
    free(text);
}

/* --- vectors of ../shared */

/* Unescapes a JSON string that starts after its quote. */
static size_t unescape(const char *s, char *out) {
    size_t n = 0;
    for (; *s != '"'; s++) {
        uint32_t c;
        if (*s != '\\') {
            out[n++] = *s;
            continue;
        }
        if (*++s != 'u') {
            out[n++] = *s == 'n'   ? '\n'
                       : *s == 't' ? '\t'
                       : *s == 'r' ? '\r'
                       : *s == 'b' ? '\b'
                       : *s == 'f' ? '\f'
                                   : *s;
            continue;
        }
        sscanf(s + 1, "%4x", &c);
        s += 4;
        if (c >= 0xd800 && c < 0xdc00) {
            uint32_t low;
            sscanf(s + 3, "%4x", &low);
            s += 6;
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        }
        if (c < 0x80) out[n++] = (char)c;
        else if (c < 0x800) out[n++] = (char)(0xc0 | c >> 6), out[n++] = (char)(0x80 | (c & 63));
        else {
            if (c < 0x10000) out[n++] = (char)(0xe0 | c >> 12);
            else out[n++] = (char)(0xf0 | c >> 18), out[n++] = (char)(0x80 | (c >> 12 & 63));
            out[n++] = (char)(0x80 | (c >> 6 & 63));
            out[n++] = (char)(0x80 | (c & 63));
        }
    }
    return n;
}

/* The list of numbers of a key, with spaces, or "" */
static int json_list(const char *row, const char *key, char *out) {
    const char *s = strstr(row, key);
    if (!s) return 0;
    for (s += strlen(key) + 1; *s != ']'; s++) *out++ = *s == ',' ? ' ' : *s;
    *out = 0;
    return 1;
}

static void check_jsonl(const char *vocab, const char *path, int expected_rows) {
    fixture x;
    size_t size;
    char *data = test_shared_text(path, &size), *row, text[20000], expected[16000];
    int rows = 0;
    if (!data) return;
    if (!fixture_shared(&x, vocab)) {
        free(data);
        return;
    }
    for (row = strtok(data, "\n"); row; row = strtok(NULL, "\n"), rows++) {
        const size_t n = unescape(strstr(row, "\"text\":\"") + 8, text);
        int count;
        if (!json_list(row, "\"ids_no_nfc\":", expected)) CHECK(json_list(row, "\"ids\":", expected));
        count = encode(&x, text, n, POLAR_TOKENIZE_SPECIAL);
        CHECK_IDS(ids, count, expected);
        /* without special tokens: the same, unless the row says what is plain */
        count = encode(&x, text, n, 0);
        if (!strstr(row, "\"ids_no_nfc\"") || !strstr(row, "\"ids_plain\"")) {
            json_list(row, "\"ids_plain\":", expected);
            CHECK_IDS(ids, count, expected);
        }
        check_round_trip(&x, text, n);
    }
    CHECK(rows == expected_rows);
    fixture_free(&x);
    free(data);
}

TEST(llama3_vectors) {
    check_jsonl("data/tokenizer/llama3-vocab.gguf", "data/tokenizer/llama3.jsonl", 320);
}

TEST(qwen3_vectors) {
    check_jsonl("data/tokenizer/qwen3-vocab.gguf", "data/tokenizer/qwen3.jsonl", 320);
}

/* Texts between lines "__ggml_vocab_test__", a line of ids for each. */
static void check_ggml(const char *vocab, const char *name) {
    char path[200];
    fixture x;
    size_t n_in, n_out;
    char *in, *out, *line, *text, *next;
    const char *separator = "\n__ggml_vocab_test__\n";
    int rows = 0;
    snprintf(path, sizeof path, "data/tokenizer/%s.gguf.inp", name);
    if (!(in = test_shared_text(path, &n_in))) return;
    snprintf(path, sizeof path, "data/tokenizer/%s.gguf.out", name);
    if (!(out = test_shared_text(path, &n_out)) || !fixture_shared(&x, vocab)) return;
    for (text = in, line = out; (next = strstr(text, separator)) != NULL; text = next + strlen(separator), rows++) {
        char *end = strchr(line, '\n');
        int count = encode(&x, text, (size_t)(next - text), 0);
        *end = 0;
        CHECK_IDS(ids, count, *line ? line + 1 : line);
        check_round_trip(&x, text, (size_t)(next - text));
        line = end + 1;
    }
    CHECK(rows >= 40);
    fixture_free(&x);
    free(in);
    free(out);
}

TEST(ggml_vectors) {
    check_ggml("data/tokenizer/llama3-vocab.gguf", "ggml-vocab-llama-bpe");
    check_ggml("data/tokenizer/qwen3-vocab.gguf", "ggml-vocab-qwen2");
    check_ggml("data/tokenizer/ggml-vocab-llama-spm.gguf", "ggml-vocab-llama-spm");
}

/* The prompts of the trained models, with BOS. */
TEST(reference_prompts) {
    static const char *const names[] = {"stories260K", "tinystories656K"};
    size_t size;
    char *data = test_shared_text("data/models/reference.jsonl", &size), *row, path[200], text[1000], expected[1000];
    int rows = 0;
    if (!data) return;
    for (int i = 0; i < 2; i++) {
        fixture x;
        snprintf(path, sizeof path, "data/models/%s-f32.gguf", names[i]);
        if (!fixture_shared(&x, path)) break;
        snprintf(path, sizeof path, "%s-f32.gguf", names[i]);
        for (row = data; row; row = strchr(row, '\n') ? strchr(row, '\n') + 1 : NULL) {
            const char *gguf = strstr(row, "\"gguf\":\""), *prompt = strstr(row, "\"prompt\":\"");
            size_t n;
            if (!gguf || strncmp(gguf + 8, path, strlen(path)) || !prompt) continue;
            n = unescape(prompt + 10, text);
            json_list(row, "\"ids\":", expected);
            CHECK_IDS(ids, encode(&x, text, n, POLAR_TOKENIZE_BOS), expected);
            rows++;
        }
        fixture_free(&x);
    }
    CHECK(rows > 50);
    free(data);
}

/* --- [uni] */

TEST(unicode_classes) {
    uint64_t sum = 0;
    int counts[4] = {0};
    for (uint32_t c = 0; c < 0x110000; c++) {
        sum = sum * 31 + (uint64_t)uni_class(c);
        counts[uni_class(c)]++;
    }
    CHECK(sum == uni_sum);
    CHECK_BITS(counts, uni_counts, 4);
    CHECK(uni_class(UNI_INVALID) == UNI_OTHER);
}

static size_t utf8(uint32_t c, uint8_t *out) {
    if (c < 0x80) return out[0] = (uint8_t)c, 1;
    if (c < 0x800) return out[0] = (uint8_t)(0xc0 | c >> 6), out[1] = (uint8_t)(0x80 | (c & 63)), 2;
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 63));
        out[2] = (uint8_t)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 63));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 63));
    out[3] = (uint8_t)(0x80 | (c & 63));
    return 4;
}

/* All characters are read; every part of one is held back, nothing else is. */
TEST(utf8) {
    static const char *const bad[] = {
        "\x80",         "\xbf\x80",     "\xc0\x80",         "\xc1\xbf",         "\xe0\x9f\xbf",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
        "\xff",         "\xe2\x41\x80", "\xf0\x9f\x41"};
    uint32_t c;
    for (uint32_t want = 0; want < 0x110000; want++) {
        uint8_t s[5] = {'x'};
        size_t n;
        if (want >= 0xd800 && want < 0xe000) continue;
        n = utf8(want, s + 1);
        CHECK(uni_decode(s + 1, n, &c) == n && c == want);
        CHECK(uni_complete_prefix(s, n + 1) == n + 1);
        for (size_t k = 1; k < n; k++) {
            CHECK(uni_decode(s + 1, k, &c) == 1 && c == UNI_INVALID);
            CHECK(uni_complete_prefix(s, 1 + k) == 1);
            CHECK(uni_complete_prefix(s + 1, k) == 0);
        }
    }
    for (int i = 0; i < COUNT(bad); i++) {
        const uint8_t *s = (const uint8_t *)bad[i];
        CHECK(uni_decode(s, strlen(bad[i]), &c) == 1 && c == UNI_INVALID);
        CHECK(uni_complete_prefix(s, strlen(bad[i])) == strlen(bad[i]));
    }
    CHECK(uni_complete_prefix(NULL, 0) == 0);
    CHECK(uni_complete_prefix((const uint8_t *)"\xe2\xc3", 2) == 1);
}

/* --- pre-tokenizers against the regular expressions */

TEST(splits) {
    for (int i = 0; i < COUNT(tok_splits); i++) {
        const tok_pre *pre = tok_find_pre(tok_splits[i].pre, strlen(tok_splits[i].pre));
        const uint8_t *s = (const uint8_t *)tok_splits[i].text;
        char found[200] = "";
        size_t used = 0;
        for (size_t at = 0, n; at < tok_splits[i].length; at += n) {
            n = pre->split(pre, s + at, tok_splits[i].length - at);
            used += (size_t)sprintf(found + used, at ? " %d" : "%d", (int)n);
            if (!n) break;
        }
        CHECK_STR(found, tok_splits[i].pieces);
    }
}

TEST(pre_tokenizer_names) {
    CHECK(tok_find_pre("llama3", 6) == tok_find_pre("llama-bpe", 9));
    CHECK(tok_find_pre("deepseek-r1-qwen", 16) == tok_find_pre("qwen2", 5));
    CHECK(!tok_find_pre("llama", 5) && !tok_find_pre("", 0));
}

/* --- vocabularies made here */

enum { N_LETTERS = 4, N_MERGES = 60 };

typedef struct toy {
    uint8_t text[256 + N_MERGES][64];
    size_t length[256 + N_MERGES];
    int left[N_MERGES], right[N_MERGES], n; /* tokens */
} toy;

/* Merges of random tokens over few letters: many ways to cut the same text. */
static void toy_make(toy *t, uint64_t *state, int with_space) {
    memset(t, 0, sizeof *t);
    for (t->n = 0; t->n < 256; t->n++) t->text[t->n][0] = (uint8_t)t->n, t->length[t->n] = 1;
    while (t->n < 256 + N_MERGES) {
        int pick[2], k = t->n - 256, known = 0;
        for (int i = 0; i < 2; i++) {
            int j = (int)(rng_next(state) % (uint64_t)(N_LETTERS + k));
            pick[i] = j < N_LETTERS ? (with_space && !j ? ' ' : 'a' + j) : 256 + j - N_LETTERS;
        }
        if (t->length[pick[0]] + t->length[pick[1]] > 12) continue;
        memcpy(t->text[t->n], t->text[pick[0]], t->length[pick[0]]);
        memcpy(t->text[t->n] + t->length[pick[0]], t->text[pick[1]], t->length[pick[1]]);
        t->length[t->n] = t->length[pick[0]] + t->length[pick[1]];
        for (int i = 0; i < t->n; i++)
            known |= t->length[i] == t->length[t->n] && !memcmp(t->text[i], t->text[t->n], t->length[i]);
        if (known) continue;
        t->left[k] = pick[0];
        t->right[k] = pick[1];
        t->n++;
    }
}

/* A file with a BPE vocabulary: the toy's tokens, then the special ones, whose first `n_user` are user-defined. */
static blob toy_bpe(const toy *t, const char *arch, const char *pre, const char *const *specials, int n_specials,
                    int n_user) {
    blob b;
    char s[200];
    size_t n;
    blob_begin(&b, arch, "gpt2", pre);
    blob_array(&b, "tokenizer.ggml.tokens", POLAR_GGUF_STRING, (size_t)(t->n + n_specials));
    for (int i = 0; i < t->n; i++) {
        n = 0;
        for (size_t k = 0; k < t->length[i]; k++) n += alphabet(t->text[i][k], s + n);
        blob_text(&b, s, n);
    }
    for (int i = 0; i < n_specials; i++) blob_text(&b, specials[i], strlen(specials[i]));
    blob_array(&b, "tokenizer.ggml.token_type", POLAR_GGUF_I32, (size_t)(t->n + n_specials));
    for (int i = 0; i < t->n + n_specials; i++)
        blob_u32(&b, i < t->n ? TOK_NORMAL : i < t->n + n_user ? TOK_USER : TOK_CONTROL);
    blob_array(&b, "tokenizer.ggml.merges", POLAR_GGUF_STRING, (size_t)(t->n - 256));
    for (int i = 0; i < t->n - 256; i++) {
        n = 0;
        for (size_t k = 0; k < t->length[t->left[i]]; k++) n += alphabet(t->text[t->left[i]][k], s + n);
        s[n++] = ' ';
        for (size_t k = 0; k < t->length[t->right[i]]; k++) n += alphabet(t->text[t->right[i]][k], s + n);
        blob_text(&b, s, n);
    }
    return b;
}

/* A SentencePiece vocabulary: <unk> <s> </s>, 256 bytes if wanted, the letters and joined tokens with random
 * scores, some of them equal, some user-defined ones. */
static float toy_scores[256 + N_MERGES];

static blob toy_sentencepiece(const toy *t, uint64_t *state, int bytes, const char *const *users, int n_users) {
    blob b;
    char s[200];
    int n = 3 + 256 * bytes + t->n - 256 + N_LETTERS + 1 + n_users;
    blob_begin(&b, "llama", "llama", NULL);
    blob_array(&b, "tokenizer.ggml.tokens", POLAR_GGUF_STRING, (size_t)n);
    blob_text(&b, "<unk>", 5);
    blob_text(&b, "<s>", 3);
    blob_text(&b, "</s>", 4);
    for (int i = 0; i < 256 * bytes; i++) blob_text(&b, s, (size_t)sprintf(s, "<0x%02X>", (unsigned)i));
    blob_text(&b, "\xe2\x96\x81", 3);
    for (int i = 0; i < N_LETTERS; i++) blob_text(&b, s, (size_t)sprintf(s, "%c", 'a' + i));
    for (int i = 256; i < t->n; i++) {
        size_t m = 0;
        for (size_t k = 0; k < t->length[i]; k++)
            if (t->text[i][k] == ' ') memcpy(s + m, "\xe2\x96\x81", 3), m += 3;
            else s[m++] = (char)t->text[i][k];
        blob_text(&b, s, m);
    }
    for (int i = 0; i < n_users; i++) blob_text(&b, users[i], strlen(users[i]));
    blob_array(&b, "tokenizer.ggml.scores", POLAR_GGUF_F32, (size_t)n);
    for (int i = 0; i < n; i++) {
        int k = i - (n - n_users - (t->n - 256)) + 256;
        float score = (float)(rng_next(state) % 20) - 10;
        if (k >= 256 && k < t->n) toy_scores[k] = score;
        blob_u32(&b, f32_bits(score));
    }
    blob_array(&b, "tokenizer.ggml.token_type", POLAR_GGUF_I32, (size_t)n);
    for (int i = 0; i < n; i++)
        blob_u32(&b, i == 0                ? TOK_UNKNOWN
                     : i < 3               ? TOK_CONTROL
                     : i < 3 + 256 * bytes ? TOK_BYTE
                     : i < n - n_users     ? TOK_NORMAL
                                           : TOK_USER);
    return b;
}

/* Joins by looking through all neighbours for the best each time, by texts. `order` gives the smaller the
 * sooner of a joined token. Writes the lengths of the tokens in bytes. */
static size_t naive(const toy *t, int ranked, const char *s, size_t n, size_t *lengths) {
    size_t count = n;
    for (size_t i = 0; i < n; i++) lengths[i] = 1;
    for (;;) {
        size_t at = 0, best_at = 0;
        double best = 1e9;
        for (size_t i = 0; i + 1 < count; at += lengths[i++])
            for (int k = 256; k < t->n; k++) {
                double order = ranked ? k : -(double)toy_scores[k];
                if (t->length[k] != lengths[i] + lengths[i + 1] || memcmp(t->text[k], s + at, t->length[k])) continue;
                if (ranked && t->length[t->left[k - 256]] != lengths[i]) continue;
                if (order < best) best = order, best_at = i;
            }
        if (best == 1e9) return count;
        lengths[best_at] += lengths[best_at + 1];
        memmove(lengths + best_at + 1, lengths + best_at + 2, (count - best_at - 2) * sizeof *lengths);
        count--;
    }
}

static void check_naive(const fixture *x, const toy *t, int ranked, uint64_t *state) {
    for (int run = 0; run < 60; run++) {
        char s[200];
        size_t n = rng_next(state) % 60, lengths[200], expected, from = 0;
        int count;
        /* SentencePiece joins across the space that it puts in front */
        if (!ranked) s[0] = ' ', from = 1;
        for (size_t i = 0; i < n; i++) {
            uint64_t k = rng_next(state) % N_LETTERS;
            s[from + i] = !ranked && !k ? ' ' : (char)('a' + (int)k);
        }
        expected = n ? naive(t, ranked, s, from + n, lengths) : 0;
        count = encode(x, s + from, n, 0);
        CHECK(count == (int)expected);
        for (int i = 0; i < MIN(count, (int)expected); i++) {
            size_t length;
            tok_bytes(&x->v, ids[i], &length);
            CHECK(length == lengths[i]);
        }
        check_round_trip(x, s + from, n);
    }
}

TEST(naive_bpe) {
    uint64_t state = 1;
    for (int i = 0; i < 20; i++) {
        toy t;
        blob b;
        fixture x;
        toy_make(&t, &state, 0);
        b = toy_bpe(&t, "qwen2", "qwen2", NULL, 0, 0);
        CHECK(blob_open(&b, &x));
        CHECK_STR(x.e.message, "");
        if (x.e.status) return;
        check_naive(&x, &t, 1, &state);
        fixture_free(&x);
    }
}

TEST(naive_sentencepiece) {
    uint64_t state = 2;
    for (int i = 0; i < 20; i++) {
        toy t;
        blob b;
        fixture x;
        toy_make(&t, &state, 1);
        b = toy_sentencepiece(&t, &state, i % 2, NULL, 0);
        CHECK(blob_open(&b, &x));
        CHECK_STR(x.e.message, "");
        if (x.e.status) return;
        check_naive(&x, &t, 0, &state);
        fixture_free(&x);
    }
}

/* Characters of all kinds come back, for BPE any bytes; and measuring gives the same number as writing. */
static void check_random_text(const fixture *x, int any_bytes, uint64_t *state) {
    for (int run = 0; run < 200; run++) {
        uint8_t s[400];
        size_t n = 0;
        int count, measured;
        for (int k = (int)(rng_next(state) % 40); k > 0; k--) {
            uint32_t c = (uint32_t)(rng_next(state) % (rng_next(state) % 2 ? 0x110000 : 0x3100));
            if (any_bytes) s[n++] = (uint8_t)c;
            else if (c < 0xd800 || c >= 0xe000) n += utf8(c, s + n);
        }
        check_round_trip(x, (const char *)s, n);
        count = encode(x, (const char *)s, n, POLAR_TOKENIZE_SPECIAL | POLAR_TOKENIZE_BOS);
        CHECK(tok_encode(&x->v, &x->a, (const char *)s, n, POLAR_TOKENIZE_SPECIAL | POLAR_TOKENIZE_BOS, NULL, 0,
                         &measured, NULL) == POLAR_OK);
        CHECK(count == measured);
    }
}

TEST(round_trip) {
    static const char *const specials[] = {"<user>", "<|x|>"};
    uint64_t state = 3;
    toy t;
    blob b;
    fixture x;
    for (int i = 0; i < COUNT(tok_pres); i++) {
        toy_make(&t, &state, 1);
        b = toy_bpe(&t, "llama", tok_pres[i].names[0], specials, 2, 1);
        CHECK(blob_open(&b, &x));
        check_random_text(&x, 0, &state);
        check_random_text(&x, 1, &state);
        fixture_free(&x);
    }
    b = toy_sentencepiece(&t, &state, 1, specials, 1);
    CHECK(blob_open(&b, &x));
    check_random_text(&x, 0, &state);
    check_random_text(&x, 1, &state);
    check_round_trip(&x, "a\xe2\x96\x81<user> b<user>c", 19); /* a literal U+2581 too */
    fixture_free(&x);
    if (!fixture_shared(&x, "data/tokenizer/qwen3-vocab.gguf")) return;
    check_random_text(&x, 0, &state);
    check_random_text(&x, 1, &state);
    fixture_free(&x);
}

/* --- special tokens */

TEST(specials) {
    static const char *const names[] = {"<user>", "<|a|>", "<|a|><|a|>", "<|", "<|im_end|>"};
    uint64_t state = 4;
    toy t;
    blob b;
    fixture x;
    char text[100];
    size_t length;
    int n;
    toy_make(&t, &state, 0);
    b = toy_bpe(&t, "qwen2", "qwen2", names, 5, 1);
    blob_int(&b, "tokenizer.ggml.bos_token_id", (uint32_t)t.n + 1);
    blob_bool(&b, "tokenizer.ggml.add_bos_token", 1);
    CHECK(blob_open(&b, &x));
    n = encode(&x, "<|a|><|a|><|a|>b<|im<user>", 26, POLAR_TOKENIZE_SPECIAL);
    CHECK_IDS(ids, n, "318 317 98 319 105 109 316"); /* the longest; "<|im" is "<|" "i" "m" */
    CHECK(tok_decode(&x.v, ids, n, 0, text, sizeof text, &length, NULL) == POLAR_OK && length == 9);
    CHECK(!memcmp(text, "bim<user>", 9));
    CHECK(tok_decode(&x.v, ids, n, POLAR_DETOKENIZE_SPECIAL, text, sizeof text, &length, NULL) == POLAR_OK);
    CHECK(length == 26 && !memcmp(text, "<|a|><|a|><|a|>b<|im<user>", 26));
    CHECK(encode(&x, "<|a|><user>", 11, 0) == 10 ||
          encode(&x, "<|a|><user>", 11, 0) == 11); /* "a" may join nothing here */
    for (int i = 0; i < 10; i++) CHECK(ids[i] < t.n);
    CHECK(encode(&x, "b", 1, POLAR_TOKENIZE_BOS) == 2 && ids[0] == t.n + 1);
    CHECK(encode(&x, "<|a|>b", 6, POLAR_TOKENIZE_BOS | POLAR_TOKENIZE_SPECIAL) == 2 &&
          ids[0] == t.n + 1); /* not twice */
    CHECK(encode(&x, "", 0, 0) == 0);
    CHECK(tok_is_control(&x.v, t.n + 1) && !tok_is_control(&x.v, t.n) && !tok_is_control(&x.v, 'a'));
    CHECK(tok_is_end(&x.v, t.n + 4) && !tok_is_end(&x.v, t.n + 1) && x.v.eot == t.n + 4);
    CHECK(!tok_is_control(&x.v, -1) && !tok_is_control(&x.v, t.n + 5) && !tok_is_end(&x.v, INT32_MIN));
    ids[0] = t.n + 5;
    CHECK(tok_decode(&x.v, ids, 1, 0, text, sizeof text, &length, NULL) == POLAR_ARGUMENT);
    fixture_free(&x);
}

/* SentencePiece: user-defined tokens always; a control token never from plain text; the unknown once. */
TEST(sentencepiece_specials) {
    static const char *const users[] = {"<user>"};
    uint64_t state = 5;
    toy t;
    blob b;
    fixture x;
    int n;
    toy_make(&t, &state, 0);
    b = toy_sentencepiece(&t, &state, 0, users, 1);
    blob_bool(&b, "tokenizer.ggml.add_space_prefix", 0);
    CHECK(blob_open(&b, &x));
    CHECK(x.v.bos == 1 && x.v.eos == 2 && x.v.unknown == 0 && tok_is_end(&x.v, 2));
    n = encode(&x, "<user>zzza", 10, 0);
    CHECK(n == 3 && ids[0] == x.v.n_tokens - 1 && ids[1] == 0);
    n = encode(&x, "<s>a", 4, POLAR_TOKENIZE_SPECIAL | POLAR_TOKENIZE_BOS);
    CHECK(n == 2 && ids[0] == 1);
    n = encode(&x, "<s>a", 4, 0);
    for (int i = 0; i < n; i++) CHECK(ids[i] != 1);
    fixture_free(&x);
}

/* --- chat formats */

static int thinking; /* of the conversations below */

static int chat(const fixture *x, polar_chat format, const polar_message *messages, int n) {
    int count = 0;
    polar_error e = {0};
    CHECK(tok_chat_encode(&x->v, &x->a, format, thinking, messages, n, ids, MAX_IDS, &count, &e) == POLAR_OK);
    CHECK_STR(e.message, "");
    return count;
}

/* The conversation as text, control tokens written out. */
static const char *chat_text(const fixture *x, polar_chat format, const polar_message *messages, int n) {
    static char text[4000];
    const int count = chat(x, format, messages, n);
    size_t length;
    CHECK(tok_decode(&x->v, ids, count, POLAR_DETOKENIZE_SPECIAL, text, sizeof text - 1, &length, NULL) == POLAR_OK);
    text[MIN(length, sizeof text - 1)] = 0;
    return text;
}

static const char *const chat_names[] = {"<think>", "</think>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>",
                                         "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
static const polar_message question = {"user", " What is 2+2?\n<|im_end|>"};
static const polar_message talk[] = {{"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello!"}, {"user", "Bye"}};

static int chat_fixture(fixture *x, const char *arch, const char *template, int add_bos) {
    uint64_t state = 6;
    toy t;
    blob b;
    toy_make(&t, &state, 0);
    b = toy_bpe(&t, arch, "qwen2", chat_names, COUNT(chat_names), 2);
    if (template) blob_string(&b, "tokenizer.chat_template", template);
    blob_int(&b, "tokenizer.ggml.bos_token_id", (uint32_t)t.n + 4);
    blob_bool(&b, "tokenizer.ggml.add_bos_token", add_bos);
    CHECK(blob_open(&b, x));
    CHECK_STR(x->e.message, "");
    return !x->e.status;
}

/* The loop of ChatML templates, as files hold it: with escaped new lines, or with real ones. */
#define LOOP(nl) "{% for message in messages %}{{'<|im_start|>' + message['role'] + '" nl "' + message['content'] + " \
                 "'<|im_end|>' + '" nl "'}}{% endfor %}"
#define PROMPT(nl) "{% if add_generation_prompt %}{{ '<|im_start|>assistant" nl "' }}{% endif %}"
#define DOUBLE "{% set n.a = n.a + n.a %}{% set n.a = n.a + n.a %}{% set n.a = n.a + n.a %}"
#define LLAMA3 "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + " \
               "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}" \
               "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"

TEST(chatml) {
    fixture x;
    if (!chat_fixture(&x, "qwen2", LOOP("\\n") PROMPT("\\n"), 0)) return;
    CHECK(x.notes.length == 0);
    CHECK(x.v.chat == POLAR_CHAT_CHATML);
    CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, &question, 1),
              "<|im_start|>user\n What is 2+2?\n<|im_end|><|im_end|>\n<|im_start|>assistant\n");
    /* the one in the question is text */
    {
        int n = chat(&x, POLAR_CHAT_AUTO, &question, 1);
        int controls = 0;
        for (int i = 0; i < n; i++) controls += tok_is_control(&x.v, ids[i]);
        CHECK(controls == 3);
    }
    CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, talk, 4),
              "<|im_start|>system\nBe "
              "brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
              "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
    CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, NULL, 0), "<|im_start|>assistant\n");
    fixture_free(&x);
}

#define U "<|im_start|>user\nHi<|im_end|>\n"
#define OPEN "<|im_start|>assistant\n"
#define SYSTEM(text) "<|im_start|>system\n" text "<|im_end|>\n"
#define QWEN "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
#define HEAD3(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define DATES "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

/* What templates in the shapes of published ones write for a question without a system message and with one, by
 * hand. */
TEST(chat_templates) {
    static const struct {
        const char *arch, *template, *alone, *with_system, *note;
    } cases[] = {
        /* Qwen2.5: the branch of tools has the text too, another way */
        {"qwen2",
         "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- if messages[0]['role'] == 'system' %}\n"
         "        {{- messages[0]['content'] }}\n    {%- else %}\n        {{- 'You are wrong.' }}\n    {%- endif %}\n"
         "    {{- \"\\n\\n# Tools\\n\\n<tools>\" }}\n    {%- for tool in tools %}\n        {{- \"\\n\" }}\n"
         "        {{- tool | tojson }}\n    {%- endfor %}\n    {{- \"\\n</tools>{\\\"name\\\": "
         "<function-name>}<|im_end|>\\n\" }}\n"
         "{%- else %}\n    {%- if messages[0]['role'] == 'system' %}\n"
         "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n    {%- else %}\n"
         "        {{- '<|im_start|>system\\n" QWEN "<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}\n"
         "{%- for message in messages %}\n"
         "    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == "
         "\"assistant\" and not message.tool_calls) %}\n"
         "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
         "    {%- elif message.role == \"tool\" %}\n        {{- frobnicate(message) }}\n    {%- "
         "endif %}\n{%- endfor %}\n"
         "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
         SYSTEM(QWEN) U OPEN, SYSTEM("Be brief.") U OPEN, ""},
        /* Qwen1.5, Qwen2, SmolLM2: real new lines inside the strings */
        {"qwen2",
         "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
         "You are a helpful assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
         "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}" PROMPT("\n"),
         SYSTEM("You are a helpful assistant") U OPEN, SYSTEM("Be brief.") U OPEN, ""},
        /* an apostrophe, braces and a backslash in the text (Qwen2.5-Math) */
        {"qwen2",
         "{% if messages[0].role != 'system' %}{{ \"<|im_start|>system\\nDon't guess: answer in "
         "\\\\boxed{}.<|im_end|>\\n\""
         " }}{% endif %}" LOOP("\\n") PROMPT("\\n"),
         SYSTEM("Don't guess: answer in \\boxed{}.") U OPEN, SYSTEM("Be brief.") U OPEN, ""},
        {"qwen2",
         "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nI\\'m here' + '.' + "
         "'<|im_end|>\\n' }}{% endif %}"
         LOOP("\\n") PROMPT("\\n"),
         SYSTEM("I'm here.") U OPEN, SYSTEM("Be brief.") U OPEN, ""},
        /* text outside of tags, some of it on lines of its own */
        {"llama",
         "{% if messages[0]['role'] != 'system' %}\n<|im_start|>system\nYou are plain.<|im_end|>\n{% endif %}\n"
         "{% for m in messages %}\n<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}\n"
         "{# ready #}\n  {% if add_generation_prompt %}\n<|im_start|>assistant\n{{ '' }}{% endif %}",
         SYSTEM("You are plain.") U OPEN, SYSTEM("Be brief.") U OPEN, ""},
        /* a variable that is set first (DBRX and many more) */
        {"llama",
         "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
         "messages[0]['content'] %}{% elif 'system' not in messages[0]['role'] %}{% set loop_messages = messages %}"
         "{% set system_message = 'You are set.' %}{% endif %}{% for message in loop_messages %}{% "
         "if loop.index0 == 0 %}"
         "{% if system_message != false %}{{ '<|im_start|>system\\n' + system_message | trim + '<|im_end|>\\n'}}"
         "{% endif %}{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
         "'\\n' }}{% endfor %}" PROMPT("\\n"),
         SYSTEM("You are set.") U OPEN, SYSTEM("Be brief.") U OPEN,
         "system messages or earlier answers in a way of its own"}, /* it trims a system message and nothing else */
        {"llama",
         "{% set default = 'You are a default.' %}{{ '<|im_start|>system\\n' ~ (messages[0].content "
         "if messages[0].role =="
         " 'system' else default) ~ '<|im_end|>\\n' }}{% for m in messages if m.role != 'system' %}{% endfor %}",
         U OPEN, SYSTEM("Be brief.") U OPEN, "cannot follow it at \"for\""},
        /* Qwen3: no system text, a switch for thinking; a loop from behind, an object, texts' functions */
        {"qwen3",
         "{%- if messages[0].role == 'system' %}\n    {{- '<|im_start|>system\\n' + "
         "messages[0].content + '<|im_end|>\\n' }}"
         "\n{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n"
         "{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n"
         "    {%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not("
         "message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n"
         "        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n"
         "    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n"
         "    {%- if message.content is string %}\n        {%- set content = message.content %}\n    {%- else %}\n"
         "        {%- set content = '' %}\n    {%- endif %}\n"
         "    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}\n"
         "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n"
         "    {%- elif message.role == \"assistant\" %}\n        {%- set reasoning_content = '' %}\n"
         "        {%- if '</think>' in content %}\n            {%- set content = content.split('</think>')[-1] %}\n"
         "        {%- endif %}\n        {%- if loop.index0 > ns.last_query_index %}\n"
         "            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content }}\n        {%- else %}\n"
         "            {{- '<|im_start|>' + message.role + '\\n' + content }}\n        {%- endif %}\n"
         "        {{- '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
         "    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and "
         "enable_thinking is false %}\n"
         "        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}",
         U OPEN "<think>\n\n</think>\n\n", SYSTEM("Be brief.") U OPEN "<think>\n\n</think>\n\n", ""},
        /* QwQ, Qwen3-Thinking: the assistant's turn opens with a thought */
        {"qwen2", LOOP("\\n") "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}",
         U OPEN "<think>\n", SYSTEM("Be brief.") U OPEN "<think>\n", ""},
        /* Llama 3.1 and later: BOS, dates in front of any system text, contents trimmed */
        {"llama",
         "{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n"
         "{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
         "        {%- set date_string = strftime_now(\"%d %b %Y\") %}\n    {%- else %}\n"
         "        {%- set date_string = \"26 Jul 2024\" %}\n    {%- endif %}\n{%- endif %}\n"
         "{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n\n"
         "{#- This block extracts the system message, so we can slot it into the right place. #}\n"
         "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
         "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n\n"
         "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n"
         "{%- if tools is not none %}\n    {{- \"Environment: ipython\\n\" }}\n{%- endif %}\n"
         "{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n"
         "{{- system_message }}\n{{- \"<|eot_id|>\" }}\n{%- for message in messages %}\n"
         "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n"
         "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
         "'<|eot_id|>' }}\n    {%- elif 'tool_calls' in message %}\n        {{- raise_exception(\"one tool\") }}\n"
         "    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
         "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
         "<|begin_of_text|>" HEAD3("system") DATES "<|eot_id|>" HEAD3("user") "Hi<|eot_id|>" HEAD3("assistant"),
         "<|begin_of_text|>" HEAD3("system") DATES "Be brief.<|eot_id|>"
         HEAD3("user") "Hi<|eot_id|>" HEAD3("assistant"),
         ""},
        /* Llama 3 */
        {"llama", LLAMA3, "<|begin_of_text|>" HEAD3("user") "Hi<|eot_id|>" HEAD3("assistant"),
         "<|begin_of_text|>" HEAD3("system") "Be brief.<|eot_id|>" HEAD3("user") "Hi<|eot_id|>" HEAD3("assistant"), ""},
        /* BOS in front, although the file does not ask for it (InternLM2) */
        {"llama", "{{ bos_token }}" LOOP("\\n") PROMPT("\\n"), "<|begin_of_text|>" U OPEN,
         "<|begin_of_text|>" SYSTEM("Be brief.") U OPEN, ""},
        /* the tokens of ChatML in a format that is another one (Phi-4): raw, and said */
        {"llama",
         "{% for message in messages %}{{'<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + "
         "'<|im_end|>'}}{% endfor %}{{'<|im_start|>assistant<|im_sep|>'}}",
         "Hi", "Be brief.\n\nHi", "the chat template is none that polar knows"},
        {"llama", "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}", "Hi", "Be brief.\n\nHi",
         "the chat template is none that polar knows"},
        /* a system message without its header (Yi-1.5) */
        {"llama",
         "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}{% for message in messages %}"
         "{% if message['role'] == 'user' %}{{ '<|im_start|>user\\n' + message['content'] + '<|im_end|>\\n"
         "<|im_start|>assistant\\n' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + '<|im_end|>' + "
         "'\\n' }}{% endif %}{% endfor %}",
         U OPEN, SYSTEM("Be brief.") U OPEN, "system messages or earlier answers in a way of its own"},
        /* what is not followed is said, and the format is still the one that its tokens tell */
        {"llama", "{{ strftime_now('%Y') }}" LOOP("\\n") PROMPT("\\n"), U OPEN, SYSTEM("Be brief.") U OPEN,
         "cannot follow it at \"strftime_now\""},
        {"llama", "{% if x %}" LOOP("\\n"), U OPEN, SYSTEM("Be brief.") U OPEN, "cannot follow it at \"if\""},
        /* from behind twice is from the front; a part of a list from behind is not followed, nor are huge numbers */
        {"llama", "{% for m in messages[::-1][::-1] %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
         "{{ '<|im_end|>\\n' }}{% endfor %}" PROMPT("\\n"), U OPEN, SYSTEM("Be brief.") U OPEN, ""},
        {"llama", "{% set x = messages[::-1][0::-1] %}" LOOP("\\n"), U OPEN, SYSTEM("Be brief.") U OPEN,
         "cannot follow it at \"a slice\""},
        {"llama", "{% set n = namespace(a=2000) %}{% if '' in x %}{% endif %}"
         DOUBLE DOUBLE DOUBLE LOOP("\\n"), U OPEN, SYSTEM("Be brief.") U OPEN, "cannot follow it at \"a sum\""},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        fixture x;
        if (!chat_fixture(&x, cases[i].arch, cases[i].template, 0)) return;
        CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, talk + 1, 1), cases[i].alone);
        CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, talk, 2), cases[i].with_system);
        if (!*cases[i].note) CHECK_STR(x.notes.at ? x.notes.at : "", "");
        else CHECK(x.notes.at && strstr(x.notes.at, cases[i].note));
        fixture_free(&x);
    }
}

/* Templates that are cut, garbled or deep end, with a note or without. */
TEST(chat_template_garbage) {
    static const char whole[] =
        "{%- set ns = namespace(a=true) %}{% for m in messages[::-1] %}{% if not (m.role == 'user' and "
        "m.content|trim is string) %}{{ '<|im_start|>' ~ m['role'] }}{% else %}{% set ns.a = 1 - 2 %}"
        "{% endif %}{% endfor %}{{ messages[0].get('x', 'y') if ns.a else \"<|im_start|>\" }}";
    static char text[5000];
    uint64_t state = 4;
    for (size_t n = 0; n < sizeof whole + 400; n++) {
        fixture x;
        memcpy(text, whole, sizeof whole);
        if (n < sizeof whole) text[n] = 0;
        else
            for (int k = 0; k < 3; k++) {
                const size_t at = (size_t)(rng_next(&state) % (sizeof whole - 1));
                text[at] = whole[rng_next(&state) % (sizeof whole - 1)];
            }
        if (!chat_fixture(&x, "llama", text, 0)) return;
        CHECK(chat(&x, POLAR_CHAT_AUTO, talk, 2) > 0);
        fixture_free(&x);
    }
    for (int kind = 0; kind < 5; kind++) {
        static const char *const deep[] = {"{{ ((((", "{{ - - - - ", "{{ not not not ", "{% if x %}",
                                           "{% for m in messages %}"};
        fixture x;
        strcpy(text, "<|im_start|>");
        while (strlen(text) + 40 < sizeof text) strcat(text, kind ? deep[kind] + 3 * (kind < 3) : "((((");
        memcpy(text + 12, deep[kind], strlen(deep[kind]));
        if (!chat_fixture(&x, "llama", text, 0)) return;
        CHECK(x.notes.length > 0);
        fixture_free(&x);
    }
}

/* Why thinking cannot be turned on; "" where it can, and the conversation is `expected`. */
static const char *think_on(const char *arch, const char *template, const char *expected) {
    static polar_error e;
    fixture x;
    int n;
    if (!chat_fixture(&x, arch, template, 0)) return "no fixture";
    memset(&e, 0, sizeof e);
    if (tok_chat_encode(&x.v, &x.a, POLAR_CHAT_AUTO, 1, talk, 2, ids, MAX_IDS, &n, &e))
        CHECK(n == 0 && e.status == POLAR_UNSUPPORTED);
    else {
        thinking = 1;
        CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, talk, 2), expected);
        thinking = 0;
    }
    fixture_free(&x);
    return e.message;
}

/* Templates in the shapes of published ones with enable_thinking true, by hand. */
TEST(thinking_on) {
    static const char none[] = "has no thinking to turn on", unknown[] = "cannot follow the chat template";
    static const char closed[] = "{%- if enable_thinking is defined and enable_thinking is false %}"
                                 "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}";
    char text[2000];
    sprintf(text, "%s%s%s", LOOP("\\n"), PROMPT("\\n"), closed); /* Qwen3 */
    CHECK_STR(think_on("qwen3", text, SYSTEM("Be brief.") U OPEN), "");
    sprintf(text, "%s%s{%%- if enable_thinking %%}{{- '<think>\\n' }}{%%- else %%}{{- '<think>\\n\\n</think>\\n\\n' }}"
                  "{%%- endif %%}", LOOP("\\n"), PROMPT("\\n")); /* later ones open the thought themselves */
    CHECK_STR(think_on("qwen3", text, SYSTEM("Be brief.") U OPEN "<think>\n"), "");
    sprintf(text, "%s%s{{- '<think>\\n' }}", LOOP("\\n"), PROMPT("\\n")); /* QwQ always thinks */
    CHECK_STR(think_on("qwen2", text, SYSTEM("Be brief.") U OPEN "<think>\n"), "");
    /* a switch that also changes the system message (SmolLM3) */
    sprintf(text, "{{- '<|im_start|>system\\nMode: ' ~ ('/think' if enable_thinking else '/no_think') ~ '\\n' }}"
                  "{%%- if messages[0].role == 'system' %%}{{- messages[0].content }}{%%- endif %%}"
                  "{{- '<|im_end|>\\n' }}{%%- for message in messages %%}{%%- if message.role != 'system' %%}"
                  "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%%- endif %%}"
                  "{%%- endfor %%}%s", PROMPT("\\n"));
    CHECK_STR(think_on("llama", text, SYSTEM("Mode: /think\nBe brief.") U OPEN), "");
    sprintf(text, "%s%s{%%- if enable_thinking %%}{{- strange() }}{%%- endif %%}", LOOP("\\n"), PROMPT("\\n"));
    CHECK(strstr(think_on("qwen3", text, ""), unknown));
    sprintf(text, "%s%s{%%- if enable_thinking %%}{%%- endif %%}", LOOP("\\n"), PROMPT("\\n")); /* no effect */
    CHECK(strstr(think_on("llama", text, ""), none));
    sprintf(text, "%s%s", LOOP("\\n"), PROMPT("\\n"));
    CHECK(strstr(think_on("qwen2", text, ""), none));
    CHECK(strstr(think_on("llama", LLAMA3, ""), none));
    CHECK(strstr(think_on("qwen3", NULL, ""), none)); /* raw */
}

TEST(chatml_think) {
    static const char template[] = LOOP("\\n") PROMPT("\\n") "{%- if enable_thinking is false %}"
                                   "{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}";
    fixture x;
    int n;
    for (int i = 0; i < 2; i++) { /* without a template, too */
        if (!chat_fixture(&x, "qwen3", i ? NULL : template, 0)) return;
        n = chat(&x, POLAR_CHAT_CHATML, talk + 1, 1);
        CHECK_STR(chat_text(&x, POLAR_CHAT_CHATML, talk + 1, 1), U OPEN "<think>\n\n</think>\n\n");
        CHECK(n > 8 && ids[n - 6] == 256 + N_MERGES && ids[n - 3] == 256 + N_MERGES + 1);
        thinking = 1;
        CHECK_STR(chat_text(&x, POLAR_CHAT_CHATML, talk + 1, 1), U OPEN);
        thinking = 0;
        fixture_free(&x);
    }
    if (!chat_fixture(&x, "qwen2", NULL, 0)) return;
    CHECK(!strstr(chat_text(&x, POLAR_CHAT_CHATML, talk + 1, 1), "<think>"));
    fixture_free(&x);
    if (!chat_fixture(&x, "qwen3", LOOP("\\n") PROMPT("\\n"), 0)) return; /* a later one that does not think */
    CHECK(!strstr(chat_text(&x, POLAR_CHAT_AUTO, talk + 1, 1), "<think>"));
    fixture_free(&x);
}

TEST(llama3_chat) {
    fixture x;
    if (!chat_fixture(&x, "llama", LLAMA3, 1)) return;
    CHECK(x.v.chat == POLAR_CHAT_LLAMA3);
    CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, &question, 1),
              "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?\n<|im_end|><|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n");
    CHECK_STR(chat_text(&x, POLAR_CHAT_CHATML, talk + 1, 1),
              "<|begin_of_text|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    fixture_free(&x);
    if (!chat_fixture(&x, "llama", NULL, 0)) return; /* its template writes BOS by itself */
    CHECK(!strncmp(chat_text(&x, POLAR_CHAT_LLAMA3, talk, 1), "<|begin_of_text|><|start_header_id|>system", 42));
    CHECK(x.v.chat == POLAR_CHAT_RAW);
    fixture_free(&x);
}

TEST(raw_chat) {
    static const polar_message parts[] = {{"user", "ab"}, {"user", "ab <|eot_id|>"}};
    fixture x;
    if (!chat_fixture(&x, "llama", "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}", 1)) return;
    CHECK(x.v.chat == POLAR_CHAT_RAW);
    CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, parts, 2), "<|begin_of_text|>abab <|eot_id|>");
    CHECK(ids[0] == x.v.bos && !tok_is_control(&x.v, ids[chat(&x, POLAR_CHAT_RAW, parts, 2) - 1]));
    CHECK_STR(chat_text(&x, POLAR_CHAT_AUTO, talk, 2), "<|begin_of_text|>Be brief.\n\nHi");
    CHECK_STR(chat_text(&x, POLAR_CHAT_CHATML, talk + 1, 1), "<|begin_of_text|>" U OPEN);
    fixture_free(&x);
}

TEST(chat_errors) {
    static const polar_message incomplete = {"user", NULL};
    uint64_t state = 7;
    toy t;
    blob b;
    fixture x;
    int n;
    polar_error e = {0};
    toy_make(&t, &state, 0);
    b = toy_bpe(&t, "llama", "qwen2", NULL, 0, 0);
    blob_string(&b, "tokenizer.chat_template", "<|im_start|>"); /* but no such token */
    CHECK(blob_open(&b, &x));
    CHECK(x.v.chat == POLAR_CHAT_RAW);
    CHECK(tok_chat_encode(&x.v, &x.a, POLAR_CHAT_CHATML, 0, talk, 1, ids, MAX_IDS, &n, &e) == POLAR_MISMATCH);
    CHECK_STR(e.message, "the vocabulary has no token <|im_start|>, which the chat format needs");
    CHECK(tok_chat_encode(&x.v, &x.a, POLAR_N_CHAT, 0, talk, 1, ids, MAX_IDS, &n, NULL) == POLAR_ARGUMENT);
    CHECK(tok_chat_encode(&x.v, &x.a, POLAR_CHAT_RAW, 0, &incomplete, 1, ids, MAX_IDS, &n, NULL) == POLAR_ARGUMENT);
    CHECK(tok_chat_encode(&x.v, &x.a, POLAR_CHAT_RAW, 0, NULL, -1, ids, MAX_IDS, &n, NULL) == POLAR_ARGUMENT);
    { /* more tokens than an int counts, which takes too long to be tried with texts */
        tok_coder c = tok_coder_begin(&x.v, &x.a, NULL, 0, &e);
        c.n = INT_MAX - 1;
        tok_emit(&c, 'a');
        CHECK(c.n == INT_MAX && !c.status);
        e = (polar_error){0};
        tok_emit(&c, 'a');
        CHECK(tok_coder_end(&c, &n) == POLAR_ARGUMENT && n == 0 && e.status == POLAR_ARGUMENT);
        CHECK_STR(e.message, "more than 2147483647 tokens");
    }
    fixture_free(&x);
    CHECK_STR(polar_chat_name(POLAR_CHAT_CHATML), "chatml");
    CHECK(!polar_chat_name(POLAR_N_CHAT) && !polar_chat_name((polar_chat)-1));
}

/* The rendering of Qwen's own template, tokenized as a whole by its own tokenizer. */
TEST(qwen3_chat) {
    static const polar_message messages[] = {{"system", "You are a helpful assistant."}, {"user", "What is 2+2?"}};
    fixture x;
    if (!fixture_shared(&x, "data/tokenizer/qwen3-vocab.gguf")) return;
    CHECK_IDS(ids, chat(&x, POLAR_CHAT_CHATML, messages, 2),
              "151644 8948 198 2610 525 264 10950 17847 13 151645 198 151644 872 198 3838 374 220 17 10 17 30 151645 "
              "198 151644 "
              "77091 198 151667 271 151668 271");
    CHECK(x.v.eos == 151645 && tok_is_end(&x.v, 151645) && tok_is_end(&x.v, 151643) && !x.v.add_bos);
    fixture_free(&x);
}

/* --- vocabularies that break the rules */

typedef enum broken {
    NO_MODEL,
    OTHER_MODEL,
    NO_TOKENS,
    EMPTY_TOKENS,
    TYPES_SHORT,
    TYPE_RANGE,
    NO_MERGES,
    OTHER_PRE,
    NO_SCORES,
    SCORE_NAN,
    BYTE_NAME,
    LONG_SPECIAL,
    TEMPLATE_TYPE,
    N_BROKEN
} broken;

static const struct {
    const char *message;
    polar_status status;
} broken_errors[N_BROKEN] = {
    [NO_MODEL] = {"memory: the key tokenizer.ggml.model is missing", POLAR_FORMAT},
    [OTHER_MODEL] = {"memory: the tokenizer bert is unknown here, expected gpt2 or llama", POLAR_UNSUPPORTED},
    [NO_TOKENS] = {"memory: the key tokenizer.ggml.tokens is missing", POLAR_FORMAT},
    [EMPTY_TOKENS] = {"memory: tokenizer.ggml.tokens has 0 elements in 0 bytes", POLAR_FORMAT},
    [TYPES_SHORT] = {"memory: tokenizer.ggml.token_type has 1 elements, expected one for each of 2 tokens",
                     POLAR_FORMAT},
    [TYPE_RANGE] = {"memory: tokenizer.ggml.token_type of token 1 is 7, expected 0 to 6", POLAR_FORMAT},
    [NO_MERGES] = {"memory: the key tokenizer.ggml.merges is missing", POLAR_FORMAT},
    [OTHER_PRE] =
        {"memory: the pre-tokenizer tekken is unknown here; known are llama-bpe, smaug-bpe, qwen2, gpt-2, smollm",
         POLAR_UNSUPPORTED},
    [NO_SCORES] = {"memory: the key tokenizer.ggml.scores is missing", POLAR_FORMAT},
    [SCORE_NAN] = {"memory: tokenizer.ggml.scores of token 1 is no finite number", POLAR_FORMAT},
    [BYTE_NAME] = {"memory: token 1 is a byte by its type, expected a name like <0x0A>, found b", POLAR_FORMAT},
    [LONG_SPECIAL] = {"memory: the special token 1 has 1025 bytes, expected at most 1024", POLAR_UNSUPPORTED},
    [TEMPLATE_TYPE] = {"memory: tokenizer.chat_template is of type u32, expected a string", POLAR_FORMAT},
};

TEST(broken_vocabularies) {
    static char longest[1025];
    memset(longest, 'x', sizeof longest);
    for (broken i = 0; i < N_BROKEN; i++) {
        int spm = i == NO_SCORES || i == SCORE_NAN || i == BYTE_NAME;
        blob b;
        fixture x;
        blob_begin(&b, "llama",
                   i == OTHER_MODEL ? "bert"
                   : spm            ? "llama"
                                    : "gpt2",
                   i == OTHER_PRE ? "tekken" : "qwen2");
        if (i == NO_MODEL) b.at[strlen("GGUF") + 20 + 8 + 20 + 4 + 8 + 5 + 8] = 'T';
        if (i != NO_TOKENS) {
            blob_array(&b, "tokenizer.ggml.tokens", POLAR_GGUF_STRING, i == EMPTY_TOKENS ? 0 : 2);
            if (i != EMPTY_TOKENS)
                blob_text(&b, "a", 1), blob_text(&b, i == LONG_SPECIAL ? longest : "b", i == LONG_SPECIAL ? 1025 : 1);
        }
        blob_array(&b, "tokenizer.ggml.token_type", POLAR_GGUF_I32, i == TYPES_SHORT ? 1 : 2);
        blob_u32(&b, 1);
        if (i != TYPES_SHORT)
            blob_u32(&b, i == TYPE_RANGE ? 7 : i == BYTE_NAME ? TOK_BYTE : i == LONG_SPECIAL ? TOK_CONTROL : 1);
        if (spm && i != NO_SCORES) {
            blob_array(&b, "tokenizer.ggml.scores", POLAR_GGUF_F32, 2);
            blob_u32(&b, 0);
            blob_u32(&b, i == SCORE_NAN ? 0x7fc00000 : 0);
        } else if (!spm && i != NO_MERGES) blob_array(&b, "tokenizer.ggml.merges", POLAR_GGUF_STRING, 0);
        if (i == TEMPLATE_TYPE) blob_int(&b, "tokenizer.chat_template", 2);
        CHECK(!blob_open(&b, &x));
        CHECK_STR(x.e.message, broken_errors[i].message);
        CHECK(x.e.status == broken_errors[i].status);
    }
}

/* The id of a token that there is not is said and left out; -1, with or without a sign, means none. */
TEST(ids_outside) {
    blob b;
    fixture x;
    blob_begin(&b, "llama", "gpt2", "qwen2");
    blob_array(&b, "tokenizer.ggml.tokens", POLAR_GGUF_STRING, 2);
    blob_text(&b, "a", 1), blob_text(&b, "b", 1);
    blob_array(&b, "tokenizer.ggml.merges", POLAR_GGUF_STRING, 0);
    blob_int(&b, "tokenizer.ggml.bos_token_id", 1);
    blob_int(&b, "tokenizer.ggml.eos_token_id", 2);
    blob_int(&b, "tokenizer.ggml.eot_token_id", UINT32_MAX);
    blob_key(&b, "tokenizer.ggml.eom_token_id", POLAR_GGUF_U64);
    blob_u64(&b, UINT64_MAX);
    blob_key(&b, "tokenizer.ggml.padding_token_id", POLAR_GGUF_U64);
    blob_u64(&b, (uint64_t)1 << 63);
    CHECK(blob_open(&b, &x));
    if (x.e.status) return;
    CHECK(x.v.bos == 1 && x.v.eos == -1 && x.v.eot == -1);
    CHECK_STR(x.notes.at, "memory: tokenizer.ggml.eos_token_id is 2, which is no token of the vocabulary (0 to 1): "
                          "left out\n"
                          "memory: tokenizer.ggml.padding_token_id is 9223372036854775808, which is no token of the "
                          "vocabulary (0 to 1): left out\n");
    fixture_free(&x);
}

/* Merges that name nothing, tokens twice, tokens outside of the alphabet: harmless. A byte without a token is
 * an error of the text that needs it. */
TEST(odd_vocabulary) {
    static const char *const tokens[] = {"a", "b", "ab", "ab", "\xe6\xbc\xa2", "", "<|x|>", "c"};
    static const char *const merges[] = {"",
                                         " ",
                                         "a",
                                         "a ",
                                         " b",
                                         "a c",
                                         "x y",
                                         "a b",
                                         "a b",
                                         "ab ab",
                                         "\xff \xff",
                                         "a b c",
                                         "aaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbb"};
    blob b;
    fixture x;
    polar_error e = {0};
    int n;
    blob_begin(&b, "llama", "gpt2", NULL);
    blob_array(&b, "tokenizer.ggml.tokens", POLAR_GGUF_STRING, COUNT(tokens));
    for (int i = 0; i < COUNT(tokens); i++) blob_text(&b, tokens[i], strlen(tokens[i]));
    blob_array(&b, "tokenizer.ggml.merges", POLAR_GGUF_STRING, COUNT(merges));
    for (int i = 0; i < COUNT(merges); i++) blob_text(&b, merges[i], strlen(merges[i]));
    blob_int(&b, "tokenizer.ggml.bos_token_id", UINT32_MAX);
    blob_int(&b, "tokenizer.ggml.eos_token_id", 6);
    CHECK(blob_open(&b, &x));
    CHECK_STR(x.e.message, "");
    if (x.e.status) return;
    CHECK(x.v.bos == -1 && tok_is_end(&x.v, 6) && tok_is_control(&x.v, 6));
    CHECK_STR(tok_name(&x.v), "gpt-2");
    CHECK_IDS(ids, encode(&x, "ababc", 5, 0), "2 2 7");
    CHECK(tok_encode(&x.v, &x.a, "abd", 3, 0, ids, MAX_IDS, &n, &e) == POLAR_FORMAT && n == 0);
    CHECK_STR(e.message, "the vocabulary has no token for the byte 0x64, and none for the unknown");
    fixture_free(&x);
}

/* Texts that all fall on one place of the hash table: refused, not slow. */
TEST(colliding_tokens) {
    enum { N = 2000 };
    uint32_t mask = tok_table_mask(N), target = tok_hash((const uint8_t *)"x", 1) & mask;
    blob b;
    fixture x;
    int found = 0;
    blob_begin(&b, "llama", "gpt2", "qwen2");
    blob_array(&b, "tokenizer.ggml.tokens", POLAR_GGUF_STRING, N);
    for (uint32_t i = 0; found < N; i++) {
        char s[20];
        size_t n = (size_t)sprintf(s, "%x", (unsigned)i);
        if (found < 400 && (tok_hash((const uint8_t *)s, n) & mask) != target) continue;
        blob_text(&b, s, n);
        found++;
    }
    blob_array(&b, "tokenizer.ggml.merges", POLAR_GGUF_STRING, 0);
    CHECK(!blob_open(&b, &x));
    CHECK_STR(x.e.message, "memory: the tokens collide in the hash table");
}

/* The fuzzer over every length of a small file, and over every byte of it changed. */
TEST(damaged_files) {
    static const char *const specials[] = {"<u>", "<|im_start|>", "<|im_end|>"};
    uint64_t state = 8;
    toy t;
    toy_make(&t, &state, 1);
    t.n = 256 + 12;
    for (int kind = 0; kind < 2; kind++) {
        blob b =
            kind ? toy_sentencepiece(&t, &state, 0, specials, 1) : toy_bpe(&t, "qwen3", "llama-bpe", specials, 3, 1);
        blob_string(&b, "tokenizer.chat_template", "<|im_start|>system\\nabc d<|im_end|> <u> \xe6\xbc\xa2");
        wr_u64(b.at + 16, b.n_keys);
        for (size_t i = 0; i < 2 * b.n; i++) {
            size_t size = i < b.n ? b.n : i - b.n;
            uint8_t *copy = malloc(size ? size : 1); /* no byte more: sanitizers see what is read beyond */
            memcpy(copy, b.at, size);
            if (i < b.n) copy[i] ^= (uint8_t)(1 << rng_next(&state) % 8);
            LLVMFuzzerTestOneInput(copy, size);
            free(copy);
        }
        free(b.at);
    }
}

/* --- the command */

/* What polar tokenize prints on the toy: its output, or that of stderr after a failure, and a line's end. */
static void check_command(const char *input, const char *arguments, int status, const char *expected) {
    char line[1000];
    write_text("input", input);
    snprintf(line, sizeof line, "polar tokenize -m toy.gguf <input %s", arguments);
    CHECK(run(line) == status);
    snprintf(line, sizeof line, "%s\n", expected);
    CHECK_STR(output, line);
}

TEST(command) {
    static const char *const specials[] = {"<think>", "<|x|>"};
    uint64_t state = 10;
    toy t;
    blob b;
    if (run("polar --version")) {
        SKIP("build/polar is not built");
        return;
    }
    toy_make(&t, &state, 0);
    t.n = 256;
    b = toy_bpe(&t, "llama", "llama-bpe", specials, 2, 1);
    blob_int(&b, "tokenizer.ggml.bos_token_id", 257);
    wr_u64(b.at + 16, b.n_keys);
    write_file("toy.gguf", b.at, b.n);
    free(b.at);
    check_command("", "ab", 0, "97,98");
    check_command("", "--bos --special 'a<think>'", 0, "257,97,256");
    write_file("zero", "a", 2);
    check_command("", "<zero", 0, "97,0");
    check_command("", "--json ''", 0, "{\"tokens\":[]}");
    check_command("", "--decode 257,97,256,98", 0, "a<think>b");
    check_command("", "--decode --special '257 97'", 0, "<|x|>a");
    check_command("{\"text\":\"\\u00e9\"}\n", "--jsonl", 0, "{\"tokens\":[195,169]}");
    check_command("{\"tokens\":[195,169]}\n", "--jsonl --decode -", 0, "{\"text\":\"\xc3\xa9\"}");
    check_command("", "--decode 97,258", 1, "polar tokenize: token 1 of 2 is 258, expected 0 to 257");
    check_command("", "--decode 97,a", 1, "polar tokenize: a token id is expected at \"a\"");
    check_command("{\"tokens\":[-1]}\n", "--jsonl --decode", 1,
                  "polar tokenize: stdin:1: token 0 of 1 is -1, expected 0 to 257");
    check_command("{\"txt\":1}\n", "--jsonl", 1, "polar tokenize: stdin:1: field \"text\" must be a string");
}

/* --- memory and time */

typedef struct meter {
    int left; /* allocations until one fails; < 0: none does */
    size_t held;
} meter;

static void *meter_alloc(void *user, size_t size) {
    meter *m = user;
    if (!m->left) return NULL;
    m->left--;
    m->held += size;
    return malloc(size);
}

static void meter_free(void *user, void *p, size_t size) {
    ((meter *)user)->held -= size;
    free(p);
}

TEST(no_memory) {
    fixture x;
    meter m = {-1, 0};
    polar_allocator a = {meter_alloc, meter_free, &m};
    int done = 0;
    int n;
    if (!chat_fixture(&x, "qwen3", "<|im_start|>", 0)) return;
    for (int i = 0; !done; i++) {
        tok_vocab v;
        polar_error e = {0};
        m.left = i;
        done = tok_load(&v, &x.file, &x.notes, &a, &e) == POLAR_OK;
        CHECK(done || e.status == POLAR_MEMORY);
        if (done) tok_free(&v, &a);
        CHECK(m.held == 0);
    }
    for (int i = done = 0; !done; i++) {
        polar_error e = {0};
        m.left = i;
        done = tok_chat_encode(&x.v, &a, POLAR_CHAT_CHATML, 0, talk, 4, ids, MAX_IDS, &n, &e) == POLAR_OK;
        CHECK(done || (e.status == POLAR_MEMORY && n == 0));
        CHECK(m.held == 0);
    }
    fixture_free(&x);
}

/* A text of one unit again and again, to tokens and back. */
typedef struct repeated {
    const fixture *x;
    const char *unit;
} repeated;

static void encode_repeated(void *context, size_t n) {
    const repeated *r = context;
    const size_t unit = strlen(r->unit), most = n + 1; /* SentencePiece adds a space */
    char *s = malloc(n), *back = malloc(n);
    int32_t *tokens = malloc(most * sizeof *tokens);
    size_t length;
    int n_tokens;
    for (size_t at = 0; at < n; at++) s[at] = r->unit[at % unit];
    CHECK(tok_encode(&r->x->v, &r->x->a, s, n, POLAR_TOKENIZE_SPECIAL, tokens, (int)most, &n_tokens, NULL) == POLAR_OK);
    CHECK(tok_decode(&r->x->v, tokens, n_tokens, 0, back, n, &length, NULL) == POLAR_OK);
    CHECK(length == n && !memcmp(s, back, n));
    free(s);
    free(back);
    free(tokens);
}

/* Up to a megabyte of the same, and of everything. */
static void check_linear(const fixture *x) {
    static const char *const units[] = {"a", " ", "\n", "\xf0\x9f\x98\x80", "<|", "\xff",
                                        "The quick brown fox jumps over the lazy dog 12 times. "};
    for (int i = 0; i < COUNT(units); i++) {
        repeated r = {x, units[i]};
        CHECK(test_linear(encode_repeated, &r, (size_t)test_repeat(250000)));
    }
}

TEST(linear_time) {
    uint64_t state = 9;
    toy t;
    blob b;
    fixture x;
    toy_make(&t, &state, 1);
    b = toy_sentencepiece(&t, &state, 1, NULL, 0);
    CHECK(blob_open(&b, &x));
    check_linear(&x);
    fixture_free(&x);
}

TEST(linear_with_real_vocabularies) {
    static const char *const names[] = {"data/tokenizer/llama3-vocab.gguf", "data/tokenizer/qwen3-vocab.gguf",
                                        "data/tokenizer/ggml-vocab-llama-spm.gguf"};
    for (int i = 0; i < COUNT(names); i++) {
        fixture x;
        if (!fixture_shared(&x, names[i])) return;
        check_linear(&x);
        fixture_free(&x);
    }
}

static const test_case tests[] = {
    {"llama3_vectors", test_llama3_vectors},
    {"qwen3_vectors", test_qwen3_vectors},
    {"ggml_vectors", test_ggml_vectors},
    {"reference_prompts", test_reference_prompts},
    {"unicode_classes", test_unicode_classes},
    {"utf8", test_utf8},
    {"splits", test_splits},
    {"pre_tokenizer_names", test_pre_tokenizer_names},
    {"naive_bpe", test_naive_bpe},
    {"naive_sentencepiece", test_naive_sentencepiece},
    {"round_trip", test_round_trip},
    {"specials", test_specials},
    {"sentencepiece_specials", test_sentencepiece_specials},
    {"chatml", test_chatml},
    {"chat_templates", test_chat_templates},
    {"chat_template_garbage", test_chat_template_garbage},
    {"chatml_think", test_chatml_think}, {"thinking_on", test_thinking_on},
    {"llama3_chat", test_llama3_chat},
    {"raw_chat", test_raw_chat},
    {"chat_errors", test_chat_errors},
    {"qwen3_chat", test_qwen3_chat},
    {"broken_vocabularies", test_broken_vocabularies},
    {"ids_outside", test_ids_outside},
    {"odd_vocabulary", test_odd_vocabulary},
    {"colliding_tokens", test_colliding_tokens},
    {"damaged_files", test_damaged_files},
    {"command", test_command},
    {"no_memory", test_no_memory},
    {"linear_time", test_linear_time},
    {"linear_with_real_vocabularies", test_linear_with_real_vocabularies},
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
