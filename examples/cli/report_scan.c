/* polar report: scans as heat maps of blocks. */
#include "report.h"

#include <math.h>

enum { MAX_FILES = 16, LEVELS = 6 };

/* A program of the scan. */
typedef struct scanned {
    char program[32], operation[16];
    int start, end, layers, pareto;
    double score[MAX_FILES], control[MAX_FILES];
    int n_held_out, confirmed; /* confirmed: on one of the files at least */
    struct held_out {
        int n, confirmed;
        double difference, low, high, beyond, beyond_low, beyond_high, p;
    } held_out[MAX_FILES];
} scanned;

typedef struct scan_page {
    FILE *f;
    const json *header;
    int n_layer, n_files, accuracy;
    scanned *items; /* the identity first */
    int n, capacity;
} scan_page;

/* --- reading ------------------------------------------------------------------------------------------------- */

/* null is NAN. */
static double number(const json *v) {
    return v && v->type == JSON_NUMBER ? v->number : NAN;
}

static int read_numbers(const json *list, double *x, int n) {
    const json *v = list && list->type == JSON_ARRAY && list->length == (size_t)n ? list->child : NULL;
    for (int i = 0; i < n; i++, v = v->next) {
        if (!v) return 0;
        x[i] = number(v);
    }
    return 1;
}

static int read_held_out(const json *list, scanned *s, int n_files) {
    if (!list) return 1;
    if (list->type != JSON_ARRAY || list->length != (size_t)n_files) return 0;
    for (const json *v = list->child; v; v = v->next) {
        struct held_out *h = &s->held_out[s->n_held_out++];
        const json *confirmed = json_get(v, "confirmed");
        double interval[2], beyond[2];
        if (!json_int(json_get(v, "n"), &h->n) || !read_numbers(json_get(v, "difference_interval"), interval, 2) ||
            !read_numbers(json_get(v, "beyond_interval"), beyond, 2))
            return 0;
        h->difference = number(json_get(v, "difference"));
        h->beyond = number(json_get(v, "beyond"));
        h->low = interval[0];
        h->high = interval[1];
        h->beyond_low = beyond[0];
        h->beyond_high = beyond[1];
        h->p = number(json_get(v, "p_holm"));
        h->confirmed = confirmed && confirmed->type == JSON_TRUE;
        s->confirmed |= h->confirmed;
    }
    return 1;
}

static int read_scanned(const scan_page *g, const json *v, scanned *s) {
    const char *program = json_get_text(v, "program"), *operation = json_get_text(v, "operation");
    const json *pareto = json_get(v, "pareto");
    memset(s, 0, sizeof *s);
    if (!program || !operation || strlen(program) >= sizeof s->program || strlen(operation) >= sizeof s->operation)
        return 0;
    strcpy(s->program, program);
    strcpy(s->operation, operation);
    s->pareto = pareto && pareto->type == JSON_TRUE;
    if (g->n && (!json_int(json_get(v, "start"), &s->start) || !json_int(json_get(v, "end"), &s->end) || s->start < 0 ||
                 s->end < s->start || s->end >= g->n_layer))
        return 0;
    return json_int(json_get(v, "layers"), &s->layers) && read_numbers(json_get(v, "score"), s->score, g->n_files) &&
           read_numbers(json_get(v, "control"), s->control, g->n_files) &&
           read_held_out(json_get(v, "held_out"), s, g->n_files);
}

static int read_items(scan_page *g, const char *path) {
    cli_objects o;
    const json *v;
    int status = 0;
    if (!cli_objects_open(&o, path)) return 1;
    while (!status && (v = cli_objects_next(&o))) {
        if (g->n == g->capacity) {
            scanned *items = realloc(g->items, (size_t)(g->capacity = 2 * g->capacity + 64) * sizeof *items);
            if (!items) status = cli_fail("out of memory");
            else g->items = items;
        }
        if (!status && !read_scanned(g, v, &g->items[g->n]))
            status = cli_fail("%s:%d: this is no program of a scan", path, o.line);
        g->n += !status;
    }
    if (!status) status = o.failed;
    cli_objects_close(&o);
    if (!status && (!g->n || strcmp(g->items[0].operation, "identity")))
        status = cli_fail("%s: the identity is missing", path);
    return status;
}

