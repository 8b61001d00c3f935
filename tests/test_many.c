/* Many programs on one prompt: the same bits as each program alone in a fresh session, whatever is shared. */
#include "inside.h"
#include "test.h"
#include "fixture.h"

/* The reference: a session used as a user would, token by token. */
typedef struct expected {
    int32_t tokens[64];
    int n_tokens;
    polar_result result;
    char text[1024];
} expected;

static void alone(const polar_model *m, const int *path, int n_path, const int32_t *prompt, int n_prompt,
                  const polar_many_options *o, expected *x) {
    polar_session_options so = {0};
    polar_generate_options g = {0};
    polar_session *s = NULL;
    polar_error e;
    g.max_tokens = o->max_tokens ? o->max_tokens : 50;
    so.n_ctx = MIN(n_prompt + g.max_tokens, FX_CTX);
    so.max_calls = MAX(n_path, m->n_loops * FX_LAYERS);
    so.kv_type = o->kv_type;
    so.n_threads = 1;
    g.stop = o->stop;
    CHECK(!polar_session_create(&s, m, NULL, &so, &e));
    CHECK(!polar_session_set_path(s, path, n_path, &e));
    CHECK(!polar_session_generate(s, prompt, n_prompt, &g, x->text, sizeof x->text, &x->result, &e));
    CHECK_STR(e.message, "");
    x->n_tokens = polar_session_position(s) - n_prompt;
    memcpy(x->tokens, polar_session_tokens(s) + n_prompt, (size_t)x->n_tokens * sizeof *x->tokens);
    if (x->n_tokens < x->result.n_generated) /* the last one was not evaluated any more */
        x->tokens[x->n_tokens++] =
            polar_sample(&g.sampling, polar_session_logits(s, 0), FX_VOCAB, NULL, 0, NULL, NULL, 0);
    CHECK(x->n_tokens == x->result.n_generated);
    polar_session_free(s);
}

static void same(const polar_many_result *r, const expected *x) {
    CHECK(r->status == POLAR_OK);
    CHECK(r->n_tokens == x->n_tokens && !memcmp(r->tokens, x->tokens, (size_t)x->n_tokens * sizeof *x->tokens));
    CHECK(r->stop == x->result.stop);
    CHECK(f64_bits(r->logprob) == f64_bits(x->result.logprob));
    CHECK(r->length == x->result.length && !memcmp(r->text, x->text, r->length) && !r->text[r->length]);
}

/* Tokens that end an answer, spread over the vocabulary: random weights hardly ever choose the only real one. */
static void mark_ends(polar_model *m, int every) {
    for (int i = 0; i < FX_VOCAB; i += every) m->vocab.kinds[i] |= TOK_END;
}

typedef struct programs {
    int calls[24][10];
    polar_path paths[24];
    int n;
} programs;

/* Edits of the identity and of each other, as a search proposes them; some twice, some the beginning of others. */
static void random_programs(programs *p, int n) {
    p->n = n;
    for (int i = 0; i < n; i++) {
        int *c = p->calls[i], length = 0, keep = 0;
        p->paths[i].calls = c;
        if (fx_below(3) == 0) { /* with damped segments */
            p->paths[i].n = fx_program(c);
            continue;
        }
        if (i && fx_below(4)) {
            const polar_path *from = &p->paths[fx_below(i)];
            keep = 1 + fx_below(from->n);
            memcpy(c, from->calls, (size_t)keep * sizeof *c);
            length = prog_check_calls(c, keep, FX_LAYERS, NULL) ? 0 : keep; /* it may end in a damped segment */
        }
        while (length < 9 && (length == 0 || fx_below(6))) {
            c[length] = fx_below(3) ? MIN(length, FX_LAYERS - 1) : fx_below(FX_LAYERS);
            length++;
        }
        p->paths[i].n = length;
    }
}

typedef struct round_options {
    const char *arch;
    int type, threads, drafts;
    polar_many_options o;
} round_options;

/* Adds what each of n programs takes alone in a fresh session: rows, and passes, of which a short prompt is one. */
static void count_plain(const polar_path *p, const polar_many_result *r, int n, int n_prompt, int64_t *rows,
                        int64_t *passes) {
    for (int i = 0; i < n; i++) {
        const int steps = r[i].stop == POLAR_STOP_END ? r[i].n_tokens : MAX(0, r[i].n_tokens - 1);
        *rows += p[i].n * (n_prompt + steps);
        *passes += p[i].n * (1 + steps);
    }
}

