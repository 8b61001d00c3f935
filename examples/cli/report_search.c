/* polar report: the section of a search. Every number is computed from the results of its samples. */
#include "report.h"
#include "samples.h"

enum { SKIPS = 1, LOOPS = 2, KINDS = 4, MAX_COVER = 32, SHOWN = 12, MAX_GROUPS = 24, DEALINGS = 199 };

/* A program that was tried. */
typedef struct tried {
    int *times;           /* (n_layer) executions, negative where they are damped passes */
    int *calls;           /* (n_calls) */
    int n_calls, edits;   /* SKIPS, LOOPS, both; 0: the identity */
    int n_tried, n_valid; /* on so many questions */
} tried;

typedef struct result {
    int program, valid; /* program: in the list of tried ones */
} result;

typedef struct question {
    result *results; /* ordered by program */
    int n;
    int shortest[KINDS];     /* calls of the shortest valid program with these edits, 0: none */
    int best;                /* the shortest valid program at all, -1: none */
    int group[SCORE_FIELDS]; /* in the list of groups of the field, -1: none */
} question;

/* Questions of one value of a field. */
typedef struct group {
    char value[40];
    int number, n, identity, any; /* questions, those that the identity and any program answer */
} group;

typedef struct search_page {
    FILE *f;
    const char *path;
    const json *header;
    int n_layer, n_loops, n_calls; /* calls of the identity: all layers n_loops times */
    question *questions;
    int n, capacity;
    scores names; /* its table of programs: calls as text, numbered as `programs` */
    tried *programs;
    int n_programs, programs_capacity, identity; /* identity: its number, -1: not tried */
    cli_summary summary;
    group groups[SCORE_FIELDS][MAX_GROUPS];
    int n_groups[SCORE_FIELDS]; /* more than MAX_GROUPS: too many for a table */
    /* Questions: answered by the identity, by any program, by one that the identity does not answer. */
    int right, any, corrected;
} search_page;

static double share(double part, double n) {
    return n > 0 ? part / n : 0;
}

/* --- reading --------------------------------------------------------------------------------------------------- */

/* Skips and loops by executions; a layer that changed its place was skipped here and executed there. */
static int edits_of(const search_page *g, const int *times, const int *calls, int n) {
    int edits = 0;
    for (int i = 0; i < g->n_layer; i++)
        edits |= abs(times[i]) < g->n_loops ? SKIPS : abs(times[i]) > g->n_loops ? LOOPS : 0;
    for (int i = 0; i < n && !edits; i++) edits = (calls[i] & POLAR_CALL_LAYER) != i % g->n_layer ? SKIPS | LOOPS : 0;
    return edits;
}

/* The number of a program in the table of names, -1 without memory. */
static int number_of(search_page *g, const int *calls, int n) {
    char text[POLAR_MAX_CALLS * 12 + 1] = "", *at = text;
    for (int i = 0; i < n; i++) at += snprintf(at, 13, "%d,", calls[i]);
    return scores_program(&g->names, text);
}

/* The segments of calls; 0 where they have none. */
static int segments_of(int n_layer, const int *calls, int n, polar_program *p) {
    return !polar_program_from_path(p, n_layer, calls, n, n_layer, POLAR_MAX_CALLS, NULL);
}

void report_times(int n_layer, const int *calls, int n, int *times) {
    int is_damped = 0; /* which only the segments say for every layer */
    polar_program p;
    for (int i = 0; i < n; i++) {
        times[calls[i] & POLAR_CALL_LAYER]++;
        is_damped |= calls[i] > POLAR_CALL_LAYER;
    }
    if (is_damped && segments_of(n_layer, calls, n, &p)) cli_program_times(&p, times);
}

/* The number of a program that was tried, which may be new; -1 after a message. */
static int add_program(search_page *g, const int *calls, int n) {
    const int number = number_of(g, calls, n);
    tried *p;
    if (number >= 0 && number < g->n_programs) return number;
    if (g->n_programs == g->programs_capacity) {
        const int capacity = 2 * g->programs_capacity + 256;
        if (!(p = realloc(g->programs, (size_t)capacity * sizeof *p))) return -cli_fail("out of memory");
        g->programs = p;
        g->programs_capacity = capacity;
    }
    p = &g->programs[g->n_programs];
    memset(p, 0, sizeof *p);
    p->times = calloc((size_t)g->n_layer + (size_t)n, sizeof *p->times);
    if (number < 0 || !p->times) {
        free(p->times);
        return -cli_fail("out of memory");
    }
    g->n_programs++;
    p->calls = p->times + g->n_layer;
    p->n_calls = n;
    memcpy(p->calls, calls, (size_t)n * sizeof *calls);
    report_times(g->n_layer, calls, n, p->times);
    p->edits = edits_of(g, p->times, calls, n);
    if (!p->edits) g->identity = number;
    return number;
}

static int by_program(const void *a, const void *b) {
    const result *x = a, *y = b;
    return (x->program > y->program) - (x->program < y->program);
}

/* What a program gave on a question: 1 valid, 0 invalid, -1 not tried. */
static int result_of(const question *q, int program) {
    const result key = {program, 0};
    const result *found = q->n ? bsearch(&key, q->results, (size_t)q->n, sizeof key, by_program) : NULL;
    return found ? found->valid : -1;
}

