/* Tests of examples/demo: the generator of questions, the trainer's gradients and its files. */
#define _POSIX_C_SOURCE 200809L
#define GEMM_F32 /* the products of the trainer in full precision */
#include "inside.h"
#if defined(__GNUC__) && !defined(__TINYC__) && !defined(_WIN32) /* the trainer needs vector types and POSIX */
#define TRAINER 1
#define main train_main
#include "../examples/demo/train_model.c"
#undef main
#include "../examples/demo/transformer.c"
#endif
#include "../examples/demo/story.c"
#undef PICK
#include "test.h"

/* A word of a story: a number, a name, a direction. */
static const char *next_word(const char **at, char *word, size_t size) {
    size_t n = 0;
    while (**at && !isalnum((unsigned char)**at)) ++*at;
    while (isalnum((unsigned char)**at) && n + 1 < size) word[n++] = *(*at)++;
    word[n] = 0;
    return n ? word : NULL;
}

static int is_label(const char *word) {
    for (int i = 0; i < LABELS; i++)
        if (!strcmp(word, names[i])) return 1;
    return isdigit((unsigned char)word[0]);
}

/* Solves a story anew from its texts: the labels in the steps, and the one that is true at the start. */
static void solve(const story *s, char *state) {
    const int up_is_longer = s->task == 3;
    strcpy(state, s->answer[0]);
    for (int k = 0; k < s->n_steps; k++) {
        const char *at = s->step[k];
        char word[32], found[2][32] = {"", ""};
        int n = 0, back = 0;
        while (next_word(&at, word, sizeof word)) {
            back |= !strcmp(word, "down") || !strcmp(word, "back") || !strcmp(word, "Down") || !strcmp(word, "Back");
            if (is_label(word) && n < 2) strcpy(found[n++], word);
        }
        if (s->task < 2) {
            CHECK(n == 2);
            if (!strcmp(state, found[0])) strcpy(state, found[1]);
            else if (!strcmp(state, found[1])) strcpy(state, found[0]);
        } else {
            int x = atoi(state) + (back ? -1 : 1) * atoi(found[0]);
            CHECK(n == 1);
            x = up_is_longer ? (x + 11) % 12 + 1 : x < 0 ? 0 : x > 9 ? 9 : x;
            snprintf(state, 16, "%d", x);
        }
    }
}

TEST(answers) {
    uint64_t state = 1;
    for (int i = 0; i < test_repeat(4000); i++) {
        story s;
        char found[32];
        story_make(&s, i % STORY_TASKS, 1 + i % 20, (story_kind)(i / 7 % STORY_KINDS), &state);
        CHECK(strstr(s.head, s.answer[0]) != NULL);
        solve(&s, found);
        CHECK_STR(found, s.answer[s.n_steps]);
    }
}

TEST(same_seed_same_story) {
    uint64_t a = 5, b = 5;
    story s, t;
    char text[4096], other[4096];
    for (int i = 0; i < 50; i++) {
        story_make(&s, i % STORY_TASKS, 6, STORY_NORMAL, &a);
        story_make(&t, i % STORY_TASKS, 6, STORY_NORMAL, &b);
        story_text(&s, 6, text, sizeof text);
        story_text(&t, 6, other, sizeof other);
        CHECK_STR(text, other);
        CHECK(!strpbrk(text, "\"\\{}"));
    }
}

/* A question is in one set, and spaces, signs and capitals do not move it to another. */
TEST(sets) {
    uint64_t state = 9;
    int counts[STORY_SETS] = {0};
    for (int i = 0; i < 4000; i++) {
        story s, t;
        story_make(&s, i % STORY_TASKS, 1 + i % 9, STORY_NORMAL, &state);
        t = s;
        for (char *c = t.head; *c; c++) *c = (char)toupper((unsigned char)*c);
        CHECK(story_set_of(&s, s.n_steps) == story_set_of(&t, s.n_steps));
        counts[story_set_of(&s, s.n_steps)]++;
    }
    CHECK(counts[STORY_MODEL] > 2600 && counts[STORY_MODEL] < 3000);
    CHECK(counts[STORY_TRAIN] > 300 && counts[STORY_VALIDATION] > 300 && counts[STORY_TEST] > 300);
}

#ifdef TRAINER
/* The vocabulary of the bundled model, and a small transformer: gradients against differences, the logits of the
 * file it writes against polar's. */
TEST(training) {
    char *arguments[] = {"train_model", "-v", "examples/demo/demo-model.gguf", "-o", "build/test_demo.gguf", "--check",
                         "--layers", "7", "--width", "32", "--ff", "32"};
    if (getenv("POLAR_TEST_QUICK")) {
        SKIP("the check of gradients takes minutes under an emulator");
        return;
    }
    CHECK(train_main(sizeof arguments / sizeof *arguments, arguments) == 0);
    remove("build/test_demo.gguf");
}

/* Pieces of a story have the tokens that the whole has, so what is trained is what runs. */
TEST(pieces) {
    lexicon v;
    uint64_t state = 2;
    CHECK(open_text(&v, "examples/demo/demo-model.gguf"));
    for (int i = 0; i < 200; i++) {
        story s;
        char whole[4096];
        int pieces[2048], tokens[2048], n = 0;
        int count;
        story_make(&s, i % STORY_TASKS, 1 + i % 12, (story_kind)(i / 7 % STORY_KINDS), &state);
        n += tokenize(&v, s.head, pieces);
        for (int k = 0; k < s.n_steps; k++) n += tokenize(&v, s.step[k], pieces + n);
        n += tokenize(&v, s.tail, pieces + n);
        n += tokenize(&v, "\n", pieces + n);
        strcpy(whole + story_text(&s, s.n_steps, whole, sizeof whole - 2), "\n");
        CHECK(polar_tokenize(v.vocabulary, whole, strlen(whole), 0, tokens, 2048, &count, NULL) == POLAR_OK);
        CHECK(count == n);
        CHECK_BITS(pieces, tokens, (size_t)n);
    }
    polar_gguf_close(v.file);
    polar_model_close(v.vocabulary);
}
#else
TEST(training) {
    SKIP("this compiler has no vector types");
}
TEST(pieces) {
}
#endif

static const test_case tests[] = {{"answers", test_answers}, {"same_seed_same_story", test_same_seed_same_story},
                                  {"sets", test_sets}, {"training", test_training}, {"pieces", test_pieces}};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
