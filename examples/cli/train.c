/* polar train: a predictor from what a search found. Shows polar_features, polar_trainer and polar_menu_train. */
#include "menu.h"
#include "samples.h"
#include "statistics.h"

#include <limits.h>

typedef struct train_options {
    const char *model, *out, *heads, *feature, *encoder, *cache, *checkpoint, *cpu, *schedule, *identity, *select,
        *pooling, *texts;
    int crop, shortest;
    int layer, max_tokens, threads, restart, json, menu_size, cascade, limit, skip_long;
    double price;
    uint64_t seed;
    cli_prompt_options prompt;
    polar_train_options train;
    polar_menu_options menu;
} train_options;

/* What picks are worth on the n held-out questions of which every result is known: the shares that are right, and mean
 * costs. `fixed` is the one program that is best for all of them together, `oracle` knows which programs are right. */
typedef struct menu_worth {
    int n;
    double identity, oracle, fixed, fixed_cost, picked, picked_cost;
} menu_worth;

typedef struct run {
    train_options *o;
    const char *file;
    polar_model *model, *encoder;
    polar_model_info info;
    cli_questions questions;
    cli_prompt prompt;
    json_document *header; /* of the search, or NULL */
    uint64_t checksum;
    int n, n_prompt, width, paper, menu_too; /* n_prompt: tokens of the longest prompt */
    int *order;            /* random: the last n_held are for validation of the menu */
    trials *trials;        /* of each question */
    polar_train_path **paths;
    float **features;
    polar_train_question *data; /* in that order */
    polar_train_question *labels;   /* the same for the published network, where options choose its paths; else NULL */
    polar_train_path **label_paths; /* of each of those questions */
    trials cropped;                 /* paths that no search tried */
    polar_predictor *predictor;
    polar_train_progress progress;
    polar_train_epoch *curve;
    polar_menu_report report;
    menu_worth worth_of;
    polar_program programs[POLAR_MAX_MENU];
    int n_programs, n_held;
    double threshold, worth, cascade_picked, cascade_cost; /* of the cascade, on the held-out questions */
    int n_cascade, n_in_cascade; /* questions, programs */
    double started;
} run;

/* --- the search's results --------------------------------------------------------------------------------- */

static const json *header_of(const run *r) {
    return r->header ? json_root(r->header) : NULL;
}

/* Files of public code have no header. */
static int read_header(run *r) {
    const char *error = "", *checksum;
    char mine[20];
    cli_objects samples;
    size_t at;
    int n_layer = r->info.n_layer, status = 0;
    if (!cli_objects_open(&samples, r->file)) return 1;
    if (samples.header.text && !(r->header = json_read(samples.header.text, samples.header.length, &error, &at)))
        status = cli_fail("%s: the header cannot be read: %s", r->file, error);
    cli_objects_close(&samples);
    if (status || !r->header) return status;
    json_int(json_get(json_get(header_of(r), "model"), "n_layer"), &n_layer);
    checksum = json_get_text(json_get(header_of(r), "model"), "checksum");
    snprintf(mine, sizeof mine, "%016llx", (unsigned long long)r->checksum);
    if (n_layer != r->info.n_layer || (checksum && strcmp(checksum, mine)))
        return cli_fail("%s was made with another model (%d layers, checksum %s); %s has %d layers and %s", r->file,
                        n_layer, checksum ? checksum : "unknown", r->o->model, r->info.n_layer, mine);
    return 0;
}

/* Questions are asked as the search asked them, unless the command line says how. */
static int open_prompt(run *r) {
    cli_prompt_options *o = &r->o->prompt;
    const json *settings = json_get(header_of(r), "settings");
    if (!o->prompt && !o->chat && !o->system && !o->example) {
        o->recorded = json_get_text(settings, "prompt");
        o->chat = json_get_text(settings, "chat");
        o->system = json_get_text(settings, "system");
    }
    return cli_prompt_open(&r->prompt, r->model, o);
}

/* Public files say beside the paths what the identity gives. */
static int add_identity(run *r, trials *t, const json *sample) {
    const json *score = json_get(sample, "initial_score");
    const polar_program own = cli_own_program(r->model);
    int path[POLAR_MAX_CALLS], n = polar_program_calls(&own, path, POLAR_MAX_CALLS);
    trial *added;
    if (!score) score = json_get(sample, "initial_transition_metric");
    if (!score || score->type > JSON_NUMBER || score->type == JSON_NULL) return 0;
    if (trials_find(t, path, n) >= 0) return 0;
    if (!(added = trials_add(t, path, n, NULL, 0))) return cli_fail("out of memory");
    added->reward = score->type == JSON_TRUE || (score->type == JSON_NUMBER && score->number > 0);
    return 0;
}

static int make_paths(run *r, int q, int line) {
    const trials *t = &r->trials[q];
    polar_train_path *paths = r->paths[q] = malloc(((size_t)t->n + 1) * sizeof *paths);
    if (!paths) return cli_fail("out of memory");
    for (int i = 0; i < t->n; i++) {
        const trial *x = &t->items[i];
        for (int c = 0; c < x->n; c++)
            if (x->path[c] < 0 || (x->path[c] & POLAR_CALL_LAYER) >= r->info.n_layer)
                return cli_fail("%s:%d: path %d executes layer %d, %s has layers 0..%d: it was found for another model",
                                r->file, line, i + 1, x->path[c], r->o->model, r->info.n_layer - 1);
        paths[i].path = x->path;
        paths[i].length = x->n;
        paths[i].result = x->reward > 0 ? POLAR_RESULT_VALID : POLAR_RESULT_INVALID;
    }
    return 0;
}