static int read_header(scan_page *g, const char *path) {
    const json *probes = json_get(g->header, "probes");
    const char *score = json_get_text(json_get(g->header, "settings"), "score");
    if (!json_int(json_get(json_get(g->header, "model"), "n_layer"), &g->n_layer) || g->n_layer < 1 ||
        g->n_layer > POLAR_MAX_LAYER || !probes || probes->type != JSON_ARRAY || probes->length < 1 ||
        probes->length > MAX_FILES || !score)
        return cli_fail("%s: the header is not that of a scan", path);
    g->n_files = (int)probes->length;
    g->accuracy = !strcmp(score, "accuracy");
    return 0;
}

/* --- heat maps ------------------------------------------------------------------------------------------------ */

static double gain(const scan_page *g, const scanned *s, int file) {
    return s->score[file] - g->items[0].score[file];
}

/* Differences from which a cell gets the next darker colour: nats per token, or shares of questions. */
static double level(const scan_page *g, int i) {
    static const double likelihood[LEVELS] = {0, 0.03, 0.1, 0.3, 1, 3};
    static const double accuracy[LEVELS] = {0, 0.01, 0.03, 0.1, 0.2, 0.4};
    return g->accuracy ? accuracy[i] : likelihood[i];
}

/* A cell: its colour says the sign, its strength how much, and a plus stands on what is better than the identity, for
 * those who see no colours. A filled circle: confirmed; a hollow one: measured again and not confirmed. */
static void put_cell(const scan_page *g, double x, double y, double size, double d, const scanned *s) {
    static const char *const opacity[] = {".1", ".25", ".4", ".6", ".8", "1"};
    const double r = size / 5;
    int n = 0;
    if (d != d) {
        fprintf(g->f, "<path class=\"axis strong\" d=\"M%.1f %.1fl%.1f %.1f\"/>", x, y + size, size, -size);
        return;
    }
    while (n + 1 < LEVELS && fabs(d) >= level(g, n + 1)) n++;
    fprintf(g->f,
            "<g class=\"%s\"><rect class=\"bar\" fill-opacity=\"%s\" stroke=\"var(--line)\" x=\"%.1f\" y=\"%.1f\" "
            "width=\"%.1f\" height=\"%.1f\">",
            d > 0 ? "pick" : "baseline", d == 0 ? "0" : opacity[n], x, y, size, size);
    if (s) {
        fprintf(g->f, "<title>");
        page_text(g->f, s->program, 0);
        fprintf(g->f, ": %+.3g%s</title>", g->accuracy ? 100 * d : d, g->accuracy ? " points" : "");
    }
    fprintf(g->f, "</rect></g>");
    x += size / 2;
    y += size / 2;
    if (s && s->n_held_out)
        fprintf(g->f, "<circle class=\"mark%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>",
                s->confirmed ? "" : " hollow", x, y, size / 4);
    else if (d > 0)
        fprintf(g->f, "<path class=\"whisker\" d=\"M%.1f %.1fh%.1fM%.1f %.1fv%.1f\"/>", x - r, y, 2 * r, x, y - r,
                2 * r);
}

