/* live.h - psdctl run's display of a running job: on a terminal one line at the bottom, redrawn in place, with the log's lines
 * above it; otherwise only those lines. It reads the progress lines of the first worker, and draws as psd-worker does
 * (common/system/progress.h). One thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/config/options.h"

typedef struct psd_live psd_live_t;

/* Display on stderr as the option `progress` specifies, for `n_workers`. NULL, with `err` set, when memory runs out. */
psd_live_t *psd_live_new(const psd_options_t *options, unsigned n_workers, psd_err_t *err);
void psd_live_destroy(psd_live_t **self_p);

/* Whether there is a line to redraw a few times a second. */
bool psd_live_has_bar(const psd_live_t *self);

/* A line of the first worker's log, logfmt or JSON. Whether it reports progress, "id=train.progress step=20 epoch=0.1 samples=1280
 * samples_per_s=640 loss=0.5 val_accuracy=0.9 eta_s=9 steps=200", which is then displayed. */
bool psd_live_progress(psd_live_t *self, uint64_t now_ms, const char *line);

/* Print a line, given without its end, that stays. */
void psd_live_say(psd_live_t *self, const char *line);

/* What server 0 reports of a worker. */
typedef enum {
    PSD_LIVE_JOINED,
    PSD_LIVE_LOST,
    PSD_LIVE_ASKED, /* an operator has asked it to leave */
    PSD_LIVE_LEFT,  /* its work is not done */
    PSD_LIVE_FINISHED
} psd_live_event_t;

/* A line of server 0's log, logfmt or JSON. Returns the number of the worker that it is about, and sets `*event`; -1 if it is of
 * something else. */
int psd_live_heard(psd_live_t *self, uint64_t now_ms, const char *line, psd_live_event_t *event);

/* Set the number of required worker processes that are gone. */
void psd_live_gone(psd_live_t *self, uint64_t now_ms, unsigned n);

/* End the display, leaving the line as it is. */
void psd_live_end(psd_live_t *self, uint64_t now_ms);
