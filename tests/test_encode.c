/* examples/cli/encode.c and quantize_file.c: writing blocks, against ggml, and whole files. */
#ifdef __unix__
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdlib.h>

/* Allocations of the code under test that fail from a number on. */
static int allocations_left = -1; /* -1: none fails */

static int may_allocate(void) {
    return allocations_left < 0 || allocations_left-- > 0;
}

#define malloc(n) (may_allocate() ? (malloc)(n) : NULL)
#define calloc(n, size) (may_allocate() ? (calloc)(n, size) : NULL)
#define realloc(p, n) (may_allocate() ? (realloc)(p, n) : NULL)
#include "../examples/cli/gguf_writer.c"
#include "../examples/cli/quantize_file.c"
#undef malloc
#undef calloc
#undef realloc
#include "../examples/cli/encode.c"
#include "../examples/cli/same_file.c"
#include "test.h"
#ifdef __unix__
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>
#endif

static uint64_t hash(const void *p, size_t n) { /* FNV-1a, with a last step */
    const uint8_t *b = p;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

/* Uniform in [0, 1), 24 bits of splitmix64. */
static float uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) * 5.9604644775390625e-8f;
}

/* Nearly normal numbers without libm: the sum of twelve uniform ones. */
static void fill_normal(float *x, int n, uint64_t seed, float scale) {
    for (int i = 0; i < n; i++) {
        x[i] = -6;
        for (int k = 0; k < 12; k++) x[i] += uniform(&seed);
        x[i] *= scale;
    }
}

static void encode(int type, const float *x, int n, uint8_t *out) {
    const encode_type *t = &encode_types[type];
    for (int i = 0; i < n; i += t->block) t->encode(x + i, out + (size_t)(i / t->block * t->bytes));
}

static void decode(int type, const uint8_t *bytes, size_t n, float *out) {
    CHECK(polar_gguf_dequantize(encode_types[type].id, bytes, (int64_t)n, out));
}

static size_t row_bytes(int type, size_t n) {
    return polar_gguf_row_bytes(encode_types[type].id, (int64_t)n);
}

/* Rows of encode_types. */
static int row_of(int id) {
    return (int)(encode_find(id) - encode_types);
}

#define N_NORMAL 32768
static float normal[N_NORMAL], decoded[N_NORMAL];
static uint8_t encoded[4 * N_NORMAL];

/* Root mean square error of ggml_quantize_chunk without an importance matrix on fill_normal(.., 1, 1), from a
 * program that links llama.cpp's libggml-base. */
static const struct {
    int type;
    double rms;
} ggml_rms[] = {
    {ENCODE_Q8_0, 0.005295}, {ENCODE_Q4_0, 0.084966}, {ENCODE_Q4_1, 0.077609}, {ENCODE_Q5_0, 0.042206},
    {ENCODE_Q5_1, 0.037521}, {ENCODE_IQ4_NL, 0.075473}, {ENCODE_Q2_K, 0.294706}, {ENCODE_Q3_K, 0.148895},
    {ENCODE_Q4_K, 0.070684}, {ENCODE_Q5_K, 0.035730}, {ENCODE_Q6_K, 0.017520}, {ENCODE_IQ4_XS, 0.076143},
};

TEST(quality) {
    fill_normal(normal, N_NORMAL, 1, 1);
    for (int k = 0; k < (int)(sizeof ggml_rms / sizeof *ggml_rms); k++) {
        double error = 0;
        encode(row_of(ggml_rms[k].type), normal, N_NORMAL, encoded);
        decode(row_of(ggml_rms[k].type), encoded, N_NORMAL, decoded);
        for (int i = 0; i < N_NORMAL; i++) error += pow((double)fabsf(normal[i] - decoded[i]), 2);
        error = sqrt(error / N_NORMAL);
        if (!(error <= ggml_rms[k].rms)) printf("%s: %g\n", encode_find(ggml_rms[k].type)->name, error);
        CHECK(error <= ggml_rms[k].rms);
    }
}

