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

#if !defined(POLAR_NO_STDIO) && (defined(__unix__) || defined(__APPLE__))
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
 *
 * Parses header, metadata and tensor directory out of byte ranges it does not trust: a mapped file, a file
 * that was read, the caller's memory. Tensor data stays where it is. Promises: no read outside the range, no
 * allocation larger than in proportion to it, time n log n in its size; a file that opens has unique keys and
 * tensors of known types that lie inside it. Uses: [err] [mem] [num].
 * ====================================================================================== */

/* Everything is little-endian and unaligned; a string is a u64 length and bytes without a NUL:
 *
 *     "GGUF" | u32 version | u64 tensors | u64 pairs
 *     pair   | string key | u32 type | value                        as many as `pairs`
 *              value of an array: u32 element type | u64 count | elements
 *     tensor | string name | u32 dims | u64 dim[dims] | u32 type | u64 offset
 *     padding to a multiple of general.alignment (32), then the data, to which offsets are relative */
#define GGUF_HEADER_BYTES 24
#define GGUF_MIN_PAIR_BYTES 13   /* an empty key and a u8: bounds the number of pairs by the bytes there are */
#define GGUF_MIN_TENSOR_BYTES 24 /* an empty name and no dims */
#define GGUF_MAX_NAME 65535
#define GGUF_ALIGNMENT 32
#define GGUF_MAX_PARTS 1000

/* Types of metadata values, with the numbers that files use. */
typedef enum gguf_value_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY,
    GGUF_U64, GGUF_I64, GGUF_F64, GGUF_N_VALUE_TYPES
} gguf_value_type;

static const struct {
    const char *name;
    uint8_t bytes; /* 0: not fixed */
} gguf_values[GGUF_N_VALUE_TYPES] = {{"u8", 1},   {"i8", 1},   {"u16", 2},    {"i16", 2},   {"u32", 4},
                                     {"i32", 4},  {"f32", 4},  {"bool", 1},   {"string", 0}, {"array", 0},
                                     {"u64", 8},  {"i64", 8},  {"f64", 8}};

/* Types of tensors by their number in files: `block` values along the first dimension take `bytes` bytes.
 * All that are known are here, so that a type that cannot be run is refused by its name. Holes are types
 * that were withdrawn. */
static const struct gguf_type {
    const char *name;
    uint16_t block, bytes;
} gguf_types[] = {
    [0] = {"F32", 1, 4},        [1] = {"F16", 1, 2},        [2] = {"Q4_0", 32, 18},      [3] = {"Q4_1", 32, 20},
    [6] = {"Q5_0", 32, 22},     [7] = {"Q5_1", 32, 24},     [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},
    [10] = {"Q2_K", 256, 84},   [11] = {"Q3_K", 256, 110},  [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},  [15] = {"Q8_K", 256, 292},  [16] = {"IQ2_XXS", 256, 66}, [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50}, [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},  [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},        [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},       [27] = {"I64", 1, 8},       [28] = {"F64", 1, 8},        [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},      [34] = {"TQ1_0", 256, 54},  [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},
    [40] = {"NVFP4", 64, 36},   [41] = {"Q1_0", 128, 18},   [42] = {"Q2_0", 64, 18}};

/* "Q4_K", or NULL for a number that is no type. */
static const char *gguf_type_name(int64_t type) {
    return type >= 0 && type < COUNT(gguf_types) ? gguf_types[type].name : NULL;
}

/* A metadata pair. Values stay as the file has them: gguf_get_* read them. */
typedef struct gguf_kv {
    const char *key; /* printable ASCII, not NUL-terminated */
    size_t key_length;
    int is_array;
    gguf_value_type type; /* of the value, or of the elements */
    size_t count;         /* elements; 1 if it is not an array */
    const uint8_t *at;    /* the value or the elements, packed */
    size_t bytes;
} gguf_kv;

typedef struct gguf_tensor {
    const char *name; /* printable ASCII, not NUL-terminated */
    size_t name_length;
    int n_dims;       /* 1..4 */
    int64_t dims[4];  /* dims[0] is the length of a row; 1 past n_dims */
    int type;         /* index in gguf_types */
    const uint8_t *data;
    size_t bytes;
} gguf_tensor;

/* Names in order, to find them: a hash table could be made to collide by a hostile file. */
typedef struct gguf_entry {
    const char *name;
    size_t length, index;
} gguf_entry;

/* A byte range and where it came from. */
typedef struct gguf_map {
    const uint8_t *data;
    size_t size;
    enum { GGUF_BORROWED, GGUF_ALLOCATED, GGUF_MAPPED } origin;
} gguf_map;

/* An open file, or the files of a split model: metadata of the first, tensors of all. */
typedef struct gguf_file {
    polar_allocator allocator;
    char *name; /* last component of the path, or "memory": for messages */
    size_t name_bytes;
    uint32_t version;
    gguf_map *maps;
    size_t n_maps, maps_capacity;
    gguf_kv *kv;
    size_t n_kv;
    gguf_entry *kv_index;
    gguf_tensor *tensors;
    size_t n_tensors, tensors_capacity;
    gguf_entry *tensor_index;
} gguf_file;

/* --- reading the directory */

/* A position in an untrusted range. The first failure stays: after it every read gives zeros, so callers
 * check `status` once per entry. */
typedef struct gguf_reader {
    const char *file;
    const uint8_t *data;
    size_t size, at;
    const char *what; /* being read, with its number: for the message about a short file */
    size_t index;
    polar_status status;
    polar_error *error;
} gguf_reader;

static const uint8_t *gguf_take(gguf_reader *r, uint64_t n) {
    const uint8_t *p = r->data + r->at;
    if (r->status != POLAR_OK) return NULL;
    if (n > r->size - r->at) {
        r->status = fail(r->error, POLAR_FORMAT, "%s: ends inside %s %zu: %llu bytes expected at byte %zu, %zu there",
                         r->file, r->what, r->index, (unsigned long long)n, r->at, r->size - r->at);
        return NULL;
    }
    r->at += (size_t)n;
    return p;
}

static uint32_t gguf_take_u32(gguf_reader *r) {
    const uint8_t *p = gguf_take(r, 4);
    return p ? rd_u32(p) : 0;
}

static uint64_t gguf_take_u64(gguf_reader *r) {
    const uint8_t *p = gguf_take(r, 8);
    return p ? rd_u64(p) : 0;
}

/* A key or tensor name: printable ASCII, so that messages can show it. */
static void gguf_take_name(gguf_reader *r, const char **name, size_t *length) {
    uint64_t n = gguf_take_u64(r);
    const uint8_t *p;
    if ((n < 1 || n > GGUF_MAX_NAME) && r->status == POLAR_OK)
        r->status = fail(r->error, POLAR_FORMAT, "%s: the name of %s %zu has %llu bytes, expected 1 to %d", r->file,
                         r->what, r->index, (unsigned long long)n, GGUF_MAX_NAME);
    if (!(p = gguf_take(r, n))) return;
    *name = (const char *)p;
    *length = (size_t)n;
    for (size_t i = 0; i < *length; i++)
        if (p[i] < 32 || p[i] > 126) {
            r->status = fail(r->error, POLAR_FORMAT, "%s: the name of %s %zu has byte 0x%x, expected printable ASCII",
                             r->file, r->what, r->index, (unsigned)p[i]);
            return;
        }
}

static gguf_value_type gguf_take_type(gguf_reader *r, const gguf_kv *kv) {
    uint32_t type = gguf_take_u32(r);
    if (type < GGUF_N_VALUE_TYPES) return (gguf_value_type)type;
    r->status = fail(r->error, POLAR_FORMAT, "%s: %.*s has value type %u, expected 0 to %d", r->file,
                     (int)MIN(kv->key_length, 100), kv->key, (unsigned)type, GGUF_N_VALUE_TYPES - 1);
    return GGUF_U8;
}