/* Several runs over one prompt with drafts of all kinds, compared with the reference. Adds the rows of plain runs. */
static void compare_prompt(polar_many *y, const polar_model *m, const round_options *w, int n_prompt, int64_t *rows) {
    static expected x[12];
    static polar_many_result r[12];
    int32_t prompt[FX_CTX];
    programs p;
    polar_error e;
    int64_t passes = 0;
    int at = 0;
    random_programs(&p, 4 + fx_below(9));
    for (int i = 0; i < n_prompt; i++) prompt[i] = fx_below(FX_VOCAB);
    CHECK(!polar_many_prompt(y, prompt, n_prompt, &e));
    for (int i = 0; i < p.n; i++) alone(m, p.paths[i].calls, p.paths[i].n, prompt, n_prompt, &w->o, &x[i]);
    for (int i = 0; i < w->drafts; i++) {
        int32_t draft[80];
        const expected *gold = &x[fx_below(p.n)];
        int n = gold->n_tokens;
        memcpy(draft, gold->tokens, (size_t)n * sizeof *draft);
        if (i == 1 && n) draft[fx_below(n)] = fx_below(FX_VOCAB); /* partly right, or wrong from the start */
        if (i != 2) draft[n++] = FX_VOCAB - 1;                            /* the end */
        else
            while (n < 70) draft[n++] = fx_below(FX_VOCAB); /* longer than any answer */
        CHECK(!polar_many_draft(y, draft, n, &e));
    }
    while (at < p.n) {
        int n = 1 + fx_below(10);
        n = MIN(n, p.n - at);
        CHECK(!polar_many_run(y, p.paths + at, n, r + at, &e));
        CHECK_STR(e.message, "");
        at += n;
    }
    for (int i = 0; i < p.n; i++) same(&r[i], &x[i]);
    count_plain(p.paths, r, p.n, n_prompt, rows, &passes);
    if (test_failures)
        printf("%s, type %d, share %d batch %d draft %d, cache %zu, %d drafts\n", w->arch, w->type, !w->o.no_share,
               !w->o.no_batch, !w->o.no_draft, w->o.cache_bytes, w->drafts);
}

static void compare(const round_options *w, const fixture *f, int rounds) {
    polar_model *m = fx_open(f, POLAR_CPU_AUTO);
    polar_many *y = NULL;
    polar_many_stats stats;
    polar_error e;
    int64_t plain = 0;
    mark_ends(m, 17);
    CHECK(!polar_many_create(&y, m, &w->o, &e));
    for (int i = 0; i < rounds && !test_failures; i++) compare_prompt(y, m, w, 1 + fx_below(16), &plain);
    polar_many_get_stats(y, &stats);
    CHECK(stats.n_rows <= plain + stats.n_drafted * 9 || (w->o.cache_bytes && w->o.cache_bytes < 500000));
    polar_many_free(y);
    polar_model_close(m);
}

/* Every combination of what can be switched, on four architectures; or few that have them all. */
TEST(same_as_alone) {
    const char *const stops[] = {"a", "[fi", NULL};
    const char *const names[] = {"llama", "ouro", "qwen3", "qwen2moe"};
    const int types[] = {QUANT_Q8_0, QUANT_F32, QUANT_Q4_0, QUANT_Q4_K};
    fixture f[4];
    for (int i = 0; i < 4; i++) f[i] = fixture_model(names[i], types[i], 7);
    for (int i = 0; i < 32 && !test_failures; i += test_quick() ? 11 : 1) {
        round_options w;
        w.arch = names[i % 4];
        w.type = types[i % 4];
        memset(&w.o, 0, sizeof w.o);
        w.o.no_share = !(i / 4 & 1), w.o.no_batch = !(i / 8 & 1), w.o.no_draft = !(i / 16 & 1);
        w.o.n_threads = 1 + fx_below(2);
        w.o.kv_type = fx_below(2) ? POLAR_KV_F16 : POLAR_KV_F32;
        w.o.max_tokens = 1 + fx_below(14);
        w.o.stop = fx_below(2) ? stops : NULL;
        w.o.cache_bytes = fx_below(3) ? (size_t)1 << (fx_below(20) + 1) : 0;
        w.drafts = fx_below(4);
        compare(&w, &f[i % 4], 2);
    }
    for (int i = 0; i < 4; i++) free(f[i].data);
}

