/* HTML and SVG for polar report: one page that needs no script, no network and no other file. */
#include "page.h"

/* Colours follow the reader's preference; on paper they are those of the light page. */
static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1d2430;--dim:#5b6675;--line:#d6dbe2;--soft:#f3f5f8;"
    "--once:#8fa3bd;--skip:#fff;--l2:#f0b04a;--l3:#e0752d;--l4:#b3361f;--blue:#1f6fc4;--green:#2b8a4b;"
    "--red:#c0392b;--violet:#7a4fb5;--orange:#c9731b}"
    "@media (prefers-color-scheme:dark){:root{--bg:#12161c;--fg:#e4e8ee;--dim:#9aa5b4;--line:#343c48;"
    "--soft:#1b212a;--once:#5d728c;--skip:#12161c;--l2:#d9982f;--l3:#e0752d;--l4:#e2543a;"
    "--blue:#6aaef2;--green:#5fc383;--red:#f07f70;--violet:#b394e6;--orange:#eba456}}"
    "@media print{:root{color-scheme:light;--bg:#fff;--fg:#000;--dim:#444;--line:#bbb;--soft:#fff;"
    "--once:#8fa3bd;--skip:#fff;--l2:#f0b04a;--l3:#e0752d;--l4:#b3361f;--blue:#1f6fc4;--green:#2b8a4b;"
    "--red:#c0392b;--violet:#7a4fb5;--orange:#c9731b}"
    "figure,tr,li{break-inside:avoid}h2,h3{break-after:avoid}"
    "*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}"
    "body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:66rem;background:var(--bg);color:var(--fg);"
    "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
    "h1{font-size:1.7rem;margin:.2rem 0}"
    "h2{font-size:1.3rem;margin:2.5rem 0 .4rem;border-top:1px solid var(--line);padding-top:1.2rem}"
    "h3{font-size:1.05rem;margin:1.8rem 0 .3rem}p{margin:.4rem 0 .8rem;max-width:46rem}"
    ".dim,figcaption,small{color:var(--dim)}figcaption{font-size:.88rem;max-width:46rem}"
    "figure{margin:.6rem 0 1.4rem}.wide{overflow-x:auto}"
    "table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}"
    "th,td{padding:.22rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th{color:var(--dim);font-weight:600;vertical-align:bottom}td.l,th.l{text-align:left}"
    "tr.oracle td{color:var(--dim);font-style:italic}tr.pick td{font-weight:600}"
    "td.note{white-space:normal;min-width:12rem;color:var(--dim);font-weight:400}"
    ".two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:0 1.5rem}"
    ".two>*{min-width:0}svg.plot{width:100%;max-width:32rem;height:auto;display:block}"
    "svg text{fill:var(--fg);font-size:13px;font-family:inherit}svg .dim{fill:var(--dim)}"
    "svg .axis{stroke:var(--line);stroke-width:1;fill:none}svg .strong{stroke:var(--dim)}"
    "svg .mark{stroke:currentColor;fill:currentColor}svg .hollow{fill:var(--bg)}"
    "svg .curve{fill:none;stroke:currentColor;stroke-width:2}svg .bar{fill:currentColor}"
    "svg .whisker{stroke:currentColor;stroke-width:1.4;fill:none}"
    ".identity{color:var(--fg)}.pick{color:var(--blue)}.other{color:var(--violet)}.baseline{color:var(--orange)}"
    ".oracle{color:var(--green)}.wrong{color:var(--red)}.right{color:var(--green)}"
    "tr.pick,tr.oracle,tr.identity,tr.baseline,tr.other{color:inherit}"
    "svg.strip{vertical-align:middle;height:1.05em;width:auto;max-width:100%}"
    "svg.strip rect{stroke:var(--dim);stroke-width:.7}"
    "svg .edge{stroke:var(--dim);fill:none;opacity:.55}"
    "ul.steps{list-style:none;padding:0;columns:20rem;font-size:.88rem}"
    ".number{display:inline-block;min-width:2em;text-align:right}"
    "svg.meter{width:4rem;height:.8rem;vertical-align:middle;background:var(--soft)}td.label{white-space:normal}"
    ".k0{fill:var(--skip)}.k1{fill:var(--once)}.k2{fill:var(--l2)}.k3{fill:var(--l3)}.k4{fill:var(--l4)}"
    ".k0{stroke-dasharray:2 1.6}"
    "ul.questions{list-style:none;padding:0}ul.questions li{margin:.9rem 0;padding:.5rem .8rem;"
    "background:var(--soft);border-radius:.4rem;overflow-wrap:anywhere}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:.88rem}"
    "dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,Menlo,Consolas,monospace}"
    "dl.notes dd{font-family:inherit}"
    "@media (max-width:40rem){body{font-size:15px;padding:1rem .8rem 3rem}th,td{padding:.2rem .4rem}"
    "dl{grid-template-columns:1fr}}"
    "@media print{html{font-size:11px}body{font-size:1rem;max-width:none;padding:0}.two{grid-template-columns:1fr 1fr}"
    ".wide{overflow:visible}th,td{padding:.15rem .35rem;font-size:10px}ul.steps{columns:2}}";

