/* contradictions.h - contradictions between options that are valid by themselves, a row each. */
#pragma once

#include "common/config/option.h"

/* The value of each option. */
typedef struct psd_values {
    const void *arg;
    const psd_option_value_t *(*at)(const void *arg, psd_option_id_t id);
} psd_values_t;

/* Check the i-th contradiction of the table: 1 when it applies, with `id` the option to point at and `why` the sentence; 0 when it
 * does not; -1 past the table's end. */
int psd_contradiction(const psd_values_t *values, size_t i, psd_option_id_t *id, char why[PSD_OPTION_WHY]);
