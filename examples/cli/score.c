/* Statistics over the records of an evaluation, for polar eval and polar report. */
#include "score.h"
#include "statistics.h"

#include <assert.h>
#include <limits.h>

const char *const score_field_names[SCORE_FIELDS] = {"task", "steps", "level", "subject", "difficulty", "domain"};

/* --- texts ------------------------------------------------------------------------------------------------ */

static unsigned hash_of(const char *s) {
    unsigned h = 2166136261u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return h;
}

static int *slot_of(const score_texts *t, const char *text) {
    unsigned i = hash_of(text) % (unsigned)t->n_slots;
    while (t->slots[i] >= 0 && strcmp(t->items[t->slots[i]], text)) i = (i + 1) % (unsigned)t->n_slots;
    return &t->slots[i];
}

static int texts_grow(score_texts *t) {
    int n = t->capacity ? t->capacity * 2 : 64, *slots;
    char **items = t->capacity < INT_MAX / 8 ? realloc(t->items, (size_t)n * sizeof *items) : NULL;
    if (!items) return 0;
    t->items = items;
    t->capacity = n;
    if (!(slots = realloc(t->slots, (size_t)n * 2 * sizeof *slots))) return 0;
    t->slots = slots;
    t->n_slots = n * 2;
    for (int i = 0; i < t->n_slots; i++) slots[i] = -1;
    for (int i = 0; i < t->n; i++) *slot_of(t, items[i]) = i;
    return 1;
}

/* The number of a text, -1 without memory. */
static int texts_number(score_texts *t, const char *text) {
    int *slot;
    char *copy;
    if (t->n == t->capacity && !texts_grow(t)) return -1;
    if (*(slot = slot_of(t, text)) >= 0) return *slot;
    if (!(copy = malloc(strlen(text) + 1))) return -1;
    t->items[t->n] = strcpy(copy, text);
    return *slot = t->n++;
}

static void texts_free(score_texts *t) {
    for (int i = 0; i < t->n; i++) free(t->items[i]);
    free(t->items);
    free(t->slots);
}

/* --- reading ---------------------------------------------------------------------------------------------- */

static double number_of(const json *v, double otherwise) {
    return v && v->type == JSON_NUMBER ? v->number : otherwise;
}

static int length_of(const json *v) {
    return v && v->type == JSON_ARRAY && v->length < INT_MAX ? (int)v->length : 0;
}

static const char *text_of(const json *object, const char *key) {
    const char *text = json_get_text(object, key);
    return text ? text : "";
}

int scores_begin(scores *s, const json *header, const char *name) {
    const json *methods = json_get(header, "methods"), *points = json_get(header, "points");
    memset(s, 0, sizeof *s);
    if (!json_int(json_get(json_get(header, "model"), "n_layer"), &s->n_layer) || s->n_layer < 1 ||
        s->n_layer > POLAR_MAX_LAYER || length_of(methods) < 1 || length_of(methods) > SCORE_METHODS ||
        length_of(points) > SCORE_POINTS)
        return cli_fail("%s: no file of polar eval (its header names no layers and methods)", name);
    s->n_calls = s->n_layer * cli_header_loops(header);
    s->n_menu = length_of(json_get(header, "menu"));
    json_int(json_get(header, "feature_calls"), &s->feature_calls);
    json_int(json_get(header, "prompt_calls"), &s->prompt_calls);
    json_int(json_get(header, "k"), &s->k);
    for (const json *m = methods->child; m; m = m->next) {
        score_method *x = &s->methods[s->n_methods++];
        snprintf(x->name, sizeof x->name, "%s", text_of(m, "name"));
        x->point = -1;
        json_int(json_get(m, "point"), &x->point);
        x->needs_answer = json_get(m, "needs_answer") != NULL;
        x->is_rival = json_get(m, "rival") != NULL;
        x->note = "";
        if (x->point >= length_of(points)) return cli_fail("%s: method %s has no operating point", name, x->name);
    }
    for (const json *p = points ? points->child : NULL; p; p = p->next) {
        snprintf(s->points[s->n_points].name, sizeof s->points->name, "%s", text_of(p, "name"));
        s->points[s->n_points++].price = number_of(json_get(p, "price"), 0);
    }
    return 0;
}

/* Room for one more question with its arrays in one block. */
static score_question *new_question(scores *s, int n_runs, int has_probability) {
    const size_t runs = (size_t)n_runs * sizeof(score_run), results = (size_t)s->n_methods * sizeof(score_result);
    const size_t probability = has_probability ? (size_t)s->n_menu * sizeof(double) : 0;
    score_question *q;
    char *block;
    if (s->n == s->capacity) {
        int n = s->capacity ? s->capacity * 2 : 256;
        score_question *p = s->capacity < INT_MAX / 4 ? realloc(s->questions, (size_t)n * sizeof *p) : NULL;
        if (!p) return NULL;
        s->questions = p;
        s->capacity = n;
    }
    if (!(block = calloc(1, results + runs + probability + ((size_t)s->n_menu + 1) * sizeof(int)))) return NULL;
    q = &s->questions[s->n];
    memset(q, 0, sizeof *q);
    q->n_runs = n_runs;
    q->results = (void *)block;
    q->runs = (void *)(block + results);
    q->probability = has_probability ? (void *)(block + results + runs) : NULL;
    q->menu = (void *)(block + results + runs + probability);
    return q;
}

