/* coordinator_save.c - checkpoints are ordered in the log like every decision, so that all shards save the
 * same round; the way back to one, when a server was lost; and the end of the job, which comes when the last
 * weights are safe. */
#include "common/base/rng.h"
#include "server/core/coordinator_state.h"

enum { END_MS = 30000, SAVE_AGAIN_MS = 1000 };

psd_progress_t psd_coord_look(const psd_coordinator_t *self, uint64_t clock)
{
    psd_progress_t p = { .clock = clock,
                         .servers = self->config.n_servers,
                         .steps = psd_servers_count_steps(&self->servers),
                         .point_clock = self->n_points ? self->point[0] : 0,
                         .point_progress = self->point_progress,
                         .point_is_final = !self->ending || self->point_since_ms >= self->end_since_ms };
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (self->members.row[i].state == PSD_WORKER_LIVE) {
            p.members++;
            p.complete += psd_coord_has_pushed(self, &self->members.row[i]);
        }
    return p;
}

static uint64_t progress_at(const psd_coordinator_t *self, uint64_t clock)
{
    const psd_progress_t p = psd_coord_look(self, clock);
    return self->config.mode->progress(&p);
}

uint64_t psd_coord_progress(const psd_coordinator_t *self) { return progress_at(self, self->clock); }

uint64_t psd_coord_save_clock(const psd_coordinator_t *self, uint64_t clock)
{
    const psd_progress_t p = psd_coord_look(self, clock);
    return self->config.mode->save_clock(&p);
}

bool psd_coord_is_safe(const psd_coordinator_t *self) { return !self->config.checkpoints || self->n_points; }

bool psd_coord_is_saved(const psd_coordinator_t *self)
{
    const psd_progress_t p = psd_coord_look(self, self->clock);
    return self->n_points && self->config.mode->is_saved(&p);
}

bool psd_coord_save_is_due(const psd_coordinator_t *self, uint64_t now_ms, uint64_t clock)
{
    if (!self->config.checkpoints || self->saving || self->committing || self->started != psd_servers_mask(&self->servers))
        return false;
    const uint64_t progress = progress_at(self, clock);
    if (self->n_points && self->point_progress == progress && !(self->ending && !psd_coord_is_saved(self)))
        return false; /* nothing has happened since */
    if (self->save_failing && now_ms < self->save_since_ms + SAVE_AGAIN_MS)
        return false;
    bool by_rounds =
        self->config.save_every_rounds && progress - self->save_progress >= self->config.save_every_rounds * self->config.n_servers;
    bool by_time = self->config.save_every_ms && now_ms >= self->save_since_ms + self->config.save_every_ms;
    return self->save_wanted || !self->n_points || by_rounds || by_time;
}

void psd_coord_begin_save(psd_coordinator_t *self, uint64_t now_ms, uint64_t clock)
{
    self->saving = true;
    self->save_wanted = false;
    self->save_clock = clock;
    self->save_since_ms = now_ms;
    self->saved_by = 0;
    self->save_seq = psd_journal_last(&self->journal);
    self->save_progress = progress_at(self, clock);
}

/* What a checkpoint that could not be made means. */
static const char *effect_of_failure(const psd_coordinator_t *self)
{
    return self->n_points ? "the one before stays the newest" : "there is none, and nothing is trained before there is one";
}

/* `where` and `why` are kept for those who ask. */
static void save_has_failed(psd_coordinator_t *self, psd_actions_t *out, const char *where, const char *why)
{
    self->saving = self->committing = false;
    self->save_failing = true;
    snprintf(self->save_trouble, sizeof self->save_trouble, "%s: %.360s", where, *why ? why : "the server's log says why");
    psd_actions_log(out, PSD_LEVEL_ERROR, "checkpoint.failed", "clock=%" PRIu64 " where=\"%s\" reason=\"%s\" effect=\"%s\"",
                    self->save_clock, where, why, effect_of_failure(self));
}

bool psd_coord_lacks_first_point(const psd_coordinator_t *self)
{
    return self->save_failing && !psd_coord_is_safe(self) && !self->ending && self->state != PSD_JOB_GATHERING &&
           self->state != PSD_JOB_FINISHED;
}

void psd_coord_describe_unsaved(const psd_coordinator_t *self, char *text, size_t n)
{
    snprintf(text, n, "the last checkpoint could not be made (checkpoint.dir): %s; %s", self->save_trouble,
             self->n_points ? "the one before stays the newest" : "there is none");
}

