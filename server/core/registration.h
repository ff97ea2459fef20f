/* registration.h - whether what a worker registers fits the job: its tensors, the optimizer state that it brings, the rows of an
 * epoch, and what it trains on.
 *
 * The coordinator asks, and sends the answer. Pure. One thread. */
#pragma once

#include "common/optim/groups.h"
#include "server/core/membership.h"

/* What a worker says of what it trains. */
typedef struct psd_registrant {
    const psd_worker_row_t *row;
    const psd_tensor_list_t *model;
    const char *recipe; /* see psd_membership_agrees */
} psd_registrant_t;

/* The state of the job. */
typedef struct psd_registration_look {
    const psd_tensor_list_t *model; /* n = 0: there is none yet, and that of the worker becomes the job's */
    const psd_groups_t *groups;
    bool needs_rows; /* the schedule counts epochs */
    bool inherits;   /* the optimizer state that workers bring still matters: there has been no step, and there is no checkpoint */
} psd_registration_look_t;

typedef enum psd_registration_verdict {
    PSD_REGISTRATION_FITS,
    PSD_REGISTRATION_REFUSED, /* this worker, for `refusal`, in words `why` */
    PSD_REGISTRATION_UNFIT    /* the job fails with any worker of this model, because of `why` */
} psd_registration_verdict_t;

typedef struct psd_registration {
    psd_registration_verdict_t verdict;
    psd_refusal_t refusal;
    char why[PSD_MAX_TEXT];
} psd_registration_t;

/* Judge a registration. If there is no other recipe that counts, the worker's becomes that of the job. Aborts without memory. */
void psd_registration_judge(psd_registration_t *out, const psd_registration_look_t *look, psd_membership_t *members,
                            const psd_registrant_t *registrant);