/* --- a stream --- */

/* A caller with so many paths outstanding, who is short of them now and then. */
typedef struct caller {
    const programs *p;
    polar_many_result *results;
    int window, from; /* the paths before `from` are done */
    int n_given, n_done, n_early, stop_next, stop_done; /* early: reported before one with a lower number */
    uint64_t seed;       /* 0: never short of paths */
    int log[200], n_log; /* what was asked and reported, in turn */
} caller;

static int caller_next(void *user, polar_path *path) {
    caller *c = user;
    const int outstanding = c->n_given - c->n_done, at = c->from + c->n_given;
    c->log[c->n_log++] = at;
    if (c->n_given == c->stop_next) return -1;
    if (outstanding == c->window || at == c->p->n || (c->seed && rng_next(&c->seed) % 4 == 0)) return 0;
    *path = c->p->paths[at];
    c->n_given++;
    return 1;
}

static int caller_done(void *user, int number, const polar_many_result *result) {
    caller *c = user;
    c->log[c->n_log++] = -1 - number;
    c->n_early += number > c->n_done;
    c->results[c->from + number] = *result;
    return ++c->n_done == c->stop_done;
}

/* All paths, in as many streams as the caller needs. */
static polar_status stream_all(polar_many *y, caller *c, polar_error *e) {
    polar_status status = POLAR_OK;
    while (!status && c->from < c->p->n && c->n_log < 100) {
        status = polar_many_stream(y, caller_next, caller_done, c, e);
        if (status) break;
        CHECK(c->n_given == c->n_done);
        c->from += c->n_done;
        c->n_given = c->n_done = 0;
    }
    return status;
}

/* Length of what two answers have in common. */
static int common(const expected *x, const int32_t *tokens, int n) {
    int i = 0;
    while (x && i < MIN(n, x->n_tokens) && tokens[i] == x->tokens[i]) i++;
    return i;
}

/* The same by a clock, from results that are known. */
static void stream_by_clock(caller *c, const expected *x, const expected *draft) {
    const expected *first = NULL;
    while (c->from < c->p->n && c->n_log < 100) {
        int ends[24], reported[24] = {0}, clock = 0, best = 0;
        while (best >= 0) {
            polar_many_result r = {0};
            polar_path path;
            while (caller_next(c, &path)) {
                const expected *a = &x[c->from + c->n_given - 1];
                const int known = MAX(common(first, a->tokens, a->n_tokens), common(draft, a->tokens, a->n_tokens));
                ends[c->n_given - 1] = clock + 1 + a->n_tokens - known;
            }
            best = -1;
            for (int i = 0; i < c->n_given; i++)
                if (!reported[i] && (best < 0 || ends[i] < ends[best])) best = i;
            if (best < 0) break;
            reported[best] = 1;
            clock = ends[best];
            if (!first) first = &x[c->from + best];
            caller_done(c, best, &r);
        }
        c->from += c->n_done;
        c->n_given = c->n_done = 0;
    }
}

static caller caller_of(const programs *p, int window, uint64_t seed, polar_many_result *results) {
    caller c;
    memset(&c, 0, sizeof c);
    c.p = p;
    c.window = window;
    c.seed = seed;
    c.results = results;
    c.stop_next = c.stop_done = -1;
    return c;
}

/* What layers add becomes smaller, so that answers begin alike. */
static void calm(polar_model *m, float by) {
    for (int i = 0; i < m->n_layer; i++)
        for (int k = 0; k < m->n_embd; k++) {
            ((float *)(uintptr_t)m->layers[i].attn_norm)[k] *= by;
            ((float *)(uintptr_t)m->layers[i].ffn_norm)[k] *= by;
        }
}

