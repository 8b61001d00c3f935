/* [train]: gradients against differences and the reference, its three steps, order, reproducibility, resuming. */
#include "../polar.c"
#include "test.h"
#include "oracle.h"

#define T(...) {(const int[]){__VA_ARGS__}, (int)(sizeof((const int[]){__VA_ARGS__}) / sizeof(int)), POLAR_RESULT_VALID}
#define N_ORACLE 5

/* The supervision of train.json. */
static const polar_train_path oracle_0[] = {T(0, 1, 2, 3, 4, 5), T(0, 2, 3, 4, 5), T(0, 1, 1, 2, 3, 4, 5),
                                            {(const int[]){2, 3, 4, 5}, 4, POLAR_RESULT_INVALID}};
static const polar_train_path oracle_1[] = {T(0, 1, 4, 5), T(0, 1, 2, 3, 2, 3, 4, 5),
                                            {(const int[]){0, 1, 2, 3, 4, 5}, 6, POLAR_RESULT_INVALID}};
static const polar_train_path oracle_2[] = {T(0, 1, 2, 3, 4, 5), T(0, 1, 2, 3, 4, 5, 5)};
static const polar_train_path oracle_3[] = {T(1, 2, 3, 4, 5), T(0, 1, 2, 3, 4), T(2, 2, 2, 3), T(0, 0, 1, 1, 3, 4, 5)};

static void oracle_questions(polar_train_question *q, const float *table, int q_dim) {
    static const int rows[N_ORACLE][2] = {{1, 3}, {4, 7}, {11, 1}, {12, 12}, {24, 5}}; /* first, number */
    static const polar_train_path *const paths[N_ORACLE] = {oracle_0, oracle_1, oracle_2, oracle_3, NULL};
    static const int counts[N_ORACLE] = {COUNT(oracle_0), COUNT(oracle_1), COUNT(oracle_2), COUNT(oracle_3), 0};
    for (int i = 0; i < N_ORACLE; i++) {
        q[i].features = table + rows[i][0] * q_dim;
        q[i].n_tokens = rows[i][1];
        q[i].paths = paths[i];
        q[i].n_paths = counts[i];
    }
}

/* Largest relative error of a tensor against floats of train.bin, relative to its largest element. */
static double oracle_compare(oracle *o, FILE *bin, const float *x, size_t n, int skip_key_bias) {
    const long offset = (long)oracle_number(o, "offset");
    float *expected = malloc(n * sizeof *expected);
    double worst = 0, largest = 0;
    CHECK((size_t)oracle_number(o, "count") == n);
    fseek(bin, offset, SEEK_SET);
    CHECK(fread(expected, sizeof *expected, n, bin) == n);
    for (size_t i = 0; i < n; i++) {
        if (skip_key_bias && i >= n / 3 && i < 2 * n / 3) continue;
        largest = fmax(largest, fabs((double)expected[i]));
        worst = fmax(worst, fabs((double)x[i] - (double)expected[i]));
    }
    free(expected);
    return worst / largest;
}

static void oracle_tensors(oracle *o, FILE *bin, const char *what, const pred_shape *s, const float *x, double bound) {
    pred_tensor list[PRED_MAX_TENSORS];
    oracle_find(o, what, NULL);
    for (int i = 0, n = pred_tensors(s, list); i < n; i++) {
        const int key_bias = strstr(list[i].name, "in_proj_bias") != NULL;
        double worst;
        oracle_find(o, list[i].name, NULL);
        worst = oracle_compare(o, bin, x + list[i].offset, list[i].count, key_bias);
        if (worst > bound) printf("%s %s: %g\n", what, list[i].name, worst);
        CHECK(worst <= bound);
    }
}

