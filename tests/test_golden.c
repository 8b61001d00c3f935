/* Golden checksums: bits computed by plain C on x86-64, to be found again with every compiler, CPU, instruction
 * set and byte order. With POLAR_TEST_PRINT in the environment it prints what it finds. */
#include "inside.h"
#include "test.h"
#include "fixture.h"

static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

/* NaN has many forms; here they count as one. */
static uint64_t mix_floats(uint64_t h, const float *x, int n) {
    for (int i = 0; i < n; i++) h = mix(h, x[i] == x[i] ? f32_bits(x[i]) : 0x7FC00000);
    return h;
}

static uint64_t mix_double(uint64_t h, double x) {
    return mix(h, x == x ? f64_bits(x) : 0x7FF8000000000000u);
}

/* 1 if the bits are the expected ones; otherwise, or when asked for, says what they are. */
static int golden(const char *what, uint64_t found, uint64_t expected) {
    if (found != expected || getenv("POLAR_TEST_PRINT"))
        printf("%s: 0x%08x%08x\n", what, (unsigned)(found >> 32), (unsigned)found);
    return found == expected;
}

/* --- numbers --- */

TEST(arithmetic) {
    uint64_t seed = 1, h[4] = {0, 0, 0, 0};
    for (int i = 0; i < 20000; i++) {
        const float a = bits_f32((uint32_t)rng_next(&seed)), b = bits_f32((uint32_t)rng_next(&seed));
        const float near_one = (rng_float(&seed) - 0.5f) * 200, c = -a * b;
        const float fused[] = {fma32(a, b, c), fma32(near_one, b, a), fma32(near_one, 1.0f / 3, rng_float(&seed))};
        const float exps[] = {exp32(near_one), exp32(a)};
        const double x = ((double)rng_float(&seed) + 1e-6) * 1e3;
        const uint16_t half = f32_f16(a);
        const float halves[] = {f16_f32((uint16_t)i), f16_f32((uint16_t)(i + 45536))};
        double s, t;
        h[0] = mix_floats(h[0], fused, 3);
        h[1] = mix_floats(h[1], exps, 2);
        h[1] = mix_double(mix_double(h[1], log64(x)), pow64(x, (double)near_one));
        turn_sincos(rng_next(&seed), &s, &t);
        h[2] = mix_double(mix_double(h[2], s), t);
        h[3] = mix(mix_floats(h[3], halves, 2), a == a ? half : 0u);
    }
    CHECK(golden("fma32", h[0], 0xe43537429fc423e0));
    CHECK(golden("exp, log, pow", h[1], 0xbc275cfe279d8533));
    CHECK(golden("sine, cosine", h[2], 0xb787a4b40ef56e8e));
    CHECK(golden("halves", h[3], 0x0b0c410769551593));
}

/* --- models --- */

/* Identity; skips; repeats; layer 0 skipped and the last repeated; any order. */
static const struct {
    int n, path[8];
} programs[] = {{4, {0, 1, 2, 3}}, {2, {0, 3}}, {7, {0, 1, 2, 1, 2, 2, 3}}, {5, {1, 2, 3, 3, 3}}, {4, {3, 0, 2, 0}}};

/* All logits of a prompt in two pieces and of four tokens more, each the most likely one. */
static uint64_t run_model(const polar_model *m, int program, polar_kv_type kv_type, polar_kv_mode kv_mode) {
    const int32_t prompt[] = {72, 101, 108, 108, 111, 32, 256, 299, 0, 7, 150, 33};
    polar_session_options o = {0};
    polar_session *s = NULL;
    polar_error e;
    uint64_t h = 0;
    int32_t token = 0;
    o.max_calls = COUNT(programs[0].path);
    o.kv_type = kv_type;
    o.kv_mode = kv_mode;
    o.n_ctx = COUNT(prompt) + 4;
    o.n_threads = 2;
    if (polar_session_create(&s, m, NULL, &o, &e) ||
        polar_session_set_path(s, programs[program].path, programs[program].n, &e))
        CHECK_STR(e.message, "");
    for (int step = 0; step < 6; step++) {
        if (step < 2) CHECK(!polar_session_eval(s, step ? prompt + 7 : prompt, step ? COUNT(prompt) - 7 : 7, &e));
        else CHECK(!polar_session_eval(s, &token, 1, &e));
        h = mix_floats(h, polar_session_logits(s, 0), FX_VOCAB);
        token = (int32_t)polar_sample(NULL, polar_session_logits(s, 0), FX_VOCAB, NULL, 0, NULL, NULL, 0);
    }
    polar_session_free(s);
    return mix(h, (uint64_t)token);
}

