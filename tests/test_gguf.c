/* GGUF: real files, hostile files, writer and reader against each other. */
#include "inside.h"
#include "../examples/cli/gguf_writer.c"
#include "test.h"

static const char *shared_path(const char *path) {
    static char full[512];
    snprintf(full, sizeof full, "%s/%s", getenv("POLAR_SHARED") ? getenv("POLAR_SHARED") : "../shared", path);
    return full;
}

TEST(real_files) {
    static const struct {
        const char *path;
        int n_kv, n_tensors, n_vocab;
    } files[] = {{"oracle/model_llama.gguf", 24, 57, 0},
                 {"oracle/model_qwen2moe.gguf", 27, 105, 0},
                 {"data/models/stories260K-f32.gguf", 21, 47, 512},
                 {"data/models/tinystories656K-f32.gguf", 22, 20, 2048},
                 {"data/tokenizer/llama3-vocab.gguf", 12, 0, 128256},
                 {"data/tokenizer/qwen3-vocab.gguf", 13, 0, 151936}};
    for (int i = 0; i < COUNT(files); i++)
        for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
            gguf_file g;
            polar_error e = {0};
            FILE *f = test_shared(files[i].path);
            const polar_gguf_pair *tokens;
            if (!f) return;
            fclose(f);
            CHECK(gguf_open(&g, shared_path(files[i].path), no_mmap, NULL, &e) == POLAR_OK);
            CHECK_STR(e.message, "");
            if (e.status) continue;
            CHECK((int)g.n_kv == files[i].n_kv && (int)g.n_tensors == files[i].n_tensors);
            if (files[i].n_vocab) {
                gguf_strings it;
                const char *s;
                size_t n, count = 0;
                CHECK(gguf_get_array(&g, "tokenizer.ggml.tokens", POLAR_GGUF_STRING, &tokens, 1, &e) == POLAR_OK);
                CHECK((int)tokens->count == files[i].n_vocab);
                for (it = gguf_strings_begin(tokens); gguf_strings_next(&it, &s, &n);) count++;
                CHECK(count == tokens->count);
            }
            gguf_close(&g);
        }
}

/* --- an allocator that counts, and refuses the n-th request */

typedef struct counter {
    size_t live, largest;
    int calls, refuse; /* refuse the call of this number, from 1; 0: none */
} counter;

static void *counter_alloc(void *user, size_t size) {
    counter *c = user;
    void *p = ++c->calls == c->refuse ? NULL : malloc(size);
    if (p) c->live += size;
    c->largest = MAX(c->largest, size);
    return p;
}

static void counter_free(void *user, void *p, size_t size) {
    ((counter *)user)->live -= size;
    free(p);
}

static polar_allocator counting(counter *c) {
    polar_allocator a = {counter_alloc, counter_free, c};
    memset(c, 0, sizeof *c);
    return a;
}

/* --- a small file with one of everything */

static const uint8_t q8_blocks[2 * 34] = {1, 2, 3, [33] = 4, [67] = 5};
static const float floats[6] = {1, -2, 0.5f, 3e38f, 0, -0.0f};

static void fill(gguf_writer *w) {
    static const char *const words[] = {"a", "", "bc\xC3\xA9"};
    static const int32_t ints[] = {-1, 2, INT32_MIN};
    static const float scores[] = {0.5f, -1};
    static const uint16_t shorts[] = {1, 65535};
    static const uint8_t bools[] = {1, 0};
    static const double doubles[] = {0.1};
    static const int64_t row[] = {6}, two[] = {32, 2}, four[] = {1, 1, 1, 1};
    gguf_writer_set_string(w, "general.architecture", "llama", 5);
    gguf_writer_set_u32(w, "u32", 7);
    gguf_writer_set_u32(w, "twice", 1);
    gguf_writer_set_i32(w, "i32", -7);
    gguf_writer_set_u64(w, "u64", UINT64_MAX);
    gguf_writer_set_f32(w, "f32", 0.1f);
    gguf_writer_set_f64(w, "f64", 0.1);
    gguf_writer_set_bool(w, "bool", 5);
    gguf_writer_set_strings(w, "words", words, NULL, 3);
    gguf_writer_set_array(w, "ints", POLAR_GGUF_I32, ints, 3);
    gguf_writer_set_array(w, "scores", POLAR_GGUF_F32, scores, 2);
    gguf_writer_set_array(w, "shorts", POLAR_GGUF_U16, shorts, 2);
    gguf_writer_set_array(w, "bools", POLAR_GGUF_BOOL, bools, 2);
    gguf_writer_set_array(w, "doubles", POLAR_GGUF_F64, doubles, 1);
    gguf_writer_set_array(w, "none", POLAR_GGUF_U8, NULL, 0);
    gguf_writer_set_u32(w, "twice", 2);
    gguf_writer_add_tensor(w, "floats", 0, 1, row);
    gguf_writer_add_tensor(w, "blk.0.q8", polar_gguf_type_find("Q8_0"), 2, two);
    gguf_writer_add_tensor(w, "one", 0, 4, four);
    gguf_writer_write_f32(w, floats, 6);
    for (int i = 0; i < COUNT(q8_blocks); i += 17) gguf_writer_write(w, q8_blocks + i, 17);
    gguf_writer_write_f32(w, floats, 1);
}

