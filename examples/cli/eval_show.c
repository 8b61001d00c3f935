/* polar eval: questions as they are answered, the output file, and shards joined. */
#include "eval.h"

/* --- questions on the terminal ------------------------------------------------------------------------------ */

static int has_colour(void) {
    const char *term = getenv("TERM");
    return cli_stdout_is_terminal() && !getenv("NO_COLOR") && !(term && !strcmp(term, "dumb"));
}

/* Text in one line of at most `columns` characters, control characters as spaces. */
static void print_line(const char *text, int columns) {
    int n = 0, space = 1;
    for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
        const int blank = *s <= 32 || *s == 127, starts = (*s & 0xc0) != 0x80;
        if (blank && space) continue;
        if (starts && n >= columns - 3 && strlen((const char *)s) > 3) {
            printf("...");
            return;
        }
        putchar(blank ? ' ' : *s);
        n += starts;
        space = blank;
    }
}

static void print_strip(const polar_program *program, int colour) {
    char strip[POLAR_MAX_LAYER + 1];
    const size_t n = polar_program_strip(program, strip, sizeof strip);
    for (size_t i = 0; i < n; i++) {
        const char c = strip[i];
        const char *on = c == '#' ? "" : c == '.' ? "\x1b[2m" : "\x1b[1;33m";
        if (colour && *on) printf("%s%c\x1b[0m", on, c);
        else putchar(c);
    }
}

static void print_verdict(int right, int colour) {
    if (colour) printf(right ? "\x1b[32mright\x1b[0m" : "\x1b[31mwrong\x1b[0m");
    else printf(right ? "right" : "wrong");
}

/* The first `width` bytes of an answer, padded. */
static void print_answer(const char *answer, int width) {
    printf("%-*.*s", width, width, *answer ? answer : "(none)");
}

void eval_show(int number, const cli_question *q, const eval_work *w, const score_method *method, int pick,
               int n_calls) {
    const int colour = has_colour();
    const score_result *r = &w->results[pick];
    const int chosen = r->chosen < 0 ? w->lists[pick][0] : r->chosen;
    const double layers = r->calls / r->positions;
    int before = printf("%3d  ", number);
    if (*q->task) before += printf("%.20s, ", q->task);
    if (q->steps >= 0) before += printf("%d steps: ", q->steps);
    print_line(q->text, 80 - before);
    printf("\n     ");
    print_strip(&w->programs[chosen], colour);
    printf(w->programs[chosen].n_layer > 30 ? "\n     " : "  ");
    print_answer(w->attempts[chosen].answer, 9);
    putchar(' ');
    print_verdict(r->right, colour);
    printf("  %4.1f of %d layers", layers, n_calls);
    if (pick) {
        const attempt *identity = &w->attempts[w->lists[0][0]];
        printf("   all layers: ");
        print_answer(identity->answer,
                     (int)strlen(identity->answer) < 9 ? (int)strlen(identity->answer) + !*identity->answer * 6 : 9);
        putchar(' ');
        print_verdict(identity->reward > 0, colour);
    } else {
        printf("  (%s)", method->name);
    }
    printf("\n");
    fflush(stdout);
}

/* --- the file ------------------------------------------------------------------------------------------------ */

int eval_write(const char *output, const char *header, const scores *s, int n, eval_record record, void *user) {
    cli_output out;
    FILE *f = cli_output_open(&out, output);
    int status = !f;
    if (f) {
        fprintf(f, "{\"polar\":%s,\n\"summary\":", header);
        status = scores_put(f, s);
        fprintf(f, ",\n\"samples\":[");
    }
    for (int i = 0; i < n && !status; i++) {
        size_t length;
        char *text = record(user, i, &length);
        if (!text) status = 1;
        else {
            fputs(i ? ",\n" : "\n", f);
            fwrite(text, 1, length, f);
        }
        free(text);
    }
    if (f) fprintf(f, "\n]}\n");
    return cli_output_close(&out, !status) || status;
}

/* --- shards -------------------------------------------------------------------------------------------------- */

typedef struct merging {
    scores scores;
    char *header;   /* without the shard */
    char **records; /* (n) by index */
    size_t *lengths;
    int n;
    const char *first; /* file of the header */
} merging;

