/* admission.h - whether a process that sends HELLO may be a worker of the job, which worker it is, and the answer if it may not be
 * one.
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

/* The state of the job. */
typedef struct psd_admission_look {
    const char *job;              /* its name, for sentences */
    const char *over;             /* "is finished" or "was stopped": no new worker is admitted; NULL while the job continues */
    const psd_servers_t *servers; /* no new worker is admitted before all have joined */
    uint32_t places;              /* most workers that may be present or finished; 0: no bound other than PSD_MAX_WORKERS */
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

/* Judge a hello. For NEW and KNOWN, the row holds the hello's values. */
void psd_admission_judge(psd_admission_t *out, const psd_admission_look_t *look, psd_membership_t *members, uint64_t now_ms,
                         const psd_worker_hello_t *hello);
