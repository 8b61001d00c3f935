/* What the commands of `polar` share. A command is one function in a file of its own and one row in the table
 * of main.c; it uses polar.h and what is declared here, and nothing else of the library.
 *
 *     int command_greet(cli *c) {
 *         const char *name = "world";
 *         int json = 0, status;
 *         const cli_option options[] = {
 *             {"name", 'n', CLI_TEXT, &name, "NAME", "whom to greet (world)"},
 *             {"json", 0, CLI_FLAG, &json, NULL, "print a JSON object"},
 *             {0}
 *         };
 *         if ((status = cli_read(c, options, 0, 0)) >= 0) return status;
 *         ...
 *         return 0;
 *     }
 *
 * Results go to stdout with printf and the json_put functions; main() flushes it and fails if that fails.
 * Messages go to stderr through cli_fail. Exit status: 0 done, 1 failed, 2 wrong usage. */
#ifndef CLI_H
#define CLI_H

#include "json.h"
#include "polar.h"
#include "../answer/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define CLI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define CLI_PRINTF(f, a)
#endif

/* --- commands and options ------------------------------------------------------------------------------ */

typedef struct cli {
    const struct cli_command *command;
    int n_args;  /* before cli_read: all words after the command; after it: those that are not options */
    char **args;
} cli;

typedef struct cli_command {
    const char *name, *summary;
    int (*run)(cli *c);
    const char *help; /* usage line without "polar NAME ", then text with an example that works */
} cli_command;

/* What an option's `value` points to. */
typedef enum cli_type {
    CLI_FLAG,   /* int, set to 1; takes no value */
    CLI_INT,    /* int */
    CLI_U64,    /* uint64_t, decimal or 0x */
    CLI_NUMBER, /* double */
    CLI_FLOAT,  /* float */
    /* int and double of the library's options, not negative: 0, which means the default there, becomes POLAR_OFF */
    CLI_INT_OFF, CLI_NUMBER_OFF,
    CLI_TEXT,   /* const char *; where it begins with @, the rest names a file that is read */
    CLI_LIST,   /* cli_list: may be given several times */
    CLI_FILE,   /* const char *, a file that is read: no output may be the same one */
    /* const char *, a file that is written: it takes the place of nothing, or of a file of its own kind */
    CLI_SUPERVISION, CLI_EVALUATION, CLI_FIT, CLI_PAGE, CLI_MODEL, CLI_PREDICTOR, CLI_CHECKPOINT, CLI_FEATURES,
    CLI_SCAN, CLI_RIVALS
} cli_type;

/* The number that such an option stands for. */
#define CLI_VALUE(x) ((x) < 0 ? 0 : (x))

typedef struct cli_list {
    const char *items[33]; /* the last one stays NULL */
    int n;
} cli_list;

typedef struct cli_option {
    const char *name; /* without the dashes; NULL ends the table */
    int letter;       /* short form, or 0 */
    cli_type type;
    void *value;           /* holds the default before cli_read */
    const char *parameter; /* what the help calls the value: "FILE" */
    const char *help;
} cli_option;

/* Reads the options out of the command line, wherever they stand; "--" ends them, "-" is not one. Leaves
 * between `min` and `max` other words in c->args (max < 0: any number). Returns -1 to go on, else the exit
 * status: 0 after -h, 2 after a mistake. */
int cli_read(cli *c, const cli_option *options, int min, int max);

/* The same for an output that no option names: 0, or the exit status after a message if the file at `path` is one that
 * the command reads or writes otherwise (by what it is, not by its name), or exists and is of another kind. */
int cli_check_output(const cli *c, const cli_option *options, cli_type kind, const char *path);

/* The rows that many commands have. */
#define CLI_MODEL_OPTION(x)   {"model", 'm', CLI_FILE, &(x), "FILE", "GGUF model"}, CLI_UNKNOWN_OPTION
#define CLI_UNKNOWN_OPTION    {"ignore-unknown", 0, CLI_FLAG, &cli_ignore_unknown, NULL, \
                               "run a model in spite of tensors and keys that are not known here"}
