/* outcome.h - the results of one psdctl run, read from its directory: how it ended, its scores, its speed, and its curves. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/optim/optimizer.h"

#define PSD_TRAINING_LOSS "loss" /* the metric of a job without a test set */

enum { PSD_CURVE_POINTS = 100 /* points at most, of the training loss */ };

typedef struct psd_point {
    double step, seconds; /* since the loop began */
    double epochs;        /* of training losses: passes over the data so far */
    double value;         /* NaN: it was not finite */
} psd_point_t;

typedef struct psd_curve {
    psd_point_t *point; /* by step */
    size_t n;
} psd_curve_t;

typedef struct psd_outcome {
    bool read;                     /* whether the rest is set */
    bool diverged;                 /* the loss stayed infinite */
    bool untrained;                /* it ended normally, but does no better than a model that has learned nothing */
    bool undefined;                /* the labels of the test set or of the held-out rows leave the metric undefined */
    char optimizer[PSD_RULE_TEXT]; /* the name of the rule, from the servers */
    char metric[32];               /* "accuracy", "mse"; without a test set "loss", that of training */
    double final, best;            /* of it; NaN: there is none */
    double held;                   /* the metric on the rows held out of training, at the end; NaN: none were */
    double first_loss;             /* of training, in the first line of metrics; NaN: not finite */
    double loss;                   /* of training, mean over the last tenth of the steps; NaN: not finite */
    uint64_t steps;
    double epochs, seconds, samples_per_s;
    uint64_t moved_bytes; /* received and sent by all servers */
    char sha256[65];      /* of the final weights, "" when they were not hashed */
    char sha256_initial[65];
    char *order;               /* each worker's hash of the rows it was given, with blanks between */
    psd_curve_t losses, looks; /* of training; of the metric on the test set */
} psd_outcome_t;

/* Read the results of a job with this many workers and servers from `directory`. PSD_OK also when it diverged; PSD_EDATA, with a
 * sentence, when it did not finish, or its workers did not start with the same weights. Clear it in any case. */
int psd_outcome_read(psd_outcome_t *self, const char *directory, unsigned n_workers, unsigned n_servers, psd_err_t *err);
void psd_outcome_clear(psd_outcome_t *self);

/* Whether smaller values of the metric are better. */
bool psd_outcome_smaller_is_better(const char *metric);

/* The first point at which the metric is at least as good as `target`; NULL: there is none. */
const psd_point_t *psd_outcome_reached(const psd_outcome_t *self, double target);
