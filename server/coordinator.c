#include "server/coordinator.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"

enum { RESEND_MS = 200, END_MS = 30000, SAVE_AGAIN_MS = 1000, WAITING_LINE_MS = 5000, FINISH_MS = 5000, SERVER_LEASE_MS = 1000, FIRST_SEQ = 1, MAX_LR = 1000000000, MAX_POINTS = 16 };

typedef struct shard_row {
    bool joined;
    psd_peer_t peer;
    uint64_t nonce, epoch;
    uint64_t log_done;       /* last entry that it says it has carried out */
    uint64_t clock;          /* rounds closed there */
    uint64_t heard_ms;       /* when it last said anything */
    uint64_t sent_ms;        /* when log entries were last sent or repeated to it */
    char endpoint[PSD_MAX_NAME];
} shard_row_t;

/* An entry of the log; kept until every shard has done it. */
typedef struct entry {
    uint64_t seq;
    psd_kind_t kind;         /* MODEL or COMMAND */
    uint32_t code;           /* COMMAND: 1 ends the job */
    psd_buf_t *payload;
} entry_t;

struct psd_coordinator {
    psd_coordinator_config_t config;
    char *job, *settings;
    psd_job_state_t state;
    shard_row_t shard[PSD_MAX_SERVERS];
    psd_membership_t members;
    psd_member_t view[PSD_MAX_WORKERS]; /* the view that the log last gave */
    uint32_t n_view;
    psd_tensor_list_t model;           /* n = 0 before the first registration */
    entry_t *log;
    size_t n_log, log_capacity;
    uint64_t next_seq;
    uint64_t view_id, clock;           /* clock: rounds decided */
    uint64_t skipped;
    uint64_t round_since_ms;           /* when the open round was opened */
    uint64_t first_ready_ms;           /* when the first worker registered */
    uint64_t finish_since_ms;
    uint64_t line_ms;                  /* when what is waited for was last said */
    bool finished_told;
    bool ending, stopped;              /* the job ends, after a last checkpoint; unfinished, because it was stopped */
    uint64_t end_since_ms;
    uint64_t runs;
    /* checkpoints */
    uint64_t point[MAX_POINTS];        /* clocks of those that can be gone back to, newest first */
    size_t n_points;
    bool save_wanted, saving, committing, save_failing;
    uint64_t save_clock, save_since_ms; /* of the one being made */
    uint64_t save_seq;                 /* the log entry that ordered it */
    uint64_t saved_by;                 /* bit s: shard s has made its file durable */
    uint64_t started;                  /* bit s: shard s has all initial weights */
    uint64_t point_ms, save_ms, point_rounds;
    psd_coordinator_facts_t report;
};

psd_coordinator_t *psd_coordinator_new(const psd_coordinator_config_t *config, psd_err_t *err)
{
    psd_coordinator_t *self = calloc(1, sizeof *self);
    if (self) {
        self->config = *config;
        self->job = strdup(config->job);
        self->settings = strdup(config->settings);
        self->next_seq = FIRST_SEQ;
        self->runs = 1;
        self->n_points = config->n_points < MAX_POINTS ? config->n_points : MAX_POINTS;
        if (self->n_points)
            memcpy(self->point, config->points, self->n_points * sizeof *self->point);
        self->clock = self->n_points ? self->point[0] : 0;
    }
    bool copied = self && (!config->model || psd_tensors_copy(&self->model, config->model) == PSD_OK);
    if (!copied || !self->job || !self->settings) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a coordinator");
        psd_coordinator_destroy(&self);
    }
    return self;
}

void psd_coordinator_destroy(psd_coordinator_t **self_p)
{
    psd_coordinator_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    for (size_t i = 0; i < self->n_log; i++)
        psd_buf_unref(&self->log[i].payload);
    free(self->log);
    psd_tensors_clear(&self->model);
    free(self->job);
    free(self->settings);
    free(self);
}

static psd_msg_t *answer(psd_coordinator_t *self, psd_peer_t to, psd_kind_t kind, const psd_worker_row_t *row,
                         psd_buf_t *payload, psd_actions_t *out);

/* ---- the log ---- */

static void send_entry(psd_coordinator_t *self, uint32_t s, const entry_t *e, psd_actions_t *out)
{
    psd_msg_t *msg = psd_actions_send(out, self->shard[s].peer, e->kind, e->payload);
    msg->job = self->config.job_id;
    msg->shard = s;
    msg->shard_epoch = self->shard[s].epoch;
    msg->seq = e->seq;
    msg->code = e->code;
    msg->view_id = self->view_id;
}

static void append_entry(psd_coordinator_t *self, uint64_t now_ms, psd_kind_t kind, uint32_t code,
                         psd_buf_t *payload, psd_actions_t *out)
{
    if (self->n_log == self->log_capacity) {
        self->log_capacity = self->log_capacity ? 2 * self->log_capacity : 16;
        self->log = realloc(self->log, self->log_capacity * sizeof *self->log);
        assert(self->log && "no memory for the log");
    }
    entry_t *e = &self->log[self->n_log++];
    *e = (entry_t){ .seq = self->next_seq++, .kind = kind, .code = code, .payload = payload };
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (self->shard[s].joined) {
            send_entry(self, s, e, out);
            self->shard[s].sent_ms = now_ms;
        }
}

static void append_command(psd_coordinator_t *self, uint64_t now_ms, const psd_round_t *round, uint32_t code,
                           psd_actions_t *out)
{
    uint8_t *bytes = malloc(PSD_MAX_LIST);
    assert(bytes && "no memory for a decision");
    append_entry(self, now_ms, PSD_MSG_COMMAND, code, psd_payload_copy(bytes, psd_round_encode(round, bytes, PSD_MAX_LIST)), out);
    free(bytes);
}

