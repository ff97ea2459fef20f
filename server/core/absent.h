/* absent.h - what the job needs and is missing, and for how long: servers that have not joined or have fallen silent, too few
 * workers, a first checkpoint that cannot be made. Its words appear in /status, in log lines and in messages to workers. The
 * coordinator decides what follows. Pure; times are in milliseconds of the caller's clock. One thread. */
#pragma once

#include "server/core/membership.h"
#include "server/core/servers.h"

enum { PSD_MAX_ABSENT = 8, PSD_ABSENT_TEXT = 320 };

/* All zero: no peer is missing. Embedded by its owner; others call the functions below. */
typedef struct psd_absent {
    uint64_t tick_ms;  /* when time passed last */
    uint64_t since_ms; /* since when the same ones, or more, have been missing; 0: none is missing */
    uint32_t n;        /* how many are missing */
} psd_absent_t;

/* Where to look; borrowed for the call. */
typedef struct psd_absent_look {
    const psd_servers_t *servers;
    const psd_membership_t *members;
    uint32_t workers_min, workers_want;
    uint64_t lease_ms;    /* of a worker */
    bool gathering;       /* the job has not begun */
    bool over;            /* it has ended, or is ending: no peer is needed */
    bool paused;          /* by an operator: missing ones are named, but no patience runs */
    const char *no_first; /* why the first checkpoint cannot be made; NULL: it is not missing */
} psd_absent_look_t;

/* Time passes: count the peers that are missing. Patience starts again when one has come. */
void psd_absent_note(psd_absent_t *self, uint64_t now_ms, const psd_absent_look_t *look);

/* How long the job has waited for missing peers; 0: it does not wait. */
uint64_t psd_absent_waited_ms(const psd_absent_t *self, uint64_t now_ms);

/* Whether the first checkpoint is all that is missing. */
bool psd_absent_is_first_alone(const psd_absent_t *self, const psd_absent_look_t *look);

/* This process was away for this long, which does not count as waiting. */
void psd_absent_excuse(psd_absent_t *self, uint64_t by_ms, uint64_t now_ms);

/* List what is missing, one clause each, up to `most` clauses; returns how many there are. */
uint32_t psd_absent_list(const psd_absent_t *self, const psd_absent_look_t *look, char (*item)[PSD_ABSENT_TEXT], uint32_t most);

/* The same as one text; "" if nothing is missing. */
void psd_absent_describe(const psd_absent_t *self, const psd_absent_look_t *look, char *text, size_t n);

/* Whether a worker was given up for its silence, and its place is still free. */
bool psd_absent_is_worker_lost(const psd_absent_t *self, const psd_worker_row_t *row, uint64_t lease_ms);
