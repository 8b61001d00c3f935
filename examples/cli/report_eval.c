/* polar report: the section of an evaluation. Every number is computed from its records. */
#include "report.h"

typedef struct eval_page {
    FILE *f;
    const char *path;
    scores s;
    score_tests tests;
    json_document *document;
    const json *header;
    int pick; /* the method in focus: the first pick, the first other method, or the identity */
} eval_page;

static double share(int part, int n) {
    return n ? (double)part / n : 0;
}

/* --- methods --------------------------------------------------------------------------------------------------- */

/* identity, pick, other (votes, cascades), baseline, oracle: the colours of the page. */
static const char *kind_of(const scores *s, int method) {
    const score_method *m = &s->methods[method];
    if (!method) return "identity";
    if (m->needs_answer) return "oracle";
    if (!strncmp(m->name, "top-1", 5)) return "pick";
    if (!strncmp(m->name, "vote", 4) || !strncmp(m->name, "cascade", 7) || !strncmp(m->name, "decoded", 7))
        return "other";
    return "baseline";
}

/* Methods that are worth a line: identity and picks, or the method in focus. */
static int lines_of(const eval_page *g, int *methods) {
    int n = 0;
    methods[n++] = 0;
    for (int i = 1; i < g->s.n_methods && n < 4; i++)
        if (!strcmp(kind_of(&g->s, i), "pick")) methods[n++] = i;
    if (n == 1 && g->pick) methods[n++] = g->pick;
    return n;
}

#define BINS 8

static void put_p(FILE *f, double p) {
    if (p >= 0.9995) fprintf(f, "1");
    else if (p >= 0.0001) fprintf(f, "%.4f", p);
    else fprintf(f, p > 0 ? "%.0e" : "&lt; 1e-300", p);
}

/* The cells after the name. `p`: NULL for the identity; `primary`: it is not corrected. */
static void put_figures(const eval_page *g, const score_figures *x, const double *p, int primary, int has_seconds) {
    FILE *f = g->f;
    fprintf(f, "</td><td>%.1f %%</td><td>%.1f&ndash;%.1f</td><td>%.2f</td>", 100 * x->mean / x->n,
            100 * x->accuracy.low, 100 * x->accuracy.high, x->calls);
    if (p) {
        fprintf(f, "<td>%d</td><td>%d</td><td>%+.1f</td><td>%+.1f to %+.1f</td><td>%s", x->paired.corrected,
                x->paired.broken, 100 * (x->mean - x->paired.both - x->paired.broken) / x->n, 100 * x->difference.low,
                100 * x->difference.high, primary ? "<b>" : "");
        put_p(f, *p);
        fprintf(f, primary ? "</b></td>" : "</td>");
    } else fprintf(f, "<td></td><td></td><td></td><td></td><td></td>");
    if (x->seconds >= 0 && has_seconds) fprintf(f, "<td>%.4g</td>", x->seconds);
    else if (scores_figures(&g->s, 0, NULL).n_timed) fprintf(f, "<td></td>");
    fprintf(f, "</tr>\n");
}

/* A method, and below it its picks dealt to other questions. */
static void put_row(const eval_page *g, int method) {
    const score_figures x = scores_figures(&g->s, method, NULL);
    const score_tests *t = &g->tests;
    fprintf(g->f, "<tr class=\"%s\"><td>%d</td><td class=\"l\">", kind_of(&g->s, method), method + 1);
    page_text(g->f, g->s.methods[method].name, 40);
    put_figures(g, &x, method ? &t->p[method] : NULL, t->primary[method], !g->s.methods[method].needs_answer);
    for (int i = 0; i < t->n_nulls; i++) {
        if (t->nulls[i].pick != method) continue;
        fprintf(g->f, "<tr class=\"baseline\"><td></td><td class=\"l\">&nbsp; dealt %s", t->nulls[i].name);
        put_figures(g, &t->nulls[i].figures, &t->nulls[i].p, 0, 0);
    }
}

