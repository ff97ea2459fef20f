#include "server/core/coordinator_state.h"

enum { WAITING_LINE_MS = 5000, FINISH_MS = 4000 };

psd_coordinator_t *psd_coordinator_new(const psd_coordinator_config_t *config, psd_err_t *err)
{
    psd_coordinator_t *self = calloc(1, sizeof *self);
    if (self) {
        self->config = *config;
        self->job = strdup(config->job);
        self->settings = strdup(config->settings);
        psd_servers_init(&self->servers, config->n_servers, config->lease_ms);
        psd_journal_init(&self->journal, config->n_servers);
        self->runs = 1;
        psd_saves_init(&self->saves,
                       &(psd_saves_config_t){ .possible = config->checkpoints,
                                              .n_servers = config->n_servers,
                                              .mode = config->mode,
                                              .every_rounds = config->save_every_rounds,
                                              .every_ms = config->save_every_ms },
                       config->points, config->n_points);
        self->clock = psd_saves_newest(&self->saves);
        psd_coord_begin_progress(self);
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
    psd_journal_clear(&self->journal);
    psd_tensors_clear(&self->model);
    free(self->job);
    free(self->settings);
    free(self);
}

/* ---- the log ---- */

static void send_entry(psd_coordinator_t *self, uint32_t s, const psd_entry_t *e, psd_actions_t *out)
{
    psd_msg_t *msg = psd_actions_send(out, self->servers.row[s].peer, e->kind, e->payload);
    msg->job = self->config.job_id;
    msg->shard = s;
    msg->shard_epoch = self->servers.row[s].epoch;
    msg->seq = e->seq;
    msg->code = e->code;
    msg->view_id = self->view_id;
    if (e->kind == PSD_MSG_COMMAND && e->code & PSD_COMMAND_FINISH)
        snprintf(msg->text, sizeof msg->text, "%s", self->end_text);
}

void psd_coord_append_entry(psd_coordinator_t *self, uint64_t now_ms, psd_kind_t kind, uint32_t code, psd_buf_t *payload,
                            psd_actions_t *out)
{
    const psd_entry_t *e = psd_journal_append(&self->journal, kind, code, payload);
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (self->servers.row[s].joined) {
            send_entry(self, s, e, out);
            psd_journal_note_sent(&self->journal, s, now_ms);
        }
}

/* Where no decision closes a push, the shards are told when pushes have to wait. */
static bool holds_pushes(const psd_coordinator_t *self)
{
    return self->paused || self->ending || !psd_saves_is_safe(&self->saves) ||
           !psd_coord_has_quorum(self, psd_membership_count(&self->members, PSD_WORKER_LIVE));
}

void psd_coord_tend_pushes(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const bool begun = self->state != PSD_JOB_GATHERING && self->state != PSD_JOB_FINISHED;
    if (begun && self->holds != holds_pushes(self))
        psd_coord_view_changed(self, now_ms, out);
}

void psd_coord_append_command(psd_coordinator_t *self, uint64_t now_ms, const psd_round_t *round, uint32_t code, psd_actions_t *out)
{
    uint8_t *bytes = malloc(PSD_MAX_LIST);
    assert(bytes && "no memory for a decision");
    self->holds = holds_pushes(self);
    if (self->holds)
        code |= PSD_COMMAND_HOLD;
    psd_coord_append_entry(self, now_ms, PSD_MSG_COMMAND, code,
                           psd_payload_copy(bytes, psd_round_encode(round, bytes, PSD_MAX_LIST)), out);
    free(bytes);
}

/* Forget what every shard has done, and repeat the rest to shards that have been silent about it. */
static void tend_log(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_journal_forget(&self->journal);
    for (uint32_t s = 0; s < self->config.n_servers; s++) {
        const psd_entry_t *entry;
        const size_t n = self->servers.row[s].joined ? psd_journal_repeat(&self->journal, s, now_ms, &entry) : 0;
        for (size_t i = 0; i < n; i++)
            send_entry(self, s, &entry[i], out);
    }
}

/* ---- rounds and views ---- */

bool psd_coord_has_pushed(const psd_coordinator_t *self, const psd_worker_row_t *row)
{
    return row->complete == psd_servers_mask(&self->servers);
}

/* Let waiting workers in, number the new view, and write the decision into the log. */
static void decide(psd_coordinator_t *self, uint64_t now_ms, psd_round_t *round, uint32_t code, psd_actions_t *out)
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
            row->served = true;
            psd_actions_log(out, PSD_LEVEL_INFO, "worker.joined",
                            "worker=%u name=%s incarnation=%" PRIu64 " view=%" PRIu64 " clock=%" PRIu64, row->id, row->name,
                            row->incarnation, self->view_id, round->clock);
        }
        if (row->state == PSD_WORKER_LIVE)
            member[round->n_members++] = (psd_member_t){ .worker = row->id, .incarnation = row->incarnation, .nonce = row->nonce };
    }
    psd_progress_t p = psd_coord_look(self, round->clock);
    const bool save = psd_saves_is_due(&self->saves, now_ms, &p, self->ending);
    if (save)
        p.clock = round->clock = self->config.mode->save_clock(&p);
    psd_coord_append_command(self, now_ms, round, code | (save ? PSD_COMMAND_SAVE : 0), out);
    if (save)
        psd_saves_begin(&self->saves, now_ms, &p, psd_journal_last(&self->journal));
    self->n_view = round->n_members;
    memcpy(self->view, member, round->n_members * sizeof *member);
    self->clock = round->clock;
    self->round_since_ms = now_ms;
    free(member);
}

