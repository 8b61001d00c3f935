#include "inside.h"
#include "test.h"

#define BUFFER 8192

typedef double (*reward_function)(const polar_program *p);

static double no_reward(const polar_program *p) {
    (void)p;
    return 0;
}

/* Any function of the program will do. */
static double hashed_reward(const polar_program *p) {
    char text[BUFFER];
    return mem_hash(text, polar_program_format(p, text, sizeof text)) % 5 == 0;
}

static polar_search *created(int n_layer, const char *question, const polar_search_options *o) {
    polar_search *s;
    polar_error e;
    CHECK(!polar_search_create(&s, n_layer, question, strlen(question), o, &e));
    CHECK_STR(e.message, "");
    return s;
}

/* One at a time to the end. */
static polar_search *searched(int n_layer, const char *question, const polar_search_options *o, reward_function f) {
    polar_search *s = created(n_layer, question, o);
    polar_program p;
    int id;
    while ((id = polar_search_next(s, &p)) >= 0) {
        CHECK(!polar_program_validate(&p, n_layer, NULL));
        CHECK(!polar_search_report(s, id, f(&p), NULL));
    }
    CHECK(id == POLAR_SEARCH_DONE && polar_search_next(s, &p) == POLAR_SEARCH_DONE);
    CHECK(s->n_done == s->options.simulations + 1);
    return s;
}

static const char *program_text(const polar_search *s, int id) {
    static char text[BUFFER];
    polar_search_result r;
    CHECK(polar_search_get(s, id, &r));
    polar_program_format(&r.program, text, sizeof text);
    return text;
}

static uint64_t trajectory_hash(const polar_search *s) {
    uint64_t h = 0;
    for (int i = 0; i < mcts_n_results(s); i++) {
        polar_search_result r;
        const char *t = program_text(s, i);
        CHECK(polar_search_get(s, i, &r));
        h = h * 31 + mem_hash(t, strlen(t));
        h = h * 31 + (uint64_t)(r.parent + 1) * 7 + (uint64_t)r.simulation + (r.reward > 0.5);
    }
    return h;
}

/* --- the textbook, written another way ---------------------------------------------------------------- */

typedef struct naive_node {
    int edits[64][3], n_edits; /* sorted by start */
    int children[512], n_children;
    int visits;
    double reward;
} naive_node;

static naive_node *naive_nodes;
static int naive_n;

static int naive_path(int n_layer, const naive_node *n, int *path) {
    int k = 0, e = 0;
    for (int i = 0; i < n_layer;) {
        if (e < n->n_edits && n->edits[e][0] == i) {
            for (int t = 0; t < n->edits[e][2]; t++)
                for (int j = 0; j < n->edits[e][1]; j++) path[k++] = i + j;
            i += n->edits[e++][1];
        } else {
            path[k++] = i++;
        }
    }
    return k;
}

static naive_node naive_with(const naive_node *n, int start, int length, int times) {
    naive_node c;
    int k = n->n_edits;
    memset(&c, 0, sizeof c);
    memcpy(c.edits, n->edits, sizeof c.edits);
    for (; k > 0 && c.edits[k - 1][0] > start; k--) memcpy(c.edits[k], c.edits[k - 1], sizeof c.edits[k]);
    c.edits[k][0] = start, c.edits[k][1] = length, c.edits[k][2] = times;
    c.n_edits = n->n_edits + 1;
    return c;
}

static int naive_find(const naive_node *n) {
    for (int i = 0; i < naive_n; i++)
        if (naive_nodes[i].n_edits == n->n_edits && !memcmp(naive_nodes[i].edits, n->edits, sizeof n->edits)) return i;
    return -1;
}

