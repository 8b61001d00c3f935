/* polar logits: the numbers themselves, to compare with other engines. Shows sessions, paths and evaluation. */
#include "cli.h"

#include <math.h>

typedef struct logits_options {
    const char *model, *tokens, *program, *prompt_program, *path, *kv, *kv_type, *cpu, *embed;
    int generate, score, json, threads, batch;
} logits_options;

/* The token ids of "1,2,3", to be freed; NULL after a message. */
static int32_t *read_tokens(const char *text, int *n) {
    int32_t *tokens = malloc((strlen(text) + 1) * sizeof *tokens);
    for (*n = 0; tokens && *text;) {
        char *end;
        long id = strtol(text, &end, 10);
        if (end == text || (*end && *end != ',' && *end != ' ') || id < INT32_MIN || id > INT32_MAX) {
            cli_usage("--tokens: a token id is expected at \"%s\"", text);
            free(tokens);
            return NULL;
        }
        tokens[(*n)++] = (int32_t)id;
        text = end + (*end != 0);
        while (*text == ' ') text++;
    }
    if (tokens && *n) return tokens;
    free(tokens);
    cli_usage("--tokens: no token ids");
    return NULL;
}

static int create_session(const logits_options *o, const polar_model *model, int n_tokens, polar_session **s) {
    polar_session_options so = {0};
    polar_model_info info;
    polar_program program, first;
    polar_error e;
    int path[POLAR_MAX_CALLS], n = 0, status;
    polar_model_get_info(model, &info);
    if ((status = cli_kv_mode(o->kv, &so.kv_mode)) || (status = cli_kv_type(o->kv_type, &so.kv_type))) return status;
    if (polar_model_program(model, o->program, &program, &e) ||
        polar_model_program(model, o->prompt_program ? o->prompt_program : o->program, &first, &e))
        return cli_fail("%s", e.message);
    if (o->path && (n = cli_read_path(o->path, path)) < 0) return 2;
    so.n_ctx = n_tokens + o->generate;
    so.max_calls = n;
    if (polar_program_length(&program) > so.max_calls) so.max_calls = polar_program_length(&program);
    if (polar_program_length(&first) > so.max_calls) so.max_calls = polar_program_length(&first);
    so.n_threads = o->threads;
    so.n_batch = o->batch;
    if (so.n_ctx > info.n_ctx_train)
        return cli_fail("%d tokens and %d to generate do not fit the model's context of %d", n_tokens, o->generate,
                        info.n_ctx_train);
    if (o->score) so.n_logits = so.n_batch = n_tokens;
    if (polar_session_create(s, model, &first, &so, &e) || (o->path && polar_session_set_path(*s, path, n, &e)))
        return cli_fail("%s", e.message);
    return 0;
}

static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* Greedy ids; the end of a text does not stop them. */
static int print_greedy(polar_session *s, int n_vocab, int n, int as_json) {
    polar_error e;
    printf(as_json ? ",\"greedy\":[" : "greedy");
    for (int i = 0; i < n; i++) {
        const int32_t token = argmax(polar_session_logits(s, 0), n_vocab);
        printf(as_json ? (i ? ",%d" : "%d") : " %d", (int)token);
        if (i + 1 < n && polar_session_eval(s, &token, 1, &e)) return cli_fail("%s", e.message);
    }
    printf(as_json ? "]" : "\n");
    return 0;
}

static void print_top(const float *x, int n) {
    int last = -1;
    for (int k = 0; k < 10 && k < n; k++) {
        int best = -1;
        for (int i = 0; i < n; i++) {
            const int taken = last >= 0 && (i <= last ? x[i] >= x[last] : x[i] > x[last]);
            if (!taken && (best < 0 || x[i] > x[best])) best = i;
        }
        printf("%8d  ", last = best);
        json_put_float(stdout, x[best]);
        printf("\n");
    }
}

static int print_embedding(const logits_options *o, const polar_model *model, const int32_t *tokens, int n,
                           polar_session *s) {
    const polar_pooling pooling = strcmp(o->embed, "mean") ? POLAR_POOLING_LAST : POLAR_POOLING_MEAN;
    polar_model_info info;
    polar_error e;
    float *embedding;
    int status = 0;
    polar_model_get_info(model, &info);
    if (!(embedding = malloc((size_t)info.n_embd * sizeof *embedding))) return cli_fail("out of memory");
    if (polar_session_embed(s, tokens, n, pooling, 1, embedding, &e)) status = cli_fail("%s", e.message);
    else {
        printf("{\"embedding\":");
        json_put_floats(stdout, embedding, (size_t)info.n_embd);
        printf("}\n");
    }
    free(embedding);
    return status;
}

/* The natural logarithm of the probability of a token. */
static double logprob_of(const float *logits, int n, int token) {
    const int best = argmax(logits, n);
    double sum = 1;
    for (int i = 0; i < n; i++)
        if (i != best) sum += exp((double)logits[i] - logits[best]);
    return (double)logits[token] - logits[best] - log(sum);
}

/* The first tokens, those in front of number `score`, run under the prompt program, all others under the program, each
 * scored by the logits of the one before it. */
