/* Programs tried on one question, by one of the rules: see searcher.c. */
#ifndef SEARCHER_H
#define SEARCHER_H

#include "evaluate.h"
#include "prior.h"
#include "samples.h"

typedef struct searcher_options {
    polar_search_options search;
    int is_released; /* the rule, with these bounds of a program's calls; 0: as released_bounds says */
    int min_calls, max_calls, log_all;
    int seed_per_question, one_seed;
    /* A question ends early when so many valid programs besides the identity are known, when one of at most short_enough
     * passes through all layers is, or when of give_up programs none corrected it or was shorter; 0: not. */
    int enough, give_up;
    double short_enough;
} searcher_options;

typedef struct searcher {
    const searcher_options *o;
    evaluator *e;
    int n_layer;
    prior *prior;                         /* NULL: the textbook's rule */
    void (*tell)(void *user, int n_done); /* after each program, or NULL */
    void *user;
    trials trials; /* of the question, in the order in which they were proposed */
    int *order;    /* of the trials in the lists of results, by the released rule */
    cli_text log;  /* of its simulations */
} searcher;

/* Searches a question; the trials are those of this one then. 0, EVALUATE_CANCELLED or 1 after a message. */
int searcher_run(searcher *s, const cli_question *question);
/* Runs programs that are trials of the question from `first` on; evaluator_question comes before. */
int searcher_run_trials(searcher *s, int first);
void searcher_free(searcher *s);

#endif /* SEARCHER_H */
