/* examples/cli/import.c: files of weights as the two public programs write them, made here byte by byte. */
#ifdef __unix__
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdlib.h>

/* Allocations of the importer that fail from a number on. */
static int allocations_left = -1; /* -1: none fails */

static int may_allocate(void) {
    return allocations_left < 0 || allocations_left-- > 0;
}

#define malloc(n) (may_allocate() ? (malloc)(n) : NULL)
#define calloc(n, size) (may_allocate() ? (calloc)(n, size) : NULL)
#define realloc(p, n) (may_allocate() ? (realloc)(p, n) : NULL)
#include "../examples/cli/gguf_writer.c"
#include "../examples/cli/import.c"
#include "../examples/cli/json.c"
#undef malloc
#undef calloc
#undef realloc
#include "saved.h"
#include "test.h"

#include <math.h>

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

/* The network that the files hold: 3 layers, features of 4 numbers, vectors of 8, one block with 5 inside. */
static const import_shape small = {3, 4, 8, 2, 1, 5};

/* A tensor of it, as a file names it. */
typedef struct small_tensor {
    char name[64];
    int rows, columns; /* rows 0: a vector */
    size_t count;
} small_tensor;
enum { SMALL_TENSORS = N_BEFORE + N_BLOCK + N_AFTER };

static void make_list(small_tensor *list) {
    for (int i = 0; i < SMALL_TENSORS; i++) {
        const int index = i < N_BEFORE + N_BLOCK ? i : i + IMPORT_TENSORS - SMALL_TENSORS;
        const import_row *row = import_tensor_row(index, list[i].name);
        list[i].rows = row->rows == VECTOR ? 0 : (int)import_size_of(&small, row->rows);
        list[i].columns = (int)import_size_of(&small, row->columns);
        list[i].count = (size_t)(list[i].rows ? list[i].rows : 1) * (size_t)list[i].columns;
    }
}

/* Weight i of tensor k: a number that every type holds exactly. */
static float value_of(int k, size_t i) {
    return (float)((int)((i * 7 + (size_t)k * 13) % 31) - 15) / 8;
}

static void put_value(bytes *b, import_type type, float x) {
    const double wide = x;
    uint32_t bits;
    uint64_t wide_bits;
    memcpy(&bits, &x, 4);
    memcpy(&wide_bits, &wide, 8);
    if (type == IMPORT_F32) put_number(b, bits, 4);
    if (type == IMPORT_BF16) put_number(b, bits >> 16, 2);
    if (type == IMPORT_F64) put_number(b, wide_bits, 8);
    if (type == IMPORT_F16) put_number(b, x == 0 ? 0 : (bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10)), 2);
}

/* Names as in [R] or [P]. */
static const char *tensor_name(const small_tensor *t, int queries) {
    return queries && !strcmp(t->name, "layer_embedding.weight") ? "layer_queries.weight" : t->name;
}