/* What the picks know of a question beyond its kind. */
static void put_nulls(const eval_page *g) {
    const score_tests *t = &g->tests;
    if (!t->n_nulls) return;
    fprintf(g->f,
            "<figure><div class=\"wide\"><table>\n<tr><th class=\"l\">picks</th><th class=\"l\">less dealt</th>"
            "<th>differ-<br>ence</th><th>95 %% interval</th><th>p</th></tr>\n");
    for (int i = 0; i < t->n_nulls; i++) {
        const score_null *x = &t->nulls[i];
        fprintf(g->f, "<tr><td class=\"l\">");
        page_text(g->f, g->s.methods[x->pick].name, 40);
        fprintf(g->f, "</td><td class=\"l\">%s</td><td>%+.1f</td><td>%+.1f to %+.1f</td><td>", x->name,
                100 * (scores_figures(&g->s, x->pick, NULL).right - x->figures.mean) / g->s.n,
                100 * x->pick_difference.low, 100 * x->pick_difference.high);
        put_p(g->f, x->pick_p);
        fprintf(g->f, "</td></tr>\n");
    }
    fprintf(g->f,
            "</table></div>\n<figcaption>Nulls: the predictor's own picks dealt to other questions, at "
            "random%s%s%s%s%s. What the picks answer beyond them is what the predictor knows of a question, and beyond "
            "its kind. Means of %d dealings (seed %d); p: the share of dealings that are as right as the picks."
            "</figcaption></figure>\n",
            t->task ? ", within the same " : " only, as the file names no task", t->task ? t->task : "",
            t->task ? ", and within the same " : "", t->task ? t->task : "", t->task ? " and length" : "",
            SCORE_DEALINGS, SCORE_DEALING_SEED);
}

/* Right answers of the picks for each task, and where one loses. */
static void put_tasks(const eval_page *g) {
    score_bin bins[BINS];
    const int field = g->tests.task_field;
    const int n = field >= 0 ? scores_bins(&g->s, field, bins, BINS) : 0;
    int methods[4], n_lines = lines_of(g, methods);
    if (n < 2) return;
    fprintf(g->f,
            "<figure><div class=\"wide\"><table>\n<tr><th class=\"l\">%s</th><th>questions</th><th>identity</th>",
            g->tests.task);
    for (int c = 1; c < n_lines; c++) {
        fprintf(g->f, "<th>");
        page_text(g->f, g->s.methods[methods[c]].name, 40);
        fprintf(g->f, "</th><th>differ-<br>ence</th><th>95 %% interval</th><th>layers</th>");
    }
    fprintf(g->f, "</tr>\n");
    for (int i = 0; i < n; i++) {
        fprintf(g->f, "<tr><td class=\"l\">");
        page_text(g->f, bins[i].label, 0);
        fprintf(g->f, "</td><td>%d</td><td>%.1f %%</td>", bins[i].n,
                100 * share(scores_figures(&g->s, 0, &bins[i]).right, bins[i].n));
        for (int c = 1; c < n_lines; c++) {
            const score_figures x = scores_figures(&g->s, methods[c], &bins[i]);
            const char *b = x.difference.high < 0 ? "<b class=\"wrong\">" : "";
            fprintf(g->f, "<td>%.1f %%</td><td>%s%+.1f%s</td><td>%+.1f to %+.1f</td><td>%.2f</td>",
                    100 * share(x.right, x.n), b, 100 * share(x.paired.corrected - x.paired.broken, x.n),
                    *b ? "</b>" : "", 100 * x.difference.low, 100 * x.difference.high, x.calls);
        }
        fprintf(g->f, "</tr>\n");
    }
    fprintf(g->f, "</table></div>\n<figcaption>By %s; differences to the identity.</figcaption></figure>\n",
            g->tests.task);
}

/* What the methods are, in the words of the file. */
static void put_notes(const eval_page *g) {
    const json *methods = json_get(g->header, "methods"), *m = methods->child;
    fprintf(g->f, "<dl class=\"notes\">\n");
    for (int i = 0; m && i < g->s.n_methods; i++, m = m->next) {
        const char *note = json_get_text(m, "note"), *program = json_get_text(m, "program");
        fprintf(g->f, "<dt>%d ", i + 1);
        page_text(g->f, g->s.methods[i].name, 40);
        fprintf(g->f, "</dt><dd>");
        page_text(g->f, note ? note : "", 200);
        if (program && i) {
            fprintf(g->f, ": ");
            page_text(g->f, program, 80);
        }
        fprintf(g->f, "</dd>\n");
    }
    fprintf(g->f, "</dl>\n");
}