#define CLI_THREADS_OPTION(x) {"threads", 't', CLI_INT, &(x), "N", "threads (one per core)"}
#define CLI_CPU_OPTION(x)     {"cpu", 0, CLI_TEXT, &(x), "NAME", \
                               "auto, plain, avx2, avxvnni, avx512, amx, neon, dotprod, i8mm or wasm (auto)"}
#define CLI_KV_TYPE_OPTION(x) {"kv-type", 0, CLI_TEXT, &(x), "TYPE", "f16 or f32 (f16)"}

/* The place of an option's word among `words` (NULL-terminated), or -1 after a message that lists them. */
int cli_word(const char *option, const char *word, const char *const *words);

/* For main(): names the command in messages; the name of `names` (NULL-terminated) that a mistyped word may
 * have meant, or NULL. */
void cli_begin(const char *command);
const char *cli_nearest(const char *word, const char *const *names);

/* Prints "polar COMMAND: message" to stderr and returns 1, or 2 for wrong usage. */
int cli_fail(const char *format, ...) CLI_PRINTF(1, 2);
int cli_usage(const char *format, ...) CLI_PRINTF(1, 2);
/* A line on stderr that is not an error. */
void cli_note(const char *format, ...) CLI_PRINTF(1, 2);

/* --- files and lines ----------------------------------------------------------------------------------- */

/* fopen with UTF-8 names on every system. */
FILE *cli_fopen(const char *path, const char *mode);
/* FNV-1a of 64 bits: goes on from h, CLI_HASH at first, over more bytes. */
#define CLI_HASH 0xcbf29ce484222325u
uint64_t cli_hash(uint64_t h, const void *bytes, size_t n);
/* What stands behind the last slash. */
const char *cli_base_name(const char *path);
/* What a file is by its first bytes, with what to do about it: "gzip data; unpack it first". NULL if that is JSON, or
 * nothing that is known. */
const char *cli_what_is(const char *head, size_t n);
/* Fails with the library's message, and with what the file is if that is known and not GGUF. */
int cli_fail_open(const char *path, const char *message);
/* The whole file, or stdin for "-", NUL-terminated, to be freed. NULL after a message. */
char *cli_read_file(const char *path, size_t *length);
/* The same for a text that people write: without a byte order mark in front. */
char *cli_read_text(const char *path, size_t *length);

/* A file or stdin ("-") read line by line, of any length. */
typedef struct cli_lines {
    FILE *file;
    const char *name; /* for messages; "stdin" for "-" */
    int number;       /* of the current line, from 1 */
    char *text;       /* the line, NUL-terminated, without its end; changed by the next */
    size_t length, capacity;
    int failed; /* a read error was reported */
} cli_lines;
/* 1, or 0 after a message. */
int cli_lines_open(cli_lines *lines, const char *path);
/* The next line that is not blank; 0 at the end or after a read error, which sets `failed`. */
int cli_lines_next(cli_lines *lines);
void cli_lines_close(cli_lines *lines);

/* --- JSON (json.h) ------------------------------------------------------------------------------------- */

/* json_read for one line of JSONL: the value must be an object, and a message with file and line is printed. */
json_document *json_read_line(const cli_lines *lines);

/* --- questions ------------------------------------------------------------------------------------------- */

/* The objects of a data file, one after the other: the lines of JSONL, the elements of an array or of the array
 * "samples" in an object, or the members of an object of samples. The text of the file stays in memory, the
 * values of one object at a time. */