static int read_runs(scores *s, score_question *q, const json *runs) {
    int i = 0;
    for (const json *r = runs->child; r; r = r->next, i++) {
        score_run *x = &q->runs[i];
        const json *logprob = json_get(r, "logprob");
        if ((x->program = texts_number(&s->programs, text_of(r, "program"))) < 0 ||
            !json_int(json_get(r, "calls"), &x->calls) || !json_int(json_get(r, "right"), &x->right) ||
            !json_int(json_get(r, "tokens"), &x->tokens) || x->calls < 1)
            return 0;
        x->limit = !strcmp(text_of(r, "stop"), "limit");
        x->confidence = x->tokens > 0 && logprob && logprob->type == JSON_NUMBER ? logprob->number / x->tokens
                                                                                 : POLAR_NO_CONFIDENCE;
    }
    return 1;
}

static int read_results(score_question *q, const json *results, const json *seconds) {
    const json *t = length_of(seconds) ? seconds->child : NULL;
    int i = 0;
    for (const json *r = results->child; r; r = r->next, i++) {
        score_result *x = &q->results[i];
        x->calls = number_of(json_get(r, "calls"), -1);
        x->positions = number_of(json_get(r, "positions"), 0);
        x->seconds = number_of(t, -1);
        if (!json_int(json_get(r, "chosen"), &x->chosen) || !json_int(json_get(r, "right"), &x->right) ||
            x->chosen >= q->n_runs || x->calls < 0 || x->positions < 1)
            return 0;
        if (t) t = t->next;
    }
    return 1;
}

static int read_menu(score_question *q, const json *menu, const json *probability) {
    const json *p = q->probability ? probability->child : NULL;
    int i = 0;
    for (const json *m = menu ? menu->child : NULL; m; m = m->next, i++) {
        if (!json_int(m, &q->menu[i]) || q->menu[i] < 0 || q->menu[i] >= q->n_runs) return 0;
        if (!p) continue;
        q->probability[i] = number_of(p, 0);
        p = p->next;
    }
    return 1;
}

int scores_add(scores *s, const json *record, const char *name) {
    const json *runs = json_get(record, "runs"), *results = json_get(record, "results"),
               *menu = json_get(record, "menu");
    const json *probability = json_get(record, "probability"), *info = json_get(record, "sample_info");
    score_question *q;
    int index = -1;
    json_int(json_get(record, "index"), &index);
    if (index < 0 || length_of(runs) < 1 || length_of(results) != s->n_methods || length_of(menu) != s->n_menu ||
        (probability && length_of(probability) != s->n_menu))
        return cli_fail("%s: record %d of the evaluation does not fit its header", name, index);
    if (!(q = new_question(s, length_of(runs), probability != NULL))) return cli_fail("out of memory");
    q->index = index;
    q->encoder_calls = json_get(record, "encoder_calls") ? json_get(record, "encoder_calls")->number : 0;
    for (int i = 0; i < SCORE_FIELDS; i++) {
        const json *v = json_get(info, score_field_names[i]);
        q->fields[i] = -1;
        if (v && (v->type == JSON_STRING || v->type == JSON_NUMBER) && v->length)
            q->fields[i] = texts_number(&s->texts, v->text);
    }
    if (!json_int(json_get(record, "n_prompt"), &q->n_prompt) || !read_runs(s, q, runs) ||
        !read_results(q, results, json_get(record, "seconds")) || !read_menu(q, menu, probability)) {
        free(q->results);
        return cli_fail("%s: record %d of the evaluation is malformed", name, index);
    }
    s->n++;
    return 0;
}

static int by_index(const void *a, const void *b) {
    const score_question *x = a, *y = b;
    return (x->index > y->index) - (x->index < y->index);
}

int scores_sort(scores *s, const char *name) {
    if (s->n) qsort(s->questions, (size_t)s->n, sizeof *s->questions, by_index);
    for (int i = 1; i < s->n; i++)
        if (s->questions[i].index == s->questions[i - 1].index)
            return cli_fail("%s: question %d is there twice", name, s->questions[i].index);
    return 0;
}

void scores_free(scores *s) {
    for (int i = 0; i < s->n; i++) free(s->questions[i].results);
    free(s->questions);
    texts_free(&s->programs);
    texts_free(&s->texts);
    memset(s, 0, sizeof *s);
}

