#include "common/base/partition.h"

#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 1024, LARGEST = 1 << 18, PER_MODEL = 128, MOST_CHUNKS = 1 << 20 };

static uint32_t chunk_size(uint64_t total)
{
    uint32_t size = SMALLEST;
    while (size < LARGEST && (uint64_t)size * 2 * PER_MODEL <= total)
        size *= 2;
    return size;
}

static uint64_t chunks_of(const psd_extent_t *tensor, uint32_t size) { return (tensor->n + size - 1) / size; }

static void cut(psd_partition_t *self, uint32_t size)
{
    psd_chunk_t *c = self->chunk;
    for (uint32_t t = 0; t < self->n_tensors; t++) {
        const uint64_t n = self->tensor[t].n;
        for (uint64_t at = 0; at < n; at += size)
            *c++ = (psd_chunk_t){ .tensor = t, .offset = at, .n = (uint32_t)(n - at < size ? n - at : size) };
    }
}

/* A unit of distribution: a chunk, or all chunks of a whole tensor. */
typedef struct piece {
    uint32_t first, n_chunks;
    uint64_t n; /* elements */
} piece_t;

/* qsort is not stable, so the place in the model breaks ties: the same map on every libc. */
static int larger_first(const void *a, const void *b)
{
    const piece_t *x = a, *y = b;
    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

static uint32_t find_pieces(const psd_partition_t *self, uint32_t size, piece_t *piece)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_chunks; n++) {
        const psd_extent_t *tensor = &self->tensor[self->chunk[i].tensor];
        piece[n] =
            tensor->whole ? (piece_t){ i, (uint32_t)chunks_of(tensor, size), tensor->n } : (piece_t){ i, 1, self->chunk[i].n };
        i += piece[n].n_chunks;
    }
    return n;
}

/* How many of `n` equal pieces each server gets: each goes to the one that holds least. */
static void count_shares(psd_partition_t *self, const piece_t *piece, uint32_t n, uint32_t *share)
{
    memset(share, 0, self->n_servers * sizeof *share);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t least = 0;
        for (uint32_t s = 1; s < self->n_servers; s++)
            if (self->n_elements[s] < self->n_elements[least])
                least = s;
        share[least]++;
        self->n_elements[least] += piece->n;
        self->n_held[least] += piece->n_chunks;
    }
}

static void give(psd_partition_t *self, const piece_t *piece, uint32_t server)
{
    for (uint32_t c = 0; c < piece->n_chunks; c++)
        self->chunk[piece->first + c].server = server;
}

/* Servers take turns, so that a model that is pushed tensor by tensor keeps all of them busy; each takes as many pieces as a part
 * holds, so that a part is one stretch of its tensor, which travels uncopied. */
static void deal(psd_partition_t *self, uint32_t size, piece_t *piece, uint32_t *share)
{
    const uint32_t n = find_pieces(self, size, piece);
    qsort(piece, n, sizeof *piece, larger_first);
    for (uint32_t i = 0, end; i < n; i = end) {
        const uint32_t turn = piece[i].n < PSD_MOST_OF_PART ? (uint32_t)(PSD_MOST_OF_PART / piece[i].n) : 1;
        for (end = i + 1; end < n && piece[end].n == piece[i].n;)
            end++;
        count_shares(self, &piece[i], end - i, share);
        for (uint32_t k = i, s = 0; k < end; s = (s + 1) % self->n_servers)
            for (uint32_t t = 0; t < turn && share[s]; t++, share[s]--)
                give(self, &piece[k++], s);
    }
}

/* Number each server's chunks in the model's order. */
static int number(psd_partition_t *self)
{
    for (uint32_t s = 0; s < self->n_servers; s++)
        if (!(self->held[s] = calloc(self->n_held[s] + 1, sizeof *self->held[s])) ||
            !(self->part[s] = calloc(self->n_held[s] + 1, sizeof *self->part[s])))
            return PSD_ENOMEM;
    memset(self->n_held, 0, self->n_servers * sizeof *self->n_held);
    for (uint32_t i = 0; i < self->n_chunks; i++) {
        psd_chunk_t *c = &self->chunk[i];
        c->index = self->n_held[c->server]++;
        self->held[c->server][c->index] = i;
    }
    return PSD_OK;
}

