/* score.h - scores of outputs on the rows of a data set: a table row per metric, and each row of data counts by its weight. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"
#include "worker/dataset.h"

enum { PSD_MAX_METRICS = 8 };

/* Sums over the rows of a set. */
typedef struct psd_sums {
    double weight;          /* of all rows */
    double loss, score;     /* loss and metric of the model's kind, weighted */
    double off;             /* absolute errors, of numbers */
    double first;           /* the first label, from which the next two are measured */
    double label, label_sq; /* labels minus the first one, and their squares */
    double area;            /* the area under the ROC curve; NaN when not requested, or when a class does not occur */
} psd_sums_t;

typedef struct psd_metric {
    const char *name;
    const char *summary; /* a phrase that completes a sentence */
    bool smaller_is_better;
    psd_label_kind_t labels; /* the kind of label that it suits */
    bool two_classes;        /* only for two classes */
    const char *if_equal;    /* what all labels are where it is undefined because they are equal; NULL: it is defined there */
    double (*of)(const psd_sums_t *sums);
    double (*chance)(const psd_dataset_t *set); /* its value for the best constant prediction */
} psd_metric_t;

/* The i-th metric, NULL past the end of the table; by name, NULL when there is none. */
const psd_metric_t *psd_metric_at(size_t i);
const psd_metric_t *psd_metric_find(const char *name);

/* Whether it suits sets like this one. */
bool psd_metric_suits(const psd_metric_t *self, const psd_dataset_t *set);

/* Why it is undefined on this set, whatever the outputs: "are of one class", "have the same label"; NULL: it is defined. Rows of
 * weight 0 do not count. */
const char *psd_metric_flaw(const psd_metric_t *self, const psd_dataset_t *set);

/* Over a whole data set. */
typedef struct psd_score {
    double loss;                   /* mean */
    double metric;                 /* the main metric: that of the model's kind, unless the job chooses another */
    double value[PSD_MAX_METRICS]; /* of each metric in the table's order; NaN: it does not suit */
} psd_score_t;

typedef struct psd_scorer psd_scorer_t;

/* Score rows like those of `set`. NULL: no memory. */
psd_scorer_t *psd_scorer_new(const psd_dataset_t *set);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_scorer_destroy(psd_scorer_t **self_p);

/* Add the next row of the set, with its `n` outputs, and its loss and metric by the model's kind. */
void psd_scorer_add(psd_scorer_t *self, double loss, double score, const float *z, size_t n);

/* Compute the scores when all rows of the set have been added. `metric` is the main metric. */
psd_score_t psd_scorer_end(psd_scorer_t *self, const psd_metric_t *metric);