int scores_read(scores *s, const char *path, json_document **header) {
    cli_objects o;
    const json *record;
    const char *error;
    size_t at;
    int status = 0;
    *header = NULL;
    memset(s, 0, sizeof *s);
    if (!cli_objects_open(&o, path)) return 1;
    if (o.header.text) *header = json_read(o.header.text, o.header.length, &error, &at);
    status = scores_begin(s, *header ? json_root(*header) : NULL, o.name);
    while (!status && (record = cli_objects_next(&o))) status = scores_add(s, record, o.name);
    if (!status) status = o.failed || scores_sort(s, o.name);
    if (!status && !s->n) status = cli_fail("%s: holds no questions", o.name);
    cli_objects_close(&o);
    return status;
}

/* --- figures ---------------------------------------------------------------------------------------------- */

int score_bin_has(const score_bin *bin, const score_question *q) {
    for (int i = 0; i < bin->n_values; i++)
        if (q->fields[bin->field] == bin->values[i]) return 1;
    return 0;
}

static void count_pair(statistics_paired *x, int before, int after) {
    ++*(before ? after ? &x->both : &x->broken : after ? &x->corrected : &x->neither);
}

score_figures scores_figures(const scores *s, int method, const score_bin *bin) {
    score_figures f;
    double calls = 0, positions = 0, seconds = 0;
    memset(&f, 0, sizeof f);
    for (int i = 0; i < s->n; i++) {
        const score_question *q = &s->questions[i];
        const score_result *r = &q->results[method];
        const int before = q->results[0].right;
        if (bin && !score_bin_has(bin, q)) continue;
        f.n++;
        f.right += r->right;
        calls += r->calls;
        positions += r->positions;
        if (r->seconds >= 0) {
            seconds += r->seconds;
            f.n_timed++;
        }
        count_pair(&f.paired, before, r->right);
    }
    f.mean = f.right;
    f.accuracy = statistics_accuracy(f.right, f.n);
    f.calls = positions > 0 ? calls / positions : 0;
    f.cost = f.calls / s->n_calls;
    f.p = statistics_mcnemar(f.paired.corrected, f.paired.broken);
    f.difference = statistics_difference(&f.paired);
    f.seconds = f.n_timed ? seconds / f.n_timed : -1;
    return f;
}

static int is_number(const char *text) {
    char *end;
    strtod(text, &end);
    return end != text && !*end;
}

/* Numbers by size, before texts by their bytes. */
static int text_less(const char *a, const char *b) {
    const int x = is_number(a), y = is_number(b);
    if (x && y) return strtod(a, NULL) < strtod(b, NULL);
    return x != y ? x : strcmp(a, b) < 0;
}

#define MAX_VALUES 64

/* Distinct values in their order and how many questions have each; their number, 0 if there are too many. */
static int values_of(const scores *s, int field, int *values, int *counts) {
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        const int v = s->questions[i].fields[field];
        int at = 0;
        while (at < n && values[at] != v) at++;
        if (v < 0) continue;
        if (at < n) {
            counts[at]++;
            continue;
        }
        if (n == MAX_VALUES) return 0;
        for (; at > 0 && text_less(s->texts.items[v], s->texts.items[values[at - 1]]); at--) {
            values[at] = values[at - 1];
            counts[at] = counts[at - 1];
        }
        values[at] = v;
        counts[at] = 1;
        n++;
    }
    return n;
}

int scores_bins(const scores *s, int field, score_bin *bins, int capacity) {
    int values[MAX_VALUES], counts[MAX_VALUES], n_bins = 0, done = 0, total = 0;
    int n = values_of(s, field, values, counts);
    if (n > capacity && !is_number(s->texts.items[values[0]])) return 0; /* words have no ranges */
    for (int i = 0; i < n; i++) total += counts[i];
    for (int i = 0; i < n; i++) {
        score_bin *b = &bins[n_bins];
        const char *first, *last = s->texts.items[values[i]];
        if (n <= capacity || !n_bins || (int64_t)done * capacity >= (int64_t)total * n_bins) {
            b = &bins[n_bins++];
            memset(b, 0, sizeof *b);
            b->field = field;
        } else b--;
        b->values[b->n_values++] = values[i];
        b->n += counts[i];
        done += counts[i];
        first = s->texts.items[b->values[0]];
        if (b->n_values == 1) snprintf(b->label, sizeof b->label, "%.30s", first);
        else snprintf(b->label, sizeof b->label, "%.14s-%.14s", first, last);
    }
    return n_bins;
}

int scores_program(scores *s, const char *text) {
    return texts_number(&s->programs, text);
}

int scores_layers(const scores *s, int program, int *times) {
    polar_program p;
    return !polar_program_parse(&p, s->n_layer, s->programs.items[program], NULL) && cli_program_times(&p, times);
}

/* --- costs and picks --------------------------------------------------------------------------------------- */

/* Can the program go on from the hidden states after the layers that the features needed? */
static int goes_on(const scores *s, int program) {
    polar_program p;
    int path[POLAR_MAX_CALLS], n;
    if (!s->feature_calls) return 1;
    if (polar_program_parse(&p, s->n_layer, s->programs.items[program], NULL)) return 0;
    n = polar_program_calls(&p, path, POLAR_MAX_CALLS);
    if (n < s->feature_calls) return 0;
    for (int i = 0; i < s->feature_calls; i++)
        if (path[i] != i) return 0;
    return 1;
}

