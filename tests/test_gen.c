/* Sampling, generation, and the library as a whole: threads, determinism, the bundled example. */
#include "inside.h"
#include "test.h"
#include "command.h"
#include "fixture.h"

#ifndef POLAR_NO_THREADS
#include <pthread.h>
#endif

/* --- sampling --- */

TEST(greedy) {
    const float logits[] = {1, 5, 2, 5, -1};
    polar_sampling o = {0};
    uint64_t state = 1;
    CHECK(polar_sample(&o, logits, 5, NULL, 0, &state, NULL, 0) == 1); /* the lowest id on ties */
}

/* Draws follow the softmax; filters leave out what they should. */
TEST(distribution) {
    const float logits[] = {0, 2, 1, -1, -3};
    float scratch[25];
    int counts[5];
    const struct {
        polar_sampling o;
        double expected[5];
    } cases[] = {
        {{1, 0, 1, 0, 0, 0, 0},
         {0.0854, 0.6308, 0.2321, 0.0314, 0.0043}}, /* probabilities of these logits, computed by hand */
        {{1, 2, 1, 0, 0, 0, 0}, {0, 0.7311, 0.2689, 0, 0}},
        {{1, 0, 0.7f, 0, 0, 0, 0}, {0, 0.7311, 0.2689, 0, 0}},
        {{1, 0, 1, 0.1f, 0, 0, 0}, {0.0900, 0.6652, 0.2447, 0, 0}},
        {{2, 2, 1, 0, 0, 0, 0}, {0, 0.6225, 0.3775, 0, 0}},
        {{1, 1, 1, 0, 0, 0, 0}, {0, 1, 0, 0, 0}},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        uint64_t state = 42;
        memset(counts, 0, sizeof counts);
        for (int k = 0; k < 20000; k++)
            counts[polar_sample(&cases[i].o, logits, 5, NULL, 0, &state, scratch, sizeof scratch)]++;
        for (int t = 0; t < 5; t++) {
            CHECK(fabs(counts[t] / 20000.0 - cases[i].expected[t]) < 0.012);
            if (cases[i].expected[t] == 0) CHECK(counts[t] == 0);
        }
    }
}

/* What is no draw is -1, never a greedy one. */
TEST(sample_arguments) {
    const float logits[] = {1, 5, 3, 4, -1};
    const int32_t bad[2] = {1, 5};
    float scratch[25];
    polar_sampling o = {0};
    uint64_t state = 1;
    CHECK(polar_sample(NULL, logits, 5, NULL, 0, NULL, NULL, 0) == 1);
    CHECK(polar_sample(NULL, logits, 0, NULL, 0, NULL, NULL, 0) == -1);
    o.temperature = 1;
    CHECK(polar_sample(&o, logits, 5, NULL, 0, &state, NULL, 100) == -1);
    CHECK(polar_sample(&o, logits, 5, NULL, 0, &state, scratch, 99) == -1);
    CHECK(polar_sample(&o, logits, 5, NULL, 0, NULL, scratch, 100) == -1);
    CHECK(polar_sample(&o, NULL, 5, NULL, 0, &state, scratch, 100) == -1 && state == 1);
    CHECK(polar_sample(&o, logits, 5, NULL, 0, &state, scratch, 100) >= 0);
    o.temperature = 0, o.repetition_penalty = 2;
    CHECK(polar_sample(&o, logits, 5, bad, 1, NULL, scratch, 100) == 3);
    CHECK(polar_sample(&o, logits, 5, bad, 2, NULL, scratch, 100) == -1);
    CHECK(polar_sample(&o, logits, 5, NULL, 1, NULL, scratch, 100) == -1);
    CHECK(polar_sample(&o, logits, 5, bad, 1, NULL, NULL, 100) == -1);
    CHECK(polar_sample(&o, logits, 5, bad, 1, NULL, scratch, 99) == -1);
    o.repetition_penalty = 0;
    for (int i = 0; i < 3; i++) {
        const float wrong[3] = {1, i ? -1 : INFINITY, i == 2 ? -1 : NAN}, none[2] = {-INFINITY, -INFINITY};
        for (int hot = 0; hot < 2; hot++) {
            o.temperature = (float)hot;
            CHECK((polar_sample(&o, wrong, 3, NULL, 0, &state, scratch, 100) >= 0) == (i == 2));
            CHECK(polar_sample(&o, none, 2, NULL, 0, &state, scratch, 100) == -1);
        }
    }
}

/* What a logit of -infinity rules out is never drawn, not even where the draw is so near to 1 that rounding brings it
 * to the end of the list. */
TEST(sample_ruled_out) {
    float logits[40], scratch[200];
    uint64_t seed = 4, last = 0, state = 0;
    polar_sampling o = {0};
    o.temperature = 0.7f;
    while (rng_float(&state) < 0.9999999f) last = state;
    for (int round = 0; round < 3000; round++) {
        for (int i = 0; i < 40; i++) logits[i] = i % 10 < 3 && i < 30 ? 4 * rng_float(&seed) : -INFINITY;
        state = round % 2 ? last : state;
        CHECK(logits[polar_sample(&o, logits, 40, NULL, 0, &state, scratch, sizeof scratch)] > -INFINITY);
    }
}

/* The definition: candidates sorted by probability, then by id, where top_k or top_p keep a prefix of them; weights with
 * the temperature, summed from the last; the draw goes from the first. */
static const float *sorted_by;

static int by_probability(const void *a, const void *b) {
    const int i = *(const int *)a, k = *(const int *)b;
    return sorted_by[i] != sorted_by[k] ? (sorted_by[i] < sorted_by[k] ? 1 : -1) : i - k;
}

static int sample_slowly(const polar_sampling *o, const float *logits, int n, uint64_t *state) {
    static float p[3000], weights[3000];
    static int ids[3000];
    float sum, max = logits[0], mass = 0, total = 0, u;
    int kept = 0;
    for (int i = 0; i < n; i++) ids[i] = i, p[i] = logits[i], max = logits[i] > max ? logits[i] : max;
    sum = kern_plain.softmax(p, n);
    sorted_by = p;
    if (o->top_k > 0 || o->top_p < 1) qsort(ids, (size_t)n, sizeof *ids, by_probability);
    for (int i = 0; i < n; i++) {
        if (kept && ((o->top_k > 0 && kept >= o->top_k) || (o->top_p < 1 && mass >= o->top_p * sum))) break;
        if (p[ids[i]] < o->min_p) continue;
        mass += p[ids[i]];
        ids[kept++] = ids[i];
    }
    for (int i = kept; i-- > 0; total += weights[i]) weights[i] = exp32((logits[ids[i]] - max) / o->temperature);
    u = rng_float(state) * total;
    for (int i = 0; i + 1 < kept; i++)
        if ((u -= weights[i]) < 0) return ids[i];
    return ids[kept - 1];
}

