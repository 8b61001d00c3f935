/* The rivals of a predictor, as polar eval runs them.
 *
 * Early exit: the prompt goes through one layer after the other. After each, the output norm and head are applied to
 * the token where the answer begins; where the largest probability is above a threshold, no further layer runs, for
 * this token and all of the answer. A look costs the head's weights for one token. The looks are exact: a session of
 * one layer, whose hidden state is replaced by that behind layer i, gives the logits of the program of layers 0..i.
 *
 * Routers: what enters a layer decides whether it is skipped, executed or executed twice, and this holds for the
 * answer. Here the prompt goes through a path that has each layer twice, and the state behind a call that is not wanted
 * is replaced by the one before it: the same states as under the path that is decided on. */
#include "rivals.h"
#include "evaluate.h"

#include <math.h>

const char *const rivals_kinds[RIVAL_N_KIND] = {"program", "exit", "router"};
const char *const rivals_notes[RIVAL_N_KIND] = {
    "one program for all questions, chosen on validation questions",
    "layers up to the first whose head is sure of the answer's first token",
    "a small network at each layer skips it or repeats it (arXiv 2510.12773)"};

polar_program rivals_prefix(int n_layer, int n) {
    polar_program p = polar_program_identity(n_layer);
    if (n >= n_layer) return p;
    p.n_segments = 2;
    p.segments[0].length = (int16_t)n;
    p.segments[1] = p.segments[0];
    p.segments[1].start = (int16_t)n;
    p.segments[1].length = (int16_t)(n_layer - n);
    p.segments[1].times = 0;
    return p;
}

int rivals_program_of(const int *ops, int n_layer, polar_program *program) {
    int path[2 * POLAR_MAX_LAYER], n = 0;
    polar_error e;
    for (int i = 0; i < n_layer; i++)
        for (int k = 0; k < ops[i]; k++) path[n++] = i;
    return n && !polar_program_from_path(program, n_layer, path, n, 1, 2, &e);
}

/* --- looking behind a layer ----------------------------------------------------------------------------------- */

/* Keeps the state of the last token behind each layer. */
static int on_look(void *user, const polar_tap_info *t) {
    rivals *r = user;
    const size_t width = (size_t)t->n_embd;
    const int row = r->token - t->position;
    if (cli_interrupted()) return 1;
    if (t->layer >= 0 && row >= 0 && row < t->n_rows)
        memcpy(r->states + (size_t)t->layer * width, t->hidden + (size_t)row * width, width * sizeof *r->states);
    return 0;
}

/* The state whose logits are asked for, r->token of states. */
static int on_head(void *user, const polar_tap_info *t) {
    const rivals *r = user;
    const size_t width = (size_t)t->n_embd;
    if (t->layer >= 0) memcpy(t->hidden, r->states + (size_t)r->token * width, width * sizeof *r->states);
    return 0;
}

/* The largest probability. */
static double most_probable(const float *logits, int n) {
    double most = (double)logits[0], sum = 0;
    for (int i = 1; i < n; i++)
        if ((double)logits[i] > most) most = (double)logits[i];
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - most);
    return 1 / sum;
}

int rivals_look(rivals *r, const int32_t *prompt, int n) {
    polar_error e;
    r->token = n + r->n_prefix - 1;
    if (polar_session_truncate(r->looker, 0, &e) || polar_session_eval(r->looker, prompt, n, &e) ||
        (r->n_prefix && polar_session_eval(r->looker, r->prefix, r->n_prefix, &e)))
        return e.status == POLAR_CANCELLED ? EVALUATE_CANCELLED : cli_fail("%s", e.message);
    for (int i = 0; i < r->info.n_layer - 1; i++) {
        r->token = i;
        if (!polar_session_truncate(r->head, 0, &e) && !polar_session_eval(r->head, prompt, 1, &e))
            r->confidence[i] = most_probable(polar_session_logits(r->head, 0), r->info.n_vocab);
        else if (e.status == POLAR_NUMERIC) r->confidence[i] = 0; /* no answer can be given here */
        else return cli_fail("%s", e.message);
    }
    return 0;
}

int rivals_exit(const rivals *r, double threshold, int *looks) {
    int i = 0;
    *looks = 0;
    if (threshold >= 1) return r->info.n_layer;
    while (i < r->info.n_layer - 1 && !(r->confidence[i] > threshold)) i++;
    *looks = i + (i < r->info.n_layer - 1);
    return i + 1;
}

/* --- routing -------------------------------------------------------------------------------------------------- */

/* What enters a layer, `hidden` (n, width). */
static void decide(rivals *r, int layer, const float *hidden, int n) {
    const int width = r->info.n_embd;
    float *windows = r->windows;
    if (r->forced) windows += (size_t)layer * (size_t)r->n_windows * (size_t)width;
    router_pool(hidden, n, width, windows);
    r->ops[layer] = r->forced ? r->forced[layer] : router_decide(&r->router, layer, windows, r->n_windows);
}