/* Rows: where a block begins; columns: its last layer. */
static void put_map(const scan_page *g, const char *operation, int file) {
    const double side = 352, size = side / g->n_layer;
    page_plot p = {.f = g->f, .left = 36, .top = 22, .width = side, .height = side, .x0 = -0.5, .x1 = g->n_layer - 0.5};
    fprintf(g->f, "<figure>");
    page_picture_begin(&p, "gain of each block of layers", 416);
    page_picture_text(&p, 2, 15, -1, "dim", "first layer of the block", 0);
    page_picture_text(&p, 388, 411, 1, "dim", "last layer", 0);
    page_plot_x_axis(&p, 1);
    for (int i = 0, step = page_tick_step(16 / size); i < g->n_layer; i += step) {
        char label[16];
        snprintf(label, sizeof label, "%d", i);
        page_picture_text(&p, p.left - 5, p.top + (i + 0.5) * size + 5, 1, "dim", label, 0);
    }
    for (int i = 1; i < g->n; i++) {
        const scanned *s = &g->items[i];
        if (strcmp(s->operation, operation)) continue;
        put_cell(g, p.left + s->end * size, p.top + s->start * size, size, gain(g, s, file), s);
        fputc('\n', g->f);
    }
    fprintf(g->f, "<path class=\"axis strong\" d=\"M%.1f %.1fv%.1fh%.1f\"/>\n", p.left, p.top, side, side);
    page_plot_end(&p);
    fprintf(g->f, "<figcaption>");
    if (!strcmp(operation, "x0")) fprintf(g->f, "Skipped");
    else fprintf(g->f, *operation == '~' ? "In %d damped passes" : "Executed %d times", atoi(operation + 1));
    fprintf(g->f, ".</figcaption></figure>\n");
}

static void put_legend(const scan_page *g) {
    fprintf(g->f,
            "<p class=\"dim\">Rows: first layer of the block; columns: its last. <b class=\"pick\">Better</b> (with a "
            "plus) and <b class=\"baseline\">worse</b> than the identity by at least ");
    for (int i = 0; i < LEVELS; i++) {
        fprintf(g->f, "%s<svg class=\"strip\" viewBox=\"0 0 32 15\" aria-hidden=\"true\">", i ? ", " : "");
        put_cell(g, 1, 1, 13, level(g, i) + 1e-9, NULL);
        put_cell(g, 17, 1, 13, -level(g, i) - 1e-9, NULL);
        fprintf(g->f, "</svg>&nbsp;%g", g->accuracy ? 100 * level(g, i) : level(g, i));
    }
    fprintf(g->f, "%s. Filled circle: confirmed on held-out questions; hollow: measured there and not confirmed.</p>\n",
            g->accuracy ? " points" : "");
}

/* The name of a file of probes, between tags. */
static void put_name(const scan_page *g, const char *before, int file, const char *after) {
    const json *probes = json_get(g->header, "probes")->child;
    const char *name;
    for (int i = 0; i < file; i++) probes = probes->next;
    name = json_get_text(probes, "name");
    fputs(before, g->f);
    page_text(g->f, name ? name : "", 60);
    fputs(after, g->f);
}

static void put_maps(const scan_page *g) {
    for (int file = 0; file < g->n_files; file++) {
        if (g->n_files > 1) put_name(g, "<h3>", file, "</h3>\n");
        fprintf(g->f, "<div class=\"two\">\n");
        for (int i = 1; i < g->n; i++) {
            int known = 0;
            for (int k = 1; k < i && !known; k++) known = !strcmp(g->items[k].operation, g->items[i].operation);
            if (!known) put_map(g, g->items[i].operation, file);
        }
        fprintf(g->f, "</div>\n");
    }
}

/* --- tables --------------------------------------------------------------------------------------------------- */

static void put_difference(const scan_page *g, double d, double low, double high) {
    const double unit = g->accuracy ? 100 : 1;
    const int digits = g->accuracy ? 1 : 3;
    fprintf(g->f, "<td>%+.*f</td><td>%+.*f to %+.*f</td>", digits, unit * d, digits, unit * low, digits, unit * high);
}

static void put_program(const scan_page *g, const scanned *s) {
    int times[POLAR_MAX_LAYER];
    polar_program p;
    fprintf(g->f, "<td class=\"l\">");
    page_text(g->f, s->program, 0);
    fprintf(g->f, "</td><td class=\"l\" style=\"min-width:7rem\">");
    if (!polar_program_parse(&p, g->n_layer, s->program, NULL)) {
        cli_program_times(&p, times);
        page_strip(g->f, times, g->n_layer);
    }
    fprintf(g->f, "</td><td>%d</td>", s->layers);
}

