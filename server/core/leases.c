#include "server/core/leases.h"

#include <inttypes.h>

static bool is_live(const psd_worker_row_t *row) { return row->state == PSD_WORKER_LIVE; }

bool psd_leases_round_is_late(const psd_leases_t *self)
{
    if (!self->in_round || !self->round_timeout_ms || self->now_ms <= self->round_since_ms + self->round_timeout_ms)
        return false;
    for (uint32_t i = 0; i < self->members->n_rows; i++)
        if (is_live(&self->members->row[i]) && psd_worker_has_pushed(&self->members->row[i], self->n_shards))
            return true;
    return false;
}

const char *psd_leases_judge(const psd_leases_t *self, const psd_worker_row_t *row, bool late)
{
    if (psd_worker_is_here(row) && self->now_ms > row->heard_ms + self->lease_ms)
        return "lease";
    return late && is_live(row) && !psd_worker_has_pushed(row, self->n_shards) ? "round timeout" : NULL;
}

bool psd_leases_give_up(psd_worker_row_t *row, uint64_t now_ms, const char *why, psd_actions_t *out)
{
    if (row->state == PSD_WORKER_DONE) {
        psd_worker_let_go(row);
        return false;
    }
    psd_actions_log(out, PSD_LEVEL_WARN, "worker.lost",
                    "worker=%u name=%s incarnation=%" PRIu64 " silent_ms=%" PRIu64 " clock=%" PRIu64 " why=\"%s\"", row->id,
                    row->name, row->incarnation, now_ms - row->heard_ms, row->clock, why);
    row->state = PSD_WORKER_LOST;
    return true;
}
