/* The forward pass by program: against independent numbers, and against itself where the definition says that
 * results are equal - cached and recomputed, in chunks, on threads, on every instruction set. */
#include "inside.h"
#include "test.h"
#include "fixture.h"
#include "oracle.h"

static polar_session *started(const polar_model *m, polar_session_options o, const int *path, int n) {
    polar_session *s = NULL;
    polar_error e;
    o.max_calls = MAX(MAX(n, o.max_calls), m->n_layer * m->n_loops);
    polar_session_create(&s, m, NULL, &o, &e);
    CHECK_STR(e.message, "");
    if (s) CHECK(!polar_session_set_path(s, path, n, &e));
    return s;
}

static polar_program parsed_program(const char *text) {
    polar_program p;
    CHECK(!polar_program_parse(&p, FX_LAYERS, text, NULL));
    return p;
}

static int prog_skips(const polar_program *p) {
    for (int i = 0; i < p->n_segments; i++)
        if (!p->segments[i].times) return 1;
    return 0;
}

/* 1..8 calls in any order, with repeats; or up to 10 of a program that may have damped segments. */
static int random_path(int *path) {
    const int n = 1 + fx_below(8);
    if (fx_below(2)) return fx_program(path);
    for (int i = 0; i < n; i++) path[i] = fx_below(FX_LAYERS);
    return n;
}

/* Evaluates tokens in pieces of the sizes that `pieces` gives in turn; the last logits are copied. */
static void evaluate(polar_session *s, const int32_t *tokens, int n, const int *pieces, int n_pieces, float *logits) {
    polar_error e;
    for (int at = 0, i = 0; at < n; i++) {
        const int step = MIN(pieces[i % n_pieces], n - at);
        CHECK(!polar_session_eval(s, tokens + at, step, &e));
        at += step;
    }
    memcpy(logits, polar_session_logits(s, 0), FX_VOCAB * sizeof *logits);
}

TEST(cached_is_recomputed) {
    static float whole[FX_VOCAB], other[FX_VOCAB];
    const int all[] = {FX_CTX}, ones[] = {1}, mixed[] = {5, 1, 1, 9, 3};
    for (int a = 0; a < COUNT(fx_archs); a++)
        for (int round = 0; round < (test_quick() ? 1 : 3); round++) {
            const int types[] = {QUANT_Q4_K, QUANT_F32, QUANT_Q8_0, QUANT_Q6_K, QUANT_Q5_0, QUANT_F16};
            fixture f = fixture_model(fx_archs[a], types[(a + round) % 6], (uint64_t)round);
            /* every second one by plain C, which takes longest */
            const polar_cpu cpu = (a + round) % 2 ? POLAR_CPU_PLAIN : POLAR_CPU_AUTO;
            polar_model *m = fx_open(&f, POLAR_CPU_AUTO), *again = fx_open(&f, cpu);
            polar_session_options o = {0};
            int32_t tokens[40];
            int path[10], n_path = random_path(path), n = 8 + fx_below(8);
            polar_session *s;
            for (int i = 0; i < n; i++) tokens[i] = fx_below(FX_VOCAB);
            o.kv_type = round % 2 ? POLAR_KV_F32 : POLAR_KV_F16;
            o.n_threads = 2;
            s = started(m, o, path, n_path);
            evaluate(s, tokens, n, all, 1, whole);
            polar_session_truncate(s, 0, NULL);
            evaluate(s, tokens, n, ones, 1, other);
            CHECK_BITS(whole, other, FX_VOCAB);
            polar_session_truncate(s, n / 2, NULL); /* the first half is kept */
            evaluate(s, tokens + n / 2, n - n / 2, mixed, 5, other);
            CHECK_BITS(whole, other, FX_VOCAB);
            polar_session_free(s);
            o.n_threads = 5, o.n_batch = 3; /* other threads, other chunks */
            s = started(again, o, path, n_path);
            evaluate(s, tokens, n, mixed, 5, other);
            CHECK_BITS(whole, other, FX_VOCAB);
            polar_session_free(s);
            polar_model_close(m);
            polar_model_close(again);
            free(f.data);
        }
}

/* A session whose tokens run under one of three programs each, as `turns` says: one that goes on, one that gets all
 * pieces again in other chunks with other threads, and sometimes plain C, one that was cut and went on, and a clone. */
TEST(changed_programs) {
    static float logits[2][FX_VOCAB];
    for (int round = 0; round < (test_quick() ? 4 : 18); round++) {
        fixture f = fixture_model(fx_archs[round % COUNT(fx_archs)], QUANT_Q8_0, (uint64_t)round);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
        polar_model *again = fx_open(&f, round % 3 ? POLAR_CPU_AUTO : POLAR_CPU_PLAIN);
        polar_session_options o = {0};
        polar_program p[3];
        polar_session *s[2] = {NULL, NULL}, *clone = NULL;
        int32_t tokens[30];
        int turns[8], steps[8], at = 0, cut = fx_below(7);
        for (int i = 0; i < 30; i++) tokens[i] = fx_below(FX_VOCAB);
        for (int i = 0; i < 3; i++)
            do { /* none that skips a layer, and some that are the same */
                int calls[10], n = fx_program(calls);
                CHECK(!polar_program_from_path(&p[i], FX_LAYERS, calls, n, FX_LAYERS, 9, NULL));
            } while (polar_program_length(&p[i]) > 10 || prog_skips(&p[i]));
        o.max_calls = 10, o.max_programs = 8;
        o.kv_mode = (round + round / COUNT(fx_archs)) % 2 ? POLAR_KV_PER_CALL : POLAR_KV_LAST;
        for (int k = 0; k < 2; k++) {
            CHECK(!polar_session_create(&s[k], k ? again : m, &p[0], &o, NULL));
            o.n_batch = 2, o.n_threads = 2;
        }
        for (int i = 0; i < 8; i++) turns[i] = i ? fx_below(3) : 0, steps[i] = 1 + fx_below(3);
        for (int k = 0; k < 2; k++)
            for (int i = at = 0; i < 8; at += steps[i++]) {
                CHECK(!polar_session_change_program(s[k], &p[turns[i]], NULL));
                /* some more tokens that are dropped again, perhaps behind another change */
                if (k && i == cut) {
                    CHECK(!polar_session_eval(s[k], tokens + 20, 3, NULL));
                    CHECK(!polar_session_change_program(s[k], &p[(turns[i] + 1) % 3], NULL));
                    CHECK(!polar_session_eval(s[k], tokens + 23, 1 + i % 2, NULL));
                    CHECK(!polar_session_truncate(s[k], at, NULL));
                    CHECK(!polar_session_change_program(s[k], &p[turns[i]], NULL));
                }
                if (k && i == cut) {
                    CHECK(!polar_session_clone(&clone, s[k], NULL));
                    polar_session_free(s[k]);
                    s[k] = clone;
                }
                if (k && o.kv_mode == POLAR_KV_PER_CALL) /* chunks are one thing, evaluations another */
                    for (int j = 0; j < steps[i]; j++) CHECK(!polar_session_eval(s[k], tokens + at + j, 1, NULL));
                else CHECK(!polar_session_eval(s[k], tokens + at, steps[i], NULL));
                memcpy(logits[k], polar_session_logits(s[k], 0), sizeof logits[k]);
            }
        CHECK_BITS(logits[0], logits[1], FX_VOCAB);
        for (int k = 0; k < 2; k++) polar_session_free(s[k]);
        polar_model_close(m);
        polar_model_close(again);
        free(f.data);
    }
}

