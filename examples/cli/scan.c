/* polar scan: what skipping, repeating or damping each block of layers does to probe questions. Shows polar_many_score,
 * and how few programs are measured on many questions, then the best of them on others. */
#include "evaluate.h"
#include "statistics.h"

#include <math.h>

enum { MAX_FILES = 16, MAX_TIMES = 5 };

typedef struct scan_options {
    const char *model, *output, *score, *answer, *held_out;
    evaluate_options evaluate;
    int max_length, max_times, max_damped, grid, around, winners, json;
    uint64_t seed;
} scan_options;

/* A question, and the one whose reference is its control. */
typedef struct probe {
    const cli_question *question, *other;
    int file, held_out;
} probe;

/* One program on one question. */
typedef struct measure {
    double score;   /* log probability per token of the reference, or 1 right and 0 wrong; NAN: no finite number */
    double control; /* the same for the reference of another question */
} measure;

/* The identity, or a program with one edit of the block start..end-1. */
typedef struct candidate {
    int operation, start, end; /* -1 for the identity, else see operation_text */
    int stage, column;         /* where its measures stand */
    int n_calls, *calls;
    double score[MAX_FILES], control[MAX_FILES]; /* means over the questions that are not held out */
    double gain, beyond; /* score, and score - control, less those of the identity: means over files */
} candidate;

/* Programs that are measured on the same questions. */
enum { GRID, DENSE, HELD_OUT, N_STAGES };
typedef struct scan_stage {
    int planned, n, n_done;
    int *items;     /* (n) candidates */
    measure **rows; /* by probe: (n), or NULL */
} scan_stage;

/* A winner on the held-out questions of a file. */
typedef struct verdict {
    int n, confirmed;
    double identity, score; /* means */
    statistics_mean difference, beyond;
    double p, p_holm;
} verdict;

typedef struct run {
    scan_options *o;
    int accuracy, n_layer, n_operations;
    polar_model *model;
    evaluator e;
    cli_prompt form; /* the prompt, with what says how references are written */
    char **files;
    int n_files;
    cli_questions questions[MAX_FILES], others; /* others: of --held-out */
    probe *probes;
    int n_probes, n_held_out;
    candidate *candidates;
    int n_candidates, capacity;
    scan_stage stages[N_STAGES];
    verdict *verdicts; /* (winners, n_files) */
    cli_text header;
    cli_journal journal;
    double told;
} run;

/* --- programs ---------------------------------------------------------------------------------------------- */

/* "x0", "x2" .. "xT", "~2" .. "~K" */
static void operation_text(const run *r, int operation, char *text, size_t size) {
    const int n_repeats = r->o->max_times - 1, damped = operation > n_repeats;
    if (operation < 0) snprintf(text, size, "identity");
    else if (!operation) snprintf(text, size, "x0");
    else snprintf(text, size, damped ? "~%d" : "x%d", damped ? operation - n_repeats + 1 : operation + 1);
}

static void candidate_text(const run *r, const candidate *c, char *text, size_t size) {
    char operation[24];
    operation_text(r, c->operation, operation, sizeof operation);
    if (c->operation < 0) snprintf(text, size, "identity");
    else if (c->start + 1 == c->end) snprintf(text, size, "%d%s", c->start, operation);
    else snprintf(text, size, "%d-%d%s", c->start, c->end - 1, operation);
}

static int has_candidate(const run *r, int operation, int start, int end) {
    for (int i = 0; i < r->n_candidates; i++) {
        const candidate *c = &r->candidates[i];
        if (c->operation == operation && c->start == start && c->end == end) return 1;
    }
    return 0;
}

/* Lets a stage measure a candidate. */
static int stage_add(scan_stage *s, int item) {
    int *items = realloc(s->items, ((size_t)s->n + 1) * sizeof *items);
    if (!items) return cli_fail("out of memory");
    s->items = items;
    s->items[s->n++] = item;
    return 0;
}

/* Adds a program to a stage, unless there is no such block or it has been added before. */
static int add_candidate(run *r, int stage, int operation, int start, int end) {
    int calls[POLAR_MAX_CALLS];
    polar_program program;
    polar_error error;
    candidate *c;
    char text[64];
    if (operation >= 0 && (start < 0 || end > r->n_layer || start >= end || end - start > r->o->max_length ||
                           (!operation && end - start == r->n_layer) || has_candidate(r, operation, start, end)))
        return 0;
    if (r->n_candidates == r->capacity) {
        const int capacity = r->capacity ? 2 * r->capacity : 256;
        if (!(c = realloc(r->candidates, (size_t)capacity * sizeof *c))) return cli_fail("out of memory");
        r->candidates = c;
        r->capacity = capacity;
    }
    c = &r->candidates[r->n_candidates];
    memset(c, 0, sizeof *c);
    c->operation = operation;
    c->start = start;
    c->end = end;
    c->stage = stage;
    c->column = r->stages[stage].n;
    candidate_text(r, c, text, sizeof text);
    if (polar_model_program(r->model, text, &program, &error)) return cli_fail("%s: %s", text, error.message);
    c->n_calls = polar_program_calls(&program, calls, POLAR_MAX_CALLS);
    if (!(c->calls = malloc((size_t)c->n_calls * sizeof *c->calls))) return cli_fail("out of memory");
    memcpy(c->calls, calls, (size_t)c->n_calls * sizeof *calls);
    return stage_add(&r->stages[stage], r->n_candidates++);
}

