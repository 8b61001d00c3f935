/* polar scan and its page, as a user meets them: on the bundled model of examples/demo, which was trained to go
 * on when layers 2-5 repeat. */
#include "inside.h"
#include "../examples/cli/json.c"
#include "test.h"
#include "command.h"
#include "page.h"
#include <math.h>

#define MODEL "../../examples/demo/demo-model.gguf"
/* Few programs: blocks between every third layer, and those around the best one. */
#define SMALL "polar scan -m " MODEL " small.jsonl --held-out other.jsonl --grid 3 --max-length 3 --around 1 "
/* Blocks of two and four layers, on long stories. */
#define LONG "polar scan -m " MODEL " --max-length 4 --grid 2 --around 0 --damped 0 --seed 1 "

enum { N_SMALL = 4 };

/* Stories of cups, `steps` swaps each; one line per story, with the answer of the one `shift` places further. */
static void write_stories(const char *name, int n, int steps, int shift, uint64_t seed) {
    static char stories[64][1000];
    int answers[64];
    FILE *f = open_there(name, "wb");
    for (int i = 0; i < n; i++) {
        int at = 1 + (int)(rng_next(&seed) % 8);
        char *s = stories[i];
        s += sprintf(s, "Tom hides a ball under cup %d. Which cup is it under at the end? The swaps are", at);
        for (int k = 0; k < steps; k++) {
            const int a = 1 + (int)(rng_next(&seed) % 8), b = 1 + (a + (int)(rng_next(&seed) % 7)) % 8;
            s += sprintf(s, "%s %d and %d", k ? "," : "", a, b);
            at = at == a ? b : at == b ? a : at;
        }
        strcpy(s, ".");
        answers[i] = at;
    }
    for (int i = 0; f && i < n; i++)
        fprintf(f, "{\"question\":\"%s\",\"answer\":\"%d\"}\n", stories[i], answers[(i + shift) % n]);
    if (f) fclose(f);
}

static void prepare(void) {
    write_stories("small.jsonl", N_SMALL, 1, 0, 1);
    write_stories("other.jsonl", 2, 1, 0, 2);
    write_stories("third.jsonl", 10, 1, 0, 6);
    write_stories("long.jsonl", 8, 11, 0, 3);
    write_stories("longer.jsonl", 24, 11, 0, 4);
    write_stories("dealt.jsonl", 6, 11, 2, 3);
    write_stories("dealt2.jsonl", 16, 11, 7, 4);
    RUN(SMALL "-t 2 -o small.json", 0, " programs on 4 questions, the best on 2 others; mean log probability");
    CHECK(!exists("small.json.journal"));
}

/* A finished scan; json_free. */
static json_document *read_scan(const char *name) {
    const char *error = "no file";
    size_t n = 0, at;
    char *text = read_back(name, &n);
    json_document *d = text ? json_read(text, n, &error, &at) : NULL;
    if (!d) printf("%s: %s\n", name, error);
    CHECK(d != NULL);
    free(text);
    return d;
}

static const json *programs_of(const json_document *d) {
    const json *list = d ? json_get(json_root(d), "samples") : NULL;
    return list ? list->child : NULL;
}

static double score_of(const json *program, const char *name) {
    const json *scores = json_get(program, name);
    return scores && scores->child ? scores->child->number : NAN;
}

static const json *find_program(const json_document *d, const char *text) {
    const json *p = programs_of(d);
    while (p && strcmp(json_get_text(p, "program"), text)) p = p->next;
    return p;
}

/* --- against sessions --------------------------------------------------------------------------------------- */

/* ln of the softmax of x at i */
static double log_softmax(const float *x, int n, int i) {
    double sum = 0, most = x[0];
    for (int k = 1; k < n; k++) most = x[k] > most ? x[k] : most;
    for (int k = 0; k < n; k++) sum += exp(x[k] - most);
    return x[i] - most - log(sum);
}