static void oracle_run(oracle *o, FILE *bin, const polar_train_question *questions, int n_layer, int q_dim,
                       const float *params, int n_heads, int d_model) {
    polar_train_options options = polar_train_defaults();
    polar_trainer *t;
    polar_error error;
    double x[64], losses[10], lrs[10], norms[10];
    int with_gradients;
    options.cpu = POLAR_CPU_PLAIN;
    options.dropout = 0;
    options.standardize = 0;
    options.validation = 0;
    options.warmup = 2;
    options.batch = 10;
    options.d_model = d_model;
    options.n_head = n_heads;
    options.length_preference = oracle_number(o, "lenpref");
    options.anti_identity = oracle_number(o, "anti");
    options.identity_weight = oracle_number(o, "orig_w");
    oracle_find(o, "reweight", NULL);
    options.identity = *o->at == 't' || o->at[1] == 't' ? POLAR_IDENTITY_REWEIGHT : POLAR_IDENTITY_PLAIN;
    oracle_find(o, "psnorm", NULL);
    options.per_question = *o->at == 't' || o->at[1] == 't';
    options.weight_decay = oracle_number(o, "wd");
    options.clip = oracle_number(o, "clip");
    CHECK(!polar_trainer_create(&t, n_layer, q_dim, questions, N_ORACLE, &options, &error));
    CHECK(t->n_params == pred_count(&t->net.shape) && t->n_train == 10 && t->n_steps == 1);
    memcpy(t->params, params, t->n_params * sizeof *params);
    pred_pack(&t->net, &t->runner);
    oracle_find(o, "losses", NULL);
    CHECK(oracle_numbers(o, losses, 10) == 10);
    oracle_find(o, "lrs", NULL);
    oracle_numbers(o, lrs, 10);
    oracle_find(o, "grad_norms", NULL);
    oracle_numbers(o, norms, 10);
    oracle_find(o, "weight", NULL); /* those of the first batch, in the order of the examples */
    CHECK(oracle_numbers(o, x, 64) == 10);
    with_gradients = strstr(o->at, "\"gradients\"") && strstr(o->at, "\"gradients\"") < strstr(o->at, "\"params_after_3_steps\"");
    for (int step = 0; step < 10; step++) {
        CHECK(!polar_trainer_run(t, 1, &error));
        CHECK(fabs(t->state.loss - losses[step]) < 2e-5 * losses[step]);
        CHECK(fabs(t->state.lr - lrs[step]) < 1e-12);
        CHECK(fabs(t->state.norm - norms[step]) < 1e-3 * norms[step]);
        if (step == 0) {
            double weights[10] = {0}, anti = 0;
            int first[N_ORACLE]; /* the trainer's questions are in another order */
            (void)first;
            for (int i = 0; i < t->n_batch; i++) {
                const train_example *e = &t->examples[t->batch_examples[i]];
                const int source = t->questions[e->question].source;
                static const int before[N_ORACLE] = {0, 3, 5, 7, 10};
                weights[before[source] + t->batch_examples[i] - t->questions[e->question].first] = t->weights[i];
            }
            for (int i = 0; i < 10; i++) CHECK(fabs(weights[i] - x[i]) < 1e-6);
            for (int i = 0; i < t->n_passes; i++) anti += t->sums[i].anti;
            if (options.anti_identity > 0) CHECK(fabs(anti / t->anti_total - oracle_number(o, "anti_loss")) < 1e-6);
            if (with_gradients) oracle_tensors(o, bin, "gradients", &t->net.shape, t->grads, 1e-4);
        }
        if (step == 2) oracle_tensors(o, bin, "params_after_3_steps", &t->net.shape, t->params, 1e-4);
    }
    polar_trainer_free(t);
}

TEST(reference) {
    oracle o;
    FILE *bin;
    pred_shape s = {0, 0, 0, 0, 2, 0};
    pred_tensor list[PRED_MAX_TENSORS];
    polar_train_question questions[N_ORACLE];
    float *table, *params;
    char *runs;
    size_t count;
    if (!oracle_open(&o, "oracle/train.json")) return;
    if (!(bin = test_shared("oracle/train.bin"))) return;
    s.n_layer = (int)oracle_number(&o, "D");
    s.d_model = (int)oracle_number(&o, "d_model");
    s.q_dim = (int)oracle_number(&o, "q_dim");
    s.n_head = (int)oracle_number(&o, "heads");
    s.n_ff = 4 * s.d_model;
    params = malloc(pred_count(&s) * sizeof *params);
    runs = strstr(o.at, "\"runs\"");
    o.at = strstr(o.at, "\"features\"");
    table = calloc(64, (size_t)s.q_dim * sizeof *table);
    {
        const uint64_t seed = (uint64_t)oracle_number(&o, "seed");
        const float scale = (float)oracle_number(&o, "scale");
        count = (size_t)oracle_number(&o, "rows") * (size_t)s.q_dim;
        oracle_fill(table, count, seed, scale, 0);
    }
    oracle_questions(questions, table, s.q_dim);
    o.at = strstr(o.text, "\"tensors\"");
    for (int k = 0, n = pred_tensors(&s, list); k < n; k++) {
        const uint64_t seed = (uint64_t)oracle_number(&o, "seed");
        const float scale = (float)oracle_number(&o, "scale");
        oracle_fill(params + list[k].offset, list[k].count, seed, scale, (float)oracle_number(&o, "shift"));
    }
    o.at = runs;
    for (int run = 0; run < 4; run++) oracle_run(&o, bin, questions, s.n_layer, s.q_dim, params, s.n_head, s.d_model);
    free(params);
    free(table);
    free(o.text);
    fclose(bin);
}

static const test_case tests[] = {{"reference", test_reference}};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