/* Counts a question among those with the same task, level, ... */
static void count_groups(search_page *g, const json *sample, question *q) {
    for (int field = 0; field < SCORE_FIELDS; field++) {
        const json *v = json_get(json_get(sample, "sample_info"), score_field_names[field]);
        group *list = g->groups[field];
        int i = 0, *n = &g->n_groups[field];
        q->group[field] = -1;
        if (!v) v = json_get(sample, score_field_names[field]);
        if (!v || (v->type != JSON_STRING && v->type != JSON_NUMBER) || !v->length || *n > MAX_GROUPS) continue;
        while (i < *n && strncmp(list[i].value, v->text, sizeof list->value - 1)) i++;
        if (i == *n && ++*n > MAX_GROUPS) continue;
        snprintf(list[i].value, sizeof list->value, "%s", v->text);
        list[i].number = q->group[field] = i;
        list[i].n++;
        list[i].identity += q->shortest[0] > 0;
        list[i].any += q->best >= 0;
    }
}

static int add_result(search_page *g, question *q, const int *calls, int n, int valid) {
    const int program = add_program(g, calls, n);
    tried *p = &g->programs[program < 0 ? 0 : program];
    int *shortest;
    if (program < 0) return 1;
    q->results[q->n++] = (result){program, valid};
    p->n_tried++;
    p->n_valid += valid;
    if (!valid) return 0;
    shortest = &q->shortest[p->edits];
    if (!*shortest || n < *shortest) *shortest = n;
    if (q->best < 0 || n < g->programs[q->best].n_calls) q->best = program;
    return 0;
}

/* Files that leave the identity out of their lists have its result elsewhere. */
static int add_identity(search_page *g, question *q, const json *sample) {
    const json *v = json_get(sample, "initial_score");
    int calls[POLAR_MAX_CALLS];
    if (!v) v = json_get(sample, "initial_transition_metric");
    for (int i = 0; i < g->n_calls; i++) calls[i] = i % g->n_layer;
    for (int i = 0; i < q->n; i++)
        if (!g->programs[q->results[i].program].edits) return 0;
    return v && v->type == JSON_NUMBER ? add_result(g, q, calls, g->n_calls, v->number > 0) : 0;
}

static int add_sample(search_page *g, const json *sample, const char *name, trials *t) {
    question *q;
    int status = 0;
    if (g->n == g->capacity) {
        const int capacity = 2 * g->capacity + 64;
        if (!(q = realloc(g->questions, (size_t)capacity * sizeof *q))) return cli_fail("out of memory");
        g->questions = q;
        g->capacity = capacity;
    }
    trials_clear(t);
    if (!trials_add_results(t, sample))
        return cli_fail("%s: sample %d: a path is no list of layers", name, g->n + 1);
    q = &g->questions[g->n++];
    memset(q, 0, sizeof *q);
    q->best = -1;
    if (!(q->results = malloc(((size_t)t->n + 1) * sizeof *q->results))) return cli_fail("out of memory");
    for (int i = 0; i < t->n && !status; i++) {
        const trial *x = &t->items[i];
        for (int k = 0; k < x->n; k++)
            if ((x->path[k] & POLAR_CALL_LAYER) >= g->n_layer)
                return cli_fail("%s: sample %d: a path is no list of layers below %d", name, g->n, g->n_layer);
        status = add_result(g, q, x->path, x->n, x->reward > 0);
    }
    if (!status) status = add_identity(g, q, sample) || summary_add(&g->summary, sample, g->n_layer);
    if (status) return status;
    qsort(q->results, (size_t)q->n, sizeof *q->results, by_program);
    count_groups(g, sample, q);
    g->right += q->shortest[0] > 0;
    g->any += q->best >= 0;
    g->corrected += q->best >= 0 && !q->shortest[0];
    return 0;
}

/* Without a header (files of other programs) the deepest layer of any path says how many there are. */
static int deepest_layer(const char *path, int *n_layer) {
    static const char *const lists[] = {"final_valid_transitions", "final_invalid_transitions"};
    cli_objects o;
    const json *sample;
    int status;
    if (!cli_objects_open(&o, path)) return 1;
    *n_layer = 0;
    while ((sample = cli_objects_next(&o)))
        for (int k = 0; k < 2; k++) {
            const json *list = json_get(sample, lists[k]);
            for (const json *v = list && list->type == JSON_ARRAY ? list->child : NULL; v; v = v->next) {
                const json *p = v->type == JSON_OBJECT ? json_get(v, "path") : v;
                for (const json *e = p && p->type == JSON_ARRAY ? p->child : NULL; e; e = e->next) {
                    int layer;
                    if (json_int(e, &layer) && layer >= *n_layer && layer < POLAR_MAX_LAYER) *n_layer = layer + 1;
                }
            }
        }
    status = o.failed;
    cli_objects_close(&o);
    if (status || *n_layer) return status;
    return cli_fail("%s: neither an evaluation, a scan, results of a search nor a loss curve", path);
}

