/* contradictions.h - contradictions between options that are valid by themselves, a row each. */
#pragma once

#include <stdbool.h>

#include "common/config/option.h"

/* The value of each option, and the job file; "" for none, and for one that cannot be read again. */
typedef struct psd_values {
    const char *file;
    const void *arg;
    const psd_option_value_t *(*at)(const void *arg, psd_option_id_t id);
} psd_values_t;

/* Check the i-th contradiction of the table: 1 when it applies, with `id` the option to point at and `why` the sentence; 0 when it
 * does not; -1 past the table's end. */
int psd_contradiction(const psd_values_t *values, size_t i, psd_option_id_t *id, char why[PSD_OPTION_WHY]);

/* Whether the option's text names a file that can be read only once: a pipe, a socket or a device. */
bool psd_contradiction_is_stream(const psd_option_t *row, const char *text);

/* Whether writing the file `path`, which `output` names, would replace the file `other` that `input` names: both lead to one
 * regular file, over links too, or would once it is there. Writes the sentence. */
bool psd_contradiction_replaces(const char *output, const char *path, const char *input, const char *other,
                                char why[PSD_OPTION_WHY]);
