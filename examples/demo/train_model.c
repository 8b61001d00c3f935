/* Trains the demo's model: a llama-form transformer, forward and backward by hand, AdamW, a worker per core.
 *
 *     cc -O3 -march=native -ffast-math -I. -Iexamples/demo examples/demo/train_model.c \
 *         examples/demo/transformer.c examples/demo/story.c polar.c -o train_model -lpthread -lm
 *     train_model -v vocabulary.gguf -o model.gguf [-c checkpoint] [options]
 *
 * The questions are drawn on the fly and come with a question after each step: a story is read once, and each of its
 * questions is a side branch that sees the story so far and itself. With --dial each micro-batch runs under a program
 * of its own: a middle block is executed 0 to 4 times and the block after it in part, so that the model learns to go
 * on from any depth. It writes a model file in F32 and prints loss, accuracy and speed. --check compares gradients
 * with differences and the exported file with polar's own forward pass. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "examples/cli/gguf_writer.c"
#include "story.h"
#include "transformer.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_WORKERS = 16, MAX_PIECE = 96, BRANCHES = 3, LIMIT = 24 /* steps of the longest story */ };

typedef struct options {
    const char *vocabulary, *out, *checkpoint, *from, *questions;
    int n_layer, width, n_ff, threads, micro_batches, dial, check, tasks, most;
    double minutes, updates, lr, save;
    uint64_t seed;
} options;

/* --- text ----------------------------------------------------------------------------------------------- */

typedef struct lexicon {
    polar_model *vocabulary;
    int box, bos, eos;
    polar_gguf *file;
} lexicon;

/* Tokens of a piece of text, by polar's tokenizer. */
static int tokenize(const lexicon *v, const char *s, int *out) {
    int n = 0;
    if (polar_tokenize(v->vocabulary, s, strlen(s), 0, out, MAX_PIECE, &n, NULL) || n > MAX_PIECE) n = 0;
    return n;
}

static int open_text(lexicon *v, const char *path) {
    polar_model_options o = {0};
    polar_model_info info;
    polar_error e;
    int n;
    o.vocab_only = 1;
    if (polar_model_open(&v->vocabulary, path, &o, &e) || polar_gguf_open(&v->file, path, NULL, &e)) {
        fprintf(stderr, "train_model: %s\n", e.message);
        return 0;
    }
    polar_model_get_info(v->vocabulary, &info);
    v->bos = info.token_bos, v->eos = info.token_eos;
    polar_tokenize(v->vocabulary, STORY_BOX, strlen(STORY_BOX), POLAR_TOKENIZE_SPECIAL, &v->box, 1, &n, NULL);
    return n == 1;
}

/* The question after k steps, as a branch of the story at [from, to), and its answer; of whole ones also the brace and
 * the end. Returns 0 if there is no room. */
static int add_question(batch *b, const lexicon *v, const story *s, int k, int from, int to, int whole) {
    char end[160];
    int tokens[2 * MAX_PIECE], answer[MAX_PIECE], n, n_answer;
    snprintf(end, sizeof end, "%s\n", s->tail);
    n = tokenize(v, end, tokens);
    n_answer = tokenize(v, s->answer[k], answer);
    tokens[n] = v->box;
    if (!batch_has_room(b, n + n_answer + 2, n_answer + 3)) return 0;

    const int first = b->n + n;
    batch_mark(b, first - 1, v->box, 0.1f);
    for (int i = 0; i < n_answer; i++) batch_mark(b, first + i, answer[i], 1);
    for (int i = 0; i < n_answer; i++) tokens[n + 1 + i] = answer[i];
    n += n_answer; /* all but the last are needed, unless the brace is to be learned */
    if (whole) {
        tokenize(v, "}", tokens + ++n);
        batch_mark(b, first + n_answer, tokens[n], 0.1f);
        batch_mark(b, first + n_answer + 1, v->eos, 0.1f);
        n++;
    }
    batch_add(b, tokens, n, from, to, b->n);
    batch_ask(b, s->task, k);
    return 1;
}

/* Opening and steps; ends[k] is where the question after k steps branches off. 0 if there is no room. */
static int add_story(batch *b, const lexicon *v, const story *s, int *ends) {
    int tokens[MAX_PIECE], n;
    const int from = b->n;
    for (int k = 0; k <= s->n_steps; k++) {
        n = tokenize(v, k ? s->step[k - 1] : s->head, tokens);
        if (!batch_has_room(b, n + 1, 0)) return b->n = from, 0;
        if (!k) batch_add(b, &v->bos, 1, from, 0, -1);
        batch_add(b, tokens, n, from, 0, -1);
        ends[k] = b->n;
    }
    return 1;
}

/* The answers so far, to be known where each step ends. */
static void add_states(batch *b, const lexicon *v, const story *s, const int *ends) {
    int answer[MAX_PIECE];
    for (int k = 0; k <= s->n_steps && batch_has_room(b, 0, 1); k++)
        if ((k == 0 || story_set_of(s, k) == STORY_MODEL) && tokenize(v, s->answer[k], answer))
            batch_mark(b, ends[k] - 1, answer[0], 0.5f);
    batch_ask(b, s->task, 0);
}

/* The last question of a story and some of the others, as branches. */
static void add_questions(batch *b, const lexicon *v, const story *s, int from, const int *ends, uint64_t *state) {
    int order[STORY_MAX_STEPS];
    for (int i = 0; i < s->n_steps; i++) {
        const int k = story_below(state, i + 1);
        order[i] = order[k], order[k] = s->n_steps - i;
    }
    for (int i = 0; i < s->n_steps && i < BRANCHES; i++) {
        const int k = i ? order[i] : s->n_steps;
        if (story_set_of(s, k) == STORY_MODEL && !add_question(b, v, s, k, from, ends[k], story_below(state, 4) == 0))
            return;
    }
}

