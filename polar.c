/* polar.c - the implementation of polar.h. MIT licence.
 *
 * Sections, in the order of the file; each uses only sections above it:
 *   [config]  what the compiler and the system offer
 *   [err]     status and messages
 *   [mem]     allocator, checked sizes, layouts
 *   [num]     exact arithmetic: fma, half floats, exp, angles
 *   [thread]  one primitive: run n tasks
 *   [gguf]    GGUF files: reading and writing
 *   [json]    JSON: reading and writing, numbers without a locale
 *   [quant]   tensor types: blocks of quantized numbers
 *   [kern]    kernels and the choice of an instruction set
 *   [uni]     Unicode classes
 *   [tok]     tokenizers and chat formats
 *   [model]   architectures and weights
 *   [prog]    programs of layers
 *   [call]    one layer call: attention, feed-forward, experts
 *   [session] key-value slots, evaluation
 *   [gen]     sampling and generation
 *   [answer]  answers: extraction and equality
 *   [search]  search for programs
 *   [pred]    predictor
 *   [train]   training
 */

/* ======================================================================================
 * [config] What the compiler and the system offer
 * ====================================================================================== */

#if !defined(POLAR_NO_MMAP) && !defined(POLAR_NO_STDIO) && (defined(__unix__) || defined(__APPLE__))
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1 /* sysconf and madvise under -std=c99 */
#endif
#endif
#if defined(__unix__) || defined(__APPLE__)
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#endif

#include "polar.h"

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#ifndef POLAR_NO_STDIO
#include <errno.h>
#include <stdio.h>
#endif

#ifdef __FAST_MATH__
#error "polar's results are defined bit by bit: compile without -ffast-math and -Ofast"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ == 2
#error "polar needs float arithmetic in float: on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif
/* gcc contracts a*b + c across statements when the target has fma. There is no pragma that switches it off
 * and leaves the intrinsics alone, so no float product in this file is an operand of + or -: fma32 says
 * where one is meant. */

#if (defined(__x86_64__) || defined(_M_X64)) && !defined(POLAR_NO_SIMD) && (defined(__GNUC__) || defined(_MSC_VER)) && \
    !defined(__TINYC__)
#define POLAR_X86 1
#include <immintrin.h>
#ifdef _MSC_VER
#include <intrin.h>
#endif
#endif
#if defined(__aarch64__) && !defined(POLAR_NO_SIMD) && defined(__GNUC__)
#define POLAR_ARM 1
#include <arm_neon.h>
#endif
#if defined(__GNUC__) && !defined(__TINYC__)
#define TARGET(isa) __attribute__((target(isa)))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define MAYBE_UNUSED __attribute__((unused))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define TARGET(isa)
#define PRINTF_LIKE(f, a)
#define MAYBE_UNUSED
#define ALWAYS_INLINE inline
#endif

#if !defined(POLAR_NO_MMAP) && !defined(POLAR_NO_STDIO)
#if defined(__unix__) || defined(__APPLE__)
#define POLAR_MMAP_POSIX 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#elif defined(_WIN32)
#define POLAR_MMAP_WINDOWS 1
#endif
#endif
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#elif !defined(POLAR_NO_THREADS)
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#endif

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

const char *polar_version(void) {
    return POLAR_VERSION;
}

/* ======================================================================================
 * [err] Status and messages
 *
 * fail() is the only way to make an error. The first error wins: what goes wrong while cleaning up does not
 * hide the cause. Messages are formatted here, without the locale and without stdio.
 * ====================================================================================== */

static const char *const err_texts[] = {
#define ERR_TEXT(name, text) text,
    POLAR_STATUS_LIST(ERR_TEXT)
#undef ERR_TEXT
};

const char *polar_status_text(polar_status status) {
    return (int)status >= 0 && (int)status < COUNT(err_texts) ? err_texts[status] : "unknown status";
}

/* A bounded string under construction; `length` counts what did not fit too. */
typedef struct text {
    char *at;
    size_t capacity, length;
} text;

static void text_put(text *t, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++, t->length++)
        if (t->length + 1 < t->capacity) t->at[t->length] = s[i];
    if (t->capacity) t->at[MIN(t->length, t->capacity - 1)] = 0;
}

static void text_put_u64(text *t, uint64_t v, unsigned base) {
    char digits[24];
    int n = 0;
    do digits[n++] = "0123456789abcdef"[v % base];
    while (v /= base);
    while (n) text_put(t, &digits[--n], 1);
}

static void text_put_i64(text *t, int64_t v) {
    if (v < 0) text_put(t, "-", 1);
    text_put_u64(t, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 10);
}

/* The subset of printf that messages need: %s %.*s %c %d %u %x %zu %lld %llu %%. Control characters and bytes
 * that are not ASCII in strings from files are shown as '?' unless they look like UTF-8. */
static void text_vformat(text *t, const char *format, va_list args) {
    for (const char *f = format; *f; f++) {
        if (*f != '%') {
            text_put(t, f, 1);
            continue;
        }
        f++;
        if (*f == 's') {
            const char *s = va_arg(args, const char *);
            text_put(t, s, strlen(s));
        } else if (f[0] == '.' && f[1] == '*' && f[2] == 's') {
            int n = va_arg(args, int);
            text_put(t, va_arg(args, const char *), n > 0 ? (size_t)n : 0);
            f += 2;
        } else if (*f == 'd') text_put_i64(t, va_arg(args, int));
        else if (*f == 'u') text_put_u64(t, va_arg(args, unsigned), 10);
        else if (*f == 'x') text_put_u64(t, va_arg(args, unsigned), 16);
        else if (*f == 'c') {
            char c = (char)va_arg(args, int);
            text_put(t, &c, 1);
        } else if (f[0] == 'z' && f[1] == 'u') {
            text_put_u64(t, va_arg(args, size_t), 10);
            f++;
        } else if (f[0] == 'l' && f[1] == 'l' && f[2] == 'd') {
            text_put_i64(t, va_arg(args, long long));
            f += 2;
        } else if (f[0] == 'l' && f[1] == 'l' && f[2] == 'u') {
            text_put_u64(t, va_arg(args, unsigned long long), 10);
            f += 2;
        } else {
            assert(*f == '%');
            text_put(t, "%", 1);
        }
    }
}

static PRINTF_LIKE(2, 3) void text_format(text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    text_vformat(t, format, args);
    va_end(args);
}

/* Files may hold anything in their names; a message stays one printable line. */
static void text_clean(char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 32 || *s == 127) *s = '?';
}

static PRINTF_LIKE(3, 4) polar_status fail(polar_error *e, polar_status status, const char *format, ...) {
    if (e && e->status == POLAR_OK) {
        text t = {e->message, sizeof e->message, 0};
        va_list args;
        e->status = status;
        va_start(args, format);
        text_vformat(&t, format, args);
        va_end(args);
        text_clean(e->message);
    }
    return status;
}

/* Every public function that takes an error starts with this. */
static void err_clear(polar_error *e) {
    if (e) {
        e->status = POLAR_OK;
        e->message[0] = 0;
    }
}

/* ======================================================================================
 * [mem] Allocator, checked sizes, layouts
 *
 * Sizes that contain a number from outside go through mul_size and add_size. An object is one block, whose
 * parts are placed by a layout: the same function runs twice, to measure and to place. Uses: [err].
 * ====================================================================================== */

static void *mem_malloc(void *user, size_t size) {
    (void)user;
    return malloc(size);
}

static void mem_malloc_free(void *user, void *ptr, size_t size) {
    (void)user, (void)size;
    free(ptr);
}

