/* polar report: one page from evaluations, searches, scans and loss curves, for people. */
#include "report.h"

/* --- training -------------------------------------------------------------------------------------------------- */

/* A loss curve: lines of JSON, or an array, of {"epoch","loss","validation_loss"}. 1 if the file is one. */
static int is_curve(const json *v) {
    return v && json_get(v, "loss") && json_get(v, "epoch");
}

#define MAX_EPOCHS 1000

static int report_curve(FILE *f, const char *path) {
    static double x[MAX_EPOCHS], loss[MAX_EPOCHS], validation[MAX_EPOCHS];
    page_plot p = {.f = f, .x0 = 0.5, .y0 = 0, .y1 = 0};
    cli_objects o;
    const json *v;
    int n = 0, has_validation = 0, status = 0;
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
    fprintf(f, "<section>\n<h2>Training: ");
    page_text(f, cli_base_name(path), 100);
    fprintf(f, "</h2>\n<figure>");
    page_plot_begin(&p, "loss of the predictor", "epoch", "loss", 0);
    page_plot_x_axis(&p, 1);
    page_plot_line(&p, x, loss, n, "pick");
    if (has_validation) page_plot_line(&p, x, validation, n, "baseline");
    page_plot_end(&p);
    fprintf(f, "<figcaption>Loss per epoch: <b class=\"pick\">training</b>%s.</figcaption></figure>\n</section>\n",
            has_validation ? ", <b class=\"baseline\">held-out questions</b>" : "");
    return 0;
}

/* --- the command ------------------------------------------------------------------------------------------------- */

/* What a file is, by its header, else by its first object. */
static int report_file(FILE *f, const char *path, int question) {
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
               : curve ? report_curve(f, path)
                     : report_search(f, path, header ? json_root(header) : NULL, question);
    json_free(header);
    return status;
}

int command_report(cli *c) {
    const char *output = NULL, *title = "polar report";
    int question = -1;
    const cli_option options[] = {{"output", 'o', CLI_PAGE, &output, "FILE", "the page; - is stdout"},
                                  {"title", 0, CLI_TEXT, &title, "TEXT", "its title (polar report)"},
                                  {"question", 0, CLI_INT, &question, "N",
                                   "the question of a search whose tree is drawn, from 0 (the first that is "
                                   "corrected)"},
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
    for (int i = 0; i < c->n_args && !status; i++) status = report_file(f, c->args[i], question);
    page_end(f);
    return cli_output_close(&out, !status) || status;
}
