/* Writing GGUF files, as gguf_writer.h says. A string in a file is a u64 length and bytes without a NUL:
 *
 *     "GGUF" | u32 version | u64 tensors | u64 pairs
 *     pair   | string key | u32 type | value                        as many as `pairs`
 *              value of an array: u32 element type | u64 count | elements
 *     tensor | string name | u32 dims | u64 dim[dims] | u32 type | u64 offset
 *     padding to a multiple of 32, then the data, each tensor padded, to which offsets are relative */
#if defined(__unix__) && !defined(_POSIX_C_SOURCE) && !defined(__FreeBSD__) && !defined(__NetBSD__) && \
    !defined(__OpenBSD__) && !defined(__DragonFly__)
#define _POSIX_C_SOURCE 200809L /* fsync, fileno */
#endif
#include "gguf_writer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#elif defined(__unix__) || defined(__APPLE__)
#define WRITER_POSIX 1
#include <sys/stat.h>
#include <unistd.h>
#endif

#define WRITER_ALIGNMENT 32
#define WRITER_MAX_NAME 65535

/* An array of bytes that grows. */
typedef struct writer_bytes {
    char *at;
    size_t length, capacity;
} writer_bytes;

/* A pair in the serialized metadata, to find and replace it. */
typedef struct writer_place {
    size_t at, bytes;
} writer_place;

/* A tensor that was announced. Its name lies in the writer's `names`. */
typedef struct writer_tensor {
    size_t name, name_length;
    int type, n_dims;
    int64_t dims[4];
    uint64_t bytes;
} writer_tensor;

struct gguf_writer {
    polar_allocator allocator;
    polar_error error; /* the first one */
    writer_bytes pairs, names;
    writer_bytes places, tensors; /* arrays of writer_place and of writer_tensor */
    size_t n_places, n_tensors;
    int begun, finished;    /* header written; everything written */
    size_t current;         /* tensor that the next bytes belong to */
    uint64_t written;       /* bytes it has */
    writer_bytes out;       /* the file in memory */
    writer_bytes path, temporary; /* NUL-terminated; temporary is empty where the path is no regular file (a device) */
    FILE *file;             /* NULL: in memory */
};

