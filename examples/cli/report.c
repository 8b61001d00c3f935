/* polar report: one page from evaluations and searches, for people. */
#include "report.h"

/* --- searches -------------------------------------------------------------------------------------------------- */

/* The shortest valid program of a question. */
typedef struct found {
    int calls, count; /* count: in the list of distinct programs, questions */
    int *times;       /* (n_layer) */
} found;

/* Questions of one value of a field. */
#define MAX_GROUPS 24
typedef struct group {
    char value[40];
    int n, identity, any; /* questions, those that the identity and any program answer */
} group;

typedef struct search_page {
    FILE *f;
    const char *path;
    json_document *document;
    int n_layer, n, identity, any, corrected;
    double n_programs, sum_shortest;
    int by_length[POLAR_MAX_CALLS + 1];
    /* of shortest programs other than the identity */
    int n_edited, skipped[POLAR_MAX_LAYER], repeated[POLAR_MAX_LAYER];
    group groups[SCORE_FIELDS][MAX_GROUPS];
    int n_groups[SCORE_FIELDS]; /* more than MAX_GROUPS: too many for a table */
    found *programs; /* distinct ones */
    int n_distinct, capacity;
} search_page;

static double share(int part, int n) {
    return n ? (double)part / n : 0;
}

/* A path may be a list of layers or {"path":[..]}, a program with damped segments stands there as text. Executions of
 * each layer, and their number; 0 if it is neither. */
static int read_path(const search_page *g, const json *v, int *times) {
    polar_program p;
    int n = 0;
    if (v && v->type == JSON_STRING)
        return polar_program_parse(&p, g->n_layer, v->text, NULL) ? 0 : cli_program_times(&p, times);
    if (v && v->type == JSON_OBJECT) v = json_get(v, "path");
    if (!v || v->type != JSON_ARRAY || v->length > POLAR_MAX_CALLS) return 0;
    for (int i = 0; i < g->n_layer; i++) times[i] = 0;
    for (const json *e = v->child; e; e = e->next, n++) {
        int layer;
        if (!json_int(e, &layer) || layer < 0 || layer >= g->n_layer) return 0;
        times[layer]++;
    }
    return n;
}

/* Counts a program by how often it runs each layer. 1, or 0 without memory. */
static int count_program(search_page *g, const int *times, int calls) {
    const size_t bytes = (size_t)g->n_layer * sizeof *times;
    found *p;
    for (int i = 0; i < g->n_distinct; i++)
        if (!memcmp(g->programs[i].times, times, bytes)) return ++g->programs[i].count;
    if (g->n_distinct == g->capacity) {
        int n = g->capacity ? g->capacity * 2 : 64;
        if (!(p = realloc(g->programs, (size_t)n * sizeof *p))) return 0;
        g->programs = p;
        g->capacity = n;
    }
    p = &g->programs[g->n_distinct];
    if (!(p->times = malloc(bytes))) return 0;
    memcpy(p->times, times, bytes);
    p->calls = calls;
    p->count = 1;
    return ++g->n_distinct;
}

/* Counts a question among those with the same task, level, ... */
static void count_groups(search_page *g, const json *sample, int identity, int any) {
    for (int field = 0; field < SCORE_FIELDS; field++) {
        const json *v = json_get(json_get(sample, "sample_info"), score_field_names[field]);
        group *list = g->groups[field];
        int i = 0, *n = &g->n_groups[field];
        if (!v) v = json_get(sample, score_field_names[field]);
        if (!v || (v->type != JSON_STRING && v->type != JSON_NUMBER) || !v->length || *n > MAX_GROUPS) continue;
        while (i < *n && strncmp(list[i].value, v->text, sizeof list->value - 1)) i++;
        if (i == *n && ++*n > MAX_GROUPS) continue;
        snprintf(list[i].value, sizeof list->value, "%s", v->text);
        list[i].n++;
        list[i].identity += identity;
        list[i].any += any;
    }
}

