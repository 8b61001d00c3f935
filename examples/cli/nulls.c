/* Nulls and tests of polar eval. A null is what the predictor's own picks answer when they are dealt to other
 * questions: to any, to those of the same task, to those of the same task and length. It costs what the picks cost
 * and has their mixture of programs; only the choice is gone. What the picks answer beyond it is what the predictor
 * knows of a question: at all, beyond its task, beyond its task and length.
 *
 * A dealing is a random permutation of the picks within each group of questions, so a question may keep its own, and
 * one that is alone in its group does. Every program of the menu was run on every question: what a dealt program
 * answers stands in the records, and many dealings cost nothing. They are drawn when the figures are computed, over
 * all questions in their order, so shards and interruptions change nothing. */
#include "score.h"

/* --- groups of questions ------------------------------------------------------------------------------------ */

typedef struct place {
    int task, length, question;
} place;

static int by_group(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->task != y->task) return x->task < y->task ? -1 : 1;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    return (x->question > y->question) - (x->question < y->question);
}

static int by_size(const void *a, const void *b) {
    const int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* The first of three fields that some question has; -1: none. */
static int field_of(const scores *s, int a, int b, int c) {
    const int fields[] = {a, b, c};
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < s->n; i++)
            if (s->questions[i].fields[fields[k]] >= 0) return fields[k];
    return -1;
}

/* The first question with the value of a field that question i has, -1 without one: numbers of texts depend on the
 * order in which records came, this does not. `first`: one for each text. */
static int first_with(const scores *s, int field, int i, int *first) {
    const int value = field >= 0 ? s->questions[i].fields[field] : -1;
    if (value < 0) return -1;
    if (first[value] < 0) first[value] = i;
    return first[value];
}

/* Where no field says how long a question is: the eighth that its prompt's length in tokens falls into. */
static int set_eighths(const scores *s, place *places) {
    int *sorted = malloc((size_t)s->n * sizeof *sorted);
    if (!sorted) return cli_fail("out of memory");
    for (int i = 0; i < s->n; i++) sorted[i] = s->questions[i].n_prompt;
    qsort(sorted, (size_t)s->n, sizeof *sorted, by_size);
    for (int i = 0; i < s->n; i++) {
        places[i].length = 0;
        for (int k = 1; k < 8; k++) places[i].length += s->questions[i].n_prompt >= sorted[(int64_t)s->n * k / 8];
    }
    free(sorted);
    return 0;
}

/* --- dealings ------------------------------------------------------------------------------------------------- */

typedef struct dealer {
    const scores *s;
    place *places; /* (n) questions, group by group */
    int *picks;    /* (n) entries of the menu, of the questions in their order */
    int *dealt;    /* (n) the same in the order of places, permuted within groups */
    int *counts;   /* (n, n_menu) how often a question got an entry */
    int *tasks, *lengths; /* (texts) for first_with */
} dealer;

/* The entries that a method picked. */
static int read_picks(dealer *d, int method) {
    const scores *s = d->s;
    for (int i = 0; i < s->n; i++) {
        const score_question *q = &s->questions[i];
        int k = 0;
        while (k < s->n_menu && q->menu[k] != q->results[method].chosen) k++;
        if (k == s->n_menu) return cli_fail("question %d: the program of %s is not on the menu", q->index,
                                            s->methods[method].name);
        d->picks[i] = k;
    }
    return 0;
}

static int same_group(const place *a, const place *b, int within) {
    return within == SCORE_AT_RANDOM || (a->task == b->task && (within == SCORE_IN_TASK || a->length == b->length));
}

/* One dealing; how many answers are right. */
static int deal(dealer *d, int within, uint64_t *random) {
    const int n = d->s->n;
    int right = 0;
    for (int from = 0, to; from < n; from = to) {
        for (to = from; to < n && same_group(&d->places[from], &d->places[to], within); to++)
            d->dealt[to] = d->picks[d->places[to].question];
        statistics_permute(d->dealt + from, to - from, random);
    }
    for (int i = 0; i < n; i++) {
        const int question = d->places[i].question;
        const score_question *q = &d->s->questions[question];
        d->counts[(size_t)question * (size_t)d->s->n_menu + (size_t)d->dealt[i]]++;
        right += q->runs[q->menu[d->dealt[i]]].right;
    }
    return right;
}

