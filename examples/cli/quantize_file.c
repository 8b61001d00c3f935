/* GGUF models in another tensor type, as quantize_file.h says. */
#include "quantize_file.h"
#include "encode.h"
#include "gguf_writer.h"
#include "same_file.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Which type each tensor gets ---
 *
 * A name like Q4_K_M stands for a mix: one type for most matrices and better ones for those that suffer most,
 * the same that llama.cpp's tools choose. Vectors, norms and the routers of experts stay as they are. */

typedef struct quantize_mix {
    const char *name;
    int file_type;  /* general.file_type */
    int type;
    const char *is; /* an alias for this one */
} quantize_mix;

static const quantize_mix quantize_mixes[] = {
    {"F32", 0, ENCODE_F32, NULL},         {"F16", 1, ENCODE_F16, NULL},         {"BF16", 32, ENCODE_BF16, NULL},
    {"Q8_0", 7, ENCODE_Q8_0, NULL},       {"Q4_0", 2, ENCODE_Q4_0, NULL},       {"Q4_1", 3, ENCODE_Q4_1, NULL},
    {"Q5_0", 8, ENCODE_Q5_0, NULL},       {"Q5_1", 9, ENCODE_Q5_1, NULL},       {"IQ4_NL", 25, ENCODE_IQ4_NL, NULL},
    {"IQ4_XS", 30, ENCODE_IQ4_XS, NULL},  {"Q2_K", 10, ENCODE_Q2_K, NULL},      {"Q3_K_S", 11, ENCODE_Q3_K, NULL},
    {"Q3_K_M", 12, ENCODE_Q3_K, NULL},    {"Q3_K_L", 13, ENCODE_Q3_K, NULL},    {"Q4_K_S", 14, ENCODE_Q4_K, NULL},
    {"Q4_K_M", 15, ENCODE_Q4_K, NULL},    {"Q5_K_S", 16, ENCODE_Q5_K, NULL},    {"Q5_K_M", 17, ENCODE_Q5_K, NULL},
    {"Q6_K", 18, ENCODE_Q6_K, NULL},      {"Q3_K", 12, ENCODE_Q3_K, "Q3_K_M"},  {"Q4_K", 15, ENCODE_Q4_K, "Q4_K_M"},
    {"Q5_K", 17, ENCODE_Q5_K, "Q5_K_M"},
};
enum { N_MIXES = sizeof quantize_mixes / sizeof *quantize_mixes };

typedef enum quantize_layers {
    QUANTIZE_ALL,
    QUANTIZE_FIRST_2,
    QUANTIZE_FIRST_4,
    QUANTIZE_FIRST_16TH,
    QUANTIZE_FIRST_8TH,
    QUANTIZE_SPREAD, /* the first and the last eighth, and every third between */
    QUANTIZE_FEW_V   /* all, where four or more heads share one of v */
} quantize_layers;

/* The first row that matches mix, tensor name and layer replaces the type of the mix. */
static const struct {
    const char *mix, *tensor;
    quantize_layers layers;
    int type;
} quantize_rules[] = {
    {"Q2_K", "attn_v", QUANTIZE_FEW_V, ENCODE_Q4_K},       {"Q2_K", "attn_v", QUANTIZE_ALL, ENCODE_Q3_K},
    {"Q2_K", "ffn_down", QUANTIZE_ALL, ENCODE_Q3_K},       {"Q2_K", "attn_output", QUANTIZE_ALL, ENCODE_Q3_K},
    {"Q3_K_M", "attn_v", QUANTIZE_FIRST_2, ENCODE_Q5_K},   {"Q3_K_M", "attn_v", QUANTIZE_ALL, ENCODE_Q4_K},
    {"Q3_K_M", "ffn_down", QUANTIZE_FIRST_16TH, ENCODE_Q5_K}, {"Q3_K_M", "ffn_down", QUANTIZE_ALL, ENCODE_Q4_K},
    {"Q3_K_M", "attn_output", QUANTIZE_ALL, ENCODE_Q4_K},  {"Q3_K_L", "attn_v", QUANTIZE_ALL, ENCODE_Q5_K},
    {"Q3_K_L", "ffn_down", QUANTIZE_ALL, ENCODE_Q5_K},     {"Q3_K_L", "attn_output", QUANTIZE_ALL, ENCODE_Q5_K},
    {"Q4_K_S", "attn_v", QUANTIZE_FIRST_4, ENCODE_Q5_K},   {"Q4_K_S", "ffn_down", QUANTIZE_FIRST_8TH, ENCODE_Q5_K},
    {"Q4_K_M", "attn_v", QUANTIZE_SPREAD, ENCODE_Q6_K},    {"Q4_K_M", "ffn_down", QUANTIZE_SPREAD, ENCODE_Q6_K},
    {"Q5_K_M", "attn_v", QUANTIZE_SPREAD, ENCODE_Q6_K},    {"Q5_K_M", "ffn_down", QUANTIZE_SPREAD, ENCODE_Q6_K},
    {"IQ4_NL", "attn_v", QUANTIZE_FEW_V, ENCODE_Q5_K},     {"IQ4_NL", "ffn_down", QUANTIZE_FIRST_8TH, ENCODE_Q5_K},
    {"IQ4_XS", "attn_v", QUANTIZE_FEW_V, ENCODE_Q5_K},     {"IQ4_XS", "ffn_down", QUANTIZE_FIRST_8TH, ENCODE_Q5_K},
};
enum { N_RULES = sizeof quantize_rules / sizeof *quantize_rules };

