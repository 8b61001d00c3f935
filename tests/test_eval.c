/* examples/cli/statistics.c: statistics against published examples and exact integers; baselines against their definitions. The commands eval and
 * report are tested in test_eval_cli.c. */
#include "inside.h"
#include "../examples/cli/statistics.c"
#include "test.h"
#include "fixture.h"

static int near_to(double found, double expected, double tolerance) {
    if (found - expected <= tolerance && expected - found <= tolerance) return 1;
    printf("found %.17g, expected %.17g\n", found, expected);
    return 0;
}

/* Newcombe 1998 (Statistics in Medicine 17, 857), table I; more digits from a calculation with 40 of them. */
TEST(accuracy) {
    static const struct {
        int right, n;
        double low, high;
    } known[] = {{81, 263, 0.2552885198782742, 0.36620957698280004},
                 {15, 148, 0.062386399530736276, 0.16048724172330803},
                 {0, 20, 0, 0.16112515805281938},
                 {1, 29, 0.00611321429276266, 0.17175521879320288},
                 {29, 29, 0.8830302015002592, 1}};
    for (int i = 0; i < COUNT(known); i++) {
        const statistics_interval x = statistics_accuracy(known[i].right, known[i].n);
        const statistics_interval y = statistics_accuracy(known[i].n - known[i].right, known[i].n);
        CHECK(near_to(x.low, known[i].low, 1e-14) && near_to(x.high, known[i].high, 1e-14));
        CHECK(near_to(y.low, 1 - x.high, 1e-15) && near_to(y.high, 1 - x.low, 1e-15));
    }
    CHECK(statistics_accuracy(0, 0).low == 0 && statistics_accuracy(0, 0).high == 1);
    CHECK(statistics_accuracy(3, 2).high == 1 && statistics_accuracy(-1, 2).low == 0);
}

/* Sums of binomial coefficients in exact integers. */
TEST(mcnemar) {
    static const struct {
        int corrected, broken;
        double p;
    } known[] = {{7, 1, 0.0703125},
                 {16, 6, 0.052478790283203125},
                 {5, 0, 0.0625},
                 {120, 80, 0.0056851559967503055},
                 {1200, 1000, 2.1817026407914712e-05},
                 {0, 30, 1.862645149230957e-09},
                 {1, 0, 1},
                 {0, 0, 1},
                 {40, 40, 1},
                 {300, 10, 1.9342365111897645e-75},
                 {5000, 4700, 0.0023966033625776252}};
    for (int i = 0; i < COUNT(known); i++) {
        const double p = statistics_mcnemar(known[i].corrected, known[i].broken);
        CHECK(near_to(p / known[i].p, 1, 1e-10));
        CHECK(p == statistics_mcnemar(known[i].broken, known[i].corrected));
    }
    CHECK(statistics_mcnemar(1000000, 0) == 0 && near_to(statistics_mcnemar(1000000, 999999), 1, 1e-6));
}

/* {59, 6, 16, 80}: Cavo 2012, {1, 1, 7, 12}: Bentur 2009, both in Fagerland, Lydersen, Laake, Statistical Analysis of
 * Contingency Tables, chapter 8, as -0.1186..-0.0046 and -0.507..-0.026. The others by the formula with 40 digits. */
TEST(difference) {
    static const struct {
        statistics_paired counts;
        double low, high;
    } known[] = {{{59, 6, 16, 80}, -0.11862119563870993, -0.004625113933050055},
                 {{1, 1, 7, 12}, -0.506920226686141, -0.025559124164859795},
                 {{20, 12, 2, 16}, 0.056156424841748286, 0.32920699540014053},
                 {{0, 0, 0, 10}, -0.27753279986288926, 0.27753279986288926},
                 {{3000, 400, 150, 450}, 0.05119070136867005, 0.07388748237743568},
                 {{2, 5, 7, 1}, -0.5093714959534544, 0.29128546206471173}};
    const statistics_paired none = {0, 0, 0, 0};
    for (int i = 0; i < COUNT(known); i++) {
        const statistics_paired c = known[i].counts, swapped = {c.both, c.broken, c.corrected, c.neither};
        const statistics_interval x = statistics_difference(&c), y = statistics_difference(&swapped);
        CHECK(near_to(x.low, known[i].low, 1e-13) && near_to(x.high, known[i].high, 1e-13));
        CHECK(near_to(y.low, -x.high, 1e-15) && near_to(y.high, -x.low, 1e-15));
    }
    CHECK(statistics_difference(&none).low == -1 && statistics_difference(&none).high == 1);
}

/* Hidden states as the tap shows them, whole prompts at once, and the definition in long double. */
typedef struct states {
    float hidden[FX_LAYERS + 1][16][256];
    int zero; /* layer whose result is set to 0, -1: none */
} states;

static int keep_states(void *user, const polar_tap_info *info) {
    states *s = user;
    if (s->zero >= 0 && info->layer == s->zero) memset(info->hidden, 0, (size_t)info->n_rows * 256 * sizeof(float));
    memcpy(s->hidden[info->call + 1], info->hidden, (size_t)info->n_rows * 256 * sizeof(float));
    return 0;
}

