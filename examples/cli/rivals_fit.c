/* polar rivals: fits what others do in place of a predictor, for polar eval --rivals. Routers are trained on what a
 * search found; thresholds, numbers of skipped layers and blocks of a scan are chosen on validation questions, by the
 * rules that choose a predictor's prices there. */
#include "rivals.h"
#include "samples.h"
#include "evaluate.h"
#include "statistics.h"

#include <math.h>

enum { INFLUENCE_PROMPTS = 64, SCAN_SKIPS = 8, MAX_PROGRAMS = 4 * POLAR_MAX_LAYER };

typedef struct fit_options {
    const char *model, *output, *validation, *scan;
    evaluate_options evaluate;
    router_options router;
    int questions;
    double cost;
} fit_options;

/* A way to choose programs for the validation questions, and what it gives there. */
typedef struct tally {
    double id; /* a threshold, or the index of a program */
    int right;
    double cost, lower;
} tally;

typedef struct fit {
    fit_options *o;
    const char *file;
    polar_model *model;
    polar_model_info info;
    polar_pool *pool;
    polar_runner runner;
    json_document *header; /* of the search, or NULL */
    evaluator e;
    cli_questions train, validation;
    rivals r;
    int n_labelled;
    double loss;
    /* The programs of all questions: the identity, prefixes of 1 .. D-1 layers, 1 .. D-1 layers of least influence
     * skipped, those of the scan; behind them each question's own one, by the routers. */
    polar_program programs[MAX_PROGRAMS];
    int *calls[MAX_PROGRAMS], n_programs, first_scanned, n_scanned, best_scanned; /* best: -1 none */
    char *right;        /* (questions, n_programs + 1) */
    int *positions, *router_calls; /* the same; (questions) */
    double *confidence; /* (questions, D - 1) */
    int *n_windows;     /* (questions) */
    tally exit[3], skip[3], scan[3], scan_best, router; /* gain, save, cheap */
} fit;

enum { GAIN, SAVE, CHEAP };

/* --- what training questions say ------------------------------------------------------------------------------ */

static int read_header(fit *f) {
    cli_prompt_options *o = &f->o->evaluate.prompt;
    const char *error = "", *checksum;
    const json *settings;
    cli_objects samples;
    char mine[20];
    size_t at;
    int status = 0;
    if (!cli_objects_open(&samples, f->file)) return 1;
    if (samples.header.text && !(f->header = json_read(samples.header.text, samples.header.length, &error, &at)))
        status = cli_fail("%s: the header cannot be read: %s", f->file, error);
    cli_objects_close(&samples);
    if (status || !f->header) return status;
    settings = json_get(json_root(f->header), "settings");
    checksum = json_get_text(json_get(json_root(f->header), "model"), "checksum");
    snprintf(mine, sizeof mine, "%016llx", (unsigned long long)polar_model_checksum(f->model));
    if (checksum && strcmp(checksum, mine))
        return cli_fail("%s was made with another model: its checksum is %s there and %s here", f->file, checksum,
                        mine);
    if (!o->prompt && !o->chat && !o->system && !o->example) { /* questions are asked as the search asked them */
        o->recorded = json_get_text(settings, "prompt");
        o->chat = json_get_text(settings, "chat");
        o->system = json_get_text(settings, "system");
    }
    return 0;
}

/* Executions of each layer by a path, 0..2; 0 if it is none of that kind. */
static int operations(const int *path, int n, int n_layer, unsigned char *ops) {
    memset(ops, 0, (size_t)n_layer);
    for (int i = 0; i < n; i++)
        if (path[i] < 0 || path[i] >= n_layer || (i && path[i] < path[i - 1]) || ++ops[path[i]] > 2) return 0;
    return n > 0;
}

/* The shortest valid path that skips, executes and repeats single layers, the first of equal ones. */
static int label(const trials *t, int n_layer, unsigned char *ops) {
    unsigned char own[POLAR_MAX_LAYER];
    int least = 0;
    for (int i = 0; i < t->n; i++) {
        const trial *x = &t->items[i];
        if (!(x->reward > 0) || (least && x->n >= least) || !operations(x->path, x->n, n_layer, own)) continue;
        least = x->n;
        memcpy(ops, own, (size_t)n_layer);
    }
    return least > 0;
}

