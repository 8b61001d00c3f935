/* Questions: reading them from the files of the public data sets, making prompts of them, and grading what a model
 * answers. Shared by the commands that ask many questions. */
#include "cli.h"

#include <limits.h>

#define PLACE "{question}" /* of the question in a prompt */

/* --- objects of a file ---------------------------------------------------------------------------------- */

enum { FORM_LINES, FORM_ARRAY, FORM_MEMBERS, FORM_ONE };

static const char *skip_space(const char *s, const char *end) {
    while (s < end && (*s == ' ' || *s == '\t' || *s == '\n' || *s == '\r')) s++;
    return s;
}

/* At a quote: past the closing one, or NULL. */
static const char *skip_string(const char *s, const char *end) {
    for (s++; s < end && *s != '"'; s++)
        if (*s == '\\') s++;
    return s < end ? s + 1 : NULL;
}

/* Past the value at s, without a look at what is inside; NULL if the text ends before. */
static const char *skip_value(const char *s, const char *end) {
    int depth = 0;
    if (s < end && *s != '{' && *s != '[' && *s != '"') {
        while (s < end && !strchr(",]} \t\r\n", *s)) s++;
        return s;
    }
    while (s < end) {
        if (*s == '"') {
            if (!(s = skip_string(s, end))) return NULL;
        } else {
            depth += (*s == '{' || *s == '[') - (*s == '}' || *s == ']');
            s++;
        }
        if (depth <= 0) return s;
    }
    return NULL;
}

/* The next member of an object, from behind '{' or ','; its key and value are set. Returns the place behind the
 * value, or NULL at the end of the object or where it is none. */
const char *cli_next_member(const char *s, const char *end, polar_span *key, polar_span *value) {
    const char *start = skip_space(s, end), *after;
    if (start < end && *start == ',') start = skip_space(start + 1, end);
    if (start >= end || *start != '"' || !(after = skip_string(start, end))) return NULL;
    key->text = start + 1;
    key->length = (size_t)(after - start) - 2;
    start = skip_space(after, end);
    if (start >= end || *start != ':') return NULL;
    start = skip_space(start + 1, end);
    if (start >= end || !(after = skip_value(start, end))) return NULL;
    value->text = start;
    value->length = (size_t)(after - start);
    return after;
}

int cli_span_is(polar_span s, const char *text) {
    return s.length == strlen(text) && !memcmp(s.text, text, s.length);
}

/* Names of the fields that hold a question or part of it. */
static const char *const question_names[] = {"question", "problem", "query", "Question", "input", "body", "Body",
                                             "sample_info"};

/* An object alone in its file: that of supervision files, one question, or an object of samples. */
static void look_into(cli_objects *o, const char *s, const char *end) {
    polar_span key = {NULL, 0}, value = {NULL, 0};
    o->form = FORM_MEMBERS;
    for (const char *at = s + 1; (at = cli_next_member(at, end, &key, &value));) {
        if (cli_span_is(key, "samples") && *value.text == '[') {
            o->form = FORM_ARRAY;
            o->at = value.text + 1;
        }
        if (cli_span_is(key, "polar") && *value.text == '{') o->header = value;
        for (size_t i = 0; i < sizeof question_names / sizeof *question_names; i++)
            if (o->form == FORM_MEMBERS && cli_span_is(key, question_names[i])) o->form = FORM_ONE;
    }
    if (o->form == FORM_MEMBERS) o->at = s + 1;
}

int cli_objects_open(cli_objects *o, const char *path) {
    const char *s, *end, *after, *what;
    size_t length;
    memset(o, 0, sizeof *o);
    o->name = strcmp(path, "-") ? path : "stdin";
    if (!(o->text = cli_read_file(path, &length))) return 0;
    s = o->text;
    if ((what = cli_what_is(s, length))) {
        cli_fail("%s is %s; questions and results are JSON", o->name, what);
        free(o->text);
        o->text = NULL;
        return 0;
    }
    end = o->end = s + length;
    o->counted = s;
    o->line = 1;
    if (length >= 3 && !memcmp(s, "\xef\xbb\xbf", 3)) s += 3; /* a byte order mark */
    o->at = s = skip_space(s, end);
    if (s < end && *s == '[') {
        o->form = FORM_ARRAY;
        o->at = s + 1;
    } else if (s < end && *s == '{' && (after = skip_value(s, end)) && skip_space(after, end) == end) {
        look_into(o, s, after);
    }
    return 1;
}

/* Number of the line at s, which never lies before the place asked for last. */
static int line_at(cli_objects *o, const char *s) {
    for (; o->counted < s; o->counted++) o->line += *o->counted == '\n';
    return o->line;
}

static const json *object_fails(cli_objects *o, const char *at, const char *what) {
    cli_fail("%s:%d: %s", o->name, line_at(o, at), what);
    o->failed = 1;
    return NULL;
}

static const json *read_object(cli_objects *o, const char *start, const char *end) {
    const char *error;
    size_t at;
    json_free(o->document);
    o->object.text = start;
    o->object.length = (size_t)(end - start);
    line_at(o, start);
    if (!(o->document = json_read(start, o->object.length, &error, &at))) {
        int line = line_at(o, start + at);
        cli_fail("%s:%d: not JSON: %s", o->name, line, error);
        o->failed = 1;
        return NULL;
    }
    if (json_root(o->document)->type != JSON_OBJECT) return object_fails(o, start, "not a JSON object");
    return json_root(o->document);
}

