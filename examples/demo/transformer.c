/* The transformer of the demo's trainer: see transformer.h. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "transformer.h"
#include "story.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* --- the model ------------------------------------------------------------------------------------------ */

void *make(size_t n) {
    void *p = NULL;
    if (posix_memalign(&p, 64, n ? n : 64)) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    memset(p, 0, n);
    return p;
}

float *make_floats(size_t n) {
    return make((n + 64) * sizeof(float));
}

static void add_tensor(model *m, tensor *t, int rows, int cols) {
    t->rows = rows, t->cols = cols;
    t->at = m->n_params;
    m->n_params += (size_t)rows * (size_t)cols;
    if (cols > 1) {
        t->packed = m->n_packed;
        m->n_packed += 2 * (size_t)rows * (size_t)cols;
    }
    m->tensors[m->n_tensors++] = t;
}


float random_normal(uint64_t *state) {
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += (float)(story_random(state) >> 40) / 16777216.0f;
    return sum - 6;
}

static void draw_weights(model *m, uint64_t seed) {
    uint64_t state = seed;
    for (int i = 0; i < m->n_tensors; i++) {
        const tensor *t = m->tensors[i];
        float *w = m->param + t->at, deviation = 1 / sqrtf((float)t->rows);
        int into = 0; /* the residual stream: smaller, since many add up */
        for (int l = 0; l < m->n_layer; l++) into |= t == &m->layers[l].out || t == &m->layers[l].down;
        if (into) deviation /= sqrtf(2 * (float)m->n_layer);
        if (t == &m->embedding) deviation = 0.1f;
        for (size_t k = 0; k < (size_t)t->rows * (size_t)t->cols; k++)
            w[k] = t->cols == 1 ? 1 : deviation * random_normal(&state);
    }
    for (int i = m->n_vocab * m->width; i < m->padded_vocab * m->width; i++) m->param[m->embedding.at + (size_t)i] = 0;
}

void model_make(model *m, int n_layer, int width, int n_ff, int n_vocab, uint64_t seed) {
    const int d = width, ff = n_ff;
    m->n_layer = n_layer, m->width = d, m->n_head = d / HEAD, m->n_ff = ff;
    m->n_vocab = n_vocab;
    m->padded_vocab = (n_vocab + 31) / 32 * 32;
    add_tensor(m, &m->embedding, m->padded_vocab, d);
    for (int i = 0; i < m->n_layer; i++) {
        layer *l = &m->layers[i];
        add_tensor(m, &l->norm1, d, 1);
        add_tensor(m, &l->qkv, d, 3 * d);
        add_tensor(m, &l->out, d, d);
        add_tensor(m, &l->norm2, d, 1);
        add_tensor(m, &l->gate_up, d, 2 * ff);
        add_tensor(m, &l->down, ff, d);
    }
    add_tensor(m, &m->norm, d, 1);
    m->param = make_floats(m->n_params);
    m->m1 = make_floats(m->n_params);
    m->m2 = make_floats(m->n_params);
    m->packed = make(m->n_packed * sizeof(gemm_unit));
    for (int p = 0; p < MAX_CONTEXT; p++)
        for (int i = 0; i < HEAD / 2; i++) {
            const double angle = p * pow(ROPE_BASE, -2.0 * i / HEAD);
            m->cosine[p][i] = (float)cos(angle), m->sine[p][i] = (float)sin(angle);
        }
    draw_weights(m, seed);
}

void model_pack(model *m, const tensor *t) {
    const size_t n = (size_t)t->rows * (size_t)t->cols;
    if (t->cols == 1) return;
    gemm_pack(m->param + t->at, t->rows, t->cols, m->packed + t->packed);
    gemm_pack_transposed(m->param + t->at, t->rows, t->cols, m->packed + t->packed + n);
}

/* --- a batch -------------------------------------------------------------------------------------------- */

void batch_begin(batch *b) {
    b->n = b->n_marks = b->n_questions = 0;
}

void batch_add(batch *b, const int *tokens, int n, int from, int to, int branch) {
    for (int i = 0; i < n; i++, b->n++) {
        b->token[b->n] = tokens[i];
        b->from[b->n] = from;
        b->to[b->n] = branch < 0 ? b->n + 1 : to;
        b->branch[b->n] = branch;
        b->position[b->n] = branch < 0 ? b->n - from : to - from + b->n - branch;
    }
}

