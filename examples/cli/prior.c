/* What a search taught about other questions.
 *
 * An edit is useful on a question that the identity answers wrong if a program with it is right, and on one that it
 * answers right if such a program is right and has fewer calls. Questions of the two kinds need other edits, and the
 * identity, which runs first, says of which kind a question is: all that follows is made for each kind by itself.
 *
 * The rate of an edit is the share of useful programs among those of the file that hold it, drawn towards the rate of
 * its kind of edit - so many layers, so often, wherever they start - as if that had been seen on SMOOTHING more
 * programs, and that in the same way towards the rate of all. The prior is the rate, the largest one scaled to 1. All
 * of it are counts, so that the order of questions, parts and threads do not matter.
 *
 * The programs to try first are chosen as those of a menu are: each one adds most to the expected number of questions
 * with a useful program. */
#include "prior.h"

enum { SMOOTHING = 4 };

void prior_begin(prior *p, int n_layer, const polar_search_options *search) {
    memset(p, 0, sizeof *p);
    p->n_layer = n_layer;
    p->max_length = search->max_length < n_layer ? search->max_length : n_layer;
    p->max_times = search->max_times;
    p->max_damped = search->max_damped;
    p->n_kinds = search->max_times + (search->max_damped ? search->max_damped - 1 : 0);
    p->checksum = CLI_HASH;
}

static void free_questions(prior *p) {
    for (int i = 0; p->questions && i < p->n; i++) {
        free(p->questions[i].paths);
        free(p->questions[i].calls);
    }
    free(p->questions);
    p->questions = NULL;
}

void prior_free(prior *p) {
    free_questions(p);
    for (int i = 0; i < 2; i++) {
        free(p->weights[i]);
        menu_free(&p->first[i]);
    }
    memset(p, 0, sizeof *p);
}

/* --- edits ------------------------------------------------------------------------------------------------ */

/* Number of an edit: start, length and times, where skips come first, then repeats, then damped passes, in mixed radix;
 * -1 if the search does not make it. */
static int prior_index(const prior *p, const polar_segment *e) {
    const int kind = e->damped ? p->max_times + e->times - 2 : e->times ? e->times - 1 : 0;
    if (e->length > p->max_length || e->times == 1 || e->times > (e->damped ? p->max_damped : p->max_times)) return -1;
    return (e->start * p->max_length + e->length - 1) * p->n_kinds + kind;
}

double prior_weight(void *user, const polar_segment *edit) {
    const prior *p = user;
    return p->weights[p->is_right][prior_index(p, edit)];
}

/* Programs and useful ones. */
typedef struct count {
    double n, useful;
} count;

static void count_one(count *c, int is_useful) {
    c->n++;
    c->useful += is_useful;
}

/* The rate, drawn towards `mean`. */
static double rate(const count *c, double mean) {
    return (c->useful + SMOOTHING * mean) / (c->n + SMOOTHING);
}

/* Counts the edits of one kind of questions: `edits` by prior_index, `kinds` wherever they start, `all`. */
static void count_edits(const prior *p, int is_right, count *edits, count *kinds, count *all) {
    const int per_start = p->max_length * p->n_kinds;
    for (int q = 0; q < p->n; q++) {
        const prior_question *x = &p->questions[q];
        for (int i = 0; i < x->n_paths && x->is_right == is_right; i++) {
            const polar_train_path *path = &x->paths[i];
            const int useful = path->result == POLAR_RESULT_VALID;
            polar_program program;
            if (polar_program_from_path(&program, p->n_layer, path->path, path->length, p->max_length,
                                        p->max_times > p->max_damped ? p->max_times : p->max_damped, NULL))
                continue;
            for (int k = 0; k < program.n_segments; k++) {
                const int index = prior_index(p, &program.segments[k]);
                if (index < 0) continue;
                count_one(&edits[index], useful);
                count_one(&kinds[index % per_start], useful);
                count_one(all, useful);
            }
        }
    }
}

static int make_weights(prior *p, int is_right) {
    const int per_start = p->max_length * p->n_kinds, n = p->n_layer * per_start;
    count *edits = calloc((size_t)n, sizeof *edits), *kinds = calloc((size_t)per_start, sizeof *kinds), all = {0, 0};
    double *w = p->weights[is_right] = malloc((size_t)n * sizeof *w), largest = 0;
    const int failed = !edits || !kinds || !w;
    if (!failed) count_edits(p, is_right, edits, kinds, &all);
    for (int i = 0; i < n && !failed; i++) {
        w[i] = rate(&edits[i], rate(&kinds[i % per_start], rate(&all, 0.5)));
        if (w[i] > largest) largest = w[i];
    }
    for (int i = 0; i < n && !failed; i++) w[i] /= largest;
    free(edits);
    free(kinds);
    return failed ? cli_fail("out of memory") : 0;
}