/* Forget entries that every shard has done, and repeat the others to shards that have been silent about them. */
static void tend_log(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    uint64_t done = UINT64_MAX;
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (self->shard[s].log_done < done)
            done = self->shard[s].log_done;
    size_t n = 0;
    while (n < self->n_log && self->log[n].seq <= done)
        psd_buf_unref(&self->log[n++].payload);
    if (n) {
        memmove(self->log, self->log + n, (self->n_log - n) * sizeof *self->log);
        self->n_log -= n;
    }
    for (uint32_t s = 0; s < self->config.n_servers; s++) {
        if (!self->shard[s].joined || now_ms < self->shard[s].sent_ms + RESEND_MS)
            continue;
        self->shard[s].sent_ms = now_ms;
        for (size_t i = 0; i < self->n_log; i++)
            if (self->log[i].seq > self->shard[s].log_done)
                send_entry(self, s, &self->log[i], out);
    }
}

/* ---- rounds and views ---- */

static bool all_shards_joined(const psd_coordinator_t *self)
{
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (!self->shard[s].joined)
            return false;
    return true;
}

static uint64_t every_shard(const psd_coordinator_t *self)
{
    return self->config.n_servers == 64 ? UINT64_MAX : (UINT64_C(1) << self->config.n_servers) - 1;
}

static bool has_pushed(const psd_coordinator_t *self, const psd_worker_row_t *row)
{
    return row->complete == every_shard(self);
}

/* ---- checkpoints: ordered in the log like every decision, so that all shards save the same round ---- */

static bool save_is_due(const psd_coordinator_t *self, uint64_t now_ms, uint64_t clock)
{
    if (!self->config.checkpoints || self->saving || self->committing || self->started != every_shard(self))
        return false;
    if (self->n_points && self->point[0] == clock)
        return false; /* nothing has happened since */
    if (self->save_failing && now_ms < self->save_since_ms + SAVE_AGAIN_MS)
        return false;
    bool by_rounds = self->config.save_every_rounds && clock >= self->point_rounds + self->config.save_every_rounds;
    bool by_time = self->config.save_every_ms && now_ms >= self->save_since_ms + self->config.save_every_ms;
    return self->save_wanted || !self->n_points || by_rounds || by_time;
}

static void begin_save(psd_coordinator_t *self, uint64_t now_ms, uint64_t clock)
{
    self->saving = true;
    self->save_wanted = false;
    self->save_clock = clock;
    self->save_since_ms = now_ms;
    self->saved_by = 0;
    self->save_seq = self->next_seq - 1;
    self->point_rounds = clock;
}

static void save_has_failed(psd_coordinator_t *self, psd_actions_t *out, const char *where)
{
    self->saving = self->committing = false;
    self->save_failing = true;
    psd_actions_log(out, PSD_LEVEL_ERROR, "checkpoint.failed", "clock=%" PRIu64 " where=%s effect=\"the one before stays the newest\"",
                    self->save_clock, where);
}

static void note_saved(psd_coordinator_t *self, const psd_msg_t *msg, psd_actions_t *out)
{
    char where[32];
    uint64_t bit = UINT64_C(1) << msg->shard;
    snprintf(where, sizeof where, "shard %u", msg->shard);
    if (msg->code & PSD_SHARD_STARTED)
        self->started |= bit;
    if (!self->saving)
        return;
    if (msg->code & PSD_SHARD_SAVE_FAILED && msg->seq >= self->save_seq) {
        save_has_failed(self, out, where);
        return;
    }
    if (msg->saved == self->save_clock + 1)
        self->saved_by |= bit;
    if (self->saved_by != every_shard(self))
        return;
    self->saving = false;
    self->committing = true;
    psd_actions_checkpoint(out, PSD_ACT_COMMIT, self->save_clock, 0);
}

void psd_coordinator_committed(psd_coordinator_t *self, uint64_t now_ms, uint64_t clock, bool ok, psd_actions_t *out)
{
    if (!self->committing || clock != self->save_clock)
        return;
    if (!ok) {
        save_has_failed(self, out, "manifest");
        return;
    }
    self->committing = self->save_failing = false;
    self->save_ms = now_ms - self->save_since_ms;
    self->point_ms = now_ms;
    if (self->n_points == MAX_POINTS)
        self->n_points--;
    memmove(self->point + 1, self->point, self->n_points * sizeof *self->point);
    self->point[0] = clock;
    self->n_points++;
    psd_actions_log(out, PSD_LEVEL_INFO, "checkpoint.committed", "clock=%" PRIu64 " ms=%" PRIu64, clock, self->save_ms);
}

void psd_coordinator_request_save(psd_coordinator_t *self) { self->save_wanted = true; }

/* The job ends: finished, or stopped by an operator. First its last weights are saved. */
static void begin_end(psd_coordinator_t *self, uint64_t now_ms, bool stopped, psd_actions_t *out)
{
    if (self->ending || self->state == PSD_JOB_FINISHED)
        return;
    self->ending = true;
    self->stopped = stopped;
    self->end_since_ms = now_ms;
    self->save_wanted = self->config.checkpoints;
    psd_actions_log(out, PSD_LEVEL_DEBUG, "job.ending", "clock=%" PRIu64 " finished=%s", self->clock, stopped ? "false" : "true");
}

