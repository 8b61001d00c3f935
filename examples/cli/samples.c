/* Supervision files: for each question the programs that were tried and what they gave, in the form of the
 * published code, with a header of our own beside it. Writing, reading, summing up. */
#include "samples.h"

#include <math.h>

/* --- trials ----------------------------------------------------------------------------------------------- */

void trials_clear(trials *t) {
    for (int i = 0; i < t->n; i++) {
        free(t->items[i].path);
        free(t->items[i].parent);
        free(t->items[i].answer);
    }
    t->n = 0;
}

void trials_free(trials *t) {
    trials_clear(t);
    free(t->items);
    memset(t, 0, sizeof *t);
}

static int *copy_ints(const int *values, int n) {
    int *copy = malloc(((size_t)n + 1) * sizeof *copy);
    if (copy && n) memcpy(copy, values, (size_t)n * sizeof *copy);
    return copy;
}

trial *trials_add(trials *t, const int *path, int n, const int *parent, int n_parent) {
    trial *item;
    if (t->n == t->capacity) {
        int capacity = t->capacity ? 2 * t->capacity : 256;
        trial *p = realloc(t->items, (size_t)capacity * sizeof *p);
        if (!p) return NULL;
        t->items = p;
        t->capacity = capacity;
    }
    item = &t->items[t->n];
    memset(item, 0, sizeof *item);
    item->simulation = -1;
    item->n = n;
    item->n_parent = parent ? n_parent : 0;
    if (!(item->path = copy_ints(path, n))) return NULL;
    if (parent && !(item->parent = copy_ints(parent, n_parent))) {
        free(item->path);
        return NULL;
    }
    t->n++;
    return item;
}

int trials_find(const trials *t, const int *path, int n) {
    for (int i = 0; i < t->n; i++)
        if (t->items[i].n == n && !memcmp(t->items[i].path, path, (size_t)n * sizeof *path)) return i;
    return -1;
}

/* --- writing ---------------------------------------------------------------------------------------------- */

/* Calls that are no path, since there is a damped segment. */
static int is_damped(const int *calls, int n) {
    for (int i = 0; i < n; i++)
        if (calls[i] > POLAR_CALL_LAYER) return 1;
    return 0;
}

static void put_calls(FILE *f, const trials *t, const int *calls, int n) {
    polar_program p;
    char text[4096] = "";
    if (!is_damped(calls, n)) {
        json_put_ints(f, calls, (size_t)n);
        return;
    }
    if (!polar_program_from_path(&p, t->n_layer, calls, n, t->n_layer, POLAR_MAX_CALLS, NULL))
        polar_program_format(&p, text, sizeof text);
    json_put_text(f, text);
}

/* A list of paths, or, only if there are any, of programs with damped segments. */
static void put_paths(FILE *f, const char *name, const trials *t, int valid, int damped) {
    int n = 0;
    if (!damped) fprintf(f, ",\"%s\":[", name);
    for (int i = 0; i < t->n; i++) {
        const trial *x = &t->items[t->order ? t->order[i] : i];
        if ((x->reward > 0) != valid || is_damped(x->path, x->n) != damped) continue;
        if (n++) fputc(',', f);
        else if (damped) fprintf(f, ",\"%s\":[", name);
        put_calls(f, t, x->path, x->n);
    }
    if (n || !damped) fputc(']', f);
}

/* What the model said is left out where only an old result is known. */
static void put_trial(FILE *f, const trials *all, const trial *t) {
    fprintf(f, is_damped(t->path, t->n) ? "{\"program\":" : "{\"path\":");
    put_calls(f, all, t->path, t->n);
    fprintf(f, t->parent && is_damped(t->parent, t->n_parent) ? ",\"parent_program\":" : ",\"parent_path\":");
    if (t->parent) put_calls(f, all, t->parent, t->n_parent);
    else fputs("null", f);
    fprintf(f, ",\"reward\":");
    json_put_double(f, t->reward);
    fprintf(f, ",\"simulation\":%d", t->simulation);
    if (t->answer) {
        fprintf(f, ",\"answer\":");
        json_put_text(f, t->answer);
        fprintf(f, ",\"tokens\":%d,\"stop\":\"%s\",\"logprob\":", t->n_tokens, cli_stop_name(t->stop));
        json_put_double(f, t->logprob);
    }
    fputc('}', f);
}

static void put_results(FILE *f, const trials *t) {
    put_paths(f, "final_valid_transitions", t, 1, 0);
    put_paths(f, "final_invalid_transitions", t, 0, 0);
    put_paths(f, "final_valid_programs", t, 1, 1);
    put_paths(f, "final_invalid_programs", t, 0, 1);
    fprintf(f, ",\"search_trajectory\":[");
    for (int i = 0; i < t->n; i++) {
        if (i) fputc(',', f);
        put_trial(f, t, &t->items[i]);
    }
    fputc(']', f);
}

