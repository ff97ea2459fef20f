#include "server/core/coordinator.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/absence.h"
#include "common/base/rng.h"
#include "server/core/admission.h"
#include "server/core/failure.h"
#include "server/core/follow.h"
#include "server/core/forecast.h"
#include "server/core/health.h"
#include "server/core/journal.h"
#include "server/core/leases.h"
#include "server/core/registration.h"
#include "server/core/saves.h"
#include "server/core/totals.h"

enum {
    WAITING_LINE_MS = 5000, /* between two log lines on what the job waits for */
    WAIT_TEXT_MS = 50,      /* the text for workers may be this old: each worker asks for it, and composing it scans all workers */
    FINISH_MS = 4000,       /* for shards to read the log's end, and for workers to confirm that they know theirs */
    END_MS = 30000,         /* for the last checkpoint of a job that ends */
    LAST_SAVE_MS = 30000,   /* for the last checkpoint of a job that gives up */
    MAX_LR = 1000000000
};

struct psd_coordinator {
    psd_coordinator_config_t config;
    char *job;
    psd_job_settings_t settings;
    psd_job_state_t state;
    psd_servers_t servers;
    psd_membership_t members;
    psd_member_t view[PSD_MAX_WORKERS]; /* the view that the log last gave */
    uint32_t n_view;
    psd_follow_t follow;     /* snapshots for followers */
    psd_tensor_list_t model; /* n = 0 before the first registration */
    psd_journal_t journal;
    psd_totals_t totals; /* of the last step that was decided */
    psd_health_t health; /* of the tensors */
    struct {
        uint64_t step, incarnation;
    } told_health;           /* the look that was last sent to worker 0, and to which of its lives */
    psd_forecast_t before;   /* the last step's contributors */
    bool was_even;           /* they were all members, with equal numbers of samples; or there was no step yet */
    psd_forecast_t forecast; /* the round that was decided last, and whether the shards expect another one like it */
    uint64_t view_id;
    uint64_t clock;         /* rounds decided; in a mode without rounds, checkpoints ordered */
    uint32_t gathered;      /* of these, how many at the end wait for their step */
    uint64_t weights_clock; /* rounds that are in the weights: all, but for those */
    uint64_t skipped;
    uint64_t round_since_ms;  /* when the open round was opened */
    uint64_t first_ready_ms;  /* when the first worker registered */
    uint64_t newest_ready_ms; /* and the newest */
    uint64_t finish_since_ms;
    uint64_t line_ms; /* when the last such log line was written */
    struct {
        uint64_t at_ms;
        char text[PSD_MAX_TEXT / 2];
    } waits;          /* the reason for waiting, in words for workers */
    uint64_t seen_ms; /* when the last event came, to notice our own absence */
    bool finished_told;
    char end_text[PSD_MAX_TEXT / 2]; /* how it has ended */
    psd_absent_t absent;
    psd_failure_t failure;
    bool paused;          /* by an operator: no round closes */
    bool holds;           /* pushes wait, as the log last told the shards */
    bool cuts;            /* a checkpoint without a round is due: pushes wait until all shards can make it at the same time */
    bool ending, stopped; /* the job ends, after a last checkpoint; unfinished, because it was stopped */
    uint64_t end_since_ms;
    uint64_t runs;
    psd_saves_t saves;
    psd_coordinator_facts_t report;
};

/* ---- facts from several modules ---- */

/* Whether every shard holds the worker's push of the open round. */
static bool has_pushed(const psd_coordinator_t *self, const psd_worker_row_t *row)
{
    return psd_worker_has_pushed(row, self->config.n_servers);
}

/* The facts for the mode, when rounds up to `clock` are closed. */
static psd_progress_t look(const psd_coordinator_t *self, uint64_t clock)
{
    psd_progress_t p = { .clock = clock, .servers = self->config.n_servers, .steps = psd_servers_count_steps(&self->servers) };
    psd_saves_look(&self->saves, self->ending ? self->end_since_ms : 0, &p);
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (self->members.row[i].state == PSD_WORKER_LIVE) {
            p.members++;
            p.complete += has_pushed(self, &self->members.row[i]);
        }
    return p;
}

/* How far the job is, in steps of single shards. */
static uint64_t progress(const psd_coordinator_t *self)
{
    const psd_progress_t p = look(self, self->clock);
    return self->config.mode->progress(&p);
}

/* The clock of a checkpoint between rounds. Rounds that wait for their step are made again when a job continues from it. */
static uint64_t clock_of_weights(const psd_coordinator_t *self) { return self->gathered ? self->weights_clock : self->clock; }

/* Whether the newest checkpoint holds all training so far. */
static bool is_saved(const psd_coordinator_t *self)
{
    const psd_progress_t p = look(self, clock_of_weights(self));
    return psd_saves_is_saved(&self->saves, &p);
}

/* Whether the job stands still because the first checkpoint cannot be made. */
static bool lacks_first_point(const psd_coordinator_t *self)
{
    return psd_saves_has_none(&self->saves) && !self->ending && self->state != PSD_JOB_GATHERING && self->state != PSD_JOB_FINISHED;
}

static bool has_quorum(const psd_coordinator_t *self, uint32_t live)
{
    return psd_membership_has_quorum(&self->members, live, self->config.workers_min);
}

static psd_absent_look_t look_for_absent(const psd_coordinator_t *self)
{
    return (psd_absent_look_t){ .servers = &self->servers,
                                .members = &self->members,
                                .workers_min = self->config.workers_min,
                                .workers_want = self->config.workers_want,
                                .lease_ms = self->config.lease_ms,
                                .gathering = self->state == PSD_JOB_GATHERING,
                                .over = self->state == PSD_JOB_FINISHED || self->ending,
                                .paused = self->paused,
                                .no_first = lacks_first_point(self) ? psd_saves_trouble(&self->saves) : NULL };
}

static void describe_absent(const psd_coordinator_t *self, char *text, size_t n)
{
    const psd_absent_look_t look = look_for_absent(self);
    psd_absent_describe(&self->absent, &look, text, n);
}

/* Members whose push the open round waits for, as "1, 3"; returns its length. */
static size_t list_workers(const psd_coordinator_t *self, char *text, size_t n)
{
    size_t at = 0;
    for (uint32_t i = 0; i < self->members.n_rows && at + 8 < n; i++)
        if (self->members.row[i].state == PSD_WORKER_LIVE && !has_pushed(self, &self->members.row[i]))
            at += (size_t)snprintf(text + at, n - at, "%s%u", at ? ", " : "", i);
    return at;
}

/* The reason why the job waits, as one clause; "" if it does not wait. */
static void describe_wait(const psd_coordinator_t *self, char *text, size_t n)
{
    char list[512] = "";
    text[0] = '\0';
    if (self->state == PSD_JOB_FINISHED)
        return;
    if (!self->ending && (self->state == PSD_JOB_DEGRADED || psd_servers_count_lost(&self->servers) || lacks_first_point(self))) {
        describe_absent(self, text, n);
    } else if (!psd_servers_all_joined(&self->servers)) {
        psd_servers_list_missing(&self->servers, list, sizeof list);
        snprintf(text, n, "servers %s of %u", list, self->config.n_servers);
    } else if (self->ending) {
        snprintf(text, n, "the last checkpoint (number %" PRIu64 ")", self->clock);
    } else if (self->state == PSD_JOB_GATHERING) {
        const uint32_t joining = psd_membership_count(&self->members, PSD_WORKER_JOINING);
        const int at =
            snprintf(text, n, "more workers: %u of %u workers have registered",
                     psd_membership_count(&self->members, PSD_WORKER_WAITING) + psd_membership_count_finished(&self->members),
                     self->config.workers_want);
        if (joining)
            snprintf(text + at, n - (size_t)at, ", %u are joining", joining);
    } else if (self->state == PSD_JOB_PAUSED) {
        snprintf(text, n, "an operator to resume it (psdctl resume)");
    } else if (psd_mode_has_rounds(self->config.mode) && list_workers(self, list, sizeof list)) {
        snprintf(text, n, "pushes of workers %s (round %" PRIu64 ")", list, self->clock + 1);
    } else if (!psd_saves_is_safe(&self->saves)) {
        snprintf(text, n, "the first checkpoint");
    }
}

/* ---- answers ---- */

/* A message with the marks of this run; `row` NULL: not to a worker. */
static psd_msg_t *answer(psd_coordinator_t *self, psd_peer_t to, psd_kind_t kind, const psd_worker_row_t *row, psd_buf_t *payload,
                         psd_actions_t *out)
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

static void tell_to_wait(psd_coordinator_t *self, psd_peer_t to, uint64_t nonce, const char *why, psd_actions_t *out)
{
    psd_msg_t *wait = answer(self, to, PSD_MSG_WAIT, NULL, NULL, out);
    wait->seq = nonce;
    snprintf(wait->text, sizeof wait->text, "%s", why);
}

/* Tell a peer that speaks as this life of a worker that this life is over. */
static psd_msg_t *tell_fenced(psd_coordinator_t *self, psd_peer_t to, const psd_worker_row_t *row, uint64_t incarnation,
                              psd_actions_t *out)
{
    psd_msg_t *fenced = answer(self, to, PSD_MSG_FENCED, row, NULL, out);
    psd_worker_describe_fenced(row, incarnation, fenced->text, sizeof fenced->text);
    return fenced;
}

/* It confirms that with a LEAVE. */
static void tell_left(psd_coordinator_t *self, psd_worker_row_t *row, psd_actions_t *out)
{
    row->going = true;
    answer(self, row->peer, PSD_MSG_LEFT, row, NULL, out);
}

