/* A status does not depend on whether the error is asked for: each function of polar.h with a polar_error fails here,
 * with one and without. */
#include "inside.h"
#include "../examples/cli/gguf_writer.c"
#include "test.h"
#include "fixture.h"

#if defined(POLAR_NO_TRAIN) || defined(POLAR_NO_SEARCH) || defined(POLAR_NO_TOKENIZER) || defined(POLAR_NO_STDIO)
#error "these tests need all of the library"
#endif

/* An allocator whose memory ends after so many blocks; -1: never. It starts anew before each call that is compared. */
static int blocks = -1, blocks_left = -1;

static void *limited_alloc(void *user, size_t size) {
    (void)user;
    return blocks_left < 0 || blocks_left-- > 0 ? malloc(size) : NULL;
}

static void limited_free(void *user, void *ptr, size_t size) {
    (void)user, (void)size;
    free(ptr);
}

static const polar_allocator limited = {limited_alloc, limited_free, NULL};

static const char *failed[400]; /* the functions that were called */
static int n_failed;

static int is_same(const char *name, polar_status with, polar_status without, const polar_error *e) {
    const int same = with != POLAR_OK && with == without && with == e->status && *e->message;
    if (n_failed < COUNT(failed)) failed[n_failed++] = name;
    if (!same) printf("%s: %d, %d, %d: %s\n", name, (int)with, (int)without, (int)e->status, e->message);
    return same;
}

/* A call fails with the same status with an error and without one, and with the one that the error has, whatever was in
 * that before. */
