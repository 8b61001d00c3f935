/* polar - quantized language models run by program. C99, two files, no dependencies. MIT licence.
 *
 * A frozen transformer has D layers. polar runs it under a *program*, which says for each run of layers whether it is
 * skipped, executed once or executed several times ("0-3 4-7x2 8x0 9-15"), and it holds the method around that: GGUF
 * files, tokenizers, the quantized forward pass, the search for programs, the predictor that picks one for a question,
 * and its training (PoLar, arXiv 2606.06574).
 *
 * This program answers a question (it is examples/minimal.c; cc minimal.c polar.c -lpthread -lm):
 *
 *     #include "polar.h"
 *     #include <stdio.h>
 *
 *     static int print(void *user, const char *text, size_t length) {
 *         fwrite(text, 1, length, (FILE *)user);
 *         return fflush((FILE *)user);
 *     }
 *
 *     int main(int argc, char **argv) {
 *         polar_error error;
 *         polar_model *model = NULL;
 *         polar_predictor *predictor = NULL;
 *         polar_ask_options options = {0};
 *         polar_result result;
 *         int failed;
 *         if (argc < 3) return 2;
 *         failed = polar_model_open(&model, argv[1], NULL, &error) ||
 *                  (argc > 3 && polar_predictor_open(&predictor, argv[3], NULL, &error));
 *         options.predictor = predictor;
 *         options.generate.on_text = print;
 *         options.generate.on_text_user = stdout;
 *         failed = failed || polar_ask(model, argv[2], &options, NULL, 0, &result, &error);
 *         if (failed) fprintf(stderr, "minimal: %s\n", error.message);
 *         else printf("\n[%d tokens, %d layer calls each]\n", result.n_generated, result.n_calls);
 *         polar_predictor_close(predictor);
 *         polar_model_close(model);
 *         return failed;
 *     }
 *
 * Written out as the list of executed layers a program is a *path*; one entry of the path is a *call*. Every layer once
 * is the *identity*; the *cost* is the number of calls over D. A *session* is a conversation with a model under a
 * program: every call has its own slot of keys and values, so cached decoding gives what recomputing all would give. A
 * *predictor* is a small network that reads the question and proposes programs before the model runs.
 *
 * RULES FOR ALL OF IT
 * Errors: what can fail returns a polar_status (POLAR_OK is 0) and fills the caller's polar_error, which may be NULL.
 *   Messages name the file, tensor, key or line, what was found and what was expected.
 * Ownership: what is opened or created is closed or freed by the function of that name, which accepts NULL; on failure
 *   *out is NULL. What a function hands out belongs to the object it comes from. Plain structs belong to the caller.
 * Options: {0} are the defaults, and so is NULL in place of them. A number that is 0 stands for the default that its
 *   comment names; the number 0 itself is POLAR_OFF where it means something else. Many options have these fields:
 *     allocator          NULL: malloc and free; in a session and what contains one, that of the model
 *     n_threads, runner  0: one thread per core; unless a runner is given
 *     cpu, seed          the kernels that run (POLAR_UNSUPPORTED if there are no such); of everything random
 *     progress           NULL, or called with the share done in 0..1; not 0 cancels
 * Callbacks get their user pointer first; it stands beside them as xxx_user. Texts and paths of files are UTF-8; text
 *   that is written is cut at its capacity, and NUL-terminated if there is room. Counts are int, bytes size_t.
 * Threads: models and predictors do not change after opening; any number of threads and sessions may use them, which
 *   they must outlive. All other objects belong to one thread at a time.
 * Exactness: results are defined bit by bit. They do not depend on threads, batch size, chunking of a prompt, CPU,
 *   compiler or its flags. Nothing here prints, exits, reads the environment or keeps global state.
 * Sources of numbers: [P] PoLar, arXiv 2606.06574, and its released code; [C] CoLa, arXiv 2507.07996, the study before
 *   it; [R] RE-PoLar, arXiv 2609.31360, an independent reproduction.
 *
 * SWITCHES, defined when compiling polar.c and where polar.h is included; what one leaves out is not declared either:
 *   POLAR_NO_THREADS (all runs in the caller's thread), POLAR_NO_SIMD (no vectors but Cortex-M's: same bits, slower),
 *   POLAR_NO_MMAP (files are read, not mapped), POLAR_NO_STDIO (no files: models come from memory), POLAR_NO_MALLOC
 *   (memory of the allocator in the options), POLAR_NO_TOKENIZER (tokens in, tokens out, no text), POLAR_NO_SEARCH
 *   (without [search] and [many]), POLAR_NO_TRAIN (without [train]). POLAR_SHARED_BUILD, when compiling polar.c,
 *   exports the functions of a shared library; POLAR_SHARED, where polar.h is included, imports them on Windows.
 */
#ifndef POLAR_H
#define POLAR_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define POLAR_VERSION "0.1.0"
#define POLAR_MAX_LAYER 256  /* layers of a model */
#define POLAR_MAX_CALLS 1280 /* calls of a path: every layer five times */
#define POLAR_OFF (-1)       /* the number 0 in options whose 0 stands for another default */
/* Before each function: what a shared library says to export it. */
#ifndef POLAR_API
#if defined(_WIN32) && defined(POLAR_SHARED_BUILD)
#define POLAR_API __declspec(dllexport)
#elif defined(_WIN32) && defined(POLAR_SHARED)
#define POLAR_API __declspec(dllimport)
#elif defined(POLAR_SHARED_BUILD) && defined(__GNUC__)
#define POLAR_API __attribute__((visibility("default")))
#else
#define POLAR_API
#endif
#endif

POLAR_API const char *polar_version(void);

/* --- [err] status and error ------------------------------------------------------------------------- */
typedef enum polar_status {
    POLAR_OK,
    POLAR_ARGUMENT,    /* the caller's: a NULL, a number out of range */
    POLAR_IO,          /* a file: not found, not readable, disk full */
    POLAR_FORMAT,      /* a file or text breaks its own rules */
    POLAR_UNSUPPORTED, /* well-formed, but nothing this library runs */
    POLAR_MEMORY,      /* out of memory */
    POLAR_CONTEXT,     /* more tokens than the session can hold */
    POLAR_MISMATCH,    /* parts do not belong together: a program for another depth, ... */
    POLAR_CANCELLED,   /* a callback said stop */
    POLAR_NUMERIC,     /* not a finite number: logits became NaN or infinite */
    POLAR_N_STATUS
} polar_status;
typedef struct polar_error {
    polar_status status;
    char message[480]; /* UTF-8, NUL-terminated, without a newline; "" when status is POLAR_OK */
} polar_error;

/* --- [mem] allocator -------------------------------------------------------------------------------- */
/* `alloc` returns `size` bytes aligned for any type, or NULL; `free` gets the size back. Called from several threads if
 * sessions are. Copied at open; `user` must outlive what was opened. */
typedef struct polar_allocator {
    void *(*alloc)(void *user, size_t size);
    void (*free)(void *user, void *ptr, size_t size);
    void *user;
} polar_allocator;
typedef int (*polar_progress)(void *user, double done);

/* --- [thread] parallel work ------------------------------------------------------------------------- */
/* Part `index` of some work. `worker` is below n_threads; no two tasks that run at the same time share it. */
typedef void (*polar_task)(void *context, int index, int worker);
/* Runs task(context, i, worker) for all i in [0, n), in any order, until all are done: with threads of the caller's. */
typedef struct polar_runner {
    void (*run)(void *user, int n, polar_task task, void *context);
    void *user;
    int n_threads; /* at least 1 */
} polar_runner;
/* A pool of n_threads - 1 threads, or what the system gives, and the caller's own; <= 0: one per core. Several sessions
 * may share one: who finds it busy works alone. */
typedef struct polar_pool polar_pool;
POLAR_API polar_status polar_pool_create(polar_pool **out, int n_threads, const polar_allocator *allocator,
                                         polar_error *error);
