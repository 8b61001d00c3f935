/* Options, messages, files and the terminal: what every command needs. */
#ifndef _WIN32
#define _POSIX_C_SOURCE 200809L
#endif
#include "cli.h"
#include "same_file.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <time.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <sys/stat.h>
#include <unistd.h>
#endif

/* --- messages ------------------------------------------------------------------------------------------ */

static const char *command_name; /* NULL until the command is known */

void cli_begin(const char *command) {
    command_name = command;
}

static void message(const char *format, va_list args) {
    cli_progress_end();
    fflush(stdout); /* so that results and messages stand in order where both go to one file */
    if (command_name) fprintf(stderr, "polar %s: ", command_name);
    else fputs("polar: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

int cli_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    message(format, args);
    va_end(args);
    return 1;
}

int cli_usage(const char *format, ...) {
    va_list args;
    va_start(args, format);
    message(format, args);
    va_end(args);
    return 2;
}

void cli_note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    message(format, args);
    va_end(args);
}

/* --- the nearest word ---------------------------------------------------------------------------------- */

#define WORD_MAX 31

/* Insertions, deletions, replacements and swaps of neighbours that make b of a. */
static int edit_distance(const char *a, const char *b) {
    int d[WORD_MAX + 2][WORD_MAX + 2], n = (int)strlen(a), m = (int)strlen(b);
    if (n > WORD_MAX || m > WORD_MAX) return INT_MAX;
    for (int i = 0; i <= n; i++) {
        for (int j = 0; j <= m; j++) {
            int best;
            if (!i || !j) {
                d[i][j] = i + j;
                continue;
            }
            best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[n][m];
}

/* A name that begins with the word counts as near, too: --temp for --temperature. */
const char *cli_nearest(const char *word, const char *const *names) {
    const char *best = NULL;
    int least = 1 + (int)strlen(word) / 3;
    if (least > 3) least = 3;
    for (; *names; names++) {
        int d = edit_distance(word, *names);
        if (strlen(word) >= 2 && !strncmp(word, *names, strlen(word))) d = 0;
        if (d > least || (best && d == least)) continue;
        least = d;
        best = *names;
    }
    return best;
}

/* --- options ------------------------------------------------------------------------------------------- */

static void print_option(const cli_option *o) {
    char left[64];
    snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
             o->letter ? ", " : "  ", o->name, o->parameter ? " " : "", o->parameter ? o->parameter : "");
    printf("  %-26s %s\n", left, o->help);
}

static void print_help(const cli *c, const cli_option *options) {
    const cli_option help = {"help", 'h', CLI_FLAG, NULL, NULL, "this text"};
    printf("usage: polar %s %s", c->command->name, c->command->help);
    printf("\noptions:\n");
    for (; options->name; options++) print_option(options);
    print_option(&help);
    printf("  %-26s %s\n", "    --", "what follows is no option");
}

/* The option that a word like "--name", "--name=value" or "-n" names. */
static const cli_option *find_option(const cli_option *options, const char *word) {
    size_t n = strcspn(word, "=");
    for (; options->name; options++) {
        if (!strncmp(word, "--", 2) && strlen(options->name) == n - 2 && !strncmp(options->name, word + 2, n - 2))
            return options;
        if (options->letter && word[1] == options->letter && n == 2) return options;
    }
    return NULL;
}

static int unknown_option(const cli_option *options, const char *word) {
    const char *names[65], *nearest = NULL;
    char name[WORD_MAX + 1];
    int n = 0, length = (int)strcspn(word, "=");
    for (; options->name && n < 63; options++) names[n++] = options->name;
    names[n++] = "help";
    names[n] = NULL;
    if (!strncmp(word, "--", 2)) {
        snprintf(name, sizeof name, "%.*s", length - 2, word + 2);
        nearest = cli_nearest(name, names);
    }
    if (nearest) return cli_usage("unknown option %.*s; did you mean --%s?", length, word, nearest);
    return cli_usage("unknown option %.*s; polar %s -h lists them", length, word, command_name);
}

/* A whole number, decimal; with `hex` also 0x. Nothing may follow it. */
static int read_u64(const char *s, uint64_t *value) {
    unsigned base = s[0] == '0' && (s[1] == 'x' || s[1] == 'X') ? 16 : 10;
    const char *digits = "0123456789abcdef";
    uint64_t v = 0;
    if (base == 16) s += 2;
    if (!*s) return 0;
    for (; *s; s++) {
        char lower = (char)(*s >= 'A' && *s <= 'F' ? *s - 'A' + 'a' : *s);
        const char *at = strchr(digits, lower);
        uint64_t digit = at ? (uint64_t)(at - digits) : 99;
        if (digit >= base || v > (UINT64_MAX - digit) / base) return 0;
        v = v * base + digit;
    }
    *value = v;
    return 1;
}

static int read_int(const char *s, int *value) {
    int negative = *s == '-';
    uint64_t v;
    if (!read_u64(s + negative, &v) || v > INT_MAX) return 0;
    *value = negative ? -(int)v : (int)v;
    return 1;
}

/* The program never calls setlocale, so that strtod reads a point here. */
static int read_double(const char *s, double *value) {
    char *end;
    double v = strtod(s, &end);
    if (end == s || *end || v - v != 0) return 0;
    *value = v;
    return 1;
}

/* Stores the value of an option; -1, or 2 after a message. */
static int store(const cli_option *o, const char *value) {
    double number;
    int whole;
    switch (o->type) {
    case CLI_FLAG:
        *(int *)o->value = 1;
        break;
    case CLI_INT:
    case CLI_INT_OFF:
        if (!read_int(value, &whole) || (o->type == CLI_INT_OFF && whole < 0))
            return cli_usage("--%s: \"%s\" is not a whole number%s", o->name, value, o->type == CLI_INT ? "" : " >= 0");
        *(int *)o->value = o->type == CLI_INT_OFF && !whole ? POLAR_OFF : whole;
        break;
    case CLI_U64:
        if (!read_u64(value, o->value)) return cli_usage("--%s: \"%s\" is not a whole number >= 0", o->name, value);
        break;
    case CLI_NUMBER:
    case CLI_FLOAT:
        if (!read_double(value, &number)) return cli_usage("--%s: \"%s\" is not a number", o->name, value);
        if (o->type == CLI_NUMBER) *(double *)o->value = number;
        else *(float *)o->value = (float)number;
        break;
    case CLI_NUMBER_OFF:
        if (!read_double(value, &number) || number < 0)
            return cli_usage("--%s: \"%s\" is not a number >= 0", o->name, value);
        *(double *)o->value = number > 0 ? number : POLAR_OFF;
        break;
    case CLI_LIST: {
        cli_list *list = o->value;
        if (list->n == (int)(sizeof list->items / sizeof *list->items) - 1)
            return cli_usage("--%s: more than %d times", o->name, list->n);
        list->items[list->n++] = value;
        break;
    }
    default: /* texts and names of files */
        *(const char **)o->value = value;
    }
    return -1;
}

/* Reads the option at args[*i], which may take the next word too. */
static int read_option(cli *c, const cli_option *options, int *i) {
    const char *word = c->args[*i], *equals = strchr(word, '=');
    const cli_option *o = find_option(options, word);
    if (!o) return unknown_option(options, word);
    if (o->type == CLI_FLAG && equals) return cli_usage("--%s takes no value", o->name);
    if (o->type == CLI_FLAG) return store(o, "");
    if (equals) return store(o, equals + 1);
    if (*i + 1 == c->n_args) return cli_usage("--%s needs a value: %s", o->name, o->parameter);
    return store(o, c->args[++*i]);
}

/* An option begins with a letter, or two signs: -1 and -\frac{1}{2} are none. */
static int is_option(const char *word) {
    return word[0] == '-' && (word[1] == '-' || (word[1] >= 'a' && word[1] <= 'z') || (word[1] >= 'A' && word[1] <= 'Z'));
}

int cli_read(cli *c, const cli_option *options, int min, int max) {
    int n = 0, ended = 0, status;
    for (int i = 0; i < c->n_args; i++) {
        char *word = c->args[i];
        if (ended || !is_option(word)) {
            c->args[n++] = word;
        } else if (!strcmp(word, "--")) {
            ended = 1;
        } else if (!strcmp(word, "-h") || !strcmp(word, "--help")) {
            print_help(c, options);
            return 0;
        } else if ((status = read_option(c, options, &i)) >= 0) {
            return status;
        }
    }
    c->n_args = n;
    if (max >= 0 && n > max) return cli_usage("\"%s\" is one argument too many; polar %s -h says more",
                                              c->args[max], command_name);
    if (n < min) return cli_usage("an argument is missing; polar %s -h says more", command_name);
    for (const cli_option *o = options; o->name; o++) {
        const char *path = o->type > CLI_FILE ? *(const char **)o->value : NULL;
        status = path ? cli_check_output(c, options, o->type, path) : 0;
        if (status) return status;
    }
    return -1;
}

int cli_word(const char *option, const char *word, const char *const *words) {
    char list[256];
    size_t n = 0;
    for (int i = 0; words[i]; i++)
        if (!strcmp(word, words[i])) return i;
    for (int i = 0; words[i] && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", !i ? "" : words[i + 1] ? ", " : " or ", words[i]);
    cli_usage("%s %s: expected %s", option, word, list);
    return -1;
}

/* --- files and lines ----------------------------------------------------------------------------------- */

FILE *cli_fopen(const char *path, const char *mode) {
#ifdef _WIN32
    wchar_t wide_path[1024], wide_mode[8];
    if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide_path, 1024) ||
        !MultiByteToWideChar(CP_UTF8, 0, mode, -1, wide_mode, 8)) {
        errno = EINVAL; /* no UTF-8, or too long */
        return NULL;
    }
    return _wfopen(wide_path, wide_mode);
#else
    return fopen(path, mode);
#endif
}

