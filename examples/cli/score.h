/* What an evaluation says: records of questions and the statistics over them. See score.c.
 *
 * An evaluation file is {"polar":HEADER,"summary":{..},"samples":[RECORD,..]}. Everything in the summary follows from
 * header and records. A record:
 *
 *   {"index":3,"question":"..","gt_ans":"..","sample_info":{"task":..,"steps":..},"n_prompt":61,
 *    "encoder_calls":21.5,     what an encoder's pass over the question is worth; not there without one
 *    "runs":[{"program":"0-3 4x2","calls":13,"answer":"7","right":1,"tokens":4,"stop":"end","logprob":-0.2},..],
 *    "menu":[0,2,..],          the runs of the menu's programs, in its order
 *    "probability":[0.8,..],   the predictor's P(right) for them; not there without a menu
 *    "results":[{"runs":[0],"chosen":0,"right":1,"calls":793,"positions":65},..],   one for each method of the header
 *    "seconds":[0.01,..]}      of each method, only where it was timed
 *
 * `runs` of a result are all programs that the method had to run, `calls` their layer calls over all tokens together
 * with those of the features that no program took over, `positions` the tokens of the one answer that was chosen. An
 * encoder counts as the layer calls of the model that need as many multiply-adds: tokens x weights of the encoder's
 * layers, over the weights of one layer of the model. */
#ifndef SCORE_H
#define SCORE_H

#include "cli.h"
#include "statistics.h"

#define SCORE_METHODS 48
#define SCORE_POINTS 4
#define SCORE_FIELDS 6

/* An operating point: how much probability a pass through all layers must be worth. */
typedef struct score_point {
    char name[16];
    double price;
} score_point;

typedef struct score_method {
    char name[40];
    const char *note;  /* what it is, in a few words; "" if the name says it */
    int point;         /* the picks of this point, -1: not picks */
    int needs_answer;  /* an oracle */
    int is_rival;      /* the primary picks are compared with it, too */
} score_method;

typedef struct score_result {
    int chosen, right;       /* index of a run; -1: no answer */
    double calls, positions;
    double seconds;          /* < 0: not timed */
} score_result;

typedef struct score_run {
    int program; /* in the table of programs */
    int calls, right, tokens, limit; /* limit: the answer was cut, its last token did not run */
    double confidence;
} score_run;

typedef struct score_question {
    int index, n_runs, n_prompt;
    double encoder_calls; /* 0 without an encoder */
    score_run *runs;
    score_result *results; /* (n_methods) */
    int *menu;             /* (n_menu) runs */
    double *probability;   /* (n_menu), NULL without a menu head */
    int fields[SCORE_FIELDS]; /* values of score_field_names: texts of the table, -1: none */
} score_question;

/* Distinct texts, numbered in the order they came. */
typedef struct score_texts {
    char **items;
    int n, capacity;
    int *slots; /* hash table of indexes, -1: free */
    int n_slots;
} score_texts;

typedef struct scores {
    int n_layer, n_calls; /* of the model, and of its own program, the identity here */
    int n_menu, n_methods, n_points, feature_calls, k;
    int prompt_calls; /* of each token of a question, where that runs under a program of its own; else 0 */
    score_method methods[SCORE_METHODS];
    score_point points[SCORE_POINTS];
    score_question *questions;
    int n, capacity;
    score_texts programs, texts;
} scores;

/* Takes layers, menu, methods and points from the header. 0, or 1 after a message that begins with `name`. */
int scores_begin(scores *s, const json *header, const char *name);
/* One more record; 0, or 1 after a message that begins with `name`. */
int scores_add(scores *s, const json *record, const char *name);
/* Sorts by index; 1 after a message if a question is there twice. */
int scores_sort(scores *s, const char *name);
void scores_free(scores *s);
/* Reads a whole evaluation file; *header (to be freed) gets its header. */
int scores_read(scores *s, const char *path, json_document **header);

/* The figures of a method. */
typedef struct score_figures {
    int n, right;
    double mean;       /* right answers where they are a mean, else the same */
    statistics_interval accuracy;
    double calls;      /* layer calls per token of the answer */
    double cost;       /* calls over layers */
    statistics_paired paired; /* against the identity, which is method 0 */
    double p;          /* exact McNemar */
    statistics_interval difference;
    double seconds;    /* per question, of those that were timed; < 0: none were */
    int n_timed;
} score_figures;
/* Questions of one value of a field, or of several that stand together: "5", "5-8". */
typedef struct score_bin {
    int field, n_values, n; /* n: questions */
    int values[64];         /* numbers of texts */
    char label[32];
} score_bin;
/* The values of a field in their natural order (numbers by size), put together where there are more than `capacity`;
 * the number of bins, 0 if the file does not have the field. */
