/* polar eval and polar report as a user meets them: a model and a predictor with random weights answer multiple choice
 * questions; what the files say is computed again from their records. POLAR_COMMAND names another binary. */
#include "inside.h"
#include "../examples/cli/json.c"
#include "../examples/cli/statistics.c"
#include "saved.h"
#include "test.h"
#include "command.h"
#include "fixture.h"
#include "page.h"

#if defined(POLAR_NO_TRAIN) || defined(POLAR_NO_SEARCH)
#error "these tests need training and search"
#endif

#define ASKED "-m m.gguf --reward choice --chat raw --prompt @prompt "
#define EVAL "polar eval -m m.gguf -p p.gguf --reward choice --chat raw --prompt @prompt "
#define SAME EVAL "test.jsonl -k 3 --validation fit.json --program 2-3x2 --skip 1"
enum { N_QUESTIONS = 16, N_MENU = 4, D = FX_LAYERS };

/* --- fixture: a model, its predictor, questions --------------------------------------------------------------- */

static const char *const menu_texts[N_MENU] = {"identity", "0x0", "1-2x0", "0x0 3x2"};

static void write_predictor(const char *name, const polar_model *m, uint64_t fingerprint, polar_feature feature) {
    static float features[16][3 * 256];
    polar_train_question questions[16];
    polar_train_path paths[16][N_MENU];
    static int calls[N_MENU][16];
    int lengths[N_MENU];
    polar_program menu[N_MENU];
    polar_train_options t = {0};
    polar_menu_options o = {0};
    polar_trainer *trainer = NULL;
    polar_predictor *base = NULL, *p = NULL;
    polar_predictor_info info;
    polar_error e;
    uint64_t seed = 5;
    for (int k = 0; k < N_MENU; k++) {
        CHECK(!polar_program_parse(&menu[k], D, menu_texts[k], &e));
        lengths[k] = polar_program_path(&menu[k], calls[k], 16);
    }
    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < 3 * 256; k++) features[i][k] = rng_float(&seed) - 0.5f;
        for (int k = 0; k < N_MENU; k++) {
            paths[i][k].path = calls[k];
            paths[i][k].length = lengths[k];
            paths[i][k].result = rng_next(&seed) % 3 ? POLAR_RESULT_INVALID : POLAR_RESULT_VALID;
        }
        questions[i].features = features[i];
        questions[i].n_tokens = 3;
        questions[i].n_paths = N_MENU;
        questions[i].paths = paths[i];
    }
    t.d_model = 8, t.n_head = 2, t.n_block = 1, t.n_epochs = 1, t.batch = 8, t.n_threads = 1, t.lr = 0.05;
    o.width = 8, o.n_head = 2, o.n_epochs = 2, o.n_threads = 1, o.lr = 0.02, o.price = 0.02;
    CHECK(!polar_trainer_create(&trainer, D, 256, questions, 16, &t, &e) && !polar_trainer_run(trainer, 0, &e) &&
          !polar_trainer_predictor(trainer, &base, &e));
    CHECK(!polar_menu_train(&p, base, D, 256, questions, 16, menu, N_MENU, &o, NULL, &e));
    CHECK_STR(e.message, "");
    if (p) {
        polar_predictor_get_info(p, &info);
        info.feature = feature;
        info.feature_layer = feature == POLAR_FEATURE_HIDDEN;
        info.model_fingerprint = fingerprint ? fingerprint : polar_model_fingerprint(m);
        info.cascade_programs = 3;
        info.cascade_threshold = -1.2;
        CHECK(!polar_predictor_set_info(p, &info, &e) && saved_file(p, there(name)));
    }
    polar_predictor_close(p);
    polar_predictor_close(base);
    polar_trainer_free(trainer);
}

/* Questions with four options each; the right one is drawn. */
static void write_questions(const char *name, uint64_t seed, const char *extra) {
    FILE *f = open_there(name, "wb");
    CHECK(f != NULL);
    if (!f) return;
    for (int i = 0; i < N_QUESTIONS; i++) {
        fprintf(f,
                "{\"question\":\"%s%c%c%c?\",\"options\":[\"u\",\"v\",\"w\",\"x\"],\"correct\":\"%c\","
                "\"task\":\"%s\",\"steps\":%d}\n",
                i == 3 ? extra : "", (int)('a' + rng_next(&seed) % 26), (int)('a' + rng_next(&seed) % 26),
                (int)('a' + i), (int)('A' + rng_next(&seed) % 4), i % 3 ? "one" : "two", i % 5);
    }
    fclose(f);
}

/* The files of the directory, and the evaluations that all tests look into. */
static void prepare(void) {
    fixture f;
    polar_model *m;
    f = fixture_model("llama", QUANT_Q8_0, 11);
    write_file("m.gguf", f.data, f.size);
    m = fx_open(&f, POLAR_CPU_AUTO);
    write_predictor("p.gguf", m, 0, POLAR_FEATURE_HIDDEN);
    write_predictor("e.gguf", m, 0, POLAR_FEATURE_ENCODER);
    write_predictor("other.gguf", m, 12345, POLAR_FEATURE_HIDDEN);
    polar_model_close(m);
    free(f.data);
    f = fixture_model("llama", QUANT_Q8_0, 12);
    write_file("m2.gguf", f.data, f.size);
    free(f.data);
    write_questions("test.jsonl", 1, "");
    write_questions("validation.jsonl", 2, "");
    write_file("prompt", "{question}=", 11);
    RUN(EVAL "validation.jsonl -k 3 --fit fit.json -o validation.json -t 2", 0, "these need the right answer");
    RUN(SAME " -o a.json -t 2", 0, "skip 1");
}

/* --- an evaluation, read and computed again ------------------------------------------------------------- */

/* A whole file as a document, to be freed. */
static json_document *parse(const char *text, size_t n) {
    const char *problem = "";
    size_t at;
    json_document *d = json_read(text, n, &problem, &at);
    CHECK_STR(problem, "");
    if (!d) exit(1);
    return d;
}

static size_t count(const json *v) {
    return v ? v->length : 0;
}

/* Element i of a list, NULL past its end. */
static const json *item(const json *v, size_t i) {
    v = v ? v->child : NULL;
    for (; v && i; i--) v = v->next;
    return v;
}

static double number_of(const json *v) {
    return v && v->type == JSON_NUMBER ? v->number : -1e300;
}

static double number(const json *v, const char *key) {
    return number_of(json_get(v, key));
}

static double element(const json *v, int i) {
    return number_of(item(v, (size_t)i));
}

static void string(const json *v, const char *key, char *out) {
    const char *text = json_get_text(v, key);
    *out = 0;
    if (text && strlen(text) < 200) strcpy(out, text);
}

typedef struct method_sum {
    int right, corrected, broken;
    double calls, positions;
} method_sum;