static void make_safetensors(bytes *b, import_type type, int queries, int encoder) {
    static const char *const types[] = {"F32", "F16", "BF16", "F64"};
    static bytes header;
    small_tensor list[SMALL_TENSORS];
    size_t at = 0;
    char line[2048];
    make_list(list);
    header.n = b->n = 0;
    put_text(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    if (encoder) {
        put_text(&header, ",\"embedding_model.norm.weight\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}");
        at = 4;
    }
    for (int i = 0; i < SMALL_TENSORS; i++) {
        const size_t n_bytes = list[i].count * import_type_bytes(type);
        char shape[32];
        snprintf(shape, sizeof shape, list[i].rows ? "%d,%d" : "%.0d%d", list[i].rows, list[i].columns);
        snprintf(line, sizeof line, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                 tensor_name(&list[i], queries), types[type], shape, at, at + n_bytes);
        put_text(&header, line);
        at += n_bytes;
    }
    put_text(&header, "}");
    put_number(b, header.n, 8);
    put(b, header.at, header.n);
    if (encoder) put_number(b, 0, 4);
    for (int i = 0; i < SMALL_TENSORS; i++)
        for (size_t k = 0; k < list[i].count; k++) put_value(b, type, value_of(i, k));
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
static void put_tensor(bytes *b, const small_tensor *t, import_type type, int key, int first) {
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
    static bytes pickled, data;
    static zip_out z;
    small_tensor list[SMALL_TENSORS];
    make_list(list);
    b->n = pickled.n = 0;
    memset(&z, 0, sizeof z);
    z.file = b;
    put_text(&pickled, "\x80\x02");
    if (nested) {
        put_text(&pickled, "}(");
        put_string(&pickled, "state_dict");
        put_text(&pickled, "ccollections\nOrderedDict\n)R");
    } else put_text(&pickled, "}");
    put_text(&pickled, "(");
    for (int i = 0; i < SMALL_TENSORS; i++) {
        put_string(&pickled, tensor_name(&list[i], nested));
        put_tensor(&pickled, &list[i], type, i, i == 0);
    }
    put_text(&pickled, "u");
    if (nested) {
        put_text(&pickled, "}");
        put_string(&pickled, "_metadata");
        put_text(&pickled, "ccollections\nOrderedDict\n)Rsb");
        put_string(&pickled, "meta");
        put_text(&pickled, "}(");
        put_string(&pickled, "nheads");
        put_int(&pickled, 4);
        put_string(&pickled, "model");
        put_string(&pickled, "qwen3_8b");
        put_string(&pickled, "lr");
        put_text(&pickled, "G\x3f\x01\x02\x03\x04\x05\x06\x07");
        put_string(&pickled, "losses");
        put_text(&pickled, "](K\x01K\x02" "eu");
        put_text(&pickled, "u");
    }
    put_text(&pickled, ".");
    zip_add(&z, "router/data.pkl", pickled.at, pickled.n);
    zip_add(&z, "router/byteorder", "little", 6);
    for (int i = 0; i < SMALL_TENSORS; i++) {
        char name[32];
        data.n = 0;
        for (size_t k = 0; k < list[i].count; k++) put_value(&data, type, value_of(i, k));
        snprintf(name, sizeof name, "router/data/%d", i);
        zip_add(&z, name, data.at, data.n);
    }
    zip_add(&z, "router/version", "3\n", 2);
    zip_end(&z, nested);
}

static void check_import(const bytes *b, int n_head) {
    small_tensor list[SMALL_TENSORS];
    polar_predictor *p = NULL;
    polar_predictor_info info;
    polar_gguf *file = NULL;
    polar_gguf_tensor tensor;
    polar_error error;
    void *saved;
    size_t n_bytes;
    int same = 1, n = 0;
    error.message[0] = 0;
    CHECK(!import_predictor(&p, "weights", b->at, b->n, 0, &error));
    CHECK_STR(error.message, "");
    if (!p) return;
    make_list(list);
    polar_predictor_get_info(p, &info);
    CHECK(info.n_layer == 3 && info.q_dim == 4 && info.d_model == 8 && info.n_head == n_head && info.n_block == 1);
    CHECK(info.n_ff == 5 && info.feature == POLAR_FEATURE_ENCODER);
    saved = saved_bytes(p, &n_bytes, &error);
    CHECK(saved && !polar_gguf_open_memory(&file, saved, n_bytes, NULL, &error));
    for (int i = 0; polar_gguf_get_tensor(file, i, &tensor); i++, n++) {
        const uint8_t *at = tensor.data;
        CHECK(i < SMALL_TENSORS && !strncmp(tensor.name, list[i].name, tensor.name_length) &&
              tensor.bytes == 4 * list[i].count);
        for (size_t k = 0; k < list[i].count; k++) same &= import_number(IMPORT_F32, at + 4 * k) == value_of(i, k);
    }
    CHECK(n == SMALL_TENSORS);
    polar_gguf_close(file);
    free(saved);
    CHECK(same);
    polar_predictor_close(p);
}

/* All 65536 half floats: sign 1, exponent 5, mantissa 10 bits, by the definition. */
TEST(half_floats) {
    for (uint32_t h = 0; h < 65536; h++) {
        const int exponent = (int)(h >> 10 & 31);
        const double mantissa = h & 1023, sign = h >> 15 ? -1 : 1;
        const float x = import_half(IMPORT_F16, (uint16_t)h);
        if (exponent == 31) CHECK(mantissa > 0 ? x != x : x == sign * HUGE_VAL);
        else CHECK((double)x == sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24)));
    }
}