static int read_paths(run *r) {
    cli_objects samples;
    const json *sample;
    int status = 0;
    r->trials = calloc((size_t)r->n, sizeof *r->trials);
    r->paths = calloc((size_t)r->n, sizeof *r->paths);
    r->features = calloc((size_t)r->n, sizeof *r->features);
    r->data = calloc((size_t)r->n, sizeof *r->data);
    r->order = malloc((size_t)r->n * sizeof *r->order);
    if (!r->trials || !r->paths || !r->features || !r->data || !r->order) return cli_fail("out of memory");
    if (!cli_objects_open(&samples, r->file)) return 1;
    for (int q = 0, at = 0; q < r->n && !status && (sample = cli_objects_next(&samples)); at++) {
        if (at < r->questions.items[q].place) continue; /* its question was left out */
        r->trials[q].n_layer = r->info.n_layer;
        if (!trials_read(&r->trials[q], sample))
            status = cli_fail("%s:%d: a path is no list of layers", r->file, samples.line);
        else if (!(status = add_identity(r, &r->trials[q], sample))) status = make_paths(r, q, samples.line);
        q++;
    }
    status |= samples.failed;
    cli_objects_close(&samples);
    return status;
}

/* --- features --------------------------------------------------------------------------------------------- */

/* What the features of a cache depend on. */
static uint64_t cache_key(const run *r) {
    const train_options *o = r->o;
    uint64_t numbers[6], h = CLI_HASH;
    numbers[0] = polar_model_fingerprint(r->model);
    numbers[1] = r->encoder ? polar_model_fingerprint(r->encoder) : 0;
    numbers[2] = r->questions.checksum;
    numbers[3] = (uint64_t)o->layer;
    numbers[4] = (uint64_t)o->max_tokens;
    numbers[5] = (uint64_t)r->prompt.how.chat;
    h = cli_hash(h, numbers, sizeof numbers);
    h = cli_hash(h, o->feature, strlen(o->feature) + 1);
    h = cli_hash(h, r->prompt.how.text, strlen(r->prompt.how.text) + 1);
    return r->prompt.how.system ? cli_hash(h, r->prompt.how.system, strlen(r->prompt.how.system)) : h;
}

#define CACHE_MAGIC 0x31746665726c6f70u /* also tells the order of bytes */

/* 1 if the features were in the cache. */
static int read_cache(run *r) {
    uint64_t head[4] = {0};
    FILE *f = r->o->cache ? cli_fopen(r->o->cache, "rb") : NULL;
    int ok = f && fread(head, sizeof *head, 4, f) == 4 && head[0] == CACHE_MAGIC && head[1] == cache_key(r) &&
             head[2] == (uint64_t)r->n && head[3] == (uint64_t)r->width;
    for (int q = 0; q < r->n && ok; q++) {
        int32_t n = 0;
        ok = fread(&n, sizeof n, 1, f) == 1 && n >= 1 && n <= 1 << 20 &&
             (r->features[q] = malloc((size_t)n * (size_t)r->width * sizeof **r->features)) &&
             fread(r->features[q], (size_t)r->width * sizeof **r->features, (size_t)n, f) == (size_t)n;
        r->data[q].n_tokens = n;
    }
    if (f) fclose(f);
    if (f && !ok) cli_note("%s is of other questions, another model or other options: made anew", r->o->cache);
    for (int q = 0; q < r->n && !ok; q++) {
        free(r->features[q]);
        r->features[q] = NULL;
    }
    return ok;
}

static int write_cache(const run *r) {
    const uint64_t head[4] = {CACHE_MAGIC, cache_key(r), (uint64_t)r->n, (uint64_t)r->width};
    cli_output out;
    FILE *f;
    if (!r->o->cache) return 0;
    if (!(f = cli_output_open(&out, r->o->cache))) return 1;
    fwrite(head, sizeof *head, 4, f);
    for (int q = 0; q < r->n; q++) {
        const int32_t n = r->data[q].n_tokens;
        fwrite(&n, sizeof n, 1, f);
        fwrite(r->features[q], (size_t)r->width * sizeof **r->features, (size_t)n, f);
    }
    return cli_output_close(&out, 1);
}

static int make_question(run *r, polar_features *features, int q) {
    const char *text = r->questions.items[q].text;
    const float *rows;
    int32_t *prompt = NULL;
    int n_prompt, n = 0, status = cli_prompt_tokens(r->model, &r->prompt.how, text, &prompt, &n_prompt);
    polar_error e;
    if (!status && polar_features_make(features, text, strlen(text), prompt, n_prompt, &rows, &n, &e))
        status = cli_fail("%s:%d: %s", r->file, r->questions.items[q].line, e.message);
    if (!status) {
        const size_t bytes = (size_t)n * (size_t)r->width * sizeof *rows;
        if (!(r->features[q] = malloc(bytes))) status = cli_fail("out of memory: features of %d questions", r->n);
        else memcpy(r->features[q], rows, bytes);
        r->data[q].n_tokens = n;
    }
    free(prompt);
    return status;
}

static int make_features(run *r) {
    polar_features_options f = {0};
    polar_features *features = NULL;
    polar_error e;
    int status = cli_feature(r->o->feature, &f.feature);
    if (status) return status;
    if ((f.feature == POLAR_FEATURE_ENCODER) != (r->o->encoder != NULL))
        return cli_usage("--encoder FILE goes with --features encoder");
    if (r->o->encoder && (status = cli_open_model(r->o->encoder, r->o->cpu, 0, &r->encoder))) return status;
    f.layer = r->o->layer ? r->o->layer : POLAR_OFF;
    f.max_tokens = r->o->max_tokens ? r->o->max_tokens : POLAR_OFF;
    f.encoder = r->encoder;
    f.session.n_threads = r->o->threads;
    f.session.n_ctx = r->n_prompt;
    if (polar_features_create(&features, r->model, &f, &e)) return cli_fail("%s", e.message);
    r->width = polar_features_width(features);
    if (!read_cache(r)) {
        for (int q = 0; q < r->n && !status; q++) {
            cli_progress("features: %d of %d questions", q, r->n);
            status = cli_interrupted() ? cli_fail("interrupted") : make_question(r, features, q);
        }
        cli_progress_end();
        if (!status) status = write_cache(r);
    }
    polar_features_free(features);
    return status;
}

