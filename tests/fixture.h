/* Small GGUF models in memory, written byte by byte, for the tests: every architecture, every tensor type, random
 * weights from a seed. They use nothing of polar but its table of tensor types. */
#ifndef FIXTURE_H
#define FIXTURE_H
#include "../examples/cli/encode.c"
#include "test.h"

typedef struct fixture {
    uint8_t *data;
    size_t size, capacity;
    uint64_t seed;
    int n_kv, n_tensors;
} fixture;

typedef struct fixture_tensor {
    char name[64];
    int type, n_dims, dims[3];
    float scale, shift; /* values are shift + scale * uniform(-1, 1) */
} fixture_tensor;

static void fx_bytes(fixture *f, const void *p, size_t n) {
    if (f->size + n > f->capacity) {
        f->capacity = (f->size + n) * 2;
        f->data = realloc(f->data, f->capacity);
        if (!f->data) abort();
    }
    if (n) memcpy(f->data + f->size, p, n);
    f->size += n;
}

static void fx_u32(fixture *f, uint32_t v) {
    uint8_t b[4];
    wr_u32(b, v);
    fx_bytes(f, b, 4);
}

static void fx_u64(fixture *f, uint64_t v) {
    uint8_t b[8];
    wr_u64(b, v);
    fx_bytes(f, b, 8);
}

static void fx_str(fixture *f, const char *s) {
    fx_u64(f, strlen(s));
    fx_bytes(f, s, strlen(s));
}

static void fx_key(fixture *f, const char *arch, const char *key, uint32_t type) {
    char full[128];
    snprintf(full, sizeof full, "%s%s%s", arch, *arch ? "." : "", key);
    fx_str(f, full);
    fx_u32(f, type);
    f->n_kv++;
}

static void fx_kv_u32(fixture *f, const char *arch, const char *key, uint32_t v) {
    fx_key(f, arch, key, 4);
    fx_u32(f, v);
}

static void fx_kv_f32(fixture *f, const char *arch, const char *key, float v) {
    fx_key(f, arch, key, 6);
    fx_u32(f, f32_bits(v));
}

static void fx_kv_str(fixture *f, const char *key, const char *v) {
    fx_key(f, "", key, 8);
    fx_str(f, v);
}

/* The byte alphabet of GPT-2 as tokens 0..255, then fillers, then an end token; a single merge. */
static void fx_vocab(fixture *f, int n_vocab) {
    int extra = 0;
    fx_kv_str(f, "tokenizer.ggml.model", "gpt2");
    fx_kv_str(f, "tokenizer.ggml.pre", "gpt-2");
    fx_key(f, "", "tokenizer.ggml.tokens", 9);
    fx_u32(f, 8);
    fx_u64(f, (uint64_t)n_vocab);
    for (int i = 0; i < n_vocab; i++) {
        char s[24];
        int shown = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || (i >= 174 && i <= 255);
        int c = i < 256 ? (shown ? i : 256 + extra++) : 0;
        if (i >= 256) snprintf(s, sizeof s, i == n_vocab - 1 ? "<|endoftext|>" : i == 256 ? "th" : "[filler%d]", i);
        else if (c < 128) s[0] = (char)c, s[1] = 0;
        else s[0] = (char)(0xC0 | c >> 6), s[1] = (char)(0x80 | (c & 63)), s[2] = 0;
        fx_str(f, s);
    }
    fx_key(f, "", "tokenizer.ggml.merges", 9);
    fx_u32(f, 8);
    fx_u64(f, 1);
    fx_str(f, "t h");
    fx_key(f, "", "tokenizer.ggml.token_type", 9);
    fx_u32(f, 5);
    fx_u64(f, (uint64_t)n_vocab);
    for (int i = 0; i < n_vocab; i++) fx_u32(f, i == n_vocab - 1 ? 3 : 1);
    fx_kv_u32(f, "", "tokenizer.ggml.eos_token_id", (uint32_t)n_vocab - 1);
}