static int add_sample(search_page *g, const json *sample, const char *name) {
    const json *lists[] = {json_get(sample, "final_valid_transitions"), json_get(sample, "final_valid_programs")},
               *invalid[] = {json_get(sample, "final_invalid_transitions"), json_get(sample, "final_invalid_programs")};
    int best[POLAR_MAX_LAYER] = {0}, times[POLAR_MAX_LAYER], shortest = 0, right = 0, edited = 0;
    g->n++;
    for (int i = 0; i < 2; i++)
        g->n_programs += (lists[i] ? (double)lists[i]->length : 0) + (invalid[i] ? (double)invalid[i]->length : 0);
    for (int i = 0; i < 2; i++) {
        for (const json *v = lists[i] && lists[i]->type == JSON_ARRAY ? lists[i]->child : NULL; v; v = v->next) {
            const int n = read_path(g, v, times);
            int identity = n == g->n_layer;
            if (!n) return cli_fail("%s: sample %d: a path is no list of layers below %d", name, g->n, g->n_layer);
            for (int k = 0; k < g->n_layer; k++) identity &= times[k] == 1;
            right |= identity;
            if (shortest && n >= shortest) continue;
            shortest = n;
            memcpy(best, times, sizeof best);
        }
    }
    g->identity += right;
    count_groups(g, sample, right, shortest > 0);
    if (!shortest) return 0;
    g->any++;
    g->corrected += !right;
    g->sum_shortest += shortest;
    g->by_length[shortest]++;
    for (int i = 0; i < g->n_layer; i++) {
        g->skipped[i] += best[i] == 0;
        g->repeated[i] += abs(best[i]) > 1;
        edited |= best[i] != 1;
    }
    g->n_edited += edited;
    return count_program(g, best, shortest) ? 0 : cli_fail("out of memory");
}

static int by_count(const void *a, const void *b) {
    const found *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count) - (x->count > y->count)
                                : (x->calls > y->calls) - (x->calls < y->calls);
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

static void put_counts(const search_page *g) {
    fprintf(g->f, "<section>\n<h2>Search: ");
    page_text(g->f, cli_base_name(g->path), 100);
    fprintf(g->f,
            "</h2>\n<p>%d questions, %.0f programs tried on each. All %d layers once answer <b>%.1f&nbsp;%%</b>; "
            "for <b>%.1f&nbsp;%%</b> some program was found that does, for <b>%.1f&nbsp;%%</b> of those that the "
            "identity gets wrong. The shortest valid program has %.1f layers on average. A search sees the answer: "
            "this is what programs can do, not what a predictor reaches.</p>\n",
            g->n, g->n ? g->n_programs / g->n : 0, g->n_layer, 100 * share(g->identity, g->n),
            100 * share(g->any, g->n), 100 * share(g->corrected, g->n - g->identity),
            g->any ? g->sum_shortest / g->any : 0);
}

static void put_shortest(const search_page *g) {
    static const double ticks[] = {0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192,
                                   256};
    page_plot p = {.f = g->f, .x0 = 0, .y0 = 0};
    int longest = g->n_layer, most = 1;
    for (int i = 1; i <= POLAR_MAX_CALLS; i++) {
        if (g->by_length[i] && i > longest) longest = i;
        if (g->by_length[i] > most) most = g->by_length[i];
    }
    p.x1 = longest + 1;
    p.y1 = share(most, g->any) * 1.08;
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "shortest valid programs", "layers of the shortest valid program",
                    "questions that have one", 1);
    page_plot_x_ticks(&p, ticks, (int)(sizeof ticks / sizeof *ticks), "%g");
    for (int i = 1; i <= longest; i++) {
        char tip[64];
        snprintf(tip, sizeof tip, "%d layers: %d questions", i, g->by_length[i]);
        if (g->by_length[i])
            page_plot_bar(&p, i - 0.4, i + 0.4, share(g->by_length[i], g->any),
                          i == g->n_layer ? "identity" : "pick", tip);
    }
    page_plot_end(&p);
    fprintf(g->f,
            "<figcaption>Lengths of the shortest valid programs; the dark bar is as long as the model has layers, "
            "%d.</figcaption></figure>\n",
            g->n_layer);
}

