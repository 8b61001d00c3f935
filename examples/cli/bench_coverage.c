/* polar bench --search --coverage: how many programs and layer calls the ways to search need, on questions of which the
 * prior knows nothing: the share of wrong questions that get corrected, and of right ones that get shortened. */
#include "bench_coverage.h"
#include "released.h"
#include "searcher.h"

enum { N_WAYS = 7, ALONE = 0, TEXTBOOK = 1 };

/* Of all questions after the first n programs. */
typedef struct point {
    int n;                 /* programs, besides the identity */
    int corrected, shortened;
    double calls, shortest; /* sums: of the programs' calls; of those of the shortest valid one of right questions */
} point;

typedef struct way {
    const char *name;
    searcher_options how;
    int n_first, has_prior, is_alone;
    searcher s;
    prior prior;
    point *points;               /* after each number of programs, 0 .. how.search.simulations */
    double seconds, seconds_too; /* in all; for the questions that were also run one program at a time */
} way;

typedef struct coverage {
    const bench_coverage_options *o;
    polar_model *model;
    polar_model_info info;
    cli_questions questions;
    evaluate_options evaluate;
    evaluator together, alone;
    way ways[N_WAYS];
    int n_ways, n_right, n_alone;
} coverage;

static double seconds(const coverage *c) {
    return cli_time(c->o->cpu_time);
}

/* --- the ways --------------------------------------------------------------------------------------------- */

static way *add_way(coverage *c, const char *name, int simulations) {
    way *w = &c->ways[c->n_ways++];
    polar_search_options *s = &w->how.search;
    w->name = name;
    s->simulations = simulations;
    s->length_penalty = 5;
    s->exploration = 1.41421356237309505;
    s->epsilon = 0.1;
    s->widening_alpha = 2;
    s->widening_beta = 0.5;
    s->max_length = 4;
    s->max_times = 5;
    s->max_in_flight = 8;
    s->seed = c->o->seed;
    return w;
}

static int add_ways(coverage *c) {
    const int many = c->o->programs, few = c->o->few, with = c->o->prior != NULL;
    way *w = add_way(c, "textbook, one at a time", many);
    w->is_alone = 1;
    w->how.search.max_in_flight = 1;
    add_way(c, "textbook", many);
    w = add_way(c, "released rule", many);
    w->how.is_released = 1;
    w->how.search.seed = 42;
    w->how.search.max_in_flight = 1;
    released_bounds(c->info.n_layer, &w->how.min_calls, &w->how.max_calls);
    add_way(c, "single edits at random", many)->how.search.epsilon = 1; /* the root always gets one more child */
    for (int i = 0; i < 3 && with; i++) {
        w = add_way(c, i == 0 ? "prior" : i == 1 ? "menu" : "menu, then prior", few);
        w->has_prior = 1;
        w->n_first = i == 0 ? 0 : i == 1 ? few : few / 2;
    }
    for (int i = 0; i < c->n_ways; i++) {
        w = &c->ways[i];
        w->s.o = &w->how;
        w->s.e = w->is_alone ? &c->alone : &c->together;
        w->s.n_layer = w->s.trials.n_layer = c->info.n_layer;
        if (!(w->points = calloc((size_t)w->how.search.simulations + 1, sizeof *w->points)))
            return cli_fail("out of memory");
        if (!w->has_prior) continue;
        prior_begin(&w->prior, c->info.n_layer, &w->how.search);
        if (prior_read(&w->prior, c->o->prior, c->model) || prior_finish(&w->prior, w->n_first)) return 1;
        w->s.prior = &w->prior;
    }
    return 0;
}

/* --- one question ----------------------------------------------------------------------------------------- */

/* Adds what the trials of a question come to after each number of programs; where a search ended before, its last
 * result stays. */
