#include "common/base/buffer.h"

#include <stdlib.h>

#include "common/base/crc32c.h"

static void release_own(psd_buf_t *self) { free(self); }

/* One allocation: the header in the first 64 bytes, the data right behind it. */
psd_buf_t *psd_buf_new(size_t n_bytes)
{
    _Static_assert(sizeof(psd_buf_t) <= 64, "the header must fit before the aligned data");
    if (n_bytes > SIZE_MAX - 128)
        return NULL;
    psd_buf_t *self = aligned_alloc(64, (64 + n_bytes + 63) / 64 * 64);
    if (!self)
        return NULL;
    psd_buf_init(self, (unsigned char *)self + 64, n_bytes, release_own);
    return self;
}

psd_buf_t *psd_buf_borrow(const void *data, size_t n_bytes)
{
    psd_buf_t *self = malloc(sizeof *self);
    if (!self)
        return NULL;
    psd_buf_init(self, (void *)(uintptr_t)data, n_bytes, release_own);
    return self;
}

psd_buf_t *psd_buf_ref(psd_buf_t *self)
{
    if (self)
        atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void psd_buf_unref(psd_buf_t **self_p)
{
    psd_buf_t *self = *self_p;
    *self_p = NULL;
    if (self && atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) == 1)
        self->release(self);
}

uint32_t psd_buf_checksum(psd_buf_t *self)
{
    if (!atomic_load_explicit(&self->sum, memory_order_relaxed))
        psd_buf_set_checksum(self, psd_crc32c(self->data, self->n_bytes));
    return (uint32_t)(atomic_load_explicit(&self->sum, memory_order_relaxed) - 1);
}

void psd_buf_set_checksum(psd_buf_t *self, uint32_t crc)
{
    atomic_store_explicit(&self->sum, (uint_fast64_t)crc + 1, memory_order_relaxed);
}

void psd_buf_changed(psd_buf_t *self) { atomic_store_explicit(&self->sum, 0, memory_order_relaxed); }
