/* What the commands that run a model share: opening it, and the options of programs, threads and sampling. */
#include "cli.h"

/* "0,1,1,2" to numbers; the number of them, or -1 after a message. */
int cli_read_path(const char *text, int *path) {
    int n = 0;
    while (*text) {
        char *end;
        long layer = strtol(text, &end, 10);
        if (end == text || (*end && *end != ',' && *end != ' ') || layer < -1 || layer > POLAR_MAX_LAYER) {
            cli_usage("--path: a layer number is expected at \"%s\"", text);
            return -1;
        }
        if (n == POLAR_MAX_CALLS) {
            cli_usage("--path: more than %d calls", POLAR_MAX_CALLS);
            return -1;
        }
        path[n++] = (int)layer;
        text = end + (*end != 0);
        while (*text == ' ') text++;
    }
    return n;
}

int cli_ignore_unknown;

int cli_open_model(const char *path, const char *cpu, int vocab_only, polar_model **model) {
    const char *names[POLAR_N_CPU + 1] = {NULL};
    polar_model_options o = {0};
    polar_model_info info;
    polar_error e;
    *model = NULL;
    if (!path) return cli_usage("no model: -m FILE names a GGUF file");
    for (int i = 0; i < POLAR_N_CPU; i++) names[i] = polar_cpu_name((polar_cpu)i);
    if (cpu) {
        const int at = cli_word("--cpu", cpu, names);
        if (at < 0) return 2;
        o.cpu = (polar_cpu)at;
    }
    o.vocab_only = vocab_only;
    o.ignore_unknown = cli_ignore_unknown;
    if (polar_model_open(model, path, &o, &e)) return cli_fail_open(path, e.message);
    polar_model_get_info(*model, &info);
    for (const char *line = info.notes, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        cli_note("%.*s", (int)(end - line), line);
    }
    return 0;
}

int cli_save_predictor(const polar_predictor *predictor, const char *path) {
    polar_error e;
    size_t size;
    void *bytes;
    int failed;
    if (polar_predictor_save(predictor, NULL, 0, &size, &e)) return cli_fail("%s", e.message);
    if (!(bytes = malloc(size))) return cli_fail("out of memory");
    failed = polar_predictor_save(predictor, bytes, size, &size, &e) ? cli_fail("%s", e.message)
                                                                     : cli_write_file(path, bytes, size);
    free(bytes);
    return failed;
}

int cli_check_model(const char *file, const json *header, const polar_model *model) {
    const char *checksum = json_get_text(json_get(header, "model"), "checksum");
    char mine[20];
    snprintf(mine, sizeof mine, "%016llx", (unsigned long long)polar_model_checksum(model));
    if (checksum && !strcmp(checksum, mine)) return 0;
    return cli_fail("%s was made with another model: its checksum is %s there and %s here", file,
                    checksum ? checksum : "not set", mine);
}

void cli_put_model(FILE *f, const polar_model *model) {
    const int n_loops = cli_own_program(model).segments[0].times;
    polar_model_info i;
    polar_model_get_info(model, &i);
    fprintf(f, "\"model\":{\"name\":");
    json_put_text(f, i.name);
    fprintf(f, ",\"architecture\":\"%s\",\"n_layer\":%d", i.architecture, i.n_layer);
    if (n_loops > 1) fprintf(f, ",\"n_loops\":%d", n_loops);
    fprintf(f, ",\"checksum\":\"%016llx\"}", (unsigned long long)polar_model_checksum(model));
}

int cli_header_loops(const json *header) {
    int n = 1;
    json_int(json_get(json_get(header, "model"), "n_loops"), &n);
    return n < 1 || n > POLAR_MAX_CALLS ? 1 : n;
}

polar_program cli_own_program(const polar_model *model) {
    polar_program p;
    memset(&p, 0, sizeof p);
    polar_model_program(model, NULL, &p, NULL);
    return p;
}

double cli_cost(const polar_program *p, const polar_program *own) {
    return (double)polar_program_length(p) / polar_program_length(own);
}

int cli_program_times(const polar_program *p, int *times) {
    for (int i = 0; i < p->n_segments; i++)
        for (int k = 0; k < p->segments[i].length; k++)
            times[p->segments[i].start + k] = p->segments[i].damped ? -p->segments[i].times : p->segments[i].times;
    return polar_program_length(p);
}

void cli_put_path(FILE *f, const polar_program *program) {
    int path[POLAR_MAX_CALLS];
    const int n = polar_program_path(program, path, POLAR_MAX_CALLS);
    if (n || !polar_program_length(program)) json_put_ints(f, path, (size_t)n);
    else fprintf(f, "null");
}

/* Words in the order of the library's numbers. */

int cli_chat(const char *text, polar_chat *chat) {
    const char *names[POLAR_N_CHAT + 1] = {NULL};
    int at;
    for (int i = 0; i < POLAR_N_CHAT; i++) names[i] = polar_chat_name((polar_chat)i);
    if ((at = cli_word("--chat", text, names)) < 0) return 2;
    *chat = (polar_chat)at;
    return 0;
}

int cli_kv_mode(const char *text, polar_kv_mode *mode) {
    static const char *const names[] = {"per-call", "shared", "last", NULL};
    const int at = cli_word("--kv", text, names);
    if (at < 0) return 2;
    *mode = (polar_kv_mode)at;
    return 0;
}

int cli_kv_type(const char *text, polar_kv_type *type) {
    static const char *const names[] = {"f16", "f32", NULL};
    const int at = cli_word("--kv-type", text, names);
    if (at < 0) return 2;
    *type = (polar_kv_type)at;
    return 0;
}

int cli_feature(const char *text, polar_feature *feature) {
    const char *names[POLAR_N_FEATURE + 1] = {NULL};
    int at;
    for (int i = 0; i < POLAR_N_FEATURE; i++) names[i] = polar_feature_name((polar_feature)i);
    if ((at = cli_word("--features", text, names)) < 0) return 2;
    *feature = (polar_feature)at;
    return 0;
}

int cli_pick_head(const char *text, polar_pick_head *head) {
    static const char *const names[] = {"auto", "menu", "programs", NULL};
    const int at = cli_word("--head", text, names);
    if (at < 0) return 2;
    *head = (polar_pick_head)at;
    return 0;
}

const char *cli_stop_name(polar_stop stop) {
    static const char *const names[] = {"limit", "end", "string", "context"};
    return names[stop];
}
