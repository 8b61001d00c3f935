/* Early exit, routers and skipped layers, as polar rivals fits them and polar eval runs them: a model with random
 * weights answers multiple choice questions, and what the command says is computed again, in other ways. */
#include "inside.h"
#include "../examples/cli/json.c"
#include "../examples/cli/statistics.c"
#include "../examples/cli/router.c"
#include "test.h"
#include "command.h"
#include "fixture.h"

#if defined(POLAR_NO_TRAIN) || defined(POLAR_NO_SEARCH)
#error "these tests need training and search"
#endif

enum { N_QUESTIONS = 10, D = FX_LAYERS, WIDTH = 256 };
#define ASKED "-m m.gguf --reward choice --chat raw --prompt @prompt "

/* --- the network ---------------------------------------------------------------------------------------------- */

/* Logits by their definition, in doubles, with the C library's tanh. */
static void plain_logits(const float *weights, int width, const float *windows, int n, double *logits) {
    const float *a = weights + (size_t)width * ROUTER_HIDDEN, *v = a + ROUTER_HIDDEN, *b = v + 3 * ROUTER_HIDDEN;
    for (int c = 0; c < 3; c++) logits[c] = (double)b[c];
    for (int w = 0; w < n; w++)
        for (int j = 0; j < ROUTER_HIDDEN; j++) {
            double h = (double)a[j];
            for (int i = 0; i < width; i++)
                h += (double)windows[w * width + i] * (double)weights[i * ROUTER_HIDDEN + j];
            h = 0.5 * h * (1 + tanh(sqrt(2 / 3.14159265358979324) * (h + 0.044715 * h * h * h)));
            for (int c = 0; c < 3; c++) logits[c] += h * (double)v[3 * j + c] / n;
        }
}

static double plain_loss(const float *weights, int width, const float *windows, int n, int op, double weight) {
    double z[3], p;
    plain_logits(weights, width, windows, n, z);
    p = exp(z[op]) / (exp(z[0]) + exp(z[1]) + exp(z[2]));
    return -weight * (1 - p) * (1 - p) * log(p);
}

TEST(gradient) {
    enum { W = 5, N = 3 };
    static float weights[(W + 1) * ROUTER_HIDDEN + (ROUTER_HIDDEN + 1) * 3], gradient[sizeof weights / sizeof *weights];
    const int n = (int)router_params(W);
    float windows[N * W];
    uint64_t seed = 3;
    CHECK((size_t)n == sizeof weights / sizeof *weights);
    for (int i = 0; i < n; i++) weights[i] = rng_float(&seed) - 0.5f;
    for (int i = 0; i < N * W; i++) windows[i] = 4 * rng_float(&seed) - 2;
    for (int op = 0; op < 3; op++) {
        double most = 0, loss;
        memset(gradient, 0, sizeof gradient);
        loss = router_gradient(weights, W, windows, N, op, 0.7, gradient);
        CHECK(fabs(loss - plain_loss(weights, W, windows, N, op, 0.7)) < 1e-5 * (1 + loss));
        for (int i = 0; i < n; i++) most = fmax(most, fabs((double)gradient[i]));
        CHECK(most > 1e-3);
        for (int i = 0; i < n; i++) {
            const float w = weights[i];
            double up, step;
            weights[i] = w + 1e-2f;
            step = (double)weights[i];
            up = plain_loss(weights, W, windows, N, op, 0.7);
            weights[i] = w - 1e-2f;
            step -= (double)weights[i];
            up -= plain_loss(weights, W, windows, N, op, 0.7);
            weights[i] = w;
            CHECK(fabs(up / step - (double)gradient[i]) < 2e-3 * most);
        }
    }
}

/* Runs tasks from the last to the first. */
static void run_backward(void *user, int n, polar_task task, void *context) {
    (void)user;
    for (int i = n - 1; i >= 0; i--) task(context, i, 0);
}