/* Its bytes, to be freed. */
static uint8_t *small_file(size_t *size) {
    gguf_writer *w = NULL;
    polar_error e = {0};
    uint8_t *copy = NULL;
    const void *data;
    CHECK(gguf_writer_open(&w, NULL, NULL, &e) == POLAR_OK);
    fill(w);
    CHECK(gguf_writer_finish(w, &e) == POLAR_OK);
    CHECK_STR(e.message, "");
    data = gguf_writer_data(w, size);
    copy = malloc(*size);
    memcpy(copy, data, *size);
    gguf_writer_close(w);
    return copy;
}

static void check_text(const gguf_file *g, const char *key, size_t element, const char *expected) {
    char at[64] = "";
    text_buffer t = {at, sizeof at, 0};
    const polar_gguf_pair *kv = gguf_find(g, key);
    CHECK(kv != NULL);
    if (kv) gguf_put_text(&t, kv, element);
    CHECK_STR(at, expected);
}

static void check_contents(const gguf_file *g) {
    static const struct {
        const char *key;
        size_t element;
        const char *text;
    } values[] = {{"general.architecture", 0, "llama"},
                  {"u32", 0, "7"},
                  {"twice", 0, "2"},
                  {"i32", 0, "-7"},
                  {"u64", 0, "18446744073709551615"},
                  {"f32", 0, "0.1"},
                  {"f64", 0, "0.1"},
                  {"bool", 0, "true"},
                  {"words", 0, "a"},
                  {"words", 1, ""},
                  {"words", 2, "bc\xC3\xA9"},
                  {"words", 3, ""},
                  {"ints", 2, "-2147483648"},
                  {"scores", 1, "-1"},
                  {"shorts", 1, "65535"},
                  {"bools", 1, "false"},
                  {"doubles", 0, "0.1"},
                  {"none", 0, ""}};
    const polar_gguf_tensor *t;
    for (int i = 0; i < COUNT(values); i++) check_text(g, values[i].key, values[i].element, values[i].text);
    CHECK(g->n_kv == 15 && g->n_tensors == 3 && !gguf_find(g, "absent") && !gguf_find_tensor(g, "blk.0"));
    t = gguf_find_tensor(g, "floats");
    CHECK(t && t->n_dims == 1 && t->dims[0] == 6 && t->dims[3] == 1 && t->type == 0 && t->bytes == 24);
    for (int i = 0; t && i < 6; i++) CHECK(f32_bits(rd_f32(t->data + 4 * i)) == f32_bits(floats[i]));
    t = gguf_find_tensor(g, "blk.0.q8");
    CHECK(t && t->n_dims == 2 && t->dims[1] == 2 && t->type == 8 && t->bytes == 68 && !memcmp(t->data, q8_blocks, 68));
    t = gguf_find_tensor(g, "one");
    CHECK(t && t->n_dims == 4 && t->bytes == 4);
}

TEST(round_trip) {
    size_t size;
    uint8_t *file = small_file(&size);
    for (int version = 2; version <= 3; version++)
        for (size_t shift = 0; shift < 4; shift++) { /* from memory with any alignment */
            uint8_t *at = malloc(size + shift);
            gguf_file g;
            polar_error e = {0};
            memcpy(at + shift, file, size);
            at[shift + 4] = (uint8_t)version;
            CHECK(gguf_open_memory(&g, at + shift, size, NULL, &e) == POLAR_OK);
            CHECK_STR(e.message, "");
            if (e.status == POLAR_OK) check_contents(&g);
            gguf_close(&g);
            free(at);
        }
    free(file);
}

