/* coordinator_save.c - checkpoints are ordered in the log like every decision, so that all shards save the
 * same round; the way back to one, when a server was lost; and the end of the job, which comes when the last
 * weights are safe. */
#include "common/base/rng.h"
#include "server/core/coordinator_state.h"

enum { END_MS = 30000 };

psd_progress_t psd_coord_look(const psd_coordinator_t *self, uint64_t clock)
{
    psd_progress_t p = { .clock = clock, .servers = self->config.n_servers, .steps = psd_servers_count_steps(&self->servers) };
    psd_saves_look(&self->saves, self->ending ? self->end_since_ms : 0, &p);
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (self->members.row[i].state == PSD_WORKER_LIVE) {
            p.members++;
            p.complete += psd_coord_has_pushed(self, &self->members.row[i]);
        }
    return p;
}

uint64_t psd_coord_progress(const psd_coordinator_t *self)
{
    const psd_progress_t p = psd_coord_look(self, self->clock);
    return self->config.mode->progress(&p);
}

bool psd_coord_is_saved(const psd_coordinator_t *self)
{
    const psd_progress_t p = psd_coord_look(self, self->clock);
    return psd_saves_is_saved(&self->saves, &p);
}

bool psd_coord_lacks_first_point(const psd_coordinator_t *self)
{
    return psd_saves_has_none(&self->saves) && !psd_saves_is_safe(&self->saves) && !self->ending &&
           self->state != PSD_JOB_GATHERING && self->state != PSD_JOB_FINISHED;
}

void psd_coordinator_committed(psd_coordinator_t *self, uint64_t now_ms, uint64_t clock, const char *failure, psd_actions_t *out)
{
    if (psd_saves_note_manifest(&self->saves, now_ms, clock, failure, out))
        psd_coord_tend_pushes(self, now_ms, out); /* which may have waited for the first one */
}

void psd_coordinator_request_save(psd_coordinator_t *self) { psd_saves_ask(&self->saves); }

/* The job ends: finished, or stopped by an operator. First its last weights are saved. */
void psd_coord_begin_end(psd_coordinator_t *self, uint64_t now_ms, bool stopped, psd_actions_t *out)
{
    if (self->ending || self->state == PSD_JOB_FINISHED)
        return;
    self->ending = true;
    self->stopped = stopped;
    self->end_since_ms = now_ms;
    psd_saves_ask(&self->saves);
    psd_actions_log(out, PSD_LEVEL_DEBUG, "job.ending", "clock=%" PRIu64 " finished=%s", self->clock, stopped ? "false" : "true");
    psd_coord_tend_pushes(self, now_ms, out); /* else each checkpoint would be an old one before it is made */
}

void psd_coord_finish(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    self->state = PSD_JOB_FINISHED;
    self->finish_since_ms = now_ms;
    if (self->stopped && psd_saves_has_none(&self->saves))
        snprintf(self->end_text, sizeof self->end_text, "stopped before the job was finished; no checkpoint could be made: %s",
                 psd_saves_trouble(&self->saves));
    else if (self->stopped)
        snprintf(self->end_text, sizeof self->end_text, "stopped before the job was finished");
    else
        psd_coord_describe_end(self, self->end_text, sizeof self->end_text);
    psd_round_t nothing = { .clock = self->clock, .view_id = self->view_id, .clip_scale = 1 };
    psd_coord_append_command(self, now_ms, &nothing, PSD_COMMAND_FINISH | (self->stopped ? PSD_COMMAND_STOP : 0), out);
}

/* A run begins from the newest checkpoint. How many steps there are in that, the shards will tell. */
void psd_coord_begin_progress(psd_coordinator_t *self)
{
    const psd_progress_t p = psd_coord_look(self, self->clock);
    psd_saves_begin_run(&self->saves, &p);
}

bool psd_coord_loses_weights(psd_coordinator_t *self, bool trained, uint64_t now_ms, const char *why, psd_actions_t *out)
{
    char text[PSD_MAX_TEXT / 2];
    if (!trained || self->saves.n_points)
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
    if (!self->saves.n_points)
        psd_tensors_clear(&self->model); /* with a checkpoint the shards know the model from it */
    self->clock = psd_saves_newest(&self->saves);
    psd_coord_begin_progress(self);
    psd_actions_log(out, PSD_LEVEL_WARN, "job.restart", "why=\"%s\" from_clock=%" PRIu64 " checkpoint=%s run=%" PRIu64, why,
                    self->clock, self->saves.n_points ? "yes" : "none", self->runs);
}

/* The first checkpoint, those that were asked for, and those of jobs without rounds do not wait for a round to close; the
 * view stays as it is. */
void psd_coord_save_between_rounds(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool begun = self->state != PSD_JOB_GATHERING && self->state != PSD_JOB_FINISHED;
    psd_progress_t p = psd_coord_look(self, self->clock);
    if (!begun || !psd_saves_is_urgent(&self->saves) || !psd_saves_is_due(&self->saves, now_ms, &p, self->ending))
        return;
    p.clock = self->clock = self->config.mode->save_clock(&p);
    psd_round_t same = { .clock = self->clock,
                         .lr = self->config.lr,
                         .clip_scale = 1,
                         .view_id = self->view_id,
                         .n_members = self->n_view,
                         .member = self->view };
    psd_coord_append_command(self, now_ms, &same, PSD_COMMAND_SAVE, out);
    psd_saves_begin(&self->saves, now_ms, &p, psd_journal_last(&self->journal));
}

void psd_coordinator_stop(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_coord_begin_end(self, now_ms, true, out);
}

/* An end is reached when the last weights are safe, or when that takes too long. */
void psd_coord_tend_end(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool can_save = psd_saves_can_save(&self->saves);
    bool safe = psd_coord_is_saved(self);
    const bool in_vain = self->stopped && psd_saves_has_none(&self->saves); /* nothing was trained that could be lost */
    bool busy = !in_vain && (psd_saves_is_busy(&self->saves) || (can_save && !safe));
    if (self->ending && can_save && !safe)
        psd_saves_ask(&self->saves);
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
    snprintf(why, sizeof why, "server %u cannot load the checkpoint of clock %" PRIu64 ": %.400s", shard,
             psd_saves_newest(&self->saves), reason);
    psd_saves_drop_newest(&self->saves);
    if (self->saves.n_points)
        psd_coord_new_run(self, why, out);
    else
        psd_coord_fail(self, now_ms, PSD_EDATA, PSD_REFUSAL_DAMAGED, why, out);
}