static polar_allocator mem_allocator(const polar_allocator *a) {
    const polar_allocator standard = {mem_malloc, mem_malloc_free, NULL};
    return a && a->alloc && a->free ? *a : standard;
}

static void *mem_alloc(const polar_allocator *a, size_t size, polar_error *e) {
    void *p = a->alloc(a->user, size ? size : 1);
    if (!p) fail(e, POLAR_MEMORY, "out of memory: %zu bytes were refused", size);
    return p;
}

static void mem_free(const polar_allocator *a, void *p, size_t size) {
    if (p) a->free(a->user, p, size ? size : 1);
}

/* *r = a * b and *r = a + b; 0 if that overflows. */
static int mul_size(size_t *r, size_t a, size_t b) {
    if (b && a > SIZE_MAX / b) return 0;
    *r = a * b;
    return 1;
}

static int add_size(size_t *r, size_t a, size_t b) {
    if (a > SIZE_MAX - b) return 0;
    *r = a + b;
    return 1;
}

/* Grows *p, an array of *capacity elements, so that `need` fit; the old elements stay. 0 without memory. */
static int mem_grow(const polar_allocator *a, void **p, size_t *capacity, size_t need, size_t element, polar_error *e) {
    size_t n = *capacity ? *capacity : 16, bytes;
    void *q;
    if (need <= *capacity) return 1;
    while (n < need)
        if (!mul_size(&n, n, 2)) n = need;
    if (!mul_size(&bytes, n, element)) {
        fail(e, POLAR_MEMORY, "out of memory: %zu elements of %zu bytes", need, element);
        return 0;
    }
    if (!(q = mem_alloc(a, bytes, e))) return 0;
    if (*p) memcpy(q, *p, *capacity * element);
    mem_free(a, *p, *capacity * element);
    *p = q;
    *capacity = n;
    return 1;
}

/* Places arrays one after the other in a block. With base NULL it only measures. */
typedef struct layout {
    uint8_t *base; /* aligned to LAYOUT_ALIGN by layout_begin */
    size_t used;
    int overflow;
} layout;

#define LAYOUT_ALIGN 64 /* a cache line */

/* `block` has the measured size plus LAYOUT_ALIGN. */
static layout layout_begin(void *block) {
    layout l = {NULL, 0, 0};
    if (block) l.base = (uint8_t *)block + (LAYOUT_ALIGN - (uintptr_t)block % LAYOUT_ALIGN) % LAYOUT_ALIGN;
    return l;
}

static void *layout_place(layout *l, size_t count, size_t element) {
    size_t at = l->used, bytes;
    if (!mul_size(&bytes, count, element) || !add_size(&bytes, bytes, LAYOUT_ALIGN - 1) ||
        !add_size(&l->used, at, bytes / LAYOUT_ALIGN * LAYOUT_ALIGN))
        l->overflow = 1;
    return l->base && !l->overflow ? l->base + at : NULL;
}

/* Bytes to allocate for a measured layout; 0 if it overflowed. */
static size_t layout_bytes(const layout *l) {
    size_t n;
    return !l->overflow && add_size(&n, l->used, LAYOUT_ALIGN) ? n : 0;
}

/* FNV-1a, for hash tables. */
static uint64_t mem_hash(const void *p, size_t n) {
    const uint8_t *b = p;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

/* ======================================================================================
 * [num] Exact arithmetic
 *
 * What has to give the same bits everywhere and is not one IEEE operation: fused multiply-add, half floats,
 * exp, log, pow, sine and cosine, random numbers; and reading little-endian numbers. Uses: nothing.
 * ====================================================================================== */

static uint32_t f32_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float bits_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static uint64_t f64_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}

static double bits_f64(uint64_t u) {
    double x;
    memcpy(&x, &u, 8);
    return x;
}

/* Little-endian, unaligned. Compilers make one load of each. */
static uint16_t rd_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t rd_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t rd_u64(const uint8_t *p) {
    return (uint64_t)rd_u32(p) | (uint64_t)rd_u32(p + 4) << 32;
}

static float rd_f32(const uint8_t *p) {
    return bits_f32(rd_u32(p));
}

static void wr_u16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void wr_u32(uint8_t *p, uint32_t v) {
    wr_u16(p, (uint16_t)v);
    wr_u16(p + 2, (uint16_t)(v >> 16));
}

static void wr_u64(uint8_t *p, uint64_t v) {
    wr_u32(p, (uint32_t)v);
    wr_u32(p + 4, (uint32_t)(v >> 32));
}

/* a*b + c, rounded once. Without the instruction: the product of two floats is exact in double; the sum is
 * made odd where it is inexact (round to odd), so that the second rounding, to float, is the only one. */
static float fma32(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__ARM_FEATURE_FMA) || defined(__riscv_flen) || defined(__s390x__)
    return __builtin_fmaf(a, b, c);
#else
    double p = (double)a * (double)b, q = (double)c, s = p + q, t = s - p, err;
    err = (p - (s - t)) + (q - t);
    if (err != 0 && err - err == 0) { /* inexact, and not infinite or NaN */
        uint64_t u = f64_bits(s);
        if (!(u & 1)) u += (err > 0) == (s > 0) ? 1 : (uint64_t)-1;
        s = bits_f64(u);
    }
    return (float)s;
#endif
}

/* IEEE half, exact. */
static float f16_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return bits_f32(sign | 0x7f800000 | m << 13 | (m ? 0x400000 : 0));
    if (e) return bits_f32(sign | (e + 112) << 23 | m << 13);
    return bits_f32(sign | f32_bits((float)m * 5.9604644775390625e-8f)); /* m * 2^-24 */
}

/* Nearest half, ties to even; NaN stays a quiet NaN with its top bits, as F16C does it. */
static uint16_t f32_f16(float x) {
    uint32_t u = f32_bits(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds to 65536 or more */
    if (a < 0x38800000) {                                  /* subnormal: add 0.5 so that the unit is 2^-24 */
        float y = bits_f32(a) + 0.5f;
        return (uint16_t)(sign | (f32_bits(y) - 0x3f000000));
    }
    a += 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000) >> 13);
}

static float bf16_f32(uint16_t h) {
    return bits_f32((uint32_t)h << 16);
}

static float rd_f16(const uint8_t *p) {
    return f16_f32(rd_u16(p));
}

/* x * scale to the nearest integer, ties to even, rounded once, for |x * scale| < 2^22: adding 1.5 * 2^23
 * leaves no bits behind the point. */
#define ROUND_MAGIC 12582912.0f
static float round_scaled(float x, float scale) {
    return fma32(x, scale, ROUND_MAGIC) - ROUND_MAGIC;
}

/* e^x with an error below 2 ulp; 0 below -87, infinity above 88.37, so that no result is subnormal and the last
 * product is exact. n = nearest integer to x / ln 2, r = x - n ln 2, e^r by a polynomial of degree 6, times
 * 2^n. The vector variants in [kern] do the same operations in the same order. */
#define EXP_LOG2E 1.44269504088896341f
#define EXP_LN2_HI 0.693145751953125f /* 15 bits, so that n times it is exact */
#define EXP_LN2_LO 1.42860682030941723e-6f
#define EXP_MAX 88.37f
#define EXP_MIN -87.0f
static const float exp_poly[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};

static float exp32(float x) {
    float n, r, p;
    if (!(x <= EXP_MAX)) return x + INFINITY; /* infinity, or NaN */
    if (x < EXP_MIN) return 0;
    n = round_scaled(x, EXP_LOG2E);
    r = fma32(-n, EXP_LN2_HI, x);
    r = fma32(-n, EXP_LN2_LO, r);
    p = exp_poly[0];
    for (int k = 1; k < COUNT(exp_poly); k++) p = fma32(p, r, exp_poly[k]);
    return p * bits_f32((uint32_t)((int)n + 127) << 23);
}

