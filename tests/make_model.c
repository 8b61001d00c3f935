/* Writes synthetic GGUF models with the shapes of real ones: random weights, and a byte-level BPE vocabulary of the
 * real size. For tests of whole files and for measuring speed; they answer nonsense.
 *
 *     make_model PRESET TYPE OUT.gguf [seed [weight]]
 *
 * A weight below 1 makes what each layer adds that much smaller, so that most programs answer alike.
 * The same arguments give the same bytes. It uses polar.h only, and 64 KB besides the vocabulary. */
#include "examples/cli/gguf_writer.c"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct preset {
    const char *name, *arch;
    int layers, width, ff, heads, heads_kv, head, vocab, ordinary; /* ordinary: tokens that are not special */
    int tied;         /* no matrix for the output: the embedding is used */
    int context;
    float base, eps;
    float rope_factor; /* of llama 3's frequency factors; 0: none */
    int experts, used, ff_expert, ff_shared;
} preset;

static const preset presets[] = {
    {"tiny", "llama", 3, 256, 512, 4, 2, 64, 1024, 1000, 1, 512, 5e5f, 1e-5f, 32, 0, 0, 0, 0},
    {"micro", "llama", 2, 64, 128, 2, 1, 32, 320, 300, 1, 64, 1e4f, 1e-5f, 0, 0, 0, 0, 0},
    {"tiny-qwen2", "qwen2", 3, 256, 512, 4, 2, 64, 1024, 1000, 0, 512, 1e6f, 1e-6f, 0, 0, 0, 0, 0},
    {"tiny-qwen3", "qwen3", 3, 256, 512, 4, 2, 128, 1024, 1000, 1, 512, 1e6f, 1e-6f, 0, 0, 0, 0, 0},
    {"tiny-qwen2moe", "qwen2moe", 3, 256, 512, 4, 4, 64, 1024, 1000, 0, 512, 1e6f, 1e-6f, 0, 8, 2, 256, 512},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 128000, 1, 131072, 5e5f, 1e-5f, 32, 0, 0, 0, 0},
    {"llama-3.2-3b", "llama", 28, 3072, 8192, 24, 8, 128, 128256, 128000, 1, 131072, 5e5f, 1e-5f, 32, 0, 0, 0, 0},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 151643, 1, 32768, 1e6f, 1e-6f, 0, 0, 0, 0, 0},
    {"qwen2.5-3b", "qwen2", 36, 2048, 11008, 16, 2, 128, 151936, 151643, 1, 32768, 1e6f, 1e-6f, 0, 0, 0, 0, 0},
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 151643, 1, 40960, 1e6f, 1e-6f, 0, 0, 0, 0, 0},
    {"qwen3-14x256", "qwen3", 14, 256, 768, 4, 2, 64, 4096, 4000, 1, 4096, 1e6f, 1e-6f, 0, 0, 0, 0, 0},
    {"qwen3-28x256", "qwen3", 28, 256, 768, 4, 2, 64, 4096, 4000, 1, 4096, 1e6f, 1e-6f, 0, 0, 0, 0, 0},
    {"qwen3-56x256", "qwen3", 56, 256, 768, 4, 2, 64, 4096, 4000, 1, 4096, 1e6f, 1e-6f, 0, 0, 0, 0, 0},
    {"qwen1.5-moe-a2.7b", "qwen2moe", 24, 2048, 5632, 16, 16, 128, 151936, 151643, 0, 8192, 1e6f, 1e-6f, 0, 60, 4, 1408,
     5632},
};

enum { F32, F16, Q8_0, Q5_0, Q4_0, Q4_K, Q6_K, N_TYPES, Q4_K_M = N_TYPES };

/* A block of each type is random bytes after (before, in Q6_K) the scale. `deviation` is that of its numbers when the
 * scale is 1; a random sign of the scale makes their mean 0. file_type is general.file_type. */
static const struct {
    const char *name;
    int block, bytes, file_type;
    float deviation;
} types[N_TYPES + 1] = {
    {"F32", 1, 4, 0, 0},        {"F16", 1, 2, 1, 0},        {"Q8_0", 32, 34, 7, 73.9f},   {"Q5_0", 32, 22, 8, 9.25f},
    {"Q4_0", 32, 18, 2, 4.64f}, {"Q4_K", 256, 144, 14, 258}, {"Q6_K", 256, 210, 18, 1366}, {"Q4_K_M", 0, 0, 15, 0},
};