uint64_t cli_hash(uint64_t h, const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
    return h;
}

const char *cli_base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

#ifdef _WIN32
/* The system's full name of NUL, CON, COM1 and the like begins so, and that of pipes. */
int cli_is_special(const char *path) {
    wchar_t wide[1024], full[1024];
    return MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 1024) && GetFullPathNameW(wide, 1024, full, NULL) >= 4 &&
           !wcsncmp(full, L"\\\\.\\", 4);
}
#else
/* /dev/stdout is one even where it leads to a file: to replace it would cut the link. */
int cli_is_special(const char *path) {
    struct stat s;
    return !strncmp(path, "/dev/std", 8) || !strncmp(path, "/dev/fd/", 8) || !strncmp(path, "/proc/", 6) ||
           (!stat(path, &s) && !S_ISREG(s.st_mode) && !S_ISDIR(s.st_mode));
}
#endif

int cli_has_place(const char *output) {
    return output && strcmp(output, "-") && !cli_is_special(output);
}

static int begins(const char *text, size_t n, const char *with) {
    const size_t length = strlen(with);
    return n >= length && !memcmp(text, with, length);
}

/* Text in two bytes a character: with a byte order mark, or ASCII with every other byte 0. */
static int is_utf16(const char *head, size_t n) {
    if (begins(head, n, "\xff\xfe") || begins(head, n, "\xfe\xff")) return 1;
    return n >= 4 && (head[0] ? !head[1] && head[2] && !head[3] : head[1] && !head[2] && head[3]);
}

