/* Kernels: every variant that this machine has gives the bits of plain C. */
#include "inside.h"
#include "test.h"

enum { N = 2304, ROWS = 37, TOKENS = 13 }; /* a row is longer than any variant takes at a time */

static uint64_t seed = 1;
static float x[TOKENS * N];

typedef struct quantized {
    int8_t q8[2][TOKENS * N];
    int16_t q16[2][TOKENS * N], sums[2][TOKENS * N / 16];
    float d[2][TOKENS * N / 32];
} quantized;

static void fill(float *to, int n, float scale) {
    for (int i = 0; i < n; i++) to[i] = (rng_float(&seed) - 0.5f) * scale;
}

static void quantize_all(const kern *k, quantized *f) {
    memset(f, 0, sizeof *f);
    k->quantize(x, TOKENS * N, 32, f->q8[0], f->q16[0], f->sums[0], f->d[0]);
    k->quantize(x, TOKENS * N, 256, f->q8[1], f->q16[1], f->sums[1], f->d[1]);
}

static activations activations_of(quantized *f) {
    const activations a = {N, x, {f->q8[0], f->q16[0], f->sums[0], f->d[0]},
                           {f->q8[1], f->q16[1], f->sums[1], f->d[1]}};
    return a;
}

/* Equal bits, or both not a number. */
static int same(const float *a, const float *b, int n) {
    for (int i = 0; i < n; i++)
        if (f32_bits(a[i]) != f32_bits(b[i]) && !(a[i] != a[i] && b[i] != b[i])) return 0;
    return 1;
}

static const kern *variant(int i) {
    return kern_find((polar_cpu)i);
}
#define EACH_VARIANT(k) \
    for (int v_ = POLAR_CPU_PLAIN + 1; v_ < POLAR_N_CPU; v_++) for (const kern *k = variant(v_); k; k = NULL)

TEST(quantize) {
    static quantized a, b;
    const float scales[] = {1, 1000, 1e-30f, 1e-44f, 1e38f, 0};
    EACH_VARIANT(k) for (int i = 0; i < COUNT(scales); i++) {
        fill(x, TOKENS * N, scales[i]);
        if (i == 1) x[5] = INFINITY, x[600] = NAN;
        quantize_all(&kern_plain, &a);
        quantize_all(k, &b);
        CHECK(!memcmp(a.q8, b.q8, sizeof a.q8) && !memcmp(a.q16, b.q16, sizeof a.q16) &&
              !memcmp(a.sums, b.sums, sizeof a.sums));
        CHECK(same(a.d[0], b.d[0], COUNT(a.d[0])) && same(a.d[1], b.d[1], COUNT(a.d[1])));
    }
}

TEST(quantize_error) {
    static quantized f;
    fill(x, TOKENS * N, 8);
    quantize_all(&kern_plain, &f);
    for (int i = 0; i < TOKENS * N; i++) {
        CHECK(fabsf((float)f.q8[0][i] * f.d[0][i / 32] - x[i]) <= 0.5001f * f.d[0][i / 32]);
        CHECK(fabsf((float)f.q8[1][i] * f.d[1][i / 256] - x[i]) <= 0.5001f * f.d[1][i / 256]);
    }
}

/* Random weights of any bits, every type, 1 to 13 tokens, numbers of rows and of blocks that are no multiple of
 * anything. */
TEST(multiply) {
    static quantized f;
    static uint8_t w[ROWS * N * 4];
    static char scratch[KERN_SCRATCH + 1];
    static float y[2][TOKENS * ROWS];
    const int index[TOKENS] = {6, 0, 3, 3, 1, 2, 5, 12, 11, 4, 9, 9, 7}, lengths[] = {N, 256, 32, 13 * 32};
    EACH_VARIANT(k) for (int round = 0; round < COUNT(lengths); round++) {
        for (size_t i = 0; i < sizeof w; i++) w[i] = (uint8_t)rng_next(&seed);
        fill(x, TOKENS * N, 3);
        quantize_all(&kern_plain, &f);
        for (int type = 0; type < QUANT_N; type++)
            for (int n = 1; lengths[round] % quant_types[type].block == 0 && n <= TOKENS; n += n < 7 ? 1 : 6) {
                activations a = activations_of(&f);
                const size_t bytes = quant_row_bytes(type, (size_t)lengths[round]);
                product p = {type, ROWS, w, bytes, &a, round ? index : NULL, n, y[0], ROWS, NULL};
                a.n = lengths[round];
                memset(y, 0, sizeof y);
                kern_multiply(&kern_plain, &p, 0, ROWS, scratch);
                p.y = y[1];
                kern_multiply(k, &p, 0, 16, scratch);
                kern_multiply(k, &p, 16, ROWS - 16, scratch);
                CHECK(same(y[0], y[1], n * ROWS));
                if (!same(y[0], y[1], n * ROWS)) printf("%s, %d tokens, %d\n", quant_types[type].name, n, a.n);
            }
    }
}