TEST(sample_definition) {
    static float logits[3000], scratch[5 * 3000];
    uint64_t seed = 8, state = 2, slow = 2;
    for (int round = 0; round < 400; round++) {
        const int n = 1 + (int)(rng_next(&seed) % COUNT(logits));
        const float range = round % 4 == 0 ? 1.0f : round % 4 == 1 ? 30.0f : round % 4 == 2 ? 300.0f : 1e-6f;
        polar_sampling o = {0.1f + 3 * rng_float(&seed), 0, 1, 0, 0, 0, 0};
        for (int i = 0; i < n; i++) logits[i] = range * rng_float(&seed) - 3;
        for (int i = 0; i < n / 3; i++) logits[i] = logits[n - 1 - i]; /* ties */
        if (round % 5 == 1) o.top_k = 1 + (int)(rng_next(&seed) % 50);
        if (round % 5 == 2) o.top_p = 0.05f + 0.9f * rng_float(&seed);
        if (round % 5 == 3) o.min_p = rng_float(&seed);
        if (round % 7 == 3) o.temperature = 1;
        if (round % 35 == 6) o.min_p = rng_float(&seed); /* beside top_k */
        CHECK(polar_sample(&o, logits, n, NULL, 0, &state, scratch, sizeof scratch) ==
              sample_slowly(&o, logits, n, &slow));
    }
}

/* Temperature alone costs some passes over the vocabulary, such as that of its softmax, and no sort. */
TEST(sample_time) {
    const int n = 150000;
    float *logits = malloc((size_t)n * sizeof *logits), *scratch = malloc((size_t)n * POLAR_SAMPLE_BYTES);
    polar_sampling o = {0.8f, 0, 1, 0, 0, 0, 0};
    const size_t size = (size_t)n * sizeof *logits;
    uint64_t state = 1;
    double best[2] = {1e9, 1e9};
    for (int i = 0; i < n; i++) logits[i] = 20 * rng_float(&state);
    for (int i = 0; i < 20; i++) {
        const clock_t start = clock();
        double seconds;
        for (int k = 0; k < (i % 2 ? 1 : 10); k++)
            if (i % 2)
                CHECK(polar_sample(&o, logits, n, NULL, 0, &state, scratch, (size_t)n * POLAR_SAMPLE_BYTES) >= 0);
            else
                CHECK(draw_greedy(logits, n) >= 0 &&
                      kern_find(POLAR_CPU_AUTO)->softmax(memcpy(scratch, logits, size), n) > 0);
        seconds = (double)(clock() - start) / CLOCKS_PER_SEC / (i % 2 ? 1 : 10);
        if (seconds < best[i % 2]) best[i % 2] = seconds;
    }
    if (getenv("POLAR_TIMES")) printf("softmax %.3f ms, temperature %.3f ms\n", best[0] * 1e3, best[1] * 1e3);
    CHECK(test_quick() || best[1] < 10 * best[0] + 0.0005); /* a sanitizer makes every load a call */
    free(logits), free(scratch);
}

/* --- generation --- */

static polar_model *fixture_opened(const char *arch, uint64_t seed, fixture *f) {
    *f = fixture_model(arch, QUANT_Q8_0, seed);
    return fx_open(f, POLAR_CPU_AUTO);
}

static void generate(const polar_model *m, const polar_generate_options *g, char *text, size_t capacity,
                     polar_result *r) {
    const int32_t prompt[] = {10, 20, 30};
    polar_session_options o = {0};
    polar_session *s = NULL;
    o.n_threads = 1;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL));
    CHECK(!polar_session_generate(s, prompt, 3, g, text, capacity, r, NULL));
    polar_session_free(s);
}

TEST(same_seed_same_text) {
    fixture f;
    polar_model *m = fixture_opened("qwen3", 5, &f);
    polar_generate_options g = {0};
    char a[4096], b[4096];
    polar_result ra, rb;
    int different = 0;
    g.max_tokens = 30;
    g.ignore_end = 1;
    g.sampling.temperature = 4;
    for (int seed = 0; seed < 4; seed++) {
        g.sampling.seed = (uint64_t)seed;
        generate(m, &g, a, sizeof a, &ra);
        generate(m, &g, b, sizeof b, &rb);
        CHECK(!memcmp(a, b, ra.length) && ra.length == rb.length && ra.n_generated == 30);
        CHECK(ra.logprob < 0 && ra.logprob == rb.logprob);
        g.sampling.seed = 100;
        generate(m, &g, b, sizeof b, &rb);
        different += ra.length != rb.length || memcmp(a, b, ra.length) != 0;
    }
    CHECK(different == 4);
    polar_model_close(m);
    free(f.data);
}

typedef struct pieces {
    char text[8192];
    size_t n;
    int whole, cancel_after;
} pieces;

static int on_piece(void *user, const char *text, size_t n) {
    pieces *p = user;
    memcpy(p->text + p->n, text, n);
    p->n += n;
    p->whole &= uni_complete_prefix((const uint8_t *)text, n) == n;
    return p->cancel_after-- == 0;
}

/* The pieces of a stream are the text; each ends on a whole character; a stop string never shows. */
TEST(stream_and_stop) {
    fixture f;
    polar_model *m = fixture_opened("llama", 9, &f);
    polar_generate_options g = {0};
    static char whole[8192], cut[8192];
    static pieces p;
    polar_result r;
    g.max_tokens = 60;
    g.ignore_end = 1;
    g.sampling.temperature = 2;
    g.on_text = on_piece;
    g.on_text_user = &p;
    for (int seed = 0; seed < 8; seed++) {
        char stop[4] = {0};
        const char *stops[] = {"\x01never", stop, NULL};
        size_t at;
        memset(&p, 0, sizeof p);
        p.whole = 1, p.cancel_after = -1;
        g.stop = NULL;
        g.sampling.seed = (uint64_t)seed;
        generate(m, &g, whole, sizeof whole, &r);
        CHECK(p.n == r.length && !memcmp(p.text, whole, r.length) && p.whole);
        CHECK(r.stop == POLAR_STOP_LIMIT && r.n_prompt == 3 && r.n_calls == FX_LAYERS);
        for (at = r.length / 2; at + 3 < r.length && (whole[at] & 0xC0) == 0x80; at++) {}
        memcpy(stop, whole + at, 3); /* three bytes from the middle stop it at their first place */
        if (memchr(stop, 0, 3)) continue;
        for (at = 0; memcmp(whole + at, stop, 3); at++) {}
        g.stop = stops;
        generate(m, &g, cut, sizeof cut, &r);
        CHECK(r.stop == POLAR_STOP_STRING && r.length == at && !memcmp(cut, whole, at));
    }
    polar_model_close(m);
    free(f.data);
}

