/* [pick]: features against the hidden states that a tap sees, sessions that go on after a peek against fresh ones,
 * picks, predictors of other models, votes, cascades. */
#include "inside.h"
#include "../examples/cli/gguf_writer.c"
#include "saved.h"
#include "test.h"
#include "fixture.h"

/* --- sessions that go on --- */

/* Keeps what a tap sees after `layer`, and counts the calls. */
typedef struct watch {
    int layer, n_calls;
    float *hidden; /* (FX_CTX, n_embd) */
} watch;

static int on_call(void *user, const polar_tap_info *i) {
    watch *w = user;
    w->n_calls += i->call >= 0;
    if (i->layer == w->layer && w->hidden)
        memcpy(w->hidden + i->position * i->n_embd, i->hidden, (size_t)(i->n_rows * i->n_embd) * sizeof *w->hidden);
    return 0;
}

static polar_session *watched(const polar_model *m, watch *w, int n_batch, int max_peek) {
    const polar_program identity = polar_program_identity(m->n_layer);
    polar_session_options o = {0};
    polar_session *s = NULL;
    polar_error e;
    o.n_batch = n_batch;
    o.n_threads = 2;
    o.max_calls = 12;
    o.max_peek = max_peek;
    o.tap = w ? on_call : NULL;
    o.tap_user = w;
    polar_session_create(&s, m, &identity, &o, &e);
    CHECK_STR(e.message, "");
    return s;
}

/* Logits of tokens under a path in a fresh session. */
static void fresh(const polar_model *m, const int *path, int n_path, const int32_t *tokens, int n, float *logits) {
    polar_session *s = watched(m, NULL, 128, 0);
    CHECK(!polar_session_set_path(s, path, n_path, NULL) && !polar_session_eval(s, tokens, n, NULL));
    memcpy(logits, polar_session_logits(s, 0), FX_VOCAB * sizeof *logits);
    polar_session_free(s);
}

TEST(peek) {
    static float expected[FX_VOCAB];
    for (int a = 0; a < COUNT(fx_archs); a++) {
        fixture f = fixture_model(fx_archs[a], a % 2 ? QUANT_Q8_0 : QUANT_Q4_0, (uint64_t)a);
        polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
        for (int round = 0; round < 6; round++) {
            const int n = 5 + fx_below(15), layers = 1 + fx_below(FX_LAYERS), agree = fx_below(3),
                      more = fx_below(3);
            float *seen = malloc(FX_CTX * 256 * sizeof *seen), *peeked = malloc(FX_CTX * 256 * sizeof *peeked);
            watch plain = {layers - 1, 0, seen}, w = {-1, 0, NULL};
            polar_session *s = watched(m, &plain, 128, 0);
            int32_t tokens[40];
            int path[10], n_path = layers;
            for (int i = 0; i < 40; i++) tokens[i] = fx_below(FX_VOCAB);
            polar_session_eval(s, tokens, n, NULL); /* the identity passes the same layers */
            polar_session_free(s);
            s = watched(m, &w, 1 + fx_below(8), 64);
            CHECK(!polar_session_peek(s, tokens, n, layers, peeked, NULL));
            CHECK_BITS(seen, peeked, (size_t)(n * 256));
            CHECK(polar_session_position(s) == 0 && !polar_session_logits(s, 0));
            for (int c = 0; c < layers; c++) path[c] = c;
            for (int extra = fx_below(4); extra > 0; extra--) path[n_path++] = fx_below(FX_LAYERS);
            if (agree == 0) path[fx_below(layers)] = FX_LAYERS - 1;
            if (agree == 1) tokens[fx_below(n)] = fx_below(FX_VOCAB);
            fresh(m, path, n_path, tokens, n + more, expected);
            w.n_calls = 0;
            CHECK(!polar_session_set_path(s, path, n_path, NULL) && !polar_session_eval(s, tokens, n, NULL));
            if (agree == 2) CHECK(w.n_calls == (n_path - layers) * ((n + s->options.n_batch - 1) / s->options.n_batch));
            for (int i = 0; i < more; i++) polar_session_eval(s, tokens + n + i, 1, NULL);
            CHECK_BITS(polar_session_logits(s, 0), expected, FX_VOCAB);
            polar_session_truncate(s, n / 2, NULL); /* another end, then another path from what is left of the peek */
            tokens[n - 1] = (tokens[n - 1] + 1) % FX_VOCAB;
            fresh(m, path, n_path, tokens, n, expected);
            polar_session_eval(s, tokens + n / 2, n - n / 2, NULL);
            CHECK_BITS(polar_session_logits(s, 0), expected, FX_VOCAB);
            path[n_path - 1] = 0;
            fresh(m, path, n_path, tokens, n, expected);
            CHECK(!polar_session_set_path(s, path, n_path, NULL) && !polar_session_eval(s, tokens, n, NULL));
            CHECK_BITS(polar_session_logits(s, 0), expected, FX_VOCAB);
            polar_session_free(s);
            free(seen);
            free(peeked);
        }
        polar_model_close(m);
        free(f.data);
    }
}

TEST(peek_errors) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 3);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_session *s = watched(m, NULL, 4, 8);
    polar_error e;
    int32_t tokens[12] = {1, 2, 3, FX_VOCAB};
    CHECK(polar_session_peek(s, tokens, 4, 1, NULL, &e) == POLAR_ARGUMENT && strstr(e.message, "token 300 at place 3"));
    tokens[3] = 4;
    CHECK(polar_session_peek(s, tokens, 9, 1, NULL, &e) == POLAR_ARGUMENT && strstr(e.message, "max_peek"));
    CHECK(polar_session_peek(s, tokens, 4, 0, NULL, &e) == POLAR_ARGUMENT);
    CHECK(polar_session_peek(s, tokens, 4, FX_LAYERS + 1, NULL, &e) == POLAR_ARGUMENT);
    CHECK(!polar_session_peek(s, tokens, 4, 2, NULL, &e));
    CHECK(!polar_session_eval(s, tokens, 4, &e)); /* its path is as before */
    CHECK(s->n_path == FX_LAYERS && polar_session_position(s) == 4);
    polar_session_free(s);
    polar_model_close(m);
    free(f.data);
}

/* --- features --- */

