/* The released search: its random numbers, and its steps on planted rewards, against values of the release
 * (tianyi-lab/PoLar, mcts_discovery/run_mcts.py at c86d76e, run under CPython with the reward replaced).
 * tests/vectors/released_search.jsonl holds 8 of the 20 runs of oracle/released_search.jsonl: those of D 2, 4 and 6, and
 * one of D 24. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "../examples/cli/released.c"
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

static const test_case tests[] = {
    {"random_numbers", test_random_numbers},
    {"rule", test_rule},
    {"bounds", test_bounds},
    {"replay", test_replay},
};

int main(int argc, char **argv) {
    return test_main(tests, (int)(sizeof tests / sizeof *tests), argc, argv);
}
