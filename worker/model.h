/* model.h - the trained model: named tensors, their initial values, the mean loss and gradient of a batch, and its scores on a data
 * set.
 *
 * A model is a stack of affine layers with one activation between them and a loss on top; a kind (a row of
 * models/all.h, one file each) chooses the shape and the loss. The layers' arithmetic is here: OpenBLAS on
 * one thread for dense rows, plain loops for sparse ones. The gradient of given rows has the same bits on
 * every run. A model belongs to one thread at a time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/partition.h"
#include "common/base/err.h"
#include "worker/dataset.h"
#include "worker/score.h"

enum {
    PSD_MAX_LAYERS = 16,                 /* affine layers */
    PSD_MAX_PARAMS = 2 * PSD_MAX_LAYERS, /* tensors */
};

typedef struct psd_model psd_model_t;

/* What to build. Strings and arrays are borrowed for the call. */
typedef struct psd_model_config {
    const char *kind;       /* a name of the table: linear, logistic, softmax, mlp */
    const size_t *layers;   /* sizes from the features to the outputs, {784, 128, 10} */
    size_t n_layers;        /* number of sizes; 0: those of the data, around the kind's hidden layer */
    const char *activation; /* mlp: relu, tanh or gelu. NULL: relu */
    const char *loss;       /* must be the kind's own when given. NULL: the kind's own */
    uint64_t seed;          /* of the initial values */
} psd_model_config_t;

/* One trained array. */
typedef struct psd_param {
    char name[32];     /* "fc1.weight", "fc1.bias" */
    uint64_t shape[2]; /* {out, in} or {out} */
    size_t n_dims;
    size_t n;    /* elements */
    float *data; /* their values, row-major; the owner of the model may write them */
    float *grad; /* their gradient, after psd_model_gradient */
} psd_param_t;

/* Its size and shape: a layer's weights are a matrix. */
psd_extent_t psd_model_extent(const psd_param_t *param);

/* A kind of model. */
typedef struct psd_model_kind {
    const char *name, *summary;
    const char *loss_name;   /* as in model.loss */
    const char *metric;      /* the main metric unless the job chooses another: "accuracy" or "mse" */
    psd_label_kind_t labels; /* the kind of label that it predicts */
    int fewest_layers;       /* fewest and most sizes in model.layers */
    int most_layers;
    size_t hidden; /* size of the hidden layer when model.layers is empty; 0: there is none */
    /* The number of outputs for that data. */
    size_t (*outputs)(const psd_dataset_t *train);
    /* One row's loss from its outputs `z`; unless `dz` is NULL, also the loss's derivatives by them. */
    double (*loss)(const float *z, size_t n, float label, float *dz);
    /* One row's contribution to the metric. */
    double (*score)(const float *z, size_t n, float label);
} psd_model_kind_t;

/* The i-th kind, NULL past the end of the table; by name, NULL when there is none. */
const psd_model_kind_t *psd_model_kind_at(size_t i);
const psd_model_kind_t *psd_model_kind_find(const char *name);

/* Build the model for the features and labels of `train`, whose labels must be of the kind that the model predicts. Initial values:
 * one splitmix64 stream with state `seed`, layer after layer, weights then bias, each (2u - 1) / sqrt(fan_in). NULL with `err` set:
 * PSD_ECONFIG, PSD_ENOMEM. */
psd_model_t *psd_model_new(const psd_model_config_t *config, const psd_dataset_t *train, psd_err_t *err);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_model_destroy(psd_model_t **self_p);

const psd_model_kind_t *psd_model_kind(const psd_model_t *self);

/* The name of the activation between its layers; "" for a single layer. */
const char *psd_model_activation(const psd_model_t *self);
size_t psd_model_n_params(const psd_model_t *self);

/* The tensors in their order; they live as long as the model. */
const psd_param_t *psd_model_params(const psd_model_t *self);

/* The number of their elements in all. */
size_t psd_model_n_elements(const psd_model_t *self);

/* Put the gradients into `array` from now on, one param after the other; valid until this is called again. NULL: no place, so no
 * gradient may be computed any more. */
void psd_model_lend_gradients(psd_model_t *self, float *array);

/* Mean loss over the `n` (at least 1) given rows, and its gradient into the params' `grad`. A row's weight multiplies its loss; the
 * mean still divides by the number of rows, so that the slices of a batch add up. */
double psd_model_gradient(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n);

/* The same, but calls `known` for each tensor, with the loss, as soon as its gradient is final, the last layer first, while it goes
 * on computing; the tensors' values must not change until it returns. */
typedef void psd_model_known_fn(void *arg, size_t param, double loss);
double psd_model_gradient_each(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n,
                               psd_model_known_fn *known, void *arg);

/* Read the features of `n` (at least 1) rows of `set` ahead, while the caller waits: psd_model_gradient then does not need to, if
 * it is the next call and gets the same rows. The set must outlive the model, or the next call for any set. */
void psd_model_expect(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n);

/* Score `weights` (one array per tensor; NULL: the model's own) on all rows of `set`, each counted by its weight. `metric` is the
 * main metric, and must suit the set; NULL: the kind's. All scores are NaN when memory runs out. */
psd_score_t psd_model_evaluate(psd_model_t *self, const float *const *weights, const psd_dataset_t *set,
                               const psd_metric_t *metric);

/* The outputs of the model's own weights for each row of `set`, in order: `take` gets a row's number and its `n` outputs. It stops
 * at the first return value other than PSD_OK, and returns that. */
typedef int psd_model_take_fn(void *arg, size_t row, const float *z, size_t n);
int psd_model_predict(psd_model_t *self, const psd_dataset_t *set, psd_model_take_fn *take, void *arg);

/* Softmax cross-entropy of one row, for kinds that end in classes; and whether the largest output, the first
 * of equals, is the label's. */
double psd_softmax_loss(const float *z, size_t n, float label, float *dz);
double psd_softmax_score(const float *z, size_t n, float label);