/* The bytes written are the same with every compiler and on every CPU. */
TEST(golden) {
    static const uint64_t expected[ENCODE_N] = {
        0x9b27d5b6a7a9d6a5, 0x8a446b54bfe4fa33, 0x49f2328230be4c7c, 0xb23025e7ae9dea82, 0xff0184066e29f17a,
        0x54a6c2eecdc7a929, 0xe8857e5626ae8393, 0xaa39177950155690, 0x581f5ec72cf118c4, 0xa73d26dfa2cde3df,
        0x24ccf468e48a02f3, 0x546c9b7cfe7c79bb, 0x1208a1517e3de58f, 0x87926fda9c3ae532, 0xa73ac4c54117105a,
    };
    fill_normal(normal, 8192, 3, 0.02f);
    for (int t = 0; t < ENCODE_N; t++) {
        encode(t, normal, 8192, encoded);
        CHECK(hash(encoded, row_bytes(t, 8192)) == expected[t]);
    }
}

/* Numbers that a type can hold exactly come back: decoding and encoding again gives the same floats. */
TEST(round_trip) {
    fill_normal(normal, 4096, 5, 1);
    for (int t = 0; t < ENCODE_N; t++) {
        float again[4096], largest = 0, worst = 0;
        encode(t, normal, 4096, encoded);
        decode(t, encoded, 4096, decoded);
        encode(t, decoded, 4096, encoded);
        decode(t, encoded, 4096, again);
        for (int i = 0; i < 4096; i++) {
            largest = MAX(largest, fabsf(decoded[i]));
            worst = MAX(worst, fabsf(decoded[i] - again[i]));
        }
        CHECK(worst <= 1e-6f * largest);
    }
}

/* Rows that break careless scale computations: each must come back finite and near. */
TEST(special_rows) {
    static const float levels[] = {0, 1, -1, 1e-3f, 6e-8f, 1e-20f, 1e-42f, 3e4f, -6e4f};
    for (int t = 0; t < ENCODE_N; t++)
        for (int kind = 0; kind < 4; kind++)
            for (int k = 0; k < (int)(sizeof levels / sizeof *levels); k++) {
                float x[256], y[256], limit = fabsf(levels[k]) * 0.26f + 1e-6f;
                for (int i = 0; i < 256; i++) /* constant; one number; alternating; all but one 0 or negative */
                    x[i] = kind == 0 ? levels[k] : kind == 1 ? (i == 77) * levels[k] : i % 2 ? levels[k] : -levels[k];
                if (kind == 3)
                    for (int i = 0; i < 256; i++) x[i] = i == 200 ? levels[k] : -0.0f;
                encode(t, x, 256, encoded);
                decode(t, encoded, 256, y);
                for (int i = 0; i < 256; i++) CHECK(fabsf(x[i] - y[i]) <= limit);
            }
}

/* Infinity, NaN and numbers beyond halves are encoded without undefined behaviour. */
TEST(hostile_rows) {
    static const uint32_t bits[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f7fffff, 0xff7fffff, 0x7f800001, 1};
    for (int t = 0; t < ENCODE_N; t++)
        for (int k = 0; k < (int)(sizeof bits / sizeof *bits); k++)
            for (int every = 1; every < 256; every += 17) {
                float x[256];
                for (int i = 0; i < 256; i++) x[i] = i % every ? 0.5f : encode_bits_f32(bits[k]);
                encode(t, x, 256, encoded);
                decode(t, encoded, 256, x);
            }
}

TEST(bf16) {
    CHECK(encode_to_bf16(1) == 0x3f80);
    CHECK(encode_to_bf16(encode_bits_f32(0x3f808000)) == 0x3f80); /* a tie, to even */
    CHECK(encode_to_bf16(encode_bits_f32(0x3f818000)) == 0x3f82);
    CHECK(encode_to_bf16(encode_bits_f32(0x7f7fffff)) == 0x7f80);
    CHECK((encode_to_bf16(encode_bits_f32(0x7f800001)) & 0x7fff) > 0x7f80);
}