/* A worker whose work is done, and safe. */
static void let_go(psd_coordinator_t *self, psd_worker_row_t *row, psd_actions_t *out)
{
    psd_worker_let_go(row);
    tell_left(self, row, out);
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
    if (e->kind == PSD_MSG_TOTALS) {
        msg->parts = 1;
        msg->n_elements = (uint32_t)(e->payload->n_bytes / sizeof(double));
    }
    if (e->kind == PSD_MSG_COMMAND && e->code & PSD_COMMAND_FINISH)
        snprintf(msg->text, sizeof msg->text, "%s", self->end_text);
}

/* Write a decision into the log and send it to every shard; takes over the payload. */
static void append_entry(psd_coordinator_t *self, uint64_t now_ms, psd_kind_t kind, uint32_t code, psd_buf_t *payload,
                         psd_actions_t *out)
{
    const psd_entry_t *e = psd_journal_append(&self->journal, kind, code, payload);
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (self->servers.row[s].joined) {
            send_entry(self, s, e, out);
            psd_journal_note_sent(&self->journal, s, now_ms);
        }
}

/* In a mode without rounds, tell the shards when pushes must wait. */
static bool holds_pushes(const psd_coordinator_t *self)
{
    return self->paused || self->ending || self->cuts || !psd_saves_is_safe(&self->saves) ||
           !has_quorum(self, psd_membership_count(&self->members, PSD_WORKER_LIVE));
}

/* The same for a round or view, which hands over its lists. */
static void append_command(psd_coordinator_t *self, uint64_t now_ms, const psd_round_t *round, uint32_t code, psd_actions_t *out)
{
    self->holds = holds_pushes(self);
    if (self->holds)
        code |= PSD_COMMAND_HOLD;
    append_entry(self, now_ms, PSD_MSG_COMMAND, code, psd_body_of_round(round), out);
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

/* Room for every worker that there has been. */
static psd_member_t *new_members(const psd_coordinator_t *self)
{
    psd_member_t *member = calloc(self->members.n_rows + 1, sizeof *member);
    assert(member && "no memory for a decision");
    return member;
}

/* Forget all reports of shards on the open round. */
static void forget_pushes(psd_coordinator_t *self)
{
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        self->members.row[i].complete = (psd_server_set_t){ 0 };
        self->members.row[i].nonfinite = false;
    }
}

/* The forecast of the round after this one, whose lists are whole. After a wrong forecast pushes travel twice, so the next one is
 * made only after a round for which it would have been right. */
static psd_forecast_kind_t foretell(psd_coordinator_t *self, const psd_round_t *round)
{
    const psd_member_t *c = round->contributor;
    const uint32_t n = round->n_contributors;
    if (!self->config.foretell_from || round->n_members < self->config.foretell_from || self->config.accumulate > 1 ||
        !psd_mode_has_rounds(self->config.mode))
        return PSD_FORECAST_NONE;
    const bool again = psd_members_are_same(c, n, round->member, round->n_members) && psd_forecast_comes_true(&self->before, round);
    if (round->apply) {
        self->was_even = psd_members_are_same(c, n, self->view, self->n_view) && psd_members_are_even(c, n);
        psd_forecast_take(&self->before, round, PSD_FORECAST_SAME);
    }
    return self->was_even ? PSD_FORECAST_EVEN : again ? PSD_FORECAST_SAME : PSD_FORECAST_NONE;
}

static uint32_t code_of_forecast(psd_forecast_kind_t kind)
{
    static const uint32_t codes[] = { [PSD_FORECAST_SAME] = PSD_COMMAND_SAME, [PSD_FORECAST_EVEN] = PSD_COMMAND_EVEN };
    return codes[kind];
}

/* Let waiting workers in, number the new view, and write the decision, with the round's lists, into the log. */
static void decide(psd_coordinator_t *self, uint64_t now_ms, psd_round_t *round, uint32_t code, psd_actions_t *out)
{
    psd_member_t *member = new_members(self);
    round->member = member;
    round->view_id = ++self->view_id;
    round->lr = self->config.lr;
    forget_pushes(self);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
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
    psd_progress_t p = look(self, round->clock);
    const bool save =
        psd_mode_has_rounds(self->config.mode) && !self->gathered && psd_saves_is_due(&self->saves, now_ms, &p, self->ending);
    if (save)
        p.clock = round->clock = self->config.mode->save_clock(&p);
    const psd_forecast_kind_t kind = foretell(self, round);
    psd_forecast_take(&self->forecast, round, kind);
    append_command(self, now_ms, round, code | (save ? PSD_COMMAND_SAVE : 0) | code_of_forecast(kind), out);
    if (save)
        psd_saves_begin(&self->saves, now_ms, &p, psd_journal_last(&self->journal));
    self->n_view = round->n_members;
    memcpy(self->view, member, round->n_members * sizeof *member);
    self->clock = round->clock;
    self->round_since_ms = now_ms;
}

/* Members change without a round being closed: at the start, and while too few are left to continue. */
static void change_view(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    decide(self, now_ms, &(psd_round_t){ .clock = self->clock }, 0, out);
}

/* Members have come or gone, or the view has changed otherwise: tell the shards, unless that must wait until the round closes. */
static void view_changed(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const psd_progress_t p = look(self, self->clock);
    if (self->config.mode->may_change_view(&p))
        change_view(self, now_ms, out);
}

/* In a mode without rounds, tell the shards whether pushes must wait, if that has changed. */
static void tend_pushes(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const bool begun = self->state != PSD_JOB_GATHERING && self->state != PSD_JOB_FINISHED;
    if (begun && self->holds != holds_pushes(self))
        view_changed(self, now_ms, out);
}

/* The sizes of the model's tensors, for the partition, and each one's group; the caller frees both. */
static psd_extent_t *extents_of_model(const psd_coordinator_t *self, uint8_t **group_of)
{
    psd_extent_t *extents = psd_tensors_extents(&self->model);
    *group_of = malloc(self->model.n);
    const int rc = extents && *group_of ? psd_groups_assign(&self->config.groups, self->model.tensor->name,
                                                            sizeof *self->model.tensor, extents, self->model.n, *group_of, NULL)
                                        : PSD_ENOMEM;
    assert(rc == PSD_OK && "no memory for the sizes of a model's tensors");
    return extents;
}

typedef enum over_model { TOTALS, HEALTH } over_model_t;

/* Begin what goes over the whole model, when it is first needed. */
static void begin_over_model(psd_coordinator_t *self, over_model_t what)
{
    const uint32_t n = self->model.n, n_servers = self->config.n_servers;
    uint8_t *group_of;
    if (what == HEALTH ? psd_health_has_begun(&self->health) : psd_totals_has_begun(&self->totals))
        return;
    psd_extent_t *extents = extents_of_model(self, &group_of);
    const int rc = what == HEALTH ? psd_health_begin(&self->health, extents, group_of, n, n_servers)
                                  : psd_totals_begin(&self->totals, extents, group_of, n, n_servers);
    assert(rc == PSD_OK && "no memory for the sums or the health of a model");
    free(group_of);
    free(extents);
}

/* The step that was decided begins with passes that measure the whole model. */
static void await_totals(psd_coordinator_t *self)
{
    if (!self->totals.passes.n)
        return;
    begin_over_model(self, TOTALS);
    psd_totals_await(&self->totals);
}

/* The open round will differ from the forecast: shards drop the pushes that they have added up, and request them again, except
 * those of workers that are gone. */
static void announce_another(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_round_t same = { .clock = self->clock,
                         .lr = self->config.lr,
                         .view_id = ++self->view_id,
                         .n_members = self->n_view,
                         .member = new_members(self) };
    memcpy(same.member, self->view, self->n_view * sizeof *same.member);
    forget_pushes(self);
    psd_forecast_clear(&self->forecast);
    self->round_since_ms = now_ms;
    append_command(self, now_ms, &same, 0, out);
}

/* Give up the workers whose gradients had Inf or NaN too often in a row, as if they were lost, and tell them. Returns whether there
 * are any, and so the view is another. */
static bool quarantine(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool any = false;
    for (uint32_t i = 0; self->config.quarantine_after && i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        if (row->state != PSD_WORKER_LIVE || row->in_vain < self->config.quarantine_after)
            continue;
        row->quarantined = psd_leases_give_up(row, now_ms, "quarantine: Inf or NaN in its gradients", out);
        self->report.workers_lost++;
        self->report.workers_quarantined++;
        tell_fenced(self, row->peer, row, row->incarnation, out);
        any = true;
    }
    return any;
}

/* Where each push is a step, shards reject those with Inf or NaN by themselves, and report how many of a worker's there were in a
 * row. */
static void note_rejected(psd_coordinator_t *self, uint64_t now_ms, const psd_round_t *state, psd_actions_t *out)
{
    for (uint32_t k = 0; k < state->n_contributors; k++) {
        const psd_member_t *c = &state->contributor[k];
        psd_worker_row_t *row = &self->members.row[c->worker];
        if (row->incarnation == c->incarnation && c->nonfinite && c->samples > row->in_vain)
            row->in_vain = c->samples;
    }
    if (quarantine(self, now_ms, out))
        view_changed(self, now_ms, out);
}