/* All sets with one edit more that are possible and no children yet, in the order of start, length, times. */
static int naive_untried(const polar_search_options *o, int n_layer, int node, naive_node *out) {
    const naive_node *n = &naive_nodes[node];
    int count = 0, path[POLAR_MAX_CALLS];
    for (int start = 0; start < n_layer; start++)
        for (int length = 1; length <= o->max_length && start + length <= n_layer; length++)
            for (int times = 0; times <= o->max_times; times++) {
                int ok = times ? times != 1 && o->space != POLAR_SEARCH_SKIP : o->space != POLAR_SEARCH_LOOP;
                naive_node c = naive_with(n, start, length, times);
                int at, calls;
                for (int k = 0; k < n->n_edits; k++)
                    ok &= start + length <= n->edits[k][0] || n->edits[k][0] + n->edits[k][1] <= start;
                if (!ok) continue;
                calls = naive_path(n_layer, &c, path);
                if (calls == 0 || (o->max_cost > 0 && calls > o->max_cost * n_layer)) continue;
                at = naive_find(&c);
                for (int k = 0; k < n->n_children; k++) ok &= n->children[k] != at;
                if (ok) out[count++] = c;
            }
    return count;
}

/* The prior of the edit that the child has and the node has not. */
static double naive_prior(const polar_search_options *o, const naive_node *n, const naive_node *child) {
    polar_segment edit = {0};
    int k = 0;
    while (k < n->n_edits && !memcmp(n->edits[k], child->edits[k], sizeof n->edits[k])) k++;
    edit.start = (int16_t)child->edits[k][0];
    edit.length = (int16_t)child->edits[k][1];
    edit.times = (int16_t)child->edits[k][2];
    return o->prior(o->prior_user, &edit);
}

/* Only the edits of the largest prior; how many. */
static int naive_likeliest(const polar_search_options *o, const naive_node *n, naive_node *c, int count) {
    double largest = -1;
    int kept = 0;
    for (int i = 0; i < count; i++) largest = fmax(largest, naive_prior(o, n, &c[i]));
    for (int i = 0; i < count; i++)
        if (naive_prior(o, n, &c[i]) == largest) c[kept++] = c[i];
    return kept;
}

static int naive_best(const polar_search_options *o, int n_layer, const naive_node *n) {
    double best = -HUGE_VAL;
    int at = -1, path[POLAR_MAX_CALLS];
    for (int k = 0; k < n->n_children; k++) {
        const naive_node *c = &naive_nodes[n->children[k]];
        double explore = sqrt(log(naive_nodes[0].visits) / c->visits), u;
        if (o->prior) explore = naive_prior(o, n, c) * sqrt(naive_nodes[0].visits) / (1 + c->visits);
        u = c->reward / c->visits + o->exploration * explore -
            o->length_penalty * naive_path(n_layer, c, path) / n_layer;
        if (u > best + 1e-12) best = u, at = n->children[k];
    }
    return at;
}

static void check_against_naive(int n_layer, const polar_search_options *o) {
    static naive_node untried[4096];
    static int paths[1024][POLAR_MAX_CALLS], lengths[1024], n_paths;
    static double rewards[1024];
    polar_search *s = created(n_layer, "naive", o);
    uint64_t seed = o->seed, rng = rng_next(&seed) ^ mem_hash("naive", 5);
    int chain[300], next = 0;
    rng = rng_next(&rng);
    naive_nodes = calloc(1024, sizeof *naive_nodes);
    naive_n = 1, n_paths = 0;
    for (int simulation = 0; simulation <= o->simulations && !test_failures; simulation++) {
        int n = 0, node = 0, path[POLAR_MAX_CALLS], length, k;
        chain[n++] = 0;
        while (simulation > 0) {
            naive_node *nn = &naive_nodes[node];
            double limit = fmax(1, ceil(o->widening_alpha * pow(nn->visits, o->widening_beta)));
            int expand = nn->n_children < limit, count, any = !expand || !o->prior;
            if (!expand) expand = ldexp((double)(rng_next(&rng) >> 11), -53) < o->epsilon;
            if (expand && (count = naive_untried(o, n_layer, node, untried)) > 0) {
                naive_node c;
                int at;
                if (!any) count = naive_likeliest(o, nn, untried, count);
                c = untried[(rng_next(&rng) >> 32) * (uint64_t)count >> 32];
                at = naive_find(&c);
                if (at < 0) naive_nodes[at = naive_n++] = c;
                nn->children[nn->n_children++] = at;
                chain[n++] = at;
                break;
            }
            if (!nn->n_children) break;
            chain[n++] = node = naive_best(o, n_layer, nn);
        }
        length = naive_path(n_layer, &naive_nodes[chain[n - 1]], path);
        for (k = 0; k < n_paths; k++)
            if (lengths[k] == length && !memcmp(paths[k], path, (size_t)length * sizeof *path)) break;
        if (k == n_paths) { /* a new path: the search must propose it now */
            polar_program p;
            int id = polar_search_next(s, &p), mine[POLAR_MAX_CALLS], m = polar_program_path(&p, mine, POLAR_MAX_CALLS);
            CHECK(id == next && m == length && !memcmp(mine, path, (size_t)m * sizeof *path));
            memcpy(paths[k], path, sizeof path);
            lengths[k] = length;
            rewards[k] = hashed_reward(&p);
            CHECK(!polar_search_report(s, id, rewards[k], NULL));
            n_paths++, next++;
        }
        for (int i = 0; i < n; i++) naive_nodes[chain[i]].visits++, naive_nodes[chain[i]].reward += rewards[k];
    }
    if (!test_failures) {
        polar_program p;
        CHECK(polar_search_next(s, &p) == POLAR_SEARCH_DONE && mcts_n_results(s) == n_paths);
        CHECK(s->n_nodes == naive_n);
        for (int i = 0; i < naive_n; i++) CHECK(s->nodes[i].visits == naive_nodes[i].visits);
    }
    polar_search_free(s);
    free(naive_nodes);
}