static int read_samples(search_page *g) {
    cli_objects o;
    const json *sample;
    trials t = {.n_layer = g->n_layer};
    int status = 0;
    if (!cli_objects_open(&o, g->path)) return 1;
    while (!status && (sample = cli_objects_next(&o))) status = add_sample(g, sample, o.name, &t);
    if (!status) status = o.failed;
    if (!status && !g->n) status = cli_fail("%s: holds no samples", o.name);
    cli_objects_close(&o);
    trials_free(&t);
    return status;
}

/* --- what programs can do ---------------------------------------------------------------------------------------- */

static int calls_of_best(const search_page *g, const question *q) {
    return q->best < 0 ? 0 : g->programs[q->best].n_calls;
}

static void put_counts(const search_page *g) {
    double n_results = 0, shortest = 0, p, luck = summary_luck(&g->summary, &p);
    int valid = 0, corrects = 0, shortens = 0;
    char loops[24] = "once";
    for (int i = 0; i < g->n; i++) {
        const question *q = &g->questions[i];
        n_results += q->n;
        shortest += calls_of_best(g, q);
        for (int k = 0; k < q->n; k++) {
            const tried *x = &g->programs[q->results[k].program];
            if (!q->results[k].valid || !x->edits) continue;
            valid++;
            corrects += !q->shortest[0];
            shortens += q->shortest[0] && x->n_calls < g->n_calls;
        }
    }
    if (g->n_loops > 1) snprintf(loops, sizeof loops, "%d times", g->n_loops);
    fprintf(g->f, "<section>\n<h2>Search: ");
    page_text(g->f, cli_base_name(g->path), 100);
    fprintf(g->f,
            "</h2>\n<p>%d questions, %.0f programs tried on each. All %d layers %s answer <b>%.1f&nbsp;%%</b>; "
            "for <b>%.1f&nbsp;%%</b> some program was found that does, for <b>%.1f&nbsp;%%</b> of those that the "
            "identity gets wrong. The shortest valid program has %.1f layers on average.</p>\n",
            g->n, n_results / g->n, g->n_layer, loops, 100 * share(g->right, g->n), 100 * share(g->any, g->n),
            100 * share(g->corrected, g->n - g->right), share(shortest, g->any));
    fprintf(g->f, "<p>Of %d valid programs other than the identity %.1f&nbsp;%% correct an answer, %.1f&nbsp;%% only "
            "shorten: the identity is right too, with more layers.</p>\n",
            valid, 100 * share(corrects, valid), 100 * share(shortens, valid));
    fprintf(g->f, "<p>A search sees the answer: this is an oracle, what programs can do, not what a predictor "
            "reaches.");
    if (luck >= 0)
        fprintf(g->f, " Answers at random would correct %.1f&nbsp;%% of what the identity gets wrong: two questions "
                "have the same answer with probability %.3f, and programs gave many different answers.", luck, p);
    fprintf(g->f, "</p>\n");
}

/* Questions with a valid program of at most `calls` calls, by edits of these kinds or by none. */
static int within_budget(const search_page *g, int calls, int kinds) {
    int n = 0;
    for (int i = 0; i < g->n; i++)
        for (int k = 0; k < KINDS; k++) {
            const int shortest = g->questions[i].shortest[k];
            if ((k & ~kinds) || !shortest || shortest > calls) continue;
            n++;
            break;
        }
    return n;
}

static int longest_of(const search_page *g) {
    int longest = g->n_calls;
    for (int i = 0; i < g->n; i++)
        for (int k = 0; k < KINDS; k++)
            if (g->questions[i].shortest[k] > longest) longest = g->questions[i].shortest[k];
    return longest;
}

static void put_budget_line(page_plot *p, const search_page *g, int kinds, const char *kind, const char *name) {
    double x[POLAR_MAX_CALLS + 1] = {0}, y[POLAR_MAX_CALLS + 1] = {0};
    int n = 0;
    for (int calls = 0; calls < p->x1; calls++) {
        const double right = share(within_budget(g, calls, kinds), g->n);
        if (n && right == y[n - 1]) continue;
        x[n] = calls;
        y[n++] = right;
    }
    page_plot_steps(p, x, y, n, kind);
    for (int i = 1; i < n; i++) {
        char tip[100];
        snprintf(tip, sizeof tip, "%s, at most %.0f layers: %.1f %% (%.0f)", name, x[i], 100 * y[i], y[i] * g->n);
        page_plot_point(p, x[i], y[i], 0, 0, kind, tip, 1);
    }
}

/* Accuracy against the number of layer executions that are allowed. */
static void put_budget(const search_page *g) {
    page_plot p = {.f = g->f, .x0 = 0, .x1 = longest_of(g) + 1, .y0 = 0, .y1 = 1};
    char tip[64];
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "accuracy by depth budget", "layers executed, at most", "right", 1);
    page_plot_x_axis(&p, 1);
    put_budget_line(&p, g, LOOPS, "baseline", "only repeats");
    put_budget_line(&p, g, SKIPS, "pick", "only skips");
    put_budget_line(&p, g, SKIPS | LOOPS, "oracle", "any program");
    snprintf(tip, sizeof tip, "identity, %d layers: %.1f %% (%d)", g->n_calls, 100 * share(g->right, g->n), g->right);
    page_plot_point(&p, g->n_calls, share(g->right, g->n), 0, 0, "identity", tip, 0);
    page_plot_end(&p);
    fprintf(g->f,
            "<figcaption>Accuracy by depth budget, an oracle: questions for which some program was found that executes "
            "at most so many layers: <b class=\"oracle\">any</b>, <b class=\"pick\">one that only skips</b>, "
            "<b class=\"baseline\">one that only repeats</b>, the identity counted in. Filled: the identity, %d "
            "layers, %.1f&nbsp;%%.</figcaption></figure>\n",
            g->n_calls, 100 * share(g->right, g->n));
}