void batch_mark(batch *b, int at, int target, float weight) {
    const mark k = {at, target, b->n_questions, weight};
    b->marks[b->n_marks++] = k;
}

void batch_end(batch *b) {
    while (b->n % GEMM_ROWS) {
        b->token[b->n] = b->position[b->n] = 0;
        b->from[b->n] = b->n, b->to[b->n] = b->n + 1, b->branch[b->n] = -1;
        b->n++;
    }
}

void batch_ask(batch *b, int task, int steps) {
    const asked q = {task, steps, 0};
    b->questions[b->n_questions++] = q;
}

int batch_has_room(const batch *b, int tokens, int marks) {
    return b->n + tokens <= MAX_TOKENS - GEMM_ROWS && b->n_marks + marks <= MAX_MARKS - GEMM_ROWS &&
           b->n_questions < MAX_MARKS;
}

void pass_make(pass *w, const model *m) {
    const size_t n = MAX_TOKENS, d = (size_t)m->width, ff = (size_t)m->n_ff;
    w->m = m;
    for (int i = 0; i <= MAX_CALLS; i++) {
        call *c = &w->calls[i];
        c->x = make_floats(n * d);
        if (i == MAX_CALLS) break;
        c->normed1 = make_floats(n * d), c->qkv = make_floats(n * 3 * d), c->attended = make_floats(n * d);
        c->x2 = make_floats(n * d), c->normed2 = make_floats(n * d), c->gate_up = make_floats(n * 2 * ff);
        c->hidden = make_floats(n * ff), c->scale1 = make_floats(n), c->scale2 = make_floats(n);
        c->total = make_floats(n * (size_t)m->n_head);
    }
    w->grad = make_floats(m->n_params);
    w->copy = make((GEMM_BLOCK * (4096 + (size_t)m->padded_vocab) + MAX_TOKENS * (2 * ff + 3 * d)) * sizeof(gemm_unit));
    w->dx = make_floats(n * d), w->d1 = make_floats(n * d), w->d2 = make_floats(n * d);
    w->dqkv = make_floats(n * 3 * d), w->dgate_up = make_floats(n * 2 * ff), w->dhidden = make_floats(n * ff);
    w->columns = make_floats(2 * (n + 32) * d);
    w->logits = make_floats((size_t)MAX_MARKS * (size_t)m->padded_vocab);
    w->final = make_floats(MAX_MARKS * d), w->dfinal = make_floats(MAX_MARKS * d),
    w->final_scale = make_floats(MAX_MARKS);
}

/* --- norm ----------------------------------------------------------------------------------------------- */

/* out = x / rms(x) * gain; scale = 1 / rms(x). */
static void norm_forward(const float *x, const float *gain, int n, int d, float *out, float *scale) {
    for (int t = 0; t < n; t++, x += d, out += d) {
        float sum = 0;
        for (int i = 0; i < d; i++) sum += x[i] * x[i];
        const float s = 1 / sqrtf(sum / (float)d + NORM_EPS);
        for (int i = 0; i < d; i++) out[i] = x[i] * s * gain[i];
        scale[t] = s;
    }
}

/* dx += gradient; dgain += gradient. With y = x s: dx = s (dy - y mean(dy y)). */
static void norm_backward(const float *x, const float *gain, const float *scale, const float *dout, int n, int d,
                          float *dx, float *dgain) {
    for (int t = 0; t < n; t++, x += d, dout += d, dx += d) {
        const float s = scale[t];
        float mean = 0;
        for (int i = 0; i < d; i++) mean += dout[i] * gain[i] * x[i] * s;
        mean /= (float)d;
        for (int i = 0; i < d; i++) {
            dgain[i] += dout[i] * x[i] * s;
            dx[i] += s * (dout[i] * gain[i] - x[i] * s * mean);
        }
    }
}

/* --- attention ------------------------------------------------------------------------------------------ */

