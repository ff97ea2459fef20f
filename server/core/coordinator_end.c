/* coordinator_end.c - what is said when the job ends: to everybody, until it has been heard, when it fails; and in a sentence, who
 * has finished and who has not, when its work is done. */
#include "server/core/coordinator_state.h"

/* Servers and workers are asked and answer several times in the first. When a server has lost what it knew of the job, its
 * workers have to come before they can be told. */
enum { LAST_WORDS_MS = 1000, LAST_WORDS_TO_COMERS_MS = 5000 };

/* ---- failing ---- */

static void tell_shard(psd_coordinator_t *self, const psd_server_row_t *shard, psd_actions_t *out)
{
    psd_msg_t *msg = psd_coord_answer(self, shard->peer, PSD_MSG_REFUSED, NULL, NULL, out);
    msg->seq = shard->nonce;
    msg->code = self->last_words.refusal;
    snprintf(msg->text, sizeof msg->text, "%s", self->last_words.why);
}

static void tell_worker(psd_coordinator_t *self, psd_worker_row_t *row, bool safe, psd_actions_t *out)
{
    if (row->state == PSD_WORKER_DONE && safe) {
        row->state = PSD_WORKER_LEFT;
        row->finished = true;
        psd_coord_answer(self, row->peer, PSD_MSG_LEFT, row, NULL, out);
        return;
    }
    psd_msg_t *msg = psd_coord_answer(self, row->peer, PSD_MSG_REFUSED, row, NULL, out);
    msg->code = self->last_words.refusal;
    snprintf(msg->text, sizeof msg->text, "%s", self->last_words.why);
}

/* Returns whether there is anybody to tell. */
static bool tell_everybody(psd_coordinator_t *self, psd_actions_t *out)
{
    const bool safe = psd_coord_is_saved(self);
    bool any = false;
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (self->servers.row[s].endpoint[0] && self->servers.row[s].peer != PSD_PEER_OWN_SHARD) {
            tell_shard(self, &self->servers.row[s], out);
            any |= !self->servers.row[s].lost;
        }
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (psd_worker_is_here(&self->members.row[i])) {
            tell_worker(self, &self->members.row[i], safe, out);
            any = true;
        }
    return any;
}

static bool awaits_comers(const psd_coordinator_t *self) { return self->last_words.refusal == PSD_REFUSAL_LOST; }

static void end_failed(psd_coordinator_t *self, psd_actions_t *out)
{
    if (!self->last_words.finished)
        psd_actions_finish(out, self->last_words.code, self->last_words.why);
    self->last_words.finished = true;
}

void psd_coord_fail(psd_coordinator_t *self, uint64_t now_ms, int code, psd_refusal_t refusal, const char *why, psd_actions_t *out)
{
    if (self->last_words.code)
        return;
    self->last_words.code = code;
    self->last_words.refusal = refusal;
    self->last_words.since_ms = now_ms;
    snprintf(self->last_words.why, sizeof self->last_words.why, "%s", why);
    if (!tell_everybody(self, out) && !awaits_comers(self))
        end_failed(self, out);
}

bool psd_coord_is_failing(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (!self->last_words.code)
        return false;
    if (!self->last_words.finished)
        tell_everybody(self, out);
    if (now_ms >= self->last_words.since_ms + (awaits_comers(self) ? LAST_WORDS_TO_COMERS_MS : LAST_WORDS_MS))
        end_failed(self, out);
    return true;
}

void psd_coord_answer_failing(psd_coordinator_t *self, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    psd_worker_row_t *row = &self->members.row[msg->worker];
    if (msg->kind == PSD_MSG_LEAVE && msg->incarnation == row->incarnation && msg->seq == row->nonce &&
        row->state == PSD_WORKER_LEFT) {
        psd_coord_answer(self, from, PSD_MSG_LEFT, row, NULL, out);
        return;
    }
    if (from == PSD_PEER_OWN_SHARD || msg->kind == PSD_MSG_SHARD_STATE)
        return; /* a state's number is not the one by which its sender knows what is meant for it */
    psd_msg_t *no = psd_coord_answer(self, from, PSD_MSG_REFUSED, NULL, NULL, out);
    no->seq = msg->seq;
    no->code = self->last_words.refusal;
    snprintf(no->text, sizeof no->text, "%s", self->last_words.why);
}

/* ---- the work is done ---- */

uint32_t psd_coord_workers_due(const psd_coordinator_t *self) { return self->config.drops_lost ? 1 : self->config.workers_min; }

/* What became of a worker that was a member and has not finished; NULL when there is nothing to say. */
static const char *fate(const psd_coordinator_t *self, const psd_worker_row_t *row)
{
    if (!row->served || row->finished)
        return NULL;
    if (row->state == PSD_WORKER_LOST)
        return self->config.drops_lost ? "was lost, and let be," : "was lost";
    if (row->state == PSD_WORKER_LEFT)
        return row->drains ? "left at an operator's wish" : "left with work to do";
    return NULL;
}

void psd_coord_describe_end(const psd_coordinator_t *self, char *text, size_t n)
{
    const uint32_t done = psd_coord_count_finished(self);
    uint32_t all = done;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        all += fate(self, &self->members.row[i]) != NULL;
    if (all == done) {
        snprintf(text, n, "every worker has finished");
        return;
    }
    int at = snprintf(text, n, "%u of %u workers %s finished", done, all, done == 1 ? "has" : "have");
    for (uint32_t i = 0; i < self->members.n_rows && (size_t)at < n; i++) {
        const psd_worker_row_t *row = &self->members.row[i];
        const char *what = fate(self, row);
        if (what)
            at += snprintf(text + at, n - (size_t)at, "; worker %u (%.80s) %s at %s %" PRIu64, i, row->name, what,
                           self->config.mode->unit, row->clock);
    }
}
