/* polar bench: speed and memory of models. Shows how the time of an evaluation is spent. */
#include "bench_coverage.h"
#include "bench_predict.h"

#include <math.h>

#ifdef __linux__
#define HAVE_PEAK 1
#endif

typedef struct bench_options {
    int prompt, decode, repeat, threads, json, batch, cpu_time;
    const char *program, *cpu, *kv_type;
} bench_options;

typedef struct bench_result {
    double load, prefill, decode, prefill_best, decode_best; /* seconds; tokens per second: median, best */
    double peak_mb, session_mb, model_mb;
    double cost, prefill_time, decode_time; /* of the program, in identities: calls, and time by the best rounds */
    int n_calls;
} bench_result;

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Peak resident memory in MB, mapped file pages included; 0 where the system does not say. */
static double peak_mb(void) {
    double kb = 0;
#ifdef HAVE_PEAK
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "VmHWM:", 6)) kb = (double)strtol(line + 6, NULL, 10);
    if (f) fclose(f);
#endif
    return kb / 1024;
}

/* Ids that any vocabulary has, without a pattern that a cache could use. */
void bench_tokens(int32_t *tokens, int n, int n_vocab) {
    uint64_t r = 88172645463325252u;
    for (int i = 0; i < n; i++) {
        r ^= r << 13, r ^= r >> 7, r ^= r << 17;
        tokens[i] = (int32_t)(r % (uint64_t)n_vocab);
    }
}

/* Of the clock, or of all cores together. */
static double seconds(const bench_options *o) {
    return cli_time(o->cpu_time);
}

/* Tokens per second of one round. The first one, -1, only warms up. */
static int measure_round(polar_session *s, const bench_options *o, const int32_t *tokens, int round, double *prefill,
                         double *decode) {
    polar_error e;
    double start, middle, end;
    if (polar_session_truncate(s, 0, &e)) return cli_fail("%s", e.message);
    start = seconds(o);
    if (polar_session_eval(s, tokens, o->prompt, &e)) return cli_fail("%s", e.message);
    middle = seconds(o);
    for (int i = 0; i < (round < 0 ? 1 : o->decode); i++)
        if (polar_session_eval(s, tokens + o->prompt + i, 1, &e)) return cli_fail("%s", e.message);
    end = seconds(o);
    if (round < 0) return 0;
    prefill[round] = o->prompt / (middle - start);
    decode[round] = o->decode ? o->decode / (end - middle) : 0;
    return 0;
}

#define MAX_REPEAT 99

/* Rounds of the session, and in turn with them of the identity, where the program is another. */
static int measure(polar_session *s, polar_session *identity, const bench_options *o, const int32_t *tokens,
                   bench_result *result) {
    double prefill[2][MAX_REPEAT], decode[2][MAX_REPEAT];
    const size_t n = (size_t)o->repeat;
    for (int r = -1; r < o->repeat; r++)
        for (int k = 0; k < (identity ? 2 : 1); k++)
            if (measure_round(k ? identity : s, o, tokens, r, prefill[k], decode[k])) return 1;
    for (int k = 0; k < (identity ? 2 : 1); k++) {
        qsort(prefill[k], n, sizeof **prefill, by_value);
        qsort(decode[k], n, sizeof **decode, by_value);
    }
    result->prefill = prefill[0][n / 2], result->prefill_best = prefill[0][n - 1];
    result->decode = decode[0][n / 2], result->decode_best = decode[0][n - 1];
    if (!identity) return 0;
    result->prefill_time = prefill[1][n - 1] / prefill[0][n - 1];
    result->decode_time = o->decode ? decode[1][n - 1] / decode[0][n - 1] : 0;
    return 0;
}

static int bench_model(const char *file, const bench_options *o, bench_result *r) {
    const double start = cli_seconds();
    polar_session_options so = {0};
    polar_model *model = NULL;
    polar_session *s = NULL, *identity = NULL;
    polar_model_info info;
    polar_program program, plain;
    polar_error e;
    int32_t *tokens = malloc((size_t)(o->prompt + o->decode + 1) * sizeof *tokens);
    int status = cli_open_model(file, o->cpu, 0, &model);
    if (status) goto done;
    r->load = cli_seconds() - start;
    polar_model_get_info(model, &info);
    so.n_ctx = o->prompt + o->decode + 1;
    so.n_threads = o->threads;
    if ((status = cli_kv_type(o->kv_type, &so.kv_type))) goto done;
    status = 1;
    if (!tokens) cli_fail("out of memory");
    else if (polar_model_program(model, o->program, &program, &e) ||
             polar_session_create(&s, model, &program, &so, &e) ||
             ((plain = cli_own_program(model), !polar_program_equal(&program, &plain)) &&
              polar_session_create(&identity, model, &plain, &so, &e)))
        cli_fail("%s: %s", file, e.message);
    else {
        bench_tokens(tokens, so.n_ctx, info.n_vocab);
        status = measure(s, identity, o, tokens, r);
        r->cost = polar_program_cost(&program);
        r->n_calls = polar_program_length(&program);
        r->peak_mb = peak_mb();
        r->model_mb = (double)info.weight_bytes / 1048576;
        r->session_mb = (double)polar_session_bytes(model, &program, &so) / 1048576;
    }
done:
    polar_session_free(s);
    polar_session_free(identity);
    polar_model_close(model);
    free(tokens);
    return status;
}