void sample_put(FILE *f, int index, const cli_question *q, const trials *t) {
    fprintf(f, "{\"index\":%d,\"question\":", index);
    json_put_text(f, q->text);
    fprintf(f, ",\"gt_ans\":");
    json_put_text(f, q->answer);
    fprintf(f, ",\"initial_score\":");
    json_put_double(f, t->n ? t->items[0].reward : 0);
    fprintf(f, ",\"sample_info\":");
    cli_question_put_info(f, q, t->prompt);
    put_results(f, t);
    if (t->ended) fprintf(f, ",\"ended\":\"%s\"", t->ended);
    if (t->more) fputs(t->more, f);
    fputc('}', f);
}

void sample_put_again(FILE *f, int index, const json *sample, polar_span text, const trials *t) {
    polar_span key, value;
    const char *at = text.text + 1, *end = text.text + text.length;
    int has_index = json_get(sample, "index") != NULL;
    fprintf(f, "{");
    if (!has_index) fprintf(f, "\"index\":%d", index);
    for (int n = !has_index; (at = cli_next_member(at, end, &key, &value));) {
        if (cli_span_is(key, "final_valid_transitions") || cli_span_is(key, "final_invalid_transitions") ||
            cli_span_is(key, "final_valid_programs") || cli_span_is(key, "final_invalid_programs") ||
            cli_span_is(key, "search_trajectory"))
            continue;
        fprintf(f, n++ ? ",\"%.*s\":" : "\"%.*s\":", (int)key.length, key.text);
        fwrite(value.text, 1, value.length, f);
    }
    put_results(f, t);
    fputc('}', f);
}

/* --- reading ---------------------------------------------------------------------------------------------- */

/* A path as it is, or the text of a program with damped segments, as calls to be freed; NULL for anything else. */
static int32_t *read_calls(const trials *t, const json *v, size_t *n) {
    polar_program p;
    int32_t *calls;
    if (!v || v->type != JSON_STRING) {
        calls = json_ints(v, n);
        for (size_t i = 0; calls && i < *n; i++)
            if (calls[i] > POLAR_CALL_LAYER) { /* what is more than a layer stands in no file */
                free(calls);
                return NULL;
            }
        return calls;
    }
    if (polar_program_parse(&p, t->n_layer, v->text, NULL)) return NULL;
    *n = (size_t)polar_program_length(&p);
    if ((calls = malloc(*n * sizeof *calls))) polar_program_calls(&p, calls, (int)*n);
    return calls;
}

/* v is a path or text, or an object with one of them. */
static int add_path(trials *t, const json *v, double reward, trial **added) {
    const json *path_of = json_get(v, "path"), *parent = json_get(v, "parent_path");
    size_t n = 0, n_parent = 0;
    int32_t *path = read_calls(t, v->type != JSON_OBJECT ? v : path_of ? path_of : json_get(v, "program"), &n), *before;
    if (!parent) parent = json_get(v, "parent_program");
    before = parent && parent->type != JSON_NULL ? read_calls(t, parent, &n_parent) : NULL;
    int ok = path && n <= POLAR_MAX_CALLS && n_parent <= POLAR_MAX_CALLS;
    *added = NULL;
    if (ok && trials_find(t, path, (int)n) < 0) {
        if (!(*added = trials_add(t, path, (int)n, before, (int)n_parent))) ok = 0;
        else (*added)->reward = reward;
    }
    free(path);
    free(before);
    return ok;
}

static int read_trial(trials *t, const json *v) {
    const json *reward = json_get(v, "reward"), *logprob = json_get(v, "logprob");
    const char *answer = json_get_text(v, "answer"), *stop = json_get_text(v, "stop");
    trial *added;
    if (!add_path(t, v, reward ? reward->number : 0, &added)) return 0;
    if (!added) return 1;
    json_int(json_get(v, "simulation"), &added->simulation);
    json_int(json_get(v, "tokens"), &added->n_tokens);
    added->logprob = logprob && logprob->type == JSON_NUMBER ? logprob->number : -HUGE_VAL; /* no number is null */
    for (int i = 0; stop && i < 4; i++)
        if (!strcmp(stop, cli_stop_name((polar_stop)i))) added->stop = (polar_stop)i;
    if (answer && !(added->answer = malloc(strlen(answer) + 1))) return 0;
    if (answer) strcpy(added->answer, answer);
    return 1;
}