static polar_features *features_of(const polar_model *m, polar_feature kind, const polar_model *encoder,
                                   int max_tokens) {
    polar_features_options o = {0};
    polar_features *f = NULL;
    polar_error e;
    o.feature = kind;
    o.encoder = encoder;
    o.max_tokens = max_tokens;
    o.session.n_threads = 1;
    polar_features_create(&f, m, &o, &e);
    CHECK_STR(e.message, "");
    return f;
}

TEST(features) {
    fixture f = fixture_model("qwen3", QUANT_Q8_0, 5), g = fixture_model("qwen3", QUANT_F16, 6);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO), *encoder = fx_open(&g, POLAR_CPU_AUTO);
    float *seen = malloc(FX_CTX * 256 * sizeof *seen);
    const float *rows;
    polar_features *x;
    polar_session *s;
    watch w = {1, 0, seen};
    int32_t prompt[20], text[32];
    int n_text;
    int n;
    for (int i = 0; i < 20; i++) prompt[i] = fx_below(FX_VOCAB);
    s = watched(m, &w, 7, 0);
    polar_session_eval(s, prompt, 20, NULL);
    polar_session_free(s);
    x = features_of(m, POLAR_FEATURE_HIDDEN, NULL, 512); /* after two layers */
    CHECK(!polar_features_make(x, NULL, 0, prompt, 20, &rows, &n, NULL) && n == 20 && polar_features_width(x) == 256);
    CHECK_BITS(rows, seen, 20 * 256);
    polar_features_free(x);
    x = features_of(m, POLAR_FEATURE_HIDDEN, NULL, 6); /* the last six */
    CHECK(!polar_features_make(x, NULL, 0, prompt, 20, &rows, &n, NULL) && n == 6);
    CHECK_BITS(rows, seen + 14 * 256, 6 * 256);
    polar_features_free(x);
    x = features_of(m, POLAR_FEATURE_EMBEDDING, NULL, 6);
    s = watched(m, &w, 20, 0);
    w.layer = -1;
    polar_session_eval(s, prompt, 20, NULL);
    polar_session_free(s);
    CHECK(!polar_features_make(x, NULL, 0, prompt, 20, &rows, &n, NULL) && n == 6);
    CHECK_BITS(rows, seen + 14 * 256, 6 * 256);
    polar_features_free(x);
    /* an encoder: its last hidden states after the norm, the end token included */
    CHECK(!polar_tokenize(encoder, "How many?", 9, 0, text, 31, &n_text, NULL));
    text[n_text++] = FX_VOCAB - 1;
    w.layer = FX_LAYERS - 1;
    {
        polar_session_options o = {0};
        o.kv_type = POLAR_KV_F32;
        o.tap = on_call;
        o.tap_user = &w;
        CHECK(!polar_session_create(&s, encoder, NULL, &o, NULL) && !polar_session_eval(s, text, n_text, NULL));
        polar_session_free(s);
    }
    x = features_of(m, POLAR_FEATURE_ENCODER, encoder, 512);
    CHECK(!polar_features_make(x, "How many?", 9, NULL, 0, &rows, &n, NULL) && n == n_text);
    for (int i = 0; i < n; i++) {
        double sum = 0, worst = 0;
        for (int k = 0; k < 256; k++) sum += (double)seen[i * 256 + k] * (double)seen[i * 256 + k];
        for (int k = 0; k < 256; k++)
            worst = fmax(worst, fabs((double)seen[i * 256 + k] / sqrt(sum / 256 + 1e-5) *
                                         (double)encoder->output_norm[k] - (double)rows[i * 256 + k]));
        CHECK(worst < 1e-5);
    }
    polar_features_free(x);
    x = features_of(m, POLAR_FEATURE_ENCODER, encoder, 4); /* cut: three tokens and the end */
    CHECK(!polar_features_make(x, "How many?", 9, NULL, 0, &rows, &n, NULL) && n == 4);
    polar_features_free(x);
    free(seen);
    polar_model_close(m);
    polar_model_close(encoder);
    free(f.data);
    free(g.data);
}

/* --- picking --- */

/* A predictor with a menu that gives the logits to every question, and a network of zeros, which keeps all layers. */
static polar_predictor *predictor_of(const polar_model *m, const char *const *menu, const float *logits, int n_menu) {
    const pred_shape shape = {m->n_layer, m->n_embd, 8, 2, 1, 8};
    const menu_shape menu_of = {m->n_embd, 4, 2, n_menu, POLAR_MENU_SUM};
    polar_predictor *p = NULL;
    polar_predictor_info i;
    polar_error e;
    CHECK(!pred_create(&p, m->n_layer, &shape, n_menu ? &menu_of : NULL, NULL, &e));
    for (int k = 0; k < n_menu; k++) {
        CHECK(!polar_program_parse(&p->programs[k], m->n_layer, menu[k], &e));
        p->menu.w.out_bias[k] = logits[k];
    }
    p->net.w.op_bias[1] = 2;
    CHECK(!pred_ready(p, &e));
    polar_predictor_get_info(p, &i);
    i.feature = POLAR_FEATURE_HIDDEN;
    i.feature_layer = 2;
    i.model_fingerprint = polar_model_fingerprint(m);
    i.model_name = "one";
    i.prompt = "Q: {question}\nA:";
    i.cascade_threshold = -0.25;
    i.cascade_programs = 3;
    CHECK(!polar_predictor_set_info(p, &i, &e));
    return p;
}

static polar_picker *picker_of(const polar_model *m, const polar_predictor *p, polar_pick_options o) {
    polar_picker *x = NULL;
    polar_error e;
    o.session.n_threads = 1;
    polar_picker_create(&x, m, p, &o, &e);
    CHECK_STR(e.message, "");
    return x;
}

