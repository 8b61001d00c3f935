/* Writing GGUF files of any kind: models, predictors, whatever has metadata and tensors. Two files, gguf_writer.h and
 * gguf_writer.c, on polar.h, without the rest of the command; the library itself writes only what it makes.
 *
 *     gguf_writer_open(&w, "model.gguf", NULL, &error);
 *     gguf_writer_set_u32(w, "llama.block_count", 16);
 *     gguf_writer_add_tensor(w, "token_embd.weight", 0, 2, dims);
 *     gguf_writer_write_f32(w, numbers, n);
 *     gguf_writer_finish(w, &error);
 *     gguf_writer_close(w);
 *
 * Files are version 3 and little-endian on every host: first the metadata and the names and shapes of all tensors, then
 * their data, in the same order. An error is remembered, makes what follows do nothing, and is reported by
 * gguf_writer_finish. */
#ifndef GGUF_WRITER_H
#define GGUF_WRITER_H

#include "polar.h"

typedef struct gguf_writer gguf_writer;
/* The file is written beside `path` (UTF-8) as path.tmp. NULL path: into memory. NULL allocator: malloc and free. */
polar_status gguf_writer_open(gguf_writer **out, const char *path, const polar_allocator *allocator, polar_error *error);
/* Takes over all metadata of another file but for general.alignment and split.*. Comes before anything else; `from`
 * is not needed afterwards. */
void gguf_writer_copy(gguf_writer *writer, const polar_gguf *from);
/* Set a value; a key that is set again gets the new one in its place at the end. */
void gguf_writer_set_string(gguf_writer *writer, const char *key, const char *text, size_t length);
void gguf_writer_set_u32(gguf_writer *writer, const char *key, uint32_t value);
void gguf_writer_set_i32(gguf_writer *writer, const char *key, int32_t value);
void gguf_writer_set_u64(gguf_writer *writer, const char *key, uint64_t value);
void gguf_writer_set_f32(gguf_writer *writer, const char *key, float value);
void gguf_writer_set_f64(gguf_writer *writer, const char *key, double value);
void gguf_writer_set_bool(gguf_writer *writer, const char *key, int value);
/* Arrays: `values` are C numbers of the type (uint8_t for bools). */
void gguf_writer_set_array(gguf_writer *writer, const char *key, polar_gguf_value_type type, const void *values,
                           size_t count);
/* NULL lengths: NUL-terminated strings. */
void gguf_writer_set_strings(gguf_writer *writer, const char *key, const char *const *strings, const size_t *lengths,
                             size_t count);
/* Announces a tensor: its type by number, n_dims of 1..4, dims[0] the length of a row. */
void gguf_writer_add_tensor(gguf_writer *writer, const char *name, int type, int n_dims, const int64_t *dims);
/* The next bytes of the tensors' data, in pieces of any size; padding comes by itself. The first call ends the
 * announcements. Returns the status of the first error so far, so that a long run can end early. */
polar_status gguf_writer_write(gguf_writer *writer, const void *bytes, size_t n);
/* The same for F32 tensors, from floats as the host has them. */
void gguf_writer_write_f32(gguf_writer *writer, const float *values, size_t n);
/* Ends the file and gives it its name, replacing one that was there. Until then nothing is to be seen at `path`. Fails
 * with the first error of all calls since the writer was opened. */
polar_status gguf_writer_finish(gguf_writer *writer, polar_error *error);
/* A finished file in memory: its bytes, valid until the writer is closed. NULL if there is none. */
const void *gguf_writer_data(const gguf_writer *writer, size_t *size);
/* Frees the writer; an unfinished file is removed. */
void gguf_writer_close(gguf_writer *writer);

#endif /* GGUF_WRITER_H */
