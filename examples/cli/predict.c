/* polar predict: the programs that a predictor proposes for a question. Shows polar_picker_pick. */
#include "predict.h"

#include <math.h>

/* --- predictor and encoder ---------------------------------------------------------------------------------- */

int guide_open(guide *g, const char *file, const char *encoder, const char *cpu) {
    polar_error e;
    memset(g, 0, sizeof *g);
    if (polar_predictor_open(&g->predictor, file, NULL, &e)) return cli_fail_open(file, e.message);
    polar_predictor_get_info(g->predictor, &g->info);
    if (encoder && g->info.feature != POLAR_FEATURE_ENCODER)
        return cli_usage("--encoder: the features of %s are of kind \"%s\", they come from the model itself", file,
                         polar_feature_name(g->info.feature));
    return encoder ? cli_open_model(encoder, cpu, 0, &g->encoder) : 0;
}

void guide_close(guide *g) {
    polar_predictor_close(g->predictor);
    polar_model_close(g->encoder);
}

/* --- the command ------------------------------------------------------------------------------------------ */

int question_word(const cli *c, const char *file, char **question) {
    size_t n;
    if (!c->n_args == !file) return cli_usage("expected one question: as a word, with -f FILE, or - for stdin");
    if (!file && strcmp(c->args[0], "-")) {
        if (!(*question = malloc(strlen(c->args[0]) + 1))) return cli_fail("out of memory");
        strcpy(*question, c->args[0]);
        return 0;
    }
    if (!(*question = cli_read_text(file ? file : "-", &n))) return 1;
    while (n && ((*question)[n - 1] == '\n' || (*question)[n - 1] == '\r')) (*question)[--n] = 0;
    if (strlen(*question) == n) return 0;
    free(*question);
    *question = NULL;
    return cli_fail("the question holds a NUL byte");
}

typedef struct predict_options {
    const char *model, *predictor, *encoder, *head, *cpu, *file;
    int max, json, threads;
    cli_prompt_options prompt;
    polar_pick_options pick;
} predict_options;

static void print_text(const polar_picker *picker, const polar_candidate *c, int n, double price) {
    char text[4096], strip[POLAR_MAX_LAYER + 1];
    int width = 0;
    for (int i = 0; i < n; i++) {
        polar_program_format(&c[i].program, text, sizeof text);
        if ((int)strlen(text) > width) width = (int)strlen(text);
    }
    if (width > 32) width = 32;
    if (polar_picker_menu(picker)) printf("menu, best by probability - %g * cost; P: of a correct answer\n", price);
    else printf("proposed programs; P: of the program\n");
    for (int i = 0; i < n; i++) {
        polar_program_format(&c[i].program, text, sizeof text);
        polar_program_strip(&c[i].program, strip, sizeof strip);
        printf("%3d  P %.3f  cost %.3f  %-*s  %s\n", i + 1, exp(c[i].score), polar_program_cost(&c[i].program), width,
               text, strip);
    }
    printf("strip: one cell per layer, . skipped, # once, 2-9 times\n");
}

static void print_json(const guide *g, const polar_picker *picker, const char *question, int n_tokens,
                       const polar_candidate *c, int n) {
    const double *menu = polar_picker_menu(picker);
    char text[4096];
    printf("{\"question\":");
    json_put_text(stdout, question);
    printf(",\"n_tokens\":%d,\"head\":\"%s\",\"programs\":[", n_tokens, menu ? "menu" : "programs");
    for (int i = 0; i < n; i++) {
        const int length = polar_program_length(&c[i].program);
        polar_program_format(&c[i].program, text, sizeof text);
        printf("%s{\"program\":\"%s\",\"probability\":", i ? "," : "", text);
        json_put_double(stdout, exp(c[i].score));
        printf(",\"cost\":");
        json_put_double(stdout, polar_program_cost(&c[i].program));
        polar_program_strip(&c[i].program, text, sizeof text);
        printf(",\"length\":%d,\"strip\":\"%s\",\"path\":", length, text);
        cli_put_path(stdout, &c[i].program);
        printf("}");
    }
    printf("]");
    for (int k = 0; menu && k < g->info.n_menu; k++) {
        printf(k ? "," : ",\"menu\":[");
        json_put_double(stdout, menu[k]);
    }
    printf(menu ? "]}\n" : "}\n");
}