/* The states that enter the layers under a label's path. */
static int make_example(fit *f, const char *question, unsigned char *ops, router_example *x) {
    const int n_layer = f->info.n_layer;
    float *windows;
    int32_t *prompt = NULL;
    int n, status = cli_prompt_tokens(f->model, &f->e.prompt.how, question, &prompt, &n);
    x->n = n < ROUTER_WINDOWS ? n : ROUTER_WINDOWS;
    windows = status ? NULL : malloc((size_t)n_layer * (size_t)x->n * (size_t)f->info.n_embd * sizeof *windows);
    if (!status && !windows) status = cli_fail("out of memory: states of %d questions", f->train.n);
    if (!status) status = rivals_route(&f->r, prompt, n, ops, windows);
    x->windows = windows;
    x->ops = ops;
    free(prompt);
    return status;
}

static int train_routers(fit *f) {
    const int n_layer = f->info.n_layer;
    router_example *examples = calloc((size_t)f->train.n, sizeof *examples);
    unsigned char *ops = malloc((size_t)f->train.n * (size_t)n_layer);
    trials t = {0};
    cli_objects samples;
    const json *sample;
    const int is_open = examples && ops && cli_objects_open(&samples, f->file);
    int status = is_open ? 0 : examples && ops ? 1 : cli_fail("out of memory"), n = 0;
    t.n_layer = n_layer;
    for (int q = 0, at = 0; !status && q < f->train.n && (sample = cli_objects_next(&samples)); at++) {
        unsigned char *own = ops + (size_t)n * (size_t)n_layer;
        if (at < f->train.items[q].place) continue;
        trials_clear(&t);
        if (!trials_read(&t, sample)) status = cli_fail("%s:%d: a path is no list of layers", f->file, samples.line);
        else if (label(&t, n_layer, own)) {
            status = make_example(f, f->train.items[q].text, own, &examples[n]);
            n += examples[n].windows != NULL;
        }
        q++;
        if (!status) cli_progress("routers: states of %d of %d questions", q, f->train.n);
    }
    cli_progress_end();
    if (is_open) {
        if (!status) status = samples.failed;
        cli_objects_close(&samples);
    }
    f->n_labelled = n;
    if (!status && n) {
        if (!router_create(&f->r.router, n_layer, f->info.n_embd) ||
            !router_train(&f->r.router, examples, n, &f->o->router, &f->runner, &f->loss))
            status = cli_fail("out of memory");
    } else if (!status)
        cli_note("%s: no question has a valid path of single layers that are skipped or repeated: no routers", f->file);
    for (int i = 0; i < n; i++) free((void *)(uintptr_t)examples[i].windows);
    trials_free(&t);
    free(examples);
    free(ops);
    return status;
}

static int measure_influence(fit *f) {
    polar_session_options so = {0};
    int32_t *prompts[INFLUENCE_PROMPTS] = {NULL};
    int lengths[INFLUENCE_PROMPTS], n = 0, status = 0;
    polar_error e;
    so.runner = &f->runner;
    while (n < INFLUENCE_PROMPTS && n < f->train.n && !status) {
        status = cli_prompt_tokens(f->model, &f->e.prompt.how, f->train.items[n].text, &prompts[n], &lengths[n]);
        n++;
    }
    if (!status &&
        statistics_influence(f->model, (const int32_t *const *)prompts, lengths, n, &so, f->r.influence, &e))
        status = cli_fail("%s", e.message);
    for (int i = 0; i < n; i++) free(prompts[i]);
    return status;
}

/* --- programs ------------------------------------------------------------------------------------------------- */

static int add_program(fit *f, const polar_program *p) {
    const int n = polar_program_length(p);
    if (f->n_programs == MAX_PROGRAMS) return cli_fail("more than %d programs", MAX_PROGRAMS);
    if (!(f->calls[f->n_programs] = malloc((size_t)n * sizeof(int)))) return cli_fail("out of memory");
    polar_program_calls(p, f->calls[f->n_programs], n);
    f->programs[f->n_programs++] = *p;
    return 0;
}

