/* The released search of PoLar, see released.h. */
#include "released.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BLOCK 4    /* layers of an edit of the identity */
#define EPSILON 0.1    /* probability of a random child on the way down */
#define LENGTH_PENALTY 5

/* --- random numbers ------------------------------------------------------------------------------------------- */

static uint32_t scramble(const uint32_t *s, int i, uint32_t factor) {
    return s[i] ^ ((s[i - 1] ^ s[i - 1] >> 30) * factor);
}

void released_seed(released_rng *rng, uint64_t seed) {
    uint32_t *s = rng->state;
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const int n_key = key[1] ? 2 : 1;
    int i = 1, j = 0;
    s[0] = 19650218;
    for (int k = 1; k < 624; k++) s[k] = 1812433253u * (s[k - 1] ^ s[k - 1] >> 30) + (uint32_t)k;
    for (int k = 0; k < 624; k++) {
        s[i] = scramble(s, i, 1664525u) + key[j] + (uint32_t)j;
        if (++i == 624) {
            s[0] = s[623];
            i = 1;
        }
        if (++j == n_key) j = 0;
    }
    for (int k = 0; k < 623; k++) {
        s[i] = scramble(s, i, 1566083941u) - (uint32_t)i;
        if (++i == 624) {
            s[0] = s[623];
            i = 1;
        }
    }
    s[0] = 0x80000000u;
    rng->used = 624;
}

