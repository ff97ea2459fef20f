/* reference.h - the single process that a cluster in bsp must equal, bit for bit: the same data, model and batches, each
 * worker's slice one after the other, their gradients summed in rank order by psd_whole_step; what is sent in a code goes
 * through it here too. One thread at a time. */
#pragma once

#include "common/codec/codec.h"
#include "common/optim/clip.h"
#include "common/optim/optimizer.h"
#include "common/optim/schedule.h"
#include "common/system/safetensors.h"
#include "worker/setup.h"

typedef struct psd_reference psd_reference_t;

/* What the workers are told. Data and model are borrowed for the reference's life; the model's weights become its
 * own. */
typedef struct psd_reference_config {
    psd_model_t *model;
    const psd_dataset_t *train;
    size_t batch;
    bool shuffle;
    uint64_t seed;
    const char *rule;        /* optimizer */
    psd_schedule_t schedule; /* of the learning rate */
    psd_schedule_unit_t unit;
    psd_clip_t clip;       /* bounds of the summed gradient */
    psd_codings_t codings; /* of gradients, and of weights */
    uint32_t world;        /* most workers it can stand for, at least 1 */
} psd_reference_config_t;

/* NULL with `err` set: PSD_ECONFIG for the rule, PSD_ENOMEM. */
psd_reference_t *psd_reference_new(const psd_reference_config_t *config, psd_err_t *err);
void psd_reference_destroy(psd_reference_t **self_p);

/* Close round `clock` of a view of `world` workers with the contributions of these `n` ranks, ascending. */
void psd_reference_round(psd_reference_t *self, uint64_t clock, uint32_t world, const uint32_t *ranks, uint32_t n);

/* Hash of tensor `i` as workers hold it; or, as a worker's summary has them, of all: `slow` is "" without Lookahead. */
void psd_reference_hash_of(const psd_reference_t *self, size_t i, char text[PSD_SHA256_TEXT]);
void psd_reference_hash(const psd_reference_t *self, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT]);
