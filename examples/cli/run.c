/* polar run: a question to a model under a program, or under what a predictor picks. Shows polar_ask. */
#include "predict.h"

#include <float.h>
#include <math.h>

static int on_call(void *user, const polar_tap_info *info) {
    (void)user, (void)info;
    return cli_interrupted();
}

static int on_text(void *user, const char *text, size_t length) {
    (void)user;
    return fwrite(text, 1, length, stdout) != length || fflush(stdout);
}

typedef struct run_options {
    const char *model, *predictor, *encoder, *head, *file, *cpu, *kv, *kv_type;
    int json, stats, vote, cascade;
    cli_prompt_options prompt;
    cli_list stop;
    polar_ask_options ask;
} run_options;

/* Was the program picked? */
static int is_picked(const run_options *o) {
    return o->ask.predictor && !o->ask.program;
}

static void print_json(const run_options *o, const polar_result *r, const char *text, double seconds,
                       const polar_picked *picked) {
    char program[4096];
    printf("{\"text\":");
    json_put_string(stdout, text, r->length);
    if (is_picked(o)) {
        polar_program_format(&picked->candidate.program, program, sizeof program);
        printf(",\"program\":\"%s\",\"probability\":", program);
        json_put_double(stdout, exp(picked->candidate.score));
        printf(",\"n_run\":%d,\"n_calls_all\":%d,\"votes\":%d", picked->n_run, picked->n_calls, picked->votes);
    }
    printf(",\"n_prompt\":%d,\"n_generated\":%d,\"n_calls\":%d,\"stop\":\"%s\",\"logprob\":", r->n_prompt,
           r->n_generated, r->n_calls, cli_stop_name(r->stop));
    json_put_double(stdout, r->logprob);
    printf(",\"n_drafted\":%d,\"n_accepted\":%d,\"seconds\":", r->n_drafted, r->n_accepted);
    json_put_double(stdout, seconds);
    printf("}\n");
}

/* Bytes that an answer may have: tokens are short, and what does not fit is only cut. */
#define BYTES_PER_TOKEN 64

static void print_stats(const run_options *o, const polar_model *model, const polar_result *r,
                        const polar_picked *picked, double seconds) {
    const polar_candidate *c = &picked->candidate;
    const polar_program own = cli_own_program(model);
    char strip[POLAR_MAX_LAYER + 1];
    cli_note("%d + %d tokens, %d layer calls each%s, %.2f s", r->n_prompt, r->n_generated, r->n_calls,
             o->ask.prompt_program ? " of the answer's" : "", seconds);
    if (r->n_drafted)
        cli_note("lookup: %d of %d drafted tokens accepted, %d passes for the answer", r->n_accepted, r->n_drafted,
                 r->n_generated - r->n_accepted);
    if (!is_picked(o)) return;
    polar_program_strip(&c->program, strip, sizeof strip);
    cli_note("program %s, cost %.3f, P %.3f; %d run, %d layer calls per token in all, %d for this answer", strip,
             cli_cost(&c->program, &own), exp(c->score), picked->n_run, picked->n_calls, picked->votes);
}

static int ask(run_options *o, const polar_model *model, const char *question) {
    const size_t capacity = (size_t)o->ask.generate.max_tokens * BYTES_PER_TOKEN + 1;
    polar_error e;
    polar_result r;
    polar_picked picked;
    double start = cli_seconds();
    char *text = NULL;
    int failed;
    o->ask.picked = &picked;
    if (o->json) {
        if (!(text = malloc(capacity))) return cli_fail("out of memory");
    } else o->ask.generate.on_text = on_text;
    failed = polar_ask(model, question, &o->ask, text, text ? capacity : 0, &r, &e) != POLAR_OK;
    if (failed) cli_fail("%s", cli_interrupted() ? "interrupted" : e.message);
    else if (o->json) {
        if (r.length > capacity) r.length = capacity;
        print_json(o, &r, text, cli_seconds() - start, &picked);
    } else printf("\n");
    if (!failed && o->stats) print_stats(o, model, &r, &picked, cli_seconds() - start);
    free(text);
    return failed;
}