static void put_depth(const search_page *g) {
    page_plot p = {.f = g->f, .x0 = -0.6, .x1 = g->n_layer - 0.4, .y0 = 0, .y1 = 0.1};
    double ticks[POLAR_MAX_LAYER];
    int n = 0;
    for (int i = 0; i < g->n_layer; i++) {
        if (share(g->skipped[i], g->any) > p.y1) p.y1 = share(g->skipped[i], g->any);
        if (share(g->repeated[i], g->any) > p.y1) p.y1 = share(g->repeated[i], g->any);
        if (i % ((g->n_layer + 15) / 16) == 0) ticks[n++] = i;
    }
    p.y1 *= 1.05;
    fprintf(g->f, "<figure>");
    page_plot_begin(&p, "layers skipped and repeated", "layer", "shortest valid programs", 1);
    page_plot_x_ticks(&p, ticks, n, "%g");
    for (int i = 0; i < g->n_layer; i++) {
        char tip[64];
        snprintf(tip, sizeof tip, "layer %d skipped: %d", i, g->skipped[i]);
        page_plot_bar(&p, i - 0.4, i, share(g->skipped[i], g->any), "pick", tip);
        snprintf(tip, sizeof tip, "layer %d repeated: %d", i, g->repeated[i]);
        page_plot_bar(&p, i, i + 0.4, share(g->repeated[i], g->any), "baseline", tip);
    }
    page_plot_end(&p);
    fprintf(g->f,
            "<figcaption>By depth: the share of shortest valid programs that <b class=\"pick\">skip</b> and that "
            "<b class=\"baseline\">repeat</b> a layer.</figcaption></figure>\n");
}

static void put_found(const search_page *g) {
    qsort(g->programs, (size_t)g->n_distinct, sizeof *g->programs, by_count);
    fprintf(g->f,
            "<figure><div class=\"wide\"><table><tr><th>questions</th><th class=\"l\">shortest valid program</th>"
            "<th>layers</th></tr>\n");
    for (int i = 0; i < g->n_distinct && i < 12; i++) {
        fprintf(g->f, "<tr><td>%d</td><td class=\"l\">", g->programs[i].count);
        page_strip(g->f, g->programs[i].times, g->n_layer);
        fprintf(g->f, "</td><td>%d</td></tr>\n", g->programs[i].calls);
    }
    fprintf(g->f, "</table></div><figcaption>The most frequent of %d different ones.</figcaption></figure>\n",
            g->n_distinct);
}

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

static void put_search_settings(const search_page *g) {
    static const char *const names[] = {"model", "questions", "settings", "menu", "version"};
    if (!g->document) return;
    fprintf(g->f, "<h3>Settings</h3>\n<dl>");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        report_term(g->f, names[i], json_get(json_root(g->document), names[i]));
    fprintf(g->f, "</dl>\n");
}

static int read_samples(search_page *g) {
    cli_objects o;
    const json *sample;
    int status = 0;
    if (!cli_objects_open(&o, g->path)) return 1;
    while (!status && (sample = cli_objects_next(&o))) status = add_sample(g, sample, o.name);
    if (!status) status = o.failed;
    if (!status && !g->n) status = cli_fail("%s: holds no samples", o.name);
    cli_objects_close(&o);
    return status;
}

static int report_search(FILE *f, const char *path, json_document *header) {
    search_page *g = calloc(1, sizeof *g);
    int status = 0;
    if (!g) return cli_fail("out of memory");
    g->f = f;
    g->path = path;
    g->document = header;
    if (!header || !json_int(json_get(json_get(json_root(header), "model"), "n_layer"), &g->n_layer) ||
        g->n_layer < 1 || g->n_layer > POLAR_MAX_LAYER)
        status = deepest_layer(path, &g->n_layer);
    if (!status) status = read_samples(g);
    if (!status) {
        put_counts(g);
        page_legend(f);
        fprintf(f, "<div class=\"two\">\n");
        put_shortest(g);
        put_depth(g);
        put_found(g);
        for (int i = 0; i < SCORE_FIELDS; i++) put_groups(g, i);
        fprintf(f, "</div>\n");
        put_search_settings(g);
        fprintf(f, "</section>\n");
    }
    for (int i = 0; i < g->n_distinct; i++) free(g->programs[i].times);
    free(g->programs);
    free(g);
    return status;
}

/* --- training -------------------------------------------------------------------------------------------------- */

/* A loss curve: lines of JSON, or an array, of {"epoch","loss","validation_loss"}. 1 if the file is one. */
static int is_curve(const json *v) {
    return v && json_get(v, "loss") && json_get(v, "epoch");
}

#define MAX_EPOCHS 1000