static const json *next_line(cli_objects *o) {
    const char *start = skip_space(o->at, o->end), *end = start;
    if (start == o->end) return NULL;
    while (end < o->end && *end != '\n') end++;
    o->at = end;
    return read_object(o, start, end);
}

/* Elements of an array, after its bracket or the element before. */
static const json *next_element(cli_objects *o) {
    const char *s = skip_space(o->at, o->end);
    if (s < o->end && *s == ',' && o->n) s = skip_space(s + 1, o->end);
    else if (s < o->end && *s == ']') return NULL;
    else if (s < o->end && o->n) return object_fails(o, s, "not JSON: ',' or ']' is expected");
    if (!(o->at = skip_value(s, o->end)) || s == o->end)
        return object_fails(o, s, "not JSON: the text ends inside an array or object");
    o->n++;
    return read_object(o, s, o->at);
}

const json *cli_objects_next(cli_objects *o) {
    polar_span key, value;
    if (o->failed) return NULL;
    switch (o->form) {
    case FORM_LINES: return next_line(o);
    case FORM_ARRAY: return next_element(o);
    case FORM_ONE: return o->n++ ? NULL : read_object(o, o->at, o->end);
    default: /* members that are objects */
        while ((o->at = cli_next_member(o->at, o->end, &key, &value)))
            if (*value.text == '{' && !cli_span_is(key, "polar"))
                return read_object(o, value.text, value.text + value.length);
        o->at = o->end;
        return NULL;
    }
}

void cli_objects_close(cli_objects *o) {
    json_free(o->document);
    free(o->text);
    memset(o, 0, sizeof *o);
}

int cli_output_is_there(const char *output, const char *header, size_t length) {
    const char *error = "";
    char difference[600] = "it has no header that can be read";
    cli_objects found;
    json_document *there = NULL, *here;
    size_t at;
    int same = 0;
    FILE *f = cli_has_place(output) ? cli_fopen(output, "rb") : NULL;
    const int first = f ? getc(f) : EOF;
    if (f) fclose(f);
    if (first == EOF) return 0;
    if (!cli_objects_open(&found, output)) return -1;
    here = json_read(header, length, &error, &at);
    if (found.header.text) there = json_read(found.header.text, found.header.length, &error, &at);
    if (there && here) same = !cli_json_differ(json_root(there), json_root(here), difference, sizeof difference);
    json_free(there);
    json_free(here);
    cli_objects_close(&found);
    if (same) return 1;
    cli_fail("%s exists and belongs to another run: %s; remove it or choose another output", output, difference);
    return -1;
}

/* --- questions ------------------------------------------------------------------------------------------ */

/* A string that lives as long as the questions, or NULL without memory. */
static char *keep(cli_questions *q, const char *text, size_t length) {
    struct cli_kept *t = malloc(sizeof *t + length + 1);
    if (!t) return NULL;
    t->next = q->texts;
    q->texts = t;
    memcpy(t + 1, text, length);
    ((char *)(t + 1))[length] = 0;
    return (char *)(t + 1);
}

/* A string, a number as it was written, or the one element of a list; NULL for anything else. */
static const json *scalar(const json *v) {
    if (v && v->type == JSON_ARRAY && v->length == 1) v = v->child;
    return v && (v->type == JSON_STRING || v->type == JSON_NUMBER) ? v : NULL;
}

/* The first of the fields that is there and no empty text; "a.b" is field b of the object a. */
static const json *find_field(const json *object, const char *const *names) {
    for (; *names; names++) {
        const char *dot = strchr(*names, '.');
        const json *v;
        if (dot) v = scalar(json_get(json_get(object, "sample_info"), dot + 1));
        else v = scalar(json_get(object, *names));
        if (v && v->length) return v;
    }
    return NULL;
}

/* "145.0" is what some sets make of 145. */
static polar_span whole_number(polar_span s) {
    size_t n = s.length;
    if (n > 2 && !memcmp(s.text + n - 2, ".0", 2)) s.length = n - 2;
    return s;
}

static const json *find_answer(const json *object) {
    static const char *const names[] = {"answer",
                                        "gt_ans",
                                        "ground_truth",
                                        "Answer",
                                        "target",
                                        "gt",
                                        "correct",
                                        "final_answer",
                                        "answerKey",
                                        "solution",
                                        "sample_info.ground_truth",
                                        "sample_info.answer",
                                        NULL};
    return find_field(object, names);
}

/* The story before the question, in SVAMP and ASDiv. */
static const json *find_body(const json *object) {
    static const char *const names[] = {"Body", "body", NULL};
    return find_field(object, names);
}

static const json *find_question(const json *object) {
    static const char *const names[] = {"question", "problem", "query", "Question", "input", "sample_info.question",
                                        NULL};
    const json *stem = scalar(json_get(json_get(object, "question"), "stem")); /* ARC as first published */
    return stem ? stem : find_field(object, names);
}

/* "A)0.22", "(A) 0.22" or "0.22": the length of the label. */
static size_t label_length(const char *s, int index) {
    size_t n = *s == '(';
    if (s[n] != 'A' + index && s[n] != 'a' + index) return 0;
    if (s[n + 1] != ')' && s[n + 1] != '.' && s[n + 1] != ':') return 0;
    n += 2;
    while (s[n] == ' ') n++;
    return s[n] ? n : 0;
}