/* Members change without a round being closed: at the start, and while too few are left to go on. */
void psd_coord_change_view(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    decide(self, now_ms, &(psd_round_t){ .clock = self->clock }, 0, out);
}

void psd_coord_view_changed(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const psd_progress_t p = psd_coord_look(self, self->clock);
    if (self->config.mode->may_change_view(&p))
        psd_coord_change_view(self, now_ms, out);
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
        if (!was_member || !psd_coord_has_pushed(self, row) || !row->samples)
            continue;
        contributor[round.n_contributors++] =
            (psd_member_t){ .worker = row->id, .incarnation = row->incarnation, .samples = row->samples, .loss = row->loss };
        if (row->nonfinite) {
            finite = false;
            psd_actions_log(out, PSD_LEVEL_WARN, "gradient.nonfinite",
                            "worker=%u clock=%" PRIu64 " effect=\"the round is skipped on every shard\"", row->id, round.clock);
        }
    }
    round.apply = finite && round.n_contributors > 0;
    self->skipped += !round.apply;
    if (!round.apply)
        round.n_contributors = 0;
    decide(self, now_ms, &round, PSD_COMMAND_CLOSE, out);
    free(contributor);
}

/* Where a disturbed run must end with the bits of an undisturbed one, the number of workers is fixed, and who
 * comes for a lost one takes its id: the others have cut their shares of the batch already. */
bool psd_coord_is_fixed(const psd_coordinator_t *self)
{
    return self->config.checkpoints && psd_mode_has_rounds(self->config.mode) &&
           self->config.workers_min == self->config.workers_want;
}

/* Workers whose work is done, whether or not they have left. */
uint32_t psd_coord_count_finished(const psd_coordinator_t *self)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        const psd_worker_row_t *row = &self->members.row[i];
        n += row->state == PSD_WORKER_DONE || (row->state == PSD_WORKER_LEFT && row->finished);
    }
    return n;
}

/* workers.want are waited for as long as they keep coming, for half of start_timeout_ms at most: a worker that waits so long
 * itself has to see the start. */
static bool may_start(const psd_coordinator_t *self, uint64_t now_ms)
{
    const uint64_t half_ms = self->config.start_timeout_ms / 2;
    const uint64_t pause_ms = half_ms && half_ms < PSD_WANT_MS ? half_ms : PSD_WANT_MS;
    uint32_t ready = psd_membership_count(&self->members, PSD_WORKER_WAITING) + psd_coord_count_finished(self);
    if (ready >= self->config.workers_want && ready >= self->config.workers_min)
        return true;
    return ready >= self->config.workers_min &&
           (now_ms >= self->newest_ready_ms + pause_ms || (half_ms && now_ms >= self->first_ready_ms + half_ms));
}

/* The job is finished when nobody who is here has anything more to do, and as many have finished as are due: a worker that was
 * lost is waited for as in any other round when it is one of these. It may have been the one to save the weights. */
static bool is_finished(const psd_coordinator_t *self)
{
    const uint32_t done = psd_coord_count_finished(self);
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (psd_worker_is_here(&self->members.row[i]) && self->members.row[i].state != PSD_WORKER_DONE)
            return false;
    return done && done >= psd_coord_workers_due(self);
}

/* Whether rounds may go on with so many members. Those who have left with their work done count: towards the
 * end of a job there are fewer workers, and nothing is wrong. */
