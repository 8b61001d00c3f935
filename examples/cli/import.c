/* Predictors of other programs, as import.h says: the tensors are gathered from safetensors or from the pickle in a
 * PyTorch file, a predictor file is written of them in memory, and the library opens it. */
#include "import.h"
#include "gguf_writer.h"
#include "json.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- what a predictor consists of ------------------------------------------------------------------------ */

#define IMPORT_MAX_BLOCK 8 /* of the library's predictors */
#define IMPORT_MAX_HEAD 64

/* Sizes of the network, and multiples of them. */
typedef enum import_size { VECTOR, ONE, THREE, N_LAYER, Q_DIM, D_MODEL, D_MODEL_3, N_FF } import_size;

/* A tensor of the network: its name, (rows, columns); a VECTOR has no rows. */
typedef struct import_row {
    const char *name;
    import_size rows, columns;
} import_row;

/* In the order of polar.h: what stands before the blocks, in each block, and behind them. */
enum { N_BEFORE = 7, N_BLOCK = 12, N_AFTER = 4 };
enum { IMPORT_TENSORS = N_BEFORE + N_BLOCK * IMPORT_MAX_BLOCK + N_AFTER };
enum { PROJECT = 0, LAYERS = 2, UP = N_BEFORE + 4 }; /* where the sizes of the network are read from */

static const import_row before_blocks[N_BEFORE] = {
    {"q_proj.weight", D_MODEL, Q_DIM},
    {"q_proj.bias", VECTOR, D_MODEL},
    {"layer_embedding.weight", N_LAYER, D_MODEL},
    {"cross_attn.in_proj_weight", D_MODEL_3, D_MODEL},
    {"cross_attn.in_proj_bias", VECTOR, D_MODEL_3},
    {"cross_attn.out_proj.weight", D_MODEL, D_MODEL},
    {"cross_attn.out_proj.bias", VECTOR, D_MODEL},
};
static const import_row in_block[N_BLOCK] = { /* behind "layer_encoder.layers.N." */
    {"self_attn.in_proj_weight", D_MODEL_3, D_MODEL},
    {"self_attn.in_proj_bias", VECTOR, D_MODEL_3},
    {"self_attn.out_proj.weight", D_MODEL, D_MODEL},
    {"self_attn.out_proj.bias", VECTOR, D_MODEL},
    {"linear1.weight", N_FF, D_MODEL},
    {"linear1.bias", VECTOR, N_FF},
    {"linear2.weight", D_MODEL, N_FF},
    {"linear2.bias", VECTOR, D_MODEL},
    {"norm1.weight", VECTOR, D_MODEL},
    {"norm1.bias", VECTOR, D_MODEL},
    {"norm2.weight", VECTOR, D_MODEL},
    {"norm2.bias", VECTOR, D_MODEL},
};
static const import_row after_blocks[N_AFTER] = {
    {"seg_head.weight", ONE, D_MODEL},
    {"seg_head.bias", VECTOR, ONE},
    {"op_head.weight", THREE, D_MODEL},
    {"op_head.bias", VECTOR, THREE},
};

/* Tensor `index` of a network with IMPORT_MAX_BLOCK blocks, and its whole name. */
static const import_row *import_tensor_row(int index, char name[64]) {
    const int in = index - N_BEFORE, after = in - N_BLOCK * IMPORT_MAX_BLOCK;
    const import_row *row = in < 0 ? &before_blocks[index] : after < 0 ? &in_block[in % N_BLOCK] : &after_blocks[after];
    if (in >= 0 && after < 0) sprintf(name, "layer_encoder.layers.%d.%s", in / N_BLOCK, row->name);
    else strcpy(name, row->name);
    return row;
}

/* --- gathering tensors ----------------------------------------------------------------------------------- */

typedef enum import_type { IMPORT_F32, IMPORT_F16, IMPORT_BF16, IMPORT_F64, IMPORT_OTHER } import_type;

/* A tensor found in a file: contiguous little-endian numbers, row by row. */
typedef struct import_tensor {
    const uint8_t *data; /* NULL: not found yet */
    import_type type;
    int n_dims;
    int64_t dims[2]; /* rows, columns; a vector has only columns: dims[0] 1 */
    size_t count;
} import_tensor;

typedef struct import_set {
    const char *file;
    import_tensor found[IMPORT_TENSORS];
    int n_head; /* as the file says; 0: it does not */
    polar_status status; /* of the first error */
    polar_error *error;
} import_set;