/* e^x within 1e-7 relative, for x <= 0. */
static inline float fast_exp(float x) {
    const float t = (x < -87 ? -87 : x) * 1.44269504f, r = rintf(t), f = t - r;
    const float p = 1 + f * (0.693147182f + f * (0.240226462f + f * (0.0555032869f + f * (0.00961851f +
                    f * (0.00133987f + f * 0.00015463f)))));
    union {
        int i;
        float f;
    } u = {((int)r + 127) << 23};
    return p * u.f;
}

/* Turns pairs of q and k of all tokens by their position; direction -1 turns back. */
static void rotate(const model *m, const batch *b, float *qkv, float direction) {
    const int d = m->width, pairs = HEAD / 2;
    for (int t = 0; t < b->n; t++) {
        const float *c = m->cosine[b->position[t]], *s = m->sine[b->position[t]];
        for (int h = 0; h < 2 * m->n_head; h++) {
            float *x = qkv + (size_t)t * 3 * (size_t)d + h * HEAD;
            for (int i = 0; i < pairs; i++) {
                const float x0 = x[2 * i], x1 = x[2 * i + 1], sine = direction * s[i];
                x[2 * i] = x0 * c[i] - x1 * sine;
                x[2 * i + 1] = x0 * sine + x1 * c[i];
            }
        }
    }
}

/* Columns of k (offset d) or v (2 d): (width, stride) so that neighbours are tokens. */
enum { STRIDE = MAX_TOKENS + 32 };

static void transpose(const model *m, int n, const float *qkv, int offset, float *out) {
    const int d = m->width;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < d; i++) out[i * STRIDE + t] = qkv[t * 3 * d + offset + i];
}

/* out[j - from] = x . column j, for from <= j < to; up to GEMM_WIDTH - 1 more numbers are written. */
static inline void dots(const float *x, const float *columns, int from, int to, float *out) {
    for (int j = from; j < to; j += GEMM_WIDTH) {
        gemm_vec sum[4] = {{0}, {0}, {0}, {0}};
        const float *c = columns + j;
        for (int i = 0; i < HEAD; i += 4, c += 4 * STRIDE) {
            sum[0] += x[i] * *(const gemm_mem *)c;
            sum[1] += x[i + 1] * *(const gemm_mem *)(c + STRIDE);
            sum[2] += x[i + 2] * *(const gemm_mem *)(c + 2 * STRIDE);
            sum[3] += x[i + 3] * *(const gemm_mem *)(c + 3 * STRIDE);
        }
        *(gemm_mem *)(out + j - from) = sum[0] + sum[1] + (sum[2] + sum[3]);
    }
}

/* The same over what token t sees; returns how many. */
static inline int dots_seen(const batch *b, int t, const float *x, const float *columns, float *out) {
    const int n = b->to[t] - b->from[t], own = b->branch[t] < 0 ? 0 : t + 1 - b->branch[t];
    dots(x, columns, b->from[t], b->to[t], out);
    if (own) dots(x, columns, b->branch[t], t + 1, out + n);
    return n + own;
}

enum { LANES = HEAD / GEMM_WIDTH }; /* vectors of a head */

/* sum += p[j - from] times row j of v, which has the given stride. */
static inline void mix(const float *p, const float *v, size_t stride, int from, int to, gemm_vec *sum) {
    gemm_vec even[LANES], odd[LANES] = {{0}};
    int j = from;
    memcpy(even, sum, sizeof even);
    for (; j + 1 < to; j += 2) {
        const gemm_mem *v0 = (const gemm_mem *)(v + (size_t)j * stride),
                       *v1 = (const gemm_mem *)(v + (size_t)(j + 1) * stride);
        GEMM_UNROLL
        for (int i = 0; i < LANES; i++) even[i] += p[j - from] * v0[i], odd[i] += p[j + 1 - from] * v1[i];
    }
    if (j < to) {
        const gemm_mem *v0 = (const gemm_mem *)(v + (size_t)j * stride);
        GEMM_UNROLL
        for (int i = 0; i < LANES; i++) even[i] += p[j - from] * v0[i];
    }
    for (int i = 0; i < LANES; i++) sum[i] = even[i] + odd[i];
}