/* Let waiting workers in, number the new view, and write the decision into the log. */
static void decide(psd_coordinator_t *self, uint64_t now_ms, psd_round_t *round, psd_actions_t *out)
{
    psd_member_t *member = calloc(PSD_MAX_WORKERS, sizeof *member);
    assert(member && "no memory for a decision");
    round->member = member;
    round->view_id = ++self->view_id;
    round->lr = self->config.lr;
    round->clip_scale = 1;
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        row->complete = 0;
        row->nonfinite = false;
        if (row->state == PSD_WORKER_WAITING) {
            row->state = PSD_WORKER_LIVE;
            psd_actions_log(out, PSD_LEVEL_INFO, "worker.joined", "worker=%u name=%s incarnation=%" PRIu64 " view=%" PRIu64
                            " clock=%" PRIu64, row->id, row->name, row->incarnation, self->view_id, round->clock);
        }
        if (row->state == PSD_WORKER_LIVE)
            member[round->n_members++] = (psd_member_t){ .worker = row->id, .incarnation = row->incarnation,
                                                            .nonce = row->nonce };
    }
    bool save = save_is_due(self, now_ms, round->clock);
    append_command(self, now_ms, round, save ? PSD_COMMAND_SAVE : 0, out);
    if (save)
        begin_save(self, now_ms, round->clock);
    self->n_view = round->n_members;
    memcpy(self->view, member, round->n_members * sizeof *member);
    self->clock = round->clock;
    self->round_since_ms = now_ms;
    free(member);
}

/* Members change without a round being closed: at the start, and while too few are left to go on. */
static void change_view(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    decide(self, now_ms, &(psd_round_t){ .clock = self->clock }, out);
}

/* Close the open round with those whose pushes are complete on every shard: one decision for the whole model. */
static void close_round(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_member_t *contributor = calloc(PSD_MAX_WORKERS, sizeof *contributor);
    assert(contributor && "no memory for a decision");
    psd_round_t round = { .clock = self->clock + 1, .contributor = contributor };
    bool finite = true;
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        bool was_member = row->state >= PSD_WORKER_LIVE;
        if (!was_member || !has_pushed(self, row) || !row->samples)
            continue;
        contributor[round.n_contributors++] = (psd_member_t){ .worker = row->id, .incarnation = row->incarnation,
                                                              .samples = row->samples, .loss = row->loss };
        if (row->nonfinite) {
            finite = false;
            psd_actions_log(out, PSD_LEVEL_WARN, "gradient.nonfinite", "worker=%u clock=%" PRIu64
                            " effect=\"the round is skipped on every shard\"", row->id, round.clock);
        }
    }
    round.apply = finite && round.n_contributors > 0;
    self->skipped += !round.apply;
    if (!round.apply)
        round.n_contributors = 0;
    decide(self, now_ms, &round, out);
    free(contributor);
}

/* Workers whose work is done, whether or not they have left. */
static uint32_t count_finished(const psd_coordinator_t *self)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        const psd_worker_row_t *row = &self->members.row[i];
        n += row->state == PSD_WORKER_DONE || (row->state == PSD_WORKER_LEFT && row->finished);
    }
    return n;
}

static bool may_start(const psd_coordinator_t *self, uint64_t now_ms)
{
    uint32_t ready = psd_membership_count(&self->members, PSD_WORKER_WAITING) + count_finished(self);
    if (ready >= self->config.workers_want && ready >= self->config.workers_min)
        return true;
    return ready >= self->config.workers_min && now_ms >= self->first_ready_ms + self->config.start_timeout_ms;
}

/* The job is finished when nobody has anything more to do, and at least one worker has finished. */
static bool is_finished(const psd_coordinator_t *self)
{
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (psd_worker_is_here(&self->members.row[i]) && self->members.row[i].state != PSD_WORKER_DONE)
            return false;
    return count_finished(self) > 0;
}

/* Whether rounds may go on with so many members. Those who have left with their work done count: towards the end of a
 * job there are fewer workers, and nothing is wrong. */
static bool has_quorum(const psd_coordinator_t *self, uint32_t live)
{
    return live > 0 && live + count_finished(self) >= self->config.workers_min;
}

static void finish(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    self->state = PSD_JOB_FINISHED;
    self->finish_since_ms = now_ms;
    psd_round_t nothing = { .clock = self->clock, .view_id = self->view_id, .clip_scale = 1 };
    append_command(self, now_ms, &nothing, PSD_COMMAND_FINISH | (self->stopped ? PSD_COMMAND_STOP : 0), out);
}

/* Take the job up again from the newest checkpoint: every shard loads it, every worker joins anew. Weights that are
 * half a round further on one shard than on another are never mixed. */
static void new_run(psd_coordinator_t *self, const char *why, psd_actions_t *out)
{
    self->runs++;
    uint64_t seed = self->config.job_id;
    self->config.job_id = psd_splitmix64(&seed) | 1;
    for (size_t i = 0; i < self->n_log; i++)
        psd_buf_unref(&self->log[i].payload);
    self->n_log = 0;
    self->next_seq = FIRST_SEQ;
    for (uint32_t s = 0; s < self->config.n_servers; s++) {
        self->shard[s].joined = false;
        self->shard[s].log_done = 0;
    }
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        if (psd_worker_is_here(&self->members.row[i]))
            self->members.row[i].state = PSD_WORKER_LOST;
        self->members.row[i].finished = false; /* its last rounds are undone, and somebody must do them again */
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
    self->point_rounds = self->clock;
    psd_actions_log(out, PSD_LEVEL_WARN, "job.restart", "why=\"%s\" from_clock=%" PRIu64 " checkpoint=%s run=%" PRIu64, why, self->clock,
                    self->n_points ? "yes" : "none", self->runs);
}

