/* buffer.h - bytes that travel without being copied: a reference-counted, immutable-while-shared block. Received frames, parts of
 * the weights, and slices of a user's gradient are such buffers. References may be taken and dropped by any thread. */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct psd_buf psd_buf_t;
struct psd_buf {
    void *data;                   /* the bytes; 64-byte aligned when made by psd_buf_new */
    size_t n_bytes;               /* number of bytes */
    void (*release)(psd_buf_t *); /* called once, when the last reference is dropped */
    void *owner;                  /* only for `release` */
    atomic_uint refs;             /* 1 at first */
    atomic_uint_fast64_t sum;     /* CRC-32C of the bytes, plus 1; 0: not computed yet */
};

/* Make one over these bytes, with one reference; `release` frees it and all that belongs to it. */
static inline void psd_buf_init(psd_buf_t *self, void *data, size_t n_bytes, void (*release)(psd_buf_t *))
{
    self->data = data;
    self->n_bytes = n_bytes;
    self->release = release;
    self->owner = NULL;
    atomic_init(&self->refs, 1);
    atomic_init(&self->sum, 0);
}

/* A buffer that owns `n_bytes` uninitialised bytes, aligned to 64. NULL when memory runs out. */
psd_buf_t *psd_buf_new(size_t n_bytes);

/* A buffer over bytes that outlive it and have another owner. NULL when memory runs out. */
psd_buf_t *psd_buf_borrow(const void *data, size_t n_bytes);

/* One more reference; NULL is fine. Returns `self`. */
psd_buf_t *psd_buf_ref(psd_buf_t *self);

/* Drop a reference and set `*self_p` to NULL; NULL inside is fine. The last one releases the bytes. */
void psd_buf_unref(psd_buf_t **self_p);

/* CRC-32C of the bytes: computed at the first call, then cached, however often they travel. Code that has computed it already, in a
 * pass that reads the bytes anyway, sets it; code that changes the bytes clears it. */
uint32_t psd_buf_checksum(psd_buf_t *self);
void psd_buf_set_checksum(psd_buf_t *self, uint32_t crc);
void psd_buf_changed(psd_buf_t *self);

/* Whether only the caller holds it, so that its bytes may be written. */
static inline int psd_buf_is_unique(const psd_buf_t *self) { return atomic_load_explicit(&self->refs, memory_order_acquire) == 1; }