#ifdef __GNUC__
static void writer_fail(gguf_writer *w, polar_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#endif

/* Notes an error, unless there is one already. */
static void writer_fail(gguf_writer *w, polar_status status, const char *format, ...) {
    va_list arguments;
    if (w->error.status) return;
    w->error.status = status;
    va_start(arguments, format);
    vsnprintf(w->error.message, sizeof w->error.message, format, arguments);
    va_end(arguments);
}

/* --- memory and numbers ---------------------------------------------------------------------------------- */

static void *writer_malloc(void *user, size_t size) {
    (void)user;
    return malloc(size);
}

static void writer_malloc_free(void *user, void *ptr, size_t size) {
    (void)user, (void)size;
    free(ptr);
}

static void writer_free(gguf_writer *w, writer_bytes *b) {
    if (b->at) w->allocator.free(w->allocator.user, b->at, b->capacity);
}

/* Appends n bytes. */
static void writer_put(gguf_writer *w, writer_bytes *b, const void *bytes, size_t n) {
    size_t capacity = b->capacity ? b->capacity : 64;
    char *at;
    if (w->error.status || !n) return;
    while (capacity - b->length < n && capacity <= (size_t)-1 / 2) capacity *= 2;
    if (capacity > b->capacity) {
        at = capacity - b->length < n ? NULL : w->allocator.alloc(w->allocator.user, capacity);
        if (!at) {
            writer_fail(w, POLAR_MEMORY, "out of memory while writing GGUF");
            return;
        }
        if (b->length) memcpy(at, b->at, b->length);
        writer_free(w, b);
        b->at = at;
        b->capacity = capacity;
    }
    memcpy(b->at + b->length, bytes, n);
    b->length += n;
}

/* An unsigned number of so many bytes, little-endian. */
static void writer_put_number(gguf_writer *w, writer_bytes *b, uint64_t value, size_t width) {
    uint8_t bytes[8];
    for (size_t i = 0; i < width; i++) bytes[i] = (uint8_t)(value >> 8 * i);
    writer_put(w, b, bytes, width);
}

static void writer_put_string(gguf_writer *w, writer_bytes *b, const char *s, size_t n) {
    writer_put_number(w, b, n, 8);
    writer_put(w, b, s, n);
}

/* Bytes of a value of a type; 0 if that is not fixed. */
static size_t writer_width(polar_gguf_value_type type) {
    static const uint8_t widths[POLAR_GGUF_N_VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (unsigned)type < (unsigned)POLAR_GGUF_N_VALUE_TYPES ? widths[type] : 0;
}

/* Numbers from the host's order to the file's. */
static void writer_put_values(gguf_writer *w, writer_bytes *b, size_t width, const void *values, size_t count) {
    const char *p = values;
    for (size_t i = 0; i < count && !w->error.status; i++, p += width) {
        uint16_t v16;
        uint32_t v32;
        uint64_t v64 = 0;
        if (width == 1) v64 = (uint8_t)*p;
        else if (width == 2) memcpy(&v16, p, 2), v64 = v16;
        else if (width == 4) memcpy(&v32, p, 4), v64 = v32;
        else memcpy(&v64, p, 8);
        writer_put_number(w, b, v64, width);
    }
}

/* --- metadata -------------------------------------------------------------------------------------------- */

static int writer_name_ok(const char *name, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (name[i] < 32 || name[i] > 126) return 0;
    return n >= 1 && n <= WRITER_MAX_NAME;
}

static writer_place *writer_places(const gguf_writer *w) {
    return (writer_place *)(void *)w->places.at;
}

static writer_tensor *writer_tensors(const gguf_writer *w) {
    return (writer_tensor *)(void *)w->tensors.at;
}

static void writer_remove_pair(gguf_writer *w, const char *key, size_t length) {
    writer_place *places = writer_places(w);
    for (size_t i = 0; i < w->n_places; i++) {
        const writer_place p = places[i];
        char *pair = w->pairs.at + p.at;
        size_t n = 0;
        for (int k = 7; k >= 0; k--) n = n << 8 | (uint8_t)pair[k];
        if (n != length || memcmp(pair + 8, key, length)) continue;
        memmove(pair, pair + p.bytes, w->pairs.length - p.at - p.bytes);
        w->pairs.length -= p.bytes;
        w->places.length -= sizeof p;
        for (w->n_places--; i < w->n_places; i++) {
            places[i] = places[i + 1];
            places[i].at -= p.bytes;
        }
    }
}

/* Notes where the pair begins that is put next. */
static void writer_place_pair(gguf_writer *w) {
    const writer_place p = {w->pairs.length, 0};
    writer_put(w, &w->places, &p, sizeof p);
}

/* Starts a pair at the end of the metadata: the caller puts its value and calls writer_end_pair. */
static int writer_begin_pair(gguf_writer *w, const char *key, polar_gguf_value_type type) {
    const size_t n = strlen(key);
    if (w->begun || !writer_name_ok(key, n)) {
        if (w->begun) writer_fail(w, POLAR_ARGUMENT, "metadata %s comes after tensor data", key);
        else writer_fail(w, POLAR_ARGUMENT, "\"%s\" is no metadata key", key);
    }
    if (w->error.status) return 0;
    writer_remove_pair(w, key, n);
    writer_place_pair(w);
    writer_put_string(w, &w->pairs, key, n);
    writer_put_number(w, &w->pairs, type, 4);
    return 1;
}

static void writer_end_pair(gguf_writer *w) {
    writer_place *p = writer_places(w) + w->n_places;
    if (w->error.status) return;
    p->bytes = w->pairs.length - p->at;
    w->n_places++;
}

static void writer_set(gguf_writer *w, const char *key, polar_gguf_value_type type, const void *value) {
    if (!writer_begin_pair(w, key, type)) return;
    writer_put_values(w, &w->pairs, writer_width(type), value, 1);
    writer_end_pair(w);
}

void gguf_writer_set_u32(gguf_writer *w, const char *key, uint32_t value) {
    writer_set(w, key, POLAR_GGUF_U32, &value);
}

void gguf_writer_set_i32(gguf_writer *w, const char *key, int32_t value) {
    writer_set(w, key, POLAR_GGUF_I32, &value);
}

void gguf_writer_set_u64(gguf_writer *w, const char *key, uint64_t value) {
    writer_set(w, key, POLAR_GGUF_U64, &value);
}

void gguf_writer_set_f32(gguf_writer *w, const char *key, float value) {
    writer_set(w, key, POLAR_GGUF_F32, &value);
}

void gguf_writer_set_f64(gguf_writer *w, const char *key, double value) {
    writer_set(w, key, POLAR_GGUF_F64, &value);
}

void gguf_writer_set_bool(gguf_writer *w, const char *key, int value) {
    const uint8_t byte = value != 0;
    writer_set(w, key, POLAR_GGUF_BOOL, &byte);
}

void gguf_writer_set_string(gguf_writer *w, const char *key, const char *text, size_t length) {
    if (!writer_begin_pair(w, key, POLAR_GGUF_STRING)) return;
    writer_put_string(w, &w->pairs, text, length);
    writer_end_pair(w);
}

void gguf_writer_set_array(gguf_writer *w, const char *key, polar_gguf_value_type type, const void *values,
                           size_t count) {
    if (!writer_width(type)) writer_fail(w, POLAR_ARGUMENT, "array %s: %d is no type of numbers", key, (int)type);
    if (!writer_begin_pair(w, key, POLAR_GGUF_ARRAY)) return;
    writer_put_number(w, &w->pairs, type, 4);
    writer_put_number(w, &w->pairs, count, 8);
    writer_put_values(w, &w->pairs, writer_width(type), values, count);
    writer_end_pair(w);
}

void gguf_writer_set_strings(gguf_writer *w, const char *key, const char *const *strings, const size_t *lengths,
                             size_t count) {
    if (!writer_begin_pair(w, key, POLAR_GGUF_ARRAY)) return;
    writer_put_number(w, &w->pairs, POLAR_GGUF_STRING, 4);
    writer_put_number(w, &w->pairs, count, 8);
    for (size_t i = 0; i < count; i++)
        writer_put_string(w, &w->pairs, strings[i], lengths ? lengths[i] : strlen(strings[i]));
    writer_end_pair(w);
}

/* Keys about the file itself, which a copy has its own of. */
static int writer_is_local(const polar_gguf_pair *pair) {
    static const char alignment[] = "general.alignment";
    return (pair->key_length == sizeof alignment - 1 && !memcmp(pair->key, alignment, sizeof alignment - 1)) ||
           (pair->key_length > 6 && !memcmp(pair->key, "split.", 6));
}

void gguf_writer_copy(gguf_writer *w, const polar_gguf *from) {
    polar_gguf_pair pair;
    if (w->n_places || w->begun) writer_fail(w, POLAR_ARGUMENT, "gguf_writer_copy comes before anything else");
    for (int i = 0; polar_gguf_get_pair(from, i, &pair) && !w->error.status; i++) {
        if (writer_is_local(&pair)) continue;
        writer_place_pair(w);
        writer_put_string(w, &w->pairs, pair.key, pair.key_length);
        writer_put_number(w, &w->pairs, pair.is_array ? POLAR_GGUF_ARRAY : pair.type, 4);
        if (pair.is_array) {
            writer_put_number(w, &w->pairs, pair.type, 4);
            writer_put_number(w, &w->pairs, pair.count, 8);
        }
        writer_put(w, &w->pairs, pair.data, pair.bytes);
        writer_end_pair(w);
    }
}

/* --- tensors --------------------------------------------------------------------------------------------- */

void gguf_writer_add_tensor(gguf_writer *w, const char *name, int type, int n_dims, const int64_t *dims) {
    writer_tensor t = {w->names.length, strlen(name), type, n_dims, {1, 1, 1, 1}, 0};
    size_t row = 0;
    uint64_t rows = 1;
    if (w->begun || !writer_name_ok(name, t.name_length) || n_dims < 1 || n_dims > 4 || !polar_gguf_type_name(type)) {
        writer_fail(w, POLAR_ARGUMENT, "tensor \"%s\" with %d dimensions of type %d cannot be added", name, n_dims,
                    type);
        return;
    }
    for (int i = 0; i < n_dims; i++) {
        t.dims[i] = dims[i];
        if (i == 0) row = dims[0] < 1 ? 0 : polar_gguf_row_bytes(type, dims[0]);
        if (dims[i] < 1 || !row || (i && rows > INT64_MAX / row / (uint64_t)dims[i])) {
            writer_fail(w, POLAR_ARGUMENT, "tensor %s of type %s cannot have dimension %d of %lld", name,
                        polar_gguf_type_name(type), i, (long long)dims[i]);
            return;
        }
        if (i) rows *= (uint64_t)dims[i];
    }
    t.bytes = rows * row;
    writer_put(w, &w->tensors, &t, sizeof t);
    writer_put(w, &w->names, name, t.name_length);
    w->n_tensors += !w->error.status;
}

/* A name, to sort names and find equal ones. */
typedef struct writer_name {
    const char *text;
    size_t length;
} writer_name;

static int writer_compare_names(const void *a, const void *b) {
    const writer_name *x = a, *y = b;
    const int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

/* Names must differ: a file with two tensors of one name cannot be read. */
static void writer_check_names(gguf_writer *w) {
    const writer_tensor *t = writer_tensors(w);
    const size_t bytes = (w->n_tensors + 1) * sizeof(writer_name);
    writer_name *names = w->allocator.alloc(w->allocator.user, bytes);
    if (!names) {
        writer_fail(w, POLAR_MEMORY, "out of memory while writing GGUF");
        return;
    }
    for (size_t i = 0; i < w->n_tensors; i++) {
        names[i].text = w->names.at + t[i].name;
        names[i].length = t[i].name_length;
    }
    qsort(names, w->n_tensors, sizeof *names, writer_compare_names);
    for (size_t i = 1; i < w->n_tensors; i++)
        if (!writer_compare_names(&names[i - 1], &names[i]))
            writer_fail(w, POLAR_ARGUMENT, "the tensor %.*s was added twice",
                        (int)(names[i].length < 100 ? names[i].length : 100), names[i].text);
    w->allocator.free(w->allocator.user, names, bytes);
}

/* --- output ---------------------------------------------------------------------------------------------- */

static void writer_emit(gguf_writer *w, const void *bytes, size_t n) {
    if (!w->file) writer_put(w, &w->out, bytes, n);
    else if (n && !w->error.status && fwrite(bytes, 1, n, w->file) != n)
        writer_fail(w, POLAR_IO, "%s: cannot write: %s", w->path.at, strerror(errno));
}

/* Zeros behind n bytes, up to the alignment; returns their number, which is all it does with emit 0. */
static uint64_t writer_pad(gguf_writer *w, uint64_t n, int emit) {
    static const char zeros[WRITER_ALIGNMENT] = {0};
    const uint64_t padding = (WRITER_ALIGNMENT - n % WRITER_ALIGNMENT) % WRITER_ALIGNMENT;
    if (emit) writer_emit(w, zeros, (size_t)padding);
    return padding;
}

/* Header, metadata and directory, once. */
static void writer_emit_header(gguf_writer *w) {
    const writer_tensor *t = writer_tensors(w);
    uint64_t offset = 0;
    writer_bytes head = {NULL, 0, 0};
    if (w->begun || w->error.status) return;
    w->begun = 1;
    writer_check_names(w);
    writer_put(w, &head, "GGUF", 4);
    writer_put_number(w, &head, 3, 4);
    writer_put_number(w, &head, w->n_tensors, 8);
    writer_put_number(w, &head, w->n_places, 8);
    writer_put(w, &head, w->pairs.at, w->pairs.length);
    for (size_t i = 0; i < w->n_tensors; i++, t++) {
        writer_put_string(w, &head, w->names.at + t->name, t->name_length);
        writer_put_number(w, &head, (uint64_t)t->n_dims, 4);
        for (int k = 0; k < t->n_dims; k++) writer_put_number(w, &head, (uint64_t)t->dims[k], 8);
        writer_put_number(w, &head, (uint64_t)t->type, 4);
        writer_put_number(w, &head, offset, 8);
        offset += t->bytes + writer_pad(w, t->bytes, 0);
    }
    writer_emit(w, head.at, head.length);
    writer_pad(w, head.length, 1);
    writer_free(w, &head);
}

polar_status gguf_writer_write(gguf_writer *w, const void *bytes, size_t n) {
    const char *p = bytes;
    writer_emit_header(w);
    while (n && !w->error.status) {
        const writer_tensor *t = writer_tensors(w) + w->current;
        size_t part;
        if (w->current == w->n_tensors) {
            writer_fail(w, POLAR_ARGUMENT, "%llu bytes more were written than the tensors have", (unsigned long long)n);
            break;
        }
        part = n < t->bytes - w->written ? n : (size_t)(t->bytes - w->written);
        writer_emit(w, p, part);
        p += part;
        n -= part;
        w->written += part;
        if (w->written < t->bytes) continue;
        writer_pad(w, t->bytes, 1);
        w->current++;
        w->written = 0;
    }
    return w->error.status;
}

void gguf_writer_write_f32(gguf_writer *w, const float *values, size_t n) {
    uint8_t bytes[4 * 256];
    for (size_t i = 0; i < n;) {
        size_t k = 0;
        for (; k < sizeof bytes && i < n; k += 4, i++) {
            uint32_t v;
            memcpy(&v, values + i, 4);
            for (size_t b = 0; b < 4; b++) bytes[k + b] = (uint8_t)(v >> 8 * b);
        }
        gguf_writer_write(w, bytes, k);
    }
}

/* --- files with UTF-8 paths on every system -------------------------------------------------------------- */

#ifdef _WIN32
#define WRITER_PATH 1024 /* of a path in UTF-16 */

static FILE *writer_fopen(const char *path) {
    wchar_t wide[WRITER_PATH];
    if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, WRITER_PATH)) {
        errno = EINVAL;
        return NULL;
    }
    return _wfopen(wide, L"wb");
}

static void writer_remove(const char *path) {
    wchar_t wide[WRITER_PATH];
    if (MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, WRITER_PATH)) _wremove(wide);
}