/* Tokens that go through the layers: of a cut answer the last one does not. */
static double positions_of(const score_question *q, const score_run *r) {
    return q->n_prompt + r->tokens - r->limit;
}

void scores_cost(const scores *s, const score_question *q, const int *runs, int n, score_result *r) {
    const score_run *chosen = &q->runs[r->chosen < 0 ? runs[0] : r->chosen];
    r->positions = positions_of(q, chosen);
    r->calls = q->encoder_calls;
    if (s->prompt_calls || !goes_on(s, q->runs[runs[0]].program)) r->calls += (double)s->feature_calls * q->n_prompt;
    for (int i = 0; i < n; i++) {
        const score_run *x = &q->runs[runs[i]];
        r->calls += x->calls * positions_of(q, x);
        if (s->prompt_calls) r->calls += (double)(s->prompt_calls - x->calls) * q->n_prompt;
    }
}

int scores_rank(const double *probability, const double *cost, int n_menu, double price, int k, int *out) {
    int n = 0, taken[POLAR_MAX_MENU] = {0};
    for (; n < k && n < n_menu && n < POLAR_MAX_MENU; n++) {
        int best = -1;
        double most = 0;
        for (int i = 0; i < n_menu && i < POLAR_MAX_MENU; i++) {
            const double worth = probability[i] - price * cost[i];
            if (taken[i] || (best >= 0 && !(worth > most))) continue;
            best = i;
            most = worth;
        }
        assert(best >= 0);
        taken[best] = 1;
        out[n] = best;
    }
    return n;
}

static int rank_question(const scores *s, const score_question *q, double price, int k, int *out) {
    double cost[POLAR_MAX_MENU];
    for (int i = 0; i < s->n_menu && i < POLAR_MAX_MENU; i++) cost[i] = (double)q->runs[q->menu[i]].calls / s->n_calls;
    return scores_rank(q->probability, cost, s->n_menu, price, k, out);
}

int scores_pick(const scores *s, const score_question *q, double price) {
    int best = 0;
    rank_question(s, q, price, 1, &best);
    return best;
}

score_pick scores_at_price(const scores *s, double price) {
    score_pick x = {price, 0, 0, 0};
    statistics_paired paired = {0, 0, 0, 0};
    double calls = 0, positions = 0;
    for (int i = 0; i < s->n; i++) {
        const score_question *q = &s->questions[i];
        score_result r = {0};
        if (!q->probability) continue;
        r.chosen = q->menu[scores_pick(s, q, price)];
        scores_cost(s, q, &r.chosen, 1, &r);
        x.right += q->runs[r.chosen].right;
        count_pair(&paired, q->results[0].right, q->runs[r.chosen].right);
        calls += r.calls;
        positions += r.positions;
    }
    x.cost = positions > 0 ? calls / positions / s->n_calls : 0;
    x.lower = statistics_difference(&paired).low;
    return x;
}

/* --- operating points from validation questions ------------------------------------------------------------- */

#define FIT_PRICES 241
/* 0, then 0.0001 to 100 in geometric steps: 40 for a factor of 10. */
static double fit_price(int i) {
    double price = 0.0001;
    if (!i) return 0;
    for (int k = 1; k < i; k++) price *= 1.0592537251772889; /* 10^(1/40) */
    return price;
}

/* More right answers; with the same number, the cheaper. */
static int is_better(const score_pick *x, const score_pick *y) {
    return x->right > y->right || (x->right == y->right && x->cost < y->cost);
}

typedef struct fit_state {
    const scores *s;
    score_fit *fit;
    int has_gain, has_save;
} fit_state;

static void fit_at(fit_state *f, double price) {
    const score_pick x = scores_at_price(f->s, price);
    if (x.cost <= 1 && (!f->has_gain || is_better(&x, &f->fit->gain))) {
        f->fit->gain = x;
        f->has_gain = 1;
    }
    if (x.lower >= 0 && (!f->has_save || x.cost < f->fit->save.cost)) {
        f->fit->save = x;
        f->has_save = 1;
    }
}

/* Where many questions change their program at about the same price, a step of the prices is a leap of the cost: so
 * smaller steps follow around what was found. */
static void fit_points(const scores *s, score_fit *fit) {
    fit_state f = {s, fit, 0, 0};
    double around[2];
    for (int i = 0; i < FIT_PRICES; i++) fit_at(&f, fit_price(i));
    around[0] = fit->gain.price;
    around[1] = fit->save.price;
    for (int i = 0; i < 2; i++)
        for (int k = 1; k < 40; k++) {
            fit_at(&f, around[i] * (1 - 0.0015 * k));
            fit_at(&f, around[i] * (1 + 0.0015 * k));
        }
    if (!f.has_save) {
        fit->save = fit->gain;
        cli_note("save = gain: on %d questions none is surely as right as the identity", s->n);
    }
    fit->has_points = f.has_gain;
}

