/* polar eval: what a predictor brings on questions it has not seen, beside what anybody would try without it. Every
 * number comes from running the model. Shows polar_many, polar_picker and the statistics of statistics.h. */
#include "eval.h"
#include "rivals.h"

#include <float.h>
#include <math.h>

typedef enum eval_kind {
    EVAL_FIXED,     /* one program for all questions: the identity, the best of the menu, ... */
    EVAL_PICK,      /* the first pick at a point */
    EVAL_VOTE, EVAL_CASCADE, EVAL_ORACLE, /* over the first k picks at point 0 */
    EVAL_DECODED, EVAL_DECODED_VOTE, EVAL_DECODED_ORACLE, /* the programs that the network of [P] decodes */
    EVAL_PUBLISHED, EVAL_PUBLISHED_ORACLE, /* the same as [P] counts them: one that skips all is there, and wrong */
    EVAL_RANDOM,    /* the first pick with its edits elsewhere */
    EVAL_INFLUENCE, /* as many calls as the first pick, by block influence */
    EVAL_COVERAGE,  /* the whole menu */
    EVAL_RIVAL      /* of --rivals, what needs the question */
} eval_kind;

typedef struct eval_method {
    eval_kind kind;
    int point; /* of PICK, RANDOM, INFLUENCE; -1: the decoded program takes the pick's place. Of RIVAL: which one */
    polar_program program; /* of FIXED */
} eval_method;

typedef struct eval_options {
    const char *model, *predictor, *encoder, *output, *validation, *fit, *menu, *rivals;
    evaluate_options evaluate;
    cli_list programs, prices, skips;
    int published;
    int k, time, show, json, any_model, merge, allow_overlap; /* k 0: 5, and for cascades what they were fitted for */
    uint64_t seed;
    polar_beam_options decode;
} eval_options;

typedef struct place {
    int64_t at;
    size_t length;
} place;

typedef struct eval {
    eval_options *o;
    polar_model *model, *encoder;
    polar_model_info info;
    cli_questions questions;
    const char *file;
    shard shard;
    polar_pool *pool;
    polar_runner runner;
    evaluator e;
    polar_predictor *predictor;
    polar_predictor_info about; /* the predictor */
    uint64_t predictor_checksum;
    double encoder_calls; /* a token through the encoder, in layer calls of the model */
    polar_picker *picker, *decoder; /* menu, decoded programs; NULL without that head */
    polar_session *clock;           /* for timing */
    polar_program menu[POLAR_MAX_MENU];
    int n_menu;
    eval_method methods[SCORE_METHODS];
    scores scores; /* also names of methods, points */
    double influence[POLAR_MAX_LAYER];
    int has_influence, has_fit, n_ctx, max_calls;
    score_fit fit;
    rivals rivals; /* where o->rivals says so */
    uint64_t *validated, *searched; /* fingerprints of the questions of --validation and --menu, NULL if unknown */
    int n_validated, n_searched;
    double threshold; /* of the cascade, and its programs */
    int n_cascade;
    cli_text header;
    cli_journal journal;
    place *places;
    eval_work *work;
    int shown, n_before;
    double began, told;
} eval;

/* --- the methods -------------------------------------------------------------------------------------------- */

static score_method *add_method(eval *r, eval_kind kind, int point, const polar_program *program, const char *note) {
    scores *s = &r->scores;
    score_method *m = &s->methods[s->n_methods];
    eval_method *x = &r->methods[s->n_methods];
    if (s->n_methods == SCORE_METHODS) return NULL;
    s->n_methods++;
    memset(m, 0, sizeof *m);
    m->note = note;
    m->point = kind == EVAL_PICK || kind == EVAL_RANDOM || kind == EVAL_INFLUENCE ? point : -1;
    m->needs_answer = kind == EVAL_ORACLE || kind == EVAL_DECODED_ORACLE || kind == EVAL_PUBLISHED_ORACLE ||
                      kind == EVAL_COVERAGE;
    x->kind = kind;
    x->point = point;
    if (program) x->program = *program;
    return m;
}

/* "top-1 gain": a name, and the point's where there are several. */
static void add_at_point(eval *r, eval_kind kind, int point, const char *name, const char *note) {
    const char *at = point >= 0 ? r->scores.points[point].name : "";
    score_method *m = add_method(r, kind, point, NULL, note);
    if (m) snprintf(m->name, sizeof m->name, "%s%s%s", name, *at ? " " : "", at);
}

/* "vote@5": over that many programs, if there are. */
static void add_over(eval *r, eval_kind kind, const char *name, int k, const char *note) {
    const int picks = kind == EVAL_VOTE || kind == EVAL_CASCADE || kind == EVAL_ORACLE;
    score_method *m = add_method(r, kind, -1, NULL, note);
    if (m) snprintf(m->name, sizeof m->name, "%s@%d", name, picks && k > r->n_menu ? r->n_menu : k);
}

static score_method *add_program(eval *r, const char *name, const polar_program *program, const char *note) {
    score_method *m = add_method(r, EVAL_FIXED, -1, program, note);
    if (m) snprintf(m->name, sizeof m->name, "%s", name);
    return m;
}

/* With --rivals the picks are compared with these, too. */
static void set_rival(const eval *r, score_method *m) {
    if (m) m->is_rival = r->o->rivals != NULL;
}

static void add_fixed(eval *r, const char *name, const char *text, const char *note) {
    polar_program p;
    if (*text && !polar_program_parse(&p, r->info.n_layer, text, NULL)) set_rival(r, add_program(r, name, &p, note));
}

static void add_rivals(eval *r) {
    for (int i = 0; i < r->rivals.n; i++) {
        const rival *x = &r->rivals.items[i];
        score_method *m;
        if (x->kind == RIVAL_PROGRAM) m = add_program(r, x->name, &x->program, x->note);
        else if ((m = add_method(r, EVAL_RIVAL, i, NULL, x->note))) snprintf(m->name, sizeof m->name, "%s", x->name);
        set_rival(r, m);
    }
}

static void add_picks(eval *r) {
    const scores *s = &r->scores;
    for (int p = 0; p < s->n_points; p++)
        add_at_point(r, EVAL_PICK, p, "top-1", "the program with the best P(right) - price * cost");
    if (s->n_points && s->k > 1 && r->n_menu > 1) {
        add_over(r, EVAL_VOTE, "vote", s->k, "the answer that most of the first picks give");
        if (r->threshold <= 0)
            add_over(r, EVAL_CASCADE, "cascade", r->n_cascade, "one pick after the other until an answer is confident");
    }
    if (!r->decoder) return;
    add_at_point(r, EVAL_DECODED, -1, "decoded top-1", "first program of the published decoding");
    if (s->k > 1) add_over(r, EVAL_DECODED_VOTE, "decoded vote", s->k, "vote over its first programs");
    if (r->o->published)
        add_over(r, EVAL_PUBLISHED, "pass", 1, "first decoded program; one that skips all layers is wrong, as in [P]");
}

static void add_baselines(eval *r) {
    const scores *s = &r->scores;
    const score_fit *f = &r->fit;
    const int first = s->n_points ? 0 : r->decoder ? -1 : 1;
    if (r->has_fit) {
        add_fixed(r, "fixed gain", f->fixed_gain, "single program with most right on validation at cost <= 1");
        add_fixed(r, "fixed save", f->fixed_save,
                  "cheapest single program surely as right as the identity on validation");
        if (strcmp(f->fixed_best, f->fixed_gain))
            add_fixed(r, "fixed best", f->fixed_best, "single program with most right on validation at any cost");
    }
    for (int p = first; p < (s->n_points ? s->n_points : 0) || (p == -1 && first == -1); p++)
        add_at_point(r, EVAL_RANDOM, p, "random", "the pick's edits at random places");
    for (int p = first; (p < s->n_points || p == -1) && r->has_influence; p++)
        add_at_point(r, EVAL_INFLUENCE, p, "influence", "as many layers as the pick, those of most influence");
}

