/* Running programs on a question and grading what they answer: what search does for its proposals. */
#include "evaluate.h"

int evaluator_open(evaluator *e, const polar_model *model, const polar_many_options *options) {
    polar_error error;
    e->model = model;
    if (polar_many_create(&e->many, model, options, &error)) return cli_fail("%s", error.message);
    return 0;
}

void evaluator_close(evaluator *e) {
    polar_many_free(e->many);
    cli_prompt_close(&e->prompt);
    free(e->gold);
    e->many = NULL;
    e->gold = NULL;
}

int reward_of(const char *name, reward_kind *kind) {
    static const char *const names[] = {"answer", "exact", "choice"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i])) {
            *kind = (reward_kind)i;
            return 0;
        }
    return cli_usage("--reward %s: expected answer, exact or choice", name);
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
    status = cli_prompt_tokens(&e->prompt, q->text, &tokens, &n);
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

int evaluator_run(evaluator *e, const polar_path *paths, int n, attempt *attempts) {
    polar_many_result *results;
    polar_error error;
    int status = 0;
    memset(attempts, 0, (size_t)n * sizeof *attempts);
    if (e->reward == REWARD_CHOICE) {
        for (int i = 0; i < n && !status; i++) status = choose_option(e, paths[i], &attempts[i]);
        return status;
    }
    if (!(results = malloc((size_t)n * sizeof *results))) return cli_fail("out of memory");
    if (polar_many_run(e->many, paths, n, results, &error))
        status = error.status == POLAR_CANCELLED ? EVALUATE_CANCELLED : cli_fail("%s", error.message);
    for (int i = 0; i < n && !status; i++) status = grade_result(e, &results[i], &attempts[i]);
    free(results);
    return status;
}