/* The least that a SentencePiece vocabulary needs: unknown, BOS, EOS, and letters. */
static void fx_small_vocab(fixture *f, int n_vocab) {
    fx_kv_str(f, "tokenizer.ggml.model", "llama");
    fx_key(f, "", "tokenizer.ggml.tokens", 9);
    fx_u32(f, 8);
    fx_u64(f, (uint64_t)n_vocab);
    for (int i = 0; i < n_vocab; i++) {
        char s[2] = {(char)('a' + i - 3), 0};
        fx_str(f, i == 0 ? "<unk>" : i == 1 ? "<s>" : i == 2 ? "</s>" : s);
    }
    fx_key(f, "", "tokenizer.ggml.scores", 9);
    fx_u32(f, 6);
    fx_u64(f, (uint64_t)n_vocab);
    for (int i = 0; i < n_vocab; i++) fx_u32(f, f32_bits((float)-i));
}

enum { FX_LAYERS = 4, FX_VOCAB = 300, FX_CTX = 96, FX_EXPERTS = 6 };

static void fx_tensor(fixture_tensor *t, int *n, int layer, const char *name, int type, float scale, float shift,
                      int d0, int d1, int d2) {
    fixture_tensor *x = &t[(*n)++];
    if (layer < 0) snprintf(x->name, sizeof x->name, "%s", name);
    else snprintf(x->name, sizeof x->name, "blk.%d.%s", layer, name);
    x->type = type;
    x->scale = scale;
    x->shift = shift;
    x->dims[0] = d0, x->dims[1] = d1, x->dims[2] = d2;
    x->n_dims = d2 ? 3 : d1 ? 2 : 1;
}

static void fx_fill(fixture *f, const fixture_tensor *t) {
    const quant_type *q = &quant_types[t->type];
    const int rows = (t->dims[1] ? t->dims[1] : 1) * (t->dims[2] ? t->dims[2] : 1);
    const int n = rows * t->dims[0];
    uint8_t blocks[32][256]; /* of quantized types only so many different ones: encoding takes long */
    for (int i = 0, k = 0; i < n; i += q->block, k++) {
        const int at = k < 32 ? k : (int)(rng_next(&f->seed) % 32);
        if (k < 32 || q->block == 1) {
            float x[256];
            for (int j = 0; j < q->block; j++) x[j] = fma32(t->scale, 2 * rng_float(&f->seed) - 1, t->shift);
            encode_find(q->id)->encode(x, blocks[at]);
        } else f->seed += (uint64_t)q->block * 0x9E3779B97F4A7C15u; /* the step of rng_next, so often */
        fx_bytes(f, blocks[at], (size_t)q->bytes);
    }
    while (f->size % 32) fx_bytes(f, "", 1);
}

typedef struct fixture_shape {
    int layers, width, head, ff, vocab, ctx; /* 4 heads over 2 */
    int small_vocab;
} fixture_shape;

