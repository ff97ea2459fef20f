#include "server/core/residuals.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    WINDOW = 1 << 20, /* elements that one is asked for at a time, 4 MiB */
    TURN_MS = 200,    /* one that has not answered is left for another one */
    AGAIN_MS = 500,
    AGAIN_MAX_MS = 4000, /* a slow link fills for seconds with what was asked for already */
    SILENT_MS = 10000
};

void psd_residuals_clear(psd_residuals_t *self)
{
    free(self->wanted);
    self->wanted = NULL;
    self->shard = NULL;
    self->n = self->at = self->n_over = self->n_parts = self->n_wanted = self->n_asked = self->n_writing = self->n_turns = 0;
    self->progress_ms = 0;
}

void psd_residuals_begin(psd_residuals_t *self, const psd_shard_t *shard)
{
    psd_residuals_clear(self);
    self->shard = shard;
    self->n_parts = psd_shard_parts(shard);
    self->wanted = calloc(1, psd_bitmap_bytes(self->n_parts) + 1);
    assert(self->wanted && "no memory for a bitmap of parts");
}

void psd_residuals_add(psd_residuals_t *self, uint32_t worker, uint64_t incarnation, uint64_t clock)
{
    assert(self->n < PSD_MAX_WORKERS && (!self->n || self->row[self->n - 1].worker < worker));
    self->row[self->n++] = (psd_residual_row_t){ .worker = worker, .incarnation = incarnation, .clock = clock };
}

/* Where the row of this life of a worker is, by bisection; self->n: there is none. */
static uint32_t find(const psd_residuals_t *self, uint32_t worker, uint64_t incarnation)
{
    uint32_t low = 0, high = self->n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (self->row[middle].worker < worker)
            low = middle + 1;
        else
            high = middle;
    }
    return low < self->n && self->row[low].worker == worker && self->row[low].incarnation == incarnation ? low : self->n;
}

uint64_t psd_residuals_wish(const psd_residuals_t *self, uint32_t worker, uint64_t incarnation)
{
    const uint32_t i = find(self, worker, incarnation);
    return i < self->n && !self->row[i].is_over ? self->row[i].clock + 1 : 0;
}

/* No worker is being asked now. */
static void ask_nobody(psd_residuals_t *self)
{
    self->n_wanted = self->n_asked = 0;
    memset(self->wanted, 0, psd_bitmap_bytes(self->n_parts));
}

/* Turn to the next worker whose residual is missing, after the one that was asked. */
static void turn(psd_residuals_t *self)
{
    ask_nobody(self);
    for (uint32_t i = 0; i < self->n && self->n_over < self->n; i++) {
        self->at = self->at + 1 < self->n ? self->at + 1 : 0;
        if (!self->row[self->at].is_over)
            return;
    }
    self->at = self->n;
}

/* Whether something has come of the one that is asked. */
static bool is_under_way(const psd_residuals_t *self) { return self->n_wanted < self->n_asked || self->row[self->at].next; }

static void finish(psd_residuals_t *self, uint32_t i)
{
    self->n_over += !self->row[i].is_over;
    self->row[i].is_over = true;
    if (i == self->at || self->n_over == self->n)
        turn(self);
}

/* Want the next window of it. */
static void widen(psd_residuals_t *self)
{
    const uint32_t first = self->row[self->at].next;
    uint64_t flying = 0;
    for (uint32_t p = first; p < self->n_parts && flying < WINDOW; p++) {
        psd_bitmap_set(self->wanted, p);
        flying += psd_shard_elements(self->shard, p);
        self->n_wanted++;
    }
    self->n_asked = self->n_wanted;
}

const psd_residual_row_t *psd_residuals_ask(psd_residuals_t *self, uint64_t now_ms)
{
    if (self->at == self->n)
        return NULL;
    if (!self->progress_ms)
        self->progress_ms = now_ms + 1;
    const bool is_again = self->n_wanted != 0;
    if (is_again ? now_ms < self->asked_ms + self->again_ms : self->n_writing != 0)
        return NULL;
    if (is_again && !is_under_way(self) && !self->n_writing) {
        turn(self);
        self->n_turns++;
    }
    if (!self->n_wanted)
        widen(self);
    self->again_ms = !is_under_way(self)                 ? TURN_MS
                     : !is_again                         ? AGAIN_MS
                     : 2 * self->again_ms < AGAIN_MAX_MS ? 2 * self->again_ms
                                                         : AGAIN_MAX_MS;
    self->asked_ms = now_ms;
    return &self->row[self->at];
}

bool psd_residuals_take(psd_residuals_t *self, uint32_t worker, uint64_t incarnation, uint64_t clock, uint32_t part,
                        uint64_t now_ms)
{
    const uint32_t i = find(self, worker, incarnation);
    if (i == self->n || self->row[i].is_over || self->row[i].clock != clock || part >= self->n_parts)
        return false;
    if (i != self->at && !is_under_way(self) && !self->n_writing) { /* it answers late, and the one that is asked not at all */
        ask_nobody(self);
        self->at = i;
        widen(self);
    }
    if (i != self->at || !psd_bitmap_get(self->wanted, part))
        return false;
    psd_bitmap_unset(self->wanted, part);
    self->n_wanted--;
    self->n_writing++;
    self->asked_ms = now_ms;
    self->progress_ms = now_ms + 1;
    self->n_turns = 0;
    self->again_ms = AGAIN_MS;
    return true;
}

void psd_residuals_written(psd_residuals_t *self)
{
    assert(self->n_writing && "a part was with the writer");
    if (--self->n_writing || self->n_wanted || self->at == self->n)
        return;
    psd_residual_row_t *row = &self->row[self->at];
    row->next += self->n_asked;
    self->n_asked = 0;
    if (row->next == self->n_parts)
        finish(self, self->at);
}

const psd_residual_row_t *psd_residuals_silent(const psd_residuals_t *self, uint64_t now_ms)
{
    if (self->at == self->n || !self->progress_ms || now_ms + 1 < self->progress_ms + SILENT_MS)
        return NULL;
    return is_under_way(self) || self->n_turns >= self->n - self->n_over ? &self->row[self->at] : NULL;
}

void psd_residuals_leave_out(psd_residuals_t *self, uint32_t worker, uint64_t incarnation)
{
    const uint32_t i = find(self, worker, incarnation);
    if (i == self->n)
        return;
    if (i == self->at && is_under_way(self))
        self->progress_ms = 0; /* others have not been asked meanwhile */
    finish(self, i);
}

bool psd_residuals_is_over(const psd_residuals_t *self) { return self->n_over == self->n && !self->n_writing; }