/* What takes the place of a type whose blocks of 256 do not fit a row. */
static int quantize_smaller_block(int type) {
    switch (type) {
    case ENCODE_Q4_K: return ENCODE_Q5_0;
    case ENCODE_Q5_K: return ENCODE_Q5_1;
    case ENCODE_Q6_K: return ENCODE_Q8_0;
    case ENCODE_IQ4_XS: return ENCODE_IQ4_NL;
    default: return ENCODE_Q4_0;
    }
}

static int quantize_fitting(int type, int64_t row) {
    if (row % encode_find(type)->block && encode_find(type)->block == 256) type = quantize_smaller_block(type);
    return row % encode_find(type)->block ? ENCODE_F16 : type;
}

/* The number N of "blk.N.", or 0. */
static int quantize_layer(const char *name) {
    int n = 0;
    if (strncmp(name, "blk.", 4)) return 0;
    for (name += 4; *name >= '0' && *name <= '9' && n < 100000; name++) n = 10 * n + (*name - '0');
    return n;
}

/* 1 if a tensor is one of those that mixes are about: a matrix of weights, or a stack of them. */
static int quantize_is_matrix(const polar_gguf_tensor *t, const char *name) {
    size_t n = strlen(name);
    return t->dims[1] * t->dims[2] * t->dims[3] > 1 && n > 6 && !strcmp(name + n - 6, "weight") &&
           !strstr(name, "_norm.weight") && !strstr(name, "ffn_gate_inp");
}

/* What mixes depend on. */
typedef struct quantize_model {
    int n_layer, n_head, n_head_kv, has_output;
} quantize_model;

static int quantize_in_layers(quantize_layers layers, int i, const quantize_model *m) {
    int n = m->n_layer;
    switch (layers) {
    case QUANTIZE_FIRST_2: return i < 2;
    case QUANTIZE_FIRST_4: return i < 4;
    case QUANTIZE_FIRST_16TH: return i < n / 16;
    case QUANTIZE_FIRST_8TH: return i < n / 8;
    case QUANTIZE_SPREAD: return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case QUANTIZE_FEW_V: return m->n_head_kv > 0 && m->n_head / m->n_head_kv >= 4;
    default: return 1;
    }
}

/* The type that the mix gives a matrix. What makes the logits, and is no embedding only, gets 6 bits. */
static int quantize_choose(const quantize_mix *mix, const polar_gguf_tensor *t, const char *name, int pure,
                                const quantize_model *m) {
    int type = mix->type;
    int output = !strcmp(name, m->has_output ? "output.weight" : "token_embd.weight");
    if (encode_find(type)->block == 1) return type;
    if (!pure && output) {
        if (t->dims[0] % encode_find(type)->block) type = ENCODE_Q8_0;
        else if (type != ENCODE_Q8_0) type = ENCODE_Q6_K;
    }
    for (int i = 0; !pure && !output && i < N_RULES; i++)
        if (!strcmp(quantize_rules[i].mix, mix->is ? mix->is : mix->name) && strstr(name, quantize_rules[i].tensor) &&
            quantize_in_layers(quantize_rules[i].layers, quantize_layer(name), m)) {
            type = quantize_rules[i].type;
            break;
        }
    return type;
}

