/* Running programs on a question and grading what they answer: see evaluate.c. */
#ifndef EVALUATE_H
#define EVALUATE_H

#include "cli.h"

typedef enum reward_kind {
    REWARD_ANSWER, /* the greedy answer equals the reference */
    REWARD_EXACT,  /* the greedy tokens are those of the reference */
    REWARD_CHOICE  /* of the options the correct one is the likeliest */
} reward_kind;

/* What the commands that evaluate programs are told alike, about the questions and how to run them. */
typedef struct evaluate_options {
    const char *reward, *kv, *kv_type, *prompt_program, *cpu, *shard;
    cli_prompt_options prompt;
    cli_list stop;
    const char *range, *texts;
    int level, sample_size, tokens, limit, cache_mb, threads, skip_long;
    int is_released; /* rows of DART-Math's pool are chosen as in [P] without being asked to */
} evaluate_options;
#define EVALUATE_NO_LEVEL (-1)
#define EVALUATE_DEFAULTS {.level = EVALUATE_NO_LEVEL, .sample_size = 2000, .reward = "answer", .kv = "per-call", \
                           .kv_type = "f16", .cpu = "auto", .tokens = 50, .cache_mb = 1024}
#define EVALUATE_OPTIONS(o) \
    {"reward", 0, CLI_TEXT, &(o).reward, "KIND", "answer, exact or choice: what makes an answer right (answer)"}, \
    {"tokens", 'n', CLI_INT, &(o).tokens, "N", "longest answer (50)"}, \
    {"stop", 0, CLI_LIST, &(o).stop, "TEXT", "end an answer before this text; may be repeated"}, \
    CLI_PROMPT_OPTIONS((o).prompt), \
    {"last-answer", 0, CLI_FLAG, &(o).prompt.last_answer, NULL, \
     "grade what stands behind the last Answer: of prompt and response, as [P]'s search does"}, \
    {"level", 0, CLI_INT, &(o).level, "N", \
     "of DART-Math's rows, one for each response, those of this level, and of each query_id the first"}, \
    {"sample-size", 0, CLI_INT, &(o).sample_size, "N", "... among the first N rows of that level; 0: all (2000)"}, \
    CLI_TEXTS_OPTION((o).texts), \
    {"range", 0, CLI_TEXT, &(o).range, "A:B", "questions A to B-1, counted from 0, of those that are left"}, \
    {"limit", 0, CLI_INT, &(o).limit, "N", "the first N questions only"}, \
    CLI_SKIP_LONG_OPTION((o).skip_long), \
    {"shard", 0, CLI_TEXT, &(o).shard, "I/N", "every N-th question, beginning with the I-th; outputs can be joined"}, \
    {"prompt-program", 0, CLI_TEXT, &(o).prompt_program, "PROGRAM", \
     "what questions run under, whatever program answers; one at a time (that program)"}, \
    {"kv", 0, CLI_TEXT, &(o).kv, "MODE", \
     "keys and values: per-call, or, one program at a time, shared or last (per-call)"}, \
    CLI_KV_TYPE_OPTION((o).kv_type), \
    {"cache-mb", 0, CLI_INT, &(o).cache_mb, "N", "memory for what programs share (1024)"}, \
    CLI_THREADS_OPTION((o).threads), \
    CLI_CPU_OPTION((o).cpu)

/* The shard that a question belongs to, 1..n. */
typedef struct shard {
    int index, n;
} shard;
/* Looks for mistakes and reads the shard (1 of 1 without one). 0, or 2 after a message. */
int evaluate_check(const evaluate_options *o, shard *s);
/* Writes what results depend on as members of an object. */
void evaluate_put(FILE *f, const evaluate_options *o, const cli_prompt *prompt);
/* Multiply-adds of a token in all layers: the weights of their matrices, of experts those of the ones it goes to.
 * Attention to other tokens, which depends on their number, is not counted. */
double evaluate_work(const polar_model *model);
/* Is a question part of the shard; how many of n are? */
int shard_has(shard s, int question);
int shard_size(shard s, int n);

/* The answer of a program. */
typedef struct attempt {
    double reward; /* 1 right, 0 wrong */
    char *answer;  /* of the response, to be freed; "" if there is none */
    int n_tokens;
    polar_stop stop;
    double logprob;
} attempt;

typedef struct evaluator {
    const polar_model *model;
    polar_many *many;
    polar_session_options alone; /* of sessions for one program at a time */
    int is_alone;                /* whether all run so */
    polar_program first;         /* of the question's tokens, with a prompt program */
    const evaluate_options *options;
    int32_t *tokens;             /* (n_tokens) the question */
    int n_tokens;
    cli_prompt prompt;
    reward_kind reward;
    const cli_question *question;
    int32_t *gold; /* the reference as the model would write it, a guess */
    int n_gold;
} evaluator;

#define EVALUATE_CANCELLED 3 /* not an exit status: the progress function of the options said stop */

/* `many` says what the options do not: progress, and a runner in place of their threads. 0, or the exit status after a
 * message; close it in any case. */
int evaluator_open(evaluator *e, const polar_model *model, const evaluate_options *options, polar_many_options many);
void evaluator_close(evaluator *e);
/* Room for the questions and their answers, as cli_prompt_room; *n_ctx gets the tokens that the longest one needs. */
int evaluator_room(const evaluator *e, const evaluate_options *options, cli_questions *questions, const char *file,
                   int *n_ctx);
/* Reads the questions that the options choose. 0, or 1 after a message. */
int evaluate_questions(cli_questions *questions, const char *file, const evaluate_options *options);
/* The question that comes next. */
int evaluator_question(evaluator *e, const cli_question *question);
/* Runs paths; the attempts' answers are to be freed, on failure too. 0, EVALUATE_CANCELLED or 1 after a message. */
int evaluator_run(evaluator *e, const polar_path *paths, int n, attempt *attempts);

/* Where paths come from and attempts go, as in polar_many_stream; both may stop the run after a message. */
typedef struct evaluator_stream {
    int (*next)(void *user, polar_path *path); /* 1: there is one, 0: none now, negative: stop; -status is returned */
    int (*done)(void *user, int number, const attempt *a); /* takes over a->answer; a status to stop with, or 0 */
    void *user;
} evaluator_stream;
/* Runs paths as they come, under --reward choice and for programs alone one by one. 0, what stopped it,
 * EVALUATE_CANCELLED, or 1 after a message. */
int evaluator_run_stream(evaluator *e, const evaluator_stream *stream);

#endif /* EVALUATE_H */