/* Fills a batch with stories of the given numbers of steps until it has `most` tokens, or no room. */
static void draw_batch(batch *b, const lexicon *v, const int *steps, int tasks, int most, uint64_t *state) {
    static const int shares[10] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 3};
    batch_begin(b);
    for (int tries = 0; tries < 2 && b->n < most;) {
        story s;
        int task = shares[story_below(state, 10)], ends[STORY_MAX_STEPS + 1];
        const int from = b->n;
        while (task >= tasks) task = story_below(state, tasks);
        story_make(&s, task, steps[task], STORY_NORMAL, state);
        if (!add_story(b, v, &s, ends)) {
            tries++;
            continue;
        }
        add_states(b, v, &s, ends);
        add_questions(b, v, &s, from, ends, state);
    }
    batch_end(b);
}

/* --- programs ------------------------------------------------------------------------------------------- */

enum { PRELUDE = 2, LOOP = 4 }; /* then the loop, then the rest, of which the last layer is always executed */

/* `executions` of the middle: the loop as a whole some number of times and the first layers of the rest, or, below
 * LOOP of them, only the first layers of the loop. */
static int dial_path(int n_layer, int times, int rest, int part, int *path) {
    int n = 0;
    for (int i = 0; i < PRELUDE; i++) path[n++] = i;
    for (int t = 0; t < times; t++)
        for (int i = 0; i < LOOP; i++) path[n++] = PRELUDE + i;
    for (int i = 0; i < part; i++) path[n++] = PRELUDE + i;
    for (int i = 0; i < rest; i++) path[n++] = PRELUDE + LOOP + i;
    path[n++] = n_layer - 1;
    return n;
}

static int identity_path(int n_layer, int *path) {
    for (int i = 0; i < n_layer; i++) path[i] = i;
    return n_layer;
}

static int draw_path(int n_layer, int dial, uint64_t *state, int *path) {
    const int rest = n_layer - PRELUDE - LOOP - 1;
    if (!dial || story_below(state, 10) < 3) return identity_path(n_layer, path);
    for (;;) {
        const int executions = story_below(state, 4 * LOOP + rest + 1), times = story_below(state, 5);
        const int more = executions - LOOP * times;
        if (executions < LOOP) return dial_path(n_layer, 0, 0, executions, path);
        if (times && more >= 0 && more <= rest) return dial_path(n_layer, times, more, 0, path);
    }
}

/* --- training ------------------------------------------------------------------------------------------- */

struct trainer;

typedef struct worker {
    pass p;
    struct trainer *t;
    int index, n_tokens;
    pthread_t thread;
    double flops;
    long right[STORY_TASKS][LIMIT + 1], asked[STORY_TASKS][LIMIT + 1];           /* under the identity */
    long deep_right[STORY_TASKS][LIMIT + 1], deep_asked[STORY_TASKS][LIMIT + 1]; /* under what is at least as long */
} worker;

