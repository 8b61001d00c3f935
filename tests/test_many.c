/* Many programs on one prompt: the same bits as each program alone in a fresh session, whatever is shared. */
#include "../polar.c"
#include "test.h"
#include "fixture.h"

static const char *const arch_names[] = {"llama", "qwen2", "qwen3", "qwen2moe"};
static uint64_t seed = 11;

static int random_below(int n) {
    return (int)(rng_next(&seed) % (uint64_t)n);
}

static polar_model *opened(const fixture *f) {
    polar_model *m = NULL;
    polar_error e;
    polar_model_open_memory(&m, f->data, f->size, NULL, &e);
    CHECK_STR(e.message, "");
    return m;
}

/* The reference: a session used as a user would, token by token. */
typedef struct expected {
    int32_t tokens[64];
    int n_tokens;
    polar_result result;
    char text[1024];
} expected;

static void alone(const polar_model *m, const int *path, int n_path, const int32_t *prompt, int n_prompt, const polar_many_options *o,
                  expected *x) {
    polar_session_options so = polar_session_defaults();
    polar_generate_options g = polar_generate_defaults();
    polar_session *s = NULL;
    polar_error e;
    so.n_ctx = MIN(n_prompt + o->max_tokens, FX_CTX);
    so.max_calls = MAX(n_path, FX_LAYERS);
    so.kv_type = o->kv_type;
    so.n_threads = 1;
    g.max_tokens = o->max_tokens;
    g.stop = o->stop;
    CHECK(!polar_session_create(&s, m, NULL, &so, &e));
    CHECK(!polar_session_set_path(s, path, n_path, &e));
    CHECK(!polar_session_generate(s, prompt, n_prompt, &g, x->text, sizeof x->text, &x->result, &e));
    CHECK_STR(e.message, "");
    /* the tokens, found again one by one */
    x->n_tokens = 0;
    polar_session_truncate(s, 0, NULL);
    CHECK(!polar_session_eval(s, prompt, n_prompt, NULL));
    while (x->n_tokens < x->result.n_generated) {
        const int32_t t = polar_sample(&g.sampling, polar_session_logits(s, 0), FX_VOCAB, NULL, NULL);
        x->tokens[x->n_tokens++] = t;
        if (x->n_tokens < x->result.n_generated) CHECK(!polar_session_eval(s, &t, 1, NULL));
    }
    polar_session_free(s);
}

static void same(const polar_many_result *r, const expected *x) {
    CHECK(r->status == POLAR_OK);
    CHECK(r->n_tokens == x->n_tokens && !memcmp(r->tokens, x->tokens, (size_t)x->n_tokens * sizeof *x->tokens));
    CHECK(r->stop == x->result.stop);
    CHECK(f64_bits(r->logprob) == f64_bits(x->result.logprob));
    CHECK(r->length == x->result.length && !memcmp(r->text, x->text, r->length) && !r->text[r->length]);
}

TEST(plain) {
    fixture f = fixture_model("llama", QUANT_Q8_0, 3);
    polar_model *m = opened(&f);
    polar_many_options o = polar_many_defaults();
    polar_many *y = NULL;
    polar_error e;
    const int paths[3][6] = {{0, 1, 2, 3}, {0, 1, 1, 2, 3}, {2}};
    const polar_path p[] = {{paths[0], 4}, {paths[1], 5}, {paths[2], 1}};
    const int32_t prompt[] = {10, 20, 30, 40}, more[] = {7, 8};
    polar_many_result r[3];
    double logprob;
    o.max_tokens = 10;
    CHECK(!polar_many_create(&y, m, &o, &e));
    CHECK(!polar_many_prompt(y, prompt, 4, &e));
    CHECK(!polar_many_run(y, p, 3, r, &e));
    for (int i = 0; i < 3; i++) {
        expected x;
        alone(m, p[i].calls, p[i].n, prompt, 4, &o, &x);
        same(&r[i], &x);
    }
    CHECK(!polar_many_score(y, p[0], more, 2, &logprob, &e) && logprob < 0);
    (void)arch_names, (void)random_below;
    polar_many_free(y);
    polar_model_close(m);
    free(f.data);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(plain),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