/* A program of a scan: what it gained on the questions that were held out, if it was measured there. */
typedef struct scanned {
    polar_program program;
    double score, gain;
    int layers, was_held_out, confirmed;
} scanned;

static int read_scanned(const fit *f, const json *v, scanned *s) {
    const char *program = json_get_text(v, "program");
    const json *list = json_get(v, "score"), *held = json_get(v, "held_out");
    polar_error e;
    memset(s, 0, sizeof *s);
    if (!program || !list || list->type != JSON_ARRAY || !list->length ||
        polar_program_parse(&s->program, f->info.n_layer, program, &e))
        return 0;
    s->layers = polar_program_length(&s->program);
    for (const json *x = list->child; x; x = x->next) s->score += x->type == JSON_NUMBER ? x->number : -1e300;
    for (const json *x = held && held->type == JSON_ARRAY ? held->child : NULL; x; x = x->next) {
        const json *difference = json_get(x, "difference"), *confirmed = json_get(x, "confirmed");
        s->was_held_out = 1;
        if (difference && difference->type == JSON_NUMBER) s->gain += difference->number;
        s->confirmed |= confirmed && confirmed->type == JSON_TRUE;
    }
    return 1;
}

/* The winners of the scan, and of the programs with fewer layers those with the best scores. */
static int read_scan(fit *f) {
    scanned skips[SCAN_SKIPS], s;
    int n_skips = 0, status = 0;
    double best = 0;
    const char *error = "", *checksum;
    char mine[20];
    json_document *header = NULL;
    cli_objects o;
    const json *v;
    size_t at;
    f->first_scanned = f->n_programs;
    f->best_scanned = -1;
    if (!f->o->scan) return 0;
    if (!cli_objects_open(&o, f->o->scan)) return 1;
    if (o.header.text) header = json_read(o.header.text, o.header.length, &error, &at);
    checksum = json_get_text(json_get(header ? json_root(header) : NULL, "model"), "checksum");
    snprintf(mine, sizeof mine, "%016llx", (unsigned long long)polar_model_checksum(f->model));
    if (!checksum || strcmp(checksum, mine))
        status = cli_fail("%s: no scan of this model: its checksum is %s there and %s here", f->o->scan,
                          checksum ? checksum : "not set", mine);
    while (!status && (v = cli_objects_next(&o))) {
        int k = n_skips;
        if (!read_scanned(f, v, &s)) {
            status = cli_fail("%s:%d: this is no program of a scan", f->o->scan, o.line);
            continue;
        }
        if (s.layers == f->info.n_layer) continue; /* the identity */
        if (s.was_held_out) {
            if (s.confirmed && (f->best_scanned < 0 || s.gain > best)) {
                best = s.gain;
                f->best_scanned = f->n_programs;
            }
            status = add_program(f, &s.program);
        } else if (s.layers < f->info.n_layer) {
            while (k > 0 && s.score > skips[k - 1].score) k--;
            if (k == SCAN_SKIPS) continue;
            if (n_skips < SCAN_SKIPS) n_skips++;
            memmove(&skips[k + 1], &skips[k], (size_t)(n_skips - 1 - k) * sizeof *skips);
            skips[k] = s;
        }
    }
    if (!status) status = o.failed;
    for (int i = 0; i < n_skips && !status; i++) status = add_program(f, &skips[i].program);
    f->n_scanned = f->n_programs - f->first_scanned;
    cli_objects_close(&o);
    json_free(header);
    return status;
}

static int list_programs(fit *f) {
    const int n_layer = f->info.n_layer;
    const polar_program identity = polar_program_identity(n_layer);
    int status = add_program(f, &identity);
    polar_program p;
    polar_error e;
    for (int n = 1; n < n_layer && !status; n++) {
        p = rivals_prefix(n_layer, n);
        status = add_program(f, &p);
    }
    for (int n = 1; n < n_layer && !status; n++) {
        if (statistics_skip(f->r.influence, n_layer, n_layer - n, &p, &e)) status = cli_fail("%s", e.message);
        else status = add_program(f, &p);
    }
    return status ? status : read_scan(f);
}

