/* absent.h - whom the job needs and who is missing: servers that have not joined or have fallen silent, too few workers, a first
 * checkpoint that cannot be made; and for how long. The words of it are those of /status, of log lines and of what workers are
 * told. The coordinator decides what follows. Pure; times are in milliseconds of the caller's clock. One thread. */
#pragma once

#include "server/core/membership.h"
#include "server/core/servers.h"

enum { PSD_MAX_ABSENT = 8, PSD_ABSENT_TEXT = 320 };

/* All zero: nobody is missing. Embedded by its owner; others call the functions below. */
typedef struct psd_absent {
    uint64_t tick_ms;  /* when time passed last */
    uint64_t since_ms; /* since when the same ones, or more, are missing; 0: nobody is */
    uint32_t n;        /* how many are missing */
} psd_absent_t;

/* Where to look; borrowed for the call. */
typedef struct psd_absent_look {
    const psd_servers_t *servers;
    const psd_membership_t *members;
    uint32_t workers_min, workers_want;
    uint64_t lease_ms;    /* of a worker */
    bool gathering;       /* the job has not begun */
    bool over;            /* it has ended, or ends: nobody is needed */
    bool paused;          /* by an operator: who is missing is named, but not waited for */
    const char *no_first; /* why the first checkpoint cannot be made; NULL: it does not lack */
} psd_absent_look_t;

/* Time passes: count those who are missing. Patience begins anew when somebody has come. */
void psd_absent_note(psd_absent_t *self, uint64_t now_ms, const psd_absent_look_t *look);

/* How long somebody has been waited for; 0: nobody is. */
uint64_t psd_absent_waited_ms(const psd_absent_t *self, uint64_t now_ms);

/* Whether the first checkpoint is all that is missing. */
bool psd_absent_is_first_alone(const psd_absent_t *self, const psd_absent_look_t *look);

/* This process was away for so long: nobody was waited for meanwhile. */
void psd_absent_excuse(psd_absent_t *self, uint64_t by_ms, uint64_t now_ms);

/* List what is missing, one clause each, up to `most` clauses; returns how many there are. */
uint32_t psd_absent_list(const psd_absent_t *self, const psd_absent_look_t *look, char (*item)[PSD_ABSENT_TEXT], uint32_t most);

/* The same as one text; "" when nobody is. */
void psd_absent_describe(const psd_absent_t *self, const psd_absent_look_t *look, char *text, size_t n);

/* Whether a worker was given up for its silence and nobody has taken its place. */
bool psd_absent_is_worker_lost(const psd_absent_t *self, const psd_worker_row_t *row, uint64_t lease_ms);
