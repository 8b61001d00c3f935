/* Statistics and baselines, as statistics.h says. */
#include "statistics.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef MIN
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#endif

#ifdef __GNUC__
static polar_status statistics_fail(polar_error *e, polar_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#endif

static polar_status statistics_fail(polar_error *e, polar_status status, const char *format, ...) {
    va_list arguments;
    if (!e) return status;
    e->status = status;
    va_start(arguments, format);
    vsnprintf(e->message, sizeof e->message, format, arguments);
    va_end(arguments);
    return status;
}

/* A product that no compiler contracts with a sum. */
static double statistics_product(double a, double b) {
    volatile double p = a * b;
    return p;
}

static uint64_t statistics_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* --- intervals and tests -------------------------------------------------------------- */

#define STATISTICS_Z 1.959963984540054 /* 97.5 % of a standard normal variable are below */

/* The p for which |k/n - p| <= z sqrt(p (1 - p) / n): with r = k/n and q = z^2/n
 * (r + q/2 -+ sqrt(q r (1 - r) + q^2/4)) / (1 + q). */
statistics_interval statistics_accuracy(int n_right, int n) {
    statistics_interval i = {0, 1};
    const double r = n > 0 ? (double)n_right / n : 0, q = statistics_product(STATISTICS_Z, STATISTICS_Z) / MAX(n, 1);
    const double half = sqrt(statistics_product(q, statistics_product(r, 1 - r)) + statistics_product(q, q) / 4);
    if (n < 1 || n_right < 0 || n_right > n) return i;
    if (n_right > 0) i.low = MAX((r + q / 2 - half) / (1 + q), 0);
    if (n_right < n) i.high = MIN((r + q / 2 + half) / (1 + q), 1);
    return i;
}

/* Under the hypothesis each of the n = corrected + broken questions falls on either side with probability 1/2:
 * p = 2 sum_{i <= m} C(n, i) 2^-n, where m is the smaller count. The largest term as a product with its exponent
 * apart, the others by C(n, i-1) = C(n, i) i / (n - i + 1). */
double statistics_mcnemar(int corrected, int broken) {
    const int m = MIN(corrected, broken);
    const double n = (double)corrected + broken;
    double sum = 0, term = 1;
    int64_t exponent = -((int64_t)corrected + broken);
    if (m < 0 || n < 1 || corrected == broken) return 1;
    for (int i = 1; i <= m; i++) {
        int e;
        term = frexp(statistics_product(term, (n - m + i) / i), &e);
        exponent += e;
    }
    if (exponent < -1000) return 0;
    term = ldexp(term, (int)exponent);
    for (int i = m; i >= 0 && term > 0; i--) {
        sum += term;
        if (term < statistics_product(sum, 1e-18)) break;
        term = statistics_product(term, i / (n - i + 1));
    }
    return MIN(2 * sum, 1);
}

/* Newcombe 1998 (Statistics in Medicine 17, 2635), method 10: the Wilson intervals of the two accuracies p
 * (second) and r (first), put together as sqrt(u^2 - 2 phi u v + v^2) of their arms u and v, where phi is the
 * correlation of the two, with a continuity correction if it is positive. */
static double statistics_arm(double u, double v, double phi) {
    const double cross = statistics_product(statistics_product(2 * phi, u), v);
    return sqrt(MAX(statistics_product(u, u) - cross + statistics_product(v, v), 0));
}

statistics_interval statistics_difference(const statistics_paired *x) {
    const double a = x->both, b = x->corrected, c = x->broken, d = x->neither, n = a + b + c + d;
    const double scale = statistics_product(statistics_product(a + b, c + d), statistics_product(a + c, b + d));
    double determinant = statistics_product(a, d) - statistics_product(b, c), p, r, phi = 0;
    statistics_interval second, first, i = {-1, 1};
    if (x->both < 0 || x->corrected < 0 || x->broken < 0 || x->neither < 0 || n < 1 || n > INT_MAX) return i;
    second = statistics_accuracy(x->both + x->corrected, (int)n);
    first = statistics_accuracy(x->both + x->broken, (int)n);
    p = (a + b) / n;
    r = (a + c) / n;
    if (determinant > 0) determinant = MAX(determinant - n / 2, 0);
    if (scale > 0) phi = determinant / sqrt(scale);
    i.low = (b - c) / n - statistics_arm(p - second.low, first.high - r, phi);
    i.high = (b - c) / n + statistics_arm(second.high - p, r - first.low, phi);
    return i;
}

/* x^n by squaring. */
static double statistics_power(double x, int n) {
    double power = 1;
    for (; n; n /= 2, x = statistics_product(x, x))
        if (n % 2) power = statistics_product(power, x);
    return power;
}

/* sum_n x^n prod_{k < n} (a + b + k) / (a + 1 + k), of positive terms: the regularized incomplete beta function is
 * I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) times this. */
static double statistics_beta_sum(double x, double a, double b) {
    double term = 1, sum = 0;
    for (int n = 0; term > statistics_product(sum, 1e-17); n++) {
        sum += term;
        term = statistics_product(statistics_product(term, x), (a + b + n) / (a + 1 + n));
    }
    return sum;
}

/* P(|T| >= t) of Student's distribution with nu degrees of freedom: I_x(a, 1/2) = 1 - I_y(1/2, a) with a = nu/2,
 * x = nu / (nu + t^2), y = 1 - x. B(1/2, 1/2) = pi, B(1, 1/2) = 2, B(a + 1, 1/2) = B(a, 1/2) a / (a + 1/2). */
static double statistics_student_p(double t, int nu) {
    const double square = statistics_product(t, t), a = nu / 2.0, x = nu / (nu + square), y = square / (nu + square);
    double beta = nu % 2 ? 3.14159265358979324 : 2, factor;
    for (double b = nu % 2 ? 0.5 : 1; b < a; b++) beta = statistics_product(beta, b / (b + 0.5));
    factor = statistics_product(statistics_power(sqrt(x), nu), sqrt(y)) / beta;
    if (square > 4) return statistics_product(factor / a, statistics_beta_sum(x, a, 0.5));
    return 1 - statistics_product(factor / 0.5, statistics_beta_sum(y, 0.5, a));
}

/* The t that |T| exceeds with probability 0.05. */
static double statistics_student_quantile(int nu) {
    double low = 0, high = 16; /* 12.7 with one degree of freedom, and less with more */
    for (int i = 0; i < 60; i++) {
        const double middle = (low + high) / 2;
        if (statistics_student_p(middle, nu) > 0.05) low = middle;
        else high = middle;
    }
    return high;
}

statistics_mean statistics_student(const double *d, int n) {
    statistics_mean m = {0, 1, {-HUGE_VAL, HUGE_VAL}};
    double squares = 0, error, half;
    for (int i = 0; i < n; i++) m.mean += d[i];
    if (n > 0) m.mean /= n;
    for (int i = 0; i < n; i++) squares += statistics_product(d[i] - m.mean, d[i] - m.mean);
    if (n < 2 || squares - squares != 0) return m;
    error = sqrt(squares / (n - 1) / n);
    half = statistics_product(error, statistics_student_quantile(n - 1));
    m.interval.low = m.mean - half;
    m.interval.high = m.mean + half;
    if (error > 0) m.p = statistics_student_p(fabs(m.mean) / error, n - 1);
    else m.p = m.mean == 0;
    return m;
}

void statistics_holm(const double *p, int n, double *corrected) {
    for (int i = 0; i < n; i++) {
        corrected[i] = p[i];
        for (int j = 0; j < n; j++) {
            int not_below = 0;
            if (p[j] > p[i]) continue;
            for (int k = 0; k < n; k++) not_below += p[k] >= p[j];
            corrected[i] = MAX(corrected[i], MIN(statistics_product(not_below, p[j]), 1));
        }
    }
}

void statistics_permute(int *items, int n, uint64_t *state) {
    for (int i = n - 1; i > 0; i--) {
        const int k = (int)((statistics_random(state) >> 32) * (uint64_t)(i + 1) >> 32), item = items[i];
        items[i] = items[k];
        items[k] = item;
    }
}

/* --- baselines ------------------------------------------------------------------------ */

/* Adds 1 - cos(x, y), where a vector of zeros is like itself and unlike all others. */
static double statistics_change(const float *x, const float *y, int n) {
    double xx = 0, yy = 0, xy = 0;
    for (int i = 0; i < n; i++) {
        xx += statistics_product((double)x[i], (double)x[i]);
        yy += statistics_product((double)y[i], (double)y[i]);
        xy += statistics_product((double)x[i], (double)y[i]);
    }
    if (xx == 0 || yy == 0) return xx != yy;
    return 1 - xy / statistics_product(sqrt(xx), sqrt(yy));
}

typedef struct statistics_tap {
    float *before; /* (n_batch, n_embd) hidden states ahead of the layer */
    double *influence;
    polar_tap tap; /* the caller's */
    void *user;
} statistics_tap;

static int statistics_on_call(void *user, const polar_tap_info *info) {
    statistics_tap *t = user;
    const size_t row = (size_t)info->n_embd;
    for (int i = 0; i < info->n_rows && info->layer >= 0; i++)
        t->influence[info->layer] +=
            statistics_change(t->before + (size_t)i * row, info->hidden + (size_t)i * row, info->n_embd);
    if (t->tap && t->tap(t->user, info)) return 1;
    memcpy(t->before, info->hidden, (size_t)info->n_rows * row * sizeof *t->before);
    return 0;
}

polar_status statistics_influence(const polar_model *model, const int32_t *const *prompts, const int *lengths,
                                  int n_prompts, const polar_session_options *options, double *influence,
                                  polar_error *error) {
    polar_session_options none = {0}, o = options ? *options : none;
    polar_session *session = NULL;
    polar_model_info info;
    polar_status status;
    statistics_tap tap = {NULL, influence, o.tap, o.tap_user};
    double n_positions = 0;
    if (!model || !prompts || !lengths || !influence || n_prompts < 1)
        return statistics_fail(error, POLAR_ARGUMENT, "influence: no prompts");
    polar_model_get_info(model, &info);
    for (int i = 0; i < n_prompts; i++) {
        if (!prompts[i] || lengths[i] < 1)
            return statistics_fail(error, POLAR_ARGUMENT, "influence: prompt %d is empty", i);
        o.n_ctx = i && o.n_ctx > lengths[i] ? o.n_ctx : lengths[i];
    }
    if (!o.n_batch) o.n_batch = 128;
    if (o.n_batch > o.n_ctx) o.n_batch = o.n_ctx;
    o.tap = statistics_on_call;
    o.tap_user = &tap;
    if (o.n_batch < 1) return statistics_fail(error, POLAR_ARGUMENT, "influence: n_batch is %d", o.n_batch);
    tap.before = calloc((size_t)o.n_batch, (size_t)info.n_embd * sizeof *tap.before);
    if (!tap.before) return statistics_fail(error, POLAR_MEMORY, "influence: out of memory");
    for (int i = 0; i < info.n_layer; i++) influence[i] = 0;
    status = polar_session_create(&session, model, NULL, &o, error);
    for (int i = 0; i < n_prompts && !status; i++) {
        status = polar_session_truncate(session, 0, error);
        if (!status) status = polar_session_eval(session, prompts[i], lengths[i], error);
        n_positions += lengths[i];
    }
    for (int i = 0; i < info.n_layer; i++) influence[i] /= n_positions > 1 ? n_positions : 1;
    polar_session_free(session);
    free(tap.before);
    return status;
}

polar_status statistics_skip(const double *influence, int n_layer, int n_calls, polar_program *program,
                             polar_error *error) {
    int path[POLAR_MAX_LAYER], skipped[POLAR_MAX_LAYER] = {0}, n = 0;
    if (!influence || !program || n_layer < 1 || n_layer > POLAR_MAX_LAYER || n_calls < 1)
        return statistics_fail(error, POLAR_ARGUMENT, "skip: %d of %d layers: expected 1.. of 1..%d", n_calls, n_layer,
                    POLAR_MAX_LAYER);
    for (int k = n_layer; k > n_calls; k--) {
        int least = 0;
        while (skipped[least]) least++; /* n_calls >= 1 layers are left */
        for (int i = least + 1; i < n_layer; i++)
            if (!skipped[i] && influence[i] < influence[least]) least = i;
        skipped[least] = 1;
    }
    for (int i = 0; i < n_layer; i++)
        if (!skipped[i]) path[n++] = i;
    return polar_program_from_path(program, n_layer, path, n, n_layer, 1, error);
}

/* The pieces are the skipped and repeated segments, and each other layer by itself. */
polar_status statistics_shuffle(const polar_program *program, uint64_t seed, polar_program *out, polar_error *error) {
    polar_segment pieces[POLAR_MAX_LAYER];
    polar_program p = {0};
    polar_status status;
    int order[POLAR_MAX_LAYER], n = 0, start = 0;
    if (!program || !out) return statistics_fail(error, POLAR_ARGUMENT, "shuffle: no program");
    if ((status = polar_program_validate(program, program->n_layer, error))) return status;
    for (int i = 0; i < program->n_segments; i++) {
        const polar_segment s = program->segments[i];
        const int kept = s.times == 1;
        for (int k = 0; k < (kept ? s.length : 1); k++) {
            pieces[n] = s;
            if (kept) pieces[n].length = 1;
            order[n] = n;
            n++;
        }
    }
    statistics_permute(order, n, &seed);
    p.n_layer = program->n_layer;
    for (int i = 0; i < n; i++) {
        const polar_segment piece = pieces[order[i]];
        polar_segment *last = p.n_segments ? &p.segments[p.n_segments - 1] : NULL;
        if (last && last->times == 1 && piece.times == 1) last->length++; /* one segment for layers that run once */
        else {
            p.segments[p.n_segments] = piece;
            p.segments[p.n_segments++].start = (int16_t)start;
        }
        start += piece.length;
    }
    *out = p;
    return POLAR_OK;
}

/* For qsort: numbers ascending. */
static int compare_numbers(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Mean over the questions of (correct answer: 1, else 0) - price * (cost of all programs that had to run); runs is
 * (n_questions, k), the programs of a question in the order in which a cascade runs them. */
static double cascade_worth(const polar_cascade_run *runs, int n_questions, int k, double threshold, double price) {
    double sum = 0;
    for (int q = 0; q < n_questions; q++, runs += k) { /* runs: those of question q */
        int n_run;
        const int chosen = polar_cascade(runs, k, threshold, &n_run);
        sum += runs[chosen].correct;
        for (int i = 0; i < n_run; i++) sum -= statistics_product(price, runs[i].cost);
    }
    return sum / n_questions;
}

#define CASCADE_TRIES 512 /* thresholds tried; each is a pass over all runs */

/* Tries POLAR_NO_CONFIDENCE, which any answer reaches, and the confidences that occur, from low to high and evenly
 * thinned out to CASCADE_TRIES, since others give the result of one of these; the lowest of the best stays. */
polar_status statistics_cascade(const polar_cascade_run *runs, int n_questions, int k, double price, double *threshold,
                                double *worth, polar_error *error) {
    const size_t n = n_questions > 0 && k > 0 ? (size_t)n_questions * (size_t)k : 0; /* runs of all questions */
    double *values, best; /* (n) thresholds to try, ascending; the worth of the best so far */
    if (!runs || !threshold || !n || !(price - price == 0))
        return statistics_fail(error, POLAR_ARGUMENT, "%d questions with %d programs each", n_questions, k);
    values = n <= (size_t)-1 / sizeof *values ? malloc(n * sizeof *values) : NULL;
    if (!values) return statistics_fail(error, POLAR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) values[i] = runs[i].confidence;
    qsort(values, n, sizeof *values, compare_numbers); /* equal ones are equal numbers: any sort gives the same */
    *threshold = POLAR_NO_CONFIDENCE; /* the first program always */
    best = cascade_worth(runs, n_questions, k, *threshold, price);
    for (size_t t = 0, last = 0; t < CASCADE_TRIES; t++) { /* the answers' own confidences, evenly thinned out */
        const size_t i = n <= CASCADE_TRIES ? t : t * (n - 1) / (CASCADE_TRIES - 1);
        double w;
        if (i >= n || (t && values[i] <= values[last])) continue; /* tried already */
        last = i;
        w = cascade_worth(runs, n_questions, k, values[i], price);
        if (!(w > best)) continue;
        best = w;
        *threshold = values[i];
    }
    if (worth) *worth = best;
    free(values);
    return POLAR_OK;
}
