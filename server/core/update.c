#include "server/core/update.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/actions.h"

static const psd_passes_t *passes(const psd_update_t *self) { return psd_shard_passes(self->shard); }

bool psd_update_init(psd_update_t *self, psd_shard_t *shard, uint32_t n_tensors)
{
    const uint32_t parts = psd_shard_parts(shard);
    const size_t n_passes = (size_t)psd_shard_passes(shard)->n;
    *self = (psd_update_t){ .shard = shard, .n_tensors = n_tensors, .busy = calloc(1, psd_bitmap_bytes(parts) + 1) };
    if (n_passes) {
        self->sum = calloc((size_t)psd_shard_chunks(shard) * PSD_MAX_SUMS + 1, sizeof *self->sum);
        self->total = calloc(n_passes * n_tensors * PSD_MAX_SUMS, sizeof *self->total);
    }
    self->look = calloc((size_t)psd_shard_chunks(shard) * PSD_LOOK_TERMS + 1, sizeof *self->look);
    const bool ok = self->busy && self->look && (!n_passes || (self->sum && self->total));
    if (!ok)
        psd_update_clear(self);
    return ok;
}

void psd_update_clear(psd_update_t *self)
{
    free(self->busy);
    free(self->sum);
    free(self->total);
    free(self->look);
    *self = (psd_update_t){ 0 };
}

void psd_update_begin(psd_update_t *self, uint64_t samples, bool measures, bool looks)
{
    assert(!self->open && "a shard makes one update at a time");
    self->open = true;
    self->measured = false;
    self->samples = samples;
    self->measures = measures;
    self->looks = looks;
    self->pass = measures ? 0 : passes(self)->n;
}

bool psd_update_is_step(const psd_update_t *self) { return self->pass == passes(self)->n; }

static bool is_over_model(const psd_update_t *self, int pass) { return passes(self)->scope[pass] == PSD_SCOPE_MODEL; }

static double *total_of(const psd_update_t *self, int pass, uint32_t tensor)
{
    return self->total + ((size_t)pass * self->n_tensors + (is_over_model(self, pass) ? 0 : tensor)) * PSD_MAX_SUMS;
}

double *psd_update_look(const psd_update_t *self, uint32_t part)
{
    return self->look + (size_t)psd_shard_first(self->shard, part) * PSD_LOOK_TERMS;
}

void psd_update_hand_out(psd_update_t *self, psd_work_t *work)
{
    work->pass = self->pass;
    if (!psd_update_is_step(self))
        work->sum = self->sum + (size_t)psd_shard_first(self->shard, work->part) * psd_update_sums(self);
    else if (self->looks)
        work->look = psd_update_look(self, work->part);
    for (int i = 0; i < PSD_MAX_PASSES; i++) {
        const bool is_known = self->measures && i < self->pass;
        work->total[i] = is_known ? total_of(self, i, 0) : NULL;
        work->stride[i] = is_known && !is_over_model(self, i) ? PSD_MAX_SUMS : 0;
    }
    self->running++;
}

bool psd_update_returned(psd_update_t *self, const psd_work_t *work)
{
    assert(self->running > 0);
    psd_bitmap_unset(self->busy, work->part);
    return !--self->running && psd_update_pass_is_over(self);
}

bool psd_update_pass_is_over(psd_update_t *self)
{
    if (self->running)
        return false;
    self->measured = !psd_update_is_step(self);
    self->open = self->measured;
    return true;
}

uint32_t psd_update_sums(const psd_update_t *self) { return (uint32_t)passes(self)->n_sums[self->pass]; }

bool psd_update_settle(psd_update_t *self, int pass, const double *total, size_t n)
{
    if (!self->measured || pass != self->pass)
        return false;
    const size_t n_sums = psd_update_sums(self), rows = is_over_model(self, pass) ? 1 : self->n_tensors;
    if (n != rows * n_sums)
        return false;
    for (uint32_t t = 0; n_sums && t < rows; t++)
        memcpy(total_of(self, pass, t), total + t * n_sums, n_sums * sizeof *total);
    self->measured = false;
    self->pass++;
    return true;
}
