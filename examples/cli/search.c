/* polar search: programs that answer each question. Shows polar_search with polar_many. */
#include "planted.h"
#include "released.h"
#include "searcher.h"

#include <limits.h>

typedef struct search_options {
    const char *model, *output, *space, *rule, *planted, *preset;
    evaluate_options evaluate;
    cli_list also;
    int in_flight, menu, json;
    const char *prior; /* a search of other questions, or NULL */
    int pilot;         /* or so many questions of this one; 0: none */
    int n_first;
    searcher_options how;
} search_options;

/* A finished question: where its sample stands in the journal. */
typedef struct place {
    int64_t at;
    size_t length;
} place;

typedef struct run {
    search_options *o;
    polar_model *model;
    polar_model_info info;
    cli_questions questions;
    const char *file;
    shard shard;
    evaluator e;
    cli_text header;
    cli_journal journal;
    place *places;
    cli_summary summary;
    cli_objects samples; /* --menu: the results of a search */
    int at_sample;
    menu menu;
    searcher s;
    prior prior;
    double began, told;
    int n_before; /* questions done by earlier runs */
    double n_programs_before;
} run;

/* --- the header ------------------------------------------------------------------------------------------- */

/* Number of the rule by which programs follow from rewards. Under 1, which was not written, `in_flight` programs were
 * proposed when the last such batch was over; under 2, the next when one of `in_flight` ends, by the clock of
 * polar_many_stream (--reward choice, which runs one at a time: when the one before ends). */
#define TRAJECTORY 2

#define PILOT_SIMULATIONS 200 /* at least */

/* What is set only where somebody asked for it: prior and ends of questions. */
static void put_extras(FILE *f, const run *r) {
    const search_options *o = r->o;
    if (o->prior)
        fprintf(f, ",\"prior\":\"%016llx\",\"prior_questions\":%d", (unsigned long long)r->prior.checksum, r->prior.n);
    if (o->pilot) fprintf(f, ",\"pilot\":%d", o->pilot);
    if (o->n_first) fprintf(f, ",\"first\":%d", o->n_first);
    if (o->how.enough) fprintf(f, ",\"enough\":%d", o->how.enough);
    if (o->how.give_up) fprintf(f, ",\"give_up\":%d", o->how.give_up);
    if (o->how.short_enough > 0) json_put_number(f, "short_enough", o->how.short_enough);
}

/* Everything that results depend on. */
static void put_settings(FILE *f, const run *r) {
    const search_options *o = r->o;
    const polar_search_options *s = &o->how.search;
    fputc('{', f);
    evaluate_put(f, &o->evaluate, &r->e.prompt);
    put_extras(f, r);
    if (o->how.is_released) {
        fprintf(f, ",\"rule\":\"released\",\"simulations\":%d,\"min_calls\":%d,\"max_calls\":%d,\"log_all\":%d",
                CLI_VALUE(s->simulations), o->how.min_calls, o->how.max_calls, o->how.log_all);
        fprintf(f, ",\"one_seed\":%d,\"seed\":%llu}", !o->how.seed_per_question, (unsigned long long)s->seed);
        return;
    }
    fprintf(f, ",\"simulations\":%d,\"space\":\"%s\",\"max_length\":%d,\"max_times\":%d", CLI_VALUE(s->simulations),
            polar_search_space_name(s->space), s->max_length, s->max_times);
    if (s->max_damped) fprintf(f, ",\"max_damped\":%d", s->max_damped);
    if (o->how.one_seed) fprintf(f, ",\"one_seed\":1");
    json_put_number(f, "max_cost", s->max_cost);
    json_put_number(f, "lambda", CLI_VALUE(s->length_penalty));
    json_put_number(f, "c", CLI_VALUE(s->exploration));
    json_put_number(f, "epsilon", CLI_VALUE(s->epsilon));
    json_put_number(f, "alpha", CLI_VALUE(s->widening_alpha));
    json_put_number(f, "beta", CLI_VALUE(s->widening_beta));
    fprintf(f, ",\"in_flight\":%d,\"trajectory\":%d,\"seed\":%llu}", o->in_flight, TRAJECTORY,
            (unsigned long long)s->seed);
}