typedef struct cli_objects {
    const char *name; /* for messages; "stdin" for "-" */
    polar_span header; /* text of the object "polar" beside "samples"; its text is NULL without one */
    polar_span object; /* text of the current object */
    json_document *document;
    int line;   /* where the current object begins */
    int failed; /* an error was reported */
    char *text;
    const char *at, *end, *counted;
    int form, n;
} cli_objects;
/* 1, or 0 after a message. */
int cli_objects_open(cli_objects *objects, const char *path);
/* The next object, valid until the next call; NULL at the end, or after an error, which sets `failed`. */
const json *cli_objects_next(cli_objects *objects);
void cli_objects_close(cli_objects *objects);
/* An output that is there: 0 there is none, 1 it has this header (JSON) and so is of this very run, -1 it has another,
 * after a message. */
int cli_output_is_there(const char *output, const char *header, size_t length);
/* The next member of an object in its text, from behind "{" or the member before: its key and value, unread.
 * Returns the place behind it; NULL at the end, or where the text is no object. */
const char *cli_next_member(const char *at, const char *end, polar_span *key, polar_span *value);
int cli_span_is(polar_span span, const char *text);

#define CLI_MAX_OPTIONS 10

typedef struct cli_question {
    const char *text;   /* the question: with the story before it, and the options of a multiple choice below it */
    const char *answer; /* the reference answer; "" without one */
    const char *id, *query_id, *task, *level, *difficulty, *subject, *domain; /* "" where the file does not say */
    int steps;          /* -1 where the file does not say */
    int n_options, correct; /* of a multiple choice; correct is -1 if the answer names none of them */
    const char *options[CLI_MAX_OPTIONS];
    polar_judge judge; /* as the words of the question ask for */
    int line;  /* in its file */
    int place; /* among the objects of its file, from 0: others may have been left out */
} cli_question;

typedef struct cli_questions {
    int n, capacity;
    cli_question *items;
    int n_responses; /* objects of the file with query_metadata: rows of DART-Math's pool, one for each response */
    uint64_t checksum; /* of questions and answers */
    struct cli_kept {
        struct cli_kept *next;
    } *texts;
    const struct cli_join *join; /* while reading: rows whose texts are to be taken */
} cli_questions;
/* Reads at most `limit` questions (0: all) with the field names of GSM8K, MATH, SVAMP, ASDiv, MAWPS, AQuA, DART-Math,
 * ARC, MMLU and the supervision files. 0, or 1 after a message. */
int cli_questions_read(cli_questions *questions, const char *path, int needs_answer, int limit);
/* The same; objects without the text of a question take that, and without a reference that too, of the first row of the
 * file `texts` (NULL: none) with the same query_id. */
int cli_questions_read_joined(cli_questions *questions, const char *path, int needs_answer, int limit,
                              const char *texts);
#define CLI_TEXTS_OPTION(x) {"texts", 0, CLI_FILE, &(x), "FILE", \
                             "rows with the texts of questions that have only a query_id"}
void cli_questions_free(cli_questions *questions);
/* Hash of a question's text by which it is known again; runs of white space count as one space. */
uint64_t cli_fingerprint(const char *question);
/* Those of all questions, ascending and each once, in *list (n at most, to be freed); 0, or 1 after a message. */
int cli_fingerprints(const cli_questions *questions, uint64_t **list, int *n);
/* Writes such a list, 16 digits each, and reads it back (NULL: none). 0, or 1 after a message; free it then, too. */
void cli_put_fingerprints(FILE *f, const uint64_t *list, int n);
int cli_read_fingerprints(const char *text, const char *path, uint64_t **list, int *n);
/* Is x in an ascending list? */
int cli_has_fingerprint(const uint64_t *list, int n, uint64_t x);
/* Leaves out questions that are there already, and says how many. 0, or 1 after a message. */
int cli_questions_once(cli_questions *questions, const char *file);
/* What [P] takes of rows that are one response each: of the first n_rows (0: all) of a level (rows without one have
 * level 0), the first row of each query_id. Says how many. 0, or 1 after a message. */