/* One slot per layer gives what slots per call give when the tokens before an evaluation count as those of another
 * program; a prompt is that of slots per call. And it takes less memory. */
TEST(last_calls) {
    static float logits[2][FX_VOCAB];
    for (int round = 0; round < (test_quick() ? 4 : 20); round++) {
        fixture f = fixture_model(fx_archs[round % COUNT(fx_archs)], QUANT_Q8_0, (uint64_t)round);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
        polar_session_options o = {0};
        polar_session *s[2];
        int32_t tokens[24];
        int path[10], n_path = random_path(path);
        for (int i = 0; i < 24; i++) tokens[i] = fx_below(FX_VOCAB);
        o.max_programs = 12;
        o.n_batch = 1 + fx_below(20);
        s[0] = started(m, o, path, n_path);
        o.kv_mode = POLAR_KV_LAST, o.n_batch = 1 + fx_below(8);
        s[1] = started(m, o, path, n_path);
        for (int i = 0, at = 0, step; i < 8; i++, at += step) {
            step = i ? 1 + fx_below(2) : 8;
            for (int k = 0; k < 2; k++) {
                if (!k && i) { /* a change to a program that is another one by name only */
                    session_put_path(s[0], i, at, path, n_path);
                    s[0]->stretches[i].same = i;
                }
                CHECK(!polar_session_eval(s[k], tokens + at, step, NULL));
                memcpy(logits[k], polar_session_logits(s[k], 0), sizeof logits[k]);
            }
            CHECK_BITS(logits[0], logits[1], FX_VOCAB);
        }
        if (round == 1) { /* loses nothing on the way through a file */
            static uint8_t state[1 << 20];
            size_t size;
            CHECK(!polar_session_save(s[1], state, sizeof state, &size, NULL));
            CHECK(!polar_session_load(s[1], state, size, NULL));
            CHECK(polar_session_save(s[0], state, sizeof state, &size, NULL) == POLAR_UNSUPPORTED);
        }
        polar_session_free(s[0]);
        polar_session_free(s[1]);
        if (round == 0) {
            const polar_program loops = parsed_program("0-3x4");
            size_t bytes;
            o.n_ctx = FX_CTX, o.n_batch = 1;
            bytes = polar_session_bytes(m, &loops, &o);
            o.kv_mode = POLAR_KV_PER_CALL;
            CHECK(bytes && bytes < polar_session_bytes(m, &loops, &o));
        }
        polar_model_close(m);
        free(f.data);
    }
}

/* Notes in what order sessions go through their calls. */
typedef struct together_tap {
    int order[400], n, cancel_at;
} together_tap;

static int together_call(void *user, const polar_tap_info *info) {
    together_tap *t = user;
    if (t->n < COUNT(t->order)) t->order[t->n++] = info->call;
    return t->cancel_at && t->n == t->cancel_at;
}

static void same_session(const polar_session *a, const polar_session *b) {
    static uint8_t state[2][1 << 20];
    size_t size[2] = {0, 0};
    polar_error e[2];
    const polar_status saved = polar_session_save(a, state[0], sizeof state[0], &size[0], &e[0]);
    CHECK(saved == polar_session_save(b, state[1], sizeof state[1], &size[1], &e[1]));
    CHECK(saved == POLAR_OK || saved == POLAR_UNSUPPORTED); /* of several programs */
    CHECK(size[0] == size[1] && (saved || !memcmp(state[0], state[1], size[0])));
    CHECK(polar_session_position(a) == polar_session_position(b));
    CHECK_BITS(polar_session_logits((polar_session *)(uintptr_t)a, 0),
               polar_session_logits((polar_session *)(uintptr_t)b, 0), FX_VOCAB);
}

/* Sessions that advance together hold, byte for byte, what they hold one by one: under programs, modes and contexts of
 * their own, and whatever they did before. */
TEST(together) {
    static const char *const names[] = {"llama", "qwen3", "qwen3moe", "nanbeige"};
    for (int round = 0; round < 12; round++) {
        enum { N = 5 };
        fixture f = fixture_model(names[round % 4], round % 3 ? QUANT_Q8_0 : QUANT_Q4_K, 7);
        polar_model *m = fx_open(&f, round % 2 ? POLAR_CPU_AUTO : POLAR_CPU_PLAIN);
        const int n = 1 + (round + 4) % N;
        polar_session *s[N], *alone[N];
        int32_t tokens[N + 20];
        for (int i = 0; i < N; i++) {
            polar_session_options o = {0};
            polar_generate_options g = {0};
            int path[10], n_path = fx_program(path);
            o.n_threads = 1 + round % 2;
            o.max_calls = 10;
            o.max_programs = 4;
            o.n_ctx = 40 + fx_below(50);
            o.max_peek = 10;
            o.kv_type = round % 5 ? POLAR_KV_F16 : POLAR_KV_F32;
            o.kv_mode = round % 3 == 2 ? (polar_kv_mode)fx_below(POLAR_N_KV_MODE) : POLAR_KV_PER_CALL;
            CHECK(!polar_session_create(&s[i], m, NULL, &o, NULL) && !polar_session_set_path(s[i], path, n_path, NULL));
            for (int k = 0; k < 20; k++) tokens[N + k] = fx_below(FX_VOCAB);
            if (i == 1 && m->n_layer > 1) { /* goes on from a peek, whose last token is not the one that comes */
                CHECK(!polar_session_set_program(s[i], NULL, NULL));
                CHECK(!polar_session_peek(s[i], tokens + N, 10, 2, NULL, NULL));
            }
            if (i != 2) CHECK(!polar_session_eval(s[i], tokens + N, 1 + fx_below(i == 1 ? 8 : 20), NULL));
            g.max_tokens = 2, g.ignore_end = 1;
            if (i == 3) CHECK(!polar_session_generate(s[i], NULL, 0, &g, NULL, 0, NULL, NULL)); /* a token waits */
            if (i == 4 && o.kv_mode == POLAR_KV_PER_CALL && !polar_session_set_program(s[i], NULL, NULL)) {
                polar_program p;
                CHECK(!polar_session_eval(s[i], tokens + N, 9, NULL));
                CHECK(!polar_program_parse(&p, FX_LAYERS, "1-2x2 3~2", NULL));
                CHECK(!polar_session_change_program(s[i], &p, NULL));
            }
            CHECK(!polar_session_clone(&alone[i], s[i], NULL));
        }
        for (int step = 0; step < 5; step++) {
            for (int i = 0; i < n; i++) tokens[i] = fx_below(FX_VOCAB);
            CHECK(!polar_sessions_decode(s, n, tokens, NULL));
            for (int i = 0; i < n; i++) CHECK(!polar_session_eval(alone[i], tokens + i, 1, NULL));
            for (int i = 0; i < n; i++) same_session(s[i], alone[i]);
        }
        for (int i = 0; i < N; i++) polar_session_free(s[i]), polar_session_free(alone[i]);
        polar_model_close(m);
        free(f.data);
    }
}