static void gguf_read_pair(gguf_reader *r, gguf_kv *kv) {
    uint64_t count = 1;
    size_t start;
    gguf_take_name(r, &kv->key, &kv->key_length);
    if (r->status != POLAR_OK) return;
    kv->type = gguf_take_type(r, kv);
    if (kv->type == GGUF_ARRAY) {
        kv->is_array = 1;
        kv->type = gguf_take_type(r, kv);
        count = gguf_take_u64(r);
    }
    if (kv->type == GGUF_ARRAY) {
        r->status = fail(r->error, POLAR_UNSUPPORTED, "%s: %.*s is an array of arrays", r->file,
                         (int)MIN(kv->key_length, 100), kv->key);
        return;
    }
    start = r->at;
    if (gguf_values[kv->type].bytes) {
        uint64_t width = gguf_values[kv->type].bytes;
        gguf_take(r, count > UINT64_MAX / width ? UINT64_MAX : count * width);
    } else {
        for (uint64_t i = 0; i < count && r->status == POLAR_OK; i++) gguf_take(r, gguf_take_u64(r));
    }
    kv->count = (size_t)count; /* every element has a byte, so a count that does not fit has failed above */
    kv->at = r->data + start;
    kv->bytes = r->at - start;
}

/* Bytes of a tensor; 0 and an error if its type and shape are no tensor. */
static uint64_t gguf_tensor_bytes(gguf_reader *r, const gguf_tensor *t) {
    const struct gguf_type *type = &gguf_types[t->type];
    int64_t n = t->dims[0] / type->block;
    if (t->dims[0] % type->block) {
        r->status = fail(r->error, POLAR_FORMAT, "%s: tensor %.*s has rows of %lld, expected a multiple of %d for %s",
                         r->file, (int)MIN(t->name_length, 100), t->name, (long long)t->dims[0], (int)type->block,
                         type->name);
        return 0;
    }
    for (int i = 1; i < 4; i++) {
        if (n > INT64_MAX / t->dims[i] / 512) { /* 512: more than the bytes of any block */
            r->status = fail(r->error, POLAR_FORMAT, "%s: tensor %.*s has more values than there are addresses",
                             r->file, (int)MIN(t->name_length, 100), t->name);
            return 0;
        }
        n *= t->dims[i];
    }
    return (uint64_t)n * type->bytes;
}

/* One entry of the tensor directory. Its offset is left in *offset: where the data starts is not known yet. */
static void gguf_read_tensor(gguf_reader *r, gguf_tensor *t, uint64_t *offset) {
    uint32_t n_dims, type;
    uint64_t bytes;
    gguf_take_name(r, &t->name, &t->name_length);
    n_dims = gguf_take_u32(r);
    if (r->status == POLAR_OK && n_dims > 4)
        r->status = fail(r->error, POLAR_FORMAT, "%s: tensor %.*s has %u dimensions, expected at most 4", r->file,
                         (int)MIN(t->name_length, 100), t->name, (unsigned)n_dims);
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t dim = r->status == POLAR_OK && i < n_dims ? gguf_take_u64(r) : 1;
        if (r->status == POLAR_OK && (dim == 0 || dim > INT64_MAX))
            r->status = fail(r->error, POLAR_FORMAT, "%s: dimension %u of tensor %.*s is %llu", r->file, (unsigned)i,
                             (int)MIN(t->name_length, 100), t->name, (unsigned long long)dim);
        t->dims[i] = (int64_t)dim;
    }
    type = gguf_take_u32(r);
    *offset = gguf_take_u64(r);
    if (r->status != POLAR_OK) return;
    if (!gguf_type_name(type)) {
        r->status = fail(r->error, POLAR_UNSUPPORTED, "%s: tensor %.*s has type %u, which is unknown", r->file,
                         (int)MIN(t->name_length, 100), t->name, (unsigned)type);
        return;
    }
    t->n_dims = MAX((int)n_dims, 1);
    t->type = (int)type;
    bytes = gguf_tensor_bytes(r, t);
    t->bytes = (size_t)bytes;
    if (r->status == POLAR_OK && bytes > r->size)
        r->status = fail(r->error, POLAR_FORMAT, "%s: tensor %.*s has %llu bytes, the whole file only %zu", r->file,
                         (int)MIN(t->name_length, 100), t->name, (unsigned long long)bytes, r->size);
}

/* --- finding names */

static int gguf_compare(const char *a, size_t a_length, const char *b, size_t b_length) {
    int c = memcmp(a, b, MIN(a_length, b_length));
    return c ? c : a_length < b_length ? -1 : a_length > b_length;
}

static int gguf_entry_compare(const gguf_entry *a, const gguf_entry *b) {
    return gguf_compare(a->name, a->length, b->name, b->length);
}

/* Lets entry i of a heap of n sink to its place: parents are not smaller than their children. */
static void gguf_sift(gguf_entry *heap, size_t i, size_t n) {
    gguf_entry entry = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && gguf_entry_compare(&heap[child], &heap[child + 1]) < 0) child++;
        if (gguf_entry_compare(&entry, &heap[child]) >= 0) break;
        heap[i] = heap[child];
    }
    heap[i] = entry;
}

/* Heapsort: no worst case. Returns an entry whose name occurs twice, or NULL. */
static const gguf_entry *gguf_sort(gguf_entry *entries, size_t n) {
    for (size_t i = n / 2; i-- > 0;) gguf_sift(entries, i, n);
    for (size_t i = n; i-- > 1;) {
        gguf_entry last = entries[i];
        entries[i] = entries[0];
        entries[0] = last;
        gguf_sift(entries, 0, i);
    }
    for (size_t i = 1; i < n; i++)
        if (!gguf_entry_compare(&entries[i - 1], &entries[i])) return &entries[i];
    return NULL;
}