TEST(textbook) {
    polar_search_options o = {.simulations = 200, .length_penalty = 5, .exploration = 1.41421356237309505,
                              .epsilon = 0.1, .widening_alpha = 2, .widening_beta = 0.5, .max_length = 4, .max_times = 5};
    for (o.seed = 0; o.seed < 3; o.seed++) check_against_naive(16, &o);
    o.length_penalty = 0.1;
    for (o.seed = 0; o.seed < 3; o.seed++) check_against_naive(9, &o);
    o.space = POLAR_SEARCH_SKIP;
    check_against_naive(8, &o);
    o.space = POLAR_SEARCH_LOOP, o.max_length = 3, o.max_times = 3, o.max_cost = 1.5;
    check_against_naive(10, &o);
    o.widening_alpha = 1.3, o.widening_beta = 0.7, o.epsilon = POLAR_OFF, o.space = POLAR_SEARCH_BOTH, o.max_cost = 1;
    check_against_naive(12, &o);
    o.simulations = 400;
    check_against_naive(3, &o); /* smaller than the budget: transpositions and equal paths all the time */
    o.epsilon = 1;
    check_against_naive(4, &o);
}

/* Few values, so that there are equals to draw from. */
static double coarse_prior(void *user, const polar_segment *e) {
    (void)user;
    return (double)((e->start * 5 + e->length * 3 + e->times * 7) % 4) / 4;
}

/* PUCT, as the naive search says it, with edits in the order of the prior. */
TEST(prior) {
    polar_search_options o = {.simulations = 200, .length_penalty = 5, .exploration = 1.41421356237309505,
                              .epsilon = 0.1, .widening_alpha = 2, .widening_beta = 0.5, .max_length = 4,
                              .max_times = 5};
    polar_search *plain, *s;
    o.prior = coarse_prior;
    for (o.seed = 0; o.seed < 3; o.seed++) check_against_naive(12, &o);
    o.length_penalty = 0.1, o.exploration = 3;
    check_against_naive(9, &o);
    o.epsilon = POLAR_OFF, o.max_cost = 1.5;
    check_against_naive(10, &o);
    o.simulations = 300;
    check_against_naive(3, &o);
    s = searched(12, "q", &o, hashed_reward);
    o.prior = NULL;
    plain = searched(12, "q", &o, hashed_reward);
    CHECK(trajectory_hash(s) != trajectory_hash(plain));
    polar_search_free(s);
    polar_search_free(plain);
}

static double user_prior(void *user, const polar_segment *e) {
    return e->times || e->start != 3 || e->length != 2 ? 0 : *(const double *)user;
}