#define SAME(f, ...)                                         \
    do {                                                     \
        polar_error e_ = {(polar_status)99, "of before"};     \
        polar_status with_;                                  \
        blocks_left = blocks;                                \
        with_ = f(__VA_ARGS__, &e_);                         \
        blocks_left = blocks;                                \
        CHECK(is_same(#f, with_, f(__VA_ARGS__, NULL), &e_)); \
        blocks_left = -1;                                    \
    } while (0)

static int stop_tap(void *user, const polar_tap_info *info) {
    (void)info;
    return *(int *)user;
}

static int stop_text(void *user, const char *text, size_t length) {
    (void)user, (void)text, (void)length;
    return 1;
}


static void files(const fixture *f) {
    const polar_model_options mo = {.allocator = &limited};
    polar_model *m = NULL;
    polar_gguf *g = NULL;
    polar_predictor *p = NULL;
    gguf_writer *w = NULL;
    const int64_t dims[] = {3};
    int done = 0;
    for (size_t cut = 0; cut < f->size; cut += 1 + f->size / 60) {
        SAME(polar_model_open_memory, &m, f->data, cut, NULL);
        if (cut < f->size / 4) SAME(polar_gguf_open_memory, &g, f->data, cut, NULL);
        SAME(polar_predictor_open_memory, &p, f->data, cut, NULL);
    }
    SAME(polar_model_open, &m, "no/such/file", NULL);
    SAME(polar_gguf_open, &g, "no/such/file", NULL);
    SAME(polar_predictor_open, &p, "no/such/file", NULL);
    SAME(gguf_writer_open, &w, "no/such/folder/x", NULL);
    for (int n = 0; !done; n++) { /* each block refused in turn */
        blocks_left = n;
        done = !polar_model_open_memory(&m, f->data, f->size, &mo, NULL);
        blocks = n;
        if (!done) SAME(polar_model_open_memory, &m, f->data, f->size, &mo);
    }
    blocks = blocks_left = -1;
    polar_model_close(m);
    blocks = 0;
    SAME(polar_gguf_open_memory, &g, f->data, f->size, &limited);
    SAME(gguf_writer_open, &w, NULL, &limited);
    blocks = -1;
    CHECK(!gguf_writer_open(&w, NULL, NULL, NULL));
    gguf_writer_add_tensor(w, "t", 0, 1, dims);
    SAME(gguf_writer_finish, w); /* its numbers are missing */
    gguf_writer_close(w);
}

static void texts(const polar_model *m) {
    const polar_message bad = {NULL, NULL}, hi = {"user", "hi"};
    const polar_prompt fixed = {.text = "no place"};
    polar_prompt found;
    polar_program program;
    int32_t tokens[9] = {0, -1, 2};
    size_t length;
    int n;
    SAME(polar_chat_tokenize, m, POLAR_CHAT_CHATML, 0, &hi, 1, tokens, 3, &n);
    SAME(polar_chat_tokenize, m, POLAR_CHAT_RAW, 0, &bad, 1, tokens, 3, &n);
    SAME(polar_chat_tokenize, m, POLAR_CHAT_RAW, 0, &hi, 1, NULL, -1, &n);
    SAME(polar_detokenize, m, tokens, 3, 0, NULL, 0, &length);
    SAME(polar_detokenize, m, tokens, -1, 0, NULL, 0, &length);
    SAME(polar_tokenize, m, "hi", 2, 0, NULL, -1, &n);
    SAME(polar_prompt_find, NULL, NULL, NULL, &found);
    SAME(polar_prompt_tokenize, m, &fixed, "hi", tokens, 9, &n);
    SAME(polar_model_program, m, "9", &program);
}

static void programs(void) {
    polar_program p, other = polar_program_identity(FX_LAYERS + 1);
    const int calls[] = {0, 2, 1};
    const float seg[] = {0, NAN}, op[] = {0, 0, 0, 0, 0, 0};
    polar_candidate found[POLAR_MAX_BEAMS];
    polar_search *search = NULL;
    const polar_search_options wild = {.epsilon = 2}, small = {.allocator = &limited};
    int n;
    SAME(polar_program_parse, &p, FX_LAYERS, "9");
    SAME(polar_program_parse, &p, FX_LAYERS, "0-3x0");
    SAME(polar_program_validate, &other, FX_LAYERS);
    SAME(polar_program_from_path, &p, FX_LAYERS, calls, 3, 4, 2);
    SAME(polar_program_beams, seg, op, 0, NULL, found, &n);
    SAME(polar_program_beams, seg, op, 2, NULL, found, &n);
    SAME(polar_search_create, &search, 0, "q", 1, NULL);
    SAME(polar_search_create, &search, 4, "q", 1, &wild);
    blocks = 0;
    SAME(polar_search_create, &search, 4, "q", 1, &small);
    blocks = -1;
    CHECK(!polar_search_create(&search, 4, "q", 1, NULL, NULL));
    SAME(polar_search_report, search, 7, 1);
    polar_search_free(search);
}

static void sessions(const polar_model *m) {
    polar_session_options o = {.allocator = &limited, .n_ctx = 8, .max_peek = 4};
    const polar_session_options wrong = {.n_ctx = FX_CTX + 1};
    polar_generate_options hot = {0}, stops = hot, text = hot;
    polar_session *s = NULL, *copy = NULL;
    polar_pool *pool = NULL;
    polar_program p = polar_program_identity(FX_LAYERS), other = polar_program_identity(FX_LAYERS + 1);
    const char *const no_stop[] = {"", NULL};
    const int path[] = {0, FX_LAYERS};
    int32_t tokens[FX_CTX + 1] = {0, -1, 2};
    int cancel = 0, n;
    char state[8];
    float embedding[256];
    size_t size;
    blocks = 0;
    SAME(polar_pool_create, &pool, 2, &limited);
    SAME(polar_session_create, &s, m, NULL, &o);
    blocks = -1;
    SAME(polar_session_create, &s, m, NULL, &wrong);
    SAME(polar_session_create, &s, m, &other, NULL);
    o.tap = stop_tap, o.tap_user = &cancel;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL));
    SAME(polar_session_set_program, s, &other);
    SAME(polar_sessions_decode, &s, 1, NULL);
    p.segments[0].times = 0;
    SAME(polar_session_set_program, s, &p);
    SAME(polar_session_change_program, s, &p);
    SAME(polar_session_set_path, s, path, 2);
    SAME(polar_session_eval, s, tokens, 3);
    SAME(polar_session_sync, s, tokens, 3, &n);
    tokens[1] = 1;
    SAME(polar_session_eval, s, tokens, 9);
    SAME(polar_session_sync, s, tokens, 9, &n);
    SAME(polar_session_peek, s, tokens, 5, 1, NULL);
    SAME(polar_session_embed, s, tokens, 2, POLAR_N_POOLING, 0, embedding);
    SAME(polar_session_embed, s, tokens, 9, POLAR_POOLING_MEAN, 0, embedding);
    SAME(polar_session_truncate, s, 1);
    SAME(polar_session_save, s, state, sizeof state, &size);
    SAME(polar_session_load, s, state, sizeof state);
    SAME(polar_session_clone, NULL, s);
    blocks = 0;
    SAME(polar_session_clone, &copy, s);
    blocks = -1;
    SAME(polar_session_generate, s, NULL, 0, NULL, NULL, 0, NULL);
    hot.sampling.min_p = 2;
    SAME(polar_session_generate, s, tokens, 3, &hot, NULL, 0, NULL);
    stops.stop = no_stop;
    SAME(polar_session_generate, s, tokens, 3, &stops, NULL, 0, NULL);
    text.on_text = stop_text, text.ignore_end = 1;
    SAME(polar_session_generate, s, tokens, 3, &text, NULL, 0, NULL);
    polar_session_truncate(s, 0, NULL);
    cancel = 1;
    SAME(polar_session_eval, s, tokens, 3);
    SAME(polar_session_generate, s, tokens, 3, NULL, NULL, 0, NULL);
    polar_session_free(s);
}