TEST(end_context_cancel) {
    const int32_t prompt[] = {1, 2, 3};
    fixture f;
    polar_model *m = fixture_opened("llama", 9, &f);
    polar_generate_options g = {0};
    polar_session_options o = {0};
    polar_session *s = NULL;
    polar_result r;
    polar_error e;
    static pieces p;
    int32_t first;
    o.n_ctx = 10;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL));
    g.ignore_end = 1;
    CHECK(!polar_session_generate(s, prompt, 3, &g, NULL, 0, &r, NULL));
    CHECK(r.stop == POLAR_STOP_CONTEXT && r.n_generated == 8 && polar_session_position(s) == 10);
    polar_session_truncate(s, 0, NULL);
    CHECK(!polar_session_eval(s, prompt, 3, NULL));
    first = draw_greedy(polar_session_logits(s, 0), FX_VOCAB);
    g.stop_tokens = &first, g.n_stop_tokens = 1;
    CHECK(!polar_session_generate(s, NULL, 0, &g, NULL, 0, &r, NULL));
    CHECK(r.stop == POLAR_STOP_END && r.n_generated == 0 && r.length == 0);
    g.n_stop_tokens = 0;
    p.cancel_after = 0;
    g.on_text = on_piece, g.on_text_user = &p;
    polar_session_truncate(s, 0, NULL);
    CHECK(polar_session_generate(s, prompt, 3, &g, NULL, 0, &r, &e) == POLAR_CANCELLED && e.message[0]);
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* --- penalty and hook --- */

/* One step after the other, by hand: the model's logits, the penalty as it is defined, the draw. */
static void by_hand(const polar_model *m, const polar_generate_options *g, int n, int32_t *tokens, double *logprob) {
    static float logits[FX_VOCAB], scratch[5 * FX_VOCAB];
    const polar_sampling *o = &g->sampling;
    polar_sampling rest = *o;
    polar_session_options so = {0};
    polar_session *s = NULL;
    uint64_t state = o->seed;
    rest.repetition_penalty = 0;
    tokens[0] = 10, tokens[1] = 20, tokens[2] = 30;
    *logprob = 0;
    CHECK(!polar_session_create(&s, m, NULL, &so, NULL) && !polar_session_eval(s, tokens, 3, NULL));
    for (int t = 3; t < 3 + n; t++) {
        const int window = o->repetition_window ? o->repetition_window : t;
        double sum = 0;
        memcpy(logits, polar_session_logits(s, 0), sizeof logits);
        for (int id = 0; id < FX_VOCAB && o->repetition_penalty > 0; id++) {
            int seen = 0;
            for (int i = t - 1; i >= 0 && i >= t - window; i--) seen |= tokens[i] == id;
            if (seen) logits[id] = logits[id] > 0 ? logits[id] / o->repetition_penalty
                                                  : logits[id] * o->repetition_penalty;
        }
        if (g->on_logits) CHECK(!g->on_logits(g->on_logits_user, logits, FX_VOCAB, tokens, t));
        tokens[t] = polar_sample(&rest, logits, FX_VOCAB, NULL, 0, &state, scratch, sizeof scratch);
        for (int id = 0; id < FX_VOCAB; id++)
            sum += exp((double)(polar_session_logits(s, 0)[id] - polar_session_logits(s, 0)[tokens[t]]));
        *logprob -= log(sum);
        CHECK(!polar_session_eval(s, tokens + t, 1, NULL));
    }
    polar_session_free(s);
}

/* Forbids what leaves another remainder than the number of tokens. */
static int every_third(void *user, float *logits, int n_vocab, const int32_t *tokens, int n_tokens) {
    CHECK(n_tokens >= 3 && tokens[0] == 10 && tokens[2] == 30 && user == NULL);
    for (int i = 0; i < n_vocab; i++)
        if (i % 3 != n_tokens % 3) logits[i] = -INFINITY;
        else logits[i] *= 0.5f;
    return 0;
}

TEST(penalty_and_hook) {
    int changed = 0;
    for (int round = 0; round < 24; round++) {
        fixture f;
        polar_model *m = fixture_opened(round % 2 ? "qwen3" : "llama", 9, &f);
        polar_generate_options g = {0};
        polar_result r, plain;
        int32_t tokens[3 + 20], found[20], unchanged[20];
        double logprob;
        g.ignore_end = 1;
        g.max_tokens = g.token_capacity = 20;
        g.sampling.temperature = round % 3 == 1 ? 1.5f : 0;
        g.sampling.seed = (uint64_t)round;
        g.tokens = unchanged;
        generate(m, &g, NULL, 0, &plain);
        g.sampling.repetition_penalty = round % 4 ? 0.9f + 0.3f * (float)(round % 4) : 0;
        g.sampling.repetition_window = round % 5 == 4 ? 3 : round % 5 == 3 ? 1 : 0;
        g.on_logits = round % 6 < 4 ? NULL : every_third;
        g.tokens = found;
        generate(m, &g, NULL, 0, &r);
        by_hand(m, &g, 20, tokens, &logprob);
        CHECK(r.n_generated == 20 && !memcmp(found, tokens + 3, sizeof found));
        CHECK(fabs(r.logprob - logprob) < 1e-5 + 1e-5 * fabs(logprob)); /* by the model's own logits, whatever changed them */
        changed += memcmp(found, unchanged, sizeof found) != 0;
        if (g.on_logits)
            for (int i = 0; i < 20; i++) CHECK(found[i] % 3 == (3 + i) % 3);
        polar_model_close(m);
        free(f.data);
    }
    CHECK(changed > 12);
}

/* What a hook does wrong is said, and where it cancels the answer goes on as if it had not. */
static int hook_mode; /* 0: nothing; 1 NaN, 2 infinity, 3 none left; below 0: cancels at that call from now */

static int misbehave(void *user, float *logits, int n_vocab, const int32_t *tokens, int n_tokens) {
    (void)tokens, (void)n_tokens, ++*(int *)user;
    if (hook_mode == 1) logits[5] = NAN;
    if (hook_mode == 2) logits[n_vocab - 1] = INFINITY;
    for (int i = 0; i < n_vocab && hook_mode == 3; i++) logits[i] = -INFINITY;
    return hook_mode < 0 && ++hook_mode == 0;
}