static const gguf_entry *gguf_search(const gguf_entry *entries, size_t n, const char *name, size_t length) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = gguf_compare(name, length, entries[middle].name, entries[middle].length);
        if (!c) return &entries[middle];
        if (c < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

static polar_status gguf_index_keys(gguf_file *g, polar_error *e) {
    const gguf_entry *twice;
    if (!(g->kv_index = mem_alloc(&g->allocator, g->n_kv * sizeof *g->kv_index, e))) return POLAR_MEMORY;
    for (size_t i = 0; i < g->n_kv; i++)
        g->kv_index[i] = (gguf_entry){g->kv[i].key, g->kv[i].key_length, i};
    if ((twice = gguf_sort(g->kv_index, g->n_kv)))
        return fail(e, POLAR_FORMAT, "%s: the key %.*s occurs twice", g->name, (int)MIN(twice->length, 100),
                    twice->name);
    return POLAR_OK;
}

static polar_status gguf_index_tensors(gguf_file *g, polar_error *e) {
    const gguf_entry *twice;
    if (!(g->tensor_index = mem_alloc(&g->allocator, g->n_tensors * sizeof *g->tensor_index, e))) return POLAR_MEMORY;
    for (size_t i = 0; i < g->n_tensors; i++)
        g->tensor_index[i] = (gguf_entry){g->tensors[i].name, g->tensors[i].name_length, i};
    if ((twice = gguf_sort(g->tensor_index, g->n_tensors)))
        return fail(e, POLAR_FORMAT, "%s: the tensor %.*s occurs twice", g->name, (int)MIN(twice->length, 100),
                    twice->name);
    return POLAR_OK;
}

/* NULL if there is none. */
static const gguf_kv *gguf_find(const gguf_file *g, const char *key) {
    const gguf_entry *entry = gguf_search(g->kv_index, g->n_kv, key, strlen(key));
    return entry ? &g->kv[entry->index] : NULL;
}

static const gguf_tensor *gguf_find_tensor(const gguf_file *g, const char *name) {
    const gguf_entry *entry = gguf_search(g->tensor_index, g->n_tensors, name, strlen(name));
    return entry ? &g->tensors[entry->index] : NULL;
}

/* --- metadata values
 *
 * The getters leave *out, which holds the default, as it is when an optional key is absent. */

enum { GGUF_OPTIONAL, GGUF_REQUIRED };

static polar_status gguf_absent(const gguf_file *g, const char *key, int required, polar_error *e) {
    return required ? fail(e, POLAR_FORMAT, "%s: the key %s is missing", g->name, key) : POLAR_OK;
}

static polar_status gguf_wrong_type(const gguf_file *g, const gguf_kv *kv, const char *expected, polar_error *e) {
    return fail(e, POLAR_FORMAT, "%s: %.*s is %s%s, expected %s", g->name, (int)MIN(kv->key_length, 100), kv->key,
                kv->is_array ? "an array of " : "of type ", gguf_values[kv->type].name, expected);
}

/* Element i of an integer value. 0 if it is no integer or larger than int64_t holds. */
static int gguf_int_at(const gguf_kv *kv, size_t i, int64_t *out) {
    const uint8_t *p = kv->at + i * gguf_values[kv->type].bytes;
    switch (kv->type) {
    case GGUF_U8: *out = *p; return 1;
    case GGUF_I8: *out = (int8_t)*p; return 1;
    case GGUF_U16: *out = rd_u16(p); return 1;
    case GGUF_I16: *out = (int16_t)rd_u16(p); return 1;
    case GGUF_U32: *out = rd_u32(p); return 1;
    case GGUF_I32: *out = (int32_t)rd_u32(p); return 1;
    case GGUF_I64: *out = (int64_t)rd_u64(p); return 1;
    case GGUF_U64: *out = (int64_t)rd_u64(p); return *out >= 0;
    default: return 0;
    }
}

/* Element i of a number of any type. 0 if it is none. */
static int gguf_float_at(const gguf_kv *kv, size_t i, double *out) {
    const uint8_t *p = kv->at + i * gguf_values[kv->type].bytes;
    int64_t n;
    if (kv->type == GGUF_F32) *out = rd_f32(p);
    else if (kv->type == GGUF_F64) *out = bits_f64(rd_u64(p));
    else if (gguf_int_at(kv, i, &n)) *out = (double)n;
    else return 0;
    return 1;
}

static polar_status gguf_get_int(const gguf_file *g, const char *key, int *out, int min, int max, int required,
                                 polar_error *e) {
    const gguf_kv *kv = gguf_find(g, key);
    int64_t n;
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array || kv->type == GGUF_F32 || kv->type == GGUF_F64 || kv->type == GGUF_BOOL ||
        kv->type == GGUF_STRING)
        return gguf_wrong_type(g, kv, "an integer", e);
    if (!gguf_int_at(kv, 0, &n)) n = INT64_MAX;
    if (n < min || n > max)
        return fail(e, POLAR_FORMAT, "%s: %s is %lld, expected %d to %d", g->name, key, (long long)n, min, max);
    *out = (int)n;
    return POLAR_OK;
}

static polar_status gguf_get_float(const gguf_file *g, const char *key, double *out, double min, double max,
                                   int required, polar_error *e) {
    const gguf_kv *kv = gguf_find(g, key);
    double x;
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array || !gguf_float_at(kv, 0, &x)) return gguf_wrong_type(g, kv, "a number", e);
    if (!(x >= min && x <= max))
        return fail(e, POLAR_FORMAT, "%s: %s is out of range", g->name, key);
    *out = x;
    return POLAR_OK;
}

static polar_status gguf_get_bool(const gguf_file *g, const char *key, int *out, int required, polar_error *e) {
    const gguf_kv *kv = gguf_find(g, key);
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array || kv->type != GGUF_BOOL) return gguf_wrong_type(g, kv, "a bool", e);
    if (kv->at[0] > 1) return fail(e, POLAR_FORMAT, "%s: %s is %d, expected 0 or 1", g->name, key, (int)kv->at[0]);
    *out = kv->at[0];
    return POLAR_OK;
}

/* The string is the file's: any bytes, not NUL-terminated. */
static polar_status gguf_get_str(const gguf_file *g, const char *key, const char **out, size_t *length, int required,
                                 polar_error *e) {
    const gguf_kv *kv = gguf_find(g, key);
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array || kv->type != GGUF_STRING) return gguf_wrong_type(g, kv, "a string", e);
    *out = (const char *)kv->at + 8;
    *length = (size_t)rd_u64(kv->at);
    return POLAR_OK;
}

/* An array with elements of the given type; *out is NULL if an optional one is absent. Elements are read by
 * gguf_int_at, gguf_float_at, or gguf_strings. */
static polar_status gguf_get_array(const gguf_file *g, const char *key, gguf_value_type type, const gguf_kv **out,
                                   int required, polar_error *e) {
    const gguf_kv *kv = *out = gguf_find(g, key);
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array && kv->type == type) return POLAR_OK;
    *out = NULL;
    return fail(e, POLAR_FORMAT, "%s: %s is %s%s, expected an array of %s", g->name, key,
                kv->is_array ? "an array of " : "of type ", gguf_values[kv->type].name, gguf_values[type].name);
}

/* Walks the strings of an array: gguf_strings it = gguf_strings_begin(kv); while (gguf_strings_next(&it, &s, &n)) ... */
typedef struct gguf_strings {
    const uint8_t *at;
    size_t left;
} gguf_strings;

static gguf_strings gguf_strings_begin(const gguf_kv *kv) {
    gguf_strings it = {kv->at, kv->count};
    return it;
}

static int gguf_strings_next(gguf_strings *it, const char **s, size_t *length) {
    if (!it->left) return 0;
    it->left--;
    *length = (size_t)rd_u64(it->at);
    *s = (const char *)it->at + 8;
    it->at += 8 + *length;
    return 1;
}

/* --- files as byte ranges */

#ifdef _WIN32
/* UTF-8 to the system's UTF-16. Freed with mem_free(a, p, *bytes). */
static wchar_t *gguf_wide(const char *path, size_t *bytes, const polar_allocator *a, polar_error *e) {
    int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    wchar_t *wide;
    *bytes = (size_t)n * sizeof *wide;
    if (n <= 0) {
        fail(e, POLAR_ARGUMENT, "%s: the path is not UTF-8", path);
        return NULL;
    }
    if ((wide = mem_alloc(a, *bytes, e))) MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, n);
    return wide;
}
#endif

#ifndef POLAR_NO_STDIO
/* fopen with a UTF-8 path on every system. */
static FILE *gguf_fopen(const char *path, const char *mode, const polar_allocator *a, polar_error *e) {
    FILE *f = NULL;
#ifdef _WIN32
    size_t bytes;
    wchar_t *wide = gguf_wide(path, &bytes, a, e), wide_mode[8] = {0};
    if (!wide) return NULL;
    for (int i = 0; i < 7 && mode[i]; i++) wide_mode[i] = (wchar_t)mode[i];
    f = _wfopen(wide, wide_mode);
    mem_free(a, wide, bytes);
#else
    (void)a;
    f = fopen(path, mode);
#endif
    if (!f) fail(e, POLAR_IO, "%s: %s", path, strerror(errno));
    return f;
}

/* Size of an open file that can be sought in, or -1. Leaves the position at the start. */
static int64_t gguf_file_size(FILE *f) {
    int64_t size;
#ifdef _WIN32
    if (_fseeki64(f, 0, SEEK_END)) return -1;
    size = _ftelli64(f);
#elif defined(__unix__) || defined(__APPLE__)
    if (fseeko(f, 0, SEEK_END)) return -1;
    size = ftello(f);
#else
    if (fseek(f, 0, SEEK_END)) return -1;
    size = ftell(f);
#endif
    rewind(f);
    return size;
}

typedef struct gguf_watch {
    polar_progress progress; /* may be NULL */
    void *user;
    double from, to; /* share of the whole work that this file is */
} gguf_watch;

