/* polar predictor: files of predictors, weights from elsewhere, and decoding of logits. Shows polar_predictor_set_info
 * and polar_program_beams. */
#include "import.h"
#include "score.h"

/* --- decode: lines of logits to programs ----------------------------------------------------------------- */

typedef struct decode_line {
    int n_layer;
    float seg_logits[POLAR_MAX_LAYER], op_logits[POLAR_MAX_LAYER * 3];
    polar_beam_options options;
    polar_candidate beams[POLAR_MAX_BEAMS];
    int n_beams;
} decode_line;

/* The numbers of an array; their count, or -1 if it is no array of at most `max` numbers. */
static int read_floats(const json *array, float *out, int max) {
    int n = 0;
    if (!array || array->type != JSON_ARRAY || array->length > (size_t)max) return -1;
    for (const json *x = array->child; x; x = x->next) {
        if (x->type != JSON_NUMBER) return -1;
        out[n++] = (float)x->number;
    }
    return n;
}

static int read_logits(const cli_lines *lines, const json *line, decode_line *d) {
    const json *ops = json_get(line, "op_logits");
    int n = 0;
    d->n_layer = read_floats(json_get(line, "seg_logits"), d->seg_logits, POLAR_MAX_LAYER);
    if (d->n_layer < 1)
        return cli_fail("%s:%d: field \"seg_logits\" must be a list of 1..%d numbers", lines->name, lines->number,
                        POLAR_MAX_LAYER);
    if (ops && ops->type == JSON_ARRAY && ops->length == (size_t)d->n_layer)
        for (const json *x = ops->child; x && read_floats(x, d->op_logits + 3 * n, 3) == 3; x = x->next) n++;
    if (n != d->n_layer)
        return cli_fail("%s:%d: field \"op_logits\" must be a list of %d lists of 3 numbers", lines->name,
                        lines->number, d->n_layer);
    return 0;
}

/* Options of a line go before those of the command line. */
static int read_options(const cli_lines *lines, const json *line, polar_beam_options *o) {
    const struct {
        const char *name;
        int *value;
    } fields[] = {{"max_pack", &o->max_length}, {"beam_size", &o->n_beams}, {"top_k_ops", &o->n_ops}};
    const json *x = json_get(line, "threshold");
    if (x && x->type == JSON_NUMBER) o->threshold = x->number > 0 || x->number < 0 ? x->number : POLAR_OFF;
    for (int i = 0; i < 3; i++)
        if ((x = json_get(line, fields[i].name)) && !json_int(x, fields[i].value))
            return cli_fail("%s:%d: field \"%s\" must be a whole number", lines->name, lines->number, fields[i].name);
        else if (x && !*fields[i].value) *fields[i].value = POLAR_OFF;
    return 0;
}

static void print_actions(const polar_program *p) {
    static const char *const names[] = {"skip", "keep", "repeat"};
    printf("{\"actions\":[");
    for (int i = 0; i < p->n_segments; i++) {
        const polar_segment s = p->segments[i];
        printf("%s[\"%s\",%d,%d]", i ? "," : "", names[s.times], s.length, s.times == 2);
    }
    printf("]");
}

static void print_beams(const decode_line *d) {
    int path[POLAR_MAX_CALLS];
    printf("\"beams\":[");
    for (int b = 0; b < d->n_beams; b++) {
        const int n = polar_program_path(&d->beams[b].program, path, POLAR_MAX_CALLS);
        if (b) printf(",");
        print_actions(&d->beams[b].program);
        printf(",\"score\":");
        json_put_double(stdout, d->beams[b].score);
        printf(",\"path\":");
        json_put_ints(stdout, path, (size_t)n);
        printf(",\"length\":%d}", n);
    }
    printf("]");
}

/* The order of the beams by score - penalty * length, for each penalty that the line names. */
static void print_reranked(const decode_line *d, const json *reranked) {
    const char *comma = "";
    printf(",\"reranked\":[");
    for (const json *x = reranked ? reranked->child : NULL; x; x = x->next, comma = ",") {
        const json *penalty = json_get(x, "len_penalty");
        int order[POLAR_MAX_BEAMS];
        double value[POLAR_MAX_BEAMS];
        if (!penalty || penalty->type != JSON_NUMBER) continue;
        for (int b = 0; b < d->n_beams; b++) {
            const double v = d->beams[b].score - penalty->number * polar_program_length(&d->beams[b].program);
            int at = b;
            for (; at > 0 && v > value[at - 1]; at--) {
                value[at] = value[at - 1];
                order[at] = order[at - 1];
            }
            value[at] = v;
            order[at] = b;
        }
        printf("%s{\"len_penalty\":", comma);
        json_put_double(stdout, penalty->number);
        printf(",\"order\":");
        json_put_ints(stdout, order, (size_t)d->n_beams);
        printf("}");
    }
    printf("]");
}