TEST(hook_errors) {
    const int32_t prompt[] = {10, 20, 30};
    static float before[FX_VOCAB];
    fixture f;
    polar_model *m = fixture_opened("llama", 9, &f);
    polar_generate_options g = {0};
    polar_session *s = NULL;
    polar_result r;
    polar_error e;
    int32_t whole[12], parts[12];
    int calls = 0;
    CHECK(!polar_session_create(&s, m, NULL, NULL, NULL));
    g.ignore_end = 1, g.max_tokens = g.token_capacity = 12, g.tokens = whole;
    g.sampling.temperature = 1;
    CHECK(!polar_session_generate(s, prompt, 3, &g, NULL, 0, &r, NULL));
    g.on_logits = misbehave, g.on_logits_user = &calls;
    for (hook_mode = 1; hook_mode < 4; hook_mode++) {
        CHECK(!polar_session_truncate(s, 0, NULL) && !polar_session_eval(s, prompt, 3, NULL));
        memcpy(before, polar_session_logits(s, 0), sizeof before);
        CHECK(polar_session_generate(s, NULL, 0, &g, NULL, 0, &r, &e) == POLAR_NUMERIC);
        CHECK(strstr(e.message, "position 3") && r.n_generated == 0 && polar_session_position(s) == 3);
        CHECK_BITS(before, polar_session_logits(s, 0), FX_VOCAB);
    }
    CHECK(calls == 3);
    hook_mode = -5; /* the fifth call: four tokens are there */
    g.tokens = parts;
    CHECK(polar_session_generate(s, NULL, 0, &g, NULL, 0, &r, &e) == POLAR_CANCELLED && r.stop == POLAR_STOP_LIMIT);
    CHECK(r.n_generated == 4 && polar_session_position(s) == 7);
    g.tokens = parts + 4, g.max_tokens = 8;
    CHECK(!polar_session_generate(s, NULL, 0, &g, NULL, 0, &r, &e) && r.n_generated == 8);
    CHECK(!memcmp(whole, parts, sizeof whole) && calls == 3 + 5 + 8);
    g.sampling.repetition_penalty = -1;
    CHECK(polar_session_generate(s, NULL, 0, &g, NULL, 0, &r, &e) == POLAR_ARGUMENT);
    g.sampling.repetition_penalty = NAN;
    CHECK(polar_session_generate(s, NULL, 0, &g, NULL, 0, &r, &e) == POLAR_ARGUMENT);
    g.sampling.repetition_penalty = 1, g.sampling.repetition_window = -1;
    CHECK(polar_session_generate(s, NULL, 0, &g, NULL, 0, &r, &e) == POLAR_ARGUMENT);
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* --- going on --- */

/* A generation in pieces of at most `piece` tokens until something but a limit ends it or there are `n` tokens. */
typedef struct talk {
    char text[4096];
    int32_t tokens[64];
    size_t length;
    int n_tokens;
    double logprob;
    polar_stop stop;
} talk;

static void talk_on(polar_session *s, polar_generate_options g, int n, int piece, int n_start, talk *t) {
    const int32_t prompt[] = {10, 20, 30};
    memset(t, 0, sizeof *t);
    do {
        polar_result r;
        polar_error e;
        polar_status status;
        g.max_tokens = MIN(piece, n - t->n_tokens);
        status = polar_session_generate(s, prompt, n_start, &g, t->text + t->length, sizeof t->text - t->length, &r,
                                        &e);
        CHECK(!status || status == POLAR_CANCELLED);
        t->length += r.length;
        t->n_tokens += r.n_generated;
        t->logprob += r.logprob;
        t->stop = status ? POLAR_STOP_LIMIT : r.stop;
        n_start = 0;
    } while (t->stop == POLAR_STOP_LIMIT && t->n_tokens < n);
    memcpy(t->tokens, polar_session_tokens(s) + 3, (size_t)(polar_session_position(s) - 3) * sizeof *t->tokens);
}

static void same_talk(const talk *a, const talk *b) {
    CHECK(a->n_tokens == b->n_tokens && a->stop == b->stop && a->length == b->length);
    CHECK(!memcmp(a->text, b->text, a->length) && !memcmp(a->tokens, b->tokens, sizeof a->tokens));
    CHECK(fabs(a->logprob - b->logprob) < 1e-9 * fabs(a->logprob));
}

static int cancel_now; /* counts calls of the tap; the call that finds 0 cancels */

static int cancel_tap(void *user, const polar_tap_info *info) {
    (void)user, (void)info;
    return cancel_now-- == 0;
}

static int cancel_text(void *user, const char *text, size_t length) {
    (void)text, (void)length;
    return (*(int *)user)++ % 3 == 0;
}

/* Limits, cancels and other calls between do not change what a generation comes to. */
TEST(goes_on) {
    fixture f;
    polar_model *m = fixture_opened("llama", 9, &f);
    polar_session_options o = {0};
    polar_generate_options g = {0};
    polar_session *s = NULL;
    static talk whole, parts;
    o.n_threads = 1;
    o.n_ctx = 3 + 40;
    o.tap = cancel_tap;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL));
    for (int round = 0; round < 6; round++) {
        char stop[4] = {0};
        const char *stops[] = {stop, NULL};
        int calls = 0;
        memset(&g, 0, sizeof g);
        g.ignore_end = 1;
        g.sampling.seed = (uint64_t)round;
        g.sampling.temperature = round % 2 ? 2.0f : 0;
        cancel_now = INT_MAX;
        polar_session_truncate(s, 0, NULL);
        talk_on(s, g, round < 4 ? 30 : 60, 60, 3, &whole); /* 60 do not fit */
        CHECK(whole.stop == (round < 4 ? POLAR_STOP_LIMIT : POLAR_STOP_CONTEXT));
        for (int piece = 1; piece < 8; piece += 2) {
            polar_session_truncate(s, 0, NULL);
            talk_on(s, g, round < 4 ? 30 : 60, piece, 3, &parts);
            same_talk(&whole, &parts);
        }
        for (int call = 6; call < 120; call += 17) { /* the prompt takes the first 5 calls of the tap */
            polar_session_truncate(s, 0, NULL);
            cancel_now = call;
            talk_on(s, g, round < 4 ? 30 : 60, 60, 3, &parts);
            CHECK(cancel_now < 0);
            same_talk(&whole, &parts);
        }
        cancel_now = INT_MAX;
        polar_session_truncate(s, 0, NULL);
        g.on_text = cancel_text, g.on_text_user = &calls;
        talk_on(s, g, round < 4 ? 30 : 60, 60, 3, &parts);
        CHECK(calls > 1);
        same_talk(&whole, &parts);
        g.on_text = NULL;
        memcpy(stop, whole.text + whole.length / 2, 3);
        if (strlen(stop) < 3) continue;
        g.stop = stops;
        polar_session_truncate(s, 0, NULL);
        talk_on(s, g, 30, 60, 3, &whole);
        CHECK(whole.stop == POLAR_STOP_STRING);
        polar_session_truncate(s, 0, NULL);
        talk_on(s, g, 30, 1, 3, &parts); /* the beginning of the stop string may be out already */
        CHECK(parts.stop == POLAR_STOP_STRING && parts.n_tokens == whole.n_tokens);
        CHECK(parts.length >= whole.length && parts.length < whole.length + 3);
        CHECK(!memcmp(parts.text, whole.text, whole.length));
    }
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* After a limit the answer's last token is part of the conversation, whatever follows. */
TEST(last_token_is_held) {
    const int32_t prompt[] = {10, 20, 30}, more[] = {5, 6};
    fixture f;
    polar_model *m = fixture_opened("qwen2", 4, &f);
    polar_session_options o = {0};
    polar_generate_options g = {0};
    polar_session *s = NULL, *fresh = NULL;
    int32_t tokens[16];
    g.max_tokens = 4;
    g.ignore_end = 1;
    o.n_ctx = 9;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL) && !polar_session_create(&fresh, m, NULL, &o, NULL));
    CHECK(!polar_session_generate(s, prompt, 3, &g, NULL, 0, NULL, NULL));
    CHECK(polar_session_position(s) == 7);
    CHECK(polar_session_eval(s, prompt, 3, NULL) == POLAR_CONTEXT && polar_session_position(s) == 7);
    CHECK(!polar_session_eval(s, more, 2, NULL) && polar_session_position(s) == 9);
    memcpy(tokens, polar_session_tokens(s), 9 * sizeof *tokens);
    CHECK(!polar_session_eval(fresh, tokens, 9, NULL));
    CHECK_BITS(polar_session_logits(s, 0), polar_session_logits(fresh, 0), FX_VOCAB);
    CHECK(!polar_session_truncate(s, 3, NULL) && polar_session_position(s) == 3);
    polar_session_free(s);
    polar_session_free(fresh);
    polar_model_close(m);
    free(f.data);
}

