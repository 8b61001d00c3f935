/* polar report: the tree of a search, step by step. */
#include "report.h"
#include "samples.h"

enum { FRAMES = 6, SHOWN = 48 };

/* A program of the tree. */
typedef struct node {
    int parent, depth, calls; /* parent: -1 for the root */
    int ran, valid;           /* ran: the step that executed it, -1: none */
    int visits;               /* steps that ended here or below, in a frame */
    int leaves;               /* below it, itself counted where there are none */
    double x;                 /* where it stands, in leaves */
} node;

typedef struct tree {
    FILE *f;
    node *nodes;
    int n, n_steps, depth; /* steps: 0 is the identity's, then one for each simulation */
    int *ends;             /* (n_steps) the node that each step ended at */
} tree;

/* --- reading --------------------------------------------------------------------------------------------------- */

static int tree_room(tree *t, int n_nodes, int n_steps) {
    t->nodes = calloc((size_t)n_nodes + 1, sizeof *t->nodes);
    t->ends = calloc((size_t)n_steps + 1, sizeof *t->ends);
    return t->nodes && t->ends ? 0 : cli_fail("out of memory");
}

static int add_node(tree *t, int parent, int calls) {
    node *x = &t->nodes[t->n];
    x->parent = parent;
    x->depth = parent < 0 ? 0 : t->nodes[parent].depth + 1;
    x->calls = calls;
    x->ran = -1;
    if (x->depth > t->depth) t->depth = x->depth;
    return t->n++;
}

static void add_step(tree *t, int at, int ran, int valid) {
    if (ran && t->nodes[at].ran < 0) {
        t->nodes[at].ran = t->n_steps;
        t->nodes[at].valid = valid;
    }
    t->ends[t->n_steps++] = at;
}

/* How many programs the search ran: up to the last that has a parent. Those behind it were run later, from a menu. */
static int n_of_search(const trials *all) {
    int n = all->n;
    while (n > 1 && !all->items[n - 1].parent) n--;
    return n;
}

/* From the programs that were run and their parents: the first is the root, and on it hang parents that were not run,
 * and programs without a parent, which were tried before those of the tree. */
static int read_trajectory(tree *t, const trials *all) {
    trials known = {.n_layer = all->n_layer}; /* as the nodes are numbered */
    int status = tree_room(t, 2 * all->n, all->n);
    for (int i = 0; i < n_of_search(all) && !status; i++) {
        const trial *x = &all->items[i];
        int at = trials_find(&known, x->path, x->n), parent = i ? 0 : -1;
        if (i && x->parent && (parent = trials_find(&known, x->parent, x->n_parent)) < 0) {
            if (!trials_add(&known, x->parent, x->n_parent, NULL, 0)) status = cli_fail("out of memory");
            parent = add_node(t, 0, x->n_parent);
        }
        if (at < 0 && !status) {
            if (!trials_add(&known, x->path, x->n, NULL, 0)) status = cli_fail("out of memory");
            at = add_node(t, parent, x->n);
        }
        if (!status) add_step(t, at, 1, x->reward > 0);
    }
    trials_free(&known);
    return status;
}

/* From the log of all simulations. 0, 1 after a message, or -1 if the log is broken. */
static int read_log(tree *t, const json *nodes, const json *steps, int identity_is_valid) {
    int status = tree_room(t, (int)nodes->length, (int)steps->length + 1);
    for (const json *v = nodes->child; v && !status; v = v->next) {
        int parent;
        if (v->type != JSON_ARRAY || v->length != 2 || !json_int(v->child, &parent) || parent >= t->n ||
            (parent < 0) != (t->n == 0) || v->child->next->length > POLAR_MAX_CALLS)
            return -1;
        add_node(t, parent, (int)v->child->next->length);
    }
    if (status || !t->n) return status ? status : -1;
    add_step(t, 0, 1, identity_is_valid);
    for (const json *v = steps->child; v; v = v->next) {
        int at, valid, ran;
        if (v->type != JSON_ARRAY || v->length != 3 || !json_int(v->child, &at) || !json_int(v->child->next, &valid) ||
            !json_int(v->child->next->next, &ran) || at < 0 || at >= t->n)
            return -1;
        add_step(t, at, ran, valid > 0);
    }
    return 0;
}

