/* Running programs on a question and grading what they answer: what search does for its proposals. */
#include "evaluate.h"

/* "2/8" */
static int read_shard(const char *text, shard *s) {
    char *end;
    long a, b;
    s->index = s->n = 1;
    if (!text) return 0;
    a = strtol(text, &end, 10);
    b = *end == '/' ? strtol(end + 1, &end, 10) : 0;
    if (*end || a < 1 || b < 1 || a > b || b > 1000000)
        return cli_usage("--shard %s: expected 1/4, 2/4, ... for four parts", text);
    s->index = (int)a;
    s->n = (int)b;
    return 0;
}

int evaluate_check(const evaluate_options *o, shard *s) {
    if (o->tokens < 1 || o->tokens > 100000) return cli_usage("--tokens %d: expected 1..100000", o->tokens);
    if (o->cache_mb < 1 || o->cache_mb > 1 << 22)
        return cli_usage("--cache-mb %d: expected 1..%d", o->cache_mb, 1 << 22);
    if (o->limit < 0) return cli_usage("--limit %d: expected a number of questions", o->limit);
    return read_shard(o->shard, s);
}

void evaluate_put(FILE *f, const evaluate_options *o, const cli_prompt *prompt) {
    cli_prompt_put(f, prompt);
    fprintf(f, ",\"reward\":\"%s\",\"tokens\":%d,\"stop\":[", o->reward, o->tokens);
    for (int i = 0; i < o->stop.n; i++) {
        if (i) fputc(',', f);
        json_put_text(f, o->stop.items[i]);
    }
    fprintf(f, "],\"kv_type\":\"%s\"", o->kv_type);
}

int shard_has(shard s, int question) {
    return question % s.n == s.index - 1;
}

int shard_size(shard s, int n) {
    return (n - s.index + s.n) / s.n;
}

int evaluator_open(evaluator *e, const polar_model *model, const evaluate_options *o, polar_many_options many) {
    static const char *const rewards[] = {"answer", "exact", "choice", NULL};
    const int reward = cli_word("--reward", o->reward, rewards);
    polar_error error;
    int status;
    if (reward < 0) return 2;
    e->reward = (reward_kind)reward;
    e->model = model;
    many.n_threads = o->threads;
    many.cache_bytes = (size_t)o->cache_mb << 20;
    many.max_tokens = o->tokens;
    many.stop = o->stop.n ? o->stop.items : NULL;
    if ((status = cli_kv_type(o->kv_type, &many.kv_type)) || (status = cli_prompt_open(&e->prompt, model, &o->prompt)))
        return status;
    if (polar_many_create(&e->many, model, &many, &error)) return cli_fail("%s", error.message);
    return 0;
}

void evaluator_close(evaluator *e) {
    polar_many_free(e->many);
    cli_prompt_close(&e->prompt);
    free(e->gold);
    e->many = NULL;
    e->gold = NULL;
}

int evaluator_room(const evaluator *e, const evaluate_options *o, cli_questions *qs, const char *file, int *n_ctx) {
    int n_answer = e->reward == REWARD_CHOICE ? 1 : o->tokens, longest, status = 0;
    for (int i = 0; i < CLI_MAX_OPTIONS && e->reward == REWARD_CHOICE && !status; i++) {
        const char letter[2] = {(char)('A' + i), 0};
        int32_t *tokens;
        int n;
        status = cli_prompt_draft(&e->prompt, letter, &tokens, &n);
        free(tokens);
        if (n > n_answer) n_answer = n;
    }
    if (status || (status = cli_prompt_room(&e->prompt, qs, file, n_answer, o->skip_long, &longest))) return status;
    *n_ctx = longest + n_answer;
    return 0;
}

int evaluator_question(evaluator *e, const cli_question *q) {
    polar_error error;
    int32_t *tokens = NULL;
    int n, status;
    free(e->gold);
    e->gold = NULL;
    e->question = q;
    if (e->reward == REWARD_CHOICE && (q->n_options < 2 || q->correct < 0))
        return cli_fail("line %d of the questions has no options of which the answer is one, as --reward choice needs",
                        q->line);
    status = cli_prompt_tokens(e->model, &e->prompt.how, q->text, &tokens, &n);
    if (!status && polar_many_prompt(e->many, tokens, n, &error)) status = cli_fail("%s", error.message);
    free(tokens);
    if (!status) status = cli_prompt_draft(&e->prompt, q->answer, &e->gold, &e->n_gold);
    if (!status && e->n_gold && polar_many_draft(e->many, e->gold, e->n_gold, &error))
        status = cli_fail("%s", error.message);
    return status;
}

static int set_answer(attempt *a, const char *text, size_t n) {
    if (!(a->answer = malloc(n + 1))) return cli_fail("out of memory");
    memcpy(a->answer, text, n);
    a->answer[n] = 0;
    return 0;
}

