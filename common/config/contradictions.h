/* contradictions.h - options that are each right, and together are not: a row each. */
#pragma once

#include "common/config/option.h"

/* The value of each option, by its key, which is one of the table's. */
typedef struct psd_values {
    const void *arg;
    const psd_option_value_t *(*at)(const void *arg, const char *key);
} psd_values_t;

/* The i-th contradiction of the table: 1 when it is there, with `key` the option to look at and `why` the sentence; 0
 * when it is not; -1 past the table's end. */
int psd_contradiction(const psd_values_t *values, size_t i, const char **key, char why[PSD_OPTION_WHY]);
