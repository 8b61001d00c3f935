/* polar search --planted: a search run on a made-up reward in place of a model, so that anybody can compare its steps
 * with those of another implementation. A line of the input names the space, the reward and the seed:
 *
 *     {"D":6,"min":4,"max":8,"reward":"r3","simulations":100,"seed":42}
 *
 * and comes back with "initial" (the identity's reward), "steps" ([simulation, path or null, value backed up]), and the
 * lists "valid" and "invalid", which name each path by the simulation that evaluated it, -1 the identity. */
#include "planted.h"
#include "released.h"

/* Rewards of a path: r0 never, r1 always, r2 if the checksum FNV-1a 64 of its layers is divisible by 10, r3 if layer D/2
 * occurs exactly twice, r4 if it is shorter than D and contains the first and the last layer. -1 for any other name. */
static int planted_reward(const char *name, int n_layer, const int *path, int n) {
    int middle = 0, first = 0, last = 0;
    uint64_t hash = 0xcbf29ce484222325u;
    for (int i = 0; i < n; i++) {
        hash = (hash ^ (uint64_t)path[i]) * 0x100000001b3u;
        middle += path[i] == n_layer / 2;
        first |= path[i] == 0;
        last |= path[i] == n_layer - 1;
    }
    if (!strcmp(name, "r0")) return 0;
    if (!strcmp(name, "r1")) return 1;
    if (!strcmp(name, "r2")) return hash % 10 == 0;
    if (!strcmp(name, "r3")) return middle == 2;
    if (!strcmp(name, "r4")) return n < n_layer && first && last;
    return -1;
}

static void put_steps(const released_search *s) {
    for (int i = 0; i < released_n_steps(s); i++) {
        const released_step x = released_get_step(s, i);
        printf(i ? ",[%d," : "[%d,", i);
        for (int k = 0; k < x.n_path; k++) printf(k ? ",%d" : "[%d", x.path[k]);
        printf(x.path ? "],%d]" : "null,%d]", (int)x.reward);
    }
}

static void put_results(const char *name, const released_result *list, int n, int valid) {
    int first = 1;
    printf("],\"%s\":[", name);
    for (int i = 0; i < n; i++) {
        if ((list[i].reward > 0) != valid) continue;
        printf(first ? "%d" : ",%d", list[i].simulation);
        first = 0;
    }
}

typedef struct planted {
    int n_layer, min, max, simulations;
    uint64_t seed;
    const char *reward;
} planted;

static int run_planted(const cli_lines *lines, const planted *p) {
    released_search *s = released_create(p->n_layer, p->min, p->max, p->simulations, p->seed);
    released_result *list = NULL;
    int path[RELEASED_MAX_CALLS], n, initial = -1;
    if (!s) return cli_fail("%s:%d: no such space of programs, or no memory", lines->name, lines->number);
    while ((n = released_next(s, path)) > 0) {
        const int reward = planted_reward(p->reward, p->n_layer, path, n);
        if (initial < 0) initial = reward;
        released_report(s, reward);
    }
    if (n < 0 || (n = released_results(s, &list)) < 0) {
        released_free(s);
        return cli_fail("out of memory");
    }
    printf("{\"D\":%d,\"min\":%d,\"max\":%d,\"reward\":\"%s\",\"simulations\":%d,\"seed\":%llu,\"initial\":%d,\"steps\":[",
           p->n_layer, p->min, p->max, p->reward, p->simulations, (unsigned long long)p->seed, initial);
    put_steps(s);
    put_results("valid", list, n, 1);
    put_results("invalid", list, n, 0);
    printf("]}\n");
    free(list);
    released_free(s);
    return 0;
}

static int read_planted(const cli_lines *lines, const json *o, planted *p) {
    const int none[1] = {0};
    if (json_int(json_get(o, "D"), &p->n_layer) && json_int(json_get(o, "min"), &p->min) &&
        json_int(json_get(o, "max"), &p->max) && json_int(json_get(o, "simulations"), &p->simulations) &&
        json_u64(json_get(o, "seed"), &p->seed) && (p->reward = json_get_text(o, "reward")) &&
        planted_reward(p->reward, 1, none, 0) >= 0)
        return 0;
    return cli_fail("%s:%d: expected D, min, max, simulations, seed and a reward r0 to r4", lines->name, lines->number);
}

int search_planted(const char *path) {
    cli_lines lines;
    planted p;
    int status = 0;
    if (!cli_lines_open(&lines, path)) return 1;
    while (!status && cli_lines_next(&lines)) {
        json_document *d = json_read_line(&lines);
        status = d ? read_planted(&lines, json_root(d), &p) : 1;
        if (!status) status = run_planted(&lines, &p);
        json_free(d);
    }
    if (lines.failed) status = 1;
    cli_lines_close(&lines);
    return status;
}
