/* Small matrix products for train_model.c, as fast as the vector registers that the compiler may use (-march=native)
 * allow. They need the vector types of GCC or Clang. All dimensions are multiples of GEMM_ROWS.
 *
 * Where the processor multiplies pairs of bfloat16 (AVX512_BF16), the operands are rounded to that, at twice the speed;
 * sums are in float. GEMM_F32 keeps everything in float. */
#ifndef GEMM_H
#define GEMM_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { GEMM_WIDTH = 16, GEMM_ROWS = 8 };
#elif defined(__AVX__)
enum { GEMM_WIDTH = 8, GEMM_ROWS = 4 };
#else
enum { GEMM_WIDTH = 4, GEMM_ROWS = 4 };
#endif
/* A panel of the right matrix has this many columns, two vectors. */
enum { GEMM_COLS = 2 * GEMM_WIDTH, GEMM_BLOCK = 128 };

typedef float gemm_vec __attribute__((vector_size(4 * GEMM_WIDTH)));
typedef float gemm_mem __attribute__((vector_size(4 * GEMM_WIDTH), aligned(4), may_alias));
#if defined(__clang__)
#define GEMM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GEMM_UNROLL _Pragma("GCC unroll 8")
#endif

/* --- numbers: `gemm_unit` is what the tile below reads, GEMM_DEPTH values of the sum's index ---------------- */

#if defined(__AVX512BF16__) && !defined(GEMM_F32)
#include <immintrin.h>
enum { GEMM_DEPTH = 2 };
typedef uint32_t gemm_unit; /* two bfloat16 */
typedef __m512bh gemm_right;

static inline uint32_t gemm_round(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return (u + 0x7FFF + (u >> 16 & 1)) >> 16;
}
static inline gemm_unit gemm_pair(float x, float y) {
    return gemm_round(x) | gemm_round(y) << 16;
}
static inline gemm_right gemm_load(const gemm_unit *b) {
    return (__m512bh)_mm512_loadu_si512(b);
}
static inline gemm_vec gemm_add(gemm_vec sum, gemm_unit a, gemm_right b) {
    return (gemm_vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), b);
}
#else
enum { GEMM_DEPTH = 1 };
typedef float gemm_unit;
typedef gemm_vec gemm_right;

static inline gemm_right gemm_load(const gemm_unit *b) {
    return *(const gemm_mem *)b;
}
static inline gemm_vec gemm_add(gemm_vec sum, gemm_unit a, gemm_right b) {
    return sum + a * b;
}
#endif

/* out[j] is the unit of a[j], and of b[j] where there are two in one. */
static inline void gemm_join(const float *a, const float *b, int n, gemm_unit *out) {
#if defined(__AVX512BF16__) && !defined(GEMM_F32)
    for (int j = 0; j < n; j++) out[j] = gemm_pair(a[j], b[j]);
#else
    (void)b;
    memcpy(out, a, (size_t)n * sizeof *out);
#endif
}

/* Units of n numbers in a row. */
static inline void gemm_convert(const float *a, size_t n, gemm_unit *out) {
#if defined(__AVX512BF16__) && !defined(GEMM_F32)
    uint16_t *half = (uint16_t *)out;
    for (size_t j = 0; j < n; j++) half[j] = (uint16_t)gemm_round(a[j]);
#else
    memcpy(out, a, n * sizeof *out);
#endif
}

/* --- products ---------------------------------------------------------------------------------------------- */

/* A tile of C: c[i][j] (+)= sum over k of a[i * a_row + k * a_col] b[k * GEMM_COLS + j], for GEMM_ROWS x GEMM_COLS and
 * n units. */
