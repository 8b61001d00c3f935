/* What the commands share that take one question and a predictor: see predict.c. */
#ifndef PREDICT_H
#define PREDICT_H

#include "cli.h"

/* A predictor, and its encoder where its features come from one. */
typedef struct guide {
    polar_predictor *predictor;
    polar_predictor_info info;
    polar_model *encoder;
} guide;

/* The question: the word on the command line, `file`, or stdin for "-"; to be freed. 0, or the exit status after a
 * message. */
int question_word(const cli *c, const char *file, char **question);

/* Opens them; `encoder` may be NULL. 0, or the exit status after a message; close it in any case. */
int guide_open(guide *g, const char *file, const char *encoder, const char *cpu);
void guide_close(guide *g);

#endif /* PREDICT_H */
