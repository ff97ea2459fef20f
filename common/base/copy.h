/* copy.h - copies of what is too large to stay in the cache. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Whether so many bytes, copied one after the other before anybody reads them, are more than a cache keeps. */
bool psd_copy_is_large(size_t n_bytes);

/* As memcpy. One of something `large` is written past the cache, which spares memory a third of the traffic: that of reading what is
 * overwritten. */
void psd_copy_large(void *to, const void *from, size_t n_bytes, bool large);

/* The same of something large, while as many bytes at `next` are fetched, which are read next; NULL: none are. */
void psd_copy_and_fetch(void *to, const void *from, size_t n_bytes, const void *next);