POLAR_API void polar_pool_free(polar_pool *pool);
POLAR_API polar_runner polar_pool_runner(polar_pool *pool);
POLAR_API int polar_cpu_count(void); /* cores this process may use, at least 1 */

/* --- [kern] instruction sets ------------------------------------------------------------------------ */
/* Variants of the kernels, all with the same bits. AUTO takes the fastest that the CPU has. */
typedef enum polar_cpu { POLAR_CPU_AUTO, POLAR_CPU_PLAIN, POLAR_CPU_AVX2, POLAR_CPU_NEON, POLAR_CPU_AVX512,
    POLAR_CPU_DOTPROD, POLAR_CPU_I8MM, POLAR_CPU_AVXVNNI, POLAR_CPU_AMX, POLAR_CPU_WASM, POLAR_N_CPU } polar_cpu;
/* "auto", "plain", ...; like polar_chat_name and its kind NULL for any other number. */
POLAR_API const char *polar_cpu_name(polar_cpu cpu);

/* --- [gguf] tensor types and files ------------------------------------------------------------------ */
/* "Q4_K" for the number of a tensor type in files, also of types that models here cannot have; NULL if it is none. */
POLAR_API const char *polar_gguf_type_name(int type);
/* The reverse; -1 if there is no such type. */
POLAR_API int polar_gguf_type_find(const char *name);
/* Bytes of a row of n values; 0 if the type is unknown or n is no multiple of its block. */
POLAR_API size_t polar_gguf_row_bytes(int type, int64_t n);
/* n numbers, of whole blocks, as floats. Returns 0 where n is no multiple of the block or no model has the type. */
POLAR_API int polar_gguf_dequantize(int type, const void *data, int64_t n, float *out);

/* Any GGUF file, to look into it. In memory it stays in place: the bytes must outlive it, and need no alignment. */
typedef struct polar_gguf polar_gguf;
#ifndef POLAR_NO_STDIO
POLAR_API polar_status polar_gguf_open(polar_gguf **out, const char *path, const polar_allocator *allocator,
                                       polar_error *error);
#endif
POLAR_API polar_status polar_gguf_open_memory(polar_gguf **out, const void *data, size_t size,
                                              const polar_allocator *allocator, polar_error *error);
POLAR_API void polar_gguf_close(polar_gguf *gguf);

/* Types of metadata values, with the numbers that files use. */
typedef enum polar_gguf_value_type {
    POLAR_GGUF_U8, POLAR_GGUF_I8, POLAR_GGUF_U16, POLAR_GGUF_I16, POLAR_GGUF_U32, POLAR_GGUF_I32, POLAR_GGUF_F32,
    POLAR_GGUF_BOOL, POLAR_GGUF_STRING, POLAR_GGUF_ARRAY, POLAR_GGUF_U64, POLAR_GGUF_I64, POLAR_GGUF_F64,
    POLAR_GGUF_N_VALUE_TYPES
} polar_gguf_value_type;
/* One metadata pair, 0 <= index. Returns 0 if there is none. */
typedef struct polar_gguf_pair {
    const char *key; /* printable ASCII, not NUL-terminated */
    size_t key_length;
    polar_gguf_value_type type; /* of the value, or of the elements of an array */
    int is_array;
    size_t count;     /* elements; 1 if it is no array */
    const uint8_t *data; /* as in the file: little-endian, packed; a string is its length as u64, and its bytes */
    size_t bytes;
} polar_gguf_pair;
POLAR_API int polar_gguf_get_pair(const polar_gguf *gguf, int index, polar_gguf_pair *pair);
/* Index of the pair with that key, -1 if there is none. */
POLAR_API int polar_gguf_find(const polar_gguf *gguf, const char *key);
/* A value, or an element of an array, as text, an F64 with 15 digits at most. Returns its whole length; 0: none. */
POLAR_API size_t polar_gguf_text(const polar_gguf *gguf, int index, size_t element, char *text, size_t capacity);
/* The same as a number. Returns 0 if there is none, or it is a string or a bool. */
POLAR_API int polar_gguf_number(const polar_gguf *gguf, int index, size_t element, double *number);

/* One tensor, 0 <= index. Returns 0 if there is none. */
typedef struct polar_gguf_tensor {
    const char *name; /* printable ASCII, not NUL-terminated */
    size_t name_length;
    int type;
    int n_dims;       /* 1..4 */
    int64_t dims[4];  /* dims[0] is the length of a row; 1 past n_dims */
    const uint8_t *data; /* as in the file: little-endian, perhaps unaligned */
    size_t bytes;
} polar_gguf_tensor;
POLAR_API int polar_gguf_get_tensor(const polar_gguf *gguf, int index, polar_gguf_tensor *tensor);

/* --- [model] ---------------------------------------------------------------------------------------- */
typedef struct polar_model polar_model;
typedef struct polar_model_options {
    const polar_allocator *allocator;
    polar_cpu cpu;
    int vocab_only;     /* 1: only the vocabulary, for tokenizing; the file needs no weights */
    int no_mmap;        /* 1: read the file into memory even where it could be mapped */
    int ignore_unknown; /* 1: what is not known here but may change the results is noted; 0: POLAR_UNSUPPORTED */
} polar_model_options;

#ifndef POLAR_NO_STDIO
/* Of a split model the first file (NAME-00001-of-0000N.gguf). Weights stay in the mapped file. */
POLAR_API polar_status polar_model_open(polar_model **out, const char *path, const polar_model_options *options,
                                        polar_error *error);
#endif
/* In place: the bytes are neither copied nor changed and must outlive the model. They need no alignment. */
POLAR_API polar_status polar_model_open_memory(polar_model **out, const void *data, size_t size,
                                               const polar_model_options *options, polar_error *error);
POLAR_API void polar_model_close(polar_model *model);

/* How a conversation is written as tokens; AUTO: as the file asks for. "auto", "raw", "chatml", "llama3". */
typedef enum polar_chat {
    POLAR_CHAT_AUTO, POLAR_CHAT_RAW, POLAR_CHAT_CHATML, POLAR_CHAT_LLAMA3, POLAR_N_CHAT
} polar_chat;
POLAR_API const char *polar_chat_name(polar_chat chat);

/* What a model is. Strings are NUL-terminated. */
typedef struct polar_model_info {
    const char *architecture;    /* "llama", "qwen2", ..., see archs in polar.c */
    const char *name;            /* general.name, or "" */
    const char *tokenizer;       /* "llama-bpe", "qwen2", "gpt-2", "llama" */
    int n_layer, n_embd;         /* layers D; width of the residual stream */
    int n_head, n_head_kv;       /* heads of queries; of keys and values */
    int head_dim, n_ff;          /* numbers of a head; inner width of the feed-forward part, of one expert */
    int n_vocab;                 /* token ids are 0..n_vocab-1 */
    int n_ctx_train;             /* context the model was trained for, in tokens */
    int n_expert, n_expert_used; /* experts of a layer, and those a token goes to; 0 without experts */
    int n_tensors;
    int token_bos, token_eos, token_eot; /* -1 where the file names none */
    polar_chat chat;             /* the format that the file's template asks for, RAW without one */
    const char *prompt;          /* template with {question} to ask with (polar.prompt_template), or "" */
    int64_t n_params;            /* numbers in all tensors */
    int64_t weight_bytes;        /* bytes of all tensors: what is mapped, not what is allocated */
    double rope_base;
    const char *notes;           /* lines, each with a newline, about what in the file is not used or not known */
} polar_model_info;
POLAR_API void polar_model_get_info(const polar_model *model, polar_model_info *info);
/* One tensor of the model's file, 0 <= index < n_tensors. Returns 0 if there is none. */
POLAR_API int polar_model_tensor(const polar_model *model, int index, polar_gguf_tensor *tensor);

/* Over metadata and all weights, the same on every machine. Reads the whole file. */
POLAR_API uint64_t polar_model_checksum(const polar_model *model);
/* In milliseconds, over 256 bytes of each tensor and the metadata that the model's results depend on. */
POLAR_API uint64_t polar_model_fingerprint(const polar_model *model);

