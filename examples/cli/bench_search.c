/* polar bench --search: programs per second in a search, together and one at a time. Shows polar_search and
 * polar_many at work. */
#include "cli.h"

typedef struct program_kept {
    int *path;
    int32_t *tokens;
    int length, n_tokens, n_steps; /* steps: tokens of the answer that are evaluated */
    double logprob;
} program_kept;

typedef struct search_bench {
    const bench_search_options *o;
    const char *file;
    const polar_model *model;
    int n_layer;
    int32_t *prompt, *gold;
    int n_gold;
    program_kept *programs;
    int n_programs;
    int n_prompt, n_wanted; /* tokens of the prompt, programs of the search */
    double rows;            /* positions times calls of a program, on average */
    double least;           /* the share of them that any exact way has to compute */
} search_bench;

/* What one way of evaluating took: seconds per position and call of every round, since the programs that are timed
 * alone may be shorter than others; the rest is the same in all rounds. */
#define BENCH_ROUNDS 99
typedef struct search_time {
    double each[BENCH_ROUNDS];
    int n;
    polar_many_stats stats;
    double rows, passes; /* what each of its programs alone in a fresh session takes: positions times calls, and passes
                            over the weights of a layer */
} search_time;

/* Processor time is what counts on a machine that is not idle. */
static double seconds(const search_bench *b) {
    return cli_time(b->o->cpu_time);
}

static polar_many *many_open(const search_bench *b, int share, int batch, int draft) {
    polar_many_options o = {0};
    polar_many *many = NULL;
    polar_error e;
    o.n_threads = b->o->threads;
    o.kv_type = b->o->kv_type;
    o.cache_bytes = (size_t)b->o->cache_mb << 20;
    o.max_tokens = b->o->max_tokens;
    o.no_share = !share;
    o.no_batch = !batch;
    o.no_draft = !draft;
    if (polar_many_create(&many, b->model, &o, &e) || polar_many_prompt(many, b->prompt, b->n_prompt, &e)) {
        cli_fail("%s: %s", b->file, e.message);
        polar_many_free(many);
        return NULL;
    }
    return many;
}

/* The planted right answer: what the identity with a layer in the middle done twice says. */
static int find_gold(search_bench *b) {
    const int at = b->n_layer / 2;
    polar_many *many = many_open(b, 0, 0, 0);
    polar_many_result r;
    polar_path path;
    polar_error e;
    int *calls = malloc((size_t)(b->n_layer + 1) * sizeof *calls), status = 1;
    path.calls = calls;
    path.n = b->n_layer + 1;
    for (int i = 0; calls && i < path.n; i++) calls[i] = i <= at ? i : i - 1;
    if (!calls) cli_fail("out of memory");
    else if (many && polar_many_run(many, &path, 1, &r, &e)) cli_fail("%s: %s", b->file, e.message);
    else if (many && !(b->gold = malloc((size_t)(r.n_tokens + 1) * sizeof *b->gold))) cli_fail("out of memory");
    else if (many) {
        b->n_gold = r.n_tokens;
        if (r.n_tokens) memcpy(b->gold, r.tokens, (size_t)r.n_tokens * sizeof *b->gold);
        status = 0;
    }
    free(calls);
    polar_many_free(many);
    return status;
}

/* A program that is proposed, as number `id` of the search: noted by the first one, the same in every other. */
static int take_program(search_bench *b, int id, const polar_program *program) {
    program_kept *p = &b->programs[id];
    int calls[POLAR_MAX_CALLS];
    const int n = polar_program_calls(program, calls, POLAR_MAX_CALLS);
    if (id < b->n_programs) {
        if (p->length == n && !memcmp(p->path, calls, (size_t)n * sizeof *calls)) return 0;
        return cli_fail("program %d is another one than before: this must not happen", id);
    }
    if (!(p->path = malloc((size_t)n * sizeof *p->path))) return cli_fail("out of memory");
    memcpy(p->path, calls, (size_t)n * sizeof *calls);
    p->length = n;
    b->n_programs = id + 1;
    return 0;
}