/* --- validation ----------------------------------------------------------------------------------------------- */

/* Runs all programs on a question. */
static int run_question(fit *f, int q, polar_path *paths, attempt *attempts) {
    const cli_question *question = &f->validation.items[q];
    const int n_all = f->n_programs + 1, n_layer = f->info.n_layer;
    int own[2 * POLAR_MAX_LAYER], n = f->n_programs, n_prompt, status;
    int32_t *prompt = NULL;
    polar_program p;
    status = cli_prompt_tokens(f->model, &f->e.prompt.how, question->text, &prompt, &n_prompt) ||
             evaluator_question(&f->e, question);
    if (!status) status = rivals_look(&f->r, prompt, n_prompt);
    if (!status && f->r.router.weights) {
        if (!(status = rivals_route(&f->r, prompt, n_prompt, NULL, NULL))) {
            if (!rivals_program_of(f->r.ops, n_layer, &p)) p = polar_program_identity(n_layer);
            paths[n].calls = own;
            paths[n].n = polar_program_calls(&p, own, 2 * POLAR_MAX_LAYER);
            f->router_calls[q] = paths[n].n;
            f->n_windows[q] = f->r.n_windows;
            n++;
        }
    }
    free(prompt);
    if (!status) {
        memcpy(f->confidence + (size_t)q * (size_t)n_layer, f->r.confidence, (size_t)n_layer * sizeof *f->confidence);
        status = evaluator_run(&f->e, paths, n, attempts);
    }
    for (int i = 0; i < n && !status; i++) {
        const attempt *a = &attempts[i];
        f->right[(size_t)q * (size_t)n_all + (size_t)i] = a->reward > 0;
        f->positions[(size_t)q * (size_t)n_all + (size_t)i] = n_prompt + a->n_tokens - (a->stop == POLAR_STOP_LIMIT);
    }
    for (int i = 0; i < n; i++) free(attempts[i].answer);
    memset(attempts, 0, (size_t)n * sizeof *attempts);
    return status;
}

static int run_questions(fit *f) {
    const size_t n = (size_t)f->validation.n, n_all = (size_t)f->n_programs + 1;
    polar_path *paths = calloc(n_all, sizeof *paths);
    attempt *attempts = calloc(n_all, sizeof *attempts);
    const double start = cli_seconds();
    double told = start;
    int status = 0;
    f->right = calloc(n * n_all, 1);
    f->positions = calloc(n * n_all, sizeof *f->positions);
    f->router_calls = calloc(n, sizeof *f->router_calls);
    f->n_windows = calloc(n, sizeof *f->n_windows);
    f->confidence = calloc(n * (size_t)f->info.n_layer, sizeof *f->confidence);
    if (!paths || !attempts || !f->right || !f->positions || !f->router_calls || !f->n_windows || !f->confidence)
        status = cli_fail("out of memory");
    for (int i = 0; i < f->n_programs && !status; i++) {
        paths[i].calls = f->calls[i];
        paths[i].n = polar_program_length(&f->programs[i]);
    }
    for (int q = 0; q < f->validation.n && !status; q++) {
        const double now = cli_seconds();
        status = cli_interrupted() ? EVALUATE_CANCELLED : run_question(f, q, paths, attempts);
        cli_progress("validation: %d of %d questions", q + 1, f->validation.n);
        if (!cli_stderr_is_terminal() && now - told > 30) {
            cli_note("validation: %d of %d questions, %.0f s left", q, f->validation.n,
                     (now - start) / (q > 0 ? q : 1) * (f->validation.n - q));
            told = now;
        }
    }
    cli_progress_end();
    free(paths);
    free(attempts);
    return status == EVALUATE_CANCELLED ? cli_fail("interrupted") : status;
}

/* --- choosing ------------------------------------------------------------------------------------------------- */

typedef enum way { BY_PROGRAM, BY_THRESHOLD, BY_ROUTER } way;