typedef enum tensor_kind { MATRIX, NORM, BIAS, FACTORS } tensor_kind;

typedef struct tensor {
    char name[64];
    tensor_kind kind;
    int type, n_dims;
    int64_t dims[3];
} tensor;

typedef struct maker {
    const preset *p;
    gguf_writer *w;
    uint64_t state;
    double weight;
    int type, mix; /* mix: Q4_K_M */
    int n;
    tensor tensors[1024];
    uint8_t out[1 << 16];
} maker;

static int fail(const char *what) {
    fprintf(stderr, "make_model: %s\n", what);
    return 1;
}

/* splitmix64 */
static uint64_t next(maker *m) {
    uint64_t z = m->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* --- vocabulary --- */

/* Character c of the byte alphabet of GPT-2, as UTF-8. */
static size_t put_utf8(char *s, int c) {
    if (c < 128) return s[0] = (char)c, 1;
    s[0] = (char)(0xC0 | c >> 6), s[1] = (char)(0x80 | (c & 63));
    return 2;
}

/* Tokens 0..255: the bytes that print as themselves, then the others, which print as U+0100 and up. */
static int byte_character(int token) {
    int printed = 0;
    for (int b = 33; b < 256; b++) {
        if (b == 127) b = 161;
        if (b == 173) continue;
        if (printed++ == token) return b;
    }
    return 256 + token - printed;
}

enum { MARK = 0x120 }; /* the space in front of a word */

/* The ordinary tokens after the bytes are words of a tree: its 27 roots are the letters and the mark (which are bytes),
 * and word 27 + i continues word i / 26 by one letter, which is also the merge that makes it. */
static size_t put_word(char *s, int word) {
    size_t n;
    if (word < 26) return put_utf8(s, 'a' + word);
    if (word == 26) return put_utf8(s, MARK);
    n = put_word(s, (word - 27) / 26);
    s[n] = (char)('a' + (word - 27) % 26);
    return n + 1;
}

static void put_special(char *s, const preset *p, int i) {
    static const char *const llama[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                                        "<|end_header_id|>", "<|eot_id|>"};
    static const char *const qwen[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    if (p->arch[0] == 'l' && i < 5) strcpy(s, llama[i]);
    else if (p->arch[0] == 'q' && i < 3) strcpy(s, qwen[i]);
    else sprintf(s, "<|reserved_%d|>", i);
}

enum { WORD = 24 }; /* room for a token, and for a merge */

static void put_token(char *s, const preset *p, int token) {
    if (token < 256) s[put_utf8(s, byte_character(token))] = 0;
    else if (token < p->ordinary) s[put_word(s, token - 256 + 27)] = 0;
    else put_special(s, p, token - p->ordinary);
}

static int write_vocabulary(maker *m) {
    const preset *p = m->p;
    const int llama = p->arch[0] == 'l', n = p->vocab, merges = p->ordinary - 256;
    char *text = malloc((size_t)n * WORD);
    const char **strings = malloc((size_t)n * sizeof *strings);
    int32_t *kinds = malloc((size_t)n * sizeof *kinds);
    int ok = text && strings && kinds;
    for (int i = 0; ok && i < n; i++) {
        strings[i] = text + (size_t)i * WORD;
        put_token(text + (size_t)i * WORD, p, i);
        kinds[i] = i < p->ordinary ? 1 : 3; /* 3: control */
    }
    if (ok) {
        gguf_writer_set_string(m->w, "tokenizer.ggml.model", "gpt2", 4);
        gguf_writer_set_string(m->w, "tokenizer.ggml.pre", llama ? "llama-bpe" : "qwen2", llama ? 9 : 5);
        gguf_writer_set_strings(m->w, "tokenizer.ggml.tokens", strings, NULL, (size_t)n);
        gguf_writer_set_array(m->w, "tokenizer.ggml.token_type", POLAR_GGUF_I32, kinds, (size_t)n);
        for (int i = 0; i < merges; i++) { /* "wor d" */
            char *s = text + (size_t)i * WORD;
            const size_t length = put_word(s, i / 26);
            s[length] = ' ', s[length + 1] = (char)('a' + i % 26), s[length + 2] = 0;
        }
        gguf_writer_set_strings(m->w, "tokenizer.ggml.merges", strings, NULL, (size_t)merges);
        gguf_writer_set_u32(m->w, "tokenizer.ggml.bos_token_id", (uint32_t)p->ordinary);
        gguf_writer_set_u32(m->w, "tokenizer.ggml.eos_token_id", (uint32_t)p->ordinary + (llama ? 4 : 2));
        gguf_writer_set_bool(m->w, "tokenizer.ggml.add_bos_token", llama);
    }
    free(text), free(strings), free(kinds);
    return ok;
}

static void write_template(maker *m) {
    static const char llama[] =
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n{{ '' }}";
    static const char qwen[] = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
                               "{{ '' }}{% endfor %}<|im_start|>assistant\n{{ '' }}";
    const char *s = m->p->arch[0] == 'l' ? llama : qwen;
    gguf_writer_set_string(m->w, "tokenizer.chat_template", s, strlen(s));
}

/* --- hyperparameters --- */

static const char *key(char *buffer, const maker *m, const char *name) {
    sprintf(buffer, "%s.%s", m->p->arch, name);
    return buffer;
}

static void set_int(maker *m, const char *name, int value) {
    char k[96];
    gguf_writer_set_u32(m->w, key(k, m, name), (uint32_t)value);
}

static void write_hyperparameters(maker *m) {
    const preset *p = m->p;
    char k[96];
    gguf_writer_set_string(m->w, "general.architecture", p->arch, strlen(p->arch));
    gguf_writer_set_string(m->w, "general.name", p->name, strlen(p->name));
    gguf_writer_set_u32(m->w, "general.file_type", (uint32_t)types[m->mix ? Q4_K_M : m->type].file_type);
    gguf_writer_set_u32(m->w, "general.quantization_version", 2);
    set_int(m, "vocab_size", p->vocab);
    set_int(m, "context_length", p->context);
    set_int(m, "embedding_length", p->width);
    set_int(m, "block_count", p->layers);
    set_int(m, "feed_forward_length", p->ff);
    set_int(m, "attention.head_count", p->heads);
    set_int(m, "attention.head_count_kv", p->heads_kv);
    set_int(m, "attention.key_length", p->head);
    set_int(m, "attention.value_length", p->head);
    set_int(m, "rope.dimension_count", p->head);
    gguf_writer_set_f32(m->w, key(k, m, "rope.freq_base"), p->base);
    gguf_writer_set_f32(m->w, key(k, m, "attention.layer_norm_rms_epsilon"), p->eps);
    if (!p->experts) return;
    set_int(m, "expert_count", p->experts);
    set_int(m, "expert_used_count", p->used);
    set_int(m, "expert_feed_forward_length", p->ff_expert);
    set_int(m, "expert_shared_feed_forward_length", p->ff_shared);
}

/* --- tensors --- */

/* Announces a tensor. Rows that are no multiple of 256 get the types that quantizers choose then. */
static void add(maker *m, int layer, const char *name, tensor_kind kind, int type, int d0, int d1, int d2) {
    tensor *t = &m->tensors[m->n++];
    if (layer < 0) sprintf(t->name, "%s", name);
    else sprintf(t->name, "blk.%d.%s", layer, name);
    if (d0 % 256) type = type == Q4_K ? Q5_0 : type == Q6_K ? Q8_0 : type;
    t->kind = kind;
    t->type = type;
    t->n_dims = d2 ? 3 : d1 ? 2 : 1;
    t->dims[0] = d0, t->dims[1] = d1 ? d1 : 1, t->dims[2] = d2 ? d2 : 1;
    gguf_writer_add_tensor(m->w, t->name, polar_gguf_type_find(types[type].name), t->n_dims, t->dims);
}

static void add_attention(maker *m, int i, int better) {
    const preset *p = m->p;
    const int d = p->width, q = p->heads * p->head, kv = p->heads_kv * p->head;
    add(m, i, "attn_norm.weight", NORM, F32, d, 0, 0);
    add(m, i, "attn_q.weight", MATRIX, m->type, d, q, 0);
    add(m, i, "attn_k.weight", MATRIX, m->type, d, kv, 0);
    add(m, i, "attn_v.weight", MATRIX, better, d, kv, 0);
    if (!strncmp(p->arch, "qwen2", 5)) {
        add(m, i, "attn_q.bias", BIAS, F32, q, 0, 0);
        add(m, i, "attn_k.bias", BIAS, F32, kv, 0, 0);
        add(m, i, "attn_v.bias", BIAS, F32, kv, 0, 0);
    }
    if (!strcmp(p->arch, "qwen3")) {
        add(m, i, "attn_q_norm.weight", NORM, F32, p->head, 0, 0);
        add(m, i, "attn_k_norm.weight", NORM, F32, p->head, 0, 0);
    }
    add(m, i, "attn_output.weight", MATRIX, m->type, q, d, 0);
}

static void add_feed_forward(maker *m, int i, int better) {
    const preset *p = m->p;
    const int d = p->width, x = p->ff_expert, s = p->ff_shared, n = p->experts;
    add(m, i, "ffn_norm.weight", NORM, F32, d, 0, 0);
    if (!n) {
        add(m, i, "ffn_gate.weight", MATRIX, m->type, d, p->ff, 0);
        add(m, i, "ffn_up.weight", MATRIX, m->type, d, p->ff, 0);
        add(m, i, "ffn_down.weight", MATRIX, better, p->ff, d, 0);
        return;
    }
    add(m, i, "ffn_gate_inp.weight", MATRIX, F32, d, n, 0);
    add(m, i, "ffn_gate_exps.weight", MATRIX, m->type, d, x, n);
    add(m, i, "ffn_up_exps.weight", MATRIX, m->type, d, x, n);
    add(m, i, "ffn_down_exps.weight", MATRIX, better, x, d, n);
    add(m, i, "ffn_gate_inp_shexp.weight", MATRIX, F32, d, 0, 0);
    add(m, i, "ffn_gate_shexp.weight", MATRIX, m->type, d, s, 0);
    add(m, i, "ffn_up_shexp.weight", MATRIX, m->type, d, s, 0);
    add(m, i, "ffn_down_shexp.weight", MATRIX, better, s, d, 0);
}

/* The output matrix of 4-bit files is Q6_K, and Q4_K_M has half of the most sensitive ones in Q6_K too. */
static void add_tensors(maker *m) {
    const preset *p = m->p;
    const int output = m->type == Q4_0 || m->type == Q4_K ? Q6_K : m->type, n = p->layers;
    add(m, -1, "token_embd.weight", MATRIX, p->tied ? output : m->type, p->width, p->vocab, 0);
    add(m, -1, "output_norm.weight", NORM, F32, p->width, 0, 0);
    if (!p->tied) add(m, -1, "output.weight", MATRIX, output, p->width, p->vocab, 0);
    if (p->rope_factor > 0) add(m, -1, "rope_freqs.weight", FACTORS, F32, p->head / 2, 0, 0);
    for (int i = 0; i < n; i++) {
        const int raised = i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
        add_attention(m, i, m->mix && raised ? Q6_K : m->type);
        add_feed_forward(m, i, m->mix && raised ? Q6_K : m->type);
    }
}

/* --- numbers --- */

/* Uniform in [-1, 1). */
static float uniform(maker *m) {
    return (float)(int32_t)(next(m) >> 32) / 2147483648.0f;
}

/* The nearest half-precision number below in magnitude; x is below 65504. */
static uint16_t half_of(float x) {
    uint32_t u;
    int exponent;
    memcpy(&u, &x, 4);
    exponent = (int)(u >> 23 & 255) - 112;
    if (exponent > 0) return (uint16_t)((u >> 16 & 0x8000) | (uint32_t)exponent << 10 | (u >> 13 & 0x3FF));
    return (uint16_t)((u >> 16 & 0x8000) | (uint32_t)(fabs((double)x) * 16777216.0));
}

static void put_half(uint8_t *at, float x) {
    const uint16_t h = half_of(x);
    at[0] = (uint8_t)h, at[1] = (uint8_t)(h >> 8);
}

/* Llama 3's: rotations slower than the context it was first trained for are slowed down, with a ramp between. */
static float frequency_factor(const preset *p, int64_t i) {
    const double turns = 8192 * pow(p->base, -2.0 * (double)i / p->head) / 6.283185307179586, ramp = (turns - 1) / 3;
    if (turns > 4) return 1;
    if (turns < 1) return p->rope_factor;
    return (float)(1 / ((1 - ramp) / p->rope_factor + ramp));
}

static float number_of(maker *m, const tensor *t, int64_t i, float deviation) {
    if (t->kind == FACTORS) return frequency_factor(m->p, i);
    if (t->kind == NORM) return 1 + 0.1f * uniform(m);
    return uniform(m) * (t->kind == BIAS ? 0.5f : deviation * 1.7320508f);
}

/* One block of a quantized type: noise, and a scale within a quarter of the right one, of either sign. */
static void put_block(maker *m, uint8_t *b, int type, float deviation) {
    const float u = uniform(m), d = deviation / types[type].deviation * (u < 0 ? u / 2 - 0.75f : u / 2 + 0.75f);
    uint8_t noise[216];
    for (int i = 0; i < types[type].bytes; i += 8) {
        const uint64_t r = next(m);
        memcpy(noise + i, &r, 8);
    }
    memcpy(b, noise, (size_t)types[type].bytes);
    put_half(type == Q6_K ? b + 208 : b, d);
    if (type == Q4_K) put_half(b + 2, 7.5f * d);
}

/* Matrices have the variance 1 / row length: what goes through keeps its size. */
static void write_tensor(maker *m, const tensor *t) {
    const int block = types[t->type].block, bytes = types[t->type].bytes;
    const int64_t n = t->dims[0] * t->dims[1] * t->dims[2];
    const int leaves = strstr(t->name, "attn_output.") || strstr(t->name, "ffn_down.");
    const float deviation = (float)((leaves ? m->weight : 1) / sqrt((double)t->dims[0]));
    size_t used = 0;
    for (int64_t i = 0; i < n; i += block) {
        if (used + (size_t)bytes > sizeof m->out) {
            gguf_writer_write(m->w, m->out, used);
            used = 0;
        }
        if (t->type == F32) {
            const float x = number_of(m, t, i, deviation);
            uint32_t u;
            memcpy(&u, &x, 4);
            for (int k = 0; k < 4; k++) m->out[used + (size_t)k] = (uint8_t)(u >> 8 * k);
        } else if (t->type == F16) put_half(m->out + used, number_of(m, t, i, deviation));
        else put_block(m, m->out + used, t->type, deviation);
        used += (size_t)bytes;
    }
    gguf_writer_write(m->w, m->out, used);
}

static int usage(void) {
    fprintf(stderr, "usage: make_model PRESET F32|F16|Q8_0|Q4_0|Q4_K|Q6_K|Q4_K_M OUT.gguf [seed [weight]]\npresets:");
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) fprintf(stderr, " %s", presets[i].name);
    fprintf(stderr, "\n");
    return 2;
}

int main(int argc, char **argv) {
    static maker m;
    polar_error e;
    if (argc < 4 || argc > 6) return usage();
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (!strcmp(presets[i].name, argv[1])) m.p = &presets[i];
    for (m.type = 0; m.type <= N_TYPES && strcmp(types[m.type].name, argv[2]);) m.type++;
    if (!m.p || m.type > N_TYPES) return usage();
    if ((m.mix = m.type == Q4_K_M)) m.type = Q4_K;
    m.weight = argc > 5 ? atof(argv[5]) : 1;
    m.state = (argc > 4 ? strtoull(argv[4], NULL, 10) : 1) * 0x2545F4914F6CDD1Du;
    if (gguf_writer_open(&m.w, argv[3], NULL, &e)) return fail(e.message);
    write_hyperparameters(&m);
    if (!write_vocabulary(&m)) {
        gguf_writer_close(m.w);
        return fail("out of memory");
    }
    write_template(&m);
    add_tensors(&m);
    for (int i = 0; i < m.n; i++) write_tensor(&m, &m.tensors[i]);
    if (gguf_writer_finish(m.w, &e)) {
        gguf_writer_close(m.w);
        return fail(e.message);
    }
    gguf_writer_close(m.w);
    return 0;
}