static void run_forward(void *user, int n, polar_task task, void *context) {
    (void)user;
    for (int i = 0; i < n; i++) task(context, i, 0);
}

/* The operation of layer 0 follows from the first number, that of layer 1 from the second; numbers far from 0. */
TEST(training) {
    enum { N = 400, W = 4 };
    static float windows[N][2][2 * W];
    static unsigned char ops[N][2];
    static router_example examples[N];
    const polar_runner one = {run_forward, NULL, 1}, other = {run_backward, NULL, 1};
    const router_options o = {30, 16, 3e-3, 0.01, 0.1, 9};
    router a, b;
    double loss = -1;
    uint64_t seed = 4;
    int n_right = 0, n_tested = 0;
    for (int e = 0; e < N; e++) {
        for (int l = 0; l < 2; l++) {
            const float x = 2 * rng_float(&seed) - 1;
            ops[e][l] = (unsigned char)(x < -0.3f ? 0 : x > 0.5f ? 2 : 1);
            for (int k = 0; k < 2 * W; k++) windows[e][l][k] = 100 + 10 * (2 * rng_float(&seed) - 1);
            for (int w = 0; w < 2; w++) windows[e][l][w * W + l] = 100 + 10 * x + (w ? 1.0f : -1.0f);
        }
        examples[e].windows = windows[e][0];
        examples[e].ops = ops[e];
        examples[e].n = 2;
    }
    CHECK(router_create(&a, 2, W) && router_create(&b, 2, W));
    CHECK(router_train(&a, examples, 300, &o, &one, &loss) && router_train(&b, examples, 300, &o, &other, NULL));
    CHECK_BITS(a.weights, b.weights, 2 * router_params(W));
    CHECK(loss > 0 && loss < 0.2);
    for (int e = 300; e < N; e++)
        for (int l = 0; l < 2; l++, n_tested++) n_right += router_decide(&a, l, windows[e][l], 2) == ops[e][l];
    CHECK(n_right > 0.9 * n_tested);
    router_free(&a);
    router_free(&b);
}

TEST(windows) {
    float hidden[19 * 2], windows[16];
    for (int i = 0; i < 19; i++) hidden[2 * i] = (float)i, hidden[2 * i + 1] = 1;
    CHECK(router_pool(hidden, 3, 2, windows) == 3 && windows[0] == 0 && windows[4] == 2);
    CHECK(router_pool(hidden, 19, 2, windows) == 8);
    CHECK(windows[0] == 0.5f && windows[14] == 17); /* tokens 0-1, and 16-18 */
    for (int w = 0; w < 8; w++) CHECK(windows[2 * w + 1] == 1);
}

/* --- fixture -------------------------------------------------------------------------------------------------- */

static polar_model *model; /* of m.gguf */
static fixture model_file;

static void write_questions(const char *name, uint64_t seed) {
    FILE *f = open_there(name, "wb");
    for (int i = 0; i < N_QUESTIONS && f; i++)
        fprintf(f, "{\"question\":\"%c%c%c%c?\",\"options\":[\"u\",\"v\",\"w\",\"x\"],\"correct\":\"%c\"}\n",
                (int)('a' + rng_next(&seed) % 26), (int)('a' + rng_next(&seed) % 26), (int)('a' + seed % 20), 'a' + i,
                (int)('A' + rng_next(&seed) % 4));
    CHECK(f != NULL);
    if (f) fclose(f);
}

static int is_named(const polar_gguf_tensor *t, const char *end) {
    const size_t n = strlen(end);
    return t->name_length >= n && !memcmp(t->name + t->name_length - n, end, n);
}