/* A cancelled evaluation leaves the logits too. */
TEST(cancel_keeps_logits) {
    const int32_t prompt[] = {10, 20, 30};
    static float before[FX_VOCAB];
    fixture f;
    polar_model *m = fixture_opened("qwen2", 4, &f);
    polar_session_options o = {0};
    polar_session *s = NULL;
    o.tap = cancel_tap;
    cancel_now = INT_MAX;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL) && !polar_session_eval(s, prompt, 3, NULL));
    memcpy(before, polar_session_logits(s, 0), sizeof before);
    cancel_now = 2;
    CHECK(polar_session_eval(s, prompt, 3, NULL) == POLAR_CANCELLED && polar_session_position(s) == 3);
    CHECK(polar_session_logits(s, 0) && !memcmp(before, polar_session_logits(s, 0), sizeof before));
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* --- whole UTF-8 --- */

/* What is no character becomes U+FFFD as other decoders have it: once for the longest beginning of a character. Cut
 * into tokens anywhere, and handed over in pieces that are UTF-8. */
static int on_utf8(void *user, const char *text, size_t n) {
    pieces *p = user;
    for (size_t i = 0; i < n;) {
        const int length = utf8_length(text + i, n - i);
        p->whole &= length > 0;
        i += (size_t)MAX(length, 1);
    }
    return on_piece(user, text, n);
}

TEST(text_is_utf8) {
    static const char raw[] = "a\xe6\xbc" "A\xed\xa0\x80\xf0\x9f\x98\x80\xf0\x9f\x98!\xc0\xaf\xf5\xe6\xbc\xa2\xc3\xa9"
                              "\xff\xe2\x82";
    static const char expected[] = "a\xef\xbf\xbd" "A\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd!"
                                   "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xe6\xbc\xa2\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd";
    const size_t n = sizeof raw - 1;
    static pieces p;
    static gen_text t;
    polar_generate_options g = {0};
    g.on_text = on_utf8, g.on_text_user = &p;
    for (size_t cut = 0; cut <= n; cut++)
        for (size_t second = cut; second <= n; second++) {
            char out[64] = {0};
            memset(&p, 0, sizeof p);
            memset(&t, 0, sizeof t);
            p.whole = 1, p.cancel_after = -1;
            t.o = &g, t.out = out, t.capacity = sizeof out;
            gen_add(&t, raw, cut);
            gen_add(&t, raw + cut, second - cut);
            gen_add(&t, raw + second, n - second);
            gen_finish(&t, POLAR_STOP_END);
            CHECK_STR(out, expected);
            CHECK(p.whole && p.n == t.length && !memcmp(p.text, out, p.n));
        }
    for (size_t cut = 0; cut <= n; cut++) { /* at a limit a character that may go on waits */
        char out[64] = {0};
        memset(&t, 0, sizeof t);
        g.on_text = NULL;
        t.o = &g, t.out = out, t.capacity = sizeof out;
        gen_add(&t, raw, cut);
        gen_finish(&t, POLAR_STOP_LIMIT);
        CHECK(!strncmp(out, expected, strlen(out)));
    }
}

/* The tokens' bytes stay reachable, and are what the text stands for. */
TEST(raw_bytes) {
    fixture f;
    polar_model *m = fixture_opened("llama", 9, &f);
    polar_generate_options g = {0};
    polar_session_options o = {0};
    static char text[4096], raw[4096], decoded[4096];
    polar_result r, rr;
    polar_session *s = NULL;
    const int32_t prompt[] = {10, 20, 30};
    size_t n;
    int different = 0;
    g.max_tokens = 40;
    g.ignore_end = 1;
    g.sampling.temperature = 3;
    o.n_threads = 1;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL));
    for (int seed = 0; seed < 15; seed++) {
        g.sampling.seed = (uint64_t)seed;
        g.raw_bytes = 0;
        generate(m, &g, text, sizeof text, &r);
        g.raw_bytes = 1;
        polar_session_truncate(s, 0, NULL);
        CHECK(!polar_session_generate(s, prompt, 3, &g, raw, sizeof raw, &rr, NULL));
        CHECK(!polar_detokenize(m, polar_session_tokens(s) + 3, 40, 0, decoded, sizeof decoded, &n, NULL));
        CHECK(rr.length == n && !memcmp(raw, decoded, n));
        different += r.length != rr.length || memcmp(text, raw, n);
        for (size_t i = 0; i < r.length; i++) CHECK(utf8_length(text + i, r.length - i) || (text[i] & 0xc0) == 0x80);
    }
    CHECK(different);
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* --- two models and ten sessions at once --- */

