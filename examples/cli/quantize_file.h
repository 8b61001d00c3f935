/* GGUF models in another tensor type. On polar.h and encode.h, without the rest of the command. */
#ifndef QUANTIZE_FILE_H
#define QUANTIZE_FILE_H

#include "polar.h"

/* {0} are the defaults; so is NULL. */
typedef struct quantize_options {
    int n_threads;                    /* 0: one per core. Ignored with a runner */
    const polar_runner *runner;
    int pure;                         /* 1: the same type for all matrices, instead of a mix */
    polar_progress progress;          /* NULL, or called as work goes on; can cancel */
    void *progress_user;
} quantize_options;

/* The tensors of one type in the new file. */
typedef struct quantize_part {
    const char *type; /* "Q4_K", ... */
    int n_tensors;
    int64_t n_params, bytes;
    double error; /* of those that were converted, as below */
} quantize_part;

/* Errors are round-trip errors: root of the mean squared change of the numbers, over the root of their mean
 * square. */
typedef struct quantize_report {
    int n_tensors, n_converted;  /* all, and those whose type changed */
    int n_requantized;           /* converted ones that were quantized before: errors add up */
    int n_fallback;              /* matrices whose rows do not fit the type wanted and got a near one */
    int64_t bytes_in, bytes_out; /* of all tensors */
    double error;                /* over all converted numbers */
    double worst_error;          /* of the tensor that suffered most */
    char worst_tensor[80];       /* its name, cut */
    const char *worst_type;      /* what it became; NULL if nothing was converted */
    int n_parts;
    quantize_part parts[16];
} quantize_report;

/* The names that quantize_file takes as a type: "Q4_K_M", ...; NULL past the last one. */
const char *quantize_type_name(int index);

/* Rewrites the GGUF model `in` with its matrices in another type ("Q8_0", "Q4_K_M", ...; any case). Vectors,
 * norms and routers stay as they are; rows that a type does not fit get a near one; metadata is copied and
 * general.file_type set; parts of a split model become one file. `out` appears when it is complete; it must be no
 * file that is read, by whatever name. A tensor with a number that is not finite is refused. The same bytes come out on every machine, with any
 * number of threads. report may be NULL. */
polar_status quantize_file(const char *in, const char *out, const char *type, const quantize_options *options,
                            quantize_report *report, polar_error *error);

#endif /* QUANTIZE_FILE_H */
