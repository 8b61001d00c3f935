/* Journals: what a long run has found so far, one line per record, so that it goes on after an interruption as if
 * there had been none. Also texts that are written as if to a file, files that appear when they are complete, and
 * the interruption itself. */
#ifndef _WIN32
#define _POSIX_C_SOURCE 200809L
#endif
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <io.h>
#define truncate_file(f, n)     _chsize_s(_fileno(f), n)
#define seek_file(f, n, whence) _fseeki64(f, n, whence)
#define tell_file(f)            _ftelli64(f)
#define sync_file(f)            _commit(_fileno(f))
#else
#include <fcntl.h>
#include <unistd.h>
#define truncate_file(f, n)     ftruncate(fileno(f), (off_t)(n))
#define seek_file(f, n, whence) fseeko(f, (off_t)(n), whence)
#define tell_file(f)            ftello(f)
#define sync_file(f)            fsync(fileno(f))
#endif

/* --- texts in memory -------------------------------------------------------------------------------------- */

#ifdef _WIN32
/* A file that goes when it is closed. The C library's tmpfile makes it where only administrators may. */
static FILE *temporary_file(void) {
    wchar_t directory[MAX_PATH + 1], path[MAX_PATH + 1];
    return GetTempPathW(MAX_PATH + 1, directory) && GetTempFileNameW(directory, L"pol", 0, path)
               ? _wfopen(path, L"w+bD")
               : NULL;
}

/* Windows has no streams in memory. */
FILE *cli_text_open(cli_text *t) {
    memset(t, 0, sizeof *t);
    return t->file = temporary_file();
}

int cli_text_close(cli_text *t) {
    long n = t->file && !ferror(t->file) ? ftell(t->file) : -1;
    if (n >= 0 && (t->text = malloc((size_t)n + 1))) {
        rewind(t->file);
        t->length = fread(t->text, 1, (size_t)n, t->file);
        t->text[t->length] = 0;
    }
    if (t->file) fclose(t->file);
    t->file = NULL;
    return t->text && t->length == (size_t)n ? 0 : cli_fail("out of memory");
}
#else
#define temporary_file tmpfile

FILE *cli_text_open(cli_text *t) {
    memset(t, 0, sizeof *t);
    return t->file = open_memstream(&t->text, &t->length);
}

int cli_text_close(cli_text *t) {
    int failed = !t->file || ferror(t->file);
    if (t->file) failed |= fclose(t->file) != 0;
    t->file = NULL;
    return !failed && t->text ? 0 : cli_fail("out of memory");
}
#endif

void cli_text_free(cli_text *t) {
    if (t->file) cli_text_close(t);
    free(t->text);
    memset(t, 0, sizeof *t);
}

/* --- files that appear when they are complete -------------------------------------------------------------- */

static char *join(const char *a, const char *b) {
    char *s = malloc(strlen(a) + strlen(b) + 1);
    if (s) strcat(strcpy(s, a), b);
    return s;
}

/* 0 with the cause in errno. */
static int rename_file(const char *from, const char *to) {
#ifdef _WIN32
    wchar_t a[1024], b[1024];
    DWORD error = ERROR_INVALID_NAME;
    if (MultiByteToWideChar(CP_UTF8, 0, from, -1, a, 1024) && MultiByteToWideChar(CP_UTF8, 0, to, -1, b, 1024)) {
        if (MoveFileExW(a, b, MOVEFILE_REPLACE_EXISTING)) return 1;
        error = GetLastError();
    }
    errno = error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND ? ENOENT
            : error == ERROR_ACCESS_DENIED || error == ERROR_SHARING_VIOLATION ? EACCES
            : error == ERROR_DISK_FULL ? ENOSPC
            : error == ERROR_INVALID_NAME ? EINVAL
            : EIO;
    return 0;
#else
    return !rename(from, to);
#endif
}

void cli_remove_file(const char *path) {
#ifdef _WIN32
    wchar_t wide[1024];
    if (MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 1024)) DeleteFileW(wide);
#else
    unlink(path);
#endif
}

/* A device or pipe has no place beside it and is written to directly. */
FILE *cli_output_open(cli_output *o, const char *path) {
    memset(o, 0, sizeof *o);
    o->path = path;
    if (!strcmp(path, "-")) return o->file = stdout;
    if (!cli_is_special(path) && !(o->temporary = join(path, ".tmp"))) {
        cli_fail("out of memory");
        return NULL;
    }
    if (!(o->file = cli_fopen(o->temporary ? o->temporary : path, "wb")))
        cli_fail("cannot write %s: %s", o->temporary ? o->temporary : path, strerror(errno));
    return o->file;
}