int cli_questions_select(cli_questions *questions, const char *file, int level, int n_rows);
/* Keeps questions from..to - 1, counted from 0. 0, or 1 after a message. */
int cli_questions_range(cli_questions *questions, const char *file, int from, int to);
/* Leaves out the questions for which `drop` (n) is not 0. */
void cli_questions_drop(cli_questions *questions, const char *drop);
/* Writes what the file says about a question, and its options, as an object; with a prompt (NULL: without) also, as [P]
 * does, question, reference and the prompt filled in. */
void cli_question_put_info(FILE *f, const cli_question *question, const char *prompt);

/* The text that [P] runs, for every model, and the one that it stores with its results instead. */
extern const char cli_published_prompt[], cli_stored_prompt[];

typedef struct cli_prompt_options {
    const char *prompt; /* text with {question}, "@file", or "auto": what is found */
    const char *chat, *system;
    const char *think; /* NULL, "on" or "off" */
    int example; /* 1: a worked example before the question */
    int last_answer; /* 1: what stands behind the last "Answer:" is graded */
    const char *recorded; /* NULL, or the text as cli_prompt_put wrote it, in place of `prompt` */
    const polar_predictor *predictor; /* NULL, or whose prompt counts before the model's */
} cli_prompt_options;
#define CLI_PROMPT_OPTION(o, otherwise) \
    {"prompt", 0, CLI_TEXT, &(o).prompt, "TEXT", \
     "text with {question} and \\n, @FILE, or auto (the predictor's, the model's own, " otherwise ")"}, \
    {"system", 0, CLI_TEXT, &(o).system, "TEXT", "system message (that which goes with the prompt)"}
/* Of commands that ask a question, as polar_ask does. */
#define CLI_ASK_PROMPT_OPTIONS(o) \
    CLI_PROMPT_OPTION(o, "none"), \
    {"chat", 0, CLI_TEXT, &(o).chat, "FORMAT", "auto, raw, chatml or llama3 (auto: the prompt's, else the file's)"}, \
    {"think", 0, CLI_TEXT, &(o).think, "SWITCH", "on or off: of models whose chat format has a switch for it (off)"}
/* Of commands that ask many; without a prompt of its own a model gets the published one. */
#define CLI_PROMPT_OPTIONS(o) \
    CLI_PROMPT_OPTION(o, "the published one"), \
    {"chat", 0, CLI_TEXT, &(o).chat, "FORMAT", "auto, raw, chatml or llama3 (auto: the prompt's, else the file's)"}, \
    {"example", 0, CLI_FLAG, &(o).example, NULL, "put a worked example before the question"}
/* What the options ask for, to be found by polar_prompt_find; *text holds it, to be freed. 0, or the exit status after
 * a message. */
int cli_prompt_read(const cli_prompt_options *options, char **text, polar_prompt *wanted);

typedef struct cli_prompt {
    polar_prompt how;
    char *text;    /* that belongs to it, or NULL */
    int boxed;     /* an answer counts only in \boxed{} */
    int prefilled; /* the text ends in "\boxed{", so that the answer begins inside */
    int last_answer; /* as the options say */
    const polar_model *model;
} cli_prompt;
/* 0, or the exit status after a message. The model must outlive the prompt. */
int cli_prompt_open(cli_prompt *prompt, const polar_model *model, const cli_prompt_options *options);
void cli_prompt_close(cli_prompt *prompt);
/* Writes text, chat format and system message as members of an object, to be recorded. */
void cli_prompt_put(FILE *f, const cli_prompt *prompt);
/* The tokens of a question, to be freed; 0, or 1 after a message (free them then, too). */
int cli_prompt_tokens(const polar_model *model, const polar_prompt *prompt, const char *question, int32_t **tokens,
                      int *n);
/* Is there room in the model's context for each question and `n_answer` more tokens? The first without is named by its
 * line in `file`, and an error, unless `skip_long` leaves them out and says how many. *longest gets the tokens of the
 * longest prompt. 0, or 1 after a message. */
