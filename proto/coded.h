/* coded.h - a part of the model as a payload: the codes of its chunks one after the other, each chunk coded by itself
 * (common/codec/codec.h), so that the bits do not depend on how chunks are joined to parts. If some chunks have no gradient, a
 * bitmap follows, with a bit for each chunk, set if it has one; a chunk without a gradient keeps its place, and its bytes are 0. In
 * f32 the codes are the elements themselves. */
#pragma once

#include "common/base/buffer.h"
#include "common/base/partition.h"
#include "common/codec/codec.h"

/* Bytes of the codes of part `p` of server `s`, without a bitmap. */
size_t psd_coded_bytes(const psd_coding_t *coding, const psd_partition_t *map, uint32_t s, uint32_t p);

/* Whether a payload has a gradient for chunk `i` of its part, whose codes take `n_codes` bytes. Undefined for a chunk outside the
 * part. */
bool psd_coded_has(const psd_buf_t *payload, size_t n_codes, uint32_t i);

/* Check that a received payload is a code of this part, with the right length and valid to the last bit, and that it ends in a
 * bitmap exactly if `has_bitmap`. PSD_EPROTO with the reason. */
int psd_coded_check(const psd_coding_t *coding, const psd_partition_t *map, uint32_t s, uint32_t p, const psd_buf_t *payload,
                    bool has_bitmap, psd_err_t *err);

/* The sum of squares of the decoded values of a checked payload, chunk after chunk. `*bad` is the first chunk of the part with a
 * value that is not finite, plus 1; 0: there is none. */
double psd_coded_squares(const psd_coding_t *coding, const psd_partition_t *map, uint32_t s, uint32_t p, const psd_buf_t *payload,
                         uint32_t *bad);
