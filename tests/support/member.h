/* member.h - workers in threads of the test, for jobs whose end the test decides: rounds continue until it requests the end, then
 * all members leave after the same round, and their weights must be those of one process that did as many. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/cluster.h"
#include "tests/support/reference.h"
#include "worker/model.h"
#include "worker/sampler.h"

enum { MEMBER_WAIT_MS = 600000 };

/* The state shared by all members of a job. */
typedef struct crew {
    const cluster_t *cluster;  /* its servers run; with keys, member i uses those of "wI" */
    reference_config_t config; /* the training data; borrowed while they train */
    uint32_t world;            /* members in all */
    pthread_mutex_t lock;
    uint64_t newest, last; /* clock of the most advanced member; the last clock */
} crew_t;

typedef struct member {
    crew_t *crew;
    pthread_t thread;
    psd_dataset_t *data;
    psd_model_t *model;
    psd_sampler_t *sampler;
    const psd_param_t *params;
    size_t n; /* params */
    const float *gradient[PSD_MAX_PARAMS];
    int id;
    char failure[256]; /* "" when all went well */
    char sha256[PSD_SHA256_TEXT];
} member_t;

/* Sets `self`; starts nothing. */
void crew_open(crew_t *self, const cluster_t *cluster, const reference_config_t *config, uint32_t world);

/* Whether to make the round of this clock; each member calls it before each round. */
bool crew_goes_on(crew_t *self, uint64_t clock);

/* The newest clock; the last clock, after requesting the end of the job. */
uint64_t crew_clock(crew_t *self);
uint64_t crew_end(crew_t *self);

/* Load data and model of the member with this index, from 0. False, after a line on stderr, when that fails. */
bool member_open(member_t *self, crew_t *crew, int id);

/* Compute the gradient of a member's part of a round, into `gradient`; returns its samples. */
size_t member_gradient(member_t *self, uint64_t clock, uint32_t rank, uint32_t world);

/* Start training by the library in a separate thread; `failure` may be read after member_join. */
void member_start(member_t *self);
void member_join(member_t *self);

/* Free what member_open made; `sha256` has the weights. */
void member_close(member_t *self);

/* Close all members of the crew; returns whether each has the weights of undisturbed rounds 1 to `last`. Prints on stderr those
 * that do not. */
bool crew_has_weights(const crew_t *self, member_t *const *members, uint64_t last);