typedef struct trainer {
    const options *o;
    model m;
    lexicon text;
    worker *workers;
    int n_workers;
    /* what is saved */
    int64_t update;
    double seconds;
    int steps[STORY_TASKS];                        /* of the stories now */
    long hits[STORY_TASKS], tries[STORY_TASKS];    /* at that length, since it last changed */
    /* of the running update */
    int next, stop;
    double progress, norm[MAX_WORKERS], weight, all_weight, cpu; /* cpu: at the last line */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int waiting, round;
    struct survey *survey;
} trainer;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void barrier(trainer *t) {
    pthread_mutex_lock(&t->lock);
    const int round = t->round;
    if (++t->waiting == t->n_workers) {
        t->waiting = 0, t->round++;
        pthread_cond_broadcast(&t->changed);
    } else
        while (t->round == round) pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

static int take(trainer *t) {
    pthread_mutex_lock(&t->lock);
    const int i = t->next++;
    pthread_mutex_unlock(&t->lock);
    return i;
}

static void count_answers(worker *w, int n_path, int is_identity) {
    for (int i = 0; i < w->p.b.n_questions; i++) {
        const asked *q = &w->p.b.questions[i];
        if (is_identity) w->asked[q->task][q->steps]++, w->right[q->task][q->steps] += q->right;
        if (n_path >= w->p.m->n_layer) w->deep_asked[q->task][q->steps]++, w->deep_right[q->task][q->steps] += q->right;
    }
}

/* What is in micro-batch `index` of an update depends on the seed and these two only. */
static void run_micro_batch(worker *w, const trainer *t, int index) {
    uint64_t state = t->o->seed * 1000003 + (uint64_t)t->update * 64 + (uint64_t)index;
    int path[MAX_CALLS], n_path, identity = 1;
    story_random(&state);
    state = story_random(&state);
    n_path = draw_path(w->p.m->n_layer, t->o->dial, &state, path);
    draw_batch(&w->p.b, &t->text, t->steps, t->o->tasks, MAX_TOKENS - 80, &state);
    pass_forward(&w->p, path, n_path);
    pass_loss(&w->p);
    pass_backward(&w->p, path, n_path);
    w->n_tokens += w->p.b.n;
    w->flops += pass_flops(&w->p, n_path);
    for (int i = 0; i < n_path; i++) identity &= path[i] == i;
    count_answers(w, n_path, identity && n_path == w->p.m->n_layer);
}

/* Sum of the workers' gradients into the first one's, over this worker's share; the others' become 0. */
static double reduce(trainer *t, int index) {
    const size_t n = t->m.n_params, from = n * (size_t)index / (size_t)t->n_workers,
                 to = n * (size_t)(index + 1) / (size_t)t->n_workers;
    float *sum = t->workers[0].p.grad;
    double norm = 0;
    for (int i = 1; i < t->n_workers; i++) {
        float *g = t->workers[i].p.grad;
        for (size_t k = from; k < to; k++) sum[k] += g[k];
        memset(g + from, 0, (to - from) * sizeof *g);
    }
    for (size_t k = from; k < to; k += 4096) {
        float part = 0;
        for (size_t j = k; j < to && j < k + 4096; j++) part += sum[j] * sum[j];
        norm += (double)part;
    }
    return norm;
}

/* Warm-up over 200 updates, then a cosine down to a tenth. */
static double learning_rate(const trainer *t) {
    const double p = t->progress < 1 ? t->progress : 1;
    return t->o->lr * (t->update < 200 ? (double)(t->update + 1) / 200 : 1) *
           (0.1 + 0.45 * (1 + cos(3.14159265358979 * p)));
}

/* AdamW with clipping to norm 1, over the tensors of this worker; the gradients become 0. */
static void adamw(trainer *t, int index) {
    const float b1 = 0.9f, b2 = 0.98f, lr = (float)learning_rate(t);
    double norm = 0;
    for (int i = 0; i < t->n_workers; i++) norm += t->norm[i];
    norm = sqrt(norm) / t->weight;
    const float scale = (float)((norm > 1 ? 1 / norm : 1) / t->weight);
    const float c1 = (float)(1 / (1 - pow(0.9, (double)t->update + 1))),
                c2 = (float)(1 / (1 - pow(0.98, (double)t->update + 1)));
    for (int i = index; i < t->m.n_tensors; i += t->n_workers) {
        const tensor *x = t->m.tensors[i];
        const float decay = x->cols > 1 ? 0.02f * lr : 0;
        float *w = t->m.param + x->at, *g = t->workers[0].p.grad + x->at, *m1 = t->m.m1 + x->at, *m2 = t->m.m2 + x->at;
        for (size_t k = 0; k < (size_t)x->rows * (size_t)x->cols; k++) {
            const float gk = g[k] * scale;
            m1[k] = b1 * m1[k] + (1 - b1) * gk;
            m2[k] = b2 * m2[k] + (1 - b2) * gk * gk;
            w[k] -= lr * m1[k] * c1 / (sqrtf(m2[k] * c2) + 1e-9f) + decay * w[k];
            g[k] = 0;
        }
        model_pack(&t->m, x);
    }
}

static void run_update(worker *w, trainer *t) {
    for (int i; (i = take(t)) < t->o->micro_batches;) run_micro_batch(w, t, i);
    barrier(t);
    if (!w->index) {
        t->weight = 0;
        for (int i = 0; i < t->n_workers; i++) t->weight += t->workers[i].p.weight;
        t->all_weight += t->weight;
    }
    t->norm[w->index] = reduce(t, w->index);
    barrier(t);
    adamw(t, w->index);
    barrier(t);
}

/* One more step for a task of whose longest questions more than 70 % are right. */
static void raise_steps(trainer *t) {
    for (int task = 0; task < t->o->tasks; task++) {
        const int n = t->steps[task];
        for (int i = 0; i < t->n_workers; i++) {
            worker *w = &t->workers[i];
            t->hits[task] += w->deep_right[task][n], t->tries[task] += w->deep_asked[task][n];
            memset(w->deep_right[task], 0, sizeof w->deep_right[task]);
            memset(w->deep_asked[task], 0, sizeof w->deep_asked[task]);
        }
        if (t->tries[task] < 100) continue;
        if (10 * t->hits[task] > 7 * t->tries[task] && n < LIMIT) t->steps[task]++;
        if (10 * t->hits[task] > 9 * t->tries[task] && n + 1 < LIMIT) t->steps[task]++;
        t->hits[task] = t->tries[task] = 0;
    }
}

/* Of a task: the steps of its stories now, and the share of right answers in up to five groups of steps. */
static void print_task(const trainer *t, int task) {
    const int most = t->steps[task], width = (most + 4) / 5;
    printf(" | %d:", most);
    for (int from = 1; from <= most; from += width) {
        long right = 0, n_asked = 0;
        for (int i = 0; i < t->n_workers; i++)
            for (int k = from; k < from + width && k <= LIMIT; k++)
                right += t->workers[i].right[task][k], n_asked += t->workers[i].asked[task][k];
        printf(" %.0f", n_asked ? 100.0 * (double)right / (double)n_asked : 0.0);
    }
}

/* What happened since the last line. */
static void print_line(trainer *t, double elapsed) {
    double loss = 0, flops = 0, cpu = (double)clock() / CLOCKS_PER_SEC;
    int tokens = 0;
    for (int i = 0; i < t->n_workers; i++) {
        worker *w = &t->workers[i];
        loss += w->p.loss, tokens += w->n_tokens, flops += w->flops;
        w->p.loss = w->flops = 0, w->n_tokens = 0;
    }
    printf("%6lld %5.0f s  lr %.5f  loss %.3f  %5.0f tokens/s  %3.0f GFLOP/s (%.0f a CPU second)", (long long)t->update,
           t->seconds, learning_rate(t), loss / t->all_weight, tokens / elapsed, flops / elapsed * 1e-9,
           flops / (cpu - t->cpu) * 1e-9);
    t->all_weight = 0, t->cpu = cpu;
    for (int task = 0; task < t->o->tasks; task++) print_task(t, task);
    for (int i = 0; i < t->n_workers; i++) {
        memset(t->workers[i].right, 0, sizeof t->workers[i].right);
        memset(t->workers[i].asked, 0, sizeof t->workers[i].asked);
    }
    printf("\n");
    fflush(stdout);
}

/* --- checkpoint ----------------------------------------------------------------------------------------- */

static int transfer(FILE *f, int write, void *data, size_t n) {
    return (write ? fwrite(data, 1, n, f) : fread(data, 1, n, f)) == n;
}

/* Weights, moments and the state of the run; weights only for --from. */
static int checkpoint(trainer *t, const char *path, int write, int weights_only) {
    char beside[512];
    const size_t bytes = t->m.n_params * sizeof(float);
    snprintf(beside, sizeof beside, "%s%s", path, write ? ".tmp" : "");
    FILE *f = fopen(beside, write ? "wb" : "rb");
    int ok = f && transfer(f, write, t->m.param, bytes);
    if (ok && !weights_only)
        ok = transfer(f, write, t->m.m1, bytes) && transfer(f, write, t->m.m2, bytes) &&
             transfer(f, write, &t->update, sizeof t->update) && transfer(f, write, &t->seconds, sizeof t->seconds) &&
             transfer(f, write, t->steps, sizeof t->steps) && transfer(f, write, t->hits, sizeof t->hits) &&
             transfer(f, write, t->tries, sizeof t->tries);
    if (f) ok &= fclose(f) == 0;
    return ok && (!write || rename(beside, path) == 0);
}

/* --- export --------------------------------------------------------------------------------------------- */

static void write_part(gguf_writer *w, const model *m, const tensor *t, int from, int to) {
    float *column = make_floats((size_t)t->rows);
    for (int j = from; j < to; j++) {
        for (int i = 0; i < t->rows; i++) column[i] = m->param[t->at + (size_t)i * (size_t)t->cols + (size_t)j];
        gguf_writer_write_f32(w, column, (size_t)t->rows);
    }
    free(column);
}

typedef struct part {
    const char *name;
    const tensor *t;
    int from, to;
} part;

static int layer_parts(const model *m, const layer *l, part *p) {
    const int d = m->width, ff = m->n_ff;
    const part all[] = {{"attn_norm", &l->norm1, 0, 1}, {"attn_q", &l->qkv, 0, d}, {"attn_k", &l->qkv, d, 2 * d},
                        {"attn_v", &l->qkv, 2 * d, 3 * d}, {"attn_output", &l->out, 0, d},
                        {"ffn_norm", &l->norm2, 0, 1}, {"ffn_gate", &l->gate_up, 0, ff},
                        {"ffn_up", &l->gate_up, ff, 2 * ff}, {"ffn_down", &l->down, 0, d}};
    memcpy(p, all, sizeof all);
    return (int)(sizeof all / sizeof *all);
}

static void write_hyperparameters(gguf_writer *w, const model *m) {
    static const char about[] =
        "A small transformer that answers generated questions about cups, swaps, lifts and clocks; "
        "trained with a random depth per batch, for programs of layers.";
    gguf_writer_set_string(w, "general.name", "polar demo", 10);
    gguf_writer_set_string(w, "general.description", about, strlen(about));
    gguf_writer_set_string(w, "general.license", "mit", 3);
    gguf_writer_set_u32(w, "general.file_type", 0);
    gguf_writer_set_u32(w, "llama.vocab_size", (uint32_t)m->n_vocab);
    gguf_writer_set_u32(w, "llama.context_length", 512);
    gguf_writer_set_u32(w, "llama.embedding_length", (uint32_t)m->width);
    gguf_writer_set_u32(w, "llama.block_count", (uint32_t)m->n_layer);
    gguf_writer_set_u32(w, "llama.feed_forward_length", (uint32_t)m->n_ff);
    gguf_writer_set_u32(w, "llama.attention.head_count", (uint32_t)m->n_head);
    gguf_writer_set_u32(w, "llama.attention.head_count_kv", (uint32_t)m->n_head);
    gguf_writer_set_u32(w, "llama.rope.dimension_count", (uint32_t)HEAD);
    gguf_writer_set_f32(w, "llama.rope.freq_base", ROPE_BASE);
    gguf_writer_set_f32(w, "llama.attention.layer_norm_rms_epsilon", NORM_EPS);
}

static int export_model(const trainer *t, const char *path) {
    const model *m = &t->m;
    gguf_writer *w = NULL;
    polar_error e;
    part parts[16];
    char name[64];
    int64_t shape[2] = {m->width, m->n_vocab};
    if (gguf_writer_open(&w, path, NULL, &e)) return fprintf(stderr, "train_model: %s\n", e.message), 0;
    gguf_writer_copy(w, t->text.file);
    write_hyperparameters(w, m);
    gguf_writer_add_tensor(w, "token_embd.weight", 0, 2, shape);
    gguf_writer_add_tensor(w, "output_norm.weight", 0, 1, shape);
    for (int i = 0; i < m->n_layer; i++)
        for (int k = 0, n = layer_parts(m, &m->layers[i], parts); k < n; k++) {
            const int vector = parts[k].t->cols == 1;
            shape[0] = parts[k].t->rows, shape[1] = parts[k].to - parts[k].from;
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, parts[k].name);
            gguf_writer_add_tensor(w, name, 0, vector ? 1 : 2, shape);
        }
    gguf_writer_write_f32(w, m->param + m->embedding.at, (size_t)m->n_vocab * (size_t)m->width);
    gguf_writer_write_f32(w, m->param + m->norm.at, (size_t)m->width);
    for (int i = 0; i < m->n_layer; i++)
        for (int k = 0, n = layer_parts(m, &m->layers[i], parts); k < n; k++)
            write_part(w, m, parts[k].t, parts[k].from, parts[k].to);
    const int ok = gguf_writer_finish(w, &e) == POLAR_OK;
    if (!ok) fprintf(stderr, "train_model: %s\n", e.message);
    gguf_writer_close(w);
    return ok;
}