static char *copy_text(const char *text, size_t n) {
    char *copy = malloc(n + 1);
    if (!copy) {
        cli_fail("out of memory");
        return NULL;
    }
    memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

/* The header without its last member, the shard. */
static char *header_of(const cli_objects *o) {
    char *text = o->header.text ? copy_text(o->header.text, o->header.length) : NULL, *at = text;
    if (!o->header.text) cli_fail("%s: no file of polar eval", o->name);
    while (at && (at = strstr(at, ",\"shard\":["))) {
        if (!strchr(at + 1, '{') && strspn(at + 10, "0123456789,") + 12 == strlen(at)) {
            strcpy(at, "}");
            break;
        }
        at++;
    }
    return text;
}

/* The first file says what is to be joined. */
static int begin_merge(merging *m, const char *text, const char *name) {
    const char *error = "";
    size_t at;
    json_document *d = json_read(text, strlen(text), &error, &at);
    int status = d ? scores_begin(&m->scores, json_root(d), name)
                   : cli_fail("%s: the header cannot be read: %s", name, error);
    if (!status && (!json_int(json_get(json_get(json_root(d), "questions"), "n"), &m->n) || m->n < 1))
        status = cli_fail("%s: its header does not say how many questions there are", name);
    json_free(d);
    if (status) return status;
    m->first = name;
    m->header = copy_text(text, strlen(text));
    m->records = calloc((size_t)m->n, sizeof *m->records);
    m->lengths = calloc((size_t)m->n, sizeof *m->lengths);
    return m->header && m->records && m->lengths ? 0 : cli_fail("out of memory");
}

static int headers_differ(const merging *m, const char *text, const char *name) {
    const char *error;
    char difference[600] = "their headers";
    size_t at;
    json_document *a = json_read(m->header, strlen(m->header), &error, &at),
                  *b = json_read(text, strlen(text), &error, &at);
    const int differ = !a || !b || cli_json_differ(json_root(a), json_root(b), difference, sizeof difference);
    json_free(a);
    json_free(b);
    return differ ? cli_fail("%s and %s are parts of different evaluations: %s", m->first, name, difference) : 0;
}

static int merge_file(merging *m, const char *path) {
    cli_objects o;
    const json *record;
    char *text;
    int status;
    if (!cli_objects_open(&o, path)) return 1;
    text = header_of(&o);
    status = !text ? 1 : m->header ? headers_differ(m, text, path) : begin_merge(m, text, path);
    while (!status && (record = cli_objects_next(&o))) {
        int index = -1;
        json_int(json_get(record, "index"), &index);
        if (index < 0 || index >= m->n) status = cli_fail("%s:%d: a record belongs to no question", o.name, o.line);
        else if (m->records[index]) status = cli_fail("%s:%d: question %d is there twice", o.name, o.line, index);
        else if (!(status = scores_add(&m->scores, record, o.name))) {
            m->records[index] = copy_text(o.object.text, o.object.length);
            m->lengths[index] = o.object.length;
            status = !m->records[index];
        }
    }
    if (!status) status = o.failed;
    free(text);
    cli_objects_close(&o);
    return status;
}

static char *merged_record(void *user, int i, size_t *length) {
    merging *m = user;
    *length = m->lengths[i];
    return copy_text(m->records[i], m->lengths[i]);
}

int eval_merge(char **files, int n, const char *output, int json_summary) {
    merging m;
    FILE *f = output && strcmp(output, "-") ? stdout : stderr;
    int status = 0, missing = 0;
    memset(&m, 0, sizeof m);
    if (!output) return cli_usage("no output: -o FILE names it, -o - is stdout");
    for (int i = 0; i < n && !status; i++) status = merge_file(&m, files[i]);
    for (int i = m.n - 1; i >= 0 && !status; i--)
        if (!m.records[i]) missing = i + 1;
    if (missing) status = cli_fail("question %d of %d is in none of the files: a shard is missing", missing, m.n);
    if (!status) status = scores_sort(&m.scores, files[0]);
    if (!status) status = eval_write(output, m.header, &m.scores, m.n, merged_record, &m);
    if (!status && json_summary) {
        status = scores_put(f, &m.scores);
        fputc('\n', f);
    } else if (!status) status = scores_print(f, &m.scores);
    for (int i = 0; i < m.n && m.records; i++) free(m.records[i]);
    free(m.records);
    free(m.lengths);
    free(m.header);
    scores_free(&m.scores);
    return status;
}