/* --- [tok] text and tokens -------------------------------------------------------------------------- */
/* 1 if the token ends a generation: EOS, end of turn, end of message, by the file or by its name ("</s>", ...). */
POLAR_API int polar_token_is_end(const polar_model *model, int token);

#define POLAR_TOKENIZE_SPECIAL 1 /* "<|eot_id|>" in the text is that token; without this flag it is plain text */
#define POLAR_TOKENIZE_BOS 2     /* begin with BOS if the file asks for it, unless the text itself does */
#ifndef POLAR_NO_TOKENIZER
/* Text to tokens, without Unicode normalization, as llama.cpp does it. *n gets the number of tokens of the whole text;
 * at most `capacity` are written (call with 0 to measure). What is not UTF-8 is kept byte by byte, or becomes the
 * unknown token where the vocabulary has no bytes. Below a second per megabyte. POLAR_ARGUMENT above INT_MAX. */
POLAR_API polar_status polar_tokenize(const polar_model *model, const char *text, size_t length, int flags,
                                      int32_t *tokens, int capacity, int *n, polar_error *error);

#define POLAR_DETOKENIZE_SPECIAL 1 /* control tokens are written out; without it they are left out */
/* The inverse. *length gets the bytes of the whole text; at most `capacity` are written, no NUL is. */
POLAR_API polar_status polar_detokenize(const polar_model *model, const int32_t *tokens, int n, int flags,
                                        char *text, size_t capacity, size_t *length, polar_error *error);

typedef struct polar_message {
    const char *role;    /* "system", "user", "assistant" */
    const char *content; /* NUL-terminated; control tokens inside are plain text */
} polar_message;
/* A conversation to tokens, ready for the assistant's next turn; n and capacity as above. RAW takes the contents one
 * after the other, a system text with a blank line behind it. In the format of the file's template all is as that
 * writes it, also a system text of its own where the first message is none (an empty one undoes it), but without tools
 * or the removal of earlier thoughts. Where it cannot be followed, polar_model_info.notes says so. `think` is its
 * enable_thinking; without a template qwen3 in ChatML gets an empty thought if it is 0. POLAR_UNSUPPORTED if there is
 * no thinking to turn on, POLAR_MISMATCH if the vocabulary lacks the format's control tokens. */
POLAR_API polar_status polar_chat_tokenize(const polar_model *model, polar_chat chat, int think,
                                           const polar_message *messages, int n_messages, int32_t *tokens,
                                           int capacity, int *n, polar_error *error);
#endif

/* --- [prog] programs -------------------------------------------------------------------------------- */
typedef struct polar_segment {
    int16_t start, length; /* layers start .. start + length - 1 */
    int16_t times;         /* executions of the whole segment: 0 skips it */
    int16_t damped;        /* 1: they are K = times >= 2 damped passes of the segment g from its input x_0:
                              x_{k+1} = x_k + (g(x_k) - x_k) / K; what leaves is (g(x_0) + x_K) / 2 */
} polar_segment;
/* Segments in order, without gaps, covering layers 0 .. n_layer-1. */
typedef struct polar_program {
    int n_layer, n_segments;
    polar_segment segments[POLAR_MAX_LAYER];
} polar_program;
POLAR_API polar_program polar_program_identity(int n_layer); /* every layer once: one segment */
/* POLAR_OK if the program is well-formed for n_layer layers and executes at least one call. */
POLAR_API polar_status polar_program_validate(const polar_program *program, int n_layer, polar_error *error);
/* Text form: items "a-b" or "a" separated by spaces or commas, with "xT" for T executions, 0 = skipped, or "~K" for K
 * damped passes; one execution if neither follows, or "~1". Layers that no item names are executed once; items ascend
 * and do not overlap. "identity" or "" is the identity. POLAR_FORMAT where the text breaks these rules, POLAR_ARGUMENT
 * if no layer is left or there are more than POLAR_MAX_CALLS calls; *program is as before then. */
POLAR_API polar_status polar_program_parse(polar_program *program, int n_layer, const char *text, polar_error *error);
/* The same for a model; NULL, "" and "identity" are its own program here: all layers once, in a looped model num_loops
 * times, so that "0-23x2" of 24 layers is two loops. */
POLAR_API polar_status polar_model_program(const polar_model *model, const char *text, polar_program *program,
                                           polar_error *error);
/* The text form, which polar_program_parse reads back as it is. Returns its whole length. */
POLAR_API size_t polar_program_format(const polar_program *program, char *text, size_t capacity);
POLAR_API int polar_program_length(const polar_program *program); /* calls */
POLAR_API double polar_program_cost(const polar_program *program); /* calls over n_layer */
/* The path: returns its length, and writes at most `capacity`. A program with a damped segment has none: 0. */
POLAR_API int polar_program_path(const polar_program *program, int *path, int capacity);
#define POLAR_CALL_LAYER 255 /* call & POLAR_CALL_LAYER is the layer of a call */
/* The calls, taken in place of a path: to the layers damped segments add, in higher bits, what happens around them. */
POLAR_API int polar_program_calls(const polar_program *program, int *calls, int capacity);
/* The canonical parse of a path, or of calls: fewest segments of at most max_length layers and max_times executions
 * ([P]: 4, 2); then fewest skips, most repeated segments, larger ones earlier. POLAR_MISMATCH if it has none. */
POLAR_API polar_status polar_program_from_path(polar_program *program, int n_layer, const int *path, int n_path,
                                               int max_length, int max_times, polar_error *error);
/* One cell per layer: '.' skipped, '#' once, '2'..'9' times, '+' more often, '~' damped. Returns n_layer. */
POLAR_API size_t polar_program_strip(const polar_program *program, char *text, size_t capacity);
POLAR_API int polar_program_equal(const polar_program *a, const polar_program *b); /* 1: they do the same calls */
#define POLAR_OP_NONE (-100)
/* What a predictor is trained to say, (n_layer) each: seg_flip 1 where a segment starts (0 at layer 0); op at its start
 * 0 skip, 1 keep, 2 repeat, elsewhere, and for a damped segment, POLAR_OP_NONE. */
POLAR_API void polar_program_targets(const polar_program *program, int *seg_flip, int *op);

/* --- [session] -------------------------------------------------------------------------------------- */
typedef struct polar_session polar_session;
typedef enum polar_kv_mode {
    POLAR_KV_PER_CALL, /* every call attends to its own keys and values: equals recomputation */
    POLAR_KV_SHARED,   /* calls of one layer see each other's entries, as in the code of [P]: only to compare with */
    POLAR_KV_LAST,     /* a slot per layer: calls see what its last call left for tokens of earlier evaluations */
    POLAR_N_KV_MODE
} polar_kv_mode;
typedef enum polar_kv_type { POLAR_KV_F16, POLAR_KV_F32 } polar_kv_type;

/* What a tap sees after a call: the residual stream of positions position .. position+n_rows-1. */
typedef struct polar_tap_info {
    int layer;         /* executed; -1 before the first call (the embeddings) */
    int call, n_calls; /* index in the path, and its length */
    int position, n_rows, n_embd;
    float *hidden;     /* (n_rows, n_embd), may be changed */
} polar_tap_info;
/* Not 0 cancels the evaluation, and leaves the session as it was before it. */
typedef int (*polar_tap)(void *user, const polar_tap_info *info);

typedef struct polar_session_options {
    const polar_allocator *allocator;
    int n_ctx;             /* tokens the session can hold; 0: the smaller of 4096 and what the model was trained for */
    int n_batch;           /* 128: tokens that go through a layer together in prefill. Does not change results */
    int n_logits;          /* 1: positions whose logits an evaluation can keep */
    int max_calls;         /* longest path that set_program may bring later; 0: the length of the first */
    int max_programs;      /* 2: programs that polar_session_change_program can let follow each other */
    int max_peek;          /* tokens that polar_session_peek takes, n_ctx at most. 0 */
    polar_kv_mode kv_mode; /* PER_CALL */
    polar_kv_type kv_type; /* F16: how keys and values are kept; part of what results depend on */
    int n_threads;
    const polar_runner *runner;
    polar_tap tap;         /* NULL, or called after every call: to look, to change, to cancel */
    void *tap_user;
} polar_session_options;
/* Bytes that polar_session_create will take from the allocator, threads included; 0 if it would refuse. */
POLAR_API size_t polar_session_bytes(const polar_model *model, const polar_program *program,
                                     const polar_session_options *options);