/* --- the run -------------------------------------------------------------------------------------------- */

static void *work(void *argument) {
    worker *w = argument;
    trainer *t = w->t;
    for (;;) {
        barrier(t);
        if (t->stop) return NULL;
        run_update(w, t);
    }
}

static int save(trainer *t) {
    return (!t->o->checkpoint || checkpoint(t, t->o->checkpoint, 1, 0)) && (!t->o->out || export_model(t, t->o->out));
}

static volatile sig_atomic_t interrupted;

static void interrupt(int signal) {
    interrupted = signal;
}

/* Until the minutes or updates are over, or Ctrl-C; all that is learned is saved. The first worker is this thread. */
static int train(trainer *t) {
    const double every = 20;
    double begun = now(), printed = begun, saved = begun, before = t->seconds;
    int ok = 1;
    for (int i = 1; i < t->n_workers; i++) pthread_create(&t->workers[i].thread, NULL, work, &t->workers[i]);
    while (ok) {
        const double time = now();
        t->seconds = before + time - begun;
        t->progress = t->o->minutes > 0 ? t->seconds / 60 / t->o->minutes : (double)t->update / t->o->updates;
        if (time - printed >= every) print_line(t, time - printed), printed = time;
        if (time - saved > t->o->save) ok = save(t), saved = now();
        t->stop = t->progress >= 1 || !ok || interrupted;
        t->next = 0;
        for (int i = 0; i < t->n_workers; i++) t->workers[i].p.weight = 0;
        barrier(t);
        if (t->stop) break;
        run_update(&t->workers[0], t);
        t->update++;
        raise_steps(t);
    }
    for (int i = 1; i < t->n_workers; i++) pthread_join(t->workers[i].thread, NULL);
    return save(t) && ok;
}