/* --- whole files --- */

static const char *temporary_file(const char *name) {
    static char path[4][300];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[0], "build/test_quant-%s", name);
    return path[next];
}

static int exists(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

/* A file's bytes, to be freed. */
static uint8_t *read_all(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    uint8_t *bytes = malloc(1 << 21);
    *n = f && bytes ? fread(bytes, 1, 1 << 21, f) : 0;
    if (f) fclose(f);
    return bytes;
}

#define N_LAYER 8

/* The tensors of a model whose numbers make sense to nobody but are of all shapes that matter. */
static const struct {
    const char *name;
    int64_t dims[3];
    const char *type; /* in the file */
} shapes[] = {
    {"token_embd.weight", {256, 40, 1}, "F16"},         {"output_norm.weight", {256, 1, 1}, "F32"},
    {"blk.0.attn_v.weight", {256, 3, 1}, "F32"},        {"blk.1.attn_v.weight", {256, 3, 1}, "BF16"},
    {"blk.3.attn_v.weight", {256, 3, 1}, "F32"},        {"blk.0.attn_q.bias", {256, 1, 1}, "F32"},
    {"blk.7.ffn_down_exps.weight", {512, 5, 4}, "F16"}, {"blk.0.ffn_gate_inp.weight", {256, 4, 1}, "F32"},
    {"blk.2.ffn_down.weight", {96, 7, 1}, "F32"},       {"blk.2.ffn_up.weight", {40, 7, 1}, "F32"},
    {"blk.0.attn_norm.weight", {256, 2, 1}, "F32"},     {"blk.0.ffn_up.weight", {8192, 9, 1}, "Q8_0"},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Writes the model; a number of the first tensor can be given. */
static void write_model(const char *path, float first) {
    gguf_writer *w = NULL;
    polar_error e;
    CHECK(gguf_writer_open(&w, path, NULL, &e) == POLAR_OK);
    gguf_writer_set_string(w, "general.architecture", "llama", 5);
    gguf_writer_set_u32(w, "llama.block_count", N_LAYER);
    gguf_writer_set_u32(w, "general.file_type", 1);
    gguf_writer_set_string(w, "some.text", "kept", 4);
    for (int i = 0; i < N_SHAPES; i++)
        gguf_writer_add_tensor(w, shapes[i].name, polar_gguf_type_find(shapes[i].type),
                                     shapes[i].dims[2] > 1 ? 3 : shapes[i].dims[1] > 1 ? 2 : 1, shapes[i].dims);
    for (int i = 0; i < N_SHAPES; i++) {
        int type = row_of(polar_gguf_type_find(shapes[i].type));
        int n = (int)(shapes[i].dims[0] * shapes[i].dims[1] * shapes[i].dims[2]);
        float *x = malloc((size_t)n * sizeof *x);
        uint8_t *bytes = malloc((size_t)n * 4);
        fill_normal(x, n, (uint64_t)i, 0.02f);
        if (!i) x[300] = first;
        encode(type, x, n, bytes);
        gguf_writer_write(w, bytes, row_bytes(type, (size_t)n));
        free(x);
        free(bytes);
    }
    CHECK(gguf_writer_finish(w, &e) == POLAR_OK);
    gguf_writer_close(w);
}

/* The type of a tensor in a file. */
static const char *type_in(const polar_gguf *g, const char *name) {
    polar_gguf_tensor t;
    for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++)
        if (t.name_length == strlen(name) && !memcmp(t.name, name, t.name_length)) return polar_gguf_type_name(t.type);
    return "none";
}

TEST(file_types) {
    static const struct {
        const char *mix;
        int pure;
        const char *types[N_SHAPES]; /* of the tensors above, in their order; NULL: unchanged */
    } cases[] = {
        {"Q4_K_M", 0, {"Q6_K", NULL, "Q6_K", "Q4_K", "Q6_K", NULL, "Q6_K", NULL, "Q5_0", "F16", NULL, "Q4_K"}},
        {"q4_k_m", 1, {"Q4_K", NULL, "Q4_K", "Q4_K", "Q4_K", NULL, "Q4_K", NULL, "Q5_0", "F16", NULL, "Q4_K"}},
        {"Q4_0", 0, {"Q6_K", NULL, "Q4_0", "Q4_0", "Q4_0", NULL, "Q4_0", NULL, "Q4_0", "F16", NULL, "Q4_0"}},
        {"Q6_K", 0, {"Q6_K", NULL, "Q6_K", "Q6_K", "Q6_K", NULL, "Q6_K", NULL, "Q8_0", "F16", NULL, "Q6_K"}},
        {"Q8_0", 0, {"Q8_0", NULL, "Q8_0", "Q8_0", "Q8_0", NULL, "Q8_0", NULL, "Q8_0", "F16", NULL, NULL}},
        {"BF16", 0, {"BF16", NULL, "BF16", "BF16", "BF16", NULL, "BF16", NULL, "BF16", "BF16", NULL, "BF16"}},
        {"Q3_K", 0, {"Q6_K", NULL, "Q5_K", "Q5_K", "Q4_K", NULL, "Q4_K", NULL, "Q5_0", "F16", NULL, "Q3_K"}},
        {"IQ4_XS", 0,
         {"Q6_K", NULL, "IQ4_XS", "IQ4_XS", "IQ4_XS", NULL, "IQ4_XS", NULL, "IQ4_NL", "F16", NULL, "IQ4_XS"}},
    };
    const char *in = temporary_file("in.gguf"), *out = temporary_file("out.gguf");
    write_model(in, 0);
    for (int k = 0; k < (int)(sizeof cases / sizeof *cases); k++) {
        quantize_options o = {0};
        polar_gguf *g = NULL;
        polar_error e;
        o.pure = cases[k].pure;
        o.n_threads = 2;
        CHECK(quantize_file(in, out, cases[k].mix, &o, NULL, &e) == POLAR_OK);
        CHECK_STR(e.message, "");
        CHECK(polar_gguf_open(&g, out, NULL, &e) == POLAR_OK);
        for (int i = 0; g && i < N_SHAPES; i++)
            CHECK_STR(type_in(g, shapes[i].name), cases[k].types[i] ? cases[k].types[i] : shapes[i].type);
        polar_gguf_close(g);
    }
    remove(in);
    remove(out);
}

/* What is in the new file: metadata, the numbers that the encoder makes, and a report that says the truth. */
TEST(file_content) {
    const char *in = temporary_file("in.gguf"), *out = temporary_file("out.gguf");
    quantize_report r;
    polar_gguf *a = NULL, *b = NULL;
    polar_error e;
    char text[32];
    double square = 0, error = 0;
    int64_t bytes = 0;
    write_model(in, 0.5f);
    CHECK(quantize_file(in, out, "Q4_1", NULL, &r, &e) == POLAR_OK);
    CHECK(polar_gguf_open(&a, in, NULL, &e) == POLAR_OK && polar_gguf_open(&b, out, NULL, &e) == POLAR_OK);
    if (!a || !b) return;
    polar_gguf_text(b, polar_gguf_find(b, "some.text"), 0, text, sizeof text);
    CHECK_STR(text, "kept");
    polar_gguf_text(b, polar_gguf_find(b, "general.file_type"), 0, text, sizeof text);
    CHECK_STR(text, "3");
    for (int i = 0; i < N_SHAPES; i++) {
        polar_gguf_tensor was, is, *s = &was, *t = &is;
        float *x, *y;
        uint8_t *expected;
        int from, to, n;
        CHECK(polar_gguf_get_tensor(a, i, s) && polar_gguf_get_tensor(b, i, t));
        from = row_of(s->type), to = row_of(t->type), n = (int)quantize_numbers(s);
        x = malloc((size_t)n * sizeof *x), y = malloc((size_t)n * sizeof *y);
        expected = malloc((size_t)n * 4);
        CHECK(quantize_numbers(t) == quantize_numbers(s) && t->n_dims == s->n_dims);
        decode(from, s->data, (size_t)n, x);
        encode(to, x, n, expected);
        CHECK(!memcmp(from == to ? s->data : expected, t->data, t->bytes));
        decode(to, t->data, (size_t)n, y);
        for (int k = 0; from != to && k < n; k++) {
            square += quantize_product((double)x[k], (double)x[k]);
            error += quantize_product((double)x[k] - (double)y[k], (double)x[k] - (double)y[k]);
        }
        bytes += (int64_t)t->bytes;
        free(x);
        free(y);
        free(expected);
    }
    CHECK(fabs(r.error - sqrt(error / square)) < 1e-9);
    CHECK(r.n_tensors == N_SHAPES && r.n_converted == 8 && r.n_requantized == 1 && r.n_fallback == 1);
    CHECK(r.bytes_out == bytes && r.worst_error > r.error && r.worst_type && *r.worst_tensor);
    CHECK(r.n_parts == 4); /* F32, F16, Q4_1, Q6_K */
    polar_gguf_close(a);
    polar_gguf_close(b);
    remove(in);
    remove(out);
}

/* The same bytes with any threads. */
TEST(file_threads) {
    const char *in = temporary_file("in.gguf"), *out = temporary_file("out.gguf");
    uint8_t *bytes[4];
    size_t sizes[4];
    write_model(in, 0);
    for (int k = 0; k < 4; k++) {
        quantize_options o = {0};
        polar_error e;
        o.n_threads = k + 1;
        CHECK(quantize_file(in, out, "Q5_K", &o, NULL, &e) == POLAR_OK);
        bytes[k] = read_all(out, &sizes[k]);
        CHECK(sizes[k] > 1000 && sizes[k] == sizes[0] && !memcmp(bytes[k], bytes[0], sizes[0]));
    }
    for (int k = 0; k < 4; k++) free(bytes[k]);
    remove(in);
    remove(out);
}

static int cancel_late(void *user, double done) {
    double *last = user;
    CHECK(done > *last && done <= 1);
    *last = done;
    return done > 0.9;
}

/* Failures leave no file behind, and say why. */
static void refuse(const char *in, const char *out, const char *type, const quantize_options *o,
                   polar_status status, const char *message) {
    polar_error e;
    CHECK(quantize_file(in, out, type, o, NULL, &e) == status);
    if (!strstr(e.message, message)) printf("found \"%s\", expected \"%s\"\n", e.message, message);
    CHECK(strstr(e.message, message) != NULL);
    if (!out) return;
    CHECK(!exists(out));
}

TEST(file_errors) {
    const char *in = temporary_file("in.gguf"), *out = temporary_file("out.gguf");
    const char *half = temporary_file("out.gguf.tmp");
    quantize_options o = {0};
    double last = 0;
    remove(out);
    write_model(in, 0);
    refuse(in, out, "Q7_K", NULL, POLAR_ARGUMENT, "there is no type Q7_K to quantize to, expected one of F32 F16");
    refuse("/no/such/file.gguf", out, "Q8_0", NULL, POLAR_IO, "/no/such/file.gguf");
    refuse(in, "/no/such/directory/x.gguf", "Q8_0", NULL, POLAR_IO, "/no/such/directory");
    refuse(NULL, out, "Q8_0", NULL, POLAR_ARGUMENT, "NULL");
    refuse(in, NULL, "Q8_0", NULL, POLAR_ARGUMENT, "NULL");
    o.progress = cancel_late;
    o.progress_user = &last;
    refuse(in, out, "Q4_K", &o, POLAR_CANCELLED, "cancelled");
    CHECK(last > 0.9);
    write_model(in, 1e5f); /* in F16 that is infinite */
    refuse(in, out, "Q4_K", NULL, POLAR_NUMERIC, "tensor token_embd.weight has numbers that are not finite");
#ifdef __unix__
    {
        struct rlimit old, small = {20000, 20000};
        write_model(in, 0);
        getrlimit(RLIMIT_FSIZE, &old);
        small.rlim_max = old.rlim_max;
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &small);
        refuse(in, out, "Q8_0", NULL, POLAR_IO, "cannot write: "); /* as on a full disk */
        setrlimit(RLIMIT_FSIZE, &old);
    }
#endif
    CHECK(!exists(half));
    remove(in);
}

