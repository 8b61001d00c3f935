/* polar bench --predict and --train: see bench_predict.c. */
#ifndef BENCH_PREDICT_H
#define BENCH_PREDICT_H

#include "cli.h"

typedef struct bench_predict_options {
    int prompt, repeat, threads, json, layer; /* of --predict: tokens; rounds; layers before the features */
    int cpu_time;                             /* processor time instead of the clock's */
    int steps, group, q_dim;                  /* of --train: steps measured; paths that share a pass; features */
    const char *cpu;
} bench_predict_options;

/* The overhead of predicting on a model, and the speed of training; both return the exit status. */
int bench_predict(const char *file, const bench_predict_options *options);
int bench_train(const bench_predict_options *options);

#endif /* BENCH_PREDICT_H */