/* Reads a file into one block of the allocator. */
static polar_status gguf_map_read(gguf_map *map, const char *path, const gguf_watch *watch, const polar_allocator *a,
                                  polar_error *e) {
    const size_t chunk = (size_t)1 << 24;
    FILE *f = gguf_fopen(path, "rb", a, e);
    polar_status status = POLAR_OK;
    int64_t size;
    uint8_t *block;
    if (!f) return POLAR_IO;
    size = gguf_file_size(f);
    if (size < 0 || (uint64_t)size > SIZE_MAX) {
        fclose(f);
        return fail(e, POLAR_IO, "%s: %s", path, size < 0 ? strerror(errno) : "larger than the address space");
    }
    if (!(block = mem_alloc(a, (size_t)size, e))) status = POLAR_MEMORY;
    for (size_t at = 0, n; status == POLAR_OK && at < (size_t)size; at += n) {
        n = MIN(chunk, (size_t)size - at);
        if (watch->progress &&
            watch->progress(watch->user, watch->from + (watch->to - watch->from) * ((double)at / (double)size)))
            status = fail(e, POLAR_CANCELLED, "%s: reading was cancelled", path);
        else if (fread(block + at, 1, n, f) != n)
            status = fail(e, POLAR_IO, "%s: reading stopped after %zu of %lld bytes", path, at, (long long)size);
    }
    fclose(f);
    if (status == POLAR_OK) *map = (gguf_map){block, (size_t)size, GGUF_ALLOCATED};
    else mem_free(a, block, (size_t)size);
    return status;
}

#if defined(POLAR_MMAP_POSIX)
/* Maps a file. Quietly leaves *map empty where only reading can work: a special file, an empty one. */
static polar_status gguf_map_file(gguf_map *map, const char *path, const polar_allocator *a, polar_error *e) {
    int fd = open(path, O_RDONLY);
    struct stat info;
    (void)a;
    if (fd < 0) return fail(e, POLAR_IO, "%s: %s", path, strerror(errno));
    if (!fstat(fd, &info) && S_ISREG(info.st_mode) && info.st_size > 0 && (uint64_t)info.st_size <= SIZE_MAX) {
        void *p = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p != MAP_FAILED) *map = (gguf_map){p, (size_t)info.st_size, GGUF_MAPPED};
    }
    close(fd);
    return POLAR_OK;
}
#elif defined(POLAR_MMAP_WINDOWS)
static polar_status gguf_map_file(gguf_map *map, const char *path, const polar_allocator *a, polar_error *e) {
    size_t bytes;
    wchar_t *wide = gguf_wide(path, &bytes, a, e);
    HANDLE file, mapping;
    LARGE_INTEGER size;
    if (!wide) return e ? e->status : POLAR_ARGUMENT;
    file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    mem_free(a, wide, bytes);
    if (file == INVALID_HANDLE_VALUE)
        return fail(e, POLAR_IO, "%s: system error %u", path, (unsigned)GetLastError());
    if (GetFileSizeEx(file, &size) && size.QuadPart > 0 && (uint64_t)size.QuadPart <= SIZE_MAX &&
        (mapping = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL))) {
        const void *p = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0); /* keeps the mapping open */
        if (p) *map = (gguf_map){p, (size_t)size.QuadPart, GGUF_MAPPED};
        CloseHandle(mapping);
    }
    CloseHandle(file);
    return POLAR_OK;
}
#endif
#endif /* POLAR_NO_STDIO */

static void gguf_unmap(const gguf_map *map, const polar_allocator *a) {
    if (map->origin == GGUF_ALLOCATED) mem_free(a, (void *)(uintptr_t)map->data, map->size);
#if defined(POLAR_MMAP_POSIX)
    if (map->origin == GGUF_MAPPED) munmap((void *)(uintptr_t)map->data, map->size);
#elif defined(POLAR_MMAP_WINDOWS)
    if (map->origin == GGUF_MAPPED) UnmapViewOfFile(map->data);
#endif
}

/* --- opening */

static void gguf_close(gguf_file *g) {
    const polar_allocator *a = &g->allocator;
    for (size_t i = 0; i < g->n_maps; i++) gguf_unmap(&g->maps[i], a);
    mem_free(a, g->maps, g->maps_capacity * sizeof *g->maps);
    mem_free(a, g->kv, g->n_kv * sizeof *g->kv);
    mem_free(a, g->kv_index, g->n_kv * sizeof *g->kv_index);
    mem_free(a, g->tensors, g->tensors_capacity * sizeof *g->tensors);
    mem_free(a, g->tensor_index, g->n_tensors * sizeof *g->tensor_index);
    mem_free(a, g->name, g->name_bytes);
    memset(g, 0, sizeof *g);
}

/* Starts an empty file that messages call by the last component of `path`. */
static polar_status gguf_begin(gguf_file *g, const char *path, const polar_allocator *a, polar_error *e) {
    const char *name = path;
    memset(g, 0, sizeof *g);
    g->allocator = mem_allocator(a);
    for (const char *p = path; *p; p++)
        if (*p == '/' || *p == '\\') name = p + 1;
    g->name_bytes = strlen(name) + 1;
    if (!(g->name = mem_alloc(&g->allocator, g->name_bytes, e))) return POLAR_MEMORY;
    memcpy(g->name, name, g->name_bytes);
    return POLAR_OK;
}

/* Takes over a byte range; if that fails it is given back. */
static polar_status gguf_own(gguf_file *g, const gguf_map *map, polar_error *e) {
    void *maps = g->maps;
    if (!mem_grow(&g->allocator, &maps, &g->maps_capacity, g->n_maps + 1, sizeof *g->maps, e)) {
        gguf_unmap(map, &g->allocator);
        return POLAR_MEMORY;
    }
    g->maps = maps;
    g->maps[g->n_maps++] = *map;
    return POLAR_OK;
}

/* Checks the header and allocates for as many entries as it promises and the bytes can hold. */
static void gguf_read_header(gguf_reader *r, gguf_file *g) {
    const uint8_t *p;
    uint64_t n_tensors, n_kv;
    if (r->size < GGUF_HEADER_BYTES) {
        r->status = fail(r->error, POLAR_FORMAT, "%s: has %zu bytes, a GGUF file at least %d", r->file, r->size,
                         GGUF_HEADER_BYTES);
        return;
    }
    p = gguf_take(r, GGUF_HEADER_BYTES);
    g->version = rd_u32(p + 4);
    n_tensors = rd_u64(p + 8);
    n_kv = rd_u64(p + 16);
    if (memcmp(p, "GGUF", 4))
        r->status = fail(r->error, POLAR_FORMAT, "%s: is no GGUF file: it starts with %x, expected %x (\"GGUF\")",
                         r->file, (unsigned)rd_u32(p), 0x46554747u);
    else if (g->version == 0x02000000u || g->version == 0x03000000u)
        r->status = fail(r->error, POLAR_UNSUPPORTED, "%s: is a big-endian GGUF file, expected little-endian", r->file);
    else if (g->version != 2 && g->version != 3)
        r->status = fail(r->error, POLAR_UNSUPPORTED, "%s: is GGUF version %u, expected 2 or 3", r->file,
                         (unsigned)g->version);
    else if (n_kv > (r->size - r->at) / GGUF_MIN_PAIR_BYTES ||
             n_tensors > (r->size - r->at) / GGUF_MIN_TENSOR_BYTES || n_tensors > INT_MAX)
        r->status = fail(r->error, POLAR_FORMAT, "%s: promises %llu metadata pairs and %llu tensors in %zu bytes",
                         r->file, (unsigned long long)n_kv, (unsigned long long)n_tensors, r->size);
    if (r->status != POLAR_OK) return;
    if (!(g->kv = mem_alloc(&g->allocator, (size_t)n_kv * sizeof *g->kv, r->error))) {
        r->status = POLAR_MEMORY;
        return;
    }
    g->n_kv = (size_t)n_kv;
    memset(g->kv, 0, g->n_kv * sizeof *g->kv);
    if (!(g->tensors = mem_alloc(&g->allocator, (size_t)n_tensors * sizeof *g->tensors, r->error))) {
        r->status = POLAR_MEMORY;
        return;
    }
    g->tensors_capacity = (size_t)n_tensors;
    memset(g->tensors, 0, g->tensors_capacity * sizeof *g->tensors);
}

