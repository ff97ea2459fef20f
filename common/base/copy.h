/* copy.h - copies of data too large to stay in the cache. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Whether this many bytes, copied one after the other before any of them is read, exceed the cache. */
bool psd_copy_is_large(size_t n_bytes);

/* As memcpy. A `large` copy bypasses the cache, which saves a third of the memory traffic: it does not read the bytes that it
 * overwrites. */
void psd_copy_large(void *to, const void *from, size_t n_bytes, bool large);
