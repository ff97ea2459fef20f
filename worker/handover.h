/* handover.h - between the threads that call psd_worker_* and the library's own: requests go one way, what becomes of
 * them comes back, under one lock that is held to copy and to wake. It knows the session's words (worker/session.h) and
 * calls nothing of it. */
#pragma once

#include "common/net/transport.h"
#include "worker/session.h"

enum { PSD_HANDOVER_MAX = 32 /* requests that wait to be taken */ };

typedef enum psd_request_kind {
    PSD_REQUEST_REGISTER,
    PSD_REQUEST_PUSH,
    PSD_REQUEST_EXCHANGE,
    PSD_REQUEST_PULL_SLOW,
    PSD_REQUEST_SET_LR,
    PSD_REQUEST_REPORT,
    PSD_REQUEST_LEAVE,
    PSD_REQUEST_STOP
} psd_request_kind_t;

/* Arrays are borrowed until the request is done. */
typedef struct psd_request {
    psd_request_kind_t kind;
    const psd_tensor_list_t *list; /* REGISTER */
    float *const *data;            /* REGISTER, PULL_SLOW */
    const float *const *gradient;  /* EXCHANGE */
    uint32_t tensor;               /* PUSH: which; and its gradient */
    const float *one;
    uint64_t samples; /* PUSH, EXCHANGE */
    double value;     /* PUSH, EXCHANGE: loss; SET_LR, REPORT */
    bool finished;    /* LEAVE */
    uint64_t rejoins; /* LEAVE: of the run that is left; in a later one there is work again */
    char name[64];    /* REPORT */
} psd_request_t;

/* What callers may know of the session. */
typedef struct psd_handover_state {
    psd_phase_t phase; /* as the library's thread last said, or ahead of it by a request */
    psd_err_t failure; /* of FAILED */
    psd_session_position_t position;
    uint64_t rejoins;             /* how often the servers have begun another run */
    uint64_t moved;               /* parts, as psd_session_moved counts them */
    bool has_slow, drains;        /* as the cluster says, and the session */
    bool unresolved;              /* the name of server 0's host means nothing here */
    char waiting[PSD_MAX_TEXT];   /* what is waited for */
    char join[PSD_ENDPOINT_TEXT]; /* where server 0 is */
} psd_handover_state_t;

typedef struct psd_handover psd_handover_t;

/* NULL when memory runs out. */
psd_handover_t *psd_handover_new(void);
/* Sets `*self_p` to NULL; NULL is fine. No thread may use it any more. */
void psd_handover_destroy(psd_handover_t **self_p);

/* -- callers */

/* Make the descriptor that psd_handover_fd gives. PSD_ESYSTEM. */
int psd_handover_open(psd_handover_t *self, psd_err_t *err);
/* Readable when an exchange is over; -1 before it is made. Read it empty with psd_handover_rearm. */
int psd_handover_fd(const psd_handover_t *self);
void psd_handover_rearm(psd_handover_t *self);

/* Queue a request; waits while PSD_HANDOVER_MAX are queued. The library's thread must be woken by other means. */
void psd_handover_post(psd_handover_t *self, const psd_request_t *request);

/* Move the phase ahead from `from` to what a request will make of it. PSD_EINVAL in another phase; in FAILED, why. */
int psd_handover_begin(psd_handover_t *self, psd_phase_t from, psd_phase_t to, const char *what, psd_err_t *err);

/* Move the phase ahead to LEAVING; false, with the phase as it was, when the session is over, or when the caller has
 * `finished` and the servers have begun another run since there had been `rejoins`. */
bool psd_handover_leave(psd_handover_t *self, bool finished, uint64_t rejoins);

/* Wait for `phase`, or for READY, which a session that joins again by itself reaches at last: then PSD_EAGAIN, unless
 * that is the phase. `timeout_ms` < 0: without end; 0: only look, and PSD_EAGAIN. PSD_ETIMEOUT; in FAILED, why. A model
 * that is being registered has the time anew with each part. */
int psd_handover_await(psd_handover_t *self, psd_phase_t phase, const char *what, int timeout_ms, psd_err_t *err);

/* Wait for READY after a request between two exchanges. PSD_EAGAIN too when the servers have begun another run since
 * there had been `rejoins`: its weights do not make such a request good. */
int psd_handover_await_answer(psd_handover_t *self, uint64_t rejoins, const char *what, int timeout_ms, psd_err_t *err);

/* A copy of what there is to know. */
void psd_handover_look(psd_handover_t *self, psd_handover_state_t *out);

/* The cluster as it was when it was joined first, which does not change any more; NULL before. */
const psd_cluster_t *psd_handover_cluster(psd_handover_t *self);

/* -- the library's thread */

/* Take all requests; returns their number. */
uint32_t psd_handover_take(psd_handover_t *self, psd_request_t out[PSD_HANDOVER_MAX]);

/* The session is in another phase; `cluster` NULL: not yet known. `done`: an exchange is over, or the session. */
void psd_handover_enter(psd_handover_t *self, psd_phase_t phase, const psd_err_t *failure, const psd_session_position_t *position,
                        uint64_t rejoins, const psd_cluster_t *cluster, bool done);

/* A request could not be begun. */
void psd_handover_fail(psd_handover_t *self, const psd_err_t *failure);

/* What a tick has found. */
void psd_handover_progress(psd_handover_t *self, const char *waiting, bool unresolved, bool drains, uint64_t moved);

/* Server 0 is there. */
void psd_handover_move(psd_handover_t *self, const char *join);