static void put_header(FILE *f, const run *r) {
    fprintf(f, "{\"version\":\"%s\",", polar_version());
    cli_put_model(f, r->model);
    fprintf(f, ",\"questions\":{\"n\":%d,\"checksum\":\"%016llx\"}", r->questions.n,
            (unsigned long long)r->questions.checksum);
    fprintf(f, ",\"settings\":");
    put_settings(f, r);
}

/* The header of the search that the samples come from, whatever else it says. */
static void copy_header(FILE *f, const cli_objects *samples) {
    polar_span key, value;
    const char *at = samples->header.text + 1, *end = samples->header.text + samples->header.length;
    fputc('{', f);
    for (int n = 0; (at = cli_next_member(at, end, &key, &value));) {
        if (cli_span_is(key, "menu") || cli_span_is(key, "shard")) continue;
        fprintf(f, n++ ? ",\"%.*s\":" : "\"%.*s\":", (int)key.length, key.text);
        fwrite(value.text, 1, value.length, f);
    }
}

/* "shard" comes last, so that merging only has to take it away. */
static int make_header(run *r) {
    FILE *f = cli_text_open(&r->header);
    if (f) {
        if (r->samples.header.text) copy_header(f, &r->samples);
        else put_header(f, r);
        if (r->o->menu) {
            fprintf(f, ",\"menu\":");
            menu_put(f, &r->menu);
        }
        if (r->shard.n > 1) fprintf(f, ",\"shard\":[%d,%d]", r->shard.index, r->shard.n);
        fputc('}', f);
    }
    return cli_text_close(&r->header);
}

/* --- results ---------------------------------------------------------------------------------------------- */

static int n_mine(const run *r) {
    return shard_size(r->shard, r->questions.n);
}

/* Every part of a run searches the questions of the pilot, and writes those of its own. */
static int is_done_here(const run *r, int index) {
    return shard_has(r->shard, index) || index < r->o->pilot;
}

static int n_layer(const run *r) {
    return r->info.n_layer;
}

/* A sample in the journal, new or found there. */
static int on_record(void *user, polar_span text, int64_t at) {
    run *r = user;
    const char *error;
    size_t where;
    int index, status = 0;
    json_document *d = json_read(text.text, text.length, &error, &where);
    if (!d || !json_int(json_get(json_root(d), "index"), &index) || index < 0 || index >= r->questions.n ||
        !is_done_here(r, index) || r->places[index].length)
        status = cli_fail("%s: a record belongs to no question of this run, or is there twice", r->journal.path);
    else {
        r->places[index].at = at;
        r->places[index].length = text.length;
        if (shard_has(r->shard, index)) status = summary_add(&r->summary, json_root(d), n_layer(r));
    }
    json_free(d);
    return status;
}

/* The samples in the order of the questions, one per line. */
static int write_samples(run *r, FILE *f) {
    int n = 0;
    fprintf(f, "{\"polar\":%s,\n\"samples\":[", r->header.text);
    for (int i = 0; i < r->questions.n; i++) {
        char *text;
        if (!shard_has(r->shard, i)) continue;
        if (!(text = cli_journal_read(&r->journal, r->places[i].at, r->places[i].length))) return 1;
        fputs(n++ ? ",\n" : "\n", f);
        fwrite(text, 1, r->places[i].length, f);
        free(text);
    }
    fprintf(f, "\n]}\n");
    return 0;
}

static int write_output(run *r) {
    cli_output out;
    FILE *f = cli_output_open(&out, r->o->output);
    int status = f ? write_samples(r, f) : 1;
    return cli_output_close(&out, !status) || status;
}

/* --- progress --------------------------------------------------------------------------------------------- */

static void time_left(const run *r, char *text, size_t size) {
    int done = r->summary.n - r->n_before, left = n_mine(r) - r->summary.n;
    double seconds = done ? (cli_seconds() - r->began) / done * left : 0;
    if (!done) snprintf(text, size, "?");
    else if (seconds < 3600) snprintf(text, size, "%d:%02d", (int)seconds / 60, (int)seconds % 60);
    else snprintf(text, size, "%.1f h", seconds / 3600);
}

/* On a terminal a line that changes, short enough for 80 columns; elsewhere one every half minute. `running`: programs
 * of the current question. */
