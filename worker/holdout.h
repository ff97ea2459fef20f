/* holdout.h - rows of the training set that no worker trains on, for validation. */
#pragma once

#include "worker/dataset.h"

/* Move round(share * rows) rows, at least 1, of `*train_p` to a set of their own, which is returned. `seed` and the
 * number of rows say which ones; the others keep their order. `*train_p` is replaced. NULL with `err` set, and nothing
 * changed: PSD_ECONFIG when no row would be left to train on or the share is not between 0 and 1; PSD_ENOMEM. */
psd_dataset_t *psd_holdout_take(psd_dataset_t **train_p, double share, uint64_t seed, psd_err_t *err);
