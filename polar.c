/* polar.c - the implementation of polar.h. MIT licence.
 *
 * Sections, in the order of the file; each uses only sections above it:
 *   [config]  what the compiler and the system offer
 *   [err]     status and messages
 *   [mem]     allocator, checked sizes, layouts
 *   [num]     exact arithmetic: fma, half floats, exp, angles; numbers as text without a locale
 *   [thread]  one primitive: run n tasks
 *   [gguf]    GGUF files: reading and writing
 *   [quant]   tensor types: blocks of quantized numbers
 *   [kern]    kernels and the choice of an instruction set
 *   [uni]     Unicode classes
 *   [tok]     tokenizers and chat formats
 *   [model]   architectures and weights
 *   [prog]    programs of layers
 *   [call]    one layer call: attention, feed-forward, experts
 *   [session] key-value slots, evaluation
 *   [gen]     sampling and generation
 *   [many]    many programs on one prompt
 *   [search]  search for programs
 *   [pred]    predictor
 *   [pick]    using a predictor; polar_ask
 *   [train]   training
 */

/* ======================================================================================
 * [config] What the compiler and the system offer
 *
 * Everything that is decided by the preprocessor: system headers, switches, instruction sets, floating-point rules that
 * the promise of equal bits needs, and the few macros of this file. Nothing to start with: read it when a platform is
 * added. Uses: nothing.
 * ====================================================================================== */

/* Names beyond ISO C under -std=c99: POSIX, madvise, syscall, the number of cores. Each system has its own word for
 * "all of them"; the BSDs show all unless a program asks for POSIX, which hides the rest there and on macOS. */
#if defined(__APPLE__)
#ifndef _DARWIN_C_SOURCE
#define _DARWIN_C_SOURCE 1
#endif
#elif defined(__unix__) && !defined(__FreeBSD__) && !defined(__NetBSD__) && !defined(__OpenBSD__) && \
    !defined(__DragonFly__)
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1
#endif
#ifndef __EXTENSIONS__
#define __EXTENSIONS__ 1
#endif
#endif
#if !defined(_FILE_OFFSET_BITS) && defined(__unix__)
#define _FILE_OFFSET_BITS 64
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
#elif defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ == 1 /* gcc -std=c99 on s390x */
#if defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#pragma GCC optimize("excess-precision=fast")
#else
#error "polar needs float arithmetic in float, not in double: compile with -fexcess-precision=fast or -std=gnu99"
#endif
#endif

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif
/* gcc contracts a*b + c across statements when the target has fma. There is no pragma that switches it off
 * and leaves the intrinsics alone, so no float product in this file is an operand of + or -, unless it is exact:
 * fma32 says where one is meant. */

#if (defined(__x86_64__) || defined(_M_X64)) && !defined(POLAR_NO_SIMD) && (defined(__GNUC__) || defined(_MSC_VER)) && \
    !defined(__TINYC__)
#define POLAR_X86 1
#include <immintrin.h>
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(POLAR_X86) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 8) || \
                           (defined(_MSC_VER) && _MSC_VER >= 1920))
#define POLAR_X86_512 1
#endif
#if defined(POLAR_X86_512) && ((defined(__clang__) && __clang_major__ >= 13) || \
                               (!defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 11) || \
                               (defined(_MSC_VER) && _MSC_VER >= 1930))
#define POLAR_X86_VNNI 1
#endif
#if defined(POLAR_X86_VNNI) && defined(__linux__) && !defined(_MSC_VER)
#define POLAR_X86_AMX 1 /* the system is asked for the tiles */
#include <sys/syscall.h>
#include <unistd.h>
#endif
/* Without optimization, code that is never executed keeps instructions that the assembler has not been told of. */
#if defined(__aarch64__) && !defined(__AARCH64EB__) && !defined(POLAR_NO_SIMD) && defined(__GNUC__) && \
    !defined(__TINYC__) && defined(__OPTIMIZE__)
#define POLAR_ARM 1
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif
/* Integer products of small Arm cores, known when compiling: they stay with POLAR_NO_SIMD. */
#if defined(__ARM_FEATURE_MVE) && defined(__GNUC__)
#define POLAR_MVE 1
#include <arm_mve.h>
#elif defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__) && !defined(__TINYC__)
#define POLAR_SMLAD 1
#endif
#if defined(__wasm_simd128__) && !defined(POLAR_NO_SIMD)
#define POLAR_WASM 1
#include <wasm_simd128.h>
#endif
#if defined(POLAR_X86) || defined(POLAR_ARM) || defined(POLAR_WASM)
#define POLAR_SIMD 1
#endif
#if defined(__GNUC__) && !defined(__TINYC__)
#define TARGET(isa) __attribute__((target(isa)))
#if defined(__MINGW32__) && !defined(__clang__)
#define PRINTF_LIKE(f, a) __attribute__((format(gnu_printf, f, a))) /* plain printf is Microsoft's there */
#else
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#endif
#define MAYBE_UNUSED __attribute__((unused))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define TARGET(isa)
#define PRINTF_LIKE(f, a)
#define MAYBE_UNUSED
#define ALWAYS_INLINE inline
#endif

/* Before a loop of a few rounds over arrays of vectors: without loop, they are registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__) && __GNUC__ >= 8
#define UNROLL _Pragma("GCC unroll 32")
#else
#define UNROLL
#endif

#if !defined(POLAR_NO_STDIO) && (defined(__unix__) || defined(__APPLE__))
#define POLAR_POSIX_FILES 1
#include <sys/stat.h>
#include <unistd.h>
#ifndef POLAR_NO_MMAP
#define POLAR_MMAP_POSIX 1
#include <fcntl.h>
#include <sys/mman.h>
#endif
#elif !defined(POLAR_NO_STDIO) && !defined(POLAR_NO_MMAP) && defined(_WIN32)
#define POLAR_MMAP_WINDOWS 1
#endif
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#undef near /* words of 16-bit compilers, still macros there */
#undef far
#elif !defined(POLAR_NO_THREADS)
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#endif

/* Under the address sanitizer the parts of a block have forbidden bytes between them. */
#ifdef __SANITIZE_ADDRESS__
#define POLAR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POLAR_ASAN 1
#endif
#endif
#ifdef POLAR_ASAN
#include <sanitizer/asan_interface.h>
#define ASAN_FORBID(p, n) __asan_poison_memory_region(p, n)
#define ASAN_ALLOW(p, n) __asan_unpoison_memory_region(p, n)
#else
#define ASAN_FORBID(p, n) ((void)(p), (void)(n))
#define ASAN_ALLOW(p, n) ((void)(p), (void)(n))
#endif

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
#undef MIN /* sys/param.h of macOS and the BSDs has them */
#undef MAX
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* A number of options: its default where it is 0, and 0 where it is POLAR_OFF. */
static int option_int(int x, int standard) {
    return x == 0 ? standard : x == POLAR_OFF ? 0 : x;
}

static MAYBE_UNUSED double option_number(double x, double standard) {
    const int is_zero = x >= 0 && x <= 0, is_off = x >= POLAR_OFF && x <= POLAR_OFF;
    return is_zero ? standard : is_off ? 0 : x;
}

const char *polar_version(void) {
    return POLAR_VERSION;
}

/* ======================================================================================
 * [err] Status and messages
 *
 * fail() is the only way to make an error, and the place to start reading. The first error wins: what goes wrong while
 * cleaning up does not hide the cause. Messages are formatted here, without the locale and without stdio. Promises: a
 * message is one printable line of UTF-8, whatever a file holds. Uses: nothing.
 * ====================================================================================== */

/* A bounded string under construction; `length` counts what did not fit too. */
typedef struct text_buffer {
    char *at;
    size_t capacity, length;
} text_buffer;

/* Appends n bytes; what does not fit is counted, and the text stays NUL-terminated. */
static void text_put(text_buffer *t, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++, t->length++)
        if (t->length + 1 < t->capacity) t->at[t->length] = s[i];
    if (t->capacity) t->at[MIN(t->length, t->capacity - 1)] = 0;
}

/* Appends an unsigned number in base 10 or 16. */
static void text_put_u64(text_buffer *t, uint64_t v, unsigned base) {
    char digits[24];
    int n = 0;
    do digits[n++] = "0123456789abcdef"[v % base];
    while (v /= base);
    while (n) text_put(t, &digits[--n], 1);
}

static void text_put_i64(text_buffer *t, int64_t v) {
    if (v < 0) text_put(t, "-", 1);
    text_put_u64(t, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 10);
}

/* The subset of printf that messages need: %s %.*s %c %d %u %x %zu %lld %llu %%. */
static void text_vformat(text_buffer *t, const char *format, va_list args) {
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

/* Appends formatted text, see text_vformat. */
static PRINTF_LIKE(2, 3) void text_format(text_buffer *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    text_vformat(t, format, args);
    va_end(args);
}

/* Bytes of the UTF-8 character that starts with `lead`; 0 if none does. */
static size_t uni_length(uint8_t lead) {
    return lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

/* Are the n bytes, not more than their lead asks for, the start of a well-formed character? After E0, ED, F0
 * and F4 the second byte has a narrower range: no overlong forms, no surrogates, nothing above 10FFFF. */
static int uni_well_formed(const uint8_t *s, size_t n) {
    if (n > 1 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
                  (s[0] == 0xf4 && s[1] > 0x8f)))
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return 1;
}

/* Files may hold anything in their names; a message stays one printable line of UTF-8. */
static void text_clean(char *s) {
    size_t n = strlen(s);
    for (size_t i = 0, length; i < n; i += MAX(length, 1)) {
        length = uni_length((uint8_t)s[i]);
        if (length > n - i || !uni_well_formed((const uint8_t *)s + i, length)) length = 0;
        if (!length || (uint8_t)s[i] < 32 || s[i] == 127) s[i] = '?';
    }
}

/* Makes an error, unless the record holds one already, and returns `status`: callers say return fail(...). `e` may
 * be NULL. */
static PRINTF_LIKE(3, 4) polar_status fail(polar_error *e, polar_status status, const char *format, ...) {
    if (e && e->status == POLAR_OK) {
        text_buffer t = {e->message, sizeof e->message, 0};
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
 * Sizes that contain a number from outside go through mul_size and add_size. An object is one block, whose parts are
 * placed by a layout: the same function runs twice, to measure and to place. What grows is a buf. Start reading at
 * mem_alloc and layout_place. Promises: no size overflows; a failed allocation leaves everything as it was.
 * Uses: [err].
 * ====================================================================================== */

static void *mem_malloc(void *user, size_t size) {
    (void)user;
#ifdef POLAR_NO_MALLOC
    (void)size;
    return NULL;
#else
    return malloc(size);
#endif
}

static void mem_malloc_free(void *user, void *ptr, size_t size) {
    (void)user, (void)size;
#ifdef POLAR_NO_MALLOC
    (void)ptr;
#else
    free(ptr);
#endif
}

/* The caller's allocator, or malloc and free. */
static polar_allocator mem_allocator(const polar_allocator *a) {
    const polar_allocator standard = {mem_malloc, mem_malloc_free, NULL};
    return a && a->alloc && a->free ? *a : standard;
}

/* NULL and an error without memory. Whoever allocates keeps the size, since mem_free wants it back. */
static void *mem_alloc(const polar_allocator *a, size_t size, polar_error *e) {
    void *p = a->alloc(a->user, size ? size : 1);
    if (!p) fail(e, POLAR_MEMORY, "out of memory: %zu bytes were refused", size);
    return p;
}

/* The same, all bytes 0: how objects begin. */
static void *mem_zeros(const polar_allocator *a, size_t size, polar_error *e) {
    void *p = mem_alloc(a, size, e);
    if (p) memset(p, 0, size);
    return p;
}

/* p may be NULL. */
static void mem_free(const polar_allocator *a, void *p, size_t size) {
    if (!p) return;
    ASAN_ALLOW(p, size); /* the allocator may hand these bytes out again */
    a->free(a->user, p, size ? size : 1);
}

/* *r = a * b and *r = a + b; 0 if that overflows. */
static int mul_size(size_t *r, size_t a, size_t b) {
    if (b && a > SIZE_MAX / b) return 0;
    *r = a * b;
    return 1;
}

/* The same for a sum. */
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

/* a * b and a + b, and SIZE_MAX where that is more than a size_t holds: no layout has room for it. */
static size_t size_of(size_t a, size_t b) {
    size_t n;
    return mul_size(&n, a, b) ? n : SIZE_MAX;
}

static size_t size_sum(size_t a, size_t b) {
    size_t n;
    return add_size(&n, a, b) ? n : SIZE_MAX;
}

/* Places arrays one after the other in a block. With base NULL it only measures. Under the address sanitizer nothing
 * may touch the bytes between them. */
typedef struct layout {
    uint8_t *base; /* aligned to LAYOUT_ALIGN by layout_begin */
    size_t used;
    int overflow;
} layout;

enum { LAYOUT_ALIGN = 64 }; /* a cache line */
#ifdef POLAR_ASAN
enum { LAYOUT_GAP = LAYOUT_ALIGN };
#else
enum { LAYOUT_GAP = 0 };
#endif

/* Begins a walk over the arrays of an object: without a block it measures; a block, which has layout_bytes of such a
 * walk, is where the second walk places them. */
static layout layout_begin(void *block) {
    layout l = {NULL, 0, 0};
    if (block) l.base = (uint8_t *)block + (LAYOUT_ALIGN - (uintptr_t)block % LAYOUT_ALIGN) % LAYOUT_ALIGN;
    return l;
}

/* The place of the next array, NULL while the layout only measures or after an overflow. */
static void *layout_place(layout *l, size_t count, size_t element) {
    size_t at = l->used, bytes, whole;
    if (!mul_size(&bytes, count, element) || !add_size(&whole, bytes, LAYOUT_GAP + LAYOUT_ALIGN - 1) ||
        !add_size(&l->used, at, whole / LAYOUT_ALIGN * LAYOUT_ALIGN))
        l->overflow = 1;
    if (!l->base || l->overflow) return NULL;
    ASAN_ALLOW(l->base + at, bytes);
    ASAN_FORBID(l->base + at + bytes, l->used - at - bytes);
    return l->base + at;
}

/* Bytes to allocate for a measured layout; 0 if it overflowed. */
static size_t layout_bytes(const layout *l) {
    size_t n;
    return !l->overflow && add_size(&n, l->used, LAYOUT_ALIGN) ? n : 0;
}

/* FNV-1a, for hash tables. */
static MAYBE_UNUSED uint64_t mem_hash(const void *p, size_t n) {
    const uint8_t *b = p;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

/* Bytes under construction. When memory runs out it stays as it is and `failed` is set, so writers check once,
 * at the end. */
typedef struct buf {
    const polar_allocator *allocator;
    char *at;
    size_t length, capacity;
    int failed;
} buf;

/* Room for n more bytes behind the others, not yet counted in `length`; NULL without memory. */
static char *buf_room(buf *b, size_t n) {
    void *at = b->at;
    size_t need;
    if (b->failed || !add_size(&need, b->length, n) || !mem_grow(b->allocator, &at, &b->capacity, need, 1, NULL)) {
        b->failed = 1;
        return NULL;
    }
    b->at = at;
    return b->at ? b->at + b->length : NULL;
}

/* Appends n bytes, or sets `failed`. */
static void buf_put(buf *b, const void *bytes, size_t n) {
    char *p = n ? buf_room(b, n) : NULL;
    if (!p) return;
    memcpy(p, bytes, n);
    b->length += n;
}

/* Frees the bytes; the buf is empty then and can be used again. */
static void buf_free(buf *b) {
    mem_free(b->allocator, b->at, b->capacity);
    b->at = NULL;
    b->length = b->capacity = 0;
}

/* Adds a line to a text of notes, which stays NUL-terminated. */
static PRINTF_LIKE(2, 3) void buf_note(buf *b, const char *format, ...) {
    char line[480];
    text_buffer t = {line, sizeof line, 0};
    va_list args;
    va_start(args, format);
    text_vformat(&t, format, args);
    va_end(args);
    text_clean(line);
    if (!buf_room(b, strlen(line) + 2)) return;
    buf_put(b, line, strlen(line));
    buf_put(b, "\n", 2);
    b->length--;
}

/* ======================================================================================
 * [num] Exact arithmetic
 *
 * What has to give the same bits everywhere and is not one IEEE operation: fused multiply-add, half floats, exp, log,
 * pow, sine and cosine, random numbers; little-endian numbers; decimal numbers in text, written without the locale.
 * Start reading at fma32 and exp32, on which all others rest. Uses: [err].
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

static void wr_f32s(uint8_t *p, const float *x, int n) {
    for (int i = 0; i < n; i++) wr_u32(p + 4 * i, f32_bits(x[i]));
}

/* a*b + c, rounded once. Without the instruction: the product of two floats is exact in double, and rounding the sum to
 * float again is wrong only where it is halfway between floats, its last 29 bits 1 0 ... 0, or below the normal ones,
 * whose halves lie elsewhere. There it is made odd if it is inexact, and the second rounding is the only one. */
static float fma32(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__ARM_FEATURE_FMA) || defined(__riscv_flen) || \
    defined(__s390x__)
    return __builtin_fmaf(a, b, c);
#else
    double p = (double)a * (double)b, q = (double)c, s = p + q, t, err;
    uint64_t u = f64_bits(s);
    if ((u & 0x1fffffff) != 0x10000000 && (u >> 52 & 2047) > 1023 - 127) return (float)s;
    t = s - p, err = (p - (s - t)) + (q - t);
    if (err != 0 && err - err == 0) { /* inexact, and not infinite or NaN */
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
 * added to something goes through mul64, or gcc would fuse it on some targets and not on others. WebAssembly has
 * nothing to fuse it with; there clang 14 moves a volatile load behind the next store (-O2 -msimd128, x and y unknown:
 * d[0] += mul64(x, 1), d[1] += mul64(y, 1) adds y to both). */
static double mul64(double a, double b) {
#ifdef __wasm__
    return a * b;
#else
    volatile double p = a * b;
    return p;
#endif
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

/* The next 64 random bits; moves *state on (SplitMix64). The library's only source of randomness, always seeded by the
 * caller. */
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

/* --- decimal numbers, for texts about files --- */

/* x 10^power, in steps of at most 10^22: so far powers of ten are exact. */
static double num_scaled(double x, int power) {
    while (power) {
        const int step = MAX(-22, MIN(22, power));
        double factor = 1;
        for (int i = 0; i < MAX(step, -step); i++) factor *= 10;
        x = step > 0 ? mul64(x, factor) : x / factor;
        power -= step;
    }
    return x;
}

/* m 10^power in decimal: plain between 1e-4 and 1e16, else with an exponent. */
static void text_put_decimal(text_buffer *t, uint64_t m, int power) {
    char digits[24];
    text_buffer d = {digits, sizeof digits, 0};
    int n, exponent;
    text_put_u64(&d, m, 10);
    n = (int)d.length;
    exponent = n - 1 + power;
    while (n > 1 && digits[n - 1] == '0') n--;
    if (exponent < -4 || exponent >= 16) {
        text_put(t, digits, 1);
        if (n > 1) text_put(t, ".", 1);
        text_put(t, digits + 1, (size_t)n - 1);
        text_format(t, "e%d", exponent);
    } else if (exponent < 0) {
        text_put(t, "0.0000", (size_t)(1 - exponent));
        text_put(t, digits, (size_t)n);
    } else {
        for (int i = 0; i < MAX(n, exponent + 1); i++) {
            if (i == exponent + 1) text_put(t, ".", 1);
            text_put(t, i < n ? digits + i : "0", 1);
        }
    }
}

/* A float with the fewest digits that read back as the same; a double likewise, but with 15 digits at most. */
static void text_put_number(text_buffer *t, double x, int is_float) {
    const int negative = (int)(f64_bits(x) >> 63), most = is_float ? 9 : 15;
    double size = negative ? -x : x, m = 0;
    int exponent = 0, power = 0;
    if (!(x - x == 0)) {
        text_format(t, "%s", size > 0 ? negative ? "-inf" : "inf" : "nan");
        return;
    }
    if (negative) text_put(t, "-", 1);
    while (size > 0 && num_scaled(size, -exponent) >= 10) exponent++;
    while (size > 0 && num_scaled(size, -exponent) < 1) exponent--;
    for (int digits = 1; digits <= most; digits++) {
        double back;
        power = exponent + 1 - digits;
        m = (double)(uint64_t)(num_scaled(size, -power) + 0.5);
        back = num_scaled(m, power);
        if (f64_bits(is_float ? (double)(float)back : back) == f64_bits(size)) break;
    }
    text_put_decimal(t, (uint64_t)m, power);
}

/* ======================================================================================
 * [thread] One primitive: run n tasks
 *
 * Tasks write disjoint results, so their order cannot matter. The pool publishes work as the number of tasks that
 * nobody took yet: taking one is a compare-and-swap, and a thread that wakes up late cannot take part in work that is
 * over. Start reading at parallel_for, which everything else calls, then pool_run and pool_work. Promises: results
 * never depend on the number of threads. Uses: [err] [mem].
 * ====================================================================================== */

#if !defined(__GNUC__) && !defined(_MSC_VER) && !defined(POLAR_NO_THREADS)
#define POLAR_NO_THREADS 1 /* no atomic operations that we know of */
#endif

/* Runs task(context, i, worker) for i in [0, n) on a runner; a single task right here. */
static void parallel_for(const polar_runner *r, int n, polar_task task, void *context) {
    if (n == 1) task(context, 0, 0);
    else if (n > 1) r->run(r->user, n, task, context);
}

#ifdef POLAR_NO_THREADS

enum { POOL_MAX = 1 };

struct polar_pool {
    polar_allocator allocator;
    int n_threads;
};

int polar_cpu_count(void) {
    return 1;
}

/* Bytes of a pool, as polar_session_bytes counts them. */
static size_t pool_bytes(int n_threads) {
    (void)n_threads;
    return sizeof(polar_pool);
}

static void pool_start(polar_pool *p) {
    (void)p;
}

static void pool_stop(polar_pool *p) {
    (void)p;
}

static void pool_run(void *user, int n, polar_task task, void *context) {
    (void)user;
    for (int i = 0; i < n; i++) task(context, i, 0);
}

#else

/* Of 32 bits: wider ones are calls of another library on many 32-bit processors. */
#ifdef _MSC_VER
typedef volatile LONG atomic_int32;
#define atomic_load(p) InterlockedCompareExchange(p, 0, 0)
#define atomic_store(p, v) InterlockedExchange(p, v)
#define atomic_add(p, v) InterlockedExchangeAdd(p, v)
#define atomic_swap_if(p, expected, v) (InterlockedCompareExchange(p, v, expected) == (expected))
#else
typedef int32_t atomic_int32;
#define atomic_load(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define atomic_store(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define atomic_add(p, v) __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST)
static int atomic_swap_if(atomic_int32 *p, int32_t expected, int32_t v) {
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

/* Tells the processor that this thread is waiting. */
static void thread_pause(void) {
#if defined(POLAR_X86)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ __volatile__("yield");
#endif
}

/* How many bits are 1. */
#if defined(_WIN32) || defined(__linux__)
static int bits_set(uintptr_t mask) {
    int n = 0;
    for (; mask; mask &= mask - 1) n++;
    return n;
}
#endif

int polar_cpu_count(void) {
#if defined(_WIN32)
    SYSTEM_INFO info;
    DWORD_PTR mine = 0, all; /* mine is 0 in a process of several groups of processors */
    if (GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) && mine) return bits_set(mine);
    GetSystemInfo(&info);
    return info.dwNumberOfProcessors > 0 ? (int)info.dwNumberOfProcessors : 1;
#else
    long n = 0;
#ifdef __linux__
    unsigned long mask[1024 / sizeof(long)]; /* a bit for each of 8192 cores */
    const long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
    for (long i = 0; i < bytes / (long)sizeof *mask; i++) n += bits_set(mask[i]);
#endif
#ifdef _SC_NPROCESSORS_ONLN
    if (n <= 0) n = sysconf(_SC_NPROCESSORS_ONLN);
#endif
    return n > 0 && n <= 8192 ? (int)n : 1;
#endif
}

enum { POOL_MAX = 256 };

typedef struct pool_worker {
    struct polar_pool *pool;
    int worker;
    thread_handle handle;
} pool_worker;

struct polar_pool {
    polar_allocator allocator;
    int n_threads, n_started;
    atomic_int32 left; /* tasks of the present work that nobody has taken; its last fields are set before it */
    atomic_int32 done; /* tasks finished */
    atomic_int32 busy, sleepers, stop;
    polar_task task;
    void *context;
    int n;
    thread_lock lock; /* guards sleeping only */
    thread_cond wake;
    pool_worker workers[]; /* n_threads - 1 */
};

/* Takes and does tasks until none is left. A thread that looked at `left` during one piece of work and takes from the
 * next one, which happens to have as many left, does a task of the latter: it reads what to do after taking it. */
static void pool_work(polar_pool *p, int worker) {
    int32_t left;
    while ((left = atomic_load(&p->left)) > 0) {
        if (!atomic_swap_if(&p->left, left, left - 1)) continue;
        p->task(p->context, p->n - left, worker);
        atomic_add(&p->done, 1);
    }
}

/* Waits a moment: pauses first, then gives the core away. 0 when it is time to sleep. */
static int pool_spin(int round) {
    if (round < 2000) thread_pause();
    else thread_yield();
    return round < 6000;
}

/* Sleeps until there is work or the pool ends. */
static void pool_sleep(polar_pool *p) {
    lock_take(&p->lock);
    atomic_add(&p->sleepers, 1);
    while (!atomic_load(&p->left) && !atomic_load(&p->stop)) cond_wait(&p->wake, &p->lock);
    atomic_add(&p->sleepers, -1);
    lock_release(&p->lock);
}

/* The life of a thread: works, spins for a while when there is nothing to do, sleeps. */
static void pool_main(pool_worker *w) {
    polar_pool *p = w->pool;
    int round = 0;
    while (!atomic_load(&p->stop)) {
        if (atomic_load(&p->left)) {
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
    if (p->n_threads < 2 || n < 2 || !atomic_swap_if(&p->busy, 0, 1)) {
        for (int i = 0; i < n; i++) task(context, i, 0);
        return;
    }
    p->task = task;
    p->context = context;
    p->n = n;
    atomic_store(&p->done, 0);
    atomic_store(&p->left, n);
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

/* Where the system gives fewer threads than asked for, the work goes on with those. */
static void pool_start(polar_pool *p) {
    lock_init(&p->lock);
    cond_init(&p->wake);
    for (int i = 0; i + 1 < p->n_threads; i++) {
        p->workers[i].pool = p;
        p->workers[i].worker = i + 1;
        if (!thread_start(&p->workers[i])) break;
        p->n_started++;
    }
}

static void pool_stop(polar_pool *p) {
    lock_take(&p->lock);
    atomic_store(&p->stop, 1);
    cond_wake_all(&p->wake);
    lock_release(&p->lock);
    for (int i = 0; i < p->n_started; i++) thread_join(&p->workers[i]);
    lock_free(&p->lock);
    cond_free(&p->wake);
}
#endif

polar_status polar_pool_create(polar_pool **out, int n_threads, const polar_allocator *allocator, polar_error *error) {
    polar_allocator a = mem_allocator(allocator);
    polar_pool *p;
    err_clear(error);
    if (!out) return fail(error, POLAR_ARGUMENT, "polar_pool_create: out is NULL");
    *out = NULL;
    if (n_threads <= 0) n_threads = polar_cpu_count();
    if (n_threads > POOL_MAX) n_threads = POOL_MAX;
    if (!(p = mem_zeros(&a, pool_bytes(n_threads), error))) return POLAR_MEMORY;
    p->allocator = a;
    p->n_threads = n_threads;
    pool_start(p);
    *out = p;
    return POLAR_OK;
}

void polar_pool_free(polar_pool *pool) {
    polar_allocator a;
    if (!pool) return;
    pool_stop(pool);
    a = pool->allocator;
    mem_free(&a, pool, pool_bytes(pool->n_threads));
}

polar_runner polar_pool_runner(polar_pool *pool) {
    const polar_runner r = {pool_run, pool, pool->n_threads};
    return r;
}

/* ======================================================================================
 * [gguf] GGUF files: reading and writing
 *
 * Parses header, metadata and tensor directory out of byte ranges it does not trust: a mapped file, a file that was
 * read, the caller's memory. Tensor data stays where it is. Promises: no read outside the range, no allocation larger
 * than in proportion to it, time n log n in its size; a file that opens has unique keys and tensors of known types that
 * lie inside it.
 *
 * Start reading at gguf_parse, which goes through a file once; gguf_open and gguf_open_memory find the bytes for it,
 * gguf_get_* hand out values, and gguf_out_* write what this library makes. Uses: [err] [mem] [num].
 * ====================================================================================== */

/* Everything is little-endian and unaligned; a string is a u64 length and bytes without a NUL:
 *
 *     "GGUF" | u32 version | u64 tensors | u64 pairs
 *     pair   | string key | u32 type | value                        as many as `pairs`
 *              value of an array: u32 element type | u64 count | elements
 *     tensor | string name | u32 dims | u64 dim[dims] | u32 type | u64 offset
 *     padding to a multiple of general.alignment (32), then the data, to which offsets are relative */
enum {
    GGUF_HEADER_BYTES = 24,
    GGUF_MIN_PAIR_BYTES = 13,   /* an empty key and a u8: bounds the number of pairs by the bytes there are */
    GGUF_MIN_TENSOR_BYTES = 24, /* an empty name and no dims */
    GGUF_MAX_NAME = 65535,
    GGUF_ALIGNMENT = 32,
    GGUF_MAX_PARTS = 1000
};

/* Types of metadata values. */
static const struct {
    const char *name;
    uint8_t bytes; /* 0: not fixed */
} gguf_values[POLAR_GGUF_N_VALUE_TYPES] = {{"u8", 1},     {"i8", 1},    {"u16", 2}, {"i16", 2}, {"u32", 4},
                                           {"i32", 4},    {"f32", 4},   {"bool", 1}, {"string", 0},
                                           {"array", 0},  {"u64", 8},   {"i64", 8}, {"f64", 8}};

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
const char *polar_gguf_type_name(int type) {
    return type >= 0 && type < COUNT(gguf_types) ? gguf_types[type].name : NULL;
}

int polar_gguf_type_find(const char *name) {
    for (int i = 0; i < COUNT(gguf_types); i++)
        if (gguf_types[i].name && !strcmp(gguf_types[i].name, name)) return i;
    return -1;
}

size_t polar_gguf_row_bytes(int type, int64_t n) {
    size_t bytes;
    if (!polar_gguf_type_name(type) || n < 0 || n % gguf_types[type].block || (uint64_t)n > SIZE_MAX) return 0;
    return mul_size(&bytes, (size_t)n / gguf_types[type].block, gguf_types[type].bytes) ? bytes : 0;
}

/* Names in order, to find them: a hash table could be made to collide by a hostile file. [tok] has such a list of the
 * tokens that a text may name. */
typedef struct gguf_entry {
    const char *name;
    size_t length, index;
    int used; /* somebody asked for it: set by [model] */
} gguf_entry;

/* A byte range and where it came from. */
typedef struct gguf_map {
    const uint8_t *data;
    size_t size;
    enum { GGUF_BORROWED, GGUF_ALLOCATED, GGUF_MAPPED } origin;
} gguf_map;

/* An open file, or the files of a split model: metadata of the first, tensors of all. */
typedef struct polar_gguf {
    polar_allocator allocator;
    char *name; /* last component of the path, or "memory": for messages */
    size_t name_bytes;
    uint32_t version;
    gguf_map *maps;
    size_t n_maps, maps_capacity;
    polar_gguf_pair *kv;
    size_t n_kv;
    gguf_entry *kv_index;
    polar_gguf_tensor *tensors;
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

/* The next n bytes; NULL and an error if there are fewer. */
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

/* The type of a value or of an array's elements; kv names the pair in the message. */
static polar_gguf_value_type gguf_take_type(gguf_reader *r, const polar_gguf_pair *kv) {
    uint32_t type = gguf_take_u32(r);
    if (type < POLAR_GGUF_N_VALUE_TYPES) return (polar_gguf_value_type)type;
    r->status = fail(r->error, POLAR_FORMAT, "%s: %.*s has value type %u, expected 0 to %d", r->file,
                     (int)MIN(kv->key_length, 100), kv->key, (unsigned)type, POLAR_GGUF_N_VALUE_TYPES - 1);
    return POLAR_GGUF_U8;
}

/* One metadata pair. Strings are walked through, so that later readers can trust their lengths. */
static void gguf_read_pair(gguf_reader *r, polar_gguf_pair *kv) {
    uint64_t count = 1;
    size_t start;
    gguf_take_name(r, &kv->key, &kv->key_length);
    if (r->status != POLAR_OK) return;
    kv->type = gguf_take_type(r, kv);
    if (kv->type == POLAR_GGUF_ARRAY) {
        kv->is_array = 1;
        kv->type = gguf_take_type(r, kv);
        count = gguf_take_u64(r);
    }
    if (kv->type == POLAR_GGUF_ARRAY) {
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
    kv->data = r->data + start;
    kv->bytes = r->at - start;
}

/* Bytes of a tensor; 0 and an error if its type and shape are no tensor. */
static uint64_t gguf_tensor_bytes(gguf_reader *r, const polar_gguf_tensor *t) {
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
static void gguf_read_tensor(gguf_reader *r, polar_gguf_tensor *t, uint64_t *offset) {
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
    if (!polar_gguf_type_name((int)MIN(type, INT_MAX))) {
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

/* The order of names, as memcmp has it; the beginning of a name comes before it. */
static int gguf_compare(const char *a, size_t a_length, const char *b, size_t b_length) {
    int c = memcmp(a, b, MIN(a_length, b_length));
    return c ? c : a_length < b_length ? -1 : a_length > b_length;
}

/* The order of entries is that of their names; of equal ones the first comes first. */
static int gguf_entry_compare(const gguf_entry *a, const gguf_entry *b) {
    const int c = gguf_compare(a->name, a->length, b->name, b->length);
    return c ? c : a->index < b->index ? -1 : a->index > b->index;
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
        if (!gguf_compare(entries[i - 1].name, entries[i - 1].length, entries[i].name, entries[i].length))
            return &entries[i];
    return NULL;
}

/* The entry with that name, by bisection; NULL if there is none. */
static gguf_entry *gguf_search(gguf_entry *entries, size_t n, const char *name, size_t length) {
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

/* Sorts names; one that occurs twice is an error, in which `what` says what has the name. */
static polar_status gguf_sort_names(const gguf_file *g, gguf_entry *entries, size_t n, const char *what,
                                    polar_error *e) {
    const gguf_entry *twice = gguf_sort(entries, n);
    if (!twice) return POLAR_OK;
    return fail(e, POLAR_FORMAT, "%s: the %s %.*s occurs twice", g->name, what, (int)MIN(twice->length, 100),
                twice->name);
}

/* The index that gguf_find uses. */
static polar_status gguf_index_keys(gguf_file *g, polar_error *e) {
    if (!(g->kv_index = mem_alloc(&g->allocator, g->n_kv * sizeof *g->kv_index, e))) return POLAR_MEMORY;
    for (size_t i = 0; i < g->n_kv; i++)
        g->kv_index[i] = (gguf_entry){g->kv[i].key, g->kv[i].key_length, i, 0};
    return gguf_sort_names(g, g->kv_index, g->n_kv, "key", e);
}

/* That of gguf_find_tensor. */
static polar_status gguf_index_tensors(gguf_file *g, polar_error *e) {
    if (!(g->tensor_index = mem_alloc(&g->allocator, g->n_tensors * sizeof *g->tensor_index, e))) return POLAR_MEMORY;
    for (size_t i = 0; i < g->n_tensors; i++)
        g->tensor_index[i] = (gguf_entry){g->tensors[i].name, g->tensors[i].name_length, i, 0};
    return gguf_sort_names(g, g->tensor_index, g->n_tensors, "tensor", e);
}

/* NULL if there is none. */
static const polar_gguf_pair *gguf_find(const gguf_file *g, const char *key) {
    const gguf_entry *entry = gguf_search(g->kv_index, g->n_kv, key, strlen(key));
    return entry ? &g->kv[entry->index] : NULL;
}

/* NULL if there is none. */
static const polar_gguf_tensor *gguf_find_tensor(const gguf_file *g, const char *name) {
    const gguf_entry *entry = gguf_search(g->tensor_index, g->n_tensors, name, strlen(name));
    return entry ? &g->tensors[entry->index] : NULL;
}

/* --- metadata values
 *
 * The getters leave *out, which holds the default, as it is when an optional key is absent. */

enum { GGUF_OPTIONAL, GGUF_REQUIRED };

/* What a getter returns for a key that is not there. */
static polar_status gguf_absent(const gguf_file *g, const char *key, int required, polar_error *e) {
    return required ? fail(e, POLAR_FORMAT, "%s: the key %s is missing", g->name, key) : POLAR_OK;
}

/* The error for a value of another type than `expected` says. */
static polar_status gguf_wrong_type(const gguf_file *g, const polar_gguf_pair *kv, const char *expected,
                                    polar_error *e) {
    return fail(e, POLAR_FORMAT, "%s: %.*s is %s%s, expected %s", g->name, (int)MIN(kv->key_length, 100), kv->key,
                kv->is_array ? "an array of " : "of type ", gguf_values[kv->type].name, expected);
}

/* Element i of an integer value. 0 if it is no integer or larger than int64_t holds. */
static int gguf_int_at(const polar_gguf_pair *kv, size_t i, int64_t *out) {
    const uint8_t *p = kv->data + i * gguf_values[kv->type].bytes;
    switch (kv->type) {
    case POLAR_GGUF_U8: *out = *p; return 1;
    case POLAR_GGUF_I8: *out = (int8_t)*p; return 1;
    case POLAR_GGUF_U16: *out = rd_u16(p); return 1;
    case POLAR_GGUF_I16: *out = (int16_t)rd_u16(p); return 1;
    case POLAR_GGUF_U32: *out = rd_u32(p); return 1;
    case POLAR_GGUF_I32: *out = (int32_t)rd_u32(p); return 1;
    case POLAR_GGUF_I64: *out = (int64_t)rd_u64(p); return 1;
    case POLAR_GGUF_U64: *out = (int64_t)rd_u64(p); return *out >= 0;
    default: return 0;
    }
}

/* Whether gguf_int_at reads the elements. */
static int gguf_is_int(const polar_gguf_pair *kv) {
    return kv->type != POLAR_GGUF_F32 && kv->type != POLAR_GGUF_F64 && kv->type != POLAR_GGUF_BOOL &&
           kv->type != POLAR_GGUF_STRING;
}

/* Element i of a number of any type. 0 if it is none. */
static int gguf_float_at(const polar_gguf_pair *kv, size_t i, double *out) {
    const uint8_t *p = kv->data + i * gguf_values[kv->type].bytes;
    int64_t n;
    if (kv->type == POLAR_GGUF_F32) *out = rd_f32(p);
    else if (kv->type == POLAR_GGUF_F64) *out = bits_f64(rd_u64(p));
    else if (gguf_int_at(kv, i, &n)) *out = (double)n;
    else return 0;
    return 1;
}

/* Walks the strings of an array, or a single one:
 *     gguf_strings it = gguf_strings_begin(kv);
 *     while (gguf_strings_next(&it, &s, &length)) ... */
typedef struct gguf_strings {
    const uint8_t *at;
    size_t left;
} gguf_strings;

/* At the first string. */
static gguf_strings gguf_strings_begin(const polar_gguf_pair *kv) {
    gguf_strings it = {kv->data, kv->count};
    return it;
}

/* The next string, which is not NUL-terminated; 0 at the end. */
static int gguf_strings_next(gguf_strings *it, const char **s, size_t *length) {
    if (!it->left) return 0;
    it->left--;
    *length = (size_t)rd_u64(it->at);
    *s = (const char *)it->at + 8;
    it->at += 8 + *length;
    return 1;
}

/* Value or element as text. */
static void gguf_put_text(text_buffer *t, const polar_gguf_pair *kv, size_t element) {
    int64_t n;
    double x;
    if (element >= kv->count) return;
    if (kv->type == POLAR_GGUF_STRING) {
        const char *s = "";
        size_t length = 0;
        gguf_strings it = gguf_strings_begin(kv);
        while (gguf_strings_next(&it, &s, &length) && element--) continue;
        text_put(t, s, length);
    } else if (kv->type == POLAR_GGUF_BOOL) text_format(t, kv->data[element] ? "true" : "false");
    else if (kv->type == POLAR_GGUF_F32) text_put_number(t, (double)rd_f32(kv->data + 4 * element), 1);
    else if (kv->type == POLAR_GGUF_U64) text_put_u64(t, rd_u64(kv->data + 8 * element), 10);
    else if (gguf_int_at(kv, element, &n)) text_put_i64(t, n);
    else if (gguf_float_at(kv, element, &x)) text_put_number(t, x, 0);
}

/* A value that counts for the whole model is a number, or an array of one for each layer, all equal. */
static polar_status gguf_check_one(const gguf_file *g, const polar_gguf_pair *kv, const char *expected,
                                   polar_error *e) {
    const size_t width = gguf_values[kv->type].bytes;
    if (!width || !kv->count) return gguf_wrong_type(g, kv, expected, e);
    for (size_t i = 1; i < kv->count; i++)
        if (memcmp(kv->data, kv->data + i * width, width))
            return fail(e, POLAR_UNSUPPORTED, "%s: %.*s differs between layers, expected the same for all", g->name,
                        (int)MIN(kv->key_length, 100), kv->key);
    return POLAR_OK;
}

/* An integer within [min, max]; one that is out of range is refused, not cut. */
static polar_status gguf_get_int(const gguf_file *g, const char *key, int *out, int min, int max, int required,
                                 polar_error *e) {
    const polar_gguf_pair *kv = gguf_find(g, key);
    polar_status status;
    int64_t n;
    if (!kv) return gguf_absent(g, key, required, e);
    if (!gguf_is_int(kv)) return gguf_wrong_type(g, kv, "an integer", e);
    if ((status = gguf_check_one(g, kv, "an integer", e))) return status;
    if (!gguf_int_at(kv, 0, &n) || n < min || n > max) {
        char found[24];
        text_buffer t = {found, sizeof found, 0};
        gguf_put_text(&t, kv, 0);
        return fail(e, POLAR_FORMAT, "%s: %s is %s, expected %d to %d", g->name, key, found, min, max);
    }
    *out = (int)n;
    return POLAR_OK;
}

/* A number within [min, max]; integers count as numbers. */
static polar_status gguf_get_float(const gguf_file *g, const char *key, double *out, double min, double max,
                                   int required, polar_error *e) {
    const polar_gguf_pair *kv = gguf_find(g, key);
    polar_status status;
    double x;
    if (!kv) return gguf_absent(g, key, required, e);
    if ((status = gguf_check_one(g, kv, "a number", e))) return status;
    if (!gguf_float_at(kv, 0, &x)) return gguf_wrong_type(g, kv, "a number", e);
    if (!(x >= min && x <= max)) {
        char numbers[96];
        text_buffer t = {numbers, sizeof numbers, 0};
        gguf_put_text(&t, kv, 0);
        text_put(&t, ", expected ", 11);
        text_put_number(&t, min, 0);
        text_put(&t, " to ", 4);
        text_put_number(&t, max, 0);
        return fail(e, POLAR_FORMAT, "%s: %s is %s", g->name, key, numbers);
    }
    *out = x;
    return POLAR_OK;
}

/* A bool, or an integer that is 0 or 1. */
static polar_status gguf_get_bool(const gguf_file *g, const char *key, int *out, int required, polar_error *e) {
    const polar_gguf_pair *kv = gguf_find(g, key);
    int64_t n = -1;
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array || (kv->type != POLAR_GGUF_BOOL && !gguf_is_int(kv))) return gguf_wrong_type(g, kv, "a bool", e);
    if (kv->type == POLAR_GGUF_BOOL) n = kv->data[0];
    else gguf_int_at(kv, 0, &n);
    if (n < 0 || n > 1) return fail(e, POLAR_FORMAT, "%s: %s is %lld, expected 0 or 1", g->name, key, (long long)n);
    *out = (int)n;
    return POLAR_OK;
}

/* A value of 64 bits, as checksums are. */
static polar_status gguf_get_u64(const gguf_file *g, const char *key, uint64_t *out, int required, polar_error *e) {
    const polar_gguf_pair *kv = gguf_find(g, key);
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array || kv->type != POLAR_GGUF_U64) return gguf_wrong_type(g, kv, "a u64", e);
    *out = rd_u64(kv->data);
    return POLAR_OK;
}

/* The string is the file's: any bytes, not NUL-terminated. */
static polar_status gguf_get_str(const gguf_file *g, const char *key, const char **out, size_t *length, int required,
                                 polar_error *e) {
    const polar_gguf_pair *kv = gguf_find(g, key);
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array || kv->type != POLAR_GGUF_STRING) return gguf_wrong_type(g, kv, "a string", e);
    *out = (const char *)kv->data + 8;
    *length = (size_t)rd_u64(kv->data);
    return POLAR_OK;
}

/* An array with elements of the given type, where I32 stands for any integers; *out is NULL if an optional one is
 * absent. Elements are read by gguf_int_at, gguf_float_at, or gguf_strings. */
static polar_status gguf_get_array(const gguf_file *g, const char *key, polar_gguf_value_type type,
                                   const polar_gguf_pair **out, int required, polar_error *e) {
    const polar_gguf_pair *kv = *out = gguf_find(g, key);
    if (!kv) return gguf_absent(g, key, required, e);
    if (kv->is_array && (kv->type == type || (type == POLAR_GGUF_I32 && gguf_is_int(kv)))) return POLAR_OK;
    *out = NULL;
    return fail(e, POLAR_FORMAT, "%s: %s is %s%s, expected an array of %s", g->name, key,
                kv->is_array ? "an array of " : "of type ", gguf_values[kv->type].name, gguf_values[type].name);
}

/* --- files as byte ranges */

#if defined(_WIN32) && !defined(POLAR_NO_STDIO)
enum { GGUF_PATH = 1024 };

/* UTF-8 to the system's UTF-16; 0 with the cause in errno. */
static int gguf_wide(const char *path, wchar_t wide[GGUF_PATH]) {
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, GGUF_PATH)) return 1;
    errno = GetLastError() == ERROR_NO_UNICODE_TRANSLATION ? EILSEQ : ENAMETOOLONG;
    return 0;
}
#endif

#ifndef POLAR_NO_STDIO
/* Opens a file with a UTF-8 path on every system. */
static FILE *gguf_fopen(const char *path, polar_error *e) {
    FILE *f = NULL;
#ifdef _WIN32
    wchar_t wide[GGUF_PATH];
    if (gguf_wide(path, wide)) f = _wfopen(wide, L"rb");
#else
    f = fopen(path, "rb");
#endif
    if (!f) fail(e, POLAR_IO, "%s: %s", path, strerror(errno));
    return f;
}

/* Size of an open file that can be sought in, or -1. Leaves the position at the start. */
static int64_t gguf_file_size(FILE *f) {
    int64_t size;
    if (fgetc(f) == EOF && ferror(f)) return -1; /* a directory */
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

/* Reads a file into one block of the allocator. */
static polar_status gguf_map_read(gguf_map *map, const char *path, const polar_allocator *a, polar_error *e) {
    FILE *f = gguf_fopen(path, e);
    polar_status status = POLAR_OK;
    int64_t size;
    uint8_t *block;
    size_t n;
    if (!f) return POLAR_IO;
    size = gguf_file_size(f);
    if (size < 0 || (uint64_t)size > SIZE_MAX) {
        fclose(f);
        return fail(e, POLAR_IO, "%s: %s", path, size < 0 ? strerror(errno) : "larger than the address space");
    }
    if (!(block = mem_alloc(a, (size_t)size, e))) status = POLAR_MEMORY;
    else if ((n = fread(block, 1, (size_t)size, f)) != (size_t)size)
        status = fail(e, POLAR_IO, "%s: reading stopped after %zu of %lld bytes", path, n, (long long)size);
    fclose(f);
    if (status == POLAR_OK) *map = (gguf_map){block, (size_t)size, GGUF_ALLOCATED};
    else mem_free(a, block, (size_t)size);
    return status;
}

#if defined(POLAR_MMAP_POSIX)
/* Maps a file. Quietly leaves *map empty where only reading can work: a special file, an empty one. */
static polar_status gguf_map_file(gguf_map *map, const char *path, polar_error *e) {
    int fd = open(path, O_RDONLY);
    struct stat info;
    if (fd < 0) return fail(e, POLAR_IO, "%s: %s", path, strerror(errno));
    if (!fstat(fd, &info) && S_ISREG(info.st_mode) && info.st_size > 0 && (uint64_t)info.st_size <= SIZE_MAX) {
        void *p = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p != MAP_FAILED) *map = (gguf_map){p, (size_t)info.st_size, GGUF_MAPPED};
    }
    close(fd);
    return POLAR_OK;
}
#elif defined(POLAR_MMAP_WINDOWS)
/* The cause of a failure that Windows tells, as errno says it. */
static int gguf_windows_errno(void) {
    switch (GetLastError()) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND: return ENOENT;
    case ERROR_ACCESS_DENIED:
    case ERROR_LOCK_VIOLATION:
    case ERROR_SHARING_VIOLATION: return EACCES;
    case ERROR_NOT_ENOUGH_MEMORY: return ENOMEM;
    case ERROR_INVALID_NAME: return EINVAL;
    }
    return EIO;
}

static polar_status gguf_map_file(gguf_map *map, const char *path, polar_error *e) {
    wchar_t wide[GGUF_PATH];
    HANDLE file, mapping;
    LARGE_INTEGER size;
    if (!gguf_wide(path, wide)) return fail(e, POLAR_IO, "%s: %s", path, strerror(errno));
    file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return fail(e, POLAR_IO, "%s: %s", path, strerror(gguf_windows_errno()));
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

/* Gives a byte range back to where it came from. */
static void gguf_unmap(const gguf_map *map, const polar_allocator *a) {
    if (map->origin == GGUF_ALLOCATED) mem_free(a, (void *)(uintptr_t)map->data, map->size);
#if defined(POLAR_MMAP_POSIX)
    if (map->origin == GGUF_MAPPED) munmap((void *)(uintptr_t)map->data, map->size);
#elif defined(POLAR_MMAP_WINDOWS)
    if (map->origin == GGUF_MAPPED) UnmapViewOfFile(map->data);
#endif
}

/* --- opening */

/* Frees everything; a file of zeros is a closed one. */
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
    if ((g->kv = mem_zeros(&g->allocator, (size_t)n_kv * sizeof *g->kv, r->error))) g->n_kv = (size_t)n_kv;
    if ((g->tensors = mem_zeros(&g->allocator, (size_t)n_tensors * sizeof *g->tensors, r->error)))
        g->tensors_capacity = (size_t)n_tensors;
    if (!g->kv || !g->tensors) r->status = POLAR_MEMORY;
}

/* Turns the offsets, kept in `data` relative to the range's start until here, into places inside the data. */
static polar_status gguf_place_tensor(gguf_reader *r, polar_gguf_tensor *t, uint64_t offset, size_t start,
                                      size_t alignment) {
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
        r->status = gguf_place_tensor(r, &g->tensors[i], offset, start, alignment);
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

/* Opens and parses one file, without the index of tensors. */
static polar_status gguf_open_part(gguf_file *g, const char *path, int no_mmap, const polar_allocator *a,
                                   polar_error *e) {
    gguf_map map = {NULL, 0, GGUF_BORROWED};
    polar_status status = gguf_begin(g, path, a, e);
#if defined(POLAR_MMAP_POSIX) || defined(POLAR_MMAP_WINDOWS)
    if (status == POLAR_OK && !no_mmap) status = gguf_map_file(&map, path, e);
#else
    (void)no_mmap;
#endif
    if (status == POLAR_OK && !map.data) status = gguf_map_read(&map, path, &g->allocator, e);
    if (status == POLAR_OK) status = gguf_own(g, &map, e);
    if (status == POLAR_OK) status = gguf_parse(g, &map, e);
    if (status != POLAR_OK) gguf_close(g);
    return status;
}

/* Writes a part number with five digits. */
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
static polar_status gguf_open_others(gguf_file *g, const char *path, int no_mmap, int n_parts, polar_error *e) {
    size_t bytes = strlen(path) + 1;
    char *other = mem_alloc(&g->allocator, bytes, e), *number;
    polar_status status = POLAR_OK;
    int total = -1;
    if (!other) return POLAR_MEMORY;
    memcpy(other, path, bytes);
    if (!(number = gguf_part_number(other, 0, n_parts)))
        status =
            fail(e, POLAR_FORMAT, "%s: is the first of %d parts, expected a name like MODEL-00001-of-%c%c%c%c%c.gguf",
                 g->name, n_parts, '0' + n_parts / 10000, '0' + n_parts / 1000 % 10, '0' + n_parts / 100 % 10,
                 '0' + n_parts / 10 % 10, '0' + n_parts % 10);
    for (int i = 1; i < n_parts && status == POLAR_OK; i++) {
        gguf_file part;
        int found = -1;
        gguf_digits(number, i + 1);
        if ((status = gguf_open_part(&part, other, no_mmap, &g->allocator, e)) != POLAR_OK) break;
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

/* Opens a file, or a split model by its first file. A file that someone truncates while it is mapped ends the process:
 * that is the system's rule. */
static polar_status gguf_open(gguf_file *g, const char *path, int no_mmap, const polar_allocator *a, polar_error *e) {
#ifdef POLAR_NO_STDIO
    (void)no_mmap, (void)a;
    memset(g, 0, sizeof *g);
    fail(e, POLAR_UNSUPPORTED, "%s: this build reads no files (POLAR_NO_STDIO)", path);
    return POLAR_UNSUPPORTED; /* said here, so that compilers see that nobody goes on */
#else
    int n_parts = 1, part = 0;
    polar_status status = gguf_open_part(g, path, no_mmap, a, e);
    if (status != POLAR_OK) return status;
    status = gguf_get_int(g, "split.count", &n_parts, 0, GGUF_MAX_PARTS, GGUF_OPTIONAL, e);
    if (status == POLAR_OK) status = gguf_get_int(g, "split.no", &part, 0, GGUF_MAX_PARTS, GGUF_OPTIONAL, e);
    if (status == POLAR_OK && part)
        status = fail(e, POLAR_ARGUMENT, "%s: is part %d of %d, expected the first", g->name, part + 1, n_parts);
    if (status == POLAR_OK && n_parts > 1) status = gguf_open_others(g, path, no_mmap, n_parts, e);
    if (status == POLAR_OK) status = gguf_index_tensors(g, e);
    if (status != POLAR_OK) gguf_close(g);
    return status;
#endif
}

/* --- looking into a file */

/* What polar_gguf_open and polar_gguf_open_memory have in common: from a path, or from memory if it is NULL. */
static polar_status gguf_open_public(polar_gguf **out, const char *path, const void *data, size_t size,
                                     const polar_allocator *allocator, polar_error *error) {
    polar_allocator a = mem_allocator(allocator);
    polar_gguf *g;
    polar_status status;
    err_clear(error);
    if (!out || (!path && !data)) return fail(error, POLAR_ARGUMENT, "polar_gguf_open: out, path or data is NULL");
    *out = NULL;
    if (!(g = mem_alloc(&a, sizeof *g, error))) return POLAR_MEMORY;
    if (path) status = gguf_open(g, path, 0, &a, error);
    else status = gguf_open_memory(g, data, size, &a, error);
    if (status == POLAR_OK) *out = g;
    else mem_free(&a, g, sizeof *g);
    return status;
}

#ifndef POLAR_NO_STDIO
polar_status polar_gguf_open(polar_gguf **out, const char *path, const polar_allocator *allocator, polar_error *error) {
    return gguf_open_public(out, path, NULL, 0, allocator, error);
}
#endif

polar_status polar_gguf_open_memory(polar_gguf **out, const void *data, size_t size, const polar_allocator *allocator,
                                    polar_error *error) {
    return gguf_open_public(out, NULL, data, size, allocator, error);
}

void polar_gguf_close(polar_gguf *g) {
    polar_allocator a;
    if (!g) return;
    a = g->allocator;
    gguf_close(g);
    mem_free(&a, g, sizeof *g);
}

/* Values are shown as they lie in the file. */
int polar_gguf_get_pair(const polar_gguf *g, int index, polar_gguf_pair *pair) {
    if (index < 0 || (size_t)index >= g->n_kv) return 0;
    *pair = g->kv[index];
    return 1;
}

int polar_gguf_find(const polar_gguf *g, const char *key) {
    const polar_gguf_pair *kv = gguf_find(g, key);
    return kv ? (int)(kv - g->kv) : -1;
}

size_t polar_gguf_text(const polar_gguf *g, int index, size_t element, char *text_at, size_t capacity) {
    text_buffer t = {text_at, capacity, 0};
    text_put(&t, "", 0);
    if (index >= 0 && (size_t)index < g->n_kv) gguf_put_text(&t, &g->kv[index], element);
    return t.length;
}

int polar_gguf_number(const polar_gguf *g, int index, size_t element, double *number) {
    const polar_gguf_pair *kv = index >= 0 && (size_t)index < g->n_kv ? &g->kv[index] : NULL;
    return kv && element < kv->count && gguf_float_at(kv, element, number);
}

int polar_gguf_get_tensor(const polar_gguf *g, int index, polar_gguf_tensor *tensor) {
    if (index < 0 || (size_t)index >= g->n_tensors) return 0;
    *tensor = g->tensors[index];
    return 1;
}

/* --- writing: the bytes of a file, for predictors ---
 *
 * First all metadata, then the tensors of F32 are announced, then their numbers follow in the same order, and
 * gguf_out_end writes the header. What does not fit is only counted. examples/cli/gguf_writer.c writes any kind. */

typedef struct gguf_out {
    uint8_t *at;
    size_t capacity, length;
    uint32_t n_pairs, n_tensors;
    uint64_t offset; /* of the next tensor that is announced */
} gguf_out;

/* Appends n bytes; NULL stands for zeros. */
static void gguf_out_put(gguf_out *o, const void *bytes, size_t n) {
    if (o->length <= o->capacity && n <= o->capacity - o->length) {
        if (bytes && n) memcpy(o->at + o->length, bytes, n);
        else memset(o->at + o->length, 0, n);
    }
    o->length += n;
}

/* A file that is to be written to `at`, NULL to measure it. */
static gguf_out gguf_out_begin(void *at, size_t capacity) {
    gguf_out o = {at, at ? capacity : 0, GGUF_HEADER_BYTES, 0, 0, 0};
    return o;
}

/* Little-endian, as files have it. */
static void gguf_out_u32(gguf_out *o, uint32_t v) {
    uint8_t bytes[4];
    wr_u32(bytes, v);
    gguf_out_put(o, bytes, 4);
}

static void gguf_out_u64(gguf_out *o, uint64_t v) {
    uint8_t bytes[8];
    wr_u64(bytes, v);
    gguf_out_put(o, bytes, 8);
}

/* A string as files have it. */
static void gguf_out_string(gguf_out *o, const char *s) {
    gguf_out_u64(o, strlen(s));
    gguf_out_put(o, s, strlen(s));
}

/* Begins a pair; the caller puts its value behind it. */
static void gguf_out_key(gguf_out *o, const char *key, polar_gguf_value_type type) {
    gguf_out_string(o, key);
    gguf_out_u32(o, (uint32_t)type);
    o->n_pairs++;
}

/* A pair whose value is a text. */
static void gguf_out_text(gguf_out *o, const char *key, const char *s) {
    gguf_out_key(o, key, POLAR_GGUF_STRING);
    gguf_out_string(o, s);
}

/* A number of type U32 (an int at `value`), U64 or F64. */
static void gguf_out_number(gguf_out *o, const char *key, polar_gguf_value_type type, const void *value) {
    uint32_t v32;
    uint64_t v64;
    gguf_out_key(o, key, type);
    if (type == POLAR_GGUF_U32) {
        memcpy(&v32, value, sizeof v32);
        gguf_out_u32(o, v32);
    } else {
        memcpy(&v64, value, sizeof v64);
        gguf_out_u64(o, v64);
    }
}

/* Begins an array; the caller puts its elements behind it. */
static void gguf_out_array(gguf_out *o, const char *key, polar_gguf_value_type type, size_t count) {
    gguf_out_key(o, key, POLAR_GGUF_ARRAY);
    gguf_out_u32(o, (uint32_t)type);
    gguf_out_u64(o, count);
}

/* Zeros up to the next multiple of the alignment. */
static void gguf_out_pad(gguf_out *o) {
    gguf_out_put(o, NULL, (GGUF_ALIGNMENT - o->length % GGUF_ALIGNMENT) % GGUF_ALIGNMENT);
}

/* Announces a tensor of F32 (rows, columns), or with 0 rows a vector. */
static void gguf_out_tensor(gguf_out *o, const char *name, size_t rows, size_t columns) {
    const uint64_t bytes = 4 * (uint64_t)MAX(rows, 1) * columns;
    gguf_out_string(o, name);
    gguf_out_u32(o, rows ? 2 : 1);
    gguf_out_u64(o, columns);
    if (rows) gguf_out_u64(o, rows);
    gguf_out_u32(o, 0); /* the number of F32 */
    gguf_out_u64(o, o->offset);
    o->offset += (bytes + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT;
    o->n_tensors++;
}

/* The numbers of a tensor, the next that was announced. */
static void gguf_out_f32(gguf_out *o, const float *values, size_t n) {
    gguf_out_pad(o);
    for (size_t i = 0; i < n; i++) gguf_out_u32(o, f32_bits(values[i]));
}

/* Ends the file; *size gets its bytes. Refuses to write less than all of them. */
static polar_status gguf_out_end(gguf_out *o, size_t *size, polar_error *e) {
    gguf_out header = {o->at, o->capacity, 0, 0, 0, 0};
    gguf_out_pad(o);
    gguf_out_put(&header, "GGUF", 4);
    gguf_out_u32(&header, 3);
    gguf_out_u64(&header, o->n_tensors);
    gguf_out_u64(&header, o->n_pairs);
    *size = o->length;
    if (!o->at || o->length <= o->capacity) return POLAR_OK;
    return fail(e, POLAR_ARGUMENT, "the file has %zu bytes, there is room for %zu", o->length, o->capacity);
}

/* ======================================================================================
 * [quant] Tensor types: blocks of quantized numbers
 *
 * One table with a row per tensor type, and everything that depends on how a type lays out its bits. Reading turns a
 * block into integers with a common factor (quant_block), which is all that dequantization and dot products need to
 * know. The layouts are those of ggml; examples/cli/encode.c writes them. Start reading at quant_block, then at
 * quant_types, the table. Promises: the same bits on every machine, no alignment needed, any bytes are a valid block.
 * Uses: [num]. ====================================================================================== */

enum { QUANT_BLOCK = 256 }; /* numbers of the largest block */

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
} quant_type;

/* In the order of quant_index. */
static const quant_type quant_types[QUANT_N] = {
    {"F32", 0, 1, 4, 0, NULL},
    {"F16", 1, 1, 2, 0, NULL},
    {"BF16", 30, 1, 2, 0, NULL},
    {"Q8_0", 8, 32, 34, 0, quant_unpack_q8_0},
    {"Q4_0", 2, 32, 18, 0, quant_unpack_q4_0},
    {"Q4_1", 3, 32, 20, 1, quant_unpack_q4_1},
    {"Q5_0", 6, 32, 22, 0, quant_unpack_q5_0},
    {"Q5_1", 7, 32, 24, 1, quant_unpack_q5_1},
    {"IQ4_NL", 20, 32, 18, 0, quant_unpack_iq4_nl},
    {"Q2_K", 10, 256, 84, 1, quant_unpack_q2_k},
    {"Q3_K", 11, 256, 110, 0, quant_unpack_q3_k},
    {"Q4_K", 12, 256, 144, 1, quant_unpack_q4_k},
    {"Q5_K", 13, 256, 176, 1, quant_unpack_q5_k},
    {"Q6_K", 14, 256, 210, 0, quant_unpack_q6_k},
    {"IQ4_XS", 23, 256, 136, 0, quant_unpack_iq4_xs},
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

int polar_gguf_dequantize(int type, const void *data, int64_t n, float *out) {
    const int index = quant_find(type);
    if (index < 0 || n < 0 || n % quant_types[index].block) return 0;
    quant_dequantize(index, data, (size_t)n, out);
    return 1;
}

/* ======================================================================================
 * [kern] Kernels and the choice of an instruction set
 *
 * The operations of the forward pass on arrays. For each one the plain C function (suffix _c) is the definition,
 * bit by bit; the variants below it give the same bits. One table row per instruction set, chosen when a
 * model is opened.
 *
 * Quantized product of a weight row w and activations a, both in blocks (see quant_block):
 *     acc = 0; for each block b: acc = fma(d_b * da_b, (float)(sum_i q_i a_i), acc)
 *              and with minima:  acc = fma(m_b * da_b, (float)(sum_j mins_j sums_j), acc)
 * where the sums are exact integers. Variants hold one weight row per lane, so the chain over blocks is the
 * same. Float product: eight partial sums, s_j over the elements i = j mod 8, each a chain of fma, and then
 * ((s0+s1)+(s2+s3)) + ((s4+s5)+(s6+s7)).
 *
 * Start with `kern`, which lists the operations, then multiply_c, the definition of a product, and "Quantized weights
 * times tokens", the scheme by which the instruction sets compute it. Uses: [num] [quant].
 * ====================================================================================== */

/* Activations of n_rows positions, n numbers each, in the forms that products with quantized weights want:
 * x[i] = d * q[i] with d = max |x| / 127 per block of 32 or 256, and the sums of q over 16 elements each. */
typedef struct act_blocks {
    int8_t *q8;    /* (n_rows, n) */
    int16_t *q16;  /* (n_rows, n), the same numbers */
    int16_t *sums; /* (n_rows, n / 16) */
    float *d;      /* (n_rows, n / block) */
} act_blocks;

typedef struct activations {
    int n;           /* numbers in a row */
    const float *x;  /* (n_rows, n) */
    act_blocks b32, b256;
} activations;

/* y[t * ldy + r] = product of weight row r with activation row index[t] (t itself if index is NULL). */
typedef struct product {
    int type;              /* quant_index */
    int rows;              /* of the weight matrix */
    const uint8_t *w;      /* first weight row */
    size_t row_bytes; /* from one row to the next */
    const activations *a; /* what the tokens are */
    const int *index; /* which rows of `a`, NULL: the first n_tokens */
    int n_tokens; /* rows of y */
    float *y; /* (n_tokens, rows), ldy apart */
    int ldy;
    const float *bias;     /* (rows) to be added, NULL without; not by `multiply` */
} product;

typedef struct kern {
    polar_cpu cpu; /* the name of the set */
    /* n numbers to blocks of 32 or 256. A block with a number that is not finite gets d = NaN and zeros. */
    void (*quantize)(const float *x, int n, int block, int8_t *q8, int16_t *q16, int16_t *sums, float *d);
    const struct product_set *set; /* products, see kern_multiply; NULL: plain C */
    /* out = x / sqrt(mean(x^2) + eps) * w; out may be x. */
    void (*rms_norm)(float *out, const float *x, const float *w, int n, float eps);
    /* gate = gate * sigmoid(gate) * up */
    void (*swiglu)(float *gate, const float *up, int n);
    /* Turns pairs of one head: (x[i], x[i + half]) if neox, else (x[2i], x[2i+1]). cs is cos[half], sin[half]. */
    void (*rope)(float *x, const float *cs, int half, int neox);
    /* scores[t] = (q . k_t) * scale for n positions, k contiguous, of floats or halves. */
    void (*scores)(float *scores, const float *q, const uint8_t *k, int n, int head_dim, int f16, float scale);
    /* x[i] = exp(x[i] - max x); returns the sum, in eight partial sums as above. */
    float (*softmax)(float *x, int n);
    /* out[i] = fma(p[t], v_t[i], out[i]) for t = 0 .. n-1 in order. */
    void (*accumulate)(float *out, const float *p, const uint8_t *v, int n, int head_dim, int f16);
    /* The same for four q and their scores, and for four p and out, each `stride` behind the one before: positions are
     * read once. NULL where that is no quicker. */
    void (*scores4)(float *scores, size_t stride, const float *const q[4], const uint8_t *k, int n, int head_dim,
                    int f16, float scale);
    void (*accumulate4)(float *const out[4], const float *p, size_t stride, const uint8_t *v, int n, int head_dim,
                        int f16);
    /* n floats to halves. */
    void (*to_f16)(uint8_t *out, const float *x, int n);
    /* out = fma(a, x, out) */
    void (*axpy)(float *out, float a, const float *x, int n);
} kern;

enum { KERN_ROWS = 16 }; /* rows of a panel */
#ifdef POLAR_SIMD
enum { KERN_SCRATCH = 80 << 10 }; /* for a panel or unpacked blocks, as asserted where it is divided */
#else
enum { KERN_SCRATCH = 0 }; /* plain C needs none */
#endif

/* The form of the activations that weights of a type are multiplied with. */
static const act_blocks *act_blocks_of(const activations *a, int type) {
    return quant_types[type].block == 32 ? &a->b32 : &a->b256;
}

/* Where the numbers of token k of a product begin. */
static size_t token_at(const product *p, int k) {
    return (size_t)(p->index ? p->index[k] : k) * (size_t)p->a->n;
}

/* --- plain C: the definitions --- */

/* The end of a float product: eight partial sums in the fixed tree. */
static float sum8(const float *s) {
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* max |x[i]|; NaN if there is one. */
static float max_abs(const float *x, int n) {
    uint32_t m = 0; /* as integers, so that NaN is larger than everything */
    for (int i = 0; i < n; i++) m = MAX(m, f32_bits(x[i]) & 0x7fffffff);
    return bits_f32(m);
}

/* The inverse of a block's scale d = max |x| / 127, or 0 where it has none: of zeros, of numbers that are too small to
 * invert, and of one that is not finite (d = NaN). */
static float quantize_inverse(float max, float *d) {
    const float inverse = max > 0 ? 127.0f / max : 0;
    *d = max / 127.0f;
    if (max < INFINITY && inverse < INFINITY) return inverse;
    *d = max < INFINITY ? 0 : NAN;
    return 0;
}

/* q[i] = round(x[i] / d), halves to even, and the sums of 16 each. */
static void quantize_c(const float *x, int n, int block, int8_t *q8, int16_t *q16, int16_t *sums, float *d) {
    for (int b = 0; b < n; b += block, x += block, q8 += block, q16 += block, d++) {
        const float inverse = quantize_inverse(max_abs(x, block), d);
        for (int i = 0; i < block; i += 16) {
            int sum = 0;
            for (int j = i; j < i + 16; j++) {
                q16[j] = (int16_t)(inverse > 0 ? (int)round_scaled(x[j], inverse) : 0);
                q8[j] = (int8_t)q16[j];
                sum += q16[j];
            }
            *sums++ = (int16_t)sum;
        }
    }
}

/* Weight i of a row of floats. */
static float load_float(int type, const uint8_t *w, int i) {
    return type == QUANT_F32 ? rd_f32(w + 4 * i) : type == QUANT_F16 ? rd_f16(w + 2 * i) : bf16_f32(rd_u16(w + 2 * i));
}

/* sum_i w_i x_i: partial sum i mod 8 takes number i, in order. */
static float dot_float_c(int type, const uint8_t *w, const float *x, int n) {
    float s[8] = {0}; /* the partial sums */
    for (int i = 0; i < n; i++) s[i & 7] = fma32(load_float(type, w, i), x[i], s[i & 7]);
    return sum8(s);
}

/* sum_i w_i a_i of n numbers, a multiple of 16; exact, so in any order. Small Arm cores take eight products (MVE) or
 * two (SMLAD) at a time, if the compiler was told that they can. */
static int dot_int_c(const int16_t *w, const int16_t *a, int n) {
    int sum = 0;
#if defined(POLAR_MVE)
    for (int i = 0; i < n; i += 8) sum = vmladavaq_s16(sum, vldrhq_s16(w + i), vldrhq_s16(a + i));
#elif defined(POLAR_SMLAD)
    for (int i = 0; i < n; i += 16) UNROLL for (int j = i; j < i + 16; j += 2) {
        int32_t x, y; /* two numbers each */
        memcpy(&x, w + j, 4), memcpy(&y, a + j, 4);
        __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(x), "r"(y));
    }
#else
    for (int i = 0; i < n; i++) sum += w[i] * a[i];
#endif
    return sum;
}

/* The definition of a product, for rows of any type. The chain of a row and a token goes from block to block through y,
 * so that a block is unpacked once for all tokens. */
static void multiply_c(const product *p, int row, int n_rows, void *scratch) {
    const quant_type *t = &quant_types[p->type];
    const act_blocks *a = act_blocks_of(p->a, p->type);
    quant_block w; /* a block of a row */
    (void)scratch;
    for (int r = row; r < row + n_rows; r++) {
        const uint8_t *bytes = p->w + (size_t)r * p->row_bytes;
        for (int k = 0; k < p->n_tokens; k++)
            p->y[(size_t)k * (size_t)p->ldy + (size_t)r] =
                t->unpack ? 0 : dot_float_c(p->type, bytes, p->a->x + token_at(p, k), p->a->n);
        for (int b = 0; t->unpack && b < p->a->n / t->block; b++) {
            float *y = p->y + r; /* of token k */
            t->unpack(bytes + (size_t)b * (size_t)t->bytes, &w); /* once for all tokens */
            for (int k = 0; k < p->n_tokens; k++, y += p->ldy) {
                const size_t from = token_at(p, k) + (size_t)(b * t->block);
                const float da = a->d[from / (size_t)t->block];
                int msum = 0; /* of minima */
                *y = fma32(w.d * da, (float)dot_int_c(w.q, a->q16 + from, t->block), *y);
                if (!t->has_mins) continue;
                for (int j = 0; j < t->block / 16; j++) msum += w.mins[j] * a->sums[from / 16 + (size_t)j];
                *y = fma32(w.m * da, (float)msum, *y);
            }
        }
    }
}

/* Types that the instruction sets below read by code of their own, and what else they know of them: f(type, numbers
 * of a block, numbers of a sub-block with one scale, bits, offset). The offset makes numbers non-negative:
 * w = q + offset is in 0 .. 2^bits - 1, q being the number without its scale. Any other type goes through multiply_c,
 * slow but right. */
#define KERN_TYPES(f) \
    f(QUANT_Q8_0,   32,  32, 8, 128) \
    f(QUANT_Q4_0,   32,  32, 4, 8)   \
    f(QUANT_Q4_1,   32,  32, 4, 0)   \
    f(QUANT_Q5_0,   32,  32, 5, 16)  \
    f(QUANT_Q5_1,   32,  32, 5, 0)   \
    f(QUANT_IQ4_NL, 32,  32, 8, 128) \
    f(QUANT_Q2_K,   256, 16, 2, 0)   \
    f(QUANT_Q3_K,   256, 16, 3, 4)   \
    f(QUANT_Q4_K,   256, 32, 4, 0)   \
    f(QUANT_Q5_K,   256, 32, 5, 0)   \
    f(QUANT_Q6_K,   256, 16, 6, 32)  \
    f(QUANT_IQ4_XS, 256, 32, 8, 128)

typedef struct kern_type { int sub, bits, offset; } kern_type;

static MAYBE_UNUSED const kern_type kern_types[QUANT_N] = {
#define TYPE(type, block, sub, bits, offset) [type] = {sub, bits, offset},
    KERN_TYPES(TYPE)
#undef TYPE
};

/* Whether the instruction sets read this type. */
static MAYBE_UNUSED int kern_knows(int type) {
    return kern_types[type].bits > 0;
}

/* The other definitions, as `kern` describes them. The same operations in the same order are what the instruction sets
 * do; only numbers that do not depend on each other are computed side by side. */
static void rms_norm_c(float *out, const float *x, const float *w, int n, float eps) {
    float s[8] = {0}, scale; /* the partial sums */
    for (int i = 0; i < n; i++) s[i & 7] = fma32(x[i], x[i], s[i & 7]);
    scale = 1.0f / sqrtf(sum8(s) / (float)n + eps);
    for (int i = 0; i < n; i++) out[i] = x[i] * scale * w[i];
}

static void swiglu_c(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + exp32(-gate[i])) * up[i];
}

static void rope_c(float *x, const float *cs, int half, int neox) {
    for (int i = 0; i < half; i++) {
        float *x0 = neox ? &x[i] : &x[2 * i], *x1 = neox ? &x[i + half] : &x[2 * i + 1], a = *x0, b = *x1;
        *x0 = fma32(a, cs[i], b * -cs[half + i]);
        *x1 = fma32(b, cs[i], a * cs[half + i]);
    }
}

static void scores_c(float *scores, const float *q, const uint8_t *k, int n, int head_dim, int f16, float scale) {
    for (int t = 0; t < n; t++, k += head_dim * (f16 ? 2 : 4))
        scores[t] = dot_float_c(f16 ? QUANT_F16 : QUANT_F32, k, q, head_dim) * scale;
}

/* The maximum is exact in any order; the sum has eight partial sums, number i in the one of i mod 8. */
static float softmax_c(float *x, int n) {
    float s[8] = {0}, max = x[0]; /* the partial sums */
    for (int i = 1; i < n; i++) max = MAX(max, x[i]);
    for (int i = 0; i < n; i++) {
        x[i] = exp32(x[i] - max);
        s[i & 7] += x[i];
    }
    return sum8(s);
}

static void accumulate_c(float *out, const float *p, const uint8_t *v, int n, int head_dim, int f16) {
    for (int t = 0; t < n; t++, v += head_dim * (f16 ? 2 : 4))
        for (int i = 0; i < head_dim; i++)
            out[i] = fma32(p[t], load_float(f16 ? QUANT_F16 : QUANT_F32, v, i), out[i]);
}

static void to_f16_c(uint8_t *out, const float *x, int n) {
    for (int i = 0; i < n; i++) wr_u16(out + 2 * i, f32_f16(x[i]));
}

static void axpy_c(float *out, float a, const float *x, int n) {
    for (int i = 0; i < n; i++) out[i] = fma32(a, x[i], out[i]);
}

static const kern kern_plain = {POLAR_CPU_PLAIN, quantize_c, NULL, rms_norm_c, swiglu_c, rope_c, scores_c, softmax_c,
                                accumulate_c, NULL, NULL, to_f16_c, axpy_c};

/* --- Quantized weights times tokens ---
 *
 * One scheme for all instruction sets. Rows of weights are laid side by side in a panel, which stays in the first cache
 * while all tokens go over it:
 *
 *     fill   reads blocks of a type into the panel: numbers, factors, and scales and minima of sub-blocks
 *     dot    multiplies the panel with a tile of tokens: integer sums, exact in whatever order, and at the end of
 *            each block the chain of the definition, a lane for each row:
 *                acc = fma(d da, sum_j scale_j sum_i q_i a_i, acc); with minima acc = fma(m da, sum_j min_j s_j, acc)
 *
 * Few tokens are not worth a panel: they are multiplied with the rows as these are read. All types of KERN_TYPES go the
 * same way; what differs between the instruction sets:
 *
 *     set       reads a type by     few tokens, how many   a panel, by tiles of
 *     avx2      read_TYPE_avx2      maddubs, 1 to 3        16 rows, 4 tokens: maddubs; numbers of 8 bits: madd
 *     avxvnni   the same            dpbusd, 1 or 2         16 rows, 4 tokens: dpbusd
 *     avx512    the same            dpbusd, 1 or 2         16 rows, 8 tokens: dpbusd of 512 bits
 *     amx       the same            dpbusd, 1 or 2         16 rows, 16 tokens: tdpbsud; blocks of 256: tdpbssd twice
 *     neon      numbers_neon and    smull, 1 to 3          8 rows, 4 tokens: smull, smlal
 *     dotprod   scales_neon         sdot, 1 to 3           8 rows, 4 tokens: sdot
 *     i8mm                          sdot, 1 to 3           8 rows, 4 tokens: smmla
 *     wasm      its unpack          i32x4.dot, 1 to 3      16 rows, 4 tokens: i32x4.dot of 16 bits
 *
 * A new type wants its row in KERN_TYPES and a reader for each family, a line of READER for x86 and cases of
 * numbers_neon and scales_neon for Arm; until it has them, it goes through multiply_c. A new instruction set wants a
 * row, product_set, with what differs from the other sets of its family - as a rule only `dot` - and its detection in
 * kern_find. */
#ifdef POLAR_SIMD
enum {
    PANEL_NUMBERS = 16 << 10, /* of all rows of a panel together */
    PANEL_TOKENS = 16 /* of a tile, at most */
};

typedef struct panel {
    uint8_t *q;      /* numbers, 4, 8 or 16 of a row side by side and then those of the next row, or 2 of 16 bits */
    float *d, *m;    /* (blocks, rows); m of types with minima */
    int32_t *scales; /* types with blocks of 256: (sub-blocks, rows) or as a set wants them */
    int16_t *mins;   /* and their minima, or what undoes the offset */
} panel;

/* The tokens of a tile, from the first block of the panel on, and where their products with its rows are summed up. */
typedef struct panel_tile {
    const int8_t *q[PANEL_TOKENS]; /* numbers of the tokens */
    const int16_t *q16[PANEL_TOKENS], *sums[PANEL_TOKENS];
    const float *d[PANEL_TOKENS];
    float *y[PANEL_TOKENS];
    int n_tokens; /* 4, or those of the set's tiles */
} panel_tile;

/* An instruction set's part in products: a row of what would be one table if it were not for the places where these
 * functions are defined. kern_multiply does what the row says, for all types. */
typedef struct product_set {
    int set;          /* X86_..., ARM_..., 0 of WebAssembly */
    int rows, tokens; /* of a panel, of a tile */
    int few;          /* up to so many tokens, `few_tokens` instead of a panel */
    void (*floats)(const product *p, int row, int n_rows);     /* types without blocks */
    void (*few_tokens)(const product *p, int row, int n_rows); /* over the rows as they are read */
    /* `count` blocks of each row, from w[row] on. As many bytes from `ahead` on come next, NULL: none. */
    void (*fill)(int set, const panel *to, int type, const uint8_t *const *w, int count, const uint8_t *ahead);
    void (*dot)(const panel *f, int type, int count, const panel_tile *t);
} product_set;

/* Parts of a worker's scratch memory. */
enum {
    PANEL_D = 2 * PANEL_NUMBERS,
    PANEL_M = PANEL_D + PANEL_NUMBERS / 32 * 4,
    PANEL_SCALES = PANEL_M + PANEL_NUMBERS / 32 * 4,
    PANEL_MINS = PANEL_SCALES + PANEL_NUMBERS / 16 * 2 * 4,
    PANEL_BYTES = PANEL_MINS + PANEL_NUMBERS / 16 * 2
};
typedef char scratch_holds_panel[(int)PANEL_BYTES <= (int)KERN_SCRATCH ? 1 : -1] MAYBE_UNUSED;

/* Tokens k .. k + n_tokens - 1, the last one repeated past the end, and rows [r, r + rows) from block `from` on. Sums
 * of a whole panel are in y itself; where it has fewer rows or tokens, in `spare`. */
static void panel_tile_at(panel_tile *t, const product_set *set, const product *p, int k, int r, int rows, int from,
                          float spare[PANEL_TOKENS][KERN_ROWS]) {
    const act_blocks *a = act_blocks_of(p->a, p->type);
    const size_t block = (size_t)quant_types[p->type].block;
    for (int i = 0; i < t->n_tokens; i++) {
        const int token = MIN(k + i, p->n_tokens - 1);
        const size_t first = token_at(p, token) + (size_t)from * block;
        float *y = p->y + (size_t)token * (size_t)p->ldy + r;
        t->q[i] = a->q8 + first, t->q16[i] = a->q16 + first, t->sums[i] = a->sums + first / 16;
        t->d[i] = a->d + first / block;
        t->y[i] = rows == set->rows && token == k + i ? y : spare[i];
        if (!from) memset(t->y[i], 0, (size_t)set->rows * sizeof *y);
        else if (t->y[i] == spare[i]) memcpy(spare[i], y, (size_t)rows * sizeof *y);
    }
}

/* Rows [row, row + n_rows) of a product, a panel at a time. */
static void panel_multiply(const product_set *set, const product *p, int row, int n_rows, void *scratch) {
    const quant_type *type = &quant_types[p->type];
    const int n_blocks = p->a->n / type->block, chunk = PANEL_NUMBERS / set->rows / type->block;
    char *memory = scratch;
    const panel f = {scratch, (float *)(void *)(memory + PANEL_D), (float *)(void *)(memory + PANEL_M),
                     (int32_t *)(void *)(memory + PANEL_SCALES), (int16_t *)(void *)(memory + PANEL_MINS)};
    float spare[PANEL_TOKENS][KERN_ROWS]; /* see panel_tile_at */
    for (int r = row; r < row + n_rows; r += set->rows)
        for (int b = 0; b < n_blocks; b += chunk) {
            const int rows = MIN(set->rows, row + n_rows - r), count = MIN(chunk, n_blocks - b);
            const size_t first = (size_t)b * (size_t)type->bytes;
            const uint8_t *w[KERN_ROWS], *ahead = NULL;
            for (int i = 0; i < set->rows; i++) /* rows past the end repeat the last */
                w[i] = p->w + (size_t)(r + MIN(i, rows - 1)) * p->row_bytes + first;
            if (r + 2 * set->rows <= row + n_rows)
                ahead = p->w + (size_t)(r + set->rows) * p->row_bytes + (size_t)set->rows * first;
            set->fill(set->set, &f, p->type, w, count, ahead);
            for (int k = 0; k < p->n_tokens; k += set->tokens) {
                panel_tile t; /* tokens from k on */
                t.n_tokens = p->n_tokens - k > 4 ? set->tokens : 4;
                panel_tile_at(&t, set, p, k, r, rows, b, spare);
                set->dot(&f, p->type, count, &t);
                for (int i = 0; i < t.n_tokens && k + i < p->n_tokens; i++)
                    if (t.y[i] == spare[i])
                        memcpy(p->y + (size_t)(k + i) * (size_t)p->ldy + r, spare[i], (size_t)rows * sizeof(float));
            }
        }
}
#endif

/* Weight rows [row, row + n_rows) of a product, as the row of the instruction set says; by the definition without a set
 * and for types that are not in KERN_TYPES. `scratch` is KERN_SCRATCH bytes of the worker's own. */
static void kern_multiply(const kern *k, const product *p, int row, int n_rows, void *scratch) {
#ifdef POLAR_SIMD
    const int floats = !quant_types[p->type].unpack;
    if (k->set && (floats || kern_knows(p->type))) {
        if (floats) k->set->floats(p, row, n_rows);
        else if (p->n_tokens <= k->set->few) k->set->few_tokens(p, row, n_rows);
        else panel_multiply(k->set, p, row, n_rows, scratch);
        return;
    }
#endif
    (void)k;
    multiply_c(p, row, n_rows, scratch);
}

/* --- x86 with AVX2, FMA and F16C --- */
#ifdef POLAR_X86
#define AVX2 TARGET("avx2,fma,f16c")

/* Eight weights as floats. The type is a constant wherever this is inlined, so each type has a loop of its own. */
static ALWAYS_INLINE AVX2 __m256 load8_avx2(int type, const uint8_t *w) {
    if (type == QUANT_F32) return _mm256_loadu_ps((const float *)(const void *)w);
    if (type == QUANT_F16) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)w));
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)w)), 16));
}

/* The first n < 8 numbers, zeros after them. */
static AVX2 __m256 load_tail_avx2(int type, const uint8_t *w, int n) {
    float x[8] = {0}; /* zeros behind the end */
    for (int i = 0; i < n; i++) x[i] = load_float(type, w, i);
    return _mm256_loadu_ps(x);
}

/* Lane i is the sum of v[i] in the order of sum8. */
static AVX2 __m256 sum8x8_avx2(const __m256 v[8]) {
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

/* sum8 of lanes. */
static AVX2 float sum8_avx2(__m256 v) {
    float s[8];
    _mm256_storeu_ps(s, v);
    return sum8(s);
}

/* 32 bytes of any alignment. */
static ALWAYS_INLINE AVX2 __m256i loadi_avx2(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Adding ROUND_MAGIC rounds to even, and leaves the integer in the low bits of the sum. */
static AVX2 void quantize_avx2(const float *x, int n, int block, int8_t *q8, int16_t *q16, int16_t *sums, float *d) {
    const __m256i abs = _mm256_set1_epi32(0x7fffffff); /* all but the sign */
    for (int b = 0; b < n; b += block, d++) {
        __m256i m8 = _mm256_setzero_si256(); /* max |x| in eight lanes */
        uint32_t lanes[8], m = 0; /* integers order as the floats do */
        float inverse;
        for (int i = b; i < b + block; i += 8)
            m8 = _mm256_max_epu32(m8, _mm256_and_si256(abs, loadi_avx2(x + i)));
        _mm256_storeu_si256((__m256i *)(void *)lanes, m8);
        for (int i = 0; i < 8; i++) m = MAX(m, lanes[i]);
        inverse = quantize_inverse(bits_f32(m), d); /* d = m / 127 */
        if (!(inverse > 0)) {
            quantize_c(x + b, block, block, q8 + b, q16 + b, sums + b / 16, d);
            continue;
        }
        for (int i = b; i < b + block; i += 16) {
            const __m256 s = _mm256_set1_ps(inverse), magic = _mm256_set1_ps(ROUND_MAGIC);
            __m256i a = _mm256_castps_si256(_mm256_fmadd_ps(_mm256_loadu_ps(x + i), s, magic));
            __m256i c = _mm256_castps_si256(_mm256_fmadd_ps(_mm256_loadu_ps(x + i + 8), s, magic));
            /* the integer is the difference of the bit patterns */
            __m256i w = _mm256_packs_epi32(_mm256_sub_epi32(a, _mm256_castps_si256(magic)),
                                           _mm256_sub_epi32(c, _mm256_castps_si256(magic)));
            __m256i t = _mm256_madd_epi16(w = _mm256_permute4x64_epi64(w, 0xd8), _mm256_set1_epi16(1));
            __m128i u = _mm_add_epi32(_mm256_castsi256_si128(t), _mm256_extracti128_si256(t, 1));
            u = _mm_add_epi32(u, _mm_shuffle_epi32(u, 0x4e));
            u = _mm_add_epi32(u, _mm_shuffle_epi32(u, 0xb1));
            _mm256_storeu_si256((__m256i *)(void *)(q16 + i), w);
            _mm_storeu_si128((__m128i *)(void *)(q8 + i),
                             _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
            sums[i / 16] = (int16_t)_mm_cvtsi128_si32(u);
        }
    }
}

/* out[tokens r + k] += w_r x_k in eight lanes, the partial sums of the definition, for whole eights of n numbers: 8
 * rows times 1 token, or 2 rows times 4 tokens, which are then read once for eight products. */
static ALWAYS_INLINE AVX2 void dot_floats_avx2(int type, int tokens, const uint8_t *const w[], const float *const x[],
                                               int n, __m256 out[8]) {
    const int size = type == QUANT_F32 ? 4 : 2; /* bytes of a number */
    __m256 s[8]; /* of 8 rows and one token, or of 2 rows and four */
    UNROLL for (int k = 0; k < 8; k++) s[k] = out[k];
    for (int i = 0; i < n; i += 8) {
        __m256 v[4]; /* eight numbers of each token */
        UNROLL for (int k = 0; k < tokens; k++) v[k] = _mm256_loadu_ps(x[k] + i);
        UNROLL for (int r = 0; r < 8 / tokens; r++) {
            const __m256 u = load8_avx2(type, w[r] + i * size);
            UNROLL for (int k = 0; k < tokens; k++) s[tokens * r + k] = _mm256_fmadd_ps(u, v[k], s[tokens * r + k]);
        }
    }
    UNROLL for (int k = 0; k < 8; k++) out[k] = s[k];
}

/* The sums of row i / stride and token i % stride with the numbers from `from` to n, and their totals. */
static ALWAYS_INLINE AVX2 __m256 dot_end_avx2(int type, const uint8_t *const w[], const float *const x[], int stride,
                                              int from, int n, __m256 s[8]) {
    const int size = type == QUANT_F32 ? 4 : 2; /* bytes of a number */
    for (int i = 0; i < 8 && from < n; i++)
        s[i] = _mm256_fmadd_ps(
            load_tail_avx2(type, w[i / stride] + from * size, n - from),
            load_tail_avx2(QUANT_F32, (const uint8_t *)(const void *)(x[i % stride] + from), n - from), s[i]);
    return sum8x8_avx2(s);
}

/* `type` is a constant at every call. */
static ALWAYS_INLINE AVX2 void multiply_float_type_avx2(int type, const product *p, int row, int n_rows) {
    const int n = p->a->n, whole = n & ~7;
    for (int r = row; r < row + n_rows; r += 8) {
        const uint8_t *w[8];
        const int rows = MIN(8, row + n_rows - r); /* rows past the end repeat the last */
        float *y = p->y + r, out[8]; /* of token k */
        int k = 0; /* tokens */
        for (int i = 0; i < 8; i++) w[i] = p->w + (size_t)(r + MIN(i, rows - 1)) * p->row_bytes;
        for (; k + 4 <= p->n_tokens; k += 4, y += 4 * (size_t)p->ldy) {
            const float *const x[4] = {p->a->x + token_at(p, k), p->a->x + token_at(p, k + 1),
                                       p->a->x + token_at(p, k + 2), p->a->x + token_at(p, k + 3)};
            for (int j = 0; j < rows; j += 2) {
                __m256 s[8]; /* of 8 rows and one token, or of 2 rows and four */
                for (int i = 0; i < 8; i++) s[i] = _mm256_setzero_ps();
                dot_floats_avx2(type, 4, w + j, x, whole, s);
                _mm256_storeu_ps(out, dot_end_avx2(type, w + j, x, 4, whole, n, s));
                for (int i = 0; i < (j + 1 < rows ? 8 : 4); i++)
                    y[(size_t)(i % 4) * (size_t)p->ldy + (size_t)(j + i / 4)] = out[i];
            }
        }
        for (; k < p->n_tokens; k++, y += p->ldy) {
            const float *const x[1] = {p->a->x + token_at(p, k)};
            __m256 s[8]; /* of 8 rows and one token, or of 2 rows and four */
            for (int i = 0; i < 8; i++) s[i] = _mm256_setzero_ps();
            dot_floats_avx2(type, 1, w, x, whole, s);
            _mm256_storeu_ps(out, dot_end_avx2(type, w, x, 1, whole, n, s));
            memcpy(y, out, (size_t)rows * sizeof *out);
        }
    }
}

/* Rows of floats times any number of tokens. */
static AVX2 void multiply_float_avx2(const product *p, int row, int n_rows) {
    if (p->type == QUANT_F32) multiply_float_type_avx2(QUANT_F32, p, row, n_rows);
    else if (p->type == QUANT_F16) multiply_float_type_avx2(QUANT_F16, p, row, n_rows);
    else multiply_float_type_avx2(QUANT_BF16, p, row, n_rows);
}

/* --- x86, quantized weights ---
 *
 * Words of four numbers w = q + offset >= 0 of a row, a row in each lane, times four numbers of a token. maddubs (AVX2)
 * adds up two products in each 16 bits, which hold as many words as x86_group says; dpbusd (AVX-VNNI, and AVX-512 with
 * VNNI) adds all four to 32 bits. What the offset added is taken away again:
 *     sum_i q_i a_i = sum_i w_i a_i - offset sum_i a_i
 *
 * A type has one reader, read_TYPE_avx2. It loads a block of eight rows, transposes its words, so that each is in the
 * lane of its row, cuts the numbers out of them and passes these on: put_avx2 takes words of four numbers, put_scales
 * and put_mins four sub-blocks at a time, end_avx2 the factors. Where they go depends on `set`, which is a constant
 * wherever these functions are inlined: into a panel or, for one token, into the sums at once. */
enum { X86_PANEL, X86_AVX2, X86_VNNI, X86_AVX512 }; /* those after AVX2 have dpbusd */

/* Eight rows while they are read. Functions that take one are inlined, so its sums are registers. */
typedef struct rows8 {
    const uint8_t *w[8];     /* the first block of each row */
    const uint8_t *ahead;    /* what comes next and is fetched meanwhile, NULL: nothing */
    int fetch;               /* whether words8_avx2 fetches some of it; else it is fetched block by block */
    panel to;                /* X86_PANEL: the places of these rows and of the block at hand; else only its scales */
    int pairs;               /* X86_PANEL: numbers of 8 bits become 16 bits with their sign and scale, for AVX2 */
    const int8_t *q;         /* the token's block at hand, its sums and its scale */
    const int16_t *sums;
    const float *da;
    __m256i s[2];            /* of a sub-block, without its scale; two, as each waits for the one before it */
    __m256i sum, min_sum;    /* of the block: sum_j scale_j sum_i w_i a_i, sum_j min_j sum_i a_i */
    __m256 acc;              /* the chain of the definition */
} rows8;

/* Fetches n bytes of what comes next to the second cache. Eight rows at a time are more than what processors follow by
 * themselves, so the rows that come next are fetched as one stretch of memory. A few lines at a time, while about as
 * many bytes are read: more would wait for each other. */
static ALWAYS_INLINE void fetch_x86(rows8 *x, int n) {
    if (!x->ahead) return;
    for (int i = 0; i < n; i += 64) _mm_prefetch((const char *)(x->ahead + i), _MM_HINT_T1);
    x->ahead += n;
}

/* Four bytes in every lane: numbers of a token, or two of its sums. */
static ALWAYS_INLINE AVX2 __m256i four_avx2(const void *p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

/* out[i], lane r: word i of the four at `first` of row r. */
static ALWAYS_INLINE AVX2 void words8_avx2(rows8 *x, size_t first, __m256i out[4]) {
    __m256i a[4], b0, b1, b2, b3; /* a[i]: rows i and i + 4 */
    UNROLL for (int i = 0; i < 4; i++) {
        const uint8_t *low = x->w[i] + first, *high = x->w[i + 4] + first;
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)low)),
                                       _mm_loadu_si128((const __m128i *)(const void *)high), 1);
    }
    if (x->fetch) fetch_x86(x, 8 * 16);
    b0 = _mm256_unpacklo_epi32(a[0], a[1]), b1 = _mm256_unpackhi_epi32(a[0], a[1]);
    b2 = _mm256_unpacklo_epi32(a[2], a[3]), b3 = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(b0, b2), out[1] = _mm256_unpackhi_epi64(b0, b2);
    out[2] = _mm256_unpacklo_epi64(b1, b3), out[3] = _mm256_unpackhi_epi64(b1, b3);
}

/* Lane r: the word at `first` of row r. Blends, since words8_avx2 keeps the unit for shuffles busy. */
static ALWAYS_INLINE AVX2 __m256i word8_avx2(const rows8 *x, size_t first) {
    __m256i v = four_avx2(x->w[0] + first);
    v = _mm256_blend_epi32(v, four_avx2(x->w[1] + first), 0x02);
    v = _mm256_blend_epi32(v, four_avx2(x->w[2] + first), 0x04);
    v = _mm256_blend_epi32(v, four_avx2(x->w[3] + first), 0x08);
    v = _mm256_blend_epi32(v, four_avx2(x->w[4] + first), 0x10);
    v = _mm256_blend_epi32(v, four_avx2(x->w[5] + first), 0x20);
    v = _mm256_blend_epi32(v, four_avx2(x->w[6] + first), 0x40);
    return _mm256_blend_epi32(v, four_avx2(x->w[7] + first), 0x80);
}

/* The low or the high halves of words, as floats. */
static ALWAYS_INLINE AVX2 __m256 halves8_avx2(__m256i v, int high) {
    v = high ? _mm256_srli_epi32(v, 16) : _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    v = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0x88);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(v));
}

/* -v, by the sign bit: 0 - v would lose the sign of zero. */
static ALWAYS_INLINE AVX2 __m256 minus_avx2(__m256 v) {
    return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}

static ALWAYS_INLINE AVX2 void store_avx2(void *p, __m256i v) {
    _mm256_storeu_si256((__m256i *)p, v);
}

static ALWAYS_INLINE AVX2 __m256i bytes_avx2(int byte) {
    return _mm256_set1_epi8((char)byte);
}

/* The bits of `mask` in every byte of words shifted right by n bits, n < 0: left. */
static ALWAYS_INLINE AVX2 __m256i field_avx2(__m256i v, int n, int mask) {
    v = n > 0 ? _mm256_srli_epi32(v, n) : n < 0 ? _mm256_slli_epi32(v, -n) : v;
    return _mm256_and_si256(v, bytes_avx2(mask));
}

/* The values of IQ4, made non-negative by 128, of nibbles. */
static ALWAYS_INLINE AVX2 __m256i iq4_avx2(__m256i nibbles) {
    const __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)quant_iq4));
    return _mm256_xor_si256(_mm256_shuffle_epi8(values, nibbles), bytes_avx2(128));
}

/* Byte k of each lane as a number of 32 bits: it moves to the highest bits, from where a shift spreads its sign. */
static ALWAYS_INLINE AVX2 __m256i byte_avx2(__m256i v, int k) {
    return _mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * k), 24);
}

/* The same for bytes i and k, as two numbers of 16 bits: (byte i, byte k). */
static ALWAYS_INLINE AVX2 __m256i two_bytes_avx2(__m256i v, int i, int k) {
    const __m256i lanes = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x04000400, 0x08000800, 0x0c000c00));
    const __m256i from = _mm256_add_epi32(_mm256_set1_epi32(i << 8 | k << 24 | 0x00800080), lanes); /* 0x80: zero */
    return _mm256_srai_epi16(_mm256_shuffle_epi8(v, from), 8);
}

typedef struct four_bytes { int8_t a[4]; } four_bytes;

/* s + sum_j w_j a_j in each lane, j = 0..3. The two sets encode the same instruction in two ways. Assembler, since that
 * can stand, unlike intrinsics, in functions that are inlined into functions of different instruction sets. */
static ALWAYS_INLINE AVX2 __m256i dpbusd_avx2(int set, __m256i s, __m256i w, const int8_t *a) {
#if defined(POLAR_X86_VNNI) && defined(_MSC_VER)
    if (set == X86_VNNI) return _mm256_dpbusd_avx_epi32(s, w, four_avx2(a));
#elif defined(POLAR_X86_VNNI)
    if (set == X86_VNNI) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(s) : "x"(w), "x"(four_avx2(a)));
#endif
#if defined(POLAR_X86_512) && defined(_MSC_VER)
    if (set == X86_AVX512) return _mm256_dpbusd_epi32(s, w, four_avx2(a));
#elif defined(POLAR_X86_512)
    if (set == X86_AVX512)
        __asm__("vpdpbusd %2%{1to8%}, %1, %0" : "+x"(s) : "x"(w), "m"(*(const four_bytes *)(const void *)a));
#endif
    return s;
}

/* How many words the sums of pairs have room for in 16 bits: 2 * 127 * 15 * 8, 2 * 127 * 31 * 4 and 2 * 127 * 63 * 2
 * are less than 2^15. No more than a sub-block has, as its scale follows. */
static ALWAYS_INLINE int x86_group(int type) {
    const int bits = kern_types[type].bits, room = bits <= 4 ? 8 : bits == 5 ? 4 : 2;
    return MIN(room, kern_types[type].sub / 4);
}

/* Takes w, numbers 4 i .. 4 i + 3 of sub-block j:
 *     maddubs   s = s + w a, and each x86_group words  sum = sum + scale_j s
 *     dpbusd    the same at the end of the sub-block */
static ALWAYS_INLINE AVX2 void put_avx2(int set, int type, rows8 *x, int j, int i, __m256i w) {
    const kern_type k = kern_types[type];
    const int word = k.sub / 4 * j + i, scaled = quant_types[type].block == 256, chains = k.sub / 16;
    const __m256i one = _mm256_set1_epi16(1);
    __m256i s, scale = one; /* of a sub-block */
    if (set == X86_PANEL && !(k.bits == 8 && x->pairs)) { /* words as they are */
        store_avx2(x->to.q + 4 * KERN_ROWS * word, w);
        return;
    }
    if (scaled && (set != X86_PANEL || k.bits == 8)) scale = loadi_avx2(x->to.scales + KERN_ROWS * j);
    if (set == X86_PANEL) {
        w = _mm256_xor_si256(w, bytes_avx2(128)); /* q again */
        UNROLL for (int h = 0; h < 2; h++) {
            const __m256i pair = two_bytes_avx2(w, 2 * h, 2 * h + 1);
            store_avx2(x->to.q + 4 * KERN_ROWS * (2 * word + h), scaled ? _mm256_mullo_epi16(pair, scale) : pair);
        }
        return;
    }
    if (set > X86_AVX2) { /* dpbusd */
        x->s[i % chains] = dpbusd_avx2(set, x->s[i % chains], w, x->q + 4 * word);
        if (4 * (i + 1) < k.sub) return;
        s = chains == 1 ? x->s[0] : _mm256_add_epi32(x->s[0], x->s[1]);
        if (scaled) s = _mm256_mullo_epi32(s, scale);
    } else if (k.bits < 8) { /* maddubs */
        x->s[0] = _mm256_add_epi16(x->s[0], _mm256_maddubs_epi16(w, four_avx2(x->q + 4 * word)));
        if ((i + 1) % x86_group(type)) return;
        s = _mm256_madd_epi16(x->s[0], scale);
    } else { /* |q| times a with the sign of q: 2 * 128 * 127 fits 16 bits, which 2 * 255 * 127 does not */
        const __m256i q = _mm256_xor_si256(w, bytes_avx2(128));
        s = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(four_avx2(x->q + 4 * word), q));
        x->s[0] = _mm256_add_epi32(x->s[0], _mm256_madd_epi16(s, one));
        if (4 * (i + 1) < k.sub) return;
        s = scaled ? _mm256_mullo_epi32(x->s[0], _mm256_srai_epi32(scale, 16)) : x->s[0];
    }
    x->sum = _mm256_add_epi32(x->sum, s);
    x->s[0] = x->s[1] = _mm256_setzero_si256(); /* the next sub-block */
}

/* Takes minima of numbers 32 i .. 32 i + 15 and 32 i + 16 .. 32 i + 31 of a block of 256, in pairs. */
static ALWAYS_INLINE AVX2 void put_min_avx2(int set, rows8 *x, int i, __m256i min) {
    if (set == X86_PANEL) store_avx2(x->to.mins + 2 * KERN_ROWS * i, min);
    else x->min_sum = _mm256_add_epi32(x->min_sum, _mm256_madd_epi16(min, four_avx2(x->sums + 2 * i)));
}

/* The offset whose share is in the sums. Sums of pairs with their sign have none. */
static ALWAYS_INLINE AVX2 int offset_x86(int set, int type, const rows8 *x) {
    const int with_sign = kern_types[type].bits == 8 && (set == X86_AVX2 || (set == X86_PANEL && x->pairs));
    return with_sign ? 0 : kern_types[type].offset;
}

/* Takes the scales of sub-blocks j .. j + 3, in bytes. To undo the offset they are minima, too: -offset scale in a
 * panel; otherwise end_avx2 multiplies. */
static ALWAYS_INLINE AVX2 void put_scales_avx2(int set, int type, rows8 *x, int j, __m256i v) {
    const int offset = offset_x86(set, type, x), sub = kern_types[type].sub;
    UNROLL for (int k = 0; k < 4; k++) {
        __m256i scale = two_bytes_avx2(v, k, k);
        store_avx2(x->to.scales + KERN_ROWS * (j + k), set > X86_AVX2 ? byte_avx2(v, k) : scale);
        if (!offset || (sub == 16 && k % 2 == 0)) continue;
        if (sub == 16) scale = two_bytes_avx2(v, k - 1, k);
        if (set == X86_PANEL) scale = _mm256_mullo_epi16(scale, _mm256_set1_epi16((short)-offset));
        put_min_avx2(set, x, (j + k) * sub / 32, scale);
    }
}

/* Takes the minima of sub-blocks j .. j + 3, in bytes. */
static ALWAYS_INLINE AVX2 void put_mins_avx2(int set, int type, rows8 *x, int j, __m256i v) {
    const int sub = kern_types[type].sub;
    UNROLL for (int k = 0; k < 4; k += 32 / sub)
        put_min_avx2(set, x, (j + k) * sub / 32, two_bytes_avx2(v, k, k + 32 / sub - 1));
}

/* acc = fma(d da, sum, acc), a lane for each row. */
static ALWAYS_INLINE AVX2 __m256 chain_avx2(__m256 acc, __m256 d, float da, __m256i sum) {
    return _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(da)), _mm256_cvtepi32_ps(sum), acc);
}

/* The end of a block, with its factors, m only of types with minima; what comes next is the block after it. */
static ALWAYS_INLINE AVX2 void end_avx2(int set, int type, rows8 *x, __m256 d, __m256 m) {
    const int block = quant_types[type].block, mins = quant_types[type].has_mins, offset = offset_x86(set, type, x);
    if (set == X86_PANEL) {
        _mm256_storeu_ps(x->to.d, d);
        if (mins) _mm256_storeu_ps(x->to.m, m);
        x->to.q += KERN_ROWS * block * (kern_types[type].bits == 8 && x->pairs ? 2 : 1);
        x->to.d += KERN_ROWS, x->to.m += KERN_ROWS; /* one for each row */
        if (block == 256) x->to.scales += KERN_ROWS * 256 / kern_types[type].sub, x->to.mins += KERN_ROWS * 256 / 16;
        return;
    }
    if (block == 32 && (mins || offset)) x->min_sum = _mm256_madd_epi16(four_avx2(x->sums), _mm256_set1_epi16(1));
    if (offset) x->sum = _mm256_sub_epi32(x->sum, _mm256_mullo_epi32(x->min_sum, _mm256_set1_epi32(offset)));
    x->acc = chain_avx2(x->acc, d, *x->da, x->sum);
    if (mins) x->acc = chain_avx2(x->acc, m, *x->da, x->min_sum);
    x->sum = x->min_sum = _mm256_setzero_si256(); /* the next block */
    x->q += block, x->sums += block / 16, x->da++; /* of the token */
}

/* The readers: the block whose bytes begin at `first` of each row. Layouts are those of quant_unpack_TYPE.
 *
 * This one: types with blocks of 32, which begin with d, then m where there are minima, then the fifth bits. */
static ALWAYS_INLINE AVX2 void read_simple_avx2(int set, int type, rows8 *x, size_t first) {
    const __m256i lanes = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    const int five = kern_types[type].bits == 5, n = type == QUANT_Q8_0 ? 8 : 4; /* words */
    const size_t qs = first + (size_t)(quant_types[type].bytes - 4 * n);
    const __m256i head = word8_avx2(x, first), fifth = five ? word8_avx2(x, qs - 4) : head;
    __m256i v[8];
    for (int i = 0; i < n; i += 4) words8_avx2(x, qs + (size_t)(4 * i), v + i);
    UNROLL for (int i = 0; i < 8; i++) {
        __m256i w = n == 8 ? _mm256_xor_si256(v[i], bytes_avx2(128)) : field_avx2(v[i % 4], i / 4 * 4, 15);
        if (type == QUANT_IQ4_NL) w = iq4_avx2(w);
        if (five) { /* byte i / 2 of `fifth` to all bytes; bit 4 (i % 2) + j of it decides about byte j */
            const __m256i bit = _mm256_set1_epi32(i % 2 ? (int)0x80402010 : 0x08040201);
            const __m256i byte = _mm256_shuffle_epi8(fifth, _mm256_add_epi32(lanes, bytes_avx2(i / 2)));
            const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(byte, bit), bit);
            w = _mm256_or_si256(w, _mm256_and_si256(is_set, bytes_avx2(16)));
        }
        put_avx2(set, type, x, 0, i, w);
    }
    end_avx2(set, type, x, halves8_avx2(head, 0), halves8_avx2(head, 1));
}

/* Q4_K and Q5_K */
static ALWAYS_INLINE AVX2 void read_q45_k_avx2(int set, int type, rows8 *x, size_t first) {
    const size_t qs = first + (type == QUANT_Q4_K ? 16 : 48);
    __m256i head[4], v[8], high[8]; /* words of scales, of low bits of 64 numbers, of fifth bits of all */
    words8_avx2(x, first, head); /* d and dmin, and the 12 bytes of scales */
    put_scales_avx2(set, type, x, 0, field_avx2(head[1], 0, 63));
    put_scales_avx2(set, type, x, 4, _mm256_or_si256(field_avx2(head[3], 0, 15), field_avx2(head[1], 2, 48)));
    put_mins_avx2(set, type, x, 0, field_avx2(head[2], 0, 63));
    put_mins_avx2(set, type, x, 4, _mm256_or_si256(field_avx2(head[3], 4, 15), field_avx2(head[2], 2, 48)));
    if (type == QUANT_Q5_K) words8_avx2(x, first + 16, high), words8_avx2(x, first + 32, high + 4);
    UNROLL for (int j = 0; j < 8; j += 2) {
        words8_avx2(x, qs + 16 * (size_t)j, v);
        words8_avx2(x, qs + 16 * (size_t)j + 16, v + 4);
        UNROLL for (int k = 0; k < 2; k++) UNROLL for (int i = 0; i < 8; i++) {
            __m256i w = field_avx2(v[i], 4 * k, 15);
            if (type == QUANT_Q5_K) w = _mm256_or_si256(w, field_avx2(high[i], j + k - 4, 16));
            put_avx2(set, type, x, j + k, i, w);
        }
    }
    end_avx2(set, type, x, halves8_avx2(head[0], 0), minus_avx2(halves8_avx2(head[0], 1)));
}

/* Q6_K: w = 4 low bits + 2 high bits << 4, the offset is 32; scales have signs. */
static ALWAYS_INLINE AVX2 void read_q6_k_avx2(int set, int type, rows8 *x, size_t first) {
    __m256i v[4];
    words8_avx2(x, first + 192, v); /* 16 scales */
    UNROLL for (int i = 0; i < 4; i++) put_scales_avx2(set, type, x, 4 * i, v[i]);
    for (int h = 0; h < 4; h++) { /* 16 numbers of each of the four sub-blocks 8 (h / 2) + h % 2 + 2 k */
        const size_t ql = first + (size_t)(h / 2 * 64 + h % 2 * 16);
        __m256i low[2][4], high[4]; /* words of low bits, of high bits of all four */
        words8_avx2(x, ql, low[0]); /* sub-blocks of k = 0 and 2 */
        words8_avx2(x, ql + 32, low[1]); /* of k = 1 and 3 */
        words8_avx2(x, first + 128 + 16 * (size_t)h, high);
        UNROLL for (int k = 0; k < 4; k++) UNROLL for (int i = 0; i < 4; i++)
            put_avx2(set, type, x, h / 2 * 8 + h % 2 + 2 * k, i,
                     _mm256_or_si256(field_avx2(low[k % 2][i], k / 2 * 4, 15), field_avx2(high[i], 2 * k - 4, 48)));
    }
    end_avx2(set, type, x, halves8_avx2(word8_avx2(x, first + 206), 1), _mm256_setzero_ps());
}

/* The two bits of Q2_K and, with the third one from `high`, of Q3_K: of four sub-blocks, 16 numbers each. */
static ALWAYS_INLINE AVX2 void read_bits2_avx2(int set, int type, rows8 *x, size_t qs, const __m256i *high) {
    for (int h = 0; h < 2; h++) UNROLL for (int g = 0; g < 2; g++) {
        __m256i v[4];
        words8_avx2(x, qs + (size_t)(32 * h + 16 * g), v);
        UNROLL for (int k = 0; k < 4; k++) UNROLL for (int i = 0; i < 4; i++) {
            __m256i w = field_avx2(v[i], 2 * k, 3);
            if (type == QUANT_Q3_K) { /* bit 4 h + k of a byte */
                const __m256i third = _mm256_srl_epi32(high[4 * g + i], _mm_cvtsi32_si128(4 * h));
                w = _mm256_or_si256(w, field_avx2(third, k - 2, 4));
            }
            put_avx2(set, type, x, 8 * h + 2 * k + g, i, w);
        }
    }
}

/* Q2_K: byte j of the first 16 has scale and minimum of sub-block j. */
static ALWAYS_INLINE AVX2 void read_q2_k_avx2(int set, int type, rows8 *x, size_t first) {
    const __m256i d = word8_avx2(x, first + 80); /* and dmin */
    __m256i v[4];
    words8_avx2(x, first, v); /* scales and minima */
    UNROLL for (int i = 0; i < 4; i++) {
        put_scales_avx2(set, type, x, 4 * i, field_avx2(v[i], 0, 15));
        put_mins_avx2(set, type, x, 4 * i, field_avx2(v[i], 4, 15));
    }
    read_bits2_avx2(set, type, x, first + 16, NULL);
    end_avx2(set, type, x, halves8_avx2(d, 0), minus_avx2(halves8_avx2(d, 1)));
}

/* Q3_K: the third bit is set where 4 need not be subtracted, so w = q + 4; scales are stored with 32 added. */
static ALWAYS_INLINE AVX2 void read_q3_k_avx2(int set, int type, rows8 *x, size_t first) {
    __m256i v[4], s[3], high[8]; /* words of 2 bits, of the 12 bytes, of third bits of all */
    words8_avx2(x, first, high); /* a bit of each of 256 numbers, as the next 16 bytes */
    words8_avx2(x, first + 16, high + 4);
    words8_avx2(x, first + 94, v); /* the 12 bytes, and two on each side: four more would leave the last block */
    UNROLL for (int i = 0; i < 3; i++)
        s[i] = _mm256_or_si256(_mm256_srli_epi32(v[i], 16), _mm256_slli_epi32(v[i + 1], 16));
    UNROLL for (int i = 0; i < 4; i++) {
        const __m256i scale = _mm256_or_si256(field_avx2(s[i % 2], i / 2 * 4, 15), field_avx2(s[2], 2 * i - 4, 48));
        put_scales_avx2(set, type, x, 4 * i, _mm256_sub_epi8(scale, bytes_avx2(32)));
    }
    read_bits2_avx2(set, type, x, first + 32, high);
    end_avx2(set, type, x, halves8_avx2(v[3], 1), _mm256_setzero_ps());
}

/* IQ4_XS: numbers are looked up; eight scales of 6 bits, stored with 32 added. */
static ALWAYS_INLINE AVX2 void read_iq4_xs_avx2(int set, int type, rows8 *x, size_t first) {
    const __m256i head = word8_avx2(x, first), low = word8_avx2(x, first + 4); /* d and high bits, low bits */
    for (int j = 0; j < 8; j += 4) { /* scales j .. j + 3: a byte each of their low four bits, and of the high two */
        __m256i scales = _mm256_setzero_si256(); /* four, a byte each */
        UNROLL for (int k = 0; k < 4; k++) {
            const __m256i l = _mm256_srl_epi32(low, _mm_cvtsi32_si128(4 * (j + k)));
            const __m256i h = _mm256_srl_epi32(head, _mm_cvtsi32_si128(16 + 2 * (j + k)));
            const __m256i scale = _mm256_or_si256(_mm256_and_si256(l, _mm256_set1_epi32(15)),
                                                  _mm256_slli_epi32(_mm256_and_si256(h, _mm256_set1_epi32(3)), 4));
            scales = _mm256_or_si256(scales, _mm256_slli_epi32(scale, 8 * k));
        }
        put_scales_avx2(set, type, x, j, _mm256_sub_epi8(scales, bytes_avx2(32)));
    }
    for (int j = 0; j < 8; j++) {
        __m256i v[4];
        words8_avx2(x, first + 8 + 16 * (size_t)j, v);
        UNROLL for (int i = 0; i < 8; i++) put_avx2(set, type, x, j, i, iq4_avx2(field_avx2(v[i % 4], i / 4 * 4, 15)));
    }
    end_avx2(set, type, x, halves8_avx2(head, 0), _mm256_setzero_ps());
}

/* Reads `count` blocks of eight rows. */
static ALWAYS_INLINE AVX2 void read_avx2(int set, int type, rows8 *x, int count) {
#define READER(type, name) \
    case type: \
        for (int b = 0; b < count; b++) { \
            const uint8_t *next = x->ahead ? x->ahead + 8 * quant_types[type].bytes : NULL; \
            x->fetch = quant_types[type].block == 256; \
            if (!x->fetch) fetch_x86(x, 8 * quant_types[type].bytes); \
            read_##name##_avx2(set, type, x, (size_t)b * (size_t)quant_types[type].bytes); \
            x->ahead = next; \
        } \
        break;
    switch (type) {
        READER(QUANT_Q8_0, simple) READER(QUANT_Q4_0, simple) READER(QUANT_Q4_1, simple) READER(QUANT_Q5_0, simple)
        READER(QUANT_Q5_1, simple) READER(QUANT_IQ4_NL, simple) READER(QUANT_Q2_K, q2_k) READER(QUANT_Q3_K, q3_k)
        READER(QUANT_Q4_K, q45_k) READER(QUANT_Q5_K, q45_k) READER(QUANT_Q6_K, q6_k) READER(QUANT_IQ4_XS, iq4_xs)
    }
#undef READER
}

/* A panel of 16 rows: numbers (n / 4, 16, 4) or, in 16 bits with their sign, (n / 2, 16, 2); scales twice each, in the
 * low and the high half of 32 bits; minima (n / 32, 16, 2), each of 16 numbers. */
static AVX2 void panel_fill_x86(int set, const panel *to, int type, const uint8_t *const *w, int count,
                                const uint8_t *ahead) {
    rows8 x; /* on the way */
    for (int half = 0; half < 2; half++) { /* rows 8 half .. 8 half + 7 */
        const panel places = {to->q + 32 * half, to->d + 8 * half, to->m + 8 * half, to->scales + 8 * half,
                              to->mins + 16 * half};
        x.to = places;
        x.pairs = set == X86_AVX2; /* which has no other product for numbers of 8 bits */
        x.ahead = ahead ? ahead + half * 8 * count * quant_types[type].bytes : NULL;
        memcpy(x.w, w + 8 * half, sizeof x.w);
        read_avx2(X86_PANEL, type, &x, count);
    }
}

/* Rows [row, row + n_rows) times the few tokens of a product, one token after the other. */
static ALWAYS_INLINE AVX2 void rows8_multiply_x86(int set, const product *p, int row, int n_rows) {
    const act_blocks *a = act_blocks_of(p->a, p->type);
    const quant_type *type = &quant_types[p->type];
    int32_t scales[16 * KERN_ROWS]; /* of the block at hand, for eight rows */
    for (int r = row; r < row + n_rows; r += 8) {
        const int rows = MIN(8, row + n_rows - r); /* rows past the end repeat the last */
        for (int k = 0; k < p->n_tokens; k++) {
            const size_t token = token_at(p, k);
            float y[8]; /* of these rows */
            rows8 x; /* on the way */
            for (int i = 0; i < 8; i++) x.w[i] = p->w + (size_t)(r + MIN(i, rows - 1)) * p->row_bytes;
            x.ahead = k == 0 && r + 16 <= row + n_rows ? x.w[7] + p->row_bytes : NULL;
            x.to.scales = scales;
            x.q = a->q8 + token, x.sums = a->sums + token / 16, x.da = a->d + token / (size_t)type->block;
            x.s[0] = x.s[1] = x.sum = x.min_sum = _mm256_setzero_si256();
            x.acc = _mm256_setzero_ps(); /* the chain begins */
            read_avx2(set, p->type, &x, p->a->n / type->block); /* whole rows */
            _mm256_storeu_ps(y, x.acc);
            memcpy(p->y + (size_t)k * (size_t)p->ldy + r, y, (size_t)rows * sizeof *y);
        }
    }
}

/* Says that eight sums are needed at the end of a loop's round: gcc puts one of them into memory otherwise. */
#ifdef __GNUC__
#define IN_REGISTERS(s) \
    __asm__("" : "+x"(s[0]), "+x"(s[1]), "+x"(s[2]), "+x"(s[3]), "+x"(s[4]), "+x"(s[5]), "+x"(s[6]), "+x"(s[7]))
#else
#define IN_REGISTERS(s) ((void)0)
#endif

/* out[2 k + h] += sum_i w_i a_i for token k and rows 8 h .. 8 h + 7: n words of 16 rows, pairs of 16 bits. */
static ALWAYS_INLINE AVX2 void pairs_dot_avx2(const void *words, int n, const int16_t *const a[4], __m256i out[8]) {
    const int16_t *w = words; /* (n, 16, 2) */
    __m256i s[8]; /* of 4 tokens and 2 halves of the rows */
    UNROLL for (int k = 0; k < 8; k++) s[k] = out[k];
    for (int i = 0; i < n; i++, w += 2 * KERN_ROWS) { /* a word of each row */
        const __m256i w0 = loadi_avx2(w), w1 = loadi_avx2(w + KERN_ROWS);
        UNROLL for (int k = 0; k < 4; k++) {
            const __m256i x = four_avx2(a[k] + 2 * i);
            s[2 * k] = _mm256_add_epi32(s[2 * k], _mm256_madd_epi16(w0, x));
            s[2 * k + 1] = _mm256_add_epi32(s[2 * k + 1], _mm256_madd_epi16(w1, x));
        }
        IN_REGISTERS(s);
    }
    UNROLL for (int k = 0; k < 8; k++) out[k] = s[k];
}

/* The same for the words of a sub-block, and for tokens from number `from` on, times scales unless those are NULL. Not
 * for maddubs and numbers of 8 bits. */
static ALWAYS_INLINE AVX2 void sub_dot_avx2(int set, int type, const uint8_t *w, const int8_t *const a[4], int from,
                                            const int32_t *scales, __m256i out[8]) {
    const int words = kern_types[type].sub / 4, group = set == X86_AVX2 ? x86_group(type) : words;
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i scale[2] = {scales ? loadi_avx2(scales) : one, scales ? loadi_avx2(scales + 8) : one};
    for (int j = 0; j < words; j += group) { /* as many as their sums hold */
        __m256i s[8]; /* of 4 tokens and 2 halves of the rows */
        UNROLL for (int k = 0; k < 8; k++) s[k] = set == X86_AVX2 || scales ? _mm256_setzero_si256() : out[k];
        for (int i = 0; i < group; i++, w += 4 * KERN_ROWS, from += 4) {
            const __m256i w0 = loadi_avx2(w), w1 = loadi_avx2(w + 2 * KERN_ROWS);
            UNROLL for (int k = 0; k < 4; k++) {
                const int8_t *q = a[k] + from;
                if (set > X86_AVX2) { /* dpbusd */
                    s[2 * k] = dpbusd_avx2(set, s[2 * k], w0, q), s[2 * k + 1] = dpbusd_avx2(set, s[2 * k + 1], w1, q);
                    continue;
                }
                s[2 * k] = _mm256_add_epi16(s[2 * k], _mm256_maddubs_epi16(w0, four_avx2(q)));
                s[2 * k + 1] = _mm256_add_epi16(s[2 * k + 1], _mm256_maddubs_epi16(w1, four_avx2(q)));
            }
            IN_REGISTERS(s);
        }
        UNROLL for (int k = 0; k < 8; k++) {
            if (set == X86_AVX2) out[k] = _mm256_add_epi32(out[k], _mm256_madd_epi16(s[k], scale[k % 2]));
            else if (!scales) out[k] = s[k];
            else out[k] = _mm256_add_epi32(out[k], _mm256_mullo_epi32(s[k], _mm256_srai_epi32(scale[k % 2], 16)));
        }
    }
}

/* A panel times four tokens: acc[2 k + h] has rows 8 h .. 8 h + 7 of token k. */
static ALWAYS_INLINE AVX2 void panel_tile_avx2(int set, int type, const panel *f, int count, const panel_tile *t) {
    const int block = quant_types[type].block, sub = kern_types[type].sub, mins = quant_types[type].has_mins;
    const __m256i factor = _mm256_set1_epi16((short)(mins ? 1 : -kern_types[type].offset));
    __m256 acc[8]; /* the chains */
    UNROLL for (int k = 0; k < 8; k++) acc[k] = _mm256_loadu_ps(t->y[k / 2] + k % 2 * 8);
    for (int b = 0; b < count; b++) {
        __m256i s[8], m[8]; /* sums with numbers and with minima; without minima, s has what undoes the offset */
        UNROLL for (int k = 0; k < 8; k++) s[k] = m[k] = _mm256_setzero_si256();
        if (set == X86_AVX2 && kern_types[type].bits == 8) {
            const int16_t *const a[4] = {t->q16[0] + block * b, t->q16[1] + block * b, t->q16[2] + block * b,
                                         t->q16[3] + block * b};
            pairs_dot_avx2(f->q + 2 * KERN_ROWS * block * b, block / 2, a, s);
        } else if (block == 32) {
            UNROLL for (int k = 0; k < 8; k++) m[k] = _mm256_madd_epi16(four_avx2(t->sums[k / 2] + 2 * b), factor);
            UNROLL for (int k = 0; k < 8; k++) if (!mins) s[k] = m[k];
            sub_dot_avx2(set, type, f->q + KERN_ROWS * 32 * b, t->q, 32 * b, NULL, s);
        } else {
            const int16_t *const a[4] = {t->sums[0] + 16 * b, t->sums[1] + 16 * b, t->sums[2] + 16 * b,
                                         t->sums[3] + 16 * b};
            for (int i = 256 * b; i < 256 * (b + 1); i += sub)
                sub_dot_avx2(set, type, f->q + KERN_ROWS * i, t->q, i, f->scales + KERN_ROWS * (i / sub), s);
            pairs_dot_avx2(f->mins + KERN_ROWS * 16 * b, 8, a, mins ? m : s);
        }
        UNROLL for (int k = 0; k < 8; k++) {
            const float da = t->d[k / 2][b];
            acc[k] = chain_avx2(acc[k], _mm256_loadu_ps(f->d + KERN_ROWS * b + k % 2 * 8), da, s[k]);
            if (mins) acc[k] = chain_avx2(acc[k], _mm256_loadu_ps(f->m + KERN_ROWS * b + k % 2 * 8), da, m[k]);
        }
    }
    UNROLL for (int k = 0; k < 8; k++) _mm256_storeu_ps(t->y[k / 2] + k % 2 * 8, acc[k]);
}

/* The tile of each type, compiled for it and for `set`. */
#define TILE_X86(type, block, sub, bits, offset) case type: panel_tile_avx2(set, type, f, count, t); break;
static AVX2 void panel_dot_avx2(const panel *f, int type, int count, const panel_tile *t) {
    enum { set = X86_AVX2 };
    switch (type) { KERN_TYPES(TILE_X86) }
}

static AVX2 void rows8_avx2(const product *p, int row, int n_rows) {
    rows8_multiply_x86(X86_AVX2, p, row, n_rows);
}

static const product_set set_avx2 = {X86_AVX2, KERN_ROWS, 4, 3, multiply_float_avx2, rows8_avx2, panel_fill_x86,
                                     panel_dot_avx2};

/* exp32 in eight lanes. */
static ALWAYS_INLINE AVX2 __m256 exp8_avx2(__m256 x) {
    const __m256 magic = _mm256_set1_ps(ROUND_MAGIC);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(EXP_LOG2E), magic), n = _mm256_sub_ps(t, magic), r, p, y, over, under;
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(magic));
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(EXP_LN2_HI), x); /* r = x - n ln 2, in two steps */
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(EXP_LN2_LO), r);
    p = _mm256_set1_ps(exp_poly[0]); /* the polynomial for exp r */
    UNROLL for (int k = 1; k < COUNT(exp_poly); k++) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(exp_poly[k]));
    y = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(i, _mm256_set1_epi32(127)), 23)));
    under = _mm256_cmp_ps(x, _mm256_set1_ps(EXP_MIN), _CMP_LT_OQ);
    over = _mm256_cmp_ps(x, _mm256_set1_ps(EXP_MAX), _CMP_NLE_UQ);
    y = _mm256_andnot_ps(under, y); /* below: 0 */
    return _mm256_blendv_ps(y, _mm256_add_ps(x, _mm256_set1_ps(INFINITY)), over);
}

/* The sum of squares is a float product of x with itself. */
static AVX2 void rms_norm_avx2(float *out, const float *x, const float *w, int n, float eps) {
    __m256 s = _mm256_setzero_ps(), v, scale8;
    float scale; /* 1 / sqrt(mean + eps) */
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        v = _mm256_loadu_ps(x + i);
        s = _mm256_fmadd_ps(v, v, s);
    }
    if (i < n) {
        v = load_tail_avx2(QUANT_F32, (const uint8_t *)(const void *)(x + i), n - i);
        s = _mm256_fmadd_ps(v, v, s);
    }
    scale = 1.0f / sqrtf(sum8_avx2(s) / (float)n + eps);
    scale8 = _mm256_set1_ps(scale);
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), scale8), _mm256_loadu_ps(w + i)));
    for (; i < n; i++) out[i] = x[i] * scale * w[i];
}

/* Eight at a time, and the rest by the definition, as each number is by itself. */
static AVX2 void swiglu_avx2(float *gate, const float *up, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 g = _mm256_loadu_ps(gate + i), e = exp8_avx2(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));
        g = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
        _mm256_storeu_ps(gate + i, _mm256_mul_ps(g, _mm256_loadu_ps(up + i)));
    }
    swiglu_c(gate + i, up + i, n - i);
}

/* (a, b) becomes (a cos - b sin, b cos + a sin); both products but one rounding each, as in rope_c. */
static AVX2 void rope_avx2(float *x, const float *cs, int half, int neox) {
    int i = 0;
    const float *sn = cs + half; /* sines */
    if (half % 8) {
        rope_c(x, cs, half, neox);
        return;
    }
    for (; neox && i < half; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + half + i), c = _mm256_loadu_ps(cs + i),
               s = _mm256_loadu_ps(sn + i);
        _mm256_storeu_ps(x + i, _mm256_fmadd_ps(a, c, _mm256_mul_ps(b, _mm256_xor_ps(s, _mm256_set1_ps(-0.0f)))));
        _mm256_storeu_ps(x + half + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
    for (; !neox && i < half; i += 4) { /* four pairs: cos doubled, sine with the sign of its place */
        __m256 v = _mm256_loadu_ps(x + 2 * i), swapped = _mm256_permute_ps(v, 0xb1);
        __m128 c = _mm_loadu_ps(cs + i), s = _mm_loadu_ps(sn + i), m = _mm_xor_ps(s, _mm_set1_ps(-0.0f));
        __m256 cc = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_unpacklo_ps(c, c)), _mm_unpackhi_ps(c, c), 1);
        __m256 ss = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_unpacklo_ps(m, s)), _mm_unpackhi_ps(m, s), 1);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmadd_ps(v, cc, _mm256_mul_ps(swapped, ss)));
    }
}

/* Eight positions at a time, past the end the last one again. */
static ALWAYS_INLINE AVX2 void scores_type_avx2(int type, float *scores, const float *q, const uint8_t *k, int n,
                                                int head_dim, float scale) {
    const size_t stride = (size_t)(head_dim * (type == QUANT_F32 ? 4 : 2)); /* bytes of a position */
    for (int t = 0; t < n; t += 8) {
        const uint8_t *row[8]; /* eight positions */
        float out[8]; /* eight products */
        __m256 s[8]; /* of 8 rows and one token, or of 2 rows and four */
        UNROLL for (int r = 0; r < 8; r++) row[r] = k + (size_t)MIN(t + r, n - 1) * stride;
        UNROLL for (int r = 0; r < 8; r++) s[r] = _mm256_setzero_ps();
        dot_floats_avx2(type, 1, row, &q, head_dim & ~7, s);
        s[0] = dot_end_avx2(type, row, &q, 1, head_dim & ~7, head_dim, s);
        _mm256_storeu_ps(out, _mm256_mul_ps(s[0], _mm256_set1_ps(scale)));
        memcpy(scores + t, out, (size_t)MIN(8, n - t) * sizeof *out);
    }
}

/* The function above for floats and for halves, and so on with the next three. */
static AVX2 void scores_avx2(float *scores, const float *q, const uint8_t *k, int n, int head_dim, int f16,
                             float scale) {
    if (f16) scores_type_avx2(QUANT_F16, scores, q, k, n, head_dim, scale);
    else scores_type_avx2(QUANT_F32, scores, q, k, n, head_dim, scale);
}

/* Two positions times four q at a time; lane 4 r + k is position t + r and q k. */
static ALWAYS_INLINE AVX2 void scores4_type_avx2(int type, float *scores, size_t stride, const float *const q[4],
                                                 const uint8_t *k, int n, int head_dim, float scale) {
    const size_t size = (size_t)(head_dim * (type == QUANT_F32 ? 4 : 2)); /* bytes of a position */
    for (int t = 0; t < n; t += 2) {
        const uint8_t *const row[2] = {k + (size_t)t * size, k + (size_t)MIN(t + 1, n - 1) * size};
        float out[8]; /* eight products */
        __m256 s[8]; /* of 8 rows and one token, or of 2 rows and four */
        UNROLL for (int r = 0; r < 8; r++) s[r] = _mm256_setzero_ps();
        dot_floats_avx2(type, 4, row, q, head_dim & ~7, s);
        s[0] = dot_end_avx2(type, row, q, 4, head_dim & ~7, head_dim, s);
        _mm256_storeu_ps(out, _mm256_mul_ps(s[0], _mm256_set1_ps(scale)));
        for (size_t i = 0; i < (t + 1 < n ? 8 : 4); i++) scores[i % 4 * stride + (size_t)t + i / 4] = out[i];
    }
}

static AVX2 void scores4_avx2(float *scores, size_t stride, const float *const q[4], const uint8_t *k, int n,
                              int head_dim, int f16, float scale) {
    if (f16) scores4_type_avx2(QUANT_F16, scores, stride, q, k, n, head_dim, scale);
    else scores4_type_avx2(QUANT_F32, scores, stride, q, k, n, head_dim, scale);
}

/* Where n is no multiple of eight, lanes past the end must add nothing: the last numbers are added one by one. */
static AVX2 float softmax_avx2(float *x, int n) {
    __m256 m = _mm256_set1_ps(-INFINITY), s = _mm256_setzero_ps(); /* maxima, and partial sums */
    float lanes[8], max = -INFINITY; /* of m, and later of s */
    int i = 0;
    for (; i + 8 <= n; i += 8) m = _mm256_max_ps(m, _mm256_loadu_ps(x + i));
    _mm256_storeu_ps(lanes, m);
    for (int j = 0; j < 8; j++) max = MAX(max, lanes[j]);
    for (; i < n; i++) max = MAX(max, x[i]);
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 e = exp8_avx2(_mm256_sub_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(max)));
        _mm256_storeu_ps(x + i, e);
        s = _mm256_add_ps(s, e);
    }
    if (i < n) {
        float end[8] = {0};
        memcpy(end, x + i, (size_t)(n - i) * sizeof *end);
        _mm256_storeu_ps(end, exp8_avx2(_mm256_sub_ps(_mm256_loadu_ps(end), _mm256_set1_ps(max))));
        memcpy(x + i, end, (size_t)(n - i) * sizeof *end);
        _mm256_storeu_ps(lanes, s);
        for (int j = 0; j < n - i; j++) lanes[j] += end[j];
        return sum8(lanes);
    }
    return sum8_avx2(s);
}

/* 32 outputs stay in registers while all positions go by, in order. */
static ALWAYS_INLINE AVX2 void accumulate_type_avx2(int type, float *out, const float *p, const uint8_t *v, int n,
                                                    int head_dim) {
    const int size = type == QUANT_F32 ? 4 : 2; /* bytes of a number */
    const size_t stride = (size_t)(head_dim * size); /* bytes of a position */
    int i = 0;
    for (; i + 32 <= head_dim; i += 32) {
        const uint8_t *row = v + i * size; /* of position t */
        __m256 s[4]; /* 32 outputs */
        UNROLL for (int j = 0; j < 4; j++) s[j] = _mm256_loadu_ps(out + i + 8 * j);
        for (int t = 0; t < n; t++, row += stride) {
            const __m256 w = _mm256_set1_ps(p[t]);
            UNROLL for (int j = 0; j < 4; j++) s[j] = _mm256_fmadd_ps(w, load8_avx2(type, row + 8 * j * size), s[j]);
        }
        UNROLL for (int j = 0; j < 4; j++) _mm256_storeu_ps(out + i + 8 * j, s[j]);
    }
    for (; i < head_dim; i++)
        for (int t = 0; t < n; t++) out[i] = fma32(p[t], load_float(type, v + (size_t)t * stride, i), out[i]);
}

static AVX2 void accumulate_avx2(float *out, const float *p, const uint8_t *v, int n, int head_dim, int f16) {
    if (f16) accumulate_type_avx2(QUANT_F16, out, p, v, n, head_dim);
    else accumulate_type_avx2(QUANT_F32, out, p, v, n, head_dim);
}

/* 16 outputs of each of four, for which v is read once. */
static ALWAYS_INLINE AVX2 void accumulate4_type_avx2(int type, float *const out[4], const float *p, size_t stride,
                                                     const uint8_t *v, int n, int head_dim) {
    const int size = type == QUANT_F32 ? 4 : 2, whole = head_dim & ~15; /* bytes of a number, numbers in vectors */
    for (int i = 0; i < whole; i += 16) {
        const uint8_t *at = v + i * size; /* of position t */
        __m256 a[4], b[4]; /* outputs i .. i + 7 and i + 8 .. i + 15 of each */
        UNROLL for (int j = 0; j < 4; j++) a[j] = _mm256_loadu_ps(out[j] + i), b[j] = _mm256_loadu_ps(out[j] + i + 8);
        for (int t = 0; t < n; t++, at += head_dim * size) {
            const __m256 x = load8_avx2(type, at), y = load8_avx2(type, at + 8 * size);
            UNROLL for (size_t j = 0; j < 4; j++) {
                const __m256 w = _mm256_set1_ps(p[j * stride + (size_t)t]);
                a[j] = _mm256_fmadd_ps(w, x, a[j]), b[j] = _mm256_fmadd_ps(w, y, b[j]);
            }
        }
        UNROLL for (int j = 0; j < 4; j++) _mm256_storeu_ps(out[j] + i, a[j]), _mm256_storeu_ps(out[j] + i + 8, b[j]);
    }
    for (size_t j = 0, t; whole < head_dim && j < 4; j++)
        for (t = 0; t < (size_t)n; t++)
            for (int i = whole; i < head_dim; i++)
                out[j][i] = fma32(p[j * stride + t], load_float(type, v + t * (size_t)(head_dim * size), i), out[j][i]);
}

static AVX2 void accumulate4_avx2(float *const out[4], const float *p, size_t stride, const uint8_t *v, int n,
                                  int head_dim, int f16) {
    if (f16) accumulate4_type_avx2(QUANT_F16, out, p, stride, v, n, head_dim);
    else accumulate4_type_avx2(QUANT_F32, out, p, stride, v, n, head_dim);
}

/* The conversion of the processor rounds to even, as f32_f16 does. */
static AVX2 void to_f16_avx2(uint8_t *out, const float *x, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(out + 2 * i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    to_f16_c(out + 2 * i, x + i, n - i);
}

static AVX2 void axpy_avx2(float *out, float a, const float *x, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_fmadd_ps(_mm256_set1_ps(a), _mm256_loadu_ps(x + i), _mm256_loadu_ps(out + i)));
    axpy_c(out + i, a, x + i, n - i);
}

/* What all instruction sets of x86 do alike, and the products of one of them. */
#define KERN_X86(cpu, set) \
    {cpu, quantize_avx2, &set, rms_norm_avx2, swiglu_avx2, rope_avx2, scores_avx2, \
     softmax_avx2, accumulate_avx2, scores4_avx2, accumulate4_avx2, to_f16_avx2, axpy_avx2}
static const kern kern_avx2 = KERN_X86(POLAR_CPU_AVX2, set_avx2);

#ifdef POLAR_X86_VNNI
/* AVX-VNNI, dpbusd of 256 bits. */
static AVX2 void panel_dot_avxvnni(const panel *f, int type, int count, const panel_tile *t) {
    enum { set = X86_VNNI };
    switch (type) { KERN_TYPES(TILE_X86) }
}

static AVX2 void rows8_avxvnni(const product *p, int row, int n_rows) {
    rows8_multiply_x86(X86_VNNI, p, row, n_rows);
}

static const product_set set_avxvnni = {X86_VNNI, KERN_ROWS, 4, 2, multiply_float_avx2, rows8_avxvnni, panel_fill_x86,
                                        panel_dot_avxvnni};

static const kern kern_avxvnni = KERN_X86(POLAR_CPU_AVXVNNI, set_avxvnni);
#endif

/* Registers a, b, c, d of cpuid; zeros where the processor does not know this leaf. */
static void cpu_id(unsigned leaf, unsigned part, unsigned r[4]) {
#ifdef _MSC_VER
    int id[4];
    memset(r, 0, 4 * sizeof *r);
    __cpuid(id, 0);
    if ((unsigned)id[0] < leaf) return;
    __cpuidex(id, (int)leaf, (int)part);
    memcpy(r, id, sizeof id);
#else
    if (!__get_cpuid_count(leaf, part, &r[0], &r[1], &r[2], &r[3])) memset(r, 0, 4 * sizeof *r);
#endif
}

/* Whether the operating system keeps these registers of a thread (bits of XCR0). The compilers' own question,
 * __builtin_cpu_supports, needs a library that not every toolchain has. */
static int cpu_keeps(unsigned registers) {
    unsigned r[4], a; /* registers of cpuid, and XCR0 */
    cpu_id(1, 0, r);
    if (!(r[2] >> 27 & 1)) return 0; /* OSXSAVE: xgetbv exists */
#ifdef _MSC_VER
    a = (unsigned)_xgetbv(0);
#else
    __asm__ __volatile__("xgetbv" : "=a"(a) : "c"(0) : "edx");
#endif
    return (a & registers) == registers;
}

/* The instructions of AVX2, FMA and F16C, and a system that keeps their registers. */
static int cpu_has_avx2(void) {
    const unsigned f1c = 1u << 12 | 1u << 28 | 1u << 29; /* FMA, AVX, F16C */
    unsigned r[4]; /* a, b, c, d */
    cpu_id(1, 0, r);
    if ((r[2] & f1c) != f1c || !cpu_keeps(0x06)) return 0; /* xmm, ymm */
    cpu_id(7, 0, r);
    return r[1] >> 5 & 1;
}

#ifdef POLAR_X86_VNNI
/* The instruction, beside all of AVX2. */
static int cpu_has_avxvnni(void) {
    unsigned r[4]; /* a, b, c, d */
    cpu_id(7, 0, r);
    if (r[0] < 1) return 0; /* there is no part 1 */
    cpu_id(7, 1, r);
    return (r[0] >> 4 & 1) && cpu_has_avx2();
}
#endif

/* --- x86 with AVX-512 and its integer dot products (VNNI). AVX2 does all but quantized products. --- */
#ifdef POLAR_X86_512
#define AVX512 TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

/* Four bytes in every lane. */
static ALWAYS_INLINE AVX512 __m512i four_avx512(const void *p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

/* A panel times 4 or 8 tokens, as panel_tile_avx2 does it, 16 rows in a register. */
static ALWAYS_INLINE AVX512 void panel_tile_avx512(int tokens, int type, const panel *f, int count,
                                                   const panel_tile *t) {
    const int block = quant_types[type].block, sub = kern_types[type].sub, mins = quant_types[type].has_mins;
    const __m512i factor = _mm512_set1_epi16((short)(mins ? 1 : -kern_types[type].offset));
    const int8_t *q[PANEL_TOKENS]; /* numbers of the tokens */
    __m512 acc[PANEL_TOKENS]; /* the chains, a token each */
    UNROLL for (int k = 0; k < tokens; k++) acc[k] = _mm512_loadu_ps(t->y[k]), q[k] = t->q[k];
    for (int b = 0; b < count; b++) {
        __m512i s[PANEL_TOKENS], m[PANEL_TOKENS]; /* sums of a block with numbers, with minima */
        UNROLL for (int k = 0; k < tokens; k++) s[k] = m[k] = _mm512_setzero_si512();
        if (block == 32) {
            UNROLL for (int k = 0; k < tokens; k++) m[k] = _mm512_madd_epi16(four_avx512(t->sums[k] + 2 * b), factor);
            UNROLL for (int k = 0; k < tokens; k++) if (!mins) s[k] = m[k];
        }
        for (int i = block * b; i < block * (b + 1); i += sub) {
            __m512i u[PANEL_TOKENS]; /* sums of a sub-block */
            UNROLL for (int k = 0; k < tokens; k++) u[k] = block == 32 ? s[k] : _mm512_setzero_si512();
            for (int j = i; j < i + sub; j += 4) {
                const __m512i w = _mm512_loadu_si512(f->q + KERN_ROWS * j);
                UNROLL for (int k = 0; k < tokens; k++) u[k] = _mm512_dpbusd_epi32(u[k], w, four_avx512(q[k] + j));
            }
            if (block == 32) {
                UNROLL for (int k = 0; k < tokens; k++) s[k] = u[k];
            } else {
                const __m512i scale = _mm512_srai_epi32(_mm512_loadu_si512(f->scales + KERN_ROWS * (i / sub)), 16);
                UNROLL for (int k = 0; k < tokens; k++) s[k] = _mm512_add_epi32(s[k], _mm512_mullo_epi32(u[k], scale));
            }
        }
        for (int j = 0; block == 256 && (mins || kern_types[type].offset) && j < 8; j++) {
            const __m512i w = _mm512_loadu_si512(f->mins + KERN_ROWS * (16 * b + 2 * j));
            UNROLL for (int k = 0; k < tokens; k++) {
                const __m512i x = four_avx512(t->sums[k] + 16 * b + 2 * j);
                if (mins) m[k] = _mm512_dpwssd_epi32(m[k], w, x);
                else s[k] = _mm512_dpwssd_epi32(s[k], w, x);
            }
        }
        UNROLL for (int k = 0; k < tokens; k++) {
            const __m512 da = _mm512_set1_ps(t->d[k][b]);
            const __m512 d = _mm512_mul_ps(_mm512_loadu_ps(f->d + KERN_ROWS * b), da);
            acc[k] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(s[k]), acc[k]);
            if (!mins) continue;
            const __m512 factor_m = _mm512_mul_ps(_mm512_loadu_ps(f->m + KERN_ROWS * b), da);
            acc[k] = _mm512_fmadd_ps(factor_m, _mm512_cvtepi32_ps(m[k]), acc[k]);
        }
    }
    UNROLL for (int k = 0; k < tokens; k++) _mm512_storeu_ps(t->y[k], acc[k]);
}

/* The tile of each type and number of tokens. */
static AVX512 void panel_dot_avx512(const panel *f, int type, int count, const panel_tile *t) {
    switch (type) {
#define TYPE(type, block, sub, bits, offset) \
    case type: \
        if (t->n_tokens == 4) panel_tile_avx512(4, type, f, count, t); \
        else panel_tile_avx512(8, type, f, count, t); \
        break;
        KERN_TYPES(TYPE)
#undef TYPE
    }
}

static AVX512 void rows8_avx512(const product *p, int row, int n_rows) {
    rows8_multiply_x86(X86_AVX512, p, row, n_rows);
}

static const product_set set_avx512 = {X86_AVX512, KERN_ROWS, 8, 2, multiply_float_avx2, rows8_avx512, panel_fill_x86,
                                       panel_dot_avx512};

static const kern kern_avx512 = KERN_X86(POLAR_CPU_AVX512, set_avx512);

#ifdef POLAR_X86_VNNI
/* AVX-VNNI's functions with the encoding of AVX-512, for processors that only have this one: to compare their bits. */
static AVX512 void panel_dot_avx512vl(const panel *f, int type, int count, const panel_tile *t) {
    enum { set = X86_AVX512 };
    switch (type) { KERN_TYPES(TILE_X86) }
}

static const product_set set_avx512vl = {X86_VNNI, KERN_ROWS, 4, 2, multiply_float_avx2, rows8_avx512, panel_fill_x86,
                                         panel_dot_avx512vl};

static const kern kern_avx512vl = KERN_X86(POLAR_CPU_AVXVNNI, set_avx512vl);
#endif

/* The instructions, and an operating system that keeps their registers. */
static int cpu_has_avx512(void) {
    const unsigned f7b = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    unsigned r[4]; /* a, b, c, d */
    cpu_id(7, 0, r);
    return (r[1] & f7b) == f7b && (r[2] >> 11 & 1) && cpu_has_avx2() && cpu_keeps(0xe6); /* and zmm, masks */
}

/* --- x86 with AMX: the products of 16 rows and 16 tokens by one instruction, all else as AVX-512 does it ---
 *
 * A tile is a register of up to 16 rows of 64 bytes. tdpbssd adds the products of n numbers of 16 tokens, (16, n), and
 * of n / 4 words of a panel's 16 rows, (n / 4, 16, 4), to (16, 16) integers; tdpbsud does so for words without sign.
 * There is no place for scales in it, so those of blocks of 256 go into the numbers, which become two planes of bytes:
 *     128 high_i + low_i = q_i scale_i; sum_i q_i scale_i a_i = 128 sum_i high_i a_i + sum_i low_i a_i
 * No machine has run this yet - it is tested with the instructions written in C, tests/tiles.h - so it runs where it is
 * asked for by name and is never chosen. */
#ifdef POLAR_X86_AMX
#define AMX TARGET("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#ifdef POLAR_TILES /* the instructions written in C */
#include POLAR_TILES
#else
#define TILES
#define TILE_SHAPES(shapes) _tile_loadconfig(shapes)
#define TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_SIGNED(sum, a, w) _tile_dpbssd(sum, a, w)
#define TILE_UNSIGNED(sum, a, w) _tile_dpbsud(sum, a, w)
#define TILE_END() _tile_release()
#endif
/* Tiles by number: 0 and 1 sums, 2 and 3 tokens and words of 64 numbers, 4 and 5 of 32. */
static const struct { uint8_t palette, first[15]; uint16_t bytes[16]; uint8_t rows[16]; } tile_shapes = {
    1, {0}, {64, 64, 64, 64, 32, 64}, {16, 16, 16, 16, 16, 8}};

/* Tells the compiler that memory is read and written here, which its own names for the instructions may not say. */
#define MEMORY() __asm__ __volatile__("" : : : "memory")

/* As panel_fill_x86, and then the numbers of blocks of 256 become planes, (n / 256, 2, 64, 16, 4), from the last block
 * to the first, so that none is overwritten before it is read. |q scale| <= 4096, so high and low fit. */
static AVX512 void panel_fill_amx(int set, const panel *to, int type, const uint8_t *const *w, int count,
                                  const uint8_t *ahead) {
    const __m512i offset = _mm512_set1_epi8((char)kern_types[type].offset), low = _mm512_set1_epi16(127);
    panel_fill_x86(set, to, type, w, count, ahead);
    for (int b = quant_types[type].block == 256 ? count - 1 : -1; b >= 0; b--)
        for (int i = 0; i < 64; i++) {
            const int32_t *scales = to->scales + KERN_ROWS * ((256 * b + 4 * i) / kern_types[type].sub);
            const __m512i scale = _mm512_loadu_si512(scales);
            const __m512i q = _mm512_sub_epi8(_mm512_loadu_si512(to->q + 4 * KERN_ROWS * (64 * b + i)), offset);
            const __m512i even = _mm512_mullo_epi16(_mm512_srai_epi16(_mm512_slli_epi16(q, 8), 8), scale);
            const __m512i odd = _mm512_mullo_epi16(_mm512_srai_epi16(q, 8), scale);
            uint8_t *out = to->q + 4 * KERN_ROWS * (128 * b + i); /* high, and low a plane behind it */
            _mm512_storeu_si512(out, _mm512_or_si512(
                _mm512_and_si512(_mm512_srai_epi16(even, 7), _mm512_set1_epi16(255)),
                _mm512_slli_epi16(_mm512_srai_epi16(odd, 7), 8)));
            _mm512_storeu_si512(out + KERN_ROWS * 256, _mm512_or_si512(
                _mm512_and_si512(even, low), _mm512_slli_epi16(_mm512_and_si512(odd, low), 8)));
        }
}

static AMX void panel_dot_amx(const panel *f, int type, int count, const panel_tile *t) {
    const int block = quant_types[type].block, mins = quant_types[type].has_mins, large = block == 256;
    const __m512i factor = _mm512_set1_epi16((short)(mins ? 1 : -kern_types[type].offset));
    const uint8_t *w = f->q; /* of the block at hand */
    const int8_t *q = t->q[0];
    ptrdiff_t stride = t->n_tokens > 1 ? t->q[1] - q : 0; /* from token to token, where it is one */
    int8_t copy[PANEL_TOKENS * PANEL_NUMBERS / KERN_ROWS]; /* of tokens that lie otherwise */
    int32_t sums[2][PANEL_TOKENS][KERN_ROWS];
    int even = t->n_tokens == PANEL_TOKENS;
    TILES
    for (int k = 1; k < t->n_tokens; k++) even = even && t->q[k] - t->q[k - 1] == stride;
    if (!even) {
        stride = block * count;
        for (int k = 0; k < PANEL_TOKENS; k++) memcpy(copy + k * stride, t->q[MIN(k, t->n_tokens - 1)], (size_t)stride);
        q = copy;
    }
    TILE_SHAPES(&tile_shapes);
    for (int b = 0; b < count; b++, q += block) {
        __m512i min[8]; /* of a block of 256 */
        MEMORY();
        TILE_ZERO(0);
        TILE_ZERO(1);
        if (!large) {
            TILE_LOAD(4, q, stride);
            TILE_LOAD(5, w, 4 * KERN_ROWS);
            TILE_UNSIGNED(0, 4, 5);
        }
        for (int i = 0; large && i < 256; i += 64) {
            TILE_LOAD(2, q + i, stride);
            TILE_LOAD(3, w + KERN_ROWS * i, 4 * KERN_ROWS);
            TILE_SIGNED(1, 2, 3);
            TILE_LOAD(3, w + KERN_ROWS * (256 + i), 4 * KERN_ROWS);
            TILE_SIGNED(0, 2, 3);
        }
        TILE_STORE(0, sums[0], 4 * KERN_ROWS);
        if (large) TILE_STORE(1, sums[1], 4 * KERN_ROWS);
        MEMORY();
        w += KERN_ROWS * block * (large ? 2 : 1);
        for (int j = 0; j < 8 && large && mins; j++)
            min[j] = _mm512_loadu_si512(f->mins + KERN_ROWS * (16 * b + 2 * j));
        for (int k = 0; k < t->n_tokens; k++) {
            const __m512 da = _mm512_set1_ps(t->d[k][b]), d = _mm512_mul_ps(_mm512_loadu_ps(f->d + KERN_ROWS * b), da);
            __m512i s = _mm512_loadu_si512(sums[0][k]), m = _mm512_setzero_si512(); /* with numbers, with minima */
            __m512 acc = _mm512_loadu_ps(t->y[k]); /* the chain */
            if (large) s = _mm512_add_epi32(s, _mm512_slli_epi32(_mm512_loadu_si512(sums[1][k]), 7));
            else m = _mm512_madd_epi16(four_avx512(t->sums[k] + 2 * b), factor);
            if (!large && !mins) s = _mm512_add_epi32(s, m); /* the offset undone */
            acc = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(s), acc);
            if (mins) {
                for (int j = 0; j < 8 && large; j++)
                    m = _mm512_dpwssd_epi32(m, min[j], four_avx512(t->sums[k] + 16 * b + 2 * j));
                acc = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_loadu_ps(f->m + KERN_ROWS * b), da), _mm512_cvtepi32_ps(m),
                                      acc);
            }
            _mm512_storeu_ps(t->y[k], acc);
        }
    }
    TILE_END();
}

static const product_set set_amx = {X86_AVX512, KERN_ROWS, PANEL_TOKENS, 2, multiply_float_avx2, rows8_avx512,
                                    panel_fill_amx, panel_dot_amx};

static const kern kern_amx = KERN_X86(POLAR_CPU_AMX, set_amx);

/* The instructions, and the system's leave to use the tiles' 8 KB in each thread. */
static int cpu_has_amx(void) {
#ifndef POLAR_TILES
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, the number of this part of a thread's state */
    unsigned r[4]; /* a, b, c, d */
    cpu_id(7, 0, r);
    if ((r[3] >> 24 & 3) != 3 || !cpu_keeps(0x60000)) return 0; /* AMX-TILE, AMX-INT8; tiles and their shapes */
    if (syscall(SYS_arch_prctl, REQUEST, TILE_DATA)) return 0;
#endif
    return cpu_has_avx512();
}
#endif
#endif /* POLAR_X86_512 */
#endif

/* --- Four lanes: all that NEON and WebAssembly do alike ---
 *
 * Vectors and operators of the compiler. What it has no operator for is written for each instruction set: loads,
 * narrowing, and above all fmas4, the multiply-add that is rounded once. */
#if defined(POLAR_ARM) || defined(POLAR_WASM)
typedef float float4 __attribute__((vector_size(16)));
typedef int32_t int4 __attribute__((vector_size(16)));
typedef uint32_t uint4 __attribute__((vector_size(16)));

static ALWAYS_INLINE float4 splat4(float x) {
    return (float4){x, x, x, x};
}

static ALWAYS_INLINE void store4(float *to, float4 v) {
    memcpy(to, &v, sizeof v);
}

/* mask ? a : b, for masks of comparisons. */
static ALWAYS_INLINE float4 select4(int4 mask, float4 a, float4 b) {
    return (float4)((mask & (int4)a) | (~mask & (int4)b));
}

static const uint8_t *bytes_of(const float *x) {
    return (const uint8_t *)(const void *)x;
}

#ifdef POLAR_ARM
/* Four weights as floats. */
static ALWAYS_INLINE float4 load4(int type, const uint8_t *p) {
    if (type == QUANT_F32) return vreinterpretq_f32_u8(vld1q_u8(p));
    if (type == QUANT_F16) return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

/* c[k] = a[k] b[k] + c[k] for k = 0 .. n - 1, in each lane. */
static ALWAYS_INLINE void fmas4(int n, const float4 *a, const float4 *b, float4 *c) {
    UNROLL for (int k = 0; k < n; k++) c[k] = vfmaq_f32(c[k], a[k], b[k]);
}

/* The same to r; in no lane anything else is to be done. */
static ALWAYS_INLINE int4 fmas4_rare(int n, int may_be_small, const float4 *a, const float4 *b, const float4 *c,
                                     float4 *r) {
    (void)may_be_small;
    UNROLL for (int k = 0; k < n; k++) r[k] = vfmaq_f32(c[k], a[k], b[k]);
    return (int4){0};
}

static ALWAYS_INLINE float4 max4(float4 a, float4 b) {
    return vmaxq_f32(a, b);
}

static ALWAYS_INLINE int4 imax4(int4 a, int4 b) {
    return vmaxq_s32(a, b);
}

/* 16 integers in 16 and in 8 bits; returns their sum. */
static ALWAYS_INLINE int16_t narrow16(const int4 w[4], int16_t *q16, int8_t *q8) {
    const int16x8_t lo = vcombine_s16(vmovn_s32(w[0]), vmovn_s32(w[1]));
    const int16x8_t hi = vcombine_s16(vmovn_s32(w[2]), vmovn_s32(w[3]));
    vst1q_s16(q16, lo), vst1q_s16(q16 + 8, hi), vst1q_s8(q8, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
    return vaddvq_s16(vaddq_s16(lo, hi));
}

/* Four floats to halves. */
static ALWAYS_INLINE void store_f16(uint8_t *out, float4 x) {
    vst1_u8(out, vreinterpret_u8_f16(vcvt_f16_f32(x)));
}

/* x0, x1 of four pairs that stand side by side, and back. */
static ALWAYS_INLINE void load_pairs4(const float *x, float4 v[2]) {
    const float32x4x2_t pairs = vld2q_f32(x);
    v[0] = pairs.val[0], v[1] = pairs.val[1];
}

static ALWAYS_INLINE void store_pairs4(float *x, const float4 v[2]) {
    vst2q_f32(x, ((float32x4x2_t){{v[0], v[1]}}));
}
#else
/* Halves: their bits are those of a float that is 2^112 too small, but for infinity and NaN. */
static ALWAYS_INLINE float4 load4(int type, const uint8_t *p) {
    if (type == QUANT_F32) return (float4)wasm_v128_load(p);
    if (type == QUANT_BF16) return (float4)((int4)wasm_u32x4_load16x4(p) << 16);
    const uint4 h = (uint4)wasm_i32x4_load16x4(p); /* the sign goes to bits 15 to 31 */
    const float4 x = (float4)(h << 13 & 0x8fffe000) * splat4(0x1p112f);
    return (float4)((int4)x | (((h & 0x7c00) == 0x7c00) & 0x7f800000));
}

/* r[k] = a[k] b[k] + c[k], in each lane. By way of double, where the product is exact: rounding the sum to double and
 * then to float is as good as once, unless the double is in the middle of two floats. That is seen in its low bits, if
 * the float is not so small (`may_be_small`: below 2^-125) that it has fewer bits. Returns the lanes where this is. */
static ALWAYS_INLINE int4 fmas4_rare(int n, int may_be_small, const float4 *a, const float4 *b, const float4 *c,
                                     float4 *r) {
    int4 ties = {0};
    v128_t least = wasm_i32x4_const_splat(-1);
#define WIDE(v) wasm_f64x2_promote_low_f32x4((v128_t)(v))
#define HIGH(v) wasm_i32x4_shuffle((v128_t)(v), (v128_t)(v), 2, 3, 2, 3)
    UNROLL for (int k = 0; k < n; k++) {
        const v128_t s0 = wasm_f64x2_add(wasm_f64x2_mul(WIDE(a[k]), WIDE(b[k])), WIDE(c[k]));
        const v128_t s1 = wasm_f64x2_add(wasm_f64x2_mul(WIDE(HIGH(a[k])), WIDE(HIGH(b[k]))), WIDE(HIGH(c[k])));
        r[k] = (float4)wasm_i32x4_shuffle(wasm_f32x4_demote_f64x2_zero(s0), wasm_f32x4_demote_f64x2_zero(s1),
                                          0, 1, 4, 5);
        ties |= ((int4)wasm_i32x4_shuffle(s0, s1, 0, 2, 4, 6) & 0x1fffffff) == 0x10000000;
        if (may_be_small) least = wasm_u32x4_min(least, (v128_t)(((uint4)r[k] << 1) - 1)); /* 0 is not small */
    }
    return may_be_small ? ties | ((uint4)least < 0x01ffffffu) : ties;
}

/* r[k] = a[k] b[k] + c[k] by the definition, in those lanes of `rare` where a sum in double has an error. */
static __attribute__((noinline)) void fmas4_each(int n, int4 rare, const float4 *a, const float4 *b, const float4 *c,
                                                 float4 *r) {
    int4 inexact = {0};
    for (int k = 0; k < n; k++) {
        v128_t e[2]; /* not 0 where there is an error */
        for (int h = 0; h < 2; h++) {
            const v128_t q = WIDE(h ? HIGH(c[k]) : (v128_t)c[k]);
            const v128_t x = wasm_f64x2_mul(WIDE(h ? HIGH(a[k]) : (v128_t)a[k]), WIDE(h ? HIGH(b[k]) : (v128_t)b[k]));
            const v128_t y = wasm_f64x2_add(x, q), z = wasm_f64x2_sub(y, x);
            e[h] = wasm_f64x2_add(wasm_f64x2_sub(x, wasm_f64x2_sub(y, z)), wasm_f64x2_sub(q, z));
            e[h] = wasm_f64x2_ne(e[h], wasm_f64x2_const_splat(0));
        }
        inexact |= (int4)wasm_i32x4_shuffle(e[0], e[1], 0, 2, 4, 6);
    }
    for (int l = 0; l < 4; l++)
        for (int k = 0; (rare[l] & inexact[l]) && k < n; k++) r[k][l] = fma32(a[k][l], b[k][l], c[k][l]);
}
#undef HIGH
#undef WIDE

/* c[k] = a[k] b[k] + c[k] for k = 0 .. n - 1 <= 7, in each lane. */
static ALWAYS_INLINE void fmas4(int n, const float4 *a, const float4 *b, float4 *c) {
    float4 r[8];
    const int4 rare = fmas4_rare(n, 1, a, b, c, r);
    if (__builtin_expect(wasm_v128_any_true((v128_t)rare), 0)) {
        float4 x[8], y[8], z[8], u[8]; /* copies, so that only these are in memory */
        UNROLL for (int k = 0; k < n; k++) x[k] = a[k], y[k] = b[k], z[k] = c[k], u[k] = r[k];
        fmas4_each(n, rare, x, y, z, u);
        UNROLL for (int k = 0; k < n; k++) r[k] = u[k];
    }
    UNROLL for (int k = 0; k < n; k++) c[k] = r[k];
}

static ALWAYS_INLINE float4 max4(float4 a, float4 b) {
    return (float4)wasm_f32x4_max((v128_t)a, (v128_t)b);
}

static ALWAYS_INLINE int4 imax4(int4 a, int4 b) {
    return (int4)wasm_i32x4_max((v128_t)a, (v128_t)b);
}

/* 16 integers in 16 and in 8 bits; returns their sum. */
static ALWAYS_INLINE int16_t narrow16(const int4 w[4], int16_t *q16, int8_t *q8) {
    const v128_t lo = wasm_i16x8_narrow_i32x4((v128_t)w[0], (v128_t)w[1]);
    const v128_t hi = wasm_i16x8_narrow_i32x4((v128_t)w[2], (v128_t)w[3]);
    const int4 sum = w[0] + w[1] + (w[2] + w[3]);
    wasm_v128_store(q16, lo), wasm_v128_store(q16 + 8, hi), wasm_v128_store(q8, wasm_i8x16_narrow_i16x8(lo, hi));
    return (int16_t)(sum[0] + sum[1] + (sum[2] + sum[3]));
}

/* Four floats to halves, the cases of f32_f16 side by side. */
static ALWAYS_INLINE void store_f16(uint8_t *out, float4 x) {
    const uint4 sign = (uint4)x >> 16 & 0x8000, a = (uint4)x & 0x7fffffff;
    const uint4 nan = (uint4)(a > 0x7f800000), big = (uint4)(a >= 0x477ff000), small = (uint4)(a < 0x38800000);
    const uint4 special = 0x7c00 | (nan & (0x200 | (a >> 13 & 0x3ff)));
    const uint4 subnormal = (uint4)((float4)a + splat4(0.5f)) - 0x3f000000;
    const uint4 normal = (a + 0xfff + (a >> 13 & 1) - 0x38000000) >> 13;
    const uint4 h = sign | (big & special) | (small & subnormal) | (~(big | small) & normal);
    wasm_v128_store64_lane(out, wasm_u16x8_narrow_i32x4((v128_t)h, (v128_t)h), 0);
}

/* x0, x1 of four pairs that stand side by side, and back. */
static ALWAYS_INLINE void load_pairs4(const float *x, float4 v[2]) {
    const v128_t a = wasm_v128_load(x), b = wasm_v128_load(x + 4);
    v[0] = (float4)wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), v[1] = (float4)wasm_i32x4_shuffle(a, b, 1, 3, 5, 7);
}

static ALWAYS_INLINE void store_pairs4(float *x, const float4 v[2]) {
    wasm_v128_store(x, wasm_i32x4_shuffle((v128_t)v[0], (v128_t)v[1], 0, 4, 1, 5));
    wasm_v128_store(x + 4, wasm_i32x4_shuffle((v128_t)v[0], (v128_t)v[1], 2, 6, 3, 7));
}
#endif

static ALWAYS_INLINE float4 loadf4(const float *x) {
    return load4(QUANT_F32, bytes_of(x));
}

/* As quantize_avx2. */
static void quantize_x4(const float *x, int n, int block, int8_t *q8, int16_t *q16, int16_t *sums, float *d) {
    const float4 magic = splat4(ROUND_MAGIC); /* adding it rounds */
    for (int b = 0; b < n; b += block, d++) {
        int4 m4 = {0}; /* integers order as the floats do */
        float inverse;
        for (int i = b; i < b + block; i += 4) {
            const int4 v = (int4)loadf4(x + i) & 0x7fffffff;
            m4 = imax4(m4, v);
        }
        inverse = quantize_inverse(bits_f32((uint32_t)MAX(MAX(m4[0], m4[1]), MAX(m4[2], m4[3]))), d);
        if (!(inverse > 0)) {
            quantize_c(x + b, block, block, q8 + b, q16 + b, sums + b / 16, d);
            continue;
        }
        for (int i = b; i < b + block; i += 16) {
            float4 v[4], s[4], t[4];
            int4 w[4]; /* 16 numbers: the integer is the difference of the bit patterns */
            UNROLL for (int j = 0; j < 4; j++) v[j] = loadf4(x + i + 4 * j), s[j] = splat4(inverse), t[j] = magic;
            fmas4(4, v, s, t);
            UNROLL for (int j = 0; j < 4; j++) w[j] = (int4)t[j] - (int4)magic;
            sums[i / 16] = narrow16(w, q16 + i, q8 + i);
        }
    }
}

/* Eight partial sums, the elements from i to n that do not fill eight lanes, and the final sum. */
static float dot_end_x4(const float4 lanes[2], int type, const uint8_t *w, const float *x, int i, int n) {
    float s[8];
    store4(s, lanes[0]), store4(s + 4, lanes[1]);
    for (; i < n; i++) s[i & 7] = fma32(load_float(type, w, i), x[i], s[i & 7]);
    return sum8(s);
}

/* Products of one row of floats with four others, weights with tokens or a token with weights: partial sums 0 to 3 of
 * product k are out[2 k], 4 to 7 out[2 k + 1]. */
static ALWAYS_INLINE void dot4_x4(int type_a, const uint8_t *a, int type_b, const uint8_t *const b[4], int n,
                                  float4 out[8]) {
    const int size_a = type_a == QUANT_F32 ? 4 : 2, size_b = type_b == QUANT_F32 ? 4 : 2; /* bytes of a number */
    float4 s[8]; /* of 4 products and 2 halves */
    UNROLL for (int k = 0; k < 8; k++) s[k] = splat4(0);
    for (int i = 0; i + 8 <= n; i += 8) {
        const float4 u[2] = {load4(type_a, a + i * size_a), load4(type_a, a + (i + 4) * size_a)};
        float4 x[8], y[8];
        UNROLL for (int k = 0; k < 8; k++) x[k] = u[k % 2], y[k] = load4(type_b, b[k / 2] + (i + k % 2 * 4) * size_b);
        fmas4(8, x, y, s);
    }
    UNROLL for (int k = 0; k < 8; k++) out[k] = s[k];
}

/* One token with four rows. `type` is a constant at every call, so each type gets a loop of its own. */
static ALWAYS_INLINE void dot_rows4_x4(int type, const uint8_t *const w[4], const float *x, int n, float out[4]) {
    float4 s[8]; /* as dot4_x4 leaves them */
    dot4_x4(QUANT_F32, bytes_of(x), type, w, n, s);
    for (int i = 0; i < 4; i++) out[i] = dot_end_x4(s + 2 * i, type, w[i], x, n & ~7, n);
}

/* Four tokens at a time with each row, then one token with four rows at a time. */
static ALWAYS_INLINE void multiply_float_type_x4(int type, const product *p, int row, int n_rows) {
    const int n = p->a->n;
    int k = 0; /* tokens */
    for (; k + 4 <= p->n_tokens; k += 4) {
        const uint8_t *x[4];
        for (int i = 0; i < 4; i++) x[i] = bytes_of(p->a->x + token_at(p, k + i));
        for (int r = row; r < row + n_rows; r++) {
            const uint8_t *w = p->w + (size_t)r * p->row_bytes;
            float4 s[8]; /* as dot4_x4 leaves them */
            dot4_x4(type, w, QUANT_F32, x, n, s);
            for (int i = 0; i < 4; i++)
                p->y[(size_t)(k + i) * (size_t)p->ldy + (size_t)r] =
                    dot_end_x4(s + 2 * i, type, w, (const float *)(const void *)x[i], n & ~7, n);
        }
    }
    for (; k < p->n_tokens; k++)
        for (int r = row; r < row + n_rows; r += 4) {
            const int rows = MIN(4, row + n_rows - r);
            const uint8_t *w[4]; /* four rows */
            float out[4]; /* four rows */
            for (int i = 0; i < 4; i++) w[i] = p->w + (size_t)(r + MIN(i, rows - 1)) * p->row_bytes;
            dot_rows4_x4(type, w, p->a->x + token_at(p, k), n, out);
            memcpy(p->y + (size_t)k * (size_t)p->ldy + r, out, (size_t)rows * sizeof *out);
        }
}

/* Rows of floats times any number of tokens. */
static void multiply_float_x4(const product *p, int row, int n_rows) {
    if (p->type == QUANT_F32) multiply_float_type_x4(QUANT_F32, p, row, n_rows);
    else if (p->type == QUANT_F16) multiply_float_type_x4(QUANT_F16, p, row, n_rows);
    else multiply_float_type_x4(QUANT_BF16, p, row, n_rows);
}

/* exp32 of n <= 2 vectors. What is rare in a multiply-add is left to exp32; no sum here is small, unless it is x. */
static ALWAYS_INLINE void exp_x4(int n, float4 *x) {
    float4 t[2], m[2], r[2], p[2], c[2]; /* x log2 e + magic, -n of exp32, r, the polynomial, a constant */
    int4 rare;
    UNROLL for (int i = 0; i < n; i++) t[i] = splat4(ROUND_MAGIC), c[i] = splat4(EXP_LOG2E);
    rare = fmas4_rare(n, 0, x, c, t, t);
    UNROLL for (int i = 0; i < n; i++) {
        m[i] = splat4(ROUND_MAGIC) - t[i];
        r[i] = x[i] + m[i] * splat4(EXP_LN2_HI); /* r = x - n ln 2, in two steps; this product is exact */
        c[i] = splat4(EXP_LN2_LO), p[i] = splat4(exp_poly[0]);
    }
    rare |= fmas4_rare(n, 0, m, c, r, r);
    UNROLL for (int k = 1; k < COUNT(exp_poly); k++) {
        UNROLL for (int i = 0; i < n; i++) c[i] = splat4(exp_poly[k]);
        rare |= fmas4_rare(n, 0, p, r, c, p);
    }
    UNROLL for (int i = 0; i < n; i++) {
        const uint4 exponent = (uint4)t[i] - (uint4)splat4(ROUND_MAGIC) + 127;
        const float4 y = p[i] * (float4)(exponent << 23);
        const int4 under = x[i] < splat4(EXP_MIN), in_range = x[i] <= splat4(EXP_MAX);
        p[i] = select4(in_range, (float4)((int4)y & ~under), x[i] + splat4(INFINITY)); /* above: infinity, or NaN */
    }
    for (int l = 0; l < 4 && (rare[0] | rare[1] | rare[2] | rare[3]); l++)
        UNROLL for (int i = 0; i < n; i++) if (rare[l]) p[i][l] = exp32(x[i][l]);
    UNROLL for (int i = 0; i < n; i++) x[i] = p[i];
}

/* The sum of squares is a float product of x with itself. */
static void rms_norm_x4(float *out, const float *x, const float *w, int n, float eps) {
    float4 s[2] = {{0}, {0}}; /* partial sums 0 to 3, 4 to 7 */
    float scale; /* 1 / sqrt(mean + eps) */
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        const float4 v[2] = {loadf4(x + i), loadf4(x + i + 4)};
        fmas4(2, v, v, s);
    }
    scale = 1.0f / sqrtf(dot_end_x4(s, QUANT_F32, bytes_of(x), x, i, n) / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4) store4(out + i, loadf4(x + i) * splat4(scale) * loadf4(w + i));
    for (; i < n; i++) out[i] = x[i] * scale * w[i];
}

/* Eight at a time, and the rest by the definition. */
static void swiglu_x4(float *gate, const float *up, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        const float4 g[2] = {loadf4(gate + i), loadf4(gate + i + 4)};
        float4 e[2] = {-g[0], -g[1]};
        exp_x4(2, e);
        UNROLL for (int k = 0; k < 2; k++)
            store4(gate + i + 4 * k, g[k] / (splat4(1) + e[k]) * loadf4(up + i + 4 * k));
    }
    swiglu_c(gate + i, up + i, n - i);
}

/* Pairs side by side are taken apart while they are loaded. */
static void rope_x4(float *x, const float *cs, int half, int neox) {
    if (half % 4) {
        rope_c(x, cs, half, neox);
        return;
    }
    for (int i = 0; i < half; i += 4) {
        const float4 s = loadf4(cs + half + i), c[2] = {loadf4(cs + i), loadf4(cs + i)};
        float4 v[2], t[2]; /* x0, x1 of four pairs, and their products with sines */
        if (neox) v[0] = loadf4(x + i), v[1] = loadf4(x + half + i);
        else load_pairs4(x + 2 * i, v);
        t[0] = v[1] * -s, t[1] = v[0] * s;
        fmas4(2, v, c, t);
        if (neox) store4(x + i, t[0]), store4(x + half + i, t[1]);
        else store_pairs4(x + 2 * i, t);
    }
}

/* Four positions at a time, past the end the last one again. */
static ALWAYS_INLINE void scores_type_x4(int type, float *scores, const float *q, const uint8_t *k, int n,
                                         int head_dim, float scale) {
    const size_t stride = (size_t)head_dim * (type == QUANT_F32 ? 4 : 2); /* bytes of a position */
    for (int t = 0; t < n; t += 4) {
        const uint8_t *row[4]; /* four positions */
        float out[4]; /* four rows */
        for (int r = 0; r < 4; r++) row[r] = k + (size_t)MIN(t + r, n - 1) * stride;
        dot_rows4_x4(type, row, q, head_dim, out);
        for (int r = 0; r < 4 && t + r < n; r++) scores[t + r] = out[r] * scale;
    }
}

static void scores_x4(float *scores, const float *q, const uint8_t *k, int n, int head_dim, int f16, float scale) {
    if (f16) scores_type_x4(QUANT_F16, scores, q, k, n, head_dim, scale);
    else scores_type_x4(QUANT_F32, scores, q, k, n, head_dim, scale);
}

/* One position times four q at a time. */
static ALWAYS_INLINE void scores4_type_x4(int type, float *scores, size_t stride, const float *const q[4],
                                          const uint8_t *k, int n, int head_dim, float scale) {
    const uint8_t *const x[4] = {bytes_of(q[0]), bytes_of(q[1]), bytes_of(q[2]), bytes_of(q[3])};
    for (int t = 0; t < n; t++, k += head_dim * (type == QUANT_F32 ? 4 : 2)) {
        float4 s[8]; /* as dot4_x4 leaves them */
        dot4_x4(type, k, QUANT_F32, x, head_dim, s);
        for (size_t i = 0; i < 4; i++)
            scores[i * stride + (size_t)t] = dot_end_x4(s + 2 * i, type, k, q[i], head_dim & ~7, head_dim) * scale;
    }
}

static void scores4_x4(float *scores, size_t stride, const float *const q[4], const uint8_t *k, int n, int head_dim,
                       int f16, float scale) {
    if (f16) scores4_type_x4(QUANT_F16, scores, stride, q, k, n, head_dim, scale);
    else scores4_type_x4(QUANT_F32, scores, stride, q, k, n, head_dim, scale);
}

/* As softmax_c, eight at a time. */
static float softmax_x4(float *x, int n) {
    float4 m = splat4(-INFINITY), sum[2] = {{0}, {0}}; /* maxima, partial sums 0 to 3, 4 to 7 */
    float s[8], max = -INFINITY; /* partial sums */
    int i = 0;
    for (; i + 4 <= n; i += 4) m = max4(m, loadf4(x + i));
    for (int l = 0; l < 4; l++) max = MAX(max, m[l]);
    for (; i < n; i++) max = MAX(max, x[i]);
    for (i = 0; i + 8 <= n; i += 8) {
        float4 v[2] = {loadf4(x + i) - splat4(max), loadf4(x + i + 4) - splat4(max)};
        exp_x4(2, v);
        UNROLL for (int k = 0; k < 2; k++) store4(x + i + 4 * k, v[k]), sum[k] += v[k];
    }
    store4(s, sum[0]), store4(s + 4, sum[1]);
    for (; i < n; i++) {
        x[i] = exp32(x[i] - max);
        s[i & 7] += x[i];
    }
    return sum8(s);
}

/* 16 outputs stay in registers while all positions go by, in order. */
static ALWAYS_INLINE void accumulate_type_x4(int type, float *out, const float *p, const uint8_t *v, int n,
                                             int head_dim) {
    const int size = type == QUANT_F32 ? 4 : 2; /* bytes of a number */
    const size_t stride = (size_t)(head_dim * size); /* bytes of a position */
    int i = 0;
    for (; i + 16 <= head_dim; i += 16) {
        const uint8_t *at = v + i * size; /* of position t */
        float4 s[4]; /* 16 outputs */
        UNROLL for (int j = 0; j < 4; j++) s[j] = loadf4(out + i + 4 * j);
        for (int t = 0; t < n; t++, at += stride) {
            float4 x[4], w[4];
            UNROLL for (int j = 0; j < 4; j++) x[j] = load4(type, at + 4 * j * size), w[j] = splat4(p[t]);
            fmas4(4, x, w, s);
        }
        UNROLL for (int j = 0; j < 4; j++) store4(out + i + 4 * j, s[j]);
    }
    for (; i < head_dim; i++)
        for (int t = 0; t < n; t++) out[i] = fma32(p[t], load_float(type, v + (size_t)t * stride, i), out[i]);
}

static void accumulate_x4(float *out, const float *p, const uint8_t *v, int n, int head_dim, int f16) {
    if (f16) accumulate_type_x4(QUANT_F16, out, p, v, n, head_dim);
    else accumulate_type_x4(QUANT_F32, out, p, v, n, head_dim);
}

/* Eight outputs of each of four, for which v is read once. */
static ALWAYS_INLINE void accumulate4_type_x4(int type, float *const out[4], const float *p, size_t stride,
                                              const uint8_t *v, int n, int head_dim) {
    const int size = type == QUANT_F32 ? 4 : 2, whole = head_dim & ~7; /* bytes of a number, numbers in vectors */
    for (int i = 0; i < whole; i += 8) {
        const uint8_t *at = v + i * size; /* of position t */
        float4 s[8]; /* two vectors of each */
        UNROLL for (int j = 0; j < 8; j++) s[j] = loadf4(out[j / 2] + i + j % 2 * 4);
        for (int t = 0; t < n; t++, at += head_dim * size) {
            const float4 u[2] = {load4(type, at), load4(type, at + 4 * size)};
            float4 x[8], w[8];
            UNROLL for (int j = 0; j < 8; j++) x[j] = u[j % 2], w[j] = splat4(p[(size_t)(j / 2) * stride + (size_t)t]);
            fmas4(8, x, w, s);
        }
        UNROLL for (int j = 0; j < 8; j++) store4(out[j / 2] + i + j % 2 * 4, s[j]);
    }
    for (size_t j = 0, t; whole < head_dim && j < 4; j++)
        for (t = 0; t < (size_t)n; t++)
            for (int i = whole; i < head_dim; i++)
                out[j][i] = fma32(p[j * stride + t], load_float(type, v + t * (size_t)(head_dim * size), i), out[j][i]);
}

static void accumulate4_x4(float *const out[4], const float *p, size_t stride, const uint8_t *v, int n, int head_dim,
                           int f16) {
    if (f16) accumulate4_type_x4(QUANT_F16, out, p, stride, v, n, head_dim);
    else accumulate4_type_x4(QUANT_F32, out, p, stride, v, n, head_dim);
}

static void to_f16_x4(uint8_t *out, const float *x, int n) {
    int i = 0;
    for (; i + 4 <= n; i += 4) store_f16(out + 2 * i, loadf4(x + i));
    to_f16_c(out + 2 * i, x + i, n - i);
}

static void axpy_x4(float *out, float a, const float *x, int n) {
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        const float4 v = loadf4(x + i), w = splat4(a);
        float4 s = loadf4(out + i);
        fmas4(1, &v, &w, &s);
        store4(out + i, s);
    }
    axpy_c(out + i, a, x + i, n - i);
}

#define KERN_X4(cpu, set) \
    {cpu, quantize_x4, &set, rms_norm_x4, swiglu_x4, rope_x4, scores_x4, \
     softmax_x4, accumulate_x4, scores4_x4, accumulate4_x4, to_f16_x4, axpy_x4}
#endif

/* --- Arm with NEON: baseline AArch64, nothing to detect --- */
#ifdef POLAR_ARM
/* --- Arm, quantized weights ---
 *
 * numbers_neon reads 16 numbers of a block, scales_neon the factors of its sub-blocks: all that is known here about how
 * a type lays out its bits. Four tokens and more go over a panel, 8 rows side by side, w[i][r] the number i of row r as
 * a signed byte; sub_dot_neon, the only part that differs between the instruction sets, sums over a sub-block:
 *     s[r][k] = sum_i w[i][r] a[k][i]    for rows r = 0..7 and tokens k = 0..3
 *     sum[r][k] += scale[r] s[r][k]      exact integers; then, at the end of a block, the chain of the definition
 * One to three tokens go over the rows as they are in the file, four at a time (rows4_neon).
 *
 *     set      words of the panel      its instruction
 *     neon     (n / 16, 8 rows, 16)    smull, smlal: two products in each of 8 lanes of 16 bits, four of small numbers
 *     dotprod  (n / 4, 8 rows, 4)      sdot: four products in each of 4 lanes, a lane for each row
 *     i8mm     (n / 8, 8 rows, 8)      smmla: eight products in each of 4 lanes, two rows times two tokens
 *
 * The two that the compiler is not told about are written as assembler: unlike the intrinsics, that can stand in a
 * function which is inlined into functions of different instruction sets. */
enum { ARM_NEON, ARM_DOTPROD, ARM_I8MM };
#ifdef __clang__
#define DOTPROD TARGET("dotprod")
#define I8MM    TARGET("dotprod,i8mm")
#else
#define DOTPROD TARGET("arch=armv8.2-a+dotprod")
#define I8MM    TARGET("arch=armv8.2-a+dotprod+i8mm")
#endif

/* s[i] += sum_j w[4 i + j] a[4 i + j] for lanes i = 0..3 */
static ALWAYS_INLINE int32x4_t sdot_neon(int32x4_t s, int8x16_t w, int8x16_t a) {
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(s) : "w"(w), "w"(a));
    return s;
}

/* s[2 k + h][i] = sum_j w[j / 4][4 h + i][j % 4] a[k][j] over 16 or 32 numbers j of a panel of 8 rows and of four
 * tokens; w and a go past them. One statement with its loads: between several the compiler copies the sums. */
static ALWAYS_INLINE void sdot_tile_neon(int32x4_t s[8], const int8_t **w, const int8_t *a[4], int n) {
    int32x4_t s0, s1, s2, s3, s4, s5, s6, s7;
    int8x16_t w0, w1, u0, u1, u2, u3, v0, v1, v2, v3;
    const int8_t *x = *w, *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3];
#define ZERO(k) "movi %" #k ".4s, #0\n\t"
#define TOKEN(k, h0, h1, l) \
    "sdot %" #h0 ".4s, %8.16b, %" #k ".4b[" #l "]\n\tsdot %" #h1 ".4s, %9.16b, %" #k ".4b[" #l "]\n\t"
#define WORD(k0, k1, k2, k3, l) \
    "ldp %q8, %q9, [%18], #32\n\t" TOKEN(k0, 0, 1, l) TOKEN(k1, 2, 3, l) TOKEN(k2, 4, 5, l) TOKEN(k3, 6, 7, l)
#define WORDS(k0, k1, k2, k3) \
    WORD(k0, k1, k2, k3, 0) WORD(k0, k1, k2, k3, 1) WORD(k0, k1, k2, k3, 2) WORD(k0, k1, k2, k3, 3)
#define LOAD_16(k, a) "ldr %q" #k ", [%" #a "], #16\n\t"
#define LOAD_32(k, l, a) "ldp %q" #k ", %q" #l ", [%" #a "], #32\n\t"
#define TILE(numbers) \
    __asm__(ZERO(0) ZERO(1) ZERO(2) ZERO(3) ZERO(4) ZERO(5) ZERO(6) ZERO(7) numbers \
            : "=&w"(s0), "=&w"(s1), "=&w"(s2), "=&w"(s3), "=&w"(s4), "=&w"(s5), "=&w"(s6), "=&w"(s7), "=&w"(w0), \
              "=&w"(w1), "=&w"(u0), "=&w"(u1), "=&w"(u2), "=&w"(u3), "=&w"(v0), "=&w"(v1), "=&w"(v2), "=&w"(v3), \
              "+r"(x), "+r"(a0), "+r"(a1), "+r"(a2), "+r"(a3) \
            : \
            : "memory")
    if (n == 32)
        TILE(LOAD_32(10, 14, 19) LOAD_32(11, 15, 20) LOAD_32(12, 16, 21) LOAD_32(13, 17, 22)
             WORDS(10, 11, 12, 13) WORDS(14, 15, 16, 17));
    else TILE(LOAD_16(10, 19) LOAD_16(11, 20) LOAD_16(12, 21) LOAD_16(13, 22) WORDS(10, 11, 12, 13));
#undef TILE
#undef LOAD_32
#undef LOAD_16
#undef WORDS
#undef WORD
#undef TOKEN
#undef ZERO
    s[0] = s0, s[1] = s1, s[2] = s2, s[3] = s3, s[4] = s4, s[5] = s5, s[6] = s6, s[7] = s7;
    *w = x, a[0] = a0, a[1] = a1, a[2] = a2, a[3] = a3;
}

/* s[2 i + k] += sum_j w[8 i + j] a[8 k + j] for i = 0, 1 and k = 0, 1 */
static ALWAYS_INLINE int32x4_t smmla_neon(int32x4_t s, int8x16_t w, int8x16_t a) {
    __asm__ volatile("smmla %0.4s, %1.16b, %2.16b" : "+w"(s) : "w"(w), "w"(a));
    return s;
}

/* The bits of `mask` in bytes shifted right by n bits, n < 0 left. n and mask are constants. */
static ALWAYS_INLINE uint8x16_t shift_neon(uint8x16_t v, int n) {
    return n > 0 ? v >> n : n < 0 ? v << -n : v;
}

/* A mask that keeps all that the shift left is none. */
static ALWAYS_INLINE uint8x16_t field_neon(uint8x16_t v, int n, int mask) {
    v = shift_neon(v, n);
    return n > 0 && mask == 255 >> n ? v : vandq_u8(v, vdupq_n_u8((uint8_t)mask));
}

/* v with the bits of `mask` taken from h, shifted. */
static ALWAYS_INLINE uint8x16_t with_bits_neon(uint8x16_t v, uint8x16_t h, int n, int mask) {
    return vbslq_u8(vdupq_n_u8((uint8_t)mask), shift_neon(h, n), v);
}

/* Numbers 16 i .. 16 i + 15 of the block at x, before scale and offset. The layouts are those of quant_unpack_TYPE.
 * `type` and i are constants wherever this is called. */
static ALWAYS_INLINE int8x16_t numbers_neon(int type, const uint8_t *x, int i) {
    static const uint8_t spread[2][16] = {{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
                                          {2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}};
    const int half = i / 8, k = i % 8 / 2, l = i % 2 * 16; /* of 256 numbers: 128 half + 32 k + l */
    uint8x16_t v = vdupq_n_u8(0);
    switch (type) {
    case QUANT_Q8_0: v = vld1q_u8(x + 2 + 16 * i); break;
    case QUANT_Q4_0:
    case QUANT_IQ4_NL: v = field_neon(vld1q_u8(x + 2), 4 * i, 15); break;
    case QUANT_Q4_1: v = field_neon(vld1q_u8(x + 4), 4 * i, 15); break;
    case QUANT_Q5_0:
    case QUANT_Q5_1: {
        const uint8_t *high = x + (type == QUANT_Q5_0 ? 2 : 4);
        const uint8x16_t bits = vqtbl1q_u8(vreinterpretq_u8_u32(vdupq_n_u32(rd_u32(high))), vld1q_u8(spread[i]));
        v = field_neon(vld1q_u8(high + 4), 4 * i, 15);
        v = with_bits_neon(v, vtstq_u8(bits, vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u))), 0, 16);
        break;
    }
    case QUANT_Q2_K: v = field_neon(vld1q_u8(x + 16 + 32 * half + l), 2 * k, 3); break;
    case QUANT_Q3_K:
        v = field_neon(vld1q_u8(x + 32 + 32 * half + l), 2 * k, 3);
        v = with_bits_neon(v, vld1q_u8(x + l), i / 2 - 2, 4);
        break;
    case QUANT_Q4_K: v = field_neon(vld1q_u8(x + 16 + i / 4 * 32 + l), i % 4 / 2 * 4, 15); break;
    case QUANT_Q5_K:
        v = field_neon(vld1q_u8(x + 48 + i / 4 * 32 + l), i % 4 / 2 * 4, 15);
        v = with_bits_neon(v, vld1q_u8(x + 16 + l), i / 2 - 4, 16);
        break;
    case QUANT_Q6_K:
        v = field_neon(vld1q_u8(x + 64 * half + k % 2 * 32 + l), k / 2 * 4, 15);
        v = with_bits_neon(v, vld1q_u8(x + 128 + 32 * half + l), 2 * k - 4, 48);
        break;
    case QUANT_IQ4_XS: v = field_neon(vld1q_u8(x + 8 + i / 2 * 16), i % 2 * 4, 15); break;
    }
    if (type == QUANT_IQ4_NL || type == QUANT_IQ4_XS) return vqtbl1q_s8(vld1q_s8(quant_iq4), v);
    return vreinterpretq_s8_u8(v);
}

/* What numbers_neon has too much: the offset of those of less than 8 bits. */
static ALWAYS_INLINE int offset_neon(int type) {
    return kern_types[type].bits < 8 ? kern_types[type].offset : 0;
}

/* Scales and minima of the sub-blocks of a K type: 16, or 8 in the first half. */
static ALWAYS_INLINE void scales_neon(int type, const uint8_t *x, int16x8_t s[2], int16x8_t m[2]) {
    const uint8x16_t low = vdupq_n_u8(15), high = vdupq_n_u8(48);
    uint8x16_t v, u;
    m[0] = m[1] = s[1] = vdupq_n_s16(0);
    if (type == QUANT_Q4_K || type == QUANT_Q5_K) { /* four scales and four minima at a time */
        static const int8_t shift[8] = {0, 0, 0, 0, -4, -4, -4, -4};
        const uint8x8_t first = vld1_u8(x + 4), last = vreinterpret_u8_u32(vdup_n_u32(rd_u32(x + 12)));
        const uint8x8_t upper = vorr_u8(vand_u8(vshl_u8(last, vld1_s8(shift)), vdup_n_u8(15)),
                                        vand_u8(vshr_n_u8(first, 2), vdup_n_u8(48)));
        const int16x8_t p = vreinterpretq_s16_u16(vmovl_u8(vand_u8(first, vdup_n_u8(63))));
        const int16x8_t q = vreinterpretq_s16_u16(vmovl_u8(upper));
        s[0] = vcombine_s16(vget_low_s16(p), vget_low_s16(q)), m[0] = vcombine_s16(vget_high_s16(p), vget_high_s16(q));
        return;
    }
    if (type == QUANT_IQ4_XS) {
        static const uint8_t from[16] = {4, 16, 4, 16, 5, 16, 5, 16, 6, 16, 6, 16, 7, 16, 7, 16};
        static const int16_t shift_low[8] = {0, -4, 0, -4, 0, -4, 0, -4}, shift[8] = {4, 2, 0, -2, -4, -6, -8, -10};
        const uint16x8_t h = vshlq_u16(vdupq_n_u16(rd_u16(x + 2)), vld1q_s16(shift));
        v = vqtbl1q_u8(vcombine_u8(vld1_u8(x), vdup_n_u8(0)), vld1q_u8(from));
        v = vandq_u8(vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(v), vld1q_s16(shift_low))), low);
        u = vandq_u8(vreinterpretq_u8_u16(h), vreinterpretq_u8_u16(vdupq_n_u16(48)));
        s[0] = vsubq_s16(vreinterpretq_s16_u8(vorrq_u8(v, u)), vdupq_n_s16(32));
        return;
    }
    if (type == QUANT_Q2_K) {
        v = vld1q_u8(x);
        u = shift_neon(v, 4);
        m[0] = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(u)));
        m[1] = vreinterpretq_s16_u16(vmovl_high_u8(u));
        v = vandq_u8(v, low);
    } else if (type == QUANT_Q3_K) {
        static const uint8_t from[2][16] = {{2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9},
                                            {10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13}};
        static const int8_t shift[2][16] = {{0, 0, 0, 0, 0, 0, 0, 0, -4, -4, -4, -4, -4, -4, -4, -4},
                                            {4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0, -2, -2, -2, -2}};
        v = vld1q_u8(x + 94); /* the 12 bytes, and two on each side */
        u = vandq_u8(vshlq_u8(vqtbl1q_u8(v, vld1q_u8(from[1])), vld1q_s8(shift[1])), high);
        v = vandq_u8(vshlq_u8(vqtbl1q_u8(v, vld1q_u8(from[0])), vld1q_s8(shift[0])), low);
        v = vsubq_u8(vorrq_u8(v, u), vdupq_n_u8(32));
    } else {
        v = vld1q_u8(x + 192); /* Q6_K */
    }
    s[0] = vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(v)));
    s[1] = vmovl_high_s8(vreinterpretq_s8_u8(v));
}

/* Where a block has its d; minima follow it, as everywhere but in Q2_K, two bytes later too. */
static ALWAYS_INLINE size_t at_d_neon(int type) {
    return type == QUANT_Q2_K ? 80 : type == QUANT_Q3_K ? 108 : type == QUANT_Q6_K ? 208 : 0;
}

/* The halves at the same place of four rows, as floats. */
static ALWAYS_INLINE float32x4_t halves4_neon(const uint8_t *const w[4], size_t at) {
    uint16x4_t h = vdup_n_u16(0);
    h = vld1_lane_u16((const uint16_t *)(const void *)(w[0] + at), h, 0);
    h = vld1_lane_u16((const uint16_t *)(const void *)(w[1] + at), h, 1);
    h = vld1_lane_u16((const uint16_t *)(const void *)(w[2] + at), h, 2);
    h = vld1_lane_u16((const uint16_t *)(const void *)(w[3] + at), h, 3);
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* Lane i is the sum of the lanes of v[i]. */
static ALWAYS_INLINE int32x4_t isum4x4_neon(const int32x4_t v[4]) {
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

/* Pairs of products, |w| <= 128 and |a| <= 127: two of them fit 16 bits. */
static ALWAYS_INLINE int16x8_t pairs_neon(int8x16_t w, int8x16_t a) {
    return vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(a)), w, a);
}

/* s + products of 16 numbers, or of 32, in four lanes. */
static ALWAYS_INLINE int32x4_t dot16_neon(int set, int32x4_t s, int8x16_t w, int8x16_t a) {
    if (set == ARM_NEON) return vpadalq_s16(s, pairs_neon(w, a));
    return sdot_neon(s, w, a);
}

/* The same with 32 numbers: small ones need one addition to 32 bits less. */
static ALWAYS_INLINE int32x4_t dot32_neon(int set, int small, int32x4_t s, const int8x16_t w[2], const int8x16_t a[2]) {
    if (set == ARM_NEON && small) {
        const int16x8_t t = vmlal_s8(pairs_neon(w[0], a[0]), vget_low_s8(w[1]), vget_low_s8(a[1]));
        return vpadalq_s16(s, vmlal_high_s8(t, w[1], a[1]));
    }
    return dot16_neon(set, dot16_neon(set, s, w[0], a[0]), w[1], a[1]);
}

/* acc = fma(d da, sum, acc), a lane for each row. */
static ALWAYS_INLINE float32x4_t chain_neon(float32x4_t acc, float32x4_t d, float da, int32x4_t sum) {
    return vfmaq_f32(acc, vmulq_n_f32(d, da), vcvtq_f32_s32(sum));
}

/* --- Arm, one token: four rows as they are in the file ---
 *
 * The lanes of `run` hold running sums that are never set back, modulo 2^32; what a block adds to them is the
 * difference of their totals before and after, which is exact and saves setting four registers to zero each time. */

/* Four rows, and their sums so far. */
typedef struct four_rows {
    const uint8_t *x[4]; /* the next block of each row */
    int32x4_t run[4], before;
    float32x4_t acc;
} four_rows;

/* Weights from a row on: what the statements below that load by themselves read. */
typedef struct weight_bytes { uint8_t bytes[1 << 30]; } weight_bytes;

/* The halves at x, as floats; each x goes past its own. One instruction for each, which the compiler does not find. */
static ALWAYS_INLINE float32x4_t next_halves4_neon(const uint8_t *x[4], const uint8_t *w) {
    const uint8_t *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    uint16x4_t h;
    __asm__("ldr %h0, [%1], #2\n\tld1 {%0.h}[1], [%2], #2\n\tld1 {%0.h}[2], [%3], #2\n\tld1 {%0.h}[3], [%4], #2"
            : "=&w"(h), "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3)
            : "m"(*(const weight_bytes *)(const void *)w));
    x[0] = x0, x[1] = x1, x[2] = x2, x[3] = x3;
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* The next block, of 32 numbers; lane l of `da` is the token's scale, that of `sums` the sum of its numbers. */
static ALWAYS_INLINE void rows4_block_neon(int set, int type, four_rows *o, const uint8_t *w, const int8_t *q,
                                           float32x4_t da, int32x4_t sums, int l) {
    const int bytes = quant_types[type].bytes, mins = type == QUANT_Q4_1 || type == QUANT_Q5_1, head = mins ? 4 : 2;
    const int8x16_t a[2] = {vld1q_s8(q), vld1q_s8(q + 16)};
    const float32x4_t d = next_halves4_neon(o->x, w), m = mins ? next_halves4_neon(o->x, w) : d;
    int32x4_t now, s; /* totals after this block, and what it added */
    UNROLL for (int r = 0; r < 4; r++) {
        const uint8_t *x = o->x[r];
        int8x16_t v0, v1; /* its 32 numbers */
        if (type == QUANT_Q8_0)
            __asm__("ldp %q0, %q1, [%2], #32"
                    : "=w"(v0), "=w"(v1), "+r"(x)
                    : "m"(*(const weight_bytes *)(const void *)w));
        else {
            v0 = numbers_neon(type, x - head, 0), v1 = numbers_neon(type, x - head, 1);
            x += bytes - head;
        }
        const int8x16_t v[2] = {v0, v1};
        o->x[r] = x;
        o->run[r] = dot32_neon(set, kern_types[type].bits < 8, o->run[r], v, a);
    }
    now = isum4x4_neon(o->run), s = vsubq_s32(now, o->before), o->before = now;
    if (offset_neon(type)) s = vmlsq_n_s32(s, vdupq_n_s32(offset_neon(type)), sums[l]);
    o->acc = vfmaq_f32(o->acc, vmulq_n_f32(d, da[l]), vcvtq_f32_s32(s));
    if (mins) o->acc = vfmaq_n_f32(o->acc, vmulq_n_f32(m, da[l]), vcvtq_f32_s32(sums)[l]);
}

/* Types with blocks of 32 numbers. */
static ALWAYS_INLINE float32x4_t rows4_32_neon(int set, int type, const uint8_t *const w[4], int n, const int8_t *q,
                                               const int16_t *sums, const float *d) {
    const int n_blocks = n / 32;
    int b = 0; /* blocks */
    four_rows o = {{w[0], w[1], w[2], w[3]}, {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)},
               vdupq_n_s32(0), vdupq_n_f32(0)};
    for (; b + 4 <= n_blocks; b += 4) {
        const float32x4_t da = vld1q_f32(d + b);
        const int32x4_t s = vpaddlq_s16(vld1q_s16(sums + 2 * b));
        UNROLL for (int l = 0; l < 4; l++) rows4_block_neon(set, type, &o, w[0], q + 32 * (b + l), da, s, l);
    }
    for (; b < n_blocks; b++)
        rows4_block_neon(set, type, &o, w[0], q + 32 * b, vdupq_n_f32(d[b]),
                         vdupq_n_s32(sums[2 * b] + sums[2 * b + 1]), 0);
    return o.acc;
}

/* Types with blocks of 256. */
static ALWAYS_INLINE float32x4_t rows4_256_neon(int set, int type, const uint8_t *const w[4], int n, const int8_t *q,
                                                const int16_t *sums, const float *d) {
    const size_t bytes = (size_t)quant_types[type].bytes;
    const int mins = type == QUANT_Q2_K || type == QUANT_Q4_K || type == QUANT_Q5_K, offset = offset_neon(type);
    const int sub = kern_types[type].sub, small = kern_types[type].bits < 8;
    float32x4_t acc = vdupq_n_f32(0);
    int32x4_t run[4], before = vdupq_n_s32(0); /* running sums, as above */
    UNROLL for (int r = 0; r < 4; r++) run[r] = before;
    for (int b = 0; b < n / 256; b++, q += 256, sums += 16) {
        const uint8_t *const x[4] = {w[0] + (size_t)b * bytes, w[1] + (size_t)b * bytes, w[2] + (size_t)b * bytes,
                                     w[3] + (size_t)b * bytes};
        int16x8_t sum[2] = {vld1q_s16(sums), vld1q_s16(sums + 8)};
        int32x4_t s[4], m[4]; /* of each row, in four lanes */
        if (sub == 32) sum[0] = vpaddq_s16(sum[0], sum[1]);
        for (int r = 0; r < 4; r++) {
            int16x8_t scales[2], minima[2]; /* of 16 or 8 sub-blocks */
            scales_neon(type, x[r], scales, minima);
            s[r] = vdupq_n_s32(0);
            UNROLL for (int j = 0; j < 256 / sub; j += 4) { /* four sub-blocks */
                const int16x8_t scale = scales[j / 8];
                int32x4_t now; /* totals after these sub-blocks */
                UNROLL for (int k = j; k < j + 4; k++) {
                    if (sub == 16) {
                        run[k - j] = dot16_neon(set, run[k - j], numbers_neon(type, x[r], k), vld1q_s8(q + 16 * k));
                        continue;
                    }
                    const int8x16_t v[2] = {numbers_neon(type, x[r], 2 * k), numbers_neon(type, x[r], 2 * k + 1)};
                    const int8x16_t a[2] = {vld1q_s8(q + 32 * k), vld1q_s8(q + 32 * k + 16)};
                    run[k - j] = dot32_neon(set, small, run[k - j], v, a);
                }
                now = isum4x4_neon(run);
                s[r] = vmlaq_s32(s[r], vsubq_s32(now, before),
                                 j % 8 ? vmovl_high_s16(scale) : vmovl_s16(vget_low_s16(scale)));
                before = now;
            }
            if (!mins && !offset) continue;
            UNROLL for (int j = 0; j < 2; j++) if (!mins) minima[j] = scales[j];
            m[r] = vmlal_high_s16(vmull_s16(vget_low_s16(minima[0]), vget_low_s16(sum[0])), minima[0], sum[0]);
            if (sub == 16) m[r] = vmlal_s16(m[r], vget_low_s16(minima[1]), vget_low_s16(sum[1])),
                           m[r] = vmlal_high_s16(m[r], minima[1], sum[1]);
            if (!mins) s[r] = vmlsq_s32(s[r], m[r], vdupq_n_s32(offset));
        }
        acc = chain_neon(acc, halves4_neon(x, at_d_neon(type)), d[b], isum4x4_neon(s));
        if (mins) acc = chain_neon(acc, vnegq_f32(halves4_neon(x, at_d_neon(type) + 2)), d[b], isum4x4_neon(m));
    }
    return acc;
}

/* Few tokens over four rows at a time, past the end the last row again. */
static ALWAYS_INLINE void multiply_rows_neon(int set, const product *p, int row, int n_rows) {
    const act_blocks *a = act_blocks_of(p->a, p->type);
    const int n = p->a->n;
    for (int r = row; r < row + n_rows; r += 4) {
        const int rows = MIN(4, row + n_rows - r);
        const uint8_t *w[4]; /* four rows */
        for (int i = 0; i < 4; i++) w[i] = p->w + (size_t)(r + MIN(i, rows - 1)) * p->row_bytes;
        for (int k = 0; k < p->n_tokens; k++) {
            const size_t from = token_at(p, k);
            const int8_t *q = a->q8 + from;
            const int16_t *sums = a->sums + from / 16;
            const float *d = a->d + from / (size_t)quant_types[p->type].block;
            float32x4_t y = vdupq_n_f32(0); /* four rows */
            float out[4]; /* four rows */
            switch (p->type) {
#define TYPE(type, block, sub, bits, offset) \
    case type: y = rows4_##block##_neon(set, type, w, n, q, sums, d); break;
                KERN_TYPES(TYPE)
#undef TYPE
            }
            vst1q_f32(out, y);
            memcpy(p->y + (size_t)k * (size_t)p->ldy + r, out, (size_t)rows * sizeof *out);
        }
    }
}

/* --- Arm, many tokens: panels of 8 rows --- */

#define S64(v) vreinterpretq_s64_s32(v)
#define S8(v)  vreinterpretq_s8_s64(v)

/* n numbers of 8 rows, PANEL_NUMBERS / 8 bytes apart, to a panel's words. `set` is no constant here: all instruction
 * sets share the code. */
static void panel_put_neon(int set, const int8_t *rows, int n, int8_t *out) {
    for (int i = 0; i < n; i += 16, out += 128) {
        int32x4_t t[8]; /* 16 numbers of each row, as words */
        UNROLL for (int r = 0; r < 8; r++) t[r] = vreinterpretq_s32_s8(vld1q_s8(rows + PANEL_NUMBERS / 8 * r + i));
        if (set == ARM_NEON) {
            UNROLL for (int r = 0; r < 8; r++) vst1q_s8(out + 16 * r, vreinterpretq_s8_s32(t[r]));
        } else if (set == ARM_I8MM) {
            UNROLL for (int r = 0; r < 8; r += 2) {
                vst1q_s8(out + 8 * r, S8(vzip1q_s64(S64(t[r]), S64(t[r + 1]))));
                vst1q_s8(out + 64 + 8 * r, S8(vzip2q_s64(S64(t[r]), S64(t[r + 1]))));
            }
        } else {
            UNROLL for (int r = 0; r < 8; r += 4) { /* 4 x 4 words are transposed */
                const int32x4_t a = vzip1q_s32(t[r], t[r + 1]), b = vzip2q_s32(t[r], t[r + 1]);
                const int32x4_t c = vzip1q_s32(t[r + 2], t[r + 3]), d = vzip2q_s32(t[r + 2], t[r + 3]);
                vst1q_s8(out + 4 * r, S8(vzip1q_s64(S64(a), S64(c))));
                vst1q_s8(out + 4 * r + 32, S8(vzip2q_s64(S64(a), S64(c))));
                vst1q_s8(out + 4 * r + 64, S8(vzip1q_s64(S64(b), S64(d))));
                vst1q_s8(out + 4 * r + 96, S8(vzip2q_s64(S64(b), S64(d))));
            }
        }
    }
}

/* A half as a float. */
static ALWAYS_INLINE float half_neon(const uint8_t *x) {
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vld1_dup_u16((const uint16_t *)(const void *)x))), 0);
}

/* `count` blocks at x, of row r: their numbers to the second half of the panel's, one after the other, their factors to
 * their places. Scales are (sub-blocks, 8), as minima are; with smmla (sub-blocks, 4, 4), one for each lane of sums. */
static ALWAYS_INLINE void panel_fill_type_neon(int set, int type, int block, const panel *to, int r, const uint8_t *x,
                                               int count) {
    const size_t bytes = (size_t)quant_types[type].bytes;
    const int mins = quant_types[type].has_mins, n = 256 / kern_types[type].sub;
    int8_t *rows = (int8_t *)to->q + PANEL_NUMBERS + PANEL_NUMBERS / 8 * r;
    float *d = to->d + r, *m = to->m + r; /* of this row */
    int32_t *scales = to->scales + (set == ARM_I8MM ? 2 * r : r);
    int16_t *minima = to->mins + r; /* of this row */
    for (int b = 0; b < count; b++, x += bytes, rows += block, d += 8, m += 8) {
        UNROLL for (int i = 0; i < block / 16; i++)
            vst1q_s8(rows + 16 * i, vsubq_s8(numbers_neon(type, x, i), vdupq_n_s8((int8_t)offset_neon(type))));
        *d = half_neon(x + at_d_neon(type));
        if (mins) *m = block == 256 ? -half_neon(x + at_d_neon(type) + 2) : half_neon(x + 2);
        if (block == 256) {
            int16x8_t s[2], t[2];
            int16_t out[2][16]; /* scales and minima */
            scales_neon(type, x, s, t);
            vst1q_s16(out[0], s[0]), vst1q_s16(out[0] + 8, s[1]), vst1q_s16(out[1], t[0]), vst1q_s16(out[1] + 8, t[1]);
            for (int j = 0; j < n; j++) {
                scales[0] = out[0][j];
                if (set == ARM_I8MM) scales[1] = out[0][j];
                scales += set == ARM_I8MM ? 16 : 8;
                if (mins) *minima = out[1][j], minima += 8;
            }
        }
    }
}

/* A panel of 8 rows: each is read by itself, then all are put side by side. */
static void panel_fill_neon(int set, const panel *to, int type, const uint8_t *const *w, int count,
                            const uint8_t *ahead) {
    (void)ahead; /* eight rows are few enough for processors to follow */
    for (int r = 0; r < 8; r++) {
        const uint8_t *x = w[r];
        switch (type) {
#define TYPE(type, block, sub, bits, offset) \
        case type: panel_fill_type_neon(set, type, block, to, r, x, count); break;
            KERN_TYPES(TYPE)
#undef TYPE
        }
    }
    panel_put_neon(set, (int8_t *)to->q + PANEL_NUMBERS, count * quant_types[type].block, (int8_t *)to->q);
}

/* s[2 k + h] lane l: the products of n numbers of row 4 h + l with token k. With smmla s[4 p + h] instead: rows 2 h and
 * 2 h + 1 times tokens 2 p and 2 p + 1, in the order of a matrix. `next` is the panel; it and a go past these. */
static ALWAYS_INLINE void sub_dot_neon(int set, int small, const int8_t **next, const int8_t *a[4], int n,
                                         int32x4_t s[8]) {
    const int8_t *w = *next; /* the panel */
    if (set == ARM_NEON) {
        UNROLL for (int h = 0; h < 2; h++) UNROLL for (int k = 0; k < 4; k += 2) {
            int32x4_t t[2][4]; /* sums of two tokens and four rows, in four lanes each */
            int8x16_t v[4][2], u[2][2]; /* numbers of four rows, of two tokens */
            UNROLL for (int i = 0; i < n / 16; i++) {
                UNROLL for (int r = 0; r < 4; r++) v[r][i] = vld1q_s8(w + 128 * i + 64 * h + 16 * r);
                UNROLL for (int l = 0; l < 2; l++) u[l][i] = vld1q_s8(a[k + l] + 16 * i);
            }
            UNROLL for (int l = 0; l < 2; l++) UNROLL for (int r = 0; r < 4; r++) {
                int16x8_t x = pairs_neon(v[r][0], u[l][0]);
                if (n == 32 && small) {
                    x = vmlal_s8(x, vget_low_s8(v[r][1]), vget_low_s8(u[l][1]));
                    x = vmlal_high_s8(x, v[r][1], u[l][1]);
                }
                t[l][r] = vpaddlq_s16(x);
                if (n == 32 && !small) t[l][r] = dot16_neon(set, t[l][r], v[r][1], u[l][1]);
            }
            s[2 * k + h] = isum4x4_neon(t[0]), s[2 * k + 2 + h] = isum4x4_neon(t[1]);
        }
        UNROLL for (int k = 0; k < 4; k++) a[k] += n;
        *next += 8 * n;
        return;
    }
    if (set == ARM_DOTPROD) {
        sdot_tile_neon(s, next, a, n);
        return;
    }
    UNROLL for (int k = 0; k < 8; k++) s[k] = vdupq_n_s32(0);
    UNROLL for (int i = 0; i < n; i += 16, w += 128) {
        const int8x16_t a0 = vld1q_s8(a[0] + i), a1 = vld1q_s8(a[1] + i), a2 = vld1q_s8(a[2] + i),
                        a3 = vld1q_s8(a[3] + i);
#define S64_8(v) vreinterpretq_s64_s8(v)
        const int8x16_t u[2][2] = {{S8(vzip1q_s64(S64_8(a0), S64_8(a1))), S8(vzip1q_s64(S64_8(a2), S64_8(a3)))},
                                   {S8(vzip2q_s64(S64_8(a0), S64_8(a1))), S8(vzip2q_s64(S64_8(a2), S64_8(a3)))}};
#undef S64_8
        UNROLL for (int g = 0; g < 2; g++) UNROLL for (int h = 0; h < 4; h++) {
            const int8x16_t v = vld1q_s8(w + 64 * g + 16 * h);
            s[h] = smmla_neon(s[h], v, u[g][0]), s[4 + h] = smmla_neon(s[4 + h], v, u[g][1]);
        }
    }
    UNROLL for (int k = 0; k < 4; k++) a[k] += n;
    *next += 8 * n;
}

/* A panel times four tokens; `set` to `small` are constants wherever this is called. */
static ALWAYS_INLINE void panel_tile_neon(int set, int block, int sub, int small, int mins, const panel *f, int count,
                                          const panel_tile *t) {
    const int8_t *q[4] = {t->q[0], t->q[1], t->q[2], t->q[3]}, *w = (const int8_t *)f->q;
    const float *const da[4] = {t->d[0], t->d[1], t->d[2], t->d[3]}; /* of the tokens */
    const int n_scales = set == ARM_I8MM ? 4 : 2; /* registers of scales of a sub-block */
    float32x4_t acc[8]; /* the chains: 4 tokens and 2 halves of the rows */
    UNROLL for (int k = 0; k < 8; k++) acc[k] = vld1q_f32(t->y[k / 2] + k % 2 * 4);
    for (int b = 0; b < count; b++) {
        const float32x4_t d[2] = {vld1q_f32(f->d + 8 * b), vld1q_f32(f->d + 8 * b + 4)};
        int32x4_t s[8], sum[8]; /* of a sub-block, of the block */
        if (block == 32) sub_dot_neon(set, small, &w, q, 32, sum);
        else {
            const int32_t *scales = f->scales + b * (256 / sub) * n_scales * 4; /* of this block */
            UNROLL for (int k = 0; k < 8; k++) sum[k] = vdupq_n_s32(0);
            for (int j = 0; j < 256 / sub; j++, scales += 4 * n_scales) {
                sub_dot_neon(set, small, &w, q, sub, s);
                UNROLL for (int k = 0; k < 8; k++)
                    sum[k] = vmlaq_s32(sum[k], s[k], vld1q_s32(scales + 4 * (k % n_scales)));
            }
        }
        if (set == ARM_I8MM) { /* to a lane for each row */
            UNROLL for (int k = 0; k < 8; k += 2) s[k] = vuzp1q_s32(sum[k], sum[k + 1]),
                                                  s[k + 1] = vuzp2q_s32(sum[k], sum[k + 1]);
            UNROLL for (int k = 0; k < 8; k++) sum[k] = s[k / 4 * 4 + k % 2 * 2 + k / 2 % 2];
        }
        UNROLL for (int k = 0; k < 8; k++) acc[k] = chain_neon(acc[k], d[k % 2], da[k / 2][b], sum[k]);
        if (!mins) continue;
        if (block == 32) {
            UNROLL for (int k = 0; k < 8; k++)
                sum[k] = vdupq_n_s32(t->sums[k / 2][2 * b] + t->sums[k / 2][2 * b + 1]);
        } else {
            const int16_t *m = f->mins + b * (256 / sub) * 8; /* of this block */
            UNROLL for (int k = 0; k < 8; k++) sum[k] = vdupq_n_s32(0);
            for (int j = 0; j < 16 * 16 / sub; j += 8, m += 64) {
                int16x8_t u[4]; /* sums of four tokens */
                UNROLL for (int k = 0; k < 4; k++) {
                    u[k] = vld1q_s16(t->sums[k] + 16 * b + j);
                    if (sub == 32) u[k] = vpaddq_s16(u[k], vld1q_s16(t->sums[k] + 16 * b + 8));
                }
#define MIN_OF(l) \
                do { \
                    const int16x8_t v = vld1q_s16(m + 8 * l); \
                    UNROLL for (int k = 0; k < 4; k++) \
                        sum[2 * k] = vmlal_laneq_s16(sum[2 * k], vget_low_s16(v), u[k], l), \
                        sum[2 * k + 1] = vmlal_high_laneq_s16(sum[2 * k + 1], v, u[k], l); \
                } while (0)
                MIN_OF(0); MIN_OF(1); MIN_OF(2); MIN_OF(3);
                MIN_OF(4); MIN_OF(5); MIN_OF(6); MIN_OF(7);
#undef MIN_OF
            }
        }
        UNROLL for (int k = 0; k < 8; k++)
            acc[k] = chain_neon(acc[k], vld1q_f32(f->m + 8 * b + k % 2 * 4), da[k / 2][b], sum[k]);
    }
    UNROLL for (int k = 0; k < 8; k++) vst1q_f32(t->y[k / 2] + k % 2 * 4, acc[k]);
}

/* One tile for each combination of what changes its loops. */
static ALWAYS_INLINE void panel_shape_neon(int set, const panel *f, int type, int count, const panel_tile *t) {
    const int small = kern_types[type].bits < 8, mins = quant_types[type].has_mins;
    if (quant_types[type].block == 32) {
        if (small) panel_tile_neon(set, 32, 32, 1, mins, f, count, t);
        else panel_tile_neon(set, 32, 32, 0, mins, f, count, t);
    } else if (kern_types[type].sub == 32) {
        if (small) panel_tile_neon(set, 256, 32, 1, mins, f, count, t);
        else panel_tile_neon(set, 256, 32, 0, mins, f, count, t);
    } else panel_tile_neon(set, 256, 16, 1, mins, f, count, t);
}

static void panel_dot_neon(const panel *f, int type, int count, const panel_tile *t) {
    panel_shape_neon(ARM_NEON, f, type, count, t);
}

static DOTPROD void panel_dot_dotprod(const panel *f, int type, int count, const panel_tile *t) {
    panel_shape_neon(ARM_DOTPROD, f, type, count, t);
}

static I8MM void panel_dot_i8mm(const panel *f, int type, int count, const panel_tile *t) {
    panel_shape_neon(ARM_I8MM, f, type, count, t);
}

static void rows4_neon(const product *p, int row, int n_rows) {
    multiply_rows_neon(ARM_NEON, p, row, n_rows);
}

static DOTPROD void rows4_dotprod(const product *p, int row, int n_rows) {
    multiply_rows_neon(ARM_DOTPROD, p, row, n_rows);
}

static const product_set set_neon = {ARM_NEON, 8, 4, 3, multiply_float_x4, rows4_neon, panel_fill_neon,
                                     panel_dot_neon};
static const product_set set_dotprod = {ARM_DOTPROD, 8, 4, 3, multiply_float_x4, rows4_dotprod, panel_fill_neon,
                                        panel_dot_dotprod};
static const product_set set_i8mm = {ARM_I8MM, 8, 4, 3, multiply_float_x4, rows4_dotprod, panel_fill_neon,
                                     panel_dot_i8mm};

static const kern kern_neon = KERN_X4(POLAR_CPU_NEON, set_neon);
static const kern kern_dotprod = KERN_X4(POLAR_CPU_DOTPROD, set_dotprod);
static const kern kern_i8mm = KERN_X4(POLAR_CPU_I8MM, set_i8mm);

#ifdef __APPLE__
static int cpu_has(const char *name) {
    int has = 0; /* what the system says */
    size_t size = sizeof has;
    return !sysctlbyname(name, &has, &size, NULL, 0) && has;
}
#endif

/* The instructions, where the system tells; otherwise what the compiler was told. */
static int cpu_has_dotprod(void) {
#if defined(__linux__)
    return (int)(getauxval(AT_HWCAP) >> 20 & 1); /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    return cpu_has("hw.optional.arm.FEAT_DotProd");
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(43) != 0; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
#elif defined(__ARM_FEATURE_DOTPROD)
    return 1;
#else
    return 0;
#endif
}

/* smmla; a set that has it is used for tiles alone, so sdot must be there, too. */
static int cpu_has_i8mm(void) {
    if (!cpu_has_dotprod()) return 0;
#if defined(__linux__)
    return (int)(getauxval(AT_HWCAP2) >> 13 & 1); /* HWCAP2_I8MM */
#elif defined(__APPLE__)
    return cpu_has("hw.optional.arm.FEAT_I8MM");
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(66) != 0; /* PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE */
#elif defined(__ARM_FEATURE_MATMUL_INT8)
    return 1;
#else
    return 0;
#endif
}
#endif

/* --- WebAssembly with SIMD128, known when compiling: i32x4.dot on numbers of 16 bits, whatever their type --- */
#ifdef POLAR_WASM

/* s + products of eight numbers of a row and of a token, two in each lane. */
static ALWAYS_INLINE int4 dot8_wasm(int4 s, v128_t w, const int16_t *a) {
    return s + (int4)wasm_i32x4_dot_i16x8(w, wasm_v128_load(a));
}

/* acc[k] = fma(d[k % rows] da[k / rows], sum[k], acc[k]): the end of a block. */
static ALWAYS_INLINE void chain_wasm(int n, int rows, const float4 *d, const float *const *da, int b, const int4 *sum,
                                     float4 *acc) {
    float4 x[8], y[8];
    UNROLL for (int k = 0; k < n; k++) {
        x[k] = d[k % rows] * splat4(da[k / rows][b]);
        y[k] = (float4)wasm_f32x4_convert_i32x4((v128_t)sum[k]);
    }
    fmas4(n, x, y, acc);
}

/* Rows [row, row + n_rows) times few tokens, as they are read: a lane for each of four rows. Numbers of 8 bits are not
 * unpacked before. */
static ALWAYS_INLINE void rows4_type_wasm(int is_q8, const product *p, int row, int n_rows) {
    const quant_type *t = &quant_types[p->type];
    const act_blocks *a = act_blocks_of(p->a, p->type);
    for (int r = row; r < row + n_rows; r += 4) for (int k = 0; k < p->n_tokens; k++) {
        const int rows = MIN(4, row + n_rows - r), n_blocks = p->a->n / t->block; /* past the end the last row again */
        const size_t from = token_at(p, k);
        const int16_t *q = a->q16 + from, *sums = a->sums + from / 16;
        const float *const da = a->d + from / (size_t)t->block;
        const uint8_t *x[4]; /* the blocks at hand */
        float4 acc = {0};
        float y[4];
        UNROLL for (int i = 0; i < 4; i++) x[i] = p->w + (size_t)(r + MIN(i, rows - 1)) * p->row_bytes;
        for (int b = 0; b < n_blocks; b++, q += t->block, sums += t->block / 16) {
            int4 s[4], m = {0}, u, v; /* sums of each row, with minima of all; halves of a transposition */
            float4 d, dm = {0};
            uint16_t half[4];
            UNROLL for (int i = 0; i < 4; i++) {
                s[i] = (int4){0};
                if (is_q8) {
                    memcpy(half + i, x[i], 2);
                    UNROLL for (int j = 0; j < 32; j += 8)
                        s[i] = dot8_wasm(s[i], wasm_i16x8_load8x8(x[i] + 2 + j), q + j);
                } else {
                    quant_block w;
                    t->unpack(x[i], &w);
                    d[i] = w.d;
                    if (t->has_mins) dm[i] = w.m;
                    for (int j = 0; j < t->block; j += 8) s[i] = dot8_wasm(s[i], wasm_v128_load(w.q + j), q + j);
                    for (int j = 0; t->has_mins && j < t->block / 16; j++) m[i] += w.mins[j] * sums[j];
                }
                x[i] += t->bytes;
            }
            if (is_q8) d = load4(QUANT_F16, (const uint8_t *)half);
#define MERGE(a, b, i, j, k, l) (int4)wasm_i32x4_shuffle((v128_t)(a), (v128_t)(b), i, j, k, l)
            u = MERGE(s[0], s[1], 0, 4, 1, 5) + MERGE(s[0], s[1], 2, 6, 3, 7);
            v = MERGE(s[2], s[3], 0, 4, 1, 5) + MERGE(s[2], s[3], 2, 6, 3, 7);
            u = MERGE(u, v, 0, 1, 4, 5) + MERGE(u, v, 2, 3, 6, 7); /* lane i: the sum of s[i] */
#undef MERGE
            chain_wasm(1, 1, &d, &da, b, &u, &acc);
            if (!is_q8 && t->has_mins) chain_wasm(1, 1, &dm, &da, b, &m, &acc);
        }
        store4(y, acc);
        memcpy(p->y + (size_t)k * (size_t)p->ldy + r, y, (size_t)rows * sizeof *y);
    }
}

static void rows4_wasm(const product *p, int row, int n_rows) {
    if (p->type == QUANT_Q8_0) rows4_type_wasm(1, p, row, n_rows);
    else rows4_type_wasm(0, p, row, n_rows);
}

/* A panel of 16 rows: numbers (n / 2, 16, 2), minima (n / 32, 16, 2). */
static void panel_fill_wasm(int set, const panel *to, int type, const uint8_t *const *w, int count,
                            const uint8_t *ahead) {
    const quant_type *t = &quant_types[type];
    (void)set, (void)ahead;
    for (int r = 0; r < KERN_ROWS; r++) for (int b = 0; b < count; b++) {
        int16_t *q = (int16_t *)(void *)to->q + KERN_ROWS * t->block * b + 2 * r;
        int16_t *mins = to->mins + t->block * b + 2 * r;
        quant_block u;
        t->unpack(w[r] + (size_t)b * (size_t)t->bytes, &u);
        to->d[KERN_ROWS * b + r] = u.d;
        for (int i = 0; i < t->block; i += 2) memcpy(q + KERN_ROWS * i, u.q + i, 4);
        if (!t->has_mins) continue;
        to->m[KERN_ROWS * b + r] = u.m;
        for (int i = 0; i < t->block / 16; i += 2) memcpy(mins + KERN_ROWS * i, u.mins + i, 4);
    }
}

/* s[2 k + h] = sum_i w_i a_i for token k and rows 4 h .. 4 h + 3: n pairs of 8 rows of a panel. */
static ALWAYS_INLINE void pairs_dot_wasm(const int16_t *w, int n, const int16_t *const *a, int from, int4 s[8]) {
    UNROLL for (int k = 0; k < 8; k++) s[k] = (int4){0};
    for (int i = 0; i < n; i++, w += 2 * KERN_ROWS) {
        const v128_t w0 = wasm_v128_load(w), w1 = wasm_v128_load(w + 8);
        UNROLL for (int k = 0; k < 4; k++) {
            const v128_t x = wasm_v128_load32_splat(a[k] + from + 2 * i);
            s[2 * k] += (int4)wasm_i32x4_dot_i16x8(w0, x), s[2 * k + 1] += (int4)wasm_i32x4_dot_i16x8(w1, x);
        }
    }
}

/* A panel times four tokens, eight rows after eight. */
static void panel_dot_wasm(const panel *f, int type, int count, const panel_tile *t) {
    const int block = quant_types[type].block, mins = quant_types[type].has_mins;
    for (int r = 0; r < KERN_ROWS; r += 8) {
        float4 acc[8]; /* the chains: 4 tokens and 2 halves of these rows */
        UNROLL for (int k = 0; k < 8; k++) acc[k] = loadf4(t->y[k / 2] + r + k % 2 * 4);
        for (int b = 0; b < count; b++) {
            const float *const d = f->d + KERN_ROWS * b + r, *const m = f->m + KERN_ROWS * b + r;
            const float4 d4[2] = {loadf4(d), loadf4(d + 4)}, m4[2] = {loadf4(m), loadf4(m + 4)};
            int4 s[8];
            pairs_dot_wasm((const int16_t *)(const void *)f->q + KERN_ROWS * block * b + 2 * r, block / 2, t->q16,
                           block * b, s);
            chain_wasm(8, 2, d4, t->d, b, s, acc);
            if (!mins) continue;
            pairs_dot_wasm(f->mins + block * b + 2 * r, block / 32, t->sums, block / 16 * b, s);
            chain_wasm(8, 2, m4, t->d, b, s, acc);
        }
        UNROLL for (int k = 0; k < 8; k++) store4(t->y[k / 2] + r + k % 2 * 4, acc[k]);
    }
}

static const product_set set_wasm = {0, KERN_ROWS, 4, 3, multiply_float_x4, rows4_wasm, panel_fill_wasm,
                                     panel_dot_wasm};
static const kern kern_wasm = KERN_X4(POLAR_CPU_WASM, set_wasm);
#endif

/* --- the choice --- */

static const char *const cpu_names[POLAR_N_CPU] = {"auto",   "plain",   "avx2", "neon",
                                                   "avx512", "dotprod", "i8mm", "avxvnni", "amx", "wasm"};

const char *polar_cpu_name(polar_cpu cpu) {
    return (unsigned)cpu < (unsigned)POLAR_N_CPU ? cpu_names[cpu] : NULL;
}

/* NULL if this build or this CPU does not have the variant. */
static const kern *kern_find(polar_cpu cpu) {
#ifdef POLAR_X86_AMX
    if (cpu == POLAR_CPU_AMX && cpu_has_amx()) return &kern_amx;
#endif
#ifdef POLAR_X86_512
    if ((cpu == POLAR_CPU_AVX512 || cpu == POLAR_CPU_AUTO) && cpu_has_avx512()) return &kern_avx512;
#endif
#ifdef POLAR_X86_VNNI
    if ((cpu == POLAR_CPU_AVXVNNI || cpu == POLAR_CPU_AUTO) && cpu_has_avxvnni()) return &kern_avxvnni;
    if (cpu == POLAR_CPU_AVXVNNI && cpu_has_avx512()) return &kern_avx512vl;
#endif
#ifdef POLAR_X86
    if ((cpu == POLAR_CPU_AVX2 || cpu == POLAR_CPU_AUTO) && cpu_has_avx2()) return &kern_avx2;
#endif
#ifdef POLAR_ARM
    if ((cpu == POLAR_CPU_I8MM || cpu == POLAR_CPU_AUTO) && cpu_has_i8mm()) return &kern_i8mm;
    if ((cpu == POLAR_CPU_DOTPROD || cpu == POLAR_CPU_AUTO) && cpu_has_dotprod()) return &kern_dotprod;
    if (cpu == POLAR_CPU_NEON || cpu == POLAR_CPU_AUTO) return &kern_neon;
#endif
#ifdef POLAR_WASM /* known when compiling */
    if (cpu == POLAR_CPU_WASM || cpu == POLAR_CPU_AUTO) return &kern_wasm;
#endif
    return cpu == POLAR_CPU_PLAIN || cpu == POLAR_CPU_AUTO ? &kern_plain : NULL;
}

/* ======================================================================================
 * [uni] UTF-8 and Unicode classes
 *
 * The classes that pre-tokenizers ask for: letters (L*), numbers (N*) and white space, of all code points. Start
 * reading at uni_decode and uni_class. Promises: any bytes are accepted; what is not well-formed UTF-8 is read as
 * single bytes of class other. Uses: [err], where the rules of UTF-8 stand.
 * ====================================================================================== */

/* Length of the longest prefix that does not end inside a character. Bytes that can not become one by what
 * follows count as complete. */
static size_t uni_complete_prefix(const uint8_t *s, size_t n) {
    for (size_t tail = 1; tail < 4 && tail <= n; tail++)
        if (uni_length(s[n - tail]) > tail) return uni_well_formed(s + n - tail, tail) ? n - tail : n;
    return n;
}

#ifndef POLAR_NO_TOKENIZER
enum { UNI_OTHER, UNI_LETTER, UNI_NUMBER, UNI_SPACE };

enum { UNI_INVALID = 0x110000 }; /* one byte that belongs to no character */

/* Runs of code points of one class from 128 on: first code point * 4 + class. Unicode 16, made by
 * tests/make_unicode.mjs. */
static const uint32_t uni_runs[] = {
    0x200, 0x217, 0x218, 0x283, 0x284, 0x2a9, 0x2ac, 0x2ca, 0x2d0, 0x2d5, 0x2d8, 0x2e6, 0x2e9, 0x2ec, 0x2f2, 0x2fc,
    0x301, 0x35c, 0x361, 0x3dc, 0x3e1, 0xb08, 0xb19, 0xb48, 0xb81, 0xb94, 0xbb1, 0xbb4, 0xbb9, 0xbbc, 0xdc1, 0xdd4,
    0xdd9, 0xde0, 0xde9, 0xdf8, 0xdfd, 0xe00, 0xe19, 0xe1c, 0xe21, 0xe2c, 0xe31, 0xe34, 0xe39, 0xe88, 0xe8d, 0xfd8,
    0xfdd, 0x1208, 0x1229, 0x14c0, 0x14c5, 0x155c, 0x1565, 0x1568, 0x1581, 0x1624, 0x1741, 0x17ac, 0x17bd, 0x17cc,
    0x1881, 0x192c, 0x1982, 0x19a8, 0x19b9, 0x19c0, 0x19c5, 0x1b50, 0x1b55, 0x1b58, 0x1b95, 0x1b9c, 0x1bb9, 0x1bc2,
    0x1be9, 0x1bf4, 0x1bfd, 0x1c00, 0x1c41, 0x1c44, 0x1c49, 0x1cc0, 0x1d35, 0x1e98, 0x1ec5, 0x1ec8, 0x1f02, 0x1f29,
    0x1fac, 0x1fd1, 0x1fd8, 0x1fe9, 0x1fec, 0x2001, 0x2058, 0x2069, 0x206c, 0x2091, 0x2094, 0x20a1, 0x20a4, 0x2101,
    0x2164, 0x2181, 0x21ac, 0x21c1, 0x2220, 0x2225, 0x223c, 0x2281, 0x2328, 0x2411, 0x24e8, 0x24f5, 0x24f8, 0x2541,
    0x2544, 0x2561, 0x2588, 0x259a, 0x25c0, 0x25c5, 0x2604, 0x2615, 0x2634, 0x263d, 0x2644, 0x264d, 0x26a4, 0x26a9,
    0x26c4, 0x26c9, 0x26cc, 0x26d9, 0x26e8, 0x26f5, 0x26f8, 0x2739, 0x273c, 0x2771, 0x2778, 0x277d, 0x2788, 0x279a,
    0x27c1, 0x27c8, 0x27d2, 0x27e8, 0x27f1, 0x27f4, 0x2815, 0x282c, 0x283d, 0x2844, 0x284d, 0x28a4, 0x28a9, 0x28c4,
    0x28c9, 0x28d0, 0x28d5, 0x28dc, 0x28e1, 0x28e8, 0x2965, 0x2974, 0x2979, 0x297c, 0x299a, 0x29c0, 0x29c9, 0x29d4,
    0x2a15, 0x2a38, 0x2a3d, 0x2a48, 0x2a4d, 0x2aa4, 0x2aa9, 0x2ac4, 0x2ac9, 0x2ad0, 0x2ad5, 0x2ae8, 0x2af5, 0x2af8,
    0x2b41, 0x2b44, 0x2b81, 0x2b88, 0x2b9a, 0x2bc0, 0x2be5, 0x2be8, 0x2c15, 0x2c34, 0x2c3d, 0x2c44, 0x2c4d, 0x2ca4,
    0x2ca9, 0x2cc4, 0x2cc9, 0x2cd0, 0x2cd5, 0x2ce8, 0x2cf5, 0x2cf8, 0x2d71, 0x2d78, 0x2d7d, 0x2d88, 0x2d9a, 0x2dc0,
    0x2dc5, 0x2dca, 0x2de0, 0x2e0d, 0x2e10, 0x2e15, 0x2e2c, 0x2e39, 0x2e44, 0x2e49, 0x2e58, 0x2e65, 0x2e6c, 0x2e71,
    0x2e74, 0x2e79, 0x2e80, 0x2e8d, 0x2e94, 0x2ea1, 0x2eac, 0x2eb9, 0x2ee8, 0x2f41, 0x2f44, 0x2f9a, 0x2fcc, 0x3015,
    0x3034, 0x3039, 0x3044, 0x3049, 0x30a4, 0x30a9, 0x30e8, 0x30f5, 0x30f8, 0x3161, 0x316c, 0x3175, 0x3178, 0x3181,
    0x3188, 0x319a, 0x31c0, 0x31e2, 0x31fc, 0x3201, 0x3204, 0x3215, 0x3234, 0x3239, 0x3244, 0x3249, 0x32a4, 0x32a9,
    0x32d0, 0x32d5, 0x32e8, 0x32f5, 0x32f8, 0x3375, 0x337c, 0x3381, 0x3388, 0x339a, 0x33c0, 0x33c5, 0x33cc, 0x3411,
    0x3434, 0x3439, 0x3444, 0x3449, 0x34ec, 0x34f5, 0x34f8, 0x3539, 0x353c, 0x3551, 0x355c, 0x3562, 0x357d, 0x3588,
    0x359a, 0x35e4, 0x35e9, 0x3600, 0x3615, 0x365c, 0x3669, 0x36c8, 0x36cd, 0x36f0, 0x36f5, 0x36f8, 0x3701, 0x371c,
    0x379a, 0x37c0, 0x3805, 0x38c4, 0x38c9, 0x38d0, 0x3901, 0x391c, 0x3942, 0x3968, 0x3a05, 0x3a0c, 0x3a11, 0x3a14,
    0x3a19, 0x3a2c, 0x3a31, 0x3a90, 0x3a95, 0x3a98, 0x3a9d, 0x3ac4, 0x3ac9, 0x3ad0, 0x3af5, 0x3af8, 0x3b01, 0x3b14,
    0x3b19, 0x3b1c, 0x3b42, 0x3b68, 0x3b71, 0x3b80, 0x3c01, 0x3c04, 0x3c82, 0x3cd0, 0x3d01, 0x3d20, 0x3d25, 0x3db4,
    0x3e21, 0x3e34, 0x4001, 0x40ac, 0x40fd, 0x4102, 0x4128, 0x4141, 0x4158, 0x4169, 0x4178, 0x4185, 0x4188, 0x4195,
    0x419c, 0x41b9, 0x41c4, 0x41d5, 0x4208, 0x4239, 0x423c, 0x4242, 0x4268, 0x4281, 0x4318, 0x431d, 0x4320, 0x4335,
    0x4338, 0x4341, 0x43ec, 0x43f1, 0x4924, 0x4929, 0x4938, 0x4941, 0x495c, 0x4961, 0x4964, 0x4969, 0x4978, 0x4981,
    0x4a24, 0x4a29, 0x4a38, 0x4a41, 0x4ac4, 0x4ac9, 0x4ad8, 0x4ae1, 0x4afc, 0x4b01, 0x4b04, 0x4b09, 0x4b18, 0x4b21,
    0x4b5c, 0x4b61, 0x4c44, 0x4c49, 0x4c58, 0x4c61, 0x4d6c, 0x4da6, 0x4df4, 0x4e01, 0x4e40, 0x4e81, 0x4fd8, 0x4fe1,
    0x4ff8, 0x5005, 0x59b4, 0x59bd, 0x5a03, 0x5a05, 0x5a6c, 0x5a81, 0x5bac, 0x5bba, 0x5bc5, 0x5be4, 0x5c01, 0x5c48,
    0x5c7d, 0x5cc8, 0x5d01, 0x5d48, 0x5d81, 0x5db4, 0x5db9, 0x5dc4, 0x5e01, 0x5ed0, 0x5f5d, 0x5f60, 0x5f71, 0x5f74,
    0x5f82, 0x5fa8, 0x5fc2, 0x5fe8, 0x6042, 0x6068, 0x6081, 0x61e4, 0x6201, 0x6214, 0x621d, 0x62a4, 0x62a9, 0x62ac,
    0x62c1, 0x63d8, 0x6401, 0x647c, 0x651a, 0x6541, 0x65b8, 0x65c1, 0x65d4, 0x6601, 0x66b0, 0x66c1, 0x6728, 0x6742,
    0x676c, 0x6801, 0x685c, 0x6881, 0x6954, 0x6a02, 0x6a28, 0x6a42, 0x6a68, 0x6a9d, 0x6aa0, 0x6c15, 0x6cd0, 0x6d15,
    0x6d34, 0x6d42, 0x6d68, 0x6e0d, 0x6e84, 0x6eb9, 0x6ec2, 0x6ee9, 0x6f98, 0x7001, 0x7090, 0x7102, 0x7128, 0x7135,
    0x7142, 0x7169, 0x71f8, 0x7201, 0x722c, 0x7241, 0x72ec, 0x72f5, 0x7300, 0x73a5, 0x73b4, 0x73b9, 0x73d0, 0x73d5,
    0x73dc, 0x73e9, 0x73ec, 0x7401, 0x7700, 0x7801, 0x7c58, 0x7c61, 0x7c78, 0x7c81, 0x7d18, 0x7d21, 0x7d38, 0x7d41,
    0x7d60, 0x7d65, 0x7d68, 0x7d6d, 0x7d70, 0x7d75, 0x7d78, 0x7d7d, 0x7df8, 0x7e01, 0x7ed4, 0x7ed9, 0x7ef4, 0x7ef9,
    0x7efc, 0x7f09, 0x7f14, 0x7f19, 0x7f34, 0x7f41, 0x7f50, 0x7f59, 0x7f70, 0x7f81, 0x7fb4, 0x7fc9, 0x7fd4, 0x7fd9,
    0x7ff4, 0x8003, 0x802c, 0x80a3, 0x80a8, 0x80bf, 0x80c0, 0x817f, 0x8180, 0x81c2, 0x81c5, 0x81c8, 0x81d2, 0x81e8,
    0x81fd, 0x8202, 0x8228, 0x8241, 0x8274, 0x8409, 0x840c, 0x841d, 0x8420, 0x8429, 0x8450, 0x8455, 0x8458, 0x8465,
    0x8478, 0x8491, 0x8494, 0x8499, 0x849c, 0x84a1, 0x84a4, 0x84a9, 0x84b8, 0x84bd, 0x84e8, 0x84f1, 0x8500, 0x8515,
    0x8528, 0x8539, 0x853c, 0x8542, 0x860d, 0x8616, 0x8628, 0x9182, 0x9270, 0x93aa, 0x9400, 0x9dda, 0x9e50, 0xb001,
    0xb394, 0xb3ad, 0xb3bc, 0xb3c9, 0xb3d0, 0xb3f6, 0xb3f8, 0xb401, 0xb498, 0xb49d, 0xb4a0, 0xb4b5, 0xb4b8, 0xb4c1,
    0xb5a0, 0xb5bd, 0xb5c0, 0xb601, 0xb65c, 0xb681, 0xb69c, 0xb6a1, 0xb6bc, 0xb6c1, 0xb6dc, 0xb6e1, 0xb6fc, 0xb701,
    0xb71c, 0xb721, 0xb73c, 0xb741, 0xb75c, 0xb761, 0xb77c, 0xb8bd, 0xb8c0, 0xc003, 0xc004, 0xc015, 0xc01e, 0xc020,
    0xc086, 0xc0a8, 0xc0c5, 0xc0d8, 0xc0e2, 0xc0ed, 0xc0f4, 0xc105, 0xc25c, 0xc275, 0xc280, 0xc285, 0xc3ec, 0xc3f1,
    0xc400, 0xc415, 0xc4c0, 0xc4c5, 0xc63c, 0xc64a, 0xc658, 0xc681, 0xc700, 0xc7c1, 0xc800, 0xc882, 0xc8a8, 0xc922,
    0xc940, 0xc946, 0xc980, 0xca02, 0xca28, 0xcac6, 0xcb00, 0xd001, 0x13700, 0x13801, 0x29234, 0x29341, 0x293f8,
    0x29401, 0x29834, 0x29841, 0x29882, 0x298a9, 0x298b0, 0x29901, 0x299bc, 0x299fd, 0x29a78, 0x29a81, 0x29b9a,
    0x29bc0, 0x29c5d, 0x29c80, 0x29c89, 0x29e24, 0x29e2d, 0x29f38, 0x29f41, 0x29f48, 0x29f4d, 0x29f50, 0x29f55,
    0x29f74, 0x29fc9, 0x2a008, 0x2a00d, 0x2a018, 0x2a01d, 0x2a02c, 0x2a031, 0x2a08c, 0x2a0c2, 0x2a0d8, 0x2a101,
    0x2a1d0, 0x2a209, 0x2a2d0, 0x2a342, 0x2a368, 0x2a3c9, 0x2a3e0, 0x2a3ed, 0x2a3f0, 0x2a3f5, 0x2a3fc, 0x2a402,
    0x2a429, 0x2a498, 0x2a4c1, 0x2a51c, 0x2a581, 0x2a5f4, 0x2a611, 0x2a6cc, 0x2a73d, 0x2a742, 0x2a768, 0x2a781,
    0x2a794, 0x2a799, 0x2a7c2, 0x2a7e9, 0x2a7fc, 0x2a801, 0x2a8a4, 0x2a901, 0x2a90c, 0x2a911, 0x2a930, 0x2a942,
    0x2a968, 0x2a981, 0x2a9dc, 0x2a9e9, 0x2a9ec, 0x2a9f9, 0x2aac0, 0x2aac5, 0x2aac8, 0x2aad5, 0x2aadc, 0x2aae5,
    0x2aaf8, 0x2ab01, 0x2ab04, 0x2ab09, 0x2ab0c, 0x2ab6d, 0x2ab78, 0x2ab81, 0x2abac, 0x2abc9, 0x2abd4, 0x2ac05,
    0x2ac1c, 0x2ac25, 0x2ac3c, 0x2ac45, 0x2ac5c, 0x2ac81, 0x2ac9c, 0x2aca1, 0x2acbc, 0x2acc1, 0x2ad6c, 0x2ad71,
    0x2ada8, 0x2adc1, 0x2af8c, 0x2afc2, 0x2afe8, 0x2b001, 0x35e90, 0x35ec1, 0x35f1c, 0x35f2d, 0x35ff0, 0x3e401,
    0x3e9b8, 0x3e9c1, 0x3eb68, 0x3ec01, 0x3ec1c, 0x3ec4d, 0x3ec60, 0x3ec75, 0x3ec78, 0x3ec7d, 0x3eca4, 0x3eca9,
    0x3ecdc, 0x3ece1, 0x3ecf4, 0x3ecf9, 0x3ecfc, 0x3ed01, 0x3ed08, 0x3ed0d, 0x3ed14, 0x3ed19, 0x3eec8, 0x3ef4d,
    0x3f4f8, 0x3f541, 0x3f640, 0x3f649, 0x3f720, 0x3f7c1, 0x3f7f0, 0x3f9c1, 0x3f9d4, 0x3f9d9, 0x3fbf4, 0x3fc42,
    0x3fc68, 0x3fc85, 0x3fcec, 0x3fd05, 0x3fd6c, 0x3fd99, 0x3fefc, 0x3ff09, 0x3ff20, 0x3ff29, 0x3ff40, 0x3ff49,
    0x3ff60, 0x3ff69, 0x3ff74, 0x40001, 0x40030, 0x40035, 0x4009c, 0x400a1, 0x400ec, 0x400f1, 0x400f8, 0x400fd,
    0x40138, 0x40141, 0x40178, 0x40201, 0x403ec, 0x4041e, 0x404d0, 0x40502, 0x405e4, 0x4062a, 0x40630, 0x40a01,
    0x40a74, 0x40a81, 0x40b44, 0x40b86, 0x40bf0, 0x40c01, 0x40c82, 0x40c90, 0x40cb5, 0x40d06, 0x40d09, 0x40d2a,
    0x40d2c, 0x40d41, 0x40dd8, 0x40e01, 0x40e78, 0x40e81, 0x40f10, 0x40f21, 0x40f40, 0x40f46, 0x40f58, 0x41001,
    0x41278, 0x41282, 0x412a8, 0x412c1, 0x41350, 0x41361, 0x413f0, 0x41401, 0x414a0, 0x414c1, 0x41590, 0x415c1,
    0x415ec, 0x415f1, 0x4162c, 0x41631, 0x4164c, 0x41651, 0x41658, 0x4165d, 0x41688, 0x4168d, 0x416c8, 0x416cd,
    0x416e8, 0x416ed, 0x416f4, 0x41701, 0x417d0, 0x41801, 0x41cdc, 0x41d01, 0x41d58, 0x41d81, 0x41da0, 0x41e01,
    0x41e18, 0x41e1d, 0x41ec4, 0x41ec9, 0x41eec, 0x42001, 0x42018, 0x42021, 0x42024, 0x42029, 0x420d8, 0x420dd,
    0x420e4, 0x420f1, 0x420f4, 0x420fd, 0x42158, 0x42162, 0x42181, 0x421dc, 0x421e6, 0x42201, 0x4227c, 0x4229e,
    0x422c0, 0x42381, 0x423cc, 0x423d1, 0x423d8, 0x423ee, 0x42401, 0x4245a, 0x42470, 0x42481, 0x424e8, 0x42601,
    0x426e0, 0x426f2, 0x426f9, 0x42702, 0x42740, 0x4274a, 0x42801, 0x42804, 0x42841, 0x42850, 0x42855, 0x42860,
    0x42865, 0x428d8, 0x42902, 0x42924, 0x42981, 0x429f6, 0x429fc, 0x42a01, 0x42a76, 0x42a80, 0x42b01, 0x42b20,
    0x42b25, 0x42b94, 0x42bae, 0x42bc0, 0x42c01, 0x42cd8, 0x42d01, 0x42d58, 0x42d62, 0x42d81, 0x42dcc, 0x42de2,
    0x42e01, 0x42e48, 0x42ea6, 0x42ec0, 0x43001, 0x43124, 0x43201, 0x432cc, 0x43301, 0x433cc, 0x433ea, 0x43401,
    0x43490, 0x434c2, 0x434e8, 0x43502, 0x43529, 0x43598, 0x435bd, 0x43618, 0x43982, 0x439fc, 0x43a01, 0x43aa8,
    0x43ac1, 0x43ac8, 0x43b09, 0x43b14, 0x43c01, 0x43c76, 0x43c9d, 0x43ca0, 0x43cc1, 0x43d18, 0x43d46, 0x43d54,
    0x43dc1, 0x43e08, 0x43ec1, 0x43f16, 0x43f30, 0x43f81, 0x43fdc, 0x4400d, 0x440e0, 0x4414a, 0x441c0, 0x441c5,
    0x441cc, 0x441d5, 0x441d8, 0x4420d, 0x442c0, 0x44341, 0x443a4, 0x443c2, 0x443e8, 0x4440d, 0x4449c, 0x444da,
    0x44500, 0x44511, 0x44514, 0x4451d, 0x44520, 0x44541, 0x445cc, 0x445d9, 0x445dc, 0x4460d, 0x446cc, 0x44705,
    0x44714, 0x44742, 0x44769, 0x4476c, 0x44771, 0x44774, 0x44786, 0x447d4, 0x44801, 0x44848, 0x4484d, 0x448b0,
    0x448fd, 0x44904, 0x44a01, 0x44a1c, 0x44a21, 0x44a24, 0x44a29, 0x44a38, 0x44a3d, 0x44a78, 0x44a7d, 0x44aa4,
    0x44ac1, 0x44b7c, 0x44bc2, 0x44be8, 0x44c15, 0x44c34, 0x44c3d, 0x44c44, 0x44c4d, 0x44ca4, 0x44ca9, 0x44cc4,
    0x44cc9, 0x44cd0, 0x44cd5, 0x44ce8, 0x44cf5, 0x44cf8, 0x44d41, 0x44d44, 0x44d75, 0x44d88, 0x44e01, 0x44e28,
    0x44e2d, 0x44e30, 0x44e39, 0x44e3c, 0x44e41, 0x44ed8, 0x44edd, 0x44ee0, 0x44f45, 0x44f48, 0x44f4d, 0x44f50,
    0x45001, 0x450d4, 0x4511d, 0x4512c, 0x45142, 0x45168, 0x4517d, 0x45188, 0x45201, 0x452c0, 0x45311, 0x45318,
    0x4531d, 0x45320, 0x45342, 0x45368, 0x45601, 0x456bc, 0x45761, 0x45770, 0x45801, 0x458c0, 0x45911, 0x45914,
    0x45942, 0x45968, 0x45a01, 0x45aac, 0x45ae1, 0x45ae4, 0x45b02, 0x45b28, 0x45b42, 0x45b90, 0x45c01, 0x45c6c,
    0x45cc2, 0x45cf0, 0x45d01, 0x45d1c, 0x46001, 0x460b0, 0x46281, 0x46382, 0x463cc, 0x463fd, 0x4641c, 0x46425,
    0x46428, 0x46431, 0x46450, 0x46455, 0x4645c, 0x46461, 0x464c0, 0x464fd, 0x46500, 0x46505, 0x46508, 0x46542,
    0x46568, 0x46681, 0x466a0, 0x466a9, 0x46744, 0x46785, 0x46788, 0x4678d, 0x46790, 0x46801, 0x46804, 0x4682d,
    0x468cc, 0x468e9, 0x468ec, 0x46941, 0x46944, 0x46971, 0x46a28, 0x46a75, 0x46a78, 0x46ac1, 0x46be4, 0x46f01,
    0x46f84, 0x46fc2, 0x46fe8, 0x47001, 0x47024, 0x47029, 0x470bc, 0x47101, 0x47104, 0x47142, 0x471b4, 0x471c9,
    0x47240, 0x47401, 0x4741c, 0x47421, 0x47428, 0x4742d, 0x474c4, 0x47519, 0x4751c, 0x47542, 0x47568, 0x47581,
    0x47598, 0x4759d, 0x475a4, 0x475a9, 0x47628, 0x47661, 0x47664, 0x47682, 0x476a8, 0x47b81, 0x47bcc, 0x47c09,
    0x47c0c, 0x47c11, 0x47c44, 0x47c49, 0x47cd0, 0x47d42, 0x47d68, 0x47ec1, 0x47ec4, 0x47f02, 0x47f54, 0x48001,
    0x48e68, 0x49002, 0x491bc, 0x49201, 0x49510, 0x4be41, 0x4bfc4, 0x4c001, 0x4d0c0, 0x4d105, 0x4d11c, 0x4d181,
    0x50fec, 0x51001, 0x5191c, 0x58401, 0x58478, 0x584c2, 0x584e8, 0x5a001, 0x5a8e4, 0x5a901, 0x5a97c, 0x5a982,
    0x5a9a8, 0x5a9c1, 0x5aafc, 0x5ab02, 0x5ab28, 0x5ab41, 0x5abb8, 0x5ac01, 0x5acc0, 0x5ad01, 0x5ad10, 0x5ad42,
    0x5ad68, 0x5ad6e, 0x5ad88, 0x5ad8d, 0x5ade0, 0x5adf5, 0x5ae40, 0x5b501, 0x5b5b4, 0x5b5c2, 0x5b5e8, 0x5b901,
    0x5ba02, 0x5ba5c, 0x5bc01, 0x5bd2c, 0x5bd41, 0x5bd44, 0x5be4d, 0x5be80, 0x5bf81, 0x5bf88, 0x5bf8d, 0x5bf90,
    0x5c001, 0x61fe0, 0x62001, 0x63358, 0x633fd, 0x63424, 0x6bfc1, 0x6bfd0, 0x6bfd5, 0x6bff0, 0x6bff5, 0x6bffc,
    0x6c001, 0x6c48c, 0x6c4c9, 0x6c4cc, 0x6c541, 0x6c54c, 0x6c555, 0x6c558, 0x6c591, 0x6c5a0, 0x6c5c1, 0x6cbf0,
    0x6f001, 0x6f1ac, 0x6f1c1, 0x6f1f4, 0x6f201, 0x6f224, 0x6f241, 0x6f268, 0x733c2, 0x733e8, 0x74b02, 0x74b50,
    0x74b82, 0x74bd0, 0x74d82, 0x74de4, 0x75001, 0x75154, 0x75159, 0x75274, 0x75279, 0x75280, 0x75289, 0x7528c,
    0x75295, 0x7529c, 0x752a5, 0x752b4, 0x752b9, 0x752e8, 0x752ed, 0x752f0, 0x752f5, 0x75310, 0x75315, 0x75418,
    0x7541d, 0x7542c, 0x75435, 0x75454, 0x75459, 0x75474, 0x75479, 0x754e8, 0x754ed, 0x754fc, 0x75501, 0x75514,
    0x75519, 0x7551c, 0x75529, 0x75544, 0x75549, 0x75a98, 0x75aa1, 0x75b04, 0x75b09, 0x75b6c, 0x75b71, 0x75bec,
    0x75bf1, 0x75c54, 0x75c59, 0x75cd4, 0x75cd9, 0x75d3c, 0x75d41, 0x75dbc, 0x75dc1, 0x75e24, 0x75e29, 0x75ea4,
    0x75ea9, 0x75f0c, 0x75f11, 0x75f30, 0x75f3a, 0x76000, 0x77c01, 0x77c7c, 0x77c95, 0x77cac, 0x780c1, 0x781b8,
    0x78401, 0x784b4, 0x784dd, 0x784f8, 0x78502, 0x78528, 0x78539, 0x7853c, 0x78a41, 0x78ab8, 0x78b01, 0x78bb0,
    0x78bc2, 0x78be8, 0x79341, 0x793b0, 0x793c2, 0x793e8, 0x79741, 0x797b8, 0x797c1, 0x797c6, 0x797ec, 0x79f81,
    0x79f9c, 0x79fa1, 0x79fb0, 0x79fb5, 0x79fbc, 0x79fc1, 0x79ffc, 0x7a001, 0x7a314, 0x7a31e, 0x7a340, 0x7a401,
    0x7a510, 0x7a52d, 0x7a530, 0x7a542, 0x7a568, 0x7b1c6, 0x7b2b0, 0x7b2b6, 0x7b2c0, 0x7b2c6, 0x7b2d4, 0x7b406,
    0x7b4b8, 0x7b4be, 0x7b4f8, 0x7b801, 0x7b810, 0x7b815, 0x7b880, 0x7b885, 0x7b88c, 0x7b891, 0x7b894, 0x7b89d,
    0x7b8a0, 0x7b8a5, 0x7b8cc, 0x7b8d1, 0x7b8e0, 0x7b8e5, 0x7b8e8, 0x7b8ed, 0x7b8f0, 0x7b909, 0x7b90c, 0x7b91d,
    0x7b920, 0x7b925, 0x7b928, 0x7b92d, 0x7b930, 0x7b935, 0x7b940, 0x7b945, 0x7b94c, 0x7b951, 0x7b954, 0x7b95d,
    0x7b960, 0x7b965, 0x7b968, 0x7b96d, 0x7b970, 0x7b975, 0x7b978, 0x7b97d, 0x7b980, 0x7b985, 0x7b98c, 0x7b991,
    0x7b994, 0x7b99d, 0x7b9ac, 0x7b9b1, 0x7b9cc, 0x7b9d1, 0x7b9e0, 0x7b9e5, 0x7b9f4, 0x7b9f9, 0x7b9fc, 0x7ba01,
    0x7ba28, 0x7ba2d, 0x7ba70, 0x7ba85, 0x7ba90, 0x7ba95, 0x7baa8, 0x7baad, 0x7baf0, 0x7c402, 0x7c434, 0x7efc2,
    0x7efe8, 0x80001, 0xa9b80, 0xa9c01, 0xadce8, 0xadd01, 0xae078, 0xae081, 0xb3a88, 0xb3ac1, 0xbaf84, 0xbafc1,
    0xbb978, 0xbe001, 0xbe878, 0xc0001, 0xc4d2c, 0xc4d41, 0xc8ec0
};

/* The class of a code point: by comparison below 128, by bisection of the runs above. */
static int uni_class(uint32_t c) {
    int low = 0, high = COUNT(uni_runs); /* uni_runs[low] is the run of c when high = low + 1 */
    if (c < 128) {
        if ((c | 32) - 'a' < 26) return UNI_LETTER;
        if (c - '0' < 10) return UNI_NUMBER;
        return c == ' ' || c - 9 < 5 ? UNI_SPACE : UNI_OTHER;
    }
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (uni_runs[middle] >> 2 <= c) low = middle;
        else high = middle;
    }
    return (int)(uni_runs[low] & 3);
}

/* The character at s (n > 0 bytes) and its length; UNI_INVALID and 1 if there is none. */
static size_t uni_decode(const uint8_t *s, size_t n, uint32_t *c) {
    size_t length = uni_length(s[0]);
    if (length == 1) *c = s[0];
    else if (!length || length > n || !uni_well_formed(s, length)) {
        *c = UNI_INVALID;
        length = 1;
    } else {
        *c = s[0] & (0x7fu >> length);
        for (size_t i = 1; i < length; i++) *c = *c << 6 | (s[i] & 0x3f);
    }
    return length;
}

#endif /* POLAR_NO_TOKENIZER */

/* ======================================================================================
 * [tok] Tokenizers and chat formats
 *
 * Two kinds of vocabulary: byte-level BPE ("gpt2" in files), where a pre-tokenizer cuts the text into pieces and merges
 * are ranked, and SentencePiece ("llama"), where the whole text is one piece and tokens are scored. Both join
 * neighbours, best first, in one loop. Promises: any bytes are accepted, time n log n in the text, control tokens
 * come out of a text only when asked for, decoding gives back what was encoded (bytes for BPE and for SentencePiece
 * with byte tokens). A vocabulary that breaks its rules is refused, or the part of it that cannot be used is never
 * produced.
 *
 * Start reading at tok_encode and follow a text down: tok_encode_text looks for special tokens, tok_encode_plain cuts
 * pieces, tok_encode_piece joins symbols. tok_load reads a vocabulary, tok_decode is the way back, tok_chat_encode
 * writes a conversation, and tpl_* find out what a file's template would write. Uses: [err] [mem] [num] [gguf] [uni].
 * ====================================================================================== */

/* Kinds of tokens, with the numbers that files use, and a flag. */
enum { TOK_NORMAL = 1, TOK_UNKNOWN, TOK_CONTROL, TOK_USER, TOK_UNUSED, TOK_BYTE, TOK_KIND = 15, TOK_END = 16 };

/* Slots of two hash tables with linear probing: normal tokens by their text, merges by the pair they join. */
typedef struct tok_slot {
    uint32_t hash;
    int32_t id; /* -1: empty */
} tok_slot;

typedef struct tok_pair {
    int32_t left, right; /* left -1: empty */
    int32_t joined;
    uint32_t rank;
} tok_pair;

/* A file could be made so that its entries collide. Longer ways through a table are refused at loading, and
 * no look-up takes one. */
enum {
    TOK_MAX_PROBES = 256,
    TOK_MAX_SPECIAL = 1024 /* bytes of the text of a special token */
};
#define TOK_NONE UINT32_MAX  /* no order: these two do not join */

typedef struct tok_vocab {
    const struct tok_pre *pre; /* NULL: SentencePiece */
    int n_tokens;
    int bos, eos, eot, eom, unknown; /* -1: none */
    int add_bos;                     /* the file wants BOS in front */
    int add_space;                   /* SentencePiece: a space in front of a text, taken away by decoding */
    int think;                       /* ChatML thinks, unless it is turned off with an empty block */
    polar_chat chat;                 /* what the template asks for */
    struct tok_written {             /* what the template writes */
        int followed;                /* it is known: */
        int writes_bos, trims;       /* BOS in front; contents without white space at their ends */
        polar_span system, before, after, opening; /* with no system message; around one; how the assistant begins */
        char *text[2];               /* what they are in, of n_text bytes */
        size_t n_text[2];
    } written[2];                    /* thinking off, on; the second only where the template has a switch for it */
    int thinks;                      /* the template has one */
    void *block;                     /* all that follows */
    size_t block_bytes;
    uint8_t *bytes;       /* of all tokens, decoded: real bytes, real spaces */
    uint32_t *offsets;    /* (n_tokens + 1) into bytes */
    uint8_t *kinds;       /* (n_tokens) */
    uint32_t *orders;     /* (n_tokens) SentencePiece: the higher the score the lower */
    tok_slot *slots;      /* (slot_mask + 1) */
    tok_pair *pairs;      /* (pair_mask + 1) BPE */
    uint32_t slot_mask, pair_mask;
    gguf_entry *specials; /* (n_specials) control, unknown and user-defined tokens, in order of their text */
    int n_specials;
    uint8_t *raw;          /* (n_raw) scratch of loading: the longest token as the file spells it */
    size_t n_raw;
    int32_t byte_ids[256];     /* the token of a single byte, or -1 */
    uint8_t first_bytes[256];  /* bit 1 << kind: a special token of that kind starts with this byte */
} tok_vocab;

#define TOK_KEY "tokenizer.ggml."

/* Reads the key of a token id. -1, as some files write it also without a sign (2^32 - 1, 2^64 - 1), means that there is
 * none; another id that is no token is left out with a note. */
static polar_status tok_read_id(const gguf_file *g, const char *key, int n_tokens, int *id, buf *notes,
                                polar_error *e) {
    const polar_gguf_pair *kv = gguf_find(g, key);
    char found[24];
    text_buffer t = {found, sizeof found, 0};
    int64_t n = INT64_MAX;
    *id = -1;
    if (!kv) return POLAR_OK;
    if (kv->is_array || !gguf_is_int(kv)) return gguf_wrong_type(g, kv, "an integer", e);
    if (!gguf_int_at(kv, 0, &n)) n = rd_u64(kv->data) == UINT64_MAX ? -1 : INT64_MAX; /* a u64 */
    if (n == -1 || n == UINT32_MAX) return POLAR_OK;
    if (n >= 0 && n < n_tokens) {
        *id = (int)n;
        return POLAR_OK;
    }
    gguf_put_text(&t, kv, 0);
    buf_note(notes, "%s: %s is %s, which is no token of the vocabulary (0 to %d): left out", g->name, key, found,
             n_tokens - 1);
    return POLAR_OK;
}

#ifdef POLAR_NO_TOKENIZER
/* Without tokenizers a vocabulary is a number of tokens and those that end a text. The file need not hold one. */
static polar_status tok_load(tok_vocab *v, const gguf_file *g, buf *notes, const polar_allocator *a, polar_error *e) {
    static const char *const keys[] = {TOK_KEY "bos_token_id", TOK_KEY "eos_token_id", TOK_KEY "eot_token_id",
                                       TOK_KEY "eom_token_id"};
    const polar_gguf_tensor *embedding = gguf_find_tensor(g, "token_embd.weight");
    polar_status status = POLAR_OK;
    (void)a;
    memset(v, 0, sizeof *v);
    v->chat = POLAR_CHAT_RAW;
    v->n_tokens = embedding && embedding->dims[1] <= INT_MAX ? (int)embedding->dims[1] : 0;
    for (int i = 0; i < COUNT(keys) && status == POLAR_OK; i++) {
        int *const ids[] = {&v->bos, &v->eos, &v->eot, &v->eom};
        status = tok_read_id(g, keys[i], v->n_tokens, ids[i], notes, e);
    }
    return status;
}

static void tok_free(tok_vocab *v, const polar_allocator *a) {
    (void)v, (void)a;
}

static const char *tok_name(const tok_vocab *v) {
    (void)v;
    return "none";
}

static int32_t tok_id(const tok_vocab *v, const char *name) {
    (void)v, (void)name;
    return -1;
}

static const char *tok_text(const tok_vocab *v, int32_t id, size_t *length) {
    (void)v, (void)id;
    *length = 0;
    return "";
}

/* Whether a reader sees nothing of a token: control tokens, and what the vocabulary cannot use. */
static int tok_is_control(const tok_vocab *v, int32_t id) {
    return id >= 0 && (id == v->bos || id == v->eos || id == v->eot || id == v->eom);
}

/* Whether the token ends a generation. */
static int tok_is_end(const tok_vocab *v, int32_t id) {
    return id >= 0 && (id == v->eos || id == v->eot || id == v->eom);
}

static polar_status tok_encode(const tok_vocab *v, const polar_allocator *a, const char *text, size_t length, int flags,
                               int32_t *tokens, int capacity, int *n, polar_error *e) {
    (void)v, (void)a, (void)text, (void)length, (void)flags, (void)tokens, (void)capacity;
    *n = 0;
    return fail(e, POLAR_UNSUPPORTED, "this build has no tokenizers (POLAR_NO_TOKENIZER)");
}

const char *polar_chat_name(polar_chat chat) {
    static const char *const names[] = {"auto", "raw", "chatml", "llama3"};
    return (unsigned)chat < (unsigned)COUNT(names) ? names[chat] : NULL;
}

#else

/* The bytes of a token; nothing for a number that is no token. */
static const char *tok_bytes(const tok_vocab *v, int32_t id, size_t *length) {
    *length = 0;
    if (id < 0 || id >= v->n_tokens) return "";
    *length = v->offsets[id + 1] - v->offsets[id];
    return (const char *)v->bytes + v->offsets[id];
}

/* TOK_NORMAL and so on; 0 for a number that is no token. */
static int tok_kind(const tok_vocab *v, int32_t id) {
    return id >= 0 && id < v->n_tokens ? v->kinds[id] & TOK_KIND : 0;
}

/* Whether a reader sees nothing of a token: control tokens, and what the vocabulary cannot use. */
static int tok_is_control(const tok_vocab *v, int32_t id) {
    int kind = tok_kind(v, id);
    return kind == TOK_CONTROL || kind == TOK_UNKNOWN || kind == TOK_UNUSED;
}

/* What a reader sees of a token: nothing of control tokens. */
static const char *tok_text(const tok_vocab *v, int32_t id, size_t *length) {
    const char *s = tok_bytes(v, id, length);
    if (tok_is_control(v, id)) *length = 0;
    return s;
}

/* Whether the token ends a generation. */
static int tok_is_end(const tok_vocab *v, int32_t id) {
    return id >= 0 && id < v->n_tokens && v->kinds[id] & TOK_END;
}

/* --- pre-tokenizers
 *
 * Published as regular expressions that are matched again and again at the place where the last match ended.
 * Each is a function here that returns the length of the match at the start of s; n > 0, result > 0. */

typedef struct tok_pre {
    const char *names[6]; /* tokenizer.ggml.pre; the first is what we call it */
    size_t (*split)(const struct tok_pre *pre, const uint8_t *s, size_t n);
    int max_digits;  /* numbers that stay together; 0: all */
    int whole_words; /* a piece that is a token is that token, whatever the merges say */
    int add_bos;     /* unless the file says otherwise */
} tok_pre;

/* End of the run of at most `max` (0: any number of) characters of a class that starts at `at`. */
static size_t tok_run(const uint8_t *s, size_t n, size_t at, int class, int max) {
    uint32_t c;
    for (int i = 0; at < n && (!max || i < max); i++) {
        size_t length = uni_decode(s + at, n - at, &c);
        if (uni_class(c) != class) break;
        at += length;
    }
    return at;
}

/* 's 't 're 've 'm 'll 'd; 0 if it is none. Without case also 'S and so on, and U+017F, which folds to s. */
static size_t tok_contraction(const uint8_t *s, size_t n, int any_case) {
    uint8_t bit = any_case ? 32 : 0, a, b;
    if (n < 2 || s[0] != '\'') return 0;
    a = s[1] | bit;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (any_case && n > 2 && s[1] == 0xc5 && s[2] == 0xbf) return 3;
    if (n < 3) return 0;
    b = s[2] | bit;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* `\s+(?!\S)|\s+`: white space without its last character where a word follows, which takes that one. Before
 * it, with `newlines`, `\s*[\r\n]+`: up to the last line end. With digits_apart, numbers take no space. */
static size_t tok_split_space(const uint8_t *s, size_t n, int newlines, int digits_apart) {
    size_t end = 0, last = 0, line = 0;
    uint32_t c = 0;
    int class = UNI_SPACE;
    while (end < n) {
        size_t length = uni_decode(s + end, n - end, &c);
        if ((class = uni_class(c)) != UNI_SPACE) break;
        last = end;
        end += length;
        if (newlines && (c == '\r' || c == '\n')) line = end;
    }
    if (line) return line;
    if (end == n || !last || (digits_apart && class == UNI_NUMBER)) return end;
    return last;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max_digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|
 * \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t tok_split_llama3(const tok_pre *pre, const uint8_t *s, size_t n) {
    uint32_t c;
    size_t first = uni_decode(s, n, &c), end = tok_contraction(s, n, 1);
    int class = uni_class(c);
    if (end) return end;
    if (class == UNI_NUMBER) return tok_run(s, n, 0, UNI_NUMBER, pre->max_digits);
    if (class == UNI_LETTER) return tok_run(s, n, 0, UNI_LETTER, 0);
    if (c != '\r' && c != '\n' && (end = tok_run(s, n, first, UNI_LETTER, 0)) > first) return end;
    first = c == ' ';
    if ((end = tok_run(s, n, first, UNI_OTHER, 0)) > first) {
        while (end < n && (s[end] == '\r' || s[end] == '\n')) end++;
        return end;
    }
    return tok_split_space(s, n, 1, 0);
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * With max_digits, numbers are cut into pieces first and take no space in front. */
static size_t tok_split_gpt2(const tok_pre *pre, const uint8_t *s, size_t n) {
    uint32_t c;
    size_t first = s[0] == ' ', end = tok_contraction(s, n, 0);
    if (end) return end;
    if (first < n) {
        int class;
        uni_decode(s + first, n - first, &c);
        class = uni_class(c);
        if (class == UNI_NUMBER && pre->max_digits) {
            if (!first) return tok_run(s, n, 0, UNI_NUMBER, pre->max_digits);
        } else if (class != UNI_SPACE) return tok_run(s, n, first, class, 0);
    }
    return tok_split_space(s, n, 0, pre->max_digits);
}

static const tok_pre tok_pres[] = {
    {{"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"}, tok_split_llama3, 3, 1, 1},
    {{"smaug-bpe", "dbrx"}, tok_split_llama3, 3, 0, 0},
    {{"qwen2", "deepseek-r1-qwen", "megrez"}, tok_split_llama3, 1, 0, 0},
    {{"gpt-2", "phi-2"}, tok_split_gpt2, 0, 0, 0},
    {{"smollm"}, tok_split_gpt2, 1, 0, 0},
};

/* The row of the table that a file names; NULL if none does. */
static const tok_pre *tok_find_pre(const char *name, size_t length) {
    for (int i = 0; i < COUNT(tok_pres); i++)
        for (int k = 0; k < COUNT(tok_pres[i].names) && tok_pres[i].names[k]; k++)
            if (strlen(tok_pres[i].names[k]) == length && !memcmp(tok_pres[i].names[k], name, length))
                return &tok_pres[i];
    return NULL;
}

static const char *tok_name(const tok_vocab *v) {
    return v->pre ? v->pre->names[0] : "llama";
}

/* --- look-ups */

/* Hashes of the two tables: the upper half of a product, where all bits have mixed. */
static uint32_t tok_hash(const uint8_t *s, size_t n) {
    uint64_t h = mem_hash(s, n) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32);
}

/* The same for the table of merges. */
static uint32_t tok_hash_pair(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32);
}

/* The slot that holds a text, or the empty one where it would go; NULL if neither is near. */
static tok_slot *tok_find_slot(const tok_vocab *v, const uint8_t *s, size_t n, uint32_t hash) {
    for (uint32_t i = 0; i < TOK_MAX_PROBES; i++) {
        tok_slot *slot = &v->slots[(hash + i) & v->slot_mask];
        size_t length;
        const char *piece;
        if (slot->id < 0) return slot;
        if (slot->hash != hash) continue;
        piece = tok_bytes(v, slot->id, &length);
        if (length == n && !memcmp(piece, s, n)) return slot;
    }
    return NULL;
}

/* The slot of a pair, or the empty one where it would go; NULL if neither is near. */
static tok_pair *tok_find_pair(const tok_vocab *v, int32_t left, int32_t right) {
    uint32_t hash = tok_hash_pair(left, right);
    for (uint32_t i = 0; i < TOK_MAX_PROBES; i++) {
        tok_pair *pair = &v->pairs[(hash + i) & v->pair_mask];
        if (pair->left < 0 || (pair->left == left && pair->right == right)) return pair;
    }
    return NULL;
}

/* The normal token with this text, or -1. */
static int32_t tok_find(const tok_vocab *v, const uint8_t *s, size_t n) {
    const tok_slot *slot = n && n <= v->n_raw ? tok_find_slot(v, s, n, tok_hash(s, n)) : NULL;
    return slot ? slot->id : -1;
}

/* The same, faster where it is token `guess` or the next. */
static int32_t tok_find_near(const tok_vocab *v, const uint8_t *s, size_t n, int32_t guess) {
    for (int32_t id = guess; id < v->n_tokens && id <= guess + 1; id++) {
        size_t length;
        const char *bytes = tok_bytes(v, id, &length);
        if (length == n && n && !memcmp(bytes, s, n) && (v->kinds[id] & TOK_KIND) == TOK_NORMAL) return id;
    }
    return tok_find(v, s, n);
}

/* The first special token from `low` on whose byte `at` is not below c; entries low..high share what is before. */
static int tok_special_bound(const tok_vocab *v, int low, int high, uint32_t at, int c) {
    while (low < high) {
        int middle = low + (high - low) / 2;
        const gguf_entry *t = &v->specials[middle];
        if (t->length <= at || (uint8_t)t->name[at] < c) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The longest special token that s starts with, of a kind whose bit is in `mask`; -1 if none. */
static int32_t tok_match(const tok_vocab *v, const uint8_t *s, size_t n, int mask, size_t *length) {
    int low = 0, high = v->n_specials;
    int32_t id = -1;
    if (!(v->first_bytes[s[0]] & mask)) return -1;
    for (uint32_t at = 0; low < high; at++) {
        /* Those that end here come first. */
        for (; low < high && v->specials[low].length == at; low++)
            if (mask & 1 << tok_kind(v, (int32_t)v->specials[low].index) && (id < 0 || *length < at)) {
                id = (int32_t)v->specials[low].index;
                *length = at;
            }
        if (at >= n) break;
        high = tok_special_bound(v, low, high, at, s[at] + 1);
        low = tok_special_bound(v, low, high, at, s[at]);
    }
    return id;
}

/* The token that a file calls by this name, special or not; -1 if none. */
static int32_t tok_id(const tok_vocab *v, const char *name) {
    const uint8_t *s = (const uint8_t *)name;
    size_t n = strlen(name), length = 0;
    int32_t id = tok_match(v, s, n, -1, &length);
    return id >= 0 && length == n ? id : tok_find(v, s, n);
}

/* --- loading */


enum { TOK_IF_CONTROL = 2 };

/* Tokens with a meaning, by name: files do not always give them the right kind, or name their ids. */
static const struct {
    const char *name;
    int end;  /* ends a generation; TOK_IF_CONTROL: where the file itself says that it is a control token */
    int turn; /* ... and an assistant's turn: what eot is where the file does not say */
} tok_named[] = {
    {"<|eot_id|>", 1, 1},      {"<|im_end|>", 1, 1},     {"<|end|>", 1, 1},          {"<end_of_turn>", 1, 1},
    {"<|endoftext|>", 1, 0},   {"<|end_of_text|>", 1, 0}, {"<|eom_id|>", 1, 0},      {"<EOT>", 1, 0},
    {"</s>", TOK_IF_CONTROL, 0}, {"<eos>", TOK_IF_CONTROL, 0},
    {"<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>", TOK_IF_CONTROL, 0},
    {"<|im_start|>", 0, 0},    {"<|start_header_id|>", 0, 0}, {"<|end_header_id|>", 0, 0},
    {"<|begin_of_text|>", 0, 0},
};

/* The arrays of a file that make a vocabulary. */
typedef struct tok_source {
    const gguf_file *g;
    const polar_gguf_pair *tokens, *kinds, *scores, *merges; /* kinds may be NULL; scores or merges by the tokenizer */
    size_t n_bytes;    /* of all tokens */
    size_t longest;    /* bytes of the longest token */
    size_t n_specials;
    buf *notes;        /* what a reader of the file should know */
    polar_error *error;
} tok_source;

/* The byte that a character stands for in the alphabet of GPT-2, -1 if none: printable characters of Latin-1
 * stand for themselves, the other bytes, in order, are U+0100 and up. */
static int tok_alphabet(uint32_t c) {
    if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad)) return (int)c;
    if (c < 0x100 || c > 0x143) return -1;
    c -= 0x100;
    return c < 33 ? (int)c : c < 67 ? (int)c + 0x7f - 33 : 0xad;
}

/* Writes the bytes that s, in that alphabet, stands for; never more than n. 0 if s is not in the alphabet. */
static int tok_decode_bpe(const uint8_t *s, size_t n, uint8_t *out, size_t *length) {
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = s[i++];
        int byte;
        if (c >= 0x80) { /* characters of the alphabet have one or two bytes */
            if (c < 0xc2 || c > 0xc5 || i == n || (s[i] & 0xc0) != 0x80) return 0;
            c = (c & 31) << 6 | (s[i++] & 63);
        }
        if ((byte = tok_alphabet(c)) < 0) return 0;
        out[k++] = (uint8_t)byte;
    }
    *length = k;
    return 1;
}

/* U+2581, the visible space of SentencePiece, becomes a space. */
static size_t tok_decode_spaces(const uint8_t *s, size_t n, uint8_t *out) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int space = n - i >= 3 && s[i] == 0xe2 && s[i + 1] == 0x96 && s[i + 2] == 0x81;
        out[k++] = space ? ' ' : s[i];
        if (space) i += 2;
    }
    return k;
}

/* "<0x0A>" to 10; -1 if it is no such name. */
static int tok_byte_name(const uint8_t *s, size_t n) {
    int value = 0;
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        int digit = s[i] >= '0' && s[i] <= '9' ? s[i] - '0' : s[i] >= 'A' && s[i] <= 'F' ? s[i] - 'A' + 10 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The kind of token i: what the file says, corrected where the name has a fixed meaning; -1 after an error. */
static int tok_read_kind(const tok_vocab *v, const tok_source *src, int32_t i, const char *s, size_t n) {
    int64_t kind = TOK_NORMAL;
    if (src->kinds) {
        gguf_int_at(src->kinds, (size_t)i, &kind);
        if (kind < 0 || kind > TOK_BYTE) {
            fail(src->error, POLAR_FORMAT, "%s: " TOK_KEY "token_type of token %d is %lld, expected 0 to %d",
                 src->g->name, (int)i, (long long)kind, TOK_BYTE);
            return -1;
        }
        if (!kind) kind = TOK_NORMAL;
    } else if (i == v->bos || i == v->eos || i == v->eot || i == v->eom) kind = TOK_CONTROL;
    else if (i == v->unknown) kind = TOK_UNKNOWN;
    else if (!v->pre && tok_byte_name((const uint8_t *)s, n) >= 0) kind = TOK_BYTE;
    for (int k = 0; n && s[0] == '<' && k < COUNT(tok_named); k++)
        if (strlen(tok_named[k].name) == n && !memcmp(tok_named[k].name, s, n) &&
            (tok_named[k].end != TOK_IF_CONTROL || kind == TOK_CONTROL))
            return TOK_CONTROL | (tok_named[k].end ? TOK_END : 0);
    return (int)kind;
}

/* Whether a token of a kind and of n bytes is one of v->specials: what measures them and what fills them asks this. */
static int tok_is_special(int flags, size_t n) {
    const int kind = flags & TOK_KIND;
    return n && (kind == TOK_UNKNOWN || kind == TOK_CONTROL || kind == TOK_USER);
}

/* Adds token `id` to the table of normal tokens. Of two with the same text the first counts. */
static polar_status tok_insert(tok_vocab *v, const tok_source *src, int32_t id) {
    size_t n;
    const uint8_t *s = (const uint8_t *)tok_bytes(v, id, &n);
    uint32_t hash = tok_hash(s, n);
    tok_slot *slot = tok_find_slot(v, s, n, hash);
    if (!slot) return fail(src->error, POLAR_FORMAT, "%s: the tokens collide in the hash table", src->g->name);
    if (slot->id < 0) *slot = (tok_slot){hash, id};
    return POLAR_OK;
}

/* Decodes token i of the file to the end of `bytes`, and enters it where its kind belongs. */
static polar_status tok_read_token(tok_vocab *v, const tok_source *src, int32_t i, const char *name, size_t n) {
    const uint8_t *s = (const uint8_t *)name;
    uint8_t *out = v->bytes + v->offsets[i];
    int flags = tok_read_kind(v, src, i, name, n), kind = flags & TOK_KIND, normal = kind == TOK_NORMAL;
    size_t length = n;
    if (flags < 0) return POLAR_FORMAT;
    if (kind == TOK_BYTE && !v->pre) {
        int byte = tok_byte_name(s, n);
        if (byte < 0)
            return fail(src->error, POLAR_FORMAT, "%s: token %d is a byte by its type, expected a name like <0x0A>, "
                        "found %.*s", src->g->name, (int)i, (int)MIN(n, 40), name);
        out[0] = (uint8_t)byte;
        length = 1;
        v->byte_ids[byte] = i;
    } else if (!v->pre) length = tok_decode_spaces(s, n, out);
    else if (!normal || !tok_decode_bpe(s, n, out, &length)) {
        memcpy(out, s, n);
        if (normal) flags = TOK_USER; /* outside of the alphabet: it can be written, but no text leads to it */
        normal = 0;
    }
    v->kinds[i] = (uint8_t)flags;
    v->offsets[i + 1] = v->offsets[i] + (uint32_t)length;
    if (normal && length) return tok_insert(v, src, i);
    if (!tok_is_special(kind, n)) return POLAR_OK;
    if (length > TOK_MAX_SPECIAL)
        return fail(src->error, POLAR_UNSUPPORTED, "%s: the special token %d has %zu bytes, expected at most %d",
                    src->g->name, (int)i, length, TOK_MAX_SPECIAL);
    v->first_bytes[out[0]] |= (uint8_t)(1 << kind);
    v->specials[v->n_specials++] = (gguf_entry){(const char *)out, length, (size_t)i, 0};
    return POLAR_OK;
}

/* All tokens of the file; then the special ones in order, and the token of each single byte. */
static polar_status tok_read_tokens(tok_vocab *v, const tok_source *src) {
    gguf_strings it = gguf_strings_begin(src->tokens);
    polar_status status = POLAR_OK;
    const char *s;
    size_t n;
    for (uint32_t i = 0; i <= v->slot_mask; i++) v->slots[i].id = -1;
    for (int i = 0; i < 256; i++) v->byte_ids[i] = -1;
    v->offsets[0] = 0;
    for (int32_t i = 0; status == POLAR_OK && gguf_strings_next(&it, &s, &n); i++)
        status = tok_read_token(v, src, i, s, n);
    if (status != POLAR_OK) return status;
    gguf_sort(v->specials, (size_t)v->n_specials);
    for (int i = 0; i < 256 && v->pre; i++) {
        uint8_t byte = (uint8_t)i;
        v->byte_ids[i] = tok_find(v, &byte, 1);
    }
    return POLAR_OK;
}

/* Scores as numbers that sort the other way round: the best is the least. */
static polar_status tok_read_scores(tok_vocab *v, const tok_source *src) {
    for (int32_t i = 0; i < v->n_tokens; i++) {
        float score = rd_f32(src->scores->data + 4 * (size_t)i);
        uint32_t u = f32_bits(score + 0.0f); /* there is one zero */
        if (!(score - score == 0))
            return fail(src->error, POLAR_FORMAT, "%s: " TOK_KEY "scores of token %d is no finite number",
                        src->g->name, (int)i);
        v->orders[i] = u >> 31 ? u : ~(u | 0x80000000u);
    }
    return POLAR_OK;
}

/* Merge number `rank` of the file, "left right" in the alphabet. One that names unknown tokens is left out.
 * *last is the token that the one before joined: in real files this one joins the same or the next. */
static polar_status tok_read_merge(tok_vocab *v, const tok_source *src, uint32_t rank, const char *s, size_t n,
                                   int32_t *last) {
    const uint8_t *bytes = (const uint8_t *)s;
    const char *space = n > 1 ? memchr(s + 1, ' ', n - 1) : NULL;
    size_t a = space ? (size_t)(space - s) : 0, n_left, n_right;
    int32_t left, right, joined;
    tok_pair *pair;
    if (!space || n - 1 > v->n_raw) return POLAR_OK; /* longer than any token */
    if (!tok_decode_bpe(bytes, a, v->raw, &n_left)) return POLAR_OK;
    if (!tok_decode_bpe(bytes + a + 1, n - a - 1, v->raw + n_left, &n_right)) return POLAR_OK;
    left = n_left == 1 ? v->byte_ids[v->raw[0]] : tok_find(v, v->raw, n_left);
    right = n_right == 1 ? v->byte_ids[v->raw[n_left]] : tok_find(v, v->raw + n_left, n_right);
    joined = tok_find_near(v, v->raw, n_left + n_right, *last);
    if (left < 0 || right < 0 || joined < 0) return POLAR_OK;
    *last = joined;
    if (!(pair = tok_find_pair(v, left, right)))
        return fail(src->error, POLAR_FORMAT, "%s: the merges collide in the hash table", src->g->name);
    if (pair->left < 0) *pair = (tok_pair){left, right, joined, rank}; /* of two for a pair the first counts */
    return POLAR_OK;
}

/* All merges of the file, by rank. */
static polar_status tok_read_merges(tok_vocab *v, const tok_source *src) {
    gguf_strings it = gguf_strings_begin(src->merges);
    polar_status status = POLAR_OK;
    int32_t last = 0;
    const char *s;
    size_t n;
    for (uint32_t i = 0; i <= v->pair_mask; i++) v->pairs[i].left = -1;
    for (uint32_t i = 0; status == POLAR_OK && gguf_strings_next(&it, &s, &n); i++)
        status = tok_read_merge(v, src, i, s, n, &last);
    return status;
}

/* A power of two with at least a third of the slots free, less one. */
static uint32_t tok_table_mask(size_t n) {
    size_t size = 16;
    while (size / 3 * 2 < n) size *= 2;
    return (uint32_t)(size - 1);
}

/* Measures or places the vocabulary's arrays. */
static void tok_place(tok_vocab *v, const tok_source *src, layout *l) {
    size_t n = (size_t)v->n_tokens;
    v->offsets = layout_place(l, n + 1, sizeof *v->offsets);
    v->slots = layout_place(l, (size_t)v->slot_mask + 1, sizeof *v->slots);
    v->pairs = layout_place(l, v->pre ? (size_t)v->pair_mask + 1 : 0, sizeof *v->pairs);
    v->orders = layout_place(l, v->pre ? 0 : n, sizeof *v->orders);
    v->specials = layout_place(l, src->n_specials, sizeof *v->specials);
    v->kinds = layout_place(l, n, 1);
    v->bytes = layout_place(l, src->n_bytes, 1);
    v->raw = layout_place(l, v->n_raw, 1);
}


/* The ids that the file names by keys. */
static polar_status tok_read_ids(tok_vocab *v, const tok_source *src) {
    int padding; /* nothing here pads: only looked at */
    const struct {
        const char *key;
        int *id;
    } ids[] = {{TOK_KEY "bos_token_id", &v->bos}, {TOK_KEY "eos_token_id", &v->eos}, {TOK_KEY "eot_token_id", &v->eot},
               {TOK_KEY "eom_token_id", &v->eom}, {TOK_KEY "unknown_token_id", &v->unknown},
               {TOK_KEY "padding_token_id", &padding}};
    polar_status status = POLAR_OK;
    for (int i = 0; i < COUNT(ids) && status == POLAR_OK; i++)
        status = tok_read_id(src->g, ids[i].key, v->n_tokens, ids[i].id, src->notes, src->error);
    return status;
}

/* What the keys left open, by the names of tokens, and which tokens end a generation. */
static void tok_find_ids(tok_vocab *v) {
    if (!v->pre) {
        if (v->unknown < 0) v->unknown = tok_id(v, "<unk>");
        if (v->bos < 0) v->bos = tok_id(v, "<s>");
        if (v->eos < 0) v->eos = tok_id(v, "</s>");
    }
    for (int i = 0; i < COUNT(tok_named) && v->eot < 0; i++)
        if (tok_named[i].turn) v->eot = tok_id(v, tok_named[i].name);
    if (v->eos >= 0) v->kinds[v->eos] |= TOK_END;
    if (v->eot >= 0) v->kinds[v->eot] |= TOK_END;
    if (v->eom >= 0) v->kinds[v->eom] |= TOK_END;
}

/* Whether a text begins with a prefix. */
static int tok_starts(const char *s, size_t n, const char *prefix) {
    return n >= strlen(prefix) && !memcmp(s, prefix, strlen(prefix));
}

/* The pre-tokenizer. Files from before the key existed, or whose converter did not know it, get that of their
 * architecture. */
static polar_status tok_read_pre(tok_vocab *v, const tok_source *src) {
    const char *name = "default", *arch = "";
    size_t length = strlen(name), arch_length = 0;
    polar_status status = gguf_get_str(src->g, TOK_KEY "pre", &name, &length, GGUF_OPTIONAL, src->error);
    if (status == POLAR_OK)
        status = gguf_get_str(src->g, "general.architecture", &arch, &arch_length, GGUF_OPTIONAL, src->error);
    if (status != POLAR_OK) return status;
    if (length == 7 && !memcmp(name, "default", 7)) {
        name = tok_starts(arch, arch_length, "qwen") ? "qwen2" : src->tokens->count >= 128000 ? "llama-bpe" : "gpt-2";
        length = strlen(name);
    }
    if (!(v->pre = tok_find_pre(name, length)))
        return fail(src->error, POLAR_UNSUPPORTED, "%s: the pre-tokenizer %.*s is unknown here; known are llama-bpe, "
                    "smaug-bpe, qwen2, gpt-2, smollm", src->g->name, (int)MIN(length, 80), name);
    return POLAR_OK;
}

/* One of the arrays beside the tokens, as long as they are. */
static polar_status tok_read_array(const tok_source *src, const char *key, polar_gguf_value_type type,
                                   const polar_gguf_pair **out, int required) {
    polar_status status = gguf_get_array(src->g, key, type, out, required, src->error);
    if (status == POLAR_OK && *out && (*out)->count != src->tokens->count)
        return fail(src->error, POLAR_FORMAT, "%s: %s has %zu elements, expected one for each of %zu tokens",
                    src->g->name, key, (*out)->count, src->tokens->count);
    return status;
}

/* Finds the arrays and the kind of tokenizer. */
static polar_status tok_read_source(tok_vocab *v, tok_source *src) {
    polar_error *e = src->error;
    const char *model = "";
    size_t length = 0;
    polar_status status = gguf_get_str(src->g, TOK_KEY "model", &model, &length, GGUF_REQUIRED, e);
    int bpe = length == 4 && !memcmp(model, "gpt2", 4), sentencepiece = length == 5 && !memcmp(model, "llama", 5);
    if (status != POLAR_OK) return status;
    if (!bpe && !sentencepiece)
        return fail(e, POLAR_UNSUPPORTED, "%s: the tokenizer %.*s is unknown here, expected gpt2 or llama",
                    src->g->name, (int)MIN(length, 80), model);
    status = gguf_get_array(src->g, TOK_KEY "tokens", POLAR_GGUF_STRING, &src->tokens, GGUF_REQUIRED, e);
    if (status != POLAR_OK) return status;
    if (!src->tokens->count || src->tokens->count > INT_MAX / 2 || src->tokens->bytes > UINT32_MAX)
        return fail(e, POLAR_FORMAT, "%s: " TOK_KEY "tokens has %zu elements in %zu bytes", src->g->name,
                    src->tokens->count, src->tokens->bytes);
    v->n_tokens = (int)src->tokens->count;
    v->add_bos = v->add_space = sentencepiece;
    status = tok_read_array(src, TOK_KEY "token_type", POLAR_GGUF_I32, &src->kinds, GGUF_OPTIONAL);
    if (status != POLAR_OK) return status;
    if (sentencepiece) return tok_read_array(src, TOK_KEY "scores", POLAR_GGUF_F32, &src->scores, GGUF_REQUIRED);
    status = gguf_get_array(src->g, TOK_KEY "merges", POLAR_GGUF_STRING, &src->merges, GGUF_REQUIRED, e);
    if (status == POLAR_OK && src->merges->count > UINT32_MAX / 4)
        return fail(e, POLAR_FORMAT, "%s: " TOK_KEY "merges has %zu elements", src->g->name, src->merges->count);
    if (status == POLAR_OK) status = tok_read_pre(v, src);
    if (status == POLAR_OK) v->add_bos = v->pre->add_bos;
    return status;
}

/* Sizes, before anything is allocated; they are in proportion to the file. */
static polar_status tok_measure(tok_vocab *v, tok_source *src) {
    gguf_strings it = gguf_strings_begin(src->tokens);
    const char *s;
    size_t n;
    for (int32_t i = 0; gguf_strings_next(&it, &s, &n); i++) {
        const int flags = tok_read_kind(v, src, i, s, n);
        if (flags < 0) return POLAR_FORMAT;
        src->n_bytes += n;
        src->longest = MAX(src->longest, n);
        src->n_specials += (size_t)tok_is_special(flags, n);
    }
    v->n_raw = src->longest;
    v->slot_mask = tok_table_mask(src->tokens->count);
    if (v->pre) v->pair_mask = tok_table_mask(src->merges->count);
    return POLAR_OK;
}

static void tok_free(tok_vocab *v, const polar_allocator *a) {
    for (int i = 0; i < 4; i++) mem_free(a, v->written[i / 2].text[i % 2], v->written[i / 2].n_text[i % 2]);
    mem_free(a, v->block, v->block_bytes);
    memset(v, 0, sizeof *v);
}

static polar_status tok_read_chat(tok_vocab *v, const tok_source *src, const polar_allocator *a);

/* Reads the vocabulary of an open file. Keeps pointers into the file, which has to stay open. Adds a line to `notes`
 * for what in it cannot be used. */
static polar_status tok_load(tok_vocab *v, const gguf_file *g, buf *notes, const polar_allocator *a, polar_error *e) {
    tok_source src = {.g = g, .notes = notes, .error = e};
    layout measure = layout_begin(NULL), place;
    polar_status status;
    memset(v, 0, sizeof *v);
    if ((status = tok_read_source(v, &src)) != POLAR_OK) return status;
    if ((status = tok_read_ids(v, &src)) != POLAR_OK) return status;
    if ((status = gguf_get_bool(g, TOK_KEY "add_bos_token", &v->add_bos, GGUF_OPTIONAL, e)) != POLAR_OK) return status;
    status = gguf_get_bool(g, TOK_KEY "add_space_prefix", &v->add_space, GGUF_OPTIONAL, e);
    if (status != POLAR_OK) return status;
    v->add_space = v->add_space && !v->pre;
    if ((status = tok_measure(v, &src)) != POLAR_OK) return status;
    tok_place(v, &src, &measure);
    if (!(v->block_bytes = layout_bytes(&measure)))
        return fail(e, POLAR_MEMORY, "%s: the vocabulary is larger than memory", g->name);
    if (!(v->block = mem_alloc(a, v->block_bytes, e))) return POLAR_MEMORY;
    place = layout_begin(v->block);
    tok_place(v, &src, &place);
    status = tok_read_tokens(v, &src);
    if (status == POLAR_OK) status = v->pre ? tok_read_merges(v, &src) : tok_read_scores(v, &src);
    if (status == POLAR_OK) tok_find_ids(v);
    if (status == POLAR_OK) status = tok_read_chat(v, &src, a);
    if (status != POLAR_OK) tok_free(v, a);
    return status;
}

/* --- encoding
 *
 * A piece of text is a chain of symbols: bytes for BPE, characters for SentencePiece. Again and again the two
 * neighbours are joined that the vocabulary wants joined first; of equals the leftmost. */

typedef struct tok_symbol {
    int32_t id;              /* its token, or -1 */
    int32_t joined;          /* the token of this symbol and the next in one */
    uint32_t order;          /* when to join them: rank or score, the least first; TOK_NONE never */
    uint32_t start, end;     /* in the text */
    uint32_t previous, next; /* TOK_NONE: none */
} tok_symbol;

/* One encoding: where the tokens go, and scratch that lives until its end. */
typedef struct tok_coder {
    const tok_vocab *v;
    const polar_allocator *a;
    polar_error *error;
    int32_t *tokens;
    int capacity, n; /* n also counts what did not fit */
    int32_t last;    /* token */
    tok_symbol *symbols;
    size_t symbols_capacity;
    uint64_t *heap; /* order << 32 | index of the left symbol: the least is next */
    size_t heap_capacity, n_heap;
    buf padded;  /* SentencePiece: the text with a space in front */
    buf pending; /* chat: text that goes on */
    polar_status status;
} tok_coder;

/* An encoding that writes up to `capacity` tokens; tok_coder_end frees what it comes to hold. */
static tok_coder tok_coder_begin(const tok_vocab *v, const polar_allocator *a, int32_t *tokens, int capacity,
                                 polar_error *e) {
    tok_coder c;
    memset(&c, 0, sizeof c);
    c.v = v;
    c.a = a;
    c.error = e;
    c.tokens = tokens;
    c.capacity = tokens ? capacity : 0;
    c.last = -1;
    c.padded.allocator = c.pending.allocator = a;
    return c;
}

/* *n gets the number of tokens, also of those that did not fit; 0 after a failure. */
static polar_status tok_coder_end(tok_coder *c, int *n) {
    mem_free(c->a, c->symbols, c->symbols_capacity * sizeof *c->symbols);
    mem_free(c->a, c->heap, c->heap_capacity * sizeof *c->heap);
    buf_free(&c->padded);
    buf_free(&c->pending);
    *n = c->status == POLAR_OK ? c->n : 0;
    return c->status;
}

/* The next token of the result. */
static void tok_emit(tok_coder *c, int32_t id) {
    if (c->n == INT_MAX) { /* not with one text, but with several messages */
        c->status = fail(c->error, POLAR_ARGUMENT, "more than %d tokens", INT_MAX);
        return;
    }
    if (c->n < c->capacity) c->tokens[c->n] = id;
    c->n++;
    c->last = id;
}

/* Whether text that was put together is complete and no longer than one that is encoded may be. */
static int tok_is_complete(tok_coder *c, const buf *text) {
    if (c->status == POLAR_OK && text->failed) c->status = fail(c->error, POLAR_MEMORY, "out of memory: a text");
    if (c->status == POLAR_OK && text->length > INT_MAX)
        c->status = fail(c->error, POLAR_ARGUMENT, "the text is too long, expected at most %d bytes", INT_MAX);
    return c->status == POLAR_OK;
}

/* Moves heap[i] down to where neither child is less. */
static void tok_heap_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t x = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (x <= heap[child]) break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

/* Enters x into the heap. */
static void tok_heap_push(tok_coder *c, uint64_t x) {
    size_t i = c->n_heap++;
    for (size_t parent; i && x < c->heap[parent = (i - 1) / 2]; i = parent) c->heap[i] = c->heap[parent];
    c->heap[i] = x;
}

/* Takes the least out of the heap. */
static uint64_t tok_heap_pop(tok_coder *c) {
    uint64_t x = c->heap[0];
    c->heap[0] = c->heap[--c->n_heap];
    if (c->n_heap) tok_heap_down(c->heap, c->n_heap, 0);
    return x;
}

/* Finds out what becomes of symbol i and the next one. */
static void tok_look(const tok_coder *c, const uint8_t *s, uint32_t i) {
    const tok_vocab *v = c->v;
    tok_symbol *left = &c->symbols[i];
    const tok_symbol *right;
    left->order = TOK_NONE;
    if (left->next == TOK_NONE) return;
    right = &c->symbols[left->next];
    if (v->pre) {
        const tok_pair *pair = left->id >= 0 && right->id >= 0 ? tok_find_pair(v, left->id, right->id) : NULL;
        if (!pair || pair->left < 0) return;
        left->joined = pair->joined;
        left->order = pair->rank;
    } else if ((left->joined = tok_find(v, s + left->start, right->end - left->start)) >= 0)
        left->order = v->orders[left->joined];
}

/* The same, and enters it into the heap if the two join. */
static void tok_look_push(tok_coder *c, const uint8_t *s, uint32_t i) {
    tok_look(c, s, i);
    if (c->symbols[i].order != TOK_NONE) tok_heap_push(c, (uint64_t)c->symbols[i].order << 32 | i);
}

/* Joins until nothing joins. An entry of the heap whose symbol has got another order since is out of date. */
static void tok_join(tok_coder *c, const uint8_t *s) {
    while (c->n_heap) {
        uint64_t entry = tok_heap_pop(c);
        uint32_t i = (uint32_t)entry;
        tok_symbol *left = &c->symbols[i], *right;
        if (left->order != (uint32_t)(entry >> 32)) continue;
        right = &c->symbols[left->next];
        left->id = left->joined;
        left->end = right->end;
        left->next = right->next;
        right->order = TOK_NONE;
        if (left->next != TOK_NONE) c->symbols[left->next].previous = i;
        tok_look_push(c, s, i);
        if (left->previous != TOK_NONE) tok_look_push(c, s, left->previous);
    }
}

/* Cuts a piece into symbols; returns their number. */
static uint32_t tok_cut(const tok_coder *c, const uint8_t *s, size_t n) {
    const tok_vocab *v = c->v;
    uint32_t k = 0;
    for (size_t at = 0; at < n; k++) {
        uint32_t character;
        size_t length = v->pre ? 1 : uni_decode(s + at, n - at, &character);
        tok_symbol *t = &c->symbols[k];
        t->id = v->pre ? v->byte_ids[s[at]] : tok_find(v, s + at, length);
        t->start = (uint32_t)at;
        t->end = (uint32_t)(at += length);
        t->previous = k ? k - 1 : TOK_NONE;
        t->next = at < n ? k + 1 : TOK_NONE;
    }
    return k;
}

/* What no token spells: its bytes one by one, or the unknown token, once for a run. */
static void tok_emit_unknown(tok_coder *c, const uint8_t *s, size_t n) {
    const tok_vocab *v = c->v;
    int have = 1;
    for (size_t i = 0; i < n; i++) have = have && v->byte_ids[s[i]] >= 0;
    if (have)
        for (size_t i = 0; i < n; i++) tok_emit(c, v->byte_ids[s[i]]);
    else if (v->unknown < 0)
        c->status = fail(c->error, POLAR_FORMAT, "the vocabulary has no token for the byte 0x%x, and none for the "
                         "unknown", (unsigned)s[0]);
    else if (c->last != v->unknown) tok_emit(c, v->unknown);
}

/* Encodes a piece: one that the pre-tokenizer cut off, or a whole text for SentencePiece. */
static void tok_encode_piece(tok_coder *c, const uint8_t *s, size_t n) {
    void *symbols = c->symbols, *heap = c->heap;
    uint32_t n_symbols;
    int32_t id;
    if (c->v->pre && c->v->pre->whole_words && (id = tok_find(c->v, s, n)) >= 0) {
        tok_emit(c, id);
        return;
    }
    /* A join takes one entry off the heap and adds two at most: never more than twice the symbols. */
    if (!mem_grow(c->a, &symbols, &c->symbols_capacity, n, sizeof *c->symbols, c->error)) c->status = POLAR_MEMORY;
    else c->symbols = symbols;
    if (!mem_grow(c->a, &heap, &c->heap_capacity, 2 * n, sizeof *c->heap, c->error)) c->status = POLAR_MEMORY;
    else c->heap = heap;
    if (c->status != POLAR_OK) return;
    n_symbols = tok_cut(c, s, n);
    c->n_heap = 0;
    for (uint32_t i = 0; i < n_symbols; i++) {
        tok_look(c, s, i);
        if (c->symbols[i].order != TOK_NONE) c->heap[c->n_heap++] = (uint64_t)c->symbols[i].order << 32 | i;
    }
    for (size_t i = c->n_heap / 2; i-- > 0;) tok_heap_down(c->heap, c->n_heap, i);
    tok_join(c, s);
    for (uint32_t i = 0; i != TOK_NONE && c->status == POLAR_OK; i = c->symbols[i].next) {
        const tok_symbol *t = &c->symbols[i];
        if (t->id >= 0) tok_emit(c, t->id);
        else tok_emit_unknown(c, s + t->start, t->end - t->start);
    }
}

/* Encodes text without special tokens in it. */
static void tok_encode_plain(tok_coder *c, const uint8_t *s, size_t n) {
    const tok_vocab *v = c->v;
    if (!n) return;
    if (v->pre) {
        for (size_t at = 0; at < n && c->status == POLAR_OK;) {
            size_t length = v->pre->split(v->pre, s + at, n - at);
            tok_encode_piece(c, s + at, length);
            at += length;
        }
        return;
    }
    if (v->add_space) {
        c->padded.length = 0;
        buf_put(&c->padded, " ", 1);
        buf_put(&c->padded, s, n);
        s = (const uint8_t *)c->padded.at;
        n = c->padded.length;
    }
    if (tok_is_complete(c, &c->padded)) tok_encode_piece(c, s, n);
}

/* Encodes text. Special tokens in it, the longest that begins first, are looked for if `special` is set; those
 * that are user-defined belong to the text of SentencePiece in any case. */
static void tok_encode_text(tok_coder *c, const uint8_t *s, size_t n, int special) {
    const tok_vocab *v = c->v;
    int mask = special ? 1 << TOK_CONTROL | 1 << TOK_USER | 1 << TOK_UNKNOWN : v->pre ? 0 : 1 << TOK_USER;
    size_t from = 0, at = 0;
    while (mask && at < n && c->status == POLAR_OK) {
        size_t length = 0;
        int32_t id = tok_match(v, s + at, n - at, mask, &length);
        if (id < 0) {
            at++;
            continue;
        }
        tok_encode_plain(c, s + from, at - from);
        tok_emit(c, id);
        from = at += length;
    }
    if (c->status == POLAR_OK && from < n) tok_encode_plain(c, s + from, n - from); /* s may be NULL with n = 0 */
}

static polar_status tok_encode(const tok_vocab *v, const polar_allocator *a, const char *text, size_t length, int flags,
                               int32_t *tokens, int capacity, int *n, polar_error *e) {
    tok_coder c = tok_coder_begin(v, a, tokens, capacity, e);
    const uint8_t *s = (const uint8_t *)text;
    int special = flags & POLAR_TOKENIZE_SPECIAL;
    size_t ignored;
    *n = 0;
    if (length > INT_MAX)
        return fail(e, POLAR_ARGUMENT, "the text has %zu bytes, expected at most %d", length, INT_MAX);
    /* A text that brings its own BOS gets no second one. */
    if (flags & POLAR_TOKENIZE_BOS && v->add_bos && v->bos >= 0 &&
        !(special && length && tok_match(v, s, length, -1, &ignored) == v->bos))
        tok_emit(&c, v->bos);
    tok_encode_text(&c, s, length, special);
    return tok_coder_end(&c, n);
}

/* --- decoding */

/* The space that encoding put in front of a text, after special tokens too, is taken away again. */
static polar_status tok_decode(const tok_vocab *v, const int32_t *tokens, int n, int flags, char *text,
                               size_t capacity, size_t *length, polar_error *e) {
    int front = v->add_space;
    size_t total = 0;
    *length = 0;
    for (int i = 0; i < n; i++) {
        size_t bytes;
        const char *piece = tok_bytes(v, tokens[i], &bytes);
        int special = tok_is_control(v, tokens[i]);
        if (!tok_kind(v, tokens[i]))
            return fail(e, POLAR_ARGUMENT, "token %d of %d is %d, expected 0 to %d", i, n, (int)tokens[i],
                        v->n_tokens - 1);
        if (special && !(flags & POLAR_DETOKENIZE_SPECIAL)) continue;
        special |= tok_kind(v, tokens[i]) == TOK_USER;
        if (front && !special && bytes && *piece == ' ') piece++, bytes--;
        front = special && v->add_space;
        if (total < capacity && bytes) memcpy(text + total, piece, MIN(bytes, capacity - total));
        if (!add_size(&total, total, bytes)) return fail(e, POLAR_ARGUMENT, "the text is longer than memory");
    }
    *length = total;
    return POLAR_OK;
}

/* --- chat formats */

/* A message is: open, role, close, gap, content, end, tail; open, close and end are control tokens. What the
 * assistant says next is introduced by open, its role, close and gap. */
static const struct tok_chat_format {
    const char *name;
    const char *open, *close, *gap, *end, *tail; /* "" or NULL: nothing. The format is known by `open` */
    int bos;  /* the template writes BOS, whatever add_bos says */
    int trim; /* it takes white space off the ends of contents */
} tok_chats[POLAR_N_CHAT] = {
    [POLAR_CHAT_AUTO] = {"auto", NULL, NULL, "", NULL, "", 0, 0},
    [POLAR_CHAT_RAW] = {"raw", NULL, NULL, "", NULL, "", 0, 0},
    [POLAR_CHAT_CHATML] = {"chatml", "<|im_start|>", NULL, "\n", "<|im_end|>", "\n", 0, 0},
    [POLAR_CHAT_LLAMA3] = {"llama3", "<|start_header_id|>", "<|end_header_id|>", "\n\n", "<|eot_id|>", "", 1, 1},
};

#define TOK_THINK "<think>\n\n</think>\n\n"

/* The first place of `what` in s, or NULL. */
static const char *tok_search(const char *s, size_t n, const char *what) {
    size_t m = strlen(what);
    for (const char *at = s; n >= m && (at = memchr(at, *what, n - m + 1 - (size_t)(at - s))); at++)
        if (!memcmp(at, what, m)) return at;
        else if ((size_t)(at - s) == n - m) break;
    return NULL;
}

/* --- chat templates
 *
 * Templates are programs in the language Jinja. What they write for two short conversations is compared with a known
 * format: what stands before, around and behind the messages - a system text of the model's own, date lines, a thought
 * that is opened - is taken over exactly, and a template that writes something else is an unknown one. Only as much of
 * the language is followed as templates of models in wide use need; the rest is refused by name.
 *
 * Start reading at tpl_block, which runs the text and the tags {% %}, {{ }} and {# #} one after the other;
 * tpl_expression reads a value, from the operators that bind weakest (tpl_logic) down to names and literals
 * (tpl_primary). After a failure nothing more is read, and every function returns at once. */

enum { TPL_UNDEFINED, TPL_NONE, TPL_BOOL, TPL_INT, TPL_TEXT, TPL_LIST, TPL_MESSAGE, TPL_LOOP, TPL_SPACE };

/* A value. BOOL and INT: number. LIST: messages number .. to-1, from behind if `reversed`. MESSAGE: its number. LOOP:
 * the turn and the number of turns. SPACE: an object with members, known by its number. */
typedef struct tpl_value {
    int kind, number, to, reversed;
    polar_span text;
} tpl_value;

typedef struct tpl_variable {
    polar_span name;
    int space; /* of which it is a member; 0: none */
    tpl_value value;
} tpl_variable;

enum {
    TPL_BYTES = 1 << 16, TPL_VARIABLES = 64, TPL_DEPTH = 32, TPL_STEPS = 20000, TPL_ARGUMENTS = 4,
    TPL_MAX = 999999 /* largest number */
};

/* A run of a template. */
typedef struct tpl {
    const char *begin, *at, *end;
    const polar_message *messages;
    tpl_variable variables[TPL_VARIABLES];
    int n_variables, scope, n_spaces; /* scope: the first variable of the body of a loop */
    int depth, steps, trim;           /* trim: what the last tag does to white space: 1 a new line, 2 all of it */
    polar_span failed;                /* what is not followed; text NULL: nothing */
    char *out, *strings;              /* (TPL_BYTES) each: the text so far, and the texts of values */
    size_t n_out, n_strings;
} tpl;

/* A NUL-terminated text as a span. */
static polar_span span_of(const char *s) {
    const polar_span span = {s, strlen(s)};
    return span;
}

static int span_is(polar_span s, const char *word) {
    return s.length == strlen(word) && !memcmp(s.text, word, s.length);
}

static int span_equal(polar_span a, polar_span b) {
    return a.length == b.length && (!a.length || !memcmp(a.text, b.text, a.length));
}

/* What stands at the place of the failure, or a description of it. The first one counts. */
static void tpl_fail(tpl *t, polar_span what) {
    if (t->failed.text) return;
    t->failed = what;
    t->failed.length = MIN(what.length, 40);
}

/* The same, for what the template cannot show by a place in it. */
static void tpl_bad(tpl *t, const char *what) {
    tpl_fail(t, span_of(what));
}

static tpl_value tpl_of(int kind, int number) {
    tpl_value v = {0};
    v.kind = kind;
    v.number = number;
    return v;
}

static tpl_value tpl_text(polar_span s) {
    tpl_value v = tpl_of(TPL_TEXT, 0);
    v.text = s;
    return v;
}

/* n more bytes for a value. */
static char *tpl_room(tpl *t, size_t n) {
    char *at = t->strings + t->n_strings;
    if (n > TPL_BYTES - t->n_strings) {
        tpl_bad(t, "a long text");
        return NULL;
    }
    t->n_strings += n;
    return at;
}

/* Whether a condition with this value holds. */
static int tpl_true(tpl_value v) {
    return v.kind == TPL_TEXT ? v.text.length > 0 : v.kind == TPL_LIST ? v.to > v.number
         : v.kind <= TPL_NONE ? 0 : v.kind <= TPL_INT ? v.number != 0 : 1;
}

/* == of the language, but for the number 1 and true, which differ here. */
static int tpl_equal(tpl_value a, tpl_value b) {
    return a.kind == b.kind && a.number == b.number && a.to == b.to && span_equal(a.text, b.text);
}

/* --- words and symbols */

/* How many characters are left. */
static int tpl_left(const tpl *t) {
    return (int)(t->end - t->at);
}

static int tpl_is_digit(const tpl *t) {
    return tpl_left(t) && *t->at >= '0' && *t->at <= '9';
}

/* Passes over white space. */
static void tpl_space(tpl *t) {
    while (tpl_left(t) && strchr(" \t\r\n", *t->at) && *t->at) t->at++;
}

/* Takes a symbol if it is next. */
static int tpl_take(tpl *t, const char *symbol) {
    const size_t n = strlen(symbol);
    tpl_space(t);
    if ((size_t)tpl_left(t) < n || memcmp(t->at, symbol, n)) return 0;
    t->at += n;
    return 1;
}

/* All that is left of the template, for messages. */
static polar_span tpl_rest(const tpl *t) {
    const polar_span rest = {t->at, (size_t)tpl_left(t)};
    return rest;
}

/* The same where nothing else may stand. */
static void tpl_need(tpl *t, const char *symbol) {
    if (!tpl_take(t, symbol)) tpl_fail(t, tpl_rest(t));
}

/* The name that is next; of length 0 if none is. */
static polar_span tpl_name(tpl *t) {
    polar_span name;
    tpl_space(t);
    for (name = tpl_rest(t); tpl_left(t); t->at++)
        if (!((*t->at >= 'a' && *t->at <= 'z') || (*t->at >= 'A' && *t->at <= 'Z') || *t->at == '_' ||
              (t->at > name.text && tpl_is_digit(t))))
            break;
    name.length = (size_t)(t->at - name.text);
    return name;
}

/* Takes a word if it is next. */
static int tpl_word(tpl *t, const char *word) {
    const char *start = t->at;
    if (span_is(tpl_name(t), word)) return 1;
    t->at = start;
    return 0;
}

/* --- variables */

/* The variable of that name, the one set last; NULL if there is none from number `from` on. */
static tpl_variable *tpl_find(tpl *t, polar_span name, int space, int from) {
    for (int i = t->n_variables; i-- > from;)
        if (t->variables[i].space == space && span_equal(t->variables[i].name, name)) return &t->variables[i];
    return NULL;
}

/* A name that is set in the body of a loop is one of its own; members of an object belong to it. */
static void tpl_set(tpl *t, polar_span name, int space, tpl_value v) {
    tpl_variable *x = tpl_find(t, name, space, space ? 0 : t->scope);
    if (!x && t->n_variables == TPL_VARIABLES) tpl_bad(t, "many variables");
    else if (!x) x = &t->variables[t->n_variables++];
    if (x) *x = (tpl_variable){name, space, v};
}

/* --- values */

static tpl_value tpl_expression(tpl *t);

/* A string between quotes, with its escapes. */
static tpl_value tpl_literal(tpl *t) {
    const char quote = *t->at++;
    char *to = tpl_room(t, 0);
    polar_span text = {to, 0};
    for (; tpl_left(t) && *t->at != quote; t->at++) {
        char c = *t->at;
        if (c == '\\' && tpl_left(t) > 1) {
            static const char from[] = "ntr\\'\"", into[] = "\n\t\r\\'\"";
            const char *escape = strchr(from, t->at[1]);
            if (t->at[1] == 'u' || t->at[1] == 'x') tpl_fail(t, (polar_span){t->at, 2});
            if (t->at[1] && escape) c = into[escape - from], t->at++;
        }
        if (!tpl_room(t, 1)) return tpl_of(TPL_UNDEFINED, 0);
        to[text.length++] = c;
    }
    if (tpl_left(t)) t->at++;
    else tpl_bad(t, "a string without end");
    return tpl_text(text);
}

/* Message i of a list, from behind if i is negative; undefined if there is none. */
static tpl_value tpl_message_at(tpl_value list, int64_t i) {
    if (list.kind != TPL_LIST) return tpl_of(TPL_UNDEFINED, 0);
    if (i < 0) i += list.to - list.number;
    if (i < 0 || i >= list.to - list.number) return tpl_of(TPL_UNDEFINED, 0);
    return tpl_of(TPL_MESSAGE, list.reversed ? list.to - 1 - (int)i : list.number + (int)i);
}

/* A member of a message, of a loop's variable, or of an object. */
static tpl_value tpl_member(tpl *t, tpl_value v, polar_span name) {
    static const char *const names[] = {"index0", "index", "length", "first", "last"};
    const int values[] = {v.number, v.number + 1, v.to, v.number == 0, v.number + 1 == v.to};
    if (v.kind == TPL_MESSAGE && span_is(name, "role")) return tpl_text(span_of(t->messages[v.number].role));
    if (v.kind == TPL_MESSAGE && span_is(name, "content")) return tpl_text(span_of(t->messages[v.number].content));
    for (int i = 0; v.kind == TPL_LOOP && i < COUNT(names); i++)
        if (span_is(name, names[i])) return tpl_of(i < 3 ? TPL_INT : TPL_BOOL, values[i]);
    if (v.kind == TPL_SPACE) {
        const tpl_variable *x = tpl_find(t, name, v.number, 0);
        if (x) return x->value;
    }
    if (v.kind == TPL_LOOP) tpl_fail(t, name);
    return tpl_of(TPL_UNDEFINED, 0);
}

/* Takes characters of a set off the ends. */
static tpl_value tpl_strip(tpl_value v, polar_span set, int left, int right) {
    polar_span *s = &v.text;
    for (; left && s->length && memchr(set.text, *s->text, set.length); s->length--) s->text++;
    while (right && s->length && memchr(set.text, s->text[s->length - 1], set.length)) s->length--;
    return v;
}

#define TPL_WHITE " \t\r\n\f\v"

/* A function of a text, or the filter of that name. Only what leaves a text, a length or a yes. */
static tpl_value tpl_function(tpl *t, tpl_value v, polar_span name, const tpl_value *args, int n_args) {
    const tpl_value first = n_args ? args[0] : tpl_text(span_of(TPL_WHITE));
    const polar_span set = first.text, text = v.text;
    const int is_text = v.kind == TPL_TEXT && first.kind == TPL_TEXT, fits = text.length >= set.length;
    if (is_text && (span_is(name, "strip") || span_is(name, "trim"))) return tpl_strip(v, set, 1, 1);
    if (is_text && span_is(name, "lstrip")) return tpl_strip(v, set, 1, 0);
    if (is_text && span_is(name, "rstrip")) return tpl_strip(v, set, 0, 1);
    if (is_text && n_args && span_is(name, "startswith"))
        return tpl_of(TPL_BOOL, fits && !memcmp(text.text, set.text, set.length));
    if (is_text && n_args && span_is(name, "endswith"))
        return tpl_of(TPL_BOOL, fits && !memcmp(text.text + text.length - set.length, set.text, set.length));
    if (v.kind == TPL_MESSAGE && n_args && first.kind == TPL_TEXT && span_is(name, "get")) {
        const tpl_value member = tpl_member(t, v, set);
        return member.kind == TPL_UNDEFINED ? n_args > 1 ? args[1] : tpl_of(TPL_NONE, 0) : member;
    }
    if (span_is(name, "length") || span_is(name, "count")) {
        if (v.kind == TPL_LIST) return tpl_of(TPL_INT, v.to - v.number);
        if (v.kind == TPL_TEXT) return tpl_of(TPL_INT, (int)MIN(text.length, INT_MAX));
    }
    if (n_args && (span_is(name, "default") || span_is(name, "d")))
        return v.kind == TPL_UNDEFINED || (n_args > 1 && tpl_true(args[1]) && !tpl_true(v)) ? args[0] : v;
    if (span_is(name, "first")) return tpl_message_at(v, 0);
    if (span_is(name, "last")) return tpl_message_at(v, -1);
    if (!span_is(name, "list") && !span_is(name, "safe") && !span_is(name, "string")) tpl_fail(t, name);
    return v;
}

/* What stands in parentheses, at most `most` values; members of an object may be named. Returns their number. */
static int tpl_arguments(tpl *t, tpl_value *args, int most, int space) {
    int n = 0;
    while (!t->failed.text && !tpl_take(t, ")")) {
        const char *start = t->at;
        const polar_span name = tpl_name(t);
        const int named = name.length && tpl_take(t, "=") && !tpl_take(t, "=");
        tpl_value v;
        if (!named) t->at = start;
        v = tpl_expression(t);
        if (named && space) tpl_set(t, name, space, v);
        else if (n < most) args[n++] = v;
        else tpl_bad(t, "many arguments");
        if (tpl_take(t, ",")) continue;
        tpl_need(t, ")");
        break;
    }
    return n;
}

/* The value of a name, or of the one function that is known, namespace(). */
static tpl_value tpl_named(tpl *t, polar_span name) {
    const tpl_variable *x = tpl_find(t, name, 0, 0);
    tpl_value v;
    if (span_is(name, "true") || span_is(name, "True")) return tpl_of(TPL_BOOL, 1);
    if (span_is(name, "false") || span_is(name, "False")) return tpl_of(TPL_BOOL, 0);
    if (span_is(name, "none") || span_is(name, "None")) return tpl_of(TPL_NONE, 0);
    if (x) return x->value;
    if (!tpl_take(t, "(")) return tpl_of(TPL_UNDEFINED, 0);
    if (!span_is(name, "namespace")) tpl_fail(t, name);
    v = tpl_of(TPL_SPACE, ++t->n_spaces);
    tpl_arguments(t, NULL, 0, v.number);
    return v;
}

/* messages[1:], messages[::-1], messages[0], message['role'] */
static tpl_value tpl_index(tpl *t, tpl_value v) {
    tpl_value from = tpl_of(TPL_NONE, 0), to = from, step = tpl_of(TPL_INT, 1);
    int back;
    if (!tpl_take(t, ":")) {
        from = tpl_expression(t);
        if (tpl_take(t, "]"))
            return from.kind == TPL_TEXT ? tpl_member(t, v, from.text)
                 : from.kind == TPL_INT ? tpl_message_at(v, from.number) : tpl_of(TPL_UNDEFINED, 0);
        tpl_need(t, ":");
    }
    tpl_space(t);
    if (tpl_left(t) && *t->at != ']' && *t->at != ':') to = tpl_expression(t);
    if (tpl_take(t, ":")) step = tpl_expression(t);
    tpl_need(t, "]");
    back = step.kind == TPL_INT && step.number == -1;
    if (v.kind != TPL_LIST || ((v.reversed || back) && (from.kind != TPL_NONE || to.kind != TPL_NONE)) ||
        (step.kind == TPL_INT && step.number != -1 && step.number != 1))
        tpl_bad(t, "a slice");
    if (t->failed.text) return v;
    v.reversed ^= back; /* twice is not at all */
    if (to.kind == TPL_INT) v.to = MAX(v.number, MIN(v.to, (to.number < 0 ? v.to : v.number) + to.number));
    if (from.kind == TPL_INT)
        v.number = MIN(v.to, MAX(v.number, (from.number < 0 ? v.to : v.number) + from.number));
    return v;
}

/* A literal, a name or a value in parentheses. */
static tpl_value tpl_atom(tpl *t) {
    tpl_value v = tpl_of(TPL_UNDEFINED, 0);
    polar_span name;
    tpl_space(t);
    if (!tpl_left(t)) tpl_bad(t, "an expression without end");
    else if (*t->at == '\'' || *t->at == '"') v = tpl_literal(t);
    else if (tpl_is_digit(t))
        for (v = tpl_of(TPL_INT, 0); tpl_is_digit(t) && v.number < 100000; t->at++)
            v.number = v.number * 10 + (*t->at - '0');
    else if (tpl_take(t, "(")) {
        v = tpl_expression(t);
        tpl_need(t, ")");
    } else if ((name = tpl_name(t)).length) v = tpl_named(t, name);
    else tpl_fail(t, tpl_rest(t));
    return v;
}

/* An atom, or a negative number, with what follows it: [index], .member, .function(), | filter. */
static tpl_value tpl_primary(tpl *t) {
    const int negative = tpl_take(t, "-");
    tpl_value v, args[TPL_ARGUMENTS];
    if (negative && !tpl_is_digit(t)) tpl_bad(t, "-");
    v = tpl_atom(t);
    while (!t->failed.text) {
        if (tpl_take(t, "[")) v = tpl_index(t, v);
        else if (tpl_take(t, ".")) {
            const polar_span name = tpl_name(t);
            v = tpl_take(t, "(") ? tpl_function(t, v, name, args, tpl_arguments(t, args, COUNT(args), 0))
                                 : tpl_member(t, v, name);
        } else if (tpl_take(t, "|")) {
            const polar_span name = tpl_name(t);
            v = tpl_function(t, v, name, args, tpl_take(t, "(") ? tpl_arguments(t, args, COUNT(args), 0) : 0);
        } else break;
    }
    if (negative) v.number = -v.number;
    return v;
}

/* --- operators */

/* Numbers are added, subtracted and divided with a remainder, unless they become larger than any that a template has
 * use for; + and ~ also join texts. */
static tpl_value tpl_arithmetic(tpl *t, char sign, tpl_value a, tpl_value b) {
    polar_span joined = {NULL, a.text.length + b.text.length};
    char *at;
    if (a.kind == TPL_INT && b.kind == TPL_INT && (sign == '+' || sign == '-' || (sign == '%' && b.number > 0))) {
        const int n = sign == '+' ? a.number + b.number : sign == '-' ? a.number - b.number : a.number % b.number;
        if (n >= -TPL_MAX && n <= TPL_MAX) return tpl_of(TPL_INT, n);
    }
    if ((sign != '+' && sign != '~') || (a.kind != TPL_TEXT && a.kind != TPL_UNDEFINED) ||
        (b.kind != TPL_TEXT && b.kind != TPL_UNDEFINED))
        tpl_bad(t, sign == '-' ? "a difference" : sign == '%' ? "a remainder" : "a sum");
    if (t->failed.text || !(at = tpl_room(t, joined.length))) return tpl_of(TPL_UNDEFINED, 0);
    if (a.text.length) memcpy(at, a.text.text, a.text.length);
    if (b.text.length) memcpy(at + a.text.length, b.text.text, b.text.length);
    joined.text = at;
    return tpl_text(joined);
}

/* Takes the sign of a sum and returns it, unless it belongs to the end of a tag: -}}, +%}, %}. 0: there is none. */
static char tpl_sign(tpl *t) {
    tpl_space(t);
    if (!tpl_left(t) || !*t->at || !strchr("+-~%", *t->at)) return 0;
    if (*t->at != '~' && tpl_left(t) > 1 && (t->at[1] == '}' || (*t->at != '%' && t->at[1] == '%'))) return 0;
    return *t->at++;
}

/* Values joined by + - ~ and %, from left to right. */
static tpl_value tpl_sum(tpl *t) {
    tpl_value v = tpl_primary(t);
    char sign;
    while (!t->failed.text && (sign = tpl_sign(t)) != 0) {
        const tpl_value b = tpl_primary(t);
        v = tpl_arithmetic(t, sign, v, b);
    }
    return v;
}

/* `what in in`: a member of a message, or a part of a text. */
static int tpl_contains(tpl *t, tpl_value what, tpl_value in) {
    if (what.kind == TPL_TEXT && in.kind == TPL_MESSAGE) return tpl_member(t, in, what.text).kind != TPL_UNDEFINED;
    if (what.kind != TPL_TEXT || (in.kind != TPL_TEXT && in.kind != TPL_UNDEFINED)) tpl_bad(t, "in");
    for (size_t i = 0; !t->failed.text && in.kind == TPL_TEXT && i + what.text.length <= in.text.length; i++)
        if (!memcmp(in.text.text + i, what.text.text, what.text.length)) return 1;
    return 0;
}

/* What follows `is`: defined, none, string and the like. */
static int tpl_test(tpl *t, tpl_value v) {
    const polar_span name = tpl_name(t);
    if (span_is(name, "defined")) return v.kind != TPL_UNDEFINED;
    if (span_is(name, "undefined")) return v.kind == TPL_UNDEFINED;
    if (span_is(name, "none")) return v.kind == TPL_NONE;
    if (span_is(name, "string")) return v.kind == TPL_TEXT;
    if (span_is(name, "mapping")) return v.kind == TPL_MESSAGE;
    if (span_is(name, "sequence") || span_is(name, "iterable")) return v.kind == TPL_TEXT || v.kind == TPL_LIST;
    if (span_is(name, "true")) return v.kind == TPL_BOOL && v.number;
    if (span_is(name, "false")) return v.kind == TPL_BOOL && !v.number;
    tpl_fail(t, name);
    return 0;
}

/* Sums compared with each other, tested with `is`, or looked for with `in`. */
static tpl_value tpl_compare(tpl *t) {
    static const char *const signs[] = {"==", "!=", "<=", ">=", "<", ">"};
    tpl_value v = tpl_sum(t);
    while (!t->failed.text) {
        int yes, op = 0, no;
        while (op < COUNT(signs) && !tpl_take(t, signs[op])) op++;
        if (op < COUNT(signs)) {
            const tpl_value b = tpl_sum(t);
            if (op > 1 && (v.kind != TPL_INT || b.kind != TPL_INT)) tpl_bad(t, "a comparison");
            yes = op < 2 ? tpl_equal(v, b) == (op == 0) : op == 2 ? v.number <= b.number
                : op == 3 ? v.number >= b.number : op == 4 ? v.number < b.number : v.number > b.number;
        } else if (tpl_word(t, "is")) {
            no = tpl_word(t, "not");
            yes = tpl_test(t, v) != no;
        } else {
            no = tpl_word(t, "not");
            if (!tpl_word(t, "in")) {
                if (no) tpl_bad(t, "not");
                break;
            }
            yes = tpl_contains(t, v, tpl_sum(t)) != no;
        }
        v = tpl_of(TPL_BOOL, yes);
    }
    return v;
}

/* A comparison behind any number of `not`. */
static tpl_value tpl_not(tpl *t) {
    int n = 0;
    tpl_value v;
    while (!t->failed.text && tpl_word(t, "not")) n++;
    v = tpl_compare(t);
    return n ? tpl_of(TPL_BOOL, tpl_true(v) != n % 2) : v;
}

/* a or b or c, each of them a and b and c. All parts are read, since none has an effect. */
static tpl_value tpl_logic(tpl *t, int is_or) {
    tpl_value v = is_or ? tpl_logic(t, 0) : tpl_not(t);
    while (!t->failed.text && tpl_word(t, is_or ? "or" : "and")) {
        const tpl_value b = is_or ? tpl_logic(t, 0) : tpl_not(t);
        if (tpl_true(v) != is_or) v = b;
    }
    return v;
}

/* A value, or one of two: 'a' if condition else 'b'. */
static tpl_value tpl_expression(tpl *t) {
    tpl_value v = tpl_of(TPL_UNDEFINED, 0);
    if (++t->depth > TPL_DEPTH) tpl_bad(t, "deep nesting");
    if (++t->steps > TPL_STEPS) tpl_bad(t, "a long run");
    if (!t->failed.text) v = tpl_logic(t, 1);
    if (!t->failed.text && tpl_word(t, "if")) {
        const int yes = tpl_true(tpl_logic(t, 1));
        const tpl_value other = tpl_word(t, "else") ? tpl_expression(t) : tpl_of(TPL_UNDEFINED, 0);
        if (!yes) v = other;
    }
    t->depth--;
    return v;
}

/* --- text and tags */

/* Text that the template puts out. */
static void tpl_write(tpl *t, polar_span s) {
    if (s.length > TPL_BYTES - t->n_out) tpl_bad(t, "a long text");
    else if (s.length) memcpy(t->out + t->n_out, s.text, s.length), t->n_out += s.length;
}

/* The end of a tag, past "%}", "}}" or "#}"; quotes hide it, but not in a comment. */
static void tpl_close(tpl *t, char sign) {
    char quote = 0;
    for (; tpl_left(t) > 1; t->at++) {
        if (quote) {
            if (*t->at == '\\') t->at++;
            else if (*t->at == quote) quote = 0;
        } else if (sign != '#' && (*t->at == '\'' || *t->at == '"')) quote = *t->at;
        else if (*t->at == sign && t->at[1] == '}') {
            t->trim = t->at[-1] == '-' ? 2 : sign != '}';
            t->at += 2;
            return;
        }
    }
    if (sign != '#') tpl_bad(t, "a tag without end");
    t->at = t->end;
}

/* Text outside of tags. Where templates are used, the new line behind a block's tag and the space in front of one on
 * its line are left out. Returns the sign of the tag that follows, 0 at the end. */
static char tpl_outside(tpl *t, int active) {
    const char *from = t->at, *stop = from, *line;
    char sign = 0;
    while (stop < t->end && !(*stop == '{' && stop + 1 < t->end && strchr("{%#", stop[1]) && stop[1])) stop++;
    t->at = stop;
    if (stop < t->end) sign = stop[1], t->at += 2;
    if (t->trim == 2) while (from < stop && strchr(TPL_WHITE, *from)) from++;
    else if (t->trim == 1 && from < stop && *from == '\n') from++;
    if (sign && tpl_left(t) && *t->at == '-') {
        t->at++;
        while (stop > from && strchr(TPL_WHITE, stop[-1])) stop--;
    } else if (sign == '%' || sign == '#') {
        for (line = stop; line > from && (line[-1] == ' ' || line[-1] == '\t');) line--;
        if (line == t->begin || line[-1] == '\n') stop = line;
    } else if (!sign && stop > from && stop[-1] == '\n') stop--;
    t->trim = 0;
    if (active) tpl_write(t, (polar_span){from, (size_t)(stop - from)});
    return sign;
}

/* Tags that end or divide a block. */
enum { TPL_END, TPL_ELIF, TPL_ELSE, TPL_ENDIF, TPL_ENDFOR, TPL_ENDMACRO, TPL_N_ENDS };

static int tpl_block(tpl *t, int active);

/* {% if %} up to {% endif %}: of its branches the first whose condition holds is run, the others are passed over. */
static void tpl_if(tpl *t, int active) {
    int done = 0, found, yes = active && tpl_true(tpl_expression(t));
    do {
        tpl_close(t, '%');
        found = tpl_block(t, active && yes && !done);
        done |= yes;
        yes = found == TPL_ELSE || (found == TPL_ELIF && active && !done && tpl_true(tpl_expression(t)));
    } while (!t->failed.text && (found == TPL_ELIF || found == TPL_ELSE));
    if (found != TPL_ENDIF) tpl_bad(t, "if");
    tpl_close(t, '%');
}

/* {% for name in list %} up to {% endfor %}. */
static void tpl_for(tpl *t, int active) {
    const int variables = t->n_variables, scope = t->scope;
    const char *body;
    polar_span name = {"", 0};
    tpl_value list = tpl_of(TPL_UNDEFINED, 0), loop = tpl_of(TPL_LOOP, 0);
    int found = TPL_END, trim;
    if (active) {
        name = tpl_name(t);
        if (!tpl_word(t, "in")) tpl_bad(t, "for");
        list = tpl_logic(t, 1);
        if (list.kind == TPL_TEXT || tpl_word(t, "if")) tpl_bad(t, "for");
    }
    tpl_close(t, '%');
    body = t->at;
    trim = t->trim;
    loop.to = list.kind == TPL_LIST ? list.to - list.number : 0;
    do { /* once without running it, if there is nothing to run it for */
        t->at = body;
        t->trim = trim;
        t->scope = t->n_variables;
        if (loop.to) {
            tpl_set(t, span_of("loop"), 0, loop);
            tpl_set(t, name, 0, tpl_message_at(list, loop.number));
        }
        found = tpl_block(t, loop.to > 0);
        t->n_variables = variables;
        t->scope = scope;
    } while (++loop.number < loop.to && !t->failed.text);
    if (found != TPL_ENDFOR) tpl_bad(t, "for");
    tpl_close(t, '%');
}

/* {% set name = value %} or {% set object.member = value %} */
static void tpl_assign(tpl *t) {
    const polar_span name = tpl_name(t);
    const int is_member = tpl_take(t, ".");
    const polar_span member = is_member ? tpl_name(t) : name;
    const tpl_variable *object = is_member ? tpl_find(t, name, 0, 0) : NULL;
    int space = 0;
    tpl_need(t, "=");
    if (is_member && object && object->value.kind == TPL_SPACE) space = object->value.number;
    else if (is_member) tpl_fail(t, name);
    if (!t->failed.text) tpl_set(t, member, space, tpl_expression(t));
}

/* A tag {% name ... %}; returns which end it is, TPL_END for none. */
static int tpl_tag(tpl *t, int active) {
    static const char *const ends[TPL_N_ENDS] = {"", "elif", "else", "endif", "endfor", "endmacro"};
    const polar_span name = tpl_name(t);
    if (!name.length) tpl_bad(t, "a tag without name");
    else if (span_is(name, "if")) tpl_if(t, active);
    else if (span_is(name, "for")) tpl_for(t, active);
    else if (span_is(name, "set")) {
        if (active) tpl_assign(t);
        tpl_close(t, '%');
    } else if (span_is(name, "generation") || span_is(name, "endgeneration")) tpl_close(t, '%');
    else if (span_is(name, "macro")) { /* passed over; a call of it fails */
        tpl_close(t, '%');
        if (tpl_block(t, 0) != TPL_ENDMACRO) tpl_fail(t, name);
        tpl_close(t, '%');
    } else {
        for (int end = TPL_ELIF; end < TPL_N_ENDS; end++)
            if (span_is(name, ends[end])) return end;
        tpl_fail(t, name);
    }
    return TPL_END;
}

/* Runs, or passes over, all up to a tag that ends or divides the block around it, and stands behind its name. */
static int tpl_block(tpl *t, int active) {
    int end = TPL_END;
    char sign = ' ';
    if (++t->depth > TPL_DEPTH) tpl_bad(t, "deep nesting");
    while (!t->failed.text && end == TPL_END && (sign = tpl_outside(t, active)) != 0) {
        if (++t->steps > TPL_STEPS) tpl_bad(t, "a long run");
        if (sign == '%') end = tpl_tag(t, active);
        else if (sign == '{' && active) {
            const tpl_value v = tpl_expression(t);
            if (v.kind == TPL_TEXT) tpl_write(t, v.text);
            else if (v.kind != TPL_UNDEFINED) tpl_bad(t, "a value that is no text");
        }
        if (sign != '%') tpl_close(t, sign == '{' ? '}' : '#');
    }
    t->depth--;
    return t->failed.text ? TPL_END : end;
}

/* What a template writes for a conversation, ready for the assistant. 0 if it could not be followed. */
static int tpl_run(tpl *t, polar_span template, const polar_message *messages, int n_messages, int think,
                   polar_span bos) {
    tpl_value list = tpl_of(TPL_LIST, 0);
    char *out = t->out, *strings = t->strings;
    memset(t, 0, sizeof *t);
    t->out = out;
    t->strings = strings;
    t->begin = t->at = template.text;
    t->end = template.text + template.length;
    t->messages = messages;
    list.to = n_messages;
    tpl_set(t, span_of("messages"), 0, list);
    tpl_set(t, span_of("bos_token"), 0, tpl_text(bos));
    tpl_set(t, span_of("add_generation_prompt"), 0, tpl_of(TPL_BOOL, 1));
    tpl_set(t, span_of("enable_thinking"), 0, tpl_of(TPL_BOOL, think));
    if (template.length > TPL_BYTES) tpl_bad(t, "a long template");
    if (tpl_block(t, 1) != TPL_END || t->at < t->end) tpl_bad(t, "an end without beginning");
    return !t->failed.text;
}

/* --- what a template writes, taken apart */

/* A message as the format writes it; `content` NULL: what introduces the assistant's. */
static void tok_expect(text_buffer *e, const struct tok_chat_format *f, const char *role, const char *content) {
    const char *const parts[] = {f->open, role, f->close, f->gap, content, f->end, f->tail};
    for (int i = 0; i < (content ? COUNT(parts) : 4); i++)
        if (parts[i]) text_put(e, parts[i], strlen(parts[i]));
}

/* Keeps what a template wrote, in *written without a BOS in front. POLAR_MEMORY if there is none. */
static polar_status tok_keep_written(struct tok_written *w, int i, const tpl *t, polar_span bos,
                                     const polar_allocator *a, polar_span *written, polar_error *e) {
    mem_free(a, w->text[i], w->n_text[i]);
    w->n_text[i] = t->n_out + 1;
    if (!(w->text[i] = mem_alloc(a, w->n_text[i], e))) return POLAR_MEMORY;
    memcpy(w->text[i], t->out, t->n_out);
    w->text[i][t->n_out] = 0;
    written->text = w->text[i];
    written->length = t->n_out;
    if (bos.length && t->n_out >= bos.length && !memcmp(t->out, bos.text, bos.length)) {
        w->writes_bos = 1;
        written->text += bos.length;
        written->length -= bos.length;
    }
    return POLAR_OK;
}

/* The content of s, which is a system message in the format, or nothing at all; 0 if it is neither. */
static int tok_system_part(const struct tok_chat_format *f, polar_span s, polar_span *part) {
    char expected[160];
    text_buffer head = {expected, sizeof expected, 0};
    const size_t end = strlen(f->end), tail = end + strlen(f->tail);
    *part = (polar_span){s.text, 0};
    if (!s.length) return 1;
    tok_expect(&head, f, "system", NULL);
    if (s.length < head.length + tail || memcmp(s.text, expected, head.length) ||
        memcmp(s.text + s.length - tail, f->end, end) ||
        memcmp(s.text + s.length - tail + end, f->tail, strlen(f->tail)))
        return 0;
    part->text += head.length;
    part->length = s.length - head.length - tail;
    return !tok_search(part->text, part->length, f->open);
}

/* Finds the expected turns in what a template wrote: in front of them is a system message, or nothing, behind them the
 * opening of the assistant's turn. 0 if it is not so. */
static int tok_match_turns(const struct tok_chat_format *f, polar_span written, const text_buffer *turns,
                           polar_span *system, polar_span *opening) {
    const char *at = tok_search(written.text, written.length, turns->at);
    if (!at || !tok_system_part(f, (polar_span){written.text, (size_t)(at - written.text)}, system)) return 0;
    opening->text = at + turns->length;
    opening->length = written.length - (size_t)(opening->text - written.text);
    return 1;
}

/* One question: is it in the format, and what stands in front and behind? */
static int tok_match_question(struct tok_written *w, const struct tok_chat_format *f, polar_span written, int trim) {
    char expected[320];
    text_buffer e = {expected, sizeof expected, 0};
    tok_expect(&e, f, "user", trim ? "qx1" : " qx1 ");
    tok_expect(&e, f, "assistant", NULL);
    w->trims = trim;
    return tok_match_turns(f, written, &e, &w->system, &w->opening) &&
           !tok_search(w->opening.text, w->opening.length, f->open);
}

/* A conversation with a system message, which other text may stand around. */
static int tok_match_conversation(struct tok_written *w, const struct tok_chat_format *f, polar_span written) {
    char expected[640];
    text_buffer e = {expected, sizeof expected, 0};
    const char *content = w->trims ? "qx2" : " qx2 ", *at;
    polar_span system, opening;
    tok_expect(&e, f, "user", w->trims ? "qx1" : " qx1 ");
    tok_expect(&e, f, "assistant", "qx3");
    tok_expect(&e, f, "user", "qx4");
    tok_expect(&e, f, "assistant", NULL);
    if (!tok_match_turns(f, written, &e, &system, &opening) || !span_equal(opening, w->opening)) return 0;
    if (!(at = tok_search(system.text, system.length, content))) return 0;
    w->before = (polar_span){system.text, (size_t)(at - system.text)};
    w->after.text = at + strlen(content);
    w->after.length = system.length - w->before.length - strlen(content);
    return 1;
}

/* Runs the template for two conversations, with thinking or without. Afterwards w->followed says whether what it writes
 * for a question is known, *both whether that for a conversation with a system message is, too. */
static polar_status tok_follow_once(const tok_vocab *v, const tok_source *src, tpl *t, polar_span template, int think,
                                    struct tok_written *w, int *both, const polar_allocator *a) {
    static const polar_message talk[] = {{"system", " qx2 "}, {"user", " qx1 "}, {"assistant", "qx3"}, {"user", "qx4"}};
    const struct tok_chat_format *f = &tok_chats[v->chat];
    polar_span written, bos = {"", 0};
    polar_status status;
    *both = 0;
    if (v->bos >= 0) bos.text = tok_bytes(v, v->bos, &bos.length);
    if (!tpl_run(t, template, talk + 1, 1, think, bos)) return POLAR_OK;
    if ((status = tok_keep_written(w, 0, t, bos, a, &written, src->error))) return status;
    w->followed = tok_match_question(w, f, written, f->trim) || tok_match_question(w, f, written, !f->trim);
    if (!w->followed || !tpl_run(t, template, talk, COUNT(talk), think, bos)) return POLAR_OK;
    if ((status = tok_keep_written(w, 1, t, bos, a, &written, src->error))) return status;
    *both = tok_match_conversation(w, f, written);
    return POLAR_OK;
}

/* Finds out what the template writes. A note says what is not as it has it; with thinking on, such a thing is refused
 * when it is asked for. */
static polar_status tok_follow(tok_vocab *v, const tok_source *src, tpl *t, polar_span template,
                               const polar_allocator *a) {
    const char *name = tok_chats[v->chat].name;
    struct tok_written *off = &v->written[0], *on = &v->written[1];
    int both, both_on;
    polar_status status = tok_follow_once(v, src, t, template, 0, off, &both, a);
    if (status) return status;
    if (!off->text[0]) {
        buf_note(src->notes,
                 "%s: the chat template looks like %s, but polar cannot follow it at \"%.*s\": a system text of its "
                 "own is left out", src->g->name, name, (int)t->failed.length, t->failed.text);
        return POLAR_OK;
    }
    if (!off->followed) {
        v->chat = POLAR_CHAT_RAW;
        return POLAR_OK;
    }
    if (!both)
        buf_note(src->notes, "%s: the chat template writes system messages or earlier answers in a way of its own, "
                 "polar writes them as %s", src->g->name, name);
    if (!tok_search(template.text, template.length, "enable_thinking")) return POLAR_OK;
    status = tok_follow_once(v, src, t, template, 1, on, &both_on, a);
    if (both && !both_on) on->followed = 0;
    v->thinks = !on->text[0] || on->n_text[0] != off->n_text[0] || memcmp(on->text[0], off->text[0], on->n_text[0]);
    return status;
}

/* Which format the template asks for; one that is unknown here, or whose tokens are missing, is RAW, with a note. */
static polar_status tok_read_chat(tok_vocab *v, const tok_source *src, const polar_allocator *a) {
    const char *s = NULL, *arch = "";
    size_t n = 0, arch_length = 0;
    tpl *t;
    polar_status status = gguf_get_str(src->g, "tokenizer.chat_template", &s, &n, GGUF_OPTIONAL, src->error);
    if (status == POLAR_OK)
        status = gguf_get_str(src->g, "general.architecture", &arch, &arch_length, GGUF_OPTIONAL, src->error);
    if (status != POLAR_OK) return status;
    v->chat = POLAR_CHAT_RAW;
    for (int i = POLAR_CHAT_RAW + 1; s && i < POLAR_N_CHAT; i++)
        if (tok_search(s, n, tok_chats[i].open) && tok_id(v, tok_chats[i].open) >= 0 &&
            tok_id(v, tok_chats[i].end) >= 0 && v->chat == POLAR_CHAT_RAW)
            v->chat = (polar_chat)i;
    v->think = tok_starts(arch, arch_length, "qwen3") && (!s || tok_search(s, n, "enable_thinking")) &&
               tok_id(v, "<think>") >= 0 && tok_id(v, "</think>") >= 0;
    if (v->chat != POLAR_CHAT_RAW) {
        if (!(t = mem_alloc(a, sizeof *t + 2 * TPL_BYTES, src->error))) return POLAR_MEMORY;
        t->out = (char *)(t + 1);
        t->strings = t->out + TPL_BYTES;
        status = tok_follow(v, src, t, (polar_span){s, n}, a);
        mem_free(a, t, sizeof *t + 2 * TPL_BYTES);
    }
    if (status == POLAR_OK && n && v->chat == POLAR_CHAT_RAW)
        buf_note(src->notes, "%s: the chat template is none that polar knows (chatml, llama3): messages are raw text, "
                 "unless a chat format is asked for", src->g->name);
    return status;
}

/* Encodes the text so far. It goes on until a control token: "user", "\n" and the content are cut into pieces as one.
 * */
static void tok_chat_flush(tok_coder *c) {
    if (tok_is_complete(c, &c->pending))
        tok_encode_text(c, (const uint8_t *)c->pending.at, c->pending.length, 0);
    c->pending.length = 0;
}

/* Adds text that tok_chat_flush will encode. */
static void tok_chat_text(tok_coder *c, polar_span s) {
    buf_put(&c->pending, s.text, s.length);
}

/* Encodes the text so far, then a control token by its name; NULL: nothing. */
static void tok_chat_control(tok_coder *c, const char *name) {
    int32_t id;
    if (!name) return;
    tok_chat_flush(c);
    if (c->status != POLAR_OK) return;
    if ((id = tok_id(c->v, name)) >= 0) tok_emit(c, id);
    else
        c->status = fail(c->error, POLAR_MISMATCH, "the vocabulary has no token %s, which the chat format needs", name);
}

/* What introduces a message: its role between control tokens. */
static void tok_chat_header(tok_coder *c, const struct tok_chat_format *f, const char *role) {
    tok_chat_control(c, f->open);
    tok_chat_text(c, span_of(role));
    tok_chat_control(c, f->close);
    tok_chat_text(c, span_of(f->gap));
}

/* A text without white space at both ends. */
static polar_span tok_trim(polar_span text) {
    const uint8_t *s = (const uint8_t *)text.text;
    const size_t start = tok_run(s, text.length, 0, UNI_SPACE, 0);
    size_t end = start;
    for (size_t at = start; at < text.length;) {
        uint32_t c;
        at += uni_decode(s + at, text.length - at, &c);
        if (uni_class(c) != UNI_SPACE) end = at;
    }
    return (polar_span){text.text + start, end - start};
}

/* A message in a format; `before` and `after` stand around its content. */
static void tok_chat_message(tok_coder *c, const struct tok_chat_format *f, const char *role, polar_span before,
                             polar_span content, polar_span after) {
    if (f->open) tok_chat_header(c, f, role);
    tok_chat_text(c, before);
    tok_chat_text(c, content);
    tok_chat_text(c, after);
    tok_chat_control(c, f->end);
    tok_chat_text(c, span_of(f->tail));
}

/* Refuses messages without role or content. */
static polar_status tok_check_messages(const polar_message *messages, int n, polar_error *e) {
    if (n < 0 || (n && !messages)) return fail(e, POLAR_ARGUMENT, "%d messages, expected a list", n);
    for (int i = 0; i < n; i++)
        if (!messages[i].role || !messages[i].content)
            return fail(e, POLAR_ARGUMENT, "message %d has no %s", i, messages[i].role ? "content" : "role");
    return POLAR_OK;
}

/* Thinking on: where the template, or ChatML without one, can turn it off, or always begins with a thought. */
static polar_status tok_check_think(const tok_vocab *v, polar_chat chat, int own, polar_error *e) {
    const polar_span *opening = &v->written[0].opening;
    if (own && v->thinks && !v->written[1].followed)
        return fail(e, POLAR_UNSUPPORTED, "polar cannot follow the chat template of this model with thinking on");
    if (own ? v->thinks || tok_search(opening->text, opening->length, "<think>")
            : chat == POLAR_CHAT_CHATML && v->think)
        return POLAR_OK;
    return fail(e, POLAR_UNSUPPORTED, "the chat format %s of this model has no thinking to turn on",
                tok_chats[chat].name);
}

/* A conversation, ready for the assistant. Of the templates this leaves out tools and the removal of thoughts from
 * earlier turns. */
static polar_status tok_chat_encode(const tok_vocab *v, const polar_allocator *a, polar_chat chat, int think,
                                    const polar_message *messages, int n_messages, int32_t *tokens, int capacity,
                                    int *n, polar_error *e) {
    tok_coder c = tok_coder_begin(v, a, tokens, capacity, e);
    const polar_span none = {"", 0};
    const struct tok_chat_format *f;
    const struct tok_written *w; /* where `own` */
    int own; /* the format is that of the template, and all it writes is known */
    polar_status status = tok_check_messages(messages, n_messages, e);
    *n = 0;
    if (status != POLAR_OK) return status;
    if (chat == POLAR_CHAT_AUTO) chat = v->chat;
    if ((unsigned)chat >= (unsigned)POLAR_N_CHAT)
        return fail(e, POLAR_ARGUMENT, "chat format %d is unknown", (int)chat);
    f = &tok_chats[chat];
    own = v->written[0].followed && chat == v->chat;
    w = &v->written[think && v->thinks];
    if (think && (status = tok_check_think(v, chat, own, e))) return status;
    if (v->bos >= 0 && (f->bos || v->add_bos || (own && w->writes_bos))) tok_emit(&c, v->bos);
    if (own && w->system.length && !(n_messages && !strcmp(messages[0].role, "system")))
        tok_chat_message(&c, f, "system", none, w->system, none);
    for (int i = 0; i < n_messages; i++) {
        const int system = !strcmp(messages[i].role, "system"), wrap = own && !i && system;
        polar_span content = span_of(messages[i].content);
        if (own ? w->trims : f->trim) content = tok_trim(content);
        tok_chat_message(&c, f, messages[i].role, wrap ? w->before : none, content, wrap ? w->after : none);
        if (chat == POLAR_CHAT_RAW && system && content.length && i + 1 < n_messages)
            tok_chat_text(&c, span_of("\n\n"));
    }
    if (f->open) tok_chat_header(&c, f, "assistant");
    tok_chat_flush(&c);
    if (own && c.status == POLAR_OK)
        tok_encode_text(&c, (const uint8_t *)w->opening.text, w->opening.length, 1);
    else if (chat == POLAR_CHAT_CHATML && v->think && !think && c.status == POLAR_OK)
        tok_encode_text(&c, (const uint8_t *)TOK_THINK, strlen(TOK_THINK), 1);
    return tok_coder_end(&c, n);
}

const char *polar_chat_name(polar_chat chat) {
    return (unsigned)chat < (unsigned)POLAR_N_CHAT ? tok_chats[chat].name : NULL;
}
#endif /* POLAR_NO_TOKENIZER */

/* ======================================================================================
 * [model] Architectures and weights
 *
 * Hyperparameters and tensors of a GGUF file, checked against each other once, here; after that the forward pass trusts
 * them. Weights stay where the file is; only norms and biases that are not plain aligned floats are copied.
 *
 * Start reading at the table of architectures, then at model_load, which goes through all steps: the architecture's
 * row, its numbers (model_hyperparameters), its tensors (model_place, which runs twice: to measure and to place), the
 * angles of rope, and what is in the file that nobody asked for. Promises: nothing in a file is ignored silently;
 * every size and shape that the forward pass relies on is checked. Functions here return a status, and read that of a
 * failure from the error record, which is never NULL. Uses: [err] [mem] [num] [gguf] [quant] [kern] [tok].
 * ====================================================================================== */

/* To add an architecture: a row here and, if it has tensors of its own, their names in model_layer_tensors. */
typedef struct arch_row {
    const char *name;
    int neox;     /* rope turns (x[i], x[i + half]); otherwise (x[2i], x[2i+1]) */
    int qkv_bias; /* biases on q, k, v must be there; others may be in any file */
    int qk_norm;  /* RMS norm on each head of q and k before rope */
    int experts;  /* feed-forward is a mixture of experts */
    int shared;   /* with one more that all rows go to, behind a gate */
    int renormed; /* the weights of a row's experts sum to 1, unless the file says otherwise */
    int rope_gap; /* layers gap - 1, 2 gap - 1, ... are without rope; 0: none is */
    int looped;   /* the file's own program runs all layers num_loops times, with the output norm in between */
    int out_norm; /* RMS norm also on what attention and feed-forward give, before it is added */
    int scaled;   /* embeddings times sqrt(n_embd) on their way in */
    int gelu;     /* in place of silu */
    int pattern;  /* layers but pattern - 1, 2 pattern - 1, ... are local: see model_window; 0: none is */
} arch_row;

static const arch_row archs[] = {
    {.name = "llama"},
    {.name = "qwen2", .neox = 1, .qkv_bias = 1},
    {.name = "qwen3", .neox = 1, .qk_norm = 1},
    {.name = "qwen2moe", .neox = 1, .qkv_bias = 1, .experts = 1, .shared = 1},
    {.name = "qwen3moe", .neox = 1, .qk_norm = 1, .experts = 1, .renormed = 1},
    {.name = "smollm3", .rope_gap = 4},
    {.name = "nanbeige", .looped = 1},
    {.name = "ouro", .looped = 1, .out_norm = 1},
    {.name = "gemma3", .neox = 1, .qk_norm = 1, .out_norm = 1, .scaled = 1, .gelu = 1, .pattern = 6},
};

/* A weight matrix: rows of n numbers. Experts lie one after the other. */
typedef struct matrix {
    int type, n, rows; /* rows of one expert */
    size_t row_bytes;
    const uint8_t *data;
    const float *bias; /* (rows) that is added to products, NULL without */
} matrix;

typedef struct model_layer {
    const float *attn_norm, *ffn_norm;             /* (n_embd) */
    const float *attn_out_norm, *ffn_out_norm;     /* (n_embd), NULL without */
    const float *q_norm, *k_norm;                  /* (head_dim), NULL without */
    matrix q, k, v, o;                             /* (n_head * head_dim, n_embd) ... (n_embd, n_head * head_dim) */
    matrix gate, up, down;                         /* dense: (n_ff, n_embd) twice, (n_embd, n_ff) */
    matrix router;                                 /* (n_expert, n_embd) */
    matrix gate_exps, up_exps, down_exps;          /* n_expert times (n_ff_exp, n_embd) ... */
    matrix shared_gate;                            /* (1, n_embd) */
    matrix gate_shexp, up_shexp, down_shexp;       /* (n_ff_shexp, n_embd) ... */
} model_layer;

struct polar_model {
    polar_allocator allocator;
    gguf_file file;
    tok_vocab vocab;
    const arch_row *arch;
    const kern *kern;
    int vocab_only, ignore_unknown;
    int n_layer, n_embd, n_head, n_head_kv, head_dim, n_rot, n_ff, n_vocab, n_ctx_train;
    int n_loops, loop_norm; /* see prog_standard and call_behind */
    int n_angles;           /* n_rot; or twice that where local layers have angles of their own, behind the others */
    int window;             /* positions that local layers see, themselves included; 0: there are none */
    uint8_t local[POLAR_MAX_LAYER]; /* 1: the layer is local */
    int n_expert, n_expert_used, n_ff_exp, n_ff_shexp, expert_norm;
    float norm_eps, rope_base, rope_base_local, attention_scale; /* of q k: 1 / sqrt(head_dim), unless the file says
                                                                    otherwise */
    matrix embedding, output;
    const float *output_norm;
    uint64_t *rope_step; /* (n_angles / 2) turns per position, in units of 2^-64 */
    model_layer *layers;
    char name[128]; /* general.name, cut */
    char *prompt;   /* polar.prompt_template, NULL without one */
    size_t prompt_bytes;
    buf notes;      /* lines of text about what in the file is not used */
    void *block; /* layers, rope_step and copied vectors */
    size_t block_bytes;
};

/* --- hyperparameters --- */

/* Keys begin with the architecture's name. */
typedef struct model_key {
    char text[96];
} model_key;

/* The whole name of a key, which counts as used. */
static model_key model_key_of(polar_model *m, const char *rest) {
    model_key k;
    text_buffer t = {k.text, sizeof k.text, 0};
    gguf_entry *entry;
    text_format(&t, "%s.%s", m->arch->name, rest);
    if ((entry = gguf_search(m->file.kv_index, m->file.n_kv, k.text, t.length))) entry->used = 1;
    return k; /* cppcheck-suppress uninitvar ; filled through t */
}

/* What is in the file, may change results and is not done here: POLAR_UNSUPPORTED, or a note if the caller ignores
 * it. */
static PRINTF_LIKE(3, 4) polar_status model_unknown(polar_model *m, polar_error *e, const char *format, ...) {
    char what[400];
    text_buffer t = {what, sizeof what, 0};
    va_list args;
    va_start(args, format);
    text_vformat(&t, format, args);
    va_end(args);
    if (!m->ignore_unknown)
        return fail(e, POLAR_UNSUPPORTED, "%s: %s (the option ignore_unknown overrules this)", m->file.name, what);
    buf_note(&m->notes, "%s: %s: ignored", m->file.name, what);
    return POLAR_OK;
}

enum { MODEL_NO_DEFAULT = -1 };
/* An integer of the file in [min, max]; without it `standard`, or an error if that is MODEL_NO_DEFAULT. */
static polar_status model_int(polar_model *m, const char *key, int standard, int min, int max, int *out,
                              polar_error *e) {
    const model_key k = model_key_of(m, key);
    *out = standard;
    return gguf_get_int(&m->file, k.text, out, min, max, standard == MODEL_NO_DEFAULT, e);
}

/* The same for a number; one without a default has a `standard` below 0. */
static polar_status model_float(polar_model *m, const char *key, double standard, double min, double max, float *out,
                                polar_error *e) {
    const model_key k = model_key_of(m, key);
    double v = standard;
    const polar_status status = gguf_get_float(&m->file, k.text, &v, min, max, standard < 0, e);
    *out = (float)v;
    return status;
}

/* What positions are divided by. The factor has an older key too; 0 means 1. */
static polar_status model_rope_scaling(polar_model *m, float *factor, polar_error *e) {
    const model_key k = model_key_of(m, "rope.scaling.type");
    const char *s = "linear";
    size_t n = 6;
    float old;
    if (gguf_get_str(&m->file, k.text, &s, &n, 0, e) || model_float(m, "rope.scaling.factor", 0, 0, 1e6, factor, e) ||
        model_float(m, "rope.scale_linear", 0, 0, 1e6, &old, e))
        return e->status;
    if (*factor > 0 && old > 0 && f32_bits(*factor) != f32_bits(old))
        return fail(e, POLAR_FORMAT, "%s: rope.scaling.factor and rope.scale_linear differ", m->file.name);
    if (!(*factor > 0)) *factor = old > 0 ? old : 1;
    if (n == 6 && !memcmp(s, "linear", 6)) return POLAR_OK;
    if (n == 4 && !memcmp(s, "yarn", 4) && f32_bits(*factor) == f32_bits(1)) return POLAR_OK;
    *factor = 1;
    if (n == 4 && !memcmp(s, "none", 4)) return POLAR_OK;
    return model_unknown(m, e, "rope.scaling.type is \"%.*s\", expected none or linear", (int)MIN(n, 40), s);
}

/* Which layers are local: all but every pattern-th, or those that an array of the file says. A local one sees a window
 * of positions and has a rope base of its own. */
static polar_status model_local(polar_model *m, int window, polar_error *e) {
    const model_key k = model_key_of(m, "attention.sliding_window_pattern");
    const polar_gguf_pair *kv = gguf_find(&m->file, k.text);
    const int listed = kv && kv->is_array;
    int n = m->arch->pattern;
    m->window = window ? window : INT_MAX;
    m->n_angles = 2 * m->n_rot;
    if (listed && (kv->type != POLAR_GGUF_BOOL || kv->count != (size_t)m->n_layer))
        return fail(e, POLAR_FORMAT, "%s: %s is no array of %d bools", m->file.name, k.text, m->n_layer);
    if (!listed && gguf_get_int(&m->file, k.text, &n, 1, POLAR_MAX_LAYER, 0, e)) return e->status;
    for (int i = 0; i < m->n_layer; i++) m->local[i] = listed ? kv->data[i] != 0 : i % n < n - 1;
    return model_float(m, "rope.freq_base_swa", 10000, 1, 1e12, &m->rope_base_local, e);
}

/* A window of positions to look back does nothing as long as the context is not larger. */
static polar_status model_window(polar_model *m, polar_error *e) {
    int window;
    m->n_angles = m->n_rot;
    if (model_int(m, "attention.sliding_window", 0, 0, INT_MAX, &window, e)) return e->status;
    if (m->arch->pattern) return model_local(m, window, e);
    if (!window || window >= m->n_ctx_train) return POLAR_OK;
    buf_note(&m->notes, "%s: attention.sliding_window is %d: the context is limited to that, instead of %d",
             m->file.name, window, m->n_ctx_train);
    m->n_ctx_train = window;
    return POLAR_OK;
}

/* How many experts, and how many of them a token goes to. */
static polar_status model_experts(polar_model *m, polar_error *e) {
    model_key norm;
    if (model_int(m, "expert_count", m->arch->experts ? MODEL_NO_DEFAULT : 0, 0, 1024, &m->n_expert, e))
        return e->status;
    if (!m->arch->experts && m->n_expert)
        return fail(e, POLAR_UNSUPPORTED, "%s: architecture %s with %d experts is not supported", m->file.name,
                    m->arch->name, m->n_expert);
    if (!m->arch->experts) return POLAR_OK;
    if (model_int(m, "expert_used_count", MODEL_NO_DEFAULT, 1, m->n_expert, &m->n_expert_used, e)) return e->status;
    m->expert_norm = m->arch->renormed;
    norm = model_key_of(m, "expert_weights_norm");
    return gguf_get_bool(&m->file, norm.text, &m->expert_norm, 0, e);
}

/* How often the file's own program runs all layers, and whether the output norm stands between them. */
static polar_status model_loops(polar_model *m, polar_error *e) {
    model_key skip;
    int skipped = 0;
    m->n_loops = 1;
    if (!m->arch->looped) return POLAR_OK;
    skip = model_key_of(m, "skip_loop_final_norm");
    if (gguf_get_bool(&m->file, skip.text, &skipped, 0, e)) return e->status;
    m->loop_norm = !skipped;
    return model_int(m, "num_loops", 1, 1, POLAR_MAX_CALLS / m->n_layer, &m->n_loops, e);
}

/* All numbers of the model, and what they have to fulfil together. */
static polar_status model_hyperparameters(polar_model *m, float *rope_factor, polar_error *e) {
    const int big = 1 << 24, dense = !m->arch->experts;
    int value_dim;
    if (model_int(m, "block_count", MODEL_NO_DEFAULT, 1, POLAR_MAX_LAYER, &m->n_layer, e) ||
        model_int(m, "embedding_length", MODEL_NO_DEFAULT, 1, big, &m->n_embd, e) ||
        model_int(m, "attention.head_count", MODEL_NO_DEFAULT, 1, 65536, &m->n_head, e) ||
        model_int(m, "attention.head_count_kv", m->n_head, 1, m->n_head, &m->n_head_kv, e) ||
        model_int(m, "context_length", MODEL_NO_DEFAULT, 1, INT_MAX / 2, &m->n_ctx_train, e) ||
        model_int(m, "feed_forward_length", dense ? MODEL_NO_DEFAULT : 0, dense, big, &m->n_ff, e) ||
        model_int(m, "attention.key_length", MAX(1, m->n_embd / m->n_head), 1, 4096, &m->head_dim, e) ||
        model_int(m, "attention.value_length", m->head_dim, 1, 4096, &value_dim, e) ||
        model_int(m, "rope.dimension_count", m->head_dim, 2, m->head_dim, &m->n_rot, e) ||
        model_float(m, "rope.freq_base", 10000, 1, 1e12, &m->rope_base, e) ||
        model_float(m, "attention.layer_norm_rms_epsilon", -1, 0, 1, &m->norm_eps, e) ||
        model_float(m, "attention.scale", 0, 0, 1e6, &m->attention_scale, e) ||
        model_rope_scaling(m, rope_factor, e) || model_window(m, e) || model_loops(m, e))
        return e->status;
    if (!(m->attention_scale > 0)) /* Gemma 3 27B, of 62 layers, scales by the width of a head's share */
        m->attention_scale = 1.0f / sqrtf((float)(m->arch->pattern && m->n_layer == 62 ? m->n_embd / m->n_head
                                                                                       : m->head_dim));
    if (m->n_head % m->n_head_kv || value_dim != m->head_dim || m->n_rot % 2)
        return fail(e, POLAR_UNSUPPORTED,
                    "%s: %d heads over %d key-value heads, key_length %d, value_length %d, rope.dimension_count %d: "
                    "expected heads a multiple, equal lengths, an even dimension",
                    m->file.name, m->n_head, m->n_head_kv, m->head_dim, value_dim, m->n_rot);
    return model_experts(m, e);
}

/* --- tensors --- */

typedef struct model_tensor_name {
    char text[64];
} model_tensor_name;

/* "blk.3.attn_q.weight"; with a layer of -1 without its beginning. */
static model_tensor_name model_name_of(int layer, const char *rest, const char *suffix) {
    model_tensor_name n;
    text_buffer t = {n.text, sizeof n.text, 0};
    if (layer >= 0) text_format(&t, "blk.%d.", layer);
    text_format(&t, "%s.%s", rest, suffix);
    return n; /* cppcheck-suppress uninitvar ; filled through t */
}

/* Finds a tensor of n (x rows (x count)) numbers; 0 as n, rows or count accepts what is there, 1 also a missing
 * dimension. NULL and an error if it is not so. */
static const polar_gguf_tensor *model_tensor(polar_model *m, const char *name, int64_t n, int64_t rows, int64_t count,
                                       polar_error *e) {
    gguf_entry *entry = gguf_search(m->file.tensor_index, m->file.n_tensors, name, strlen(name));
    const polar_gguf_tensor *g = entry ? &m->file.tensors[entry->index] : NULL;
    const int64_t want[4] = {n, rows, count, 1};
    char shape[96];
    text_buffer t = {shape, sizeof shape, 0};
    if (!g) {
        fail(e, POLAR_FORMAT, "%s: tensor %s is missing", m->file.name, name);
        return NULL;
    }
    entry->used = 1;
    for (int i = 0; i < g->n_dims; i++) text_format(&t, "%s%lld", i ? " x " : "", (long long)g->dims[i]);
    for (int i = 0; i < 4; i++) {
        if ((!want[i] || g->dims[i] == want[i]) && g->dims[i] <= INT_MAX) continue;
        fail(e, POLAR_FORMAT, "%s: tensor %s has shape %s, expected %lld x %lld x %lld (0: any)", m->file.name, name,
             shape, (long long)n, (long long)rows, (long long)count);
        return NULL;
    }
    if (quant_find(g->type) >= 0) return g;
    fail(e, POLAR_UNSUPPORTED, "%s: tensor %s has type %s, which this library does not run", m->file.name, name,
         polar_gguf_type_name(g->type));
    return NULL;
}

/* The matrix NAME.weight of a layer: `count` times (rows, n). */
static polar_status model_matrix(polar_model *m, int layer, const char *name, int n, int rows, int count, matrix *out,
                                 polar_error *e) {
    const model_tensor_name full = model_name_of(layer, name, "weight");
    const polar_gguf_tensor *g = model_tensor(m, full.text, n, rows, count, e);
    if (!g) return e->status;
    out->type = quant_find(g->type);
    out->n = (int)g->dims[0];
    out->rows = (int)g->dims[1];
    out->row_bytes = quant_row_bytes(out->type, (size_t)out->n);
    out->data = g->data;
    out->bias = NULL;
    return POLAR_OK;
}

/* Whether this machine has the byte order of files. */
static int model_host_is_little(void) {
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first;
}

/* A vector as floats: in place where it is that already, else converted into the layout. Measured with
 * l->base NULL. `full` is the tensor's whole name. */
static polar_status model_vector(polar_model *m, layout *l, const char *full, int n, const float **out,
                                 polar_error *e) {
    const polar_gguf_tensor *g = model_tensor(m, full, n, 1, 1, e);
    float *copy;
    if (!g) return e->status;
    if (g->type == quant_types[QUANT_F32].id && model_host_is_little() && (uintptr_t)g->data % sizeof(float) == 0) {
        *out = (const float *)(const void *)g->data;
        return POLAR_OK;
    }
    copy = layout_place(l, (size_t)n, sizeof(float));
    if (copy) quant_dequantize(quant_find(g->type), g->data, (size_t)n, copy);
    *out = copy;
    return POLAR_OK;
}

/* The vector NAME.weight of layer i. */
static polar_status model_layer_vector(polar_model *m, layout *l, int i, const char *name, int n, const float **out,
                                       polar_error *e) {
    const model_tensor_name full = model_name_of(i, name, "weight");
    return model_vector(m, l, full.text, n, out, e);
}

/* A matrix and its bias, if there is one or must be one. */
static polar_status model_linear(polar_model *m, layout *l, int i, const char *name, int n, int rows, int biased,
                                 matrix *out, polar_error *e) {
    const model_tensor_name bias = model_name_of(i, name, "bias");
    if (model_matrix(m, i, name, n, rows, 1, out, e)) return e->status;
    if (!biased && !gguf_find_tensor(&m->file, bias.text)) return POLAR_OK;
    return model_vector(m, l, bias.text, out->rows, &out->bias, e);
}

/* The router, the experts, and the shared expert with its gate. The first layer decides about widths that the metadata
 * does not name, the others must agree. */
static polar_status model_expert_tensors(polar_model *m, int i, model_layer *y, polar_error *e) {
    const int d = m->n_embd, x = m->n_expert;
    if (model_matrix(m, i, "ffn_gate_inp", d, x, 1, &y->router, e) ||
        model_matrix(m, i, "ffn_gate_exps", d, m->n_ff_exp, x, &y->gate_exps, e))
        return e->status;
    m->n_ff_exp = y->gate_exps.rows;
    if (model_matrix(m, i, "ffn_up_exps", d, m->n_ff_exp, x, &y->up_exps, e) ||
        model_matrix(m, i, "ffn_down_exps", m->n_ff_exp, d, x, &y->down_exps, e))
        return e->status;
    if (m->n_ff_exp > INT_MAX / 2 / x)
        return fail(e, POLAR_UNSUPPORTED, "%s: %d experts of width %d are more than is possible", m->file.name, x,
                    m->n_ff_exp);
    if (!m->arch->shared) return POLAR_OK;
    if (model_matrix(m, i, "ffn_gate_shexp", d, m->n_ff_shexp, 1, &y->gate_shexp, e)) return e->status;
    m->n_ff_shexp = y->gate_shexp.rows;
    if (model_matrix(m, i, "ffn_up_shexp", d, m->n_ff_shexp, 1, &y->up_shexp, e) ||
        model_matrix(m, i, "ffn_down_shexp", m->n_ff_shexp, d, 1, &y->down_shexp, e))
        return e->status;
    return model_matrix(m, i, "ffn_gate_inp_shexp", d, 1, 1, &y->shared_gate, e);
}

/* All weights of layer i. */
static polar_status model_layer_tensors(polar_model *m, layout *l, int i, model_layer *y, polar_error *e) {
    const int d = m->n_embd, dq = m->n_head * m->head_dim, dk = m->n_head_kv * m->head_dim, biased = m->arch->qkv_bias;
    if (model_layer_vector(m, l, i, "attn_norm", d, &y->attn_norm, e) ||
        model_layer_vector(m, l, i, "ffn_norm", d, &y->ffn_norm, e) ||
        model_linear(m, l, i, "attn_q", d, dq, biased, &y->q, e) ||
        model_linear(m, l, i, "attn_k", d, dk, biased, &y->k, e) ||
        model_linear(m, l, i, "attn_v", d, dk, biased, &y->v, e) ||
        model_linear(m, l, i, "attn_output", dq, d, 0, &y->o, e))
        return e->status;
    if (m->arch->qk_norm && (model_layer_vector(m, l, i, "attn_q_norm", m->head_dim, &y->q_norm, e) ||
                             model_layer_vector(m, l, i, "attn_k_norm", m->head_dim, &y->k_norm, e)))
        return e->status;
    if (m->arch->out_norm && (model_layer_vector(m, l, i, "post_attention_norm", d, &y->attn_out_norm, e) ||
                              model_layer_vector(m, l, i, "post_ffw_norm", d, &y->ffn_out_norm, e)))
        return e->status;
    if (m->arch->experts) return model_expert_tensors(m, i, y, e);
    if (model_linear(m, l, i, "ffn_gate", d, m->n_ff, 0, &y->gate, e) ||
        model_linear(m, l, i, "ffn_up", d, m->n_ff, 0, &y->up, e))
        return e->status;
    return model_linear(m, l, i, "ffn_down", m->n_ff, d, 0, &y->down, e);
}

/* Turns per position of each pair: base^(-2i/n_rot) / (2 pi factor_i), factors from rope_freqs (Llama 3); then those of
 * local layers, without factors. */
static polar_status model_rope(polar_model *m, float linear, polar_error *e) {
    const double two_pi = 6.28318530717958647693;
    const polar_gguf_tensor *g = gguf_find_tensor(&m->file, "rope_freqs.weight");
    if (g && !(g = model_tensor(m, "rope_freqs.weight", m->n_rot / 2, 1, 1, e))) return e->status;
    if (g && g->type != quant_types[QUANT_F32].id)
        return fail(e, POLAR_UNSUPPORTED, "%s: tensor rope_freqs.weight has type %s, expected F32", m->file.name,
                    polar_gguf_type_name(g->type));
    for (int j = 0; j < m->n_angles / 2; j++) {
        const int i = j % (m->n_rot / 2), local = j != i;
        double factor = local ? 1 : mul64(g ? (double)rd_f32(g->data + 4 * i) : 1, linear), turns;
        if (!(factor >= 1e-3) || factor > 1e9)
            return fail(e, POLAR_FORMAT, "%s: rope_freqs.weight[%d] is not a sensible factor", m->file.name, i);
        turns = pow64((double)(local ? m->rope_base_local : m->rope_base), -2.0 * i / m->n_rot) / two_pi / factor;
        turns = turns - (double)(int64_t)turns;
        m->rope_step[j] = (uint64_t)(turns * 9223372036854775808.0) * 2;
    }
    return POLAR_OK;
}

/* Finds, checks and places everything; run twice. Every number that sizes the block is checked by then. The output
 * matrix is that of the embeddings, unless the file has one. */
static polar_status model_place(polar_model *m, layout *l, polar_error *e) {
    model_layer unused;
    m->layers = layout_place(l, (size_t)m->n_layer, sizeof *m->layers);
    m->rope_step = layout_place(l, (size_t)m->n_angles / 2, sizeof *m->rope_step);
    if (m->layers) memset(m->layers, 0, (size_t)m->n_layer * sizeof *m->layers);
    for (int i = 0; i < m->n_layer; i++)
        if (model_layer_tensors(m, l, i, m->layers ? &m->layers[i] : &unused, e)) return e->status;
    if (model_matrix(m, -1, "token_embd", m->n_embd, m->n_vocab, 1, &m->embedding, e)) return e->status;
    m->output = m->embedding;
    if (gguf_find_tensor(&m->file, "output.weight") &&
        model_matrix(m, -1, "output", m->n_embd, m->n_vocab, 1, &m->output, e))
        return e->status;
    if (gguf_find_tensor(&m->file, "output.bias") &&
        model_vector(m, l, "output.bias", m->n_vocab, &m->output.bias, e))
        return e->status;
    return model_vector(m, l, "output_norm.weight", m->n_embd, &m->output_norm, e);
}

/* The row of the table that the file names. */
static polar_status model_arch(polar_model *m, polar_error *e) {
    const char *s = NULL;
    size_t n = 0;
    char known[200];
    text_buffer t = {known, sizeof known, 0};
    if (gguf_get_str(&m->file, "general.architecture", &s, &n, 1, e)) return e->status;
    for (int i = 0; i < COUNT(archs); i++)
        if (strlen(archs[i].name) == n && !memcmp(archs[i].name, s, n)) m->arch = &archs[i];
    if (m->arch) return POLAR_OK;
    for (int i = 0; i < COUNT(archs); i++) text_format(&t, "%s%s", i ? ", " : "", archs[i].name);
    return fail(e, POLAR_UNSUPPORTED, "%s: architecture \"%.*s\" is not supported, expected one of %s", m->file.name,
                (int)MIN(n, 60), s, known);
}

/* --- what nobody asked for --- */

/* Keys behind the architecture's name that are not used and do not matter: whatever their value, or with one of two
 * values, as these mean what is done here anyway. */
static const struct model_harmless {
    int any;
    double values[2];
    const char *names[22]; /* up to a NULL */
} model_harmless[] = {
    {1, {0, 0}, {"tensor_data_layout", "pooling_type",
                 "attention.sliding_window_pattern", /* no context is longer than the window */
                 "attention.layer_norm_epsilon",     /* of a norm that these architectures do not have */
                 /* of types of scaling that are refused */
                 "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scaling.yarn_log_multiplier",
                 "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast",
                 "rope.scaling.yarn_beta_slow",
                 /* what the shapes of the tensors say */
                 "vocab_size", "expert_feed_forward_length", "expert_shared_feed_forward_length",
                 "expert_shared_count"}},
    {0, {1, 1}, {"attention.causal", "rope.scaling.attn_factor"}},
    {0, {0, 0}, {"attention.clamp_kqv", "attention.max_alibi_bias", "attention.shared_kv_layers",
                 "attn_logit_softcapping", "final_logit_softcapping", "router_logit_softcapping",
                 "use_parallel_residual", "swin_norm", "leading_dense_block_count", "nextn_predict_layers",
                 "n_deepstack_layers", "expert_used_count"}}, /* the last where there are no experts */
    {0, {0, 1}, {"logit_scale", "residual_scale", "embedding_scale", "expert_weights_norm", "expert_weights_scale",
                 "expert_gating_func", /* 1: softmax */
                 "expert_group_count", "expert_group_used_count", "moe_every_n_layers", "interleave_moe_layer_step"}},
};

/* Whether all elements of a value are one of two numbers; bools count as 0 and 1. */
static int model_is_one_of(const polar_gguf_pair *kv, const double *values) {
    for (size_t k = 0; k < kv->count; k++) {
        double x = kv->type == POLAR_GGUF_BOOL ? kv->data[k] : -1;
        if (kv->type == POLAR_GGUF_STRING || (kv->type != POLAR_GGUF_BOOL && !gguf_float_at(kv, k, &x))) return 0;
        if (!(x >= values[0] && x <= values[0]) && !(x >= values[1] && x <= values[1])) return 0;
    }
    return 1;
}

/* Whether a key is in the list, with a value that does not matter. `prefix` is the length of the name in front. */
static int model_key_is_harmless(const polar_gguf_pair *kv, size_t prefix) {
    for (const struct model_harmless *h = model_harmless; h < model_harmless + COUNT(model_harmless); h++)
        for (const char *const *name = h->names; *name; name++)
            if (strlen(*name) == kv->key_length - prefix && !memcmp(*name, kv->key + prefix, strlen(*name)))
                return h->any || model_is_one_of(kv, h->values);
    return 0;
}

/* Old files hold the inverse frequencies of rope, which follow from its base. */
static int model_tensor_is_harmless(const polar_gguf_tensor *g) {
    static const char name[] = ".attn_rot_embd";
    for (size_t i = 0; i + sizeof name - 1 <= g->name_length; i++)
        if (!memcmp(g->name + i, name, sizeof name - 1)) return 1;
    return 0;
}

/* All that the file says about the model has been used, or does not matter. */
static polar_status model_check_unused(polar_model *m, polar_error *e) {
    const size_t prefix = strlen(m->arch->name) + 1;
    const polar_gguf_tensor *first = NULL;
    int n = 0;
    for (size_t i = 0; i < m->file.n_kv; i++) {
        const gguf_entry *entry = &m->file.kv_index[i];
        const polar_gguf_pair *kv = &m->file.kv[entry->index];
        char value[64] = "";
        text_buffer t = {value, sizeof value, 0};
        if (entry->used || kv->key_length < prefix || memcmp(kv->key, m->arch->name, prefix - 1) ||
            kv->key[prefix - 1] != '.' || model_key_is_harmless(kv, prefix))
            continue;
        gguf_put_text(&t, kv, 0);
        if (model_unknown(m, e, "the key %.*s, which is %s%s, is not known for this architecture or not with this "
                          "value", (int)MIN(kv->key_length, 100), kv->key, value, kv->is_array ? " ..." : ""))
            return e->status;
    }
    for (size_t i = 0; i < m->file.n_tensors; i++) {
        const gguf_entry *entry = &m->file.tensor_index[i];
        const polar_gguf_tensor *g = &m->file.tensors[entry->index];
        if (entry->used || model_tensor_is_harmless(g)) continue;
        if (!n++) first = g;
    }
    if (!n) return POLAR_OK;
    return model_unknown(m, e, "the tensor %.*s and %d more are not known for architecture %s",
                         (int)MIN(first->name_length, 100), first->name, n - 1, m->arch->name);
}

/* general.name, as far as there is room. */
static void model_name(polar_model *m) {
    const char *s = "";
    size_t n = 0;
    text_buffer t = {m->name, sizeof m->name, 0};
    gguf_get_str(&m->file, "general.name", &s, &n, 0, NULL);
    text_put(&t, s, n);
    text_clean(m->name);
}

/* polar.prompt_template. A text with a NUL byte would be cut without notice wherever it is used. */
static polar_status model_prompt(polar_model *m, polar_error *e) {
    const char *s = NULL;
    size_t n = 0;
    polar_status status = gguf_get_str(&m->file, "polar.prompt_template", &s, &n, 0, e);
    if (status || !n) return status;
    if (memchr(s, 0, n)) return fail(e, POLAR_FORMAT, "%s: polar.prompt_template holds a NUL byte", m->file.name);
    if (!(m->prompt = mem_alloc(&m->allocator, n + 1, e))) return POLAR_MEMORY;
    m->prompt_bytes = n + 1;
    memcpy(m->prompt, s, n);
    m->prompt[n] = 0;
    return POLAR_OK;
}

/* Everything after the file is open. */
static polar_status model_load(polar_model *m, polar_error *e) {
    layout l = layout_begin(NULL);
    float linear = 1;
    polar_status status;
    model_name(m);
    if ((status = model_prompt(m, e)) || (status = tok_load(&m->vocab, &m->file, &m->notes, &m->allocator, e)))
        return status;
    m->n_vocab = m->vocab.n_tokens;
    if (m->vocab_only) return POLAR_OK;
    if (model_arch(m, e) || model_hyperparameters(m, &linear, e) || model_place(m, &l, e)) return e->status;
    m->block_bytes = layout_bytes(&l);
    if (!m->block_bytes) return fail(e, POLAR_MEMORY, "out of memory: the model's tables are too large");
    if (!(m->block = mem_alloc(&m->allocator, m->block_bytes, e))) return POLAR_MEMORY;
    l = layout_begin(m->block);
    if (model_place(m, &l, e) || model_rope(m, linear, e)) return e->status;
    return model_check_unused(m, e);
}

void polar_model_close(polar_model *model) {
    polar_allocator a;
    if (!model) return;
    a = model->allocator;
    tok_free(&model->vocab, &a);
    gguf_close(&model->file);
    buf_free(&model->notes);
    mem_free(&a, model->prompt, model->prompt_bytes);
    mem_free(&a, model->block, model->block_bytes);
    mem_free(&a, model, sizeof *model);
}

/* `path` or else `data`. Errors go through a local record, since its status steers the loading. */
static polar_status model_open(polar_model **out, const char *path, const void *data, size_t size,
                               const polar_model_options *options, polar_error *error) {
    const polar_model_options standard = {0}, *o = options ? options : &standard;
    polar_allocator a = mem_allocator(o->allocator);
    polar_error local;
    polar_model *m = NULL;
    err_clear(error);
    err_clear(&local);
    if (!out || (!path && !data)) return fail(error, POLAR_ARGUMENT, "polar_model_open: out, path or data is NULL");
    *out = NULL;
    if (!kern_find(o->cpu)) {
        const char *name = polar_cpu_name(o->cpu);
        return fail(error, POLAR_UNSUPPORTED, "this CPU or build has no %s kernels", name ? name : "such");
    }
    if (!(m = mem_zeros(&a, sizeof *m, error))) return POLAR_MEMORY;
    m->allocator = a;
    m->notes.allocator = &m->allocator;
    m->kern = kern_find(o->cpu);
    m->vocab_only = o->vocab_only;
    m->ignore_unknown = o->ignore_unknown;
    if (path) gguf_open(&m->file, path, o->no_mmap, &a, &local);
    else gguf_open_memory(&m->file, data, size, &a, &local);
    if (local.status == POLAR_OK) model_load(m, &local);
    if (local.status == POLAR_OK && m->notes.failed) fail(&local, POLAR_MEMORY, "out of memory for notes");
    if (local.status != POLAR_OK) {
        polar_model_close(m);
        if (error) *error = local;
        return local.status;
    }
    *out = m;
    return POLAR_OK;
}

#ifndef POLAR_NO_STDIO
polar_status polar_model_open(polar_model **out, const char *path, const polar_model_options *options,
                              polar_error *error) {
    return model_open(out, path, NULL, 0, options, error);
}
#endif

polar_status polar_model_open_memory(polar_model **out, const void *data, size_t size,
                                     const polar_model_options *options, polar_error *error) {
    return model_open(out, NULL, data, size, options, error);
}

void polar_model_get_info(const polar_model *m, polar_model_info *info) {
    memset(info, 0, sizeof *info);
    info->architecture = m->arch ? m->arch->name : "";
    info->name = m->name;
    info->notes = m->notes.at ? m->notes.at : "";
    info->tokenizer = tok_name(&m->vocab);
    info->n_layer = m->n_layer;
    info->n_embd = m->n_embd;
    info->n_head = m->n_head;
    info->n_head_kv = m->n_head_kv;
    info->head_dim = m->head_dim;
    info->n_ff = m->n_ff ? m->n_ff : m->n_ff_exp;
    info->n_vocab = m->n_vocab;
    info->n_ctx_train = m->n_ctx_train;
    info->n_expert = m->n_expert;
    info->n_expert_used = m->n_expert_used;
    info->n_tensors = (int)m->file.n_tensors;
    info->token_bos = m->vocab.bos;
    info->token_eos = m->vocab.eos;
    info->token_eot = m->vocab.eot;
    info->chat = m->vocab.chat;
    info->prompt = m->prompt ? m->prompt : "";
    info->rope_base = (double)m->rope_base;
    for (size_t i = 0; i < m->file.n_tensors; i++) {
        const polar_gguf_tensor *g = &m->file.tensors[i];
        info->n_params += g->dims[0] * g->dims[1] * g->dims[2] * g->dims[3];
        info->weight_bytes += (int64_t)g->bytes;
    }
}

int polar_model_tensor(const polar_model *m, int index, polar_gguf_tensor *tensor) {
    return polar_gguf_get_tensor(&m->file, index, tensor);
}

/* Eight bytes a step; the multiplication spreads them over the word. */
#define MODEL_CHECKSUM_START 0xcbf29ce484222325u
static uint64_t model_checksum_add(uint64_t h, const uint8_t *p, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        h = (h ^ rd_u64(p + i)) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
    }
    for (; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

uint64_t polar_model_checksum(const polar_model *m) {
    uint64_t h = MODEL_CHECKSUM_START;
    for (size_t i = 0; i < m->file.n_kv; i++) {
        const polar_gguf_pair *kv = &m->file.kv[i];
        h = model_checksum_add(h, (const uint8_t *)kv->key, kv->key_length);
        h = model_checksum_add(h, kv->data, kv->bytes);
    }
    for (size_t i = 0; i < m->file.n_tensors; i++) {
        const polar_gguf_tensor *g = &m->file.tensors[i];
        h = model_checksum_add(h, (const uint8_t *)g->name, g->name_length);
        h = model_checksum_add(h, g->data, g->bytes);
    }
    return h;
}

/* Of what a value is worth to whom runs the model: its name and texts about it are not. */
static int model_fingerprint_counts(const polar_gguf_pair *kv) {
    static const char *const others[] = {"general.", "polar.", "tokenizer.chat_template"};
    for (int i = 0; i < COUNT(others); i++) {
        const size_t n = strlen(others[i]);
        if (kv->key_length >= n && !memcmp(kv->key, others[i], n)) return 0;
    }
    return 1;
}

enum { MODEL_FINGERPRINT_BYTES = 256 };
uint64_t polar_model_fingerprint(const polar_model *m) {
    uint64_t h = MODEL_CHECKSUM_START;
    for (size_t i = 0; i < m->file.n_kv; i++) {
        const polar_gguf_pair *kv = &m->file.kv[i];
        if (!model_fingerprint_counts(kv)) continue;
        h = model_checksum_add(h, (const uint8_t *)kv->key, kv->key_length);
        h = model_checksum_add(h, kv->data, kv->bytes);
    }
    for (size_t i = 0; i < m->file.n_tensors; i++) {
        const polar_gguf_tensor *g = &m->file.tensors[i];
        const size_t n = MIN(g->bytes, MODEL_FINGERPRINT_BYTES);
        uint8_t head[12];
        wr_u32(head, (uint32_t)g->type);
        wr_u64(head + 4, (uint64_t)g->bytes);
        h = model_checksum_add(h, (const uint8_t *)g->name, g->name_length);
        h = model_checksum_add(h, head, sizeof head);
        h = model_checksum_add(h, g->data + (g->bytes - n) / 2, n);
    }
    return h;
}

/* --- public token functions --- */

#ifndef POLAR_NO_TOKENIZER
/* What every function that takes tokens or text in checks first: `in` and `out` may be NULL where there is nothing. */
static polar_status model_check_tokens(const polar_model *m, const void *in, int has_in, const void *out,
                                       int has_room, const void *n, polar_error *e) {
    err_clear(e);
    if (!m || !n || (has_in && !in) || (has_room && !out))
        return fail(e, POLAR_ARGUMENT, "%s is NULL", !m ? "the model" : !n ? "the place for the number" :
                                                     has_in && !in ? "the input" : "the output");
    return POLAR_OK;
}

/* A number of tokens from the caller. */
static polar_status model_check_count(int n, polar_error *e) {
    return n < 0 ? fail(e, POLAR_ARGUMENT, "%d tokens, expected 0 or more", n) : POLAR_OK;
}

polar_status polar_tokenize(const polar_model *model, const char *text, size_t length, int flags, int32_t *tokens,
                            int capacity, int *n, polar_error *error) {
    polar_status status = model_check_tokens(model, text, length > 0, tokens, capacity > 0, n, error);
    if (!status) status = model_check_count(capacity, error);
    if (status) return status;
    return tok_encode(&model->vocab, &model->allocator, text, length, flags, tokens, capacity, n, error);
}

polar_status polar_detokenize(const polar_model *model, const int32_t *tokens, int n, int flags, char *text,
                              size_t capacity, size_t *length, polar_error *error) {
    polar_status status = model_check_tokens(model, tokens, n > 0, text, capacity > 0, length, error);
    if (!status) status = model_check_count(n, error);
    if (status) return status;
    return tok_decode(&model->vocab, tokens, n, flags, text, capacity, length, error);
}

polar_status polar_chat_tokenize(const polar_model *model, polar_chat chat, int think, const polar_message *messages,
                                 int n_messages, int32_t *tokens, int capacity, int *n, polar_error *error) {
    polar_status status = model_check_tokens(model, NULL, 0, tokens, capacity > 0, n, error);
    if (!status) status = model_check_count(capacity, error);
    if (status) return status;
    return tok_chat_encode(&model->vocab, &model->allocator, chat, think, messages, n_messages, tokens, capacity, n,
                           error);
}
#endif /* POLAR_NO_TOKENIZER */

int polar_token_is_end(const polar_model *model, int token) {
    return tok_is_end(&model->vocab, token);
}

/* ======================================================================================
 * [prog] Programs of layers
 *
 * The forms of a program: segments (the value), text, path, training targets, strip; and the canonical parse of a path.
 * Start reading at polar_program_parse and prog_next, the walk through the calls; the parse is prog_solve. Promises: a
 * program that a function here returns is well-formed; texts and paths are not trusted. Uses: [err].
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

/* The model's own program. */
static polar_program prog_standard(const polar_model *m) {
    polar_program p = polar_program_identity(m->n_layer);
    p.segments[0].times = (int16_t)m->n_loops;
    return p;
}

/* Refuses numbers of layers that no model has. */
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
        if (s.start != at || s.length < 1 || s.length > n_layer - at || s.times < 0 || (s.damped && s.times < 2))
            return fail(error, POLAR_ARGUMENT, "segment %d is %d layers from %d, %d times%s; expected is one from %d",
                        i,
                        s.length, s.start, s.times, s.damped ? " damped, which begins at 2" : "", at);
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

/* An error that shows where in the text it is. */
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

/* What stands between the items of a text. */
static int prog_is_separator(char c) {
    return c == ' ' || c == ',' || c == '\t' || c == '\n' || c == '\r';
}

/* One item: a or a-b, then nothing, xT or ~K. */
static polar_status prog_item(prog_reader *r, int n_layer, int *first, int *last, int *times, int *damped) {
    polar_status status = prog_number(r, n_layer - 1, "a layer is expected", first);
    if (status) return status;
    *last = *first;
    *times = 1;
    if (*r->at == '-') {
        r->at++;
        if ((status = prog_number(r, n_layer - 1, "the last layer of a range is expected", last))) return status;
    }
    *damped = *r->at == '~';
    if (*r->at == 'x' || *damped) {
        const char *number = ++r->at;
        if ((status = prog_number(r, POLAR_MAX_CALLS, "a number of executions is expected", times))) return status;
        if (*damped && !*times) {
            r->at = number;
            return prog_bad(r, "at least one damped pass is expected");
        }
    }
    if (*r->at && !prog_is_separator(*r->at)) return prog_bad(r, "a space is expected");
    return POLAR_OK;
}

/* One damped pass is the plain segment. */
static void prog_append(polar_program *p, int start, int length, int times, int damped) {
    polar_segment s = {(int16_t)start, (int16_t)length, (int16_t)times, (int16_t)(damped && times > 1)};
    p->segments[p->n_segments++] = s;
}

/* All items of a text, and the layers between them as segments of their own. */
static polar_status prog_read(polar_program *p, prog_reader *r) {
    int next = 0, first, last, times, damped; /* next: the first layer that no segment covers yet */
    for (;;) {
        const char *item;
        polar_status status;
        while (prog_is_separator(*r->at)) r->at++;
        if (!*r->at) break;
        item = r->at;
        if ((status = prog_item(r, p->n_layer, &first, &last, &times, &damped))) return status;
        r->at = item;
        if (last < first) return prog_bad(r, "the range goes backwards");
        if (first < next) return prog_bad(r, "layers must ascend and be named once");
        while (*r->at && !prog_is_separator(*r->at)) r->at++;
        if (first > next) prog_append(p, next, first - next, 1, 0);
        prog_append(p, first, last - first + 1, times, damped);
        next = last + 1;
    }
    if (next < p->n_layer) prog_append(p, next, p->n_layer - next, 1, 0);
    return prog_check_length(p, r->error);
}

polar_status polar_program_parse(polar_program *program, int n_layer, const char *text, polar_error *error) {
    prog_reader r = {text, text, error}; /* cppcheck-suppress ctuuninitvar ; which is written, not read */
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

polar_status polar_model_program(const polar_model *model, const char *text, polar_program *program,
                                 polar_error *error) {
    err_clear(error);
    if (!model || !program || model->vocab_only)
        return fail(error, POLAR_ARGUMENT, "polar_model_program: no program, or no model with layers");
    if (text && *text && strcmp(text, "identity"))
        return polar_program_parse(program, model->n_layer, text, error);
    *program = prog_standard(model);
    return POLAR_OK;
}

size_t polar_program_format(const polar_program *p, char *out, size_t capacity) {
    text_buffer t = {out, capacity, 0};
    text_put(&t, "", 0); /* the NUL */
    for (int i = 0; i < MIN(p->n_segments, POLAR_MAX_LAYER); i++) {
        polar_segment s = p->segments[i];
        text_format(&t, i ? " %d" : "%d", s.start);
        if (s.length > 1) text_format(&t, "-%d", s.start + s.length - 1);
        if (s.times != 1) text_format(&t, s.damped ? "~%d" : "x%d", s.times);
    }
    return t.length;
}

size_t polar_program_strip(const polar_program *p, char *out, size_t capacity) {
    text_buffer t = {out, capacity, 0};
    text_put(&t, "", 0);
    for (int i = 0; i < MIN(p->n_segments, POLAR_MAX_LAYER); i++) {
        const int cell = p->segments[i].damped ? 11 : MIN(MAX(p->segments[i].times, 0), 10);
        for (int k = 0; k < MIN(p->segments[i].length, POLAR_MAX_LAYER); k++) text_put(&t, &".#23456789+~"[cell], 1);
    }
    return t.length;
}

/* --- path form ------------------------------------------------------------------------ */

/* A call is the number of its layer, and in a damped segment the sum of that and of what happens around it: see
 * call_damp. Calls are equal only if they do the same. */
enum {
    CALL_PASS = 1 << 8,    /* a damped pass begins with it */
    CALL_ANCHOR = 1 << 9,  /* with CALL_PASSES: the first pass ends with it, */
    CALL_END = 1 << 10,    /* or the last one */
    CALL_NORM = 1 << 11,   /* only in [call]: see call_behind */
    CALL_PASSES = 1 << 12  /* times K: a pass of a segment of K damped passes ends with it */
};

static int call_of(polar_segment s, int execution, int offset) {
    int call = s.start + offset;
    if (!s.damped) return call;
    if (!offset) call |= CALL_PASS;
    if (offset + 1 < s.length) return call;
    return call + s.times * CALL_PASSES + (execution == 0) * CALL_ANCHOR + (execution + 1 == s.times) * CALL_END;
}

/* Refuses calls of layers that there are not, and those of damped segments that are out of order. */
static polar_status prog_check_calls(const int *calls, int n, int n_layer, polar_error *e) {
    int inside = 0, anchored = 0; /* of a pass; from the end of a segment's first pass to that of the last */
    for (int i = 0; i < n; i++) {
        const int call = calls[i], passes = call / CALL_PASSES, begins = (call & CALL_PASS) != 0,
                  anchor = (call & CALL_ANCHOR) != 0, end = (call & CALL_END) != 0;
        int bad = (begins && inside) || (!begins && !inside && anchored) || call & CALL_NORM;
        bad |= passes ? passes < 2 || passes > POLAR_MAX_CALLS || anchor == anchored : anchor || end;
        if (call < 0 || call % CALL_PASS >= n_layer || (call >= CALL_PASS && !begins && !inside))
            return fail(e, POLAR_MISMATCH, "call %d of the path is layer %d, the model has layers 0..%d", i, call,
                        n_layer - 1);
        inside = !passes && (inside || begins);
        if (passes) anchored = !end;
        if (bad || (i + 1 == n && (inside || anchored)))
            return fail(e, POLAR_MISMATCH, "call %d of the path, %d, is out of order in a damped segment", i, call);
    }
    return POLAR_OK;
}

/* Walks through the calls of a program. */
typedef struct prog_cursor {
    int segment, execution, offset;
} prog_cursor;

/* The next call, or -1 at the end. */
static int prog_next(const polar_program *p, prog_cursor *c) {
    for (; c->segment < MIN(p->n_segments, POLAR_MAX_LAYER); c->segment++, c->execution = 0) {
        polar_segment s = p->segments[c->segment];
        if (s.length < 1 || c->execution >= s.times) continue;
        if (c->offset == s.length) c->offset = 0, c->execution++;
        if (c->execution < s.times) return call_of(s, c->execution, c->offset++);
    }
    return -1;
}

int polar_program_calls(const polar_program *p, int *calls, int capacity) {
    prog_cursor c = {0, 0, 0};
    for (int i = 0, call; i < capacity && (call = prog_next(p, &c)) >= 0; i++) calls[i] = call;
    return polar_program_length(p);
}

int polar_program_path(const polar_program *p, int *path, int capacity) {
    for (int i = 0; i < MIN(p->n_segments, POLAR_MAX_LAYER); i++)
        if (p->segments[i].damped) return 0;
    return polar_program_calls(p, path, capacity);
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
    int length, times, damped; /* of its first segment */
    int exists;
} prog_rest;

/* How far path[0..n) ascends in steps of one from layer i: the length of i, i+1, i+2, ... */
static int prog_run(const int *path, int n, int i) {
    int run = 0;
    while (run < n && path[run] == i + run) run++;
    return run;
}

/* How often `length` layers from i on are executed, as one segment, in path[0..n); -1 if they are not. `run` is how
 * far the path ascends from here, which decides all but one length: a repeat begins where it stops. */
static int prog_match(const int *path, int n, int i, int length, int run, int damped) {
    if (n == 0) return 0;
    if (n % length || (run < length && !damped)) return -1;
    if (damped) {
        const polar_segment s = {(int16_t)i, (int16_t)length, (int16_t)(n / length), 1};
        for (int k = 0; k < n; k++)
            if (path[k] != call_of(s, k / length, k % length)) return -1;
        return n / length;
    }
    if (n == length) return 1;
    if (run > length) return -1;
    for (int k = length; k < n; k++)
        if (path[k] != path[k - length]) return -1;
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
        const int run = prog_run(path + position[i], position[n_layer] - position[i], i);
        for (int length = MIN(max_length, n_layer - i); length >= 1; length--) {
            const int n = position[i + length] - position[i];
            prog_rest r = rest[i + length];
            if (!r.exists || n > length * max_times) continue;
            r.damped = n && path[position[i]] & CALL_PASS;
            if ((r.times = prog_match(path + position[i], n, i, length, run, r.damped)) < 0) continue;
            r.length = length;
            r.n_segments++;
            r.n_skips += r.times == 0;
            r.n_repeats += r.times > 1;
            if (prog_better(&r, &rest[i])) rest[i] = r;
        }
    }
}

/* The error for a path without a parse, which says where the trouble begins. */
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
    if ((status = prog_check_calls(path, n_path, n_layer, error))) return status;
    for (int k = 0; k < n_path; k++) position[path[k] % CALL_PASS + 1]++;
    for (int i = 0; i < n_layer; i++) position[i + 1] += position[i];
    memset(rest, 0, sizeof rest);
    prog_solve(n_path ? path : position, n_layer, position, max_length, MIN(max_times, POLAR_MAX_CALLS), rest);
    if (!rest[0].exists) return prog_no_form(rest, position, n_layer, max_length, max_times, error);
    memset(program, 0, sizeof *program);
    program->n_layer = n_layer;
    for (int i = 0; i < n_layer; i += rest[i].length)
        prog_append(program, i, rest[i].length, rest[i].times, rest[i].damped);
    return POLAR_OK;
}

void polar_program_targets(const polar_program *p, int *seg_flip, int *op) {
    int at = 0;
    for (int i = 0; i < MIN(p->n_segments, POLAR_MAX_LAYER); i++) {
        for (int k = 0; k < p->segments[i].length && at < POLAR_MAX_LAYER; k++, at++) {
            seg_flip[at] = k == 0 && at > 0;
            op[at] = k == 0 && !p->segments[i].damped ? MIN(MAX(p->segments[i].times, 0), 2) : POLAR_OP_NONE;
        }
    }
}

/* ======================================================================================
 * [call] One layer call: attention, feed-forward, experts
 *
 * Start reading at call_layer at the end: it is the recipe, a line for each published step, and each step is one of the
 * functions above it. With x the hidden state (n_embd) that enters, a call computes
 *
 *     a = W_o attention(W_q n, W_k n, W_v n)          n = RMS norm of x
 *     y = x + a
 *     z = y + feed_forward(RMS norm of y)             W_down (silu(W_gate n) * W_up n), or a mixture of such
 *
 * and a damped pass of several calls changes z once more: see call_damp. This is done for rows - positions of one
 * sequence or of many - side by side. Each row says where its key and value go and which
 * spans of keys and values it attends to. Rows know nothing of each other, so a row's result does not depend on the
 * rows beside it, and nothing here depends on threads: tasks write disjoint places, and every sum has one order.
 * Uses: [mem] [num] [thread] [kern] [model] [prog].
 * ====================================================================================== */

/* Keys and values of n positions, (n_head_kv, capacity, head_dim) each, floats or halves. */
typedef struct kv_span {
    const uint8_t *k, *v;
    int n, capacity;
} kv_span;

typedef struct call_row {
    int call;             /* see CALL_PASS; its layer is that of all rows beside it */
    const float *cs;      /* (n_angles) of the row's position: see rope_angles */
    uint8_t *k, *v;       /* the slot that gets its key and value, */
    int at, capacity;     /* at this index of so many */
    const kv_span *spans; /* what it attends to, in order, itself included */
    int n_spans;
} call_row;

typedef struct expert_choice {
    int expert;
    float weight;
} expert_choice;

/* Work space for up to max_rows rows. An entry is a row under one of its experts. */
typedef struct engine {
    const polar_model *model;
    polar_runner runner;
    int kv_f16, max_rows;
    int max_hidden;         /* rows of hidden, entered, anchor and cs: max_rows, or more of which a call takes a part */
    size_t max_scores;      /* floats of scores per worker */
    float *hidden;          /* (max_hidden, n_embd): in and out of a call */
    float *entered;         /* (max_hidden, n_embd): the same in front of the damped pass that the row is in */
    float *anchor;          /* (max_hidden, n_embd): what the first pass of its damped segment gave */
    float *normed;          /* (max_rows, n_embd): what the norms give */
    float *q, *k, *v;       /* (max_rows, n_head * head_dim), (max_rows, n_head_kv * head_dim) twice */
    float *attended;        /* (max_rows, n_head * head_dim): what attention gives */
    float *gate, *up;       /* (max_rows, n_ff) inside the feed-forward part, or (entries, n_ff_exp) */
    float *out;             /* (max_rows, n_embd): what attention and feed-forward add to hidden */
    activations act_normed, act_attended, act_gate; /* the same, quantized as inputs of products */
    float *router;          /* (max_rows, n_expert): its logits */
    float *shared_out;      /* (max_rows, n_embd): of the shared expert */
    float *shared_gate;     /* (max_rows) */
    float *entry_out;       /* (max_rows * n_expert_used, n_embd) */
    expert_choice *chosen;  /* (max_rows, n_expert_used), most probable first */
    int *entry_row;         /* (max_rows * n_expert_used): the row of each entry, entries in the order of experts */
    int *entry_of;          /* (max_rows, n_expert_used): the entry of each choice */
    int *entry_identity;    /* 0, 1, 2, ... */
    int *expert_first;      /* (n_expert + 1): first entry of each expert */
    product *products;
    float *cs;              /* (max_hidden, n_angles) */
    float *scores;          /* (workers, 4 if the kernels take four queries at a time, max_scores) */
    uint8_t *scratch;       /* (workers, KERN_SCRATCH) */
} engine;

/* Products that run in one go: q, k and v, or gate and up of every expert. */
static int engine_max_products(const polar_model *m) {
    return MAX(3, 2 * m->n_expert);
}

/* Floats of a row in `gate`: of the dense or shared feed-forward part, or of all experts that the row goes to. */
static size_t engine_max_ff(const polar_model *m) {
    const size_t entries = size_of((size_t)m->n_expert_used, (size_t)m->n_ff_exp);
    return m->arch->experts ? MAX((size_t)m->n_ff_shexp, entries) : (size_t)m->n_ff;
}

/* Room for rows of n numbers quantized in blocks. */
static void blocks_place(act_blocks *b, layout *l, size_t rows, size_t n, int block) {
    b->q8 = layout_place(l, rows, n);
    b->q16 = layout_place(l, rows, size_of(n, sizeof(int16_t)));
    b->sums = layout_place(l, rows, (n + 15) / 16 * sizeof(int16_t));
    b->d = layout_place(l, rows, size_of(n / (size_t)block + 1, sizeof(float)));
}

/* Measures or places the work space. No array of it may have more than INT_MAX numbers: the calls below count rows,
 * heads, entries and tiles as ints. */
static void engine_place(engine *e, layout *l) {
    const polar_model *m = e->model;
    const size_t rows = (size_t)e->max_rows, held = (size_t)e->max_hidden, d = (size_t)m->n_embd,
                 dq = (size_t)(m->n_head * m->head_dim),
                 dk = (size_t)(m->n_head_kv * m->head_dim), ff = engine_max_ff(m),
                 used = (size_t)m->n_expert_used, workers = (size_t)e->runner.n_threads;
    if (size_of(rows, MAX(MAX(d, dq), MAX(ff, size_of(used, d)))) > INT_MAX || e->max_scores > INT_MAX ||
        workers > INT_MAX / 64 || size_of(held, d) > INT_MAX)
        l->overflow = 1;
    e->hidden = layout_place(l, size_of(held, d), sizeof(float));
    e->entered = layout_place(l, size_of(held, d), sizeof(float));
    e->anchor = layout_place(l, size_of(held, d), sizeof(float));
    e->normed = layout_place(l, size_of(rows, d), sizeof(float));
    e->q = layout_place(l, size_of(rows, dq), sizeof(float));
    e->k = layout_place(l, size_of(rows, dk), sizeof(float));
    e->v = layout_place(l, size_of(rows, dk), sizeof(float));
    e->attended = layout_place(l, size_of(rows, dq), sizeof(float));
    e->gate = layout_place(l, size_of(rows, ff), sizeof(float));
    e->up = layout_place(l, size_of(rows, ff), sizeof(float));
    e->out = layout_place(l, size_of(rows, d), sizeof(float));
    blocks_place(&e->act_normed.b32, l, rows, MAX(d, dq), 32);
    blocks_place(&e->act_normed.b256, l, rows, MAX(d, dq), 256);
    blocks_place(&e->act_gate.b32, l, rows, ff, 32);
    blocks_place(&e->act_gate.b256, l, rows, ff, 256);
    e->router = layout_place(l, size_of(rows, (size_t)m->n_expert), sizeof(float));
    e->shared_out = layout_place(l, m->n_expert ? size_of(rows, d) : 0, sizeof(float));
    e->shared_gate = layout_place(l, m->n_expert ? rows : 0, sizeof(float));
    e->entry_out = layout_place(l, size_of(size_of(rows, used), d), sizeof(float));
    e->chosen = layout_place(l, size_of(rows, used), sizeof *e->chosen);
    e->entry_row = layout_place(l, size_of(rows, used), sizeof(int));
    e->entry_of = layout_place(l, size_of(rows, used), sizeof(int));
    e->entry_identity = layout_place(l, size_of(rows, used), sizeof(int));
    e->expert_first = layout_place(l, (size_t)m->n_expert + 1, sizeof(int));
    e->products = layout_place(l, (size_t)engine_max_products(m), sizeof *e->products);
    e->cs = layout_place(l, size_of(held, (size_t)m->n_angles), sizeof(float));
    e->scores = layout_place(l, size_of(size_of(workers, m->kern->scores4 ? 4 : 1), e->max_scores), sizeof(float));
    e->scratch = layout_place(l, workers, KERN_SCRATCH);
}

/* Once the work space is placed. Attention's result is quantized where the normed rows were, which are used up then. */
static void engine_start(engine *e) {
    const polar_model *m = e->model;
    e->act_attended = e->act_normed;
    e->act_normed.x = e->normed;
    e->act_normed.n = m->n_embd;
    e->act_attended.x = e->attended;
    e->act_attended.n = m->n_head * m->head_dim;
    e->act_gate.x = e->gate; /* n is set where it is known */
    for (int i = 0; i < e->max_rows * m->n_expert_used; i++) e->entry_identity[i] = i;
}

/* cos and then sin, (n_rot / 2) each, of a position for all pairs i: of position * base^(-2i/n_rot) / factor_i, see
 * model_rope; then perhaps those of local layers. */
static void rope_angles(const polar_model *m, int position, float *cs) {
    const int half = m->n_rot / 2;
    for (int i = 0; i < m->n_angles / 2; i++) {
        const int at = i + i / half * half;
        double s, c;
        turn_sincos((uint64_t)position * m->rope_step[i], &s, &c);
        cs[at] = (float)c;
        cs[half + at] = (float)s;
    }
}

/* --- products of weights and rows --- */

typedef struct product_work {
    const engine *e;
    const product *p;
    int n, tile;
} product_work;

/* Tiles are counted through all products of the work: task `index` finds its own. */
static void product_task(void *context, int index, int worker) {
    const product_work *w = context;
    for (int i = 0; i < w->n; i++) {
        int tiles = (w->p[i].rows + w->tile - 1) / w->tile, row = index * w->tile;
        if (index < tiles) {
            kern_multiply(w->e->model->kern, &w->p[i], row, MIN(w->tile, w->p[i].rows - row),
                                        w->e->scratch + (size_t)worker * KERN_SCRATCH);
            return;
        }
        index -= tiles;
    }
}

/* x += y. Blocks of a known size are what a compiler makes vectors of. */
static void vec_add(float *x, const float *y, int n) {
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) x[i + j] += y[i + j];
    for (; i < n; i++) x[i] += y[i];
}

/* All products in one go, and their biases. Tiles are a multiple of a panel, some per thread so that a slow core does
 * not hold up the others: few for one token, since memory is not yet read ahead where a tile begins. */
static void products_run(const engine *e, const product *p, int n) {
    product_work w = {e, p, n, KERN_ROWS};
    int rows = 0, tiles = 0;
    for (int i = 0; i < n; i++) rows += p[i].rows;
    w.tile = MAX(1, rows / (e->runner.n_threads * (p->n_tokens == 1 ? 2 : 8) * KERN_ROWS)) * KERN_ROWS;
    if (p->n_tokens > 1) w.tile = MIN(128, w.tile);
    for (int i = 0; i < n; i++) tiles += (p[i].rows + w.tile - 1) / w.tile;
    parallel_for(&e->runner, tiles, product_task, &w);
    for (int i = 0; i < n; i++)
        for (int t = 0; p[i].bias && t < p[i].n_tokens; t++)
            vec_add(p[i].y + (size_t)t * (size_t)p[i].ldy, p[i].bias, p[i].rows);
}

/* y (n_rows, m->rows) = rows of a times m transposed, and m's bias: y[r] = m a[r] + b. */
static product product_of(const matrix *m, const activations *a, int n_rows, float *y) {
    const product p = {m->type, m->rows, m->data, m->row_bytes, a, NULL, n_rows, y, m->rows, m->bias};
    return p;
}

/* y = rows of a times m transposed, by itself. */
static void product_run(const engine *e, const matrix *m, const activations *a, int n_rows, float *y) {
    const product p = product_of(m, a, n_rows, y);
    products_run(e, &p, 1);
}

/* Which blocks the products with some matrices want their other factor quantized in: a sum of these. */
enum { FORM_32 = 1, FORM_256 = 2 };

/* 0 for floats, which are multiplied as they are. */
static int form_of(const matrix *m) {
    const quant_type *t = &quant_types[m->type];
    return !t->unpack ? 0 : t->block == 32 ? FORM_32 : FORM_256;
}

/* Quantizes columns [from, from + count) of row r of the activations. */
static void act_quantize(const kern *k, const activations *a, int forms, int r, int from, int count) {
    const size_t at = (size_t)r * (size_t)a->n + (size_t)from;
    if (forms & FORM_32)
        k->quantize(a->x + at, count, 32, a->b32.q8 + at, a->b32.q16 + at, a->b32.sums + at / 16, a->b32.d + at / 32);
    if (forms & FORM_256)
        k->quantize(a->x + at, count, 256, a->b256.q8 + at, a->b256.q16 + at, a->b256.sums + at / 16,
                    a->b256.d + at / 256);
}

/* --- steps that take each row by itself --- */

/* What a step works on; each step says which of these it uses. */
typedef struct layer_step {
    engine *e;
    polar_task row_task;     /* does one row */
    int n_rows, per_task;    /* rows in all, and of a task */
    const model_layer *layer;
    const call_row *rows;    /* (n_rows) */
    float *hidden;           /* (n_rows, n_embd) */
    float *add;              /* (n_rows, n_embd) or NULL: what is added to hidden */
    const float *add_norm, *norm; /* (n_embd): of what is added, NULL without; of hidden behind it */
    const float *q;          /* (n_rows, n_head * head_dim) */
    int forms;               /* for the products that follow */
    int n_ff;
    int chunk, chunks;       /* queries of a task and tasks of a head; in swiglu columns of a task and tasks of a row */
} layer_step;

/* Task `index`: per_task rows of a step. */
static void step_task(void *context, int index, int worker) {
    const layer_step *w = context;
    for (int r = index * w->per_task; r < MIN(w->n_rows, (index + 1) * w->per_task); r++)
        w->row_task(context, r, worker);
}

/* Few rows are quicker done here than handed out, and many in groups. */
static void step_run(layer_step *w, int n_rows, polar_task row_task) {
    w->n_rows = n_rows;
    w->row_task = row_task;
    w->per_task = n_rows < 4 ? 4 : MIN(16, MAX(1, n_rows / (4 * w->e->runner.n_threads)));
    parallel_for(&w->e->runner, (n_rows + w->per_task - 1) / w->per_task, step_task, w);
}

/* x (n) /= y, as attention does at its end: in blocks, like vec_add. */
static void vec_divide(float *x, float y, int n) {
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) x[i + j] = x[i + j] / y;
    for (; i < n; i++) x[i] = x[i] / y;
}

/* --- RMS norm and residual --- */

/* Row r of call_norm and call_add_norm. */
static void norm_task(void *context, int r, int worker) {
    const layer_step *w = context;
    const engine *e = w->e;
    const size_t d = (size_t)e->model->n_embd;
    float *h = w->hidden + (size_t)r * d;
    (void)worker;
    if (w->add_norm)
        e->model->kern->rms_norm(w->add + (size_t)r * d, w->add + (size_t)r * d, w->add_norm, e->model->n_embd,
                                 e->model->norm_eps);
    if (w->add) vec_add(h, w->add + (size_t)r * d, e->model->n_embd);
    if (!w->norm) return;
    e->model->kern->rms_norm(e->normed + (size_t)r * d, h, w->norm, e->model->n_embd, e->model->norm_eps);
    act_quantize(e->model->kern, &e->act_normed, w->forms, r, 0, e->model->n_embd);
}

/* normed = hidden / sqrt(mean(hidden^2) + eps) * norm, in floats and quantized: (n_rows, n_embd). */
static void call_norm(engine *e, float *hidden, int n_rows, const float *norm, int forms) {
    layer_step w = {.e = e, .hidden = hidden, .norm = norm, .forms = forms};
    step_run(&w, n_rows, norm_task);
}

/* hidden += out, of which perhaps the RMS norm is taken, and then the same: one walk over the rows. Without a norm
 * (NULL) nothing follows. */
static void call_add_norm(engine *e, float *hidden, int n_rows, const float *add_norm, const float *norm, int forms) {
    layer_step w = {.e = e, .hidden = hidden, .add = e->out, .add_norm = add_norm, .norm = norm, .forms = forms};
    step_run(&w, n_rows, norm_task);
}

/* --- queries, keys, values; rope --- */

/* Of n heads: RMS norm of each (qwen3), then rope, which turns pairs of numbers by the angles of the position, unless
 * cs is NULL. */
static void heads_position(const polar_model *m, float *x, int n, const float *norm, const float *cs) {
    for (int h = 0; h < n; h++, x += m->head_dim) {
        if (norm) m->kern->rms_norm(x, x, norm, m->head_dim, m->norm_eps);
        if (cs) m->kern->rope(x, cs, m->n_rot / 2, m->arch->neox);
    }
}

/* The angles by which a layer turns its heads, whatever the place of its call in the program; NULL: it does not. */
static const float *layer_angles(const polar_model *m, const model_layer *y, const float *cs) {
    const int gap = m->arch->rope_gap, layer = (int)(y - m->layers);
    return gap && (layer + 1) % gap == 0 ? NULL : cs + m->local[layer] * m->n_rot;
}

/* Leaves of n spans what a layer sees: of a local one the last m->window positions. Returns their number. */
static int layer_window(const polar_model *m, int layer, kv_span *s, int n, int kv_f16) {
    int hidden = m->local[layer] ? -m->window : 0;
    for (int i = 0; i < n && m->local[layer]; i++) hidden += s[i].n;
    while (hidden > 0) {
        const int k = MIN(hidden, s->n);
        const size_t bytes = (size_t)(k * m->head_dim) * (kv_f16 ? 2 : 4);
        hidden -= k;
        s->k += bytes;
        s->v += bytes;
        if (!(s->n -= k)) memmove(s, s + 1, (size_t)--n * sizeof *s);
    }
    return n;
}

/* A row's key or value (n_head_kv * head_dim) to its place in a slot. */
static void kv_store(const engine *e, uint8_t *slot, const float *x, int at, int capacity) {
    const int n = e->model->head_dim, size = e->kv_f16 ? 2 : 4;
    for (int h = 0; h < e->model->n_head_kv; h++) {
        uint8_t *to = slot + ((size_t)h * (size_t)capacity + (size_t)at) * (size_t)(n * size);
        if (e->kv_f16) e->model->kern->to_f16(to, x + h * n, n);
        else wr_f32s(to, x + h * n, n); /* the kernels read slots as they read the file */
    }
}

/* Row r of call_qkv, behind the products. */
static void qkv_task(void *context, int r, int worker) {
    const layer_step *w = context;
    const engine *e = w->e;
    const polar_model *m = e->model;
    const call_row *row = &w->rows[r];
    const int dq = m->n_head * m->head_dim, dk = m->n_head_kv * m->head_dim;
    const float *cs = layer_angles(m, w->layer, row->cs);
    float *q = e->q + (size_t)r * (size_t)dq, *k = e->k + (size_t)r * (size_t)dk, *v = e->v + (size_t)r * (size_t)dk;
    (void)worker;
    heads_position(m, q, m->n_head, w->layer->q_norm, cs);
    heads_position(m, k, m->n_head_kv, w->layer->k_norm, cs);
    kv_store(e, row->k, k, row->at, row->capacity);
    kv_store(e, row->v, v, row->at, row->capacity);
}

/* q = W_q normed + b_q, (n_rows, n_head * head_dim); k and v likewise, (n_rows, n_head_kv * head_dim). Then rope for q
 * and k; k and v go to the slots of the rows. */
static void call_qkv(engine *e, const model_layer *y, const call_row *rows, int n_rows) {
    const product p[3] = {product_of(&y->q, &e->act_normed, n_rows, e->q),
                          product_of(&y->k, &e->act_normed, n_rows, e->k),
                          product_of(&y->v, &e->act_normed, n_rows, e->v)};
    layer_step w = {.e = e, .layer = y, .rows = rows};
    products_run(e, p, 3);
    step_run(&w, n_rows, qkv_task);
}

/* --- attention --- */

/* Up to four queries: heads of rows that read the same head of keys and values. */
typedef struct attention {
    const engine *e;
    const kv_span *spans[4];
    const float *q[4];
    float *out[4];
    int n_spans[4], n_scores[4];
    size_t kv_at; /* which head: number times head_dim times bytes */
    float *scores;
    size_t stride; /* of the scores of a query */
} attention;

/* Where the keys or values of a head begin in a span: (capacity, head_dim) numbers. */
static const uint8_t *span_head(const uint8_t *slot, const kv_span *s, size_t kv_at) {
    return slot + kv_at * (size_t)s->capacity;
}

/* Scores q k * attention_scale of query i for the spans from number `from` on. */
static void attention_scores(attention *a, int i, int from) {
    const engine *e = a->e;
    const int n = e->model->head_dim;
    float *scores = a->scores + (size_t)i * a->stride;
    for (int k = from; k < a->n_spans[i]; k++) {
        const kv_span *s = &a->spans[i][k];
        e->model->kern->scores(scores + a->n_scores[i], a->q[i], span_head(s->k, s, a->kv_at), s->n, n, e->kv_f16,
                               e->model->attention_scale);
        a->n_scores[i] += s->n;
    }
}

/* Adds the values of query i, each times its weight, less the first `done` positions. */
static void attention_values(const attention *a, int i, int done) {
    const engine *e = a->e;
    const float *p = a->scores + (size_t)i * a->stride;
    const int n = e->model->head_dim;
    for (int k = 0; k < a->n_spans[i]; k++) {
        const kv_span *s = &a->spans[i][k];
        const int skip = MIN(done, s->n);
        const uint8_t *v = span_head(s->v, s, a->kv_at) + (size_t)skip * (size_t)(n * (e->kv_f16 ? 2 : 4));
        e->model->kern->accumulate(a->out[i], p + skip, v, s->n - skip, n, e->kv_f16);
        done -= skip;
        p += s->n;
    }
}

/* The scores of four queries for their first span at once, if it is the same but for its end: keys that one of the four
 * does not see cost nothing but time. Returns how many positions all of them see, 0 if nothing was done. */
static int attention_first(attention *a, int n_queries) {
    const engine *e = a->e;
    const kv_span *s = a->spans[0];
    const int n = e->model->head_dim;
    int least = s->n, most = least;
    if (n_queries < 4) return 0;
    for (int i = 1; i < 4; i++) {
        if (a->spans[i]->k != s->k) return 0;
        least = MIN(least, a->spans[i]->n);
        most = MAX(most, a->spans[i]->n);
    }
    if (most - least > 4) return 0;
    e->model->kern->scores4(a->scores, a->stride, a->q, span_head(s->k, s, a->kv_at), most, n, e->kv_f16,
                            e->model->attention_scale);
    return least;
}

/* out = softmax(q K^T * attention_scale) V of each query, over all its spans as if they were one. The kernel's softmax
 * leaves exp(score - largest), whose sum divides the result at the end. */
static void attention_run(attention *a, int n_queries) {
    const engine *e = a->e;
    const kern *k = e->model->kern;
    const int n = e->model->head_dim, first = attention_first(a, n_queries);
    float sum[4];
    for (int i = 0; i < n_queries; i++) {
        a->n_scores[i] = first ? a->spans[i]->n : 0;
        attention_scores(a, i, first > 0);
        sum[i] = k->softmax(a->scores + (size_t)i * a->stride, a->n_scores[i]);
        memset(a->out[i], 0, (size_t)n * sizeof(float));
    }
    if (first)
        k->accumulate4(a->out, a->scores, a->stride, span_head(a->spans[0]->v, a->spans[0], a->kv_at), first, n,
                       e->kv_f16);
    for (int i = 0; i < n_queries; i++) {
        attention_values(a, i, first);
        vec_divide(a->out[i], sum[i], n);
    }
}

/* Task `index` is w->chunk queries of the heads that share head `kv` of keys and values, of four rows. */
static void attention_task(void *context, int index, int worker) {
    const layer_step *w = context;
    const engine *e = w->e;
    const polar_model *m = e->model;
    const int group = m->n_head / m->n_head_kv, kv = index / w->chunks % m->n_head_kv,
              row = index / w->chunks / m->n_head_kv * 4, rows = MIN(4, w->n_rows - row),
              from = index % w->chunks * w->chunk, n = MIN(w->chunk, rows * group - from);
    attention a;
    a.e = e;
    a.kv_at = (size_t)(kv * m->head_dim * (e->kv_f16 ? 2 : 4));
    a.stride = e->max_scores;
    a.scores = e->scores + (size_t)(worker * (m->kern->scores4 ? 4 : 1)) * a.stride;
    for (int i = 0; i < n; i++) {
        const int at_row = row + (from + i) / group, head = kv * group + (from + i) % group;
        const size_t at = (size_t)(at_row * m->n_head + head) * (size_t)m->head_dim;
        a.q[i] = w->q + at;
        a.out[i] = e->attended + at;
        a.spans[i] = w->rows[at_row].spans;
        a.n_spans[i] = w->rows[at_row].n_spans;
    }
    if (n > 0) attention_run(&a, n);
}

/* Row r of what attention gave, quantized for the product with W_o. */
static void attended_task(void *context, int r, int worker) {
    const layer_step *w = context;
    (void)worker;
    act_quantize(w->e->model->kern, &w->e->act_attended, w->forms, r, 0, w->e->act_attended.n);
}

/* attended = attention of every head, (n_rows, n_head * head_dim), in floats and quantized. Four queries at a time,
 * unless there are too few for all threads. */
static void call_attention(engine *e, const call_row *rows, const float *q, int n_rows, int forms) {
    const polar_model *m = e->model;
    layer_step w = {.e = e, .rows = rows, .q = q, .n_rows = n_rows, .forms = forms};
    w.chunk = m->kern->scores4 && n_rows * m->n_head >= 16 * e->runner.n_threads ? 4 : 1;
    w.chunks = (MIN(4, n_rows) * (m->n_head / m->n_head_kv) + w.chunk - 1) / w.chunk;
    parallel_for(&e->runner, (n_rows + 3) / 4 * m->n_head_kv * w.chunks, attention_task, &w);
    step_run(&w, n_rows, attended_task);
}

/* --- feed-forward --- */

/* gelu(z) = z/2 (1 + tanh(u)) = z / (1 + exp(-2u)), u = sqrt(2/pi) (z + 0.044715 z^3) */
static void geglu(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i++) {
        const float z = gate[i], u = fma32(0.044715f * z * z, z, z);
        gate[i] = z / (1.0f + exp32(-1.5957691216057308f * u)) * up[i];
    }
}

/* gate = silu(gate) * up with silu(g) = g / (1 + exp(-g)), or gelu, for a chunk of a row, quantized for the next
 * product. */
static void swiglu_task(void *context, int index, int worker) {
    const layer_step *w = context;
    const engine *e = w->e;
    const int r = index / w->chunks, from = index % w->chunks * w->chunk, count = MIN(w->chunk, w->n_ff - from);
    const size_t at = (size_t)r * (size_t)w->n_ff + (size_t)from;
    (void)worker;
    (e->model->arch->gelu ? geglu : e->model->kern->swiglu)(e->gate + at, e->up + at, count);
    act_quantize(e->model->kern, &e->act_gate, w->forms, r, from, count);
}

/* gate = silu(gate) * up, (n_rows, n_ff), in floats and quantized. */
static void call_swiglu(engine *e, int n_rows, int n_ff, int forms) {
    layer_step w = {.e = e, .forms = forms, .n_ff = n_ff, .chunk = 2048, .chunks = (n_ff + 2047) / 2048};
    e->act_gate.n = n_ff;
    if (n_rows >= 4 * e->runner.n_threads) step_run(&w, n_rows * w.chunks, swiglu_task);
    else parallel_for(&e->runner, n_rows * w.chunks, swiglu_task, &w);
}

/* y = W_down (silu(W_gate normed) * W_up normed), (n_rows, n_embd). */
static void feed_forward(engine *e, const matrix *gate, const matrix *up, const matrix *down, int n_rows, float *y) {
    const product p[2] = {product_of(gate, &e->act_normed, n_rows, e->gate),
                          product_of(up, &e->act_normed, n_rows, e->up)};
    products_run(e, p, 2);
    call_swiglu(e, n_rows, gate->rows, form_of(down));
    product_run(e, down, &e->act_gate, n_rows, y);
}

/* --- mixture of experts --- */

/* The matrix of one expert: experts lie one behind the other. */
static matrix matrix_expert(const matrix *m, int expert) {
    matrix x = *m;
    x.data += (size_t)expert * (size_t)m->rows * m->row_bytes;
    return x;
}

/* The n_expert_used most probable experts of a row, lowest number on ties, with their weights:
 * softmax over all experts, renormalized over the chosen ones only if the file says so. */
static void experts_choose(const polar_model *m, float *logits, expert_choice *chosen) {
    float sum = m->kern->softmax(logits, m->n_expert), total = 0;
    for (int i = 0; i < m->n_expert_used; i++) {
        int best = 0;
        for (int x = 1; x < m->n_expert; x++)
            if (logits[x] > logits[best]) best = x;
        chosen[i].expert = best;
        chosen[i].weight = logits[best] / sum;
        total += chosen[i].weight;
        logits[best] = -1; /* taken */
    }
    for (int i = 0; m->expert_norm && i < m->n_expert_used; i++) chosen[i].weight = chosen[i].weight / total;
}

/* Lists the entries (row, choice) expert by expert, so that an expert's weights are read once for all of its rows. */
static void experts_sort(engine *e, int n_rows) {
    const int used = e->model->n_expert_used, n = e->model->n_expert, total = n_rows * used;
    int *first = e->expert_first;
    memset(first, 0, (size_t)(n + 1) * sizeof *first);
    for (int i = 0; i < total; i++) first[e->chosen[i].expert + 1]++;
    for (int x = 0; x < n; x++) first[x + 1] += first[x];
    for (int i = 0; i < total; i++) {
        int entry = first[e->chosen[i].expert]++;
        e->entry_row[entry] = i / used;
        e->entry_of[i] = entry;
    }
    for (int x = n; x > 0; x--) first[x] = first[x - 1];
    first[0] = 0;
}

/* Adds to a list the products of every expert that has rows: input (activations) rows index[entry], output rows =
 * entries. Returns how many. */
static int experts_products(const engine *e, product *p, const matrix *m, const activations *a, const int *index,
                            float *y) {
    int n = 0;
    for (int x = 0; x < e->model->n_expert; x++) {
        const int first = e->expert_first[x], count = e->expert_first[x + 1] - first;
        const matrix w = matrix_expert(m, x);
        if (!count) continue;
        p[n] = product_of(&w, a, count, y + (size_t)first * (size_t)m->rows);
        p[n].index = index + first;
        n++;
    }
    return n;
}

/* out[r] = sum of weight * entry over the choices in their order + sigmoid(shared_gate[r]) * shared_out[r], the last
 * where there is a shared expert. */
static void experts_combine(const engine *e, int n_rows) {
    const polar_model *m = e->model;
    const size_t d = (size_t)m->n_embd;
    for (int r = 0; r < n_rows; r++) {
        float *out = e->out + (size_t)r * d;
        memset(out, 0, d * sizeof *out);
        for (int i = 0; i < m->n_expert_used; i++) {
            const int c = r * m->n_expert_used + i;
            m->kern->axpy(out, e->chosen[c].weight, e->entry_out + (size_t)e->entry_of[c] * d, m->n_embd);
        }
        if (m->arch->shared)
            m->kern->axpy(out, 1.0f / (1.0f + exp32(-e->shared_gate[r])), e->shared_out + (size_t)r * d, m->n_embd);
    }
}

/* out = the chosen experts of each row by their weights, and a shared expert behind its gate: (n_rows, n_embd). */
static void mixture(engine *e, const model_layer *y, int n_rows) {
    const polar_model *m = e->model;
    product *p = e->products;
    int n;
    product_run(e, &y->router, &e->act_normed, n_rows, e->router);
    for (int r = 0; r < n_rows; r++)
        experts_choose(m, e->router + (size_t)r * (size_t)m->n_expert,
                       e->chosen + (size_t)r * (size_t)m->n_expert_used);
    experts_sort(e, n_rows);
    n = experts_products(e, p, &y->gate_exps, &e->act_normed, e->entry_row, e->gate);
    n += experts_products(e, p + n, &y->up_exps, &e->act_normed, e->entry_row, e->up);
    products_run(e, p, n);
    call_swiglu(e, n_rows * m->n_expert_used, m->n_ff_exp, form_of(&y->down_exps));
    n = experts_products(e, p, &y->down_exps, &e->act_gate, e->entry_identity, e->entry_out);
    products_run(e, p, n);
    if (m->arch->shared) {
        feed_forward(e, &y->gate_shexp, &y->up_shexp, &y->down_shexp, n_rows, e->shared_out);
        product_run(e, &y->shared_gate, &e->act_normed, n_rows, e->shared_gate);
    }
    experts_combine(e, n_rows);
}

/* --- damped passes --- */

/* Behind call `call` of a row. Pass k = 0 .. K-1 of a damped segment g takes x_k to g(x_k), and what goes on is
 *     x_{k+1} = x_k + (g(x_k) - x_k) / K, and behind the last pass (g(x_0) + x_K) / 2,
 * each number by itself, in this order of operations. */
static void call_damp(const engine *e, int call, int r) {
    const int d = e->model->n_embd;
    const size_t at = (size_t)r * (size_t)d;
    float *g = e->hidden + at, *x = e->entered + at, *anchor = e->anchor + at;
    if (call < CALL_PASSES) return;
    if (call & CALL_ANCHOR) memcpy(anchor, g, (size_t)d * sizeof *g);
    e->model->kern->axpy(g, -1, x, d);
    vec_divide(g, (float)(call / CALL_PASSES), d);
    vec_add(g, x, d);
    if (!(call & CALL_END)) return;
    vec_add(g, anchor, d);
    vec_divide(g, 2, d);
}

/* --- the call --- */

/* Forms for the products with the normed rows before the feed-forward part. */
static int ffn_forms(const polar_model *m, const model_layer *y) {
    if (!m->arch->experts) return form_of(&y->gate) | form_of(&y->up);
    return form_of(&y->router) | form_of(&y->gate_exps) | form_of(&y->up_exps) |
           (m->arch->shared ? form_of(&y->gate_shexp) | form_of(&y->up_shexp) | form_of(&y->shared_gate) : 0);
}

/* A call as the call in front of it in the path, -1 for none, leaves it: a looped model norms the state behind its last
 * layer whenever another call follows. It is a part of that one, so that what stands behind a call does not depend on
 * what follows. */
static int call_behind(const polar_model *m, int before, int call) {
    return m->loop_norm && before >= 0 && before % CALL_PASS == m->n_layer - 1 ? call | CALL_NORM : call;
}

/* Takes hidden (n_rows, n_embd) through a layer. Rows before `from` only leave their keys and values; on return their
 * hidden states are undefined. */
static void call_layer(engine *e, int index, const call_row *rows, int n_rows, int from) {
    const polar_model *m = e->model;
    const model_layer *y = &m->layers[index];
    const int n = n_rows - from;
    float *hidden = e->hidden + (size_t)from * (size_t)m->n_embd;                       /* of the n rows that go on */
    const float *q = e->q + (size_t)from * (size_t)m->n_head * (size_t)m->head_dim;

    /* hidden = RMS norm of hidden, between the loops of a looped model */
    for (int r = 0; r < n_rows; r++)
        if (rows[r].call & CALL_NORM)
            m->kern->rms_norm(e->hidden + (size_t)(r * m->n_embd), e->hidden + (size_t)(r * m->n_embd), m->output_norm,
                              m->n_embd, m->norm_eps);
    /* entered = hidden, where a damped pass begins */
    for (int r = from; r < n_rows; r++)
        if (rows[r].call & CALL_PASS)
            memcpy(e->entered + (size_t)(r * m->n_embd), e->hidden + (size_t)(r * m->n_embd),
                   (size_t)m->n_embd * sizeof *hidden);
    /* normed = RMS norm of hidden */
    call_norm(e, e->hidden, n_rows, y->attn_norm, form_of(&y->q) | form_of(&y->k) | form_of(&y->v));
    /* q = rope(W_q normed), k = rope(W_k normed), v = W_v normed; k and v are kept in the slot of this call */
    call_qkv(e, y, rows, n_rows);
    /* attended = softmax(q K^T / sqrt(head_dim)) V, with the keys K and values V that each row sees */
    call_attention(e, rows + from, q, n, form_of(&y->o));
    /* out = W_o attended */
    product_run(e, &y->o, &e->act_attended, n, e->out);

    /* hidden += out; normed = RMS norm of hidden */
    call_add_norm(e, hidden, n, y->attn_out_norm, y->ffn_norm, ffn_forms(m, y));
    /* out = W_down (silu(W_gate normed) * W_up normed), or a mixture of such */
    if (m->arch->experts) mixture(e, y, n);
    else feed_forward(e, &y->gate, &y->up, &y->down, n, e->out);
    /* hidden += out */
    call_add_norm(e, hidden, n, y->ffn_out_norm, NULL, 0);
    /* hidden = entered + (hidden - entered) / K, where one of K damped passes ends */
    for (int r = from; r < n_rows; r++) call_damp(e, rows[r].call, r);
}

/* The embedding of a token, perhaps scaled, into row r of hidden. */
static void engine_embed_row(const engine *e, int32_t token, int r) {
    const polar_model *m = e->model;
    const float scale = sqrtf((float)m->n_embd);
    float *x = e->hidden + (size_t)r * (size_t)m->n_embd;
    quant_dequantize(m->embedding.type, m->embedding.data + (size_t)token * m->embedding.row_bytes, (size_t)m->n_embd,
                     x);
    for (int i = 0; m->arch->scaled && i < m->n_embd; i++) x[i] *= scale;
}

/* Embeddings of tokens into hidden. */
static void engine_embed(const engine *e, const int32_t *tokens, int n) {
    for (int r = 0; r < n; r++) engine_embed_row(e, tokens[r], r);
}

/* logits (n, n_vocab) = W_output RMS norm of n rows of hidden from row `from` on. */
static void engine_logits(engine *e, int from, int n, float *logits) {
    const polar_model *m = e->model;
    call_norm(e, e->hidden + (size_t)from * (size_t)m->n_embd, n, m->output_norm, form_of(&m->output));
    product_run(e, &m->output, &e->act_normed, n, logits);
}

/* ======================================================================================
 * [session] Key-value slots, evaluation
 *
 * A session is one block of memory: the slots of keys and values (one per call of the path), the work space of
 * the calls, tokens and logits. An evaluation either takes all its tokens or leaves the session as it was.
 *
 * Start reading at session_pass: it takes positions side by side through all calls of the path. In call j a position
 * attends to what call j left for the positions before it, so that running tokens one by one gives what running them
 * all at once would give. session_append cuts tokens into passes; what is public stands around these two.
 * Uses: [err] [mem] [thread] [model] [prog] [call].
 * ====================================================================================== */

enum {
    GEN_MAX_STOP = 512, /* bytes of a stop string */
    DRAW_BYTES = 16     /* scratch of draw_hot for each logit: two draw_item */
};

/* What a generation leaves for the next one that goes on from it: a token that was drawn but not evaluated yet, and the
 * end of the text that may begin a stop string or a character, of which n_given bytes were handed over. */
typedef struct gen_rest {
    int32_t token; /* -1: none */
    int goes_on;   /* nothing else was done with the session since */
    uint64_t seed, random;
    size_t n_held, n_given;
    char held[GEN_MAX_STOP + 4];
} gen_rest;

/* The program of the tokens from position `from` on, up to the next stretch. */
typedef struct session_stretch {
    int from, n_path;
    int *path;    /* (max_calls) */
    int same;     /* the first stretch with this path */
    int slot;     /* what it left for the call at hand, see session_slots */
} session_stretch;

struct polar_session {
    polar_allocator allocator;
    const polar_model *model;
    polar_session_options options; /* with defaults filled in */
    engine engine;
    polar_pool *pool;      /* own threads, unless a runner was given */
    session_stretch *stretches; /* (max_programs) n_stretches, in the order of tokens; the last is the present one */
    int n_stretches;
    int n_path;            /* calls of its path */
    int n_past;            /* tokens whose keys and values are in the slots */
    int n_prompt;          /* of them, those of the first evaluation: what shared mode calls the prompt */
    int n_kept;            /* positions, the last ones, whose logits are kept */
    int *path;             /* (n_path): stretches[n_stretches - 1].path */
    int *first_call;       /* (max_calls) index of the first call of the same layer */
    int32_t *tokens;       /* (n_ctx) */
    uint8_t *kv;           /* (n_slots, 2, n_head_kv, n_ctx, head_dim) */
    int n_slots;           /* one per call: max_calls; or one per layer */
    size_t slot_bytes;     /* of the keys, or of the values, of one call */
    call_row *rows;        /* (n_batch) */
    kv_span *spans;        /* (max(n_batch * max_programs, max_calls)) */
    float *logits;         /* (n_logits, n_vocab) */
    float *ahead;          /* (max_peek, n_embd) hidden states of the first n_ahead positions after layers */
    int32_t *ahead_tokens; /* 0 .. ahead_layers-1, whose keys and values are in the slots of the first calls */
    int n_ahead;           /* positions that a peek took through the first layers, less those overwritten since */
    int ahead_layers;      /* how many layers */
    int call;              /* in polar_sessions_decode: the next one */
    void *draw;            /* space of draw_hot */
    float *changed;        /* (n_vocab) logits as a draw sees them, where it does not see the model's own */
    gen_rest rest;         /* of a generation that may go on */
    void *block;
    size_t block_bytes;
};

/* Fills in defaults, in place, and checks what the model allows: a context of at most what it was trained for, a path
 * no longer than max_calls. */
static polar_status session_options(const polar_model *m, int n_path, polar_session_options *o, polar_error *e) {
    if (m->vocab_only) return fail(e, POLAR_ARGUMENT, "%s: opened for its vocabulary only", m->file.name);
    /* what is 0 stands for the defaults of polar.h */
    if (!o->n_ctx) o->n_ctx = MIN(4096, m->n_ctx_train);
    if (!o->n_batch) o->n_batch = 128;
    if (!o->n_logits) o->n_logits = 1;
    if (!o->max_calls) o->max_calls = n_path;
    if (!o->max_programs) o->max_programs = 2;
    if (o->n_threads <= 0) o->n_threads = polar_cpu_count();
    if (o->n_ctx < 1 || o->n_ctx > m->n_ctx_train)
        return fail(e, POLAR_ARGUMENT, "n_ctx is %d, the model was trained for 1..%d", o->n_ctx, m->n_ctx_train);
    if (o->n_batch < 1 || o->n_logits < 1 || o->max_peek < 0 || o->max_calls < n_path ||
        o->max_calls > POLAR_MAX_CALLS)
        return fail(e, POLAR_ARGUMENT,
                    "n_batch %d, n_logits %d, max_peek %d, max_calls %d with a path of %d calls: "
                    "expected >= 1, >= 1, >= 0, %d..%d",
                    o->n_batch, o->n_logits, o->max_peek, o->max_calls, n_path, n_path, POLAR_MAX_CALLS);
    if ((unsigned)o->kv_mode >= POLAR_N_KV_MODE || (unsigned)o->kv_type > POLAR_KV_F32 || o->max_programs < 1 ||
        o->max_programs > o->n_ctx + 1 || (o->runner && (!o->runner->run || o->runner->n_threads < 1)))
        return fail(e, POLAR_ARGUMENT, "kv_mode %d, kv_type %d, max_programs %d or a runner without function or "
                    "threads: no such thing", (int)o->kv_mode, (int)o->kv_type, o->max_programs);
    if (o->kv_mode == POLAR_KV_SHARED && m->window)
        return fail(e, POLAR_UNSUPPORTED, "%s: shared keys and values with layers that see a window only",
                    m->file.name);
    /* more than the context holds would be memory that nothing uses */
    o->n_batch = MIN(o->n_batch, o->n_ctx);
    o->n_logits = MIN(o->n_logits, o->n_batch);
    o->max_peek = MIN(o->max_peek, o->n_ctx);
    return POLAR_OK;
}

/* Measures or places everything that a session holds. Shared mode may see the entries of all calls of a layer at once,
 * so it needs that many scores. */
static void session_place(polar_session *s, layout *l) {
    const polar_session_options *o = &s->options;
    const polar_model *m = s->model;
    const size_t calls = (size_t)o->max_calls, n_ctx = (size_t)o->n_ctx, programs = (size_t)o->max_programs;
    size_t slot = 0;
    int *paths;
    /* the work space of a layer call, for n_batch rows side by side */
    s->engine.model = m;
    s->engine.kv_f16 = o->kv_type == POLAR_KV_F16;
    s->engine.max_rows = o->n_batch;
    s->engine.max_hidden = o->kv_mode == POLAR_KV_LAST ? o->n_ctx : o->n_batch;
    s->n_slots = o->kv_mode == POLAR_KV_LAST ? m->n_layer : o->max_calls;
    s->engine.max_scores = size_of(n_ctx, o->kv_mode == POLAR_KV_SHARED ? calls : 1);
    engine_place(&s->engine, l);
    /* the programs, and a path for each */
    s->stretches = layout_place(l, programs, sizeof *s->stretches);
    paths = layout_place(l, size_of(programs, calls), sizeof *paths);
    for (size_t i = 0; l->base && i < programs; i++) s->stretches[i].path = paths + i * calls;
    s->first_call = layout_place(l, calls, sizeof *s->first_call);
    /* tokens, what a pass shows to the layer calls, and what it leaves: logits, and hidden states of a peek */
    s->tokens = layout_place(l, n_ctx, sizeof *s->tokens);
    s->rows = layout_place(l, (size_t)o->n_batch, sizeof *s->rows);
    s->spans = layout_place(l, MAX(size_of((size_t)o->n_batch, programs), calls), sizeof *s->spans);
    s->logits = layout_place(l, size_of((size_t)o->n_logits, (size_t)m->n_vocab), sizeof *s->logits);
    s->ahead = layout_place(l, size_of((size_t)o->max_peek, (size_t)m->n_embd), sizeof *s->ahead);
    s->ahead_tokens = layout_place(l, (size_t)o->max_peek, sizeof *s->ahead_tokens);
    s->draw = layout_place(l, (size_t)m->n_vocab, DRAW_BYTES);
    s->changed = layout_place(l, (size_t)m->n_vocab, sizeof *s->changed);
    /* slots: by far the largest part; keys and values of n_ctx positions each */
    if (!mul_size(&slot, n_ctx, (size_t)(m->n_head_kv * m->head_dim) * (s->engine.kv_f16 ? 2 : 4)) ||
        !mul_size(&slot, slot, 2))
        l->overflow = 1;
    s->slot_bytes = slot / 2;
    s->kv = layout_place(l, (size_t)s->n_slots, slot);
}

/* A session that is only measured so far: its options are complete and block_bytes is known, but no pointer points
 * anywhere. This is all that polar_session_bytes needs, and what polar_session_create starts from. Fails if the options
 * are refused or the size is beyond the address space. */
static polar_status session_measure(polar_session *s, const polar_model *model, int n_path,
                                    const polar_session_options *options, polar_error *e) {
    layout l = layout_begin(NULL);
    polar_status status;
    memset(s, 0, sizeof *s);
    s->model = model;
    if (options) s->options = *options;
    status = session_options(model, n_path, &s->options, e);
    if (status) return status;
    s->engine.runner.n_threads = s->options.runner ? s->options.runner->n_threads : s->options.n_threads;
    session_place(s, &l);
    s->block_bytes = layout_bytes(&l);
    if (s->block_bytes) return POLAR_OK;
    return fail(e, POLAR_MEMORY, "out of memory: a session of %d tokens and %d calls is too large", s->options.n_ctx,
                s->options.max_calls);
}

/* The path of a program, of the model's own for NULL. */
static polar_status session_path_of(const polar_model *m, const polar_program *program, int *path, int *n,
                                    polar_error *e) {
    const polar_program standard = prog_standard(m);
    polar_status status;
    if (!program) program = &standard;
    if ((status = polar_program_validate(program, m->n_layer, e))) return status;
    *n = polar_program_calls(program, path, POLAR_MAX_CALLS);
    return POLAR_OK;
}

/* The session itself, its block, and the threads' pool. */
size_t polar_session_bytes(const polar_model *model, const polar_program *program,
                           const polar_session_options *options) {
    polar_session s;
    int path[POLAR_MAX_CALLS], n = 0;
    if (!model || model->vocab_only || session_path_of(model, program, path, &n, NULL) ||
        session_measure(&s, model, n, options, NULL))
        return 0;
    return sizeof s + s.block_bytes + (s.options.runner ? 0 : pool_bytes(MIN(s.options.n_threads, 256)));
}

/* The threads end before the memory goes that they work on. A session that is half made is freed, too. */
void polar_session_free(polar_session *session) {
    polar_allocator a;
    if (!session) return;
    a = session->allocator;
    polar_pool_free(session->pool);
    mem_free(&a, session->block, session->block_bytes);
    mem_free(&a, session, sizeof *session);
}

/* Measured first, so that one block holds everything and nothing is allocated later. Errors go through a local record,
 * since `error` may be NULL. */
polar_status polar_session_create(polar_session **out, const polar_model *model, const polar_program *program,
                                  const polar_session_options *options, polar_error *error) {
    polar_session measured, *s = NULL;
    polar_allocator a;
    polar_error local;
    layout l;
    int path[POLAR_MAX_CALLS], n = 1;
    err_clear(error);
    err_clear(&local);
    if (!out || !model) return fail(error, POLAR_ARGUMENT, "polar_session_create: out or model is NULL");
    *out = NULL;
    /* the size, which depends on path and options */
    if ((!model->vocab_only && session_path_of(model, program, path, &n, &local)) ||
        session_measure(&measured, model, n, options, &local)) goto failed;
    /* the struct, which holds what was measured */
    a = options && options->allocator ? mem_allocator(options->allocator) : model->allocator;
    if (!(s = mem_alloc(&a, sizeof *s, &local))) goto failed;
    *s = measured;
    s->allocator = a;
    /* the block, the threads, and everything in its place */
    if (!(s->block = mem_alloc(&a, s->block_bytes, &local))) goto failed;
    if (s->options.runner) s->engine.runner = *s->options.runner;
    else if (polar_pool_create(&s->pool, s->options.n_threads, &a, &local)) goto failed;
    else s->engine.runner = polar_pool_runner(s->pool);
    l = layout_begin(s->block);
    session_place(s, &l);
    engine_start(&s->engine);
    if (polar_session_set_path(s, path, n, &local)) goto failed;
    *out = s;
    return POLAR_OK;
failed:
    polar_session_free(s);
    if (error) *error = local;
    return local.status;
}

/* Did the tokens of a stretch run under this path? */
static int session_stretch_has(const session_stretch *t, const int *path, int n_path) {
    return t->n_path == n_path && !memcmp(t->path, path, (size_t)n_path * sizeof *path);
}

/* Makes a path the present one, as stretch number `index`, the last one, from position `from` on. first_call[i] is the
 * earliest call of the same layer, whose slot a prompt sees in shared mode. */
static void session_put_path(polar_session *s, int index, int from, const int *path, int n_path) {
    session_stretch *now = &s->stretches[index];
    memmove(now->path, path, (size_t)n_path * sizeof *path);
    now->from = from;
    now->n_path = s->n_path = n_path;
    s->path = now->path;
    /* for each call the first one of its layer, and for the stretch the first one with the same path: both end at i or
     * at the stretch itself, if not before */
    for (int i = 0; i < n_path; i++)
        for (s->first_call[i] = 0; (s->path[s->first_call[i]] - s->path[i]) % CALL_PASS;) s->first_call[i]++;
    for (now->same = 0; !session_stretch_has(&s->stretches[now->same], s->path, n_path);) now->same++;
    s->n_stretches = index + 1;
}

/* No tokens, no logits, and no generation that could go on. */
static void session_empty(polar_session *s) {
    session_put_path(s, 0, 0, s->path, s->n_path);
    s->n_past = s->n_prompt = s->n_kept = s->rest.goes_on = 0;
    s->rest.token = -1;
}

/* Refuses paths that the session cannot run. */
static polar_status session_check_path(const polar_session *s, const int *path, int n_path, polar_error *error) {
    if (!path || n_path < 1 || n_path > s->options.max_calls)
        return fail(error, POLAR_ARGUMENT, "a path of %d calls, the session holds 1..%d (max_calls)", n_path,
                    s->options.max_calls);
    return prog_check_calls(path, n_path, s->model->n_layer, error);
}

/* All is checked before anything changes. */
polar_status polar_session_set_path(polar_session *s, const int *path, int n_path, polar_error *error) {
    polar_status status;
    err_clear(error);
    if ((status = session_check_path(s, path, n_path, error))) return status;
    session_put_path(s, 0, 0, path, n_path);
    session_empty(s);
    return POLAR_OK;
}

/* The program's path, and the session is empty. */
polar_status polar_session_set_program(polar_session *s, const polar_program *program, polar_error *error) {
    int path[POLAR_MAX_CALLS], n;
    polar_status status;
    err_clear(error);
    if ((status = session_path_of(s->model, program, path, &n, error))) return status;
    return polar_session_set_path(s, path, n, error);
}

/* The last call of a layer in a stretch, -1 if it skips the layer. */
static int session_last_call(const session_stretch *t, int layer) {
    int c = t->n_path - 1;
    while (c >= 0 && t->path[c] % CALL_PASS != layer) c--;
    return c;
}

/* A stretch without tokens is replaced, and one that would go on under the program before it is joined with that. */
polar_status polar_session_change_program(polar_session *s, const polar_program *program, polar_error *error) {
    int path[POLAR_MAX_CALLS], n = 0, last = s->n_stretches - 1;
    polar_status status;
    err_clear(error);
    if ((status = session_path_of(s->model, program, path, &n, error)) ||
        (status = session_check_path(s, path, n, error))) return status;
    if (s->options.kv_mode == POLAR_KV_SHARED && s->n_past)
        return fail(error, POLAR_UNSUPPORTED, "with shared keys and values a session has one program");
    if (s->stretches[last].from == s->n_past) last--; /* no token ran under it */
    /* the tokens that stay must have left something in every layer that the program runs */
    for (int k = 0; k <= last; k++)
        for (int i = 0; i < n; i++)
            if (session_last_call(&s->stretches[k], path[i] % CALL_PASS) < 0)
                return fail(error, POLAR_MISMATCH, "the program runs layer %d, which the tokens from position %d on "
                            "skipped", path[i] % CALL_PASS, s->stretches[k].from);
    if (last >= 0 && session_stretch_has(&s->stretches[last], path, n)) last--;
    if (last + 1 == s->options.max_programs)
        return fail(error, POLAR_CONTEXT, "tokens under %d programs are held, as many as max_programs", last + 1);
    session_put_path(s, last + 1, last + 1 < s->n_stretches ? s->stretches[last + 1].from : s->n_past, path, n);
    if (s->n_past) s->n_ahead = 0;
    return POLAR_OK;
}

/* Span of n positions of a slot from position `from` on: the keys come first in it, then the values, each
 * (n_head_kv, n_ctx, head_dim). */
static kv_span session_span(const polar_session *s, int slot, int from, int n) {
    const size_t skip = (size_t)from * (size_t)s->model->head_dim * (s->engine.kv_f16 ? 2 : 4);
    const kv_span span = {s->kv + 2 * (size_t)slot * s->slot_bytes + skip,
                          s->kv + (2 * (size_t)slot + 1) * s->slot_bytes + skip, n, s->options.n_ctx};
    return span;
}

/* Finds the slots that call c of the present program reads: its own for tokens of the same program, and for those of
 * another that of their last call of the layer. Returns its own, which it writes; one per layer in POLAR_KV_LAST. */
static int session_slots(polar_session *s, int c) {
    const session_stretch *now = &s->stretches[s->n_stretches - 1];
    const int layer = s->path[c] % CALL_PASS, one = s->options.kv_mode == POLAR_KV_LAST, own = one ? layer : c;
    for (int k = 0; k < s->n_stretches; k++) {
        session_stretch *t = &s->stretches[k];
        t->slot = one || t->same == now->same ? own : session_last_call(t, layer);
    }
    return own;
}

/* What position `at` attends to in a call; written to spans. Slots side by side are one span. Shared mode reproduces
 * the code released with [P]: a prompt of more than one token sees only the layer's first call; afterwards a token sees
 * what all calls of the layer left for earlier positions, and for its own position the calls up to this one. */
static int session_visible(const polar_session *s, int call, int at, kv_span *spans) {
    int n = 0;
    if (s->options.kv_mode != POLAR_KV_SHARED) {
        /* one span for each stretch of tokens, up to the position itself */
        for (int k = 0; k < s->n_stretches; k++) {
            const session_stretch *t = &s->stretches[k];
            const int end = k + 1 < s->n_stretches ? t[1].from : at + 1;
            if (k && t->slot == t[-1].slot) spans[n - 1].n += end - t->from;
            else spans[n++] = session_span(s, t->slot, t->from, end - t->from);
        }
        return n;
    }
    /* shared: a position of the prompt, or a token behind it */
    if (s->n_prompt > 1 && at < s->n_prompt) {
        spans[0] = session_span(s, s->first_call[call], 0, at + 1);
        return 1;
    }
    /* the calls of the layer, first to last: the later ones have not been at this position yet */
    for (int c = s->first_call[call]; c < s->n_path; c++) {
        const int seen = c <= call ? at + 1 : at;
        if ((s->path[c] - s->path[call]) % CALL_PASS == 0 && seen) spans[n++] = session_span(s, c, 0, seen);
    }
    return n;
}

/* Position `at` in call c, which writes to a slot. What it attends to goes to *spans, which moves past it. */
static call_row session_row(const polar_session *s, int c, int slot, int at, const float *cs, kv_span **spans) {
    uint8_t *keys = s->kv + 2 * (size_t)slot * s->slot_bytes;
    const int seen = session_visible(s, c, at, *spans),
              count = layer_window(s->model, s->path[c] % CALL_PASS, *spans, seen, s->engine.kv_f16);
    const call_row row = {call_behind(s->model, c ? s->path[c - 1] : -1, s->path[c]), cs, keys, keys + s->slot_bytes,
                          at, s->options.n_ctx, *spans, count};
    *spans += count;
    return row;
}

/* Rows from .. from+n-1 of the pass at position `at`, of which the last `keep` are needed afterwards, through call c,
 * which writes to a slot. */
static void session_call(polar_session *s, int c, int slot, int at, int from, int n, int keep) {
    engine g = s->engine; /* but for the rows that it begins with */
    const size_t first = (size_t)from * (size_t)s->model->n_embd;
    kv_span *spans = s->spans;
    const float *cs = g.cs + (size_t)from * (size_t)s->model->n_angles;
    for (int r = 0; r < n; r++, cs += s->model->n_angles)
        s->rows[r] = session_row(s, c, slot, at + from + r, cs, &spans);
    g.hidden += first, g.entered += first, g.anchor += first;
    call_layer(&g, s->path[c] % CALL_PASS, s->rows, n, n - keep);
}

/* Shows the caller the hidden states of positions at .. at+n-1 behind a call of the path, -1: in front of the first. */
static polar_status session_tap(polar_session *s, int call, int at, int n, polar_error *e) {
    const polar_tap_info info = {call < 0 ? -1 : s->path[call] % CALL_PASS, call, s->n_path, at, n, s->model->n_embd,
                                 s->engine.hidden};
    if (s->options.tap && s->options.tap(s->options.tap_user, &info))
        return fail(e, POLAR_CANCELLED, "cancelled at layer %d, call %d of %d", info.layer, call, s->n_path);
    return POLAR_OK;
}

/* Positions at .. at+n-1 through the whole path, those below n_ahead from where a peek left them. Only the last
 * `keep` rows of hidden are needed afterwards. */
static polar_status session_pass(polar_session *s, int at, int n, int keep, polar_error *e) {
    engine *g = &s->engine;
    const int n_angles = s->model->n_angles, first = at < s->n_ahead ? s->ahead_layers : 0;
    const size_t width = (size_t)s->model->n_embd;
    polar_status status;
    /* the angles of each position, the same in all calls */
    for (int r = 0; r < n; r++) rope_angles(s->model, at + r, g->cs + (size_t)r * (size_t)n_angles);
    /* hidden = what the peek left, or the embeddings */
    if (first) memcpy(g->hidden, s->ahead + (size_t)at * width, (size_t)n * width * sizeof *g->hidden);
    else engine_embed(g, s->tokens + at, n);
    if (!first && (status = session_tap(s, -1, at, n, e))) return status;
    /* each call of the path: rows write into the slot of the call, and see what session_visible says */
    for (int c = first; c < s->n_path; c++) {
        const int slot = session_slots(s, c), needed = c + 1 == s->n_path && !s->options.tap ? keep : n;
        for (int from = 0, step; from < n; from += step) {
            step = MIN(n - from, s->options.n_batch);
            session_call(s, c, slot, at, from, step, MIN(step, MAX(0, needed - (n - from - step))));
        }
        if ((status = session_tap(s, c, at, n, e))) return status;
    }
    return POLAR_OK;
}

/* 1 if no number is infinite or NaN: their exponents, all ones, are the largest. */
static int session_finite(const float *x, int n) {
    uint32_t worst = 0;
    for (int i = 0; i < n; i++) worst = MAX(worst, f32_bits(x[i]) & 0x7fffffff);
    return worst < 0x7f800000;
}

/* How many of `left` positions from `at` on can go through the path side by side. Shared mode has calls look at what
 * later calls left for earlier positions: after the prompt, one token a pass. With one slot per layer, calls of a layer
 * that follow each other overwrite it: all positions are through a call before the next one. */
static int session_step(const polar_session *s, int at, int left) {
    const int prompt_left = s->n_prompt - at;
    if (at < s->n_ahead) left = MIN(left, s->n_ahead - at);
    if (s->options.kv_mode == POLAR_KV_LAST) return left;
    if (s->options.kv_mode == POLAR_KV_PER_CALL) return MIN(left, s->options.n_batch);
    return s->n_prompt > 1 && prompt_left > 0 ? MIN(MIN(left, prompt_left), s->options.n_batch) : 1;
}

/* Tokens that are to come behind `held` others. */
static polar_status session_check_tokens(const polar_session *s, const int32_t *tokens, int n, int held,
                                         const char *what, polar_error *e) {
    /* some, not too many, and each of them in the vocabulary */
    if (n < 1 || !tokens) return fail(e, POLAR_ARGUMENT, "%s: %d tokens", what, n);
    if (n > s->options.n_ctx - held)
        return fail(e, POLAR_CONTEXT, "%d tokens after %d held do not fit a context of %d", n, held,
                    s->options.n_ctx);
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= s->model->n_vocab)
            return fail(e, POLAR_ARGUMENT, "token %d at place %d is out of range, the vocabulary has 0..%d",
                        (int)tokens[i], i, s->model->n_vocab - 1);
    return POLAR_OK;
}

/* Before tokens at position `at` are run: what a peek left counts as far as tokens and program are the same. What is
 * past that will be overwritten. */
static void session_forget_ahead(polar_session *s, const int32_t *tokens, int at, int n) {
    int same = s->options.kv_mode == POLAR_KV_PER_CALL && s->n_path >= s->ahead_layers; /* begins with its layers */
    for (int c = 0; c < s->ahead_layers && same; c++) same = s->path[c] == c;
    if (!same) s->n_ahead = 0;
    for (int i = 0; i < n && at + i < s->n_ahead; i++)
        if (tokens[i] != s->ahead_tokens[at + i]) s->n_ahead = at + i;
}

/* Runs n tokens behind those that are held, pass by pass, and keeps the logits of the last `want`. Tokens count as held
 * only when all were run. Logits are lost by a failure only where new ones have taken their place. */
static polar_status session_append(polar_session *s, const int32_t *tokens, int n, polar_error *error) {
    const int vocab = s->model->n_vocab, want = MIN(n, s->options.n_logits), old_prompt = s->n_prompt;
    polar_status status;
    int kept = 0;
    session_forget_ahead(s, tokens, s->n_past, n);
    memmove(s->tokens + s->n_past, tokens, (size_t)n * sizeof *tokens);
    if (!s->n_past) s->n_prompt = n;
    for (int done = 0, step; done < n; done += step) {
        int keep; /* how many of the last rows of this pass are among the last `want` of all */
        step = session_step(s, s->n_past + done, n - done);
        keep = MAX(0, MIN(step, done + step - (n - want)));
        status = session_pass(s, s->n_past + done, step, keep, error);
        if (!status && keep) {
            float *logits = s->logits + (size_t)kept * (size_t)vocab;
            engine_logits(&s->engine, step - keep, keep, logits);
            for (int i = 0; i < keep && !status; i++, logits += vocab)
                if (!session_finite(logits, vocab))
                    status = fail(error, POLAR_NUMERIC, "the logits at position %d are not finite: broken weights?",
                                  s->n_past + done + step - keep + i);
            kept += keep;
            s->n_kept = 0;
        }
        if (status) { /* n_past has not moved, so slots and tokens behind it do not count */
            s->n_prompt = old_prompt;
            return status;
        }
    }
    /* only now do the tokens count as held */
    s->n_past += n;
    s->n_kept = kept;
    return POLAR_OK;
}

/* Evaluates the token that a generation left behind, if there is one. */
static polar_status session_catch_up(polar_session *s, polar_error *e) {
    const int32_t token = s->rest.token;
    polar_status status = token < 0 ? POLAR_OK : session_append(s, &token, 1, e);
    if (!status) s->rest.token = -1;
    return status;
}

/* A token that a generation left waiting comes first: the new ones stand behind it. */
polar_status polar_session_eval(polar_session *s, const int32_t *tokens, int n, polar_error *error) {
    polar_status status;
    err_clear(error);
    status = session_check_tokens(s, tokens, n, s->n_past + (s->rest.token >= 0), "polar_session_eval", error);
    if (status) return status;
    s->rest.goes_on = 0; /* what comes from outside ends a generation */
    if ((status = session_catch_up(s, error))) return status;
    return session_append(s, tokens, n, error);
}

/* --- several sessions ---
 *
 * A token of each, side by side. Each session goes through its own path; `call` is the one that it waits for, and its
 * hidden state is row 0 of its engine. A pass is for the lowest layer that any of them waits for, as in [many], so that
 * programs which are out of step meet again. The engine that runs it is that of the host, one of them. */

enum { SESSIONS_PART = DRAW_BYTES / (int)sizeof(float) }; /* logits that a draw's scratch holds, in vocabularies */

/* Is its next call one of this layer? */
static int session_waits(const polar_session *s, int layer) {
    return s->call < s->n_path && s->path[s->call] % CALL_PASS == layer;
}

/* Copies hidden states, and what damped passes keep of them, from row 0 of a session to a row of g, or back. */
static void sessions_copy(const polar_session *s, const engine *g, int row, int back) {
    const size_t width = (size_t)s->model->n_embd, at = (size_t)row * width;
    float *own[] = {s->engine.hidden, s->engine.entered, s->engine.anchor};
    float *there[] = {g->hidden + at, g->entered + at, g->anchor + at};
    for (int i = 0; i < COUNT(own); i++)
        memcpy(back ? own[i] : there[i], back ? there[i] : own[i], width * sizeof(float));
}

/* Takes the sessions that wait for a layer through their calls. The host's row stays where it is: others stand behind
 * it, and are a pass of their own if it does not wait for this layer. */
static polar_status sessions_call(polar_session *host, polar_session *const *sessions, int n, int layer,
                                  polar_error *e) {
    engine g = host->engine; /* but for the row that the call begins with */
    const int first = !session_waits(host, layer); /* row 0 of hidden is the host's, whether it takes part or not */
    const size_t skip = (size_t)first * (size_t)host->model->n_embd;
    polar_status status = POLAR_OK;
    int rows = 1; /* of hidden, that of the host among them */
    /* the host, i = -1, and the others: each row writes to a slot of its own session, and attends to that alone */
    for (int i = -1; i < n; i++) {
        polar_session *s = i < 0 ? host : sessions[i];
        kv_span *spans = s->spans;
        if (!session_waits(s, layer) || (i >= 0 && s == host)) continue;
        if (i >= 0) sessions_copy(s, &g, rows++, 0);
        host->rows[i < 0 ? 0 : rows - 1 - first] =
            session_row(s, s->call, session_slots(s, s->call), s->n_past, s->engine.cs, &spans);
    }
    g.hidden += skip, g.entered += skip, g.anchor += skip;
    call_layer(&g, layer, host->rows, rows - first, 0);
    /* the states go back, in the same order, and each session waits for its next call */
    rows = 1;
    for (int i = 0; i < n && !status; i++) {
        polar_session *s = sessions[i];
        if (!session_waits(s, layer)) continue;
        if (s != host) sessions_copy(s, &host->engine, rows++, 1);
        status = session_tap(s, s->call++, s->n_past, 1, e);
    }
    return status;
}

/* Logits of all sessions, the host's first. A part of the vocabulary after the other, since the numbers of one part for
 * all of them stand side by side at first, where draws have their scratch. */
static polar_status sessions_logits(polar_session *host, polar_session *const *sessions, int n, polar_error *e) {
    const polar_model *m = host->model;
    const engine *g = &host->engine;
    float *part = host->draw; /* (n, count) */
    const int most = (int)((int64_t)SESSIONS_PART * m->n_vocab / n); /* at least 1, see sessions_check */
    int row = 1;
    for (int i = 0; i < n; i++)
        if (sessions[i] != host) sessions_copy(sessions[i], g, row++, 0);
    /* logits = W RMS(x), with the bias if there is one; W by parts of its rows, which are tokens of the vocabulary */
    call_norm(&host->engine, g->hidden, n, m->output_norm, form_of(&m->output));
    for (int from = 0, count; from < m->n_vocab; from += count) {
        matrix x = m->output;
        x.rows = count = MIN(m->n_vocab - from, most >= KERN_ROWS ? most / KERN_ROWS * KERN_ROWS : most);
        x.data += (size_t)from * x.row_bytes;
        if (x.bias) x.bias += from;
        product_run(g, &x, &g->act_normed, n, part);
        row = 1;
        for (int i = 0; i < n; i++)
            memcpy(sessions[i]->logits + from, part + (size_t)(sessions[i] == host ? 0 : row++) * (size_t)count,
                   (size_t)count * sizeof *part);
    }
    /* what was kept is overwritten now, so it does not count if the session fails */
    for (int i = 0; i < n; i++) {
        sessions[i]->n_kept = 0;
        if (!session_finite(sessions[i]->logits, m->n_vocab))
            return fail(e, POLAR_NUMERIC, "session %d: the logits at position %d are not finite: broken weights?", i,
                        sessions[i]->n_past);
    }
    return POLAR_OK;
}

/* What the sessions have to have in common, and the host: the one with room for most scores. */
static polar_status sessions_check(polar_session *const *sessions, int n, const int32_t *tokens, polar_session **host,
                                   polar_error *e) {
    if (!sessions || n < 1 || !tokens) return fail(e, POLAR_ARGUMENT, "polar_sessions_decode: %d sessions", n);
    *host = sessions[0];
    for (int i = 0; i < n; i++) {
        polar_session *s = sessions[i];
        polar_status status;
        if (!s) return fail(e, POLAR_ARGUMENT, "polar_sessions_decode: session %d is NULL", i);
        /* sessions_logits wants place for a logit of each of them in what draws need */
        if ((n - 1) / SESSIONS_PART >= s->model->n_vocab)
            return fail(e, POLAR_ARGUMENT, "%d sessions are too many for a vocabulary of %d", n, s->model->n_vocab);
        if (s->model != sessions[0]->model || s->options.kv_type != sessions[0]->options.kv_type)
            return fail(e, POLAR_MISMATCH, "session %d has another model or kv_type than session 0", i);
        for (int k = 0; k < i; k++)
            if (s == sessions[k]) return fail(e, POLAR_ARGUMENT, "sessions %d and %d are the same", k, i);
        status = session_check_tokens(s, tokens + i, 1, s->n_past + (s->rest.token >= 0), "polar_sessions_decode", e);
        if (status) return status;
        if (s->options.n_batch < n)
            return fail(e, POLAR_ARGUMENT, "%d sessions, and session %d has n_batch %d", n, i, s->options.n_batch);
        if (s->engine.max_scores > (*host)->engine.max_scores) *host = s;
    }
    return POLAR_OK;
}

/* n_past moves when all is done, so a failure leaves every session as it was. */
polar_status polar_sessions_decode(polar_session *const *sessions, int n, const int32_t *tokens, polar_error *error) {
    polar_session *host = NULL;
    polar_status status;
    int left = n;
    err_clear(error);
    if ((status = sessions_check(sessions, n, tokens, &host, error))) return status;
    /* tokens that a generation left come first; then each session stands in front of its first call */
    for (int i = 0; i < n && !status; i++) {
        polar_session *s = sessions[i];
        s->rest.goes_on = 0;
        if ((status = session_catch_up(s, error))) break;
        /* what a peek left for this position is not used, but overwritten by the first calls */
        session_forget_ahead(s, tokens + i, s->n_past, 1);
        s->n_ahead = MIN(s->n_ahead, s->n_past);
        s->tokens[s->n_past] = tokens[i];
        if (!s->n_past) s->n_prompt = 1;
        s->call = 0;
        rope_angles(s->model, s->n_past, s->engine.cs);
        engine_embed(&s->engine, tokens + i, 1);
        status = session_tap(s, -1, s->n_past, 1, error);
    }
    /* the lowest layer that is waited for, again and again, until no session has a call left */
    while (left && !status) {
        int layer = INT_MAX;
        left = 0; /* sessions on their way */
        for (int i = 0; i < n; i++) {
            const polar_session *s = sessions[i];
            if (s->call == s->n_path) continue;
            layer = MIN(layer, s->path[s->call] % CALL_PASS);
            left++;
        }
        if (left) status = sessions_call(host, sessions, n, layer, error);
    }
    if (!status) status = sessions_logits(host, sessions, n, error);
    /* all advance, or none */
    for (int i = 0; i < n; i++) {
        polar_session *s = sessions[i];
        if (!status) s->n_past++, s->n_kept = 1;
        else if (!s->n_past) s->n_prompt = 0;
    }
    return status;
}

/* The rows of a peek, after the session was given the path of its layers. */
static polar_status session_run_ahead(polar_session *s, int n, polar_error *e) {
    const size_t width = (size_t)s->model->n_embd;
    polar_status status = POLAR_OK;
    for (int at = 0, step; at < n && !status; at += step) {
        step = MIN(n - at, s->options.n_batch); /* rows; all of them are kept */
        if ((status = session_pass(s, at, step, step, e))) break;
        memcpy(s->ahead + (size_t)at * width, s->engine.hidden, (size_t)step * width * sizeof *s->ahead);
    }
    return status;
}

/* The session gets the path 0 .. n_layers-1 for as long as the peek takes. Its calls have the numbers, and so the
 * slots, that the first calls of a program have which begins with these layers: their keys and values stay of use, and
 * the hidden states behind them are kept in `ahead`. session_forget_ahead decides later whether they may be used. */
polar_status polar_session_peek(polar_session *s, const int32_t *tokens, int n, int n_layers, float *hidden,
                                polar_error *error) {
    int path[POLAR_MAX_CALLS], first[POLAR_MAX_LAYER];
    const int n_path = s->n_path;
    polar_status status;
    err_clear(error);
    session_empty(s);
    s->n_ahead = 0;
    if ((status = session_check_tokens(s, tokens, n, 0, "polar_session_peek", error))) return status;
    if (n > s->options.max_peek || n_layers < 1 || n_layers > MIN(s->model->n_layer, s->options.max_calls))
        return fail(error, POLAR_ARGUMENT,
                    "a peek of %d tokens through %d layers: "
                    "the session was made for %d tokens (max_peek) and %d layers",
                    n, n_layers, s->options.max_peek, MIN(s->model->n_layer, s->options.max_calls));
    /* the layers' own path, and afterwards the session's again */
    memcpy(path, s->path, (size_t)n_path * sizeof *path);
    for (int i = 0; i < n_layers; i++) first[i] = i;
    polar_session_set_path(s, first, n_layers, NULL);
    s->n_prompt = n;
    memcpy(s->tokens, tokens, (size_t)n * sizeof *tokens);
    memcpy(s->ahead_tokens, tokens, (size_t)n * sizeof *tokens);
    status = session_run_ahead(s, n, error);
    polar_session_set_path(s, path, n_path, NULL);
    if (status) return status;
    /* what a later evaluation may go on from */
    s->n_ahead = n;
    s->ahead_layers = n_layers;
    if (hidden) memcpy(hidden, s->ahead, (size_t)n * (size_t)s->model->n_embd * sizeof *hidden);
    return POLAR_OK;
}

/* The kept ones are those of the last n_kept positions, in their order. */
float *polar_session_logits(polar_session *s, int back) {
    if (back < 0 || back >= s->n_kept) return NULL;
    return s->logits + (size_t)(s->n_kept - 1 - back) * (size_t)s->model->n_vocab;
}

/* A token that waits counts as held, unless there is no room for it. */
int polar_session_position(const polar_session *s) {
    return s->n_past + (s->rest.token >= 0 && s->n_past < s->options.n_ctx);
}

/* One that waits is among them, see polar_session_position. */
const int32_t *polar_session_tokens(const polar_session *s) {
    return s->tokens;
}

/* Slots need no change: what lies behind n_past is overwritten before it is read. Stretches of which no token is left
 * make place for the present one, which goes on from one that ran under its program. */
polar_status polar_session_truncate(polar_session *s, int n, polar_error *error) {
    err_clear(error);
    if (n < 0 || n > polar_session_position(s))
        return fail(error, POLAR_ARGUMENT, "truncate to %d tokens, %d are held", n, polar_session_position(s));
    if (n <= s->n_past) { /* else only a token that waits is kept waiting */
        int last = s->n_stretches - 1;
        int from = MIN(s->stretches[last].from, n); /* where the present program begins then */
        while (last > 0 && s->stretches[last - 1].from >= n) last--;
        if (last > 0 && session_stretch_has(&s->stretches[last - 1], s->path, s->n_path))
            from = s->stretches[--last].from;
        session_put_path(s, last, from, s->path, s->n_path);
        s->n_past = n;
        s->rest.token = -1;
    }
    s->n_kept = s->rest.goes_on = 0;
    return POLAR_OK;
}

/* Borrowed since creation. */
const polar_model *polar_session_model(const polar_session *s) {
    return s->model;
}

/* --- the state of a session ---
 *
 * As bytes, little-endian on every host:
 *
 *     "polarses"  u32 version  u32 kv_mode  u32 kv_type  u32 n_path  u32 n_past  u32 n_prompt  u32 n_kept
 *     u32 a token that was drawn but not run yet, plus 1, or 0
 *     u64 fingerprint of the model
 *     u32 path (n_path), u32 tokens (n_past), f32 logits (n_kept, n_vocab)
 *     for each call, or in POLAR_KV_LAST each layer that is in the path, ascending, keys, then values:
 *         (n_head_kv, n_past, head_dim) halves or floats
 *     u64 checksum of all bytes before it
 */

enum { STATE_VERSION = 1 };

/* Where the numbers of the head stand. */
enum {
    STATE_AT_VERSION = 8, STATE_AT_KV_MODE = 12, STATE_AT_KV_TYPE = 16, STATE_AT_N_PATH = 20, STATE_AT_N_PAST = 24,
    STATE_AT_N_PROMPT = 28, STATE_AT_N_KEPT = 32, STATE_AT_REST = 36, STATE_AT_MODEL = 40, STATE_HEAD = 48
};

/* Whether the present program writes to a slot. */
static int state_has_slot(const polar_session *s, int slot) {
    if (s->options.kv_mode != POLAR_KV_LAST) return slot < s->n_path;
    return session_last_call(&s->stretches[s->n_stretches - 1], slot) >= 0;
}

/* Bytes of a state that the session can hold: no product overflows, since an array of the session is larger. */
static size_t state_size(const polar_session *s, int n_past, int n_kept) {
    const size_t position = 2 * s->slot_bytes / (size_t)s->options.n_ctx; /* a key and a value of all heads */
    size_t slots = 0;
    for (int i = 0; i < s->n_slots; i++) slots += (size_t)state_has_slot(s, i);
    return STATE_HEAD + 4 * ((size_t)s->n_path + (size_t)n_past) +
           4 * (size_t)n_kept * (size_t)s->model->n_vocab + slots * (size_t)n_past * position + 8;
}

/* What a saved state counts. */
typedef struct state_counts {
    int n_past, n_prompt, n_kept;
    int rest; /* the token that waits, plus 1 */
} state_counts;

/* The bytes that a state of this session with such counts begins with: a saved one must have the same. */
static void state_head(const polar_session *s, const state_counts *n, uint8_t *head) {
    const int numbers[] = {STATE_VERSION, (int)s->options.kv_mode, (int)s->options.kv_type, s->n_path, n->n_past,
                           n->n_prompt, n->n_kept, n->rest};
    memcpy(head, "polarses", 8);
    for (int i = 0; i < COUNT(numbers); i++) wr_u32(head + STATE_AT_VERSION + 4 * i, (uint32_t)numbers[i]);
    wr_u64(head + STATE_AT_MODEL, polar_model_fingerprint(s->model));
}

/* Copies keys and values of the first n positions from the slots in use (bytes NULL in `from`) or into them.
 * Returns the number of bytes. */
static size_t state_kv(const polar_session *s, int n, uint8_t *to, const uint8_t *from) {
    const size_t heads = (size_t)s->model->n_head_kv, head = s->slot_bytes / heads,
                 used = head / (size_t)s->options.n_ctx * (size_t)n;
    size_t at = 0;
    for (size_t h = 0; h < 2 * (size_t)s->n_slots * heads; h++) {
        if (!state_has_slot(s, (int)(h / (2 * heads)))) continue;
        if (to) memcpy(to + at, s->kv + h * head, used);
        if (from) memcpy(s->kv + h * head, from + at, used);
        at += used;
    }
    return at;
}

/* The parts in the order of the drawing above. */
polar_status polar_session_save(const polar_session *s, void *state, size_t capacity, size_t *size,
                                polar_error *error) {
    const state_counts counts = {s ? s->n_past : 0, s ? s->n_prompt : 0, s ? s->n_kept : 0, s ? s->rest.token + 1 : 0};
    uint8_t *to = state;
    size_t at = STATE_HEAD;
    err_clear(error);
    if (!s || !size) return fail(error, POLAR_ARGUMENT, "polar_session_save: session or size is NULL");
    if (s->n_stretches > 1)
        return fail(error, POLAR_UNSUPPORTED, "the state of a session whose tokens ran under several programs");
    *size = state_size(s, s->n_past, s->n_kept);
    if (!state) return POLAR_OK;
    if (capacity < *size)
        return fail(error, POLAR_ARGUMENT, "the session's state has %zu bytes, there is room for %zu", *size, capacity);
    /* what is asked for with `state` NULL was the size only; now the bytes */
    state_head(s, &counts, to);
    for (int i = 0; i < s->n_path; i++, at += 4) wr_u32(to + at, (uint32_t)s->path[i]);
    for (int i = 0; i < s->n_past; i++, at += 4) wr_u32(to + at, (uint32_t)s->tokens[i]);
    wr_f32s(to + at, s->logits, s->n_kept * s->model->n_vocab);
    at += 4 * (size_t)s->n_kept * (size_t)s->model->n_vocab;
    at += state_kv(s, s->n_past, to + at, NULL);
    wr_u64(to + at, model_checksum_add(MODEL_CHECKSUM_START, to, at));
    return POLAR_OK;
}

/* Whether bytes are a state of this session, and what it counts. */
static polar_status state_check(const polar_session *s, const uint8_t *from, size_t size, state_counts *n,
                                polar_error *e) {
    uint8_t head[STATE_HEAD];
    if (size < STATE_HEAD || memcmp(from, "polarses", 8) || rd_u32(from + STATE_AT_VERSION) != STATE_VERSION)
        return fail(e, POLAR_FORMAT, "these %zu bytes are no saved session of this version", size);
    n->n_past = (int)(rd_u32(from + STATE_AT_N_PAST) & INT_MAX);
    n->n_prompt = (int)(rd_u32(from + STATE_AT_N_PROMPT) & INT_MAX);
    n->n_kept = (int)(rd_u32(from + STATE_AT_N_KEPT) & INT_MAX);
    n->rest = (int)(rd_u32(from + STATE_AT_REST) & INT_MAX);
    /* what this session would write with these counts: model, and modes with the length of the path */
    state_head(s, n, head);
    if (memcmp(from + STATE_AT_MODEL, head + STATE_AT_MODEL, 8))
        return fail(e, POLAR_MISMATCH, "the saved session is of another model");
    if (memcmp(from + STATE_AT_KV_MODE, head + STATE_AT_KV_MODE, STATE_AT_N_PAST - STATE_AT_KV_MODE))
        return fail(e, POLAR_MISMATCH,
                    "the saved session has another program or other keys and values: %d calls, kv_mode %d, kv_type %d",
                    (int)rd_u32(from + STATE_AT_N_PATH), (int)rd_u32(from + STATE_AT_KV_MODE),
                    (int)rd_u32(from + STATE_AT_KV_TYPE));
    if (n->n_past > s->options.n_ctx)
        return fail(e, POLAR_CONTEXT, "the saved session holds %d tokens, this one has room for %d", n->n_past,
                    s->options.n_ctx);
    if (n->n_kept > s->options.n_logits)
        return fail(e, POLAR_MISMATCH, "the saved session keeps %d logits, this one has room for %d", n->n_kept,
                    s->options.n_logits);
    /* counts that no session has, a changed byte, or a missing one */
    if (n->n_prompt > n->n_past || n->rest > s->model->n_vocab || memcmp(from, head, STATE_HEAD) ||
        size != state_size(s, n->n_past, n->n_kept) ||
        rd_u64(from + size - 8) != model_checksum_add(MODEL_CHECKSUM_START, from, size - 8))
        return fail(e, POLAR_FORMAT, "the saved session is damaged");
    /* the path is the same, and the tokens are some */
    for (int i = 0; i < s->n_path; i++)
        if (rd_u32(from + STATE_HEAD + 4 * i) != (uint32_t)s->path[i])
            return fail(e, POLAR_MISMATCH, "the saved session has another program: call %d is layer %d, here %d", i,
                        (int)rd_u32(from + STATE_HEAD + 4 * i), s->path[i]);
    for (int i = 0; i < n->n_past; i++)
        if (rd_u32(from + STATE_HEAD + 4 * (s->n_path + i)) >= (uint32_t)s->model->n_vocab)
            return fail(e, POLAR_FORMAT, "the saved session holds a token that the vocabulary has not");
    return POLAR_OK;
}

/* Nothing of the session changes before the whole state was found to be right. */
polar_status polar_session_load(polar_session *s, const void *state, size_t size, polar_error *error) {
    const uint8_t *from = state;
    state_counts n = {0, 0, 0, 0};
    size_t at = STATE_HEAD;
    polar_status status;
    err_clear(error);
    if (!s || !state) return fail(error, POLAR_ARGUMENT, "polar_session_load: session or state is NULL");
    if ((status = state_check(s, from, size, &n, error))) return status;
    /* the parts in the order of the drawing above; the path is the same already */
    session_empty(s);
    s->n_ahead = 0;
    s->n_past = n.n_past;
    s->n_prompt = n.n_prompt;
    s->n_kept = n.n_kept;
    at += 4 * (size_t)s->n_path;
    for (int i = 0; i < s->n_past; i++, at += 4) s->tokens[i] = (int32_t)rd_u32(from + at);
    for (int i = 0; i < s->n_kept * s->model->n_vocab; i++, at += 4) s->logits[i] = rd_f32(from + at);
    state_kv(s, s->n_past, NULL, from + at);
    s->rest.token = n.rest - 1;
    if (s->rest.token >= 0 && s->n_past < s->options.n_ctx) s->tokens[s->n_past] = s->rest.token;
    return POLAR_OK;
}

/* A session like `from`, made under the identity and then given its path, with copies of tokens, logits and slots. What
 * a peek left is not copied, since no result depends on it. */
polar_status polar_session_clone(polar_session **out, const polar_session *from, polar_error *error) {
    polar_session_options o;
    polar_program identity;
    polar_session *s;
    polar_status status;
    int n_slots = 0; /* in use */
    err_clear(error);
    if (!out || !from) return fail(error, POLAR_ARGUMENT, "polar_session_clone: out or session is NULL");
    *out = NULL;
    /* the same options, but what they pointed to may be gone: allocator and runner are those that were copied */
    o = from->options;
    o.allocator = &from->allocator;
    if (o.runner) o.runner = &from->engine.runner;
    o.max_calls = MAX(o.max_calls, from->model->n_layer); /* it begins under the identity */
    identity = polar_program_identity(from->model->n_layer);
    if ((status = polar_session_create(&s, from->model, &identity, &o, error))) return status;
    /* the programs of all tokens, and what their calls left in the slots */
    for (int k = 0; k < from->n_stretches; k++) {
        const session_stretch *t = &from->stretches[k];
        session_put_path(s, k, t->from, t->path, t->n_path);
        n_slots = o.kv_mode == POLAR_KV_LAST ? from->n_slots : MAX(n_slots, t->n_path);
    }
    memcpy(s->kv, from->kv, 2 * s->slot_bytes * (size_t)n_slots);
    /* tokens and logits, and a generation that may go on */
    s->n_past = from->n_past;
    s->n_prompt = from->n_prompt;
    s->n_kept = from->n_kept;
    s->rest = from->rest;
    memcpy(s->tokens, from->tokens, (size_t)polar_session_position(from) * sizeof *s->tokens);
    memcpy(s->logits, from->logits, (size_t)s->n_kept * (size_t)s->model->n_vocab * sizeof *s->logits);
    *out = s;
    return POLAR_OK;
}

/* The tokens are checked before the first is dropped. */
polar_status polar_session_sync(polar_session *s, const int32_t *tokens, int n, int *n_new, polar_error *error) {
    int same = 0;
    polar_status status;
    err_clear(error);
    if (n_new) *n_new = 0;
    if (!s || !tokens || n < 1) return fail(error, POLAR_ARGUMENT, "polar_session_sync: %d tokens", n);
    if (n > s->options.n_ctx)
        return fail(error, POLAR_CONTEXT, "%d tokens do not fit a context of %d", n, s->options.n_ctx);
    /* the beginning that both have in common stays, and nothing is run if that is all, with its logits */
    while (same < MIN(n, polar_session_position(s)) && s->tokens[same] == tokens[same]) same++;
    if (same == n && s->n_past == n && s->n_kept) return POLAR_OK;
    if (s->options.kv_mode == POLAR_KV_SHARED) same = 0; /* there the prompt's length decides who sees what */
    same = MIN(same, n - 1);                             /* the last one is run for its logits */
    if ((status = session_check_tokens(s, tokens + same, n - same, same, "polar_session_sync", error))) return status;
    polar_session_truncate(s, same, NULL);
    if (n_new) *n_new = n - MIN(same, s->n_past);
    return polar_session_eval(s, tokens + same, n - same, error);
}

/* --- embeddings */

/* Stands in for the session's tap, which is called first. */
typedef struct embed_state {
    polar_session *s;
    polar_tap tap;
    void *tap_user;
    polar_pooling pooling;
    int n;      /* tokens */
    float *sum; /* (n_embd) the embedding so far */
} embed_state;

/* Adds the rows behind the last call, normed, in the order of their positions: so no batch changes the sum. */
static int embed_tap(void *user, const polar_tap_info *info) {
    const embed_state *e = user;
    const polar_model *m = e->s->model;
    float *row = e->s->engine.normed;
    if (e->tap && e->tap(e->tap_user, info)) return 1;
    if (info->call + 1 < info->n_calls) return 0;
    for (int r = 0; r < info->n_rows; r++) {
        if (e->pooling == POLAR_POOLING_LAST && info->position + r + 1 < e->n) continue;
        m->kern->rms_norm(row, info->hidden + (size_t)r * (size_t)m->n_embd, m->output_norm, m->n_embd, m->norm_eps);
        for (int i = 0; i < m->n_embd; i++) e->sum[i] += row[i];
    }
    return 0;
}

/* e = sum of RMS(x_t; output_norm) over the tokens t that the pooling takes, divided by their number, and by its own
 * length if it is to be normalized. */
polar_status polar_session_embed(polar_session *s, const int32_t *tokens, int n, polar_pooling pooling, int normalize,
                                 float *embedding, polar_error *error) {
    embed_state e = {s, NULL, NULL, pooling, n, embedding};
    double squares = 0; /* a product of two floats is exact in it */
    float divisor = pooling == POLAR_POOLING_MEAN ? (float)n : 1;
    polar_status status;
    err_clear(error);
    if (!s || !embedding || (unsigned)pooling >= POLAR_N_POOLING)
        return fail(error, POLAR_ARGUMENT, "polar_session_embed: session or embedding is NULL, or pooling %d unknown",
                    (int)pooling);
    if ((status = session_check_tokens(s, tokens, n, 0, "polar_session_embed", error))) return status;
    session_empty(s);
    s->n_ahead = 0; /* all calls run, and the tap with them */
    memset(embedding, 0, (size_t)s->model->n_embd * sizeof *embedding);
    /* the tap adds the rows up while the tokens run */
    e.tap = s->options.tap;
    e.tap_user = s->options.tap_user;
    s->options.tap = embed_tap;
    s->options.tap_user = &e;
    status = session_append(s, tokens, n, error);
    s->options.tap = e.tap;
    s->options.tap_user = e.tap_user;
    if (status) return status;
    /* the mean, and its length */
    for (int i = 0; i < s->model->n_embd; i++) {
        embedding[i] = embedding[i] / divisor;
        squares += (double)embedding[i] * (double)embedding[i];
    }
    divisor = sqrtf((float)squares);
    for (int i = 0; i < s->model->n_embd && normalize && divisor > 0; i++) embedding[i] = embedding[i] / divisor;
    return POLAR_OK;
}

/* ======================================================================================
 * [gen] Sampling and generation
 *
 * Draws tokens from logits, and makes text of them. Promises: the same seed gives the same text everywhere; text leaves
 * in whole characters, and never a part of a stop string. Start reading at gen_run: it draws a token, gives its text
 * to gen_add, and evaluates it when the next one is wanted. Uses: [err] [num] [kern] [tok] [model] [session].
 * ====================================================================================== */

/* The largest logit, the lowest id of equals. */
static int draw_greedy(const float *logits, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* Is there a token to draw? No logit may be NaN or infinity; -infinity rules its token out. */
static int draw_possible(const float *logits, int n) {
    float max = -INFINITY;
    int ok = 1;
    for (int i = 0; i < n; i++) {
        ok &= logits[i] < INFINITY;
        max = MAX(max, logits[i]);
    }
    return ok && max > -INFINITY;
}

static int draw_penalizes(const polar_sampling *o) {
    return o->repetition_penalty > 0 && (o->repetition_penalty < 1 || o->repetition_penalty > 1);
}

/* The repetition penalty. `out` (n_vocab) is a copy of the logits, and changes at each token that the window has: once,
 * however often it is there, since what is written depends on the logits only. */
static void draw_penalize(const polar_sampling *o, const float *logits, const int32_t *tokens, int n, float *out) {
    const float penalty = o->repetition_penalty;
    for (int i = o->repetition_window > 0 ? MAX(n - o->repetition_window, 0) : 0; i < n; i++) {
        const float l = logits[tokens[i]];
        out[tokens[i]] = l > 0 ? l / penalty : l * penalty;
    }
}

/* A candidate: the bits of its probability, which order as the numbers do since none is negative. */
typedef struct draw_item {
    uint32_t bits;
    int32_t id;
} draw_item;

/* Sorts the likelier first, by 10 bits after the other from the lowest; equals keep their order. x has two halves of
 * `room`, and the one with the sorted items is returned. Probabilities are at most 1: their two highest bits are 0. */
static draw_item *draw_sort(draw_item *x, int n, int room) {
    draw_item *from = x, *to = x + room;
    int next[3][1024] = {{0}};
    for (int i = 0; i < n; i++) {
        next[0][x[i].bits & 1023]++;
        next[1][x[i].bits >> 10 & 1023]++;
        next[2][x[i].bits >> 20 & 1023]++;
    }
    for (int k = 0; k < 3; k++) {
        const int shift = 10 * k;
        int sum = n, *place = next[k];
        if (n && place[from->bits >> shift & 1023] == n) continue;
        for (int digit = 0; digit < 1024; digit++) place[digit] = sum -= place[digit];
        for (int i = 0; i < n; i++) to[place[from[i].bits >> shift & 1023]++] = from[i];
        to = from;
        from = from == x ? x + room : x;
    }
    return from;
}

/* The number of candidates that top_k and top_p keep, of n in order. They look at probabilities before temperature: of
 * the numbers in x, which sum to `sum`. */
static int draw_filter(const polar_sampling *o, const draw_item *x, int n, float sum) {
    float mass = 0;
    int kept = 0;
    if (o->top_k > 0) n = MIN(n, o->top_k);
    if (!(o->top_p > 0 && o->top_p < 1)) return n;
    for (; kept < n && (!kept || mass < o->top_p * sum); kept++) mass += bits_f32(x[kept].bits);
    return kept;
}

/* A draw with a temperature. The probabilities are behind the candidates, which are made of them: all but what min_p
 * drops and a logit of -infinity rules out. So there is always the likeliest, whose probability is e^0 = 1. One number
 * in [0, 1) finds the token in the row of the candidates: the likelier first where top_k or top_p have to know them,
 * and as in the vocabulary otherwise, since sorting takes longer than all the rest. */
static int draw_hot(const kern *k, const polar_sampling *o, const float *logits, int n, uint64_t *state,
                    draw_item *x) {
    const float least = MIN(o->min_p, 1);
    const int in_order = o->top_k > 0 || (o->top_p > 0 && o->top_p < 1);
    float *p = (float *)(void *)(x + n), sum, max = -INFINITY, total = 0, u;
    draw_item *sorted = x;
    int left = 0;
    memcpy(p, logits, (size_t)n * sizeof *p);
    sum = k->softmax(p, n);
    for (int i = 0; i < n; i++) {
        x[left].bits = f32_bits(p[i]);
        x[left].id = i;
        left += !(p[i] < least) && logits[i] > -INFINITY;
        max = MAX(max, logits[i]);
    }
    if (in_order) sorted = draw_sort(x, left, n);
    if (in_order) left = draw_filter(o, sorted, left, sum);
    p = (float *)(void *)(sorted == x ? x + n : x); /* e^((logit - max) / temperature): of those the largest is e^0 */
    for (int i = 0; i < n; i++) p[i] = (logits[i] - max) / o->temperature;
    k->softmax(p, n);
    for (int i = left; i-- > 0;) total += p[sorted[i].id];
    u = rng_float(state);
    u = u * total;
    for (int i = 0; i + 1 < left; i++) {
        u -= p[sorted[i].id];
        if (u < 0) return sorted[i].id;
    }
    return sorted[MAX(left - 1, 0)].id;
}

/* The scratch is that of draw_hot, and behind it the penalized logits. */
int polar_sample(const polar_sampling *sampling, const float *logits, int n, const int32_t *tokens, int n_tokens,
                 uint64_t *state, void *scratch, size_t size) {
    const int hot = sampling && sampling->temperature > 0, penalty = sampling && draw_penalizes(sampling);
    if (!logits || n < 1 || (hot && !state)) return -1;
    if ((hot || penalty) && (!scratch || size / POLAR_SAMPLE_BYTES < (size_t)n)) return -1;
    if (penalty) {
        float *changed = (float *)(void *)((char *)scratch + (size_t)n * DRAW_BYTES);
        for (int i = 0; i < n_tokens; i++)
            if (!tokens || tokens[i] < 0 || tokens[i] >= n) return -1;
        memcpy(changed, logits, (size_t)n * sizeof *changed);
        draw_penalize(sampling, logits, tokens, n_tokens, changed);
        logits = changed;
    }
    if (!draw_possible(logits, n)) return -1;
    return hot ? draw_hot(kern_find(POLAR_CPU_AUTO), sampling, logits, n, state, scratch) : draw_greedy(logits, n);
}

/* Text on its way out. `held` bytes wait because they may be the beginning of a stop string or of a character. The
 * first n_given of them were handed over by an earlier generation. */
enum { GEN_HELD = 4 * GEN_MAX_STOP };
typedef struct gen_text {
    const polar_generate_options *o;
    char *out;
    size_t capacity, length;
    size_t n_held, n_given;
    int stopped, cancelled;
    char held[GEN_HELD];
} gen_text;

/* Bytes that are final: to the caller's buffer, as far as there is room, and to on_text. */
static void gen_put(gen_text *t, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (t->out && t->length + i < t->capacity) t->out[t->length + i] = bytes[i];
    t->length += n;
    if (n && !t->cancelled && t->o->on_text && t->o->on_text(t->o->on_text_user, bytes, n)) t->cancelled = 1;
}

/* Hands over the first n held bytes: characters as they are, what is none as U+FFFD. */
static void gen_emit(gen_text *t, size_t n) {
    size_t from = t->n_given;
    for (size_t at = from; at < n && !t->o->raw_bytes;) {
        const size_t length = uni_length((uint8_t)t->held[at]);
        size_t part = 1;
        while (part < length && at + part < n && uni_well_formed((const uint8_t *)t->held + at, part + 1)) part++;
        if (part != length) {
            gen_put(t, t->held + from, at - from);
            gen_put(t, "\xef\xbf\xbd", 3);
            from = at + part;
        }
        at += part;
    }
    if (n > from) gen_put(t, t->held + from, n - from);
    t->n_given = MAX(t->n_given, n);
}

/* Forgets the first n held bytes. */
static void gen_drop(gen_text *t, size_t n) {
    t->n_held -= n;
    t->n_given -= n;
    memmove(t->held, t->held + n, t->n_held);
}

/* The end of a text, but that it may go on after a limit: the bytes that are held are no stop string, but perhaps part
 * of a character. */
static void gen_finish(gen_text *t, polar_stop stop) {
    const size_t whole = t->o->raw_bytes ? t->n_held : uni_complete_prefix((const uint8_t *)t->held, t->n_held);
    if (!t->stopped) gen_emit(t, stop == POLAR_STOP_LIMIT ? whole : t->n_held);
}

/* Length of the longest end of the held text that begins a stop string; sets stopped if it is a whole one. */
static size_t gen_stop_overlap(gen_text *t) {
    size_t longest = 0;
    for (const char *const *s = t->o->stop; s && *s; s++) {
        const size_t n = strlen(*s);
        for (size_t k = MIN(n, t->n_held); k > longest || (k && k == n); k--)
            if (!memcmp(t->held + t->n_held - k, *s, k)) {
                if (k == n) t->stopped = 1;
                longest = k;
                break;
            }
    }
    return longest;
}

/* Adds the bytes of a token. */
static void gen_add(gen_text *t, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t overlap;
        t->held[t->n_held++] = bytes[i];
        overlap = gen_stop_overlap(t);
        if (t->stopped) {
            t->n_held -= overlap;
            gen_emit(t, t->n_held);
            return;
        }
        if (i + 1 == n || t->n_held == GEN_HELD) {
            size_t ready = t->n_held - overlap;
            if (!t->o->raw_bytes) ready = uni_complete_prefix((const uint8_t *)t->held, ready);
            gen_emit(t, ready);
            gen_drop(t, ready);
        }
    }
}

/* An on_text of polar_generate_options that collects the text in the buf behind `user`. Without memory it ends the
 * generation; the caller looks at buf.failed. */
static MAYBE_UNUSED int gen_on_text(void *user, const char *text, size_t length) {
    buf *b = user;
    buf_put(b, text, length);
    return b->failed;
}

/* Natural logarithm of the probability of a token. */
static double gen_logprob(const polar_model *m, const float *logits, int token, float *scratch) {
    const float max = logits[draw_greedy(logits, m->n_vocab)];
    float sum;
    memcpy(scratch, logits, (size_t)m->n_vocab * sizeof *scratch);
    sum = m->kern->softmax(scratch, m->n_vocab);
    return (double)(logits[token] - max) - log64((double)sum);
}

/* Whether the token ends a generation. */
static int gen_is_stop_token(const polar_model *m, const polar_generate_options *o, int token) {
    for (int i = 0; i < o->n_stop_tokens; i++)
        if (o->stop_tokens[i] == token) return 1;
    return !o->ignore_end && tok_is_end(&m->vocab, token);
}

/* Refuses stop strings that are empty or too long. */
static polar_status gen_check_stop(const char *const *stop, polar_error *e) {
    for (; stop && *stop; stop++)
        if (!**stop || strlen(*stop) > GEN_MAX_STOP)
            return fail(e, POLAR_ARGUMENT, "a stop string has %zu bytes, expected 1..%d", strlen(*stop), GEN_MAX_STOP);
    return POLAR_OK;
}

/* Refuses options out of range, and to go on from nothing. */
static polar_status gen_check(const polar_session *s, const polar_generate_options *o, int n, polar_error *e) {
    polar_status status = gen_check_stop(o->stop, e);
    if (status) return status;
    if (n == 0 && !s->n_kept && s->rest.token < 0)
        return fail(e, POLAR_ARGUMENT, "nothing to go on from: no prompt and no logits");
    if (!(o->sampling.temperature >= 0) || !(o->sampling.top_p >= 0) || !(o->sampling.min_p >= 0) ||
        !(o->sampling.min_p <= 1))
        return fail(e, POLAR_ARGUMENT, "sampling: expected temperature >= 0, top_p >= 0, 0 <= min_p <= 1");
    if (!(o->sampling.repetition_penalty >= 0) || o->sampling.repetition_window < 0)
        return fail(e, POLAR_ARGUMENT, "sampling: expected repetition_penalty >= 0, repetition_window >= 0");
    return POLAR_OK;
}

/* Draws the next token. The logits that the penalty or the caller changes are a copy: those of the session stay. */
static polar_status gen_draw(polar_session *s, const polar_generate_options *o, uint64_t *random, int *token,
                             polar_error *e) {
    const polar_model *m = s->model;
    const float *logits = polar_session_logits(s, 0);
    float *changed = s->changed;
    if (draw_penalizes(&o->sampling) || o->on_logits) {
        memcpy(changed, logits, (size_t)m->n_vocab * sizeof *changed);
        if (draw_penalizes(&o->sampling)) draw_penalize(&o->sampling, logits, s->tokens, s->n_past, changed);
        if (o->on_logits && o->on_logits(o->on_logits_user, changed, m->n_vocab, s->tokens, s->n_past))
            return fail(e, POLAR_CANCELLED, "cancelled by on_logits at token %d", s->n_past);
        if (!draw_possible(changed, m->n_vocab))
            return fail(e, POLAR_NUMERIC, "no token can be drawn at position %d: after repetition_penalty and "
                        "on_logits a logit is NaN or infinity, or all are -infinity", s->n_past);
        logits = changed;
    }
    *token = o->sampling.temperature > 0 ? draw_hot(m->kern, &o->sampling, logits, m->n_vocab, random, s->draw)
                                         : draw_greedy(logits, m->n_vocab);
    return POLAR_OK;
}

/* --- prompt lookup ---
 *
 * A text often repeats what stands in front of it: quotes, names, code that is edited. Where its last tokens stood once
 * before, the tokens behind that place are a draft of what comes next. They are evaluated together with the token that
 * was drawn last, in one pass over the weights, and each is accepted if it is the one that is drawn, from the logits
 * that it would be drawn from without a draft. So no result depends on drafts, nor on how long they are.
 *
 * A draft of k tokens is worth its pass where the expected number of tokens, 1 + p_1 + p_1 p_2 + ..., grows by more
 * than the time: measured with AVX2 and AVX-512, 1 + k rows take about 1.2 + 0.3 k times as long as one. p_i is the
 * share of guesses after a match of that length that were right so far. Each token is guessed, drafted or not. */

enum {
    LOOKUP_LENGTH = 16, /* longer matches are not told apart, */
    LOOKUP_CLASSES = 4, /* and in what they are worth those from here on are not */
    LOOKUP_MEMORY = 32  /* guesses of a class, after which they count half */
};

typedef struct gen_lookup {
    int most;       /* tokens of a draft; 0: none */
    int n_draft;    /* tokens from the session's n_past on that are evaluated: */
    int row;        /* the logits in front of them are in this row of the session's, and those that follow */
    int at, length; /* tokens[at] is the guess, behind the last `length` tokens; without any if that is 0 */
    double right[LOOKUP_CLASSES], guesses[LOOKUP_CLASSES]; /* after matches of 1, 2, 3, and more tokens */
    double cost;    /* of a row of a draft */
} gen_lookup;

/* Finds the longest end of n tokens that they hold once more, of equal ones the last. */
static void lookup_find(gen_lookup *l, const int32_t *tokens, int n) {
    l->length = 0;
    for (int at = n - 1; at > 0 && l->length < LOOKUP_LENGTH; at--) {
        int same = 0;
        while (same < MIN(at, LOOKUP_LENGTH) && tokens[at - 1 - same] == tokens[n - 1 - same]) same++;
        if (same > l->length) l->length = same, l->at = at;
    }
}

/* Drafts need a session that keeps their logits, and whose calls give tokens side by side what they give one by one.
 * Without kernels for many rows, and with experts, which read weights of their own for each row, there is less to gain.
 * The first guesses are made up; they count as four of each class. */
static void lookup_begin(gen_lookup *l, const polar_session *s, const polar_generate_options *o) {
    static const double chance[LOOKUP_CLASSES] = {0.1, 0.4, 0.65, 0.85};
    memset(l, 0, sizeof *l);
    if (s->options.kv_mode == POLAR_KV_PER_CALL) l->most = MIN(o->lookup, s->options.n_logits - 1);
    l->cost = !s->model->kern->set || s->model->n_expert ? 0.8 : 0.3;
    for (int c = 0; c < LOOKUP_CLASSES; c++) l->guesses[c] = 4, l->right[c] = 4 * chance[c];
    if (l->most > 0) lookup_find(l, s->tokens, polar_session_position(s));
}

/* How many tokens to draft, `most` at most: those that give most tokens for the time. It has to be a quarter more,
 * since guesses about fresh text are few, and their share of right ones is not known well. */
static int lookup_draft(const gen_lookup *l, int most) {
    double chance = 1, tokens = 1, cost = 1.2, best = 1.25;
    int n = 0;
    for (int k = 1; k <= most && l->length; k++) {
        const int c = MIN(l->length + k - 1, LOOKUP_CLASSES) - 1;
        chance *= l->right[c] / l->guesses[c];
        tokens += chance;
        cost += l->cost;
        if (tokens / cost > best) best = tokens / cost, n = k;
    }
    return n;
}

/* Behind a draw, before the token takes its place: was the guess right, and is the draft? */
static void lookup_compare(gen_lookup *l, const polar_session *s, int token) {
    const int c = MIN(l->length, LOOKUP_CLASSES) - 1;
    if (l->n_draft && s->tokens[s->n_past] != token) l->n_draft = 0;
    if (c < 0) return;
    l->right[c] += s->tokens[l->at] == token;
    if (++l->guesses[c] > LOOKUP_MEMORY) l->right[c] /= 2, l->guesses[c] /= 2;
}

/* Evaluates the token that was drawn last, and with it a draft of those that follow, fewer than the `left` that may be
 * drawn. If the token was in a draft itself, its logits only take their place. */
static polar_status gen_catch_up(polar_session *s, gen_lookup *l, int left, polar_result *r, polar_error *e) {
    const int k = lookup_draft(l, MIN(l->most, MIN(left, s->options.n_ctx - s->n_past) - 1));
    const size_t vocab = (size_t)s->model->n_vocab;
    polar_status status;
    if (s->rest.token >= 0 && l->n_draft) {
        memcpy(s->logits, s->logits + (size_t)l->row++ * vocab, vocab * sizeof *s->logits);
        l->n_draft--;
        r->n_accepted++;
        s->n_past++;
        s->rest.token = -1;
    }
    if (s->rest.token < 0 || !k) return session_catch_up(s, e);
    for (int i = 1; i <= k; i++) s->tokens[s->n_past + i] = s->tokens[l->at + i - 1];
    status = session_append(s, s->tokens + s->n_past, 1 + k, e);
    if (status == POLAR_NUMERIC) { /* perhaps behind a token that is never drawn */
        err_clear(e);
        return session_catch_up(s, e);
    }
    if (status) return status;
    s->rest.token = -1;
    s->n_past -= k;
    s->n_kept = 1;
    l->row = 1;
    l->n_draft = k;
    r->n_drafted += k;
    return POLAR_OK;
}

/* Draws tokens and evaluates all but the last until there is a reason to stop. */
static polar_status gen_run(polar_session *s, const polar_generate_options *o, uint64_t *random, gen_text *t,
                            polar_result *r, polar_error *e) {
    const polar_model *m = s->model;
    const int limit = o->max_tokens > 0 ? o->max_tokens : 256;
    gen_lookup lookup;
    lookup_begin(&lookup, s, o);
    for (;;) {
        const uint64_t before = *random;
        size_t length;
        int token = -1;
        const char *bytes;
        polar_status status;
        r->stop = POLAR_STOP_LIMIT;
        if (r->n_generated == limit) return POLAR_OK;
        r->stop = POLAR_STOP_CONTEXT;
        if (s->rest.token >= 0 && s->n_past == s->options.n_ctx) return POLAR_OK;
        if ((status = gen_catch_up(s, &lookup, limit - r->n_generated, r, e))) return status;
        if ((status = gen_draw(s, o, random, &token, e))) return status;
        if (gen_is_stop_token(m, o, token)) { /* it is no part of the text: whoever goes on draws it again */
            r->stop = POLAR_STOP_END;
            *random = before;
            return POLAR_OK;
        }
        if (lookup.most > 0) lookup_compare(&lookup, s, token);
        s->rest.token = token;
        if (s->n_past < s->options.n_ctx) s->tokens[s->n_past] = s->rest.token;
        if (lookup.most > 0) lookup_find(&lookup, s->tokens, polar_session_position(s));
        r->logprob += gen_logprob(m, polar_session_logits(s, 0), token, s->draw);
        if (o->tokens && r->n_generated < o->token_capacity) o->tokens[r->n_generated] = s->rest.token;
        r->n_generated++;
        bytes = tok_text(&m->vocab, s->rest.token, &length);
        gen_add(t, bytes, length);
        r->stop = POLAR_STOP_STRING;
        if (t->stopped) return POLAR_OK;
        if (t->cancelled) return fail(e, POLAR_CANCELLED, "cancelled after %d tokens", r->n_generated);
    }
}

polar_status polar_session_generate(polar_session *s, const int32_t *prompt, int n,
                                    const polar_generate_options *options, char *text, size_t capacity,
                                    polar_result *result, polar_error *error) {
    const polar_generate_options standard = {0}, *o = options ? options : &standard;
    gen_rest *rest = &s->rest;
    gen_text t;
    polar_result r;
    uint64_t random = o->sampling.seed;
    polar_status status;
    err_clear(error);
    memset(&r, 0, sizeof r);
    memset(&t, 0, sizeof t);
    t.o = o;
    t.out = text;
    t.capacity = capacity;
    if ((status = gen_check(s, o, n, error))) return status;
    if (n && (status = polar_session_eval(s, prompt, n, error))) return status;
    if (o->program && (status = polar_session_change_program(s, o->program, error))) return status;
    if (rest->goes_on && rest->seed == o->sampling.seed) {
        random = rest->random;
        t.n_held = rest->n_held;
        t.n_given = rest->n_given;
        memcpy(t.held, rest->held, t.n_held);
    }
    r.n_prompt = n;
    r.n_calls = s->n_path;
    status = gen_run(s, o, &random, &t, &r, error);
    if (!status) gen_finish(&t, r.stop);
    if (!status && t.cancelled) status = fail(error, POLAR_CANCELLED, "cancelled after %d tokens", r.n_generated);
    if (t.stopped || (!status && r.stop != POLAR_STOP_LIMIT)) t.n_held = t.n_given = 0;
    if (status) r.stop = POLAR_STOP_LIMIT; /* nothing else ended it */
    rest->goes_on = 1;
    rest->seed = o->sampling.seed;
    rest->random = random;
    rest->n_held = t.n_held;
    rest->n_given = t.n_given;
    memcpy(rest->held, t.held, t.n_held);
    if (text && t.length < capacity) text[t.length] = 0;
    r.length = t.length;
    if (result) *result = r;
    return status;
}

/* ======================================================================================
 * [many] Many programs on one prompt
 *
 * Greedy answers of many paths after the same prompt. Every answer has the bits that its path gives alone in a fresh
 * session, by polar_session_generate: that is the definition, and this section only saves work, in three ways that can
 * be switched off one by one:
 * - share: paths form a trie, and a node is a prefix of paths. What the prompt's positions come to behind the calls of
 *   a node is the same for all paths with that prefix, so it is computed once and kept in blocks of memory, of which
 *   the least recently used ones are dropped when there are too many.
 * - batch: all programs that wait for the same layer go through it in one pass over its weights. The next pass is
 *   always for the lowest layer that any program waits for, so that programs which are out of step because of their
 *   skips and repeats meet again behind them.
 * - draft: expected answers and answers already found form a second trie, the draft tree. Its likely tokens are
 *   evaluated next to the prompt, or next to the token generated last. A draft token that turns out to be the
 *   likeliest one is accepted with the logits behind it, and needs no step of its own (speculative decoding; exact,
 *   since greedy decoding accepts a token only if it would have generated it).
 * None of this changes a number, since the result of a row does not depend on the rows beside it ([call]).
 *
 * Start reading at many_run_step, the loop's body, and follow one program through it:
 *     many_run_admit      it begins as soon as there is memory for it; many_program_start says what it has to compute
 *     many_run_layer      many_program_advance moves every program past the calls that others have computed for it
 *     many_pass           rows of all programs that wait for the lowest layer are collected and go through it
 *     many_run_read       programs behind their last call get logits; many_program_read accepts tokens, and
 *                         many_rows_next begins the next round of rows, or the program ends
 *     many_run_report     results that can have no earlier ones before them any more are handed out
 * Paths may come as a stream: new ones begin while others generate, whose few rows then share the passes of the new
 * ones' prompts. The order of reports depends on answers and on nothing else, since what the caller proposes next may
 * depend on it: many_run_report defines it.
 * Uses: [err] [mem] [num] [thread] [kern] [uni] [tok] [model] [call] [session] [gen].
 * ====================================================================================== */
#ifndef POLAR_NO_SEARCH

enum {
    MANY_ROWS = 256,       /* rows that go through a layer together */
    MANY_PLAIN_ROWS = 128, /* without batching: as many as a session takes together */
    MANY_OUTPUTS = 64,     /* rows that go through the output matrix together */
    MANY_FLIGHT = 256,     /* programs that run at a time */
    MANY_CELLS = 64,       /* draft tokens whose rows belong to the nodes: one bit of many_node.cells each */
    MANY_CHAIN = 16        /* rows of a program's own for draft tokens behind its next token */
};
#define MANY_MIN_CHANCE 0.4 /* a draft token less likely than this is not evaluated, */
#define MANY_MIN_SHARE  0.2 /* nor a given one to which a smaller share of the answers went */

/* The kinds of memory that a node may hold. KV: keys and values of the prompt's positions in the node's call. HIDDEN:
 * the hidden states of the prompt's positions behind that call, from which the next call starts. TAIL: both of these
 * for draft tokens behind the prompt, one cell for each. */
typedef enum many_kind { MANY_KV, MANY_HIDDEN, MANY_TAIL, MANY_N_KINDS } many_kind;

struct many_node;
/* A piece of a node's memory. All blocks form one list by last use, from many->newest to many->oldest. `capacity` is
 * the number of rows: n_prompt, or the number of cells. */
typedef struct many_block {
    struct many_block *newer, *older;
    struct many_node *node;
    many_kind kind;
    int capacity;
    uint8_t *k, *v; /* (n_head_kv, capacity, head_dim) in KV and TAIL, else NULL */
    float *hidden;  /* (capacity, node->width) behind the node's call in HIDDEN and TAIL, else NULL */
    void *memory;   /* what was allocated: this struct comes first, the arrays follow */
    size_t bytes;   /* of it */
} many_block;

/* The result of a program. Tokens and text follow the struct in the same memory; all are kept until the next prompt,
 * in a list. */
typedef struct many_answer {
    struct many_answer *next;
    size_t bytes;
    polar_many_result result;
} many_answer;

/* A prefix of paths. Its last call is `call`; the root is the empty prefix and executes nothing. */
typedef struct many_node {
    struct many_node *parent, *child, *sibling; /* the first child; the next one with the same parent */
    int call;
    int width;        /* floats of a hidden state behind it: n_embd, and inside of a damped segment 3 n_embd, since the
                         rows of engine.entered and engine.anchor follow */
    int n_users;      /* running programs with this prefix: KV and TAIL stay as long as there are some */
    int n_pins;       /* programs that read or write its hidden states at present: HIDDEN stays */
    int n_kv;         /* positions of the prompt whose keys and values are in the KV block, 0..n_prompt */
    int n_hidden;     /* the same for the hidden states in the HIDDEN block */
    int64_t pass;     /* number of the last pass that computed positions of the prompt here */
    uint64_t cells;   /* bit c: cell c of the TAIL block is computed */
    int was_computed; /* its KV block existed before, so making it again counts as a recomputation */
    many_block *blocks[MANY_N_KINDS];
    many_answer *answer; /* of the path that ends here, if it has run */
} many_node;

/* A node of the draft tree: a token that follows those of its ancestors in some expected or found answer. Links are
 * indexes into many->drafts. Number 0 is the root, which stands for the end of the prompt, so a link of 0 is none. */
typedef struct many_draft {
    int32_t token;
    int parent, child, sibling; /* the first child; the next one with the same parent */
    int depth;                  /* tokens from the prompt to this one, itself included; 0 for the root */
    int weight;                 /* answers that came through here; an expected one counts twice */
    int given;                  /* 1: by polar_many_draft */
    int cell;                   /* where the nodes keep its row; -1: nowhere */
} many_draft;

/* A position that a program evaluates in the present round: the prompt's last one, the token generated last, or a
 * draft token. Rows form a tree, parents first. A row with a cell has its keys, values and hidden state in the TAIL
 * blocks of the nodes, shared with other programs; one without has them in the program's own memory. */
typedef struct many_row {
    int32_t token;  /* -1: the prompt's last position, which the node's KV and HIDDEN blocks hold */
    int parent;     /* number of the row before it; -1: it follows what is accepted */
    int depth;      /* tokens from the prompt to this one, itself included */
    int draft;      /* number of its draft token; -1: none */
    int cell;       /* -1: none */
    int hidden;     /* without a cell: row of many_program.hidden */
    int n_done;     /* without a cell: calls of the path that it is through */
    int has_logits; /* 1: the following two are known */
    int32_t best;   /* likeliest next token; -1 if a logit is not finite */
    double logprob; /* natural logarithm of the probability of `best`, or of the token that is scored */
} many_row;

/* A program that runs. A round begins with some rows, takes them through all calls of the path, and ends with logits.
 */
typedef struct many_program {
    polar_path path;
    int job;           /* number of its job */
    many_node **nodes; /* (path.n): of the prefixes of the path */
    int call;          /* index of the next call; path.n: the rows wait for logits */
    int prompt_from;   /* the first call that the prompt still has to go through; path.n when it is through */
    int has_last;      /* 1: row 0 of `hidden` is the prompt's last position behind the last call */
    int pinned;        /* the hidden states of nodes pinned - 1 and pinned stay in memory; -1: of none */
    many_row *rows;    /* (max_rows): those of the present round */
    int n_rows, max_rows;
    int row;          /* the row whose logits give the next token */
    int eager;        /* 0: only that row's logits are wanted; 1: also those of all rows behind it */
    int16_t *cell_of; /* (n_slots + 1): cell of the accepted token of each depth; -1: it is in the program's own kv */
    int32_t *tokens;  /* (n_slots + 1): tokens generated so far, n_tokens of them; the last is not evaluated */
    int n_tokens;
    int n_slots;           /* tokens that may be evaluated behind the prompt */
    int draft;             /* where in the draft tree the generated tokens lead; -1: nowhere */
    const int32_t *forced; /* (n_forced): tokens to score instead of generating; NULL: generate */
    int n_forced;
    int width;     /* the largest of its nodes */
    float *hidden; /* (own rows, width): of the prompt's last position, and of rows without a cell */
    uint8_t *kv;   /* (path.n, 2, n_head_kv, n_slots, head_dim): of rows without a cell; NULL until there is one */
    size_t kv_bytes;
    size_t reserved; /* bytes it may come to need for itself, counted in many->reserved */
    gen_text text;   /* its text on the way to `bytes` */
    polar_generate_options generate;
    buf bytes;      /* the text of the answer */
    double logprob; /* sum over the tokens */
    polar_stop stop;
    polar_status status;
    int done;
    void *memory; /* what was allocated: this struct comes first, the arrays follow */
    size_t memory_bytes;
} many_program;

/* A row on its way through a layer. */
typedef struct many_item {
    const float *from; /* (width of the node before) its hidden state; NULL: the embedding of `token` */
    int32_t token;
    float *to; /* (width) where the new hidden state goes; NULL: only its key and value are needed */
    const many_node *node; /* of its call */
    call_row row;
} many_item;

struct polar_many {
    polar_allocator allocator;
    const polar_model *model;
    polar_many_options options; /* with defaults filled in */
    polar_pool *pool;           /* own threads, unless the caller gave a runner */
    polar_runner runner;
    int32_t *prompt; /* (n_prompt) */
    size_t prompt_capacity;
    int n_prompt;                   /* 0: there is none yet */
    many_answer *answers;           /* since the prompt, newest first */
    const polar_many_result *first; /* the first result that was reported since the prompt; NULL: none yet */
    many_draft *drafts;             /* (n_drafts): the draft tree */
    size_t n_drafts, draft_capacity;
    int n_cells;     /* cells in use, at most MANY_CELLS */
    many_node *root; /* of the trie of paths */
    many_block *newest, *oldest;
    size_t bytes;     /* allocated for blocks and programs */
    size_t reserved;  /* promised to the programs that run, held or not */
    int64_t pass;     /* number of the present pass */
    engine engine;    /* the work space of a layer call */
    int n_positions;  /* positions that the work space is made for */
    many_item *items; /* (engine.max_rows): the rows of the present pass, n_items of them */
    call_row *rows;   /* (engine.max_rows): the same in the order in which they go through the layer */
    kv_span *spans;   /* (max_spans): what the rows attend to, n_spans in use */
    int n_items, n_spans, max_spans;
    float *cs;                       /* (n_positions, n_angles): of each position, see rope_angles */
    float *logits;                   /* (MANY_OUTPUTS, n_vocab) */
    many_row *outputs[MANY_OUTPUTS]; /* the rows that these logits belong to */
    int32_t wanted[MANY_OUTPUTS];    /* the token whose probability is asked for; -1: the likeliest */
    void *block;                     /* all of the work space */
    size_t block_bytes;
    polar_many_stats stats;
};

/* --- blocks: memory of nodes, dropped least recently used first --- */

/* Bytes of the key and the value of one position in one call: two times (n_head_kv, head_dim) floats or halves. */
static size_t many_row_bytes(const polar_many *many) {
    return 2 * (size_t)(many->model->n_head_kv * many->model->head_dim) *
           (many->options.kv_type == POLAR_KV_F16 ? 2 : 4);
}

/* 1 if a running program needs the block, so that it must not be dropped. */
static int many_block_pinned(const many_block *b) {
    return b->kind == MANY_HIDDEN ? b->node->n_pins > 0 : b->node->n_users > 0;
}

/* Takes a block out of the list by last use. */
static void many_block_unlink(polar_many *many, many_block *b) {
    if (b->newer) b->newer->older = b->older;
    else many->newest = b->older;
    if (b->older) b->older->newer = b->newer;
    else many->oldest = b->newer;
}

/* Makes a block the newest. One that is neither the newest nor has a newer neighbour is not in the list yet. */
static void many_block_use(polar_many *many, many_block *b) {
    if (many->newest == b) return;
    if (b->newer) many_block_unlink(many, b);
    b->newer = NULL;
    b->older = many->newest;
    if (many->newest) many->newest->newer = b;
    else many->oldest = b;
    many->newest = b;
}

/* Frees a block; what it held counts as not computed from now on. */
static void many_block_drop(polar_many *many, many_block *b) {
    many_node *node = b->node;
    many_block_unlink(many, b);
    node->blocks[b->kind] = NULL;
    if (b->kind == MANY_KV) node->n_kv = 0;
    else if (b->kind == MANY_HIDDEN) node->n_hidden = 0;
    else node->cells = 0;
    many->bytes -= b->bytes;
    mem_free(&many->allocator, b->memory, b->bytes);
}

/* Allocates memory that counts against cache_bytes. Blocks that nobody needs are dropped, the oldest first, until the
 * new memory fits; when all that are left are pinned, it is allocated beyond the bound. NULL without memory. */
static void *many_alloc(polar_many *many, size_t bytes, polar_error *e) {
    const size_t bound = many->options.cache_bytes;
    void *p;
    for (many_block *b = many->oldest; b && bytes > bound - MIN(many->bytes, bound);) {
        many_block *newer = b->newer;
        if (!many_block_pinned(b)) many_block_drop(many, b);
        b = newer;
    }
    p = mem_alloc(&many->allocator, bytes, e);
    if (p) many->bytes += bytes;
    many->stats.peak_bytes = MAX(many->stats.peak_bytes, many->bytes);
    return p;
}

/* Frees memory of many_alloc; p may be NULL. */
static void many_release(polar_many *many, void *p, size_t bytes) {
    if (!p) return;
    many->bytes -= bytes;
    mem_free(&many->allocator, p, bytes);
}

/* Measures or places a block of b's kind and capacity, and sets the pointers of `b`; the struct itself comes first, and
 * its place is returned. */
static many_block *many_block_place(const polar_many *many, many_block *b, layout *l) {
    const size_t half = many_row_bytes(many) / 2, capacity = (size_t)b->capacity;
    many_block *block = layout_place(l, 1, sizeof *b);
    if (b->kind != MANY_HIDDEN) {
        b->k = layout_place(l, capacity, half);
        b->v = layout_place(l, capacity, half);
    }
    if (b->kind != MANY_KV)
        b->hidden = layout_place(l, capacity, size_of((size_t)b->node->width, sizeof *b->hidden));
    return block;
}

/* A new block of a node, not computed yet, and the newest in the list. NULL without memory. */
static many_block *many_block_create(polar_many *many, many_node *node, many_kind kind, int capacity, polar_error *e) {
    many_block b, *block;
    layout l = layout_begin(NULL);
    memset(&b, 0, sizeof b);
    b.node = node;
    b.kind = kind;
    b.capacity = capacity;
    many_block_place(many, &b, &l);
    b.bytes = layout_bytes(&l);
    if (b.bytes) b.memory = many_alloc(many, b.bytes, e);
    else fail(e, POLAR_MEMORY, "out of memory: a prompt of %d tokens is too large", many->n_prompt);
    if (!b.memory) return NULL;
    l = layout_begin(b.memory);
    block = many_block_place(many, &b, &l);
    *block = b;
    many_block_use(many, block);
    return block;
}

/* Gives a node a TAIL block for `capacity` cells. What is computed moves over from the old one: keys and values head by
 * head, since the distance between heads is the capacity. */
static polar_status many_cells_grow(polar_many *many, many_node *node, int capacity, polar_error *e) {
    const size_t d = (size_t)node->width, head = many_row_bytes(many) / 2 / (size_t)many->model->n_head_kv;
    many_block *old = node->blocks[MANY_TAIL], *b = many_block_create(many, node, MANY_TAIL, capacity, e);
    if (!b) return POLAR_MEMORY;
    if (old) { /* node->cells is saved, since dropping a block forgets it */
        const uint64_t cells = node->cells;
        const size_t n = (size_t)old->capacity;
        for (size_t h = 0; h < (size_t)many->model->n_head_kv; h++) {
            memcpy(b->k + h * (size_t)capacity * head, old->k + h * n * head, n * head);
            memcpy(b->v + h * (size_t)capacity * head, old->v + h * n * head, n * head);
        }
        memcpy(b->hidden, old->hidden, n * d * sizeof(float));
        many_block_drop(many, old);
        node->cells = cells;
    }
    node->blocks[MANY_TAIL] = b;
    return POLAR_OK;
}

/* --- the trie of paths --- */

/* Frees a node with its blocks. The caller has taken it out of the trie. */
static void many_node_free(polar_many *many, many_node *node) {
    for (int k = 0; k < MANY_N_KINDS; k++)
        if (node->blocks[k]) many_block_drop(many, node->blocks[k]);
    mem_free(&many->allocator, node, sizeof *node);
}

/* Frees all nodes below the root. It goes down to a node without children, frees it, and goes on at its parent: without
 * recursion, since paths may be long. */
static void many_trie_free(polar_many *many) {
    many_node *node = many->root;
    while (node && (node->child || node != many->root)) {
        many_node *child = node->child, *parent = node->parent;
        if (child) {
            node->child = child->sibling;
            node = child;
        } else {
            many_node_free(many, node);
            node = parent;
        }
    }
}

/* The node of parent's prefix and one more call, made if there is none. Without sharing it is always a new one, which
 * only its program knows. NULL without memory. */
static many_node *many_node_next(polar_many *many, many_node *parent, int call, polar_error *e) {
    many_node *node = many->options.no_share ? NULL : parent->child;
    while (node && node->call != call) node = node->sibling;
    if (node) return node;
    node = mem_zeros(&many->allocator, sizeof *node, e);
    if (!node) return NULL;
    node->parent = parent;
    node->call = call;
    node->width = many->model->n_embd;
    if (!(call & CALL_END) && (call & CALL_PASS || parent->width > node->width)) node->width *= 3;
    if (!many->options.no_share) {
        node->sibling = parent->child;
        parent->child = node;
    }
    return node;
}

/* --- the draft tree: tokens that are likely to be generated --- */

/* The number of the draft token behind number `draft` (-1: none) that is `token`; -1 if there is none. */
static int many_draft_child(const polar_many *many, int draft, int32_t token) {
    int c = draft < 0 || !many->n_drafts ? 0 : many->drafts[draft].child;
    while (c && many->drafts[c].token != token) c = many->drafts[c].sibling;
    return c ? c : -1;
}

/* Adds a draft token behind `parent`, or the root as the first of all. Returns its number, -1 without memory. */
static int many_draft_new(polar_many *many, int parent, int32_t token, polar_error *e) {
    void *p = many->drafts;
    many_draft *x;
    if (!mem_grow(&many->allocator, &p, &many->draft_capacity, many->n_drafts + 1, sizeof *x, e)) return -1;
    many->drafts = p;
    x = &many->drafts[many->n_drafts];
    memset(x, 0, sizeof *x);
    x->token = token;
    x->parent = parent;
    x->cell = -1;
    if (many->n_drafts) {
        x->depth = many->drafts[parent].depth + 1;
        x->sibling = many->drafts[parent].child;
        many->drafts[parent].child = (int)many->n_drafts;
    }
    return (int)many->n_drafts++;
}

/* Adds an answer to the draft tree, up to the token that ends it and to the length that answers may have. `given` says
 * that it comes from the caller; it need not be the right one. */
static polar_status many_draft_add(polar_many *many, const int32_t *tokens, int n, int given, polar_error *e) {
    const int weight = given ? 2 : 1;
    int draft = 0;
    if (!many->n_drafts && many_draft_new(many, 0, -1, e) < 0) return POLAR_MEMORY;
    many->drafts[0].weight += weight;
    for (int i = 0; i < n && i < many->options.max_tokens && !tok_is_end(&many->model->vocab, tokens[i]); i++) {
        const int parent = draft;
        draft = many_draft_child(many, parent, tokens[i]);
        if (draft < 0) draft = many_draft_new(many, parent, tokens[i], e);
        if (draft < 0) return POLAR_MEMORY;
        many->drafts[draft].weight += weight;
        many->drafts[draft].given |= given;
    }
    return POLAR_OK;
}

/* Whether a draft token is still worth a row: at least MANY_MIN_SHARE of the weight of its parent came this way. Given
 * answers begin with all of it, and lose it as answer after answer turns out to be another one. */
static int many_draft_hopeful(const polar_many *many, int draft) {
    const many_draft *x = &many->drafts[draft];
    return x->weight >= MANY_MIN_SHARE * many->drafts[x->parent].weight;
}

/* The draft token that is likeliest to follow number `draft`; -1 if none is likely enough. *chance is the estimated
 * probability that decoding comes as far as `draft`. A token that was only found multiplies it by
 *     weight / (weight of the parent + 1/4)
 * where the 1/4 is the doubt that few answers leave; a given token does not change it. */
static int many_draft_next(const polar_many *many, int draft, double *chance) {
    const many_draft *x = many->drafts;
    int best = 0;
    if (draft < 0 || !many->n_drafts) return -1;
    for (int c = x[draft].child; c; c = x[c].sibling) /* of equal ones the oldest, which comes last */
        if (!best || x[c].weight >= x[best].weight) best = c;
    if (!best || (x[best].given && !many_draft_hopeful(many, best))) return -1;
    if (!x[best].given) *chance *= x[best].weight / (x[draft].weight + 0.25);
    return *chance < MANY_MIN_CHANCE ? -1 : best;
}

/* The cell of a draft token, -1 if it has none. It gets one, as long as there are free ones, if it was given or if
 * answers of at least `weight` came this way: a row in a cell is computed once for all programs with the same prefix,
 * so it pays where several programs will need it. */
static int many_draft_cell(polar_many *many, int draft, int weight) {
    many_draft *x;
    if (draft < 0) return -1;
    x = &many->drafts[draft];
    if (x->cell < 0 && (x->given || x->weight >= weight) && many->n_cells < MANY_CELLS) x->cell = many->n_cells++;
    return x->cell;
}

/* --- create and free --- */

/* Drops all that belongs to the prompt: answers, drafts, the trie with its blocks. */
static void many_reset(polar_many *many) {
    while (many->answers) {
        many_answer *next = many->answers->next;
        mem_free(&many->allocator, many->answers, many->answers->bytes);
        many->answers = next;
    }
    many->first = NULL;
    many->n_drafts = 0;
    many->n_cells = 0;
    many_trie_free(many);
}

/* See polar.h. No program runs between two calls, so only what they left is to be freed. */
void polar_many_free(polar_many *many) {
    polar_allocator a;
    if (!many) return;
    a = many->allocator;
    many_reset(many);
    mem_free(&a, many->root, sizeof *many->root);
    mem_free(&a, many->drafts, many->draft_capacity * sizeof *many->drafts);
    mem_free(&a, many->prompt, many->prompt_capacity * sizeof *many->prompt);
    mem_free(&a, many->block, many->block_bytes);
    polar_pool_free(many->pool);
    mem_free(&a, many, sizeof *many);
}

/* See polar.h. The work space is made when the first prompt is run, since its size is not known before. */
polar_status polar_many_create(polar_many **out, const polar_model *model, const polar_many_options *options,
                               polar_error *error) {
    const polar_many_options none = {0};
    polar_many_options o = options ? *options : none;
    polar_allocator a;
    polar_many *many;
    polar_status status;
    err_clear(error);
    if (!out || !model) return fail(error, POLAR_ARGUMENT, "polar_many_create: out or model is NULL");
    *out = NULL;
    if (model->vocab_only) return fail(error, POLAR_ARGUMENT, "%s: opened for its vocabulary only", model->file.name);
    o.max_tokens = option_int(o.max_tokens, 50);
    if (o.max_tokens < 1 || (unsigned)o.kv_type > POLAR_KV_F32 ||
        (o.runner && (!o.runner->run || o.runner->n_threads < 1)))
        return fail(error, POLAR_ARGUMENT,
                    "max_tokens %d, kv_type %d or a runner without function or threads: expected max_tokens >= 1",
                    o.max_tokens, (int)o.kv_type);
    status = gen_check_stop(o.stop, error);
    if (status) return status;
    a = o.allocator ? mem_allocator(o.allocator) : model->allocator;
    many = mem_zeros(&a, sizeof *many, error);
    if (!many) return POLAR_MEMORY;
    many->allocator = a;
    many->model = model;
    many->options = o;
    many->options.max_tokens = MIN(o.max_tokens, model->n_ctx_train + 1);
    if (!o.cache_bytes) many->options.cache_bytes = (size_t)1 << 30;
    many->root = mem_alloc(&a, sizeof *many->root, error);
    if (many->root) {
        memset(many->root, 0, sizeof *many->root);
        many->root->call = -1;
    } else status = POLAR_MEMORY;
    if (!status && !o.runner) status = polar_pool_create(&many->pool, o.n_threads, &a, error);
    if (!status) {
        many->runner = o.runner ? *o.runner : polar_pool_runner(many->pool);
        *out = many;
    } else polar_many_free(many);
    return status;
}

/* Measures or places the work space for n_positions positions. A row attends to few spans, but in the worst case to one
 * per position, which must fit. */
static void many_place(polar_many *many, layout *l) {
    const size_t rows = many->options.no_batch ? MANY_PLAIN_ROWS : MANY_ROWS;
    /* what a layer call needs */
    many->engine.model = many->model;
    many->engine.runner = many->runner;
    many->engine.kv_f16 = many->options.kv_type == POLAR_KV_F16;
    many->engine.max_rows = many->engine.max_hidden = (int)rows;
    many->engine.max_scores = (size_t)many->n_positions;
    engine_place(&many->engine, l);
    many->max_spans = 4 * (int)rows + many->n_positions + 1;
    /* the rows of a pass and what they attend to */
    many->items = layout_place(l, rows, sizeof *many->items);
    many->rows = layout_place(l, rows, sizeof *many->rows);
    many->spans = layout_place(l, (size_t)many->max_spans, sizeof *many->spans);
    many->cs = layout_place(l, (size_t)many->n_positions, size_of((size_t)many->model->n_angles, sizeof *many->cs));
    many->logits = layout_place(l, MANY_OUTPUTS, size_of((size_t)many->model->n_vocab, sizeof *many->logits));
}

/* Makes the work space for the prompt and n positions behind it, unless there is one that is large enough. */
static polar_status many_workspace(polar_many *many, int n, polar_error *e) {
    const int positions = many->n_prompt + n;
    layout l = layout_begin(NULL);
    if (positions <= many->n_positions) return POLAR_OK;
    mem_free(&many->allocator, many->block, many->block_bytes);
    many->block = NULL;
    many->n_positions = positions;
    many_place(many, &l);
    many->block_bytes = layout_bytes(&l);
    if (many->block_bytes) many->block = mem_alloc(&many->allocator, many->block_bytes, e);
    else fail(e, POLAR_MEMORY, "out of memory: %d positions are too many", positions);
    if (!many->block) {
        many->n_positions = 0;
        return POLAR_MEMORY;
    }
    l = layout_begin(many->block);
    many_place(many, &l);
    engine_start(&many->engine);
    for (int i = 0; i < positions; i++)
        rope_angles(many->model, i, many->cs + (size_t)i * (size_t)many->model->n_angles);
    return POLAR_OK;
}

/* --- tokens in, answers out --- */

/* Refuses an empty list of tokens and tokens that the vocabulary does not have; `what` names the list in messages. */
static polar_status many_tokens_check(const polar_model *m, const int32_t *tokens, int n, const char *what,
                                      polar_error *e) {
    if (!tokens || n < 1) return fail(e, POLAR_ARGUMENT, "a %s of %d tokens: expected one at least", what, n);
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= m->n_vocab)
            return fail(e, POLAR_ARGUMENT, "token %d at place %d of the %s is out of range, the vocabulary has 0..%d",
                        (int)tokens[i], i, what, m->n_vocab - 1);
    return POLAR_OK;
}

/* See polar.h. */
polar_status polar_many_prompt(polar_many *many, const int32_t *tokens, int n, polar_error *error) {
    void *p = many->prompt;
    polar_status status;
    err_clear(error);
    status = many_tokens_check(many->model, tokens, n, "prompt", error);
    if (status) return status;
    if (n > many->model->n_ctx_train)
        return fail(error, POLAR_CONTEXT, "the prompt has %d tokens, the model was trained for %d", n,
                    many->model->n_ctx_train);
    if (!mem_grow(&many->allocator, &p, &many->prompt_capacity, (size_t)n, sizeof *tokens, error)) return POLAR_MEMORY;
    many->prompt = p;
    memcpy(many->prompt, tokens, (size_t)n * sizeof *tokens);
    many->n_prompt = n;
    many_reset(many);
    return POLAR_OK;
}

/* See polar.h. */
polar_status polar_many_draft(polar_many *many, const int32_t *tokens, int n, polar_error *error) {
    polar_status status;
    err_clear(error);
    if (!many->n_prompt) return fail(error, POLAR_ARGUMENT, "polar_many_draft before polar_many_prompt");
    status = many_tokens_check(many->model, tokens, n, "draft", error);
    return status ? status : many_draft_add(many, tokens, n, 1, error);
}

/* Refuses paths before there is a prompt, of no calls or too many, or with a layer that the model does not have. */
static polar_status many_path_check(const polar_many *many, polar_path path, polar_error *e) {
    if (!many->n_prompt) return fail(e, POLAR_ARGUMENT, "a path before polar_many_prompt");
    if (!path.calls || path.n < 1 || path.n > POLAR_MAX_CALLS)
        return fail(e, POLAR_ARGUMENT, "a path of %d calls, expected 1..%d", path.n, POLAR_MAX_CALLS);
    return prog_check_calls(path.calls, path.n, many->model->n_layer, e);
}

/* Keeps the result of a program: copies of its n tokens and of its text. NULL without memory. */
static many_answer *many_answer_create(polar_many *many, polar_stop stop, const int32_t *tokens, int n, const buf *text,
                                       double logprob, polar_error *e) {
    const size_t bytes = sizeof(many_answer) + (size_t)n * sizeof *tokens + text->length + 1;
    many_answer *a = mem_zeros(&many->allocator, bytes, e);
    int32_t *token_copy;
    char *text_copy;
    if (!a) return NULL;
    a->bytes = bytes;
    token_copy = (int32_t *)(void *)(a + 1);
    text_copy = (char *)(token_copy + n);
    if (n) memcpy(token_copy, tokens, (size_t)n * sizeof *tokens);
    if (text->length) memcpy(text_copy, text->at, text->length);
    text_copy[text->length] = 0;
    /* what the caller sees: pointers into the same memory */
    a->result.stop = stop;
    a->result.tokens = token_copy;
    a->result.n_tokens = n;
    a->result.text = text_copy;
    a->result.length = text->length;
    a->result.logprob = logprob;
    a->next = many->answers;
    many->answers = a;
    return a;
}

/* --- rows: what a program evaluates in a round --- */

/* Adds a row to those of the present round. See many_row for what goes in. */
static many_row *many_row_add(many_program *p, int32_t token, int parent, int depth, int draft, int cell) {
    many_row *r = &p->rows[p->n_rows++];
    assert(p->n_rows <= p->max_rows);
    memset(r, 0, sizeof *r);
    r->token = token;
    r->parent = parent;
    r->depth = depth;
    r->draft = draft;
    r->cell = cell;
    if (cell < 0) /* rows without a cell are numbered in their order */
        for (const many_row *q = p->rows; q < r; q++) r->hidden += q->cell < 0;
    return r;
}

/* The depth of the last token that is worth evaluating: the token behind the one of depth max_tokens - 1 is the last
 * that may be generated, and there are only n_slots slots. */
static int many_program_max_depth(const polar_many *many, const many_program *p) {
    return MIN(many->options.max_tokens - 1, p->n_slots);
}

/* The row of a draft token; -1 if it has none. */
static int many_row_of_draft(const many_program *p, int draft) {
    for (int r = 0; r < p->n_rows; r++)
        if (p->rows[r].draft == draft) return r;
    return -1;
}

/* Adds a draft token behind the row of its parent, and returns 1; 0 if it comes too late or there is no cell for it. */
static int many_row_add_draft(polar_many *many, many_program *p, int parent, int draft) {
    const many_draft *x = &many->drafts[draft];
    const int cell = x->depth <= many_program_max_depth(many, p) ? many_draft_cell(many, draft, 1) : -1;
    if (cell < 0) return 0;
    many_row_add(p, x->token, parent, x->depth, draft, cell);
    many->stats.n_drafted++;
    return 1;
}

/* The first round of a program: the prompt's last position, the given answers as far as they are worth it, and the
 * likeliest answer found so far. All drafts have cells, so programs with a common prefix compute them once. Logits are
 * at first wanted of the prompt's last position only: whether any draft is right is not known yet. */
static void many_rows_begin(polar_many *many, many_program *p) {
    double chance = 1;
    p->n_rows = p->row = p->eager = 0;
    many_row_add(p, -1, -1, 0, 0, -1);
    if (many->options.no_draft) return;
    /* given answers; parents have lower numbers, so their rows are there already */
    for (int draft = 1; draft < (int)many->n_drafts; draft++) {
        int parent;
        if (!many->drafts[draft].given || !many_draft_hopeful(many, draft)) continue;
        parent = many_row_of_draft(p, many->drafts[draft].parent);
        if (parent >= 0) many_row_add_draft(many, p, parent, draft);
    }
    /* the likeliest answer, which may begin with some of these */
    for (int draft = many_draft_next(many, 0, &chance), parent = 0; draft >= 0;
         draft = many_draft_next(many, draft, &chance)) {
        int row = many_row_of_draft(p, draft);
        if (row < 0 && !many_row_add_draft(many, p, parent, draft)) break;
        parent = row < 0 ? p->n_rows - 1 : row;
    }
}

/* The next round behind an accepted token: the token itself, and the chain of tokens that is likely to follow it. A row
 * gets a cell where another answer came the same way; otherwise it is the program's own, MANY_CHAIN at most. */
static void many_rows_next(polar_many *many, many_program *p, int32_t token) {
    const int depth = p->n_tokens;
    double chance = 1;
    int own;
    p->n_rows = p->row = 0;
    p->eager = 1;
    p->draft = many->options.no_draft ? -1 : many_draft_child(many, p->draft, token);
    many_row_add(p, token, -1, depth, p->draft, many_draft_cell(many, p->draft, 2));
    own = p->rows[0].cell < 0;
    for (int draft = many_draft_next(many, p->draft, &chance); draft >= 0;
         draft = many_draft_next(many, draft, &chance)) {
        const many_draft *x = &many->drafts[draft];
        const int cell = many_draft_cell(many, draft, 2);
        if (x->depth > many_program_max_depth(many, p) || (cell < 0 && own == MANY_CHAIN)) break;
        many_row_add(p, x->token, p->n_rows - 1, x->depth, draft, cell);
        own += cell < 0;
        many->stats.n_drafted++;
    }
    p->cell_of[depth] = (int16_t)p->rows[0].cell;
}

/* --- programs --- */

/* Pins the hidden states that call `index` of the path reads and writes, those of nodes index - 1 and index, in place
 * of the ones pinned before; -1: none. */
static void many_program_pin(many_program *p, int index) {
    for (int i = MAX(p->pinned - 1, 0); i <= p->pinned && i < p->path.n; i++) p->nodes[i]->n_pins--;
    p->pinned = index;
    for (int i = MAX(index - 1, 0); i <= index && i < p->path.n; i++) p->nodes[i]->n_pins++;
}

/* Bytes of the blocks that stay as long as a program with this prefix runs: KV, and TAIL with all cells. */
static size_t many_node_reserve(const polar_many *many, const many_node *node) {
    const size_t hidden = (size_t)node->width * sizeof(float);
    return (size_t)many->n_prompt * many_row_bytes(many) +
           (many->options.no_draft ? 0 : MANY_CELLS * (many_row_bytes(many) + hidden));
}

/* Bytes that must be free for a program to run beside the others: its own, and those of nodes that no other one uses.
 */
static size_t many_program_reserve(const polar_many *many, const many_program *p) {
    size_t n = p->reserved;
    for (int i = 0; i < p->path.n; i++)
        if (!p->nodes[i]->n_users) n += many_node_reserve(many, p->nodes[i]);
    return n;
}

/* Measures or places a program of p's path and n_slots; the struct itself comes first. A round has at most the next
 * token, MANY_CHAIN own rows and MANY_CELLS others, or all tokens that are scored. */
static void many_program_place(many_program *p, layout *l) {
    const size_t n = (size_t)p->path.n, own = (size_t)MAX(MANY_CHAIN, p->n_forced) + 1;
    layout_place(l, 1, sizeof *p);
    p->max_rows = MAX(MANY_CELLS + MANY_CHAIN, p->n_forced) + 1;
    p->nodes = layout_place(l, n, sizeof *p->nodes);
    p->rows = layout_place(l, (size_t)p->max_rows, sizeof *p->rows);
    p->cell_of = layout_place(l, (size_t)p->n_slots + 1, sizeof *p->cell_of);
    p->tokens = layout_place(l, (size_t)p->n_slots + 1, sizeof *p->tokens);
    p->hidden = layout_place(l, own, size_of((size_t)p->width, sizeof *p->hidden));
}

/* Frees a program that does not run, or not any more; p may be NULL. Its nodes belong to the trie, unless nothing is
 * shared. */
static void many_program_free(polar_many *many, many_program *p) {
    if (!p) return;
    for (int i = 0; many->options.no_share && i < p->path.n && p->nodes[i]; i++) many_node_free(many, p->nodes[i]);
    buf_free(&p->bytes);
    many_release(many, p->kv, p->kv_bytes);
    many_release(many, p->memory, p->memory_bytes);
}

/* Makes a program and the nodes of its path, without starting it. It needs for itself, at most, two blocks of hidden
 * states of the prompt (what its present call reads and writes) and the slots of its own tokens. NULL without memory.
 */
static many_program *many_program_create(polar_many *many, polar_path path, const int32_t *forced, int n_forced,
                                         polar_error *e) {
    many_program measured, *p = &measured;
    many_node *node = many->root;
    layout l = layout_begin(NULL);
    void *memory = NULL;
    memset(p, 0, sizeof *p);
    p->path = path;
    p->forced = forced;
    p->n_forced = n_forced;
    p->n_slots = MIN(forced ? n_forced : many->options.max_tokens, many->model->n_ctx_train - many->n_prompt);
    p->pinned = -1;
    p->width = many->model->n_embd;
    for (int i = 0; i < path.n; i++)
        if (path.calls[i] >= CALL_PASS) p->width = 3 * many->model->n_embd;
    many_program_place(p, &l);
    p->memory_bytes = layout_bytes(&l);
    if (p->memory_bytes) memory = many_alloc(many, p->memory_bytes, e);
    else fail(e, POLAR_MEMORY, "out of memory: a path of %d calls", path.n);
    if (!memory) return NULL;
    l = layout_begin(memory);
    many_program_place(p, &l);
    p = (many_program *)(void *)l.base;
    *p = measured;
    p->memory = memory;
    memset(p->nodes, 0, (size_t)path.n * sizeof *p->nodes);
    /* text goes through the same stop strings and characters as that of a session, into `bytes` */
    p->bytes.allocator = &many->allocator;
    p->generate.stop = many->options.stop;
    p->generate.on_text = gen_on_text;
    p->generate.on_text_user = &p->bytes;
    p->text.o = &p->generate;
    p->text.out = NULL;
    p->reserved = p->memory_bytes + (size_t)many->n_prompt * 2 * (size_t)p->width * sizeof(float) +
                  (size_t)p->n_slots * (size_t)path.n * many_row_bytes(many);
    for (int i = 0; node && i < path.n; i++) {
        node = many_node_next(many, node, path.calls[i], e);
        p->nodes[i] = node;
    }
    if (!node) {
        many_program_free(many, p);
        return NULL;
    }
    return p;
}

/* Begins to run a program: its nodes' KV and TAIL blocks stay from now on, its first rows are laid out, and prompt_from
 * is found. That is the first call whose keys and values of the prompt are not all there, moved back as long as the
 * hidden states that would enter it are not there either. If all calls are done, the last one is still gone through for
 * the hidden state of the prompt's last position. */
static void many_program_start(polar_many *many, many_program *p) {
    const int n = p->path.n, full = many->n_prompt;
    int from = 0;
    many->reserved += many_program_reserve(many, p);
    for (int i = 0; i < n; i++) p->nodes[i]->n_users++;
    /* calls whose keys and values are there; then back to where hidden states are */
    while (from < n && p->nodes[from]->n_kv == full) from++;
    if (from == n && p->nodes[n - 1]->n_hidden < full) from--;
    while (from > 0 && from < n && p->nodes[from - 1]->n_hidden < full) from--;
    p->prompt_from = MIN(from, n - 1);
    many_program_pin(p, p->prompt_from);
    p->draft = many->options.no_draft ? -1 : 0;
    p->eager = p->forced != NULL;
    if (!p->forced) many_rows_begin(many, p);
    for (int i = 0; i < p->n_forced; i++) many_row_add(p, i ? p->forced[i - 1] : -1, i - 1, i, -1, -1);
}

/* Takes a running program away and frees it. Blocks of its nodes count as used now, the last call's first, so that the
 * beginnings of paths, which more programs share, are kept longer. */
static void many_program_end(polar_many *many, many_program *p) {
    many_program_pin(p, -1);
    for (int i = p->path.n - 1; i >= 0; i--) {
        many_node *node = p->nodes[i];
        if (node->blocks[MANY_KV]) many_block_use(many, node->blocks[MANY_KV]);
        if (node->blocks[MANY_TAIL]) many_block_use(many, node->blocks[MANY_TAIL]);
        if (!--node->n_users) many->reserved -= many_node_reserve(many, node);
    }
    many->reserved -= p->reserved;
    many_program_free(many, p);
}

/* Allocates the slots of the program's own tokens when a round has the first row that is kept there. */
static polar_status many_program_own_kv(polar_many *many, many_program *p, polar_error *e) {
    size_t bytes;
    int needed = 0;
    for (int r = 0; r < p->n_rows; r++) needed |= p->rows[r].token >= 0 && p->rows[r].cell < 0;
    if (!needed || p->kv) return POLAR_OK;
    if (!mul_size(&bytes, (size_t)p->n_slots * (size_t)p->path.n, many_row_bytes(many)))
        return fail(e, POLAR_MEMORY, "out of memory: %d tokens under a path of %d calls", p->n_slots, p->path.n);
    p->kv_bytes = bytes;
    p->kv = many_alloc(many, bytes, e);
    return p->kv ? POLAR_OK : POLAR_MEMORY;
}

/* Whether positions of the prompt have to go through the program's next call: for their keys and values, and for their
 * hidden states. Behind the last call only the hidden state of the last position is needed. */
static int many_program_needs_prompt(const polar_many *many, const many_program *p) {
    const many_node *node = p->nodes[p->call];
    if (p->call < p->prompt_from) return 0;
    if (p->call + 1 == p->path.n) return node->n_kv < many->n_prompt || !p->has_last;
    return node->n_kv < many->n_prompt || node->n_hidden < many->n_prompt;
}

/* Whether a row has to go through the program's next call: it did not yet, nor did another program's row of the same
 * cell. The prompt's last position (token -1) is no row of its own here. */
static int many_row_missing(const many_program *p, const many_row *r) {
    if (r->token < 0) return 0;
    return r->cell >= 0 ? !(p->nodes[p->call]->cells >> r->cell & 1) : r->n_done <= p->call;
}

/* Makes the blocks that the next call of a program writes to, and touches the one that it reads. */
static polar_status many_program_prepare(polar_many *many, many_program *p, polar_error *e) {
    many_node *node = p->nodes[p->call];
    int n_cells = 0, capacity = 0;
    if (many_program_needs_prompt(many, p)) {
        if (p->call && p->nodes[p->call - 1]->blocks[MANY_HIDDEN])
            many_block_use(many, p->nodes[p->call - 1]->blocks[MANY_HIDDEN]);
        if (!node->blocks[MANY_KV]) {
            node->blocks[MANY_KV] = many_block_create(many, node, MANY_KV, many->n_prompt, e);
            if (!node->blocks[MANY_KV]) return POLAR_MEMORY;
            many->stats.n_recomputed += node->was_computed;
            node->was_computed = 1;
        }
        if (p->call + 1 < p->path.n && !node->blocks[MANY_HIDDEN]) {
            node->blocks[MANY_HIDDEN] = many_block_create(many, node, MANY_HIDDEN, many->n_prompt, e);
            if (!node->blocks[MANY_HIDDEN]) return POLAR_MEMORY;
        }
    }
    /* room for the cells of its rows */
    for (int r = 0; r < p->n_rows; r++) n_cells = MAX(n_cells, p->rows[r].cell + 1);
    if (node->blocks[MANY_TAIL]) capacity = node->blocks[MANY_TAIL]->capacity;
    if (n_cells <= capacity) return POLAR_OK;
    return many_cells_grow(many, node, (n_cells + 7) / 8 * 8, e); /* by eights, since each growth copies */
}

/* Moves a program past the calls for which other programs have computed all that it needs, up to the first one that has
 * work to do, or to the end of its path, where it waits for logits. */
static polar_status many_program_advance(polar_many *many, many_program *p, polar_error *e) {
    const int n = p->path.n, full = many->n_prompt;
    for (; p->call < n; p->call++) {
        const many_node *node = p->nodes[p->call];
        int missing; /* anything that this call has to compute */
        if (p->prompt_from < n) many_program_pin(p, MAX(p->call, p->prompt_from));
        /* if a longer path with this one as its beginning has computed the prompt's last position, take it from there
         */
        if (p->call + 1 == n && p->prompt_from < n && !p->has_last && node->n_hidden == full) {
            memcpy(p->hidden, node->blocks[MANY_HIDDEN]->hidden + (size_t)(full - 1) * (size_t)many->model->n_embd,
                   (size_t)many->model->n_embd * sizeof *p->hidden);
            p->has_last = 1;
        }
        missing = many_program_needs_prompt(many, p);
        for (int r = 0; r < p->n_rows && !missing; r++) missing = many_row_missing(p, &p->rows[r]);
        if (missing) return many_program_prepare(many, p, e);
    }
    p->prompt_from = n;
    many_program_pin(p, -1);
    return POLAR_OK;
}

/* --- a pass: rows of all programs that wait for a layer --- */

/* The span of the one position `index` of keys k and values v, (n_head_kv, capacity, head_dim) each. */
static kv_span many_span_at(const polar_many *many, const uint8_t *k, const uint8_t *v, int index, int capacity) {
    const size_t row = many_row_bytes(many) / 2 / (size_t)many->model->n_head_kv;
    const kv_span s = {k + (size_t)index * row, v + (size_t)index * row, 1, capacity};
    return s;
}

/* Adds a row to the pass. Its position gives the angles of rope; its key and value go to `index` of `capacity` in k and
 * v; it attends to the spans from number `spans` up to the last, which are already there. The caller sets from, to and
 * token. */
static many_item *many_item_add(polar_many *many, const many_node *node, int position, uint8_t *k, uint8_t *v,
                                int index, int capacity, int spans) {
    const int n_spans = layer_window(many->model, node->call % CALL_PASS, many->spans + spans, many->n_spans - spans,
                                     many->engine.kv_f16);
    const call_row row = {call_behind(many->model, node->parent->call, node->call),
                          many->cs + (size_t)position * (size_t)many->model->n_angles,
                          k,
                          v,
                          index,
                          capacity,
                          many->spans + spans,
                          n_spans};
    many_item *x = &many->items[many->n_items++];
    x->row = row;
    x->node = node;
    return x;
}

/* Adds the positions of the prompt that have to go through the next call of a program, as many as there is room for.
 * Position r attends to the r + 1 first ones, which are one span of the KV block. In the last call of a path only the
 * last position is taken through the whole call; of the others the keys and values are enough. */
static void many_collect_prompt(polar_many *many, many_program *p) {
    many_node *node = p->nodes[p->call];
    const many_block *kv = node->blocks[MANY_KV], *hidden = node->blocks[MANY_HIDDEN],
                     *before = p->call ? p->nodes[p->call - 1]->blocks[MANY_HIDDEN] : NULL;
    const int leaf = p->call + 1 == p->path.n, n = many->n_prompt;
    node->pass = many->pass;
    for (int r = leaf ? MIN(node->n_kv, n - 1) : node->n_hidden; r < n; r++) {
        const kv_span span = {kv->k, kv->v, r + 1, n};
        const int last = r + 1 == n;
        many_item *item;
        if (many->n_items == many->engine.max_rows || many->n_spans == many->max_spans) return;
        many->spans[many->n_spans++] = span;
        item = many_item_add(many, node, r, kv->k, kv->v, r, n, many->n_spans - 1);
        item->token = many->prompt[r];
        item->from = before ? before->hidden + (size_t)r * (size_t)before->node->width : NULL;
        item->to = NULL;
        if (!leaf) {
            item->to = hidden->hidden + (size_t)r * (size_t)node->width;
            node->n_hidden = r + 1;
        } else if (last) {
            item->to = p->hidden;
            p->has_last = 1;
        }
        node->n_kv = MAX(node->n_kv, r + 1);
    }
}

/* Adds the spans of what row r attends to in the next call, in the order of positions: the prompt, the accepted tokens,
 * the rows before it, itself. Neighbours that lie side by side, in the cells or in the program's own slots, become one
 * span: attention is quickest over long ones. */
static void many_collect_spans(polar_many *many, many_program *p, int r) {
    const many_node *node = p->nodes[p->call];
    const many_block *kv = node->blocks[MANY_KV], *tail = node->blocks[MANY_TAIL];
    const kv_span prompt = {kv->k, kv->v, many->n_prompt, many->n_prompt};
    const size_t half = (size_t)p->n_slots * many_row_bytes(many) / 2;
    const uint8_t *own = p->kv ? p->kv + 2 * half * (size_t)p->call : NULL; /* keys; values stand `half` further */
    const int depth = p->rows[r].depth;
    /* this row's branch of the tree, up to what is accepted */
    for (int q = r; q >= 0; q = p->rows[q].parent) p->cell_of[p->rows[q].depth] = (int16_t)p->rows[q].cell;
    many->spans[many->n_spans++] = prompt;
    for (int i = 1; i <= depth; i++) {
        const int cell = p->cell_of[i], last = p->cell_of[i - 1];
        const int follows = cell < 0 ? last < 0 : last >= 0 && cell == last + 1;
        if (i > 1 && follows) many->spans[many->n_spans - 1].n++;
        else if (cell < 0) many->spans[many->n_spans++] = many_span_at(many, own, own + half, i - 1, p->n_slots);
        else many->spans[many->n_spans++] = many_span_at(many, tail->k, tail->v, cell, tail->capacity);
    }
}

/* Adds the rows of a program that have to go through its next call, once the prompt is through it (in an earlier pass
 * or in this one: keys and values of all rows are stored before any row attends to them). */
static void many_collect_rows(polar_many *many, many_program *p) {
    many_node *node = p->nodes[p->call];
    many_block *tail = node->blocks[MANY_TAIL], *before = p->call ? p->nodes[p->call - 1]->blocks[MANY_TAIL] : NULL;
    const size_t half = (size_t)p->n_slots * many_row_bytes(many) / 2;
    uint8_t *own = p->kv ? p->kv + 2 * half * (size_t)p->call : NULL;
    if (node->n_kv < many->n_prompt) return;
    for (int r = 0; r < p->n_rows; r++) {
        many_row *row = &p->rows[r];
        const int spans = many->n_spans, position = many->n_prompt + row->depth - 1;
        many_item *item;
        if (!many_row_missing(p, row)) continue;
        if (many->n_items == many->engine.max_rows || many->n_spans + row->depth + 1 > many->max_spans) return;
        many_collect_spans(many, p, r);
        /* from the row's place behind the call before to its place behind this one */
        if (row->cell >= 0) {
            item = many_item_add(many, node, position, tail->k, tail->v, row->cell, tail->capacity, spans);
            item->from = before ? before->hidden + (size_t)row->cell * (size_t)before->node->width : NULL;
            item->to = tail->hidden + (size_t)row->cell * (size_t)node->width;
            node->cells |= (uint64_t)1 << row->cell;
        } else {
            item = many_item_add(many, node, position, own, own + half, row->depth - 1, p->n_slots, spans);
            item->to = p->hidden + (size_t)row->hidden * (size_t)p->width;
            item->from = p->call ? item->to : NULL;
            row->n_done = p->call + 1;
        }
        item->token = row->token;
    }
}

/* Copies row r of the engine's hidden states, with what a damped segment keeps beside them, to or from `state`. */
static void many_pass_copy(const engine *g, int r, int width, float *to, const float *from) {
    const size_t d = (size_t)g->model->n_embd;
    float *const parts[] = {g->hidden, g->entered, g->anchor};
    for (size_t i = 0; i < (size_t)width / d; i++) {
        float *row = parts[i] + (size_t)r * d;
        if (to) memcpy(to + i * d, row, d * sizeof *row);
        if (from) memcpy(row, from + i * d, d * sizeof *row);
    }
}

/* Takes the collected rows through the layer: gathers their hidden states, calls the layer, and puts the new ones where
 * they belong. The first `from` rows are those of which only key and value are needed, as call_layer wants it. */
static void many_pass_run(polar_many *many, int layer) {
    engine *g = &many->engine;
    int n = 0, from = 0;
    for (int i = 0; i < many->n_items; i++) from += !many->items[i].to;
    for (int whole = 0; whole < 2; whole++) /* first those without a place for the new hidden state */
        for (int i = 0; i < many->n_items; i++) {
            const many_item *item = &many->items[i];
            if ((item->to != NULL) != whole) continue;
            if (item->from) many_pass_copy(g, n, item->node->parent->width, NULL, item->from);
            else engine_embed_row(g, item->token, n);
            many->rows[n++] = item->row;
        }
    assert(n > 0);
    call_layer(g, layer, many->rows, n, from);
    n = from;
    for (int i = 0; i < many->n_items; i++)
        if (many->items[i].to) many_pass_copy(g, n++, many->items[i].node->width, many->items[i].to, NULL);
    many->stats.n_rows += many->n_items;
    many->stats.n_passes++;
}

/* One pass through a layer for the n programs in flight that wait for it. First positions of the prompt, each node's
 * by one program: programs that go on behind the call come before those whose path ends there, which need only part of
 * it. Then the programs' rows. */
static void many_pass(polar_many *many, many_program **flight, int n, int layer) {
    many->pass++;
    many->n_items = many->n_spans = 0;
    for (int leaves = 0; leaves < 2; leaves++)
        for (int i = 0; i < n; i++) {
            many_program *p = flight[i];
            if (p->call == p->path.n || p->path.calls[p->call] % CALL_PASS != layer ||
                (p->call + 1 == p->path.n) != leaves)
                continue;
            if (p->nodes[p->call]->pass != many->pass && many_program_needs_prompt(many, p))
                many_collect_prompt(many, p);
        }
    for (int i = 0; i < n; i++)
        if (flight[i]->call < flight[i]->path.n && flight[i]->path.calls[flight[i]->call] % CALL_PASS == layer)
            many_collect_rows(many, flight[i]);
    many_pass_run(many, layer);
}

/* --- logits --- */

/* Task `index` reads the logits of one row: the likeliest token b (the lowest of equal ones), and with w the token
 * whose probability is asked for logprob = (logit_w - logit_b) - ln(sum over tokens of exp(logit - logit_b)) as
 * polar_session_generate computes it. The logits are used up. */
static void many_output_task(void *context, int index, int worker) {
    polar_many *many = context;
    const polar_model *m = many->model;
    float *logits = many->logits + (size_t)index * (size_t)m->n_vocab;
    many_row *r = many->outputs[index];
    int token;
    float difference;
    (void)worker;
    r->has_logits = 1;
    r->best = session_finite(logits, m->n_vocab) ? draw_greedy(logits, m->n_vocab) : -1;
    if (r->best < 0) return;
    token = many->wanted[index] < 0 ? r->best : many->wanted[index];
    difference = logits[token] - logits[r->best];
    r->logprob = (double)difference - log64((double)m->kern->softmax(logits, m->n_vocab));
}

/* Logits of the first n rows of the engine's hidden states, which belong to many->outputs. */
static void many_outputs_run(polar_many *many, int n) {
    if (!n) return;
    engine_logits(&many->engine, 0, n, many->logits);
    parallel_for(&many->runner, n, many_output_task, many);
}

/* Whether row r is `ancestor` or follows it. Parents have lower numbers than their children. */
static int many_row_is_behind(const many_program *p, int r, int ancestor) {
    while (r > ancestor) r = p->rows[r].parent;
    return r == ancestor;
}

/* Computes the logits that the n programs in flight wait for, MANY_OUTPUTS rows at a time: of the row that decides
 * about the next token, and for eager programs of all rows behind it too, which are likely to be needed. */
static void many_outputs(polar_many *many, many_program **flight, int n) {
    const size_t d = (size_t)many->model->n_embd;
    int count = 0;
    for (int i = 0; i < n; i++) {
        many_program *p = flight[i];
        const many_block *tail = p->nodes[p->path.n - 1]->blocks[MANY_TAIL];
        if (p->call < p->path.n) continue;
        for (int r = p->row; r < p->n_rows; r++) {
            many_row *row = &p->rows[r];
            const int wanted = r == p->row || (p->eager && many_row_is_behind(p, r, p->row));
            if (row->has_logits || !wanted) continue;
            memcpy(many->engine.hidden + (size_t)count * d,
                   row->cell >= 0 ? tail->hidden + (size_t)row->cell * d
                                  : p->hidden + (size_t)row->hidden * (size_t)p->width,
                   d * sizeof(float));
            many->outputs[count] = row;
            many->wanted[count] = p->forced ? p->forced[row->depth] : -1;
            count++;
            if (count == MANY_OUTPUTS) {
                many_outputs_run(many, count);
                count = 0;
            }
        }
    }
    many_outputs_run(many, count);
}

/* Accepts the next token of a program, or notes why there is none and that the program is done. These are the steps of
 * polar_session_generate in its order: end token, text and stop strings, max_tokens, context. */
static void many_program_take(polar_many *many, many_program *p, int32_t token, double logprob) {
    size_t length;
    const char *bytes;
    p->done = 1;
    p->stop = POLAR_STOP_END;
    if (gen_is_stop_token(many->model, &p->generate, token)) return;
    p->logprob += logprob;
    p->tokens[p->n_tokens++] = token;
    bytes = tok_text(&many->model->vocab, token, &length);
    p->stop = POLAR_STOP_STRING;
    gen_add(&p->text, bytes, length);
    if (p->text.stopped || p->text.cancelled) return;
    p->stop = POLAR_STOP_LIMIT;
    if (p->n_tokens == many->options.max_tokens) return;
    p->stop = POLAR_STOP_CONTEXT;
    if (p->n_tokens == p->n_slots + 1) return;
    p->done = 0;
}

/* Reads the logits of a program as far as they are known, token by token. Where the likeliest token is that of a row
 * behind the present one, a draft was right: that row's logits are next. Where it is not, a new round begins. */
static void many_program_read(polar_many *many, many_program *p) {
    while (!p->done && p->rows[p->row].has_logits) {
        const many_row *row = &p->rows[p->row];
        int next = p->row + 1;
        /* broken numbers end a program */
        if (row->best < 0) {
            p->status = POLAR_NUMERIC;
            p->done = 1;
            return;
        }
        if (p->forced) {
            p->logprob += row->logprob;
            p->done = next == p->n_forced;
            p->row = next;
            continue;
        }
        many_program_take(many, p, row->best, row->logprob);
        if (p->done) return;
        /* the row of that token, if it was drafted; else the token becomes the first row of the next round */
        while (next < p->n_rows && (p->rows[next].parent != p->row || p->rows[next].token != row->best)) next++;
        if (next == p->n_rows) {
            many_rows_next(many, p, row->best);
            p->call = 0;
            return;
        }
        p->row = next;
        p->eager = 1;
        p->draft = p->rows[next].draft;
        p->cell_of[p->rows[next].depth] = (int16_t)p->rows[next].cell;
        many->stats.n_accepted++;
    }
}

/* A path that was given, and its place in the order of reports: see many_run_report. */
typedef struct many_job {
    polar_path path;
    const polar_many_result *result; /* NULL: not known yet */
    int64_t begun;                   /* time at which it was given */
    int64_t ends;                    /* time at which it ends; without a result the earliest that is still possible */
    const polar_many_result *first; /* many->first when it was given: what it begins with is known, and takes no time */
    int reported;
} many_job;

/* One call of polar_many_stream, polar_many_run or polar_many_score. */
typedef struct many_run {
    polar_many_next next; /* the caller's functions */
    polar_many_done done;
    void *user;
    many_job *jobs; /* (n_jobs): by number; all before `oldest` are reported */
    int *pending;   /* (n_pending): numbers of the jobs that wait to begin; the last is the next to begin */
    size_t job_capacity, pending_capacity;
    int n_jobs, oldest, n_pending;
    int n_ended; /* jobs with a result, reported or not */
    int n_flight;
    int64_t time;          /* of the last report */
    many_program *waiting; /* the next to begin, for which there is no memory yet; NULL: none is made */
    many_program *flight[MANY_FLIGHT];
    const int32_t *forced; /* (n_forced): tokens to score; NULL: generate */
    int n_forced;
    double *logprob; /* of these tokens: the result */
} many_run;

/* Lexicographic order of paths: negative, 0 or positive. The beginning of a path comes before it. */
static int many_path_compare(polar_path path, polar_path other) {
    for (int i = 0; i < path.n && i < other.n; i++)
        if (path.calls[i] != other.calls[i]) return path.calls[i] < other.calls[i] ? -1 : 1;
    return (path.n > other.n) - (path.n < other.n);
}

/* Adds a job. Jobs wait in lexicographic order of their paths, which is the order of a walk through the trie, so that
 * what paths share is used while it is there; of equal paths the earlier one is first. */
static polar_status many_run_add(polar_many *many, many_run *run, polar_path path, polar_error *e) {
    void *jobs = run->jobs, *pending = run->pending;
    const many_job job = {path, NULL, run->time, run->time + 1, many->first, 0};
    const polar_status status = many_path_check(many, path, e);
    int low = 0, high = run->n_pending;
    if (status) return status;
    if (!mem_grow(&many->allocator, &jobs, &run->job_capacity, (size_t)run->n_jobs + 1, sizeof *run->jobs, e))
        return POLAR_MEMORY;
    run->jobs = jobs;
    if (!mem_grow(&many->allocator, &pending, &run->pending_capacity, (size_t)run->n_pending + 1, sizeof *run->pending,
                  e))
        return POLAR_MEMORY;
    run->pending = pending;
    while (low < high) { /* binary search; the list goes from last to first */
        const int middle = low + (high - low) / 2;
        if (many_path_compare(run->jobs[run->pending[middle]].path, path) > 0) low = middle + 1;
        else high = middle;
    }
    memmove(run->pending + low + 1, run->pending + low, (size_t)(run->n_pending - low) * sizeof *run->pending);
    run->pending[low] = run->n_jobs;
    run->n_pending++;
    run->jobs[run->n_jobs++] = job;
    return POLAR_OK;
}

/* The caller said stop. */
static polar_status many_run_cancelled(const many_run *run, polar_error *e) {
    return fail(e, POLAR_CANCELLED, "cancelled after %d of %d programs", run->n_ended, run->n_jobs);
}

/* Asks the caller for paths until there is none for now. */
static polar_status many_run_ask(polar_many *many, many_run *run, polar_error *e) {
    polar_path path = {NULL, 0};
    polar_status status = POLAR_OK;
    int more = run->next(run->user, &path);
    while (more > 0 && !status) {
        status = many_run_add(many, run, path, e);
        if (!status) more = run->next(run->user, &path);
    }
    return more < 0 ? many_run_cancelled(run, e) : status;
}

/* The time at which a job ends whose answer has these n tokens, or, if more may follow, the earliest time at which it
 * can end: begun + 1 + n - max(tokens in common with the first result, tokens in common with a given answer) One step
 * is for the prompt, and one for each token from where the answer leaves what was known when the job was given. It
 * never becomes earlier as the answer grows, since the maximum grows by one per token at most. */
static void many_job_tokens(const polar_many *many, many_job *j, const int32_t *tokens, int n) {
    const int n_first = j->first ? MIN(n, j->first->n_tokens) : 0;
    int known = 0, given = 0;
    while (known < n_first && tokens[known] == j->first->tokens[known]) known++;
    for (int draft = 0; given < n; given++) {
        draft = many_draft_child(many, draft, tokens[given]);
        if (draft < 0 || !many->drafts[draft].given) break;
    }
    j->ends = j->begun + 1 + n - MAX(known, given);
}

/* Notes the result of a job, NULL when tokens were scored. One without a finite logit counts as the longest answer,
 * wherever its numbers broke. */
static void many_run_set_result(const polar_many *many, many_run *run, int number, const polar_many_result *result) {
    many_job *j = &run->jobs[number];
    run->n_ended++;
    j->result = result;
    if (!result) return;
    if (result->status) j->ends = j->begun + 1 + many->options.max_tokens;
    else many_job_tokens(many, j, result->tokens, result->n_tokens);
}

/* Hands out results in the order of the times at which their jobs end, of equal ones the lower number first, and asks
 * for new paths after each: their jobs begin at the time of that report. So a result waits until no job without one can
 * still end before it. The times depend on paths, answers and given answers only, as if every job ran by itself, one
 * step at a time, from when it was given. What the caller knows when it makes a path is therefore always the same,
 * whichever program really ended first. */
static polar_status many_run_report(polar_many *many, many_run *run, polar_error *e) {
    polar_status status = POLAR_OK;
    while (!status) {
        many_job *best = NULL;
        for (int i = run->oldest; i < run->n_jobs; i++)
            if (!run->jobs[i].reported && (!best || run->jobs[i].ends < best->ends)) best = &run->jobs[i];
        if (!best || !best->result) return POLAR_OK;
        /* time goes on to its end, where new paths may begin */
        best->reported = 1;
        run->time = best->ends;
        while (run->oldest < run->n_jobs && run->jobs[run->oldest].reported) run->oldest++;
        if (!many->first) many->first = best->result;
        if (run->done(run->user, (int)(best - run->jobs), best->result)) status = many_run_cancelled(run, e);
        else status = many_run_ask(many, run, e);
    }
    return status;
}

/* Begins programs as long as there is memory for them next to those that run; one always runs. A path that has run
 * since the prompt has its result at once. */
static polar_status many_run_admit(polar_many *many, many_run *run, polar_error *e) {
    const int most = many->options.no_batch ? 1 : MANY_FLIGHT;
    const size_t bound = many->options.cache_bytes;
    while ((run->waiting || run->n_pending) && run->n_flight < most) {
        many_program *p = run->waiting;
        const many_answer *known;
        size_t need;
        polar_status status;
        /* the next job's program, unless it was made before and had to wait */
        if (!p) {
            const int job = run->pending[run->n_pending - 1];
            p = many_program_create(many, run->jobs[job].path, run->forced, run->n_forced, e);
            if (!p) return POLAR_MEMORY;
            p->job = job;
            run->n_pending--;
            run->waiting = p;
        }
        /* its result, if the same path has run */
        known = p->forced ? NULL : p->nodes[p->path.n - 1]->answer;
        if (known) {
            many_run_set_result(many, run, p->job, &known->result);
            many_program_free(many, p);
            run->waiting = NULL;
            continue;
        }
        /* else it begins, if what it may need fits next to what the others may need */
        need = many_program_reserve(many, p);
        if (run->n_flight && (many->reserved > bound || need > bound - many->reserved)) return POLAR_OK;
        many_program_start(many, p);
        run->flight[run->n_flight++] = p;
        run->waiting = NULL;
        status = many_program_own_kv(many, p, e);
        if (status) return status;
    }
    return POLAR_OK;
}

/* Keeps the result of a program that is done, for its job, for later jobs with the same path, and as a draft. */
static polar_status many_run_finish(polar_many *many, many_run *run, many_program *p, polar_error *e) {
    many_answer *a;
    if (p->forced) {
        *run->logprob = p->logprob;
        many_run_set_result(many, run, p->job, NULL);
        if (p->status)
            return fail(e, p->status, "the logits at position %d are not finite: broken weights?",
                        many->n_prompt + p->row - 1);
        return POLAR_OK;
    }
    if (p->status) { /* there is no answer */
        p->n_tokens = 0;
        p->bytes.length = 0;
        p->logprob = 0;
        p->stop = POLAR_STOP_LIMIT;
    } else gen_finish(&p->text, p->stop);
    if (p->bytes.failed) return fail(e, POLAR_MEMORY, "out of memory: the text of an answer");
    a = many_answer_create(many, p->stop, p->tokens, p->n_tokens, &p->bytes, p->logprob, e);
    if (!a) return POLAR_MEMORY;
    a->result.status = p->status;
    many_run_set_result(many, run, p->job, &a->result);
    if (!many->options.no_share) p->nodes[p->path.n - 1]->answer = a;
    if (many->options.no_draft || p->status) return POLAR_OK;
    return many_draft_add(many, p->tokens, p->n_tokens, 0, e);
}

/* Computes and reads logits. Programs that are done leave; for the others the earliest end of their job is updated. */
static polar_status many_run_read(polar_many *many, many_run *run, polar_error *e) {
    polar_status status = POLAR_OK;
    int left = 0;
    many_outputs(many, run->flight, run->n_flight);
    for (int i = 0; i < run->n_flight; i++) {
        many_program *p = run->flight[i];
        if (p->call == p->path.n && !status) many_program_read(many, p);
        if (!status) status = p->done ? many_run_finish(many, run, p, e) : many_program_own_kv(many, p, e);
        if (p->done) many_program_end(many, p);
        else {
            many_job_tokens(many, &run->jobs[p->job], p->tokens, p->n_tokens);
            run->flight[left++] = p;
        }
    }
    run->n_flight = left;
    return status;
}

/* Moves all programs to their next call that has work to do, and finds the lowest layer among these calls; -1 if all
 * programs wait for logits. */
static polar_status many_run_layer(polar_many *many, many_run *run, int *layer, polar_error *e) {
    *layer = -1;
    for (int i = 0; i < run->n_flight; i++) {
        many_program *p = run->flight[i];
        const polar_status status = many_program_advance(many, p, e);
        if (status) return status;
        if (p->call < p->path.n && (*layer < 0 || p->path.calls[p->call] % CALL_PASS < *layer))
            *layer = p->path.calls[p->call] % CALL_PASS;
    }
    return POLAR_OK;
}

/* One step of a run: new programs, then a pass through a layer, or, when all programs in flight wait for logits, what
 * these say. */
static polar_status many_run_step(polar_many *many, many_run *run, polar_error *e) {
    const int ended = run->n_ended;
    int layer = -1;
    polar_status status = many_run_admit(many, run, e);
    if (!status && run->n_ended > ended) return many_run_report(many, run, e); /* paths that had run before */
    if (!status) status = many_run_layer(many, run, &layer, e);
    if (status) return status;
    /* a layer, or else logits */
    if (layer >= 0) {
        many_pass(many, run->flight, run->n_flight, layer);
        return POLAR_OK;
    }
    status = many_run_read(many, run, e);
    return status ? status : many_run_report(many, run, e);
}

/* Runs until the caller has no paths and all jobs are done, and frees what the run holds. */
static polar_status many_run_jobs(polar_many *many, many_run *run, polar_error *e) {
    const int most = MIN(many->options.max_tokens, many->model->n_ctx_train - many->n_prompt);
    polar_status status = many_run_ask(many, run, e);
    if (!status && run->n_jobs) status = many_workspace(many, run->forced ? run->n_forced : most, e);
    while (!status && run->n_ended < run->n_jobs) {
        if (many->options.progress &&
            many->options.progress(many->options.progress_user, (double)run->n_ended / run->n_jobs))
            status = many_run_cancelled(run, e);
        if (!status) status = many_run_step(many, run, e);
    }
    /* after a failure some programs are left */
    for (int i = 0; i < run->n_flight; i++) many_program_end(many, run->flight[i]);
    many_program_free(many, run->waiting);
    mem_free(&many->allocator, run->jobs, run->job_capacity * sizeof *run->jobs);
    mem_free(&many->allocator, run->pending, run->pending_capacity * sizeof *run->pending);
    return status;
}

/* Each result is reported once. The rule of the order: results are reported in the order of the steps at which their
 * paths end, of equal ones the lower number first, where
 *
 *     end = begin + 1 + n_tokens - known
 *
 * - begin is 0 for paths that are given at the start, else the end of the path that was reported right before;
 * - known is the number of tokens with which the answer begins like what was known when the path was given: the longest
 *   common beginning with any draft, or with the first result of this prompt if it was reported by then;
 * - a path without a finite logit (POLAR_NUMERIC) has end = begin + 1 + max_tokens.
 * So a short answer may be reported before a longer one with a lower number, and a result may have to wait for a path
 * that could still end before it. Example without drafts: paths 0, 1, 2 are given at the start, and their answers have
 * 5, 3 and 5 tokens. They end at 6, 4 and 6, and 1 is reported first. Path 3, given then, begins at 4; its answer has 4
 * tokens, of which the first 3 are those of result 1, so it ends at 4 + 1 + 4 - 3 = 6. The order is 1, 0, 2, 3. */
polar_status polar_many_stream(polar_many *many, polar_many_next next, polar_many_done done, void *user,
                               polar_error *error) {
    many_run run;
    err_clear(error);
    if (!next || !done) return fail(error, POLAR_ARGUMENT, "polar_many_stream: next or done is NULL");
    memset(&run, 0, sizeof run);
    run.next = next;
    run.done = done;
    run.user = user;
    return many_run_jobs(many, &run, error);
}

/* Paths that are all there from the start, for polar_many_run. */
typedef struct many_list {
    const polar_path *paths;
    int n_paths, n_given;
    polar_many_result *results;
} many_list;

/* A polar_many_next over the list. */
static int many_list_next(void *user, polar_path *path) {
    many_list *l = user;
    if (l->n_given == l->n_paths) return 0;
    *path = l->paths[l->n_given++];
    return 1;
}

/* A polar_many_done that copies each result to its place. */
static int many_list_done(void *user, int number, const polar_many_result *result) {
    many_list *l = user;
    l->results[number] = *result;
    return 0;
}

/* See polar.h. All paths are checked before the first one runs. */
polar_status polar_many_run(polar_many *many, const polar_path *paths, int n_paths, polar_many_result *results,
                            polar_error *error) {
    many_list list = {paths, n_paths, 0, results};
    polar_status status = POLAR_OK;
    err_clear(error);
    if (n_paths < 0 || (n_paths && (!paths || !results)))
        return fail(error, POLAR_ARGUMENT, "polar_many_run: %d paths", n_paths);
    for (int i = 0; i < n_paths && !status; i++) status = many_path_check(many, paths[i], error);
    return status ? status : polar_many_stream(many, many_list_next, many_list_done, &list, error);
}

/* See polar.h. The tokens are the rows of one round, and the logits of each score the token behind it. */
polar_status polar_many_score(polar_many *many, polar_path path, const int32_t *tokens, int n, double *logprob,
                              polar_error *error) {
    many_list list = {&path, 1, 0, NULL};
    many_run run;
    polar_status status;
    err_clear(error);
    status = many_path_check(many, path, error);
    if (!status) status = many_tokens_check(many->model, tokens, n, "continuation", error);
    if (status) return status;
    if (n > many->model->n_ctx_train - many->n_prompt)
        return fail(error, POLAR_CONTEXT, "%d tokens after a prompt of %d, the model was trained for %d", n,
                    many->n_prompt, many->model->n_ctx_train);
    *logprob = 0;
    memset(&run, 0, sizeof run);
    run.next = many_list_next;
    run.user = &list;
    run.forced = tokens;
    run.n_forced = n;
    run.logprob = logprob;
    return many_run_jobs(many, &run, error);
}

/* See polar.h. */
void polar_many_get_stats(const polar_many *many, polar_many_stats *stats) {
    *stats = many->stats;
    stats->cache_bytes = many->bytes;
}
#endif /* POLAR_NO_SEARCH */

/* ======================================================================================
 * [search] Search for programs
 *
 * Monte Carlo tree search over edits of the identity, for one question whose answer is known. An edit skips a run of
 * layers or executes it several times, with the option max_damped also in damped passes; a node is a set of edits
 * that do not overlap; a child has one edit more than its parent. The rule, whose code is "the rule" below,
 * simulation by simulation:
 *
 *   1. Select. From the root go down to the child with the largest
 *          R/v + c sqrt(ln V / v) - lambda |pi|/D
 *      where R is the child's sum of rewards and v its visits, V the simulations so far, |pi| the calls of its program.
 *   2. Expand. A node that has fewer than max(1, ceil(alpha v^beta)) children, and with probability epsilon any other
 *      node, gets a new child instead: an edit drawn uniformly from those that are possible and not tried there.
 *   3. Evaluate. The caller runs the child's program on the question; the reward is 1 for a correct answer, else 0.
 *   4. Backpropagate. The reward is added to every node on the way from the root.
 *
 * With a prior, weights P of edits that other questions taught, the score is that of PUCT, which prefers edits with a
 * large P among those that were visited as often:
 *          R/v + c P sqrt(V) / (1 + v) - lambda |pi|/D
 * and a node that has room gets one of the untried edits with the largest P. Those of probability epsilon are drawn
 * from all as before, so that no edit is out of reach.
 *
 * The first simulation evaluates the root, which is the identity, or in a looped model all layers n_loops times: its
 * children are fewer loops, and one loop has the edits. It is not counted against the budget. What the
 * papers leave open is settled like this:
 * - V counts the identity's evaluation too, so that ln V is defined; it equals the visits of the root.
 * - [C] has no limit of children, so its "unexplored child" of probability epsilon is an edit that was not tried. Here
 *   it may exceed the limit, and the next regular expansion comes later in return.
 * - Edit sets reached in another order are one node [R]. A simulation whose new edit leads to a node that exists ends
 *   there with the reward known for it, so that each simulation adds one edge at most.
 * - Edit sets with the same path (two layers skipped at once or one by one) are two nodes with one result: the caller
 *   sees each path once. Such a simulation counts like any other, which bounds the work in spaces that are smaller
 *   than the budget.
 * - Of equal scores the child made first wins. As edits are drawn uniformly over the depth, that prefers no layer. Nor
 *   does the order of edits: placing them from left to right made the first search of [R] favour late layers.
 * - While a program waits for its reward, the simulation counts as a visit without one, so that several programs can
 *   be in flight and differ.
 *
 * Start reading at mcts_descend (steps 1 and 2), then mcts_backpropagate (4) and polar_search_next, which ties them
 * together; step 3 happens between polar_search_next and polar_search_report. Promises: the same trajectory on every
 * machine; memory fixed by the options. Uses: [err] [mem] [num] [prog].
 * ====================================================================================== */
#ifndef POLAR_NO_SEARCH

enum {
    MCTS_MAX_SIMULATIONS = 1 << 20,
    MCTS_MAX_TIMES = 64,
    MCTS_MAX_IN_FLIGHT = 4096
};

/* The layers start .. start + length - 1 are executed `times` times as one segment, perhaps in damped passes; times 0
 * skips them. */
typedef struct mcts_edit {
    int start, length, times, damped;
} mcts_edit;

/* A set of edits: those of `parent` and one more. Nodes, edges and results name each other by their index. */
typedef struct mcts_node {
    mcts_edit edit;
    int parent;                   /* the node it was first reached from, -1 at the root */
    int n_edits;
    int n_calls;                  /* |pi|: layer calls of its program */
    int first_edge, last_edge;    /* list of its edges, -1 if it has none */
    int n_children;
    int result;                   /* that of its path */
    int visits;                   /* v: simulations through it, those in flight included */
    double reward;                /* R: sum of their rewards */
    uint64_t set_hash, path_hash; /* sums over the edits, so that their order does not matter */
} mcts_node;

/* From a node to the node with one edit more. A node can be the child of several. */
typedef struct mcts_edge {
    int child, next; /* next edge of the same node, -1 after the last */
    int action;      /* number of the edit, see mcts_action */
    double p;        /* P of the edit, 1 without a prior */
} mcts_edge;

typedef enum mcts_state { MCTS_NEW, MCTS_PROPOSED, MCTS_KNOWN } mcts_state;

/* A distinct path; its index is the id by which the caller reports its reward. */
typedef struct mcts_result {
    int node;       /* the first node with the path */
    int parent;     /* result of that node's parent, -1 for the identity */
    int simulation; /* in which the path was met */
    mcts_state state;
    double reward;
} mcts_result;

/* A simulation that waits for the reward of `result`. */
typedef struct mcts_flight {
    int n, result; /* n 0: the place is free */
    int *nodes;    /* (max_depth) the n nodes it came through, from the root down */
} mcts_flight;

struct polar_search {
    polar_allocator allocator;
    void *block; /* holds this struct and all arrays */
    size_t bytes;
    polar_search_options options;
    uint64_t rng;
    int n_layer;
    int max_calls;         /* |pi| of a program at most */
    int n_actions;         /* edits of the identity: (start, length, times) */
    int max_depth;         /* nodes on the way from the root at most */
    int n_started, n_done; /* simulations, the identity's included */
    int n_nodes, n_edges, n_results;
    mcts_node *nodes;     /* (simulations + 1), as are edges and results; node 0 is the root */
    mcts_edge *edges;
    mcts_result *results;
    int table_size;       /* of the two hash tables, a power of two; they probe linearly */
    int *node_table;      /* (table_size) node + 1 by set_hash, 0 where empty */
    int *path_table;      /* (table_size) result + 1 by path_hash, 0 where empty */
    mcts_flight *flights; /* (max_in_flight) */
    int *flight_nodes;    /* (max_in_flight, max_depth) */
    uint8_t *tried;       /* a bit for each action: written by mcts_mark_tried, read by mcts_action */
};

const char *polar_search_space_name(polar_search_space space) {
    static const char *const names[] = {"both", "skip", "loop"};
    return (unsigned)space < (unsigned)COUNT(names) ? names[space] : NULL;
}

/* --- edits and programs --------------------------------------------------------------- */

/* How many values of `times` the search space has without damped passes: 0 to skip, 2 .. max_times to loop, or both. */
static int mcts_n_plain(const polar_search_options *o) {
    return o->space == POLAR_SEARCH_SKIP ? 1 : o->space == POLAR_SEARCH_LOOP ? o->max_times - 1 : o->max_times;
}

/* And with those, 2 .. max_damped. */
static int mcts_n_kinds(const polar_search_options *o) {
    return mcts_n_plain(o) + (o->space == POLAR_SEARCH_SKIP ? 0 : MAX(0, o->max_damped - 1));
}

/* The kind-th of these, plain ones first, ascending. */
static mcts_edit mcts_kind(const polar_search_options *o, int start, int length, int kind) {
    const int n = mcts_n_plain(o), times = o->space == POLAR_SEARCH_LOOP ? kind + 2 : kind == 0 ? 0 : kind + 1;
    const mcts_edit e = {start, length, kind < n ? times : kind - n + 2, kind >= n};
    return e;
}

/* Calls that an edit adds to |pi|; negative for a skip. */
static int mcts_extra_calls(mcts_edit e) {
    return (e.times - 1) * e.length;
}

/* The hash of an edit. Hashes of sets are sums of it. */
static uint64_t mcts_hash(mcts_edit e) {
    uint64_t x = (uint64_t)e.damped << 48 | (uint64_t)e.start << 32 | (uint64_t)e.length << 16 | (uint64_t)e.times;
    return rng_next(&x);
}

/* What an edit adds to path_hash. Layers skipped together or one by one make the same path, so a skip is hashed layer
 * by layer; one loop adds nothing to the edits in it. */
static uint64_t mcts_path_hash(mcts_edit e) {
    uint64_t sum = 0;
    if (e.times) return e.times == 1 ? 0 : mcts_hash(e);
    for (int i = 0; i < e.length; i++) {
        mcts_edit one = {e.start + i, 1, 0, 0};
        sum += mcts_hash(one);
    }
    return sum;
}

/* The program of a node with neighbouring skips joined: nodes with the same path have the same one. */
static void mcts_program(const polar_search *s, int node, polar_program *p) {
    mcts_edit starting[POLAR_MAX_LAYER]; /* the edit that starts at a layer; length 0 where none does */
    int end = 0;                         /* of the last segment */
    memset(starting, 0, sizeof starting);
    memset(p, 0, sizeof *p);
    p->n_layer = s->n_layer;
    for (int n = node; n > 0; n = s->nodes[n].parent)
        if (s->nodes[n].edit.times != 1) starting[s->nodes[n].edit.start] = s->nodes[n].edit;
    for (int i = 0; i < s->n_layer; i++) {
        const mcts_edit e = starting[i];
        polar_segment *last = p->n_segments ? &p->segments[p->n_segments - 1] : NULL;
        if (!e.length || e.times == 1) continue;
        if (last && last->times == 0 && e.times == 0 && end == i) {
            last->length = (int16_t)(last->length + e.length);
        } else {
            if (end < i) prog_append(p, end, i - end, 1, 0);
            prog_append(p, i, e.length, e.times, e.damped);
        }
        end = i + e.length;
    }
    if (end < s->n_layer) prog_append(p, end, s->n_layer - end, node ? 1 : s->options.n_loops, 0);
}

/* --- finding equal sets and paths ----------------------------------------------------- */

/* 1 if the set of `node` holds the edit. Edits of a set do not overlap, so at most one starts at a layer. */
static int mcts_has_edit(const polar_search *s, int node, mcts_edit e) {
    for (int n = node; n > 0; n = s->nodes[n].parent) {
        mcts_edit x = s->nodes[n].edit;
        if (x.start == e.start) return x.length == e.length && x.times == e.times && x.damped == e.damped;
    }
    return 0;
}

/* The node whose set is that of `node` and `extra`, or -1; `hash` is the hash of that set. Equal hashes are not taken
 * for equal sets: as many edits, each of them in the other set, are. */
static int mcts_find_node(const polar_search *s, int node, mcts_edit extra, uint64_t hash) {
    const int mask = s->table_size - 1;
    for (int i = (int)(hash & (uint64_t)mask); s->node_table[i]; i = (i + 1) & mask) {
        int other = s->node_table[i] - 1, equal;
        if (s->nodes[other].set_hash != hash || s->nodes[other].n_edits != s->nodes[node].n_edits + 1) continue;
        equal = mcts_has_edit(s, other, extra);
        for (int n = node; n > 0 && equal; n = s->nodes[n].parent) equal = mcts_has_edit(s, other, s->nodes[n].edit);
        if (equal) return other;
    }
    return -1;
}

/* Puts a value into one of the hash tables, which are never more than half full. */
static void mcts_insert(int *table, int size, uint64_t hash, int value) {
    int i = (int)(hash & (uint64_t)(size - 1));
    while (table[i]) i = (i + 1) & (size - 1);
    table[i] = value + 1;
}

/* The result for the path of a node: an earlier one if the path was met before, else a new one. Programs are compared,
 * not their hashes. */
static int mcts_find_result(polar_search *s, int node) {
    const int mask = s->table_size - 1;
    const uint64_t hash = s->nodes[node].path_hash;
    polar_program mine, other;
    mcts_result *r;
    mcts_program(s, node, &mine);
    for (int i = (int)(hash & (uint64_t)mask); s->path_table[i]; i = (i + 1) & mask) {
        int result = s->path_table[i] - 1;
        if (s->nodes[s->results[result].node].path_hash != hash) continue;
        mcts_program(s, s->results[result].node, &other);
        if (!memcmp(&mine, &other, sizeof mine)) return result;
    }
    r = &s->results[s->n_results];
    r->node = node;
    r->parent = node ? s->nodes[s->nodes[node].parent].result : -1;
    r->simulation = s->n_started;
    mcts_insert(s->path_table, s->table_size, hash, s->n_results);
    return s->n_results++;
}

/* A new node: the edits of `parent` and `e`; the root if parent is -1, whose `e` is all layers n_loops times. */
static int mcts_add_node(polar_search *s, int parent, mcts_edit e, uint64_t set_hash) {
    const int node = s->n_nodes++;
    mcts_node *n = &s->nodes[node];
    n->edit = e;
    n->parent = parent;
    n->first_edge = n->last_edge = -1;
    n->n_edits = parent < 0 ? 0 : s->nodes[parent].n_edits + 1;
    n->n_calls = (parent > 0 ? s->nodes[parent].n_calls : s->n_layer) + mcts_extra_calls(e);
    n->path_hash = (parent > 0 ? s->nodes[parent].path_hash : 0) + mcts_path_hash(e);
    n->set_hash = set_hash;
    mcts_insert(s->node_table, s->table_size, set_hash, node);
    n->result = mcts_find_result(s, node);
    return node;
}

/* --- adding an edit ------------------------------------------------------------------- */

/* Uniform from 0 .. n - 1: floor(n x / 2^32) of the upper 32 bits x of a draw. */
static int mcts_below(uint64_t *rng, int n) {
    return (int)((rng_next(rng) >> 32) * (uint64_t)n >> 32);
}

/* Sets the bits of the actions that lead from the node to its children, and of no others. */
static void mcts_mark_tried(polar_search *s, int node) {
    memset(s->tried, 0, (size_t)(s->n_actions + 7) / 8);
    for (int e = s->nodes[node].first_edge; e >= 0; e = s->edges[e].next)
        s->tried[s->edges[e].action / 8] |= (uint8_t)(1 << s->edges[e].action % 8);
}

/* run[i] = length of the run of layers from i on that no edit of the node touches. */
static void mcts_free_runs(const polar_search *s, int node, int *run) {
    for (int i = 0; i < s->n_layer; i++) run[i] = 1;
    for (int n = node; n > 0; n = s->nodes[n].parent)
        for (int i = 0; i < s->nodes[n].edit.length && s->nodes[n].edit.times != 1; i++)
            run[s->nodes[n].edit.start + i] = 0;
    for (int i = s->n_layer - 2; i >= 0; i--)
        if (run[i]) run[i] += run[i + 1];
}

/* P of an edit, cut to 0 .. 1; 1 without a prior. */
static double mcts_weight(const polar_search *s, mcts_edit e) {
    const polar_segment edit = {(int16_t)e.start, (int16_t)e.length, (int16_t)e.times, (int16_t)e.damped};
    const double w = s->options.prior ? s->options.prior(s->options.prior_user, &edit) : 1;
    return w > 0 ? MIN(w, 1) : 0;
}

/* Goes through the edits that can be added to a node and were not, by start, length and times, up to the one with the
 * index `which`, which is stored, and in `edge` its P and action number (start, length, kind) in mixed radix. Returns
 * how many it met: all of them if `which` is -1. With `least` only those with P >= *least count, which rises to the
 * largest P met. An edit is possible if no other touches its layers and |pi| stays within 1 .. max_calls; that of the
 * root of a looped model is 1 .. n_loops - 1 loops. Needs the marks of mcts_mark_tried. */
static int mcts_action(const polar_search *s, int node, int which, double *least, mcts_edit *edit, mcts_edge *edge) {
    const polar_search_options *o = &s->options;
    const int loops = node ? 0 : o->n_loops - 1, n_kinds = loops ? loops : mcts_n_kinds(o);
    int run[POLAR_MAX_LAYER], n = 0;
    mcts_free_runs(s, node, run);
    for (int start = 0; start < (loops ? 1 : s->n_layer); start++) {
        for (int length = loops ? s->n_layer : 1; length <= MIN(run[start], loops ? length : o->max_length); length++) {
            for (int kind = 0; kind < n_kinds; kind++) {
                const mcts_edit whole = {0, length, kind + 1, 0},
                                e = loops ? whole : mcts_kind(o, start, length, kind);
                const int number = loops ? kind : (start * o->max_length + length - 1) * n_kinds + kind;
                const int calls = (node ? s->nodes[node].n_calls : s->n_layer) + mcts_extra_calls(e);
                double p;
                if (calls < 1 || calls > s->max_calls || s->tried[number / 8] >> number % 8 & 1) continue;
                p = mcts_weight(s, e);
                if (least && p < *least) continue;
                if (least && p > *least) *least = p, n = 0;
                if (n++ != which) continue;
                *edit = e;
                edge->action = number;
                edge->p = p;
                return n;
            }
        }
    }
    return n;
}

/* Draws an edit that the node does not have as a child yet, of those with the largest P or of any, and adds the edge.
 * Returns the child, which may be a node that other parents have already, or -1 if no edit is left; then nothing is
 * drawn. */
static int mcts_expand(polar_search *s, int node, int of_any) {
    mcts_node *parent = &s->nodes[node];
    mcts_edge *edge = &s->edges[s->n_edges];
    mcts_edit e = {0, 0, 0, 0};
    uint64_t hash;
    double largest = 0, *least = of_any ? NULL : &largest;
    int n, child;
    mcts_mark_tried(s, node);
    n = mcts_action(s, node, -1, least, NULL, NULL);
    if (!n) return -1;
    mcts_action(s, node, mcts_below(&s->rng, n), least, &e, edge);
    hash = parent->set_hash + mcts_hash(e);
    child = mcts_find_node(s, node, e, hash);
    if (child < 0) child = mcts_add_node(s, node, e, hash);
    edge->child = child;
    edge->next = -1;
    if (parent->last_edge >= 0) s->edges[parent->last_edge].next = s->n_edges;
    else parent->first_edge = s->n_edges;
    parent->last_edge = s->n_edges++;
    parent->n_children++;
    return child;
}

/* --- the rule ------------------------------------------------------------------------- */

/* Progressive widening: n_children < max(1, ceil(alpha v^beta)). The small number keeps ceil from taking a rounding
 * error above a whole number for more. */
static int mcts_may_widen(const polar_search *s, const mcts_node *n) {
    double limit = mul64(s->options.widening_alpha, pow64(n->visits, s->options.widening_beta));
    return n->n_children < MAX(1, ceil(limit - 1e-9));
}

/* R/v + c sqrt(ln V / v) - lambda |pi|/D, with V the visits of the root, and D its calls; with a prior
 * c P sqrt(V) / (1 + v) inside. */
static double mcts_score(const polar_search *s, const mcts_edge *edge) {
    const mcts_node *child = &s->nodes[edge->child];
    double v = child->visits, all = s->nodes[0].visits;
    double explore = s->options.prior ? mul64(edge->p, sqrt(all)) / (1 + v) : sqrt(log64(all) / v);
    return child->reward / v + mul64(s->options.exploration, explore) -
           mul64(s->options.length_penalty, (double)child->n_calls / s->nodes[0].n_calls);
}

/* The child with the largest score, of equal ones the oldest; -1 if there is none. */
static int mcts_best_child(const polar_search *s, int node) {
    int best = -1;
    double best_score = 0;
    for (int e = s->nodes[node].first_edge; e >= 0; e = s->edges[e].next) {
        double score = mcts_score(s, &s->edges[e]);
        if (best >= 0 && score <= best_score) continue;
        best = s->edges[e].child;
        best_score = score;
    }
    return best;
}

/* 1 with probability epsilon: a draw from [0, 1) with 53 bits is below it. */
static int mcts_explores(polar_search *s) {
    return (double)(rng_next(&s->rng) >> 11) * 1.1102230246251565e-16 < s->options.epsilon; /* 2^-53 */
}

/* Steps 1 and 2: one simulation's way from the root to a new child, or to a node without children to which no edit can
 * be added. Stores the nodes it came through, the root first, and returns their number. Draws: one per node that may
 * not widen, one for the edit. */
static int mcts_descend(polar_search *s, int *nodes) {
    int node = 0, n = 0;
    nodes[n++] = node;
    if (s->n_started == 0) return n; /* the identity */
    for (;;) {
        const int widens = mcts_may_widen(s, &s->nodes[node]);
        const int new_child = widens || mcts_explores(s) ? mcts_expand(s, node, !widens) : -1;
        node = new_child >= 0 ? new_child : mcts_best_child(s, node);
        if (node < 0) return n;
        nodes[n++] = node;
        if (new_child >= 0) return n;
    }
}

/* Step 4: R += reward for every node that the simulation came through. Their visits were counted when it began. */
static void mcts_backpropagate(polar_search *s, mcts_flight *f) {
    for (int i = 0; i < f->n; i++) s->nodes[f->nodes[i]].reward += s->results[f->result].reward;
    f->n = 0;
    s->n_done++;
}

/* A place for one more simulation, or NULL if max_in_flight of them wait for their rewards. */
static mcts_flight *mcts_free_flight(const polar_search *s) {
    for (int i = 0; i < s->options.max_in_flight; i++)
        if (!s->flights[i].n) return &s->flights[i];
    return NULL;
}

/* Starts simulations until one ends at a path that was not met before, which the caller is to evaluate. One that ends
 * at a path whose reward is known is over at once; one whose path is in flight waits for the same reward. */
int polar_search_next(polar_search *s, polar_program *program) {
    while (s->n_started <= s->options.simulations) {
        mcts_flight *f = mcts_free_flight(s);
        mcts_result *r;
        if (!f) break;
        f->n = mcts_descend(s, f->nodes);
        f->result = s->nodes[f->nodes[f->n - 1]].result;
        for (int i = 0; i < f->n; i++) s->nodes[f->nodes[i]].visits++;
        s->n_started++;
        r = &s->results[f->result];
        if (r->state == MCTS_KNOWN) mcts_backpropagate(s, f);
        if (r->state != MCTS_NEW) continue;
        r->state = MCTS_PROPOSED;
        mcts_program(s, r->node, program);
        return f->result;
    }
    return s->n_done > s->options.simulations ? POLAR_SEARCH_DONE : POLAR_SEARCH_WAIT;
}

/* Ends all simulations that wait for this program. */
polar_status polar_search_report(polar_search *s, int id, double reward, polar_error *error) {
    err_clear(error);
    if (id < 0 || id >= s->n_results) return fail(error, POLAR_ARGUMENT, "no program has the id %d", id);
    if (s->results[id].state != MCTS_PROPOSED)
        return fail(error, POLAR_ARGUMENT, "the reward of program %d was reported before", id);
    if (!(reward >= 0 && reward <= 1)) return fail(error, POLAR_ARGUMENT, "a reward must be a number from 0 to 1");
    s->results[id].reward = reward;
    s->results[id].state = MCTS_KNOWN;
    for (int i = 0; i < s->options.max_in_flight; i++)
        if (s->flights[i].n && s->flights[i].result == id) mcts_backpropagate(s, &s->flights[i]);
    return POLAR_OK;
}

/* The identity has its result from the start, but it is shown when its simulation has begun. */
static int mcts_n_results(const polar_search *s) {
    return s->n_started ? s->n_results : 0;
}

int polar_search_get(const polar_search *s, int id, polar_search_result *result) {
    const mcts_result *r;
    if (id < 0 || id >= mcts_n_results(s)) return 0;
    r = &s->results[id];
    mcts_program(s, r->node, &result->program);
    result->parent = r->parent;
    result->simulation = r->simulation;
    result->reported = r->state == MCTS_KNOWN;
    result->reward = r->reward;
    return 1;
}

/* --- creation ------------------------------------------------------------------------- */

/* A finite number, not negative; NaN fails. */
static int mcts_is_sane(double x) {
    return x >= 0 && x <= 1e9;
}

/* What is 0 stands for the defaults of polar.h. */
static void mcts_defaults(polar_search_options *o) {
    o->simulations = option_int(o->simulations, 200);
    o->length_penalty = option_number(o->length_penalty, 5.0);
    o->exploration = option_number(o->exploration, 1.41421356237309505);
    o->epsilon = option_number(o->epsilon, 0.1);
    o->widening_alpha = option_number(o->widening_alpha, 2.0);
    o->widening_beta = option_number(o->widening_beta, 0.5);
    o->max_length = option_int(o->max_length, 4);
    o->max_times = option_int(o->max_times, 5);
    o->max_in_flight = option_int(o->max_in_flight, 64);
    o->n_loops = option_int(o->n_loops, 1);
}

/* Refuses options outside their ranges, which also bounds every size that follows from them. */
static polar_status mcts_check(const polar_search_options *o, polar_error *e) {
    if (o->simulations < 0 || o->simulations > MCTS_MAX_SIMULATIONS)
        return fail(e, POLAR_ARGUMENT, "%d simulations: 0..%d are possible", o->simulations, MCTS_MAX_SIMULATIONS);
    if (!polar_search_space_name(o->space)) return fail(e, POLAR_ARGUMENT, "no search space %d", (int)o->space);
    if (o->max_length < 1 || o->max_length > POLAR_MAX_LAYER)
        return fail(e, POLAR_ARGUMENT, "edits of %d layers: 1..%d are possible", o->max_length, POLAR_MAX_LAYER);
    if (o->max_times < 2 || o->max_times > MCTS_MAX_TIMES)
        return fail(e, POLAR_ARGUMENT, "at most %d executions: 2..%d are possible", o->max_times, MCTS_MAX_TIMES);
    if (o->max_damped < 0 || o->max_damped == 1 || o->max_damped > MCTS_MAX_TIMES)
        return fail(e, POLAR_ARGUMENT, "at most %d damped passes: 0, or 2..%d, are possible", o->max_damped,
                    MCTS_MAX_TIMES);
    if (o->max_in_flight < 1 || o->max_in_flight > MCTS_MAX_IN_FLIGHT)
        return fail(e, POLAR_ARGUMENT, "%d in flight: 1..%d are possible", o->max_in_flight, MCTS_MAX_IN_FLIGHT);
    if (!mcts_is_sane(o->length_penalty) || !mcts_is_sane(o->exploration) || !mcts_is_sane(o->widening_alpha))
        return fail(e, POLAR_ARGUMENT, "penalty, exploration and widening must be numbers >= 0");
    if (!(o->widening_beta >= 0 && o->widening_beta <= 1) || !(o->epsilon >= 0 && o->epsilon <= 1))
        return fail(e, POLAR_ARGUMENT, "epsilon and the exponent of the widening must be numbers from 0 to 1");
    if (o->max_cost != 0 && !(o->max_cost >= 1 && o->max_cost <= POLAR_MAX_CALLS))
        return fail(e, POLAR_ARGUMENT, "the largest cost must be at least 1, which is the identity's, or 0 for any");
    return POLAR_OK;
}

/* Everything that follows from the options. */
static polar_status mcts_init(polar_search *s, int n_layer, const polar_search_options *options, polar_error *e) {
    polar_status status = prog_check_layers(n_layer, e);
    memset(s, 0, sizeof *s);
    if (options) s->options = *options;
    mcts_defaults(&s->options);
    if (!status) status = mcts_check(&s->options, e);
    if (status) return status;
    if (s->options.n_loops < 1 || s->options.n_loops > POLAR_MAX_CALLS / n_layer)
        return fail(e, POLAR_ARGUMENT, "%d loops: 1..%d are possible", s->options.n_loops, POLAR_MAX_CALLS / n_layer);
    s->allocator = mem_allocator(s->options.allocator);
    s->n_layer = n_layer;
    s->max_calls = POLAR_MAX_CALLS;
    if (s->options.max_cost > 0)
        s->max_calls = (int)MIN(POLAR_MAX_CALLS,
                                floor(mul64(s->options.max_cost, n_layer * s->options.n_loops) + 1e-9));
    s->options.max_length = MIN(s->options.max_length, n_layer);
    s->n_actions = MAX(n_layer * s->options.max_length * mcts_n_kinds(&s->options), s->options.n_loops);
    /* each edit takes a layer, but for the number of loops; and a simulation */
    s->max_depth = MIN(n_layer + (s->options.n_loops > 1), s->options.simulations) + 1;
    for (s->table_size = 2; s->table_size < 2 * (s->options.simulations + 1);) s->table_size *= 2;
    return POLAR_OK;
}

/* Places the arrays. A simulation adds at most one node, one edge and one result. */
static void mcts_place(polar_search *s, layout *l) {
    const size_t n = (size_t)s->options.simulations + 1, flights = (size_t)s->options.max_in_flight;
    s->nodes = layout_place(l, n, sizeof *s->nodes);
    s->edges = layout_place(l, n, sizeof *s->edges);
    s->results = layout_place(l, n, sizeof *s->results);
    s->node_table = layout_place(l, (size_t)s->table_size, sizeof *s->node_table);
    s->path_table = layout_place(l, (size_t)s->table_size, sizeof *s->path_table);
    s->flights = layout_place(l, flights, sizeof *s->flights);
    s->flight_nodes = layout_place(l, size_of(flights, (size_t)s->max_depth), sizeof *s->flight_nodes);
    s->tried = layout_place(l, (size_t)(s->n_actions + 7) / 8, 1);
}

/* Bytes of a search with its arrays; 0 if they are more than the address space has. */
static size_t mcts_measure(polar_search *s) {
    layout l = layout_begin(NULL);
    layout_place(&l, 1, sizeof *s);
    mcts_place(s, &l);
    return layout_bytes(&l);
}

/* The seed of a question: the user's and a hash of its text. Two questions never share their random numbers, since
 * searches that try the same programs first seem to agree on them [R]. */
static uint64_t mcts_seed(uint64_t seed, const char *question, size_t length) {
    uint64_t state = rng_next(&seed) ^ mem_hash(question, length);
    return rng_next(&state);
}

polar_status polar_search_create(polar_search **out, int n_layer, const char *question, size_t length,
                                 const polar_search_options *options, polar_error *error) {
    mcts_edit all = {0, n_layer, 0, 0};
    polar_search head, *s;
    polar_status status;
    layout l;
    void *block;
    err_clear(error);
    if (!out) return fail(error, POLAR_ARGUMENT, "nowhere to put the search");
    *out = NULL;
    if (!question && length) return fail(error, POLAR_ARGUMENT, "no question");
    status = mcts_init(&head, n_layer, options, error);
    if (status) return status;
    head.bytes = mcts_measure(&head);
    if (!head.bytes) return fail(error, POLAR_MEMORY, "out of memory: the search is larger than the address space");
    block = mem_zeros(&head.allocator, head.bytes, error);
    if (!block) return POLAR_MEMORY;
    l = layout_begin(block);
    s = layout_place(&l, 1, sizeof *s);
    *s = head;
    s->block = block;
    mcts_place(s, &l);
    s->rng = mcts_seed(s->options.seed, question, length);
    for (int i = 0; i < s->options.max_in_flight; i++) s->flights[i].nodes = s->flight_nodes + i * s->max_depth;
    all.times = s->options.n_loops;
    mcts_add_node(s, -1, all, 0); /* the identity */
    *out = s;
    return POLAR_OK;
}

void polar_search_free(polar_search *s) {
    polar_allocator a;
    if (!s) return;
    a = s->allocator; /* the search lies in the block that goes */
    mem_free(&a, s->block, s->bytes);
}

#endif /* POLAR_NO_SEARCH */

/* ======================================================================================
 * [pred] Predictor
 *
 * Two small networks that read a question, and the file that holds them. The network of [P] says for each layer of the
 * model whether a segment starts there and what happens to it; beams make programs of that. The menu network says for
 * each program of a short list how probably it answers the question correctly. Either may be absent.
 *
 *     features (T, q_dim) --- pred_forward --- logits (D, 4) ------- polar_program_beams ----- programs, best first
 *                         \-- menu_forward --- logits (n_menu) ----- polar_menu_rank -- programs, best first
 *
 * In shapes D is n_layer of the model, T the number of the question's tokens, d is d_model; arrays lie row by row.
 *
 * Start reading at pred_forward: the network step by step with its formulas; pred_block_forward above it is one of its
 * encoder blocks, pred_attention_forward the attention of both. Go on with polar_program_beams and menu_forward. The
 * parts around them: mat_* are the matrix products and row operations on which networks and training run; pred_tensors
 * names, orders and places the parameters; pred_read and polar_predictor_save are the file. For each function of the
 * forward pass [train] has its backward. Promises: bits independent of threads and instruction set; files are not
 * trusted.
 *
 * A predictor file is a GGUF file, which other programs can write too; in C with examples/cli/gguf_writer.c. "*" may be
 * left out.
 *   general.architecture "polar-predictor";  polar.version u32 1;  polar.n_layer, polar.q_dim u32
 *   polar.feature* "embedding", "hidden", "encoder";  polar.feature_layer*, polar.max_tokens* u32
 *   polar.model_checksum*, polar.model_fingerprint* u64;  polar.model_name*, polar.encoder_name*, polar.prompt*,
 *   polar.system*, polar.chat* strings;  polar.cascade.threshold* f64, polar.cascade.programs* u32
 *   the network of [P], if any: polar.paths.d_model, .n_head, .n_block (0..8), .n_ff u32
 *   the menu, if any: polar.menu.width, .n_head, .pooling* (POLAR_MENU_SUM, POLAR_MENU_LAST) u32, .price* f64,
 *   .programs strings
 * Tensors are F32; (rows, columns) has columns as dims[0]; d is d_model, w is menu.width, m the number of programs:
 *   q_proj.weight (d, q_dim), .bias (d);  layer_embedding.weight (n_layer, d)
 *   cross_attn.in_proj_weight (3d, d), .in_proj_bias (3d), .out_proj.weight (d, d), .out_proj.bias (d)
 *   layer_encoder.layers.N.: self_attn. with the four of cross_attn.; linear1.weight (n_ff, d), .bias (n_ff);
 *     linear2.weight (d, n_ff), .bias (d); norm1.weight, norm1.bias, norm2.weight, norm2.bias (d)
 *   seg_head.weight (1, d), .bias (1);  op_head.weight (3, d), .bias (3)
 *   menu.project.weight (w, q_dim), .bias (w);  menu.score.weight (menu.n_head, w)
 *   menu.hidden.weight (w, p), .bias (w), p = w (1 + number of flags) + 1;  menu.out.weight (m, w), .bias (m)
 * Uses: [err] [mem] [num] [thread] [gguf] [kern] [prog].
 * ====================================================================================== */

/* --- matrices -------------------------------------------------------------------------
 *
 * C (m, n) += A (m, depth) B (depth, n). The right-hand matrix B is packed in panels of MAT_COLUMNS columns, the last
 * one filled up with zeros: element (k, j) stands at [j / MAT_COLUMNS][k][j % MAT_COLUMNS], so that a kernel reads
 * it front to back. The definition: every element of C is one chain of fused multiply-adds over ascending k,
 *
 *     c = fma(a[k], b[k], c)   for k = 0 .. depth - 1,
 *
 * that starts from what C holds. So neither the size of a tile nor the number of threads changes a bit. A transposed
 * matrix needs no copy: A and B are given with the distances of their rows and of their columns. */

enum { MAT_COLUMNS = 16 };

/* Floats of the panels of a (depth, n) matrix. */
static size_t mat_panels(int depth, int n) {
    return size_of((size_t)depth, ((size_t)n + MAT_COLUMNS - 1) / MAT_COLUMNS * MAT_COLUMNS);
}

/* Packs B (depth, n), whose element (k, j) is b[k * row + j * column]. */
static void mat_pack(float *panels, const float *b, size_t row, size_t column, int depth, int n) {
    for (int j = 0; j < n; j += MAT_COLUMNS) {
        const int width = MIN(MAT_COLUMNS, n - j);
        for (int k = 0; k < depth; k++, panels += MAT_COLUMNS) {
            const float *from = b + (size_t)k * row + (size_t)j * column;
            if (width == MAT_COLUMNS && column == 1) { /* a copy of a known size: two registers */
                memcpy(panels, from, MAT_COLUMNS * sizeof *panels);
                continue;
            }
            if (width < MAT_COLUMNS) memset(panels, 0, MAT_COLUMNS * sizeof *panels); /* the last panel's filling */
            for (int c = 0; c < width; c++) panels[c] = from[(size_t)c * column];
        }
    }
}

/* Constants of an AdamW step; [train] computes them for step t of learning rate lr. */
typedef struct mat_adam {
    float decay;        /* 1 - lr * weight decay */
    float beta1, rest1; /* rest = 1 - beta */
    float beta2, rest2;
    float step;         /* lr / (1 - beta1^t) */
    float root;         /* sqrt(1 - beta2^t) */
    float eps;
    float clip;         /* factor for the gradients */
} mat_adam;

/* What runs differently per instruction set, beside the kernels of [kern]; same bits. A sum over a row of n runs in 8
 * lanes, lane l over the elements l, l + 8, l + 16 .., which sum8 then adds. */
typedef struct mat_kernels {
    /* One panel of C += A B: (m, depth) by (depth, MAT_COLUMNS). Element (i, k) of A is a[i * row + k * column]; rows
     * of C are c_row apart. */
    void (*panel)(int m, int depth, const float *a, size_t row, size_t column, const float *b, float *c, size_t c_row);
    /* LayerNorm: hat = (x - mean(x)) * rstd, y = hat * gain + bias, where rstd = 1 / sqrt(mean((x - mean(x))^2) + eps)
     * is returned. */
    float (*norm_row)(float *y, float *hat, const float *x, const float *gain, const float *bias, int n);
    /* Its backward: dx from dy, and dgain += dy * hat, dbias += dy. */
    void (*norm_row_backward)(float *dx, const float *dy, const float *hat, float rstd, const float *gain,
                              float *dgain, float *dbias, int n);
    /* Backward of p = softmax(scale * s): ds = p * (dp - sum(p * dp)) * scale, in place of dp. */
    void (*softmax_row_backward)(float *dp, const float *p, int n, float scale);
    /* One AdamW step for n parameters p with gradients g, and their means m and v of g and g^2. */
    void (*adam)(float *p, const float *g, float *m, float *v, size_t n, const mat_adam *k);
} mat_kernels;

/* The definition of `panel`. */
static void mat_panel_plain(int m, int depth, const float *a, size_t row, size_t column, const float *b, float *c,
                            size_t c_row) {
    for (int i = 0; i < m; i++, a += row, c += c_row)
        for (int k = 0; k < depth; k++) {
            const float x = a[(size_t)k * column], *y = b + (size_t)k * MAT_COLUMNS;
            for (int j = 0; j < MAT_COLUMNS; j++) c[j] = fma32(x, y[j], c[j]);
        }
}

/* The bodies of the row operations are compiled twice: with fma32, and inside functions for processors that have the
 * instruction, where `hw` is 1. One text for both keeps the bits equal. */
#ifdef __GNUC__
#define MAT_FMA(hw, a, b, c) ((hw) ? __builtin_fmaf(a, b, c) : fma32(a, b, c))
#else
#define MAT_FMA(hw, a, b, c) fma32(a, b, c)
#endif
#define MAT_NORM_EPS 1e-5f

/* norm_row, in three rounds: the mean, the variance of what is left, and the affine map. */
static ALWAYS_INLINE float mat_norm_row(int hw, float *y, float *hat, const float *x, const float *gain,
                                        const float *bias, int n) {
    float s[8] = {0}, v[8] = {0}, mean, rstd;
    int i, l;
    for (i = 0; i + 8 <= n; i += 8) /* s: sum of x */
        for (l = 0; l < 8; l++) s[l] += x[i + l];
    for (l = 0; i + l < n; l++) s[l] += x[i + l];
    mean = sum8(s) / (float)n;
    for (i = 0; i < n; i++) hat[i] = x[i] - mean;
    for (i = 0; i + 8 <= n; i += 8) /* v: sum of (x - mean)^2 */
        for (l = 0; l < 8; l++) v[l] = MAT_FMA(hw, hat[i + l], hat[i + l], v[l]);
    for (l = 0; i + l < n; l++) v[l] = MAT_FMA(hw, hat[i + l], hat[i + l], v[l]);
    rstd = 1.0f / sqrtf(sum8(v) / (float)n + MAT_NORM_EPS);
    for (i = 0; i < n; i++) {
        hat[i] *= rstd;
        y[i] = MAT_FMA(hw, hat[i], gain[i], bias[i]);
    }
    return rstd;
}

/* norm_row_backward. With g = dy * gain: dx = rstd * (g - mean(g) - hat * mean(g * hat)); dx holds g meanwhile. */
static ALWAYS_INLINE void mat_norm_row_backward(int hw, float *dx, const float *dy, const float *hat, float rstd,
                                                const float *gain, float *dgain, float *dbias, int n) {
    float s[8] = {0}, v[8] = {0}, mean, mean_hat;
    int i, l;
    for (i = 0; i < n; i++) {
        dx[i] = dy[i] * gain[i];
        dgain[i] = MAT_FMA(hw, dy[i], hat[i], dgain[i]);
        dbias[i] += dy[i];
    }
    for (i = 0; i + 8 <= n; i += 8) /* s: sum of g, v: sum of g * hat */
        for (l = 0; l < 8; l++) {
            s[l] += dx[i + l];
            v[l] = MAT_FMA(hw, dx[i + l], hat[i + l], v[l]);
        }
    for (l = 0; i + l < n; l++) {
        s[l] += dx[i + l];
        v[l] = MAT_FMA(hw, dx[i + l], hat[i + l], v[l]);
    }
    mean = sum8(s) / (float)n;
    mean_hat = sum8(v) / (float)n;
    for (i = 0; i < n; i++) dx[i] = MAT_FMA(hw, -hat[i], mean_hat, dx[i] - mean) * rstd;
}

/* softmax_row_backward: since dp_i / ds_j = scale * p_i * (1 if i = j, else 0, - p_j), one sum serves the row. */
static ALWAYS_INLINE void mat_softmax_row_backward(int hw, float *dp, const float *p, int n, float scale) {
    float s[8] = {0}, sum;
    int i, l;
    for (i = 0; i + 8 <= n; i += 8) /* s: sum of p * dp */
        for (l = 0; l < 8; l++) s[l] = MAT_FMA(hw, p[i + l], dp[i + l], s[l]);
    for (l = 0; i + l < n; l++) s[l] = MAT_FMA(hw, p[i + l], dp[i + l], s[l]);
    sum = sum8(s);
    for (i = 0; i < n; i++) dp[i] = p[i] * (dp[i] - sum) * scale;
}

/* AdamW:
 *     g = clip g;  m = beta1 m + rest1 g;  v = beta2 v + rest2 g^2;  p = decay p - step m / (sqrt(v) / root + eps) */
static void mat_adam_plain(float *p, const float *g, float *m, float *v, size_t n, const mat_adam *k) {
    for (size_t i = 0; i < n; i++) {
        const float x = g[i] * k->clip;
        m[i] = fma32(k->rest1, x, m[i] * k->beta1);
        v[i] = fma32(x * k->rest2, x, v[i] * k->beta2);
        p[i] = fma32(-k->step, m[i] / (sqrtf(v[i]) / k->root + k->eps), p[i] * k->decay);
    }
}

/* The plain versions of the row operations. */
static float mat_norm_row_plain(float *y, float *hat, const float *x, const float *gain, const float *bias, int n) {
    return mat_norm_row(0, y, hat, x, gain, bias, n);
}

static void mat_norm_row_backward_plain(float *dx, const float *dy, const float *hat, float rstd, const float *gain,
                                        float *dgain, float *dbias, int n) {
    mat_norm_row_backward(0, dx, dy, hat, rstd, gain, dgain, dbias, n);
}

static void mat_softmax_row_backward_plain(float *dp, const float *p, int n, float scale) {
    mat_softmax_row_backward(0, dp, p, n, scale);
}

static const mat_kernels mat_plain = {mat_panel_plain, mat_norm_row_plain, mat_norm_row_backward_plain,
                                      mat_softmax_row_backward_plain, mat_adam_plain};

#ifdef POLAR_X86
/* MAT_TILE makes a function for R rows of C: they stay in 2 R registers, l (columns 0 .. 7) and h (8 .. 15) of each
 * row, while k runs. R = 6 takes 12 of the 16 registers; two more hold a row of B and one an element of A. */
#define MAT_ROWS6(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define MAT_ROWS4(X) X(0) X(1) X(2) X(3)
#define MAT_ROWS2(X) X(0) X(1)
#define MAT_ROWS1(X) X(0)
#define MAT_LOAD(r) __m256 l##r = _mm256_loadu_ps(c + (r) * c_row), h##r = _mm256_loadu_ps(c + (r) * c_row + 8);
#define MAT_STEP(r)                                            \
    {                                                          \
        const __m256 x = _mm256_broadcast_ss(a + (r) * row);   \
        l##r = _mm256_fmadd_ps(x, b0, l##r);                   \
        h##r = _mm256_fmadd_ps(x, b1, h##r);                   \
    }
#define MAT_STORE(r)                             \
    _mm256_storeu_ps(c + (r) * c_row, l##r);     \
    _mm256_storeu_ps(c + (r) * c_row + 8, h##r);
#define MAT_TILE(name, ROWS)                                                                                           \
    static AVX2 void name(int depth, const float *a, size_t row, size_t column, const float *b, float *c,              \
                          size_t c_row) {                                                                              \
        ROWS(MAT_LOAD)                                                                                                 \
        for (int k = 0; k < depth; k++, a += column, b += MAT_COLUMNS) {                                               \
            const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);                                         \
            ROWS(MAT_STEP)                                                                                             \
        }                                                                                                              \
        ROWS(MAT_STORE)                                                                                                \
    }
MAT_TILE(mat_tile6_avx2, MAT_ROWS6)
MAT_TILE(mat_tile4_avx2, MAT_ROWS4)
MAT_TILE(mat_tile2_avx2, MAT_ROWS2)
MAT_TILE(mat_tile1_avx2, MAT_ROWS1)

/* Tiles of 6 rows as long as they fit, then of 4, 2 and 1. */
static void mat_panel_avx2(int m, int depth, const float *a, size_t row, size_t column, const float *b, float *c,
                           size_t c_row) {
    for (int n; m > 0; m -= n, a += (size_t)n * row, c += (size_t)n * c_row) {
        n = m >= 6 ? 6 : m >= 4 ? 4 : m >= 2 ? 2 : 1;
        (n == 6 ? mat_tile6_avx2 : n == 4 ? mat_tile4_avx2 : n == 2 ? mat_tile2_avx2 : mat_tile1_avx2)(
            depth, a, row, column, b, c, c_row);
    }
}

/* The row operations with the instruction; compilers can make vectors of the loops over 8 lanes. */
static AVX2 float mat_norm_row_avx2(float *y, float *hat, const float *x, const float *gain, const float *bias, int n) {
    return mat_norm_row(1, y, hat, x, gain, bias, n);
}

static AVX2 void mat_norm_row_backward_avx2(float *dx, const float *dy, const float *hat, float rstd, const float *gain,
                                       float *dgain, float *dbias, int n) {
    mat_norm_row_backward(1, dx, dy, hat, rstd, gain, dgain, dbias, n);
}

static AVX2 void mat_softmax_row_backward_avx2(float *dp, const float *p, int n, float scale) {
    mat_softmax_row_backward(1, dp, p, n, scale);
}

/* Eight parameters at a time with the operations of mat_adam_plain, which does the rest. */
static AVX2 void mat_adam_avx2(float *p, const float *g, float *m, float *v, size_t n, const mat_adam *k) {
    const __m256 decay = _mm256_set1_ps(k->decay), step = _mm256_set1_ps(k->step), clip = _mm256_set1_ps(k->clip);
    const __m256 beta1 = _mm256_set1_ps(k->beta1), rest1 = _mm256_set1_ps(k->rest1);
    const __m256 beta2 = _mm256_set1_ps(k->beta2), rest2 = _mm256_set1_ps(k->rest2);
    const __m256 root = _mm256_set1_ps(k->root), eps = _mm256_set1_ps(k->eps);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(g + i), clip);
        const __m256 y = _mm256_fmadd_ps(rest1, x, _mm256_mul_ps(_mm256_loadu_ps(m + i), beta1));
        const __m256 z = _mm256_fmadd_ps(_mm256_mul_ps(x, rest2), x, _mm256_mul_ps(_mm256_loadu_ps(v + i), beta2));
        const __m256 divisor = _mm256_add_ps(_mm256_div_ps(_mm256_sqrt_ps(z), root), eps);
        _mm256_storeu_ps(m + i, y);
        _mm256_storeu_ps(v + i, z);
        _mm256_storeu_ps(p + i, _mm256_fnmadd_ps(step, _mm256_div_ps(y, divisor),
                                                 _mm256_mul_ps(_mm256_loadu_ps(p + i), decay)));
    }
    mat_adam_plain(p + i, g + i, m + i, v + i, n - i, k);
}

static const mat_kernels mat_avx2 = {mat_panel_avx2, mat_norm_row_avx2, mat_norm_row_backward_avx2,
                                     mat_softmax_row_backward_avx2, mat_adam_avx2};
#endif

/* The kernels that go with a row of [kern]'s table. */
static const mat_kernels *mat_choose(const kern *k) {
#ifdef POLAR_X86
    if (k->cpu != POLAR_CPU_PLAIN) return &mat_avx2;
#endif
    (void)k;
    return &mat_plain;
}

enum { MAT_EDGE_ROWS = 8 }; /* of C, copied at a time where it is narrower than a panel */

/* C (m, n) += A (m, depth) B (depth, n), where `panels` is B packed; element (i, k) of A is a[i * row + k * column]. */
static void mat_mul(const mat_kernels *kernels, int m, int n, int depth, const float *a, size_t row, size_t column,
                    const float *panels, float *c, size_t c_row) {
    float edge[MAT_EDGE_ROWS * MAT_COLUMNS];
    int j = 0;
    for (; j + MAT_COLUMNS <= n; j += MAT_COLUMNS, panels += (size_t)depth * MAT_COLUMNS)
        kernels->panel(m, depth, a, row, column, panels, c + j, c_row);
    for (int i = 0, rows; j < n && i < m; i += rows) { /* the last panel is wider than what is left of C */
        rows = MIN(MAT_EDGE_ROWS, m - i);
        memset(edge, 0, sizeof edge);
        for (int r = 0; r < rows; r++)
            memcpy(edge + r * MAT_COLUMNS, c + (size_t)(i + r) * c_row + j, (size_t)(n - j) * sizeof *c);
        kernels->panel(rows, depth, a + (size_t)i * row, row, column, panels, edge, MAT_COLUMNS);
        for (int r = 0; r < rows; r++)
            memcpy(c + (size_t)(i + r) * c_row + j, edge + r * MAT_COLUMNS, (size_t)(n - j) * sizeof *c);
    }
}

/* --- the network ----------------------------------------------------------------------
 *
 * Its sizes, its parameters and how they are placed. All parameters stand in one array of floats, so that training
 * goes through them with one loop, and saving, comparing and copying need no list. pred_tensors cuts that array into
 * tensors: to add one, add a field to pred_block or pred_weights and a line there. */

enum {
    PRED_MAX_BLOCK = 8,
    PRED_MAX_HEAD = 64,
    PRED_MAX_WIDTH = 16384, /* of features, layer vectors and feed-forward */
    PRED_MAX_TOKENS = 65536 /* of a question */
};

enum { PRED_SKIP, PRED_KEEP, PRED_REPEAT, PRED_N_OP }; /* the operations on a segment; each is its own `times` */
enum { PRED_SEG, PRED_OP, PRED_N_LOGIT = PRED_OP + PRED_N_OP }; /* the logits of a layer */

/* All sizes of the network. That of [P] has d_model 256, 4 heads, 2 blocks and n_ff 1024: about 2.1 million parameters
 * for q_dim 1024 and 28 layers. */
typedef struct pred_shape {
    int n_layer; /* D: layers of the model */
    int q_dim;   /* length of a feature vector */
    int d_model; /* d: length of the vector of a layer, a multiple of n_head */
    int n_head;  /* of each attention */
    int n_block; /* encoder blocks, may be 0 */
    int n_ff;    /* width of their feed-forward */
} pred_shape;

/* Pointers into one array that holds all parameters in the order of a PyTorch state dict. A weight is (out, in) for
 * y = x W^T + b; `qkv` stacks those of query, key and value. Gradients have the same form. */
typedef struct pred_block {
    float *qkv_weight, *qkv_bias, *out_weight, *out_bias;   /* self-attention: (3 d, d), (3 d), (d, d), (d) */
    float *up_weight, *up_bias, *down_weight, *down_bias;   /* feed-forward: (n_ff, d), (n_ff), (d, n_ff), (d) */
    float *gain1, *bias1, *gain2, *bias2;                   /* LayerNorms behind the two: (d) */
} pred_block;

typedef struct pred_weights {
    float *project_weight, *project_bias;                 /* q_proj: (d, q_dim), (d) */
    float *layers;                                        /* (D, d): what each layer asks the question's tokens */
    float *qkv_weight, *qkv_bias, *out_weight, *out_bias; /* cross-attention, as in a block */
    pred_block block[PRED_MAX_BLOCK];
    float *seg_weight, *seg_bias, *op_weight, *op_bias;   /* heads: (1, d), (1), (3, d), (3) */
} pred_weights;

/* One tensor of a network: its name in files, its shape, and its place. */
typedef struct pred_tensor {
    char name[64];
    int rows, columns; /* rows 0: a vector */
    size_t offset, count; /* floats in the array of all parameters */
    size_t field;         /* bytes from the start of pred_weights or menu_weights to the pointer to it */
    int per_pass; /* training sums its gradient up pass by pass: all but the weights of inner linear layers */
} pred_tensor;

enum { PRED_MAX_TENSORS = 11 + 12 * PRED_MAX_BLOCK };

/* Appends a tensor named prefix + name, behind those that the list has. */
static void pred_add_tensor(pred_tensor *list, int *n, size_t field, const char *prefix, const char *name, int rows,
                            int columns) {
    pred_tensor *t = &list[*n];
    text_buffer s = {t->name, sizeof t->name, 0};
    text_format(&s, "%s%s", prefix, name);
    t->rows = rows;
    t->columns = columns;
    t->count = size_of((size_t)MAX(rows, 1), (size_t)columns);
    t->offset = *n ? size_sum(t[-1].offset, t[-1].count) : 0;
    t->field = field;
    t->per_pass =
        !rows || !strcmp(prefix, "layer_embedding.") || !strcmp(prefix, "seg_head.") || !strcmp(prefix, "op_head.");
    ++*n;
}

#define PRED_FIELD(name) offsetof(pred_weights, name)
#define PRED_BLOCK_FIELD(name) (block + offsetof(pred_block, name))

/* The tensors of the network of programs in the order of the array and of the file. Returns their number. */
static int pred_tensors(const pred_shape *s, pred_tensor *list) {
    const int d = s->d_model;
    int n = 0;
    pred_add_tensor(list, &n, PRED_FIELD(project_weight), "q_proj.", "weight", d, s->q_dim);
    pred_add_tensor(list, &n, PRED_FIELD(project_bias), "q_proj.", "bias", 0, d);
    pred_add_tensor(list, &n, PRED_FIELD(layers), "layer_embedding.", "weight", s->n_layer, d);
    pred_add_tensor(list, &n, PRED_FIELD(qkv_weight), "cross_attn.", "in_proj_weight", 3 * d, d);
    pred_add_tensor(list, &n, PRED_FIELD(qkv_bias), "cross_attn.", "in_proj_bias", 0, 3 * d);
    pred_add_tensor(list, &n, PRED_FIELD(out_weight), "cross_attn.", "out_proj.weight", d, d);
    pred_add_tensor(list, &n, PRED_FIELD(out_bias), "cross_attn.", "out_proj.bias", 0, d);
    for (int b = 0; b < s->n_block; b++) {
        const size_t block = PRED_FIELD(block) + (size_t)b * sizeof(pred_block);
        char name[64];
        text_buffer prefix = {name, sizeof name, 0};
        text_format(&prefix, "layer_encoder.layers.%d.", b);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(qkv_weight), name, "self_attn.in_proj_weight", 3 * d, d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(qkv_bias), name, "self_attn.in_proj_bias", 0, 3 * d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(out_weight), name, "self_attn.out_proj.weight", d, d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(out_bias), name, "self_attn.out_proj.bias", 0, d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(up_weight), name, "linear1.weight", s->n_ff, d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(up_bias), name, "linear1.bias", 0, s->n_ff);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(down_weight), name, "linear2.weight", d, s->n_ff);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(down_bias), name, "linear2.bias", 0, d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(gain1), name, "norm1.weight", 0, d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(bias1), name, "norm1.bias", 0, d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(gain2), name, "norm2.weight", 0, d);
        pred_add_tensor(list, &n, PRED_BLOCK_FIELD(bias2), name, "norm2.bias", 0, d);
    }
    pred_add_tensor(list, &n, PRED_FIELD(seg_weight), "seg_head.", "weight", 1, d);
    pred_add_tensor(list, &n, PRED_FIELD(seg_bias), "seg_head.", "bias", 0, 1);
    pred_add_tensor(list, &n, PRED_FIELD(op_weight), "op_head.", "weight", PRED_N_OP, d);
    pred_add_tensor(list, &n, PRED_FIELD(op_bias), "op_head.", "bias", 0, PRED_N_OP);
    return n;
}

/* Number of parameters; shapes are checked, so it cannot overflow. */
static size_t pred_count(const pred_shape *s) {
    pred_tensor list[PRED_MAX_TENSORS];
    const int n = pred_tensors(s, list);
    return size_sum(list[n - 1].offset, list[n - 1].count);
}

/* Points the fields of a pred_weights or menu_weights to the listed tensors, which stand one behind the other in
 * `params`. With `per_pass` the array holds only those that are marked so. */
static void pred_place_tensors(void *weights, const pred_tensor *list, int n, float *params, int per_pass) {
    for (int i = 0; i < n; i++) {
        if (per_pass && !list[i].per_pass) continue;
        memcpy((char *)weights + list[i].field, &params, sizeof params);
        params += list[i].count;
    }
}

/* Cuts an array of parameters or gradients into tensors; those that it does not hold are NULL. */
static pred_weights pred_place(const pred_shape *s, float *params, int per_pass) {
    pred_tensor list[PRED_MAX_TENSORS];
    pred_weights w;
    memset(&w, 0, sizeof w);
    pred_place_tensors(&w, list, pred_tensors(s, list), params, per_pass);
    return w;
}

/* Refuses sizes out of range; the limits keep every product of them inside size_t. */
static polar_status pred_check_shape(const pred_shape *s, polar_error *e) {
    if (s->n_layer < 1 || s->n_layer > POLAR_MAX_LAYER)
        return fail(e, POLAR_ARGUMENT, "a predictor for %d layers: 1..%d are possible", s->n_layer, POLAR_MAX_LAYER);
    if (s->q_dim < 1 || s->q_dim > PRED_MAX_WIDTH || s->d_model < 1 || s->d_model > PRED_MAX_WIDTH || s->n_ff < 1 ||
        s->n_ff > PRED_MAX_WIDTH)
        return fail(e, POLAR_ARGUMENT, "a predictor of widths %d, %d, %d: 1..%d are possible", s->q_dim, s->d_model,
                    s->n_ff, PRED_MAX_WIDTH);
    if (s->n_head < 1 || s->n_head > PRED_MAX_HEAD || s->d_model % s->n_head)
        return fail(e, POLAR_ARGUMENT, "%d attention heads do not divide vectors of %d", s->n_head, s->d_model);
    if (s->n_block < 0 || s->n_block > PRED_MAX_BLOCK)
        return fail(e, POLAR_ARGUMENT, "a predictor of %d blocks: 0..%d are possible", s->n_block, PRED_MAX_BLOCK);
    return POLAR_OK;
}

/* A linear layer y = x W^T + b. */
typedef struct pred_linear {
    int in, out;
    const float *weight, *bias;
    float *forward;  /* W^T packed, for y = x W^T */
    float *backward; /* W packed, for dx = dy W; NULL where nothing is trained */
} pred_linear;

/* Indices of pred_net.linear: projection, keys and values of the cross-attention, its output, and behind PRED_BLOCK
 * for each block qkv, output, up, down. The queries of the cross-attention are no question's, see pred_pack_queries. */
enum { PRED_PROJECT, PRED_CROSS_KV, PRED_CROSS_OUT, PRED_BLOCK };
enum { PRED_QKV, PRED_OUT, PRED_UP, PRED_DOWN, PRED_PER_BLOCK };
enum { PRED_MAX_LINEAR = PRED_BLOCK + PRED_PER_BLOCK * PRED_MAX_BLOCK };

/* The network of programs, ready to run. */
typedef struct pred_net {
    pred_shape shape;
    const kern *kern;           /* softmax */
    const mat_kernels *kernels; /* products and row operations */
    pred_weights w;
    pred_linear linear[PRED_MAX_LINEAR]; /* from w, by pred_wire */
    int n_linear;
    float *queries;       /* (D, d): the layers' queries, the same for every question */
    float *query_forward; /* (d, d), scratch: the packed weight of the queries */
} pred_net;

/* A linear layer that is not packed yet: `forward` and `backward` are set by whoever places them. */
static pred_linear pred_linear_of(const float *weight, const float *bias, int out, int in) {
    pred_linear l = {in, out, weight, bias, NULL, NULL};
    return l;
}

/* Fills net->linear from net->w, whose pointers are NULL as long as they are not placed. The cross-attention's stacked
 * weight is (query, key, value): its keys and values are rows d .. 3 d - 1. */
static void pred_wire(pred_net *net) {
    const pred_weights *w = &net->w;
    const int d = net->shape.d_model, n_ff = net->shape.n_ff;
    pred_linear *l = net->linear;
    const float *kv_weight = w->qkv_weight ? w->qkv_weight + (size_t)d * (size_t)d : NULL;
    const float *kv_bias = w->qkv_bias ? w->qkv_bias + d : NULL;
    l[PRED_PROJECT] = pred_linear_of(w->project_weight, w->project_bias, d, net->shape.q_dim);
    l[PRED_CROSS_KV] = pred_linear_of(kv_weight, kv_bias, 2 * d, d);
    l[PRED_CROSS_OUT] = pred_linear_of(w->out_weight, w->out_bias, d, d);
    for (int b = 0; b < net->shape.n_block; b++) {
        const pred_block *k = &w->block[b];
        pred_linear *of_block = l + PRED_BLOCK + b * PRED_PER_BLOCK;
        of_block[PRED_QKV] = pred_linear_of(k->qkv_weight, k->qkv_bias, 3 * d, d);
        of_block[PRED_OUT] = pred_linear_of(k->out_weight, k->out_bias, d, d);
        of_block[PRED_UP] = pred_linear_of(k->up_weight, k->up_bias, n_ff, d);
        of_block[PRED_DOWN] = pred_linear_of(k->down_weight, k->down_bias, d, n_ff);
    }
    net->n_linear = PRED_BLOCK + PRED_PER_BLOCK * net->shape.n_block;
}

/* Places what pred_pack fills: packed weights, for training in both directions. Features have no gradient, so the
 * projection runs forward only. */
static void pred_place_packed(pred_net *net, layout *l, int training) {
    const size_t d = (size_t)net->shape.d_model;
    net->queries = layout_place(l, size_of((size_t)net->shape.n_layer, d), sizeof(float));
    net->query_forward = layout_place(l, mat_panels((int)d, (int)d), sizeof(float));
    for (int i = 0; i < net->n_linear; i++) {
        pred_linear *k = &net->linear[i];
        k->forward = layout_place(l, mat_panels(k->in, k->out), sizeof(float));
        if (training && i != PRED_PROJECT) k->backward = layout_place(l, mat_panels(k->out, k->in), sizeof(float));
    }
}

/* y (rows, out) = x (rows, in) W^T + b. Each chain of products starts from the bias. */
static void pred_linear_forward(const mat_kernels *kernels, float *y, const float *x, int rows, const pred_linear *l) {
    for (int r = 0; r < rows; r++) memcpy(y + (size_t)r * (size_t)l->out, l->bias, (size_t)l->out * sizeof *y);
    mat_mul(kernels, rows, l->out, l->in, x, (size_t)l->in, 1, l->forward, y, (size_t)l->out);
}

/* Packs linear layer `i` after its weights changed; the tasks are independent. */
static void pred_pack_task(void *context, int i, int worker) {
    const pred_net *net = context;
    const pred_linear *l = &net->linear[i];
    (void)worker;
    mat_pack(l->forward, l->weight, 1, (size_t)l->in, l->in, l->out);
    if (l->backward) mat_pack(l->backward, l->weight, (size_t)l->in, 1, l->out, l->in);
}

/* queries (D, d) = layers Wq^T + bq. They depend on no question, so they are computed when weights change. */
static void pred_pack_queries(const pred_net *net) {
    const int d = net->shape.d_model;
    pred_linear l = pred_linear_of(net->w.qkv_weight, net->w.qkv_bias, d, d);
    l.forward = net->query_forward;
    mat_pack(l.forward, l.weight, 1, (size_t)d, d, d);
    pred_linear_forward(net->kernels, net->queries, net->w.layers, net->shape.n_layer, &l);
}

/* Everything that follows from the weights; training calls it after each step. */
static MAYBE_UNUSED void pred_pack(pred_net *net, const polar_runner *runner) {
    parallel_for(runner, net->n_linear, pred_pack_task, net);
    pred_pack_queries(net);
}

/* --- dropout --------------------------------------------------------------------------
 *
 * Training only. A mask is a function of numbers and is drawn again in the backward pass instead of being kept. */

/* The key of a stream of random numbers, made from an outer key and a number: of seed, step, example and place, say.
 * No stream depends on what was drawn from another, so that tasks may run in any order. */
static uint64_t pred_key(uint64_t key, uint64_t n) {
    uint64_t state = key ^ n * 0xD1342543DE82EF95u;
    return rng_next(&state);
}

/* Dropout with probability p in the pass of one example. */
typedef struct pred_dropout {
    uint64_t key;       /* of one example in one step */
    unsigned threshold; /* of 65536 values of 16 bits, those below it drop; 0 for no dropout */
    float scale;        /* 1 / (1 - p) */
} pred_dropout;

/* Dropout for one pass: p is rounded to a multiple of 1 / 65536, and `key` names the random numbers, so that a pass
 * that is repeated drops the same elements. */
static MAYBE_UNUSED pred_dropout pred_dropout_of(double p, uint64_t key) {
    pred_dropout d;
    d.key = key;
    d.threshold = (unsigned)(p * 65536.0 + 0.5);
    d.scale = (float)(1.0 / (1.0 - p));
    return d;
}

/* x = x * mask / (1 - p), four elements per draw. The mask depends on the key and the place only, so that the backward
 * pass calls this for dx. Without dropout, `drop` NULL or p 0, nothing changes. */
static void pred_drop(const pred_dropout *drop, int place, float *x, size_t n) {
    uint64_t state, bits = 0;
    if (!drop || !drop->threshold) return;
    state = pred_key(drop->key, (uint64_t)place);
    for (size_t i = 0; i < n; i++, bits >>= 16) {
        if (i % 4 == 0) bits = rng_next(&state);
        x[i] = (bits & 0xffff) < drop->threshold ? 0 : x[i] * drop->scale;
    }
}

/* Where dropout acts: on the probabilities of the cross-attention, and on four results of each block, which begin at
 * DROP_BLOCK + b * DROP_PER_BLOCK. A place has PRED_MAX_HEAD masks, one per head; what has no heads uses the first. */
enum { DROP_CROSS, DROP_BLOCK };
enum { DROP_PROBS, DROP_OUT, DROP_UP, DROP_DOWN, DROP_PER_BLOCK };

/* --- forward --------------------------------------------------------------------------
 *
 * From pred_forward at the end down to its parts, each y = f(x) with the shapes of its arrays. A pass writes what the
 * backward pass will need into a trace, and everything else into scratch memory. */

/* What a block computes, kept for the backward pass. */
typedef struct pred_block_trace {
    float *x;            /* (D, d) input */
    float *qkv;          /* (D, 3 d) queries, keys and values side by side */
    float *probs;        /* (n_head, D, D) attention, before dropout */
    float *context;      /* (D, d) what attention gathers */
    float *hat1, *rstd1; /* (D, d) and (D): first LayerNorm */
    float *mid;          /* (D, d) its result */
    float *up;           /* (D, n_ff) after ReLU and dropout */
    float *hat2, *rstd2; /* (D, d) and (D): second LayerNorm */
} pred_block_trace;

/* The same for a whole pass over one question, or, in training, for several passes one behind the other. */
typedef struct pred_trace {
    int n_tokens;          /* T */
    const float *features; /* (T, q_dim) input, set by the caller */
    float *tokens;         /* (T, d) projected */
    float *kv;             /* (T, 2 d) keys and values side by side */
    float *probs;          /* (n_head, D, T) cross-attention, before dropout */
    float *context;        /* (D, d) what it gathers */
    pred_block_trace block[PRED_MAX_BLOCK];
    float *out;            /* (D, d) the layers' vectors behind the last block */
    float *logits;         /* (D, PRED_N_LOGIT) */
} pred_trace;

/* Memory that a pass needs and nobody reads later. */
typedef struct pred_scratch {
    float *panels; /* packed keys or values of one head */
    float *scores; /* (D, max(T, D)) probabilities of one head after dropout */
    float *sum;    /* (D, d) a residual sum before its LayerNorm */
} pred_scratch;

/* Places the trace of n_passes passes over n_tokens tokens in all. */
static void pred_place_trace(const pred_shape *s, layout *l, pred_trace *t, size_t n_passes, size_t n_tokens) {
    const size_t rows = size_of(n_passes, (size_t)s->n_layer); /* D of each pass */
    const size_t d = (size_t)s->d_model, f = sizeof(float);
    t->tokens = layout_place(l, size_of(n_tokens, d), f);
    t->kv = layout_place(l, size_of(size_of(n_tokens, 2), d), f);
    t->probs = layout_place(l, size_of(n_tokens, (size_t)s->n_layer), size_of(f, (size_t)s->n_head));
    t->context = layout_place(l, size_of(rows, d), f);
    for (int b = 0; b < s->n_block; b++) {
        pred_block_trace *k = &t->block[b];
        k->x = layout_place(l, size_of(rows, d), f);
        k->qkv = layout_place(l, size_of(size_of(rows, 3), d), f);
        k->probs = layout_place(l, size_of(rows, (size_t)s->n_layer), size_of(f, (size_t)s->n_head));
        k->context = layout_place(l, size_of(rows, d), f);
        k->hat1 = layout_place(l, size_of(rows, d), f);
        k->rstd1 = layout_place(l, rows, f);
        k->mid = layout_place(l, size_of(rows, d), f);
        k->up = layout_place(l, size_of(rows, (size_t)s->n_ff), f);
        k->hat2 = layout_place(l, size_of(rows, d), f);
        k->rstd2 = layout_place(l, rows, f);
    }
    t->out = layout_place(l, size_of(rows, d), f);
    t->logits = layout_place(l, size_of(rows, PRED_N_LOGIT), f);
}

/* Places the scratch of a pass over at most n_tokens tokens; self-attention looks at n_layer. */
static void pred_place_scratch(const pred_shape *s, layout *l, pred_scratch *c, size_t n_tokens) {
    const size_t n = MAX(n_tokens, (size_t)s->n_layer), head = (size_t)(s->d_model / s->n_head);
    const size_t keys = mat_panels((int)head, (int)n), values = mat_panels((int)n, (int)head);
    c->panels = layout_place(l, MAX(keys, values), sizeof(float));
    c->scores = layout_place(l, size_of(n, (size_t)s->n_layer), sizeof(float));
    c->sum = layout_place(l, size_of((size_t)s->n_layer, (size_t)s->d_model), sizeof(float));
}

/* Sizes of one attention: n_q layers look at n_kv vectors, tokens or layers, in n_head heads of `head` numbers. */
typedef struct pred_attention {
    const kern *kern;
    const mat_kernels *kernels;
    int n_q, n_kv, n_head, head;
    size_t q_row, kv_row, out_row; /* distance of the rows of q, of k and v, and of the result */
    float scale;                   /* 1 / sqrt(head) */
} pred_attention;

/* The attention of all layers to n_kv vectors. */
static pred_attention pred_attention_of(const pred_net *net, int n_kv, size_t q_row, size_t kv_row) {
    pred_attention a;
    a.kern = net->kern;
    a.kernels = net->kernels;
    a.n_q = net->shape.n_layer;
    a.n_kv = n_kv;
    a.n_head = net->shape.n_head;
    a.head = net->shape.d_model / net->shape.n_head;
    a.q_row = q_row;
    a.kv_row = kv_row;
    a.out_row = (size_t)net->shape.d_model;
    a.scale = 1.0f / sqrtf((float)a.head);
    return a;
}

/* For each head, on its slice of q, k and v:
 *     probs = softmax(q k^T * scale)     (n_q, n_kv)
 *     out = dropout(probs) v             (n_q, head), its slice of the result */
static void pred_attention_forward(const pred_attention *a, float *out, float *probs, const float *q, const float *k,
                                   const float *v, const pred_scratch *c, const pred_dropout *drop, int place) {
    const size_t n_probs = (size_t)a->n_q * (size_t)a->n_kv;
    for (int h = 0; h < a->n_head; h++, probs += n_probs) {
        const size_t slice = (size_t)h * (size_t)a->head;
        memset(probs, 0, n_probs * sizeof *probs); /* q k^T: k is packed as its transpose */
        mat_pack(c->panels, k + slice, 1, a->kv_row, a->head, a->n_kv);
        mat_mul(a->kernels, a->n_q, a->n_kv, a->head, q + slice, a->q_row, 1, c->panels, probs, (size_t)a->n_kv);
        for (int r = 0; r < a->n_q; r++) { /* softmax of a row: the kernel leaves exp(x - max) and returns the sum */
            float *row = probs + (size_t)r * (size_t)a->n_kv, inverse;
            for (int i = 0; i < a->n_kv; i++) row[i] *= a->scale;
            inverse = 1.0f / a->kern->softmax(row, a->n_kv);
            for (int i = 0; i < a->n_kv; i++) row[i] *= inverse;
        }
        memcpy(c->scores, probs, n_probs * sizeof *probs); /* the backward pass needs probs before dropout */
        pred_drop(drop, place * PRED_MAX_HEAD + h, c->scores, n_probs);
        for (int r = 0; r < a->n_q; r++) /* probs v */
            memset(out + (size_t)r * a->out_row + slice, 0, (size_t)a->head * sizeof *out);
        mat_pack(c->panels, v + slice, a->kv_row, 1, a->n_kv, a->head);
        mat_mul(a->kernels, a->n_q, a->head, a->n_kv, c->scores, (size_t)a->n_kv, 1, c->panels, out + slice,
                a->out_row);
    }
}

/* y (rows, d) = LayerNorm(x), row by row; hat (rows, d) and rstd (rows) are kept for the backward pass. */
static void pred_norm_forward(const mat_kernels *kernels, float *y, float *hat, float *rstd, const float *x,
                              const float *gain, const float *bias, int rows, int d) {
    for (int r = 0; r < rows; r++, y += d, hat += d, x += d) rstd[r] = kernels->norm_row(y, hat, x, gain, bias, d);
}

/* a += b: a residual, or the sum of gradients. */
static void pred_add(float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) a[i] += b[i];
}

/* One post-norm transformer encoder block over the vectors of the layers, which attend to each other: t->x (D, d) to
 * y (D, d). In training dropout acts on the probabilities, on `up`, and on both branches before they are added:
 *
 *     [q k v] = x Wqkv^T + bqkv                            (D, 3 d)
 *     context = softmax(q k^T / sqrt(d / n_head)) v        (D, d), head by head
 *     mid = LayerNorm1(x + context Wout^T + bout)          (D, d)
 *     up = relu(mid Wup^T + bup)                           (D, n_ff)
 *     y = LayerNorm2(mid + up Wdown^T + bdown)             (D, d) */
static void pred_block_forward(const pred_net *net, int b, const pred_block_trace *t, float *y, const pred_scratch *c,
                               const pred_dropout *drop) {
    const pred_linear *l = net->linear + PRED_BLOCK + b * PRED_PER_BLOCK;
    const pred_block *w = &net->w.block[b];
    const int rows = net->shape.n_layer, d = net->shape.d_model, place = DROP_BLOCK + b * DROP_PER_BLOCK;
    const size_t n = (size_t)rows * (size_t)d, n_up = (size_t)rows * (size_t)net->shape.n_ff;
    const pred_attention a = pred_attention_of(net, rows, 3 * (size_t)d, 3 * (size_t)d);

    /* self-attention, residual, LayerNorm */
    pred_linear_forward(net->kernels, t->qkv, t->x, rows, &l[PRED_QKV]);
    pred_attention_forward(&a, t->context, t->probs, t->qkv, t->qkv + d, t->qkv + 2 * d, c, drop, place + DROP_PROBS);
    pred_linear_forward(net->kernels, c->sum, t->context, rows, &l[PRED_OUT]);
    pred_drop(drop, (place + DROP_OUT) * PRED_MAX_HEAD, c->sum, n);
    pred_add(c->sum, t->x, n);
    pred_norm_forward(net->kernels, t->mid, t->hat1, t->rstd1, c->sum, w->gain1, w->bias1, rows, d);

    /* feed-forward, residual, LayerNorm */
    pred_linear_forward(net->kernels, t->up, t->mid, rows, &l[PRED_UP]);
    for (size_t i = 0; i < n_up; i++) t->up[i] = t->up[i] > 0 ? t->up[i] : 0;
    pred_drop(drop, (place + DROP_UP) * PRED_MAX_HEAD, t->up, n_up);
    pred_linear_forward(net->kernels, c->sum, t->up, rows, &l[PRED_DOWN]);
    pred_drop(drop, (place + DROP_DOWN) * PRED_MAX_HEAD, c->sum, n);
    pred_add(c->sum, t->mid, n);
    pred_norm_forward(net->kernels, y, t->hat2, t->rstd2, c->sum, w->gain2, w->bias2, rows, d);
}

/* sum + a b^T, one chain of fused multiply-adds in ascending order. */
static float pred_dot(const float *a, const float *b, int n, float sum) {
    for (int i = 0; i < n; i++) sum = fma32(a[i], b[i], sum);
    return sum;
}

/* logits (D, PRED_N_LOGIT) of the layers' vectors x (D, d): one for "a segment starts here", three for skip, keep,
 * repeat. Four columns would leave most of a panel empty, so these are plain dot products. */
static void pred_heads_forward(const pred_net *net, float *logits, const float *x) {
    const pred_weights *w = &net->w;
    const int d = net->shape.d_model;
    for (int i = 0; i < net->shape.n_layer; i++, logits += PRED_N_LOGIT, x += d) {
        logits[PRED_SEG] = pred_dot(w->seg_weight, x, d, w->seg_bias[0]);
        for (int k = 0; k < PRED_N_OP; k++)
            logits[PRED_OP + k] = pred_dot(w->op_weight + (size_t)k * (size_t)d, x, d, w->op_bias[k]);
    }
}

/* The vectors of the layers before block b; after the last block they are the network's output. */
static float *pred_block_input(const pred_net *net, const pred_trace *t, int b) {
    return b < net->shape.n_block ? t->block[b].x : t->out;
}

/* The network of [P] for one question: t->features to t->logits. A vector per layer asks the question's tokens, then
 * the layers talk to each other, then each says what shall happen to it.
 *
 *   1. q_proj           tokens = features Wp^T + bp                           (T, d)
 *   2. layer queries    q = layers Wq^T + bq                                  (D, d), by pred_pack_queries
 *   3. cross-attention  [k v] = tokens Wkv^T + bkv                            (T, 2 d)
 *                       context = softmax(q k^T / sqrt(d / n_head)) v         (D, d), head by head
 *                       x = context Wo^T + bo                                 (D, d)
 *   4. encoder blocks   x = block_b(x) for b = 0 .. n_block - 1               (D, d), see pred_block_forward
 *   5. heads            logits = [x Wseg^T + bseg, x Wop^T + bop]             (D, 1 + 3)
 *
 * `drop` is NULL outside training. Called by polar_predictor_logits and by the passes of [train]. */
static void pred_forward(const pred_net *net, const pred_trace *t, const pred_scratch *c, const pred_dropout *drop) {
    const mat_kernels *kernels = net->kernels;
    const pred_linear *l = net->linear;
    const int d = net->shape.d_model;
    const pred_attention a = pred_attention_of(net, t->n_tokens, (size_t)d, 2 * (size_t)d);
    /* 1. q_proj; the queries of step 2 are net->queries */
    pred_linear_forward(kernels, t->tokens, t->features, t->n_tokens, &l[PRED_PROJECT]);
    /* 3. cross-attention */
    pred_linear_forward(kernels, t->kv, t->tokens, t->n_tokens, &l[PRED_CROSS_KV]);
    pred_attention_forward(&a, t->context, t->probs, net->queries, t->kv, t->kv + d, c, drop, DROP_CROSS);
    pred_linear_forward(kernels, pred_block_input(net, t, 0), t->context, net->shape.n_layer, &l[PRED_CROSS_OUT]);
    /* 4. encoder blocks */
    for (int b = 0; b < net->shape.n_block; b++)
        pred_block_forward(net, b, &t->block[b], pred_block_input(net, t, b + 1), c, drop);
    /* 5. heads */
    pred_heads_forward(net, t->logits, t->out);
}

/* --- decoding -------------------------------------------------------------------------
 *
 * From the logits of D layers to programs: where segments start (pred_segments), then beams over the operations of the
 * segments from left to right (pred_extend). The functions round where the reference of [P] does. */

/* 1 if all n numbers are finite: only then x - x is 0. */
static int pred_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!(x[i] - x[i] == 0)) return 0;
    return 1;
}

/* 1 / (1 + exp(-x)) */
static float pred_sigmoid(float x) {
    return (float)(1 / (1 + exp64(-(double)x)));
}

/* log(softmax(x)) of the logits of the operations: x - max - log(sum of exp(x - max)), a float after each step. */
static void pred_log_softmax(const float *x, float *logp) {
    float max = x[0], sum = 0, log_sum;
    for (int i = 1; i < PRED_N_OP; i++) max = MAX(max, x[i]);
    for (int i = 0; i < PRED_N_OP; i++) sum += (float)exp64((double)(x[i] - max));
    log_sum = (float)log64((double)sum);
    for (int i = 0; i < PRED_N_OP; i++) logp[i] = (x[i] - max) - log_sum;
}

/* A segment starts at layer 0, where sigmoid(seg) reaches the threshold, and where the one before it has max_length
 * layers. Returns the number of segments; their `times` are still to be chosen. */
static int pred_segments(const float *seg_logits, int n_layer, const polar_beam_options *o, polar_segment *segments) {
    int n = 0;
    for (int i = 0; i < n_layer; i++) {
        const int starts = i == 0 || (double)pred_sigmoid(seg_logits[i]) >= o->threshold;
        if (starts || segments[n - 1].length == o->max_length) {
            const polar_segment s = {(int16_t)i, 0, 1, 0};
            segments[n++] = s;
        }
        segments[n - 1].length++;
    }
    return n;
}

/* The numbers 0 .. n - 1 by descending value; equal values stay in order. */
static void pred_sort(const double *value, int n, int *order) {
    for (int i = 0; i < n; i++) {
        int k = i;
        /* cppcheck-suppress uninitvar ; nothing is read in the first round */
        for (; k > 0 && value[i] > value[order[k - 1]]; k--) order[k] = order[k - 1];
        order[k] = i;
    }
}

/* A beam: the operations of the segments so far, and the sum of their log probabilities. */
typedef struct pred_beam {
    double score;
    uint8_t op[POLAR_MAX_LAYER];
} pred_beam;

/* Extends each of n beams by the n_ops most probable operations of a segment, and keeps the n_beams best of the
 * results, best first. Insertion keeps equal scores in the order in which they come up. Returns the new number. */
static int pred_extend(const pred_beam *from, int n, pred_beam *to, int segment, const float *logp,
                       const polar_beam_options *o) {
    double value[PRED_N_OP];
    int ops[PRED_N_OP], n_to = 0;
    for (int k = 0; k < PRED_N_OP; k++) value[k] = (double)logp[k];
    pred_sort(value, PRED_N_OP, ops);
    for (int b = 0; b < n; b++)
        for (int k = 0; k < o->n_ops; k++) {
            const double score = from[b].score + value[ops[k]];
            int rank = n_to;
            while (rank > 0 && score > to[rank - 1].score) rank--;
            if (rank == o->n_beams) continue;
            if (n_to < o->n_beams) n_to++;
            memmove(to + rank + 1, to + rank, (size_t)(n_to - 1 - rank) * sizeof *to);
            to[rank] = from[b];
            to[rank].score = score;
            to[rank].op[segment] = (uint8_t)ops[k];
        }
    return n_to;
}

/* Refuses logits and options that cannot be decoded. */
static polar_status pred_check_decode(const float *seg_logits, const float *op_logits, int n_layer,
                                      const polar_beam_options *o, polar_error *e) {
    if (!seg_logits || !op_logits) return fail(e, POLAR_ARGUMENT, "no logits to decode");
    if (n_layer < 1 || n_layer > POLAR_MAX_LAYER)
        return fail(e, POLAR_ARGUMENT, "logits of %d layers: 1..%d are possible", n_layer, POLAR_MAX_LAYER);
    if (o->max_length < 1 || o->n_beams < 1 || o->n_beams > POLAR_MAX_BEAMS || o->n_ops < 1 || o->n_ops > PRED_N_OP)
        return fail(e, POLAR_ARGUMENT, "decoding with segments of %d layers, %d beams, %d operations: at least 1, "
                    "1..%d, 1..3 are possible", o->max_length, o->n_beams, o->n_ops, POLAR_MAX_BEAMS);
    if (!pred_finite(seg_logits, (size_t)n_layer) || !pred_finite(op_logits, (size_t)n_layer * PRED_N_OP))
        return fail(e, POLAR_NUMERIC, "the predictor's logits are not finite");
    return POLAR_OK;
}

/* The program of a beam: segment i is executed op[i] times. */
static polar_candidate pred_candidate(const pred_beam *beam, const polar_segment *segments, int n, int n_layer) {
    polar_candidate c;
    memset(&c, 0, sizeof c);
    c.score = beam->score;
    c.program.n_layer = n_layer;
    c.program.n_segments = n;
    for (int i = 0; i < n; i++) {
        c.program.segments[i] = segments[i];
        c.program.segments[i].times = beam->op[i];
    }
    return c;
}

enum { PRED_BEAMS = 5 }; /* unless options say otherwise */

/* Programs by descending score, the sum of log probabilities over the segments, less length_penalty |pi|; one empty
 * beam is extended segment by segment, from one array of beams into the other. */
polar_status polar_program_beams(const float *seg_logits, const float *op_logits, int n_layer,
                                 const polar_beam_options *options, polar_candidate *out, int *n_out,
                                 polar_error *error) {
    const polar_beam_options none = {0};
    polar_beam_options o = options ? *options : none;
    polar_segment segments[POLAR_MAX_LAYER];
    pred_beam beams[2][POLAR_MAX_BEAMS], *last;
    double value[POLAR_MAX_BEAMS] = {0};
    polar_status status;
    int order[POLAR_MAX_BEAMS], n_segments, n = 1;
    err_clear(error);
    if (!out || !n_out) return fail(error, POLAR_ARGUMENT, "polar_program_beams: no place for the result");
    o.threshold = option_number(o.threshold, 0.5);
    o.max_length = option_int(o.max_length, 4);
    o.n_beams = option_int(o.n_beams, PRED_BEAMS);
    o.n_ops = option_int(o.n_ops, 2);
    status = pred_check_decode(seg_logits, op_logits, n_layer, &o, error);
    if (status) return status;
    /* 1. segments */
    n_segments = pred_segments(seg_logits, n_layer, &o, segments);
    /* 2. beams */
    memset(&beams[0][0], 0, sizeof beams[0][0]);
    for (int i = 0; i < n_segments; i++) {
        float logp[PRED_N_OP];
        pred_log_softmax(op_logits + PRED_N_OP * segments[i].start, logp);
        n = pred_extend(beams[i % 2], n, beams[1 - i % 2], i, logp, &o);
    }
    last = beams[n_segments % 2];
    /* 3. order by score and length; without a penalty that is the order of the beams */
    for (int b = 0; b < n; b++) {
        const polar_candidate c = pred_candidate(&last[b], segments, n_segments, n_layer);
        value[b] = c.score - mul64(o.length_penalty, polar_program_length(&c.program));
    }
    pred_sort(value, n, order);
    for (int b = 0; b < n; b++) out[b] = pred_candidate(&last[order[b]], segments, n_segments, n_layer);
    *n_out = n;
    return POLAR_OK;
}

/* --- the menu network ----------------------------------------------------------------- */

/* For each of n_menu programs the logit of "answers the question correctly". See menu_forward for the formulas. */
typedef struct menu_shape {
    int q_dim;   /* length of a feature vector */
    int width;   /* of projected tokens and of the hidden layer, a multiple of n_head */
    int n_head;  /* of the attention that pools tokens */
    int n_menu;  /* programs */
    int pooling; /* POLAR_MENU_SUM, POLAR_MENU_LAST */
} menu_shape;

/* Pointers into one array of all parameters, in this order; a weight is (out, in). */
typedef struct menu_weights {
    float *project_weight, *project_bias; /* (width, q_dim), (width) */
    float *score_weight;                  /* (n_head, width) */
    float *hidden_weight, *hidden_bias;   /* (width, menu_pooled), (width) */
    float *out_weight, *out_bias;         /* (n_menu, width), (n_menu) */
} menu_weights;

enum {
    MENU_TENSORS = 7,
    MENU_MAX_WIDTH = 1024
};
#define MENU_SUM_SCALE (1.0f / 32) /* the sum over 32 tokens counts as their mean */

/* How many numbers describe a question as a whole: attention, sum, last token, length. */
static int menu_pooled(const menu_shape *s) {
    return s->width * (1 + (s->pooling & POLAR_MENU_SUM ? 1 : 0) + (s->pooling & POLAR_MENU_LAST ? 1 : 0)) + 1;
}

#define MENU_FIELD(name) offsetof(menu_weights, name)

/* The tensors of the menu network in the order of the array and of the file. Returns their number. */
static int menu_tensors(const menu_shape *s, pred_tensor *list) {
    int n = 0;
    pred_add_tensor(list, &n, MENU_FIELD(project_weight), "menu.project.", "weight", s->width, s->q_dim);
    pred_add_tensor(list, &n, MENU_FIELD(project_bias), "menu.project.", "bias", 0, s->width);
    pred_add_tensor(list, &n, MENU_FIELD(score_weight), "menu.score.", "weight", s->n_head, s->width);
    pred_add_tensor(list, &n, MENU_FIELD(hidden_weight), "menu.hidden.", "weight", s->width, menu_pooled(s));
    pred_add_tensor(list, &n, MENU_FIELD(hidden_bias), "menu.hidden.", "bias", 0, s->width);
    pred_add_tensor(list, &n, MENU_FIELD(out_weight), "menu.out.", "weight", s->n_menu, s->width);
    pred_add_tensor(list, &n, MENU_FIELD(out_bias), "menu.out.", "bias", 0, s->n_menu);
    return n;
}

/* Number of parameters; the shape is checked, so it cannot overflow. */
static size_t menu_count(const menu_shape *s) {
    pred_tensor list[MENU_TENSORS];
    const int n = menu_tensors(s, list);
    return size_sum(list[n - 1].offset, list[n - 1].count);
}

/* Cuts an array of parameters or gradients into tensors. */
static menu_weights menu_place(const menu_shape *s, float *params) {
    pred_tensor list[MENU_TENSORS];
    menu_weights w;
    pred_place_tensors(&w, list, menu_tensors(s, list), params, 0);
    return w;
}

/* Refuses sizes out of range, as pred_check_shape does. */
static polar_status menu_check_shape(const menu_shape *s, polar_error *e) {
    if (s->q_dim < 1 || s->q_dim > PRED_MAX_WIDTH || s->width < 1 || s->width > MENU_MAX_WIDTH || s->n_head < 1 ||
        s->n_head > PRED_MAX_HEAD || s->width % s->n_head || s->n_menu < 1 || s->n_menu > POLAR_MAX_MENU ||
        s->pooling & ~(POLAR_MENU_SUM | POLAR_MENU_LAST))
        return fail(e, POLAR_ARGUMENT, "a menu of %d programs, width %d, %d heads, features of %d is not possible",
                    s->n_menu, s->width, s->n_head, s->q_dim);
    return POLAR_OK;
}

/* The menu network, ready to run. */
typedef struct menu_net {
    menu_shape shape;
    const kern *kern;           /* softmax, axpy */
    const mat_kernels *kernels; /* the projection */
    menu_weights w;
    float *panels; /* packed weight of the projection */
} menu_net;

/* What a pass computes, kept for the backward pass. */
typedef struct menu_trace {
    float *tokens; /* (T, width) f, the projected tokens */
    float *probs;  /* (n_head, T) attention */
    float *pooled; /* (menu_pooled) the question as a whole */
    float *hidden; /* (width) after ReLU and dropout */
    float *logits; /* (n_menu) */
} menu_trace;

/* Places the trace of a pass over n_tokens tokens. */
static void menu_place_trace(const menu_shape *s, layout *l, menu_trace *t, size_t n_tokens) {
    t->tokens = layout_place(l, size_of(n_tokens, (size_t)s->width), sizeof(float));
    t->probs = layout_place(l, size_of(n_tokens, (size_t)s->n_head), sizeof(float));
    t->pooled = layout_place(l, (size_t)menu_pooled(s), sizeof(float));
    t->hidden = layout_place(l, (size_t)s->width, sizeof(float));
    t->logits = layout_place(l, (size_t)s->n_menu, sizeof(float));
}

/* After the weights changed: packs the one large matrix, the transposed weight of the projection. */
static void menu_pack(menu_net *net) {
    mat_pack(net->panels, net->w.project_weight, 1, (size_t)net->shape.q_dim, net->shape.q_dim, net->shape.width);
}

/* The question as a whole, from its projected tokens f (T, width): pooled = [attended, sum, last, length] with
 *     attended: for each head h, on its slice of f, sum over tokens of a f,  a = softmax over tokens of f score_h
 *     sum:      sum over tokens of f / 32          if `pooling` has POLAR_MENU_SUM
 *     last:     f of the last token                if it has POLAR_MENU_LAST
 *     length:   log2(T) / 8
 * Softmax forgets how often something stands in a question; the sum counts it. Sums run over the tokens in order. */
static void menu_pool(const menu_net *net, const menu_trace *t, int n_tokens) {
    const menu_shape *s = &net->shape;
    const int slice = s->width / s->n_head;
    const size_t width = (size_t)s->width;
    float *sum = t->pooled + width, *last = s->pooling & POLAR_MENU_SUM ? sum + width : sum;
    memset(t->pooled, 0, width * sizeof *t->pooled);
    for (int h = 0; h < s->n_head; h++) { /* attended */
        const float *score = net->w.score_weight + (size_t)h * width;
        float *probs = t->probs + (size_t)h * (size_t)n_tokens, inverse;
        for (int i = 0; i < n_tokens; i++) probs[i] = pred_dot(score, t->tokens + (size_t)i * width, s->width, 0);
        inverse = 1 / net->kern->softmax(probs, n_tokens);
        for (int i = 0; i < n_tokens; i++) {
            probs[i] *= inverse;
            net->kern->axpy(t->pooled + h * slice, probs[i], t->tokens + (size_t)i * width + h * slice, slice);
        }
    }
    if (s->pooling & POLAR_MENU_SUM) {
        memset(sum, 0, width * sizeof *sum);
        for (int i = 0; i < n_tokens; i++)
            net->kern->axpy(sum, MENU_SUM_SCALE, t->tokens + (size_t)i * width, s->width);
    }
    if (s->pooling & POLAR_MENU_LAST)
        memcpy(last, t->tokens + (size_t)(n_tokens - 1) * width, width * sizeof *last);
    t->pooled[menu_pooled(s) - 1] = (float)(log64(n_tokens) / (8 * LN2));
}

/* The menu network for one question, features x (T, q_dim) to t->logits (n_menu):
 *     f = relu(x Wproject^T + b)               (T, width)
 *     pooled = menu_pool(f)                    (menu_pooled)
 *     hidden = relu(Whidden pooled + b)        (width), with dropout in training
 *     logits = Wout hidden + b                 (n_menu)
 * Called by polar_predictor_menu and by the passes of [train]. */
static void menu_forward(const menu_net *net, const menu_trace *t, const float *features, int n_tokens,
                         const pred_dropout *drop) {
    const menu_shape *s = &net->shape;
    const menu_weights *w = &net->w;
    const int width = s->width, n_pooled = menu_pooled(s);
    pred_linear project = pred_linear_of(w->project_weight, w->project_bias, width, s->q_dim);
    project.forward = net->panels;
    /* tokens */
    pred_linear_forward(net->kernels, t->tokens, features, n_tokens, &project);
    for (size_t i = 0; i < (size_t)n_tokens * (size_t)width; i++) t->tokens[i] = MAX(t->tokens[i], 0);
    /* the question as a whole */
    menu_pool(net, t, n_tokens);
    for (int i = 0; i < width; i++) {
        const float *row = w->hidden_weight + (size_t)i * (size_t)n_pooled;
        t->hidden[i] = MAX(pred_dot(row, t->pooled, n_pooled, w->hidden_bias[i]), 0);
    }
    pred_drop(drop, 0, t->hidden, (size_t)width);
    /* the programs of the menu */
    for (int k = 0; k < s->n_menu; k++)
        t->logits[k] = pred_dot(w->out_weight + (size_t)k * (size_t)width, t->hidden, width, w->out_bias[k]);
}

/* --- predictors -----------------------------------------------------------------------
 *
 * The object that users hold: either network or both, and the info, which says what the features are and for which
 * model. Nothing but polar_predictor_set_info changes it after pred_ready, so that threads may share it. */

enum {
    PRED_NAME_BYTES = 256,   /* of the name of a model or a chat format, the NUL included */
    PRED_PROMPT_BYTES = 4096 /* of a prompt or a system message */
};

struct polar_predictor {
    polar_allocator allocator;
    void *block; /* parameters, packed weights and programs */
    size_t bytes;
    polar_predictor_info info; /* but for texts, sizes and questions, which polar_predictor_get_info fills in */
    char model_name[PRED_NAME_BYTES], encoder_name[PRED_NAME_BYTES], chat[PRED_NAME_BYTES];
    char prompt[PRED_PROMPT_BYTES], system[PRED_PROMPT_BYTES];
    int has_system;          /* an empty system message is not none */
    uint64_t *questions;     /* (n_questions) fingerprints, ascending; NULL if unknown */
    int n_questions;
    pred_net net;            /* shape.d_model 0: none */
    menu_net menu;           /* shape.n_menu 0: none */
    float *params;           /* of net */
    float *menu_params;      /* of menu */
    polar_program *programs; /* (n_menu) */
};

/* As files say it, see pred_read_feature. */
const char *polar_feature_name(polar_feature feature) {
    static const char *const names[POLAR_N_FEATURE] = {"hidden", "embedding", "encoder"};
    return (unsigned)feature < (unsigned)POLAR_N_FEATURE ? names[feature] : NULL;
}

/* Places what `block` holds: parameters, packed weights, programs of the menu. While the layout measures, pointers are
 * NULL and the weights stay unplaced. */
static void pred_place_all(polar_predictor *p, layout *l) {
    if (p->net.shape.d_model) {
        p->params = layout_place(l, pred_count(&p->net.shape), sizeof(float));
        if (p->params) p->net.w = pred_place(&p->net.shape, p->params, 0);
        pred_wire(&p->net);
        pred_place_packed(&p->net, l, 0);
    }
    if (p->menu.shape.n_menu) {
        p->menu_params = layout_place(l, menu_count(&p->menu.shape), sizeof(float));
        if (p->menu_params) p->menu.w = menu_place(&p->menu.shape, p->menu_params);
        p->menu.panels = layout_place(l, mat_panels(p->menu.shape.q_dim, p->menu.shape.width), sizeof(float));
        p->programs = layout_place(l, (size_t)p->menu.shape.n_menu, sizeof *p->programs);
    }
}

/* A predictor whose weights are 0; a shape is NULL for a network that it does not have. The caller fills in params,
 * menu_params and programs, then calls pred_ready. Called by pred_read and at the end of trainings. */
static polar_status pred_create(polar_predictor **out, int n_layer, const pred_shape *shape, const menu_shape *menu,
                                const polar_allocator *allocator, polar_error *e) {
    const polar_allocator a = mem_allocator(allocator);
    layout l = layout_begin(NULL);
    polar_status status = POLAR_OK;
    polar_predictor *p;
    if (!shape && !menu) return fail(e, POLAR_FORMAT, "a predictor without the network of programs and without a menu");
    if (n_layer < 1 || n_layer > POLAR_MAX_LAYER)
        return fail(e, POLAR_ARGUMENT, "a predictor for %d layers: 1..%d are possible", n_layer, POLAR_MAX_LAYER);
    if (shape) status = pred_check_shape(shape, e);
    if (!status && menu) status = menu_check_shape(menu, e);
    if (status) return status;
    p = mem_zeros(&a, sizeof *p, e);
    if (!p) return POLAR_MEMORY;
    p->allocator = a;
    if (shape) p->net.shape = *shape;
    if (menu) p->menu.shape = *menu;
    p->net.kern = p->menu.kern = kern_find(POLAR_CPU_AUTO);
    p->net.kernels = p->menu.kernels = mat_choose(p->net.kern);
    p->info.n_layer = n_layer;
    p->info.q_dim = shape ? shape->q_dim : menu->q_dim;
    p->info.price = POLAR_MENU_PRICE; /* what is not said is 0 */
    p->info.feature = POLAR_FEATURE_EMBEDDING;
    pred_place_all(p, &l);
    p->bytes = layout_bytes(&l);
    if (p->bytes) p->block = mem_alloc(&a, p->bytes, e);
    if (!p->block) {
        fail(e, POLAR_MEMORY, "a predictor that is larger than the memory");
        polar_predictor_close(p);
        return POLAR_MEMORY;
    }
    memset(p->block, 0, p->bytes);
    l = layout_begin(p->block); /* measured above, placed here */
    pred_place_all(p, &l);
    *out = p;
    return POLAR_OK;
}

/* Also of a predictor that pred_create left unfinished. */
void polar_predictor_close(polar_predictor *predictor) {
    polar_allocator a;
    if (!predictor) return;
    a = predictor->allocator;
    mem_free(&a, predictor->questions, (size_t)predictor->n_questions * sizeof *predictor->questions);
    mem_free(&a, predictor->block, predictor->bytes);
    mem_free(&a, predictor, sizeof *predictor);
}

/* After the weights are set: refuses what is not finite, since it would rank programs at random, and packs the rest. */
static polar_status pred_ready(polar_predictor *p, polar_error *e) {
    if (p->net.shape.d_model) {
        if (!pred_finite(p->params, pred_count(&p->net.shape)))
            return fail(e, POLAR_NUMERIC, "the predictor has weights that are not finite");
        for (int i = 0; i < p->net.n_linear; i++) pred_pack_task(&p->net, i, 0);
        pred_pack_queries(&p->net);
    }
    if (p->menu.shape.n_menu) {
        if (!pred_finite(p->menu_params, menu_count(&p->menu.shape)))
            return fail(e, POLAR_NUMERIC, "the predictor's menu has weights that are not finite");
        menu_pack(&p->menu);
    }
    return POLAR_OK;
}

/* The texts and fingerprints stay the predictor's. */
void polar_predictor_get_info(const polar_predictor *p, polar_predictor_info *info) {
    const pred_shape *s = &p->net.shape;
    *info = p->info;
    info->d_model = s->d_model;
    info->n_head = s->n_head;
    info->n_block = s->n_block;
    info->n_ff = s->n_ff;
    info->n_menu = p->menu.shape.n_menu;
    info->n_params = (s->d_model ? pred_count(s) : 0) + (info->n_menu ? menu_count(&p->menu.shape) : 0);
    info->model_name = p->model_name;
    info->encoder_name = p->encoder_name;
    info->prompt = p->prompt;
    info->system = p->has_system ? p->system : NULL;
    info->chat = p->chat;
    info->questions = p->questions;
    info->n_questions = p->n_questions;
}

/* A text of the info: where the predictor keeps it, its key in files, and where the info given to set_info has it. What
 * questions were asked with must fit; names are cut. */
typedef struct pred_text {
    char *kept;
    size_t size;
    const char *key;
    int must_fit;
    const char *given;
} pred_text;
enum { PRED_TEXTS = 5 };

/* The list of these texts; `info` may be NULL. */
static void pred_texts(polar_predictor *p, const polar_predictor_info *info, pred_text *list) {
    static const polar_predictor_info none;
    const polar_predictor_info *i = info ? info : &none;
    const pred_text texts[PRED_TEXTS] = {
        {p->model_name, sizeof p->model_name, "polar.model_name", 0, i->model_name},
        {p->encoder_name, sizeof p->encoder_name, "polar.encoder_name", 0, i->encoder_name},
        {p->chat, sizeof p->chat, "polar.chat", 0, i->chat},
        {p->prompt, sizeof p->prompt, "polar.prompt", 1, i->prompt},
        {p->system, sizeof p->system, "polar.system", 1, i->system}};
    memcpy(list, texts, sizeof texts);
}

/* Keeps n bytes of `given`, or as many of them as fit, with a NUL behind; none if it is NULL. It may be the kept text
 * itself: users change one field of an info and set it again. */
static void pred_set_text(const pred_text *t, const char *given, size_t n) {
    n = given ? MIN(n, t->size - 1) : 0;
    if (n) memmove(t->kept, given, n);
    t->kept[n] = 0;
}

/* Takes a copy of the fingerprints, which may be those that are there. */
static polar_status pred_set_questions(polar_predictor *p, const uint64_t *list, int n, polar_error *e) {
    uint64_t *copy = NULL;
    if (list == p->questions && n == p->n_questions) return POLAR_OK;
    if (n < 0 || (n && !list)) return fail(e, POLAR_ARGUMENT, "%d fingerprints of questions, or no list of them", n);
    for (int i = 1; i < n; i++)
        if (list[i] <= list[i - 1]) return fail(e, POLAR_ARGUMENT, "fingerprints of questions do not ascend");
    if (n) {
        copy = mem_alloc(&p->allocator, (size_t)n * sizeof *copy, e);
        if (!copy) return POLAR_MEMORY;
        memcpy(copy, list, (size_t)n * sizeof *copy);
    }
    mem_free(&p->allocator, p->questions, (size_t)p->n_questions * sizeof *p->questions);
    p->questions = copy;
    p->n_questions = n;
    return POLAR_OK;
}

/* Checks everything before anything changes. Sizes, n_menu and n_params follow from the networks and are not taken. */
polar_status polar_predictor_set_info(polar_predictor *p, const polar_predictor_info *info, polar_error *error) {
    pred_text texts[PRED_TEXTS];
    polar_predictor_info kept;
    polar_status status;
    err_clear(error);
    if (!p || !info) return fail(error, POLAR_ARGUMENT, "polar_predictor_set_info: an argument is NULL");
    if (!polar_feature_name(info->feature) || info->feature_layer < 0 || info->feature_layer > p->info.n_layer ||
        info->max_tokens < 0 || info->max_tokens > PRED_MAX_TOKENS ||
        !(info->price >= 0 && info->price - info->price == 0))
        return fail(error, POLAR_ARGUMENT,
                    "features of kind %d after layer %d, at most %d tokens, or the price are not possible",
                    (int)info->feature, info->feature_layer, info->max_tokens);
    if (!(info->cascade_threshold <= 0) || info->cascade_programs < 0 || info->cascade_programs > POLAR_MAX_MENU)
        return fail(error, POLAR_ARGUMENT, "a cascade of %d programs or its threshold is not possible",
                    info->cascade_programs);
    pred_texts(p, info, texts);
    for (const pred_text *t = texts; t < texts + PRED_TEXTS; t++)
        if (t->must_fit && t->given && strlen(t->given) >= t->size)
            return fail(error, POLAR_ARGUMENT, "a text of %zu bytes as %s: at most %zu fit", strlen(t->given), t->key,
                        t->size - 1);
    status = pred_set_questions(p, info->questions, info->n_questions, error);
    if (status) return status;
    p->has_system = info->system != NULL;
    for (const pred_text *t = texts; t < texts + PRED_TEXTS; t++)
        pred_set_text(t, t->given, t->given ? strlen(t->given) : 0);
    kept = p->info;
    p->info = *info; /* texts and sizes in it are never read */
    p->info.n_layer = kept.n_layer;
    p->info.q_dim = kept.q_dim;
    return POLAR_OK;
}

/* Copies the network of programs, which has the same shape, and the info of another predictor. [train] calls it to put
 * a menu beside them. */
static MAYBE_UNUSED polar_status pred_inherit(polar_predictor *p, const polar_predictor *from, polar_error *e) {
    polar_predictor_info info;
    if (from->net.shape.d_model) memcpy(p->params, from->params, pred_count(&from->net.shape) * sizeof *p->params);
    polar_predictor_get_info(from, &info);
    return polar_predictor_set_info(p, &info, e);
}

/* The programs are the predictor's. */
const polar_program *polar_predictor_program(const polar_predictor *p, int index) {
    return index >= 0 && index < p->menu.shape.n_menu ? &p->programs[index] : NULL;
}

/* The memory of one pass of a network over a question. */
typedef struct pred_pass {
    void *block;
    size_t bytes;
    pred_trace trace; /* of the network of programs */
    pred_scratch scratch;
    menu_trace menu;  /* or of the menu network */
} pred_pass;

/* Checks the features, and allocates what a pass over them needs; pred_pass_end frees it. */
static polar_status pred_pass_begin(pred_pass *pass, const polar_predictor *p, int of_menu, const float *features,
                                    int n_tokens, polar_error *e) {
    memset(pass, 0, sizeof *pass);
    if (!features || n_tokens < 1 || n_tokens > PRED_MAX_TOKENS)
        return fail(e, POLAR_ARGUMENT, "features of %d tokens: 1..%d are possible", features ? n_tokens : 0,
                    PRED_MAX_TOKENS);
    for (;;) { /* measures, then places */
        layout l = layout_begin(pass->block);
        if (of_menu) menu_place_trace(&p->menu.shape, &l, &pass->menu, (size_t)n_tokens);
        else pred_place_trace(&p->net.shape, &l, &pass->trace, 1, (size_t)n_tokens);
        if (!of_menu) pred_place_scratch(&p->net.shape, &l, &pass->scratch, (size_t)n_tokens);
        if (pass->block) break;
        pass->bytes = layout_bytes(&l);
        if (!pass->bytes)
            return fail(e, POLAR_MEMORY, "a question of %d tokens is larger than the memory", n_tokens);
        pass->block = mem_alloc(&p->allocator, pass->bytes, e);
        if (!pass->block) return POLAR_MEMORY;
    }
    pass->trace.n_tokens = n_tokens;
    pass->trace.features = features;
    return POLAR_OK;
}

/* Frees it. */
static void pred_pass_end(pred_pass *pass, const polar_predictor *p) {
    mem_free(&p->allocator, pass->block, pass->bytes);
}

/* One forward pass; the logits (D, PRED_N_LOGIT) are handed out as (D) and (D, PRED_N_OP). */
polar_status polar_predictor_logits(const polar_predictor *p, const float *features, int n_tokens, float *seg_logits,
                                    float *op_logits, polar_error *error) {
    const int n_layer = p ? p->net.shape.n_layer : 0;
    pred_pass pass;
    polar_status status;
    err_clear(error);
    if (!p || !seg_logits || !op_logits)
        return fail(error, POLAR_ARGUMENT, "polar_predictor_logits: an argument is NULL");
    if (!p->net.shape.d_model)
        return fail(error, POLAR_UNSUPPORTED, "this predictor has a menu only, no network of programs");
    status = pred_pass_begin(&pass, p, 0, features, n_tokens, error);
    if (status) return status;
    pred_forward(&p->net, &pass.trace, &pass.scratch, NULL);
    for (int i = 0; i < n_layer; i++) { /* (D, 1 + 3) to (D) and (D, 3) */
        const float *logits = pass.trace.logits + PRED_N_LOGIT * i;
        seg_logits[i] = logits[PRED_SEG];
        memcpy(op_logits + PRED_N_OP * i, logits + PRED_OP, PRED_N_OP * sizeof *op_logits);
    }
    if (!pred_finite(pass.trace.logits, (size_t)n_layer * PRED_N_LOGIT))
        status = fail(error, POLAR_NUMERIC, "the predictor's logits are not finite: are the features?");
    pred_pass_end(&pass, p);
    return status;
}

/* The forward pass and the decoding. */
static polar_status pred_propose(const polar_predictor *p, const float *features, int n_tokens,
                                 const polar_beam_options *options, polar_candidate *out, int *n, polar_error *error) {
    float seg_logits[POLAR_MAX_LAYER], op_logits[POLAR_MAX_LAYER * PRED_N_OP];
    polar_status status = polar_predictor_logits(p, features, n_tokens, seg_logits, op_logits, error);
    return status ? status : polar_program_beams(seg_logits, op_logits, p->info.n_layer, options, out, n, error);
}

/* One forward pass of the menu network; probability[k] = sigmoid(logits[k]). */
polar_status polar_predictor_menu(const polar_predictor *p, const float *features, int n_tokens, double *probability,
                                  polar_error *error) {
    pred_pass pass;
    polar_status status;
    err_clear(error);
    if (!p || !probability) return fail(error, POLAR_ARGUMENT, "polar_predictor_menu: an argument is NULL");
    if (!p->menu.shape.n_menu) return fail(error, POLAR_UNSUPPORTED, "this predictor has no menu");
    status = pred_pass_begin(&pass, p, 1, features, n_tokens, error);
    if (status) return status;
    menu_forward(&p->menu, &pass.menu, features, n_tokens, NULL);
    for (int k = 0; k < p->menu.shape.n_menu; k++) probability[k] = 1 / (1 + exp64(-(double)pass.menu.logits[k]));
    if (!pred_finite(pass.menu.logits, (size_t)p->menu.shape.n_menu))
        status = fail(error, POLAR_NUMERIC, "the menu's logits are not finite: are the features?");
    pred_pass_end(&pass, p);
    return status;
}

/* Calls of a program of a menu over those of its first one, which in a looped model are more than its layers. */
static double menu_cost(const polar_program *programs, int k) {
    return (double)polar_program_length(&programs[k]) / MAX(1, polar_program_length(&programs[0]));
}

/* By utility = P(correct) - price |pi|/D, the largest first. */
int polar_menu_rank(const polar_predictor *p, const double *probability, double price, int *order) {
    double utility[POLAR_MAX_MENU];
    const int n = p->menu.shape.n_menu;
    price = option_number(price, p->info.price);
    for (int k = 0; k < n; k++) utility[k] = probability[k] - mul64(price, menu_cost(p->programs, k));
    pred_sort(utility, n, order);
    return n;
}

/* --- files ----------------------------------------------------------------------------
 *
 * A predictor is a GGUF file of architecture "polar-predictor". Metadata: sizes (polar.n_layer, polar.q_dim,
 * polar.paths.* of the network of programs, polar.menu.* of the menu network, each absent with its network), the menu's
 * programs as text, and the info. Tensors are F32, under the names of pred_tensors and menu_tensors. */

#define PRED_ARCHITECTURE "polar-predictor"
enum { PRED_F32 = 0 }; /* the number of the tensor type in GGUF files */

/* Reads tensors of a GGUF file into `params`. */
static polar_status pred_read_tensors(const gguf_file *g, const pred_tensor *list, int n, float *params,
                                      polar_error *e) {
    for (int i = 0; i < n; i++) {
        const pred_tensor *want = &list[i];
        const polar_gguf_tensor *t = gguf_find_tensor(g, want->name);
        float *to = params + want->offset;
        if (!t) return fail(e, POLAR_FORMAT, "%s: the predictor lacks the tensor %s", g->name, want->name);
        if (t->type != PRED_F32 || t->dims[0] != want->columns || t->dims[1] != MAX(want->rows, 1) || t->n_dims > 2)
            return fail(e, POLAR_FORMAT, "%s: tensor %s must be F32 of %d x %d", g->name, want->name, want->columns,
                        MAX(want->rows, 1));
        for (size_t k = 0; k < want->count; k++) to[k] = rd_f32(t->data + 4 * k);
    }
    return POLAR_OK;
}

/* A number in the metadata: where a predictor has it, and what files may say. */
typedef struct pred_number {
    const char *key;
    polar_gguf_value_type type; /* U32, F64 or U64 */
    void *value;          /* int, double or uint64_t */
    double min, max;
    int required; /* a file without it is refused */
    int written;  /* to files */
} pred_number;
enum { PRED_NUMBERS = 16 };

/* All numbers of a predictor, sizes before what depends on them. */
static void pred_numbers(polar_predictor *p, pred_number *list) {
    polar_predictor_info *i = &p->info;
    pred_shape *s = &p->net.shape;
    menu_shape *m = &p->menu.shape;
    const int paths = s->d_model > 0, menu = m->width > 0, cascade = i->cascade_programs > 0;
    const pred_number numbers[PRED_NUMBERS] = {
        {"polar.n_layer", POLAR_GGUF_U32, &i->n_layer, 1, POLAR_MAX_LAYER, 1, 1},
        {"polar.q_dim", POLAR_GGUF_U32, &i->q_dim, 1, PRED_MAX_WIDTH, 1, 1},
        {"polar.feature_layer", POLAR_GGUF_U32, &i->feature_layer, 0, i->n_layer, 0, 1},
        {"polar.max_tokens", POLAR_GGUF_U32, &i->max_tokens, 0, PRED_MAX_TOKENS, 0, 1},
        {"polar.model_checksum", POLAR_GGUF_U64, &i->model_checksum, 0, 0, 0, 1},
        {"polar.model_fingerprint", POLAR_GGUF_U64, &i->model_fingerprint, 0, 0, 0, 1},
        {"polar.cascade.threshold", POLAR_GGUF_F64, &i->cascade_threshold, -1e9, 0, 0, cascade},
        {"polar.cascade.programs", POLAR_GGUF_U32, &i->cascade_programs, 1, POLAR_MAX_MENU, 0, cascade},
        {"polar.paths.d_model", POLAR_GGUF_U32, &s->d_model, 1, PRED_MAX_WIDTH, 0, paths},
        {"polar.paths.n_head", POLAR_GGUF_U32, &s->n_head, 1, PRED_MAX_HEAD, paths, paths},
        {"polar.paths.n_block", POLAR_GGUF_U32, &s->n_block, 0, PRED_MAX_BLOCK, paths, paths},
        {"polar.paths.n_ff", POLAR_GGUF_U32, &s->n_ff, 1, PRED_MAX_WIDTH, paths, paths},
        {"polar.menu.width", POLAR_GGUF_U32, &m->width, 1, MENU_MAX_WIDTH, 0, menu},
        {"polar.menu.n_head", POLAR_GGUF_U32, &m->n_head, 1, PRED_MAX_HEAD, menu, menu},
        {"polar.menu.pooling", POLAR_GGUF_U32, &m->pooling, 0, POLAR_MENU_SUM | POLAR_MENU_LAST, 0, menu},
        {"polar.menu.price", POLAR_GGUF_F64, &i->price, 0, 1e6, 0, menu}};
    memcpy(list, numbers, sizeof numbers);
}

/* Reads the numbers. What the file does not say keeps its default; a network whose keys are absent has d_model or
 * width 0. */
static polar_status pred_read_numbers(const gguf_file *g, polar_predictor *p, polar_error *e) {
    pred_number list[PRED_NUMBERS];
    polar_status status = POLAR_OK;
    for (int k = 0; k < PRED_NUMBERS && !status; k++) {
        const pred_number *x = &list[k];
        pred_numbers(p, list); /* anew for each, since limits follow from those before it */
        if (x->type == POLAR_GGUF_U32)
            status = gguf_get_int(g, x->key, x->value, (int)x->min, (int)x->max, x->required, e);
        else if (x->type == POLAR_GGUF_F64)
            status = gguf_get_float(g, x->key, x->value, x->min, x->max, x->required, e);
        else status = gguf_get_u64(g, x->key, x->value, x->required, e);
    }
    return status;
}

/* The sizes in the metadata and the other numbers, into the fields of *p that hold them. Which network may be absent is
 * for pred_create to say. Refuses files of another architecture and versions it does not know. */
static polar_status pred_read_head(const gguf_file *g, polar_predictor *p, polar_error *e) {
    const char *name;
    const polar_gguf_pair *programs;
    size_t length;
    int version;
    polar_status status = gguf_get_str(g, "general.architecture", &name, &length, GGUF_REQUIRED, e);
    if (status) return status;
    if (length != strlen(PRED_ARCHITECTURE) || memcmp(name, PRED_ARCHITECTURE, length))
        return fail(e, POLAR_MISMATCH, "%s: a file of architecture %.*s, not a predictor (%s)", g->name,
                    (int)MIN(length, 60), name, PRED_ARCHITECTURE);
    status = gguf_get_int(g, "polar.version", &version, 1, 1, GGUF_REQUIRED, e);
    if (!status) status = pred_read_numbers(g, p, e);
    if (!status)
        status = gguf_get_array(g, "polar.menu.programs", POLAR_GGUF_STRING, &programs, p->menu.shape.width > 0, e);
    if (status) return status;
    p->net.shape.n_layer = p->info.n_layer;
    p->net.shape.q_dim = p->menu.shape.q_dim = p->info.q_dim;
    if (!p->menu.shape.width) return POLAR_OK;
    if (programs->count < 1 || programs->count > POLAR_MAX_MENU)
        return fail(e, POLAR_FORMAT, "%s: a menu of %zu programs: 1..%d are possible", g->name, programs->count,
                    POLAR_MAX_MENU);
    p->menu.shape.n_menu = (int)programs->count;
    return POLAR_OK;
}

/* The programs of the menu in their text form. */
static polar_status pred_read_programs(const gguf_file *g, polar_predictor *p, polar_error *e) {
    const polar_gguf_pair *kv;
    gguf_strings it;
    const char *s;
    char line[8192];
    size_t n;
    polar_status status = gguf_get_array(g, "polar.menu.programs", POLAR_GGUF_STRING, &kv, GGUF_REQUIRED, e);
    if (status) return status;
    it = gguf_strings_begin(kv);
    for (int i = 0; i < p->menu.shape.n_menu && gguf_strings_next(&it, &s, &n); i++) {
        if (n >= sizeof line) return fail(e, POLAR_FORMAT, "%s: program %d of the menu is too long", g->name, i);
        memcpy(line, s, n);
        line[n] = 0;
        status = polar_program_parse(&p->programs[i], p->info.n_layer, line, e);
        if (status) return status;
    }
    return POLAR_OK;
}

/* The fingerprints of the questions that the predictor was trained and chosen on, if the file holds them, so that an
 * evaluation can say which of its questions are new. */
static polar_status pred_read_questions(const gguf_file *g, polar_predictor *p, polar_error *e) {
    const polar_gguf_pair *kv;
    polar_status status = gguf_get_array(g, "polar.questions", POLAR_GGUF_U64, &kv, GGUF_OPTIONAL, e);
    if (status || !kv || !kv->count) return status;
    if (kv->count > INT_MAX / 8) return fail(e, POLAR_FORMAT, "%s: too many fingerprints of questions", g->name);
    p->questions = mem_alloc(&p->allocator, (size_t)kv->count * sizeof *p->questions, e);
    if (!p->questions) return POLAR_MEMORY;
    p->n_questions = (int)kv->count;
    for (int i = 0; i < p->n_questions; i++) {
        p->questions[i] = rd_u64(kv->data + 8 * (size_t)i);
        if (i && p->questions[i] <= p->questions[i - 1])
            return fail(e, POLAR_FORMAT, "%s: fingerprints of questions do not ascend", g->name);
    }
    return POLAR_OK;
}

/* The texts of the info; what is longer than polar_predictor_set_info allows is refused or cut like there. */
static polar_status pred_read_texts(const gguf_file *g, polar_predictor *p, polar_error *e) {
    pred_text texts[PRED_TEXTS];
    pred_texts(p, NULL, texts);
    for (const pred_text *t = texts; t < texts + PRED_TEXTS; t++) {
        const char *text = NULL;
        size_t length = 0;
        const polar_status status = gguf_get_str(g, t->key, &text, &length, GGUF_OPTIONAL, e);
        if (status) return status;
        if (t->must_fit && length >= t->size) return fail(e, POLAR_FORMAT, "%s: %s is too long", g->name, t->key);
        if (length && memchr(text, 0, length))
            return fail(e, POLAR_FORMAT, "%s: %s holds a NUL byte", g->name, t->key);
        if (t->kept == p->system) p->has_system = text != NULL;
        pred_set_text(t, text, length);
    }
    return POLAR_OK;
}

/* What the features are, by name. */
static polar_status pred_read_feature(const gguf_file *g, polar_predictor *p, polar_error *e) {
    const char *feature = NULL;
    size_t length = 0;
    const polar_status status = gguf_get_str(g, "polar.feature", &feature, &length, GGUF_OPTIONAL, e);
    if (status || !feature) return status;
    for (int k = 0; k < POLAR_N_FEATURE; k++) {
        const char *name = polar_feature_name((polar_feature)k);
        if (strlen(name) != length || memcmp(name, feature, length)) continue;
        p->info.feature = (polar_feature)k;
        return POLAR_OK;
    }
    return fail(e, POLAR_UNSUPPORTED, "%s: features of kind %.*s", g->name, (int)MIN(length, 60), feature);
}

/* A predictor of an open file, complete or not at all. */
static polar_status pred_read(polar_predictor **out, const gguf_file *g, const polar_allocator *a, polar_error *e) {
    pred_tensor list[PRED_MAX_TENSORS];
    polar_predictor head, *p = NULL;
    const pred_shape *s = &head.net.shape;
    const menu_shape *m = &head.menu.shape;
    polar_status status;
    memset(&head, 0, sizeof head);
    head.info.price = POLAR_MENU_PRICE;
    head.info.feature = POLAR_FEATURE_EMBEDDING;
    status = pred_read_head(g, &head, e);
    if (!status) status = pred_create(&p, head.info.n_layer, s->d_model ? s : NULL, m->n_menu ? m : NULL, a, e);
    if (!status) p->info = head.info;
    if (!status && s->d_model) status = pred_read_tensors(g, list, pred_tensors(s, list), p->params, e);
    if (!status && m->n_menu) status = pred_read_tensors(g, list, menu_tensors(m, list), p->menu_params, e);
    if (!status && m->n_menu) status = pred_read_programs(g, p, e);
    if (!status) status = pred_read_texts(g, p, e);
    if (!status) status = pred_read_feature(g, p, e);
    if (!status) status = pred_read_questions(g, p, e);
    if (!status) status = pred_ready(p, e);
    if (status) polar_predictor_close(p);
    else *out = p;
    return status;
}

/* From a path, or from memory if it is NULL. The predictor copies what it needs, so the file is closed. */
static polar_status pred_open(polar_predictor **out, const char *path, const void *data, size_t size,
                              const polar_allocator *allocator, polar_error *error) {
    const polar_allocator a = mem_allocator(allocator);
    gguf_file g;
    polar_status status;
    err_clear(error);
    if (!out || (!path && !data)) return fail(error, POLAR_ARGUMENT, "polar_predictor_open: an argument is NULL");
    *out = NULL;
    memset(&g, 0, sizeof g);
    if (path) status = gguf_open(&g, path, 0, &a, error);
    else status = gguf_open_memory(&g, data, size, &a, error);
    if (status) return status;
    status = pred_read(out, &g, &a, error);
    gguf_close(&g);
    return status;
}

#ifndef POLAR_NO_STDIO
polar_status polar_predictor_open(polar_predictor **out, const char *path, const polar_allocator *allocator,
                                  polar_error *error) {
    if (path) return pred_open(out, path, NULL, 0, allocator, error);
    err_clear(error);
    return fail(error, POLAR_ARGUMENT, "polar_predictor_open: path is NULL");
}
#endif

polar_status polar_predictor_open_memory(polar_predictor **out, const void *data, size_t size,
                                         const polar_allocator *allocator, polar_error *error) {
    return pred_open(out, NULL, data, size, allocator, error);
}

/* All metadata. The lists are of what `p` holds, which stays as it is. */
static void pred_write_info(gguf_out *o, const polar_predictor *p) {
    polar_predictor *fields = (polar_predictor *)(uintptr_t)p;
    const int version = 1;
    char program[16 * POLAR_MAX_LAYER]; /* at most 15 characters for each segment */
    pred_number numbers[PRED_NUMBERS];
    pred_text texts[PRED_TEXTS];
    pred_numbers(fields, numbers);
    pred_texts(fields, NULL, texts);
    gguf_out_text(o, "general.architecture", PRED_ARCHITECTURE);
    gguf_out_number(o, "polar.version", POLAR_GGUF_U32, &version);
    gguf_out_text(o, "polar.feature", polar_feature_name(p->info.feature));
    for (int k = 0; k < PRED_NUMBERS; k++)
        if (numbers[k].written) gguf_out_number(o, numbers[k].key, numbers[k].type, numbers[k].value);
    for (int k = 0; k < PRED_TEXTS; k++)
        if (*texts[k].kept || (p->has_system && texts[k].kept == p->system))
            gguf_out_text(o, texts[k].key, texts[k].kept);
    if (p->n_questions) gguf_out_array(o, "polar.questions", POLAR_GGUF_U64, (size_t)p->n_questions);
    for (int i = 0; i < p->n_questions; i++) gguf_out_u64(o, p->questions[i]);
    if (p->menu.shape.n_menu) /* its programs in their text form */
        gguf_out_array(o, "polar.menu.programs", POLAR_GGUF_STRING, (size_t)p->menu.shape.n_menu);
    for (int i = 0; i < p->menu.shape.n_menu; i++) {
        polar_program_format(&p->programs[i], program, sizeof program);
        gguf_out_string(o, program);
    }
}

/* Metadata, then the directory of the tensors of both networks, then their numbers. */
polar_status polar_predictor_save(const polar_predictor *p, void *file, size_t capacity, size_t *size,
                                  polar_error *error) {
    pred_tensor paths[PRED_MAX_TENSORS], menu[MENU_TENSORS];
    gguf_out o = gguf_out_begin(file, capacity);
    int n_paths, n_menu;
    err_clear(error);
    if (!p || !size) return fail(error, POLAR_ARGUMENT, "polar_predictor_save: predictor or size is NULL");
    n_paths = p->net.shape.d_model ? pred_tensors(&p->net.shape, paths) : 0;
    n_menu = p->menu.shape.n_menu ? menu_tensors(&p->menu.shape, menu) : 0;
    pred_write_info(&o, p);
    for (int i = 0; i < n_paths + n_menu; i++) {
        const pred_tensor *t = i < n_paths ? &paths[i] : &menu[i - n_paths];
        gguf_out_tensor(&o, t->name, (size_t)t->rows, (size_t)t->columns);
    }
    for (int i = 0; i < n_paths; i++) gguf_out_f32(&o, p->params + paths[i].offset, paths[i].count);
    for (int i = 0; i < n_menu; i++) gguf_out_f32(&o, p->menu_params + menu[i].offset, menu[i].count);
    return gguf_out_end(&o, size, error);
}

/* ======================================================================================
 * [pick] Using a predictor
 *
 * From a question to its answer under the program that suits it:
 *
 *     question -- polar_prompt_find, _tokenize -- prompt -- polar_features_make -- features (T, width)
 *              -- [pred], polar_picker_pick -- candidates -- polar_picker_answer -- answer
 *
 * Start reading at polar_ask, the everyday call, which is all of this for one question; ask_predicted above it has the
 * three steps with a predictor. polar_picker_answer runs one program, or several and takes a vote or a cascade: the
 * rules of both are polar_vote and polar_cascade, which also serve those who have all answers already. Static functions
 * have the prefix of the public ones that they are for. Promises: nothing here sees a reference answer; the session
 * that made the features goes on with the program that was picked, so that the layers before the features run once.
 * Uses: [err] [mem] [num] [thread] [kern] [gguf] [tok] [model] [prog] [session] [gen] [many] [pred].
 * ====================================================================================== */

/* --- features -------------------------------------------------------------------------
 *
 * One vector per token of the question: its embedding, or the hidden state behind a few layers of the model itself, or
 * the output of another model, the encoder. The first two read the prompt, the third the bare question. */

struct polar_features {
    polar_allocator allocator;
    const polar_model *model;
    polar_features_options options;
    polar_runner runner;
    polar_pool *pool;       /* own threads, unless a runner was given */
    polar_session *session; /* of the model; NULL if nothing of it is run */
    polar_session *encoder; /* of the encoder; NULL without one */
    float *rows;            /* (T, width) features that no session keeps */
    size_t n_rows;          /* floats allocated */
    int32_t *tokens;        /* the question as the encoder's tokens */
    size_t n_tokens;        /* allocated */
};

/* Refuses options that the model or the encoder cannot serve: features of unknown kind, a layer that the model does not
 * have, an encoder where none is read, or none where one is. */
static polar_status features_check(const polar_model *m, const polar_features_options *o, polar_error *e) {
    /* weights are needed, of both models */
    if (m->vocab_only || (o->encoder && o->encoder->vocab_only))
        return fail(e, POLAR_ARGUMENT, "%s: opened for its vocabulary only",
                    m->vocab_only ? m->file.name : o->encoder->file.name);
    if (!polar_feature_name(o->feature) || o->max_tokens < 0 || o->max_tokens > PRED_MAX_TOKENS)
        return fail(e, POLAR_ARGUMENT, "features of kind %d, at most %d tokens: no such thing", (int)o->feature,
                    o->max_tokens);
    if (o->feature == POLAR_FEATURE_HIDDEN && (o->layer < 1 || o->layer > m->n_layer))
        return fail(e, POLAR_ARGUMENT, "features after %d layers, the model has 1..%d", o->layer, m->n_layer);
    if ((o->feature == POLAR_FEATURE_ENCODER) != (o->encoder != NULL))
        return fail(e, POLAR_ARGUMENT, o->encoder ? "an encoder is given, but features of kind \"%s\" need none" :
                    "features of kind \"%s\" need the encoder's model", polar_feature_name(o->feature));
    return POLAR_OK;
}

enum { FEATURES_ENCODER_CTX = 4096 }; /* tokens of a question where max_tokens sets no limit */

/* The session that reads a question through all layers of the encoder. Keys and values are kept as floats. */
static polar_status features_open_encoder(polar_features *f, polar_error *e) {
    polar_session_options o = {0};
    o.allocator = &f->allocator;
    o.runner = &f->runner;
    o.kv_type = POLAR_KV_F32;
    o.n_ctx = MIN(f->options.max_tokens ? f->options.max_tokens : FEATURES_ENCODER_CTX,
                  f->options.encoder->n_ctx_train);
    o.max_peek = o.n_ctx;
    return polar_session_create(&f->encoder, f->options.encoder, NULL, &o, e);
}

/* The model's own session. One that answers runs all layers; else the program keeps only the first `layers`, which the
 * features need, and skips the rest. None is opened where nothing would run. */
static polar_status features_open_session(polar_features *f, int answers, polar_error *e) {
    polar_session_options o = f->options.session;
    const int layers = f->options.feature == POLAR_FEATURE_HIDDEN ? f->options.layer : 0;
    polar_program first = polar_program_identity(f->model->n_layer);
    if (!answers && !layers) return POLAR_OK;
    if (!answers && layers < f->model->n_layer) { /* slots for `layers` calls only */
        first.n_segments = 2;
        first.segments[0].length = (int16_t)layers;
        first.segments[1].start = (int16_t)layers;
        first.segments[1].length = (int16_t)(f->model->n_layer - layers);
        first.segments[1].times = 0;
    }
    o.allocator = &f->allocator;
    o.runner = &f->runner;
    if (layers) o.max_peek = INT_MAX; /* cut to the context */
    return polar_session_create(&f->session, f->model, &first, &o, e);
}

/* For polar_features_create, and, with `answers`, for a picker, whose answers come from the same session. The sessions
 * share one allocator and one runner, whose threads are made here unless the caller brings his own. */
static polar_status features_create(polar_features **out, const polar_model *model,
                                    const polar_features_options *options, int answers, polar_error *error) {
    const polar_features_options none = {0};
    polar_features_options o = options ? *options : none;
    const polar_allocator a = o.session.allocator ? mem_allocator(o.session.allocator) : model->allocator;
    polar_features *f;
    polar_status status;
    o.layer = option_int(o.layer, 2);
    o.max_tokens = option_int(o.max_tokens, 512);
    status = features_check(model, &o, error);
    if (status) return status;
    f = mem_zeros(&a, sizeof *f, error);
    if (!f) return POLAR_MEMORY;
    f->allocator = a;
    f->model = model;
    f->options = o;
    /* threads first, since the sessions run on them */
    if (o.session.runner) f->runner = *o.session.runner;
    else status = polar_pool_create(&f->pool, o.session.n_threads, &a, error);
    if (f->pool) f->runner = polar_pool_runner(f->pool);
    if (!status) status = features_open_session(f, answers, error);
    if (!status && o.encoder) status = features_open_encoder(f, error);
    if (status) polar_features_free(f);
    else *out = f;
    return status;
}

/* Features alone, as for the training of a predictor: no session runs more layers than they need. */
polar_status polar_features_create(polar_features **out, const polar_model *model,
                                   const polar_features_options *options, polar_error *error) {
    err_clear(error);
    if (!out || !model) return fail(error, POLAR_ARGUMENT, "polar_features_create: out or model is NULL");
    *out = NULL;
    return features_create(out, model, options, 0, error);
}

/* Also of features that features_create left unfinished. The sessions go before the pool that they run on. */
void polar_features_free(polar_features *features) {
    polar_allocator a;
    if (!features) return;
    a = features->allocator;
    polar_session_free(features->session);
    polar_session_free(features->encoder);
    polar_pool_free(features->pool);
    mem_free(&a, features->rows, features->n_rows * sizeof *features->rows);
    mem_free(&a, features->tokens, features->n_tokens * sizeof *features->tokens);
    mem_free(&a, features, sizeof *features);
}

/* q_dim of a predictor that reads these features. */
int polar_features_width(const polar_features *f) {
    return (f->options.encoder ? f->options.encoder : f->model)->n_embd;
}

/* Room for the features of n tokens in f->rows; NULL without memory. */
static float *features_room(polar_features *f, int n, polar_error *e) {
    void *p = f->rows;
    const size_t need = (size_t)n * (size_t)polar_features_width(f);
    if (!mem_grow(&f->allocator, &p, &f->n_rows, need, sizeof *f->rows, e)) return NULL;
    f->rows = p;
    return f->rows;
}

/* rows (n, n_embd): the embeddings of the tokens, as they stand in the file. */
static polar_status features_embed(polar_features *f, const int32_t *prompt, int n, const float **rows,
                                   polar_error *e) {
    const matrix *m = &f->model->embedding;
    const size_t width = (size_t)f->model->n_embd;
    float *to = features_room(f, n, e);
    if (!to) return POLAR_MEMORY;
    for (int i = 0; i < n; i++) {
        if (prompt[i] < 0 || prompt[i] >= f->model->n_vocab)
            return fail(e, POLAR_ARGUMENT, "token %d at place %d is out of range, the vocabulary has 0..%d",
                        (int)prompt[i], i, f->model->n_vocab - 1);
        quant_dequantize(m->type, m->data + (size_t)prompt[i] * m->row_bytes, width, to + (size_t)i * width);
    }
    *rows = to;
    return POLAR_OK;
}

/* The token that an encoder's tokenizer appends to a text; -1 if it appends none. Files of Qwen3-Embedding do not say
 * that theirs is <|endoftext|>, and name another token as their EOS, so the vocabulary is asked before the metadata. */
static int32_t features_end_token(const polar_model *m) {
    const int32_t id = tok_id(&m->vocab, "<|endoftext|>");
    int add_eos = 0;
    if (tok_is_control(&m->vocab, id)) return id;
    gguf_get_bool(&m->file, TOK_KEY "add_eos_token", &add_eos, GGUF_OPTIONAL, NULL);
    return add_eos ? m->vocab.eos : -1;
}

/* The question as the encoder's tokens, cut so that the end token fits. */
static polar_status features_tokenize(polar_features *f, const char *text, size_t length, int *n_out, polar_error *e) {
    const polar_model *m = f->options.encoder;
    const int32_t end = features_end_token(m);
    const int room = f->encoder->options.n_ctx - (end >= 0); /* for the text's own tokens */
    void *p = f->tokens;
    int n = 0;
    /* counts, then writes */
    polar_status status = tok_encode(&m->vocab, &f->allocator, text, length, POLAR_TOKENIZE_BOS, NULL, 0, &n, e);
    if (status) return status;
    if (!mem_grow(&f->allocator, &p, &f->n_tokens, (size_t)n + 1, sizeof *f->tokens, e)) return POLAR_MEMORY;
    f->tokens = p;
    status = tok_encode(&m->vocab, &f->allocator, text, length, POLAR_TOKENIZE_BOS, f->tokens, n, &n, e);
    if (status) return status;
    n = MIN(n, room);
    if (end >= 0) f->tokens[n++] = end;
    if (!n) return fail(e, POLAR_ARGUMENT, "an empty question has no features");
    *n_out = n;
    return POLAR_OK;
}

/* rows (n, n_embd of the encoder): its hidden states behind the last layer, after the final norm. */
static polar_status features_encode(polar_features *f, const char *text, size_t length, const float **rows, int *n,
                                    polar_error *e) {
    const polar_model *m = f->options.encoder;
    float *to;
    polar_status status = features_tokenize(f, text, length, n, e);
    if (status) return status;
    to = features_room(f, *n, e);
    if (!to) return POLAR_MEMORY;
    status = polar_session_peek(f->encoder, f->tokens, *n, m->n_layer, to, e);
    if (status) return status;
    /* polar_session_peek returns hidden states as they leave the layer */
    for (int i = 0; i < *n; i++, to += m->n_embd) m->kern->rms_norm(to, to, m->output_norm, m->n_embd, m->norm_eps);
    *rows = f->rows;
    return POLAR_OK;
}

/* rows (n, width). Of a prompt longer than max_tokens the last tokens have features, since the question stands at the
 * end; all of them run, as the hidden state of a token depends on those before it. */
polar_status polar_features_make(polar_features *f, const char *question, size_t length, const int32_t *prompt,
                                 int n_prompt, const float **rows, int *n, polar_error *error) {
    const int own = f->options.feature != POLAR_FEATURE_ENCODER; /* features of the model itself */
    const int max_tokens = f->options.max_tokens ? f->options.max_tokens : PRED_MAX_TOKENS;
    int first;
    polar_status status;
    err_clear(error);
    if (!rows || !n || (own && (!prompt || n_prompt < 1)) || (!own && !question))
        return fail(error, POLAR_ARGUMENT, "polar_features_make: an argument is NULL or the prompt is empty");
    if (!own) return features_encode(f, question, length, rows, n, error);
    first = MAX(0, n_prompt - max_tokens);
    *n = n_prompt - first;
    if (f->options.feature == POLAR_FEATURE_EMBEDDING) return features_embed(f, prompt + first, *n, rows, error);
    /* the session keeps the hidden states, for the answer to go on from */
    status = polar_session_peek(f->session, prompt, n_prompt, f->options.layer, NULL, error);
    if (status) return status;
    *rows = f->session->ahead + (size_t)first * (size_t)f->model->n_embd;
    return POLAR_OK;
}

/* --- picking --------------------------------------------------------------------------
 *
 * A picker is features and a predictor that reads them. It holds one session, which makes the features of a question
 * and then answers it under the program that was picked; questions come one after the other. */

struct polar_picker {
    polar_allocator allocator;
    const polar_model *model;
    const polar_predictor *predictor;
    polar_pick_options options;
    polar_features *features; /* with the session that answers */
    int by_menu;              /* 1: the menu network picks, 0: the network of programs */
    double probability[POLAR_MAX_MENU]; /* P(correct) of the menu's programs for the last question */
};

/* Compares sizes first, whose mismatch says more than that of a fingerprint. A file without fingerprint and checksum is
 * taken for any model of its sizes. */
polar_status polar_predictor_check(const polar_predictor *p, const polar_model *m, const polar_model *encoder,
                                   int any_model, polar_error *error) {
    const polar_predictor_info *i = &p->info;
    /* n_embd of the model that makes the features */
    const int width = i->feature == POLAR_FEATURE_ENCODER && encoder ? encoder->n_embd : m->n_embd;
    err_clear(error);
    /* sizes: what a wrong model would show even without a fingerprint */
    if (i->n_layer != m->n_layer)
        return fail(error, POLAR_MISMATCH, "the predictor is for a model of %d layers%s%s, %s has %d", i->n_layer,
                    *p->model_name ? ", " : "", p->model_name, m->file.name, m->n_layer);
    if (i->feature == POLAR_FEATURE_ENCODER && !encoder)
        return fail(error, POLAR_MISMATCH,
                    "the predictor reads what an encoder makes of a question: the model file of %s is needed",
                    *p->encoder_name ? p->encoder_name : "its encoder");
    if (i->q_dim != width)
        return fail(error, POLAR_MISMATCH, "the predictor reads features of %d numbers, hidden states of %s have %d",
                    i->q_dim, (i->feature == POLAR_FEATURE_ENCODER ? encoder : m)->file.name, width);
    if (i->feature == POLAR_FEATURE_HIDDEN && i->feature_layer < 1)
        return fail(error, POLAR_FORMAT, "the predictor reads hidden states, but does not say after which layer");
    /* the model itself, by its fingerprint, or in files from before there was one by its checksum */
    if (any_model || (!i->model_fingerprint && !i->model_checksum)) return POLAR_OK;
    if (i->model_fingerprint ? i->model_fingerprint != polar_model_fingerprint(m)
                             : i->model_checksum != polar_model_checksum(m))
        return fail(error, POLAR_MISMATCH,
                    "the predictor was trained for another model%s%s: weights or vocabulary of %s differ",
                    *p->model_name ? ", " : "", p->model_name, m->file.name);
    return POLAR_OK;
}

/* Calls of the longest program that may be picked: of the menu's, or all layers repeated; or the model's own, which
 * stands for none. Sessions make room for it. */
static int pick_max_calls(const polar_model *m, const polar_predictor *p, int by_menu) {
    int longest = m->n_layer * m->n_loops;
    if (!by_menu) return MAX(longest, PRED_REPEAT * m->n_layer);
    /* the menu may hold programs of more than two executions of a segment */
    for (int k = 0; k < p->menu.shape.n_menu; k++) longest = MAX(longest, polar_program_length(&p->programs[k]));
    return longest;
}

/* Checks the options and the match of model and predictor, then opens the features with a session that answers. */
polar_status polar_picker_create(polar_picker **out, const polar_model *model, const polar_predictor *predictor,
                                 const polar_pick_options *options, polar_error *error) {
    const polar_pick_options standard = {0}, *o = options ? options : &standard;
    polar_features_options features = {0};
    polar_allocator a;
    polar_picker *p;
    polar_status status;
    err_clear(error);
    if (!out || !model || !predictor) return fail(error, POLAR_ARGUMENT, "polar_picker_create: an argument is NULL");
    *out = NULL;
    if ((unsigned)o->head > POLAR_PICK_PROGRAMS || !(o->price - o->price == 0))
        return fail(error, POLAR_ARGUMENT, "a head %d or a price that is not finite: no such thing", (int)o->head);
    if ((o->head == POLAR_PICK_MENU && !predictor->menu.shape.n_menu) ||
        (o->head == POLAR_PICK_PROGRAMS && !predictor->net.shape.d_model))
        return fail(error, POLAR_UNSUPPORTED, "this predictor has no %s",
                    o->head == POLAR_PICK_MENU ? "menu" : "network of programs");
    status = polar_predictor_check(predictor, model, o->encoder, o->any_model, error);
    if (status) return status;
    a = o->session.allocator ? mem_allocator(o->session.allocator) : model->allocator;
    p = mem_zeros(&a, sizeof *p, error);
    if (!p) return POLAR_MEMORY;
    p->allocator = a;
    p->model = model;
    p->predictor = predictor;
    p->options = *o;
    /* which network picks: the one asked for, else the menu where the file has it */
    p->by_menu = o->head == POLAR_PICK_MENU || (o->head == POLAR_PICK_AUTO && predictor->menu.shape.n_menu);
    /* the features that the predictor was trained on */
    features.feature = predictor->info.feature;
    features.layer = predictor->info.feature_layer;
    features.max_tokens = predictor->info.max_tokens ? predictor->info.max_tokens : POLAR_OFF;
    features.encoder = features.feature == POLAR_FEATURE_ENCODER ? o->encoder : NULL;
    features.session = o->session;
    /* room for the keys and values of any program that may come */
    if (!features.session.max_calls)
        features.session.max_calls = MIN(pick_max_calls(model, predictor, p->by_menu), POLAR_MAX_CALLS);
    status = features_create(&p->features, model, &features, 1, error);
    if (status) polar_picker_free(p);
    else *out = p;
    return status;
}

/* Also of a picker that polar_picker_create left unfinished. */
void polar_picker_free(polar_picker *picker) {
    polar_allocator a;
    if (!picker) return;
    a = picker->allocator;
    polar_features_free(picker->features);
    mem_free(&a, picker, sizeof *picker);
}

/* Never NULL, since a picker's session answers. */
polar_session *polar_picker_session(polar_picker *picker) {
    return picker->features->session;
}

/* All probabilities, also of the programs that were not returned. */
const double *polar_picker_menu(const polar_picker *picker) {
    return picker->by_menu ? picker->probability : NULL;
}

/* The programs of the menu by utility, with score = ln P(correct), kept finite. */
static void pick_menu(const polar_picker *p, polar_candidate *out, int max, int *n) {
    int order[POLAR_MAX_MENU]; /* of the programs, the best first */
    *n = MIN(max, polar_menu_rank(p->predictor, p->probability, p->options.price, order));
    for (int i = 0; i < *n; i++) {
        out[i].program = p->predictor->programs[order[i]];
        out[i].score = log64(MAX(p->probability[order[i]], 1e-300));
    }
}

/* The best beams that execute something, at most `max`; the model's own program if there is none. As many beams are
 * followed as are asked for. */
static polar_status pick_programs(const polar_picker *p, const float *rows, int n_rows, polar_candidate *out, int max,
                                  int *n, polar_error *e) {
    polar_candidate beams[POLAR_MAX_BEAMS];
    polar_beam_options decode = p->options.beams;
    polar_status status;
    int n_beams = 0;
    /* at least `max` where that is possible */
    decode.n_beams = MAX(option_int(decode.n_beams, PRED_BEAMS), MIN(max, POLAR_MAX_BEAMS));
    status = pred_propose(p->predictor, rows, n_rows, &decode, beams, &n_beams, e);
    *n = 0;
    for (int i = 0; i < n_beams && *n < max && !status; i++)
        if (decode.keep_empty || polar_program_length(&beams[i].program)) out[(*n)++] = beams[i];
    if (status || *n) return status;
    out->program = prog_standard(p->model); /* all beams skip everything */
    out->score = 0;
    *n = 1;
    return POLAR_OK;
}

/* Features of the question, then programs from the menu network or from the network of programs. */
polar_status polar_picker_pick(polar_picker *p, const char *question, size_t length, const int32_t *prompt,
                               int n_prompt, polar_candidate *out, int max, int *n, polar_error *error) {
    const float *rows;
    int n_rows;
    polar_status status;
    err_clear(error);
    if (!out || !n || max < 1) return fail(error, POLAR_ARGUMENT, "polar_picker_pick: no room for a program");
    *n = 0; /* also after a failure */
    status = polar_features_make(p->features, question, length, prompt, n_prompt, &rows, &n_rows, error);
    if (status) return status;
    if (!p->by_menu) return pick_programs(p, rows, n_rows, out, max, n, error);
    status = polar_predictor_menu(p->predictor, rows, n_rows, p->probability, error);
    if (status) return status;
    pick_menu(p, out, max, n);
    return POLAR_OK;
}

/* --- several programs -----------------------------------------------------------------
 *
 * The rules by which the answers of several programs become one: a cascade stops at the first confident answer, a vote
 * takes the answer that most of them give. */

/* (sum of ln p(token)) / tokens, so that long answers are not less confident by their length. */
static double pick_confidence(const polar_result *r) {
    return r->n_generated > 0 ? r->logprob / r->n_generated : POLAR_NO_CONFIDENCE;
}

/* `best` is the most confident run so far, the first of equal ones; at the threshold the run that reaches it is the
 * best, since those before it stayed below. */
int polar_cascade(const polar_cascade_run *runs, int n, double threshold, int *n_run) {
    int best = 0, i = 0;
    for (; i < n; i++) {
        if (runs[i].confidence > runs[best].confidence) best = i;
        if (runs[i].confidence >= threshold) break;
    }
    *n_run = MIN(i + 1, n);
    return best;
}

/* Space as it surrounds an answer. */
static int vote_is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The answer in a response: what the judge takes for it, without one all bytes between spaces. Length 0 is none. */
static polar_span vote_extract(const polar_judge *judge, const char *response, size_t length) {
    polar_span s = {response, length};
    if (judge) return judge->extract(judge->user, response, length);
    while (s.length && vote_is_space(s.text[s.length - 1])) s.length--;
    for (; s.length && vote_is_space(*s.text); s.length--) s.text++;
    return s;
}

/* 1 if two answers say the same, 0 if not, -1 if the judge has no memory. Without a judge, equal bytes between spaces
 * say the same. */
static int vote_same(const polar_judge *judge, const polar_ballot *a, const polar_ballot *b) {
    polar_span x = {a->text, a->length}, y = {b->text, b->length};
    if (judge) return judge->same(judge->user, x, y);
    x = vote_extract(NULL, x.text, x.length); /* ballots of users need not be trimmed */
    y = vote_extract(NULL, y.text, y.length);
    return x.length == y.length && !memcmp(x.text, y.text, x.length);
}

/* count[i] and weight[i] are the votes for the answer that ballot i is the first to give; 0 for all other ballots. */
polar_status polar_vote(const polar_ballot *ballots, int n, const polar_judge *judge, int *winner, int *votes,
                        polar_error *error) {
    double weight[POLAR_MAX_MENU]; /* sums of the ballots' weights */
    int count[POLAR_MAX_MENU] = {0}, best = -1;
    err_clear(error);
    if (!ballots || !winner || n < 1 || n > POLAR_MAX_MENU)
        return fail(error, POLAR_ARGUMENT, "a vote over %d answers: 1..%d are possible", n, POLAR_MAX_MENU);
    for (int i = 0; i < n; i++) { /* count */
        const int cut = ballots[i].stop == POLAR_STOP_LIMIT || ballots[i].stop == POLAR_STOP_CONTEXT;
        int same = 0, first = 0; /* the first ballot that says the same, or i */
        weight[i] = 0;
        if (cut || !ballots[i].length) continue;
        while (first < i) { /* only answers that are the first of their kind are compared */
            if (count[first]) same = vote_same(judge, &ballots[i], &ballots[first]);
            if (same) break;
            first++;
        }
        if (same < 0) return fail(error, POLAR_MEMORY, "out of memory: the comparison of two answers");
        count[first]++;
        weight[first] += ballots[i].weight;
    }
    for (int i = 0; i < n; i++) /* most votes, then most weight, then the first */
        if (count[i] && (best < 0 || count[i] > count[best] || (count[i] == count[best] && weight[i] > weight[best])))
            best = i;
    *winner = best;
    if (votes) *votes = best < 0 ? 0 : count[best];
    return POLAR_OK;
}

/* --- answering ------------------------------------------------------------------------
 *
 * A picker's candidates become one answer by a method: the first program's, a vote over all, or a cascade. */

/* Generates one program's answer, behind what `text` holds. The session goes on from the layers that its first calls
 * share with the features. */
static polar_status pick_run(polar_picker *p, const polar_program *program, const int32_t *prompt, int n_prompt,
                             const polar_generate_options *generate, buf *text, polar_result *r, polar_error *e) {
    polar_session *s = p->features->session;
    polar_generate_options g = *generate;
    polar_status status = polar_session_set_program(s, program, e);
    if (status) return status;
    g.on_text = gen_on_text;
    g.on_text_user = text;
    status = polar_session_generate(s, prompt, n_prompt, &g, NULL, 0, r, e);
    if (text->failed) return fail(e, POLAR_MEMORY, "out of memory: the text of an answer"); /* which ended it */
    return status;
}

/* What all methods but the first share: n answers so far. */
typedef struct pick_answers {
    buf text;                          /* all of them, one behind the other, each with its prefix */
    buf tokens;                        /* theirs, as many of each as the caller has room for */
    int n_tokens[POLAR_MAX_MENU];      /* how many those are */
    size_t starts[POLAR_MAX_MENU + 1]; /* where each begins, and the last one ends */
    polar_result results[POLAR_MAX_MENU];
    polar_cascade_run runs[POLAR_MAX_MENU]; /* what the rule of cascades sees of them */
    int n;
} pick_answers;

/* Adds the answer under one more candidate. What a judge sees begins with the prefix, which the prompt has already
 * written. */
static polar_status pick_answer(polar_picker *p, const polar_candidate *c, const int32_t *prompt, int n_prompt,
                                const polar_answer_options *o, pick_answers *answers, polar_error *e) {
    const int i = answers->n;
    polar_result *r = &answers->results[i];
    polar_status status;
    answers->starts[i] = answers->text.length; /* a failed answer is not counted, and its text is not read */
    if (o->prefix) buf_put(&answers->text, o->prefix, strlen(o->prefix));
    status = pick_run(p, &c->program, prompt, n_prompt, &o->generate, &answers->text, r, e);
    if (status) return status;
    answers->starts[i + 1] = answers->text.length;
    answers->n_tokens[i] = o->generate.tokens ? MAX(0, MIN(r->n_generated, o->generate.token_capacity)) : 0;
    buf_put(&answers->tokens, o->generate.tokens, (size_t)answers->n_tokens[i] * sizeof *o->generate.tokens);
    if (answers->tokens.failed) return fail(e, POLAR_MEMORY, "out of memory: the tokens of an answer");
    answers->runs[i].confidence = pick_confidence(r);
    answers->runs[i].correct = 0; /* nobody knows */
    answers->runs[i].cost = polar_program_cost(&c->program) / p->model->n_loops;
    answers->n++;
    return POLAR_OK;
}

/* The winner of a vote, -1 if no program gave an answer. A program's weight is exp(score), its probability. Without a
 * judge the prefix is left out: where nothing was said, the bytes that the prompt began with would be an answer. */
static polar_status pick_vote(const polar_answer_options *o, const polar_candidate *c, const pick_answers *answers,
                              int *winner, int *votes, polar_error *e) {
    const size_t left_out = o->prefix && !o->judge ? strlen(o->prefix) : 0;
    polar_ballot ballots[POLAR_MAX_MENU];
    for (int i = 0; i < answers->n; i++) {
        const size_t start = answers->starts[i] + left_out;
        const char *text = answers->text.at ? answers->text.at + start : ""; /* NULL: nobody said anything */
        const polar_span s = vote_extract(o->judge, text, answers->starts[i + 1] - start);
        ballots[i].text = s.text;
        ballots[i].length = s.length;
        ballots[i].stop = answers->results[i].stop;
        ballots[i].weight = exp64(MAX(c[i].score, -700)); /* that is 1e-304, and no denormal number */
    }
    return polar_vote(ballots, answers->n, o->judge, winner, votes, e);
}

/* Runs programs one after the other: all of them for a vote, until one is confident in a cascade. Sets out->chosen and
 * out->votes. Where nobody votes the first program answers. */
static polar_status pick_several(polar_picker *p, const polar_candidate *c, int n, const int32_t *prompt, int n_prompt,
                                 const polar_answer_options *o, pick_answers *answers, polar_picked *out,
                                 polar_error *e) {
    const int cascade = o->method == POLAR_METHOD_CASCADE, given = o->threshold < 0;
    const double threshold = given ? o->threshold : p->predictor->info.cascade_threshold;
    int winner = 0, n_run;
    polar_status status = POLAR_OK;
    if (!(o->threshold <= 0))
        return fail(e, POLAR_ARGUMENT, "a cascade's threshold is the logarithm of a probability: at most 0");
    if (cascade && !given && !p->predictor->info.cascade_programs)
        return fail(e, POLAR_UNSUPPORTED, "the predictor's file holds no threshold for cascades: fit one, or give one");
    /* all of them, or up to the first confident one */
    for (int i = 0; i < n; i++) {
        status = pick_answer(p, &c[i], prompt, n_prompt, o, answers, e);
        if (status) return status;
        if (cascade && answers->runs[i].confidence >= threshold) break;
    }
    out->votes = 1;
    /* the same rule as for those who have all answers; n_run is answers->n */
    if (cascade) winner = polar_cascade(answers->runs, answers->n, threshold, &n_run);
    else status = pick_vote(o, c, answers, &winner, &out->votes, e);
    out->chosen = MAX(winner, 0);
    return status;
}

/* Hands answer i to the caller, without its prefix: the result, the text as far as it fits, and on_text at once. */
static void pick_deliver(const pick_answers *answers, const polar_answer_options *o, int i, char *to, size_t capacity,
                         polar_result *r) {
    const size_t prefix = o->prefix ? strlen(o->prefix) : 0, start = answers->starts[i] + prefix;
    /* in bytes, also where the caller's buffer is shorter */
    const size_t length = answers->starts[i + 1] - start;
    const char *text = answers->text.at ? answers->text.at + start : "";
    const int32_t *tokens = (const int32_t *)(const void *)answers->tokens.at;
    for (int k = 0; tokens && k < i; k++) tokens += answers->n_tokens[k];
    if (tokens) memcpy(o->generate.tokens, tokens, (size_t)answers->n_tokens[i] * sizeof *tokens);
    *r = answers->results[i];
    r->length = length;
    if (to && capacity) {
        memcpy(to, text, MIN(length, capacity));
        if (length < capacity) to[length] = 0;
    }
    if (length && o->generate.on_text) o->generate.on_text(o->generate.on_text_user, text, length);
}

/* One program answers straight into the caller's buffer; the answers of several are collected first. */
polar_status polar_picker_answer(polar_picker *p, const int32_t *prompt, int n_prompt,
                                 const polar_candidate *candidates, int n, const polar_answer_options *options,
                                 char *text, size_t capacity, polar_picked *picked, polar_error *error) {
    const polar_answer_options standard = {0}, *o = options ? options : &standard;
    pick_answers answers;
    polar_picked r;
    polar_status status;
    err_clear(error);
    memset(&r, 0, sizeof r);
    if (!candidates || n < 1 || n > POLAR_MAX_MENU || (unsigned)o->method >= POLAR_N_METHOD)
        return fail(error, POLAR_ARGUMENT, "an answer by method %d over %d programs: 1..%d are possible",
                    (int)o->method, n, POLAR_MAX_MENU);
    if (o->method == POLAR_METHOD_FIRST) { /* the answer streams to on_text as it comes */
        status = polar_session_set_program(p->features->session, &candidates->program, error);
        if (status) return status;
        status = polar_session_generate(p->features->session, prompt, n_prompt, &o->generate, text, capacity, &r.result,
                                        error);
        r.n_run = r.votes = 1;
        r.n_calls = r.result.n_calls;
        r.candidate = *candidates;
        if (!status && picked) *picked = r;
        return status;
    }
    memset(&answers, 0, sizeof answers);
    answers.text.allocator = answers.tokens.allocator = &p->allocator;
    status = pick_several(p, candidates, n, prompt, n_prompt, o, &answers, &r, error);
    if (!status) pick_deliver(&answers, o, r.chosen, text, capacity, &r.result);
    r.candidate = candidates[r.chosen];
    r.n_run = answers.n;
    for (int i = 0; i < answers.n; i++) r.n_calls += answers.results[i].n_calls;
    buf_free(&answers.text);
    buf_free(&answers.tokens);
    if (!status && picked) *picked = r;
    return status;
}

/* --- prompts --------------------------------------------------------------------------
 *
 * How a question is put to the model. A predictor knows questions only in the form of its training, so that form comes
 * along in its file. */

#define PROMPT_PLACE "{question}"
#define PROMPT_BOX   "\\boxed{" /* how the prompts of mathematics begin an answer */

/* Text, system message and chat format come from the first source that has a text; then `wanted` overrides the other
 * two one by one. */
polar_status polar_prompt_find(const polar_model *model, const polar_predictor *predictor, const polar_prompt *wanted,
                               polar_prompt *prompt, polar_error *error) {
    polar_prompt p = {NULL, NULL, POLAR_CHAT_AUTO, 0};
    const char *chat = ""; /* name of the format that comes with the text; "" if none does */
    err_clear(error);
    if (!model || !prompt) return fail(error, POLAR_ARGUMENT, "polar_prompt_find: model or prompt is NULL");
    /* the first source with a text */
    if (wanted && wanted->text) p.text = wanted->text;
    else if (predictor && *predictor->prompt) {
        p.text = predictor->prompt;
        p.system = predictor->has_system ? predictor->system : NULL;
        chat = predictor->chat;
    } else if (model->prompt) {
        p.text = model->prompt;
        chat = polar_chat_name(POLAR_CHAT_RAW);
    }
    /* what is wanted besides */
    if (wanted) p.think = wanted->think;
    if (wanted && wanted->system) p.system = wanted->system;
    if (wanted && wanted->chat != POLAR_CHAT_AUTO) p.chat = wanted->chat;
    else if (*chat) {
        while ((unsigned)p.chat < POLAR_N_CHAT && strcmp(chat, polar_chat_name(p.chat))) p.chat++; /* by its name */
        if ((unsigned)p.chat == POLAR_N_CHAT)
            return fail(error, POLAR_UNSUPPORTED, "the predictor's chat format \"%s\" is unknown here", chat);
    }
    if (p.chat == POLAR_CHAT_AUTO) p.chat = model->vocab.chat;
    *prompt = p;
    return POLAR_OK;
}

#ifndef POLAR_NO_TOKENIZER
/* Appends the template with the question in all its places, and a NUL. A template without a place is refused: every
 * question would get the same answer. */
static polar_status prompt_fill(buf *out, const char *text, const char *question, polar_error *e) {
    const char *place = strstr(text, PROMPT_PLACE);
    if (!place) return fail(e, POLAR_FORMAT, "the prompt \"%.*s\" has no place %s", (int)MIN(strlen(text), 60), text,
                            PROMPT_PLACE);
    for (; place; place = strstr(text, PROMPT_PLACE)) { /* text: what is left of the template */
        buf_put(out, text, (size_t)(place - text));
        buf_put(out, question, strlen(question));
        text = place + strlen(PROMPT_PLACE);
    }
    buf_put(out, text, strlen(text) + 1); /* the rest, with its NUL */
    return out->failed ? fail(e, POLAR_MEMORY, "out of memory: a prompt") : POLAR_OK;
}

/* The template filled in, then the chat format around it and the system message. */
polar_status polar_prompt_tokenize(const polar_model *model, const polar_prompt *prompt, const char *question,
                                   int32_t *tokens, int capacity, int *n, polar_error *error) {
    polar_message messages[2];
    polar_status status = POLAR_OK;
    buf text = {NULL, NULL, 0, 0, 0}; /* the template filled in, if there is one */
    int n_messages = 0;
    err_clear(error);
    if (!model || !prompt || !question)
        return fail(error, POLAR_ARGUMENT, "polar_prompt_tokenize: model, prompt or question is NULL");
    text.allocator = &model->allocator;
    if (prompt->text) status = prompt_fill(&text, prompt->text, question, error);
    if (prompt->system) messages[n_messages++] = (polar_message){"system", prompt->system};
    messages[n_messages++] = (polar_message){"user", prompt->text ? text.at : question};
    if (!status)
        status = polar_chat_tokenize(model, prompt->chat, prompt->think, messages, n_messages, tokens, capacity, n,
                                     error);
    buf_free(&text);
    return status;
}

/* How an answer begins that the prompt has begun, or NULL: "\boxed{" at its end. Judges want to see it, since what the
 * model generates then begins inside of the box. */
static const char *prompt_prefix(const polar_prompt *p) {
    const size_t n = p->text ? strlen(p->text) : 0, box = strlen(PROMPT_BOX);
    return n >= box && !strcmp(p->text + n - box, PROMPT_BOX) ? PROMPT_BOX : NULL;
}

/* --- the everyday call ----------------------------------------------------------------
 *
 * polar_ask makes everything anew for one question. Who asks many keeps a picker, or a session, instead. */

enum { ASK_PROGRAMS = 5 }; /* of a vote or cascade, unless the caller or the predictor's file says */

/* Programs that a method runs at most: what the caller says, else as many as the threshold of a cascade was fitted for,
 * since it is the best for that number, else ASK_PROGRAMS. */
static int ask_programs(const polar_ask_options *o) {
    const int fitted = o->method == POLAR_METHOD_CASCADE ? o->predictor->info.cascade_programs : 0;
    if (o->method == POLAR_METHOD_FIRST) return 1;
    return o->n_programs > 0 ? MIN(o->n_programs, POLAR_MAX_MENU) : fitted ? fitted : ASK_PROGRAMS;
}

/* The answer under the programs that the predictor picks: a picker is made, picks, and answers with the session that
 * made the features. */
static polar_status ask_predicted(const polar_model *m, const char *question, const polar_ask_options *o,
                                  const polar_session_options *session, const polar_answer_options *answer,
                                  char *text, size_t capacity, const int32_t *tokens, int n, polar_picked *picked,
                                  polar_error *e) {
    polar_pick_options pick = {0};
    polar_candidate candidates[POLAR_MAX_MENU];
    polar_picker *p = NULL;
    const size_t length = strlen(question);
    int n_candidates;
    polar_status status;
    pick.encoder = o->encoder;
    pick.session = *session;
    pick.head = o->head;
    pick.price = o->price;
    pick.any_model = o->any_model;
    status = polar_picker_create(&p, m, o->predictor, &pick, e);
    if (!status)
        status = polar_picker_pick(p, question, length, tokens, n, candidates, ask_programs(o), &n_candidates, e);
    if (!status)
        status = polar_picker_answer(p, tokens, n, candidates, n_candidates, answer, text, capacity, picked, e);
    polar_picker_free(p);
    return status;
}

/* The answer under a program that the caller named, or the model's own, perhaps behind a prompt under another.
 * `picked` is filled in as a picker would: one program ran, and its answer has one vote. */
static polar_status ask_program(const polar_model *m, const polar_program *program, const char *prompt_program,
                                const polar_session_options *session, const polar_answer_options *answer,
                                char *text, size_t capacity, const int32_t *tokens, int n, polar_picked *picked,
                                polar_error *e) {
    polar_session_options o = *session;
    polar_generate_options g = answer->generate;
    polar_program first = *program;
    polar_session *s = NULL;
    polar_status status = POLAR_OK;
    if (prompt_program) {
        status = polar_model_program(m, prompt_program, &first, e);
        o.max_calls = MAX(o.max_calls, MAX(polar_program_length(&first), polar_program_length(program)));
        g.program = program;
    }
    if (status || (status = polar_session_create(&s, m, &first, &o, e))) return status;
    status = polar_session_generate(s, tokens, n, &g, text, capacity, &picked->result, e);
    picked->candidate.program = *program;
    picked->n_run = picked->votes = 1;
    picked->n_calls = picked->result.n_calls; /* of one program */
    polar_session_free(s);
    return status;
}

/* In order: the program, if one is named; the prompt; its tokens, counted first; a context that holds them and the
 * answer; the answer itself, by program or by predictor. */
polar_status polar_ask(const polar_model *model, const char *question, const polar_ask_options *options, char *text,
                       size_t capacity, polar_result *result, polar_error *error) {
    const polar_ask_options standard = {0}, *o = options ? options : &standard;
    polar_session_options session = o->session;
    int max_tokens = o->generate.max_tokens;
    polar_program program;
    polar_answer_options answer = {0};
    polar_prompt prompt;
    polar_picked picked;
    int32_t *tokens = NULL;
    int n = 0;
    polar_status status;
    err_clear(error);
    memset(&picked, 0, sizeof picked);
    if (!model || !question) return fail(error, POLAR_ARGUMENT, "polar_ask: model or question is NULL");
    if (model->vocab_only) return fail(error, POLAR_ARGUMENT, "%s: opened for its vocabulary only", model->file.name);
    if (o->prompt_program && o->predictor && !o->program)
        return fail(error, POLAR_ARGUMENT, "polar_ask: a predictor picks one program for prompt and answer");
    status = polar_model_program(model, o->program, &program, error);
    if (!status) status = polar_prompt_find(model, o->predictor, &o->prompt, &prompt, error);
    if (!status) status = polar_prompt_tokenize(model, &prompt, question, NULL, 0, &n, error);
    if (status) return status;
    if (max_tokens <= 0) max_tokens = 256; /* as polar_session_generate takes it */
    if (!session.n_ctx) session.n_ctx = (int)MIN((int64_t)n + max_tokens, model->n_ctx_train);
    session.n_logits = MAX(session.n_logits, MIN(MAX(o->generate.lookup, 0), session.n_ctx - 1) + 1);
    if (n > session.n_ctx) /* before anything large is allocated */
        return fail(error, POLAR_CONTEXT, "the prompt has %d tokens, the context %d", n, session.n_ctx);
    tokens = mem_alloc(&model->allocator, (size_t)n * sizeof *tokens, error);
    if (!tokens) return POLAR_MEMORY;
    status = polar_prompt_tokenize(model, &prompt, question, tokens, n, &n, error);
    answer.method = o->method;
    answer.threshold = o->threshold;
    answer.prefix = prompt_prefix(&prompt);
    answer.judge = o->judge;
    answer.generate = o->generate;
    if (!status && o->predictor && !o->program)
        status = ask_predicted(model, question, o, &session, &answer, text, capacity, tokens, n, &picked, error);
    else if (!status)
        status = ask_program(model, &program, o->prompt_program, &session, &answer, text, capacity, tokens, n, &picked,
                             error);
    mem_free(&model->allocator, tokens, (size_t)n * sizeof *tokens);
    if (!status && result) *result = picked.result;
    if (!status && o->picked) *o->picked = picked;
    return status;
}
#endif /* POLAR_NO_TOKENIZER */

/* ======================================================================================
 * [train] Training
 *
 * Trains the two networks of [pred] on what a search found: the network that proposes programs (train_*, METHOD.md 4)
 * on paths that answer a question, and the menu (menu_*, METHOD.md 5) on results of its programs, right and wrong ones.
 *
 * Start reading at train_step: it lays out a batch (train_gather), computes loss and gradients (train_gradients), and
 * changes the weights (train_update, AdamW). The gradients are derived by hand: each xxx_forward of [pred] has its
 * xxx_backward here, with the arguments in the same order, and with dx for the gradient of the loss with respect to x.
 * The loss and its gradient stand next to each other too: train_example_loss and train_example_gradient. The menu
 * starts at menu_epoch; its pair is menu_forward and menu_backward, its losses are in menu_pass_task and menu_policy.
 *
 * A pass is a question with some of its paths. A step runs its passes in chunks that fit into memory. First every pass
 * goes forward and backward by itself, in parallel, and leaves the gradients of the results of all linear layers. Then
 * the gradients of the weights are summed up, in parallel over pieces of them: each number is one chain of fused
 * multiply-adds over all rows of the chunk in the order of the passes. All other gradients are kept per pass and added
 * in the order of the passes. So no result depends on the number of threads. In the shapes below D is n_layer, d is
 * d_model, T is the number of tokens of a question.
 * Uses: [err] [mem] [num] [thread] [kern] [gguf] [prog] [pred].
 * ====================================================================================== */

#ifndef POLAR_NO_TRAIN

/* --- data: paths become examples ------------------------------------------------------ */

enum {
    TRAIN_KEEP = 1,       /* number of the operation keep, between skip and repeat */
    TRAIN_NO_SEGMENT = 3, /* label of a layer at which no segment starts */
    TRAIN_MAX_LENGTH = 4, /* layers of the longest segment that the network can propose */
    TRAIN_MAX_TIMES = 2,  /* how often its segments run at most */
    TRAIN_PROPOSALS = 5   /* programs that the decoder proposes */
};

/* Streams of random numbers, each from the seed and its number. */
enum {
    TRAIN_RANDOM_SPLIT,      /* which questions are held out */
    TRAIN_RANDOM_ORDER,      /* the examples of each epoch */
    TRAIN_RANDOM_DROPOUT,    /* of each step */
    TRAIN_RANDOM_WEIGHTS,    /* the initial ones, of each tensor */
    TRAIN_RANDOM_MENU_ORDER, /* the same for the menu */
    TRAIN_RANDOM_MENU_DROPOUT,
    TRAIN_RANDOM_MENU_WEIGHTS,
    TRAIN_RANDOM_MENU_SPLIT
};

/* One path of a question to learn from. Its labels are D bytes of trainer.labels: where a segment starts, its operation
 * (0 skip, 1 keep, 2 repeat), elsewhere TRAIN_NO_SEGMENT. */
typedef struct train_example {
    int question; /* number in trainer.questions */
    int length;   /* calls of the path */
    float weight; /* u in train_weigh */
    int anti;     /* 1: the identity does not answer the question */
} train_example;

/* A question has the examples first .. first + count - 1. */
typedef struct train_question {
    int first, count;
} train_question;

/* What the valid paths of a question are. */
typedef struct train_survey {
    int n_valid;
    int has_identity; /* the identity is valid */
    int has_shorter;  /* so is a path with fewer calls */
} train_survey;

/* Whether a path executes each layer once, in order. */
static int train_is_identity(const polar_train_path *p, int n_layer) {
    if (p->length != n_layer) return 0;
    for (int i = 0; i < n_layer; i++)
        if (p->path[i] != i) return 0;
    return 1;
}

/* Surveys the paths of a question. */
static train_survey train_look(const polar_train_question *q, int n_layer) {
    train_survey s = {0, 0, 0};
    for (int i = 0; i < q->n_paths; i++) {
        const polar_train_path *p = &q->paths[i];
        if (p->result != POLAR_RESULT_VALID) continue;
        s.n_valid++;
        if (train_is_identity(p, n_layer)) s.has_identity = 1;
        else if (p->length < n_layer) s.has_shorter = 1;
    }
    return s;
}

/* Labels of a path (D bytes). 1 if it has them; 0 if it is not made of segments of at most TRAIN_MAX_LENGTH layers that
 * are skipped, kept, or run twice, which is all that the network can propose. */
static int train_labels(const polar_train_path *p, int n_layer, uint8_t *labels) {
    int seg_flip[POLAR_MAX_LAYER], op[POLAR_MAX_LAYER];
    polar_program program;
    if (p->length < 1) return 0;
    if (polar_program_from_path(&program, n_layer, p->path, p->length, TRAIN_MAX_LENGTH, TRAIN_MAX_TIMES, NULL) ||
        !polar_program_path(&program, seg_flip, 0)) /* the network knows no damped segments */
        return 0;
    polar_program_targets(&program, seg_flip, op); /* seg_flip says again where op is not POLAR_OP_NONE */
    for (int i = 0; i < n_layer; i++) labels[i] = (uint8_t)(op[i] == POLAR_OP_NONE ? TRAIN_NO_SEGMENT : op[i]);
    return 1;
}

/* The examples of one question, in the order of its paths; returns their number. At most max_paths of the valid paths
 * are taken: the one at hand with probability wanted / left, which gives every subset the same chance (selection
 * sampling). Those without labels count as taken, but are left out. Weights follow METHOD.md 4; where the identity and
 * a shorter path are both valid, the option `identity` says what happens to the identity. With `out` and `labels` NULL
 * the examples are only counted. */
static int train_question_examples(const polar_train_question *q, int index, int n_layer, const polar_train_options *o,
                                   train_example *out, uint8_t *labels) {
    const train_survey s = train_look(q, n_layer);
    const int both = s.has_identity && s.has_shorter;
    const int drop = both && o->identity == POLAR_IDENTITY_DROP;
    const int reweight = both && o->identity == POLAR_IDENTITY_REWEIGHT;
    uint64_t state = pred_key(o->seed, (uint64_t)index);
    int left = s.n_valid - drop, wanted = o->max_paths > 0 ? MIN(left, o->max_paths) : left, n = 0;
    uint8_t scratch[POLAR_MAX_LAYER];
    for (int i = 0; i < q->n_paths; i++) {
        const polar_train_path *p = &q->paths[i];
        const int identity = train_is_identity(p, n_layer);
        int taken;
        if (p->result != POLAR_RESULT_VALID || (drop && identity)) continue;
        /* of `left` valid paths that are still to come, this one included, `wanted` are to be taken */
        taken = wanted == left || (int)(rng_next(&state) % (uint64_t)left) < wanted;
        left--;
        if (!taken) continue;
        wanted--;
        /* cppcheck-suppress legacyUninitvar ; written, not read */
        if (!train_labels(p, n_layer, labels ? labels + (size_t)n * (size_t)n_layer : scratch)) continue;
        if (out) {
            out[n].length = p->length;
            out[n].weight = reweight && identity ? (float)o->identity_weight : 1;
            out[n].anti = !s.has_identity;
        }
        n++;
    }
    for (int i = 0; out && o->per_question && i < n; i++) out[i].weight /= (float)n;
    return n;
}

/* --- the trainer ---------------------------------------------------------------------- */

enum {
    TRAIN_CHUNK = 16,   /* passes whose traces are in memory at a time */
    TRAIN_TILE = 6,     /* rows of a tile of the matrix kernels, at most */
    TRAIN_ROWS = 48,    /* rows of a weight gradient that are one task: a multiple of TRAIN_TILE */
    TRAIN_DEPTH = 256,  /* rows of activations packed at a time */
    TRAIN_BLOCK = 16384 /* parameters of one task of the optimizer */
};

/* One forward and backward pass: question number `question` with `count` of its examples, which are
 * trainer.batch_examples[first ..]. */
typedef struct train_pass {
    int question, first, count;
    int token; /* first row of its tokens in the chunk */
} train_pass;

/* What one pass adds to losses and counts. All that follows `anti` is set for held-out questions only. */
typedef struct train_sum {
    double loss;    /* sum over the examples of w (seg + op) */
    double anti;    /* sum of the anti-identity terms */
    double weight;  /* sum of w */
    int n_anti;     /* examples with an anti-identity term */
    int hit1, hit5; /* 1 if the first proposal, or one of the first five, is known to be valid */
    int corrected;  /* 1 if the first proposal is valid, and the identity is not known to be */
    int identity;   /* 1 if the first proposal is the identity */
} train_sum;

/* A piece of the gradient of a linear layer's weight, which is one task: TRAIN_ROWS rows of dW from `row` on. */
typedef struct train_piece {
    int linear, row;
} train_piece;

/* Gradients of the results of the linear layers, kept until those of the weights are made: the counterpart of
 * pred_trace, for one pass or for all passes of a chunk one after the other. */
typedef struct train_trace {
    float *tokens;                                  /* (T, d): PRED_PROJECT */
    float *kv;                                      /* (T, 2 d): PRED_CROSS_KV */
    float *cross;                                   /* (D, d): PRED_CROSS_OUT */
    float *linear[PRED_PER_BLOCK * PRED_MAX_BLOCK]; /* (D, out): the layers of the blocks, from PRED_BLOCK on */
} train_trace;

/* Memory that a thread needs for itself. */
typedef struct train_worker {
    pred_scratch scratch;
    float *left;     /* (TRAIN_ROWS, TRAIN_DEPTH): a packed operand of a weight gradient, */
    float *right;    /* (TRAIN_DEPTH, MAT_COLUMNS): and the other one */
    float *dx;       /* (D, d): gradient of what is between two blocks */
    float *dsum;     /* (D, d): of what enters a LayerNorm */
    float *dcontext; /* (D, d): of what attention gathers */
    float *dq;       /* (D, d): of the queries */
    float *dprobs;   /* (D, max(T, D)): of one head's probabilities */
} train_worker;

/* How far a run has come. With params, m, v, best and the curve it is all that a checkpoint holds. */
typedef struct train_state {
    int32_t epoch, step;     /* the next one; steps count from 0 in each epoch */
    int32_t n_updates;       /* of the weights: steps that were not skipped */
    int32_t n_skipped;       /* steps without a finite loss and gradient */
    int32_t n_epoch_skipped; /* those of this epoch */
    int32_t best_epoch;      /* -1: none yet */
    double epoch_loss;       /* sum over the steps of this epoch */
    double loss, norm, lr;   /* of the last step */
    double best;             /* what was measured in best_epoch; smaller is better */
} train_state;

struct polar_trainer {
    polar_allocator allocator;
    void *block; /* all arrays */
    size_t bytes;
    polar_train_options options;
    const polar_train_question *sources; /* the caller's questions */
    polar_runner runner;
    polar_pool *pool;     /* of the runner, unless the caller gave one */
    uint64_t fingerprint; /* of options and data, see train_fingerprint */

    pred_net net;
    size_t n_params;     /* numbers in each of the following arrays */
    size_t n_pass_grads; /* those of them whose gradients are kept per pass, see pred_tensor.per_pass */
    float *params, *grads;
    float *m, *v;          /* AdamW's moments */
    float *best;           /* params after the best epoch */
    float *mean, *inverse; /* (q_dim): the network sees (x - mean) * inverse */
    double *norms;         /* sum of squares of each TRAIN_BLOCK gradients; before training sums over features */
    train_piece *pieces;   /* (n_pieces) */
    int n_pieces;

    int n_questions, n_validation; /* with examples; the last n_validation are held out */
    int n_examples, n_train;       /* the first n_train are trained on, the others are of the held-out questions */
    int max_tokens;                /* the largest T */
    train_question *questions;     /* (n_questions) */
    int *source_of;                /* (n_questions): the index of each in the caller's array */
    train_example *examples;       /* (n_examples): by question */
    uint8_t *labels;               /* (n_examples, D) */
    int n_steps;                   /* per epoch */

    /* the present epoch */
    int *order; /* (n_train): its examples */
    int *units; /* (n_units + 1): where in `order` each unit starts; see train_plan */
    int n_units;
    int *shuffle; /* (n_units): the order of the units */
    int *batches; /* (n_steps + 1): where in `shuffle` each step starts */
    int planned;  /* the epoch that these are laid out for; -1: none */

    /* the present batch, or held-out questions */
    train_pass *passes; /* (n_passes) */
    train_sum *sums;    /* (n_passes) */
    int n_passes, max_passes;
    int *batch_examples; /* (n_batch): its examples, by pass */
    double *weights;     /* (n_batch) */
    int n_batch;
    double anti_total; /* examples with an anti-identity term, at least 1 */
    uint64_t key;      /* of the step's dropout */
    int backward;      /* 1: training; 0: validation */

    /* the present chunk of passes */
    int chunk_capacity, chunk_first, chunk_passes, chunk_tokens;
    float *features;  /* (chunk_tokens, q_dim): shifted and scaled */
    pred_trace trace; /* of all its passes, one after the other */
    train_trace dtrace;
    float *pass_grads;     /* (chunk_capacity, n_pass_grads) */
    train_worker *workers; /* one per thread */

    train_state state;
    polar_train_epoch *curve; /* (n_epochs) */
};

/* --- backward: the counterparts of [pred]'s forward functions ------------------------- */

/* Of y = x W^T + b: dx (rows, in) = dy (rows, out) W, added to what dx holds if `add`. The gradients of W and b are
 * made by train_weight_gradient and train_sum_rows. */
static void pred_linear_backward(const mat_kernels *kernels, float *dx, const float *dy, int rows, const pred_linear *l,
                                 int add) {
    if (!add) memset(dx, 0, (size_t)rows * (size_t)l->in * sizeof *dx);
    mat_mul(kernels, rows, l->in, l->out, dy, (size_t)l->out, 1, l->backward, dx, (size_t)l->in);
}

/* sum (n) += the rows of x (rows, n): the gradient of a bias from that of the result. */
static void train_sum_rows(float *sum, const float *x, int rows, int n) {
    for (int r = 0; r < rows; r++, x += n) pred_add(sum, x, (size_t)n);
}

/* Of out = P v with P = dropout(probs), probs = softmax(S), S = q k^T * scale, for each head: from dout
 *     dv = P^T dout
 *     dP = dout v^T,  dprobs = dropout(dP) with the same mask
 *     dS = probs * (dprobs - sum over keys of probs * dprobs)
 *     dq = dS k * scale,  dk = dS^T q * scale          softmax_row_backward includes the scale in dS
 * Rows of dq, dk, dv lie as those of q, k, v, and are overwritten. */
static void pred_attention_backward(const pred_attention *a, const float *dout, const float *probs, float *dq,
                                    float *dk, float *dv, const float *q, const float *k, const float *v,
                                    const train_worker *c, const pred_dropout *drop, int place) {
    const size_t n_probs = (size_t)a->n_q * (size_t)a->n_kv, n_kv = (size_t)a->n_kv;
    float *panels = c->scratch.panels, *dropped = c->scratch.scores, *ds = c->dprobs;
    for (int h = 0; h < a->n_head; h++, probs += n_probs) {
        const size_t at = (size_t)h * (size_t)a->head, bytes = (size_t)a->head * sizeof(float);
        for (int r = 0; r < a->n_q; r++) memset(dq + (size_t)r * a->q_row + at, 0, bytes);
        for (int r = 0; r < a->n_kv; r++) {
            memset(dk + (size_t)r * a->kv_row + at, 0, bytes);
            memset(dv + (size_t)r * a->kv_row + at, 0, bytes);
        }
        /* dv = P^T dout */
        memcpy(dropped, probs, n_probs * sizeof *probs);
        pred_drop(drop, place * PRED_MAX_HEAD + h, dropped, n_probs);
        mat_pack(panels, dout + at, a->out_row, 1, a->n_q, a->head);
        mat_mul(a->kernels, a->n_kv, a->head, a->n_q, dropped, 1, n_kv, panels, dv + at, a->kv_row);

        /* dP = dout v^T, through dropout and softmax to dS */
        memset(ds, 0, n_probs * sizeof *ds);
        mat_pack(panels, v + at, 1, a->kv_row, a->head, a->n_kv);
        mat_mul(a->kernels, a->n_q, a->n_kv, a->head, dout + at, a->out_row, 1, panels, ds, n_kv);
        pred_drop(drop, place * PRED_MAX_HEAD + h, ds, n_probs);
        for (int r = 0; r < a->n_q; r++)
            a->kernels->softmax_row_backward(ds + (size_t)r * n_kv, probs + (size_t)r * n_kv, a->n_kv, a->scale);

        /* dq = dS k, dk = dS^T q */
        mat_pack(panels, k + at, a->kv_row, 1, a->n_kv, a->head);
        mat_mul(a->kernels, a->n_q, a->head, a->n_kv, ds, n_kv, 1, panels, dq + at, a->q_row);
        mat_pack(panels, q + at, a->q_row, 1, a->n_q, a->head);
        mat_mul(a->kernels, a->n_kv, a->head, a->n_q, ds, 1, n_kv, panels, dk + at, a->kv_row);
    }
}

/* Of y = hat * gain + bias, hat = (x - mean) * rstd, for each of `rows` rows of d: with g = dy * gain
 *     dx = rstd * (g - mean(g) - hat * mean(g * hat)),  dgain += dy * hat,  dbias += dy */
static void pred_norm_backward(const mat_kernels *kernels, float *dx, const float *dy, const float *hat,
                               const float *rstd, const float *gain, float *dgain, float *dbias, int rows, int d) {
    for (int r = 0; r < rows; r++) {
        const size_t at = (size_t)r * (size_t)d;
        kernels->norm_row_backward(dx + at, dy + at, hat + at, rstd[r], gain, dgain, dbias, d);
    }
}

/* Of one post-norm transformer block, the steps of pred_block_forward from the last to the first. c->dx (D, d) holds
 * the gradient of the block's result, and is replaced by that of its input. dlinear gets the gradients of the results
 * of the four linear layers, dw those of biases and LayerNorm. Where the forward pass adds x, the gradient goes both
 * ways: what the layers give back is added to what came past them. */
static void pred_block_backward(const pred_net *net, int b, const pred_block_trace *t, float *const *dlinear,
                                const pred_block *dw, const train_worker *c, const pred_dropout *drop) {
    const pred_linear *l = net->linear + PRED_BLOCK + b * PRED_PER_BLOCK;
    const pred_block *w = &net->w.block[b];
    const int rows = net->shape.n_layer, d = net->shape.d_model, place = DROP_BLOCK + b * DROP_PER_BLOCK;
    const size_t n = (size_t)rows * (size_t)d, n_up = (size_t)rows * (size_t)net->shape.n_ff;
    const pred_attention a = pred_attention_of(net, rows, 3 * (size_t)d, 3 * (size_t)d);
    const float scale = drop && drop->threshold ? drop->scale : 1;
    float *dqkv = dlinear[PRED_QKV], *dout = dlinear[PRED_OUT], *dup = dlinear[PRED_UP], *ddown = dlinear[PRED_DOWN];

    /* y = norm2(mid + dropout(W_down up + b)): dsum is the gradient of the sum */
    pred_norm_backward(net->kernels, c->dsum, c->dx, t->hat2, t->rstd2, w->gain2, dw->gain2, dw->bias2, rows, d);
    memcpy(ddown, c->dsum, n * sizeof *ddown);
    pred_drop(drop, (place + DROP_DOWN) * PRED_MAX_HEAD, ddown, n);
    train_sum_rows(dw->down_bias, ddown, rows, d);
    pred_linear_backward(net->kernels, dup, ddown, rows, &l[PRED_DOWN], 0);
    /* up = dropout(relu(W_up mid + b)): what either of them made 0 has no gradient */
    for (size_t i = 0; i < n_up; i++) dup[i] = t->up[i] > 0 ? dup[i] * scale : 0;
    train_sum_rows(dw->up_bias, dup, rows, net->shape.n_ff);
    pred_linear_backward(net->kernels, c->dsum, dup, rows, &l[PRED_UP], 1);

    /* mid = norm1(x + dropout(W_out context + b)): dx is the gradient of the sum */
    pred_norm_backward(net->kernels, c->dx, c->dsum, t->hat1, t->rstd1, w->gain1, dw->gain1, dw->bias1, rows, d);
    memcpy(dout, c->dx, n * sizeof *dout);
    pred_drop(drop, (place + DROP_OUT) * PRED_MAX_HEAD, dout, n);
    train_sum_rows(dw->out_bias, dout, rows, d);
    pred_linear_backward(net->kernels, c->dcontext, dout, rows, &l[PRED_OUT], 0);
    /* context = attention(q, k, v), and these are W_qkv x + b */
    pred_attention_backward(&a, c->dcontext, t->probs, dqkv, dqkv + d, dqkv + 2 * d, t->qkv, t->qkv + d, t->qkv + 2 * d,
                            c, drop, place + DROP_PROBS);
    train_sum_rows(dw->qkv_bias, dqkv, rows, 3 * d);
    pred_linear_backward(net->kernels, c->dx, dqkv, rows, &l[PRED_QKV], 1);
}

/* Of logits (D, 4) = x (D, d) W^T + b, where W has a row for the segment start and three for the operations:
 *     dx_i = sum over k of dlogits_ik W_k,  dW_k += sum over i of dlogits_ik x_i,  db_k += sum over i of dlogits_ik */
static void pred_heads_backward(const pred_net *net, float *dx, const float *dlogits, const float *x,
                                const pred_weights *dw) {
    const int d = net->shape.d_model;
    for (int i = 0; i < net->shape.n_layer; i++, x += d, dx += d, dlogits += 4) {
        memset(dx, 0, (size_t)d * sizeof *dx);
        dw->seg_bias[0] += dlogits[0];
        net->kern->axpy(dx, dlogits[0], net->w.seg_weight, d);
        net->kern->axpy(dw->seg_weight, dlogits[0], x, d);
        for (int k = 0; k < 3; k++) {
            const size_t row = (size_t)k * (size_t)d;
            dw->op_bias[k] += dlogits[1 + k];
            net->kern->axpy(dx, dlogits[1 + k], net->w.op_weight + row, d);
            net->kern->axpy(dw->op_weight + row, dlogits[1 + k], x, d);
        }
    }
}

/* Of the whole network, the steps of pred_forward from the last to the first: from dlogits (D, 4) to the gradients of
 * the results of all linear layers (dt) and of everything that is kept per pass (dw). In place of the gradient of the
 * layers' embeddings dw->layers gets that of the queries made of them: train_query_gradient goes on from there. */
static void pred_backward(const pred_net *net, const pred_trace *t, const train_trace *dt, const float *dlogits,
                          const pred_weights *dw, const train_worker *c, const pred_dropout *drop) {
    const pred_linear *l = net->linear;
    const int rows = net->shape.n_layer, d = net->shape.d_model;
    const pred_attention a = pred_attention_of(net, t->n_tokens, (size_t)d, 2 * (size_t)d);
    /* logits = heads(out): dx is the gradient of out, */
    pred_heads_backward(net, c->dx, dlogits, t->out, dw);
    /* and then that of each block's input, down to what the cross-attention gives */
    for (int b = net->shape.n_block - 1; b >= 0; b--)
        pred_block_backward(net, b, &t->block[b], dt->linear + b * PRED_PER_BLOCK, &dw->block[b], c, drop);
    /* W_out context + b, context = attention(queries, k, v) */
    memcpy(dt->cross, c->dx, (size_t)rows * (size_t)d * sizeof(float));
    train_sum_rows(dw->out_bias, dt->cross, rows, d);
    pred_linear_backward(net->kernels, c->dcontext, dt->cross, rows, &l[PRED_CROSS_OUT], 0);
    pred_attention_backward(&a, c->dcontext, t->probs, c->dq, dt->kv, dt->kv + d, net->queries, t->kv, t->kv + d, c,
                            drop, DROP_CROSS);
    pred_add(dw->layers, c->dq, (size_t)rows * (size_t)d);
    /* k and v = W_kv tokens + b, whose bias stands behind that of the queries; tokens = W_project features + b */
    train_sum_rows(dw->qkv_bias + d, dt->kv, t->n_tokens, 2 * d);
    pred_linear_backward(net->kernels, dt->tokens, dt->kv, t->n_tokens, &l[PRED_CROSS_KV], 0);
    train_sum_rows(dw->project_bias, dt->tokens, t->n_tokens, d);
}

/* --- gradients of weights: dW += dy^T x ----------------------------------------------- */

/* Packs m columns of `from` (depth, row) for the left side of a product with its transpose, in groups of TRAIN_TILE
 * columns: (m / TRAIN_TILE, depth, TRAIN_TILE), the last group filled up with zeros. */
static void train_pack_left(float *to, const float *from, size_t row, int depth, int m) {
    for (int i = 0; i < m; i += TRAIN_TILE)
        for (int r = 0; r < depth; r++, to += TRAIN_TILE) {
            const float *x = from + (size_t)r * row + (size_t)i;
            if (i + TRAIN_TILE <= m) memcpy(to, x, TRAIN_TILE * sizeof *to);
            else
                for (int c = 0; c < TRAIN_TILE; c++) to[c] = i + c < m ? x[c] : 0;
        }
}

/* TRAIN_ROWS rows of dW (out, in) from row `first` on: dW_oi += sum over r of dy_ro x_ri, with dy (rows, out) and
 * x (rows, in). Every number is one chain of fused multiply-adds over the rows in ascending order, TRAIN_DEPTH of which
 * are packed at a time. */
static void train_weight_gradient(const mat_kernels *kernels, const train_worker *c, float *dweight, const float *dy,
                                  const float *x, const pred_linear *l, int first, int rows) {
    const int m = MIN(TRAIN_ROWS, l->out - first);
    for (int r = 0; r < rows; r += TRAIN_DEPTH) {
        const int depth = MIN(TRAIN_DEPTH, rows - r);
        const float *x_rows = x + (size_t)r * (size_t)l->in;
        train_pack_left(c->left, dy + (size_t)r * (size_t)l->out + first, (size_t)l->out, depth, m);
        for (int j = 0; j < l->in; j += MAT_COLUMNS) {
            const int width = MIN(MAT_COLUMNS, l->in - j);
            mat_pack(c->right, x_rows + j, (size_t)l->in, 1, depth, width);
            for (int i = 0; i < m; i += TRAIN_TILE)
                mat_mul(kernels, MIN(TRAIN_TILE, m - i), width, depth, c->left + (size_t)i * (size_t)depth, 1,
                        TRAIN_TILE, c->right, dweight + (size_t)(first + i) * (size_t)l->in + j, (size_t)l->in);
        }
    }
}

/* Task `index`: piece `index` of the weight gradients, from all passes of the chunk. Rows are tokens for the projection
 * and for the keys and values of the cross-attention, the layers of all passes for the others. */
static void train_piece_task(void *context, int index, int worker) {
    polar_trainer *t = context;
    const train_piece p = t->pieces[index];
    const pred_linear *l = &t->net.linear[p.linear];
    const int n_tokens = t->chunk_tokens, n_rows = t->chunk_passes * t->net.shape.n_layer;
    const train_worker *c = &t->workers[worker];
    float *dweight = t->grads + (l->weight - t->params);
    const mat_kernels *kernels = t->net.kernels;
    if (p.linear == PRED_PROJECT)
        train_weight_gradient(kernels, c, dweight, t->dtrace.tokens, t->features, l, p.row, n_tokens);
    else if (p.linear == PRED_CROSS_KV)
        train_weight_gradient(kernels, c, dweight, t->dtrace.kv, t->trace.tokens, l, p.row, n_tokens);
    else if (p.linear == PRED_CROSS_OUT)
        train_weight_gradient(kernels, c, dweight, t->dtrace.cross, t->trace.context, l, p.row, n_rows);
    else {
        const int i = p.linear - PRED_BLOCK;
        const pred_block_trace *b = &t->trace.block[i / PRED_PER_BLOCK];
        const float *const inputs[PRED_PER_BLOCK] = {b->x, b->context, b->mid, b->up}; /* of QKV, OUT, UP, DOWN */
        train_weight_gradient(kernels, c, dweight, t->dtrace.linear[i], inputs[i % PRED_PER_BLOCK], l, p.row, n_rows);
    }
}

/* --- losses --------------------------------------------------------------------------- */

/* Weights of the examples of the batch (METHOD.md 4): with the length preference beta and the example's own weight u
 *     w_i = exp(-beta length_i),  w_i /= mean(w) + 1e-8,  w_i *= u_i,  w_i /= mean(w) + 1e-8
 * where the first mean is left out for beta = 0; so their mean is 1. Counts the examples with an anti-identity term. */
static void train_weigh(polar_trainer *t) {
    const double beta = t->options.length_preference;
    double sum = 0, sum2 = 0;
    t->anti_total = 0;
    for (int i = 0; i < t->n_batch; i++) {
        const train_example *x = &t->examples[t->batch_examples[i]];
        t->weights[i] = beta != 0 ? exp64(mul64(-beta, x->length)) : 1;
        sum += t->weights[i];
        t->anti_total += x->anti;
    }
    for (int i = 0; i < t->n_batch; i++) {
        if (beta != 0) t->weights[i] /= sum / t->n_batch + 1e-8;
        t->weights[i] *= (double)t->examples[t->batch_examples[i]].weight;
        sum2 += t->weights[i];
    }
    for (int i = 0; i < t->n_batch; i++) t->weights[i] /= sum2 / t->n_batch + 1e-8;
    t->anti_total = MAX(t->anti_total, 1); /* [P] divides by max(1, number) */
}

/* Probabilities of one pass, which all its examples share. With z the segment logit of layer i and a_k its logits of
 * operations: seg = sigmoid(z), log_seg = {ln(1 - seg), ln seg}, op = softmax(a), log_op = ln op. */
typedef struct train_probs {
    double seg[POLAR_MAX_LAYER], log_seg[POLAR_MAX_LAYER][2];
    double op[POLAR_MAX_LAYER][3], log_op[POLAR_MAX_LAYER][3];
} train_probs;

/* ln(1 + e^x), without overflow. */
static double train_softplus(double x) {
    return x > 0 ? x + log64(1 + exp64(-x)) : log64(1 + exp64(x));
}

/* See train_probs; logits (D, 4). The largest logit is subtracted before exp. ln seg is -softplus(-z). */
static void train_probabilities(train_probs *p, const float *logits, int n_layer) {
    for (int i = 0; i < n_layer; i++, logits += 4) {
        const double x = (double)logits[0], max = (double)MAX(logits[1], MAX(logits[2], logits[3]));
        double sum = 0;
        p->seg[i] = 1 / (1 + exp64(-x));
        p->log_seg[i][0] = -train_softplus(x);
        p->log_seg[i][1] = -train_softplus(-x);
        for (int k = 0; k < 3; k++) sum += exp64((double)logits[1 + k] - max);
        for (int k = 0; k < 3; k++) {
            p->log_op[i][k] = (double)logits[1 + k] - max - log64(sum);
            p->op[i][k] = exp64(p->log_op[i][k]);
        }
    }
}

/* The focal loss of a label of probability p, -(1 - p)^gamma ln p: its factor (1 - p)^gamma. *slope gets the factor by
 * which the gradient of -ln p with respect to the logits is to be multiplied:
 *     (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) ln p
 * With gamma 0 both are 1, and nothing changes. */
static double train_focal(double gamma, double log_p, double *slope) {
    const double p = exp64(log_p), rest = 1 - p, factor = gamma > 0 && rest > 0 ? exp64(mul64(gamma, log64(rest))) : 0;
    *slope = 1;
    if (!(gamma > 0)) return 1;
    *slope = rest > 0 ? factor - mul64(mul64(gamma, p), mul64(factor / rest, log_p)) : 0;
    return factor;
}

/* The loss of one example (METHOD.md 4). With y_i = 1 where a segment starts, and c_i its operation:
 *     seg = -mean over i >= 1 of (y_i ln seg_i + (1 - y_i) ln(1 - seg_i))
 *     op  = -mean over i with y_i = 1 of ln op_i[c_i]
 * A segment always starts at layer 0, which is why its logit is left out. With gamma each term is the focal loss. */
static void train_example_loss(const train_probs *p, const uint8_t *labels, int n_layer, double gamma, double *seg,
                               double *op) {
    double slope;
    int n_starts = 0;
    *seg = *op = 0;
    for (int i = 0; i < n_layer; i++) {
        const int starts = labels[i] != TRAIN_NO_SEGMENT;
        if (i > 0) *seg -= mul64(train_focal(gamma, p->log_seg[i][starts], &slope), p->log_seg[i][starts]);
        if (starts) *op -= mul64(train_focal(gamma, p->log_op[i][labels[i]], &slope), p->log_op[i][labels[i]]);
        n_starts += starts;
    }
    *seg /= MAX(n_layer - 1, 1);
    *op /= MAX(n_starts, 1);
}

/* The gradient of train_example_loss with respect to the logits, times the example's share of the batch, which is
 * w / n_batch; added to d (D, 4), for each layer the segment logit and the three operations:
 *     d seg / d z_i  = (seg_i - y_i) / (D - 1)                      for i >= 1
 *     d op  / d a_ik = (op_ik - [k = c_i]) / (number of starts)     for i with y_i = 1
 * since the derivative of -ln sigmoid(z) is sigmoid(z) - 1, and that of -ln softmax(a)_c is softmax(a)_k - [k = c];
 * times the slope of train_focal. */
static void train_example_gradient(const train_probs *p, const uint8_t *labels, int n_layer, double gamma, double share,
                                   double *d) {
    const double seg = share / MAX(n_layer - 1, 1);
    double op, slope;
    int n_starts = 0;
    for (int i = 0; i < n_layer; i++) n_starts += labels[i] != TRAIN_NO_SEGMENT;
    op = share / MAX(n_starts, 1);
    for (int i = 0; i < n_layer; i++, d += 4) {
        const int starts = labels[i] != TRAIN_NO_SEGMENT;
        train_focal(gamma, p->log_seg[i][starts], &slope);
        if (i > 0) d[0] += mul64(slope, mul64(seg, p->seg[i] - starts));
        if (starts) train_focal(gamma, p->log_op[i][labels[i]], &slope);
        for (int k = 0; starts && k < 3; k++) d[1 + k] += mul64(slope, mul64(op, p->op[i][k] - (k == labels[i])));
    }
}

/* The anti-identity term: keep = mean over layers of op_i[keep], a penalty on proposing the identity where it is known
 * to be wrong. Returns it, and adds `share` times its gradient to d (D, 4):
 *     d keep / d a_ik = op_i[keep] ([k = keep] - op_ik) / D */
static double train_anti_identity(const train_probs *p, int n_layer, double share, double *d) {
    double keep = 0;
    for (int i = 0; i < n_layer; i++) {
        const double x = p->op[i][TRAIN_KEEP];
        keep += x;
        for (int k = 0; k < 3; k++)
            d[4 * i + 1 + k] += mul64(mul64(share / n_layer, x), (k == TRAIN_KEEP) - p->op[i][k]);
    }
    return keep / n_layer;
}

/* What a pass adds to the loss of the batch
 *     loss = sum over examples of w (seg + op) / n_batch + lambda * (sum of the anti-identity terms) / anti_total
 * and the gradient of that with respect to its logits (D, 4), summed in double precision and rounded once. */
static train_sum train_pass_loss(const polar_trainer *t, const train_pass *pass, const float *logits, float *dlogits) {
    const int n_layer = t->net.shape.n_layer;
    const double lambda = t->options.anti_identity;
    double d[POLAR_MAX_LAYER * 4] = {0};
    train_sum sum;
    train_probs p;
    memset(&sum, 0, sizeof sum);
    /* the examples share the logits, so the probabilities are computed once */
    train_probabilities(&p, logits, n_layer);
    for (int i = pass->first; i < pass->first + pass->count; i++) {
        const int example = t->batch_examples[i];
        const uint8_t *labels = t->labels + (size_t)example * (size_t)n_layer;
        double seg, op;
        train_example_loss(&p, labels, n_layer, t->options.focal, &seg, &op);
        sum.loss += mul64(t->weights[i], seg + op);
        train_example_gradient(&p, labels, n_layer, t->options.focal, t->weights[i] / t->n_batch, d);
        if (lambda > 0 && t->examples[example].anti)
            sum.anti += train_anti_identity(&p, n_layer, lambda / t->anti_total, d);
    }
    for (int i = 0; i < n_layer * 4; i++) dlogits[i] = (float)d[i];
    return sum;
}

/* What the paths of a question say about the path of n calls; right, if one of several equal ones was right. */
static polar_result_kind train_result(const polar_train_question *q, const int *path, int n) {
    polar_result_kind result = POLAR_RESULT_UNKNOWN;
    for (int i = 0; i < q->n_paths && result != POLAR_RESULT_VALID; i++)
        if (q->paths[i].result != POLAR_RESULT_UNKNOWN && q->paths[i].length == n &&
            !memcmp(q->paths[i].path, path, (size_t)n * sizeof *path))
            result = q->paths[i].result;
    return result;
}

/* The losses of a held-out question over all its examples, weighted by u exp(beta (D - length)), and whether the
 * programs that the decoder proposes are known to be valid. */
static train_sum train_judge(const polar_trainer *t, const train_question *question, const polar_train_question *q,
                             const float *logits) {
    const int n_layer = t->net.shape.n_layer;
    float seg_logits[POLAR_MAX_LAYER], op_logits[POLAR_MAX_LAYER * 3];
    const polar_program identity = polar_program_identity(n_layer);
    polar_candidate beams[TRAIN_PROPOSALS];
    int path[POLAR_MAX_CALLS];
    train_probs p;
    train_sum sum;
    int n = 0;
    memset(&sum, 0, sizeof sum);
    train_probabilities(&p, logits, n_layer);
    /* losses */
    for (int i = question->first; i < question->first + question->count; i++) {
        const train_example *x = &t->examples[i];
        const double shorter = n_layer - x->length;
        const double w = (double)x->weight * exp64(mul64(t->options.length_preference, shorter));
        double seg, op, unused[POLAR_MAX_LAYER * 4] = {0};
        train_example_loss(&p, t->labels + (size_t)i * (size_t)n_layer, n_layer, t->options.focal, &seg, &op);
        sum.loss += mul64(w, seg + op);
        sum.weight += w;
        sum.n_anti += x->anti;
        if (x->anti) sum.anti += train_anti_identity(&p, n_layer, 0, unused);
    }
    for (int i = 0; i < n_layer; i++, logits += 4) { /* the decoder takes the two heads' logits one by one */
        seg_logits[i] = logits[0];
        memcpy(op_logits + 3 * i, logits + 1, 3 * sizeof(float));
    }
    /* proposals, first the most probable one; none where the logits are not finite, which the loss says */
    if (polar_program_beams(seg_logits, op_logits, n_layer, NULL, beams, &n, NULL)) return sum;
    for (int i = 0; i < n; i++) {
        const int n_calls = polar_program_calls(&beams[i].program, path, POLAR_MAX_CALLS);
        const int valid = train_result(q, path, n_calls) == POLAR_RESULT_VALID;
        sum.hit5 |= valid;
        if (i == 0) sum.hit1 = valid;
    }
    for (int i = 0; i < n_layer; i++) path[i] = i;
    sum.corrected = sum.hit1 && train_result(q, path, n_layer) != POLAR_RESULT_VALID;
    sum.identity = polar_program_equal(&beams[0].program, &identity);
    return sum;
}

/* --- passes: a question forward and backward ------------------------------------------ */

/* The part of the chunk's trace that belongs to its pass `i`, whose n_tokens tokens begin at row `token`: arrays per
 * token move by `token` rows, arrays per layer by i D rows. */
static pred_trace train_trace_at(const polar_trainer *t, int i, int token, int n_tokens) {
    const pred_shape *s = &t->net.shape;
    const size_t d = (size_t)s->d_model, rows = (size_t)i * (size_t)s->n_layer, tokens = (size_t)token;
    pred_trace v = t->trace;
    v.n_tokens = n_tokens;
    /* the question's tokens, and the cross-attention to them */
    v.features += tokens * (size_t)s->q_dim;
    v.tokens += tokens * d;
    v.kv += tokens * 2 * d;
    v.probs += tokens * (size_t)s->n_layer * (size_t)s->n_head;
    v.context += rows * d;
    /* the blocks over the layers' vectors */
    for (int b = 0; b < s->n_block; b++) {
        pred_block_trace *k = &v.block[b];
        k->x += rows * d;
        k->qkv += rows * 3 * d;
        k->probs += rows * (size_t)s->n_layer * (size_t)s->n_head;
        k->context += rows * d;
        k->hat1 += rows * d;
        k->rstd1 += rows;
        k->mid += rows * d;
        k->up += rows * (size_t)s->n_ff;
        k->hat2 += rows * d;
        k->rstd2 += rows;
    }
    /* the heads */
    v.out += rows * d;
    v.logits += rows * 4;
    return v;
}

/* The same part of the chunk's gradients. */
static train_trace train_dtrace_at(const polar_trainer *t, int i, int token) {
    const pred_shape *s = &t->net.shape;
    const size_t d = (size_t)s->d_model, rows = (size_t)i * (size_t)s->n_layer, at = (size_t)token;
    train_trace v = t->dtrace;
    v.tokens += at * d;
    v.kv += at * 2 * d;
    v.cross += rows * d;
    for (int l = PRED_BLOCK; l < t->net.n_linear; l++) v.linear[l - PRED_BLOCK] += rows * (size_t)t->net.linear[l].out;
    return v;
}

/* Features of a question as the networks see them: to (T, n) = (x - mean) * inverse. */
static void train_features(const polar_train_question *q, const float *mean, const float *inverse, int n, float *to) {
    const float *x = q->features;
    for (int i = 0; i < q->n_tokens; i++, x += n, to += n)
        for (int k = 0; k < n; k++) to[k] = (x[k] - mean[k]) * inverse[k];
}

/* Task `index`: pass `index` of the chunk goes forward, and then either through the loss backward, or, if it is a
 * held-out question, through the judgement. Dropout is drawn from the step's key and the number of the pass. */
static void train_pass_task(void *context, int index, int worker) {
    polar_trainer *t = context;
    const int number = t->chunk_first + index; /* of the pass in the batch */
    const train_pass *p = &t->passes[number];
    const polar_train_question *q = &t->sources[t->source_of[p->question]];
    const train_worker *c = &t->workers[worker];
    const pred_trace trace = train_trace_at(t, index, p->token, q->n_tokens);
    const pred_dropout drop = pred_dropout_of(t->options.dropout, pred_key(t->key, (uint64_t)number));
    train_features(q, t->mean, t->inverse, t->net.shape.q_dim,
                   t->features + (size_t)p->token * (size_t)t->net.shape.q_dim);
    pred_forward(&t->net, &trace, &c->scratch, t->backward ? &drop : NULL);
    if (t->backward) {
        float dlogits[POLAR_MAX_LAYER * 4];
        float *grads = t->pass_grads + (size_t)index * t->n_pass_grads;
        const train_trace dtrace = train_dtrace_at(t, index, p->token);
        const pred_weights dw = pred_place(&t->net.shape, grads, 1);
        memset(grads, 0, t->n_pass_grads * sizeof *grads);
        t->sums[number] = train_pass_loss(t, p, trace.logits, dlogits);
        pred_backward(&t->net, &trace, &dtrace, dlogits, &dw, c, &drop);
    } else {
        t->sums[number] = train_judge(t, &t->questions[p->question], q, trace.logits);
    }
}

/* Adds the gradients that are kept per pass to those of the batch, in the order of the passes. */
static void train_add_pass_grads(polar_trainer *t) {
    pred_tensor list[PRED_MAX_TENSORS];
    const int n = pred_tensors(&t->net.shape, list);
    for (int p = 0; p < t->chunk_passes; p++) {
        const float *from = t->pass_grads + (size_t)p * t->n_pass_grads;
        for (int i = 0; i < n; i++) {
            if (!list[i].per_pass) continue;
            pred_add(t->grads + list[i].offset, from, list[i].count);
            from += list[i].count;
        }
    }
}

/* Runs t->passes in chunks of about equal size, as few as memory allows: first all passes of a chunk, then the pieces
 * of the weight gradients. */
static void train_run_passes(polar_trainer *t) {
    const int n_chunks = (t->n_passes + t->chunk_capacity - 1) / t->chunk_capacity;
    for (int c = 0; c < n_chunks; c++) {
        const int end = (int)((int64_t)t->n_passes * (c + 1) / n_chunks);
        t->chunk_first = (int)((int64_t)t->n_passes * c / n_chunks);
        t->chunk_passes = end - t->chunk_first;
        /* the tokens of its questions stand one behind the other */
        t->chunk_tokens = 0;
        for (int i = t->chunk_first; i < end; i++) {
            t->passes[i].token = t->chunk_tokens;
            t->chunk_tokens += t->sources[t->source_of[t->passes[i].question]].n_tokens;
        }
        parallel_for(&t->runner, t->chunk_passes, train_pass_task, t);
        if (!t->backward) continue;
        parallel_for(&t->runner, t->n_pieces, train_piece_task, t);
        train_add_pass_grads(t);
    }
}

/* The queries are Q = E W_q^T + b_q with the layers' embeddings E (D, d), the same for all questions. So their gradient
 * dQ, which stands where that of E belongs, is passed on once per batch:
 *     db_q += sum over layers of dQ,  dW_q += dQ^T E,  dE = dQ W_q
 * W_q is the first third of the cross-attention's stacked weights. */
static void train_query_gradient(polar_trainer *t) {
    const int n_layer = t->net.shape.n_layer, d = t->net.shape.d_model;
    const pred_weights g = pred_place(&t->net.shape, t->grads, 0);
    const train_worker *c = &t->workers[0];
    pred_linear l = pred_linear_of(t->net.w.qkv_weight, t->net.w.qkv_bias, d, d);
    l.backward = t->net.query_forward; /* its content is of no use until weights change */
    memcpy(c->dq, g.layers, (size_t)n_layer * (size_t)d * sizeof *c->dq);
    train_sum_rows(g.qkv_bias, c->dq, n_layer, d);
    for (int row = 0; row < d; row += TRAIN_ROWS)
        train_weight_gradient(t->net.kernels, c, g.qkv_weight, c->dq, t->net.w.layers, &l, row, n_layer);
    mat_pack(l.backward, l.weight, (size_t)d, 1, d, d);
    pred_linear_backward(t->net.kernels, g.layers, c->dq, n_layer, &l, 0);
}

/* The gradients (n_params) of the batch in t->passes, and its loss, which is returned: see train_pass_loss. */
static double train_gradients(polar_trainer *t) {
    double loss = 0, anti = 0;
    t->backward = 1;
    memset(t->grads, 0, t->n_params * sizeof *t->grads);
    train_weigh(t);          /* what each example counts */
    train_run_passes(t);     /* forward, backward, gradients of all but the queries */
    train_query_gradient(t); /* once for the batch */
    for (int i = 0; i < t->n_passes; i++) {
        loss += t->sums[i].loss;
        anti += t->sums[i].anti;
    }
    return loss / t->n_batch + mul64(t->options.anti_identity, anti / t->anti_total);
}

/* --- optimizer: AdamW ----------------------------------------------------------------- */

#define TRAIN_BETA1 0.9
#define TRAIN_BETA2 0.999
#define TRAIN_EPS   1e-8

/* The factor of the learning rate in update n (from 0) of `total`. It grows as n / warmup, and then, with x from 0 to 1
 * over the updates that follow, it is (1 + cos(pi x)) / 2, 1 - x, or 1. */
static double train_schedule(polar_schedule schedule, int n, int warmup, int total) {
    double x, sine, cosine;
    warmup = MIN(warmup, total - 1);
    if (warmup > 0 && n < warmup) return (double)n / warmup;
    x = MIN(1.0, (double)(n - warmup) / MAX(1, total - warmup));
    if (schedule == POLAR_SCHEDULE_LINEAR) return 1 - x;
    if (schedule == POLAR_SCHEDULE_CONSTANT) return 1;
    turn_sincos((uint64_t)(x * 9223372036854775808.0), &sine, &cosine); /* 2^63 of 2^64 is half a turn */
    return mul64(0.5, 1 + cosine);
}

/* The constants of update number n (from 1) at the learning rate lr; mat_adam_plain says what is done with them. With
 * gradient g (times clip) this is AdamW:
 *     p -= lr * weight_decay * p
 *     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 *     p -= lr * (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + eps) */
static mat_adam train_adamw(double lr, double weight_decay, int n, double clip) {
    const double correction1 = 1 - pow64(TRAIN_BETA1, n), correction2 = 1 - pow64(TRAIN_BETA2, n);
    mat_adam k;
    k.decay = (float)(1 - mul64(lr, weight_decay));
    k.beta1 = (float)TRAIN_BETA1;
    k.rest1 = (float)(1 - TRAIN_BETA1);
    k.beta2 = (float)TRAIN_BETA2;
    k.rest2 = (float)(1 - TRAIN_BETA2);
    k.step = (float)(lr / correction1);
    k.root = (float)sqrt(correction2);
    k.eps = (float)TRAIN_EPS;
    k.clip = (float)clip;
    return k;
}

/* Task `index`: the sum of squares of TRAIN_BLOCK gradients. */
static void train_norm_task(void *context, int index, int worker) {
    polar_trainer *t = context;
    const size_t first = (size_t)index * TRAIN_BLOCK, end = MIN(first + TRAIN_BLOCK, t->n_params);
    double sum = 0;
    (void)worker;
    for (size_t i = first; i < end; i++) sum += (double)t->grads[i] * (double)t->grads[i]; /* exact product */
    t->norms[index] = sum;
}

/* A trainer and the constants of its present step. */
typedef struct train_adam {
    polar_trainer *t;
    mat_adam k;
} train_adam;

/* Task `index`: AdamW for TRAIN_BLOCK parameters. */
static void train_adam_task(void *context, int index, int worker) {
    const train_adam *a = context;
    const polar_trainer *t = a->t;
    const size_t first = (size_t)index * TRAIN_BLOCK, n = MIN((size_t)TRAIN_BLOCK, t->n_params - first);
    (void)worker;
    t->net.kernels->adam(t->params + first, t->grads + first, t->m + first, t->v + first, n, &a->k);
}

/* One update of the weights with the gradients g:
 *     norm = sqrt(sum of g^2),  g *= min(1, clip / (norm + 1e-6)) unless clip is 0,  then AdamW, see train_adamw
 * 1 if it was done; 0 if loss or norm are not finite: the step is skipped, and nothing changes. */
static int train_update(polar_trainer *t, double loss) {
    const polar_train_options *o = &t->options;
    const int n_blocks = (int)((t->n_params + TRAIN_BLOCK - 1) / TRAIN_BLOCK), n = t->state.n_updates;
    double norm = 0, clip;
    train_adam a;
    /* the norm: sums of blocks in parallel, added in the order of the blocks */
    parallel_for(&t->runner, n_blocks, train_norm_task, t);
    for (int i = 0; i < n_blocks; i++) norm += t->norms[i];
    norm = sqrt(norm);
    t->state.loss = loss;
    t->state.norm = norm;
    if (!(loss - loss == 0) || !(norm - norm == 0)) return 0; /* x - x is NaN for infinite x and NaN */
    clip = o->clip > 0 ? MIN(1.0, o->clip / (norm + 1e-6)) : 1;
    t->state.lr = mul64(o->lr, train_schedule(o->schedule, n, o->warmup, t->n_steps * o->n_epochs));
    a.t = t;
    a.k = train_adamw(t->state.lr, o->weight_decay, n + 1, clip);
    parallel_for(&t->runner, n_blocks, train_adam_task, &a);
    t->state.n_updates++;
    pred_pack(&t->net, &t->runner); /* the forward and backward passes read packed weights */
    return 1;
}

/* --- order of the examples ------------------------------------------------------------ */

/* A random order of x (n), every one equally likely (Fisher and Yates). */
static void train_shuffle(int *x, int n, uint64_t *state) {
    for (int i = n - 1; i > 0; i--) {
        const int k = (int)(rng_next(state) % (uint64_t)(i + 1)), y = x[i];
        x[i] = x[k];
        x[k] = y;
    }
}

/* Lays out an epoch: each question's examples in random order, cut into units of about equal size, `group` at most; the
 * units in random order; and to each step the units that begin in its share of the examples, at least one. Examples of
 * a unit share a pass, and with it the work and the dropout. With a group of 1 this is [P]'s order: examples shuffled,
 * batches of equal size. */
static void train_plan(polar_trainer *t) {
    uint64_t state = pred_key(pred_key(t->options.seed, TRAIN_RANDOM_ORDER), (uint64_t)t->state.epoch);
    const int group = MIN(t->options.group, t->options.batch);
    int n_units = 0, u = 0;
    int64_t n_laid = 0; /* examples in the steps so far */
    /* units of each question */
    for (int q = 0; q < t->n_questions - t->n_validation; q++) {
        const train_question *x = &t->questions[q];
        const int parts = (x->count + group - 1) / group;
        for (int i = 0; i < x->count; i++) t->order[x->first + i] = x->first + i;
        train_shuffle(t->order + x->first, x->count, &state);
        for (int i = 0; i < parts; i++) t->units[n_units++] = x->first + (int)((int64_t)x->count * i / parts);
    }
    t->units[n_units] = t->n_train; /* the end of the last one */
    t->n_units = n_units;
    /* in random order, dealt out to the steps */
    for (int i = 0; i < n_units; i++) t->shuffle[i] = i;
    train_shuffle(t->shuffle, n_units, &state);
    for (int step = 0; step < t->n_steps; step++) {
        const int n_later = t->n_steps - 1 - step; /* steps that still need a unit */
        t->batches[step] = u;
        do {
            n_laid += t->units[t->shuffle[u] + 1] - t->units[t->shuffle[u]];
            u++;
        } while (n_units - u > n_later && n_laid < (int64_t)(step + 1) * t->options.batch);
    }
    t->batches[t->n_steps] = n_units;
}

/* Sets up the passes of the present step, one for each of its units. */
static void train_gather(polar_trainer *t) {
    t->n_passes = t->n_batch = 0;
    for (int u = t->batches[t->state.step]; u < t->batches[t->state.step + 1]; u++) {
        const int from = t->units[t->shuffle[u]], end = t->units[t->shuffle[u] + 1];
        train_pass *p = &t->passes[t->n_passes++];
        p->question = t->examples[t->order[from]].question;
        p->first = t->n_batch;
        p->count = end - from;
        memcpy(t->batch_examples + p->first, t->order + from, (size_t)p->count * sizeof *t->order);
        t->n_batch += p->count;
    }
}

/* --- steps and epochs ----------------------------------------------------------------- */

/* Puts the losses and hits of the held-out questions on the curve, without dropout. The loss per example is
 *     sum of w (seg + op) / sum of w + lambda * mean of the anti-identity terms */
static int train_validate(polar_trainer *t, polar_train_epoch *out) {
    const int first = t->n_questions - t->n_validation;
    train_sum all;
    memset(&all, 0, sizeof all);
    t->backward = 0;
    for (int q = first; q < t->n_questions; q += t->n_passes) {
        t->n_passes = MIN(t->max_passes, t->n_questions - q);
        for (int i = 0; i < t->n_passes; i++) t->passes[i].question = q + i;
        train_run_passes(t);
        for (int i = 0; i < t->n_passes; i++) {
            const train_sum *s = &t->sums[i];
            all.loss += s->loss;
            all.weight += s->weight;
            all.anti += s->anti;
            all.n_anti += s->n_anti;
            all.hit1 += s->hit1;
            all.hit5 += s->hit5;
            all.identity += s->identity;
            all.corrected += s->corrected;
        }
    }
    out->validation_loss = all.loss / all.weight + mul64(t->options.anti_identity, all.anti / MAX(all.n_anti, 1));
    out->hit1 = (double)all.hit1 / t->n_validation;
    out->hit5 = (double)all.hit5 / t->n_validation;
    out->identity = (double)all.identity / t->n_validation;
    return all.corrected;
}

/* After the last step of an epoch: its place on the curve, and the weights are kept if they are the best so far. What
 * `select` names is compared; without held-out questions the last epoch is the best. */
static polar_status train_end_epoch(polar_trainer *t, polar_error *e) {
    train_state *s = &t->state;
    polar_train_epoch *x = &t->curve[s->epoch];
    const int n = t->n_steps - s->n_epoch_skipped;
    int corrected = 0;
    double value;
    memset(x, 0, sizeof *x);
    x->lr = s->lr;
    x->loss = s->epoch_loss / MAX(n, 1);
    if (n == 0)
        return fail(e, POLAR_NUMERIC, "training: in epoch %d the loss of every step is not a finite number",
                    s->epoch + 1);
    if (t->n_validation) corrected = train_validate(t, x);
    /* what is compared: less is better */
    value = x->validation_loss;
    if (t->options.select == POLAR_SELECT_HIT1) value = -x->hit1;
    if (t->options.select == POLAR_SELECT_HIT5) value = -x->hit5;
    if (t->options.select == POLAR_SELECT_CORRECTED) value = -corrected;
    if (!t->n_validation || s->best_epoch < 0 || value < s->best) {
        s->best = value;
        s->best_epoch = s->epoch;
        memcpy(t->best, t->params, t->n_params * sizeof *t->best);
    }
    s->epoch++;
    s->step = 0;
    s->n_epoch_skipped = 0;
    s->epoch_loss = 0;
    return POLAR_OK;
}

/* One step: a batch is laid out, goes forward and backward, and changes the weights. Dropout is drawn from seed, epoch
 * and step, so that a run that goes on from a checkpoint draws the same. */
static polar_status train_step(polar_trainer *t, polar_error *e) {
    train_state *s = &t->state;
    double loss;
    /* at the beginning of an epoch, or where a checkpoint goes on */
    if (t->planned != s->epoch) {
        train_plan(t);
        t->planned = s->epoch;
    }
    train_gather(t);
    t->key = pred_key(pred_key(pred_key(t->options.seed, TRAIN_RANDOM_DROPOUT), (uint64_t)s->epoch), (uint64_t)s->step);
    loss = train_gradients(t);
    /* a step without a finite loss and gradient is only counted */
    if (train_update(t, loss)) {
        s->epoch_loss += loss;
    } else {
        s->n_skipped++;
        s->n_epoch_skipped++;
    }
    s->step++;
    return s->step == t->n_steps ? train_end_epoch(t, e) : POLAR_OK;
}

/* See polar.h. */
int polar_trainer_done(const polar_trainer *trainer) {
    return trainer->state.epoch == trainer->options.n_epochs;
}

/* See polar.h. */
void polar_trainer_get_progress(const polar_trainer *t, polar_train_progress *out) {
    const train_state *s = &t->state;
    memset(out, 0, sizeof *out);
    out->n_questions = t->n_questions - t->n_validation;
    out->n_validation = t->n_validation;
    out->n_examples = t->n_train;
    out->epoch = s->epoch;
    out->step = s->epoch * t->n_steps + s->step;
    out->n_steps = t->options.n_epochs * t->n_steps;
    out->n_skipped = s->n_skipped;
    out->n_params = t->n_params;
    out->loss = s->loss;
    out->norm = s->norm;
    out->lr = s->lr;
    out->best_epoch = s->best_epoch;
    out->curve = t->curve;
}

/* See polar.h. */
polar_status polar_trainer_run(polar_trainer *trainer, int n_steps, polar_error *error) {
    err_clear(error);
    if (!trainer) return fail(error, POLAR_ARGUMENT, "polar_trainer_run: no trainer");
    for (int i = 0; (n_steps <= 0 || i < n_steps) && !polar_trainer_done(trainer); i++) {
        const polar_train_options *o = &trainer->options;
        polar_status status = train_step(trainer, error);
        if (status) return status;
        if (o->progress) {
            polar_train_progress p;
            polar_trainer_get_progress(trainer, &p);
            if (o->progress(o->progress_user, &p)) return fail(error, POLAR_CANCELLED, "training was cancelled");
        }
    }
    return POLAR_OK;
}

/* --- making a trainer ----------------------------------------------------------------- */

/* A number of the standard normal distribution: sqrt(-2 ln u) cos(angle), u uniform in (0, 1], angle uniform (Box and
 * Muller). */
static float train_normal(uint64_t *state) {
    const double u = ((double)(rng_next(state) >> 11) + 1) / 9007199254740993.0;
    double sine, cosine;
    turn_sincos(rng_next(state), &sine, &cosine);
    return (float)mul64(sqrt(-2 * log64(u)), cosine);
}

/* PyTorch's initial values, so that the released recipe starts alike: weights and biases of linear layers uniform
 * within 1 / sqrt(in), stacked attention weights uniform within sqrt(6 / (in + out)) (Xavier), attention biases 0,
 * embeddings normal, LayerNorm's gain 1 and bias 0. A bias stands behind its weight, whose width it goes by. */
static void train_initialize(const pred_shape *s, float *params, uint64_t seed) {
    pred_tensor list[PRED_MAX_TENSORS];
    const int n = pred_tensors(s, list);
    int fan_in = 1;
    for (int i = 0; i < n; i++) {
        const pred_tensor *t = &list[i];
        float *x = params + t->offset;
        uint64_t state = pred_key(pred_key(seed, TRAIN_RANDOM_WEIGHTS), (uint64_t)i);
        double bound;
        if (t->rows) fan_in = t->columns;
        bound = 1 / sqrt(fan_in);
        /* attention: query, key and value are stacked, and count as one matrix */
        if (strstr(t->name, "in_proj_weight")) bound = sqrt(6.0 / (t->rows + t->columns));
        if (strstr(t->name, "in_proj_bias") || strstr(t->name, "out_proj.bias")) bound = 0;
        if (strstr(t->name, "layer_embedding"))
            for (size_t k = 0; k < t->count; k++) x[k] = train_normal(&state);
        else if (strstr(t->name, ".norm"))
            for (size_t k = 0; k < t->count; k++) x[k] = strstr(t->name, "weight") ? 1 : 0;
        else
            for (size_t k = 0; k < t->count; k++) x[k] = (2 * rng_float(&state) - 1) * (float)bound;
    }
}

/* mean (n) and inverse (n) = 1 / sqrt(variance + 1e-4 * mean variance of all features), over all tokens of the first
 * n_train of the questions in `order`: a feature that hardly varies is not blown up. sums: (2, n) zeros, for the sum of
 * each feature and of its square. POLAR_NUMERIC if a feature of any of n_questions is not finite. */
static polar_status train_standardize(const polar_train_question *questions, const int *order, int n_questions,
                                      int n_train, int n, double *sums, float *mean, float *inverse, polar_error *e) {
    double *sum = sums, *squares = sums + n, n_rows = 0, total = 0;
    for (int q = 0; q < n_questions; q++) {
        const polar_train_question *x = &questions[order[q]];
        const float *row = x->features;
        if (!pred_finite(row, (size_t)x->n_tokens * (size_t)n))
            return fail(e, POLAR_NUMERIC, "training: question %d has features that are not finite", order[q]);
        if (q >= n_train) continue;
        n_rows += x->n_tokens;
        for (int i = 0; i < x->n_tokens; i++, row += n)
            for (int k = 0; k < n; k++) {
                const double y = (double)row[k];
                sum[k] += y;
                squares[k] += y * y; /* exact: a square of a float fits a double */
            }
    }
    for (int k = 0; k < n; k++) { /* variance = mean of squares - square of the mean, but not below 0 */
        sum[k] /= n_rows;
        squares[k] = MAX(squares[k] / n_rows - mul64(sum[k], sum[k]), 0);
        total += squares[k];
    }
    for (int k = 0; k < n; k++) {
        const double variance = squares[k] + total / n * 1e-4;
        mean[k] = (float)sum[k];
        inverse[k] = variance > 0 ? (float)(1 / sqrt(variance)) : 1;
    }
    return POLAR_OK;
}

/* Makes a linear layer that was trained on (x - mean) * inverse one that takes x:
 *     W' = W inverse (column by column),  b' = b - W' mean */
static void train_fold(float *weight, float *bias, int out, int in, const float *mean, const float *inverse) {
    for (int i = 0; i < out; i++, weight += in) {
        double shift = 0;
        for (int k = 0; k < in; k++) {
            weight[k] *= inverse[k];
            shift += (double)weight[k] * (double)mean[k]; /* exact product */
        }
        bias[i] = (float)((double)bias[i] - shift);
    }
}

/* Measures or places all arrays of the trainer; `t` has the sizes. Sizes of arrays per question or example are those of
 * n_sources questions with n_labels examples in all. */
static void train_place(polar_trainer *t, layout *l, int n_sources, int n_labels) {
    const pred_shape *s = &t->net.shape;
    const size_t d = (size_t)s->n_layer * (size_t)s->d_model, f = sizeof(float), chunk = (size_t)t->chunk_capacity;
    const size_t n_tokens = size_of(chunk, (size_t)t->max_tokens), widest = (size_t)MAX(t->max_tokens, s->n_layer);
    float **const arrays[] = {&t->params, &t->grads, &t->m, &t->v, &t->best};
    for (int i = 0; i < COUNT(arrays); i++) *arrays[i] = layout_place(l, t->n_params, f);
    if (t->params) t->net.w = pred_place(s, t->params, 0);
    pred_wire(&t->net); /* the linear layers point into params */
    t->mean = layout_place(l, (size_t)s->q_dim, f);
    t->inverse = layout_place(l, (size_t)s->q_dim, f);
    t->norms = layout_place(l, t->n_params / TRAIN_BLOCK + 1 + 2 * (size_t)s->q_dim, sizeof *t->norms);
    t->pieces = layout_place(l, (size_t)t->n_pieces, sizeof *t->pieces);
    /* the data, and how it is laid out in an epoch and a batch */
    t->questions = layout_place(l, (size_t)n_sources, sizeof *t->questions);
    t->examples = layout_place(l, (size_t)n_labels, sizeof *t->examples);
    t->labels = layout_place(l, (size_t)n_labels, (size_t)s->n_layer);
    t->order = layout_place(l, (size_t)n_labels, sizeof *t->order);
    t->units = layout_place(l, (size_t)n_labels + 1, sizeof *t->units);
    t->shuffle = layout_place(l, (size_t)n_labels, sizeof *t->shuffle);
    t->batches = layout_place(l, (size_t)n_labels + 2, sizeof *t->batches);
    t->passes = layout_place(l, (size_t)t->max_passes, sizeof *t->passes);
    t->sums = layout_place(l, (size_t)t->max_passes, sizeof *t->sums);
    t->batch_examples = layout_place(l, (size_t)t->max_passes, sizeof *t->batch_examples);
    t->source_of = layout_place(l, (size_t)n_sources, sizeof *t->source_of);
    t->weights = layout_place(l, (size_t)t->max_passes, sizeof *t->weights);
    t->curve = layout_place(l, (size_t)t->options.n_epochs, sizeof *t->curve);
    pred_place_packed(&t->net, l, 1);
    /* a chunk: what goes forward, what comes back, and what is kept per pass */
    t->features = layout_place(l, size_of(n_tokens, (size_t)s->q_dim), f);
    t->trace.features = t->features;
    pred_place_trace(s, l, &t->trace, chunk, n_tokens);
    t->dtrace.tokens = layout_place(l, size_of(n_tokens, (size_t)s->d_model), f);
    t->dtrace.kv = layout_place(l, size_of(size_of(n_tokens, 2), (size_t)s->d_model), f);
    t->dtrace.cross = layout_place(l, size_of(chunk, d), f);
    for (int i = PRED_BLOCK; i < t->net.n_linear; i++)
        t->dtrace.linear[i - PRED_BLOCK] =
            layout_place(l, size_of(chunk, (size_t)s->n_layer), size_of((size_t)t->net.linear[i].out, f));
    t->pass_grads = layout_place(l, size_of(chunk, t->n_pass_grads), f);
    t->workers = layout_place(l, (size_t)t->runner.n_threads, sizeof *t->workers);
    for (int i = 0; i < t->runner.n_threads; i++) { /* `workers` itself exists in the second run only */
        train_worker w;
        pred_place_scratch(s, l, &w.scratch, widest);
        w.left = layout_place(l, TRAIN_DEPTH * TRAIN_ROWS, f);
        w.right = layout_place(l, TRAIN_DEPTH * MAT_COLUMNS, f);
        w.dx = layout_place(l, d, f);
        w.dsum = layout_place(l, d, f);
        w.dcontext = layout_place(l, d, f);
        w.dq = layout_place(l, d, f);
        w.dprobs = layout_place(l, size_of(widest, (size_t)s->n_layer), f);
        if (l->base && !l->overflow) t->workers[i] = w;
    }
}

/* What is 0 stands for the defaults of polar.h. */
static polar_train_options train_defaults(const polar_train_options *options) {
    polar_train_options o = *options;
    o.d_model = option_int(o.d_model, 256);
    o.n_head = option_int(o.n_head, 4);
    o.n_block = option_int(o.n_block, 2);
    o.dropout = option_number(o.dropout, 0.1);
    o.n_epochs = option_int(o.n_epochs, 10);
    o.batch = option_int(o.batch, 128);
    o.group = option_int(o.group, 8);
    o.lr = option_number(o.lr, 5e-4);
    o.warmup = option_int(o.warmup, 10);
    o.max_paths = option_int(o.max_paths, 50);
    o.identity_weight = option_number(o.identity_weight, 0.3);
    o.validation = option_number(o.validation, 0.1);
    return o;
}

/* Refuses options out of range. */
static polar_status train_check_options(const polar_train_options *o, polar_error *e) {
    if (o->n_epochs < 1 || o->n_epochs > 100000 || o->batch < 1 || o->batch > 1 << 20 || o->group < 1)
        return fail(e, POLAR_ARGUMENT, "training: %d epochs, batches of %d, groups of %d; at least 1 each", o->n_epochs,
                    o->batch, o->group);
    if (!(o->dropout >= 0 && o->dropout < 1)) return fail(e, POLAR_ARGUMENT, "training: dropout must be in 0..1");
    if (!(o->validation >= 0 && o->validation < 1))
        return fail(e, POLAR_ARGUMENT, "training: the share of validation must be in 0..1");
    if (!(o->lr >= 0 && o->lr <= 1)) return fail(e, POLAR_ARGUMENT, "training: the learning rate must be in 0..1");
    return POLAR_OK;
}

/* Refuses paths that are missing or have an impossible number of calls. */
static polar_status train_check_paths(const polar_train_question *q, int index, polar_error *e) {
    if (q->n_paths < 0 || (q->n_paths && !q->paths))
        return fail(e, POLAR_ARGUMENT, "training: question %d has %d paths", index, q->n_paths);
    for (int i = 0; i < q->n_paths; i++)
        if (q->paths[i].length < 0 || q->paths[i].length > POLAR_MAX_CALLS || (q->paths[i].length && !q->paths[i].path))
            return fail(e, POLAR_ARGUMENT, "training: path %d of question %d has %d calls", i, index,
                        q->paths[i].length);
    return POLAR_OK;
}

/* Refuses a question without features or with too many tokens; `index` names it in the message. */
static polar_status train_check_question(const polar_train_question *q, int index, polar_error *e) {
    if (q->features && q->n_tokens >= 1 && q->n_tokens <= PRED_MAX_TOKENS) return train_check_paths(q, index, e);
    return fail(e, POLAR_ARGUMENT, "training: question %d has %d tokens of features", index,
                q->features ? q->n_tokens : 0);
}

/* Checks all questions and counts those with examples (t->n_questions) and the examples (*n_labels). Without any it
 * says what is wrong: no valid path, or none that the network could propose. */
static polar_status train_survey_all(polar_trainer *t, int n_sources, int *n_labels, polar_error *e) {
    int n_valid = 0;
    *n_labels = 0;
    for (int i = 0; i < n_sources; i++) {
        const polar_train_question *q = &t->sources[i];
        polar_status status = train_check_question(q, i, e);
        int n;
        if (status) return status;
        n = train_question_examples(q, i, t->net.shape.n_layer, &t->options, NULL, NULL);
        n_valid += train_look(q, t->net.shape.n_layer).n_valid > 0;
        if (n == 0) continue;
        if (n > (1 << 28) - *n_labels) return fail(e, POLAR_ARGUMENT, "training: more than %d examples", 1 << 28);
        *n_labels += n;
        t->n_questions++;
        t->max_tokens = MAX(t->max_tokens, q->n_tokens);
    }
    /* steps are counted as int */
    if ((int64_t)(*n_labels / t->options.batch + 1) * t->options.n_epochs > INT_MAX)
        return fail(e, POLAR_ARGUMENT, "training: %d epochs of %d examples are more than %d steps", t->options.n_epochs,
                    *n_labels, INT_MAX);
    if (t->n_questions) return POLAR_OK;
    /* nothing to learn from: why? */
    if (n_valid)
        return fail(e, POLAR_MISMATCH,
                    "training: %d of %d questions have a valid path, but none of these has a segment form "
                    "over %d layers; were they found with another model?",
                    n_valid, n_sources, t->net.shape.n_layer);
    return fail(e, POLAR_ARGUMENT, "training: none of %d questions has a valid path", n_sources);
}

/* Fills questions, examples and labels. The questions are shuffled, so the last n_validation of them, which are held
 * out, are a seeded choice. */
static void train_fill(polar_trainer *t, int n_sources) {
    const int n_layer = t->net.shape.n_layer;
    uint64_t state = pred_key(t->options.seed, TRAIN_RANDOM_SPLIT);
    int n = 0, n_train;
    /* questions with examples, in random order */
    for (int i = 0; i < n_sources; i++) t->source_of[i] = i;
    train_shuffle(t->source_of, n_sources, &state);
    for (int i = 0; i < n_sources; i++) {
        const int source = t->source_of[i];
        if (train_question_examples(&t->sources[source], source, n_layer, &t->options, NULL, NULL))
            t->source_of[n++] = source;
    }
    t->n_validation = (int)(t->options.validation * t->n_questions + 0.5);
    if (t->options.validation > 0) t->n_validation = MIN(MAX(t->n_validation, 1), t->n_questions - 1);
    n_train = t->n_questions - t->n_validation;
    /* their examples, by question */
    for (int q = 0; q < t->n_questions; q++) {
        train_question *x = &t->questions[q];
        const int source = t->source_of[q];
        x->first = t->n_examples;
        x->count = train_question_examples(&t->sources[source], source, n_layer, &t->options, t->examples + x->first,
                                           t->labels + (size_t)x->first * (size_t)n_layer);
        for (int i = 0; i < x->count; i++) t->examples[x->first + i].question = q;
        t->n_examples += x->count;
        if (q + 1 == n_train) t->n_train = t->n_examples;
    }
    t->n_steps = (t->n_train + t->options.batch - 1) / t->options.batch;
    t->planned = -1;
    t->state.best_epoch = -1;
}

/* Cuts the weights of all linear layers into pieces of TRAIN_ROWS rows; as long as `pieces` is not placed, it only
 * counts them. */
static void train_cut_pieces(polar_trainer *t) {
    int n = 0;
    for (int i = 0; i < t->net.n_linear; i++)
        for (int row = 0; row < t->net.linear[i].out; row += TRAIN_ROWS, n++) {
            if (!t->pieces) continue;
            t->pieces[n].linear = i;
            t->pieces[n].row = row;
        }
    t->n_pieces = n;
}

/* A hash of options, weights, features and labels: a checkpoint belongs to runs with the same one. */
static uint64_t train_fingerprint(const polar_trainer *t) {
    const polar_train_options *o = &t->options;
    const pred_shape *s = &t->net.shape;
    const double numbers[] = {o->n_epochs, o->batch, o->group, o->lr, o->schedule, o->warmup, o->weight_decay, o->clip,
                              o->dropout, o->length_preference, o->anti_identity, o->focal, o->select, t->n_questions,
                              t->n_validation, t->n_examples, s->n_layer, s->d_model, s->n_head, s->n_block};
    uint64_t h = o->seed;
    for (int i = 0; i < COUNT(numbers); i++) h = pred_key(h, f64_bits(numbers[i]));
    for (int i = 0; i < t->n_examples; i++) h = pred_key(h, f32_bits(t->examples[i].weight));
    for (int k = 0; k < t->net.shape.q_dim; k++) h = pred_key(h, f32_bits(t->mean[k]) ^ f32_bits(t->inverse[k]));
    return h ^ mem_hash(t->labels, (size_t)t->n_examples * (size_t)t->net.shape.n_layer);
}

/* The weights to start from: random ones, or those of a predictor. Its projection takes features as they are, so it is
 * made one of (x - mean) * inverse, the reverse of train_fold: b' = b + W mean, W' = W / inverse. */
static void train_start(polar_trainer *t) {
    const polar_predictor *from = t->options.start;
    const pred_shape *s = &t->net.shape;
    if (!from) {
        train_initialize(s, t->params, t->options.seed);
        return;
    }
    memcpy(t->params, from->params, t->n_params * sizeof *t->params);
    for (int i = 0; i < s->d_model; i++) {
        float *w = t->net.w.project_weight + (size_t)i * (size_t)s->q_dim, *b = &t->net.w.project_bias[i];
        for (int k = 0; k < s->q_dim; k++) {
            *b = fma32(w[k], t->mean[k], *b);
            w[k] /= t->inverse[k];
        }
    }
}

/* The shape of the network: that of the options, or of the predictor to start from, which must fit. */
static polar_status train_shape(polar_trainer *t, int n_layer, int q_dim, polar_error *e) {
    const polar_train_options *o = &t->options;
    const pred_shape s = {n_layer, q_dim, o->d_model, o->n_head, o->n_block, 4 * o->d_model};
    t->net.shape = s;
    if (o->start) {
        const pred_shape *from = &o->start->net.shape;
        if (!from->d_model) return fail(e, POLAR_MISMATCH, "training: the predictor to start from has only a menu");
        if (from->n_layer != n_layer || from->q_dim != q_dim)
            return fail(e, POLAR_MISMATCH,
                        "training: the predictor to start from is for %d layers and features of %d; "
                        "expected are %d and %d",
                        from->n_layer, from->q_dim, n_layer, q_dim);
        t->net.shape = *from;
    }
    return pred_check_shape(&t->net.shape, e);
}

/* The runner of a training: the caller's, or that of a new pool, which the caller of this function frees. */
static polar_status train_runner(polar_runner *out, polar_pool **pool, const polar_runner *given, int n_threads,
                                 const polar_allocator *a, polar_error *e) {
    polar_status status;
    if (given) {
        *out = *given;
        if (out->run && out->n_threads >= 1) return POLAR_OK;
        return fail(e, POLAR_ARGUMENT, "training: the runner has no function or no threads");
    }
    status = polar_pool_create(pool, n_threads, a, e);
    if (!status) *out = polar_pool_runner(*pool);
    return status;
}

/* Checks options and questions, and finds all sizes that the layout needs; *n_labels is the number of examples. A batch
 * may have up to twice `batch` examples, since units are not cut. */
static polar_status train_measure(polar_trainer *t, int n_layer, int q_dim, int n_sources, int *n_labels,
                                  polar_error *e) {
    const polar_train_options *o = &t->options;
    pred_tensor list[PRED_MAX_TENSORS];
    polar_status status = train_check_options(o, e);
    if (!status) status = train_shape(t, n_layer, q_dim, e);
    if (!status) status = train_survey_all(t, n_sources, n_labels, e);
    if (!status) status = train_runner(&t->runner, &t->pool, o->runner, o->n_threads, &t->allocator, e);
    if (status) return status;
    /* the kernels, and the sizes of the network, a batch, a chunk */
    t->net.kern = kern_find(o->cpu);
    if (!t->net.kern)
        return fail(e, POLAR_UNSUPPORTED, "training: this processor does not run the variant \"%s\"",
                    polar_cpu_name(o->cpu) ? polar_cpu_name(o->cpu) : "?");
    t->net.kernels = mat_choose(t->net.kern);
    t->n_params = pred_count(&t->net.shape);
    for (int i = 0, n = pred_tensors(&t->net.shape, list); i < n; i++)
        if (list[i].per_pass) t->n_pass_grads += list[i].count;
    t->max_passes = MIN(2 * o->batch, *n_labels);
    t->chunk_capacity = MIN(MAX(TRAIN_CHUNK, t->runner.n_threads), t->max_passes);
    pred_wire(&t->net);
    train_cut_pieces(t); /* counts them */
    return POLAR_OK;
}

/* Allocates all arrays as one block and fills them. */
static polar_status train_build(polar_trainer *t, int n_sources, int n_labels, polar_error *e) {
    layout l = layout_begin(NULL);
    polar_status status;
    train_place(t, &l, n_sources, n_labels);
    t->bytes = layout_bytes(&l);
    if (!t->bytes) return fail(e, POLAR_MEMORY, "training: more memory than can be addressed");
    t->block = mem_zeros(&t->allocator, t->bytes, e);
    if (!t->block) return POLAR_MEMORY;
    l = layout_begin(t->block);
    train_place(t, &l, n_sources, n_labels);
    train_cut_pieces(t); /* fills them */
    train_fill(t, n_sources);
    /* norms has room for the sums, and is free until the first step */
    status = train_standardize(t->sources, t->source_of, t->n_questions, t->n_questions - t->n_validation,
                               t->net.shape.q_dim, t->norms, t->mean, t->inverse, e);
    if (status) return status;
    for (int k = 0; k < t->net.shape.q_dim && t->options.no_standardize; k++) { /* features as they are */
        t->mean[k] = 0;
        t->inverse[k] = 1;
    }
    t->fingerprint = train_fingerprint(t);
    train_start(t);
    pred_pack(&t->net, &t->runner);
    return POLAR_OK;
}

/* See polar.h. */
polar_status polar_trainer_create(polar_trainer **out, int n_layer, int q_dim, const polar_train_question *questions,
                                  int n_questions, const polar_train_options *options, polar_error *error) {
    const polar_train_options none = {0}, o = train_defaults(options ? options : &none);
    const polar_allocator a = mem_allocator(o.allocator);
    polar_trainer *t;
    polar_status status;
    int n_labels;
    err_clear(error);
    if (!out) return fail(error, POLAR_ARGUMENT, "polar_trainer_create: out is NULL");
    *out = NULL;
    if (!questions || n_questions < 1) return fail(error, POLAR_ARGUMENT, "training: no questions");
    t = mem_zeros(&a, sizeof *t, error);
    if (!t) return POLAR_MEMORY;
    t->allocator = a;
    t->options = o;
    t->sources = questions;
    status = train_measure(t, n_layer, q_dim, n_questions, &n_labels, error);
    if (!status) status = train_build(t, n_questions, n_labels, error);
    if (status) polar_trainer_free(t);
    else *out = t;
    return status;
}

/* See polar.h. */
void polar_trainer_free(polar_trainer *trainer) {
    polar_allocator a;
    if (!trainer) return;
    a = trainer->allocator;
    polar_pool_free(trainer->pool);
    mem_free(&a, trainer->block, trainer->bytes);
    mem_free(&a, trainer, sizeof *trainer);
}

/* --- results -------------------------------------------------------------------------- */

/* See polar.h. The predictor takes features as they are: the shift and scale of training go into its projection. */
polar_status polar_trainer_predictor(const polar_trainer *t, polar_predictor **out, polar_error *error) {
    const pred_shape *s;
    polar_predictor *p;
    polar_status status;
    err_clear(error);
    if (!t || !out) return fail(error, POLAR_ARGUMENT, "polar_trainer_predictor: an argument is NULL");
    *out = NULL;
    if (t->state.best_epoch < 0) return fail(error, POLAR_ARGUMENT, "training: no epoch is finished yet");
    s = &t->net.shape;
    /* the best weights, with shift and scale of the features taken into the projection */
    status = pred_create(&p, s->n_layer, s, NULL, &t->allocator, error);
    if (status) return status;
    memcpy(p->params, t->best, t->n_params * sizeof *p->params);
    train_fold(p->net.w.project_weight, p->net.w.project_bias, s->d_model, s->q_dim, t->mean, t->inverse);
    status = pred_ready(p, error);
    if (status) polar_predictor_close(p);
    else *out = p;
    return status;
}

/* --- the state of a run ---------------------------------------------------------------
 *
 * As bytes, little-endian on every host:
 *
 *     "polar-training"  u16 version  u64 fingerprint of options and data
 *     u64 numbers of train_state and of the curve: whole ones, and the bits of doubles
 *     f32 params, m, v, best (n_params each)
 *     u64 hash of all bytes before it */

enum { TRAIN_VERSION = 2, TRAIN_AT_VERSION = 14, TRAIN_AT_FINGERPRINT = 16, TRAIN_AT_EPOCH = 24, TRAIN_AT_STEP = 32 };

/* Writes all that changes in a run to `to`, or takes it back from `from`; with both NULL it only measures. Returns the
 * place of the hash behind it. */
static size_t train_copy_state(polar_trainer *t, uint8_t *to, const uint8_t *from) {
    train_state *s = &t->state;
    int32_t *const ints[] = {&s->epoch, &s->step, &s->n_updates, &s->n_skipped, &s->n_epoch_skipped, &s->best_epoch};
    double *const doubles[] = {&s->epoch_loss, &s->loss, &s->norm, &s->lr, &s->best};
    float *const arrays[] = {t->params, t->m, t->v, t->best};
    size_t at = TRAIN_AT_EPOCH;
    for (int i = 0; i < COUNT(ints); i++, at += 8) {
        if (to) wr_u64(to + at, (uint32_t)*ints[i]);
        if (from) *ints[i] = (int32_t)rd_u32(from + at);
    }
    for (int i = 0; i < COUNT(doubles); i++, at += 8) {
        if (to) wr_u64(to + at, f64_bits(*doubles[i]));
        if (from) *doubles[i] = bits_f64(rd_u64(from + at));
    }
    for (int k = 0; k < t->options.n_epochs; k++) {
        polar_train_epoch *e = &t->curve[k];
        double *const of_epoch[] = {&e->loss, &e->lr, &e->validation_loss, &e->hit1, &e->hit5, &e->identity};
        for (int i = 0; i < COUNT(of_epoch); i++, at += 8) {
            if (to) wr_u64(to + at, f64_bits(*of_epoch[i]));
            if (from) *of_epoch[i] = bits_f64(rd_u64(from + at));
        }
    }
    for (int i = 0; i < COUNT(arrays); i++)
        for (size_t k = 0; k < t->n_params; k++, at += 4) {
            if (to) wr_u32(to + at, f32_bits(arrays[i][k]));
            if (from) arrays[i][k] = rd_f32(from + at);
        }
    return at;
}

/* See polar.h. */
polar_status polar_trainer_save(const polar_trainer *trainer, void *state, size_t capacity, size_t *size,
                                polar_error *error) {
    polar_trainer *t = (polar_trainer *)(uintptr_t)trainer; /* which stays as it is */
    uint8_t *to = state;
    size_t n;
    err_clear(error);
    if (!t || !size) return fail(error, POLAR_ARGUMENT, "polar_trainer_save: trainer or size is NULL");
    n = train_copy_state(t, NULL, NULL);
    *size = n + 8;
    if (!state) return POLAR_OK;
    if (capacity < n + 8)
        return fail(error, POLAR_ARGUMENT, "the state has %zu bytes, there is room for %zu", *size, capacity);
    memcpy(to, "polar-training", TRAIN_AT_VERSION);
    wr_u16(to + TRAIN_AT_VERSION, TRAIN_VERSION);
    wr_u64(to + TRAIN_AT_FINGERPRINT, t->fingerprint);
    train_copy_state(t, to, NULL);
    wr_u64(to + n, mem_hash(to, n));
    return POLAR_OK;
}

/* See polar.h. Everything is checked before anything is taken, so that a trainer whose load fails is as it was. */
polar_status polar_trainer_load(polar_trainer *t, const void *state, size_t size, polar_error *error) {
    const uint8_t *from = state;
    size_t n;
    err_clear(error);
    if (!t || !state) return fail(error, POLAR_ARGUMENT, "polar_trainer_load: trainer or state is NULL");
    n = train_copy_state(t, NULL, NULL);
    if (size < TRAIN_AT_EPOCH || memcmp(from, "polar-training", TRAIN_AT_VERSION) ||
        rd_u16(from + TRAIN_AT_VERSION) != TRAIN_VERSION)
        return fail(error, POLAR_FORMAT, "these %zu bytes are no state of a training of this version", size);
    if (rd_u64(from + TRAIN_AT_FINGERPRINT) != t->fingerprint)
        return fail(error, POLAR_MISMATCH, "the state of a training with other options or other data");
    if (size != n + 8 || rd_u64(from + n) != mem_hash(from, n) ||
        rd_u32(from + TRAIN_AT_EPOCH) > (uint32_t)t->options.n_epochs ||
        rd_u32(from + TRAIN_AT_STEP) >= (uint32_t)t->n_steps)
        return fail(error, POLAR_FORMAT, "the state of the training is damaged");
    train_copy_state(t, NULL, from);
    t->planned = -1; /* the order of the epoch is laid out again, from the seed */
    pred_pack(&t->net, &t->runner);
    return POLAR_OK;
}

/* What is known of every program on every question: results (n_questions, n_menu), each a polar_result_kind. */
static void menu_results(const polar_train_question *questions, int n_questions, const polar_program *menu, int n_menu,
                         uint8_t *results) {
    int path[POLAR_MAX_CALLS];
    for (int k = 0; k < n_menu; k++) {
        const int n = MIN(polar_program_calls(&menu[k], path, POLAR_MAX_CALLS), POLAR_MAX_CALLS);
        for (int q = 0; q < n_questions; q++)
            results[(size_t)q * (size_t)n_menu + (size_t)k] = (uint8_t)train_result(&questions[q], path, n);
    }
}

/* --- training the menu ---------------------------------------------------------------- */

/* A run of polar_menu_train. A pass is one question. */
typedef struct menu_trainer {
    const polar_train_question *questions;
    const polar_menu_options *options;
    polar_runner runner;
    polar_pool *pool; /* of the runner, unless the caller gave one */
    void *block;      /* all arrays */
    size_t bytes;
    menu_net net;
    size_t n_params; /* numbers in each of the following arrays */
    float *params, *grads;
    float *m, *v;                 /* AdamW's moments */
    float *best;                  /* params after the best epoch */
    uint8_t *results;             /* (n_questions, n_menu): polar_result_kind */
    double costs[POLAR_MAX_MENU]; /* of each program, see menu_cost */
    int *order;                   /* (n_all): questions with a known result; those from n_train on are held out */
    int n_train, n_all;
    float *mean, *inverse; /* (q_dim): the network sees (x - mean) * inverse */
    double *sums;          /* (2, q_dim): for these two */

    /* the present batch: order[first .. first + n_batch) */
    int first, n_batch;
    int backward;      /* 1: training; 0: evaluation, which keeps the logits */
    double share;      /* 1 / known results of the batch: the part of one result in the mean loss */
    uint64_t key;      /* of the batch's dropout */
    float *pass_grads; /* (batch, n_params) */
    double *losses;    /* (batch): of each question, the sum over its known results */
    float *logits;     /* (n_all, n_menu): row i is of question order[i] */

    /* of each worker */
    menu_trace *traces;
    float **features; /* (T, q_dim): shifted and scaled */
    float **dtokens;  /* (T, width) */
} menu_trainer;

/* -ln p of what happened, with p = sigmoid(logit): -ln p if the program was right, -ln(1 - p) if it was wrong. */
static double menu_log_loss(double logit, polar_result_kind r) {
    return train_softplus(r == POLAR_RESULT_VALID ? -logit : logit);
}

/* Of menu_forward, its steps from the last to the first: adds the gradients of all parameters to g, given dlogits
 * (n_menu). dtokens (T, width) is scratch. With f the projected tokens, a = softmax over tokens of f score_h, and the
 * slice of head h in what is pooled, sum over tokens of a_i f_i:
 *     da_i = dslice . f_i (in the slice),  dscore_i = a_i (da_i - sum over tokens of a da)
 *     df_i += a_i dslice (in the slice) + dscore_i score_h,  dscore_h += sum over tokens of dscore_i f_i */
static void menu_backward(const menu_net *net, const menu_trace *t, const float *features, int n_tokens,
                          const float *dlogits, const menu_weights *g, float *dtokens, const pred_dropout *drop) {
    const menu_shape *s = &net->shape;
    const menu_weights *w = &net->w;
    const int width = s->width, slice = width / s->n_head;
    const size_t row = (size_t)width;
    const int n_pooled = menu_pooled(s);
    const float scale = drop->threshold ? drop->scale : 1;
    float dhidden[MENU_MAX_WIDTH] = {0}, dpooled[3 * MENU_MAX_WIDTH + 1] = {0}, *dmore = dpooled + width;
    /* logits = W_out hidden + b */
    for (int k = 0; k < s->n_menu; k++) {
        g->out_bias[k] += dlogits[k];
        net->kern->axpy(g->out_weight + (size_t)k * row, dlogits[k], t->hidden, width);
        net->kern->axpy(dhidden, dlogits[k], w->out_weight + (size_t)k * row, width);
    }
    /* hidden = dropout(relu(W_hidden pooled + b)): what either of them made 0 has no gradient */
    for (int i = 0; i < width; i++) {
        const float d = t->hidden[i] > 0 ? dhidden[i] * scale : 0;
        g->hidden_bias[i] += d;
        net->kern->axpy(g->hidden_weight + (size_t)i * (size_t)n_pooled, d, t->pooled, n_pooled);
        net->kern->axpy(dpooled, d, w->hidden_weight + (size_t)i * (size_t)n_pooled, n_pooled);
    }
    /* pooled = [heads, sum of f * MENU_SUM_SCALE, f of the last token, a number without parameters] */
    memset(dtokens, 0, (size_t)n_tokens * row * sizeof *dtokens);
    if (s->pooling & POLAR_MENU_SUM) {
        for (int i = 0; i < n_tokens; i++) net->kern->axpy(dtokens + (size_t)i * row, MENU_SUM_SCALE, dmore, width);
        dmore += width;
    }
    if (s->pooling & POLAR_MENU_LAST) pred_add(dtokens + (size_t)(n_tokens - 1) * row, dmore, row);
    for (int h = 0; h < s->n_head; h++) {
        const float *a = t->probs + (size_t)h * (size_t)n_tokens, *dslice = dpooled + h * slice;
        float mean = 0; /* sum over tokens of a da */
        for (int i = 0; i < n_tokens; i++)
            mean = fma32(a[i], pred_dot(dslice, t->tokens + (size_t)i * row + h * slice, slice, 0), mean);
        for (int i = 0; i < n_tokens; i++) {
            const float *token = t->tokens + (size_t)i * row;
            const float dscore = a[i] * (pred_dot(dslice, token + h * slice, slice, 0) - mean);
            net->kern->axpy(dtokens + (size_t)i * row + h * slice, a[i], dslice, slice);
            net->kern->axpy(dtokens + (size_t)i * row, dscore, w->score_weight + (size_t)h * row, width);
            net->kern->axpy(g->score_weight + (size_t)h * row, dscore, token, width);
        }
    }
    /* f = relu(W_project x + b) */
    for (int i = 0; i < n_tokens; i++)
        for (int k = 0; k < width; k++) {
            float *d = &dtokens[(size_t)i * row + (size_t)k];
            if (t->tokens[(size_t)i * row + (size_t)k] <= 0) *d = 0;
            g->project_bias[k] += *d;
            if (*d != 0)
                net->kern->axpy(g->project_weight + (size_t)k * (size_t)s->q_dim, *d,
                                features + (size_t)i * (size_t)s->q_dim, s->q_dim);
        }
}

#define MENU_HEAT 0.05 /* how random the picks of the policy loss are */

/* The policy loss of one question: how much its result is worth if a program k is picked at random, among the n_known
 * whose result is known, with probability
 *     pi_k = softmax over k of (p_k - price cost_k) / HEAT        p_k = sigmoid(logit_k), HEAT = MENU_HEAT
 * The worth of a program is worth_k = [it is right] - price cost_k, and the loss is
 *     L = -policy share n_menu sum over k of pi_k worth_k
 * Since d pi_j / d logit_k = pi_j ([j = k] - pi_k) p_k (1 - p_k) / HEAT, its gradient, which is added to dlogits, is
 *     dL / d logit_k = -policy share n_menu pi_k (worth_k - mean) p_k (1 - p_k) / HEAT
 *     mean           = sum over k of pi_k worth_k
 * The log loss asks for good probabilities everywhere, this one where they decide which program is picked. */
static void menu_policy(const menu_trainer *t, const float *logits, const uint8_t *results, float *dlogits) {
    const int n = t->net.shape.n_menu;
    const double price = t->options->price, factor = mul64(t->options->policy, t->share * n);
    double p[POLAR_MAX_MENU], pick[POLAR_MAX_MENU], worth[POLAR_MAX_MENU], top = -1e9, sum = 0, mean = 0;
    for (int k = 0; k < n; k++) {
        p[k] = 1 / (1 + exp64(-(double)logits[k]));
        pick[k] = p[k] - mul64(price, t->costs[k]);
        worth[k] = (results[k] == POLAR_RESULT_VALID) - mul64(price, t->costs[k]);
        if (results[k] != POLAR_RESULT_UNKNOWN) top = MAX(top, pick[k]);
    }
    for (int k = 0; k < n; k++) {
        pick[k] = results[k] == POLAR_RESULT_UNKNOWN ? 0 : exp64((pick[k] - top) / MENU_HEAT);
        sum += pick[k];
    }
    if (!(sum > 0)) return; /* no result is known */
    for (int k = 0; k < n; k++) {
        pick[k] /= sum;
        mean += mul64(pick[k], worth[k]);
    }
    for (int k = 0; k < n; k++)
        dlogits[k] -= (float)(mul64(mul64(factor, mul64(pick[k], worth[k] - mean)), mul64(p[k], 1 - p[k])) / MENU_HEAT);
}

/* Task `index`: question order[first + index] forward, and, in training, backward. Its loss is the sum over its known
 * results of the log loss, with d logloss / d logit = p - [right] for p = sigmoid(logit); times share, plus that of
 * menu_policy, this is the gradient. */
static void menu_pass_task(void *context, int index, int worker) {
    menu_trainer *t = context;
    const int question = t->order[t->first + index], n_menu = t->net.shape.n_menu;
    const polar_train_question *q = &t->questions[question];
    const uint8_t *results = t->results + (size_t)question * (size_t)n_menu;
    const pred_dropout drop = pred_dropout_of(t->options->dropout, pred_key(t->key, (uint64_t)index));
    const menu_trace *trace = &t->traces[worker];
    float dlogits[POLAR_MAX_MENU] = {0}, *features = t->features[worker];
    double loss = 0;
    train_features(q, t->mean, t->inverse, t->net.shape.q_dim, features);
    menu_forward(&t->net, trace, features, q->n_tokens, t->backward ? &drop : NULL);
    /* the log loss and its gradient */
    for (int k = 0; k < n_menu; k++) {
        const double x = (double)trace->logits[k];
        if (!t->backward) t->logits[(size_t)(t->first + index) * (size_t)n_menu + (size_t)k] = trace->logits[k];
        if (results[k] == POLAR_RESULT_UNKNOWN) continue;
        loss += menu_log_loss(x, (polar_result_kind)results[k]);
        dlogits[k] = (float)(t->share * (1 / (1 + exp64(-x)) - (results[k] == POLAR_RESULT_VALID)));
    }
    /* the policy loss has no value of its own in the report, only a gradient */
    if (t->backward && t->options->policy > 0) menu_policy(t, trace->logits, results, dlogits);
    t->losses[index] = loss;
    if (t->backward) {
        float *grads = t->pass_grads + (size_t)index * t->n_params;
        const menu_weights g = menu_place(&t->net.shape, grads);
        memset(grads, 0, t->n_params * sizeof *grads);
        menu_backward(&t->net, trace, features, q->n_tokens, dlogits, &g, t->dtokens[worker], &drop);
    }
}

/* How many results of the questions order[first .. first + n) are known. */
static int menu_known(const menu_trainer *t, int first, int n) {
    int known = 0;
    for (int i = first; i < first + n; i++)
        for (int k = 0; k < t->net.shape.n_menu; k++)
            known += t->results[(size_t)t->order[i] * (size_t)t->net.shape.n_menu + (size_t)k] != POLAR_RESULT_UNKNOWN;
    return known;
}

/* The mean log loss over the known results of the questions order[first .. first + n), without dropout; their logits
 * are kept in t->logits. */
static double menu_evaluate(menu_trainer *t, int first, int n) {
    double loss = 0;
    t->backward = 0;
    for (int at = first; at < first + n; at += t->n_batch) {
        t->first = at;
        t->n_batch = MIN(t->options->batch, first + n - at);
        parallel_for(&t->runner, t->n_batch, menu_pass_task, t);
        for (int i = 0; i < t->n_batch; i++) loss += t->losses[i];
    }
    return loss / MAX(menu_known(t, first, n), 1);
}

/* Task `index`: the gradient of TRAIN_BLOCK parameters, summed over the questions of the batch in their order. */
static void menu_sum_task(void *context, int index, int worker) {
    menu_trainer *t = context;
    const size_t first = (size_t)index * TRAIN_BLOCK, n = MIN((size_t)TRAIN_BLOCK, t->n_params - first);
    (void)worker;
    memset(t->grads + first, 0, n * sizeof *t->grads);
    for (int i = 0; i < t->n_batch; i++) pred_add(t->grads + first, t->pass_grads + (size_t)i * t->n_params + first, n);
}

enum { MENU_WARMUP = 10 }; /* updates until the learning rate is reached */

/* One epoch: the questions in random order, a step of AdamW for each batch at a learning rate that follows the cosine.
 * A step whose gradients are not finite is skipped. *n_updates counts the others. */
static void menu_epoch(menu_trainer *t, int epoch, int *n_updates) {
    const polar_menu_options *o = t->options;
    const int n_steps = (t->n_train + o->batch - 1) / o->batch;
    const int n_blocks = (int)((t->n_params + TRAIN_BLOCK - 1) / TRAIN_BLOCK);
    uint64_t state = pred_key(pred_key(o->seed, TRAIN_RANDOM_MENU_ORDER), (uint64_t)epoch);
    train_shuffle(t->order, t->n_train, &state);
    for (int step = 0; step < n_steps; step++) {
        const double lr =
            mul64(o->lr, train_schedule(POLAR_SCHEDULE_COSINE, *n_updates, MENU_WARMUP, n_steps * o->n_epochs));
        const mat_adam k = train_adamw(lr, o->weight_decay, *n_updates + 1, 1);
        t->first = step * o->batch;
        t->n_batch = MIN(o->batch, t->n_train - t->first);
        t->backward = 1;
        t->share = 1.0 / MAX(menu_known(t, t->first, t->n_batch), 1);
        t->key = pred_key(pred_key(pred_key(o->seed, TRAIN_RANDOM_MENU_DROPOUT), (uint64_t)epoch), (uint64_t)step);
        parallel_for(&t->runner, t->n_batch, menu_pass_task, t);
        parallel_for(&t->runner, n_blocks, menu_sum_task, t);
        if (!pred_finite(t->grads, t->n_params)) continue;
        t->net.kernels->adam(t->params, t->grads, t->m, t->v, t->n_params, &k);
        ++*n_updates;
        menu_pack(&t->net);
    }
}

/* --- calibration: probabilities that come true ---------------------------------------- */

#define MENU_PULL   1.0 /* as strong as about four results */
enum { MENU_ROUNDS = 50 }; /* far more than it takes to converge */

/* The result of program k on question order[i]. */
static polar_result_kind menu_result_of(const menu_trainer *t, int i, int k) {
    return (polar_result_kind)t->results[(size_t)t->order[i] * (size_t)t->net.shape.n_menu + (size_t)k];
}

/* Finds scale and shift (n_menu) on the held-out questions: the least of
 *     sum over known results of logloss(scale * logit_k + shift_k) + MENU_PULL/2 ((scale - 1)^2 + sum of shift_k^2)
 * by Newton's method for one coordinate after the other, x -= gradient / curvature. With p the probability, r = 1 for a
 * right result, and slope 1 for a shift, the logit for the scale, a result adds (p - r) slope to the gradient and
 * p (1 - p) slope^2 to the curvature. */
static void menu_calibrate(menu_trainer *t, double *scale, double *shift) {
    const int n_menu = t->net.shape.n_menu;
    *scale = 1;
    for (int k = 0; k < n_menu; k++) shift[k] = 0;
    for (int round = 0; round < MENU_ROUNDS; round++)
        for (int c = 0; c <= n_menu; c++) { /* the shift of each program; then, in place of one more, the scale */
            const int is_scale = c == n_menu, first = is_scale ? 0 : c, end = is_scale ? n_menu : c + 1;
            double gradient = mul64(MENU_PULL, is_scale ? *scale - 1 : shift[c]), curvature = MENU_PULL;
            for (int i = t->n_train; i < t->n_all; i++)
                for (int k = first; k < end; k++) {
                    const polar_result_kind r = menu_result_of(t, i, k);
                    const double x = (double)t->logits[(size_t)i * (size_t)n_menu + (size_t)k];
                    const double p = 1 / (1 + exp64(-(mul64(*scale, x) + shift[k]))), slope = is_scale ? x : 1;
                    if (r == POLAR_RESULT_UNKNOWN) continue;
                    gradient += mul64(p - (r == POLAR_RESULT_VALID), slope);
                    curvature += mul64(mul64(p, 1 - p), mul64(slope, slope));
                }
            if (is_scale) *scale = MAX(*scale - gradient / curvature, 0.05);
            else shift[c] -= gradient / curvature;
        }
}

/* The mean log loss over the known results of the held-out questions, with the calibration. */
static double menu_calibrated_loss(const menu_trainer *t, double scale, const double *shift) {
    const int n_menu = t->net.shape.n_menu;
    double loss = 0;
    int known = 0;
    for (int i = t->n_train; i < t->n_all; i++)
        for (int k = 0; k < n_menu; k++) {
            const polar_result_kind r = menu_result_of(t, i, k);
            const double x = (double)t->logits[(size_t)i * (size_t)n_menu + (size_t)k];
            if (r == POLAR_RESULT_UNKNOWN) continue;
            loss += menu_log_loss(mul64(scale, x) + shift[k], r);
            known++;
        }
    return loss / MAX(known, 1);
}

/* --- from beginning to end ------------------------------------------------------------ */

enum { MENU_SCORE_WEIGHT = 2 }; /* number of that tensor in menu_tensors */

/* Initial values: linear layers as PyTorch's, uniform within 1 / sqrt(in); the scores 0, so that attention is even; and
 * as the bias of each program the log odds of how often it was right, ln((right + 1) / (wrong + 1)). */
static void menu_initialize(menu_trainer *t) {
    const menu_shape *s = &t->net.shape;
    pred_tensor list[MENU_TENSORS];
    int fan_in = 1;
    for (int i = 0, n = menu_tensors(s, list); i < n; i++) {
        uint64_t state = pred_key(pred_key(t->options->seed, TRAIN_RANDOM_MENU_WEIGHTS), (uint64_t)i);
        if (list[i].rows) fan_in = list[i].columns;
        for (size_t k = 0; k < list[i].count && i != MENU_SCORE_WEIGHT; k++)
            t->params[list[i].offset + k] = (2 * rng_float(&state) - 1) * (float)(1 / sqrt(fan_in));
    }
    for (int k = 0; k < s->n_menu; k++) {
        int counts[3] = {0, 1, 1}; /* by polar_result_kind */
        for (int i = 0; i < t->n_train; i++) counts[t->results[(size_t)t->order[i] * (size_t)s->n_menu + (size_t)k]]++;
        t->net.w.out_bias[k] = (float)log64((double)counts[POLAR_RESULT_VALID] / counts[POLAR_RESULT_INVALID]);
    }
}

/* Measures or places all arrays of a run. */
static void menu_place_trainer(menu_trainer *t, layout *l, int n_questions, int max_tokens) {
    const menu_shape *s = &t->net.shape;
    const size_t n_threads = (size_t)t->runner.n_threads, batch = (size_t)t->options->batch, f = sizeof(float);
    float **const arrays[] = {&t->params, &t->grads, &t->m, &t->v, &t->best};
    for (int i = 0; i < COUNT(arrays); i++) *arrays[i] = layout_place(l, t->n_params, f);
    if (t->params) t->net.w = menu_place(s, t->params);
    t->net.panels = layout_place(l, mat_panels(s->q_dim, s->width), f);
    /* the data */
    t->results = layout_place(l, (size_t)n_questions, (size_t)s->n_menu);
    t->order = layout_place(l, (size_t)n_questions, sizeof *t->order);
    t->mean = layout_place(l, (size_t)s->q_dim, f);
    t->inverse = layout_place(l, (size_t)s->q_dim, f);
    t->sums = layout_place(l, size_of(2, (size_t)s->q_dim), sizeof *t->sums);
    /* a batch */
    t->pass_grads = layout_place(l, size_of(batch, t->n_params), f);
    t->losses = layout_place(l, batch, sizeof *t->losses);
    t->logits = layout_place(l, size_of((size_t)n_questions, (size_t)s->n_menu), f);
    /* each worker's own; the arrays that point there exist in the second run only */
    t->traces = layout_place(l, n_threads, sizeof *t->traces);
    t->features = layout_place(l, n_threads, sizeof *t->features);
    t->dtokens = layout_place(l, n_threads, sizeof *t->dtokens);
    for (size_t i = 0; i < n_threads; i++) {
        menu_trace trace;
        float *features = layout_place(l, size_of((size_t)max_tokens, (size_t)s->q_dim), f);
        float *dtokens = layout_place(l, size_of((size_t)max_tokens, (size_t)s->width), f);
        menu_place_trace(s, l, &trace, (size_t)max_tokens);
        if (!l->base || l->overflow) continue;
        t->traces[i] = trace;
        t->features[i] = features;
        t->dtokens[i] = dtokens;
    }
}

/* Allocates all arrays as one block of zeros. */
static polar_status menu_build(menu_trainer *t, int n_questions, int max_tokens, const polar_allocator *a,
                               polar_error *e) {
    layout l = layout_begin(NULL);
    menu_place_trainer(t, &l, n_questions, max_tokens);
    t->bytes = layout_bytes(&l);
    if (!t->bytes) return fail(e, POLAR_MEMORY, "menu: more data than fit into memory");
    t->block = mem_zeros(a, t->bytes, e);
    if (!t->block) return POLAR_MEMORY;
    l = layout_begin(t->block);
    menu_place_trainer(t, &l, n_questions, max_tokens);
    return POLAR_OK;
}

/* Finds results and costs, the questions with a known result, which of them are held out (the last n_held questions, or
 * a random share), and mean and deviation of the features of the others. */
static polar_status menu_prepare(menu_trainer *t, int n_questions, const polar_program *menu, polar_error *e) {
    const int n_menu = t->net.shape.n_menu;
    uint64_t state = pred_key(t->options->seed, TRAIN_RANDOM_MENU_SPLIT);
    menu_results(t->questions, n_questions, menu, n_menu, t->results);
    for (int k = 0; k < n_menu; k++) t->costs[k] = menu_cost(menu, k);
    for (int q = 0; q < n_questions; q++) { /* stays where it is put if it has a known result */
        t->order[t->n_all] = q;
        if (menu_known(t, t->n_all, 1)) t->n_all++;
    }
    if (!t->n_all)
        return fail(e, POLAR_ARGUMENT, "menu: of no question a result of one of the %d programs is known", n_menu);
    /* the last n_held questions are held out, or a random share; the others are trained on */
    if (t->options->n_held) {
        while (t->n_train < t->n_all && t->order[t->n_train] < n_questions - t->options->n_held) t->n_train++;
        if (!t->n_train)
            return fail(e, POLAR_ARGUMENT, "menu: nothing to train on, all questions with results are held out");
        train_shuffle(t->order, t->n_train, &state);
    } else {
        train_shuffle(t->order, t->n_all, &state);
        t->n_train = t->n_all - MIN((int)(t->options->validation * t->n_all + 0.5), t->n_all - 1);
    }
    /* shift and scale of the features, from the questions that are trained on */
    return train_standardize(t->questions, t->order, t->n_all, t->n_train, t->net.shape.q_dim, t->sums, t->mean,
                             t->inverse, e);
}

/* Trains: after each epoch the log loss of the held-out questions is measured, and the best weights are kept; without
 * held-out questions the last ones, with the loss of the training questions. */
static polar_status menu_run(menu_trainer *t, polar_menu_report *r, polar_error *e) {
    const polar_menu_options *o = t->options;
    const int n_validation = t->n_all - t->n_train;
    int n_updates = 0;
    menu_initialize(t);
    menu_pack(&t->net);
    r->n_questions = t->n_train;
    r->n_validation = n_validation;
    r->n_known = menu_known(t, 0, t->n_all);
    for (int epoch = 0; epoch < o->n_epochs; epoch++) {
        double loss;
        menu_epoch(t, epoch, &n_updates);
        /* what chooses the epoch */
        loss = n_validation ? menu_evaluate(t, t->n_train, n_validation) : menu_evaluate(t, 0, t->n_train);
        if (!(loss - loss == 0)) return fail(e, POLAR_NUMERIC, "menu: the loss of epoch %d is not finite", epoch + 1);
        if (epoch == 0 || !n_validation || loss < r->loss) {
            r->loss = loss;
            r->best_epoch = epoch;
            memcpy(t->best, t->params, t->n_params * sizeof *t->best);
        }
        if (o->progress && o->progress(o->progress_user, (double)(epoch + 1) / o->n_epochs))
            return fail(e, POLAR_CANCELLED, "menu: training was cancelled");
    }
    memcpy(t->params, t->best, t->n_params * sizeof *t->best); /* menu_export calibrates and writes these */
    menu_pack(&t->net);
    return POLAR_OK;
}

/* Calibrates, and writes the network to a predictor: the shift and scale of the features go into its first
 * layer, the calibration into its last one, so that the predictor takes features as they are. */
static void menu_export(menu_trainer *t, polar_menu_report *r, polar_predictor *p) {
    const menu_shape *s = &t->net.shape;
    const menu_weights *w = &p->menu.w;
    double shift[POLAR_MAX_MENU] = {0};
    r->scale = 1;
    r->calibrated_loss = r->loss;
    if (t->n_all > t->n_train) {
        menu_evaluate(t, t->n_train, t->n_all - t->n_train); /* logits of the best epoch */
        menu_calibrate(t, &r->scale, shift);
        r->calibrated_loss = menu_calibrated_loss(t, r->scale, shift);
    }
    /* the first layer takes features as they are, the last gives scale * logit + shift */
    memcpy(p->menu_params, t->params, t->n_params * sizeof *t->params);
    train_fold(w->project_weight, w->project_bias, s->width, s->q_dim, t->mean, t->inverse);
    for (int k = 0; k < s->n_menu; k++) {
        for (int i = 0; i < s->width; i++) w->out_weight[(size_t)k * (size_t)s->width + (size_t)i] *= (float)r->scale;
        w->out_bias[k] = (float)(mul64(r->scale, (double)w->out_bias[k]) + shift[k]);
    }
}

/* What is 0 stands for the defaults of polar.h. */
static polar_menu_options menu_defaults(const polar_menu_options *options) {
    polar_menu_options o = *options;
    o.width = option_int(o.width, 64);
    o.n_head = option_int(o.n_head, 4);
    o.pooling = option_int(o.pooling, POLAR_MENU_SUM | POLAR_MENU_LAST);
    o.policy = option_number(o.policy, 1);
    o.dropout = option_number(o.dropout, 0.1);
    o.n_epochs = option_int(o.n_epochs, 40);
    o.batch = option_int(o.batch, 32);
    o.lr = option_number(o.lr, 1e-3);
    o.weight_decay = option_number(o.weight_decay, 0.01);
    o.validation = option_number(o.validation, 0.2);
    o.price = option_number(o.price, POLAR_MENU_PRICE);
    return o;
}

/* Refuses options out of range, menus that are not possible, and questions without features; finds the largest T. */
static polar_status menu_check(const polar_train_question *questions, int n_questions, int n_layer,
                               const polar_program *menu, int n_menu, const polar_menu_options *o, int *max_tokens,
                               polar_error *e) {
    polar_program standard = polar_program_identity(n_layer);
    polar_status status;
    if (!questions || n_questions < 1) return fail(e, POLAR_ARGUMENT, "menu: no questions");
    if (!menu || n_menu < 1 || n_menu > POLAR_MAX_MENU)
        return fail(e, POLAR_ARGUMENT, "menu: %d programs; 1..%d are possible", n_menu, POLAR_MAX_MENU);
    /* comparisons are written so that NaN is refused */
    if (o->n_epochs < 1 || o->batch < 1 || o->batch > 4096 || !(o->dropout >= 0 && o->dropout < 1) ||
        !(o->validation >= 0 && o->validation < 1) || !(o->lr >= 0 && o->lr <= 1) ||
        !(o->price >= 0 && o->price <= 1e6) || !(o->policy >= 0 && o->policy <= 1e6) || o->n_held < 0 ||
        o->n_held >= n_questions || (int64_t)(n_questions / o->batch + 1) * o->n_epochs > INT_MAX)
        return fail(e, POLAR_ARGUMENT, "menu: an option is out of range");
    for (int k = 0; k < n_menu; k++) {
        status = polar_program_validate(&menu[k], n_layer, e);
        if (status) return status;
    }
    standard.segments[0].times = (int16_t)MAX(1, polar_program_length(&menu[0]) / n_layer); /* of a looped model */
    if (!polar_program_equal(&menu[0], &standard))
        return fail(e, POLAR_ARGUMENT, "menu: the first program must be the identity");
    for (int q = 0; q < n_questions; q++) {
        status = train_check_question(&questions[q], q, e);
        if (status) return status;
        *max_tokens = MAX(*max_tokens, questions[q].n_tokens);
    }
    return POLAR_OK;
}

/* See polar.h. Two networks may come together in the new predictor: the trained menu, and that of `base`. */
polar_status polar_menu_train(polar_predictor **out, const polar_predictor *base, int n_layer, int q_dim,
                              const polar_train_question *questions, int n_questions, const polar_program *menu,
                              int n_menu, const polar_menu_options *options, polar_menu_report *report,
                              polar_error *error) {
    const polar_menu_options none = {0}, o = menu_defaults(options ? options : &none);
    const polar_allocator a = mem_allocator(o.allocator);
    const menu_shape shape = {q_dim, o.width, o.n_head, n_menu, o.pooling};
    polar_menu_report r;
    polar_predictor *p = NULL;
    menu_trainer t;
    polar_status status;
    int max_tokens = 1;
    err_clear(error);
    memset(&r, 0, sizeof r);
    memset(&t, 0, sizeof t);
    if (!out) return fail(error, POLAR_ARGUMENT, "polar_menu_train: out is NULL");
    *out = NULL;
    if (base && (base->info.n_layer != n_layer || base->info.q_dim != q_dim))
        return fail(error, POLAR_MISMATCH,
                    "menu: the predictor it shall join is for %d layers and features of %d; expected are %d and %d",
                    base->info.n_layer, base->info.q_dim, n_layer, q_dim);
    /* checks, sizes and memory */
    status = menu_check(questions, n_questions, n_layer, menu, n_menu, &o, &max_tokens, error);
    if (!status) status = menu_check_shape(&shape, error);
    if (!status) status = train_runner(&t.runner, &t.pool, o.runner, o.n_threads, &a, error);
    if (status) return status;
    t.questions = questions;
    t.options = &o;
    t.net.shape = shape;
    t.net.kern = kern_find(POLAR_CPU_AUTO);
    t.net.kernels = mat_choose(t.net.kern);
    t.n_params = menu_count(&shape);
    status = menu_build(&t, n_questions, max_tokens, &a, error);
    /* data, training, and the predictor: the menu, its programs, and what comes from `base` */
    if (!status) status = menu_prepare(&t, n_questions, menu, error);
    if (!status) status = menu_run(&t, &r, error);
    if (!status)
        status = pred_create(&p, n_layer, base && base->net.shape.d_model ? &base->net.shape : NULL, &shape, &a, error);
    if (!status) {
        menu_export(&t, &r, p);
        memcpy(p->programs, menu, (size_t)n_menu * sizeof *menu);
        if (base) status = pred_inherit(p, base, error);
        p->info.price = o.price;
        if (!status) status = pred_ready(p, error);
    }
    if (status) polar_predictor_close(p);
    else *out = p;
    if (!status && report) *report = r;
    polar_pool_free(t.pool);
    mem_free(&a, t.block, t.bytes);
    return status;
}
#endif /* POLAR_NO_TRAIN */

/* A file that includes this one keeps its own names: only macros that begin with POLAR_ stay, and those that tell
 * system headers what to show. Tests need the others. */
#ifndef POLAR_INSIDE
#undef TARGET
#undef PRINTF_LIKE
#undef MAYBE_UNUSED
#undef ALWAYS_INLINE
#undef UNROLL
#undef ASAN_FORBID
#undef ASAN_ALLOW
#undef COUNT
#undef MIN
#undef MAX
#undef ROUND_MAGIC
#undef EXP_LOG2E
#undef EXP_LN2_HI
#undef EXP_LN2_LO
#undef EXP_MAX
#undef EXP_MIN
#undef LN2
#undef atomic_load
#undef atomic_store
#undef atomic_add
#undef atomic_swap_if
#undef lock_init
#undef lock_take
#undef lock_release
#undef lock_free
#undef cond_init
#undef cond_wait
#undef cond_wake_all
#undef cond_free
#undef thread_yield
#undef QUANT_CHECK
#undef KERN_TYPES
#undef AVX2
#undef IN_REGISTERS
#undef TILE_X86
#undef KERN_X86
#undef AVX512
#undef AMX
#undef TILES
#undef TILE_SHAPES
#undef TILE_LOAD
#undef TILE_STORE
#undef TILE_ZERO
#undef TILE_SIGNED
#undef TILE_UNSIGNED
#undef TILE_END
#undef MEMORY
#undef DOTPROD
#undef I8MM
#undef S64
#undef S8
#undef KERN_ARM
#undef KERN_X4
#undef TOK_NONE
#undef TOK_KEY
#undef TOK_THINK
#undef TPL_WHITE
#undef MODEL_CHECKSUM_START
#undef MANY_MIN_CHANCE
#undef MANY_MIN_SHARE
#undef MAT_FMA
#undef MAT_NORM_EPS
#undef MAT_ROWS6
#undef MAT_ROWS4
#undef MAT_ROWS2
#undef MAT_ROWS1
#undef MAT_LOAD
#undef MAT_STEP
#undef MAT_STORE
#undef MAT_TILE
#undef PRED_FIELD
#undef PRED_BLOCK_FIELD
#undef MENU_SUM_SCALE
#undef MENU_FIELD
#undef PRED_ARCHITECTURE
#undef PROMPT_PLACE
#undef PROMPT_BOX
#undef TRAIN_BETA1
#undef TRAIN_BETA2
#undef TRAIN_EPS
#undef MENU_HEAT
#undef MENU_PULL
#endif