/* --- what the measures say ---------------------------------------------------------------------------------- */

static int stage_has(const run *r, int stage, int index) {
    return r->probes[index].held_out == (stage == HELD_OUT);
}

static const measure *measure_of(const run *r, const candidate *c, int index) {
    return &r->stages[c->stage].rows[index][c->column];
}

/* Means over the questions of a stage that is done. NAN where one of the numbers is none. */
static void set_means(run *r, candidate *c) {
    const candidate *identity = &r->candidates[0];
    c->gain = c->beyond = 0;
    for (int f = 0; f < r->n_files; f++) {
        int n = 0;
        c->score[f] = c->control[f] = 0;
        for (int i = 0; i < r->n_probes; i++) {
            if (r->probes[i].held_out || r->probes[i].file != f) continue;
            c->score[f] += measure_of(r, c, i)->score;
            c->control[f] += measure_of(r, c, i)->control;
            n++;
        }
        c->score[f] /= n;
        c->control[f] /= n;
        c->gain += (c->score[f] - identity->score[f]) / r->n_files;
        c->beyond += (c->score[f] - identity->score[f] - (c->control[f] - identity->control[f])) / r->n_files;
    }
}

/* Is a to be placed before b? The larger gain, then fewer layers, then the one that was there first. */
static int is_better(const run *r, int a, int b) {
    const candidate *x = &r->candidates[a], *y = &r->candidates[b];
    if (x->gain < y->gain || x->gain > y->gain) return x->gain > y->gain;
    return x->n_calls != y->n_calls ? x->n_calls < y->n_calls : a < b;
}

/* The best candidates with finite scores, at most n, in `best`; with `winners` only those that beat the identity, and
 * not just by being less sure. Returns their number. */
static int choose_best(const run *r, int n, int winners, int *best) {
    int found = 0;
    for (int i = 1; i < r->n_candidates; i++) {
        const candidate *c = &r->candidates[i];
        int at = found;
        if (c->gain != c->gain || (winners && !(c->gain > 0 && c->beyond > 0))) continue;
        while (at && is_better(r, i, best[at - 1])) at--;
        if (at == n) continue;
        if (found < n) found++;
        memmove(best + at + 1, best + at, (size_t)(found - at - 1) * sizeof *best);
        best[at] = i;
    }
    return found;
}

static int is_pareto(const run *r, const candidate *c) {
    for (int f = 0; f < r->n_files; f++)
        if (c->score[f] != c->score[f]) return 0;
    for (int i = 0; i < r->n_candidates; i++) {
        const candidate *d = &r->candidates[i];
        int below = d->n_calls > c->n_calls, above = d->n_calls < c->n_calls;
        for (int f = 0; f < r->n_files; f++) {
            below |= !(d->score[f] >= c->score[f]);
            above |= d->score[f] > c->score[f];
        }
        if (!below && above) return 0;
    }
    return 1;
}

/* --- stages --------------------------------------------------------------------------------------------------- */

/* The identity, and all blocks that begin and end on the grid. */
static int plan_grid(run *r) {
    const int step = r->o->grid;
    int status = add_candidate(r, GRID, -1, 0, 0);
    for (int k = 0; k < r->n_operations; k++)
        for (int i = 0; i < r->n_layer; i += step)
            for (int j = i + step; j < r->n_layer + step && !status; j += step)
                status = add_candidate(r, GRID, k, i, j < r->n_layer ? j : r->n_layer);
    return status;
}

/* All blocks around the best ones, up to those of the grid that are next to them. */
static int plan_dense(run *r) {
    const int reach = r->o->grid - 1;
    int status = 0, *best = malloc(((size_t)r->o->around + 1) * sizeof *best), n;
    if (!best) return cli_fail("out of memory");
    n = choose_best(r, r->o->around, 0, best);
    for (int b = 0; b < n; b++) {
        const candidate c = r->candidates[best[b]];
        for (int i = c.start - reach; i <= c.start + reach; i++)
            for (int j = c.end - reach; j <= c.end + reach && !status; j++)
                status = add_candidate(r, DENSE, c.operation, i, j);
    }
    free(best);
    return status;
}

/* The identity and the winners. */
static int plan_held_out(run *r) {
    scan_stage *s = &r->stages[HELD_OUT];
    int *best = malloc(((size_t)r->o->winners + 1) * sizeof *best), n, status = 0;
    if (!best) return cli_fail("out of memory");
    n = choose_best(r, r->o->winners, 1, best);
    if (n) status = stage_add(s, 0);
    for (int i = 0; i < n && !status; i++) status = stage_add(s, best[i]);
    free(best);
    return status;
}

static int stage_size(const run *r, int stage) {
    if (!r->stages[stage].n) return 0;
    return stage == HELD_OUT ? r->n_held_out : r->n_probes - r->n_held_out;
}

