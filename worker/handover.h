/* handover.h - between the threads that call psd_worker_* and the library's thread: requests go one way and outcomes come back,
 * under one lock that is held only to copy and to wake. It uses the session's types (worker/session.h) and calls none of its
 * functions. */
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
    PSD_REQUEST_SAY_ROWS,
    PSD_REQUEST_REPORT,
    PSD_REQUEST_LEAVE
} psd_request_kind_t;

/* Arrays are borrowed until the request is done. */
typedef struct psd_request {
    psd_request_kind_t kind;
    const psd_tensor_list_t *list;  /* REGISTER */
    float *const *data;             /* REGISTER, PULL_SLOW */
    psd_inheritance_t *inheritance; /* REGISTER: the session's from here on; NULL: none */
    const float *const *gradient;   /* EXCHANGE */
    uint32_t tensor;                /* PUSH: which tensor, and its gradient */
    const float *one;
    uint64_t samples; /* PUSH, EXCHANGE */
    double value;     /* PUSH, EXCHANGE: loss; SET_LR, REPORT */
    bool finished;    /* LEAVE */
    uint64_t rejoins; /* LEAVE: in the run that the caller leaves; a later run has work again */
    char name[64];    /* REPORT */
    const char *rows; /* SAY_ROWS; the handle's */
} psd_request_t;

/* The session's facts for callers. */
typedef struct psd_handover_state {
    psd_phase_t phase; /* as the library's thread last set it, or one request ahead */
    psd_err_t failure; /* of FAILED */
    psd_session_position_t position;
    uint64_t rejoins;             /* number of further runs that the servers have begun */
    uint64_t moved;               /* parts, as psd_session_moved counts them */
    bool has_slow, drains;        /* has_slow from the cluster, drains from the session */
    bool unresolved;              /* the name of server 0's host cannot be resolved here */
    char waiting[PSD_MAX_TEXT];   /* the reason for waiting */
    char join[PSD_ENDPOINT_TEXT]; /* where server 0 is */
} psd_handover_state_t;

typedef struct psd_handover psd_handover_t;

/* NULL when memory runs out. */
psd_handover_t *psd_handover_new(void);
/* Sets `*self_p` to NULL; NULL is fine. No thread may use it any more. */
void psd_handover_destroy(psd_handover_t **self_p);

/* -- callers */

/* Runs the library's loop on the caller's thread until something has happened or `limit_ns` have passed (UINT64_MAX: no limit; 0:
 * only handle pending events); false if the library's thread runs the loop. */
typedef bool psd_handover_run_fn(void *arg, uint64_t limit_ns);

/* Called by waiting callers; see psd_handover_interrupt_by. */
void psd_handover_run_by(psd_handover_t *self, psd_handover_run_fn *run, void *arg);

/* Make the descriptor that psd_handover_fd gives. PSD_ESYSTEM. */
int psd_handover_open(psd_handover_t *self, psd_err_t *err);
/* Readable when an exchange is over; -1 before it is made. Read it empty with psd_handover_rearm. */
int psd_handover_fd(psd_handover_t *self);
void psd_handover_rearm(psd_handover_t *self);

/* In a process that was forked with the handle: close its copy of the descriptor. The rest belongs to the parent. */
void psd_handover_abandon(psd_handover_t *self);

/* Have psd_handover_await call `interrupted` about every 100 ms, on the thread that waits; nonzero ends the wait. */
void psd_handover_set_interrupt(psd_handover_t *self, int (*interrupted)(void *arg), void *arg);

/* Ask it now, for a wait elsewhere on the caller's thread. */
bool psd_handover_is_interrupted(psd_handover_t *self);

/* Queue a request; waits while PSD_HANDOVER_MAX are queued. Does not wake the library's thread. */
void psd_handover_post(psd_handover_t *self, const psd_request_t *request);

/* Move the phase from `from` to the one that a request will lead to. PSD_EINVAL in another phase; in FAILED, the reason. */
int psd_handover_begin(psd_handover_t *self, psd_phase_t from, psd_phase_t to, const char *what, psd_err_t *err);

/* Move the phase to LEAVING. False, and no change, when the session is over, or when the caller has `finished` but the number of
 * rejoins is no longer `rejoins`: the servers have begun another run. */
bool psd_handover_leave(psd_handover_t *self, bool finished, uint64_t rejoins);

/* Wait for `phase`, or for READY, which a session that rejoins by itself reaches in the end: then PSD_EAGAIN, unless READY is
 * `phase`. `timeout_ms` < 0: no limit; 0: only look, and PSD_EAGAIN. PSD_ETIMEOUT; PSD_ESTOPPED: interrupted; in FAILED, why. While
 * a model is being registered, each part restarts the timeout. */
int psd_handover_await(psd_handover_t *self, psd_phase_t phase, const char *what, int timeout_ms, psd_err_t *err);

/* Wait for READY after a request between two exchanges. Also PSD_EAGAIN when the number of rejoins is no longer `rejoins`: the
 * servers have begun another run, which does not carry out such a request. */
int psd_handover_await_answer(psd_handover_t *self, uint64_t rejoins, const char *what, int timeout_ms, psd_err_t *err);

/* The figures of a tensor as psd_handover_tell_health was given them last, and of which step. False when it has none. */
bool psd_handover_health(psd_handover_t *self, size_t tensor, double out[PSD_SESSION_FIGURES], uint64_t *step);

/* A copy of the facts. */
void psd_handover_look(psd_handover_t *self, psd_handover_state_t *out);

/* The cluster as it was at the first join; it does not change afterwards. NULL before. */
const psd_cluster_t *psd_handover_cluster(psd_handover_t *self);

/* -- the library's thread */

/* Take all requests; returns their number. */
uint32_t psd_handover_take(psd_handover_t *self, psd_request_t out[PSD_HANDOVER_MAX]);

/* The session has entered another phase; `cluster` NULL: not yet known. `done`: an exchange or the session is over. */
void psd_handover_enter(psd_handover_t *self, psd_phase_t phase, const psd_err_t *failure, const psd_session_position_t *position,
                        uint64_t rejoins, const psd_cluster_t *cluster, bool done);

/* A request could not be started. */
void psd_handover_fail(psd_handover_t *self, const psd_err_t *failure);

/* Facts gathered by a tick. */
void psd_handover_progress(psd_handover_t *self, const char *waiting, bool unresolved, bool drains, uint64_t moved);

/* The newest figures of tensors, and of which step; keeps a reference. */
void psd_handover_tell_health(psd_handover_t *self, psd_buf_t *figures, uint64_t step);

/* Server 0 has answered. */
void psd_handover_move(psd_handover_t *self, const char *join);
