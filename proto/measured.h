/* measured.h - copies a gradient out of memory into which its sender may still write, and computes the sum of squares during the
 * copy. So the checked values are those that are kept, and each is read only once. */
#pragma once

#include <stdbool.h>

#include "common/base/buffer.h"

/* Copy the bytes of a sender, as consecutive floats; a remainder shorter than a float is copied too. `to` has room for all of them.
 * `large`: they belong to data larger than a cache. Returns the sum of squares, by blocks, as psd_measured_squares computes it. Any
 * thread. */
double psd_measured_copy(void *to, const psd_buf_t *from, bool large);

/* A buffer over `*bytes`, which it takes over, that also holds the sum of squares of all their floats. Aborts when memory runs
 * out. */
psd_buf_t *psd_measured_new(psd_buf_t **bytes, double squares);

/* The sum of squares of the first `n` floats: the stored one if these are all, otherwise computed now. */
double psd_measured_squares(const psd_buf_t *self, size_t n);

/* Whether the sum of squares is stored. */
bool psd_measured_is(const psd_buf_t *self, size_t n);
