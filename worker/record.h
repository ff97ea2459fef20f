/* record.h - the files that a run writes to its directory: metrics.jsonl, a flat JSON object per line with the measures of a
 * step and nothing else, and summary.json; on request, the same numbers for spreadsheets (metrics.csv) and for TensorBoard (in
 * tb/); encoding.json, how columns of a table become features. Worker 0's files have these names; worker N has only metrics-N.jsonl and summary-N.json, so that workers may share a
 * directory. Lines are written by hand, not by Jansson, which would print 0.1 with 17 digits and allocate at every step. One
 * thread at a time. */
#pragma once

#include <stdbool.h>
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

/* Append a line: "ts", the seconds since 1970, then the measures, of which "step" is the first, with all their digits; values that
 * are not finite become null. If the disk fails here, psd_record_summarise reports it; training continues. */
void psd_record_line(psd_record_t *self, double ts, const psd_measure_t *measures, size_t n);

/* Whether TensorBoard's events are kept; append to them only, measures[0] being the step. */
bool psd_record_has_events(const psd_record_t *self);
void psd_record_event(psd_record_t *self, double ts, const psd_measure_t *measures, size_t n);

/* Write encoding.json, which psdctl export puts into its model (worker/encoding.h); NULL: the data has none, so remove that of an
 * earlier run. Only the first worker does. With `goes_on`, the job has trained before: PSD_ECONFIG if the file that it wrote then
 * says something else, for its weights are those of other features. PSD_EIO, PSD_ENOMEM. */
int psd_record_encoding(psd_record_t *self, const char *json, bool goes_on, psd_err_t *err);

/* Write the summary, a JSON object as text, atomically, and flush everything to disk. PSD_EIO. */
int psd_record_summarise(psd_record_t *self, const char *json, psd_err_t *err);

/* Call `each` with the step and value of every line of worker `worker` in `dir` that has `name`, in order; there may be none. */
void psd_record_history(const char *dir, uint32_t worker, const char *name, void (*each)(void *arg, uint64_t step, double value),
                        void *arg);