/* Adds to the rows of dk and dv what the query with these p and ds leaves there. */
static inline void spread(const float *p, const float *ds, const float *q, const float *dout, size_t stride, int from,
                          int to, float *dk, float *dv) {
    gemm_vec vq[LANES], vo[LANES];
    for (int i = 0; i < LANES; i++) vq[i] = ((const gemm_mem *)q)[i], vo[i] = ((const gemm_mem *)dout)[i];
    for (int j = from; j < to; j++) {
        gemm_mem *k = (gemm_mem *)(dk + (size_t)j * stride), *v = (gemm_mem *)(dv + (size_t)j * stride);
        GEMM_UNROLL
        for (int i = 0; i < LANES; i++) k[i] += ds[j - from] * vq[i], v[i] += p[j - from] * vo[i];
    }
}

static void attention_forward_row(pass *w, const call *c, int t, int h) {
    const batch *b = &w->b;
    const size_t d = (size_t)w->m->width, stride = 3 * d, at = (size_t)(h * HEAD);
    const float scale = 1 / sqrtf(HEAD), *v = c->qkv + 2 * d + at;
    float *p = w->row[0], *out = c->attended + (size_t)t * d + at, most = -1e30f, sum = 0;
    gemm_vec acc[LANES] = {{0}};
    const int n = dots_seen(b, t, c->qkv + (size_t)t * stride + at, w->columns + at * STRIDE, p),
              in_story = b->to[t] - b->from[t];
    for (int j = 0; j < n; j++) most = p[j] > most ? p[j] : most;
    for (int j = 0; j < n; j++) p[j] = fast_exp((p[j] - most) * scale), sum += p[j];
    c->total[h * MAX_TOKENS + t] = most * scale + logf(sum);
    mix(p, v, stride, b->from[t], b->to[t], acc);
    if (n > in_story) mix(p + in_story, v, stride, b->branch[t], t + 1, acc);
    for (int i = 0; i < LANES; i++) ((gemm_mem *)out)[i] = acc[i] / sum;
}

static void attention_forward(pass *w, const call *c) {
    transpose(w->m, w->b.n, c->qkv, w->m->width, w->columns);
    for (int h = 0; h < w->m->n_head; h++)
        for (int t = 0; t < w->b.n; t++) attention_forward_row(w, c, t, h);
}

/* dqkv of one token and head: p from the scores anew, ds = p (dp - sum of p dp) / sqrt(head). */
static void attention_backward_row(pass *w, const call *c, int t, int h, const float *dout) {
    const batch *b = &w->b;
    const size_t d = (size_t)w->m->width, stride = 3 * d, at = (size_t)(h * HEAD);
    const float scale = 1 / sqrtf(HEAD), total = c->total[h * MAX_TOKENS + t];
    const float *q = c->qkv + (size_t)t * stride + at, *k = c->qkv + d + at, *columns = w->columns + at * STRIDE;
    float *p = w->row[0], *ds = w->row[1], *dq = w->dqkv + (size_t)t * stride + at, *dk = w->dqkv + d + at, sum = 0;
    gemm_vec acc[LANES] = {{0}};
    const int n = dots_seen(b, t, q, columns, p), in_story = b->to[t] - b->from[t];
    dots_seen(b, t, dout, columns + d * STRIDE, ds);
    for (int j = 0; j < n; j++) p[j] = fast_exp(p[j] * scale - total), sum += p[j] * ds[j];
    for (int j = 0; j < n; j++) ds[j] = p[j] * (ds[j] - sum) * scale;
    mix(ds, k, stride, b->from[t], b->to[t], acc);
    spread(p, ds, q, dout, stride, b->from[t], b->to[t], dk, dk + d);
    if (n > in_story) {
        mix(ds + in_story, k, stride, b->branch[t], t + 1, acc);
        spread(p + in_story, ds + in_story, q, dout, stride, b->branch[t], t + 1, dk, dk + d);
    }
    for (int i = 0; i < LANES; i++) ((gemm_mem *)dq)[i] += acc[i];
}

static void attention_backward(pass *w, const call *c, const float *dout) {
    const model *m = w->m;
    const int d = m->width;
    transpose(m, w->b.n, c->qkv, d, w->columns);
    transpose(m, w->b.n, c->qkv, 2 * d, w->columns + (size_t)d * STRIDE);
    memset(w->dqkv, 0, (size_t)w->b.n * 3 * (size_t)d * sizeof *w->dqkv);
    for (int h = 0; h < m->n_head; h++)
        for (int t = 0; t < w->b.n; t++) attention_backward_row(w, c, t, h, dout + (size_t)t * (size_t)d + h * HEAD);
    rotate(m, &w->b, w->dqkv, -1);
}

