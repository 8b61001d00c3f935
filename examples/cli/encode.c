/* Floats to blocks, as encode.h says. Which bits stand where is said in [quant] of polar.c, which reads them. */
#include "encode.h"

#include <math.h>
#include <string.h>

#ifndef MIN
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#endif

#define ENCODE_BLOCK 256 /* numbers of the largest block */

typedef struct encode_block_q8_0 { uint8_t d[2], qs[32]; } encode_block_q8_0;
typedef struct encode_block_q4_0 { uint8_t d[2], qs[16]; } encode_block_q4_0;
typedef struct encode_block_q4_1 { uint8_t d[2], m[2], qs[16]; } encode_block_q4_1;
typedef struct encode_block_q5_0 { uint8_t d[2], qh[4], qs[16]; } encode_block_q5_0;
typedef struct encode_block_q5_1 { uint8_t d[2], m[2], qh[4], qs[16]; } encode_block_q5_1;
typedef struct encode_block_iq4_nl { uint8_t d[2], qs[16]; } encode_block_iq4_nl;
typedef struct encode_block_q2_k { uint8_t scales[16], qs[64], d[2], dmin[2]; } encode_block_q2_k;
typedef struct encode_block_q3_k { uint8_t hmask[32], qs[64], scales[12], d[2]; } encode_block_q3_k;
typedef struct encode_block_q4_k { uint8_t d[2], dmin[2], scales[12], qs[128]; } encode_block_q4_k;
typedef struct encode_block_q5_k { uint8_t d[2], dmin[2], scales[12], qh[32], qs[128]; } encode_block_q5_k;
typedef struct encode_block_q6_k { uint8_t ql[128], qh[64], scales[16], d[2]; } encode_block_q6_k;
typedef struct encode_block_iq4_xs { uint8_t d[2], scales_h[2], scales_l[4], qs[128]; } encode_block_iq4_xs;

/* Stops the compiler where a layout has not the bytes that the file format gives it. */
#define ENCODE_CHECK(layout, bytes) typedef char encode_check_##layout[sizeof(layout) == (bytes) ? 1 : -1]
ENCODE_CHECK(encode_block_q8_0, 34);
ENCODE_CHECK(encode_block_q4_0, 18);
ENCODE_CHECK(encode_block_q4_1, 20);
ENCODE_CHECK(encode_block_q5_0, 22);
ENCODE_CHECK(encode_block_q5_1, 24);
ENCODE_CHECK(encode_block_iq4_nl, 18);
ENCODE_CHECK(encode_block_q2_k, 84);
ENCODE_CHECK(encode_block_q3_k, 110);
ENCODE_CHECK(encode_block_q4_k, 144);
ENCODE_CHECK(encode_block_q5_k, 176);
ENCODE_CHECK(encode_block_q6_k, 210);
ENCODE_CHECK(encode_block_iq4_xs, 136);

/* The sixteen values of the IQ4 types, denser where weights are. */
static const int8_t encode_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* --- Exact arithmetic, the same bits with every compiler: see [num] of polar.c --- */

static uint32_t encode_f32_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float encode_bits_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static uint64_t encode_f64_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}

/* a b + c, rounded once. */
static float encode_fma32(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__ARM_FEATURE_FMA) || defined(__riscv_flen) || \
    defined(__s390x__)
    return __builtin_fmaf(a, b, c);
#else
    double p = (double)a * (double)b, q = (double)c, s = p + q, t, err;
    uint64_t u = encode_f64_bits(s);
    if ((u & 0x1fffffff) != 0x10000000 && (u >> 52 & 2047) > 1023 - 127) return (float)s;
    t = s - p, err = (p - (s - t)) + (q - t);
    if (err != 0 && err - err == 0) { /* inexact, and not infinite or NaN */
        if (!(u & 1)) u += (err > 0) == (s > 0) ? 1 : (uint64_t)-1;
        memcpy(&s, &u, sizeof s);
    }
    return (float)s;
#endif
}

/* A product that no compiler contracts with a sum. */
static double encode_mul64(double a, double b) {
    volatile double p = a * b;
    return p;
}

/* Half floats. */
static float encode_f16_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return encode_bits_f32(sign | 0x7f800000 | m << 13 | (m ? 0x400000 : 0));
    if (e) return encode_bits_f32(sign | (e + 112) << 23 | m << 13);
    return encode_bits_f32(sign | encode_f32_bits((float)m * 5.9604644775390625e-8f)); /* m * 2^-24 */
}