bool psd_coord_has_quorum(const psd_coordinator_t *self, uint32_t live)
{
    return live > 0 && live + psd_coord_count_finished(self) >= self->config.workers_min;
}

static void enter(psd_coordinator_t *self, psd_job_state_t state, uint32_t live, psd_actions_t *out)
{
    if (state == self->state)
        return;
    psd_actions_log(out, state == PSD_JOB_DEGRADED ? PSD_LEVEL_WARN : PSD_LEVEL_INFO,
                    state == PSD_JOB_DEGRADED ? "job.degraded"
                    : state == PSD_JOB_PAUSED ? "job.paused"
                                              : "job.training",
                    "members=%u min=%u", live, self->config.workers_min);
    self->state = state;
}

/* Look at the whole and take the decision that is due, if one is. */
void psd_coord_evaluate(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (self->state == PSD_JOB_FINISHED || self->ending)
        return;
    if (self->state == PSD_JOB_GATHERING) {
        if (!psd_servers_all_joined(&self->servers) || !may_start(self, now_ms))
            return;
        self->state = PSD_JOB_TRAINING;
        psd_coord_change_view(self, now_ms, out);
        return;
    }
    if (is_finished(self)) {
        psd_coord_begin_end(self, now_ms, false, out);
        return;
    }
    uint32_t live = psd_membership_count(&self->members, PSD_WORKER_LIVE);
    uint32_t waiting = psd_membership_count(&self->members, PSD_WORKER_WAITING);
    bool enough = psd_coord_has_quorum(self, live);
    /* A round that waits for replacements is only gone on with when all of them are here: who enters computes
     * its share of the batch from the size of the view. */
    const psd_mode_t *mode = self->config.mode;
    psd_progress_t p = psd_coord_look(self, self->clock);
    if (waiting && (mode->may_change_view(&p) || (!enough && psd_coord_has_quorum(self, live + waiting)))) {
        psd_coord_change_view(self, now_ms, out);
        live += waiting;
        enough = psd_coord_has_quorum(self, live);
    }
    enter(self, self->paused ? PSD_JOB_PAUSED : enough ? PSD_JOB_TRAINING : PSD_JOB_DEGRADED, live, out);
    psd_coord_tend_pushes(self, now_ms, out);
    if (!psd_mode_has_rounds(mode) || self->state != PSD_JOB_TRAINING || !psd_saves_is_safe(&self->saves))
        return;
    p = psd_coord_look(self, self->clock);
    if (mode->closes(&p))
        close_round(self, now_ms, out);
}

static void give_up(psd_coordinator_t *self, uint64_t now_ms, psd_worker_row_t *row, const char *why, psd_actions_t *out)
{
    bool was_member = row->state == PSD_WORKER_LIVE;
    if (row->state == PSD_WORKER_DONE) {
        row->state = PSD_WORKER_LEFT;
        row->finished = true;
        return;
    }
    psd_actions_log(out, PSD_LEVEL_WARN, "worker.lost",
                    "worker=%u name=%s incarnation=%" PRIu64 " silent_ms=%" PRIu64 " clock=%" PRIu64 " why=\"%s\"", row->id,
                    row->name, row->incarnation, now_ms - row->heard_ms, row->clock, why);
    row->state = PSD_WORKER_LOST;
    self->report.workers_lost++;
    if (was_member)
        psd_coord_view_changed(self, now_ms, out);
}

/* This process was away: the silence of others meanwhile does not count. After a long absence, in which connections may have
 * broken, every lease begins anew. */
static void excuse_absence(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const uint64_t away_ms = psd_absence(&self->seen_ms, now_ms);
    const bool long_away = away_ms > self->config.lease_ms / 2;
    const uint64_t by_ms = long_away ? now_ms : away_ms;
    if (!away_ms)
        return;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        self->members.row[i].heard_ms = psd_absence_excuse(self->members.row[i].heard_ms, by_ms, now_ms);
    psd_servers_excuse(&self->servers, by_ms, now_ms);
    uint64_t *const since[] = { &self->round_since_ms, &self->first_ready_ms, &self->finish_since_ms, &self->end_since_ms,
                                &self->absent.since_ms };
    for (size_t i = 0; i < sizeof since / sizeof *since; i++)
        if (*since[i])
            *since[i] = psd_absence_excuse(*since[i], away_ms, now_ms);
    if (long_away)
        psd_actions_log(out, PSD_LEVEL_WARN, "server.away",
                        "ms=%" PRIu64 " effect=\"this process got no time; all leases begin anew\"", away_ms);
}

