/* What holds for every page of polar report. */
#ifndef TEST_PAGE_H
#define TEST_PAGE_H

/* The number of an attribute of the tag at `tag`; `otherwise` without it. */
static double attribute(const char *tag, const char *name, double otherwise) {
    char text[32];
    const char *at, *end = strchr(tag, '>');
    snprintf(text, sizeof text, " %s=\"", name);
    at = strstr(tag, text);
    return at && end && at < end ? strtod(at + strlen(text), NULL) : otherwise;
}

/* A text has a box: of 13 units' height, 0.62 of that for each character, as wide as letters of common fonts are in the
 * mean, 1 for those that take three bytes. */
typedef struct text_box {
    double x0, y0, x1, y1;
    const char *tag;
} text_box;

static text_box box_of(const char *tag) {
    const char *anchor = strstr(tag, "text-anchor=\""), *end = strchr(tag, '>');
    const double x = attribute(tag, "x", -1), y = attribute(tag, "y", -1);
    double width = 0, left;
    text_box b;
    for (const char *s = end + 1; *s && *s != '<';) {
        const int length = utf8_length(s, strlen(s));
        width += length > 2 ? 13 : 0.62 * 13;
        s += *s == '&' ? (int)(strchr(s, ';') - s) + 1 : length ? length : 1;
    }
    left = !anchor || anchor > end ? x : anchor[13] == 'e' ? x - width : x - width / 2;
    b = (text_box){left, y - 11, left + width, y + 3, tag};
    return b;
}

/* In a picture no two texts meet, and none leaves it. */
static void check_picture(const char *path, const char *svg) {
    static text_box boxes[1000];
    const char *view = strstr(svg, "viewBox=\"0 0 "), *end = strstr(svg, "</svg>");
    double width = 0, height = 0;
    int n = 0, ok = 1;
    CHECK(view && end && sscanf(view + 13, "%lf %lf", &width, &height) == 2);
    for (const char *s = svg; end && (s = strstr(s, "<text ")) != NULL && s < end && n < COUNT(boxes); s++)
        boxes[n++] = box_of(s);
    for (int i = 0; i < n; i++) {
        const text_box *a = &boxes[i];
        ok &= a->x0 >= 0 && a->y0 >= 0 && a->x1 <= width && a->y1 <= height;
        for (int k = 0; k < i; k++) {
            const text_box *b = &boxes[k];
            ok &= a->x1 <= b->x0 || b->x1 <= a->x0 || a->y1 <= b->y0 || b->y1 <= a->y0;
        }
        CHECK(ok);
        if (!ok) {
            printf("%s: %.*s\n", path, (int)strcspn(a->tag, "\n"), a->tag);
            break;
        }
    }
}

/* Tags are balanced, attributes quoted, nothing is loaded from elsewhere. */
static void check_page(const char *path) {
    static const char *const forbidden[] = {"<script", "http:", "https:", "src=", "href=", "url(", "@import",
                                            "javascript:", "nan", "inf\"", "%!"};
    static const char *const empty[] = {"meta", "br"};
    size_t n;
    char *page = read_back(path, &n), open[64][16];
    int depth = 0;
    CHECK(n > 1000 && !strncmp(page, "<!DOCTYPE html>", 15));
    for (int i = 0; i < COUNT(forbidden); i++) {
        CHECK(!strstr(page, forbidden[i]));
        if (strstr(page, forbidden[i])) printf("%s: %.60s\n", forbidden[i], strstr(page, forbidden[i]));
    }
    for (char *s = strchr(page + 15, '<'); s; s = strchr(s, '<')) {
        char name[16] = "";
        int quotes = 0, closes = s[1] == '/', is_empty = 0;
        const char *end;
        if (sscanf(s + 1 + closes, "%15[a-z0-9]", name) != 1) {
            CHECK(0);
            break;
        }
        for (end = s; *end && (*end != '>' || quotes); end++) quotes ^= *end == '"';
        CHECK(*end == '>');
        for (int i = 0; i < COUNT(empty); i++) is_empty |= !strcmp(name, empty[i]);
        if (closes) {
            const int ok = depth > 0 && !strcmp(open[depth - 1], name);
            CHECK(ok);
            if (!ok) {
                printf("%.80s\n", s);
                break;
            }
            depth--;
        } else if (!is_empty && end[-1] != '/' && depth < 64) strcpy(open[depth++], name);
        s = strchr(s, '>') ? s + 1 : s + 1;
    }
    CHECK(depth == 0);
    for (const char *svg = page; (svg = strstr(svg, "<svg ")) != NULL; svg++) check_picture(path, svg);
    free(page);
}

#endif