/* Its result, likewise. */
static int take_result(search_bench *b, int id, const polar_many_result *r) {
    program_kept *p = &b->programs[id];
    if (p->tokens) {
        if (p->n_tokens == r->n_tokens && !memcmp(&p->logprob, &r->logprob, sizeof r->logprob)) return 0;
        return cli_fail("program %d has another result than before: this must not happen", id);
    }
    if (!(p->tokens = malloc((size_t)(r->n_tokens + 1) * sizeof *p->tokens))) return cli_fail("out of memory");
    if (r->n_tokens) memcpy(p->tokens, r->tokens, (size_t)r->n_tokens * sizeof *p->tokens);
    p->n_tokens = r->n_tokens;
    p->n_steps = r->stop == POLAR_STOP_END || !r->n_tokens ? r->n_tokens : r->n_tokens - 1;
    p->logprob = r->logprob;
    return 0;
}

/* A search that runs. */
typedef struct bench_run {
    search_bench *b;
    polar_search *search;
    int n_given, n_done;
    int status; /* after a message */
} bench_run;

/* The identity comes first and alone, as in polar search: its answer is a guess for the others. */
static int next_program(void *user, polar_path *path) {
    bench_run *r = user;
    polar_program program;
    int id;
    if ((r->n_given && !r->n_done) || (id = polar_search_next(r->search, &program)) < 0) return 0;
    if ((r->status = take_program(r->b, id, &program))) return -1;
    path->calls = r->b->programs[id].path;
    path->n = r->b->programs[id].length;
    r->n_given++;
    return 1;
}

static int program_done(void *user, int id, const polar_many_result *result) {
    bench_run *r = user;
    const search_bench *b = r->b;
    const int right = result->n_tokens == b->n_gold &&
                      !memcmp(result->tokens, b->gold, (size_t)b->n_gold * sizeof *b->gold);
    polar_error e;
    r->n_done++;
    if (polar_search_report(r->search, id, right, &e)) r->status = cli_fail("%s", e.message);
    else r->status = take_result(r->b, id, result);
    return r->status;
}

/* Counts a program that was run. A session takes a prompt in batches of 128 tokens, and then token by token. */
static void count_plain(const search_bench *b, const program_kept *p, search_time *t) {
    t->rows += (double)p->length * (b->n_prompt + p->n_steps);
    t->passes += (double)p->length * ((b->n_prompt + 127) / 128 + p->n_steps);
}

/* A whole search with these parts switched on. */
static int run_search(search_bench *b, int share, int batch, int draft, int round, search_time *t) {
    polar_search_options so = {0};
    bench_run run = {b, NULL, 0, 0, 0};
    polar_many *many = NULL;
    polar_error e;
    int status = 1;
    double start;
    so.simulations = b->n_wanted;
    so.max_in_flight = b->o->in_flight;
    t->n = 0;
    start = seconds(b);
    if (polar_search_create(&run.search, b->n_layer, "bench", 5, &so, &e)) {
        cli_fail("%s", e.message);
        goto done;
    }
    if (!(many = many_open(b, share, batch, draft))) goto done;
    if (b->n_gold && polar_many_draft(many, b->gold, b->n_gold, &e)) {
        cli_fail("%s: %s", b->file, e.message);
        goto done;
    }
    if (polar_many_stream(many, next_program, program_done, &run, &e)) {
        if (!run.status) cli_fail("%s: %s", b->file, e.message);
        goto done;
    }
    t->n = run.n_done;
    start = seconds(b) - start;
    polar_many_get_stats(many, &t->stats);
    t->rows = t->passes = 0;
    for (int i = 0; i < b->n_programs; i++) count_plain(b, &b->programs[i], t);
    t->each[round] = start / t->rows;
    status = 0;
done:
    polar_many_free(many);
    polar_search_free(run.search);
    return status;
}