/* Turns the offsets, kept in `data` relative to the range's start until here, into places inside the data. */
static polar_status gguf_place(gguf_reader *r, gguf_tensor *t, uint64_t offset, size_t start, size_t alignment) {
    if (offset % alignment)
        return fail(r->error, POLAR_FORMAT, "%s: tensor %.*s starts at %llu, expected a multiple of %zu", r->file,
                    (int)MIN(t->name_length, 100), t->name, (unsigned long long)offset, alignment);
    if (start > r->size || offset > r->size - start || t->bytes > r->size - start - (size_t)offset)
        return fail(r->error, POLAR_FORMAT, "%s: tensor %.*s has %zu bytes at %llu of the data, which has %zu", r->file,
                    (int)MIN(t->name_length, 100), t->name, t->bytes, (unsigned long long)offset,
                    start > r->size ? (size_t)0 : r->size - start);
    t->data = r->data + start + (size_t)offset;
    return POLAR_OK;
}

/* Reads the tensor directory twice: where the data starts is known at its end. */
static void gguf_read_directory(gguf_reader *r, gguf_file *g, size_t alignment) {
    size_t begin = r->at, start;
    uint64_t offset;
    r->what = "tensor";
    for (size_t i = 0; i < g->tensors_capacity && r->status == POLAR_OK; i++) {
        r->index = i;
        gguf_read_tensor(r, &g->tensors[i], &offset);
    }
    if (r->status != POLAR_OK) return;
    start = r->at > SIZE_MAX - alignment ? SIZE_MAX : (r->at + alignment - 1) / alignment * alignment;
    r->at = begin;
    for (size_t i = 0; i < g->tensors_capacity && r->status == POLAR_OK; i++) {
        gguf_read_tensor(r, &g->tensors[i], &offset);
        r->status = gguf_place(r, &g->tensors[i], offset, start, alignment);
    }
    g->n_tensors = g->tensors_capacity;
}

/* Parses the range, which g owns, into an empty g. */
static polar_status gguf_parse(gguf_file *g, const gguf_map *map, polar_error *e) {
    gguf_reader r = {g->name, map->data, map->size, 0, "header", 0, POLAR_OK, e};
    int alignment = GGUF_ALIGNMENT;
    gguf_read_header(&r, g);
    r.what = "metadata pair";
    for (size_t i = 0; i < g->n_kv && r.status == POLAR_OK; i++) {
        r.index = i;
        gguf_read_pair(&r, &g->kv[i]);
    }
    if (r.status == POLAR_OK) r.status = gguf_index_keys(g, e);
    if (r.status == POLAR_OK)
        r.status = gguf_get_int(g, "general.alignment", &alignment, 1, 1 << 30, GGUF_OPTIONAL, e);
    if (r.status == POLAR_OK && alignment & (alignment - 1))
        r.status = fail(e, POLAR_FORMAT, "%s: general.alignment is %d, expected a power of two", g->name, alignment);
    if (r.status == POLAR_OK) gguf_read_directory(&r, g, (size_t)alignment);
    return r.status;
}

/* A model in memory: in place, without any alignment. */
static polar_status gguf_open_memory(gguf_file *g, const void *data, size_t size, const polar_allocator *a,
                                     polar_error *e) {
    gguf_map map = {data, size, GGUF_BORROWED};
    int n_parts = 1;
    polar_status status = gguf_begin(g, "memory", a, e);
    if (status == POLAR_OK) status = gguf_parse(g, &map, e);
    if (status == POLAR_OK) status = gguf_get_int(g, "split.count", &n_parts, 0, GGUF_MAX_PARTS, GGUF_OPTIONAL, e);
    if (status == POLAR_OK && n_parts > 1)
        status = fail(e, POLAR_UNSUPPORTED, "%s: is one of %d parts of a model; in memory it must be whole", g->name,
                      n_parts);
    if (status == POLAR_OK) status = gguf_index_tensors(g, e);
    if (status != POLAR_OK) gguf_close(g);
    return status;
}

#ifndef POLAR_NO_STDIO
/* Opens and parses one file, without the index of tensors. */
static polar_status gguf_open_part(gguf_file *g, const char *path, int no_mmap, const gguf_watch *watch,
                                   const polar_allocator *a, polar_error *e) {
    gguf_map map = {NULL, 0, GGUF_BORROWED};
    polar_status status = gguf_begin(g, path, a, e);
#if defined(POLAR_MMAP_POSIX) || defined(POLAR_MMAP_WINDOWS)
    if (status == POLAR_OK && !no_mmap) status = gguf_map_file(&map, path, &g->allocator, e);
#else
    (void)no_mmap;
#endif
    if (status == POLAR_OK && !map.data) status = gguf_map_read(&map, path, watch, &g->allocator, e);
    if (status == POLAR_OK) status = gguf_own(g, &map, e);
    if (status == POLAR_OK) status = gguf_parse(g, &map, e);
    if (status != POLAR_OK) gguf_close(g);
    return status;
}

static void gguf_digits(char *at, int n) {
    for (int i = 4; i >= 0; i--, n /= 10) at[i] = (char)('0' + n % 10);
}

/* The number of a part in a path NAME-00001-of-00003.gguf, that is its "00001"; NULL if it is no such path. */
static char *gguf_part_number(char *path, int part, int n_parts) {
    char suffix[] = "-00000-of-00000.gguf";
    size_t n = strlen(path), m = sizeof suffix - 1;
    gguf_digits(suffix + 1, part + 1);
    gguf_digits(suffix + 10, n_parts);
    return n > m && !memcmp(path + n - m, suffix, m) ? path + n - m + 1 : NULL;
}

/* Moves the tensors and byte ranges of part `p` into g and closes the rest of p. */
static polar_status gguf_merge(gguf_file *g, gguf_file *p, polar_error *e) {
    void *tensors = g->tensors;
    polar_status status = POLAR_OK;
    size_t n = g->n_tensors + p->n_tensors;
    if (mem_grow(&g->allocator, &tensors, &g->tensors_capacity, n, sizeof *g->tensors, e)) {
        g->tensors = tensors;
        if (p->n_tensors) memcpy(g->tensors + g->n_tensors, p->tensors, p->n_tensors * sizeof *g->tensors);
        g->n_tensors = n;
    } else status = POLAR_MEMORY;
    while (p->n_maps && status == POLAR_OK) status = gguf_own(g, &p->maps[--p->n_maps], e);
    gguf_close(p);
    return status;
}

