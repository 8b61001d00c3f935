/* The released search: its random numbers, and its steps on planted rewards, against values of the release
 * (tianyi-lab/PoLar, mcts_discovery/run_mcts.py at c86d76e, run under CPython with the reward replaced).
 * tests/vectors/released_search.jsonl holds 8 of the 20 runs of oracle/released_search.jsonl: those of D 2, 4 and 6, and
 * one of D 24. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "../examples/cli/released.c"
#include "../examples/cli/json.c"
#include "polar.h"
#include "test.h"
#include "command.h"

TEST(random_numbers) {
    static const struct {
        uint64_t seed;
        uint32_t words[3], thousandth;
        double first;
        int below[8];
    } known[] = {
        {0, {3626764237u, 1654615998u, 3255389356u}, 2971151651u, 0x1.b0580f98a7dbep-1, {6, 6, 0, 4, 8, 7, 6, 4}},
        {1, {577090037u, 2444712010u, 3639700191u}, 1877627338u, 0x1.132d8f91b7584p-3, {2, 9, 1, 4, 1, 7, 7, 7}},
        {42, {2746317213u, 478163327u, 107420369u}, 4212168831u, 0x1.4762f307200c5p-1, {1, 0, 4, 3, 3, 2, 1, 8}},
        {4294967297u, {991850117u, 2151679444u, 2200792185u}, 667863494u, 0x1.d8f374804005cp-3,
         {3, 8, 8, 6, 1, 4, 9, 3}}};
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        released_rng rng;
        uint32_t word = 0;
        released_seed(&rng, known[k].seed);
        for (int i = 0; i < 1000; i++) {
            word = released_word(&rng);
            if (i < 3) CHECK(word == known[k].words[i]);
        }
        CHECK(word == known[k].thousandth);
        released_seed(&rng, known[k].seed);
        CHECK(released_random(&rng) == known[k].first);
        released_seed(&rng, known[k].seed);
        for (int i = 0; i < 8; i++) CHECK(released_below(&rng, 10) == known[k].below[i]);
    }
}

/* What holds of any search of the release, whatever the rewards. */
TEST(rule) {
    for (uint64_t seed = 1; seed < 20; seed++) {
        released_search *s = released_create(12, 7, 14, 60, seed);
        released_result *list = NULL;
        int path[RELEASED_MAX_CALLS], n, n_run = 0, n_list;
        uint64_t rng = seed;
        CHECK(s != NULL);
        while ((n = released_next(s, path)) > 0) {
            int again[RELEASED_MAX_CALLS], count[12] = {0};
            CHECK(n_run == 0 ? n == 12 : n >= 7 && n <= 14);
            for (int i = 0; i < n; i++) CHECK(++count[path[i]] <= 2);
            CHECK(released_next(s, again) == n && !memcmp(again, path, (size_t)n * sizeof *path)); /* until reported */
            rng = rng * 6364136223846793005u + 1442695040888963407u;
            released_report(s, (double)(rng >> 63));
            n_run++;
        }
        CHECK(n == 0 && released_n_steps(s) == 60 && released_next(s, path) == 0);
        CHECK((n_list = released_results(s, &list)) == n_run);
        for (int i = 1; i < n_list; i++) {
            CHECK(list[i - 1].reward >= list[i].reward);
            CHECK(list[i - 1].reward > list[i].reward || list[i - 1].n_path <= list[i].n_path);
        }
        free(list);
        released_free(s);
    }
    CHECK(!released_create(0, 1, 2, 1, 1) && !released_create(4, 3, 2, 1, 1) && !released_create(4, 1, 300, 1, 1) &&
          !released_create(4, 1, 4, -1, 1) && !released_create(RELEASED_MAX_LAYER + 1, 1, 4, 1, 1));
}

TEST(bounds) {
    int low, high;
    CHECK(released_bounds(28, &low, &high) && low == 16 && high == 32);
    CHECK(!released_bounds(12, &low, &high) && low == 8 && high == 14);
}