/* What is no number from 0 to 1 counts as the nearest one, and no number as 0. */
TEST(prior_range) {
    static const double values[][2] = {{7, 1}, {-1, 0}, {HUGE_VAL, 1}, {-HUGE_VAL, 0}, {NAN, 0}};
    polar_search_options o = {.simulations = 80, .prior = user_prior};
    for (int i = 0; i < (int)COUNT(values); i++) {
        uint64_t hash[2];
        for (int k = 0; k < 2; k++) {
            double value = values[i][k];
            polar_search *s;
            o.prior_user = &value;
            s = searched(8, "q", &o, hashed_reward);
            if (values[i][1] > 0) CHECK_STR(program_text(s, 1), "0-2 3-4x0 5-7");
            hash[k] = trajectory_hash(s);
            polar_search_free(s);
        }
        CHECK(hash[0] == hash[1]);
    }
}

/* --- planted rewards ---------------------------------------------------------------------------------- */

static int executions(const polar_program *p, int layer) {
    for (int i = 0; i < p->n_segments; i++)
        if (layer < p->segments[i].start + p->segments[i].length) return p->segments[i].times;
    return -1;
}

/* A quarter for skipping layer 5, a quarter for looping layer 13, all for both and layer 9 kept. */
static double two_edits(const polar_program *p) {
    int skip = executions(p, 5) == 0, loop = executions(p, 13) > 1;
    return skip && loop && executions(p, 9) == 1 ? 1 : 0.25 * (skip + loop);
}

static double only_loop(const polar_program *p) {
    return executions(p, 7) > 2;
}

static int times_found(reward_function f, const polar_search_options *options, int n_layer, int n_seeds) {
    polar_search_options o = *options;
    int found = 0;
    for (o.seed = 0; o.seed < (uint64_t)n_seeds; o.seed++) {
        polar_search *s = searched(n_layer, "planted", &o, f);
        for (int i = 0; i < s->n_results; i++)
            if (s->results[i].reward == 1) {
                found++;
                break;
            }
        polar_search_free(s);
    }
    return found;
}

TEST(planted) {
    polar_search_options o = {0}, blind;
    int guided, unguided;
    CHECK(times_found(only_loop, &o, 20, 50) >= 45);
    o.length_penalty = 0.5; /* with the 5 of [C] length outweighs any reward */
    guided = times_found(two_edits, &o, 20, 50);
    blind = o;
    blind.epsilon = 1; /* the root tries one edit after the other */
    unguided = times_found(two_edits, &blind, 20, 50);
    CHECK(guided >= 40);
    CHECK(unguided == 0);
    if (test_failures) printf("found by %d of 50, blindly by %d\n", guided, unguided);
}

/* With the shorter of two right programs, lambda decides. */
TEST(length_penalty) {
    polar_search_options o = {0};
    double mean[2];
    for (int k = 0; k < 2; k++) {
        polar_search *s;
        double sum = 0;
        o.length_penalty = k ? 5 : POLAR_OFF;
        s = searched(24, "length", &o, no_reward);
        for (int i = 1; i < s->n_nodes; i++) sum += s->nodes[i].n_calls;
        mean[k] = sum / (s->n_nodes - 1);
        polar_search_free(s);
    }
    CHECK(mean[1] < mean[0] - 3);
}

/* --- no layer is preferred ---------------------------------------------------------------------------- */

/* [R]'s first search placed edits from left to right; second and third edits then lie late whatever the
 * model says. Here with a constant reward (nothing but the search's own geometry), the edits made at depth 1, 2 and 3
 * must be symmetric, and those of depth 1 uniform over all there are. */
