/* Inference on a small device: the model is a constant array (flash), memory is one block, and there are no files, no
 * threads, no heap, no standard streams and no mathematical functions but square roots. Tokens go in and tokens come
 * out; who needs text there leaves POLAR_NO_TOKENIZER away, which adds 30 KB of code.
 *
 *     make embedded
 *
 * builds the model array, this file and polar.c with all POLAR_NO_* switches, checks which functions they need from
 * outside, and runs the result on this machine (main.c). */
#include "device.h"
#include "model.h" /* model_bytes, model_size: made from a GGUF file by build/make_array */

/* The block is used from the bottom up; what was taken last comes back first, so that freeing is subtraction. */
typedef struct arena {
    unsigned char *at;
    size_t used, size, peak;
} arena;

#define ALIGN 16

static void *arena_alloc(void *user, size_t size) {
    arena *a = user;
    const size_t bytes = (size + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes < size || bytes > a->size - a->used) return NULL;
    a->used += bytes;
    if (a->used > a->peak) a->peak = a->used;
    return a->at + a->used - bytes;
}

static void arena_free(void *user, void *ptr, size_t size) {
    arena *a = user;
    const size_t bytes = (size + ALIGN - 1) / ALIGN * ALIGN;
    if ((unsigned char *)ptr + bytes == a->at + a->used) a->used -= bytes;
}

static arena arena_of(void *block, size_t bytes) {
    arena a = {block, 0, bytes, 0};
    const size_t skip = (ALIGN - (size_t)((uintptr_t)block % ALIGN)) % ALIGN;
    if (skip > bytes) a.size = 0;
    else a.at += skip, a.size -= skip;
    return a;
}

polar_status device_generate(const int32_t *prompt, int n_prompt, const char *program, int32_t *tokens, int n,
                             void *block, size_t block_bytes, device_memory *memory, polar_error *error) {
    arena a = arena_of(block, block_bytes);
    const polar_allocator allocator = {arena_alloc, arena_free, &a};
    polar_model_options model_options = {0};
    polar_session_options options = {0};
    const polar_sampling greedy = {0};
    polar_model_info info;
    polar_model *model = NULL;
    polar_session *session = NULL;
    polar_program layers;
    polar_status status;
    model_options.allocator = &allocator;
    if ((status = polar_model_open_memory(&model, model_bytes, model_size, &model_options, error))) return status;
    memory->model = a.used;
    polar_model_get_info(model, &info);
    options.n_ctx = n_prompt + n;
    options.n_batch = 1;
    if ((status = polar_model_program(model, program, &layers, error))) goto done;
    if ((status = polar_session_create(&session, model, &layers, &options, error))) goto done;
    status = polar_session_eval(session, prompt, n_prompt, error);
    for (int i = 0; i < n && !status; i++) {
        tokens[i] = polar_sample(&greedy, polar_session_logits(session, 0), info.n_vocab, NULL, 0, NULL, NULL, 0);
        status = polar_session_eval(session, &tokens[i], 1, error);
    }
done:
    memory->peak = a.peak;
    polar_session_free(session);
    polar_model_close(model);
    return status;
}
