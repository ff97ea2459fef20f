/* snapshot.h - what a shard keeps for followers: its weights as they were at one entry of the log, until a newer one is ordered or
 * nobody reads it any more. Owned by the engine; pure. */
#pragma once

#include "server/core/shard.h"

/* All zero: no snapshot was ordered. */
typedef struct psd_snapshot {
    uint64_t number;  /* the log entry that ordered it; 0: there has been none in this run */
    uint64_t version; /* of these weights */
    uint64_t used_ms; /* when a part was last read */
    uint32_t n_parts;
    psd_buf_t **weights, **slow; /* of each part; weights NULL: there is nothing to read; slow NULL: the same as the weights */
} psd_snapshot_t;

/* Keep the weights of the shard as they are now, instead of those kept before: by reference, which makes the next step copy them
 * before it writes. Slow weights are copied. No work on the shard may be out. If there are no values yet (`shard` is NULL), or no
 * memory, the snapshot has a number but nothing to read. */
void psd_snapshot_take(psd_snapshot_t *self, uint64_t now_ms, uint64_t number, uint64_t version, const psd_shard_t *shard,
                       bool has_slow);

/* A follower reads snapshot `number`: each part's weights or slow weights, borrowed until the next call of another function; NULL
 * if they are not, or no longer, here. */
psd_buf_t *const *psd_snapshot_read(psd_snapshot_t *self, uint64_t now_ms, uint64_t number, bool slow);

/* Time passes: free the weights when nobody has read them for 5 s. */
void psd_snapshot_tick(psd_snapshot_t *self, uint64_t now_ms);

/* Forget it, and free its weights. */
void psd_snapshot_clear(psd_snapshot_t *self);