/* Some of the programs, spread over the search, each in a fresh session. */
static int run_alone(search_bench *b, int round, search_time *t) {
    polar_many *many = many_open(b, 0, 0, 0);
    polar_error e;
    double start = seconds(b);
    int status = !many;
    t->n = b->o->alone < b->n_programs ? b->o->alone : b->n_programs;
    t->rows = t->passes = 0;
    for (int i = 0; i < t->n && !status; i++) {
        const program_kept *p = &b->programs[(long)i * b->n_programs / t->n];
        const polar_path path = {p->path, p->length};
        polar_many_result r;
        if (polar_many_run(many, &path, 1, &r, &e)) status = cli_fail("%s: %s", b->file, e.message);
        else if (r.n_tokens != p->n_tokens || memcmp(&r.logprob, &p->logprob, sizeof r.logprob))
            status = cli_fail("a program alone has another result: this must not happen");
        count_plain(b, p, t);
    }
    start = seconds(b) - start;
    if (many) polar_many_get_stats(many, &t->stats);
    t->each[round] = start / t->rows;
    polar_many_free(many);
    return status;
}

/* Seconds that a prompt's position takes at a call when the identity is evaluated in a session, and an answer's. */
static int run_session(search_bench *b, int round, search_time *prompt, search_time *answer) {
    polar_session_options so = {0};
    polar_session *s = NULL;
    polar_error e;
    double start, middle;
    const int n = b->o->max_tokens < 16 ? b->o->max_tokens : 16;
    int status = 1;
    so.n_ctx = b->n_prompt + n;
    so.n_threads = b->o->threads;
    so.kv_type = b->o->kv_type;
    if (polar_session_create(&s, b->model, NULL, &so, &e)) return cli_fail("%s: %s", b->file, e.message);
    start = seconds(b);
    if (polar_session_eval(s, b->prompt, b->n_prompt, &e)) goto done;
    middle = seconds(b);
    for (int i = 0; i < n; i++)
        if (polar_session_eval(s, b->prompt, 1, &e)) goto done;
    prompt->each[round] = (middle - start) / b->n_prompt / b->n_layer;
    answer->each[round] = (seconds(b) - middle) / n / b->n_layer;
    status = 0;
done:
    if (status) cli_fail("%s: %s", b->file, e.message);
    polar_session_free(s);
    return status;
}

/* The share of rows that are different: positions of the prompt once for each prefix of a path, those of an answer
 * once for each prefix of a path and each beginning of an answer. Any way to get the same bits has to compute them. */
static double least_rows(const search_bench *b) {
    double all = 0, least = 0;
    for (int i = 0; i < b->n_programs; i++) {
        const program_kept *p = &b->programs[i];
        int known[POLAR_MAX_CALLS]; /* positions of each call that earlier programs share, the prompt's included */
        memset(known, 0, sizeof known);
        for (int j = 0; j < i; j++) {
            const program_kept *q = &b->programs[j];
            int calls = 0, tokens = 0;
            while (calls < p->length && calls < q->length && p->path[calls] == q->path[calls]) calls++;
            while (tokens < p->n_steps && tokens < q->n_steps && p->tokens[tokens] == q->tokens[tokens]) tokens++;
            for (int c = 0; c < calls; c++)
                if (known[c] < b->n_prompt + tokens) known[c] = b->n_prompt + tokens;
        }
        for (int c = 0; c < p->length; c++) least += b->n_prompt + p->n_steps - known[c];
        all += (double)p->length * (b->n_prompt + p->n_steps);
    }
    return least / all;
}

/* --- one point: all ways to evaluate, round by round --- */

static const struct {
    const char *name;
    int share, batch, draft;
} parts[] = {{"alone", 0, 0, 0},       {"share", 1, 0, 0},       {"batch", 0, 1, 0},       {"draft", 0, 0, 1},
             {"batch+draft", 0, 1, 1}, {"share+draft", 1, 0, 1}, {"share+batch", 1, 1, 0},
             {"share+batch+draft", 1, 1, 1}};
