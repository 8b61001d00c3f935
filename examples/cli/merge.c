/* polar merge: joins the outputs of a search that ran in parts. */
#include "samples.h"

#include <limits.h>

/* A sample in one of the files. */
typedef struct part {
    int file, index, order, line; /* index: that of its question, or its place among all where samples have none */
    uint64_t hash;                /* of the question where there is no header */
    polar_span text;
} part;

typedef struct merge {
    int n_files, n, capacity, n_layer;
    cli_objects *files;
    json_document **headers;
    part *parts;
    int n_shards;
    int *shards; /* file + 1 for each part of a run that came in parts */
    cli_summary summary;
} merge;

static const json *header_of(const merge *m, int file) {
    return m->headers[file] ? json_root(m->headers[file]) : NULL;
}

/* --- headers ---------------------------------------------------------------------------------------------- */

/* The header as text, without what says which part it is. */
static void put_header(FILE *f, const cli_objects *file) {
    polar_span key, value;
    const char *at = file->header.text + 1, *end = file->header.text + file->header.length;
    fputc('{', f);
    for (int n = 0; (at = cli_next_member(at, end, &key, &value));) {
        if (cli_span_is(key, "shard")) continue;
        fprintf(f, n++ ? ",\"%.*s\":" : "\"%.*s\":", (int)key.length, key.text);
        fwrite(value.text, 1, value.length, f);
    }
}

/* The header of a file without its shard, as values. */
static json_document *read_header(const cli_objects *file) {
    const char *error = "";
    size_t at;
    cli_text text;
    json_document *d = NULL;
    FILE *f = cli_text_open(&text);
    if (f) {
        put_header(f, file);
        fputc('}', f);
    }
    if (!cli_text_close(&text) && !(d = json_read(text.text, text.length, &error, &at)))
        cli_fail("%s: the header cannot be read: %s", file->name, error);
    cli_text_free(&text);
    return d;
}

/* All files must come from the same run but for the part of the questions. */
static int check_headers(const merge *m) {
    for (int i = 1; i < m->n_files; i++) {
        char difference[600];
        if (!m->headers[0] != !m->headers[i])
            return cli_fail("%s has a header of polar search and %s has none: they are no parts of one run",
                            m->files[m->headers[0] ? 0 : i].name, m->files[m->headers[0] ? i : 0].name);
        if (m->headers[i] && cli_json_differ(header_of(m, 0), header_of(m, i), difference, sizeof difference))
            return cli_fail("%s and %s are no parts of one run: %s", m->files[0].name, m->files[i].name, difference);
    }
    return 0;
}

/* [i, n] of a file; 1, 1 where it is a whole run. 0 if the header says something else. */
static int shard_of(const cli_objects *file, int *shard, int *n) {
    const char *error;
    size_t at, length = 0;
    json_document *d = json_read(file->header.text, file->header.length, &error, &at);
    const json *v = d ? json_get(json_root(d), "shard") : NULL;
    int32_t *numbers = json_ints(v, &length);
    *shard = numbers && length == 2 ? numbers[0] : 1;
    *n = numbers && length == 2 ? numbers[1] : 1;
    json_free(d);
    free(numbers);
    return *shard >= 1 && *n >= *shard && *n <= 1000000;
}

static int read_shards(merge *m) {
    for (int i = 0; i < m->n_files; i++) {
        int shard, n;
        if (!shard_of(&m->files[i], &shard, &n))
            return cli_fail("%s: the header names no possible part", m->files[i].name);
        if (!m->shards) {
            m->n_shards = n;
            if (!(m->shards = calloc((size_t)n, sizeof *m->shards))) return cli_fail("out of memory");
        }
        if (n != m->n_shards)
            return cli_fail("%s is one of %d parts and %s one of %d", m->files[0].name, m->n_shards, m->files[i].name,
                            n);
        if (m->shards[shard - 1])
            return cli_fail("%s and %s are both part %d of %d", m->files[m->shards[shard - 1] - 1].name,
                            m->files[i].name, shard, n);
        m->shards[shard - 1] = i + 1;
    }
    return 0;
}