/* Cuts "A) one B) two" into an option at each label; the number of options. */
static int split_options(const char *text, polar_span *options, int capacity) {
    int n = 0;
    for (const char *s = text; *s; s++) {
        if ((s != text && s[-1] != ' ' && s[-1] != '\n') || n == capacity || !label_length(s, n)) continue;
        if (n) options[n - 1].length = (size_t)(s - options[n - 1].text);
        options[n].text = s;
        options[n++].length = strlen(s);
    }
    for (int i = 0; i < n; i++)
        while (options[i].length && strchr(" \n", options[i].text[options[i].length - 1])) options[i].length--;
    return n;
}

/* The options of a question: a text with all of them, a list of texts (AQuA, MMLU), or texts with their labels, in two
 * lists or object by object (ARC). */
typedef struct option_list {
    int n;                             /* may be more than fit: then the others are not there */
    polar_span texts[CLI_MAX_OPTIONS];
    const json *labels[CLI_MAX_OPTIONS]; /* NULL where the file gives none */
} option_list;

/* Elements of `list` are texts, or objects with text and label; `labels` is a list beside it, or NULL. */
static void list_options(option_list *o, const json *list, const json *labels) {
    const json *label = labels && labels->type == JSON_ARRAY ? labels->child : NULL;
    for (const json *v = list->child; v; v = v->next) {
        const json *text = v->type == JSON_OBJECT ? scalar(json_get(v, "text")) : scalar(v);
        if (!text) {
            o->n = 0;
            return;
        }
        if (o->n < CLI_MAX_OPTIONS) {
            o->texts[o->n] = (polar_span){text->text, text->length};
            o->labels[o->n] = scalar(v->type == JSON_OBJECT ? json_get(v, "label") : label);
        }
        o->n++;
        if (label) label = label->next;
    }
}

static void find_options(option_list *o, const json *list) {
    const json *labels = NULL;
    memset(o, 0, sizeof *o);
    if (list && list->type == JSON_STRING) o->n = split_options(list->text, o->texts, CLI_MAX_OPTIONS);
    if (list && list->type == JSON_OBJECT) {
        labels = json_get(list, "label");
        list = json_get(list, "text");
    }
    if (list && list->type == JSON_ARRAY) list_options(o, list, labels);
}

/* Which option the answer means: by the label in the file, by its letter, by its place where MMLU gives that as a
 * number, or by its text; -1 if none. */
static int correct_option(const cli_question *q, const option_list *o, const json *answer, int by_place) {
    const char *a = q->answer + (*q->answer == '(');
    const size_t n = strlen(a);
    int place;
    for (int i = 0; i < o->n; i++)
        if (o->labels[i] && !strcmp(q->answer, o->labels[i]->text)) return i;
    if ((n == 1 || (n == 2 && a[1] == ')')) && a[0] >= 'A' && a[0] < 'A' + q->n_options) return a[0] - 'A';
    if (by_place && json_int(answer, &place) && place >= 0 && place < q->n_options) return place;
    for (int i = 0; i < q->n_options; i++)
        if (!strcmp(q->answer, q->options[i])) return i;
    return -1;
}

/* Sets options and the correct one; where there is one, its letter becomes the answer. */
static int read_options(cli_questions *qs, cli_question *q, const option_list *o, const json *answer, int by_place) {
    q->n_options = o->n;
    q->correct = -1;
    for (int i = 0; i < o->n; i++) {
        char *text = keep(qs, o->texts[i].text, o->texts[i].length);
        if (!text) return 0;
        q->options[i] = text + label_length(text, i);
    }
    if (o->n && *q->answer) q->correct = correct_option(q, o, answer, by_place);
    return q->correct < 0 || (q->answer = keep(qs, &"ABCDEFGHIJ"[q->correct], 1));
}

/* Body and question in one text, and options below it. */
static char *compose(cli_questions *qs, const cli_question *q, const json *body, const json *question, int n_options) {
    size_t size = (body ? body->length : 0) + question->length + 32, n = 0;
    char *text, *kept;
    for (int i = 0; i < n_options; i++) size += strlen(q->options[i]) + 8;
    if (!(text = malloc(size))) return NULL;
    if (body) {
        const char *s = body->text;
        n = body->length;
        while (n && (s[n - 1] == ' ' || s[n - 1] == '\n')) n--;
        memcpy(text, s, n);
        if (n && !strchr(".?!,:;", text[n - 1])) text[n++] = '.';
        if (n) text[n++] = ' ';
    }
    memcpy(text + n, question->text, question->length);
    n += question->length;
    for (int i = 0; i < n_options; i++)
        n += (size_t)snprintf(text + n, size - n, "%s(%c) %s", i ? " " : "\nAnswer Choices: ", 'A' + i, q->options[i]);
    kept = keep(qs, text, n);
    free(text);
    return kept;
}

/* A field that says what kind of question it is, as text; "" where it is missing. */
static const char *keep_field(cli_questions *qs, const json *object, const char *name) {
    const json *v = scalar(json_get(object, name));
    const char *text;
    if (!v) v = scalar(json_get(json_get(object, "sample_info"), name));
    if (!v) v = scalar(json_get(json_get(object, "query_metadata"), name));
    text = v ? keep(qs, v->text, v->length) : "";
    return text ? text : "";
}

static int question_fails(const cli_objects *o, const char *what) {
    return cli_fail("%s:%d: %s", o->name, o->line, what);
}

static int holds_nul(const json *v) {
    return v && strlen(v->text) != v->length;
}