/* Creates a session under a program (NULL: the model's own). All memory is taken here, none later. */
POLAR_API polar_status polar_session_create(polar_session **out, const polar_model *model, const polar_program *program,
                                            const polar_session_options *options, polar_error *error);
POLAR_API void polar_session_free(polar_session *session);

/* Another program, or a path in any order, or calls. The session becomes empty, unless this fails. */
POLAR_API polar_status polar_session_set_program(polar_session *session, const polar_program *program,
                                                 polar_error *error);
POLAR_API polar_status polar_session_set_path(polar_session *session, const int *path, int n_path, polar_error *error);
/* Changes the program between tokens: those held stay, the next one runs under the new program. Call j attends to call
 * j of tokens under the same program, and to what the *last* call of its layer left for tokens under another one.
 * POLAR_MISMATCH if a token that is held skipped a layer that the program runs, POLAR_CONTEXT if tokens under
 * max_programs others are held, POLAR_UNSUPPORTED in POLAR_KV_SHARED; the session is as before then. */
POLAR_API polar_status polar_session_change_program(polar_session *session, const polar_program *program,
                                                    polar_error *error);

/* Appends tokens and runs them: one pass over the weights of every call per n_batch tokens. The last n_logits positions
 * keep their logits. On failure the session is as before, but in POLAR_NUMERIC perhaps without logits. */
POLAR_API polar_status polar_session_eval(polar_session *session, const int32_t *tokens, int n, polar_error *error);
/* polar_session_eval of a token in each of n sessions, in all or none of them, for less: those that need the same layer
 * next share a pass over its weights. They have one model, one kv_type, and an n_batch of n or more. */
POLAR_API polar_status polar_sessions_decode(polar_session *const *s, int n, const int32_t *tokens, polar_error *error);
/* Takes tokens through the first n_layers layers before it is known which program will run. `hidden` (n, n_embd), or
 * NULL, gets their hidden states. The session becomes empty. An evaluation of these tokens under a program that begins
 * with these layers goes on from there, with the same bits and without a tap; in POLAR_KV_SHARED it begins anew. */
POLAR_API polar_status polar_session_peek(polar_session *session, const int32_t *tokens, int n, int n_layers,
                                          float *hidden, polar_error *error);
/* Logits (n_vocab) of the last position (back = 0), the one before (1), ...; NULL if not kept. */
POLAR_API float *polar_session_logits(polar_session *session, int back);
/* Number of tokens held, and the tokens. The last one of an answer counts before it is evaluated. */
POLAR_API int polar_session_position(const polar_session *session);
POLAR_API const int32_t *polar_session_tokens(const polar_session *session);
POLAR_API const polar_model *polar_session_model(const polar_session *session);
/* Drops all but the first n tokens; the logits are gone. */
POLAR_API polar_status polar_session_truncate(polar_session *session, int n, polar_error *error);

/* Makes the session hold exactly these tokens: what is the same in front stays, the rest, at least the last one, *n_new
 * (may be NULL) tokens, is run. After a change of the program, and in POLAR_KV_LAST, what stays is as it was run. */
POLAR_API polar_status polar_session_sync(polar_session *session, const int32_t *tokens, int n, int *n_new,
                                          polar_error *error);

typedef enum polar_pooling { POLAR_POOLING_MEAN, POLAR_POOLING_LAST, POLAR_N_POOLING } polar_pooling;
/* Embeds a text: `embedding` (n_embd) gets the mean of the hidden states behind last call and final norm, or the last
 * one (Qwen3-Embedding: its end token's), with `normalize` of length 1. The session then holds these n tokens only. */
POLAR_API polar_status polar_session_embed(polar_session *session, const int32_t *tokens, int n, polar_pooling pooling,
                                           int normalize, float *embedding, polar_error *error);

/* The state (tokens, slots, logits) as *size bytes, the same on every machine, to `state` unless it is NULL. */
POLAR_API polar_status polar_session_save(const polar_session *session, void *state, size_t capacity, size_t *size,
                                          polar_error *error);
/* Goes on to the same bits. Refused, and the session stays as it is: bytes that were changed or cut (POLAR_FORMAT),
 * another model, program, kv_mode or kv_type (POLAR_MISMATCH), too many tokens (POLAR_CONTEXT). */
POLAR_API polar_status polar_session_load(polar_session *session, const void *state, size_t size, polar_error *error);
/* A second session in the same state, with the same options and, without a runner, threads of its own. */
POLAR_API polar_status polar_session_clone(polar_session **out, const polar_session *session, polar_error *error);

/* --- [gen] sampling and generation ------------------------------------------------------------------ */
/* How a token is drawn, in this order. The logit l of each token that was there already becomes l / repetition_penalty
 * if it is positive, l * repetition_penalty if not (arXiv 1909.05858). top_k, top_p and min_p choose by probabilities
 * before temperature; the draw among what is left has it. Without top_k and top_p nothing is sorted. */
typedef struct polar_sampling {
    float temperature; /* 0: greedy, the largest logit, lowest id on ties */
    int top_k;         /* keeps so many of the likeliest; 0: off */
    float top_p;       /* keeps the likeliest that add up to it; 0 and 1: off */
    float min_p;       /* drops what is less likely than min_p times the best; 0: off */
    uint64_t seed;
    float repetition_penalty; /* above 1 against repetitions; 0 and 1: off */
    int repetition_window;    /* how many of the last tokens, prompt and answer, it looks at; 0: all */
} polar_sampling;

#define POLAR_SAMPLE_BYTES 20 /* scratch of polar_sample for each logit */
/* Draws a token from logits (n) and returns its id; -1 for a bad argument, a logit that is NaN or INFINITY, or none
 * above -INFINITY. `tokens` (n_tokens) are those before, for the penalty alone. *state begins as sampling->seed; each
 * draw changes it. `scratch` is aligned for float, `size` at least n POLAR_SAMPLE_BYTES. Greedy draws, also with a NULL
 * sampling, need no state, and without a penalty no scratch. */
POLAR_API int polar_sample(const polar_sampling *sampling, const float *logits, int n, const int32_t *tokens,
                           int n_tokens, uint64_t *state, void *scratch, size_t size);

typedef enum polar_stop {
    POLAR_STOP_LIMIT,  /* max_tokens reached */
    POLAR_STOP_END,    /* the model said so */
    POLAR_STOP_STRING, /* a stop string appeared; it is not part of the text */
    POLAR_STOP_CONTEXT /* no room for another token */
} polar_stop;
typedef struct polar_generate_options {
    int max_tokens;               /* 256 */
    const polar_program *program; /* NULL, or the one that the session changes to behind the prompt */
    polar_sampling sampling;
    const char *const *stop;    /* strings that end the text, NULL-terminated list or NULL */
    const int32_t *stop_tokens; /* further tokens that end it, besides those of the model */
    int n_stop_tokens;
    int ignore_end;             /* 1: the model's own end does not stop it */
    int raw_bytes;              /* 1: the text is the bytes of the tokens; 0: what is no UTF-8 is U+FFFD in it */
    /* NULL, or called with pieces of the text, whole UTF-8 characters only unless raw_bytes; not 0 cancels. */
    int (*on_text)(void *user, const char *text, size_t length);
    void *on_text_user;
    /* NULL, or called before each draw with a copy of the logits, after the penalty, and the tokens held so far. It may
     * change them: -INFINITY rules a token out; NaN, INFINITY or none left is POLAR_NUMERIC. Not 0 cancels. Who goes on
     * draws a token that ended the answer again. Results are exact as long as they depend on its arguments only. */
    int (*on_logits)(void *user, float *logits, int n_vocab, const int32_t *tokens, int n_tokens);
    void *on_logits_user;
    int32_t *tokens;            /* NULL, or where the tokens go that are generated, as many as there is room */
    int token_capacity;
    /* 0: off; 15 is good. Prompt lookup: where the last tokens stood before, at most so many that followed there, fewer
     * than n_logits of the session, run with the next one: faster in POLAR_KV_PER_CALL, same results. Taps see them. */
    int lookup;
} polar_generate_options;
typedef struct polar_result {
    int n_prompt, n_generated; /* tokens; those generated are in polar_generate_options.tokens, if that was given */
    int n_drafted, n_accepted; /* by lookup: run ahead of being drawn, and of them drawn */
    int n_calls;               /* layer calls per generated token */
    polar_stop stop;
    double logprob;            /* sum of natural log probabilities of the generated tokens by the model's own logits */
    size_t length;             /* bytes of the whole text, also where it was cut */
} polar_result;
/* Evaluates the prompt (n tokens; 0 if the session has logits) and generates until a reason of polar_stop. text and
 * result may be NULL. The session then holds prompt and answer, whose last token is evaluated only when something
 * follows: the logits are those that it was drawn from. Another call with n = 0 and the same seed goes on as one call
 * would have, in tokens, text and stop strings. A cancelled one ends as if by a limit at the last token drawn. */