TEST(types_and_containers) {
    static bytes b;
    for (int type = IMPORT_F32; type < IMPORT_OTHER; type++) {
        make_safetensors(&b, (import_type)type, type % 2, type > 1);
        check_import(&b, 4);
        make_pytorch(&b, (import_type)type, type % 2);
        check_import(&b, 4);
    }
}

static uint64_t next(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Whatever is cut off or changed: an error or a predictor, nothing else. */
TEST(hostile) {
    static bytes b, c;
    polar_error error;
    uint64_t rng = 11;
    for (int kind = 0; kind < 2; kind++) {
        polar_predictor *p;
        if (kind) make_pytorch(&b, IMPORT_F16, 1);
        else make_safetensors(&b, IMPORT_F16, 0, 1);
        for (size_t n = 0; n < b.n; n += 1 + n / 64)
            CHECK(import_predictor(&p, "weights", b.at, n, 0, &error) && !p);
        for (int i = 0; i < 6000; i++) {
            const size_t area = i % 2 ? b.n < 3000 ? b.n : 3000 : b.n; /* header or pickle, and everything */
            memcpy(c.at, b.at, b.n);
            for (int k = 0; k <= i % 3; k++) c.at[next(&rng) % area] = (uint8_t)next(&rng);
            if (!import_predictor(&p, "weights", c.at, b.n, 0, &error)) polar_predictor_close(p);
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
        CHECK(import_predictor(&p, "weights", b.at, b.n, 0, &error) == POLAR_UNSUPPORTED);
        CHECK(strstr(error.message, "system"));
    }
}

/* Without memory at any point: an error that says so, and nothing is left behind (which a sanitizer sees). */
TEST(memory) {
    static bytes b;
    for (int kind = 0; kind < 2; kind++) {
        polar_predictor *p = NULL;
        polar_error error;
        int n = 0;
        if (kind) make_pytorch(&b, IMPORT_F32, 1);
        else make_safetensors(&b, IMPORT_F32, 0, 0);
        for (; n < 200 && !p; n++) {
            allocations_left = n;
            if (import_predictor(&p, "weights", b.at, b.n, 0, &error))
                CHECK(!p && strstr(error.message, "out of memory"));
        }
        allocations_left = -1;
        CHECK(n > 2 && p);
        polar_predictor_close(p);
    }
}

/* What does not belong together is named with what was found and expected. */
TEST(messages) {
    static bytes b, c;
    polar_predictor *p;
    polar_error error;
    CHECK(import_predictor(&p, "weights", "GGUF....", 8, 0, &error) == POLAR_FORMAT);
    CHECK_STR(error.message, "weights: neither safetensors nor a PyTorch file");
    CHECK(import_predictor(&p, "weights", "\2\0\0\0\0\0\0\0{}", 10, 65, &error) == POLAR_ARGUMENT);
    CHECK(import_predictor(&p, "weights", "\2\0\0\0\0\0\0\0{x", 10, 0, &error) == POLAR_FORMAT);
    CHECK(strstr(error.message, "weights: the header is not JSON: "));
    CHECK(import_predictor(&p, "weights", "\2\0\0\0\0\0\0\0{}", 10, 0, &error) == POLAR_FORMAT);
    CHECK(strstr(error.message, "no tensors of a predictor"));
    make_safetensors(&b, IMPORT_F32, 0, 0);
    memcpy(&c, &b, sizeof c);
    memcpy(strstr((char *)c.at + 8, "[24,8]"), "[48,4]", 6);
    CHECK(import_predictor(&p, "weights", c.at, c.n, 0, &error) == POLAR_FORMAT);
    CHECK_STR(error.message, "weights: tensor cross_attn.in_proj_weight is 48 x 4, expected are 24 x 8");
    memcpy(&c, &b, sizeof c);
    memcpy(strstr((char *)c.at + 8, "seg_head.bias"), "seg_head.bies", 13);
    CHECK(import_predictor(&p, "weights", c.at, c.n, 0, &error) == POLAR_UNSUPPORTED);
    CHECK_STR(error.message, "weights: tensor seg_head.bies does not belong to a predictor");
}

static const test_case tests[] = {
#define ROW(name) {#name, test_##name}
    ROW(half_floats), ROW(types_and_containers), ROW(hostile), ROW(memory), ROW(messages),
};

int main(int argc, char **argv) {
    return test_main(tests, sizeof tests / sizeof *tests, argc, argv);
}