/* The layers of least influence skipped for all questions; programs that the user names. */
static int add_wanted(eval *r) {
    for (int i = 0; i < r->o->skips.n; i++) {
        const int n = atoi(r->o->skips.items[i]);
        char name[32];
        polar_program p;
        polar_error e;
        if (n < 1 || n >= r->info.n_layer)
            return cli_usage("--skip %s: expected 1..%d layers", r->o->skips.items[i], r->info.n_layer - 1);
        if (statistics_skip(r->influence, r->info.n_layer, r->info.n_layer - n, &p, &e))
            return cli_fail("%s", e.message);
        snprintf(name, sizeof name, "skip %d", n);
        set_rival(r, add_program(r, name, &p, "layers of least influence skipped"));
    }
    for (int i = 0; i < r->o->programs.n; i++) {
        polar_program p;
        polar_error e;
        if (polar_model_program(r->model, r->o->programs.items[i], &p, &e))
            return cli_fail("%s", e.message);
        add_program(r, r->o->programs.items[i], &p, "this program for all questions");
    }
    return 0;
}

static int add_methods(eval *r) {
    const polar_program own = cli_own_program(r->model);
    const scores *s = &r->scores;
    char note[64] = "every layer once";
    int status;
    if (own.segments[0].times > 1)
        snprintf(note, sizeof note, "the model's own program: all layers %d times", own.segments[0].times);
    add_program(r, "identity", &own, note);
    add_picks(r);
    add_baselines(r);
    add_rivals(r);
    if ((status = add_wanted(r))) return status;
    if (s->n_points && s->k > 1 && r->n_menu > 1)
        add_over(r, EVAL_ORACLE, "oracle", s->k, "any of the first picks is right");
    if (r->decoder && s->k > 1)
        add_over(r, EVAL_DECODED_ORACLE, "decoded oracle", s->k, "any of the decoded programs is right");
    if (r->decoder && s->k > 1 && r->o->published)
        add_over(r, EVAL_PUBLISHED_ORACLE, "pass", s->k, "any is right; one that skips all takes a place, as in [P]");
    if (r->n_menu > 1) add_over(r, EVAL_COVERAGE, "oracle menu", r->n_menu, "any program of the menu is right");
    if (s->n_methods == SCORE_METHODS)
        return cli_usage("too many programs: an evaluation has at most %d methods", SCORE_METHODS - 1);
    r->max_calls = r->decoder || r->o->rivals ? 2 * r->info.n_layer : r->info.n_layer; /* and the identity's, below */
    for (int i = 0; i < s->n_methods; i++) {
        const int n = r->methods[i].kind == EVAL_FIXED ? polar_program_length(&r->methods[i].program) : 0;
        if (n > r->max_calls) r->max_calls = n;
    }
    for (int i = 0; i < r->n_menu; i++)
        if (polar_program_length(&r->menu[i]) > r->max_calls) r->max_calls = polar_program_length(&r->menu[i]);
    return 0;
}

/* --- one question: which programs --------------------------------------------------------------------------- */

static void clear_work(eval_work *w) {
    for (int i = 0; i < w->n_runs; i++) {
        free(w->attempts[i].answer);
        free(w->calls[i]);
    }
    free(w->prompt);
    memset(w, 0, sizeof *w);
}

/* The run of a program, which may be there already; -1 after a message. */
static int run_of(eval_work *w, const polar_program *p) {
    const int n = polar_program_length(p);
    for (int i = 0; i < w->n_runs; i++)
        if (polar_program_equal(&w->programs[i], p)) return i;
    if (w->n_runs == EVAL_MAX_RUNS || !(w->calls[w->n_runs] = malloc((size_t)n * sizeof(int)))) {
        cli_fail("out of memory");
        return -1;
    }
    w->programs[w->n_runs] = *p;
    w->paths[w->n_runs].calls = w->calls[w->n_runs];
    w->paths[w->n_runs].n = polar_program_calls(p, w->calls[w->n_runs], n);
    memset(&w->attempts[w->n_runs], 0, sizeof *w->attempts);
    return w->n_runs++;
}

/* Menu entries in the order of picking. */
static int rank(const eval *r, const eval_work *w, int point, int k, int *out) {
    double cost[POLAR_MAX_MENU];
    for (int i = 0; i < r->n_menu; i++) cost[i] = cli_cost(&r->menu[i], &r->methods[0].program);
    return scores_rank(w->probability, cost, r->n_menu, r->scores.points[point].price, k, out);
}

/* What the encoder's pass over the question costs: all its tokens and one that ends them, as far as they are read. */
static int count_encoder(eval *r, const cli_question *q) {
    const int most = r->about.max_tokens;
    polar_error e;
    int n;
    if (!r->encoder) return 0;
    if (polar_tokenize(r->encoder, q->text, strlen(q->text), POLAR_TOKENIZE_BOS, NULL, 0, &n, &e))
        return cli_fail("%s", e.message);
    r->work->encoder_calls = r->encoder_calls * (most && n >= most ? most : (double)n + 1);
    return 0;
}

/* The first programs that execute something, of which `n_published` are among the first k of all; the identity if there
 * is none. */
static int decode(eval *r, const cli_question *q) {
    eval_work *w = r->work;
    const int k = r->scores.k < POLAR_MAX_BEAMS ? r->scores.k : POLAR_MAX_BEAMS;
    const int n_beams = CLI_VALUE(r->o->decode.n_beams);
    polar_candidate beams[POLAR_MAX_BEAMS];
    polar_error e;
    int n, most = r->o->published && n_beams > k ? n_beams : k;
    if (most > POLAR_MAX_BEAMS) most = POLAR_MAX_BEAMS;
    w->n_decoded = w->n_published = 0;
    if (polar_picker_pick(r->decoder, q->text, strlen(q->text), w->prompt, w->n_prompt, beams, most, &n, &e))
        return cli_fail("%s", e.message);
    w->first_is_empty = n && !polar_program_length(&beams[0].program);
    for (int i = 0; i < n && w->n_decoded < k; i++) {
        if (!polar_program_length(&beams[i].program)) continue;
        w->n_published += i < k;
        w->decoded[w->n_decoded++] = beams[i];
    }
    if (n && !w->n_decoded) {
        w->decoded[w->n_decoded] = beams[0];
        w->decoded[w->n_decoded++].program = r->methods[0].program;
    }
    return 0;
}

/* What the predictor says about the question. */
static int predict(eval *r, const cli_question *q) {
    eval_work *w = r->work;
    polar_candidate unused[1];
    polar_error e;
    int n;
    if (r->picker) {
        if (polar_picker_pick(r->picker, q->text, strlen(q->text), w->prompt, w->n_prompt, unused, 1, &n, &e))
            return cli_fail("%s", e.message);
        memcpy(w->probability, polar_picker_menu(r->picker), (size_t)r->n_menu * sizeof *w->probability);
    }
    if (r->decoder && decode(r, q)) return 1;
    return count_encoder(r, q);
}

static uint64_t seed_of(const eval *r, const char *question) {
    return cli_hash(r->o->seed ^ CLI_HASH, question, strlen(question));
}