POLAR_API polar_status polar_session_generate(polar_session *session, const int32_t *prompt, int n,
                                              const polar_generate_options *options, char *text, size_t capacity,
                                              polar_result *result, polar_error *error);

/* --- answers ---------------------------------------------------------------------------------------- */
/* A piece of somebody's text; not NUL-terminated. */
typedef struct polar_span {
    const char *text;
    size_t length;
} polar_span;
/* How answers are found in responses and compared. NULL instead of a judge: the response without spaces at both ends,
 * which equals the same bytes only. examples/answer has a judge for mathematics. */
typedef struct polar_judge {
    polar_span (*extract)(void *user, const char *response, size_t length); /* a part of it; length 0: no answer */
    int (*same)(void *user, polar_span a, polar_span b);                    /* 1, 0, or -1 without memory */
    void *user;
} polar_judge;

#ifndef POLAR_NO_SEARCH
/* --- [many] many programs on one prompt ------------------------------------------------------------- */
/* Runs dozens or hundreds of programs on one prompt, as a search does. Results are, bit by bit, those that each path
 * gives alone in a fresh session with greedy decoding, for a fraction of the work: what programs have in common is
 * computed once (share), programs that need the same layer next go through it in one pass over its weights (batch), and
 * an answer that can be guessed is checked instead of generated (draft). */
typedef struct polar_many polar_many;

/* A list of layers to execute, in any order, or what polar_program_calls says. Borrowed for the call. */
typedef struct polar_path {
    const int *calls;
    int n;
} polar_path;
typedef struct polar_many_options {
    const polar_allocator *allocator;
    int n_threads;
    const polar_runner *runner;
    polar_kv_type kv_type;
    size_t cache_bytes;      /* 1 GiB: may be kept of a prompt for later programs; the least recently used goes first */
    int max_tokens;          /* 50: longest answer */
    const char *const *stop; /* strings that end an answer, NULL-terminated list or NULL; must outlive polar_many */
    int no_share, no_batch, no_draft; /* 1: leaves this out. Results are the same */
    polar_progress progress;
    void *progress_user;
} polar_many_options;
/* The greedy answer of one program. Tokens and text are valid until the next prompt. */
typedef struct polar_many_result {
    polar_status status;   /* POLAR_OK; POLAR_NUMERIC: there is no answer, logits were not finite */
    polar_stop stop;
    int n_tokens;
    const int32_t *tokens; /* what was generated, without the token that ended it */
    const char *text;      /* without the stop string, NUL-terminated */
    size_t length;         /* bytes of text */
    double logprob;        /* sum of natural log probabilities of the tokens */
} polar_many_result;
/* What was done since creation. */
typedef struct polar_many_stats {
    int64_t n_rows;                 /* positions taken through a layer */
    int64_t n_passes;               /* passes over the weights of a layer */
    int64_t n_recomputed;           /* prefixes computed again because they had been dropped */
    int64_t n_drafted, n_accepted;  /* draft tokens evaluated; those that turned out to be right */
    size_t cache_bytes, peak_bytes; /* memory held now; the most that was held at a time */
} polar_many_stats;
POLAR_API polar_status polar_many_create(polar_many **out, const polar_model *model, const polar_many_options *options,
                                         polar_error *error);
POLAR_API void polar_many_free(polar_many *many);
/* Sets the prompt, and drops the one before with its results and drafts. */
POLAR_API polar_status polar_many_prompt(polar_many *many, const int32_t *tokens, int n, polar_error *error);
/* An expected answer, such as the reference with the token that ends it; any number of them. Answers found for this
 * prompt are used in the same way. A wrong draft costs little and changes no result. */
POLAR_API polar_status polar_many_draft(polar_many *many, const int32_t *tokens, int n, polar_error *error);
/* Runs n_paths programs and fills `results`. On failure no result is valid; what was computed stays of use. */
POLAR_API polar_status polar_many_run(polar_many *many, const polar_path *paths, int n_paths,
                                      polar_many_result *results, polar_error *error);

/* 1: *path is the next one, valid until its result is reported; 0: none before the next report; negative: stop. */
typedef int (*polar_many_next)(void *user, polar_path *path);
/* Takes a result. Paths are numbered 0, 1, ... as they were given. Not 0: stop. */
typedef int (*polar_many_done)(void *user, int number, const polar_many_result *result);
/* Runs programs as they come, for those that depend on the results of others. `next` is asked at the start and after
 * each report, until it has none; what it gives begins to run while others still generate, so give several at the start
 * and one for each result. Returns when every path is reported. The two must not use `many`. POLAR_CANCELLED if one of
 * them says stop; what was reported stays valid. The order of reports depends on paths, answers and drafts only, so
 * that paths made out of results are the same in every run: by end = begin + 1 + n_tokens - known, of equal ones the
 * lower number first. `begin` is 0 for paths given at the start, else the end of the path reported right before;
 * `known` is how many tokens of the answer a draft or an earlier result foretold: polar_many_stream in polar.c. */
POLAR_API polar_status polar_many_stream(polar_many *many, polar_many_next next, polar_many_done done, void *user,
                                         polar_error *error);
/* Sum of the natural log probabilities of `tokens` (n) after the prompt, under a path: for multiple choice. */
POLAR_API polar_status polar_many_score(polar_many *many, polar_path path, const int32_t *tokens, int n,
                                        double *logprob, polar_error *error);
POLAR_API void polar_many_get_stats(const polar_many *many, polar_many_stats *stats);

/* --- [search] search for programs ------------------------------------------------------------------- */
/* Monte Carlo tree search for programs that answer one question: it proposes them, the caller runs them.
 *
 *     polar_search_create(&search, n_layer, question, strlen(question), NULL, &error);
 *     while ((id = polar_search_next(search, &program)) >= 0)
 *         polar_search_report(search, id, is_correct(&program), &error);
 *
 * Edits of the identity (a run of layers skipped, or executed several times) are added one at a time: next is the child
 * with the largest R/v + c sqrt(ln V / v) - lambda |pi|/D, for rewards R of v visits among V simulations and a path of
 * |pi| calls. All follows from options, question, rewards, order of next and report. Create takes all memory. */
typedef struct polar_search polar_search;

/* What edits do: skip, repeat, or either. "both", "skip", "loop". */
typedef enum polar_search_space {
    POLAR_SEARCH_BOTH, POLAR_SEARCH_SKIP, POLAR_SEARCH_LOOP, POLAR_N_SEARCH_SPACE
} polar_search_space;
POLAR_API const char *polar_search_space_name(polar_search_space space);

