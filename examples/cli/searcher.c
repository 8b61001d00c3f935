/* Programs tried on one question: by the textbook's rule, with a prior or without, or by the released one. */
#include "searcher.h"
#include "released.h"

#include <limits.h>

/* Takes over an attempt: its answer too. */
static void set_trial(trial *t, const attempt *a) {
    t->reward = a->reward;
    t->answer = a->answer;
    t->n_tokens = a->n_tokens;
    t->stop = a->stop;
    t->logprob = a->logprob;
}

int searcher_run_trials(searcher *s, int first) {
    int n = s->trials.n - first, status;
    polar_path *paths = calloc((size_t)n, sizeof *paths);
    attempt *attempts = malloc((size_t)n * sizeof *attempts);
    if (!paths || !attempts) {
        free(paths);
        free(attempts);
        return cli_fail("out of memory");
    }
    for (int i = 0; i < n; i++) {
        paths[i].calls = s->trials.items[first + i].path;
        paths[i].n = s->trials.items[first + i].n;
    }
    status = evaluator_run(s->e, paths, n, attempts);
    for (int i = 0; i < n; i++) {
        if (status) free(attempts[i].answer);
        else set_trial(&s->trials.items[first + i], &attempts[i]);
    }
    free(paths);
    free(attempts);
    return status;
}

/* --- when to end ------------------------------------------------------------------------------------------ */

/* Sets s->trials.ended when a rule of the options says that there is no more to gain. `n_done` trials have results. */
static void check_end(searcher *s, int n_done) {
    const searcher_options *o = s->o;
    const int is_right = s->trials.items[0].reward > 0; /* the identity comes first and alone */
    int n_valid = 0, n_useful = 0, shortest = INT_MAX;
    if (s->trials.ended || (!o->enough && !o->give_up && !(o->short_enough > 0))) return;
    for (int i = 0; i < s->trials.n; i++) {
        const trial *t = &s->trials.items[i];
        if (t->reward <= 0) continue;
        if (i) n_valid++;
        if (i && (!is_right || t->n < s->n_layer)) n_useful++;
        if (t->n < shortest) shortest = t->n;
    }
    if (o->short_enough > 0 && shortest <= o->short_enough * s->n_layer) s->trials.ended = "short enough";
    else if (o->enough && n_valid >= o->enough) s->trials.ended = "enough";
    else if (o->give_up && n_done > o->give_up && !n_useful) s->trials.ended = "given up";
}

/* --- the textbook's rule ---------------------------------------------------------------------------------- */

/* What a trial is to the tree: its id there, -1 if the tree did not propose it. */
typedef struct standing {
    int id, is_done;
} standing;

/* A search on its way. Trials have the numbers of the stream. */
typedef struct flight {
    searcher *s;
    polar_search *search;
    const menu *first; /* programs that come before those of the tree, the identity among them; NULL without */
    int n_first;       /* of these, given */
    int n_done;
    standing *standings; /* of the trials */
    int *trial_of;       /* of the ids of the search */
} flight;

static int give(flight *f, polar_path *path, const trial *t, int id) {
    if (!t) return -cli_fail("out of memory");
    f->standings[f->s->trials.n - 1].id = id;
    path->calls = t->path;
    path->n = t->n;
    return 1;
}

/* A program of the tree that is to be run, or 0 if there is none now. One that ran already, as one of the first, is
 * answered for; the tree does not know those. */
static int propose_new(flight *f, polar_path *path) {
    searcher *s = f->s;
    int calls[POLAR_MAX_CALLS], id, n, at;
    polar_program program;
    polar_search_result result;
    while ((id = polar_search_next(f->search, &program)) >= 0) {
        const trial *parent;
        trial *t;
        polar_search_get(f->search, id, &result);
        n = polar_program_calls(&program, calls, POLAR_MAX_CALLS);
        at = f->first ? trials_find(&s->trials, calls, n) : -1;
        f->trial_of[id] = at < 0 ? s->trials.n : at;
        if (at >= 0) {
            polar_error error;
            f->standings[at].id = id;
            if (f->standings[at].is_done && polar_search_report(f->search, id, s->trials.items[at].reward, &error))
                return -cli_fail("%s", error.message);
            continue;
        }
        parent = result.parent < 0 ? NULL : &s->trials.items[f->trial_of[result.parent]];
        if ((t = trials_add(&s->trials, calls, n, parent ? parent->path : NULL, parent ? parent->n : 0)))
            t->simulation = result.simulation;
        return give(f, path, t, id);
    }
    return 0;
}

