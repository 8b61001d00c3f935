/* What a model file says is used, refused by name, or known not to matter: tensors that only some models have, keys under
 * the architecture, integers of any width. Logits are compared with the same forward pass in double precision, written
 * again here. */
#include "inside.h"
#include "../examples/cli/gguf_writer.c"
#include "test.h"
#include "command.h"

enum { D = 8, HEADS = 2, KV = 1, HEAD = 4, FF = 6, LAYERS = 2, VOCAB = 40, CTX = 32, TOKENS = 6 };

/* --- a model of random floats --- */

typedef struct tensor {
    char name[48];
    int n, rows;
    float x[VOCAB * D];
} tensor;

static tensor tensors[64];
static int n_tensors;
static uint64_t seed;

static void add(int layer, const char *name, int n, int rows, double shift) {
    tensor *t = &tensors[n_tensors++];
    if (layer < 0) snprintf(t->name, sizeof t->name, "%s", name);
    else snprintf(t->name, sizeof t->name, "blk.%d.%s", layer, name);
    t->n = n;
    t->rows = rows;
    for (int i = 0; i < n * rows; i++) t->x[i] = (float)(shift + 0.6 * (2 * (double)rng_float(&seed) - 1));
}

static const float *get(int layer, const char *name) {
    char full[48];
    if (layer < 0) snprintf(full, sizeof full, "%s", name);
    else snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    for (int i = 0; i < n_tensors; i++)
        if (!strcmp(tensors[i].name, full)) return tensors[i].x;
    return NULL;
}

/* With all the biases that there can be. */
static void make_tensors(const char *arch) {
    seed = 5;
    n_tensors = 0;
    add(-1, "token_embd.weight", D, VOCAB, 0);
    add(-1, "output_norm.weight", D, 1, 1);
    add(-1, "output.weight", D, VOCAB, 0);
    add(-1, "output.bias", VOCAB, 1, 0);
    for (int i = 0; i < LAYERS; i++) {
        add(i, "attn_norm.weight", D, 1, 1);
        add(i, "ffn_norm.weight", D, 1, 1);
        add(i, "attn_q.weight", D, HEADS * HEAD, 0);
        add(i, "attn_k.weight", D, KV * HEAD, 0);
        add(i, "attn_v.weight", D, KV * HEAD, 0);
        add(i, "attn_output.weight", HEADS * HEAD, D, 0);
        add(i, "ffn_gate.weight", D, FF, 0);
        add(i, "ffn_up.weight", D, FF, 0);
        add(i, "ffn_down.weight", FF, D, 0);
        add(i, "attn_q.bias", HEADS * HEAD, 1, 0);
        add(i, "attn_k.bias", KV * HEAD, 1, 0);
        add(i, "attn_v.bias", KV * HEAD, 1, 0);
        add(i, "attn_output.bias", D, 1, 0);
        add(i, "ffn_gate.bias", FF, 1, 0);
        add(i, "ffn_up.bias", FF, 1, 0);
        add(i, "ffn_down.bias", D, 1, 0);
        if (strcmp(arch, "qwen3")) continue;
        add(i, "attn_q_norm.weight", HEAD, 1, 1);
        add(i, "attn_k_norm.weight", HEAD, 1, 1);
    }
}

static const char *arch_name;

static const char *key(const char *rest) {
    static char text[100];
    snprintf(text, sizeof text, "%s.%s", arch_name, rest);
    return text;
}