TEST(even_spread) {
    enum { D = 36, SEEDS = 200 };
    static double first[D * 4 * 5];
    double mirror[4][D] = {{0}}, chi, n = 0;
    const int kinds = 5;
    int n_possible = 0;
    polar_search_options o = {0};
    memset(first, 0, sizeof first);
    for (o.seed = 0; o.seed < SEEDS; o.seed++) {
        polar_search *s = searched(D, "constant", &o, no_reward);
        for (int i = 1; i < s->n_nodes; i++) {
            mcts_edit e = s->nodes[i].edit;
            int depth = MIN(s->nodes[i].n_edits, 3), kind = e.times ? e.times - 1 : 0;
            for (int k = 0; k < e.length; k++) mirror[depth][e.start + k] += 1.0 / e.length;
            if (depth == 1) first[(e.start * 4 + e.length - 1) * kinds + kind]++, n++;
        }
        polar_search_free(s);
    }
    for (int depth = 1; depth <= 3; depth++) {
        chi = 0; /* about 18 degrees of freedom, fewer as the layers of an edit go together */
        for (int i = 0; i < D / 2; i++) {
            double a = mirror[depth][i], b = mirror[depth][D - 1 - i];
            CHECK(a + b > 50);
            chi += (a - b) * (a - b) / (a + b);
        }
        CHECK(chi < 40);
        if (chi >= 40) printf("depth %d: chi square %.1f\n", depth, chi);
    }
    for (int start = 0; start < D; start++) n_possible += kinds * MIN(4, D - start);
    chi = 0;
    for (int start = 0; start < D; start++)
        for (int length = 1; length <= MIN(4, D - start); length++)
            for (int k = 0; k < kinds; k++) {
                double expected = n / n_possible, found = first[(start * 4 + length - 1) * kinds + k];
                chi += (found - expected) * (found - expected) / expected;
            }
    CHECK(n_possible == 690);
    CHECK(chi < 690 + 4 * 37); /* mean + 4 deviations of chi square */
    if (chi >= 690 + 4 * 37) printf("first edits: chi square %.1f\n", chi);
}

/* --- a recorded trajectory ---------------------------------------------------------------------------- */

TEST(replay) {
    static const char *const begin[] = {
        "0-27",
        "0-13 14-16x0 17-27",
        "0-4 5-6x2 7-27",
        "0-10 11-14x4 15-27",
        "0-1x5 2-27",
        "0-11 12-15x3 16-27",
        "0-3 4-5x2 6-13 14-16x0 17-27",
        "0-1 2-5x4 6-27",
        "0-13 14-16x0 17 18-19x2 20-27",
    };
    polar_search_options o = {0};
    polar_search *s, *t;
    o.seed = 42;
    s = searched(28, "What is 17 + 25?", &o, hashed_reward);
    for (int i = 0; i < COUNT(begin); i++) CHECK_STR(program_text(s, i), begin[i]);
    CHECK(mcts_n_results(s) == 201);
    CHECK(trajectory_hash(s) == 0x14bfd6b48cfd6b71u);
    if (test_failures) {
        for (int i = 0; i < 12; i++) printf("        \"%s\",\n", program_text(s, i));
        printf("%d results, hash 0x%016llx\n", mcts_n_results(s), (unsigned long long)trajectory_hash(s));
    }
    t = searched(28, "What is 17 + 26?", &o, hashed_reward); /* another question: other edits */
    CHECK(trajectory_hash(s) != trajectory_hash(t));
    polar_search_free(t);
    o.seed = 43;
    t = searched(28, "What is 17 + 25?", &o, hashed_reward);
    CHECK(trajectory_hash(s) != trajectory_hash(t));
    polar_search_free(t);
    polar_search_free(s);
}

/* --- several in flight -------------------------------------------------------------------------------- */

static int paths_differ(const polar_search *s) {
    for (int i = 0; i < mcts_n_results(s); i++)
        for (int k = 0; k < i; k++) {
            polar_search_result a, b;
            polar_search_get(s, i, &a);
            polar_search_get(s, k, &b);
            if (polar_program_equal(&a.program, &b.program)) return 0;
        }
    return 1;
}