/* Shuffles the questions, so that the last ones are a random sample. */
static void order_questions(run *r) {
    polar_train_question *data = r->data;
    uint64_t state = r->o->seed;
    for (int q = 0; q < r->n; q++) {
        data[q].features = r->features[q];
        data[q].paths = r->paths[q];
        data[q].n_paths = r->trials[q].n;
        r->order[q] = q;
    }
    for (int i = r->n - 1; i > 0; i--) {
        uint64_t z = (state += 0x9E3779B97F4A7C15u);
        int k, t;
        polar_train_question x;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        k = (int)((z ^ z >> 31) % (uint64_t)(i + 1));
        x = data[i], data[i] = data[k], data[k] = x;
        t = r->order[i], r->order[i] = r->order[k], r->order[k] = t;
    }
}

/* --- the published network -------------------------------------------------------------------------------- */

static int on_step(void *user, const polar_train_progress *p) {
    const run *r = user;
    const double share = p->n_steps ? (double)p->step / p->n_steps : 1, spent = cli_seconds() - r->started;
    cli_progress("programs: epoch %d of %d, %3.0f %%, loss %.4f, %.0f s left", p->epoch + 1, r->o->train.n_epochs,
                 100 * share, p->loss, share > 0 ? spent * (1 - share) / share : 0);
    return cli_interrupted();
}

static char *checkpoint_name(const run *r) {
    const char *name = r->o->checkpoint ? r->o->checkpoint : r->o->out, *end = r->o->checkpoint ? "" : ".checkpoint";
    char *s = malloc(strlen(name) + strlen(end) + 1);
    if (s) strcat(strcpy(s, name), end);
    else cli_fail("out of memory");
    return s;
}

static int file_exists(const char *name) {
    FILE *f = cli_fopen(name, "rb");
    if (f) fclose(f);
    return f != NULL;
}

/* Goes on from a checkpoint if there is one. */
static int resume(run *r, polar_trainer *t, const char *checkpoint) {
    polar_train_progress p;
    polar_error e;
    polar_status status;
    size_t size;
    char *state;
    if (r->o->restart || !file_exists(checkpoint)) return 0;
    if (!(state = cli_read_file(checkpoint, &size))) return 1;
    status = polar_trainer_load(t, state, size, &e);
    free(state);
    if (status) return cli_fail("%s is of an earlier run: %s; --restart begins anew", checkpoint, e.message);
    polar_trainer_get_progress(t, &p);
    cli_note("going on from %s: %d of %d steps are done", checkpoint, p.step, p.n_steps);
    return 0;
}

static int save_state(const polar_trainer *t, const char *checkpoint) {
    polar_error e;
    size_t size;
    void *state;
    int failed;
    if (polar_trainer_save(t, NULL, 0, &size, &e)) return cli_fail("%s", e.message);
    if (!(state = malloc(size))) return cli_fail("out of memory");
    failed = polar_trainer_save(t, state, size, &size, &e) ? cli_fail("%s", e.message)
                                                           : cli_write_file(checkpoint, state, size);
    free(state);
    return failed;
}

static int run_trainer(run *r, polar_trainer *t, const char *checkpoint) {
    polar_error e;
    polar_status status;
    int failed = resume(r, t, checkpoint);
    if (failed) return failed;
    r->started = cli_seconds();
    do { /* an epoch at a time */
        polar_train_progress p;
        polar_trainer_get_progress(t, &p);
        status = polar_trainer_run(t, (p.n_steps + r->o->train.n_epochs - 1) / r->o->train.n_epochs, &e);
        if ((!status || status == POLAR_CANCELLED) && save_state(t, checkpoint)) return 1;
    } while (!status && !polar_trainer_done(t));
    cli_progress_end();
    if (status == POLAR_CANCELLED) return cli_fail("interrupted; the same command goes on from %s", checkpoint);
    return status ? cli_fail("%s", e.message) : 0;
}

/* Has the published network a form for the path? */
static int has_form(const run *r, const polar_train_path *x) {
    polar_program p;
    return !polar_program_from_path(&p, r->info.n_layer, x->path, x->length, 4, 2, NULL);
}

/* A valid path that has no form as segments are executed 3 to 5 times becomes one with two executions; *out gets it
 * unless the question has that path already. 0 without memory. */
static int crop_path(run *r, const polar_train_path *paths, int n, const polar_train_path *x, polar_train_path *out) {
    polar_program p;
    int calls[POLAR_MAX_CALLS], length;
    const trial *kept;
    out->path = NULL;
    if (x->result != POLAR_RESULT_VALID || has_form(r, x) ||
        polar_program_from_path(&p, r->info.n_layer, x->path, x->length, 4, 5, NULL))
        return 1;
    for (int i = 0; i < p.n_segments; i++) {
        if (p.segments[i].damped) return 1;
        if (p.segments[i].times > 2) p.segments[i].times = 2;
    }
    length = polar_program_path(&p, calls, POLAR_MAX_CALLS);
    for (int i = 0; i < n; i++)
        if (paths[i].length == length && !memcmp(paths[i].path, calls, (size_t)length * sizeof *calls)) return 1;
    if (!(kept = trials_add(&r->cropped, calls, length, NULL, 0))) return 0;
    out->path = kept->path;
    out->length = length;
    out->result = POLAR_RESULT_VALID;
    return 1;
}