static void put_winners(const scan_page *g) {
    int n = 0;
    for (int i = 1; i < g->n; i++) n += g->items[i].n_held_out > 0;
    fprintf(g->f, "<h3>Measured again on held-out questions</h3>\n");
    if (!n) {
        fprintf(g->f, "<p>No program was better than the identity.</p>\n");
        return;
    }
    fprintf(g->f, "<figure><div class=\"wide\"><table><tr><th class=\"l\">program</th><th></th><th>layers</th>"
            "<th>questions</th><th>differ-<br>ence</th><th>95 %% interval</th><th>beyond<br>control</th>"
            "<th>95 %% interval</th><th>p</th><th></th></tr>\n");
    for (int i = 1; i < g->n; i++)
        for (int k = 0; k < g->items[i].n_held_out; k++) {
            const struct held_out *h = &g->items[i].held_out[k];
            fprintf(g->f, "<tr%s>", h->confirmed ? " class=\"pick\"" : "");
            put_program(g, &g->items[i]);
            fprintf(g->f, "<td>%d</td>", h->n);
            put_difference(g, h->difference, h->low, h->high);
            put_difference(g, h->beyond, h->beyond_low, h->beyond_high);
            fprintf(g->f, "<td>%.2g</td>", h->p);
            put_name(g, h->confirmed ? "<td class=\"l\">confirmed: " : "<td class=\"l\">", k, "</td></tr>\n");
        }
    fprintf(g->f,
            "</table></div>\n<figcaption>Differences to the identity on the same questions%s. Beyond control: by how "
            "much more the reference gains than that of another question; a program that is merely less sure gains on "
            "both alike. p: the larger of both tests, corrected for all rows (Holm).</figcaption></figure>\n",
            g->accuracy ? ", in points" : ", log probability per token");
}

static void put_pareto(const scan_page *g) {
    fprintf(g->f, "<h3>No program is better and shorter</h3>\n<figure><div class=\"wide\"><table>"
            "<tr><th class=\"l\">program</th><th></th><th>layers</th>");
    for (int k = 0; k < g->n_files; k++) put_name(g, "<th>", k, "</th>");
    fprintf(g->f, "</tr>\n");
    for (int layers = 0; layers <= POLAR_MAX_CALLS; layers++)
        for (int i = 0; i < g->n; i++) {
            const scanned *s = &g->items[i];
            if (!s->pareto || s->layers != layers) continue;
            fprintf(g->f, "<tr>");
            put_program(g, s);
            for (int k = 0; k < g->n_files; k++)
                fprintf(g->f, "<td>%.*f%s</td>", g->accuracy ? 1 : 3, g->accuracy ? 100 * s->score[k] : s->score[k],
                        g->accuracy ? " %" : "");
            fprintf(g->f, "</tr>\n");
        }
    fprintf(g->f,
            "</table></div>\n<figcaption>Programs that none beats in layers and in the score on every file, on the "
            "questions of the maps: the best of many, so partly by luck.</figcaption></figure>\n");
}

static void put_settings(const scan_page *g) {
    static const char *const names[] = {"model", "held_out", "settings", "version"};
    fprintf(g->f, "<h3>Settings</h3>\n<dl>");
    for (const json *v = json_get(g->header, "probes")->child; v; v = v->next) report_term(g->f, "probes", v);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        report_term(g->f, names[i], json_get(g->header, names[i]));
    fprintf(g->f, "</dl>\n");
}

int report_scan(FILE *f, const char *path, const json *header) {
    scan_page g = {.f = f, .header = header};
    int status = read_header(&g, path);
    if (!status) status = read_items(&g, path);
    if (!status) {
        fprintf(f, "<section>\n<h2>Scan: ");
        page_text(f, cli_base_name(path), 100);
        fprintf(f, "</h2>\n<p>%d programs that skip, repeat or damp one block of layers, by %s.</p>\n", g.n - 1,
                g.accuracy ? "the share of right answers"
                           : "the mean log probability of a token of the reference answers");
        put_legend(&g);
        put_maps(&g);
        put_winners(&g);
        put_pareto(&g);
        page_legend(f);
        put_settings(&g);
        fprintf(f, "</section>\n");
    }
    free(g.items);
    return status;
}
