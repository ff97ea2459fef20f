/* reference.h - training in a single process, which a cluster must match (worker/reference.h), with its own data and model. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/reference.h"

typedef struct reference reference_t;

/* The workers' settings; strings and arrays are borrowed for the call. */
typedef struct reference_config {
    const char *data; /* data.train, of classes */
    const char *kind; /* model.kind */
    const size_t *layers;
    size_t n_layers;
    size_t batch;
    uint64_t seed;
    const char *rule;    /* optimizer */
    uint32_t accumulate; /* rounds that make one step together; 0: each makes a step */
} reference_config_t;

/* NULL after a line on stderr. */
reference_t *reference_new(const reference_config_t *config);
void reference_destroy(reference_t **self_p);

/* Close round `clock` of a view of `world` workers with the contributions of these `n` ranks, ascending. */
void reference_round(reference_t *self, uint64_t clock, uint32_t world, const uint32_t *ranks, uint32_t n);

/* Rounds 1 to `last` with all of `world` workers. */
void reference_run(reference_t *self, uint64_t last, uint32_t world);

/* All in one call: the hashes after rounds 1 to `last` with all of `world` workers. False after a line on stderr. */
bool reference_undisturbed(const reference_config_t *config, uint64_t last, uint32_t world, char fast[PSD_SHA256_TEXT],
                           char slow[PSD_SHA256_TEXT]);

/* Hashes as a worker's summary has them; `slow` is "" without Lookahead. */
void reference_hash(const reference_t *self, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT]);
