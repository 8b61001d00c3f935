/* Floats to the quantized blocks of GGUF files: the integers with the least squared error. Needs nothing else, so that it
 * can be taken along alone; polar_gguf_dequantize reads them back. The same bytes come out on every machine. */
#ifndef ENCODE_H
#define ENCODE_H

#include <stddef.h>
#include <stdint.h>

/* The types that can be written, by their numbers in GGUF files. */
enum {
    ENCODE_F32 = 0, ENCODE_F16 = 1, ENCODE_BF16 = 30, ENCODE_Q8_0 = 8, ENCODE_Q4_0 = 2, ENCODE_Q4_1 = 3,
    ENCODE_Q5_0 = 6, ENCODE_Q5_1 = 7, ENCODE_IQ4_NL = 20, ENCODE_Q2_K = 10, ENCODE_Q3_K = 11,
    ENCODE_Q4_K = 12, ENCODE_Q5_K = 13, ENCODE_Q6_K = 14, ENCODE_IQ4_XS = 23,
    ENCODE_N = 15
};

typedef struct encode_type {
    const char *name;
    int id;
    int block, bytes; /* numbers and bytes of a block; a float is a block of 1 */
    void (*encode)(const float *x, uint8_t *dst); /* one block */
} encode_type;

extern const encode_type encode_types[ENCODE_N];
/* The row of a type; NULL if it cannot be written. */
const encode_type *encode_find(int id);

#endif /* ENCODE_H */
