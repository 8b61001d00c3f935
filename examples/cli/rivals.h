/* What others do in place of a predictor, fitted by polar rivals and run by polar eval --rivals: early exit by
 * confidence, routers per layer, layers of least influence skipped, the best block of a scan. See rivals.c. */
#ifndef RIVALS_H
#define RIVALS_H

#include "cli.h"
#include "router.h"

#define RIVALS_MAX 12
#define RIVALS_PREFIX 64

typedef enum rival_kind {
    RIVAL_PROGRAM, /* one program for all questions */
    RIVAL_EXIT,    /* the first layers, as far as the threshold says */
    RIVAL_ROUTER,
    RIVAL_N_KIND
} rival_kind;

typedef struct rival {
    rival_kind kind;
    char name[32];
    const char *note;
    polar_program program; /* of PROGRAM */
    double threshold;      /* of EXIT */
} rival;

typedef struct rivals {
    const polar_model *model;
    polar_model_info info;
    rival items[RIVALS_MAX];
    int n;
    router router; /* weights NULL: there is none */
    double influence[POLAR_MAX_LAYER]; /* of the layers, on training questions; see statistics_influence */
    uint64_t *questions; /* (n_questions) fingerprints of those that it was fitted on */
    int n_questions;
    uint64_t checksum; /* of the file */
    double look_calls;   /* what a look costs: the output head for one token, in layer calls of a token */
    double router_calls; /* of all layers, for a window of each */
    int32_t prefix[RIVALS_PREFIX]; /* how every answer begins, as far as that is known */
    int n_prefix;
    polar_session *looker, *head, *runner;
    float *states, *saved[2]; /* (n_layer, n_embd) of the token that is looked at; (n_ctx, n_embd) while routing */
    int n_ctx;
    /* The question that was asked last. */
    double confidence[POLAR_MAX_LAYER]; /* (n_layer - 1) */
    int ops[POLAR_MAX_LAYER];
    int n_windows;
    const unsigned char *forced; /* NULL, or operations in place of the router's; then `windows` gets what enters */
    float *windows;
    int token; /* that is looked at */
} rivals;

/* Sessions for prompts that have room in n_ctx tokens. 0, or 1 after a message; close it in any case. */
int rivals_open(rivals *r, const polar_model *model, const cli_prompt *prompt, int n_ctx, polar_kv_type kv_type,
                const polar_runner *runner);
void rivals_close(rivals *r);
/* What polar rivals wrote, into rivals that are open. 0, or 1 after a message. */
int rivals_read(rivals *r, const char *path, int any_model);

/* confidence[i]: the largest probability of a token, by the output head behind layer i, where the answer begins. */
int rivals_look(rivals *r, const int32_t *prompt, int n);
/* Layers that run: up to the first one i whose confidence is above the threshold. With a threshold of 0 that is the
 * first one, with 1 all of them and nobody looks. *looks gets how often the head ran. */
int rivals_exit(const rivals *r, double threshold, int *looks);
/* Takes a prompt through the layers and decides for each on the way what happens to it: ops (n_layer) executions. With
 * `forced` they are given, and windows (n_layer, n_windows, n_embd) gets what the routers would read. */
int rivals_route(rivals *r, const int32_t *prompt, int n, const unsigned char *forced, float *windows);

/* All that the rivals need to know of a question. 0, or 1 after a message. */
int rivals_question(rivals *r, const int32_t *prompt, int n);
/* The program of a rival for it, and what it costs beside its own calls, in layer calls of a token. */
double rivals_program(const rivals *r, int index, polar_program *program);

/* The first n layers. */
polar_program rivals_prefix(int n_layer, int n);
/* The program of operations; 0 if it executes nothing. */
int rivals_program_of(const int *ops, int n_layer, polar_program *program);
extern const char *const rivals_notes[RIVAL_N_KIND];
extern const char *const rivals_kinds[RIVAL_N_KIND];

#endif /* RIVALS_H */
