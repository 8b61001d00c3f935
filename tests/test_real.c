/* Real trained models of ../shared, where it exists, against numbers that an independent program in double precision
 * computed: logits, probabilities of the prompt, greedy tokens, under many paths; and the text makes sense. */
#include "inside.h"
#include "test.h"
#include "oracle.h"

static double number_of(const json *v, const char *key) {
    v = json_get(v, key);
    return v && v->type == JSON_NUMBER ? v->number : NAN;
}

/* One line of reference.jsonl. */
typedef struct row {
    const json *v;
    int32_t ids[64], path[16], greedy[64];
    int n_ids, n_path, n_greedy;
} row;

static row row_of(const json *v) {
    row r;
    memset(&r, 0, sizeof r);
    r.v = v;
    r.n_ids = oracle_ints(json_get(v, "ids"), r.ids, COUNT(r.ids));
    r.n_path = oracle_ints(json_get(v, "path"), r.path, COUNT(r.path));
    r.n_greedy = oracle_ints(json_get(v, "greedy"), r.greedy, COUNT(r.greedy));
    return r;
}

static void check_logits(const row *r, const float *logits, int n_vocab) {
    const json *top = json_get(r->v, "top8"), *all = json_get(r->v, "logits");
    double sum = 0, squares = 0;
    int i = 0;
    for (const json *x = top ? top->child : NULL; x; x = x->next) {
        int id;
        CHECK(json_int(x->child, &id) && id >= 0 && id < n_vocab);
        CHECK(fabs((double)logits[id] - x->child->next->number) < 1e-3);
    }
    for (const json *x = all ? all->child : NULL; x; x = x->next, i++)
        CHECK(i < n_vocab && fabs((double)logits[i] - x->number) < 1e-3);
    for (i = 0; i < n_vocab; i++) sum += (double)logits[i], squares += (double)logits[i] * (double)logits[i];
    sum /= n_vocab;
    CHECK(fabs(sum - number_of(r->v, "logits_mean")) < 1e-3);
    CHECK(fabs(sqrt(squares / n_vocab - sum * sum) - number_of(r->v, "logits_std")) < 1e-3);
}

static void check_row(const polar_model *m, const row *r) {
    static float scratch[8192];
    polar_session_options o = {0};
    polar_session *s = NULL;
    polar_error e;
    double nll = 0;
    o.n_ctx = r->n_ids + r->n_greedy;
    o.n_logits = r->n_ids;
    o.kv_type = POLAR_KV_F32;
    o.max_calls = COUNT(r->path);
    CHECK(m->n_vocab <= COUNT(scratch));
    CHECK(!polar_session_create(&s, m, NULL, &o, &e) && !polar_session_set_path(s, r->path, r->n_path, &e));
    CHECK(!polar_session_eval(s, r->ids, r->n_ids, &e));
    for (int i = 1; i < r->n_ids; i++)
        nll -= gen_logprob(m, polar_session_logits(s, r->n_ids - i), r->ids[i], scratch);
    CHECK(fabs(nll - number_of(r->v, "prompt_nll")) < 1e-4 * r->n_ids);
    check_logits(r, polar_session_logits(s, 0), m->n_vocab);
    for (int i = 0; i < r->n_greedy; i++) {
        const int32_t token = draw_greedy(polar_session_logits(s, 0), m->n_vocab);
        CHECK(token == r->greedy[i]);
        if (i + 1 < r->n_greedy) CHECK(!polar_session_eval(s, &token, 1, &e));
    }
    polar_session_free(s);
}

TEST(reference) {
    static const char *const names[] = {"stories260K", "tinystories656K"};
    size_t size;
    char *text = test_shared_text("data/models/reference.jsonl", &size), *line;
    int rows = 0;
    for (int i = 0; text && i < COUNT(names); i++) {
        char path[96];
        size_t n;
        char *data;
        polar_model *m = NULL;
        snprintf(path, sizeof path, "data/models/%s-f32.gguf", names[i]);
        if (!(data = test_shared_text(path, &n))) break;
        CHECK(!polar_model_open_memory(&m, data, n, NULL, NULL));
        for (line = text; m && line < text + size; line += strcspn(line, "\n") + 1) {
            const char *problem, *model;
            size_t at;
            json_document *d = json_read(line, strcspn(line, "\n"), &problem, &at);
            row r;
            if (d && (model = json_get_text(json_root(d), "model")) && !strcmp(model, names[i])) {
                r = row_of(json_root(d));
                check_row(m, &r);
                rows++;
            }
            json_free(d);
        }
        polar_model_close(m);
        free(data);
    }
    if (text) CHECK(rows == 97);
    free(text);
}

/* What a child's story looks like; and the rules of text hold for a real vocabulary. */
TEST(sensible_text) {
    size_t n;
    char *data = test_shared_text("data/models/stories260K-f32.gguf", &n), answer[1000];
    polar_ask_options o = {0};
    polar_model *m = NULL;
    polar_result r;
    polar_error e;
    if (!data) return;
    CHECK(!polar_model_open_memory(&m, data, n, NULL, &e));
    o.generate.max_tokens = 80;
    CHECK(!polar_ask(m, "Once upon a time", &o, answer, sizeof answer, &r, &e));
    CHECK(strstr(answer, ", there was a little girl named Lily") == answer);
    CHECK(strstr(answer, " play") && strchr(answer, '.') && r.n_generated == 80 && r.length == strlen(answer));
    o.program = "2x0 1x2"; /* a skip before a repeat: items ascend */
    CHECK(polar_ask(m, "Once upon a time", &o, answer, sizeof answer, &r, &e) == POLAR_FORMAT && e.message[0]);
    o.program = "1x2 3x0";
    CHECK(!polar_ask(m, "Once upon a time", &o, answer, sizeof answer, &r, &e) && r.n_calls == 5 && r.length > 20);
    polar_model_close(m);
    free(data);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(reference), T(sensible_text),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