static void tell(run *r, int running) {
    const cli_summary *s = &r->summary;
    const int terminal = cli_stderr_is_terminal(), n = s->n ? s->n : 1;
    const double now = cli_seconds(), seconds = now > r->began ? now - r->began : 1;
    const double rate = (s->n_programs - r->n_programs_before + running) / seconds;
    const double base = 100.0 * s->identity / n, valid = 100.0 * s->any / n,
                 shortest = s->any ? s->shortest / s->any : 0;
    char left[24];
    if (!terminal && now - r->told < 30) return;
    time_left(r, left, sizeof left);
    if (terminal)
        cli_progress("%d/%d, %.0f/s, base %.0f%%, valid %.0f%%, corrected %.0f%%, length %.1f, %s left", s->n,
                     n_mine(r), rate, base, valid, summary_corrected(s), shortest, left);
    else
        cli_note(
            "%d of %d questions, %.1f programs/s, base accuracy %.1f %%, with a valid program %.1f %%, of the wrong "
            "ones corrected %.1f %%, mean shortest %.1f layers, %s left",
            s->n, n_mine(r), rate, base, valid, summary_corrected(s), shortest, left);
    r->told = now;
}

/* --- one question ----------------------------------------------------------------------------------------- */

static void on_tell(void *user, int n_done) {
    tell(user, n_done);
}

static int on_progress(void *user, double done) {
    (void)user, (void)done;
    return cli_interrupted();
}

/* The programs of the menu that were not tried on this question; results that are known stay. */
static int cross_question(run *r, const cli_question *q, const json *sample) {
    int status = 0, first;
    if (!trials_read(&r->s.trials, sample)) return cli_fail("%s:%d: a path is no list of layers", r->file, q->line);
    first = r->s.trials.n;
    for (int i = 0; i < r->menu.n && !status; i++) {
        const menu_entry *m = &r->menu.entries[i];
        if (trials_find(&r->s.trials, m->path, m->n) >= 0) continue;
        if (!trials_add(&r->s.trials, m->path, m->n, NULL, 0)) status = cli_fail("out of memory");
    }
    if (status || r->s.trials.n == first) return status;
    if (!(status = evaluator_question(&r->e, q))) status = searcher_run_trials(&r->s, first);
    tell(r, r->s.trials.n - first);
    return status;
}

/* The sample that belongs to a question, for --menu. */
static const json *sample_of(run *r, int index) {
    const json *sample = NULL;
    while (r->at_sample <= r->questions.items[index].place && (sample = cli_objects_next(&r->samples))) r->at_sample++;
    return sample;
}

static int do_question(run *r, int index) {
    const cli_question *q = &r->questions.items[index];
    const json *sample = NULL;
    cli_text text;
    int64_t at;
    FILE *f;
    int status;
    trials_clear(&r->s.trials);
    if (r->o->menu && !(sample = sample_of(r, index))) return 1;
    if (r->o->menu) status = cross_question(r, q, sample);
    else status = searcher_run(&r->s, q);
    if (status) return status;
    if ((f = cli_text_open(&text))) {
        if (sample) sample_put_again(f, index, sample, r->samples.object, &r->s.trials);
        else sample_put(f, index, q, &r->s.trials);
    }
    status = cli_text_close(&text) || cli_journal_add(&r->journal, text.text, text.length, &at) ||
             on_record(r, (polar_span){text.text, text.length}, at);
    cli_text_free(&text);
    return status;
}

/* The questions of the pilot, by the textbook's rule with all of its simulations; then the prior that they make, from
 * the journal, so that it is the same for a run that goes on and for every part. */
static int do_pilot(run *r) {
    searcher_options how = r->o->how;
    trials t = {.n_layer = r->info.n_layer};
    int status = 0;
    how.enough = how.give_up = 0;
    how.short_enough = 0;
    if (how.search.simulations < PILOT_SIMULATIONS) how.search.simulations = PILOT_SIMULATIONS;
    r->s.o = &how;
    for (int i = 0; i < r->o->pilot && !status; i++)
        if (!r->places[i].length) status = cli_interrupted() ? EVALUATE_CANCELLED : do_question(r, i);
    r->s.o = &r->o->how;
    for (int i = 0; i < r->o->pilot && !status; i++) {
        const char *error = "";
        size_t at;
        char *text = cli_journal_read(&r->journal, r->places[i].at, r->places[i].length);
        json_document *d = text ? json_read(text, r->places[i].length, &error, &at) : NULL;
        if (!d || !trials_read(&t, json_root(d))) status = cli_fail("%s: record %d: %s", r->journal.path, i, error);
        else status = prior_add(&r->prior, &t);
        json_free(d);
        free(text);
    }
    trials_free(&t);
    if (!status) status = prior_finish(&r->prior, r->o->n_first);
    r->s.prior = &r->prior;
    return status;
}