static void put_table(const eval_page *g) {
    FILE *f = g->f;
    const int n_timed = scores_figures(&g->s, 0, NULL).n_timed;
    fprintf(f,
            "<figure><div class=\"wide\"><table>\n<tr><th></th><th class=\"l\">method</th><th>right</th>"
            "<th>95 %% interval</th><th>layers<br>per token</th><th>cor-<br>rected</th><th>broken</th>"
            "<th>differ-<br>ence</th><th>95 %% interval</th><th>p</th>%s</tr>\n",
            n_timed ? "<th>seconds</th>" : "");
    for (int i = 0; i < g->s.n_methods; i++)
        if (!g->s.methods[i].needs_answer) put_row(g, i);
    for (int i = 0; i < g->s.n_methods; i++)
        if (g->s.methods[i].needs_answer) put_row(g, i);
    fprintf(f,
            "</table></div>\n<figcaption>Layers per token: executed layer calls, of %d, those for the features "
            "included. Corrected and broken, difference and p compare with the identity on the same questions: "
            "Wilson intervals, Newcombe's for paired differences (in points), exact McNemar test; p in bold: the "
            "comparisons named beforehand, all others corrected together (Holm, %d). "
            "Oracles (in italics) need the right answer: they say what is left to gain, not what a user gets.",
            g->s.n_calls, g->tests.n_family);
    if (n_timed)
        fprintf(f,
                " Seconds per question: each method run by itself on %d of the questions, prediction included, "
                "without shared work.",
                n_timed);
    fprintf(f, "</figcaption></figure>\n");
}

/* --- accuracy against cost ------------------------------------------------------------------------------------- */

#define CURVE_POINTS 60

/* The menu's picks at all prices: costs and shares right; their number. */
static int price_curve(const eval_page *g, double *x, double *y) {
    double price = 1e-4;
    int n = 0;
    if (!g->s.n_menu || !g->s.n_points) return 0;
    for (int i = 0; i < CURVE_POINTS; i++) {
        const score_pick at = scores_at_price(&g->s, i ? price : 0);
        if (i) price *= 1.2;
        if (n && at.cost == x[n - 1]) continue;
        x[n] = at.cost;
        y[n++] = share(at.right, g->s.n);
    }
    return n;
}

/* Makes room for what is at x, from low to high. */
static void widen(page_plot *p, double x, double low, double high) {
    if (x < p->x0) p->x0 = x;
    if (x > p->x1) p->x1 = x;
    if (low < p->y0) p->y0 = low;
    if (high > p->y1) p->y1 = high;
}

static void put_scatter(const eval_page *g) {
    static const double ticks[] = {0.0625, 0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 16, 32, 64};
    page_plot p = {.f = g->f, .x0 = 1, .x1 = 1, .y0 = 1, .y1 = 0, .log_x = 1};
    double curve_x[CURVE_POINTS], curve_y[CURVE_POINTS];
    const int curve = price_curve(g, curve_x, curve_y);
    for (int i = 0; i < curve; i++) widen(&p, curve_x[i], curve_y[i], curve_y[i]);
    for (int i = 0; i < g->s.n_methods; i++) {
        const score_figures x = scores_figures(&g->s, i, NULL);
        widen(&p, x.cost, x.accuracy.low, x.accuracy.high);
    }
    p.x0 *= 0.85;
    p.x1 *= 1.25;
    p.y0 = p.y0 > 0.02 ? p.y0 - 0.02 : 0;
    p.y1 = p.y1 < 0.98 ? p.y1 + 0.02 : 1;
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "accuracy against cost of all methods", "cost: layer calls per token over layers", "right", 1);
    page_plot_x_ticks(&p, ticks, (int)(sizeof ticks / sizeof *ticks));
    page_plot_line(&p, curve_x, curve_y, curve, "pick");
    for (int i = g->s.n_methods - 1; i >= 0; i--) {
        const score_figures x = scores_figures(&g->s, i, NULL);
        page_plot_point(&p, x.cost, share(x.right, x.n), x.accuracy.low, x.accuracy.high, kind_of(&g->s, i),
                        g->s.methods[i].name, g->s.methods[i].needs_answer);
    }
    for (int i = 0; i < g->s.n_methods; i++) {
        const score_figures x = scores_figures(&g->s, i, NULL);
        char label[16];
        snprintf(label, sizeof label, "%d", i + 1);
        page_plot_label(&p, x.cost, share(x.right, x.n), kind_of(&g->s, i), label);
    }
    page_plot_end(&p);
    fprintf(g->f,
            "<figcaption>Numbers are rows of the table; bars are 95 %% intervals; hollow: oracles; "
            "<b class=\"identity\">identity</b>, <b class=\"pick\">picks</b>, <b class=\"other\">votes, cascades, "
            "decoding</b>, <b class=\"baseline\">baselines</b>.%s</figcaption></figure>\n",
            curve ? " The line is what the picks give at other prices; "
                    "it is shown on these questions, not chosen on them."
                  : "");
}

