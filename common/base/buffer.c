#include "common/base/buffer.h"

#include <stdlib.h>

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
    self->data = (unsigned char *)self + 64;
    self->n_bytes = n_bytes;
    self->release = release_own;
    self->owner = NULL;
    atomic_init(&self->refs, 1);
    return self;
}

psd_buf_t *psd_buf_borrow(const void *data, size_t n_bytes)
{
    psd_buf_t *self = malloc(sizeof *self);
    if (!self)
        return NULL;
    self->data = (void *)(uintptr_t)data;
    self->n_bytes = n_bytes;
    self->release = release_own;
    self->owner = NULL;
    atomic_init(&self->refs, 1);
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