static uint16_t encode_f32_f16(float x) {
    uint32_t u = encode_f32_bits(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds to 65536 or more */
    if (a < 0x38800000) {                                  /* subnormal: add 0.5 so that the unit is 2^-24 */
        float y = encode_bits_f32(a) + 0.5f;
        return (uint16_t)(sign | (encode_f32_bits(y) - 0x3f000000));
    }
    a += 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000) >> 13);
}

static void encode_wr_u16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void encode_wr_u32(uint8_t *p, uint32_t v) {
    encode_wr_u16(p, (uint16_t)v);
    encode_wr_u16(p + 2, (uint16_t)(v >> 16));
}

/* --- Choosing numbers ---
 *
 * All types are one problem: x[i] ~ d scale[j] q[i] + m min[j], where j is the sub-block of i, d and m are
 * halves and the rest are small integers. The squared error has no shortcut, but for fixed integers the best d
 * and m follow from linear least squares, and for fixed d and m each q is a rounding. So: for each sub-block
 * try a row of starting steps, keep the one whose least-squares fit is best (encode_fit_scale, encode_fit_line);
 * round the sub-block scales and mins; then alternate between rounding and least squares over the whole
 * block as long as the error falls (encode_fit).
 *
 * All numbers weigh the same. Weights that grow with the magnitude, as ggml uses them, left the divergence of the
 * logits of two trained models where it was.
 *
 * Exactness: sums are in double, and each product that is added is of two floats or small integers, hence exact
 * there: fused or not, it gives the same bits. Other products go through encode_mul64. */

typedef struct encode_shape {
    int n, sub;                /* numbers of a block, of a sub-block */
    int low, high;             /* q is low..high */
    const int8_t *values;      /* NULL, or the sixteen values that q can take */
    int scale_low, scale_high; /* of sub-blocks; both 1: there is one, with d as its scale */
    int min_high;              /* min is 0..min_high; 0: the type has none */
    int tries;                 /* starting steps tried on each side of the obvious one, ... */
    float reach;               /* ... the last of them this far from it, relatively */
} encode_shape;

typedef struct encode_grid {
    float d, m; /* exact halves */
    int scale[ENCODE_BLOCK / 16], min[ENCODE_BLOCK / 16];
    int16_t q[ENCODE_BLOCK];
} encode_grid;

/* The nearest integer to x * inverse, ties to even: the product is exact in double, and adding 1.5 * 2^52
 * leaves the integer in the low bits. */
static int encode_round(float x, float inverse) {
    return (int)(int32_t)(uint32_t)encode_f64_bits((double)x * (double)inverse + 6755399441055744.0);
}

/* 1 / x, or 0 where that would not be a finite float or x stands for nothing. */
static float encode_inverse(float x) {
    return fabsf(x) > 1e-30f ? 1 / x : 0;
}

/* The index of the value of encode_iq4 nearest to v: how many midpoints between neighbours lie below it. */
static int encode_iq4_index(int v) {
    int i = 2 * v > encode_iq4[7] + encode_iq4[8] ? 8 : 0;
    i += 2 * v > encode_iq4[i + 3] + encode_iq4[i + 4] ? 4 : 0;
    i += 2 * v > encode_iq4[i + 1] + encode_iq4[i + 2] ? 2 : 0;
    return i + (2 * v > encode_iq4[i] + encode_iq4[i + 1]);
}

/* The q of a type that is nearest to x * inverse. */
static int encode_nearest(const encode_shape *s, float x, float inverse) {
    int q = encode_round(x, inverse);
    q = MAX(s->low, MIN(s->high, q));
    return s->values ? encode_iq4[encode_iq4_index(q)] : q;
}

/* Sums over a sub-block for least squares. */
typedef struct encode_sums {
    double x, xq;
    int q, qq;
} encode_sums;

static encode_sums encode_try(const encode_shape *s, const float *x, float offset, float inverse) {
    encode_sums t = {0, 0, 0, 0};
    for (int i = 0; i < s->sub; i++) {
        int q = encode_nearest(s, x[i] - offset, inverse);
        t.x += (double)x[i];
        t.xq += (double)x[i] * q;
        t.q += q;
        t.qq += q * q;
    }
    return t;
}

/* The step number `k` of 2 * tries + 1, as a factor of the obvious one. */
static float encode_step(const encode_shape *s, int k) {
    return encode_fma32((float)(k - s->tries) / (float)MAX(1, s->tries), s->reach, 1);
}

