/* The demo's question sets, one JSON object a line.
 *
 *     cc -I. -Iexamples/demo examples/demo/questions.c examples/demo/story.c -o questions
 *     questions SET N [SEED]        SET: train validation test ood-wording ood-words ood-steps
 *
 * prints N questions:
 *     {"question":"Find the ball. ...","answer":"3","task":"cups","steps":7}
 * The same arguments give the same lines. No question is in two sets or in what the model was trained on; the first
 * three sets are alike. The others have wordings, words or numbers of steps that no model was trained on. */
#include "story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct question_set {
    const char *name;
    story_set set;
    story_kind kind;
    int longer; /* more steps than in the other sets */
} question_set;

static const question_set sets[] = {{"train", STORY_TRAIN, STORY_NORMAL, 0},
                                    {"validation", STORY_VALIDATION, STORY_NORMAL, 0},
                                    {"test", STORY_TEST, STORY_NORMAL, 0},
                                    {"ood-wording", STORY_TEST, STORY_OOD_WORDING, 0},
                                    {"ood-words", STORY_TEST, STORY_OOD_WORDS, 0},
                                    {"ood-steps", STORY_TEST, STORY_NORMAL, 1}};

enum { N_SETS = sizeof sets / sizeof *sets };

/* Checksums of the questions written so far, in a table with linear probing. Returns 0 if x was there. */
static int add_new(uint64_t *table, size_t mask, uint64_t x) {
    size_t i = (size_t)x & mask;
    while (table[i] && table[i] != x) i = (i + 1) & mask;
    if (table[i] == x) return 0;
    table[i] = x;
    return 1;
}

/* A story whose question after all of its steps belongs to the set. */
static void draw(const question_set *q, story *s, uint64_t *state) {
    do {
        int task = 0, tenth = story_below(state, 10);
        while (tenth >= story_weights[task]) tenth -= story_weights[task++];
        const int most = story_max_steps[task];
        const int steps = q->longer ? most + 1 + story_below(state, most / 2) : 1 + story_below(state, most);
        story_make(s, task, steps, q->kind, state);
    } while (story_set_of(s, s->n_steps) != q->set);
}

int main(int argc, char **argv) {
    static story s;
    static char text[8192];
    const question_set *q = NULL;
    const int n = argc > 2 ? atoi(argv[2]) : 0;
    uint64_t state = argc > 3 ? strtoull(argv[3], NULL, 10) : 1, *table;
    size_t mask = 1023;
    for (int i = 0; argc > 1 && i < N_SETS; i++)
        if (!strcmp(argv[1], sets[i].name)) q = &sets[i];
    if (!q || n <= 0 || n > 10000000) {
        fprintf(stderr, "usage: questions SET N [SEED]\nsets:");
        for (int i = 0; i < N_SETS; i++) fprintf(stderr, " %s", sets[i].name);
        fprintf(stderr, "\n");
        return 2;
    }
    while (mask < 2 * (size_t)n) mask = 2 * mask + 1;
    if (!(table = calloc(mask + 1, sizeof *table))) return 1;
    state = state * N_SETS + (uint64_t)(q - sets);
    for (int i = 0; i < n;) {
        draw(q, &s, &state);
        story_text(&s, s.n_steps, text, sizeof text); /* no quote and no backslash is in it */
        if (!add_new(table, mask, story_checksum(text))) continue;
        printf("{\"question\":\"%s\",\"answer\":\"%s\",\"task\":\"%s\",\"steps\":%d}\n", text, s.answer[s.n_steps],
               story_task_names[s.task], s.n_steps);
        i++;
    }
    free(table);
    return fflush(stdout) || ferror(stdout) ? 1 : 0;
}