/* Decodes a token in each of n sessions, again and again. */
static int batch_round(polar_session **sessions, int n, const bench_options *o, const int32_t *tokens, double *best) {
    polar_error e;
    double start;
    for (int i = 0; i < n; i++)
        if (polar_session_truncate(sessions[i], o->prompt, &e)) return cli_fail("%s", e.message);
    start = seconds(o);
    for (int i = 0; i < o->decode; i++)
        if (polar_sessions_decode(sessions, n, tokens + i, &e)) return cli_fail("%s", e.message);
    start = fmax(seconds(o) - start, 1e-9); /* a clock may stand still for so little */
    *best = fmax(*best, n * o->decode / start);
    return 0;
}

#define MAX_BATCH 256

/* How many tokens per second 1, 2, 4, ... sessions decode together: the best of rounds that take turns. */
static int bench_batch(const char *file, const bench_options *o) {
    polar_session_options so = {0};
    polar_session *sessions[MAX_BATCH] = {NULL};
    polar_pool *pool = NULL;
    polar_model *model = NULL;
    polar_runner runner;
    polar_model_info info;
    polar_program program;
    polar_error e;
    double best[16] = {0};
    const int n_tokens = o->prompt + o->decode + o->batch;
    int32_t *tokens = malloc((size_t)n_tokens * sizeof *tokens);
    int status = cli_open_model(file, o->cpu, 0, &model);
    if (!status) status = cli_kv_type(o->kv_type, &so.kv_type);
    if (status) goto done;
    status = 1;
    polar_model_get_info(model, &info);
    so.n_ctx = o->prompt + o->decode;
    so.n_batch = MAX_BATCH;
    so.runner = &runner;
    if (!tokens) {
        cli_fail("out of memory");
        goto done;
    }
    bench_tokens(tokens, n_tokens, info.n_vocab);
    if (polar_pool_create(&pool, o->threads, NULL, &e)) goto failed;
    runner = polar_pool_runner(pool);
    if (polar_model_program(model, o->program, &program, &e) ||
        polar_session_create(&sessions[0], model, &program, &so, &e) ||
        polar_session_eval(sessions[0], tokens, o->prompt, &e))
        goto failed;
    for (int i = 1; i < o->batch; i++)
        if (polar_session_clone(&sessions[i], sessions[0], &e)) goto failed;
    for (int r = 0; r < o->repeat; r++)
        for (int k = 0, n = 1; n <= o->batch; k++, n *= 2)
            if (batch_round(sessions, n, o, tokens + o->prompt, &best[k])) goto done;
    for (int k = 0, n = 1; n <= o->batch; k++, n *= 2)
        if (o->json) printf("{\"sessions\":%d,\"decode_tps\":%.2f,\"n_calls\":%d,\"speedup\":%.3f}\n", n, best[k],
                            polar_program_length(&program), best[k] / best[0]);
        else printf("%-36s %3d sessions %9.1f tokens/s %7.2f x one\n", file, n, best[k], best[k] / best[0]);
    status = 0;
    goto done;
failed:
    cli_fail("%s: %s", file, e.message);
done:
    for (int i = 0; i < MAX_BATCH; i++) polar_session_free(sessions[i]);
    polar_pool_free(pool);
    polar_model_close(model);
    free(tokens);
    return status;
}

