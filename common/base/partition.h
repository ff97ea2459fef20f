/* partition.h - which server holds which chunk of which tensor, computed alike on every side.
 *
 * A tensor is cut into chunks of one size, the last one shorter. The size depends on the model alone (a power of two
 * near 1/128 of all elements, from 1024 to 2^18), never on the number of servers, so that chunks are the same in
 * every layout. Chunks go, largest first, to the server that holds least: the fullest server holds at most 5 % more
 * than the mean as soon as the model has some twenty chunks per server. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

typedef struct psd_chunk {
    uint32_t tensor; /* index in the model */
    uint64_t offset; /* of its first element in the tensor */
    uint32_t n;      /* elements, 1 .. 2^18 */
    uint32_t server; /* who holds it */
    uint32_t part;   /* its index among that server's chunks */
} psd_chunk_t;

typedef struct psd_partition {
    uint32_t n_servers;
    uint32_t n_chunks;    /* of the whole model, in the order of tensors and offsets */
    psd_chunk_t *chunk;   /* n_chunks of them */
    uint32_t *n_parts;    /* chunks of each server */
    uint64_t *n_elements; /* elements of each server */
    uint32_t **part;      /* part[s][p]: index in `chunk` of server s's p-th chunk, ascending */
} psd_partition_t;

/* Cut tensors of `sizes[i]` (at least 1) elements for `n_servers` (at least 1) servers. PSD_ENOMEM, and
 * PSD_EINVAL when there would be more than 2^20 chunks. Free with psd_partition_clear in any case. */
int psd_partition_make(psd_partition_t *out, const uint64_t *sizes, size_t n_tensors, uint32_t n_servers, psd_err_t *err);

/* Free what make allocated; all zero is fine. */
void psd_partition_clear(psd_partition_t *self);