void psd_coord_note_saved(psd_coordinator_t *self, const psd_msg_t *msg, psd_actions_t *out)
{
    char where[32];
    uint64_t bit = UINT64_C(1) << msg->shard;
    snprintf(where, sizeof where, "server %u", msg->shard);
    if (msg->code & PSD_SHARD_STARTED)
        self->started |= bit;
    if (!self->saving)
        return;
    if (msg->code & PSD_SHARD_SAVE_FAILED && msg->seq >= self->save_seq) {
        save_has_failed(self, out, where, msg->text);
        return;
    }
    if (msg->saved == self->save_clock + 1)
        self->saved_by |= bit;
    if (self->saved_by != psd_servers_mask(&self->servers))
        return;
    self->saving = false;
    self->committing = true;
    psd_actions_checkpoint(out, PSD_ACT_COMMIT, self->save_clock, 0);
}

void psd_coordinator_committed(psd_coordinator_t *self, uint64_t now_ms, uint64_t clock, const char *failure, psd_actions_t *out)
{
    if (!self->committing || clock != self->save_clock)
        return;
    if (failure) {
        save_has_failed(self, out, "manifest", failure);
        return;
    }
    self->committing = self->save_failing = false;
    self->save_ms = now_ms - self->save_since_ms;
    self->point_ms = now_ms;
    self->point_since_ms = self->save_since_ms;
    self->point_progress = self->save_progress;
    if (self->n_points == PSD_MAX_POINTS)
        self->n_points--;
    memmove(self->point + 1, self->point, self->n_points * sizeof *self->point);
    self->point[0] = clock;
    self->n_points++;
    psd_coord_tend_pushes(self, now_ms, out); /* which may have waited for the first one */
    psd_actions_log(out, PSD_LEVEL_INFO, "checkpoint.committed", "clock=%" PRIu64 " ms=%" PRIu64, clock, self->save_ms);
}

void psd_coordinator_request_save(psd_coordinator_t *self) { self->save_wanted = true; }

/* The job ends: finished, or stopped by an operator. First its last weights are saved. */
void psd_coord_begin_end(psd_coordinator_t *self, uint64_t now_ms, bool stopped, psd_actions_t *out)
{
    if (self->ending || self->state == PSD_JOB_FINISHED)
        return;
    self->ending = true;
    self->stopped = stopped;
    self->end_since_ms = now_ms;
    self->save_wanted = self->config.checkpoints;
    psd_actions_log(out, PSD_LEVEL_DEBUG, "job.ending", "clock=%" PRIu64 " finished=%s", self->clock, stopped ? "false" : "true");
    psd_coord_tend_pushes(self, now_ms, out); /* else each checkpoint would be an old one before it is made */
}

void psd_coord_finish(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    self->state = PSD_JOB_FINISHED;
    self->finish_since_ms = now_ms;
    if (self->stopped && self->save_failing && !self->n_points)
        snprintf(self->end_text, sizeof self->end_text, "stopped before the job was finished; no checkpoint could be made: %s",
                 self->save_trouble);
    else if (self->stopped)
        snprintf(self->end_text, sizeof self->end_text, "stopped before the job was finished");
    else
        psd_coord_describe_end(self, self->end_text, sizeof self->end_text);
    psd_round_t nothing = { .clock = self->clock, .view_id = self->view_id, .clip_scale = 1 };
    psd_coord_append_command(self, now_ms, &nothing, PSD_COMMAND_FINISH | (self->stopped ? PSD_COMMAND_STOP : 0), out);
}

/* A run begins from the newest checkpoint. How many steps there are in that, the shards will tell. */
void psd_coord_begin_progress(psd_coordinator_t *self) { self->save_progress = self->point_progress = psd_coord_progress(self); }

bool psd_coord_loses_weights(psd_coordinator_t *self, bool trained, uint64_t now_ms, const char *why, psd_actions_t *out)
{
    char text[PSD_MAX_TEXT / 2];
    if (!trained || self->n_points)
        return false;
    snprintf(text, sizeof text,
             "the servers have lost the weights and there is no checkpoint to go back to: %s (checkpoint.dir keeps "
             "them)",
             why);
    psd_actions_log(out, PSD_LEVEL_ERROR, "job.lost", "why=\"%s\" clock=%" PRIu64 " checkpoint=none", why, self->clock);
    psd_coord_fail(self, now_ms, PSD_EREFUSED, PSD_REFUSAL_LOST, text, out);
    return true;
}