/* Lengths of the shortest valid programs of what the identity gets right and of what it gets wrong. */
static void put_shortest(const search_page *g) {
    int counts[2][POLAR_MAX_CALLS + 1] = {{0}}, longest = g->n_calls, most = 1;
    page_plot p = {.f = g->f, .x0 = 0, .y0 = 0};
    for (int i = 0; i < g->n; i++) {
        const question *q = &g->questions[i];
        const int n = calls_of_best(g, q);
        if (!n) continue;
        counts[!q->shortest[0]][n]++;
        if (n > longest) longest = n;
        if (counts[0][n] + counts[1][n] > most) most = counts[0][n] + counts[1][n];
    }
    p.x1 = longest + 1;
    p.y1 = share(most, g->n) * 1.08;
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "shortest valid programs", "layers of the shortest valid program", "questions", 1);
    page_plot_x_axis(&p, 1);
    for (int i = 1; i <= longest; i++) {
        const double shortens = share(counts[0][i], g->n), all = shortens + share(counts[1][i], g->n);
        char tip[64];
        snprintf(tip, sizeof tip, "%d layers, identity right: %d", i, counts[0][i]);
        if (counts[0][i]) page_plot_bar(&p, i - 0.4, i + 0.4, 0, shortens, "pick", tip);
        snprintf(tip, sizeof tip, "%d layers, identity wrong: %d", i, counts[1][i]);
        if (counts[1][i]) page_plot_bar(&p, i - 0.4, i + 0.4, shortens, all, "baseline", tip);
    }
    page_plot_end(&p);
    fprintf(g->f,
            "<figcaption>The shortest valid program of each question: where the identity is right <b class=\"pick\">it "
            "only shortens</b>, where it is wrong <b class=\"baseline\">it corrects</b>. The identity has %d "
            "layers.</figcaption></figure>\n",
            g->n_calls);
}

static void put_meters(const search_page *g, const char *head, const char *const *names, const int *counts, int n,
                       const char *caption) {
    fprintf(g->f, "<figure><table><tr><th class=\"l\" colspan=\"2\">%s</th><th colspan=\"2\">questions</th></tr>\n",
            head);
    for (int i = 0; i < n; i++)
        page_meter(g->f, names[i], counts[i], g->n, i < n - 1 ? "pick" : "wrong");
    fprintf(g->f, "</table><figcaption>%s</figcaption></figure>\n", caption);
}

static void put_effects(const search_page *g) {
    static const char *const names[] = {"right, and shorter with a program", "right, nothing shorter found",
                                        "corrected with fewer layers", "corrected with as many layers",
                                        "corrected with more layers only", "wrong with all programs tried"};
    int counts[6] = {0};
    for (int i = 0; i < g->n; i++) {
        const question *q = &g->questions[i];
        const int n = calls_of_best(g, q);
        if (q->shortest[0]) counts[n >= g->n_calls]++;
        else counts[!n ? 5 : n < g->n_calls ? 2 : n == g->n_calls ? 3 : 4]++;
    }
    put_meters(g, "what programs bring", names, counts, 6, "By the shortest valid program; right and wrong without "
               "one: what the identity answers.");
}

/* Each question is in one row: what no valid program of it goes without. */
static void put_needs(const search_page *g) {
    static const char *const names[] = {"nothing: the identity is right", "a skip or a loop, either will do", "a skip",
                                        "a loop", "both in one program", "more: no program tried is right"};
    char caption[300];
    int counts[6] = {0};
    for (int i = 0; i < g->n; i++) {
        const int *s = g->questions[i].shortest;
        counts[s[0] ? 0 : s[SKIPS] && s[LOOPS] ? 1 : s[SKIPS] ? 2 : s[LOOPS] ? 3 : s[SKIPS | LOOPS] ? 4 : 5]++;
    }
    snprintf(caption, sizeof caption, "Needed is what every valid program has, as far as programs were tried: a "
             "skip on "
             "%d questions (%.1f&nbsp;%%), a loop on %d (%.1f&nbsp;%%), either or both on %d (%.1f&nbsp;%%).",
             counts[2] + counts[4], 100 * share(counts[2] + counts[4], g->n), counts[3] + counts[4],
             100 * share(counts[3] + counts[4], g->n), g->corrected, 100 * share(g->corrected, g->n));
    put_meters(g, "what a right answer needs", names, counts, 6, caption);
}

/* --- what programs are made of -------------------------------------------------------------------------------- */