TEST(pick) {
    static const char *const menu[] = {"identity", "3x0", "0-1 2x2", "0x0"};
    static const float logits[] = {1.0f, 1.0f, 1.05f, -3.0f};
    fixture f = fixture_model("llama", QUANT_Q8_0, 5);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_predictor *p = predictor_of(m, menu, logits, COUNT(menu)), *saved = NULL;
    polar_predictor_info info;
    polar_pick_options o = {0};
    polar_candidate c[POLAR_MAX_BEAMS];
    polar_picker *x = picker_of(m, p, o);
    int32_t prompt[6] = {1, 2, 3, 4, 5, 6};
    int n;
    CHECK(!polar_picker_pick(x, NULL, 0, prompt, 6, c, 8, &n, NULL) && n == 4);
    CHECK(polar_program_equal(&c[0].program, &p->programs[1])); /* as likely as the identity and shorter */
    CHECK(polar_program_equal(&c[1].program, &p->programs[0]) && polar_program_equal(&c[3].program, &p->programs[3]));
    CHECK(fabs(exp(c[0].score) - 1 / (1 + exp(-1.0))) < 1e-6);
    CHECK(polar_picker_menu(x) && fabs(polar_picker_menu(x)[3] - 1 / (1 + exp(3.0))) < 1e-6);
    polar_picker_free(x);
    o.price = POLAR_OFF;
    x = picker_of(m, p, o);
    CHECK(!polar_picker_pick(x, NULL, 0, prompt, 6, c, 1, &n, NULL) && n == 1);
    CHECK(polar_program_equal(&c[0].program, &p->programs[2])); /* the likeliest */
    polar_picker_free(x);
    o.head = POLAR_PICK_PROGRAMS;
    x = picker_of(m, p, o);
    CHECK(!polar_picker_pick(x, NULL, 0, prompt, 6, c, 5, &n, NULL) && n == 5 && !polar_picker_menu(x));
    for (int i = 0; i < n; i++) CHECK(polar_program_length(&c[i].program) > 0);
    polar_picker_free(x);
    /* all of it survives a file */
    CHECK((saved = saved_again(p, NULL)) != NULL);
    polar_predictor_get_info(saved, &info);
    CHECK(info.cascade_threshold == -0.25 && info.cascade_programs == 3 &&
          info.model_fingerprint == polar_model_fingerprint(m));
    CHECK_STR(info.prompt, "Q: {question}\nA:");
    CHECK_STR(info.chat, "");
    polar_predictor_close(saved);
    polar_predictor_close(p);
    polar_model_close(m);
    free(f.data);
}

TEST(mismatch) {
    static const char *const menu[] = {"identity"};
    static const float logits[] = {0};
    fixture f = fixture_model("llama", QUANT_Q8_0, 5), g = fixture_model("llama", QUANT_Q8_0, 6);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO), *other = fx_open(&g, POLAR_CPU_AUTO);
    polar_predictor *p = predictor_of(m, menu, logits, 1);
    polar_pick_options o = {0};
    polar_picker *x = NULL;
    polar_error e;
    o.session.n_threads = 1;
    CHECK(polar_picker_create(&x, other, p, &o, &e) == POLAR_MISMATCH &&
          strstr(e.message, "trained for another model, one"));
    o.any_model = 1;
    CHECK(!polar_picker_create(&x, other, p, &o, &e));
    polar_picker_free(x);
    o.any_model = 0;
    p->info.model_fingerprint = 0;
    p->info.model_checksum = polar_model_checksum(m); /* files that know only that */
    CHECK(!polar_predictor_check(p, m, NULL, 0, &e) && polar_predictor_check(p, other, NULL, 0, &e) == POLAR_MISMATCH);
    p->info.feature = POLAR_FEATURE_ENCODER;
    CHECK(polar_picker_create(&x, m, p, &o, &e) == POLAR_MISMATCH && strstr(e.message, "its encoder is needed"));
    p->info.feature = POLAR_FEATURE_HIDDEN;
    p->info.q_dim = 128;
    CHECK(polar_picker_create(&x, m, p, &o, &e) == POLAR_MISMATCH && strstr(e.message, "128 numbers") &&
          strstr(e.message, "256"));
    p->info.q_dim = 256;
    p->info.n_layer = 28;
    CHECK(polar_picker_create(&x, m, p, &o, &e) == POLAR_MISMATCH && strstr(e.message, "28 layers") &&
          strstr(e.message, "has 4"));
    p->info.n_layer = 4;
    o.head = POLAR_PICK_MENU;
    p->menu.shape.n_menu = 0;
    CHECK(polar_picker_create(&x, m, p, &o, &e) == POLAR_UNSUPPORTED && strstr(e.message, "no menu") && !x);
    polar_predictor_close(p);
    polar_model_close(m);
    polar_model_close(other);
    free(f.data);
    free(g.data);
}

/* --- votes and cascades --- */

static polar_ballot ballot(const char *text, double weight) {
    const polar_ballot b = {text, strlen(text), weight, POLAR_STOP_END};
    return b;
}

/* The answer is what stands between brackets, and its first letter says which one. */
static polar_span first_extract(void *user, const char *response, size_t length) {
    const char *open = memchr(response, '(', length);
    const polar_span none = {response, 0}, s = {open ? open + 1 : response, open ? 1 : 0};
    ++*(int *)user;
    return length ? s : none;
}

static int first_same(void *user, polar_span a, polar_span b) {
    ++*(int *)user;
    return *a.text == '!' ? -1 : *a.text == *b.text;
}

TEST(vote) {
    polar_ballot b[5];
    int winner, votes, asked = 0;
    const polar_judge judge = {first_extract, first_same, &asked};
    b[0] = ballot("7", 0.9), b[1] = ballot("half", 0.2), b[2] = ballot("h.", 0.1), b[3] = ballot("", 5),
    b[4] = ballot("8", 0.3);
    CHECK(!polar_vote(b, 5, &judge, &winner, &votes, NULL) && winner == 1 && votes == 2); /* most, not heaviest */
    b[2] = ballot("8", 0.1);
    CHECK(!polar_vote(b, 5, &judge, &winner, &votes, NULL) && winner == 2 && votes == 2);
    b[4] = ballot("7.0", 0.3);
    b[2] = ballot("h/2", 1.1);
    CHECK(!polar_vote(b, 5, &judge, &winner, &votes, NULL) && winner == 1 && votes == 2); /* 1.3 against 1.2 */
    b[2].weight = 1.0;
    b[1].weight = 0.2; /* equal: the first */
    CHECK(!polar_vote(b, 5, &judge, &winner, &votes, NULL) && winner == 0 && votes == 2);
    b[0].stop = POLAR_STOP_LIMIT; /* cut answers do not vote */
    CHECK(!polar_vote(b, 5, &judge, &winner, &votes, NULL) && winner == 1 && votes == 2);
    b[2].stop = POLAR_STOP_CONTEXT;
    CHECK(!polar_vote(b, 5, &judge, &winner, &votes, NULL) && winner == 4 && votes == 1); /* 0.3 against 0.2 */
    b[0] = ballot("7", 1);
    b[0].stop = POLAR_STOP_LIMIT;
    CHECK(!polar_vote(b, 1, NULL, &winner, &votes, NULL) && winner == -1 && votes == 0);
    b[0] = ballot("", 1);
    CHECK(!polar_vote(b, 1, NULL, &winner, &votes, NULL) && winner == -1 && votes == 0);
    CHECK(polar_vote(b, 0, NULL, &winner, &votes, NULL) == POLAR_ARGUMENT);
    b[0] = ballot("7.0", 1), b[1] = ballot(" 7\n", 0.1), b[2] = ballot("7", 0.1); /* without a judge: bytes */
    CHECK(!polar_vote(b, 3, NULL, &winner, &votes, NULL) && winner == 1 && votes == 2 && asked > 10);
    b[2] = ballot("!", 1);
    CHECK(polar_vote(b, 3, &judge, &winner, &votes, NULL) == POLAR_MEMORY);
}

