/* setup.h - what a worker trains, as the options say: data, model, batch. */
#pragma once

#include "common/config/options.h"
#include "worker/model.h"

typedef struct psd_setup {
    psd_dataset_t *train;
    psd_dataset_t *test; /* NULL: none */
    psd_dataset_t *held; /* rows held out of `train`, beside a test set; NULL: none */
    psd_model_t *model;  /* with its initial values */
    size_t batch;        /* rows of a round, of all workers together */
} psd_setup_t;

/* Load and build it. `o` are options of any program, loaded. A negative code, with `err` saying what is wrong with data
 * or options; what was made by then is for psd_setup_clear all the same. */
int psd_setup_load(psd_setup_t *self, const psd_options_t *o, psd_err_t *err);

/* Free what is there. */
void psd_setup_clear(psd_setup_t *self);