/* Up to `width` proposals are out; rewards come in random order. */
static void in_flight(int n_layer, int width, uint64_t order) {
    polar_search_options o = {0};
    int ids[64], n = 0, id, total = 0, waits = 0;
    double root = 0;
    polar_search *s;
    polar_program p;
    o.max_in_flight = width;
    o.length_penalty = 0.5;
    s = created(n_layer, "flight", &o);
    while ((id = polar_search_next(s, &p)) != POLAR_SEARCH_DONE) {
        polar_search_result r;
        if (id >= 0) {
            CHECK(id == total++ && n < width && polar_search_get(s, id, &r) && !r.reported);
            CHECK(polar_program_equal(&p, &r.program) && r.parent < id);
            ids[n++] = id;
            continue;
        }
        CHECK(n > 0);
        if (!n) break;
        waits++;
        for (int k = 1 + (int)(rng_next(&order) % (uint64_t)n); k > 0; k--) {
            int at = (int)(rng_next(&order) % (uint64_t)n);
            polar_search_get(s, ids[at], &r);
            CHECK(!polar_search_report(s, ids[at], hashed_reward(&r.program), NULL));
            ids[at] = ids[--n];
        }
    }
    CHECK(n == 0 && mcts_n_results(s) == total && paths_differ(s));
    CHECK(s->n_done == 201 && s->nodes[0].visits == 201);
    for (int i = 1; i < s->n_nodes; i++) CHECK(s->nodes[i].visits >= 1 && s->nodes[i].reward <= s->nodes[i].visits);
    for (int e = s->nodes[0].first_edge; e >= 0; e = s->edges[e].next) root += s->edges[e].child > 0;
    CHECK(root == s->nodes[0].n_children);
    polar_search_free(s);
}

TEST(several_in_flight) {
    for (uint64_t order = 0; order < 4; order++) {
        in_flight(24, 1, order);
        in_flight(24, 8, order);
        in_flight(24, 64, order);
        in_flight(3, 64, order); /* the same path is often in flight twice */
        in_flight(1, 64, order);
    }
}

/* --- spaces, small and hostile ------------------------------------------------------------------------ */

TEST(spaces) {
    polar_search_options o = {0};
    for (int space = 0; space < POLAR_N_SEARCH_SPACE; space++) {
        polar_search *s;
        int skips = 0, loops = 0;
        o.space = (polar_search_space)space;
        o.max_length = 2 + space, o.max_times = 3, o.length_penalty = POLAR_OFF;
        o.max_cost = 1.25;
        s = searched(20, "space", &o, hashed_reward);
        CHECK(s->n_results > 150);
        for (int i = 1; i < s->n_nodes; i++) {
            mcts_edit e = s->nodes[i].edit;
            skips += e.times == 0, loops += e.times > 1;
            CHECK(e.length >= 1 && e.length <= 2 + space && e.times != 1 && e.times <= 3);
            CHECK(s->nodes[i].n_calls <= 25);
        }
        CHECK((skips > 0) == (space != POLAR_SEARCH_LOOP) && (loops > 0) == (space != POLAR_SEARCH_SKIP));
        polar_search_free(s);
    }
    o.space = POLAR_SEARCH_BOTH, o.max_cost = 0, o.max_damped = 3;
    for (int space = 0; space < POLAR_N_SEARCH_SPACE; space++) { /* damped passes are edits of their own */
        int loops[2] = {0, 0};
        polar_search *s;
        o.space = (polar_search_space)space;
        s = searched(20, "space", &o, hashed_reward);
        for (int i = 1; i < s->n_nodes; i++) {
            const mcts_edit e = s->nodes[i].edit;
            loops[e.damped] += e.times > 1;
            CHECK(e.damped ? e.times >= 2 && e.times <= 3 : e.times != 1);
        }
        for (int i = 0; i < s->n_results; i++) {
            polar_search_result a, b;
            polar_search_get(s, i, &a);
            CHECK(!polar_program_validate(&a.program, 20, NULL));
            for (int k = 0; k < i; k++)
                CHECK(polar_search_get(s, k, &b) && !polar_program_equal(&a.program, &b.program));
        }
        CHECK((loops[0] > 0 && loops[1] > 0) == (space != POLAR_SEARCH_SKIP));
        polar_search_free(s);
    }
    CHECK_STR(polar_search_space_name(POLAR_SEARCH_SKIP), "skip");
    CHECK(polar_search_space_name(POLAR_N_SEARCH_SPACE) == NULL);
}