/* min over d and q of sum (x - d q)^2. For given q the best d is sum x q / sum q q, and the sum of squares
 * falls by (sum x q)^2 / sum q q. Starts: the number furthest from 0 becomes `low`, the wider end; among
 * uneven values the other end may fit better. */
static float encode_fit_scale(const encode_shape *s, const float *x) {
    float extreme = 0, d = 0;
    double best = 0;
    for (int i = 0; i < s->sub; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    for (int end = 0; end < (s->values ? 2 : 1); end++) {
        float inverse = encode_inverse(extreme) * (float)(end ? s->high : s->low);
        for (int k = 0; k <= 2 * s->tries + 2; k++) { /* the last two rounds start from the best so far */
            encode_sums t = encode_try(s, x, 0, k <= 2 * s->tries ? inverse * encode_step(s, k) : encode_inverse(d));
            double gain = t.qq ? t.xq * t.xq / t.qq : 0;
            if (gain <= best) continue;
            best = gain;
            d = (float)(t.xq / t.qq);
        }
    }
    return d;
}

/* min over d, m and q of sum (x - d q - m)^2, with m <= 0 where the type's mins have a common factor. */
static void encode_fit_line(const encode_shape *s, const float *x, float *d, float *m) {
    float low = x[0], high = x[0], inverse;
    double best = 0, n = s->sub;
    for (int i = 1; i < s->sub; i++) {
        low = MIN(low, x[i]);
        high = MAX(high, x[i]);
    }
    if (s->min_high > 1) low = MIN(low, 0);
    *d = 0;
    *m = low;
    inverse = encode_inverse(high - low) * (float)s->high;
    for (int k = 0; k <= 2 * s->tries + 2; k++) {
        int again = k > 2 * s->tries;
        encode_sums t = encode_try(s, x, again ? *m : low, again ? encode_inverse(*d) : inverse * encode_step(s, k));
        double det = n * t.qq - (double)t.q * t.q, slope = 0, offset = 0, gain;
        if (!t.qq) continue;
        if (det > 0) offset = (encode_mul64(t.x, t.qq) - encode_mul64(t.xq, t.q)) / det;
        if (s->min_high > 1) offset = MIN(offset, 0);
        slope = (t.xq - encode_mul64(offset, t.q)) / t.qq;
        gain = encode_mul64(slope, t.xq) + encode_mul64(offset, t.x);
        if (gain <= best) continue;
        best = gain;
        *d = (float)slope;
        *m = (float)offset;
    }
}

/* To the nearest half that is finite. */
static float encode_half(double x) {
    return encode_f16_f32(encode_f32_f16((float)MAX(-65504.0, MIN(65504.0, x))));
}

/* Rounds all q for the grid's d, m, scales and mins, and returns the sum of squared errors. */
static double encode_assign(const encode_shape *s, const float *x, encode_grid *g) {
    double error = 0;
    for (int i = 0; i < s->n; i += s->sub) {
        float step = g->d * (float)g->scale[i / s->sub], offset = g->m * (float)g->min[i / s->sub]; /* both exact */
        float inverse = encode_inverse(step);
        for (int k = i; k < i + s->sub; k++) {
            int q = encode_nearest(s, x[k] - offset, inverse);
            double e = (double)(x[k] - encode_fma32(step, (float)q, offset));
            g->q[k] = (int16_t)q;
            error += encode_mul64(e, e);
        }
    }
    return error;
}

/* Least squares for d and m of the whole block, everything else fixed. */
static void encode_solve(const encode_shape *s, const float *x, encode_grid *g) {
    double aa = 0, bb = 0, ab = 0, ax = 0, bx = 0, det;
    for (int i = 0; i < s->n; i++) {
        int a = g->q[i] * g->scale[i / s->sub], b = g->min[i / s->sub];
        aa += (double)(a * a);
        ab += (double)(a * b);
        bb += (double)(b * b);
        ax += (double)x[i] * a;
        bx += (double)x[i] * b;
    }
    det = encode_mul64(aa, bb) - encode_mul64(ab, ab);
    if (det > 0) {
        g->d = encode_half((encode_mul64(ax, bb) - encode_mul64(bx, ab)) / det);
        g->m = encode_half((encode_mul64(bx, aa) - encode_mul64(ax, ab)) / det);
    } else if (aa > 0) {
        g->d = encode_half(ax / aa);
    }
}

/* Alternates least squares and rounding as long as that helps. */
static void encode_refine(const encode_shape *s, const float *x, encode_grid *g) {
    double best = encode_assign(s, x, g), error;
    encode_grid trial = *g;
    for (int round = 0; round < 4; round++) {
        encode_solve(s, x, &trial);
        error = encode_assign(s, x, &trial);
        if (error >= best) return;
        best = error;
        *g = trial;
    }
}

/* The grid with the least squared error for a block of x. */
static void encode_fit(const encode_shape *s, const float *x, encode_grid *g) {
    float ds[ENCODE_BLOCK / 16], ms[ENCODE_BLOCK / 16] = {0}, d = 0, m = 0;
    int n_sub = s->n / s->sub;
    for (int j = 0; j < n_sub; j++) {
        if (s->min_high)
            encode_fit_line(s, x + j * s->sub, &ds[j], &ms[j]);
        else
            ds[j] = encode_fit_scale(s, x + j * s->sub);
        if (fabsf(ds[j]) > fabsf(d)) d = ds[j];
        if (fabsf(ms[j]) > fabsf(m)) m = ms[j];
    }
    g->d = encode_half(d / (float)(s->min_high ? s->scale_high : s->scale_low));
    g->m = s->min_high ? encode_half(m / (float)s->min_high) : 0;
    for (int j = 0; j < n_sub; j++) {
        int scale = encode_round(ds[j], encode_inverse(g->d)), min = encode_round(ms[j], encode_inverse(g->m));
        g->scale[j] = MAX(s->scale_low, MIN(s->scale_high, scale));
        g->min[j] = s->min_high == 1 ? 1 : MAX(0, MIN(s->min_high, min));
    }
    encode_refine(s, x, g);
}

/* --- Writing blocks --- */

static uint16_t encode_to_bf16(float x) {
    uint32_t u = encode_f32_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40); /* NaN, quiet */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void encode_f32(const float *x, uint8_t *dst) {
    encode_wr_u32(dst, encode_f32_bits(*x));
}

static void encode_f16(const float *x, uint8_t *dst) {
    encode_wr_u16(dst, encode_f32_f16(*x));
}

static void encode_bf16(const float *x, uint8_t *dst) {
    encode_wr_u16(dst, encode_to_bf16(*x));
}

static void encode_put_half(uint8_t *dst, float x) {
    encode_wr_u16(dst, encode_f32_f16(x));
}

/* Steps so fine that a search gains nothing: the largest number becomes 127. */
static void encode_q8_0(const float *x, uint8_t *dst) {
    encode_block_q8_0 *b = (void *)dst;
    float largest = 0, d, inverse;
    for (int i = 0; i < 32; i++) largest = MAX(largest, fabsf(x[i]));
    d = encode_half((double)largest / 127);
    inverse = encode_inverse(d);
    encode_put_half(b->d, d);
    for (int i = 0; i < 32; i++) b->qs[i] = (uint8_t)MAX(-127, MIN(127, encode_round(x[i], inverse)));
}

/* 32 numbers to the nibbles and, if qh is not NULL, the fifth bits of the simple types; `zero` is added. */
static void encode_put_bits(const int16_t *q, int zero, uint8_t *qs, uint8_t *qh) {
    uint32_t high = 0;
    for (int i = 0; i < 16; i++) {
        unsigned a = (unsigned)(q[i] + zero), b = (unsigned)(q[i + 16] + zero);
        qs[i] = (uint8_t)((a & 15) | (b & 15) << 4);
        high |= (uint32_t)(a >> 4) << i | (uint32_t)(b >> 4) << (i + 16);
    }
    if (qh) encode_wr_u32(qh, high);
}

/* block, sub-block; q; values; scales; mins; tries, reach */
static const encode_shape encode_shape_q4_0 = {32, 32, -8, 7, NULL, 1, 1, 0, 5, 0.2f};
static const encode_shape encode_shape_q5_0 = {32, 32, -16, 15, NULL, 1, 1, 0, 5, 0.16f};
static const encode_shape encode_shape_iq4_nl = {32, 32, -127, 113, encode_iq4, 1, 1, 0, 5, 0.2f};
static const encode_shape encode_shape_q4_1 = {32, 32, 0, 15, NULL, 1, 1, 1, 8, 0.2f};
static const encode_shape encode_shape_q5_1 = {32, 32, 0, 31, NULL, 1, 1, 1, 8, 0.1f};
static const encode_shape encode_shape_q2_k = {256, 16, 0, 3, NULL, 0, 15, 15, 8, 0.25f};
static const encode_shape encode_shape_q3_k = {256, 16, -4, 3, NULL, -32, 31, 0, 5, 0.4f};
static const encode_shape encode_shape_q4_k = {256, 32, 0, 15, NULL, 0, 63, 63, 8, 0.2f};
static const encode_shape encode_shape_q5_k = {256, 32, 0, 31, NULL, 0, 63, 63, 8, 0.1f};
static const encode_shape encode_shape_q6_k = {256, 16, -32, 31, NULL, -128, 127, 0, 6, 0.09f};
static const encode_shape encode_shape_iq4_xs = {256, 32, -127, 113, encode_iq4, -32, 31, 0, 5, 0.2f};

static void encode_q4_0(const float *x, uint8_t *dst) {
    encode_block_q4_0 *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q4_0, x, &g);
    encode_put_half(b->d, g.d);
    encode_put_bits(g.q, 8, b->qs, NULL);
}