/* One pass over a layer's weights is for all sessions that need it; what is refused changes none of them. */
/* Logits of all sessions share a place that is as large as the vocabulary wants it. */
TEST(together_too_many) {
    enum { VOCAB = 5, MOST = 4 * VOCAB };
    const fixture_shape shape = {.width = 32, .head = 8, .ff = 32, .layers = 1, .ctx = 64, .vocab = VOCAB,
                                 .small_vocab = 1};
    fixture f = fixture_shaped("llama", QUANT_Q8_0, 7, &shape);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_session *s[MOST + 1];
    const polar_session_options o = {.n_threads = 1, .n_ctx = 32, .n_batch = MOST + 1};
    int32_t tokens[MOST + 1];
    polar_error e;
    for (int i = 0; i <= MOST; i++) {
        tokens[i] = i % VOCAB;
        CHECK(!polar_session_create(&s[i], m, NULL, &o, NULL));
    }
    CHECK(polar_sessions_decode(s, MOST + 1, tokens, &e) == POLAR_ARGUMENT && !polar_session_position(s[0]));
    CHECK(!polar_sessions_decode(s, MOST, tokens, &e) && polar_session_position(s[MOST - 1]) == 1);
    for (int i = 0; i <= MOST; i++) polar_session_free(s[i]);
    polar_model_close(m);
    free(f.data);
}

TEST(together_or_not_at_all) {
    enum { N = 3 };
    fixture f = fixture_model("llama", QUANT_Q8_0, 7), other = fixture_model("llama", QUANT_Q8_0, 8);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO), *m2 = fx_open(&other, POLAR_CPU_AUTO);
    const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8}, bad[] = {1, 2, FX_VOCAB};
    together_tap tap;
    polar_session *s[N + 1], *alone[N];
    polar_session_options o = {0};
    polar_error e;
    memset(&tap, 0, sizeof tap);
    o.n_threads = 1;
    o.tap = together_call, o.tap_user = &tap;
    for (int i = 0; i < N; i++) {
        o.n_ctx = i == 1 ? 4 : 10;
        CHECK(!polar_session_create(&s[i], m, NULL, &o, NULL) && !polar_session_eval(s[i], tokens, 3, NULL));
        CHECK(!polar_session_clone(&alone[i], s[i], NULL));
    }
    o.tap = NULL;
    { /* a session that repeats a layer meets the other one behind it */
        static const int order[] = {-1, -1, 0, 0, 1, 2, 1, 3, 2, 4, 3};
        const int path[] = {0, 0, 1, 2, 3};
        polar_session *pair[2] = {NULL, s[0]};
        o.max_calls = 5;
        o.tap = together_call;
        CHECK(!polar_session_create(&pair[0], m, NULL, &o, NULL) && !polar_session_set_path(pair[0], path, 5, NULL));
        tap.n = 0;
        CHECK(!polar_sessions_decode(pair, 2, tokens, &e) && !polar_session_truncate(s[0], 3, &e));
        CHECK(tap.n == COUNT(order) && !memcmp(tap.order, order, sizeof order));
        polar_session_free(pair[0]);
        o.tap = NULL, o.max_calls = 0;
    }
    tap.n = 0;
    CHECK(!polar_sessions_decode(s, N, tokens, &e));
    CHECK(tap.n == N * (1 + FX_LAYERS)); /* the embeddings, then a layer for all of them after the other */
    for (int i = 0; i < tap.n; i++) CHECK(tap.order[i] == i / N - 1);
    for (int i = 0; i < N; i++) CHECK(!polar_session_eval(alone[i], tokens + i, 1, NULL));
    /* session 1 is full now */
    CHECK(polar_sessions_decode(s, N, tokens, &e) == POLAR_CONTEXT && polar_sessions_decode(s, 1, bad + 2, &e) ==
          POLAR_ARGUMENT);
    polar_session_free(s[1]);
    s[1] = s[2];
    CHECK(polar_sessions_decode(s, N, tokens, &e) == POLAR_ARGUMENT && strstr(e.message, "sessions 1 and 2"));
    tap.n = 0, tap.cancel_at = 2 * 3; /* of two sessions: behind layer 1 of the second */
    CHECK(polar_sessions_decode(s, 2, tokens, &e) == POLAR_CANCELLED);
    same_session(s[0], alone[0]), same_session(s[2], alone[2]);
    tap.cancel_at = 0;
    CHECK(polar_sessions_decode(s, 0, tokens, &e) == POLAR_ARGUMENT && polar_sessions_decode(NULL, 1, tokens, &e));
    CHECK(!polar_session_create(&s[1], m2, NULL, &o, NULL));
    CHECK(polar_sessions_decode(s, 2, tokens, &e) == POLAR_MISMATCH && strstr(e.message, "session 1"));
    polar_session_free(s[1]);
    o.n_batch = 1;
    CHECK(!polar_session_create(&s[1], m, NULL, &o, NULL));
    CHECK(polar_sessions_decode(s, 2, tokens, &e) == POLAR_ARGUMENT && strstr(e.message, "n_batch 1"));
    same_session(s[0], alone[0]), same_session(s[2], alone[2]);
    for (int i = 0; i < N; i++) polar_session_free(s[i]), polar_session_free(alone[i]);
    polar_model_close(m), polar_model_close(m2);
    free(f.data), free(other.data);
}