/* Says which parts are missing; 1 if some are and `partial` is not asked for. */
static int check_missing(const merge *m, int partial) {
    char list[200] = "";
    int missing = 0;
    for (int i = 0; i < m->n_shards; i++) {
        size_t n = strlen(list);
        if (m->shards[i]) continue;
        if (missing++ < 20) snprintf(list + n, sizeof list - n, missing > 1 ? ", %d" : "%d", i + 1);
    }
    if (!missing) return 0;
    if (partial) cli_note("missing: part %s%s of %d", list, missing > 20 ? ", ..." : "", m->n_shards);
    else
        cli_fail("missing: part %s%s of %d; --partial joins what there is", list, missing > 20 ? ", ..." : "",
                 m->n_shards);
    return !partial;
}

/* --- samples ---------------------------------------------------------------------------------------------- */

/* Where samples have no numbers, equal questions tell that a file was given twice. */
static uint64_t question_hash(const json *sample) {
    const char *text = json_get_text(sample, "question");
    if (!text) text = json_get_text(json_get(sample, "sample_info"), "question");
    return text ? cli_hash(CLI_HASH, text, strlen(text)) : CLI_HASH;
}

static int add_part(merge *m, int file, const json *sample) {
    part *p;
    if (m->n == m->capacity) {
        int capacity = m->capacity ? 2 * m->capacity : 1024;
        if (m->capacity > INT_MAX / 4 || !(p = realloc(m->parts, (size_t)capacity * sizeof *p)))
            return cli_fail("out of memory");
        m->parts = p;
        m->capacity = capacity;
    }
    p = &m->parts[m->n];
    p->file = file;
    p->order = m->n;
    p->text = m->files[file].object;
    p->line = m->files[file].line;
    p->hash = question_hash(sample);
    if (!json_int(json_get(sample, "index"), &p->index)) {
        if (m->headers[file])
            return cli_fail("%s:%d: the sample has no index", m->files[file].name, m->files[file].line);
        p->index = m->n;
    }
    m->n++;
    return 0;
}

/* Layers of the model: those of the header, or of the longest path without repetitions. */
static int layers_of(const json *sample) {
    static const char *const names[] = {"final_valid_transitions", "final_invalid_transitions"};
    int most = 0, layer;
    for (int i = 0; i < 2; i++) {
        const json *list = json_get(sample, names[i]);
        for (const json *p = list ? list->child : NULL; p; p = p->next)
            for (const json *v = p->child; v; v = v->next)
                if (json_int(v, &layer) && layer >= most) most = layer + 1;
    }
    return most;
}

static int read_samples(merge *m, int file) {
    cli_objects *o = &m->files[file];
    const json *sample;
    int status = 0;
    while (!status && (sample = cli_objects_next(o))) {
        int layers = m->headers[file] ? 0 : layers_of(sample);
        if (layers > m->n_layer) m->n_layer = layers;
        status = add_part(m, file, sample) || summary_add(&m->summary, sample, m->n_layer);
    }
    return status | o->failed;
}

static int by_index(const void *a, const void *b) {
    const part *x = a, *y = b;
    if (x->index != y->index) return x->index < y->index ? -1 : 1;
    return x->order - y->order;
}

static int by_question(const void *a, const void *b) {
    const part *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->order - y->order;
}

/* The same question in two of the files, which have no header. */
static int check_questions(const merge *m) {
    for (int i = 1; i < m->n; i++) {
        const part *a = &m->parts[i - 1], *b = &m->parts[i];
        if (a->hash == b->hash && a->file != b->file)
            return cli_fail("%s:%d: this question is in %s, too, at line %d", m->files[b->file].name, b->line,
                            m->files[a->file].name, a->line);
    }
    return 0;
}