/* The paths of a question that the published network learns from: those that were tried, with --crop also those that
 * crop_path makes, with --shortest of the valid ones that have a form only those of least length. */
static int choose_labels(run *r, int i) {
    polar_train_question *x = &r->labels[i];
    polar_train_path *paths = r->label_paths[i] = malloc(((size_t)x->n_paths * 2 + 1) * sizeof *paths);
    int n = x->n_paths, n_kept = 0, least = POLAR_MAX_CALLS;
    if (!paths) return cli_fail("out of memory");
    if (n) memcpy(paths, x->paths, (size_t)n * sizeof *paths);
    for (int k = 0; k < x->n_paths && r->o->crop; k++) {
        if (!crop_path(r, paths, n, &x->paths[k], &paths[n])) return cli_fail("out of memory");
        n += paths[n].path != NULL;
    }
    for (int k = 0; k < n; k++)
        if (paths[k].result == POLAR_RESULT_VALID && paths[k].length < least && has_form(r, &paths[k]))
            least = paths[k].length;
    for (int k = 0; k < n; k++)
        if (!r->o->shortest || paths[k].result != POLAR_RESULT_VALID || paths[k].length == least)
            paths[n_kept++] = paths[k];
    x->paths = paths;
    x->n_paths = n_kept;
    return 0;
}

static int choose_all_labels(run *r) {
    int status = 0;
    if (!r->o->crop && !r->o->shortest) return 0;
    r->labels = malloc((size_t)r->n * sizeof *r->labels);
    r->label_paths = calloc((size_t)r->n, sizeof *r->label_paths);
    if (!r->labels || !r->label_paths) return cli_fail("out of memory");
    memcpy(r->labels, r->data, (size_t)r->n * sizeof *r->labels);
    for (int i = 0; i < r->n && !status; i++) status = choose_labels(r, i);
    return status;
}

static int train_paper(run *r) {
    polar_train_options *o = &r->o->train;
    polar_trainer *t = NULL;
    polar_error e;
    char *checkpoint = checkpoint_name(r);
    int status = !checkpoint || choose_all_labels(r);
    o->seed = r->o->seed;
    o->n_threads = r->o->threads;
    o->progress = on_step;
    o->progress_user = r;
    if (!status && polar_trainer_create(&t, r->info.n_layer, r->width, r->labels ? r->labels : r->data,
                                          r->n, o, &e))
        status = cli_fail("%s: %s", r->file, e.message);
    if (!status) status = run_trainer(r, t, checkpoint);
    if (!status) {
        polar_trainer_get_progress(t, &r->progress);
        if (!(r->curve = malloc((size_t)r->progress.epoch * sizeof *r->curve))) status = cli_fail("out of memory");
        else memcpy(r->curve, r->progress.curve, (size_t)r->progress.epoch * sizeof *r->curve);
        if (!status && polar_trainer_predictor(t, &r->predictor, &e)) status = cli_fail("%s", e.message);
    }
    polar_trainer_free(t);
    free(checkpoint);
    return status;
}

/* --- the menu --------------------------------------------------------------------------------------------- */

/* The programs that cover most of what the search found, for questions on which different ones were tried. */
static int cover_questions(run *r) {
    struct menu m;
    int status = menu_choose_for(&m, r->o->menu_size, r->data, &r->programs[0], r->n, 0);
    for (int i = 1; i < m.n && !status; i++)
        if (!polar_program_from_path(&r->programs[r->n_programs], r->info.n_layer, m.entries[i].path, m.entries[i].n,
                                     r->info.n_layer, POLAR_MAX_CALLS, NULL))
            r->n_programs++;
    menu_free(&m);
    return status;
}

/* The programs that the search ran on every question, or else those that cover most of what it found. */
static int choose_menu(run *r) {
    const json *list = json_get(header_of(r), "menu");
    polar_error e;
    r->programs[0] = cli_own_program(r->model);
    r->n_programs = 1;
    if (!list || list->type != JSON_ARRAY) return cover_questions(r);
    for (const json *v = list->child; v; v = v->next) {
        polar_program *p = &r->programs[r->n_programs];
        if (v->type != JSON_STRING || polar_program_parse(p, r->info.n_layer, v->text, &e))
            return cli_fail("%s: a program of the menu in its header cannot be read", r->file);
        if (polar_program_equal(p, &r->programs[0])) continue;
        if (++r->n_programs == r->o->menu_size || r->n_programs == POLAR_MAX_MENU) break;
    }
    return 0;
}

static int on_epoch(void *user, double done) {
    const run *r = user;
    const double spent = cli_seconds() - r->started;
    cli_progress("menu: %3.0f %%, %.0f s left", 100 * done, done > 0 ? spent * (1 - done) / done : 0);
    return cli_interrupted();
}

/* Which programs of the menu answer a question; 0 if that is not known of all of them. */
static int menu_is_known(const run *r, const polar_train_question *q, int *right) {
    int calls[POLAR_MAX_CALLS];
    for (int k = 0; k < r->n_programs; k++) {
        const int n = polar_program_calls(&r->programs[k], calls, POLAR_MAX_CALLS);
        polar_result_kind result = POLAR_RESULT_UNKNOWN;
        for (int i = 0; i < q->n_paths && result == POLAR_RESULT_UNKNOWN; i++)
            if (q->paths[i].length == n && !memcmp(q->paths[i].path, calls, (size_t)n * sizeof *calls))
                result = q->paths[i].result;
        if (result == POLAR_RESULT_UNKNOWN) return 0;
        right[k] = result == POLAR_RESULT_VALID;
    }
    return 1;
}

