#include "server/core/follow.h"

enum {
    FRESH_MS = 200,    /* how long other followers may join the readers of a snapshot */
    SILENT_MS = 1500,  /* a reader that is silent for this long is gone */
    LONGEST_MS = 60000 /* a snapshot this old no longer keeps other followers waiting */
};

void psd_follow_clear(psd_follow_t *self) { *self = (psd_follow_t){ 0 }; }

/* Remove the readers that are silent, and `peer`. */
static void forget_readers(psd_follow_t *self, uint64_t now_ms, psd_peer_t peer)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_readers; i++)
        if (self->reader[i].peer != peer && now_ms < self->reader[i].heard_ms + SILENT_MS)
            self->reader[n++] = self->reader[i];
    self->n_readers = n;
}

static psd_follow_answer_t add_reader(psd_follow_t *self, uint64_t now_ms, psd_peer_t peer)
{
    if (self->n_readers == PSD_MAX_READERS)
        return PSD_FOLLOW_WAIT;
    self->reader[self->n_readers].peer = peer;
    self->reader[self->n_readers++].heard_ms = now_ms;
    return PSD_FOLLOW_READ;
}

psd_follow_answer_t psd_follow_ask(psd_follow_t *self, uint64_t now_ms, psd_peer_t from, uint64_t number, bool gone,
                                   uint64_t progress)
{
    forget_readers(self, now_ms, from);
    if (gone && number == self->number)
        self->number = 0;
    const bool reads = number && number == self->number;
    const bool is_good = self->number && (progress == self->progress || now_ms < self->made_ms + FRESH_MS);
    if (reads || is_good)
        return add_reader(self, now_ms, from);
    return self->n_readers && now_ms < self->made_ms + LONGEST_MS ? PSD_FOLLOW_WAIT : PSD_FOLLOW_MAKE;
}

void psd_follow_made(psd_follow_t *self, uint64_t now_ms, psd_peer_t from, uint64_t number, uint64_t progress)
{
    *self = (psd_follow_t){ .number = number, .made_ms = now_ms, .progress = progress };
    add_reader(self, now_ms, from);
}