/* Look at the whole and take the decision that is due, if one is. */
static void evaluate(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (self->state == PSD_JOB_FINISHED || self->ending)
        return;
    if (self->state == PSD_JOB_GATHERING) {
        if (!all_shards_joined(self) || !may_start(self, now_ms))
            return;
        self->state = PSD_JOB_TRAINING;
        change_view(self, now_ms, out);
        return;
    }
    if (is_finished(self)) {
        begin_end(self, now_ms, false, out);
        return;
    }
    uint32_t live = psd_membership_count(&self->members, PSD_WORKER_LIVE);
    uint32_t waiting = psd_membership_count(&self->members, PSD_WORKER_WAITING);
    bool enough = has_quorum(self, live);
    /* A round that waits for replacements is only gone on with when all of them are here: who enters computes its share of
     * the batch from the size of the view. */
    if (waiting && (self->config.mode->per_push || (!enough && has_quorum(self, live + waiting)))) {
        change_view(self, now_ms, out);
        live += waiting;
        enough = has_quorum(self, live);
    }
    psd_job_state_t state = enough ? PSD_JOB_TRAINING : PSD_JOB_DEGRADED;
    if (state != self->state)
        psd_actions_log(out, enough ? PSD_LEVEL_INFO : PSD_LEVEL_WARN, enough ? "job.training" : "job.degraded",
                        "members=%u min=%u", live, self->config.workers_min);
    self->state = state;
    if (self->config.mode->per_push || !enough)
        return;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (self->members.row[i].state == PSD_WORKER_LIVE && !has_pushed(self, &self->members.row[i]))
            return;
    /* Before the first step the initial weights must be safe: no worker has them any more after it. */
    if (self->config.checkpoints && !self->n_points)
        return;
    close_round(self, now_ms, out);
}

/* The first checkpoint, those that were asked for, and those of asynchronous jobs do not wait for a round to close; the
 * view stays as it is. */
static void save_between_rounds(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool begun = self->state == PSD_JOB_TRAINING || self->state == PSD_JOB_DEGRADED;
    bool now = self->save_wanted || self->config.mode->per_push || !self->n_points;
    if (!begun || !now || !save_is_due(self, now_ms, self->clock))
        return;
    psd_round_t same = { .clock = self->clock, .lr = self->config.lr, .clip_scale = 1, .view_id = self->view_id,
                         .n_members = self->n_view, .member = self->view };
    append_command(self, now_ms, &same, PSD_COMMAND_SAVE, out);
    begin_save(self, now_ms, self->clock);
}

void psd_coordinator_stop(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    begin_end(self, now_ms, true, out);
}

/* An end is reached when the last weights are safe, or when that takes too long. */
static void tend_end(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool can_save = self->config.checkpoints && self->started == every_shard(self);
    bool safe = self->n_points && self->point[0] == self->clock;
    bool busy = self->saving || self->committing || (can_save && !safe);
    self->save_wanted |= self->ending && can_save && !safe;
    bool too_long = now_ms > self->end_since_ms + END_MS;
    if (!self->ending || self->state == PSD_JOB_FINISHED || (busy && !too_long))
        return;
    finish(self, now_ms, out);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        if (row->state != PSD_WORKER_DONE)
            continue;
        row->state = PSD_WORKER_LEFT;
        row->finished = true;
        answer(self, row->peer, PSD_MSG_LEFT, row, NULL, out);
    }
}

static void give_up(psd_coordinator_t *self, uint64_t now_ms, psd_worker_row_t *row, const char *why,
                    psd_actions_t *out)
{
    bool was_member = row->state == PSD_WORKER_LIVE;
    if (row->state == PSD_WORKER_DONE) {
        row->state = PSD_WORKER_LEFT;
        row->finished = true;
        return;
    }
    psd_actions_log(out, PSD_LEVEL_WARN, "worker.lost", "worker=%u name=%s incarnation=%" PRIu64 " silent_ms=%" PRIu64
                    " clock=%" PRIu64 " why=\"%s\"", row->id, row->name, row->incarnation, now_ms - row->heard_ms,
                    row->clock, why);
    row->state = PSD_WORKER_LOST;
    if (was_member && self->config.mode->per_push)
        change_view(self, now_ms, out);
}

/* ---- workers ---- */

static psd_msg_t *answer(psd_coordinator_t *self, psd_peer_t to, psd_kind_t kind, const psd_worker_row_t *row,
                         psd_buf_t *payload, psd_actions_t *out)
{
    psd_msg_t *msg = psd_actions_send(out, to, kind, payload);
    msg->job = self->config.job_id;
    msg->view_id = self->view_id;
    msg->clock = self->clock;
    if (row) {
        msg->worker = row->id;
        msg->incarnation = row->incarnation;
        msg->seq = row->nonce;
    }
    return msg;
}

static void refuse(psd_coordinator_t *self, psd_peer_t to, uint64_t nonce, psd_refusal_t reason, psd_actions_t *out,
                   const char *format, ...) __attribute__((format(printf, 6, 7)));

static void refuse(psd_coordinator_t *self, psd_peer_t to, uint64_t nonce, psd_refusal_t reason, psd_actions_t *out,
                   const char *format, ...)
{
    psd_msg_t *msg = answer(self, to, PSD_MSG_REFUSED, NULL, NULL, out);
    self->report.rejected[reason]++;
    msg->seq = nonce;
    msg->code = reason;
    va_list args;
    va_start(args, format);
    vsnprintf(msg->text, sizeof msg->text, format, args);
    va_end(args);
    psd_actions_log(out, PSD_LEVEL_WARN, "peer.refused", "reason=%s text=\"%.300s\"", psd_refusal_name(reason),
                    out->at[out->n - 1].msg.text);
}

static void list_missing_shards(const psd_coordinator_t *self, char *text, size_t n)
{
    size_t at = 0;
    for (uint32_t s = 0; s < self->config.n_servers && at < n; s++)
        if (!self->shard[s].joined)
            at += (size_t)snprintf(text + at, n - at, "%s%u", at ? ", " : "", s);
}