TEST(small_spaces) {
    polar_search_options o = {0};
    polar_search *s = searched(1, "", &o, no_reward);
    CHECK(mcts_n_results(s) == 5); /* once, and 2 to 5 times; never skipped */
    polar_search_free(s);
    o.space = POLAR_SEARCH_SKIP;
    o.simulations = 2000;
    o.length_penalty = POLAR_OFF;
    s = searched(4, "", &o, no_reward);
    CHECK(mcts_n_results(s) == 15 && paths_differ(s)); /* all subsets but one */
    polar_search_free(s);
    o.max_length = 1;
    s = searched(1, "", &o, no_reward);
    CHECK(mcts_n_results(s) == 1); /* nothing can be skipped */
    polar_search_free(s);
    memset(&o, 0, sizeof o);
    o.simulations = POLAR_OFF;
    s = searched(30, "", &o, no_reward);
    CHECK(mcts_n_results(s) == 1);
    polar_search_free(s);
}

/* In a looped model its own program comes first, then fewer loops, then edits of one; no path comes twice, although
 * all layers twice are two loops as well as an edit of one. */
TEST(loops) {
    polar_search_options o = {0};
    polar_search_result r, parent;
    polar_search *s;
    int n_loops = 0;
    o.n_loops = 4, o.simulations = 300, o.max_cost = 1;
    s = searched(3, "loops", &o, hashed_reward);
    CHECK_STR(program_text(s, 0), "0-2x4");
    CHECK(paths_differ(s) && mcts_n_results(s) > 50);
    for (int i = 1; polar_search_get(s, i, &r); i++) {
        const int whole = r.program.n_segments == 1 && r.program.segments[0].times < 4;
        CHECK(polar_program_length(&r.program) == s->nodes[s->results[i].node].n_calls);
        CHECK(polar_program_length(&r.program) <= 12 && polar_search_get(s, r.parent, &parent));
        n_loops += whole;
        if (r.parent == 0) CHECK(whole);
        else CHECK(parent.program.n_segments > 1 || polar_program_length(&parent.program) == 3);
    }
    CHECK(n_loops == 3);
    polar_search_free(s);
    o.length_penalty = POLAR_OFF; /* nothing but the three loop counts below 40 layers is cheap to find */
    o.simulations = 12;
    s = searched(40, "loops", &o, no_reward);
    for (int i = n_loops = 0; polar_search_get(s, i, &r); i++) n_loops += r.program.n_segments == 1;
    CHECK(n_loops == 4);
    polar_search_free(s);
    o.simulations = 3000, o.max_times = 2, o.n_loops = 3, o.max_cost = 0;
    s = searched(2, "loops", &o, no_reward); /* 0-1 3 or 2 times, and each layer 0, 1 or 2 times, but not both 0 */
    CHECK(mcts_n_results(s) == 10 && paths_differ(s));
    polar_search_free(s);
}

TEST(large) {
    polar_search_options o = {0};
    polar_search *s;
    o.simulations = 1000, o.max_length = 256, o.length_penalty = POLAR_OFF;
    s = searched(256, "large", &o, hashed_reward);
    CHECK(mcts_n_results(s) > 900);
    for (int i = 0; i < s->n_nodes; i++) CHECK(s->nodes[i].n_calls >= 1 && s->nodes[i].n_calls <= POLAR_MAX_CALLS);
    polar_search_free(s);
}

