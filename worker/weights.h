/* weights.h - loads a model's tensors from a safetensors file, by name and shape, to start training or to predict. Values may have
 * 16, 32 or 64 bits; they become float32. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"
#include "common/system/safetensors.h"
#include "worker/model.h"

/* The outcome. */
typedef struct psd_weights_taken {
    size_t n_taken;
    size_t n_missing;  /* tensors of the model that the file does not have: they keep their values */
    size_t n_unused;   /* tensors of the file that the model does not have */
    char missing[256]; /* the first names of each, with commas between them */
    char unused[256];
} psd_weights_taken_t;

/* Give the model's tensors the values of those of `file`, which is parsed. Tensors that the file does not have, or has in another
 * shape, are an error. With `partial`, those that fit are taken and the others count as missing, but at least one has to fit.
 * PSD_EDATA naming the tensor; PSD_EIO; PSD_ENOMEM. After an error the model's values are undefined. */
int psd_weights_take(psd_model_t *model, const psd_safetensors_t *file, bool partial, psd_weights_taken_t *taken, psd_err_t *err);

/* The values of an entry of `n` elements as float32. PSD_EDATA when it has another type, or a value is Inf or NaN. */
int psd_weights_read(const psd_safetensors_t *file, const psd_entry_t *entry, float *out, size_t n, psd_err_t *err);

/* The value of an entry that holds a single number, an integer or a float. PSD_EDATA as above. */
int psd_weights_number(const psd_safetensors_t *file, const psd_entry_t *entry, double *out, psd_err_t *err);

/* A training set without rows, derived from the file: the number of features and classes of a model of that kind whose tensors have
 * psd's names, and the encoding if the file has its note. NULL with `err` set: PSD_EDATA, PSD_ENOMEM. The caller destroys it. */
psd_dataset_t *psd_weights_frame(const psd_safetensors_t *file, const psd_model_kind_t *kind, psd_err_t *err);
