/* session.h - the worker's half of the protocol as a state machine: joining, registering, exchanging, leaving, and all that makes
 * this reliable: probes instead of blind repeats, checks of every part, fencing.
 *
 * Pure: events in, actions out (proto/actions.h); it copies weights into the caller's arrays and reads gradients from
 * them, and touches nothing else. Peers are PSD_PEER_SERVER + index of the server. One thread at a time. */
#pragma once

#include "common/base/partition.h"
#include "common/optim/groups.h"
#include "common/optim/inherit.h"
#include "proto/actions.h"

typedef struct psd_session psd_session_t;

typedef struct psd_session_config {
    const char *job;      /* copied */
    const char *name;     /* copied */
    uint32_t wanted;      /* id + 1, or 0 */
    uint64_t nonce;       /* tells this session from all others; not 0 */
    const char *recipe;   /* copied; describes the training data, for comparison; NULL or "": not compared */
    uint64_t patience_ms; /* fail when a required server has been silent for this long; 0: never */
    /* Makes the buffer for a part that is gathered from several arrays; if NULL, or if it returns NULL, psd_buf_new does. */
    psd_buf_t *(*new_buf)(void *arg, size_t n_bytes);
    /* Whether messages to server `s` must hold a copy instead of the caller's array: the transport reads an array only when it
     * sends, and nothing would detect that the caller has changed it by then. NULL: never. */
    bool (*copies)(void *arg, uint32_t s);
    /* Makes the `n` weights at `from`, in `payload`, those at `to` without copying them, and holds the payload until the next
     * exchange has been pushed; false: copy them. NULL: always copy. And whether any weights came like that: then servers may change
     * them after the push, so new ones are needed even if they are the same. */
    bool (*place)(void *arg, float *to, psd_buf_t *payload, const float *from, size_t n);
    bool (*are_placed)(void *arg);
    /* Whether server `s` is on this machine, so that sending and receiving do not gain from each other. NULL: it is not. */
    bool (*is_near)(void *arg, uint32_t s);
    void *arg; /* of all */
    /* Reads the job's rule and groups: psd_groups_parse, which is passed in because parsing numbers depends on the locale, and this
     * module is pure. NULL: the rule has no votes, and one rule trains all tensors. */
    int (*read_groups)(psd_groups_t *groups, const char *rule, const char *text, psd_err_t *err);
} psd_session_config_t;