TEST(getters) {
    size_t size;
    uint8_t *file = small_file(&size);
    gguf_file g;
    polar_error e = {0};
    int n = 42;
    double x = 0;
    const char *s;
    size_t length;
    const polar_gguf_pair *kv;
    CHECK(gguf_open_memory(&g, file, size, NULL, &e) == POLAR_OK);
    CHECK(!gguf_get_int(&g, "absent", &n, 0, 1, GGUF_OPTIONAL, &e) && n == 42);
    CHECK(!gguf_get_int(&g, "i32", &n, -7, 0, GGUF_REQUIRED, &e) && n == -7);
    CHECK(!gguf_get_float(&g, "u32", &x, 0, 7, GGUF_REQUIRED, &e) && x == 7);
    CHECK(!gguf_get_float(&g, "f32", &x, 0, 7, GGUF_REQUIRED, &e) && (float)x == 0.1f);
    CHECK(!gguf_get_bool(&g, "bool", &n, GGUF_REQUIRED, &e) && n == 1);
    CHECK(!gguf_get_str(&g, "general.architecture", &s, &length, GGUF_REQUIRED, &e) && length == 5 &&
          !memcmp(s, "llama", 5));
    CHECK(!gguf_get_array(&g, "none", POLAR_GGUF_U8, &kv, GGUF_REQUIRED, &e) && kv->count == 0);
    CHECK(!gguf_get_array(&g, "absent", POLAR_GGUF_U8, &kv, GGUF_OPTIONAL, &e) && !kv);
#define WRONG(call, text) \
    CHECK((call) == POLAR_FORMAT); \
    CHECK_STR(e.message, text); \
    err_clear(&e)
    WRONG(gguf_get_int(&g, "absent", &n, 0, 1, GGUF_REQUIRED, &e), "memory: the key absent is missing");
    WRONG(gguf_get_int(&g, "u32", &n, 8, 9, GGUF_REQUIRED, &e), "memory: u32 is 7, expected 8 to 9");
    WRONG(gguf_get_int(&g, "u64", &n, 0, 9, GGUF_REQUIRED, &e), "memory: u64 is 18446744073709551615, expected 0 to 9");
    WRONG(gguf_get_int(&g, "f32", &n, 0, 9, GGUF_REQUIRED, &e), "memory: f32 is of type f32, expected an integer");
    CHECK(gguf_get_int(&g, "ints", &n, 0, 9, GGUF_REQUIRED, &e) == POLAR_UNSUPPORTED);
    CHECK_STR(e.message, "memory: ints differs between layers, expected the same for all");
    err_clear(&e);
    WRONG(gguf_get_float(&g, "f32", &x, 1, 2.5, GGUF_REQUIRED, &e),
          "memory: f32 is 0.1, expected 1 to 2.5");
    WRONG(gguf_get_bool(&g, "u32", &n, GGUF_REQUIRED, &e), "memory: u32 is 7, expected 0 or 1");
    WRONG(gguf_get_str(&g, "u32", &s, &length, GGUF_REQUIRED, &e), "memory: u32 is of type u32, expected a string");
    WRONG(gguf_get_array(&g, "ints", POLAR_GGUF_F32, &kv, GGUF_REQUIRED, &e),
          "memory: ints is an array of i32, expected an array of f32");
    gguf_close(&g);
    free(file);
}

/* Opens a copy that ends where the bytes end, and reads all that it holds. */
static polar_status open_copy(const uint8_t *bytes, size_t n, polar_error *e) {
    uint8_t *copy = malloc(n ? n : 1);
    counter c;
    polar_allocator a = counting(&c);
    gguf_file g;
    polar_status status;
    volatile unsigned sum = 0; /* touch all bytes that tensors claim */
    if (n) memcpy(copy, bytes, n);
    err_clear(e);
    status = gguf_open_memory(&g, copy, n, &a, e);
    CHECK(status == e->status && !e->message[0] == (status == POLAR_OK));
    for (size_t i = 0; status == POLAR_OK && i < g.n_kv; i++) {
        char at[16];
        text_buffer t = {at, sizeof at, 0};
        for (size_t k = 0; k < g.kv[i].count && k < 5; k++) gguf_put_text(&t, &g.kv[i], k);
    }
    for (size_t i = 0; status == POLAR_OK && i < g.n_tensors; i++)
        for (size_t k = 0; k < g.tensors[i].bytes; k++) sum += g.tensors[i].data[k];
    (void)sum;
    if (status == POLAR_OK) gguf_close(&g);
    CHECK(c.live == 0 && c.largest <= 8 * n + 64);
    free(copy);
    return status;
}

