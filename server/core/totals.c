#include "server/core/totals.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void psd_totals_init(psd_totals_t *self, const psd_rule_t *rule, const psd_clip_t *clip)
{
    *self = (psd_totals_t){ .rule = *rule, .passes = psd_passes_of(rule, clip) };
    psd_totals_clear(self);
}

void psd_totals_clear(psd_totals_t *self)
{
    psd_partition_clear(&self->map);
    free(self->sum);
    free(self->total);
    self->sum = self->total = NULL;
    self->pass = self->passes.n;
}

bool psd_totals_is_awaiting(const psd_totals_t *self) { return self->pass < self->passes.n; }

int psd_totals_await(psd_totals_t *self, const uint64_t *sizes, uint32_t n_tensors, uint32_t n_servers)
{
    if (!self->passes.n)
        return PSD_OK;
    if (!self->map.n_chunks) {
        self->n_tensors = n_tensors;
        if (psd_partition_make(&self->map, sizes, n_tensors, n_servers, PSD_MOST_OF_PART, NULL) != PSD_OK ||
            !(self->sum = calloc((size_t)self->map.n_chunks * PSD_MAX_SUMS, sizeof *self->sum)) ||
            !(self->total = calloc((size_t)n_tensors * PSD_MAX_SUMS, sizeof *self->total)))
            return PSD_ENOMEM;
    }
    self->pass = 0;
    self->told = (psd_server_set_t){ 0 };
    return PSD_OK;
}

static void add_up(psd_totals_t *self, uint32_t rows, uint32_t n_sums)
{
    memset(self->total, 0, (size_t)rows * n_sums * sizeof *self->total);
    for (uint32_t c = 0; c < self->map.n_chunks; c++)
        for (uint32_t k = 0; k < n_sums; k++)
            self->total[(rows == 1 ? 0 : self->map.chunk[c].tensor) * n_sums + k] += self->sum[c * n_sums + k];
}

bool psd_totals_take(psd_totals_t *self, uint32_t shard, int pass, const double *sums, size_t n, uint32_t *n_total)
{
    if (pass != self->pass || !psd_totals_is_awaiting(self) || shard >= self->map.n_servers)
        return false;
    const uint32_t n_sums = (uint32_t)self->passes.at[pass]->n_sums(&self->rule);
    if (n != (size_t)self->map.n_held[shard] * n_sums)
        return false;
    for (uint32_t p = 0; p < self->map.n_held[shard]; p++)
        memcpy(self->sum + (size_t)self->map.held[shard][p] * n_sums, sums + (size_t)p * n_sums, n_sums * sizeof *sums);
    psd_server_set_add(&self->told, shard);
    if (self->told.n < self->map.n_servers)
        return false;
    const uint32_t rows = self->passes.at[pass]->scope(&self->rule) == PSD_SCOPE_MODEL ? 1 : self->n_tensors;
    add_up(self, rows, n_sums);
    *n_total = rows * n_sums;
    self->pass++;
    self->told = (psd_server_set_t){ 0 };
    return true;
}
