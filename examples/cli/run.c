/* polar run: a question to a model under a program, or under what a predictor picks. Shows polar_ask. */
#include "predict.h"

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
    const char *model, *program, *predictor, *encoder, *head, *file, *cpu, *kv, *kv_type;
    int json, stats, vote, cascade, any_model;
    double price, threshold;
    cli_prompt_options prompt;
    cli_list stop;
    polar_ask_options ask;
} run_options;

/* What was picked; NULL without a predictor. */
static void print_json(const polar_result *r, const char *text, double seconds, const polar_picked *picked,
                       const polar_candidate *candidates) {
    char program[4096];
    printf("{\"text\":");
    json_put_string(stdout, text, r->length);
    if (picked) {
        polar_program_format(&candidates[picked->chosen].program, program, sizeof program);
        printf(",\"program\":\"%s\",\"probability\":", program);
        json_put_double(stdout, exp(candidates[picked->chosen].score));
        printf(",\"n_run\":%d,\"n_calls_all\":%d,\"votes\":%d", picked->n_run, picked->n_calls, picked->votes);
    }
    printf(",\"n_prompt\":%d,\"n_generated\":%d,\"n_calls\":%d,\"stop\":\"%s\",\"logprob\":", r->n_prompt,
           r->n_generated, r->n_calls, cli_stop_name(r->stop));
    json_put_double(stdout, r->logprob);
    printf(",\"seconds\":");
    json_put_double(stdout, seconds);
    printf("}\n");
}

/* Bytes that an answer may have: tokens are short, and what does not fit is only cut. */
#define BYTES_PER_TOKEN 64

static void print_stats(const polar_result *r, const polar_picked *picked, const polar_candidate *candidates,
                        double seconds) {
    char strip[POLAR_MAX_LAYER + 1];
    cli_note("%d + %d tokens, %d layer calls each, %.2f s", r->n_prompt, r->n_generated, r->n_calls, seconds);
    if (!picked) return;
    polar_program_strip(&candidates[picked->chosen].program, strip, sizeof strip);
    cli_note("program %s, cost %.3f, P %.3f; %d run, %d layer calls per token in all, %d for this answer", strip,
             polar_program_cost(&candidates[picked->chosen].program), exp(candidates[picked->chosen].score),
             picked->n_run, picked->n_calls, picked->votes);
}

/* The answer under what the predictor picks. */
static int ask_guided(run_options *o, const polar_model *model, const char *question, polar_candidate *candidates,
                      polar_picked *picked) {
    polar_pick_options pick = polar_pick_defaults();
    polar_answer_options a = polar_answer_defaults();
    const polar_judge judge = answer_judge(question, strlen(question));
    polar_error e;
    guide g;
    int n, max = 1, status = guide_open(&g, model, o->predictor, o->encoder, o->cpu, &o->prompt);
    pick.session = o->ask.session;
    pick.price = o->price;
    pick.any_model = o->any_model;
    a.generate = o->ask.generate;
    a.text = o->ask.text;
    a.capacity = o->ask.capacity;
    a.threshold = o->threshold;
    a.method = o->vote ? POLAR_METHOD_VOTE : o->cascade ? POLAR_METHOD_CASCADE : POLAR_METHOD_FIRST;
    a.judge = &judge;
    a.prefix = g.prompt.prefilled ? "\\boxed{" : NULL;
    if (a.method != POLAR_METHOD_FIRST) max = a.generate.sampling.top_k > 0 ? a.generate.sampling.top_k : 5;
    if (o->cascade && a.generate.sampling.top_k <= 0 && g.info.cascade_programs) max = g.info.cascade_programs;
    if (max > POLAR_MAX_MENU) max = POLAR_MAX_MENU;
    if (max > pick.decode.n_beams && max <= POLAR_MAX_BEAMS) pick.decode.n_beams = max;
    if (!status) status = cli_pick_head(o->head, &pick.head);
    if (!status) status = guide_question(&g, question, a.generate.max_tokens, &pick);
    if (!status) status = guide_pick(&g, candidates, max, &n);
    if (!status &&
        polar_picker_answer(g.picker, g.tokens, g.n_tokens, candidates, n, &a, picked, &e))
        status = cli_interrupted() ? cli_fail("interrupted") : cli_fail("%s", e.message);
    guide_close(&g);
    return status;
}

static int ask(run_options *o, const polar_model *model, const char *question) {
    const size_t capacity = (size_t)o->ask.generate.max_tokens * BYTES_PER_TOKEN + 1;
    polar_error e;
    polar_result r;
    polar_picked picked;
    polar_candidate candidates[POLAR_MAX_MENU];
    double start = cli_seconds();
    char *text = NULL;
    int failed;
    if (o->json) {
        if (!(text = malloc(capacity))) return cli_fail("out of memory");
        o->ask.text = text;
        o->ask.capacity = capacity;
    } else o->ask.generate.on_text = on_text;
    if (o->predictor) {
        failed = ask_guided(o, model, question, candidates, &picked);
        if (!failed) r = picked.result;
    } else {
        failed = polar_ask(model, question, &o->ask, &r, &e) != POLAR_OK;
        if (failed) cli_fail("%s", cli_interrupted() ? "interrupted" : e.message);
    }
    if (!failed && o->json) {
        if (r.length > capacity) r.length = capacity;
        print_json(&r, text, cli_seconds() - start, o->predictor ? &picked : NULL, candidates);
    } else if (!failed) printf("\n");
    if (!failed && o->stats) print_stats(&r, o->predictor ? &picked : NULL, candidates, cli_seconds() - start);
    free(text);
    return failed;
}