static int writer_rename(const char *from, const char *to) {
    wchar_t f[WRITER_PATH], t[WRITER_PATH];
    if (MultiByteToWideChar(CP_UTF8, 0, from, -1, f, WRITER_PATH) &&
        MultiByteToWideChar(CP_UTF8, 0, to, -1, t, WRITER_PATH) && MoveFileExW(f, t, MOVEFILE_REPLACE_EXISTING))
        return 1;
    errno = EACCES;
    return 0;
}

/* 1 unless the path is a device or a pipe, whose full names begin so. */
static int writer_is_replaceable(const char *path) {
    wchar_t wide[WRITER_PATH], full[WRITER_PATH];
    return !MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, WRITER_PATH) ||
           GetFullPathNameW(wide, WRITER_PATH, full, NULL) < 4 || wcsncmp(full, L"\\\\.\\", 4);
}
#else
static FILE *writer_fopen(const char *path) {
    return fopen(path, "wb");
}

static void writer_remove(const char *path) {
    remove(path);
}

static int writer_rename(const char *from, const char *to) {
    return !rename(from, to);
}

/* 1 unless the path is a device, a pipe or the like, which must not be replaced. /dev/stdout is a link, and leads to a
 * file where the output goes to one. */
static int writer_is_replaceable(const char *path) {
#ifdef WRITER_POSIX
    struct stat info;
    if (!strncmp(path, "/dev/std", 8) || !strncmp(path, "/dev/fd/", 8) || !strncmp(path, "/proc/", 6)) return 0;
    return stat(path, &info) || S_ISREG(info.st_mode);
#else
    (void)path;
    return 1;
#endif
}
#endif

