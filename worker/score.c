#include "worker/score.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Metrics ---- */

static double mean_score(const psd_sums_t *s) { return s->score / s->weight; }
static double mean_loss(const psd_sums_t *s) { return s->loss / s->weight; }
static double mean_off(const psd_sums_t *s) { return s->off / s->weight; }
static double area(const psd_sums_t *s) { return s->area; }

/* 1 minus the ratio of the squared errors to those of the mean; NaN if all labels are equal. */
static double r2(const psd_sums_t *s)
{
    const double spread = s->label_sq - s->label * s->label / s->weight;
    return spread > 0 ? 1 - s->score / spread : (double)NAN;
}

static double weight_of(const psd_dataset_t *set, size_t row) { return set->weight ? (double)set->weight[row] : 1; }

/* The weight of each class; NULL: no memory. */
static double *class_weights(const psd_dataset_t *set, double *total)
{
    double *weight = calloc(set->n_classes ? set->n_classes : 1, sizeof *weight);
    *total = 0;
    for (size_t i = 0; weight && i < set->n_rows; i++) {
        const size_t class = (size_t)set->label[i];
        *total += weight_of(set, i);
        if (class < set->n_classes)
            weight[class] += weight_of(set, i);
    }
    return weight;
}

/* The relative frequency of the most frequent class. */
static double most_frequent(const psd_dataset_t *set)
{
    double total, most = 0, *weight = class_weights(set, &total);
    for (size_t i = 0; weight && i < set->n_classes; i++)
        most = fmax(most, weight[i]);
    const bool known = weight != NULL;
    free(weight);
    return known ? most / total : (double)NAN;
}

/* The entropy of the classes: the logloss of predicting each class with its relative frequency. */
static double entropy(const psd_dataset_t *set)
{
    double total, sum = 0, *weight = class_weights(set, &total);
    for (size_t i = 0; weight && i < set->n_classes; i++)
        sum -= weight[i] > 0 ? weight[i] / total * log(weight[i] / total) : 0;
    const bool known = weight != NULL;
    free(weight);
    return known ? sum : (double)NAN;
}

static double half(const psd_dataset_t *set)
{
    (void)set;
    return 0.5;
}

static double zero(const psd_dataset_t *set)
{
    (void)set;
    return 0;
}

/* The mean squared deviation from the mean. */
static double variance(const psd_dataset_t *set)
{
    double total = 0, sum = 0, squares = 0;
    for (size_t i = 0; i < set->n_rows; i++) {
        total += weight_of(set, i);
        sum += weight_of(set, i) * (double)set->label[i];
    }
    const double mean = sum / total;
    for (size_t i = 0; i < set->n_rows; i++)
        squares += weight_of(set, i) * ((double)set->label[i] - mean) * ((double)set->label[i] - mean);
    return squares / total;
}

/* A label or a score, with the weight of its row. */
typedef struct weighted {
    float value;
    float weight;
    bool positive;
} weighted_t;

static int compare_values(const void *a, const void *b)
{
    const weighted_t *x = a, *y = b;
    return (x->value > y->value) - (x->value < y->value);
}

/* The mean absolute deviation from the median. */
static double deviation(const psd_dataset_t *set)
{
    weighted_t *row = malloc(set->n_rows * sizeof *row);
    double total = 0, below = 0, sum = 0;
    for (size_t i = 0; row && i < set->n_rows; i++) {
        row[i] = (weighted_t){ .value = set->label[i], .weight = (float)weight_of(set, i) };
        total += (double)row[i].weight;
    }
    if (!row)
        return (double)NAN;
    qsort(row, set->n_rows, sizeof *row, compare_values);
    size_t middle = 0;
    while (middle + 1 < set->n_rows && (below += (double)row[middle].weight) < total / 2)
        middle++;
    for (size_t i = 0; i < set->n_rows; i++)
        sum += (double)row[i].weight * fabs((double)row[i].value - (double)row[middle].value);
    free(row);
    return sum / total;
}