/* --- checks --------------------------------------------------------------------------------------------- */

static double loss_of(worker *w, const int *path, int n_path) {
    w->p.loss = w->p.weight = 0;
    pass_forward(&w->p, path, n_path);
    pass_loss(&w->p);
    return w->p.loss;
}

/* Gradients of each tensor along a random direction, against the difference of the loss. Returns failures. */
static int check_gradients(trainer *t, const int *path, int n_path) {
    model *m = &t->m;
    worker *w = &t->workers[0];
    uint64_t state = 7;
    int bad = 0;
    memset(w->p.grad, 0, m->n_params * sizeof *w->p.grad);
    loss_of(w, path, n_path);
    pass_backward(&w->p, path, n_path);
    for (int i = 0; i < m->n_tensors; i++) {
        const tensor *x = m->tensors[i];
        const size_t n = (size_t)x->rows * (size_t)x->cols;
        float *old = make_floats(n), *direction = make_floats(n);
        const float step = 2e-3f;
        double slope = 0, norm = 0, difference[2];
        memcpy(old, m->param + x->at, n * sizeof *old);
        for (size_t k = 0; k < n; k++) norm += (double)(w->p.grad[x->at + k] * w->p.grad[x->at + k]);
        /* half along the gradient, half random: large enough to be measured, and no component is left out */
        for (size_t k = 0; k < n; k++) {
            direction[k] = w->p.grad[x->at + k] / (float)sqrt(norm + 1e-30) + random_normal(&state) / sqrtf((float)n);
            slope += (double)(direction[k] * w->p.grad[x->at + k]);
        }
        for (int side = 0; side < 2; side++) {
            for (size_t k = 0; k < n; k++) m->param[x->at + k] = old[k] + (side ? step : -step) * direction[k];
            model_pack(m, x);
            difference[side] = loss_of(w, path, n_path);
        }
        memcpy(m->param + x->at, old, n * sizeof *old);
        model_pack(m, x);
        const double found = (difference[1] - difference[0]) / (2 * (double)step);
        if (fabs(found - slope) > 0.02 * fabs(slope) + 0.02) {
            printf("tensor %d (%d, %d): gradient %g, difference %g\n", i, x->rows, x->cols, slope, found);
            bad++;
        }
        free(old), free(direction);
    }
    return bad;
}

/* The logits of whole texts, as polar gives them for the exported file. Returns failures. */
static int check_export(trainer *t, const int *path, int n_path) {
    worker *w = &t->workers[0];
    polar_model *exported = NULL;
    polar_session *session = NULL;
    polar_session_options o = {0};
    polar_error e;
    story s;
    static char shown[8192];
    int tokens[MAX_TOKENS], bad = 0, n = 0;
    uint64_t state = 11;
    o.max_calls = MAX_CALLS, o.kv_type = POLAR_KV_F32, o.n_threads = 1;
    if (polar_model_open(&exported, t->o->out, NULL, &e) || polar_session_create(&session, exported, NULL, &o, &e)) {
        polar_model_close(exported);
        return printf("%s\n", e.message), 1;
    }
    for (int task = 0; task < STORY_TASKS; task++) {
        int ends[STORY_MAX_STEPS + 1];
        double worst = 0;
        story_make(&s, task, 5, STORY_NORMAL, &state);
        batch_begin(&w->p.b);
        add_story(&w->p.b, &t->text, &s, ends);
        add_question(&w->p.b, &t->text, &s, 3, 0, ends[3], 1);
        add_question(&w->p.b, &t->text, &s, 5, 0, ends[5], 0);
        batch_end(&w->p.b);
        pass_forward(&w->p, path, n_path);
        strcpy(shown + story_text(&s, 5, shown, sizeof shown), "\n");
        polar_tokenize(exported, shown, strlen(shown), POLAR_TOKENIZE_BOS, tokens, MAX_TOKENS, &n, NULL);
        tokens[n++] = t->text.box;
        if (polar_session_set_path(session, path, n_path, &e) || polar_session_eval(session, tokens, n, &e)) bad++;
        else {
            int asked_mark = 0; /* the answer of the second question */
            while (w->p.b.marks[asked_mark].question < 1 || w->p.b.marks[asked_mark].weight < 1) asked_mark++;
            const float *ours = w->p.logits + (size_t)asked_mark * (size_t)t->m.padded_vocab,
                        *theirs = polar_session_logits(session, 0);
            for (int k = 0; k < t->m.n_vocab; k++) worst = fmax(worst, fabs((double)(ours[k] - theirs[k])));
            if (!(worst < 1e-3)) bad++;
        }
        printf("%s, %d calls: logits differ by at most %.2g\n", story_task_names[task], n_path, worst);
    }
    polar_session_free(session);
    polar_model_close(exported);
    return bad;
}

