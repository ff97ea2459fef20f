/* progress.h - shows the progress of training: on a terminal one line redrawn in place, with a bar, the time left, samples per
 * second and the loss; otherwise a log line from time to time. Call update and end on one thread; log lines may come from any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

typedef struct psd_progress psd_progress_t;

typedef struct psd_progress_config {
    const char *mode;     /* auto, bar, log or none */
    uint64_t interval_ms; /* between two log lines; a bar is redrawn every 200 ms at most */
    int fd;               /* where to show it: stderr */
    bool terminal;        /* fd is a terminal that can redraw a line; decides what auto means */
} psd_progress_config_t;

/* The facts after a step. */
typedef struct psd_progress_state {
    uint64_t step, steps;    /* steps made, and planned in all; 0: no known limit */
    double epoch;            /* passes over the data so far */
    uint64_t samples;        /* of the whole job so far */
    double loss;             /* of the last step; NaN: none */
    double metric;           /* of the last evaluation; NaN: none */
    const char *metric_name; /* "accuracy" */
} psd_progress_state_t;

/* NULL with `err` set when memory runs out or the mode is unknown. */
psd_progress_t *psd_progress_new(const psd_progress_config_t *config, psd_err_t *err);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_progress_destroy(psd_progress_t **self_p);

/* Show `state` if it is time to: `now_ms` is any clock that does not go back. */
void psd_progress_update(psd_progress_t *self, uint64_t now_ms, const psd_progress_state_t *state);

/* Set the note at the end of the bar, "2 of 3 workers", and show it at once. On a narrow terminal, an urgent note is left out
 * last. */
void psd_progress_note(psd_progress_t *self, uint64_t now_ms, const char *note, bool is_urgent);

/* Show the last state at once, and end the line. */
void psd_progress_end(psd_progress_t *self, uint64_t now_ms);

/* Write a line of the log above the bar; a sink of log.h with the progress as its argument. */
void psd_progress_sink(void *self, const char *line, size_t n_bytes);

/* Whether a bar can be drawn on `fd`: it is a terminal, and TERM is not dumb. */
bool psd_progress_can_redraw(int fd);
