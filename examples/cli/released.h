/* The program search that the authors of PoLar released (`mcts_discovery/run_mcts.py`), replayed draw by draw: the same
 * paths in the same order for the same rewards. It is another rule than polar_search, which is the textbook's; what
 * follows from it is told in REPRODUCE.md. There is no model inside: the search proposes a path, the caller runs it and
 * reports 0 or 1.
 *
 *     s = released_create(28, 16, 32, 100, 42);
 *     while ((n = released_next(s, path)) > 0) released_report(s, is_correct(path, n));
 */
#ifndef RELEASED_H
#define RELEASED_H

#include <stddef.h>
#include <stdint.h>

#define RELEASED_MAX_LAYER 128 /* layers of a model; a layer occurs twice at most, so paths have up to 256 calls */
#define RELEASED_MAX_CALLS (2 * RELEASED_MAX_LAYER)

/* The random numbers of CPython: the Mersenne Twister MT19937, seeded by an integer >= 0. */
typedef struct released_rng {
    uint32_t state[624];
    int used; /* words of the state that were given out */
} released_rng;

void released_seed(released_rng *rng, uint64_t seed);
uint32_t released_word(released_rng *rng);
/* random.random(): two words, 53 bits, in [0, 1). */
double released_random(released_rng *rng);
/* The index that random.choice takes of a list of n >= 1: words are drawn until one, cut to the bits of n, is below n. */
int released_below(released_rng *rng, int n);

typedef struct released_search released_search;

/* A search over paths of min_calls..max_calls calls in a model of n_layer layers. NULL if a number is out of range or
 * memory is short. */
released_search *released_create(int n_layer, int min_calls, int max_calls, int n_simulations, uint64_t seed);
void released_free(released_search *search);

/* The bounds of length that the release uses for a model of so many layers: those of its four spaces, or 2/3 and 7/6 of
 * the layers, which is near them, for any other. Returns 1 if they are the release's own. */
int released_bounds(int n_layer, int *min_calls, int *max_calls);

/* The next path to run (room for RELEASED_MAX_CALLS), the identity first; returns its length. 0 at the end of the
 * simulations, -1 without memory. Simulations that evaluate nothing are passed over. */
int released_next(released_search *search, int *path);
/* The reward of the path that released_next gave, 0 or 1. */
void released_report(released_search *search, double reward);

/* A simulation that is over, 0 <= index < released_n_steps: the path that it evaluated, borrowed (NULL and n_path 0 if
 * none), the node from which it backed up a value, and that value, which is that of the latest evaluation. */
typedef struct released_step {
    const uint8_t *path;
    int n_path;
    int node;
    double reward;
} released_step;
int released_n_steps(const released_search *search);
released_step released_get_step(const released_search *search, int index);

/* The node whose path released_next gave, and a node of the tree: 0 is the identity, others have a smaller number's path
 * with one more edit. The path is borrowed, until the next call of released_next. */
typedef struct released_node {
    const uint8_t *path;
    int n_path;
    int parent; /* -1 of the identity */
    int visits; /* simulations that ended at it or below */
} released_node;
int released_current(const released_search *search);
released_node released_get_node(const released_search *search, int node);
/* The seed of a question by itself, from that of the run and its text. */
uint64_t released_question_seed(uint64_t seed, const char *text);

/* A path that was evaluated. */
typedef struct released_result {
    const uint8_t *path;
    int n_path;
    int simulation; /* that evaluated it; -1 the identity */
    double reward;
} released_result;
/* All of them in the order of the release's lists: nodes breadth first, then stably by reward, best first, and by length,
 * shortest first. So the valid paths come first. Returns their number, -1 without memory; *list is to be freed. */
int released_results(const released_search *search, released_result **list);

#endif
