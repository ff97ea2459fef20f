/* live.h - what psdctl run shows of a job while it lasts: on a terminal one line at the bottom, drawn anew, with the log's lines
 * above it; elsewhere those lines alone. It reads the progress lines of the first worker, and draws as psd-worker does
 * (common/system/progress.h). One thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/config/options.h"

typedef struct psd_live psd_live_t;

/* As `progress` says, for `n_workers`, on stderr. NULL, with `err` set, when memory runs out. */
psd_live_t *psd_live_new(const psd_options_t *options, unsigned n_workers, psd_err_t *err);
void psd_live_destroy(psd_live_t **self_p);

/* Whether there is a line that wants to be drawn anew a few times a second. */
bool psd_live_has_bar(const psd_live_t *self);

/* A line of the first worker's log, logfmt or JSON. Whether it tells of progress, "id=train.progress step=20 epoch=0.1
 * samples=1280 samples_per_s=640 loss=0.5 val_accuracy=0.9 eta_s=9 steps=200", which then is shown as `progress` says. */
bool psd_live_progress(psd_live_t *self, uint64_t now_ms, const char *line);

/* A line without its end, which stays. */
void psd_live_say(psd_live_t *self, const char *line);

/* A line of server 0's log: it says when a worker is lost, and when one joins. */
void psd_live_heard(psd_live_t *self, uint64_t now_ms, const char *line);

/* So many of the workers' processes are gone and are needed. */
void psd_live_gone(psd_live_t *self, uint64_t now_ms, unsigned n);

/* Leave the line as it is. */
void psd_live_end(psd_live_t *self, uint64_t now_ms);