TEST(cascade) {
    int n_run;
    const polar_cascade_run three[] = {{-0.5, 0.5, 0}, {-0.1, 1, 0}, {-0.3, 2, 0}};
    CHECK(polar_cascade(three, 3, -0.5, &n_run) == 0 && n_run == 1);
    CHECK(polar_cascade(three, 3, -0.2, &n_run) == 1 && n_run == 2);
    CHECK(polar_cascade(three, 3, 0, &n_run) == 1 && n_run == 3); /* none: the most confident */
    CHECK(polar_cascade(three, 3, POLAR_NO_CONFIDENCE, &n_run) == 0 && n_run == 1);
}

/* --- answering: on a real session, against programs run alone --- */

static void alone(const polar_model *m, const polar_program *program, const int32_t *prompt, int n, char *text,
                  polar_result *r) {
    polar_generate_options g = {0};
    polar_session *s = NULL;
    CHECK(!polar_session_create(&s, m, program, NULL, NULL));
    g.max_tokens = 6;
    CHECK(!polar_session_generate(s, prompt, n, &g, text, 256, r, NULL));
    polar_session_free(s);
}

static int on_text(void *user, const char *text, size_t length) {
    buf_put(user, text, length);
    return 0;
}

/* Another answer in each response. */
static polar_span letter_extract(void *user, const char *response, size_t length) {
    const polar_span s = {(*(const char **)user)++, 1};
    (void)response, (void)length;
    return s;
}

static int letter_same(void *user, polar_span a, polar_span b) {
    (void)user;
    return *a.text == *b.text;
}

TEST(answer) {
    const char *letters = "abcde";
    const polar_judge judge = {letter_extract, letter_same, &letters};
    static const char *const menu[] = {"identity", "3x0", "0-1 2x2", "0x0", "1x3"};
    static const float logits[] = {1.0f, 1.0f, 1.05f, -3.0f, 0};
    static char texts[5][256], text[256], stop[5][2];
    static const char *const stops[] = {stop[0], stop[1], stop[2], stop[3], stop[4], NULL};
    fixture f = fixture_model("llama", QUANT_Q8_0, 5);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_predictor *p = predictor_of(m, menu, logits, COUNT(menu));
    polar_picker *x = picker_of(m, p, (polar_pick_options){0});
    polar_candidate c[8];
    polar_answer_options o = {0};
    polar_allocator standard = mem_allocator(NULL);
    buf streamed = {&standard, NULL, 0, 0, 0};
    polar_picked r;
    polar_result each[5];
    polar_cascade_run runs[5];
    int32_t prompt[6] = {1, 2, 3, 4, 5, 6};
    int n, n_run, calls = 0, heaviest = 0;
    CHECK(!polar_picker_pick(x, NULL, 0, prompt, 6, c, 8, &n, NULL) && n == 5);
    for (int i = 0; i < n; i++) {
        alone(m, &c[i].program, prompt, 6, texts[i], &each[i]);
        runs[i].confidence = pick_confidence(&each[i]);
        calls += each[i].n_calls;
    }
    o.generate.max_tokens = 6;
    CHECK(!polar_picker_answer(x, prompt, 6, c, n, &o, text, sizeof text, &r, NULL) && r.chosen == 0 && r.n_run == 1 &&
          r.n_calls == 3);
    CHECK_STR(text, texts[0]);
    CHECK(r.result.logprob == each[0].logprob && r.result.length == strlen(texts[0]));
    o.generate.on_text = on_text;
    o.generate.on_text_user = &streamed;
    o.method = POLAR_METHOD_CASCADE;
    for (int i = 0; i < n; i++) {
        const int expected = polar_cascade(runs, n, runs[i].confidence, &n_run);
        streamed.length = 0;
        o.threshold = runs[i].confidence;
        CHECK(!polar_picker_answer(x, prompt, 6, c, n, &o, text, sizeof text, &r, NULL) && r.chosen == expected &&
              r.n_run == n_run);
        CHECK_STR(text, texts[expected]);
        CHECK(streamed.length == r.result.length && !memcmp(streamed.at, text, streamed.length));
    }
    o.threshold = -1e-300; /* nothing is that sure: all are run */
    CHECK(!polar_picker_answer(x, prompt, 6, c, n, &o, text, sizeof text, &r, NULL));
    CHECK(r.n_run == n && r.n_calls == calls);
    o.threshold = 1;
    CHECK(polar_picker_answer(x, prompt, 6, c, n, &o, text, sizeof text, &r, NULL) == POLAR_ARGUMENT);
    o.threshold = 0; /* that of the file */
    p->info.cascade_programs = 0;
    CHECK(polar_picker_answer(x, prompt, 6, c, n, &o, text, sizeof text, &r, NULL) == POLAR_UNSUPPORTED);
    o.method = POLAR_METHOD_VOTE;
    o.prefix = "\\boxed{"; /* so that whatever the model says is an answer */
    CHECK(!polar_picker_answer(x, prompt, 6, c, n, &o, text, sizeof text, &r, NULL) && r.n_run == n);
    CHECK(r.votes == 0 && r.chosen == 0); /* all answers were cut */
    CHECK_STR(text, texts[0]);
    /* all end at their first byte, and a judge finds another answer in each: the heaviest wins */
    for (int i = 0; i < n; i++) {
        stop[i][0] = texts[i][0];
        if (c[i].score > c[heaviest].score) heaviest = i;
    }
    o.generate.stop = stops;
    o.judge = &judge;
    CHECK(!polar_picker_answer(x, prompt, 6, c, n, &o, text, sizeof text, &r, NULL) && r.n_run == n);
    CHECK(heaviest > 0 && r.votes == 1 && r.chosen == heaviest && r.result.stop == POLAR_STOP_STRING);
    CHECK(polar_program_equal(&r.candidate.program, &c[r.chosen].program) && r.candidate.score == c[r.chosen].score);
    /* without a judge nobody votes: nothing was said, and what the prompt began is no answer */
    o.judge = NULL;
    CHECK(!polar_picker_answer(x, prompt, 6, c, n, &o, text, sizeof text, &r, NULL) && r.votes == 0 && r.chosen == 0);
    buf_free(&streamed);
    polar_picker_free(x);
    polar_predictor_close(p);
    polar_model_close(m);
    free(f.data);
}