/* Results as alone, reported in an order that depends on them alone. */
TEST(stream) {
    int n_early = 0;
    for (int i = 0; i < (test_quick() ? 2 : 6) && !test_failures; i++) {
        fixture f = fixture_model(fx_archs[i % 4], QUANT_Q8_0, 7);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
        const uint64_t seed = (uint64_t)i;
        const int window = 1 + fx_below(6);
        polar_many_options o = {0};
        polar_many_result r[12];
        expected x[12], draft;
        caller clock;
        programs p;
        int32_t prompt[12];
        mark_ends(m, 5);
        if (i % 3) calm(m, 0.7f);
        random_programs(&p, 12);
        o.max_tokens = 14;
        for (int k = 0; k < 12; k++) prompt[k] = fx_below(FX_VOCAB);
        for (int k = 0; k < p.n; k++) alone(m, p.paths[k].calls, p.paths[k].n, prompt, 12, &o, &x[k]);
        draft = x[5];
        draft.n_tokens = i % 2 ? (draft.n_tokens + 1) / 2 : 0;
        clock = caller_of(&p, window, seed, r);
        stream_by_clock(&clock, x, &draft);
        n_early += clock.n_early;
        for (int way = 0; way < 5; way++) {
            polar_many *y = NULL;
            polar_error e;
            caller c = caller_of(&p, window, seed, r);
            o.no_share = way == 1 || way == 4, o.no_batch = way == 2 || way == 4, o.no_draft = way == 3 || way == 4;
            o.n_threads = 1 + fx_below(2);
            o.cache_bytes = fx_below(3) ? (size_t)1 << (fx_below(20) + 1) : 0;
            CHECK(!polar_many_create(&y, m, &o, &e) && !polar_many_prompt(y, prompt, 12, &e));
            if (draft.n_tokens) CHECK(!polar_many_draft(y, draft.tokens, draft.n_tokens, &e));
            CHECK(!stream_all(y, &c, &e));
            CHECK_STR(e.message, "");
            CHECK(c.from == p.n && y->reserved == 0);
            for (int k = 0; k < p.n; k++) same(&r[k], &x[k]);
            CHECK(c.n_log == clock.n_log && !memcmp(c.log, clock.log, (size_t)c.n_log * sizeof *c.log));
            polar_many_free(y);
        }
        polar_model_close(m);
        free(f.data);
    }
    CHECK(n_early > 0 || test_quick());
}

/* New paths begin while others still generate: there are fewer passes than with one batch after the other. */
TEST(stream_overlaps) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 4);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_many_options o = {0};
    polar_many *y[2] = {NULL, NULL};
    polar_many_stats stream, batches;
    mark_ends(m, 9);
    o.max_tokens = 14;
    CHECK(!polar_many_create(&y[0], m, &o, NULL) && !polar_many_create(&y[1], m, &o, NULL));
    for (int round = 0; round < 6; round++) {
        const int32_t prompt[] = {5, 6, 7, 8, round};
        polar_many_result r[24];
        caller c;
        programs p;
        random_programs(&p, 24);
        c = caller_of(&p, 4, 0, r);
        CHECK(!polar_many_prompt(y[0], prompt, 5, NULL) && !stream_all(y[0], &c, NULL));
        CHECK(!polar_many_prompt(y[1], prompt, 5, NULL));
        for (int k = 0; k < 24; k += 4) CHECK(!polar_many_run(y[1], p.paths + k, 4, r, NULL));
    }
    polar_many_get_stats(y[0], &stream);
    polar_many_get_stats(y[1], &batches);
    CHECK(stream.n_passes < batches.n_passes);
    for (int i = 0; i < 2; i++) polar_many_free(y[i]);
    polar_model_close(m);
    free(f.data);
}

