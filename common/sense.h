/* sense.h - options that are each right, and together are not. */
#pragma once

#include "common/options.h"

/* The i-th contradiction of the table: 1 when it is there, with `key` the option to look at and `why` the sentence; 0
 * when it is not; -1 past the table's end. */
int psd_sense(const psd_options_t *options, size_t i, const char **key, char why[PSD_OPTION_WHY]);
