/* Routers per layer, as router.h says. */
#include "router.h"
#include "statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

/* --- functions that are the same on every machine ------------------------------------------------------------- */

/* e^x = 2^k e^r with r in -ln2/2 .. ln2/2, by its series. */
static double router_exp(double x) {
    double k, r, sum = 1;
    if (x > 700) x = 700;
    if (x < -700) x = -700;
    k = floor(x * 1.4426950408889634 + 0.5);
    r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10;
    for (int i = 14; i > 0; i--) sum = 1 + sum * r / i;
    return ldexp(sum, (int)k);
}

/* ln x = k ln 2 + 2 (s + s^3/3 + ...) with s = (m - 1) / (m + 1), x = m 2^k. */
static double router_log(double x) {
    int k;
    double m = frexp(x, &k), s, square, sum = 0;
    if (m < 0.70710678118654752) {
        m *= 2;
        k--;
    }
    s = (m - 1) / (m + 1);
    square = s * s;
    for (int i = 25; i > 0; i -= 2) sum = sum * square + 1.0 / i;
    return k * 0.69314718055994531 + 2 * s * sum;
}

/* gelu(x) = x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3); *slope is its derivative. */
static double router_gelu(double x, double *slope) {
    const double c = 0.79788456080286536, u = c * (x + 0.044715 * x * x * x);
    const double t = 1 - 2 / (router_exp(2 * u) + 1);
    *slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
    return 0.5 * x * (1 + t);
}

/* 0..1 */
static double router_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

/* --- the network ---------------------------------------------------------------------------------------------- */

size_t router_params(int width) {
    return ((size_t)width + 1) * ROUTER_HIDDEN + (ROUTER_HIDDEN + 1) * ROUTER_OPS;
}

int router_create(router *r, int n_layer, int width) {
    r->n_layer = n_layer;
    r->width = width;
    r->weights = calloc((size_t)n_layer * router_params(width), sizeof *r->weights);
    return r->weights != NULL;
}

void router_free(router *r) {
    free(r->weights);
    r->weights = NULL;
}

int router_pool(const float *hidden, int n, int width, float *windows) {
    const int n_windows = n < ROUTER_WINDOWS ? n : ROUTER_WINDOWS;
    for (int w = 0; w < n_windows; w++) {
        const int from = (int)((int64_t)n * w / n_windows), to = (int)((int64_t)n * (w + 1) / n_windows);
        for (int i = 0; i < width; i++) {
            double sum = 0;
            for (int t = from; t < to; t++) sum += (double)hidden[(size_t)t * (size_t)width + (size_t)i];
            windows[(size_t)w * (size_t)width + (size_t)i] = (float)(sum / (to - from));
        }
    }
    return n_windows;
}

/* Of one window: adds to the logits; `hidden` gets gelu, `slope` its derivatives. */
static void forward(const float *weights, int width, const float *x, double *logits, float *hidden, float *slope) {
    const float *bias = weights + (size_t)width * ROUTER_HIDDEN, *second = bias + ROUTER_HIDDEN;
    memcpy(hidden, bias, ROUTER_HIDDEN * sizeof *hidden);
    for (int i = 0; i < width; i++) {
        const float *row = weights + (size_t)i * ROUTER_HIDDEN, xi = x[i];
        for (int j = 0; j < ROUTER_HIDDEN; j++) hidden[j] += xi * row[j];
    }
    for (int j = 0; j < ROUTER_HIDDEN; j++) {
        double s, g = router_gelu((double)hidden[j], &s);
        hidden[j] = (float)g;
        slope[j] = (float)s;
        for (int c = 0; c < ROUTER_OPS; c++) logits[c] += (double)(hidden[j] * second[j * ROUTER_OPS + c]);
    }
    for (int c = 0; c < ROUTER_OPS; c++) logits[c] += (double)second[ROUTER_HIDDEN * ROUTER_OPS + c];
}