static long double change(const float *x, const float *y) {
    long double xx = 0, yy = 0, xy = 0;
    for (int i = 0; i < 256; i++) {
        xx += (long double)x[i] * x[i];
        yy += (long double)y[i] * y[i];
        xy += (long double)x[i] * y[i];
    }
    return 1 - xy / sqrtl(xx * yy);
}

/* Student's distribution in closed form with 1, 2 and 4 degrees of freedom; quantiles from printed tables. */
TEST(student) {
    static const struct {
        int n;
        double t;
    } table[] = {{2, 12.7062}, {3, 4.3027}, {5, 2.7764}, {10, 2.2622}, {31, 2.0423}, {121, 1.9799}};
    static const double ts[] = {0.01, 0.5, 1.9, 2.1, 5, 40};
    const double ordinary[] = {1, 3}, equal[] = {2, 2, 2}, zero[] = {0, 0}, odd[] = {1, NAN};
    statistics_mean m;
    for (int i = 0; i < COUNT(ts); i++) {
        const double t = ts[i], s = 1 / sqrt(1 + t * t / 4);
        CHECK(near_to(statistics_student_p(t, 1), 1 - 2 / acos(-1.0) * atan(t), 1e-14));
        CHECK(near_to(statistics_student_p(t, 2), 1 - t / sqrt(2 + t * t), 1e-14));
        CHECK(near_to(statistics_student_p(t, 4), 1 - t / sqrt(4 + t * t) * (1 + s * s / 2), 1e-14));
    }
    CHECK(near_to(statistics_student_p(1.959963984540054, 1000000), 0.05, 1e-6));
    CHECK(statistics_student_p(40, 1000) > 0 && statistics_student_p(40, 1000) < 1e-150);
    for (int i = 0; i < COUNT(table); i++)
        CHECK(near_to(statistics_student_quantile(table[i].n - 1), table[i].t, 5.1e-5));
    m = statistics_student(ordinary, 2); /* mean 2, standard error 1 */
    CHECK(m.mean == 2 && near_to(m.interval.low, 2 - 12.7062, 1e-4) && near_to(m.p, 1 - 2 / acos(-1.0) * atan(2), 1e-14));
    CHECK(statistics_student(equal, 3).p == 0 && statistics_student(zero, 2).p == 1);
    CHECK(statistics_student(odd, 2).p == 1 && statistics_student(odd, 2).interval.high > 1e300);
    CHECK(statistics_student(ordinary, 1).p == 1);
}

TEST(influence) {
    static states s;
    const int32_t a[] = {1, 2, 3, 4, 5, 6, 7}, b[] = {100, 50};
    const int32_t *const prompts[] = {a, b};
    const int lengths[] = {7, 2};
    fixture f = fixture_model("llama", QUANT_F32, 3);
    polar_session_options o = {0};
    double found[FX_LAYERS], chunks[FX_LAYERS], expected[FX_LAYERS] = {0};
    polar_model *m = fx_open(&f, POLAR_CPU_AUTO);
    polar_error e;
    for (int p = 0; p < 2; p++) {
        polar_session *session = NULL;
        o.n_ctx = 16;
        o.tap = keep_states;
        o.tap_user = &s;
        s.zero = -1;
        CHECK(!polar_session_create(&session, m, NULL, &o, &e) &&
              !polar_session_eval(session, prompts[p], lengths[p], &e));
        for (int k = 0; k < FX_LAYERS; k++)
            for (int i = 0; i < lengths[p]; i++) expected[k] += (double)change(s.hidden[k][i], s.hidden[k + 1][i]) / 9;
        polar_session_free(session);
    }
    memset(&o, 0, sizeof o);
    CHECK(!statistics_influence(m, prompts, lengths, 2, &o, found, &e));
    for (int k = 0; k < FX_LAYERS; k++) CHECK(found[k] > 0 && near_to(found[k], expected[k], 1e-12));
    o.n_batch = 3;
    o.n_threads = 2;
    CHECK(!statistics_influence(m, prompts, lengths, 2, &o, chunks, &e));
    CHECK_BITS(found, chunks, FX_LAYERS);
    o.tap = keep_states; /* a layer that leaves nothing is not like its input, and its result goes on */
    o.tap_user = &s;
    s.zero = 1;
    CHECK(!statistics_influence(m, prompts, lengths, 1, &o, found, &e));
    CHECK(found[2] == 0 && found[3] == 0); /* nothing comes of nothing, and is like it */
    polar_model_close(m);
    free(f.data);
    f = fixture_model("qwen2", QUANT_F32, 3);
    m = fx_open(&f, POLAR_CPU_AUTO);
    CHECK(!statistics_influence(m, prompts, lengths, 1, &o, found, &e));
    CHECK(found[2] == 1); /* the biases of the values come of nothing, and are unlike it */
    CHECK(statistics_influence(m, prompts, lengths, 0, NULL, found, &e) == POLAR_ARGUMENT);
    CHECK_STR(e.message, "influence: no prompts");
    polar_model_close(m);
    free(f.data);
}