/* The same rules for single programs of the menu. */
static void fit_fixed(const scores *s, score_fit *fit) {
    score_pick gain = {0, -1, 0, 0}, save = {0, 0, 1, 0}, best = {0, -1, 0, 0};
    if (s->n)
        snprintf(fit->fixed_save, sizeof fit->fixed_save, "%s", s->programs.items[s->questions[0].runs[0].program]);
    for (int i = 0; i < s->n_menu; i++) {
        score_pick x = {0, 0, 0, 0};
        statistics_paired paired = {0, 0, 0, 0};
        const char *text = NULL;
        for (int k = 0; k < s->n; k++) {
            const score_run *r = &s->questions[k].runs[s->questions[k].menu[i]];
            x.right += r->right;
            count_pair(&paired, s->questions[k].results[0].right, r->right);
            x.cost = (double)r->calls / s->n_calls;
            text = s->programs.items[r->program];
        }
        if (x.cost <= 1 && is_better(&x, &gain)) {
            gain = x;
            snprintf(fit->fixed_gain, sizeof fit->fixed_gain, "%s", text);
        }
        if (statistics_difference(&paired).low >= 0 && x.cost < save.cost) {
            save = x;
            snprintf(fit->fixed_save, sizeof fit->fixed_save, "%s", text);
        }
        if (is_better(&x, &best)) {
            best = x;
            snprintf(fit->fixed_best, sizeof fit->fixed_best, "%s", text);
        }
    }
}

int scores_fit_cascade(const scores *s, double price, score_fit *fit) {
    const int k = s->k < s->n_menu ? s->k : s->n_menu;
    polar_cascade_run *runs = calloc((size_t)s->n * (size_t)k, sizeof *runs);
    polar_error e;
    int status = 0;
    if (!runs) return cli_fail("out of memory");
    for (int i = 0; i < s->n; i++) {
        const score_question *q = &s->questions[i];
        int picks[POLAR_MAX_MENU];
        rank_question(s, q, price, k, picks);
        for (int c = 0; c < k; c++) {
            const score_run *r = &q->runs[q->menu[picks[c]]];
            polar_cascade_run *x = &runs[i * k + c];
            x->confidence = r->confidence;
            x->cost = (double)r->calls / s->n_calls;
            x->correct = r->right;
        }
    }
    if (statistics_cascade(runs, s->n, k, POLAR_MENU_PRICE, &fit->threshold, NULL, &e))
        status = cli_fail("%s", e.message);
    fit->cascade_programs = k;
    for (int i = 0; i < s->n && !status; i++) {
        int n_run;
        fit->cascade_right += runs[i * k + polar_cascade(runs + i * k, k, fit->threshold, &n_run)].correct;
        for (int c = 0; c < n_run; c++) fit->cascade_cost += runs[i * k + c].cost / s->n;
    }
    free(runs);
    return status;
}

int scores_fit(const scores *s, score_fit *fit) {
    memset(fit, 0, sizeof *fit);
    fit->n = s->n;
    for (int i = 0; i < s->n; i++) fit->identity_right += s->questions[i].results[0].right;
    if (s->n_menu) fit_fixed(s, fit);
    for (int i = 0; i < s->n; i++)
        if (!s->questions[i].probability) return 0;
    if (!s->n_menu || !s->n) return 0;
    fit_points(s, fit);
    return fit->has_points && s->k > 1 ? scores_fit_cascade(s, fit->gain.price, fit) : 0;
}

static void put_pick(FILE *f, const char *name, const score_pick *x, int n) {
    fprintf(f, ",\"%s\":{\"price\":", name);
    json_put_double(f, x->price);
    fprintf(f, ",\"right\":%d,\"accuracy\":", x->right);
    json_put_double(f, n ? (double)x->right / n : 0);
    fprintf(f, ",\"cost\":");
    json_put_double(f, x->cost);
    json_put_number(f, "lower", x->lower);
    fputc('}', f);
}

void score_fit_put(FILE *f, const score_fit *fit) {
    fprintf(f, "{\"file\":");
    json_put_text(f, fit->file);
    fprintf(f, ",\"checksum\":\"%s\",\"n\":%d,\"identity_right\":%d", fit->questions, fit->n, fit->identity_right);
    if (fit->has_points) {
        put_pick(f, "gain", &fit->gain, fit->n);
        put_pick(f, "save", &fit->save, fit->n);
    }
    if (*fit->fixed_best)
        fprintf(f, ",\"fixed\":{\"gain\":\"%s\",\"save\":\"%s\",\"best\":\"%s\"}", fit->fixed_gain, fit->fixed_save,
                fit->fixed_best);
    if (fit->cascade_programs) {
        fprintf(f, ",\"cascade\":{\"programs\":%d,\"threshold\":", fit->cascade_programs);
        json_put_double(f, fit->threshold);
        fputc('}', f);
    }
    fputc('}', f);
}

