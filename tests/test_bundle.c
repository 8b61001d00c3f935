/* The bundled model and predictor as fixtures: logits, answers, picks and a search whose bits are known. They were
 * computed by plain C on x86-64; any CPU, compiler and number of threads must find them again. POLAR_TEST_PRINT in the
 * environment prints what is found. */
#include "inside.h"
#include "../examples/answer/answer.h"
#include "test.h"

#define MODEL "examples/demo/demo-model.gguf"
#define PREDICTOR "examples/demo/demo-predictor.gguf"

static const char *const questions[] = {
    "Find the card. At first it is under cup 6. Swap 1 with 6; 6 with 5; 8 with 2; 8 with 3; 1 with 4.",
    "Max gives a coin to Ben. Max sees Ann swap with Eve. Who has it now?",
    "Say where the card ends up. It is put under cup 3. The swaps are 5 and 3, 7 and 6, 6 and 5, 6 and 8.",
};

static const char *const programs[] = {"identity", "2-5x2 8-10x0", "2-5x3", "6-10x0"};

static polar_model *bundle_open(void) {
    polar_model *m = NULL;
    polar_error e;
    if (polar_model_open(&m, MODEL, NULL, &e)) CHECK_STR(e.message, "");
    return m;
}

/* The question as the model wants it: the template of the file, BOS in front. */
static int prompt_of(const polar_model *m, const char *question, int32_t *tokens, int capacity) {
    char text[600];
    polar_message message = {"user", text};
    polar_error e;
    int n = 0;
    snprintf(text, sizeof text, "%s\n", question);
    CHECK(!polar_chat_tokenize(m, POLAR_CHAT_RAW, 0, &message, 1, tokens, capacity, &n, &e));
    return n;
}

static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

static uint64_t mix_text(uint64_t h, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) h = mix(h, (unsigned char)text[i]);
    return mix(h, n);
}

static uint64_t mix_program(uint64_t h, const polar_program *program) {
    char text[2048];
    polar_program_format(program, text, sizeof text);
    return mix_text(h, text, strlen(text));
}

static int golden(const char *what, uint64_t found, uint64_t expected) {
    if (found != expected || getenv("POLAR_TEST_PRINT"))
        printf("%s: 0x%08x%08x\n", what, (unsigned)(found >> 32), (unsigned)found);
    return found == expected;
}

TEST(template) {
    polar_model *m = bundle_open();
    polar_model_info info;
    if (!m) return;
    polar_model_get_info(m, &info);
    CHECK_STR(info.prompt, "{question}\n");
    polar_model_close(m);
}

/* Logits of the last position of a prompt, under each program. */
TEST(logits) {
    static const uint64_t expected[COUNT(programs)] = {0x61e03e1b02338ab6, 0xe4a1b356767a4425, 0x90b1aed8fafd1974,
                                                       0xf8c19d76db1b8e33};
    polar_model *m = bundle_open();
    polar_session *s = NULL;
    polar_session_options o = {0};
    int32_t tokens[400];
    polar_error e;
    if (!m) return;
    o.max_calls = 64;
    o.n_threads = 2;
    CHECK(!polar_session_create(&s, m, NULL, &o, &e));
    for (int i = 0; s && i < COUNT(programs); i++) {
        const int n = prompt_of(m, questions[i % COUNT(questions)], tokens, COUNT(tokens));
        polar_program p;
        uint64_t h = 0;
        CHECK(!polar_program_parse(&p, m->n_layer, programs[i], &e));
        CHECK(!polar_session_set_program(s, &p, &e));
        CHECK(!polar_session_eval(s, tokens, n, &e));
        for (int k = 0; k < m->n_vocab; k++) h = mix(h, f32_bits(polar_session_logits(s, 0)[k]));
        CHECK(golden(programs[i], h, expected[i]));
    }
    polar_session_free(s);
    polar_model_close(m);
}

/* What the predictor picks, best first, and how sure it is. */
TEST(picks) {
    static const uint64_t expected[COUNT(questions)] = {0xd702a73eb0e4d0f7, 0xe874f2a43d22f5c7, 0x14c929b424a7960c};
    polar_model *m = bundle_open();
    polar_predictor *predictor = NULL;
    polar_picker *picker = NULL;
    polar_error e;
    int32_t tokens[400];
    if (!m) return;
    if (polar_predictor_open(&predictor, PREDICTOR, NULL, &e) ||
        polar_picker_create(&picker, m, predictor, NULL, &e))
        CHECK_STR(e.message, "");
    for (int i = 0; picker && i < COUNT(questions); i++) {
        const int n_tokens = prompt_of(m, questions[i], tokens, COUNT(tokens));
        static polar_candidate c[5];
        uint64_t h = 0;
        int n = 0;
        CHECK(!polar_picker_pick(picker, questions[i], strlen(questions[i]), tokens, n_tokens, c, 5, &n, &e));
        CHECK(n > 0);
        for (int k = 0; k < n; k++) h = mix(mix_program(h, &c[k].program), f64_bits(c[k].score));
        CHECK(golden("picks", h, expected[i]));
    }
    polar_picker_free(picker);
    polar_predictor_close(predictor);
    polar_model_close(m);
}

#ifndef POLAR_NO_SEARCH
/* A search with real answers: every program that is tried, its parent and its reward. */
TEST(search) {
    static const char *const gold[COUNT(questions)] = {"4", "Ben", "8"};
    static const uint64_t expected[COUNT(questions)] = {0xbb6828bc58f43893, 0xefa5cd0303c8852d, 0xc3e60dcd910fca88};
    polar_model *m = bundle_open();
    polar_many *many = NULL;
    polar_error e;
    int32_t tokens[400];
    if (!m) return;
    CHECK(!polar_many_create(&many, m, NULL, &e));
    for (int i = 0; many && i < COUNT(questions); i++) {
        polar_search_options o = {0};
        polar_search *search = NULL;
        polar_program program;
        uint64_t h = 0;
        int id;
        o.simulations = 40;
        CHECK(!polar_search_create(&search, m->n_layer, questions[i], strlen(questions[i]), &o, &e));
        CHECK(!polar_many_prompt(many, tokens, prompt_of(m, questions[i], tokens, COUNT(tokens)), &e));
        while (search && (id = polar_search_next(search, &program)) >= 0) {
            int calls[POLAR_MAX_CALLS], equal;
            const polar_path path = {calls, polar_program_path(&program, calls, COUNT(calls))};
            polar_many_result result;
            polar_span said;
            CHECK(!polar_many_run(many, &path, 1, &result, &e));
            said = answer_extract(result.text, result.length);
            equal = answer_equal(said.text, said.length, gold[i], strlen(gold[i]), 0);
            CHECK(!polar_search_report(search, id, equal, &e));
            h = mix_text(mix(mix_program(h, &program), (uint64_t)equal), result.text, result.length);
        }
        CHECK(search->n_done == o.simulations + 1); /* and the identity */
        CHECK(golden("search", h, expected[i]));
        polar_search_free(search);
    }
    polar_many_free(many);
    polar_model_close(m);
}
#endif

static const test_case tests[] = {
    {"template", test_template}, {"logits", test_logits}, {"picks", test_picks},
#ifndef POLAR_NO_SEARCH
    {"search", test_search},
#endif
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