static void encode_q4_1(const float *x, uint8_t *dst) {
    encode_block_q4_1 *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q4_1, x, &g);
    encode_put_half(b->d, g.d);
    encode_put_half(b->m, g.m);
    encode_put_bits(g.q, 0, b->qs, NULL);
}

static void encode_q5_0(const float *x, uint8_t *dst) {
    encode_block_q5_0 *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q5_0, x, &g);
    encode_put_half(b->d, g.d);
    encode_put_bits(g.q, 16, b->qs, b->qh);
}

static void encode_q5_1(const float *x, uint8_t *dst) {
    encode_block_q5_1 *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q5_1, x, &g);
    encode_put_half(b->d, g.d);
    encode_put_half(b->m, g.m);
    encode_put_bits(g.q, 0, b->qs, b->qh);
}

/* Values of encode_iq4 to their indices, in place. */
static void encode_iq4_indices(int16_t *q, int n) {
    for (int i = 0; i < n; i++) q[i] = (int16_t)encode_iq4_index(q[i]);
}

static void encode_iq4_nl(const float *x, uint8_t *dst) {
    encode_block_iq4_nl *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_iq4_nl, x, &g);
    encode_iq4_indices(g.q, 32);
    encode_put_half(b->d, g.d);
    encode_put_bits(g.q, 0, b->qs, NULL);
}

