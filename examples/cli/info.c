/* polar info: what is in a GGUF file, and what it needs to run. Shows polar_gguf and polar_model_info. */
#include "cli.h"

typedef struct info_options {
    const char *path, *program;
    int tensors, metadata, checksum, json, n_ctx, threads;
} info_options;

#define MAX_TYPE 64 /* above all numbers of tensor types */

/* What the tensors of a file add up to. */
typedef struct totals {
    int n_tensors, count[MAX_TYPE];
    int64_t values, bytes, type_bytes[MAX_TYPE];
} totals;

static totals add_up(const polar_gguf *g) {
    totals t;
    polar_gguf_tensor tensor;
    memset(&t, 0, sizeof t);
    for (; polar_gguf_get_tensor(g, t.n_tensors, &tensor); t.n_tensors++) {
        int type = tensor.type < MAX_TYPE ? tensor.type : MAX_TYPE - 1;
        t.count[type]++;
        t.type_bytes[type] += (int64_t)tensor.bytes;
        t.bytes += (int64_t)tensor.bytes;
        t.values += tensor.dims[0] * tensor.dims[1] * tensor.dims[2] * tensor.dims[3];
    }
    return t;
}

/* "1.3 GB", "7.8 B": decimal units, as disks and parameter counts have them. */
static const char *amount(double n, const char *unit, char text[32]) {
    static const char *const prefixes[] = {"", "k", "M", "G", "T"};
    int i = 0;
    while (n >= 999.95 && i < 4) {
        n /= 1000;
        i++;
    }
    snprintf(text, 32, i ? "%.1f %s%s" : "%.0f %s%s", n, i == 3 && !*unit ? "B" : prefixes[i], unit);
    return text;
}

/* The text of a string value for a terminal: one line without control characters. */
static void print_value(const polar_gguf *g, const char *key, const char *label) {
    char text[200];
    int index = polar_gguf_find(g, key);
    polar_gguf_pair pair;
    if (index < 0 || !polar_gguf_get_pair(g, index, &pair) || pair.is_array) return;
    polar_gguf_text(g, index, 0, text, sizeof text);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    if (*text) printf("%-13s %s\n", label, text);
}

/* A value as JSON: arrays whole in JSON output, their first elements for people. */
static void print_pair(const polar_gguf *g, int index, const polar_gguf_pair *pair, size_t limit, size_t cut) {
    char *text = NULL;
    size_t n = pair->count < limit ? pair->count : limit;
    if (pair->is_array) printf("[");
    for (size_t i = 0; i < n; i++) {
        size_t length = polar_gguf_text(g, index, i, NULL, 0);
        double number;
        if (i) printf(",");
        if (pair->type == POLAR_GGUF_F64 && polar_gguf_number(g, index, i, &number)) {
            json_put_double(stdout, number); /* with all its digits */
            continue;
        }
        if (!(text = malloc(length + 1))) {
            printf("null");
            continue;
        }
        polar_gguf_text(g, index, i, text, length + 1);
        if (pair->type == POLAR_GGUF_STRING) {
            json_put_string(stdout, text, length < cut ? length : cut);
            if (length > cut) printf("...");
        } else if (!strcmp(text, "nan") || strstr(text, "inf")) printf("null");
        else printf("%s", text);
        free(text);
    }
    if (n < pair->count) printf(",...");
    if (pair->is_array) printf("]");
}

static void print_metadata(const polar_gguf *g, int as_json) {
    polar_gguf_pair pair;
    if (as_json) printf(",\"metadata\":{");
    for (int i = 0; polar_gguf_get_pair(g, i, &pair); i++) {
        if (as_json) {
            if (i) printf(",");
            json_put_string(stdout, pair.key, pair.key_length);
            printf(":");
            /* vocabularies are for polar tokenize: an array of more than this is cut to its length */
            if (pair.is_array && pair.count > 256) printf("{\"count\":%llu}", (unsigned long long)pair.count);
            else print_pair(g, i, &pair, 256, (size_t)-1);
        } else {
            if (!i) printf("\n");
            printf("%.*s = ", (int)pair.key_length, pair.key);
            if (pair.is_array && pair.count > 6) printf("%llu of ", (unsigned long long)pair.count);
            print_pair(g, i, &pair, 6, 60);
            printf("\n");
        }
    }
    if (as_json) printf("}");
}