/* A caller who stops, a wrong path: what was reported stays, and the next stream is right. */
TEST(stream_stops) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 3);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    const int32_t prompt[] = {5, 6, 7};
    for (int plain = 0; plain < 2; plain++) {
        polar_many_options o = {0};
        polar_many_result r[8], again[8];
        polar_many *y = NULL;
        polar_error e;
        programs p;
        caller c;
        random_programs(&p, 8);
        o.max_tokens = 5;
        if (plain) o.no_share = o.no_batch = o.no_draft = 1;
        CHECK(!polar_many_create(&y, m, &o, &e));
        c = caller_of(&p, 3, 1, r);
        CHECK(polar_many_stream(y, caller_next, caller_done, &c, &e) == POLAR_ARGUMENT && c.n_done == 0);
        CHECK_STR(e.message, "a path before polar_many_prompt");
        CHECK(!polar_many_prompt(y, prompt, 3, &e));
        CHECK(polar_many_stream(y, NULL, caller_done, &c, &e) == POLAR_ARGUMENT &&
              polar_many_stream(y, caller_next, NULL, &c, &e) == POLAR_ARGUMENT);
        c = caller_of(&p, 3, 1, r), c.stop_done = 2;
        CHECK(polar_many_stream(y, caller_next, caller_done, &c, &e) == POLAR_CANCELLED && c.n_done == 2);
        c = caller_of(&p, 3, 1, r), c.stop_next = 0;
        CHECK(polar_many_stream(y, caller_next, caller_done, &c, &e) == POLAR_CANCELLED && c.n_done == 0);
        CHECK_STR(e.message, "cancelled after 0 of 0 programs");
        c = caller_of(&p, 1, 2, r), p.paths[4].n = 0;
        CHECK(stream_all(y, &c, &e) == POLAR_ARGUMENT && c.from + c.n_done == 4);
        CHECK_STR(e.message, "a path of 0 calls, expected 1..1280");
        p.paths[4].n = p.paths[3].n, p.paths[4].calls = p.paths[3].calls;
        c = caller_of(&p, 5, 3, again);
        CHECK(!stream_all(y, &c, &e) && c.from == 8 && y->reserved == 0);
        for (int k = 0; k < 4; k++)
            CHECK(r[k].n_tokens == again[k].n_tokens && f64_bits(r[k].logprob) == f64_bits(again[k].logprob));
        CHECK(!memcmp(again[3].tokens, again[4].tokens, (size_t)again[3].n_tokens * sizeof(int32_t)));
        polar_many_free(y);
    }
    polar_model_close(m);
    free(f.data);
}

/* A prompt as long as the context, and nearly so. */
TEST(context) {
    fixture f = fixture_model("qwen3", QUANT_Q8_0, 5);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_many_options o = {0};
    for (int i = 0; i < 8; i++) {
        const int calls[] = {0, 1, 2, 2, 3}, n = FX_CTX - i % 4;
        const polar_path p[] = {{calls, 5}, {calls, 3}};
        int32_t prompt[FX_CTX];
        polar_many_result r[2];
        polar_many *y = NULL;
        polar_error e;
        double logprob;
        o.no_batch = o.no_share = !(i / 4);
        for (int k = 0; k < n; k++) prompt[k] = fx_below(FX_VOCAB - 1);
        CHECK(!polar_many_create(&y, m, &o, &e));
        CHECK(!polar_many_prompt(y, prompt, n, &e));
        CHECK(!polar_many_run(y, p, 2, r, &e));
        for (int k = 0; k < 2; k++) {
            expected x;
            alone(m, p[k].calls, p[k].n, prompt, n, &o, &x);
            same(&r[k], &x);
        }
        CHECK(polar_many_score(y, p[0], prompt, i % 4 + 1, &logprob, &e) == POLAR_CONTEXT);
        CHECK_STR(e.message, i % 4 == 0 ? "1 tokens after a prompt of 96, the model was trained for 96" : e.message);
        polar_many_free(y);
    }
    polar_model_close(m);
    free(f.data);
}

static double score_alone(const polar_model *m, polar_path p, const int32_t *prompt, int n_prompt,
                          const int32_t *tokens, int n) {
    static float scratch[FX_VOCAB];
    polar_session_options so = {0};
    polar_session *s = NULL;
    double sum = 0;
    so.max_calls = 10;
    CHECK(!polar_session_create(&s, m, NULL, &so, NULL) && !polar_session_set_path(s, p.calls, p.n, NULL));
    CHECK(!polar_session_eval(s, prompt, n_prompt, NULL));
    for (int i = 0; i < n; i++) {
        sum += gen_logprob(m, polar_session_logits(s, 0), tokens[i], scratch);
        CHECK(!polar_session_eval(s, tokens + i, 1, NULL));
    }
    polar_session_free(s);
    return sum;
}