static int do_questions(run *r) {
    int status = 0;
    r->began = r->told = cli_seconds();
    r->n_before = r->summary.n;
    r->n_programs_before = r->summary.n_programs;
    if (r->n_before) cli_note("%s: going on after %d of %d questions", r->journal.path, r->n_before, n_mine(r));
    if (r->o->pilot) status = do_pilot(r);
    for (int i = 0; i < r->questions.n && !status; i++) {
        if (!shard_has(r->shard, i) || r->places[i].length) continue;
        status = cli_interrupted() ? EVALUATE_CANCELLED : do_question(r, i);
    }
    cli_progress_end();
    if (status == EVALUATE_CANCELLED)
        status = cli_fail("interrupted after %d of %d questions%s", r->summary.n, n_mine(r),
                          cli_journal_rest(&r->journal));
    return status;
}

/* --- the run ---------------------------------------------------------------------------------------------- */

static void print_summary(const run *r) {
    FILE *f = strcmp(r->o->output, "-") ? stdout : stderr;
    if (r->o->json) summary_print_json(f, &r->summary);
    else summary_print(f, &r->summary, n_layer(r));
}

static int go(run *r) {
    int status, found;
    if ((status = make_header(r))) return status;
    if ((found = cli_output_is_there(r->o->output, r->header.text, r->header.length)) < 0) return 1;
    if (found > 0) {
        cli_note("%s is complete already", r->o->output);
        return 0;
    }
    if (!(r->places = calloc((size_t)r->questions.n, sizeof *r->places))) return cli_fail("out of memory");
    if ((status = cli_journal_beside(&r->journal, r->o->output, r->header.text, on_record, r)) ||
        (status = do_questions(r)) || (status = write_output(r)))
        return status;
    cli_journal_remove(&r->journal);
    print_summary(r);
    return 0;
}

/* --- options ---------------------------------------------------------------------------------------------- */

/* The settings that the header of a finished search records, for the results that --menu adds. */
static int take_settings(run *r, const json *header) {
    evaluate_options *o = &r->o->evaluate;
    const json *s = json_get(header, "settings"), *stop = json_get(s, "stop");
    const char *text;
    if (cli_check_model(r->file, header, r->model)) return 1;
    o->prompt.recorded = json_get_text(s, "prompt");
    o->prompt.chat = json_get_text(s, "chat");
    o->prompt.system = json_get_text(s, "system");
    o->prompt.example = 0;
    o->prompt.last_answer = json_get(s, "last_answer") != NULL;
    if ((text = json_get_text(s, "reward"))) o->reward = text;
    if ((text = json_get_text(s, "kv_type"))) o->kv_type = text;
    if ((text = json_get_text(s, "kv"))) o->kv = text;
    if ((text = json_get_text(s, "prompt_program"))) o->prompt_program = text;
    json_int(json_get(s, "tokens"), &o->tokens);
    o->stop.n = 0;
    for (const json *v = stop && stop->type == JSON_ARRAY ? stop->child : NULL; v && o->stop.n < 32; v = v->next)
        if (v->type == JSON_STRING) o->stop.items[o->stop.n++] = v->text;
    o->stop.items[o->stop.n] = NULL;
    return 0;
}

/* Bounds of a program's calls under the released rule. */
static int take_bounds(search_options *o, int n_layer) {
    int low, high;
    const int is_known = released_bounds(n_layer, &low, &high);
    released_search *s;
    if (!is_known && (!o->how.min_calls || !o->how.max_calls) && o->preset)
        return cli_usage("--preset %s: the paper has models of 24, 28, 36 and 48 layers, this one has %d; "
                         "--min-calls and --max-calls say the bounds for it", o->preset, n_layer);
    if (!is_known && (!o->how.min_calls || !o->how.max_calls))
        cli_note("the release has no bounds for %d layers: programs of %d to %d calls", n_layer,
                 o->how.min_calls ? o->how.min_calls : low, o->how.max_calls ? o->how.max_calls : high);
    if (!o->how.min_calls) o->how.min_calls = low;
    if (!o->how.max_calls) o->how.max_calls = high;
    if (!(s = released_create(n_layer, o->how.min_calls, o->how.max_calls, 0, 0)))
        return cli_usage("--rule released: %d layers, %d to %d calls: expected at most %d layers and %d calls", n_layer,
                         o->how.min_calls, o->how.max_calls, RELEASED_MAX_LAYER, RELEASED_MAX_CALLS - 4);
    released_free(s);
    return 0;
}