/* --- pictures ----------------------------------------------------------------------------------------------------- */

/* Leaves stand side by side in the order of the tree, parents in the middle above their children. */
static int place(tree *t) {
    int *begin = calloc((size_t)t->n + 1, sizeof *begin); /* where the next child of a node begins, in leaves */
    if (!begin) return cli_fail("out of memory");
    for (int i = t->n - 1; i >= 0; i--) {
        node *x = &t->nodes[i];
        if (!x->leaves) x->leaves = 1;
        if (i) t->nodes[x->parent].leaves += x->leaves;
    }
    for (int i = 0; i < t->n; i++) {
        node *x = &t->nodes[i];
        if (i) begin[i] = begin[x->parent];
        if (i) begin[x->parent] += x->leaves;
        x->x = begin[i] + 0.5 * x->leaves;
    }
    free(begin);
    return 0;
}

static int shortest_valid(const tree *t) {
    int best = -1;
    for (int i = 0; i < t->n; i++)
        if (t->nodes[i].valid && (best < 0 || t->nodes[i].calls < t->nodes[best].calls)) best = i;
    return best;
}

/* The tree as it is after so many steps. Lines are as thick as their share of the visits. */
static void put_frame(const tree *t, int n_steps, int shortest) {
    const double width = 380.0 / t->nodes[0].leaves, level = t->depth > 4 ? 160.0 / t->depth : 40;
    const double room = width < level ? width : level, r = room > 8 ? 4 : room > 2.6 ? room / 2 : 1.3;
    page_plot p = {.f = t->f};
    int valid = 0, ran = 0;
    for (int i = 0; i < t->n; i++) t->nodes[i].visits = 0;
    for (int i = 0; i < n_steps; i++)
        for (int at = t->ends[i]; at >= 0; at = t->nodes[at].parent) t->nodes[at].visits++;
    fprintf(t->f, "<figure>");
    page_picture_begin(&p, "the tree of the search", 20 + level * t->depth);
    for (int i = 1; i < t->n; i++) {
        const node *x = &t->nodes[i], *parent = &t->nodes[x->parent];
        if (!x->visits) continue;
        fprintf(t->f, "<path class=\"edge\" stroke-width=\"%.1f\" d=\"M%.1f %.1fL%.1f %.1f\"><title>visits: %d</title>"
                "</path>\n", 0.7 + 5.0 * x->visits / n_steps, 10 + parent->x * width, 10 + level * parent->depth,
                10 + x->x * width, 10 + level * x->depth, x->visits);
    }
    for (int i = 0; i < t->n; i++) {
        const node *x = &t->nodes[i];
        const int known = x->ran >= 0 && x->ran < n_steps, good = known && x->valid;
        if (!x->visits) continue;
        ran += known;
        valid += good;
        fprintf(t->f, "<g class=\"%s\"><circle class=\"mark%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>",
                !known ? "dim" : good ? "right" : "wrong", good || !known ? "" : " hollow", 10 + x->x * width,
                10 + level * x->depth, known ? r : 0.8);
        if (i == shortest && good)
            fprintf(t->f, "<circle class=\"whisker\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>", 10 + x->x * width,
                    10 + level * x->depth, r + 3);
        fprintf(t->f, "</g>\n");
    }
    page_plot_end(&p);
    fprintf(t->f, "<figcaption>%d simulation%s: %d programs run, %d valid.</figcaption></figure>\n", n_steps - 1,
            n_steps == 2 ? "" : "s", ran, valid);
}