/* The program of a method that runs one; 0 if the predictor gave none. */
static int program_of(const eval *r, const cli_question *q, const eval_method *m, polar_program *p) {
    const eval_work *w = r->work;
    polar_error e;
    int pick = 0;
    if (m->kind == EVAL_FIXED) {
        *p = m->program;
        return 1;
    }
    if (m->kind == EVAL_RIVAL) {
        rivals_program(&r->rivals, m->point, p);
        return 1;
    }
    if (m->point >= 0) {
        rank(r, w, m->point, 1, &pick);
        *p = r->menu[pick];
    } else if (w->n_decoded) *p = w->decoded[0].program;
    else *p = r->methods[0].program;
    if (m->kind == EVAL_RANDOM) return !statistics_shuffle(p, seed_of(r, q->text), p, &e);
    /* in a looped model layers are left out of one loop */
    if (m->kind == EVAL_INFLUENCE &&
        (r->scores.n_calls == r->info.n_layer || polar_program_length(p) < r->info.n_layer))
        return !statistics_skip(r->influence, r->info.n_layer, polar_program_length(p), p, &e);
    return 1;
}

/* The runs that a method needs. */
static int list_runs(eval *r, const cli_question *q, int method) {
    eval_work *w = r->work;
    const eval_method *m = &r->methods[method];
    int *list = w->lists[method], n = 0, picks[POLAR_MAX_MENU];
    polar_program p;
    switch (m->kind) {
    case EVAL_VOTE:
    case EVAL_CASCADE:
    case EVAL_ORACLE:
        n = rank(r, w, 0, m->kind == EVAL_CASCADE ? r->n_cascade : r->scores.k, picks);
        for (int i = 0; i < n; i++) list[i] = w->menu[picks[i]];
        break;
    case EVAL_DECODED_VOTE:
    case EVAL_DECODED_ORACLE:
        for (; n < w->n_decoded; n++) list[n] = w->decoded_runs[n];
        break;
    case EVAL_PUBLISHED:
        if (!w->first_is_empty && w->n_published) list[n++] = w->decoded_runs[0];
        break;
    case EVAL_PUBLISHED_ORACLE:
        for (; n < w->n_published; n++) list[n] = w->decoded_runs[n];
        break;
    case EVAL_COVERAGE:
        for (; n < r->n_menu; n++) list[n] = w->menu[n];
        break;
    default:
        if (program_of(r, q, m, &p)) list[n++] = run_of(w, &p);
    }
    if (!n) list[n++] = 0; /* no program was decoded: the identity, which always is run 0 */
    w->n_listed[method] = n;
    return list[0] < 0;
}

/* --- one question: answers ----------------------------------------------------------------------------------- */

/* Runs the identity, whose answer is a guess for the others, then those. */
static int run_programs(eval *r) {
    eval_work *w = r->work;
    int status = evaluator_run(&r->e, w->paths, 1, w->attempts);
    if (!status && w->n_runs > 1) status = evaluator_run(&r->e, w->paths + 1, w->n_runs - 1, w->attempts + 1);
    for (int i = 0; i < w->n_runs && !status; i++) {
        const attempt *a = &w->attempts[i];
        char text[EVAL_TEXT];
        polar_program_format(&w->programs[i], text, sizeof text);
        w->runs[i].program = scores_program(&r->scores, text);
        w->runs[i].calls = w->paths[i].n;
        w->runs[i].right = a->reward > 0;
        w->runs[i].tokens = a->n_tokens;
        w->runs[i].limit = a->stop == POLAR_STOP_LIMIT;
        w->runs[i].confidence = a->n_tokens > 0 ? a->logprob / a->n_tokens : POLAR_NO_CONFIDENCE;
        if (w->runs[i].program < 0) status = cli_fail("out of memory");
    }
    return status;
}

/* Index in the list of the answer that most give; 0, the first, if none gives one that counts. */
static int vote(const eval *r, const cli_question *q, int method, int *winner) {
    const eval_work *w = r->work;
    polar_ballot ballots[POLAR_MAX_MENU];
    polar_error e;
    const int decoded = r->methods[method].kind == EVAL_DECODED_VOTE, n = w->n_listed[method];
    int picks[POLAR_MAX_MENU] = {0};
    if (!decoded) rank(r, w, 0, n, picks);
    for (int i = 0; i < n; i++) {
        const attempt *a = &w->attempts[w->lists[method][i]];
        ballots[i].text = a->answer;
        ballots[i].length = strlen(a->answer);
        ballots[i].weight = !decoded ? w->probability[picks[i]] : i < w->n_decoded ? exp(w->decoded[i].score) : 1;
        ballots[i].stop = a->stop;
    }
    if (polar_vote(ballots, n, &q->judge, winner, NULL, &e)) return cli_fail("%s", e.message);
    if (*winner < 0) *winner = 0;
    return 0;
}

static int cascade(const eval *r, int method, int *n_run) {
    const eval_work *w = r->work;
    polar_cascade_run runs[POLAR_MAX_MENU];
    for (int i = 0; i < w->n_listed[method]; i++) {
        runs[i].confidence = w->runs[w->lists[method][i]].confidence;
        runs[i].cost = 0;
        runs[i].correct = 0;
    }
    return polar_cascade(runs, w->n_listed[method], r->threshold, n_run);
}

/* The chosen run, and what the method cost. */
static int decide(const eval *r, const cli_question *q, int method) {
    eval_work *w = r->work;
    const eval_kind kind = r->methods[method].kind;
    const int *list = w->lists[method];
    score_result *x = &w->results[method];
    score_question cost = {0};
    scores s = r->scores;
    int chosen = 0, n = w->n_listed[method];
    if (kind == EVAL_VOTE || kind == EVAL_DECODED_VOTE) {
        if (vote(r, q, method, &chosen)) return 1;
    } else if (kind == EVAL_CASCADE) chosen = cascade(r, method, &n);
    else if (n > 1) /* oracles */
        while (chosen < n - 1 && !w->runs[list[chosen]].right) chosen++;
    w->n_listed[method] = n;
    x->chosen = list[chosen];
    x->right = w->runs[list[chosen]].right;
    if ((kind == EVAL_PUBLISHED && w->first_is_empty) || (kind == EVAL_PUBLISHED_ORACLE && !w->n_published))
        x->right = 0;
    x->seconds = -1;
    cost.n_prompt = w->n_prompt;
    cost.encoder_calls = w->encoder_calls;
    cost.runs = w->runs;
    if (kind == EVAL_FIXED || kind == EVAL_RANDOM || kind == EVAL_INFLUENCE || kind == EVAL_COVERAGE ||
        kind == EVAL_RIVAL)
        s.feature_calls = 0, cost.encoder_calls = 0; /* no features */
    scores_cost(&s, &cost, list, n, x);
    if (kind == EVAL_RIVAL) {
        polar_program unused;
        x->calls += rivals_program(&r->rivals, r->methods[method].point, &unused);
    }
    return 0;
}

/* --- one question: wall time --------------------------------------------------------------------------------- */

static int is_timed(const eval *r, int index) {
    const int n = r->questions.n, stride = r->o->time > 0 && n > r->o->time ? n / r->o->time : 1;
    return r->o->time > 0 && index % stride == 0 && index / stride < r->o->time;
}

static polar_generate_options generation(const eval *r) {
    polar_generate_options g = {0};
    g.max_tokens = r->o->evaluate.tokens;
    g.stop = r->o->evaluate.stop.n ? r->o->evaluate.stop.items : NULL;
    return g;
}

/* One program by itself, from prompt to answer. */
static polar_status clock_program(const eval *r, const polar_program *p, polar_error *e) {
    const polar_generate_options g = generation(r);
    polar_result result;
    if (polar_session_set_program(r->clock, p, e)) return e->status;
    return polar_session_generate(r->clock, r->work->prompt, r->work->n_prompt, &g, NULL, 0, &result, e);
}

