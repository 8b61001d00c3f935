/* polar grade: is an answer right? Shows the functions of ../answer/answer.h. */
#include "cli.h"

static int equal(polar_span pred, polar_span gold, int flags, int *result) {
    const int same = answer_equal(pred.text, pred.length, gold.text, gold.length, flags);
    *result = same > 0;
    return same < 0 ? cli_fail("out of memory") : 0;
}

/* A string as it is, a number as it was written; text NULL if it is neither. */
static polar_span span(const json *value) {
    polar_span s = {NULL, 0};
    if (value && (value->type == JSON_STRING || value->type == JSON_NUMBER)) {
        s.text = value->text;
        s.length = value->length;
    }
    return s;
}

/* The reference of a line: "gold" is an answer; the fields of data sets may hold whole solutions. */
static polar_span find_gold(const json *line) {
    static const char *const names[] = {"answer", "gt_ans", "ground_truth", "target", "solution"};
    polar_span s = span(json_get(line, "gold"));
    for (size_t i = 0; !s.text && i < sizeof names / sizeof *names; i++) {
        s = span(json_get(line, names[i]));
        if (s.text) s = answer_reference(s.text, s.length);
    }
    return s;
}

/* The answer given: "pred", or what is found in "response" (in "pred" too if "kind" says that it is one). */
static polar_span find_pred(const json *line) {
    const char *kind = json_get_text(line, "kind");
    const json *fields[] = {json_get(line, "pred"), json_get(line, "response")};
    polar_span pred = span(fields[0]), response = span(fields[1]);
    for (int i = 0; i < 2; i++) /* null: no answer was given, which is wrong */
        if (fields[i] && fields[i]->type == JSON_NULL) return (polar_span){"", 0};
    if (pred.text && !(kind && !strcmp(kind, "response"))) return pred;
    if (pred.text) response = pred;
    return response.text ? answer_extract(response.text, response.length) : response;
}

static int grade_line(const cli_lines *lines, const json *line, int flags, int *right) {
    const json *sets = json_get(line, "sets"), *question = json_get(line, "question");
    polar_span pred = find_pred(line), gold = find_gold(line);
    if (!pred.text) return cli_fail("%s:%d: no field \"pred\" or \"response\"", lines->name, lines->number);
    if (!gold.text) return cli_fail("%s:%d: no field \"gold\"", lines->name, lines->number);
    if (sets && sets->type == JSON_TRUE) flags |= ANSWER_SETS;
    if (!sets && question && question->type == JSON_STRING)
        flags |= answer_flags(question->text, question->length);
    if (equal(pred, gold, flags, right)) return 1;
    printf("{\"equal\":%s,\"extracted\":", *right ? "true" : "false");
    json_put_string(stdout, pred.text, pred.length);
    printf("}\n");
    return 0;
}

static int grade_lines(const char *file, int flags) {
    cli_lines lines;
    int status = 0, n = 0, n_right = 0;
    if (!cli_lines_open(&lines, file)) return 1;
    while (!status && cli_lines_next(&lines)) {
        json_document *d = json_read_line(&lines);
        int right = 0;
        status = d ? grade_line(&lines, json_root(d), flags, &right) : 1;
        n_right += right;
        n++;
        json_free(d);
    }
    status |= lines.failed;
    cli_lines_close(&lines);
    if (!status) cli_note("%d of %d are equal to the reference", n_right, n);
    return status;
}

int command_grade(cli *c) {
    int jsonl = 0, sets = 0, extract = 0, right, status;
    polar_span pred, gold;
    const cli_option options[] = {
        {"jsonl", 0, CLI_FLAG, &jsonl, NULL, "read {\"pred\":..,\"gold\":..} or {\"response\":..,\"gold\":..} lines"},
        {"sets", 0, CLI_FLAG, &sets, NULL, "lists of answers in any order (in lines: \"sets\":true)"},
        {"extract", 'e', CLI_FLAG, &extract, NULL, "PRED is a whole response: find the answer in it first"},
        {0}
    };
    if ((status = cli_read(c, options, 0, 2)) >= 0) return status;
    if (jsonl && c->n_args > 1) return cli_usage("--jsonl takes one file");
    if (jsonl) return grade_lines(c->n_args ? c->args[0] : "-", sets ? ANSWER_SETS : 0);
    if (c->n_args != 2) return cli_usage("give an answer and a reference, or --jsonl");
    pred.text = c->args[0];
    pred.length = strlen(pred.text);
    gold.text = c->args[1];
    gold.length = strlen(gold.text);
    if (extract) pred = answer_extract(pred.text, pred.length);
    if (equal(pred, gold, sets ? ANSWER_SETS : 0, &right)) return 1;
    puts(right ? "equal" : "different");
    return 0;
}
