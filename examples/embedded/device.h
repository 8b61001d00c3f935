/* What device.c offers to the rest of a firmware. */
#ifndef DEVICE_H
#define DEVICE_H

#include "polar.h"

typedef struct device_memory {
    size_t model, peak; /* bytes of the block in use with the model open, and at most */
} device_memory;

/* Generates n tokens after the prompt, greedily, under a program of layers (text form). All memory comes from `block`.
 */
polar_status device_generate(const int32_t *prompt, int n_prompt, const char *program, int32_t *tokens, int n,
                             void *block, size_t block_bytes, device_memory *memory, polar_error *error);

#endif