uint32_t released_word(released_rng *rng) {
    uint32_t *s = rng->state, y;
    if (rng->used == 624) {
        for (int i = 0; i < 624; i++) {
            y = (s[i] & 0x80000000u) | (s[(i + 1) % 624] & 0x7fffffffu);
            s[i] = s[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        rng->used = 0;
    }
    y = s[rng->used++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

double released_random(released_rng *rng) {
    const uint32_t high = released_word(rng) >> 5, low = released_word(rng) >> 6;
    return ((double)high * 67108864.0 + (double)low) / 9007199254740992.0; /* (high 2^26 + low) / 2^53 */
}

int released_below(released_rng *rng, int n) {
    int bits = 0;
    uint32_t x;
    while (n >> bits) bits++;
    do x = released_word(rng) >> (32 - bits);
    while (x >= (uint32_t)n);
    return (int)x;
}

/* --- the tree ------------------------------------------------------------------------------------------------- */

/* A node is a path. Its children are all paths that one more edit makes and no node had before; they stand side by side
 * in the list of nodes. */
typedef struct tree_node {
    size_t path;   /* where its layers begin in `layers` */
    int n_path;
    int parent;    /* -1 at the root */
    int first_child, n_children;
    int visits;
    double total;  /* sum of what was backed up */
    double bound;  /* as of its last visit; -infinity before */
    int closed;    /* nothing is left below */
    int evaluated; /* the simulation that ran it, -1 for the identity; NOT_EVALUATED */
    double reward;
} tree_node;

#define NOT_EVALUATED (-2)

typedef struct step {
    int node;
    int evaluated; /* whether it was in this simulation */
    double reward;
} step;

struct released_search {
    int n_layer, min_calls, max_calls, n_simulations;
    released_rng rng;
    tree_node *nodes;
    int n_nodes, nodes_capacity;
    uint8_t *layers; /* paths of all nodes */
    size_t n_layers, layers_capacity;
    int *table;      /* hash table of node + 1 by path; 0 is empty */
    int table_size;
    step *steps;
    int n_steps;
    int current;     /* the node of the running simulation, -1 between simulations */
    double last;     /* the latest evaluation's reward */
    int failed;      /* no memory */
};

int released_bounds(int n_layer, int *min_calls, int *max_calls) {
    static const struct {
        int n_layer, min, max;
    } spaces[] = {{28, 16, 32}, {36, 24, 44}, {24, 16, 28}, {48, 36, 54}};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        if (spaces[i].n_layer != n_layer) continue;
        *min_calls = spaces[i].min;
        *max_calls = spaces[i].max;
        return 1;
    }
    *min_calls = n_layer * 2 / 3 > 0 ? n_layer * 2 / 3 : 1;
    *max_calls = n_layer * 7 / 6 > n_layer ? n_layer * 7 / 6 : n_layer + 1;
    return 0;
}

static const uint8_t *path_of(const released_search *s, int n) {
    return s->layers + s->nodes[n].path;
}

static uint32_t path_hash(const uint8_t *path, int n) {
    uint32_t h = 2166136261u;
    for (int i = 0; i < n; i++) h = (h ^ path[i]) * 16777619u;
    return h;
}

/* The place in the table of a path, or of the gap where it belongs. */
static int table_place(const released_search *s, const uint8_t *path, int n) {
    int i = (int)(path_hash(path, n) & (uint32_t)(s->table_size - 1));
    while (s->table[i]) {
        const tree_node *x = &s->nodes[s->table[i] - 1];
        if (x->n_path == n && !memcmp(s->layers + x->path, path, (size_t)n)) break;
        i = (i + 1) & (s->table_size - 1);
    }
    return i;
}

/* Room for one more node. 0 without memory. */
static int make_room(released_search *s) {
    if (s->n_nodes == s->nodes_capacity) {
        const int capacity = s->nodes_capacity ? 2 * s->nodes_capacity : 1024, size = 2 * capacity;
        tree_node *nodes = realloc(s->nodes, (size_t)capacity * sizeof *nodes);
        int *table;
        if (nodes) s->nodes = nodes;
        if (!nodes || !(table = calloc((size_t)size, sizeof *table))) return 0;
        free(s->table);
        s->nodes_capacity = capacity;
        s->table = table;
        s->table_size = size;
        for (int i = 0; i < s->n_nodes; i++) s->table[table_place(s, path_of(s, i), s->nodes[i].n_path)] = i + 1;
    }
    if (s->layers_capacity - s->n_layers < RELEASED_MAX_CALLS) {
        const size_t capacity = 2 * s->layers_capacity + 64 * RELEASED_MAX_CALLS;
        uint8_t *layers = realloc(s->layers, capacity);
        if (!layers) return 0;
        s->layers = layers;
        s->layers_capacity = capacity;
    }
    return 1;
}

/* A path becomes a child of `parent`, unless it belongs to a node already. */
static void add_node(released_search *s, int parent, const uint8_t *path, int n) {
    tree_node *x;
    int place;
    if (s->failed || !make_room(s)) {
        s->failed = 1;
        return;
    }
    place = table_place(s, path, n);
    if (s->table[place]) return;
    x = &s->nodes[s->n_nodes];
    memset(x, 0, sizeof *x);
    x->path = s->n_layers;
    x->n_path = n;
    x->parent = parent;
    x->bound = -HUGE_VAL;
    x->evaluated = NOT_EVALUATED;
    memcpy(s->layers + s->n_layers, path, (size_t)n);
    s->n_layers += (size_t)n;
    s->table[place] = ++s->n_nodes;
    if (parent < 0) return;
    if (!s->nodes[parent].n_children++) s->nodes[parent].first_child = s->n_nodes - 1;
}

/* 1 if a layer occurs more than twice. */
static int occurs_thrice(const uint8_t *path, int n) {
    int count[RELEASED_MAX_LAYER] = {0};
    for (int i = 0; i < n; i++)
        if (++count[path[i]] > 2) return 1;
    return 0;
}

/* The path of a node with the `size` calls from place `at` on left out, or inserted once more in front of `at`. */
static void add_edit(released_search *s, int parent, int at, int size, int repeat) {
    uint8_t path[RELEASED_MAX_CALLS];
    const int n = s->nodes[parent].n_path, length = repeat ? n + size : n - size;
    if (length < 1 || length < s->min_calls || length > s->max_calls) return;
    memcpy(path, path_of(s, parent), (size_t)(repeat ? at + size : at));
    if (repeat) memcpy(path + at + size, path_of(s, parent) + at, (size_t)(n - at));
    else memcpy(path + at, path_of(s, parent) + at + size, (size_t)(n - at - size));
    if (repeat && size == 1 && occurs_thrice(path, length)) return;
    add_node(s, parent, path, length);
}

/* All children of a node at once. Blocks of several layers are edits of the root alone. */
static void expand(released_search *s, int parent) {
    const int n = s->nodes[parent].n_path, most = parent == 0 ? MAX_BLOCK : 1;
    for (int at = 0; at < n; at++)
        for (int repeat = 0; repeat < 2; repeat++)
            for (int size = 1; size <= most && at + size <= n; size++) add_edit(s, parent, at, size, repeat);
}

/* --- a simulation --------------------------------------------------------------------------------------------- */

/* Of the children that are not closed: the one of number `index`, or with index -1 the one of the greatest bound, of
 * equals the first. *n gets their number. Returns -1 if there is none. */
static int open_child(const released_search *s, int parent, int index, int *n) {
    const tree_node *p = &s->nodes[parent];
    int best = -1;
    *n = 0;
    for (int i = p->first_child; i < p->first_child + p->n_children; i++) {
        if (s->nodes[i].closed) continue;
        if ((*n)++ == index) return i;
        if (best < 0 || s->nodes[i].bound > s->nodes[best].bound) best = i;
    }
    return best;
}

/* From the root to a node without open children. */
static int descend(released_search *s) {
    int at = 0;
    for (;;) {
        int n, best = open_child(s, at, -1, &n);
        if (best < 0) return at;
        if (released_random(&s->rng) < EPSILON) best = open_child(s, at, released_below(&s->rng, n), &n);
        at = best;
    }
}

/* By layer index; a path that the other begins with comes first. */
static int path_before(const released_search *s, int a, int b) {
    const tree_node *x = &s->nodes[a], *y = &s->nodes[b];
    const int n = x->n_path < y->n_path ? x->n_path : y->n_path, order = memcmp(path_of(s, a), path_of(s, b), (size_t)n);
    return order ? order < 0 : x->n_path < y->n_path;
}

/* A child at random: that of the drawn rank in the order of the paths, all of which differ. */
static int draw_child(released_search *s, int parent) {
    const tree_node *p = &s->nodes[parent];
    const int end = p->first_child + p->n_children, wanted = released_below(&s->rng, p->n_children);
    for (int i = p->first_child; i < end; i++) {
        int rank = 0;
        for (int k = p->first_child; k < end; k++) rank += path_before(s, k, i);
        if (rank == wanted) return i;
    }
    return parent;
}

/* Backs up the latest evaluation from a node to the root. The bound is total/visits - 5 length/D + sqrt(2 ln(V + 1)/visits)
 * with the visits V of the root, which is counted last. */
static void back_up(released_search *s, int from) {
    for (int i = from; i >= 0; i = s->nodes[i].parent) {
        tree_node *x = &s->nodes[i];
        int n_open;
        x->visits++;
        x->total += s->last;
        x->bound = x->total / x->visits - (double)(LENGTH_PENALTY * x->n_path) / s->n_layer +
                   sqrt(2 * log(s->nodes[0].visits + 1) / x->visits);
        if (x->n_children && open_child(s, i, -1, &n_open) < 0) x->closed = 1;
    }
}

static void end_simulation(released_search *s, int evaluated) {
    back_up(s, s->current);
    s->steps[s->n_steps].node = s->current;
    s->steps[s->n_steps].evaluated = evaluated;
    s->steps[s->n_steps++].reward = s->last;
    s->current = -1;
}

/* Down, and a child of the node where that ends. A node that has no candidates is closed and stays the current one. */
static void begin_simulation(released_search *s) {
    s->current = descend(s);
    if (s->nodes[s->current].closed) return;
    expand(s, s->current);
    if (s->nodes[s->current].n_children) s->current = draw_child(s, s->current);
    else s->nodes[s->current].closed = 1;
}

int released_next(released_search *s, int *path) {
    if (s->current < 0) {
        for (;;) {
            if (s->n_steps == s->n_simulations) return 0;
            begin_simulation(s);
            if (s->failed) return -1;
            if (s->nodes[s->current].evaluated == NOT_EVALUATED) break;
            end_simulation(s, 0);
        }
    }
    for (int i = 0; i < s->nodes[s->current].n_path; i++) path[i] = path_of(s, s->current)[i];
    return s->nodes[s->current].n_path;
}

void released_report(released_search *s, double reward) {
    tree_node *x;
    if (s->current < 0) return;
    x = &s->nodes[s->current];
    x->reward = s->last = reward;
    if (s->current == 0 && x->evaluated == NOT_EVALUATED) { /* the identity counts as no simulation */
        x->evaluated = -1;
        s->current = -1;
        return;
    }
    x->evaluated = s->n_steps;
    end_simulation(s, 1);
}

/* --- the search ----------------------------------------------------------------------------------------------- */

released_search *released_create(int n_layer, int min_calls, int max_calls, int n_simulations, uint64_t seed) {
    uint8_t identity[RELEASED_MAX_LAYER];
    released_search *s;
    if (n_layer < 1 || n_layer > RELEASED_MAX_LAYER || min_calls < 0 || max_calls < min_calls ||
        max_calls > RELEASED_MAX_CALLS - MAX_BLOCK || n_simulations < 0 || !(s = calloc(1, sizeof *s)))
        return NULL;
    s->n_layer = n_layer;
    s->min_calls = min_calls;
    s->max_calls = max_calls;
    s->n_simulations = n_simulations;
    released_seed(&s->rng, seed);
    for (int i = 0; i < n_layer; i++) identity[i] = (uint8_t)i;
    s->steps = calloc((size_t)n_simulations + 1, sizeof *s->steps);
    if (s->steps) add_node(s, -1, identity, n_layer);
    if (!s->steps || s->failed) {
        released_free(s);
        return NULL;
    }
    return s; /* the root is the current node: it is run first */
}

void released_free(released_search *s) {
    if (!s) return;
    free(s->nodes);
    free(s->layers);
    free(s->table);
    free(s->steps);
    free(s);
}

int released_n_steps(const released_search *s) {
    return s->n_steps;
}

released_step released_get_step(const released_search *s, int index) {
    const step *x = &s->steps[index];
    released_step r = {NULL, 0, x->node, x->reward};
    if (!x->evaluated) return r;
    r.path = path_of(s, x->node);
    r.n_path = s->nodes[x->node].n_path;
    return r;
}

int released_current(const released_search *s) {
    return s->current;
}

released_node released_get_node(const released_search *s, int node) {
    released_node r;
    r.path = path_of(s, node);
    r.n_path = s->nodes[node].n_path;
    r.parent = s->nodes[node].parent;
    r.visits = s->nodes[node].visits;
    return r;
}

/* FNV-1a of 64 bits over the seed's bytes and the text. */
uint64_t released_question_seed(uint64_t seed, const char *text) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < 8; i++) h = (h ^ (seed >> 8 * i & 255)) * 0x100000001b3u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

/* A result with its place among the nodes breadth first, which keeps the order of equals. */
typedef struct ranked {
    released_result result;
    int rank;
} ranked;

static int by_reward_and_length(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->result.reward != y->result.reward) return x->result.reward > y->result.reward ? -1 : 1;
    if (x->result.n_path != y->result.n_path) return x->result.n_path - y->result.n_path;
    return x->rank - y->rank;
}

int released_results(const released_search *s, released_result **list) {
    int *queue = malloc((size_t)s->n_nodes * sizeof *queue), n = 0, end = 1;
    ranked *found = malloc((size_t)s->n_nodes * sizeof *found);
    *list = malloc((size_t)s->n_nodes * sizeof **list);
    if (!queue || !found || !*list) {
        free(queue);
        free(found);
        free(*list);
        *list = NULL;
        return -1;
    }
    queue[0] = 0;
    for (int at = 0; at < end; at++) {
        const tree_node *x = &s->nodes[queue[at]];
        for (int i = 0; i < x->n_children; i++) queue[end++] = x->first_child + i;
        if (x->evaluated == NOT_EVALUATED) continue;
        found[n].result.path = path_of(s, queue[at]);
        found[n].result.n_path = x->n_path;
        found[n].result.simulation = x->evaluated;
        found[n].result.reward = x->reward;
        found[n].rank = n;
        n++;
    }
    qsort(found, (size_t)n, sizeof *found, by_reward_and_length);
    for (int i = 0; i < n; i++) (*list)[i] = found[i].result;
    free(queue);
    free(found);
    return n;
}