/* The other parts of a split model, found beside the first. */
static polar_status gguf_open_others(gguf_file *g, const char *path, int no_mmap, int n_parts, polar_progress progress,
                                     void *user, polar_error *e) {
    size_t bytes = strlen(path) + 1;
    char *other = mem_alloc(&g->allocator, bytes, e), *number;
    polar_status status = POLAR_OK;
    int total = -1;
    if (!other) return POLAR_MEMORY;
    memcpy(other, path, bytes);
    if (!(number = gguf_part_number(other, 0, n_parts)))
        status = fail(e, POLAR_FORMAT, "%s: is the first of %d parts, expected a name like MODEL-00001-of-%c%c%c%c%c.gguf",
                      g->name, n_parts, '0' + n_parts / 10000, '0' + n_parts / 1000 % 10, '0' + n_parts / 100 % 10,
                      '0' + n_parts / 10 % 10, '0' + n_parts % 10);
    for (int i = 1; i < n_parts && status == POLAR_OK; i++) {
        gguf_watch watch = {progress, user, (double)i / n_parts, (double)(i + 1) / n_parts};
        gguf_file part;
        int found = -1;
        gguf_digits(number, i + 1);
        if ((status = gguf_open_part(&part, other, no_mmap, &watch, &g->allocator, e)) != POLAR_OK) break;
        status = gguf_get_int(&part, "split.no", &found, 0, GGUF_MAX_PARTS, GGUF_REQUIRED, e);
        if (status == POLAR_OK && found != i)
            status = fail(e, POLAR_MISMATCH, "%s: split.no is %d, expected %d", part.name, found, i);
        if (status == POLAR_OK) status = gguf_merge(g, &part, e);
        else gguf_close(&part);
    }
    if (status == POLAR_OK)
        status = gguf_get_int(g, "split.tensors.count", &total, 0, INT_MAX, GGUF_OPTIONAL, e);
    if (status == POLAR_OK && total >= 0 && (size_t)total != g->n_tensors)
        status = fail(e, POLAR_MISMATCH, "%s: split.tensors.count is %d, the parts have %zu", g->name, total,
                      g->n_tensors);
    mem_free(&g->allocator, other, bytes);
    return status;
}
#endif

/* Opens a file, or a split model by its first file. `progress` is called while a file is read, not when it is
 * mapped. A file that someone truncates while it is mapped ends the process: that is the system's rule. */
static polar_status gguf_open(gguf_file *g, const char *path, int no_mmap, const polar_allocator *a,
                              polar_progress progress, void *progress_user, polar_error *e) {
#ifdef POLAR_NO_STDIO
    (void)no_mmap, (void)a, (void)progress, (void)progress_user;
    memset(g, 0, sizeof *g);
    return fail(e, POLAR_UNSUPPORTED, "%s: this build reads no files (POLAR_NO_STDIO)", path);
#else
    gguf_watch watch = {progress, progress_user, 0, 1};
    int n_parts = 1, part = 0;
    polar_status status = gguf_open_part(g, path, no_mmap, &watch, a, e);
    if (status != POLAR_OK) return status;
    status = gguf_get_int(g, "split.count", &n_parts, 0, GGUF_MAX_PARTS, GGUF_OPTIONAL, e);
    if (status == POLAR_OK) status = gguf_get_int(g, "split.no", &part, 0, GGUF_MAX_PARTS, GGUF_OPTIONAL, e);
    if (status == POLAR_OK && part)
        status = fail(e, POLAR_ARGUMENT, "%s: is part %d of %d, expected the first", g->name, part + 1, n_parts);
    if (status == POLAR_OK && n_parts > 1)
        status = gguf_open_others(g, path, no_mmap, n_parts, progress, progress_user, e);
    if (status == POLAR_OK) status = gguf_index_tensors(g, e);
    if (status != POLAR_OK) gguf_close(g);
    return status;
#endif
}

/* ======================================================================================
 * [json] JSON: reading and writing, numbers without a locale
 * ====================================================================================== */
/*JSON*/

/* ======================================================================================
 * [quant] Tensor types: blocks of quantized numbers
 *
 * One table with a row per tensor type, and everything that depends on how a type lays out its bits. Reading
 * turns a block into integers with a common factor (quant_block), which is all that dequantization and dot
 * products need to know; writing searches the integers with the least squared error. The layouts are those of
 * ggml. Promises: the same bits on every machine, no alignment needed, any bytes are a valid block and any
 * floats can be written. Uses: [num].
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

/* --- Choosing numbers ---
 *
 * All types are one problem: x[i] ~ d scale[j] q[i] + m min[j], where j is the sub-block of i, d and m are
 * halves and the rest are small integers. The squared error has no shortcut, but for fixed integers the best d
 * and m follow from linear least squares, and for fixed d and m each q is a rounding. So: for each sub-block
 * try a row of starting steps, keep the one whose least-squares fit is best (quant_fit_scale, quant_fit_line);
 * round the sub-block scales and mins; then alternate between rounding and least squares over the whole
 * block as long as the error falls (quant_fit).
 *
 * Exactness: sums are in double, and each product that is added is of two floats or small integers, hence exact
 * there: fused or not, it gives the same bits. Other products go through mul64. */

typedef struct quant_shape {
    int n, sub;                /* numbers of a block, of a sub-block */
    int low, high;             /* q is low..high */
    const int8_t *values;      /* NULL, or the sixteen values that q can take */
    int scale_low, scale_high; /* of sub-blocks; both 1: there is one, with d as its scale */
    int min_high;              /* min is 0..min_high; 0: the type has none */
    int tries;                 /* starting steps tried on each side of the obvious one, ... */
    float reach;               /* ... the last of them this far from it, relatively */
} quant_shape;

typedef struct quant_grid {
    float d, m; /* exact halves */
    int scale[QUANT_BLOCK / 16], min[QUANT_BLOCK / 16];
    int16_t q[QUANT_BLOCK];
} quant_grid;

/* The nearest integer to x * inverse, ties to even: the product is exact in double, and adding 1.5 * 2^52
 * leaves the integer in the low bits. */
static int quant_round(float x, float inverse) {
    return (int)(int32_t)(uint32_t)f64_bits((double)x * (double)inverse + 6755399441055744.0);
}

/* 1 / x, or 0 where that would not be a finite float or x stands for nothing. */
static float quant_inverse(float x) {
    return fabsf(x) > 1e-30f ? 1 / x : 0;
}

/* The index of the value of quant_iq4 nearest to v: how many midpoints between neighbours lie below it. */
static int quant_iq4_index(int v) {
    int i = 2 * v > quant_iq4[7] + quant_iq4[8] ? 8 : 0;
    i += 2 * v > quant_iq4[i + 3] + quant_iq4[i + 4] ? 4 : 0;
    i += 2 * v > quant_iq4[i + 1] + quant_iq4[i + 2] ? 2 : 0;
    return i + (2 * v > quant_iq4[i] + quant_iq4[i + 1]);
}

/* The q of a type that is nearest to x * inverse. */
static int quant_nearest(const quant_shape *s, float x, float inverse) {
    int q = quant_round(x, inverse);
    q = MAX(s->low, MIN(s->high, q));
    return s->values ? quant_iq4[quant_iq4_index(q)] : q;
}

/* Sums over a sub-block for least squares. */
typedef struct quant_sums {
    double x, xq;
    int q, qq;
} quant_sums;

static quant_sums quant_try(const quant_shape *s, const float *x, float offset, float inverse) {
    quant_sums t = {0, 0, 0, 0};
    for (int i = 0; i < s->sub; i++) {
        int q = quant_nearest(s, x[i] - offset, inverse);
        t.x += (double)x[i];
        t.xq += (double)x[i] * q;
        t.q += q;
        t.qq += q * q;
    }
    return t;
}

/* The step number `k` of 2 * tries + 1, as a factor of the obvious one. */
static float quant_step(const quant_shape *s, int k) {
    return fma32((float)(k - s->tries) / (float)MAX(1, s->tries), s->reach, 1);
}

/* min over d and q of sum (x - d q)^2. For given q the best d is sum x q / sum q q, and the sum of squares
 * falls by (sum x q)^2 / sum q q. Starts: the number furthest from 0 becomes `low`, the wider end; among
 * uneven values the other end may fit better. */
