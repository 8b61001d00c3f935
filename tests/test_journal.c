/* Journals and files of the command on every system, without a shell: locks, resuming, removal; devices; causes. */
#include "../examples/cli/cli.c"
#include "../examples/cli/same_file.c"
#include "../examples/cli/json.c"
#include "../examples/cli/journal.c"
#include "test.h"

#define FILE_NAME "build/test_journal.tmp"
#define HEADER "{\"seed\":1}"

static int on_record(void *user, polar_span text, int64_t at) {
    (void)at;
    strncat(user, text.text, text.length);
    return 0;
}

static int is_there(const char *path) {
    FILE *f = cli_fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

TEST(journal) {
    cli_journal j, other;
    char seen[64] = "", *text;
    int64_t at = 0;
    remove(FILE_NAME);
    CHECK(!cli_journal_open(&j, FILE_NAME, HEADER, on_record, seen) && !*seen);
    CHECK(!cli_journal_add(&j, "[1]", 3, NULL) && !cli_journal_add(&j, "[22]", 4, &at));
    CHECK((text = cli_journal_read(&j, at, 4)) && !strcmp(text, "[22]"));
    free(text);
#ifdef _WIN32 /* elsewhere a lock keeps other processes out, not this one */
    CHECK(cli_journal_open(&other, FILE_NAME, HEADER, on_record, seen) == 1 && !*seen);
    cli_journal_close(&other);
#endif
    cli_journal_close(&j);
    CHECK(!cli_journal_open(&other, FILE_NAME, HEADER, on_record, seen));
    CHECK_STR(seen, "[1][22]");
    cli_journal_remove(&other);
    cli_journal_close(&other);
    CHECK(!is_there(FILE_NAME));
}

TEST(temporary_journal) {
    cli_journal j;
    char *text;
    int64_t at = 0;
    CHECK(!cli_journal_beside(&j, "-", HEADER, on_record, NULL) && !cli_journal_add(&j, "[3]", 3, &at));
    CHECK(!*cli_journal_rest(&j)); /* nothing is left of it that could be gone on from */
    CHECK((text = cli_journal_read(&j, at, 3)) && !strcmp(text, "[3]"));
    free(text);
    cli_journal_close(&j);
}

TEST(output) {
    cli_output o;
    cli_text t;
    CHECK(cli_output_open(&o, FILE_NAME) && !is_there(FILE_NAME) && fputs("a", o.file) >= 0);
    CHECK(!cli_output_close(&o, 1) && is_there(FILE_NAME) && !is_there(FILE_NAME ".tmp"));
    CHECK(cli_output_open(&o, FILE_NAME) && !cli_output_close(&o, 0) && !is_there(FILE_NAME ".tmp"));
    CHECK(is_there(FILE_NAME));
    CHECK(!cli_write_file(FILE_NAME, "whole", 5) && is_there(FILE_NAME) && !is_there(FILE_NAME ".tmp"));
    CHECK(cli_write_file("build/no such directory/x", "whole", 5));
    if (is_there("/dev/full")) CHECK(cli_write_file("/dev/full", "whole", 5));
    cli_remove_file(FILE_NAME);
    CHECK(cli_text_open(&t) && fputs("text", t.file) >= 0 && !cli_text_close(&t));
    CHECK_STR(t.text, "text");
    cli_text_free(&t);
}

TEST(devices) {
#ifdef _WIN32
    static const char *const devices[] = {"NUL", "nul", "CON", "COM1", "\\\\.\\pipe\\polar"};
#else
    static const char *const devices[] = {"/dev/null", "/dev/stdout", "/dev/fd/1"};
#endif
    static const char *const files[] = {"null", "build", "NUL1", "consul.json", "no/such/file"};
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) CHECK(cli_is_special(devices[i]));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        CHECK(!cli_is_special(files[i]) || !strcmp(files[i], "build")); /* a directory is no file to replace */
}

/* What failed is said as the system says it, also where the C library does not know. */
TEST(causes) {
    errno = 0;
    CHECK(!rename_file("build/no such file", FILE_NAME) && errno == ENOENT);
    errno = 0;
    CHECK(!rename_file("build/no such file", "build/no such directory/x") && errno == ENOENT);
    errno = 0;
    CHECK(!cli_fopen("build/no such file", "rb") && errno == ENOENT);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(journal), T(temporary_journal), T(output), T(devices), T(causes),
};

int main(int argc, char **argv) {
    return test_main(tests, (int)(sizeof tests / sizeof *tests), argc, argv);
}
