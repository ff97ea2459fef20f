/* trainer.h - the training loop of one worker: find its rows by its position, compute their gradient, exchange it for the next
 * weights, and sometimes evaluate the test set. It reaches the servers only through psd/worker.h.
 *
 * The count of steps is the worker's clock, which in the synchronous mode is the round that all workers are in; a worker that joins
 * late starts at the round of the others. Only rank 0 evaluates the test set, unless a target or a patience is set: then each
 * worker does, because each one stops by itself (in the synchronous mode all at the same step, because all hold the same weights).
 * Under Lookahead the slow weights are evaluated and saved. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "psd/worker.h"
#include "worker/model.h"
#include "common/system/progress.h"
#include "common/system/safetensors.h"

/* Borrowed for the run; strings may be NULL where noted. */
typedef struct psd_trainer_config {
    psd_worker_config_t server; /* how to join */
    psd_model_t *model;         /* with its initial values; holds the final weights after the run */
    const psd_dataset_t *train;
    const psd_dataset_t *test;  /* test set; NULL: none */
    const psd_metric_t *metric; /* the main metric, which must suit the sets. NULL: the one of the model's kind */
    const psd_dataset_t *held;  /* rows held out of training, to choose a learning rate by. NULL: none */
    size_t batch;               /* rows of a round, of all workers together; 1 to train->n_rows */
    bool shuffle;
    uint64_t seed;
    double stop_epochs;                /* 0: no limit */
    uint64_t stop_steps;               /* 0: no limit */
    double stop_target;                /* stop when the metric is at least this, or an error at most; 0: never */
    uint64_t stop_patience;            /* stop after this many evaluations in a row without improvement, on the held-out
                               * rows if there are any, otherwise on the test set; 0: never */
    double eval_every;                 /* epochs between two evaluations; 0: only at the end */
    bool eval_train;                   /* evaluate the training rows, too */
    uint64_t metrics_every;            /* steps between two lines of metrics.jsonl */
    const char *metrics_also;          /* as psd_record_new's `also` */
    bool warm;                         /* the initial values do not come from `seed`: they are part of the recipe */
    const psd_worker_state_t *state;   /* optimizer state to start from: part of the recipe, too. NULL: none */
    const char *run_dir;               /* for metrics.jsonl and summary.json. NULL or "": none */
    const char *save;                  /* file for the final weights, written by rank 0. NULL or "": none */
    const char *trace;                 /* file to add the hashes of every step's weights to. NULL or "": none */
    psd_progress_t *progress;          /* NULL: none */
    const volatile sig_atomic_t *stop; /* set from a signal handler: finish the round and leave. NULL: never */
    void (*joined)(void);              /* called once, when the weights have come and the loop begins. NULL: not called */
} psd_trainer_config_t;

/* How it went. */
typedef struct psd_trainer_result {
    uint64_t run;     /* number of the job's run in which it ended */
    uint32_t rank;    /* at the end: rank 0 saves the model */
    uint64_t steps;   /* the clock's last step */
    uint64_t rounds;  /* exchanges that this worker made */
    uint64_t skipped; /* of them, those without a step because gradients had Inf or NaN: in bsp any worker's, in asp this one's */
    uint64_t samples; /* rows that this worker computed */
    double epochs;    /* passes of the whole job over the data */
    double seconds;   /* from the first exchange to the last */
    double last_loss; /* mean over this worker's last slice; in bsp, if it had no rows, the job's; NaN: none */
    bool evaluated;   /* whether the next two hold anything */
    psd_score_t last_score;            /* of the last evaluation */
    double best_metric;                /* of all */
    bool held_evaluated;               /* whether the next one holds anything */
    psd_score_t held_score;            /* of the last evaluation, on the held-out rows */
    bool train_evaluated;              /* whether the next one holds anything */
    psd_score_t train_score;           /* of the last evaluation, on the rows that are trained on */
    char sha256[PSD_SHA256_TEXT];      /* of the final weights; "" when the run failed before it had them */
    char sha256_slow[PSD_SHA256_TEXT]; /* of the slow weights; "" where there are none */
} psd_trainer_result_t;

enum { PSD_TRAINER_RECIPE = 224 };

/* The recipe of this configuration, a text that is the same for all workers that may train together: the model, the number of rows,
 * a hash of their data, the batch, and all that determines the order of the rows. */
void psd_trainer_recipe(const psd_trainer_config_t *config, char out[PSD_TRAINER_RECIPE]);

/* Train to the end. PSD_OK; PSD_EDIVERGED when the target was not met or the loss stayed infinite; PSD_ESTOPPED when `stop` was set
 * first; PSD_EUNAVAILABLE, PSD_EREFUSED, PSD_EFENCED and other codes when the exchange with the servers failed; PSD_EIO when a file
 * could not be written. `result` holds the results up to that point. */
int psd_trainer_run(const psd_trainer_config_t *config, psd_trainer_result_t *result, psd_err_t *err);
