/* polar search: programs that answer each question. Shows polar_search with polar_many. */
#include "evaluate.h"
#include "menu.h"
#include "planted.h"
#include "samples.h"

#include <limits.h>

typedef struct search_options {
    const char *model, *output, *space, *rule, *planted;
    evaluate_options evaluate;
    cli_list also;
    int in_flight, menu, json;
    polar_search_options search;
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
    trials trials;
    double began, told;
    int n_before; /* questions done by earlier runs */
    double n_programs_before;
} run;

/* --- the header ------------------------------------------------------------------------------------------- */

/* Number of the rule by which programs follow from rewards. Under 1, which was not written, `in_flight` programs were
 * proposed when the last such batch was over; under 2, the next when one of `in_flight` ends, by the clock of
 * polar_many_stream (--reward choice, which runs one at a time: when the one before ends). */
#define TRAJECTORY 2

/* Everything that results depend on. */
static void put_settings(FILE *f, const run *r) {
    const search_options *o = r->o;
    const polar_search_options *s = &o->search;
    fputc('{', f);
    evaluate_put(f, &o->evaluate, &r->e.prompt);
    fprintf(f, ",\"simulations\":%d,\"space\":\"%s\",\"max_length\":%d,\"max_times\":%d", CLI_VALUE(s->simulations),
            polar_search_space_name(s->space), s->max_length, s->max_times);
    if (s->max_damped) fprintf(f, ",\"max_damped\":%d", s->max_damped);
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
        !shard_has(r->shard, index) || r->places[index].length)
        status = cli_fail("%s: a record belongs to no question of this run, or is there twice", r->journal.path);
    else {
        r->places[index].at = at;
        r->places[index].length = text.length;
        summary_add(&r->summary, json_root(d), n_layer(r));
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

static int on_progress(void *user, double done) {
    (void)user, (void)done;
    return cli_interrupted();
}

/* Takes over an attempt: its answer too. */
static void set_trial(trial *t, const attempt *a) {
    t->reward = a->reward;
    t->answer = a->answer;
    t->n_tokens = a->n_tokens;
    t->stop = a->stop;
    t->logprob = a->logprob;
}

/* Runs paths that are in r->trials from `first` on. */
static int run_trials(run *r, int first) {
    int n = r->trials.n - first, status;
    polar_path *paths = calloc((size_t)n, sizeof *paths);
    attempt *attempts = malloc((size_t)n * sizeof *attempts);
    if (!paths || !attempts) {
        free(paths);
        free(attempts);
        return cli_fail("out of memory");
    }
    for (int i = 0; i < n; i++) {
        paths[i].calls = r->trials.items[first + i].path;
        paths[i].n = r->trials.items[first + i].n;
    }
    status = evaluator_run(&r->e, paths, n, attempts);
    for (int i = 0; i < n; i++) {
        if (status) free(attempts[i].answer);
        else set_trial(&r->trials.items[first + i], &attempts[i]);
    }
    free(paths);
    free(attempts);
    return status;
}

/* A search on its way. Ids of the search are the indexes of the trials and the numbers of the stream. */
typedef struct flight {
    run *r;
    polar_search *search;
    int n_done;
} flight;

/* The next proposal; polar_search says when enough are waiting. The identity runs alone: its answer is a guess for the
 * others. */
static int propose(void *user, polar_path *path) {
    flight *f = user;
    run *r = f->r;
    int calls[POLAR_MAX_CALLS], id;
    polar_program program;
    polar_search_result result;
    const trial *parent;
    trial *t;
    if ((r->trials.n && !f->n_done) || (id = polar_search_next(f->search, &program)) < 0) return 0;
    polar_search_get(f->search, id, &result);
    parent = result.parent < 0 ? NULL : &r->trials.items[result.parent];
    if (!(t = trials_add(&r->trials, calls, polar_program_calls(&program, calls, POLAR_MAX_CALLS),
                         parent ? parent->path : NULL, parent ? parent->n : 0)))
        return -cli_fail("out of memory");
    t->simulation = result.simulation;
    path->calls = t->path;
    path->n = t->n;
    return 1;
}

static int report(void *user, int id, const attempt *a) {
    flight *f = user;
    polar_error error;
    set_trial(&f->r->trials.items[id], a);
    f->n_done++;
    if (polar_search_report(f->search, id, a->reward, &error)) return cli_fail("%s", error.message);
    tell(f->r, f->n_done);
    return cli_interrupted() ? EVALUATE_CANCELLED : 0;
}

static int search_question(run *r, const cli_question *q) {
    flight f = {r, NULL, 0};
    const evaluator_stream stream = {propose, report, &f};
    polar_error error;
    int status;
    if ((status = evaluator_question(&r->e, q))) return status;
    if (polar_search_create(&f.search, r->info.n_layer, q->text, strlen(q->text), &r->o->search, &error))
        return cli_fail("%s", error.message);
    status = evaluator_run_stream(&r->e, &stream);
    polar_search_free(f.search);
    return status;
}

/* The programs of the menu that were not tried on this question; results that are known stay. */
static int cross_question(run *r, const cli_question *q, const json *sample) {
    int status = 0, first;
    if (!trials_read(&r->trials, sample)) return cli_fail("%s:%d: a path is no list of layers", r->file, q->line);
    first = r->trials.n;
    for (int i = 0; i < r->menu.n && !status; i++) {
        const menu_entry *m = &r->menu.entries[i];
        if (trials_find(&r->trials, m->path, m->n) >= 0) continue;
        if (!trials_add(&r->trials, m->path, m->n, NULL, 0)) status = cli_fail("out of memory");
    }
    if (status || r->trials.n == first) return status;
    if (!(status = evaluator_question(&r->e, q))) status = run_trials(r, first);
    tell(r, r->trials.n - first);
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
    trials_clear(&r->trials);
    if (r->o->menu && !(sample = sample_of(r, index))) return 1;
    status = r->o->menu ? cross_question(r, q, sample) : search_question(r, q);
    if (status) return status;
    if ((f = cli_text_open(&text))) {
        if (sample) sample_put_again(f, index, sample, r->samples.object, &r->trials);
        else sample_put(f, index, q, &r->trials);
    }
    status = cli_text_close(&text) || cli_journal_add(&r->journal, text.text, text.length, &at) ||
             on_record(r, (polar_span){text.text, text.length}, at);
    cli_text_free(&text);
    return status;
}

static int do_questions(run *r) {
    int status = 0;
    r->began = r->told = cli_seconds();
    r->n_before = r->summary.n;
    r->n_programs_before = r->summary.n_programs;
    if (r->n_before) cli_note("%s: going on after %d of %d questions", r->journal.path, r->n_before, n_mine(r));
    for (int i = 0; i < r->questions.n && !status; i++) {
        if (!shard_has(r->shard, i) || r->places[i].length) continue;
        status = cli_interrupted() ? EVALUATE_CANCELLED : do_question(r, i);
    }
    cli_progress_end();
    if (status == EVALUATE_CANCELLED)
        status = cli_fail("interrupted after %d of %d questions, which %s holds; the same command goes on from there",
                          r->summary.n, n_mine(r), r->journal.path);
    return status;
}

/* --- the run ---------------------------------------------------------------------------------------------- */

/* The output is a file, with a place for a journal beside it; not stdout or a device. */
static int has_place(const run *r) {
    return strcmp(r->o->output, "-") && !cli_is_special(r->o->output);
}

/* An output that is there: 0 there is none, 1 it is that of this very run, -1 another after a message. */
static int look_at_output(const run *r) {
    const char *path = r->o->output, *error = "";
    char difference[600] = "it has no header of polar search";
    cli_objects found;
    json_document *there = NULL, *here;
    size_t at;
    int same = 0;
    FILE *f = has_place(r) ? cli_fopen(path, "rb") : NULL;
    int first = f ? getc(f) : EOF;
    if (f) fclose(f);
    if (first == EOF) return 0;
    if (!cli_objects_open(&found, path)) return -1;
    here = json_read(r->header.text, r->header.length, &error, &at);
    if (found.header.text) there = json_read(found.header.text, found.header.length, &error, &at);
    if (there && here) same = !cli_json_differ(json_root(there), json_root(here), difference, sizeof difference);
    json_free(there);
    json_free(here);
    cli_objects_close(&found);
    if (same) return 1;
    cli_fail("%s exists and belongs to another run: %s; remove it or choose another output", path, difference);
    return -1;
}

static int open_journal(run *r) {
    const char *path = r->o->output;
    char *name;
    int status;
    if (!(r->places = calloc((size_t)r->questions.n, sizeof *r->places))) return cli_fail("out of memory");
    if (!has_place(r)) return cli_journal_open(&r->journal, NULL, r->header.text, on_record, r);
    if (!(name = malloc(strlen(path) + sizeof ".journal"))) return cli_fail("out of memory");
    strcat(strcpy(name, path), ".journal");
    status = cli_journal_open(&r->journal, name, r->header.text, on_record, r);
    free(name);
    return status;
}

static void print_summary(const run *r) {
    FILE *f = strcmp(r->o->output, "-") ? stdout : stderr;
    if (r->o->json) summary_print_json(f, &r->summary);
    else summary_print(f, &r->summary, n_layer(r));
}

static int go(run *r) {
    int status, found;
    if ((status = make_header(r))) return status;
    if ((found = look_at_output(r)) < 0) return 1;
    if (found > 0) {
        cli_note("%s is complete already", r->o->output);
        return 0;
    }
    if ((status = open_journal(r)) || (status = do_questions(r)) || (status = write_output(r))) return status;
    if (has_place(r)) cli_journal_remove(&r->journal);
    print_summary(r);
    return 0;
}

/* --- options ---------------------------------------------------------------------------------------------- */

/* The settings that the header of a finished search records, for the results that --menu adds. */
static int take_settings(run *r, const json *header) {
    evaluate_options *o = &r->o->evaluate;
    const json *s = json_get(header, "settings"), *model = json_get(header, "model"), *stop = json_get(s, "stop");
    const char *checksum = json_get_text(model, "checksum"), *text;
    char mine[20];
    snprintf(mine, sizeof mine, "%016llx", (unsigned long long)polar_model_checksum(r->model));
    if (!checksum || strcmp(checksum, mine))
        return cli_fail("%s was made with another model: its checksum is %s there and %s here", r->file,
                        checksum ? checksum : "not set", mine);
    o->prompt.recorded = json_get_text(s, "prompt");
    o->prompt.chat = json_get_text(s, "chat");
    o->prompt.system = json_get_text(s, "system");
    o->prompt.example = 0;
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

/* Model, questions and prompt; with --menu the results of a search in place of the questions. */
static int prepare(run *r, json_document **header) {
    polar_many_options m = {0};
    const char *error = "";
    size_t at;
    int status, n_ctx;
    if ((status = cli_open_model(r->o->model, r->o->evaluate.cpu, 0, &r->model)) ||
        (status = cli_questions_read(&r->questions, r->file, 1, r->o->evaluate.limit)))
        return status;
    polar_model_get_info(r->model, &r->info);
    r->trials.n_layer = r->info.n_layer;
    m.progress = on_progress;
    if (r->o->menu && !cli_objects_open(&r->samples, r->file)) return 1;
    if (r->samples.header.text) {
        if (!(*header = json_read(r->samples.header.text, r->samples.header.length, &error, &at)))
            return cli_fail("%s: the header cannot be read: %s", r->file, error);
        if ((status = take_settings(r, json_root(*header)))) return status;
    }
    if ((status = evaluator_open(&r->e, r->model, &r->o->evaluate, m)) ||
        (status = evaluator_room(&r->e, &r->o->evaluate, &r->questions, r->file, &n_ctx)) || !r->o->menu)
        return status;
    status = menu_choose(&r->menu, r->o->menu, r->file, r->info.n_layer, &r->questions);
    for (int i = 0; i < r->o->also.n && !status; i++) status = menu_add(&r->menu, r->o->also.items[i]);
    return status;
}

static int check_options(search_options *o) {
    const char *spaces[POLAR_N_SEARCH_SPACE + 1] = {NULL};
    int space;
    if (!o->output) return cli_usage("no output: -o FILE names it, -o - is stdout");
    if (o->in_flight < 1 || o->in_flight > 1024) return cli_usage("--in-flight %d: expected 1..1024", o->in_flight);
    if (o->menu < 0 || o->menu > MENU_MAX) return cli_usage("--menu %d: expected 1..%d", o->menu, MENU_MAX);
    if (o->also.n && !o->menu) return cli_usage("--also adds programs to a menu: --menu K chooses the others");
    for (int i = 0; i < POLAR_N_SEARCH_SPACE; i++) spaces[i] = polar_search_space_name((polar_search_space)i);
    if ((space = cli_word("--space", o->space, spaces)) < 0) return 2;
    o->search.space = (polar_search_space)space;
    o->search.max_in_flight = o->in_flight;
    return 0;
}

static int run_search(run *r) {
    json_document *header = NULL;
    int status = prepare(r, &header);
    if (!status && r->shard.index > r->questions.n)
        status = cli_fail("shard %d of %d is empty: there are %d questions", r->shard.index, r->shard.n,
                          r->questions.n);
    cli_catch_interrupts();
    if (!status) status = go(r);
    cli_journal_close(&r->journal);
    cli_text_free(&r->header);
    evaluator_close(&r->e);
    json_free(header);
    cli_objects_close(&r->samples);
    menu_free(&r->menu);
    trials_free(&r->trials);
    free(r->places);
    cli_questions_free(&r->questions);
    polar_model_close(r->model);
    return status;
}

int command_search(cli *c) {
    search_options o = {.space = "both", .rule = "textbook", .evaluate = EVALUATE_DEFAULTS, .in_flight = 8,
                        .search = {.simulations = 200, .length_penalty = 5, .exploration = 1.41421356237309505,
                                   .epsilon = 0.1, .widening_alpha = 2, .widening_beta = 0.5, .max_length = 4,
                                   .max_times = 5}};
    polar_search_options *s = &o.search;
    run r = {.o = &o};
    polar_search *tried;
    static const char *const rules[] = {"textbook", "released", NULL};
    polar_error error;
    int status, rule;
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"output", 'o', CLI_SUPERVISION, &o.output, "FILE",
         "supervision file; FILE.journal holds what is done until it is complete"},
        {"rule", 0, CLI_TEXT, &o.rule, "RULE", "textbook, or released: the search that the authors of PoLar released"},
        {"planted", 0, CLI_FILE, &o.planted, "FILE", "no model: run --rule released on planted rewards, to compare"},
        {"simulations", 0, CLI_INT_OFF, &s->simulations, "N", "programs proposed per question, besides the identity (200)"},
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
        {"seed", 's', CLI_U64, &s->seed, "N", "every question gets its own from this and its text (0)"},
        {"in-flight", 0, CLI_INT, &o.in_flight, "N", "programs that run at a time; 1 is the textbook search (8)"},
        {"menu", 0, CLI_INT, &o.menu, "K", "choose K programs from the results in FILE and run them on every question"},
        {"also", 0, CLI_LIST, &o.also, "PROGRAM", "add this one to the menu; may be repeated"},
        EVALUATE_OPTIONS(o.evaluate),
        {"json", 0, CLI_FLAG, &o.json, NULL, "print the summary as a JSON object"},
        {0}};
    if ((status = cli_read(c, options, 0, 1)) >= 0) return status;
    if ((rule = cli_word("--rule", o.rule, rules)) < 0) return 2;
    if (rule == 1 && !o.planted) return cli_usage("--rule released runs with --planted only");
    if (o.planted)
        return rule == 1 && !c->n_args ? search_planted(o.planted)
                                       : cli_usage("--planted goes with --rule released, and without questions");
    if (!c->n_args) return cli_usage("no questions: polar search -h tells the usage");
    if ((status = check_options(&o)) || (status = evaluate_check(&o.evaluate, &r.shard))) return status;
    if (polar_search_create(&tried, 1, "", 0, s, &error)) return cli_usage("%s", error.message);
    polar_search_free(tried);
    r.file = c->args[0];
    if (o.menu && !strcmp(r.file, "-")) return cli_usage("--menu needs a file: it is read twice");
    return run_search(&r);
}