/* The mean log probability of the tokens of \boxed{answer} and the end of the text, after a question. */
static double likelihood(polar_model *m, const polar_program *program, const char *question, const char *answer) {
    polar_session_options o = {.n_ctx = 512, .n_logits = 64, .max_calls = 64};
    polar_model_info info;
    polar_session *s = NULL;
    char prompt[1100], text[64];
    int32_t tokens[600];
    int n_prompt = 0, n = 0;
    double sum = 0;
    polar_model_get_info(m, &info);
    snprintf(prompt, sizeof prompt, "%s\n", question);
    snprintf(text, sizeof text, "\\boxed{%s}", answer);
    CHECK(!polar_tokenize(m, prompt, strlen(prompt), POLAR_TOKENIZE_BOS, tokens, 500, &n_prompt, NULL));
    CHECK(!polar_tokenize(m, text, strlen(text), POLAR_TOKENIZE_SPECIAL, tokens + n_prompt, 60, &n, NULL));
    tokens[n_prompt + n++] = info.token_eos;
    if (polar_session_create(&s, m, program, &o, NULL) || polar_session_eval(s, tokens, n_prompt + n, NULL)) sum = NAN;
    for (int i = 0; i < n && sum == sum; i++)
        sum += log_softmax(polar_session_logits(s, n - i), info.n_vocab, tokens[n_prompt + i]);
    polar_session_free(s);
    return sum / n;
}

/* The next question of a file as write_stories wrote it, and the place behind it; NULL at the end. */
static const char *next_story(const char *at, char question[1000], char answer[16]) {
    if (!at || sscanf(at, "{\"question\":\"%999[^\"]\",\"answer\":\"%15[^\"]\"}", question, answer) != 2) return NULL;
    return strchr(at, '\n') + 1;
}

/* The mean over the questions of a file. */
static double mean_likelihood(polar_model *m, const char *program, const char *name) {
    polar_model_info info;
    polar_program p;
    size_t size = 0;
    char *text = read_back(name, &size), question[1000], answer[16];
    double sum = 0;
    int n = 0;
    polar_model_get_info(m, &info);
    CHECK(text && !polar_program_parse(&p, info.n_layer, program, NULL));
    for (const char *at = text; (at = next_story(at, question, answer)) != NULL; n++)
        sum += likelihood(m, &p, question, answer);
    free(text);
    return sum / n;
}

TEST(sessions) {
    json_document *d = read_scan("small.json");
    polar_model *m = NULL;
    int n = 0;
    CHECK(!polar_model_open(&m, "examples/demo/demo-model.gguf", NULL, NULL));
    for (const json *p = programs_of(d); m && p; p = p->next, n++) {
        const char *text = json_get_text(p, "program");
        const double found = score_of(p, "score");
        double expected;
        if (n % 5 && !json_get(p, "held_out")) continue;
        expected = mean_likelihood(m, text, "small.jsonl");
        if (fabs(found - expected) > 1e-6) printf("%s: %.9f, by sessions %.9f\n", text, found, expected);
        CHECK(fabs(found - expected) <= 1e-6);
        if (json_get(p, "held_out")) {
            expected = mean_likelihood(m, text, "other.jsonl");
            CHECK(fabs(json_get(json_get(p, "held_out")->child, "score")->number - expected) <= 1e-6);
        }
    }
    CHECK(n > 13);
    polar_model_close(m);
    json_free(d);
}

