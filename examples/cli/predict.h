/* A predictor beside its model, for the commands that let it pick: see predict.c. */
#ifndef PREDICT_H
#define PREDICT_H

#include "cli.h"

typedef struct guide {
    const polar_model *model;
    polar_predictor *predictor;
    polar_predictor_info info;
    polar_model *encoder; /* NULL unless its features come from one */
    cli_prompt prompt;
    polar_picker *picker;
    const char *question;
    int32_t *tokens;      /* of the question, as the predictor was trained to see it */
    int n_tokens;
} guide;

/* The question: the word on the command line, `file`, or stdin for "-"; to be freed. 0, or the exit status after a
 * message. */
int question_word(const cli *c, const char *file, char **question);

/* Opens predictor and encoder. Questions are asked as in training, unless `prompt` says how. 0, or the exit status
 * after a message; close it in any case. */
int guide_open(guide *g, const polar_model *model, const char *file, const char *encoder, const char *cpu,
               const cli_prompt_options *prompt);
void guide_close(guide *g);
/* Gets the tokens of a question and a picker that holds them and `max_tokens` more, unless options->session.n_ctx says
 * otherwise. */
int guide_question(guide *g, const char *question, int max_tokens, const polar_pick_options *options);
/* The best programs, at most `max`. */
int guide_pick(guide *g, polar_candidate *out, int max, int *n);

#endif /* PREDICT_H */