typedef struct join_row {
    uint64_t id; /* hash of its query_id */
    int index;
} join_row;

/* Rows by their query_id. */
struct cli_join {
    cli_questions rows;
    join_row *list; /* (rows.n), ascending */
};

static int by_id(const void *a, const void *b) {
    const join_row *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return x->index - y->index;
}

/* The first row with a query_id, or NULL. */
static const cli_question *find_row(const struct cli_join *join, const char *id) {
    const uint64_t x = cli_fingerprint(id);
    int low = 0, n = join->rows.n;
    while (n > 0) {
        const int half = n / 2;
        if (join->list[low + half].id < x) low += half + 1, n -= half + 1;
        else n = half;
    }
    for (; low < join->rows.n && join->list[low].id == x; low++) {
        const cli_question *row = &join->rows.items[join->list[low].index];
        if (!strcmp(row->query_id, id)) return row;
    }
    return NULL;
}

/* An object without a question: the row with its query_id, with its own reference if it has one. */
static int join_question(cli_questions *qs, cli_question *q, const cli_objects *o, const json *object) {
    const json *answer = find_answer(object);
    const char *id = keep_field(qs, object, "query_id");
    const cli_question *row = *id ? find_row(qs->join, id) : NULL;
    if (!row)
        return cli_fail("%s:%d: no question, and no row of --texts has its query_id \"%s\"", o->name, o->line, id);
    *q = *row;
    q->line = o->line;
    if (answer && q->correct < 0) {
        const polar_span a = answer->type == JSON_NUMBER
                                 ? whole_number((polar_span){answer->text, answer->length})
                                 : answer_reference(answer->text, answer->length);
        if (holds_nul(answer)) return question_fails(o, "a text holds a NUL character");
        if (a.length && !(q->answer = keep(qs, a.text, a.length))) return question_fails(o, "out of memory");
    }
    return 0;
}

static int read_question(cli_questions *qs, cli_question *q, const cli_objects *o, const json *object,
                         int needs_answer) {
    const json *body = find_body(object), *question = find_question(object), *answer = find_answer(object), *steps;
    const json *options = json_get(object, "options"), *known = json_get(json_get(object, "sample_info"), "options");
    const json *choices = json_get(object, "choices");
    option_list list;
    polar_span a = {"", 0};
    memset(q, 0, sizeof *q);
    q->line = o->line;
    q->steps = -1;
    if (!choices) choices = json_get(json_get(object, "question"), "choices");
    if (!options) options = choices;
    if (!question && qs->join) return join_question(qs, q, o, object);
    if (!question) return question_fails(o, "no question (looked for question, problem, query, Question, input)");
    if (answer)
        a = answer->type == JSON_NUMBER ? whole_number((polar_span){answer->text, answer->length})
                                        : answer_reference(answer->text, answer->length);
    if (!answer && needs_answer)
        return question_fails(o, "no answer (looked for answer, gt_ans, ground_truth, Answer, target, correct, "
                                 "solution, answerKey)");
    if (!a.length && needs_answer) return question_fails(o, "no answer is found in the reference");
    if (holds_nul(body) || holds_nul(question) || holds_nul(answer))
        return question_fails(o, "a text holds a NUL character");
    find_options(&list, options ? options : known);
    if (list.n > CLI_MAX_OPTIONS)
        return cli_fail("%s:%d: %d options, at most %d are possible", o->name, o->line, list.n, CLI_MAX_OPTIONS);
    if (!(q->answer = keep(qs, a.text, a.length)) ||
        !read_options(qs, q, &list, answer, options != NULL && options == choices) ||
        !(q->text = compose(qs, q, body, question, options ? q->n_options : 0)))
        return question_fails(o, "out of memory");
    q->id = keep_field(qs, object, "id");
    q->query_id = keep_field(qs, object, "query_id");
    q->task = keep_field(qs, object, "task");
    q->level = keep_field(qs, object, "level");
    q->difficulty = keep_field(qs, object, "difficulty");
    q->domain = keep_field(qs, object, "domain");
    q->subject = keep_field(qs, object, "subject");
    if (!*q->subject) q->subject = keep_field(qs, object, "type");
    if (!(steps = json_get(object, "steps"))) steps = json_get(json_get(object, "sample_info"), "steps");
    json_int(steps, &q->steps);
    q->judge = answer_judge(q->text, strlen(q->text));
    return 0;
}

/* Over a text and the NUL behind it. */
static uint64_t hash_text(uint64_t h, const char *text) {
    return cli_hash(h, text, strlen(text) + 1);
}

static void set_checksum(cli_questions *qs) {
    qs->checksum = CLI_HASH;
    for (int i = 0; i < qs->n; i++)
        qs->checksum = hash_text(hash_text(qs->checksum, qs->items[i].text), qs->items[i].answer);
}

/* One more question; 0, or 1 after a message. */
static int add_question(cli_questions *qs, const cli_objects *o, const json *object, int needs_answer) {
    if (qs->n == qs->capacity) {
        int n = qs->capacity ? qs->capacity * 2 : 256;
        cli_question *p = qs->capacity < INT_MAX / 4 ? realloc(qs->items, (size_t)n * sizeof *p) : NULL;
        if (!p) return question_fails(o, "out of memory");
        qs->items = p;
        qs->capacity = n;
    }
    if (read_question(qs, &qs->items[qs->n], o, object, needs_answer)) return 1;
    qs->items[qs->n].place = qs->n;
    qs->n++;
    qs->n_responses += json_get(object, "query_metadata") != NULL;
    return 0;
}

