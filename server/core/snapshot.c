#include "server/core/snapshot.h"

#include <stdlib.h>
#include <string.h>

enum { KEPT_MS = 5000 }; /* without being read */

static void drop_parts(psd_buf_t ***parts, uint32_t n)
{
    for (uint32_t p = 0; *parts && p < n; p++)
        psd_buf_unref(&(*parts)[p]);
    free(*parts);
    *parts = NULL;
}

static void drop(psd_snapshot_t *self)
{
    drop_parts(&self->weights, self->n_parts);
    drop_parts(&self->slow, self->n_parts);
}

void psd_snapshot_take(psd_snapshot_t *self, uint64_t now_ms, uint64_t number, uint64_t version, const psd_shard_t *shard,
                       bool has_slow)
{
    drop(self);
    self->number = number;
    self->version = version;
    self->used_ms = now_ms;
    if (!shard)
        return;
    self->n_parts = psd_shard_parts(shard);
    bool ok = (self->weights = calloc(self->n_parts + 1, sizeof *self->weights)) != NULL;
    ok = ok && (!has_slow || (self->slow = calloc(self->n_parts + 1, sizeof *self->slow)));
    for (uint32_t p = 0; ok && p < self->n_parts; p++) {
        self->weights[p] = psd_buf_ref(psd_shard_weights(shard, p));
        ok = !has_slow || (self->slow[p] = psd_shard_slow(shard, p));
    }
    if (!ok)
        drop(self);
}

psd_buf_t *const *psd_snapshot_read(psd_snapshot_t *self, uint64_t now_ms, uint64_t number, bool slow)
{
    if (number != self->number || !self->weights)
        return NULL;
    self->used_ms = now_ms;
    return slow && self->slow ? self->slow : self->weights;
}

void psd_snapshot_tick(psd_snapshot_t *self, uint64_t now_ms)
{
    if (self->weights && now_ms >= self->used_ms + KEPT_MS)
        drop(self);
}

void psd_snapshot_clear(psd_snapshot_t *self)
{
    drop(self);
    memset(self, 0, sizeof *self);
}
