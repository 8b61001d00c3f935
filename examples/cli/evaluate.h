/* Running programs on a question and grading what they answer: see evaluate.c. */
#ifndef EVALUATE_H
#define EVALUATE_H

#include "cli.h"

typedef enum reward_kind {
    REWARD_ANSWER, /* the greedy answer equals the reference */
    REWARD_EXACT,  /* the greedy tokens are those of the reference */
    REWARD_CHOICE  /* of the options the correct one is the likeliest */
} reward_kind;
/* By name; 0, or the exit status after a message. */
int reward_of(const char *name, reward_kind *kind);

/* The answer of a program. */
typedef struct attempt {
    double reward; /* 1 right, 0 wrong */
    char *answer;  /* what was graded, to be freed; "" if there is none */
    int n_tokens;
    polar_stop stop;
    double logprob;
} attempt;

typedef struct evaluator {
    const polar_model *model;
    polar_many *many;
    cli_prompt prompt; /* set by the caller, closed by evaluator_close */
    reward_kind reward;
    const cli_question *question;
    int32_t *gold; /* the reference as the model would write it, a guess */
    int n_gold;
} evaluator;

#define EVALUATE_CANCELLED 3 /* not an exit status: the progress function of the options said stop */

/* 0, or the exit status after a message; close it in any case. */
int evaluator_open(evaluator *e, const polar_model *model, const polar_many_options *options);
void evaluator_close(evaluator *e);
/* The question that comes next. */
int evaluator_question(evaluator *e, const cli_question *question);
/* Runs paths; the attempts' answers are to be freed, on failure too. 0, EVALUATE_CANCELLED or 1 after a message. */
int evaluator_run(evaluator *e, const polar_path *paths, int n, attempt *attempts);

#endif /* EVALUATE_H */