static int read_questions(cli_questions *qs, const char *path, int needs_answer, int limit,
                          const struct cli_join *join) {
    cli_objects o;
    const json *object;
    int status = 0;
    memset(qs, 0, sizeof *qs);
    qs->join = join;
    if (!cli_objects_open(&o, path)) return 1;
    while (!status && (limit <= 0 || qs->n < limit) && (object = cli_objects_next(&o)))
        status = add_question(qs, &o, object, needs_answer);
    status |= o.failed;
    if (!status && !qs->n) status = cli_fail("%s: no questions", o.name);
    cli_objects_close(&o);
    set_checksum(qs);
    qs->join = NULL;
    if (status) cli_questions_free(qs);
    return status;
}

int cli_questions_read(cli_questions *qs, const char *path, int needs_answer, int limit) {
    return read_questions(qs, path, needs_answer, limit, NULL);
}

int cli_questions_read_joined(cli_questions *qs, const char *path, int needs_answer, int limit, const char *texts) {
    struct cli_join join;
    int status;
    if (!texts) return cli_questions_read(qs, path, needs_answer, limit);
    memset(qs, 0, sizeof *qs);
    if ((status = cli_questions_read(&join.rows, texts, needs_answer, 0))) return status;
    if (!(join.list = malloc((size_t)join.rows.n * sizeof *join.list))) status = cli_fail("out of memory");
    for (int i = 0; i < join.rows.n && !status; i++) {
        join.list[i].id = cli_fingerprint(join.rows.items[i].query_id);
        join.list[i].index = i;
    }
    if (!status) {
        qsort(join.list, (size_t)join.rows.n, sizeof *join.list, by_id);
        status = read_questions(qs, path, needs_answer, limit, &join);
    }
    if (!status) { /* the questions now own the texts */
        struct cli_kept **last = &qs->texts;
        while (*last) last = &(*last)->next;
        *last = join.rows.texts;
        join.rows.texts = NULL;
    }
    free(join.list);
    cli_questions_free(&join.rows);
    return status;
}

static int is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* FNV-1a of 64 bits. */
uint64_t cli_fingerprint(const char *s) {
    uint64_t h = 0xcbf29ce484222325u;
    while (is_space(*s)) s++;
    while (*s) {
        const char *next = s + 1;
        while (is_space(*s) && is_space(*next)) next++;
        if (is_space(*s) && !*next) break;
        h = (h ^ (is_space(*s) ? 32u : (unsigned char)*s)) * 0x100000001b3u;
        s = next;
    }
    return h;
}

