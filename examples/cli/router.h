/* Routers per layer (Dr.LLM, arXiv 2510.12773): for each layer a small network reads the hidden states that enter it,
 * averaged over windows of the prompt, and says whether the layer is skipped, executed or executed twice. On polar.h
 * alone. The same numbers come out on every machine, for any number of threads. */
#ifndef ROUTER_H
#define ROUTER_H

#include "polar.h"

enum { ROUTER_HIDDEN = 128, ROUTER_WINDOWS = 8, ROUTER_OPS = 3 }; /* operations: executions of the layer, 0..2 */

/* weights (n_layer, router_params): of a layer W (width, 128), a (128), V (128, 3), b (3); the logits of a window x are
 * gelu(x W + a) V + b with the tanh form of GELU, and the layer's logits are their mean over the windows. */
typedef struct router {
    int n_layer, width;
    float *weights;
} router;
size_t router_params(int width);
/* With weights of 0. 0 without memory. */
int router_create(router *r, int n_layer, int width);
void router_free(router *r);

/* Means of at most 8 windows of equal length, to one token, of hidden (n, width). Returns their number. */
int router_pool(const float *hidden, int n, int width, float *windows);
/* The logits (3) of a layer for windows (n, width). */
void router_logits(const router *r, int layer, const float *windows, int n, double *logits);
/* The operation with the largest of them, the first of equal ones. */
int router_decide(const router *r, int layer, const float *windows, int n);

/* Adds to `gradient` (router_params) that of the focal loss -weight (1 - p)^2 ln p, where p is the probability of the
 * operation `op` by `weights` of one layer. Returns the loss. */
double router_gradient(const float *weights, int width, const float *windows, int n, int op, double weight,
                       float *gradient);

/* A prompt: windows (n_layer, n, width) of what enters the layers under its path, which does ops (n_layer). */
typedef struct router_example {
    const float *windows;
    const unsigned char *ops;
    int n;
} router_example;
typedef struct router_options {
    int n_epochs, batch; /* 25, 32 */
    double lr, decay;    /* 1e-3, 0.01: AdamW */
    double held_out;     /* 0.1: share of the examples, the last ones, that chooses the epoch; below 0: none */
    uint64_t seed;
} router_options;
/* Trains r, each layer by itself. A class weighs (1 - 0.999) / (1 - 0.999^n) for its n labels in all layers, divided by
 * the mean over the classes. *loss (may be NULL) gets the mean loss of the epochs that were kept. 0 without memory. */
int router_train(router *r, const router_example *examples, int n, const router_options *options,
                 const polar_runner *runner, double *loss);

#endif /* ROUTER_H */
