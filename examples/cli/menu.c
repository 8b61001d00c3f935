/* Choosing a menu from what a search tried.
 *
 * A search tries a program on some questions only, so that counting what it is known to answer would favour those
 * that were tried often. Here a result that is not known counts with its probability, as far as the program's and the
 * question's other results tell it, and programs are added greedily: next is the one that most raises the expected
 * number of questions with a right answer on the menu. Programs of any length, of at most the identity's, of at most
 * three quarters and of at most half of it take turns, each against those chosen under its own limit: a menu is to
 * offer something at every price. */
#include "menu.h"
#include "samples.h"

#include <limits.h>

#define N_LIMITS   4
#define CANDIDATES 400 /* per limit that are looked at */

typedef struct result {
    int question, next; /* next result of the same program, -1 after the last */
    int valid;
} result;

typedef struct program {
    int *path, n;
    int first, n_tried, n_valid;
} program;

typedef struct chooser {
    int n_layer, n_own, own[POLAR_MAX_CALLS]; /* the model's own program */
    int n_questions, n_programs, n_results, table_size;
    int n_limits; /* N_LIMITS, or 1: programs of any length only */
    int capacity_programs, capacity_results;
    program *programs;
    result *results;
    int *table;             /* hash table of program + 1 */
    double *odds;           /* of a question's results, against the mean */
    double *miss[N_LIMITS]; /* probability that nothing chosen within the limit answers the question */
    double *known;          /* scratch: 1 right, 0 wrong, -1 unknown */
    double mean;
} chooser;

/* --- collecting ------------------------------------------------------------------------------------------- */

