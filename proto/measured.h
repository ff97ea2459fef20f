/* measured.h - takes gradients out of memory into which their senders may still write, and computes their sums of squares on the
 * way. So the checked values are those that are kept, and each is read only once.
 *
 * A gradient is copied; or, if the round is expected to be a mean of it and others that are here too, only the mean is kept, and
 * stands for each of them: a joint gradient. */
#pragma once

#include <stdbool.h>

#include "common/base/buffer.h"
#include "common/optim/aggregate.h"

/* A gradient's place in the mean of a round. */
typedef struct psd_term {
    uint64_t mean;     /* which, from 1: gradients of the same part, whose round is expected to be the same, share this number */
    uint32_t n, index; /* its terms, 2 to PSD_AGGREGATE_TAKEN, and which of them this is, in the order of ranks */
    double weight;     /* of this one */
} psd_term_t;

/* Copy the bytes of a sender, as consecutive floats; a remainder shorter than a float is copied too. `to` has room for all of them.
 * `large`: they belong to data larger than a cache. Returns the sum of squares, by blocks, as psd_measured_squares computes it. Any
 * thread. */
double psd_measured_copy(void *to, const psd_buf_t *from, bool large);

/* A buffer over `*bytes`, which it takes over, that also holds the sum of squares of all their floats. Aborts when memory runs
 * out. */
psd_buf_t *psd_measured_new(psd_buf_t **bytes, double squares);

/* Add up n gradients of senders, all of the same number of whole floats, in the order of their ranks: to = the mean, as
 * psd_aggregate computes it, and squares[k] as psd_measured_copy returns it. Any thread. */
void psd_measured_join(void *to, psd_buf_t *const *from, const double *weight, uint32_t n, bool large, double *squares);

/* A joint gradient: a buffer over the mean of this number, of which it takes a reference, with its own sum of squares. Aborts when
 * memory runs out. */
psd_buf_t *psd_measured_new_joint(psd_buf_t *mean, double squares, uint64_t number);

/* The number of the mean that a buffer holds; 0: it holds one gradient. NULL is fine. */
uint64_t psd_measured_mean(const psd_buf_t *self);

/* The sum of squares of the first `n` floats: the stored one if these are all, otherwise computed now. */
double psd_measured_squares(const psd_buf_t *self, size_t n);

/* Whether the sum of squares is stored. */
bool psd_measured_is(const psd_buf_t *self, size_t n);