/* --- by difficulty --------------------------------------------------------------------------------------------- */

/* steps, else level, else difficulty, else task, ...: the field that says most about difficulty; -1: none. */
static int best_field(const scores *s, score_bin *bins, int *n) {
    static const int order[SCORE_FIELDS] = {1, 2, 4, 0, 3, 5};
    for (int i = 0; i < SCORE_FIELDS; i++)
        if ((*n = scores_bins(s, order[i], bins, BINS)) > 1) return order[i];
    return -1;
}

static void put_field(const eval_page *g, int field) {
    static const char *const kinds[] = {"identity", "pick", "baseline", "other"};
    score_bin bins[BINS];
    const char *labels[BINS];
    int methods[4], n_lines = lines_of(g, methods), n = scores_bins(&g->s, field, bins, BINS);
    page_plot p = {.f = g->f, .x0 = -0.5, .y0 = 0, .y1 = 1, .second_row = 1};
    char title[64];
    if (n < 2) return;
    p.x1 = n - 0.4;
    snprintf(title, sizeof title, "accuracy by %s", score_field_names[field]);
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, title, score_field_names[field], "right", 1);
    for (int i = 0; i < n; i++) labels[i] = bins[i].label;
    page_plot_x_labels(&p, labels, n);
    for (int c = n_lines - 1; c >= 0; c--) {
        double x[BINS], y[BINS];
        for (int i = 0; i < n; i++) {
            x[i] = i + (c - 0.5 * (n_lines - 1)) * 0.12;
            y[i] = share(scores_figures(&g->s, methods[c], &bins[i]).right, bins[i].n);
        }
        if (field == 1 || field == 2 || field == 4) page_plot_line(&p, x, y, n, kinds[c]);
        for (int i = 0; i < n; i++) {
            const score_figures q = scores_figures(&g->s, methods[c], &bins[i]);
            page_plot_point(&p, x[i], y[i], q.accuracy.low, q.accuracy.high, kinds[c], "", 0);
        }
    }
    page_plot_end(&p);
    fprintf(g->f, "<figcaption>Right by %s, with 95 %% intervals: ", score_field_names[field]);
    for (int c = 0; c < n_lines; c++) {
        fprintf(g->f, "%s<b class=\"%s\">", c ? ", " : "", kinds[c]);
        page_text(g->f, g->s.methods[methods[c]].name, 0);
        fprintf(g->f, "</b>");
    }
    fprintf(g->f, ".</figcaption></figure>\n");
}

/* --- which layers ------------------------------------------------------------------------------------------------ */

/* Mean executions of each layer under a method's programs, in a bin. */
static int mean_layers(const scores *s, int method, const score_bin *bin, double *mean) {
    int times[POLAR_MAX_LAYER], n = 0;
    for (int i = 0; i < s->n_layer; i++) mean[i] = 0;
    for (int i = 0; i < s->n; i++) {
        const score_question *q = &s->questions[i];
        const int chosen = q->results[method].chosen;
        if ((bin && !score_bin_has(bin, q)) || chosen < 0 || !scores_layers(s, q->runs[chosen].program, times))
            continue;
        for (int k = 0; k < s->n_layer; k++) mean[k] += abs(times[k]);
        n++;
    }
    for (int i = 0; i < s->n_layer && n; i++) mean[i] /= n;
    return n;
}