/* Right answers, as greedy decoding in a session gives them. */
TEST(accuracy) {
    static const char *const programs[] = {"identity", "6-8x0"};
    json_document *d;
    polar_model *m = NULL;
    RUN(SMALL "--score accuracy -n 8 -o right.json", 0, "right answers in percent");
    d = read_scan("right.json");
    CHECK(!polar_model_open(&m, "examples/demo/demo-model.gguf", NULL, NULL));
    for (int i = 0; i < 2 && m; i++) {
        size_t size = 0;
        char *text = read_back("small.jsonl", &size), question[1000], answer[16], found[200], boxed[40];
        int right = 0;
        for (const char *at = text; (at = next_story(at, question, answer)) != NULL;) {
            polar_ask_options o = {.generate = {.max_tokens = 8}, .program = programs[i]};
            polar_result result;
            CHECK(!polar_ask(m, question, &o, found, sizeof found, &result, NULL));
            snprintf(boxed, sizeof boxed, "\\boxed{%s}", answer);
            right += !strcmp(found, boxed);
        }
        CHECK(fabs(score_of(find_program(d, programs[i]), "score") - right / (double)N_SMALL) < 1e-12);
        free(text);
    }
    polar_model_close(m);
    json_free(d);
}

/* --- which programs ----------------------------------------------------------------------------------------- */

/* The grid, then what is around its best block; both are part of the scan of all blocks, with the same numbers. */
TEST(grid) {
    json_document *small = read_scan("small.json"), *all;
    const json *best = NULL;
    int n = 0, n_grid = 0, around = 0;
    RUN(SMALL "--grid 1 -o all.json --json", 0, "{\"programs\":100,\"questions\":4,\"held_out\":2,\"winners\":");
    all = read_scan("all.json");
    for (const json *p = programs_of(small); p; p = p->next, n++) {
        int start = 0, end = 0;
        CHECK(score_of(p, "score") == score_of(find_program(all, json_get_text(p, "program")), "score"));
        if (n && (!json_int(json_get(p, "start"), &start) || !json_int(json_get(p, "end"), &end))) CHECK(0);
        if (n < 13) { /* the identity, and 4 blocks three times: skipped, repeated, damped */
            CHECK(!n || (start % 3 == 0 && end == start + 2));
            if (n && (!best || score_of(p, "score") > score_of(best, "score"))) best = p;
            n_grid++;
        } else {
            int s = -9, e = -9;
            json_int(json_get(best, "start"), &s);
            json_int(json_get(best, "end"), &e);
            CHECK(abs(start - s) < 3 && abs(end - e) < 3 && end - start < 3);
            CHECK(!strcmp(json_get_text(p, "operation"), json_get_text(best, "operation")));
            around++;
        }
    }
    CHECK(n_grid == 13 && around > 5);
    json_free(small);
    json_free(all);
}

/* Layers 2-5 twice, which the model was trained for, on stories that it finds hard. */
TEST(finds_the_trained_block) {
    const json *held_out;
    json_document *d;
    RUN(LONG "long.jsonl --held-out longer.jsonl --winners 2 -o long.json", 0, "2-5x2            16 ");
    d = read_scan("long.json");
    held_out = json_get(find_program(d, "2-5x2"), "held_out");
    CHECK(held_out && json_get(held_out->child, "confirmed")->type == JSON_TRUE);
    json_free(d);
}

/* References dealt to other questions, in a form in which the model never answers: programs that are less sure make
 * them far likelier, on held-out questions too, and none is confirmed. */
TEST(dealt_references) {
    json_document *d;
    int n = 0, tempting = 0;
    RUN(LONG "dealt.jsonl --held-out dealt2.jsonl --winners 3 -o dealt.json --answer plain", 0, "not confirmed");
    d = read_scan("dealt.json");
    for (const json *p = programs_of(d); p; p = p->next) {
        const json *v = json_get(p, "held_out") ? json_get(p, "held_out")->child : NULL;
        if (!v) continue;
        n++;
        tempting += json_get(v, "difference_interval")->child->number > 0;
        CHECK(json_get(v, "confirmed")->type == JSON_FALSE);
    }
    CHECK(n > 0 && tempting > 0);
    json_free(d);
}

/* --- the same bytes ------------------------------------------------------------------------------------------- */

