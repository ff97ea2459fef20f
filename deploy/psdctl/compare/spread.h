/* spread.h - how far the same measurement lies apart over seeds, and which of several cannot be told apart. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Of `n` values; all NaN when there are none. */
typedef struct psd_spread {
    size_t n;
    double mean, sd; /* standard deviation of a sample; NaN for fewer than two */
    double least, most;
} psd_spread_t;

psd_spread_t psd_spread_of(const double *value, size_t n);

/* Groups 1, 2, ... that something is in, from `first` to `last`; 0: none. */
typedef struct psd_groups {
    unsigned first, last;
} psd_groups_t;

/* Sort `n` ranges [least, most] into groups, the best first: two ranges have a value in common exactly when they have a
 * group in common, and no group could take one more. A range of no values is in none. Returns how many groups there
 * are. */
unsigned psd_spread_groups(const psd_spread_t *spread, size_t n, bool smaller_is_better, psd_groups_t *out);

/* How likely the ranges of two alike things come apart by chance alone, with `n` values each: 2 / C(2n, n). */
double psd_spread_chance(size_t n);
