/* [pred]: the network and its decoding against the reference's numbers, kernels against their definition. */
#include "inside.h"
#include "test.h"
#include "oracle.h"

static void serial_run(void *user, int n, polar_task task, void *context) {
    (void)user;
    for (int i = n - 1; i >= 0; i--) task(context, i, 0);
}
static const polar_runner serial = {serial_run, NULL, 1};

/* A network of a shape in one block, with room for a pass of n_tokens. */
typedef struct test_net {
    pred_net net;
    pred_trace trace;
    pred_scratch scratch;
    float *params;
    void *block;
} test_net;

static void test_net_create(test_net *n, pred_shape shape, int n_tokens, polar_cpu cpu) {
    memset(n, 0, sizeof *n);
    for (int pass = 0; pass < 2; pass++) {
        layout l = layout_begin(n->block);
        n->net.shape = shape;
        n->net.kern = kern_find(cpu);
        n->net.kernels = mat_choose(n->net.kern);
        n->params = layout_place(&l, pred_count(&shape), sizeof(float));
        if (pass) n->net.w = pred_place(&shape, n->params, 0);
        pred_wire(&n->net);
        pred_place_packed(&n->net, &l, 0);
        pred_place_trace(&shape, &l, &n->trace, 1, (size_t)n_tokens);
        pred_place_scratch(&shape, &l, &n->scratch, (size_t)n_tokens);
        if (!pass) n->block = calloc(1, layout_bytes(&l));
    }
}

/* Reads a set's shape, features and weights; the oracle stands before its cases then. */
static float *oracle_set(oracle *o, test_net *n, polar_cpu cpu) {
    pred_shape s;
    pred_tensor list[PRED_MAX_TENSORS];
    float *table;
    uint64_t seed;
    float scale;
    size_t count;
    s.n_layer = (int)oracle_number(o, "D");
    s.d_model = (int)oracle_number(o, "d_model");
    s.q_dim = (int)oracle_number(o, "q_dim");
    s.n_head = (int)oracle_number(o, "heads");
    s.n_block = (int)oracle_number(o, "blocks");
    s.n_ff = (int)oracle_number(o, "ffn");
    test_net_create(n, s, 64, cpu);
    seed = (uint64_t)oracle_number(o, "seed");
    scale = (float)oracle_number(o, "scale");
    count = (size_t)oracle_number(o, "rows") * (size_t)s.q_dim;
    table = malloc(count * sizeof *table);
    oracle_fill(table, count, seed, scale, 0);
    for (int k = 0, n_tensors = pred_tensors(&s, list); k < n_tensors; k++) {
        oracle_find(o, "name", NULL);
        CHECK(!strncmp(strchr(o->at, '"') + 1, list[k].name, strlen(list[k].name)));
        seed = (uint64_t)oracle_number(o, "seed");
        scale = (float)oracle_number(o, "scale");
        oracle_fill(n->params + list[k].offset, list[k].count, seed, scale, (float)oracle_number(o, "shift"));
    }
    pred_pack(&n->net, &serial);
    return table;
}

/* The largest distance of a case's logits from those expected. */
static double oracle_case(oracle *o, const test_net *n, const float *table) {
    double expected[1024], worst = 0;
    const int n_layer = n->net.shape.n_layer, q_dim = n->net.shape.q_dim, first = (int)oracle_number(o, "first_row");
    pred_trace t = n->trace;
    t.n_tokens = (int)oracle_number(o, "T");
    t.features = table + (size_t)first * (size_t)q_dim;
    pred_forward(&n->net, &t, &n->scratch, NULL);
    oracle_find(o, "seg_logits", NULL);
    CHECK(oracle_numbers(o, expected, 1024) == n_layer);
    for (int k = 0; k < n_layer; k++) worst = fmax(worst, fabs((double)t.logits[4 * k] - expected[k]));
    oracle_find(o, "op_logits", NULL);
    CHECK(oracle_numbers(o, expected, 1024) == n_layer * 3);
    for (int k = 0; k < n_layer * 3; k++)
        worst = fmax(worst, fabs((double)t.logits[4 * (k / 3) + 1 + k % 3] - expected[k]));
    return worst;
}

