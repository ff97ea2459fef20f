#include "server/core/totals.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void psd_totals_init(psd_totals_t *self, const psd_groups_t *groups, const psd_clip_t *clip)
{
    *self = (psd_totals_t){ .groups = *groups, .passes = psd_passes_of(groups, clip) };
    while (self->passes.n && !self->passes.n_sums[self->passes.n - 1])
        self->passes.n--;
    psd_totals_clear(self);
}

void psd_totals_clear(psd_totals_t *self)
{
    psd_partition_clear(&self->map);
    free(self->group_of);
    free(self->sum);
    free(self->total);
    self->group_of = NULL;
    self->sum = self->total = NULL;
    self->pass = self->passes.n;
}

bool psd_totals_is_awaiting(const psd_totals_t *self) { return self->pass < self->passes.n; }

bool psd_totals_has_begun(const psd_totals_t *self) { return self->total != NULL; }

int psd_totals_begin(psd_totals_t *self, const psd_extent_t *tensors, const uint8_t *group_of, uint32_t n_tensors,
                     uint32_t n_servers)
{
    self->n_tensors = n_tensors;
    if (psd_partition_cut(&self->map, tensors, n_tensors, n_servers, PSD_MOST_OF_PART, NULL) != PSD_OK ||
        !(self->group_of = malloc(n_tensors + 1)) ||
        !(self->sum = calloc((size_t)self->map.n_chunks * PSD_MAX_SUMS, sizeof *self->sum)) ||
        !(self->total = calloc((size_t)n_tensors * PSD_MAX_SUMS, sizeof *self->total)))
        return PSD_ENOMEM;
    memcpy(self->group_of, group_of, n_tensors);
    return PSD_OK;
}

void psd_totals_await(psd_totals_t *self)
{
    self->pass = 0;
    self->told = (psd_server_set_t){ 0 };
}

static bool is_over_model(const psd_totals_t *self, uint32_t tensor)
{
    return psd_passes_is_over_model(&self->passes, self->pass, &self->groups.at[self->group_of[tensor]]);
}

/* Groups that do not take part have reported zeros. */
static void add_up(psd_totals_t *self, uint32_t rows, uint32_t n_sums)
{
    double model[PSD_MAX_SUMS] = { 0 };
    memset(self->total, 0, (size_t)rows * n_sums * sizeof *self->total);
    for (uint32_t c = 0; c < self->map.n_chunks; c++) {
        const uint32_t tensor = self->map.chunk[c].tensor;
        double *to = is_over_model(self, tensor) ? model : self->total + (size_t)(rows == 1 ? 0 : tensor) * n_sums;
        for (uint32_t k = 0; k < n_sums; k++)
            to[k] += self->sum[c * n_sums + k];
    }
    for (uint32_t t = 0; t < rows; t++)
        if (rows == 1 ? self->passes.scope[self->pass] == PSD_SCOPE_MODEL : is_over_model(self, t))
            memcpy(self->total + (size_t)t * n_sums, model, n_sums * sizeof *model);
}

bool psd_totals_take(psd_totals_t *self, uint32_t shard, int pass, const double *sums, size_t n, uint32_t *n_total)
{
    if (pass != self->pass || !psd_totals_is_awaiting(self) || shard >= self->map.n_servers)
        return false;
    const uint32_t n_sums = (uint32_t)self->passes.n_sums[pass];
    if (n != (size_t)self->map.n_held[shard] * n_sums)
        return false;
    for (uint32_t p = 0; p < self->map.n_held[shard]; p++)
        memcpy(self->sum + (size_t)self->map.held[shard][p] * n_sums, sums + (size_t)p * n_sums, n_sums * sizeof *sums);
    psd_server_set_add(&self->told, shard);
    if (self->told.n < self->map.n_servers)
        return false;
    const uint32_t rows = self->passes.scope[pass] == PSD_SCOPE_MODEL ? 1 : self->n_tensors;
    add_up(self, rows, n_sums);
    *n_total = rows * n_sums;
    self->pass++;
    self->told = (psd_server_set_t){ 0 };
    return true;
}
