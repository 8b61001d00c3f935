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

int cli_open_model(const char *path, const char *cpu, int vocab_only, polar_model **model) {
    polar_model_options o = polar_model_defaults();
    polar_error e;
    *model = NULL;
    if (!path) return cli_usage("no model: -m FILE names a GGUF file");
    o.vocab_only = vocab_only;
    for (int i = 0; cpu && strcmp(polar_cpu_name(o.cpu), cpu); o.cpu = (polar_cpu)i)
        if (++i == POLAR_N_CPU) return cli_usage("--cpu %s: expected auto, plain, avx2, avx512 or neon", cpu);
    if (polar_model_open(model, path, &o, &e)) return cli_fail("%s", e.message);
    return 0;
}

int cli_kv_mode(const char *text, polar_kv_mode *mode) {
    *mode = !strcmp(text, "shared") ? POLAR_KV_SHARED : POLAR_KV_PER_CALL;
    if (*mode == POLAR_KV_SHARED || !strcmp(text, "per-call")) return 0;
    return cli_usage("--kv %s: expected per-call or shared", text);
}

int cli_kv_type(const char *text, polar_kv_type *type) {
    *type = !strcmp(text, "f32") ? POLAR_KV_F32 : POLAR_KV_F16;
    return *type == POLAR_KV_F32 || !strcmp(text, "f16") ? 0 : cli_usage("--kv-type %s: expected f16 or f32", text);
}

int cli_pick_head(const char *text, polar_pick_head *head) {
    static const char *const names[] = {"auto", "menu", "programs"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(text, names[i])) {
            *head = (polar_pick_head)i;
            return 0;
        }
    return cli_usage("--head %s: expected auto, menu or programs", text);
}
