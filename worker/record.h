/* record.h - what a run leaves behind in its directory: metrics.jsonl, a flat JSON object per line with what
 * was measured at a step and nothing else, and summary.json; if wanted, the same numbers for spreadsheets,
 * metrics.csv, and for TensorBoard, in tb/. Worker 0's files have these names; worker N has
 * metrics-N.jsonl and summary-N.json alone, so that workers may share a directory. Lines are written by hand, not by Jansson,
 * which would print 0.1 with 17 digits and allocate at every step. One thread at a time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

typedef struct psd_record psd_record_t;

/* A number of a line; its name is as in "val/accuracy". */
typedef struct psd_measure {
    const char *name;
    double value;
} psd_measure_t;

/* Make directory `dir` and its parents if they do not exist, and open the metrics of worker `worker`, from 0, to
 * append to them; `also` is "csv", "tensorboard", "both" or, like NULL, "none". `dir` NULL or "": a record
 * that keeps nothing. NULL with `err` set: PSD_EIO, PSD_ENOMEM. */
psd_record_t *psd_record_new(const char *dir, uint32_t worker, const char *also, psd_err_t *err);

/* Close the files and set `*self_p` to NULL; NULL inside is fine. */
void psd_record_destroy(psd_record_t **self_p);

/* Append a line: "ts", the seconds since 1970, then the measures, "step" the first, with all their digits;
 * what is not finite is null. A disk that fails here fails psd_record_summarise, not the training. */
void psd_record_line(psd_record_t *self, double ts, const psd_measure_t *measures, size_t n);

/* Write the summary, a JSON object as text, whole or not at all, and flush all to disk. PSD_EIO. */
int psd_record_summarise(psd_record_t *self, const char *json, psd_err_t *err);