TEST(refused_changes) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 1);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    const polar_program skips = parsed_program("1x0"), all = parsed_program(""), loops = parsed_program("2x2");
    polar_session_options o = {0};
    polar_session *s = NULL;
    polar_error e;
    size_t size;
    const int32_t tokens[] = {1, 2, 3};
    o.max_calls = 5;
    CHECK(!polar_session_create(&s, m, &skips, &o, NULL));
    CHECK(!polar_session_change_program(s, &all, NULL) && !polar_session_change_program(s, &skips, NULL));
    CHECK(!polar_session_eval(s, tokens, 3, NULL));
    CHECK(polar_session_change_program(s, &all, &e) == POLAR_MISMATCH);
    CHECK_STR(e.message, "the program runs layer 1, which the tokens from position 0 on skipped");
    CHECK(!polar_session_truncate(s, 0, NULL) && !polar_session_change_program(s, &all, NULL));
    CHECK(!polar_session_eval(s, tokens, 1, NULL) && !polar_session_change_program(s, &loops, NULL));
    CHECK(!polar_session_eval(s, tokens, 1, NULL) && polar_session_change_program(s, &all, &e) == POLAR_CONTEXT);
    CHECK_STR(e.message, "tokens under 2 programs are held, as many as max_programs");
    polar_session_free(s);
    /* when all tokens of another program are dropped, the session is one of a single program again */
    o.max_programs = 3;
    CHECK(!polar_session_create(&s, m, &all, &o, NULL) && !polar_session_eval(s, tokens, 3, NULL));
    CHECK(!polar_session_change_program(s, &loops, NULL) && !polar_session_eval(s, tokens, 2, NULL));
    CHECK(!polar_session_change_program(s, &all, NULL) && !polar_session_eval(s, tokens, 1, NULL));
    CHECK(polar_session_save(s, NULL, 0, &size, NULL) == POLAR_UNSUPPORTED);
    for (int n = 3; n > 1; n--)
        CHECK(!polar_session_truncate(s, n, NULL) && !polar_session_save(s, NULL, 0, &size, NULL));
    polar_session_free(s);
    o.kv_mode = POLAR_KV_SHARED;
    CHECK(!polar_session_create(&s, m, &loops, &o, NULL) && !polar_session_eval(s, tokens, 1, NULL));
    CHECK(polar_session_change_program(s, &all, &e) == POLAR_UNSUPPORTED);
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* All tensor types run, and agree with the same weights as floats within what quantized activations lose. */
TEST(tensor_types) {
    const int path[] = {0, 1, 2, 2, 3};
    const int32_t tokens[] = {5, 9, 200, 31, 7};
    for (int type = 0; type < QUANT_N; type++) {
        fixture f = fixture_model("llama", type, 3);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
        polar_session *s = started(m, (polar_session_options){0}, path, COUNT(path));
        CHECK(s && !polar_session_eval(s, tokens, COUNT(tokens), NULL));
        polar_session_free(s);
        polar_model_close(m);
        free(f.data);
    }
}

static int shuffle_calls;
static void shuffle_run(void *user, int n, polar_task task, void *context) {
    (void)user;
    shuffle_calls++;
    for (int i = n - 1; i >= 0; i -= 2) task(context, i, i % 3);
    for (int i = n - 2; i >= 0; i -= 2) task(context, i, i % 3);
}

TEST(own_runner) {
    static float a[FX_VOCAB], b[FX_VOCAB];
    const polar_runner runner = {shuffle_run, NULL, 3};
    const int path[] = {0, 1, 1, 3}, all[] = {FX_CTX};
    const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7};
    fixture f = fixture_model("qwen2moe", QUANT_Q4_0, 1);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_session_options o = {0};
    polar_session *s = started(m, o, path, 4);
    evaluate(s, tokens, 7, all, 1, a);
    polar_session_free(s);
    o.runner = &runner;
    s = started(m, o, path, 4);
    evaluate(s, tokens, 7, all, 1, b);
    CHECK_BITS(a, b, FX_VOCAB);
    CHECK(shuffle_calls > 0);
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* --- taps --- */

typedef struct tap_log {
    int calls, layers[16], stop_at, change;
} tap_log;

static int on_call(void *user, const polar_tap_info *info) {
    tap_log *log = user;
    if (log->calls < 16) log->layers[log->calls] = info->layer;
    if (log->change && info->call == 1)
        memset(info->hidden, 0, (size_t)info->n_rows * (size_t)info->n_embd * sizeof(float));
    return log->calls++ == log->stop_at;
}

TEST(tap) {
    static float before[FX_VOCAB], after[FX_VOCAB];
    const int path[] = {0, 2, 1}, all[] = {FX_CTX}, seen[] = {-1, 0, 2, 1};
    const int32_t tokens[] = {1, 2, 3};
    tap_log log = {0, {0}, -1, 0};
    fixture f = fixture_model("llama", QUANT_Q8_0, 1);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_session_options o = {0};
    polar_session *s;
    polar_error e;
    o.tap = on_call;
    o.tap_user = &log;
    s = started(m, o, path, 3);
    evaluate(s, tokens, 3, all, 1, before);
    CHECK(log.calls == 4 && !memcmp(log.layers, seen, sizeof seen));
    for (int stop = 0; stop < 4; stop++) { /* cancelled at any call, the session is as before */
        log.calls = 0, log.stop_at = stop;
        CHECK(polar_session_eval(s, tokens, 1, &e) == POLAR_CANCELLED && polar_session_position(s) == 3);
    }
    log.calls = 0, log.stop_at = -1, log.change = 1;
    polar_session_truncate(s, 0, NULL);
    evaluate(s, tokens, 3, all, 1, after);
    CHECK(memcmp(before, after, sizeof before) != 0);
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* --- embeddings --- */

enum { EMBD = 256 }; /* n_embd of the fixtures */

/* The hidden states behind the last call, (n, n_embd), as a tap of the caller sees them. */
static int keep_hidden(void *user, const polar_tap_info *info) {
    float *to = (float *)user + (size_t)info->position * (size_t)info->n_embd;
    if (info->call + 1 == info->n_calls)
        memcpy(to, info->hidden, (size_t)info->n_rows * (size_t)info->n_embd * sizeof *to);
    return 0;
}

/* Formula by formula: the hidden states of an evaluation, RMS norm with the file's weights, mean or last, length. */
static void embed_by_hand(const polar_model *m, const float *hidden, int n, polar_pooling pooling, int normalize,
                          double *out) {
    double length = 0;
    for (int i = 0; i < m->n_embd; i++) out[i] = 0;
    for (int t = pooling == POLAR_POOLING_LAST ? n - 1 : 0; t < n; t++) {
        const float *h = hidden + (size_t)t * (size_t)m->n_embd;
        double squares = 0;
        for (int i = 0; i < m->n_embd; i++) squares += (double)h[i] * (double)h[i];
        for (int i = 0; i < m->n_embd; i++)
            out[i] += (double)h[i] / sqrt(squares / m->n_embd + (double)m->norm_eps) * (double)m->output_norm[i];
    }
    for (int i = 0; i < m->n_embd; i++) {
        if (pooling == POLAR_POOLING_MEAN) out[i] /= n;
        length += out[i] * out[i];
    }
    for (int i = 0; i < m->n_embd && normalize; i++) out[i] /= sqrt(length);
}

TEST(embed) {
    static const char *const names[] = {"llama", "qwen2moe"};
    static const int paths[][5] = {{0, 1, 2, 3, -1}, {0, 1, 1, 3, -1}, {0, 2, 1, -1}};
    static float hidden[FX_CTX * EMBD], found[EMBD], again[EMBD];
    static double expected[EMBD];
    const int32_t tokens[] = {5, 9, 99, 2, 77, 5, 31, 8, 1};
    for (int round = 0; round < 3 * 4; round++) {
        fixture f = fixture_model(names[(round + round / 6) % 2], QUANT_Q8_0, 3);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO), *plain = fx_open(&f, POLAR_CPU_PLAIN);
        const int *path = paths[round % 3], pooling = round / 3 % 2, normalize = round / 6;
        polar_session_options o = {0};
        polar_session *s, *other;
        polar_error e;
        float logit;
        int n_path = 0;
        while (path[n_path] >= 0) n_path++;
        o.tap = keep_hidden, o.tap_user = hidden;
        s = started(m, o, path, n_path);
        o.tap = NULL, o.n_batch = 1 + round % 4, o.max_peek = 9;
        other = started(plain, o, path, n_path);
        CHECK(!polar_session_eval(s, tokens, 9, NULL));
        logit = *polar_session_logits(s, 0);
        embed_by_hand(m, hidden, 9, (polar_pooling)pooling, normalize, expected);
        memset(hidden, 0, sizeof hidden); /* the caller's tap sees an embedding, too */
        CHECK(!polar_session_embed(s, tokens, 9, (polar_pooling)pooling, normalize, found, &e));
        CHECK(hidden[8 * EMBD] != 0 && polar_session_position(s) == 9 && *polar_session_logits(s, 0) == logit);
        for (int i = 0; i < EMBD; i++) CHECK(fabs((double)found[i] - expected[i]) < 1e-5);
        /* the same bits by other kernels, in batches, and after a peek through all of the layers */
        CHECK(!polar_session_peek(other, tokens, 9, FX_LAYERS, NULL, NULL));
        CHECK(!polar_session_embed(other, tokens, 9, (polar_pooling)pooling, normalize, again, &e));
        CHECK_BITS(found, again, EMBD);
        CHECK(polar_session_embed(s, tokens, 0, POLAR_POOLING_MEAN, 0, found, &e) == POLAR_ARGUMENT);
        CHECK(polar_session_embed(s, tokens, 9, POLAR_N_POOLING, 0, found, &e) == POLAR_ARGUMENT);
        CHECK(polar_session_embed(s, tokens, 9, POLAR_POOLING_MEAN, 0, NULL, &e) == POLAR_ARGUMENT);
        CHECK(polar_session_position(s) == 9);
        polar_session_free(s);
        polar_session_free(other);
        polar_model_close(m);
        polar_model_close(plain);
        free(f.data);
    }
}