static int by_fingerprint(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Of the text of a question, or of its query_id where it has one. */
static uint64_t fingerprint_of(const cli_question *q, int by_id) {
    return cli_fingerprint(by_id && *q->query_id ? q->query_id : q->text);
}

static int fingerprints(const cli_questions *qs, int by_id, uint64_t **list, int *n) {
    if (!(*list = malloc(((size_t)qs->n + 1) * sizeof **list))) return cli_fail("out of memory");
    for (int i = 0; i < qs->n; i++) (*list)[i] = fingerprint_of(&qs->items[i], by_id);
    qsort(*list, (size_t)qs->n, sizeof **list, by_fingerprint);
    *n = 0;
    for (int i = 0; i < qs->n; i++)
        if (!*n || (*list)[*n - 1] != (*list)[i]) (*list)[(*n)++] = (*list)[i];
    return 0;
}

int cli_fingerprints(const cli_questions *qs, uint64_t **list, int *n) {
    return fingerprints(qs, 0, list, n);
}

/* The place of x, or of the first that is larger. */
static int find_fingerprint(const uint64_t *list, int n, uint64_t x) {
    int low = 0;
    while (n > 0) {
        const int half = n / 2;
        if (list[low + half] < x) low += half + 1, n -= half + 1;
        else n = half;
    }
    return low;
}

void cli_put_fingerprints(FILE *f, const uint64_t *list, int n) {
    for (int i = 0; i < n; i++) fprintf(f, "%016llx", (unsigned long long)list[i]);
}

int cli_read_fingerprints(const char *text, const char *path, uint64_t **list, int *n_list) {
    const size_t n = text ? strlen(text) / 16 : 0;
    *list = NULL;
    *n_list = 0;
    if (!n) return 0;
    if (strspn(text, "0123456789abcdef") != 16 * n || text[16 * n])
        return cli_fail("%s: its fingerprints of questions are malformed", path);
    if (!(*list = malloc(n * sizeof **list))) return cli_fail("out of memory");
    for (size_t i = 0; i < n; i++) {
        char digits[17] = "";
        memcpy(digits, text + 16 * i, 16);
        (*list)[i] = strtoull(digits, NULL, 16);
        if (i && (*list)[i] <= (*list)[i - 1])
            return cli_fail("%s: its fingerprints of questions do not ascend", path);
    }
    *n_list = (int)n;
    return 0;
}

int cli_has_fingerprint(const uint64_t *list, int n, uint64_t x) {
    const int at = find_fingerprint(list, n, x);
    return at < n && list[at] == x;
}

/* Leaves out questions that are there already, of which the first stood in line *line; *more gets their number. 0, or 1
 * after a message. */
static int keep_first(cli_questions *qs, int by_id, int *more, int *line) {
    uint64_t *list = NULL;
    char *drop = calloc((size_t)qs->n + 1, 1), *seen = calloc((size_t)qs->n + 1, 1);
    int n = 0, status = drop && seen ? fingerprints(qs, by_id, &list, &n) : cli_fail("out of memory");
    *more = qs->n - n;
    *line = 0;
    for (int i = 0; i < qs->n && !status; i++) {
        const int at = find_fingerprint(list, n, fingerprint_of(&qs->items[i], by_id));
        drop[i] = seen[at];
        seen[at] = 1;
        if (drop[i] && !*line) *line = qs->items[i].line;
    }
    if (!status && *more) cli_questions_drop(qs, drop);
    free(drop);
    free(seen);
    free(list);
    return status;
}

int cli_questions_once(cli_questions *qs, const char *file) {
    const int n = qs->n;
    int more, line, status = keep_first(qs, 0, &more, &line);
    if (!status && more)
        cli_note("%s: %d of %d questions are there already (the first in line %d); each counts once", file, more, n,
                 line);
    return status;
}

int cli_questions_select(cli_questions *qs, const char *file, int level, int n_rows) {
    char text[16], *drop = calloc((size_t)qs->n + 1, 1);
    const int n = qs->n;
    int more, line, n_level = 0, status;
    if (!drop) return cli_fail("out of memory");
    snprintf(text, sizeof text, "%d", level);
    for (int i = 0; i < n; i++) {
        const char *has = *qs->items[i].level ? qs->items[i].level : "0";
        drop[i] = strcmp(has, text) || (n_rows && n_level == n_rows);
        n_level += !drop[i];
    }
    cli_questions_drop(qs, drop);
    free(drop);
    if (!qs->n) return cli_fail("%s: none of %d rows has level %d", file, n, level);
    if (!(status = keep_first(qs, 1, &more, &line)))
        cli_note("%s: %d rows, the first %d of level %d are of %d questions", file, n, n_level, level, qs->n);
    return status;
}

int cli_questions_range(cli_questions *qs, const char *file, int from, int to) {
    char *drop;
    if (from >= to || to > qs->n)
        return cli_fail("%s: no questions %d to %d (the last one excluded): there are %d", file, from, to, qs->n);
    if (!(drop = malloc((size_t)qs->n))) return cli_fail("out of memory");
    for (int i = 0; i < qs->n; i++) drop[i] = i < from || i >= to;
    cli_questions_drop(qs, drop);
    free(drop);
    return 0;
}

void cli_questions_drop(cli_questions *qs, const char *drop) {
    int n = 0;
    for (int i = 0; i < qs->n; i++)
        if (!drop[i]) qs->items[n++] = qs->items[i];
    qs->n = n;
    set_checksum(qs);
}

void cli_questions_free(cli_questions *qs) {
    struct cli_kept *next;
    for (struct cli_kept *t = qs->texts; t; t = next) {
        next = t->next;
        free(t);
    }
    free(qs->items);
    memset(qs, 0, sizeof *qs);
}

/* A value as text, or as a number where it looks like a plain one. */
static void put_field(FILE *f, int *n, const char *name, const char *text) {
    size_t digits = strspn(text, "0123456789");
    if (!*text) return;
    if ((*n)++) fputc(',', f);
    fprintf(f, "\"%s\":", name);
    if (!text[digits] && digits < 10 && (text[0] != '0' || digits == 1)) fputs(text, f);
    else json_put_text(f, text);
}

/* Into the place of the question in a template. */
static void put_prompt(FILE *f, const char *template, const char *question) {
    const char *place = strstr(template, PLACE);
    const size_t before = (size_t)(place - template), n = strlen(question), size = strlen(template) + n;
    char *text = malloc(size + 1);
    if (text) snprintf(text, size + 1, "%.*s%s%s", (int)before, template, question, place + strlen(PLACE));
    json_put_text(f, text ? text : "");
    free(text);
}

void cli_question_put_info(FILE *f, const cli_question *q, const char *prompt) {
    char steps[24] = "";
    int n = 0;
    if (q->steps >= 0) snprintf(steps, sizeof steps, "%d", q->steps);
    fputc('{', f);
    put_field(f, &n, "id", q->id);
    put_field(f, &n, "query_id", q->query_id);
    put_field(f, &n, "task", q->task);
    put_field(f, &n, "steps", steps);
    put_field(f, &n, "level", q->level);
    put_field(f, &n, "difficulty", q->difficulty);
    put_field(f, &n, "subject", q->subject);
    put_field(f, &n, "domain", q->domain);
    for (int i = 0; i < q->n_options; i++) {
        fputs(i ? "," : n ? ",\"options\":[" : "\"options\":[", f);
        json_put_text(f, q->options[i]);
    }
    if (q->n_options) fputc(']', f);
    if (prompt) {
        fputs(n || q->n_options ? ",\"question\":" : "\"question\":", f);
        json_put_text(f, q->text);
        fprintf(f, ",\"prompt_text\":");
        put_prompt(f, prompt, q->text);
        fprintf(f, ",\"ground_truth\":");
        json_put_text(f, q->answer);
    }
    fputc('}', f);
}

/* --- prompts -------------------------------------------------------------------------------------------- */

#define INTRODUCTION "Solve the following math problem and output ONLY the final answer directly" FORMAT
#define FORMAT ", formatted strictly as \\boxed{ANSWER}.\n"
#define PROBLEM "### Problem Start\n{question}\n### Problem End\nAnswer:"
#define EXAMPLE "### Problem Start\nWhat is 1+1?\n### Problem End\nAnswer: \\boxed{2}\n"
#define BOX     "\\boxed{"
#define ANSWER  "Answer:"

const char cli_published_prompt[] = INTRODUCTION PROBLEM;
const char cli_stored_prompt[] = "Solve the following math problem and output ONLY the final answer" FORMAT PROBLEM;

/* "\n" in a template of the command line is a new line. */
static void unescape(char *s) {
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] == 'n') *to++ = '\n', s++;
        else *to++ = *s;
    }
    *to = 0;
}