enum { ALONE, ALL = sizeof parts / sizeof *parts - 1, PROMPT, ANSWER, N_TIMES };

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median over the rounds of x / y, or of x. */
static double median(const search_bench *b, const double *x, const double *y) {
    double v[BENCH_ROUNDS] = {0};
    for (int i = 0; i < b->o->repeat; i++) v[i] = y ? x[i] / y[i] : x[i];
    qsort(v, (size_t)b->o->repeat, sizeof *v, by_value);
    return v[b->o->repeat / 2];
}

static void forget(search_bench *b) {
    for (int i = 0; i < b->n_programs; i++) {
        free(b->programs[i].path);
        free(b->programs[i].tokens);
        memset(&b->programs[i], 0, sizeof b->programs[i]);
    }
    free(b->gold);
    b->gold = NULL;
    b->n_programs = 0;
}

/* Measures a search of `programs` on a prompt of so many tokens. The rounds are interleaved, since the speed of a
 * machine changes. */
static int run_point(search_bench *b, int programs, int prompt, search_time *t) {
    double rows = 0;
    forget(b);
    b->n_wanted = programs;
    b->n_prompt = prompt;
    if (find_gold(b)) return 1;
    for (int round = 0; round < b->o->repeat; round++) {
        if (run_search(b, 1, 1, 1, round, &t[ALL]) || run_alone(b, round, &t[ALONE]) ||
            run_session(b, round, &t[PROMPT], &t[ANSWER]))
            return 1;
        for (int i = ALONE + 1; b->o->parts && i < ALL; i++)
            if (run_search(b, parts[i].share, parts[i].batch, parts[i].draft, round, &t[i])) return 1;
    }
    for (int i = 0; i < b->n_programs; i++)
        rows += (double)b->programs[i].length * (prompt + b->programs[i].n_steps);
    b->rows = rows / b->n_programs;
    b->least = least_rows(b);
    return 0;
}

/* How many times as fast the programs were if every row that is needed took what a prompt's row takes. */
static double bound_times(const search_bench *b, const search_time *t) {
    return median(b, t[ALONE].each, t[PROMPT].each) / b->least;
}

static void put_json(const char *key, double x) {
    printf(",\"%s\":", key);
    json_put_double(stdout, x);
}

static void print_json(const search_bench *b, const char *name, const search_time *t, int i) {
    printf("{\"model\":");
    json_put_text(stdout, b->file);
    printf(",\"parts\":\"%s\",\"prompt\":%d,\"programs\":%d,\"in_flight\":%d", name, b->n_prompt, t[i].n,
           b->o->in_flight);
    put_json("programs_per_s", 1 / (median(b, t[i].each, NULL) * b->rows));
    put_json("times", median(b, t[ALONE].each, t[i].each));
    put_json("rows", (double)t[i].stats.n_rows / t[i].rows);
    put_json("passes", (double)t[i].stats.n_passes / t[i].passes);
    put_json("least_rows", b->least);
    put_json("bound_times", bound_times(b, t));
    put_json("prompt_row_us", 1e6 * median(b, t[PROMPT].each, NULL));
    put_json("answer_row_us", 1e6 * median(b, t[ANSWER].each, NULL));
    printf(",\"drafted\":%lld,\"accepted\":%lld,\"recomputed\":%lld,\"peak_mb\":%.1f}\n",
           (long long)t[i].stats.n_drafted, (long long)t[i].stats.n_accepted, (long long)t[i].stats.n_recomputed,
           (double)t[i].stats.peak_bytes / 1048576);
}

