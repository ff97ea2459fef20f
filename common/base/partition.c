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

static void cut(psd_partition_t *self, const uint64_t *sizes, size_t n_tensors, uint32_t size)
{
    psd_chunk_t *c = self->chunk;
    for (size_t t = 0; t < n_tensors; t++)
        for (uint64_t at = 0; at < sizes[t]; at += size)
            *c++ =
                (psd_chunk_t){ .tensor = (uint32_t)t, .offset = at, .n = (uint32_t)(sizes[t] - at < size ? sizes[t] - at : size) };
}

/* qsort is not stable, so the index of the chunk (its address) breaks ties: the same map on every libc. */
static int larger_first(const void *a, const void *b)
{
    const psd_chunk_t *x = *(psd_chunk_t *const *)a, *y = *(psd_chunk_t *const *)b;
    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    return x < y ? -1 : x > y;
}

static void deal(psd_partition_t *self, psd_chunk_t **order)
{
    for (uint32_t i = 0; i < self->n_chunks; i++)
        order[i] = &self->chunk[i];
    qsort(order, self->n_chunks, sizeof *order, larger_first);
    for (uint32_t i = 0; i < self->n_chunks; i++) {
        uint32_t least = 0;
        for (uint32_t s = 1; s < self->n_servers; s++)
            if (self->n_elements[s] < self->n_elements[least])
                least = s;
        order[i]->server = least;
        self->n_elements[least] += order[i]->n;
        self->n_held[least]++;
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

/* Join each server's chunks to parts, as many as there is room for, from the first on. */
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

int psd_partition_make(psd_partition_t *out, const uint64_t *sizes, size_t n_tensors, uint32_t n_servers, uint32_t most,
                       psd_err_t *err)
{
    *out = (psd_partition_t){ .n_servers = n_servers };
    uint64_t total = 0, n_chunks = 0;
    for (size_t t = 0; t < n_tensors; t++)
        total += sizes[t];
    uint32_t size = chunk_size(total);
    for (size_t t = 0; t < n_tensors; t++)
        n_chunks += (sizes[t] + size - 1) / size;
    if (n_chunks > MOST_CHUNKS)
        return psd_err_set(err, PSD_EINVAL, "the model has %llu chunks; at most %d can be served", (unsigned long long)n_chunks,
                           MOST_CHUNKS);

    out->n_chunks = (uint32_t)n_chunks;
    out->chunk = calloc(n_chunks + 1, sizeof *out->chunk);
    out->n_parts = calloc(n_servers, sizeof *out->n_parts);
    out->n_elements = calloc(n_servers, sizeof *out->n_elements);
    out->n_held = calloc(n_servers, sizeof *out->n_held);
    out->held = calloc(n_servers, sizeof *out->held);
    out->part = calloc(n_servers, sizeof *out->part);
    psd_chunk_t **order = calloc(n_chunks + 1, sizeof *order);
    int rc = PSD_ENOMEM;
    if (out->chunk && out->n_parts && out->n_elements && out->n_held && out->held && out->part && order) {
        cut(out, sizes, n_tensors, size);
        deal(out, order);
        rc = number(out);
    }
    if (rc == PSD_OK)
        join(out, most);
    free(order);
    if (rc != PSD_OK) {
        psd_partition_clear(out);
        return psd_err_set(err, rc, "no memory for a map of %llu chunks", (unsigned long long)n_chunks);
    }
    return PSD_OK;
}

void psd_partition_clear(psd_partition_t *self)
{
    for (uint32_t s = 0; self->held && s < self->n_servers; s++)
        free(self->held[s]);
    for (uint32_t s = 0; self->part && s < self->n_servers; s++)
        free(self->part[s]);
    free(self->held);
    free(self->part);
    free(self->chunk);
    free(self->n_held);
    free(self->n_parts);
    free(self->n_elements);
    *self = (psd_partition_t){ 0 };
}