/* A line of names or values between commas, semicolons or tabs, and nothing of JSON before. */
static int is_table(const char *head, size_t n) {
    size_t i = 0;
    int marks = 0;
    for (; i < n && head[i] != '\n'; i++) {
        marks += head[i] == ',' || head[i] == ';' || head[i] == '\t';
        if ((unsigned char)head[i] < 32 && head[i] != '\t' && head[i] != '\r') return 0;
    }
    return marks > 0;
}

const char *cli_what_is(const char *head, size_t n) {
    static const struct {
        const char *bytes, *name;
    } known[] = {
        {"\x1f\x8b", "gzip data; unpack it first (gunzip)"},
        {"\x28\xb5\x2f\xfd", "zstd data; unpack it first (unzstd)"},
        {"\xfd" "7zXZ", "xz data; unpack it first (unxz)"},
        {"BZh", "bzip2 data; unpack it first (bunzip2)"},
        {"PK\3\4", "a ZIP archive (as those of PyTorch and NumPy are, too); unpack or convert it first"},
        {"PAR1", "a Parquet file; export it as JSON lines"},
        {"ARROW1", "an Arrow file; export it as JSON lines"},
        {"SQLite format 3", "an SQLite database; export it as JSON lines"},
        {"%PDF-", "a PDF document"},
        {"\x93NUMPY", "a NumPy array"},
        {"version https://git-lfs", "a Git LFS pointer; the file itself was not downloaded (git lfs pull)"},
        {"tjgg", "a model in the format before GGUF; convert it first"},
        {"fmgg", "a model in the format before GGUF; convert it first"},
        {"lmgg", "a model in the format before GGUF; convert it first"},
        {"GGUF", "a GGUF file"},
    };
    if (is_utf16(head, n)) return "UTF-16 text; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (begins(head, n, known[i].bytes)) return known[i].name;
    if (n > 9 && !memcmp(head + 5, "\0\0\0{\"", 5))
        return "a safetensors file; convert it to GGUF first (polar predictor import, for a predictor)";
    if (n > 1 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5)
        return "a Python pickle; polar predictor import reads those of predictors";
    if (begins(head, n, "\xef\xbb\xbf")) head += 3, n -= 3;
    while (n && strchr(" \t\r\n", *head) && *head) head++, n--;
    if (n && *head == '<') return "HTML or XML, perhaps a page in place of the file; download the file itself";
    if (!n || strchr("{[", *head)) return NULL;
    return is_table(head, n) ? "a table of comma or tab separated values (CSV); export it as JSON lines" : NULL;
}

