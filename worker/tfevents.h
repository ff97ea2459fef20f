/* tfevents.h - scalars as TensorBoard reads them: events.out.tfevents.TIME.HOST.PID.0, a record per step. */
#pragma once

#include "worker/record.h"

typedef struct psd_tfevents psd_tfevents_t;

/* Begin a file in `dir`, which is there. NULL with PSD_EIO, PSD_ENOMEM. */
psd_tfevents_t *psd_tfevents_new(const char *dir, double unix_s, psd_err_t *err);
void psd_tfevents_destroy(psd_tfevents_t **self_p);

/* Append the measures of `step`, each under its name. */
void psd_tfevents_add(psd_tfevents_t *self, double unix_s, uint64_t step, const psd_measure_t *measures, size_t n);

/* Flush the added records to the system. 0, or the errno of the first write that failed. */
int psd_tfevents_flush(psd_tfevents_t *self);
