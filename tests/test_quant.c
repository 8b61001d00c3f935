/* [quant]: reading blocks, against ggml. */
#include "inside.h"
#include "quant_vectors.h"
#include "test.h"

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

/* What the library hands out: by the number of the type, and only whole blocks. */
TEST(public) {
    for (int k = 0; k < COUNT(quant_vectors); k++) {
        const quant_vector *v = &quant_vectors[k];
        float a[512], b[512];
        quant_dequantize(quant_find(v->id), v->bytes, (size_t)v->n, a);
        CHECK(polar_gguf_dequantize(v->id, v->bytes, v->n, b));
        CHECK_BITS(a, b, (size_t)v->n);
        CHECK(quant_types[quant_find(v->id)].block == 1 || !polar_gguf_dequantize(v->id, v->bytes, v->n - 1, b));
    }
    CHECK(!polar_gguf_dequantize(17, quant_vectors, 256, (float *)NULL) && !polar_gguf_dequantize(0, "", -1, NULL));
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(decode), T(range), T(table), T(public),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