/* Leaves only tokens that have not been there. */
static int only_new(void *user, float *logits, int n_vocab, const int32_t *tokens, int n_tokens) {
    (void)n_vocab, ++*(int *)user;
    for (int i = 0; i < n_tokens; i++) logits[tokens[i]] = -INFINITY;
    return 0;
}

/* The everyday call gives what its parts give. */
TEST(ask) {
    static const char *const menu[] = {"identity", "0-1 2x2"};
    static const float logits[] = {0, 2};
    static char text[512], expected[512];
    fixture f = fixture_model("qwen3", QUANT_Q8_0, 9);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_predictor *p = predictor_of(m, menu, logits, COUNT(menu));
    polar_ask_options o = {0};
    int32_t tokens[9] = {0}, before[9], asked[40];
    int n_calls = 0;
    char written[512];
    size_t n;
    polar_result r;
    polar_error e;
    o.session.n_threads = 1;
    o.generate.max_tokens = 8;
    o.program = menu[1];
    o.predictor = p; /* with a program, only its prompt counts */
    CHECK(!polar_ask(m, "What is this?", &o, expected, sizeof expected, &r, &e) && r.n_calls == 5);
    o.prompt_program = menu[1];
    CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e));
    CHECK_STR(text, expected);
    o.prompt_program = "1x2 2~3"; /* as a session that changes by hand */
    CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) && r.n_calls == 5);
    {
        polar_generate_options g = o.generate;
        polar_session_options so = {.max_calls = 7};
        polar_program first, then;
        polar_prompt how;
        polar_session *s = NULL;
        char by_hand[512];
        int n_prompt = 0;
        CHECK(!polar_prompt_find(m, p, NULL, &how, &e) &&
              !polar_prompt_tokenize(m, &how, "What is this?", asked, COUNT(asked), &n_prompt, &e));
        CHECK(n_prompt <= COUNT(asked));
        CHECK(!polar_program_parse(&first, FX_LAYERS, o.prompt_program, &e) &&
              !polar_program_parse(&then, FX_LAYERS, menu[1], &e) && !polar_session_create(&s, m, &first, &so, &e));
        CHECK(!polar_session_eval(s, asked, n_prompt, &e) && !polar_session_change_program(s, &then, &e));
        CHECK(!polar_session_generate(s, NULL, 0, &g, by_hand, sizeof by_hand, NULL, &e));
        CHECK_STR(by_hand, text);
        polar_session_free(s);
    }
    o.program = NULL;
    CHECK(polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) == POLAR_ARGUMENT);
    o.prompt_program = NULL;
    CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) && r.n_calls == 5);
    CHECK_STR(text, expected);
    o.generate.tokens = tokens;
    o.generate.token_capacity = COUNT(tokens);
    CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) && r.n_generated == 8);
    o.generate.raw_bytes = 1;
    CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) && r.n_generated == 8);
    CHECK(!polar_detokenize(m, tokens, 8, 0, written, sizeof written, &n, &e));
    CHECK(n == r.length && !memcmp(text, written, n) && tokens[8] == 0); /* the tokens are those of the text */
    o.method = POLAR_METHOD_VOTE;
    o.n_programs = 2;
    CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e));
    CHECK(!polar_detokenize(m, tokens, r.n_generated, 0, written, sizeof written, &n, &e));
    CHECK(n == r.length && !memcmp(text, written, n)); /* also where the first of several programs has the answer */
    /* the hook sees every draw, of each program that votes too; the token that ends an answer is one more */
    o.generate.on_logits = only_new;
    o.generate.on_logits_user = &n_calls;
    for (o.method = POLAR_METHOD_FIRST; o.method <= POLAR_METHOD_VOTE; o.method++) {
        n_calls = 0;
        CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) && r.n_generated == 8);
        for (int i = 0; i < 8; i++)
            for (int k = 0; k < i; k++) CHECK(tokens[i] != tokens[k]);
        CHECK(o.method ? n_calls > 8 && n_calls <= 16 : n_calls == 8);
    }
    o.generate.on_logits = NULL;
    o.method = POLAR_METHOD_FIRST;
    memcpy(before, tokens, sizeof before);
    o.generate.sampling.repetition_penalty = 1e30f; /* what was there comes to 0, or far below it */
    CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) && r.n_generated == 8);
    CHECK(!memcmp(before, tokens, sizeof before));
    o.generate.sampling.repetition_window = 1;
    CHECK(!polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) && r.n_generated == 8);
    for (int i = 1; i < 8; i++) CHECK(tokens[i] != tokens[i - 1]);
    p->info.n_layer = 7;
    CHECK(polar_ask(m, "What is this?", &o, text, sizeof text, &r, &e) == POLAR_MISMATCH);
    polar_predictor_close(p);
    polar_model_close(m);
    free(f.data);
}

/* What a call gives with these options, as a number. */

static uint64_t hash_of(const void *x, size_t n) {
    return mem_hash(x, n);
}

static uint64_t hash_generate(const polar_model *m, const polar_session_options *so, const polar_generate_options *go) {
    const int32_t prompt[3] = {5, 6, 7};
    polar_session *s = NULL;
    static char text[4096];
    polar_result r;
    CHECK(!polar_session_create(&s, m, NULL, so, NULL));
    CHECK(polar_session_bytes(m, NULL, so) > 0);
    CHECK(!polar_session_generate(s, prompt, 3, go, text, sizeof text, &r, NULL));
    polar_session_free(s);
    return hash_of(text, r.length) ^ (uint64_t)r.n_generated ^ f64_bits(r.logprob);
}