/* What a stage measures follows from what the stages before it have measured. */
static int plan_stage(run *r, int k) {
    scan_stage *s = &r->stages[k];
    int status = 0;
    if (s->planned) return 0;
    if (k && (status = plan_stage(r, k - 1))) return status;
    if (k && r->stages[k - 1].n_done < stage_size(r, k - 1))
        return cli_fail("%s: a record comes before its turn", r->journal.path);
    for (int i = 0; k && i < r->stages[k - 1].n; i++) set_means(r, &r->candidates[r->stages[k - 1].items[i]]);
    if (!(s->rows = calloc((size_t)r->n_probes, sizeof *s->rows))) return cli_fail("out of memory");
    s->planned = 1;
    return k == GRID ? plan_grid(r) : k == DENSE ? plan_dense(r) : plan_held_out(r);
}

/* --- measuring ------------------------------------------------------------------------------------------------ */

static int on_progress(void *user, double done) {
    (void)user, (void)done;
    return cli_interrupted();
}

/* The mean log probability of the tokens under a program. */
static int score_tokens(run *r, polar_path path, const int32_t *tokens, int n, double *score) {
    polar_error error;
    double logprob;
    if (polar_many_score(r->e.many, path, tokens, n, &logprob, &error)) {
        *score = NAN;
        if (error.status == POLAR_NUMERIC) return 0;
        return error.status == POLAR_CANCELLED ? EVALUATE_CANCELLED : cli_fail("%s", error.message);
    }
    *score = logprob / n;
    return 0;
}

static int measure_likelihood(run *r, const scan_stage *s, const probe *p, measure *m) {
    int32_t *reference, *control = NULL;
    int n_reference, n, status = cli_prompt_draft(&r->form, p->question->answer, &reference, &n_reference);
    if (!status) status = cli_prompt_draft(&r->form, p->other->answer, &control, &n);
    for (int i = 0; i < s->n && !status; i++) {
        const candidate *c = &r->candidates[s->items[i]];
        const polar_path path = {c->calls, c->n_calls};
        status = score_tokens(r, path, reference, n_reference, &m[i].score);
        if (!status) status = score_tokens(r, path, control, n, &m[i].control);
    }
    free(reference);
    free(control);
    return status;
}

static int measure_accuracy(run *r, const scan_stage *s, const probe *p, measure *m) {
    polar_path *paths = malloc((size_t)s->n * sizeof *paths);
    attempt *attempts = calloc((size_t)s->n, sizeof *attempts);
    const polar_judge *judge = &p->question->judge;
    const polar_span other = {p->other->answer, strlen(p->other->answer)};
    int status = paths && attempts ? 0 : cli_fail("out of memory");
    for (int i = 0; i < s->n && !status; i++) {
        const candidate *c = &r->candidates[s->items[i]];
        paths[i] = (polar_path){c->calls, c->n_calls};
    }
    if (!status) status = evaluator_run(&r->e, paths, s->n, attempts);
    for (int i = 0; i < s->n && !status; i++) {
        const polar_span answer = {attempts[i].answer, strlen(attempts[i].answer)};
        const int same = answer.length ? judge->same(judge->user, answer, other) : 0;
        m[i].score = attempts[i].reward;
        m[i].control = same;
        if (same < 0) status = cli_fail("out of memory");
    }
    for (int i = 0; attempts && i < s->n; i++) free(attempts[i].answer);
    free(attempts);
    free(paths);
    return status;
}

/* How references are written after a prompt that does not say so: plain or in \\boxed{}, whichever the identity finds
 * likelier over the questions that are not held out. */
static int choose_form(run *r) {
    const int asked = r->accuracy ? 0 : !strcmp(r->o->answer, "auto") ? -1 : !strcmp(r->o->answer, "boxed");
    double scores[2] = {0, 0};
    const polar_program own = cli_own_program(r->model);
    int path[POLAR_MAX_CALLS], n_path = polar_program_calls(&own, path, POLAR_MAX_CALLS), status = 0;
    r->form = r->e.prompt;
    if (asked >= 0) r->form.boxed = asked;
    if (asked >= 0 || r->form.boxed) return 0;
    for (int i = 0; i < r->n_probes && !status; i++) {
        if (r->probes[i].held_out) continue;
        status = cli_interrupted() ? EVALUATE_CANCELLED : evaluator_question(&r->e, r->probes[i].question);
        for (r->form.boxed = 0; r->form.boxed < 2 && !status; r->form.boxed++) {
            int32_t *tokens = NULL;
            double score = 0;
            int n;
            if (!(status = cli_prompt_draft(&r->form, r->probes[i].question->answer, &tokens, &n)))
                status = score_tokens(r, (polar_path){path, n_path}, tokens, n, &score);
            if (!status) scores[r->form.boxed] += score;
            free(tokens);
        }
    }
    r->form.boxed = scores[1] > scores[0];
    return status == EVALUATE_CANCELLED ? cli_fail("interrupted before the first record") : status;
}