int trials_add_results(trials *t, const json *sample) {
    static const char *const names[] = {"final_valid_transitions", "final_invalid_transitions", "final_valid_programs",
                                        "final_invalid_programs"};
    trial *added;
    for (int i = 0; i < 4; i++) {
        const json *list = json_get(sample, names[i]);
        if (!list || list->type != JSON_ARRAY) continue;
        for (const json *v = list->child; v; v = v->next)
            if (!add_path(t, v, i % 2 == 0, &added)) return 0;
    }
    return 1;
}

int trials_read(trials *t, const json *sample) {
    const json *trajectory = json_get(sample, "search_trajectory");
    trials_clear(t);
    for (const json *v = trajectory && trajectory->type == JSON_ARRAY ? trajectory->child : NULL; v; v = v->next)
        if (!read_trial(t, v)) return 0;
    return trials_add_results(t, sample);
}

/* --- summing up ------------------------------------------------------------------------------------------- */

/* What a program with damped segments does, as path_edits says it, and its calls; 0 if the text is none. */
static int text_edits(const char *text, int n_layer, size_t *length) {
    polar_program p;
    int edits = 2;
    if (polar_program_parse(&p, n_layer, text, NULL)) return 0;
    for (int i = 0; i < p.n_segments; i++) edits |= p.segments[i].times == 0;
    *length = (size_t)polar_program_length(&p);
    return edits;
}

/* What a path does: 1 it executes layers less often than the model's own program does, 2 more often. A layer elsewhere
 * is left out here, executed there. */
static int path_edits(const json *path, int n_layer, int n_loops) {
    int seen[POLAR_MAX_LAYER] = {0}, edits = 0, moved = 0, layer, n = 0;
    for (const json *v = path->child; v; v = v->next) {
        if (!json_int(v, &layer) || layer < 0 || layer >= POLAR_MAX_LAYER) continue;
        moved |= layer != n++ % (n_layer > 0 ? n_layer : POLAR_MAX_CALLS);
        if (seen[layer]++ == n_loops) edits |= 2;
    }
    for (int i = 0; i < n_layer && i < POLAR_MAX_LAYER; i++) edits |= seen[i] < n_loops;
    return edits || !moved ? edits : 3;
}

/* Does the network of [P] have a form for a path? */
static int is_learnable(const json *path, int n_layer) {
    polar_program p;
    size_t n;
    int32_t *calls = json_ints(path, &n);
    const int ok = calls && n <= POLAR_MAX_CALLS && !polar_program_from_path(&p, n_layer, calls, (int)n, 4, 2, NULL);
    free(calls);
    return ok;
}

/* Distinct answers that programs gave besides the identity's; programs whose answer is not recorded count each. */
static int count_tries(const json *trajectory, size_t n_others) {
    const json *first = trajectory && trajectory->type == JSON_ARRAY ? trajectory->child : NULL;
    int n = 0;
    if (!first) return (int)n_others;
    for (const json *v = first->next; v; v = v->next) {
        const char *answer = json_get_text(v, "answer");
        const json *before = first;
        while (answer && before != v) {
            const char *other = json_get_text(before, "answer");
            if (other && !strcmp(other, answer)) break;
            before = before->next;
        }
        n += !answer || (before == v && *answer);
    }
    return n;
}

static int add_answer(cli_summary *s, const json *sample, int is_right, size_t n_others) {
    const char *reference = json_get_text(sample, "gt_ans");
    if (s->n == s->answers_capacity) {
        const int n = s->answers_capacity ? 2 * s->answers_capacity : 256;
        struct summary_answer *p = realloc(s->answers, (size_t)n * sizeof *p);
        if (!p) return cli_fail("out of memory");
        s->answers = p;
        s->answers_capacity = n;
    }
    s->answers[s->n].reference = cli_fingerprint(reference ? reference : "");
    s->answers[s->n].n_tries = is_right ? -1 : count_tries(json_get(sample, "search_trajectory"), n_others);
    return 0;
}

void summary_free(cli_summary *s) {
    free(s->answers);
    memset(s, 0, sizeof *s);
}