/* What the predictor's picks are worth on the questions that it was not trained on. */
static void judge_menu(run *r) {
    menu_worth *w = &r->worth_of;
    polar_predictor_info info;
    double n_right[POLAR_MAX_MENU] = {0}, best = -1e9;
    polar_predictor_get_info(r->predictor, &info);
    for (int i = r->n - r->n_held; i < r->n; i++) {
        const polar_train_question *q = &r->data[i];
        double probability[POLAR_MAX_MENU];
        int right[POLAR_MAX_MENU], order[POLAR_MAX_MENU], any = 0;
        if (!menu_is_known(r, q, right) ||
            polar_predictor_menu(r->predictor, q->features, q->n_tokens, probability, NULL))
            continue;
        polar_menu_rank(r->predictor, probability, 0, order);
        for (int k = 0; k < r->n_programs; k++) {
            n_right[k] += right[k];
            any |= right[k];
        }
        w->n++;
        w->oracle += any;
        w->identity += right[0];
        w->picked += right[*order];
        w->picked_cost += cli_cost(&r->programs[*order], &r->programs[0]);
    }
    if (!w->n) return;
    for (int k = 0; k < r->n_programs; k++) { /* the one program of most worth */
        const double accuracy = n_right[k] / w->n, cost = cli_cost(&r->programs[k], &r->programs[0]);
        if (!(accuracy - info.price * cost > best)) continue;
        best = accuracy - info.price * cost;
        w->fixed = accuracy;
        w->fixed_cost = cost;
    }
    w->oracle /= w->n;
    w->identity /= w->n;
    w->picked /= w->n;
    w->picked_cost /= w->n;
}

static int train_menu(run *r) {
    polar_menu_options *o = &r->o->menu;
    polar_predictor *both = NULL;
    polar_error e;
    polar_status failed;
    int status = choose_menu(r);
    if (status) return status;
    o->seed = r->o->seed;
    o->n_threads = r->o->threads;
    o->price = r->o->price;
    o->progress = on_epoch;
    o->progress_user = r;
    o->n_held = r->n_held;
    r->started = cli_seconds();
    failed = polar_menu_train(&both, r->predictor, r->info.n_layer, r->width, r->data, r->n, r->programs, r->n_programs,
                              o, &r->report, &e);
    cli_progress_end();
    if (failed == POLAR_CANCELLED) return cli_fail("interrupted");
    if (failed) return cli_fail("%s: %s", r->file, e.message);
    polar_predictor_close(r->predictor);
    r->predictor = both;
    judge_menu(r);
    return 0;
}

/* The first programs for a held-out question as runs of a cascade; 0 if the search did not run one of them. */
static int cascade_question(const run *r, int i, int k, polar_cascade_run *runs) {
    const trials *t = &r->trials[r->order[i]];
    double probability[POLAR_MAX_MENU];
    int order[POLAR_MAX_MENU], path[POLAR_MAX_CALLS];
    if (polar_predictor_menu(r->predictor, r->data[i].features, r->data[i].n_tokens, probability, NULL)) return 0;
    polar_menu_rank(r->predictor, probability, 0, order);
    for (int p = 0; p < k; p++) {
        const polar_program *program = polar_predictor_program(r->predictor, order[p]);
        const int n = polar_program_calls(program, path, POLAR_MAX_CALLS), at = trials_find(t, path, n);
        if (at < 0 || !t->items[at].answer) return 0;
        runs[p].correct = t->items[at].reward > 0;
        runs[p].cost = cli_cost(program, &r->programs[0]);
        runs[p].confidence =
            t->items[at].n_tokens > 0 ? t->items[at].logprob / t->items[at].n_tokens : POLAR_NO_CONFIDENCE;
    }
    return 1;
}

#define CASCADE_QUESTIONS 20 /* that a threshold is fitted on, at least */

static int fit_cascade(run *r) {
    const int k = r->n_in_cascade = r->o->cascade < r->n_programs ? r->o->cascade : r->n_programs;
    polar_cascade_run *runs;
    polar_predictor_info info;
    polar_error e;
    int status = 0;
    if (k < 2) return 0;
    if (!(runs = malloc((size_t)(r->n_held + 1) * (size_t)k * sizeof *runs))) return cli_fail("out of memory");
    for (int i = r->n - r->n_held; i < r->n; i++)
        r->n_cascade += cascade_question(r, i, k, runs + (size_t)r->n_cascade * (size_t)k);
    if (r->n_cascade >= CASCADE_QUESTIONS) {
        polar_predictor_get_info(r->predictor, &info);
        if (statistics_cascade(runs, r->n_cascade, k, POLAR_MENU_PRICE, &r->threshold, &r->worth, &e))
            status = cli_fail("%s", e.message);
        info.cascade_threshold = r->threshold;
        info.cascade_programs = k;
        if (!status && polar_predictor_set_info(r->predictor, &info, &e)) status = cli_fail("%s", e.message);
        for (int q = 0; q < r->n_cascade; q++) {
            const polar_cascade_run *x = runs + (size_t)q * (size_t)k;
            int n_run, chosen = polar_cascade(x, k, r->threshold, &n_run);
            r->cascade_picked += x[chosen].correct / (double)r->n_cascade;
            for (int p = 0; p < n_run; p++) r->cascade_cost += x[p].cost / r->n_cascade;
        }
    }
    free(runs);
    return status;
}

/* --- output ----------------------------------------------------------------------------------------------- */

