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

/* A row of a table: a label, a bar as long as part / n, both numbers. `kind` names its colour, see the style. */
void page_meter(FILE *f, const char *label, int part, int n, const char *kind);

/* A picture, 400 units wide so that it can be read on a telephone, in which no two texts meet. In a diagram data
 * coordinates are mapped to the plot. */
enum { PAGE_BOXES = 512 };
typedef struct page_plot {
    FILE *f;
    double left, top, width, height; /* of the plot area in units of the picture */
    double x0, x1, y0, y1;           /* data */
    int log_x, second_row;           /* second_row: labels of the x axis may need two rows */
    double picture_height;
    double boxes[PAGE_BOXES][4]; /* x0, y0, x1, y1: texts, and marks that no text may cover */
    int n_boxes;
} page_plot;
/* Begins a picture of that height with a title that is not drawn. */
void page_picture_begin(page_plot *p, const char *title, double height);
/* Writes a text that begins (anchor -1), has its middle (0) or ends (1) at x, its baseline at y, of at most `max`
 * characters (0: all). Returns 1, or 0 and writes nothing where it would meet another or leave the picture. */
int page_picture_text(page_plot *p, double x, double y, int anchor, const char *kind, const char *text, int max);
/* Begins a diagram; y is drawn in percent if y_percent. */
void page_plot_begin(page_plot *p, const char *title, const char *x_title, const char *y_title, int y_percent);
/* Ticks at multiples of unit, or, where their labels would meet, of 2, 5, 10, .. units. */
void page_plot_x_axis(page_plot *p, double unit);
/* The step of whole numbers whose labels need that many units: 1, 2, 5, 10, .. */
int page_tick_step(double units);
void page_plot_x_ticks(page_plot *p, const double *ticks, int n_ticks); /* labels that would meet are left out */
void page_plot_x_labels(page_plot *p, const char *const *labels, int n); /* at 0, 1, 2, ..., cut where too long */
double page_x(const page_plot *p, double x);
double page_y(const page_plot *p, double y);
void page_plot_line(page_plot *p, const double *x, const double *y, int n, const char *kind);
/* A line that keeps its height until the next point. */
void page_plot_steps(page_plot *p, const double *x, const double *y, int n, const char *kind);
/* A point; with an interval from low to high, if high > low. tip: shown by the browser, or "". */
void page_plot_point(page_plot *p, double x, double y, double low, double high, const char *kind, const char *tip,
                     int hollow);
/* Names a point, near it, with a line to it if that is not next to it; after all points are drawn. */
void page_plot_label(page_plot *p, double x, double y, const char *kind, const char *label);
/* From x0 to x1 and from y0 to y1. */
void page_plot_bar(page_plot *p, double x0, double x1, double y0, double y1, const char *kind, const char *tip);
void page_plot_end(page_plot *p);

/* A picture of `rows` rows of n cells, labels on the left, numbers of the cells below; a cell is drawn at
 * page_x(column) and page_y(row). */
void page_heat_begin(page_plot *p, const char *title, int n, int rows);
/* The label of a row and a text on its right. */
void page_heat_label(page_plot *p, int row, const char *label, const char *right);

#endif /* PAGE_H */
