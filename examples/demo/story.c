/* Stories: see story.h. */
#include "story.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

const char *const story_task_names[STORY_TASKS] = {"cups", "holder", "lift", "clock"};
const int story_weights[STORY_TASKS] = {4, 3, 2, 1};
const int story_max_steps[STORY_TASKS] = {16, 14, 24, 12};

/* --- wording -------------------------------------------------------------------------------------------- */

/* In a template {s} is where things stand at the start, {t} a thing, {p} somebody, {a} {b} what is swapped, {k} by how
 * much, {d} in which direction, {D} the same as the first word of a sentence. */
typedef struct frame {
    const char *head, *tail;
} frame;

/* `first` is the first step, `next` each later one, `end` ends the sentence. */
typedef struct wording {
    const char *first, *next, *end;
} wording;

enum { FRAMES = 7, OOD_FRAMES = 3, WORDINGS = 5, OOD_WORDINGS = 2 };

/* The last OOD_FRAMES and OOD_WORDINGS of each list are never trained on. */
static const frame frames[STORY_TASKS][FRAMES + OOD_FRAMES] = {
    {{"Which cup hides the {t} at the end? It starts under cup {s}.", ""},
     {"A {t} is under cup {s} of eight. Follow it.", ""},
     {"{p} hides a {t} under cup {s}. Which cup is it under at the end?", ""},
     {"There are eight cups, and the {t} is under cup {s}.", " Where is the {t}?"},
     {"Find the {t}. At first it is under cup {s}.", ""},
     {"Eight cups stand in a row, with a {t} under cup {s}.", " Which cup hides it?"},
     {"Say where the {t} ends up. It is put under cup {s}.", ""},
     {"Keep an eye on the {t}: it begins under cup {s}, and there are eight cups.", ""},
     {"Under cup {s} lies a {t}. Seven cups are empty.", " Under which one is it now?"},
     {"{p} plays with eight cups and places a {t} below cup {s}. Guess its place at the end.", ""}},
    {{"Who has the {t} at the end? At first {s} has it.", ""},
     {"{s} has the {t}. Follow it.", ""},
     {"Six friends play a game. {s} gets the {t}. Who ends up with it?", ""},
     {"Friends swap what they hold, and {s} has the {t}.", " Who has the {t}?"},
     {"Find the {t}. It starts with {s}.", ""},
     {"{p} gives a {t} to {s}.", " Who has it now?"},
     {"Say who gets the {t}. At first it is with {s}.", ""},
     {"Keep an eye on the {t}: it begins in the hands of {s}.", ""},
     {"In a game of six friends {s} holds a {t}.", " In whose hands is it now?"},
     {"{p} hands the {t} to {s}, and then things change hands. Name the last holder.", ""}},
    {{"Which floor is the lift on at the end? It starts at {s}, and stops at 0 and 9.", ""},
     {"A lift is on floor {s} of a house with floors 0 to 9. Follow it.", ""},
     {"{p} takes a lift on floor {s}. It stops at floors 0 and 9. Where does it end up?", ""},
     {"There are floors 0 to 9, and the lift is on floor {s}.", " Which floor is it on?"},
     {"Find the lift. At first it is on floor {s} of 0 to 9.", ""},
     {"A lift with floors 0 to 9 is at {s}.", " Where is it now?"},
     {"Say where the lift ends up. It stops at 0 and 9, and starts at {s}.", ""},
     {"Keep an eye on the lift: it begins on floor {s}, between floor 0 and floor 9.", ""},
     {"Floor 0 is the lowest and floor 9 the highest. A lift waits on floor {s}.", " On which one is it now?"},
     {"{p} plays in a lift that begins on floor {s} and stops at 0 and 9. Guess its place at the end.", ""}},
    {{"What does the clock show at the end? It starts at {s}.", ""},
     {"A clock shows {s}. Follow it.", ""},
     {"{p} turns a clock that shows {s}. Which hour is it at the end?", ""},
     {"There is a clock, and it is at {s}.", " Which hour does it show?"},
     {"Find the hour. At first the clock is at {s}.", ""},
     {"A clock with twelve hours shows {s}.", " What does it show now?"},
     {"Say what the clock ends up at. It starts at {s}.", ""},
     {"Keep an eye on the clock: it begins at {s}.", ""},
     {"Twelve hours are on a clock, which is now at {s}.", " At which one is it now?"},
     {"{p} plays with a clock that begins at {s}. Guess its hour at the end.", ""}}};