/* --- programs to try first -------------------------------------------------------------------------------- */

static int choose_first(prior *p, int is_right, int n_first) {
    polar_train_question *list = calloc((size_t)p->n, sizeof *list);
    const polar_program identity = polar_program_identity(p->n_layer);
    int n = 0, status = 0;
    if (!list) return cli_fail("out of memory");
    for (int q = 0; q < p->n; q++) {
        if (p->questions[q].is_right != is_right) continue;
        list[n].n_paths = p->questions[q].n_paths;
        list[n++].paths = p->questions[q].paths;
    }
    if (n) status = menu_choose_for(&p->first[is_right], n_first + 1, list, &identity, n, 1);
    free(list);
    return status;
}

/* --- what is known of questions --------------------------------------------------------------------------- */

/* Adds a question with room for paths and their calls. */
static prior_question *add_question(prior *p, int n_paths, size_t n_calls) {
    prior_question *q = p->questions;
    if (p->n == p->capacity) {
        const int capacity = p->capacity ? 2 * p->capacity : 64;
        if (!(q = realloc(q, (size_t)capacity * sizeof *q))) return NULL;
        p->questions = q;
        p->capacity = capacity;
    }
    q = &p->questions[p->n];
    memset(q, 0, sizeof *q);
    p->n++;
    q->paths = calloc((size_t)n_paths + 1, sizeof *q->paths);
    q->calls = calloc(n_calls + 1, sizeof *q->calls);
    return q->paths && q->calls ? q : NULL;
}

int prior_add(prior *p, const trials *t) {
    prior_question *q;
    int identity[POLAR_MAX_LAYER], at, *calls;
    size_t n_calls = 0;
    for (int i = 0; i < p->n_layer; i++) identity[i] = i;
    if ((at = trials_find(t, identity, p->n_layer)) < 0) return 0; /* it says nothing about what is useful */
    for (int i = 0; i < t->n; i++) n_calls += (size_t)t->items[i].n;
    if (!(q = add_question(p, t->n, n_calls))) return cli_fail("out of memory");
    calls = q->calls;
    q->is_right = t->items[at].reward > 0;
    for (int i = 0; i < t->n; i++) {
        const trial *x = &t->items[i];
        polar_train_path *path = &q->paths[q->n_paths];
        memcpy(calls, x->path, (size_t)x->n * sizeof *calls);
        path->path = calls;
        path->length = x->n;
        path->result = x->reward > 0 && (!q->is_right || x->n < p->n_layer) ? POLAR_RESULT_VALID : POLAR_RESULT_INVALID;
        calls += x->n;
        q->n_paths++;
    }
    return 0;
}

/* The file is of this model, as its header says. */
static int check_model(const cli_objects *samples, const polar_model *model) {
    const char *error = "";
    size_t at;
    json_document *d;
    int status;
    if (!samples->header.text)
        return cli_fail("%s has no header of polar search, which would say what model its results are of",
                        samples->name);
    if (!(d = json_read(samples->header.text, samples->header.length, &error, &at)))
        return cli_fail("%s: the header cannot be read: %s", samples->name, error);
    status = cli_check_model(samples->name, json_root(d), model);
    json_free(d);
    return status;
}

int prior_read(prior *p, const char *file, const polar_model *model) {
    cli_objects samples;
    trials t = {.n_layer = p->n_layer};
    const json *sample;
    int status;
    if (!cli_objects_open(&samples, file)) return 1;
    status = check_model(&samples, model);
    while (!status && (sample = cli_objects_next(&samples))) {
        p->checksum = cli_hash(p->checksum, samples.object.text, samples.object.length);
        if (!trials_read(&t, sample)) status = cli_fail("%s:%d: a path is no list of layers", file, samples.line);
        else status = prior_add(p, &t);
    }
    status |= samples.failed;
    if (!status && !p->n)
        status = cli_fail("%s: no question has a result of the identity, so that nothing is taught", file);
    trials_free(&t);
    cli_objects_close(&samples);
    return status;
}

int prior_finish(prior *p, int n_first) {
    int status = 0;
    for (int i = 0; i < 2 && !status; i++) {
        status = make_weights(p, i);
        if (!status && n_first) status = choose_first(p, i, n_first);
    }
    free_questions(p);
    return status;
}
