/* saver.h - one shard's checkpoint, written part by part beside training. A step that would change a part that is not written
 * yet keeps a copy of it; the step of the part that the writer has just now is put off until it is written. Owned by the
 * engine, which hands out what is put off. Pure: what the writer is to do is an action; its outcomes come back as events. */
#pragma once

#include "proto/actions.h"
#include "server/core/shard.h"

/* What a checkpoint says of a shard beside the chunks. */
typedef struct psd_save_point {
    uint64_t clock, version, samples;
    double lr;
    const psd_member_t *applied; /* worker, incarnation, samples = last applied clock (asp); borrowed */
    uint32_t n_applied;
} psd_save_point_t;

typedef struct psd_saver {
    bool due; /* the log wants the state of `order`, and it has not been begun */
    uint64_t order;
    bool saving;
    uint64_t clock;       /* of the one being written */
    uint32_t next;        /* parts below this are done; the one before it may be with the writer */
    bool opening;         /* the writer makes the file; all parts are still to be asked for */
    bool in_flight;       /* the writer has the part before `next` */
    bool blocked;         /* the next part is being stepped: the writer gets it after that */
    bool ending;          /* the writer makes the file durable */
    psd_work_t *deferred; /* the step of the part that the writer has just now */
    uint64_t saved;       /* newest durable clock + 1 */
    uint64_t failed;      /* clock + 1 of the newest failure */
    char trouble[400];    /* why a file could not be written or read last; "": it could */
    psd_save_point_t point;
    psd_member_t applied[PSD_MAX_WORKERS]; /* of the point */
} psd_saver_t;

/* Another run begins: nothing is saved, and nothing is being written. What was put off is forgotten. */
void psd_saver_clear(psd_saver_t *self);

/* The log wants the state after `clock` saved. */
void psd_saver_order(psd_saver_t *self, uint64_t clock);

/* Whether one is to be begun at `clock`, nothing being stepped: not while another is written, nor when a file of that clock is
 * durable already. When the state of that clock is gone, the order has failed. */
bool psd_saver_may_begin(psd_saver_t *self, uint64_t clock);

/* Begin it: this is what it says, `applied` being copied. */
void psd_saver_begin(psd_saver_t *self, const psd_save_point_t *point, psd_actions_t *out);

/* How a part's step must respect what is being written: whether it may run now, and in work->preserve, whether it keeps a copy. One
 * that may not is put off, and given back by the event that ends the wait. */
bool psd_saver_may_step(psd_saver_t *self, psd_shard_t *shard, psd_work_t *work);

/* A part's step has run. `busy` is the bitmap of parts that threads have, here and below. */
void psd_saver_stepped(psd_saver_t *self, psd_shard_t *shard, uint32_t part, const uint8_t *busy, psd_actions_t *out);

/* The writer has made the file; written a part; or is done, `failure` saying why it could not. The last two return the
 * step that was put off, to be handed out, or NULL. After the first two, psd_saver_go_on asks for the next part. */
void psd_saver_begun(psd_saver_t *self);
psd_work_t *psd_saver_part_saved(psd_saver_t *self, psd_shard_t *shard, uint32_t part);
psd_work_t *psd_saver_saved(psd_saver_t *self, psd_shard_t *shard, const uint8_t *busy, const char *failure);
void psd_saver_go_on(psd_saver_t *self, const psd_shard_t *shard, const uint8_t *busy, psd_actions_t *out);

/* Whether the writer has something, so that the shard must stay as it is. */
bool psd_saver_is_writing(const psd_saver_t *self);

/* Why a file could not be read or written, in printable words; NULL: it could. */
void psd_saver_note_trouble(psd_saver_t *self, const char *failure);
