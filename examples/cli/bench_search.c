/* polar bench --search: programs per second in a search, together and one at a time. Shows polar_search and
 * polar_many at work. */
#include "cli.h"

#include <time.h>

typedef struct program_kept {
    int *path;
    int length, n_tokens;
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
    double alone; /* seconds per position and call: the programs that are timed alone may be shorter than others */
    double rows;  /* positions times calls of a program, on average */
} search_bench;

/* What one way of evaluating took. */
typedef struct search_time {
    double seconds;
    int n;
    polar_many_stats stats;
} search_time;

/* Processor time is what counts on a machine that is not idle. */
static double seconds(const search_bench *b) {
    return b->o->cpu_time ? (double)clock() / CLOCKS_PER_SEC : cli_seconds();
}

static polar_many *many_open(const search_bench *b, int share, int batch, int draft) {
    polar_many_options o = polar_many_defaults();
    polar_many *many = NULL;
    polar_error e;
    o.n_threads = b->o->threads;
    o.kv_type = b->o->kv_type;
    o.cache_bytes = (size_t)b->o->cache_mb << 20;
    o.max_tokens = b->o->max_tokens;
    o.share = share;
    o.batch = batch;
    o.draft = draft;
    if (polar_many_create(&many, b->model, &o, &e) || polar_many_prompt(many, b->prompt, b->o->prompt, &e)) {
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

/* The result of program `id`: noted by the first search, the same in every other. */
static int check_result(search_bench *b, int id, const polar_program *program, const polar_many_result *r) {
    program_kept *p = &b->programs[id];
    if (id < b->n_programs) {
        if (p->n_tokens == r->n_tokens && !memcmp(&p->logprob, &r->logprob, sizeof r->logprob)) return 0;
        return cli_fail("program %d has another result than before: this must not happen", id);
    }
    p->length = polar_program_length(program);
    if (!(p->path = malloc((size_t)p->length * sizeof *p->path))) return cli_fail("out of memory");
    polar_program_path(program, p->path, p->length);
    p->n_tokens = r->n_tokens;
    p->logprob = r->logprob;
    b->n_programs = id + 1;
    return 0;
}

#define BENCH_FLIGHT 256

/* Takes proposals until none is left or as many are in flight as may be; returns their number. */
static int take_proposals(polar_search *search, int most, polar_program *programs, int *ids) {
    int n = 0;
    while (n < most && (ids[n] = polar_search_next(search, &programs[n])) >= 0) n++;
    return n;
}

static int run_proposals(search_bench *b, polar_search *search, polar_many *many, const polar_program *programs,
                         const int *ids, int n) {
    static int calls[BENCH_FLIGHT][POLAR_MAX_CALLS];
    static polar_many_result results[BENCH_FLIGHT];
    polar_path paths[BENCH_FLIGHT];
    polar_error e;
    for (int i = 0; i < n; i++) {
        paths[i].calls = calls[i];
        paths[i].n = polar_program_path(&programs[i], calls[i], POLAR_MAX_CALLS);
    }
    if (polar_many_run(many, paths, n, results, &e)) return cli_fail("%s: %s", b->file, e.message);
    for (int i = 0; i < n; i++) {
        const polar_many_result *r = &results[i];
        const int right = r->n_tokens == b->n_gold && !memcmp(r->tokens, b->gold, (size_t)b->n_gold * sizeof *b->gold);
        if (polar_search_report(search, ids[i], right, &e)) return cli_fail("%s", e.message);
        if (check_result(b, ids[i], &programs[i], r)) return 1;
    }
    return 0;
}

/* A whole search with these parts switched on. */
static int run_search(search_bench *b, int share, int batch, int draft, search_time *t) {
    static polar_program programs[BENCH_FLIGHT];
    static int ids[BENCH_FLIGHT];
    polar_search_options so = polar_search_defaults();
    polar_search *search = NULL;
    polar_many *many = NULL;
    polar_error e;
    int n, status = 1;
    double start;
    so.simulations = b->o->programs;
    so.max_in_flight = b->o->in_flight;
    t->n = 0;
    start = seconds(b);
    if (polar_search_create(&search, b->n_layer, "bench", 5, &so, &e)) {
        cli_fail("%s", e.message);
        goto done;
    }
    if (!(many = many_open(b, share, batch, draft))) goto done;
    if (b->n_gold && polar_many_draft(many, b->gold, b->n_gold, &e)) {
        cli_fail("%s: %s", b->file, e.message);
        goto done;
    }
    /* the identity first, as a search does: its answer is a guess for the others */
    for (int most = 1; (n = take_proposals(search, most, programs, ids)) > 0; most = b->o->in_flight) {
        if (run_proposals(b, search, many, programs, ids, n)) goto done;
        t->n += n;
    }
    t->seconds = seconds(b) - start;
    polar_many_get_stats(many, &t->stats);
    status = 0;
done:
    polar_many_free(many);
    polar_search_free(search);
    return status;
}

/* Some of the programs, spread over the search, each in a fresh session. */
static int run_alone(search_bench *b, search_time *t) {
    polar_many *many = many_open(b, 0, 0, 0);
    polar_error e;
    double start = seconds(b);
    int status = !many;
    t->n = b->o->alone < b->n_programs ? b->o->alone : b->n_programs;
    for (int i = 0; i < t->n && !status; i++) {
        const program_kept *p = &b->programs[(long)i * b->n_programs / t->n];
        const polar_path path = {p->path, p->length};
        polar_many_result r;
        if (polar_many_run(many, &path, 1, &r, &e)) status = cli_fail("%s: %s", b->file, e.message);
        else if (r.n_tokens != p->n_tokens || memcmp(&r.logprob, &p->logprob, sizeof r.logprob))
            status = cli_fail("a program alone has another result: this must not happen");
    }
    t->seconds = seconds(b) - start;
    if (many) polar_many_get_stats(many, &t->stats);
    polar_many_free(many);
    return status;
}

static void print_time(const search_bench *b, const char *name, const search_time *t) {
    const double each = t->seconds / (double)t->stats.n_rows_plain,
                 rows = (double)t->stats.n_rows / (double)t->stats.n_rows_plain,
                 passes = (double)t->stats.n_passes / (double)t->stats.n_passes_plain;
    if (b->o->json) {
        printf("{\"model\":");
        json_put_text(stdout, b->file);
        printf(",\"parts\":\"%s\",\"prompt\":%d,\"programs\":%d,\"in_flight\":%d,\"seconds\":", name, b->o->prompt,
               t->n, b->o->in_flight);
        json_put_double(stdout, t->seconds);
        printf(",\"programs_per_s\":");
        json_put_double(stdout, 1 / (each * b->rows));
        printf(",\"times\":");
        json_put_double(stdout, b->alone / each);
        printf(",\"rows\":");
        json_put_double(stdout, rows);
        printf(",\"passes\":");
        json_put_double(stdout, passes);
        printf(",\"drafted\":%lld,\"accepted\":%lld,\"recomputed\":%lld,\"peak_mb\":%.1f}\n",
               (long long)t->stats.n_drafted, (long long)t->stats.n_accepted, (long long)t->stats.n_recomputed,
               (double)t->stats.peak_bytes / 1048576);
    } else
        printf("%-20s %9d %10.2f %10.1f %9.3f %9.3f %9lld %9.0f\n", name, t->n, 1 / (each * b->rows), b->alone / each,
               rows, passes, (long long)t->stats.n_accepted, (double)t->stats.peak_bytes / 1048576);
    fflush(stdout);
}

static int run_all(search_bench *b) {
    static const struct {
        const char *name;
        int share, batch, draft;
    } parts[] = {{"share", 1, 0, 0},       {"batch", 0, 1, 0},       {"draft", 0, 0, 1},
                 {"batch+draft", 0, 1, 1}, {"share+draft", 1, 0, 1}, {"share+batch", 1, 1, 0}};
    search_time all, t;
    double calls = 0, tokens = 0;
    if (find_gold(b) || run_search(b, 1, 1, 1, &all) || run_alone(b, &t)) return 1;
    b->alone = t.seconds / (double)t.stats.n_rows_plain;
    b->rows = (double)all.stats.n_rows_plain / all.n;
    for (int i = 0; i < b->n_programs; i++) calls += b->programs[i].length, tokens += b->programs[i].n_tokens;
    if (!b->o->json) {
        printf("%s: prompt of %d tokens, %d programs of %.1f calls and %.1f tokens, %d in flight\n", b->file,
               b->o->prompt, b->n_programs, calls / b->n_programs, tokens / b->n_programs, b->o->in_flight);
        printf("%-20s %9s %10s %10s %9s %9s %9s %9s\n", "", "programs", "per second", "times", "rows", "passes",
               "accepted", "peak MB");
    }
    print_time(b, "alone", &t);
    for (int i = 0; b->o->parts && i < (int)(sizeof parts / sizeof *parts); i++) {
        if (run_search(b, parts[i].share, parts[i].batch, parts[i].draft, &t)) return 1;
        print_time(b, parts[i].name, &t);
    }
    print_time(b, "share+batch+draft", &all);
    return 0;
}

int bench_search(const char *file, const bench_search_options *o) {
    search_bench b;
    polar_model *model = NULL;
    polar_model_info info;
    int status = cli_open_model(file, o->cpu, 0, &model);
    if (status) return status;
    polar_model_get_info(model, &info);
    memset(&b, 0, sizeof b);
    b.o = o;
    b.file = file;
    b.model = model;
    b.n_layer = info.n_layer;
    b.prompt = malloc((size_t)o->prompt * sizeof *b.prompt);
    b.programs = calloc((size_t)o->programs + 1, sizeof *b.programs);
    if (!b.prompt || !b.programs) status = cli_fail("out of memory");
    else {
        bench_tokens(b.prompt, o->prompt, info.n_vocab);
        status = run_all(&b);
    }
    for (int i = 0; i < b.n_programs; i++) free(b.programs[i].path);
    free(b.programs);
    free(b.prompt);
    free(b.gold);
    polar_model_close(model);
    return status;
}