TEST(truncation) {
    size_t size;
    uint8_t *file = small_file(&size);
    polar_error e;
    CHECK(open_copy(file, size, &e) == POLAR_OK);
    CHECK(open_copy(file, size - 28, &e) == POLAR_OK); /* the last padding may be missing */
    for (size_t n = 0; n < size - 28; n++) CHECK(open_copy(file, n, &e) == POLAR_FORMAT);
    CHECK_STR(e.message, "memory: tensor one has 4 bytes at 128 of the data, which has 131");
    free(file);
}

TEST(flipped_bits) {
    size_t size;
    uint8_t *file = small_file(&size);
    polar_error e;
    for (size_t i = 0; i < 8 * size; i++) {
        file[i / 8] ^= (uint8_t)(1 << i % 8);
        open_copy(file, size, &e);
        file[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t i = 0; i < size; i++) {
        uint8_t old = file[i];
        file[i] = 0xff;
        open_copy(file, size, &e);
        file[i] = old;
    }
    free(file);
}

/* --- files written byte by byte */

/* In one buffer, which the caller empties: tcc 0.9.27 loses an argument of a function that returns a struct. */
static buf *bytes_from(const char *format, ...) {
    static const polar_allocator none;
    static polar_allocator a;
    static buf b;
    va_list args;
    a = mem_allocator(&none);
    b.allocator = &a;
    va_start(args, format);
    for (; *format; format++) { /* 4 and 8: numbers of so many bytes, s: a counted string, 0: 32 zeros */
        const char *s = *format == 's' ? va_arg(args, const char *) : "";
        uint8_t bytes[32] = {0};
        if (*format == '4') wr_u32(bytes, va_arg(args, unsigned));
        if (*format == '8') wr_u64(bytes, va_arg(args, unsigned long long));
        if (*format == 's') wr_u64(bytes, strlen(s));
        buf_put(&b, bytes, *format == '0' ? 32 : *format == '4' ? 4 : 8);
        buf_put(&b, s, strlen(s));
    }
    va_end(args);
    return &b;
}

static void refuse(buf *b, polar_status status, const char *message) {
    polar_error e;
    CHECK(open_copy((const uint8_t *)b->at, b->length, &e) == status);
    CHECK_STR(e.message, message);
    buf_free(b);
}

#define HEAD(tensors, pairs) 0x46554747u, 3u, (unsigned long long)(tensors), (unsigned long long)(pairs)

TEST(hostile) {
    const unsigned long long huge = UINT64_MAX;
    refuse(bytes_from(""), POLAR_FORMAT, "memory: has 0 bytes, a GGUF file at least 24");
    refuse(bytes_from("4488", 0x46554748u, 3u, 0ull, 0ull), POLAR_FORMAT,
           "memory: is no GGUF file: it starts with 46554748, expected 46554747 (\"GGUF\")");
    refuse(bytes_from("4488", 0x46554747u, 1u, 0ull, 0ull), POLAR_UNSUPPORTED,
           "memory: is GGUF version 1, expected 2 or 3");
    refuse(bytes_from("4488", 0x46554747u, 0x03000000u, 0ull, 0ull), POLAR_UNSUPPORTED,
           "memory: is a big-endian GGUF file, expected little-endian");
    refuse(bytes_from("44880", HEAD(0, huge)), POLAR_FORMAT,
           "memory: promises 18446744073709551615 metadata pairs and 0 tensors in 56 bytes");
    refuse(bytes_from("44880", HEAD(2, 0)), POLAR_FORMAT,
           "memory: promises 0 metadata pairs and 2 tensors in 56 bytes");
    refuse(bytes_from("448880", HEAD(0, 1), huge), POLAR_FORMAT,
           "memory: the name of metadata pair 0 has 18446744073709551615 bytes, expected 1 to 65535");
    refuse(bytes_from("4488s40", HEAD(0, 1), "k\n", 4u), POLAR_FORMAT,
           "memory: the name of metadata pair 0 has byte 0xa, expected printable ASCII");
    refuse(bytes_from("4488s40", HEAD(0, 1), "k", 13u), POLAR_FORMAT, "memory: k has value type 13, expected 0 to 12");
    refuse(bytes_from("4488s480", HEAD(0, 1), "k", 8u, huge), POLAR_FORMAT,
           "memory: ends inside metadata pair 0: 18446744073709551615 bytes expected at byte 45, 32 there");
    refuse(bytes_from("4488s4480", HEAD(0, 1), "k", 9u, 12u, huge), POLAR_FORMAT,
           "memory: ends inside metadata pair 0: 18446744073709551615 bytes expected at byte 49, 32 there");
    refuse(bytes_from("4488s4480", HEAD(0, 1), "k", 9u, 8u, huge), POLAR_FORMAT,
           "memory: ends inside metadata pair 0: 8 bytes expected at byte 81, 0 there");
    refuse(bytes_from("4488s4480", HEAD(0, 1), "k", 9u, 9u, 1ull), POLAR_UNSUPPORTED,
           "memory: k is an array of arrays");
    refuse(bytes_from("4488s44s440", HEAD(0, 2), "k", 4u, 1u, "k", 4u, 1u), POLAR_FORMAT,
           "memory: the key k occurs twice");
    refuse(bytes_from("4488s440", HEAD(0, 1), "general.alignment", 4u, 48u), POLAR_FORMAT,
           "memory: general.alignment is 48, expected a power of two");
    refuse(bytes_from("4488s440", HEAD(0, 1), "general.alignment", 4u, 0u), POLAR_FORMAT,
           "memory: general.alignment is 0, expected 1 to 1073741824");
    refuse(bytes_from("4488s400", HEAD(1, 0), "t", 5u), POLAR_FORMAT,
           "memory: tensor t has 5 dimensions, expected at most 4");
    refuse(bytes_from("4488s4848000", HEAD(1, 0), "t", 1u, 0ull, 0u, 0ull), POLAR_FORMAT,
           "memory: dimension 0 of tensor t is 0");
    refuse(bytes_from("4488s4848000", HEAD(1, 0), "t", 1u, 1ull << 63, 0u, 0ull), POLAR_FORMAT,
           "memory: dimension 0 of tensor t is 9223372036854775808");
    refuse(bytes_from("4488s4848000", HEAD(1, 0), "t", 1u, 4ull, 4u, 0ull), POLAR_UNSUPPORTED,
           "memory: tensor t has type 4, which is unknown");
    refuse(bytes_from("4488s4848000", HEAD(1, 0), "t", 1u, 4ull, 0x80000000u, 0ull), POLAR_UNSUPPORTED,
           "memory: tensor t has type 2147483648, which is unknown");
    refuse(bytes_from("4488s4848000", HEAD(1, 0), "t", 1u, 33ull, 8u, 0ull), POLAR_FORMAT,
           "memory: tensor t has rows of 33, expected a multiple of 32 for Q8_0");
    refuse(bytes_from("4488s48848000", HEAD(1, 0), "t", 2u, 1ull << 40, 1ull << 40, 0u, 0ull), POLAR_FORMAT,
           "memory: tensor t has more values than there are addresses");
    refuse(bytes_from("4488s4848000", HEAD(1, 0), "t", 1u, 1ull << 40, 0u, 0ull), POLAR_FORMAT,
           "memory: tensor t has 4398046511104 bytes, the whole file only 153");
    refuse(bytes_from("4488s4848000", HEAD(1, 0), "t", 1u, 4ull, 0u, 33ull), POLAR_FORMAT,
           "memory: tensor t starts at 33, expected a multiple of 32");
    refuse(bytes_from("4488s4848000", HEAD(1, 0), "t", 1u, 4ull, 0u, huge - 31), POLAR_FORMAT,
           "memory: tensor t has 16 bytes at 18446744073709551584 of the data, which has 89");
    refuse(bytes_from("4488s4848s4848000", HEAD(2, 0), "t", 1u, 4ull, 0u, 0ull, "t", 1u, 4ull, 0u, 0ull), POLAR_FORMAT,
           "memory: the tensor t occurs twice");
    refuse(bytes_from("4488s440", HEAD(0, 1), "split.count", 4u, 2u), POLAR_UNSUPPORTED,
           "memory: is one of 2 parts of a model; in memory it must be whole");
}

/* A message is UTF-8 in one line, also where it shows bytes of a file or is cut. */
TEST(messages) {
    polar_error e = {0};
    char longer[600];
    fail(&e, POLAR_FORMAT, "a\n\x1b%s\xC3\xA9\x7f", "\xff\xE2\x82");
    CHECK_STR(e.message, "a?????\xC3\xA9?");
    memset(longer, 'x', sizeof longer);
    memcpy(longer + sizeof e.message - 2, "\xC3\xA9", 3);
    err_clear(&e);
    fail(&e, POLAR_FORMAT, "%s", longer);
    CHECK(strlen(e.message) == sizeof e.message - 1 && e.message[sizeof e.message - 2] == '?');
}

/* Opens what a file of tensors without data may look like. */
TEST(unusual) {
    polar_error e;
    buf *b = bytes_from("4488", HEAD(0, 0));
    CHECK(open_copy((const uint8_t *)b->at, b->length, &e) == POLAR_OK);
    buf_free(b);
    b = bytes_from("4488s448s4840000", HEAD(2, 0), "a", 0u, 0u, 0ull, "b", 1u, 1ull, 0u, 0ull); /* a scalar; shared */
    wr_u64((uint8_t *)b->at + b->length - 128, 0);
    CHECK(open_copy((const uint8_t *)b->at, b->length, &e) == POLAR_OK);
    buf_free(b);
    b = bytes_from("4488s44s48480", HEAD(1, 1), "general.alignment", 4u, 1u, "t", 1u, 8ull, 0u, 0ull);
    CHECK(open_copy((const uint8_t *)b->at, b->length, &e) == POLAR_OK);
    buf_free(b);
}

/* --- files */

static const char *temporary_file(const char *name) {
    static char path[8][300];
    static int next;
    snprintf(path[next %= 8], sizeof path[0], "build/test_gguf-%s", name);
    return path[next++];
}

static void write_part(const char *path, int part, int count, const char *tensor, const char *other) {
    gguf_writer *w;
    static const int64_t dims[] = {6};
    polar_error e;
    CHECK(gguf_writer_open(&w, path, NULL, &e) == POLAR_OK);
    gguf_writer_set_u32(w, "split.no", (uint32_t)part);
    gguf_writer_set_u32(w, "split.count", (uint32_t)count);
    gguf_writer_set_u32(w, "split.tensors.count", 3);
    if (!part) gguf_writer_set_string(w, "general.name", "split", 5);
    gguf_writer_add_tensor(w, tensor, 0, 1, dims);
    if (other) gguf_writer_add_tensor(w, other, 0, 1, dims);
    for (int i = 0; i <= !!other; i++) gguf_writer_write_f32(w, floats, 6);
    CHECK(gguf_writer_finish(w, &e) == POLAR_OK);
    CHECK_STR(e.message, "");
    gguf_writer_close(w);
}

TEST(split_files) {
    const char *first = temporary_file("s-00001-of-00002.gguf"), *second = temporary_file("s-00002-of-00002.gguf");
    const char *odd = temporary_file("odd.gguf");
    counter c;
    polar_allocator a = counting(&c);
    gguf_file g;
    polar_error e = {0};
    write_part(first, 0, 2, "a", "c");
    write_part(second, 1, 2, "b", NULL);
    for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
        CHECK(gguf_open(&g, first, no_mmap, &a, &e) == POLAR_OK);
        CHECK_STR(e.message, "");
        CHECK(g.n_tensors == 3 && gguf_find_tensor(&g, "b") && gguf_find(&g, "general.name"));
        CHECK(rd_f32(gguf_find_tensor(&g, "b")->data + 4) == -2 && rd_f32(gguf_find_tensor(&g, "c")->data + 8) == 0.5f);
        gguf_close(&g);
    }
    for (int refuse_at = 1; refuse_at < 40; refuse_at++) { /* every allocation refused in turn */
        a = counting(&c);
        c.refuse = refuse_at;
        err_clear(&e);
        if (gguf_open(&g, first, refuse_at % 2, &a, &e) == POLAR_OK) {
            CHECK(c.calls < refuse_at);
            gguf_close(&g);
        } else CHECK(e.status == POLAR_MEMORY);
        CHECK(c.live == 0);
    }
    a = counting(&c);
    err_clear(&e);
    CHECK(gguf_open(&g, second, 0, &a, &e) == POLAR_ARGUMENT);
    CHECK_STR(e.message, "test_gguf-s-00002-of-00002.gguf: is part 2 of 2, expected the first");
    write_part(odd, 0, 2, "a", "c");
    err_clear(&e);
    CHECK(gguf_open(&g, odd, 0, &a, &e) == POLAR_FORMAT);
    CHECK_STR(e.message,
              "test_gguf-odd.gguf: is the first of 2 parts, expected a name like MODEL-00001-of-00002.gguf");
    write_part(second, 0, 2, "b", NULL);
    err_clear(&e);
    CHECK(gguf_open(&g, first, 0, &a, &e) == POLAR_MISMATCH);
    CHECK_STR(e.message, "test_gguf-s-00002-of-00002.gguf: split.no is 0, expected 1");
    write_part(second, 1, 2, "a", NULL);
    err_clear(&e);
    CHECK(gguf_open(&g, first, 0, &a, &e) == POLAR_FORMAT);
    CHECK_STR(e.message, "test_gguf-s-00001-of-00002.gguf: the tensor a occurs twice");
    remove(second);
    err_clear(&e);
    CHECK(gguf_open(&g, first, 0, &a, &e) == POLAR_IO && strstr(e.message, "s-00002-of-00002.gguf: "));
    remove(first);
    remove(odd);
}