/* --- Converting tensors --- */

#define QUANTIZE_PIECE 4096 /* numbers that one task converts, a multiple of every block */
#define QUANTIZE_PIECES 128 /* tasks between two writes */

/* What conversion did to some numbers: sums of their squares and of the squares of the differences. */
typedef struct quantize_change {
    double square, error;
} quantize_change;

/* Converts `n` numbers from one type to another, in pieces. */
typedef struct quantize_job {
    const encode_type *from, *to;
    const uint8_t *src;
    size_t n;
    uint8_t *dst;          /* of QUANTIZE_PIECES pieces */
    quantize_change *sums; /* of each piece */
    float *scratch;        /* 2 pieces for each worker */
} quantize_job;

/* A product that no compiler contracts with a sum. */
static double quantize_product(double a, double b) {
    volatile double p = a * b;
    return p;
}

static size_t quantize_bytes(const encode_type *type, size_t n) {
    return n / (size_t)type->block * (size_t)type->bytes;
}

static void quantize_convert_piece(void *context, int index, int worker) {
    const quantize_job *job = context;
    const size_t at = (size_t)index * QUANTIZE_PIECE;
    const size_t n = job->n - at < QUANTIZE_PIECE ? job->n - at : QUANTIZE_PIECE;
    float *x = job->scratch + (size_t)worker * 2 * QUANTIZE_PIECE, *y = x + QUANTIZE_PIECE;
    uint8_t *dst = job->dst + quantize_bytes(job->to, at);
    quantize_change sums = {0, 0};
    polar_gguf_dequantize(job->from->id, job->src + quantize_bytes(job->from, at), (int64_t)n, x);
    for (size_t i = 0; i < n; i += (size_t)job->to->block) job->to->encode(x + i, dst + quantize_bytes(job->to, i));
    polar_gguf_dequantize(job->to->id, dst, (int64_t)n, y);
    for (size_t i = 0; i < n; i++) {
        const double e = (double)y[i] - (double)x[i];
        sums.square += (double)x[i] * (double)x[i]; /* exact before the sum */
        sums.error += quantize_product(e, e);
    }
    job->sums[index] = sums;
}

/* Root of the mean squared error, relative to that of the numbers; 0 / 0 is 0. */
static double quantize_relative(quantize_change s) {
    return s.error > 0 ? sqrt(s.error / (s.square > 1e-300 ? s.square : 1e-300)) : 0;
}

/* --- Files --- */

const char *quantize_type_name(int index) {
    return index >= 0 && index < N_MIXES ? quantize_mixes[index].name : NULL;
}

/* What becomes of a tensor: both NULL if it is of a type that is copied unseen. */
typedef struct quantize_plan {
    const encode_type *from, *to;
} quantize_plan;

/* One run of quantize_file. */
typedef struct quantize_run {
    quantize_options options;
    const quantize_mix *mix;
    polar_runner runner;
    const char *file; /* the name of the one that is read, for messages */
    polar_gguf *in;
    gguf_writer *out;
    int n_tensors;
    quantize_plan *plans;
    char *name; /* of the tensor at hand, NUL-terminated */
    quantize_job job;
    uint64_t read, total; /* bytes of tensors, for the progress */
    quantize_change all, types[ENCODE_N];
    quantize_report report;
    polar_error *error;
} quantize_run;

