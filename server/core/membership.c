#include "server/core/membership.h"

#include <stddef.h>

const char *psd_worker_state_name(psd_worker_state_t state)
{
    static const char *const words[] = {
#define X(name, word) [PSD_WORKER_##name] = word,
        PSD_WORKER_STATES(X)
#undef X
    };
    return (size_t)state < sizeof words / sizeof *words ? words[state] : "unknown";
}

bool psd_worker_is_here(const psd_worker_row_t *row)
{
    return row->state == PSD_WORKER_JOINING || row->state == PSD_WORKER_WAITING || row->state == PSD_WORKER_LIVE ||
           row->state == PSD_WORKER_DONE;
}

psd_worker_row_t *psd_membership_by_nonce(psd_membership_t *self, uint64_t nonce)
{
    for (uint32_t i = 0; i < self->n_rows; i++)
        if (self->row[i].nonce == nonce && self->row[i].state != PSD_WORKER_ABSENT)
            return &self->row[i];
    return NULL;
}

bool psd_worker_is_anothers(const psd_worker_row_t *row, uint32_t user)
{
    return row->state != PSD_WORKER_ABSENT && row->user != user;
}

/* The first row from `first` to before `last` that `user` may have; with `forget`, one whose worker has finished too. */
static psd_worker_row_t *free_row(psd_membership_t *self, uint32_t first, uint32_t last, uint32_t user, bool forget)
{
    for (uint32_t i = first; i < last && i < PSD_MAX_WORKERS; i++) {
        psd_worker_row_t *row = &self->row[i];
        if (psd_worker_is_here(row) || psd_worker_is_anothers(row, user) || (row->finished && !forget))
            continue;
        row->id = i;
        if (self->n_rows <= i)
            self->n_rows = i + 1;
        return row;
    }
    return NULL;
}

psd_worker_row_t *psd_membership_admit(psd_membership_t *self, uint32_t wanted, uint32_t user)
{
    if (wanted)
        return free_row(self, wanted - 1, wanted, user, true);
    psd_worker_row_t *row = free_row(self, 0, PSD_MAX_WORKERS, user, false);
    return row ? row : free_row(self, 0, PSD_MAX_WORKERS, user, true);
}

uint32_t psd_membership_count(const psd_membership_t *self, psd_worker_state_t state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_rows; i++)
        n += self->row[i].state == state;
    return n;
}