/* --- memory --- */

typedef struct counting {
    size_t now, peak;
    int n, fail_at, live;
} counting;

static void *count_alloc(void *user, size_t size) {
    counting *c = user;
    void *p = c->n++ == c->fail_at ? NULL : malloc(size);
    if (!p) return NULL;
    c->live++;
    c->now += size;
    c->peak = MAX(c->peak, c->now);
    return p;
}

static void count_free(void *user, void *p, size_t size) {
    counting *c = user;
    c->live--;
    c->now -= size;
    free(p);
}

TEST(session_bytes) {
    fixture f = fixture_model("qwen3", QUANT_Q4_0, 1);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    for (int i = 0; i < 8; i++) {
        counting c = {0, 0, 0, -1, 0};
        const polar_allocator a = {count_alloc, count_free, &c};
        polar_session_options o = {0};
        polar_session *s;
        const int32_t tokens[] = {1, 2, 3};
        o.allocator = &a;
        o.n_ctx = 10 + 7 * i;
        o.n_threads = 1 + i % 3;
        o.kv_type = i % 2 ? POLAR_KV_F16 : POLAR_KV_F32;
        o.kv_mode = i % 4 < 2 ? POLAR_KV_PER_CALL : POLAR_KV_SHARED;
        CHECK(!polar_session_create(&s, m, NULL, &o, NULL));
        CHECK(c.now == polar_session_bytes(m, NULL, &o) && c.peak == c.now);
        c.fail_at = c.n; /* nothing is allocated from here on */
        CHECK(!polar_session_eval(s, tokens, 3, NULL));
        CHECK(!polar_session_generate(s, NULL, 0, NULL, NULL, 0, NULL, NULL));
        CHECK(c.n == c.fail_at);
        polar_session_free(s);
        CHECK(c.live == 0 && c.now == 0);
    }
    polar_model_close(m);
    free(f.data);
}

/* In smollm3 every fourth layer is without rope: the last token of a prompt sees its other tokens in whatever order,
 * also where the layer is called first; the other layers do what those of llama do. */
TEST(layers_without_rope) {
    static float logits[3][FX_VOCAB];
    const int32_t tokens[2][4] = {{5, 17, 99, 3}, {99, 5, 17, 3}};
    fixture f[2] = {fixture_model("smollm3", QUANT_F32, 1), fixture_model("llama", QUANT_F32, 1)};
    polar_model *m[2] = {fx_open(&f[0], POLAR_CPU_AUTO), fx_open(&f[1], POLAR_CPU_AUTO)};
    const polar_session_options o = {0};
    const int all[] = {FX_CTX};
    for (int layer = 0; layer < FX_LAYERS; layer++) {
        float most = 0;
        for (int i = 0; i < 3; i++) { /* smollm3, the other order, llama */
            polar_session *s = started(m[i / 2], o, &layer, 1);
            evaluate(s, tokens[i % 2], 4, all, 1, logits[i]);
            polar_session_free(s);
        }
        for (int i = 0; i < FX_VOCAB; i++) most = MAX(most, fabsf(logits[0][i] - logits[1][i]));
        CHECK(layer == 3 ? most < 1e-4f : most > 1e-2f);
        CHECK(!memcmp(logits[0], logits[2], sizeof logits[0]) == (layer != 3));
    }
    for (int i = 0; i < 2; i++) {
        polar_model_close(m[i]);
        free(f[i].data);
    }
}

/* What a looped model does between its loops, done by hand in a llama of the same weights. */
static int norm_between_loops(void *user, const polar_tap_info *info) {
    const polar_model *m = user;
    for (int r = 0; info->layer == FX_LAYERS - 1 && info->call + 1 < info->n_calls && r < info->n_rows; r++) {
        float *x = info->hidden + r * info->n_embd;
        m->kern->rms_norm(x, x, m->output_norm, info->n_embd, m->norm_eps);
    }
    return 0;
}

/* Between calls of a looped model, behind the last layer, stands the output norm; its own program is all layers twice,
 * wherever none is given, and "0-3" is one loop. */