static uint64_t hash_many(const polar_model *m, const polar_many_options *o) {
    const int32_t prompt[3] = {5, 6, 7};
    const int calls[FX_LAYERS + 1] = {0, 1, 1, 2};
    const polar_path paths[2] = {{calls, FX_LAYERS}, {calls, 1}};
    polar_many *many = NULL;
    polar_many_result r[2];
    polar_many_stats stats;
    uint64_t h = 0;
    CHECK(!polar_many_create(&many, m, o, NULL) && !polar_many_prompt(many, prompt, 3, NULL));
    CHECK(!polar_many_run(many, paths, 2, r, NULL));
    for (int i = 0; i < 2; i++) h = h * 31 + hash_of(r[i].text, r[i].length) + (uint64_t)r[i].n_tokens;
    polar_many_get_stats(many, &stats);
    polar_many_free(many);
    return h * 31 + (uint64_t)stats.n_rows;
}

static uint64_t hash_search(const polar_search_options *o) {
    polar_search *s = NULL;
    polar_program program;
    char text[512];
    uint64_t h = 0;
    int id, n = 0, waiting[100];
    CHECK(!polar_search_create(&s, 12, "why", 3, o, NULL));
    while ((id = polar_search_next(s, &program)) != POLAR_SEARCH_DONE) {
        if (id >= 0) waiting[n++] = id, h = h * 31 + hash_of(text, polar_program_format(&program, text, sizeof text));
        else /* as many as may wait */
            for (; n; n--) polar_search_report(s, waiting[n - 1], waiting[n - 1] % 7 == 0, NULL);
    }
    polar_search_free(s);
    return h;
}

static uint64_t hash_decode(const polar_beam_options *o) {
    float seg[24], op[24 * 3];
    polar_candidate c[POLAR_MAX_BEAMS];
    uint64_t h = 0, state = 3;
    int n;
    for (int i = 0; i < 24; i++) seg[i] = rng_float(&state) - 0.6f;
    for (int i = 0; i < 72; i++) op[i] = rng_float(&state);
    CHECK(!polar_program_beams(seg, op, 24, o, c, &n, NULL));
    for (int i = 0; i < n; i++) h = h * 31 + f64_bits(c[i].score) + (uint64_t)polar_program_length(&c[i].program);
    return h;
}

static uint64_t hash_features(const polar_model *m, const polar_features_options *o) {
    const int32_t prompt[3] = {5, 6, 7};
    polar_features *x = NULL;
    const float *rows = NULL;
    uint64_t h;
    int n = 0;
    CHECK(!polar_features_create(&x, m, o, NULL) && !polar_features_make(x, NULL, 0, prompt, 3, &rows, &n, NULL));
    CHECK(x->options.max_tokens == 512);
    h = hash_of(rows, (size_t)n * (size_t)polar_features_width(x) * sizeof *rows);
    polar_features_free(x);
    return h;
}

static uint64_t hash_pick(const polar_model *m, const polar_predictor *p, const polar_pick_options *o,
                          const polar_answer_options *how) {
    const int32_t prompt[3] = {5, 6, 7};
    polar_picker *x = NULL;
    polar_candidate c[8];
    polar_picked r;
    int n = 0;
    CHECK(!polar_picker_create(&x, m, p, o, NULL) && !polar_picker_pick(x, NULL, 0, prompt, 3, c, 8, &n, NULL));
    CHECK(!polar_picker_answer(x, prompt, 3, c, n, how, NULL, 0, &r, NULL));
    polar_picker_free(x);
    return f64_bits(c[0].score) ^ (uint64_t)r.result.n_generated ^ f64_bits(r.result.logprob);
}

static uint64_t hash_ask(const polar_model *m, const polar_ask_options *o) {
    polar_result r;
    CHECK(!polar_ask(m, "Why?", o, NULL, 0, &r, NULL));
    return f64_bits(r.logprob) ^ (uint64_t)r.n_generated;
}

/* For all options: none, zeros, and the defaults that polar.h names are the same. Those of training: test_train. */
TEST(defaults) {
    static const char *const menu[] = {"identity", "0-1 2x2"};
    static const float logits[] = {0, 0.04f}; /* likelier by 0.01, and a quarter of a pass longer */
    const polar_model_options mo = {0};
    const polar_session_options so = {0}, so_said = {.n_ctx = FX_CTX, .n_batch = 128, .n_logits = 1,
                                                     .max_calls = FX_LAYERS, .n_threads = polar_cpu_count()};
    const polar_generate_options go = {0}, go_said = {.max_tokens = 256, .sampling = {.top_p = 1}};
    const polar_many_options many = {0}, many_said = {.max_tokens = 50, .cache_bytes = (size_t)1 << 30};
    const polar_search_options search = {0}, search_said = {
        .simulations = 200, .length_penalty = 5, .exploration = sqrt(2), .epsilon = 0.1, .widening_alpha = 2,
        .widening_beta = 0.5, .max_length = 4, .max_times = 5, .space = POLAR_SEARCH_BOTH, .max_in_flight = 64};
    const polar_beam_options decode = {0}, decode_said = {
        .threshold = 0.5, .max_length = 4, .n_beams = 5, .n_ops = 2};
    const polar_features_options features = {0}, features_said = {
        .feature = POLAR_FEATURE_HIDDEN, .layer = 2, .max_tokens = 512};
    const polar_pick_options pick = {0}, pick_said = {.head = POLAR_PICK_AUTO, .price = 0.05, .beams = decode_said},
                             pick_free = {.price = POLAR_OFF};
    const polar_answer_options how = {0}, how_said = {.method = POLAR_METHOD_FIRST, .generate = go_said};
    const polar_ask_options ask = {0}, ask_said = {.generate = go_said};
    polar_search_options certain = search;
    fixture f = fixture_model("qwen3", QUANT_Q8_0, 9);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO), *same = NULL;
    polar_predictor *p = predictor_of(m, menu, logits, COUNT(menu));
    polar_ask_options asked = ask;
    uint64_t h;
    CHECK(!polar_model_open_memory(&same, f.data, f.size, &mo, NULL));
    CHECK(polar_model_checksum(same) == polar_model_checksum(m));
    polar_model_close(same);
    CHECK(!polar_model_open_memory(&same, f.data, f.size, NULL, NULL));
    polar_model_close(same);
    h = hash_generate(m, &so_said, &go_said);
    CHECK(h == hash_generate(m, &so, &go) && h == hash_generate(m, NULL, NULL));
    CHECK(polar_session_bytes(m, NULL, &so) == polar_session_bytes(m, NULL, NULL));
    CHECK(polar_session_bytes(m, NULL, &so) == polar_session_bytes(m, NULL, &so_said));
    h = hash_many(m, &many_said);
    CHECK(h == hash_many(m, &many) && h == hash_many(m, NULL));
    h = hash_search(&search_said);
    CHECK(h == hash_search(&search) && h == hash_search(NULL));
    certain.epsilon = POLAR_OFF;
    CHECK(h != hash_search(&certain));
    h = hash_decode(&decode_said);
    CHECK(h == hash_decode(&decode) && h == hash_decode(NULL));
    h = hash_features(m, &features_said);
    CHECK(h == hash_features(m, &features) && h == hash_features(m, NULL));
    h = hash_pick(m, p, &pick_said, &how_said);
    CHECK(h == hash_pick(m, p, &pick, &how) && h == hash_pick(m, p, NULL, NULL));
    CHECK(h != hash_pick(m, p, &pick_free, &how)); /* the likelier program costs more */
    h = hash_ask(m, &ask_said);
    CHECK(h == hash_ask(m, &ask) && h == hash_ask(m, NULL));
    asked.predictor = p;
    h = hash_ask(m, &asked);
    asked.price = POLAR_MENU_PRICE;
    CHECK(h == hash_ask(m, &asked));
    polar_predictor_close(p);
    polar_model_close(m);
    free(f.data);
}