#ifndef POLAR_NO_THREADS
typedef struct job {
    const polar_model *m;
    char text[4096];
    polar_result r;
} job;

static void *job_run(void *user) {
    job *j = user;
    polar_generate_options g = {0};
    g.max_tokens = 12;
    g.ignore_end = 1;
    g.sampling.temperature = 1;
    generate(j->m, &g, j->text, sizeof j->text, &j->r);
    return NULL;
}

TEST(ten_sessions) {
    fixture f[2];
    polar_model *m[2] = {fixture_opened("llama", 1, &f[0]), fixture_opened("qwen2moe", 2, &f[1])};
    static job alone[2], jobs[10];
    pthread_t threads[10];
    for (int i = 0; i < 2; i++) alone[i].m = m[i], job_run(&alone[i]);
    for (int i = 0; i < 10; i++) {
        jobs[i].m = m[i % 2];
        CHECK(!pthread_create(&threads[i], NULL, job_run, &jobs[i]));
    }
    for (int i = 0; i < 10; i++) {
        pthread_join(threads[i], NULL);
        CHECK(jobs[i].r.length == alone[i % 2].r.length && !memcmp(jobs[i].text, alone[i % 2].text, jobs[i].r.length));
    }
    for (int i = 0; i < 2; i++) polar_model_close(m[i]), free(f[i].data);
}

/* A pool shared by sessions: who finds it busy works alone, with the same result. */
static void *shared_run(void *user) {
    job *j = user;
    const int32_t prompt[] = {10, 20, 30};
    polar_session_options o = {0};
    polar_session *s = NULL;
    o.runner = (const polar_runner *)(const void *)j->text;
    CHECK(!polar_session_create(&s, j->m, NULL, &o, NULL));
    for (int i = 0; i < 10; i++) CHECK(!polar_session_eval(s, prompt, 3, NULL));
    j->r.logprob = (double)polar_session_logits(s, 0)[0];
    polar_session_free(s);
    return NULL;
}

TEST(shared_pool) {
    fixture f;
    polar_model *m = fixture_opened("llama", 1, &f);
    static job jobs[3];
    pthread_t threads[3];
    polar_pool *pool;
    polar_runner runner;
    CHECK(!polar_pool_create(&pool, 3, NULL, NULL));
    runner = polar_pool_runner(pool);
    for (int i = 0; i < 3; i++) {
        jobs[i].m = m;
        memcpy(jobs[i].text, &runner, sizeof runner);
        pthread_create(&threads[i], NULL, shared_run, &jobs[i]);
    }
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK(jobs[0].r.logprob == jobs[1].r.logprob && jobs[1].r.logprob == jobs[2].r.logprob);
    polar_pool_free(pool);
    polar_model_close(m);
    free(f.data);
}
#else
TEST(ten_sessions) {
}
TEST(shared_pool) {
}
#endif

/* --- exact functions --- */

TEST(exp_log_turns) {
    for (int i = -870; i < 880; i++) {
        const float x = (float)i * 0.1f;
        const double exact = exp((double)x);
        CHECK(fabs((double)exp32(x) - exact) <= 2.5e-7 * exact);
        CHECK(fabs(exp64((double)x) - exact) <= 1e-14 * exact);
        CHECK(fabs(log64(exact) - (double)x) <= 1e-13 * (1 + fabs((double)x)));
    }
    for (int i = 0; i < 1000; i++) {
        double s, c, angle = 6.28318530717958647693 * i / 1000;
        turn_sincos((uint64_t)((double)i / 1000 * 18446744073709551616.0), &s, &c);
        CHECK(fabs(s - sin(angle)) < 1e-14 && fabs(c - cos(angle)) < 1e-14);
    }
}

/* The software fma against the libm's, on values that need its rounding. */
TEST(fma_is_exact) {
    uint64_t state = 3;
    volatile float small = 0x1.31d684p-58f; /* not known to the compiler, which is exact */
    if (!signbit(fmaf(small, -0x1.7dfb7p-104f, 0))) { /* a negative number that rounds to 0 */
        SKIP("this C library's fmaf is not exact");
        return;
    }
    for (int i = 0; i < 300000; i++) {
        const uint64_t r = rng_next(&state);
        const float a = bits_f32((uint32_t)(r >> 32) & 0xbfffffff), b = bits_f32((uint32_t)r & 0xbfffffff);
        const float c = i % 3 ? -a * b : bits_f32((uint32_t)rng_next(&state) & 0xbfffffff);
        const float want = fmaf(a, b, c), got = fma32(a, b, c);
        CHECK(f32_bits(want) == f32_bits(got) || (want != want && got != got));
    }
    /* halfway between two floats but for 2^-46 of the product; in every second round they are below the normal ones */
    for (int i = 0; i < 4000; i++) {
        const int below = i % 2, drawn = (int)(rng_next(&state) & 0x7fffff);
        const float a = ldexpf(1 + 0x1p-23f, below ? -75 : 0), b = ldexpf(1 - 0x1p-23f, below ? -75 : -1);
        const float c = ldexpf((float)(below ? drawn : drawn | 0x800000), below ? -149 : 0);
        CHECK(f32_bits(fmaf(a, b, c)) == f32_bits(fma32(a, b, c)));
        CHECK(f32_bits(fmaf(a, -b, c)) == f32_bits(fma32(a, -b, c)));
    }
}

TEST(halves) {
    for (uint32_t h = 0; h < 65536; h++) {
        const float x = f16_f32((uint16_t)h);
        if (x == x) CHECK(f32_f16(x) == h);
    }
    CHECK(f32_f16(65519.996f) == 0x7bff && f32_f16(65520) == 0x7c00 && f32_f16(5.9604645e-8f / 2) == 0);
}

/* --- the example --- */

static char *file_text(const char *path) {
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 18);
    if (!f || !text) printf("%s cannot be read\n", path);
    if (f && text) text[fread(text, 1, (1 << 18) - 1, f)] = 0;
    if (f) fclose(f);
    return text;
}

#define MINIMAL "build/minimal" EXE " "
#define DEMO_MODEL "../../examples/demo/demo-model.gguf"