static int check(trainer *t) {
    int path[MAX_CALLS] = {0}, bad = 0;
    uint64_t state = 3;
    const int steps[STORY_TASKS] = {4, 4, 4, 4}, n = t->m.n_layer;
    if (!export_model(t, t->o->out)) return 1;
    bad += check_export(t, path, identity_path(n, path));
    bad += check_export(t, path, dial_path(n, 3, 1, 0, path));
    bad += check_export(t, path, dial_path(n, 0, 0, 2, path));
    draw_batch(&t->workers[0].p.b, &t->text, steps, STORY_TASKS, 90, &state);
    bad += check_gradients(t, path, identity_path(n, path));
    bad += check_gradients(t, path, dial_path(n, 2, 1, 0, path));
    printf("%s\n", bad ? "FAILED" : "gradients and exported file agree");
    return bad;
}

/* GFLOP/s of one core on a product whose operands stay in the first cache. */
static double measure_peak(void) {
    enum { K = 64, ROUNDS = 100000 };
    gemm_unit *a = make(GEMM_ROWS * K * sizeof *a), *b = make(GEMM_COLS * K * sizeof *b);
    float *c = make_floats(GEMM_ROWS * GEMM_COLS);
    double best = 0;
    for (int round = 0; round < 5; round++) {
        const double begun = now();
        for (int i = 0; i < ROUNDS; i++) gemm_tile(K, a, K, 1, b, c, GEMM_COLS, 1);
        best = fmax(best, 2.0 * GEMM_DEPTH * K * GEMM_ROWS * GEMM_COLS * ROUNDS / (now() - begun) * 1e-9);
    }
    free(a), free(b), free(c);
    return best;
}

/* --- what programs could bring -------------------------------------------------------------------------- */

enum { MAX_PROGRAMS = 96, MAX_ASKED = 20000 };

/* Which questions of a file each of some programs answers. */
typedef struct survey {
    int n_programs, n_questions, n_layer;
    int length[MAX_PROGRAMS], path[MAX_PROGRAMS][MAX_CALLS];
    char name[MAX_PROGRAMS][32];
    int task[MAX_ASKED], steps[MAX_ASKED];
    uint8_t right[MAX_PROGRAMS][MAX_ASKED];
} survey;

/* Program number n_programs: the block [from, to) of the identity executed `times` times. */
static void add_block(survey *s, int from, int to, int times) {
    int *path = s->path[s->n_programs], length = 0;
    for (int i = 0; i < from; i++) path[length++] = i;
    for (int t = 0; t < times; t++)
        for (int i = from; i < to; i++) path[length++] = i;
    for (int i = to; i < s->n_layer; i++) path[length++] = i;
    s->length[s->n_programs] = length;
    snprintf(s->name[s->n_programs++], 32, "%d-%d x%d", from, to - 1, times);
}

/* The identity, all programs of the dial and of a loop more than it has, and blocks skipped or executed twice. */
static void list_programs(survey *s, int n_layer) {
    const int rest = n_layer - PRELUDE - LOOP - 1;
    s->n_layer = n_layer;
    s->n_programs = 0;
    add_block(s, 0, n_layer, 1);
    for (int times = 0; times <= 5; times++)
        for (int i = 0; i < (times ? rest + 1 : LOOP); i++) {
            const int p = s->n_programs;
            if (times == 1 && i == rest) continue;
            s->length[p] = dial_path(n_layer, times, times ? i : 0, times ? 0 : i, s->path[p]);
            snprintf(s->name[s->n_programs++], 32, "loop x%d and %d more", times, i);
        }
    for (int from = 0; from + LOOP <= n_layer; from += 2)
        for (int times = 0; times <= 2; times += 2) add_block(s, from, from + LOOP, times);
}

/* A question of a file written by `questions`. 0 at the end. */
static int read_question(FILE *f, char *question, size_t size, char *answer, int *task, int *steps) {
    static char line[16384];
    char name[16];
    if (!fgets(line, sizeof line, f)) return 0;
    char *q = strstr(line, "\"question\":\""), *end = q ? strstr(q, "\",\"answer\":\"") : NULL;
    if (!end || sscanf(end, "\",\"answer\":\"%7[^\"]\",\"task\":\"%15[^\"]\",\"steps\":%d", answer, name, steps) != 3)
        return 0;
    *end = 0;
    snprintf(question, size, "%s\n", q + 12);
    for (*task = 0; *task < STORY_TASKS - 1 && strcmp(name, story_task_names[*task]); ++*task) continue;
    return 1;
}

/* Adds a question and its answer, whole; 0 if there is no room. */
static int add_whole(batch *b, const lexicon *v, const char *question, const char *answer, int task, int steps) {
    int tokens[MAX_TOKENS], n_answer, n_brace, n = 0;
    tokens[0] = v->bos;
    if (polar_tokenize(v->vocabulary, question, strlen(question), 0, tokens + 1, MAX_TOKENS - 32, &n, NULL)) return 0;
    if (!batch_has_room(b, n + 16, 8)) return 0;

    const int from = b->n, at = from + n++;
    tokens[n] = v->box;
    batch_mark(b, at, v->box, 1);
    n_answer = tokenize(v, answer, tokens + n + 1);
    n_brace = tokenize(v, "}", tokens + n + 1 + n_answer);
    for (int i = 0; i < n_answer + n_brace; i++) batch_mark(b, at + 1 + i, tokens[n + 1 + i], 1);
    batch_mark(b, at + 1 + n_answer + n_brace, v->eos, 1);
    batch_add(b, tokens, n + 1 + n_answer + n_brace, from, 0, -1);
    batch_ask(b, task, steps);
    return 1;
}