/* Join each server's chunks to parts, in order, as many as fit into each. */
static void join(psd_partition_t *self, uint32_t most)
{
    for (uint32_t s = 0; s < self->n_servers; s++)
        for (uint32_t i = 0; i < self->n_held[s]; i++) {
            psd_chunk_t *c = &self->chunk[self->held[s][i]];
            if (!i || self->part[s][self->n_parts[s] - 1].n + c->n > most)
                self->part[s][self->n_parts[s]++] = (psd_part_t){ .first = i };
            psd_part_t *part = &self->part[s][self->n_parts[s] - 1];
            c->part = self->n_parts[s] - 1;
            c->at = part->n;
            part->n += c->n;
            part->n_chunks++;
        }
}

static int allocate(psd_partition_t *self, const psd_extent_t *tensors)
{
    self->tensor = calloc(self->n_tensors + 1, sizeof *self->tensor);
    self->chunk = calloc((size_t)self->n_chunks + 1, sizeof *self->chunk);
    self->n_parts = calloc(self->n_servers, sizeof *self->n_parts);
    self->n_elements = calloc(self->n_servers, sizeof *self->n_elements);
    self->n_held = calloc(self->n_servers, sizeof *self->n_held);
    self->held = calloc(self->n_servers, sizeof *self->held);
    self->part = calloc(self->n_servers, sizeof *self->part);
    if (!self->tensor || !self->chunk || !self->n_parts || !self->n_elements || !self->n_held || !self->held || !self->part)
        return PSD_ENOMEM;
    if (self->n_tensors)
        memcpy(self->tensor, tensors, self->n_tensors * sizeof *tensors);
    return PSD_OK;
}

int psd_partition_cut(psd_partition_t *out, const psd_extent_t *tensors, size_t n_tensors, uint32_t n_servers, uint32_t most,
                      psd_err_t *err)
{
    *out = (psd_partition_t){ .n_servers = n_servers, .n_tensors = (uint32_t)n_tensors };
    uint64_t total = 0, n_chunks = 0;
    for (size_t t = 0; t < n_tensors; t++)
        total += tensors[t].n;
    const uint32_t size = chunk_size(total);
    for (size_t t = 0; t < n_tensors; t++)
        n_chunks += chunks_of(&tensors[t], size);
    if (n_chunks > MOST_CHUNKS)
        return psd_err_set(err, PSD_EINVAL, "the model has %llu chunks; at most %d can be served", (unsigned long long)n_chunks,
                           MOST_CHUNKS);

    out->n_chunks = (uint32_t)n_chunks;
    piece_t *piece = calloc(n_chunks + 1, sizeof *piece);
    uint32_t *share = calloc(n_servers, sizeof *share);
    int rc = piece && share ? allocate(out, tensors) : PSD_ENOMEM;
    if (rc == PSD_OK) {
        cut(out, size);
        deal(out, size, piece, share);
        rc = number(out);
    }
    if (rc == PSD_OK)
        join(out, most);
    free(piece);
    free(share);
    if (rc != PSD_OK) {
        psd_partition_clear(out);
        return psd_err_set(err, rc, "no memory for a map of %llu chunks", (unsigned long long)n_chunks);
    }
    return PSD_OK;
}

int psd_partition_make(psd_partition_t *out, const uint64_t *sizes, size_t n_tensors, uint32_t n_servers, uint32_t most,
                       psd_err_t *err)
{
    psd_extent_t *tensors = calloc(n_tensors + 1, sizeof *tensors);
    *out = (psd_partition_t){ .n_servers = n_servers };
    if (!tensors)
        return psd_err_set(err, PSD_ENOMEM, "no memory for a map of %zu tensors", n_tensors);
    for (size_t t = 0; t < n_tensors; t++)
        tensors[t] = (psd_extent_t){ .n = sizes[t], .shape = { .n_dims = 1 } };
    const int rc = psd_partition_cut(out, tensors, n_tensors, n_servers, most, err);
    free(tensors);
    return rc;
}

void psd_partition_clear(psd_partition_t *self)
{
    for (uint32_t s = 0; self->held && s < self->n_servers; s++)
        free(self->held[s]);
    for (uint32_t s = 0; self->part && s < self->n_servers; s++)
        free(self->part[s]);
    free(self->held);
    free(self->tensor);
    free(self->part);
    free(self->chunk);
    free(self->n_held);
    free(self->n_parts);
    free(self->n_elements);
    *self = (psd_partition_t){ 0 };
}