static void put_measures(FILE *f, const measure *m, int n, int control) {
    for (int i = 0; i < n; i++) {
        fputc(i ? ',' : '[', f);
        json_put_double(f, control ? m[i].control : m[i].score);
    }
    fputc(']', f);
}

/* Numbers, or null for NAN. 0 if it is no list of n. */
static int read_measures(const json *list, measure *m, int n, int control) {
    const json *v = list && list->type == JSON_ARRAY && list->length == (size_t)n ? list->child : NULL;
    for (int i = 0; i < n; i++, v = v->next) {
        if (!v || (v->type != JSON_NUMBER && v->type != JSON_NULL)) return 0;
        *(control ? &m[i].control : &m[i].score) = v->type == JSON_NUMBER ? v->number : NAN;
    }
    return 1;
}

/* The measures of a question, new or found in the journal. */
static int on_record(void *user, polar_span text, int64_t at) {
    run *r = user;
    const char *error;
    size_t where;
    int k = -1, index = -1, status = 0;
    json_document *d = json_read(text.text, text.length, &error, &where);
    const json *v = d ? json_root(d) : NULL;
    (void)at;
    json_int(json_get(v, "stage"), &k);
    json_int(json_get(v, "index"), &index);
    if (k < 0 || k >= N_STAGES || index < 0 || index >= r->n_probes || !stage_has(r, k, index))
        status = cli_fail("%s: a record belongs to no question of this run", r->journal.path);
    if (!status) status = plan_stage(r, k);
    if (!status) {
        scan_stage *s = &r->stages[k];
        measure *m = calloc((size_t)s->n + 1, sizeof *m);
        if (!m) status = cli_fail("out of memory");
        else if (s->rows[index] || !read_measures(json_get(v, "scores"), m, s->n, 0) ||
                 !read_measures(json_get(v, "controls"), m, s->n, 1))
            status =
                cli_fail("%s: a record does not hold the programs of this run, or is there twice", r->journal.path);
        else if (s->n && !s->items[0] && (m[0].score != m[0].score || m[0].control != m[0].control))
            status = cli_fail("%s:%d: the identity gives no finite numbers for this question",
                              r->files[r->probes[index].file], r->probes[index].question->line);
        if (status) free(m);
        else {
            s->rows[index] = m;
            s->n_done++;
        }
    }
    json_free(d);
    return status;
}

static int measure_probe(run *r, int k, int index) {
    const scan_stage *s = &r->stages[k];
    const probe *p = &r->probes[index];
    measure *m = calloc((size_t)s->n, sizeof *m);
    cli_text text = {0};
    FILE *f;
    int status = m ? evaluator_question(&r->e, p->question) : cli_fail("out of memory");
    if (!status) status = r->accuracy ? measure_accuracy(r, s, p, m) : measure_likelihood(r, s, p, m);
    if (!status) {
        if ((f = cli_text_open(&text))) {
            fprintf(f, "{\"stage\":%d,\"index\":%d,\"scores\":", k, index);
            put_measures(f, m, s->n, 0);
            fprintf(f, ",\"controls\":");
            put_measures(f, m, s->n, 1);
            fputc('}', f);
        }
        status = cli_text_close(&text) || on_record(r, (polar_span){text.text, text.length}, 0) ||
                 cli_journal_add(&r->journal, text.text, text.length, NULL);
        cli_text_free(&text);
    }
    free(m);
    return status;
}

/* On a terminal a bar that grows, elsewhere a line every half minute. */
static void tell(run *r, int k) {
    static const char *const names[] = {"grid", "around the best", "held out"};
    const scan_stage *s = &r->stages[k];
    const int size = stage_size(r, k), bar = size ? 20 * s->n_done / size : 0;
    const double now = cli_seconds();
    if (cli_stderr_is_terminal())
        cli_progress("%-15s [%.*s%*s] %d/%d questions, %d programs", names[k], bar, "####################", 20 - bar,
                     "", s->n_done, size, s->n);
    else if (now - r->told > 30) {
        cli_note("%s: %d of %d questions, %d programs", names[k], s->n_done, size, s->n);
        r->told = now;
    }
}

static int do_stage(run *r, int k) {
    int status = plan_stage(r, k);
    for (int i = 0; i < r->n_probes && !status; i++) {
        if (!r->stages[k].n || !stage_has(r, k, i) || r->stages[k].rows[i]) continue;
        status = cli_interrupted() ? EVALUATE_CANCELLED : measure_probe(r, k, i);
        tell(r, k);
    }
    return status;
}

static int n_records(const run *r) {
    int n = 0;
    for (int k = 0; k < N_STAGES; k++) n += r->stages[k].n_done;
    return n;
}

static int do_stages(run *r) {
    int status = 0;
    r->told = cli_seconds();
    if (n_records(r)) cli_note("%s: going on after %d records", r->journal.path, n_records(r));
    for (int k = 0; k < N_STAGES && !status; k++) status = do_stage(r, k);
    cli_progress_end();
    if (status == EVALUATE_CANCELLED)
        status = cli_fail("interrupted after %d records%s", n_records(r), cli_journal_rest(&r->journal));
    return status;
}