TEST(skip) {
    const double influence[] = {0.5, 0.1, 0.3, 0.1, 0.2, 0.9};
    const char *const expected[] = {"5", "0 5", "0 2 5", "0 2 4 5", "0 2 3 4 5", "0 1 2 3 4 5", "0 1 2 3 4 5"};
    polar_error e;
    for (int n = 1; n <= 7; n++) {
        polar_program p;
        int path[POLAR_MAX_CALLS], length;
        char text[64] = "";
        CHECK(!statistics_skip(influence, 6, n, &p, &e));
        length = polar_program_path(&p, path, 6);
        for (int i = 0; i < length; i++)
            snprintf(text + strlen(text), sizeof text - strlen(text), i ? " %d" : "%d", path[i]);
        CHECK_STR(text, expected[n - 1]);
    }
    CHECK(statistics_skip(influence, 6, 0, NULL, &e) == POLAR_ARGUMENT);
}

/* The edits of a program, sorted, as text: skips and repeats by length and times. */
static void edits(const polar_program *p, char *text, size_t size) {
    int counts[8][8] = {{0}};
    for (int i = 0; i < p->n_segments; i++)
        if (p->segments[i].times != 1) counts[p->segments[i].length][p->segments[i].times]++;
    *text = 0;
    for (int k = 0; k < 64; k++)
        if (counts[k / 8][k % 8])
            snprintf(text + strlen(text), size - strlen(text), "%d of %dx%d ", counts[k / 8][k % 8], k / 8, k % 8);
}

TEST(shuffle) {
    polar_program p, q, identity = polar_program_identity(12);
    polar_error e;
    char before[128], after[128];
    int skipped[12] = {0};
    CHECK(!polar_program_parse(&p, 12, "2-3x0 5-7x2 8x3 11x0", &e));
    edits(&p, before, sizeof before);
    for (uint64_t seed = 0; seed < 2000; seed++) {
        CHECK(!statistics_shuffle(&p, seed, &q, &e) && !polar_program_validate(&q, 12, &e));
        edits(&q, after, sizeof after);
        CHECK_STR(after, before);
        CHECK(polar_program_length(&q) == polar_program_length(&p));
        for (int i = 0; i < q.n_segments; i++)
            for (int k = 0; k < q.segments[i].length && !q.segments[i].times; k++) skipped[q.segments[i].start + k]++;
    }
    /* 9 pieces in random order: the single skipped one is first in 1/9 of the cases, so is the double one */
    CHECK(near_to(skipped[0] / 2000.0, 2.0 / 9, 0.04) && near_to(skipped[11] / 2000.0, 2.0 / 9, 0.04));
    for (int i = 0; i < 12; i++) CHECK(skipped[i] > 300);
    CHECK(!statistics_shuffle(&identity, 1, &q, &e) && polar_program_equal(&q, &identity));
    CHECK(!statistics_shuffle(&p, 5, &q, &e) && !statistics_shuffle(&p, 5, &p, &e) && polar_program_equal(&p, &q));
    p.n_segments = 0;
    CHECK(statistics_shuffle(&p, 5, &q, &e) != POLAR_OK);
}

TEST(cascade) {
    polar_cascade_run runs[4000];
    polar_error error;
    double threshold, worth, best = -1e9;
    /* a cheap program that is right where it is confident, and a dear one that is always right */
    for (int i = 0; i < 2000; i++) {
        const double u = (double)rng_float(&fx_random);
        runs[2 * i].confidence = -u;
        runs[2 * i].correct = u < 0.4;
        runs[2 * i].cost = 0.5;
        runs[2 * i + 1].confidence = -u - 0.001;
        runs[2 * i + 1].correct = 1;
        runs[2 * i + 1].cost = 1.5;
    }
    /* the dear one's confidence is below that of the cheap one: it is taken only where it reaches the threshold */
    for (int i = 0; i < 2000; i++) runs[2 * i + 1].confidence = 0;
    CHECK(!statistics_cascade(runs, 2000, 2, 0.1, &threshold, &worth, NULL));
    CHECK(fabs(threshold + 0.4) < 0.02);
    for (int i = 0; i < 4000; i++) best = fmax(best, cascade_worth(runs, 2000, 2, runs[i].confidence, 0.1));
    CHECK(worth <= best && worth > best - 0.005);
    CHECK(!statistics_cascade(runs, 2000, 2, 10, &threshold, NULL, NULL));
    CHECK(threshold < -0.99); /* nothing is worth a second */
    CHECK(statistics_cascade(runs, 0, 1, 0, &threshold, NULL, &error) == POLAR_ARGUMENT && *error.message);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(accuracy), T(mcnemar), T(difference), T(student), T(influence), T(skip), T(shuffle), T(cascade),
};

int main(int argc, char **argv) {
    return test_main(tests, (int)(sizeof tests / sizeof *tests), argc, argv);
}