void page_begin(FILE *f, const char *title) {
    fprintf(f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            "<meta name=\"generator\" content=\"polar\">\n"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
            "style-src 'unsafe-inline'\">\n<title>");
    page_text(f, title, 0);
    fprintf(f, "</title>\n<style>%s</style>\n</head>\n<body>\n", style);
}

void page_end(FILE *f) {
    fprintf(f, "</body>\n</html>\n");
}

/* Bytes of the UTF-8 character at s, 0 if there is none. */
static int character_length(const unsigned char *s) {
    const int n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

void page_text(FILE *f, const char *text, int max) {
    int n = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s; n++) {
        const int length = character_length(s);
        if (max && n == max) {
            fputs("\xe2\x80\xa6", f);
            return;
        }
        if (*s == '<') fputs("&lt;", f);
        else if (*s == '>') fputs("&gt;", f);
        else if (*s == '&') fputs("&amp;", f);
        else if (*s == '"') fputs("&quot;", f);
        else if (*s == '\'') fputs("&#39;", f);
        else if (*s == '\n' || *s == '\t' || *s == '\r') fputc(' ', f);
        else if (!length || *s < 32 || *s == 127) fputs("\xef\xbf\xbd", f);
        else fwrite(s, 1, (size_t)length, f);
        s += length ? length : 1;
    }
}

/* --- strips --------------------------------------------------------------------------------------------------- */

static void strip_cell(FILE *f, int x, int times) {
    const int n = abs(times) > 4 ? 4 : abs(times);
    fprintf(f, "<rect class=\"k%d\" x=\"%d.5\" y=\".5\" width=\"8\" height=\"14\"/>", n, x);
    if (times < 0) /* damped: a wave */
        fprintf(f, "<path d=\"M%d.5 9q1.5-5 3 -1.5t3-1.5\" fill=\"none\" stroke=\"#fff\" stroke-width=\"1.3\"/>",
                x + 1);
}

void page_strip(FILE *f, const int *times, int n_layer) {
    fprintf(f, "<svg class=\"strip\" role=\"img\" viewBox=\"0 0 %d 15\" aria-label=\"layers executed: ", n_layer * 9);
    for (int i = 0; i < n_layer; i++) fprintf(f, times[i] < 0 ? "%s~%d" : "%s%d", i ? " " : "", abs(times[i]));
    fprintf(f, "\">");
    for (int i = 0; i < n_layer; i++) strip_cell(f, i * 9, times[i]);
    fprintf(f, "</svg>");
}

void page_legend(FILE *f) {
    static const char *const names[] = {"skipped", "once", "twice", "three times", "more", "in damped passes"};
    fprintf(f, "<p class=\"dim\">Strips show the layers from first to last: ");
    for (int i = 0; i < 6; i++) {
        fprintf(f, "<svg class=\"strip\" viewBox=\"0 0 9 15\" aria-hidden=\"true\">");
        strip_cell(f, 0, i < 5 ? i : -2);
        fprintf(f, "</svg> %s%s", names[i], i < 5 ? ", " : ".</p>\n");
    }
}