/* examples/minimal.c is what README and polar.h show, and it runs. The Makefile builds build/minimal. */
TEST(minimal_example) {
    char *example = file_text("examples/minimal.c"), *readme = file_text("README.md"), *header = file_text("polar.h");
    char *line = strstr(example, "#include \"polar.h\"");
    fixture f = fixture_model("llama", QUANT_Q8_0, 9);
    CHECK(line && strstr(readme, line));
    for (; line && *line; line += strcspn(line, "\n") + 1) { /* in polar.h each line stands behind " *     " */
        char shown[256];
        snprintf(shown, sizeof shown, "\n *     %.*s\n", (int)strcspn(line, "\n"), line);
        if (*line != '\n') CHECK(strstr(header, shown));
    }
    write_file("model.gguf", f.data, f.size);
    RUN(MINIMAL "model.gguf 'a question'", 0, " tokens, 4 layer calls each]");
    /* the bundled predictor picks a program of another length than the 12 layers */
    RUN(MINIMAL DEMO_MODEL " 'A pearl is under cup 5 of eight. Follow it. The pairs 5 and 2; 5 and 7; 6 and 4 swap.' "
        "../../examples/demo/demo-predictor.gguf", 0, "\\boxed{2}\n[3 tokens, ");
    CHECK(!strstr(output, ", 12 layer calls each]"));
    /* a question as the bundled model was trained to be asked, by the template in its file */
    RUN(MINIMAL DEMO_MODEL " 'Find the hour. At first the clock is at 9. First back 2, then forward 3.'", 0, "");
    CHECK_STR(output, "\\boxed{10}\n[3 tokens, 12 layer calls each]\n");
    RUN(MINIMAL "no-such-file.gguf 'a question'", 1, "no-such-file.gguf");
    CHECK(!strncmp(output, "minimal: ", 9));
    free(example), free(readme), free(header), free(f.data);
}

/* Each turn of examples/chat.c evaluates its own tokens only, and says what a session that begins anew would say. */
TEST(chat_example) {
    int n_new[2] = {0, 0}, n_all[2] = {0, 0}, turns = 0;
    RUN_ON("Max gives a coin to Ben. Max sees Ann swap with Eve. Who has it now?\nAnd then?\n",
           "build/chat" EXE " " DEMO_MODEL " 2-5x2", 0, "");
    for (char *line = output; turns < 2 && (line = strstr(line, "\n[")) != NULL; line++)
        if (sscanf(line, "\n[%d of %d tokens were new]", &n_new[turns], &n_all[turns]) == 2) turns++;
    CHECK(turns == 2 && n_new[0] == n_all[0] && n_new[1] < 10 && n_all[1] > n_all[0]);
}

/* --- prompt lookup --- */

/* Says what stood 7 tokens before, but never at each thirteenth token. */
static int copying(void *user, float *logits, int n_vocab, const int32_t *tokens, int n_tokens) {
    CHECK(user == NULL && n_vocab == FX_VOCAB);
    logits[tokens[n_tokens - 7]] += n_tokens % 13 ? 20 : -40;
    return 0;
}

/* Two generations, the second of which goes on from the first, and the bytes of the session behind each. */
typedef struct looked_up {
    char text[2][4096];
    int32_t tokens[2][80];
    polar_result r[2];
    polar_status status[2];
    polar_error e[2];
    uint8_t *state[2];
    size_t size[2];
    int n_drafted, n_accepted;
} looked_up;

static looked_up look_up(const polar_model *m, const char *program, const polar_session_options *o,
                         polar_generate_options g, int lookup) {
    static const int32_t prompt[] = {10, 20, 30, 40, 50, 10, 20, 30, 40, 60, 10, 20, 30};
    polar_session *s = NULL;
    polar_program p;
    static pieces streamed;
    looked_up x;
    memset(&x, 0, sizeof x);
    CHECK(!polar_program_parse(&p, FX_LAYERS, program, NULL));
    CHECK(!polar_session_create(&s, m, &p, o, NULL));
    g.lookup = lookup;
    g.token_capacity = 80;
    if (g.on_text) g.on_text = on_piece, g.on_text_user = &streamed;
    memset(&streamed, 0, sizeof streamed);
    streamed.cancel_after = 30;
    for (int i = 0; i < 2; i++) {
        g.tokens = x.tokens[i];
        x.status[i] = polar_session_generate(s, prompt, i ? 0 : COUNT(prompt), &g, x.text[i], sizeof x.text[i],
                                             &x.r[i], &x.e[i]);
        CHECK(!polar_session_save(s, NULL, 0, &x.size[i], NULL));
        x.state[i] = malloc(x.size[i]);
        CHECK(x.state[i] && !polar_session_save(s, x.state[i], x.size[i], &x.size[i], NULL));
        x.n_drafted += x.r[i].n_drafted, x.n_accepted += x.r[i].n_accepted;
        x.r[i].n_drafted = x.r[i].n_accepted = 0;
        g.max_tokens = g.max_tokens / 2 + 5;
    }
    polar_session_free(s);
    return x;
}

static void same_looked_up(looked_up *a, looked_up *b) {
    for (int i = 0; i < 2; i++) {
        CHECK(a->status[i] == b->status[i] && !strcmp(a->e[i].message, b->e[i].message));
        CHECK(!memcmp(&a->r[i], &b->r[i], sizeof a->r[i]) && !memcmp(a->text[i], b->text[i], sizeof a->text[i]));
        CHECK(!memcmp(a->tokens[i], b->tokens[i], sizeof a->tokens[i]));
        CHECK(a->size[i] == b->size[i] && !memcmp(a->state[i], b->state[i], a->size[i]));
        free(a->state[i]), free(b->state[i]);
    }
}

/* Plain C does not draft: it takes as long for many rows as for each of them. */
static int drafts(void) {
    return kern_find(POLAR_CPU_AUTO)->set != NULL;
}