/* Frames after the first simulations and after about twice as many each time, up to all. */
static void put_frames(const tree *t) {
    const int shortest = shortest_valid(t), n = t->n_steps - 1;
    fprintf(t->f, "<div class=\"two\">\n");
    for (int i = FRAMES - 1, before = -1; i >= 0; i--) {
        const int simulations = (n + (1 << i) - 1) >> i;
        if (simulations == before) continue;
        put_frame(t, simulations + 1, shortest);
        before = simulations;
    }
    fprintf(t->f, "</div>\n");
}

/* --- steps as a list -------------------------------------------------------------------------------------------- */

static void put_list(FILE *f, const trials *all) {
    const int n = n_of_search(all);
    fprintf(f, "<ul class=\"steps\">\n");
    for (int i = 0; i < n && i < SHOWN; i++) {
        const trial *x = &all->items[i];
        const int good = x->reward > 0, parent = x->parent ? trials_find(all, x->parent, x->n_parent) : -1;
        int times[POLAR_MAX_LAYER] = {0};
        report_times(all->n_layer, x->path, x->n, times);
        fprintf(f, "<li><small class=\"number\">%d</small> ", i);
        page_strip(f, times, all->n_layer);
        if (parent >= 0) fprintf(f, " <small>from %d</small>", parent);
        fprintf(f, " <b class=\"%s\">%s", good ? "right" : "wrong", good ? "&#10003; " : "&#10007; ");
        page_text(f, x->answer ? x->answer : "", 12);
        fprintf(f, "</b></li>\n");
    }
    fprintf(f, "</ul>\n");
    if (n > SHOWN) fprintf(f, "<p class=\"dim\">and %d further programs.</p>\n", n - SHOWN);
}

/* --- the part of the page ---------------------------------------------------------------------------------------- */

static void put_head(FILE *f, const json *sample, int question, int is_log) {
    const char *text = json_get_text(sample, "question"), *reference = json_get_text(sample, "gt_ans");
    if (!text) text = json_get_text(json_get(sample, "sample_info"), "question");
    fprintf(f, "<h3>One search, step by step</h3>\n<p>Question %d: ", question);
    page_text(f, text ? text : "", 600);
    fprintf(f, " <small>answer: ");
    page_text(f, reference ? reference : "", 80);
    fprintf(f, "</small></p>\n<p class=\"dim\">At the top the identity; below a program those with one edit more. "
            "Filled: "
            "<b class=\"right\">valid</b>, hollow: <b class=\"wrong\">not</b>, with a ring: the shortest valid one%s. "
            "A line is as thick as its share of the visits.</p>\n",
            is_log ? ", dots: passed and not run" : "");
}

static int put_tree(tree *t, const char *path, const json *sample, const trials *all, int question, int is_wanted) {
    const json *nodes = json_get(sample, "search_nodes"), *steps = json_get(sample, "search_simulations");
    const int is_log = nodes && steps && nodes->type == JSON_ARRAY && steps->type == JSON_ARRAY;
    int status = is_log ? read_log(t, nodes, steps, all->n && all->items[0].reward > 0) : read_trajectory(t, all);
    if (status < 0) return cli_fail("%s: question %d: the log of its search is broken", path, question);
    if (!status && t->n_steps < 2)
        return is_wanted ? cli_fail("%s: question %d has no \"search_trajectory\" to draw", path, question) : 0;
    if (!status && !(status = place(t))) {
        put_head(t->f, sample, question, is_log);
        put_frames(t);
        put_list(t->f, all);
    }
    return status;
}

int report_tree(FILE *f, const char *path, int n_layer, int question, int is_wanted) {
    tree t = {.f = f};
    trials all = {.n_layer = n_layer};
    const json *sample = NULL;
    cli_objects o;
    int status = 1;
    if (!cli_objects_open(&o, path)) return 1;
    for (int i = 0; i <= question; i++) sample = cli_objects_next(&o);
    if (!trials_read(&all, sample))
        cli_fail("%s: question %d: a path in its \"search_trajectory\" is no list of layers", path, question);
    else status = put_tree(&t, path, sample, &all, question, is_wanted);
    free(t.nodes);
    free(t.ends);
    trials_free(&all);
    cli_objects_close(&o);
    return status;
}
