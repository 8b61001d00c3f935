/* polar bench --predict and --train: what a prediction costs beside the prefill, and how fast a predictor is
 * trained. */
#include "bench_predict.h"

#include <time.h>

/* Seconds of the clock, or of processor time. */
static double now(const bench_predict_options *o) {
    return cli_time(o->cpu_time);
}

/* --- training --------------------------------------------------------------------------------------------- */

/* Paths of two random edits each, as those of a search. */
static void make_paths(polar_train_path *paths, int n, int n_layer, int *calls) {
    uint64_t r = 88172645463325252u;
    for (int i = 0; i < n; i++, calls += 2 * n_layer) {
        polar_program p = polar_program_identity(n_layer);
        int at = 0;
        p.n_segments = 0;
        while (at < n_layer) {
            int length;
            r ^= r << 13, r ^= r >> 7, r ^= r << 17;
            length = 1 + (int)(r >> 8 & 3);
            if (length > n_layer - at) length = n_layer - at;
            p.segments[p.n_segments].start = (int16_t)at;
            p.segments[p.n_segments].length = (int16_t)length;
            p.segments[p.n_segments].damped = 0;
            p.segments[p.n_segments++].times = (int16_t)(r >> 16 & 7 ? 1 : 2 * (r >> 19 & 1));
            at += length;
        }
        paths[i].path = calls;
        paths[i].length = polar_program_path(&p, calls, 2 * n_layer);
        paths[i].result = POLAR_RESULT_VALID;
    }
}

/* Questions that share their paths and features: only the time counts. */
typedef struct train_data {
    polar_train_question *questions;
    polar_train_path *paths;
    int *calls;
    float *features;
} train_data;

static void free_data(train_data *d) {
    free(d->questions);
    free(d->paths);
    free(d->calls);
    free(d->features);
}

static int make_data(train_data *d, int n_questions, int n_paths, int n_layer, int n_tokens, int q_dim) {
    const size_t n = (size_t)n_tokens * (size_t)q_dim;
    d->questions = malloc((size_t)n_questions * sizeof *d->questions);
    d->paths = malloc((size_t)n_paths * sizeof *d->paths);
    d->calls = malloc((size_t)n_paths * 2 * (size_t)n_layer * sizeof *d->calls);
    d->features = malloc(n * sizeof *d->features);
    if (!d->questions || !d->paths || !d->calls || !d->features) return cli_fail("out of memory");
    for (size_t i = 0; i < n; i++) d->features[i] = (float)(i * 2654435761u % 1000) / 500 - 1;
    make_paths(d->paths, n_paths, n_layer, d->calls);
    for (int q = 0; q < n_questions; q++) {
        const polar_train_question question = {d->features, n_tokens, n_paths, d->paths};
        d->questions[q] = question;
    }
    return 0;
}

#define EXAMPLES 65000
#define PATHS 50
int bench_train(const bench_predict_options *o) {
    const int n_layer = 28, n_tokens = 60, q_dim = o->q_dim, warm = 4;
    polar_train_options t = {0};
    polar_train_progress p;
    polar_trainer *trainer = NULL;
    train_data d = {NULL, NULL, NULL, NULL};
    polar_error e;
    double start, step, total, cpu;
    clock_t clock_start;
    int status = make_data(&d, EXAMPLES / PATHS, PATHS, n_layer, n_tokens, q_dim);
    t.n_threads = o->threads;
    t.group = o->group ? o->group : POLAR_OFF;
    t.d_model = 256, t.n_epochs = 10, t.batch = 128;
    t.validation = POLAR_OFF;
    if (!status && (polar_trainer_create(&trainer, n_layer, q_dim, d.questions, EXAMPLES / PATHS, &t, &e) ||
                    polar_trainer_run(trainer, warm, &e)))
        status = cli_fail("%s", e.message);
    start = cli_seconds();
    clock_start = clock();
    if (!status && polar_trainer_run(trainer, o->steps, &e)) status = cli_fail("%s", e.message);
    if (!status) {
        polar_trainer_get_progress(trainer, &p);
        step = (cli_seconds() - start) / o->steps;
        cpu = (double)(clock() - clock_start) / CLOCKS_PER_SEC / o->steps;
        total = step * p.n_steps;
        if (o->json) {
            printf("{\"examples\":%d,\"epochs\":%d,\"n_layer\":%d,\"tokens\":%d,\"q_dim\":%d,\"width\":%d,"
                   "\"batch\":%d,\"group\":%d,\"n_params\":%lu",
                   p.n_examples, t.n_epochs, n_layer, n_tokens, q_dim, t.d_model, t.batch, t.group,
                   (unsigned long)p.n_params);
            json_put_number(stdout, "step_s", step);
            json_put_number(stdout, "step_cpu_s", cpu);
            json_put_number(stdout, "total_s", total);
            printf(",\"steps\":%d,\"measured\":%d}\n", p.n_steps, o->steps);
        } else {
            printf("%d paths, %d epochs, %d layers, questions of %d tokens, features of %d, width %d, %lu parameters\n",
                   p.n_examples, t.n_epochs, n_layer, n_tokens, q_dim, t.d_model, (unsigned long)p.n_params);
            printf("%.4f s a step of %d paths (up to %d of a question share a pass), mean of %d steps\n", step, t.batch,
                   t.group, o->steps);
            printf("%.1f minutes for all %d steps, extrapolated; %.1f minutes of processor time\n", total / 60,
                   p.n_steps, cpu * p.n_steps / 60);
        }
    }
    polar_trainer_free(trainer);
    free_data(&d);
    return status;
}

