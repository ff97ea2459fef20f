/* reference.h - training in a single process, which a cluster in bsp must match bit for bit: the same data, model and batches, each
 * worker's slice one after the other, and the gradients summed in rank order by psd_whole_step. Data that a cluster sends coded is
 * coded and decoded here too. One thread at a time. */
#pragma once

#include "common/codec/codec.h"
#include "common/optim/aggregate.h"
#include "common/optim/clip.h"
#include "common/optim/optimizer.h"
#include "common/optim/schedule.h"
#include "common/system/safetensors.h"
#include "worker/setup.h"

typedef struct psd_reference psd_reference_t;

/* The workers' settings. Data and model are borrowed until the reference is destroyed; the model's weights become those of the
 * reference. */
typedef struct psd_reference_config {
    psd_model_t *model;
    const psd_dataset_t *train;
    size_t batch;
    bool shuffle;
    uint64_t seed;
    const char *rule;             /* optimizer */
    const char *groups;           /* tensors with other settings; "": none */
    psd_schedule_t schedule;      /* of the learning rate */
    psd_reduce_t reduce;          /* how the gradients of a round are combined */
    psd_clip_t clip;              /* bounds of the summed gradient */
    psd_codings_t codings;        /* of gradients, and of weights */
    uint32_t accumulate;          /* rounds that make one step together; 0 counts as 1 */
    const psd_statefile_t *state; /* the optimizer state to start from; NULL or without fields: none */
    bool partial;                 /* as for psd_inherit */
    uint32_t world;               /* most workers, at least 1 */
} psd_reference_config_t;

/* NULL with `err` set: PSD_ECONFIG for rule and groups, PSD_EDATA for a state that does not fit them, PSD_ENOMEM. */
psd_reference_t *psd_reference_new(const psd_reference_config_t *config, psd_err_t *err);
void psd_reference_destroy(psd_reference_t **self_p);

/* Close round `clock` of a view of `world` workers, with the contributions of these `n` ranks, ascending. It makes a step, or waits
 * for further rounds if several make one. */
void psd_reference_round(psd_reference_t *self, uint64_t clock, uint32_t world, const uint32_t *ranks, uint32_t n);

/* Hash of tensor `i` as workers hold it; or the hashes of all weights that a worker's summary has: `slow` is "" without
 * Lookahead. */
void psd_reference_hash_of(const psd_reference_t *self, size_t i, char text[PSD_SHA256_TEXT]);
void psd_reference_hash(const psd_reference_t *self, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT]);