TEST(logits) {
    oracle o, rest;
    if (!oracle_open(&o, "tests/vectors/predictor.json")) return;
    rest = o;
    for (int set = 0; set < 4; set++) {
        float bits[2][3][POLAR_MAX_LAYER * 4] = {{{0}}};
        /* without the instruction, fma is too slow for the large sets */
        for (int plain = 0; plain <= (set < 2); plain++) {
            test_net n;
            oracle r = rest;
            float *table = oracle_set(&r, &n, plain ? POLAR_CPU_PLAIN : POLAR_CPU_AUTO);
            for (int c = 0; c < 3; c++) {
                const double worst = oracle_case(&r, &n, table);
                CHECK(worst < 1e-5);
                memcpy(bits[plain][c], n.trace.logits, (size_t)n.net.shape.n_layer * 4 * sizeof(float));
            }
            free(table);
            free(n.block);
            if (plain == (set < 2)) rest = r;
        }
        if (set < 2) CHECK_BITS(&bits[0][0][0], &bits[1][0][0], COUNT(bits[0]) * COUNT(bits[0][0]));
    }
    free(o.text);
}

/* --- decoding --- */

/* One line of decode.jsonl: the beams with operations, sizes, scores and lengths. */
static void decode_case(oracle *o, const char *end) {
    double seg[POLAR_MAX_LAYER], op[POLAR_MAX_LAYER * 3], order[POLAR_MAX_BEAMS];
    float seg_logits[POLAR_MAX_LAYER], op_logits[POLAR_MAX_LAYER * 3];
    polar_candidate c[POLAR_MAX_BEAMS], ranked[POLAR_MAX_BEAMS];
    polar_beam_options options = {0};
    polar_error error;
    int n, n_layer;
    oracle_find(o, "seg_logits", end);
    n_layer = oracle_numbers(o, seg, POLAR_MAX_LAYER);
    oracle_find(o, "op_logits", end);
    CHECK(oracle_numbers(o, op, POLAR_MAX_LAYER * 3) == 3 * n_layer);
    for (int i = 0; i < n_layer; i++) seg_logits[i] = (float)seg[i];
    for (int i = 0; i < n_layer * 3; i++) op_logits[i] = (float)op[i];
    options.threshold = oracle_number(o, "threshold");
    if (options.threshold <= 0) options.threshold = POLAR_OFF;
    options.max_length = (int)oracle_number(o, "max_pack");
    options.n_beams = (int)oracle_number(o, "beam_size");
    options.n_ops = (int)oracle_number(o, "top_k_ops");
    CHECK(!polar_program_beams(seg_logits, op_logits, n_layer, &options, c, &n, &error));
    for (int b = 0; b < n; b++) {
        int path[POLAR_MAX_CALLS], length = polar_program_path(&c[b].program, path, POLAR_MAX_CALLS), same = 1;
        double expected[POLAR_MAX_CALLS], score;
        CHECK(oracle_find(o, "score", end));
        oracle_numbers(o, &score, 1);
        CHECK(fabs(score - c[b].score) <= 1e-6);
        oracle_find(o, "path", end);
        CHECK(oracle_numbers(o, expected, POLAR_MAX_CALLS) == length);
        for (int i = 0; i < length; i++) same &= expected[i] == path[i];
        CHECK(same);
    }
    CHECK(!strstr(o->at, "\"score\"") || strstr(o->at, "\"score\"") > end);
    while (oracle_find(o, "len_penalty", end)) {
        oracle_numbers(o, &options.length_penalty, 1);
        o->at--;
        CHECK(!polar_program_beams(seg_logits, op_logits, n_layer, &options, ranked, &n, &error));
        oracle_find(o, "order", end);
        CHECK(oracle_numbers(o, order, POLAR_MAX_BEAMS) == n);
        for (int b = 0; b < n; b++) CHECK(polar_program_equal(&ranked[b].program, &c[(int)order[b]].program));
    }
}