static int on_route(void *user, const polar_tap_info *t) {
    rivals *r = user;
    const size_t bytes = (size_t)t->n_rows * (size_t)t->n_embd * sizeof *t->hidden;
    const int layer = t->layer, second = layer >= 0 && t->call % 2;
    float *before = r->saved[second];
    if (cli_interrupted()) return 1;
    if (layer >= 0 && r->ops[layer] <= second) memcpy(t->hidden, before, bytes); /* a call that is not wanted */
    if (second || layer < 0) {
        if (layer + 1 < r->info.n_layer) decide(r, layer + 1, t->hidden, t->n_rows);
        memcpy(r->saved[0], t->hidden, bytes);
    } else memcpy(r->saved[1], t->hidden, bytes);
    return 0;
}

int rivals_route(rivals *r, const int32_t *prompt, int n, const unsigned char *forced, float *windows) {
    float *own = NULL;
    polar_error e;
    polar_status status;
    r->n_windows = n < ROUTER_WINDOWS ? n : ROUTER_WINDOWS;
    r->forced = forced;
    if (!forced && !(own = malloc((size_t)r->n_windows * (size_t)r->info.n_embd * sizeof *own)))
        return cli_fail("out of memory");
    r->windows = forced ? windows : own;
    status = polar_session_truncate(r->runner, 0, &e) || polar_session_eval(r->runner, prompt, n, &e) ? e.status : 0;
    free(own);
    if (status == POLAR_NUMERIC) return 0; /* of the last logits, which nobody reads */
    if (status) return status == POLAR_CANCELLED ? EVALUATE_CANCELLED : cli_fail("%s", e.message);
    return 0;
}

/* --- questions ------------------------------------------------------------------------------------------------ */

int rivals_question(rivals *r, const int32_t *prompt, int n) {
    int looks = 0, status = 0;
    for (int i = 0; i < r->n; i++) looks |= r->items[i].kind == RIVAL_EXIT && r->items[i].threshold < 1;
    if (looks) status = rivals_look(r, prompt, n);
    return status || !r->router.weights ? status : rivals_route(r, prompt, n, NULL, NULL);
}

double rivals_program(const rivals *r, int index, polar_program *program) {
    const int n_layer = r->info.n_layer;
    int looks;
    switch (r->items[index].kind) {
    case RIVAL_EXIT:
        *program = rivals_prefix(n_layer, rivals_exit(r, r->items[index].threshold, &looks));
        return looks * r->look_calls;
    case RIVAL_ROUTER:
        if (!rivals_program_of(r->ops, n_layer, program)) *program = polar_program_identity(n_layer);
        return r->n_windows * r->router_calls;
    default:
        *program = r->items[index].program;
        return 0;
    }
}

/* --- opening -------------------------------------------------------------------------------------------------- */

/* Tokens that the drafts of different answers begin with. */
static int find_prefix(rivals *r, const cli_prompt *prompt) {
    int32_t *a = NULL, *b = NULL;
    int n = 0, m = 0, status = cli_prompt_draft(prompt, "7", &a, &n);
    if (!status) status = cli_prompt_draft(prompt, "B", &b, &m);
    for (int i = 0; !status && i < n && i < m && i < RIVALS_PREFIX && a[i] == b[i]; i++)
        r->prefix[r->n_prefix++] = a[i];
    free(a);
    free(b);
    return status;
}

static int open_session(rivals *r, polar_session **s, const polar_program *p, polar_session_options o, int n_ctx,
                        polar_tap tap) {
    polar_error e;
    o.n_ctx = o.n_batch = n_ctx; /* a prompt goes through a layer as a whole */
    o.tap = tap;
    o.tap_user = r;
    return polar_session_create(s, r->model, p, &o, &e) ? cli_fail("%s", e.message) : 0;
}

/* Multiply-adds of the output head for a token. */
static double head_work(const polar_model_info *i) {
    return (double)i->n_vocab * i->n_embd;
}

int rivals_open(rivals *r, const polar_model *model, const cli_prompt *prompt, int n_ctx, polar_kv_type kv_type,
                const polar_runner *runner) {
    polar_session_options so = {0};
    polar_program one, twice;
    size_t states;
    double layer;
    int ops[POLAR_MAX_LAYER];
    memset(r, 0, sizeof *r);
    r->model = model;
    polar_model_get_info(model, &r->info);
    if (cli_own_program(model).segments[0].times > 1) return cli_fail("rivals: they are not defined for looped models");
    layer = evaluate_work(model) / r->info.n_layer;
    r->look_calls = head_work(&r->info) / layer;
    r->router_calls = ((double)r->info.n_embd + ROUTER_OPS) * ROUTER_HIDDEN * r->info.n_layer / layer;
    if (find_prefix(r, prompt)) return 1;
    r->n_ctx = n_ctx;
    so.kv_type = kv_type;
    so.runner = runner;
    for (int i = 0; i < r->info.n_layer; i++) ops[i] = 2;
    rivals_program_of(ops, r->info.n_layer, &twice);
    one = rivals_prefix(r->info.n_layer, 1);
    states = (size_t)n_ctx * (size_t)r->info.n_embd;
    r->states = calloc((size_t)r->info.n_layer * (size_t)r->info.n_embd, sizeof *r->states);
    r->saved[0] = malloc(states * sizeof **r->saved);
    r->saved[1] = malloc(states * sizeof **r->saved);
    if (!r->states || !r->saved[0] || !r->saved[1]) return cli_fail("out of memory");
    return open_session(r, &r->looker, NULL, so, n_ctx + r->n_prefix, on_look) ||
           open_session(r, &r->head, &one, so, 1, on_head) || open_session(r, &r->runner, &twice, so, n_ctx, on_route);
}

