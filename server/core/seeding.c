#include "server/core/seeding.h"

#include <stdlib.h>
#include <string.h>

enum {
    REPEAT_MS = 500,   /* of the newest request */
    SILENCE_MS = 2000, /* a worker that has not answered for this long is left for another one, if there is one */
    WINDOW = 1 << 20   /* elements that are asked for and have not come, 4 MiB */
};

bool psd_seeding_init(psd_seeding_t *self, uint32_t n_parts)
{
    const size_t n = psd_bitmap_bytes(n_parts);
    self->n_parts = n_parts;
    self->started = calloc(1, n);
    self->asked = calloc(1, n);
    self->newest = calloc(1, n);
    return self->started && self->asked && self->newest;
}

void psd_seeding_clear(psd_seeding_t *self)
{
    free(self->started);
    free(self->asked);
    free(self->newest);
    /* Whose turn it is, and the number of the newest request, outlive a run. */
    *self = (psd_seeding_t){ .worker = self->worker, .seq = self->seq };
}

bool psd_seeding_lacks(const psd_seeding_t *self, uint32_t array, uint32_t part)
{
    return !self->is_over && array == self->array && !psd_bitmap_get(self->started, part);
}

/* Go to the next array, of which some parts may have nothing. */
static void begin_array(psd_seeding_t *self, const psd_shard_t *shard)
{
    self->array++;
    self->n_started = 0;
    memset(self->started, 0, psd_bitmap_bytes(self->n_parts));
    self->is_over = self->array == psd_shard_initial_arrays(shard);
    for (uint32_t p = 0; !self->is_over && p < psd_shard_parts(shard); p++)
        if (!psd_shard_initial_elements(shard, self->array, p)) {
            psd_bitmap_set(self->started, p);
            self->n_started++;
        }
}

void psd_seeding_set_all(psd_seeding_t *self) { self->is_over = true; }

bool psd_seeding_waits(const psd_seeding_t *self, uint64_t incarnation, uint64_t now_ms)
{
    return self->asking && incarnation == self->incarnation && now_ms < self->heard_ms + SILENCE_MS;
}

bool psd_seeding_repeats(psd_seeding_t *self, uint64_t now_ms)
{
    if (now_ms < self->sent_ms + REPEAT_MS)
        return false;
    self->sent_ms = now_ms;
    return true;
}

static void forget_asked(psd_seeding_t *self)
{
    memset(self->asked, 0, psd_bitmap_bytes(self->n_parts));
    self->flying = 0;
}

void psd_seeding_turn_to(psd_seeding_t *self, uint32_t worker, uint64_t incarnation, uint64_t now_ms)
{
    self->asking = true;
    self->worker = worker;
    self->incarnation = incarnation;
    self->heard_ms = now_ms;
    forget_asked(self);
}

void psd_seeding_heard(psd_seeding_t *self, uint32_t worker, uint64_t incarnation, uint64_t now_ms)
{
    if (self->asking && worker == self->worker && incarnation == self->incarnation)
        self->heard_ms = now_ms;
}

bool psd_seeding_widen(psd_seeding_t *self, const psd_shard_t *shard, uint64_t now_ms)
{
    uint32_t n = 0;
    memset(self->newest, 0, psd_bitmap_bytes(self->n_parts));
    for (uint32_t p = 0; !self->is_over && p < psd_shard_parts(shard) && self->flying < WINDOW; p++) {
        if (psd_bitmap_get(self->started, p) || psd_bitmap_get(self->asked, p))
            continue;
        psd_bitmap_set(self->newest, p);
        psd_bitmap_set(self->asked, p);
        self->flying += psd_shard_initial_elements(shard, self->array, p);
        n++;
    }
    if (!n)
        return false;
    self->seq++;
    self->sent_ms = now_ms;
    return true;
}

bool psd_seeding_answered(psd_seeding_t *self, uint32_t worker, uint64_t seq)
{
    if (!self->asking || self->worker != worker || seq != self->seq || !self->flying)
        return false;
    forget_asked(self);
    return true;
}

bool psd_seeding_came(psd_seeding_t *self, const psd_shard_t *shard, uint32_t part)
{
    const uint32_t array = self->array;
    const bool was_asked = psd_bitmap_get(self->asked, part);
    if (was_asked) {
        psd_bitmap_unset(self->asked, part);
        self->flying -= psd_shard_initial_elements(shard, array, part);
    }
    psd_bitmap_set(self->started, part);
    self->n_started++;
    while (!self->is_over && self->n_started == psd_shard_parts(shard))
        begin_array(self, shard);
    return array != self->array || (was_asked && self->flying <= WINDOW / 2);
}