/* All have four tokens a step (", 3 with 5"), which makes them quicker to learn, but for one that was never seen. */
static const wording wordings[STORY_TASKS][WORDINGS + OOD_WORDINGS] = {
    {{" {p} swaps {a} with {b}", ", {a} with {b}", "."},
     {" The swaps are {a} and {b}", ", {a} and {b}", "."},
     {" {p} trades {a} for {b}", ", {a} for {b}", "."},
     {" Swap {a} with {b}", "; {a} with {b}", "."},
     {" The pairs {a} and {b}", "; {a} and {b}", " swap."},
     {" Exchange: {a}/{b}", "; {a}/{b}", "."},
     {" First {a} changes with {b}", ", next {a} with {b}", "."}},
    {{" {p} sees {a} swap with {b}", ", {a} with {b}", "."},
     {" The swaps are {a} and {b}", ", {a} and {b}", "."},
     {" {p} trades {a} for {b}", ", {a} for {b}", "."},
     {" Places change: {a} with {b}", "; {a} with {b}", "."},
     {" The pairs {a} and {b}", "; {a} and {b}", " swap."},
     {" Exchange: {a}/{b}", "; {a}/{b}", "."},
     {" First {a} changes with {b}", ", next {a} with {b}", "."}},
    {{" It goes {d} by {k}", ", {d} by {k}", "."},
     {" {p} rides {d} another {k}", ", {d} another {k}", "."},
     {" First {d} {k}", ", then {d} {k}", "."},
     {" It moves {d} by {k}", "; {d} by {k}", "."},
     {" Ride {d} {k}", "; then {d} {k}", "."},
     {" Moves: {d}/{k}", "; {d}/{k}", "."},
     {" First it rides {k} {d}", ", next {k} {d}", "."}},
    {{" It goes {d} by {k}", ", {d} by {k}", "."},
     {" {p} turns it {d} another {k}", ", {d} another {k}", "."},
     {" First {d} {k}", ", then {d} {k}", "."},
     {" It moves {d} by {k}", "; {d} by {k}", "."},
     {" Turn {d} {k}", "; then {d} {k}", "."},
     {" Moves: {d}/{k}", "; {d}/{k}", "."},
     {" First it jumps {k} {d}", ", next {k} {d}", "."}}};

static const char *const things[] = {"ball", "coin", "ring", "key", "pearl", "card"};
static const char *const ood_things[] = {"marble", "stone", "nut", "button", "shell", "map"};
static const char *const people[] = {"Tom", "Sue", "Max"};
static const char *const ood_people[] = {"Zoe", "Viktor", "A juggler"};
static const char *const names[] = {"Ann", "Ben", "Carl", "Dora", "Eve", "Finn", "Gus", "Hana", "Ivan", "Jill"};
static const char *const directions[STORY_TASKS][2] = {{"", ""}, {"", ""}, {"down", "up"}, {"back", "forward"}};

enum { LABELS = 10, CUPS = 8, FRIENDS = 6, FLOORS = 10, HOURS = 12 };

/* --- drawing -------------------------------------------------------------------------------------------- */

uint64_t story_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

int story_below(uint64_t *state, int n) {
    return (int)((story_random(state) >> 32) * (uint64_t)n >> 32);
}

/* What a story puts in place of {s}, {t} and so on in its texts; {D} is {d} with a capital letter. */
typedef struct values {
    const char *s, *t, *p, *a, *b, *k;
    const char *d;
} values;

static size_t append(char *out, size_t size, size_t n, const char *text, int capital) {
    const size_t from = n;
    while (*text && n + 1 < size) out[n++] = *text++;
    if (capital && n > from) out[from] = (char)toupper((unsigned char)out[from]);
    return n;
}

static void fill(char *out, size_t size, const char *template, const values *v) {
    size_t n = 0;
    for (const char *p = template; *p && n + 1 < size; p++) {
        if (*p != '{') {
            out[n++] = *p;
            continue;
        }
        switch (p[1]) {
        case 's': n = append(out, size, n, v->s, 0); break;
        case 't': n = append(out, size, n, v->t, 0); break;
        case 'p': n = append(out, size, n, v->p, 0); break;
        case 'a': n = append(out, size, n, v->a, 0); break;
        case 'b': n = append(out, size, n, v->b, 0); break;
        case 'k': n = append(out, size, n, v->k, 0); break;
        case 'd': n = append(out, size, n, v->d, 0); break;
        case 'D': n = append(out, size, n, v->d, 1); break;
        }
        p += 2;
    }
    out[n] = 0;
}

/* --- stories -------------------------------------------------------------------------------------------- */

/* What a story is about: `state` is the label of now. */
typedef struct world {
    int task, n_labels, state;
    char labels[HOURS][STORY_ANSWER];
} world;

