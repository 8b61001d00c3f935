/* Running programs on a question and grading what they answer: what search does for its proposals. */
#include "evaluate.h"

#include <limits.h>

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

/* "0:100" */
static int read_range(const char *text, int *from, int *to) {
    char *end;
    const long a = strtol(text, &end, 10), b = *end == ':' ? strtol(end + 1, &end, 10) : 0;
    *from = (int)a;
    *to = (int)b;
    return !*end && a >= 0 && a < b && b <= INT_MAX;
}

int evaluate_check(const evaluate_options *o, shard *s) {
    int from, to;
    if (o->tokens < 1 || o->tokens > 100000) return cli_usage("--tokens %d: expected 1..100000", o->tokens);
    if (o->cache_mb < 1 || o->cache_mb > 1 << 22)
        return cli_usage("--cache-mb %d: expected 1..%d", o->cache_mb, 1 << 22);
    if (o->limit < 0) return cli_usage("--limit %d: expected a number of questions", o->limit);
    if (o->level < EVALUATE_NO_LEVEL) return cli_usage("--level %d: expected 0 or more", o->level);
    if (o->sample_size < 0) return cli_usage("--sample-size %d: expected a number of rows", o->sample_size);
    if (o->range && !read_range(o->range, &from, &to))
        return cli_usage("--range %s: expected A:B, as in 0:100 for the first hundred", o->range);
    return read_shard(o->shard, s);
}

int evaluate_questions(cli_questions *qs, const char *file, const evaluate_options *o) {
    const int choose = o->level >= 0 || o->range || o->is_released;
    int from, to, status = cli_questions_read_joined(qs, file, 1, choose ? 0 : o->limit, o->texts);
    if (!status && (o->level >= 0 || (o->is_released && qs->n_responses)))
        status = cli_questions_select(qs, file, o->level >= 0 ? o->level : 1, o->sample_size);
    if (!status && o->range && read_range(o->range, &from, &to)) status = cli_questions_range(qs, file, from, to);
    if (!status && o->limit && qs->n > o->limit) status = cli_questions_range(qs, file, 0, o->limit);
    return status;
}

void evaluate_put(FILE *f, const evaluate_options *o, const cli_prompt *prompt) {
    cli_prompt_put(f, prompt);
    fprintf(f, ",\"reward\":\"%s\",\"tokens\":%d,\"stop\":[", o->reward, o->tokens);
    for (int i = 0; i < o->stop.n; i++) {
        if (i) fputc(',', f);
        json_put_text(f, o->stop.items[i]);
    }
    fprintf(f, "],\"kv_type\":\"%s\"", o->kv_type);
    if (strcmp(o->kv, "per-call")) fprintf(f, ",\"kv\":\"%s\"", o->kv);
    if (o->prompt_program) {
        fprintf(f, ",\"prompt_program\":");
        json_put_text(f, o->prompt_program);
    }
}

double evaluate_work(const polar_model *m) {
    polar_model_info i;
    polar_gguf_tensor t;
    double sum = 0;
    polar_model_get_info(m, &i);
    for (int k = 0; polar_model_tensor(m, k, &t); k++) {
        double weights = 1;
        if (t.n_dims < 2 || t.name_length < 4 || memcmp(t.name, "blk.", 4)) continue;
        for (int d = 0; d < t.n_dims; d++) weights *= (double)t.dims[d];
        sum += t.n_dims > 2 && i.n_expert ? weights * i.n_expert_used / i.n_expert : weights;
    }
    return sum;
}

int shard_has(shard s, int question) {
    return question % s.n == s.index - 1;
}

int shard_size(shard s, int n) {
    return (n - s.index + s.n) / s.n;
}

static int on_call(void *user, const polar_tap_info *info) {
    (void)user, (void)info;
    return cli_interrupted();
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
    if ((status = cli_kv_mode(o->kv, &e->alone.kv_mode))) return status;
    e->options = o;
    e->alone.kv_type = many.kv_type;
    e->alone.runner = many.runner;
    e->alone.n_threads = o->threads;
    e->alone.tap = on_call;
    e->is_alone = o->prompt_program || e->alone.kv_mode != POLAR_KV_PER_CALL;
    if (e->is_alone && e->reward == REWARD_CHOICE)
        return cli_usage("--reward choice: without --prompt-program, and with --kv per-call");
    if (o->prompt_program) {
        if (polar_model_program(model, o->prompt_program, &e->first, &error))
            return cli_usage("--prompt-program: %s", error.message);
    }
    if (polar_many_create(&e->many, model, &many, &error)) return cli_fail("%s", error.message);
    return 0;
}