/* Features, prediction, and as many programs as the method needs. */
static polar_status clock_picks(const eval *r, const cli_question *q, const eval_method *m, polar_error *e) {
    const eval_work *w = r->work;
    const int decoded = m->kind == EVAL_DECODED || m->kind == EVAL_DECODED_VOTE;
    const int k = m->kind == EVAL_CASCADE ? r->n_cascade : r->scores.k;
    polar_picker *picker = decoded ? r->decoder : r->picker;
    polar_candidate candidates[POLAR_MAX_MENU];
    polar_answer_options o = {0};
    polar_picked picked;
    double cost[POLAR_MAX_MENU];
    int n, ranked[POLAR_MAX_MENU];
    const size_t length = strlen(q->text);
    o.method = m->kind == EVAL_CASCADE ? POLAR_METHOD_CASCADE
               : m->kind == EVAL_VOTE || m->kind == EVAL_DECODED_VOTE ? POLAR_METHOD_VOTE : POLAR_METHOD_FIRST;
    o.threshold = r->threshold < 0 ? r->threshold : r->threshold <= 0 ? -DBL_MIN : 0;
    o.generate = generation(r);
    o.judge = &q->judge;
    o.prefix = r->e.prompt.prefilled ? "\\boxed{" : NULL;
    if (polar_picker_pick(picker, q->text, length, w->prompt, w->n_prompt, candidates,
                          decoded ? (k < POLAR_MAX_BEAMS ? k : POLAR_MAX_BEAMS) : 1, &n, e))
        return e->status;
    if (!decoded) {
        const double *probability = polar_picker_menu(picker);
        for (int i = 0; i < r->n_menu; i++) cost[i] = cli_cost(&r->menu[i], &r->methods[0].program);
        n = scores_rank(probability, cost, r->n_menu, r->scores.points[m->point >= 0 ? m->point : 0].price,
                        o.method == POLAR_METHOD_FIRST ? 1 : k, ranked);
        for (int i = 0; i < n; i++) {
            candidates[i].program = r->menu[ranked[i]];
            candidates[i].score = log(probability[ranked[i]]);
        }
    }
    if (!n) return clock_program(r, &w->programs[0], e);
    return polar_picker_answer(picker, w->prompt, w->n_prompt, candidates, n, &o, NULL, 0, &picked, e);
}

/* All methods in turn, beginning with another one each time. */
static int time_methods(const eval *r, const cli_question *q, int index) {
    eval_work *w = r->work;
    for (int i = 0; i < r->scores.n_methods; i++) {
        const int k = (i + index) % r->scores.n_methods;
        const eval_method *m = &r->methods[k];
        polar_error e = {POLAR_OK, ""};
        polar_status status;
        const double start = cli_seconds();
        if (r->scores.methods[k].needs_answer || m->kind == EVAL_PUBLISHED || m->kind == EVAL_RIVAL) continue;
        if (m->kind == EVAL_FIXED || m->kind == EVAL_RANDOM || m->kind == EVAL_INFLUENCE)
            status = clock_program(r, &w->programs[w->lists[k][0]], &e);
        else status = clock_picks(r, q, m, &e);
        if (status && status != POLAR_NUMERIC)
            return cli_fail("timing of %s: %s", r->scores.methods[k].name, e.message);
        w->results[k].seconds = cli_seconds() - start;
    }
    return 0;
}

/* --- records -------------------------------------------------------------------------------------------------- */

static void put_run(FILE *f, const eval *r, int i) {
    const attempt *a = &r->work->attempts[i];
    fprintf(f, "{\"program\":");
    json_put_text(f, r->scores.programs.items[r->work->runs[i].program]);
    fprintf(f, ",\"calls\":%d,\"answer\":", r->work->paths[i].n);
    json_put_text(f, a->answer);
    fprintf(f, ",\"right\":%d,\"tokens\":%d,\"stop\":\"%s\",\"logprob\":", a->reward > 0, a->n_tokens,
            cli_stop_name(a->stop));
    json_put_double(f, a->logprob);
    fputc('}', f);
}

static void put_result(FILE *f, const eval *r, int method) {
    const score_result *x = &r->work->results[method];
    fprintf(f, "{\"runs\":");
    json_put_ints(f, r->work->lists[method], (size_t)r->work->n_listed[method]);
    fprintf(f, ",\"chosen\":%d,\"right\":%d,\"calls\":", x->chosen, x->right);
    json_put_double(f, x->calls);
    fprintf(f, ",\"positions\":");
    json_put_double(f, x->positions);
    fputc('}', f);
}

static void put_record(FILE *f, const eval *r, int index) {
    const cli_question *q = &r->questions.items[index];
    const eval_work *w = r->work;
    fprintf(f, "{\"index\":%d,\"question\":", index);
    json_put_text(f, q->text);
    fprintf(f, ",\"gt_ans\":");
    json_put_text(f, q->answer);
    fprintf(f, ",\"sample_info\":");
    cli_question_put_info(f, q, NULL);
    fprintf(f, ",\"n_prompt\":%d", w->n_prompt);
    if (r->encoder) json_put_number(f, "encoder_calls", w->encoder_calls);
    fprintf(f, ",\"runs\":[");
    for (int i = 0; i < w->n_runs; i++) {
        if (i) fputc(',', f);
        put_run(f, r, i);
    }
    fprintf(f, "],\"menu\":");
    json_put_ints(f, w->menu, (size_t)r->n_menu);
    if (r->picker) {
        fprintf(f, ",\"probability\":[");
        for (int i = 0; i < r->n_menu; i++) {
            if (i) fputc(',', f);
            json_put_double(f, w->probability[i]);
        }
        fputc(']', f);
    }
    fprintf(f, ",\"results\":[");
    for (int i = 0; i < r->scores.n_methods; i++) {
        if (i) fputc(',', f);
        put_result(f, r, i);
    }
    fputc(']', f);
    if (is_timed(r, index)) {
        fprintf(f, ",\"seconds\":[");
        for (int i = 0; i < r->scores.n_methods; i++) {
            if (i) fputc(',', f);
            if (w->results[i].seconds < 0) fprintf(f, "null");
            else json_put_double(f, w->results[i].seconds);
        }
        fputc(']', f);
    }
    fputc('}', f);
}

/* A record in the journal, new or found there. */
static int on_record(void *user, polar_span text, int64_t at) {
    eval *r = user;
    const char *error;
    size_t where;
    int index = -1, status;
    json_document *d = json_read(text.text, text.length, &error, &where);
    if (d) json_int(json_get(json_root(d), "index"), &index);
    if (index < 0 || index >= r->questions.n || !shard_has(r->shard, index) || r->places[index].length)
        status = cli_fail("%s: a record belongs to no question of this run, or is there twice", r->journal.path);
    else if (!(status = scores_add(&r->scores, json_root(d), r->journal.path ? r->journal.path : "polar eval"))) {
        r->places[index].at = at;
        r->places[index].length = text.length;
    }
    json_free(d);
    return status;
}

