/* predictor.h - a trained model's predictions for new rows, with the encoding of training. */
#pragma once

#include <stdio.h>

#include "common/config/options.h"

typedef struct psd_predictions {
    size_t n_rows;
    size_t n_unknown;  /* number of words that did not occur in training */
    char metrics[256]; /* "accuracy 0.9, auc 0.95"; "" if the rows have no labels */
} psd_predictions_t;

/* Read the model `path` (safetensors) and the rows `spec` ("FORMAT:FILE") as the options of the job specify, and write csv with a
 * header to `out`, a line per row. For classes: `prediction` (the likeliest class), and the probability of each class if
 * `all_classes` is set, otherwise that of the likeliest. For numbers: `prediction`. The encoding is the one in the model's file; if
 * it has none but the format needs one, the job's training set is read for it. On failure a negative code, and a sentence on what
 * does not fit. */
int psd_predictor_write(const psd_options_t *o, const char *path, const char *spec, bool all_classes, FILE *out,
                        psd_predictions_t *said, psd_err_t *err);