/* Between skipped, once, twice, three times: a mixture of the two nearest colours. */
static void heat_cell(page_plot *p, int column, int row, double mean) {
    const int low = mean >= 4 ? 4 : (int)mean;
    const double part = mean >= 4 ? 0 : mean - low, x = page_x(p, column), y = page_y(p, row);
    const double width = p->width / p->x1 > 6 ? p->width / p->x1 - 1 : p->width / p->x1;
    fprintf(p->f, "<g><title>%.2f</title>", mean);
    for (int i = 0; i < (part > 0 ? 2 : 1); i++)
        fprintf(p->f, "<rect class=\"k%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"20\" style=\"stroke:none\" "
                "opacity=\"%.2f\"/>", low + i, x, y, width, i ? part : 1);
    fprintf(p->f, "</g>");
}

static void heat_row(page_plot *p, const scores *s, int method, const score_bin *bin, const char *label, int row) {
    double mean[POLAR_MAX_LAYER], sum = 0;
    char right[32];
    if (!mean_layers(s, method, bin, mean)) return;
    for (int i = 0; i < s->n_layer; i++) {
        heat_cell(p, i, row, mean[i]);
        sum += mean[i];
    }
    snprintf(right, sizeof right, "%.1f", sum);
    page_heat_label(p, row, label, right);
}

static void put_heat(const eval_page *g, int method) {
    score_bin bins[BINS];
    int n = 0, field = best_field(&g->s, bins, &n);
    page_plot p = {.f = g->f};
    if (field < 0) n = 0;
    fprintf(g->f, "<figure>");
    page_heat_begin(&p, "mean executions of each layer", g->s.n_layer, n + 1);
    for (int i = 0; i < n; i++) heat_row(&p, &g->s, method, &bins[i], bins[i].label, i);
    heat_row(&p, &g->s, method, NULL, "all", n);
    page_plot_end(&p);
    fprintf(g->f, "<figcaption><b>");
    page_text(g->f, g->s.methods[method].name, 0);
    fprintf(g->f,
            "</b>: how often each layer runs on average%s%s, in the colours of the strips; "
            "on the right the layers per token.</figcaption></figure>\n",
            field >= 0 ? ", by " : "", field >= 0 ? score_field_names[field] : "");
}

/* --- which programs ------------------------------------------------------------------------------------- */

typedef struct count {
    int program, n, right, identity;
} count;

static int by_count(const void *a, const void *b) {
    const count *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n) - (x->n > y->n) : (x->program > y->program) - (x->program < y->program);
}

static void put_programs(const eval_page *g, int method) {
    count *counts = calloc((size_t)g->s.programs.n + 1, sizeof *counts);
    int times[POLAR_MAX_LAYER], calls, shown = 0;
    if (!counts) return;
    for (int i = 0; i < g->s.programs.n; i++) counts[i].program = i;
    for (int i = 0; i < g->s.n; i++) {
        const score_question *q = &g->s.questions[i];
        const int chosen = q->results[method].chosen;
        count *c;
        if (chosen < 0) continue;
        c = &counts[q->runs[chosen].program];
        c->n++;
        c->right += q->results[method].right;
        c->identity += q->results[0].right;
    }
    qsort(counts, (size_t)g->s.programs.n, sizeof *counts, by_count);
    fprintf(g->f,
            "<figure><div class=\"wide\"><table><tr><th>questions</th><th class=\"l\">program</th><th>layers</th>"
            "<th>right</th><th>identity<br>there</th></tr>\n");
    for (; shown < 12 && shown < g->s.programs.n && counts[shown].n; shown++) {
        const count *c = &counts[shown];
        if (!scores_layers(&g->s, c->program, times)) continue;
        calls = 0;
        for (int i = 0; i < g->s.n_layer; i++) calls += abs(times[i]);
        fprintf(g->f, "<tr><td>%d</td><td class=\"l\">", c->n);
        page_strip(g->f, times, g->s.n_layer);
        fprintf(g->f, "</td><td>%d</td><td>%.1f %%</td><td>%.1f %%</td></tr>\n", calls, 100 * share(c->right, c->n),
                100 * share(c->identity, c->n));
    }
    fprintf(g->f, "</table></div><figcaption>Programs that <b>");
    page_text(g->f, g->s.methods[method].name, 0);
    fprintf(g->f,
            "</b> took most often, how many of the answers were right, and how many of the identity's on the same "
            "questions.</figcaption></figure>\n");
    free(counts);
}