/* The model opened in place, from an address that is aligned, or from one that is not. */
static uint64_t one_model(const fixture *f, int offset, polar_cpu cpu, int program, int mode) {
    polar_model_options o = {0};
    polar_model *m = NULL;
    polar_error e;
    uint8_t *bytes = malloc(f->size + 8);
    uint64_t h = 0;
    memcpy(bytes + offset, f->data, f->size);
    o.cpu = cpu;
    CHECK(!polar_model_open_memory(&m, bytes + offset, f->size, &o, &e));
    if (m) {
        h = run_model(m, program, mode & 1 ? POLAR_KV_F32 : POLAR_KV_F16,
                      mode & 2 ? POLAR_KV_SHARED : POLAR_KV_PER_CALL);
        h = mix(h, polar_model_checksum(m));
    }
    polar_model_close(m);
    free(bytes);
    return h;
}

typedef struct golden_model {
    int arch, type;
    uint64_t hash;
} golden_model;

static const golden_model golden_models[] = {
    {0, QUANT_F32, 0xfd9605a1469d6d98}, {1, QUANT_F16, 0xc3e2ff69fe97adb9},
    {2, QUANT_BF16, 0x510ac87fb424081c}, {3, QUANT_F32, 0xf68bebb8c595fb41},
    {0, QUANT_Q8_0, 0x8ef78abeb6a41df9}, {1, QUANT_Q4_0, 0xc4c748cb6e97f6da},
    {2, QUANT_Q4_1, 0xe35ea4da2fb1b433}, {3, QUANT_Q5_0, 0x8a0b59cd5cb570e7},
    {0, QUANT_Q5_1, 0x74064e0a75f3c0d6}, {1, QUANT_IQ4_NL, 0x26fae926cfa67309},
    {2, QUANT_Q2_K, 0xf336b47ad04e7a42}, {3, QUANT_Q4_K, 0xd4a78950f77d1981},
    {0, QUANT_Q3_K, 0x8db66bdfc58a43a0}, {1, QUANT_Q5_K, 0xd57af0a52b46e546},
    {2, QUANT_Q6_K, 0x33f908653e3a0cd6}, {3, QUANT_Q8_0, 0x8ed18a80122e2317},
    {0, QUANT_Q4_K, 0xc0eadc8c028f68bd}, {1, QUANT_IQ4_XS, 0x40849f0a7b132563},
    {2, QUANT_Q8_0, 0x1b8250036d1d5352}, {4, QUANT_Q4_K, 0x9f667abc3d5aac79},
    {5, QUANT_Q6_K, 0x3e128d4fcea130b5},
};

TEST(models) {
    for (int i = 0; i < COUNT(golden_models); i++) {
        const golden_model *g = &golden_models[i];
        fixture f = fixture_model(fx_archs[g->arch], g->type, (uint64_t)i);
        char what[64];
        uint64_t h;
        for (int cpu = POLAR_CPU_PLAIN; cpu < POLAR_N_CPU; cpu++) {
            if (!kern_find((polar_cpu)cpu)) continue;
            snprintf(what, sizeof what, "%s %s %s", fx_archs[g->arch], quant_types[g->type].name,
                     polar_cpu_name((polar_cpu)cpu));
            h = one_model(&f, cpu == POLAR_CPU_PLAIN ? i % 4 : 0, (polar_cpu)cpu, i % COUNT(programs), i % 4);
            CHECK(golden(what, h, g->hash));
        }
        free(f.data);
    }
}