/* A row of a heat strip: for each layer part of whole, the largest share of the row darkest. */
static void heat_row(page_plot *p, int row, const char *label, const int *part, const int *whole, int n,
                     const char *kind) {
    double most = 0;
    char right[32];
    for (int i = 0; i < n; i++)
        if (share(part[i], whole[i]) > most) most = share(part[i], whole[i]);
    snprintf(right, sizeof right, "%.0f %%", 100 * most);
    page_heat_label(p, row, label, right);
    for (int i = 0; i < n; i++)
        fprintf(p->f,
                "<g class=\"%s\"><rect class=\"bar\" stroke=\"var(--line)\" fill-opacity=\"%.2f\" x=\"%.1f\" "
                "y=\"%.1f\" "
                "width=\"%.1f\" height=\"20\"><title>layer %d, %s: %d of %d</title></rect></g>\n",
                kind, share(share(part[i], whole[i]), most), page_x(p, i), page_y(p, row), p->width / n, i, label,
                part[i], whole[i]);
}

/* Which layers the shortest valid programs skip and repeat, and how often a program that does is valid. */
static void put_layers(const search_page *g) {
    int done[2][POLAR_MAX_LAYER] = {{0}}, all[POLAR_MAX_LAYER];
    int valid[2][POLAR_MAX_LAYER] = {{0}}, n_tried[2][POLAR_MAX_LAYER] = {{0}};
    page_plot p = {.f = g->f};
    for (int k = 0; k < g->n_layer; k++) {
        all[k] = g->any;
        for (int i = 0; i < g->n; i++)
            for (int kind = 0; kind < 2 && g->questions[i].best >= 0; kind++) {
                const int times = abs(g->programs[g->questions[i].best].times[k]);
                done[kind][k] += kind ? times > 1 : times == 0;
            }
        for (int i = 0; i < g->n_programs; i++) {
            const int times = abs(g->programs[i].times[k]);
            if (times == 1) continue;
            n_tried[times > 1][k] += g->programs[i].n_tried;
            valid[times > 1][k] += g->programs[i].n_valid;
        }
    }
    fprintf(g->f, "<figure>");
    page_heat_begin(&p, "layers skipped and repeated", g->n_layer, 4);
    heat_row(&p, 0, "skipped", done[0], all, g->n_layer, "pick");
    heat_row(&p, 1, "repeated", done[1], all, g->n_layer, "baseline");
    heat_row(&p, 2, "skip valid", valid[0], n_tried[0], g->n_layer, "pick");
    heat_row(&p, 3, "loop valid", valid[1], n_tried[1], g->n_layer, "baseline");
    page_plot_end(&p);
    fprintf(g->f, "<figcaption>By layer: the share of shortest valid programs that skip and that repeat it; below, "
            "of all "
            "programs tried that skip or repeat it, the share that is valid. On the right the largest of the row, "
            "which is darkest.</figcaption></figure>\n");
}

static int is_edit(const polar_segment *s) {
    return s->times != 1;
}

static void put_segments(const search_page *g) {
    int counts[2][POLAR_MAX_LAYER + 1] = {{0}}, total = 0, longest = 4, most = 1, no_form = 0, valid = 0;
    page_plot p = {.f = g->f, .x0 = 0.4, .y0 = 0};
    for (int i = 0; i < g->n_programs; i++) {
        const tried *x = &g->programs[i];
        polar_program program;
        if (!x->n_valid || !x->edits) continue;
        valid += x->n_valid;
        if (!segments_of(g->n_layer, x->calls, x->n_calls, &program)) {
            no_form += x->n_valid;
            continue;
        }
        for (int k = 0; k < program.n_segments; k++) {
            const polar_segment *s = &program.segments[k];
            int *count = &counts[s->times > 1][s->length];
            if (!is_edit(s)) continue;
            total += x->n_valid;
            *count += x->n_valid;
            if (*count > most) most = *count;
            if (s->length > longest) longest = s->length;
        }
    }
    p.x1 = longest + 0.6;
    p.y1 = share(most, total ? total : 1) * 1.08;
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "lengths of segments", "layers of the segment", "segments", 1);
    page_plot_x_axis(&p, 1);
    for (int i = 1; i <= longest; i++)
        for (int kind = 0; kind < 2; kind++) {
            char tip[64];
            snprintf(tip, sizeof tip, "%d layers %s: %d", i, kind ? "repeated" : "skipped", counts[kind][i]);
            if (counts[kind][i])
                page_plot_bar(&p, i - 0.4 + 0.4 * kind, i + 0.4 * kind, 0, share(counts[kind][i], total),
                              kind ? "baseline" : "pick", tip);
        }
    page_plot_end(&p);
    fprintf(g->f,
            "<figcaption>Lengths of the %d segments that valid programs <b class=\"pick\">skip</b> and <b "
            "class=\"baseline\">repeat</b>; layers that are skipped in a row are one.",
            total);
    if (no_form) fprintf(g->f, " %d of %d valid programs have no segments.", no_form, valid);
    fprintf(g->f, "</figcaption></figure>\n");
}

/* Edits of valid programs by what the same program without them gave: [identity wrong, right][skips, repeats]. */
typedef struct undone {
    int n, right, wrong;
} undone;