static void check_decoding(const char *path, int lines) {
    oracle o;
    int n = 0;
    if (!oracle_open(&o, path)) return;
    for (char *end; (end = strchr(o.at, '\n')); o.at = end + 1, n++) {
        *end = 0;
        decode_case(&o, end);
    }
    CHECK(n == lines);
    free(o.text);
}

TEST(decoding) {
    check_decoding("tests/vectors/decode.jsonl", 30);
}
TEST(all_decoding) {
    check_decoding("oracle/decode.jsonl", 355);
}

/* Allocations that fail, one after the other. */
typedef struct failing {
    int left, held;
} failing;
static void *failing_alloc(void *user, size_t n) {
    failing *f = user;
    void *p = f->left-- > 0 ? malloc(n) : NULL;
    f->held += p != NULL;
    return p;
}
static void failing_free(void *user, void *p, size_t n) {
    (void)n;
    ((failing *)user)->held--;
    free(p);
}

TEST(memory) {
    const pred_shape shape = {3, 4, 8, 2, 1, 5};
    failing f = {0, 0};
    const polar_allocator a = {failing_alloc, failing_free, &f};
    static uint8_t file[16384];
    size_t size;
    int done = 0;
    for (int n = 0; n < 100 && !done; n++) {
        polar_predictor *p = NULL, *q = NULL;
        float features[8] = {0}, seg[3], op[9];
        polar_error error = {POLAR_OK, ""};
        f.left = n;
        if (!pred_create(&p, 3, &shape, NULL, &a, &error) && !pred_ready(p, &error) &&
            !polar_predictor_logits(p, features, 2, seg, op, &error) &&
            !polar_predictor_save(p, file, sizeof file, &size, &error) &&
            !polar_predictor_open_memory(&q, file, size, &a, &error))
            done = 1;
        else CHECK(error.status == POLAR_MEMORY);
        polar_predictor_close(p);
        polar_predictor_close(q);
        CHECK(f.held == 0);
    }
    CHECK(done);
}

/* Nothing is written behind the room there is, and less than the whole file is an error. */
TEST(save) {
    const pred_shape shape = {3, 4, 8, 2, 1, 5};
    polar_predictor *p = NULL;
    polar_error error = {POLAR_OK, ""};
    size_t size = 0, n = 0;
    uint8_t *file;
    CHECK(!pred_create(&p, 3, &shape, NULL, NULL, &error) && !pred_ready(p, &error));
    CHECK(!polar_predictor_save(p, NULL, 0, &size, &error) && size % GGUF_ALIGNMENT == 0);
    file = malloc(size + 1);
    for (size_t room = 0; room <= size; room += room + 100 < size ? 97 : 1) {
        file[room] = 0x5a;
        CHECK(polar_predictor_save(p, file, room, &n, &error) == (room < size ? POLAR_ARGUMENT : POLAR_OK));
        CHECK(n == size && file[room] == 0x5a);
    }
    free(file);
    polar_predictor_close(p);
}

/* Whatever x86 kernels run the model, the predictor's products are not the plain ones: those take a hundred times
 * as long. */
TEST(instruction_sets) {
    CHECK(mat_choose(kern_find(POLAR_CPU_PLAIN)) == &mat_plain);
#ifdef POLAR_X86
    for (int cpu = 0; cpu < POLAR_N_CPU; cpu++)
        if (cpu != POLAR_CPU_PLAIN && kern_find((polar_cpu)cpu) && kern_find(POLAR_CPU_AVX2))
            CHECK(mat_choose(kern_find((polar_cpu)cpu)) != &mat_plain);
#endif
}

static const test_case tests[] = {
#define ROW(name) {#name, test_##name}
    ROW(logits), ROW(decoding), ROW(all_decoding), ROW(memory), ROW(save), ROW(instruction_sets),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
