#include "worker/order.h"

#include <sodium.h>
#include <stdlib.h>

struct psd_order {
    crypto_hash_sha256_state state;
};

psd_order_t *psd_order_new(psd_err_t *err)
{
    psd_order_t *self = calloc(1, sizeof *self);
    if (self)
        crypto_hash_sha256_init(&self->state);
    else
        psd_err_set(err, PSD_ENOMEM, "no memory for a hash");
    return self;
}

void psd_order_destroy(psd_order_t **self_p)
{
    free(*self_p);
    *self_p = NULL;
}

static void add(psd_order_t *self, const void *bytes, size_t n) { crypto_hash_sha256_update(&self->state, bytes, n); }

/* The number of rows comes first, so that the hash also depends on where a step ends. */
void psd_order_add(psd_order_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n)
{
    const uint32_t count = (uint32_t)n;
    add(self, &count, sizeof count);
    for (size_t i = 0; i < n; i++) {
        add(self, &rows[i], sizeof rows[i]);
        add(self, &set->label[rows[i]], sizeof set->label[0]);
    }
}

char *psd_order_sha256(const psd_order_t *self, char text[PSD_SHA256_TEXT])
{
    crypto_hash_sha256_state state = self->state; /* more may be added later */
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_final(&state, hash);
    return sodium_bin2hex(text, PSD_SHA256_TEXT, hash, sizeof hash);
}
