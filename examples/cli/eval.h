/* The parts of polar eval: running the methods (eval.c), showing questions and joining shards (eval_show.c). */
#ifndef EVAL_H
#define EVAL_H

#include "evaluate.h"
#include "score.h"

#define EVAL_MAX_RUNS 256
#define EVAL_TEXT 8192 /* more than any program's text form needs */

/* What was run on one question. */
typedef struct eval_work {
    polar_program programs[EVAL_MAX_RUNS];
    polar_path paths[EVAL_MAX_RUNS];
    attempt attempts[EVAL_MAX_RUNS];
    score_run runs[EVAL_MAX_RUNS];
    int *calls[EVAL_MAX_RUNS];  /* of the paths, to be freed */
    int n_runs, n_prompt;
    int32_t *prompt;
    double encoder_calls;       /* see score.h */
    int menu[POLAR_MAX_MENU];   /* runs of the menu's programs */
    double probability[POLAR_MAX_MENU];
    polar_candidate decoded[POLAR_MAX_BEAMS];
    int n_decoded, decoded_runs[POLAR_MAX_BEAMS];
    int first_is_empty, n_published; /* the first beam skips all; those of the first k beams that do not */
    int lists[SCORE_METHODS][POLAR_MAX_MENU], n_listed[SCORE_METHODS]; /* runs of each method */
    score_result results[SCORE_METHODS];
} eval_work;

/* A question with what some method did, in at most 80 columns. `pick`: the method, 0 if there is only the identity. */
void eval_show(int number, const cli_question *question, const eval_work *work, const score_method *method, int pick,
               int n_layer);

/* Writes header, summary and records (the texts, in the order of their questions). 0, or 1 after a message. */
typedef char *(*eval_record)(void *user, int i, size_t *length);
int eval_write(const char *output, const char *header, const scores *s, int n, eval_record record, void *user);

/* polar eval --merge: joins the files of shards. */
int eval_merge(char **files, int n, const char *output, int json_summary);

#endif /* EVAL_H */