/* Close the open round with those whose pushes are complete on every shard: one decision for the whole model. */
static void close_round(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_member_t *contributor = new_members(self);
    psd_round_t round = { .clock = self->clock + 1, .contributor = contributor };
    bool finite = true;
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        bool was_member = row->state >= PSD_WORKER_LIVE;
        if (!was_member || !has_pushed(self, row) || !row->samples)
            continue;
        contributor[round.n_contributors++] =
            (psd_member_t){ .worker = row->id, .incarnation = row->incarnation, .samples = row->samples, .loss = row->loss };
        row->in_vain = row->nonfinite ? row->in_vain + 1 : 0;
        if (row->nonfinite) {
            finite = false;
            psd_actions_log(out, PSD_LEVEL_WARN, "gradient.nonfinite",
                            "worker=%u clock=%" PRIu64 " effect=\"the round is skipped on every shard\"", row->id, round.clock);
        }
    }
    round.apply = finite && round.n_contributors > 0;
    if (round.apply && self->forecast.kind && !psd_forecast_comes_true(&self->forecast, &round)) {
        free(contributor);
        announce_another(self, now_ms, out);
        return;
    }
    self->skipped += !round.apply;
    if (!round.apply)
        round.n_contributors = 0;
    const bool waits = round.apply && self->gathered + 1 < self->config.accumulate;
    if (waits && !self->gathered++)
        self->weights_clock = self->clock;
    else if (round.apply && !waits)
        self->gathered = 0;
    quarantine(self, now_ms, out); /* the round is skipped, and the next view is without them */
    decide(self, now_ms, &round, PSD_COMMAND_CLOSE | (waits ? PSD_COMMAND_GATHER : 0), out);
    if (round.apply && !waits)
        await_totals(self);
}

/* ---- failing ---- */

/* `row`: a worker; NULL: a server, or an unknown peer. */
static void tell_failure(psd_coordinator_t *self, psd_peer_t to, const psd_worker_row_t *row, uint64_t nonce, psd_actions_t *out)
{
    psd_msg_t *msg = answer(self, to, PSD_MSG_REFUSED, row, NULL, out);
    msg->seq = nonce;
    psd_failure_tell(&self->failure, msg);
}

/* Dismiss workers whose work is done and safe. Returns whether there is anybody left to tell. */
static bool tell_everybody(psd_coordinator_t *self, psd_actions_t *out)
{
    const bool safe = is_saved(self);
    bool any = false;
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (self->servers.row[s].endpoint[0] && self->servers.row[s].peer != PSD_PEER_OWN_SHARD) {
            tell_failure(self, self->servers.row[s].peer, NULL, self->servers.row[s].nonce, out);
            any |= !self->servers.row[s].lost;
        }
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        any |= psd_worker_is_here(row);
        if (row->state == PSD_WORKER_DONE && safe)
            let_go(self, row, out);
        else if (psd_worker_is_here(row))
            tell_failure(self, row->peer, row, row->nonce, out);
    }
    return any;
}

/* The job fails: tell everybody for long enough that they hear it, then end this process. Nothing else happens from then on. */
static void fail(psd_coordinator_t *self, uint64_t now_ms, int code, psd_refusal_t refusal, const char *why, psd_actions_t *out)
{
    if (psd_failure_begin(&self->failure, now_ms, code, refusal, why) && !tell_everybody(self, out) &&
        !psd_failure_awaits_comers(&self->failure))
        psd_failure_finish(&self->failure, out);
}

static void tend_failure(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (psd_failure_is_told(&self->failure))
        tell_everybody(self, out);
    if (psd_failure_is_over(&self->failure, now_ms))
        psd_failure_finish(&self->failure, out);
}

/* Somebody speaks while the job fails. */
static void answer_failing(psd_coordinator_t *self, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    psd_worker_row_t *row = &self->members.row[msg->worker];
    if (msg->kind == PSD_MSG_LEAVE && msg->incarnation == row->incarnation && msg->seq == row->nonce &&
        row->state == PSD_WORKER_LEFT) {
        if (msg->code != PSD_LEAVE_KNOWS)
            answer(self, from, PSD_MSG_LEFT, row, NULL, out);
        return;
    }
    if (from == PSD_PEER_OWN_SHARD || msg->kind == PSD_MSG_SHARD_STATE)
        return; /* the number in a SHARD_STATE does not identify its sender's hello */
    tell_failure(self, from, NULL, msg->seq, out);
}

/* A server was restarted, in a job that has `trained` or not. If weights were lost and there is no checkpoint, neither other
 * servers' chunks nor workers' copies are of use, and the job ends for everybody. Returns whether it ends. */
static bool loses_weights(psd_coordinator_t *self, bool trained, uint64_t now_ms, const char *why, psd_actions_t *out)
{
    char text[PSD_MAX_TEXT / 2];
    if (!trained || self->saves.n_points)
        return false;
    snprintf(text, sizeof text,
             "the servers have lost the weights and there is no checkpoint to go back to: %s (checkpoint.dir keeps "
             "them)",
             why);
    psd_actions_log(out, PSD_LEVEL_ERROR, "job.lost", "why=\"%s\" clock=%" PRIu64 " checkpoint=none", why, self->clock);
    fail(self, now_ms, PSD_EREFUSED, PSD_REFUSAL_LOST, text, out);
    return true;
}

/* ---- the end ---- */

/* The job ends: finished, or stopped by an operator. First its last weights are saved. */
static void begin_end(psd_coordinator_t *self, uint64_t now_ms, bool stopped, psd_actions_t *out)
{
    if (self->ending || self->state == PSD_JOB_FINISHED)
        return;
    self->ending = true;
    self->stopped = stopped;
    self->end_since_ms = now_ms;
    if (self->gathered && !stopped)
        psd_actions_log(
            out, PSD_LEVEL_WARN, "accumulate.incomplete",
            "rounds=%u of=%u effect=\"the job ends between the rounds of a step: their gradients are not in the weights\"",
            self->gathered, self->config.accumulate);
    psd_saves_ask(&self->saves);
    psd_actions_log(out, PSD_LEVEL_DEBUG, "job.ending", "clock=%" PRIu64 " finished=%s", self->clock, stopped ? "false" : "true");
    tend_pushes(self, now_ms, out); /* otherwise each checkpoint would be out of date before it is made */
}

void psd_coordinator_stop(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out) { begin_end(self, now_ms, true, out); }

/* The last entry of the log. */
static void finish(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    self->state = PSD_JOB_FINISHED;
    self->finish_since_ms = now_ms;
    if (self->stopped && psd_saves_has_none(&self->saves))
        snprintf(self->end_text, sizeof self->end_text, "stopped before the job was finished; no checkpoint could be made: %s",
                 psd_saves_trouble(&self->saves));
    else if (self->stopped)
        snprintf(self->end_text, sizeof self->end_text, "stopped before the job was finished");
    else
        psd_membership_describe_end(&self->members, self->config.mode->unit, self->config.drops_lost, self->end_text,
                                    sizeof self->end_text);
    psd_round_t nothing = { .clock = self->clock, .view_id = self->view_id };
    append_command(self, now_ms, &nothing, PSD_COMMAND_FINISH | (self->stopped ? PSD_COMMAND_STOP : 0), out);
}

/* The job ends when the last weights are safe, or when that takes too long. */
static void tend_end(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    /* Shards that still load their checkpoint can save as soon as they have. */
    const bool loads = self->saves.n_points && psd_servers_all_joined(&self->servers);
    bool can_save = psd_saves_can_save(&self->saves) || loads;
    bool safe = is_saved(self);
    const bool in_vain = self->stopped && psd_saves_has_none(&self->saves); /* there is no training to lose */
    bool busy = !in_vain && (psd_saves_is_busy(&self->saves) || (can_save && !safe));
    if (self->ending && can_save && !safe)
        psd_saves_ask(&self->saves);
    bool too_long = now_ms > self->end_since_ms + END_MS;
    if (!self->ending || self->state == PSD_JOB_FINISHED || (busy && !too_long))
        return;
    finish(self, now_ms, out);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        if (row->state == PSD_WORKER_DONE)
            let_go(self, row, out);
    }
}

/* A server that has not joined has nothing to lose by a stop. */
static bool every_shard_is_done(const psd_coordinator_t *self)
{
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        if (!psd_journal_is_done(&self->journal, s) && (self->servers.row[s].joined || !self->stopped))
            return false;
    return true;
}

/* ---- what is due ---- */

/* The job waits for workers.want as long as workers keep coming, but at most for half of start_timeout_ms, so that a worker with
 * that patience sees the start. */
static bool may_start(const psd_coordinator_t *self, uint64_t now_ms)
{
    const uint64_t half_ms = self->config.start_timeout_ms / 2;
    uint32_t ready = psd_membership_count(&self->members, PSD_WORKER_WAITING) + psd_membership_count_finished(&self->members);
    if (ready >= self->config.workers_want && ready >= self->config.workers_min)
        return true;
    return ready >= self->config.workers_min &&
           (now_ms >= self->newest_ready_ms + PSD_WANT_MS || (half_ms && now_ms >= self->first_ready_ms + half_ms));
}

/* The job is finished when all present workers have finished, and enough workers have. If a lost worker is needed for that number,
 * the job waits for it as in any round. It may have been the one to save the weights. */
