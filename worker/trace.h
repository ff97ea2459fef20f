/* trace.h - the weights of every step as hashes, a line per tensor: "STEP WORLD SHA256 TENSOR". psdctl verify compares two runs
 * that should be the same line by line. Several workers may add to one file. One thread at a time. */
#pragma once

#include <stdint.h>
#include <stdio.h>

#include "worker/model.h"

typedef struct psd_trace psd_trace_t;

/* Open `path` to add to it. NULL with `err` set: PSD_EIO, PSD_ENOMEM. */
psd_trace_t *psd_trace_new(const char *path, psd_err_t *err);

/* Close it; NULL inside is fine. */
void psd_trace_destroy(psd_trace_t **self_p);

/* Add the hashes of the `n` tensors after `step`, in a view of `world` workers. PSD_EIO. */
int psd_trace_step(psd_trace_t *self, uint64_t step, uint32_t world, const psd_param_t *params, size_t n, psd_err_t *err);

/* A line of such a file. */
typedef struct psd_trace_line {
    uint64_t step;
    uint32_t world;
    char sha256[65], tensor[64];
} psd_trace_line_t;

/* Read the next line of `file`; false at its end, and at a malformed line. */
bool psd_trace_read(FILE *file, psd_trace_line_t *out);