void psd_coordinator_heard(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg)
{
    psd_worker_row_t *row = &self->members.row[msg->worker];
    if (msg->job == self->config.job_id && msg->incarnation == row->incarnation && row->user == psd_peer_user(from) &&
        psd_worker_is_here(row))
        row->heard_ms = now_ms;
}

void psd_coordinator_message(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                             psd_actions_t *out)
{
    excuse_absence(self, now_ms, out);
    if (self->last_words.code && msg->kind != PSD_MSG_ADMIN)
        psd_coord_answer_failing(self, from, msg, out);
    else if (msg->kind == PSD_MSG_ADMIN)
        psd_coord_on_admin(self, now_ms, from, msg, out);
    else if (msg->kind == PSD_MSG_SHARD_HELLO)
        psd_coord_on_shard_hello(self, now_ms, from, msg, out);
    else if (msg->kind == PSD_MSG_SHARD_STATE)
        psd_coord_on_shard_state(self, now_ms, from, msg, payload, out);
    else
        psd_coord_on_worker_message(self, now_ms, from, msg, payload, out);
}

/* ---- time ---- */

static size_t list_workers(const psd_coordinator_t *self, char *text, size_t n)
{
    size_t at = 0;
    for (uint32_t i = 0; i < self->members.n_rows && at + 8 < n; i++)
        if (self->members.row[i].state == PSD_WORKER_LIVE && !psd_coord_has_pushed(self, &self->members.row[i]))
            at += (size_t)snprintf(text + at, n - at, "%s%u", at ? ", " : "", i);
    return at;
}

void psd_coord_describe_wait(const psd_coordinator_t *self, char *text, size_t n)
{
    char list[512] = "";
    text[0] = '\0';
    if (self->state == PSD_JOB_FINISHED)
        return;
    if (!self->ending &&
        (self->state == PSD_JOB_DEGRADED || psd_servers_count_lost(&self->servers) || psd_coord_lacks_first_point(self))) {
        psd_coord_describe_absent(self, text, n);
    } else if (!psd_servers_all_joined(&self->servers)) {
        psd_servers_list_missing(&self->servers, list, sizeof list);
        snprintf(text, n, "servers %s of %u", list, self->config.n_servers);
    } else if (self->ending) {
        snprintf(text, n, "the last checkpoint (number %" PRIu64 ")", self->clock);
    } else if (self->state == PSD_JOB_GATHERING) {
        const uint32_t joining = psd_membership_count(&self->members, PSD_WORKER_JOINING);
        const int at = snprintf(text, n, "more workers: %u of %u workers have registered",
                                psd_membership_count(&self->members, PSD_WORKER_WAITING) + psd_coord_count_finished(self),
                                self->config.workers_want);
        if (joining)
            snprintf(text + at, n - (size_t)at, ", %u are joining", joining);
    } else if (self->state == PSD_JOB_PAUSED) {
        snprintf(text, n, "an operator, who has paused the job: psdctl resume");
    } else if (psd_mode_has_rounds(self->config.mode) && list_workers(self, list, sizeof list)) {
        snprintf(text, n, "pushes of workers %s (round %" PRIu64 ")", list, self->clock + 1);
    } else if (!psd_saves_is_safe(&self->saves)) {
        snprintf(text, n, "the first checkpoint");
    }
}

static void check_leases(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool late_round = self->config.round_timeout_ms && self->state == PSD_JOB_TRAINING &&
                      now_ms > self->round_since_ms + self->config.round_timeout_ms;
    bool somebody_pushed = false;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        somebody_pushed |= self->members.row[i].state == PSD_WORKER_LIVE && psd_coord_has_pushed(self, &self->members.row[i]);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        if (psd_worker_is_here(row) && now_ms > row->heard_ms + self->config.lease_ms)
            give_up(self, now_ms, row, "lease", out);
        else if (late_round && somebody_pushed && row->state == PSD_WORKER_LIVE && !psd_coord_has_pushed(self, row))
            give_up(self, now_ms, row, "round timeout", out);
    }
}

/* One that has not joined has nothing that a stop could lose. */
static bool every_shard_is_done(const psd_coordinator_t *self)
{
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (!psd_journal_is_done(&self->journal, s) && (self->servers.row[s].joined || !self->stopped))
            return false;
    return true;
}

