/* measured.h - a gradient that was taken out of memory into which its sender may still write: a copy of our own, whose sum of squares
 * was formed as it was copied. So what was found to be finite is what is kept, and is read once. */
#pragma once

#include <stdbool.h>

#include "common/base/buffer.h"

/* The bytes of a sender, as floats one after the other; a rest that is none is copied too. `to` has room for all of them. `large`: they
 * are a part of more than a cache keeps. Returns the sum of squares, by blocks, as psd_measured_squares forms it. Any thread. */
double psd_measured_copy(void *to, const psd_buf_t *from, bool large);

/* A buffer over `*bytes`, which are taken, that knows the sum of squares of all their floats. Aborts when memory runs out. */
psd_buf_t *psd_measured_new(psd_buf_t **bytes, double squares);

/* The sum of squares of the first `n` floats: known where these are all of it, else formed now. */
double psd_measured_squares(const psd_buf_t *self, size_t n);

/* Whether it is known. */
bool psd_measured_is(const psd_buf_t *self, size_t n);