typedef enum psd_phase {
    PSD_PHASE_JOINING,     /* has sent HELLO */
    PSD_PHASE_JOINED,      /* welcomed: knows the cluster; nothing registered yet */
    PSD_PHASE_REGISTERING, /* attaching, registering, waiting for membership and weights */
    PSD_PHASE_RESTORING,   /* holds the weights of a checkpoint; waits for its residual of that time */
    PSD_PHASE_READY,       /* holds the weights; an exchange may begin */
    PSD_PHASE_COLLECTING,  /* an exchange is open tensor by tensor, and some are missing; as in READY, the
                            * caller may be computing with its arrays, so they stay as they are */
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

/* Whether it has a handler for this kind: it has one for exactly the kinds that proto/message.h sends to a worker. */
bool psd_session_takes(psd_kind_t kind);

/* A well-formed message from server `from`; `payload` NULL when empty, borrowed. */
void psd_session_message(psd_session_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                         psd_actions_t *out);

/* A server uses version `theirs` of the protocol: the session fails. */
void psd_session_other_protocol(psd_session_t *self, psd_peer_t from, uint32_t theirs);

/* A server does not accept this worker's key; `why` is the sentence. The session fails. */
void psd_session_shut_out(psd_session_t *self, const char *why);

/* Time passes; call about every 50 ms. */
void psd_session_tick(psd_session_t *self, uint64_t now_ms, psd_actions_t *out);

/* Before psd_session_register: the arrays of list->inherited. Takes ownership and sets `*inheritance` to NULL. */
void psd_session_inherit(psd_session_t *self, psd_inheritance_t **inheritance);

/* JOINED -> REGISTERING. `data[i]` holds tensor i's initial values and gets its weights; borrowed for the session's life. `list` is
 * copied. PSD_EINVAL in another phase or when the model cannot be partitioned; PSD_ENOMEM. */
int psd_session_register(psd_session_t *self, uint64_t now_ms, const psd_tensor_list_t *list, float *const *data,
                         psd_actions_t *out, psd_err_t *err);

/* READY or COLLECTING -> COLLECTING, and with the last tensor -> EXCHANGING: take the mean gradient of one tensor over `samples`
 * samples (at least 1); NULL: it has none. Borrowed until READY again. Only psd_session_pump pushes: a part can go when all of its
 * tensors have come, or, if the whole gradient must be known first, with the last tensor. PSD_EINVAL in another phase; for a tensor
 * that was pushed already; if `samples` differs from the first call's. */
int psd_session_push(psd_session_t *self, uint64_t now_ms, uint32_t tensor, const float *gradient, uint64_t samples, double loss,
                     psd_err_t *err);

/* READY -> EXCHANGING: the same for all tensors. With `samples` 0 there is no gradient. PSD_EINVAL in another phase. */
int psd_session_exchange(psd_session_t *self, uint64_t now_ms, const float *const *gradient, uint64_t samples, double loss,
                         psd_err_t *err);

/* Push some more of the open exchange's parts.
 * Call it after psd_session_exchange and psd_session_push, repeatedly while it returns true, and send in between, so that one part
 * travels while the next is checked. */
bool psd_session_pump(psd_session_t *self, psd_actions_t *out);

/* READY -> PULLING. Slow weights go to out_data[i]. PSD_EINVAL in another phase. */
int psd_session_pull_slow(psd_session_t *self, uint64_t now_ms, float *const *out_data, psd_actions_t *out, psd_err_t *err);

/* READY -> SETTING: the learning rate of the job from the next decision on. PSD_EINVAL in another phase or for a value
 * that is not a rate. */
int psd_session_set_lr(psd_session_t *self, uint64_t now_ms, double lr, psd_actions_t *out, psd_err_t *err);

/* READY -> SETTING, too: what rows this worker takes its batches from, and how. PSD_EINVAL in another phase. */
int psd_session_say_rows(psd_session_t *self, uint64_t now_ms, const char *rows, psd_actions_t *out, psd_err_t *err);

/* -> LEAVING, from any phase but LEFT and FAILED (which stay). */
void psd_session_leave(psd_session_t *self, uint64_t now_ms, bool finished, psd_actions_t *out);

/* Report a number to the coordinator; it is lost if the connection is. */
void psd_session_report(psd_session_t *self, const char *name, double value, psd_actions_t *out);

psd_phase_t psd_session_phase(const psd_session_t *self);

/* The cluster, from JOINED on; NULL before. The driver connects to its endpoints. */
const psd_cluster_t *psd_session_cluster(const psd_session_t *self);

/* Code and sentence of FAILED. */
const psd_err_t *psd_session_error(const psd_session_t *self);

/* How often the servers have begun another run under this session. It then rejoins by itself, an open exchange is void, and
 * the next one begins at the clock in psd_session_position, which may be an earlier one. In READY it waits with that for the
 * caller's next request, because the caller may be computing with the arrays. */
uint64_t psd_session_rejoins(const psd_session_t *self);

/* Parts of initial values, weights and slow weights that were sent or received; it only rises. */
uint64_t psd_session_moved(const psd_session_t *self);

/* Whether it sends server `s` repeated requests, so that silence means that the server does not receive them. */
bool psd_session_asks(const psd_session_t *self, uint32_t s);

/* Whether an operator has asked this worker to leave after its open exchange. */
bool psd_session_drains(const psd_session_t *self);

/* Find a server that owes an answer and has been silent for longer than the lease; false when there is none. */
bool psd_session_lost_server(const psd_session_t *self, uint32_t *index);

/* What the session waits for, as one clause; "" for nothing. */
void psd_session_describe_wait(const psd_session_t *self, char *text, size_t n);

/* The newest figures of tensors that server 0 has told, and of which step: PSD_SESSION_FIGURES float64 for each of the first
 * tensors (HEALTH in proto/PROTOCOL.md). Borrowed until the next event; NULL: none were told. */
enum { PSD_SESSION_FIGURES = 5 };
psd_buf_t *psd_session_health(const psd_session_t *self, uint64_t *step);

typedef struct psd_session_position {
    uint64_t clock, version, view_id, incarnation, run;
    uint32_t worker, rank, world;
    double round_loss; /* mean loss of the samples of the last step */
    double step_lr;    /* learning rate of the last step, or of the next one if this run of the job has made none */
    bool gathered;     /* the last closed round makes a step together with later ones */
    double samples;    /* of the whole job, behind the weights */
} psd_session_position_t;
psd_session_position_t psd_session_position(const psd_session_t *self);