static int do_question(eval *r, int index) {
    const cli_question *q = &r->questions.items[index];
    eval_work *w = r->work;
    cli_text text;
    int64_t at;
    FILE *f;
    int status;
    clear_work(w);
    if ((status = cli_prompt_tokens(r->model, &r->e.prompt.how, q->text, &w->prompt, &w->n_prompt)) ||
        (status = evaluator_question(&r->e, q)) || (status = predict(r, q)) ||
        (r->o->rivals && (status = rivals_question(&r->rivals, w->prompt, w->n_prompt))))
        return status;
    status = run_of(w, &r->methods[0].program) < 0;
    for (int i = 0; i < r->n_menu && !status; i++) status = (w->menu[i] = run_of(w, &r->menu[i])) < 0;
    for (int i = 0; i < w->n_decoded && !status; i++)
        status = (w->decoded_runs[i] = run_of(w, &w->decoded[i].program)) < 0;
    for (int i = 0; i < r->scores.n_methods && !status; i++) status = list_runs(r, q, i);
    if (!status) status = run_programs(r);
    for (int i = 0; i < r->scores.n_methods && !status; i++) status = decide(r, q, i);
    if (!status && is_timed(r, index)) status = time_methods(r, q, index);
    if (status) return status;
    if ((f = cli_text_open(&text))) put_record(f, r, index);
    status = cli_text_close(&text) || cli_journal_add(&r->journal, text.text, text.length, &at) ||
             on_record(r, (polar_span){text.text, text.length}, at);
    cli_text_free(&text);
    return status;
}

/* --- the header ----------------------------------------------------------------------------------------------- */

static void put_parts(FILE *f, const eval *r) {
    fprintf(f, "{\"kind\":\"eval\",\"version\":\"%s\",", polar_version());
    cli_put_model(f, r->model);
    fprintf(f, ",\"questions\":{\"file\":");
    json_put_text(f, cli_base_name(r->file));
    fprintf(f, ",\"n\":%d,\"checksum\":\"%016llx\"}", r->questions.n, (unsigned long long)r->questions.checksum);
    if (r->o->rivals) fprintf(f, ",\"rivals\":\"%016llx\"", (unsigned long long)r->rivals.checksum);
    if (!r->predictor) return;
    fprintf(f, ",\"predictor\":{\"file\":");
    json_put_text(f, cli_base_name(r->o->predictor));
    fprintf(f, ",\"checksum\":\"%016llx\",\"feature\":\"%s\",\"feature_layer\":%d,\"n_params\":%lld}",
            (unsigned long long)r->predictor_checksum, polar_feature_name(r->about.feature), r->about.feature_layer,
            (long long)r->about.n_params);
}

static void put_settings(FILE *f, const eval *r) {
    const eval_options *o = r->o;
    fprintf(f, ",\"settings\":{");
    evaluate_put(f, &o->evaluate, &r->e.prompt);
    fprintf(f, ",\"seed\":%llu,\"time\":%d}", (unsigned long long)o->seed, o->time);
    if (r->decoder) {
        const polar_beam_options *d = &o->decode;
        fprintf(f, ",\"decode\":{\"beams\":%d", d->n_beams > r->scores.k ? d->n_beams : r->scores.k);
        json_put_number(f, "threshold", CLI_VALUE(d->threshold));
        json_put_number(f, "length_penalty", d->length_penalty);
        if (o->published) fprintf(f, ",\"published\":true");
        fputc('}', f);
    }
    fprintf(f, ",\"feature_calls\":%d,\"k\":%d", r->scores.feature_calls, r->scores.k);
    if (r->scores.prompt_calls) fprintf(f, ",\"prompt_calls\":%d", r->scores.prompt_calls);
    if (r->threshold <= 0) json_put_number(f, "threshold", r->threshold);
}

static void put_methods(FILE *f, const eval *r) {
    const scores *s = &r->scores;
    fprintf(f, ",\"menu\":[");
    for (int i = 0; i < r->n_menu; i++) {
        char text[EVAL_TEXT];
        polar_program_format(&r->menu[i], text, sizeof text);
        fprintf(f, i ? ",\"%s\"" : "\"%s\"", text);
    }
    fprintf(f, "],\"points\":[");
    for (int i = 0; i < s->n_points; i++) {
        fprintf(f, "%s{\"name\":\"%s\"", i ? "," : "", s->points[i].name);
        json_put_number(f, "price", s->points[i].price);
        fputc('}', f);
    }
    fprintf(f, "],\"methods\":[");
    for (int i = 0; i < s->n_methods; i++) {
        const eval_method *m = &r->methods[i];
        fprintf(f, i ? ",{\"name\":" : "{\"name\":");
        json_put_text(f, s->methods[i].name);
        fprintf(f, ",\"note\":\"%s\"", s->methods[i].note);
        if (s->methods[i].point >= 0) fprintf(f, ",\"point\":%d", s->methods[i].point);
        if (s->methods[i].needs_answer) fprintf(f, ",\"needs_answer\":true");
        if (s->methods[i].is_rival) fprintf(f, ",\"rival\":true");
        if (m->kind == EVAL_FIXED) {
            char text[EVAL_TEXT];
            polar_program_format(&m->program, text, sizeof text);
            fprintf(f, ",\"program\":\"%s\"", text);
        }
        fputc('}', f);
    }
    fputc(']', f);
}

/* "shard" comes last, so that joining only has to take it away. */
static int make_header(eval *r) {
    FILE *f = cli_text_open(&r->header);
    if (f) {
        put_parts(f, r);
        put_settings(f, r);
        put_methods(f, r);
        if (r->has_influence) {
            fprintf(f, ",\"influence\":[");
            for (int i = 0; i < r->info.n_layer; i++) {
                if (i) fputc(',', f);
                json_put_double(f, r->influence[i]);
            }
            fputc(']', f);
        }
        if (r->has_fit) {
            fprintf(f, ",\"validation\":");
            score_fit_put(f, &r->fit);
        }
        if (r->shard.n > 1) fprintf(f, ",\"shard\":[%d,%d]", r->shard.index, r->shard.n);
        fputc('}', f);
    }
    return cli_text_close(&r->header);
}

/* --- preparation ---------------------------------------------------------------------------------------------- */

static uint64_t file_checksum(const char *path, int *failed) {
    size_t n;
    char *text = cli_read_file(path, &n);
    const uint64_t h = text ? cli_hash(CLI_HASH, text, n) : 0;
    *failed = !text;
    free(text);
    return h;
}

static int open_picker(eval *r, polar_pick_head head, polar_picker **out) {
    polar_pick_options o = {0};
    polar_error e;
    o.head = head;
    o.beams = r->o->decode;
    o.beams.keep_empty = r->o->published;
    o.encoder = r->encoder;
    o.any_model = r->o->any_model;
    o.session.n_ctx = r->n_ctx;
    o.session.runner = &r->runner;
    if (cli_kv_type(r->o->evaluate.kv_type, &o.session.kv_type)) return 2;
    return polar_picker_create(out, r->model, r->predictor, &o, &e) ? cli_fail("%s", e.message) : 0;
}

static int open_predictor(eval *r) {
    const eval_options *o = r->o;
    polar_error e;
    int status, failed;
    if (!o->predictor) return o->encoder ? cli_usage("--encoder needs a predictor: -p FILE") : 0;
    if (polar_predictor_open(&r->predictor, o->predictor, NULL, &e)) return cli_fail_open(o->predictor, e.message);
    polar_predictor_get_info(r->predictor, &r->about);
    r->predictor_checksum = file_checksum(o->predictor, &failed);
    if (failed || (o->encoder && (status = cli_open_model(o->encoder, o->evaluate.cpu, 0, &r->encoder)))) return 1;
    if (polar_predictor_check(r->predictor, r->model, r->encoder, o->any_model, &e))
        return cli_fail("%s: %s", o->predictor, e.message);
    r->n_menu = r->about.n_menu;
    for (int i = 0; i < r->n_menu; i++) r->menu[i] = *polar_predictor_program(r->predictor, i);
    if (r->about.feature == POLAR_FEATURE_HIDDEN) r->scores.feature_calls = r->about.feature_layer;
    if (r->encoder) r->encoder_calls = evaluate_work(r->encoder) / evaluate_work(r->model) * r->info.n_layer;
    if (r->about.cascade_programs) r->threshold = r->about.cascade_threshold;
    r->n_cascade = r->about.cascade_programs;
    return 0;
}