/* What choosing by this way gives on the validation questions, looks and routers included. */
static tally evaluate(fit *f, way w, double id) {
    const int n_all = f->n_programs + 1, n_layer = f->info.n_layer;
    tally t = {id, 0, 0, 0};
    statistics_paired pair = {0, 0, 0, 0};
    double calls = 0, positions = 0;
    for (int q = 0; q < f->validation.n; q++) {
        const char *right = f->right + (size_t)q * (size_t)n_all;
        int looks = 0, n = 0, k = (int)id;
        double extra = 0;
        if (w == BY_THRESHOLD) {
            memcpy(f->r.confidence, f->confidence + (size_t)q * (size_t)n_layer,
                   (size_t)n_layer * sizeof *f->confidence);
            n = rivals_exit(&f->r, id, &looks);
            k = n == n_layer ? 0 : n;
            extra = looks * f->r.look_calls;
        } else if (w == BY_ROUTER) {
            k = f->n_programs;
            n = f->router_calls[q];
            extra = f->n_windows[q] * f->r.router_calls;
        }
        if (w != BY_ROUTER) n = polar_program_length(&f->programs[k]);
        t.right += right[k];
        ++*(right[0] ? right[k] ? &pair.both : &pair.broken : right[k] ? &pair.corrected : &pair.neither);
        calls += (double)n * f->positions[(size_t)q * (size_t)n_all + (size_t)k] + extra;
        positions += f->positions[(size_t)q * (size_t)n_all + (size_t)k];
    }
    t.cost = calls / positions / n_layer;
    t.lower = statistics_difference(&pair).low;
    return t;
}

/* More right answers; with the same number, the cheaper. */
static int is_better(const tally *x, const tally *y) {
    return x->right > y->right || (x->right == y->right && x->cost < y->cost);
}

/* The rules of polar eval --fit, where the identity comes first; and most right answers at the cost asked for. */
static void consider(const fit *f, tally *chosen, const tally *t) {
    if (t->cost <= 1 && is_better(t, &chosen[GAIN])) chosen[GAIN] = *t;
    if (t->lower >= 0 && t->cost < chosen[SAVE].cost) chosen[SAVE] = *t;
    if (t->cost <= f->o->cost && is_better(t, &chosen[CHEAP])) chosen[CHEAP] = *t;
}

