/* array.h - an array that grows. */
#pragma once

#include <stddef.h>

#include "common/base/err.h"

/* Make room for `need` items of `item_bytes` in the array at `*array_p` (a pointer to a pointer); `*room` is its capacity. If it
 * grows, it at least doubles. PSD_ENOMEM, and nothing changed. */
int psd_array_grow(void *array_p, size_t *room, size_t need, size_t item_bytes, psd_err_t *err);