static int read_pick(score_pick *x, const json *v) {
    x->price = number_of(json_get(v, "price"), -1);
    x->cost = number_of(json_get(v, "cost"), 0);
    x->lower = number_of(json_get(v, "lower"), -1);
    return json_int(json_get(v, "right"), &x->right) && x->price >= 0;
}

int score_fit_read(score_fit *fit, const json *v, const char *name) {
    const json *fixed = json_get(v, "fixed"), *cascade = json_get(v, "cascade");
    memset(fit, 0, sizeof *fit);
    if (!json_int(json_get(v, "n"), &fit->n) || !json_int(json_get(v, "identity_right"), &fit->identity_right))
        return cli_fail("%s: holds neither an evaluation nor what polar eval --fit writes", name);
    fit->has_points = json_get(v, "gain") != NULL;
    if (fit->has_points && (!read_pick(&fit->gain, json_get(v, "gain")) || !read_pick(&fit->save, json_get(v, "save"))))
        return cli_fail("%s: its operating points are malformed", name);
    snprintf(fit->fixed_gain, sizeof fit->fixed_gain, "%s", text_of(fixed, "gain"));
    snprintf(fit->fixed_save, sizeof fit->fixed_save, "%s", text_of(fixed, "save"));
    snprintf(fit->fixed_best, sizeof fit->fixed_best, "%s", text_of(fixed, "best"));
    snprintf(fit->file, sizeof fit->file, "%s", text_of(v, "file"));
    snprintf(fit->questions, sizeof fit->questions, "%s", text_of(v, "checksum"));
    json_int(json_get(cascade, "programs"), &fit->cascade_programs);
    fit->threshold = number_of(json_get(cascade, "threshold"), 0);
    return 0;
}

/* --- the summary -------------------------------------------------------------------------------------------- */

static void put_interval(FILE *f, const char *name, statistics_interval x) {
    fprintf(f, ",\"%s\":[", name);
    json_put_double(f, x.low);
    fputc(',', f);
    json_put_double(f, x.high);
    fputc(']', f);
}

static double share(int part, int n) {
    return n ? (double)part / n : 0;
}

/* Share of right answers, and what it is more than the identity's. */
static double rate(const score_figures *x) {
    return x->n ? x->mean / x->n : 0;
}

static double change(const score_figures *x) {
    return x->n ? (x->mean - x->paired.both - x->paired.broken) / x->n : 0;
}

/* Members from the number of right answers on. `p`: corrected; NULL for primary comparisons and the identity. */
static void put_figures(FILE *f, const score_figures *x, const double *p) {
    fprintf(f, ",\"right\":");
    json_put_double(f, x->mean);
    json_put_number(f, "accuracy", rate(x));
    put_interval(f, "interval", x->accuracy);
    json_put_number(f, "calls_per_token", x->calls);
    json_put_number(f, "cost", x->cost);
    fprintf(f, ",\"corrected\":%d,\"broken\":%d", x->paired.corrected, x->paired.broken);
    json_put_number(f, "difference", change(x));
    put_interval(f, "difference_interval", x->difference);
    json_put_number(f, "p", x->p);
    if (p) json_put_number(f, "p_holm", *p);
    if (x->n_timed) {
        json_put_number(f, "seconds", x->seconds);
        fprintf(f, ",\"n_timed\":%d", x->n_timed);
    }
}

static void put_method(FILE *f, const scores *s, const score_tests *t, int method) {
    const score_figures x = scores_figures(s, method, NULL);
    fprintf(f, "{\"name\":\"%s\"", s->methods[method].name);
    put_figures(f, &x, method && !t->primary[method] ? &t->p[method] : NULL);
    if (t->primary[method]) fprintf(f, ",\"primary\":true");
    if (s->methods[method].needs_answer) fprintf(f, ",\"needs_answer\":true");
    fputc('}', f);
}

/* `right` and `accuracy` are means of all dealings, counts are rounded. */
static void put_nulls(FILE *f, const scores *s, const score_tests *t) {
    if (!t->n_nulls) return;
    fprintf(f, "\"dealings\":{\"n\":%d,\"seed\":%d,\"task\":", SCORE_DEALINGS, SCORE_DEALING_SEED);
    json_put_text(f, t->task ? t->task : "");
    fprintf(f, ",\"length\":\"%s\"},\n\"nulls\":[", t->task ? t->length : "");
    for (int i = 0; i < t->n_nulls; i++) {
        const score_null *x = &t->nulls[i];
        fprintf(f, "%s\n{\"name\":\"%s dealt %s\",\"pick\":%d", i ? "," : "", s->methods[x->pick].name, x->name,
                x->pick);
        put_figures(f, &x->figures, &x->p);
        fprintf(f, ",\"pick_minus_null\":");
        json_put_double(f, (scores_figures(s, x->pick, NULL).right - x->figures.mean) / s->n);
        put_interval(f, "pick_minus_null_interval", x->pick_difference);
        json_put_number(f, "pick_p", x->pick_p);
        fputc('}', f);
    }
    fprintf(f, "],\n");
}