/* Calls, and those of the features where the program does not begin with layer 0. */
static double calls_of(const json *run, int n_prompt, int features) {
    char program[208];
    polar_program p;
    int path[16] = {0};
    string(run, "program", program);
    CHECK(!polar_program_parse(&p, D, program, NULL));
    CHECK(polar_program_path(&p, path, 16) == (int)number(run, "calls"));
    return number(run, "calls") * (n_prompt + number(run, "tokens")) + (features && path[0] != 0 ? n_prompt : 0);
}

/* The run that a vote over the listed ones takes: letters, compared as text. */
static int vote(const json *runs, const int *list, const double *weight, int n) {
    int best = list[0], most = 0; /* the first, if nobody votes */
    double heaviest = 0;
    for (int i = 0; i < n; i++) {
        char a[208], b[208];
        int count = 0, first = -1;
        double sum = 0;
        string(item(runs, (size_t)list[i]), "answer", a);
        for (int k = 0; k < n; k++) {
            string(item(runs, (size_t)list[k]), "stop", b);
            if (!strcmp(b, "limit") || !strcmp(b, "context")) continue; /* cut answers do not vote */
            string(item(runs, (size_t)list[k]), "answer", b);
            if (strcmp(a, b) || !*a) continue;
            if (first < 0) first = k;
            count++;
            sum += weight[k];
        }
        if (first != i || !count || (most && (count < most || (count == most && sum <= heaviest)))) continue;
        best = list[i];
        most = count;
        heaviest = sum;
    }
    return best;
}

/* Menu entries by probability - price * cost, the best first. */
static void ranking(const json *probability, double price, int *out) {
    double worth[N_MENU];
    for (int k = 0; k < N_MENU; k++) {
        polar_program p;
        CHECK(!polar_program_parse(&p, D, menu_texts[k], NULL));
        worth[k] = element(probability, k) - price * polar_program_length(&p) / D;
        out[k] = k;
    }
    for (int i = 1; i < N_MENU; i++)
        for (int k = i; k > 0 && worth[out[k]] > worth[out[k - 1]]; k--) {
            const int other = out[k];
            out[k] = out[k - 1];
            out[k - 1] = other;
        }
}

/* What a method must have chosen: a run, -1 no answer, -2 not known here. *n programs were run, *picked with
 * features. */
static int expected_run(const char *name, const json *record, double price, double threshold, int *list, int *n,
                        int *picked) {
    const json *runs = json_get(record, "runs"), *menu = json_get(record, "menu"),
               *probability = json_get(record, "probability");
    int order[N_MENU];
    double weight[N_MENU];
    ranking(probability, price, order);
    for (int k = 0; k < N_MENU; k++) {
        list[k] = (int)element(menu, order[k]);
        weight[k] = element(probability, order[k]);
    }
    *picked = !strncmp(name, "top-1", 5) || !strncmp(name, "vote", 4) || !strncmp(name, "cascade", 7) ||
              !strncmp(name, "oracle@", 7);
    *n = strchr(name, '@') ? 3 : 1;
    if (!strcmp(name, "identity")) return list[0] = 0;
    if (!strncmp(name, "top-1", 5)) return list[0];
    if (!strcmp(name, "vote@3")) return vote(runs, list, weight, 3);
    if (!strcmp(name, "cascade@3")) {
        int best = 0;
        for (*n = 0; *n < 3;) {
            const json *r = item(runs, (size_t)list[*n]), *b = item(runs, (size_t)list[best]);
            if (number(r, "logprob") / number(r, "tokens") > number(b, "logprob") / number(b, "tokens")) best = *n;
            ++*n;
            if (number(r, "logprob") / number(r, "tokens") >= threshold) break;
        }
        return list[best];
    }
    if (!strncmp(name, "oracle", 6)) {
        if (!strcmp(name, "oracle menu@4")) {
            *n = 4;
            for (int k = 0; k < 4; k++) list[k] = (int)element(menu, k);
        }
        for (int k = 0; k < *n; k++)
            if (number(item(runs, (size_t)list[k]), "right") > 0) return list[k];
        return list[*n - 1];
    }
    return -2;
}