static void encode_q2_k(const float *x, uint8_t *dst) {
    encode_block_q2_k *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q2_k, x, &g);
    encode_put_half(b->d, g.d);
    encode_put_half(b->dmin, -g.m);
    for (int j = 0; j < 16; j++) b->scales[j] = (uint8_t)(g.scale[j] | g.min[j] << 4);
    memset(b->qs, 0, sizeof b->qs);
    for (int i = 0; i < 256; i++) b->qs[i / 128 * 32 + i % 32] |= (uint8_t)(g.q[i] << i % 128 / 32 * 2);
}

static void encode_q3_k(const float *x, uint8_t *dst) {
    encode_block_q3_k *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q3_k, x, &g);
    memset(b, 0, sizeof *b);
    encode_put_half(b->d, g.d);
    for (int j = 0; j < 16; j++) {
        int scale = g.scale[j] + 32;
        b->scales[j % 8] |= (uint8_t)((scale & 15) << j / 8 * 4);
        b->scales[8 + j % 4] |= (uint8_t)(scale >> 4 << j / 4 * 2);
    }
    for (int i = 0; i < 256; i++) {
        int q = g.q[i] + 4;
        b->qs[i / 128 * 32 + i % 32] |= (uint8_t)((q & 3) << i % 128 / 32 * 2);
        b->hmask[i % 32] |= (uint8_t)(q >> 2 << i / 32);
    }
}

static void encode_put_scales_q4_k(const encode_grid *g, uint8_t *p) {
    for (int j = 0; j < 4; j++) {
        int scale = g->scale[j + 4], min = g->min[j + 4];
        p[j] = (uint8_t)(g->scale[j] | scale >> 4 << 6);
        p[j + 4] = (uint8_t)(g->min[j] | min >> 4 << 6);
        p[j + 8] = (uint8_t)((scale & 15) | (min & 15) << 4);
    }
}

