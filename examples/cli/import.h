/* Predictors that other programs trained, as files of polar. Needs json.c; usable without the rest of the command. */
#ifndef IMPORT_H
#define IMPORT_H

#include "polar.h"

/* Weights trained with the code of [P] or [R] (see polar.h): safetensors, or what torch.save writes (a zip of stored
 * entries with a pickle of tensors; anything else in it is refused). A frozen encoder's tensors are skipped. `data`
 * (size bytes) is the whole file, `file` its name for messages. n_head: of attention; 0: what the file says, or 4.
 * Features are those of an encoder until polar_predictor_set_info says otherwise. On failure *out is NULL. */
polar_status import_predictor(polar_predictor **out, const char *file, const void *data, size_t size, int n_head,
                              polar_error *error);

#endif /* IMPORT_H */