#ifdef __GNUC__
static polar_status quantize_fail(polar_error *e, polar_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#endif

static polar_status quantize_fail(polar_error *e, polar_status status, const char *format, ...) {
    va_list arguments;
    if (!e) return status;
    e->status = status;
    va_start(arguments, format);
    vsnprintf(e->message, sizeof e->message, format, arguments);
    va_end(arguments);
    return status;
}

static polar_status quantize_no_memory(const quantize_run *r) {
    return quantize_fail(r->error, POLAR_MEMORY, "%s: out of memory", r->file);
}

/* 1 if two names are the same but for the case of letters; b has capitals. */
static int quantize_same_name(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (*a != *b && !(*a >= 'a' && *a <= 'z' && *a - 32 == *b)) return 0;
    return *a == *b;
}

static polar_status quantize_find_mix(const char *name, const quantize_mix **out, polar_error *e) {
    char known[320] = "";
    for (int i = 0; i < N_MIXES; i++) {
        *out = &quantize_mixes[i];
        if (quantize_same_name(name, quantize_mixes[i].name)) return POLAR_OK;
        strcat(strcat(known, " "), quantize_mixes[i].name);
    }
    return quantize_fail(e, POLAR_ARGUMENT, "there is no type %.60s to quantize to, expected one of%s", name, known);
}

static size_t quantize_numbers(const polar_gguf_tensor *t) {
    return (size_t)(t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]);
}

/* Takes tensor i and its name. */
static polar_status quantize_tensor(quantize_run *r, int i, polar_gguf_tensor *t) {
    char *name;
    polar_gguf_get_tensor(r->in, i, t);
    if (!(name = realloc(r->name, t->name_length + 1))) return quantize_no_memory(r);
    r->name = name;
    memcpy(name, t->name, t->name_length);
    name[t->name_length] = 0;
    return POLAR_OK;
}

static polar_status quantize_allocate(quantize_run *r) {
    polar_gguf_tensor t;
    size_t n = (size_t)r->runner.n_threads * 2 * QUANTIZE_PIECE;
    while (polar_gguf_get_tensor(r->in, r->n_tensors, &t)) r->n_tensors++;
    r->plans = calloc((size_t)r->n_tensors + 1, sizeof *r->plans);
    r->job.dst = malloc((size_t)QUANTIZE_PIECE * QUANTIZE_PIECES * 4);
    r->job.sums = malloc(QUANTIZE_PIECES * sizeof *r->job.sums);
    r->job.scratch = malloc(n * sizeof *r->job.scratch);
    return r->plans && r->job.dst && r->job.sums && r->job.scratch ? POLAR_OK : quantize_no_memory(r);
}

/* An integer of the metadata under ARCHITECTURE.name, 0 if there is none: rules that need it do not apply. */
static int quantize_metadata(const polar_gguf *g, const char *name) {
    char architecture[61] = "", key[128], text[24] = "";
    polar_gguf_pair pair;
    int64_t value = 0;
    int index;
    polar_gguf_text(g, polar_gguf_find(g, "general.architecture"), 0, architecture, sizeof architecture);
    snprintf(key, sizeof key, "%s.%s", architecture, name);
    index = polar_gguf_find(g, key);
    if (!polar_gguf_get_pair(g, index, &pair) || pair.is_array || pair.type == POLAR_GGUF_STRING) return 0;
    if (polar_gguf_text(g, index, 0, text, sizeof text) >= sizeof text) return 0;
    for (const char *s = text; *s; s++) {
        if (*s < '0' || *s > '9' || value > INT_MAX / 10) return 0;
        value = 10 * value + (*s - '0');
    }
    return value <= INT_MAX ? (int)value : 0;
}

static int quantize_has_tensor(const polar_gguf *g, const char *name) {
    polar_gguf_tensor t;
    for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++)
        if (t.name_length == strlen(name) && !memcmp(t.name, name, t.name_length)) return 1;
    return 0;
}

/* Metadata, and the types of all tensors. */
static polar_status quantize_put_header(quantize_run *r) {
    const quantize_model m = {quantize_metadata(r->in, "block_count"), quantize_metadata(r->in, "attention.head_count"),
                              quantize_metadata(r->in, "attention.head_count_kv"),
                              quantize_has_tensor(r->in, "output.weight")};
    polar_gguf_tensor t;
    polar_status status;
    gguf_writer_copy(r->out, r->in);
    gguf_writer_set_u32(r->out, "general.file_type", (uint32_t)r->mix->file_type);
    gguf_writer_set_u32(r->out, "general.quantization_version", 2); /* of ggml's layouts since 2023 */
    for (int i = 0; i < r->n_tensors; i++) {
        quantize_plan *p = &r->plans[i];
        if ((status = quantize_tensor(r, i, &t)) != POLAR_OK) return status;
        p->from = p->to = encode_find(t.type);
        if (quantize_is_matrix(&t, r->name)) {
            const int wanted = quantize_choose(r->mix, &t, r->name, r->options.pure, &m);
            if (!p->from)
                return quantize_fail(r->error, POLAR_UNSUPPORTED, "%s: tensor %.100s has type %s (%d), which this "
                                     "library does not read", r->file, r->name, polar_gguf_type_name(t.type), t.type);
            p->to = encode_find(quantize_fitting(wanted, t.dims[0]));
            r->report.n_fallback += p->to->id != wanted;
        }
        gguf_writer_add_tensor(r->out, r->name, p->to ? p->to->id : t.type, t.n_dims, t.dims);
        r->total += t.bytes;
    }
    return POLAR_OK;
}