/* --- diagrams ------------------------------------------------------------------------------------------------- */

/* Natural logarithm to plot with: atanh series, as precise as pixels. */
static double plot_log(double x) {
    double n = 0, s, square, sum = 0, term;
    while (x > 1.5) {
        x /= 2;
        n++;
    }
    while (x > 0 && x < 0.75) {
        x *= 2;
        n--;
    }
    s = (x - 1) / (x + 1);
    square = s * s;
    term = s;
    for (int k = 1; k < 16; k += 2) {
        sum += term / k;
        term *= square;
    }
    return 2 * sum + n * 0.6931471805599453;
}

double page_x(const page_plot *p, double x) {
    const double share = p->log_x ? (plot_log(x) - plot_log(p->x0)) / (plot_log(p->x1) - plot_log(p->x0))
                                  : (x - p->x0) / (p->x1 - p->x0);
    return p->left + share * p->width;
}

double page_y(const page_plot *p, double y) {
    return p->top + (p->y1 - y) / (p->y1 - p->y0) * p->height;
}

/* 1, 2 or 5 times a power of ten, at least x. */
static double round_up(double x) {
    static const double steps[] = {1, 2, 5, 10};
    double power = 1;
    while (power * 10 <= x) power *= 10;
    while (power > x) power /= 10;
    for (int i = 0; i < 4; i++)
        if (steps[i] * power >= x * (1 - 1e-9)) return steps[i] * power;
    return 10 * power;
}

enum { PICTURE_WIDTH = 400, TEXT_SIZE = 13 };

/* Width of a text in units of the picture, rather too large: fonts differ. */
static double text_width(const char *text, int max) {
    double width = 0;
    int n = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s && (!max || n <= max); n++) {
        const int length = character_length(s);
        width += (length > 2 ? 1.05 : 0.66) * TEXT_SIZE;
        s += length ? length : 1;
    }
    return width;
}

/* Whether a box is inside the picture and meets no other. */
static int is_free(const page_plot *p, double x0, double y0, double x1, double y1) {
    for (int i = 0; i < p->n_boxes; i++)
        if (x0 < p->boxes[i][2] && p->boxes[i][0] < x1 && y0 < p->boxes[i][3] && p->boxes[i][1] < y1) return 0;
    return x0 >= 0 && x1 <= PICTURE_WIDTH && y0 >= 0 && y1 <= p->picture_height && p->n_boxes < PAGE_BOXES;
}

static void add_box(page_plot *p, double x0, double y0, double x1, double y1) {
    double *box;
    if (p->n_boxes == PAGE_BOXES) return;
    box = p->boxes[p->n_boxes++];
    box[0] = x0;
    box[1] = y0;
    box[2] = x1;
    box[3] = y1;
}

void page_picture_begin(page_plot *p, const char *title, double height) {
    p->picture_height = height;
    fprintf(p->f, "<svg class=\"plot\" role=\"img\" viewBox=\"0 0 %d %.0f\" aria-label=\"", PICTURE_WIDTH, height);
    page_text(p->f, title, 0);
    fprintf(p->f, "\">\n");
}

int page_picture_text(page_plot *p, double x, double y, int anchor, const char *kind, const char *text, int max) {
    static const char *const anchors[] = {"", " text-anchor=\"middle\"", " text-anchor=\"end\""};
    const double width = text_width(text, max), left = x - width * (anchor + 1) / 2;
    const double top = y - TEXT_SIZE, bottom = y + TEXT_SIZE / 4.0;
    if (!is_free(p, left, top, left + width, bottom)) return 0;
    add_box(p, left, top, left + width, bottom);
    fprintf(p->f, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\"%s>", kind, x, y, anchors[anchor + 1]);
    page_text(p->f, text, max);
    fprintf(p->f, "</text>\n");
    return 1;
}

