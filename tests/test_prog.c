#include "inside.h"
#include "test.h"
#include "fuzz/fuzz_program.c"

static polar_program parsed(int n_layer, const char *text) {
    polar_program p;
    polar_error e;
    CHECK(!polar_program_parse(&p, n_layer, text, &e));
    CHECK_STR(e.message, "");
    return p;
}

static const char *formatted(const polar_program *p) {
    static char text[8192];
    polar_program_format(p, text, sizeof text);
    return text;
}

TEST(text) {
    static const struct {
        int n_layer;
        const char *text, *canonical, *strip;
    } cases[] = {
        {6, "", "0-5", "######"},
        {6, "identity", "0-5", "######"},
        {6, "0-1 2-3x2 4x0 5", "0-1 2-3x2 4x0 5", "##22.#"},
        {6, "2-3x2,4x0", "0-1 2-3x2 4x0 5", "##22.#"},
        {6, " \t3x5\n", "0-2 3x5 4-5", "###5##"},
        {6, "0-4x0", "0-4x0 5", ".....#"},
        {2, "0x12 1x0", "0x12 1x0", "+."},
        {1, "0x1", "0", "#"},
        {6, "1-2~3 4~2", "0 1-2~3 3 4~2 5", "#~~#~#"},
        {6, "2-3~1", "0-1 2-3 4-5", "######"},
        {256, "0-254x0 255x9", "0-254x0 255x9", NULL},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        polar_program p = parsed(cases[i].n_layer, cases[i].text);
        char strip[POLAR_MAX_LAYER + 1];
        CHECK_STR(formatted(&p), cases[i].canonical);
        CHECK(polar_program_strip(&p, strip, sizeof strip) == (size_t)cases[i].n_layer);
        if (cases[i].strip) CHECK_STR(strip, cases[i].strip);
    }
}

TEST(text_errors) {
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"6", "program: a number in column 1 is larger than 5"},
        {"0-1 3-2", "program: the range goes backwards, at \"3-2\" in column 5"},
        {"0-1 1", "program: layers must ascend and be named once, at \"1\" in column 5"},
        {"0-", "program: the last layer of a range is expected, at the end of \"0-\""},
        {"0 2x", "program: a number of executions is expected, at the end of \"0 2x\""},
        {"0 2y3", "program: a space is expected, at \"y3\" in column 4"},
        {"-1", "program: a layer is expected, at \"-1\" in column 1"},
        {"0 2~", "program: a number of executions is expected, at the end of \"0 2~\""},
        {"0 2~0", "program: at least one damped pass is expected, at \"0\" in column 5"},
        {"1~2x2", "program: a space is expected, at \"x2\" in column 4"},
        {"0-5~1280", "the program has 7680 calls, more than 1280"},
        {"0x2x2", "program: a space is expected, at \"x2\" in column 4"},
        {"0x99999999999999999999", "program: a number in column 3 is larger than 1280"},
        {"0-5x0", "the program skips every layer"},
        {"0-5x1280", "the program has 7680 calls, more than 1280"},
        {"idendity", "program: a layer is expected, at \"idendity\" in column 1"},
        {"0\1", "program: a space is expected, at \"?\" in column 2"},
    };
    polar_program p, before = polar_program_identity(3);
    polar_error e;
    for (int i = 0; i < COUNT(cases); i++) {
        p = before;
        CHECK(polar_program_parse(&p, 6, cases[i].text, &e));
        CHECK_STR(e.message, cases[i].message);
        CHECK_BITS(&p, &before, 1); /* untouched on failure */
    }
    CHECK(polar_program_parse(&p, 0, "", &e) == POLAR_ARGUMENT);
    CHECK(polar_program_parse(&p, 257, "", &e) == POLAR_ARGUMENT);
    CHECK(polar_program_parse(&p, 6, NULL, NULL) == POLAR_ARGUMENT);
}

TEST(cut_text) {
    polar_program p = parsed(6, "2-3x2");
    char text[8];
    memset(text, 'z', sizeof text);
    CHECK(polar_program_format(&p, text, 6) == 13);
    CHECK_STR(text, "0-1 2");
    CHECK(text[6] == 'z');
    CHECK(polar_program_strip(&p, text, 3) == 6);
    CHECK_STR(text, "##");
    CHECK(polar_program_format(&p, NULL, 0) == 13);
}