static int prepare_prior(run *r) {
    const search_options *o = r->o;
    int status;
    if (o->pilot >= r->questions.n && o->pilot)
        return cli_usage("--pilot %d: %s has %d questions, of which some must be left", o->pilot, r->file,
                         r->questions.n);
    prior_begin(&r->prior, r->info.n_layer, &o->how.search);
    if (!o->prior) return 0;
    if ((status = prior_read(&r->prior, o->prior, r->model)) || (status = prior_finish(&r->prior, o->n_first)))
        return status;
    r->s.prior = &r->prior;
    return 0;
}

/* Model, questions and prompt; with --menu the results of a search in place of the questions. */
static int prepare(run *r, json_document **header) {
    polar_many_options m = {0};
    polar_program own;
    const char *error = "";
    size_t at;
    int status, n_ctx;
    if ((status = cli_open_model(r->o->model, r->o->evaluate.cpu, 0, &r->model)) ||
        (status = evaluate_questions(&r->questions, r->file, &r->o->evaluate)))
        return status;
    polar_model_get_info(r->model, &r->info);
    own = cli_own_program(r->model);
    r->s.o = &r->o->how;
    r->s.e = &r->e;
    r->s.n_layer = r->s.trials.n_layer = r->info.n_layer;
    r->s.tell = on_tell;
    r->s.user = r;
    r->o->how.search.n_loops = r->summary.n_loops = own.segments[0].times;
    if (own.segments[0].times > 1 && (r->o->how.is_released || r->o->pilot || r->o->prior))
        return cli_usage("this model has %d loops: neither --rule released nor a prior knows them",
                         own.segments[0].times);
    if ((status = prepare_prior(r))) return status;
    m.progress = on_progress;
    if (r->o->how.is_released && (status = take_bounds(r->o, r->info.n_layer))) return status;
    if (r->o->menu && !cli_objects_open(&r->samples, r->file)) return 1;
    if (r->samples.header.text) {
        if (!(*header = json_read(r->samples.header.text, r->samples.header.length, &error, &at)))
            return cli_fail("%s: the header cannot be read: %s", r->file, error);
        if ((status = take_settings(r, json_root(*header)))) return status;
    }
    if ((status = evaluator_open(&r->e, r->model, &r->o->evaluate, m)) ||
        (status = evaluator_room(&r->e, &r->o->evaluate, &r->questions, r->file, &n_ctx)) || !r->o->menu)
        return status;
    status = menu_choose(&r->menu, r->o->menu, r->file, &own, &r->questions);
    for (int i = 0; i < r->o->also.n && !status; i++) status = menu_add(&r->menu, r->o->also.items[i]);
    return status;
}

static int check_options(search_options *o) {
    const char *spaces[POLAR_N_SEARCH_SPACE + 1] = {NULL};
    int space;
    if (!o->output) return cli_usage("no output: -o FILE names it, -o - is stdout");
    if (o->in_flight < 1 || o->in_flight > 1024) return cli_usage("--in-flight %d: expected 1..1024", o->in_flight);
    if (o->menu < 0 || o->menu > MENU_MAX) return cli_usage("--menu %d: expected 1..%d", o->menu, MENU_MAX);
    if (o->prior && o->pilot) return cli_usage("--prior and --pilot exclude each other");
    if (o->pilot < 0) return cli_usage("--pilot %d: expected a number of questions", o->pilot);
    if (o->n_first < 0 || o->n_first >= MENU_MAX)
        return cli_usage("--first %d: expected 1..%d", o->n_first, MENU_MAX - 1);
    if (o->n_first && !o->prior && !o->pilot)
        return cli_usage("--first: --prior or --pilot says which programs they are");
    if ((o->prior || o->pilot) && (o->menu || o->how.is_released))
        return cli_usage("--prior and --pilot are of the textbook rule, and go without --menu");
    if (o->how.enough < 0 || o->how.give_up < 0 || !(o->how.short_enough >= 0))
        return cli_usage("--enough, --give-up and --short-enough: expected numbers > 0");
    if ((o->how.enough || o->how.give_up || o->how.short_enough > 0) && o->menu)
        return cli_usage("--enough, --give-up and --short-enough end a search, --menu runs none");
    if (o->also.n && !o->menu) return cli_usage("--also adds programs to a menu: --menu K chooses the others");
    for (int i = 0; i < POLAR_N_SEARCH_SPACE; i++) spaces[i] = polar_search_space_name((polar_search_space)i);
    if ((space = cli_word("--space", o->space, spaces)) < 0) return 2;
    o->how.search.space = (polar_search_space)space;
    o->how.search.max_in_flight = o->in_flight;
    return 0;
}