/* --- a layer -------------------------------------------------------------------------------------------- */

static void swiglu_forward(const float *gate_up, int n, int ff, float *out) {
    for (int t = 0; t < n; t++, gate_up += 2 * ff, out += ff)
        for (int i = 0; i < ff; i++) {
            const float g = gate_up[i], e = fast_exp(g > 0 ? -g : g), s = (g > 0 ? 1 : e) / (1 + e);
            out[i] = g * s * gate_up[ff + i];
        }
}

static void swiglu_backward(const float *gate_up, const float *dout, int n, int ff, float *dgate_up) {
    for (int t = 0; t < n; t++, gate_up += 2 * ff, dgate_up += 2 * ff, dout += ff)
        for (int i = 0; i < ff; i++) {
            const float g = gate_up[i], e = fast_exp(g > 0 ? -g : g), s = (g > 0 ? 1 : e) / (1 + e);
            dgate_up[i] = dout[i] * gate_up[ff + i] * s * (1 + g * (1 - s));
            dgate_up[ff + i] = dout[i] * g * s;
        }
}

/* y (+)= x w */
static void matrix_forward(const pass *w, const tensor *t, const float *x, float *y, int add) {
    gemm(w->b.n, t->cols, t->rows, x, w->m->packed + t->packed, y, add, w->copy);
}

/* dx = dy w', dw += x' dy */
static void matrix_backward(pass *w, const tensor *t, const float *x, const float *dy, float *dx) {
    gemm(w->b.n, t->rows, t->cols, dy, w->m->packed + t->packed + (size_t)t->rows * (size_t)t->cols, dx, 0, w->copy);
    gemm_outer(t->rows, t->cols, w->b.n, x, dy, w->grad + t->at, w->copy);
}

static void layer_forward(pass *w, const layer *l, call *c, float *next) {
    const model *m = w->m;
    const int n = w->b.n, d = m->width;
    const size_t bytes = (size_t)n * (size_t)d * sizeof(float);
    norm_forward(c->x, m->param + l->norm1.at, n, d, c->normed1, c->scale1);
    matrix_forward(w, &l->qkv, c->normed1, c->qkv, 0);
    rotate(m, &w->b, c->qkv, 1);
    attention_forward(w, c);
    memcpy(c->x2, c->x, bytes);
    matrix_forward(w, &l->out, c->attended, c->x2, 1);
    norm_forward(c->x2, m->param + l->norm2.at, n, d, c->normed2, c->scale2);
    matrix_forward(w, &l->gate_up, c->normed2, c->gate_up, 0);
    swiglu_forward(c->gate_up, n, m->n_ff, c->hidden);
    memcpy(next, c->x2, bytes);
    matrix_forward(w, &l->down, c->hidden, next, 1);
}

/* w->dx: gradient of the layer's output, and then of its input. */
static void layer_backward(pass *w, const layer *l, const call *c) {
    const model *m = w->m;
    const int n = w->b.n, d = m->width;
    matrix_backward(w, &l->down, c->hidden, w->dx, w->dhidden);
    swiglu_backward(c->gate_up, w->dhidden, n, m->n_ff, w->dgate_up);
    matrix_backward(w, &l->gate_up, c->normed2, w->dgate_up, w->d1);
    norm_backward(c->x2, m->param + l->norm2.at, c->scale2, w->d1, n, d, w->dx, w->grad + l->norm2.at);
    matrix_backward(w, &l->out, c->attended, w->dx, w->d1);
    attention_backward(w, c, w->d1);
    matrix_backward(w, &l->qkv, c->normed1, w->dqkv, w->d2);
    norm_backward(c->x, m->param + l->norm1.at, c->scale1, w->d2, n, d, w->dx, w->grad + l->norm1.at);
}

/* --- the whole pass ------------------------------------------------------------------------------------- */

