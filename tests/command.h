/* The command as a user meets it, and other programs: started without a shell, alike on POSIX and Windows, in a
 * directory of the test's own, build/test-N, which is there from the first use and gone at the end. */
#ifndef COMMAND_H
#define COMMAND_H
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/stat.h>
#ifdef _WIN32
#include <windows.h>
#include <direct.h>
#include <io.h>
#include <process.h>
#define EXE ".exe"
#define NOTHING "NUL"
#define DIRECTORY "Permission denied" /* what the system says of a directory that is opened as a file */
#define INTERRUPTS 0                  /* whether a program may do something when a signal ends it */
#define SIGKILL 9
#define mkdir(path, mode) _mkdir(path)
#else
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#define O_BINARY 0
#define EXE ""
#define NOTHING "/dev/null"
#define DIRECTORY "Is a directory"
#define INTERRUPTS 1
extern char **environ;
#endif

static char output[1 << 20]; /* stdout and stderr of the last program */

/* --- files of the directory --- */

static inline void remove_directory(void);

/* Its name, relative to where the test was started. */
static const char *directory(void) {
    static char name[24];
    mkdir("build", 0777);
    for (int i = 0; !*name && i < 1000; i++) {
        snprintf(name, sizeof name, "build/test-%d", i);
        if (mkdir(name, 0777)) *name = 0;
        else atexit(remove_directory);
    }
    if (!*name) exit(1);
    return name;
}

static inline void remove_directory(void) {
    char line[64];
#ifdef _WIN32
    snprintf(line, sizeof line, "rd /s /q build\\%s", directory() + 6);
#else
    snprintf(line, sizeof line, "rm -rf %s", directory());
#endif
    if (system(line)) printf("%s is still there\n", directory());
}

/* The path of its file for this program, which stays where it was started. */
static inline const char *there(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", directory(), name);
    return path;
}

/* The path inside of the directory of a file outside, named as seen from where the test was started. */
static inline const char *outside(const char *path) {
    static char full[2][512];
    static int n;
    const int absolute = path[0] == '/' || path[0] == '\\' || (path[0] && path[1] == ':');
    n = !n;
    snprintf(full[n], sizeof full[n], "%s%s", absolute ? "" : "../../", path);
    return full[n];
}

static inline FILE *open_there(const char *name, const char *mode) {
    return fopen(there(name), mode);
}