void evaluator_close(evaluator *e) {
    polar_many_free(e->many);
    cli_prompt_close(&e->prompt);
    free(e->gold);
    free(e->tokens);
    e->many = NULL;
    e->gold = e->tokens = NULL;
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
    int status;
    free(e->gold);
    free(e->tokens);
    e->gold = e->tokens = NULL;
    e->question = q;
    if (e->reward == REWARD_CHOICE && (q->n_options < 2 || q->correct < 0))
        return cli_fail("line %d of the questions has no options of which the answer is one, as --reward choice needs",
                        q->line);
    status = cli_prompt_tokens(e->model, &e->prompt.how, q->text, &e->tokens, &e->n_tokens);
    if (!status && polar_many_prompt(e->many, e->tokens, e->n_tokens, &error)) status = cli_fail("%s", error.message);
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

/* Generation is not ended before its own end, however clear the verdict seems. The last box counts, so a complete one
 * decides only if no later text can hold another, and a single token may be a whole box. A first token with which the
 * reference does not begin decides nothing: "0.5" and "\frac{1}{2}" are equal, and a box may follow any words. What
 * saves work with the same verdict is the draft: a right answer is checked, not generated. */
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

/* Text of an answer, as it comes. */
typedef struct answer_text {
    char *text;
    size_t length;
} answer_text;

static int on_text(void *user, const char *text, size_t length) {
    answer_text *t = user;
    char *p = realloc(t->text, t->length + length + 1);
    if (!p) return 1;
    memcpy(p + t->length, text, length);
    t->text = p;
    t->length += length;
    p[t->length] = 0;
    return 0;
}

/* The session of a program by itself: under the prompt program, if there is one. */
static polar_status open_alone(const evaluator *e, polar_path path, polar_session **s, polar_program *program,
                               polar_error *error) {
    polar_session_options so = e->alone;
    const polar_program own = cli_own_program(e->model), *first = e->options->prompt_program ? &e->first : &own;
    polar_model_info info;
    polar_status status;
    polar_model_get_info(e->model, &info);
    so.n_ctx = e->n_tokens + e->options->tokens;
    if (so.n_ctx > info.n_ctx_train) so.n_ctx = info.n_ctx_train;
    so.max_calls = path.n;
    if (polar_program_length(first) > so.max_calls) so.max_calls = polar_program_length(first);
    if ((status = polar_session_create(s, e->model, first, &so, error))) return status;
    if (first == &own) return polar_session_set_path(*s, path.calls, path.n, error);
    return polar_program_from_path(program, info.n_layer, path.calls, path.n, info.n_layer, POLAR_MAX_CALLS, error);
}

/* The answer of a program by itself: a result as polar_many gives it. */
static int run_alone(evaluator *e, polar_path path, attempt *a) {
    polar_generate_options g = {.max_tokens = e->options->tokens, .token_capacity = e->options->tokens};
    answer_text text = {NULL, 0};
    polar_many_result r = {0};
    polar_session *s = NULL;
    polar_program program = {0};
    polar_result result;
    polar_error error;
    int32_t *tokens = malloc((size_t)e->options->tokens * sizeof *tokens);
    int status = 0;
    g.stop = e->options->stop.n ? e->options->stop.items : NULL;
    g.program = e->options->prompt_program ? &program : NULL;
    g.tokens = tokens;
    g.on_text = on_text;
    g.on_text_user = &text;
    if (!tokens || on_text(&text, "", 0)) status = cli_fail("out of memory");
    else if (open_alone(e, path, &s, &program, &error)) status = cli_fail("%s", error.message);
    else {
        r.status = polar_session_generate(s, e->tokens, e->n_tokens, &g, NULL, 0, &result, &error);
        if (r.status == POLAR_CANCELLED) status = cli_interrupted() ? EVALUATE_CANCELLED : cli_fail("out of memory");
        else if (r.status && r.status != POLAR_NUMERIC) status = cli_fail("%s", error.message);
    }
    if (!status && !r.status) {
        r.stop = result.stop;
        r.n_tokens = result.n_generated;
        r.tokens = tokens;
        r.text = text.text;
        r.length = text.length;
        r.logprob = result.logprob;
    }
    if (!status) status = grade_result(e, &r, a);
    polar_session_free(s);
    free(text.text);
    free(tokens);
    return status;
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
    if (e->reward == REWARD_CHOICE || e->is_alone) {
        for (int n = 0; !g.status && graded_next(&g, &path) > 0; n++) {
            attempt a = {0};
            graded_pass(&g, n, &a, e->is_alone ? run_alone(e, path, &a) : choose_option(e, path, &a));
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
