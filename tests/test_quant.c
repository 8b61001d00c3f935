/* Tensor types: reading blocks against ggml, writing them, quantizing whole files. */
#include "../polar.c"
#include "test.h"
#include "quant_vectors.h"

/* Bytes of ggml give the floats of ggml, up to the rounding of d * scale * q, which is done in another order. */
TEST(decode) {
    CHECK(COUNT(quant_vectors) == QUANT_N);
    for (int k = 0; k < COUNT(quant_vectors); k++) {
        const quant_vector *v = &quant_vectors[k];
        int type = quant_find(v->id);
        float out[512], largest = 0, worst = 0;
        CHECK(type >= 0 && v->n <= 512);
        if (type < 0 || v->n > 512) continue;
        CHECK_STR(quant_types[type].name, v->type);
        CHECK(quant_row_bytes(type, (size_t)v->n) == (size_t)v->n_bytes);
        quant_dequantize(type, v->bytes, (size_t)v->n, out);
        for (int i = 0; i < v->n; i++) {
            float expected = bits_f32(v->floats[i]);
            largest = MAX(largest, fabsf(expected));
            worst = MAX(worst, fabsf(out[i] - expected));
        }
        CHECK(quant_types[type].block > 1 ? worst <= 4e-7f * largest : worst == 0);
        if (!(worst <= 4e-7f * largest)) printf("%s: off by %g of %g\n", v->type, (double)worst, (double)largest);
    }
}

/* Unpacked integers stay inside the range that kernels rely on, whatever the bytes. */
TEST(range) {
    uint64_t random = 7;
    uint8_t bytes[256];
    quant_block b;
    for (int t = QUANT_Q8_0; t < QUANT_N; t++)
        for (int round = 0; round < 50; round++) {
            for (int i = 0; i < COUNT(bytes); i++) bytes[i] = round ? (uint8_t)rng_next(&random) : 0x80;
            quant_types[t].unpack(bytes, &b);
            for (int i = 0; i < quant_types[t].block; i++) CHECK(abs(b.q[i]) <= 4096);
            if (quant_types[t].has_mins)
                for (int i = 0; i < quant_types[t].block / 16; i++) CHECK(b.mins[i] >= 0 && b.mins[i] < 64);
        }
}

TEST(table) {
    CHECK(quant_find(QUANT_N + 1000) == -1);
    CHECK(quant_find(17) == -1); /* IQ2_XS */
    CHECK(quant_find(-1) == -1);
    for (int t = 0; t < QUANT_N; t++) {
        CHECK(quant_find(quant_types[t].id) == t);
        CHECK((quant_types[t].block == 1) == !quant_types[t].unpack);
    }
}

/* Nearly normal numbers without libm: the sum of twelve uniform ones. */
static void fill_normal(float *x, int n, uint64_t seed, float scale) {
    for (int i = 0; i < n; i++) {
        x[i] = -6;
        for (int k = 0; k < 12; k++) x[i] += rng_float(&seed);
        x[i] *= scale;
    }
}

static void encode(int type, const float *x, int n, uint8_t *out) {
    const quant_type *t = &quant_types[type];
    for (int i = 0; i < n; i += t->block) t->encode(x + i, out + (size_t)(i / t->block * t->bytes));
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
    {QUANT_Q8_0, 0.005295}, {QUANT_Q4_0, 0.084966}, {QUANT_Q4_1, 0.077609}, {QUANT_Q5_0, 0.042206},
    {QUANT_Q5_1, 0.037521}, {QUANT_IQ4_NL, 0.075473}, {QUANT_Q2_K, 0.294706}, {QUANT_Q3_K, 0.148895},
    {QUANT_Q4_K, 0.070684}, {QUANT_Q5_K, 0.035730}, {QUANT_Q6_K, 0.017520}, {QUANT_IQ4_XS, 0.076143},
};

