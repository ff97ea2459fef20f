/* failure.h - a job that fails: its code and reason, for how long server 0 tells everybody, and when its process may end. Only the
 * first reason counts. The coordinator asks here what to say, and says it. Pure; times are in milliseconds of the caller's clock.
 * One thread. */
#pragma once

#include "proto/actions.h"

/* In the first of these times, servers and workers send several messages and get answers. The second is for workers that server 0
 * does not know yet: they must contact it before it can tell them. */
enum { PSD_FAILURE_TOLD_MS = 1000, PSD_FAILURE_COMERS_MS = 5000 };

/* All zero: the job does not fail. Embedded by its owner; others call the functions below. */
typedef struct psd_failure {
    int code; /* of the process, PSD_E...; PSD_OK: the job does not fail */
    psd_refusal_t refusal;
    uint64_t since_ms;
    bool finished; /* PSD_ACT_FINISH was issued */
    char why[PSD_MAX_TEXT];
} psd_failure_t;

/* The job fails: the process will end with `code`, peers get a REFUSED of this reason. False, and nothing changed, when it fails
 * already. */
bool psd_failure_begin(psd_failure_t *self, uint64_t now_ms, int code, psd_refusal_t refusal, const char *why);

bool psd_failure_is_on(const psd_failure_t *self);

/* Whether the process has not ended yet, so that everybody present must be told again. */
bool psd_failure_is_told(const psd_failure_t *self);

/* Whether peers that server 0 does not know yet must be told too. */
bool psd_failure_awaits_comers(const psd_failure_t *self);

/* Whether everybody has had enough time to hear it. */
bool psd_failure_is_over(const psd_failure_t *self, uint64_t now_ms);

/* Fill in reason and text of a REFUSED. */
void psd_failure_tell(const psd_failure_t *self, psd_msg_t *refused);

/* End the process; once, however often this is called. */
void psd_failure_finish(psd_failure_t *self, psd_actions_t *out);