/* Scores, in between runs, under every bound of memory. */
TEST(score) {
    for (int i = 0; i < 4 && !test_failures; i++) {
        fixture f = fixture_model(fx_archs[i % 4], QUANT_Q8_0, 9);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
        polar_many_options o = {0};
        polar_many_result r[24];
        polar_many *y = NULL;
        polar_error e;
        programs p;
        int32_t prompt[20], tokens[30];
        o.no_share = i == 1, o.cache_bytes = i == 2 ? 1 : 0, o.no_batch = o.no_draft = i != 3;
        for (int k = 0; k < 20; k++) prompt[k] = fx_below(FX_VOCAB);
        random_programs(&p, 4);
        CHECK(!polar_many_create(&y, m, &o, &e));
        CHECK(!polar_many_prompt(y, prompt, 20, &e));
        for (int k = 0; k < (test_quick() ? 7 : 12); k++) {
            const polar_path path = p.paths[fx_below(4)];
            const int n = 1 + fx_below(30);
            double found, sum;
            for (int j = 0; j < n; j++) tokens[j] = fx_below(FX_VOCAB);
            if (k == 6) CHECK(!polar_many_run(y, p.paths, 4, r, &e));
            CHECK(!polar_many_score(y, path, tokens, n, &found, &e));
            sum = score_alone(m, path, prompt, 20, tokens, n);
            CHECK(f64_bits(sum) == f64_bits(found));
        }
        polar_many_free(y);
        polar_model_close(m);
        free(f.data);
    }
}

/* Work is really saved: by each part, and nothing is computed twice where nothing was dropped. */
TEST(savings) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 4);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    int64_t n_rows[4];
    for (int i = 0; i < 4; i++) {
        int64_t rows = 0, passes = 0;
        const int calls[] = {0, 1, 2, 3, 3, 0, 1, 2, 2, 3};
        const polar_path p[] = {{calls, 4}, {calls, 5}, {calls + 5, 5}, {calls, 4}};
        int32_t prompt[30];
        polar_many_options o = {0};
        polar_many_stats s;
        polar_many_result r[4];
        expected x;
        polar_many *y = NULL;
        o.no_share = i != 1, o.no_batch = i != 2, o.no_draft = i != 3;
        o.max_tokens = 12;
        for (int k = 0; k < 30; k++) prompt[k] = 3 * k;
        alone(m, p[0].calls, 4, prompt, 30, &o, &x);
        CHECK(!polar_many_create(&y, m, &o, NULL) && !polar_many_prompt(y, prompt, 30, NULL));
        CHECK(!polar_many_draft(y, x.tokens, x.n_tokens, NULL));
        CHECK(!polar_many_run(y, p, 4, r, NULL));
        polar_many_get_stats(y, &s);
        n_rows[i] = s.n_rows;
        count_plain(p, r, 4, 30, &rows, &passes);
        if (i == 0) CHECK(s.n_rows == rows && s.n_passes == passes);
        if (i == 1) CHECK(s.n_rows < rows - 7 * 30 && s.n_recomputed == 0);
        if (i == 1) { /* a path that was run is not run again */
            polar_many_stats again;
            CHECK(!polar_many_run(y, p, 4, r, NULL));
            polar_many_get_stats(y, &again);
            CHECK(again.n_rows == s.n_rows);
        }
        if (i == 2) CHECK(s.n_rows == rows && s.n_passes * 2 < passes);
        if (i == 3)
            CHECK(s.n_accepted >= 2 * (x.n_tokens - 1) && s.n_passes < passes - 2 * 4 * (x.n_tokens - 2));
        polar_many_free(y);
    }
    CHECK(n_rows[2] == n_rows[0]);
    polar_model_close(m);
    free(f.data);
}

/* --- failures --- */

typedef struct counting {
    int n, fail_at, live;
    size_t bytes, most;
} counting;

static void *count_alloc(void *user, size_t size) {
    counting *c = user;
    void *p = c->n++ == c->fail_at ? NULL : malloc(size);
    c->live += p != NULL;
    c->bytes += p ? size : 0;
    c->most = MAX(c->most, c->bytes);
    return p;
}

static void count_free(void *user, void *p, size_t size) {
    counting *c = user;
    c->live--;
    c->bytes -= size;
    free(p);
}

static int on_progress(void *user, double done) {
    int *left = user;
    CHECK(done >= 0 && done < 1);
    return (*left)-- == 0;
}