/* Fingerprints of the questions of an evaluation or a search. */
static int read_questions(const char *path, uint64_t **list, int *n) {
    cli_questions qs;
    int status = cli_questions_read(&qs, path, 0, 0);
    if (status) return status;
    status = cli_fingerprints(&qs, list, n);
    cli_questions_free(&qs);
    return status;
}

/* The menu that a search recorded, and its questions; an evaluation has one, too, but not by its own questions. */
static int read_menu(eval *r, const char *path) {
    cli_objects o;
    const char *error = "";
    size_t at;
    json_document *d = NULL;
    const json *menu;
    int status = 0;
    if (!cli_objects_open(&o, path)) return 1;
    if (o.header.text) d = json_read(o.header.text, o.header.length, &error, &at);
    menu = json_get(d ? json_root(d) : NULL, "menu");
    if (!menu || menu->type != JSON_ARRAY || !menu->length || menu->length > POLAR_MAX_MENU)
        status = cli_fail("%s: its header holds no menu; polar search --menu makes one", path);
    for (const json *v = status ? NULL : menu->child; v && !status; v = v->next) {
        polar_error e;
        if (v->type != JSON_STRING || polar_program_parse(&r->menu[r->n_menu++], r->info.n_layer, v->text, &e))
            status = cli_fail("%s: menu: %s", path, v->type == JSON_STRING ? e.message : "not a text");
    }
    if (!status && !json_get_text(json_root(d), "kind")) status = read_questions(path, &r->searched, &r->n_searched);
    json_free(d);
    cli_objects_close(&o);
    return status;
}

/* Questions that training or validation saw tell nothing about others. */
static int check_overlap(const eval *r, const char *path, const char *use, const uint64_t *list, int n_list) {
    int n = 0, first = 0;
    for (int i = 0; i < r->questions.n; i++)
        if (cli_has_fingerprint(list, n_list, cli_fingerprint(r->questions.items[i].text)) && !n++)
            first = r->questions.items[i].line;
    if (!n) return 0;
    if (!r->o->allow_overlap)
        return cli_fail("%s:%d: this question and %d more of %d are among those that %s was %s: what they give says "
                        "nothing about others; --allow-overlap evaluates them all the same",
                        r->file, first, n - 1, r->questions.n, path, use);
    cli_note("%d of %d questions are among those that %s was %s", n, r->questions.n, path, use);
    return 0;
}

static int check_questions(const eval *r) {
    const char *files[] = {r->predictor && !r->about.n_questions ? r->o->predictor : NULL,
                           r->n_validated ? NULL : r->o->validation, r->n_searched ? NULL : r->o->menu};
    int status = 0;
    for (int i = 0; i < 3; i++)
        if (files[i]) cli_note("%s: no record of its questions; overlap is not checked", files[i]);
    if (r->predictor)
        status = check_overlap(r, r->o->predictor, "trained on", r->about.questions, r->about.n_questions);
    if (!status) status = check_overlap(r, r->o->validation, "made from", r->validated, r->n_validated);
    return status ? status : check_overlap(r, r->o->menu, "chosen from", r->searched, r->n_searched);
}

/* --validation: an evaluation of other questions, or what --fit wrote of one. */
static int read_validation(eval *r) {
    const char *path = r->o->validation, *error = "", *checksum;
    json_document *d = NULL;
    char mine[24], model[24];
    scores s;
    size_t n, at;
    int status;
    cli_objects o;
    if (!path) return 0;
    if (!cli_objects_open(&o, path)) return 1;
    n = o.header.length;
    cli_objects_close(&o);
    if (n) {
        if (!(status = scores_read(&s, path, &d)) && !(status = scores_fit(&s, &r->fit))) {
            const json *questions = json_get(json_root(d), "questions");
            const char *file = json_get_text(questions, "file"), *sum = json_get_text(questions, "checksum");
            snprintf(r->fit.file, sizeof r->fit.file, "%s", file ? file : path);
            snprintf(r->fit.questions, sizeof r->fit.questions, "%s", sum ? sum : "");
            status = read_questions(path, &r->validated, &r->n_validated);
        }
        scores_free(&s);
    } else {
        char *text = cli_read_file(path, &n);
        if (!text) return 1;
        d = json_read(text, n, &error, &at);
        free(text);
        status = score_fit_read(&r->fit, json_get(d ? json_root(d) : NULL, "fit"), path);
        if (!status)
            status = cli_read_fingerprints(json_get_text(json_root(d), "questions"), path, &r->validated,
                                           &r->n_validated);
    }
    snprintf(mine, sizeof mine, "%016llx", (unsigned long long)r->questions.checksum);
    snprintf(model, sizeof model, "%016llx", (unsigned long long)polar_model_checksum(r->model));
    checksum = json_get_text(json_get(d ? json_root(d) : NULL, "model"), "checksum");
    if (!status && (!checksum || strcmp(checksum, model)) && !r->o->any_model)
        status = cli_fail("%s was made with another model: its checksum is %s there and %s here", path,
                          checksum ? checksum : "not set", model);
    if (!status && !strcmp(r->fit.questions, mine) && !r->o->allow_overlap)
        status = cli_fail("%s holds the very questions that are to be evaluated: "
                          "what is chosen on them says nothing about others",
                          path);
    json_free(d);
    r->has_fit = !status;
    return status;
}

static int set_points(eval *r) {
    scores *s = &r->scores;
    const eval_options *o = r->o;
    if (!r->about.n_menu) return o->prices.n ? cli_usage("--price needs a predictor with a menu") : 0;
    if (o->prices.n > SCORE_POINTS) return cli_usage("--price: at most %d times", SCORE_POINTS);
    for (int i = 0; i < o->prices.n; i++) {
        char *end;
        const double price = strtod(o->prices.items[i], &end);
        if (*end || end == o->prices.items[i] || !(price >= 0 && price <= 1e6))
            return cli_usage("--price %s: expected a number >= 0", o->prices.items[i]);
        if (o->prices.n > 1) snprintf(s->points[i].name, sizeof s->points->name, "%.6g", price);
        s->points[s->n_points++].price = price;
    }
    if (!s->n_points && r->has_fit && r->fit.has_points) {
        s->n_points = 2;
        strcpy(s->points[0].name, "gain");
        strcpy(s->points[1].name, "save");
        s->points[0].price = r->fit.gain.price;
        s->points[1].price = r->fit.save.price;
    } else if (!s->n_points) {
        s->n_points = 1;
        s->points[0].price = r->about.price;
    }
    if (r->has_fit && r->fit.cascade_programs) {
        r->threshold = r->fit.threshold;
        r->n_cascade = r->fit.cascade_programs;
    }
    if (o->k) r->n_cascade = r->scores.k;
    return 0;
}

#define INFLUENCE_PROMPTS 16

static int open_rivals(eval *r) {
    polar_kv_type kv_type;
    int status;
    if (!r->o->rivals) return 0;
    if (r->e.is_alone) return cli_usage("--rivals: without --prompt-program, and with --kv per-call");
    if ((status = cli_kv_type(r->o->evaluate.kv_type, &kv_type)) ||
        (status = rivals_open(&r->rivals, r->model, &r->e.prompt, r->n_ctx, kv_type, &r->runner)) ||
        (status = rivals_read(&r->rivals, r->o->rivals, r->o->any_model)))
        return status;
    if (!r->rivals.n_questions) cli_note("%s: no record of its questions; overlap is not checked", r->o->rivals);
    return check_overlap(r, r->o->rivals, "made from", r->rivals.questions, r->rivals.n_questions);
}