static void count(coverage *c, way *w) {
    const trials *t = &w->s.trials;
    const int is_right = t->items[0].reward > 0, n_layer = c->info.n_layer;
    int found = 0, shortest = n_layer;
    double calls = 0;
    for (int n = 0; n <= w->how.search.simulations; n++) {
        point *p = &w->points[n];
        if (n && n < t->n) {
            const trial *x = &t->items[n];
            calls += x->n;
            if (x->reward > 0) found = 1;
            if (x->reward > 0 && x->n < shortest) shortest = x->n;
        }
        p->corrected += !is_right && found;
        p->shortened += is_right && shortest < n_layer;
        p->shortest += is_right ? shortest : 0;
        p->calls += calls;
    }
}

static int run_question(coverage *c, int index) {
    const int too = index < c->n_alone;
    for (int i = 0; i < c->n_ways; i++) {
        way *w = &c->ways[i];
        const double start = seconds(c);
        double took;
        int status;
        if (w->is_alone && !too) continue;
        if ((status = searcher_run(&w->s, &c->questions.items[index]))) return status;
        took = seconds(c) - start;
        w->seconds += took;
        if (too) w->seconds_too += took;
        count(c, w);
        if (i == TEXTBOOK) c->n_right += w->s.trials.items[0].reward > 0;
        cli_progress("question %d of %d: %s", index + 1, c->questions.n, w->name);
    }
    return 0;
}

/* --- the table -------------------------------------------------------------------------------------------- */

