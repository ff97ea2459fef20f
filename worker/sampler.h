/* sampler.h - which rows a worker trains on in a round: a pure function of (seed, clock, rank, world).
 *
 * Each epoch has its own order of all rows: Fisher and Yates's shuffle by splitmix64 with state seed + 1000 (epoch + 1). A round
 * takes the next `batch` rows of it (the last round of an epoch takes the remaining ones) and cuts them among the workers, so that
 * the union of all slices is the same batch for any number of workers. One thread at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

typedef struct psd_sampler psd_sampler_t;

/* One worker's part of one round. */
typedef struct psd_slice {
    const uint32_t *rows;    /* row numbers; live until the next psd_sampler_at */
    size_t n;                /* number of them; may be 0 when the round has fewer rows than workers */
    size_t n_round;          /* rows of the whole round */
    uint64_t epoch;          /* from 0 */
    uint64_t samples_before; /* rows of all rounds before this one */
    bool ends_epoch;         /* it is the last round of its epoch */
} psd_slice_t;

/* Read a batch size: "full" or a count from 1; more than `n_rows` is the whole data. PSD_ECONFIG. */
int psd_batch_parse(const char *text, size_t n_rows, size_t *batch, psd_err_t *err);

/* Sample from `n_rows` (at least 1, at most 2^32 - 1) rows, `batch` (1 to n_rows) a round; not `shuffle`: in
 * the order of the file. NULL, with `err` set, when memory runs out. */
psd_sampler_t *psd_sampler_new(size_t n_rows, size_t batch, bool shuffle, uint64_t seed, psd_err_t *err);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_sampler_destroy(psd_sampler_t **self_p);

/* The rows of worker `rank` of `world` in round `clock`, from 1. */
psd_slice_t psd_sampler_at(psd_sampler_t *self, uint64_t clock, uint32_t rank, uint32_t world);

/* Rounds of one epoch: ceil(n_rows / batch). */
uint64_t psd_sampler_steps_per_epoch(const psd_sampler_t *self);