#ifdef POLAR_SIMD
/* A copy of an instruction set's row whose functions are counted and then do what the row's do. */
static const product_set *counted;
static int n_floats, n_few, n_fill, n_dot;

static void count_floats(const product *p, int row, int n_rows) {
    n_floats++;
    counted->floats(p, row, n_rows);
}

static void count_few(const product *p, int row, int n_rows) {
    n_few++;
    counted->few_tokens(p, row, n_rows);
}

static void count_fill(int set, const panel *to, int type, const uint8_t *const *w, int count, const uint8_t *ahead) {
    n_fill++;
    counted->fill(set, to, type, w, count, ahead);
}

static void count_dot(const panel *f, int type, int count, const panel_tile *t) {
    n_dot++;
    counted->dot(f, type, count, t);
}

/* What the table above product_set says: each quantized type is read by code of its own; up to `few` tokens go over the
 * rows, more over panels of `rows` rows by tiles of `tokens`; floats and few tokens fill no panel. */
static void check_set(polar_cpu cpu, const product_set *set, int few, int rows, int tokens) {
    static quantized f;
    static uint8_t w[ROWS * 256 * 4];
    static char scratch[KERN_SCRATCH + 1];
    static float y[2][TOKENS * ROWS];
    const product_set copy = {set->set, set->rows, set->tokens, set->few, count_floats, count_few, count_fill,
                              count_dot};
    const kern *found = kern_find(cpu);
    kern k = kern_plain;
    if (!found) return;
    CHECK(found->set == set);
    counted = set;
    k.set = &copy;
    quantize_all(&kern_plain, &f);
    for (size_t i = 0; i < sizeof w; i++) w[i] = (uint8_t)(rng_next(&seed) & 0x3f);
    for (int type = 0; type < QUANT_N; type++) for (int n = 1; n <= TOKENS; n++) {
        activations a = activations_of(&f);
        product p = {type, ROWS, w, quant_row_bytes(type, 256), &a, NULL, n, y[0], ROWS, NULL};
        const int floats = !quant_types[type].unpack, panels = (ROWS + rows - 1) / rows;
        a.n = 256;
        n_floats = n_few = n_fill = n_dot = 0;
        kern_multiply(&k, &p, 0, ROWS, scratch);
        CHECK(floats == !kern_knows(type));
        CHECK(n_floats == floats && n_few == (!floats && n <= few));
        CHECK(n_fill == (floats || n <= few ? 0 : panels));
        CHECK(n_dot == n_fill * ((n + tokens - 1) / tokens));
        p.y = y[1];
        kern_multiply(found, &p, 0, ROWS, scratch);
        CHECK(same(y[0], y[1], n * ROWS));
    }
}

TEST(what_runs) {
#ifdef POLAR_X86
    check_set(POLAR_CPU_AVX2, &set_avx2, 3, 16, 4);
#endif
#ifdef POLAR_X86_VNNI
    if (cpu_has_avxvnni()) check_set(POLAR_CPU_AVXVNNI, &set_avxvnni, 2, 16, 4);
    else check_set(POLAR_CPU_AVXVNNI, &set_avx512vl, 2, 16, 4);
#endif
#ifdef POLAR_X86_512
    check_set(POLAR_CPU_AVX512, &set_avx512, 2, 16, 8);
#endif
#ifdef POLAR_X86_AMX
    check_set(POLAR_CPU_AMX, &set_amx, 2, 16, 16);
#endif
#ifdef POLAR_ARM
    check_set(POLAR_CPU_NEON, &set_neon, 3, 8, 4);
    check_set(POLAR_CPU_DOTPROD, &set_dotprod, 3, 8, 4);
    check_set(POLAR_CPU_I8MM, &set_i8mm, 3, 8, 4);
#endif
#ifdef POLAR_WASM
    check_set(POLAR_CPU_WASM, &set_wasm, 3, 16, 4);
#endif
}
#else
TEST(what_runs) { SKIP("this build has plain C alone"); }
#endif