static char *copy_text(const char *text) {
    char *copy = malloc(strlen(text) + 1);
    if (copy) strcpy(copy, text);
    return copy;
}

int cli_prompt_read(const cli_prompt_options *o, char **text, polar_prompt *wanted) {
    const char *spec = o->recorded ? o->recorded : o->prompt ? o->prompt : "auto";
    size_t length;
    *text = NULL;
    if (*spec == '@' && !o->recorded) {
        if (!(*text = cli_read_text(spec + 1, &length))) return 1;
        if (length && (*text)[length - 1] == '\n') (*text)[length - 1] = 0;
        if (strlen(*text) + 1 < length) return cli_fail("%s: a prompt must not hold NUL bytes", spec + 1);
    } else if (o->recorded || strcmp(spec, "auto")) {
        if (!(*text = copy_text(spec))) return cli_fail("out of memory");
        if (!o->recorded) unescape(*text);
    }
    if (*text && !strstr(*text, PLACE)) return cli_usage("--prompt: the text has no place %s", PLACE);
    wanted->text = *text;
    wanted->system = o->system;
    wanted->think = o->think && !strcmp(o->think, "on");
    if (o->think && !wanted->think && strcmp(o->think, "off"))
        return cli_usage("--think %s: expected on or off", o->think);
    return cli_chat(o->chat ? o->chat : "auto", &wanted->chat);
}

/* As published: Qwen models get the prompt through their chat format, others raw. */
static void take_published(polar_prompt *p, const polar_model *model, const polar_prompt *wanted, int example) {
    polar_model_info info;
    polar_model_get_info(model, &info);
    *p = *wanted;
    p->text = example ? INTRODUCTION EXAMPLE PROBLEM : INTRODUCTION PROBLEM;
    if (p->chat != POLAR_CHAT_AUTO) return;
    p->chat = strncmp(info.architecture, "qwen", 4) ? POLAR_CHAT_RAW : info.chat;
    if (p->chat != POLAR_CHAT_RAW && !p->system && strcmp(info.architecture, "qwen3"))
        p->system = "You are a helpful assistant.";
}

int cli_prompt_open(cli_prompt *p, const polar_model *model, const cli_prompt_options *o) {
    polar_prompt wanted;
    polar_error e;
    size_t n, box = strlen(BOX);
    int status;
    memset(p, 0, sizeof *p);
    p->model = model;
    status = cli_prompt_read(o, &p->text, &wanted);
    if (!status && p->text && o->example)
        status = cli_usage("--example belongs to the published prompt; put the example into the text of --prompt");
    if (!status && polar_prompt_find(model, o->predictor, &wanted, &p->how, &e)) status = cli_fail("%s", e.message);
    if (status) {
        cli_prompt_close(p);
        return status;
    }
    if (o->example || !p->how.text) take_published(&p->how, model, &wanted, o->example);
    n = strlen(p->how.text);
    p->prefilled = n >= box && !strcmp(p->how.text + n - box, BOX);
    p->boxed = p->prefilled || o->last_answer || strstr(p->how.text, "oxed{") != NULL;
    p->last_answer = o->last_answer;
    if (o->last_answer && (n < strlen(ANSWER) || strcmp(p->how.text + n - strlen(ANSWER), ANSWER)))
        return cli_usage("--last-answer: the prompt does not end in \"" ANSWER "\"");
    return 0;
}

void cli_prompt_close(cli_prompt *p) {
    free(p->text);
    memset(p, 0, sizeof *p);
}

void cli_prompt_put(FILE *f, const cli_prompt *p) {
    fprintf(f, "\"prompt\":");
    json_put_text(f, p->how.text);
    fprintf(f, ",\"chat\":\"%s\"", polar_chat_name(p->how.chat));
    if (p->last_answer) fprintf(f, ",\"last_answer\":true");
    if (!p->how.system) return;
    fprintf(f, ",\"system\":");
    json_put_text(f, p->how.system);
}

int cli_prompt_tokens(const polar_model *model, const polar_prompt *p, const char *question, int32_t **tokens, int *n) {
    polar_error e;
    *tokens = NULL;
    *n = 0;
    if (polar_prompt_tokenize(model, p, question, NULL, 0, n, &e)) return cli_fail("%s", e.message);
    if (!(*tokens = malloc(((size_t)*n + 1) * sizeof **tokens))) return cli_fail("out of memory");
    return polar_prompt_tokenize(model, p, question, *tokens, *n, n, &e) ? cli_fail("%s", e.message) : 0;
}