/* Numbers to the nibbles of Q4_K, or with qh to those and the fifth bits of Q5_K. */
static void encode_put_k45(const int16_t *q, uint8_t *qh, uint8_t *qs) {
    for (int i = 0; i < 128; i++) {
        const int16_t *pair = q + i / 32 * 64 + i % 32;
        qs[i] = (uint8_t)((pair[0] & 15) | (pair[32] & 15) << 4);
    }
    if (!qh) return;
    memset(qh, 0, 32);
    for (int i = 0; i < 256; i++) qh[i % 32] |= (uint8_t)(q[i] >> 4 << i / 32);
}

static void encode_q4_k(const float *x, uint8_t *dst) {
    encode_block_q4_k *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q4_k, x, &g);
    encode_put_half(b->d, g.d);
    encode_put_half(b->dmin, -g.m);
    encode_put_scales_q4_k(&g, b->scales);
    encode_put_k45(g.q, NULL, b->qs);
}

static void encode_q5_k(const float *x, uint8_t *dst) {
    encode_block_q5_k *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q5_k, x, &g);
    encode_put_half(b->d, g.d);
    encode_put_half(b->dmin, -g.m);
    encode_put_scales_q4_k(&g, b->scales);
    encode_put_k45(g.q, b->qh, b->qs);
}

static void encode_q6_k(const float *x, uint8_t *dst) {
    encode_block_q6_k *b = (void *)dst;
    encode_grid g;
    encode_fit(&encode_shape_q6_k, x, &g);
    memset(b, 0, sizeof *b);
    encode_put_half(b->d, g.d);
    for (int j = 0; j < 16; j++) b->scales[j] = (uint8_t)g.scale[j];
    for (int i = 0; i < 256; i++) {
        int half = i / 128, k = i % 128 / 32, l = i % 32, q = g.q[i] + 32;
        b->ql[64 * half + 32 * (k % 2) + l] |= (uint8_t)((q & 15) << k / 2 * 4);
        b->qh[32 * half + l] |= (uint8_t)(q >> 4 << 2 * k);
    }
}

static void encode_iq4_xs(const float *x, uint8_t *dst) {
    encode_block_iq4_xs *b = (void *)dst;
    unsigned high = 0;
    encode_grid g;
    encode_fit(&encode_shape_iq4_xs, x, &g);
    encode_iq4_indices(g.q, 256);
    memset(b, 0, sizeof *b);
    encode_put_half(b->d, g.d);
    for (int j = 0; j < 8; j++) {
        unsigned scale = (unsigned)(g.scale[j] + 32);
        b->scales_l[j / 2] |= (uint8_t)((scale & 15) << j % 2 * 4);
        high |= scale >> 4 << 2 * j;
        encode_put_bits(g.q + 32 * j, 0, b->qs + 16 * j, NULL);
    }
    encode_wr_u16(b->scales_h, (uint16_t)high);
}

/* --- The table --- */

const encode_type encode_types[ENCODE_N] = {
    {"F32", ENCODE_F32, 1, 4, encode_f32},
    {"F16", ENCODE_F16, 1, 2, encode_f16},
    {"BF16", ENCODE_BF16, 1, 2, encode_bf16},
    {"Q8_0", ENCODE_Q8_0, 32, 34, encode_q8_0},
    {"Q4_0", ENCODE_Q4_0, 32, 18, encode_q4_0},
    {"Q4_1", ENCODE_Q4_1, 32, 20, encode_q4_1},
    {"Q5_0", ENCODE_Q5_0, 32, 22, encode_q5_0},
    {"Q5_1", ENCODE_Q5_1, 32, 24, encode_q5_1},
    {"IQ4_NL", ENCODE_IQ4_NL, 32, 18, encode_iq4_nl},
    {"Q2_K", ENCODE_Q2_K, 256, 84, encode_q2_k},
    {"Q3_K", ENCODE_Q3_K, 256, 110, encode_q3_k},
    {"Q4_K", ENCODE_Q4_K, 256, 144, encode_q4_k},
    {"Q5_K", ENCODE_Q5_K, 256, 176, encode_q5_k},
    {"Q6_K", ENCODE_Q6_K, 256, 210, encode_q6_k},
    {"IQ4_XS", ENCODE_IQ4_XS, 256, 136, encode_iq4_xs},
};

const encode_type *encode_find(int id) {
    for (int i = 0; i < ENCODE_N; i++)
        if (encode_types[i].id == id) return &encode_types[i];
    return NULL;
}