static int set_info(run *r) {
    polar_predictor_info i;
    polar_model_info encoder;
    polar_error e;
    uint64_t *fingerprints;
    int status;
    polar_predictor_get_info(r->predictor, &i);
    cli_feature(r->o->feature, &i.feature);
    i.feature_layer = i.feature == POLAR_FEATURE_HIDDEN ? r->o->layer : 0;
    i.max_tokens = r->o->max_tokens;
    i.model_checksum = r->checksum;
    i.model_fingerprint = polar_model_fingerprint(r->model);
    i.model_name = r->info.name;
    i.encoder_name = NULL;
    if (r->encoder) {
        polar_model_get_info(r->encoder, &encoder);
        i.encoder_name = encoder.name;
    }
    i.prompt = r->prompt.how.text;
    i.system = r->prompt.how.system;
    i.chat = polar_chat_name(r->prompt.how.chat);
    if ((status = cli_fingerprints(&r->questions, &fingerprints, &i.n_questions))) return status;
    i.questions = fingerprints;
    if (polar_predictor_set_info(r->predictor, &i, &e)) status = cli_fail("%s", e.message);
    free(fingerprints);
    return status;
}

/* A bar of at most `width` cells. */
static void print_bar(double x, double most, int width) {
    for (int i = 0; i < width && most > 0 && i < (int)(x / most * width + 0.5); i++) putchar('#');
    putchar('\n');
}

static void print_curve(const run *r) {
    double most = 0;
    for (int i = 0; i < r->progress.epoch; i++)
        if (r->curve[i].loss > most) most = r->curve[i].loss;
    printf("programs        %d questions, %d held out; %d paths; %lu parameters\n", r->progress.n_questions,
           r->progress.n_validation, r->progress.n_examples, (unsigned long)r->progress.n_params);
    if (r->progress.n_skipped) printf("                %d steps were not finite and left out\n", r->progress.n_skipped);
    printf("  epoch    loss  held out  first ok  five ok  identity\n");
    for (int i = 0; i < r->progress.epoch; i++) {
        const polar_train_epoch *c = &r->curve[i];
        printf("  %4d%c  %6.4f    %6.4f   %5.1f %%  %5.1f %%   %5.1f %%  ", i + 1,
               i == r->progress.best_epoch ? '*' : ' ', c->loss, c->validation_loss, 100 * c->hit1, 100 * c->hit5,
               100 * c->identity);
        print_bar(c->loss, most, 20);
    }
}

/* Whether the file holds a threshold for cascades. */
static void print_cascade(const run *r) {
    if (r->n_cascade >= CASCADE_QUESTIONS)
        printf("cascade         threshold %.4f for %d programs, fitted on %d held-out questions: %.1f %%, cost %.3f\n",
               r->threshold, r->n_in_cascade, r->n_cascade, 100 * r->cascade_picked, r->cascade_cost);
    else if (r->n_in_cascade > 1)
        printf("cascade         no threshold: of %d held-out questions the answers of the first %d programs are known, "
               "%d are needed\n", r->n_cascade, r->n_in_cascade, CASCADE_QUESTIONS);
}

static void print_menu(const run *r) {
    const polar_menu_report *m = &r->report;
    const menu_worth *w = &r->worth_of;
    char text[4096];
    printf("menu            %d questions, %d held out; log loss %.4f, calibrated %.4f; epoch %d\n", m->n_questions,
           m->n_validation, m->loss, m->calibrated_loss, m->best_epoch + 1);
    for (int k = 0; k < r->n_programs; k++) {
        polar_program_format(&r->programs[k], text, sizeof text);
        printf("  %2d  cost %.3f  %s\n", k, cli_cost(&r->programs[k], &r->programs[0]), text);
    }
    print_cascade(r);
    if (!w->n) return;
    printf("on %d held-out questions with all results known, price %g:\n", w->n, CLI_VALUE(r->o->price));
    printf("  identity      %5.1f %%  cost 1.000\n", 100 * w->identity);
    printf("  best fixed    %5.1f %%  cost %.3f\n", 100 * w->fixed, w->fixed_cost);
    printf("  menu          %5.1f %%  cost %.3f\n", 100 * w->picked, w->picked_cost);
    printf("  oracle        %5.1f %%  knows the answers\n", 100 * w->oracle);
}

static void print_json(const run *r) {
    const polar_menu_report *m = &r->report;
    const menu_worth *w = &r->worth_of;
    printf("{\"out\":");
    json_put_text(stdout, r->o->out);
    if (r->paper) {
        printf(",\"programs\":{\"n_questions\":%d,\"n_validation\":%d,\"n_examples\":%d,\"n_skipped\":%d,"
               "\"best_epoch\":%d,\"curve\":[",
               r->progress.n_questions, r->progress.n_validation, r->progress.n_examples, r->progress.n_skipped,
               r->progress.best_epoch + 1);
        for (int i = 0; i < r->progress.epoch; i++) {
            printf("%s{\"epoch\":%d", i ? "," : "", i + 1);
            json_put_number(stdout, "loss", r->curve[i].loss);
            json_put_number(stdout, "lr", r->curve[i].lr);
            json_put_number(stdout, "validation_loss", r->curve[i].validation_loss);
            json_put_number(stdout, "hit1", r->curve[i].hit1);
            json_put_number(stdout, "hit5", r->curve[i].hit5);
            json_put_number(stdout, "identity", r->curve[i].identity);
            printf("}");
        }
        printf("]}");
    }
    if (r->menu_too) {
        printf(",\"menu\":{\"n_questions\":%d,\"n_validation\":%d,\"n_complete\":%d,\"n_programs\":%d", m->n_questions,
               m->n_validation, w->n, r->n_programs);
        json_put_number(stdout, "loss", m->loss);
        json_put_number(stdout, "calibrated_loss", m->calibrated_loss);
        json_put_number(stdout, "identity", w->identity);
        json_put_number(stdout, "fixed", w->fixed);
        json_put_number(stdout, "fixed_cost", w->fixed_cost);
        json_put_number(stdout, "picked", w->picked);
        json_put_number(stdout, "picked_cost", w->picked_cost);
        json_put_number(stdout, "oracle", w->oracle);
        if (r->n_cascade >= CASCADE_QUESTIONS) {
            json_put_number(stdout, "cascade", r->cascade_picked);
            json_put_number(stdout, "cascade_cost", r->cascade_cost);
            json_put_number(stdout, "cascade_threshold", r->threshold);
        }
        printf("}");
    }
    printf("}\n");
}