static bool is_finished(const psd_coordinator_t *self)
{
    const uint32_t done = psd_membership_count_finished(&self->members);
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (psd_worker_is_here(&self->members.row[i]) && self->members.row[i].state != PSD_WORKER_DONE)
            return false;
    return done && done >= (self->config.drops_lost ? 1 : self->config.workers_min);
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

/* Examine the whole state and make the decision that is due, if any. */
static void evaluate(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (self->state == PSD_JOB_FINISHED || self->ending)
        return;
    if (self->state == PSD_JOB_GATHERING) {
        if (!psd_servers_all_joined(&self->servers) || !may_start(self, now_ms))
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
    /* A round that waits for replacements continues only when all of them are here: a new member computes its share of the batch
     * from the size of the view. */
    const psd_mode_t *mode = self->config.mode;
    psd_progress_t p = look(self, self->clock);
    if (waiting && (mode->may_change_view(&p) || (!enough && has_quorum(self, live + waiting)))) {
        change_view(self, now_ms, out);
        live += waiting;
        enough = has_quorum(self, live);
    }
    enter(self, self->paused ? PSD_JOB_PAUSED : enough ? PSD_JOB_TRAINING : PSD_JOB_DEGRADED, live, out);
    tend_pushes(self, now_ms, out);
    if (!psd_mode_has_rounds(mode) || self->state != PSD_JOB_TRAINING || !psd_saves_is_safe(&self->saves) ||
        psd_totals_is_awaiting(&self->totals))
        return;
    p = look(self, self->clock);
    if (mode->closes(&p))
        close_round(self, now_ms, out);
}

/* ---- runs and checkpoints ---- */

/* A run begins from the newest checkpoint. The shards will report the number of steps in it. */
static void begin_progress(psd_coordinator_t *self)
{
    const psd_progress_t p = look(self, self->clock);
    psd_saves_begin_run(&self->saves, &p);
}

/* Resume the job from the newest checkpoint: every shard loads it, every worker joins again. Weights of shards that are at
 * different rounds are never mixed. */
static void new_run(psd_coordinator_t *self, const char *why, psd_actions_t *out)
{
    self->runs++;
    uint64_t seed = self->config.job_id;
    self->config.job_id = psd_splitmix64(&seed) | 1;
    psd_journal_clear(&self->journal);
    psd_follow_clear(&self->follow);
    psd_servers_begin_run(&self->servers);
    /* The last rounds are undone and must be repeated, also by workers that had finished; in a mode without rounds, finished work
     * stays finished. */
    psd_membership_begin_run(&self->members, psd_mode_has_rounds(self->config.mode));
    self->state = PSD_JOB_GATHERING;
    self->n_view = 0;
    self->ending = self->ending && self->stopped; /* finished work may have to be repeated */
    self->first_ready_ms = 0;
    if (!self->saves.n_points)
        psd_tensors_clear(&self->model); /* with a checkpoint the shards know the model from it */
    self->clock = psd_saves_newest(&self->saves);
    self->gathered = 0;
    self->cuts = false;
    begin_progress(self);
    psd_totals_clear(&self->totals);
    psd_health_clear(&self->health);
    psd_forecast_clear(&self->forecast);
    psd_forecast_clear(&self->before);
    self->was_even = true;
    psd_actions_log(out, PSD_LEVEL_WARN, "job.restart", "why=\"%s\" from_clock=%" PRIu64 " checkpoint=%s run=%" PRIu64, why,
                    self->clock, self->saves.n_points ? "yes" : "none", self->runs);
}

/* A shard cannot load the newest checkpoint: all shards go back to the one before. */
static void drop_point(psd_coordinator_t *self, uint64_t now_ms, uint32_t shard, const char *reason, psd_actions_t *out)
{
    char why[PSD_MAX_TEXT / 2];
    snprintf(why, sizeof why, "server %u cannot load the checkpoint of clock %" PRIu64 ": %.400s", shard,
             psd_saves_newest(&self->saves), reason);
    psd_saves_drop_newest(&self->saves);
    if (self->saves.n_points)
        new_run(self, why, out);
    else
        fail(self, now_ms, PSD_EDATA, PSD_REFUSAL_DAMAGED, why, out);
}

/* A checkpoint is due: returns whether to order it now. Without rounds, shards would save many pushes apart, each when the order
 * reaches it, so all of them hold pushes first. Then they are at most one push of each worker apart, because a worker pushes again
 * only when every shard has made a step with its last push. */
static bool begin_cut(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (psd_mode_has_rounds(self->config.mode))
        return true;
    self->cuts = true;
    tend_pushes(self, now_ms, out);
    return psd_journal_is_done_by_all(&self->journal);
}

/* No checkpoint is due any more, or it is ordered. */
static void end_cut(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (!self->cuts)
        return;
    self->cuts = false;
    tend_pushes(self, now_ms, out);
}

/* The first checkpoint, requested ones, and those of jobs without rounds do not wait for a round to close; the view stays as it
 * is. */
static void save_between_rounds(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    bool begun = self->state != PSD_JOB_GATHERING && self->state != PSD_JOB_FINISHED;
    psd_progress_t p = look(self, clock_of_weights(self));
    if (!begun || !psd_saves_is_urgent(&self->saves) || !psd_saves_is_due(&self->saves, now_ms, &p, self->ending)) {
        end_cut(self, now_ms, out);
        return;
    }
    if (!begin_cut(self, now_ms, out))
        return;
    p.clock = self->config.mode->save_clock(&p);
    if (!self->gathered)
        self->clock = p.clock;
    psd_round_t same = { .clock = self->clock,
                         .lr = self->config.lr,
                         .view_id = self->view_id,
                         .n_members = self->n_view,
                         .member = new_members(self) };
    memcpy(same.member, self->view, self->n_view * sizeof *same.member);
    self->cuts = false; /* the shards begin to save before they let pushes pass */
    append_command(self, now_ms, &same, PSD_COMMAND_SAVE, out);
    psd_saves_begin(&self->saves, now_ms, &p, psd_journal_last(&self->journal));
}

void psd_coordinator_committed(psd_coordinator_t *self, uint64_t now_ms, uint64_t clock, const char *failure, psd_actions_t *out)
{
    if (psd_saves_note_manifest(&self->saves, now_ms, clock, failure, out))
        tend_pushes(self, now_ms, out); /* which may have waited for the first one */
}

void psd_coordinator_request_save(psd_coordinator_t *self) { psd_saves_ask(&self->saves); }

/* ---- who is missing ---- */

/* The missing peers did not come: tell all waiting ones, so that all end in the same way. */
static void end_in_vain(psd_coordinator_t *self, uint64_t now_ms, const psd_absent_look_t *look, psd_actions_t *out)
{
    char who[PSD_MAX_TEXT / 2], why[PSD_MAX_TEXT];
    const uint64_t waited_s = psd_absent_waited_ms(&self->absent, now_ms) / 1000;
    if (psd_absent_is_first_alone(&self->absent, look)) {
        snprintf(why, sizeof why,
                 "no checkpoint could be made for %" PRIu64 " s (join_timeout), and nothing is trained before there is one: %s; "
                 "make room there, or name another checkpoint.dir",
                 waited_s, look->no_first);
        fail(self, now_ms, PSD_EIO, PSD_REFUSAL_UNSAVED, why, out);
        return;
    }
    psd_absent_describe(&self->absent, look, who, sizeof who);
    snprintf(why, sizeof why, "gave up after %" PRIu64 " s (join_timeout) of waiting for %s", waited_s, who);
    fail(self, now_ms, PSD_EUNAVAILABLE, PSD_REFUSAL_ABSENT, why, out);
}

/* Save the training before the end, if all shards are here to do it. */
static bool saves_first(psd_coordinator_t *self, uint64_t now_ms)
{
    const bool can = psd_saves_can_save(&self->saves) && !lacks_first_point(self) && self->state != PSD_JOB_GATHERING &&
                     !psd_servers_count_missing(&self->servers);
    if (!can || is_saved(self) || psd_absent_waited_ms(&self->absent, now_ms) > self->config.patience_ms + LAST_SAVE_MS)
        return false;
    psd_saves_ask(&self->saves);
    return true;
}

/* Find missing peers, and end the job if they have been missing for too long. */
static void tend_absent(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (self->state != PSD_JOB_FINISHED)
        psd_servers_look(&self->servers, now_ms, out);
    const psd_absent_look_t look = look_for_absent(self);
    psd_absent_note(&self->absent, now_ms, &look);
    if (self->absent.n && self->config.patience_ms && psd_absent_waited_ms(&self->absent, now_ms) >= self->config.patience_ms &&
        !saves_first(self, now_ms))
        end_in_vain(self, now_ms, &look, out);
}

/* Give up workers that have been silent, or late, for too long. */
static void check_leases(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const psd_leases_t leases = { .members = &self->members,
                                  .now_ms = now_ms,
                                  .lease_ms = self->config.lease_ms,
                                  .round_timeout_ms = self->config.round_timeout_ms,
                                  .round_since_ms = self->round_since_ms,
                                  .in_round = self->state == PSD_JOB_TRAINING,
                                  .n_shards = self->config.n_servers };
    const bool late = psd_leases_round_is_late(&leases);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        const bool was_member = row->state == PSD_WORKER_LIVE;
        const char *why = psd_leases_judge(&leases, row, late);
        if (!why || !psd_leases_give_up(row, now_ms, why, out))
            continue;
        self->report.workers_lost++;
        if (was_member)
            view_changed(self, now_ms, out);
    }
}

/* ---- workers ---- */

/* Tell a worker how the job trains, and where its servers are. */
static psd_buf_t *describe_cluster(const psd_coordinator_t *self)
{
    psd_cluster_t cluster = { .n_servers = self->config.n_servers, .settings = self->settings };
    cluster.settings.lr = self->config.lr;
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        memcpy(cluster.endpoint[s], self->servers.row[s].endpoint, sizeof cluster.endpoint[s]);
    return psd_body_of_cluster(&cluster);
}

static void welcome(psd_coordinator_t *self, const psd_worker_row_t *row, psd_actions_t *out)
{
    psd_buf_t *body = describe_cluster(self);
    answer(self, row->peer, PSD_MSG_WELCOME, row, body, out);
    psd_buf_unref(&body);
}

/* If a disturbed run must end with the bits of an undisturbed one, the number of workers is fixed, and a replacement takes the id
 * of the lost worker, because the others have already cut their shares of the batch. */
static bool is_fixed(const psd_coordinator_t *self)
{
    return self->config.checkpoints && psd_mode_has_rounds(self->config.mode) &&
           self->config.workers_min == self->config.workers_want;
}

/* Whether a hello is for this job; otherwise refuses it. */
static bool is_of_this_job(psd_coordinator_t *self, const psd_heard_t *in, const char *job)
{
    const bool is = !strcmp(job, self->job);
    if (!is)
        refuse(self, in->from, in->msg->seq, PSD_REFUSAL_JOB, in->out, "this is job %s, you belong to job %s", self->job, job);
    return is;
}

static void on_hello(psd_coordinator_t *self, const psd_heard_t *in)
{
    const psd_hello_t *body = psd_body_hello(in->payload);
    const psd_worker_hello_t hello = { .from = in->from, .nonce = in->msg->seq, .wanted = in->msg->code, .name = body->name };
    const bool over = self->state == PSD_JOB_FINISHED || self->ending;
    const char *how = self->stopped ? "was stopped" : "is finished";
    const psd_admission_look_t look = { .job = self->job,
                                        .over = over ? how : NULL,
                                        .servers = &self->servers,
                                        .places = is_fixed(self) ? self->config.workers_want : 0 };
    psd_admission_t admission;
    if (!is_of_this_job(self, in, body->job))
        return;
    psd_admission_judge(&admission, &look, &self->members, in->now_ms, &hello);
    const psd_worker_row_t *row = admission.row;
    switch (admission.verdict) {
    case PSD_ADMISSION_NEW:
        psd_actions_log(in->out, PSD_LEVEL_DEBUG, "worker.hello", "worker=%u name=%s incarnation=%" PRIu64, row->id, row->name,
                        row->incarnation);
        welcome(self, row, in->out);
        break;
    case PSD_ADMISSION_KNOWN:
        welcome(self, row, in->out);
        break;
    case PSD_ADMISSION_WAITS:
        tell_to_wait(self, in->from, in->msg->seq, admission.why, in->out);
        break;
    case PSD_ADMISSION_FENCED:
        tell_fenced(self, in->from, row, row->incarnation, in->out);
        break;
    case PSD_ADMISSION_REFUSED:
        refuse(self, in->from, in->msg->seq, admission.refusal, in->out, "%s", admission.why);
        break;
    }
}

/* The first model that is registered becomes the job's. */
static void on_register(psd_coordinator_t *self, psd_worker_row_t *row, const psd_heard_t *in)
{
    const psd_registrant_t registrant = { .row = row, .model = psd_body_tensors(in->payload), .recipe = in->msg->text };
    const psd_registration_look_t look = { .model = &self->model,
                                           .groups = &self->config.groups,
                                           .needs_rows = self->config.needs_rows,
                                           .inherits = !progress(self) && !self->saves.n_points };
    psd_registration_t registration;
    psd_registration_judge(&registration, &look, &self->members, &registrant);
    if (registration.verdict == PSD_REGISTRATION_UNFIT) {
        fail(self, in->now_ms, PSD_ECONFIG, PSD_REFUSAL_UNFIT, registration.why, in->out);
        return;
    }
    if (registration.verdict == PSD_REGISTRATION_REFUSED) {
        refuse(self, row->peer, row->nonce, registration.refusal, in->out, "%s", registration.why);
        row->state = PSD_WORKER_LEFT;
        return;
    }
    if (!self->model.n) {
        const int rc = psd_tensors_copy(&self->model, registrant.model);
        assert(rc == PSD_OK && "no memory for the model's list of tensors");
        append_entry(self, in->now_ms, PSD_MSG_MODEL, 0, psd_buf_ref(in->payload), in->out);
    }
    /* A worker that has trained before belongs to the job of an earlier server 0. */
    char why[128];
    const bool has_trained = row->state == PSD_WORKER_JOINING && in->msg->clock > 1;
    snprintf(why, sizeof why, "server 0 was started again after worker %u (%.60s) had trained", row->id, row->name);
    if (loses_weights(self, has_trained, in->now_ms, why, in->out))
        return;
    answer(self, row->peer, PSD_MSG_REGISTERED, row, NULL, in->out);
    if (row->state != PSD_WORKER_JOINING)
        return;
    row->state = PSD_WORKER_WAITING;
    self->newest_ready_ms = in->now_ms;
    if (!self->first_ready_ms)
        self->first_ready_ms = in->now_ms;
    evaluate(self, in->now_ms, in->out);
}

/* A finished worker may be needed again if a server is lost before the last weights are safe. If there are checkpoints, its LEAVE
 * is therefore answered only when they are safe, even if it was given up meanwhile. */
static void on_leave(psd_coordinator_t *self, psd_worker_row_t *row, const psd_heard_t *in)
{
    if (in->msg->code == PSD_LEAVE_KNOWS) {
        row->going = false;
        return;
    }
    const bool registered = row->state != PSD_WORKER_JOINING; /* without a model there is no finished work */
    bool finished = in->msg->code == PSD_LEAVE_FINISHED && registered;
    bool stays = finished && self->config.checkpoints && self->state != PSD_JOB_FINISHED;
    bool repeated = row->state == PSD_WORKER_LEFT && !(stays && row->finished);
    if (row->state == PSD_WORKER_DONE)
        return;
    if (!stays || repeated)
        tell_left(self, row, in->out);
    if (repeated)
        return;
    bool was_member = row->state == PSD_WORKER_LIVE;
    row->state = stays ? PSD_WORKER_DONE : PSD_WORKER_LEFT;
    row->finished = finished;
    psd_actions_log(in->out, PSD_LEVEL_INFO, "worker.left", "worker=%u name=%s finished=%s clock=%" PRIu64, row->id, row->name,
                    finished ? "true" : "false", in->msg->clock);
    if (was_member)
        view_changed(self, in->now_ms, in->out);
    evaluate(self, in->now_ms, in->out);
}

/* A live change of the learning rate: it goes into the log with the next decision, so that every shard makes
 * the same step with it. */
int psd_coordinator_set(psd_coordinator_t *self, uint64_t now_ms, const char *what, double value, const char *who,
                        psd_actions_t *out, psd_err_t *err)
{
    if (strcmp(what, "optimizer.lr") || !(value >= 0) || value > MAX_LR)
        return psd_err_set(err, PSD_ECONFIG, "%.60s cannot be set to %g: only optimizer.lr can be set, from 0 to %g", what, value,
                           (double)MAX_LR);
    bool news = self->config.lr != value;
    if (news)
        psd_actions_log(out, PSD_LEVEL_INFO, "optimizer.lr", "by=\"%s\" lr=%g was=%g after_clock=%" PRIu64, who, value,
                        self->config.lr, self->clock);
    self->config.lr = value;
    if (news)
        view_changed(self, now_ms, out);
    return PSD_OK;
}

/* Confirm the rates that workers have set, once their next push makes its step with them at every shard. In rounds it always does;
 * otherwise a push may overtake the log on its way to a shard. */
static void answer_settings(psd_coordinator_t *self, psd_actions_t *out)
{
    if (!psd_mode_has_rounds(self->config.mode) && !psd_journal_is_done_by_all(&self->journal))
        return;
    for (uint32_t w = 0; w < self->members.n_rows; w++) {
        psd_worker_row_t *row = &self->members.row[w];
        if (!row->setting.is_open)
            continue;
        psd_msg_t *done = answer(self, row->peer, PSD_MSG_SETTING, row, NULL, out);
        done->code = row->setting.code;
        done->value = row->setting.value;
        snprintf(done->text, sizeof done->text, "optimizer.lr");
        row->setting.is_open = false;
    }
}

/* A worker that divides other rows than the others, or otherwise, would leave some out and train on others twice. */
static void on_rows(psd_coordinator_t *self, psd_worker_row_t *row, const char *text, const psd_heard_t *in)
{
    const psd_division_t *other = psd_membership_divides_otherwise(&self->members, row, text);
    if (!other) {
        psd_msg_t *done = answer(self, row->peer, PSD_MSG_SETTING, row, NULL, in->out);
        done->code = in->msg->code;
        snprintf(done->text, sizeof done->text, "%s", in->msg->text);
        return;
    }
    refuse(self, row->peer, row->nonce, PSD_REFUSAL_CONFIG, in->out,
           "worker %u takes its batches from %.255s, but worker %u from %.255s; give all workers the same data and the same values",
           row->id, text, other->worker, other->text);
    const bool was_member = row->state == PSD_WORKER_LIVE;
    row->state = PSD_WORKER_LEFT;
    if (was_member)
        view_changed(self, in->now_ms, in->out);
    evaluate(self, in->now_ms, in->out);
}

static void on_setting(psd_coordinator_t *self, psd_worker_row_t *row, const psd_heard_t *in)
{
    const size_t rows = strlen(PSD_SETTING_ROWS);
    if (!strncmp(in->msg->text, PSD_SETTING_ROWS, rows)) {
        on_rows(self, row, in->msg->text + rows, in);
        return;
    }
    psd_err_t err = { 0 };
    char who[32];
    snprintf(who, sizeof who, "worker %u", row->id);
    if (psd_coordinator_set(self, in->now_ms, in->msg->text, in->msg->value, who, in->out, &err) != PSD_OK) {
        refuse(self, row->peer, in->msg->seq, PSD_REFUSAL_CONFIG, in->out, "%s", err.text);
        return;
    }
    row->setting.is_open = true;
    row->setting.code = in->msg->code;
    row->setting.value = in->msg->value;
    answer_settings(self, in->out);
}

static void on_report(psd_coordinator_t *self, psd_worker_row_t *row, const psd_heard_t *in)
{
    (void)row;
    char name[sizeof self->report.report[0].name];
    uint32_t i = 0;
    snprintf(name, sizeof name, "%.63s", in->msg->text);
    while (i < self->report.n_reports && strcmp(self->report.report[i].name, name))
        i++;
    if (i == PSD_MAX_REPORTS)
        return;
    self->report.n_reports = i < self->report.n_reports ? self->report.n_reports : i + 1;
    memcpy(self->report.report[i].name, name, sizeof name);
    self->report.report[i].value = in->msg->value;
}

/* Send worker 0, which records the run, the figures of the tensors, if there was a look since they were last sent. */
static void tell_health(psd_coordinator_t *self, const psd_worker_row_t *row, const psd_heard_t *in)
{
    double figures[PSD_HEALTH_TOLD * PSD_HEALTH_FIGURES];
    if (row->id || (self->told_health.step == self->health.step && self->told_health.incarnation == row->incarnation) ||
        !self->health.looks)
        return;
    self->told_health.step = self->health.step;
    self->told_health.incarnation = row->incarnation;
    const uint32_t n = psd_health_figures(&self->health, figures);
    psd_buf_t *payload = psd_payload_copy(figures, n * PSD_HEALTH_FIGURES * sizeof *figures);
    psd_msg_t *msg = answer(self, in->from, PSD_MSG_HEALTH, row, payload, in->out);
    msg->version = self->health.step;
    msg->parts = n;
    msg->n_elements = PSD_HEALTH_FIGURES;
    psd_buf_unref(&payload);
}

/* Answer with the reason for waiting, which a worker cannot know. */
static void on_heartbeat(psd_coordinator_t *self, psd_worker_row_t *row, const psd_heard_t *in)
{
    if (!self->waits.at_ms || in->now_ms >= self->waits.at_ms + WAIT_TEXT_MS) {
        describe_wait(self, self->waits.text, sizeof self->waits.text);
        self->waits.at_ms = in->now_ms;
    }
    psd_msg_t *beat = answer(self, in->from, PSD_MSG_HEARTBEAT, row, NULL, in->out);
    beat->code = row->drains ? PSD_HEARTBEAT_DRAIN : 0;
    snprintf(beat->text, sizeof beat->text, "%.190s", self->waits.text);
    tell_health(self, row, in); /* not after each look: with a small model, a message takes as long as several steps */
}

/* ---- servers ---- */

/* A server was restarted. If its predecessor is part of this run, the job resumes without the predecessor's state. Returns whether
 * the new one may join. */
static bool take_up_again(psd_coordinator_t *self, uint64_t now_ms, uint32_t s, psd_actions_t *out)
{
    char why[64];
    if (!self->servers.row[s].joined)
        return true;
    if (!psd_journal_last(&self->journal) && !psd_membership_has_any(&self->members)) {
        psd_servers_leave(&self->servers, s); /* nothing depends on it yet: no worker knows its address */
        return true;
    }
    snprintf(why, sizeof why, "server %u was started again", s);
    if (loses_weights(self, progress(self) > 0, now_ms, why, out))
        return false;
    new_run(self, why, out);
    return true;
}

/* The job's state as others see it. */
static psd_job_state_t shown_state(const psd_coordinator_t *self)
{
    const bool lacks = (psd_servers_count_lost(&self->servers) && self->state != PSD_JOB_FINISHED) || lacks_first_point(self);
    return lacks ? PSD_JOB_DEGRADED : self->state;
}

/* Whether no worker is missing. */
static bool goes_on(const psd_coordinator_t *self)
{
    return self->state == PSD_JOB_FINISHED || self->ending ||
           has_quorum(self, psd_membership_count(&self->members, PSD_WORKER_LIVE));
}

static void welcome_shard(psd_coordinator_t *self, uint32_t s, psd_actions_t *out)
{
    psd_msg_t *yes = psd_actions_send(out, self->servers.row[s].peer, PSD_MSG_SHARD_WELCOME, NULL);
    yes->job = self->config.job_id;
    yes->seq = self->servers.row[s].nonce;
    yes->shard = s;
    yes->shard_epoch = self->servers.row[s].epoch;
    yes->world = self->config.n_servers;
    yes->n_elements = self->settings.part_elements;
    yes->code = self->saves.n_points > 0 ? PSD_WELCOME_RESTORE : 0;
    yes->clock = psd_saves_newest(&self->saves);
    /* The state of the job, because servers report it too. */
    if (self->state != PSD_JOB_FINISHED) /* it reads that in the log, and then ends */
        yes->code |= ((uint32_t)shown_state(self) + 1) * PSD_WELCOME_STATE;
    if (goes_on(self) && !psd_servers_count_lost(&self->servers))
        yes->code |= PSD_WELCOME_READY;
    describe_absent(self, yes->text, sizeof yes->text);
}

/* The job is over: a restarted server need not join. */
static void tell_finished(psd_peer_t to, uint64_t nonce, psd_actions_t *out)
{
    psd_msg_t *over = psd_actions_send(out, to, PSD_MSG_SHARD_WELCOME, NULL);
    over->seq = nonce;
    over->code = PSD_WELCOME_FINISHED;
}

static void join_server(psd_coordinator_t *self, uint64_t now_ms, const psd_server_hello_t *hello, psd_actions_t *out)
{
    char why[PSD_MAX_TEXT];
    bool is_new;
    const int index = psd_servers_join(&self->servers, now_ms, hello, self->runs, &is_new, why, sizeof why);
    if (index < 0) {
        refuse(self, hello->from, hello->nonce, PSD_REFUSAL_SHARD, out, "%s", why);
        return;
    }
    if (is_new) {
        psd_actions_log(out, PSD_LEVEL_INFO, "server.joined", "shard=%d endpoint=%s", index, self->servers.row[index].endpoint);
        psd_journal_note_sent(&self->journal, (uint32_t)index, now_ms); /* repeated hellos must not delay repeated entries */
    }
    welcome_shard(self, (uint32_t)index, out);
    evaluate(self, now_ms, out);
}

static void on_shard_hello(psd_coordinator_t *self, const psd_heard_t *in)
{
    const psd_shard_hello_t *theirs = psd_body_shard_hello(in->payload);
    psd_server_hello_t hello = { .from = in->from, .nonce = in->msg->seq, .place = in->msg->code, .endpoint = theirs->endpoint };
    char why[PSD_MAX_TEXT];
    if (!is_of_this_job(self, in, theirs->job))
        return;
    if (strcmp(theirs->settings, self->settings.text)) {
        refuse(self, in->from, in->msg->seq, PSD_REFUSAL_CONFIG, in->out,
               "server %s has other settings: ours %.400s, theirs %.400s", theirs->endpoint, self->settings.text, theirs->settings);
        return;
    }
    const bool over = self->state == PSD_JOB_FINISHED;
    switch (psd_servers_judge(&self->servers, in->now_ms, &hello, over, why, sizeof why)) {
    case PSD_SERVER_ADMITTED:
        join_server(self, in->now_ms, &hello, in->out);
        break;
    case PSD_SERVER_RESTARTED:
        if (over)
            tell_finished(in->from, in->msg->seq, in->out);
        else if (take_up_again(self, in->now_ms, hello.place - 1, in->out))
            join_server(self, in->now_ms, &hello, in->out);
        break;
    case PSD_SERVER_WAITS:
        tell_to_wait(self, in->from, in->msg->seq, why, in->out);
        break;
    case PSD_SERVER_REFUSED:
        refuse(self, in->from, in->msg->seq, PSD_REFUSAL_SHARD, in->out, "%s", why);
        break;
    case PSD_SERVER_OVERTAKEN:
        break;
    }
}

/* A shard reports the entries that it has carried out and the pushes that are complete there. */
static void on_shard_state(psd_coordinator_t *self, const psd_heard_t *in)
{
    const psd_round_t *state = psd_body_round(in->payload);
    if (in->msg->job != self->config.job_id) {
        refuse(self, in->from, 0, PSD_REFUSAL_RUN, in->out, "this is job run %016" PRIx64 ", you are of %016" PRIx64,
               self->config.job_id, in->msg->job);
        return;
    }
    if (!psd_servers_is_from(&self->servers, in->from, in->msg->shard)) {
        self->report.rejected[PSD_REFUSAL_SESSION]++;
        return;
    }
    psd_journal_note_done(&self->journal, in->msg->shard, in->msg->seq);
    answer_settings(self, in->out);
    psd_servers_note_state(&self->servers, in->now_ms, in->msg->shard, in->msg->clock, in->msg->version);
    if (in->msg->code & PSD_SHARD_RESTORE_FAILED && self->saves.n_points) {
        drop_point(self, in->now_ms, in->msg->shard, in->msg->text, in->out);
        return;
    }
    psd_saves_note_shard(&self->saves, in->msg, in->out);
    const bool in_rounds = psd_mode_has_rounds(self->config.mode);
    if (!in_rounds)
        note_rejected(self, in->now_ms, state, in->out);
    /* A report from before the newest decision is out of date: its shard may have dropped those pushes. */
    bool news = in_rounds && state->n_contributors && state->clock == self->clock + 1 && in->msg->view_id == self->view_id;
    for (uint32_t k = 0; news && k < state->n_contributors; k++) {
        const psd_member_t *c = &state->contributor[k];
        psd_worker_row_t *row = &self->members.row[c->worker];
        if (row->incarnation != c->incarnation)
            continue;
        psd_server_set_add(&row->complete, in->msg->shard);
        row->samples = c->samples;
        row->loss = c->loss;
        row->nonfinite |= c->nonfinite;
    }
    if (news)
        evaluate(self, in->now_ms, in->out);
    if (self->cuts)
        save_between_rounds(self, in->now_ms, in->out);
}

/* The sums that a pass has measured at a shard. When all shards have reported, the totals go into the log. */
static void on_sums(psd_coordinator_t *self, const psd_heard_t *in)
{
    const size_t n = in->payload ? in->payload->n_bytes / sizeof(double) : 0;
    uint32_t n_total;
    if (in->msg->job != self->config.job_id || !psd_servers_is_from(&self->servers, in->from, in->msg->shard)) {
        self->report.rejected[PSD_REFUSAL_SESSION]++;
        return;
    }
    if (in->msg->clock != self->clock ||
        !psd_totals_take(&self->totals, in->msg->shard, (int)in->msg->code, n ? in->payload->data : NULL, n, &n_total))
        return;
    append_entry(self, in->now_ms, PSD_MSG_TOTALS, in->msg->code, psd_payload_copy(self->totals.total, n_total * sizeof(double)),
                 in->out);
    evaluate(self, in->now_ms, in->out);
}

/* Log the tensors whose state the newest look has changed, from or to one that needs attention. */
static void log_health(const psd_coordinator_t *self, psd_actions_t *out)
{
    enum { MOST = 8 }; /* lines per look */
    char why[PSD_HEALTH_TEXT];
    uint32_t n = 0;
    for (uint32_t t = 0; t < self->health.n_tensors; t++) {
        const psd_health_tensor_t *x = &self->health.tensor[t];
        if (x->state == x->told || !(psd_health_is_ill(x->state) || psd_health_is_ill(x->told)) || n++ >= MOST)
            continue;
        psd_health_describe(&self->health, t, why);
        if (*why)
            psd_actions_log(out, PSD_LEVEL_WARN, psd_health_event(x->state), "tensor=\"%s\" step=%" PRIu64 " reason=\"%s\"",
                            self->model.tensor[t].name, self->health.step, why);
        else
            psd_actions_log(out, PSD_LEVEL_INFO, psd_health_event(x->state), "tensor=\"%s\" step=%" PRIu64,
                            self->model.tensor[t].name, self->health.step);
    }
    if (n > MOST)
        psd_actions_log(out, PSD_LEVEL_WARN, "tensor.more", "tensors=%u step=%" PRIu64, n - MOST, self->health.step);
}

/* A shard's report of what a step did to its tensors. */
static void on_look(psd_coordinator_t *self, const psd_heard_t *in)
{
    if (in->msg->job != self->config.job_id || !psd_servers_is_from(&self->servers, in->from, in->msg->shard)) {
        self->report.rejected[PSD_REFUSAL_SESSION]++;
        return;
    }
    begin_over_model(self, HEALTH);
    const size_t n = in->payload ? in->payload->n_bytes / sizeof(double) : 0;
    if (psd_health_take(&self->health, in->msg->shard, in->msg->version, n ? in->payload->data : NULL, n))
        log_health(self, in->out);
}

/* ---- followers ---- */

/* Make all shards keep the weights as they are between the same two entries of the log. */
static void take_snapshot(psd_coordinator_t *self, const psd_heard_t *in)
{
    psd_round_t same = { .clock = self->clock,
                         .lr = self->config.lr,
                         .view_id = self->view_id,
                         .n_members = self->n_view,
                         .member = new_members(self) };
    memcpy(same.member, self->view, self->n_view * sizeof *same.member);
    append_command(self, in->now_ms, &same, PSD_COMMAND_SNAPSHOT, in->out);
    psd_follow_made(&self->follow, in->now_ms, in->from, psd_journal_last(&self->journal), progress(self));
}

static void tell_model(psd_coordinator_t *self, const psd_heard_t *in)
{
    psd_tensor_list_t list;
    const int rc = psd_tensors_copy(&list, &self->model);
    assert(rc == PSD_OK && "no memory for the model's list of tensors");
    psd_buf_t *body = psd_body_of_tensors(&list);
    answer(self, in->from, PSD_MSG_MODEL, NULL, body, in->out)->seq = in->msg->seq;
    psd_buf_unref(&body);
}

/* A follower reads weights and takes no part: it has no id and no lease, and nothing waits for it. */
static void on_follow(psd_coordinator_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    if (!is_of_this_job(self, in, psd_body_hello(in->payload)->job))
        return;
    if (self->state == PSD_JOB_FINISHED || self->ending) {
        refuse(self, in->from, msg->seq, PSD_REFUSAL_JOB, in->out, "job %s %s; its weights are in its checkpoints", self->job,
               self->stopped ? "was stopped" : "is finished");
        return;
    }
    const bool begun = self->model.n && self->n_view;
    const uint64_t number = msg->job == self->config.job_id ? msg->clock : 0;
    psd_follow_answer_t may = PSD_FOLLOW_WAIT;
    if (begun)
        may = psd_follow_ask(&self->follow, in->now_ms, in->from, number, msg->code & PSD_FOLLOW_GONE, progress(self));
    if (may == PSD_FOLLOW_WAIT) {
        tell_to_wait(self, in->from, msg->seq,
                     begun ? "other followers to finish reading" : "the job to begin: it has no weights yet", in->out);
        return;
    }
    if (may == PSD_FOLLOW_MAKE)
        take_snapshot(self, in);
    if (msg->code & PSD_FOLLOW_MODEL)
        tell_model(self, in);
    psd_buf_t *body = describe_cluster(self);
    psd_msg_t *yes = answer(self, in->from, PSD_MSG_FOLLOWED, NULL, body, in->out);
    yes->seq = msg->seq;
    yes->clock = self->follow.number;
    psd_buf_unref(&body);
}

/* ---- operators' requests ---- */

bool psd_coordinator_pause(psd_coordinator_t *self, uint64_t now_ms, bool paused, psd_actions_t *out)
{
    const bool was = self->paused;
    if (was != paused) {
        self->paused = paused;
        self->round_since_ms = now_ms;
        evaluate(self, now_ms, out);
    }
    return was;
}

const psd_worker_row_t *psd_coordinator_drain(psd_coordinator_t *self, const char *word, psd_actions_t *out)
{
    psd_worker_row_t *row = psd_membership_find(&self->members, word);
    if (row) {
        row->drains = true;
        psd_actions_log(out, PSD_LEVEL_INFO, "worker.drain", "worker=%u name=%s", row->id, row->name);
    }
    return row;
}

psd_save_outcome_t psd_coordinator_save_outcome(psd_coordinator_t *self, uint64_t since_ms, uint64_t *clock)
{
    const bool saved = is_saved(self);
    *clock = psd_saves_newest(&self->saves);
    if (psd_saves_is_newer(&self->saves, since_ms) || (!psd_saves_is_busy(&self->saves) && saved)) {
        if (saved)
            psd_saves_unask(&self->saves);
        return PSD_SAVE_SAFE;
    }
    return psd_saves_has_failed_since(&self->saves, since_ms) ? PSD_SAVE_FAILED : PSD_SAVE_PENDING;
}

void psd_coordinator_answer(psd_coordinator_t *self, psd_peer_t to, psd_kind_t kind, uint64_t seq, psd_refusal_t reason,
                            const char *text, psd_actions_t *out)
{
    psd_msg_t *msg = answer(self, to, kind, NULL, NULL, out);
    msg->seq = seq;
    if (kind == PSD_MSG_REFUSED) {
        msg->code = reason;
        self->report.rejected[reason]++;
    }
    snprintf(msg->text, sizeof msg->text, "%s", text);
}

const char *psd_coordinator_job(const psd_coordinator_t *self) { return self->job; }
psd_job_state_t psd_coordinator_state(const psd_coordinator_t *self) { return self->state; }
bool psd_coordinator_is_ending(const psd_coordinator_t *self) { return self->state == PSD_JOB_FINISHED || self->ending; }
bool psd_coordinator_can_save(const psd_coordinator_t *self) { return self->config.checkpoints; }

bool psd_coordinator_has_quorum(const psd_coordinator_t *self)
{
    return has_quorum(self, psd_membership_count(&self->members, PSD_WORKER_LIVE));
}

void psd_coordinator_describe_position(const psd_coordinator_t *self, char *text, size_t n)
{
    snprintf(text, n, "%s %" PRIu64, self->config.mode->unit, progress(self) / self->config.n_servers);
}

/* ---- events ---- */

/* This process was away: the silence of others meanwhile does not count. After a long absence, in which connections may have
 * broken, every lease starts again. */
static void excuse_absence(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const uint64_t away_ms = psd_absence(&self->seen_ms, now_ms);
    const bool long_away = away_ms > self->config.lease_ms / 2;
    const uint64_t by_ms = long_away ? now_ms : away_ms;
    if (!away_ms)
        return;
    psd_membership_excuse(&self->members, by_ms, now_ms);
    psd_servers_excuse(&self->servers, by_ms, now_ms);
    psd_absent_excuse(&self->absent, away_ms, now_ms);
    uint64_t *const since[] = { &self->round_since_ms, &self->first_ready_ms, &self->newest_ready_ms, &self->finish_since_ms,
                                &self->end_since_ms };
    for (size_t i = 0; i < sizeof since / sizeof *since; i++)
        if (*since[i])
            *since[i] = psd_absence_excuse(*since[i], away_ms, now_ms);
    if (long_away)
        psd_actions_log(out, PSD_LEVEL_WARN, "server.away",
                        "ms=%" PRIu64 " effect=\"this process got no time; all leases start again\"", away_ms);
}

void psd_coordinator_heard(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg)
{
    psd_worker_row_t *row = &self->members.row[msg->worker];
    if (msg->job == self->config.job_id && msg->incarnation == row->incarnation && row->user == psd_peer_user(from) &&
        psd_worker_is_here(row))
        row->heard_ms = now_ms;
}

/* The messages that a coordinator takes, with their handlers: some get the row of the worker that sent them. */
typedef void handler_fn(psd_coordinator_t *self, const psd_heard_t *in);
typedef void member_fn(psd_coordinator_t *self, psd_worker_row_t *row, const psd_heard_t *in);
static const struct handler {
    handler_fn *take;
    member_fn *take_of_worker;
} handlers[] = {
    [PSD_MSG_HELLO] = { .take = on_hello },
    [PSD_MSG_HEARTBEAT] = { .take_of_worker = on_heartbeat },
    [PSD_MSG_REGISTER] = { .take_of_worker = on_register },
    [PSD_MSG_LEAVE] = { .take_of_worker = on_leave },
    [PSD_MSG_SETTING] = { .take_of_worker = on_setting },
    [PSD_MSG_REPORT] = { .take_of_worker = on_report },
    [PSD_MSG_SHARD_HELLO] = { .take = on_shard_hello },
    [PSD_MSG_SHARD_STATE] = { .take = on_shard_state },
    [PSD_MSG_SUMS] = { .take = on_sums },
    [PSD_MSG_LOOK] = { .take = on_look },
    [PSD_MSG_FOLLOW] = { .take = on_follow },
};

bool psd_coordinator_takes(psd_kind_t kind)
{
    return (size_t)kind < sizeof handlers / sizeof *handlers && (handlers[kind].take || handlers[kind].take_of_worker);
}

/* A worker's message, from the holder of its row: `take` handles its kind. */
static void on_worker_message(psd_coordinator_t *self, member_fn *take, const psd_heard_t *in)
{
    if (in->msg->job != self->config.job_id) {
        refuse(self, in->from, 0, PSD_REFUSAL_RUN, in->out, "this is job run %016" PRIx64 ", you are of %016" PRIx64,
               self->config.job_id, in->msg->job);
        return;
    }
    psd_worker_row_t *row = &self->members.row[in->msg->worker];
    /* A LEAVE counts even if it comes twice, or from a worker that was wrongly given up: its work is done all the same. */
    bool goes = (row->state == PSD_WORKER_LEFT || row->state == PSD_WORKER_LOST) && in->msg->kind == PSD_MSG_LEAVE;
    if (in->msg->incarnation != row->incarnation || in->msg->seq != row->nonce || row->user != psd_peer_user(in->from) ||
        !(psd_worker_is_here(row) || goes)) {
        self->report.rejected[PSD_REFUSAL_INCARNATION]++;
        psd_msg_t *fenced = tell_fenced(self, in->from, row, in->msg->incarnation, in->out);
        fenced->worker = in->msg->worker; /* even for a row that was never used */
        fenced->seq = 0;                  /* the nonce is only for its holder */
        return;
    }
    psd_worker_hears_from(row, in->from, in->now_ms);
    if (in->msg->clock > row->clock)
        row->clock = in->msg->clock;
    take(self, row, in);
}

void psd_coordinator_message(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                             psd_actions_t *out)
{
    const psd_heard_t in = { now_ms, from, msg, payload, out };
    excuse_absence(self, now_ms, out);
    if (psd_failure_is_on(&self->failure))
        answer_failing(self, from, msg, out);
    else if (!psd_coordinator_takes(msg->kind))
        return; /* the table of messages lets no other kind through */
    else if (handlers[msg->kind].take)
        handlers[msg->kind].take(self, &in);
    else
        on_worker_message(self, handlers[msg->kind].take_of_worker, &in);
}

void psd_coordinator_tick(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    excuse_absence(self, now_ms, out);
    if (psd_failure_is_on(&self->failure)) {
        tend_failure(self, now_ms, out);
        return;
    }
    tend_log(self, now_ms, out);
    check_leases(self, now_ms, out);
    evaluate(self, now_ms, out);
    save_between_rounds(self, now_ms, out);
    tend_end(self, now_ms, out);
    tend_absent(self, now_ms, out);
    if (self->state == PSD_JOB_FINISHED) {
        const bool all_know = every_shard_is_done(self) && !psd_membership_any_going(&self->members, now_ms);
        if (!self->finished_told && (all_know || now_ms > self->finish_since_ms + FINISH_MS)) {
            self->finished_told = true;
            char unsaved[PSD_MAX_TEXT / 2];
            psd_saves_describe_trouble(&self->saves, unsaved, sizeof unsaved);
            if (psd_saves_is_failing(&self->saves) && !is_saved(self) && (self->saves.n_points || !self->stopped))
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
    describe_wait(self, text, sizeof text);
    const bool lost = psd_servers_count_lost(&self->servers) || self->state == PSD_JOB_DEGRADED;
    if (text[0] && self->line_ms && (self->state != PSD_JOB_TRAINING || old_round || lost))
        psd_actions_log(out, lost ? PSD_LEVEL_WARN : PSD_LEVEL_INFO, "job.waiting", "for=\"%s\"", text);
    self->line_ms = now_ms;
}

/* ---- life ---- */

psd_coordinator_t *psd_coordinator_new(const psd_coordinator_config_t *config, psd_err_t *err)
{
    psd_coordinator_t *self = calloc(1, sizeof *self);
    if (self) {
        self->config = *config;
        self->job = strdup(config->job);
        self->settings = *config->settings;
        psd_servers_init(&self->servers, config->n_servers, config->lease_ms);
        psd_journal_init(&self->journal, config->n_servers);
        self->runs = 1;
        self->was_even = true;
        psd_saves_init(&self->saves,
                       &(psd_saves_config_t){ .possible = config->checkpoints,
                                              .n_servers = config->n_servers,
                                              .mode = config->mode,
                                              .every_rounds = config->save_every_rounds,
                                              .every_ms = config->save_every_ms },
                       config->points, config->n_points);
        self->clock = psd_saves_newest(&self->saves);
        begin_progress(self);
        psd_totals_init(&self->totals, &config->groups, &config->clip);
        psd_health_init(&self->health, &config->groups, &config->clip);
    }
    bool copied = self && (!config->model || psd_tensors_copy(&self->model, config->model) == PSD_OK);
    if (!copied || !self->job) {
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
    psd_totals_clear(&self->totals);
    psd_health_clear(&self->health);
    psd_forecast_clear(&self->forecast);
    psd_forecast_clear(&self->before);
    psd_tensors_clear(&self->model);
    free(self->job);
    free(self);
}

/* ---- facts ---- */

void psd_coordinator_facts(const psd_coordinator_t *self, psd_coordinator_facts_t *out)
{
    *out = self->report;
    out->state = shown_state(self);
    out->stopped = self->stopped;
    out->view_id = self->view_id;
    out->clock = self->clock;
    out->skipped = self->skipped;
    out->gathered = self->gathered;
    out->lr = self->config.lr;
    out->runs = self->runs;
    out->has_point = self->saves.n_points > 0;
    out->point_clock = psd_saves_newest(&self->saves);
    out->point_ms = self->saves.point_ms;
    out->save_ms = self->saves.took_ms;
    out->saving = psd_saves_is_busy(&self->saves);
    out->save_failing = psd_saves_is_failing(&self->saves);
    out->n_members = psd_membership_count(&self->members, PSD_WORKER_LIVE);
    out->n_finished = psd_membership_count_finished(&self->members);
    out->n_shards = psd_servers_count_joined(&self->servers);
    out->workers_min = self->config.workers_min;
    out->workers_want = self->config.workers_want;
    out->n_lost_servers = psd_servers_count_lost(&self->servers);
    out->n_lost_workers = 0;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        out->n_lost_workers += psd_absent_is_worker_lost(&self->absent, &self->members.row[i], self->config.lease_ms);
    out->lacks_first_point = lacks_first_point(self);
    out->quorum = goes_on(self);
    const psd_absent_look_t look = look_for_absent(self);
    out->n_absent = psd_absent_list(&self->absent, &look, out->absent, PSD_MAX_ABSENT);
    describe_wait(self, out->waiting_for, sizeof out->waiting_for);
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
    return worker < self->members.n_rows &&
           psd_absent_is_worker_lost(&self->absent, &self->members.row[worker], self->config.lease_ms);
}

const psd_health_t *psd_coordinator_health(const psd_coordinator_t *self) { return &self->health; }

const psd_membership_t *psd_coordinator_members(const psd_coordinator_t *self) { return &self->members; }