static void welcome(psd_coordinator_t *self, const psd_worker_row_t *row, psd_actions_t *out)
{
    psd_cluster_t *cluster = calloc(1, sizeof *cluster);
    uint8_t *bytes = malloc(PSD_MAX_LIST);
    assert(cluster && bytes && "no memory for a welcome");
    cluster->n_servers = self->config.n_servers;
    cluster->per_push = self->config.mode->per_push;
    cluster->lease_ms = (uint32_t)self->config.lease_ms;
    cluster->has_slow = self->config.has_slow;
    snprintf(cluster->settings, sizeof cluster->settings, "%s", self->settings);
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        memcpy(cluster->endpoint[s], self->shard[s].endpoint, sizeof cluster->endpoint[s]);
    psd_buf_t *payload = psd_payload_copy(bytes, psd_cluster_encode(cluster, bytes, PSD_MAX_LIST));
    answer(self, row->peer, PSD_MSG_WELCOME, row, payload, out);
    psd_buf_unref(&payload);
    free(cluster);
    free(bytes);
}

/* Where a disturbed run must end with the bits of an undisturbed one, the number of workers is fixed, and who comes for a
 * lost one takes its id: the others have cut their shares of the batch already. */
static bool is_full(const psd_coordinator_t *self)
{
    uint32_t here = 0;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        here += psd_worker_is_here(&self->members.row[i]);
    bool fixed = self->config.checkpoints && !self->config.mode->per_push &&
                 self->config.workers_min == self->config.workers_want;
    return fixed && here >= self->config.workers_want;
}

/* The text of a HELLO is "job name-of-worker". */
static void on_hello(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                     psd_actions_t *out)
{
    size_t n = strcspn(msg->text, " ");
    if (n != strlen(self->job) || strncmp(msg->text, self->job, n)) {
        refuse(self, from, msg->seq, PSD_REFUSAL_JOB, out, "this is job %s, you are of job %.*s", self->job, (int)n,
               msg->text);
        return;
    }
    psd_worker_row_t *row = psd_membership_by_nonce(&self->members, msg->seq);
    if (!row && (self->state == PSD_JOB_FINISHED || self->ending)) {
        refuse(self, from, msg->seq, PSD_REFUSAL_JOB, out, "job %s is finished", self->job);
        return;
    }
    if (row && !psd_worker_is_here(row)) {
        answer(self, from, PSD_MSG_FENCED, row, NULL, out);
        return;
    }
    if (row) {
        row->peer = from;
        row->heard_ms = now_ms;
        welcome(self, row, out);
        return;
    }
    if (!all_shards_joined(self)) {
        psd_msg_t *wait = answer(self, from, PSD_MSG_WAIT, NULL, NULL, out);
        char missing[256] = "";
        list_missing_shards(self, missing, sizeof missing);
        wait->seq = msg->seq;
        snprintf(wait->text, sizeof wait->text, "waiting for servers: missing %s of %u", missing, self->config.n_servers);
        return;
    }
    if (is_full(self)) {
        psd_msg_t *wait = answer(self, from, PSD_MSG_WAIT, NULL, NULL, out);
        wait->seq = msg->seq;
        snprintf(wait->text, sizeof wait->text, "all %u places are taken; a worker that is lost frees its own",
                 self->config.workers_want);
        return;
    }
    row = psd_membership_admit(&self->members, msg->code);
    if (!row) {
        psd_msg_t *wait = answer(self, from, PSD_MSG_WAIT, NULL, NULL, out);
        wait->seq = msg->seq;
        if (msg->code && msg->code <= PSD_MAX_WORKERS)
            snprintf(wait->text, sizeof wait->text, "worker %u is %s, last heard %" PRIu64 " ms ago; you are %s",
                     msg->code - 1, self->members.row[msg->code - 1].name,
                     now_ms - self->members.row[msg->code - 1].heard_ms, msg->text + n + (msg->text[n] == ' '));
        else
            snprintf(wait->text, sizeof wait->text, "all %u worker ids are in use", PSD_MAX_WORKERS);
        return;
    }
    uint64_t incarnation = row->incarnation + 1;
    uint32_t id = row->id;
    *row = (psd_worker_row_t){ .id = id, .state = PSD_WORKER_JOINING, .incarnation = incarnation, .peer = from,
                               .nonce = msg->seq, .heard_ms = now_ms };
    snprintf(row->name, sizeof row->name, "%s", msg->text + n + (msg->text[n] == ' '));
    psd_actions_log(out, PSD_LEVEL_DEBUG, "worker.hello", "worker=%u name=%s incarnation=%" PRIu64, id, row->name,
                    incarnation);
    welcome(self, row, out);
}

static void on_register(psd_coordinator_t *self, uint64_t now_ms, psd_worker_row_t *row, psd_buf_t *payload,
                        psd_actions_t *out)
{
    psd_tensor_list_t theirs;
    psd_err_t err = { 0 };
    int rc = psd_tensors_decode(&theirs, payload->data, payload->n_bytes, &err);
    if (rc == PSD_OK && !self->model.n) {
        rc = psd_tensors_copy(&self->model, &theirs);
        assert(rc == PSD_OK && "no memory for the model's list of tensors");
        append_entry(self, now_ms, PSD_MSG_MODEL, 0, psd_payload_copy(payload->data, payload->n_bytes), out);
    } else if (rc == PSD_OK) {
        rc = psd_tensors_compare(&self->model, &theirs, &err);
    }
    psd_tensors_clear(&theirs);
    if (rc != PSD_OK) {
        refuse(self, row->peer, row->nonce, PSD_REFUSAL_SHAPE, out, "worker %u registers another model: %s", row->id,
               err.text);
        row->state = PSD_WORKER_LEFT;
        return;
    }
    answer(self, row->peer, PSD_MSG_REGISTERED, row, NULL, out);
    if (row->state != PSD_WORKER_JOINING)
        return;
    row->state = PSD_WORKER_WAITING;
    if (!self->first_ready_ms)
        self->first_ready_ms = now_ms;
    evaluate(self, now_ms, out);
}

