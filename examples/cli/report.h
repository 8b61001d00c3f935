/* Parts of polar report: report.c (the command, searches), report_eval.c (evaluations),
 * report_scan.c (scans). */
#ifndef REPORT_H
#define REPORT_H

#include "page.h"
#include "score.h"

/* One section of the page, of the file at `path`; 0, or 1 after a message. */
int report_eval(FILE *f, const char *path);
int report_scan(FILE *f, const char *path, const json *header);

/* Rows of a list of terms: `name`, and the JSON value's text. */
void report_term(FILE *f, const char *name, const json *value);

#endif /* REPORT_H */