/* Multiply-adds that rounding to double and then to float gets wrong: c + p, c odd in its last bit and p half of that bit
 * times (1 + u)(1 - u), a little less than the middle. From subnormal numbers on, alone and among others. */
TEST(rounded_once) {
    EACH_VARIANT(k) for (int e = -149; e < 100; e++) for (int n = 1; n < 20; n++) {
        const float half = ldexpf(1, (e - 1) / 2), unit = ldexpf(1, e - 1 - (e - 1) / 2), u = ldexpf(1, -18);
        float c[2][20], v[20];
        for (int i = 0; i < n; i++) {
            const int bits = 1 << rng_next(&seed) % 23 | 1;
            c[0][i] = c[1][i] = ldexpf((float)bits, e) * (rng_next(&seed) % 2 ? 1.0f : -1.0f);
            v[i] = rng_next(&seed) % 2 ? unit * (1 - u) : rng_next(&seed) % 2 ? unit * (u - 1) : rng_float(&seed);
        }
        kern_plain.axpy(c[0], half * (1 + u), v, n);
        k->axpy(c[1], half * (1 + u), v, n);
        CHECK(same(c[0], c[1], n));
    }
}

/* Sums of integers, which some processors take two or eight at a time, with the largest that blocks have. */
TEST(integer_sums) {
    static int16_t w[2][QUANT_BLOCK];
    for (int round = 0; round < 50; round++)
        for (int n = 16; n <= QUANT_BLOCK; n += 16) {
            int64_t sum = 0;
            for (int i = 0; i < n; i++) {
                w[0][i] = (int16_t)(round ? (int)(rng_next(&seed) % 8193) - 4096 : -4096);
                w[1][i] = (int16_t)(round ? (int)(rng_next(&seed) % 255) - 127 : 127);
                sum += (int64_t)w[0][i] * w[1][i];
            }
            CHECK(dot_int_c(w[0], w[1], n) == sum);
        }
}

/* The quantized product is close to the product of the dequantized numbers in double. */
TEST(multiply_is_product) {
    static quantized f;
    static float w[N];
    static char scratch[KERN_SCRATCH + 1];
    uint8_t row[N * 4];
    for (int type = 0; type < QUANT_N; type++) {
        const activations a = activations_of(&f);
        float y;
        double exact = 0, size = 0;
        product p = {type, 1, row, sizeof row, &a, NULL, 1, &y, 1, NULL};
        for (size_t i = 0; i < sizeof row; i++) row[i] = (uint8_t)(rng_next(&seed) & 0x33);
        fill(x, TOKENS * N, 2);
        quantize_all(&kern_plain, &f);
        quant_dequantize(type, row, N, w);
        for (int i = 0; i < N; i++) {
            exact += (double)w[i] * (double)x[i];
            size += fabs((double)w[i]) * fabs((double)x[i]);
        }
        kern_multiply(&kern_plain, &p, 0, 1, scratch);
        CHECK(fabs((double)y - exact) <= 0.01 * size);
    }
}

TEST(vectors) {
    static float a[2][N], b[N], w[N];
    static uint8_t h[2][N * 2];
    EACH_VARIANT(k) for (int n = 1; n < 200; n += n < 40 ? 1 : 13) {
        for (int round = 0; round < 2; round++) {
            const kern *use = round ? k : &kern_plain;
            seed = (uint64_t)n;
            fill(a[round], n, 30), fill(b, n, 3), fill(w, n, 2);
            if (n > 20) a[round][3] = 200, a[round][4] = -200, a[round][5] = 1e-42f;
            use->to_f16(h[round], a[round], n);
            use->axpy(a[round], 0.37f, b, n);
            use->swiglu(a[round], b, n);
            use->rms_norm(a[round], a[round], w, n, 1e-5f);
            if (n % 2 == 0) {
                use->rope(a[round], w, n / 2, 0);
                use->rope(a[round], w, n / 2, 1);
            }
            a[round][n] = use->softmax(a[round], n);
        }
        CHECK(same(a[0], a[1], n + 1));
        CHECK(!memcmp(h[0], h[1], (size_t)n * 2));
    }
}