TEST(validate) {
    polar_program p = polar_program_identity(8), q;
    polar_error e;
    CHECK(!polar_program_validate(&p, 8, &e));
    CHECK(polar_program_validate(&p, 9, &e) == POLAR_MISMATCH);
    CHECK_STR(e.message, "the program is for 8 layers, the model has 9");
    q = p, q.segments[0].length = 7;
    CHECK(polar_program_validate(&q, 8, &e) == POLAR_ARGUMENT);
    CHECK_STR(e.message, "the segments cover 7 of 8 layers");
    q = p, q.segments[0].start = 1;
    CHECK(polar_program_validate(&q, 8, &e) == POLAR_ARGUMENT);
    q = p, q.segments[0].times = -1;
    CHECK(polar_program_validate(&q, 8, &e) == POLAR_ARGUMENT);
    q = p, q.segments[0].times = 0;
    CHECK(polar_program_validate(&q, 8, &e) == POLAR_ARGUMENT);
    q = p, q.segments[0].times = 161;
    CHECK(polar_program_validate(&q, 8, &e) == POLAR_ARGUMENT);
    q = p, q.segments[0].times = q.segments[0].damped = 1;
    CHECK(polar_program_validate(&q, 8, &e) == POLAR_ARGUMENT);
    CHECK_STR(e.message, "segment 0 is 8 layers from 0, 1 times damped, which begins at 2; expected is one from 0");
    q = p, q.n_segments = 1000;
    CHECK(polar_program_validate(&q, 8, &e) == POLAR_ARGUMENT);
    q = p, q.n_segments = -1;
    CHECK(polar_program_validate(&q, 8, &e) == POLAR_ARGUMENT);
    CHECK(polar_program_validate(NULL, 8, &e) == POLAR_ARGUMENT);
    q = polar_program_identity(-5);
    CHECK(polar_program_validate(&q, -5, &e) == POLAR_ARGUMENT);
}

TEST(path_and_cost) {
    static const int expected[] = {0, 1, 2, 3, 2, 3, 5}; /* one loop, one skip */
    polar_program p = parsed(6, "2-3x2 4x0"), q;
    int path[16];
    memset(path, -1, sizeof path);
    CHECK(polar_program_path(&p, path, 3) == 7);
    CHECK(path[2] == 2 && path[3] == -1);
    CHECK(polar_program_path(&p, path, 16) == 7);
    CHECK_BITS(path, expected, 7);
    CHECK(polar_program_length(&p) == 7 && polar_program_cost(&p) == 7.0 / 6.0);
    q = parsed(6, "0 1 2-3x2 4x0");
    CHECK(polar_program_equal(&p, &q));
    q = parsed(6, "0 1 2-3x2 5x0");
    CHECK(!polar_program_equal(&p, &q));
    q = parsed(7, "2-3x2 4x0 6x0");
    CHECK(!polar_program_equal(&p, &q));
}

TEST(damped) {
    static const int layers[] = {0, 1, 2, 1, 2, 1, 2, 3, 3, 4, 4, 5}; /* two damped segments, one repeated */
    polar_program p = parsed(6, "1-2~3 3x2 4~2"), q = parsed(6, "1-2x3 3x2 4~2");
    int calls[16], path[16], seg_flip[6], op[6];
    memset(path, -1, sizeof path);
    CHECK(polar_program_length(&p) == 12 && polar_program_calls(&p, calls, 16) == 12);
    for (int i = 0; i < 12; i++) CHECK((calls[i] & POLAR_CALL_LAYER) == layers[i]);
    CHECK(!prog_check_calls(calls, 12, 6, NULL));
    CHECK(polar_program_path(&p, path, 16) == 0 && path[0] == -1); /* it has none, and nothing takes calls for one */
    CHECK(!polar_program_equal(&p, &q)); /* the same layers in the same order, but not the same */
    q = parsed(6, "0 1-2~3 3x2 4~2 5");
    CHECK(polar_program_equal(&p, &q));
    CHECK(!polar_program_from_path(&q, 6, calls, 12, 6, 6, NULL)); /* calls have the same canonical form as text */
    CHECK_STR(formatted(&q), "0 1-2~3 3x2 4~2 5");
    CHECK(polar_program_from_path(&q, 6, calls, 11, 6, 6, NULL) == POLAR_OK);
    CHECK(polar_program_from_path(&q, 6, calls, 10, 6, 6, NULL) == POLAR_MISMATCH); /* half a damped segment */
    polar_program_targets(&p, seg_flip, op);
    CHECK(op[0] == 1 && op[1] == POLAR_OP_NONE && op[3] == 2 && op[4] == POLAR_OP_NONE && op[5] == 1);
    p = parsed(6, "2-3~1"), q = polar_program_identity(6);
    CHECK(polar_program_equal(&p, &q) && polar_program_path(&p, path, 16) == 6);
}