int summary_add(cli_summary *s, const json *sample, int n_layer) {
    const json *valid = json_get(sample, "final_valid_transitions"),
               *invalid = json_get(sample, "final_invalid_transitions"),
               *damped = json_get(sample, "final_valid_programs"), *broken = json_get(sample, "final_invalid_programs");
    size_t shortest = 0;
    int kinds[4] = {0};
    const double n_before = s->n_programs;
    s->n_programs += (invalid ? (double)invalid->length : 0) + (valid ? (double)valid->length : 0) +
                     (damped ? (double)damped->length : 0) + (broken ? (double)broken->length : 0);
    for (const json *v = valid && valid->type == JSON_ARRAY ? valid->child : NULL; v; v = v->next) {
        const json *path = v->type == JSON_OBJECT ? json_get(v, "path") : v;
        if (!path || path->type != JSON_ARRAY) continue;
        kinds[path_edits(path, n_layer, s->n_loops ? s->n_loops : 1)]++;
        s->n_learnable += is_learnable(path, n_layer);
        if (!shortest || path->length < shortest) shortest = path->length;
    }
    for (const json *v = damped && damped->type == JSON_ARRAY ? damped->child : NULL; v; v = v->next) {
        size_t length = 0;
        const int edits = v->type == JSON_STRING ? text_edits(v->text, n_layer, &length) : 0;
        if (!edits) continue;
        kinds[edits]++;
        if (!shortest || length < shortest) shortest = length;
    }
    s->identity += kinds[0] > 0;
    s->skip += kinds[0] || kinds[1];
    s->loop += kinds[0] || kinds[2];
    s->any += (valid && valid->length > 0) || shortest > 0;
    s->n_valid += (valid ? (double)valid->length : 0) + (damped ? (double)damped->length : 0);
    s->shortest += (double)shortest;
    if (add_answer(s, sample, kinds[0] > 0, (size_t)(s->n_programs - n_before))) return 1;
    s->n++;
    return 0;
}

static int by_reference(const void *a, const void *b) {
    const struct summary_answer *x = a, *y = b;
    return (x->reference > y->reference) - (x->reference < y->reference);
}

double summary_luck(const cli_summary *s, double *p) {
    double pairs = 0, luck = 0;
    int wrong = 0;
    *p = 0;
    if (s->n < 2) return -1;
    qsort(s->answers, (size_t)s->n, sizeof *s->answers, by_reference);
    for (int i = 0, from = 0; i < s->n; i++) {
        if (s->answers[i].reference != s->answers[from].reference) from = i;
        pairs += i - from;
    }
    *p = pairs / (0.5 * s->n * (s->n - 1));
    for (int i = 0; i < s->n; i++) {
        if (s->answers[i].n_tries < 0) continue;
        wrong++;
        luck += 1 - pow(1 - *p, s->answers[i].n_tries);
    }
    return wrong ? 100 * luck / wrong : -1;
}

static double percent(int part, int whole) {
    return whole ? 100.0 * part / whole : 0;
}

double summary_corrected(const cli_summary *s) {
    return percent(s->any - s->identity, s->n - s->identity);
}

void summary_print(FILE *f, const cli_summary *s, int n_layer) {
    double p;
    const double luck = summary_luck(s, &p);
    fprintf(f, "questions       %d, %.0f programs run\n", s->n, s->n_programs);
    fprintf(f, "identity        %5.1f %%\n", percent(s->identity, s->n));
    fprintf(f, "oracle, skips   %5.1f %%   the identity or a program that only skips answers correctly\n",
            percent(s->skip, s->n));
    fprintf(f, "oracle, loops   %5.1f %%   ... that only repeats\n", percent(s->loop, s->n));
    fprintf(f, "oracle, both    %5.1f %%   any program tried\n", percent(s->any, s->n));
    fprintf(f, "corrected       %5.1f %%   of what the identity gets wrong\n", summary_corrected(s));
    if (s->any)
        fprintf(f, "shortest        %5.1f of %d layers, mean over the questions with a valid program\n",
                s->shortest / s->any, n_layer * (s->n_loops ? s->n_loops : 1));
    if (s->n_valid > 0)
        fprintf(f, "learnable       %5.1f %%   of %.0f valid programs: the published network has a form for them\n",
                100 * s->n_learnable / s->n_valid, s->n_valid);
    if (luck >= 0)
        fprintf(f,
                "luck            %5.1f %%   corrected by answers at random: mean of 1 - (1 - p)^k, p = %.3f that two\n"
                "                          questions have the same answer, k distinct answers tried\n",
                luck, p);
    if (luck >= 5)
        fprintf(f, "Warning: with so many tries and so few possible answers luck alone finds valid programs.\n");
    fprintf(f, "An oracle knows the reference answer: it says what could be reached, not what a predictor reaches.\n");
}

void summary_print_json(FILE *f, const cli_summary *s) {
    double p;
    const double luck = summary_luck(s, &p);
    fprintf(f,
            "{\"n_questions\":%d,\"n_programs\":%.0f,\"identity\":%d,\"oracle_skip\":%d,\"oracle_loop\":%d,"
            "\"oracle_both\":%d,\"mean_shortest\":",
            s->n, s->n_programs, s->identity, s->skip, s->loop, s->any);
    json_put_double(f, s->any ? s->shortest / s->any : 0);
    fprintf(f, ",\"n_valid\":%.0f,\"n_learnable\":%.0f", s->n_valid, s->n_learnable);
    if (luck >= 0) json_put_number(f, "luck", luck / 100);
    fprintf(f, "}\n");
}