static void print_tensors(const polar_gguf *g, int as_json) {
    polar_gguf_tensor t;
    if (as_json) printf(",\"tensors\":[");
    else printf("\n");
    for (int i = 0; polar_gguf_get_tensor(g, i, &t); i++) {
        char shape[100];
        int at = 0;
        for (int k = 0; k < t.n_dims; k++)
            at += snprintf(shape + at, sizeof shape - (size_t)at,
                           as_json && k ? ",%lld"
                           : k       ? " x %lld"
                                     : "%lld",
                           (long long)t.dims[k]);
        if (as_json) {
            printf(i ? ",{\"name\":" : "{\"name\":");
            json_put_string(stdout, t.name, t.name_length);
            printf(",\"type\":\"%s\",\"shape\":[%s],\"bytes\":%llu}", polar_gguf_type_name(t.type), shape,
                   (unsigned long long)t.bytes);
        } else
            printf("%-40.*s %-7s %20s %12llu bytes\n", (int)t.name_length, t.name, polar_gguf_type_name(t.type), shape,
                   (unsigned long long)t.bytes);
    }
    if (as_json) printf("]");
}

/* --- what a session would need */

typedef struct session_size {
    int n_ctx, n_calls;
    size_t f16, f32; /* bytes with either type of keys and values */
} session_size;

/* 0, or the exit status after a message. */
static int measure(const info_options *o, const polar_model *model, session_size *size) {
    polar_session_options so = {0};
    polar_model_info info;
    polar_program program;
    polar_error e;
    polar_model_get_info(model, &info);
    if (polar_model_program(model, o->program, &program, &e)) return cli_fail("%s", e.message);
    size->n_ctx = so.n_ctx = o->n_ctx ? o->n_ctx : info.n_ctx_train < 4096 ? info.n_ctx_train : 4096;
    size->n_calls = polar_program_length(&program);
    so.n_threads = o->threads;
    so.kv_type = POLAR_KV_F16;
    size->f16 = polar_session_bytes(model, &program, &so);
    so.kv_type = POLAR_KV_F32;
    size->f32 = polar_session_bytes(model, &program, &so);
    if (!size->f16 || !size->f32) return cli_fail("a session of %d tokens is refused", so.n_ctx);
    return 0;
}

/* --- for people */

static void print_token(const polar_model *model, const char *what, int token) {
    char text[64];
    int32_t id = token;
    size_t length;
    if (token < 0) return;
    printf("; %s %d ", what, token);
    if (polar_detokenize(model, &id, 1, POLAR_DETOKENIZE_SPECIAL, text, sizeof text, &length, NULL)) return;
    json_put_string(stdout, text, length < sizeof text ? length : sizeof text);
}

static void print_vocabulary(const polar_model *model, const polar_model_info *i) {
    printf("%-13s %d tokens, %s", "vocabulary", i->n_vocab, i->tokenizer);
    print_token(model, "bos", i->token_bos);
    print_token(model, "eos", i->token_eos);
    if (i->token_eot != i->token_eos) print_token(model, "eot", i->token_eot);
    printf("\n%-13s %s\n", "chat format", polar_chat_name(i->chat));
    for (const char *line = i->notes, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        printf("%-13s %.*s\n", "note", (int)(end - line), line);
    }
}