/* The file in memory, with what `more` adds or sets; free it by closing the writer. */
static gguf_writer *make_file(void (*more)(gguf_writer *w), const void **data, size_t *size) {
    gguf_writer *w;
    static char words[VOCAB][12];
    const char *tokens[VOCAB];
    float scores[VOCAB];
    polar_error e;
    CHECK(!gguf_writer_open(&w, NULL, NULL, &e));
    for (int i = 0; i < VOCAB; i++) {
        snprintf(words[i], sizeof words[i], "word%d", i);
        tokens[i] = !i ? "<unk>" : i == 1 ? "<s>" : i == 2 ? "</s>" : words[i];
        scores[i] = (float)-i;
    }
    gguf_writer_set_string(w, "general.architecture", arch_name, strlen(arch_name));
    gguf_writer_set_u32(w, key("block_count"), LAYERS);
    gguf_writer_set_u32(w, key("context_length"), CTX);
    gguf_writer_set_u32(w, key("embedding_length"), D);
    gguf_writer_set_u32(w, key("feed_forward_length"), FF);
    gguf_writer_set_u32(w, key("attention.head_count"), HEADS);
    gguf_writer_set_u32(w, key("attention.head_count_kv"), KV);
    gguf_writer_set_f32(w, key("attention.layer_norm_rms_epsilon"), 1e-5f);
    gguf_writer_set_string(w, "tokenizer.ggml.model", "llama", 5);
    gguf_writer_set_strings(w, "tokenizer.ggml.tokens", tokens, NULL, VOCAB);
    gguf_writer_set_array(w, "tokenizer.ggml.scores", POLAR_GGUF_F32, scores, VOCAB);
    if (more) more(w);
    for (int i = 0; i < n_tensors; i++) {
        const int64_t dims[2] = {tensors[i].n, tensors[i].rows};
        gguf_writer_add_tensor(w, tensors[i].name, 0, tensors[i].rows > 1 ? 2 : 1, dims);
    }
    for (int i = 0; i < n_tensors; i++)
        gguf_writer_write_f32(w, tensors[i].x, (size_t)tensors[i].n * (size_t)tensors[i].rows);
    CHECK(!gguf_writer_finish(w, &e));
    CHECK_STR(e.message, "");
    *data = gguf_writer_data(w, size);
    return w;
}

/* --- the same model, again --- */

static const int32_t prompt[TOKENS] = {5, 17, 3, 33, 20, 7};

static void ref_norm(double *y, const double *x, const float *w, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    for (int i = 0; i < n; i++) y[i] = x[i] / sqrt(sum / n + 1e-5) * (double)w[i];
}

static void ref_product(double *y, const double *x, int layer, const char *name, int n, int rows) {
    char full[40];
    const float *w, *bias;
    snprintf(full, sizeof full, "%s.weight", name);
    w = get(layer, full);
    snprintf(full, sizeof full, "%s.bias", name);
    bias = get(layer, full);
    for (int r = 0; r < rows; r++) {
        y[r] = bias ? (double)bias[r] : 0;
        for (int i = 0; i < n; i++) y[r] += (double)w[r * n + i] * x[i];
    }
}

static void ref_head(double *x, const float *norm, double position) {
    const int neox = strcmp(arch_name, "llama") != 0;
    if (norm) ref_norm(x, x, norm, HEAD);
    for (int i = 0; i < HEAD / 2; i++) {
        double *a = neox ? &x[i] : &x[2 * i], *b = neox ? &x[i + HEAD / 2] : &x[2 * i + 1], x0 = *a, x1 = *b;
        const double angle = position * pow(10000, -2.0 * i / HEAD);
        *a = x0 * cos(angle) - x1 * sin(angle);
        *b = x0 * sin(angle) + x1 * cos(angle);
    }
}

static void ref_attend(double *out, const double *q, double k[TOKENS][KV * HEAD], double v[TOKENS][KV * HEAD], int n,
                       double scale) {
    double p[TOKENS], sum = 0;
    for (int t = 0; t < n; t++) {
        double s = 0;
        for (int i = 0; i < HEAD; i++) s += q[i] * k[t][i];
        sum += p[t] = exp(s * scale);
    }
    for (int i = 0; i < HEAD; i++) {
        out[i] = 0;
        for (int t = 0; t < n; t++) out[i] += p[t] / sum * v[t][i];
    }
}