/* --- predicting ------------------------------------------------------------------------------------------- */

/* A predictor with both heads, hardly trained: its weights do not change its speed. */
static int make_predictor(const polar_model_info *info, int layer, uint64_t fingerprint, polar_predictor **out) {
    enum { MENU = 16, QUESTIONS = 4 };
    polar_program menu[MENU];
    polar_train_options t = {0};
    polar_menu_options m = {0};
    polar_trainer *trainer = NULL;
    polar_predictor *first = NULL;
    polar_predictor_info i;
    polar_error e;
    train_data d = {NULL, NULL, NULL, NULL};
    int status = make_data(&d, QUESTIONS, 1, info->n_layer, 8, info->n_embd);
    t.n_threads = m.n_threads = 1;
    t.n_epochs = m.n_epochs = 1;
    t.validation = POLAR_OFF;
    for (int k = 0; k < MENU; k++) {
        menu[k] = polar_program_identity(info->n_layer);
        if (!k || k + 3 >= info->n_layer) continue;
        menu[k].n_segments = 3; /* loops of the layers k and k + 1 */
        menu[k].segments[0].length = (int16_t)k;
        menu[k].segments[1].start = (int16_t)k;
        menu[k].segments[1].length = 2;
        menu[k].segments[1].times = 2;
        menu[k].segments[2].start = (int16_t)(k + 2);
        menu[k].segments[2].length = (int16_t)(info->n_layer - k - 2);
        menu[k].segments[2].times = 1;
    }
    d.paths[0].length = info->n_layer;
    for (int l = 0; l < info->n_layer && !status; l++) d.calls[l] = l;
    if (!status &&
        (polar_trainer_create(&trainer, info->n_layer, info->n_embd, d.questions, QUESTIONS, &t, &e) ||
         polar_trainer_run(trainer, 0, &e) || polar_trainer_predictor(trainer, &first, &e) ||
         polar_menu_train(out, first, info->n_layer, info->n_embd, d.questions, QUESTIONS, menu, MENU, &m, NULL, &e)))
        status = cli_fail("%s", e.message);
    if (!status) {
        polar_predictor_get_info(*out, &i);
        i.feature = POLAR_FEATURE_HIDDEN;
        i.feature_layer = layer;
        i.max_tokens = 512;
        i.model_fingerprint = fingerprint;
        if (polar_predictor_set_info(*out, &i, &e)) status = cli_fail("%s", e.message);
    }
    polar_predictor_close(first);
    polar_trainer_free(trainer);
    free_data(&d);
    return status;
}

typedef struct predict_times {
    double prefill, guided; /* identity alone; picking and then the identity, which goes on from the peek */
    double menu, programs;  /* the networks on the features */
} predict_times;

/* The least of some rounds: the machine's other work only adds. */
static void keep_least(double *least, double x, int round) {
    if (!round || x < *least) *least = x;
}