/* Double precision functions for tables and statistics: not fast, the same everywhere. A product that is
 * added to something goes through mul64, or gcc would fuse it on some targets and not on others. */
static double mul64(double a, double b) {
    volatile double p = a * b;
    return p;
}

#define LN2 0.693147180559945309417

/* Natural logarithm of a positive normal x: x = m 2^e with m in [sqrt 1/2, sqrt 2), ln m = 2 atanh s with
 * s = (m-1)/(m+1), by its series. */
static double log64(double x) {
    int e = (int)(f64_bits(x) >> 52) - 1023;
    double m = bits_f64((f64_bits(x) & 0xfffffffffffffu) | 0x3ff0000000000000u), s, s2, sum = 0;
    if (m > 1.41421356237309505) {
        m = m / 2;
        e++;
    }
    s = (m - 1) / (m + 1);
    s2 = mul64(s, s);
    for (int k = 23; k >= 1; k -= 2) sum = mul64(sum, s2) + 1.0 / k;
    return mul64(e, LN2) + mul64(mul64(2, s), sum);
}

static double exp64(double x) {
    double n = mul64(x, 1 / LN2), r, sum = 1;
    int i;
    if (!(x < 709)) return x > 0 ? bits_f64(0x7ff0000000000000u) : x;
    if (x < -708) return 0;
    i = (int)(n < 0 ? n - 0.5 : n + 0.5);
    r = x - mul64(i, 0.693147180369123816490); /* ln 2 in two parts; the first times i is exact */
    r = r - mul64(i, 1.90821492927058770002e-10);
    for (int k = 18; k >= 1; k--) sum = 1 + mul64(sum, r / k);
    return sum * bits_f64((uint64_t)(i + 1023) << 52);
}

/* x^y for positive x. */
static double pow64(double x, double y) {
    return exp64(mul64(y, log64(x)));
}

/* Sine and cosine of an angle given as a fraction of a turn in units of 2^-64. Angles that are multiples of
 * a step wrap exactly, so position 100000 is as precise as position 1. */
static void turn_sincos(uint64_t turn, double *sine, double *cosine) {
    uint64_t rounded = turn + ((uint64_t)1 << 61); /* quadrant, centred on its axis */
    int quadrant = (int)(rounded >> 62);
    double x = ((double)(rounded & 0x3fffffffffffffffu) - 2305843009213693952.0) / 18446744073709551616.0, s, c, x2;
    x = mul64(x, 6.28318530717958647693); /* now in [-pi/4, pi/4) */
    x2 = mul64(x, x);
    s = c = 0;
    for (int k = 8; k >= 1; k--) {
        s = mul64(-x2 / (double)(2 * k * (2 * k + 1)), 1 + s);
        c = mul64(-x2 / (double)(2 * k * (2 * k - 1)), 1 + c);
    }
    s = mul64(x, 1 + s);
    c = 1 + c;
    *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
    *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}