/* The command writes the very lines of the release's run. */
TEST(replay) {
    static const char *const files[] = {"tests/vectors/released_search.jsonl", "oracle/released_search.jsonl"};
    for (int i = 0; i < 2; i++) {
        size_t n;
        char *lines = test_shared_text(files[i], &n);
        if (!lines) continue;
        write_file("lines", lines, n);
        RUN("polar search --rule released --planted lines >said", 0, "");
        CHECK(same_files("said", "lines"));
        free(lines);
    }
    RUN("polar search --rule released --planted nothing", 1, "nothing");
    RUN_ON("{\"D\":4}\n", "polar search --rule released --planted -", 1, "stdin:1: expected D, min");
    RUN("polar search --planted x", 2, "--planted goes with --rule released");
}

/* --- with a model: the bundled one, whose own prompt is asked for ------------------------------------------------ */

#define DEMO "examples/demo/demo-model.gguf"
#define SIMULATIONS 25

static const char *const stories[][2] = {
    {"Say where the pearl ends up. It is put under cup 7. Swap 8 with 4; 7 with 2; 2 with 5.", "5"},
    {"Dora has the key. Follow it. The pairs Finn and Dora; Finn and Ben swap.", "Ben"},
    {"A lift is on floor 5 of a house with floors 0 to 9. Follow it. It goes up by 3, up by 3.", "9"}};
enum { N_STORIES = sizeof stories / sizeof *stories };

/* Whether a path answers a question, by a session of its own with the shared cache. */
static int answers(const polar_model *model, int story, const int *path, int n) {
    polar_session_options so = {.n_ctx = 200, .kv_mode = POLAR_KV_SHARED, .max_calls = RELEASED_MAX_CALLS};
    polar_generate_options g = {.max_tokens = 50};
    polar_prompt prompt;
    polar_session *s = NULL;
    polar_result result;
    int32_t tokens[150];
    char text[2000] = "", *box = NULL;
    int n_tokens = 0;
    CHECK(!polar_prompt_find(model, NULL, NULL, &prompt, NULL));
    CHECK(!polar_prompt_tokenize(model, &prompt, stories[story][0], tokens, 150, &n_tokens, NULL) && n_tokens <= 150);
    CHECK(!polar_session_create(&s, model, NULL, &so, NULL) && !polar_session_set_path(s, path, n, NULL));
    CHECK(!polar_session_generate(s, tokens, n_tokens, &g, text, sizeof text, &result, NULL));
    polar_session_free(s);
    for (char *at = text; (at = strstr(at, "\\boxed{")); at++) box = at + 7;
    if (!box || !strchr(box, '}')) return 0;
    box[strcspn(box, "}")] = 0;
    return !strcmp(box, stories[story][1]);
}

static int is_path(const json *v, const uint8_t *path, int n) {
    int layer, i = 0;
    if (!v || v->type != JSON_ARRAY || v->length != (size_t)n) return 0;
    for (v = v->child; v && json_int(v, &layer) && layer == path[i]; v = v->next) i++;
    return i == n;
}

/* The lists of a sample are those of a finished search, in their order. */
static void check_lists(const json *sample, const released_search *s) {
    const json *valid = json_get(sample, "final_valid_transitions")->child,
               *invalid = json_get(sample, "final_invalid_transitions")->child;
    released_result *list;
    const int n = released_results(s, &list);
    for (int i = 0; i < n; i++) {
        const json **at = list[i].reward > 0 ? &valid : &invalid;
        CHECK(is_path(*at, list[i].path, list[i].n_path));
        *at = *at ? (*at)->next : NULL;
    }
    CHECK(!valid && !invalid);
    free(list);
}

/* Visits of each node, counted from the recorded simulations, are those of the search. */
static void check_log(const json *sample, const released_search *s) {
    int parents[200], visits[200] = {0}, n = 0, node = 0, value;
    const json *nodes = json_get(sample, "search_nodes"), *simulation = json_get(sample, "search_simulations");
    CHECK(nodes && nodes->length < 200 && simulation && simulation->length == SIMULATIONS);
    if (!nodes || nodes->length >= 200 || !simulation) return;
    for (const json *v = nodes->child; v; v = v->next) CHECK(json_int(v->child, &parents[n++]));
    simulation = simulation->child;
    for (int i = 0; simulation; simulation = simulation->next, i++) {
        CHECK(json_int(simulation->child, &node) && json_int(simulation->child->next, &value) && node < n);
        CHECK(value == (int)released_get_step(s, i).reward);
        for (; node >= 0; node = parents[node]) visits[node]++;
    }
    node = 0;
    for (const json *v = nodes->child; v; v = v->next, n--) {
        while (node < s->n_nodes && !released_get_node(s, node).visits) node++;
        CHECK(node < s->n_nodes && released_get_node(s, node).visits == visits[nodes->length - (size_t)n]);
        CHECK(is_path(v->child->next, path_of(s, node), s->nodes[node].n_path));
        node++;
    }
    while (node < s->n_nodes) CHECK(!released_get_node(s, node++).visits);
}