/* Logits after the last token; positions are divided by `divide`. */
static void ref_logits(double divide, double scale, double *logits) {
    static double h[TOKENS][D], k[TOKENS][KV * HEAD], v[TOKENS][KV * HEAD];
    double x[D], q[HEADS * HEAD], y[HEADS * HEAD], o[D], gate[FF], up[FF];
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < D; i++) h[t][i] = (double)get(-1, "token_embd.weight")[prompt[t] * D + i];
    for (int l = 0; l < LAYERS; l++)
        for (int t = 0; t < TOKENS; t++) {
            ref_norm(x, h[t], get(l, "attn_norm.weight"), D);
            ref_product(q, x, l, "attn_q", D, HEADS * HEAD);
            ref_product(k[t], x, l, "attn_k", D, KV * HEAD);
            ref_product(v[t], x, l, "attn_v", D, KV * HEAD);
            ref_head(k[t], get(l, "attn_k_norm.weight"), t / divide);
            for (int i = 0; i < HEADS; i++) {
                ref_head(q + i * HEAD, get(l, "attn_q_norm.weight"), t / divide);
                ref_attend(y + i * HEAD, q + i * HEAD, k, v, t + 1, scale);
            }
            ref_product(o, y, l, "attn_output", HEADS * HEAD, D);
            for (int i = 0; i < D; i++) h[t][i] += o[i];
            ref_norm(x, h[t], get(l, "ffn_norm.weight"), D);
            ref_product(gate, x, l, "ffn_gate", D, FF);
            ref_product(up, x, l, "ffn_up", D, FF);
            for (int i = 0; i < FF; i++) gate[i] *= up[i] / (1 + exp(-gate[i]));
            ref_product(o, gate, l, "ffn_down", FF, D);
            for (int i = 0; i < D; i++) h[t][i] += o[i];
        }
    ref_norm(x, h[TOKENS - 1], get(-1, "output_norm.weight"), D);
    ref_product(logits, x, -1, "output", D, VOCAB);
}

/* The logits of the file, by a session and by what runs many programs, against those. */
static void check_logits(const char *arch, void (*more)(gguf_writer *w), double divide, double scale) {
    polar_session_options o = {0};
    gguf_writer *w;
    polar_model *m;
    polar_session *s = NULL;
    polar_error e;
    const void *data;
    size_t size;
    double expected[VOCAB], worst = 0;
    arch_name = arch;
    make_tensors(arch);
    w = make_file(more, &data, &size);
    ref_logits(divide, scale, expected);
    CHECK(!polar_model_open_memory(&m, data, size, NULL, &e));
    CHECK_STR(e.message, "");
    o.kv_type = POLAR_KV_F32;
    o.n_batch = 4;
    o.n_threads = 1;
    if (m && !polar_session_create(&s, m, NULL, &o, &e) && !polar_session_eval(s, prompt, TOKENS, &e))
        for (int i = 0; i < VOCAB; i++)
            worst = MAX(worst, fabs((double)polar_session_logits(s, 0)[i] - expected[i]));
    else CHECK(0);
    CHECK(worst < 1e-4);
    if (worst >= 1e-4) printf("%s: logits differ by %g\n", arch, worst);
    polar_session_free(s);
    polar_model_close(m);
    gguf_writer_close(w);
}

TEST(biases) {
    check_logits("llama", NULL, 1, 0.5);
    check_logits("qwen2", NULL, 1, 0.5);
    check_logits("qwen3", NULL, 1, 0.5);
}

static void set_scale_linear(gguf_writer *w) {
    gguf_writer_set_f32(w, key("rope.scale_linear"), 4);
}

static void set_factor(gguf_writer *w) {
    gguf_writer_set_u32(w, key("rope.scaling.factor"), 4);
}

static void set_linear(gguf_writer *w) {
    gguf_writer_set_string(w, key("rope.scaling.type"), "linear", 6);
    gguf_writer_set_f32(w, key("rope.scaling.factor"), 4);
    gguf_writer_set_f32(w, key("rope.scale_linear"), 4);
}

static void set_none(gguf_writer *w) {
    gguf_writer_set_string(w, key("rope.scaling.type"), "none", 4);
    gguf_writer_set_f32(w, key("rope.scaling.factor"), 4);
}

static void set_scale(gguf_writer *w) {
    gguf_writer_set_f32(w, key("attention.scale"), 0.3125f);
}

TEST(scaling) {
    check_logits("llama", set_scale_linear, 4, 0.5);
    check_logits("qwen2", set_factor, 4, 0.5);
    check_logits("llama", set_linear, 4, 0.5);
    check_logits("llama", set_none, 1, 0.5);
    check_logits("qwen3", set_scale, 1, 0.3125);
}