/* A worker's share of the programs on the batch, which is the first worker's. */
static void *survey_share(void *argument) {
    worker *w = argument;
    trainer *t = w->t;
    survey *s = t->survey;
    for (int p = w->index; p < s->n_programs; p += t->n_workers) {
        pass_forward(&w->p, s->path[p], s->length[p]);
        pass_loss(&w->p);
        for (int i = 0; i < w->p.b.n_questions; i++)
            s->right[p][s->n_questions + i] = (uint8_t)w->p.b.questions[i].right;
    }
    return NULL;
}

/* Runs all programs on the batch and notes the results at the end of the survey. */
static void survey_batch(trainer *t) {
    survey *s = t->survey;
    batch *b = &t->workers[0].p.b;
    batch copy;
    batch_end(b);
    copy = *b; /* the shares write into theirs */
    for (int i = 1; i < t->n_workers; i++) {
        t->workers[i].p.b = copy;
        pthread_create(&t->workers[i].thread, NULL, survey_share, &t->workers[i]);
    }
    survey_share(&t->workers[0]);
    for (int i = 1; i < t->n_workers; i++) pthread_join(t->workers[i].thread, NULL);
    for (int i = 0; i < b->n_questions; i++) {
        s->task[s->n_questions + i] = b->questions[i].task;
        s->steps[s->n_questions + i] = b->questions[i].steps;
    }
    s->n_questions += b->n_questions;
    batch_begin(b);
}

/* Share of questions right under program p, of those with the task (-1: all) and steps in [from, to], and of parity
 * `half` (-1: both). */
static double share_right(const survey *s, int p, int task, int from, int to, int half, int *count) {
    int n = 0, right = 0;
    for (int i = 0; i < s->n_questions; i++)
        if ((task < 0 || s->task[i] == task) && s->steps[i] >= from && s->steps[i] <= to && (half < 0 || i % 2 == half))
            n++, right += s->right[p][i];
    if (count) *count = n;
    return n ? (double)right / n : 0;
}

typedef struct choice {
    int program[STORY_TASKS][STORY_MAX_STEPS + 1];
} choice;

/* By task and steps, the program with the most accuracy - price * cost on one half; neighbouring steps are pooled. */
static void fit_choice(const survey *s, int half, double price, choice *c) {
    static double table[2][MAX_PROGRAMS][STORY_TASKS][STORY_MAX_STEPS + 1];
    static int known[2];
    for (int p = 0; !known[half] && p < s->n_programs; p++)
        for (int t = 0; t < STORY_TASKS; t++)
            for (int k = 1; k <= STORY_MAX_STEPS; k++)
                table[half][p][t][k] =
                    (share_right(s, p, t, k - 1, k + 1, half, NULL) + share_right(s, p, t, k, k, half, NULL)) / 2;
    known[half] = 1;
    for (int t = 0; t < STORY_TASKS; t++)
        for (int k = 1; k <= STORY_MAX_STEPS; k++) {
            double best = -1e9;
            for (int p = 0; p < s->n_programs; p++) {
                const double value = table[half][p][t][k] - price * s->length[p] / s->n_layer;
                if (value > best) best = value, c->program[t][k] = p;
            }
        }
}

static double judge_choice(const survey *s, const choice *c, int half, double *cost) {
    int n = 0, right = 0, calls = 0;
    for (int i = half; i < s->n_questions; i += 2) {
        const int p = c->program[s->task[i]][s->steps[i]];
        n++, right += s->right[p][i], calls += s->length[p];
    }
    *cost = (double)calls / n / s->n_layer;
    return (double)right / n;
}

/* Prices are tried from low to high on the one half until the goal is met there; the other half is judged. */
static void print_policy(const survey *s, const char *name, int same_accuracy, double margin) {
    double accuracy = 0, cost = 0, base = 0;
    for (int half = 0; half < 2; half++) {
        choice c, best;
        double x, y;
        fit_choice(s, half, 1e-4, &best);
        for (double price = 1e-4; price < 3; price *= 1.15) {
            fit_choice(s, half, price, &c);
            x = judge_choice(s, &c, half, &y);
            if (same_accuracy ? x < share_right(s, 0, -1, 0, 99, half, NULL) + margin : 0) break;
            best = c;
            if (!same_accuracy && y <= margin) break;
        }
        accuracy += judge_choice(s, &best, !half, &y) / 2, cost += y / 2;
        base += share_right(s, 0, -1, 0, 99, !half, NULL) / 2;
    }
    printf("%-34s %5.1f %%  (%+.1f) at cost %.3f\n", name, 100 * accuracy, 100 * (accuracy - base), cost);
}

static void print_survey(const survey *s) {
    int oracle = 0, count;
    printf("%d questions, %d programs\nidentity by steps (4 each):\n", s->n_questions, s->n_programs);
    for (int t = 0; t < STORY_TASKS; t++) {
        printf("  %-8s %5.1f |", story_task_names[t], 100 * share_right(s, 0, t, 0, 99, -1, NULL));
        for (int k = 1; k <= STORY_MAX_STEPS; k += 4) {
            const double x = share_right(s, 0, t, k, k + 3, -1, &count);
            if (count) printf(" %5.1f", 100 * x);
        }
        printf("\n");
    }
    for (int p = 0; p < s->n_programs; p++) {
        printf("  %-20s cost %.2f  %5.1f  by task", s->name[p], (double)s->length[p] / s->n_layer,
               100 * share_right(s, p, -1, 0, 99, -1, NULL));
        for (int t = 0; t < STORY_TASKS; t++) printf(" %5.1f", 100 * share_right(s, p, t, 0, 99, -1, NULL));
        printf("\n");
    }
    for (int i = 0; i < s->n_questions; i++) {
        int any = 0;
        for (int p = 0; p < s->n_programs; p++) any |= s->right[p][i];
        oracle += any;
    }
    printf("oracle %.1f %%\n", 100.0 * oracle / s->n_questions);
    print_policy(s, "same accuracy, fewer layers", 1, 0.002);
    print_policy(s, "better at no more than cost 1", 0, 0.99);
    print_policy(s, "better at no more than cost 0.75", 0, 0.74);
    print_policy(s, "any cost", 0, 9);
}