static void print_model(const polar_model *model, const session_size *size) {
    const int n_loops = cli_own_program(model).segments[0].times;
    polar_model_info i;
    char a[32], b[32];
    polar_model_get_info(model, &i);
    printf("%-13s %d of width %d, feed-forward %d\n", "layers", i.n_layer, i.n_embd, i.n_ff);
    if (n_loops > 1) printf("%-13s %d, its own program is 0-%dx%d\n", "loops", n_loops, i.n_layer - 1, n_loops);
    printf("%-13s %d of size %d, %d for keys and values\n", "heads", i.n_head, i.head_dim, i.n_head_kv);
    if (i.n_expert) printf("%-13s %d, %d used per token\n", "experts", i.n_expert, i.n_expert_used);
    printf("%-13s %d tokens, rope base %.10g\n", "context", i.n_ctx_train, i.rope_base);
    print_vocabulary(model, &i);
    printf("%-13s %d tokens, %d layer calls: %s with F16 keys and values, %s with F32\n", "session", size->n_ctx,
           size->n_calls, amount((double)size->f16, "B", a), amount((double)size->f32, "B", b));
}

static void print_totals(const totals *t) {
    char text[32];
    if (!t->n_tensors) {
        printf("%-13s none\n", "tensors");
        return;
    }
    printf("%-13s %s", "parameters", amount((double)t->values, "", text));
    printf(" in %s, %.2f bits each\n", amount((double)t->bytes, "B", text), 8 * (double)t->bytes / (double)t->values);
    printf("%-13s %d:", "tensors", t->n_tensors);
    for (int i = 0, n = 0; i < MAX_TYPE; i++)
        if (t->count[i])
            printf("%s %d %s (%s)", n++ ? "," : "", t->count[i], polar_gguf_type_name(i),
                   amount((double)t->type_bytes[i], "B", text));
    printf("\n");
}

/* --- for machines */

static void put_text(const char *key, const char *text) {
    printf(",\"%s\":", key);
    json_put_text(stdout, text);
}

static void put_value(const polar_gguf *g, const char *key, const char *name) {
    int index = polar_gguf_find(g, name);
    polar_gguf_pair pair;
    if (index < 0 || !polar_gguf_get_pair(g, index, &pair) || pair.is_array) return;
    printf(",\"%s\":", key);
    print_pair(g, index, &pair, 1, (size_t)-1);
}

static void put_totals(const totals *t) {
    printf(",\"n_params\":%lld,\"weight_bytes\":%lld,\"n_tensors\":%d,\"types\":{", (long long)t->values,
           (long long)t->bytes, t->n_tensors);
    for (int i = 0, n = 0; i < MAX_TYPE; i++)
        if (t->count[i])
            printf("%s\"%s\":{\"count\":%d,\"bytes\":%lld}", n++ ? "," : "", polar_gguf_type_name(i), t->count[i],
                   (long long)t->type_bytes[i]);
    printf("}");
}

static void put_vocabulary(const polar_model_info *i) {
    printf(",\"n_vocab\":%d,\"bos\":%d,\"eos\":%d,\"eot\":%d", i->n_vocab, i->token_bos, i->token_eos, i->token_eot);
    put_text("tokenizer", i->tokenizer);
    put_text("chat", polar_chat_name(i->chat));
    put_text("notes", i->notes);
}

static void put_model(const polar_model *model, const session_size *size) {
    polar_model_info i;
    polar_model_get_info(model, &i);
    printf(",\"n_layer\":%d,\"n_loops\":%d,\"n_embd\":%d,\"n_head\":%d,\"n_head_kv\":%d,\"head_dim\":%d,\"n_ff\":%d",
           i.n_layer, cli_own_program(model).segments[0].times, i.n_embd, i.n_head, i.n_head_kv, i.head_dim, i.n_ff);
    printf(",\"n_expert\":%d,\"n_expert_used\":%d,\"n_ctx_train\":%d,\"rope_base\":", i.n_expert, i.n_expert_used,
           i.n_ctx_train);
    json_put_double(stdout, i.rope_base);
    put_vocabulary(&i);
    printf(",\"session\":{\"n_ctx\":%d,\"n_calls\":%d,\"bytes_f16\":%llu,\"bytes_f32\":%llu}", size->n_ctx,
           size->n_calls, (unsigned long long)size->f16, (unsigned long long)size->f32);
}