/* Layers per token of the chosen programs. */
static void put_lengths(const eval_page *g, int method) {
    int counts[POLAR_MAX_CALLS + 1] = {0}, most = 0, longest = g->s.n_calls;
    page_plot p = {.f = g->f, .y0 = 0};
    for (int i = 0; i < g->s.n; i++) {
        const score_question *q = &g->s.questions[i];
        const int chosen = q->results[method].chosen, n = chosen < 0 ? 0 : q->runs[chosen].calls;
        if (n < 1 || n > POLAR_MAX_CALLS) continue;
        if (++counts[n] > most) most = counts[n];
        if (n > longest) longest = n;
    }
    if (!most) return;
    p.x0 = 0;
    p.x1 = longest + 1;
    p.y1 = share(most, g->s.n) * 1.08;
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "distribution of program lengths", "layers of the program", "questions", 1);
    page_plot_x_axis(&p, 1);
    for (int i = 1; i <= longest; i++) {
        char tip[64];
        snprintf(tip, sizeof tip, "%d layers: %d questions", i, counts[i]);
        if (counts[i])
            page_plot_bar(&p, i - 0.4, i + 0.4, 0, share(counts[i], g->s.n),
                          i == g->s.n_calls ? "identity" : "pick", tip);
    }
    page_plot_end(&p);
    fprintf(g->f, "<figcaption>Lengths of the programs that <b>");
    page_text(g->f, g->s.methods[method].name, 0);
    fprintf(g->f, "</b> ran; <b class=\"identity\">as long as the identity</b>: %d layers.</figcaption></figure>\n",
            g->s.n_calls);
}

/* --- the menu ------------------------------------------------------------------------------------------- */

static void put_coverage(const eval_page *g) {
    const scores *s = &g->s;
    double x[POLAR_MAX_MENU], y[POLAR_MAX_MENU];
    page_plot p = {.f = g->f, .x0 = 0.5, .x1 = s->n_menu + 0.5, .y0 = 0, .y1 = 1};
    for (int k = 0; k < s->n_menu && k < POLAR_MAX_MENU; k++) {
        int right = 0;
        for (int i = 0; i < s->n; i++) {
            int any = 0;
            for (int c = 0; c <= k; c++) any |= s->questions[i].runs[s->questions[i].menu[c]].right;
            right += any;
        }
        x[k] = k + 1;
        y[k] = share(right, s->n);
    }
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "coverage against menu size", "programs of the menu", "answered by any of them", 1);
    page_plot_x_axis(&p, 1);
    page_plot_line(&p, x, y, s->n_menu, "oracle");
    for (int k = 0; k < s->n_menu && k < POLAR_MAX_MENU; k++) {
        const statistics_interval i = statistics_accuracy((int)(y[k] * s->n + 0.5), s->n);
        page_plot_point(&p, x[k], y[k], i.low, i.high, "oracle", "", 1);
    }
    page_plot_end(&p);
    fprintf(g->f,
            "<figcaption>Coverage: questions that at least one of the first programs of the menu answers. "
            "An oracle: it needs the answer to know which one.</figcaption></figure>\n");
}

#define CALIBRATION_BINS 10
static void put_calibration(const eval_page *g) {
    static const double ends[] = {0, 1};
    const scores *s = &g->s;
    int n[CALIBRATION_BINS] = {0}, right[CALIBRATION_BINS] = {0};
    double sum[CALIBRATION_BINS] = {0}, x[CALIBRATION_BINS], y[CALIBRATION_BINS];
    page_plot p = {.f = g->f, .x0 = 0, .x1 = 1.02, .y0 = 0, .y1 = 1};
    int k = 0;
    for (int i = 0; i < s->n; i++)
        for (int c = 0; c < s->n_menu && s->questions[i].probability; c++) {
            const double probability = s->questions[i].probability[c];
            const int at = probability >= 1 ? CALIBRATION_BINS - 1
                         : probability > 0 ? (int)(probability * CALIBRATION_BINS) : 0;
            n[at]++;
            sum[at] += probability;
            right[at] += s->questions[i].runs[s->questions[i].menu[c]].right;
        }
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "calibration of the menu's probabilities", "predicted probability", "right", 1);
    page_plot_x_axis(&p, 0.2);
    page_plot_line(&p, ends, ends, 2, "identity");
    for (int i = 0; i < CALIBRATION_BINS; i++) {
        if (!n[i]) continue;
        x[k] = sum[i] / n[i];
        y[k++] = share(right[i], n[i]);
    }
    page_plot_line(&p, x, y, k, "pick");
    k = 0;
    for (int i = 0; i < CALIBRATION_BINS; i++) {
        const statistics_interval interval = statistics_accuracy(right[i], n[i]);
        if (!n[i]) continue;
        page_plot_point(&p, x[k], y[k], interval.low, interval.high, "pick", "", 0);
        k++;
    }
    page_plot_end(&p);
    fprintf(g->f,
            "<figcaption>Calibration: predicted probabilities of all menu programs on these questions, in tenths, "
            "against the share that was right. On the diagonal a prediction means what it says.</figcaption>"
            "</figure>\n");
}