/* Closes the file, on the disk before it gets its name. */
static void writer_finish_file(gguf_writer *w) {
    int bad = fflush(w->file) != 0, cause = errno;
#ifdef WRITER_POSIX
    if (w->temporary.at && !bad && (bad = fsync(fileno(w->file)) != 0)) cause = errno;
#endif
    if (fclose(w->file) && !bad) {
        bad = 1;
        cause = errno;
    }
    w->file = NULL;
    if (bad) writer_fail(w, POLAR_IO, "%s: cannot write: %s", w->path.at, strerror(cause));
    else if (w->temporary.at && !writer_rename(w->temporary.at, w->path.at))
        writer_fail(w, POLAR_IO, "%s: cannot give %s its name: %s", w->path.at, w->temporary.at, strerror(errno));
}

/* --- from beginning to end ------------------------------------------------------------------------------- */

polar_status gguf_writer_open(gguf_writer **out, const char *path, const polar_allocator *allocator,
                              polar_error *error) {
    const polar_allocator standard = {writer_malloc, writer_malloc_free, NULL}, a = allocator ? *allocator : standard;
    gguf_writer *w = a.alloc(a.user, sizeof *w);
    polar_status status = POLAR_MEMORY;
    *out = NULL;
    if (w) {
        memset(w, 0, sizeof *w);
        w->allocator = a;
        if (path) writer_put(w, &w->path, path, strlen(path) + 1);
        if (path && writer_is_replaceable(path)) {
            writer_put(w, &w->temporary, path, strlen(path));
            writer_put(w, &w->temporary, ".tmp", 5);
        }
        if (path && !w->error.status && !(w->file = writer_fopen(w->temporary.at ? w->temporary.at : path)))
            writer_fail(w, POLAR_IO, "%s: %s", w->temporary.at ? w->temporary.at : path, strerror(errno));
        status = w->error.status;
        if (error) *error = w->error;
        if (!status) *out = w;
        else gguf_writer_close(w);
    } else if (error) {
        error->status = status;
        strcpy(error->message, "out of memory while writing GGUF");
    }
    return status;
}

