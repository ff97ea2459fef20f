#include "server/core/applied.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

psd_applied_row_t *psd_applied_row(psd_applied_t *self, uint32_t id)
{
    if (!self->row[id]) {
        self->row[id] = calloc(1, sizeof *self->row[id]);
        assert(self->row[id] && "no memory for a worker's row");
        self->row[id]->id = id;
        self->n_rows = id < self->n_rows ? self->n_rows : id + 1;
    }
    return self->row[id];
}

psd_applied_row_t *psd_applied_member(const psd_applied_t *self, uint32_t id)
{
    psd_applied_row_t *row = self->row[id];
    return row && row->standing == PSD_MEMBER ? row : NULL;
}

psd_applied_row_t *psd_applied_attached(const psd_applied_t *self, uint32_t id)
{
    psd_applied_row_t *row = psd_applied_member(self, id);
    return row && row->peer ? row : NULL;
}

void psd_applied_owe(psd_applied_t *self, psd_applied_row_t *row, bool owed)
{
    self->n_owed += owed - row->owed;
    row->owed = owed;
}

void psd_applied_complete(psd_applied_t *self, psd_applied_row_t *row, uint64_t now_ms)
{
    self->n_complete++;
    row->pushes += !row->is_again;
    row->samples += row->is_again ? 0 : row->inbox.samples;
    row->loss = row->inbox.loss;
    row->last_push_ms = now_ms;
}

/* The i-th in the queue. */
static uint32_t *queued(psd_applied_t *self, uint32_t i) { return &self->queue[(self->queue_first + i) % PSD_MAX_WORKERS]; }

static void leave_queue(psd_applied_t *self, psd_applied_row_t *row)
{
    uint32_t n = 0;
    for (uint32_t i = 0; row->is_queued && i < self->n_queued; i++)
        if (*queued(self, i) != row->id)
            *queued(self, n++) = *queued(self, i);
    self->n_queued -= row->is_queued;
    row->is_queued = false;
}

void psd_applied_drop_open(psd_applied_t *self, psd_applied_row_t *row)
{
    self->n_complete -= row->inbox.complete;
    psd_inbox_empty(&row->inbox);
    leave_queue(self, row);
}

void psd_applied_leave(psd_applied_t *self, psd_applied_row_t *row)
{
    psd_applied_drop_open(self, row);
    psd_applied_owe(self, row, false);
    row->standing = PSD_GONE;
}

void psd_applied_forget_saved(psd_applied_row_t *row)
{
    for (uint32_t p = 0; row->kept && p < row->n_kept; p++)
        psd_buf_unref(&row->kept[p]);
    free(row->kept);
    row->kept = NULL;
    row->n_kept = 0;
    row->has_saved = false;
}

void psd_applied_close(psd_applied_t *self, psd_applied_row_t *row, uint64_t clock)
{
    psd_applied_forget_saved(row);
    row->applied = clock;
    row->is_again = false;
    psd_applied_drop_open(self, row);
}

void psd_applied_find_slowest(psd_applied_t *self)
{
    self->slowest = UINT64_MAX;
    self->n_slowest = 0;
    for (uint32_t i = 0; i < self->n_rows; i++) {
        const psd_applied_row_t *row = psd_applied_member(self, i);
        if (!row || row->applied > self->slowest)
            continue;
        self->n_slowest = row->applied < self->slowest ? 1 : self->n_slowest + 1;
        self->slowest = row->applied;
    }
}

void psd_applied_close_next(psd_applied_t *self, psd_applied_row_t *row)
{
    const bool was_slowest = row->applied == self->slowest;
    psd_applied_close(self, row, row->applied + 1);
    if (was_slowest && !--self->n_slowest) /* otherwise there is no need to look at the others */
        psd_applied_find_slowest(self);
}

void psd_applied_enqueue(psd_applied_t *self, psd_applied_row_t *row)
{
    assert(self->n_queued < PSD_MAX_WORKERS && "an id is queued once");
    *queued(self, self->n_queued++) = row->id;
    row->is_queued = true;
}

psd_applied_row_t *psd_applied_front(const psd_applied_t *self)
{
    return self->n_queued ? self->row[self->queue[self->queue_first]] : NULL;
}

void psd_applied_leave_front(psd_applied_t *self)
{
    psd_applied_front(self)->is_queued = false;
    self->queue_first = (self->queue_first + 1) % PSD_MAX_WORKERS;
    self->n_queued--;
}

void psd_applied_clear(psd_applied_t *self)
{
    for (uint32_t i = 0; i < self->n_rows; i++)
        if (self->row[i]) {
            psd_applied_forget_saved(self->row[i]);
            psd_inbox_clear(&self->row[i]->inbox);
            free(self->row[i]);
        }
    memset(self, 0, sizeof *self);
}
