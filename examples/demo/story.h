/* The demo's questions: short stories in which something changes step by step, and is asked for at the end.
 *
 * Four tasks: the cup that hides a thing while cups are swapped, the person who holds a thing while people swap,
 * the floor of a lift that stops at the ends, the hour of a clock that is turned. A story can be asked after each
 * of its steps, which the trainer uses. Everything is drawn from a seed. */
#ifndef STORY_H
#define STORY_H
#include <stddef.h>
#include <stdint.h>

/* How the model is asked, and how it answers: "\boxed{7}". */
#define STORY_PROMPT "{question}\n"
#define STORY_BOX "\\boxed{"

enum { STORY_TASKS = 4, STORY_MAX_STEPS = 48, STORY_ANSWER = 12 };
extern const char *const story_task_names[STORY_TASKS]; /* "cups", "holder", "lift", "clock" */
extern const int story_weights[STORY_TASKS];            /* tenths of the questions of a set */
extern const int story_max_steps[STORY_TASKS];          /* of the sets that are not out of distribution */

/* What is unlike the training questions. */
typedef enum story_kind { STORY_NORMAL, STORY_OOD_WORDING, STORY_OOD_WORDS, STORY_KINDS } story_kind;

typedef struct story {
    int task, n_steps;
    char head[320];                                  /* the opening */
    char step[STORY_MAX_STEPS][80];                  /* what happens, each with its space or comma in front */
    char tail[120];                                  /* what ends a question, after any step */
    char answer[STORY_MAX_STEPS + 1][STORY_ANSWER];  /* answer[k]: after k steps */
} story;

/* splitmix64, and a number below n. */
uint64_t story_random(uint64_t *state);
int story_below(uint64_t *state, int n);

void story_make(story *s, int task, int n_steps, story_kind kind, uint64_t *state);
/* Writes the question after k steps; returns its length. */
size_t story_text(const story *s, int k, char *text, size_t size);

/* Which questions are for what, by a checksum of the letters and digits in them: no question, however it is spaced
 * or capitalized, is in two sets. */
typedef enum story_set { STORY_MODEL, STORY_TRAIN, STORY_VALIDATION, STORY_TEST, STORY_SETS } story_set;
story_set story_set_of(const story *s, int k);
uint64_t story_checksum(const char *question);
#endif
