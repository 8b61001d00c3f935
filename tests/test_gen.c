/* Sampling, generation, and the library as a whole: threads, determinism, the bundled example. */
#include "../polar.c"
#include "test.h"
#include "fixture.h"

#ifndef POLAR_NO_THREADS
#include <pthread.h>
#endif

/* --- sampling --- */

TEST(greedy) {
    const float logits[] = {1, 5, 2, 5, -1};
    polar_sampling o = polar_generate_defaults().sampling;
    uint64_t state = 1;
    CHECK(polar_sample(&o, logits, 5, &state, NULL) == 1); /* the lowest id on ties */
}

/* Draws follow the softmax; filters leave out what they should. */
TEST(distribution) {
    const float logits[] = {0, 2, 1, -1, -3};
    float scratch[10];
    int counts[5];
    const struct {
        polar_sampling o;
        double expected[5];
    } cases[] = {
        {{1, 0, 1, 0, 0},
         {0.0854, 0.6308, 0.2321, 0.0314, 0.0043}}, /* probabilities of these logits, computed by hand */
        {{1, 2, 1, 0, 0}, {0, 0.7311, 0.2689, 0, 0}},
        {{1, 0, 0.7f, 0, 0}, {0, 0.7311, 0.2689, 0, 0}},
        {{1, 0, 1, 0.1f, 0}, {0.0900, 0.6652, 0.2447, 0, 0}},
        {{2, 2, 1, 0, 0}, {0, 0.6225, 0.3775, 0, 0}},
        {{1, 1, 1, 0, 0}, {0, 1, 0, 0, 0}},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        uint64_t state = 42;
        memset(counts, 0, sizeof counts);
        for (int k = 0; k < 20000; k++) counts[polar_sample(&cases[i].o, logits, 5, &state, scratch)]++;
        for (int t = 0; t < 5; t++) {
            CHECK(fabs(counts[t] / 20000.0 - cases[i].expected[t]) < 0.012);
            if (cases[i].expected[t] == 0) CHECK(counts[t] == 0);
        }
    }
}

/* --- generation --- */

static polar_model *fixture_opened(const char *arch, uint64_t seed, fixture *f) {
    *f = fixture_model(arch, QUANT_Q8_0, seed);
    return fx_open(f, POLAR_CPU_AUTO);
}

static void generate(const polar_model *m, const polar_generate_options *g, char *text, size_t capacity,
                     polar_result *r) {
    const int32_t prompt[] = {10, 20, 30};
    polar_session_options o = polar_session_defaults();
    polar_session *s = NULL;
    o.n_threads = 1;
    CHECK(!polar_session_create(&s, m, NULL, &o, NULL));
    CHECK(!polar_session_generate(s, prompt, 3, g, text, capacity, r, NULL));
    polar_session_free(s);
}

TEST(same_seed_same_text) {
    fixture f;
    polar_model *m = fixture_opened("qwen3", 5, &f);
    polar_generate_options g = polar_generate_defaults();
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
    polar_generate_options g = polar_generate_defaults();
    static char whole[8192], cut[8192];
    static pieces p;
    polar_result r;
    g.max_tokens = 60;
    g.ignore_end = 1;
    g.sampling.temperature = 2;
    g.on_text = on_piece;
    g.user = &p;
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
    polar_generate_options g = polar_generate_defaults();
    polar_session_options o = polar_session_defaults();
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
    g.on_text = on_piece, g.user = &p;
    polar_session_truncate(s, 0, NULL);
    CHECK(polar_session_generate(s, prompt, 3, &g, NULL, 0, &r, &e) == POLAR_CANCELLED && e.message[0]);
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
    polar_generate_options g = polar_generate_defaults();
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
    polar_session_options o = polar_session_defaults();
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
    for (int i = 0; i < 300000; i++) {
        const uint64_t r = rng_next(&state);
        const float a = bits_f32((uint32_t)(r >> 32) & 0xbfffffff), b = bits_f32((uint32_t)r & 0xbfffffff);
        const float c = i % 3 ? -a * b : bits_f32((uint32_t)rng_next(&state) & 0xbfffffff);
        const float want = fmaf(a, b, c), got = fma32(a, b, c);
        CHECK(f32_bits(want) == f32_bits(got) || (want != want && got != got));
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

/* examples/minimal.c is what README and polar.h show, and it runs. The Makefile builds build/minimal. */
TEST(minimal_example) {
    char *example = file_text("examples/minimal.c"), *readme = file_text("README.md"), *header = file_text("polar.h");
    char *line = strstr(example, "#include \"polar.h\""), *out;
    fixture f = fixture_model("llama", QUANT_Q8_0, 9);
    FILE *model = fopen("build/minimal.gguf", "wb");
    CHECK(line && strstr(readme, line));
    for (; line && *line; line += strcspn(line, "\n") + 1) { /* in polar.h each line stands behind " *     " */
        char shown[256];
        snprintf(shown, sizeof shown, "\n *     %.*s\n", (int)strcspn(line, "\n"), line);
        if (*line != '\n') CHECK(strstr(header, shown));
    }
    CHECK(model && fwrite(f.data, 1, f.size, model) == f.size && !fclose(model));
    CHECK(!system("build/minimal build/minimal.gguf \"a question\" \"1x2 3x0\" > build/minimal.txt"));
    out = file_text("build/minimal.txt");
    CHECK(strstr(out, " tokens, 4 layer calls each]"));
    /* a question as the bundled model was trained to be asked, by the template in its file */
    CHECK(!system("build/minimal examples/demo/demo-model.gguf \"Find the hour. At first the clock is at 9. First back "
                  "2, then forward 3.\" > build/minimal.txt"));
    free(out);
    out = file_text("build/minimal.txt");
    CHECK_STR(out, "\\boxed{10}\n[3 tokens, 12 layer calls each]\n");
    CHECK(system("build/minimal no-such-file.gguf \"a question\" 2> build/minimal.txt") != 0);
    free(out);
    out = file_text("build/minimal.txt");
    CHECK(strstr(out, "minimal: ") == out && strstr(out, "no-such-file.gguf"));
    free(example), free(readme), free(header), free(out), free(f.data);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(greedy), T(distribution), T(same_seed_same_text), T(stream_and_stop), T(end_context_cancel),
    T(ten_sessions), T(shared_pool), T(exp_log_turns), T(fma_is_exact), T(halves), T(minimal_example),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