static void print_result(const char *file, const bench_options *o, const bench_result *r) {
    if (!o->json) {
        printf("%-36s %9.1f %9.1f %9.3f %9.0f %9.0f %9.0f\n", file, r->prefill, r->decode, r->load, r->model_mb,
               r->session_mb, r->peak_mb);
        if (r->prefill_time > 0)
            printf("%d calls, cost %.3f: prefill takes %.3f, decode %.3f times as long as the identity's\n", r->n_calls,
                   r->cost, r->prefill_time, r->decode_time);
        return;
    }
    printf("{\"model\":");
    json_put_text(stdout, file);
    printf(",\"prompt\":%d,\"decode\":%d,\"threads\":%d,\"n_calls\":%d", o->prompt, o->decode,
           o->threads > 0 ? o->threads : polar_cpu_count(), r->n_calls);
    json_put_number(stdout, "prefill_tps", r->prefill);
    json_put_number(stdout, "decode_tps", r->decode);
    json_put_number(stdout, "prefill_best", r->prefill_best);
    json_put_number(stdout, "decode_best", r->decode_best);
    if (r->prefill_time > 0) {
        json_put_number(stdout, "cost", r->cost);
        json_put_number(stdout, "prefill_time", r->prefill_time);
        json_put_number(stdout, "decode_time", r->decode_time);
    }
    json_put_number(stdout, "load_s", r->load);
    json_put_number(stdout, "model_mb", r->model_mb);
    json_put_number(stdout, "session_mb", r->session_mb);
    json_put_number(stdout, "peak_mb", r->peak_mb);
    printf("}\n");
}

/* The options of --search are few of their own and some of the others. */
static int bench_searches(const cli *c, const char *file, const bench_options *o, bench_search_options *s) {
    int status = cli_kv_type(o->kv_type, &s->kv_type);
    if (status) return status;
    if (s->programs < 1 || s->in_flight < 1 || s->in_flight > 256 || s->max_tokens < 1 || s->alone < 1 ||
        s->cache_mb < 1)
        return cli_usage("expected --programs, --max-tokens, --alone and --cache-mb >= 1, --in-flight 1..256");
    s->prompt = o->prompt;
    s->threads = o->threads;
    s->json = o->json;
    s->cpu = o->cpu;
    s->repeat = o->repeat;
    if (s->grow && strcmp(s->grow, "programs") && strcmp(s->grow, "prompt"))
        return cli_usage("--grow %s: expected programs or prompt", s->grow);
    for (int i = file ? -1 : 0; i < c->n_args && !status; i++) status = bench_search(i < 0 ? file : c->args[i], s);
    return status;
}

/* With --coverage FILE, likewise. */
static int bench_coverages(const cli *c, const char *file, const bench_options *o, const bench_search_options *s,
                           bench_coverage_options *v) {
    int status = 0;
    if (s->programs < 1 || v->few < 1 || v->few >= POLAR_MAX_MENU || v->limit < 0 || s->max_tokens < 1 ||
        s->alone < 1 || s->cache_mb < 1)
        return cli_usage("expected --programs, --max-tokens, --alone and --cache-mb >= 1, --few 1..%d, --limit >= 0",
                         POLAR_MAX_MENU - 1);
    v->programs = s->programs, v->alone = s->alone, v->max_tokens = s->max_tokens, v->cache_mb = s->cache_mb;
    v->threads = o->threads, v->json = o->json, v->cpu = o->cpu, v->kv_type = o->kv_type, v->cpu_time = s->cpu_time;
    for (int i = file ? -1 : 0; i < c->n_args && !status; i++) status = bench_coverage(i < 0 ? file : c->args[i], v);
    return status;
}

