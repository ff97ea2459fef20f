/* spread.h - how much a measurement varies over seeds, and which contenders cannot be distinguished. */
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

/* The groups 1, 2, ... to which a range belongs, from `first` to `last`; 0: none. */
typedef struct psd_spread_groups {
    unsigned first, last;
} psd_spread_groups_t;

/* Sort `n` ranges [least, most] into groups, the best first: two ranges overlap exactly when they share a group, and every group is
 * maximal. An empty range is in no group. Returns the number of groups. */
unsigned psd_spread_groups(const psd_spread_t *spread, size_t n, bool smaller_is_better, psd_spread_groups_t *out);

/* The probability that the ranges of two equal rules, with `n` values each, separate by chance: 2 / C(2n, n). */
double psd_spread_chance(size_t n);