typedef struct polar_search_options {
    const polar_allocator *allocator;
    uint64_t seed;         /* of the run; every question gets its own from it and its text */
    int simulations;       /* 200 [C]; the first program comes before them */
    double length_penalty, exploration; /* lambda, 5.0 [C]; c, sqrt 2 [R] */
    double epsilon;        /* probability of an unexplored edit where the best known would be next, 0.1 [C] */
    double widening_alpha, widening_beta; /* children of a node: at most max(1, ceil(alpha visits^beta)); 2, 0.5 [R] */
    int max_length, max_times; /* layers of an edit, 4; executions of a repeated one, 5 */
    int max_damped;        /* 0; otherwise edits may also be 2 .. max_damped damped passes, unless they skip only */
    polar_search_space space;
    double max_cost;       /* longest path as a multiple of the first one, at least 1; 0: no limit */
    int max_in_flight;     /* proposals that may wait for their reward at once, 64 */
    int n_loops;           /* 1; of a looped model: its own program comes first, then fewer loops and edits of one */
    /* NULL, or what other questions taught: P of an edit, cut to 0..1, the same at every call. A node with room gets an
     * edit of the largest P, and R/v + c P sqrt(V) / (1 + v) - lambda |pi|/D decides. */
    double (*prior)(void *user, const polar_segment *edit);
    void *prior_user;
} polar_search_options;
POLAR_API polar_status polar_search_create(polar_search **out, int n_layer, const char *question, size_t length,
                                           const polar_search_options *options, polar_error *error);
POLAR_API void polar_search_free(polar_search *search);

#define POLAR_SEARCH_WAIT (-1) /* nothing to propose before an outstanding reward is reported */
#define POLAR_SEARCH_DONE (-2) /* all simulations are over */
/* The next program to run, and its id, from 0, the identity; or one of the numbers above. No path comes twice. Several
 * may be taken before reporting: each counts as a loss until its reward comes. */
POLAR_API int polar_search_next(polar_search *search, polar_program *program);
/* The reward of a proposal, 0..1, once for each id, in any order. */
POLAR_API polar_status polar_search_report(polar_search *search, int id, double reward, polar_error *error);

typedef struct polar_search_result {
    polar_program program; /* in a form of which every path has one */
    int parent;            /* id of the program that got one more edit; -1 for the identity */
    int simulation;        /* that proposed it; 0 for the identity */
    int reported;          /* 0: the reward is not known yet */
    double reward;
} polar_search_result;
/* A path that was tried; 0 if there is no such id. */
POLAR_API int polar_search_get(const polar_search *search, int id, polar_search_result *result);
#endif /* POLAR_NO_SEARCH */

/* --- [pred] predictor ------------------------------------------------------------------------------- */
/* The network of [P] reads a question as features (one vector per token) and says for each layer whether a segment
 * starts there and what happens to it; decoding makes programs of that. Another one, the menu, says how probable it is
 * that each of a few programs answers the question. A file has one or both; it is GGUF, and [pred] of polar.c lists its
 * keys and tensors for those who write such files. */
typedef struct polar_predictor polar_predictor;

/* What the features of a token are. */
typedef enum polar_feature {
    POLAR_FEATURE_HIDDEN,    /* the model's hidden state after `feature_layer` layers */
    POLAR_FEATURE_EMBEDDING, /* the model's own token embedding */
    POLAR_FEATURE_ENCODER,   /* last hidden states, after the final norm, of another model */
    POLAR_N_FEATURE
} polar_feature;
POLAR_API const char *polar_feature_name(polar_feature feature);

#define POLAR_MAX_MENU 64     /* programs */
#define POLAR_MENU_PRICE 0.05 /* one pass through all layers is worth 5 points of probability */
#define POLAR_MENU_SUM 1      /* the menu sees, besides attention, the sum over the tokens, which counts */
#define POLAR_MENU_LAST 2     /* the last token */

typedef struct polar_predictor_info {
    int n_layer, q_dim;         /* layers of the model, length of a feature vector */
    int d_model, n_head, n_block, n_ff; /* of the network of [P]; 0 if the file has only a menu */
    int n_menu;                 /* programs of the menu, 0 without one */
    size_t n_params;
    polar_feature feature;
    int feature_layer;          /* for POLAR_FEATURE_HIDDEN: layers executed before, 1.. */
    int max_tokens;             /* questions are cut to this many tokens; 0: not */
    uint64_t model_checksum;    /* polar_model_checksum of the model it was trained for; 0: unknown */
    uint64_t model_fingerprint; /* polar_model_fingerprint of it; 0: unknown */
    const char *model_name, *encoder_name; /* "" if unknown */
    const char *prompt, *system, *chat; /* as in polar_prompt, of the training; "" if unknown, a system of NULL: none */
    double price;               /* of the menu, see polar_menu_rank */
    double cascade_threshold;   /* mean log probability that an answer must reach, see polar_cascade */
    int cascade_programs;       /* for how many programs it was fitted, with POLAR_MENU_PRICE; 0: it was not */
    const uint64_t *questions;  /* (n_questions) ascending hashes of those it was trained and chosen on, or NULL */
    int n_questions;
} polar_predictor_info;

#ifndef POLAR_NO_STDIO
POLAR_API polar_status polar_predictor_open(polar_predictor **out, const char *path, const polar_allocator *allocator,
                                            polar_error *error);
#endif
/* From memory; the bytes are copied. */
POLAR_API polar_status polar_predictor_open_memory(polar_predictor **out, const void *data, size_t size,
                                                   const polar_allocator *allocator, polar_error *error);
/* The bytes of such a file, *size of them, to `file` (`capacity` bytes) unless it is NULL. */
POLAR_API polar_status polar_predictor_save(const polar_predictor *predictor, void *file, size_t capacity, size_t *size,
                                            polar_error *error);
POLAR_API void polar_predictor_close(polar_predictor *predictor);
POLAR_API void polar_predictor_get_info(const polar_predictor *predictor, polar_predictor_info *info);
/* Sets all but sizes, menu and n_params, copying texts and lists. Not while others use the predictor. */
POLAR_API polar_status polar_predictor_set_info(polar_predictor *predictor, const polar_predictor_info *info,
                                                polar_error *error);
/* POLAR_MISMATCH if it is for another model: layers, width, encoder (or NULL), without any_model the fingerprint. */
POLAR_API polar_status polar_predictor_check(const polar_predictor *predictor, const polar_model *model,
                                             const polar_model *encoder, int any_model, polar_error *error);

/* Logits of one question with features (n_tokens, q_dim): seg_logits (n_layer), op_logits (n_layer, 3) of skip, keep,
 * repeat. POLAR_UNSUPPORTED if the file has a menu only. */
POLAR_API polar_status polar_predictor_logits(const polar_predictor *predictor, const float *features, int n_tokens,
                                              float *seg_logits, float *op_logits, polar_error *error);

#define POLAR_MAX_BEAMS 32
/* From logits to programs: a segment starts where its probability reaches the threshold, and ends after max_length
 * layers; then a beam search over operations, by log probabilities at the segments' first layers. */
typedef struct polar_beam_options {
    double threshold;      /* 0.5 */
    int max_length;        /* 4 layers */
    int n_beams;           /* 5, at most POLAR_MAX_BEAMS; polar_picker_pick takes as many as it is asked for, if more */
    int n_ops;             /* 2: operations tried per segment, 1..3 */
    double length_penalty; /* 0; otherwise beams are ordered by score - length_penalty * length */
    int keep_empty;        /* 1: polar_picker_pick gives programs that skip every layer, too */
} polar_beam_options;
/* A program that was proposed, with the logarithm of its probability. */
typedef struct polar_candidate {
    polar_program program; /* may skip every layer: polar_program_validate says so */
    double score;
} polar_candidate;
/* `out` has room for n_beams, *n gets the number, best first, ties as in [P]. */
POLAR_API polar_status polar_program_beams(const float *seg_logits, const float *op_logits, int n_layer,
                                           const polar_beam_options *options, polar_candidate *out, int *n,
                                           polar_error *error);