/* A model of an architecture and a shape with matrices of a type (norms and biases F32). Free f.data. */
static fixture fixture_shaped(const char *arch, int type, uint64_t seed, const fixture_shape *shape) {
    fixture f = {NULL, 0, 0, seed, 0, 0};
    fixture_tensor t[128];
    const int d = shape->width, head = shape->head, dq = 4 * head, dk = 2 * head, ff = shape->ff;
    const int moe = strstr(arch, "moe") != NULL, shared = !strcmp(arch, "qwen2moe");
    const int gemma = !strcmp(arch, "gemma3");
    const float w = 0.11f;
    size_t n_kv_at, n_tensors_at, offset = 0;
    int n = 0;
    fx_bytes(&f, "GGUF", 4);
    fx_u32(&f, 3);
    n_tensors_at = f.size, fx_u64(&f, 0);
    n_kv_at = f.size, fx_u64(&f, 0);
    fx_kv_str(&f, "general.architecture", arch);
    fx_kv_str(&f, "general.name", "fixture");
    fx_kv_u32(&f, arch, "block_count", (uint32_t)shape->layers);
    fx_kv_u32(&f, arch, "context_length", (uint32_t)shape->ctx);
    fx_kv_u32(&f, arch, "embedding_length", (uint32_t)d);
    fx_kv_u32(&f, arch, "feed_forward_length", (uint32_t)ff);
    fx_kv_u32(&f, arch, "attention.head_count", 4);
    fx_kv_u32(&f, arch, "attention.head_count_kv", 2);
    fx_kv_u32(&f, arch, "attention.key_length", (uint32_t)head);
    fx_kv_u32(&f, arch, "attention.value_length", (uint32_t)head);
    fx_kv_f32(&f, arch, "attention.layer_norm_rms_epsilon", 1e-5f);
    if (moe) {
        fx_kv_u32(&f, arch, "expert_count", FX_EXPERTS);
        fx_kv_u32(&f, arch, "expert_used_count", 2);
    }
    if (gemma) {
        fx_kv_u32(&f, arch, "attention.sliding_window", 5);
        fx_kv_u32(&f, arch, "attention.sliding_window_pattern", 2);
    }
    if (!strcmp(arch, "nanbeige") || !strcmp(arch, "ouro")) fx_kv_u32(&f, arch, "num_loops", 2);
    if (shape->small_vocab) fx_small_vocab(&f, shape->vocab);
    else fx_vocab(&f, shape->vocab);
    fx_tensor(t, &n, -1, "token_embd.weight", type, 1, 0, d, shape->vocab, 0);
    fx_tensor(t, &n, -1, "output_norm.weight", QUANT_F32, 0.2f, 1, d, 0, 0);
    for (int i = 0; i < shape->layers; i++) {
        fx_tensor(t, &n, i, "attn_norm.weight", QUANT_F32, 0.2f, 1, d, 0, 0);
        fx_tensor(t, &n, i, "ffn_norm.weight", QUANT_F32, 0.2f, 1, d, 0, 0);
        if (!strcmp(arch, "ouro") || gemma) {
            fx_tensor(t, &n, i, "post_attention_norm.weight", QUANT_F32, 0.2f, 1, d, 0, 0);
            fx_tensor(t, &n, i, "post_ffw_norm.weight", QUANT_F32, 0.2f, 1, d, 0, 0);
        }
        fx_tensor(t, &n, i, "attn_q.weight", type, w, 0, d, dq, 0);
        fx_tensor(t, &n, i, "attn_k.weight", type, w, 0, d, dk, 0);
        fx_tensor(t, &n, i, "attn_v.weight", type, w, 0, d, dk, 0);
        fx_tensor(t, &n, i, "attn_output.weight", dq % quant_types[type].block ? QUANT_Q8_0 : type, w, 0, dq, d, 0);
        if (!strncmp(arch, "qwen2", 5)) {
            fx_tensor(t, &n, i, "attn_q.bias", QUANT_F32, 0.5f, 0, dq, 0, 0);
            fx_tensor(t, &n, i, "attn_k.bias", QUANT_F32, 0.5f, 0, dk, 0, 0);
            fx_tensor(t, &n, i, "attn_v.bias", QUANT_F32, 0.5f, 0, dk, 0, 0);
        }
        if (!strncmp(arch, "qwen3", 5) || gemma) {
            fx_tensor(t, &n, i, "attn_q_norm.weight", QUANT_F32, 0.2f, 1, head, 0, 0);
            fx_tensor(t, &n, i, "attn_k_norm.weight", QUANT_F32, 0.2f, 1, head, 0, 0);
        }
        if (!moe) {
            fx_tensor(t, &n, i, "ffn_gate.weight", type, w, 0, d, ff, 0);
            fx_tensor(t, &n, i, "ffn_up.weight", type, w, 0, d, ff, 0);
            fx_tensor(t, &n, i, "ffn_down.weight", type, w, 0, ff, d, 0);
            continue;
        }
        fx_tensor(t, &n, i, "ffn_gate_inp.weight", QUANT_F32, w, 0, d, FX_EXPERTS, 0);
        fx_tensor(t, &n, i, "ffn_gate_exps.weight", type, w, 0, d, ff, FX_EXPERTS);
        fx_tensor(t, &n, i, "ffn_up_exps.weight", type, w, 0, d, ff, FX_EXPERTS);
        fx_tensor(t, &n, i, "ffn_down_exps.weight", type, w, 0, ff, d, FX_EXPERTS);
        if (!shared) continue;
        fx_tensor(t, &n, i, "ffn_gate_inp_shexp.weight", QUANT_F32, w, 0, d, 0, 0);
        fx_tensor(t, &n, i, "ffn_gate_shexp.weight", type, w, 0, d, ff, 0);
        fx_tensor(t, &n, i, "ffn_up_shexp.weight", type, w, 0, d, ff, 0);
        fx_tensor(t, &n, i, "ffn_down_shexp.weight", type, w, 0, ff, d, 0);
    }
    for (int i = 0; i < n; i++) {
        const quant_type *q = &quant_types[t[i].type];
        size_t bytes = (size_t)q->bytes * (size_t)(t[i].dims[0] / q->block);
        fx_str(&f, t[i].name);
        fx_u32(&f, (uint32_t)t[i].n_dims);
        for (int k = 0; k < t[i].n_dims; k++) {
            fx_u64(&f, (uint64_t)t[i].dims[k]);
            if (k) bytes *= (size_t)t[i].dims[k];
        }
        fx_u32(&f, (uint32_t)q->id);
        fx_u64(&f, offset);
        offset += (bytes + 31) / 32 * 32;
    }
    while (f.size % 32) fx_bytes(&f, "", 1);
    for (int i = 0; i < n; i++) fx_fill(&f, &t[i]);
    wr_u64(f.data + n_tensors_at, (uint64_t)n);
    wr_u64(f.data + n_kv_at, (uint64_t)f.n_kv);
    return f;
}