static int print_score(const logits_options *o, int n_vocab, const int32_t *tokens, int n, polar_session *s) {
    const int rest = n - o->score;
    polar_error e;
    double sum = 0;
    for (int i = o->score; i < n; i++) /* the last one is scored without being executed */
        if (tokens[i] < 0 || tokens[i] >= n_vocab)
            return cli_fail("token id %d: expected 0..%d", (int)tokens[i], n_vocab - 1);
    for (int i = 0; i < rest; i++) {
        sum += logprob_of(polar_session_logits(s, i ? rest - 1 - i : 0), n_vocab, tokens[o->score + i]);
        if (i == 0 && rest > 1 && polar_session_eval(s, tokens + o->score, rest - 1, &e))
            return cli_fail("%s", e.message);
    }
    printf(o->json ? "{\"logprob\":%.6f,\"n\":%d,\"mean\":%.6f}\n" : "log probability %.6f of %d tokens, mean %.6f\n",
           sum, rest, sum / rest);
    return 0;
}

static int run(const logits_options *o, const polar_model *model, const int32_t *tokens, int n, polar_session **s) {
    const int n_first = o->score ? o->score : n;
    polar_model_info info;
    polar_error e;
    int status = create_session(o, model, n, s);
    if (status) return status;
    if (o->embed) return print_embedding(o, model, tokens, n, *s);
    if (polar_session_eval(*s, tokens, n_first, &e)) return cli_fail("%s", e.message);
    polar_model_get_info(model, &info);
    if (o->prompt_program) {
        polar_program program;
        polar_model_program(model, o->program, &program, NULL); /* create_session took it */
        if (polar_session_change_program(*s, &program, &e)) return cli_fail("%s", e.message);
    }
    if (o->score) return print_score(o, info.n_vocab, tokens, n, *s);
    if (o->json) {
        printf("{\"logits\":");
        json_put_floats(stdout, polar_session_logits(*s, 0), (size_t)info.n_vocab);
    } else print_top(polar_session_logits(*s, 0), info.n_vocab);
    if (o->generate && (status = print_greedy(*s, info.n_vocab, o->generate, o->json))) return status;
    if (o->json) printf("}\n");
    return 0;
}

int command_logits(cli *c) {
    logits_options o = {.program = "", .kv = "per-call", .kv_type = "f32", .cpu = "auto"};
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"tokens", 't', CLI_TEXT, &o.tokens, "IDS", "token ids, separated by commas; no BOS is added"},
        {"program", 0, CLI_TEXT, &o.program, "PROGRAM", "program of layers (the model's own)"},
        {"prompt-program", 0, CLI_TEXT, &o.prompt_program, "PROGRAM", "what the tokens run under (--program)"},
        {"path", 0, CLI_TEXT, &o.path, "LAYERS", "layers in any order instead, separated by commas"},
        {"kv", 0, CLI_TEXT, &o.kv, "MODE", "keys and values: per-call, shared or last (per-call)"},
        {"kv-type", 0, CLI_TEXT, &o.kv_type, "TYPE", "f32 or f16 (f32)"},
        {"generate", 'n', CLI_INT, &o.generate, "N", "greedy ids after it (0)"},
        {"embed", 0, CLI_TEXT, &o.embed, "POOLING", "mean or last: print {\"embedding\":[..]} of length 1 instead"},
        {"score", 0, CLI_INT, &o.score, "K",
         "instead: log probability of the tokens behind the first K, given those before"},
        {"threads", 0, CLI_INT, &o.threads, "N", "threads (one per core)"},
        {"batch", 0, CLI_INT, &o.batch, "N", "tokens at a time in prefill (128)"},
        CLI_CPU_OPTION(o.cpu),
        {"json", 0, CLI_FLAG, &o.json, NULL, "print {\"logits\":[..],\"greedy\":[..]} instead of the top ten"},
        {0}};
    polar_model *model = NULL;
    polar_session *s = NULL;
    int32_t *tokens = NULL;
    int n, status = cli_read(c, options, 0, 0);
    if (status >= 0) return status;
    if (!o.tokens) return cli_usage("no tokens: --tokens 1,2,3");
    if (o.path && o.prompt_program) return cli_usage("--path: tokens and ids run under it, without --prompt-program");
    if (o.generate < 0 || o.generate > 1000000) return cli_usage("--generate %d: expected 0..1000000", o.generate);
    if (o.embed && strcmp(o.embed, "mean") && strcmp(o.embed, "last"))
        return cli_usage("--embed %s: expected mean or last", o.embed);
    if (!(tokens = read_tokens(o.tokens, &n))) return 2;
    if (o.score < 0 || (o.score && o.score >= n)) {
        free(tokens);
        return cli_usage("--score %d: expected 1..%d, fewer than there are tokens", o.score, n - 1);
    }
    status = cli_open_model(o.model, o.cpu, 0, &model);
    if (!status) status = run(&o, model, tokens, n, &s);
    polar_session_free(s);
    polar_model_close(model);
    free(tokens);
    return status;
}