/* A whole number nearest to the mean of all dealings. */
static int mean_of(int64_t sum) {
    return (int)((2 * sum + SCORE_DEALINGS) / (2 * SCORE_DEALINGS));
}

/* From how many answers are right before, after, and both. Means that were rounded may not fit by one. */
static statistics_paired pair(int before, int after, int both, int n) {
    statistics_paired x;
    if (both > before) both = before;
    if (both > after) both = after;
    if (both < before + after - n) both = before + after - n;
    x.both = both;
    x.corrected = after - both;
    x.broken = before - both;
    x.neither = n - before - after + both;
    return x;
}

/* The figures of a null from how often each question got each entry. */
static void null_figures(const dealer *d, score_null *x) {
    const scores *s = d->s;
    const int n_identity = scores_figures(s, 0, NULL).right, n_pick = scores_figures(s, x->pick, NULL).right;
    int64_t sum = 0, with_identity = 0, with_pick = 0; /* right in all dealings; under identity, pick too */
    double calls = 0, positions = 0;
    score_figures *f = &x->figures;
    for (int i = 0; i < s->n; i++) {
        const score_question *q = &s->questions[i];
        for (int k = 0; k < s->n_menu; k++) {
            const int n = d->counts[(size_t)i * (size_t)s->n_menu + (size_t)k];
            score_result r = {0};
            if (!n) continue;
            r.chosen = q->menu[k];
            scores_cost(s, q, &r.chosen, 1, &r);
            calls += n * r.calls;
            positions += n * r.positions;
            if (!q->runs[r.chosen].right) continue;
            sum += n;
            with_identity += n * q->results[0].right;
            with_pick += n * q->results[x->pick].right;
        }
    }
    f->n = s->n;
    f->mean = (double)sum / SCORE_DEALINGS;
    f->right = mean_of(sum);
    f->paired = pair(n_identity, f->right, mean_of(with_identity), s->n);
    x->pick_paired = pair(f->right, n_pick, mean_of(with_pick), s->n);
    f->accuracy = statistics_accuracy(f->right, s->n);
    f->calls = positions > 0 ? calls / positions : 0;
    f->cost = f->calls / s->n_calls;
    f->p = statistics_mcnemar(f->paired.corrected, f->paired.broken);
    f->difference = statistics_difference(&f->paired);
    f->seconds = -1;
    x->pick_difference = statistics_difference(&x->pick_paired);
}

/* p of "the picks are one more dealing": the share of dealings that are as right as they, themselves counted in. */
static int deal_picks(dealer *d, score_null *x) {
    const scores *s = d->s;
    const int picked = scores_figures(s, x->pick, NULL).right;
    uint64_t random = SCORE_DEALING_SEED;
    int as_right = 1;
    if (read_picks(d, x->pick)) return 1;
    memset(d->counts, 0, (size_t)s->n * (size_t)s->n_menu * sizeof *d->counts);
    for (int i = 0; i < SCORE_DEALINGS; i++) as_right += deal(d, (int)x->within, &random) >= picked;
    x->pick_p = as_right / (SCORE_DEALINGS + 1.0);
    null_figures(d, x);
    return 0;
}

static int is_pick(const scores *s, int method) {
    return s->methods[method].point >= 0 && !strncmp(s->methods[method].name, "top-1", 5);
}