static int count_undone(search_page *g, const question *q, const tried *x, undone *table) {
    polar_program program, less;
    int calls[POLAR_MAX_CALLS];
    if (!segments_of(g->n_layer, x->calls, x->n_calls, &program)) return 0;
    for (int k = 0; k < program.n_segments; k++) {
        const polar_segment *s = &program.segments[k];
        undone *to = &table[s->times > 1];
        int number, valid;
        if (!is_edit(s)) continue;
        less = program;
        less.segments[k].times = 1;
        less.segments[k].damped = 0;
        if ((number = number_of(g, calls, polar_program_calls(&less, calls, POLAR_MAX_CALLS))) < 0)
            return cli_fail("out of memory");
        valid = result_of(q, number);
        to->n++;
        to->right += valid == 1;
        to->wrong += valid == 0;
    }
    return 0;
}

static int put_undone(search_page *g) {
    static const char *const names[2][2] = {{"identity wrong: skips", "identity wrong: repeats"},
                                            {"identity right: skips", "identity right: repeats"}};
    undone table[2][2] = {{{0}}};
    for (int i = 0; i < g->n; i++) {
        const question *q = &g->questions[i];
        for (int k = 0; k < q->n; k++) {
            const tried *x = &g->programs[q->results[k].program];
            if (q->results[k].valid && x->edits && count_undone(g, q, x, table[q->shortest[0] > 0])) return 1;
        }
    }
    fprintf(g->f, "<figure><div class=\"wide\"><table><tr><th "
            "class=\"l\">question</th><th>edits</th><th>tried<br>without"
            "</th><th>needed</th><th>needless</th></tr>\n");
    for (int i = 0; i < 4; i++) {
        const undone *u = &table[i / 2][i % 2];
        const int known = u->right + u->wrong;
        fprintf(g->f, "<tr><td class=\"l label\">%s</td><td>%d</td><td>%d</td><td>%d</td><td>%.1f %%</td></tr>\n",
                names[i / 2][i % 2], u->n, known, u->wrong, 100 * share(u->right, known));
    }
    fprintf(g->f, "</table></div><figcaption>Edits of valid programs undone, one at a time, where the program "
            "without the "
            "edit was tried too: if it is wrong the edit is needed, if it is right it is not.</figcaption></figure>\n");
    return 0;
}

/* --- few programs, many questions ------------------------------------------------------------------------------ */

/* Chooses programs one by one, each the one that answers most of the questions that are left, of equals the one with
 * fewer calls, of these the one that was tried first. Fills new[] with how many it adds; returns their number. */
static int cover(const search_page *g, int *chosen, int *added) {
    int *gain = calloc((size_t)g->n_programs + 1, sizeof *gain), *left = malloc(((size_t)g->n + 1) * sizeof *left);
    int n = 0;
    if (!gain || !left) n = -cli_fail("out of memory");
    for (int i = 0; i < g->n && n >= 0; i++) left[i] = 1;
    while (n >= 0 && n < MAX_COVER) {
        int best = 0;
        memset(gain, 0, (size_t)g->n_programs * sizeof *gain);
        for (int i = 0; i < g->n; i++)
            for (int k = 0; left[i] && k < g->questions[i].n; k++)
                gain[g->questions[i].results[k].program] += g->questions[i].results[k].valid;
        for (int i = 1; i < g->n_programs; i++)
            if (gain[i] > gain[best] || (gain[i] == gain[best] && g->programs[i].n_calls < g->programs[best].n_calls))
                best = i;
        if (!g->n_programs || !gain[best]) break;
        for (int i = 0; i < g->n; i++) left[i] &= result_of(&g->questions[i], best) != 1;
        chosen[n] = best;
        added[n++] = gain[best];
    }
    free(gain);
    free(left);
    return n;
}

static int put_cover(const search_page *g) {
    int chosen[MAX_COVER], added[MAX_COVER], sum = 0;
    const int n = cover(g, chosen, added);
    double x[MAX_COVER] = {0}, y[MAX_COVER] = {0};
    page_plot p = {.f = g->f, .x0 = 0.5, .x1 = n + 0.5, .y0 = 0, .y1 = 1};
    if (n < 0) return 1;
    if (!n) return 0;
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "questions covered by few programs", "programs", "answered by one of them", 1);
    page_plot_x_axis(&p, 1);
    for (int i = 0; i < n; i++) {
        sum += added[i];
        x[i] = i + 1;
        y[i] = share(sum, g->n);
    }
    page_plot_line(&p, x, y, n, "oracle");
    for (int i = 0; i < n; i++) {
        char tip[64];
        snprintf(tip, sizeof tip, "%d programs: %.1f %% (%.0f)", i + 1, 100 * y[i], y[i] * g->n);
        page_plot_point(&p, x[i], y[i], 0, 0, "oracle", tip, 1);
    }
    page_plot_end(&p);
    fprintf(g->f, "<figcaption>How few programs answer how many questions, an oracle: chosen one by one by the most "
            "questions "
            "that are left. A program counts where it was tried, so that on all questions it may answer more."
            "</figcaption></figure>\n<figure><div class=\"wide\"><table><tr><th>questions<br>added</th>"
            "<th class=\"l\">program</th><th>layers</th><th>valid</th><th>tried</th></tr>\n");
    for (int i = 0; i < n && i < SHOWN; i++) {
        const tried *t = &g->programs[chosen[i]];
        fprintf(g->f, "<tr><td>%d</td><td class=\"l\">", added[i]);
        page_strip(g->f, t->times, g->n_layer);
        fprintf(g->f, "</td><td>%d</td><td>%d</td><td>%d</td></tr>\n", t->n_calls, t->n_valid, t->n_tried);
    }
    fprintf(g->f, "</table></div><figcaption>The first of them, of %d different programs, and on how many questions "
            "each "
            "was valid and tried.</figcaption></figure>\n", g->n_programs);
    return 0;
}