static double pick_less_rival(const scores *s, const score_contest *c) {
    return s->n ? (double)(c->paired.corrected - c->paired.broken) / s->n : 0;
}

static void put_contests(FILE *f, const scores *s, const score_tests *t) {
    if (!t->n_contests) return;
    fprintf(f, "\"contests\":[");
    for (int i = 0; i < t->n_contests; i++) {
        const score_contest *x = &t->contests[i];
        fprintf(f, "%s\n{\"pick\":\"%s\",\"rival\":\"%s\",\"corrected\":%d,\"broken\":%d,\"difference\":", i ? "," : "",
                s->methods[x->pick].name, s->methods[x->rival].name, x->paired.corrected, x->paired.broken);
        json_put_double(f, pick_less_rival(s, x));
        put_interval(f, "difference_interval", x->difference);
        json_put_number(f, "p", x->raw);
        json_put_number(f, "p_holm", x->p);
        fputc('}', f);
    }
    fprintf(f, "],\n");
}

static void put_group(FILE *f, const scores *s, const score_bin *bin) {
    fprintf(f, "{\"value\":");
    json_put_text(f, bin->label);
    fprintf(f, ",\"n\":%d,\"right\":[", bin->n);
    for (int m = 0; m < s->n_methods; m++) fprintf(f, m ? ",%d" : "%d", scores_figures(s, m, bin).right);
    fprintf(f, "],\"cost\":[");
    for (int m = 0; m < s->n_methods; m++) {
        if (m) fputc(',', f);
        json_put_double(f, scores_figures(s, m, bin).cost);
    }
    fprintf(f, "]}");
}

int scores_put(FILE *f, const scores *s) {
    score_tests t;
    if (scores_test(s, &t)) return 1;
    fprintf(f, "{\"n\":%d,\"methods\":[", s->n);
    for (int i = 0; i < s->n_methods; i++) {
        fputs(i ? ",\n" : "\n", f);
        put_method(f, s, &t, i);
    }
    fprintf(f, "],\n");
    put_nulls(f, s, &t);
    put_contests(f, s, &t);
    fprintf(f, "\"groups\":{");
    for (int field = 0, n_fields = 0; field < SCORE_FIELDS; field++) {
        score_bin bins[MAX_VALUES];
        const int n = scores_bins(s, field, bins, MAX_VALUES);
        if (!n) continue;
        fprintf(f, "%s\"%s\":[", n_fields++ ? "," : "", score_field_names[field]);
        for (int i = 0; i < n; i++) {
            fputs(i ? ",\n" : "\n", f);
            put_group(f, s, &bins[i]);
        }
        fputc(']', f);
    }
    fprintf(f, "}}");
    return 0;
}

/* --- the table ---------------------------------------------------------------------------------------------- */

static const char *p_text(double p, char *text, size_t size) {
    if (p >= 0.9995) return "1";
    snprintf(text, size, p >= 0.001 ? "%.3f" : p >= 1e-99 ? "%.0e" : "<1e-99", p);
    return text;
}

static void print_figures(FILE *f, const char *name, const score_figures *x, const double *p, int is_corrected) {
    char text[16];
    fprintf(f, "%-20.20s%5.1f %4.1f-%-5.1f%6.2f", name, 100 * rate(x), 100 * x->accuracy.low,
            100 * x->accuracy.high, x->calls);
    if (p)
        fprintf(f, "%6d%5d %+6.1f %+5.1f %+5.1f %6s%s", x->paired.corrected, x->paired.broken,
                100 * change(x), 100 * x->difference.low,
                100 * x->difference.high, p_text(*p, text, sizeof text), is_corrected ? "h" : "");
    fprintf(f, "\n");
}

/* A method, and below it what its picks answer when they are dealt to other questions. */
static void print_method(FILE *f, const scores *s, const score_tests *t, int method) {
    const score_figures x = scores_figures(s, method, NULL);
    print_figures(f, s->methods[method].name, &x, method ? &t->p[method] : NULL, !t->primary[method]);
    for (int i = 0; i < t->n_nulls; i++) {
        char name[48];
        if (t->nulls[i].pick != method) continue;
        snprintf(name, sizeof name, " dealt %s", t->nulls[i].name);
        print_figures(f, name, &t->nulls[i].figures, &t->nulls[i].p, 1);
    }
}

static void print_nulls(FILE *f, const scores *s, const score_tests *t) {
    if (!t->n_nulls) return;
    fprintf(f, "\npicks less the same picks dealt to other questions (%d dealings, seed %d)\n"
            "                              diff   95 %% int.      p\n", SCORE_DEALINGS, SCORE_DEALING_SEED);
    for (int i = 0; i < t->n_nulls; i++) {
        const score_null *x = &t->nulls[i];
        char name[96], p[16];
        snprintf(name, sizeof name, "%s, %s", s->methods[x->pick].name, x->name);
        fprintf(f, "%-28.28s%+6.1f %+5.1f %+5.1f %6s\n", name,
                100 * (scores_figures(s, x->pick, NULL).right - x->figures.mean) / s->n, 100 * x->pick_difference.low,
                100 * x->pick_difference.high, p_text(x->pick_p, p, sizeof p));
    }
    if (!t->task) fprintf(f, "the questions name no task, subject or domain: dealt at random only\n");
}