static void print_line(const decode_line *d, const json *line) {
    const json *kind = json_get(line, "kind");
    printf("{");
    if (kind && kind->type == JSON_STRING) {
        printf("\"kind\":");
        json_put_string(stdout, kind->text, kind->length);
        printf(",");
    }
    printf("\"D\":%d,\"seg_logits\":", d->n_layer);
    json_put_floats(stdout, d->seg_logits, (size_t)d->n_layer);
    printf(",\"op_logits\":[");
    for (int i = 0; i < d->n_layer; i++) {
        if (i) printf(",");
        json_put_floats(stdout, d->op_logits + 3 * i, 3);
    }
    printf("],\"threshold\":");
    json_put_double(stdout, CLI_VALUE(d->options.threshold));
    printf(",\"max_pack\":%d,\"beam_size\":%d,\"top_k_ops\":%d,", d->options.max_length, d->options.n_beams,
           d->options.n_ops);
    print_beams(d);
    print_reranked(d, json_get(line, "reranked"));
    printf("}\n");
}

static int decode_file(const char *file, const polar_beam_options *options) {
    static decode_line d; /* too large for small stacks */
    cli_lines lines;
    int status = 0;
    if (!cli_lines_open(&lines, file)) return 1;
    while (!status && cli_lines_next(&lines)) {
        json_document *doc = json_read_line(&lines);
        const json *line = doc ? json_root(doc) : NULL;
        polar_error error;
        d.options = *options;
        if (!doc) status = 1;
        else if (!(status = read_logits(&lines, line, &d)) && !(status = read_options(&lines, line, &d.options))) {
            if (polar_program_beams(d.seg_logits, d.op_logits, d.n_layer, &d.options, d.beams, &d.n_beams, &error))
                status = cli_fail("%s:%d: %s", lines.name, lines.number, error.message);
            else print_line(&d, line);
        }
        json_free(doc);
    }
    status |= lines.failed;
    cli_lines_close(&lines);
    return status;
}

/* --- info and import ------------------------------------------------------------------------------------- */

static void print_info(const char *file, const polar_predictor *p) {
    polar_predictor_info i;
    char text[8192];
    polar_predictor_get_info(p, &i);
    printf("file        %s\nlayers      %d\nfeatures    %d numbers, %s", file, i.n_layer, i.q_dim,
           polar_feature_name(i.feature));
    if (i.feature == POLAR_FEATURE_HIDDEN) printf(" after layer %d", i.feature_layer);
    if (i.max_tokens) printf(", at most %d tokens", i.max_tokens);
    printf("\nparameters  %lu\n", (unsigned long)i.n_params);
    if (i.d_model)
        printf("programs    width %d, %d blocks, %d heads, feed-forward %d\n", i.d_model, i.n_block, i.n_head, i.n_ff);
    if (*i.model_name) printf("model       %s\n", i.model_name);
    if (i.model_checksum) printf("checksum    %016llx\n", (unsigned long long)i.model_checksum);
    if (*i.encoder_name) printf("encoder     %s\n", i.encoder_name);
    if (i.model_fingerprint) printf("fingerprint %016llx\n", (unsigned long long)i.model_fingerprint);
    if (*i.prompt) {
        printf("prompt      ");
        json_put_text(stdout, i.prompt);
        printf(", %s\n", *i.chat ? i.chat : "auto");
    }
    if (i.n_questions) printf("questions   trained on %d, whose fingerprints are known\n", i.n_questions);
    if (i.cascade_programs) printf("cascade     %d programs, threshold %g\n", i.cascade_programs, i.cascade_threshold);
    if (i.n_menu) printf("menu        %d programs, price %g\n", i.n_menu, i.price);
    for (int k = 0; k < i.n_menu; k++) {
        polar_program_format(polar_predictor_program(p, k), text, sizeof text);
        printf("  %2d  %s\n", k, text);
    }
}

static int show(const char *file) {
    polar_predictor *p;
    polar_error error;
    if (polar_predictor_open(&p, file, NULL, &error)) return cli_fail_open(file, error.message);
    print_info(file, p);
    polar_predictor_close(p);
    return 0;
}

static int import(const char *from, const char *to, int n_head, const polar_predictor_info *wanted) {
    polar_predictor *p;
    polar_predictor_info info;
    polar_error error;
    size_t size;
    char *data = cli_read_file(from, &size);
    int status;
    if (!data) return 1;
    status = import_predictor(&p, from, data, size, n_head, &error) != POLAR_OK;
    free(data);
    if (status) return cli_fail("%s", error.message);
    polar_predictor_get_info(p, &info);
    info.encoder_name = wanted->encoder_name;
    info.max_tokens = wanted->max_tokens;
    status = polar_predictor_set_info(p, &info, &error) ? cli_fail("%s", error.message) : cli_save_predictor(p, to);
    if (!status) print_info(to, p);
    polar_predictor_close(p);
    return status;
}