/* Block influence: that of --rivals, or on the first prompts; no answer is used. */
static int measure_influence(eval *r) {
    polar_session_options so = {0};
    int32_t *prompts[INFLUENCE_PROMPTS] = {NULL};
    int lengths[INFLUENCE_PROMPTS], n = 0, status = 0;
    polar_error e;
    if (r->o->rivals) memcpy(r->influence, r->rivals.influence, sizeof r->influence);
    r->has_influence = r->o->rivals != NULL;
    if (r->has_influence || (!r->predictor && !r->o->skips.n)) return 0;
    so.runner = &r->runner;
    while (n < INFLUENCE_PROMPTS && n < r->questions.n && !status) {
        status = cli_prompt_tokens(r->model, &r->e.prompt.how, r->questions.items[n].text, &prompts[n], &lengths[n]);
        n++;
    }
    if (!status && statistics_influence(r->model, (const int32_t *const *)prompts, lengths, n, &so, r->influence, &e))
        status = cli_fail("%s", e.message);
    for (int i = 0; i < n; i++) free(prompts[i]);
    r->has_influence = !status;
    return status;
}

static int on_progress(void *user, double done) {
    (void)user, (void)done;
    return cli_interrupted();
}

static int open_evaluator(eval *r) {
    polar_many_options m = {0};
    int status;
    m.runner = &r->runner;
    m.progress = on_progress;
    r->o->evaluate.prompt.predictor = r->predictor;
    if ((status = evaluator_open(&r->e, r->model, &r->o->evaluate, m))) return status;
    if (r->o->time && r->e.reward == REWARD_CHOICE)
        return cli_usage("--time measures answers that are generated, not --reward choice");
    if (r->o->time && r->e.is_alone) return cli_usage("--time: without --prompt-program, and with --kv per-call");
    if (r->o->evaluate.prompt_program) r->scores.prompt_calls = polar_program_length(&r->e.first);
    return 0;
}

static int open_clock(eval *r) {
    polar_session_options so = {0};
    polar_error e;
    if (!r->o->time) return 0;
    so.n_ctx = r->n_ctx;
    so.runner = &r->runner;
    so.max_calls = r->max_calls;
    if (cli_kv_type(r->o->evaluate.kv_type, &so.kv_type)) return 2;
    return polar_session_create(&r->clock, r->model, NULL, &so, &e) ? cli_fail("%s", e.message) : 0;
}

static int prepare(eval *r) {
    polar_program own;
    polar_error e;
    int status;
    if (!(r->work = calloc(1, sizeof *r->work))) return cli_fail("out of memory");
    if ((status = cli_open_model(r->o->model, r->o->evaluate.cpu, 0, &r->model)) ||
        (status = evaluate_questions(&r->questions, r->file, &r->o->evaluate)) ||
        (status = cli_questions_once(&r->questions, r->file)))
        return status;
    if (!r->questions.n) return cli_fail("%s: no questions", r->file);
    polar_model_get_info(r->model, &r->info);
    r->scores.n_layer = r->info.n_layer;
    own = cli_own_program(r->model);
    r->scores.n_calls = polar_program_length(&own);
    r->threshold = 1;
    if (polar_pool_create(&r->pool, r->o->evaluate.threads, NULL, &e)) return cli_fail("%s", e.message);
    r->runner = polar_pool_runner(r->pool);
    if ((status = open_predictor(r))) return status;
    if (r->o->menu && r->n_menu) return cli_usage("--menu: the predictor has a menu of its own");
    if (r->o->menu && (status = read_menu(r, r->o->menu))) return status;
    r->scores.n_menu = r->n_menu;
    r->scores.k = !r->predictor ? 0 : r->o->k ? r->o->k : 5;
    if (r->about.n_menu && !r->about.d_model && r->scores.k > r->n_menu) r->scores.k = r->n_menu;
    if ((status = open_evaluator(r)) ||
        (status = evaluator_room(&r->e, &r->o->evaluate, &r->questions, r->file, &r->n_ctx)))
        return status;
    if (r->shard.index > r->questions.n)
        return cli_fail("shard %d of %d is empty: there are %d questions", r->shard.index, r->shard.n,
                        r->questions.n);
    if ((status = read_validation(r)) || (status = check_questions(r)) || (status = set_points(r)) ||
        (status = open_rivals(r)) || (status = measure_influence(r)))
        return status;
    if (r->about.n_menu && (status = open_picker(r, POLAR_PICK_MENU, &r->picker))) return status;
    if (r->about.d_model && (status = open_picker(r, POLAR_PICK_PROGRAMS, &r->decoder))) return status;
    if ((status = add_methods(r)) || (status = open_clock(r)) || (status = make_header(r))) return status;
    return (r->places = calloc((size_t)r->questions.n, sizeof *r->places)) ? 0 : cli_fail("out of memory");
}

/* --- the run -------------------------------------------------------------------------------------------------- */

static int n_mine(const eval *r) {
    return shard_size(r->shard, r->questions.n);
}

static void tell(eval *r) {
    const scores *s = &r->scores;
    const double now = cli_seconds();
    const int done = s->n - r->n_before, terminal = cli_stderr_is_terminal();
    char line[160];
    int n, pick = 0;
    if (!terminal && now - r->told < 30) return;
    for (int i = s->n_methods - 1; i > 0; i--)
        if (!s->methods[i].needs_answer) pick = i;
    n = snprintf(line, sizeof line, "%d/%d questions, identity %.1f %%", s->n, n_mine(r),
                 100.0 * scores_figures(s, 0, NULL).right / s->n);
    if (pick)
        n += snprintf(line + n, sizeof line - (size_t)n, ", %.20s %.1f %%", s->methods[pick].name,
                      100.0 * scores_figures(s, pick, NULL).right / s->n);
    if (done)
        snprintf(line + n, sizeof line - (size_t)n, ", %.0f s left", (now - r->began) / done * (n_mine(r) - s->n));
    if (terminal) cli_progress("%s", line);
    else cli_note("%s", line);
    r->told = now;
}

/* The first pick, or the first method after the identity. */
static int shown_method(const eval *r) {
    return r->scores.n_methods > 1 && !r->scores.methods[1].needs_answer;
}

static int do_questions(eval *r) {
    int status = 0;
    r->began = r->told = cli_seconds();
    r->n_before = r->scores.n;
    if (r->n_before) cli_note("%s: going on after %d of %d questions", r->journal.path, r->n_before, n_mine(r));
    for (int i = r->shard.index - 1; i < r->questions.n && !status; i += r->shard.n) {
        if (r->places[i].length) continue;
        status = cli_interrupted() ? EVALUATE_CANCELLED : do_question(r, i);
        if (!status && r->shown < r->o->show) {
            const int pick = shown_method(r);
            cli_progress_end();
            eval_show(++r->shown, &r->questions.items[i], r->work, &r->scores.methods[pick], pick, r->scores.n_calls);
            if (r->shown == r->o->show) printf("\n");
        }
        if (!status) tell(r);
    }
    cli_progress_end();
    if (status == EVALUATE_CANCELLED)
        status = cli_fail("interrupted after %d of %d questions%s", r->scores.n, n_mine(r),
                          cli_journal_rest(&r->journal));
    return status;
}

static char *journal_record(void *user, int i, size_t *length) {
    eval *r = user;
    const place *p = &r->places[r->scores.questions[i].index];
    *length = p->length;
    return cli_journal_read(&r->journal, p->at, p->length);
}