static polar_status quantize_advance(quantize_run *r, size_t bytes) {
    r->read += bytes;
    if (r->options.progress && r->options.progress(r->options.progress_user, (double)r->read / (double)r->total))
        return quantize_fail(r->error, POLAR_CANCELLED, "%s: cancelled", r->file);
    return POLAR_OK;
}

/* Converts one tensor into the new file, and adds what that changed to *sums. */
static polar_status quantize_put_tensor(quantize_run *r, const polar_gguf_tensor *t, const quantize_plan *p,
                                        quantize_change *sums) {
    quantize_job *job = &r->job;
    polar_status status = POLAR_OK;
    size_t left = quantize_numbers(t);
    job->from = p->from;
    job->to = p->to;
    job->src = t->data;
    while (left && status == POLAR_OK) {
        const size_t most = (size_t)QUANTIZE_PIECE * QUANTIZE_PIECES;
        int n_pieces;
        job->n = left < most ? left : most;
        n_pieces = (int)((job->n + QUANTIZE_PIECE - 1) / QUANTIZE_PIECE);
        r->runner.run(r->runner.user, n_pieces, quantize_convert_piece, job);
        for (int i = 0; i < n_pieces; i++) { /* in order: the same sums with any number of threads */
            sums->square += job->sums[i].square;
            sums->error += job->sums[i].error;
        }
        if (!(sums->error - sums->error == 0))
            return quantize_fail(r->error, POLAR_NUMERIC, "%s: tensor %.100s has numbers that are not finite, or not "
                                 "in %s", r->file, r->name, p->to->name);
        if (gguf_writer_write(r->out, job->dst, quantize_bytes(p->to, job->n)))
            return gguf_writer_finish(r->out, r->error);
        status = quantize_advance(r, quantize_bytes(p->from, job->n));
        job->src += quantize_bytes(p->from, job->n);
        left -= job->n;
    }
    return status;
}

/* Adds the tensor that has just been written to the report. */
static void quantize_account(quantize_run *r, const polar_gguf_tensor *t, const quantize_plan *p,
                             quantize_change sums) {
    quantize_report *report = &r->report;
    const int type = p->to ? (int)(p->to - encode_types) : ENCODE_N;
    quantize_part *part = &report->parts[type];
    const size_t bytes = p->to ? quantize_bytes(p->to, quantize_numbers(t)) : t->bytes;
    const double error = quantize_relative(sums);
    part->n_tensors++;
    part->n_params += (int64_t)quantize_numbers(t);
    part->bytes += (int64_t)bytes;
    report->n_tensors++;
    report->bytes_in += (int64_t)t->bytes;
    report->bytes_out += (int64_t)bytes;
    if (p->from == p->to) return;
    report->n_converted++;
    report->n_requantized += p->from->block > 1;
    r->all.square += sums.square;
    r->all.error += sums.error;
    r->types[type].square += sums.square;
    r->types[type].error += sums.error;
    if (error > report->worst_error) {
        snprintf(report->worst_tensor, sizeof report->worst_tensor, "%s", r->name);
        report->worst_error = error;
        report->worst_type = p->to->name;
    }
}

static polar_status quantize_put_data(quantize_run *r) {
    polar_status status = POLAR_OK;
    for (int i = 0; i < r->n_tensors && status == POLAR_OK; i++) {
        const quantize_plan *p = &r->plans[i];
        quantize_change sums = {0, 0};
        polar_gguf_tensor t;
        if ((status = quantize_tensor(r, i, &t)) != POLAR_OK) return status;
        if (p->from != p->to) status = quantize_put_tensor(r, &t, p, &sums);
        else if (gguf_writer_write(r->out, t.data, t.bytes)) return gguf_writer_finish(r->out, r->error);
        else status = quantize_advance(r, t.bytes);
        quantize_account(r, &t, p, sums);
    }
    return status;
}

