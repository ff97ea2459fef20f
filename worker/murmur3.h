/* murmur3.h - MurmurHash3 for x86, 32 bits (Austin Appleby, in the public domain): what Vowpal Wabbit hashes features with. Not for
 * defence. */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint32_t psd_murmur3(const void *bytes, size_t n, uint32_t seed);