/* With the predictor, if there is one, and the prompt that is asked for. */
static int ask_with(run_options *o, const polar_model *model, const char *question) {
    guide g;
    const polar_judge judge = answer_judge(question, strlen(question));
    char *text = NULL;
    int status = cli_prompt_read(&o->prompt, &text, &o->ask.prompt);
    memset(&g, 0, sizeof g);
    o->ask.judge = &judge;
    if (!status && o->predictor) status = guide_open(&g, o->predictor, o->encoder, o->cpu);
    o->ask.predictor = g.predictor;
    o->ask.encoder = g.encoder;
    if (!status) status = ask(o, model, question);
    guide_close(&g);
    free(text);
    return status;
}

/* Mistakes in the options, and what follows from them. */
static int take_options(run_options *o) {
    polar_generate_options *g = &o->ask.generate;
    int status;
    if (g->max_tokens < 1 || g->max_tokens > 10000000)
        return cli_usage("--tokens %d: expected 1..10000000", g->max_tokens);
    if (!o->predictor && (o->vote || o->cascade || o->encoder))
        return cli_usage("--vote, --cascade and --encoder go with a predictor, -p FILE");
    if (o->ask.program && (o->vote || o->cascade))
        return cli_usage("--program: one program, so that --vote and --cascade have nothing to choose from");
    if (o->vote && o->cascade) return cli_usage("--vote and --cascade: expected one of them");
    if ((o->vote || o->cascade) && g->sampling.temperature > 0)
        return cli_usage("--vote and --cascade compare greedy answers, without --temperature");
    if (!(g->sampling.top_p > 0)) return cli_usage("--top-p: expected a number above 0");
    if (!(g->sampling.repetition_penalty > 0)) return cli_usage("--repetition-penalty: expected a number above 0");
    if (g->lookup < 0 || g->lookup > 1000) return cli_usage("--lookup %d: expected 0..1000", g->lookup);
    if (g->sampling.repetition_window < 0) return cli_usage("--repetition-window: expected a number of tokens, or 0");
    if (o->ask.threshold > 0 && o->ask.threshold < HUGE_VAL)
        return cli_usage("--threshold %g: expected the logarithm of a probability, at most 0", o->ask.threshold);
    if (o->ask.threshold > 0) o->ask.threshold = 0;                /* the predictor's */
    else if (o->ask.threshold >= 0) o->ask.threshold = -DBL_MIN; /* which no answer reaches unless it is certain */
    g->stop = o->stop.n ? o->stop.items : NULL;
    o->ask.method = o->vote ? POLAR_METHOD_VOTE : o->cascade ? POLAR_METHOD_CASCADE : POLAR_METHOD_FIRST;
    o->ask.n_programs = g->sampling.top_k;
    o->ask.session.tap = on_call;
    if ((status = cli_pick_head(o->head, &o->ask.head)) || (status = cli_kv_mode(o->kv, &o->ask.session.kv_mode)))
        return status;
    return cli_kv_type(o->kv_type, &o->ask.session.kv_type);
}

