/* trainer.h - the training loop of one worker: where it stands, its rows, their gradient, an exchange with
 * the servers for the next weights; now and then a look at the test set. It knows the servers through
 * psd/worker.h alone.
 *
 * The count of steps is the worker's clock, which in the synchronous mode is the round that all workers are
 * in; a worker that joins late starts at the round of the others. Rank 0 alone looks at the test set, unless
 * a target is set: then each worker does, because each one stops by itself (in the synchronous mode all at
 * the same step, for all hold the same weights). Under Lookahead the slow weights are judged and saved. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "psd/worker.h"
#include "worker/model.h"
#include "common/system/progress.h"
#include "common/system/safetensors.h"

/* Borrowed for the run; strings may be NULL where it says so. */
typedef struct psd_trainer_config {
    psd_worker_config_t server; /* how to join */
    psd_model_t *model;         /* with its initial values; holds the final weights after the run */
    const psd_dataset_t *train;
    const psd_dataset_t *test; /* NULL: nothing to evaluate on */
    const psd_dataset_t *held; /* rows held out of training, to choose a learning rate by. NULL: none */
    size_t batch;              /* rows of a round, of all workers together; 1 to train->n_rows */
    bool shuffle;
    uint64_t seed;
    double stop_epochs;                /* 0: no limit */
    uint64_t stop_steps;               /* 0: no limit */
    double stop_target;                /* stop when accuracy is at least this, or a squared error at most; 0: never */
    double eval_every;                 /* epochs between two evaluations; 0: at the end alone */
    uint64_t metrics_every;            /* steps between two lines of metrics.jsonl */
    const char *metrics_also;          /* as psd_record_new's `also` */
    const char *run_dir;               /* for metrics.jsonl and summary.json. NULL or "": none */
    const char *save;                  /* file for the final weights, written by rank 0. NULL or "": none */
    const char *trace;                 /* file to add the hashes of every step's weights to. NULL or "": none */
    psd_progress_t *progress;          /* NULL: none */
    const volatile sig_atomic_t *stop; /* set from a signal handler: finish the round and leave. NULL: never */
    void (*joined)(void);              /* called once, when the weights are there and the loop begins. NULL: not */
} psd_trainer_config_t;

/* How it went. */
typedef struct psd_trainer_result {
    uint64_t run;     /* of the job, in which it ended */
    uint32_t rank;    /* at the end: 0 keeps the model */
    uint64_t steps;   /* the clock's last step */
    uint64_t rounds;  /* exchanges that this worker made */
    uint64_t skipped; /* of them, those that made no step: for Inf or NaN in gradients, of anybody in bsp, of this worker in asp */
    uint64_t samples; /* rows that this worker computed */
    double epochs;    /* passes of the whole job over the data */
    double seconds;   /* from the first exchange to the last */
    double last_loss; /* mean over this worker's last slice; without rows, in bsp, that of the job; NaN: none */
    bool evaluated;   /* whether the next two hold anything */
    psd_score_t last_score;            /* of the last evaluation */
    double best_metric;                /* of all */
    bool held_evaluated;               /* whether the next one holds anything */
    psd_score_t held_score;            /* of the last evaluation, on the held-out rows */
    char sha256[PSD_SHA256_TEXT];      /* of the final weights; "" when the run failed before it had them */
    char sha256_slow[PSD_SHA256_TEXT]; /* of the slow weights; "" where there are none */
} psd_trainer_result_t;

enum { PSD_TRAINER_RECIPE = 192 };

/* What a worker of this configuration trains on, in words that are the same for workers who fit together: the model, rows, a hash of what
 * is in them, batch, and what the order of the rows comes from. */
void psd_trainer_recipe(const psd_trainer_config_t *config, char out[PSD_TRAINER_RECIPE]);

/* Train to the end. PSD_OK; PSD_EDIVERGED when the target was not met or the loss stayed infinite;
 * PSD_ESTOPPED when `stop` was set first; PSD_EUNAVAILABLE, PSD_EREFUSED, PSD_EFENCED and other codes when
 * the servers could not be worked with; PSD_EIO when a file could not be written. `result` is filled as far
 * as it went. */
int psd_trainer_run(const psd_trainer_config_t *config, psd_trainer_result_t *result, psd_err_t *err);