static double percent(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

static void print_point(const coverage *c, const way *w, int n) {
    const point *p = &w->points[n];
    const int n_wrong = c->questions.n - c->n_right;
    const double passes = p->calls / c->info.n_layer / c->questions.n, corrected = percent(p->corrected, n_wrong),
                 shortened = percent(p->shortened, c->n_right), shortest = c->n_right ? p->shortest / c->n_right : 0;
    if (!c->o->json) {
        printf("%-24s %9d %9.1f %9.1f %% %8.1f %% %9.2f\n", n == 5 ? w->name : "", n, passes, corrected, shortened,
               shortest);
        return;
    }
    printf("{\"way\":\"%s\",\"programs\":%d", w->name, n);
    json_put_number(stdout, "passes", passes);
    json_put_number(stdout, "corrected", corrected);
    json_put_number(stdout, "shortened", shortened);
    json_put_number(stdout, "shortest", shortest);
    printf("}\n");
}

/* The first number of programs with which a way corrects and shortens as many as the textbook with all; -1: none. */
static int reaches(const coverage *c, const way *w) {
    const point *goal = &c->ways[TEXTBOOK].points[c->o->programs];
    for (int n = 0; n <= w->how.search.simulations; n++)
        if (w->points[n].corrected >= goal->corrected && w->points[n].shortened >= goal->shortened) return n;
    return -1;
}

static void print_way(const coverage *c, const way *w) {
    const way *alone = &c->ways[ALONE];
    const double each = w->seconds / (w->is_alone ? c->n_alone : c->questions.n);
    const double times = w->seconds_too > 0 ? alone->seconds_too / w->seconds_too : 0;
    const int n = w->is_alone ? -1 : reaches(c, w);
    const double passes = n < 0 ? 0 : w->points[n].calls / c->info.n_layer / c->questions.n;
    if (c->o->json) {
        printf("{\"way\":\"%s\",\"seconds\":", w->name);
        json_put_double(stdout, each);
        json_put_number(stdout, "times", times);
        if (!w->is_alone) printf(",\"reaches_with\":%d", n);
        json_put_number(stdout, "reaches_passes", passes);
        printf("}\n");
        return;
    }
    printf("%-24s %9d %9.3f %9.1f", w->name, w->how.search.simulations, each, times);
    if (n >= 0) printf(" %9d %9.1f", n, passes);
    else printf(" %9s %9s", "-", "-");
    putchar('\n');
}

static void print_table(const coverage *c) {
    static const int ns[] = {5, 10, 20, 40, 80, 120, 200};
    if (!c->o->json)
        printf("%d questions, of which the identity answers %d; layer calls per question, in passes through all "
               "layers\n%-24s %9s %9s %11s %10s %9s\n",
               c->questions.n, c->n_right, "", "programs", "passes", "corrected", "shortened", "shortest");
    for (int i = TEXTBOOK; i < c->n_ways; i++) {
        const int last = c->ways[i].how.search.simulations;
        for (size_t k = 0; k < sizeof ns / sizeof *ns; k++)
            if (ns[k] <= last) print_point(c, &c->ways[i], ns[k]);
    }
    if (!c->o->json)
        printf("\n%-24s %9s %9s %9s %9s %9s\n", "", "programs", "seconds", "times", "reaches", "passes");
    for (int i = 0; i < c->n_ways; i++) print_way(c, &c->ways[i]);
}

/* --- the run ---------------------------------------------------------------------------------------------- */

/* Questions that the prior was made of are left out: coverage of those would say nothing. */
static int leave_out_known(coverage *c) {
    cli_questions known = {0};
    uint64_t *list = NULL;
    char *drop = calloc((size_t)c->questions.n + 1, 1);
    int n = 0, n_dropped = 0, status = !drop ? cli_fail("out of memory") : 0;
    if (!status) status = cli_questions_read(&known, c->o->prior, 0, 0) || cli_fingerprints(&known, &list, &n);
    for (int i = 0; i < c->questions.n && !status; i++)
        n_dropped += drop[i] = (char)cli_has_fingerprint(list, n, cli_fingerprint(c->questions.items[i].text));
    if (!status && n_dropped) {
        cli_note("%d questions are left out: the prior was made of them", n_dropped);
        cli_questions_drop(&c->questions, drop);
    }
    if (!status && !c->questions.n) status = cli_fail("%s: no question is left", c->o->questions);
    free(list);
    free(drop);
    cli_questions_free(&known);
    return status;
}

static int open_all(coverage *c, const char *file) {
    const polar_many_options m = {0};
    int status, n_ctx;
    if ((status = cli_open_model(file, c->o->cpu, 0, &c->model)) ||
        (status = cli_questions_read(&c->questions, c->o->questions, 1, c->o->limit)) ||
        (c->o->prior && (status = leave_out_known(c))))
        return status;
    polar_model_get_info(c->model, &c->info);
    if ((status = evaluator_open(&c->together, c->model, &c->evaluate, m)) ||
        (status = evaluator_open(&c->alone, c->model, &c->evaluate, m)) ||
        (status = evaluator_room(&c->together, &c->evaluate, &c->questions, c->o->questions, &n_ctx)))
        return status;
    c->alone.is_alone = 1;
    c->n_alone = c->o->alone < c->questions.n ? c->o->alone : c->questions.n;
    return add_ways(c);
}

int bench_coverage(const char *file, const bench_coverage_options *o) {
    coverage *c = calloc(1, sizeof *c);
    int status;
    if (!c) return cli_fail("out of memory");
    c->o = o;
    c->evaluate = (evaluate_options)EVALUATE_DEFAULTS;
    c->evaluate.tokens = o->max_tokens;
    c->evaluate.kv_type = o->kv_type;
    c->evaluate.threads = o->threads;
    c->evaluate.cache_mb = o->cache_mb;
    status = open_all(c, file);
    cli_catch_interrupts();
    for (int i = 0; i < c->questions.n && !status; i++)
        if (cli_interrupted() || (status = run_question(c, i)) == EVALUATE_CANCELLED) status = cli_fail("interrupted");
    cli_progress_end();
    if (!status) print_table(c);
    for (int i = 0; i < c->n_ways; i++) {
        searcher_free(&c->ways[i].s);
        prior_free(&c->ways[i].prior);
        free(c->ways[i].points);
    }
    evaluator_close(&c->together);
    evaluator_close(&c->alone);
    cli_questions_free(&c->questions);
    polar_model_close(c->model);
    free(c);
    return status;
}