/* The first `most` questions of a file under many programs. */
static int evaluate(trainer *t, const char *path, int most) {
    static survey s;
    static char question[16384];
    char answer[STORY_ANSWER];
    int task, steps, taken = 0;
    FILE *f = fopen(path, "r");
    if (!f) return fprintf(stderr, "train_model: cannot read %s\n", path), 0;
    t->survey = &s;
    list_programs(&s, t->m.n_layer);
    batch *b = &t->workers[0].p.b;
    batch_begin(b);
    while (taken < most && taken < MAX_ASKED && read_question(f, question, sizeof question, answer, &task, &steps)) {
        if (!add_whole(b, &t->text, question, answer, task, steps)) {
            survey_batch(t);
            if (!add_whole(b, &t->text, question, answer, task, steps)) continue; /* longer than a batch */
        }
        taken++;
    }
    survey_batch(t);
    fclose(f);
    print_survey(&s);
    return 1;
}

/* --- command line --------------------------------------------------------------------------------------- */

static int usage(void) {
    fprintf(stderr, "usage: train_model -v vocabulary.gguf -o model.gguf [-c checkpoint] [options]\n"
                    "  --dial           a program of its own for each micro-batch; without it the identity\n"
                    "  --minutes M | --updates N   length of the run (20000 updates)\n"
                    "  --from FILE      begin with the weights of this checkpoint\n"
                    "  --layers 12 --width 96 --ff 256 --tasks 4 --batches 8 --lr 0.0013 --seed 1\n"
                    "  --threads (cores) --save 120\n"
                    "  --evaluate FILE --most 1000   the questions of a file under many programs, with the weights\n"
                    "                   of --from\n"
                    "  --check          check gradients and the exported file instead of training\n");
    return 2;
}

static int read_options(options *o, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(a, "--dial")) o->dial = 1;
        else if (!strcmp(a, "--check")) o->check = 1;
        else if (++i >= argc) return 0;
        else if (!strcmp(a, "-v")) o->vocabulary = v;
        else if (!strcmp(a, "-o")) o->out = v;
        else if (!strcmp(a, "-c")) o->checkpoint = v;
        else if (!strcmp(a, "--from")) o->from = v;
        else if (!strcmp(a, "--evaluate")) o->questions = v;
        else if (!strcmp(a, "--most")) o->most = atoi(v);
        else if (!strcmp(a, "--minutes")) o->minutes = atof(v);
        else if (!strcmp(a, "--updates")) o->updates = atof(v);
        else if (!strcmp(a, "--layers")) o->n_layer = atoi(v);
        else if (!strcmp(a, "--width")) o->width = atoi(v);
        else if (!strcmp(a, "--ff")) o->n_ff = atoi(v);
        else if (!strcmp(a, "--tasks")) o->tasks = atoi(v);
        else if (!strcmp(a, "--batches")) o->micro_batches = atoi(v);
        else if (!strcmp(a, "--lr")) o->lr = atof(v);
        else if (!strcmp(a, "--seed")) o->seed = strtoull(v, NULL, 10);
        else if (!strcmp(a, "--threads")) o->threads = atoi(v);
        else if (!strcmp(a, "--save")) o->save = atof(v);
        else return 0;
    }
    return o->vocabulary && o->out && o->width % HEAD == 0 && o->width >= HEAD && o->width <= 512 &&
           o->n_ff % 32 == 0 && o->n_ff > 0 && o->n_layer > PRELUDE + LOOP && o->n_layer <= MAX_LAYERS &&
           o->tasks >= 1 && o->tasks <= STORY_TASKS && o->threads >= 1 && o->threads <= MAX_WORKERS;
}

int main(int argc, char **argv) {
    static options o = {.n_layer = 12, .width = 96, .n_ff = 256, .micro_batches = 8, .tasks = STORY_TASKS,
                        .updates = 20000, .lr = 1.3e-3, .save = 120, .seed = 1, .most = 1000};
    static trainer t;
    polar_model_info info;
    o.threads = polar_cpu_count();
    if (!read_options(&o, argc, argv)) return usage();
    t.o = &o;
    if (!open_text(&t.text, o.vocabulary)) return 1;
    polar_model_get_info(t.text.vocabulary, &info);
    model_make(&t.m, o.n_layer, o.width, o.n_ff, info.n_vocab, o.seed);
    for (int i = 0; i < STORY_TASKS; i++) t.steps[i] = 2;
    if (o.from && !checkpoint(&t, o.from, 0, 1)) return fprintf(stderr, "train_model: cannot read %s\n", o.from), 1;
    if (o.checkpoint && checkpoint(&t, o.checkpoint, 0, 0)) printf("goes on at update %lld\n", (long long)t.update);
    for (int i = 0; i < t.m.n_tensors; i++) model_pack(&t.m, t.m.tensors[i]);
    t.n_workers = o.check ? 1 : o.threads;
    t.workers = make((size_t)t.n_workers * sizeof *t.workers);
    pthread_mutex_init(&t.lock, NULL);
    pthread_cond_init(&t.changed, NULL);
    for (int i = 0; i < t.n_workers; i++) {
        pass_make(&t.workers[i].p, &t.m);
        t.workers[i].t = &t, t.workers[i].index = i;
    }
    if (o.check) return check(&t) != 0;
    if (o.questions) return !evaluate(&t, o.questions, o.most);
    printf("%zu parameters, %d tokens, %d threads; a core's peak is %.0f GFLOP/s\n", t.m.n_params, t.m.n_vocab,
           t.n_workers, measure_peak());
    fflush(stdout);
    signal(SIGINT, interrupt), signal(SIGTERM, interrupt);
    return !train(&t);
}