/* --- the command ------------------------------------------------------------------------------------------ */

static int train(run *r) {
    char *checkpoint;
    int status = cli_open_model(r->o->model, r->o->cpu, 0, &r->model);
    if (status) return status;
    polar_model_get_info(r->model, &r->info);
    r->checksum = polar_model_checksum(r->model);
    if ((status = read_header(r)) || (status = open_prompt(r)) ||
        (status = cli_questions_read_joined(&r->questions, r->file, 0, r->o->limit, r->o->texts)) ||
        (status = cli_prompt_room(&r->prompt, &r->questions, r->file, 0, r->o->skip_long, &r->n_prompt)))
        return status;
    r->n = r->questions.n;
    r->n_held = (int)(CLI_VALUE(r->o->menu.validation) * r->n + 0.5);
    if ((status = read_paths(r)) || (status = make_features(r))) return status;
    order_questions(r);
    if ((r->paper && (status = train_paper(r))) ||
        (r->menu_too && ((status = train_menu(r)) || (status = fit_cascade(r)))) || (status = set_info(r)))
        return status;
    if (cli_save_predictor(r->predictor, r->o->out)) return 1;
    if (r->paper && (checkpoint = checkpoint_name(r))) {
        cli_remove_file(checkpoint);
        free(checkpoint);
    }
    if (r->o->json) {
        print_json(r);
        return 0;
    }
    if (r->paper) print_curve(r);
    if (r->menu_too) print_menu(r);
    printf("%s\n", r->o->out);
    return 0;
}

static void free_run(run *r) {
    for (int q = 0; q < r->n; q++) {
        if (r->trials) trials_free(&r->trials[q]);
        if (r->paths) free(r->paths[q]);
        if (r->features) free(r->features[q]);
    }
    free(r->trials);
    free(r->paths);
    free(r->features);
    for (int q = 0; r->label_paths && q < r->n; q++) free(r->label_paths[q]);
    free(r->label_paths);
    free(r->labels);
    trials_free(&r->cropped);
    free(r->data);
    free(r->order);
    free(r->curve);
    polar_predictor_close(r->predictor);
    cli_questions_free(&r->questions);
    cli_prompt_close(&r->prompt);
    json_free(r->header);
    polar_model_close(r->model);
    polar_model_close(r->encoder);
}

static int read_words(train_options *o, run *r) {
    static const char *const heads[] = {"both", "programs", "menu", NULL},
                             *const schedules[] = {"cosine", "linear", "constant", NULL},
                             *const identities[] = {"plain", "reweight", "drop", NULL},
                             *const selects[] = {"loss", "hit1", "hit5", "corrected", NULL},
                             *const poolings[] = {"attention", "sum", "last", "all", NULL};
    const int head = cli_word("--heads", o->heads, heads), schedule = cli_word("--schedule", o->schedule, schedules),
              identity = cli_word("--identity", o->identity, identities),
              select = cli_word("--select", o->select, selects), pooling = cli_word("--pooling", o->pooling, poolings);
    if (head < 0 || schedule < 0 || identity < 0 || select < 0 || pooling < 0) return 2;
    r->paper = head != 2;
    r->menu_too = head != 1;
    o->train.schedule = (polar_schedule)schedule;
    o->train.identity = (polar_identity)identity;
    o->train.select = (polar_select)select;
    o->menu.pooling = pooling ? pooling : POLAR_OFF; /* the words are in the order of the flags' sums */
    if (!(o->menu.validation < 1))
        return cli_usage("--menu-validation: expected 0 to below 1");
    if (o->menu_size < 2 || o->menu_size > POLAR_MAX_MENU)
        return cli_usage("--menu-size %d: expected 2..%d", o->menu_size, POLAR_MAX_MENU);
    return 0;
}