static void begin_choice(tally *chosen, tally identity) {
    chosen[GAIN] = chosen[SAVE] = chosen[CHEAP] = identity;
    chosen[CHEAP].right = -1;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { THRESHOLDS = 512 };

static int choose_threshold(fit *f) {
    const int n_layer = f->info.n_layer;
    const size_t n = (size_t)f->validation.n * (size_t)(n_layer - 1);
    double *all = malloc((n + 1) * sizeof *all), last = -1;
    size_t k = 0;
    begin_choice(f->exit, evaluate(f, BY_THRESHOLD, 1));
    if (!all) return cli_fail("out of memory");
    for (int q = 0; q < f->validation.n; q++)
        for (int i = 0; i < n_layer - 1; i++) all[k++] = f->confidence[(size_t)q * (size_t)n_layer + (size_t)i];
    if (k) qsort(all, k, sizeof *all, ascending);
    for (int i = -1; i < THRESHOLDS && k; i++) { /* 0, then confidences evenly thinned out */
        const double x = i < 0 ? 0 : all[(size_t)i * (k - 1) / (THRESHOLDS - 1)];
        tally t;
        if (x <= last || x >= 1) continue;
        last = x;
        t = evaluate(f, BY_THRESHOLD, x);
        consider(f, f->exit, &t);
    }
    free(all);
    return 0;
}

static void choose_programs(fit *f) {
    const int n_layer = f->info.n_layer;
    begin_choice(f->skip, evaluate(f, BY_PROGRAM, 0));
    begin_choice(f->scan, f->skip[GAIN]);
    for (int i = n_layer; i < f->n_programs; i++) {
        const tally t = evaluate(f, BY_PROGRAM, i);
        consider(f, i < f->first_scanned ? f->skip : f->scan, &t);
    }
    if (f->best_scanned >= 0) f->scan_best = evaluate(f, BY_PROGRAM, f->best_scanned);
    if (f->r.router.weights) f->router = evaluate(f, BY_ROUTER, 0);
}

typedef struct row {
    char name[32];
    rival_kind kind;
    const tally *t;
} row;

/* Gain, save, and what costs so much at most, if there is anything. */
static int list_choice(const fit *f, row *rows, const char *name, rival_kind kind, const tally *t) {
    for (int i = 0; i < 3; i++) {
        rows[i].kind = kind;
        rows[i].t = &t[i];
        if (i == CHEAP) snprintf(rows[i].name, sizeof rows->name, "%s %.6g", name, f->o->cost);
        else snprintf(rows[i].name, sizeof rows->name, "%s %s", name, i == GAIN ? "gain" : "save");
    }
    return 2 + (t[CHEAP].right >= 0);
}

static int list_rows(const fit *f, row *rows) {
    int n = list_choice(f, rows, "exit", RIVAL_EXIT, f->exit);
    n += list_choice(f, rows + n, "static", RIVAL_PROGRAM, f->skip);
    if (f->o->scan) n += list_choice(f, rows + n, "scan", RIVAL_PROGRAM, f->scan);
    if (f->best_scanned >= 0) rows[n++] = (row){"scan best", RIVAL_PROGRAM, &f->scan_best};
    if (f->r.router.weights) rows[n++] = (row){"router", RIVAL_ROUTER, &f->router};
    return n;
}

/* The program or threshold of a row as text. */
static void row_text(const fit *f, const row *x, char *text, size_t size) {
    *text = 0;
    if (x->kind == RIVAL_EXIT) snprintf(text, size, "threshold %.4f", x->t->id);
    if (x->kind == RIVAL_PROGRAM) polar_program_format(&f->programs[(int)x->t->id], text, size);
}

static void print_rows(const fit *f) {
    row rows[RIVALS_MAX];
    const int n = list_rows(f, rows);
    const double n_questions = f->validation.n;
    int identity = 0;
    for (int q = 0; q < f->validation.n; q++) identity += f->right[(size_t)q * (size_t)(f->n_programs + 1)];
    printf("%d validation questions, of which the identity answers %.1f %%; routers from %d questions\n"
           "            right  cost\n", f->validation.n, 100 * identity / n_questions, f->n_labelled);
    for (int i = 0; i < n; i++) {
        char text[2048];
        row_text(f, &rows[i], text, sizeof text);
        printf("%-12.12s%5.1f %5.2f  %.55s\n", rows[i].name, 100 * rows[i].t->right / n_questions, rows[i].t->cost,
               text);
    }
}

/* --- the file ------------------------------------------------------------------------------------------------- */

static void put_questions(FILE *f, const char *name, const char *file, const cli_questions *q) {
    fprintf(f, ",\"%s\":{\"file\":", name);
    json_put_text(f, cli_base_name(file));
    fprintf(f, ",\"n\":%d,\"checksum\":\"%016llx\"}", q->n, (unsigned long long)q->checksum);
}

static void put_rival(FILE *out, const fit *f, const row *x) {
    char text[2048];
    fprintf(out, "\n{\"name\":\"%s\",\"kind\":\"%s\"", x->name, rivals_kinds[x->kind]);
    if (x->kind == RIVAL_EXIT) json_put_number(out, "threshold", x->t->id);
    row_text(f, x, text, sizeof text);
    if (x->kind == RIVAL_PROGRAM) fprintf(out, ",\"program\":\"%s\"", text);
    fprintf(out, ",\"right\":%d", x->t->right);
    json_put_number(out, "cost", x->t->cost);
    json_put_number(out, "lower", x->t->lower);
    fputc('}', out);
}

static void put_router(FILE *out, const fit *f) {
    const router *r = &f->r.router;
    fprintf(out, "\"router\":{\"labelled\":%d", f->n_labelled);
    json_put_number(out, "loss", f->loss);
    fprintf(out, ",\"layers\":[");
    for (int i = 0; i < r->n_layer; i++) {
        const float *w = r->weights + (size_t)i * router_params(r->width);
        fprintf(out, i ? ",\n\"" : "\n\"");
        for (size_t k = 0; k < router_params(r->width); k++) {
            uint32_t bits;
            memcpy(&bits, &w[k], sizeof bits);
            fprintf(out, "%08lx", (unsigned long)bits);
        }
        fputc('"', out);
    }
    fprintf(out, "]},\n");
}

/* Fingerprints of training and validation questions, ascending and each once. */
static int all_fingerprints(const fit *f, uint64_t **list, int *n) {
    uint64_t *a = NULL, *b = NULL;
    int n_a = 0, n_b = 0, i = 0, k = 0;
    int status = cli_fingerprints(&f->train, &a, &n_a) || cli_fingerprints(&f->validation, &b, &n_b);
    *n = 0;
    *list = status ? NULL : malloc((size_t)(n_a + n_b) * sizeof **list);
    if (!status && !*list) status = cli_fail("out of memory");
    while (!status && (i < n_a || k < n_b)) {
        const uint64_t x = k == n_b || (i < n_a && a[i] < b[k]) ? a[i] : b[k];
        (*list)[(*n)++] = x;
        while (i < n_a && a[i] == x) i++;
        while (k < n_b && b[k] == x) k++;
    }
    free(a);
    free(b);
    return status;
}

static int write_file(const fit *f) {
    cli_output out;
    row rows[RIVALS_MAX];
    const int n_rows = list_rows(f, rows);
    uint64_t *fingerprints;
    int n, status = all_fingerprints(f, &fingerprints, &n);
    FILE *file = status ? NULL : cli_output_open(&out, f->o->output);
    if (!file) {
        free(fingerprints);
        return 1;
    }
    fprintf(file, "{\"polar\":{\"kind\":\"rivals\",\"version\":\"%s\",", polar_version());
    cli_put_model(file, f->model);
    put_questions(file, "train", f->file, &f->train);
    put_questions(file, "validation", f->o->validation, &f->validation);
    fprintf(file, ",\"settings\":{");
    evaluate_put(file, &f->o->evaluate, &f->e.prompt);
    fprintf(file, ",\"seed\":%llu,\"epochs\":%d}", (unsigned long long)f->o->router.seed, f->o->router.n_epochs);
    fprintf(file, "},\n\"influence\":[");
    for (int i = 0; i < f->info.n_layer; i++) {
        if (i) fputc(',', file);
        json_put_double(file, f->r.influence[i]);
    }
    fprintf(file, "],\n\"rivals\":[");
    for (int i = 0; i < n_rows; i++) {
        if (i) fputc(',', file);
        put_rival(file, f, &rows[i]);
    }
    fprintf(file, "],\n");
    if (f->r.router.weights) put_router(file, f);
    fprintf(file, "\"questions\":\"");
    cli_put_fingerprints(file, fingerprints, n);
    fprintf(file, "\"}\n");
    free(fingerprints);
    return cli_output_close(&out, 1);
}

/* --- the command ---------------------------------------------------------------------------------------------- */

static int on_progress(void *user, double done) {
    (void)user, (void)done;
    return cli_interrupted();
}

static int prepare(fit *f) {
    fit_options *o = f->o;
    polar_many_options m = {0};
    polar_kv_type kv_type;
    polar_error e;
    int n_ctx, longest, status;
    if ((status = cli_open_model(o->model, o->evaluate.cpu, 0, &f->model)) || (status = read_header(f)) ||
        (status = cli_questions_read(&f->train, f->file, 0, o->questions)) ||
        (status = cli_questions_once(&f->train, f->file)) ||
        (status = evaluate_questions(&f->validation, o->validation, &o->evaluate)) ||
        (status = cli_questions_once(&f->validation, o->validation)))
        return status;
    if (!f->train.n || !f->validation.n)
        return cli_fail("%s: no questions", f->train.n ? o->validation : f->file);
    polar_model_get_info(f->model, &f->info);
    if (f->info.n_layer < 2) return cli_fail("%s: a model of one layer has nothing to choose", o->model);
    if (polar_pool_create(&f->pool, o->evaluate.threads, NULL, &e)) return cli_fail("%s", e.message);
    f->runner = polar_pool_runner(f->pool);
    m.runner = &f->runner;
    m.progress = on_progress;
    if ((status = evaluator_open(&f->e, f->model, &o->evaluate, m))) return status;
    if (f->e.is_alone) return cli_usage("without --prompt-program, and with --kv per-call");
    if ((status = evaluator_room(&f->e, &o->evaluate, &f->validation, o->validation, &n_ctx)) ||
        (status = cli_prompt_room(&f->e.prompt, &f->train, f->file, 1, o->evaluate.skip_long, &longest)) ||
        (status = cli_kv_type(o->evaluate.kv_type, &kv_type)))
        return status;
    return rivals_open(&f->r, f->model, &f->e.prompt, n_ctx > longest ? n_ctx : longest, kv_type, &f->runner);
}

static void close_fit(fit *f) {
    rivals_close(&f->r);
    evaluator_close(&f->e);
    cli_questions_free(&f->train);
    cli_questions_free(&f->validation);
    for (int i = 0; i < f->n_programs; i++) free(f->calls[i]);
    free(f->right);
    free(f->positions);
    free(f->router_calls);
    free(f->n_windows);
    free(f->confidence);
    json_free(f->header);
    polar_model_close(f->model);
    polar_pool_free(f->pool);
}

int command_rivals(cli *c) {
    fit_options o = {.evaluate = EVALUATE_DEFAULTS, .cost = 0.75, .router = {25, 32, 1e-3, 0.01, 0.1, 0}};
    fit *f;
    int status;
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"validation", 0, CLI_FILE, &o.validation, "FILE", "questions that choose thresholds and programs"},
        {"scan", 0, CLI_FILE, &o.scan, "FILE", "a scan, whose best blocks are tried"},
        {"output", 'o', CLI_RIVALS, &o.output, "FILE", "what was fitted, for polar eval --rivals"},
        {"cost", 0, CLI_NUMBER, &o.cost, "X", "also choose what is best at this cost, identity 1 (0.75)"},
        {"train-limit", 0, CLI_INT, &o.questions, "N", "the first N questions of FOUND only"},
        {"epochs", 0, CLI_INT, &o.router.n_epochs, "N", "of the routers (25)"},
        {"seed", 's', CLI_U64, &o.router.seed, "N", "of the routers (0)"},
        EVALUATE_OPTIONS(o.evaluate),
        {0}};
    shard all;
    if ((status = cli_read(c, options, 1, 1)) >= 0) return status;
    if ((status = evaluate_check(&o.evaluate, &all))) return status;
    if (!o.model) return cli_usage("no model: -m FILE");
    if (!o.validation) return cli_usage("no questions to choose on: --validation FILE");
    if (!o.output) return cli_usage("no output: -o FILE");
    if (o.evaluate.shard) return cli_usage("--shard: only polar eval and polar search have parts");
    if (!(o.cost > 0 && o.cost <= 1)) return cli_usage("--cost %g: expected a number above 0, at most 1", o.cost);
    if (o.router.n_epochs < 1) return cli_usage("--epochs %d: expected 1 or more", o.router.n_epochs);
    if (o.questions < 0) return cli_usage("--train-limit %d: expected a number of questions", o.questions);
    if (!(f = calloc(1, sizeof *f))) return cli_fail("out of memory");
    f->o = &o;
    f->file = c->args[0];
    f->best_scanned = -1;
    cli_catch_interrupts();
    if (!(status = prepare(f)) && !(status = measure_influence(f)) && !(status = train_routers(f)) &&
        !(status = list_programs(f)) && !(status = run_questions(f)) && !(status = choose_threshold(f))) {
        choose_programs(f);
        if (!(status = write_file(f))) print_rows(f);
    }
    close_fit(f);
    free(f);
    return status == EVALUATE_CANCELLED ? cli_fail("interrupted") : status;
}