static void world_begin(world *w, int task, uint64_t *r) {
    static const int counts[STORY_TASKS] = {CUPS, FRIENDS, FLOORS, HOURS};
    int order[LABELS];
    w->task = task;
    w->n_labels = counts[task];
    for (int i = 0; i < LABELS; i++) {
        const int k = story_below(r, i + 1);
        order[i] = order[k];
        order[k] = i;
    }
    for (int i = 0; i < w->n_labels; i++) {
        if (task == 1) snprintf(w->labels[i], STORY_ANSWER, "%s", names[order[i]]);
        else snprintf(w->labels[i], STORY_ANSWER, "%d", task == 2 ? i : i + 1);
    }
    w->state = story_below(r, w->n_labels);
}

/* Two labels change places; nearly half of the time one of them is the one that matters. */
static void step_swap(world *w, values *v, uint64_t *r) {
    const int n = w->n_labels, touched = story_below(r, 100) < 45;
    int a = touched ? w->state : story_below(r, n), b = a;
    while (!touched && a == w->state) b = a = story_below(r, n);
    while (b == a || (!touched && b == w->state)) b = story_below(r, n);
    if (touched) w->state = b;
    if (story_below(r, 2)) {
        const int c = a;
        a = b, b = c;
    }
    v->a = w->labels[a], v->b = w->labels[b];
}

/* A move by 1..3, of the lift at most to an end, of the clock around. */
static void step_move(world *w, values *v, char *number, uint64_t *r) {
    const int up = story_below(r, 2), k = 1 + story_below(r, 3), n = w->n_labels, to = w->state + (up ? k : -k);
    w->state = w->task == 3 ? (to + n) % n : to < 0 ? 0 : to >= n ? n - 1 : to;
    snprintf(number, STORY_ANSWER, "%d", k);
    v->d = directions[w->task][up];
    v->k = number;
}

#define PICK(list, r) list[story_below(r, (int)(sizeof list / sizeof *list))]

void story_make(story *s, int task, int n_steps, story_kind kind, uint64_t *r) {
    const int other = kind == STORY_OOD_WORDING;
    const frame *f = &frames[task][other ? FRAMES + story_below(r, OOD_FRAMES) : story_below(r, FRAMES)];
    const wording *w = &wordings[task][other ? WORDINGS + story_below(r, OOD_WORDINGS) : story_below(r, WORDINGS)];
    world now;
    char number[STORY_ANSWER];
    values v = {0};
    world_begin(&now, task, r);
    v.s = now.labels[now.state];
    v.t = kind == STORY_OOD_WORDS ? PICK(ood_things, r) : PICK(things, r);
    v.p = kind == STORY_OOD_WORDS ? PICK(ood_people, r) : PICK(people, r);
    s->task = task;
    s->n_steps = n_steps;
    fill(s->head, sizeof s->head, f->head, &v);
    memcpy(s->answer[0], v.s, strlen(v.s) + 1);
    for (int i = 0; i < n_steps; i++) {
        if (task < 2) step_swap(&now, &v, r);
        else step_move(&now, &v, number, r);
        fill(s->step[i], sizeof s->step[i], i ? w->next : w->first, &v);
        memcpy(s->answer[i + 1], now.labels[now.state], STORY_ANSWER);
    }
    v.a = v.b = v.d = v.k = "";
    fill(number, sizeof number, w->end, &v);
    fill(s->tail, sizeof s->tail, f->tail, &v);
    memmove(s->tail + strlen(number), s->tail, strlen(s->tail) + 1);
    memcpy(s->tail, number, strlen(number));
}

size_t story_text(const story *s, int k, char *text, size_t size) {
    size_t n = append(text, size, 0, s->head, 0);
    for (int i = 0; i < k; i++) n = append(text, size, n, s->step[i], 0);
    n = append(text, size, n, s->tail, 0);
    text[n] = 0;
    return n;
}

/* --- sets ----------------------------------------------------------------------------------------------- */

/* FNV-1a over letters and digits. */
static uint64_t checksum(uint64_t h, const char *text) {
    for (; *text; text++)
        if (isalnum((unsigned char)*text)) h = (h ^ (uint64_t)tolower((unsigned char)*text)) * 0x100000001B3u;
    return h;
}

uint64_t story_checksum(const char *question) {
    uint64_t h = checksum(0xCBF29CE484222325u, question);
    return story_random(&h);
}

story_set story_set_of(const story *s, int k) {
    uint64_t h = checksum(0xCBF29CE484222325u, s->head);
    for (int i = 0; i < k; i++) h = checksum(h, s->step[i]);
    h = checksum(h, s->tail);
    switch (story_random(&h) % 10) {
    case 7: return STORY_TRAIN;
    case 8: return STORY_VALIDATION;
    case 9: return STORY_TEST;
    default: return STORY_MODEL;
    }
}
