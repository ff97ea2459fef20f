/* membership.h - the table of workers: which are present, how far each has come, and which may have an id. The coordinator asks and
 * decides; leases.h says when a silent worker is gone. Rows are kept for ever, so that psd_worker_begin_life never gives an
 * incarnation twice.
 *
 * Pure; times are in milliseconds of the caller's clock. One thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "proto/actions.h"

/* X(NAME, word for status): a worker's life, in order. */
#define PSD_WORKER_STATES(X)                                                                                                       \
    X(ABSENT, "absent")   /* the id was never used */                                                                              \
    X(JOINING, "joining") /* has said hello */                                                                                     \
    X(WAITING, "waiting") /* has registered its tensors; enters the view at the next boundary */                                   \
    X(LIVE, "live")       /* a member of the view */                                                                               \
    X(DONE, "done")       /* has finished, and stays until the job's last weights are safe */                                      \
    X(LOST, "lost")       /* silent for longer than its lease, and given up */                                                     \
    X(LEFT, "left")       /* said good-bye */

typedef enum psd_worker_state {
#define X(name, word) PSD_WORKER_##name,
    PSD_WORKER_STATES(X)
#undef X
} psd_worker_state_t;

typedef struct psd_worker_row {
    uint32_t id;
    psd_worker_state_t state;
    uint64_t incarnation;      /* of its newest life */
    psd_peer_t peer;           /* its session with the coordinator */
    uint32_t user;             /* the owner of the id (common/base/peer.h): no other user gets it or may send messages for it */
    uint64_t nonce;            /* drawn by this life; a peer that knows it is that worker, on any connection */
    uint64_t heard_ms;         /* when its last message came */
    uint64_t clock;            /* as last reported */
    bool finished;             /* left because its work was done */
    bool drains;               /* was asked to leave after its open round */
    bool served;               /* has been a member of a view */
    bool going;                /* was told that it may go, and has not confirmed that it knows */
    bool divides;              /* it has said of what rows it takes its part */
    psd_server_set_t complete; /* shards that hold its push of the open round */
    uint64_t samples;          /* of that push */
    double loss;               /* of that push */
    bool nonfinite;            /* some shard found Inf or NaN in it */
    uint64_t in_vain;          /* its pushes in a row that had Inf or NaN */
    bool quarantined;          /* it was given up because of that */
    struct {                   /* the learning rate that it has set: */
        bool is_open;          /* it still waits for the answer */
        uint32_t code;         /* of its request */
        double value;
    } setting;
    char name[PSD_MAX_NAME]; /* host:pid, or what it was started with */
} psd_worker_row_t;

/* Rows that workers divide among them, and how, as one of them has said it. */
typedef struct psd_division {
    uint32_t worker; /* which was the first */
    char text[PSD_MAX_RECIPE];
} psd_division_t;

enum { PSD_MAX_DIVISIONS = 8 }; /* a job that has more, such as one of another seed in each epoch, is not checked any longer */

typedef struct psd_membership {
    psd_worker_row_t row[PSD_MAX_WORKERS];
    uint32_t n_rows;             /* ids below this have been used */
    char recipe[PSD_MAX_RECIPE]; /* what the present workers train on; "": none has said */
    psd_division_t division[PSD_MAX_DIVISIONS];
    uint32_t n_divisions; /* different ones that there were */
} psd_membership_t;

/* The word for a state. */
const char *psd_worker_state_name(psd_worker_state_t state);

/* The row that a hello with this nonce opened, while that life lasts; NULL when there is none. */
psd_worker_row_t *psd_membership_by_nonce(psd_membership_t *self, uint64_t nonce);

/* A free row for `user`: the wanted id (`wanted` > 0 is id + 1) or the lowest that is not in use; one whose worker has
 * finished only when there is no other, because that forgets that it has finished. NULL when the wanted one is in use or
 * another user's, or all are. */
psd_worker_row_t *psd_membership_admit(psd_membership_t *self, uint32_t wanted, uint32_t user);

/* A worker begins a life in a row that psd_membership_admit gave: its incarnation is one more than the last that the row had.
 * `name` is below PSD_MAX_NAME bytes. */
void psd_worker_begin_life(psd_worker_row_t *row, psd_peer_t peer, uint64_t nonce, const char *name, uint64_t now_ms);

/* The worker has said something over connection `peer`: one that was lost and made again has another number. */
void psd_worker_hears_from(psd_worker_row_t *row, psd_peer_t peer, uint64_t now_ms);

/* Whether an id was ever held by another user. */
bool psd_worker_is_anothers(const psd_worker_row_t *row, uint32_t user);

/* Rows in a state. */
uint32_t psd_membership_count(const psd_membership_t *self, psd_worker_state_t state);

/* Workers whose work is done, whether or not they have left. */
uint32_t psd_membership_count_finished(const psd_membership_t *self);

/* Whether rounds may continue with `live` members. Workers that have left with their work done count: towards the end of a job
 * there are fewer workers, and nothing is wrong. */
bool psd_membership_has_quorum(const psd_membership_t *self, uint32_t live, uint32_t workers_min);

/* Whether any worker is present. */
bool psd_membership_has_any(const psd_membership_t *self);

/* A present worker, by its id in digits or by its name; NULL when there is none. */
psd_worker_row_t *psd_membership_find(psd_membership_t *self, const char *word);

/* Whether a worker trains on the same as the others (`self->recipe`). The text is that of the first worker; when no other is
 * present, it becomes this worker's; "" agrees with everything. */
bool psd_membership_agrees(psd_membership_t *self, const psd_worker_row_t *row, const char *recipe);

/* A worker says what rows it divides with the others, and how, whenever that changes. NULL: like them; otherwise what another has
 * said. A life may begin with anything that another worker has said, because it may be in the midst of the job, and change later. */
const psd_division_t *psd_membership_divides_otherwise(psd_membership_t *self, psd_worker_row_t *row, const char *text);

/* A new run begins: no worker is a member until it registers again. `undone`: the last rounds are lost, so that no worker has
 * finished; otherwise a worker that has left with its work done does not have to repeat it. */
void psd_membership_begin_run(psd_membership_t *self, bool undone);

/* No message was read for `by_ms`: move the times since which workers are silent. */
void psd_membership_excuse(psd_membership_t *self, uint64_t by_ms, uint64_t now_ms);

/* How the work was done, as a sentence: who has finished, and who was lost or has left before. `unit`: what a clock counts;
 * `drops_lost`: those that were lost were let be. */
void psd_membership_describe_end(const psd_membership_t *self, const char *unit, bool drops_lost, char *text, size_t n);

/* Why `incarnation`, from which a message came, is no longer this worker. */
void psd_worker_describe_fenced(const psd_worker_row_t *row, uint64_t incarnation, char *text, size_t n);

/* A worker that stayed with its work done may go. */
void psd_worker_let_go(psd_worker_row_t *row);

/* Whether a worker that was told that it may go has not confirmed it, and has said something lately: it may ask again. */
bool psd_membership_any_going(const psd_membership_t *self, uint64_t now_ms);

/* Whether all of the job's shards hold its push of the open round. */
bool psd_worker_has_pushed(const psd_worker_row_t *row, uint32_t n_shards);

/* Whether a worker holds the row now: joining, waiting, live or done. */
bool psd_worker_is_here(const psd_worker_row_t *row);