/* Is the menu of the evaluation that of the predictor? */
static int same_menu(const polar_predictor *p, int n_menu, int n_layer, const json *menu) {
    int n = 0;
    for (const json *x = menu ? menu->child : NULL; x; x = x->next, n++) {
        polar_program program;
        if (n == n_menu || x->type != JSON_STRING || polar_program_parse(&program, n_layer, x->text, NULL) ||
            !polar_program_equal(&program, polar_predictor_program(p, n)))
            return 0;
    }
    return n == n_menu;
}

/* Fits the threshold of a cascade to the records of an evaluation, at the price of the file, and keeps it there. */
static int fit_cascade(const char *file, const char *evaluation, polar_predictor *p) {
    json_document *header = NULL;
    polar_predictor_info info;
    polar_error e;
    scores s;
    score_fit fit = {0};
    int status = scores_read(&s, evaluation, &header);
    polar_predictor_get_info(p, &info);
    if (!status && (!info.n_menu || !same_menu(p, info.n_menu, info.n_layer, json_get(json_root(header), "menu"))))
        status = cli_fail("%s: the menu is not that of %s", evaluation, file);
    for (int i = 0; i < s.n && !status; i++)
        if (!s.questions[i].probability || s.k < 2)
            status = cli_fail("%s: holds no picks of a predictor, or one for a question", evaluation);
    if (!status) status = scores_fit_cascade(&s, info.price, &fit);
    info.cascade_threshold = fit.threshold;
    info.cascade_programs = fit.cascade_programs;
    if (!status && polar_predictor_set_info(p, &info, &e)) status = cli_fail("%s", e.message);
    if (!status) status = cli_save_predictor(p, file);
    if (!status) {
        const score_pick first = scores_at_price(&s, info.price);
        printf("%d questions: the first program %.1f %% right at cost %.3f, a cascade of %d %.1f %% at %.3f, "
               "threshold %.6g\n", s.n, 100.0 * first.right / s.n, first.cost, fit.cascade_programs,
               100.0 * fit.cascade_right / s.n, fit.cascade_cost, fit.threshold);
    }
    json_free(header);
    scores_free(&s);
    return status;
}

static int cascade(const char *file, const char *evaluation) {
    polar_predictor *p;
    polar_error e;
    int status;
    if (polar_predictor_open(&p, file, NULL, &e)) return cli_fail("%s", e.message);
    status = fit_cascade(file, evaluation, p);
    polar_predictor_close(p);
    return status;
}

int command_predictor(cli *c) {
    polar_beam_options decode = {.threshold = 0.5, .max_length = 4, .n_beams = 5, .n_ops = 2};
    polar_predictor_info info = {0};
    int jsonl = 0, n_head = 0, status;
    const char *encoder = "Qwen3-Embedding-0.6B", *what;
    const cli_option options[] = {
        {"jsonl", 0, CLI_FLAG, &jsonl, NULL, "decode: read and write lines of JSON"},
        {"threshold", 0, CLI_NUMBER_OFF, &decode.threshold, "P", "decode: probability that starts a segment (0.5)"},
        {"max-length", 0, CLI_INT_OFF, &decode.max_length, "N", "decode: layers of a segment (4)"},
        {"beams", 0, CLI_INT_OFF, &decode.n_beams, "N", "decode: beams (5)"},
        {"ops", 0, CLI_INT_OFF, &decode.n_ops, "N", "decode: operations tried per segment (2)"},
        {"heads", 0, CLI_INT, &n_head, "N", "import: attention heads (what the file says, or 4)"},
        {"encoder", 0, CLI_TEXT, &encoder, "NAME", "import: model of the features (Qwen3-Embedding-0.6B)"},
        {"max-tokens", 0, CLI_INT, &info.max_tokens, "N", "import: tokens of a question that are read (512)"},
        {0}
    };
    info.max_tokens = 512;
    if ((status = cli_read(c, options, 1, 3)) >= 0) return status;
    what = c->args[0];
    info.encoder_name = encoder;
    if (!strcmp(what, "decode") && c->n_args <= 2) return decode_file(c->n_args > 1 ? c->args[1] : "-", &decode);
    if (!strcmp(what, "info") && c->n_args == 2) return show(c->args[1]);
    if (!strcmp(what, "import") && c->n_args == 3) {
        status = cli_check_output(c, options, CLI_PREDICTOR, c->args[2]);
        return status ? status : import(c->args[1], c->args[2], n_head, &info);
    }
    if (!strcmp(what, "cascade") && c->n_args == 3) return cascade(c->args[1], c->args[2]);
    return cli_usage("expected are: import IN OUT.gguf, info FILE, cascade FILE EVALUATION, or decode --jsonl [FILE]");
}