/* --- examples ------------------------------------------------------------------------------------------- */

#define EXAMPLES 4

static const json *element(const json *array, int i) {
    const json *v = array ? array->child : NULL;
    while (v && i-- > 0) v = v->next;
    return v;
}

static void put_answer(FILE *f, const scores *s, const json *run, int right) {
    int times[POLAR_MAX_LAYER], n_calls;
    const char *program = json_get_text(run, "program"), *answer = json_get_text(run, "answer");
    polar_program p;
    if (!program || polar_program_parse(&p, s->n_layer, program, NULL)) return;
    n_calls = cli_program_times(&p, times);
    fprintf(f, "<br>");
    page_strip(f, times, s->n_layer);
    fprintf(f, " %d layers: <b class=\"%s\">", n_calls, right ? "right" : "wrong");
    page_text(f, answer && *answer ? answer : "no answer", 60);
    fprintf(f, "</b>");
}

static void put_example(const eval_page *g, const json *record, int method) {
    const json *runs = json_get(record, "runs"), *results = json_get(record, "results");
    const char *question = json_get_text(record, "question"), *gold = json_get_text(record, "gt_ans");
    int chosen = 0, right = 0, identity = 0, first = 0;
    json_int(json_get(element(results, method), "chosen"), &chosen);
    json_int(json_get(element(results, method), "right"), &right);
    json_int(json_get(element(results, 0), "right"), &identity);
    json_int(json_get(element(results, 0), "chosen"), &first);
    fprintf(g->f, "<li>");
    page_text(g->f, question ? question : "", 600);
    fprintf(g->f, " <small>answer: ");
    page_text(g->f, gold ? gold : "", 80);
    fprintf(g->f, "</small>");
    put_answer(g->f, &g->s, element(runs, first), identity);
    if (chosen >= 0) put_answer(g->f, &g->s, element(runs, chosen), right);
    fprintf(g->f, "</li>\n");
}

/* The first questions that the method corrects, or breaks; spread over the file. */
static int put_examples(const eval_page *g, int method, int corrected) {
    cli_objects o;
    const json *record;
    const score_figures x = scores_figures(&g->s, method, NULL);
    const int n = corrected ? x.paired.corrected : x.paired.broken, step = n > EXAMPLES ? n / EXAMPLES : 1;
    int seen = 0, shown = 0;
    if (!n) return 0;
    if (!cli_objects_open(&o, g->path)) return 1;
    fprintf(g->f, "<h3>%s by ", corrected ? "Corrected" : "Broken");
    page_text(g->f, g->s.methods[method].name, 0);
    fprintf(g->f, "</h3>\n<ul class=\"questions\">\n");
    while (shown < EXAMPLES && (record = cli_objects_next(&o))) {
        const json *results = json_get(record, "results");
        int right = 0, before = 0;
        json_int(json_get(element(results, method), "right"), &right);
        json_int(json_get(element(results, 0), "right"), &before);
        if (right == before || right != corrected) continue;
        if (seen++ % step) continue;
        put_example(g, record, method);
        shown++;
    }
    fprintf(g->f, "</ul>\n");
    cli_objects_close(&o);
    return 0;
}

/* --- the section ---------------------------------------------------------------------------------------- */