/* A sample of the command against a search of the test's own. Returns the number of paths that answer. */
static int check_sample(const polar_model *model, const json *sample, int story, uint64_t seed) {
    released_search *s = released_create(12, 8, 14, SIMULATIONS, seed);
    const json *trial = json_get(sample, "search_trajectory")->child;
    int path[RELEASED_MAX_CALLS], n, reward, n_right = 0;
    while ((n = released_next(s, path)) > 0) {
        const int right = answers(model, story, path, n);
        CHECK(trial && is_path(json_get(trial, "path"), path_of(s, s->current), n));
        CHECK(trial && json_int(json_get(trial, "reward"), &reward) && reward == right);
        if (s->current) {
            const tree_node *before = &s->nodes[s->nodes[s->current].parent];
            CHECK(trial && is_path(json_get(trial, "parent_path"), s->layers + before->path, before->n_path));
        }
        released_report(s, right);
        n_right += right;
        trial = trial ? trial->next : NULL;
    }
    CHECK(!trial);
    check_lists(sample, s);
    check_log(sample, s);
    released_free(s);
    return n_right;
}

TEST(model) {
    polar_model *model = NULL;
    char rows[800] = "", command[300];
    size_t n = 0;
    int n_right = 0;
    CHECK(!polar_model_open(&model, DEMO, NULL, NULL));
    for (int i = 0; i < N_STORIES; i++)
        n += (size_t)snprintf(rows + n, sizeof rows - n, "{\"question\":\"%s\",\"answer\":\"%s\"}\n", stories[i][0],
                              stories[i][1]);
    write_file("stories", rows, n);
    for (int own = 0; own < 2; own++) {
        json_document *d;
        const char *error;
        char *text;
        const json *sample;
        snprintf(command, sizeof command, "polar search -m %s stories -o found%d --rule released --prompt auto "
                 "--simulations %d --log-all%s", outside(DEMO), own, SIMULATIONS, own ? " --seed-per-question" : "");
        RUN(command, 0, "the release has no bounds for 12 layers: programs of 8 to 14 calls");
        text = read_back(own ? "found1" : "found0", &n);
        d = text ? json_read(text, n, &error, &n) : NULL;
        CHECK(d != NULL);
        sample = d ? json_get(json_root(d), "samples")->child : NULL;
        for (int i = 0; sample; sample = sample->next, i++)
            n_right += check_sample(model, sample, i, own ? released_question_seed(42, stories[i][0]) : 42);
        json_free(d);
        free(text);
    }
    CHECK(n_right > 20 && n_right < 2 * N_STORIES * SIMULATIONS - 20);
    polar_model_close(model);
}

/* What the rule sets, and what it refuses. */
TEST(settings) {
    char command[300];
    snprintf(command, sizeof command, "polar search -m %s stories -o - --rule released --simulations 1 --limit 1",
             outside(DEMO));
    RUN(command, 0, "### Problem End\\nAnswer:\",\"chat\":\"raw\",\"last_answer\":true,\"reward\":\"answer\"");
    CHECK(strstr(output, "\"kv\":\"shared\",\"rule\":\"released\",\"simulations\":1,\"min_calls\":8,\"max_calls\":14,"
                         "\"log_all\":0,\"one_seed\":1,\"seed\":42}"));
    CHECK(strstr(output, "\"prompt_text\":\"Solve the following math problem and output ONLY the final answer, "));
    CHECK(strstr(output, "the final answer directly, formatted"));
    RUN("polar search -m x stories -o - --rule released --c 2", 2, "are of the textbook rule");
    RUN("polar search -m x stories -o - --rule released --in-flight 2", 2, "one at a time");
    RUN("polar search -m x stories -o - --log-all", 2, "go with --rule released");
    RUN("polar search -m x stories -o - --one-seed --seed-per-question", 2, "exclude each other");
    snprintf(command, sizeof command, "polar search -m %s stories -o - --rule released --max-calls 253", outside(DEMO));
    RUN(command, 2, "8 to 253 calls");
}