static const psd_metric_t metrics[] = {
    { "accuracy", "share of rows whose class is predicted correctly", false, PSD_LABEL_CLASS, false, NULL, mean_score,
      most_frequent },
    { "auc", "area under the ROC curve, of two classes", false, PSD_LABEL_CLASS, true, "are of one class", area, half },
    { "logloss", "mean of -log of the probability of the right class", true, PSD_LABEL_CLASS, false, NULL, mean_loss, entropy },
    { "mse", "mean squared error", true, PSD_LABEL_TARGET, false, NULL, mean_score, variance },
    { "mae", "mean absolute error", true, PSD_LABEL_TARGET, false, NULL, mean_off, deviation },
    { "r2", "share of the variance that the model explains", false, PSD_LABEL_TARGET, false, "have the same label", r2, zero },
};
static_assert(sizeof metrics / sizeof *metrics <= PSD_MAX_METRICS, "a score has room for each metric");

const psd_metric_t *psd_metric_at(size_t i) { return i < sizeof metrics / sizeof *metrics ? &metrics[i] : NULL; }

const psd_metric_t *psd_metric_find(const char *name)
{
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++)
        if (!strcmp(metrics[i].name, name))
            return &metrics[i];
    return NULL;
}

bool psd_metric_suits(const psd_metric_t *self, const psd_dataset_t *set)
{
    return self->labels == set->kind && (!self->two_classes || set->n_classes == 2);
}

const char *psd_metric_flaw(const psd_metric_t *self, const psd_dataset_t *set)
{
    size_t first = 0;
    while (first < set->n_rows && !(weight_of(set, first) > 0))
        first++;
    for (size_t i = first; self->if_equal && i < set->n_rows; i++)
        if (weight_of(set, i) > 0 && (set->label[i] > set->label[first] || set->label[i] < set->label[first]))
            return NULL;
    return self->if_equal;
}

/* ---- Scoring ---- */

struct psd_scorer {
    const psd_dataset_t *set;
    psd_sums_t sums;
    weighted_t *score; /* for two classes: the score of each row, which orders the rows for the ROC curve; otherwise NULL */
    size_t n;
};

psd_scorer_t *psd_scorer_new(const psd_dataset_t *set)
{
    psd_scorer_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->set = set;
    if (set->kind == PSD_LABEL_CLASS && set->n_classes == 2 && !(self->score = malloc(set->n_rows * sizeof *self->score)))
        psd_scorer_destroy(&self);
    return self;
}

void psd_scorer_destroy(psd_scorer_t **self_p)
{
    if (*self_p)
        free((*self_p)->score);
    free(*self_p);
    *self_p = NULL;
}

void psd_scorer_add(psd_scorer_t *self, double loss, double score, const float *z, size_t n)
{
    psd_sums_t *s = &self->sums;
    const size_t row = self->n++;
    const double weight = weight_of(self->set, row), label = (double)self->set->label[row];
    s->first = row ? s->first : label;
    s->weight += weight;
    s->loss += weight * loss;
    s->score += weight * score;
    s->off += weight * fabs((double)z[0] - label);
    s->label += weight * (label - s->first);
    s->label_sq += weight * (label - s->first) * (label - s->first);
    if (self->score) /* the difference of two outputs orders rows as the probability of the second class does */
        self->score[row] = (weighted_t){ n == 1 ? z[0] : z[1] - z[0], (float)weight, label > 0 };
}

/* The probability that a row of class 1 scores above one of class 0, with ties counting half: walk up the sorted scores. */
static double area_under_curve(psd_scorer_t *self)
{
    double negative = 0, positive = 0, sum = 0;
    qsort(self->score, self->n, sizeof *self->score, compare_values);
    for (size_t i = 0, end; i < self->n; i = end) {
        double of_tie[2] = { 0 };
        for (end = i; end < self->n && (end == i || !compare_values(&self->score[i], &self->score[end])); end++)
            of_tie[self->score[end].positive] += (double)self->score[end].weight;
        sum += of_tie[1] * (negative + of_tie[0] / 2);
        negative += of_tie[0];
        positive += of_tie[1];
    }
    return negative > 0 && positive > 0 ? sum / (negative * positive) : (double)NAN;
}

psd_score_t psd_scorer_end(psd_scorer_t *self, const psd_metric_t *metric)
{
    psd_sums_t *s = &self->sums;
    assert(self->n == self->set->n_rows);
    s->area = self->score ? area_under_curve(self) : (double)NAN;
    psd_score_t out = { .loss = mean_loss(s), .metric = metric->of(s) };
    for (size_t i = 0; i < PSD_MAX_METRICS; i++)
        out.value[i] = psd_metric_at(i) && psd_metric_suits(psd_metric_at(i), self->set) ? metrics[i].of(s) : (double)NAN;
    return out;
}
