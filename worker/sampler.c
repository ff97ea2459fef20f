#include "worker/sampler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"

struct psd_sampler {
    size_t n_rows, batch;
    bool shuffle;
    uint64_t seed;
    uint64_t epoch;  /* the epoch whose order `order` holds; UINT64_MAX at first */
    uint32_t *order; /* n_rows row numbers */
};

int psd_batch_parse(const char *text, size_t n_rows, size_t *batch, psd_err_t *err)
{
    char *end;
    if (!strcmp(text, "full")) {
        *batch = n_rows;
        return PSD_OK;
    }
    unsigned long long n = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || !n)
        return psd_err_set(err, PSD_ECONFIG, "data.batch is '%.40s'; write full, or a number of rows from 1", text);
    *batch = n < n_rows ? (size_t)n : n_rows;
    return PSD_OK;
}

psd_sampler_t *psd_sampler_new(size_t n_rows, size_t batch, bool shuffle, uint64_t seed, psd_err_t *err)
{
    assert(n_rows > 0 && n_rows <= UINT32_MAX && batch > 0 && batch <= n_rows);
    psd_sampler_t *self = calloc(1, sizeof *self);
    uint32_t *order = malloc(n_rows * sizeof *order);
    if (!self || !order) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the order of %zu rows", n_rows);
        free(self);
        free(order);
        return NULL;
    }
    *self =
        (psd_sampler_t){ .n_rows = n_rows, .batch = batch, .shuffle = shuffle, .seed = seed, .epoch = UINT64_MAX, .order = order };
    return self;
}

void psd_sampler_destroy(psd_sampler_t **self_p)
{
    if (*self_p)
        free((*self_p)->order);
    free(*self_p);
    *self_p = NULL;
}

static void shuffle(psd_sampler_t *self, uint64_t epoch)
{
    uint64_t rng = self->seed + 1000 * (epoch + 1);
    for (size_t i = 0; i < self->n_rows; i++)
        self->order[i] = (uint32_t)i;
    for (size_t i = self->n_rows - 1; self->shuffle && i > 0; i--) {
        size_t j = psd_splitmix64(&rng) % (i + 1);
        uint32_t row = self->order[i];
        self->order[i] = self->order[j];
        self->order[j] = row;
    }
    self->epoch = epoch;
}

psd_slice_t psd_sampler_at(psd_sampler_t *self, uint64_t clock, uint32_t rank, uint32_t world)
{
    assert(clock > 0 && rank < world);
    const uint64_t steps = psd_sampler_steps_per_epoch(self), epoch = (clock - 1) / steps, step = (clock - 1) % steps;
    if (epoch != self->epoch)
        shuffle(self, epoch);
    const size_t first = step * self->batch, left = self->n_rows - first, m = left < self->batch ? left : self->batch;
    const size_t from = m * rank / world, to = m * ((size_t)rank + 1) / world;
    return (psd_slice_t){ .rows = self->order + first + from,
                          .n = to - from,
                          .n_round = m,
                          .epoch = epoch,
                          .samples_before = epoch * self->n_rows + first,
                          .ends_epoch = step + 1 == steps };
}

uint64_t psd_sampler_steps_per_epoch(const psd_sampler_t *self) { return (self->n_rows + self->batch - 1) / self->batch; }