/* Take the job up again from the newest checkpoint: every shard loads it, every worker joins anew. Weights
 * that are half a round further on one shard than on another are never mixed. */
void psd_coord_new_run(psd_coordinator_t *self, const char *why, psd_actions_t *out)
{
    self->runs++;
    uint64_t seed = self->config.job_id;
    self->config.job_id = psd_splitmix64(&seed) | 1;
    psd_journal_clear(&self->journal);
    psd_servers_begin_run(&self->servers);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        /* Its last rounds are undone, and somebody must do them again; but without rounds its work was its own, and one
         * that is gone is not asked for it twice. */
        row->finished = row->finished && row->state == PSD_WORKER_LEFT && !psd_mode_has_rounds(self->config.mode);
        if (psd_worker_is_here(row))
            row->state = PSD_WORKER_LOST;
    }
    self->state = PSD_JOB_GATHERING;
    self->n_view = 0;
    self->ending = self->ending && self->stopped; /* what was finished may have to be done again */
    self->first_ready_ms = 0;
    self->saving = self->committing = self->save_wanted = false;
    self->started = 0;
    if (!self->n_points)
        psd_tensors_clear(&self->model); /* with a checkpoint the shards know the model from it */
    self->clock = self->n_points ? self->point[0] : 0;
    psd_coord_begin_progress(self);
    psd_actions_log(out, PSD_LEVEL_WARN, "job.restart", "why=\"%s\" from_clock=%" PRIu64 " checkpoint=%s run=%" PRIu64, why,
                    self->clock, self->n_points ? "yes" : "none", self->runs);
}

/* The first checkpoint, those that were asked for, and those of jobs without rounds do not wait for a round to close; the
 * view stays as it is. */
void psd_coord_save_between_rounds(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool begun = self->state != PSD_JOB_GATHERING && self->state != PSD_JOB_FINISHED;
    bool now = self->save_wanted || !psd_mode_has_rounds(self->config.mode) || !self->n_points;
    if (!begun || !now || !psd_coord_save_is_due(self, now_ms, self->clock))
        return;
    self->clock = psd_coord_save_clock(self, self->clock);
    psd_round_t same = { .clock = self->clock,
                         .lr = self->config.lr,
                         .clip_scale = 1,
                         .view_id = self->view_id,
                         .n_members = self->n_view,
                         .member = self->view };
    psd_coord_append_command(self, now_ms, &same, PSD_COMMAND_SAVE, out);
    psd_coord_begin_save(self, now_ms, self->clock);
}

void psd_coordinator_stop(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_coord_begin_end(self, now_ms, true, out);
}

/* An end is reached when the last weights are safe, or when that takes too long. */
void psd_coord_tend_end(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool can_save = self->config.checkpoints && self->started == psd_servers_mask(&self->servers);
    bool safe = psd_coord_is_saved(self);
    const bool in_vain = self->stopped && self->save_failing && !self->n_points; /* nothing was trained that could be lost */
    bool busy = !in_vain && (self->saving || self->committing || (can_save && !safe));
    self->save_wanted |= self->ending && can_save && !safe;
    bool too_long = now_ms > self->end_since_ms + END_MS;
    if (!self->ending || self->state == PSD_JOB_FINISHED || (busy && !too_long))
        return;
    psd_coord_finish(self, now_ms, out);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        if (row->state != PSD_WORKER_DONE)
            continue;
        row->state = PSD_WORKER_LEFT;
        row->finished = true;
        psd_coord_answer(self, row->peer, PSD_MSG_LEFT, row, NULL, out);
    }
}

/* A shard cannot load the newest checkpoint: all go back to the one before. */
void psd_coord_drop_point(psd_coordinator_t *self, uint64_t now_ms, uint32_t shard, const char *reason, psd_actions_t *out)
{
    char why[PSD_MAX_TEXT / 2];
    snprintf(why, sizeof why, "server %u cannot load the checkpoint of clock %" PRIu64 ": %.400s", shard, self->point[0], reason);
    memmove(self->point, self->point + 1, --self->n_points * sizeof *self->point);
    if (self->n_points)
        psd_coord_new_run(self, why, out);
    else
        psd_coord_fail(self, now_ms, PSD_EDATA, PSD_REFUSAL_DAMAGED, why, out);
}
