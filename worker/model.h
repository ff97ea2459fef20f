/* model.h - what is trained: named tensors, their initial values, the mean loss and gradient of a batch, and
 * how well the model does on a data set.
 *
 * A model is a stack of affine layers with one activation between them and a loss on top; a kind (a row of
 * models/all.h, one file each) chooses the shape and the loss. The layers' arithmetic is here: OpenBLAS on
 * one thread for dense rows, plain loops for sparse ones. The gradient of given rows has the same bits on
 * every run. A model belongs to one thread at a time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "worker/dataset.h"

enum {
    PSD_MAX_LAYERS = 16,                 /* affine layers */
    PSD_MAX_PARAMS = 2 * PSD_MAX_LAYERS, /* tensors */
};

typedef struct psd_model psd_model_t;

/* What to build. Strings and arrays are borrowed for the call. */
typedef struct psd_model_config {
    const char *kind;       /* a name of the table: linear, logistic, softmax, mlp */
    const size_t *layers;   /* sizes from the features to the outputs, {784, 128, 10} */
    size_t n_layers;        /* how many sizes; 0: the data's, around the kind's own hidden layer */
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
    float *data; /* their values, row-major; whoever holds the model may write them */
    float *grad; /* their gradient, after psd_model_gradient */
} psd_param_t;

/* Over a whole data set. */
typedef struct psd_score {
    double loss;   /* mean */
    double metric; /* the kind's: accuracy in [0, 1], or mean squared error */
} psd_score_t;

/* A kind of model. */
typedef struct psd_model_kind {
    const char *name, *summary;
    const char *loss_name;   /* as in model.loss */
    const char *metric;      /* "accuracy" or "mse" */
    psd_label_kind_t labels; /* what it learns to predict */
    int fewest_layers;       /* sizes it needs at least in model.layers */
    int most_layers;
    size_t hidden; /* size of the hidden layer when model.layers is empty; 0: there is none */
    /* Outputs for that data. */
    size_t (*outputs)(const psd_dataset_t *train);
    /* One row's loss from its outputs `z`; unless `dz` is NULL, also the loss's derivatives by them. */
    double (*loss)(const float *z, size_t n, float label, float *dz);
    /* One row's share of the metric. */
    double (*score)(const float *z, size_t n, float label);
} psd_model_kind_t;

/* The i-th kind, NULL past the end of the table; by name, NULL when there is none. */
const psd_model_kind_t *psd_model_kind_at(size_t i);
const psd_model_kind_t *psd_model_kind_find(const char *name);

/* Build the model for the features and labels of `train`, whose labels must be of the kind's sort. Initial
 * values: one splitmix64 stream with state `seed`, layer after layer, weights then bias, each (2u - 1) /
 * sqrt(fan_in). NULL with `err` set: PSD_ECONFIG, PSD_ENOMEM. */
psd_model_t *psd_model_new(const psd_model_config_t *config, const psd_dataset_t *train, psd_err_t *err);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_model_destroy(psd_model_t **self_p);

const psd_model_kind_t *psd_model_kind(const psd_model_t *self);

/* The name of the activation between its layers; "" for a single layer. */
const char *psd_model_activation(const psd_model_t *self);
size_t psd_model_n_params(const psd_model_t *self);

/* The tensors in their order; they live as long as the model. */
const psd_param_t *psd_model_params(const psd_model_t *self);

/* Mean loss over the `n` (at least 1) given rows, and its gradient into the params' `grad`. A row's weight
 * multiplies its loss; the mean divides by the number of rows all the same, so that slices of a batch add up. */
double psd_model_gradient(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n);

/* The same. Calls `known` with the loss for each tensor as soon as its gradient is what it will be, those of the last layer first, and
 * computes on; the tensors' values must stay as they are until all is done. */
typedef void psd_model_known_fn(void *arg, size_t param, double loss);
double psd_model_gradient_each(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n,
                               psd_model_known_fn *known, void *arg);

/* How well `weights` (one array per tensor; NULL: the model's own) do on all rows of `set`, each counted
 * once. */
psd_score_t psd_model_evaluate(psd_model_t *self, const float *const *weights, const psd_dataset_t *set);

/* Softmax cross-entropy of one row, for kinds that end in classes; and whether the largest output, the first
 * of equals, is the label's. */
double psd_softmax_loss(const float *z, size_t n, float label, float *dz);
double psd_softmax_score(const float *z, size_t n, float label);
