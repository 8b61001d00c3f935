/* What says whether a method really beats another on the same questions, and the programs that a sceptic would try
 * instead. On polar.h, without the rest of the command. The same numbers come out on every machine. */
#ifndef STATISTICS_H
#define STATISTICS_H

#include "polar.h"

typedef struct statistics_interval {
    double low, high;
} statistics_interval;

/* 95 % interval of an accuracy of which n_right of n were seen (Wilson's score interval, no continuity
 * correction). 0..1 if nothing is known. */
statistics_interval statistics_accuracy(int n_right, int n);

/* Two methods on the same questions. */
typedef struct statistics_paired {
    int both, corrected, broken, neither; /* right under both; wrong, then right; right, then wrong; under neither */
} statistics_paired;

/* Exact two-sided McNemar test of "the second is as good as the first": the probability of counts as unequal or
 * more, if each of these questions were as likely to be corrected as to be broken. 1 without such questions. */
double statistics_mcnemar(int corrected, int broken);
/* 95 % interval of the second's accuracy minus the first's, which is (corrected - broken) / n: Newcombe's method
 * 10 for paired proportions. -1..1 without questions. */
statistics_interval statistics_difference(const statistics_paired *counts);
/* The mean of n differences of paired measurements, with Student's 95 % interval, and the two-sided p of the hypothesis
 * that it is 0. The interval is -HUGE_VAL..HUGE_VAL and p 1 for n < 2, or where one of them is not finite. */
typedef struct statistics_mean {
    double mean, p;
    statistics_interval interval;
} statistics_mean;
statistics_mean statistics_student(const double *differences, int n);
/* Holm's correction of n p values: of all p_j <= p_i the largest p_j times the number of p_k >= p_j, at most 1. Those
 * below a level then are, together, wrong with at most that probability. */
void statistics_holm(const double *p, int n, double *corrected);
/* A random order of n items, all equally likely (Fisher and Yates); the state is a seed and goes on. */
void statistics_permute(int *items, int n, uint64_t *state);

/* The threshold of polar_cascade with the largest mean of correct - price * (cost of all that has run) over `runs`
 * (n_questions, k), which is *worth (may be NULL). For validation questions: it sees which answers are correct. */
polar_status statistics_cascade(const polar_cascade_run *runs, int n_questions, int k, double price, double *threshold,
                                double *worth, polar_error *error);

/* Block influence (ShortGPT, arXiv 2403.03853): for each of the model's layers 1 - the mean cosine between the
 * hidden states before and after it, over all positions of the prompts, under the identity. The options' n_ctx is
 * ignored. Costs one prefill of each prompt. */
polar_status statistics_influence(const polar_model *model, const int32_t *const *prompts, const int *lengths,
                                  int n_prompts, const polar_session_options *options, double *influence,
                                  polar_error *error);
/* The program of n_calls calls that skips the layers of least influence; the identity if n_calls >= n_layer. */
polar_status statistics_skip(const double *influence, int n_layer, int n_calls, polar_program *program,
                             polar_error *error);
/* A program with the same edits at random places: its skipped and repeated segments and the layers that run once, in
 * random order. As long as the program; the identity stays what it is. Does not choose, so it shows what choosing
 * is worth. `out` may be `program`. */
polar_status statistics_shuffle(const polar_program *program, uint64_t seed, polar_program *out, polar_error *error);

#endif /* STATISTICS_H */