static uint64_t hash_path(const int *path, int n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < n; i++) h = (h ^ (uint64_t)path[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

static int *find_slot(const chooser *c, const int *path, int n) {
    size_t mask = (size_t)c->table_size - 1, i = (size_t)hash_path(path, n) & mask;
    for (; c->table[i]; i = (i + 1) & mask) {
        const program *p = &c->programs[c->table[i] - 1];
        if (p->n == n && !memcmp(p->path, path, (size_t)n * sizeof *path)) break;
    }
    return &c->table[i];
}

/* Room for one more element; 0 without memory. */
static int grow(void **items, int n, int *capacity, size_t size) {
    void *p;
    if (n < *capacity) return 1;
    if (*capacity > INT_MAX / 4 || !(p = realloc(*items, (size_t)(*capacity ? 2 * *capacity : 1024) * size))) return 0;
    *items = p;
    *capacity = *capacity ? 2 * *capacity : 1024;
    return 1;
}

static int grow_table(chooser *c) {
    if (2 * c->n_programs < c->table_size) return 1;
    free(c->table);
    c->table_size = c->table_size ? 2 * c->table_size : 4096;
    if (!(c->table = calloc((size_t)c->table_size, sizeof *c->table))) return 0;
    for (int i = 0; i < c->n_programs; i++) *find_slot(c, c->programs[i].path, c->programs[i].n) = i + 1;
    return 1;
}

static int add_result(chooser *c, const int *path, int n, int valid, int question) {
    void *programs = c->programs, *results = c->results;
    int *slot, ok = grow_table(c) && grow(&programs, c->n_programs, &c->capacity_programs, sizeof *c->programs) &&
                    grow(&results, c->n_results, &c->capacity_results, sizeof *c->results);
    program *p;
    c->programs = programs;
    c->results = results;
    if (!ok) return 0;
    slot = find_slot(c, path, n);
    if (!*slot) {
        p = &c->programs[c->n_programs];
        memset(p, 0, sizeof *p);
        if (!(p->path = malloc(((size_t)n + 1) * sizeof *p->path))) return 0;
        memcpy(p->path, path, (size_t)n * sizeof *p->path);
        p->n = n;
        p->first = -1;
        *slot = ++c->n_programs;
    }
    p = &c->programs[*slot - 1];
    c->results[c->n_results].question = question;
    c->results[c->n_results].valid = valid;
    c->results[c->n_results].next = p->first;
    p->first = c->n_results++;
    p->n_tried++;
    p->n_valid += valid;
    return 1;
}

/* The results of the questions that are used, also those of their numbers tried and valid. */
static int collect(chooser *c, const char *file, const cli_questions *questions) {
    cli_objects samples;
    trials t = {.n_layer = c->n_layer};
    const json *sample;
    double tried = 4, valid = 2; /* as if of four results half were right: keeps shares off 0 and 1 */
    int status = 0;
    if (!cli_objects_open(&samples, file)) return 1;
    for (int q = 0, at = 0; q < c->n_questions && !status && (sample = cli_objects_next(&samples)); at++) {
        int right = 0;
        if (at < questions->items[q].place) continue; /* its question was left out */
        if (!trials_read(&t, sample)) status = cli_fail("%s:%d: a path is no list of layers", file, samples.line);
        for (int i = 0; i < t.n && !status; i++) {
            if (!add_result(c, t.items[i].path, t.items[i].n, t.items[i].reward > 0, q)) status = cli_fail("out of memory");
            right += t.items[i].reward > 0;
        }
        c->odds[q++] = (right + 1.0) / (t.n - right + 1.0);
        tried += t.n;
        valid += right;
    }
    status |= samples.failed;
    c->mean = valid / tried;
    trials_free(&t);
    cli_objects_close(&samples);
    return status;
}

/* --- choosing --------------------------------------------------------------------------------------------- */

/* Share of right results, drawn towards the mean as if there were four more. */
static double share(const chooser *c, const program *p) {
    return (p->n_valid + 4 * c->mean) / (p->n_tried + 4);
}

/* P(program answers the question): what is known, else by the odds of both. */
static double chance(const chooser *c, double share_of_program, int question) {
    double odds = share_of_program / (1 - share_of_program) * c->odds[question] * (1 - c->mean) / c->mean;
    return c->known[question] >= 0 ? c->known[question] : odds / (1 + odds);
}

static void mark_known(chooser *c, const program *p, int on) {
    for (int i = p->first; i >= 0; i = c->results[i].next)
        c->known[c->results[i].question] = on ? c->results[i].valid : -1;
}

/* Expected number of questions that a program adds to those answered within a limit. */
static double gain(chooser *c, const program *p, int limit) {
    double sum = 0, s = share(c, p);
    mark_known(c, p, 1);
    for (int q = 0; q < c->n_questions; q++) sum += chance(c, s, q) * c->miss[limit][q];
    mark_known(c, p, 0);
    return sum;
}

static int fits(const chooser *c, const program *p, int limit) {
    const int quarters[N_LIMITS] = {INT_MAX / POLAR_MAX_CALLS, 4, 3, 2};
    return 4 * p->n <= c->n_own * quarters[limit];
}

static int is_chosen(const menu *m, const program *p) {
    for (int i = 0; i < m->n; i++)
        if (m->entries[i].n == p->n && !memcmp(m->entries[i].path, p->path, (size_t)p->n * sizeof *p->path)) return 1;
    return 0;
}

/* A program with segments, as a predictor can name it. */
static int has_form(const chooser *c, const program *p) {
    polar_program parsed;
    return p->n > 0 && !polar_program_from_path(&parsed, c->n_layer, p->path, p->n, c->n_layer, 64, NULL);
}

static int choose(chooser *c, menu *m, const program *p) {
    menu_entry *e = &m->entries[m->n];
    double s = share(c, p);
    if (!(e->path = malloc(((size_t)p->n + 1) * sizeof *e->path))) return cli_fail("out of memory");
    memcpy(e->path, p->path, (size_t)p->n * sizeof *e->path);
    e->n = p->n;
    m->n++;
    mark_known(c, p, 1);
    for (int limit = 0; limit < c->n_limits; limit++)
        for (int q = 0; q < c->n_questions && fits(c, p, limit); q++) c->miss[limit][q] *= 1 - chance(c, s, q);
    mark_known(c, p, 0);
    return 0;
}

typedef struct ranked {
    double share;
    int program;
} ranked;

static int by_share(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->share != y->share) return x->share < y->share ? 1 : -1;
    return x->program - y->program;
}

/* The best programs within a limit by their own results; their number. */
static int rank(const chooser *c, int limit, ranked *list) {
    int n = 0;
    for (int i = 0; i < c->n_programs; i++) {
        if (!fits(c, &c->programs[i], limit) || !has_form(c, &c->programs[i])) continue;
        list[n].share = share(c, &c->programs[i]);
        list[n++].program = i;
    }
    qsort(list, (size_t)n, sizeof *list, by_share);
    return n < CANDIDATES ? n : CANDIDATES;
}

static int choose_all(chooser *c, menu *m, int size, ranked *const lists[N_LIMITS], const int n[N_LIMITS]) {
    int none = 0, status = 0;
    for (int limit = 0; m->n < size && none < c->n_limits && !status; limit = (limit + 1) % c->n_limits) {
        const program *best = NULL;
        double most = 0;
        for (int i = 0; i < n[limit]; i++) {
            const program *p = &c->programs[lists[limit][i].program];
            double g = is_chosen(m, p) ? 0 : gain(c, p, limit);
            if (g <= most) continue;
            most = g;
            best = p;
        }
        none = best ? 0 : none + 1;
        if (best) status = choose(c, m, best);
        cli_progress("choosing the menu: %d of %d", m->n, size);
    }
    cli_progress_end();
    return status;
}

static int choose_from(chooser *c, menu *m, int size) {
    ranked *lists[N_LIMITS] = {NULL};
    int n[N_LIMITS], status = 0;
    program identity = {c->own, c->n_own, -1, 0, 0}, *known;
    known = *find_slot(c, c->own, c->n_own) ? &c->programs[*find_slot(c, c->own, c->n_own) - 1] : &identity;
    status = choose(c, m, known);
    for (int i = 0; i < c->n_limits && !status; i++) {
        if (!(lists[i] = malloc(((size_t)c->n_programs + 1) * sizeof *lists[i]))) status = cli_fail("out of memory");
        else n[i] = rank(c, i, lists[i]);
    }
    if (!status) status = choose_all(c, m, size, lists, n);
    for (int i = 0; i < N_LIMITS; i++) free(lists[i]);
    return status;
}

static void free_chooser(chooser *c) {
    for (int i = 0; i < c->n_programs; i++) free(c->programs[i].path);
    for (int i = 0; i < N_LIMITS; i++) free(c->miss[i]);
    free(c->programs);
    free(c->results);
    free(c->table);
    free(c->odds);
    free(c->known);
}

/* The same from what training reads. */
static int collect_paths(chooser *c, const polar_train_question *questions) {
    double tried = 4, valid = 2;
    for (int q = 0; q < c->n_questions; q++) {
        int right = 0, n = 0;
        for (int i = 0; i < questions[q].n_paths; i++) {
            const polar_train_path *p = &questions[q].paths[i];
            const int is_right = p->result == POLAR_RESULT_VALID;
            if (p->result == POLAR_RESULT_UNKNOWN) continue;
            if (!add_result(c, p->path, p->length, is_right, q)) return cli_fail("out of memory");
            right += is_right;
            n++;
        }
        c->odds[q] = (right + 1.0) / (n - right + 1.0);
        tried += n;
        valid += right;
    }
    c->mean = valid / tried;
    return 0;
}

/* From a file with its questions, or from the paths of n_questions. */
static int choose_menu(menu *m, int size, const polar_program *own, const char *file, const cli_questions *questions,
                       const polar_train_question *paths, int n_questions, int n_limits) {
    chooser c;
    const size_t bytes = (size_t)n_questions * sizeof(double);
    int status;
    memset(&c, 0, sizeof c);
    memset(m, 0, sizeof *m);
    m->n_layer = c.n_layer = own->n_layer;
    c.n_own = polar_program_calls(own, c.own, POLAR_MAX_CALLS);
    c.n_questions = n_questions;
    c.n_limits = n_limits;
    status = !(c.odds = malloc(bytes)) || !(c.known = malloc(bytes)) || !grow_table(&c);
    for (int i = 0; i < N_LIMITS; i++) status |= !(c.miss[i] = malloc(bytes));
    if (status) cli_fail("out of memory");
    for (int q = 0; q < n_questions && !status; q++) {
        c.known[q] = -1;
        for (int i = 0; i < N_LIMITS; i++) c.miss[i][q] = 1;
    }
    if (!status) status = file ? collect(&c, file, questions) : collect_paths(&c, paths);
    if (!status) status = choose_from(&c, m, size);
    free_chooser(&c);
    return status;
}

int menu_choose(menu *m, int size, const char *file, const polar_program *own, const cli_questions *questions) {
    return choose_menu(m, size, own, file, questions, NULL, questions->n, N_LIMITS);
}

int menu_choose_for(menu *m, int size, const polar_train_question *questions, const polar_program *own,
                    int n_questions, int any_length) {
    return choose_menu(m, size, own, NULL, NULL, questions, n_questions, any_length ? 1 : N_LIMITS);
}

int menu_add(menu *m, const char *text) {
    polar_program p;
    polar_error e;
    menu_entry *entry = &m->entries[m->n];
    int path[POLAR_MAX_CALLS], n;
    if (!strcmp(text, "identity")) return 0; /* the first */
    if (polar_program_parse(&p, m->n_layer, text, &e) || polar_program_validate(&p, m->n_layer, &e))
        return cli_usage("--also \"%s\": %s", text, e.message);
    n = polar_program_calls(&p, path, POLAR_MAX_CALLS);
    for (int i = 0; i < m->n; i++)
        if (m->entries[i].n == n && !memcmp(m->entries[i].path, path, (size_t)n * sizeof *path)) return 0;
    if (m->n == MENU_MAX) return cli_usage("--also \"%s\": a menu has at most %d programs", text, MENU_MAX);
    if (!(entry->path = malloc((size_t)n * sizeof *entry->path))) return cli_fail("out of memory");
    memcpy(entry->path, path, (size_t)n * sizeof *path);
    entry->n = n;
    m->n++;
    return 0;
}

void menu_free(menu *m) {
    for (int i = 0; i < m->n; i++) free(m->entries[i].path);
    m->n = 0;
}

void menu_put(FILE *f, const menu *m) {
    fputc('[', f);
    for (int i = 0; i < m->n; i++) {
        polar_program p;
        char text[4096] = "";
        if (!polar_program_from_path(&p, m->n_layer, m->entries[i].path, m->entries[i].n, m->n_layer, 64, NULL))
            polar_program_format(&p, text, sizeof text);
        fprintf(f, i ? ",\"%s\"" : "\"%s\"", text);
    }
    fputc(']', f);
}