/* Program of the menu, 0 <= index < n_menu; the first is the model's own. NULL if there is none. */
POLAR_API const polar_program *polar_predictor_program(const polar_predictor *predictor, int index);
/* P(the program answers this question correctly) for each program of the menu. */
POLAR_API polar_status polar_predictor_menu(const polar_predictor *predictor, const float *features, int n_tokens,
                                            double *probability, polar_error *error);
/* The programs' indices by probability - price * calls over those of the first. Returns their number. */
POLAR_API int polar_menu_rank(const polar_predictor *predictor, const double *probability, double price, int *order);

/* --- [pick] using a predictor ----------------------------------------------------------------------- */
/* Makes features of questions: what a predictor reads. */
typedef struct polar_features polar_features;
typedef struct polar_features_options {
    polar_feature feature;         /* HIDDEN */
    int layer;                     /* 2: of HIDDEN, layers executed before */
    int max_tokens;                /* 512; POLAR_OFF: no limit */
    const polar_model *encoder;    /* for ENCODER */
    polar_session_options session; /* of the session that runs the model; also allocator and threads */
} polar_features_options;
POLAR_API polar_status polar_features_create(polar_features **out, const polar_model *model,
                                             const polar_features_options *options, polar_error *error);
POLAR_API void polar_features_free(polar_features *features);
POLAR_API int polar_features_width(const polar_features *features); /* n_embd of the model, or of the encoder */
/* Features of a question as *rows (*n, width), valid until the next call. EMBEDDING and HIDDEN read the last max_tokens
 * of the prompt, the tokens that the program will run on, so that the first layers are not run twice; ENCODER reads the
 * question's text, cut to max_tokens with its end token. What is not read may be NULL. */
POLAR_API polar_status polar_features_make(polar_features *features, const char *question, size_t length,
                                           const int32_t *prompt, int n_prompt, const float **rows, int *n,
                                           polar_error *error);

/* Picks programs for questions (polar_picker_pick), and answers under them (polar_picker_answer). */
typedef struct polar_picker polar_picker;
typedef enum polar_pick_head {
    POLAR_PICK_AUTO,    /* the menu if the file has one */
    POLAR_PICK_MENU,    /* programs of the menu by probability - price * cost */
    POLAR_PICK_PROGRAMS /* decoded programs by their score; those that execute nothing are left out */
} polar_pick_head;
typedef struct polar_pick_options {
    const polar_model *encoder;    /* for features of an encoder */
    polar_session_options session; /* that answers; max_calls 0: what any program that may be picked needs */
    polar_pick_head head;          /* AUTO */
    double price;                  /* of the menu; that of the file */
    polar_beam_options beams;
    int any_model;                 /* 0, see polar_predictor_check */
} polar_pick_options;
/* POLAR_MISMATCH if the predictor is for another model. */
POLAR_API polar_status polar_picker_create(polar_picker **out, const polar_model *model,
                                           const polar_predictor *predictor, const polar_pick_options *options,
                                           polar_error *error);
POLAR_API void polar_picker_free(polar_picker *picker);
/* The best programs for a question, at most `max`. The session has then taken the prompt through the layers that the
 * features come from; an evaluation of the prompt under a program that begins with them goes on from there. */
POLAR_API polar_status polar_picker_pick(polar_picker *picker, const char *question, size_t length,
                                         const int32_t *prompt, int n_prompt, polar_candidate *out, int max, int *n,
                                         polar_error *error);
/* P(correct) of the menu's programs for the last question; NULL if no menu picks. */
POLAR_API const double *polar_picker_menu(const polar_picker *picker);
POLAR_API polar_session *polar_picker_session(polar_picker *picker);

typedef enum polar_method {
    POLAR_METHOD_FIRST,   /* the answer of the first program */
    POLAR_METHOD_VOTE,    /* of all programs, see polar_vote; weights are their probabilities */
    POLAR_METHOD_CASCADE, /* of the first program whose answer is confident, see polar_cascade */
    POLAR_N_METHOD
} polar_method;
typedef struct polar_answer_options {
    polar_method method;             /* FIRST */
    double threshold;                /* of a cascade, below 0; 0: that of the predictor's file */
    const char *prefix;              /* how the answer begins in the prompt ("\\boxed{"), or NULL: for votes */
    const polar_judge *judge;        /* of a vote */
    polar_generate_options generate; /* on_text gets the answer that was chosen, in one piece if several were run */
} polar_answer_options;
typedef struct polar_picked {
    polar_result result;       /* of the program whose answer it is */
    int chosen;                /* its index */
    int n_run, n_calls;        /* programs that were run, and layer calls per token of all of them */
    int votes;                 /* for this answer; 0: no program gave one that counts, and it is that of the first */
    polar_candidate candidate; /* the program whose answer it is */
} polar_picked;
/* Answers under n candidates, the best first; text and capacity as in polar_session_generate. */
POLAR_API polar_status polar_picker_answer(polar_picker *picker, const int32_t *prompt, int n_prompt,
                                           const polar_candidate *candidates, int n,
                                           const polar_answer_options *options, char *text, size_t capacity,
                                           polar_picked *picked, polar_error *error);

#define POLAR_NO_CONFIDENCE (-1e9)
typedef struct polar_cascade_run {
    double confidence; /* logprob over the number of tokens of the answer; POLAR_NO_CONFIDENCE without any */
    double cost;       /* of the program, 1 for the identity */
    int correct;       /* not looked at here: for those who fit a threshold, as examples/cli/statistics.c does */
} polar_cascade_run;
/* A cascade runs programs until the confidence of an answer reaches the threshold, and takes that one, or else the most
 * confident one. Returns its index; *n_run gets the number of programs that had to run. */
POLAR_API int polar_cascade(const polar_cascade_run *runs, int n, double threshold, int *n_run);

/* An answer, extracted; length 0 is no answer. */
typedef struct polar_ballot {
    const char *text;
    size_t length;
    double weight;   /* probability of its program: exp of polar_candidate.score */
    polar_stop stop; /* LIMIT and CONTEXT: the response was cut, and its answer does not vote */
} polar_ballot;
/* The answer that most of n <= POLAR_MAX_MENU ballots give; of equal ones that with more weight, then the first one.
 * *winner is the first ballot for it, -1 if no answer votes; *votes (may be NULL) their number. */
POLAR_API polar_status polar_vote(const polar_ballot *ballots, int n, const polar_judge *judge, int *winner, int *votes,
                                  polar_error *error);

typedef struct polar_prompt {
    const char *text;   /* template: the question takes each place of "{question}"; NULL: the question alone */
    const char *system; /* system message; NULL: none */
    polar_chat chat;
    int think;          /* 1: with thinking, see polar_chat_tokenize */
} polar_prompt;
/* The prompt of questions to a model, by the first of these that has a text: `wanted`; the predictor, with its chat
 * format and system message; the model's file, raw; else the question alone. System message and chat format of `wanted`
 * come before those found; AUTO that is left becomes the file's chat format. predictor and wanted may be NULL. */
POLAR_API polar_status polar_prompt_find(const polar_model *model, const polar_predictor *predictor,
                                         const polar_prompt *wanted, polar_prompt *prompt, polar_error *error);

typedef struct polar_ask_options {
    polar_session_options session;    /* n_ctx 0: what the question and max_tokens need */
    polar_generate_options generate;
    polar_prompt prompt;              /* what is not given is found: polar_prompt_find */
    const char *prompt_program;       /* NULL, or what the prompt runs under in place of `program`; not with a pick */
    const char *program;              /* as in polar_model_program; NULL: what the predictor picks, if there is one */
    const polar_predictor *predictor; /* NULL, or the predictor of this model; with a program only its prompt counts */
    const polar_model *encoder;       /* as in polar_pick_options, like the next three */
    polar_pick_head head;
    double price;                     /* that of the file */
    int any_model;
    polar_method method;              /* FIRST; or a vote or cascade over the first n_programs that are picked */
    int n_programs;                   /* 0: what a cascade was fitted for, else 5; at most POLAR_MAX_MENU */
    const polar_judge *judge;         /* of a vote */
    double threshold;                 /* of a cascade, as in polar_answer_options */
    polar_picked *picked;             /* NULL, or gets the program that was chosen and what it took */
} polar_ask_options;