/* The tokens of a question under the prompt that is found. */
static int found_tokens(const polar_model *m, const polar_predictor *p, const polar_prompt *wanted, int32_t *tokens) {
    polar_prompt prompt;
    int n = 0;
    polar_error e;
    CHECK(!polar_prompt_find(m, p, wanted, &prompt, &e) && prompt.chat != POLAR_CHAT_AUTO);
    CHECK(!polar_prompt_tokenize(m, &prompt, "Why?", tokens, 99, &n, &e));
    return n;
}

/* Whether they are those of a conversation written by hand. */
static int is_conversation(const polar_model *m, const int32_t *tokens, int n, polar_chat chat, const char *system,
                           const char *user) {
    const polar_message messages[2] = {{"system", system}, {"user", user}};
    int32_t expected[99];
    int n_expected = 0;
    CHECK(!polar_chat_tokenize(m, chat, 0, messages + !system, system ? 2 : 1, expected, 99, &n_expected, NULL));
    return n_expected == n && !memcmp(expected, tokens, (size_t)n * sizeof *tokens);
}

/* The caller's prompt, else the predictor's with all that belongs to it, else the model's, else the question. */
TEST(prompts) {
    static const char *const menu[] = {"identity"};
    static const float logits[] = {0};
    static char template[] = "T {question}!";
    fixture f = fixture_model("qwen3", QUANT_Q8_0, 9);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_predictor *p = predictor_of(m, menu, logits, 1), *saved = NULL;
    polar_predictor_info i;
    polar_prompt wanted = {"{question} {question}", NULL, POLAR_CHAT_AUTO, 0}, prompt;
    polar_error e;
    int32_t tokens[99];
    int n_tokens;
    int n = found_tokens(m, NULL, NULL, tokens);
    CHECK(is_conversation(m, tokens, n, m->vocab.chat, NULL, "Why?"));
    m->prompt = template;
    n = found_tokens(m, NULL, NULL, tokens);
    CHECK(is_conversation(m, tokens, n, POLAR_CHAT_RAW, NULL, "T Why?!"));
    polar_predictor_get_info(p, &i);
    CHECK(!i.system);
    i.system = ""; /* said, and empty */
    i.chat = "raw";
    CHECK(!polar_predictor_set_info(p, &i, &e) && (saved = saved_again(p, &e)) != NULL);
    CHECK(!polar_prompt_find(m, saved, NULL, &prompt, &e) && prompt.system && !*prompt.system);
    polar_predictor_close(saved);
    i.system = "Be short.";
    CHECK(!polar_predictor_set_info(p, &i, &e));
    n = found_tokens(m, p, NULL, tokens);
    CHECK(is_conversation(m, tokens, n, POLAR_CHAT_RAW, "Be short.", "Q: Why?\nA:"));
    n = found_tokens(m, p, &wanted, tokens); /* nothing of the predictor's belongs to another text */
    CHECK(is_conversation(m, tokens, n, m->vocab.chat, NULL, "Why? Why?"));
    wanted = (polar_prompt){NULL, "Be long.", POLAR_CHAT_RAW, 0};
    n = found_tokens(m, p, &wanted, tokens);
    CHECK(is_conversation(m, tokens, n, POLAR_CHAT_RAW, "Be long.", "Q: Why?\nA:"));
    i.chat = "unheard of";
    CHECK(!polar_predictor_set_info(p, &i, &e));
    CHECK(!polar_prompt_find(m, p, &wanted, &prompt, &e));
    CHECK(polar_prompt_find(m, p, NULL, &prompt, &e) == POLAR_UNSUPPORTED && strstr(e.message, "unheard of"));
    wanted.think = 1;
    CHECK(!polar_prompt_find(m, p, &wanted, &prompt, &e) && prompt.think == 1);
    CHECK(polar_prompt_tokenize(m, &prompt, "Why?", NULL, 0, &n_tokens, &e) == POLAR_UNSUPPORTED);
    wanted.think = 0;
    wanted.text = "no place";
    CHECK(!polar_prompt_find(m, p, &wanted, &prompt, &e));
    CHECK(polar_prompt_tokenize(m, &prompt, "Why?", NULL, 0, &n_tokens, &e) == POLAR_FORMAT);
    CHECK(strstr(e.message, "no place {question}") != NULL);
    m->prompt = NULL;
    polar_predictor_close(p);
    polar_model_close(m);
    free(f.data);
}