static float quant_fit_scale(const quant_shape *s, const float *x) {
    float extreme = 0, d = 0;
    double best = 0;
    for (int i = 0; i < s->sub; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    for (int end = 0; end < (s->values ? 2 : 1); end++) {
        float inverse = quant_inverse(extreme) * (float)(end ? s->high : s->low);
        for (int k = 0; k <= 2 * s->tries + 2; k++) { /* the last two rounds start from the best so far */
            quant_sums t = quant_try(s, x, 0, k <= 2 * s->tries ? inverse * quant_step(s, k) : quant_inverse(d));
            double gain = t.qq ? t.xq * t.xq / t.qq : 0;
            if (gain <= best) continue;
            best = gain;
            d = (float)(t.xq / t.qq);
        }
    }
    return d;
}

/* min over d, m and q of sum (x - d q - m)^2, with m <= 0 where the type's mins have a common factor. */
static void quant_fit_line(const quant_shape *s, const float *x, float *d, float *m) {
    float low = x[0], high = x[0], inverse;
    double best = 0, n = s->sub;
    for (int i = 1; i < s->sub; i++) {
        low = MIN(low, x[i]);
        high = MAX(high, x[i]);
    }
    if (s->min_high > 1) low = MIN(low, 0);
    *d = 0;
    *m = low;
    inverse = quant_inverse(high - low) * (float)s->high;
    for (int k = 0; k <= 2 * s->tries + 2; k++) {
        int again = k > 2 * s->tries;
        quant_sums t = quant_try(s, x, again ? *m : low, again ? quant_inverse(*d) : inverse * quant_step(s, k));
        double det = n * t.qq - (double)t.q * t.q, slope = 0, offset = 0, gain;
        if (!t.qq) continue;
        if (det > 0) offset = (mul64(t.x, t.qq) - mul64(t.xq, t.q)) / det;
        if (s->min_high > 1) offset = MIN(offset, 0);
        slope = (t.xq - mul64(offset, t.q)) / t.qq;
        gain = mul64(slope, t.xq) + mul64(offset, t.x);
        if (gain <= best) continue;
        best = gain;
        *d = (float)slope;
        *m = (float)offset;
    }
}

/* To the nearest half that is finite. */
static float quant_half(double x) {
    return f16_f32(f32_f16((float)MAX(-65504.0, MIN(65504.0, x))));
}

/* Rounds all q for the grid's d, m, scales and mins, and returns the sum of squared errors. */
static double quant_assign(const quant_shape *s, const float *x, quant_grid *g) {
    double error = 0;
    for (int i = 0; i < s->n; i += s->sub) {
        float step = g->d * (float)g->scale[i / s->sub], offset = g->m * (float)g->min[i / s->sub]; /* both exact */
        float inverse = quant_inverse(step);
        for (int k = i; k < i + s->sub; k++) {
            int q = quant_nearest(s, x[k] - offset, inverse);
            double e = (double)(x[k] - fma32(step, (float)q, offset));
            g->q[k] = (int16_t)q;
            error += mul64(e, e);
        }
    }
    return error;
}

/* Least squares for d and m of the whole block, everything else fixed. */
static void quant_solve(const quant_shape *s, const float *x, quant_grid *g) {
    double aa = 0, bb = 0, ab = 0, ax = 0, bx = 0, det;
    for (int i = 0; i < s->n; i++) {
        int a = g->q[i] * g->scale[i / s->sub], b = g->min[i / s->sub];
        aa += (double)(a * a);
        ab += (double)(a * b);
        bb += (double)(b * b);
        ax += (double)x[i] * a;
        bx += (double)x[i] * b;
    }
    det = mul64(aa, bb) - mul64(ab, ab);
    if (det > 0) {
        g->d = quant_half((mul64(ax, bb) - mul64(bx, ab)) / det);
        g->m = quant_half((mul64(bx, aa) - mul64(ax, ab)) / det);
    } else if (aa > 0) {
        g->d = quant_half(ax / aa);
    }
}

/* Alternates least squares and rounding as long as that helps. */
static void quant_refine(const quant_shape *s, const float *x, quant_grid *g) {
    double best = quant_assign(s, x, g), error;
    quant_grid trial = *g;
    for (int round = 0; round < 4; round++) {
        quant_solve(s, x, &trial);
        error = quant_assign(s, x, &trial);
        if (error >= best) return;
        best = error;
        *g = trial;
    }
}

/* The grid with the least squared error for a block of x. */
static void quant_fit(const quant_shape *s, const float *x, quant_grid *g) {
    float ds[QUANT_BLOCK / 16], ms[QUANT_BLOCK / 16] = {0}, d = 0, m = 0;
    int n_sub = s->n / s->sub;
    for (int j = 0; j < n_sub; j++) {
        if (s->min_high)
            quant_fit_line(s, x + j * s->sub, &ds[j], &ms[j]);
        else
            ds[j] = quant_fit_scale(s, x + j * s->sub);
        if (fabsf(ds[j]) > fabsf(d)) d = ds[j];
        if (fabsf(ms[j]) > fabsf(m)) m = ms[j];
    }
    g->d = quant_half(d / (float)(s->min_high ? s->scale_high : s->scale_low));
    g->m = s->min_high ? quant_half(m / (float)s->min_high) : 0;
    for (int j = 0; j < n_sub; j++) {
        int scale = quant_round(ds[j], quant_inverse(g->d)), min = quant_round(ms[j], quant_inverse(g->m));
        g->scale[j] = MAX(s->scale_low, MIN(s->scale_high, scale));
        g->min[j] = s->min_high == 1 ? 1 : MAX(0, MIN(s->min_high, min));
    }
    quant_refine(s, x, g);
}

/* --- Writing blocks --- */

static uint16_t quant_bf16(float x) {
    uint32_t u = f32_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40); /* NaN, quiet */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void quant_encode_f32(const float *x, uint8_t *dst) {
    wr_u32(dst, f32_bits(*x));
}

static void quant_encode_f16(const float *x, uint8_t *dst) {
    wr_u16(dst, f32_f16(*x));
}

static void quant_encode_bf16(const float *x, uint8_t *dst) {
    wr_u16(dst, quant_bf16(*x));
}

static void quant_put_half(uint8_t *dst, float x) {
    wr_u16(dst, f32_f16(x));
}

/* Steps so fine that a search gains nothing: the largest number becomes 127. */
static void quant_encode_q8_0(const float *x, uint8_t *dst) {
    block_q8_0 *b = (void *)dst;
    float largest = 0, d, inverse;
    for (int i = 0; i < 32; i++) largest = MAX(largest, fabsf(x[i]));
    d = quant_half((double)largest / 127);
    inverse = quant_inverse(d);
    quant_put_half(b->d, d);
    for (int i = 0; i < 32; i++) b->qs[i] = (uint8_t)MAX(-127, MIN(127, quant_round(x[i], inverse)));
}

/* 32 numbers to the nibbles and, if qh is not NULL, the fifth bits of the simple types; `zero` is added. */
static void quant_put_bits(const int16_t *q, int zero, uint8_t *qs, uint8_t *qh) {
    uint32_t high = 0;
    for (int i = 0; i < 16; i++) {
        unsigned a = (unsigned)(q[i] + zero), b = (unsigned)(q[i + 16] + zero);
        qs[i] = (uint8_t)((a & 15) | (b & 15) << 4);
        high |= (uint32_t)(a >> 4) << i | (uint32_t)(b >> 4) << (i + 16);
    }
    if (qh) wr_u32(qh, high);
}

/* block, sub-block; q; values; scales; mins; tries, reach */
static const quant_shape quant_shape_q4_0 = {32, 32, -8, 7, NULL, 1, 1, 0, 5, 0.2f};
static const quant_shape quant_shape_q5_0 = {32, 32, -16, 15, NULL, 1, 1, 0, 5, 0.16f};
static const quant_shape quant_shape_iq4_nl = {32, 32, -127, 113, quant_iq4, 1, 1, 0, 5, 0.2f};
static const quant_shape quant_shape_q4_1 = {32, 32, 0, 15, NULL, 1, 1, 1, 8, 0.2f};
static const quant_shape quant_shape_q5_1 = {32, 32, 0, 31, NULL, 1, 1, 1, 8, 0.1f};
static const quant_shape quant_shape_q2_k = {256, 16, 0, 3, NULL, 0, 15, 15, 8, 0.25f};
static const quant_shape quant_shape_q3_k = {256, 16, -4, 3, NULL, -32, 31, 0, 5, 0.4f};
static const quant_shape quant_shape_q4_k = {256, 32, 0, 15, NULL, 0, 63, 63, 8, 0.2f};
static const quant_shape quant_shape_q5_k = {256, 32, 0, 31, NULL, 0, 63, 63, 8, 0.1f};
static const quant_shape quant_shape_q6_k = {256, 16, -32, 31, NULL, -128, 127, 0, 6, 0.09f};
static const quant_shape quant_shape_iq4_xs = {256, 32, -127, 113, quant_iq4, -32, 31, 0, 5, 0.2f};

static void quant_encode_q4_0(const float *x, uint8_t *dst) {
    block_q4_0 *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q4_0, x, &g);
    quant_put_half(b->d, g.d);
    quant_put_bits(g.q, 8, b->qs, NULL);
}