TEST(loops) {
    static float logits[4][FX_VOCAB];
    fixture f[2] = {fixture_model("nanbeige", QUANT_Q8_0, 1), fixture_model("llama", QUANT_Q8_0, 1)};
    polar_model *m[2] = {fx_open(&f[0], POLAR_CPU_AUTO), fx_open(&f[1], POLAR_CPU_AUTO)};
    const int all[] = {FX_CTX}, mixed[] = {3, 1, 4};
    const int twice[] = {0, 1, 2, 3, 0, 1, 2, 3};
    const char *const texts[] = {NULL, "", "identity", "0-3x2"};
    polar_session_options o = {0}, tapped = {0};
    polar_session *s = NULL, *by_hand;
    int32_t tokens[12];
    polar_program p;
    tapped.tap = norm_between_loops, tapped.tap_user = m[1];
    o.n_batch = 5;
    for (int round = 0; round < (test_quick() ? 5 : 25); round++) {
        int path[10], n_path = 0;
        if (round == 0) memcpy(path, twice, sizeof twice), n_path = 8;
        while (n_path < 2 + round % 8) path[n_path++] = fx_below(3) ? FX_LAYERS - 1 : fx_below(FX_LAYERS);
        for (int i = 0; i < 12; i++) tokens[i] = fx_below(FX_VOCAB);
        for (int i = 0; i < 3; i++) { /* in two ways; without the norm by hand */
            s = started(m[i > 1], o, path, n_path);
            evaluate(s, tokens, 12, i ? mixed : all, i ? 3 : 1, logits[i]);
            polar_session_free(s);
        }
        by_hand = started(m[1], tapped, path, n_path);
        evaluate(by_hand, tokens, 12, all, 1, logits[3]);
        polar_session_free(by_hand);
        CHECK_BITS(logits[0], logits[3], FX_VOCAB);
        CHECK_BITS(logits[0], logits[1], FX_VOCAB);
        for (int i = n_path - 1, normed = 0; i >= 0; i--) {
            normed |= i + 1 < n_path && path[i] == FX_LAYERS - 1;
            if (i == 0) CHECK(normed == (memcmp(logits[0], logits[2], sizeof logits[0]) != 0));
        }
    }
    s = started(m[0], o, twice, 8);
    evaluate(s, tokens, 12, all, 1, logits[0]);
    polar_session_free(s);
    for (int i = 0; i < COUNT(texts); i++) {
        CHECK(!polar_model_program(m[0], texts[i], &p, NULL) && polar_program_length(&p) == 8);
        CHECK(!polar_session_create(&s, m[0], i ? &p : NULL, NULL, NULL));
        evaluate(s, tokens, 12, all, 1, logits[1]);
        polar_session_free(s);
        CHECK_BITS(logits[0], logits[1], FX_VOCAB);
    }
    CHECK(!polar_model_program(m[0], "0-3", &p, NULL) && polar_program_length(&p) == 4);
    CHECK(!polar_model_program(m[1], NULL, &p, NULL) && polar_program_length(&p) == 4);
    CHECK(polar_model_program(m[0], "0-4", &p, NULL) == POLAR_FORMAT);
    CHECK(polar_model_program(NULL, NULL, &p, NULL) == POLAR_ARGUMENT);
    for (int i = 0; i < 2; i++) {
        polar_model_close(m[i]);
        free(f[i].data);
    }
}

/* Every allocation fails in turn: an error, and nothing is leaked. */
TEST(allocation_failures) {
    fixture f = fixture_model("qwen2moe", QUANT_Q4_0, 1);
    int failed = 0;
    for (int at = 0; at < 100; at++) {
        counting c = {0, 0, 0, at, 0};
        const polar_allocator a = {count_alloc, count_free, &c};
        polar_model_options mo = {0};
        polar_ask_options ao = {0};
        polar_model *m = NULL;
        polar_error e;
        polar_status status;
        mo.allocator = &a;
        ao.generate.max_tokens = 2;
        ao.session.n_threads = 2;
        status = polar_model_open_memory(&m, f.data, f.size, &mo, &e);
        if (!status) status = polar_ask(m, "the question", &ao, NULL, 0, NULL, &e);
        polar_model_close(m);
        CHECK(c.live == 0);
        if (c.n <= at) {
            CHECK(status == POLAR_OK);
            break;
        }
        CHECK(status == POLAR_MEMORY && e.message[0]);
        failed++;
    }
    CHECK(failed > 5 && failed < 100);
    free(f.data);
}

/* --- errors --- */

TEST(errors) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 1);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_session *s = NULL;
    polar_error e;
    polar_session_options o = {0};
    polar_program p = polar_program_identity(FX_LAYERS + 1);
    int32_t tokens[FX_CTX + 1] = {0};
    const int bad_layer[] = {0, FX_LAYERS}, many[] = {0, 1, 2, 3, 0};
    CHECK(polar_session_create(&s, m, &p, NULL, &e) != POLAR_OK && !s && e.message[0]);
    o.n_ctx = FX_CTX + 1;
    CHECK(polar_session_create(&s, m, NULL, &o, &e) == POLAR_ARGUMENT && polar_session_bytes(m, NULL, &o) == 0);
    o.n_ctx = 8;
    CHECK(!polar_session_create(&s, m, NULL, &o, &e));
    CHECK(polar_session_set_path(s, bad_layer, 2, &e) == POLAR_MISMATCH);
    CHECK(polar_session_set_path(s, many, 5, &e) == POLAR_ARGUMENT);
    /* damped passes that do not end, that overlap, that have no beginning, of which the first or the last is missing */
    for (int i = 0; i < 7; i++) {
        const int first = 2 * CALL_PASSES + CALL_ANCHOR, last = 2 * CALL_PASSES + CALL_END;
        const int lists[7][3] = {{0, 1 | CALL_PASS, 2}, {CALL_PASS, CALL_PASS | first, CALL_PASS | last},
                                 {0, first, last}, {CALL_PASS | first, 1, CALL_PASS | last}, {0, 1, CALL_PASS | last},
                                 {CALL_PASS | first, CALL_PASS | first, CALL_PASS | last}, {0, 1, CALL_PASS | first}};
        CHECK(polar_session_set_path(s, lists[i], 3, &e) == POLAR_MISMATCH && strstr(e.message, "of the path"));
    }
    CHECK(polar_session_eval(s, tokens, 9, &e) == POLAR_CONTEXT && polar_session_position(s) == 0);
    CHECK(polar_session_eval(s, tokens, 0, &e) == POLAR_ARGUMENT);
    tokens[2] = FX_VOCAB;
    CHECK(polar_session_eval(s, tokens, 3, &e) == POLAR_ARGUMENT && strstr(e.message, "300"));
    tokens[2] = -1;
    CHECK(polar_session_eval(s, tokens, 3, &e) == POLAR_ARGUMENT);
    CHECK(!polar_session_logits(s, 0));
    CHECK(polar_session_generate(s, NULL, 0, NULL, NULL, 0, NULL, &e) == POLAR_ARGUMENT);
    CHECK(!polar_session_eval(s, tokens, 2, &e) && polar_session_logits(s, 0) && !polar_session_logits(s, 1));
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* --- against independent numbers --- */

static polar_program oracle_program(const json *program, int n_layer) {
    polar_program p;
    CHECK(!polar_program_parse(&p, n_layer, json_get(program, "text")->text, NULL));
    return p;
}

/* The calls of a program that is given as text. Their layers stand beside it. */
static int oracle_calls(const json *program, int n_layer, int *calls) {
    int32_t layers[64];
    polar_program p = oracle_program(program, n_layer);
    const int n = polar_program_calls(&p, calls, 64);
    CHECK(oracle_ints(json_get(program, "calls"), layers, 64) == n);
    for (int i = 0; i < n; i++) CHECK((calls[i] & POLAR_CALL_LAYER) == layers[i]);
    return n;
}