int cli_prompt_room(const cli_prompt *p, cli_questions *qs, const char *file, int n_answer, int skip_long,
                    int *longest) {
    char *drop = calloc((size_t)qs->n + 1, 1);
    int n_long = 0, n_first = 0, line = 0, status = drop ? 0 : cli_fail("out of memory");
    polar_model_info info;
    polar_model_get_info(p->model, &info);
    *longest = 1;
    for (int i = 0; i < qs->n && !status; i++) {
        int32_t *tokens;
        int n;
        status = cli_prompt_tokens(p->model, &p->how, qs->items[i].text, &tokens, &n);
        free(tokens);
        drop[i] = n > info.n_ctx_train - n_answer;
        if (!drop[i] && n > *longest) *longest = n;
        if (drop[i] && !n_long++) {
            n_first = n;
            line = qs->items[i].line;
        }
    }
    if (!status && n_long && (!skip_long || n_long == qs->n))
        status = cli_fail("%s:%d: the prompt has %d tokens and the answer may have %d, the model was trained for %d%s "
                          "(%d of %d questions are too long%s)",
                          file, line, n_first, n_answer, info.n_ctx_train, n_answer ? " together" : "", n_long, qs->n,
                          skip_long ? "" : "; --skip-long leaves them out");
    if (!status && n_long) {
        cli_note("%s: %d of %d questions are too long for the model and left out", file, n_long, qs->n);
        cli_questions_drop(qs, drop);
    }
    free(drop);
    return status;
}

/* How an answer follows the template. */
static void draft_text(const cli_prompt *p, const char *answer, char *text, size_t size) {
    const char *space = p->how.chat == POLAR_CHAT_RAW && !p->prefilled ? " " : "";
    size_t n = strlen(p->how.text);
    if (n && strchr(" \n", p->how.text[n - 1])) space = "";
    snprintf(text, size, p->prefilled ? "%s%s}" : p->boxed ? "%s\\boxed{%s}" : "%s%s", space, answer);
}

int cli_prompt_draft(const cli_prompt *p, const char *answer, int32_t **tokens, int *n) {
    polar_model_info info;
    polar_error e;
    char text[1024];
    const int capacity = (int)sizeof text; /* a byte is a token at most */
    draft_text(p, answer, text, sizeof text);
    *n = 0;
    if (!(*tokens = malloc((sizeof text + 1) * sizeof **tokens))) return cli_fail("out of memory");
    if (polar_tokenize(p->model, text, strlen(text), POLAR_TOKENIZE_SPECIAL, *tokens, capacity, n, &e))
        return cli_fail("%s", e.message);
    polar_model_get_info(p->model, &info);
    if (*n > capacity) *n = capacity;
    if (p->how.chat != POLAR_CHAT_RAW && info.token_eot >= 0) (*tokens)[(*n)++] = info.token_eot;
    else if (info.token_eos >= 0) (*tokens)[(*n)++] = info.token_eos;
    return 0;
}

/* --- grading -------------------------------------------------------------------------------------------- */

static int is_equal(const cli_question *q, polar_span pred, const char *gold, int *equal) {
    const polar_span reference = {gold, strlen(gold)};
    const int same = q->judge.same(q->judge.user, pred, reference);
    *equal = same > 0;
    return same < 0 ? cli_fail("out of memory") : 0;
}

/* 1 if the last box of the text is closed. */
static int has_closed_box(const char *text) {
    const char *box = NULL;
    int depth = 0;
    for (const char *s = text; (s = strstr(s, "oxed{")); s++) box = s;
    if (!box) return 0;
    for (const char *s = box + 4; *s; s++) {
        if (*s == '\\' && s[1]) s++;
        else if ((depth += (*s == '{') - (*s == '}')) == 0) return 1;
    }
    return 0;
}

/* "(B) 30": the letter of an option decides, whatever text stands behind it; *option is -1 without a letter. */
static int lettered_option(const cli_question *q, polar_span answer, int *option) {
    int status = 0, same = 0;
    *option = -1;
    for (int i = 0; !status && *option < 0 && i < q->n_options; i++) {
        const char letter[2] = {(char)('A' + i), 0};
        status = is_equal(q, answer, letter, &same);
        if (same) *option = i;
    }
    return status;
}

int cli_grade(const cli_prompt *p, const cli_question *q, const char *response, polar_stop stop, int *right,
              polar_span *answer) {
    const size_t box = strlen(BOX), before = p->prefilled ? box : 0;
    size_t n;
    char *text;
    polar_span found;
    int counts, status = 0, letter = -1;
    /* The prompt ends in "Answer:", and no end of that begins another: the last one is in the response, or there. */
    for (const char *at = response; p->last_answer && (at = strstr(at, ANSWER));) response = at += strlen(ANSWER);
    n = strlen(response);
    text = malloc(n + box + 1);
    *right = 0;
    answer->text = response;
    answer->length = 0;
    if (!text) return cli_fail("out of memory");
    memcpy(text, BOX, before);
    memcpy(text + before, response, n + 1);
    found = answer_extract(text, n + before);
    /* Without its box an answer scores 0, and so does one that was cut inside it. */
    counts = !(p->boxed && !strstr(text, "oxed{")) && (p->last_answer || stop != POLAR_STOP_LIMIT ||
                                                           has_closed_box(text));
    if (found.length) {
        const size_t start = (size_t)(found.text - text), end = start + found.length;
        const size_t from = start > before ? start : before;
        answer->text = response + (from - before);
        answer->length = end > from ? end - from : 0;
    }
    if (found.length && counts) {
        if (q->correct >= 0) status = lettered_option(q, found, &letter);
        if (letter >= 0) *right = letter == q->correct;
        else if (!status) status = is_equal(q, found, q->correct < 0 ? q->answer : q->options[q->correct], right);
    }
    free(text);
    return status;
}