/* A worker whose work is done may be needed again, when a server is lost before the last weights are safe: where that can
 * be made good, its good-bye is answered when they are. */
static void on_leave(psd_coordinator_t *self, uint64_t now_ms, psd_worker_row_t *row, const psd_msg_t *msg,
                     psd_actions_t *out)
{
    bool finished = msg->code == 0;
    bool stays = finished && self->config.checkpoints && !self->config.mode->per_push;
    if (row->state == PSD_WORKER_DONE)
        return;
    if (row->state == PSD_WORKER_LEFT || !stays)
        answer(self, row->peer, PSD_MSG_LEFT, row, NULL, out);
    if (row->state == PSD_WORKER_LEFT)
        return;
    bool was_member = row->state == PSD_WORKER_LIVE;
    row->state = stays && row->state != PSD_WORKER_LOST ? PSD_WORKER_DONE : PSD_WORKER_LEFT;
    row->finished = finished;
    if (stays && row->state == PSD_WORKER_LEFT)
        answer(self, row->peer, PSD_MSG_LEFT, row, NULL, out);
    psd_actions_log(out, PSD_LEVEL_INFO, "worker.left", "worker=%u name=%s finished=%s clock=%" PRIu64, row->id,
                    row->name, finished ? "true" : "false", msg->clock);
    if (was_member && self->config.mode->per_push)
        change_view(self, now_ms, out);
    evaluate(self, now_ms, out);
}

/* A live change of the learning rate: it goes into the log with the next decision, so that every shard makes the same
 * step with it. */
static void on_setting(psd_coordinator_t *self, uint64_t now_ms, psd_worker_row_t *row, const psd_msg_t *msg,
                       psd_actions_t *out)
{
    if (strcmp(msg->text, "optimizer.lr") || msg->value < 0 || msg->value > MAX_LR) {
        refuse(self, row->peer, msg->seq, PSD_REFUSAL_CONFIG, out, "setting \"%.60s\" to %g: only optimizer.lr can be set, to 0..%g",
               msg->text, msg->value, (double)MAX_LR);
        return;
    }
    bool news = self->config.lr != msg->value;
    if (news)
        psd_actions_log(out, PSD_LEVEL_INFO, "optimizer.lr", "worker=%u lr=%g was=%g after_clock=%" PRIu64, row->id, msg->value,
                        self->config.lr, self->clock);
    self->config.lr = msg->value;
    if (news && self->config.mode->per_push)
        change_view(self, now_ms, out);
    psd_msg_t *done = answer(self, row->peer, PSD_MSG_SETTING, row, NULL, out);
    done->code = msg->code;
    done->value = msg->value;
    snprintf(done->text, sizeof done->text, "%s", msg->text);
}

static void on_worker_message(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                              psd_buf_t *payload, psd_actions_t *out)
{
    if (msg->kind == PSD_MSG_HELLO) {
        on_hello(self, now_ms, from, msg, out);
        return;
    }
    if (msg->job != self->config.job_id) {
        refuse(self, from, 0, PSD_REFUSAL_RUN, out, "this is job run %016" PRIx64 ", you are of %016" PRIx64,
               self->config.job_id, msg->job);
        return;
    }
    psd_worker_row_t *row = &self->members.row[msg->worker];
    /* A good-bye is heard twice, and even from a worker that was given up wrongly: its work is done all the same. */
    bool goes = (row->state == PSD_WORKER_LEFT || row->state == PSD_WORKER_LOST) && msg->kind == PSD_MSG_LEAVE;
    if (msg->incarnation != row->incarnation || msg->seq != row->nonce || !(psd_worker_is_here(row) || goes)) {
        self->report.rejected[PSD_REFUSAL_INCARNATION]++;
        psd_msg_t *fenced = answer(self, from, PSD_MSG_FENCED, NULL, NULL, out);
        fenced->worker = msg->worker;
        fenced->incarnation = row->incarnation;
        snprintf(fenced->text, sizeof fenced->text, "worker %u incarnation %" PRIu64 " is %s; the newest is %" PRIu64,
                 msg->worker, msg->incarnation, psd_worker_state_name(row->state), row->incarnation);
        return;
    }
    row->peer = from; /* a connection that was lost and made again has another name */
    row->heard_ms = now_ms;
    if (msg->clock > row->clock)
        row->clock = msg->clock;
    switch (msg->kind) {
    case PSD_MSG_HEARTBEAT: answer(self, from, PSD_MSG_HEARTBEAT, row, NULL, out); break;
    case PSD_MSG_REGISTER: on_register(self, now_ms, row, payload, out); break;
    case PSD_MSG_LEAVE: on_leave(self, now_ms, row, msg, out); break;
    case PSD_MSG_SETTING: on_setting(self, now_ms, row, msg, out); break;
    case PSD_MSG_REPORT:
        snprintf(self->report.report_name, sizeof self->report.report_name, "%.63s", msg->text);
        self->report.report_value = msg->value;
        self->report.has_report = true;
        break;
    default: break; /* the codec's table lets no other kind through to here */
    }
}

/* ---- shards ---- */

/* The row of a server that has joined under this index before, under another start of its process. */
static shard_row_t *shard_started_again(psd_coordinator_t *self, const psd_msg_t *msg)
{
    shard_row_t *row = msg->code && msg->code <= self->config.n_servers ? &self->shard[msg->code - 1] : NULL;
    return row && row->joined && row->nonce != msg->seq ? row : NULL;
}