/* Random programs: segments up to max_length, 0..max_times executions, at least one call. */
static polar_program random_program(uint64_t *rng, int max_layer, int max_length, int max_times) {
    polar_program p;
    do {
        memset(&p, 0, sizeof p);
        p.n_layer = 1 + (int)(rng_next(rng) % (uint64_t)max_layer);
        for (int at = 0; at < p.n_layer;) {
            int length = 1 + (int)(rng_next(rng) % (uint64_t)max_length);
            length = MIN(length, p.n_layer - at);
            prog_append(&p, at, length, (int)(rng_next(rng) % (uint64_t)(max_times + 1)), 0);
            at += length;
        }
    } while (polar_program_length(&p) == 0 || polar_program_length(&p) > POLAR_MAX_CALLS);
    return p;
}

TEST(random_programs) {
    uint64_t rng = 1;
    static int path[POLAR_MAX_CALLS], again[POLAR_MAX_CALLS];
    for (int i = 0; i < 3000; i++) {
        polar_program p = random_program(&rng, i % 2 ? 12 : 256, 4, 5), q, r;
        polar_error e;
        int n = polar_program_path(&p, path, POLAR_MAX_CALLS);
        CHECK(!polar_program_validate(&p, p.n_layer, &e));
        q = parsed(p.n_layer, formatted(&p));
        CHECK_BITS(&p, &q, 1);
        CHECK(!polar_program_from_path(&q, p.n_layer, path, n, 4, 5, &e));
        CHECK(polar_program_path(&q, again, POLAR_MAX_CALLS) == n);
        CHECK_BITS(path, again, (size_t)n);
        CHECK(q.n_segments <= p.n_segments && polar_program_equal(&p, &q));
        CHECK(!polar_program_from_path(&r, p.n_layer, again, n, 4, 5, &e));
        CHECK_BITS(&q, &r, 1); /* the canonical form of a canonical form is itself */
    }
}

/* The definition: all segmentations, compared as wholes. */
typedef struct brute {
    const int *path;
    int n, n_layer, max_length, max_times, found;
    polar_program now, best;
} brute;

static int compare_programs(const polar_program *a, const polar_program *b) {
    int ka[3] = {a->n_segments, 0, 0}, kb[3] = {b->n_segments, 0, 0};
    for (int i = 0; i < a->n_segments; i++) ka[1] += a->segments[i].times == 0, ka[2] -= a->segments[i].times > 1;
    for (int i = 0; i < b->n_segments; i++) kb[1] += b->segments[i].times == 0, kb[2] -= b->segments[i].times > 1;
    for (int k = 0; k < 3; k++)
        if (ka[k] != kb[k]) return ka[k] < kb[k];
    for (int i = 0; i < a->n_segments; i++)
        if (a->segments[i].length != b->segments[i].length) return a->segments[i].length > b->segments[i].length;
    return 0;
}

static void brute_force(brute *b, int layer, int position) {
    if (layer == b->n_layer) {
        if (position == b->n && (!b->found || compare_programs(&b->now, &b->best))) b->best = b->now, b->found = 1;
        return;
    }
    for (int length = 1; length <= MIN(b->max_length, b->n_layer - layer); length++)
        for (int times = 0; times <= b->max_times; times++) {
            int at = position, ok = 1;
            for (int k = 0; k < times * length; k++, at++) ok &= at < b->n && b->path[at] == layer + k % length;
            if (!ok) continue;
            prog_append(&b->now, layer, length, times, 0);
            brute_force(b, layer + length, at);
            memset(&b->now.segments[--b->now.n_segments], 0, sizeof(polar_segment));
        }
}

TEST(canonical_by_brute_force) {
    uint64_t rng = 7;
    for (int i = 0; i < 2000; i++) {
        polar_program p = random_program(&rng, 7, 4, 4), q;
        int path[64], n = polar_program_path(&p, path, 64);
        brute b;
        if (n > 24) continue;
        if (i % 3 == 0) path[rng_next(&rng) % (uint64_t)n] = (int)(rng_next(&rng) % (uint64_t)p.n_layer);
        memset(&b, 0, sizeof b);
        b.path = path, b.n = n, b.n_layer = b.now.n_layer = p.n_layer;
        b.max_length = 1 + i % 4, b.max_times = 1 + i / 4 % 4;
        brute_force(&b, 0, 0);
        CHECK(polar_program_from_path(&q, p.n_layer, path, n, b.max_length, b.max_times, NULL) ==
              (b.found ? POLAR_OK : POLAR_MISMATCH));
        if (b.found) CHECK_BITS(&q, &b.best, 1);
    }
}

