/* applied.h - the applied table of a shard: a row for each worker that it has heard of, with its session, its last closed clock
 * and what has come of its open one; and, where each push is a step, the queue of those that wait for theirs. The log decides who
 * is a member and which clocks are closed; the table remembers it, so that every push counts exactly once. Owned by the engine;
 * pure. */
#pragma once

#include "server/core/inbox.h"

typedef enum psd_standing { PSD_PENDING, PSD_MEMBER, PSD_GONE } psd_standing_t;

typedef struct psd_applied_row {
    uint32_t id;
    uint64_t incarnation, nonce; /* of the member as the log names it; before that, of the worker that attached */
    uint64_t logged;             /* newest incarnation that the log has named; 0: none */
    psd_standing_t standing;
    psd_peer_t peer;     /* its session; NONE before ATTACH */
    uint32_t rank;       /* in the view */
    uint64_t applied;    /* its last closed clock */
    uint64_t resumes_at; /* asp: clocks of this worker in the checkpoint; it continues from there */
    bool owed;           /* it waits for weights that could not be sent yet; psd_applied_owe sets it */
    bool is_queued;      /* asp: its push is complete, and waits for its step */
    uint64_t ahead;      /* the attempt of which it has weights that were made ahead (ahead.h); 0: none */
    bool stays;          /* while a view is made: it is in the new one too */
    psd_inbox_t inbox;   /* its open clock, applied + 1 */
    bool is_again;       /* its push of the open clock was counted when it first came */
    uint64_t in_vain;    /* asp: pushes of its own that were rejected in a row because of Inf or NaN */
    bool has_saved;      /* the checkpoint that this run began from holds its residual, and it has pushed nothing since */
    bool is_loading;     /* the residual is being read; the worker gets no weights before */
    psd_buf_t **kept;    /* the residual, a buffer for each of n_kept parts; NULL: not read */
    uint32_t n_kept;
    uint64_t pushes, samples; /* of its complete pushes */
    double loss;              /* of the last one */
    uint64_t last_push_ms;    /* when that came */
    uint64_t staleness;       /* asp: of its last push */
} psd_applied_row_t;

/* All zero: an empty table. */
typedef struct psd_applied {
    psd_applied_row_t *row[PSD_MAX_WORKERS]; /* by id */
    uint32_t n_rows;                         /* ids from here on have no row */
    uint32_t n_owed;                         /* rows that are owed weights */
    uint32_t n_complete;                     /* members whose push of the open clock is whole */
    uint64_t slowest;                        /* the lowest closed clock of a member, and how many have it, as found last */
    uint32_t n_slowest;
    uint32_t queue[PSD_MAX_WORKERS]; /* a ring of ids, in order of arrival */
    uint32_t n_queued, queue_first;
} psd_applied_t;

/* The row of this id, made if there is none. Aborts without memory. */
psd_applied_row_t *psd_applied_row(psd_applied_t *self, uint32_t id);

/* The row of this id if it is a member; if it is one with a session. NULL otherwise. */
psd_applied_row_t *psd_applied_member(const psd_applied_t *self, uint32_t id);
psd_applied_row_t *psd_applied_attached(const psd_applied_t *self, uint32_t id);

/* Whether the worker waits for weights that could not be sent yet. */
void psd_applied_owe(psd_applied_t *self, psd_applied_row_t *row, bool owed);

/* The worker's push of its open clock has come as a whole: count it, unless it was counted before it was requested again. */
void psd_applied_complete(psd_applied_t *self, psd_applied_row_t *row, uint64_t now_ms);

/* Forget what has come of the worker's open clock, also in the queue. */
void psd_applied_drop_open(psd_applied_t *self, psd_applied_row_t *row);

/* A member is one no longer: forget what has come of it. */
void psd_applied_leave(psd_applied_t *self, psd_applied_row_t *row);

/* The worker's residual from the checkpoint is out of date. */
void psd_applied_forget_saved(psd_applied_row_t *row);

/* A clock of the worker is closed: it may push the next one. With _next it is the open one, and the slowest are known afterwards;
 * after the others, call psd_applied_find_slowest. */
void psd_applied_close(psd_applied_t *self, psd_applied_row_t *row, uint64_t clock);
void psd_applied_close_next(psd_applied_t *self, psd_applied_row_t *row);
void psd_applied_find_slowest(psd_applied_t *self);

/* The queue. An id stands in it at most once; the front is NULL when it is empty. */
void psd_applied_enqueue(psd_applied_t *self, psd_applied_row_t *row);
psd_applied_row_t *psd_applied_front(const psd_applied_t *self);
void psd_applied_leave_front(psd_applied_t *self);

/* Empty the table, and free its rows. */
void psd_applied_clear(psd_applied_t *self);
