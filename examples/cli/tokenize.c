/* polar tokenize: text to tokens and back. Shows the [tok] functions of polar.h; needs no weights. */
#include "cli.h"

#include <limits.h>

typedef struct tokenize_options {
    const char *model, *file;
    int decode, special, bos, jsonl, json;
    const char *at; /* what messages begin with: "FILE:LINE: ", or "" */
} tokenize_options;

/* Encodes and prints. A first call measures, a second one writes. */
static int print_tokens(const tokenize_options *o, const polar_model *model, const char *text, size_t length) {
    int flags = (o->special ? POLAR_TOKENIZE_SPECIAL : 0) | (o->bos ? POLAR_TOKENIZE_BOS : 0), status = 0;
    int32_t *tokens = NULL;
    int n = 0;
    polar_error e;
    if (polar_tokenize(model, text, length, flags, NULL, 0, &n, &e)) return cli_fail("%s%s", o->at, e.message);
    if (!(tokens = malloc(((size_t)n + 1) * sizeof *tokens))) return cli_fail("out of memory");
    if (polar_tokenize(model, text, length, flags, tokens, n, &n, &e))
        status = cli_fail("%s%s", o->at, e.message);
    else if (o->json || o->jsonl) {
        printf("{\"tokens\":");
        json_put_ints(stdout, tokens, (size_t)n);
        printf("}\n");
    } else {
        for (int i = 0; i < n; i++) printf(i ? ",%d" : "%d", (int)tokens[i]);
        printf("\n");
    }
    free(tokens);
    return status;
}

static int print_text(const tokenize_options *o, const polar_model *model, const int32_t *tokens, int n) {
    int flags = o->special ? POLAR_DETOKENIZE_SPECIAL : 0, status = 0;
    char *text;
    size_t length = 0;
    polar_error e;
    if (polar_detokenize(model, tokens, n, flags, NULL, 0, &length, &e)) return cli_fail("%s%s", o->at, e.message);
    if (!(text = malloc(length + 1))) return cli_fail("out of memory");
    if (polar_detokenize(model, tokens, n, flags, text, length, &length, &e))
        status = cli_fail("%s%s", o->at, e.message);
    else if (o->json || o->jsonl) {
        printf("{\"text\":");
        json_put_string(stdout, text, length);
        printf("}\n");
    } else {
        fwrite(text, 1, length, stdout);
        printf("\n");
    }
    free(text);
    return status;
}

/* Reads "1,2,3", with commas or white space between, and prints the text. */
static int decode_list(const tokenize_options *o, const polar_model *model, const char *list) {
    int32_t *tokens = malloc((strlen(list) + 1) * sizeof *tokens);
    int n = 0;
    int status = tokens ? 0 : cli_fail("out of memory");
    while (!status) {
        char *end;
        long id;
        list += strspn(list, ", \t\r\n");
        if (!*list) break;
        id = strtol(list, &end, 10);
        if (end == list || (*end && !strchr(", \t\r\n", *end)) || id < INT32_MIN || id > INT32_MAX)
            status = cli_fail("a token id is expected at \"%.20s\"", list);
        else if (n == INT_MAX) status = cli_fail("there are more than %d token ids", INT_MAX);
        else tokens[n++] = (int32_t)id;
        list = end;
    }
    if (!status) status = print_text(o, model, tokens, n);
    free(tokens);
    return status;
}

static int convert_line(const tokenize_options *o, const polar_model *model, const cli_lines *lines, const json *line) {
    const json *text = json_get(line, "text");
    int32_t *tokens;
    size_t n;
    int status;
    if (!o->decode && (!text || text->type != JSON_STRING))
        return cli_fail("%s:%d: field \"text\" must be a string", lines->name, lines->number);
    if (!o->decode) return print_tokens(o, model, text->text, text->length);
    if (!(tokens = json_ints(json_get(line, "tokens"), &n)))
        return cli_fail("%s:%d: field \"tokens\" must be a list of token ids", lines->name, lines->number);
    if (n > INT_MAX)
        status = cli_fail("%s:%d: there are more than %d token ids", lines->name, lines->number, INT_MAX);
    else status = print_text(o, model, tokens, (int)n);
    free(tokens);
    return status;
}

static int convert_lines(tokenize_options *o, const polar_model *model, const char *file) {
    cli_lines lines;
    int status = 0;
    if (!cli_lines_open(&lines, file)) return 1;
    while (!status && cli_lines_next(&lines)) {
        char at[300];
        json_document *d = json_read_line(&lines);
        snprintf(at, sizeof at, "%s:%d: ", lines.name, lines.number);
        o->at = at;
        status = d ? convert_line(o, model, &lines, json_root(d)) : 1;
        json_free(d);
    }
    if (lines.failed) status = 1;
    cli_lines_close(&lines);
    return status;
}

/* The one text or list: a word, a file, or stdin for "-" and where neither is given. */
static int convert(const tokenize_options *o, const polar_model *model, const char *word) {
    const char *file = o->file ? o->file : !word || !strcmp(word, "-") ? "-" : NULL;
    size_t length = word ? strlen(word) : 0;
    char *content = NULL;
    int status;
    if (file && !(content = cli_read_text(file, &length))) return 1;
    if (content) word = content;
    status = o->decode ? decode_list(o, model, word) : print_tokens(o, model, word, length);
    free(content);
    return status;
}

int command_tokenize(cli *c) {
    tokenize_options o = {NULL, NULL, 0, 0, 0, 0, 0, ""};
    const cli_option options[] = {
        {"model", 'm', CLI_TEXT, &o.model, "FILE", "GGUF file; a vocabulary is enough"},
        {"file", 'f', CLI_TEXT, &o.file, "FILE", "read the input from a file"},
        {"decode", 'd', CLI_FLAG, &o.decode, NULL, "token ids to text"},
        {"special", 0, CLI_FLAG, &o.special, NULL, "control tokens by their names in the text, both ways"},
        {"bos", 0, CLI_FLAG, &o.bos, NULL, "begin with BOS if the file asks for it"},
        {"jsonl", 0, CLI_FLAG, &o.jsonl, NULL, "lines {\"text\":..} to {\"tokens\":[..]}; the reverse with --decode"},
        {"json", 0, CLI_FLAG, &o.json, NULL, "print a JSON object"},
        {0}};
    polar_model *model = NULL;
    const char *word;
    int status = cli_read(c, options, 0, 1);
    if (status >= 0) return status;
    word = c->n_args ? c->args[0] : NULL;
    if (word && o.file) return cli_usage("there are two inputs, \"%s\" and -f %s", word, o.file);
    status = cli_open_model(o.model, NULL, 1, &model);
    if (!status && o.jsonl) status = convert_lines(&o, model, o.file ? o.file : word ? word : "-");
    else if (!status) status = convert(&o, model, word);
    polar_model_close(model);
    return status;
}