static int next_bad(void *user, polar_path *path) {
    *path = *(const polar_path *)user;
    return 1;
}

static int take_none(void *user, int number, const polar_many_result *result) {
    (void)user, (void)number, (void)result;
    return 0;
}

static void many_programs(const polar_model *m) {
    const polar_many_options small = {.allocator = &limited};
    const int calls[] = {0, FX_LAYERS};
    polar_path bad = {calls, 2}, good = {calls, 1};
    polar_many_result r;
    polar_many *many = NULL;
    int32_t tokens[FX_CTX + 1] = {0, -1};
    double logprob;
    blocks = 0;
    SAME(polar_many_create, &many, m, &small);
    blocks = -1;
    CHECK(!polar_many_create(&many, m, NULL, NULL));
    SAME(polar_many_prompt, many, tokens, 0);
    SAME(polar_many_prompt, many, tokens, 2);
    SAME(polar_many_run, many, &good, 1, &r); /* no prompt */
    CHECK(!polar_many_prompt(many, tokens, 1, NULL));
    SAME(polar_many_prompt, many, tokens, FX_CTX + 1);
    CHECK(!polar_many_prompt(many, tokens, 1, NULL));
    SAME(polar_many_draft, many, tokens, 2);
    SAME(polar_many_run, many, &bad, 1, &r);
    SAME(polar_many_stream, many, next_bad, take_none, &bad);
    SAME(polar_many_score, many, good, tokens, 2, &logprob);
    polar_many_free(many);
}

static int no_memory(void *user, polar_span a, polar_span b) {
    (void)user, (void)a, (void)b;
    return -1;
}

static void questions_asked(const polar_model *m) {
    const polar_ballot ballots[] = {{"1", 1, 1, POLAR_STOP_END}, {"2", 1, 1, POLAR_STOP_END}};
    const polar_judge judge = {NULL, no_memory, NULL};
    polar_ask_options ask = {0};
    int winner;
    SAME(polar_vote, ballots, 0, NULL, &winner, NULL);
    SAME(polar_vote, ballots, 2, &judge, &winner, NULL);
    ask.program = "9";
    SAME(polar_ask, m, "hi", &ask, NULL, 0, NULL);
    SAME(polar_ask, NULL, "hi", NULL, NULL, 0, NULL);
    ask.program = NULL;
    ask.session.n_ctx = 1;
    SAME(polar_ask, m, "a longer question", &ask, NULL, 0, NULL);
}

static void predictors(const polar_model *m, polar_predictor *p) {
    const polar_features_options deep = {.layer = 99};
    const polar_answer_options how = {0};
    const int32_t prompt[] = {1, -1};
    float seg[FX_LAYERS], op[3 * FX_LAYERS], rows[256] = {NAN};
    double probability[2];
    polar_predictor_info info;
    size_t size;
    polar_features *x = NULL;
    polar_picker *picker = NULL;
    polar_candidate c[4];
    polar_picked picked;
    const float *made;
    int n;
    SAME(polar_predictor_save, p, rows, 1, &size);
    SAME(polar_predictor_logits, p, rows, 0, seg, op);
    SAME(polar_predictor_logits, p, rows, 1, seg, op);
    SAME(polar_predictor_menu, p, rows, 0, probability);
    polar_predictor_get_info(p, &info);
    info.model_fingerprint = 7;
    CHECK(!polar_predictor_set_info(p, &info, NULL));
    SAME(polar_predictor_check, p, m, NULL, 0);
    SAME(polar_picker_create, &picker, m, p, NULL);
    SAME(polar_picker_create, &picker, m, NULL, NULL);
    info.model_fingerprint = polar_model_fingerprint(m);
    info.feature = POLAR_FEATURE_HIDDEN;
    info.feature_layer = 1;
    CHECK(!polar_predictor_set_info(p, &info, NULL));
    info.price = -1;
    SAME(polar_predictor_set_info, p, &info);
    SAME(polar_features_create, &x, m, &deep);
    CHECK(!polar_features_create(&x, m, NULL, NULL));
    SAME(polar_features_make, x, NULL, 0, prompt, 2, &made, &n);
    polar_features_free(x);
    CHECK(!polar_picker_create(&picker, m, p, NULL, NULL));
    SAME(polar_picker_pick, picker, NULL, 0, prompt, 2, c, 4, &n);
    SAME(polar_picker_answer, picker, prompt, 1, c, 0, &how, NULL, 0, &picked);
    polar_picker_free(picker);
}