int command_bench(cli *c) {
    bench_options o = {128, 32, 3, 0, 0, 0, 0, "", "auto", "f16"};
    bench_search_options s = {0, 200, 64, 50, 6, 0, 1024, 0, 0, 0, NULL, POLAR_KV_F16, NULL, 0};
    const char *file = NULL;
    int search = 0, predict = 0, train = 0;
    bench_predict_options p = {0, 0, 0, 0, 2, 0, 20, 8, 1024, NULL};
    bench_coverage_options v = {.few = 40, .limit = 100};
    const cli_option options[] = {
        {"model", 'm', CLI_TEXT, &file, "FILE", "a GGUF model; more may follow as words"},
        CLI_UNKNOWN_OPTION,
        {"prompt", 'p', CLI_INT, &o.prompt, "N", "tokens of the prompt (128)"},
        {"decode", 'n', CLI_INT, &o.decode, "N", "tokens decoded one by one after it (32)"},
        {"repeat", 'r', CLI_INT, &o.repeat, "N", "rounds; medians are printed (3)"},
        CLI_THREADS_OPTION(o.threads),
        {"program", 0, CLI_TEXT, &o.program, "PROGRAM", "program of layers (the model's own), beside that"},
        {"batch", 0, CLI_INT, &o.batch, "B", "instead: decode 1, 2, 4, ... B sessions together"},
        CLI_KV_TYPE_OPTION(o.kv_type),
        CLI_CPU_OPTION(o.cpu),
        {"search", 0, CLI_FLAG, &search, NULL, "evaluate the programs of a search, together and one by one"},
        {"programs", 0, CLI_INT, &s.programs, "N", "of --search: simulations (200)"},
        {"in-flight", 0, CLI_INT, &s.in_flight, "N", "of --search: programs that wait for results at a time (64)"},
        {"max-tokens", 0, CLI_INT, &s.max_tokens, "N", "of --search: longest answer (50)"},
        {"alone", 0, CLI_INT, &s.alone, "N", "of --search: programs timed one by one (6)"},
        {"cache-mb", 0, CLI_INT, &s.cache_mb, "N", "of --search: memory for what programs share (1024)"},
        {"parts", 0, CLI_FLAG, &s.parts, NULL, "of --search: each part of the method by itself, and each left out"},
        {"grow", 0, CLI_TEXT, &s.grow, "WHAT", "of --search: a line for 25..400 programs, or prompt: 50..400 tokens"},
        {"coverage", 0, CLI_FILE, &v.questions, "FILE",
         "of --search: on these questions, how many programs the ways to search need; with --programs, --max-tokens; "
         "--alone is the number of questions that are also run one program at a time"},
        {"prior", 0, CLI_FILE, &v.prior, "FILE",
         "of --coverage: a search of other questions, see polar search --prior"},
        {"few", 0, CLI_INT, &v.few, "N", "of --coverage: programs of the ways with a prior (40)"},
        {"limit", 0, CLI_INT, &v.limit, "N", "of --coverage: the first N questions; 0: all (100)"},
        {"cpu-time", 0, CLI_FLAG, &o.cpu_time, NULL, "processor time, of all cores, instead of the clock's"},
        {"predict", 0, CLI_FLAG, &predict, NULL, "what a prediction costs, in percent of the prefill"},
        {"layer", 0, CLI_INT, &p.layer, "N", "of --predict: layers executed before its features (2)"},
        {"train", 0, CLI_FLAG, &train, NULL, "speed of training a predictor; needs no model"},
        {"steps", 0, CLI_INT, &p.steps, "N", "of --train: steps that are measured (20)"},
        {"group", 0, CLI_INT, &p.group, "N", "of --train: paths of a question that share a pass (8)"},
        {"features", 0, CLI_INT, &p.q_dim, "N", "of --train: numbers per token (1024)"},
        {"json", 0, CLI_FLAG, &o.json, NULL, "one JSON object per line"},
        {0}};
    int status = cli_read(c, options, 0, -1);
    if (status >= 0) return status;
    p.prompt = o.prompt, p.repeat = o.repeat, p.threads = o.threads, p.json = o.json, p.cpu = o.cpu,
    p.cpu_time = s.cpu_time = o.cpu_time;
    if (p.steps < 1 || p.layer < 1 || p.group < 1 || p.q_dim < 1)
        return cli_usage("expected --steps, --layer, --group, --features >= 1");
    if (train) return bench_train(&p);
    if (!file && !c->n_args) return cli_usage("no model: polar bench -m FILE [FILE ...]");
    if (o.prompt < 1 || o.decode < 0 || o.repeat < 1 || o.repeat > MAX_REPEAT)
        return cli_usage("expected --prompt >= 1, --decode >= 0, --repeat 1..%d", MAX_REPEAT);
    if (search && v.questions) return bench_coverages(c, file, &o, &s, &v);
    if (v.questions || v.prior) return cli_usage("--coverage goes with --search, --prior with --coverage");
    if (o.batch < 0 || o.batch > MAX_BATCH || (o.batch && o.decode < 1))
        return cli_usage("expected --batch 1..%d with --decode >= 1", MAX_BATCH);
    if (search) return bench_searches(c, file, &o, &s);
    for (int i = file ? -1 : 0; o.batch && i < c->n_args; i++)
        if ((status = bench_batch(i < 0 ? file : c->args[i], &o))) return status;
    if (o.batch) return 0;
    for (int i = file ? -1 : 0; predict && i < c->n_args; i++)
        if ((status = bench_predict(i < 0 ? file : c->args[i], &p))) return status;
    if (predict) return 0;
    if (!o.json)
        printf("%-36s %9s %9s %9s %9s %9s %9s\n", "model", "prefill/s", "decode/s", "load s", "model MB", "session",
               "peak MB");
    for (int i = file ? -1 : 0; i < c->n_args; i++) {
        const char *name = i < 0 ? file : c->args[i];
        bench_result r;
        memset(&r, 0, sizeof r);
        if ((status = bench_model(name, &o, &r))) return status;
        print_result(name, &o, &r);
    }
    return 0;
}