static void put_head(const eval_page *g) {
    const json *questions = json_get(g->header, "questions"), *model = json_get(g->header, "model");
    const char *file = json_get_text(questions, "file"), *name = json_get_text(model, "name");
    const score_figures identity = scores_figures(&g->s, 0, NULL), x = scores_figures(&g->s, g->pick, NULL);
    fprintf(g->f, "<section>\n<h2>Evaluation: ");
    page_text(g->f, file ? file : "", 100);
    fprintf(g->f, "</h2>\n<p>%d questions to ", g->s.n);
    page_text(g->f, name && *name ? name : "a model without a name", 100);
    fprintf(g->f, ", %d layers. All layers ", g->s.n_layer);
    if (g->s.n_calls > g->s.n_layer) fprintf(g->f, "%d times", g->s.n_calls / g->s.n_layer);
    else fprintf(g->f, "once");
    fprintf(g->f, " answer <b>%.1f&nbsp;%%</b>", 100 * share(identity.right, identity.n));
    if (g->pick) {
        fprintf(g->f, "; <b>");
        page_text(g->f, g->s.methods[g->pick].name, 0);
        fprintf(g->f, "</b> answers <b>%.1f&nbsp;%%</b> with %.2f layers per token (%+.0f&nbsp;%%), p&nbsp;=&nbsp;",
                100 * share(x.right, x.n), x.calls, 100 * (x.cost - 1));
        put_p(g->f, g->tests.p[g->pick]);
    }
    fprintf(g->f, ".</p>\n");
}

void report_term(FILE *f, const char *name, const json *v) {
    if (!v) return;
    fprintf(f, "<dt>");
    page_text(f, name, 0);
    fprintf(f, "</dt><dd>");
    if (v->type == JSON_STRING || v->type == JSON_NUMBER) page_text(f, v->text, 400);
    else if (v->type == JSON_TRUE || v->type == JSON_FALSE) fprintf(f, v->type == JSON_TRUE ? "yes" : "no");
    for (const json *e = v->type == JSON_ARRAY || v->type == JSON_OBJECT ? v->child : NULL; e; e = e->next) {
        if (e->key) {
            page_text(f, e->key, 0);
            fputc(' ', f);
        }
        if (e->type == JSON_STRING || e->type == JSON_NUMBER) page_text(f, e->text, 200);
        else fprintf(f, "%s", e->type == JSON_ARRAY ? "[..]" : e->type == JSON_OBJECT ? "{..}" : "");
        if (e->next) fprintf(f, "; ");
    }
    fprintf(f, "</dd>");
}

static void put_settings(const eval_page *g) {
    static const char *const names[] = {"model", "predictor", "questions", "settings", "validation", "points",
                                        "version"};
    fprintf(g->f, "<h3>Settings</h3>\n<dl>");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        report_term(g->f, names[i], json_get(g->header, names[i]));
    report_term(g->f, "influence of layers", json_get(g->header, "influence"));
    report_term(g->f, "menu", json_get(g->header, "menu"));
    fprintf(g->f, "</dl>\n");
}

int report_eval(FILE *f, const char *path) {
    eval_page g = {.f = f, .path = path};
    int status = scores_read(&g.s, path, &g.document), has_probability = 1;
    if (!status) {
        g.header = json_root(g.document);
        for (int i = g.s.n_methods - 1; i > 0; i--)
            if (!g.s.methods[i].needs_answer) g.pick = i;
        status = scores_test(&g.s, &g.tests);
    }
    if (!status) {
        for (int i = 0; i < g.s.n; i++) has_probability &= g.s.questions[i].probability != NULL;
        put_head(&g);
        put_table(&g);
        put_nulls(&g);
        put_tasks(&g);
        put_scatter(&g);
        put_notes(&g);
        page_legend(f);
        fprintf(f, "<div class=\"two\">\n");
        for (int i = 0; i < SCORE_FIELDS; i++) put_field(&g, i);
        for (int i = 1; i < g.s.n_methods; i++)
            if (!strcmp(kind_of(&g.s, i), "pick") || i == g.pick) {
                put_heat(&g, i);
                put_programs(&g, i);
            }
        for (int i = 1; i < g.s.n_methods; i++)
            if (!strcmp(kind_of(&g.s, i), "pick") || i == g.pick) put_lengths(&g, i);
        if (g.s.n_menu > 1) put_coverage(&g);
        if (g.s.n_menu && has_probability) put_calibration(&g);
        fprintf(f, "</div>\n");
        status = g.pick && (put_examples(&g, g.pick, 1) || put_examples(&g, g.pick, 0));
        put_settings(&g);
        fprintf(f, "</section>\n");
    }
    json_free(g.document);
    scores_free(&g.s);
    return status;
}
