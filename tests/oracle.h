/* Reading of tests/vectors and ../shared/oracle: numbers after a key, in the order of the file, and its generator. */
#ifndef ORACLE_H
#define ORACLE_H
#include "../examples/cli/json.c"

typedef struct oracle {
    char *text, *at;
} oracle;

static int oracle_open(oracle *o, const char *path) {
    size_t n;
    o->at = o->text = test_shared_text(path, &n);
    return o->text != NULL;
}

/* Moves behind the next `"key":` and returns 1, or 0 if there is none before `end`. */
static int oracle_find(oracle *o, const char *key, const char *end) {
    char quoted[64];
    char *p;
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    p = strstr(o->at, quoted);
    if (!p || (end && p > end)) return 0;
    o->at = p + strlen(quoted);
    return 1;
}

/* The number, or the numbers of the nested list, at the present place. */
static int oracle_numbers(oracle *o, double *out, int max) {
    int depth = 0, n = 0;
    for (; *o->at; o->at++) {
        if (*o->at == '[') depth++;
        else if (*o->at == ']') depth--;
        else if (strchr("-0123456789", *o->at)) {
            char *end;
            double x = strtod(o->at, &end);
            if (n < max) out[n] = x;
            n++;
            o->at = end - 1;
        } else if (!strchr(", \n", *o->at)) break;
        if (depth == 0) break;
    }
    if (*o->at) o->at++;
    return n;
}

static double oracle_number(oracle *o, const char *key) {
    double x = 0;
    if (oracle_find(o, key, NULL)) oracle_numbers(o, &x, 1);
    return x;
}

/* A list of whole numbers: how many went to `out`. */
static int oracle_ints(const json *list, int32_t *out, int capacity) {
    int n = 0;
    for (const json *x = list ? list->child : NULL; x && n < capacity; x = x->next) out[n++] = (int32_t)x->number;
    return n;
}

/* The oracle's generator of weights and features. */
static void oracle_fill(float *x, size_t n, uint64_t seed, float scale, float shift) {
    for (size_t i = 0; i < n; i++) {
        uint64_t state = (seed << 32) + i;
        x[i] = (2.0f * rng_float(&state) - 1.0f) * scale;
        x[i] += shift;
    }
}
#endif