/* A line for each rival, a column for each primary pick. */
static void print_contests(FILE *f, const scores *s, const score_tests *t) {
    if (!t->n_contests) return;
    fprintf(f, "\nprimary picks less rivals\n%-20s", "");
    for (int i = 0; i < t->n_contests && t->contests[i].rival == t->contests[0].rival; i++)
        fprintf(f, "  %-10.10s 95 %% int.%6s", s->methods[t->contests[i].pick].name, "p");
    for (int i = 0; i < t->n_contests; i++) {
        const score_contest *x = &t->contests[i];
        char p[16];
        if (!i || x->rival != t->contests[i - 1].rival) fprintf(f, "\n%-20.20s", s->methods[x->rival].name);
        fprintf(f, "  %+6.1f %+5.1f %+5.1f %7s", 100 * pick_less_rival(s, x), 100 * x->difference.low,
                100 * x->difference.high, p_text(x->p, p, sizeof p));
    }
    fprintf(f, "\np corrected with those above; costs differ, see layers there\n");
}

/* Accuracy and layers of some methods for the values of a field, and the difference to the identity. */
static int print_groups(FILE *f, const scores *s, int field) {
    score_bin bins[8];
    int columns[4] = {0}, n_columns = 1, n = scores_bins(s, field, bins, 8);
    for (int i = 1; i < s->n_methods && n_columns < 3; i++)
        if (s->methods[i].point >= 0 && !strncmp(s->methods[i].name, "top-1", 5)) columns[n_columns++] = i;
    for (int i = 1; i < s->n_methods && n_columns < 2; i++) columns[n_columns++] = i;
    if (n < 2) return 0;
    fprintf(f, "\n%-14s questions", score_field_names[field]);
    for (int c = 0; c < n_columns; c++) fprintf(f, "%*.17s", c ? 19 : 18, s->methods[columns[c]].name);
    fprintf(f, "\n");
    for (int i = 0; i < n; i++) {
        fprintf(f, "%-14.14s%10d", bins[i].label, bins[i].n);
        for (int c = 0; c < n_columns; c++) {
            const score_figures x = scores_figures(s, columns[c], &bins[i]);
            if (!c) fprintf(f, "%8.1f %% %7.2f", 100 * share(x.right, x.n), x.calls);
            else
                fprintf(f, "%7.1f%+6.1f%c%5.2f", 100 * share(x.right, x.n),
                        100 * share(x.paired.corrected - x.paired.broken, x.n),
                        x.difference.high < 0 ? '!' : ' ', x.calls);
        }
        fprintf(f, "\n");
    }
    return 1;
}

static void print_times(FILE *f, const scores *s) {
    const score_figures identity = scores_figures(s, 0, NULL);
    if (!identity.n_timed) return;
    fprintf(f, "\nseconds per question, each method alone, predictor included (%d questions)\n", identity.n_timed);
    for (int i = 0; i < s->n_methods; i++) {
        const score_figures x = scores_figures(s, i, NULL);
        if (x.n_timed && !s->methods[i].needs_answer)
            fprintf(f, "%-20.20s%10.4f  %5.2f of the identity's\n", s->methods[i].name, x.seconds,
                    identity.seconds > 0 ? x.seconds / identity.seconds : 0);
    }
}

int scores_print(FILE *f, const scores *s) {
    int oracles = 0, groups = 0, n_primary = 0;
    score_tests t;
    if (scores_test(s, &t)) return 1;
    fprintf(f,
            "%d questions; layers: calls per token, features included, of %d\n"
            "                    right  95 %% int. layers  corr brok   diff   95 %% int.      p\n",
            s->n, s->n_calls);
    for (int i = 0; i < s->n_methods; i++) {
        oracles += s->methods[i].needs_answer;
        n_primary += t.primary[i];
        if (!s->methods[i].needs_answer) print_method(f, s, &t, i);
    }
    if (oracles) fprintf(f, "these need the right answer, and show what is left to gain:\n");
    for (int i = 0; i < s->n_methods; i++)
        if (s->methods[i].needs_answer) print_method(f, s, &t, i);
    if (t.n_family) fprintf(f, "h: p corrected for %d comparisons (Holm)", t.n_family);
    for (int i = 0, n = 0; i < s->n_methods; i++)
        if (t.primary[i]) fprintf(f, "%s%s", n++ ? ", " : "; primary: ", s->methods[i].name);
    if (t.n_family || n_primary) fputc('\n', f);
    print_nulls(f, s, &t);
    print_contests(f, s, &t);
    for (int field = 0; field < SCORE_FIELDS; field++) groups += print_groups(f, s, field);
    if (groups) fprintf(f, "differences to the identity; !: the 95 %% interval is below 0\n");
    print_times(f, s);
    return 0;
}