/* A network of one epoch, and a menu beside it. */
static void training(const polar_model *m) {
    static float features[8][3 * 256];
    polar_train_question questions[8];
    polar_train_path paths[8][2];
    int calls[2][8], lengths[2];
    polar_program menu[2] = {polar_program_identity(FX_LAYERS)};
    const polar_train_options o = {.d_model = 8, .n_head = 2, .n_block = 1, .n_epochs = 1, .batch = 4, .n_threads = 1};
    polar_train_options small = o, broken = o;
    const polar_menu_options mo = {.width = 8, .n_head = 2, .n_epochs = 1, .n_threads = 1};
    polar_trainer *t = NULL, *none = NULL;
    polar_predictor *base = NULL, *p = NULL;
    uint64_t seed = 5;
    size_t size;
    CHECK(!polar_program_parse(&menu[1], FX_LAYERS, "0x0", NULL));
    for (int k = 0; k < 2; k++) lengths[k] = polar_program_path(&menu[k], calls[k], 8);
    for (int i = 0; i < 8; i++) {
        for (int k = 0; k < 3 * 256; k++) features[i][k] = rng_float(&seed) - 0.5f;
        for (int k = 0; k < 2; k++)
            paths[i][k] = (polar_train_path){.path = calls[k], .length = lengths[k], .result = POLAR_RESULT_VALID};
        questions[i] = (polar_train_question){.features = features[i], .n_tokens = 3, .paths = paths[i], .n_paths = 2};
    }
    small.allocator = &limited;
    blocks = 0;
    SAME(polar_trainer_create, &none, FX_LAYERS, 256, questions, 8, &small);
    blocks = -1;
    broken.batch = -1;
    SAME(polar_trainer_create, &none, FX_LAYERS, 256, questions, 0, NULL);
    SAME(polar_trainer_create, &none, FX_LAYERS, 256, questions, 8, &broken);
    SAME(polar_trainer_run, NULL, 1);
    CHECK(!polar_trainer_create(&t, FX_LAYERS, 256, questions, 8, &o, NULL));
    SAME(polar_trainer_predictor, t, &p); /* no epoch is done */
    SAME(polar_trainer_save, t, features, 1, &size);
    SAME(polar_trainer_load, t, features, 1);
    CHECK(!polar_trainer_run(t, 0, NULL) && !polar_trainer_predictor(t, &base, NULL));
    polar_trainer_free(t);
    SAME(polar_menu_train, &p, base, FX_LAYERS, 256, questions, 8, menu, 0, &mo, NULL);
    CHECK(!polar_menu_train(&p, base, FX_LAYERS, 256, questions, 8, menu, 2, &mo, NULL, NULL));
    polar_predictor_close(base);
    predictors(m, p);
    polar_predictor_close(p);
}

/* The functions that polar.h declares with an error, all of which have failed above. */
static void all_functions(void) {
    size_t size;
    char *text = test_read(fopen("polar.h", "rb"), &size), name[80];
    int n = 0;
    CHECK(text != NULL);
    for (char *p = text; p && (p = strstr(p, "\nPOLAR_API ")) != NULL;) {
        char *const end = strchr(p, ';'), *open = strchr(p, '('), *start = open;
        int seen = 0;
        if (!end || !open) break;
        *end = 0;
        while (start[-1] != ' ' && start[-1] != '*') start--;
        snprintf(name, sizeof name, "%.*s", (int)(open - start), start);
        for (int i = 0; i < n_failed; i++) seen |= !strcmp(failed[i], name);
        if (strstr(open, "polar_error *")) {
            n++;
            if (!seen) printf("no failing call of %s\n", name);
            CHECK(seen);
        }
        p = end + 1;
    }
    CHECK(n > 50 && n_failed < COUNT(failed));
    free(text);
}

TEST(without_error) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 1);
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    files(&f);
    texts(m);
    programs();
    sessions(m);
    many_programs(m);
    training(m);
    questions_asked(m);
    all_functions();
    polar_model_close(m);
    free(f.data);
}

static const test_case tests[] = {{"without_error", test_without_error}};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
