/* Pages of polar report: HTML and SVG in pieces. Everything is inline, text is escaped. See page.c. */
#ifndef PAGE_H
#define PAGE_H

#include "cli.h"

void page_begin(FILE *f, const char *title);
void page_end(FILE *f);

/* Text with <, >, & and quotes escaped, bytes that are no UTF-8 and control characters replaced; at most `max`
 * characters, then an ellipsis (0: all). */
void page_text(FILE *f, const char *text, int max);

/* A strip of layers: skipped, once, twice, ... */
void page_strip(FILE *f, const int *times, int n_layer);
/* What the colours of a strip mean. */
void page_legend(FILE *f);

/* A diagram with axes; data coordinates are mapped to the plot. */
typedef struct page_plot {
    FILE *f;
    double left, top, width, height; /* of the plot area in units of the picture */
    double x0, x1, y0, y1;           /* data */
    int log_x;
} page_plot;
/* Begins a picture with a title; y is drawn in percent if y_percent, x with ticks at `n_ticks` places (values as
 * `format` prints them). */
void page_plot_begin(page_plot *p, const char *title, const char *x_title, const char *y_title, int y_percent);
void page_plot_x_ticks(page_plot *p, const double *ticks, int n_ticks, const char *format);
void page_plot_x_labels(page_plot *p, const char *const *labels, int n); /* at 0, 1, 2, ... */
double page_x(const page_plot *p, double x);
double page_y(const page_plot *p, double y);
/* A polyline, of points that may have intervals (NULL: none). `kind` names its colour, see the style. */
void page_plot_line(page_plot *p, const double *x, const double *y, int n, const char *kind);
void page_plot_point(page_plot *p, double x, double y, double low, double high, const char *kind, const char *label,
                     int hollow);
void page_plot_bar(page_plot *p, double x0, double x1, double y, const char *kind, const char *tip);
void page_plot_end(page_plot *p);

#endif /* PAGE_H */