int scores_bins(const scores *s, int field, score_bin *bins, int capacity);
int score_bin_has(const score_bin *bin, const score_question *q);
/* Of the questions in a bin, NULL: of all. */
score_figures scores_figures(const scores *s, int method, const score_bin *bin);
extern const char *const score_field_names[SCORE_FIELDS];

/* The number of a program's text, -1 without memory. */
int scores_program(scores *s, const char *text);
/* Executions of a program's layers; 0 if the text is no program. */
int scores_layers(const scores *s, int program, int *times);
/* Picks of the menu at a price: the entry for a question. */
int scores_pick(const scores *s, const score_question *q, double price);
/* Best entries by probability - price * cost, at most k; their number. */
int scores_rank(const double *probability, const double *cost, int n_menu, double price, int k, int *out);
/* What picking at a price gives over all questions. */
typedef struct score_pick {
    double price;
    int right;
    double cost;
    double lower; /* end of the 95 % interval of the right answers' share minus the identity's */
} score_pick;
score_pick scores_at_price(const scores *s, double price);
/* Calls and positions of a method that ran these, in this order, and answered with `chosen`. */
void scores_cost(const scores *s, const score_question *q, const int *runs, int n, score_result *r);

/* What validation questions choose. */
typedef struct score_fit {
    int n, identity_right;
    int has_points;
    /* gain: most right answers at a cost of at most 1. save: least cost of the points whose right answers are not fewer
     * than the identity's by the lower end of the 95 % interval of the paired difference; `gain` if no point is. Of
     * hundreds of points some cheap one has as many as the identity on these questions by luck alone. */
    score_pick gain, save;
    char fixed_gain[600], fixed_save[600]; /* single programs of the menu by the same rules; the identity may be save */
    char fixed_best[600];                  /* ... and at any cost */
    char file[200], questions[24];         /* where from: name, checksum */
    double threshold;       /* of a cascade over the first k picks of `gain` */
    int cascade_programs;   /* k; 0: none */
    int cascade_right;      /* what the fit gives on these questions */
    double cascade_cost;
} score_fit;
int scores_fit(const scores *s, score_fit *fit);
/* The threshold of a cascade over the first picks at a price. */
int scores_fit_cascade(const scores *s, double price, score_fit *fit);
void score_fit_put(FILE *f, const score_fit *fit);
int score_fit_read(score_fit *fit, const json *object, const char *name);

/* Nulls: a point's picks dealt to other questions, see nulls.c. */
#define SCORE_DEALINGS 999
#define SCORE_DEALING_SEED 1
typedef enum score_within { SCORE_AT_RANDOM, SCORE_IN_TASK, SCORE_IN_TASK_AND_LENGTH } score_within;
typedef struct score_null {
    char name[40];          /* "at random", "in task", "in task+steps" */
    int pick;               /* the method whose picks are dealt */
    score_within within;
    score_figures figures;  /* of a dealing on average, its counts rounded */
    statistics_paired pick_paired; /* the picks against it: `corrected` are right with the picks only */
    statistics_interval pick_difference;
    double pick_p;          /* share of dealings as right as the picks, themselves counted in */
    double p;               /* of the difference to the identity, corrected */
} score_null;
/* A primary pick against a rival on the same questions. */
typedef struct score_contest {
    int pick, rival;          /* methods */
    statistics_paired paired; /* `corrected` are right with the pick only */
    statistics_interval difference;
    double raw, p;            /* exact McNemar, and corrected */
} score_contest;
typedef struct score_tests {
    score_contest contests[2 * SCORE_METHODS];
    int n_contests;
    score_null nulls[3 * SCORE_POINTS];
    int n_nulls;                /* 0 without a menu and its probabilities */
    const char *task, *length;  /* what the questions of a group have in common; task NULL: the file names none */
    int task_field;             /* its field, -1: none */
    int primary[SCORE_METHODS]; /* the comparison with the identity was named before: its p is not corrected */
    double p[SCORE_METHODS];    /* of the difference to the identity; corrected (Holm) where it is not primary */
    int n_family;               /* how many p values were corrected together */
} score_tests;
/* 0, or 1 after a message. */
int scores_test(const scores *s, score_tests *t);

/* The summary as JSON object, and as a table of at most 80 columns. 0, or 1 after a message. */
int scores_put(FILE *f, const scores *s);
int scores_print(FILE *f, const scores *s);

#endif /* SCORE_H */
