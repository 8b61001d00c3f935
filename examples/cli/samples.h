/* Supervision files, shared by search and merge: see samples.c. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include "cli.h"

/* A program that was tried on a question. */
typedef struct trial {
    int *path, *parent; /* calls; parent NULL where there is none */
    int n, n_parent;
    int simulation; /* -1: no search proposed it */
    double reward;
    char *answer; /* what was graded, "" if there was nothing; NULL where only the reward is known */
    int n_tokens;
    polar_stop stop;
    double logprob;
} trial;

typedef struct trials {
    int n, capacity;
    trial *items;
    int n_layer; /* of the model: to be set before trials with damped segments are read or written, as text */
    /* Of samples that are written, borrowed, else NULL: the trials in the order of the lists of results, the prompt that
     * goes into sample_info, why the search ended early, and text of more members. */
    const int *order;
    const char *prompt, *ended, *more;
} trials;
/* A new trial with copies of the paths; NULL without memory. */
trial *trials_add(trials *t, const int *path, int n, const int *parent, int n_parent);
/* Index of a path, or -1. */
int trials_find(const trials *t, const int *path, int n);
/* Those of a sample; 0 if a path is none, or without memory. */
int trials_read(trials *t, const json *sample);
/* Adds the paths of its lists of valid and invalid ones that are not there yet. */
int trials_add_results(trials *t, const json *sample);
void trials_clear(trials *t);
void trials_free(trials *t);

/* Writes a sample as one line, without the line's end. */
void sample_put(FILE *f, int index, const cli_question *question, const trials *t);
/* The same for a sample that was read (`text` is its own): all members are kept but for the results. */
void sample_put_again(FILE *f, int index, const json *sample, polar_span text, const trials *t);

/* Counts over samples. */
typedef struct cli_summary {
    int n_loops;                      /* of the model's own program, which counts as the identity; 0: 1 */
    int n, identity, skip, loop, any; /* questions, and those with a valid program: of the identity, of that or one
                                         that only skips, only repeats, any */
    double n_programs, shortest;      /* programs tried; sum of the lengths of the shortest valid ones */
    double n_valid, n_learnable;      /* valid programs; those that the network of [P] has a form for: segments of at
                                         most 4 layers, executed at most twice */
    struct summary_answer {
        uint64_t reference; /* hash of the reference answer */
        int n_tries;        /* distinct answers that programs gave besides the identity's; -1: the identity is right */
    } *answers;             /* of each question */
    int answers_capacity;
} cli_summary;
/* 0, or 1 after a message: no memory. */
int summary_add(cli_summary *s, const json *sample, int n_layer);
void summary_free(cli_summary *s);
/* What answers at random would correct, in percent of what the identity gets wrong: the mean over those questions of
 * 1 - (1 - p)^k, where p is the probability that two questions of the file have the same reference answer, and k the
 * number of distinct answers that programs gave besides the identity's. -1 if there is nothing to tell it by. *p is set. */
double summary_luck(const cli_summary *s, double *p);
/* Percent of the questions with a valid program, of those that the identity gets wrong. */
double summary_corrected(const cli_summary *s);
void summary_print(FILE *f, const cli_summary *s, int n_layer);
void summary_print_json(FILE *f, const cli_summary *s);

#endif /* SAMPLES_H */