/* Nothing but the time depends on lookup: tokens, text, results, and every byte of the session. */
TEST(lookup_changes_nothing) {
    static const char *const programs[] = {"identity", "0-1x2 3x0", "1-2~2", "0x3 2x0"};
    int accepted = 0, rejected = 0, off = 0;
    for (int round = 0; round < 48; round += test_quick() ? 7 : 1) {
        fixture f;
        polar_model *m = fixture_opened(round % 5 == 4 ? "qwen3moe" : round % 2 ? "qwen3" : "llama", 9, &f);
        const char *stop[] = {"\x01never", "the", NULL}, *program = programs[round % 4];
        polar_session_options o = {0};
        polar_generate_options g = {0};
        looked_up a, b;
        o.n_threads = 1;
        o.n_logits = 8;
        o.kv_mode = round % 8 == 6 ? POLAR_KV_SHARED : round % 8 == 7 ? POLAR_KV_LAST : POLAR_KV_PER_CALL;
        o.kv_type = round % 3 ? POLAR_KV_F16 : POLAR_KV_F32;
        o.n_batch = round % 7 == 3 ? 3 : 0;
        o.n_ctx = round % 6 == 5 ? 40 : 0;
        g.ignore_end = round % 4 > 0;
        g.max_tokens = 20 + round % 3 * 10;
        g.sampling.temperature = (float)(round % 3) * 0.7f;
        g.sampling.seed = (uint64_t)round;
        g.sampling.repetition_penalty = round % 9 == 8 ? 1.3f : 0;
        g.on_logits = round % 4 ? copying : NULL;
        g.on_text = round % 10 == 9 ? on_piece : NULL; /* which cancels */
        g.stop = round % 11 == 10 ? stop : NULL;
        a = look_up(m, program, &o, g, 0);
        b = look_up(m, program, &o, g, 1 + round % 9);
        CHECK(!a.n_drafted && b.n_accepted <= b.n_drafted);
        if (o.kv_mode != POLAR_KV_PER_CALL) CHECK(!b.n_drafted), off++;
        accepted += b.n_accepted, rejected += b.n_drafted - b.n_accepted;
        same_looked_up(&a, &b);
        polar_model_close(m);
        free(f.data);
    }
    if (getenv("POLAR_TIMES")) printf("%d tokens of drafts accepted, %d not\n", accepted, rejected);
    if (!drafts()) CHECK(!accepted && !rejected);
    else CHECK(accepted > 0 && (test_quick() || (accepted > 300 && rejected > 30 && off == 12)));
}

/* Makes the last of several rows behind the prompt no number, as a token that is never drawn might. */
static int spoil(void *user, const polar_tap_info *info) {
    if (!info->position || info->n_rows == 1 || info->call + 1 < info->n_calls) return 0;
    info->hidden[(size_t)info->n_rows * (size_t)info->n_embd - 1] = NAN;
    ++*(int *)user;
    return 0;
}

/* A draft that fails is no failure, and one that is cancelled is cancelled once. */
TEST(lookup_of_broken_numbers) {
    fixture f;
    polar_model *m = fixture_opened("llama", 9, &f);
    polar_session_options o = {0};
    polar_generate_options g = {0};
    looked_up a, b;
    int spoiled = 0;
    if (!drafts()) SKIP("plain C drafts nothing");
    o.n_logits = 8;
    o.tap = spoil, o.tap_user = &spoiled;
    g.ignore_end = 1;
    g.max_tokens = 30;
    g.on_logits = copying;
    a = look_up(m, "identity", &o, g, 0);
    CHECK(!spoiled);
    b = look_up(m, "identity", &o, g, 7);
    CHECK((spoiled > 3 || !drafts()) && !b.n_drafted && !b.status[0] && !b.status[1]);
    same_looked_up(&a, &b);
    polar_model_close(m);
    free(f.data);
}

/* polar run drafts where an answer repeats itself, says how much of it was right, and answers as it would without. */
TEST(lookup_command) {
    static const char *const options[] = {"", "--program 2-5x2", "--temperature 0.3 --seed 3"};
    const char *run = "polar run -m " DEMO_MODEL " -n 120 --ignore-end --json --stats";
    if (!drafts()) SKIP("plain C drafts nothing");
    for (int i = 0; i < COUNT(options) && drafts(); i++) {
        char line[512], text[4096], *end;
        int drafted = 0, accepted = 0;
        const char *said;
        snprintf(line, sizeof line, "%s %s --lookup 0 \"Max gives a coin to Ben. Who has it now?\"", run, options[i]);
        RUN(line, 0, "\"n_drafted\":0,");
        if ((end = strstr(output, "\"seconds\"")) != NULL) *end = 0;
        snprintf(text, sizeof text, "%.4000s", output);
        snprintf(line, sizeof line, "%s %s \"Max gives a coin to Ben. Who has it now?\"", run, options[i]);
        RUN(line, 0, "\"n_drafted\":");
        said = strstr(output, "lookup: ");
        CHECK(said && sscanf(said, "lookup: %d of %d", &accepted, &drafted) == 2);
        if (getenv("POLAR_TIMES")) printf("%d of %d\n", accepted, drafted);
        CHECK(accepted > 20 && drafted >= accepted);
        if ((end = strstr(output, ",\"n_drafted\"")) != NULL && strstr(text, ",\"n_drafted\"")) {
            *end = *strstr(text, ",\"n_drafted\"") = 0;
            CHECK(!strcmp(text, output));
        } else CHECK(0);
    }
}

/* README's reading path leads to where the functions are: [`name`](polar.c#L123). */
TEST(reading_path) {
    size_t size;
    char *readme = file_text("README.md"), *source = test_read(fopen("polar.c", "rb"), &size), name[64];
    int n = 0, number;
    CHECK(source != NULL);
    if (!source) return;
    for (const char *at = readme; (at = strstr(at, "[`")) != NULL; at += 2) {
        const char *line = source;
        char call[72];
        if (sscanf(at, "[`%63[a-z_0-9]`](polar.c#L%d)", name, &number) != 2) continue;
        for (int i = 1; i < number && *line; i++) line += strcspn(line, "\n") + (strchr(line, '\n') != NULL);
        snprintf(call, sizeof call, "%s(", name);
        line = strstr(line, call) && strstr(line, call) < line + strcspn(line, "\n") && *line != ' ' ? line : NULL;
        if (!line) printf("README: %s is not in line %d of polar.c; sh tests/anchors.sh mends that\n", name, number);
        CHECK(line != NULL);
        n++;
    }
    CHECK(n >= 8);
    free(readme), free(source);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(greedy), T(distribution), T(sample_arguments), T(sample_ruled_out),
    T(sample_definition), T(sample_time),
    T(same_seed_same_text), T(stream_and_stop), T(end_context_cancel), T(penalty_and_hook),
    T(hook_errors), T(goes_on), T(last_token_is_held),
    T(cancel_keeps_logits), T(text_is_utf8), T(raw_bytes), T(ten_sessions), T(shared_pool), T(exp_log_turns),
    T(fma_is_exact), T(halves), T(minimal_example), T(chat_example),
    T(lookup_changes_nothing), T(lookup_of_broken_numbers), T(lookup_command), T(reading_path),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