#ifdef __GNUC__
static polar_status import_fail(import_set *s, polar_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#endif

/* Remembers the first error, as "FILE: message"; what a file says may hold any bytes, and a message is one line of
 * visible characters. */
static polar_status import_fail(import_set *s, polar_status status, const char *format, ...) {
    va_list arguments;
    char *at;
    size_t n;
    if (s->status) return s->status;
    s->status = status;
    if (!s->error) return status;
    s->error->status = status;
    n = sizeof s->error->message;
    snprintf(s->error->message, n, "%s: ", s->file);
    at = s->error->message + strlen(s->error->message);
    va_start(arguments, format);
    vsnprintf(at, n - (size_t)(at - s->error->message), format, arguments);
    va_end(arguments);
    for (; *at; at++)
        if (*at < 32 || *at > 126) *at = '?';
    return status;
}

/* An array with room for `need` elements of `size` bytes; NULL after an error, and `p` is still there. */
static void *import_grow(import_set *s, void *p, size_t *capacity, size_t need, size_t size) {
    size_t n = *capacity ? *capacity : 16;
    void *q = NULL;
    if (need <= *capacity) return p;
    while (n < need && n <= SIZE_MAX / 2) n *= 2;
    if (n >= need && n <= SIZE_MAX / size) q = realloc(p, n * size);
    if (q) *capacity = n;
    else import_fail(s, POLAR_MEMORY, "out of memory: %lu elements of %lu bytes", (unsigned long)need,
                     (unsigned long)size);
    return q;
}

/* A little-endian number of n bytes, at most 8. */
static uint64_t import_read(int n, const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static int import_starts(const char *name, size_t length, const char *prefix) {
    const size_t n = strlen(prefix);
    return length >= n && !memcmp(name, prefix, n);
}

static int import_is(const char *name, size_t length, const char *text) {
    return length == strlen(text) && !memcmp(name, text, length);
}

/* Index of a name of either public implementation; -1 for the frozen encoder's, -2 for any other. */
static int import_index(const char *name, size_t length) {
    static const char module[] = "module.";
    char known[64];
    if (import_starts(name, length, module)) { /* saved from inside a wrapper for several devices */
        name += sizeof module - 1;
        length -= sizeof module - 1;
    }
    if (import_starts(name, length, "embedding_model.") || import_starts(name, length, "encoder.")) return -1;
    if (import_is(name, length, "layer_queries.weight")) return LAYERS;
    for (int i = 0; i < IMPORT_TENSORS; i++) {
        import_tensor_row(i, known);
        if (import_is(name, length, known)) return i;
    }
    return -2;
}

/* Takes a tensor into the set. */
static polar_status import_take(import_set *s, const char *name, size_t length, const import_tensor *t) {
    const int index = import_index(name, length), shown = length < 100 ? (int)length : 100;
    char known[64];
    if (index == -1) return POLAR_OK;
    if (index == -2)
        return import_fail(s, POLAR_UNSUPPORTED, "tensor %.*s does not belong to a predictor", shown, name);
    if (s->found[index].data) return import_fail(s, POLAR_FORMAT, "tensor %.*s occurs twice", shown, name);
    if (t->type == IMPORT_OTHER)
        return import_fail(s, POLAR_UNSUPPORTED, "tensor %.*s is not of floating point numbers", shown, name);
    if (t->n_dims != (import_tensor_row(index, known)->rows == VECTOR ? 1 : 2))
        return import_fail(s, POLAR_FORMAT, "tensor %.*s has %d dimensions", shown, name, t->n_dims);
    s->found[index] = *t;
    return POLAR_OK;
}

static size_t import_type_bytes(import_type t) {
    return t == IMPORT_F64 ? 8 : t == IMPORT_F32 ? 4 : 2;
}

/* Product of sizes, at most INT_MAX elements. 0 if there are more, or a size is out of range. */
static int import_count(import_tensor *t) {
    t->count = 1;
    for (int i = 2 - t->n_dims; i < 2; i++) {
        if (t->dims[i] < 0 || t->dims[i] > INT_MAX) return 0;
        if (t->dims[i] && t->count > (size_t)(INT_MAX / t->dims[i])) return 0;
        t->count *= (size_t)t->dims[i];
    }
    if (t->n_dims < 2) t->dims[0] = 1;
    return 1;
}

/* --- safetensors: u64 length, JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ..}, data --- */

static import_type safetensors_type(const char *name) {
    static const char *const names[IMPORT_OTHER] = {"F32", "F16", "BF16", "F64"};
    int type = 0;
    while (type < IMPORT_OTHER && !(name && !strcmp(name, names[type]))) type++;
    return (import_type)type;
}

static polar_status safetensors_tensor(import_set *s, const json *v, const uint8_t *data, size_t size) {
    const json *shape = json_get(v, "shape"), *offsets = json_get(v, "data_offsets"), *x;
    const size_t length = strlen(v->key);
    import_tensor t;
    uint64_t begin, end, n;
    int i;
    memset(&t, 0, sizeof t);
    t.type = safetensors_type(json_get_text(v, "dtype"));
    if (import_index(v->key, length) < 0 || t.type == IMPORT_OTHER) return import_take(s, v->key, length, &t);
    if (shape && shape->type == JSON_ARRAY) t.n_dims = shape->length < 3 ? (int)shape->length : 3;
    if (t.n_dims < 1 || t.n_dims > 2) return import_take(s, v->key, length, &t);
    for (x = shape->child, i = 2 - t.n_dims; x; x = x->next, i++)
        t.dims[i] = json_u64(x, &n) && n <= INT_MAX ? (int64_t)n : -1;
    if (!import_count(&t) || !offsets || offsets->type != JSON_ARRAY || offsets->length != 2 ||
        !json_u64(offsets->child, &begin) || !json_u64(offsets->child->next, &end) || end < begin || end > size ||
        end - begin != t.count * import_type_bytes(t.type))
        return import_fail(s, POLAR_FORMAT, "tensor %.100s: shape and data_offsets do not fit each other or the file",
                           v->key);
    t.data = data + begin;
    return import_take(s, v->key, length, &t);
}

static polar_status safetensors_read(import_set *s, const uint8_t *data, size_t size) {
    const uint64_t n = size >= 8 ? import_read(8, data) : 0;
    const char *problem;
    json_document *header;
    size_t at;
    if (n < 2 || n > size - 8) return import_fail(s, POLAR_FORMAT, "neither safetensors nor a PyTorch file");
    header = json_read((const char *)data + 8, (size_t)n, &problem, &at);
    if (!header)
        return import_fail(s, POLAR_FORMAT, "the header is not JSON: %s (byte %lu)", problem, (unsigned long)at + 8);
    if (json_root(header)->type != JSON_OBJECT) import_fail(s, POLAR_FORMAT, "the header is no JSON object");
    for (const json *v = json_root(header)->child; v && !s->status; v = v->next)
        if (strcmp(v->key, "__metadata__")) safetensors_tensor(s, v, data + 8 + n, size - 8 - (size_t)n);
    json_free(header);
    return s->status;
}

/* --- zip: stored entries only ---
 *
 * The central directory at the end names the entries; with ZIP64 its numbers stand in records of their own:
 *   | entries .. | directory | [end64 56+] [locator64 20] | end 22 + comment | */

typedef struct zip_entry {
    const char *name;
    size_t name_length, size;
    const uint8_t *data;
} zip_entry;

typedef struct zip_file {
    import_set *set;
    const uint8_t *data;
    size_t size;
    uint64_t at, end; /* the directory; `at` moves */
} zip_file;

/* Remembers what is wrong with the archive and returns -1. */
static int zip_bad(const zip_file *z, const char *what) {
    import_fail(z->set, POLAR_FORMAT, "%s", what);
    return -1;
}

/* Finds the directory: 0, or -1 after an error. */
static int zip_open(zip_file *z) {
    size_t at = z->size, stop;
    uint64_t offset, size;
    if (z->size < 22) return zip_bad(z, "no zip directory");
    stop = z->size > 22 + 65535 ? z->size - 22 - 65535 : 0;
    for (at = z->size - 22; import_read(4, z->data + at) != 0x06054b50; at--)
        if (at == stop) return zip_bad(z, "no zip directory");
    size = import_read(4, z->data + at + 12);
    offset = import_read(4, z->data + at + 16);
    if (at >= 20 && import_read(4, z->data + at - 20) == 0x07064b50) {
        const uint64_t end64 = import_read(8, z->data + at - 20 + 8);
        if (end64 > z->size || z->size - end64 < 56 || import_read(4, z->data + end64) != 0x06064b50)
            return zip_bad(z, "a broken zip directory");
        size = import_read(8, z->data + end64 + 40);
        offset = import_read(8, z->data + end64 + 48);
    }
    if (offset > z->size || size > z->size - offset) return zip_bad(z, "the zip directory lies outside of the file");
    z->at = offset;
    z->end = offset + size;
    return 0;
}

/* ZIP64 numbers of an entry: those of the 32-bit fields that are all ones, in order. */
static int zip_wide(const uint8_t *extra, size_t n, uint64_t *stored, uint64_t *size, uint64_t *offset) {
    uint64_t *const fields[] = {size, stored, offset};
    for (size_t at = 0; n - at >= 4;) {
        const size_t length = import_read(2, extra + at + 2), id = import_read(2, extra + at);
        size_t used = 0;
        if (length > n - at - 4) return 0;
        for (int i = 0; id == 1 && i < 3; i++) {
            if (*fields[i] != 0xffffffff) continue;
            if (length - used < 8) return 0;
            *fields[i] = import_read(8, extra + at + 4 + used);
            used += 8;
        }
        at += 4 + length;
    }
    return 1;
}

/* The next entry: 1, 0 at the end, -1 after an error. */
static int zip_next(zip_file *z, zip_entry *out) {
    const uint8_t *p = z->data + z->at, *local;
    uint64_t stored, size, offset, start;
    size_t name, extra, comment;
    if (z->at == z->end) return 0;
    if (z->end - z->at < 46 || import_read(4, p) != 0x02014b50) return zip_bad(z, "a broken zip directory");
    name = import_read(2, p + 28);
    extra = import_read(2, p + 30);
    comment = import_read(2, p + 32);
    if (z->end - z->at - 46 < name + extra + comment) return zip_bad(z, "a broken zip directory");
    stored = import_read(4, p + 20);
    size = import_read(4, p + 24);
    offset = import_read(4, p + 42);
    if (!zip_wide(p + 46 + name, extra, &stored, &size, &offset)) return zip_bad(z, "a broken zip entry");
    if (import_read(2, p + 8) & 1 || import_read(2, p + 10) != 0 || stored != size)
        return zip_bad(z, "a zip entry that is compressed or encrypted; PyTorch stores them as they are");
    if (offset > z->size || z->size - offset < 30) return zip_bad(z, "a zip entry outside of the file");
    local = z->data + offset;
    start = offset + 30 + import_read(2, local + 26) + import_read(2, local + 28);
    if (import_read(4, local) != 0x04034b50 || start > z->size || size > z->size - start)
        return zip_bad(z, "a zip entry outside of the file");
    out->name = (const char *)p + 46;
    out->name_length = name;
    out->data = z->data + start;
    out->size = (size_t)size;
    z->at += 46 + name + extra + comment;
    return 1;
}

/* The entry ROOT/`name`, where the root is that of data.pkl (length 0: any). 1, 0 or -1 as above. */
static int zip_find(const zip_file *file, const char *root, size_t root_length, const char *name, size_t length,
                    zip_entry *out) {
    zip_file z = *file;
    int more;
    while ((more = zip_next(&z, out)) > 0) {
        const size_t n = out->name_length;
        if (n <= length || out->name[n - length - 1] != '/' || memcmp(out->name + n - length, name, length)) continue;
        if (!root || (n == root_length + length && !memcmp(out->name, root, root_length))) return 1;
    }
    return more;
}

/* --- pickle: only what torch.save writes for dictionaries of tensors and plain values --- */

typedef enum pickle_kind {
    PICKLE_NONE, PICKLE_MARK, PICKLE_CELL, PICKLE_INT, PICKLE_TEXT, PICKLE_VALUE, /* VALUE: of no interest */
    PICKLE_TUPLE, PICKLE_LIST, PICKLE_DICT, PICKLE_GLOBAL, PICKLE_STORAGE, PICKLE_TENSOR
} pickle_kind;

/* Functions and classes that may be named. */
typedef enum pickle_global { GLOBAL_DICT, GLOBAL_TENSOR, GLOBAL_PARAMETER, GLOBAL_STORAGE } pickle_global;
static const struct {
    const char *name;
    pickle_global kind;
    import_type type;
} pickle_globals[] = {
    {"collections\nOrderedDict\n", GLOBAL_DICT, IMPORT_OTHER},
    {"torch._utils\n_rebuild_tensor_v2\n", GLOBAL_TENSOR, IMPORT_OTHER},
    {"torch._utils\n_rebuild_parameter\n", GLOBAL_PARAMETER, IMPORT_OTHER},
    {"torch\nFloatStorage\n", GLOBAL_STORAGE, IMPORT_F32},
    {"torch\nHalfStorage\n", GLOBAL_STORAGE, IMPORT_F16},
    {"torch\nBFloat16Storage\n", GLOBAL_STORAGE, IMPORT_BF16},
    {"torch\nDoubleStorage\n", GLOBAL_STORAGE, IMPORT_F64},
    {"torch\nLongStorage\n", GLOBAL_STORAGE, IMPORT_OTHER},
    {"torch\nIntStorage\n", GLOBAL_STORAGE, IMPORT_OTHER},
    {"torch\nShortStorage\n", GLOBAL_STORAGE, IMPORT_OTHER},
    {"torch\nCharStorage\n", GLOBAL_STORAGE, IMPORT_OTHER},
    {"torch\nByteStorage\n", GLOBAL_STORAGE, IMPORT_OTHER},
    {"torch\nBoolStorage\n", GLOBAL_STORAGE, IMPORT_OTHER},
};
enum { N_GLOBALS = sizeof pickle_globals / sizeof *pickle_globals };

/* A value. Containers are chains of cells: `first`, `last`, `number` of them; a cell has its value in `first`,
 * the next cell in `last`. A dictionary's cells are keys and values in turn. */
typedef struct pickle_node {
    pickle_kind kind;
    int first, last; /* STORAGE: key, index of the global. TENSOR: storage, tuple of sizes */
    int64_t number;  /* INT: value; TEXT: length; TENSOR: offset; GLOBAL: index */
    const char *text;
} pickle_node;

typedef struct pickle {
    const uint8_t *at, *end;
    import_set *set;
    pickle_node *nodes;
    int *stack, *memo;
    size_t n_nodes, nodes_capacity, n_stack, stack_capacity, memo_capacity;
} pickle;

static int pickle_fail(const pickle *p, const char *what) {
    import_fail(p->set, POLAR_FORMAT, "pickle: %s", what);
    return 0;
}

/* A new node; index 0 is there from the start and stands for failures, so callers need not look. */
static int pickle_new(pickle *p, pickle_kind kind, int64_t number) {
    pickle_node *n, *nodes;
    if (p->set->status) return 0;
    nodes = import_grow(p->set, p->nodes, &p->nodes_capacity, p->n_nodes + 1, sizeof *p->nodes);
    if (!nodes) return 0;
    p->nodes = nodes;
    n = &p->nodes[p->n_nodes];
    memset(n, 0, sizeof *n);
    n->kind = kind;
    n->number = number;
    return (int)p->n_nodes++;
}

static void pickle_push(pickle *p, int node) {
    int *stack;
    if (p->set->status) return;
    stack = import_grow(p->set, p->stack, &p->stack_capacity, p->n_stack + 1, sizeof *p->stack);
    if (!stack) return;
    p->stack = stack;
    p->stack[p->n_stack++] = node;
}

static int pickle_pop(pickle *p) {
    if (p->set->status) return 0;
    if (!p->n_stack) return pickle_fail(p, "nothing on the stack");
    return p->stack[--p->n_stack];
}

static void pickle_append(pickle *p, int container, int value) {
    const int cell = pickle_new(p, PICKLE_CELL, 0);
    pickle_node *c;
    if (p->set->status) return;
    c = &p->nodes[container];
    p->nodes[cell].first = value;
    if (c->number++) p->nodes[c->last].last = cell;
    else c->first = cell;
    c->last = cell;
}

/* Element i of a tuple, or node 0. */
static int pickle_item(const pickle *p, int container, int i) {
    int cell = p->nodes[container].first;
    if (i >= p->nodes[container].number) return 0;
    while (i-- > 0) cell = p->nodes[cell].last;
    return p->nodes[cell].first;
}

/* Index in the stack of the last mark; the stack's size if there is none, after an error. */
static size_t pickle_mark(pickle *p) {
    for (size_t i = p->n_stack; i-- > 0;)
        if (p->nodes[p->stack[i]].kind == PICKLE_MARK) return i;
    pickle_fail(p, "no mark on the stack");
    return p->n_stack;
}

/* Moves what stands on the stack from `from` on into the container. */
static void pickle_collect(pickle *p, int container, size_t from) {
    for (size_t i = from; i < p->n_stack && !p->set->status; i++) pickle_append(p, container, p->stack[i]);
    if (!p->set->status) p->n_stack = from;
}

static void pickle_tuple(pickle *p, int n) {
    const int t = pickle_new(p, PICKLE_TUPLE, 0);
    if ((size_t)n > p->n_stack) pickle_fail(p, "nothing on the stack");
    else pickle_collect(p, t, p->n_stack - (size_t)n);
    pickle_push(p, t);
}

/* Takes n bytes of the input; NULL after an error. */
static const uint8_t *pickle_bytes(pickle *p, size_t n) {
    const uint8_t *at = p->at;
    if (p->set->status) return NULL;
    if ((size_t)(p->end - p->at) < n) {
        pickle_fail(p, "it is cut off");
        return NULL;
    }
    p->at += n;
    return at;
}

/* A little-endian number of n <= 8 bytes. */
static int64_t pickle_number(pickle *p, size_t n, int is_signed) {
    const uint8_t *at = pickle_bytes(p, n);
    uint64_t v = 0;
    if (!at) return 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)at[i] << 8 * i;
    if (is_signed && n && n < 8 && at[n - 1] & 0x80) v |= ~(uint64_t)0 << 8 * n;
    return v >> 63 ? -(int64_t)(~v) - 1 : (int64_t)v;
}

static void pickle_text(pickle *p, size_t n) {
    const uint8_t *at = pickle_bytes(p, n);
    const int node = pickle_new(p, PICKLE_TEXT, (int64_t)n);
    if (!p->set->status) p->nodes[node].text = (const char *)at;
    pickle_push(p, node);
}

static void pickle_global_name(pickle *p) {
    for (int i = 0; i < N_GLOBALS; i++) {
        const size_t n = strlen(pickle_globals[i].name);
        if ((size_t)(p->end - p->at) < n || memcmp(p->at, pickle_globals[i].name, n)) continue;
        p->at += n;
        pickle_push(p, pickle_new(p, PICKLE_GLOBAL, i));
        return;
    }
    if (!p->set->status) {
        const uint8_t *at = p->at;
        int n = 0;
        while (n < 100 && at + n < p->end && (at[n] != '\n' || !n || memchr(at, '\n', (size_t)n) == NULL)) n++;
        import_fail(p->set, POLAR_UNSUPPORTED, "pickle: it needs %.*s, which is not a tensor", n, (const char *)at);
    }
}

static int pickle_is_global(const pickle *p, int node, pickle_global kind) {
    return p->nodes[node].kind == PICKLE_GLOBAL && pickle_globals[p->nodes[node].number].kind == kind;
}

/* ("storage", type, key, place, number of elements) */
static void pickle_storage(pickle *p) {
    const int id = pickle_pop(p), type = pickle_item(p, id, 1), key = pickle_item(p, id, 2);
    const int node = pickle_new(p, PICKLE_STORAGE, 0);
    if (p->set->status) return;
    if (p->nodes[id].kind != PICKLE_TUPLE || !pickle_is_global(p, type, GLOBAL_STORAGE) ||
        p->nodes[key].kind != PICKLE_TEXT)
        pickle_fail(p, "an unknown kind of external data");
    p->nodes[node].first = key;
    p->nodes[node].last = (int)p->nodes[type].number;
    pickle_push(p, node);
}

/* 1 if the strides of a tuple are those of a tensor row by row. */
static int pickle_contiguous(const pickle *p, int sizes, int strides) {
    int64_t expected = 1;
    if (p->nodes[sizes].kind != PICKLE_TUPLE || p->nodes[strides].kind != PICKLE_TUPLE ||
        p->nodes[sizes].number != p->nodes[strides].number || p->nodes[sizes].number > 8)
        return 0;
    for (int i = (int)p->nodes[sizes].number - 1; i >= 0; i--) {
        const pickle_node *size = &p->nodes[pickle_item(p, sizes, i)], *stride = &p->nodes[pickle_item(p, strides, i)];
        if (size->kind != PICKLE_INT || stride->kind != PICKLE_INT || size->number < 0 || size->number > INT_MAX)
            return 0;
        if (size->number != 1 && stride->number != expected) return 0;
        expected = expected > INT_MAX ? expected : expected * size->number;
    }
    return 1;
}

/* Calls of the few functions that may be called. */
static void pickle_reduce(pickle *p) {
    const int args = pickle_pop(p), function = pickle_pop(p);
    int node;
    if (p->set->status) return;
    if (p->nodes[args].kind != PICKLE_TUPLE) {
        pickle_fail(p, "a call without arguments");
    } else if (pickle_is_global(p, function, GLOBAL_DICT) && p->nodes[args].number == 0) {
        pickle_push(p, pickle_new(p, PICKLE_DICT, 0));
    } else if (pickle_is_global(p, function, GLOBAL_PARAMETER) &&
               p->nodes[pickle_item(p, args, 0)].kind == PICKLE_TENSOR) {
        pickle_push(p, pickle_item(p, args, 0));
    } else if (pickle_is_global(p, function, GLOBAL_TENSOR)) {
        const int storage = pickle_item(p, args, 0), offset = pickle_item(p, args, 1), sizes = pickle_item(p, args, 2);
        if (p->nodes[storage].kind != PICKLE_STORAGE || p->nodes[offset].kind != PICKLE_INT ||
            p->nodes[offset].number < 0 || !pickle_contiguous(p, sizes, pickle_item(p, args, 3)))
            pickle_fail(p, "a tensor that does not lie row by row");
        node = pickle_new(p, PICKLE_TENSOR, p->nodes[offset].number);
        p->nodes[node].first = storage;
        p->nodes[node].last = sizes;
        pickle_push(p, node);
    } else {
        pickle_fail(p, "a call of something that makes no tensor");
    }
}

/* Sets entries of the dictionary or list below the mark, or below `n` values. */
static void pickle_fill(pickle *p, pickle_kind kind, size_t from, size_t first) {
    if (p->set->status) return;
    if (from == 0 || p->nodes[p->stack[from - 1]].kind != kind || (kind == PICKLE_DICT && (p->n_stack - first) % 2)) {
        pickle_fail(p, "entries of something that has none");
        return;
    }
    pickle_collect(p, p->stack[from - 1], first);
    p->n_stack = from;
}

static void pickle_put(pickle *p, int64_t index) {
    if (p->set->status || !p->n_stack || index < 0 || index > p->end - p->at + (int64_t)p->n_nodes) {
        pickle_fail(p, "a memo without value or out of range");
        return;
    }
    if ((size_t)index >= p->memo_capacity) {
        const size_t before = p->memo_capacity;
        int *memo = import_grow(p->set, p->memo, &p->memo_capacity, (size_t)index + 1, sizeof *p->memo);
        if (!memo) return;
        p->memo = memo;
        memset(p->memo + before, 0, (p->memo_capacity - before) * sizeof *p->memo);
    }
    p->memo[index] = p->stack[p->n_stack - 1];
}

static void pickle_get(pickle *p, int64_t index) {
    if (index < 0 || (uint64_t)index >= p->memo_capacity || !p->memo[index]) pickle_fail(p, "an unknown memo");
    else pickle_push(p, p->memo[index]);
}

/* One operation; 0 at the end or after an error. */
static int pickle_step(pickle *p) {
    const uint8_t *op = pickle_bytes(p, 1);
    size_t mark;
    if (!op) return 0;
    switch (*op) {
    case 0x80: if (pickle_number(p, 1, 0) > 3) pickle_fail(p, "a protocol that torch.save does not write"); break;
    case '(': pickle_push(p, pickle_new(p, PICKLE_MARK, 0)); break;
    case ')': pickle_tuple(p, 0); break;
    case '}': pickle_push(p, pickle_new(p, PICKLE_DICT, 0)); break;
    case ']': pickle_push(p, pickle_new(p, PICKLE_LIST, 0)); break;
    case 'N': case 0x88: case 0x89: pickle_push(p, pickle_new(p, PICKLE_VALUE, 0)); break; /* None, True, False */
    case 'G': pickle_bytes(p, 8); pickle_push(p, pickle_new(p, PICKLE_VALUE, 0)); break;   /* float */
    case 'J': pickle_push(p, pickle_new(p, PICKLE_INT, pickle_number(p, 4, 1))); break;
    case 'K': pickle_push(p, pickle_new(p, PICKLE_INT, pickle_number(p, 1, 0))); break;
    case 'M': pickle_push(p, pickle_new(p, PICKLE_INT, pickle_number(p, 2, 0))); break;
    case 0x8a: { /* long */
        const size_t n = (size_t)pickle_number(p, 1, 0);
        if (n > 8) pickle_fail(p, "a number of more than 64 bits");
        pickle_push(p, pickle_new(p, PICKLE_INT, pickle_number(p, n, 1)));
        break;
    }
    case 'X': pickle_text(p, (size_t)pickle_number(p, 4, 0)); break;
    case 'c': pickle_global_name(p); break;
    case 'q': pickle_put(p, pickle_number(p, 1, 0)); break;
    case 'r': pickle_put(p, pickle_number(p, 4, 0)); break;
    case 'h': pickle_get(p, pickle_number(p, 1, 0)); break;
    case 'j': pickle_get(p, pickle_number(p, 4, 0)); break;
    case 't':
        mark = pickle_mark(p);
        pickle_tuple(p, mark < p->n_stack ? (int)(p->n_stack - mark - 1) : 0);
        if (p->set->status) break;
        p->stack[mark] = p->stack[p->n_stack - 1];
        p->n_stack = mark + 1;
        break;
    case 0x85: pickle_tuple(p, 1); break;
    case 0x86: pickle_tuple(p, 2); break;
    case 0x87: pickle_tuple(p, 3); break;
    case 'u': mark = pickle_mark(p); pickle_fill(p, PICKLE_DICT, mark, mark + 1); break;
    case 'e': mark = pickle_mark(p); pickle_fill(p, PICKLE_LIST, mark, mark + 1); break;
    case 's':
        if (p->n_stack < 3) pickle_fail(p, "nothing on the stack");
        else pickle_fill(p, PICKLE_DICT, p->n_stack - 2, p->n_stack - 2);
        break;
    case 'a':
        if (p->n_stack < 2) pickle_fail(p, "nothing on the stack");
        else pickle_fill(p, PICKLE_LIST, p->n_stack - 1, p->n_stack - 1);
        break;
    case 'Q': pickle_storage(p); break;
    case 'R': pickle_reduce(p); break;
    case 'b': /* attributes of a dictionary: versions of modules, of no interest */
        pickle_pop(p);
        if (!p->set->status && (!p->n_stack || p->nodes[p->stack[p->n_stack - 1]].kind != PICKLE_DICT))
            pickle_fail(p, "attributes of something that has none");
        break;
    case '.': return 0;
    default:
        import_fail(p->set, POLAR_UNSUPPORTED, "pickle: operation 0x%x, which torch.save does not write for tensors",
                    (unsigned)*op);
    }
    return !p->set->status;
}

/* The value of a text key in a dictionary, or node 0. */
static int pickle_lookup(const pickle *p, int dict, const char *key) {
    int cell = p->nodes[dict].first;
    for (int64_t i = 0; p->nodes[dict].kind == PICKLE_DICT && i < p->nodes[dict].number; i += 2) {
        const pickle_node *k = &p->nodes[p->nodes[cell].first];
        const int value = p->nodes[cell].last;
        if (k->kind == PICKLE_TEXT && import_is(k->text, (size_t)k->number, key)) return p->nodes[value].first;
        cell = p->nodes[value].last;
    }
    return 0;
}

/* Resolves a tensor in the archive and takes it. */
static void pickle_take(pickle *p, const zip_file *z, const zip_entry *root, const pickle_node *name, int node) {
    const pickle_node *t = &p->nodes[node], *storage = &p->nodes[t->first], *sizes = &p->nodes[t->last];
    const pickle_node *key = &p->nodes[storage->first];
    const size_t length = (size_t)name->number, prefix = root->name_length - strlen("data.pkl");
    char path[64] = "data/";
    import_tensor x;
    zip_entry entry;
    size_t bytes;
    memset(&x, 0, sizeof x);
    if (t->kind != PICKLE_TENSOR || import_index(name->text, length) < 0) {
        if (t->kind == PICKLE_TENSOR || import_index(name->text, length) >= 0)
            import_take(p->set, name->text, length, &x);
        return;
    }
    x.type = pickle_globals[storage->last].type;
    x.n_dims = (int)sizes->number;
    if (x.n_dims < 1 || x.n_dims > 2 || x.type == IMPORT_OTHER) {
        import_take(p->set, name->text, length, &x);
        return;
    }
    for (int i = 0; i < x.n_dims; i++) x.dims[2 - x.n_dims + i] = p->nodes[pickle_item(p, t->last, i)].number;
    if (key->number > 50 || !import_count(&x)) {
        pickle_fail(p, "a tensor that is too large, or with a strange name of its data");
        return;
    }
    memcpy(path + 5, key->text, (size_t)key->number);
    if (zip_find(z, root->name, prefix, path, 5 + (size_t)key->number, &entry) <= 0) {
        pickle_fail(p, "the data of a tensor are not in the file");
        return;
    }
    bytes = x.count * import_type_bytes(x.type);
    if ((uint64_t)t->number > entry.size / import_type_bytes(x.type) ||
        bytes > entry.size - (size_t)t->number * import_type_bytes(x.type)) {
        pickle_fail(p, "a tensor reaches beyond its data");
        return;
    }
    x.data = entry.data + (size_t)t->number * import_type_bytes(x.type);
    import_take(p->set, name->text, length, &x);
}

/* Tensors of the top dictionary, or of the one that it holds as state_dict. */
static void pickle_take_all(pickle *p, const zip_file *z, const zip_entry *root) {
    int dict = pickle_pop(p), inner = 0, heads, cell;
    if (p->set->status) return;
    if ((inner = pickle_lookup(p, dict, "state_dict")) || (inner = pickle_lookup(p, dict, "model_state_dict"))) {
        heads = pickle_lookup(p, pickle_lookup(p, dict, "meta"), "nheads");
        if (p->nodes[heads].kind == PICKLE_INT && p->nodes[heads].number > 0 && p->nodes[heads].number <= IMPORT_MAX_HEAD)
            p->set->n_head = (int)p->nodes[heads].number;
        dict = inner;
    }
    if (p->nodes[dict].kind != PICKLE_DICT) pickle_fail(p, "no dictionary of tensors");
    cell = p->nodes[dict].first;
    for (int64_t i = 0; i < p->nodes[dict].number && !p->set->status; i += 2) {
        const pickle_node *name = &p->nodes[p->nodes[cell].first];
        const int value = p->nodes[cell].last;
        if (name->kind == PICKLE_TEXT) pickle_take(p, z, root, name, p->nodes[value].first);
        cell = p->nodes[value].last;
    }
}

static polar_status pytorch_read(import_set *s, const uint8_t *data, size_t size) {
    zip_file z = {s, data, size, 0, 0};
    zip_entry root, order;
    pickle p;
    int found;
    if (zip_open(&z)) return s->status;
    if ((found = zip_find(&z, NULL, 0, "data.pkl", 8, &root)) <= 0) {
        if (!found) zip_bad(&z, "a zip file without data.pkl, not one of torch.save");
        return s->status;
    }
    if (zip_find(&z, root.name, root.name_length - 8, "byteorder", 9, &order) > 0 && order.size == 3)
        return import_fail(s, POLAR_UNSUPPORTED, "numbers in big-endian order");
    if (root.size > INT_MAX / 64) {
        zip_bad(&z, "a pickle that is too large");
        return s->status;
    }
    memset(&p, 0, sizeof p);
    p.at = root.data;
    p.end = root.data + root.size;
    p.set = s;
    pickle_new(&p, PICKLE_NONE, 0);
    while (pickle_step(&p)) {}
    pickle_take_all(&p, &z, &root);
    free(p.nodes);
    free(p.stack);
    free(p.memo);
    return s->status;
}

/* --- a predictor of them --------------------------------------------------------------------------------- */

typedef struct import_shape {
    int n_layer, q_dim, d_model, n_head, n_block, n_ff;
} import_shape;

/* The shape of the network from those of its tensors. */
static polar_status import_find_shape(import_set *s, import_shape *shape, int n_head) {
    const import_tensor *project = &s->found[PROJECT], *layers = &s->found[LAYERS], *up = &s->found[UP];
    memset(shape, 0, sizeof *shape);
    if (!project->data || !layers->data)
        return import_fail(s, POLAR_FORMAT, "no tensors of a predictor (looked for q_proj.weight and "
                           "layer_embedding.weight or layer_queries.weight)");
    while (shape->n_block < IMPORT_MAX_BLOCK && s->found[N_BEFORE + N_BLOCK * shape->n_block].data) shape->n_block++;
    shape->d_model = (int)project->dims[0];
    shape->q_dim = (int)project->dims[1];
    shape->n_layer = (int)layers->dims[0];
    shape->n_ff = shape->n_block && up->data ? (int)up->dims[0] : 1;
    shape->n_head = n_head ? n_head : s->n_head ? s->n_head : 4;
    return POLAR_OK;
}

static int64_t import_size_of(const import_shape *shape, import_size size) {
    switch (size) {
    case THREE: return 3;
    case N_LAYER: return shape->n_layer;
    case Q_DIM: return shape->q_dim;
    case D_MODEL: return shape->d_model;
    case D_MODEL_3: return 3 * (int64_t)shape->d_model;
    case N_FF: return shape->n_ff;
    case VECTOR: case ONE: break;
    }
    return 1;
}

/* Checks that all tensors of the network are there, in their shapes, and no others. */
static polar_status import_check(import_set *s, const import_shape *shape) {
    char name[64];
    for (int i = 0; i < IMPORT_TENSORS; i++) {
        const import_row *row = import_tensor_row(i, name);
        const int64_t rows = import_size_of(shape, row->rows), columns = import_size_of(shape, row->columns);
        const import_tensor *t = &s->found[i];
        if (i >= N_BEFORE + N_BLOCK * shape->n_block && i < IMPORT_TENSORS - N_AFTER) {
            if (t->data) return import_fail(s, POLAR_FORMAT, "blocks are missing between those that are there");
            continue;
        }
        if (!t->data) return import_fail(s, POLAR_FORMAT, "the tensor %s is missing", name);
        if (t->dims[0] != rows || t->dims[1] != columns)
            return import_fail(s, POLAR_FORMAT, "tensor %s is %d x %d, expected are %.0f x %.0f", name,
                               (int)t->dims[0], (int)t->dims[1], (double)rows, (double)columns);
    }
    return POLAR_OK;
}

/* A number of 16 bits, F16 or BF16, as a float: exact. */
static float import_half(import_type type, uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t bits;
    float x;
    if (type == IMPORT_BF16) bits = (uint32_t)half << 16;
    else if ((half & 0x7c00) == 0x7c00) bits = sign | 0x7f800000 | (uint32_t)(half & 0x3ff) << 13;
    else { /* the exponent is too small by 127 - 15 as it stands: one exact product mends it, for subnormals too */
        bits = (uint32_t)(half & 0x7fff) << 13;
        memcpy(&x, &bits, 4);
        x *= 5192296858534827628530496329220096.0f; /* 2^112 */
        memcpy(&bits, &x, 4);
        bits |= sign;
    }
    memcpy(&x, &bits, 4);
    return x;
}

static float import_number(import_type type, const uint8_t *p) {
    if (type == IMPORT_F32) {
        const uint32_t bits = (uint32_t)import_read(4, p);
        float x;
        memcpy(&x, &bits, 4);
        return x;
    }
    if (type == IMPORT_F64) {
        const uint64_t bits = import_read(8, p);
        double x;
        memcpy(&x, &bits, 8);
        return (float)x;
    }
    return import_half(type, (uint16_t)import_read(2, p));
}

static void import_put_text(gguf_writer *w, const char *key, const char *text) {
    gguf_writer_set_string(w, key, text, strlen(text));
}

/* Writes the predictor file that polar.h describes; errors wait in the writer. */
static void import_write(const import_set *s, const import_shape *shape, gguf_writer *w) {
    char name[64];
    import_put_text(w, "general.architecture", "polar-predictor");
    gguf_writer_set_u32(w, "polar.version", 1);
    gguf_writer_set_u32(w, "polar.n_layer", (uint32_t)shape->n_layer);
    gguf_writer_set_u32(w, "polar.q_dim", (uint32_t)shape->q_dim);
    import_put_text(w, "polar.feature", polar_feature_name(POLAR_FEATURE_ENCODER));
    gguf_writer_set_u32(w, "polar.paths.d_model", (uint32_t)shape->d_model);
    gguf_writer_set_u32(w, "polar.paths.n_head", (uint32_t)shape->n_head);
    gguf_writer_set_u32(w, "polar.paths.n_block", (uint32_t)shape->n_block);
    gguf_writer_set_u32(w, "polar.paths.n_ff", (uint32_t)shape->n_ff);
    for (int i = 0; i < IMPORT_TENSORS; i++) {
        const import_tensor *t = &s->found[i];
        const int64_t dims[2] = {t->dims[1], t->dims[0]};
        import_tensor_row(i, name);
        if (t->data) gguf_writer_add_tensor(w, name, 0, t->n_dims, dims);
    }
    for (int i = 0; i < IMPORT_TENSORS; i++) {
        const import_tensor *t = &s->found[i];
        for (size_t k = 0; k < t->count; k++) {
            const float x = import_number(t->type, t->data + k * import_type_bytes(t->type));
            gguf_writer_write_f32(w, &x, 1);
        }
    }
}

static polar_status import_finish(import_set *s, polar_predictor **out, int n_head) {
    import_shape shape;
    gguf_writer *w = NULL;
    polar_error error;
    polar_status status;
    const void *data;
    size_t size;
    if (import_find_shape(s, &shape, n_head) || import_check(s, &shape)) return s->status;
    if ((status = gguf_writer_open(&w, NULL, NULL, &error))) return import_fail(s, status, "%s", error.message);
    import_write(s, &shape, w);
    if (!(status = gguf_writer_finish(w, &error))) {
        data = gguf_writer_data(w, &size);
        status = polar_predictor_open_memory(out, data, size, NULL, &error);
    }
    if (status) import_fail(s, status, "%s", error.message);
    gguf_writer_close(w);
    return status;
}

polar_status import_predictor(polar_predictor **out, const char *file, const void *data, size_t size, int n_head,
                              polar_error *error) {
    import_set s;
    memset(&s, 0, sizeof s);
    s.file = file;
    s.error = error;
    *out = NULL;
    if (error) memset(error, 0, sizeof *error);
    if (n_head < 0 || n_head > IMPORT_MAX_HEAD)
        return import_fail(&s, POLAR_ARGUMENT, "%d attention heads: 1..%d are possible, 0 is what the file says", n_head,
                           IMPORT_MAX_HEAD);
    if (size >= 4 && import_read(4, data) == 0x04034b50) pytorch_read(&s, data, size);
    else safetensors_read(&s, data, size);
    return s.status ? s.status : import_finish(&s, out, n_head);
}