/* Mistakes in the options, and what follows from them. */
static int take_options(run_options *o) {
    polar_generate_options *g = &o->ask.generate;
    int status;
    if (g->max_tokens < 1 || g->max_tokens > 10000000)
        return cli_usage("--tokens %d: expected 1..10000000", g->max_tokens);
    if (o->predictor && o->program) return cli_usage("--program and -p: either is to say which program runs");
    if (!o->predictor && (o->vote || o->cascade || o->encoder || o->prompt.prompt))
        return cli_usage("--vote, --cascade, --encoder and --prompt go with a predictor, -p FILE");
    if (o->vote && o->cascade) return cli_usage("--vote and --cascade: expected one of them");
    if ((o->vote || o->cascade) && g->sampling.temperature > 0)
        return cli_usage("--vote and --cascade compare greedy answers, without --temperature");
    g->stop = o->stop.n ? o->stop.items : NULL;
    o->ask.program = o->program;
    o->ask.system = o->prompt.system;
    o->ask.session.tap = on_call;
    if ((status = cli_chat(o->prompt.chat ? o->prompt.chat : "auto", &o->ask.chat)) ||
        (status = cli_kv_mode(o->kv, &o->ask.session.kv_mode)))
        return status;
    return cli_kv_type(o->kv_type, &o->ask.session.kv_type);
}

int command_run(cli *c) {
    run_options o;
    polar_generate_options *g = &o.ask.generate;
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"program", 0, CLI_TEXT, &o.program, "PROGRAM", "program of layers (identity)"},
        {"file", 'f', CLI_TEXT, &o.file, "FILE", "read the question from a file"},
        {"predictor", 'p', CLI_TEXT, &o.predictor, "FILE", "let a predictor pick the program"},
        {"vote", 0, CLI_FLAG, &o.vote, NULL, "with -p: majority over the answers of --top-k programs (5)"},
        {"cascade", 0, CLI_FLAG, &o.cascade, NULL, "with -p: the next program while an answer is not confident"},
        {"threshold", 0, CLI_NUMBER, &o.threshold, "X", "of --cascade: mean log probability (the predictor's)"},
        {"head", 0, CLI_TEXT, &o.head, "WHICH", "with -p: auto, menu or programs (auto: the menu if there is one)"},
        {"price", 0, CLI_NUMBER, &o.price, "X", "with -p: of one pass through all layers (the predictor's)"},
        {"encoder", 0, CLI_TEXT, &o.encoder, "FILE", "with -p: model of the features, for predictors that read one"},
        {"any-model", 0, CLI_FLAG, &o.any_model, NULL,
         "with -p: also for a model that differs from that of the training"},
        {"prompt", 0, CLI_TEXT, &o.prompt.prompt, "TEXT",
         "with -p: text with {question}, or @FILE (that of the training)"},
        {"chat", 0, CLI_TEXT, &o.prompt.chat, "FORMAT", "auto, raw, chatml or llama3 (auto: the file's)"},
        {"system", 0, CLI_TEXT, &o.prompt.system, "TEXT", "system message"},
        {"tokens", 'n', CLI_INT, &g->max_tokens, "N", "at most so many new tokens (256)"},
        {"ctx", 'c', CLI_INT, &o.ask.session.n_ctx, "N", "context in tokens (what question and answer need)"},
        {"temperature", 0, CLI_FLOAT, &g->sampling.temperature, "T", "0 takes the likeliest token (0)"},
        {"top-k", 0, CLI_INT, &g->sampling.top_k, "K",
         "draw from the K likeliest (0: off); with --vote, --cascade: programs"},
        {"top-p", 0, CLI_FLOAT, &g->sampling.top_p, "P", "draw from the likeliest that sum to P (1: off)"},
        {"min-p", 0, CLI_FLOAT, &g->sampling.min_p, "P", "drop what is below P times the likeliest (0: off)"},
        {"seed", 's', CLI_U64, &g->sampling.seed, "N", "the same seed gives the same text (0)"},
        {"stop", 0, CLI_LIST, &o.stop, "TEXT", "end before this text; may be repeated"},
        {"ignore-end", 0, CLI_FLAG, &g->ignore_end, NULL, "go on after the model's end token"},
        {"kv", 0, CLI_TEXT, &o.kv, "MODE", "per-call or shared keys and values (per-call)"},
        CLI_KV_TYPE_OPTION(o.kv_type),
        CLI_THREADS_OPTION(o.ask.session.n_threads),
        CLI_CPU_OPTION(o.cpu),
        {"stats", 0, CLI_FLAG, &o.stats, NULL, "tokens, layer calls and time on stderr"},
        {"json", 0, CLI_FLAG, &o.json, NULL, "print one JSON object"},
        {0}};
    polar_model *model = NULL;
    char *question = NULL;
    int status;
    memset(&o, 0, sizeof o);
    o.cpu = o.head = "auto", o.kv = "per-call", o.kv_type = "f16";
    o.threshold = 1;
    o.price = -1;
    o.ask = polar_ask_defaults();
    if ((status = cli_read(c, options, 0, 1)) >= 0) return status;
    if ((status = take_options(&o))) return status;
    if ((status = question_word(c, o.file, &question))) return status;
    cli_catch_interrupts();
    status = cli_open_model(o.model, o.cpu, 0, &model);
    if (!status) status = ask(&o, model, question);
    polar_model_close(model);
    free(question);
    return status;
}
