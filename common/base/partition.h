/* partition.h - which server holds which chunk of which tensor, and which chunks travel together, computed alike on every side.
 *
 * A tensor is cut into chunks of one size, the last one shorter. The size depends only on the model (a power of two near 1/128 of
 * all elements, from 1024 to 2^18), never on the number of servers, so that chunks are the same in every layout. Chunks go,
 * largest first, to the server that holds least: the fullest server holds at most 5 % more than the mean if the model has at
 * least about twenty chunks per server. Among chunks of one size, servers take turns, each with as many as a part holds.
 *
 * All chunks of a tensor that must be stepped whole lie on one server; large tensors of that kind make the servers less even.
 *
 * A part is a run of a server's chunks, in the model's order, up to a number of elements: it travels in one message and is one
 * piece of work. Results depend only on the chunks; the size of parts affects only the cost. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

/* A tensor as matrices: its last two dimensions are rows and columns, the product of those before them is the number of matrices.
 * Of a scalar or vector all but n_dims is 0. */
typedef struct psd_shape {
    uint32_t n_dims;
    uint64_t n_matrices, rows, cols;
} psd_shape_t;

/* A tensor to cut. */
typedef struct psd_extent {
    uint64_t n; /* elements, at least 1 */
    psd_shape_t shape;
    bool whole; /* all its chunks go to one server */
} psd_extent_t;

typedef struct psd_chunk {
    uint32_t tensor; /* index in the model */
    uint64_t offset; /* of its first element in the tensor */
    uint32_t n;      /* elements, 1 .. 2^18 */
    uint32_t server; /* the server that holds it */
    uint32_t index;  /* its index among that server's chunks */
    uint32_t part;   /* index of its part among that server's parts */
    uint32_t at;     /* its offset in that part, in elements */
} psd_chunk_t;

typedef struct psd_part {
    uint32_t first;    /* of its chunks: index among the server's */
    uint32_t n_chunks; /* at least 1 */
    uint32_t n;        /* elements */
} psd_part_t;

typedef struct psd_partition {
    uint32_t n_servers, n_tensors;
    psd_extent_t *tensor; /* the n_tensors tensors that were cut */
    uint32_t n_chunks;    /* of the whole model, in the order of tensors and offsets */
    psd_chunk_t *chunk;   /* n_chunks of them */
    uint64_t *n_elements; /* elements of each server */
    uint32_t *n_held;     /* chunks of each server */
    uint32_t **held;      /* held[s][i]: index in `chunk` of server s's i-th chunk, ascending */
    uint32_t *n_parts;    /* parts of each server */
    psd_part_t **part;    /* part[s][p]: server s's p-th part; the parts together are its chunks in order */
} psd_partition_t;

enum { PSD_MOST_OF_PART = 1 << 18 }; /* elements */

/* Cut `n_tensors` tensors for `n_servers` (at least 1) servers, and join chunks to parts of at most `most`
 * elements; a chunk that is larger is a part by itself. PSD_ENOMEM, and
 * PSD_EINVAL when there would be more than 2^20 chunks. Free with psd_partition_clear in any case. */
int psd_partition_cut(psd_partition_t *out, const psd_extent_t *tensors, size_t n_tensors, uint32_t n_servers, uint32_t most,
                      psd_err_t *err);

/* The same for vectors of `sizes[i]` elements, none of which must be whole. */
int psd_partition_make(psd_partition_t *out, const uint64_t *sizes, size_t n_tensors, uint32_t n_servers, uint32_t most,
                       psd_err_t *err);

/* Chunk `i` of part `p` of server `s`. */
static inline const psd_chunk_t *psd_partition_at(const psd_partition_t *self, uint32_t s, uint32_t p, uint32_t i)
{
    return &self->chunk[self->held[s][self->part[s][p].first + i]];
}

/* Free what make allocated; all zero is fine. */
void psd_partition_clear(psd_partition_t *self);