TEST(bad_options) {
    polar_search_options o, good = {0};
    polar_search *s;
    polar_error e;
#define REFUSED(change)                                                                                 \
    do {                                                                                                \
        o = good;                                                                                       \
        change;                                                                                         \
        CHECK(polar_search_create(&s, 20, "q", 1, &o, &e) == POLAR_ARGUMENT && !s && e.message[0]);     \
    } while (0)
    REFUSED(o.simulations = -2);
    REFUSED(o.simulations = INT_MAX);
    REFUSED(o.space = (polar_search_space)3);
    REFUSED(o.space = (polar_search_space)-1);
    REFUSED(o.max_length = POLAR_OFF);
    REFUSED(o.max_length = INT_MAX);
    REFUSED(o.max_times = 1);
    REFUSED(o.max_times = INT_MAX);
    REFUSED(o.max_in_flight = POLAR_OFF);
    REFUSED(o.max_in_flight = INT_MAX);
    REFUSED(o.length_penalty = -2);
    REFUSED(o.exploration = HUGE_VAL);
    REFUSED(o.epsilon = sqrt(-1.0));
    REFUSED(o.epsilon = 1.5);
    REFUSED(o.widening_alpha = sqrt(-1.0));
    REFUSED(o.widening_beta = 2);
    REFUSED(o.n_loops = POLAR_OFF);
    REFUSED(o.n_loops = POLAR_MAX_CALLS / 20 + 1);
    REFUSED(o.max_cost = 0.9);
    REFUSED(o.max_cost = -1);
    REFUSED(o.max_cost = HUGE_VAL);
    CHECK(polar_search_create(&s, 0, "q", 1, NULL, &e) == POLAR_ARGUMENT);
    CHECK(polar_search_create(&s, 257, "q", 1, NULL, &e) == POLAR_ARGUMENT);
    CHECK(polar_search_create(&s, 20, NULL, 1, NULL, &e) == POLAR_ARGUMENT);
    CHECK(polar_search_create(NULL, 20, "q", 1, NULL, &e) == POLAR_ARGUMENT);
}

TEST(bad_reports) {
    polar_search *s = created(20, "q", NULL);
    polar_search_result r;
    polar_program p;
    polar_error e;
    CHECK(mcts_n_results(s) == 0 && !polar_search_get(s, 0, &r));
    CHECK(polar_search_report(s, 0, 1, &e) == POLAR_ARGUMENT); /* not proposed yet */
    CHECK(polar_search_next(s, &p) == 0);
    CHECK(polar_search_report(s, 1, 1, &e) == POLAR_ARGUMENT);
    CHECK(polar_search_report(s, -1, 1, &e) == POLAR_ARGUMENT);
    CHECK(polar_search_report(s, 0, sqrt(-1.0), &e) == POLAR_ARGUMENT);
    CHECK(polar_search_report(s, 0, 1.01, &e) == POLAR_ARGUMENT);
    CHECK(!polar_search_report(s, 0, 1, &e));
    CHECK(polar_search_report(s, 0, 1, &e) == POLAR_ARGUMENT);
    CHECK_STR(e.message, "the reward of program 0 was reported before");
    polar_search_free(s);
    polar_search_free(NULL);
}

/* --- memory ------------------------------------------------------------------------------------------- */

typedef struct counter {
    size_t live, peak;
    int n, refuse;
} counter;

static void *count_alloc(void *user, size_t size) {
    counter *c = user;
    if (c->n++ == c->refuse) return NULL;
    c->live += size;
    c->peak = MAX(c->peak, c->live);
    return malloc(size);
}

static void count_free(void *user, void *p, size_t size) {
    ((counter *)user)->live -= size;
    free(p);
}

TEST(memory) {
    counter c = {0, 0, 0, -1};
    polar_allocator a = {count_alloc, count_free, NULL};
    polar_search_options o = {0};
    polar_search *s;
    polar_error e;
    a.user = &c;
    o.allocator = &a;
    s = searched(36, "memory", &o, hashed_reward);
    CHECK(c.n == 1 && c.live == c.peak); /* one block, taken when the search began */
    CHECK(c.peak < 150000);
    polar_search_free(s);
    CHECK(c.live == 0);
    c.refuse = 1;
    CHECK(polar_search_create(&s, 36, "q", 1, &o, &e) == POLAR_MEMORY && !s && c.live == 0);
}

static const test_case tests[] = {
#define T(name) {#name, test_##name}
    T(textbook), T(prior), T(prior_range), T(planted), T(length_penalty), T(even_spread), T(replay),
    T(several_in_flight), T(spaces), T(small_spaces), T(loops), T(large), T(bad_options), T(bad_reports), T(memory),
};

int main(int argc, char **argv) {
    return test_main(tests, COUNT(tests), argc, argv);
}