int command_train(cli *c) {
    train_options o;
    run r;
    int status;
    polar_train_options *t = &o.train;
    polar_menu_options *m = &o.menu;
    const cli_option options[] = {
        {"model", 'm', CLI_FILE, &o.model, "FILE", "the model that was searched"},
        CLI_UNKNOWN_OPTION,
        {"out", 'o', CLI_PREDICTOR, &o.out, "FILE", "the predictor"},
        {"heads", 0, CLI_TEXT, &o.heads, "WHICH", "programs (the published network), menu, or both (both)"},
        {"features", 0, CLI_TEXT, &o.feature, "KIND", "embedding, hidden or encoder (hidden)"},
        {"layer", 0, CLI_INT, &o.layer, "N", "hidden: layers executed before (2)"},
        {"encoder", 0, CLI_FILE, &o.encoder, "FILE", "encoder: its model"},
        {"max-tokens", 0, CLI_INT, &o.max_tokens, "N", "tokens of a question that are read (512)"},
        CLI_PROMPT_OPTIONS(o.prompt),
        CLI_TEXTS_OPTION(o.texts),
        {"limit", 0, CLI_INT, &o.limit, "N", "only the first N questions (all)"},
        CLI_SKIP_LONG_OPTION(o.skip_long),
        {"cache", 0, CLI_FEATURES, &o.cache, "FILE", "keep the features here for later runs"},
        {"checkpoint", 0, CLI_CHECKPOINT, &o.checkpoint, "FILE",
         "state of the training, to go on from (OUT.checkpoint)"},
        {"restart", 0, CLI_FLAG, &o.restart, NULL, "do not go on from a checkpoint"},
        {"seed", 's', CLI_U64, &o.seed, "N", "of everything random (0)"},
        CLI_THREADS_OPTION(o.threads),
        CLI_CPU_OPTION(o.cpu),
        {"json", 0, CLI_FLAG, &o.json, NULL, "print one JSON object, with the loss curve"},
        {"epochs", 0, CLI_INT_OFF, &t->n_epochs, "N", "programs: epochs (10)"},
        {"batch", 0, CLI_INT_OFF, &t->batch, "N", "programs: paths per step (128)"},
        {"group", 0, CLI_INT_OFF, &t->group, "N", "programs: paths of a question that share a pass (8)"},
        {"lr", 0, CLI_NUMBER_OFF, &t->lr, "X", "programs: learning rate (5e-4)"},
        {"schedule", 0, CLI_TEXT, &o.schedule, "KIND", "programs: cosine, linear or constant (cosine)"},
        {"warmup", 0, CLI_INT_OFF, &t->warmup, "N", "programs: steps of warm-up (10)"},
        {"weight-decay", 0, CLI_NUMBER, &t->weight_decay, "X", "programs: (0)"},
        {"clip", 0, CLI_NUMBER, &t->clip, "X", "programs: bound of the gradient's norm (0: none)"},
        {"width", 0, CLI_INT_OFF, &t->d_model, "N", "programs: width of the network (256)"},
        {"blocks", 0, CLI_INT_OFF, &t->n_block, "N", "programs: encoder blocks (2)"},
        {"attention-heads", 0, CLI_INT_OFF, &t->n_head, "N", "programs: attention heads (4)"},
        {"dropout", 0, CLI_NUMBER_OFF, &t->dropout, "P", "programs: (0.1)"},
        {"max-paths", 0, CLI_INT_OFF, &t->max_paths, "N", "programs: valid paths of a question, 0 all (50)"},
        {"identity", 0, CLI_TEXT, &o.identity, "HOW",
         "programs: plain, reweight or drop where a shorter one is valid (plain)"},
        {"identity-weight", 0, CLI_NUMBER_OFF, &t->identity_weight, "X", "programs: for reweight (0.3)"},
        {"length-preference", 0, CLI_NUMBER, &t->length_preference, "X",
         "programs: weights exp(-X length) (0; published 0.05)"},
        {"anti-identity", 0, CLI_NUMBER, &t->anti_identity, "X",
         "programs: penalty of keeping all where that is wrong (0)"},
        {"crop", 0, CLI_FLAG, &o.crop, NULL,
         "programs: learn two executions where a valid path has 3 to 5, which were dropped; hits count them as valid"},
        {"shortest", 0, CLI_FLAG, &o.shortest, NULL,
         "programs: learn the shortest valid paths only; hits count only them as valid"},
        {"focal", 0, CLI_NUMBER, &t->focal, "X", "programs: focal loss, terms times (1 - P(label))^X (0)"},
        {"per-question", 0, CLI_FLAG, &t->per_question, NULL, "programs: weights of a question add up to 1"},
        {"validation", 0, CLI_NUMBER_OFF, &t->validation, "X", "programs: share of the questions held out (0.1)"},
        {"select", 0, CLI_TEXT, &o.select, "HOW",
         "programs: best epoch by loss, hit1, hit5, or corrected, hit1 where the identity is wrong (loss)"},
        {"menu-size", 0, CLI_INT, &o.menu_size, "N", "menu: at most so many programs (16)"},
        {"price", 0, CLI_NUMBER_OFF, &o.price, "X", "menu: of one pass through all layers, in probability (0.05)"},
        {"menu-epochs", 0, CLI_INT_OFF, &m->n_epochs, "N", "menu: epochs (40)"},
        {"menu-width", 0, CLI_INT_OFF, &m->width, "N", "menu: width of the network (64)"},
        {"menu-lr", 0, CLI_NUMBER_OFF, &m->lr, "X", "menu: learning rate (1e-3)"},
        {"menu-dropout", 0, CLI_NUMBER_OFF, &m->dropout, "P", "menu: (0.1)"},
        {"menu-weight-decay", 0, CLI_NUMBER_OFF, &m->weight_decay, "X", "menu: (0.01)"},
        {"menu-validation", 0, CLI_NUMBER_OFF, &m->validation, "X", "menu: share of the questions held out (0.2)"},
        {"pooling", 0, CLI_TEXT, &o.pooling, "HOW",
         "menu: attention alone; also the sum, the last token, or all (all)"},
        {"policy", 0, CLI_NUMBER_OFF, &m->policy, "X", "menu: weight in the loss of what a pick is worth (1)"},
        {"cascade", 0, CLI_INT, &o.cascade, "N", "menu: programs of the cascade whose threshold is fitted (5)"},
        {0}};
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.heads = "both", o.feature = "hidden", o.cpu = "auto";
    o.schedule = "cosine", o.identity = "plain", o.select = "loss", o.pooling = "all";
    o.layer = 2, o.max_tokens = 512, o.menu_size = 16, o.cascade = 5;
    o.price = POLAR_MENU_PRICE;
    o.train.n_epochs = 10, o.menu.validation = 0.2;
    if ((status = cli_read(c, options, 1, 1)) >= 0) return status;
    if (!o.out) return cli_usage("no place for the predictor: -o FILE");
    if ((status = read_words(&o, &r))) return status;
    r.o = &o;
    r.file = c->args[0];
    if (!strcmp(r.file, "-")) return cli_usage("the results of a search are read twice: a file is needed, not stdin");
    if (r.paper && !o.checkpoint) { /* OUT.checkpoint, which no option names */
        char *checkpoint = checkpoint_name(&r);
        status = checkpoint ? cli_check_output(c, options, CLI_CHECKPOINT, checkpoint) : 1;
        free(checkpoint);
        if (status) return status;
    }
    cli_catch_interrupts();
    status = train(&r);
    free_run(&r);
    return status;
}