void rivals_close(rivals *r) {
    polar_session_free(r->looker);
    polar_session_free(r->head);
    polar_session_free(r->runner);
    router_free(&r->router);
    free(r->states);
    free(r->saved[0]);
    free(r->saved[1]);
    free(r->questions);
}

/* --- the file ------------------------------------------------------------------------------------------------- */

/* 8 digits for each number, its bits, the high ones first. */
static int read_bits(const char *text, float *out, size_t n) {
    if (!text || strlen(text) != 8 * n || strspn(text, "0123456789abcdef") != 8 * n) return 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = 0;
        for (int k = 0; k < 8; k++) {
            const char c = text[8 * i + (size_t)k];
            bits = bits << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
        }
        memcpy(&out[i], &bits, sizeof bits);
        if (out[i] - out[i] != 0) return 0; /* no finite number */
    }
    return 1;
}

static int read_router(rivals *r, const json *v) {
    const json *layers = json_get(v, "layers"), *l;
    const size_t n = router_params(r->info.n_embd);
    float *at;
    if (!v) return 1;
    if (!layers || layers->type != JSON_ARRAY || layers->length != (size_t)r->info.n_layer ||
        !router_create(&r->router, r->info.n_layer, r->info.n_embd))
        return 0;
    at = r->router.weights;
    for (l = layers->child; l; l = l->next, at += n)
        if (l->type != JSON_STRING || !read_bits(l->text, at, n)) return 0;
    return 1;
}

static int read_item(rivals *r, const json *v) {
    rival *x = &r->items[r->n];
    const char *kind = json_get_text(v, "kind"), *name = json_get_text(v, "name");
    const char *program = json_get_text(v, "program");
    const json *threshold = json_get(v, "threshold");
    polar_error e;
    int k = 0;
    if (r->n == RIVALS_MAX || !kind || !name || strlen(name) >= sizeof x->name) return 0;
    while (k < RIVAL_N_KIND && strcmp(kind, rivals_kinds[k])) k++;
    x->kind = (rival_kind)k;
    strcpy(x->name, name);
    if (k == RIVAL_N_KIND || (k == RIVAL_EXIT && (!threshold || threshold->type != JSON_NUMBER)) ||
        (k == RIVAL_ROUTER && !r->router.weights) ||
        (k == RIVAL_PROGRAM && (!program || polar_program_parse(&x->program, r->info.n_layer, program, &e))))
        return 0;
    x->note = rivals_notes[k];
    x->threshold = threshold ? threshold->number : 0;
    r->n++;
    return 1;
}

static int read_all(rivals *r, const json *root, const char *path) {
    const json *list = json_get(root, "rivals"), *influence = json_get(root, "influence"), *v;
    int i = 0, ok = list && list->type == JSON_ARRAY && influence && influence->type == JSON_ARRAY &&
                    influence->length == (size_t)r->info.n_layer && read_router(r, json_get(root, "router"));
    for (v = ok ? influence->child : NULL; v && ok; v = v->next) {
        ok = v->type == JSON_NUMBER;
        r->influence[i++] = v->number;
    }
    for (v = ok ? list->child : NULL; v && ok; v = v->next) ok = read_item(r, v);
    if (!ok) return cli_fail("%s: no rivals of a model of %d layers of width %d: polar rivals writes such files", path,
                             r->info.n_layer, r->info.n_embd);
    return cli_read_fingerprints(json_get_text(root, "questions"), path, &r->questions, &r->n_questions);
}

int rivals_read(rivals *r, const char *path, int any_model) {
    const char *error = "", *checksum;
    size_t n, at;
    char *text = cli_read_file(path, &n), mine[20];
    json_document *d = text ? json_read(text, n, &error, &at) : NULL;
    int status = 0;
    if (!text) return 1;
    r->checksum = cli_hash(CLI_HASH, text, n);
    free(text);
    if (!d) return cli_fail("%s: byte %lld: %s", path, (long long)at, error);
    checksum = json_get_text(json_get(json_get(json_root(d), "polar"), "model"), "checksum");
    snprintf(mine, sizeof mine, "%016llx", (unsigned long long)polar_model_checksum(r->model));
    if ((!checksum || strcmp(checksum, mine)) && !any_model)
        status = cli_fail("%s was made with another model: its checksum is %s there and %s here", path,
                          checksum ? checksum : "not set", mine);
    if (!status) status = read_all(r, json_root(d), path);
    json_free(d);
    return status;
}