/* --- winners ------------------------------------------------------------------------------------------------- */

static int n_winners(const run *r) {
    return r->stages[HELD_OUT].n ? r->stages[HELD_OUT].n - 1 : 0;
}

/* Winner `column` of the last stage on a file. */
static int judge_winner(const run *r, int column, int file, verdict *v) {
    const scan_stage *s = &r->stages[HELD_OUT];
    double *d = malloc((size_t)r->n_held_out * sizeof *d), *b = malloc((size_t)r->n_held_out * sizeof *b);
    statistics_paired counts = {0};
    if (!d || !b) {
        free(d);
        free(b);
        return cli_fail("out of memory");
    }
    for (int i = 0; i < r->n_probes; i++) {
        const measure *m = s->rows[i];
        if (!r->probes[i].held_out || r->probes[i].file != file) continue;
        v->identity += m[0].score;
        v->score += m[column].score;
        d[v->n] = m[column].score - m[0].score;
        b[v->n] = d[v->n] - (m[column].control - m[0].control);
        v->n++;
        if (!r->accuracy) continue;
        counts.both += m[0].score > 0 && m[column].score > 0;
        counts.corrected += m[0].score <= 0 && m[column].score > 0;
        counts.broken += m[0].score > 0 && m[column].score <= 0;
        counts.neither += m[0].score <= 0 && m[column].score <= 0;
    }
    v->identity /= v->n;
    v->score /= v->n;
    v->difference = statistics_student(d, v->n);
    v->beyond = statistics_student(b, v->n);
    if (r->accuracy) {
        v->difference.interval = statistics_difference(&counts);
        v->difference.p = statistics_mcnemar(counts.corrected, counts.broken);
    }
    v->p = v->difference.p > v->beyond.p ? v->difference.p : v->beyond.p;
    free(d);
    free(b);
    return 0;
}

static int judge_winners(run *r) {
    const int n = n_winners(r) * r->n_files;
    double *p = malloc(2 * (size_t)(n + 1) * sizeof *p);
    int status = 0;
    r->verdicts = calloc((size_t)n + 1, sizeof *r->verdicts);
    if (!p || !r->verdicts) status = cli_fail("out of memory");
    for (int i = 0; i < n && !status; i++) {
        status = judge_winner(r, 1 + i / r->n_files, i % r->n_files, &r->verdicts[i]);
        p[i] = r->verdicts[i].p;
    }
    if (!status) statistics_holm(p, n, p + n);
    for (int i = 0; i < n && !status; i++) {
        verdict *v = &r->verdicts[i];
        v->p_holm = p[n + i];
        v->confirmed = v->difference.mean > 0 && v->beyond.mean > 0 && v->p_holm < 0.05;
    }
    free(p);
    return status;
}

/* --- output -------------------------------------------------------------------------------------------------- */

static void put_set(FILE *f, const char *path, const cli_questions *questions) {
    fprintf(f, "{\"name\":");
    json_put_text(f, cli_base_name(path));
    fprintf(f, ",\"n\":%d,\"checksum\":\"%016llx\"}", questions->n, (unsigned long long)questions->checksum);
}

/* Everything that results depend on. */
static int make_header(run *r) {
    const scan_options *o = r->o;
    FILE *f = cli_text_open(&r->header);
    if (f) {
        fprintf(f, "{\"kind\":\"scan\",\"version\":\"%s\",", polar_version());
        cli_put_model(f, r->model);
        for (int i = 0; i < r->n_files; i++) {
            fprintf(f, i ? "," : ",\"probes\":[");
            put_set(f, r->files[i], &r->questions[i]);
        }
        fprintf(f, "]");
        if (o->held_out) {
            fprintf(f, ",\"held_out\":");
            put_set(f, o->held_out, &r->others);
        }
        fprintf(f, ",\"settings\":{\"score\":\"%s\",", o->score);
        if (!r->accuracy) fprintf(f, "\"answer\":\"%s\",", r->form.boxed ? "boxed" : "plain");
        evaluate_put(f, &o->evaluate, &r->e.prompt);
        fprintf(f, ",\"max_length\":%d,\"max_times\":%d,\"max_damped\":%d,\"grid\":%d,\"around\":%d,\"winners\":%d",
                o->max_length, o->max_times, o->max_damped, o->grid, o->around, o->winners);
        fprintf(f, ",\"seed\":%llu}}", (unsigned long long)o->seed);
    }
    return cli_text_close(&r->header);
}

static void put_numbers(FILE *f, const char *name, const double *x, int n) {
    fprintf(f, ",\"%s\":", name);
    for (int i = 0; i < n; i++) {
        fputc(i ? ',' : '[', f);
        json_put_double(f, x[i]);
    }
    fputc(']', f);
}

static void put_mean(FILE *f, const char *name, const statistics_mean *m) {
    const double interval[] = {m->interval.low, m->interval.high};
    char text[40];
    json_put_number(f, name, m->mean);
    snprintf(text, sizeof text, "%s_interval", name);
    put_numbers(f, text, interval, 2);
}