/* Logits (n_marks, padded_vocab) of the marked tokens under a path. */
void pass_forward(pass *w, const int *path, int n_path) {
    const model *m = w->m;
    const batch *b = &w->b;
    const int d = m->width, rows = (b->n_marks + GEMM_ROWS - 1) / GEMM_ROWS * GEMM_ROWS;
    const float *last = w->calls[n_path].x;
    for (int t = 0; t < b->n; t++)
        memcpy(w->calls[0].x + (size_t)t * (size_t)d, m->param + m->embedding.at + (size_t)b->token[t] * (size_t)d,
               (size_t)d * sizeof(float));
    for (int i = 0; i < n_path; i++) layer_forward(w, &m->layers[path[i]], &w->calls[i], w->calls[i + 1].x);
    memset(w->final, 0, (size_t)rows * (size_t)d * sizeof(float));
    for (int i = 0; i < b->n_marks; i++)
        norm_forward(last + (size_t)b->marks[i].at * (size_t)d, m->param + m->norm.at, 1, d,
                     w->final + (size_t)i * (size_t)d, w->final_scale + i);
    gemm(rows, m->padded_vocab, d, w->final,
         m->packed + m->embedding.packed + (size_t)m->padded_vocab * (size_t)d, w->logits, 0, w->copy);
}

/* Turns logits into their gradients (of the weighted sum of log losses), and notes which questions are right. */
void pass_loss(pass *w) {
    batch *b = &w->b;
    const int v = w->m->n_vocab, padded = w->m->padded_vocab;
    for (int i = 0; i < b->n_questions; i++) b->questions[i].right = 1;
    for (int i = 0; i < b->n_marks; i++) {
        float *x = w->logits + (size_t)i * (size_t)padded, most = x[0], sum = 0;
        const int target = b->marks[i].target;
        const float weight = b->marks[i].weight, own = x[target];
        for (int k = 1; k < v; k++) most = x[k] > most ? x[k] : most;
        if (own < most) b->questions[b->marks[i].question].right = 0;
        for (int k = 0; k < v; k++) x[k] = fast_exp(x[k] - most), sum += x[k];
        w->loss += (double)weight * (double)(most + logf(sum) - own);
        w->weight += (double)weight;
        for (int k = 0; k < v; k++) x[k] *= weight / sum;
        x[target] -= weight;
        for (int k = v; k < padded; k++) x[k] = 0;
    }
}

void pass_backward(pass *w, const int *path, int n_path) {
    const model *m = w->m;
    const batch *b = &w->b;
    const int d = m->width, rows = (b->n_marks + GEMM_ROWS - 1) / GEMM_ROWS * GEMM_ROWS;
    const float *last = w->calls[n_path].x;
    for (int i = b->n_marks * m->padded_vocab; i < rows * m->padded_vocab; i++) w->logits[i] = 0;
    gemm(rows, d, m->padded_vocab, w->logits, m->packed + m->embedding.packed, w->dfinal, 0, w->copy);
    gemm_outer(m->padded_vocab, d, rows, w->logits, w->final, w->grad + m->embedding.at, w->copy);
    memset(w->dx, 0, (size_t)b->n * (size_t)d * sizeof(float));
    for (int i = 0; i < b->n_marks; i++) {
        const size_t at = (size_t)b->marks[i].at * (size_t)d;
        norm_backward(last + at, m->param + m->norm.at, w->final_scale + i, w->dfinal + (size_t)i * (size_t)d, 1, d,
                      w->dx + at, w->grad + m->norm.at);
    }
    for (int i = n_path - 1; i >= 0; i--) layer_backward(w, &m->layers[path[i]], &w->calls[i]);
    for (int t = 0; t < b->n; t++) {
        float *to = w->grad + m->embedding.at + (size_t)b->token[t] * (size_t)d, *from = w->dx + (size_t)t * (size_t)d;
        for (int i = 0; i < d; i++) to[i] += from[i];
    }
}
/* Floating-point operations of one pass forward and backward, attention included. */
double pass_flops(const pass *w, int n_path) {
    const double d = w->m->width, ff = w->m->n_ff;
    double seen = 0;
    for (int t = 0; t < w->b.n; t++)
        seen += w->b.to[t] - w->b.from[t] + (w->b.branch[t] < 0 ? 0 : t + 1 - w->b.branch[t]);
    return n_path * (w->b.n * 6.0 * (4 * d * d + 3 * d * ff) + 14 * d * seen) +
           6.0 * w->b.n_marks * d * w->m->n_vocab;
}