/* Runs a case: relative error of the logits, and 1 if the greedy ids agree. */
static double oracle_case(const polar_model *m, const json *c, const json *want, polar_kv_mode mode, int n_batch,
                          int *greedy_ok) {
    static int path[64], ids[512], greedy[64];
    polar_session_options o = {0};
    const int n = oracle_ints(json_get(c, "tokens"), ids, 512);
    const int n_new = oracle_ints(json_get(want, "greedy"), greedy, 64);
    const float *logits;
    double low = 1e30, high = -1e30, error = 0;
    int n_path = oracle_ints(json_get(c, "path"), path, 64);
    polar_session *s;
    const json *program = json_get(c, "mode"), *later = json_get(program, "later");
    if (!n_path) n_path = oracle_calls(later ? json_get(program, "prompt") : program, m->n_layer, path);
    o.kv_mode = mode;
    o.kv_type = POLAR_KV_F32;
    o.n_ctx = n + n_new;
    o.n_threads = 1;
    o.n_batch = n_batch;
    o.max_calls = 25;
    s = started(m, o, path, n_path);
    CHECK(!polar_session_eval(s, ids, n, NULL));
    logits = polar_session_logits(s, 0);
    for (const json *x = json_get(want, "prefill_logits")->child; x; x = x->next) {
        low = MIN(low, x->number);
        high = MAX(high, x->number);
        error = MAX(error, fabs(x->number - (double)*logits));
        logits++;
    }
    if (later) {
        const polar_program next = oracle_program(later, m->n_layer);
        CHECK(!polar_session_change_program(s, &next, NULL));
    }
    *greedy_ok = n_new > 0;
    for (int i = 0; i < n_new; i++) {
        const int32_t token = draw_greedy(polar_session_logits(s, 0), m->n_vocab);
        *greedy_ok &= token == greedy[i];
        if (i + 1 < n_new) CHECK(!polar_session_eval(s, &token, 1, NULL));
    }
    polar_session_free(s);
    return error / (high - low);
}

/* Whether a case that is the file's own program is what runs where none is given. */
static int oracle_default(const polar_model *m, const json *c) {
    int path[64], n = oracle_ints(json_get(c, "path"), path, 64), ok;
    polar_session_options o = {0};
    polar_session *s = NULL;
    if (!json_get(c, "default")) return 1;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL));
    ok = s->n_path == n && !memcmp(s->path, path, (size_t)n * sizeof *path);
    polar_session_free(s);
    return ok;
}

TEST(oracle) {
    static const struct {
        const char *name;
        int n;
    } files[] = {{"llama", 42}, {"llama3", 42}, {"qwen2", 42}, {"qwen3", 42}, {"qwen2moe", 42}, {"smollm3", 23},
                 {"qwen3moe", 23}, {"nanbeige", 27}, {"nanbeige2", 17}, {"ouro", 29}, {"gemma3", 23}, {"gemma3s", 9},
                 {"damped_llama", 17},
                 {"damped_qwen3", 17}, {"switch_llama", 17}, {"switch_qwen3", 17}};
    for (int a = 0; a < COUNT(files); a++) {
        const char *name = files[a].name;
        const int mode_of_it = !strncmp(name, "damped_", 7) || !strncmp(name, "switch_", 7);
        char path[96];
        size_t n, n_model;
        char *text, *data;
        polar_model *m = NULL;
        const char *problem;
        json_document *d;
        size_t at;
        int i = 0;
        snprintf(path, sizeof path, "oracle/cases_%s.json", name);
        if (!(text = test_shared_text(path, &n))) return;
        snprintf(path, sizeof path, "oracle/model_%s.gguf", name + (mode_of_it ? 7 : 0));
        if (!(data = test_shared_text(path, &n_model))) return;
        CHECK(!polar_model_open_memory(&m, data, n_model, NULL, NULL));
        CHECK((d = json_read(text, n, &problem, &at)) != NULL);
        for (const json *c = d ? json_get(json_root(d), "cases")->child : NULL; c; c = c->next, i++)
            for (int mode = 0; mode < POLAR_N_KV_MODE; mode++) {
                const json *want = json_get(c, mode == POLAR_KV_SHARED ? "shared" : "percall");
                const json *later = json_get(json_get(json_get(c, "mode"), "later"), "text");
                int greedy_ok;
                if (!want || (test_quick() && i % 9)) continue;
                if (mode == POLAR_KV_PER_CALL) CHECK(oracle_default(m, c));
                /* the last calls of a prompt are what another program sees, and if it repeats nothing, of all tokens */
                if (mode == POLAR_KV_LAST && (!later || strpbrk(later->text, "x~"))) continue;
                CHECK(oracle_case(m, c, want, (polar_kv_mode)mode, i % 2 ? 5 : 128, &greedy_ok) < 1e-4);
                CHECK(greedy_ok);
            }
        CHECK(i == files[a].n);
        json_free(d);
        polar_model_close(m);
        free(text);
        free(data);
    }
}

/* Writes a fixture for tests/vectors/make_logits.mjs, if POLAR_WRITE_MODELS names a folder. */
static void write_fixture(const fixture *f, const char *name) {
    const char *folder = getenv("POLAR_WRITE_MODELS");
    char path[300];
    FILE *file;
    if (!folder) return;
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    CHECK((file = fopen(path, "wb")) && fwrite(f->data, 1, f->size, file) == f->size);
    if (file) fclose(file);
}

/* Logits and greedy ids that tests/vectors/make_logits.mjs computed, of a fixture of each architecture with F32
 * weights, and of the bundled model, where Q8_0 rounds the activations to 8 bits. */
TEST(vectors) {
    size_t n, at;
    const char *problem;
    char *text;
    json_document *d;
    int n_models = 0, n_cases = 0;
    for (int a = 0; a < COUNT(fx_archs) && getenv("POLAR_WRITE_MODELS"); a++) {
        fixture f = fixture_model(fx_archs[a], QUANT_F32, 12);
        write_fixture(&f, fx_archs[a]);
        free(f.data);
    }
    if (!(text = test_shared_text("tests/vectors/logits.json", &n))) return;
    CHECK((d = json_read(text, n, &problem, &at)) != NULL);
    for (const json *of = d ? json_root(d)->child : NULL; of; of = of->next, n_models++) {
        const char *name = json_get(of, "model")->text;
        const int demo = !strcmp(name, "demo");
        fixture f = {NULL, 0, 0, 0, 0, 0};
        polar_model *m = NULL;
        if (demo) CHECK(!polar_model_open(&m, "examples/demo/demo-model.gguf", NULL, NULL));
        else {
            f = fixture_model(name, QUANT_F32, 12);
            m = fx_open(&f, POLAR_CPU_AUTO);
        }
        for (const json *c = m ? json_get(of, "cases")->child : NULL; c; c = c->next, n_cases++) {
            int greedy_ok;
            const double error = oracle_case(m, c, json_get(c, "percall"), POLAR_KV_PER_CALL, n_cases % 2 ? 5 : 128,
                                             &greedy_ok);
            CHECK(error < (demo ? 0.01 : 1e-5));
            CHECK(greedy_ok);
        }
        polar_model_close(m);
        free(f.data);
    }
    CHECK(n_models == 8 && n_cases > 35);
    json_free(d);
    free(text);
}