static void quant_encode_q4_1(const float *x, uint8_t *dst) {
    block_q4_1 *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q4_1, x, &g);
    quant_put_half(b->d, g.d);
    quant_put_half(b->m, g.m);
    quant_put_bits(g.q, 0, b->qs, NULL);
}

static void quant_encode_q5_0(const float *x, uint8_t *dst) {
    block_q5_0 *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q5_0, x, &g);
    quant_put_half(b->d, g.d);
    quant_put_bits(g.q, 16, b->qs, b->qh);
}

static void quant_encode_q5_1(const float *x, uint8_t *dst) {
    block_q5_1 *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q5_1, x, &g);
    quant_put_half(b->d, g.d);
    quant_put_half(b->m, g.m);
    quant_put_bits(g.q, 0, b->qs, b->qh);
}

/* Values of quant_iq4 to their indices, in place. */
static void quant_iq4_indices(int16_t *q, int n) {
    for (int i = 0; i < n; i++) q[i] = (int16_t)quant_iq4_index(q[i]);
}

static void quant_encode_iq4_nl(const float *x, uint8_t *dst) {
    block_iq4_nl *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_iq4_nl, x, &g);
    quant_iq4_indices(g.q, 32);
    quant_put_half(b->d, g.d);
    quant_put_bits(g.q, 0, b->qs, NULL);
}

static void quant_encode_q2_k(const float *x, uint8_t *dst) {
    block_q2_k *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q2_k, x, &g);
    quant_put_half(b->d, g.d);
    quant_put_half(b->dmin, -g.m);
    for (int j = 0; j < 16; j++) b->scales[j] = (uint8_t)(g.scale[j] | g.min[j] << 4);
    memset(b->qs, 0, sizeof b->qs);
    for (int i = 0; i < 256; i++) b->qs[i / 128 * 32 + i % 32] |= (uint8_t)(g.q[i] << i % 128 / 32 * 2);
}

static void quant_encode_q3_k(const float *x, uint8_t *dst) {
    block_q3_k *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q3_k, x, &g);
    memset(b, 0, sizeof *b);
    quant_put_half(b->d, g.d);
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

static void quant_put_scales_q4_k(const quant_grid *g, uint8_t *p) {
    for (int j = 0; j < 4; j++) {
        int scale = g->scale[j + 4], min = g->min[j + 4];
        p[j] = (uint8_t)(g->scale[j] | scale >> 4 << 6);
        p[j + 4] = (uint8_t)(g->min[j] | min >> 4 << 6);
        p[j + 8] = (uint8_t)((scale & 15) | (min & 15) << 4);
    }
}

/* Numbers to the nibbles of Q4_K, or with qh to those and the fifth bits of Q5_K. */
static void quant_put_k45(const int16_t *q, uint8_t *qh, uint8_t *qs) {
    for (int i = 0; i < 128; i++) {
        const int16_t *pair = q + i / 32 * 64 + i % 32;
        qs[i] = (uint8_t)((pair[0] & 15) | (pair[32] & 15) << 4);
    }
    if (!qh) return;
    memset(qh, 0, 32);
    for (int i = 0; i < 256; i++) qh[i % 32] |= (uint8_t)(q[i] >> 4 << i / 32);
}

static void quant_encode_q4_k(const float *x, uint8_t *dst) {
    block_q4_k *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q4_k, x, &g);
    quant_put_half(b->d, g.d);
    quant_put_half(b->dmin, -g.m);
    quant_put_scales_q4_k(&g, b->scales);
    quant_put_k45(g.q, NULL, b->qs);
}

static void quant_encode_q5_k(const float *x, uint8_t *dst) {
    block_q5_k *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q5_k, x, &g);
    quant_put_half(b->d, g.d);
    quant_put_half(b->dmin, -g.m);
    quant_put_scales_q4_k(&g, b->scales);
    quant_put_k45(g.q, b->qh, b->qs);
}

static void quant_encode_q6_k(const float *x, uint8_t *dst) {
    block_q6_k *b = (void *)dst;
    quant_grid g;
    quant_fit(&quant_shape_q6_k, x, &g);
    memset(b, 0, sizeof *b);
    quant_put_half(b->d, g.d);
    for (int j = 0; j < 16; j++) b->scales[j] = (uint8_t)g.scale[j];
    for (int i = 0; i < 256; i++) {
        int half = i / 128, k = i % 128 / 32, l = i % 32, q = g.q[i] + 32;
        b->ql[64 * half + 32 * (k % 2) + l] |= (uint8_t)((q & 15) << k / 2 * 4);
        b->qh[32 * half + l] |= (uint8_t)(q >> 4 << 2 * k);
    }
}

static void quant_encode_iq4_xs(const float *x, uint8_t *dst) {
    block_iq4_xs *b = (void *)dst;
    unsigned high = 0;
    quant_grid g;
    quant_fit(&quant_shape_iq4_xs, x, &g);
    quant_iq4_indices(g.q, 256);
    memset(b, 0, sizeof *b);
    quant_put_half(b->d, g.d);
    for (int j = 0; j < 8; j++) {
        unsigned scale = (unsigned)(g.scale[j] + 32);
        b->scales_l[j / 2] |= (uint8_t)((scale & 15) << j % 2 * 4);
        high |= scale >> 4 << 2 * j;
        quant_put_bits(g.q + 32 * j, 0, b->qs + 16 * j, NULL);
    }
    wr_u16(b->scales_h, (uint16_t)high);
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
    {"F32", 0, 1, 4, 0, NULL, quant_encode_f32},
    {"F16", 1, 1, 2, 0, NULL, quant_encode_f16},
    {"BF16", 30, 1, 2, 0, NULL, quant_encode_bf16},
    {"Q8_0", 8, 32, 34, 0, quant_unpack_q8_0, quant_encode_q8_0},
    {"Q4_0", 2, 32, 18, 0, quant_unpack_q4_0, quant_encode_q4_0},
    {"Q4_1", 3, 32, 20, 1, quant_unpack_q4_1, quant_encode_q4_1},
    {"Q5_0", 6, 32, 22, 0, quant_unpack_q5_0, quant_encode_q5_0},
    {"Q5_1", 7, 32, 24, 1, quant_unpack_q5_1, quant_encode_q5_1},
    {"IQ4_NL", 20, 32, 18, 0, quant_unpack_iq4_nl, quant_encode_iq4_nl},
    {"Q2_K", 10, 256, 84, 1, quant_unpack_q2_k, quant_encode_q2_k},
    {"Q3_K", 11, 256, 110, 0, quant_unpack_q3_k, quant_encode_q3_k},
    {"Q4_K", 12, 256, 144, 1, quant_unpack_q4_k, quant_encode_q4_k},
    {"Q5_K", 13, 256, 176, 1, quant_unpack_q5_k, quant_encode_q5_k},
    {"Q6_K", 14, 256, 210, 0, quant_unpack_q6_k, quant_encode_q6_k},
    {"IQ4_XS", 23, 256, 136, 0, quant_unpack_iq4_xs, quant_encode_iq4_xs},
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
