/* [pred]: the network and its decoding against the reference's numbers, kernels against their definition. */
#include "../polar.c"
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
    if (!oracle_open(&o, "oracle/predictor.json")) return;
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
    polar_decode_options options = polar_decode_defaults();
    polar_error error;
    int n, n_layer;
    oracle_find(o, "seg_logits", end);
    n_layer = oracle_numbers(o, seg, POLAR_MAX_LAYER);
    oracle_find(o, "op_logits", end);
    CHECK(oracle_numbers(o, op, POLAR_MAX_LAYER * 3) == 3 * n_layer);
    for (int i = 0; i < n_layer; i++) seg_logits[i] = (float)seg[i];
    for (int i = 0; i < n_layer * 3; i++) op_logits[i] = (float)op[i];
    options.threshold = oracle_number(o, "threshold");
    options.max_length = (int)oracle_number(o, "max_pack");
    options.n_beams = (int)oracle_number(o, "beam_size");
    options.n_ops = (int)oracle_number(o, "top_k_ops");
    CHECK(!polar_decode(seg_logits, op_logits, n_layer, &options, c, &n, &error));
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
        CHECK(!polar_decode(seg_logits, op_logits, n_layer, &options, ranked, &n, &error));
        oracle_find(o, "order", end);
        CHECK(oracle_numbers(o, order, POLAR_MAX_BEAMS) == n);
        for (int b = 0; b < n; b++) CHECK(polar_program_equal(&ranked[b].program, &c[(int)order[b]].program));
    }
}

TEST(decoding) {
    oracle o;
    int n = 0;
    if (!oracle_open(&o, "oracle/decode.jsonl")) return;
    for (char *end; (end = strchr(o.at, '\n')); o.at = end + 1, n++) {
        *end = 0;
        decode_case(&o, end);
    }
    CHECK(n == 355);
    free(o.text);
}

/* --- import: files as the two public programs write them, made here --- */

typedef struct bytes {
    uint8_t at[1 << 17];
    size_t n;
} bytes;

static void put(bytes *b, const void *p, size_t n) {
    memcpy(b->at + b->n, p, n);
    b->n += n;
}
static void put_text(bytes *b, const char *s) {
    put(b, s, strlen(s));
}
static void put_number(bytes *b, uint64_t v, int n) {
    for (int i = 0; i < n; i++) b->at[b->n++] = (uint8_t)(i < 8 ? v >> 8 * i : 0);
}

static const pred_shape import_small = {3, 4, 8, 2, 1, 5};

/* Weight i of tensor k: a number that every type holds exactly. */
static float import_value(int k, size_t i) {
    return (float)((int)((i * 7 + (size_t)k * 13) % 31) - 15) / 8;
}

static void put_value(bytes *b, import_type type, float x) {
    if (type == IMPORT_F32) put_number(b, f32_bits(x), 4);
    if (type == IMPORT_F16) put_number(b, f32_f16(x), 2);
    if (type == IMPORT_BF16) put_number(b, f32_bits(x) >> 16, 2);
    if (type == IMPORT_F64) put_number(b, f64_bits((double)x), 8);
}

/* Names as in [R] or [P]. */
static const char *import_name(const pred_tensor *t, int queries) {
    return queries && !strcmp(t->name, "layer_embedding.weight") ? "layer_queries.weight" : t->name;
}