static void check_record(const json *header, const json *record, method_sum *sums, int n_methods) {
    const json *runs = json_get(record, "runs"), *results = json_get(record, "results"),
               *methods = json_get(header, "methods");
    const int n_prompt = (int)number(record, "n_prompt");
    char gold[208], answer[208], name[208];
    const json *passes = json_get(record, "encoder_calls");
    const double encoder = !passes ? 0 : number(record, "encoder_calls");
    int identity = 0;
    string(record, "gt_ans", gold);
    for (size_t i = 0; i < count(runs); i++) {
        string(item(runs, i), "answer", answer);
        CHECK(number(item(runs, i), "right") == !strcmp(answer, gold));
    }
    for (int i = 0; i < n_methods; i++) {
        const json *r = item(results, (size_t)i), *m = item(methods, (size_t)i), *point = json_get(m, "point");
        const int chosen = (int)number(r, "chosen"), right = (int)number(r, "right");
        const size_t at = !point ? 0 : (size_t)number(m, "point");
        const double price = number(item(json_get(header, "points"), at), "price");
        int list[N_MENU], n, picked, expected;
        string(m, "name", name);
        expected = expected_run(name, record, price, number(header, "threshold"), list, &n, &picked);
        if (expected >= -1) {
            double calls = picked ? encoder : 0;
            CHECK(chosen == expected && (int)count(json_get(r, "runs")) == n);
            for (int k = 0; k < n; k++)
                calls += calls_of(item(runs, (size_t)list[k]), n_prompt, picked && !k && encoder <= 0);
            CHECK(number(r, "calls") == calls);
        }
        CHECK(right == (chosen >= 0 && number(item(runs, (size_t)chosen), "right") > 0));
        if (!i) identity = right;
        sums[i].right += right;
        sums[i].corrected += right && !identity;
        sums[i].broken += !right && identity;
        sums[i].calls += number(r, "calls");
        sums[i].positions += number(r, "positions");
    }
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Holm's steps, from the smallest p upwards: n p, (n - 1) p, ..., never less than the step before. */
static double holm(const double *p, int n, double mine) {
    double sorted[128], last = 0;
    memcpy(sorted, p, (size_t)n * sizeof *p);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    for (int i = 0; i < n && sorted[i] <= mine; i++) last = fmax(last, fmin(sorted[i] * (n - i), 1));
    return last;
}

/* Two comparisons are primary, all others corrected together. */
static void check_corrected(const json *methods, const json *nulls, const json *contests) {
    double p[128], corrected[128];
    int n = 0;
    char name[208];
    for (size_t i = 1; i < count(methods); i++) {
        const json *m = item(methods, i);
        const int primary = json_get(m, "primary") != NULL;
        string(m, "name", name);
        CHECK(primary == (!strcmp(name, "top-1 gain") || !strcmp(name, "top-1 save")));
        CHECK(primary == !json_get(m, "p_holm"));
        if (primary) continue;
        p[n] = number(m, "p");
        corrected[n++] = number(m, "p_holm");
    }
    for (size_t i = 0; i < count(nulls); i++) {
        p[n] = number(item(nulls, i), "p");
        corrected[n++] = number(item(nulls, i), "p_holm");
    }
    for (size_t i = 0; i < count(contests); i++) {
        p[n] = number(item(contests, i), "p");
        corrected[n++] = number(item(contests, i), "p_holm");
    }
    for (int i = 0; i < n; i++) CHECK(fabs(corrected[i] / holm(p, n, p[i]) - 1) < 1e-12);
}

static int method_index(const json *header, const char *name) {
    const json *methods = json_get(header, "methods");
    char found[208];
    for (size_t i = 0; i < count(methods); i++) {
        string(item(methods, i), "name", found);
        if (!strcmp(found, name)) return (int)i;
    }
    printf("no method %s\n", name);
    CHECK(0);
    return 0;
}

/* The length of the program that a method chose. */
static int chosen_calls(const json *record, int method) {
    const json *r = item(json_get(record, "results"), (size_t)method);
    return (int)number(item(json_get(record, "runs"), (size_t)number(r, "chosen")), "calls");
}

static void check_file(const char *path) {
    size_t n;
    char *text = read_back(path, &n);
    json_document *root = parse(text, n);
    const json *header, *samples, *summary;
    method_sum sums[48];
    int n_methods;
    memset(sums, 0, sizeof sums);
    header = json_get(json_root(root), "polar");
    samples = json_get(json_root(root), "samples");
    summary = json_get(json_get(json_root(root), "summary"), "methods");
    check_corrected(summary, json_get(json_get(json_root(root), "summary"), "nulls"), NULL);
    CHECK(count(json_get(json_get(json_root(root), "summary"), "nulls")) == 6);
    n_methods = (int)count(json_get(header, "methods"));
    CHECK(count(samples) == N_QUESTIONS && n_methods <= 48 && (int)count(summary) == n_methods);
    for (size_t i = 0; i < count(samples) && n_methods <= 48; i++) {
        const json *record = item(samples, i);
        CHECK(number(record, "index") == (double)i);
        check_record(header, record, sums, n_methods);
        CHECK(chosen_calls(record, method_index(header, "random gain")) ==
              chosen_calls(record, method_index(header, "top-1 gain")));
        CHECK(chosen_calls(record, method_index(header, "influence save")) ==
              MIN(D, chosen_calls(record, method_index(header, "top-1 save"))));
        CHECK(chosen_calls(record, method_index(header, "skip 1")) == D - 1 &&
              chosen_calls(record, method_index(header, "2-3x2")) == D + 2);
    }
    for (int i = 0; i < n_methods && i < 48; i++) {
        const json *m = item(summary, (size_t)i);
        const statistics_interval interval = statistics_accuracy(sums[i].right, N_QUESTIONS);
        CHECK(number(m, "right") == sums[i].right && number(m, "corrected") == sums[i].corrected &&
              number(m, "broken") == sums[i].broken);
        CHECK(number(m, "calls_per_token") == sums[i].calls / sums[i].positions);
        CHECK(number(m, "p") == statistics_mcnemar(sums[i].corrected, sums[i].broken));
        CHECK(element(json_get(m, "interval"), 0) == interval.low &&
              element(json_get(m, "interval"), 1) == interval.high);
    }
    CHECK(sums[method_index(header, "oracle@3")].right >= sums[method_index(header, "vote@3")].right);
    CHECK(sums[method_index(header, "oracle@3")].right >= sums[method_index(header, "top-1 gain")].right);
    CHECK(sums[method_index(header, "oracle menu@4")].right >= sums[method_index(header, "oracle@3")].right);
    /* or nothing was tested */
    CHECK(sums[method_index(header, "oracle menu@4")].right > sums[0].right && sums[0].right > 0);
    json_free(root);
    free(text);
}

TEST(evaluation) {
    RUN(EVAL "test.jsonl -k 3 --validation validation.json --program 2-3x2 --skip 1 -o b.json -t 1", 0, "oracle@3");
    for (char *line = strtok(output, "\n"); line; line = strtok(NULL, "\n")) {
        CHECK(strlen(line) <= 80);
        if (strlen(line) > 80) puts(line);
    }
    check_file("a.json");
    CHECK(same_files("a.json", "b.json")); /* threads, fit file or whole evaluation: the same bytes */
}

/* Each primary pick against each rival: the single programs of validation, skipped layers, what --rivals names. */
TEST(contests) {
    static const char *const rivals[] = {"fixed gain", "fixed save", "by hand", "first", "skip 1"};
    size_t n, at = 0;
    char rows[700], *text;
    json_document *root;
    const json *header, *summary, *contests, *samples;
    polar_model *m = NULL;
    polar_error e;
    CHECK(!polar_model_open(&m, there("m.gguf"), NULL, &e));
    snprintf(rows, sizeof rows,
             "{\"polar\":{\"kind\":\"rivals\",\"model\":{\"checksum\":\"%016llx\"}},"
             "\"influence\":[4,3,2,1],\"rivals\":["
             "{\"name\":\"by hand\",\"kind\":\"program\",\"program\":\"1x2\"},"
             "{\"name\":\"first\",\"kind\":\"exit\",\"threshold\":0}]}", (unsigned long long)polar_model_checksum(m));
    polar_model_close(m);
    write_text("hand.json", rows);
    RUN(SAME " --rivals hand.json -o r.json -t 2", 0, "primary picks less rivals");
    for (char *line = strtok(output, "\n"); line; line = strtok(NULL, "\n")) CHECK(strlen(line) <= 80);
    RUN(SAME " --rivals hand.json -o r1.json --shard 1/2", 0, "first");
    RUN(SAME " --rivals hand.json -o r2.json --shard 2/2", 0, "first");
    RUN("polar eval --merge r2.json r1.json -o r12.json", 0, "primary picks less rivals");
    CHECK(same_files("r.json", "r12.json"));
    text = read_back("r.json", &n);
    root = parse(text, n);
    header = json_get(json_root(root), "polar");
    samples = json_get(json_root(root), "samples");
    summary = json_get(json_root(root), "summary");
    contests = json_get(summary, "contests");
    check_corrected(json_get(summary, "methods"), json_get(summary, "nulls"), contests);
    for (const json *c = contests ? contests->child : NULL; c; c = c->next, at++) {
        char pick[208], rival[208];
        statistics_paired x = {0, 0, 0, 0};
        int a, b;
        string(c, "pick", pick);
        string(c, "rival", rival);
        a = method_index(header, pick);
        b = method_index(header, rival);
        CHECK(!strcmp(pick, at % 2 ? "top-1 save" : "top-1 gain"));
        for (const json *r = samples->child; r; r = r->next) {
            const int with = (int)number(item(json_get(r, "results"), (size_t)a), "right"),
                      without = (int)number(item(json_get(r, "results"), (size_t)b), "right");
            x.both += with && without, x.corrected += with && !without, x.broken += !with && without;
            x.neither += !with && !without;
        }
        CHECK(number(c, "corrected") == x.corrected && number(c, "broken") == x.broken);
        CHECK(number(c, "difference") == (double)(x.corrected - x.broken) / N_QUESTIONS);
        CHECK(element(json_get(c, "difference_interval"), 0) == statistics_difference(&x).low);
        CHECK(number(c, "p") == statistics_mcnemar(x.corrected, x.broken));
        n = 0;
        for (size_t i = 0; i < sizeof rivals / sizeof *rivals; i++) n += !strcmp(rival, rivals[i]);
        CHECK(n == 1 || !strcmp(rival, "fixed best"));
    }
    CHECK(at >= 10 && at % 2 == 0);
    /* layer 3 is said to have the least influence, and "skip 1" leaves it out */
    string(item(json_get(header, "methods"), (size_t)method_index(header, "skip 1")), "program", rows);
    CHECK_STR(rows, "0-2 3x0");
    json_free(root);
    free(text);
}

/* The points chosen on validation: recomputed by brute force from its records. */
TEST(fitted_points) {
    size_t n, m;
    char *text = read_back("validation.json", &n), *fit_text = read_back("fit.json", &m), program[208];
    json_document *root = parse(text, n), *fit_root = parse(fit_text, m);
    const json *fit = json_get(json_root(fit_root), "fit"), *samples = json_get(json_root(root), "samples");
    polar_error e;
    int identity = 0, best_right = -1;
    for (int point = 0; point < 2; point++) {
        const json *p = json_get(fit, point ? "save" : "gain");
        double calls = 0, positions = 0;
        int right = 0, order[N_MENU];
        identity = 0;
        for (size_t i = 0; i < count(samples); i++) {
            const json *record = item(samples, i), *runs = json_get(record, "runs");
            const int n_prompt = (int)number(record, "n_prompt");
            const json *r;
            ranking(json_get(record, "probability"), number(p, "price"), order);
            r = item(runs, (size_t)element(json_get(record, "menu"), order[0]));
            right += number(r, "right") > 0;
            identity += number(item(runs, 0), "right") > 0;
            calls += calls_of(r, n_prompt, 1);
            positions += n_prompt + number(r, "tokens");
        }
        CHECK(number(p, "right") == right && fabs(number(p, "cost") - calls / positions / D) < 1e-12);
        if (!point) CHECK(number(p, "cost") <= 1);
    }
    CHECK(number(fit, "identity_right") == identity);
    string(json_get(fit, "fixed"), "best", program);
    for (int k = 0; k < N_MENU; k++) {
        int right = 0, is_best;
        polar_program a, b;
        for (size_t i = 0; i < count(samples); i++) {
            const json *record = item(samples, i);
            const size_t at = (size_t)element(json_get(record, "menu"), k);
            right += number(item(json_get(record, "runs"), at), "right") > 0;
        }
        CHECK(!polar_program_parse(&a, D, menu_texts[k], &e) && !polar_program_parse(&b, D, program, &e));
        is_best = polar_program_equal(&a, &b);
        if (is_best) best_right = right;
    }
    for (int k = 0; k < N_MENU; k++) {
        int right = 0;
        for (size_t i = 0; i < count(samples); i++) {
            const json *record = item(samples, i);
            const size_t at = (size_t)element(json_get(record, "menu"), k);
            right += number(item(json_get(record, "runs"), at), "right") > 0;
        }
        CHECK(right <= best_right);
    }
    json_free(root);
    json_free(fit_root);
    free(text);
    free(fit_text);
}



/* Killed while it wrote: the journal ends inside a record. */
TEST(resumed) {
    size_t n;
    char *text, *at;
    CHECK(!mkdir(there("c.json"), 0777)); /* a directory: all is done, but cannot get its name */
    RUN(SAME " -o c.json", 1, "polar eval: ");
    text = read_back("c.json.journal", &n);
    at = text;
    for (int i = 0; i < 9 && at; i++) at = strchr(at + (i > 0), '\n'); /* the header and eight records */
    CHECK(at != NULL);
    if (at) write_file("c.json.journal", text, (size_t)(at - text) + 200);
    free(text);
    CHECK(!rmdir(there("c.json")));
    RUN(SAME " -k 2 -o c.json", 1, "c.json.journal");
    RUN(SAME " -o c.json", 0, "going on after 8 of 16 questions");
    CHECK(same_files("a.json", "c.json"));
    CHECK(!exists("c.json.journal"));
    RUN(SAME " -o c.json", 0, "c.json is complete already\n16 questions");
    RUN(SAME " --limit 2 -o c.json", 0, "2 questions"); /* another one takes its place */
}

/* A question that the model has no room for: found before anything runs; left out, the others are what is evaluated. */
TEST(long_questions) {
    char line[400];
    sprintf(line, "{\"question\":\"%0300d\",\"options\":[1,2],\"correct\":\"A\"}", 0);
    CHECK(!mkdir(there("sub"), 0777));
    insert_line("test.jsonl", "sub/test.jsonl", 4, line);
    RUN(EVAL "sub/test.jsonl -o l.json", 1,
        "polar eval: sub/test.jsonl:4: the prompt has 329 tokens and the answer may have 3, the model was ");
    CHECK(!exists("l.json") && !exists("l.json.journal"));
    RUN(EVAL "sub/test.jsonl -k 3 --validation fit.json --program 2-3x2 --skip 1 --skip-long -o l.json", 0,
        "polar eval: sub/test.jsonl: 1 of 17 questions are too long for the model and left out\n");
    CHECK(same_files("a.json", "l.json"));
}

/* No output takes the place of a file that is read, by whatever name, or of a file of another kind. */
TEST(outputs) {
    static const struct {
        const char *command;
        int status;
        const char *text;
    } cases[] = {
        {EVAL "k.jsonl -o k.jsonl", 2, "polar eval: k.jsonl and k.jsonl are the same file"},
        {EVAL "k.jsonl -o ./k.jsonl", 2, "polar eval: ./k.jsonl and k.jsonl are the same file"},
        {EVAL "k.jsonl -o hard", 2, "polar eval: hard and k.jsonl are the same file"},
        {EVAL "k.jsonl --fit hard", 2, "polar eval: hard and k.jsonl are the same file"},
        {EVAL "- -o hard <k.jsonl", 2, "polar eval: hard and - are the same file"},
        {EVAL "k.jsonl -o prompt", 2, "polar eval: prompt and @prompt are the same file"},
        {EVAL "k.jsonl -o p.gguf", 2, "polar eval: p.gguf and p.gguf are the same file"},
        {EVAL "k.jsonl -o new.json --fit ./new.json", 2, "polar eval: new.json and ./new.json are the same file"},
        {EVAL "k.tmp -o k", 2, "polar eval: k.tmp is where k is written first"},
        {EVAL "k.jsonl -o notes", 1, "polar eval: notes exists and is another file, not an evaluation: remove it"},
        {EVAL "k.jsonl -o fit.json", 1, "fit.json exists and is what polar eval --fit writes, not an evaluation"},
        {EVAL "k.jsonl --fit a.json", 1, "a.json exists and is an evaluation, not what polar eval --fit writes"},
        {"polar eval --merge a.json -o ./a.json", 2, "./a.json and a.json are the same file"},
        {"polar report a.json -o a.json", 2, "polar report: a.json and a.json are the same file"},
        {"polar report - -o a.json <a.json", 2, "polar report: a.json and - are the same file"},
        {"polar report a.json -o k.jsonl", 1, "k.jsonl exists and is other JSON, not a page of polar report"},
        {"polar report a.json -o page", 1, "page exists and is HTML or XML, perhaps a page in place of the file, not "},
        {"polar report a.json -o r.html", 1, "r.html.tmp exists and is another file, not a page of polar report"},
        {"polar quantize m.gguf ./m.gguf Q8_0", 2, "polar quantize: ./m.gguf and m.gguf are the same file"},
        {"polar quantize m.gguf p.gguf Q8_0", 1, "p.gguf exists and is a predictor, not a model"},
        {"polar predictor import p.gguf m.gguf", 1, "m.gguf exists and is a model, not a predictor"},
    };
    static const char *const kept[] = {"k.jsonl", "k.tmp", "notes", "page", "r.html.tmp", "a.json", "fit.json",
                                       "prompt", "m.gguf", "p.gguf"};
    char copy[64];
    copy_file("test.jsonl", "k.jsonl");
    copy_file("k.jsonl", "k.tmp");
    write_text("notes", "hello\n");
    write_text("r.html.tmp", "hello\n");
    write_text("page", "<html>\n");
    CHECK(link_there("k.jsonl", "hard"));
    for (int i = 0; i < COUNT(kept); i++) sprintf(copy, "kept-%s", kept[i]), copy_file(kept[i], copy);
    for (int i = 0; i < COUNT(cases); i++) RUN(cases[i].command, cases[i].status, cases[i].text);
#ifdef _WIN32
    SKIP("symbolic links and /dev/stdout");
#else
    CHECK(!symlink("k.jsonl", there("soft")));
    RUN(EVAL "k.jsonl -o soft", 2, "polar eval: soft and k.jsonl are the same file");
#endif
    for (int i = 0; i < COUNT(kept); i++) sprintf(copy, "kept-%s", kept[i]), CHECK(same_files(kept[i], copy));
    CHECK(same_files("k.jsonl", "hard") && !exists("new.json") && !exists("k"));
    /* what remains possible: its own kind, an empty file, what is no file */
    CHECK(!remove(there("r.html.tmp")));
    write_text("r.html", "");
    for (int i = 0; i < 2; i++) RUN("polar report a.json -o r.html", 0, "");
    RUN("polar report a.json -o - >out.html", 0, "");
    CHECK(same_files("r.html", "out.html"));
#ifndef _WIN32
    RUN("polar report a.json -o /dev/stdout >out2.html", 0, "");
    CHECK(same_files("r.html", "out2.html"));
#endif
    RUN(EVAL "k.jsonl --limit 1 -o /dev/null", 0, "");
}

/* What was trained or chosen on a question says nothing about it; the same question twice is one. */
TEST(known_questions) {
    FILE *f = open_there("both.jsonl", "wb");
    copy_lines(f, "validation.jsonl", 2, 3);
    copy_lines(f, "test.jsonl", 1, 1);
    if (f) fclose(f);
    RUN(EVAL "both.jsonl --validation fit.json", 1,
        "polar eval: both.jsonl:1: this question and 1 more of 3 are among those that fit.json was made from");
    RUN(EVAL "both.jsonl --validation validation.json", 1,
        "both.jsonl:1: this question and 1 more of 3 are among those that validation.json was made from");
    RUN(EVAL "both.jsonl --validation fit.json --allow-overlap", 0, "2 of 3 questions are among those that fit.json");
    CHECK(strstr(output, "polar eval: p.gguf: no record of its questions; overlap is not checked\n") != NULL);
    replace_text("fit.json", "old.json", "\"questions\":", "\"others\":");
    RUN(EVAL "both.jsonl --validation old.json", 0, "old.json: no record of its questions");
    RUN("polar search " ASKED "validation.jsonl --simulations 4 -o found.json", 0, "");
    RUN("polar search -m m.gguf found.json --menu 3 -o menu.json", 0, "");
    RUN("polar eval " ASKED "both.jsonl --menu menu.json", 1,
        "both.jsonl:1: this question and 1 more of 3 are among those that menu.json was chosen from");
    RUN("polar eval " ASKED "both.jsonl --menu menu.json --allow-overlap", 0, "2 of 3 questions are among those that ");
    RUN("polar eval " ASKED "test.jsonl --menu menu.json", 0, "oracle menu@");
    CHECK(!strstr(output, "overlap"));
    RUN("polar eval " ASKED "test.jsonl --menu menu.json -o ./menu.json", 2, "./menu.json and menu.json are the same file");
    CHECK(!mkdir(there("twice"), 0777) && (f = open_there("twice/test.jsonl", "wb")) != NULL);
    copy_lines(f, "test.jsonl", 1, N_QUESTIONS);
    copy_lines(f, "test.jsonl", 1, N_QUESTIONS);
    if (f) fclose(f);
    RUN(EVAL "twice/test.jsonl -k 3 --validation fit.json --program 2-3x2 --skip 1 -o d.json", 0,
        "polar eval: twice/test.jsonl: 16 of 32 questions are there already (the first in line 17); each counts once");
    CHECK(same_files("a.json", "d.json"));
}

/* Tables by what a file says about its questions. */
TEST(groups) {
    replace_text("test.jsonl", "d.jsonl", "\"task\"", "\"query_id\":\"d1\",\"domain\"");
    replace_text("d.jsonl", "dart.jsonl", "\"steps\"", "\"difficulty\"");
    RUN(EVAL "dart.jsonl -k 3 -o dart.json", 0, "\ndifficulty     questions          identity");
    CHECK(strstr(output, "\ndomain         questions") != NULL);
    CHECK(count_in("dart.json", "\"query_id\":") == 16 && count_in("dart.json", "\"groups\":{\"difficulty\":[") == 1);
    RUN("polar report dart.json -o dart.html", 0, "");
    CHECK(count_in("dart.html", "Right by ") == 2 && count_in("dart.html", "Right by difficulty") == 1 &&
          count_in("dart.html", "Right by domain") == 1);
}

/* --- planted evaluations: what is right is known, no model runs ------------------------------------------------ */

static const char *const planted_programs[4] = {"0-3", "0x0", "1-2x0", "3x2"};
static const int planted_calls[4] = {4, 3, 2, 5};

/* The head of an evaluation; `methods` and `points` are members of their lists. */
static FILE *begin_planted(const char *name, int n, int n_menu, const char *points, const char *methods) {
    FILE *f = open_there(name, "wb");
    CHECK(f != NULL);
    if (!f) exit(1);
    fprintf(f, "{\"polar\":{\"kind\":\"eval\",\"model\":{\"n_layer\":%d},\"questions\":{\"n\":%d},\"menu\":[", D,
            n);
    for (int k = 0; k < n_menu; k++) fprintf(f, "%s\"%s\"", k ? "," : "", planted_programs[k]);
    fprintf(f, "],\"points\":[%s],\"methods\":[%s],\"feature_calls\":0,\"k\":1},\n\"samples\":[", points, methods);
    return f;
}

/* A question with the runs of the whole menu; `right`: a bit for each program. */
static void plant(FILE *f, int index, const char *info, int n_menu, int right, const double *probability) {
    fprintf(f, "%s\n{\"index\":%d,\"question\":\"planted %d\",\"gt_ans\":\"1\",\"sample_info\":{%s},\"n_prompt\":10,"
            "\"runs\":[", index ? "," : "", index, index, info);
    for (int k = 0; k < n_menu; k++)
        fprintf(f, "%s{\"program\":\"%s\",\"calls\":%d,\"answer\":\"1\",\"right\":%d,\"tokens\":2,\"stop\":\"end\","
                "\"logprob\":-1}", k ? "," : "", planted_programs[k], planted_calls[k], right >> k & 1);
    fprintf(f, "],\"menu\":[");
    for (int k = 0; k < n_menu; k++) fprintf(f, k ? ",%d" : "%d", k);
    fprintf(f, "],\"probability\":[");
    for (int k = 0; k < n_menu; k++) fprintf(f, k ? ",%g" : "%g", probability[k]);
    fprintf(f, "],\"results\":[");
}

static void plant_result(FILE *f, int first, int chosen, int right) {
    fprintf(f, "%s{\"runs\":[%d],\"chosen\":%d,\"right\":%d,\"calls\":%d,\"positions\":12}", first ? "" : ",", chosen,
            chosen, right >> chosen & 1, planted_calls[chosen] * 12);
}

/* 80 questions of two tasks, each with two numbers of steps. One of four programs answers a question: in each of the
 * four kinds one program 15 of 20, its neighbour of the same task the other 5. Three predictors: one knows the task
 * only, one the kind, one everything. */
static void write_planted(const char *name, int has_task, int has_steps) {
    static const double same[4] = {0.5, 0.5, 0.5, 0.5};
    FILE *f = begin_planted(name, 80, 4,
                            "{\"name\":\"a\",\"price\":0},{\"name\":\"b\",\"price\":0},{\"name\":\"c\",\"price\":0}",
                            "{\"name\":\"identity\"},{\"name\":\"top-1 a\",\"point\":0},"
                            "{\"name\":\"top-1 b\",\"point\":1},{\"name\":\"top-1 c\",\"point\":2}");
    for (int i = 0; i < 80; i++) {
        const int kind = i % 4, task = kind / 2, program = i / 4 % 4 == 3 ? kind ^ 1 : kind, right = 1 << program;
        char info[64] = "";
        if (has_task) sprintf(info, "\"task\":\"t%d\"", task);
        if (has_steps) sprintf(info + strlen(info), "%s\"steps\":%d", *info ? "," : "", kind % 2);
        plant(f, i, info, 4, right, same);
        plant_result(f, 1, 0, right);
        plant_result(f, 0, task * 2, right);
        plant_result(f, 0, kind, right);
        plant_result(f, 0, program, right);
        fprintf(f, "]}");
    }
    fprintf(f, "\n]}\n");
    fclose(f);
}

/* A pick that is right and a rival that is wrong on all of 40 questions: p = 2^-39, corrected for all that is tested. */
TEST(planted_contest) {
    static const double even[2] = {0.5, 0.5};
    size_t n;
    char *text;
    json_document *root;
    const json *summary, *contests;
    FILE *f = begin_planted("won.json", 40, 2, "{\"name\":\"gain\",\"price\":0}",
                            "{\"name\":\"identity\"},{\"name\":\"top-1 gain\",\"point\":0},"
                            "{\"name\":\"lost\",\"rival\":true},{\"name\":\"other\"}");
    for (int i = 0; i < 40; i++) {
        const int right = 1 << 1;
        plant(f, i, "", 2, right, even);
        plant_result(f, 1, 0, right);
        plant_result(f, 0, 1, right);
        plant_result(f, 0, 0, right);
        plant_result(f, 0, i % 2, right);
        fprintf(f, "]}");
    }
    fprintf(f, "\n]}\n");
    fclose(f);
    RUN("polar eval --merge won.json -o w.json", 0, "\nlost                  +100.0 ");
    text = read_back("w.json", &n);
    root = parse(text, n);
    summary = json_get(json_root(root), "summary");
    contests = json_get(summary, "contests");
    check_corrected(json_get(summary, "methods"), json_get(summary, "nulls"), contests);
    CHECK(count(contests) == 1 && number(item(contests, 0), "p") == ldexp(1, -39));
    CHECK(number(item(contests, 0), "difference") == 1 && number(item(contests, 0), "corrected") == 40);
    json_free(root);
    free(text);
}

/* Picks dealt to other questions: what is known only of the task is left by dealing within it, and so on. */
TEST(nulls) {
    static const double expected[9] = {20, 40, 40, 20, 40, 60, 20, 40, 50}; /* a, b, c; all, task, task + steps */
    static const int exact[9] = {0, 1, 1, 0, 0, 1, 0, 0, 0}; /* all picks of a group are the same */
    size_t n;
    char *text;
    json_document *root;
    const json *summary, *nulls;
    write_planted("planted.json", 1, 1);
    RUN("polar eval --merge planted.json -o n.json", 0, "\n dealt in task+steps 62.");
    CHECK(strstr(output, "\ntop-1 a, in task              +0.0 ") && strstr(output, "(999 dealings, seed 1)"));
    CHECK(strstr(output, "\nt0                    40") != NULL);
    RUN("polar eval --merge planted.json -o n2.json", 0, "");
    CHECK(same_files("n.json", "n2.json"));
    RUN("polar report n.json -o n.html", 0, "");
    CHECK(count_in("n.html", "dealt in task+steps") == 3);
    text = read_back("n.json", &n);
    root = parse(text, n);
    summary = json_get(json_root(root), "summary");
    nulls = json_get(summary, "nulls");
    check_corrected(json_get(summary, "methods"), nulls, NULL); /* of 60 corrected and none broken: 2^-59, times 12 */
    CHECK(count(nulls) == 9 && number(json_get(summary, "dealings"), "n") == 999);
    for (int i = 0; i < 9; i++) {
        const json *x = item(nulls, (size_t)i), *pick = item(json_get(summary, "methods"), (size_t)number(x, "pick"));
        const double right = number(x, "right"), beyond = number(pick, "right") - right;
        CHECK((int)number(x, "pick") == i / 3 + 1);
        CHECK(exact[i] ? right == expected[i] : fabs(right - expected[i]) < 0.7);
        if (fabs(right - expected[i]) > 0.7) printf("%d: %g, expected %g\n", i, right, expected[i]);
        CHECK(number(x, "accuracy") == right / 80);
        CHECK(fabs(number(x, "pick_minus_null") - beyond / 80) < 1e-12);
        CHECK(exact[i] ? beyond == 0 && number(x, "pick_p") == 1 : number(x, "pick_p") == 0.001);
        /* each pick is dealt once: a dealing costs what the picks do */
        CHECK(number(x, "calls_per_token") == number(pick, "calls_per_token"));
    }
    json_free(root);
    free(text);
    write_planted("no-task.json", 0, 1);
    RUN("polar eval --merge no-task.json -o n3.json", 0,
        "the questions name no task, subject or domain: dealt at random only");
    CHECK(!strstr(output, "dealt in"));
    write_planted("no-steps.json", 1, 0);
    RUN("polar eval --merge no-steps.json -o n4.json", 0, "\n dealt in task+token");
}

/* `save` is not the cheapest price that happens to be as right as the identity, but one that surely is. A program of
 * half the layers is right on 201 of 400 questions where the identity is on 200, one of three quarters on 230. */
TEST(save_by_bound) {
    static const double probability[3] = {0.5, 0.6, 0.55};
    for (int sure = 0; sure < 2; sure++) { /* then the half is right on 260 */
        FILE *f = begin_planted("bound.json", 400, 3, "", "{\"name\":\"identity\"}");
        size_t n;
        char *text;
        json_document *root;
        const json *fit;
        for (int i = 0; i < 400; i++) {
            const int half = sure ? i < 190 || i >= 330 : i < 140 || (i >= 200 && i < 261);
            const int right = (i < 200) | (i < 195 || (i >= 200 && i < 235)) << 1 | half << 2;
            plant(f, i, "", 3, right, probability);
            plant_result(f, 1, 0, right);
            fprintf(f, "]}");
        }
        fprintf(f, "\n]}\n");
        fclose(f);
        remove(there("b2.json"));
        RUN(EVAL "--any-model --validation bound.json test.jsonl --limit 2 -o b2.json", 0,
            "top-1 save");
        text = read_back("b2.json", &n);
        root = parse(text, n);
        fit = json_get(json_get(json_root(root), "polar"), "validation");
        CHECK(number(json_get(fit, "save"), "cost") == (sure ? 0.5 : 0.75));
        CHECK(number(json_get(fit, "save"), "right") == (sure ? 260 : 230) &&
              number(json_get(fit, "save"), "lower") > 0);
        CHECK(number(json_get(fit, "gain"), "right") == (sure ? 260 : 230));
        CHECK(number(fit, "identity_right") == 200);
        CHECK_STR(json_get_text(json_get(fit, "fixed"), "save"), sure ? "1-2x0" : "0x0");
        json_free(root);
        free(text);
    }
}

TEST(shards) {
    RUN(SAME " --shard 1/3 -o s1.json", 0, "6 questions");
    RUN(SAME " --shard 2/3 -o s2.json", 0, "5 questions");
    RUN(SAME " --shard 3/3 -o s3.json", 0, "5 questions");
    RUN("polar eval --merge s3.json s1.json s2.json -o s.json", 0, "16 questions");
    CHECK(same_files("a.json", "s.json"));
    RUN("polar eval --merge s1.json s2.json -o t.json", 1, "question 3 of 16 is in none of the files");
    RUN("polar eval --merge s1.json s1.json -o t.json", 1, "question 0 is there twice");
    RUN("polar eval --merge s1.json validation.json -o t.json", 1, "are parts of different evaluations: ");
    RUN("polar eval --merge s1.json", 2, "polar eval: no output");
    RUN("polar eval --merge test.jsonl -o t.json", 1, "test.jsonl: no file of polar eval");
    CHECK(!exists("t.json"));
}

TEST(without_predictor) {
    RUN("polar eval -m m.gguf --reward choice --chat raw --prompt @prompt test.jsonl --program 1x2", 0, "1x2 ");
    CHECK(!strstr(output, "oracle") &&
          strstr(output, "16 questions; layers: calls per token, features included, of 4\n"));
    RUN("polar eval -m m.gguf --chat raw --prompt @prompt test.jsonl --limit 4 -n 3 --program 1x2 "
        "--time 2 --show 2 --json",
        0, "\"n_timed\":2");
    CHECK(strstr(output, "     #2##  ") && !strchr(output, '\x1b'));
}

/* Programs one at a time in sessions of their own: where no layer repeats, shared and last keys and values are those of
 * each call, and a prompt under the same program changes nothing. What a prompt costs under another is counted. */
TEST(alone) {
    static const char *const ways[] = {"", " --kv shared", " --kv last", " --prompt-program 1x1",
                                       " --prompt-program 1x2"};
    json_document *plain = NULL;
    for (int w = 0; w < COUNT(ways); w++) {
        char line[400];
        json_document *d;
        double calls = 0, positions = 0;
        int different = 0;
        size_t n;
        char *text;
        snprintf(line, sizeof line, "polar eval -m m.gguf --chat raw --prompt @prompt test.jsonl -n 6 "
                 "--program 2x0 --program 0~2 -o alone%d.json%s", w, ways[w]);
        RUN(line, 0, "2x0 ");
        snprintf(line, sizeof line, "alone%d.json", w);
        text = read_back(line, &n);
        d = parse(text, n);
        for (size_t i = 0; i < N_QUESTIONS; i++) {
            const json *x = item(json_get(json_root(d), "samples"), i), *run = item(json_get(x, "runs"), 1);
            const json *results = json_get(x, "results"), *r = item(results, 1);
            const double n_prompt = number(x, "n_prompt"), new_positions = number(r, "positions") - n_prompt;
            for (int k = 0; plain && k < (w < 3 ? 2 : 1); k++) {
                const json *before = item(json_get(item(json_get(json_root(plain), "samples"), i), "runs"), (size_t)k);
                const json *now = item(json_get(x, "runs"), (size_t)k);
                const int same = number(now, "logprob") == number(before, "logprob") &&
                                 number(now, "tokens") == number(before, "tokens");
                CHECK(same || w == 4);
                different += !same;
            }
            CHECK(number(run, "calls") == 3);
            CHECK(number(r, "calls") == n_prompt * (w < 3 ? 3 : w + 1) + new_positions * 3);
            calls += number(r, "calls");
            positions += number(r, "positions");
        }
        CHECK(w < 4 || different > 0);
        CHECK(number(item(json_get(json_get(json_root(d), "summary"), "methods"), 1), "calls_per_token") ==
              calls / positions);
        if (w) json_free(d);
        else plain = d;
        free(text);
    }
    json_free(plain);
    RUN("polar eval -m m.gguf --chat raw --prompt @prompt test.jsonl --prompt-program 2x0 --program 0x0", 1,
        "the program runs layer 2, which the tokens from position 0 on skipped");
    RUN("polar eval " ASKED "test.jsonl --kv last", 2, "--reward choice: without --prompt-program");
}

/* An encoder of the model's own shape: each of its tokens is worth as many layer calls as there are layers. Tokens are
 * bytes, but for the one merge of the vocabulary, and an end. */
TEST(encoder) {
    size_t n;
    char *text, question[208];
    json_document *root;
    const json *header, *samples;
    method_sum sums[48];
    RUN("polar eval -m m.gguf -p e.gguf --encoder m2.gguf --reward choice --chat raw --prompt @prompt test.jsonl -k 3 "
        "-o e.json",
        0, "vote@3");
    memset(sums, 0, sizeof sums);
    text = read_back("e.json", &n);
    root = parse(text, n);
    header = json_get(json_root(root), "polar");
    samples = json_get(json_root(root), "samples");
    CHECK(count(samples) == N_QUESTIONS);
    for (size_t i = 0; i < count(samples); i++) {
        const json *record = item(samples, i);
        int tokens;
        string(record, "question", question);
        tokens = (int)strlen(question) + 1;
        for (const char *at = question; (at = strstr(at, "th")); at++) tokens--;
        CHECK(number(record, "encoder_calls") == D * tokens);
        check_record(header, record, sums, (int)count(json_get(header, "methods")));
    }
    json_free(root);
    free(text);
}

TEST(bad_input) {
    RUN("polar eval", 2, "polar eval: an argument is missing");
    RUN("polar eval test.jsonl", 2, "polar eval: no model");
    RUN("polar eval -m m.gguf a b", 2, "\"b\" is one argument too many; --merge joins files");
    RUN("polar eval -m m.gguf /nowhere", 1, "cannot open /nowhere: No such file");
    RUN_ON("{\"question\":\"x\"}\n", "polar eval -m m.gguf -", 1, "stdin:1: no answer (looked for answer");
    write_text("q", "{\"question\":\"x\"}\n");
    RUN("polar eval -m m.gguf q", 1, "q:1: no answer (looked for answer");
    RUN("polar eval -m m.gguf -p test.jsonl test.jsonl", 1, "test.jsonl: ");
    RUN("polar eval -m m.gguf -p other.gguf test.jsonl", 1, "the predictor was trained for another model");
    RUN(EVAL "--validation validation.json validation.jsonl", 1,
        "holds the very questions that are to be evaluated");
    RUN("polar eval -m m2.gguf --reward choice --chat raw --prompt @prompt --validation fit.json test.jsonl", 1,
        "was made with another model");
    RUN(EVAL "--validation test.jsonl test.jsonl", 1,
        "holds neither an evaluation nor what polar eval --fit writes");
    RUN("polar eval -m m.gguf --price 1 --prompt @prompt test.jsonl", 2, "--price needs a predictor with a menu");
    RUN(EVAL "--price x test.jsonl", 2, "--price x: expected a number >= 0");
    RUN(EVAL "--skip 4 test.jsonl", 2, "--skip 4: expected 1..3 layers");
    RUN(EVAL "--program 9 test.jsonl", 1, "polar eval: program: ");
    RUN(EVAL "--shard 3/2 test.jsonl -o x", 2, "--shard 3/2: expected 1/4");
    RUN(EVAL "--time 3 test.jsonl", 2, "--time measures answers that are generated");
    RUN("polar eval " ASKED "--menu a.json test.jsonl", 0, "oracle menu@4");
    CHECK(strstr(output, "a.json: no record of its questions; overlap is not checked\n") != NULL);
    RUN("polar eval -m m.gguf --menu test.jsonl test.jsonl", 1, "its header holds no menu");
}

/* --- pages ---------------------------------------------------------------------------------------------- */

TEST(report) {
    size_t n = 0;
    char *a;
    FILE *f;
    write_questions("hostile.jsonl", 3,
                    "</li><script>alert(1)</script><img src=x onerror='y'>&amp;\\u0001\\u0000\\\"");
    RUN(EVAL "hostile.jsonl -o h.json", 1, "a text holds a NUL character");
    write_questions("hostile.jsonl", 3, "</li><script>x</script>'&amp;\\u0001\\\"");
    RUN(EVAL "--price 0 --price 10 hostile.jsonl -o h.json", 0, "top-1 10");
    RUN("polar report a.json h.json -o r.html --title 'a <b> & \"c\"'", 0, "");
    check_page("r.html");
    CHECK(count_in("r.html", "<h2>Evaluation: ") == 2);
    CHECK(count_in("r.html", "<title>a &lt;b&gt; &amp; &quot;c&quot;</title>") == 1);
    /* a search, as the published code writes it, and one of polar with a header; a loss curve */
    write_text("f.json", "[{\"question\":\"<q>\",\"gt_ans\":\"1\",\"final_valid_transitions\":[[0,1,1,3]],"
                         "\"final_invalid_transitions\":[[0,1,2,3]]}]\n");
    write_text("curve.jsonl", "{\"epoch\":1,\"loss\":2}\n{\"epoch\":2,\"loss\":1.5,\"validation_loss\":1.7}\n");
    RUN("polar report f.json curve.jsonl -o r2.html", 0, "");
    CHECK(count_in("r2.html", "<section>") == 2);
    check_page("r2.html");
    CHECK(count_in("r2.html", "for <b>100.0&nbsp;%</b> some program was found") == 1);
    RUN("polar report r.html -o r3.html", 1, "polar report: ");
    write_text("curve.jsonl", "{\"epoch\":1,\"loss\":2}\n{\"epoch\":2,\"loss\":\n{\"epoch\":3,\"loss\":1}\n");
    RUN("polar report curve.jsonl -o r3.html", 1, "curve.jsonl:2: not JSON");
    f = open_there("curve.jsonl", "wb");
    for (int i = 1; f && i <= 1001; i++) fprintf(f, "{\"epoch\":%d,\"loss\":1}\n", i);
    if (f) fclose(f);
    RUN("polar report curve.jsonl -o r3.html", 1, "curve.jsonl: more than 1000 epochs");
    write_text("cut.json", "{\"final_valid_transitions\":[[0,1,2]]}\n{\"final_valid");
    RUN("polar report cut.json -o r3.html", 1, "cut.json:2: not JSON");
    CHECK(count_in("output", "cut.json:2:") == 1);
    RUN("polar report test.jsonl -o r3.html", 1,
        "test.jsonl: neither an evaluation, a scan, results of a search nor a loss curve");
    RUN("polar report a.json", 2, "polar report: no output");
    a = read_back("a.json", &n);
    if (n > 5000) write_file("cut.json", a, 5000);
    free(a);
    RUN("polar report cut.json -o r3.html", 1, "cut.json");
    CHECK(!exists("r3.html"));
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(evaluation), T(contests), T(planted_contest), T(fitted_points), T(resumed), T(long_questions), T(outputs), T(known_questions), T(groups),
    T(nulls), T(save_by_bound), T(shards), T(without_predictor), T(alone), T(encoder),
    T(bad_input), T(report),
};

int main(int argc, char **argv) {
    prepare();
    return test_main(tests, COUNT(tests), argc, argv);
}