/* Whose head is not sure of anything; whose layers change much, but for layer 2 if `idle`, which adds nothing. */
static fixture make_model(int idle) {
    fixture f = fixture_model("llama", QUANT_F32, 11);
    polar_gguf *g = NULL;
    polar_gguf_tensor t;
    polar_error e;
    int n = 0;
    CHECK(!polar_gguf_open_memory(&g, f.data, f.size, NULL, &e));
    for (int i = 0; g && polar_gguf_get_tensor(g, i, &t); i++) {
        uint8_t *data = f.data + ((const uint8_t *)t.data - f.data);
        const int adds = is_named(&t, "attn_output.weight") || is_named(&t, "ffn_down.weight");
        const int is_idle = adds && idle && t.name[4] == '2';
        const float scale = is_named(&t, "output_norm.weight") ? 0.06f : is_idle ? 0 : adds ? 6 : 1;
        for (size_t k = 0; k < t.bytes && scale != 1; k += 4)
            wr_u32(data + k, f32_bits(scale * bits_f32(rd_u32(data + k))));
        n += is_idle;
    }
    CHECK(n == (idle ? 2 : 0));
    polar_gguf_close(g);
    return f;
}

static void prepare(void) {
    fixture idle = make_model(1);
    model_file = make_model(0);
    write_file("m.gguf", model_file.data, model_file.size);
    write_file("idle.gguf", idle.data, idle.size);
    free(idle.data);
    model = fx_open(&model_file, POLAR_CPU_AUTO);
    write_questions("test.jsonl", 1);
    write_questions("validation.jsonl", 2);
    write_file("prompt", "{question}=", 11);
    write_text("boxed", "In \\boxed{X}: {question}=");
    write_text("found.json", "{\"samples\":[\n"
               "{\"question\":\"abc?\",\"gt_ans\":\"A\",\"final_valid_transitions\":[[0,1,2,3],[0,2,3],[3,0]],"
               "\"final_invalid_transitions\":[[0,1]]},\n"
               "{\"question\":\"xyzw, or?\",\"gt_ans\":\"B\",\"final_valid_transitions\":[[0,1,1,2,3],[0,1,2,1,2,3]],"
               "\"final_invalid_transitions\":[]},\n"
               "{\"question\":\"none\",\"gt_ans\":\"B\",\"final_valid_transitions\":[[0,1,2,1,2,3],[0,0,0,3]],"
               "\"final_invalid_transitions\":[[0]]}]}\n");
}

static json_document *parse_file(const char *name) {
    const char *problem = "";
    size_t n, at;
    char *text = read_back(name, &n);
    json_document *d = text ? json_read(text, n, &problem, &at) : NULL;
    CHECK_STR(problem, "");
    free(text);
    if (!d) exit(1);
    return d;
}

static const json *item(const json *v, size_t i) {
    v = v ? v->child : NULL;
    for (; v && i; i--) v = v->next;
    return v;
}

static double number(const json *v, const char *key) {
    v = json_get(v, key);
    return v && v->type == JSON_NUMBER ? v->number : -1e300;
}

static const char *text_of(const json *v, const char *key) {
    return json_get_text(v, key) ? json_get_text(v, key) : "";
}

/* The member of a list with a name. */
static const json *named(const json *list, const char *name, size_t *index) {
    *index = 0;
    for (const json *v = list ? list->child : NULL; v; v = v->next, ++*index)
        if (!strcmp(text_of(v, "name"), name)) return v;
    printf("no %s\n", name);
    CHECK(0);
    return NULL;
}

/* Of rivals written by hand: `items`, and a router with these weights, if any. */
static void write_rivals(const char *name, const char *items, const float *weights, uint64_t checksum) {
    FILE *f = open_there(name, "wb");
    CHECK(f != NULL);
    if (!f) return;
    fprintf(f, "{\"polar\":{\"kind\":\"rivals\",\"model\":{\"checksum\":\"%016llx\"}},\n\"influence\":[3,1,2,4],\n"
               "\"rivals\":[%s]", (unsigned long long)checksum, items);
    if (weights) fprintf(f, ",\n\"router\":{\"layers\":[");
    for (int l = 0; l < D && weights; l++) {
        fprintf(f, l ? ",\"" : "\"");
        for (size_t i = 0; i < router_params(WIDTH); i++)
            fprintf(f, "%08lx", (unsigned long)f32_bits(weights[(size_t)l * router_params(WIDTH) + i]));
        fprintf(f, "\"");
    }
    if (weights) fprintf(f, "]}");
    fprintf(f, "}\n");
    fclose(f);
}

