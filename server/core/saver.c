#include "server/core/saver.h"

#include <string.h>

#include "common/base/printable.h"

void psd_saver_clear(psd_saver_t *self)
{
    self->due = self->saving = self->opening = self->in_flight = self->blocked = self->awaits_residuals = self->ending = false;
    self->saved = self->failed = 0;
    self->deferred = NULL;
}

void psd_saver_note_trouble(psd_saver_t *self, const char *failure)
{
    psd_printable(self->trouble, sizeof self->trouble, failure ? failure : "", failure ? strlen(failure) : 0);
}

/* The state that was ordered is gone. */
static void fail_order(psd_saver_t *self)
{
    self->due = false;
    self->failed = self->order + 1;
    psd_saver_note_trouble(self, "an older one took too long");
}

void psd_saver_order(psd_saver_t *self, uint64_t clock, bool cannot_wait)
{
    self->due = true;
    self->order = clock;
    self->failed = 0; /* what is said of failure from here on is about this one */
    if (cannot_wait && self->saving)
        fail_order(self);
}

bool psd_saver_may_begin(psd_saver_t *self, uint64_t clock)
{
    if (!self->due || self->saving)
        return false;
    self->due = false;
    if (self->saved == self->order + 1)
        return false; /* an attempt that failed elsewhere has made this file: it stays, because a manifest may list it already */
    if (clock == self->order)
        return true;
    fail_order(self);
    return false;
}

void psd_saver_begin(psd_saver_t *self, const psd_save_point_t *point, psd_actions_t *out)
{
    self->point = *point;
    self->point.applied = self->applied;
    memcpy(self->applied, point->applied, point->n_applied * sizeof *self->applied);
    self->point.residual_of = self->residual_of;
    if (point->n_residuals)
        memcpy(self->residual_of, point->residual_of, point->n_residuals * sizeof *self->residual_of);
    self->awaits_residuals = point->n_residuals != 0;
    self->clock = point->clock;
    self->next = 0;
    self->saving = self->opening = true;
    psd_actions_checkpoint(out, PSD_ACT_SAVE_BEGIN, self->clock, 0);
}

static void next_part(psd_saver_t *self, const psd_shard_t *shard, const uint8_t *busy, psd_actions_t *out)
{
    const bool more = self->next < psd_shard_parts(shard);
    self->blocked = more && psd_bitmap_get(busy, self->next);
    self->in_flight = more && !self->blocked;
    if (self->blocked)
        return;
    if (more)
        psd_actions_checkpoint(out, PSD_ACT_SAVE_PART, self->clock, self->next++);
    else if (!self->awaits_residuals)
        psd_actions_checkpoint(out, PSD_ACT_SAVE_END, self->clock, 0);
    self->ending = !more && !self->awaits_residuals;
}

bool psd_saver_may_step(psd_saver_t *self, psd_shard_t *shard, psd_work_t *work)
{
    if (!self->saving)
        return true;
    if (self->in_flight && work->part + 1 == self->next) {
        self->deferred = work;
        return false;
    }
    work->preserve = work->part >= self->next && !psd_shard_is_kept(shard, work->part) && (work->n_gradients || work->onto);
    return true;
}

void psd_saver_stepped(psd_saver_t *self, psd_shard_t *shard, uint32_t part, const uint8_t *busy, psd_actions_t *out)
{
    if (!self->saving)
        psd_shard_forget(shard, part);
    else if (self->blocked && part == self->next)
        next_part(self, shard, busy, out);
}

void psd_saver_begun(psd_saver_t *self) { self->opening = false; }

static psd_work_t *take_deferred(psd_saver_t *self)
{
    psd_work_t *work = self->deferred;
    self->deferred = NULL;
    return work;
}

psd_work_t *psd_saver_part_saved(psd_saver_t *self, psd_shard_t *shard, uint32_t part)
{
    self->in_flight = false;
    psd_shard_forget(shard, part);
    return take_deferred(self);
}

psd_work_t *psd_saver_saved(psd_saver_t *self, psd_shard_t *shard, const uint8_t *busy, const char *failure)
{
    if (!self->saving)
        return NULL;
    self->saving = self->opening = self->in_flight = self->awaits_residuals = self->ending = false;
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
        if (!psd_bitmap_get(busy, p)) /* else when its step is done */
            psd_shard_forget(shard, p);
    if (!failure)
        self->saved = self->clock + 1;
    else
        self->failed = self->clock + 1;
    psd_saver_note_trouble(self, failure);
    return take_deferred(self);
}

void psd_saver_go_on(psd_saver_t *self, const psd_shard_t *shard, const uint8_t *busy, psd_actions_t *out)
{
    if (self->saving)
        next_part(self, shard, busy, out);
}

void psd_saver_has_residuals(psd_saver_t *self, const psd_shard_t *shard, const uint8_t *busy, psd_actions_t *out)
{
    if (!self->saving || !self->awaits_residuals)
        return;
    self->awaits_residuals = false;
    if (!psd_saver_is_writing(self) && !self->blocked)
        next_part(self, shard, busy, out);
}

bool psd_saver_is_writing(const psd_saver_t *self) { return self->opening || self->in_flight || self->ending; }