int cli_prompt_room(const cli_prompt *prompt, cli_questions *questions, const char *file, int n_answer, int skip_long,
                    int *longest);
#define CLI_SKIP_LONG_OPTION(x) \
    {"skip-long", 0, CLI_FLAG, &(x), NULL, "leave out questions that are too long for the model, and say how many"}
/* A guess how an answer is written after the prompt, its end included; as above. */
int cli_prompt_draft(const cli_prompt *prompt, const char *answer, int32_t **tokens, int *n);
/* Is the response right? *answer gets the part of it that is its answer, of length 0 if there is none; it is wrong
 * where it was cut, or stands outside of the box that the prompt asks for. With `last_answer`, as [P] grades in its
 * search, only what stands behind the last "Answer:" of prompt and response counts, in a box that need not be closed.
 * 0, or 1 after a message. */
int cli_grade(const cli_prompt *prompt, const cli_question *question, const char *response, polar_stop stop, int *right,
              polar_span *answer);

/* --- long runs ------------------------------------------------------------------------------------------- */

/* A text that is written like a file. */
typedef struct cli_text {
    FILE *file;
    char *text; /* after closing, NUL-terminated */
    size_t length;
} cli_text;
/* NULL without memory, which closing reports. */
FILE *cli_text_open(cli_text *text);
/* 0, or 1 after a message. */
int cli_text_close(cli_text *text);
void cli_text_free(cli_text *text);

/* A file that is written beside its place and gets its name when it is complete; "-" is stdout. */
typedef struct cli_output {
    FILE *file;
    const char *path;
    char *temporary;
} cli_output;
/* NULL after a message. */
FILE *cli_output_open(cli_output *output, const char *path);
/* With `keep` 0 nothing is left of it. 0, or 1 after a message. */
int cli_output_close(cli_output *output, int keep);
/* A whole file from memory. 0, or 1 after a message. */
int cli_write_file(const char *path, const void *bytes, size_t n);
void cli_remove_file(const char *path);
/* 1 for a device or pipe. */
int cli_is_special(const char *path);
/* An output, NULL or "-" for none, is a file, with a place beside it. */
int cli_has_place(const char *output);

/* Ctrl-C and SIGTERM only set what cli_interrupted returns; the second one ends the program. */
void cli_catch_interrupts(void);
int cli_interrupted(void);

/* A journal: append-only JSONL, flushed to the disk record by record, each with a checksum. A run that was ended
 * in any way goes on from the last whole record. */
typedef struct cli_journal {
    FILE *file;
    char *path;
    int n;       /* records */
    int64_t end; /* bytes */
    int temporary;
} cli_journal;
/* Gets a record that is in the journal already: its text, and its place for cli_journal_read. Not 0 ends reading. */
typedef int (*cli_record)(void *user, polar_span text, int64_t at);
/* Begins a journal (NULL path: a temporary one), or goes on with one whose header (a JSON object) says the same;
 * else a message names what differs. 0, or 1 after a message; close it in any case. */
int cli_journal_open(cli_journal *journal, const char *path, const char *header, cli_record record, void *user);
/* That of an output: OUTPUT.journal, or a temporary one where there is no place for it, as beside "-", NULL, a device. */
int cli_journal_beside(cli_journal *journal, const char *output, const char *header, cli_record record, void *user);
/* What a message about an interruption ends with: how to go on, if that is possible. */
const char *cli_journal_rest(const cli_journal *journal);
/* Adds a record (JSON in one line); *at (may be NULL) gets its place. 0, or 1 after a message. */
int cli_journal_add(cli_journal *journal, const char *record, size_t length, int64_t *at);
/* The text of a record, to be freed; NULL after a message. */
char *cli_journal_read(cli_journal *journal, int64_t at, size_t length);
void cli_journal_close(cli_journal *journal);
/* Ends a journal that is not needed any more, with its file, if it has one; it is still to be closed. */
void cli_journal_remove(cli_journal *journal);
/* The first difference of two objects, as text; 0 if there is none. */
int cli_json_differ(const json *there, const json *here, char *text, size_t size);