polar_status gguf_writer_finish(gguf_writer *w, polar_error *error) {
    writer_emit_header(w);
    if (w->finished) writer_fail(w, POLAR_ARGUMENT, "gguf_writer_finish was called twice");
    if (!w->error.status && w->current < w->n_tensors) {
        const writer_tensor *t = writer_tensors(w) + w->current;
        writer_fail(w, POLAR_ARGUMENT, "tensor %.*s got %llu of its %llu bytes",
                    (int)(t->name_length < 100 ? t->name_length : 100), w->names.at + t->name,
                    (unsigned long long)w->written, (unsigned long long)t->bytes);
    }
    if (!w->error.status && w->file) writer_finish_file(w);
    w->finished = w->finished || !w->error.status;
    if (error) *error = w->error;
    return w->error.status;
}

const void *gguf_writer_data(const gguf_writer *w, size_t *size) {
    *size = w->finished && !w->path.at ? w->out.length : 0;
    return *size ? w->out.at : NULL;
}

void gguf_writer_close(gguf_writer *w) {
    writer_bytes *all[7];
    if (!w) return;
    if (w->file) fclose(w->file);
    if (w->temporary.at && !w->finished) writer_remove(w->temporary.at);
    all[0] = &w->pairs, all[1] = &w->names, all[2] = &w->places, all[3] = &w->tensors;
    all[4] = &w->out, all[5] = &w->path, all[6] = &w->temporary;
    for (int i = 0; i < 7; i++) writer_free(w, all[i]);
    w->allocator.free(w->allocator.user, w, sizeof *w);
}
