/* admission.h - whether a process that says HELLO may be a worker of the job, which of the workers it is, and what it is told if
 * it may not be one.
 *
 * The coordinator asks, and sends the answer. A worker that is admitted has its row in the table of workers (membership.h) when
 * psd_admission_judge returns. Pure; times are in milliseconds of the caller's clock. One thread. */
#pragma once

#include "server/core/membership.h"
#include "server/core/servers.h"

/* What a worker says when it asks for a place. */
typedef struct psd_worker_hello {
    psd_peer_t from; /* its user is the worker's (common/base/peer.h) */
    uint64_t nonce;  /* drawn by this life */
    uint32_t wanted; /* id + 1; 0: any */
    const char *name;
} psd_worker_hello_t;

/* How the job is. */
typedef struct psd_admission_look {
    const char *job;              /* its name, for sentences */
    const char *over;             /* "is finished" or "was stopped": nobody new is admitted; NULL while the job goes on */
    const psd_servers_t *servers; /* nobody new is admitted before all have joined */
    uint32_t places;              /* so many workers are here or have finished, and no more; 0: no bound but PSD_MAX_WORKERS */
} psd_admission_look_t;

typedef enum psd_admission_verdict {
    PSD_ADMISSION_NEW,    /* admitted: `row` is a new life's */
    PSD_ADMISSION_KNOWN,  /* this life has `row` already, and asks again */
    PSD_ADMISSION_WAITS,  /* there is no place yet, because of `why`: ask again */
    PSD_ADMISSION_FENCED, /* this life had `row`, and is over */
    PSD_ADMISSION_REFUSED /* for `refusal`, in words `why` */
} psd_admission_verdict_t;

typedef struct psd_admission {
    psd_admission_verdict_t verdict;
    psd_worker_row_t *row; /* of NEW, KNOWN and FENCED, else NULL */
    psd_refusal_t refusal;
    char why[PSD_MAX_TEXT / 2];
} psd_admission_t;

/* Judge a hello. Of NEW and KNOWN, the row holds what the hello says. */
void psd_admission_judge(psd_admission_t *out, const psd_admission_look_t *look, psd_membership_t *members, uint64_t now_ms,
                         const psd_worker_hello_t *hello);