TEST(same_bytes) {
    size_t n = 0;
    uint64_t seed = 1;
    char *journal;
    RUN(SMALL "-t 1 --cache-mb 1 -o one.json", 0, "");
    CHECK(same_files("one.json", "small.json"));
    RUN(SMALL "-o one.json", 0, "one.json is complete already");
    /* a whole journal: a directory has the name of the output; then cut anywhere */
    CHECK(!mkdir(there("cut.json"), 0777) && run(SMALL "-o cut.json") == 1 && !rmdir(there("cut.json")));
    journal = read_back("cut.json.journal", &n);
    CHECK(journal != NULL);
    for (int i = 0; i < 3 && journal; i++) {
        write_file("cut.json.journal", journal, i ? (size_t)(rng_next(&seed) % n) : n);
        RUN(SMALL "-t 1 -o cut.json", 0, "");
        CHECK(same_files("cut.json", "small.json") && !exists("cut.json.journal"));
        remove(there("cut.json"));
    }
    if (journal) write_file("cut.json.journal", journal, n);
    RUN(SMALL "-o cut.json --seed 1", 1,
        "cut.json.journal belongs to another run: settings.seed is 0 there and 1 here");
    RUN(SMALL "-o cut.json --limit 3", 1, "belongs to another run: ");
    if (journal) { /* the records of the first stage left out */
        const char *first = strstr(journal, "\"record\":{\"stage\":0,\"index\":0"), *line = strchr(journal, '\n') + 1;
        const char *end = first ? strchr(first, '\n') + 1 : line;
        memmove(journal + (line - journal), end, n - (size_t)(end - journal));
        write_file("cut.json.journal", journal, n - (size_t)(end - line));
    }
    RUN(SMALL "-o cut.json", 1, "cut.json.journal: a record comes before its turn");
    free(journal);
}

TEST(interrupt) {
    const intptr_t process = start(LONG "long.jsonl -t 1 -o int.json 2>said");
    int status;
    while (size_there("int.json.journal") <= 0 && !exists("int.json")) wait_a_little();
    status = finish(process, SIGINT);
    if (!status) SKIP("the run was over before it could be interrupted");
    else if (!INTERRUPTS) SKIP("programs are ended, not interrupted");
    else CHECK(status == 1 && count_in("said", "polar scan: interrupted after ") == 1 && !exists("int.json"));
}

/* --- several files, mistakes, the page -------------------------------------------------------------------------- */

TEST(files) {
    const char *two = "polar scan -m " MODEL " third.jsonl long.jsonl --grid 6 --max-length 6 --around 0 --damped 0 ";
    char command[400];
    json_document *d;
    snprintf(command, sizeof command, "%s -o two.json", two);
    RUN(command, 0, "  long.jsonl");
    d = read_scan("two.json");
    for (const json *p = programs_of(d); p; p = p->next) { /* by definition */
        int beaten = 0, layers = 0, other = 0;
        CHECK(json_get(p, "score")->length == 2 && json_int(json_get(p, "layers"), &layers));
        for (const json *q = programs_of(d); q; q = q->next) {
            const json *a = json_get(p, "score")->child, *b = json_get(q, "score")->child;
            json_int(json_get(q, "layers"), &other);
            beaten |= b->number >= a->number && b->next->number >= a->next->number && other <= layers &&
                      (b->number > a->number || b->next->number > a->next->number || other < layers);
        }
        CHECK(!beaten == (json_get(p, "pareto") != NULL));
    }
    json_free(d);
    snprintf(command, sizeof command, "%s -o three.json --held-out other.jsonl", two);
    RUN(command, 2, "--held-out goes with one file");
    RUN("polar report two.json -o two.html", 0, "");
    CHECK(count_in("two.html", "<svg class=\"plot\"") == 4 && count_in("two.html", "<h3>long.jsonl</h3>") == 1);
}

