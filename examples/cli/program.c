/* polar program: programs of layers in their several forms. Shows the [prog] functions of polar.h. */
#include "cli.h"

#define TEXT_SIZE 8192 /* more than any program's text form needs */

typedef struct program_options {
    int n_layer, max_length, max_times;
    int jsonl, json;
    const char *path;
} program_options;

static void print_json(const polar_program *p) {
    char text[TEXT_SIZE];
    int seg_flip[POLAR_MAX_LAYER], op[POLAR_MAX_LAYER];
    polar_program_format(p, text, sizeof text);
    polar_program_targets(p, seg_flip, op);
    printf("{\"ok\":true,\"segments\":[");
    for (int i = 0; i < p->n_segments; i++)
        printf("%s[%d,%d,%d%s]", i ? "," : "", p->segments[i].start, p->segments[i].length, p->segments[i].times,
               p->segments[i].damped ? ",\"damped\"" : "");
    printf("],\"text\":\"%s\",\"path\":", text);
    cli_put_path(stdout, p);
    printf(",\"seg_flip\":");
    json_put_ints(stdout, seg_flip, (size_t)p->n_layer);
    printf(",\"op\":");
    json_put_ints(stdout, op, (size_t)p->n_layer);
    printf("}\n");
}

static void print_text(const polar_program *p) {
    char text[TEXT_SIZE];
    int path[POLAR_MAX_CALLS], n = polar_program_path(p, path, POLAR_MAX_CALLS);
    polar_program_format(p, text, sizeof text);
    printf("text   %s\npath   %s", text, n ? "" : "none, since it has a damped segment");
    for (int i = 0; i < n; i++) printf(i ? ",%d" : "%d", path[i]);
    polar_program_strip(p, text, sizeof text);
    printf("\nstrip  %s\ncalls  %d of %d layers, cost %.3f\n", text, polar_program_length(p),
           p->n_layer, polar_program_cost(p));
}

static int convert(const program_options *o, const char *text) {
    int path[POLAR_MAX_CALLS], n = 0;
    polar_program p;
    polar_error error;
    polar_status status;
    if (o->path && (n = cli_read_path(o->path, path)) < 0) return 2;
    if (o->path) status = polar_program_from_path(&p, o->n_layer, path, n, o->max_length, o->max_times, &error);
    else status = polar_program_parse(&p, o->n_layer, text, &error);
    if (!status) status = polar_program_validate(&p, o->n_layer, &error);
    if (status) return cli_fail("%s", error.message);
    o->json ? print_json(&p) : print_text(&p);
    return 0;
}

/* A line {"D":..,"path":[..]}; "max_pack" and "allow_repeat" may narrow the form of the options down. */
static int convert_line(const program_options *o, const cli_lines *lines, const json *line) {
    const json *max_pack = json_get(line, "max_pack"), *repeat = json_get(line, "allow_repeat");
    int n_layer, max_length = o->max_length, max_times = repeat && repeat->type == JSON_FALSE ? 1 : o->max_times;
    size_t n;
    int32_t *numbers;
    int path[POLAR_MAX_CALLS];
    polar_program p;
    polar_error error;
    if (!json_int(json_get(line, "D"), &n_layer) || n_layer < 1 || n_layer > POLAR_MAX_LAYER)
        return cli_fail("%s:%d: field \"D\" must be a number of layers, 1..%d", lines->name, lines->number,
                        POLAR_MAX_LAYER);
    if (max_pack && (!json_int(max_pack, &max_length) || max_length < 1))
        return cli_fail("%s:%d: field \"max_pack\" must be a number >= 1", lines->name, lines->number);
    if (!(numbers = json_ints(json_get(line, "path"), &n)))
        return cli_fail("%s:%d: field \"path\" must be a list of layers", lines->name, lines->number);
    for (size_t i = 0; i < n && i < POLAR_MAX_CALLS; i++) path[i] = numbers[i];
    free(numbers);
    if (n > POLAR_MAX_CALLS) n = POLAR_MAX_CALLS + 1; /* for the message */
    if (!polar_program_from_path(&p, n_layer, path, (int)n, max_length, max_times, &error)) {
        print_json(&p);
    } else {
        printf("{\"ok\":false,\"error\":");
        json_put_text(stdout, error.message);
        printf("}\n");
    }
    return 0;
}

static int convert_lines(const program_options *o, const char *file) {
    cli_lines lines;
    int status = 0;
    if (!cli_lines_open(&lines, file)) return 1;
    while (!status && cli_lines_next(&lines)) {
        json_document *d = json_read_line(&lines);
        status = d ? convert_line(o, &lines, json_root(d)) : 1;
        json_free(d);
    }
    status |= lines.failed;
    cli_lines_close(&lines);
    return status;
}

int command_program(cli *c) {
    program_options o = {0, 4, 0, 0, 0, NULL};
    int status;
    const cli_option options[] = {
        {"layers", 'l', CLI_INT, &o.n_layer, "D", "number of layers of the model"},
        {"path", 0, CLI_TEXT, &o.path, "LIST", "take a path, 0,1,1,2, instead of the text form"},
        {"json", 0, CLI_FLAG, &o.json, NULL, "print a JSON object"},
        {"jsonl", 0, CLI_FLAG, &o.jsonl, NULL, "read {\"D\":..,\"path\":[..]} lines from a file or stdin"},
        {"max-length", 0, CLI_INT, &o.max_length, "N", "layers of a segment, for paths (4)"},
        {"max-times", 0, CLI_INT, &o.max_times, "N", "executions of a segment, for paths (5; in lines 2)"},
        {0}
    };
    if ((status = cli_read(c, options, 0, 1)) >= 0) return status;
    if (o.max_times == 0) o.max_times = o.jsonl ? 2 : 5; /* 2 is the form that predictors are trained on */
    if (o.max_length < 1 || o.max_times < 1) return cli_usage("--max-length and --max-times must be at least 1");
    if (o.jsonl) return convert_lines(&o, c->n_args ? c->args[0] : "-");
    if (o.n_layer < 1 || o.n_layer > POLAR_MAX_LAYER)
        return cli_usage("--layers must say how many layers the model has, 1..%d", POLAR_MAX_LAYER);
    if (o.path && c->n_args) return cli_usage("give a program or --path, not both");
    return convert(&o, c->n_args ? c->args[0] : "identity");
}