void page_plot_begin(page_plot *p, const char *title, const char *x_title, const char *y_title, int y_percent) {
    const double step = round_up((p->y1 - p->y0) / 5);
    p->left = 52;
    p->top = 28;
    p->width = 336;
    p->height = 190;
    page_picture_begin(p, title, 261 + 17 * p->second_row);
    page_picture_text(p, 2, 15, -1, "dim", y_title, 0);
    page_picture_text(p, p->left + p->width, p->picture_height - 5, 1, "dim", x_title, 0);
    for (int i = (int)(p->y0 / step); i * step <= p->y1 + step * 1e-6; i++) {
        const double y = page_y(p, i * step);
        char label[32];
        if (i * step < p->y0 - step * 1e-6) continue;
        snprintf(label, sizeof label, "%g%s", y_percent ? 100 * i * step : i * step, y_percent ? " %" : "");
        fprintf(p->f, "<path class=\"axis\" d=\"M%.1f %.1fh%.1f\"/>\n", p->left, y, p->width);
        page_picture_text(p, p->left - 5, y + 5, 1, "dim", label, 0);
    }
    fprintf(p->f, "<path class=\"axis strong\" d=\"M%.1f %.1fv%.1fh%.1f\"/>\n", p->left, p->top, p->height, p->width);
}

/* Labels of an axis stand in rows below it. */
static void x_tick(page_plot *p, double x, const char *label, int row, int max) {
    const double bottom = p->top + p->height;
    fprintf(p->f, "<path class=\"axis strong\" d=\"M%.1f %.1fv4\"/>\n", x, bottom);
    page_picture_text(p, x, bottom + 18 + 17 * row, 0, "dim", label, max);
}

int page_tick_step(double units) {
    return units > 1 ? (int)round_up(units) : 1;
}

void page_plot_x_axis(page_plot *p, double unit) {
    const double widest = p->x1 >= 100 ? 4 : p->x1 >= 10 ? 3 : 2;
    const double room = (unit < 1 ? 4 : widest) * TEXT_SIZE * 0.66 / p->width * (p->x1 - p->x0) / unit;
    const double step = unit * page_tick_step(room);
    for (int i = 0; i * step <= p->x1 + unit * 1e-6; i++) {
        char label[32];
        if (i * step < p->x0 - unit * 1e-6) continue;
        snprintf(label, sizeof label, "%g", i * step);
        x_tick(p, page_x(p, i * step), label, 0, 0);
    }
}

void page_plot_x_ticks(page_plot *p, const double *ticks, int n_ticks) {
    for (int i = 0; i < n_ticks; i++) {
        char label[32];
        if (ticks[i] < p->x0 || ticks[i] > p->x1) continue;
        snprintf(label, sizeof label, "%g", ticks[i]);
        fprintf(p->f, "<path class=\"axis strong\" d=\"M%.1f %.1fv3\"/>\n", page_x(p, ticks[i]), p->top + p->height);
        page_picture_text(p, page_x(p, ticks[i]), p->top + p->height + 18, 0, "dim", label, 0);
    }
}

/* In one row if all fit into their places, else cut to these, which are twice as wide in two rows. */
void page_plot_x_labels(page_plot *p, const char *const *labels, int n) {
    const double place = page_x(p, 1) - page_x(p, 0) - 2, room = place * (1 + p->second_row);
    int fits = 1;
    for (int i = 0; i < n; i++) fits &= text_width(labels[i], 0) <= place;
    for (int i = 0; i < n; i++) {
        int max = fits ? 0 : 32;
        while (max > 1 && text_width(labels[i], max) > room) max--;
        x_tick(p, page_x(p, i), labels[i], fits ? 0 : i % (1 + p->second_row), max);
    }
}

void page_plot_line(page_plot *p, const double *x, const double *y, int n, const char *kind) {
    if (n < 1) return;
    fprintf(p->f, "<path class=\"curve %s\" d=\"", kind);
    for (int i = 0; i < n; i++) fprintf(p->f, "%c%.1f %.1f", i ? 'L' : 'M', page_x(p, x[i]), page_y(p, y[i]));
    fprintf(p->f, "\"/>\n");
}