static int prompt_tokens(const char *prompt, const char *question, int32_t *tokens) {
    const polar_prompt p = {prompt, NULL, POLAR_CHAT_RAW, 0};
    polar_error e;
    int n = 0;
    CHECK(!polar_prompt_tokenize(model, &p, question, tokens, 96, &n, &e));
    return n;
}

/* Multiply-adds of a layer and of the head, from the shape of the model: queries, output, keys and values of half the
 * width, three matrices of the feed-forward part; FX_VOCAB rows. */
#define LAYER_WORK (6.0 * WIDTH * WIDTH)
#define LOOK_CALLS (FX_VOCAB * WIDTH / LAYER_WORK)

/* --- early exit ----------------------------------------------------------------------------------------------- */

/* The largest probability behind layers 0..i by the model cut there. */
static double confidence(const int32_t *tokens, int n, int i) {
    polar_session *s = NULL;
    polar_program p;
    polar_error e;
    char text[24];
    double sum = 0;
    const float *logits;
    snprintf(text, sizeof text, "%d-3x0", i + 1);
    CHECK(!polar_program_parse(&p, D, text, &e) && !polar_session_create(&s, model, &p, NULL, &e) &&
          !polar_session_eval(s, tokens, n, &e));
    logits = s ? polar_session_logits(s, 0) : NULL;
    for (int k = 0; logits && k < FX_VOCAB; k++) {
        double most = 0;
        for (int j = 0; j < FX_VOCAB; j++) most = fmax(most, (double)(logits[j] - logits[k]));
        if (most > 0) continue; /* k is the likeliest */
        for (int j = 0; j < FX_VOCAB; j++) sum += exp((double)(logits[j] - logits[k]));
        break;
    }
    polar_session_free(s);
    return 1 / sum;
}

/* The tokens that are looked at, of a record's question: the prompt, and behind it how each answer begins. */
static int looked_at(const char *prompt, const json *record, int32_t *tokens) {
    int n = prompt_tokens(prompt, text_of(record, "question"), tokens), more = 0;
    const char *begin;
    polar_error e;
    CHECK(n == (int)number(record, "n_prompt"));
    begin = strstr(prompt, "boxed") ? " \\boxed{" : " "; /* each byte is a token */
    CHECK(!polar_tokenize(model, begin, strlen(begin), 0, tokens + n, 8, &more, &e) && more == (int)strlen(begin));
    return n + more;
}

/* What eval ran for one rival: as many first layers as the confidences (questions, D - 1) say, and its cost with the
 * looks. */