/* What the search of the release sets, before the options are read, so that each can still be said otherwise. */
static void take_released(search_options *o) {
    o->how.search.simulations = 100;
    o->how.search.seed = 42;
    o->evaluate.kv = "shared";
    o->evaluate.prompt.chat = "raw";
    o->evaluate.is_released = 1;
}

/* The settings of the paper or of the reproduction, as take_released. The paper's bounds of a program's calls are those
 * of its models' depths. */
static void take_preset(search_options *o, const char *preset) {
    if (!strcmp(preset, "polar-paper")) {
        take_released(o);
        o->rule = "released";
    } else if (!strcmp(preset, "re-polar")) {
        o->in_flight = 1;
        o->evaluate.prompt.example = 1;
    }
}

static void tell_preset(const run *r) {
    const search_options *o = r->o;
    const polar_search_options *s = &o->how.search;
    const int own_seed = o->how.is_released ? o->how.seed_per_question : !o->how.one_seed;
    const char *prompt = "another prompt";
    char rule[200];
    if (o->evaluate.prompt.example) prompt = "the published prompt with a worked example";
    else if (!strcmp(r->e.prompt.how.text, cli_published_prompt)) prompt = "the published prompt";
    if (o->how.is_released)
        snprintf(rule, sizeof rule, "rule released, programs of %d to %d calls", o->how.min_calls, o->how.max_calls);
    else
        snprintf(rule, sizeof rule,
                 "rule textbook with edits of up to %d layers, repeats up to %d times, lambda %g, c %g, epsilon %g, "
                 "alpha %g, beta %g, %d in flight", s->max_length, s->max_times, CLI_VALUE(s->length_penalty),
                 CLI_VALUE(s->exploration), CLI_VALUE(s->epsilon), CLI_VALUE(s->widening_alpha),
                 CLI_VALUE(s->widening_beta), o->in_flight);
    cli_note("--preset %s: %s; %d simulations; seed %llu, %s; --kv %s; %s, %s%s; at most %d tokens", o->preset, rule,
             CLI_VALUE(s->simulations), (unsigned long long)s->seed,
             own_seed ? "each question its own from it" : "one for all questions", o->evaluate.kv, prompt,
             polar_chat_name(r->e.prompt.how.chat),
             o->evaluate.prompt.last_answer ? ", graded behind the last Answer:" : "", o->evaluate.tokens);
}

/* What belongs to one rule only is refused with the other. `textbook` are the options as they were before reading. */
static int check_rule(search_options *o, const polar_search_options *textbook) {
    const polar_search_options *s = &o->how.search;
    if (o->how.one_seed && o->how.seed_per_question)
        return cli_usage("--one-seed and --seed-per-question exclude each other");
    if (!o->how.is_released)
        return !o->how.min_calls && !o->how.max_calls && !o->how.log_all
                   ? 0
                   : cli_usage("--min-calls, --max-calls and --log-all go with --rule released");
    if (o->menu) return cli_usage("--menu runs no search, so that it goes without --rule");
    if (strcmp(o->space, "both") || s->max_length != textbook->max_length || s->max_times != textbook->max_times ||
        s->max_damped || s->max_cost > 0 || s->length_penalty != textbook->length_penalty ||
        s->exploration != textbook->exploration || s->epsilon != textbook->epsilon ||
        s->widening_alpha != textbook->widening_alpha || s->widening_beta != textbook->widening_beta)
        return cli_usage("--space, --max-length, --max-times, --damped, --max-cost, --lambda, --c, --epsilon, --alpha "
                         "and --beta are of the textbook rule; the released one has them fixed");
    if (o->in_flight != 1 && o->in_flight != 8) return cli_usage("--in-flight: the released rule runs one at a time");
    o->in_flight = 1;
    if (o->how.min_calls < 0 || o->how.max_calls < 0)
        return cli_usage("--min-calls and --max-calls: expected numbers of calls");
    if (!o->evaluate.prompt.prompt && !o->evaluate.prompt.example) o->evaluate.prompt.recorded = cli_published_prompt;
    if (!o->evaluate.prompt.prompt) o->evaluate.prompt.last_answer = 1;
    return 0;
}