static inline void write_file(const char *name, const void *bytes, size_t n) {
    FILE *f = open_there(name, "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n);
    if (f) fclose(f);
}

static inline void write_text(const char *name, const char *text) {
    write_file(name, text, strlen(text));
}

/* A file as text, to be freed; NULL if there is none. */
static inline char *read_back(const char *name, size_t *n) {
    return test_read(open_there(name, "rb"), n);
}

/* Its size, -1 if it is not there. It is not opened: on Windows an open file cannot be replaced. */
static inline long size_there(const char *name) {
    struct stat s;
    return stat(there(name), &s) ? -1 : (long)s.st_size;
}

static inline int exists(const char *name) {
    return size_there(name) >= 0;
}

static inline int same_files(const char *a, const char *b) {
    size_t n = 0, m = 0;
    char *x = read_back(a, &n), *y = read_back(b, &m);
    const int same = x && y && n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}

static inline void copy_file(const char *from, const char *to) {
    size_t n = 0;
    char *text = read_back(from, &n);
    CHECK(text != NULL);
    if (text) write_file(to, text, n);
    free(text);
}

/* Lines first..last of a file, from 1, to another. */
static inline void copy_lines(FILE *to, const char *from, int first, int last) {
    size_t size = 0;
    char *text = read_back(from, &size);
    int line = 1;
    CHECK(text && to);
    for (const char *at = text; at && to && *at && line <= last; line++) {
        const size_t n = strcspn(at, "\n") + (strchr(at, '\n') != NULL);
        if (line >= first) fwrite(at, 1, n, to);
        at += n;
    }
    free(text);
}

/* A copy with a line between others, as line number n. */
static inline void insert_line(const char *from, const char *to, int n, const char *line) {
    FILE *f = open_there(to, "wb");
    copy_lines(f, from, 1, n - 1);
    if (f) fprintf(f, "%s\n", line);
    copy_lines(f, from, n, 1 << 30);
    if (f) fclose(f);
}

/* A copy with `new` in place of each `old`. */
static inline void replace_text(const char *from, const char *to, const char *old, const char *new) {
    size_t size = 0;
    char *text = read_back(from, &size), *at = text;
    FILE *f = open_there(to, "wb");
    CHECK(f && at && strstr(at, old));
    for (char *found; f && at && (found = strstr(at, old)) != NULL; at = found + strlen(old))
        fprintf(f, "%.*s%s", (int)(found - at), at, new);
    if (f && at) fputs(at, f);
    if (f) fclose(f);
    free(text);
}

/* A second name for a file; whether there is one now. */
static inline int link_there(const char *name, const char *second) {
    char old[256];
    strcpy(old, there(name));
#ifdef _WIN32
    return CreateHardLinkA(there(second), old, NULL) != 0;
#else
    return !link(old, there(second));
#endif
}

/* How often a text is in a file. */
static inline int count_in(const char *name, const char *text) {
    size_t size = 0;
    int n = 0;
    char *all = read_back(name, &size);
    for (const char *at = all; at && (at = strstr(at, text)) != NULL; at++) n++;
    free(all);
    return n;
}

/* --- programs --- */

#ifdef _WIN32
/* A word as the C library of Windows takes it from a line of words; from `to`. */
static char *quote_word(const char *word, char *to) {
    char *start = to;
    int n = 0; /* backslashes before: doubled before a quotation mark */
    *to++ = '"';
    for (;; word++) {
        if (*word == '"' || !*word)
            for (int i = 0; i < n + (*word == '"'); i++) *to++ = '\\';
        if (!*word) break;
        n = *word == '\\' ? n + 1 : 0;
        *to++ = *word;
    }
    *to++ = '"';
    *to = 0;
    return start;
}
#endif

/* Starts a program with the words of the command: what stands between '...' or "..." is held together. `polar` is
 * build/polar or what POLAR_COMMAND names. <FILE is its stdin, nothing otherwise; >FILE and 2>FILE are stdout and
 * stderr, which go to the file `output` otherwise. Its process, -1 if it cannot be started. */
static intptr_t start(const char *command) {
    static char text[1 << 14];
    const char *files[3] = {NOTHING, NULL, NULL}, *polar = getenv("POLAR_COMMAND");
    char *words[64], *to = text;
    int saved[3], shared, n = 0;
    intptr_t process = -1;
    fflush(stdout);
    for (const char *at = command; *(at += strspn(at, " "));) {
        const int stream = *at == '<' ? 0 : *at == '>' ? 1 : !strncmp(at, "2>", 2) ? 2 : -1;
        char *word = to, quote = 0;
        for (at += stream < 0 ? 0 : stream < 2 ? 1 : 2; *at && (quote || *at != ' '); at++) {
            if (quote ? *at == quote : *at == '\'' || *at == '"') quote = quote ? 0 : *at;
            else *to++ = *at;
        }
        *to++ = 0;
        if (!strcmp(word, "/dev/null")) strcpy(word, NOTHING);
        if (stream < 0) words[n++] = word;
        else files[stream] = word;
    }
    words[n] = NULL;
    words[0] = strcpy(to, outside(strcmp(words[0], "polar") ? words[0] : polar ? polar : "build/polar"));
    shared = open(there("output"), O_WRONLY | O_CREAT | O_TRUNC | O_BINARY, 0666);
    if (chdir(directory())) return -1;
    for (int i = 0; i < 3; i++) {
        const int flags = (i ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY) | O_BINARY;
        const int file = files[i] ? open(files[i], flags, 0666) : dup(shared);
        saved[i] = dup(i);
        if (file < 0 || dup2(file, i) < 0) printf("%s: cannot be opened\n", files[i]);
        close(file);
    }
#ifdef _WIN32
    {
        static char quoted[1 << 15];
        const char *program = words[0];
        to = quoted;
        for (int i = 0; i < n; i++, to += strlen(to) + 1) words[i] = quote_word(words[i], to);
        process = _spawnv(_P_NOWAIT, program, (const char *const *)words);
    }
#else
    {
        pid_t id;
        if (!posix_spawn(&id, words[0], NULL, NULL, words, environ)) process = id;
    }
#endif
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    close(shared);
    return chdir("../..") ? -1 : process;
}

/* Waits for a program that was started, after sending it a signal, if that is not 0. Its exit status, -1 if it has
 * none. */
static int finish(intptr_t process, int signal) {
    int status = -1;
#ifdef _WIN32
    if (process == -1) return -1;
    if (signal) TerminateProcess((HANDLE)process, (UINT)-1);
    return _cwait(&status, process, 0) == -1 ? -1 : status;
#else
    if (process == -1 || (signal && kill((pid_t)process, signal))) return -1;
    return waitpid((pid_t)process, &status, 0) >= 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
#endif
}

static inline void wait_a_little(void) {
#ifdef _WIN32
    Sleep(1);
#else
    const struct timespec t = {0, 1000000};
    nanosleep(&t, NULL);
#endif
}

/* Starts a program and waits for it: its exit status, and what it printed in `output`. */
static int run(const char *command) {
    const int status = finish(start(command), 0);
    FILE *f = open_there("output", "r"); /* as text: a line ends with \n on every system */
    const size_t n = f ? fread(output, 1, sizeof output - 1, f) : 0;
    output[n] = 0;
    if (f) fclose(f);
    return status;
}

/* Checks the exit status of a program, and that a text is part of what it prints. */
#define RUN(command, status, text) check_run(__FILE__, __LINE__, command, status, text)
/* The same with a text as stdin. */
#define RUN_ON(input, command, status, text) (write_text("input", input), RUN(command " <input", status, text))

static void check_run(const char *file, int line, const char *command, int status, const char *text) {
    const int found = run(command);
    if (found == status && strstr(output, text)) return;
    test_failures++;
    test_fail(file, line, command);
    printf("status %d instead of %d, no \"%s\" in: %.1500s\n", found, status, text, output);
}
#endif
