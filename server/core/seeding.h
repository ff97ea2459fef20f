/* seeding.h - how a shard gets the model's initial values: the weights, then, array by array, the optimizer state that tensors
 * inherit. It requests a window of parts from one member at a time, and more as they arrive, so that they never fill a slow link.
 * It knows which parts have values. Owned by the engine; pure. */
#pragma once

#include "proto/actions.h"
#include "server/core/shard.h"

typedef struct psd_seeding {
    uint32_t n_parts;        /* parts of the shard, at least 1 */
    uint32_t array;          /* the one that is requested now; psd_shard_initial_arrays() when all have come */
    uint32_t n_started;      /* parts that have their values of it, or need none */
    uint8_t *started;        /* bitmap of those */
    bool is_over;            /* all parts have all values */
    uint8_t *asked, *newest; /* requested parts that have not come; those of the newest request */
    uint64_t flying;         /* elements of `asked` */
    bool asking;             /* a worker has been asked */
    uint32_t worker;         /* that worker; otherwise the next in turn: this id or the next one that is present */
    uint64_t incarnation;    /* of the worker that was asked */
    uint64_t seq;            /* number of the newest request */
    uint64_t sent_ms;        /* when that was sent or repeated */
    uint64_t heard_ms;       /* when that worker's last message arrived */
} psd_seeding_t;

/* For a shard of `n_parts`, at least 1; false when memory runs out. All zero before, and after psd_seeding_clear. */
bool psd_seeding_init(psd_seeding_t *self, uint32_t n_parts);
void psd_seeding_clear(psd_seeding_t *self);

/* psd_seeding_lacks: whether these values may come now: it is the array's turn, and the part does not have them.
 * psd_seeding_set_all: all parts have all values, from a checkpoint, or because the shard has no parts. */
bool psd_seeding_lacks(const psd_seeding_t *self, uint32_t array, uint32_t part);
void psd_seeding_set_all(psd_seeding_t *self);

/* Whether to keep waiting for the worker that was asked: this is the same life of it, and it has not been silent for too long. */
bool psd_seeding_waits(const psd_seeding_t *self, uint64_t incarnation, uint64_t now_ms);

/* Whether to repeat the newest request; if so, counts it as repeated now. Because of its number, it is answered only once. */
bool psd_seeding_repeats(psd_seeding_t *self, uint64_t now_ms);

/* Ask another worker from now on. */
void psd_seeding_turn_to(psd_seeding_t *self, uint32_t worker, uint64_t incarnation, uint64_t now_ms);

/* A message has come from the worker that was asked. */
void psd_seeding_heard(psd_seeding_t *self, uint32_t worker, uint64_t incarnation, uint64_t now_ms);

/* Make the next request, which is in `newest`, with number `seq`. False: the window has no room, or nothing is left to request. */
bool psd_seeding_widen(psd_seeding_t *self, const psd_shard_t *shard, uint64_t now_ms);

/* The worker has answered the request of this number. Requested parts that have not come are lost, because a connection keeps the
 * order of messages. Returns whether to request more. */
bool psd_seeding_answered(psd_seeding_t *self, uint32_t worker, uint64_t seq);

/* Values that a part did not have yet have come; after the last part's, the next array is requested. Returns whether enough of the
 * window has come to request more. */
bool psd_seeding_came(psd_seeding_t *self, const psd_shard_t *shard, uint32_t part);