static int report_curve(FILE *f, const char *path) {
    static double x[MAX_EPOCHS], loss[MAX_EPOCHS], validation[MAX_EPOCHS];
    page_plot p = {.f = f, .x0 = 0.5, .y0 = 0, .y1 = 0};
    double ticks[16];
    cli_objects o;
    const json *v;
    int n = 0, has_validation = 0, n_ticks = 0, status = 0;
    if (!cli_objects_open(&o, path)) return 1;
    while ((v = cli_objects_next(&o))) {
        const json *l = json_get(v, "loss"), *e = json_get(v, "epoch"), *t = json_get(v, "validation_loss");
        if (!l || !e || l->type != JSON_NUMBER || e->type != JSON_NUMBER) continue;
        if (n == MAX_EPOCHS) {
            status = cli_fail("%s: more than %d epochs", path, MAX_EPOCHS);
            break;
        }
        x[n] = e->number;
        loss[n] = l->number;
        validation[n] = t && t->type == JSON_NUMBER ? t->number : 0;
        has_validation |= validation[n] > 0;
        if (loss[n] > p.y1) p.y1 = loss[n];
        if (validation[n] > p.y1) p.y1 = validation[n];
        n++;
    }
    if (!status) status = o.failed;
    cli_objects_close(&o);
    if (status) return status;
    if (n < 1 || !(p.y1 > 0)) return cli_fail("%s: no epochs with a loss", path);
    p.x0 = x[0] - 0.5;
    p.x1 = x[n - 1] + 0.5;
    p.y1 *= 1.08;
    for (int i = 0; i < n; i += (n + 15) / 16) ticks[n_ticks++] = x[i];
    fprintf(f, "<section>\n<h2>Training: ");
    page_text(f, cli_base_name(path), 100);
    fprintf(f, "</h2>\n<figure>");
    page_plot_begin(&p, "loss of the predictor", "epoch", "loss", 0);
    page_plot_x_ticks(&p, ticks, n_ticks, "%g");
    page_plot_line(&p, x, loss, n, "pick");
    if (has_validation) page_plot_line(&p, x, validation, n, "baseline");
    page_plot_end(&p);
    fprintf(f, "<figcaption>Loss per epoch: <b class=\"pick\">training</b>%s.</figcaption></figure>\n</section>\n",
            has_validation ? ", <b class=\"baseline\">held-out questions</b>" : "");
    return 0;
}

/* --- the command ------------------------------------------------------------------------------------------------- */

/* What a file is, by its header, else by its first object. */
static int report_file(FILE *f, const char *path) {
    cli_objects o;
    json_document *header = NULL;
    const char *error, *kind;
    size_t at;
    int status, curve = 0;
    if (!cli_objects_open(&o, path)) return 1;
    if (o.header.text) header = json_read(o.header.text, o.header.length, &error, &at);
    else curve = is_curve(cli_objects_next(&o));
    kind = json_get_text(header ? json_root(header) : NULL, "kind");
    status = o.failed;
    cli_objects_close(&o);
    if (!status)
        status = kind && !strcmp(kind, "eval") ? report_eval(f, path)
               : kind && !strcmp(kind, "scan") ? report_scan(f, path, json_root(header))
               : curve ? report_curve(f, path) : report_search(f, path, header);
    json_free(header);
    return status;
}

int command_report(cli *c) {
    const char *output = NULL, *title = "polar report";
    const cli_option options[] = {{"output", 'o', CLI_PAGE, &output, "FILE", "the page; - is stdout"},
                                  {"title", 0, CLI_TEXT, &title, "TEXT", "its title (polar report)"},
                                  {0}};
    cli_output out;
    FILE *f;
    int status = cli_read(c, options, 1, -1);
    if (status >= 0) return status;
    if (!output) return cli_usage("no output: -o FILE names it, -o - is stdout");
    if (!(f = cli_output_open(&out, output))) return 1;
    page_begin(f, title);
    fprintf(f, "<h1>");
    page_text(f, title, 0);
    fprintf(f,
            "</h1>\n<p class=\"dim\">Models run by program: for each question some layers run once, "
            "some are skipped, some repeat.</p>\n");
    status = 0;
    for (int i = 0; i < c->n_args && !status; i++) status = report_file(f, c->args[i]);
    page_end(f);
    return cli_output_close(&out, !status) || status;
}
