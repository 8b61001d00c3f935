/* polar bench --search --coverage: see bench_coverage.c. */
#ifndef BENCH_COVERAGE_H
#define BENCH_COVERAGE_H

#include "cli.h"

typedef struct bench_coverage_options {
    const char *questions, *prior; /* files; prior NULL: the ways with one are left out */
    const char *cpu, *kv_type;
    uint64_t seed;
    int programs, few;             /* without and with a prior */
    int alone;                     /* questions that are also run one program at a time */
    int limit, max_tokens, threads, cache_mb, cpu_time, json;
} bench_coverage_options;

/* On one model; returns the exit status. */
int bench_coverage(const char *file, const bench_coverage_options *options);

#endif