/* The sums over programs and over pairs of questions on which the program was tried of the product of their values: all
 * pairs, and those of the same group of a field (-1: no field). values: one for each result, question after question.
 * `sums` is room for n_programs. */
static void pair_products(const search_page *g, const double *values, int field, double *sums, double *all,
                          double *same) {
    const int n_groups = field < 0 ? 0 : g->n_groups[field];
    *all = *same = 0;
    for (int which = -1; which < n_groups; which++) {
        const double *value = values;
        memset(sums, 0, (size_t)g->n_programs * sizeof *sums);
        for (int i = 0; i < g->n; value += g->questions[i++].n) {
            const question *q = &g->questions[i];
            for (int k = 0; k < q->n && (which < 0 || q->group[field] == which); k++) {
                double *sum = &sums[q->results[k].program];
                *(which < 0 ? all : same) += value[k] * *sum;
                *sum += value[k];
            }
        }
    }
}

/* Pairs of questions, each with a program that was tried on both, and how many have the same result there. */
typedef struct agreement {
    double n, same;     /* pairs; with the same result */
    double chance;      /* expected if the results of each question were dealt among its programs */
    double low, high;   /* middle 95 % of dealings */
} agreement;

static int by_number(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Results as +1 and -1, of the identity as 0, which leaves it out: the product is 1 where two agree, -1 where they do
 * not, so that (n + sum) / 2 agree. The expected product is that of the means. rows: all pairs, those of the same
 * group, the others. */
static int agreements(const search_page *g, int field, agreement rows[3]) {
    double *values, *sums = malloc(((size_t)g->n_programs + 1) * sizeof *sums), *dealt[3], all, same;
    int *order, total = 0, most = 1, status = 0;
    uint64_t state = 1;
    for (int i = 0; i < g->n; i++) {
        total += g->questions[i].n;
        if (g->questions[i].n > most) most = g->questions[i].n;
    }
    values = malloc(((size_t)total + 3 * DEALINGS) * sizeof *values);
    order = malloc((size_t)most * sizeof *order);
    if (!values || !sums || !order) status = cli_fail("out of memory");
    for (int i = 0; i < 3 && !status; i++) dealt[i] = values + total + i * DEALINGS;
    for (int turn = 0; turn < 3 + DEALINGS && !status; turn++) {
        double *value = values;
        for (int i = 0; i < g->n; i++) {
            const question *q = &g->questions[i];
            int n = 0, n_valid = 0;
            for (int k = 0; k < q->n; k++) {
                if (q->results[k].program == g->identity) continue;
                order[n++] = q->results[k].valid;
                n_valid += q->results[k].valid;
            }
            if (turn > 2) statistics_permute(order, n, &state);
            for (int k = 0, at = 0; k < q->n; k++) {
                if (q->results[k].program == g->identity) *value++ = 0;
                else {
                    const int valid = order[at++];
                    *value++ = turn == 0 ? 1 : turn == 1 ? 2.0 * n_valid / n - 1 : 2 * valid - 1;
                }
            }
        }
        pair_products(g, values, field, sums, &all, &same);
        for (int i = 0; i < 3; i++) {
            const double product = i == 0 ? all : i == 1 ? same : all - same, agree = (rows[i].n + product) / 2;
            if (turn == 0) rows[i].n = product;
            else if (turn == 1) rows[i].chance = agree;
            else if (turn == 2) rows[i].same = agree;
            else dealt[i][turn - 3] = agree;
        }
    }
    for (int i = 0; i < 3 && !status; i++) {
        qsort(dealt[i], DEALINGS, sizeof **dealt, by_number);
        rows[i].low = dealt[i][DEALINGS / 40];
        rows[i].high = dealt[i][DEALINGS - 1 - DEALINGS / 40];
    }
    free(values);
    free(sums);
    free(order);
    return status;
}

static int put_agreement(const search_page *g) {
    agreement rows[3];
    int field = 0, one_seed;
    while (field < SCORE_FIELDS && (g->n_groups[field] < 2 || g->n_groups[field] > MAX_GROUPS)) field++;
    if (field == SCORE_FIELDS) field = -1;
    if (agreements(g, field, rows)) return 1;
    if (rows[0].n < 1) return 0;
    fprintf(g->f, "<figure><div class=\"wide\"><table><tr><th class=\"l\">pairs</th><th>compared</th>"
            "<th>agree</th><th>by<br>chance</th><th>95 %% of<br>dealings</th></tr>\n");
    for (int i = 0; i < (field < 0 ? 1 : 3); i++) {
        const agreement *a = &rows[i];
        if (a->n < 1) continue;
        fprintf(g->f, "<tr><td class=\"l\">%s%s</td><td>%.0f</td><td>%.1f %%</td><td>%.1f %%</td>"
                "<td>%.1f&ndash;%.1f</td></tr>\n",
                i == 0 ? "all" : i == 1 ? "same " : "other ", i ? score_field_names[field] : "", a->n,
                100 * a->same / a->n, 100 * a->chance / a->n, 100 * a->low / a->n, 100 * a->high / a->n);
    }
    fprintf(g->f, "</table></div><figcaption>Agreement between questions: of two questions and a program that was "
            "tried on "
            "both, how often it is valid on both or on neither. By chance: the results of each question dealt to its "
            "own programs, exactly and in %d dealings.", DEALINGS);
    if (json_int(json_get(json_get(g->header, "settings"), "one_seed"), &one_seed) && one_seed)
        fprintf(g->f, " All questions had the same seed and so tried the same programs first: that many share a valid "
                "program says nothing here.");
    fprintf(g->f, "</figcaption></figure>\n");
    return 0;
}

/* --- by group ---------------------------------------------------------------------------------------------------- */

/* Numbers by size, before words by their letters. */
static int by_value(const void *a, const void *b) {
    const group *x = a, *y = b;
    char *end_x, *end_y;
    const double p = strtod(x->value, &end_x), q = strtod(y->value, &end_y);
    if (*end_x || *end_y) return !*end_x == !*end_y ? strcmp(x->value, y->value) : *end_x ? 1 : -1;
    return (p > q) - (p < q);
}

static void put_groups(search_page *g, int field) {
    const int n = g->n_groups[field];
    if (n < 2 || n > MAX_GROUPS) return;
    qsort(g->groups[field], (size_t)n, sizeof(group), by_value);
    fprintf(g->f,
            "<figure><div class=\"wide\"><table><tr><th class=\"l\">%s</th><th>questions</th><th>identity</th>"
            "<th>any program</th></tr>\n",
            score_field_names[field]);
    for (int i = 0; i < n; i++) {
        const group *x = &g->groups[field][i];
        fprintf(g->f, "<tr><td class=\"l\">");
        page_text(g->f, x->value, 40);
        fprintf(g->f, "</td><td>%d</td><td>%.1f %%</td><td>%.1f %%</td></tr>\n", x->n, 100 * share(x->identity, x->n),
                100 * share(x->any, x->n));
    }
    fprintf(g->f, "</table></div><figcaption>Questions with a right answer, by %s.</figcaption></figure>\n",
            score_field_names[field]);
}

/* --- the section ----------------------------------------------------------------------------------------------- */

static void put_settings(const search_page *g) {
    static const char *const names[] = {"model", "questions", "settings", "menu", "version"};
    if (!g->header) return;
    fprintf(g->f, "<h3>Settings</h3>\n<dl>");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) report_term(g->f, names[i], json_get(g->header,
         names[i]));
    fprintf(g->f, "</dl>\n");
}