TEST(quality) {
    fill_normal(normal, N_NORMAL, 1, 1);
    for (int k = 0; k < COUNT(ggml_rms); k++) {
        double error = 0;
        encode(ggml_rms[k].type, normal, N_NORMAL, encoded);
        quant_dequantize(ggml_rms[k].type, encoded, N_NORMAL, decoded);
        for (int i = 0; i < N_NORMAL; i++) error += pow64((double)fabsf(normal[i] - decoded[i]) + 1e-30, 2);
        error = sqrt(error / N_NORMAL);
        if (!(error <= ggml_rms[k].rms)) printf("%s: %g\n", quant_types[ggml_rms[k].type].name, error);
        CHECK(error <= ggml_rms[k].rms);
    }
}

/* The bytes written are the same with every compiler and on every CPU. */
TEST(golden) {
    static const uint64_t expected[QUANT_N] = {
        0x9b27d5b6a7a9d6a5, 0x8a446b54bfe4fa33, 0x49f2328230be4c7c, 0xb23025e7ae9dea82, 0xff0184066e29f17a,
        0x54a6c2eecdc7a929, 0xe8857e5626ae8393, 0xaa39177950155690, 0x581f5ec72cf118c4, 0xa73d26dfa2cde3df,
        0x24ccf468e48a02f3, 0x546c9b7cfe7c79bb, 0x1208a1517e3de58f, 0x87926fda9c3ae532, 0xa73ac4c54117105a,
    };
    fill_normal(normal, 8192, 3, 0.02f);
    for (int t = 0; t < QUANT_N; t++) {
        encode(t, normal, 8192, encoded);
        CHECK(mem_hash(encoded, quant_row_bytes(t, 8192)) == expected[t]);
    }
}

/* Numbers that a type can hold exactly come back: decoding and encoding again gives the same floats. */
TEST(round_trip) {
    fill_normal(normal, 4096, 5, 1);
    for (int t = 0; t < QUANT_N; t++) {
        float again[4096], largest = 0, worst = 0;
        encode(t, normal, 4096, encoded);
        quant_dequantize(t, encoded, 4096, decoded);
        encode(t, decoded, 4096, encoded);
        quant_dequantize(t, encoded, 4096, again);
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
    for (int t = 0; t < QUANT_N; t++)
        for (int kind = 0; kind < 4; kind++)
            for (int k = 0; k < COUNT(levels); k++) {
                float x[256], y[256], limit = fabsf(levels[k]) * 0.26f + 1e-6f;
                for (int i = 0; i < 256; i++) /* constant; one number; alternating; all but one 0 or negative */
                    x[i] = kind == 0 ? levels[k] : kind == 1 ? (i == 77) * levels[k] : i % 2 ? levels[k] : -levels[k];
                if (kind == 3)
                    for (int i = 0; i < 256; i++) x[i] = i == 200 ? levels[k] : -0.0f;
                encode(t, x, 256, encoded);
                quant_dequantize(t, encoded, 256, y);
                for (int i = 0; i < 256; i++) CHECK(fabsf(x[i] - y[i]) <= limit);
            }
}

/* Infinity, NaN and numbers beyond halves are encoded without undefined behaviour. */
TEST(hostile_rows) {
    static const uint32_t bits[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f7fffff, 0xff7fffff, 0x7f800001, 1};
    for (int t = 0; t < QUANT_N; t++)
        for (int k = 0; k < COUNT(bits); k++)
            for (int every = 1; every < 256; every += 17) {
                float x[256];
                for (int i = 0; i < 256; i++) x[i] = i % every ? 0.5f : bits_f32(bits[k]);
                encode(t, x, 256, encoded);
                quant_dequantize(t, encoded, 256, x);
            }
}

TEST(bf16) {
    CHECK(quant_bf16(1) == 0x3f80);
    CHECK(quant_bf16(bits_f32(0x3f808000)) == 0x3f80); /* a tie, to even */
    CHECK(quant_bf16(bits_f32(0x3f818000)) == 0x3f82);
    CHECK(quant_bf16(bits_f32(0x7f7fffff)) == 0x7f80);
    CHECK((quant_bf16(bits_f32(0x7f800001)) & 0x7fff) > 0x7f80);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(decode), T(range), T(table), T(quality), T(golden), T(round_trip), T(special_rows), T(hostile_rows), T(bf16),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
