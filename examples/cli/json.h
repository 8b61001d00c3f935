/* JSON: a reader into a tree, and a writer. It needs the C library only, so that it can be taken along alone. */
#ifndef JSON_H
#define JSON_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum json_type {
    JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT
} json_type;

/* A value. `text` is a string unescaped (it may hold NULs: use length), or a number as it was written. */
typedef struct json {
    json_type type;
    const char *key; /* of a member of an object, else NULL */
    const char *text;
    size_t length; /* bytes of text, or number of elements or members */
    double number;
    const struct json *child; /* first element or member */
    const struct json *next;  /* next one of the same array or object */
} json;

typedef struct json_document json_document;
/* Reads one JSON value (RFC 8259; NaN, Infinity and -Infinity, which some programs write, are null). NULL if the text
 * is none: *error says why and *at where (byte offset). */
json_document *json_read(const char *text, size_t length, const char **error, size_t *at);
const json *json_root(const json_document *document);
void json_free(json_document *document);

/* The member of that name, the first of them, or NULL (also if `object` is NULL or no object). */
const json *json_get(const json *object, const char *key);
/* Text of a string member, or NULL. */
const char *json_get_text(const json *object, const char *key);
/* 1 and *value if it is a whole number that fits an int. */
int json_int(const json *value, int *number);
/* 1 and *value if it is 0..2^64-1, written without exponent or fraction. */
int json_u64(const json *value, uint64_t *number);
/* An array of whole numbers as int32_t, to be freed; *n their number. NULL if it is anything else. */
int32_t *json_ints(const json *array, size_t *n);

/* Writing. Strings are quoted and escaped, bytes that are not UTF-8 become U+FFFD. Numbers are the shortest
 * that read back as the same float or double; those that are not finite become null. */
void json_put_string(FILE *f, const char *text, size_t length);
void json_put_text(FILE *f, const char *text);
void json_put_double(FILE *f, double x);
void json_put_float(FILE *f, float x);
/* A member of an object after others: ,"name":x */
void json_put_number(FILE *f, const char *name, double x);
void json_put_ints(FILE *f, const int *values, size_t n);
void json_put_floats(FILE *f, const float *values, size_t n);

#endif /* JSON_H */