static void put_verdict(FILE *f, const verdict *v) {
    fprintf(f, "{\"n\":%d", v->n);
    json_put_number(f, "identity", v->identity);
    json_put_number(f, "score", v->score);
    put_mean(f, "difference", &v->difference);
    put_mean(f, "beyond", &v->beyond);
    json_put_number(f, "p", v->p);
    json_put_number(f, "p_holm", v->p_holm);
    fprintf(f, ",\"confirmed\":%s}", v->confirmed ? "true" : "false");
}

static void put_candidate(FILE *f, const run *r, int index) {
    const candidate *c = &r->candidates[index];
    char text[64], operation[24];
    candidate_text(r, c, text, sizeof text);
    operation_text(r, c->operation, operation, sizeof operation);
    fprintf(f, "{\"program\":\"%s\",\"operation\":\"%s\"", text, operation);
    if (index) fprintf(f, ",\"start\":%d,\"end\":%d", c->start, c->end - 1);
    fprintf(f, ",\"layers\":%d", c->n_calls);
    put_numbers(f, "score", c->score, r->n_files);
    put_numbers(f, "control", c->control, r->n_files);
    if (is_pareto(r, c)) fprintf(f, ",\"pareto\":true");
    for (int i = 1; i <= n_winners(r); i++) {
        if (r->stages[HELD_OUT].items[i] != index) continue;
        for (int k = 0; k < r->n_files; k++) {
            fprintf(f, k ? "," : ",\"held_out\":[");
            put_verdict(f, &r->verdicts[(i - 1) * r->n_files + k]);
        }
        fputc(']', f);
    }
    fputc('}', f);
}

static int write_output(const run *r) {
    cli_output out;
    FILE *f = cli_output_open(&out, r->o->output);
    if (f) {
        fprintf(f, "{\"polar\":%s,\n\"samples\":[", r->header.text);
        for (int i = 0; i < r->n_candidates; i++) {
            fputs(i ? ",\n" : "\n", f);
            put_candidate(f, r, i);
        }
        fprintf(f, "\n]}\n");
    }
    return cli_output_close(&out, f != NULL) || !f;
}

static void print_summary(const run *r) {
    const double unit = r->accuracy ? 100 : 1;
    const int digits = r->accuracy ? 1 : 3, n_scanned = r->n_probes - r->n_held_out;
    FILE *f = strcmp(r->o->output, "-") ? stdout : stderr;
    int n_confirmed = 0;
    for (int i = 0; i < n_winners(r) * r->n_files; i++) n_confirmed += r->verdicts[i].confirmed;
    if (r->o->json) {
        fprintf(f, "{\"programs\":%d,\"questions\":%d,\"held_out\":%d,\"winners\":%d,\"confirmed\":%d}\n",
                r->n_candidates, n_scanned, r->n_held_out, n_winners(r), n_confirmed);
        return;
    }
    fprintf(f, "%d programs on %d questions, the best on %d others; %s\n", r->n_candidates, n_scanned, r->n_held_out,
            r->accuracy ? "right answers in percent" : "mean log probability of a reference token");
    for (int k = 0; k < r->n_files; k++)
        fprintf(f, "identity %.*f, of another question's reference %.*f  %s\n", digits,
                unit * r->candidates[0].score[k], digits, unit * r->candidates[0].control[k], r->files[k]);
    if (!n_winners(r)) fprintf(f, "no program is better than the identity\n");
    else
        fprintf(f, "%-12s layers   gain  held out, 95 %% interval      beyond control  p (Holm)\n", "program");
    for (int i = 0; i < n_winners(r) * r->n_files; i++) {
        const candidate *c = &r->candidates[r->stages[HELD_OUT].items[1 + i / r->n_files]];
        const verdict *v = &r->verdicts[i];
        const int k = i % r->n_files;
        char text[64];
        candidate_text(r, c, text, sizeof text);
        fprintf(f, "%-12s %6d %+6.*f  %+.*f (%+.*f to %+.*f)  %+14.*f  %8.2g  %s%s%s\n", text, c->n_calls, digits,
                unit * (c->score[k] - r->candidates[0].score[k]), digits, unit * v->difference.mean, digits,
                unit * v->difference.interval.low, digits, unit * v->difference.interval.high, digits,
                unit * v->beyond.mean, v->p_holm, v->confirmed ? "confirmed" : "not confirmed",
                r->n_files > 1 ? ": " : "", r->n_files > 1 ? r->files[k] : "");
    }
}

/* --- the run --------------------------------------------------------------------------------------------------- */

/* The references that a reference is compared with: the next one in a random order that is another. */
static int deal(run *r, int *order, int n, uint64_t *state) {
    statistics_permute(order, n, state);
    for (int i = 0; i < n; i++) {
        probe *p = &r->probes[order[i]];
        for (int k = 1; k < n && !p->other; k++) {
            const cli_question *q = r->probes[order[(i + k) % n]].question;
            if (strcmp(q->answer, p->question->answer)) p->other = q;
        }
        if (!p->other)
            return cli_fail("%s: all %d references of a half are \"%.40s\": nothing to compare with", r->files[p->file],
                            n, p->question->answer);
    }
    return 0;
}