/* --- outputs ------------------------------------------------------------------------------------------- */

/* An option or word of the command, other than `path` itself, that names the same file; NULL if none does. */
static const char *same_as(const cli *c, const cli_option *options, const char *path, const char *file) {
    for (int i = 0; i < c->n_args; i++)
        if (c->args[i] != path && same_file(c->args[i], file)) return c->args[i];
    for (; options->name; options++) {
        const int is_text = options->type == CLI_TEXT || options->type >= CLI_FILE;
        const char *value = is_text ? *(const char **)options->value : NULL;
        if (!value || value == path || (options->type == CLI_TEXT && *value != '@')) continue;
        if (options->type != CLI_FILE && !strcmp(value, "-")) continue; /* stdout */
        if (same_file(value + (options->type == CLI_TEXT), file)) return value;
    }
    return NULL;
}

static int holds(const char *text, size_t n, const char *part) {
    const size_t length = strlen(part);
    for (size_t i = 0; i + length <= n; i++)
        if (!memcmp(text + i, part, length)) return 1;
    return 0;
}

/* The kind of output that begins with these bytes, or CLI_FILE if it is none; spaces in JSON do not count. */
static cli_type kind_of(const char *head, size_t n) {
    char squeezed[512];
    size_t k = 0;
    if (begins(head, n, "GGUF"))
        return holds(head, n, "polar-predictor") ? CLI_PREDICTOR : CLI_MODEL;
    if (begins(head, n, "polar-training")) return CLI_CHECKPOINT;
    if (begins(head, n, "polreft1") || begins(head, n, "1tferlop")) return CLI_FEATURES;
    if (begins(head, n, "<!DOCTYPE html>") && holds(head, n, "<meta name=\"generator\" content=\"polar\">"))
        return CLI_PAGE;
    for (size_t i = 0; i < n && k < sizeof squeezed; i++)
        if (!strchr(" \t\r\n", head[i]) || !head[i]) squeezed[k++] = head[i];
    if (begins(squeezed, k, "{\"polar\":{\"kind\":\"eval\"")) return CLI_EVALUATION;
    if (begins(squeezed, k, "{\"polar\":{\"kind\":\"scan\"")) return CLI_SCAN;
    if (begins(squeezed, k, "{\"polar\":{\"kind\":\"rivals\"")) return CLI_RIVALS;
    if (begins(squeezed, k, "{\"polar\":{\"version\":") || begins(squeezed, k, "{\"samples\":["))
        return CLI_SUPERVISION;
    if (begins(squeezed, k, "{\"model\":{\"checksum\":") && holds(squeezed, k, "},\"fit\":{")) return CLI_FIT;
    return CLI_FILE;
}

