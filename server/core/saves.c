#include "server/core/saves.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void psd_saves_init(psd_saves_t *self, const psd_saves_config_t *config, const uint64_t *point, size_t n)
{
    *self = (psd_saves_t){ .config = *config, .n_points = n < PSD_MAX_POINTS ? n : PSD_MAX_POINTS };
    if (self->n_points)
        memcpy(self->point, point, self->n_points * sizeof *point);
}

/* The shards will report the number of steps in the checkpoint that a run begins from. */
void psd_saves_begin_run(psd_saves_t *self, const psd_progress_t *p)
{
    self->saving = self->committing = self->wanted = false;
    self->started = (psd_server_set_t){ 0 };
    self->progress = self->point_progress = self->config.mode->progress(p);
}

void psd_saves_look(const psd_saves_t *self, uint64_t end_since_ms, psd_progress_t *p)
{
    p->point_clock = psd_saves_newest(self);
    p->point_progress = self->point_progress;
    p->point_is_final = self->point_since_ms >= end_since_ms;
}

uint64_t psd_saves_newest(const psd_saves_t *self) { return self->n_points ? self->point[0] : 0; }

/* ---- when to save ---- */

void psd_saves_ask(psd_saves_t *self) { self->wanted = self->config.possible; }

void psd_saves_unask(psd_saves_t *self) { self->wanted = false; }

static bool are_all(const psd_saves_t *self, const psd_server_set_t *shards) { return shards->n == self->config.n_servers; }

bool psd_saves_can_save(const psd_saves_t *self) { return self->config.possible && are_all(self, &self->started); }

bool psd_saves_is_due(const psd_saves_t *self, uint64_t now_ms, const psd_progress_t *p, bool ending)
{
    const psd_saves_config_t *c = &self->config;
    if (!psd_saves_can_save(self) || psd_saves_is_busy(self))
        return false;
    const uint64_t progress = c->mode->progress(p);
    if (self->n_points && self->point_progress == progress && !(ending && !psd_saves_is_saved(self, p)))
        return false; /* nothing has happened since */
    if (self->failing && now_ms < self->since_ms + PSD_SAVES_AGAIN_MS)
        return false;
    const bool by_rounds = c->every_rounds && progress - self->progress >= c->every_rounds * c->n_servers;
    const bool by_time = c->every_ms && now_ms >= self->since_ms + c->every_ms;
    return self->wanted || !self->n_points || by_rounds || by_time;
}

bool psd_saves_is_urgent(const psd_saves_t *self)
{
    return self->wanted || !psd_mode_has_rounds(self->config.mode) || !self->n_points;
}

void psd_saves_begin(psd_saves_t *self, uint64_t now_ms, const psd_progress_t *p, uint64_t seq)
{
    self->saving = true;
    self->wanted = false;
    self->clock = p->clock;
    self->since_ms = now_ms;
    self->saved_by = (psd_server_set_t){ 0 };
    self->seq = seq;
    self->progress = self->config.mode->progress(p);
}

/* ---- what becomes of it ---- */

/* What a checkpoint that could not be made means. */
static const char *effect_of_failure(const psd_saves_t *self)
{
    return self->n_points ? "the one before stays the newest" : "there is none, and nothing is trained before there is one";
}

/* `where` and `why` are kept for those who ask. */
static void fail(psd_saves_t *self, const char *where, const char *why, psd_actions_t *out)
{
    self->saving = self->committing = false;
    self->failing = true;
    snprintf(self->trouble, sizeof self->trouble, "%s: %.360s", where, *why ? why : "the server's log says why");
    psd_actions_log(out, PSD_LEVEL_ERROR, "checkpoint.failed", "clock=%" PRIu64 " where=\"%s\" reason=\"%s\" effect=\"%s\"",
                    self->clock, where, why, effect_of_failure(self));
}

void psd_saves_note_shard(psd_saves_t *self, const psd_msg_t *msg, psd_actions_t *out)
{
    char where[32];
    if (msg->code & PSD_SHARD_STARTED)
        psd_server_set_add(&self->started, msg->shard);
    if (!self->saving)
        return;
    if (msg->code & PSD_SHARD_SAVE_FAILED && msg->seq >= self->seq) {
        snprintf(where, sizeof where, "server %u", msg->shard);
        fail(self, where, msg->text, out);
        return;
    }
    if (msg->saved == self->clock + 1)
        psd_server_set_add(&self->saved_by, msg->shard);
    if (!are_all(self, &self->saved_by))
        return;
    self->saving = false;
    self->committing = true;
    psd_actions_checkpoint(out, PSD_ACT_COMMIT, self->clock, 0);
}

bool psd_saves_note_manifest(psd_saves_t *self, uint64_t now_ms, uint64_t clock, const char *failure, psd_actions_t *out)
{
    if (!self->committing || clock != self->clock)
        return false;
    if (failure) {
        fail(self, "manifest", failure, out);
        return false;
    }
    self->committing = self->failing = false;
    self->took_ms = now_ms - self->since_ms;
    self->point_ms = now_ms;
    self->point_since_ms = self->since_ms;
    self->point_progress = self->progress;
    if (self->n_points == PSD_MAX_POINTS)
        self->n_points--;
    memmove(self->point + 1, self->point, self->n_points * sizeof *self->point);
    self->point[0] = clock;
    self->n_points++;
    psd_actions_log(out, PSD_LEVEL_INFO, "checkpoint.committed", "clock=%" PRIu64 " ms=%" PRIu64, clock, self->took_ms);
    return true;
}

void psd_saves_drop_newest(psd_saves_t *self)
{
    if (self->n_points)
        memmove(self->point, self->point + 1, --self->n_points * sizeof *self->point);
}

/* ---- how things are ---- */

bool psd_saves_is_busy(const psd_saves_t *self) { return self->saving || self->committing; }

bool psd_saves_is_failing(const psd_saves_t *self) { return self->failing; }

bool psd_saves_has_none(const psd_saves_t *self) { return self->failing && !self->n_points; }

bool psd_saves_is_safe(const psd_saves_t *self) { return !self->config.possible || self->n_points; }

bool psd_saves_is_saved(const psd_saves_t *self, const psd_progress_t *p)
{
    return self->n_points && self->config.mode->is_saved(p);
}

bool psd_saves_is_newer(const psd_saves_t *self, uint64_t ms) { return self->n_points && self->point_since_ms >= ms; }

bool psd_saves_has_failed_since(const psd_saves_t *self, uint64_t ms)
{
    return self->failing && !psd_saves_is_busy(self) && self->since_ms >= ms;
}

const char *psd_saves_trouble(const psd_saves_t *self) { return self->trouble; }

void psd_saves_describe_trouble(const psd_saves_t *self, char *text, size_t n)
{
    snprintf(text, n, "the last checkpoint could not be made (checkpoint.dir): %s; %s", self->trouble,
             self->n_points ? "the one before stays the newest" : "there is none");
}