/* The question as polar_ask would put it. */
static int find_tokens(const predict_options *o, const polar_model *model, const guide *g, const char *question,
                       int32_t **tokens, int *n) {
    polar_prompt prompt;
    polar_error e;
    char *text;
    int status = cli_prompt_read(&o->prompt, &text, &prompt);
    if (!status && polar_prompt_find(model, g->predictor, &prompt, &prompt, &e)) status = cli_fail("%s", e.message);
    if (!status) status = cli_prompt_tokens(model, &prompt, question, tokens, n);
    free(text);
    return status;
}

static int predict(predict_options *o, const polar_model *model, const char *question) {
    const int max = o->max < POLAR_MAX_MENU ? o->max : POLAR_MAX_MENU;
    polar_candidate c[POLAR_MAX_MENU];
    polar_picker *picker = NULL;
    polar_error e;
    polar_model_info info;
    guide g;
    int32_t *tokens = NULL;
    int n, n_tokens = 0, status = guide_open(&g, o->predictor, o->encoder, o->cpu);
    if (!status) status = find_tokens(o, model, &g, question, &tokens, &n_tokens);
    o->pick.encoder = g.encoder;
    polar_model_get_info(model, &info);
    if (!status && n_tokens > info.n_ctx_train)
        status = cli_fail("the question with its prompt has %d tokens, the model was trained for %d", n_tokens,
                          info.n_ctx_train);
    if (!status) o->pick.session.n_ctx = n_tokens;
    if (!status && (polar_picker_create(&picker, model, g.predictor, &o->pick, &e) ||
                    polar_picker_pick(picker, question, strlen(question), tokens, n_tokens, c, max, &n, &e)))
        status = cli_fail("%s", e.message);
    if (!status && o->json) print_json(&g, picker, question, n_tokens, c, n);
    else if (!status) print_text(picker, c, n, o->pick.price > 0 ? o->pick.price : o->pick.price < 0 ? 0 : g.info.price);
    polar_picker_free(picker);
    free(tokens);
    guide_close(&g);
    return status;
}

int command_predict(cli *c) {
    predict_options o;
    polar_model *model = NULL;
    char *question = NULL;
    int status;
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"predictor", 'p', CLI_FILE, &o.predictor, "FILE", "its predictor"},
        {"encoder", 0, CLI_FILE, &o.encoder, "FILE", "model of the features, for predictors that read an encoder's"},
        {"head", 0, CLI_TEXT, &o.head, "WHICH", "auto, menu or programs (auto: the menu if there is one)"},
        {"price", 0, CLI_NUMBER_OFF, &o.pick.price, "X", "menu: of one pass through all layers (the file's)"},
        {"top-k", 'k', CLI_INT, &o.max, "N", "print at most so many programs (5)"},
        {"threshold", 0, CLI_NUMBER_OFF, &o.pick.beams.threshold, "P",
         "programs: probability that starts a segment (0.5)"},
        {"beams", 0, CLI_INT_OFF, &o.pick.beams.n_beams, "N", "programs: beams (5)"},
        {"length-penalty", 0, CLI_NUMBER, &o.pick.beams.length_penalty, "X",
         "programs: order by score - X * length (0)"},
        CLI_ASK_PROMPT_OPTIONS(o.prompt),
        {"any-model", 0, CLI_FLAG, &o.pick.any_model, NULL, "also with a model that differs from that of the training"},
        {"file", 'f', CLI_FILE, &o.file, "FILE", "read the question from a file"},
        CLI_THREADS_OPTION(o.threads),
        CLI_CPU_OPTION(o.cpu),
        {"json", 0, CLI_FLAG, &o.json, NULL, "print one JSON object"},
        {0}};
    memset(&o, 0, sizeof o);
    o.head = "auto", o.cpu = "auto";
    o.max = 5;
    if ((status = cli_read(c, options, 0, 1)) >= 0) return status;
    if ((status = cli_pick_head(o.head, &o.pick.head))) return status;
    if (o.max < 1) return cli_usage("--top-k %d: expected at least 1", o.max);
    if (!o.predictor) return cli_usage("no predictor: -p FILE names one, made by polar train");
    o.pick.session.n_threads = o.threads;
    if ((status = question_word(c, o.file, &question))) return status;
    status = cli_open_model(o.model, o.cpu, 0, &model);
    if (!status) status = predict(&o, model, question);
    polar_model_close(model);
    free(question);
    return status;
}