#ifndef POLAR_NO_TOKENIZER
/* As polar_tokenize. POLAR_FORMAT if the prompt's text has no place for the question. */
POLAR_API polar_status polar_prompt_tokenize(const polar_model *model, const polar_prompt *prompt, const char *question,
                                             int32_t *tokens, int capacity, int *n, polar_error *error);
/* Question in, answer out, in a session of its own. text, capacity and result as in polar_session_generate. */
POLAR_API polar_status polar_ask(const polar_model *model, const char *question, const polar_ask_options *options,
                                 char *text, size_t capacity, polar_result *result, polar_error *error);
#endif

#ifndef POLAR_NO_TRAIN
/* --- [train] training ------------------------------------------------------------------------------- */
typedef enum polar_result_kind { POLAR_RESULT_UNKNOWN, POLAR_RESULT_VALID, POLAR_RESULT_INVALID } polar_result_kind;
typedef struct polar_train_path {
    const int *path; /* calls */
    int length;
    polar_result_kind result;
} polar_train_path;
/* A question: its features (n_tokens, q_dim), computed once, and the paths that were tried. All borrowed. */
typedef struct polar_train_question {
    const float *features;
    int n_tokens, n_paths;
    const polar_train_path *paths;
} polar_train_question;
typedef enum polar_schedule { POLAR_SCHEDULE_COSINE, POLAR_SCHEDULE_LINEAR, POLAR_SCHEDULE_CONSTANT } polar_schedule;
/* What happens to the identity path where a question has a shorter valid one too. */
typedef enum polar_identity { POLAR_IDENTITY_PLAIN, POLAR_IDENTITY_REWEIGHT, POLAR_IDENTITY_DROP } polar_identity;
/* The best epoch: least loss, or most held-out questions of which the first (one of five first) proposals is valid;
 * CORRECTED: the first one, of questions that the identity is not known to answer. */
typedef enum { POLAR_SELECT_LOSS, POLAR_SELECT_HIT1, POLAR_SELECT_HIT5, POLAR_SELECT_CORRECTED } polar_select;

/* One epoch of the loss curve. Values of validation are 0 without held-out questions. */
typedef struct polar_train_epoch {
    double loss, lr;        /* mean over the steps; rate of the last */
    double validation_loss; /* per example, without dropout */
    double hit1, hit5;      /* share of held-out questions with a known valid program first, among the first 5 */
    double identity;        /* share with the identity first */
} polar_train_epoch;
typedef struct polar_train_progress {
    int n_questions, n_validation, n_examples; /* trained on, held out; paths trained on */
    int epoch, step, n_steps;       /* finished */
    int n_skipped;                  /* steps left out because loss or gradient were not finite */
    size_t n_params;
    double loss, norm, lr;          /* of the last step; norm: of the gradient */
    int best_epoch;                 /* from 0; -1: none yet */
    const polar_train_epoch *curve; /* of `epoch` epochs */
} polar_train_progress;
/* The defaults are the recipe of [P] but for `group` and `standardize`; what is 0 there is off. */
typedef struct polar_train_options {
    const polar_allocator *allocator;
    int n_threads;
    const polar_runner *runner;
    polar_cpu cpu;
    uint64_t seed;
    const polar_predictor *start; /* weights to go on from; NULL: random ones */
    int d_model, n_head, n_block; /* 256, 4, 2; those of `start` with one */
    double dropout;             /* 0.1 */
    int no_standardize;         /* 0: training sees features of mean 0, variance 1; the weights saved need not */
    int n_epochs, batch;        /* 10; 128 examples per step */
    int group;                  /* 8: so many paths of a question share a pass and its dropout; 1: all are shuffled */
    double lr;                  /* 5e-4 */
    polar_schedule schedule;
    int warmup;                 /* 10 steps */
    double weight_decay;        /* 0 */
    double clip;                /* 0: bound of the gradient's norm */
    int max_paths;              /* 50 of a question, a seeded choice; POLAR_OFF: all */
    polar_identity identity;    /* PLAIN */
    double identity_weight;     /* 0.3, for REWEIGHT */
    double length_preference;   /* 0: beta of weights exp(-beta length) */
    double anti_identity;       /* 0: lambda of a penalty on keeping all where the identity is not valid */
    double focal;               /* 0: gamma of the focal loss, whose terms are (1 - p)^gamma times -ln p */
    int per_question;           /* 0; 1: the weights of a question's examples add up to 1 */
    double validation;          /* 0.1: share of the questions that is held out */
    polar_select select;        /* LOSS */
    int (*progress)(void *user, const polar_train_progress *progress);
    void *progress_user;
} polar_train_options;
/* A run over `questions`, which must stay until it is freed; those without a valid path that parses are left out. */
typedef struct polar_trainer polar_trainer;
POLAR_API polar_status polar_trainer_create(polar_trainer **out, int n_layer, int q_dim,
                                            const polar_train_question *questions, int n_questions,
                                            const polar_train_options *options, polar_error *error);
POLAR_API void polar_trainer_free(polar_trainer *trainer);
/* n_steps steps, or all that are left (0); `progress` is called after each. Cancelled, the trainer can go on. */
POLAR_API polar_status polar_trainer_run(polar_trainer *trainer, int n_steps, polar_error *error);
POLAR_API int polar_trainer_done(const polar_trainer *trainer);
POLAR_API void polar_trainer_get_progress(const polar_trainer *trainer, polar_train_progress *progress);
/* The weights of the best epoch so far, as a predictor of its own. */
POLAR_API polar_status polar_trainer_predictor(const polar_trainer *trainer, polar_predictor **out, polar_error *error);
/* The run's state as bytes, and into a trainer of the same options and data (else POLAR_MISMATCH): the same bits. */
POLAR_API polar_status polar_trainer_save(const polar_trainer *trainer, void *state, size_t capacity, size_t *size,
                                          polar_error *error);
POLAR_API polar_status polar_trainer_load(polar_trainer *trainer, const void *state, size_t size, polar_error *error);

typedef struct polar_menu_options {
    const polar_allocator *allocator;
    int n_threads;
    const polar_runner *runner;
    uint64_t seed;
    int width, n_head;       /* 64, 4: of the network */
    int pooling;             /* POLAR_MENU_SUM | POLAR_MENU_LAST, POLAR_OFF for none: what the network sees as well */
    double policy;           /* 1: weight of a second loss, what picks at this price are worth */
    double dropout;          /* 0.1 */
    int n_epochs, batch;     /* 40; 32 questions */
    double lr, weight_decay; /* 1e-3 with cosine; 0.01 */
    double validation;       /* 0.2: share of the questions that chooses the epoch and calibrates */
    int n_held;              /* 0; otherwise the last so many questions do that, in place of a random share */
    double price;            /* POLAR_MENU_PRICE, kept in the file */
    polar_progress progress; /* after each epoch */
    void *progress_user;
} polar_menu_options;
typedef struct polar_menu_report {
    int n_questions, n_validation, n_known; /* trained on, held out; results known in both */
    int best_epoch;
    double loss, calibrated_loss; /* mean log loss of the held-out results before and after calibration */
    double scale;                 /* of the logits, from the calibration */
} polar_menu_report;
/* Trains the menu, identity first, on the results of the questions' paths, and calibrates it on those held out. *out
 * gets a new predictor with it and all else of `base`. base and report may be NULL. */
POLAR_API polar_status polar_menu_train(polar_predictor **out, const polar_predictor *base, int n_layer, int q_dim,
                                        const polar_train_question *questions, int n_questions,
                                        const polar_program *menu, int n_menu, const polar_menu_options *options,
                                        polar_menu_report *report, polar_error *error);
#endif /* POLAR_NO_TRAIN */

#ifdef __cplusplus
}
#endif
#endif /* POLAR_H */
