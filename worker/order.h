/* order.h - a hash of the data that a worker has learned from: its rows and their labels, in the order of its steps. Workers of one
 * rank that learned from the same data in the same order have the same hash. One thread at a time. */
#pragma once

#include "common/system/safetensors.h"
#include "worker/dataset.h"

typedef struct psd_order psd_order_t;

/* An empty one. NULL, with `err` set, when memory runs out. */
psd_order_t *psd_order_new(psd_err_t *err);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_order_destroy(psd_order_t **self_p);

/* Add a step: it was made with these `n` rows of `set`. */
void psd_order_add(psd_order_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n);

/* SHA-256 of all steps so far, as text. Returns `text`. */
char *psd_order_sha256(const psd_order_t *self, char text[PSD_SHA256_TEXT]);