/* Ends the file and gives it its name; with `keep` 0 it is thrown away. */
int cli_output_close(cli_output *o, int keep) {
    int failed = 0, reason;
    errno = 0;
    if (!o->file) {
        free(o->temporary);
        memset(o, 0, sizeof *o);
        return 1;
    }
    failed = fflush(o->file) || ferror(o->file);
    if (keep && o->temporary && !failed) failed = sync_file(o->file) != 0;
    reason = errno;
    if (o->file != stdout) {
        failed |= fclose(o->file) != 0;
        if (!reason) reason = errno;
    }
    if (keep && !failed && o->temporary && !rename_file(o->temporary, o->path)) {
        failed = 1;
        reason = errno;
    }
    if (o->temporary && (failed || !keep)) cli_remove_file(o->temporary);
    if (keep && failed) cli_fail("cannot write %s: %s", o->path, reason ? strerror(reason) : "write error");
    free(o->temporary);
    memset(o, 0, sizeof *o);
    return keep && failed;
}

int cli_write_file(const char *path, const void *bytes, size_t n) {
    cli_output o;
    if (cli_output_open(&o, path)) fwrite(bytes, 1, n, o.file); /* closing it says whether that failed */
    return cli_output_close(&o, 1);
}

/* --- interruption ------------------------------------------------------------------------------------------ */

static volatile sig_atomic_t interrupted;

/* The second signal ends the program at once. */
static void on_signal(int number) {
    interrupted = 1;
    signal(number, SIG_DFL);
}

void cli_catch_interrupts(void) {
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
}

int cli_interrupted(void) {
    return interrupted;
}

/* --- journals ---------------------------------------------------------------------------------------------- */

/* A record is a line {"sum":"0123456789abcdef","record":...}; the sum is FNV-1a over the bytes of the record. */
#define HEAD   "{\"sum\":\""
#define MIDDLE "\",\"record\":"
enum {
    HEAD_LENGTH = sizeof HEAD - 1,
    SUM_LENGTH = 16,
    MIDDLE_LENGTH = sizeof MIDDLE - 1,
    BEFORE = HEAD_LENGTH + SUM_LENGTH + MIDDLE_LENGTH
};

static void put_sum(char *text, uint64_t sum) {
    for (int i = 0; i < SUM_LENGTH; i++) text[i] = "0123456789abcdef"[sum >> (60 - 4 * i) & 15];
    text[SUM_LENGTH] = 0;
}

/* The record in a line of the file, or text NULL if the line is damaged. */
static polar_span record_in(const char *line, size_t length) {
    polar_span record = {NULL, 0};
    char sum[SUM_LENGTH + 1];
    if (length < BEFORE + 2 || memcmp(line, HEAD, HEAD_LENGTH) || line[length - 1] != '}' ||
        memcmp(line + HEAD_LENGTH + SUM_LENGTH, MIDDLE, MIDDLE_LENGTH))
        return record;
    put_sum(sum, cli_hash(CLI_HASH, line + BEFORE, length - BEFORE - 1));
    if (memcmp(line + HEAD_LENGTH, sum, SUM_LENGTH)) return record;
    record.text = line + BEFORE;
    record.length = length - BEFORE - 1;
    return record;
}

static int same(const json *a, const json *b) {
    const json *x, *y;
    if (a->type != b->type || a->length != b->length) return 0;
    if (a->type == JSON_STRING || a->type == JSON_NUMBER) return !memcmp(a->text, b->text, a->length);
    for (x = a->child, y = b->child; x && y; x = x->next, y = y->next)
        if (!same(x, y)) return 0;
    return !x == !y;
}

static void describe(const json *v, char *text, size_t size) {
    static const char *const words[] = {"null", "false", "true"};
    if (!v) snprintf(text, size, "not set");
    else if (v->type == JSON_STRING) snprintf(text, size, "\"%.100s\"%s", v->text, v->length > 100 ? "..." : "");
    else if (v->type == JSON_NUMBER) snprintf(text, size, "%s", v->text);
    else if (v->type <= JSON_TRUE) snprintf(text, size, "%s", words[v->type]);
    else snprintf(text, size, "a list of %lu", (unsigned long)v->length);
}

