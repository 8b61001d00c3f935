/* polar run: a question to a model under a program. Shows polar_ask. */
#include "cli.h"

#include <signal.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static int on_call(void *user, const polar_tap_info *info) {
    (void)user, (void)info;
    return interrupted;
}

static int on_text(void *user, const char *text, size_t length) {
    (void)user;
    return fwrite(text, 1, length, stdout) != length || fflush(stdout);
}

typedef struct run_options {
    const char *model, *program, *chat, *system, *file, *cpu, *kv, *kv_type;
    int json, stats;
    double temperature, top_p, min_p;
    cli_list stop;
    polar_ask_options ask;
} run_options;

static int chat_of(const char *name, polar_chat *chat) {
    for (int i = 0; i < POLAR_N_CHAT; i++)
        if (!strcmp(name, polar_chat_name((polar_chat)i))) {
            *chat = (polar_chat)i;
            return 0;
        }
    return cli_usage("--chat %s: expected auto, raw, chatml or llama3", name);
}

static const char *const stop_names[] = {"limit", "end", "string", "context"};

static void print_json(const polar_result *r, const char *text, double seconds) {
    printf("{\"text\":");
    json_put_string(stdout, text, r->length);
    printf(",\"n_prompt\":%d,\"n_generated\":%d,\"n_calls\":%d,\"stop\":\"%s\",\"logprob\":", r->n_prompt, r->n_generated,
           r->n_calls, stop_names[r->stop]);
    json_put_double(stdout, r->logprob);
    printf(",\"seconds\":");
    json_put_double(stdout, seconds);
    printf("}\n");
}

/* Bytes that an answer may have: tokens are short, and what does not fit is only cut. */
#define BYTES_PER_TOKEN 64

static int ask(run_options *o, const polar_model *model, const char *question) {
    const size_t capacity = (size_t)o->ask.generate.max_tokens * BYTES_PER_TOKEN + 1;
    polar_error e;
    polar_result r;
    double start = cli_seconds();
    char *text = NULL;
    int failed;
    if (o->json) {
        if (!(text = malloc(capacity))) return cli_fail("out of memory");
        o->ask.text = text;
        o->ask.capacity = capacity;
    } else o->ask.generate.on_text = on_text;
    failed = polar_ask(model, question, &o->ask, &r, &e) != POLAR_OK;
    if (failed && interrupted) cli_fail("interrupted");
    else if (failed) cli_fail("%s", e.message);
    else if (o->json) {
        if (r.length > capacity) r.length = capacity;
        print_json(&r, text, cli_seconds() - start);
    } else printf("\n");
    if (!failed && o->stats)
        cli_note("%d + %d tokens, %d layer calls each, %.2f s", r.n_prompt, r.n_generated, r.n_calls, cli_seconds() - start);
    free(text);
    return failed;
}

/* The question: the word on the command line, a file, or standard input. */
static char *question_of(cli *c, const run_options *o) {
    const char *word = c->n_args ? c->args[0] : NULL;
    char *copy;
    size_t n;
    if (o->file || (word && !strcmp(word, "-"))) {
        if (!(copy = cli_read_file(o->file ? o->file : "-", &n))) return NULL;
        while (n && (copy[n - 1] == '\n' || copy[n - 1] == '\r')) copy[--n] = 0;
        if (strlen(copy) == n) return copy;
        cli_fail("the question holds a NUL byte");
        free(copy);
        return NULL;
    }
    if (!(copy = malloc(strlen(word) + 1))) cli_fail("out of memory");
    else strcpy(copy, word);
    return copy;
}

int command_run(cli *c) {
    run_options o = {NULL, NULL, "auto", NULL, NULL, "auto", "per-call", "f16", 0, 0, 0, 1, 0, {{NULL}, 0}, polar_ask_defaults()};
    polar_generate_options *g = &o.ask.generate;
    const cli_option options[] = {
        {"model", 'm', CLI_TEXT, &o.model, "FILE", "GGUF model"},
        {"program", 0, CLI_TEXT, &o.program, "PROGRAM", "program of layers (identity)"},
        {"file", 'f', CLI_TEXT, &o.file, "FILE", "read the question from a file"},
        {"chat", 0, CLI_TEXT, &o.chat, "FORMAT", "auto, raw, chatml or llama3 (auto: the file's)"},
        {"system", 0, CLI_TEXT, &o.system, "TEXT", "system message"},
        {"tokens", 'n', CLI_INT, &g->max_tokens, "N", "at most so many new tokens (256)"},
        {"ctx", 'c', CLI_INT, &o.ask.session.n_ctx, "N", "context in tokens (what question and answer need)"},
        {"temperature", 0, CLI_NUMBER, &o.temperature, "T", "0 takes the likeliest token (0)"},
        {"top-k", 0, CLI_INT, &g->sampling.top_k, "K", "draw from the K likeliest (0: off)"},
        {"top-p", 0, CLI_NUMBER, &o.top_p, "P", "draw from the likeliest that sum to P (1: off)"},
        {"min-p", 0, CLI_NUMBER, &o.min_p, "P", "drop what is below P times the likeliest (0: off)"},
        {"seed", 's', CLI_U64, &g->sampling.seed, "N", "the same seed gives the same text (0)"},
        {"stop", 0, CLI_LIST, &o.stop, "TEXT", "end before this text; may be repeated"},
        {"ignore-end", 0, CLI_FLAG, &g->ignore_end, NULL, "go on after the model's end token"},
        {"kv", 0, CLI_TEXT, &o.kv, "MODE", "per-call or shared keys and values (per-call)"},
        {"kv-type", 0, CLI_TEXT, &o.kv_type, "TYPE", "f16 or f32 (f16)"},
        {"threads", 't', CLI_INT, &o.ask.session.n_threads, "N", "threads (one per core)"},
        {"cpu", 0, CLI_TEXT, &o.cpu, "NAME", "auto, plain, avx2 or neon (auto)"},
        {"stats", 0, CLI_FLAG, &o.stats, NULL, "tokens, layer calls and time on stderr"},
        {"json", 0, CLI_FLAG, &o.json, NULL, "print one JSON object"},
        {0}};
    polar_model *model = NULL;
    char *question;
    int status = cli_read(c, options, 0, 1);
    if (status >= 0) return status;
    if (!c->n_args == !o.file) return cli_usage("expected one question: as a word, with -f FILE, or - for stdin");
    if (g->max_tokens < 1 || g->max_tokens > 10000000) return cli_usage("--tokens %d: expected 1..10000000", g->max_tokens);
    g->sampling.temperature = (float)o.temperature;
    g->sampling.top_p = (float)o.top_p;
    g->sampling.min_p = (float)o.min_p;
    g->stop = o.stop.n ? o.stop.items : NULL;
    o.ask.program = o.program;
    o.ask.system = o.system;
    o.ask.session.tap = on_call;
    if ((status = chat_of(o.chat, &o.ask.chat)) || (status = cli_kv_mode(o.kv, &o.ask.session.kv_mode)) ||
        (status = cli_kv_type(o.kv_type, &o.ask.session.kv_type)))
        return status;
    if (!(question = question_of(c, &o))) return 1;
    signal(SIGINT, on_interrupt);
    status = cli_open_model(o.model, o.cpu, 0, &model);
    if (!status) status = ask(&o, model, question);
    polar_model_close(model);
    free(question);
    return status;
}