/* Numbers of one process differ in their lower 16 bits and rise: a hello that was overtaken by a later one. */
static bool is_older(uint64_t nonce, uint64_t than) { return nonce >> 16 == than >> 16 && nonce < than; }

static shard_row_t *shard_for_hello(psd_coordinator_t *self, const psd_msg_t *msg)
{
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (self->shard[s].joined && self->shard[s].nonce == msg->seq)
            return &self->shard[s];
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (!self->shard[s].joined && (!msg->code || msg->code == s + 1))
            return &self->shard[s];
    return NULL;
}

/* The text of a SHARD_HELLO is "endpoint settings". */
static void on_shard_hello(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                           psd_actions_t *out)
{
    size_t n = strcspn(msg->text, " ");
    const char *theirs = msg->text + n + (msg->text[n] == ' ');
    char why[64];
    if (strcmp(theirs, self->settings)) {
        refuse(self, from, msg->seq, PSD_REFUSAL_CONFIG, out, "server %.*s has other settings: ours %.400s, theirs %.400s",
               (int)n, msg->text, self->settings, theirs);
        return;
    }
    shard_row_t *old = shard_started_again(self, msg);
    if (old && is_older(msg->seq, old->nonce))
        return;
    if (old && self->state == PSD_JOB_FINISHED) {
        psd_msg_t *over = psd_actions_send(out, from, PSD_MSG_SHARD_WELCOME, NULL);
        over->seq = msg->seq;
        over->code = PSD_WELCOME_FINISHED;
        old->log_done = self->next_seq - 1;
        return;
    }
    if (old && self->state == PSD_JOB_GATHERING) {
        old->joined = false; /* nothing has been built on it yet */
    } else if (old) {
        bool same_place = n < sizeof old->endpoint && !strncmp(old->endpoint, msg->text, n) && !old->endpoint[n];
        if (!same_place && now_ms < old->heard_ms + SERVER_LEASE_MS) {
            psd_msg_t *wait = answer(self, from, PSD_MSG_WAIT, NULL, NULL, out);
            wait->seq = msg->seq;
            snprintf(wait->text, sizeof wait->text, "server %u at %s was here %" PRIu64 " ms ago", msg->code - 1, old->endpoint,
                     now_ms - old->heard_ms);
            return;
        }
        snprintf(why, sizeof why, "server %u was started again", msg->code - 1);
        new_run(self, why, out);
    }
    shard_row_t *row = shard_for_hello(self, msg);
    if (!row || n >= sizeof row->endpoint) {
        refuse(self, from, msg->seq, PSD_REFUSAL_SHARD, out, "server %.*s is one too many: the job has %u, %s", (int)n,
               msg->text, self->config.n_servers, msg->code ? "and that index is taken" : "all joined");
        return;
    }
    uint32_t s = (uint32_t)(row - self->shard);
    if (!row->joined)
        psd_actions_log(out, PSD_LEVEL_INFO, "server.joined", "shard=%u endpoint=%.*s", s, (int)n, msg->text);
    row->joined = true;
    row->peer = from;
    row->nonce = msg->seq;
    row->epoch = self->runs;
    row->sent_ms = row->heard_ms = now_ms;
    memcpy(row->endpoint, msg->text, n);
    row->endpoint[n] = '\0';
    psd_msg_t *yes = psd_actions_send(out, from, PSD_MSG_SHARD_WELCOME, NULL);
    yes->job = self->config.job_id;
    yes->seq = msg->seq;
    yes->shard = s;
    yes->shard_epoch = row->epoch;
    yes->world = self->config.n_servers;
    yes->code = self->n_points > 0 ? PSD_WELCOME_RESTORE : 0;
    yes->clock = self->n_points ? self->point[0] : 0;
    evaluate(self, now_ms, out);
}

/* A shard cannot load the newest checkpoint: all go back to the one before. */
static void drop_point(psd_coordinator_t *self, uint32_t shard, psd_actions_t *out)
{
    char why[96];
    snprintf(why, sizeof why, "shard %u cannot load the checkpoint of clock %" PRIu64, shard, self->point[0]);
    memmove(self->point, self->point + 1, --self->n_points * sizeof *self->point);
    if (self->n_points)
        new_run(self, why, out);
    else
        psd_actions_finish(out, PSD_EDATA, why);
}

static void on_shard_state(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                           psd_buf_t *payload, psd_actions_t *out)
{
    shard_row_t *shard = &self->shard[msg->shard];
    psd_round_t state;
    if (msg->job != self->config.job_id) {
        psd_msg_t *other = answer(self, from, PSD_MSG_REFUSED, NULL, NULL, out);
        other->code = PSD_REFUSAL_RUN;
        snprintf(other->text, sizeof other->text, "this is job run %016" PRIx64 ", you are of %016" PRIx64, self->config.job_id, msg->job);
        return;
    }
    if (msg->shard >= self->config.n_servers || !shard->joined ||
        shard->peer != from || psd_round_decode(&state, payload->data, payload->n_bytes, NULL) != PSD_OK) {
        self->report.rejected[PSD_REFUSAL_SESSION]++;
        return;
    }
    if (msg->seq > shard->log_done)
        shard->log_done = msg->seq;
    shard->clock = msg->clock;
    shard->heard_ms = now_ms;
    if (msg->code & PSD_SHARD_RESTORE_FAILED && self->n_points) {
        psd_round_clear(&state);
        drop_point(self, msg->shard, out);
        return;
    }
    note_saved(self, msg, out);
    /* A report from before the newest decision says nothing about now: its shard may have dropped those pushes. */
    bool news = state.n_contributors && state.clock == self->clock + 1 && msg->view_id == self->view_id;
    for (uint32_t k = 0; news && k < state.n_contributors; k++) {
        const psd_member_t *c = &state.contributor[k];
        psd_worker_row_t *row = &self->members.row[c->worker];
        if (row->incarnation != c->incarnation)
            continue;
        row->complete |= UINT64_C(1) << msg->shard;
        row->samples = c->samples;
        row->loss = c->loss;
        row->nonfinite |= c->nonfinite;
    }
    psd_round_clear(&state);
    if (news)
        evaluate(self, now_ms, out);
}

