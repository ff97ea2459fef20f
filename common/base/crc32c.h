/* crc32c.h - CRC-32C (Castagnoli): of frames and payloads on the wire, of checkpoints, of TensorBoard's
 * records. */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint32_t psd_crc32c(const void *data, size_t n_bytes);

/* The same piece by piece, for code that has the bytes in the cache anyway: `crc` is that of the bytes before, 0 at the beginning;
 * returns that of all so far. */
uint32_t psd_crc32c_extend(uint32_t crc, const void *data, size_t n_bytes);
