/* setup.h - data, model and batch of a worker, as its options specify. */
#pragma once

#include "common/config/options.h"
#include "worker/model.h"
#include "worker/statefile.h"

typedef struct psd_setup {
    psd_dataset_t *train;
    psd_dataset_t *test;        /* NULL: none */
    psd_dataset_t *held;        /* rows held out of `train`, beside a test set; NULL: none */
    const psd_metric_t *metric; /* the main metric */
    psd_model_t *model;         /* with its initial values */
    psd_statefile_t state;      /* of the optimizer, that it begins with; without fields: none */
    size_t batch;               /* rows of a round, of all workers together */
} psd_setup_t;

/* Load and build it. `o` are the loaded options of any program. A negative code, with `err` set, when data or options are wrong;
 * call psd_setup_clear in any case. */
int psd_setup_load(psd_setup_t *self, const psd_options_t *o, psd_err_t *err);

/* The same without reading the files `init` and `init.state`. */
int psd_setup_load_anew(psd_setup_t *self, const psd_options_t *o, psd_err_t *err);

/* Whether the job's groups go with the model, as servers find out when it is registered: PSD_ECONFIG as psd_groups_assign. PSD_OK
 * also if the options say nothing of model and data, because then the model may be one of a program. */
int psd_setup_check_groups(const psd_setup_t *self, const psd_options_t *o, psd_err_t *err);

/* Whether the metric can tell models apart by the test set and, `by_held`, by the rows held out beside it: PSD_ECONFIG if their labels
 * leave it undefined. */
int psd_setup_check_metric(const psd_setup_t *self, const psd_options_t *o, bool by_held, psd_err_t *err);

/* Free all that was loaded. */
void psd_setup_clear(psd_setup_t *self);

/* Read the rows `spec` for a model that was trained on sets like `frame`; the rows may lack labels. */
int psd_setup_rows(psd_dataset_t **out, const psd_options_t *o, const char *spec, const psd_dataset_t *frame, psd_err_t *err);

/* Build the model that the options describe for sets like `set`, with its random initial values, not those of the file `init`. */
int psd_setup_model(psd_model_t **out, const psd_options_t *o, const psd_dataset_t *set, psd_err_t *err);