/* May an output of this kind take the place of what is there? Anything but a file may: a device, a pipe. */
static int check_kind(cli_type kind, const char *path) {
    static const char *const names[] = {
        "results of a search", "an evaluation", "what polar eval --fit writes", "a page of polar report",
        "a model",             "a predictor",   "the state of a training",      "a file of features", "a scan",
        "what polar rivals writes"};
    char head[4096];
    FILE *f = cli_fopen(path, "rb");
    const size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    const cli_type found = kind_of(head, n);
    const char *what = found > CLI_FILE ? names[found - CLI_SUPERVISION] : cli_what_is(head, n);
    if (f) fclose(f);
    if (!n || found == kind) return 0;
    if (!what) what = *head == '{' || *head == '[' ? "other JSON" : "another file";
    return cli_fail("%s exists and is %.*s, not %s: remove it or choose another output", path,
                    (int)strcspn(what, ";"), what, names[kind - CLI_SUPERVISION]);
}

/* A file is written beside its place first, so that this name must be free, too. */
int cli_check_output(const cli *c, const cli_option *options, cli_type kind, const char *path) {
    char *temporary;
    const char *other = NULL;
    int status = 0;
    if (!strcmp(path, "-") && (kind == CLI_PREDICTOR || kind == CLI_CHECKPOINT))
        return cli_usage("a predictor is written to a file, not to \"-\"");
    if (!strcmp(path, "-") || cli_is_special(path)) return 0;
    if (!(temporary = malloc(strlen(path) + sizeof ".tmp"))) return cli_fail("out of memory");
    strcat(strcpy(temporary, path), ".tmp");
    if ((other = same_as(c, options, path, path)))
        status = cli_usage("%s and %s are the same file: choose another output", path, other);
    else if ((other = same_as(c, options, path, temporary)))
        status = cli_usage("%s is where %s is written first: choose another output", other, path);
    else if (!(status = check_kind(kind, path))) status = check_kind(kind, temporary);
    free(temporary);
    return status;
}

/* --- reading ------------------------------------------------------------------------------------------- */

int cli_fail_open(const char *path, const char *message) {
    char head[512];
    FILE *f = cli_is_special(path) ? NULL : cli_fopen(path, "rb"); /* a pipe has been read already */
    const size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    const char *what = cli_what_is(head, n);
    if (f) fclose(f);
    if (n > 1 && !what && (*head == '{' || *head == '[')) what = "JSON text";
    return what && !begins(head, n, "GGUF") ? cli_fail("%s; it is %s", message, what) : cli_fail("%s", message);
}

static FILE *open_input(const char *path) {
    FILE *f = strcmp(path, "-") ? cli_fopen(path, "rb") : stdin;
    if (!f) cli_fail("cannot open %s: %s", path, strerror(errno));
    return f;
}

static int grow(char **text, size_t *capacity, size_t need) {
    size_t n = *capacity ? *capacity : 4096;
    char *p;
    while (n < need) {
        if (n > SIZE_MAX / 2) return 0;
        n *= 2;
    }
    if (n == *capacity) return 1;
    if (!(p = realloc(*text, n))) return 0;
    *text = p;
    *capacity = n;
    return 1;
}

char *cli_read_file(const char *path, size_t *length) {
    FILE *f = open_input(path);
    char *text = NULL;
    size_t capacity = 0, n = 0;
    int ok = f != NULL;
    while (ok) {
        size_t got;
        if (!grow(&text, &capacity, n + 4096)) {
            cli_fail("%s: out of memory", path);
            ok = 0;
            break;
        }
        errno = 0;
        n += got = fread(text + n, 1, capacity - n - 1, f);
        if (got) continue;
        if (ferror(f)) { /* a directory, for one */
            cli_fail("cannot read %s: %s", path, errno ? strerror(errno) : "read error");
            ok = 0;
        }
        break;
    }
    if (f && f != stdin) fclose(f);
    if (!ok) {
        free(text);
        return NULL;
    }
    text[n] = 0;
    *length = n;
    return text;
}