/* Whatever its name, a file that is read is not replaced; nor is another part of it. */
TEST(file_itself) {
    const char *in = "build/test_quant-0-00001-of-00002.gguf", *other = "build/test_quant-0-00002-of-00002.gguf";
    const char *outs[5] = {in, "./build/test_quant-0-00001-of-00002.gguf", other, "build/test_quant-hard.gguf",
                           "build/test_quant-soft.gguf"};
    int n_outs = 3;
    size_t n, m;
    uint8_t *before, *after;
    write_model(in, 0);
    write_model(other, 0);
#ifdef __unix__
    n_outs = 5;
    remove(outs[3]);
    remove(outs[4]);
    CHECK(!link(other, outs[3]) && !symlink("test_quant-0-00001-of-00002.gguf", outs[4]));
#endif
    before = read_all(in, &n);
    for (int i = 0; i < n_outs; i++) {
        polar_error e;
        CHECK(quantize_file(in, outs[i], "Q8_0", NULL, NULL, &e) == POLAR_ARGUMENT);
        CHECK(strstr(e.message, "are the same file") != NULL);
        after = read_all(outs[i], &m);
        CHECK(m == n && !memcmp(before, after, n));
        free(after);
    }
    free(before);
    for (int i = n_outs; i--;) remove(outs[i]);
}