/* Halves each file, or adds the questions of --held-out. */
static int make_probes(run *r) {
    uint64_t state = r->o->seed;
    size_t total = (size_t)r->others.n;
    int *order, status = 0;
    for (int f = 0; f < r->n_files; f++) total += (size_t)r->questions[f].n;
    r->probes = calloc(total, sizeof *r->probes);
    if (!(order = malloc(total * sizeof *order)) || !r->probes) status = cli_fail("out of memory");
    for (int f = 0; f < r->n_files && !status; f++) {
        const cli_questions *q = &r->questions[f];
        const int n = q->n + (r->o->held_out ? r->others.n : 0), first = r->n_probes;
        const int half = r->o->held_out ? q->n : (q->n + 1) / 2;
        if (half < 2 || n - half < 2) {
            status = cli_fail("%s: %d questions: at least 2 to scan and 2 to hold out are needed", r->files[f], n);
            break;
        }
        for (int i = 0; i < n; i++) {
            r->probes[first + i].file = f;
            r->probes[first + i].question = i < q->n ? &q->items[i] : &r->others.items[i - q->n];
            order[i] = first + i;
        }
        if (!r->o->held_out) statistics_permute(order, n, &state);
        for (int i = half; i < n; i++) r->probes[order[i]].held_out = 1;
        r->n_probes += n;
        r->n_held_out += n - half;
        if (!(status = deal(r, order, half, &state))) status = deal(r, order + half, n - half, &state);
    }
    free(order);
    return status;
}

/* Reads a file, each question once. A reference must be whole: cli_prompt_draft cuts guesses that are too long. */
static int read_questions(run *r, const char *path, cli_questions *q) {
    const evaluate_options *o = &r->o->evaluate;
    int n_ctx, status = cli_questions_read(q, path, 1, o->limit);
    if (status || (status = cli_questions_once(q, path))) return status;
    for (int i = 0; i < q->n && !r->accuracy; i++)
        if (strlen(q->items[i].answer) > 1000)
            return cli_fail("%s:%d: the reference has %lu bytes; --score likelihood takes up to 1000", path,
                            q->items[i].line, (unsigned long)strlen(q->items[i].answer));
    return evaluator_room(&r->e, o, q, path, &n_ctx);
}

/* Leaves out what is in another file too: no question may choose programs in one and be held out in the other. */
static int drop_known(cli_questions *q, const char *path, const cli_questions *known, const char *known_path) {
    uint64_t *list = NULL;
    char *drop = calloc((size_t)q->n + 1, 1);
    int n = 0, n_known = 0, status = drop ? cli_fingerprints(known, &list, &n) : cli_fail("out of memory");
    for (int i = 0; i < q->n && !status; i++)
        n_known += drop[i] = (char)cli_has_fingerprint(list, n, cli_fingerprint(q->items[i].text));
    if (n_known) {
        cli_note("%s: %d of %d questions are in %s and left out", path, n_known, q->n, known_path);
        cli_questions_drop(q, drop);
    }
    free(list);
    free(drop);
    return status;
}

static int prepare(run *r) {
    polar_many_options m = {0};
    polar_model_info info;
    scan_options *o = r->o;
    int status;
    m.progress = on_progress;
    if ((status = cli_open_model(o->model, o->evaluate.cpu, 0, &r->model)) ||
        (status = evaluator_open(&r->e, r->model, &o->evaluate, m)))
        return status;
    polar_model_get_info(r->model, &info);
    r->n_layer = info.n_layer;
    if (!o->max_length || o->max_length > r->n_layer) o->max_length = r->n_layer;
    if (!o->grid) o->grid = r->n_layer < 16 ? 1 : r->n_layer / 8;
    if (o->grid > o->max_length) o->grid = o->max_length;
    for (int f = 0; f < r->n_files && !status; f++) {
        cli_questions *q = &r->questions[f];
        status = read_questions(r, r->files[f], q);
        for (int k = 0; k < f && !status; k++) status = drop_known(q, r->files[f], &r->questions[k], r->files[k]);
    }
    if (!status && o->held_out && !(status = read_questions(r, o->held_out, &r->others)))
        status = drop_known(&r->others, o->held_out, &r->questions[0], r->files[0]);
    if (!status) status = make_probes(r);
    if (!status) status = choose_form(r);
    return status ? status : make_header(r);
}

static int go(run *r) {
    int status, found;
    cli_catch_interrupts();
    if ((status = prepare(r))) return status;
    if ((found = cli_output_is_there(r->o->output, r->header.text, r->header.length)) < 0) return 1;
    if (found) {
        cli_note("%s is complete already", r->o->output);
        return 0;
    }
    if ((status = cli_journal_beside(&r->journal, r->o->output, r->header.text, on_record, r)) ||
        (status = do_stages(r)) || (status = judge_winners(r)) || (status = write_output(r)))
        return status;
    cli_journal_remove(&r->journal);
    print_summary(r);
    return 0;
}

