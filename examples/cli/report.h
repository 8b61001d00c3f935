/* Parts of polar report: report.c (the command, loss curves), report_search.c and report_tree.c (searches),
 * report_eval.c (evaluations), report_scan.c (scans). */
#ifndef REPORT_H
#define REPORT_H

#include "page.h"
#include "score.h"

/* One section of the page, of the file at `path`; 0, or 1 after a message. header: NULL without one. question: the one
 * whose search is drawn, from 0, or -1. */
int report_eval(FILE *f, const char *path);
int report_scan(FILE *f, const char *path, const json *header);
int report_search(FILE *f, const char *path, const json *header, int question);

/* The search of one question, step by step; where the file does not say it nothing, or a message if it is wanted. */
int report_tree(FILE *f, const char *path, int n_layer, int question, int is_wanted);

/* Executions of each layer by calls, negative where they are damped passes; times begins with zeros. */
void report_times(int n_layer, const int *calls, int n, int *times);

/* Rows of a list of terms: `name`, and the JSON value's text. */
void report_term(FILE *f, const char *name, const json *value);

#endif /* REPORT_H */