static void mean_logits(const float *weights, int width, const float *windows, int n, double *logits, float *hidden,
                        float *slope) {
    for (int c = 0; c < ROUTER_OPS; c++) logits[c] = 0;
    for (int w = 0; w < n; w++)
        forward(weights, width, windows + (size_t)w * (size_t)width, logits, hidden + w * ROUTER_HIDDEN,
                slope + w * ROUTER_HIDDEN);
    for (int c = 0; c < ROUTER_OPS; c++) logits[c] /= n;
}

void router_logits(const router *r, int layer, const float *windows, int n, double *logits) {
    float hidden[ROUTER_WINDOWS * ROUTER_HIDDEN], slope[ROUTER_WINDOWS * ROUTER_HIDDEN];
    mean_logits(r->weights + (size_t)layer * router_params(r->width), r->width, windows, n, logits, hidden, slope);
}

int router_decide(const router *r, int layer, const float *windows, int n) {
    double logits[ROUTER_OPS];
    int best = 0;
    router_logits(r, layer, windows, n, logits);
    for (int c = 1; c < ROUTER_OPS; c++)
        if (logits[c] > logits[best]) best = c;
    return best;
}

/* With L = -w (1 - p)^2 ln p and p = softmax(z)_y:
 * dL/dz_c = w (2 (1 - p) p ln p - (1 - p)^2) (1[c = y] - softmax(z)_c). */
double router_gradient(const float *weights, int width, const float *windows, int n, int op, double weight,
                       float *gradient) {
    float hidden[ROUTER_WINDOWS * ROUTER_HIDDEN], slope[ROUTER_WINDOWS * ROUTER_HIDDEN];
    const size_t first = (size_t)width * ROUTER_HIDDEN;
    const float *second = weights + first + ROUTER_HIDDEN;
    float *g_bias = gradient + first, *g_second = g_bias + ROUTER_HIDDEN;
    double z[ROUTER_OPS], most, sum = 0, p, log_p, factor, rest;
    float dz[ROUTER_OPS];
    mean_logits(weights, width, windows, n, z, hidden, slope);
    most = z[0] > z[1] ? z[0] : z[1];
    most = most > z[2] ? most : z[2];
    for (int c = 0; c < ROUTER_OPS; c++) sum += router_exp(z[c] - most);
    log_p = z[op] - most - router_log(sum);
    p = router_exp(log_p);
    rest = 1 - p;
    factor = weight * (2 * rest * p * log_p - rest * rest);
    for (int c = 0; c < ROUTER_OPS; c++)
        dz[c] = (float)(factor * ((c == op) - router_exp(z[c] - most) / sum) / n);
    for (int w = 0; w < n; w++) {
        const float *x = windows + (size_t)w * (size_t)width, *h = hidden + w * ROUTER_HIDDEN;
        float dh[ROUTER_HIDDEN];
        for (int j = 0; j < ROUTER_HIDDEN; j++) {
            float s = 0;
            for (int c = 0; c < ROUTER_OPS; c++) {
                s += dz[c] * second[j * ROUTER_OPS + c];
                g_second[j * ROUTER_OPS + c] += dz[c] * h[j];
            }
            dh[j] = s * slope[w * ROUTER_HIDDEN + j];
            g_bias[j] += dh[j];
        }
        for (int c = 0; c < ROUTER_OPS; c++) g_second[ROUTER_HIDDEN * ROUTER_OPS + c] += dz[c];
        for (int i = 0; i < width; i++) {
            float *row = gradient + (size_t)i * ROUTER_HIDDEN;
            const float xi = x[i];
            for (int j = 0; j < ROUTER_HIDDEN; j++) row[j] += xi * dh[j];
        }
    }
    return -weight * rest * rest * log_p;
}

/* --- training ------------------------------------------------------------------------------------------------- */

typedef struct training {
    router *r;
    const router_example *examples;
    int n, n_trained; /* the others are held out */
    router_options o;
    double weights[ROUTER_OPS]; /* of the classes */
    double *losses;   /* (n_layer) of the epochs that were kept */
    int *failed;      /* (n_layer) */
} training;

