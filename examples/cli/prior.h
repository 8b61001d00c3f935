/* What a search taught about other questions: a prior over edits, and programs to begin with. See prior.c. */
#ifndef PRIOR_H
#define PRIOR_H

#include "menu.h"
#include "samples.h"

/* Results of one question. */
typedef struct prior_question {
    int is_right, n_paths; /* by the identity */
    polar_train_path *paths;
    int *calls; /* of all paths */
} prior_question;

typedef struct prior {
    int n_layer, max_length, max_times, max_damped, n_kinds; /* of edits: see prior_index */
    int n, capacity;
    prior_question *questions;
    uint64_t checksum;  /* of the file */
    double *weights[2]; /* of edits, for questions that the identity answers wrong, and right */
    menu first[2];      /* programs, the identity and those to try first, likewise */
    int is_right;       /* which of them prior_weight uses */
} prior;

/* Begins one for edits as the search makes them. */
void prior_begin(prior *p, int n_layer, const polar_search_options *search);
/* Adds what was tried on a question. 0, or 1 after a message. */
int prior_add(prior *p, const trials *t);
/* Adds the results of a search of the same model. 0, or 1 after a message. */
int prior_read(prior *p, const char *file, const polar_model *model);
/* Makes weights and at most n_first programs of what was added. 0, or 1 after a message. */
int prior_finish(prior *p, int n_first);
void prior_free(prior *p);
/* For polar_search_options: `user` is the prior. */
double prior_weight(void *user, const polar_segment *edit);

#endif /* PRIOR_H */