TEST(presets) {
    char command[300];
    snprintf(command, sizeof command, "polar search -m %s stories -o - --preset polar-paper --simulations 1 "
             "--min-calls 6 --max-calls=15", outside(DEMO));
    RUN(command, 0, "polar search: --preset polar-paper: rule released, programs of 6 to 15 calls; 1 simulations; "
                    "seed 42, one for all questions; --kv shared; the published prompt, raw, graded behind the last "
                    "Answer:; at most 50");
    CHECK(strstr(output, "\"rule\":\"released\",\"simulations\":1,\"min_calls\":6,\"max_calls\":15,"));
    snprintf(command, sizeof command, "polar search -m %s stories -o - --preset polar-paper", outside(DEMO));
    RUN(command, 2, "the paper has models of 24, 28, 36 and 48 layers, this one has 12");
    snprintf(command, sizeof command, "polar search -m %s stories -o - --preset re-polar --simulations 1",
             outside(DEMO));
    RUN(command, 0, "--preset re-polar: rule textbook with edits of up to 4 layers, repeats up to 5 times, lambda 5, "
                    "c 1.41421, epsilon 0.1, alpha 2, beta 0.5, 1 in flight; 1 simulations; seed 0, each question its "
                    "own from it; --kv per-call; the published prompt with a worked example, raw; at most 50 tokens");
    CHECK(strstr(output, "Answer: \\\\boxed{2}"));
    RUN("polar search -m x stories -o - --preset re-polar --rule released", 2, "goes with its own --rule");
    RUN("polar search -m x stories -o - --preset polar", 2, "--preset");
}

/* What the summary says: four of the six valid programs have a form of skips and double executions in segments of at
 * most four layers; and of two questions that the identity gets wrong, where two of the six pairs have the same answer
 * (p = 1/3), one was tried with two more answers, one with none. */
TEST(summary) {
    static const char samples[] =
        "{\"samples\":[\n"
        "{\"question\":\"a\",\"gt_ans\":\"1\",\"final_valid_transitions\":[[0,1,2,3,4,5],[0,1,1,2,3,4,5],[5]],"
        "\"final_invalid_transitions\":[]},\n"
        "{\"question\":\"b\",\"gt_ans\":\"2\",\"final_valid_transitions\":[],"
        "\"final_invalid_transitions\":[[0,1,2,3,4,5]],"
        "\"search_trajectory\":[{\"path\":[0,1,2,3,4,5],\"reward\":0,\"answer\":\"1\"}]},\n"
        "{\"question\":\"c\",\"gt_ans\":\"1\",\"final_valid_transitions\":[[0,1,1,1,2,3,4,5],[0,1,2,1,2,1,2,3,4,5]],"
        "\"final_invalid_transitions\":[[0,1,2,3,4,5]],\"search_trajectory\":["
        "{\"path\":[0,1,2,3,4,5],\"reward\":0,\"answer\":\"7\"},{\"path\":[0],\"reward\":0,\"answer\":\"3\"},"
        "{\"path\":[1],\"reward\":0,\"answer\":\"7\"},{\"path\":[2],\"reward\":0,\"answer\":\"3\"},"
        "{\"path\":[3],\"reward\":0,\"answer\":\"\"},"
        "{\"path\":[0,1,1,1,2,3,4,5],\"reward\":1,\"answer\":\"1\"}]},\n"
        "{\"question\":\"d\",\"gt_ans\":\"2\",\"final_valid_transitions\":[[0,1,2,3,4,5]],"
        "\"final_invalid_transitions\":[]}]}\n";
    write_file("samples.json", samples, sizeof samples - 1);
    RUN("polar merge samples.json -o all.json", 0, "learnable        66.7 %   of 6 valid programs");
    CHECK(strstr(output, "luck             27.8 %")); /* (1 - (2/3)^2 + 0) / 2 */
    CHECK(strstr(output, "p = 0.333 that two") && strstr(output, "luck alone finds valid programs"));
    RUN("polar merge samples.json -o - --json", 0, "\"n_valid\":6,\"n_learnable\":4,\"luck\":0.27777");
}

