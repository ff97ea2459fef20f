/* session.h - the worker's half of the protocol as a state machine: joining, registering, exchanging, leaving, and
 * everything that makes it certain: probes instead of blind repeats, checks of every part, fencing.
 *
 * Pure: events in, actions out (proto/actions.h); it copies weights into the caller's arrays and reads gradients from
 * them, and touches nothing else. Peers are PSD_PEER_SERVER + index of the server. One thread at a time. */
#pragma once

#include "common/base/partition.h"
#include "proto/actions.h"

typedef struct psd_session psd_session_t;

typedef struct psd_session_config {
    const char *job;      /* copied */
    const char *name;     /* copied */
    uint32_t wanted;      /* id + 1, or 0 */
    uint64_t nonce;       /* tells this session from all others; not 0 */
    const char *recipe;   /* copied; what the worker trains on, for comparing; NULL or "": it is not compared */
    uint64_t patience_ms; /* fail when a server that is needed has been silent for so long; 0: never */
    /* Where parts are put together that lie in several arrays; NULL, or where it returns NULL: in a buffer of psd_buf_new. */
    psd_buf_t *(*new_buf)(void *arg, size_t n_bytes);
    /* Whether what travels to server `s` is to be a copy, and not the caller's array: what carries it reads it when it sends, and nothing
     * would show if it were the caller's again by then. NULL: never. */
    bool (*copies)(void *arg, uint32_t s);
    void *arg; /* of both */
} psd_session_config_t;

typedef enum psd_phase {
    PSD_PHASE_JOINING,     /* has said hello */
    PSD_PHASE_JOINED,      /* welcomed: knows the cluster; nothing registered yet */
    PSD_PHASE_REGISTERING, /* attaching, registering, waiting for membership and weights */
    PSD_PHASE_READY,       /* holds the weights; an exchange may begin */
    PSD_PHASE_COLLECTING,  /* an exchange is open whose gradients come tensor by tensor, and not all have; as READY, it leaves the
                            * caller's arrays as they are, for he computes with them */
    PSD_PHASE_EXCHANGING,  /* pushed, or pushing; waits for the next weights */
    PSD_PHASE_PULLING,     /* waits for slow weights */
    PSD_PHASE_SETTING,     /* waits until the coordinator has taken a setting */
    PSD_PHASE_LEAVING,     /* waits for LEFT */
    PSD_PHASE_LEFT,
    PSD_PHASE_FAILED /* see psd_session_error; final */
} psd_phase_t;

/* NULL when memory runs out. */
psd_session_t *psd_session_new(const psd_session_config_t *config);
void psd_session_destroy(psd_session_t **self_p);

/* Whether it has a handler for this kind: for those that proto/message.h sends to a worker, and no others. */
bool psd_session_takes(psd_kind_t kind);

/* A well-formed message from server `from`; `payload` NULL when empty, borrowed. */
void psd_session_message(psd_session_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                         psd_actions_t *out);

/* A server speaks version `theirs` of the protocol: there is no going on. */
void psd_session_other_protocol(psd_session_t *self, psd_peer_t from, uint32_t theirs);

/* A server does not let this worker in, `why` being the sentence: there is no going on either. */
void psd_session_shut_out(psd_session_t *self, const char *why);

/* Time passes; call about every 50 ms. */
void psd_session_tick(psd_session_t *self, uint64_t now_ms, psd_actions_t *out);

/* JOINED -> REGISTERING. `data[i]` holds tensor i's initial values and gets its weights; borrowed for the session's
 * life. `list` is copied. PSD_EINVAL in another phase or when the model cannot be cut; PSD_ENOMEM. */
int psd_session_register(psd_session_t *self, uint64_t now_ms, const psd_tensor_list_t *list, float *const *data,
                         psd_actions_t *out, psd_err_t *err);

/* READY or COLLECTING -> COLLECTING, and with the last tensor -> EXCHANGING: the gradient of one tensor, NULL: it has none, over the
 * mean of `samples` (at least 1). Borrowed until READY again. Pushes nothing yet, see psd_session_pump: a part goes when all of its
 * tensors are here, or, where the whole gradient has to be known first, with the last. PSD_EINVAL in another phase; for a tensor that
 * was pushed; for other samples than those of the first. */
int psd_session_push(psd_session_t *self, uint64_t now_ms, uint32_t tensor, const float *gradient, uint64_t samples, double loss,
                     psd_err_t *err);

/* READY -> EXCHANGING: the same of all tensors. With `samples` 0 there is no gradient. PSD_EINVAL in another phase. */
int psd_session_exchange(psd_session_t *self, uint64_t now_ms, const float *const *gradient, uint64_t samples, double loss,
                         psd_err_t *err);

/* Push some more of the open exchange's parts.
 * Call after psd_session_exchange and psd_session_push, again and again while it returns true, and send in between: the first travels
 * while the next is checked. */
bool psd_session_pump(psd_session_t *self, psd_actions_t *out);

/* READY -> PULLING. Slow weights go to out_data[i]. PSD_EINVAL in another phase. */
int psd_session_pull_slow(psd_session_t *self, uint64_t now_ms, float *const *out_data, psd_actions_t *out, psd_err_t *err);

/* READY -> SETTING: the learning rate of the job from the next decision on. PSD_EINVAL in another phase or for a value
 * that is no rate. */
int psd_session_set_lr(psd_session_t *self, uint64_t now_ms, double lr, psd_actions_t *out, psd_err_t *err);

/* -> LEAVING, from any phase but LEFT and FAILED (which stay). */
void psd_session_leave(psd_session_t *self, uint64_t now_ms, bool finished, psd_actions_t *out);

/* Tell the coordinator a number; lost when the connection is. */
void psd_session_report(psd_session_t *self, const char *name, double value, psd_actions_t *out);

psd_phase_t psd_session_phase(const psd_session_t *self);

/* The cluster, from JOINED on; NULL before. The driver connects to its endpoints. */
const psd_cluster_t *psd_session_cluster(const psd_session_t *self);

/* Code and sentence of FAILED. */
const psd_err_t *psd_session_error(const psd_session_t *self);

/* How often the servers have taken the job up again under this session: it then joins anew by itself, what was open is
 * void, and the next exchange begins at the clock that psd_session_position says, which may be an earlier one. While
 * READY it waits with that for the next wish, because the caller may be computing with the arrays. */
/* Parts of initial values, weights and slow weights that were sent or taken; it only rises. */
uint64_t psd_session_moved(const psd_session_t *self);

uint64_t psd_session_rejoins(const psd_session_t *self);

/* Whether it asks server `s` for something, again and again, so that a silent one is one that does not hear. */
bool psd_session_asks(const psd_session_t *self, uint32_t s);

/* Whether an operator has asked this worker to leave after its open exchange. */
bool psd_session_drains(const psd_session_t *self);

/* A server that is asked and has been silent for longer than the lease; false when there is none. */
bool psd_session_lost_server(const psd_session_t *self, uint32_t *index);

/* What is waited for, as one clause; "" when nothing is. */
void psd_session_describe_wait(const psd_session_t *self, char *text, size_t n);

typedef struct psd_session_position {
    uint64_t clock, version, view_id, incarnation, run;
    uint32_t worker, rank, world;
    double round_loss; /* mean loss of the samples of the last step */
    double samples;    /* of the whole job, behind the weights */
} psd_session_position_t;
psd_session_position_t psd_session_position(const psd_session_t *self);