TEST(attention) {
    static float q[256], k32[64 * 256], s[2][64], o[2][256];
    static uint8_t k16[64 * 256 * 2];
    fill(q, 256, 2), fill(k32, COUNT(k32), 2);
    to_f16_c(k16, k32, COUNT(k32));
    EACH_VARIANT(k)
    for (int n = 1; n <= 64; n += 5) for (int dim = 8; dim <= 256; dim += 12) for (int f16 = 0; f16 < 2; f16++) {
        const uint8_t *kv = f16 ? k16 : (const uint8_t *)(const void *)k32;
        memset(o, 0, sizeof o);
        for (int round = 0; round < 2; round++) {
            const kern *use = round ? k : &kern_plain;
            use->scores(s[round], q, kv, n, dim, f16, 0.25f);
            use->accumulate(o[round], s[round], kv, n, dim, f16);
        }
        CHECK(same(s[0], s[1], n) && same(o[0], o[1], dim));
    }
}

/* Four at a time as one by one. */
TEST(attention_of_four) {
    static float q[4][256], k32[64 * 256], s[2][4][64], o[2][4][256];
    static uint8_t k16[64 * 256 * 2];
    const float *const queries[4] = {q[0], q[1], q[2], q[3]};
    float *const outs[4] = {o[1][0], o[1][1], o[1][2], o[1][3]};
    fill(q[0], COUNT(q) * 256, 2), fill(k32, COUNT(k32), 2);
    to_f16_c(k16, k32, COUNT(k32));
    EACH_VARIANT(k)
    for (int n = 1; n <= 64 && k->scores4; n += 3) for (int dim = 8; dim <= 256; dim += 12)
    for (int f16 = 0; f16 < 2; f16++) {
        const uint8_t *kv = f16 ? k16 : (const uint8_t *)(const void *)k32;
        memset(s, 0, sizeof s), memset(o, 0, sizeof o);
        for (int i = 0; i < 4; i++) {
            kern_plain.scores(s[0][i], q[i], kv, n, dim, f16, 0.25f);
            kern_plain.accumulate(o[0][i], s[0][i], kv, n, dim, f16);
        }
        k->scores4(s[1][0], 64, queries, kv, n, dim, f16, 0.25f);
        k->accumulate4(outs, s[1][0], 64, kv, n, dim, f16);
        CHECK(same(s[0][0], s[1][0], 4 * 64) && same(o[0][0], o[1][0], 4 * 256));
    }
}

/* What the processor and the system have, against Linux's own list. */
TEST(detection) {
#ifdef POLAR_X86
    FILE *f = fopen("/proc/cpuinfo", "r");
    static char line[1 << 14];
    const char *flags = NULL;
    while (f && !flags && fgets(line, sizeof line, f))
        if (!strncmp(line, "flags", 5)) flags = line;
    if (f) fclose(f);
    if (flags) {
        const int avx2 = strstr(flags, " avx2 ") && strstr(flags, " fma ") && strstr(flags, " f16c ");
        CHECK(cpu_has_avx2() == avx2);
#ifdef POLAR_X86_VNNI
        CHECK(cpu_has_avxvnni() == (avx2 && strstr(flags, " avx_vnni ")));
#endif
#ifdef POLAR_X86_512
        CHECK(cpu_has_avx512() == (avx2 && strstr(flags, " avx512f ") && strstr(flags, " avx512dq ") &&
                                   strstr(flags, " avx512bw ") && strstr(flags, " avx512vl ") &&
                                   strstr(flags, " avx512_vnni ")));
#endif
        return;
    }
#endif
    SKIP("there is no list of processor features to compare with");
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(quantize), T(quantize_error), T(multiply), T(what_runs), T(integer_sums), T(rounded_once),
    T(multiply_is_product), T(vectors), T(attention),
    T(attention_of_four), T(detection),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