/* SplitMix64: the library's only source of randomness, always seeded by the caller. */
static uint64_t rng_next(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Uniform in [0, 1), 24 bits. */
static float rng_float(uint64_t *state) {
    return (float)(rng_next(state) >> 40) * 5.9604644775390625e-8f;
}

/* ======================================================================================
 * [thread] One primitive: run n tasks
 *
 * Tasks write disjoint results, so their order cannot matter. The pool publishes work as one 64-bit ticket,
 * (number of the work << 32 | tasks nobody took yet): taking a task is one compare-and-swap, and a thread
 * that wakes up late cannot take part in work that is over. Uses: [err] [mem].
 * ====================================================================================== */

#if !defined(__GNUC__) && !defined(_MSC_VER) && !defined(POLAR_NO_THREADS)
#define POLAR_NO_THREADS 1 /* no atomic operations that we know of */
#endif

static void parallel_for(const polar_runner *r, int n, polar_task task, void *context) {
    if (n == 1) task(context, 0, 0);
    else if (n > 1) r->run(r->user, n, task, context);
}

#ifdef POLAR_NO_THREADS

struct polar_pool {
    polar_allocator allocator;
};

static void pool_run(void *user, int n, polar_task task, void *context) {
    (void)user;
    for (int i = 0; i < n; i++) task(context, i, 0);
}

int polar_cpu_count(void) {
    return 1;
}

static size_t pool_bytes(int n_threads) {
    (void)n_threads;
    return sizeof(polar_pool);
}

polar_status polar_pool_create(polar_pool **out, int n_threads, const polar_allocator *allocator, polar_error *error) {
    polar_allocator a = mem_allocator(allocator);
    (void)n_threads;
    err_clear(error);
    if (!out) return fail(error, POLAR_ARGUMENT, "polar_pool_create: out is NULL");
    if (!(*out = mem_alloc(&a, sizeof **out, error))) return POLAR_MEMORY;
    (*out)->allocator = a;
    return POLAR_OK;
}

void polar_pool_free(polar_pool *pool) {
    polar_allocator a;
    if (!pool) return;
    a = pool->allocator;
    mem_free(&a, pool, sizeof *pool);
}

polar_runner polar_pool_runner(polar_pool *pool) {
    const polar_runner r = {pool_run, pool, 1};
    return r;
}

#else

#ifdef _MSC_VER
typedef volatile LONG64 atomic_i64;
#define atomic_load(p) InterlockedCompareExchange64(p, 0, 0)
#define atomic_store(p, v) InterlockedExchange64(p, v)
#define atomic_add(p, v) InterlockedExchangeAdd64(p, v)
#define atomic_swap_if(p, expected, v) (InterlockedCompareExchange64(p, v, expected) == (expected))
#else
typedef int64_t atomic_i64;
#define atomic_load(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define atomic_store(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define atomic_add(p, v) __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST)
static int atomic_swap_if(atomic_i64 *p, int64_t expected, int64_t v) {
    return __atomic_compare_exchange_n(p, &expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#endif

#ifdef _WIN32
typedef HANDLE thread_handle;
typedef SRWLOCK thread_lock;
typedef CONDITION_VARIABLE thread_cond;
#define lock_init(l) InitializeSRWLock(l)
#define lock_take(l) AcquireSRWLockExclusive(l)
#define lock_release(l) ReleaseSRWLockExclusive(l)
#define lock_free(l) ((void)(l))
#define cond_init(c) InitializeConditionVariable(c)
#define cond_wait(c, l) SleepConditionVariableSRW(c, l, INFINITE, 0)
#define cond_wake_all(c) WakeAllConditionVariable(c)
#define cond_free(c) ((void)(c))
#define thread_yield() SwitchToThread()
#else
typedef pthread_t thread_handle;
typedef pthread_mutex_t thread_lock;
typedef pthread_cond_t thread_cond;
#define lock_init(l) pthread_mutex_init(l, NULL)
#define lock_take(l) pthread_mutex_lock(l)
#define lock_release(l) pthread_mutex_unlock(l)
#define lock_free(l) pthread_mutex_destroy(l)
#define cond_init(c) pthread_cond_init(c, NULL)
#define cond_wait(c, l) pthread_cond_wait(c, l)
#define cond_wake_all(c) pthread_cond_broadcast(c)
#define cond_free(c) pthread_cond_destroy(c)
#define thread_yield() sched_yield()
#endif

static void thread_pause(void) {
#if defined(POLAR_X86)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ __volatile__("yield");
#endif
}

int polar_cpu_count(void) {
#if defined(_WIN32)
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwNumberOfProcessors > 0 ? (int)info.dwNumberOfProcessors : 1;
#elif defined(_SC_NPROCESSORS_ONLN)
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 && n < 4096 ? (int)n : 1;
#else
    return 1;
#endif
}

#define POOL_MAX 256

typedef struct pool_worker {
    struct polar_pool *pool;
    int worker;
    thread_handle handle;
} pool_worker;

struct polar_pool {
    polar_allocator allocator;
    int n_threads, n_started;
    atomic_i64 ticket; /* work number << 32 | tasks left to take */
    atomic_i64 done;   /* tasks finished of the present work */
    atomic_i64 busy, sleepers, stop;
    polar_task task;
    void *context;
    thread_lock lock; /* guards sleeping only */
    thread_cond wake;
    pool_worker workers[]; /* n_threads - 1 */
};

#define TICKET_LEFT(t) ((int)((t) & 0x7fffffff))

/* Takes and does tasks until none is left. */
static void pool_work(polar_pool *p, int worker) {
    for (;;) {
        int64_t t = atomic_load(&p->ticket);
        if (TICKET_LEFT(t) == 0) return;
        if (!atomic_swap_if(&p->ticket, t, t - 1)) continue;
        p->task(p->context, TICKET_LEFT(t) - 1, worker);
        atomic_add(&p->done, 1);
    }
}

/* Waits a moment: pauses first, then gives the core away. 0 when it is time to sleep. */
static int pool_spin(int round) {
    if (round < 2000) thread_pause();
    else thread_yield();
    return round < 6000;
}

static void pool_sleep(polar_pool *p) {
    lock_take(&p->lock);
    atomic_add(&p->sleepers, 1);
    while (TICKET_LEFT(atomic_load(&p->ticket)) == 0 && !atomic_load(&p->stop)) cond_wait(&p->wake, &p->lock);
    atomic_add(&p->sleepers, -1);
    lock_release(&p->lock);
}

static void pool_main(pool_worker *w) {
    polar_pool *p = w->pool;
    int round = 0;
    while (!atomic_load(&p->stop)) {
        if (TICKET_LEFT(atomic_load(&p->ticket))) {
            pool_work(p, w->worker);
            round = 0;
        } else if (!pool_spin(round++)) {
            pool_sleep(p);
            round = 0;
        }
    }
}

#ifdef _WIN32
static DWORD WINAPI pool_entry(void *w) {
    pool_main(w);
    return 0;
}
static int thread_start(pool_worker *w) {
    return (w->handle = CreateThread(NULL, 0, pool_entry, w, 0, NULL)) != NULL;
}
static void thread_join(pool_worker *w) {
    WaitForSingleObject(w->handle, INFINITE);
    CloseHandle(w->handle);
}
#else
static void *pool_entry(void *w) {
    pool_main(w);
    return NULL;
}
static int thread_start(pool_worker *w) {
    return pthread_create(&w->handle, NULL, pool_entry, w) == 0;
}
static void thread_join(pool_worker *w) {
    pthread_join(w->handle, NULL);
}
#endif

static void pool_run(void *user, int n, polar_task task, void *context) {
    polar_pool *p = user;
    int64_t number;
    if (p->n_threads < 2 || n < 2 || !atomic_swap_if(&p->busy, 0, 1)) {
        for (int i = 0; i < n; i++) task(context, i, 0);
        return;
    }
    p->task = task;
    p->context = context;
    atomic_store(&p->done, 0);
    number = (atomic_load(&p->ticket) >> 32) + 1;
    atomic_store(&p->ticket, (number & 0x7fffffff) * ((int64_t)1 << 32) + n);
    if (atomic_load(&p->sleepers)) {
        lock_take(&p->lock);
        cond_wake_all(&p->wake);
        lock_release(&p->lock);
    }
    pool_work(p, 0);
    for (int round = 0; atomic_load(&p->done) < n; round++) pool_spin(round);
    atomic_store(&p->busy, 0);
}

static size_t pool_bytes(int n_threads) {
    return sizeof(polar_pool) + (size_t)(n_threads > 1 ? n_threads - 1 : 0) * sizeof(pool_worker);
}

polar_status polar_pool_create(polar_pool **out, int n_threads, const polar_allocator *allocator, polar_error *error) {
    polar_allocator a = mem_allocator(allocator);
    polar_pool *p;
    err_clear(error);
    if (!out) return fail(error, POLAR_ARGUMENT, "polar_pool_create: out is NULL");
    *out = NULL;
    if (n_threads <= 0) n_threads = polar_cpu_count();
    if (n_threads > POOL_MAX) n_threads = POOL_MAX;
    if (!(p = mem_alloc(&a, pool_bytes(n_threads), error))) return POLAR_MEMORY;
    memset(p, 0, pool_bytes(n_threads));
    p->allocator = a;
    p->n_threads = n_threads;
    lock_init(&p->lock);
    cond_init(&p->wake);
    /* Where the system gives fewer threads than asked for, the work goes on with those. */
    for (int i = 0; i + 1 < n_threads; i++) {
        p->workers[i].pool = p;
        p->workers[i].worker = i + 1;
        if (!thread_start(&p->workers[i])) break;
        p->n_started++;
    }
    *out = p;
    return POLAR_OK;
}

void polar_pool_free(polar_pool *pool) {
    polar_allocator a;
    if (!pool) return;
    lock_take(&pool->lock);
    atomic_store(&pool->stop, 1);
    cond_wake_all(&pool->wake);
    lock_release(&pool->lock);
    for (int i = 0; i < pool->n_started; i++) thread_join(&pool->workers[i]);
    lock_free(&pool->lock);
    cond_free(&pool->wake);
    a = pool->allocator;
    mem_free(&a, pool, pool_bytes(pool->n_threads));
}

polar_runner polar_pool_runner(polar_pool *pool) {
    const polar_runner r = {pool_run, pool, pool->n_threads};
    return r;
}
#endif

/* ======================================================================================
 * [gguf] GGUF files: reading and writing
 * ====================================================================================== */
/*GGUF*/

/* ======================================================================================
 * [json] JSON: reading and writing, numbers without a locale
 * ====================================================================================== */
/*JSON*/

/* ======================================================================================
 * [quant] Tensor types: blocks of quantized numbers
 *
 * One table with a row per tensor type, and everything that depends on how a type lays out its bits. Reading
 * turns a block into integers with a common factor (quant_block), which is all that dequantization and dot
 * products need to know. The layouts are those of ggml. Promises: the same bits on every machine, no
 * alignment needed, any bytes are a valid block. Uses: [num].
 * ====================================================================================== */

#define QUANT_BLOCK 256 /* numbers of the largest block */

/* A block of up to 256 numbers as integers: x[i] = d * q[i] + m * mins[i / 16]. Everything about a type
 * follows from it: dequantized value i is fma32(d, (float)q[i], m * (float)mins[i / 16]), or d * q[i] for
 * types without mins, which leave m and mins unset; and dot products use the integers exactly. */
typedef struct quant_block {
    float d, m;
    int16_t q[QUANT_BLOCK]; /* sub-block scales multiplied in; |q| <= 4096 */
    int16_t mins[QUANT_BLOCK / 16];
} quant_block;

/* The layouts, as bytes: a pointer into the file is one of these, whatever its alignment and the host's byte
 * order. Halves are read with rd_f16.
 *
 * Simple types, 32 numbers: x = d q (+ m). Number i has its low four bits in the low half of qs[i], number
 * i + 16 in the high half, and its fifth bit is bit i of qh:
 *
 *     qs[0]  x16|x0    qs[1]  x17|x1    ...    qs[15]  x31|x15        qh  x31 x30 ... x1 x0  */
typedef struct block_q8_0 { uint8_t d[2], qs[32]; } block_q8_0;
typedef struct block_q4_0 { uint8_t d[2], qs[16]; } block_q4_0;
typedef struct block_q4_1 { uint8_t d[2], m[2], qs[16]; } block_q4_1;
typedef struct block_q5_0 { uint8_t d[2], qh[4], qs[16]; } block_q5_0;
typedef struct block_q5_1 { uint8_t d[2], m[2], qh[4], qs[16]; } block_q5_1;
typedef struct block_iq4_nl { uint8_t d[2], qs[16]; } block_iq4_nl; /* x = d quant_iq4[q] */

/* K types, 256 numbers in sub-blocks of 16 or 32 with scales s and mins n of their own. */
typedef struct block_q2_k { uint8_t scales[16], qs[64], d[2], dmin[2]; } block_q2_k;        /* d s q - dmin n */
typedef struct block_q3_k { uint8_t hmask[32], qs[64], scales[12], d[2]; } block_q3_k;      /* d s q */
typedef struct block_q4_k { uint8_t d[2], dmin[2], scales[12], qs[128]; } block_q4_k;       /* d s q - dmin n */
typedef struct block_q5_k { uint8_t d[2], dmin[2], scales[12], qh[32], qs[128]; } block_q5_k; /* d s q - dmin n */
typedef struct block_q6_k { uint8_t ql[128], qh[64], scales[16], d[2]; } block_q6_k;        /* d s q */
typedef struct block_iq4_xs { uint8_t d[2], scales_h[2], scales_l[4], qs[128]; } block_iq4_xs; /* d s quant_iq4[q] */

/* Stops the compiler where a layout has not the bytes that the table (and the file format) give it. */
#define QUANT_CHECK(layout, bytes) typedef char quant_check_##layout[sizeof(layout) == (bytes) ? 1 : -1] MAYBE_UNUSED
QUANT_CHECK(block_q8_0, 34);
QUANT_CHECK(block_q4_0, 18);
QUANT_CHECK(block_q4_1, 20);
QUANT_CHECK(block_q5_0, 22);
QUANT_CHECK(block_q5_1, 24);
QUANT_CHECK(block_iq4_nl, 18);
QUANT_CHECK(block_q2_k, 84);
QUANT_CHECK(block_q3_k, 110);
QUANT_CHECK(block_q4_k, 144);
QUANT_CHECK(block_q5_k, 176);
QUANT_CHECK(block_q6_k, 210);
QUANT_CHECK(block_iq4_xs, 136);

/* The sixteen values of the IQ4 types, denser where weights are. */
static const int8_t quant_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* --- Reading blocks --- */

static void quant_unpack_q8_0(const uint8_t *src, quant_block *b) {
    const block_q8_0 *s = (const void *)src;
    b->d = rd_f16(s->d);
    for (int i = 0; i < 32; i++) b->q[i] = (int16_t)(int8_t)s->qs[i];
}

/* 16 bytes of nibbles to 32 numbers 0..15, in the order of the simple types. */
static void quant_nibbles(const uint8_t *qs, int16_t *q) {
    for (int i = 0; i < 16; i++) {
        q[i] = qs[i] & 15;
        q[i + 16] = qs[i] >> 4;
    }
}

static void quant_unpack_q4_0(const uint8_t *src, quant_block *b) {
    const block_q4_0 *s = (const void *)src;
    b->d = rd_f16(s->d);
    quant_nibbles(s->qs, b->q);
    for (int i = 0; i < 32; i++) b->q[i] = (int16_t)(b->q[i] - 8);
}

static void quant_unpack_q4_1(const uint8_t *src, quant_block *b) {
    const block_q4_1 *s = (const void *)src;
    b->d = rd_f16(s->d);
    b->m = rd_f16(s->m);
    b->mins[0] = b->mins[1] = 1;
    quant_nibbles(s->qs, b->q);
}

static void quant_unpack_q5_0(const uint8_t *src, quant_block *b) {
    const block_q5_0 *s = (const void *)src;
    uint32_t high = rd_u32(s->qh);
    b->d = rd_f16(s->d);
    quant_nibbles(s->qs, b->q);
    for (int i = 0; i < 32; i++) b->q[i] = (int16_t)(b->q[i] + (int)(high >> i & 1) * 16 - 16);
}

static void quant_unpack_q5_1(const uint8_t *src, quant_block *b) {
    const block_q5_1 *s = (const void *)src;
    uint32_t high = rd_u32(s->qh);
    b->d = rd_f16(s->d);
    b->m = rd_f16(s->m);
    b->mins[0] = b->mins[1] = 1;
    quant_nibbles(s->qs, b->q);
    for (int i = 0; i < 32; i++) b->q[i] = (int16_t)(b->q[i] + (int)(high >> i & 1) * 16);
}

static void quant_unpack_iq4_nl(const uint8_t *src, quant_block *b) {
    const block_iq4_nl *s = (const void *)src;
    b->d = rd_f16(s->d);
    quant_nibbles(s->qs, b->q);
    for (int i = 0; i < 32; i++) b->q[i] = quant_iq4[b->q[i]];
}

/* Two-bit fields of Q2_K and Q3_K: each half of 128 numbers has 32 bytes of qs; number 32 k + l of the half
 * is in byte l, bits 2k and 2k + 1:
 *
 *     byte l   x[96+l] | x[64+l] | x[32+l] | x[l]        scales[j] belongs to numbers 16 j .. 16 j + 15 */
static int quant_bits2(const uint8_t *qs, int i) {
    return qs[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

/* Q2_K: scales[j] = n << 4 | s. */
static void quant_unpack_q2_k(const uint8_t *src, quant_block *b) {
    const block_q2_k *s = (const void *)src;
    b->d = rd_f16(s->d);
    b->m = -rd_f16(s->dmin);
    for (int j = 0; j < 16; j++) {
        int scale = s->scales[j] & 15;
        b->mins[j] = s->scales[j] >> 4;
        for (int i = 16 * j; i < 16 * j + 16; i++) b->q[i] = (int16_t)(scale * quant_bits2(s->qs, i));
    }
}

/* Sixteen 6-bit scales in 12 bytes, Q3_K: low four bits of 0..7 and 8..15 in the halves of the first eight
 * bytes, the high two bits of scale j in byte 8 + j % 4 at bit 2 (j / 4). Stored with 32 added.
 *
 *     byte  0      ...  7        8                      ...  11
 *           s8|s0  ...  s15|s7   s12|s8|s4|s0 (2 bits)  ...  s15|s11|s7|s3  */
static int quant_scale_q3_k(const uint8_t *scales, int j) {
    int low = scales[j % 8] >> j / 8 * 4 & 15, high = scales[8 + j % 4] >> j / 4 * 2 & 3;
    return (low | high << 4) - 32;
}

/* Q3_K: q = low two bits - 4 where the bit of hmask is not set; number i has bit i / 32 of hmask[i % 32]. */
static void quant_unpack_q3_k(const uint8_t *src, quant_block *b) {
    const block_q3_k *s = (const void *)src;
    b->d = rd_f16(s->d);
    for (int j = 0; j < 16; j++) {
        int scale = quant_scale_q3_k(s->scales, j);
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            int high = s->hmask[i % 32] >> i / 32 & 1;
            b->q[i] = (int16_t)(scale * (quant_bits2(s->qs, i) + 4 * high - 4));
        }
    }
}

/* Eight pairs of 6-bit scale and min in 12 bytes, Q4_K and Q5_K. The pairs 0..3 fill the low six bits of
 * bytes 0..7; the pairs 4..7 have their low four bits in bytes 8..11 and the high two on top of the first eight:
 *
 *     byte     0..3               4..7               8..11
 *     bits     s[4+j] hi | s[j]   n[4+j] hi | n[j]   n[4+j] lo | s[4+j] lo      for j = 0..3 */
static void quant_scales_q4_k(const uint8_t *p, int j, int *scale, int *min) {
    if (j < 4) {
        *scale = p[j] & 63;
        *min = p[j + 4] & 63;
    } else {
        *scale = (p[j + 4] & 15) | p[j - 4] >> 6 << 4;
        *min = p[j + 4] >> 4 | p[j] >> 6 << 4;
    }
}

/* Q4_K and Q5_K: each 64 numbers have 32 bytes of qs, the first 32 numbers in the low nibbles, the next in the
 * high ones. The fifth bit of number i of Q5_K is bit i / 32 of qh[i % 32]; Q4_K passes no qh. */
static void quant_unpack_k45(const uint8_t *scales, const uint8_t *qh, const uint8_t *qs, quant_block *b) {
    for (int j = 0; j < 8; j++) {
        int scale, min;
        quant_scales_q4_k(scales, j, &scale, &min);
        b->mins[2 * j] = b->mins[2 * j + 1] = (int16_t)min;
        for (int l = 0; l < 32; l++) {
            int q = qs[j / 2 * 32 + l] >> j % 2 * 4 & 15;
            if (qh) q |= (qh[l] >> j & 1) << 4;
            b->q[32 * j + l] = (int16_t)(scale * q);
        }
    }
}

static void quant_unpack_q4_k(const uint8_t *src, quant_block *b) {
    const block_q4_k *s = (const void *)src;
    b->d = rd_f16(s->d);
    b->m = -rd_f16(s->dmin);
    quant_unpack_k45(s->scales, NULL, s->qs, b);
}

static void quant_unpack_q5_k(const uint8_t *src, quant_block *b) {
    const block_q5_k *s = (const void *)src;
    b->d = rd_f16(s->d);
    b->m = -rd_f16(s->dmin);
    quant_unpack_k45(s->scales, s->qh, s->qs, b);
}

/* Q6_K: each half of 128 numbers has 64 bytes of ql and 32 of qh. With number i = 32 k + l of the half
 * (k = 0..3, l = 0..31), its low four bits are in ql[32 (k % 2) + l], low nibble for k = 0, 1, high for 2, 3;
 * its high two bits are bits 2k and 2k + 1 of qh[l]. Stored with 32 added. */
static void quant_unpack_q6_k(const uint8_t *src, quant_block *b) {
    const block_q6_k *s = (const void *)src;
    b->d = rd_f16(s->d);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, k = i % 128 / 32, l = i % 32;
        int low = s->ql[64 * half + 32 * (k % 2) + l] >> k / 2 * 4 & 15, high = s->qh[32 * half + l] >> 2 * k & 3;
        b->q[i] = (int16_t)((int8_t)s->scales[i / 16] * ((low | high << 4) - 32));
    }
}

/* IQ4_XS: eight sub-blocks of 32 numbers, each with 16 bytes of nibbles like a simple type. The 6-bit scale of
 * sub-block j, stored with 32 added, has its low four bits in a nibble of scales_l[j / 2] and its high two at
 * bit 2j of scales_h. */
static void quant_unpack_iq4_xs(const uint8_t *src, quant_block *b) {
    const block_iq4_xs *s = (const void *)src;
    b->d = rd_f16(s->d);
    for (int j = 0; j < 8; j++) {
        int low = s->scales_l[j / 2] >> j % 2 * 4 & 15, high = rd_u16(s->scales_h) >> 2 * j & 3;
        int scale = (low | high << 4) - 32;
        int16_t *q = b->q + 32 * j;
        quant_nibbles(s->qs + 16 * j, q);
        for (int i = 0; i < 32; i++) q[i] = (int16_t)(scale * quant_iq4[q[i]]);
    }
}

/* --- The table --- */

typedef enum quant_index {
    QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1, QUANT_IQ4_NL,
    QUANT_Q2_K, QUANT_Q3_K, QUANT_Q4_K, QUANT_Q5_K, QUANT_Q6_K, QUANT_IQ4_XS, QUANT_N
} quant_index;

typedef struct quant_type {
    const char *name;
    int id;           /* in GGUF */
    int block, bytes; /* numbers and bytes of a block; a float is a block of 1 */
    int has_mins;
    void (*unpack)(const uint8_t *src, quant_block *out); /* NULL for floats */
    void (*encode)(const float *x, uint8_t *dst);         /* NULL: this library does not write it */
} quant_type;

/* In the order of quant_index. */
static const quant_type quant_types[QUANT_N] = {
    {"F32", 0, 1, 4, 0, NULL, NULL},
    {"F16", 1, 1, 2, 0, NULL, NULL},
    {"BF16", 30, 1, 2, 0, NULL, NULL},
    {"Q8_0", 8, 32, 34, 0, quant_unpack_q8_0, NULL},
    {"Q4_0", 2, 32, 18, 0, quant_unpack_q4_0, NULL},
    {"Q4_1", 3, 32, 20, 1, quant_unpack_q4_1, NULL},
    {"Q5_0", 6, 32, 22, 0, quant_unpack_q5_0, NULL},
    {"Q5_1", 7, 32, 24, 1, quant_unpack_q5_1, NULL},
    {"IQ4_NL", 20, 32, 18, 0, quant_unpack_iq4_nl, NULL},
    {"Q2_K", 10, 256, 84, 1, quant_unpack_q2_k, NULL},
    {"Q3_K", 11, 256, 110, 0, quant_unpack_q3_k, NULL},
    {"Q4_K", 12, 256, 144, 1, quant_unpack_q4_k, NULL},
    {"Q5_K", 13, 256, 176, 1, quant_unpack_q5_k, NULL},
    {"Q6_K", 14, 256, 210, 0, quant_unpack_q6_k, NULL},
    {"IQ4_XS", 23, 256, 136, 0, quant_unpack_iq4_xs, NULL},
};

/* The row of a type number found in a file, -1 if there is none. */
static int quant_find(int gguf_id) {
    for (int i = 0; i < QUANT_N; i++)
        if (quant_types[i].id == gguf_id) return i;
    return -1;
}

/* Bytes of n numbers, n a multiple of the block. No overflow where n has passed as a size of memory. */
static size_t quant_row_bytes(int index, size_t n) {
    const quant_type *t = &quant_types[index];
    return n / (size_t)t->block * (size_t)t->bytes;
}

static void quant_dequantize_block(const quant_type *t, const quant_block *b, float *out) {
    if (t->has_mins)
        for (int i = 0; i < t->block; i++) out[i] = fma32(b->d, (float)b->q[i], b->m * (float)b->mins[i / 16]);
    else
        for (int i = 0; i < t->block; i++) out[i] = b->d * (float)b->q[i];
}

/* n numbers of a row to floats, n a multiple of the block. */
static void quant_dequantize(int index, const uint8_t *src, size_t n, float *out) {
    const quant_type *t = &quant_types[index];
    quant_block b;
    switch (index) {
    case QUANT_F32:
        for (size_t i = 0; i < n; i++) out[i] = rd_f32(src + 4 * i);
        return;
    case QUANT_F16:
        for (size_t i = 0; i < n; i++) out[i] = rd_f16(src + 2 * i);
        return;
    case QUANT_BF16:
        for (size_t i = 0; i < n; i++) out[i] = bf16_f32(rd_u16(src + 2 * i));
        return;
    }
    for (size_t i = 0; i < n; i += (size_t)t->block, src += t->bytes) {
        t->unpack(src, &b);
        quant_dequantize_block(t, &b, out + i);
    }
}

/* ======================================================================================
 * [kern] Kernels and the choice of an instruction set
 * ====================================================================================== */
/*KERN*/

/* ======================================================================================
 * [uni] Unicode classes
 * ====================================================================================== */
/*UNI*/

/* ======================================================================================
 * [tok] Tokenizers and chat formats
 * ====================================================================================== */
/*TOK*/

/* ======================================================================================
 * [model] Architectures and weights
 * ====================================================================================== */
/*MODEL*/

/* ======================================================================================
 * [prog] Programs of layers
 *
 * The forms of a program: segments (the value), text, path, training targets, strip; and the canonical parse
 * of a path. Promises: a program that a function here returns is well-formed; texts and paths are not trusted.
 * Uses: [err].
 * ====================================================================================== */

polar_program polar_program_identity(int n_layer) {
    polar_program p;
    memset(&p, 0, sizeof p);
    p.n_layer = MIN(MAX(n_layer, 0), POLAR_MAX_LAYER);
    p.n_segments = p.n_layer > 0;
    p.segments[0].length = (int16_t)p.n_layer;
    p.segments[0].times = 1;
    return p;
}

static polar_status prog_check_layers(int n_layer, polar_error *e) {
    if (n_layer >= 1 && n_layer <= POLAR_MAX_LAYER) return POLAR_OK;
    return fail(e, POLAR_ARGUMENT, "a model of %d layers: 1..%d are possible", n_layer, POLAR_MAX_LAYER);
}

/* Without going through fail(), for the functions that cannot: calls of a program, saturated. */
int polar_program_length(const polar_program *p) {
    int64_t n = 0;
    for (int i = 0; i < MIN(p->n_segments, POLAR_MAX_LAYER); i++)
        if (p->segments[i].times > 0 && p->segments[i].length > 0) n += p->segments[i].times * p->segments[i].length;
    return (int)MIN(n, INT_MAX);
}

double polar_program_cost(const polar_program *p) {
    return p->n_layer > 0 ? (double)polar_program_length(p) / p->n_layer : 0;
}

/* At least one call, and no more than a path can hold. */
static polar_status prog_check_length(const polar_program *p, polar_error *e) {
    int n = polar_program_length(p);
    if (n == 0) return fail(e, POLAR_ARGUMENT, "the program skips every layer");
    if (n <= POLAR_MAX_CALLS) return POLAR_OK;
    return fail(e, POLAR_ARGUMENT, "the program has %d calls, more than %d", n, POLAR_MAX_CALLS);
}

polar_status polar_program_validate(const polar_program *p, int n_layer, polar_error *error) {
    int at = 0;
    polar_status status;
    err_clear(error);
    if (!p) return fail(error, POLAR_ARGUMENT, "no program");
    if ((status = prog_check_layers(n_layer, error))) return status;
    if (p->n_layer != n_layer)
        return fail(error, POLAR_MISMATCH, "the program is for %d layers, the model has %d", p->n_layer, n_layer);
    if (p->n_segments < 1 || p->n_segments > n_layer)
        return fail(error, POLAR_ARGUMENT, "a program of %d segments over %d layers", p->n_segments, n_layer);
    for (int i = 0; i < p->n_segments; i++) {
        polar_segment s = p->segments[i];
        if (s.start != at || s.length < 1 || s.length > n_layer - at || s.times < 0)
            return fail(error, POLAR_ARGUMENT, "segment %d is %d layers from %d, %d times; expected is one from %d", i,
                        s.length, s.start, s.times, at);
        at += s.length;
    }
    if (at != n_layer) return fail(error, POLAR_ARGUMENT, "the segments cover %d of %d layers", at, n_layer);
    return prog_check_length(p, error);
}

/* --- text form ------------------------------------------------------------------------ */

typedef struct prog_reader {
    const char *text, *at;
    polar_error *error;
} prog_reader;

static polar_status prog_bad(const prog_reader *r, const char *what) {
    int n = (int)MIN(strcspn(r->at, " ,"), 40);
    if (!n) return fail(r->error, POLAR_FORMAT, "program: %s, at the end of \"%s\"", what, r->text);
    return fail(r->error, POLAR_FORMAT, "program: %s, at \"%.*s\" in column %d", what, n, r->at,
                (int)MIN(r->at - r->text + 1, INT_MAX));
}

/* A decimal number up to `max`. */
static polar_status prog_number(prog_reader *r, int max, const char *what, int *value) {
    const char *s = r->at;
    int v = 0;
    for (; *s >= '0' && *s <= '9' && v <= max; s++) v = v * 10 + (*s - '0');
    if (s == r->at) return prog_bad(r, what);
    if (v > max) return fail(r->error, POLAR_FORMAT, "program: a number in column %d is larger than %d",
                             (int)MIN(r->at - r->text + 1, INT_MAX), max);
    r->at = s;
    *value = v;
    return POLAR_OK;
}

static int prog_is_separator(char c) {
    return c == ' ' || c == ',' || c == '\t' || c == '\n' || c == '\r';
}

/* One item: a, a-b, axT or a-bxT. */
static polar_status prog_item(prog_reader *r, int n_layer, int *first, int *last, int *times) {
    polar_status status = prog_number(r, n_layer - 1, "a layer is expected", first);
    if (status) return status;
    *last = *first;
    *times = 1;
    if (*r->at == '-') {
        r->at++;
        if ((status = prog_number(r, n_layer - 1, "the last layer of a range is expected", last))) return status;
    }
    if (*r->at == 'x') {
        r->at++;
        if ((status = prog_number(r, POLAR_MAX_CALLS, "a number of executions is expected", times))) return status;
    }
    if (*r->at && !prog_is_separator(*r->at)) return prog_bad(r, "a space is expected");
    return POLAR_OK;
}

static void prog_append(polar_program *p, int start, int length, int times) {
    polar_segment s = {(int16_t)start, (int16_t)length, (int16_t)times};
    p->segments[p->n_segments++] = s;
}

static polar_status prog_read(polar_program *p, prog_reader *r) {
    int next = 0, first, last, times; /* next: the first layer that no segment covers yet */
    for (;;) {
        const char *item;
        polar_status status;
        while (prog_is_separator(*r->at)) r->at++;
        if (!*r->at) break;
        item = r->at;
        if ((status = prog_item(r, p->n_layer, &first, &last, &times))) return status;
        r->at = item;
        if (last < first) return prog_bad(r, "the range goes backwards");
        if (first < next) return prog_bad(r, "layers must ascend and be named once");
        while (*r->at && !prog_is_separator(*r->at)) r->at++;
        if (first > next) prog_append(p, next, first - next, 1);
        prog_append(p, first, last - first + 1, times);
        next = last + 1;
    }
    if (next < p->n_layer) prog_append(p, next, p->n_layer - next, 1);
    return prog_check_length(p, r->error);
}

polar_status polar_program_parse(polar_program *program, int n_layer, const char *text, polar_error *error) {
    prog_reader r = {text, text, error};
    polar_program p = polar_program_identity(n_layer);
    polar_status status;
    err_clear(error);
    if (!program || !text) return fail(error, POLAR_ARGUMENT, "no program or no text to read it from");
    if ((status = prog_check_layers(n_layer, error))) return status;
    if (strcmp(text, "identity")) {
        memset(&p, 0, sizeof p);
        p.n_layer = n_layer;
        if ((status = prog_read(&p, &r))) return status;
    }
    *program = p;
    return POLAR_OK;
}

size_t polar_program_format(const polar_program *p, char *out, size_t size) {
    text t = {out, size, 0};
    text_put(&t, "", 0); /* the NUL */
    for (int i = 0; i < MIN(p->n_segments, POLAR_MAX_LAYER); i++) {
        polar_segment s = p->segments[i];
        text_format(&t, i ? " %d" : "%d", s.start);
        if (s.length > 1) text_format(&t, "-%d", s.start + s.length - 1);
        if (s.times != 1) text_format(&t, "x%d", s.times);
    }
    return t.length;
}

size_t polar_program_strip(const polar_program *p, char *out, size_t size) {
    text t = {out, size, 0};
    text_put(&t, "", 0);
    for (int i = 0; i < MIN(p->n_segments, POLAR_MAX_LAYER); i++) {
        int times = MIN(MAX(p->segments[i].times, 0), 10);
        for (int k = 0; k < MIN(p->segments[i].length, POLAR_MAX_LAYER); k++) text_put(&t, &".#23456789+"[times], 1);
    }
    return t.length;
}

/* --- path form ------------------------------------------------------------------------ */

/* Walks through the calls of a program. */
typedef struct prog_cursor {
    int segment, execution, offset;
} prog_cursor;

/* The layer of the next call, or -1 at the end. */
static int prog_next(const polar_program *p, prog_cursor *c) {
    for (; c->segment < MIN(p->n_segments, POLAR_MAX_LAYER); c->segment++, c->execution = 0) {
        polar_segment s = p->segments[c->segment];
        if (s.length < 1 || c->execution >= s.times) continue;
        if (c->offset < s.length) return s.start + c->offset++;
        c->offset = 0;
        if (++c->execution < s.times) return s.start + c->offset++;
    }
    return -1;
}

int polar_program_path(const polar_program *p, int *path, int capacity) {
    prog_cursor c = {0, 0, 0};
    for (int i = 0, layer; i < capacity && (layer = prog_next(p, &c)) >= 0; i++) path[i] = layer;
    return polar_program_length(p);
}

int polar_program_equal(const polar_program *a, const polar_program *b) {
    prog_cursor at_a = {0, 0, 0}, at_b = {0, 0, 0};
    int x, y;
    if (a->n_layer != b->n_layer || polar_program_length(a) != polar_program_length(b)) return 0;
    do {
        x = prog_next(a, &at_a);
        y = prog_next(b, &at_b);
        if (x != y) return 0;
    } while (x >= 0);
    return 1;
}

/* --- canonical parse ------------------------------------------------------------------ */

/* The best parse of the layers from i on. */
typedef struct prog_rest {
    int n_segments, n_skips, n_repeats;
    int length, times; /* of its first segment */
    int exists;
} prog_rest;

/* How often layers i .. i+length-1 are executed, as one segment, in path[0..n); -1 if they are not. */
static int prog_match(const int *path, int n, int i, int length) {
    if (n % length) return -1;
    for (int k = 0; k < n; k++)
        if (path[k] != i + k % length) return -1;
    return n / length;
}

/* Fewer segments; then fewer skips; then more repeats. */
static int prog_better(const prog_rest *a, const prog_rest *b) {
    if (!b->exists) return 1;
    if (a->n_segments != b->n_segments) return a->n_segments < b->n_segments;
    if (a->n_skips != b->n_skips) return a->n_skips < b->n_skips;
    return a->n_repeats > b->n_repeats;
}

/* In a path that has segments at all, everything before the calls of layer i and later is a call of an
 * earlier layer: the parse up to layer i always ends at path[position[i]], the number of calls of layers
 * below i. So the tables run over layers only, and a segment from i of a given length has one possible
 * number of executions. That also decides the last tie: two parses of the layers from i on that differ
 * first there differ in the size of that segment, and lengths are tried from the largest. */
static void prog_solve(const int *path, int n_layer, const int *position, int max_length, int max_times,
                       prog_rest *rest) {
    rest[n_layer].exists = 1;
    for (int i = n_layer - 1; i >= 0; i--) {
        for (int length = MIN(max_length, n_layer - i); length >= 1; length--) {
            const int n = position[i + length] - position[i];
            prog_rest r = rest[i + length];
            if (!r.exists || n > length * max_times) continue;
            if ((r.times = prog_match(path + position[i], n, i, length)) < 0) continue;
            r.length = length;
            r.n_segments++;
            r.n_skips += r.times == 0;
            r.n_repeats += r.times > 1;
            if (prog_better(&r, &rest[i])) rest[i] = r;
        }
    }
}

static polar_status prog_no_form(const prog_rest *rest, const int *position, int n_layer, int max_length,
                                 int max_times, polar_error *e) {
    int i = n_layer;
    while (rest[i].exists) i--; /* the trouble begins at the last layer without a parse */
    return fail(e, POLAR_MISMATCH, "the path has no segment form: layer %d, with calls from index %d on, starts no "
                "segment of at most %d layers and %d executions", i, position[i], max_length, max_times);
}

polar_status polar_program_from_path(polar_program *program, int n_layer, const int *path, int n_path,
                                     int max_length, int max_times, polar_error *error) {
    prog_rest rest[POLAR_MAX_LAYER + 1];
    int position[POLAR_MAX_LAYER + 1] = {0};
    polar_status status;
    err_clear(error);
    if (!program || (!path && n_path)) return fail(error, POLAR_ARGUMENT, "no program or no path");
    if ((status = prog_check_layers(n_layer, error))) return status;
    if (n_path < 0 || n_path > POLAR_MAX_CALLS)
        return fail(error, POLAR_ARGUMENT, "a path of %d calls: 0..%d are possible", n_path, POLAR_MAX_CALLS);
    if (max_length < 1 || max_times < 1)
        return fail(error, POLAR_ARGUMENT, "segments of at most %d layers and %d executions", max_length, max_times);
    for (int k = 0; k < n_path; k++) {
        if (path[k] < 0 || path[k] >= n_layer)
            return fail(error, POLAR_MISMATCH, "the path has layer %d at index %d; layers are 0..%d", path[k], k,
                        n_layer - 1);
        position[path[k] + 1]++;
    }
    for (int i = 0; i < n_layer; i++) position[i + 1] += position[i];
    memset(rest, 0, sizeof rest);
    prog_solve(path, n_layer, position, max_length, MIN(max_times, POLAR_MAX_CALLS), rest);
    if (!rest[0].exists) return prog_no_form(rest, position, n_layer, max_length, max_times, error);
    memset(program, 0, sizeof *program);
    program->n_layer = n_layer;
    for (int i = 0; i < n_layer; i += rest[i].length) prog_append(program, i, rest[i].length, rest[i].times);
    return POLAR_OK;
}

void polar_program_targets(const polar_program *p, int *seg_flip, int *op) {
    int at = 0;
    for (int i = 0; i < MIN(p->n_segments, POLAR_MAX_LAYER); i++) {
        for (int k = 0; k < p->segments[i].length && at < POLAR_MAX_LAYER; k++, at++) {
            seg_flip[at] = k == 0 && at > 0;
            op[at] = k == 0 ? MIN(MAX(p->segments[i].times, 0), 2) : POLAR_OP_NONE;
        }
    }
}

/* ======================================================================================
 * [call] One layer call: attention, feed-forward, experts
 * ====================================================================================== */
/*CALL*/

/* ======================================================================================
 * [session] Key-value slots, evaluation
 * ====================================================================================== */
/*SESSION*/

/* ======================================================================================
 * [gen] Sampling and generation
 * ====================================================================================== */
/*GEN*/

/* ======================================================================================
 * [answer] Answers: extraction and equality
 * ====================================================================================== */
/*ANSWER*/

/* ======================================================================================
 * [search] Search for programs
 * ====================================================================================== */
/*SEARCH*/

/* ======================================================================================
 * [pred] Predictor
 * ====================================================================================== */
/*PRED*/

/* ======================================================================================
 * [train] Training
 * ====================================================================================== */
/*TRAIN*/