/* The width is 256, so that every type fits; head size 32 in qwen3 and 64 elsewhere. */
static fixture fixture_model(const char *arch, int type, uint64_t seed) {
    const fixture_shape shape = {FX_LAYERS, 256, !strncmp(arch, "qwen3", 5) ? 32 : 64, 256, FX_VOCAB, FX_CTX, 0};
    return fixture_shaped(arch, type, seed, &shape);
}

static const char *const fx_archs[] = {"llama", "qwen2", "qwen3", "qwen2moe", "smollm3", "qwen3moe", "nanbeige", "ouro",
                                       "gemma3"};

/* The model of a fixture, which must outlive it. */
static MAYBE_UNUSED polar_model *fx_open(const fixture *f, polar_cpu cpu) {
    polar_model_options o = {0};
    polar_model *m = NULL;
    polar_error e;
    o.cpu = cpu;
    polar_model_open_memory(&m, f->data, f->size, &o, &e);
    CHECK_STR(e.message, "");
    return m;
}

/* Random numbers of the tests, 0..n-1. */
static uint64_t fx_random = 11;

static MAYBE_UNUSED int fx_below(int n) {
    return (int)(rng_next(&fx_random) % (uint64_t)n);
}

/* The calls of a random program, at most 10: layers skipped, run once, several times, or in damped passes. */
static MAYBE_UNUSED int fx_program(int *calls) {
    polar_program p;
    do {
        memset(&p, 0, sizeof p);
        p.n_layer = FX_LAYERS;
        for (int at = 0, length; at < FX_LAYERS; at += length) {
            polar_segment *s = &p.segments[p.n_segments++];
            length = 1 + fx_below(MIN(3, FX_LAYERS - at));
            s->start = (int16_t)at, s->length = (int16_t)length, s->times = (int16_t)fx_below(4);
            s->damped = (int16_t)(s->times > 1 && fx_below(3));
        }
    } while (polar_program_length(&p) < 1 || polar_program_length(&p) > 10);
    return polar_program_calls(&p, calls, 10);
}

/* A few KB. */
static MAYBE_UNUSED fixture fixture_small(const char *arch, int type, uint64_t seed) {
    const fixture_shape shape = {2, 32, 8, 32, 16, 24, 1};
    return fixture_shaped(arch, type, seed, &shape);
}

#endif