/* Every allocation refused in turn, and cancelled at every pass: an error, no leak, and the next run is right. */
TEST(errors) {
    fixture f = fixture_model("qwen2", QUANT_Q8_0, 6);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    programs p;
    const int32_t prompt[] = {5, 6, 7, 8, 9}, draft[] = {1, 2, 3};
    expected x[5];
    const int step = test_quick() ? 31 : 1;
    int failed = 0;
    polar_many_options o = {0};
    random_programs(&p, 5);
    o.max_tokens = 5;
    o.n_threads = 1;
    o.cache_bytes = 300000;
    for (int i = 0; i < 5; i++) alone(m, p.paths[i].calls, p.paths[i].n, prompt, 5, &o, &x[i]);
    for (int at = 0, stream = 0; stream < 2 && !test_failures; at = failed ? at + step : 0, stream += !failed) {
        counting c = {0, at / 2, 0, 0, 0};
        const polar_allocator a = {count_alloc, count_free, &c};
        int left = at / 2;
        polar_many *y = NULL;
        polar_many_result r[5];
        caller user = caller_of(&p, 3, 0, r);
        polar_error e;
        polar_status status;
        o.allocator = &a;
        o.progress = at % 2 ? on_progress : NULL;
        o.progress_user = &left;
        if (at % 2) c.fail_at = -1;
        status = polar_many_create(&y, m, &o, &e);
        if (!status) status = polar_many_prompt(y, prompt, 5, &e);
        if (!status) status = polar_many_draft(y, draft, 3, &e);
        if (!status && stream) status = stream_all(y, &user, &e);
        else if (!status) status = polar_many_run(y, p.paths, 5, r, &e);
        CHECK(!status == (e.status == POLAR_OK) && (!status || *e.message));
        CHECK(!status || status == (at % 2 ? POLAR_CANCELLED : POLAR_MEMORY));
        failed = status != POLAR_OK || at % 2;
        c.fail_at = left = -1;
        for (int i = 0; i < user.n_log; i++) /* what was reported before stays */
            if (user.log[i] < 0) same(&r[-1 - user.log[i]], &x[-1 - user.log[i]]);
        if (y && y->n_prompt && at % 8 < 2) {
            CHECK(!polar_many_run(y, p.paths, 5, r, &e));
            for (int i = 0; i < 5; i++) same(&r[i], &x[i]);
        }
        polar_many_free(y);
        CHECK(c.live == 0 && c.bytes == 0);
    }
    polar_model_close(m);
    free(f.data);
}

/* What is held stays below the bound when one path fits it, whatever runs. */
TEST(memory_bound) {
    fixture f = fixture_model("llama", QUANT_Q4_0, 6);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    for (int i = 0; i < (test_quick() ? 1 : 3); i++) {
        polar_many_options o = {0};
        polar_many_stats s;
        polar_many *y = NULL;
        polar_many_result r[24];
        int32_t prompt[40];
        programs p;
        o.cache_bytes = (size_t)(1100 + 700 * i) << 10; /* one path of ten calls: 1035 KB */
        o.max_tokens = 12;
        CHECK(!polar_many_create(&y, m, &o, NULL));
        for (int round = 0; round < 2; round++) {
            for (int k = 0; k < 40; k++) prompt[k] = fx_below(FX_VOCAB);
            CHECK(!polar_many_prompt(y, prompt, 40, NULL));
            random_programs(&p, 24);
            for (int k = 0; k < 24; k += 8) CHECK(!polar_many_run(y, p.paths + k, 8, r, NULL));
        }
        polar_many_get_stats(y, &s);
        CHECK(y->reserved == 0); /* or later programs would wait for room that is there */
        CHECK(s.peak_bytes <= o.cache_bytes && s.cache_bytes <= s.peak_bytes && s.peak_bytes > o.cache_bytes / 2);
        polar_many_free(y);
    }
    polar_model_close(m);
    free(f.data);
}

