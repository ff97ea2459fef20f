/* engine_save.c - chunks are written one by one beside training: a step that would change one that is not
 * written yet keeps a copy of it, and the one that the writer has just now is stepped when it is done. And
 * the way back: from a checkpoint, or into another run of the job. */
#include "common/base/printable.h"
#include "server/core/engine_state.h"

/* For the coordinator, who tells others. */
static void note_trouble(psd_engine_t *self, const char *failure)
{
    psd_printable(self->trouble, sizeof self->trouble, failure ? failure : "", failure ? strlen(failure) : 0);
}

static void save_next_part(psd_engine_t *self, psd_actions_t *out)
{
    bool more = self->save_next < psd_shard_parts(self->shard);
    self->save_blocked = more && psd_bitmap_get(self->update.busy, self->save_next);
    self->save_in_flight = more && !self->save_blocked;
    if (self->save_blocked)
        return;
    if (more)
        psd_actions_checkpoint(out, PSD_ACT_SAVE_PART, self->save_clock, self->save_next++);
    else
        psd_actions_checkpoint(out, PSD_ACT_SAVE_END, self->save_clock, 0);
    self->save_ending = !more;
}

/* Before the next round begins: what is true of this one. */
static void note_point(psd_engine_t *self)
{
    self->save_point = (psd_engine_point_t){
        .clock = self->clock, .version = self->version, .samples = self->samples, .lr = self->lr, .applied = self->save_applied
    };
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        const psd_eng_worker_t *w = self->worker[i];
        if (w && (w->incarnation || w->resumes_at))
            self->save_applied[self->save_point.n_applied++] = (psd_member_t){
                .worker = i, .incarnation = w->incarnation, .samples = w->incarnation ? w->applied : w->resumes_at
            };
    }
}

void psd_eng_begin_save(psd_engine_t *self, psd_actions_t *out)
{
    if (!self->save_due || self->saving || self->update.open || !psd_eng_is_started(self))
        return;
    self->save_due = false;
    if (self->saved == self->save_order + 1)
        return; /* an attempt that failed elsewhere has made this file: it stays, for it may be listed already */
    if (self->clock != self->save_order) {
        self->save_failed = self->save_order + 1; /* an older one took too long; the state of that clock is gone */
        note_trouble(self, "an older one took too long");
        return;
    }
    self->saving = true;
    self->save_clock = self->clock;
    note_point(self);
    self->save_next = 0;
    self->save_opening = true;
    psd_actions_checkpoint(out, PSD_ACT_SAVE_BEGIN, self->save_clock, 0);
}

/* Only now: a chunk that waited for a slow disk to make the file would keep its step waiting. */
void psd_engine_save_begun(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    self->save_opening = false;
    if (!psd_eng_start_over_if_due(self, now_ms, out) && self->saving)
        save_next_part(self, out);
}

/* How this chunk's step must respect the checkpoint. False: it is put off. */
bool psd_eng_may_step(psd_engine_t *self, psd_work_t *work)
{
    if (!self->saving)
        return true;
    if (self->save_in_flight && work->part + 1 == self->save_next) {
        self->deferred = work;
        return false;
    }
    psd_shard_state_t kept = psd_shard_state(self->shard, work->part);
    bool is_kept = kept.w != psd_shard_weights(self->shard, work->part)->data;
    work->preserve = work->part >= self->save_next && !is_kept && work->n_gradients;
    return true;
}

static void release_deferred(psd_engine_t *self, psd_actions_t *out)
{
    if (!self->deferred)
        return;
    psd_bitmap_set(self->update.busy, self->deferred->part);
    psd_actions_work(out, self->deferred);
    self->deferred = NULL;
}

/* A chunk's step has run: what was kept of it is dropped unless the writer still wants it, and a writer that
 * waited for just this chunk goes on. */
void psd_eng_chunk_stepped(psd_engine_t *self, uint32_t part, psd_actions_t *out)
{
    if (!self->saving)
        psd_shard_forget(self->shard, part);
    else if (self->save_blocked && part == self->save_next)
        save_next_part(self, out);
}

void psd_engine_part_saved(psd_engine_t *self, uint64_t now_ms, uint32_t part, psd_actions_t *out)
{
    self->save_in_flight = false;
    psd_shard_forget(self->shard, part);
    release_deferred(self, out);
    if (!psd_eng_start_over_if_due(self, now_ms, out) && self->saving)
        save_next_part(self, out);
}