static void make_safetensors(bytes *b, import_type type, int queries, int encoder) {
    static const char *const types[] = {"F32", "F16", "BF16", "F64"};
    static bytes header;
    pred_tensor list[PRED_MAX_TENSORS];
    const int n = pred_tensors(&import_small, list);
    size_t at = 0;
    char line[256];
    header.n = b->n = 0;
    put_text(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    if (encoder) {
        put_text(&header, ",\"embedding_model.norm.weight\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}");
        at = 4;
    }
    for (int i = 0; i < n; i++) {
        const size_t bytes = list[i].count * import_type_bytes(type);
        char shape[32];
        text t = {line, sizeof line, 0};
        snprintf(shape, sizeof shape, list[i].rows ? "%d,%d" : "%.0d%d", list[i].rows, list[i].columns);
        text_format(&t, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                    import_name(&list[i], queries), types[type], shape, at, at + bytes);
        put_text(&header, line);
        at += bytes;
    }
    put_text(&header, "}");
    put_number(b, header.n, 8);
    put(b, header.at, header.n);
    if (encoder) put_number(b, 0, 4);
    for (int i = 0; i < n; i++)
        for (size_t k = 0; k < list[i].count; k++) put_value(b, type, import_value(i, k));
}

/* --- a zip of stored entries, with data descriptors and ZIP64 records as torch.save writes them --- */

typedef struct zip_out {
    bytes *file, directory;
    int n;
} zip_out;

static void zip_add(zip_out *z, const char *name, const void *data, size_t n) {
    const size_t at = z->file->n;
    put_number(z->file, 0x04034b50, 4);
    put_number(z->file, 0, 22); /* sizes come in the directory */
    put_number(z->file, strlen(name), 2);
    put_number(z->file, 3, 2);
    put_text(z->file, name);
    put_text(z->file, "FBx"); /* an extra field that aligns the data */
    put(z->file, data, n);
    put_number(&z->directory, 0x02014b50, 4);
    put_number(&z->directory, 0, 4);
    put_number(&z->directory, 8, 2);
    put_number(&z->directory, 0, 10);
    put_number(&z->directory, n, 4);
    put_number(&z->directory, n, 4);
    put_number(&z->directory, strlen(name), 2);
    put_number(&z->directory, 0, 12);
    put_number(&z->directory, at, 4);
    put_text(&z->directory, name);
    z->n++;
}

static void zip_end(zip_out *z, int zip64) {
    const size_t at = z->file->n;
    put(z->file, z->directory.at, z->directory.n);
    if (zip64) {
        const size_t end = z->file->n;
        put_number(z->file, 0x06064b50, 4);
        put_number(z->file, 44, 8);
        put_number(z->file, 0, 12);
        put_number(z->file, (uint64_t)z->n, 8);
        put_number(z->file, (uint64_t)z->n, 8);
        put_number(z->file, z->directory.n, 8);
        put_number(z->file, at, 8);
        put_number(z->file, 0x07064b50, 4);
        put_number(z->file, 0, 4);
        put_number(z->file, end, 8);
        put_number(z->file, 1, 4);
    }
    put_number(z->file, 0x06054b50, 4);
    put_number(z->file, 0, 4);
    put_number(z->file, (uint64_t)z->n, 2);
    put_number(z->file, (uint64_t)z->n, 2);
    put_number(z->file, zip64 ? 0xffffffff : z->directory.n, 4);
    put_number(z->file, zip64 ? 0xffffffff : at, 4);
    put_number(z->file, 0, 2);
}

static void put_string(bytes *b, const char *s) {
    put_text(b, "X");
    put_number(b, strlen(s), 4);
    put_text(b, s);
}

static void put_int(bytes *b, int v) {
    put_text(b, v < 256 ? "K" : "M");
    put_number(b, (uint64_t)v, v < 256 ? 1 : 2);
}

/* torch._utils._rebuild_tensor_v2((storage), offset, size, stride, False, OrderedDict()) */
static void put_tensor(bytes *b, const pred_tensor *t, import_type type, int key, int first) {
    static const char *const storages[] = {"FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage"};
    char text[16];
    snprintf(text, sizeof text, "%d", key);
    put_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    if (first) {
        put_string(b, "storage");
        put_text(b, "q\x7f"); /* kept for the next ones */
    } else put_text(b, "h\x7f");
    put_text(b, "ctorch\n");
    put_text(b, storages[type]);
    put_text(b, "\n");
    put_string(b, text);
    put_string(b, "cpu");
    put_int(b, (int)t->count);
    put_text(b, "tQ");
    put_int(b, 0);
    if (t->rows) {
        put_int(b, t->rows);
        put_int(b, t->columns);
        put_text(b, "\x86");
        put_int(b, t->columns);
        put_int(b, 1);
        put_text(b, "\x86");
    } else {
        put_int(b, t->columns);
        put_text(b, "\x85");
        put_int(b, 1);
        put_text(b, "\x85");
    }
    put_text(b, "\x89" "ccollections\nOrderedDict\n)RtR");
}

/* `nested`: {"state_dict": OrderedDict, "meta": {..}} as [R] writes it, else a plain dictionary of tensors. */
static void make_pytorch(bytes *b, import_type type, int nested) {
    static bytes pickle, data;
    static zip_out z;
    pred_tensor list[PRED_MAX_TENSORS];
    const int n = pred_tensors(&import_small, list);
    b->n = pickle.n = 0;
    memset(&z, 0, sizeof z);
    z.file = b;
    put_text(&pickle, "\x80\x02");
    if (nested) {
        put_text(&pickle, "}(");
        put_string(&pickle, "state_dict");
        put_text(&pickle, "ccollections\nOrderedDict\n)R");
    } else put_text(&pickle, "}");
    put_text(&pickle, "(");
    for (int i = 0; i < n; i++) {
        put_string(&pickle, import_name(&list[i], nested));
        put_tensor(&pickle, &list[i], type, i, i == 0);
    }
    put_text(&pickle, "u");
    if (nested) {
        put_text(&pickle, "}");
        put_string(&pickle, "_metadata");
        put_text(&pickle, "ccollections\nOrderedDict\n)Rsb");
        put_string(&pickle, "meta");
        put_text(&pickle, "}(");
        put_string(&pickle, "nheads");
        put_int(&pickle, 4);
        put_string(&pickle, "model");
        put_string(&pickle, "qwen3_8b");
        put_string(&pickle, "lr");
        put_text(&pickle, "G\x3f\x01\x02\x03\x04\x05\x06\x07");
        put_string(&pickle, "losses");
        put_text(&pickle, "](K\x01K\x02" "eu");
        put_text(&pickle, "u");
    }
    put_text(&pickle, ".");
    zip_add(&z, "router/data.pkl", pickle.at, pickle.n);
    zip_add(&z, "router/byteorder", "little", 6);
    for (int i = 0; i < n; i++) {
        char name[32];
        data.n = 0;
        for (size_t k = 0; k < list[i].count; k++) put_value(&data, type, import_value(i, k));
        snprintf(name, sizeof name, "router/data/%d", i);
        zip_add(&z, name, data.at, data.n);
    }
    zip_add(&z, "router/version", "3\n", 2);
    zip_end(&z, nested);
}

static void check_import(const bytes *b, int n_head) {
    pred_tensor list[PRED_MAX_TENSORS];
    const int n = pred_tensors(&import_small, list);
    polar_predictor *p = NULL;
    polar_predictor_info info;
    polar_error error;
    int same = 1;
    error.message[0] = 0;
    CHECK(!polar_predictor_import_memory(&p, b->at, b->n, 0, NULL, &error));
    CHECK_STR(error.message, "");
    if (!p) return;
    polar_predictor_get_info(p, &info);
    CHECK(info.n_layer == 3 && info.q_dim == 4 && info.d_model == 8 && info.n_head == n_head && info.n_block == 1);
    CHECK(info.n_ff == 5 && info.feature == POLAR_FEATURE_ENCODER);
    for (int i = 0; i < n; i++)
        for (size_t k = 0; k < list[i].count; k++) same &= p->params[list[i].offset + k] == import_value(i, k);
    CHECK(same);
    polar_predictor_close(p);
}

TEST(import) {
    static bytes b;
    for (int type = IMPORT_F32; type < IMPORT_OTHER; type++) {
        make_safetensors(&b, (import_type)type, type % 2, type > 1);
        check_import(&b, 4);
        make_pytorch(&b, (import_type)type, type % 2);
        check_import(&b, 4);
    }
}

/* Whatever is cut off or changed: an error or a predictor, nothing else. */
TEST(hostile_import) {
    static bytes b, c;
    polar_error error;
    uint64_t rng = 11;
    for (int kind = 0; kind < 2; kind++) {
        polar_predictor *p;
        if (kind) make_pytorch(&b, IMPORT_F16, 1);
        else make_safetensors(&b, IMPORT_F16, 0, 1);
        for (size_t n = 0; n < b.n; n += 1 + n / 64)
            CHECK(polar_predictor_import_memory(&p, b.at, n, 0, NULL, &error) && !p);
        for (int i = 0; i < 6000; i++) {
            const size_t area = i % 2 ? MIN(b.n, 3000) : b.n; /* header or pickle, and everything */
            memcpy(c.at, b.at, b.n);
            for (int k = 0; k <= i % 3; k++) c.at[rng_next(&rng) % area] = (uint8_t)rng_next(&rng);
            if (!polar_predictor_import_memory(&p, c.at, b.n, 0, NULL, &error)) polar_predictor_close(p);
            else CHECK(!p && error.message[0]);
        }
    }
    {
        static const char evil[] = "\x80\x02" "cos\nsystem\nX\x02\x00\x00\x00ls\x85R.";
        polar_predictor *p;
        static zip_out z;
        memset(&z, 0, sizeof z);
        z.file = &b;
        b.n = 0;
        zip_add(&z, "x/data.pkl", evil, sizeof evil - 1);
        zip_end(&z, 0);
        CHECK(polar_predictor_import_memory(&p, b.at, b.n, 0, NULL, &error) == POLAR_UNSUPPORTED);
        CHECK(strstr(error.message, "system"));
    }
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
    static bytes b;
    failing f = {0, 0};
    const polar_allocator a = {failing_alloc, failing_free, &f};
    int done = 0;
    make_pytorch(&b, IMPORT_F32, 1);
    for (int n = 0; n < 100 && !done; n++) {
        polar_predictor *p = NULL, *q = NULL;
        float features[8] = {0}, seg[3], op[9];
        polar_error error;
        f.left = n;
        if (!polar_predictor_import_memory(&p, b.at, b.n, 0, &a, &error) &&
            !polar_predictor_logits(p, features, 2, seg, op, &error) &&
            !polar_predictor_save(p, "build/test_pred.gguf", &error) &&
            !polar_predictor_open(&q, "build/test_pred.gguf", &a, &error))
            done = 1;
        else CHECK(error.status == POLAR_MEMORY);
        polar_predictor_close(p);
        polar_predictor_close(q);
        CHECK(f.held == 0);
    }
    CHECK(done);
    remove("build/test_pred.gguf");
}

/* Whatever x86 kernels run the model, the predictor's products are not the plain ones: those take a hundred times
 * as long. */
TEST(instruction_sets) {
    CHECK(mat_choose(kern_find(POLAR_CPU_PLAIN)) == &mat_plain);
#ifdef POLAR_X86
    for (int cpu = 0; cpu < POLAR_N_CPU; cpu++)
        if (cpu != POLAR_CPU_PLAIN && polar_cpu_available((polar_cpu)cpu) && polar_cpu_available(POLAR_CPU_AVX2))
            CHECK(mat_choose(kern_find((polar_cpu)cpu)) != &mat_plain);
#endif
}

static const test_case tests[] = {
#define ROW(name) {#name, test_##name}
    ROW(logits), ROW(decoding), ROW(import), ROW(hostile_import), ROW(memory), ROW(instruction_sets),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