static int sort_parts(merge *m) {
    if (!m->headers[0]) {
        qsort(m->parts, (size_t)m->n, sizeof *m->parts, by_question);
        if (check_questions(m)) return 1;
    }
    qsort(m->parts, (size_t)m->n, sizeof *m->parts, by_index);
    for (int i = 1; i < m->n; i++)
        if (m->parts[i].index == m->parts[i - 1].index)
            return cli_fail("question %d is in %s and in %s", m->parts[i].index, m->files[m->parts[i - 1].file].name,
                            m->files[m->parts[i].file].name);
    return 0;
}

/* A file with a gap says so, and is not taken for a whole one. */
static void put_missing(FILE *f, const merge *m) {
    int n = 0;
    for (int i = 0; i < m->n_shards; i++)
        if (!m->shards[i]) fprintf(f, n++ ? ",%d" : ",\"missing_parts\":[%d", i + 1);
    if (n) fputc(']', f);
}

static int write_merged(const merge *m, const char *output) {
    cli_output out;
    FILE *f = cli_output_open(&out, output);
    if (!f) return cli_output_close(&out, 0) || 1;
    if (m->headers[0]) {
        fprintf(f, "{\"polar\":");
        put_header(f, &m->files[0]);
        put_missing(f, m);
        fprintf(f, "},\n\"samples\":[");
    } else fprintf(f, "{\"samples\":[");
    for (int i = 0; i < m->n; i++) {
        fputs(i ? ",\n" : "\n", f);
        fwrite(m->parts[i].text.text, 1, m->parts[i].text.length, f);
    }
    fprintf(f, "\n]}\n");
    return cli_output_close(&out, 1);
}

/* --- the command ------------------------------------------------------------------------------------------ */

static int read_files(merge *m, char **names, int n) {
    if (!(m->files = calloc((size_t)n, sizeof *m->files)) || !(m->headers = calloc((size_t)n, sizeof *m->headers)))
        return cli_fail("out of memory");
    for (int i = 0; i < n; i++) {
        m->n_files = i + 1;
        if (!cli_objects_open(&m->files[i], names[i])) return 1;
        if (m->files[i].header.text && !(m->headers[i] = read_header(&m->files[i]))) return 1;
    }
    return check_headers(m);
}

static int join(merge *m, const char *output, int partial) {
    int status;
    if (header_of(m, 0)) {
        json_int(json_get(json_get(header_of(m, 0), "model"), "n_layer"), &m->n_layer);
        m->summary.n_loops = cli_header_loops(header_of(m, 0));
        if ((status = read_shards(m)) || (status = check_missing(m, partial))) return status;
    }
    for (int i = 0; i < m->n_files; i++)
        if ((status = read_samples(m, i))) return status;
    if ((status = sort_parts(m))) return status;
    return write_merged(m, output);
}

int command_merge(cli *c) {
    const char *output = NULL;
    int partial = 0, as_json = 0, status;
    merge m;
    const cli_option options[] = {{"output", 'o', CLI_SUPERVISION, &output, "FILE", "the joined file; - is stdout"},
                                  {"partial", 0, CLI_FLAG, &partial, NULL, "join what there is when parts are missing"},
                                  {"json", 0, CLI_FLAG, &as_json, NULL, "print the summary as a JSON object"},
                                  {0}};
    if ((status = cli_read(c, options, 1, -1)) >= 0) return status;
    if (!output) return cli_usage("no output: -o FILE names it, -o - is stdout");
    memset(&m, 0, sizeof m);
    status = read_files(&m, c->args, c->n_args);
    if (!status) status = join(&m, output, partial);
    if (!status) {
        FILE *f = strcmp(output, "-") ? stdout : stderr;
        if (as_json) summary_print_json(f, &m.summary);
        else summary_print(f, &m.summary, m.n_layer);
    }
    for (int i = 0; i < m.n_files; i++) {
        json_free(m.headers[i]);
        cli_objects_close(&m.files[i]);
    }
    summary_free(&m.summary);
    free(m.files);
    free(m.headers);
    free(m.parts);
    free(m.shards);
    return status;
}