static void run_free(run *r) {
    cli_journal_close(&r->journal);
    cli_text_free(&r->header);
    for (int k = 0; k < N_STAGES; k++) {
        for (int i = 0; r->stages[k].rows && i < r->n_probes; i++) free(r->stages[k].rows[i]);
        free(r->stages[k].rows);
        free(r->stages[k].items);
    }
    for (int i = 0; i < r->n_candidates; i++) free(r->candidates[i].calls);
    free(r->candidates);
    free(r->verdicts);
    free(r->probes);
    for (int f = 0; f < MAX_FILES; f++) cli_questions_free(&r->questions[f]);
    cli_questions_free(&r->others);
    evaluator_close(&r->e);
    polar_model_close(r->model);
}

static int check_options(run *r) {
    static const char *const scores[] = {"likelihood", "accuracy", NULL},
                             *const forms[] = {"auto", "plain", "boxed", NULL};
    const scan_options *o = r->o;
    shard none;
    if (!o->output) return cli_usage("no output: -o FILE names it, -o - is stdout");
    if ((r->accuracy = cli_word("--score", o->score, scores)) < 0) return 2;
    if (cli_word("--answer", o->answer, forms) < 0) return 2;
    if (o->max_length < 0) return cli_usage("--max-length %d: expected a number of layers", o->max_length);
    if (o->max_times < 1 || o->max_times > MAX_TIMES)
        return cli_usage("--max-times %d: expected 1..%d", o->max_times, MAX_TIMES);
    if (o->max_damped < 0 || o->max_damped == 1 || o->max_damped > MAX_TIMES)
        return cli_usage("--damped %d: expected 0 or 2..%d", o->max_damped, MAX_TIMES);
    if (o->grid < 0) return cli_usage("--grid %d: expected a number of layers", o->grid);
    if (o->around < 0 || o->around > 1000) return cli_usage("--around %d: expected 0..1000", o->around);
    if (o->winners < 1 || o->winners > 100) return cli_usage("--winners %d: expected 1..100", o->winners);
    if (o->held_out && r->n_files > 1) return cli_usage("--held-out goes with one file of probes");
    if (r->n_files > MAX_FILES) return cli_usage("more than %d files of probes", MAX_FILES);
    r->n_operations = o->max_times + (o->max_damped ? o->max_damped - 1 : 0);
    return evaluate_check(&o->evaluate, &none);
}

int command_scan(cli *c) {
    scan_options o = {.score = "likelihood", .answer = "auto", .evaluate = EVALUATE_DEFAULTS, .max_times = 2,
                      .max_damped = 2, .around = 4, .winners = 8};
    run r = {.o = &o};
    evaluate_options *e = &o.evaluate;
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"output", 'o', CLI_SCAN, &o.output, "FILE", "the scan; FILE.journal holds what is done until it is complete"},
        {"score", 0, CLI_TEXT, &o.score, "KIND", "likelihood or accuracy (likelihood)"},
        {"answer", 0, CLI_TEXT, &o.answer, "FORM",
         "of references: plain, boxed, or as the prompt says, else as the model prefers (auto)"},
        {"max-length", 0, CLI_INT, &o.max_length, "N", "layers of a block (0: any)"},
        {"max-times", 0, CLI_INT, &o.max_times, "N", "executions of a repeated block: 2..N; 1: none (2)"},
        {"damped", 0, CLI_INT, &o.max_damped, "K", "damped passes of a block, as in 12-15~3: 2..K; 0: none (2)"},
        {"grid", 0, CLI_INT, &o.grid, "N", "blocks begin and end at every N-th layer (an eighth; 1 below 16 layers)"},
        {"around", 0, CLI_INT, &o.around, "N", "then all blocks around the best N (4)"},
        {"winners", 0, CLI_INT, &o.winners, "N", "programs that are measured on held-out questions, at most (8)"},
        {"held-out", 0, CLI_FILE, &o.held_out, "FILE", "questions for that (half of each file)"},
        {"seed", 's', CLI_U64, &o.seed, "N", "draws the halves and the controls (0)"},
        {"tokens", 'n', CLI_INT, &e->tokens, "N", "longest answer (50)"},
        {"stop", 0, CLI_LIST, &e->stop, "TEXT", "end an answer before this text; may be repeated"},
        CLI_PROMPT_OPTIONS(e->prompt),
        {"limit", 0, CLI_INT, &e->limit, "N", "the first N questions of each file only"},
        CLI_SKIP_LONG_OPTION(e->skip_long),
        CLI_KV_TYPE_OPTION(e->kv_type),
        {"cache-mb", 0, CLI_INT, &e->cache_mb, "N", "memory for what programs share (1024)"},
        CLI_THREADS_OPTION(e->threads),
        CLI_CPU_OPTION(e->cpu),
        {"json", 0, CLI_FLAG, &o.json, NULL, "print the summary as a JSON object"},
        {0}};
    int status = cli_read(c, options, 1, -1);
    if (status >= 0) return status;
    r.files = c->args;
    r.n_files = c->n_args;
    if (!(status = check_options(&r))) status = go(&r);
    run_free(&r);
    return status;
}
