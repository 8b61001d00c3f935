/* How fast products with quantized weights are: products (a weight times a number of a token) per nanosecond of one
 * thread, for each instruction set that this machine has, each type, and 1, 4 and 64 tokens. Weights are few enough for
 * the second cache, so this is the speed of computing and not of memory; of ROUNDS rounds the best counts, as other
 * processes can only slow one down.
 *     make build/speed_kern TEST_CFLAGS=-O2 && build/speed_kern [INSTRUCTION SET ...] */
#include "inside.h"
#include <time.h>

enum { N = 2048, ROWS = 64, TOKENS = 64, ROUNDS = 200 };

static uint8_t weights[ROWS * N * 2];
static float x[TOKENS * N], y[TOKENS * ROWS];
static int8_t q8[2][TOKENS * N];
static int16_t q16[2][TOKENS * N], sums[2][TOKENS * N / 16];
static float d[2][TOKENS * N / 32];

/* Processor time of this thread where the system tells it, else of the process. */
static double nanoseconds(void) {
#ifdef CLOCK_THREAD_CPUTIME_ID
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
#else
    return 1e9 / CLOCKS_PER_SEC * (double)clock();
#endif
}

static double products_per_nanosecond(const kern *k, int type, int n_tokens) {
    static char scratch[KERN_SCRATCH + 1];
    const activations a = {N, x, {q8[0], q16[0], sums[0], d[0]}, {q8[1], q16[1], sums[1], d[1]}};
    const product p = {type, ROWS, weights, quant_row_bytes(type, N), &a, NULL, n_tokens, y, ROWS, NULL};
    double best = 1e30;
    for (int round = 0; round < ROUNDS; round++) {
        const double start = nanoseconds();
        kern_multiply(k, &p, 0, ROWS, scratch);
        best = fmin(best, nanoseconds() - start);
    }
    return (double)N * ROWS * n_tokens / best;
}

static int wanted(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(name, argv[i])) return 1;
    return argc < 2;
}

int main(int argc, char **argv) {
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof weights; i++) weights[i] = (uint8_t)rng_next(&seed);
    for (int i = 0; i < TOKENS * N; i++) x[i] = rng_float(&seed) - 0.5f;
    for (int i = 0; i < 2; i++) kern_plain.quantize(x, TOKENS * N, i ? 256 : 32, q8[i], q16[i], sums[i], d[i]);
    for (int cpu = POLAR_CPU_PLAIN + 1; cpu < POLAR_N_CPU; cpu++) {
        const kern *k = kern_find((polar_cpu)cpu);
        if (!k || !wanted(polar_cpu_name((polar_cpu)cpu), argc, argv)) continue;
        printf("| %s | 1 token | 4 | 64 |\n|---|---|---|---|\n", polar_cpu_name((polar_cpu)cpu));
        for (int type = 0; type < QUANT_N; type++)
            if (quant_types[type].unpack)
                printf("| %s | %.1f | %.1f | %.1f |\n", quant_types[type].name, products_per_nanosecond(k, type, 1),
                       products_per_nanosecond(k, type, 4), products_per_nanosecond(k, type, 64));
    }
    return 0;
}
