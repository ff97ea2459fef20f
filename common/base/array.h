/* array.h - an array that grows. */
#pragma once

#include <stddef.h>

#include "common/base/err.h"

/* Let the array of `item_bytes` items at `*array_p` (a pointer to a pointer) hold `need` of them; `*room` is
 * how many it can. It at least doubles. PSD_ENOMEM, and nothing changed. */
int psd_array_grow(void *array_p, size_t *room, size_t need, size_t item_bytes, psd_err_t *err);