static int write_fit(const eval *r) {
    cli_output out;
    score_fit fit;
    FILE *f;
    uint64_t *fingerprints;
    int n, status = scores_fit(&r->scores, &fit);
    if (status || (status = cli_fingerprints(&r->questions, &fingerprints, &n))) return status;
    snprintf(fit.file, sizeof fit.file, "%s", cli_base_name(r->file));
    snprintf(fit.questions, sizeof fit.questions, "%016llx", (unsigned long long)r->questions.checksum);
    if ((f = cli_output_open(&out, r->o->fit))) {
        fprintf(f,
                "{\"model\":{\"checksum\":\"%016llx\"},\n\"fit\":", (unsigned long long)polar_model_checksum(r->model));
        score_fit_put(f, &fit);
        fprintf(f, ",\n\"questions\":\"");
        cli_put_fingerprints(f, fingerprints, n);
        fprintf(f, "\"}\n");
    }
    free(fingerprints);
    return cli_output_close(&out, f != NULL) || !f;
}

static int print_scores(const eval *r, FILE *f, const scores *s) {
    int status;
    if (!r->o->json) return scores_print(f, s);
    status = scores_put(f, s);
    fputc('\n', f);
    return status;
}

/* An output of this very evaluation that is complete: 1 after its figures, 0 if there is none. */
static int is_complete(const eval *r) {
    const char *output = r->o->output;
    cli_objects o;
    json_document *header = NULL;
    scores s;
    FILE *f = cli_has_place(output) ? cli_fopen(output, "rb") : NULL;
    int same = f && getc(f) != EOF;
    if (f) fclose(f);
    if (!same || r->o->fit || !cli_objects_open(&o, output)) return 0;
    same = o.header.text && o.header.length == r->header.length &&
           !memcmp(o.header.text, r->header.text, r->header.length);
    cli_objects_close(&o);
    if (!same) return 0;
    same = !scores_read(&s, output, &header);
    if (same) {
        cli_note("%s is complete already", output);
        print_scores(r, stdout, &s);
    }
    json_free(header);
    scores_free(&s);
    return same;
}

static int go(eval *r) {
    const char *output = r->o->output;
    const int to_file = output && strcmp(output, "-");
    int status;
    if (is_complete(r)) return 0;
    if ((status = cli_journal_beside(&r->journal, output, r->header.text, on_record, r)) || (status = do_questions(r)) ||
        (status = scores_sort(&r->scores, "polar eval")))
        return status;
    if (output && (status = eval_write(output, r->header.text, &r->scores, r->scores.n, journal_record, r)))
        return status;
    if (r->o->fit && (status = write_fit(r))) return status;
    cli_journal_remove(&r->journal);
    return print_scores(r, output && !to_file ? stderr : stdout, &r->scores);
}

static void close_eval(eval *r) {
    cli_journal_close(&r->journal);
    cli_text_free(&r->header);
    polar_session_free(r->clock);
    rivals_close(&r->rivals);
    polar_picker_free(r->picker);
    polar_picker_free(r->decoder);
    evaluator_close(&r->e);
    polar_predictor_close(r->predictor);
    polar_model_close(r->encoder);
    if (r->work) clear_work(r->work);
    free(r->work);
    free(r->places);
    scores_free(&r->scores);
    free(r->validated);
    free(r->searched);
    cli_questions_free(&r->questions);
    polar_model_close(r->model);
    polar_pool_free(r->pool);
}

/* --- options -------------------------------------------------------------------------------------------------- */

static int check_options(const eval_options *o) {
    if (o->k < 0 || o->k > POLAR_MAX_BEAMS) return cli_usage("--top-k %d: expected 1..%d", o->k, POLAR_MAX_BEAMS);
    if (o->time < 0 || o->show < 0) return cli_usage("--time and --show expect numbers of questions");
    if (o->evaluate.shard && !o->output) return cli_usage("--shard needs an output: -o FILE");
    return 0;
}

int command_eval(cli *c) {
    eval_options o = {.evaluate = EVALUATE_DEFAULTS, .decode = {.threshold = 0.5, .n_beams = 5}};
    shard part;
    eval *r;
    int status;
    const cli_option options[] = {
        CLI_MODEL_OPTION(o.model),
        {"predictor", 'p', CLI_FILE, &o.predictor, "FILE",
         "its predictor; without one only programs that are named are run"},
        {"output", 'o', CLI_EVALUATION, &o.output, "FILE",
         "all records as JSON; FILE.journal holds what is done until it is complete"},
        {"validation", 0, CLI_FILE, &o.validation, "FILE",
         "evaluation of other questions, or its --fit: chooses prices and fixed programs"},
        {"fit", 0, CLI_FIT, &o.fit, "FILE", "write what these questions choose, for --validation"},
        {"price", 0, CLI_LIST, &o.prices, "X",
         "of a pass through all layers; may be repeated (validation's, else the file's)"},
        {"top-k", 'k', CLI_INT, &o.k, "K", "programs of vote, cascade and oracle (5)"},
        {"threshold", 0, CLI_NUMBER_OFF, &o.decode.threshold, "P", "decoding: probability that starts a segment (0.5)"},
        {"beams", 0, CLI_INT_OFF, &o.decode.n_beams, "N", "decoding: beams, at least K (5)"},
        {"length-penalty", 0, CLI_NUMBER, &o.decode.length_penalty, "X",
         "decoding: order by score - X * length (0)"},
        {"published", 0, CLI_FLAG, &o.published, NULL,
         "count pass@1 and pass@K as [P] does, too: a decoded program that skips all takes a place and is wrong"},
        {"program", 0, CLI_LIST, &o.programs, "PROGRAM", "run this one too, for all questions; may be repeated"},
        {"menu", 0, CLI_FILE, &o.menu, "FILE", "run the menu of a polar search --menu file, without a predictor"},
        {"rivals", 0, CLI_FILE, &o.rivals, "FILE",
         "run what polar rivals fitted, too, and compare the picks with it and the best single programs"},
        {"skip", 0, CLI_LIST, &o.skips, "N", "run without the N layers of least influence, too; may be repeated"},
        {"time", 0, CLI_INT, &o.time, "N", "on N of the questions, time each method by itself"},
        {"show", 0, CLI_INT, &o.show, "N", "show the first N questions as they are answered"},
        {"allow-overlap", 0, CLI_FLAG, &o.allow_overlap, NULL,
         "evaluate questions that predictor, --validation or --menu were made from, too"},
        {"merge", 0, CLI_FLAG, &o.merge, NULL, "join the outputs of shards: --merge A B ... -o ALL"},
        {"seed", 's', CLI_U64, &o.seed, "N", "of the random programs (0)"},
        {"encoder", 0, CLI_FILE, &o.encoder, "FILE", "model of the predictor's features, where it needs one"},
        {"any-model", 0, CLI_FLAG, &o.any_model, NULL,
         "the model may differ from that of the predictor in its quantization"},
        EVALUATE_OPTIONS(o.evaluate),
        {"json", 0, CLI_FLAG, &o.json, NULL, "print the summary as a JSON object"},
        {0}};
    if ((status = cli_read(c, options, 1, -1)) >= 0) return status;
    if (o.merge) return eval_merge(c->args, c->n_args, o.output, o.json);
    if (c->n_args > 1) return cli_usage("\"%s\" is one argument too many; --merge joins files", c->args[1]);
    if ((status = evaluate_check(&o.evaluate, &part)) || (status = check_options(&o))) return status;
    if (!(r = calloc(1, sizeof *r))) return cli_fail("out of memory");
    r->o = &o;
    r->file = c->args[0];
    r->shard = part;
    cli_catch_interrupts();
    status = prepare(r);
    if (!status) status = go(r);
    close_eval(r);
    free(r);
    return status;
}
