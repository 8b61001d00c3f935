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

#include "polar.h"

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
    CLI_TEXT,   /* const char * */
    CLI_LIST    /* cli_list: may be given several times */
} cli_type;

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
/* The whole file, or stdin for "-", NUL-terminated, to be freed. NULL after a message. */
char *cli_read_file(const char *path, size_t *length);

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

/* --- JSON ---------------------------------------------------------------------------------------------- */

typedef enum json_type {
    JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT
} json_type;

/* A value. `text` is a string unescaped (it may hold NULs: use length), or a number as it was written. */
typedef struct json {
    json_type type;
    const char *key; /* of a member of an object, else NULL */
    const char *text;
    size_t length; /* bytes of text, or number of elements or members */
    double number;
    const struct json *child; /* first element or member */
    const struct json *next;  /* next one of the same array or object */
} json;

typedef struct json_document json_document;
/* Reads one JSON value (RFC 8259). NULL if the text is none: *error says why and *at where (byte offset). */
json_document *json_read(const char *text, size_t length, const char **error, size_t *at);
/* The same for one line of JSONL: the value must be an object, and a message with file and line is printed. */
json_document *json_read_line(const cli_lines *lines);
const json *json_root(const json_document *document);
void json_free(json_document *document);

/* The member of that name, the first of them, or NULL (also if `object` is NULL or no object). */
const json *json_get(const json *object, const char *key);
/* Text of a string member, or NULL. */
const char *json_get_text(const json *object, const char *key);
/* 1 and *value if it is a whole number that fits an int. */
int json_int(const json *value, int *number);
/* 1 and *value if it is 0..2^64-1, written without exponent or fraction. */
int json_u64(const json *value, uint64_t *number);
/* An array of whole numbers as int32_t, to be freed; *n their number. NULL if it is anything else. */
int32_t *json_ints(const json *array, size_t *n);

/* Writing. Strings are quoted and escaped, bytes that are not UTF-8 become U+FFFD. Numbers are the shortest
 * that read back as the same float or double; those that are not finite become null. */
void json_put_string(FILE *f, const char *text, size_t length);
void json_put_text(FILE *f, const char *text);
void json_put_double(FILE *f, double x);
void json_put_float(FILE *f, float x);
void json_put_ints(FILE *f, const int *values, size_t n);
void json_put_floats(FILE *f, const float *values, size_t n);

/* --- terminal ------------------------------------------------------------------------------------------ */

/* Seconds of a clock that does not jump. */
double cli_seconds(void);
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
/* Opens the model that -m names. 0, or the exit status after a message. */
int cli_open_model(const char *path, const char *cpu, int vocab_only, polar_model **model);
/* The values of --kv and --kv-type; 0, or the exit status after a message. */
int cli_kv_mode(const char *text, polar_kv_mode *mode);
int cli_kv_type(const char *text, polar_kv_type *type);

/* --- commands ------------------------------------------------------------------------------------------ */

int command_bench(cli *c);
int command_info(cli *c);
int command_logits(cli *c);
int command_predictor(cli *c);
int command_program(cli *c);
int command_grade(cli *c);
int command_quantize(cli *c);
int command_run(cli *c);
int command_tokenize(cli *c);

#endif /* CLI_H */