/* The word behind --NAME, before the options are read; NULL without one. */
static const char *early_word(const cli *c, const char *name) {
    const size_t n = strlen(name);
    const char *found = NULL;
    for (int i = 0; i < c->n_args && strcmp(c->args[i], "--"); i++) {
        const char *word = c->args[i];
        if (strncmp(word, "--", 2) || strncmp(word + 2, name, n)) continue;
        if (word[2 + n] == '=') found = word + n + 3;
        else if (!word[2 + n] && i + 1 < c->n_args) found = c->args[i + 1];
    }
    return found;
}

static int run_search(run *r) {
    json_document *header = NULL;
    int status = prepare(r, &header);
    if (!status && r->shard.index > r->questions.n)
        status = cli_fail("shard %d of %d is empty: there are %d questions", r->shard.index, r->shard.n,
                          r->questions.n);
    cli_catch_interrupts();
    if (!status && r->o->preset) tell_preset(r);
    if (!status) status = go(r);
    cli_journal_close(&r->journal);
    cli_text_free(&r->header);
    evaluator_close(&r->e);
    json_free(header);
    cli_objects_close(&r->samples);
    menu_free(&r->menu);
    searcher_free(&r->s);
    prior_free(&r->prior);
    summary_free(&r->summary);
    free(r->places);
    cli_questions_free(&r->questions);
    polar_model_close(r->model);
    return status;
}