/* The first difference of two objects: "seed is 1 here and 2 there"; 0 if there is none. */
static int find_difference(const json *a, const json *b, const char *before, char *text, size_t size) {
    for (int turn = 0; turn < 2; turn++) {
        const json *one = turn ? b : a, *other = turn ? a : b;
        for (const json *m = one->child; m; m = m->next) {
            const json *n = json_get(other, m->key), *left = turn ? n : m, *right = turn ? m : n;
            char name[200], x[120], y[120];
            snprintf(name, sizeof name, "%s%s", before, m->key);
            if (n && m->type == JSON_OBJECT && n->type == JSON_OBJECT) {
                strncat(name, ".", sizeof name - strlen(name) - 1);
                if (find_difference(left, right, name, text, size)) return 1;
            } else if (!n || !same(m, n)) {
                describe(left, x, sizeof x);
                describe(right, y, sizeof y);
                snprintf(text, size, "%s is %s there and %s here", name, x, y);
                return 1;
            }
        }
    }
    return 0;
}

int cli_json_differ(const json *there, const json *here, char *text, size_t size) {
    return find_difference(there, here, "", text, size);
}

/* The first record of a journal that exists, against the one that a new journal would get. */
static int check_header(const cli_journal *j, polar_span found, const char *header) {
    const char *error = "";
    char difference[600];
    size_t at;
    json_document *there = json_read(found.text, found.length, &error, &at);
    json_document *here = json_read(header, strlen(header), &error, &at);
    int status = 0;
    if (!there || !here) status = cli_fail("%s: the header cannot be read: %s", j->path, error);
    else if (cli_json_differ(json_root(there), json_root(here), difference, sizeof difference))
        status = cli_fail("%s belongs to another run: %s; remove it or choose another output to begin anew", j->path,
                          difference);
    json_free(there);
    json_free(here);
    return status;
}

/* Goes through the lines of a journal; j->end is set to the end of the last whole one. A damaged line is one that was
 * not written to its end if it is the last; anywhere else something is wrong with the file. */
static int read_records(cli_journal *j, const char *text, size_t length, const char *header, cli_record record,
                        void *user) {
    int damaged = 0, line = 0, status = 0;
    for (size_t at = 0, next; at < length && !status; at = next) {
        const char *newline = memchr(text + at, '\n', length - at);
        polar_span r = {NULL, 0};
        next = newline ? (size_t)(newline - text) + 1 : length;
        line++;
        if (newline) r = record_in(text + at, next - at - 1);
        if (!r.text) {
            if (!damaged) damaged = line;
            continue;
        }
        if (damaged)
            return cli_fail("%s:%d: this line is damaged, and whole ones follow it; remove it to go on without it",
                            j->path, damaged);
        if (line == 1) status = check_header(j, r, header);
        else status = record(user, r, (int64_t)at + BEFORE);
        j->n += line > 1;
        j->end = (int64_t)next;
    }
    return status;
}

static char *read_journal(cli_journal *j, size_t *length) {
    int64_t n = seek_file(j->file, 0, SEEK_END) ? -1 : (int64_t)tell_file(j->file);
    if (n >= 0 && (uint64_t)n < SIZE_MAX - 1) return cli_journal_read(j, 0, *length = (size_t)n);
    cli_fail("cannot read %s: %s", j->path, n < 0 ? strerror(errno) : "it is too large");
    return NULL;
}

static int resume(cli_journal *j, const char *header, cli_record record, void *user) {
    size_t length;
    char *text = read_journal(j, &length); /* through the same stream: closing another would drop the lock */
    int status;
    if (!text) return 1;
    status = read_records(j, text, length, header, record, user);
    if (!status && !j->end && length && memcmp(text, HEAD, length < HEAD_LENGTH ? length : HEAD_LENGTH))
        status = cli_fail("%s is no journal; remove it or choose another output", j->path);
    free(text);
    if (status || (size_t)j->end == length) return status;
    if (truncate_file(j->file, j->end)) return cli_fail("cannot shorten %s: %s", j->path, strerror(errno));
    if (j->end) cli_note("%s: the last record was not written to its end and is dropped", j->path);
    return 0;
}