/* The first question that a program corrects, or that the identity answers, whose search is written down. */
static int question_to_show(const search_page *g) {
    for (int i = 0; i < g->n; i++)
        if (g->questions[i].best >= 0 && !g->questions[i].shortest[0]) return i;
    return 0;
}

static int put_section(search_page *g, int shown) {
    put_counts(g);
    page_legend(g->f);
    fprintf(g->f, "<h3>What programs can do</h3>\n<div class=\"two\">\n");
    put_budget(g);
    put_shortest(g);
    put_effects(g);
    put_needs(g);
    fprintf(g->f, "</div>\n<h3>What programs are made of</h3>\n<div class=\"two\">\n");
    put_layers(g);
    put_segments(g);
    if (put_undone(g)) return 1;
    fprintf(g->f, "</div>\n<h3>Few programs, many questions</h3>\n<div class=\"two\">\n");
    if (put_cover(g) || put_agreement(g)) return 1;
    for (int i = 0; i < SCORE_FIELDS; i++) put_groups(g, i);
    fprintf(g->f, "</div>\n");
    if (report_tree(g->f, g->path, g->n_layer, shown < 0 ? question_to_show(g) : shown, shown >= 0)) return 1;
    put_settings(g);
    fprintf(g->f, "</section>\n");
    return 0;
}

int report_search(FILE *f, const char *path, const json *header, int shown) {
    search_page *g = calloc(1, sizeof *g);
    int status = 0;
    if (!g) return cli_fail("out of memory");
    g->f = f;
    g->path = path;
    g->header = header;
    g->identity = -1;
    if (!json_int(json_get(json_get(header, "model"), "n_layer"), &g->n_layer) || g->n_layer < 1 ||
        g->n_layer > POLAR_MAX_LAYER)
        status = deepest_layer(path, &g->n_layer);
    g->n_loops = g->summary.n_loops = cli_header_loops(header);
    g->n_calls = g->n_layer * g->n_loops;
    if (!status && g->n_calls > POLAR_MAX_CALLS) status = cli_fail("%s: a model of %d calls", path, g->n_calls);
    if (!status) status = read_samples(g);
    if (!status && shown >= g->n)
        status = cli_fail("--question %d: %s has %d questions, 0 is the first", shown, path, g->n);
    if (!status) status = put_section(g, shown);
    for (int i = 0; i < g->n_programs; i++) free(g->programs[i].times);
    for (int i = 0; i < g->n; i++) free(g->questions[i].results);
    free(g->programs);
    free(g->questions);
    summary_free(&g->summary);
    scores_free(&g->names);
    free(g);
    return status;
}
