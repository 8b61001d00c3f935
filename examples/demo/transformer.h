/* The transformer that train_model trains: llama's form, forward and backward by hand, one batch on one core. */
#ifndef TRANSFORMER_H
#define TRANSFORMER_H
#include "gemm.h"

enum {
    HEAD = 32,        /* width of a head */
    MAX_LAYERS = 16, MAX_CALLS = 40,
    MAX_TOKENS = 384, /* of a batch */
    MAX_MARKS = 320,
    MAX_CONTEXT = 1024
};

#define NORM_EPS 1e-5f
#define ROPE_BASE 10000.0f

/* --- the model ------------------------------------------------------------------------------------------ */

/* A matrix is (rows, cols) with y = x w, the transpose of what GGUF holds. */
typedef struct tensor {
    size_t at;      /* in the vectors of parameters, gradients and moments */
    size_t packed;  /* of a matrix: in the vector of panels; those of the transpose follow */
    int rows, cols; /* cols 1: a vector */
} tensor;

typedef struct layer {
    tensor norm1, qkv, out, norm2, gate_up, down;
} layer;

typedef struct model {
    int n_layer, width, n_head, n_ff, n_vocab, padded_vocab; /* padded to whole panels */
    layer layers[MAX_LAYERS];
    tensor embedding, norm; /* the embedding is the output matrix too */
    tensor *tensors[6 * MAX_LAYERS + 2];
    int n_tensors;
    size_t n_params, n_packed;
    float *param, *m1, *m2; /* m1, m2: moments of the optimizer */
    gemm_unit *packed;
    float cosine[MAX_CONTEXT][HEAD / 2], sine[MAX_CONTEXT][HEAD / 2];
} model;

/* Random weights from the seed. Ends the program if memory does. */
void model_make(model *m, int n_layer, int width, int n_ff, int n_vocab, uint64_t seed);
/* To be called after a tensor's parameters changed. */
void model_pack(model *m, const tensor *t);

/* Zeroed and aligned; ends the program if there is none. */
void *make(size_t bytes);
float *make_floats(size_t n);
/* A sum of uniform numbers, close to normal, of deviation 1. */
float random_normal(uint64_t *state);

/* --- a batch -------------------------------------------------------------------------------------------- */

typedef struct mark {
    int at, target; /* the token after token `at` should be `target` */
    int question;
    float weight;
} mark;

/* What a few marks are about, and whether all of them were predicted. */
typedef struct asked {
    int task, steps, right;
} asked;

/* Token i attends to [from[i], to[i]) and, if branch[i] is not negative, to [branch[i], i]. */
typedef struct batch {
    int n;
    int token[MAX_TOKENS], position[MAX_TOKENS], from[MAX_TOKENS], to[MAX_TOKENS], branch[MAX_TOKENS];
    int n_marks, n_questions;
    mark marks[MAX_MARKS];
    asked questions[MAX_MARKS];
} batch;

void batch_begin(batch *b);
/* Adds tokens: with branch -1 they go on with the sequence that began at `from`; else they are a branch of its part
 * [from, to), which is seen by nobody else. The branch begins at token `branch`, which is b->n. */
void batch_add(batch *b, const int *tokens, int n, int from, int to, int branch);
/* Adds a mark for the question that is added next. */
void batch_mark(batch *b, int at, int target, float weight);
void batch_ask(batch *b, int task, int steps);
/* Whether so many tokens and marks have room, padding included. */
int batch_has_room(const batch *b, int tokens, int marks);
/* Pads to whole tiles. */
void batch_end(batch *b);

/* --- a pass --------------------------------------------------------------------------------------------- */

/* What the backward pass of a call needs; (n, ...) each. */
typedef struct call {
    float *x, *normed1, *qkv, *attended, *x2, *normed2, *gate_up, *hidden, *scale1, *scale2, *total;
} call;

typedef struct pass {
    const model *m;
    batch b;
    float *grad;         /* gradients are added here */
    float *logits;       /* (n_marks, padded_vocab) */
    double loss, weight; /* sums over batches: of weighted log losses, of weights */
    /* inside */
    call calls[MAX_CALLS + 1];
    gemm_unit *copy;
    float *dx, *d1, *d2, *dqkv, *dgate_up, *dhidden, *columns, *final, *dfinal, *final_scale;
    float row[2][MAX_TOKENS + 64];
} pass;

void pass_make(pass *p, const model *m);
/* Logits of the marks of p->b under a path. */
void pass_forward(pass *p, const int *path, int n_path);
/* Turns logits into their gradients, adds to loss and weight, and notes which questions are right. */
void pass_loss(pass *p);
void pass_backward(pass *p, const int *path, int n_path);
/* Floating-point operations of both directions. */
double pass_flops(const pass *p, int n_path);
#endif