static int find_nulls(const scores *s, score_tests *t) {
    const int task = t->task_field, length = field_of(s, 1, 2, 4); /* steps, level, difficulty */
    const size_t n = (size_t)s->n, n_texts = (size_t)s->texts.n + 1;
    dealer d = {s, malloc(n * sizeof(place)), malloc(n * sizeof(int)), malloc(n * sizeof(int)),
                calloc(n, (size_t)s->n_menu * sizeof(int)), malloc(n_texts * sizeof(int)),
                malloc(n_texts * sizeof(int))};
    const int has_memory = d.places && d.picks && d.dealt && d.counts && d.tasks && d.lengths;
    int status = has_memory ? 0 : cli_fail("out of memory");
    for (size_t i = 0; i < n_texts && !status; i++) d.tasks[i] = d.lengths[i] = -1;
    for (int i = 0; i < s->n && !status; i++) {
        d.places[i].task = first_with(s, task, i, d.tasks);
        d.places[i].length = first_with(s, length, i, d.lengths);
        d.places[i].question = i;
    }
    if (!status && length < 0) status = set_eighths(s, d.places);
    if (!status) qsort(d.places, n, sizeof *d.places, by_group);
    t->length = length >= 0 ? score_field_names[length] : "tokens";
    for (int m = 0; m < s->n_methods && !status; m++)
        for (int within = 0; is_pick(s, m) && within < (task >= 0 ? 3 : 1) && !status; within++) {
            score_null *x = &t->nulls[t->n_nulls++];
            x->pick = m;
            x->within = (score_within)within;
            if (within == SCORE_AT_RANDOM) strcpy(x->name, "at random");
            else if (within == SCORE_IN_TASK) snprintf(x->name, sizeof x->name, "in %s", t->task);
            else snprintf(x->name, sizeof x->name, "in %s+%s", t->task, t->length);
            status = deal_picks(&d, x);
        }
    free(d.places);
    free(d.picks);
    free(d.dealt);
    free(d.counts);
    free(d.tasks);
    free(d.lengths);
    return status;
}

/* --- p values ---------------------------------------------------------------------------------------------------- */

/* Two comparisons with the identity are what an evaluation is made for, and named before it runs: the first pick at
 * the points gain and save, or at the only point. Their p stays as it is. */
static int is_primary(const scores *s, int method) {
    const char *point = s->methods[method].point < 0 ? "" : s->points[s->methods[method].point].name;
    return is_pick(s, method) && (s->n_points == 1 || !strcmp(point, "gain") || !strcmp(point, "save"));
}

static void hold_contests(const scores *s, score_tests *t) {
    for (int k = 1; k < s->n_methods; k++)
        for (int m = 1; m < s->n_methods && s->methods[k].is_rival; m++) {
            score_contest *c = &t->contests[t->n_contests];
            statistics_paired *x = &c->paired;
            if (!t->primary[m]) continue;
            t->n_contests++;
            c->pick = m;
            c->rival = k;
            for (int i = 0; i < s->n; i++) {
                const score_result *r = s->questions[i].results;
                ++*(r[k].right ? r[m].right ? &x->both : &x->broken : r[m].right ? &x->corrected : &x->neither);
            }
            c->raw = statistics_mcnemar(x->corrected, x->broken);
            c->difference = statistics_difference(x);
        }
}

/* All others are one family: Holm's correction. */
int scores_test(const scores *s, score_tests *t) {
    double p[3 * SCORE_METHODS + 3 * SCORE_POINTS], corrected[3 * SCORE_METHODS + 3 * SCORE_POINTS];
    int n = 0, status = 0, has_menu = s->n > 0 && s->n_menu > 0;
    memset(t, 0, sizeof *t);
    t->task_field = field_of(s, 0, 3, 5); /* task, subject, domain */
    if (t->task_field >= 0) t->task = score_field_names[t->task_field];
    for (int i = 0; i < s->n; i++) has_menu &= s->questions[i].probability != NULL;
    if (has_menu) status = find_nulls(s, t);
    for (int i = 0; i < s->n_methods; i++) {
        t->primary[i] = is_primary(s, i);
        if (i && !t->primary[i]) p[n++] = scores_figures(s, i, NULL).p;
    }
    hold_contests(s, t);
    for (int i = 0; i < t->n_nulls; i++) p[n++] = t->nulls[i].figures.p;
    for (int i = 0; i < t->n_contests; i++) p[n++] = t->contests[i].raw;
    statistics_holm(p, n, corrected);
    t->n_family = n;
    n = 0;
    for (int i = 0; i < s->n_methods; i++)
        t->p[i] = !i || t->primary[i] ? scores_figures(s, i, NULL).p : corrected[n++];
    for (int i = 0; i < t->n_nulls; i++) t->nulls[i].p = corrected[n++];
    for (int i = 0; i < t->n_contests; i++) t->contests[i].p = corrected[n++];
    return status;
}
