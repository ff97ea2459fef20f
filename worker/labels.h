/* labels.h - the labels of a data set, as a reader finds them. */
#pragma once

#include "worker/dataset.h"

/* Collects labels one by one. All zero but `set` and `options` is the start. */
typedef struct psd_labels {
    psd_dataset_t *set; /* gets label, n_rows, kind, n_classes, minus_one */
    const psd_dataset_options_t *options;
    size_t room;       /* of set->label */
    size_t minus_line; /* line of the first label -1; 0: none */
    size_t other_line; /* line of the first label that is neither -1 nor 1; 0: none */
    float other;       /* that label */
    float largest, smallest;
} psd_labels_t;

/* Append the label of the next row, found at `name`:`line`. PSD_EDATA when it is not a class of the training
 * set. */
int psd_labels_add(psd_labels_t *self, float label, const char *name, size_t line, psd_err_t *err);

/* All are in: map -1 to 0 where the labels are -1 and 1, and count the classes. */
int psd_labels_end(psd_labels_t *self, const char *name, psd_err_t *err);
