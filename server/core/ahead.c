#include "server/core/ahead.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/actions.h"

bool psd_ahead_init(psd_ahead_t *self, uint32_t n_parts)
{
    self->n_parts = n_parts;
    self->begun = calloc(1, psd_bitmap_bytes(n_parts) + 1);
    return self->begun != NULL;
}

void psd_ahead_clear(psd_ahead_t *self)
{
    free(self->begun);
    *self = (psd_ahead_t){ .number = self->number };
}

/* To the bit, so that NaN equals NaN. */
static bool are_same(const psd_stepping_t *a, const psd_stepping_t *b)
{
    return !memcmp(a->lr, b->lr, sizeof a->lr) && !memcmp(&a->momentum, &b->momentum, sizeof a->momentum);
}

bool psd_ahead_may_begin(const psd_ahead_t *self, uint32_t part, const psd_stepping_t *with)
{
    return !self->open || (!psd_bitmap_get(self->begun, part) && are_same(&self->with, with));
}

void psd_ahead_begin(psd_ahead_t *self, uint32_t part, const psd_stepping_t *with)
{
    assert(part < self->n_parts && psd_ahead_may_begin(self, part, with));
    if (!self->open) {
        self->open = true;
        self->number++;
        self->with = *with;
    }
    psd_bitmap_set(self->begun, part);
    self->n_begun++;
    self->running++;
}

void psd_ahead_returned(psd_ahead_t *self)
{
    assert(self->running);
    self->running--;
}

void psd_ahead_settle(psd_ahead_t *self, const psd_stepping_t *with)
{
    assert(!self->running && "decisions wait for threads");
    self->adopted = self->open && are_same(&self->with, with);
}

bool psd_ahead_has(const psd_ahead_t *self, uint32_t part) { return self->adopted && psd_bitmap_get(self->begun, part); }

uint32_t psd_ahead_end(psd_ahead_t *self)
{
    assert(!self->running && "decisions wait for threads");
    const uint32_t in_vain = self->adopted ? 0 : self->n_begun;
    if (self->open)
        memset(self->begun, 0, psd_bitmap_bytes(self->n_parts));
    self->open = self->adopted = false;
    self->n_begun = 0;
    return in_vain;
}