/* --- keys --- */

/* Opens the model with what `more` sets: the message, or the notes. */
static const char *opened(void (*more)(gguf_writer *w), int ignore) {
    static char text[1000];
    polar_model_options o = {0};
    gguf_writer *w;
    polar_model *m;
    polar_model_info info;
    polar_error e;
    const void *data;
    size_t size;
    w = make_file(more, &data, &size);
    o.ignore_unknown = ignore;
    if (polar_model_open_memory(&m, data, size, &o, &e)) snprintf(text, sizeof text, "%s", e.message);
    else {
        polar_model_get_info(m, &info);
        snprintf(text, sizeof text, "%s", info.notes);
        CHECK(info.n_layer == LAYERS && info.n_embd == D);
    }
    polar_model_close(m);
    gguf_writer_close(w);
    return text;
}

/* Keys as converters write them, which change nothing. */
static void set_real(gguf_writer *w) {
    static const uint32_t layers[LAYERS] = {FF, FF};
    gguf_writer_set_u32(w, key("vocab_size"), VOCAB);
    gguf_writer_set_u32(w, key("rope.dimension_count"), HEAD);
    gguf_writer_set_f32(w, key("rope.freq_base"), 10000);
    gguf_writer_set_string(w, key("tensor_data_layout"), "Meta AI original pth", 20);
    gguf_writer_set_string(w, key("rope.scaling.type"), "yarn", 4);
    gguf_writer_set_f32(w, key("rope.scaling.factor"), 1);
    gguf_writer_set_u32(w, key("rope.scaling.original_context_length"), 8192);
    gguf_writer_set_bool(w, key("rope.scaling.finetuned"), 1);
    gguf_writer_set_u32(w, key("expert_count"), 0);
    gguf_writer_set_u32(w, key("expert_used_count"), 0);
    gguf_writer_set_u32(w, key("attention.sliding_window"), CTX);
    gguf_writer_set_f32(w, key("attn_logit_softcapping"), 0);
    gguf_writer_set_f32(w, key("attention.clamp_kqv"), 0);
    gguf_writer_set_f32(w, key("logit_scale"), 1);
    gguf_writer_set_bool(w, key("attention.causal"), 1);
    gguf_writer_set_bool(w, key("use_parallel_residual"), 0);
    gguf_writer_set_u32(w, key("pooling_type"), 3);
    gguf_writer_set_array(w, key("feed_forward_length"), POLAR_GGUF_U32, layers, LAYERS);
}

static void set_softcap(gguf_writer *w) {
    gguf_writer_set_f32(w, key("attn_logit_softcapping"), 50);
}

static void set_window(gguf_writer *w) {
    gguf_writer_set_u64(w, key("attention.sliding_window"), 16);
}

static void set_parallel(gguf_writer *w) {
    gguf_writer_set_bool(w, key("use_parallel_residual"), 1);
}

static void set_yarn(gguf_writer *w) {
    gguf_writer_set_string(w, key("rope.scaling.type"), "yarn", 4);
    gguf_writer_set_f32(w, key("rope.scaling.factor"), 2);
}

static void set_new(gguf_writer *w) {
    gguf_writer_set_i32(w, key("attention.temperature_length"), 7);
}

static void set_layers(gguf_writer *w) {
    static const uint32_t layers[LAYERS] = {FF, FF + 1};
    gguf_writer_set_array(w, key("feed_forward_length"), POLAR_GGUF_U32, layers, LAYERS);
}

static void set_two_factors(gguf_writer *w) {
    gguf_writer_set_f32(w, key("rope.scaling.factor"), 2);
    gguf_writer_set_f32(w, key("rope.scale_linear"), 4);
}

static void set_other(gguf_writer *w) { /* of another architecture, and of nobody */
    gguf_writer_set_u32(w, "llamas.logit_scale", 3);
    gguf_writer_set_u32(w, "general.something", 3);
}