/* Each allocation refused in turn: no file is left behind, and nothing else (which a sanitizer sees). */
TEST(file_memory) {
    const char *in = temporary_file("in.gguf"), *out = temporary_file("out.gguf");
    int n = 0, done = 0;
    polar_error e;
    write_model(in, 0);
    for (; n < 100 && !done; n++) {
        allocations_left = n;
        done = !quantize_file(in, out, "Q8_0", NULL, NULL, &e);
        allocations_left = -1;
        CHECK(done ? exists(out) : e.status == POLAR_MEMORY && strstr(e.message, "out of memory") && !exists(out));
    }
    CHECK(done && n > 4);
    remove(in);
    remove(out);
}

/* Trained models of ../shared become smaller and read back; the vocabulary stays. */
TEST(real_models) {
    static const char *const models[] = {"data/models/stories260K-f32.gguf", "data/models/tinystories656K-f32.gguf"};
    const char *out = temporary_file("out.gguf");
    for (int k = 0; k < (int)(sizeof models / sizeof *models); k++) {
        char in[512];
        quantize_report r;
        polar_model *m = NULL;
        polar_error e;
        FILE *f = test_shared(models[k]);
        if (!f) return;
        fclose(f);
        snprintf(in, sizeof in, "%s/%s", getenv("POLAR_SHARED") ? getenv("POLAR_SHARED") : "../shared", models[k]);
        CHECK(quantize_file(in, out, "Q8_0", NULL, &r, &e) == POLAR_OK);
        CHECK_STR(e.message, "");
        CHECK(r.error > 0.003 && r.error < 0.008 && r.bytes_out < r.bytes_in * 6 / 10);
        CHECK(polar_model_open(&m, out, NULL, &e) == POLAR_OK);
        CHECK_STR(e.message, "");
        polar_model_close(m);
    }
    remove(out);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(quality), T(golden), T(round_trip), T(special_rows), T(hostile_rows), T(bf16),
    T(file_types), T(file_content), T(file_threads), T(file_errors), T(file_itself), T(file_memory), T(real_models),
};

int main(int argc, char **argv) {
    return test_main(tests, sizeof tests / sizeof *tests, argc, argv);
}
