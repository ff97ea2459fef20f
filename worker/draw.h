/* draw.h - which rows of a training set are held out of training: drawn by seed, so that all readers of the same file agree. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The number of rows in a `share` of `n_rows`: rounded, at least 1. */
size_t psd_draw_count(double share, size_t n_rows);

/* `n_rows` flags, of which `n` (at most n_rows) are true; the caller frees them. NULL: no memory. */
bool *psd_draw_rows(size_t n_rows, size_t n, uint64_t seed);