void psd_coordinator_tick(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    excuse_absence(self, now_ms, out);
    if (psd_coord_is_failing(self, now_ms, out))
        return;
    tend_log(self, now_ms, out);
    check_leases(self, now_ms, out);
    psd_coord_evaluate(self, now_ms, out);
    psd_coord_save_between_rounds(self, now_ms, out);
    psd_coord_tend_end(self, now_ms, out);
    psd_coord_tend_absent(self, now_ms, out);
    if (self->state == PSD_JOB_FINISHED) {
        if (!self->finished_told && (every_shard_is_done(self) || now_ms > self->finish_since_ms + FINISH_MS)) {
            self->finished_told = true;
            char unsaved[PSD_MAX_TEXT / 2];
            psd_saves_describe_trouble(&self->saves, unsaved, sizeof unsaved);
            if (psd_saves_is_failing(&self->saves) && !psd_coord_is_saved(self) && (self->saves.n_points || !self->stopped))
                psd_actions_finish(out, PSD_EIO, unsaved);
            else if (self->stopped)
                psd_actions_finish(out, PSD_ESTOPPED, self->end_text);
            else
                psd_actions_finish(out, PSD_OK, self->end_text);
        }
        return;
    }
    if (self->line_ms && now_ms < self->line_ms + WAITING_LINE_MS)
        return;
    bool old_round = now_ms > self->round_since_ms + WAITING_LINE_MS;
    char text[PSD_MAX_TEXT / 2];
    psd_coord_describe_wait(self, text, sizeof text);
    const bool lost = psd_servers_count_lost(&self->servers) || self->state == PSD_JOB_DEGRADED;
    if (text[0] && self->line_ms && (self->state != PSD_JOB_TRAINING || old_round || lost))
        psd_actions_log(out, lost ? PSD_LEVEL_WARN : PSD_LEVEL_INFO, "job.waiting", "for=\"%s\"", text);
    self->line_ms = now_ms;
}

/* ---- facts ---- */

void psd_coordinator_facts(const psd_coordinator_t *self, psd_coordinator_facts_t *out)
{
    *out = self->report;
    out->state = self->state;
    out->stopped = self->stopped;
    out->view_id = self->view_id;
    out->clock = self->clock;
    out->skipped = self->skipped;
    out->lr = self->config.lr;
    out->runs = self->runs;
    out->has_point = self->saves.n_points > 0;
    out->point_clock = psd_saves_newest(&self->saves);
    out->point_ms = self->saves.point_ms;
    out->save_ms = self->saves.took_ms;
    out->saving = psd_saves_is_busy(&self->saves);
    out->save_failing = psd_saves_is_failing(&self->saves);
    out->n_members = psd_membership_count(&self->members, PSD_WORKER_LIVE);
    out->n_finished = psd_coord_count_finished(self);
    out->n_shards = psd_servers_count_joined(&self->servers);
    out->workers_min = self->config.workers_min;
    out->workers_want = self->config.workers_want;
    out->n_lost_servers = psd_servers_count_lost(&self->servers);
    out->n_lost_workers = 0;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        out->n_lost_workers += psd_coord_is_worker_lost(self, &self->members.row[i]);
    out->lacks_first_point = psd_coord_lacks_first_point(self);
    if ((out->n_lost_servers && self->state != PSD_JOB_FINISHED) || out->lacks_first_point)
        out->state = PSD_JOB_DEGRADED;
    out->quorum = self->state == PSD_JOB_FINISHED || self->ending || psd_coord_has_quorum(self, out->n_members);
    out->n_absent = psd_coord_list_absent(self, out->absent, PSD_MAX_ABSENT);
    psd_coord_describe_wait(self, out->waiting_for, sizeof out->waiting_for);
}

bool psd_coordinator_server(const psd_coordinator_t *self, uint32_t index, psd_server_facts_t *out)
{
    if (index >= self->config.n_servers)
        return false;
    const psd_server_row_t *shard = &self->servers.row[index];
    *out = (psd_server_facts_t){ .joined = shard->joined,
                                 .lost = shard->lost,
                                 .endpoint = shard->endpoint,
                                 .clock = shard->clock,
                                 .version = shard->version,
                                 .heard_ms = shard->heard_ms };
    return true;
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

bool psd_coordinator_worker_is_lost(const psd_coordinator_t *self, uint32_t worker)
{
    return worker < self->members.n_rows && psd_coord_is_worker_lost(self, &self->members.row[worker]);
}

const psd_membership_t *psd_coordinator_members(const psd_coordinator_t *self) { return &self->members; }