void page_plot_steps(page_plot *p, const double *x, const double *y, int n, const char *kind) {
    fprintf(p->f, "<path class=\"curve %s\" d=\"", kind);
    for (int i = 0; i < n; i++) {
        if (i) fprintf(p->f, "H%.1fV%.1f", page_x(p, x[i]), page_y(p, y[i]));
        else fprintf(p->f, "M%.1f %.1f", page_x(p, x[i]), page_y(p, y[i]));
    }
    fprintf(p->f, "H%.1f\"/>\n", p->left + p->width);
}

static void put_tip(page_plot *p, const char *tip) {
    if (!*tip) return;
    fprintf(p->f, "<title>");
    page_text(p->f, tip, 0);
    fprintf(p->f, "</title>");
}

void page_plot_point(page_plot *p, double x, double y, double low, double high, const char *kind, const char *tip,
                     int hollow) {
    const double at = page_x(p, x), level = page_y(p, y), r = 3.5;
    fprintf(p->f, "<g class=\"%s\">", kind);
    put_tip(p, tip);
    if (high > low)
        fprintf(p->f, "<path class=\"whisker\" d=\"M%.1f %.1fV%.1f\"/>", at, page_y(p, low), page_y(p, high));
    fprintf(p->f, "<circle class=\"mark%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/></g>\n", hollow ? " hollow" : "", at,
            level, r);
    add_box(p, at - r, level - r, at + r, level + r);
}

void page_plot_label(page_plot *p, double x, double y, const char *kind, const char *label) {
    const double at = page_x(p, x), level = page_y(p, y);
    for (int far = 0; far < 40; far++)
        for (int side = 0; side < 4; side++) {
            const int to_right = side < 2 ? 1 : -1, up = side % 2 ? -1 : 1;
            const double to_x = at + to_right * (5 + 4 * far), to_y = level + 5 - up * (far ? 2 + 5 * far : 9);
            if (to_y > p->top + p->height || !page_picture_text(p, to_x, to_y, to_right > 0 ? -1 : 1, kind, label, 0))
                continue;
            if (far)
                fprintf(p->f, "<path class=\"axis\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", at, level, to_x, to_y - 5);
            return;
        }
}

void page_plot_bar(page_plot *p, double x0, double x1, double y0, double y1, const char *kind, const char *tip) {
    const double left = page_x(p, x0), top = page_y(p, y1);
    fprintf(p->f, "<g class=\"%s\"><rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">", kind,
            left,
            top, page_x(p, x1) - left, page_y(p, y0) - top);
    put_tip(p, tip);
    fprintf(p->f, "</rect></g>\n");
}

void page_plot_end(page_plot *p) {
    fprintf(p->f, "</svg>\n");
}

void page_heat_begin(page_plot *p, const char *title, int n, int rows) {
    p->left = 104;
    p->top = 2;
    p->width = 240;
    p->height = 22 * rows;
    p->x0 = 0;
    p->x1 = n;
    p->y0 = rows;
    p->y1 = 0;
    page_picture_begin(p, title, p->height + 24);
    /* the number of a cell stands below its middle */
    p->x0 = -0.5;
    p->x1 = n - 0.5;
    page_plot_x_axis(p, 1);
    p->x0 = 0;
    p->x1 = n;
}

void page_heat_label(page_plot *p, int row, const char *label, const char *right) {
    const double y = page_y(p, row) + 16;
    page_picture_text(p, p->left - 5, y, 1, "dim", label, 11);
    page_picture_text(p, p->left + p->width + 5, y, -1, "", right, 6);
}

void page_meter(FILE *f, const char *label, int part, int n, const char *kind) {
    fprintf(f, "<tr><td class=\"l label\">%s</td><td><svg class=\"meter\" viewBox=\"0 0 100 12\" aria-hidden=\"true\">"
            "<g class=\"%s\"><rect class=\"bar\" width=\"%.1f\" height=\"12\"/></g></svg></td><td>%d</td>"
            "<td>%.1f&nbsp;%%</td></tr>\n", label, kind, n ? 100.0 * part / n : 0, part, n ? 100.0 * part / n : 0);
}