int command_search(cli *c) {
    search_options o = {.space = "both", .rule = "textbook", .evaluate = EVALUATE_DEFAULTS, .in_flight = 8,
                        .how.search = {.simulations = 200, .length_penalty = 5, .exploration = 1.41421356237309505,
                                   .epsilon = 0.1, .widening_alpha = 2, .widening_beta = 0.5, .max_length = 4,
                                   .max_times = 5}};
    polar_search_options *s = &o.how.search;
    run r = {.o = &o};
    polar_search *tried;
    static const char *const rules[] = {"textbook", "released", NULL};
    static const char *const presets[] = {"polar-paper", "re-polar", NULL};
    const polar_search_options textbook = o.how.search;
    const char *early = early_word(c, "rule"), *preset = early_word(c, "preset");
    polar_error error;
    int status, rule;
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"output", 'o', CLI_SUPERVISION, &o.output, "FILE",
         "supervision file; FILE.journal holds what is done until it is complete"},
        {"rule", 0, CLI_TEXT, &o.rule, "RULE", "textbook, or released: the search that the authors of PoLar released"},
        {"preset", 0, CLI_TEXT, &o.preset, "NAME",
         "polar-paper or re-polar: all settings of the paper or of its reproduction; further options change them"},
        {"planted", 0, CLI_FILE, &o.planted, "FILE", "no model: run --rule released on planted rewards, to compare"},
        {"simulations", 0, CLI_INT_OFF, &s->simulations, "N",
         "programs proposed per question, besides the identity (200; released 100)"},
        {"min-calls", 0, CLI_INT, &o.how.min_calls, "N",
         "released rule: fewest calls of a program (as in the release)"},
        {"max-calls", 0, CLI_INT, &o.how.max_calls, "N", "released rule: most calls of a program (as in the release)"},
        {"log-all", 0, CLI_FLAG, &o.how.log_all, NULL,
         "released rule: record every simulation, also those that ran nothing, so that visits can be counted"},
        {"space", 0, CLI_TEXT, &o.space, "SPACE", "both, skip or loop: what edits may do (both)"},
        {"max-length", 0, CLI_INT_OFF, &s->max_length, "N", "layers of an edit (4)"},
        {"max-times", 0, CLI_INT_OFF, &s->max_times, "N", "executions of a repeated edit (5)"},
        {"damped", 0, CLI_INT, &s->max_damped, "K", "edits may also be damped passes, 2..K, as in 12-15~3 (0: none)"},
        {"max-cost", 0, CLI_NUMBER, &s->max_cost, "X", "longest program, in passes through all layers; 0: any (0)"},
        {"lambda", 0, CLI_NUMBER_OFF, &s->length_penalty, "X", "length penalty (5)"},
        {"c", 0, CLI_NUMBER_OFF, &s->exploration, "X", "exploration (sqrt 2)"},
        {"epsilon", 0, CLI_NUMBER_OFF, &s->epsilon, "P", "probability of an edit that was not tried (0.1)"},
        {"alpha", 0, CLI_NUMBER_OFF, &s->widening_alpha, "X", "a node has at most alpha visits^beta children (2)"},
        {"beta", 0, CLI_NUMBER_OFF, &s->widening_beta, "X", "(0.5)"},
        {"seed", 's', CLI_U64, &s->seed, "N", "random numbers (0; released 42)"},
        {"seed-per-question", 0, CLI_FLAG, &o.how.seed_per_question, NULL,
         "each question gets a seed of its own, made of this and its text (so under the textbook rule)"},
        {"one-seed", 0, CLI_FLAG, &o.how.one_seed, NULL,
         "all questions get the same seed (so under the released rule): all try the same programs first, so that the "
         "same ones are found for many and look universal: agreement between questions then says nothing"},
        {"in-flight", 0, CLI_INT, &o.in_flight, "N", "programs that run at a time; 1 is the textbook search (8)"},
        {"prior", 0, CLI_FILE, &o.prior, "FILE",
         "a search of other questions by this model: edits that were useful there come first"},
        {"pilot", 0, CLI_INT, &o.pilot, "N",
         "the first N questions are searched without a prior, with at least 200 simulations, and make the one of the "
         "others; every --shard does them anew, so with many parts search them once and take that as --prior"},
        {"first", 0, CLI_INT, &o.n_first, "K",
         "of the programs, begin with K that were useful for most of the prior's questions (0)"},
        {"enough", 0, CLI_INT, &o.how.enough, "N", "end a question with N valid programs besides the identity"},
        {"short-enough", 0, CLI_NUMBER, &o.how.short_enough, "X",
         "end a question with a valid program of at most X passes through all layers"},
        {"give-up", 0, CLI_INT, &o.how.give_up, "N",
         "end a question when N programs neither corrected it nor were valid and shorter than the identity"},
        {"menu", 0, CLI_INT, &o.menu, "K", "choose K programs from the results in FILE and run them on every question"},
        {"also", 0, CLI_LIST, &o.also, "PROGRAM", "add this one to the menu; may be repeated"},
        EVALUATE_OPTIONS(o.evaluate),
        {"json", 0, CLI_FLAG, &o.json, NULL, "print the summary as a JSON object"},
        {0}};
    if (preset) take_preset(&o, preset);
    if (early && !strcmp(early, "released")) take_released(&o);
    if ((status = cli_read(c, options, 0, 1)) >= 0) return status;
    if ((rule = cli_word("--rule", o.rule, rules)) < 0) return 2;
    if (o.preset && cli_word("--preset", o.preset, presets) < 0) return 2;
    if (o.preset && o.menu) return cli_usage("--preset sets a search, --menu runs none");
    if (o.preset && (!strcmp(o.preset, "polar-paper")) != rule)
        return cli_usage("--preset %s goes with its own --rule", o.preset);
    o.how.is_released = rule == 1;
    if (o.how.is_released != o.evaluate.is_released ||
        (o.preset ? !preset || strcmp(preset, o.preset) : preset != NULL))
        return cli_usage("--rule or --preset stands there twice, or behind another option");
    if (o.planted)
        return rule == 1 && !c->n_args ? search_planted(o.planted)
                                       : cli_usage("--planted goes with --rule released, and without questions");
    if (!c->n_args) return cli_usage("no questions: polar search -h tells the usage");
    if ((status = check_rule(&o, &textbook)) || (status = check_options(&o)) ||
        (status = evaluate_check(&o.evaluate, &r.shard)))
        return status;
    if (polar_search_create(&tried, 1, "", 0, s, &error)) return cli_usage("%s", error.message);
    polar_search_free(tried);
    r.file = c->args[0];
    if (o.menu && !strcmp(r.file, "-")) return cli_usage("--menu needs a file: it is read twice");
    return run_search(&r);
}