TEST(keys) {
    arch_name = "llama";
    make_tensors(arch_name);
    CHECK_STR(opened(NULL, 0), "");
    CHECK_STR(opened(set_real, 0), "");
    CHECK_STR(opened(set_other, 0), "");
#define UNKNOWN " is not known for this architecture or not with this value"
#define OVERRULED " (the option ignore_unknown overrules this)"
    CHECK_STR(opened(set_softcap, 0), "memory: the key llama.attn_logit_softcapping, which is 50," UNKNOWN OVERRULED);
    CHECK_STR(opened(set_softcap, 1), "memory: the key llama.attn_logit_softcapping, which is 50," UNKNOWN
                                      ": ignored\n");
    CHECK_STR(opened(set_parallel, 0), "memory: the key llama.use_parallel_residual, which is true," UNKNOWN OVERRULED);
    CHECK_STR(opened(set_new, 0), "memory: the key llama.attention.temperature_length, which is 7," UNKNOWN OVERRULED);
    CHECK_STR(opened(set_yarn, 0), "memory: rope.scaling.type is \"yarn\", expected none or linear" OVERRULED);
    CHECK_STR(opened(set_window, 0), "memory: attention.sliding_window is 16: the context is limited to that, instead "
                                     "of 32\n");
    CHECK_STR(opened(set_layers, 0), "memory: llama.feed_forward_length differs between layers, expected the same for "
                                     "all");
    CHECK_STR(opened(set_two_factors, 0), "memory: rope.scaling.factor and rope.scale_linear differ");
}

TEST(tensors_of_others) {
    static const char *const names[] = {"blk.0.attn_sinks.weight", "blk.7.attn_q.weight", "output_norm.bias",
                                        "blk.0.attn_q.scale", "rope_factors_long.weight"};
    arch_name = "llama";
    for (int i = 0; i < COUNT(names); i++) {
        char message[200];
        make_tensors(arch_name);
        add(-1, names[i], 4, 1, 0);
        snprintf(message, sizeof message, "memory: the tensor %s and 0 more are not known for architecture llama",
                 names[i]);
        CHECK(!strncmp(opened(NULL, 0), message, strlen(message)));
        CHECK(!strncmp(opened(NULL, 1), message, strlen(message)));
    }
    make_tensors(arch_name);
    add(0, "attn_rot_embd.weight", 4, 1, 0);
    CHECK_STR(opened(NULL, 0), "");
}

/* --- integers --- */

static polar_gguf_value_type int_type;

/* Arrays of one stand for numbers, since the writer has no single numbers of all types. */
static void set_ints(gguf_writer *w) {
    static const int bytes[POLAR_GGUF_N_VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 0, 0, 0, 0, 8, 8, 0};
    uint8_t one[8] = {0}, kinds[8 * VOCAB] = {0};
    const int n = bytes[int_type];
    for (int i = 0; i < VOCAB; i++) {
        const uint16_t host = 1;
        const int at = *(const uint8_t *)&host ? 0 : n - 1; /* the writer takes numbers as the host has them */
        kinds[i * n + at] = i == 2 ? TOK_CONTROL : TOK_NORMAL;
        one[at] = LAYERS;
    }
    gguf_writer_set_array(w, key("block_count"), int_type, one, 1);
    gguf_writer_set_array(w, "tokenizer.ggml.token_type", int_type, kinds, VOCAB);
}

TEST(integers) {
    static const polar_gguf_value_type types[] = {POLAR_GGUF_U8,  POLAR_GGUF_I8,  POLAR_GGUF_U16, POLAR_GGUF_I16,
                                                  POLAR_GGUF_U32, POLAR_GGUF_I32, POLAR_GGUF_U64, POLAR_GGUF_I64};
    arch_name = "llama";
    make_tensors(arch_name);
    for (int i = 0; i < COUNT(types); i++) {
        int_type = types[i];
        CHECK_STR(opened(set_ints, 0), "");
    }
}

/* --- files from elsewhere, and the best logits as another program computed them in double precision --- */

