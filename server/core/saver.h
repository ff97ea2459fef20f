/* saver.h - one shard's checkpoint, written part by part beside training. A step that would change a part that is not written yet
 * keeps a copy of it; the step of the part that is being written is deferred until that is done. Owned by the engine, which hands
 * out deferred steps. Pure: the writer's tasks are actions; their outcomes come back as events. */
#pragma once

#include "proto/actions.h"
#include "server/core/shard.h"

/* What a checkpoint contains of a shard besides the chunks. */
typedef struct psd_save_point {
    uint64_t clock, version, samples;
    double lr;
    const psd_member_t *applied; /* worker, incarnation, samples = last applied clock (asp); borrowed */
    uint32_t n_applied;
    const uint32_t *residual_of; /* workers whose residuals the file holds, or will hold; ascending; borrowed */
    uint32_t n_residuals;
} psd_save_point_t;

typedef struct psd_saver {
    bool due; /* the log orders the state of `order`, and that has not been begun */
    uint64_t order;
    bool saving;
    uint64_t clock;        /* of the one being written */
    uint32_t next;         /* parts below this are done; the one before it may be with the writer */
    bool opening;          /* the writer makes the file; all parts are still to come */
    bool in_flight;        /* the writer has the part before `next` */
    bool blocked;          /* the next part is being stepped: the writer gets it after that */
    bool awaits_residuals; /* these go into the file as well */
    bool ending;           /* the writer makes the file durable */
    psd_work_t *deferred;  /* the step of the part that is being written */
    uint64_t saved;        /* newest durable clock + 1 */
    uint64_t failed;       /* clock + 1 of the newest failure */
    char trouble[400];     /* why a file could not be written or read last; "": no failure */
    psd_save_point_t point;
    psd_member_t applied[PSD_MAX_WORKERS]; /* of the point */
    uint32_t residual_of[PSD_MAX_WORKERS]; /* likewise */
} psd_saver_t;

/* Another run begins: nothing is saved, nothing is being written, and deferred steps are forgotten. */
void psd_saver_clear(psd_saver_t *self);

/* The log orders to save the state after `clock`. If that `cannot_wait`, because steps do not change the clock, it fails while
 * another one is being written. */
void psd_saver_order(psd_saver_t *self, uint64_t clock, bool cannot_wait);

/* Whether to begin a checkpoint at `clock`, while no step runs: not while another is being written, nor if a file of that clock is
 * durable already. If the state of that clock is gone, the order has failed. */
bool psd_saver_may_begin(psd_saver_t *self, uint64_t clock);

/* Begin it with these facts, whose lists are copied. If it must hold residuals, it ends only after psd_saver_has_residuals. */
void psd_saver_begin(psd_saver_t *self, const psd_save_point_t *point, psd_actions_t *out);

/* How a part's step must respect the checkpoint being written: returns whether it may run now, and sets work->preserve if it must
 * keep a copy. A step that may not run is deferred, and returned by the event that ends the wait. */
bool psd_saver_may_step(psd_saver_t *self, psd_shard_t *shard, psd_work_t *work);

/* A part's step has run. `busy` is the bitmap of parts that threads have, here and below. */
void psd_saver_stepped(psd_saver_t *self, psd_shard_t *shard, uint32_t part, const uint8_t *busy, psd_actions_t *out);

/* The writer has made the file; written a part; or has finished, or failed because of `failure`. The last two return the deferred
 * step, to be handed out, or NULL. After the first two, psd_saver_go_on asks for the next part. */
void psd_saver_begun(psd_saver_t *self);
psd_work_t *psd_saver_part_saved(psd_saver_t *self, psd_shard_t *shard, uint32_t part);
psd_work_t *psd_saver_saved(psd_saver_t *self, psd_shard_t *shard, const uint8_t *busy, const char *failure);
void psd_saver_go_on(psd_saver_t *self, const psd_shard_t *shard, const uint8_t *busy, psd_actions_t *out);

/* All residuals that will come are in the file. */
void psd_saver_has_residuals(psd_saver_t *self, const psd_shard_t *shard, const uint8_t *busy, psd_actions_t *out);

/* Whether the writer is busy, so that the shard must stay as it is. */
bool psd_saver_is_writing(const psd_saver_t *self);

/* Why a file could not be read or written, in printable words; NULL: no failure. */
void psd_saver_note_trouble(psd_saver_t *self, const char *failure);