/* The next proposal, if not enough are waiting. The identity runs alone: its answer is a guess for the others, and says
 * which programs come first. */
static int propose(void *user, polar_path *path) {
    flight *f = user;
    searcher *s = f->s;
    if ((s->trials.n && !f->n_done) || s->trials.ended || s->trials.n - f->n_done >= s->o->search.max_in_flight ||
        s->trials.n > CLI_VALUE(s->o->search.simulations))
        return 0;
    while (f->first && f->n_first < f->first->n) {
        const menu_entry *m = &f->first->entries[f->n_first++];
        if (trials_find(&s->trials, m->path, m->n) < 0)
            return give(f, path, trials_add(&s->trials, m->path, m->n, NULL, 0), -1);
    }
    return propose_new(f, path);
}

static int report(void *user, int number, const attempt *a) {
    flight *f = user;
    searcher *s = f->s;
    polar_error error;
    set_trial(&s->trials.items[number], a);
    f->n_done++;
    f->standings[number].is_done = 1;
    if (!number && s->prior) {
        s->prior->is_right = a->reward > 0;
        f->first = &s->prior->first[s->prior->is_right];
    }
    if (f->standings[number].id >= 0 && polar_search_report(f->search, f->standings[number].id, a->reward, &error))
        return cli_fail("%s", error.message);
    check_end(s, f->n_done);
    if (s->tell) s->tell(s->user, f->n_done);
    return cli_interrupted() ? EVALUATE_CANCELLED : 0;
}

static int search_textbook(searcher *s, const cli_question *q) {
    polar_search_options o = s->o->search;
    const size_t n = (size_t)CLI_VALUE(o.simulations) + 1 + MENU_MAX;
    flight f = {.s = s, .standings = calloc(n, sizeof *f.standings), .trial_of = calloc(n, sizeof *f.trial_of)};
    const evaluator_stream stream = {propose, report, &f};
    polar_error error;
    int status = 0;
    if (s->prior) {
        o.prior = prior_weight;
        o.prior_user = s->prior;
    }
    if (!f.standings || !f.trial_of) status = cli_fail("out of memory");
    else if (polar_search_create(&f.search, s->n_layer, q->text, s->o->one_seed ? 0 : strlen(q->text), &o, &error))
        status = cli_fail("%s", error.message);
    else status = evaluator_run_stream(s->e, &stream);
    polar_search_free(f.search);
    free(f.standings);
    free(f.trial_of);
    return status;
}

/* --- the released rule ------------------------------------------------------------------------------------ */

/* A search by the released rule on its way. */
typedef struct released_flight {
    searcher *s;
    released_search *search;
    int n_done;
} released_flight;

/* The next proposal, when the reward of the one before is known. Its parent was not always run itself. */
static int propose_released(void *user, polar_path *path) {
    released_flight *f = user;
    searcher *s = f->s;
    int calls[RELEASED_MAX_CALLS], before[RELEASED_MAX_CALLS], n;
    released_node node, parent = {NULL, 0, -1, 0};
    trial *t;
    if (f->n_done < s->trials.n || !(n = released_next(f->search, calls))) return 0;
    if (n < 0) return -cli_fail("out of memory");
    node = released_get_node(f->search, released_current(f->search));
    if (node.parent >= 0) parent = released_get_node(f->search, node.parent);
    for (int i = 0; i < parent.n_path; i++) before[i] = parent.path[i];
    if (!(t = trials_add(&s->trials, calls, n, parent.path ? before : NULL, parent.n_path)))
        return -cli_fail("out of memory");
    t->simulation = f->n_done ? released_n_steps(f->search) + 1 : 0;
    path->calls = t->path;
    path->n = n;
    return 1;
}