int command_run(cli *c) {
    run_options o;
    polar_generate_options *g = &o.ask.generate;
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"program", 0, CLI_TEXT, &o.ask.program, "PROGRAM", "program of layers (what -p picks, else the model's own)"},
        {"prompt-program", 0, CLI_TEXT, &o.ask.prompt_program, "PROGRAM", "what the question runs under (--program)"},
        {"file", 'f', CLI_TEXT, &o.file, "FILE", "read the question from a file"},
        {"predictor", 'p', CLI_TEXT, &o.predictor, "FILE", "let it pick the program, with the prompt of its training"},
        {"vote", 0, CLI_FLAG, &o.vote, NULL, "with -p: majority over the answers of --top-k programs (5)"},
        {"cascade", 0, CLI_FLAG, &o.cascade, NULL, "with -p: the next program while an answer is not confident"},
        {"threshold", 0, CLI_NUMBER, &o.ask.threshold, "X", "of --cascade: mean log probability (the predictor's)"},
        {"head", 0, CLI_TEXT, &o.head, "WHICH", "with -p: auto, menu or programs (auto: the menu if there is one)"},
        {"price", 0, CLI_NUMBER_OFF, &o.ask.price, "X", "with -p: of one pass through all layers (the predictor's)"},
        {"encoder", 0, CLI_TEXT, &o.encoder, "FILE", "with -p: model of the features, for predictors that read one"},
        {"any-model", 0, CLI_FLAG, &o.ask.any_model, NULL,
         "with -p: also for a model that differs from that of the training"},
        CLI_ASK_PROMPT_OPTIONS(o.prompt),
        {"tokens", 'n', CLI_INT, &g->max_tokens, "N", "at most so many new tokens (256)"},
        {"ctx", 'c', CLI_INT, &o.ask.session.n_ctx, "N", "context in tokens (what question and answer need)"},
        {"temperature", 0, CLI_FLOAT, &g->sampling.temperature, "T", "0 takes the likeliest token (0)"},
        {"top-k", 0, CLI_INT, &g->sampling.top_k, "K",
         "draw from the K likeliest (0: off); with --vote, --cascade: programs"},
        {"top-p", 0, CLI_FLOAT, &g->sampling.top_p, "P", "draw from the likeliest that sum to P (1: off)"},
        {"min-p", 0, CLI_FLOAT, &g->sampling.min_p, "P", "drop what is below P times the likeliest (0: off)"},
        {"repetition-penalty", 0, CLI_FLOAT, &g->sampling.repetition_penalty, "X",
         "divide the logits of tokens that were there by X, or multiply where they are negative (1: off)"},
        {"repetition-window", 0, CLI_INT, &g->sampling.repetition_window, "N",
         "look for them among the last N tokens (0: all)"},
        {"seed", 's', CLI_U64, &g->sampling.seed, "N", "the same seed gives the same text (0)"},
        {"stop", 0, CLI_LIST, &o.stop, "TEXT", "end before this text; may be repeated"},
        {"ignore-end", 0, CLI_FLAG, &g->ignore_end, NULL, "go on after the model's end token"},
        {"lookup", 0, CLI_INT, &g->lookup, "N",
         "tokens to try at once where the text repeats, for speed alone (15; 0: off)"},
        {"kv", 0, CLI_TEXT, &o.kv, "MODE", "keys and values: per-call, shared or last (per-call)"},
        CLI_KV_TYPE_OPTION(o.kv_type),
        CLI_THREADS_OPTION(o.ask.session.n_threads),
        CLI_CPU_OPTION(o.cpu),
        {"stats", 0, CLI_FLAG, &o.stats, NULL, "tokens, layer calls, time, and what --lookup saved, on stderr"},
        {"json", 0, CLI_FLAG, &o.json, NULL, "print one JSON object"},
        {0}};
    polar_model *model = NULL;
    char *question = NULL;
    int status;
    memset(&o, 0, sizeof o);
    o.cpu = o.head = "auto", o.kv = "per-call", o.kv_type = "f16";
    o.ask.generate.max_tokens = 256, o.ask.generate.lookup = 15, o.ask.generate.sampling.top_p = 1;
    o.ask.generate.sampling.repetition_penalty = 1;
    o.ask.threshold = HUGE_VAL; /* none is given */
    if ((status = cli_read(c, options, 0, 1)) >= 0) return status;
    if ((status = take_options(&o))) return status;
    if ((status = question_word(c, o.file, &question))) return status;
    cli_catch_interrupts();
    status = cli_open_model(o.model, o.cpu, 0, &model);
    if (!status) status = ask_with(&o, model, question);
    polar_model_close(model);
    free(question);
    return status;
}