/* Leaves in the report the parts that occur, with their errors. */
static void quantize_finish_report(quantize_run *r) {
    quantize_report *report = &r->report;
    int n = 0;
    for (int i = 0; i <= ENCODE_N; i++) { /* the last: tensors of types that are copied unseen */
        quantize_part part = report->parts[i];
        if (!part.n_tensors) continue;
        part.type = i < ENCODE_N ? encode_types[i].name : "other";
        part.error = i < ENCODE_N ? quantize_relative(r->types[i]) : 0;
        report->parts[n++] = part;
    }
    report->n_parts = n;
    report->error = quantize_relative(r->all);
}

static polar_status quantize_convert_file(quantize_run *r, const char *in, const char *out) {
    polar_status status = polar_gguf_open(&r->in, in, NULL, r->error);
    if (status != POLAR_OK) return status;
    if ((status = quantize_allocate(r)) != POLAR_OK) return status;
    if ((status = gguf_writer_open(&r->out, out, NULL, r->error)) != POLAR_OK) return status;
    if ((status = quantize_put_header(r)) != POLAR_OK) return status;
    if ((status = quantize_put_data(r)) != POLAR_OK) return status;
    return gguf_writer_finish(r->out, r->error);
}

/* What stands behind the last slash. */
static const char *quantize_base_name(const char *path) {
    const char *name = path;
    for (; *path; path++)
        if (*path == '/' || *path == '\\') name = path + 1;
    return name;
}

/* The file that is read, if `out` is it: `in` or another part of a split model; else NULL. The name is put into `part`,
 * which has room for it. */
static const char *quantize_overwritten(const char *in, const char *out, char *part) {
    const size_t n = strlen(in);
    strcpy(part, in);
    if (same_file(in, out)) return in;
    if (n < 20 || strncmp(in + n - 20, "-00001-of-", 10)) return NULL;
    for (int k = 2; k <= atoi(in + n - 10); k++) {
        for (int i = 0, rest = k; i < 5; i++, rest /= 10) part[n - 15 - (size_t)i] = (char)('0' + rest % 10);
        if (same_file(part, out)) return part;
    }
    return NULL;
}

/* Nothing that is read is replaced. */
static polar_status quantize_check(const char *in, const char *out, polar_error *error) {
    char *part = malloc(strlen(in) + 1);
    const char *file = part ? quantize_overwritten(in, out, part) : NULL;
    polar_status status = POLAR_OK;
    if (!part) status = quantize_fail(error, POLAR_MEMORY, "out of memory");
    else if (file)
        status = quantize_fail(error, POLAR_ARGUMENT, "%s and %s are the same file: choose another output", out, file);
    free(part);
    return status;
}

polar_status quantize_file(const char *in, const char *out, const char *type, const quantize_options *options,
                           quantize_report *report, polar_error *error) {
    quantize_run r;
    polar_pool *pool = NULL;
    polar_status status;
    if (error) memset(error, 0, sizeof *error);
    if (!in || !out || !type) return quantize_fail(error, POLAR_ARGUMENT, "quantize_file: in, out or type is NULL");
    memset(&r, 0, sizeof r);
    if (options) r.options = *options;
    r.error = error;
    r.file = quantize_base_name(in);
    status = quantize_find_mix(type, &r.mix, error);
    if (status == POLAR_OK) status = quantize_check(in, out, error);
    if (status == POLAR_OK && !r.options.runner)
        status = polar_pool_create(&pool, r.options.n_threads, NULL, error);
    if (status == POLAR_OK) {
        r.runner = pool ? polar_pool_runner(pool) : *r.options.runner;
        status = quantize_convert_file(&r, in, out);
    }
    if (status == POLAR_OK) quantize_finish_report(&r);
    if (report) *report = r.report;
    gguf_writer_close(r.out);
    polar_gguf_close(r.in);
    free(r.plans);
    free(r.name);
    free(r.job.dst);
    free(r.job.sums);
    free(r.job.scratch);
    polar_pool_free(pool);
    return status;
}