void psd_engine_saved(psd_engine_t *self, uint64_t now_ms, const char *failure, psd_actions_t *out)
{
    if (!self->saving)
        return;
    self->saving = self->save_opening = self->save_in_flight = self->save_ending = false;
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++)
        if (!psd_bitmap_get(self->update.busy, p)) /* else when its step is done */
            psd_shard_forget(self->shard, p);
    release_deferred(self, out);
    if (!failure)
        self->saved = self->save_clock + 1;
    else
        self->save_failed = self->save_clock + 1;
    note_trouble(self, failure);
    if (!self->update.open)
        psd_eng_begin_save(self, out);
    if (!psd_eng_start_over_if_due(self, now_ms, out))
        psd_eng_send_state(self, NULL, out);
}

/* ---- starting over: from a checkpoint, or because the coordinator has begun another run of the job ---- */

int psd_engine_restore(psd_engine_t *self, const psd_tensor_list_t *model, psd_err_t *err)
{
    assert(self->restoring && !self->shard);
    if (psd_tensors_copy(&self->model, model) != PSD_OK)
        return psd_err_set(err, PSD_ENOMEM, "no memory for the model's list of tensors");
    return psd_eng_make_shard(self, err);
}

psd_shard_t *psd_engine_restoring(psd_engine_t *self) { return self->restoring ? self->shard : NULL; }

/* As if it had just been made: no model, no members, no round. */
void psd_eng_forget_everything(psd_engine_t *self)
{
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i]) {
            psd_eng_free_worker(self, self->worker[i]);
            self->worker[i] = NULL;
        }
    for (uint32_t i = 0; i < self->n_early; i++)
        psd_buf_unref(&self->early[i].payload);
    psd_shard_destroy(&self->shard);
    psd_partition_clear(&self->map);
    psd_tensors_clear(&self->model);
    free(self->started);
    psd_update_clear(&self->update);
    free(self->init.asked);
    free(self->init.newest);
    self->started = self->init.asked = self->init.newest = NULL;
    self->init.asking = false;
    self->init.flying = 0;
    self->n_early = self->n_queued = self->n_started = 0;
    self->clock = self->version = self->samples = self->log_done = self->saved = self->save_failed = 0;
    self->save_due = self->saving = self->save_blocked = self->restoring = self->restore_failed = self->held = false;
}

void psd_engine_restored(psd_engine_t *self, uint64_t now_ms, const char *failure, const psd_engine_point_t *point,
                         psd_actions_t *out)
{
    if (!self->restoring)
        return;
    self->restoring = false;
    note_trouble(self, failure);
    if (!failure) {
        self->clock = point->clock;
        self->version = point->version;
        self->samples = point->samples;
        self->lr = point->lr;
        self->saved = point->clock + 1;
        self->n_started = psd_shard_parts(self->shard);
        memset(self->started, 0xff, psd_bitmap_bytes(self->n_parts));
        for (uint32_t i = 0; i < point->n_applied; i++)
            psd_eng_worker_row(self, point->applied[i].worker)->resumes_at = point->applied[i].samples;
        psd_actions_log(out, PSD_LEVEL_INFO, "shard.restored", "clock=%" PRIu64 " version=%" PRIu64, self->clock, self->version);
    } else {
        self->restore_failed = true; /* the coordinator names an older checkpoint */
    }
    if (!psd_eng_start_over_if_due(self, now_ms, out))
        psd_eng_send_state(self, NULL, out);
}

/* Leave this run as soon as no thread works on the shard, and ask to join the next. */
bool psd_eng_start_over_if_due(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (!self->leaving_run)
        return false;
    if (self->update.running - (self->deferred ? 1 : 0) || self->save_opening || self->save_in_flight || self->save_ending ||
        self->restoring)
        return true;
    self->deferred = NULL;
    uint32_t index = self->index;
    psd_eng_forget_everything(self);
    self->leaving_run = self->welcomed = false;
    self->config.nonce++;
    self->config.wanted_index = (int)index;
    self->state_sent_ms = 0;
    psd_actions_log(out, PSD_LEVEL_WARN, "shard.restart", "reason=\"server 0 has begun another run of the job\"");
    psd_engine_tick(self, now_ms, out);
    return true;
}