static void check_exits(const char *file, double threshold, const char *name, const double *confidences, int *seen) {
    json_document *d = parse_file(file);
    size_t m;
    memset(seen, 0, D * sizeof *seen);
    named(json_get(json_get(json_root(d), "polar"), "methods"), name, &m);
    for (const json *r = json_get(json_root(d), "samples")->child; r; r = r->next, confidences += D - 1) {
        const json *result = item(json_get(r, "results"), m);
        const json *chosen = item(json_get(r, "runs"), (size_t)number(result, "chosen"));
        int i = 0, looks = 0, most = 0;
        polar_program p;
        polar_error e;
        while (i < D - 1 && threshold < 1 && (looks++, !(confidences[i] > threshold))) i++;
        if (threshold >= 1) i = D - 1;
        CHECK(number(chosen, "calls") == i + 1);
        CHECK(!polar_program_parse(&p, D, text_of(chosen, "program"), &e) && polar_program_length(&p) == i + 1);
        for (int k = 0; k < p.n_segments; k++)
            if (p.segments[k].times) most = p.segments[k].start + p.segments[k].length;
        CHECK(most == i + 1); /* the first ones */
        CHECK(fabs(number(result, "calls") -
                   ((i + 1) * (number(r, "n_prompt") + number(chosen, "tokens")) + looks * LOOK_CALLS)) < 1e-9);
        seen[i]++;
    }
    json_free(d);
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#define EXITS "polar eval -m m.gguf --reward choice --chat raw --prompt @%s --rivals exit.json test.jsonl -o %s"

TEST(early_exit) {
    static const char *const prompts[] = {"{question}=", "In \\boxed{X}: {question}="};
    static const char *const files[] = {"prompt", "boxed"};
    for (int k = 0; k < 2; k++) {
        double confidences[N_QUESTIONS * (D - 1)], sorted[N_QUESTIONS * (D - 1)], middle = 0;
        char items[200], command[300];
        int seen[D], n = 0, most = 0;
        json_document *d;
        write_rivals("exit.json", "{\"name\":\"zero\",\"kind\":\"exit\",\"threshold\":0},"
                     "{\"name\":\"one\",\"kind\":\"exit\",\"threshold\":1}", NULL, polar_model_checksum(model));
        snprintf(command, sizeof command, EXITS, files[k], "ends.json");
        RUN(command, 0, "zero");
        d = parse_file("ends.json");
        for (const json *r = json_get(json_root(d), "samples")->child; r; r = r->next) {
            int32_t tokens[200];
            const int n_tokens = looked_at(prompts[k], r, tokens);
            for (int i = 0; i < D - 1; i++) confidences[n++] = confidence(tokens, n_tokens, i);
        }
        json_free(d);
        CHECK(n == N_QUESTIONS * (D - 1));
        check_exits("ends.json", 0, "zero", confidences, seen);
        CHECK(seen[0] == N_QUESTIONS);
        check_exits("ends.json", 1, "one", confidences, seen);
        CHECK(seen[D - 1] == N_QUESTIONS);
        /* between two of them, where the questions stop behind as many different layers as possible */
        memcpy(sorted, confidences, sizeof sorted);
        qsort(sorted, (size_t)n, sizeof *sorted, ascending);
        for (int j = 0; j < n - 1; j++) {
            const double x = (sorted[j] + sorted[j + 1]) / 2;
            int stops[D] = {0}, n_stops = 0;
            for (int q = 0; q < N_QUESTIONS; q++) {
                int i = 0;
                while (i < D - 1 && !(confidences[q * (D - 1) + i] > x)) i++;
                n_stops += !stops[i]++;
            }
            if (n_stops <= most) continue;
            most = n_stops;
            middle = x;
        }
        snprintf(items, sizeof items, "{\"name\":\"middle\",\"kind\":\"exit\",\"threshold\":%.17g}", middle);
        write_rivals("exit.json", items, NULL, polar_model_checksum(model));
        snprintf(command, sizeof command, EXITS, files[k], "middle.json");
        remove(there("ends.json"));
        remove(there("middle.json"));
        RUN(command, 0, "middle");
        check_exits("middle.json", middle, "middle", confidences, seen);
        CHECK(most >= 3); /* or little was tested */
    }
}

/* --- routers -------------------------------------------------------------------------------------------------- */

typedef struct last_state {
    float hidden[96 * WIDTH];
    int n;
} last_state;

static int keep_state(void *user, const polar_tap_info *t) {
    last_state *s = user;
    memcpy(s->hidden + (size_t)t->position * WIDTH, t->hidden, (size_t)t->n_rows * WIDTH * sizeof *t->hidden);
    s->n = t->position + t->n_rows;
    return 0;
}

/* The rows of the file's table. */
static void embed(const int32_t *tokens, int n, float *rows) {
    polar_gguf_tensor t;
    int i = 0;
    while (polar_model_tensor(model, i, &t) && (t.name_length != 17 || memcmp(t.name, "token_embd.weight", 17))) i++;
    CHECK(t.name_length == 17 && t.bytes == (size_t)FX_VOCAB * WIDTH * sizeof *rows);
    for (int k = 0; k < n; k++)
        memcpy(rows + (size_t)k * WIDTH, (const char *)t.data + (size_t)tokens[k] * WIDTH * sizeof *rows,
               WIDTH * sizeof *rows);
}

/* What enters a layer, by running what was decided before it from the start, and nothing else. */
static int decide_plainly(const float *weights, const int32_t *tokens, int n, const int *ops, int layer) {
    static last_state entering;
    int path[2 * D], n_path = 0, n_windows = n < 8 ? n : 8, best = 0;
    static float windows[8 * WIDTH];
    polar_session_options o = {0};
    polar_session *s = NULL;
    polar_error e;
    double z[3];
    for (int i = 0; i < layer; i++)
        for (int k = 0; k < ops[i]; k++) path[n_path++] = i;
    o.tap = keep_state;
    o.tap_user = &entering;
    o.max_calls = 2 * D;
    CHECK(!polar_session_create(&s, model, NULL, &o, &e));
    if (n_path) CHECK(!polar_session_set_path(s, path, n_path, &e) && !polar_session_eval(s, tokens, n, &e));
    else embed(tokens, n, entering.hidden);
    for (int w = 0; w < n_windows; w++) {
        const int from = n * w / n_windows, to = n * (w + 1) / n_windows;
        for (int i = 0; i < WIDTH; i++) {
            double sum = 0;
            for (int t = from; t < to; t++) sum += (double)entering.hidden[t * WIDTH + i];
            windows[w * WIDTH + i] = (float)(sum / (to - from));
        }
    }
    plain_logits(weights + (size_t)layer * router_params(WIDTH), WIDTH, windows, n_windows, z);
    for (int c = 1; c < 3; c++)
        if (z[c] > z[best]) best = c;
    polar_session_free(s);
    return best;
}

TEST(routing) {
    const size_t n_weights = D * router_params(WIDTH);
    float *weights = malloc(n_weights * sizeof *weights);
    uint64_t seed = 8;
    json_document *d;
    int seen[3] = {0};
    size_t m;
    for (size_t i = 0; i < n_weights && weights; i++) weights[i] = 0.2f * (rng_float(&seed) - 0.5f);
    CHECK(weights != NULL);
    if (!weights) return;
    write_rivals("router.json", "{\"name\":\"router\",\"kind\":\"router\"}", weights, polar_model_checksum(model));
    RUN("polar eval " ASKED "--rivals router.json test.jsonl -o routed.json", 0, "router");
    d = parse_file("routed.json");
    named(json_get(json_get(json_root(d), "polar"), "methods"), "router", &m);
    for (const json *r = json_get(json_root(d), "samples")->child; r; r = r->next) {
        const json *result = item(json_get(r, "results"), m);
        const json *chosen = item(json_get(r, "runs"), (size_t)number(result, "chosen"));
        int32_t tokens[200];
        const int n = prompt_tokens("{question}=", text_of(r, "question"), tokens);
        int ops[D], path[2 * D], n_path = 0, found[16], n_found;
        polar_program p;
        polar_error e;
        for (int i = 0; i < D; i++) {
            ops[i] = decide_plainly(weights, tokens, n, ops, i);
            seen[ops[i]]++;
            for (int k = 0; k < ops[i]; k++) path[n_path++] = i;
        }
        for (int i = 0; i < D && !n_path; i++) path[i] = i;
        if (!n_path) n_path = D; /* nothing left: the identity */
        CHECK(!polar_program_parse(&p, D, text_of(chosen, "program"), &e));
        n_found = polar_program_path(&p, found, 16);
        CHECK(n_found == n_path && !memcmp(found, path, (size_t)n_path * sizeof *path));
        CHECK(fabs(number(result, "calls") - (n_path * (n + number(chosen, "tokens")) +
                                              8 * D * (WIDTH + 3) * 128 / LAYER_WORK)) < 1e-9);
    }
    CHECK((seen[0] > 0) + (seen[1] > 0) + (seen[2] > 0) >= 2); /* or nothing was tested */
    json_free(d);
    free(weights);
}

/* --- fitting -------------------------------------------------------------------------------------------------- */

/* What was chosen gives on the validation questions what the file says, and no number of skipped layers is better. */
static void check_fit(const char *fitted, const char *evaluated) {
    json_document *d = parse_file(fitted), *x = parse_file(evaluated);
    const json *summary = json_get(json_get(json_root(x), "summary"), "methods");
    const json *list = json_get(json_root(d), "rivals");
    int n = 0;
    size_t at;
    for (const json *r = list ? list->child : NULL; r; r = r->next, n++) {
        const json *m = named(summary, text_of(r, "name"), &at);
        CHECK(number(m, "right") == number(r, "right") && fabs(number(m, "cost") - number(r, "cost")) < 1e-12);
        if (strstr(text_of(r, "name"), "gain")) CHECK(number(r, "cost") <= 1);
        if (strstr(text_of(r, "name"), "0.5")) CHECK(number(r, "cost") <= 0.5);
        if (strstr(text_of(r, "name"), "save") && number(r, "cost") < 1) CHECK(number(r, "lower") >= 0);
    }
    CHECK(n == 10);
    for (int k = 0; k < D; k++) {
        char name[16];
        const json *m;
        snprintf(name, sizeof name, k ? "skip %d" : "identity", k);
        m = named(summary, name, &at);
        CHECK(number(m, "right") <= number(named(list, "static gain", &at), "right"));
        if (number(m, "cost") <= 0.5)
            CHECK(number(m, "right") <= number(named(list, "static 0.5", &at), "right"));
    }
    json_free(d);
    json_free(x);
}

#define FIT "polar rivals " ASKED "found.json --validation validation.jsonl --epochs 2 --cost 0.5 "
#define ON_VALIDATION "polar eval " ASKED "validation.jsonl --allow-overlap --skip 1 --skip 2 --skip 3 "

TEST(fitted) {
    json_document *d;
    RUN("polar scan -m m.gguf --chat raw --prompt @prompt validation.jsonl -o scan.json --winners 2", 0, "programs on");
    RUN(FIT "--scan scan.json -o fit.json -t 2", 0, "routers from 2 questions");
    RUN(FIT "--scan scan.json -o again.json -t 1", 0, "router");
    CHECK(same_files("fit.json", "again.json"));
    RUN(ON_VALIDATION "--rivals fit.json -o fitted.json", 0, "static gain");
    check_fit("fit.json", "fitted.json");
    RUN("polar eval " ASKED "test.jsonl --rivals fit.json", 0, "exit save");
    d = parse_file("fit.json");
    CHECK(number(json_get(json_root(d), "router"), "labelled") == 2);
    json_free(d);
}

/* A layer that adds nothing has no influence, and is the first to be skipped: same answers at less cost. */
TEST(idle_layer) {
    json_document *d;
    const json *influence, *x;
    polar_program p;
    polar_error e;
    int layer = 0, skipped = 0;
    size_t at;
    RUN("polar rivals -m idle.gguf --reward choice --chat raw --prompt @prompt found.json "
        "--validation validation.jsonl --epochs 1 -o idle.json", 0, "static gain");
    d = parse_file("idle.json");
    influence = json_get(json_root(d), "influence");
    for (const json *v = influence ? influence->child : NULL; v; v = v->next, layer++)
        CHECK(layer == 2 ? fabs(v->number) < 1e-12 : v->number > 1e-4);
    CHECK(layer == D);
    x = named(json_get(json_root(d), "rivals"), "static gain", &at);
    CHECK(!polar_program_parse(&p, D, text_of(x, "program"), &e) && polar_program_length(&p) < D);
    for (int i = 0; i < p.n_segments; i++)
        skipped |= !p.segments[i].times && p.segments[i].start <= 2 && p.segments[i].start + p.segments[i].length > 2;
    CHECK(skipped);
    json_free(d);
}

/* --- what is refused ------------------------------------------------------------------------------------------ */

TEST(refused) {
    const uint64_t checksum = polar_model_checksum(model);
    fixture looped = fixture_model("ouro", QUANT_F32, 11);
    write_file("looped.gguf", looped.data, looped.size);
    free(looped.data);
    RUN("polar rivals -m looped.gguf --reward choice --chat raw --prompt @prompt found.json "
        "--validation validation.jsonl -o refused.json", 1, "not defined for looped models");
    RUN(FIT "-o refused.json -t 2", 0, "exit gain");
    RUN("polar eval " ASKED "validation.jsonl --rivals refused.json", 1, "among those that refused.json was made from");
    write_rivals("bad.json", "{\"name\":\"a\",\"kind\":\"exit\",\"threshold\":0}", NULL, checksum ^ 1);
    RUN("polar eval " ASKED "test.jsonl --rivals bad.json", 1, "made with another model");
    write_rivals("bad.json", "{\"name\":\"a\",\"kind\":\"exit\"}", NULL, checksum);
    RUN("polar eval " ASKED "test.jsonl --rivals bad.json", 1, "no rivals of a model of 4 layers");
    write_rivals("bad.json", "{\"name\":\"a\",\"kind\":\"router\"}", NULL, checksum);
    RUN("polar eval " ASKED "test.jsonl --rivals bad.json", 1, "no rivals of a model of 4 layers");
    write_rivals("bad.json", "{\"name\":\"a\",\"kind\":\"program\",\"program\":\"0-4\"}", NULL, checksum);
    RUN("polar eval " ASKED "test.jsonl --rivals bad.json", 1, "no rivals of a model of 4 layers");
    replace_text("refused.json", "cut.json", "\"layers\":[\n\"", "\"layers\":[\n\"0");
    RUN("polar eval " ASKED "test.jsonl --rivals cut.json", 1, "no rivals of a model of 4 layers");
    RUN("polar eval " ASKED "test.jsonl --rivals test.jsonl", 1, "test.jsonl");
    RUN("polar eval " ASKED "test.jsonl --rivals refused.json --kv last", 2, "");
    RUN("polar rivals " ASKED "found.json -o refused.json", 2, "--validation FILE");
    RUN("polar rivals " ASKED "found.json --validation validation.jsonl -o found.json", 2, "same file");
    write_text("mine.json", "{\"samples\":[]}");
    RUN(FIT "-o mine.json", 1, "not what polar rivals writes");
    RUN(FIT "--cost 2 -o refused.json", 2, "--cost 2");
    RUN(FIT "--scan found.json -o refused.json", 1, "no scan of this model");
    replace_text("scan.json", "other.json", "\"checksum\":\"", "\"checksum\":\"0");
    RUN(FIT "--scan other.json -o refused.json", 1, "no scan of this model");
}

static const test_case tests[] = {
    {"gradient", test_gradient}, {"training", test_training},     {"windows", test_windows},
    {"routing", test_routing},   {"early_exit", test_early_exit}, {"fitted", test_fitted},
    {"refused", test_refused},   {"idle_layer", test_idle_layer}};

int main(int argc, char **argv) {
    int failed;
    prepare();
    failed = test_main(tests, (int)(sizeof tests / sizeof *tests), argc, argv);
    polar_model_close(model);
    free(model_file.data);
    return failed;
}