/* --- terminal ------------------------------------------------------------------------------------------ */

/* Seconds of a clock that does not jump. */
double cli_seconds(void);
/* The same, or the processor time of all threads of this process. */
double cli_time(int processor);
/* 1 if stderr is a terminal. */
int cli_stderr_is_terminal(void);
int cli_stdout_is_terminal(void);
/* Shows a line on stderr in place of the one before, at most ten times a second, only on a terminal. */
void cli_progress(const char *format, ...) CLI_PRINTF(1, 2);
/* Takes it away. Messages do it by themselves. */
void cli_progress_end(void);

/* --- models ------------------------------------------------------------------------------------------- */

/* "0,1,1,2" to layers (at most POLAR_MAX_CALLS); their number, or -1 after a message. */
int cli_read_path(const char *text, int *path);
/* Set by --ignore-unknown, for every model that a command opens. */
extern int cli_ignore_unknown;
/* Opens the model that -m names. 0, or the exit status after a message. */
int cli_open_model(const char *path, const char *cpu, int vocab_only, polar_model **model);
/* 0, or 1 after a message. */
int cli_save_predictor(const polar_predictor *predictor, const char *path);
/* Writes the member "model" of a file's header: name, architecture, layers, checksum. */
void cli_put_model(FILE *f, const polar_model *model);
/* 0 if the header of a file is of results of this model, by its checksum; else 1 after a message. */
int cli_check_model(const char *file, const json *header, const polar_model *model);
/* How often the own program of the model in such a header runs all layers; 1 without a header. */
int cli_header_loops(const json *header);
/* The model's own program, which stands for the identity where the model is looped. */
polar_program cli_own_program(const polar_model *model);
/* Calls of a program over those of the model's own. */
double cli_cost(const polar_program *p, const polar_program *own);
/* Executions of each layer, negative where they are damped passes. Returns the number of calls. */
int cli_program_times(const polar_program *program, int *times);
/* The path as JSON, null where the program has none. */
void cli_put_path(FILE *f, const polar_program *program);
/* The values of --chat, --kv, --kv-type, --features and --head; 0, or the exit status after a message. */
int cli_chat(const char *name, polar_chat *chat);
int cli_kv_mode(const char *text, polar_kv_mode *mode);
int cli_kv_type(const char *text, polar_kv_type *type);
int cli_feature(const char *text, polar_feature *feature);
int cli_pick_head(const char *text, polar_pick_head *head);
/* Why an answer ended: "limit", "end", "string" or "context". */
const char *cli_stop_name(polar_stop stop);

/* --- commands ------------------------------------------------------------------------------------------ */

int command_bench(cli *c);
int command_eval(cli *c);
int command_info(cli *c);
int command_logits(cli *c);
int command_merge(cli *c);
int command_predict(cli *c);
int command_predictor(cli *c);
int command_program(cli *c);
int command_grade(cli *c);
int command_quantize(cli *c);
int command_report(cli *c);
int command_rivals(cli *c);
int command_run(cli *c);
int command_scan(cli *c);
int command_search(cli *c);
int command_tokenize(cli *c);
int command_train(cli *c);

/* --- bench ----------------------------------------------------------------------------------------------- */

typedef struct bench_search_options {
    int prompt, programs, in_flight, max_tokens, alone, parts, cache_mb, cpu_time, threads, json;
    const char *cpu;
    polar_kv_type kv_type;
    const char *grow; /* "programs", "prompt" or NULL */
    int repeat;       /* rounds */
} bench_search_options;
/* polar bench --search on one model; returns the exit status. */
int bench_search(const char *file, const bench_search_options *options);
/* n ids below n_vocab without a pattern. */
void bench_tokens(int32_t *tokens, int n, int n_vocab);

#endif /* CLI_H */