static int measure(const bench_predict_options *o, polar_picker *picker, const polar_predictor *predictor,
                   polar_features *features, const int32_t *tokens, predict_times *t) {
    const int n = o->prompt;
    polar_session *s = polar_picker_session(picker);
    polar_program identity;
    polar_candidate c[POLAR_MAX_MENU];
    double probability[POLAR_MAX_MENU], start;
    float seg_logits[POLAR_MAX_LAYER], op_logits[POLAR_MAX_LAYER * 3];
    polar_error e;
    int32_t other[2] = {1, 2};
    identity = cli_own_program(polar_session_model(s));
    for (int r = -1; r < o->repeat; r++) { /* the first round only warms up */
        const float *rows;
        int n_rows, n_picked;
        /* a session that has forgotten the prompt */
        if (polar_session_set_program(s, &identity, &e) || polar_session_eval(s, other, 2, &e) ||
            polar_session_truncate(s, 0, &e))
            return cli_fail("%s", e.message);
        start = now(o);
        if (polar_session_eval(s, tokens, n, &e)) return cli_fail("%s", e.message);
        keep_least(&t->prefill, now(o) - start, r < 0 ? 0 : r);
        start = now(o);
        if (polar_picker_pick(picker, NULL, 0, tokens, n, c, POLAR_MAX_MENU, &n_picked, &e) ||
            polar_session_set_program(s, &identity, &e) || polar_session_eval(s, tokens, n, &e))
            return cli_fail("%s", e.message);
        keep_least(&t->guided, now(o) - start, r < 0 ? 0 : r);
        if (polar_features_make(features, NULL, 0, tokens, n, &rows, &n_rows, &e)) return cli_fail("%s", e.message);
        start = now(o);
        if (polar_predictor_menu(predictor, rows, n_rows, probability, &e)) return cli_fail("%s", e.message);
        keep_least(&t->menu, now(o) - start, r < 0 ? 0 : r);
        start = now(o);
        if (polar_predictor_logits(predictor, rows, n_rows, seg_logits, op_logits, &e))
            return cli_fail("%s", e.message);
        keep_least(&t->programs, now(o) - start, r < 0 ? 0 : r);
    }
    return 0;
}

static void print_times(const char *file, const bench_predict_options *o, const predict_times *t) {
    if (o->json) {
        printf("{\"model\":");
        json_put_text(stdout, file);
        printf(",\"prompt\":%d,\"layer\":%d", o->prompt, o->layer);
        json_put_number(stdout, "prefill_s", t->prefill);
        json_put_number(stdout, "menu_s", t->menu);
        json_put_number(stdout, "programs_s", t->programs);
        json_put_number(stdout, "guided_s", t->guided);
        json_put_number(stdout, "menu_percent", 100 * t->menu / t->prefill);
        json_put_number(stdout, "programs_percent", 100 * t->programs / t->prefill);
        json_put_number(stdout, "guided_percent", 100 * (t->guided / t->prefill - 1));
        printf("}\n");
        return;
    }
    printf("%s: prefill of %d tokens %.4f s%s (best of %d)\n", file, o->prompt, t->prefill,
           o->cpu_time ? " of processor time" : "", o->repeat);
    printf("  menu of 16 programs        %8.5f s   %6.3f %% of the prefill\n", t->menu, 100 * t->menu / t->prefill);
    printf("  network of programs        %8.5f s   %6.3f %%\n", t->programs, 100 * t->programs / t->prefill);
    printf("  peek, menu, rest of the identity's prefill  %.4f s   %+.2f %% measured end to end\n", t->guided,
           100 * (t->guided / t->prefill - 1));
}

int bench_predict(const char *file, const bench_predict_options *o) {
    polar_model *model = NULL;
    polar_predictor *predictor = NULL;
    polar_picker *picker = NULL;
    polar_features *features = NULL;
    polar_features_options f = {0};
    polar_pick_options pick = {0};
    polar_model_info info;
    polar_error e;
    predict_times t = {0, 0, 0, 0};
    int32_t *tokens = malloc((size_t)o->prompt * sizeof *tokens);
    int status = cli_open_model(file, o->cpu, 0, &model);
    if (!status && !tokens) status = cli_fail("out of memory");
    if (!status) {
        polar_model_get_info(model, &info);
        for (int i = 0; i < o->prompt; i++)
            tokens[i] = (int32_t)((uint32_t)(i + 1) * 2654435761u % (uint32_t)info.n_vocab);
        status = make_predictor(&info, o->layer, polar_model_fingerprint(model), &predictor);
    }
    f.layer = o->layer ? o->layer : POLAR_OFF;
    f.session.n_ctx = pick.session.n_ctx = o->prompt + 1;
    f.session.n_threads = pick.session.n_threads = o->threads;
    if (!status &&
        (polar_picker_create(&picker, model, predictor, &pick, &e) || polar_features_create(&features, model, &f, &e)))
        status = cli_fail("%s: %s", file, e.message);
    if (!status) status = measure(o, picker, predictor, features, tokens, &t);
    if (!status) print_times(file, o, &t);
    polar_features_free(features);
    polar_picker_free(picker);
    polar_predictor_close(predictor);
    polar_model_close(model);
    free(tokens);
    return status;
}
