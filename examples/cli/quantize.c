/* polar quantize: a model with its matrices in another tensor type. */
#include "cli.h"
#include "quantize_file.h"

/* Ctrl-C cancels, so that no half-written file stays. */
static int show_progress(void *user, double done) {
    (void)user;
    cli_progress("%3.0f %%", 100 * done);
    return cli_interrupted();
}

/* "1.23 GB" into `text`. */
static const char *size_text(int64_t bytes, char *text, size_t size) {
    static const char *const units[] = {"bytes", "KB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1000 && unit < 4) value /= 1000, unit++;
    snprintf(text, size, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return text;
}

static void print_text(const quantize_report *r, double seconds) {
    char a[32], b[32];
    printf("type    tensors       numbers         bytes  error %%\n");
    for (int i = 0; i < r->n_parts; i++) {
        const quantize_part *p = &r->parts[i];
        printf("%-7s %7d %13lld %13lld", p->type, p->n_tensors, (long long)p->n_params, (long long)p->bytes);
        if (p->error > 0) printf("  %7.3f", 100 * p->error);
        printf("\n");
    }
    printf("\n%s -> %s in %.1f s\n", size_text(r->bytes_in, a, sizeof a), size_text(r->bytes_out, b, sizeof b),
           seconds);
    if (r->n_converted && !r->worst_type) printf("no number changed\n");
    if (r->worst_type)
        printf("round-trip error %.3f %% of the weights' own size, at most %.3f %% (%s, %s)\n", 100 * r->error,
               100 * r->worst_error, r->worst_tensor, r->worst_type);
}

static void print_json(const quantize_report *r, double seconds) {
    printf("{\"tensors\":%d,\"converted\":%d,\"requantized\":%d,\"fallback\":%d,\"bytes_in\":%lld,\"bytes_out\":%lld",
           r->n_tensors, r->n_converted, r->n_requantized, r->n_fallback, (long long)r->bytes_in,
           (long long)r->bytes_out);
    json_put_number(stdout, "error", r->error);
    json_put_number(stdout, "worst_error", r->worst_error);
    printf(",\"worst_tensor\":");
    json_put_text(stdout, r->worst_tensor);
    printf(",\"types\":[");
    for (int i = 0; i < r->n_parts; i++) {
        const quantize_part *p = &r->parts[i];
        printf("%s{\"type\":\"%s\",\"tensors\":%d,\"numbers\":%lld,\"bytes\":%lld", i ? "," : "", p->type, p->n_tensors,
               (long long)p->n_params, (long long)p->bytes);
        json_put_number(stdout, "error", p->error);
        printf("}");
    }
    printf("]");
    json_put_number(stdout, "seconds", seconds);
    printf("}\n");
}

/* 1 if the type can be written; else a message, for wrong usage. */
static int known_type(const char *type) {
    const char *names[64], *nearest;
    char upper[16] = "";
    int n = 0;
    for (int i = 0; i < 15 && type[i]; i++)
        upper[i] = (char)(type[i] >= 'a' && type[i] <= 'z' ? type[i] - 32 : type[i]);
    for (; n < 63 && (names[n] = quantize_type_name(n)); n++)
        if (!strcmp(names[n], upper)) return 1;
    names[n] = NULL;
    nearest = cli_nearest(upper, names);
    if (nearest) cli_usage("there is no type \"%s\"; did you mean %s?", type, nearest);
    else cli_usage("there is no type \"%s\"; polar quantize -h lists them", type);
    return 0;
}

int command_quantize(cli *c) {
    quantize_options o = {0};
    quantize_report report;
    polar_error error;
    int as_json = 0, status;
    double start;
    const cli_option options[] = {
        {"pure", 0, CLI_FLAG, &o.pure, NULL, "the same type for all matrices, no better ones for some"},
        CLI_THREADS_OPTION(o.n_threads),
        {"json", 0, CLI_FLAG, &as_json, NULL, "print a JSON object"},
        {0}
    };
    if ((status = cli_read(c, options, 3, 3)) >= 0) return status;
    if (!known_type(c->args[2])) return 2;
    if ((status = cli_check_output(c, options, CLI_MODEL, c->args[1]))) return status;
    o.progress = show_progress;
    cli_catch_interrupts();
    start = cli_seconds();
    if (quantize_file(c->args[0], c->args[1], c->args[2], &o, &report, &error)) return cli_fail("%s", error.message);
    cli_progress_end();
    if (report.n_requantized)
        cli_note("%d tensors were quantized already: errors add up, better start from F16", report.n_requantized);
    if (report.n_fallback)
        cli_note("%d matrices have rows that do not fit the blocks of their type and got a near one",
                 report.n_fallback);
    as_json ? print_json(&report, cli_seconds() - start) : print_text(&report, cli_seconds() - start);
    return 0;
}
