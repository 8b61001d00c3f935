/* Predictors as the files that polar_predictor_save makes of them. */
#ifndef SAVED_H
#define SAVED_H
#include "polar.h"
#include <stdio.h>
#include <stdlib.h>

/* The bytes of its file, *n of them, to be freed; NULL after an error. */
static inline void *saved_bytes(const polar_predictor *p, size_t *n, polar_error *e) {
    void *bytes = polar_predictor_save(p, NULL, 0, n, e) ? NULL : malloc(*n);
    if (bytes && !polar_predictor_save(p, bytes, *n, n, e)) return bytes;
    free(bytes);
    return NULL;
}

/* Opened again from its bytes; NULL after an error. */
static inline polar_predictor *saved_again(const polar_predictor *p, polar_error *e) {
    size_t n;
    void *bytes = saved_bytes(p, &n, e);
    polar_predictor *again = NULL;
    if (bytes) polar_predictor_open_memory(&again, bytes, n, NULL, e);
    free(bytes);
    return again;
}

/* Writes the file; 1 if all of it is there. */
static inline int saved_file(const polar_predictor *p, const char *path) {
    size_t n;
    void *bytes = saved_bytes(p, &n, NULL);
    FILE *f = bytes ? fopen(path, "wb") : NULL;
    int whole = f && fwrite(bytes, 1, n, f) == n;
    if (f && fclose(f)) whole = 0;
    free(bytes);
    return whole;
}
#endif