/* A program whose numbers overflow has that as its result; the others have theirs. */
TEST(not_finite) {
    fixture f = fixture_model("llama", QUANT_F32, 6);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    const int bad[] = {0, 1, 2, 2, 3}, good[] = {0, 1, 3};
    const polar_path p[] = {{bad, 5}, {good, 3}, {bad, 5}};
    const int32_t prompt[] = {5, 6, 7, 8, 9};
    programs list;
    caller first;
    list.n = 3;
    memcpy(list.paths, p, sizeof p);
    for (int i = 0; i < 8; i++) {
        polar_many_options o = {0};
        polar_many *y = NULL;
        polar_many_result r[3];
        caller c = caller_of(&list, 3, 0, r);
        polar_error e;
        expected x;
        double logprob;
        float *norm = (float *)(uintptr_t)m->layers[2].ffn_norm;
        const float was = norm[0];
        o.no_share = !(i & 1), o.no_batch = !(i >> 1 & 1), o.no_draft = !(i >> 2 & 1);
        norm[0] = bits_f32(0x7f800000);
        alone(m, good, 3, prompt, 5, &o, &x);
        CHECK(!polar_many_create(&y, m, &o, &e) && !polar_many_prompt(y, prompt, 5, &e));
        CHECK(!polar_many_draft(y, x.tokens, x.n_tokens, &e));
        CHECK(!stream_all(y, &c, &e)); /* whenever it breaks, it is reported last */
        if (!i) first = c;
        CHECK(c.n_log == first.n_log && !memcmp(c.log, first.log, (size_t)c.n_log * sizeof *c.log) && c.n_early == 1);
        CHECK(!polar_many_run(y, p, 3, r, &e));
        same(&r[1], &x);
        CHECK(r[0].status == POLAR_NUMERIC && r[0].n_tokens == 0 && r[0].length == 0 && !*r[0].text &&
              r[2].status == POLAR_NUMERIC);
        CHECK(polar_many_score(y, p[0], prompt, 3, &logprob, &e) == POLAR_NUMERIC && strstr(e.message, "not finite"));
        polar_many_free(y);
        norm[0] = was;
    }
    polar_model_close(m);
    free(f.data);
}

TEST(bad_input) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 3);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    const polar_runner without_function = {NULL, NULL, 2};
    polar_session_options so = {0};
    polar_session *s = NULL;
    polar_many_options o = {0};
    const char *const empty[] = {"", NULL};
    const int calls[] = {0, 4};
    const polar_path p = {calls, 1}, wrong = {calls, 2}, none = {calls, 0};
    const int32_t tokens[] = {1, 300, -1};
    polar_many *y = NULL;
    polar_many_result r;
    polar_error e;
    double logprob;
    CHECK(polar_many_create(NULL, m, NULL, &e) == POLAR_ARGUMENT &&
          polar_many_create(&y, NULL, NULL, &e) == POLAR_ARGUMENT);
    so.runner = o.runner = &without_function;
    CHECK(polar_many_create(&y, m, &o, &e) == POLAR_ARGUMENT && !y);
    CHECK(polar_session_create(&s, m, NULL, &so, &e) == POLAR_ARGUMENT && !s);
    o.runner = NULL;
    o.max_tokens = POLAR_OFF;
    CHECK(polar_many_create(&y, m, &o, &e) == POLAR_ARGUMENT && !y);
    o.max_tokens = 5, o.stop = empty;
    CHECK(polar_many_create(&y, m, &o, &e) == POLAR_ARGUMENT && !y);
    o.stop = NULL;
    CHECK(!polar_many_create(&y, m, &o, &e));
    CHECK(polar_many_run(y, &p, 1, &r, &e) == POLAR_ARGUMENT && polar_many_draft(y, tokens, 1, &e) == POLAR_ARGUMENT);
    CHECK(polar_many_prompt(y, tokens, 0, &e) == POLAR_ARGUMENT &&
          polar_many_prompt(y, tokens, 2, &e) == POLAR_ARGUMENT);
    CHECK_STR(e.message, "token 300 at place 1 of the prompt is out of range, the vocabulary has 0..299");
    CHECK(!polar_many_prompt(y, tokens, 1, &e));
    CHECK(polar_many_draft(y, tokens, 3, &e) == POLAR_ARGUMENT &&
          polar_many_score(y, p, tokens, 2, &logprob, &e) == POLAR_ARGUMENT);
    CHECK(polar_many_run(y, &wrong, 1, &r, &e) == POLAR_MISMATCH &&
          polar_many_run(y, &none, 1, &r, &e) == POLAR_ARGUMENT);
    CHECK(polar_many_run(y, NULL, 1, &r, &e) == POLAR_ARGUMENT && polar_many_run(y, &p, -1, &r, &e) == POLAR_ARGUMENT);
    CHECK(!polar_many_run(y, NULL, 0, NULL, &e) && !polar_many_run(y, &p, 1, &r, &e));
    polar_many_free(y);
    polar_many_free(NULL);
    polar_model_close(m);
    free(f.data);
}

static const test_case tests[] = {
#define T(name)                                                                                                        \
    { #name, test_##name }
    T(same_as_alone), T(stream), T(stream_overlaps), T(stream_stops), T(context),  T(score),
    T(savings),       T(errors), T(memory_bound),    T(not_finite),   T(bad_input),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