/* --- the command */

/* `model` may be NULL: `reason` says why the file cannot be run. With `vocab_only` it just tokenizes. */
static int print_info(const info_options *o, const polar_gguf *g, const polar_model *model, int vocab_only,
                      const char *reason) {
    const totals t = add_up(g);
    session_size size = {0, 0, 0, 0};
    polar_model_info i;
    int status = model && !vocab_only ? measure(o, model, &size) : 0;
    if (status) return status;
    if (model) polar_model_get_info(model, &i);
    if (o->json) {
        printf("{\"file\":");
        json_put_text(stdout, o->path);
        put_value(g, "architecture", "general.architecture");
        put_value(g, "name", "general.name");
        put_totals(&t);
        if (model && !vocab_only) put_model(model, &size);
        else if (model) put_vocabulary(&i);
        printf(",\"runs\":%s", *reason ? "false" : "true");
        if (*reason) put_text("reason", reason);
        if (model && !vocab_only && o->checksum)
            printf(",\"checksum\":\"%016llx\"", (unsigned long long)polar_model_checksum(model));
    } else {
        print_value(g, "general.name", "name");
        print_value(g, "general.architecture", "architecture");
        print_totals(&t);
        if (model && !vocab_only) print_model(model, &size);
        else if (model) print_vocabulary(model, &i);
        if (*reason) printf("%-13s no: %s\n", "runs", reason);
        if (model && !vocab_only && o->checksum)
            printf("%-13s %016llx\n", "checksum", (unsigned long long)polar_model_checksum(model));
    }
    if (o->metadata) print_metadata(g, o->json);
    if (o->tensors) print_tensors(g, o->json);
    if (o->json) printf("}\n");
    return 0;
}

/* Opens as much of the file as can be used: the model, or else its vocabulary, or just the file. */
static int show(const info_options *o) {
    polar_model_options mo = {0};
    polar_gguf *g;
    polar_model *model = NULL;
    polar_error e, ignored;
    int status, vocab_only = 0;
    mo.ignore_unknown = cli_ignore_unknown;
    if (polar_gguf_open(&g, o->path, NULL, &e)) return cli_fail_open(o->path, e.message);
    if (polar_model_open(&model, o->path, &mo, &e)) {
        mo.vocab_only = vocab_only = 1;
        if (polar_model_open(&model, o->path, &mo, &ignored)) model = NULL;
    }
    status = print_info(o, g, model, vocab_only, e.message);
    polar_model_close(model);
    polar_gguf_close(g);
    return status;
}

int command_info(cli *c) {
    info_options o = {NULL, "", 0, 0, 0, 0, 0, 0};
    const cli_option options[] = {
        {"model", 'm', CLI_TEXT, &o.path, "FILE", "GGUF file, instead of the word"},
        CLI_UNKNOWN_OPTION,
        {"tensors", 0, CLI_FLAG, &o.tensors, NULL, "list the tensors"},
        {"metadata", 0, CLI_FLAG, &o.metadata, NULL, "list the metadata"},
        {"ctx", 0, CLI_INT, &o.n_ctx, "N", "tokens of the session that is measured (4096, or the model's)"},
        {"program", 0, CLI_TEXT, &o.program, "PROGRAM", "its program of layers (the model's own)"},
        {"threads", 't', CLI_INT, &o.threads, "N", "its threads (one per core)"},
        {"checksum", 0, CLI_FLAG, &o.checksum, NULL, "64-bit checksum of the model; reads the whole file"},
        {"json", 0, CLI_FLAG, &o.json, NULL, "print a JSON object"},
        {0}};
    int status = cli_read(c, options, 0, 1);
    if (status >= 0) return status;
    if (c->n_args) o.path = c->args[0];
    if (!o.path) return cli_usage("no file: polar info FILE");
    if (o.n_ctx < 0) return cli_usage("--ctx %d: expected a number of tokens", o.n_ctx);
    return show(&o);
}
