/* buffer.h - bytes that travel without being copied: a reference-counted, immutable-while-shared block.
 * A received frame is one, a part of the weights is one, a slice of a user's gradient is one.
 * References may be taken and dropped by any thread. */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct psd_buf psd_buf_t;
struct psd_buf {
    void *data;                   /* the bytes; 64-byte aligned when made by psd_buf_new */
    size_t n_bytes;               /* how many */
    void (*release)(psd_buf_t *); /* called once, by whoever drops the last reference */
    void *owner;                  /* for `release` alone */
    atomic_uint refs;             /* 1 at birth */
};

/* A buffer of `n_bytes` uninitialised bytes of its own, aligned to 64. NULL when memory runs out. */
psd_buf_t *psd_buf_new(size_t n_bytes);

/* A buffer over bytes that outlive it and that somebody else owns. NULL when memory runs out. */
psd_buf_t *psd_buf_borrow(const void *data, size_t n_bytes);

/* One more reference; NULL is fine. Returns `self`. */
psd_buf_t *psd_buf_ref(psd_buf_t *self);

/* Drop a reference and set `*self_p` to NULL; NULL inside is fine. The last one releases the bytes. */
void psd_buf_unref(psd_buf_t **self_p);

/* Whether nobody but the caller holds it, so that its bytes may be written. */
static inline int psd_buf_is_unique(const psd_buf_t *self) { return atomic_load_explicit(&self->refs, memory_order_acquire) == 1; }
