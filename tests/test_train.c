/* [train]: gradients against differences and the reference, its three steps, order, reproducibility, resuming. */
#include "inside.h"
#include "saved.h"
#include "test.h"
#include "oracle.h"

static void backward_run(void *user, int n, polar_task task, void *context) {
    (void)user;
    for (int i = n - 1; i >= 0; i--) task(context, i, 0);
}
static const polar_runner backward = {backward_run, NULL, 1};

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
    if (!bin) return;
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
    polar_train_options options = {0};
    polar_trainer *t;
    polar_error error;
    double x[64], losses[10], lrs[10], norms[10];
    int with_gradients;
    options.cpu = POLAR_CPU_PLAIN;
    options.dropout = POLAR_OFF;
    options.no_standardize = 1;
    options.validation = POLAR_OFF;
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
    with_gradients =
        strstr(o->at, "\"gradients\"") && strstr(o->at, "\"gradients\"") < strstr(o->at, "\"params_after_3_steps\"");
    for (int step = 0; step < 10; step++) {
        CHECK(!polar_trainer_run(t, 1, &error));
        CHECK(fabs(t->state.loss - losses[step]) < 2e-5 * losses[step]);
        CHECK(fabs(t->state.lr - lrs[step]) < 1e-12);
        CHECK(fabs(t->state.norm - norms[step]) < 1e-3 * norms[step]);
        if (step == 0) {
            double weights[10] = {0}, anti = 0;
            for (int i = 0; i < t->n_batch; i++) {
                const train_example *e = &t->examples[t->batch_examples[i]];
                const int source = t->source_of[e->question];
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

/* Losses, rates, norms of gradients and weights of ten steps; with train.bin gradients and parameters, too. */
static void check_reference(FILE *bin) {
    oracle o;
    pred_shape s = {0, 0, 0, 0, 2, 0};
    pred_tensor list[PRED_MAX_TENSORS];
    polar_train_question questions[N_ORACLE];
    float *table, *params;
    char *runs;
    size_t count;
    if (!oracle_open(&o, "tests/vectors/train.json")) return;
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
}

TEST(reference) {
    check_reference(NULL);
}
TEST(reference_tensors) {
    FILE *bin = test_shared("oracle/train.bin");
    if (!bin) return;
    check_reference(bin);
    fclose(bin);
}

/* --- made-up questions --- */

#define N_LAYER 7
#define Q_DIM 12

typedef struct synthetic {
    polar_train_question *questions;
    int n;
    void *memory[4];
} synthetic;

/* Questions of 1..9 tokens with up to 6 valid paths each. Feature 0 of all tokens is the question's kind, -1 or 1;
 * a valid path skips layer 2 where the kind is 1, and repeats layers 3-4 where it is -1. */
static synthetic synthetic_create(int n, uint64_t seed) {
    synthetic s = {calloc((size_t)n, sizeof(polar_train_question)), n, {NULL}};
    float *features = calloc((size_t)n * 9 * Q_DIM, sizeof *features);
    polar_train_path *paths = calloc((size_t)n * 6, sizeof *paths);
    int *calls = calloc((size_t)n * 6 * 16, sizeof *calls);
    for (int q = 0; q < n; q++) {
        polar_train_question *x = &s.questions[q];
        const float kind = rng_next(&seed) % 2 ? 1.0f : -1.0f;
        float *f = features + q * 9 * Q_DIM;
        x->n_tokens = 1 + (int)(rng_next(&seed) % 9);
        x->n_paths = 1 + (int)(rng_next(&seed) % 6);
        x->features = f;
        x->paths = paths + q * 6;
        for (int i = 0; i < x->n_tokens * Q_DIM; i++) f[i] = i % Q_DIM ? 20 + 4 * rng_float(&seed) : kind;
        for (int p = 0; p < x->n_paths; p++) {
            polar_train_path *path = &paths[q * 6 + p];
            int *at = calls + (q * 6 + p) * 16, length = 0;
            path->path = at;
            for (int i = 0; i < N_LAYER; i++) {
                if (kind > 0 && i == 2) continue;
                at[length++] = i;
                if (kind < 0 && i == 4) at[length++] = 3, at[length++] = 4;
                if (p % 3 == 1 && i == 6) at[length++] = 6; /* some variety: the last layer twice */
            }
            path->length = length;
            path->result = p % 5 == 4 ? POLAR_RESULT_INVALID : POLAR_RESULT_VALID;
        }
    }
    s.memory[0] = s.questions;
    s.memory[1] = features;
    s.memory[2] = paths;
    s.memory[3] = calls;
    return s;
}

static void synthetic_free(synthetic *s) {
    for (int i = 0; i < 4; i++) free(s->memory[i]);
}

static polar_train_options small_options(void) {
    polar_train_options o = {0};
    o.d_model = 16;
    o.n_head = 2;
    o.n_block = 1;
    o.batch = 16;
    o.group = 3;
    o.n_epochs = 3;
    o.seed = 5;
    o.identity = POLAR_IDENTITY_REWEIGHT;
    o.anti_identity = 0.1;
    o.length_preference = 0.05;
    o.clip = 1;
    o.lr = 3e-3;
    return o;
}

/* Every kind of parameter, with dropout: its gradient against differences of the loss. */
static void check_differences(double focal) {
    synthetic s = synthetic_create(8, 1);
    polar_train_options o = small_options();
    polar_trainer *t;
    polar_error error;
    pred_tensor list[PRED_MAX_TENSORS];
    float *grads;
    o.n_block = 2;
    o.focal = focal;
    o.validation = POLAR_OFF;
    o.n_threads = 1;
    CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
    grads = malloc(t->n_params * sizeof *grads);
    train_plan(t);
    train_gather(t);
    t->key = 77;
    train_gradients(t);
    memcpy(grads, t->grads, t->n_params * sizeof *grads);
    for (int i = 0, n = pred_tensors(&t->net.shape, list); i < n; i++) {
        double worst = 0, largest = 1e-3;
        for (size_t k = 0; k < list[i].count; k += 1 + list[i].count / 5) {
            float *x = &t->params[list[i].offset + k];
            const float before = *x, h = 1e-3f;
            double up, down, difference;
            *x = before + h;
            pred_pack(&t->net, &t->runner);
            up = train_gradients(t);
            *x = before - h;
            pred_pack(&t->net, &t->runner);
            down = train_gradients(t);
            *x = before;
            difference = (up - down) / (2 * (double)h);
            worst = fmax(worst, fabs(difference - (double)grads[list[i].offset + k]));
            largest = fmax(largest, fabs(difference));
        }
        if (worst > 0.03 * largest) printf("%s: %g of %g\n", list[i].name, worst, largest);
        CHECK(worst <= 0.03 * largest); /* ReLU has kinks */
    }
    free(grads);
    polar_trainer_free(t);
    synthetic_free(&s);
}

TEST(differences) {
    check_differences(0);
    check_differences(2);
}

/* The focal loss as its formula says, and the ordinary one with gamma 0. */
TEST(focal) {
    const float two[8] = {0, 3, 1, -1, 0.7f, -1, 0.5f, 2};
    const double a[2] = {exp(3) / (exp(3) + exp(1) + exp(-1)), exp(2) / (exp(-1) + exp(0.5) + exp(2))};
    const double starts = 1 / (1 + exp(-0.7));
    const uint8_t labels[2] = {0, 2};
    train_probs p;
    for (int gamma = 0; gamma < 4; gamma++) {
        double seg, op, expected = 0;
        train_probabilities(&p, two, 2);
        train_example_loss(&p, labels, 2, gamma, &seg, &op);
        for (int i = 0; i < 2; i++) expected -= pow(1 - a[i], gamma) * log(a[i]) / 2;
        CHECK(fabs(op - expected) < 1e-6 && fabs(seg + pow(1 - starts, gamma) * log(starts)) < 1e-6);
    }
}

/* The loss that the menu's gradients are of, without dropout. */
static double menu_total(menu_trainer *t, const menu_trace *trace, const float *features, int n,
                         const uint8_t *results) {
    const int n_menu = t->net.shape.n_menu;
    double loss = 0, sum = 0, worth = 0, top = -9, pick[8];
    menu_pack(&t->net);
    menu_forward(&t->net, trace, features, n, NULL);
    for (int k = 0; k < n_menu; k++) {
        pick[k] = 1 / (1 + exp(-(double)trace->logits[k])) - t->options->price * t->costs[k];
        if (results[k] == POLAR_RESULT_UNKNOWN) continue;
        loss += t->share * menu_log_loss((double)trace->logits[k], (polar_result_kind)results[k]);
        top = fmax(top, pick[k]);
    }
    for (int k = 0; k < n_menu; k++) {
        const double p = results[k] == POLAR_RESULT_UNKNOWN ? 0 : exp((pick[k] - top) / MENU_HEAT);
        sum += p;
        worth += p * ((results[k] == POLAR_RESULT_VALID) - t->options->price * t->costs[k]);
    }
    return loss - t->options->policy * t->share * n_menu * worth / sum;
}

TEST(menu_differences) {
    enum { N = 5, WIDTH = 8, MENU = 4 };
    static const uint8_t results[MENU] = {POLAR_RESULT_VALID, POLAR_RESULT_INVALID, POLAR_RESULT_UNKNOWN,
                                          POLAR_RESULT_VALID};
    for (int pooling = 0; pooling < 4; pooling++) {
        const menu_shape shape = {Q_DIM, WIDTH, 2, MENU, pooling};
        const size_t n_params = menu_count(&shape);
        polar_menu_options o = {0};
        menu_trainer t;
        menu_trace trace;
        menu_weights g;
        pred_tensor list[MENU_TENSORS];
        const pred_dropout none = pred_dropout_of(0, 0);
        float features[N * Q_DIM], dlogits[MENU] = {0}, *grads = calloc(n_params, sizeof *grads), dtokens[N * WIDTH];
        uint64_t state = 6;
        void *memory;
        layout l = layout_begin(NULL);
        memset(&t, 0, sizeof t);
        o.price = 0.3;
        o.policy = pooling % 2 ? 0.7 : 0;
        t.options = &o;
        t.net.shape = shape;
        t.net.kern = kern_find(POLAR_CPU_AUTO);
        t.net.kernels = mat_choose(t.net.kern);
        t.params = malloc(n_params * sizeof *t.params);
        t.net.w = menu_place(&shape, t.params);
        t.net.panels = malloc(mat_panels(Q_DIM, WIDTH) * sizeof(float));
        t.share = 0.5;
        for (size_t i = 0; i < n_params; i++) t.params[i] = rng_float(&state) - 0.4f;
        for (int i = 0; i < N * Q_DIM; i++) features[i] = 2 * rng_float(&state) - 1;
        for (int k = 0; k < MENU; k++) t.costs[k] = 0.5 + 0.3 * k;
        menu_place_trace(&shape, &l, &trace, N);
        memory = malloc(layout_bytes(&l));
        l = layout_begin(memory);
        menu_place_trace(&shape, &l, &trace, N);
        menu_total(&t, &trace, features, N, results);
        for (int k = 0; k < MENU; k++)
            if (results[k])
                dlogits[k] = (float)(t.share * (1 / (1 + exp(-(double)trace.logits[k])) -
                                                (results[k] == POLAR_RESULT_VALID)));
        if (o.policy > 0) menu_policy(&t, trace.logits, results, dlogits);
        g = menu_place(&shape, grads);
        menu_backward(&t.net, &trace, features, N, dlogits, &g, dtokens, &none);
        for (int i = 0, n = menu_tensors(&shape, list); i < n; i++) {
            double worst = 0, largest = 1e-3;
            for (size_t k = 0; k < list[i].count; k++) {
                float *x = &t.params[list[i].offset + k];
                const float before = *x, h = 1e-3f;
                double difference;
                *x = before + h;
                difference = menu_total(&t, &trace, features, N, results);
                *x = before - h;
                difference = (difference - menu_total(&t, &trace, features, N, results)) / (2 * (double)h);
                *x = before;
                worst = fmax(worst, fabs(difference - (double)grads[list[i].offset + k]));
                largest = fmax(largest, fabs(difference));
            }
            if (worst > 0.03 * largest) printf("%s, pooling %d: %g of %g\n", list[i].name, pooling, worst, largest);
            CHECK(worst <= 0.03 * largest);
        }
        free(memory);
        free(grads);
        free(t.params);
        free(t.net.panels);
    }
}

static uint64_t weights_hash(const polar_trainer *t) {
    return mem_hash(t->params, t->n_params * sizeof *t->params) ^ mem_hash(t->best, t->n_params * sizeof *t->best);
}

/* The same bits whatever the threads, the runner's order, the chunk of passes and the instruction set. */
/* max_paths of a question's paths are trained on, each as likely as the others; 0 takes all. */
/* Which epoch is kept: by the questions that the first proposal answers and the identity does not. */
TEST(corrected) {
    synthetic s = synthetic_create(200, 6);
    polar_train_options o = small_options();
    polar_trainer *t;
    polar_error error;
    static const int identity[N_LAYER] = {0, 1, 2, 3, 4, 5, 6};
    polar_train_path *paths = s.memory[2];
    int best = -1, best_epoch = 0;
    for (int q = 0; q < s.n; q += 2) paths[q * 6] = (polar_train_path){identity, N_LAYER, POLAR_RESULT_VALID};
    o.select = POLAR_SELECT_CORRECTED;
    o.n_epochs = 12;
    CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
    for (int epoch = 0; epoch < o.n_epochs; epoch++) {
        int corrected = 0;
        CHECK(!polar_trainer_run(t, t->n_steps, &error));
        for (int q = t->n_questions - t->n_validation; q < t->n_questions; q++) {
            const polar_train_question *x = &s.questions[t->source_of[q]];
            polar_predictor *now = NULL;
            polar_candidate beams[5];
            int calls[POLAR_MAX_CALLS], n;
            CHECK(t->state.best_epoch != epoch || !polar_trainer_predictor(t, &now, &error));
            if (now) {
                CHECK(!pred_propose(now, x->features, x->n_tokens, NULL, beams, &n, &error));
                n = polar_program_calls(&beams[0].program, calls, POLAR_MAX_CALLS);
                corrected += train_result(x, calls, n) == POLAR_RESULT_VALID &&
                             train_result(x, identity, N_LAYER) != POLAR_RESULT_VALID;
            }
            polar_predictor_close(now);
        }
        if (t->state.best_epoch == epoch) {
            CHECK(corrected > best && t->state.best == -corrected);
            best = corrected;
            best_epoch = epoch;
        }
    }
    CHECK(best > 0 && t->state.best_epoch == best_epoch);
    polar_trainer_free(t);
    synthetic_free(&s);
}

/* What equal paths say together does not depend on their order. */
TEST(equal_paths) {
    const int calls[] = {0, 1};
    polar_train_path paths[2];
    polar_train_question q;
    memset(paths, 0, sizeof paths);
    memset(&q, 0, sizeof q);
    q.paths = paths;
    q.n_paths = 2;
    for (int i = 0; i < 9; i++) {
        const int a = i / 3, b = i % 3, valid = a == POLAR_RESULT_VALID || b == POLAR_RESULT_VALID;
        for (int k = 0; k < 2; k++) paths[k].path = calls, paths[k].length = 2;
        paths[0].result = (polar_result_kind)a;
        paths[1].result = (polar_result_kind)b;
        CHECK((int)train_result(&q, calls, 2) == (valid ? POLAR_RESULT_VALID : MAX(a, b)));
    }
}

TEST(paths_of_a_question) {
    int calls[5][N_LAYER], chosen[N_LAYER + 1] = {0}, n_valid = 0, n_least = 0;
    polar_train_path paths[5];
    const polar_train_question one = {NULL, 0, 5, paths};
    polar_train_options o = small_options();
    synthetic s = synthetic_create(40, 3);
    polar_trainer *t = NULL;
    polar_train_progress progress;
    polar_error error;
    for (int p = 0; p < 5; p++) { /* lengths 3..7: without the first layers */
        for (int i = p; i < N_LAYER; i++) calls[p][i - p] = i;
        paths[p] = (polar_train_path){calls[p], N_LAYER - p, POLAR_RESULT_VALID};
    }
    o.identity = POLAR_IDENTITY_PLAIN;
    o.max_paths = 2;
    for (int index = 0; index < 1000; index++) {
        train_example examples[5];
        uint8_t labels[5 * N_LAYER];
        const int n = train_question_examples(&one, index, N_LAYER, &o, examples, labels);
        CHECK(n == 2 && examples[0].length != examples[1].length);
        for (int i = 0; i < n; i++) chosen[examples[i].length]++;
    }
    for (int length = 3; length <= N_LAYER; length++) CHECK(chosen[length] > 330 && chosen[length] < 470);
    for (int q = 0; q < s.n; q++) {
        int n = 0;
        for (int p = 0; p < s.questions[q].n_paths; p++) n += s.questions[q].paths[p].result == POLAR_RESULT_VALID;
        n_valid += n;
        n_least += MIN(n, 2);
    }
    o.validation = POLAR_OFF;
    for (int all = 0; all < 2; all++) {
        o.max_paths = all ? POLAR_OFF : 2;
        CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
        polar_trainer_get_progress(t, &progress);
        CHECK(progress.n_examples == (all ? n_valid : n_least) && n_least < n_valid);
        polar_trainer_free(t);
    }
    synthetic_free(&s);
}

TEST(reproducible) {
    synthetic s = synthetic_create(40, 2);
    polar_error error;
    uint64_t expected = 0;
    for (int variant = 0; variant < 5; variant++) {
        polar_train_options o = small_options();
        polar_trainer *t;
        o.n_threads = variant == 1 ? 3 : 1;
        if (variant == 2) o.runner = &backward;
        if (variant == 3) o.cpu = POLAR_CPU_PLAIN;
        CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
        if (variant == 4) t->chunk_capacity = 2;
        CHECK(!polar_trainer_run(t, 0, &error));
        CHECK(polar_trainer_done(t) && t->state.best_epoch >= 0 && t->state.n_skipped == 0);
        CHECK(t->curve[2].loss < t->curve[0].loss);
        if (variant == 0) expected = weights_hash(t);
        CHECK(weights_hash(t) == expected);
        polar_trainer_free(t);
    }
    synthetic_free(&s);
}

static int cancel_after_5(void *user, const polar_train_progress *p) {
    (void)user;
    return p->step == 5;
}

/* Interrupted, written, read into another trainer: the same end. A state that is not whole, or of other options, is
 * refused and changes nothing. */
TEST(resume) {
    synthetic s = synthetic_create(40, 3);
    size_t size = 0, again = 0;
    uint8_t *state;
    polar_train_options o = small_options();
    polar_trainer *t, *u;
    polar_error error;
    uint64_t expected, expected_first;
    o.n_threads = 1;
    CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
    CHECK(!polar_trainer_run(t, 0, &error));
    expected = weights_hash(t);
    polar_trainer_free(t);
    o.progress = cancel_after_5;
    CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
    CHECK(polar_trainer_run(t, 0, &error) == POLAR_CANCELLED);
    CHECK(!polar_trainer_save(t, NULL, 0, &size, &error) && size > 4 * 4 * t->n_params);
    state = malloc(size);
    CHECK(polar_trainer_save(t, state, size - 1, &again, &error) == POLAR_ARGUMENT);
    CHECK(!polar_trainer_save(t, state, size, &again, &error) && again == size);
    CHECK(!polar_trainer_create(&u, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
    expected_first = weights_hash(u);
    CHECK(polar_trainer_load(u, state, size - 1, &error) == POLAR_FORMAT);
    for (size_t at = 0; at < size; at += MAX(at / 7, 1)) {
        state[at] ^= 1;
        CHECK(polar_trainer_load(u, state, size, &error) == (at - 16 < 8 ? POLAR_MISMATCH : POLAR_FORMAT));
        state[at] ^= 1;
    }
    CHECK(weights_hash(u) == expected_first && u->state.step == 0);
    CHECK(!polar_trainer_load(u, state, size, &error));
    CHECK(!polar_trainer_run(u, 0, &error));
    CHECK(weights_hash(u) == expected);
    CHECK(u->curve[2].loss > 0);
    polar_trainer_free(u);
    o.seed++;
    CHECK(!polar_trainer_create(&u, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
    CHECK(polar_trainer_load(u, state, size, &error) == POLAR_MISMATCH);
    polar_trainer_free(u);
    polar_trainer_free(t);
    free(state);
    synthetic_free(&s);
}

/* Every example once per epoch, in batches of about equal size; with groups of 1, of equal size. */
TEST(order) {
    synthetic s = synthetic_create(60, 4);
    polar_error error;
    for (int group = 1; group <= 16; group *= 4) {
        polar_train_options o = small_options();
        polar_trainer *t;
        int *seen, total = 0;
        o.group = group;
        o.batch = 8;
        CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
        seen = calloc((size_t)t->n_train, sizeof *seen);
        train_plan(t);
        for (t->state.step = 0; t->state.step < t->n_steps; t->state.step++) {
            train_gather(t);
            CHECK(t->n_batch > 0 && t->n_batch < 2 * o.batch);
            if (group == 1 && t->state.step + 1 < t->n_steps) CHECK(t->n_batch == o.batch);
            for (int i = 0; i < t->n_passes; i++) {
                CHECK(t->passes[i].count >= 1 && t->passes[i].count <= MIN(group, o.batch));
                for (int k = 0; k < t->passes[i].count; k++) {
                    const int example = t->batch_examples[t->passes[i].first + k];
                    CHECK(t->examples[example].question == t->passes[i].question);
                    seen[example]++;
                }
            }
            total += t->n_batch;
        }
        CHECK(total == t->n_train);
        for (int i = 0; i < t->n_train; i++) CHECK(seen[i] == 1);
        free(seen);
        polar_trainer_free(t);
    }
    synthetic_free(&s);
}

/* It learns the rule of the made-up questions, and what is saved says the same. */
TEST(learns) {
    synthetic s = synthetic_create(200, 6);
    const uint64_t known[3] = {1, 2, UINT64_MAX}, twice[3] = {1, 1, 2};
    polar_train_options o = small_options();
    polar_train_progress progress;
    polar_predictor *p, *q;
    polar_predictor_info info;
    int calls[POLAR_MAX_CALLS];
    polar_candidate a[5], b[5];
    polar_trainer *t;
    polar_error error;
    double loss;
    int n, m, valid = 0;
    o.n_epochs = 12;
    CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
    CHECK(polar_trainer_predictor(t, &p, &error) == POLAR_ARGUMENT);
    CHECK(!polar_trainer_run(t, 0, &error));
    polar_trainer_get_progress(t, &progress);
    CHECK(progress.curve[progress.best_epoch].hit1 > 0.9);
    loss = progress.curve[progress.best_epoch].validation_loss;
    CHECK(!polar_trainer_predictor(t, &p, &error));
    polar_predictor_get_info(p, &info);
    info.feature = POLAR_FEATURE_HIDDEN;
    info.feature_layer = 2;
    info.model_checksum = 0xfedcba9876543210u;
    info.model_name = "made up";
    CHECK(!info.questions && !info.n_questions);
    info.questions = known;
    info.n_questions = 3;
    CHECK(!polar_predictor_set_info(p, &info, &error));
    polar_predictor_get_info(p, &info);
    CHECK(!polar_predictor_set_info(p, &info, &error)); /* with its own list */
    info.questions = twice;
    CHECK(polar_predictor_set_info(p, &info, &error) == POLAR_ARGUMENT);
    CHECK_STR(error.message, "fingerprints of questions do not ascend");
    CHECK((q = saved_again(p, &error)) != NULL);
    polar_predictor_get_info(q, &info);
    CHECK(info.n_layer == N_LAYER && info.feature == POLAR_FEATURE_HIDDEN && info.feature_layer == 2);
    CHECK(info.n_questions == 3 && !memcmp(info.questions, known, sizeof known));
    CHECK(info.model_checksum == 0xfedcba9876543210u && !strcmp(info.model_name, "made up") &&
          info.n_params == t->n_params);
    for (int i = 0; i < 20; i++) {
        const polar_train_question *x = &s.questions[i];
        CHECK(!pred_propose(p, x->features, x->n_tokens, NULL, a, &n, &error));
        CHECK(!pred_propose(q, x->features, x->n_tokens, NULL, b, &m, &error));
        CHECK(n == m && a[0].score == b[0].score && polar_program_equal(&a[0].program, &b[0].program));
        valid += train_result(x, calls, polar_program_calls(&a[0].program, calls, POLAR_MAX_CALLS)) == POLAR_RESULT_VALID;
    }
    CHECK(valid >= 15);
    polar_predictor_close(q);
    polar_trainer_free(t);
    /* Going on from it starts where it ended. */
    o.start = p;
    o.dropout = POLAR_OFF;
    o.lr = POLAR_OFF;
    o.n_epochs = 1;
    CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, &o, &error));
    CHECK(!polar_trainer_run(t, 0, &error));
    CHECK(fabs(t->curve[0].validation_loss - loss) < 1e-3);
    CHECK(t->curve[0].hit1 > 0.9);
    polar_trainer_free(t);
    polar_predictor_close(p);
    synthetic_free(&s);
}

TEST(bad_data) {
    static const int other[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    const polar_train_path deeper = {other, 9, POLAR_RESULT_VALID}, invalid = {other, 7, POLAR_RESULT_INVALID};
    float features[Q_DIM] = {0};
    polar_train_question q = {features, 1, 1, &deeper};
    polar_train_options o = small_options();
    polar_trainer *t = NULL;
    polar_error error;
    CHECK(polar_trainer_create(&t, N_LAYER, Q_DIM, &q, 1, &o, &error) == POLAR_MISMATCH && !t);
    CHECK(strstr(error.message, "another model"));
    q.paths = &invalid;
    CHECK(polar_trainer_create(&t, N_LAYER, Q_DIM, &q, 1, &o, &error) == POLAR_ARGUMENT);
    CHECK(polar_trainer_create(&t, N_LAYER, Q_DIM, &q, 0, &o, &error) == POLAR_ARGUMENT);
    q.n_paths = 0;
    CHECK(polar_trainer_create(&t, N_LAYER, Q_DIM, &q, 1, &o, &error) == POLAR_ARGUMENT);
    {
        const polar_train_path valid = {other, 7, POLAR_RESULT_VALID};
        q.paths = &valid;
        q.n_paths = 1;
        CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, &q, 1, &o, &error)); /* one question: none is held out */
        CHECK(!polar_trainer_run(t, 0, &error));
        polar_trainer_free(t);
        features[3] = NAN;
        CHECK(polar_trainer_create(&t, N_LAYER, Q_DIM, &q, 1, &o, &error) == POLAR_NUMERIC);
        features[3] = 1e38f;
        o.no_standardize = 1;
        o.lr = 1;
        CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, &q, 1, &o, &error));
        CHECK(polar_trainer_run(t, 0, &error) == POLAR_NUMERIC || t->state.n_skipped == 0);
        polar_trainer_free(t);
    }
}

/* --- the menu --- */

/* Kind 1: the identity and program 1 are right; kind -1: program 2, and sometimes the identity. */
static void menu_paths(synthetic *s, const polar_program *menu, int *calls, polar_train_path *paths, int hidden) {
    uint64_t rng = 9;
    for (int q = 0; q < s->n; q++) {
        const int kind = s->questions[q].features[0] > 0;
        s->questions[q].paths = paths + q * 3;
        s->questions[q].n_paths = 3;
        for (int k = 0; k < 3; k++) {
            polar_train_path *p = &paths[q * 3 + k];
            const int luck = rng_next(&rng) % 8 == 0;
            const int right = (k == 2 ? !kind : k == 1 ? kind : kind || rng_next(&rng) % 4 == 0) ^ luck;
            p->length = polar_program_path(&menu[k], calls + (q * 3 + k) * 16, 16);
            p->path = calls + (q * 3 + k) * 16;
            p->result = right ? POLAR_RESULT_VALID : POLAR_RESULT_INVALID;
            if (hidden && rng_next(&rng) % 3 == 0) p->result = POLAR_RESULT_UNKNOWN;
        }
    }
}

static double menu_loss_of(const polar_predictor *p, const synthetic *s, int from) {
    double loss = 0;
    for (int q = from; q < s->n; q++) {
        double x[3];
        CHECK(!polar_predictor_menu(p, s->questions[q].features, s->questions[q].n_tokens, x, NULL));
        for (int k = 0; k < 3; k++)
            loss -= log(s->questions[q].paths[k].result == POLAR_RESULT_VALID ? x[k] : 1 - x[k]);
    }
    return loss / (s->n - from) / 3;
}

/* The first of the ranking. */
static int menu_pick(const polar_predictor *p, const double *probability, double price) {
    int order[POLAR_MAX_MENU];
    return polar_menu_rank(p, probability, price, order) ? order[0] : -1;
}

TEST(menu) {
    synthetic s = synthetic_create(300, 8), rest;
    polar_program menu[3];
    int *calls = calloc((size_t)s.n * 3 * 16, sizeof *calls), right = 0;
    polar_train_path *paths = calloc((size_t)s.n * 3, sizeof *paths);
    uint8_t *results = calloc((size_t)s.n, 3);
    polar_menu_options o = {0};
    polar_menu_report r;
    polar_predictor *p, *other, *q;
    polar_error error;
    uint64_t expected;
    menu[0] = polar_program_identity(N_LAYER);
    polar_program_parse(&menu[1], N_LAYER, "2x0", NULL);
    polar_program_parse(&menu[2], N_LAYER, "3-4x2", NULL);
    menu_paths(&s, menu, calls, paths, 1);
    menu_results(s.questions, s.n, menu, 3, results);
    for (int i = 0; i < s.n * 3; i++) CHECK(results[i] == paths[i].result);
    o.n_threads = 1;
    CHECK(!polar_menu_train(&p, NULL, N_LAYER, Q_DIM, s.questions, 200, menu, 3, &o, &r, &error));
    CHECK(r.n_questions + r.n_validation <= 200 && r.calibrated_loss <= r.loss + 1e-9);
    expected = mem_hash(p->menu_params, menu_count(&p->menu.shape) * sizeof(float));
    o.n_threads = 3;
    CHECK(!polar_menu_train(&other, NULL, N_LAYER, Q_DIM, s.questions, 200, menu, 3, &o, &r, &error));
    CHECK(mem_hash(other->menu_params, menu_count(&p->menu.shape) * sizeof(float)) == expected);
    polar_predictor_close(other);
    menu_paths(&s, menu, calls, paths, 0);
    CHECK(menu_loss_of(p, &s, 200) < 0.5); /* 0.69 for a coin; noise of 1 in 8 leaves 0.38 at best for two of three */
    for (int i = 200; i < s.n; i++) {
        double x[3];
        CHECK(!polar_predictor_menu(p, s.questions[i].features, s.questions[i].n_tokens, x, &error));
        right += (menu_pick(p, x, 0) == 2) == (s.questions[i].features[0] < 0);
        CHECK(menu_pick(p, x, 1000) == 1);
    }
    CHECK(right > 85);
    CHECK((q = saved_again(p, &error)) != NULL);
    CHECK(menu_loss_of(q, &s, 200) == menu_loss_of(p, &s, 200));
    CHECK(polar_program_equal(polar_predictor_program(q, 2), &menu[2]) && !polar_predictor_program(q, 3));
    CHECK(polar_predictor_logits(q, s.questions[0].features, 1, (float[N_LAYER]){0}, (float[N_LAYER * 3]){0}, &error) ==
          POLAR_UNSUPPORTED);
    polar_predictor_close(q);
    polar_predictor_close(p);
    rest = s;
    synthetic_free(&rest);
    free(calls);
    free(paths);
    free(results);
}

/* Options of 0, none at all, and those that polar.h says train the same predictors; POLAR_OFF is another number. */
TEST(defaults) {
    synthetic s = synthetic_create(16, 8);
    polar_program menu[3];
    int calls[16 * 3 * 16];
    polar_train_path paths[16 * 3];
    const polar_train_options none = {0};
    const polar_menu_options nothing = {0};
    polar_train_options said = {.d_model = 256, .n_head = 4, .n_block = 2, .dropout = 0.1, .n_epochs = 10,
                                .batch = 128, .group = 8, .lr = 5e-4, .warmup = 10, .max_paths = 50,
                                .identity_weight = 0.3, .validation = 0.1, .schedule = POLAR_SCHEDULE_COSINE};
    polar_menu_options written = {.width = 64, .n_head = 4, .pooling = POLAR_MENU_SUM | POLAR_MENU_LAST, .policy = 1,
                                  .dropout = 0.1, .n_epochs = 40, .batch = 32, .lr = 1e-3, .weight_decay = 0.01,
                                  .validation = 0.2, .price = POLAR_MENU_PRICE};
    const polar_train_options *ways[] = {&said, &none, NULL};
    const polar_menu_options *menu_ways[] = {&written, &nothing, NULL};
    uint64_t expected = 0;
    polar_error e;
    for (int i = 0; i < 4; i++) {
        polar_trainer *t = NULL;
        if (i == 3) said.dropout = POLAR_OFF;
        CHECK(!polar_trainer_create(&t, N_LAYER, Q_DIM, s.questions, s.n, ways[i % 3], &e));
        CHECK(t->options.n_epochs == 10 && t->options.max_paths == 50 && t->options.identity_weight == 0.3);
        CHECK(!polar_trainer_run(t, 1, &e));
        if (!i) expected = mem_hash(t->params, t->n_params * sizeof *t->params);
        else CHECK((mem_hash(t->params, t->n_params * sizeof *t->params) == expected) == (i < 3));
        polar_trainer_free(t);
    }
    menu[0] = polar_program_identity(N_LAYER);
    polar_program_parse(&menu[1], N_LAYER, "2x0", NULL);
    polar_program_parse(&menu[2], N_LAYER, "3-4x2", NULL);
    menu_paths(&s, menu, calls, paths, 0);
    for (int i = 0; i < 4; i++) {
        polar_predictor *p = NULL;
        uint64_t h;
        if (i == 3) written.policy = POLAR_OFF;
        CHECK(!polar_menu_train(&p, NULL, N_LAYER, Q_DIM, s.questions, s.n, menu, 3, menu_ways[i % 3], NULL, &e));
        CHECK(p->info.price == POLAR_MENU_PRICE);
        h = mem_hash(p->menu_params, menu_count(&p->menu.shape) * sizeof(float));
        if (!i) expected = h;
        else CHECK((h == expected) == (i < 3));
        polar_predictor_close(p);
    }
    synthetic_free(&s);
}

/* A network whose logits are too sure is brought back. */
TEST(calibration) {
    const polar_menu_options o = {0};
    menu_trainer t;
    uint8_t results[400];
    int order[400];
    float logits[400];
    double scale, shift[1], before;
    uint64_t rng = 3;
    memset(&t, 0, sizeof t);
    t.options = &o;
    t.net.shape.n_menu = 1;
    t.results = results;
    t.order = order;
    t.logits = logits;
    t.n_all = 400;
    for (int i = 0; i < 400; i++) {
        const float x = 4 * rng_float(&rng) - 2;
        order[i] = i;
        logits[i] = 4 * x + 1; /* the truth is x */
        results[i] = (double)rng_float(&rng) < 1 / (1 + exp(-(double)x)) ? POLAR_RESULT_VALID : POLAR_RESULT_INVALID;
    }
    before = menu_calibrated_loss(&t, 1, (const double[1]){0});
    menu_calibrate(&t, &scale, shift);
    CHECK(menu_calibrated_loss(&t, scale, shift) < 0.6 * before);
    CHECK(scale > 0.15 && scale < 0.4 && fabs(shift[0]) < 0.6);
}

static const test_case tests[] = {
#define ROW(name) {#name, test_##name}
    ROW(reference), ROW(reference_tensors), ROW(differences), ROW(focal), ROW(corrected), ROW(menu_differences),
    ROW(equal_paths), ROW(paths_of_a_question), ROW(reproducible), ROW(resume),
    ROW(order), ROW(learns), ROW(bad_data), ROW(menu), ROW(calibration), ROW(defaults),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