TEST(path_errors) {
    static const int outside[] = {0, 1, 9}, order[] = {0, 2, 1, 3}, thrice[] = {0, 1, 2, 3, 3, 3};
    int path[POLAR_MAX_CALLS];
    polar_program p;
    polar_error e;
    CHECK(polar_program_from_path(&p, 4, outside, 3, 4, 2, &e) == POLAR_MISMATCH);
    CHECK_STR(e.message, "call 2 of the path is layer 9, the model has layers 0..3");
    CHECK(polar_program_from_path(&p, 4, order, 4, 4, 2, &e) == POLAR_MISMATCH);
    CHECK_STR(e.message, "the path has no segment form: layer 2, with calls from index 2 on, starts no segment of at "
                         "most 4 layers and 2 executions");
    CHECK(polar_program_from_path(&p, 4, thrice, 6, 4, 2, &e) == POLAR_MISMATCH);
    CHECK(!polar_program_from_path(&p, 4, thrice, 6, 4, 3, &e));
    CHECK_STR(formatted(&p), "0-2 3x3");
    CHECK(polar_program_from_path(&p, 4, thrice, POLAR_MAX_CALLS + 1, 4, 3, &e) == POLAR_ARGUMENT);
    CHECK(polar_program_from_path(&p, 4, thrice, -1, 4, 3, &e) == POLAR_ARGUMENT);
    CHECK(polar_program_from_path(&p, 4, thrice, 6, 0, 3, &e) == POLAR_ARGUMENT);
    CHECK(polar_program_from_path(&p, 4, thrice, 6, 4, 0, &e) == POLAR_ARGUMENT);
    CHECK(!polar_program_from_path(&p, 4, NULL, 0, 4, 2, &e));
    CHECK_STR(formatted(&p), "0-3x0");
    CHECK(polar_program_validate(&p, 4, &e) == POLAR_ARGUMENT);
    for (int i = 0; i < POLAR_MAX_CALLS; i++) path[i] = i % 256; /* the largest there is */
    CHECK(!polar_program_from_path(&p, 256, path, POLAR_MAX_CALLS, 256, 5, &e));
    CHECK_STR(formatted(&p), "0-255x5");
    CHECK(polar_program_from_path(&p, 256, path, POLAR_MAX_CALLS, INT_MAX, INT_MAX, &e) == POLAR_OK);
}

/* --- the released Python code: ../shared/oracle/parse.jsonl, and some lines of it in tests/vectors ------ */

/* Numbers of "name":[...] or one number; returns how many. */
static int numbers(const char *line, const char *name, int *out, int max) {
    char key[32], *end;
    const char *s;
    int n = 0;
    snprintf(key, sizeof key, "\"%s\":", name);
    if (!(s = strstr(line, key))) return -1;
    s += strlen(key);
    if (*s != '[') return *out = atoi(s), 1;
    for (s++; *s != ']' && n < max; s = end + (*end == ',')) out[n++] = (int)strtol(s, &end, 10);
    return n;
}

static void check_parses(const char *file, int lines) {
    FILE *f = test_shared(file);
    char line[4096];
    int count = 0;
    while (f && fgets(line, sizeof line, f)) {
        int n_layer = 0, max_length = 0, path[256], flip[64], op[64], my_flip[64], my_op[64];
        int n = numbers(line, "path", path, 256), ok = strstr(line, "\"ok\":true") != NULL;
        int repeat = strstr(line, "\"allow_repeat\":true") != NULL;
        polar_program p;
        CHECK(numbers(line, "D", &n_layer, 1) == 1 && numbers(line, "max_pack", &max_length, 1) == 1);
        CHECK(ok == !polar_program_from_path(&p, n_layer, path, n, max_length, repeat ? 2 : 1, NULL));
        count++;
        if (!ok || test_failures) continue;
        CHECK(numbers(line, "seg_flip", flip, 64) == n_layer && numbers(line, "op", op, 64) == n_layer);
        polar_program_targets(&p, my_flip, my_op);
        CHECK_BITS(flip, my_flip, (size_t)n_layer);
        CHECK_BITS(op, my_op, (size_t)n_layer);
    }
    if (f) {
        CHECK(count == lines);
        fclose(f);
    }
}

TEST(parses) {
    check_parses("tests/vectors/parse.jsonl", 93);
}
TEST(all_parses) {
    check_parses("oracle/parse.jsonl", 836);
}

/* The fuzzer over random bytes, half of them letters of the text form. */
TEST(fuzz) {
    static const char letters[] = "0123456789-x ,";
    uint64_t rng = 99;
    uint8_t data[64];
    for (int i = 0; i < 20000; i++) {
        size_t n = (size_t)(rng_next(&rng) % sizeof data);
        for (size_t k = 0; k < n; k++) {
            uint64_t r = rng_next(&rng);
            data[k] = i % 2 && k >= 3 ? (uint8_t)letters[r % (sizeof letters - 1)] : (uint8_t)(r % (i % 4 ? 256 : 12));
        }
        LLVMFuzzerTestOneInput(data, n);
    }
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(text), T(text_errors), T(cut_text), T(validate), T(path_and_cost), T(damped), T(random_programs),
    T(canonical_by_brute_force), T(path_errors), T(parses), T(all_parses), T(fuzz),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