/* One layer's: all of them one block. */
typedef struct state {
    float *mean, *deviation; /* (width) of the inputs over the examples that are trained on */
    float *w, *best, *gradient, *m, *v;
    float *x; /* (8, width) */
} state;

static const float *windows_of(const training *t, int example, int layer) {
    const router_example *e = &t->examples[example];
    return e->windows + (size_t)layer * (size_t)e->n * (size_t)t->r->width;
}

/* Inputs of mean 0 and variance 1, which the first matrix takes over afterwards. */
static void standardize(const training *t, int layer, state *s) {
    const int width = t->r->width;
    for (int i = 0; i < width; i++) {
        double sum = 0, squares = 0, n = 0, mean;
        for (int e = 0; e < t->n_trained; e++)
            for (int w = 0; w < t->examples[e].n; w++, n++)
                sum += (double)windows_of(t, e, layer)[(size_t)w * (size_t)width + (size_t)i];
        mean = sum / n;
        for (int e = 0; e < t->n_trained; e++)
            for (int w = 0; w < t->examples[e].n; w++) {
                const double d = (double)windows_of(t, e, layer)[(size_t)w * (size_t)width + (size_t)i] - mean;
                squares += d * d;
            }
        s->mean[i] = (float)mean;
        s->deviation[i] = squares > 0 ? (float)sqrt(squares / n) : 1;
    }
}

static double example_loss(const training *t, int layer, int example, state *s) {
    const router_example *e = &t->examples[example];
    const float *x = windows_of(t, example, layer);
    const int width = t->r->width, op = e->ops[layer];
    for (int w = 0; w < e->n; w++)
        for (int i = 0; i < width; i++)
            s->x[w * width + i] = (x[(size_t)w * (size_t)width + (size_t)i] - s->mean[i]) / s->deviation[i];
    return router_gradient(s->w, width, s->x, e->n, op, t->weights[op], s->gradient);
}

/* w <- w - lr (m / (1 - 0.9^k) / (sqrt(v / (1 - 0.999^k)) + 1e-8) + decay w) in step k, with running means m of the
 * gradient and v of its square. */
static void adamw(const training *t, state *s, size_t n, int batch, double *power1, double *power2) {
    const double lr = t->o.lr;
    *power1 *= 0.9;
    *power2 *= 0.999;
    for (size_t i = 0; i < n; i++) {
        const double g = (double)s->gradient[i] / batch;
        s->m[i] = (float)(0.9 * (double)s->m[i] + 0.1 * g);
        s->v[i] = (float)(0.999 * (double)s->v[i] + 0.001 * g * g);
        s->w[i] -= (float)(lr * ((double)s->m[i] / (1 - *power1) / (sqrt((double)s->v[i] / (1 - *power2)) + 1e-8) +
                                 t->o.decay * (double)s->w[i]));
    }
}

static void begin_weights(float *w, int width, uint64_t *seed) {
    const size_t first = ((size_t)width + 1) * ROUTER_HIDDEN, n = router_params(width);
    for (size_t i = 0; i < n; i++) /* uniform, as wide as 1 / sqrt(inputs) */
        w[i] = (float)((2 * router_random(seed) - 1) / sqrt(i < first ? (double)width : (double)ROUTER_HIDDEN));
}