/* Damped passes, then another program, with slots per call and per layer. */
TEST(damped) {
    const int32_t tokens[] = {72, 101, 108, 108, 111, 32, 256, 299, 0, 7, 150, 33};
    fixture f = fixture_model("qwen2moe", QUANT_Q4_K, 5);
    polar_program first, then;
    CHECK(!polar_program_parse(&first, FX_LAYERS, "0~2 1-2~3", NULL));
    CHECK(!polar_program_parse(&then, FX_LAYERS, "0-1x2 3~2", NULL));
    for (int cpu = POLAR_CPU_PLAIN; cpu < POLAR_N_CPU; cpu++) {
        polar_model_options mo = {0};
        polar_model *m = NULL;
        uint64_t h = 0;
        if (!kern_find((polar_cpu)cpu)) continue;
        mo.cpu = (polar_cpu)cpu;
        CHECK(!polar_model_open_memory(&m, f.data, f.size, &mo, NULL));
        for (int mode = 0; mode < 2; mode++) {
            polar_session_options o = {.max_calls = 10, .n_threads = 2, .n_batch = 3};
            polar_session *s = NULL;
            o.kv_mode = mode ? POLAR_KV_LAST : POLAR_KV_PER_CALL;
            CHECK(!polar_session_create(&s, m, &first, &o, NULL));
            for (int at = 0, step; at < COUNT(tokens); at += step) {
                step = at ? 2 : 8;
                if (at == 8) CHECK(!polar_session_change_program(s, &then, NULL));
                CHECK(!polar_session_eval(s, tokens + at, step, NULL));
                h = mix_floats(h, polar_session_logits(s, 0), FX_VOCAB);
            }
            polar_session_free(s);
        }
        CHECK(golden(polar_cpu_name((polar_cpu)cpu), h, 0x9c044d1e27668968));
        polar_model_close(m);
    }
    free(f.data);
}

/* --- sampling --- */

TEST(sampling) {
    static float logits[FX_VOCAB], scratch[5 * FX_VOCAB];
    polar_sampling s = {0};
    uint64_t seed = 3, state = 5, h = 0;
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < FX_VOCAB; i++) logits[i] = (rng_float(&seed) - 0.5f) * 20;
        s.temperature = (0.05f + rng_float(&seed)) * 2;
        s.top_k = round % 3 ? 40 : 0;
        s.top_p = round % 2 ? 0.9f : 1;
        s.min_p = round % 5 ? 0 : 0.02f;
        h = mix(h, (uint64_t)polar_sample(&s, logits, FX_VOCAB, NULL, 0, &state, scratch, sizeof scratch));
    }
    CHECK(golden("sampling", h, 0x365f554cdf83a320));
}

/* --- training --- */

#ifndef POLAR_NO_TRAIN
static int hash_step(void *user, const polar_train_progress *p) {
    uint64_t *h = user;
    *h = mix_double(mix_double(mix_double(*h, p->loss), p->norm), p->lr);
    return 0;
}

TEST(training) {
    enum { LAYERS = 6, WIDTH = 20, QUESTIONS = 24, TOKENS = 5 };
    static const int identity[] = {0, 1, 2, 3, 4, 5}, skip[] = {0, 2, 3, 4, 5}, loop[] = {0, 1, 1, 2, 3, 4, 5};
    static const int bad[] = {2, 3};
    static const polar_train_path paths[2][3] = {
        {{identity, 6, POLAR_RESULT_VALID}, {skip, 5, POLAR_RESULT_VALID}, {bad, 2, POLAR_RESULT_INVALID}},
        {{identity, 6, POLAR_RESULT_INVALID}, {loop, 7, POLAR_RESULT_VALID}, {skip, 5, POLAR_RESULT_INVALID}}};
    static float features[QUESTIONS][TOKENS * WIDTH];
    polar_train_question q[QUESTIONS];
    uint64_t seed = 9;
    for (int i = 0; i < QUESTIONS; i++) {
        const polar_train_question one = {features[i], 1 + i % TOKENS, 3, paths[i % 2]};
        q[i] = one;
        for (int k = 0; k < TOKENS * WIDTH; k++) features[i][k] = rng_float(&seed) - 0.5f + (i % 2 ? 0.2f : 0);
    }
    for (int cpu = POLAR_CPU_PLAIN; cpu < POLAR_N_CPU; cpu++) {
        polar_train_options o = {0};
        polar_trainer *t = NULL;
        polar_error e;
        uint64_t h = 0;
        if (!kern_find((polar_cpu)cpu)) continue;
        o.cpu = (polar_cpu)cpu;
        o.n_threads = 2;
        o.seed = 4;
        o.d_model = 16, o.n_head = 2, o.n_block = 1;
        o.batch = 6;
        o.n_epochs = 2;
        o.progress = hash_step;
        o.progress_user = &h;
        CHECK(!polar_trainer_create(&t, LAYERS, WIDTH, q, QUESTIONS, &o, &e));
        CHECK(!polar_trainer_run(t, 0, &e));
        h = mix_floats(h, t->best, (int)t->n_params);
        CHECK(golden("training", h, 0x9cb59ff0fc842ab2));
        polar_trainer_free(t);
    }
}
#else
TEST(training) {
}
#endif

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(arithmetic), T(models), T(damped), T(sampling), T(training),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