char *cli_read_text(const char *path, size_t *length) {
    char *text = cli_read_file(path, length);
    if (text && *length >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) memmove(text, text + 3, (*length -= 3) + 1);
    return text;
}

int cli_lines_open(cli_lines *lines, const char *path) {
    memset(lines, 0, sizeof *lines);
    lines->name = strcmp(path, "-") ? path : "stdin";
    lines->file = open_input(path);
    return lines->file != NULL;
}

/* One line into lines->text: 1, or 0 at the end of the file or on failure. */
static int read_line(cli_lines *l) {
    int ch = 0;
    l->length = 0;
    errno = 0;
    while ((ch = getc(l->file)) != EOF && ch != '\n') {
        if (l->length + 1 >= l->capacity && !grow(&l->text, &l->capacity, l->length + 2)) {
            cli_fail("%s:%d: out of memory", l->name, l->number + 1);
            l->failed = 1;
            return 0;
        }
        l->text[l->length++] = (char)ch;
    }
    if (ferror(l->file)) {
        cli_fail("cannot read %s: %s", l->name, errno ? strerror(errno) : "read error");
        l->failed = 1;
        return 0;
    }
    l->number++;
    return ch != EOF || l->length > 0;
}

int cli_lines_next(cli_lines *l) {
    while (read_line(l)) {
        size_t i = 0;
        if (l->length && l->text[l->length - 1] == '\r') l->length--;
        while (i < l->length && strchr(" \t\r", l->text[i]) && l->text[i]) i++;
        if (i == l->length) continue;
        l->text[l->length] = 0;
        return 1;
    }
    return 0;
}

void cli_lines_close(cli_lines *l) {
    if (l->file && l->file != stdin) fclose(l->file);
    free(l->text);
    memset(l, 0, sizeof *l);
}

json_document *json_read_line(const cli_lines *lines) {
    const char *error;
    size_t at;
    json_document *d = json_read(lines->text, lines->length, &error, &at);
    if (!d) {
        const char *what = lines->number == 1 ? cli_what_is(lines->text, lines->length) : NULL;
        if (what) cli_fail("%s is %s; lines of JSON are expected", lines->name, what);
        else cli_fail("%s:%d: not JSON: %s (column %lu)", lines->name, lines->number, error, (unsigned long)at + 1);
    } else if (json_root(d)->type != JSON_OBJECT) {
        cli_fail("%s:%d: not a JSON object", lines->name, lines->number);
        json_free(d);
        d = NULL;
    }
    return d;
}

/* --- terminal ------------------------------------------------------------------------------------------ */

double cli_seconds(void) {
#ifdef _WIN32
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    return (double)now.QuadPart / (double)frequency.QuadPart;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
#endif
}

double cli_time(int processor) {
#ifdef _WIN32
    FILETIME made, ended, kernel, user;
    if (!processor) return cli_seconds();
    if (!GetProcessTimes(GetCurrentProcess(), &made, &ended, &kernel, &user)) return 0; /* clock() is no processor time */
    return 1e-7 * (double)kernel.dwLowDateTime + 1e-7 * (double)user.dwLowDateTime +
           429.4967296 * ((double)kernel.dwHighDateTime + (double)user.dwHighDateTime);
#else
    return processor ? (double)clock() / CLOCKS_PER_SEC : cli_seconds();
#endif
}

int cli_stderr_is_terminal(void) {
    return isatty(fileno(stderr));
}

int cli_stdout_is_terminal(void) {
    return isatty(fileno(stdout));
}

static int progress_shown;

void cli_progress(const char *format, ...) {
    static double last;
    double now = cli_seconds();
    va_list args;
    if (!cli_stderr_is_terminal() || (last > 0 && now - last < 0.1)) return;
    last = now;
    va_start(args, format);
    fputc('\r', stderr);
    vfprintf(stderr, format, args);
    fputs("\x1b[K", stderr); /* clear what was longer before */
    fflush(stderr);
    va_end(args);
    progress_shown = 1;
}

void cli_progress_end(void) {
    if (progress_shown) fputs("\r\x1b[K", stderr);
    progress_shown = 0;
}