TEST(file_errors) {
    const char *path = temporary_file("none.gguf");
    gguf_file g;
    polar_error e = {0};
    remove(path);
    for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
        err_clear(&e);
        CHECK(gguf_open(&g, path, no_mmap, NULL, &e) == POLAR_IO && strstr(e.message, "No such file"));
        err_clear(&e);
        CHECK(gguf_open(&g, "/", no_mmap, NULL, &e) == POLAR_IO);
        err_clear(&e);
        CHECK(gguf_open(&g, "/dev/null", no_mmap, NULL, &e) != POLAR_OK);
    }
}

/* --- the writer */

static int exists(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

TEST(writer_file) {
    const char *path = temporary_file("w.gguf"), *half = temporary_file("w.gguf.tmp");
    gguf_writer *w;
    gguf_file g;
    polar_error e = {0};
    remove(path);
    for (int i = 0; i < 2; i++) { /* the second replaces the first */
        CHECK(gguf_writer_open(&w, path, NULL, &e) == POLAR_OK);
        fill(w);
        CHECK(exists(half) && exists(path) == i);
        CHECK(gguf_writer_finish(w, &e) == POLAR_OK);
        gguf_writer_close(w);
        CHECK(!exists(half) && exists(path));
        CHECK(gguf_open(&g, path, i, NULL, &e) == POLAR_OK);
        check_contents(&g);
        gguf_close(&g);
    }
    CHECK(gguf_writer_open(&w, path, NULL, &e) == POLAR_OK); /* given up: the old file stays */
    fill(w);
    gguf_writer_close(w);
    CHECK(!exists(half) && exists(path));
    remove(path);
    CHECK(gguf_writer_open(&w, "/no/such/directory/x.gguf", NULL, &e) == POLAR_IO && !w);
    CHECK(strstr(e.message, "/no/such/directory/x.gguf.tmp: ") != NULL);
    if (exists("/dev/full") && gguf_writer_open(&w, "/dev/full", NULL, &e) == POLAR_OK) {
        fill(w);
        CHECK(gguf_writer_finish(w, &e) == POLAR_IO);
        gguf_writer_close(w);
    }
}

TEST(writer_errors) {
    static const int64_t dims[] = {33, 1}, fine[] = {1}, large[] = {INT64_MAX, 2};
    static const struct {
        int what;
        const char *message;
    } cases[] = {{0, "\"k\xC3\xA9\" is no metadata key"},
                 {1, "tensor \"\" with 1 dimensions of type 0 cannot be added"},
                 {2, "tensor t of type Q8_0 cannot have dimension 0 of 33"},
                 {3, "the tensor t was added twice"},
                 {4, "tensor t got 3 of its 4 bytes"},
                 {5, "1 bytes more were written than the tensors have"},
                 {6, "metadata k comes after tensor data"},
                 {7, "array k: 8 is no type of numbers"},
                 {8, "tensor t of type F32 cannot have dimension 0 of 9223372036854775807"},
                 {9, "tensor \"t\" with 1 dimensions of type 4 cannot be added"}};
    for (int i = 0; i < COUNT(cases); i++) {
        gguf_writer *w;
        polar_error e;
        int what = cases[i].what;
        size_t size;
        CHECK(gguf_writer_open(&w, NULL, NULL, &e) == POLAR_OK);
        if (what == 0) gguf_writer_set_u32(w, "k\xC3\xA9", 1);
        if (what == 1) gguf_writer_add_tensor(w, "", 0, 1, fine);
        if (what == 2) gguf_writer_add_tensor(w, "t", 8, 2, dims);
        if (what >= 3 && what <= 6) gguf_writer_add_tensor(w, "t", 0, 1, fine);
        if (what == 3) gguf_writer_add_tensor(w, "t", 0, 1, fine);
        if (what >= 4 && what <= 6) gguf_writer_write(w, "12345", what == 4 ? 3 : what == 5 ? 5 : 4);
        if (what == 6) gguf_writer_set_u32(w, "k", 1);
        if (what == 7) gguf_writer_set_array(w, "k", POLAR_GGUF_STRING, NULL, 0);
        if (what == 8) gguf_writer_add_tensor(w, "t", 0, 2, large);
        if (what == 9) gguf_writer_add_tensor(w, "t", 4, 1, fine);
        if (what != 4) gguf_writer_set_u32(w, "later", 1); /* does not hide the first error */
        CHECK(gguf_writer_finish(w, &e) == POLAR_ARGUMENT);
        CHECK_STR(e.message, cases[i].message);
        CHECK(!gguf_writer_data(w, &size) && !size);
        gguf_writer_close(w);
    }
}

TEST(writer_memory) {
    for (int refuse_at = 1;; refuse_at++) {
        counter c;
        polar_allocator a = counting(&c);
        gguf_writer *w;
        polar_error e;
        polar_status status;
        c.refuse = refuse_at;
        status = gguf_writer_open(&w, NULL, &a, &e);
        if (status == POLAR_OK) {
            fill(w);
            status = gguf_writer_finish(w, &e);
            gguf_writer_close(w);
        }
        CHECK(c.live == 0 && status == e.status);
        CHECK(status == (c.calls < refuse_at ? POLAR_OK : POLAR_MEMORY));
        if (c.calls < refuse_at) return;
    }
}

/* The public reader, and metadata copied from one file to another. */
TEST(copy) {
    size_t size, copy_size;
    uint8_t *file = small_file(&size);
    polar_gguf *g, *h;
    gguf_writer *w;
    polar_error e;
    polar_gguf_pair pair;
    polar_gguf_tensor t;
    char at[16];
    double number;
    const void *copied;
    CHECK(polar_gguf_open_memory(&g, file, size, NULL, &e) == POLAR_OK);
    CHECK(gguf_writer_open(&w, NULL, NULL, &e) == POLAR_OK);
    gguf_writer_copy(w, g);
    gguf_writer_set_string(w, "u32", "now a string", 12);
    for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++) {
        char name[64] = "";
        memcpy(name, t.name, t.name_length);
        gguf_writer_add_tensor(w, name, t.type, t.n_dims, t.dims);
    }
    for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++) gguf_writer_write(w, t.data, t.bytes);
    CHECK(gguf_writer_finish(w, &e) == POLAR_OK);
    copied = gguf_writer_data(w, &copy_size);
    CHECK(polar_gguf_open_memory(&h, copied, copy_size, NULL, &e) == POLAR_OK);
    for (int i = 0; polar_gguf_get_pair(g, i, &pair); i++) {
        char key[64] = "", a[64], b[64];
        int k;
        memcpy(key, pair.key, pair.key_length);
        k = polar_gguf_find(h, key);
        for (size_t j = 0; j < pair.count; j++) {
            polar_gguf_text(g, i, j, a, sizeof a);
            polar_gguf_text(h, k, j, b, sizeof b);
            CHECK_STR(b, !strcmp(key, "u32") ? "now a string" : a);
        }
    }
    CHECK(polar_gguf_text(h, polar_gguf_find(h, "u32"), 0, at, 4) == 12);
    CHECK_STR(at, "now");
    CHECK(polar_gguf_number(h, polar_gguf_find(h, "f64"), 0, &number) && f64_bits(number) == f64_bits(0.1));
    CHECK(!polar_gguf_number(h, polar_gguf_find(h, "u32"), 0, &number) && !polar_gguf_number(h, 0, 99, &number) &&
          !polar_gguf_number(h, -1, 0, &number));
    CHECK(polar_gguf_text(h, -1, 0, at, 4) == 0 && !*at);
    CHECK(!polar_gguf_get_pair(h, -1, &pair) && !polar_gguf_get_pair(h, 15, &pair) && !polar_gguf_get_tensor(h, 3, &t));
    CHECK(polar_gguf_get_tensor(h, 1, &t) && t.bytes == 68 && !memcmp(t.data, q8_blocks, 68));
    polar_gguf_close(g);
    polar_gguf_close(h);
    gguf_writer_close(w);
    free(file);
}

TEST(types) {
    CHECK_STR(polar_gguf_type_name(17), "IQ2_XS");
    CHECK(!polar_gguf_type_name(4) && !polar_gguf_type_name(-1) && !polar_gguf_type_name(1000));
    CHECK(polar_gguf_type_find("Q6_K") == 14 && polar_gguf_type_find("Q6") == -1);
    CHECK(polar_gguf_row_bytes(14, 512) == 420 && !polar_gguf_row_bytes(14, 100) && !polar_gguf_row_bytes(4, 32));
    for (int i = 0; i < QUANT_N; i++) { /* the two tables agree */
        const struct gguf_type *t = &gguf_types[quant_types[i].id];
        CHECK_STR(t->name, quant_types[i].name);
        CHECK(t->block == quant_types[i].block && t->bytes == quant_types[i].bytes);
    }
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(real_files),  T(round_trip),    T(getters),       T(truncation),  T(flipped_bits),
    T(hostile),     T(messages),      T(unusual),       T(split_files), T(file_errors),
    T(writer_file), T(writer_errors), T(writer_memory), T(copy),        T(types),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