TEST(page) {
    RUN("polar report small.json -o small.html", 0, "");
    check_page("small.html");
    CHECK(count_in("small.html", ">11</text>") == 6 && count_in("small.html", ">last layer</text>") == 3);
    CHECK(count_in("small.html", "<svg class=\"plot\"") == 3 && count_in("small.html", "In 2 damped passes.") == 1);
    CHECK(count_in("small.html", "<title>3-5x0: ") == 1 && count_in("small.html", "nan") == 0);
    CHECK(count_in("small.html", "<title>") == count_in("small.json", "\"start\":") + 1);
    replace_text("small.json", "broken.json", "\"end\":", "\"bend\":");
    RUN("polar report broken.json -o x.html", 1, "broken.json:4: this is no program of a scan");
    replace_text("small.json", "broken.json", "\"n_layer\":12", "\"n_layer\":0");
    RUN("polar report broken.json -o x.html", 1, "broken.json: the header is not that of a scan");
    CHECK(!exists("x.html"));
    /* no other command takes it for its own */
    RUN("polar merge small.json -o x.json", 1, "small.json");
    CHECK(!exists("x.json"));
}

TEST(mistakes) {
    char line[1400] = "{\"question\":\"What?\",\"answer\":\"";
    RUN("polar scan -m " MODEL " small.jsonl", 2, "no output");
    RUN("polar scan -m " MODEL " -o x.json", 2, "an argument is missing");
    RUN(SMALL "-o x.json --score luck", 2, "--score luck: expected likelihood or accuracy");
    RUN(SMALL "-o x.json --answer x", 2, "--answer x: expected auto, plain or boxed");
    RUN(SMALL "-o x.json --max-times 6", 2, "--max-times 6: expected 1..5");
    RUN(SMALL "-o x.json --damped 1", 2, "--damped 1: expected 0 or 2..5");
    RUN(SMALL "-o x.json --winners 0", 2, "--winners 0: expected 1..100");
    RUN(SMALL "-o small.jsonl", 2, "small.jsonl and small.jsonl are the same file");
    RUN(SMALL "-o other.jsonl", 2, "other.jsonl and other.jsonl are the same file");
    RUN(SMALL "-o long.jsonl", 1, "long.jsonl exists and is other JSON, not a scan");
    RUN("polar search -m " MODEL " small.jsonl --simulations 0 -n 4 -o found.json", 0, "");
    RUN(SMALL "-o found.json", 1, "found.json exists and is results of a search, not a scan");
    RUN("polar search -m " MODEL " small.jsonl -o small.json", 1, "small.json exists and is a scan, not results");
    RUN(SMALL "-o small.json --seed 2", 1, "small.json exists and belongs to another run: settings.seed is 0");
    RUN("polar scan -m " MODEL " small.jsonl --held-out small.jsonl -o x.json", 1,
        "4 of 4 questions are in small.jsonl");
    copy_file("small.jsonl", "again.jsonl"); /* a question of two files would choose programs and be held out */
    RUN("polar scan -m " MODEL " small.jsonl again.jsonl --grid 6 --around 0 --damped 0 -o x.json", 1,
        "again.jsonl: 4 of 4 questions are in small.jsonl and left out");
    RUN("polar scan -m " MODEL " small.jsonl --limit 3 -o x.json", 1, "small.jsonl: 3 questions: at least 2 to scan");
    replace_text("small.jsonl", "one.jsonl", "\"answer\":\"", "\"answer\":\"7\",\"was\":\"");
    RUN("polar scan -m " MODEL " one.jsonl -o x.json", 1, "references of a half are \"7\": nothing to compare with");
    memset(line + strlen(line), 'a', 1200);
    strcat(line, "\"}\n");
    write_text("wide.jsonl", line);
    RUN("polar scan -m " MODEL " wide.jsonl -o x.json", 1, "wide.jsonl:1: the reference has 1200 bytes");
    CHECK(!exists("x.json") && !exists("x.json.journal"));
}

#define T(name) {#name, test_##name}
static const test_case tests[] = {T(sessions), T(accuracy), T(grid), T(finds_the_trained_block), T(dealt_references),
                                  T(same_bytes), T(interrupt), T(files), T(page), T(mistakes)};

int main(int argc, char **argv) {
    prepare();
    return test_main(tests, (int)(sizeof tests / sizeof *tests), argc, argv) || test_failures;
}