/* Rows of DART-Math's pool, one for each response: of the first N of a level the first of each query_id. */
TEST(rows) {
    static const char rows[] =
        "{\"query\":\"A\",\"query_id\":1,\"gt_ans\":\"1\",\"query_metadata\":{\"level\":1}}\n"
        "{\"query\":\"B\",\"query_id\":2,\"gt_ans\":\"1\",\"query_metadata\":{\"level\":2}}\n"
        "{\"query\":\"A\",\"query_id\":1,\"gt_ans\":\"1\",\"query_metadata\":{\"level\":1}}\n"
        "{\"query\":\"C\",\"query_id\":3,\"gt_ans\":\"1\",\"query_metadata\":{\"level\":1}}\n"
        "{\"query\":\"D\",\"query_id\":4,\"gt_ans\":\"1\",\"query_metadata\":{}}\n"
        "{\"query\":\"A\",\"query_id\":5,\"gt_ans\":\"1\",\"query_metadata\":{\"level\":1}}\n";
    static const char *const runs[][3] = {
        {"--rule released", "6 rows, the first 4 of level 1 are of 3 questions", "0A 1C 2A"},
        {"--rule released --sample-size 3", "6 rows, the first 3 of level 1 are of 2 questions", "0A 1C"},
        {"--level 1 --range 1:2", "of 3 questions", "0C"},
        {"--level 0", "the first 1 of level 0 are of 1 questions", "0D"},
        {"--level 1 --limit 1", "of 3 questions", "0A"},
        {"--limit 3", "", "0A 1B 2A"}};
    char command[300];
    write_file("rows", rows, sizeof rows - 1);
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char found[40] = "";
        size_t n = 0;
        int index;
        char question;
        snprintf(command, sizeof command, "polar search -m %s rows -o - --simulations 0 %s", outside(DEMO), runs[i][0]);
        RUN(command, 0, runs[i][1]);
        for (const char *at = output; (at = strstr(at, "{\"index\":")); at++)
            if (sscanf(at, "{\"index\":%d,\"question\":\"%c", &index, &question) == 2)
                n += (size_t)snprintf(found + n, sizeof found - n, n ? " %d%c" : "%d%c", index, question);
        CHECK_STR(found, runs[i][2]);
    }
    /* paths with a query_id only: text and reference of the first row that has it, unless they have one of their own */
    write_text("paths", "{\"query_id\":3,\"final_valid_transitions\":[]}\n"
                        "{\"query_id\":\"4\",\"gt_ans\":\"17\"}\n{\"question\":\"own\",\"gt_ans\":2}\n");
    snprintf(command, sizeof command, "polar search -m %s paths -o - --simulations 0 --texts rows", outside(DEMO));
    RUN(command, 0, "\"index\":0,\"question\":\"C\",\"gt_ans\":\"1\"");
    CHECK(strstr(output, "\"index\":1,\"question\":\"D\",\"gt_ans\":\"17\""));
    CHECK(strstr(output, "\"index\":2,\"question\":\"own\",\"gt_ans\":\"2\""));
    write_text("paths", "{\"query_id\":3}\n{\"query_id\":9}\n");
    RUN(command, 1, "paths:2: no question, and no row of --texts has its query_id \"9\"");
    RUN("polar search -m x rows -o - --range 3:3", 2, "--range 3:3: expected A:B");
    RUN("polar search -m x rows -o - --range -1:3", 2, "expected A:B");
    snprintf(command, sizeof command, "polar search -m %s rows -o - --range 5:7", outside(DEMO));
    RUN(command, 1, "no questions 5 to 7 (the last one excluded): there are 6");
    snprintf(command, sizeof command, "polar search -m %s rows -o - --level 7", outside(DEMO));
    RUN(command, 1, "none of 6 rows has level 7");
}

static const test_case tests[] = {
    {"random_numbers", test_random_numbers},
    {"rule", test_rule},
    {"bounds", test_bounds},
    {"replay", test_replay},
    {"model", test_model},
    {"settings", test_settings},
    {"presets", test_presets},
    {"summary", test_summary},
    {"rows", test_rows},
};

int main(int argc, char **argv) {
    return test_main(tests, (int)(sizeof tests / sizeof *tests), argc, argv);
}