/* A template with a NUL byte would be cut where it stands. */
TEST(template_of_file) {
    for (int nul = 0; nul < 2; nul++) {
        fixture f = fixture_model("llama", QUANT_Q8_0, 9);
        polar_gguf *from = NULL;
        gguf_writer *w = NULL;
        polar_gguf_tensor t;
        polar_model *m = NULL;
        polar_model_info info;
        polar_error e;
        const void *data;
        size_t size;
        CHECK(!polar_gguf_open_memory(&from, f.data, f.size, NULL, &e) && !gguf_writer_open(&w, NULL, NULL, &e));
        gguf_writer_copy(w, from);
        gguf_writer_set_string(w, "polar.prompt_template", "{question}\0!", 12);
        if (!nul) gguf_writer_set_string(w, "polar.prompt_template", "{question}?", 11);
        for (int i = 0; polar_gguf_get_tensor(from, i, &t); i++) {
            char name[80];
            snprintf(name, sizeof name, "%.*s", (int)t.name_length, t.name);
            gguf_writer_add_tensor(w, name, t.type, t.n_dims, t.dims);
        }
        for (int i = 0; polar_gguf_get_tensor(from, i, &t); i++) gguf_writer_write(w, t.data, t.bytes);
        CHECK(!gguf_writer_finish(w, &e));
        data = gguf_writer_data(w, &size);
        polar_model_open_memory(&m, data, size, NULL, &e);
        if (nul) CHECK(!m && e.status == POLAR_FORMAT && strstr(e.message, "polar.prompt_template holds a NUL byte"));
        else if (m) {
            polar_model_get_info(m, &info);
            CHECK_STR(info.prompt, "{question}?");
        } else CHECK_STR(e.message, "");
        polar_model_close(m);
        gguf_writer_close(w);
        polar_gguf_close(from);
        free(f.data);
    }
}

/* The longest program that decoding can give, every layer twice, has room in the session. */
TEST(longest_program) {
    static const char *const menu[] = {"identity"};
    static const float logits[] = {0};
    fixture f = fixture_model("llama", QUANT_Q8_0, 5);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_predictor *p = predictor_of(m, menu, logits, 1);
    polar_pick_options o = {0};
    polar_answer_options how = {0};
    polar_candidate c[5];
    polar_picker *x;
    polar_picked r;
    polar_error e = {POLAR_OK, ""};
    int32_t prompt[6] = {1, 2, 3, 4, 5, 6};
    int n;
    p->net.w.op_bias[2] = 9;
    CHECK(!pred_ready(p, NULL));
    o.head = POLAR_PICK_PROGRAMS;
    x = picker_of(m, p, o);
    how.generate.max_tokens = 3;
    CHECK(!polar_picker_pick(x, NULL, 0, prompt, 6, c, 5, &n, NULL));
    CHECK(polar_program_length(&c[0].program) == 2 * m->n_layer);
    if (polar_picker_answer(x, prompt, 6, c, n, &how, NULL, 0, &r, &e)) CHECK_STR(e.message, "");
    else CHECK(r.result.n_calls == 2 * m->n_layer);
    polar_picker_free(x);
    polar_predictor_close(p);
    polar_model_close(m);
    free(f.data);
}

/* As many programs are decoded as are asked for, whatever the number of beams says. */
TEST(ten_programs) {
    static const char *const menu[] = {"identity"};
    static const float logits[] = {0};
    static polar_candidate five[POLAR_MAX_MENU], ten[POLAR_MAX_MENU];
    fixture f = fixture_model("llama", QUANT_Q8_0, 5);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_predictor *p = predictor_of(m, menu, logits, 1);
    polar_pick_options o = {0};
    polar_picker *x;
    int32_t prompt[6] = {1, 2, 3, 4, 5, 6};
    int n = 0;
    for (int k = 0; k < p->net.shape.n_layer; k++) p->net.w.seg_bias[0] = 2; /* each layer is a segment */
    CHECK(!pred_ready(p, NULL));
    o.head = POLAR_PICK_PROGRAMS;
    x = picker_of(m, p, o);
    CHECK(!polar_picker_pick(x, NULL, 0, prompt, 6, five, 5, &n, NULL) && n == 5);
    CHECK(!polar_picker_pick(x, NULL, 0, prompt, 6, ten, 10, &n, NULL) && n == 10);
    for (int i = 0; i < 10; i++) {
        if (i < 5) CHECK(polar_program_equal(&five[i].program, &ten[i].program));
        for (int k = 0; k < i; k++) CHECK(!polar_program_equal(&ten[i].program, &ten[k].program));
    }
    polar_picker_free(x);
    polar_predictor_close(p);
    polar_model_close(m);
    free(f.data);
}

/* --- every allocation fails once --- */

typedef struct failing {
    int left, held;
} failing;

static void *failing_alloc(void *user, size_t n) {
    failing *x = user;
    if (x->left-- == 0) return NULL;
    x->held++;
    return malloc(n);
}

static void failing_free(void *user, void *p, size_t n) {
    (void)n;
    ((failing *)user)->held--;
    free(p);
}

TEST(memory) {
    static const char *const menu[] = {"identity", "0-1 2x2"};
    static const float logits[] = {0, 2};
    fixture f = fixture_model("llama", QUANT_Q8_0, 9);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_predictor *p = predictor_of(m, menu, logits, COUNT(menu));
    int done = 0;
    for (int k = 0; k < 200 && !done; k++) {
        failing x = {k, 0};
        const polar_allocator a = {failing_alloc, failing_free, &x};
        polar_pick_options o = {0};
        polar_answer_options how = {0};
        polar_picker *picker = NULL;
        polar_candidate c[2];
        polar_picked r;
        polar_status status;
        int32_t prompt[4] = {1, 2, 3, 4};
        int n;
        o.session.allocator = &a;
        o.session.n_threads = 1;
        how.generate.max_tokens = 3;
        how.method = POLAR_METHOD_VOTE;
        status = polar_picker_create(&picker, m, p, &o, NULL);
        if (!status) status = polar_picker_pick(picker, NULL, 0, prompt, 4, c, 2, &n, NULL);
        if (!status) status = polar_picker_answer(picker, prompt, 4, c, n, &how, NULL, 0, &r, NULL);
        done = !status;
        CHECK(!status || status == POLAR_MEMORY);
        polar_picker_free(picker);
        CHECK(!x.held);
    }
    CHECK(done);
    polar_predictor_close(p);
    polar_model_close(m);
    free(f.data);
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
        {"peek", test_peek},       {"peek_errors", test_peek_errors}, {"features", test_features},
        {"pick", test_pick},       {"mismatch", test_mismatch},       {"vote", test_vote},
        {"cascade", test_cascade}, {"answer", test_answer},           {"ask", test_ask},
        {"memory", test_memory},   {"prompts", test_prompts},         {"template_of_file", test_template_of_file},
        {"ten_programs", test_ten_programs}, {"longest_program", test_longest_program}, {"defaults", test_defaults},
    };
    return test_main(tests, COUNT(tests), argc, argv);
}