/* Two runs must not write one journal. */
static int lock_journal(const cli_journal *j) {
#ifndef _WIN32
    struct flock l;
    memset(&l, 0, sizeof l);
    l.l_type = F_WRLCK;
    l.l_whence = SEEK_SET;
    if (fcntl(fileno(j->file), F_SETLK, &l) && (errno == EACCES || errno == EAGAIN))
        return cli_fail("%s is in use by another run", j->path);
#else
    OVERLAPPED l; /* a byte that no journal reaches: others may not even read what is locked */
    memset(&l, 0, sizeof l);
    l.OffsetHigh = 0x7fffffff;
    if (!LockFileEx((HANDLE)_get_osfhandle(_fileno(j->file)), LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0,
                    1, 0, &l) &&
        (GetLastError() == ERROR_LOCK_VIOLATION || GetLastError() == ERROR_IO_PENDING))
        return cli_fail("%s is in use by another run", j->path);
#endif
    return 0;
}

int cli_journal_open(cli_journal *j, const char *path, const char *header, cli_record record, void *user) {
    int status;
    memset(j, 0, sizeof *j);
    if (!(j->path = join(path ? path : "the temporary journal", ""))) return cli_fail("out of memory");
    j->temporary = !path;
    if (!path) {
        if (!(j->file = temporary_file())) return cli_fail("cannot make a temporary file: %s", strerror(errno));
        return cli_journal_add(j, header, strlen(header), NULL);
    }
    if (!(j->file = cli_fopen(path, "ab"))) return cli_fail("cannot write %s: %s", path, strerror(errno));
    fclose(j->file);
    if (!(j->file = cli_fopen(path, "r+b"))) return cli_fail("cannot write %s: %s", path, strerror(errno));
    setvbuf(j->file, NULL, _IONBF, 0); /* what cannot be written is not kept for later */
    if ((status = lock_journal(j)) || (status = resume(j, header, record, user))) return status;
    return j->end ? 0 : cli_journal_add(j, header, strlen(header), NULL);
}

int cli_journal_beside(cli_journal *j, const char *output, const char *header, cli_record record, void *user) {
    char *path = NULL;
    int status;
    memset(j, 0, sizeof *j);
    if (cli_has_place(output) && !(path = join(output, ".journal"))) return cli_fail("out of memory");
    status = cli_journal_open(j, path, header, record, user);
    free(path);
    return status;
}

const char *cli_journal_rest(const cli_journal *j) {
    return j->temporary ? "" : "; the same command goes on from there";
}

int cli_journal_add(cli_journal *j, const char *record, size_t n, int64_t *at) {
    char *line = malloc(n + BEFORE + 3);
    size_t length = n + BEFORE + 2;
    int failed;
    if (!line) return cli_fail("out of memory");
    memcpy(line, HEAD, HEAD_LENGTH);
    put_sum(line + HEAD_LENGTH, cli_hash(CLI_HASH, record, n));
    memcpy(line + HEAD_LENGTH + SUM_LENGTH, MIDDLE, MIDDLE_LENGTH);
    memcpy(line + BEFORE, record, n);
    memcpy(line + BEFORE + n, "}\n", 2);
    errno = 0;
    failed = seek_file(j->file, j->end, SEEK_SET) || fwrite(line, 1, length, j->file) != length || fflush(j->file);
    if (!failed) failed = sync_file(j->file) != 0 && errno != EINVAL; /* EINVAL: a pipe or device */
    free(line);
    if (failed) {
        int reason = errno;
        if (truncate_file(j->file, j->end)) reason = reason ? reason : errno;
        return cli_fail(
            "cannot write %s: %s; what was recorded before is kept, and the same command goes on from there", j->path,
            reason ? strerror(reason) : "write error");
    }
    if (at) *at = j->end + BEFORE;
    j->end += (int64_t)length;
    j->n++;
    return 0;
}

char *cli_journal_read(cli_journal *j, int64_t at, size_t length) {
    char *text = malloc(length + 1);
    if (!text) {
        cli_fail("out of memory");
        return NULL;
    }
    errno = 0;
    if (seek_file(j->file, at, SEEK_SET) || fread(text, 1, length, j->file) != length) {
        cli_fail("cannot read %s: %s", j->path, errno ? strerror(errno) : "it has become shorter");
        free(text);
        return NULL;
    }
    text[length] = 0;
    return text;
}

void cli_journal_close(cli_journal *j) {
    if (j->file) fclose(j->file);
    free(j->path);
    memset(j, 0, sizeof *j);
}

/* An open file cannot be removed on Windows; elsewhere it is better removed while the lock is held. */
void cli_journal_remove(cli_journal *j) {
    if (j->temporary) return;
#ifdef _WIN32
    fclose(j->file);
    cli_remove_file(j->path);
#else
    cli_remove_file(j->path);
    fclose(j->file);
#endif
    j->file = NULL;
}