static void print_point(const search_bench *b, const search_time *t) {
    double calls = 0, tokens = 0;
    for (int i = 0; i < b->n_programs; i++) calls += b->programs[i].length, tokens += b->programs[i].n_tokens;
    if (!b->o->json) {
        printf("%s: prompt of %d tokens, %d programs of %.1f calls and %.1f tokens, %d in flight\n", b->file,
               b->n_prompt, b->n_programs, calls / b->n_programs, tokens / b->n_programs, b->o->in_flight);
        printf("%-20s %9s %10s %10s %9s %9s %9s %9s\n", "", "programs", "per second", "times", "rows", "passes",
               "accepted", "peak MB");
    }
    for (int i = ALONE; i <= ALL; i++) {
        const double passes = (double)t[i].stats.n_passes, plain = t[i].passes;
        if (i != ALONE && i != ALL && !b->o->parts) continue;
        if (b->o->json) print_json(b, parts[i].name, t, i);
        else
            printf("%-20s %9d %10.2f %10.1f %9.3f %9.3f %9lld %9.0f\n", parts[i].name, t[i].n,
                   1 / (median(b, t[i].each, NULL) * b->rows), median(b, t[ALONE].each, t[i].each),
                   (double)t[i].stats.n_rows / t[i].rows, passes / plain,
                   (long long)t[i].stats.n_accepted, (double)t[i].stats.peak_bytes / 1048576);
    }
    if (!b->o->json)
        printf("%-20s %9d %10.2f %10.1f %9.3f\na call takes %.1f us for a position of the prompt, %.1f for one of an "
               "answer\n",
               "bound", b->n_programs, 1 / (median(b, t[PROMPT].each, NULL) * b->rows * b->least), bound_times(b, t),
               b->least, 1e6 * median(b, t[PROMPT].each, NULL), 1e6 * median(b, t[ANSWER].each, NULL));
    fflush(stdout);
}

/* A line for each number of programs, or each length of the prompt. */
static int run_growth(search_bench *b, search_time *t) {
    static const int programs[] = {25, 50, 100, 200, 400}, prompts[] = {50, 100, 150, 200, 400};
    const int by_programs = !strcmp(b->o->grow, "programs");
    if (!b->o->json)
        printf("%s\n%9s %9s %10s %10s %10s %9s %9s %10s\n", b->file, "programs", "prompt", "alone/s", "together/s",
               "times", "rows", "least", "bound");
    for (int i = 0; i < 5; i++) {
        const polar_many_stats *stats = &t[ALL].stats;
        if (run_point(b, by_programs ? programs[i] : b->o->programs, by_programs ? b->o->prompt : prompts[i], t))
            return 1;
        if (b->o->json) print_json(b, parts[ALL].name, t, ALL);
        else
            printf("%9d %9d %10.2f %10.2f %10.1f %9.3f %9.3f %10.1f\n", b->n_programs, b->n_prompt,
                   1 / (median(b, t[ALONE].each, NULL) * b->rows), 1 / (median(b, t[ALL].each, NULL) * b->rows),
                   median(b, t[ALONE].each, t[ALL].each), (double)stats->n_rows / t[ALL].rows, b->least,
                   bound_times(b, t));
        fflush(stdout);
    }
    return 0;
}

int bench_search(const char *file, const bench_search_options *o) {
    const int prompt = o->prompt > 400 ? o->prompt : 400, programs = o->programs > 400 ? o->programs : 400;
    search_bench b;
    search_time *t = calloc(N_TIMES, sizeof *t);
    polar_model *model = NULL;
    polar_model_info info;
    int status = cli_open_model(file, o->cpu, 0, &model);
    if (status) {
        free(t);
        return status;
    }
    polar_model_get_info(model, &info);
    memset(&b, 0, sizeof b);
    b.o = o;
    b.file = file;
    b.model = model;
    b.n_layer = info.n_layer;
    b.prompt = malloc((size_t)prompt * sizeof *b.prompt);
    b.programs = calloc((size_t)programs + 1, sizeof *b.programs);
    if (!t || !b.prompt || !b.programs) status = cli_fail("out of memory");
    else {
        bench_tokens(b.prompt, prompt, info.n_vocab);
        if (o->grow) status = run_growth(&b, t);
        else if (!(status = run_point(&b, o->programs, o->prompt, t))) print_point(&b, t);
    }
    forget(&b);
    free(b.programs);
    free(b.prompt);
    free(t);
    polar_model_close(model);
    return status;
}