/* --- the state of a session --- */

/* Evaluates some more tokens and says whether both sessions have the same logits then. */
static int goes_on_alike(polar_session *a, polar_session *b) {
    const int32_t more[] = {3, 1, 4, 1, 5};
    if (polar_session_position(a) != polar_session_position(b)) return 0;
    if (polar_session_eval(a, more, COUNT(more), NULL) || polar_session_eval(b, more, COUNT(more), NULL)) return 0;
    return !memcmp(polar_session_logits(a, 0), polar_session_logits(b, 0), FX_VOCAB * sizeof(float));
}

TEST(save_and_load) {
    const int path[] = {0, 1, 1, 3}, other_path[] = {0, 1, 2, 3};
    const int32_t tokens[] = {9, 8, 7, 6, 5, 4, 3};
    for (int mode = 0; mode < 2; mode++) {
        fixture f = fixture_model("qwen3", QUANT_Q4_0, 1), g = fixture_model("qwen3", QUANT_Q4_0, 2);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO), *plain = fx_open(&f, POLAR_CPU_PLAIN),
                    *another = fx_open(&g, POLAR_CPU_AUTO);
        polar_session_options o = {0};
        polar_generate_options two = {0};
        polar_session *s, *t;
        size_t size = 0, again = 0;
        uint8_t *state, *second;
        two.max_tokens = 2;
        two.ignore_end = 1;
        o.kv_mode = mode ? POLAR_KV_SHARED : POLAR_KV_PER_CALL;
        o.kv_type = mode ? POLAR_KV_F32 : POLAR_KV_F16;
        s = started(m, o, path, 4);
        CHECK(!polar_session_eval(s, tokens, 7, NULL));
        CHECK(!polar_session_save(s, NULL, 0, &size, NULL) && size > 0);
        state = malloc(size), second = malloc(size);
        CHECK(polar_session_save(s, state, size - 1, &size, NULL) == POLAR_ARGUMENT);
        CHECK(!polar_session_save(s, state, size, &size, NULL));
        o.n_ctx = 20, o.n_batch = 3; /* another layout of memory */
        t = started(plain, o, path, 4);
        CHECK(!polar_session_load(t, state, size, NULL));
        CHECK_BITS(polar_session_logits(s, 0), polar_session_logits(t, 0), FX_VOCAB);
        CHECK(!polar_session_save(t, second, size, &again, NULL) && again == size && !memcmp(state, second, size));
        CHECK(goes_on_alike(s, t));
        /* damaged anywhere: refused, and nothing has changed */
        CHECK(!polar_session_load(t, state, size, NULL));
        for (size_t i = 0; i < size; i += test_quick() ? 97 : 5) {
            memcpy(second, state, size);
            second[i] ^= 1 << i % 8;
            CHECK(polar_session_load(t, second, size, NULL) != POLAR_OK);
            CHECK(polar_session_load(t, state, i, NULL) != POLAR_OK);
        }
        polar_session_free(s);
        s = started(m, o, path, 4);
        CHECK(!polar_session_load(s, state, size, NULL) && goes_on_alike(s, t));
        /* a generation that reached its limit has drawn a token that it has not run */
        polar_session_truncate(t, 0, NULL);
        CHECK(!polar_session_sync(t, tokens, 7, NULL, NULL));
        CHECK(!polar_session_generate(t, NULL, 0, &two, NULL, 0, NULL, NULL) && polar_session_position(t) == 9);
        CHECK(!polar_session_save(t, NULL, 0, &again, NULL) && (second = realloc(second, again)) != NULL);
        CHECK(!polar_session_save(t, second, again, &again, NULL) && !polar_session_load(s, second, again, NULL));
        CHECK(polar_session_position(s) == 9);
        CHECK_BITS(polar_session_tokens(s), polar_session_tokens(t), 9);
        CHECK(goes_on_alike(s, t));
        polar_session_free(s);
        s = started(m, o, other_path, 4);
        CHECK(polar_session_load(s, state, size, NULL) == POLAR_MISMATCH);
        polar_session_free(s);
        s = started(another, o, path, 4);
        CHECK(polar_session_load(s, state, size, NULL) == POLAR_MISMATCH);
        polar_session_free(s);
        o.n_ctx = 5;
        s = started(m, o, path, 4);
        CHECK(polar_session_load(s, state, size, NULL) == POLAR_CONTEXT);
        polar_session_free(s);
        polar_session_free(t);
        free(state);
        free(second);
        polar_model_close(m);
        polar_model_close(plain);
        polar_model_close(another);
        free(f.data);
        free(g.data);
    }
}

TEST(sync_and_clone) {
    const int path[] = {0, 1, 1, 3};
    const int32_t first[] = {9, 8, 7, 6, 5}, second[] = {9, 8, 7, 1, 2, 3}, bad[] = {9, 8, FX_VOCAB};
    for (int mode = 0; mode < 2; mode++) {
        fixture f = fixture_model("llama", QUANT_Q8_0, 1);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
        polar_session_options o = {0};
        polar_session *s, *fresh, *clone = NULL;
        int n_new;
        o.kv_mode = mode ? POLAR_KV_SHARED : POLAR_KV_PER_CALL;
        s = started(m, o, path, 4);
        fresh = started(m, o, path, 4);
        CHECK(!polar_session_sync(s, first, 5, &n_new, NULL) && n_new == 5);
        CHECK(!polar_session_sync(s, first, 5, &n_new, NULL) && n_new == 0);
        CHECK(polar_session_sync(s, bad, 3, &n_new, NULL) == POLAR_ARGUMENT && polar_session_position(s) == 5);
        CHECK(!polar_session_sync(s, second, 6, &n_new, NULL) && n_new == (mode ? 6 : 3));
        CHECK(!polar_session_eval(fresh, second, 6, NULL));
        CHECK_BITS(polar_session_logits(s, 0), polar_session_logits(fresh, 0), FX_VOCAB);
        CHECK(!polar_session_clone(&clone, s, NULL));
        CHECK_BITS(polar_session_logits(s, 0), polar_session_logits(clone, 0), FX_VOCAB);
        CHECK(goes_on_alike(s, clone)); /* each has keys and values of its own */
        CHECK(goes_on_alike(s, clone));
        CHECK(!polar_session_sync(s, second, 2, &n_new, NULL) && polar_session_position(s) == 2);
        CHECK(polar_session_position(clone) == 16);
        polar_session_free(clone);
        polar_session_free(s);
        polar_session_free(fresh);
        polar_model_close(m);
        free(f.data);
    }
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(cached_is_recomputed), T(changed_programs), T(last_calls), T(together), T(together_or_not_at_all),
    T(refused_changes),
    T(tensor_types),        T(own_runner), T(tap), T(layers_without_rope), T(loops),
    T(together_too_many),
    T(session_bytes),        T(allocation_failures), T(errors),     T(oracle), T(vectors),
    T(save_and_load),        T(sync_and_clone),
    T(embed),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