static void train_layer(void *context, int layer, int worker) {
    training *t = context;
    const int width = t->r->width;
    const size_t n = router_params(width);
    const size_t floats = 5 * n + (size_t)(2 + ROUTER_WINDOWS) * (size_t)width;
    float *memory = calloc(floats, sizeof *memory), *out = t->r->weights + (size_t)layer * n;
    int *order = malloc((size_t)t->n * sizeof *order);
    uint64_t seed = t->o.seed + (uint64_t)layer * 0x9E3779B97F4A7C15u;
    double power1 = 1, power2 = 1, least = HUGE_VAL;
    state s;
    (void)worker;
    t->failed[layer] = !memory || !order;
    if (t->failed[layer]) goto done;
    s.w = memory, s.best = memory + n, s.gradient = memory + 2 * n, s.m = memory + 3 * n, s.v = memory + 4 * n;
    s.mean = memory + 5 * n, s.deviation = s.mean + width, s.x = s.deviation + width;
    standardize(t, layer, &s);
    begin_weights(s.w, width, &seed);
    for (int i = 0; i < t->n; i++) order[i] = i;
    for (int epoch = 0; epoch < t->o.n_epochs; epoch++) {
        double loss = 0, held = 0;
        statistics_permute(order, t->n_trained, &seed);
        for (int i = 0; i < t->n_trained; i += t->o.batch) {
            const int batch = t->n_trained - i < t->o.batch ? t->n_trained - i : t->o.batch;
            memset(s.gradient, 0, n * sizeof *s.gradient);
            for (int k = 0; k < batch; k++) loss += example_loss(t, layer, order[i + k], &s);
            adamw(t, &s, n, batch, &power1, &power2);
        }
        for (int i = t->n_trained; i < t->n; i++) held += example_loss(t, layer, i, &s);
        loss = t->n_trained < t->n ? held / (t->n - t->n_trained) : loss / t->n_trained;
        if (t->n_trained < t->n && !(loss < least)) continue;
        least = loss;
        memcpy(s.best, s.w, n * sizeof *s.best);
    }
    t->losses[layer] = least;
    /* (x - mean) / deviation W + a = x (W / deviation) + a - (mean / deviation) W */
    memcpy(out, s.best, n * sizeof *out);
    for (int j = 0; j < ROUTER_HIDDEN; j++) {
        double bias = (double)s.best[(size_t)width * ROUTER_HIDDEN + (size_t)j];
        for (int i = 0; i < width; i++) {
            const size_t at = (size_t)i * ROUTER_HIDDEN + (size_t)j;
            const double w = (double)s.best[at] / (double)s.deviation[i];
            bias -= (double)s.mean[i] * w;
            out[at] = (float)w;
        }
        out[(size_t)width * ROUTER_HIDDEN + (size_t)j] = (float)bias;
    }
done:
    free(memory);
    free(order);
}

/* (1 - 0.999) / (1 - 0.999^n) for each operation that occurs. */
static void weigh(training *t) {
    double sum = 0;
    int n_classes = 0;
    for (int c = 0; c < ROUTER_OPS; c++) {
        int n = 0;
        double power = 1;
        for (int e = 0; e < t->n_trained; e++)
            for (int i = 0; i < t->r->n_layer; i++) n += t->examples[e].ops[i] == c;
        for (int i = 0; i < n && power > 1e-20; i++) power *= 0.999;
        t->weights[c] = n ? 0.001 / (1 - power) : 0;
        sum += t->weights[c];
        n_classes += n > 0;
    }
    for (int c = 0; c < ROUTER_OPS; c++) t->weights[c] = n_classes ? t->weights[c] * n_classes / sum : 0;
}

int router_train(router *r, const router_example *examples, int n, const router_options *options,
                 const polar_runner *runner, double *loss) {
    training t = {r, examples, n, n, {25, 32, 1e-3, 0.01, 0.1, 0}, {0}, NULL, NULL};
    int ok;
    if (options) t.o = *options;
    if (t.o.held_out > 0 && n > 1) t.n_trained = n - (int)(n * t.o.held_out);
    t.losses = calloc((size_t)r->n_layer, sizeof *t.losses);
    t.failed = calloc((size_t)r->n_layer, sizeof *t.failed);
    ok = n > 0 && t.losses && t.failed;
    if (ok) {
        weigh(&t);
        runner->run(runner->user, r->n_layer, train_layer, &t);
    }
    if (loss) *loss = 0;
    for (int i = 0; i < r->n_layer && ok; i++) {
        if (t.failed[i]) ok = 0;
        if (loss) *loss += t.losses[i] / r->n_layer;
    }
    free(t.losses);
    free(t.failed);
    return ok;
}