static void check_found(const char *path, const double best[4][2]) {
    static const int32_t tokens[] = {5, 17, 100, 33, 200, 7, 7, 9};
    polar_session_options o = {0};
    polar_model *m;
    polar_session *s = NULL;
    polar_error e;
    size_t n;
    char *data = test_shared_text(path, &n);
    if (!data) return;
    o.kv_type = POLAR_KV_F32;
    o.n_threads = 1;
    CHECK(!polar_model_open_memory(&m, data, n, NULL, &e));
    CHECK_STR(e.message, "");
    if (m && !polar_session_create(&s, m, NULL, &o, &e) && !polar_session_eval(s, tokens, COUNT(tokens), &e))
        for (int i = 0; i < 4; i++) {
            const double found = (double)polar_session_logits(s, 0)[(int)best[i][0]];
            CHECK(fabs(found - best[i][1]) < 2e-2);
            if (fabs(found - best[i][1]) >= 2e-2) printf("%s: %g instead of %g\n", path, found, best[i][1]);
        }
    polar_session_free(s);
    polar_model_close(m);
    free(data);
}

TEST(found) {
    static const double bias[4][2] = {{9, 8.287}, {130, 7.9752}, {29, 7.84349}, {144, 7.24958}},
                        linear[4][2] = {{212, 11.4455}, {78, 8.95743}, {86, 8.39913}, {69, 8.38457}},
                        types[4][2] = {{15, 9.35085}, {114, 8.77123}, {86, 8.62361}, {144, 8.06736}};
    check_found("found/llama_attention_bias.gguf", bias);
    check_found("found/rope_scale_linear.gguf", linear);
    check_found("found/token_type_u32.gguf", types);
}

/* --- the end --- */

static void set_ends(gguf_writer *w) {
    static const char *const names[] = {"<unk>", "<s>", "</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>",
                                        "<|end_of_text|>", "<|eom_id|>", "<eos>", "x"};
    const char *tokens[VOCAB];
    int32_t kinds[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        tokens[i] = i < COUNT(names) ? names[i] : "y";
        kinds[i] = i == 2 || i == 3 ? TOK_CONTROL : TOK_NORMAL;
    }
    gguf_writer_set_strings(w, "tokenizer.ggml.tokens", tokens, NULL, VOCAB);
    gguf_writer_set_array(w, "tokenizer.ggml.token_type", POLAR_GGUF_I32, kinds, VOCAB);
    gguf_writer_set_u32(w, "tokenizer.ggml.eos_token_id", 3);
}

TEST(ends) {
    gguf_writer *w;
    polar_model *m;
    const void *data;
    size_t size;
    arch_name = "llama";
    make_tensors(arch_name);
    w = make_file(set_ends, &data, &size);
    CHECK(!polar_model_open_memory(&m, data, size, NULL, NULL));
    for (int i = 0; i < VOCAB; i++) CHECK(polar_token_is_end(m, i) == (i >= 2 && i <= 7)); /* <eos> is plain text here */
    polar_model_close(m);
    gguf_writer_close(w);
}

/* --- the command --- */

TEST(command) {
    gguf_writer *w;
    const void *data;
    size_t size;
    if (run("polar --version")) {
        SKIP("build/polar is not built");
        return;
    }
    arch_name = "llama";
    make_tensors(arch_name);
    w = make_file(set_softcap, &data, &size);
    write_file("softcap.gguf", data, size);
    gguf_writer_close(w);
    w = make_file(set_ends, &data, &size);
    write_file("ends.gguf", data, size);
    gguf_writer_close(w);
    RUN("polar run -m softcap.gguf -n 1 a", 1, "softcap.gguf: the key llama.attn_logit_softcapping, which is 50, is not");
    RUN("polar run -m softcap.gguf -n 1 a --ignore-unknown", 0, "or not with this value: ignored");
    RUN("polar info softcap.gguf", 0, "no: softcap.gguf: the key llama.attn_logit_softcapping");
    RUN("polar info softcap.gguf --ignore-unknown", 0, "note          softcap.gguf: the key llama.attn_logit_softcapping");
    RUN("polar logits -m ends.gguf --tokens 3,4", 0, "");
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(biases), T(scaling), T(keys), T(tensors_of_others), T(integers), T(found), T(ends), T(command),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