static inline void gemm_tile(int n, const gemm_unit *a, size_t a_row, size_t a_col, const gemm_unit *b, float *c,
                             size_t ldc, int add) {
    gemm_vec sum[GEMM_ROWS][2];
    GEMM_UNROLL
    for (int i = 0; i < GEMM_ROWS; i++) sum[i][0] = sum[i][1] = (gemm_vec){0};
    for (int k = 0; k < n; k++, a += a_col, b += GEMM_COLS) {
        const gemm_right b0 = gemm_load(b), b1 = gemm_load(b + GEMM_WIDTH);
        GEMM_UNROLL
        for (int i = 0; i < GEMM_ROWS; i++) {
            const gemm_unit x = a[(size_t)i * a_row];
            sum[i][0] = gemm_add(sum[i][0], x, b0);
            sum[i][1] = gemm_add(sum[i][1], x, b1);
        }
    }
    GEMM_UNROLL
    for (int i = 0; i < GEMM_ROWS; i++) {
        gemm_mem *to = (gemm_mem *)(c + (size_t)i * ldc), *to1 = (gemm_mem *)(c + (size_t)i * ldc + GEMM_WIDTH);
        if (add) sum[i][0] += *to, sum[i][1] += *to1;
        *to = sum[i][0], *to1 = sum[i][1];
    }
}

/* Panels of a matrix w (rows, cols): (cols / GEMM_COLS) times (rows / GEMM_DEPTH, GEMM_COLS) units. */
static inline void gemm_pack(const float *w, int rows, int cols, gemm_unit *out) {
    for (int j = 0; j < cols; j += GEMM_COLS)
        for (int i = 0; i < rows; i += GEMM_DEPTH, out += GEMM_COLS) {
            const float *a = w + (size_t)i * (size_t)cols + j;
            gemm_join(a, a + (GEMM_DEPTH - 1) * cols, GEMM_COLS, out);
        }
}

/* The same of its transpose: (rows / GEMM_COLS) times (cols / GEMM_DEPTH, GEMM_COLS) units. */
static inline void gemm_pack_transposed(const float *w, int rows, int cols, gemm_unit *out) {
    for (int i = 0; i < rows; i += GEMM_COLS)
        for (int j = 0; j < cols; j += GEMM_DEPTH)
            for (int k = 0; k < GEMM_COLS; k++) gemm_convert(w + (size_t)(i + k) * (size_t)cols + j, GEMM_DEPTH, out++);
}

/* c (m, n) (+)= a (m, k) times the packed b (k, n). `copy` has room for m k numbers. */
static inline void gemm(int m, int n, int k, const float *a, const gemm_unit *b, float *c, int add, gemm_unit *copy) {
    const int units = k / GEMM_DEPTH;
    gemm_convert(a, (size_t)m * (size_t)k, copy);
    for (int j = 0; j < n; j += GEMM_COLS)
        for (int i = 0; i < m; i += GEMM_ROWS)
            gemm_tile(units, copy + (size_t)i * (size_t)units, (size_t)units, 1, b + (size_t)j * (size_t)units,
                      c + (size_t)i * (size_t)n + j, (size_t)n, add);
}

/* c (m, n) += the transpose of a (k, m) times b (k, n). Blocks of both are copied first: read in place, their rows
 * would push each other out of the first cache. `copy` has room for GEMM_BLOCK * (m + GEMM_COLS) numbers. */
static inline void gemm_outer(int m, int n, int k, const float *a, const float *b, float *c, gemm_unit *copy) {
    gemm_unit *const columns = copy + (size_t)GEMM_BLOCK * (size_t)m;
    for (int t = 0; t < k; t += GEMM_BLOCK) {
        const int units = (k - t < GEMM_BLOCK ? k - t : GEMM_BLOCK) / GEMM_DEPTH;
        for (int i = 0; i < m; i += GEMM_ROWS)
            for (int s = 0; s < units; s++) {
                const float *from = a + (size_t)(t + s * GEMM_DEPTH) * (size_t)m + i;
                gemm_join(from, from + (GEMM_DEPTH - 1) * m, GEMM_ROWS,
                          copy + (size_t)i * GEMM_BLOCK + (size_t)s * GEMM_ROWS);
            }
        for (int j = 0; j < n; j += GEMM_COLS) {
            for (int s = 0; s < units; s++) {
                const float *from = b + (size_t)(t + s * GEMM_DEPTH) * (size_t)n + j;
                gemm_join(from, from + (GEMM_DEPTH - 1) * n, GEMM_COLS, columns + s * GEMM_COLS);
            }
            for (int i = 0; i < m; i += GEMM_ROWS)
                gemm_tile(units, copy + (size_t)i * GEMM_BLOCK, 1, GEMM_ROWS, columns, c + (size_t)i * (size_t)n + j,
                          (size_t)n, 1);
        }
    }
}
#endif