void psd_coordinator_message(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                             psd_buf_t *payload, psd_actions_t *out)
{
    if (msg->kind == PSD_MSG_SHARD_HELLO)
        on_shard_hello(self, now_ms, from, msg, out);
    else if (msg->kind == PSD_MSG_SHARD_STATE)
        on_shard_state(self, now_ms, from, msg, payload, out);
    else
        on_worker_message(self, now_ms, from, msg, payload, out);
}

/* ---- time ---- */

static size_t list_workers(const psd_coordinator_t *self, char *text, size_t n)
{
    size_t at = 0;
    for (uint32_t i = 0; i < self->members.n_rows && at + 8 < n; i++)
        if (self->members.row[i].state == PSD_WORKER_LIVE && !has_pushed(self, &self->members.row[i]))
            at += (size_t)snprintf(text + at, n - at, "%s%u", at ? ", " : "", i);
    return at;
}

static void describe_wait(const psd_coordinator_t *self, char *text, size_t n)
{
    char list[512] = "";
    text[0] = '\0';
    if (self->state == PSD_JOB_FINISHED)
        return;
    if (!all_shards_joined(self)) {
        list_missing_shards(self, list, sizeof list);
        snprintf(text, n, "servers %s of %u", list, self->config.n_servers);
    } else if (self->state == PSD_JOB_GATHERING) {
        snprintf(text, n, "workers: %u of %u have registered, %u have said hello",
                 psd_membership_count(&self->members, PSD_WORKER_WAITING), self->config.workers_want,
                 psd_membership_count(&self->members, PSD_WORKER_JOINING));
    } else if (self->state == PSD_JOB_DEGRADED) {
        snprintf(text, n, "more workers: %u are here, workers.min is %u",
                 psd_membership_count(&self->members, PSD_WORKER_LIVE), self->config.workers_min);
    } else if (!self->config.mode->per_push && list_workers(self, list, sizeof list)) {
        snprintf(text, n, "pushes of workers %s (round %" PRIu64 ")", list, self->clock + 1);
    }
}

static void check_leases(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool late_round = self->config.round_timeout_ms && !self->config.mode->per_push &&
                      self->state == PSD_JOB_TRAINING &&
                      now_ms > self->round_since_ms + self->config.round_timeout_ms;
    bool somebody_pushed = false;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        somebody_pushed |= self->members.row[i].state == PSD_WORKER_LIVE && has_pushed(self, &self->members.row[i]);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        if (psd_worker_is_here(row) && now_ms > row->heard_ms + self->config.lease_ms)
            give_up(self, now_ms, row, "lease", out);
        else if (late_round && somebody_pushed && row->state == PSD_WORKER_LIVE && !has_pushed(self, row))
            give_up(self, now_ms, row, "round timeout", out);
    }
}

static bool every_shard_is_done(const psd_coordinator_t *self)
{
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (self->shard[s].log_done + 1 < self->next_seq)
            return false;
    return true;
}

void psd_coordinator_tick(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    tend_log(self, now_ms, out);
    check_leases(self, now_ms, out);
    evaluate(self, now_ms, out);
    save_between_rounds(self, now_ms, out);
    tend_end(self, now_ms, out);
    if (self->state == PSD_JOB_FINISHED) {
        if (!self->finished_told && (every_shard_is_done(self) || now_ms > self->finish_since_ms + FINISH_MS)) {
            self->finished_told = true;
            if (self->stopped)
                psd_actions_finish(out, PSD_ESTOPPED, "stopped before the job was finished");
            else
                psd_actions_finish(out, PSD_OK, "every worker has finished");
        }
        return;
    }
    if (self->line_ms && now_ms < self->line_ms + WAITING_LINE_MS)
        return;
    bool old_round = now_ms > self->round_since_ms + WAITING_LINE_MS;
    char text[PSD_MAX_TEXT / 2];
    describe_wait(self, text, sizeof text);
    if (text[0] && self->line_ms && (self->state != PSD_JOB_TRAINING || old_round))
        psd_actions_log(out, PSD_LEVEL_INFO, "job.waiting", "for=\"%s\"", text);
    self->line_ms = now_ms;
}

/* ---- facts ---- */

void psd_coordinator_facts(const psd_coordinator_t *self, psd_coordinator_facts_t *out)
{
    *out = self->report;
    out->state = self->state;
    out->view_id = self->view_id;
    out->clock = self->clock;
    out->skipped = self->skipped;
    out->lr = self->config.lr;
    out->runs = self->runs;
    out->has_point = self->n_points > 0;
    out->point_clock = self->n_points ? self->point[0] : 0;
    out->point_ms = self->point_ms;
    out->save_ms = self->save_ms;
    out->saving = self->saving || self->committing;
    out->save_failing = self->save_failing;
    out->n_members = psd_membership_count(&self->members, PSD_WORKER_LIVE);
    out->n_shards = 0;
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        out->n_shards += self->shard[s].joined;
    describe_wait(self, out->waiting_for, sizeof out->waiting_for);
}

const char *psd_job_state_name(psd_job_state_t state)
{
    static const char *const words[] = {
#define X(name, word) [PSD_JOB_##name] = word,
        PSD_JOB_STATES(X)
#undef X
    };
    return (size_t)state < sizeof words / sizeof *words ? words[state] : "unknown";
}

const psd_membership_t *psd_coordinator_members(const psd_coordinator_t *self) { return &self->members; }