static int report_released(void *user, int id, const attempt *a) {
    released_flight *f = user;
    set_trial(&f->s->trials.items[id], a);
    f->n_done++;
    released_report(f->search, a->reward);
    check_end(f->s, f->n_done);
    if (f->s->tell) f->s->tell(f->s->user, f->n_done);
    return cli_interrupted() ? EVALUATE_CANCELLED : 0;
}

/* The nodes that simulations ended at or passed, [number of the parent among them or -1, path], and the simulations:
 * [number of the node, value that was backed up from there, 1 if the node was run for it]. So a node's visits are the
 * simulations at it and below. Numbers of nodes are in the order in which the search made them. */
static int put_log(FILE *f, const released_search *s, int n_nodes) {
    int *number = malloc(((size_t)n_nodes + 1) * sizeof *number), n = 0;
    if (!number) return cli_fail("out of memory");
    fprintf(f, ",\"search_nodes\":[");
    for (int i = 0; i < n_nodes; i++) {
        const released_node x = released_get_node(s, i);
        if (!x.visits && i) continue;
        number[i] = n;
        fprintf(f, n++ ? ",[%d,[" : "[%d,[", x.parent < 0 ? -1 : number[x.parent]);
        for (int k = 0; k < x.n_path; k++) fprintf(f, k ? ",%d" : "%d", x.path[k]);
        fputs("]]", f);
    }
    fprintf(f, "],\"search_simulations\":[");
    for (int i = 0; i < released_n_steps(s); i++) {
        const released_step x = released_get_step(s, i);
        fprintf(f, i ? ",[%d,%d,%d]" : "[%d,%d,%d]", number[x.node], (int)x.reward, x.path != NULL);
    }
    fputc(']', f);
    free(number);
    return 0;
}

/* The lists of results in the order of the release, and the log if it is asked for: for sample_put. */
static int finish_released(searcher *f, const released_search *s) {
    released_result *list = NULL;
    const int n = released_results(s, &list);
    int status = 0, path[RELEASED_MAX_CALLS], n_nodes = 1;
    FILE *out;
    cli_text_free(&f->log);
    free(f->order);
    f->order = malloc(((size_t)f->trials.n + 1) * sizeof *f->order);
    if (n != f->trials.n || !f->order) status = cli_fail("out of memory");
    for (int i = 0; i < n && !status; i++) {
        for (int k = 0; k < list[i].n_path; k++) path[k] = list[i].path[k];
        f->order[i] = trials_find(&f->trials, path, list[i].n_path);
    }
    free(list);
    for (int i = 0; i < released_n_steps(s); i++)
        if (released_get_step(s, i).node >= n_nodes) n_nodes = released_get_step(s, i).node + 1;
    if (!status && f->o->log_all) {
        if ((out = cli_text_open(&f->log))) status = put_log(out, s, n_nodes);
        status = cli_text_close(&f->log) || status;
    }
    f->trials.order = f->order;
    f->trials.prompt = strcmp(f->e->prompt.how.text, cli_published_prompt) ? f->e->prompt.how.text : cli_stored_prompt;
    f->trials.more = f->o->log_all ? f->log.text : NULL;
    return status;
}

static int search_released(searcher *s, const cli_question *q) {
    const searcher_options *o = s->o;
    const uint64_t seed = o->seed_per_question ? released_question_seed(o->search.seed, q->text) : o->search.seed;
    released_flight f = {s, NULL, 0};
    const evaluator_stream stream = {propose_released, report_released, &f};
    int status;
    f.search = released_create(s->n_layer, o->min_calls, o->max_calls, CLI_VALUE(o->search.simulations), seed);
    if (!f.search) return cli_fail("out of memory");
    status = evaluator_run_stream(s->e, &stream);
    if (!status) status = finish_released(s, f.search);
    released_free(f.search);
    return status;
}

/* --- one question ----------------------------------------------------------------------------------------- */

int searcher_run(searcher *s, const cli_question *q) {
    const int status = evaluator_question(s->e, q);
    trials_clear(&s->trials);
    s->trials.ended = NULL;
    if (status) return status;
    return s->o->is_released ? search_released(s, q) : search_textbook(s, q);
}

void searcher_free(searcher *s) {
    trials_free(&s->trials);
    cli_text_free(&s->log);
    free(s->order);
}
