/* The command as a user meets it: shell commands with a function `polar`, which is ./polar or what POLAR_COMMAND names,
 * in a directory of the test's own. */
#ifndef COMMAND_H
#define COMMAND_H
#include <sys/wait.h>
#include <unistd.h>

static char directory[32];      /* where commands run; "": where the test was started */
static char output[1 << 20];    /* stdout and stderr of the last ones */

/* Runs shell commands; their exit status. $POLAR is the program itself, where a function does not do. */
static int run(const char *commands) {
    const char *command = getenv("POLAR_COMMAND") ? getenv("POLAR_COMMAND") : "./polar";
    char line[4096], where[1024] = "";
    size_t n;
    FILE *f;
    int status;
    if (command[0] != '/' && getcwd(where, sizeof where - 1)) strcat(where, "/");
    snprintf(line, sizeof line, "exec 2>&1 </dev/null; POLAR='%s%s'; polar() { \"$POLAR\" \"$@\"; }; cd '%s'; %s",
             where, command, *directory ? directory : ".", commands);
    if (!(f = popen(line, "r"))) return -1;
    n = fread(output, 1, sizeof output - 1, f);
    output[n] = 0;
    while (getc(f) != EOF) {}
    status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Checks the exit status of commands, and that a text is part of what they print. */
#define RUN(commands, status, text) check_run(__FILE__, __LINE__, commands, status, text)

static void check_run(const char *file, int line, const char *commands, int status, const char *text) {
    const int found = run(commands);
    if (found == status && strstr(output, text)) return;
    test_failures++;
    test_fail(file, line, commands);
    printf("status %d instead of %d, no \"%s\" in: %.1500s\n", found, status, text, output);
}

/* --- files of the directory --- */

static inline FILE *open_there(const char *name, const char *mode) {
    char path[256];
    snprintf(path, sizeof path, "%s%s%s", directory, *directory ? "/" : "", name);
    return fopen(path, mode);
}

static inline void write_file(const char *name, const void *bytes, size_t n) {
    FILE *f = open_there(name, "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n);
    if (f) fclose(f);
}

/* A file as text, to be freed; NULL if there is none. */
static inline char *read_back(const char *name, size_t *n) {
    return test_read(open_there(name, "rb"), n);
}

static inline int exists(const char *name) {
    FILE *f = open_there(name, "rb");
    if (f) fclose(f);
    return f != NULL;
}

static inline int same_files(const char *a, const char *b) {
    size_t n = 0, m = 0;
    char *x = read_back(a, &n), *y = read_back(b, &m);
    const int same = x && y && n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}

/* A main in two steps: the directory exists while a test's files are made and its tests run, and is gone after them. */
static inline int make_directory(void) {
    strcpy(directory, "/tmp/polar-test-XXXXXX");
    return mkdtemp(directory) != NULL;
}

static inline int remove_directory(void) {
    char line[64];
    snprintf(line, sizeof line, "rm -rf '%s'", directory);
    return !system(line);
}
#endif