/* The tokens are those of the reference; what follows its closing brace does not matter. */
static int is_exact(const evaluator *e, const polar_many_result *r) {
    int n = e->n_gold, ended = r->stop == POLAR_STOP_END;
    if (n && polar_token_is_end(e->model, e->gold[n - 1])) n--;
    if (r->n_tokens < n || memcmp(r->tokens, e->gold, (size_t)n * sizeof *e->gold)) return 0;
    return e->prompt.boxed || (ended && r->n_tokens == n);
}

static int grade_result(const evaluator *e, const polar_many_result *r, attempt *a) {
    polar_span answer = {"", 0};
    int right = 0, status = 0;
    a->n_tokens = r->n_tokens;
    a->stop = r->stop;
    a->logprob = r->logprob;
    if (r->status == POLAR_OK) status = cli_grade(&e->prompt, e->question, r->text, r->stop, &right, &answer);
    if (e->reward == REWARD_EXACT) right = r->status == POLAR_OK && is_exact(e, r);
    a->reward = right;
    return status ? status : set_answer(a, answer.text, answer.length);
}

/* The option whose letter is the likeliest answer. */
static int choose_option(evaluator *e, polar_path path, attempt *a) {
    const cli_question *q = e->question;
    polar_error error;
    int best = -1;
    for (int i = 0; i < q->n_options; i++) {
        char letter[2] = {(char)('A' + i), 0};
        int32_t *tokens;
        double logprob = 0;
        int n, status = cli_prompt_draft(&e->prompt, letter, &tokens, &n);
        if (!status && n && polar_token_is_end(e->model, tokens[n - 1])) n--;
        if (!status && polar_many_score(e->many, path, tokens, n, &logprob, &error)) {
            if (error.status != POLAR_NUMERIC)
                status = error.status == POLAR_CANCELLED ? EVALUATE_CANCELLED : cli_fail("%s", error.message);
            logprob = -1e300; /* no finite number: this program gives no answer */
        }
        free(tokens);
        if (status) return status;
        if (logprob <= -1e300 || (best >= 0 && logprob <= a->logprob)) continue;
        best = i;
        a->logprob = logprob;
        a->n_tokens = n;
    }
    a->stop = POLAR_STOP_END;
    a->reward = best >= 0 && best == q->correct;
    return set_answer(a, &"ABCDEFGHIJ"[best < 0 ? 0 : best], best >= 0);
}

/* A stream on its way through polar_many. */
typedef struct graded {
    evaluator *e;
    const evaluator_stream *stream;
    int status;
} graded;

static int graded_next(void *user, polar_path *path) {
    graded *g = user;
    const int more = g->stream->next(g->stream->user, path);
    if (more < 0) g->status = -more;
    return more;
}

/* Hands on what grading came to. */
static int graded_pass(graded *g, int number, attempt *a, int status) {
    if (status) free(a->answer);
    else status = g->stream->done(g->stream->user, number, a);
    return g->status = status;
}

static int graded_done(void *user, int number, const polar_many_result *r) {
    graded *g = user;
    attempt a = {0};
    return graded_pass(g, number, &a, grade_result(g->e, r, &a));
}

int evaluator_run_stream(evaluator *e, const evaluator_stream *stream) {
    graded g = {e, stream, 0};
    polar_error error;
    polar_path path;
    if (e->reward == REWARD_CHOICE) {
        for (int n = 0; !g.status && graded_next(&g, &path) > 0; n++) {
            attempt a = {0};
            graded_pass(&g, n, &a, choose_option(e, path, &a));
        }
        return g.status;
    }
    if (polar_many_stream(e->many, graded_next, graded_done, &g, &error) && !g.status)
        g.status = error.status == POLAR_CANCELLED ? EVALUATE_CANCELLED : cli_fail("%s", error.message);
    return g.status;
}

/* Paths that are all there. */
typedef struct path_list {
    const polar_path *paths;
    int n_paths, n_given;
    attempt *attempts;
} path_list;

static int list_next(void *user, polar_path *path) {
    path_list *l = user;
    if (l->n_given == l->n_paths) return 0;
    *path = l->paths[l->n_given++];
    return 1;
}

static int list_done(void *user, int number, const attempt *a) {
    path_list *l = user;
    l->attempts[number] = *a;
    return 0;
}

int evaluator_run(evaluator *e, const polar_path *paths, int n, attempt *attempts) {
    path_list list = {paths, n, 0, attempts};
    const evaluator_stream stream = {list_next, list_done, &list};
    memset(attempts, 0, (size_t)n * sizeof *attempts);
    return evaluator_run_stream(e, &stream);
}
