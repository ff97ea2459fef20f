#include "server/core/engine.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/absence.h"
#include "common/optim/aggregate.h"
#include "proto/coded.h"
#include "proto/measured.h"
#include "server/core/ahead.h"
#include "server/core/applied.h"
#include "server/core/forecast.h"
#include "server/core/health.h"
#include "server/core/residuals.h"
#include "server/core/seeding.h"
#include "server/core/snapshot.h"
#include "server/core/update.h"

enum {
    LINE_MS = 5000,         /* between two log lines on waiting for server 0 */
    STATE_EVERY_MS = 250,   /* a sign of life to the coordinator */
    COMPLETE_SOON_MS = 20,  /* between two reports of some whole pushes; doubles with each, up to STATE_EVERY_MS */
    COMPLETE_AGAIN_MS = 500 /* how often the report of whole pushes is repeated */
};

enum { MAX_EARLY = 16 }; /* log entries kept while a step runs; later ones are requested again by their numbers */

typedef struct early {
    psd_msg_t msg;
    psd_buf_t *payload;
} early_t;

struct psd_engine {
    psd_engine_config_t config;
    char *name, *settings, *endpoint; /* name: the job's */
    bool welcomed;
    uint32_t index, n_servers;
    uint64_t job, shard_epoch, view_id, log_done;
    struct {
        uint64_t heard_ms; /* when its last message came, moved on by our own absences */
        uint64_t tick_ms, line_ms;
        bool known; /* it has given us a place once */
        bool lost;
        char told[192]; /* its last WAIT */
        psd_engine_word_t word;
    } first;   /* server 0 */
    double lr; /* as in the log's last entry */
    struct {
        char why[PSD_MAX_TEXT];
        psd_refusal_t refusal;
        uint64_t since_ms; /* the first tick after that; 0: none came */
    } failure;             /* why the job fails, as server 0 said or as seen here; "": it does not */
    uint64_t skipped;      /* bsp: rounds with gradients that made no step, in a row */
    char bad[320];         /* the worker whose gradient was last not finite, and where; "": none here */
    uint32_t world;        /* members of the view */

    psd_tensor_list_t model;
    uint8_t *group_of;            /* of each tensor */
    double rates[PSD_MAX_GROUPS]; /* of the last step */
    psd_partition_t map;
    psd_shard_t *shard;
    uint32_t part_elements; /* most of a part, as server 0 said */
    uint32_t n_parts;       /* here, at least 1: a shard without chunks gets one empty part */
    psd_seeding_t seeding;

    psd_applied_t applied;
    uint64_t clock, version;
    uint64_t samples;        /* behind the version */
    bool held;               /* asp: pushes wait */
    psd_update_t update;     /* the step that is being made */
    psd_forecast_t forecast; /* of the open round */
    uint64_t n_forecasts;    /* ever: this is its number, in all runs */
    uint32_t n_folded;       /* its first contributors, whose pushes are in the shard's sums */
    uint32_t n_folding;      /* parts that threads are adding up */
    psd_ahead_t ahead;       /* steps of the open round */
    struct {
        uint32_t rounds;             /* closed; 0: the shard is between two steps */
        uint32_t n;                  /* gradients in their sum */
        uint64_t samples;            /* of these */
        uint64_t begun;              /* the clock before the first of the rounds: that of the weights as they are */
        bool is_last;                /* the round that was closed last is one of them */
    } gathered;                      /* of a step that takes several rounds */
    psd_applied_row_t *stepping_for; /* the worker whose push is being stepped; NULL: all members */
    uint64_t sums_sent_ms;
    early_t early[MAX_EARLY];
    uint32_t n_early;
    psd_saver_t saver;
    psd_residuals_t residuals; /* for what it makes */
    uint64_t restored_clock;   /* of the checkpoint that this run began from */
    uint32_t n_loading;        /* residuals being read from it */
    bool restore_failed;       /* the named checkpoint could not be loaded here */
    bool restoring;            /* between PSD_ACT_RESTORE and its outcome */
    bool leaving_run;          /* the coordinator has begun another run: start over when nothing runs */
    uint64_t state_sent_ms;
    struct {
        uint32_t n;                /* of these, those reported to the coordinator */
        uint64_t soon_ms, soon_in; /* when to report more (but not all) of them, and how long to wait between reports */
        uint64_t again_ms;         /* when to repeat the report */
    } told;
    psd_snapshot_t snapshot; /* for followers */
    psd_engine_stats_t stats;
    psd_ledger_fn *ledger;
    void *ledger_arg;
};

static void start_queued_push(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);
static void begin_save(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);
static void tend_residuals(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);
static void carry_out(psd_engine_t *self, const psd_heard_t *in);
static void send_progress(psd_engine_t *self, const psd_applied_row_t *w, uint64_t seq, psd_actions_t *out);
static void run_early_commands(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);
static bool start_over_if_due(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);

/* ---- messages out ---- */

static psd_msg_t *send_to(psd_engine_t *self, psd_peer_t to, psd_kind_t kind, psd_buf_t *payload, psd_actions_t *out)
{
    psd_msg_t *msg = psd_actions_send(out, to, kind, payload);
    msg->job = self->job;
    msg->shard = self->index;
    msg->shard_epoch = self->shard_epoch;
    msg->view_id = self->view_id;
    msg->map_id = 1;
    msg->version = self->version;
    msg->sync_epoch = psd_engine_sync_epoch(self);
    return msg;
}

static psd_msg_t *send_to_worker(psd_engine_t *self, const psd_applied_row_t *w, psd_kind_t kind, psd_buf_t *payload,
                                 psd_actions_t *out)
{
    psd_msg_t *msg = send_to(self, w->peer, kind, payload, out);
    msg->worker = w->id;
    msg->incarnation = w->incarnation;
    if (w->standing == PSD_MEMBER) {
        msg->rank = w->rank;
        msg->world = self->world;
    }
    msg->parts = self->n_parts;
    msg->clock = w->applied;
    return msg;
}

/* The state of the whole job, in a message of weights. */
static void tell_job(const psd_engine_t *self, psd_msg_t *msg)
{
    msg->loss = self->stats.loss;
    msg->lr = self->stats.lr;
    msg->value = (double)self->samples;
}

/* Whether a worker's residual from the checkpoint is here; whether a checkpoint needs its residual; and whether its last gradient
 * waits for those of later rounds. */
static void tell_worker(const psd_engine_t *self, const psd_applied_row_t *w, psd_msg_t *msg)
{
    msg->code = (w->kept ? PSD_WEIGHTS_RESIDUAL : 0) | (self->gathered.is_last ? PSD_WEIGHTS_GATHERED : 0);
    msg->saved = psd_residuals_wish(&self->residuals, w->id, w->incarnation);
}

static psd_msg_t *send_weights(psd_engine_t *self, const psd_applied_row_t *w, uint32_t part, const psd_shard_sent_t *weights,
                               psd_actions_t *out)
{
    psd_msg_t *msg = send_to_worker(self, w, PSD_MSG_WEIGHTS, weights->payload, out);
    msg->part = part;
    msg->n_elements = psd_shard_elements(self->shard, part);
    msg->dtype = PSD_DTYPE_F32;
    msg->codec = weights->codec;
    self->stats.pulls_fast++;
    return msg;
}

static void send_part(psd_engine_t *self, const psd_applied_row_t *w, uint32_t part, psd_actions_t *out)
{
    const psd_shard_sent_t weights = psd_shard_sent(self->shard, part);
    psd_msg_t *msg = send_weights(self, w, part, &weights, out);
    tell_job(self, msg);
    tell_worker(self, w, msg);
}

/* An empty WEIGHTS: this shard's chunks have not changed, continue. Not sent in a job that has failed: weights may travel another
 * way than the refusal that says so, and arrive before it. */
static void send_unchanged(psd_engine_t *self, const psd_applied_row_t *w, psd_actions_t *out)
{
    if (*self->failure.why)
        return;
    psd_msg_t *msg = send_to_worker(self, w, PSD_MSG_WEIGHTS, NULL, out);
    tell_job(self, msg);
    tell_worker(self, w, msg);
}

static psd_progress_t look(const psd_engine_t *self, const psd_applied_row_t *w)
{
    return (psd_progress_t){ .clock = self->clock,
                             .members = self->world,
                             .push = w->applied + 1,
                             .slowest = self->applied.slowest,
                             .resumes_at = w->resumes_at,
                             .staleness = self->version - w->inbox.base_version,
                             .max_staleness = self->config.max_staleness,
                             .lr_rule = self->config.lr_rule,
                             .held = self->held };
}

static bool may_pull(const psd_engine_t *self, const psd_applied_row_t *w)
{
    const psd_progress_t p = look(self, w);
    return self->config.mode->may_pull(&p);
}

static bool is_started(const psd_engine_t *self) { return self->shard && self->seeding.is_over; }

static void send_all_weights(psd_engine_t *self, psd_applied_row_t *w, psd_actions_t *out)
{
    psd_applied_owe(&self->applied, w, false);
    if (!psd_shard_parts(self->shard))
        send_unchanged(self, w, out);
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++)
        send_part(self, w, p, out);
}

/* New members get the weights as soon as there are some, the worker is attached, and no step is under way. */
static void pay_debts(psd_engine_t *self, psd_actions_t *out)
{
    if (!self->applied.n_owed || !is_started(self) || self->update.open)
        return;
    for (uint32_t i = 0; i < self->applied.n_rows; i++) {
        psd_applied_row_t *w = psd_applied_attached(&self->applied, i);
        if (w && w->owed && !w->is_loading && may_pull(self, w))
            send_all_weights(self, w, out);
    }
}

static void send_init_wanted(psd_engine_t *self, psd_actions_t *out)
{
    psd_buf_t *map = psd_payload_copy(self->seeding.newest, psd_bitmap_bytes(self->n_parts));
    psd_msg_t *msg = send_to_worker(self, self->applied.row[self->seeding.worker], PSD_MSG_INIT_WANTED, map, out);
    msg->seq = self->seeding.seq;
    msg->code = self->seeding.array;
    psd_buf_unref(&map);
}

/* Request more from the same worker, if more is needed. */
static void widen_seeding(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (psd_seeding_widen(&self->seeding, self->shard, now_ms))
        send_init_wanted(self, out);
}

/* Ask an attached member for the initial values that are missing. */
static void request_init(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_seeding_t *seeding = &self->seeding;
    if (!self->shard || is_started(self))
        return;
    const psd_applied_row_t *asked = seeding->asking ? psd_applied_attached(&self->applied, seeding->worker) : NULL;
    if (asked && psd_seeding_waits(seeding, asked->incarnation, now_ms)) {
        if (!seeding->flying) /* the turn of another array came while the worker could not be asked */
            widen_seeding(self, now_ms, out);
        else if (psd_seeding_repeats(seeding, now_ms))
            send_init_wanted(self, out);
        return;
    }
    /* Another member each time: the one asked before may be dead, and the view cannot change before there are weights. */
    for (uint32_t k = 0; k < self->applied.n_rows; k++) {
        const uint32_t i = (seeding->worker + seeding->asking + k) % self->applied.n_rows;
        const psd_applied_row_t *w = psd_applied_attached(&self->applied, i);
        if (!w)
            continue;
        psd_seeding_turn_to(seeding, i, w->incarnation, now_ms);
        widen_seeding(self, now_ms, out);
        return;
    }
}

/* What the coordinator must know of a member to decide about it: of a round, that its push is whole; where each push is a step,
 * how many in a row were rejected. */
static bool report_of(const psd_engine_t *self, const psd_applied_row_t *w, psd_member_t *out)
{
    const bool in_rounds = psd_mode_has_rounds(self->config.mode);
    if (!w || !(in_rounds ? w->inbox.complete : w->in_vain > 0))
        return false;
    *out = (psd_member_t){ .worker = w->id, .incarnation = w->incarnation, .samples = w->in_vain, .nonfinite = true };
    if (in_rounds)
        *out = (psd_member_t){ .worker = w->id,
                               .incarnation = w->incarnation,
                               .samples = w->inbox.samples,
                               .loss = w->inbox.loss,
                               .norm2 = w->inbox.norm2,
                               .nonfinite = w->inbox.nonfinite };
    return true;
}

/* Report all of them; without rounds there are few, if any. */
static void list_members(const psd_engine_t *self, psd_round_t *state)
{
    psd_member_t one;
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->applied.n_rows; i++)
        n += report_of(self, psd_applied_member(&self->applied, i), &one);
    state->contributor = n ? calloc(n, sizeof *state->contributor) : NULL;
    assert((state->contributor || !n) && "no memory for a report");
    for (uint32_t i = 0; n && i < self->applied.n_rows; i++)
        state->n_contributors += report_of(self, psd_applied_member(&self->applied, i), &state->contributor[state->n_contributors]);
}

/* A sign of life: which log entries are done; with `lists`, also what is to be known of members. */
static void send_sign(psd_engine_t *self, bool lists, psd_actions_t *out)
{
    psd_round_t state = { .clock = self->clock + 1 };
    if (lists)
        list_members(self, &state);
    psd_buf_t *payload = psd_body_of_round(&state);
    psd_msg_t *msg = send_to(self, PSD_PEER_COORDINATOR, PSD_MSG_SHARD_STATE, payload, out);
    msg->seq = self->log_done;
    msg->clock = self->clock;
    msg->saved = self->saver.saved;
    msg->code = is_started(self) ? PSD_SHARD_STARTED : 0;
    if (self->saver.failed > self->saver.saved)
        msg->code |= PSD_SHARD_SAVE_FAILED;
    if (self->restore_failed)
        msg->code |= PSD_SHARD_RESTORE_FAILED;
    if (msg->code & (PSD_SHARD_SAVE_FAILED | PSD_SHARD_RESTORE_FAILED))
        snprintf(msg->text, sizeof msg->text, "%s", self->saver.trouble);
    psd_buf_unref(&payload);
}

/* Report everything that the coordinator must know of this shard now. Lost reports are repeated, but not with each sign of life:
 * the list of whole pushes is long if there are many workers. */
static void send_state(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    self->told.n = self->applied.n_complete;
    self->told.soon_in = COMPLETE_SOON_MS;
    self->told.soon_ms = now_ms + COMPLETE_SOON_MS;
    self->told.again_ms = now_ms + STATE_EVERY_MS;
    send_sign(self, true, out);
}

/* More pushes are whole. When all are, the round can close, and the coordinator hears of it at once. Before that it gets a few
 * collected reports per round, however many workers there are; it needs these if the other pushes never come. */
static void tell_complete(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (self->told.n == self->applied.n_complete || !psd_mode_has_rounds(self->config.mode))
        return;
    if (self->applied.n_complete < self->world && now_ms < self->told.soon_ms)
        return;
    self->told.n = self->applied.n_complete;
    self->told.soon_in = 2 * self->told.soon_in < STATE_EVERY_MS ? 2 * self->told.soon_in : STATE_EVERY_MS;
    self->told.soon_ms = now_ms + self->told.soon_in;
    self->told.again_ms = now_ms + STATE_EVERY_MS;
    send_sign(self, true, out);
}

/* A sign of life is due. */
static void repeat_state(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const bool lists = now_ms >= self->told.again_ms;
    if (lists) {
        self->told.n = self->applied.n_complete;
        self->told.again_ms = now_ms + COMPLETE_AGAIN_MS;
    }
    send_sign(self, lists, out);
}

static psd_msg_t *refuse(psd_engine_t *self, psd_peer_t to, psd_refusal_t reason, psd_actions_t *out, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static psd_msg_t *refuse(psd_engine_t *self, psd_peer_t to, psd_refusal_t reason, psd_actions_t *out, const char *format, ...)
{
    self->stats.rejected[reason]++;
    psd_msg_t *msg = send_to(self, to, PSD_MSG_REFUSED, NULL, out);
    msg->code = reason;
    va_list args;
    va_start(args, format);
    vsnprintf(msg->text, sizeof msg->text, format, args);
    va_end(args);
    return msg;
}

static void fence(psd_engine_t *self, psd_peer_t to, const psd_msg_t *about, psd_actions_t *out)
{
    self->stats.rejected[PSD_REFUSAL_INCARNATION]++;
    const psd_applied_row_t *w = self->applied.row[about->worker];
    psd_msg_t *msg = send_to(self, to, PSD_MSG_FENCED, NULL, out);
    msg->worker = about->worker;
    msg->incarnation = w ? w->incarnation : 0;
    if (msg->incarnation > about->incarnation)
        snprintf(msg->text, sizeof msg->text, "worker %u incarnation %" PRIu64 " was replaced by incarnation %" PRIu64,
                 about->worker, about->incarnation, msg->incarnation);
    else
        snprintf(msg->text, sizeof msg->text,
                 "worker %u incarnation %" PRIu64 " is no longer a member: it has sent nothing for "
                 "longer than the lease, its push came later than round_timeout, or its gradients had Inf or NaN "
                 "(sync.quarantine_after)",
                 about->worker, about->incarnation);
}

/* ---- the step ---- */

/* Report to the coordinator what the step did to the tensors here. Nothing waits for the message: if it is lost, there is one look
 * less. */
static void send_look(psd_engine_t *self, psd_actions_t *out)
{
    const uint32_t chunks = psd_shard_chunks(self->shard);
    if (!self->update.looks || !chunks)
        return;
    psd_buf_t *payload = psd_payload_copy(self->update.look, (size_t)chunks * PSD_LOOK_TERMS * sizeof(double));
    psd_msg_t *msg = send_to(self, PSD_PEER_COORDINATOR, PSD_MSG_LOOK, payload, out);
    msg->parts = chunks;
    msg->n_elements = PSD_LOOK_TERMS;
    psd_buf_unref(&payload);
}

static void step_finished(psd_engine_t *self, uint64_t now_ms, bool stepped, psd_actions_t *out)
{
    if (stepped) {
        self->version++;
        self->samples += self->update.samples;
        self->stats.steps++;
        self->stats.samples += self->update.samples;
        send_look(self, out);
    }
    self->stats.syncs = psd_engine_sync_epoch(self);
    begin_save(self, now_ms, out);
    pay_debts(self, out);
    run_early_commands(self, now_ms, out);
    start_queued_push(self, now_ms, out);
}

/* Send the coordinator the sums that the pass has measured here. */
static void send_sums(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const uint32_t chunks = psd_shard_chunks(self->shard), n = psd_update_sums(&self->update);
    psd_buf_t *payload = chunks ? psd_payload_copy(self->update.sum, (size_t)chunks * n * sizeof(double)) : NULL;
    psd_msg_t *msg = send_to(self, PSD_PEER_COORDINATOR, PSD_MSG_SUMS, payload, out);
    msg->clock = self->clock;
    msg->code = (uint32_t)self->update.pass;
    msg->parts = chunks;
    msg->n_elements = n;
    self->sums_sent_ms = now_ms;
    psd_buf_unref(&payload);
}

/* Hand out the work of the update's pass, one piece per part. A shard without chunks is done with that at once. */
static void hand_out(psd_engine_t *self, psd_actions_t *out)
{
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        psd_work_t *work = psd_shard_pending(self->shard, p);
        if (psd_ahead_has(&self->ahead, p))
            continue;
        psd_update_hand_out(&self->update, work);
        if (psd_update_is_step(&self->update) && !psd_saver_may_step(&self->saver, self->shard, work))
            continue;
        psd_bitmap_set(self->update.busy, p);
        psd_actions_work(out, work);
    }
    psd_update_pass_is_over(&self->update);
}

/* If a pass is over, tell what it has measured here, or continue if the other shards have nothing to add. */
static void end_pass(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    while (self->update.measured && !psd_update_sums(&self->update)) {
        psd_update_settle(&self->update, self->update.pass, NULL, 0);
        hand_out(self, out);
    }
    if (self->update.measured)
        send_sums(self, now_ms, out);
}

/* The position of the next step, in the schedule's unit. Only steps that were made count, and their samples, so that a skipped
 * round or a pause shifts nothing. */
static double progress_of(const psd_engine_t *self)
{
    return psd_schedule_progress(&self->config.schedule, self->version, self->samples, self->model.rows);
}

static double rate_of_round(const psd_engine_t *self)
{
    const psd_progress_t p = { .clock = self->clock, .members = self->world, .lr_rule = self->config.lr_rule };
    return self->config.mode->rate(&p);
}

/* What the next step is made with: the schedule computes each group's rate from `base`, and the momentum. */
static psd_stepping_t next_stepping(const psd_engine_t *self, double base)
{
    psd_stepping_t with = { .momentum = NAN };
    const double progress = progress_of(self);
    for (uint32_t g = 0; g < self->config.groups.n; g++)
        with.lr[g] = psd_groups_rate(&self->config.groups, g, &self->config.schedule, base, progress);
    psd_schedule_momentum(&self->config.schedule, progress, &with.momentum);
    return with;
}

static void note_rates(psd_engine_t *self, const psd_stepping_t *with)
{
    memcpy(self->rates, with->lr, sizeof self->rates);
    self->stats.lr = self->rates[self->config.groups.n_said - 1];
}

/* The pushes of `contributor[0..n)`, whose samples sum to `total`, count: note what they say of the job. How many have samples. */
static uint32_t note_contributors(psd_engine_t *self, psd_applied_row_t **contributor, uint32_t n, uint64_t total)
{
    uint32_t n_all = 0;
    self->stats.loss = self->stats.grad_norm2 = 0;
    for (uint32_t k = 0; k < n; k++) {
        const psd_inbox_t *push = &contributor[k]->inbox;
        self->stats.loss += push->loss * (double)push->samples / (double)total;
        self->stats.grad_norm2 += push->norm2;
        n_all += push->samples > 0;
        if (self->ledger)
            self->ledger(self->ledger_arg, self->index, contributor[k]->applied + 1, contributor[k]->id,
                         contributor[k]->incarnation);
    }
    return n_all;
}

static bool gathers(const psd_engine_t *self) { return self->config.accumulate > 1; }

/* The pushes' gradients of a part, for its work. Where a step takes several rounds, their weights are terms. */
static void add_gradients(const psd_engine_t *self, psd_work_t *work, psd_applied_row_t **contributor, uint32_t n, uint64_t total,
                          uint32_t n_all)
{
    const psd_reduce_t how = self->config.reduce;
    for (uint32_t k = 0; k < n; k++) {
        const psd_inbox_t *push = &contributor[k]->inbox;
        if (!push->parked[work->part])
            continue;
        if (push->joint && psd_measured_mean(push->parked[work->part])) { /* it is the mean over all of them */
            while (work->n_gradients)
                psd_buf_unref(&work->gradient[--work->n_gradients]);
            work->weight[0] = 1;
            work->gradient[work->n_gradients++] = psd_buf_ref(push->parked[work->part]);
            return;
        }
        work->weight[work->n_gradients] =
            gathers(self) ? psd_reduce_term(how, push->samples) : psd_reduce_weight(how, push->samples, total, n_all);
        work->gradient[work->n_gradients++] = psd_buf_ref(push->parked[work->part]);
    }
}

static psd_work_t *new_work(const psd_engine_t *self, uint32_t part, uint32_t n)
{
    psd_work_t *work = psd_shard_work(self->shard, part, n);
    assert(work && "no memory for a step's list of contributions");
    return work;
}

static psd_work_t *new_step(const psd_engine_t *self, uint32_t part, uint32_t n, const psd_stepping_t *with)
{
    psd_work_t *work = new_work(self, part, n);
    memcpy(work->lr, with->lr, sizeof work->lr);
    work->momentum = with->momentum;
    return work;
}

/* A round whose gradients wait for those of others: add them to the sums, and let go of them. Meanwhile workers continue with the
 * weights that they have; the log waits. */
static void gather(psd_engine_t *self, psd_applied_row_t **contributor, uint32_t n, uint64_t total, psd_actions_t *out)
{
    const uint32_t n_all = note_contributors(self, contributor, n, total);
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        psd_work_t *work = new_work(self, p, n);
        work->folds = true;
        add_gradients(self, work, contributor, n, total, n_all);
        self->n_folding++;
        psd_actions_work(out, work);
    }
    if (!self->gathered.rounds++)
        self->gathered.begun = self->clock;
    self->gathered.n += n_all;
    self->gathered.samples += total;
}

/* Whether the next step measures what it does to the tensors. */
static bool looks(const psd_engine_t *self) { return psd_health_is_due(self->config.look_every, self->version + 1); }

/* Begin an update: the mean over `contributor[0..n)`, whose samples sum to `total`, and over what was gathered before. With
 * `measures`, clipping and the rule measure the whole model before the step; otherwise `scale` is known. The schedule computes the
 * rates from `base`. Parts whose step was made ahead have it already. */
static void start_update(psd_engine_t *self, psd_applied_row_t **contributor, uint32_t n, uint64_t total, double base,
                         bool measures, float scale, psd_actions_t *out)
{
    const psd_stepping_t with = next_stepping(self, base);
    note_rates(self, &with);
    self->stats.clip_scale = (double)scale;
    const uint32_t n_all = note_contributors(self, contributor, n, total);
    const uint64_t samples = self->gathered.samples + total;
    psd_ahead_settle(&self->ahead, &with);
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        if (psd_ahead_has(&self->ahead, p)) {
            psd_shard_adopt(self->shard, p);
            continue;
        }
        psd_work_t *work = new_step(self, p, n, &with);
        work->scale = scale;
        work->onto = self->n_folded || self->gathered.rounds;
        work->divisor = gathers(self) ? psd_reduce_divisor(self->config.reduce, samples, self->gathered.n + n_all) : 0;
        add_gradients(self, work, contributor, n, total, n_all);
    }
    memset(&self->gathered, 0, sizeof self->gathered);
    psd_update_begin(&self->update, samples, measures, looks(self));
    hand_out(self, out);
    assert((!self->ahead.adopted || self->update.open) && "no step is made ahead of the part that was the last to come");
}

static void send_stepped_to(psd_engine_t *self, psd_applied_row_t *w, uint32_t part, psd_actions_t *out)
{
    if (!w || w->owed)
        return;
    if (may_pull(self, w))
        send_part(self, w, part, out);
    else
        psd_applied_owe(&self->applied, w, true);
}

/* A step that is being made counts while its weights are sent: they carry the version that it makes, and the samples behind it. */
static void count_step(psd_engine_t *self)
{
    self->version++;
    self->samples += self->update.samples;
}

static void discount_step(psd_engine_t *self)
{
    self->version--;
    self->samples -= self->update.samples;
}

/* A part's step has run: send its weights to the workers that wait for them. */
static void send_stepped(psd_engine_t *self, const psd_work_t *work, psd_actions_t *out)
{
    count_step(self);
    if (self->stepping_for)
        send_stepped_to(self, psd_applied_attached(&self->applied, self->stepping_for->id), work->part, out);
    for (uint32_t i = 0; !self->stepping_for && i < self->applied.n_rows; i++)
        send_stepped_to(self, psd_applied_attached(&self->applied, i), work->part, out);
    discount_step(self);
}

/* ---- pushes that are added up before their round is decided ---- */

/* Whether the push of the i-th expected contributor, by rank, is here, and as expected. */
static bool can_fold(const psd_engine_t *self, uint32_t i)
{
    const psd_member_t *expected = &self->forecast.member[i];
    const psd_applied_row_t *w = psd_applied_member(&self->applied, expected->worker);
    return w && w->incarnation == expected->incarnation && w->inbox.complete && w->inbox.samples &&
           w->inbox.samples == expected->samples && !w->inbox.nonfinite && !w->inbox.joint;
}

/* Whether the open round's pushes may be added up. */
static bool may_fold(const psd_engine_t *self)
{
    return self->forecast.n && self->config.fold_at && self->forecast.n >= self->config.fold_from &&
           !psd_rule_votes(&psd_groups_rest(&self->config.groups)->rule);
}

/* ---- steps that are made before their round is decided ---- */

/* Whether the open round may be stepped ahead: its step is made from this round alone and in one pass, no checkpoint is being written,
 * and nothing says that the round will be skipped. A job that fails with the first skipped round leaves its workers the weights that
 * they have. */
static bool may_go_ahead(const psd_engine_t *self)
{
    return self->config.goes_ahead && self->forecast.n && self->forecast.n <= PSD_MOST_AHEAD &&
           self->applied.n_complete < self->forecast.n && !gathers(self) && !may_fold(self) && !self->update.open &&
           !self->saver.saving && !self->skipped && self->config.max_skipped != 1 && !*self->failure.why &&
           psd_shard_make_spare(self->shard);
}

/* The expected contributors, by rank, if this part has come from all of them, and each takes weights that are made ahead. Returns
 * the sum of their samples; 0: not all. */
static uint64_t find_ready(const psd_engine_t *self, uint32_t part, psd_applied_row_t **contributor)
{
    uint64_t total = 0;
    bool any = false;
    for (uint32_t i = 0; i < self->forecast.n; i++) {
        const psd_member_t *expected = &self->forecast.member[i];
        psd_applied_row_t *w = contributor[i] = psd_applied_attached(&self->applied, expected->worker);
        if (!w || w->incarnation != expected->incarnation || w->owed || !psd_inbox_goes_ahead(&w->inbox, part) ||
            w->inbox.nonfinite || !w->inbox.samples ||
            w->inbox.samples != (expected->samples ? expected->samples : contributor[0]->inbox.samples))
            return 0;
        total += w->inbox.samples;
        any |= w->inbox.parked[part] != NULL;
    }
    return any ? total : 0;
}

/* A part of a push has come: if it was the last of its part, step that. */
static void begin_ahead(psd_engine_t *self, const psd_msg_t *push, psd_actions_t *out)
{
    psd_applied_row_t *contributor[PSD_MOST_AHEAD];
    const uint64_t total = push->code & PSD_PUSH_AHEAD && may_go_ahead(self) ? find_ready(self, push->part, contributor) : 0;
    if (!total)
        return;
    const psd_stepping_t with = next_stepping(self, self->lr * rate_of_round(self));
    if (!psd_ahead_may_begin(&self->ahead, push->part, &with))
        return;
    psd_work_t *work = new_step(self, push->part, self->forecast.n, &with);
    work->ahead = true;
    work->look = looks(self) ? psd_update_look(&self->update, push->part) : NULL;
    add_gradients(self, work, contributor, self->forecast.n, total, self->forecast.n);
    psd_ahead_begin(&self->ahead, push->part, &with);
    psd_actions_work(out, work);
    self->stats.ahead++;
}

/* A part has been stepped ahead: send its weights to the contributors. */
static void stepped_ahead(psd_engine_t *self, uint64_t now_ms, const psd_work_t *work, psd_actions_t *out)
{
    const psd_shard_sent_t weights = psd_shard_ahead(self->shard, work->part);
    psd_ahead_returned(&self->ahead);
    if (start_over_if_due(self, now_ms, out))
        return;
    for (uint32_t i = 0; i < self->forecast.n; i++) {
        psd_applied_row_t *w = psd_applied_attached(&self->applied, self->forecast.member[i].worker);
        if (!w)
            continue;
        psd_msg_t *msg = send_weights(self, w, work->part, &weights, out);
        msg->clock = w->applied + 1;
        msg->version = self->version + 1;
        msg->code = PSD_WEIGHTS_AHEAD;
        msg->seq = w->ahead = self->ahead.number;
    }
    run_early_commands(self, now_ms, out);
}

/* The round makes the step that was made ahead: tell those workers that have its weights; others get them now. */
static void send_adopted(psd_engine_t *self, psd_actions_t *out)
{
    count_step(self);
    for (uint32_t i = 0; self->ahead.adopted && i < self->applied.n_rows; i++) {
        psd_applied_row_t *w = psd_applied_attached(&self->applied, i);
        const bool has = w && w->ahead == self->ahead.number;
        for (uint32_t p = 0; !has && p < psd_shard_parts(self->shard); p++)
            if (psd_ahead_has(&self->ahead, p))
                send_stepped_to(self, w, p, out);
        if (!has || w->owed)
            continue;
        psd_msg_t *msg = send_to_worker(self, w, PSD_MSG_WEIGHTS, NULL, out);
        tell_job(self, msg);
        tell_worker(self, w, msg);
        msg->code |= PSD_WEIGHTS_ADOPTED;
        msg->seq = w->ahead;
    }
    discount_step(self);
}

/* What was made ahead, and is not adopted, does not count. */
static void end_ahead(psd_engine_t *self) { self->stats.ahead_in_vain += psd_ahead_end(&self->ahead); }

/* ---- means that are computed while gradients are taken in ---- */

/* Whether the open round may be a mean that is computed before the round is decided: a plain one, of few gradients as they are. */
static bool may_join(const psd_engine_t *self)
{
    return self->forecast.n >= 2 && self->forecast.n <= PSD_AGGREGATE_TAKEN && is_started(self) && !gathers(self) &&
           psd_coding_is_lossless(&self->config.codings.push) && !psd_rule_votes(&psd_groups_rest(&self->config.groups)->rule);
}

/* Whether the shard has this part, and of this many elements: one without parameters has none. */
static bool is_part(const psd_engine_t *self, uint32_t part, uint32_t n_elements)
{
    return part < psd_shard_parts(self->shard) && n_elements == psd_shard_elements(self->shard, part);
}

/* A push's place in the mean that its round is expected to be. False: it has none. */
static bool find_term(const psd_engine_t *self, const psd_applied_row_t *w, const psd_msg_t *msg, psd_term_t *out)
{
    const psd_forecast_t *expected = &self->forecast;
    uint32_t i = 0;
    if (!may_join(self) || msg->chunks || !msg->samples || msg->nonfinite)
        return false;
    while (i < expected->n && expected->member[i].worker != w->id)
        i++;
    if (i == expected->n || expected->member[i].incarnation != w->incarnation ||
        (expected->samples && expected->member[i].samples != msg->samples))
        return false;
    const uint64_t total = expected->samples ? expected->samples : msg->samples * expected->n;
    *out = (psd_term_t){ .mean = self->n_forecasts << 32 | msg->part,
                         .n = expected->n,
                         .index = i,
                         .weight = psd_reduce_weight(self->config.reduce, msg->samples, total, expected->n) };
    return true;
}

bool psd_engine_term(const psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_term_t *out)
{
    if (msg->kind != PSD_MSG_PUSH || msg->job != self->job || msg->shard != self->index)
        return false;
    const psd_applied_row_t *w = psd_applied_member(&self->applied, msg->worker);
    if (!w || w->peer != from || w->incarnation != msg->incarnation || msg->clock != w->applied + 1 ||
        !find_term(self, w, msg, out) || msg->parts != self->n_parts || !is_part(self, msg->part, msg->n_elements) ||
        (w->inbox.held && w->inbox.samples != msg->samples))
        return false;
    for (uint32_t k = 0; k < self->forecast.n; k++) {
        const psd_applied_row_t *other = psd_applied_member(&self->applied, self->forecast.member[k].worker);
        if (!other || psd_inbox_has(&other->inbox, msg->part))
            return false;
    }
    return true;
}

/* Whether a payload is a gradient of its own, or the mean that the round is expected to be now: what was expected when it was
 * taken in may have changed since. */
static bool joins_as_expected(const psd_engine_t *self, const psd_applied_row_t *w, const psd_heard_t *in)
{
    const uint64_t mean = psd_measured_mean(in->payload);
    psd_term_t term;
    return !mean || (find_term(self, w, in->msg, &term) && term.mean == mean);
}

/* Add up the pushes whose turn has come, if there are enough to be worth a pass over the sums, and free their payloads. When all
 * have come, the round will soon be decided, and its step takes the rest. Only the step counts votes. */
static void fold_ready(psd_engine_t *self, psd_actions_t *out)
{
    const uint32_t first = self->n_folded;
    uint32_t n = 0;
    if (!may_fold(self) || !psd_shard_parts(self->shard) || self->n_folding || self->update.open)
        return;
    const psd_applied_row_t *lowest = self->applied.row[self->forecast.member[0].worker];
    if (lowest && lowest->inbox.complete)
        psd_forecast_settle(&self->forecast, lowest->inbox.samples);
    while (first + n < self->forecast.n && can_fold(self, first + n))
        n++;
    if (n < self->config.fold_at || first + n == self->forecast.n || !psd_shard_make_sums(self->shard))
        return;
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        psd_work_t *work = new_work(self, p, n);
        work->folds = true;
        for (uint32_t k = 0; k < n; k++) {
            const psd_member_t *expected = &self->forecast.member[first + k];
            psd_buf_t **payload = &self->applied.row[expected->worker]->inbox.parked[p];
            if (!*payload)
                continue;
            work->weight[work->n_gradients] =
                psd_reduce_weight(self->config.reduce, expected->samples, self->forecast.samples, self->forecast.n);
            work->gradient[work->n_gradients++] = *payload; /* the work's from here on */
            *payload = NULL;
        }
        self->n_folding++;
        psd_actions_work(out, work);
    }
    for (uint32_t k = 0; k < n; k++)
        self->applied.row[self->forecast.member[first + k].worker]->inbox.folded = true;
    self->n_folded += n;
    self->stats.folded += n;
}

/* The open round will differ from the forecast. Sums cannot be taken apart, so request the pushes again that were added up, here or
 * while they were taken in. */
static void unfold(psd_engine_t *self, psd_actions_t *out)
{
    assert(!self->n_folding && "the log waits for threads");
    for (uint32_t i = 0; i < self->forecast.n; i++) {
        psd_applied_row_t *w = self->applied.row[self->forecast.member[i].worker];
        if (!w || !(w->inbox.folded || w->inbox.joint))
            continue;
        const bool was_complete = w->inbox.complete;
        self->stats.asked_again += was_complete;
        psd_applied_drop_open(&self->applied, w);
        w->is_again |= was_complete;
        if (w->standing == PSD_MEMBER && w->peer)
            send_progress(self, w, 0, out);
    }
    if (self->n_folded)
        psd_shard_forget_sums(self->shard);
    self->n_folded = 0;
    end_ahead(self);
    psd_forecast_clear(&self->forecast);
}

static void folded(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (--self->n_folding)
        return;
    if (self->leaving_run) {
        start_over_if_due(self, now_ms, out);
        return;
    }
    run_early_commands(self, now_ms, out);
    fold_ready(self, out);
}

void psd_engine_worked(psd_engine_t *self, uint64_t now_ms, psd_work_t *work, psd_actions_t *out)
{
    if (work->folds) {
        folded(self, now_ms, out);
        return;
    }
    if (work->ahead) {
        stepped_ahead(self, now_ms, work, out);
        return;
    }
    const bool is_step = psd_update_is_step(&self->update), is_last = psd_update_returned(&self->update, work);
    psd_saver_stepped(&self->saver, self->shard, work->part, self->update.busy, out);
    if (self->leaving_run) {
        start_over_if_due(self, now_ms, out);
        return;
    }
    if (is_step) {
        self->stats.clip_scale = (double)work->clipped;
        send_stepped(self, work, out);
    }
    if (is_last && is_step)
        step_finished(self, now_ms, true, out);
    else if (is_last)
        end_pass(self, now_ms, out);
}

/* A step of a shard without chunks, or a round without a step: all members continue. */
static void finish_at_once(psd_engine_t *self, uint64_t now_ms, bool stepped, psd_actions_t *out)
{
    for (uint32_t i = 0; i < self->applied.n_rows; i++) {
        const psd_applied_row_t *w = psd_applied_attached(&self->applied, i);
        if (w && !w->owed)
            send_unchanged(self, w, out);
    }
    step_finished(self, now_ms, stepped, out);
}

/* The totals of all shards. */
static void on_totals(psd_engine_t *self, const psd_heard_t *in)
{
    const size_t n = in->payload ? in->payload->n_bytes / sizeof(double) : 0;
    const bool wanted = psd_update_settle(&self->update, (int)in->msg->code, n ? in->payload->data : NULL, n);
    assert(wanted && "the coordinator adds up what every shard has told it");
    self->log_done = in->msg->seq;
    hand_out(self, in->out);
    end_pass(self, in->now_ms, in->out);
    if (!self->update.open)
        finish_at_once(self, in->now_ms, true, in->out);
    send_state(self, in->now_ms, in->out);
}

/* ---- gradients that are not finite ---- */

/* Note in self->bad the worker and the tensor, as far as they are known here. */
static void note_bad(psd_engine_t *self, const psd_applied_row_t *w)
{
    const char *tensor = "";
    if (w->inbox.bad_chunk)
        tensor = self->model.tensor[self->map.chunk[self->map.held[self->index][w->inbox.bad_chunk - 1]].tensor].name;
    snprintf(self->bad, sizeof self->bad, "the gradient of worker %u has Inf or NaN%s%.200s", w->id,
             *tensor ? ", first in tensor " : "", tensor);
}

/* Each shard tells its own members that the job fails, because another server's message may be lost on the way. The shard that
 * knows whose gradient it was says so. */
static void tell_failure(psd_engine_t *self, psd_actions_t *out)
{
    if (self->failure.refusal == PSD_REFUSAL_HOPELESS && !*self->bad)
        return;
    for (uint32_t i = 0; i < self->applied.n_rows; i++) {
        const psd_applied_row_t *w = psd_applied_attached(&self->applied, i);
        if (w)
            refuse(self, w->peer, self->failure.refusal, out, "%s", self->failure.why);
    }
}

static void begin_failure(psd_engine_t *self, psd_refusal_t refusal, const char *why, psd_actions_t *out)
{
    if (*self->failure.why)
        return;
    snprintf(self->failure.why, sizeof self->failure.why, "%s", why);
    self->failure.refusal = refusal;
    tell_failure(self, out);
}

/* End a moment later, so that these messages, and the log's, are not lost with the connections. */
static void end_failed(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    enum { WORDS_MS = 300 };
    if (!self->failure.since_ms)
        self->failure.since_ms = now_ms;
    if (now_ms >= self->failure.since_ms + WORDS_MS)
        psd_actions_finish(out, psd_refusal_end(self->failure.refusal), self->failure.why);
    else
        tell_failure(self, out);
}

static void give_up_hope(psd_engine_t *self, uint64_t n, const char *what, psd_actions_t *out)
{
    char why[PSD_MAX_TEXT];
    snprintf(why, sizeof why,
             "%" PRIu64
             " %s in a row made no step (sync.max_skipped): %s; lower the learning rate, set clip.norm, or look at the data",
             n, what, *self->bad ? self->bad : "a gradient has Inf or NaN, at another server, which names it");
    begin_failure(self, PSD_REFUSAL_HOPELESS, why, out);
}

/* Whether workers keep state of their own, which is lost with them: a codec's residual, or the momentum by which they vote. */
static bool keeps_of_gradients(const psd_engine_t *self)
{
    return psd_rule_votes(&psd_groups_rest(&self->config.groups)->rule) || !psd_coding_is_lossless(&self->config.codings.push);
}

/* Before the round's pushes are forgotten. */
static void count_skipped(psd_engine_t *self, const psd_round_t *round, psd_actions_t *out)
{
    bool any = false;
    if (round->apply)
        self->skipped = 0;
    for (uint32_t i = 0; !round->apply && i < self->applied.n_rows; i++) {
        const psd_applied_row_t *w = psd_applied_member(&self->applied, i);
        if (!w || !w->inbox.complete || !w->inbox.samples)
            continue;
        any = true;
        /* A gradient that no codec can encode, or that gives no vote, is pushed as 0; only the worker's report tells of it. */
        if (w->inbox.bad_chunk || (w->inbox.nonfinite && keeps_of_gradients(self)))
            note_bad(self, w);
    }
    self->skipped += any;
    if (any && self->config.max_skipped && self->skipped == self->config.max_skipped)
        give_up_hope(self, self->skipped, "rounds", out);
}

/* ---- pushes that are steps of their own ---- */

static void count_staleness(psd_engine_t *self, psd_applied_row_t *w, uint64_t staleness)
{
    uint32_t bucket = 0;
    while (bucket + 1 < PSD_STALENESS_BUCKETS && staleness > (bucket ? 1u << (bucket - 1) : 0))
        bucket++;
    self->stats.staleness[bucket]++;
    self->stats.staleness_sum += staleness;
    if (staleness > self->stats.staleness_max)
        self->stats.staleness_max = staleness;
    w->staleness = staleness;
}

/* A push that makes no step, because it is too old or rejected: answer it with the present weights. */
static void answer_without_step(psd_engine_t *self, psd_applied_row_t *w, psd_refusal_t why, psd_actions_t *out)
{
    if (why)
        self->stats.rejected[why]++;
    psd_applied_close_next(&self->applied, w);
    if (!may_pull(self, w))
        psd_applied_owe(&self->applied, w, true);
    else if (why == PSD_REFUSAL_STALE)
        send_all_weights(self, w, out);
    else
        send_unchanged(self, w, out);
}

static void reject_nonfinite(psd_engine_t *self, psd_applied_row_t *w, psd_actions_t *out)
{
    note_bad(self, w);
    psd_actions_log(out, PSD_LEVEL_WARN, "gradient.nonfinite",
                    "worker=%u clock=%" PRIu64 " effect=\"the push is rejected\" reason=\"%s\"", w->id, w->applied + 1, self->bad);
    if (++w->in_vain == self->config.max_skipped)
        give_up_hope(self, w->in_vain, "pushes of a worker", out);
    send_sign(self, true, out);
    answer_without_step(self, w, PSD_REFUSAL_NONFINITE, out);
}

static void step_push(psd_engine_t *self, uint64_t now_ms, psd_applied_row_t *w, const psd_progress_t *p, psd_actions_t *out)
{
    self->stepping_for = w;
    start_update(self, &w, 1, w->inbox.samples, self->lr * self->config.mode->rate(p), false,
                 psd_clip_scale(&self->config.clip, w->inbox.whole_norm2), out);
    psd_applied_close_next(&self->applied, w);
    self->stats.rounds++;
    if (!self->update.open) {
        send_unchanged(self, w, out);
        step_finished(self, now_ms, true, out);
    }
}

static void start_queued_push(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const psd_mode_t *mode = self->config.mode;
    for (psd_applied_row_t *w; (w = psd_applied_front(&self->applied)) && !self->update.open;) {
        const bool here = w->standing == PSD_MEMBER && w->inbox.complete;
        const psd_progress_t p = here ? look(self, w) : (psd_progress_t){ 0 };
        if (here && !mode->may_step(&p))
            return;
        psd_applied_leave_front(&self->applied);
        if (!here)
            continue;
        count_staleness(self, w, p.staleness);
        if (w->inbox.nonfinite) {
            reject_nonfinite(self, w, out);
            continue;
        }
        if (w->inbox.samples)
            w->in_vain = 0;
        if (!w->inbox.samples)
            answer_without_step(self, w, PSD_REFUSAL_NONE, out);
        else if (mode->whole_push(&p) == PSD_PUSH_DROPS)
            answer_without_step(self, w, PSD_REFUSAL_STALE, out);
        else
            step_push(self, now_ms, w, &p, out);
    }
}

/* ---- the coordinator's log ---- */

static void install_view(psd_engine_t *self, const psd_round_t *round)
{
    self->view_id = round->view_id;
    self->world = round->n_members;
    for (uint32_t i = 0; i < self->applied.n_rows; i++)
        if (psd_applied_member(&self->applied, i))
            self->applied.row[i]->stays = false;
    for (uint32_t r = 0; r < round->n_members; r++) {
        const psd_member_t *m = &round->member[r];
        psd_applied_row_t *w = psd_applied_row(&self->applied, m->worker);
        w->stays = true;
        w->rank = r;
        if (w->incarnation != m->incarnation || w->nonce != m->nonce)
            w->peer = PSD_PEER_NONE; /* no process has attached, or a different one */
        if (w->incarnation != m->incarnation || w->standing != PSD_MEMBER) {
            psd_applied_drop_open(&self->applied, w);
            w->incarnation = m->incarnation;
            w->logged = m->incarnation;
            w->nonce = m->nonce;
            w->standing = PSD_MEMBER;
            w->in_vain = 0;
            const psd_progress_t p = look(self, w);
            w->applied = self->config.mode->joins_at(&p);
            psd_applied_owe(&self->applied, w, true);
            /* The residuals of older lives are lost, unless this run has just begun from a checkpoint that holds them. */
            if (self->clock && keeps_of_gradients(self) && psd_shard_parts(self->shard) && !w->has_saved)
                self->stats.residual_resets++;
        }
        psd_inbox_size(&w->inbox, self->n_parts);
    }
    for (uint32_t i = 0; i < self->applied.n_rows; i++)
        if (psd_applied_member(&self->applied, i) && !self->applied.row[i]->stays)
            psd_applied_leave(&self->applied, self->applied.row[i]);
    psd_applied_find_slowest(&self->applied);
}

static bool any_joint(psd_applied_row_t *const *w, uint32_t n)
{
    bool any = false;
    for (uint32_t i = 0; i < n; i++)
        any |= w[i]->inbox.joint;
    return any;
}

/* The coordinator has closed the round: make a step from these contributors, or a part of one (`waits`), or none; then every member
 * may continue with the next. */
static void carry_out_round(psd_engine_t *self, uint64_t now_ms, const psd_round_t *round, bool waits, psd_actions_t *out)
{
    psd_applied_row_t **contributor = calloc(round->n_contributors + 1, sizeof *contributor);
    assert(contributor && "no memory for a round's contributors");
    uint64_t total = 0;
    uint32_t n = 0;
    for (uint32_t k = 0; k < round->n_contributors; k++) {
        psd_applied_row_t *w = self->applied.row[round->contributor[k].worker];
        assert(w && w->inbox.complete && w->incarnation == round->contributor[k].incarnation &&
               "the coordinator counts only pushes that every shard holds");
        contributor[n++] = w;
        total += w->inbox.samples;
    }
    count_skipped(self, round, out);
    self->stepping_for = NULL;
    const bool as_expected = psd_forecast_comes_true(&self->forecast, round);
    assert((!round->apply || (!self->n_folded && !any_joint(contributor, n)) || as_expected) &&
           "the coordinator announces a round that is another than expected");
    if (self->saver.saving || waits || !as_expected)
        end_ahead(self);
    if (waits)
        gather(self, contributor, n, total, out);
    else if (round->apply)
        start_update(self, contributor, n, total, round->lr * rate_of_round(self), true, 1, out);
    else if (self->n_folded)
        psd_shard_forget_sums(self->shard);
    self->n_folded = 0;
    free(contributor);
    self->gathered.is_last = waits;
    self->clock = round->clock;
    self->stats.rounds++;
    for (uint32_t i = 0; i < self->applied.n_rows; i++) {
        psd_applied_row_t *w = self->applied.row[i];
        if (psd_applied_member(&self->applied, i))
            psd_applied_close(&self->applied, w, round->clock);
        else if (w)
            psd_applied_forget_saved(w);
    }
    install_view(self, round);
    /* This step also serves new members, part by part with the others. */
    for (uint32_t i = 0; self->update.open && i < self->applied.n_rows; i++)
        if (psd_applied_attached(&self->applied, i))
            psd_applied_owe(&self->applied, self->applied.row[i], false);
    send_adopted(self, out);
    end_ahead(self);
    end_pass(self, now_ms, out); /* without chunks a pass is over at once */
    if (!self->update.open)
        finish_at_once(self, now_ms, round->apply && !waits, out);
}

/* The clock that the weights are of when rounds up to `clock` are closed: those that wait for their step are not in them. */
static uint64_t clock_of_weights(const psd_engine_t *self, uint64_t clock)
{
    return self->gathered.rounds ? self->gathered.begun : clock;
}

/* The coordinator's forecast of the next round. */
static void take_forecast(psd_engine_t *self, const psd_heard_t *in)
{
    const psd_forecast_kind_t kind = in->msg->code & PSD_COMMAND_EVEN   ? PSD_FORECAST_EVEN
                                     : in->msg->code & PSD_COMMAND_SAME ? PSD_FORECAST_SAME
                                                                        : PSD_FORECAST_NONE;
    psd_forecast_take(&self->forecast, psd_body_round(in->payload), kind);
    self->n_forecasts++;
}

/* ---- snapshots for followers ---- */

/* A follower asks for parts of a snapshot. If the snapshot is still to come, there is no answer: the follower asks again. */
static void on_read(psd_engine_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    if (msg->clock > self->snapshot.number)
        return;
    if (msg->parts != self->n_parts) {
        refuse(self, in->from, PSD_REFUSAL_SHAPE, in->out, "reading of %u parts; shard %u has %u", msg->parts, self->index,
               self->n_parts)
            ->seq = msg->seq;
        return;
    }
    psd_buf_t *const *parts = psd_snapshot_read(&self->snapshot, in->now_ms, msg->clock, (msg->code & PSD_READ_SLOW) != 0);
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        if (!psd_bitmap_get(in->payload->data, p))
            continue;
        psd_msg_t *values = send_to(self, in->from, PSD_MSG_VALUES, parts ? parts[p] : NULL, in->out);
        values->seq = msg->seq;
        values->clock = msg->clock;
        values->part = p;
        values->parts = self->n_parts;
        values->version = self->snapshot.version;
        if (!parts)
            return;
        values->n_elements = psd_shard_elements(self->shard, p);
        values->dtype = PSD_DTYPE_F32;
        values->codec = PSD_CODEC_F32;
    }
}

static void on_command(psd_engine_t *self, const psd_heard_t *in)
{
    const psd_round_t *round = psd_body_round(in->payload);
    self->log_done = in->msg->seq;
    self->lr = round->lr;
    self->held = (in->msg->code & PSD_COMMAND_HOLD) != 0;
    if (in->msg->code & PSD_COMMAND_SAVE)
        psd_saver_order(&self->saver, in->msg->code & PSD_COMMAND_CLOSE ? round->clock : clock_of_weights(self, round->clock),
                        !psd_mode_has_rounds(self->config.mode));
    if (in->msg->code & PSD_COMMAND_FINISH) {
        /* Server 0 ends when its coordinator knows that all others have read this. */
        if (self->index && in->msg->code & PSD_COMMAND_STOP)
            psd_actions_finish(in->out, PSD_ESTOPPED, in->msg->text);
        else if (self->index)
            psd_actions_finish(in->out, PSD_OK, in->msg->text);
    } else if (in->msg->code & PSD_COMMAND_CLOSE) {
        carry_out_round(self, in->now_ms, round, (in->msg->code & PSD_COMMAND_GATHER) != 0, in->out);
        take_forecast(self, in);
    } else {
        const bool is_new = round->view_id != self->view_id;
        if (is_new)
            unfold(self, in->out);
        self->clock = round->clock;
        install_view(self, round);
        if (is_new)
            take_forecast(self, in);
        begin_save(self, in->now_ms, in->out);
        request_init(self, in->now_ms, in->out);
        pay_debts(self, in->out);
    }
    if (in->msg->code & PSD_COMMAND_SNAPSHOT)
        psd_snapshot_take(&self->snapshot, in->now_ms, in->msg->seq, self->version, is_started(self) ? self->shard : NULL,
                          psd_groups_have_slow(&self->config.groups));
    send_state(self, in->now_ms, in->out);
    tend_residuals(self, in->now_ms, in->out);
    start_queued_push(self, in->now_ms, in->out); /* which a pause held up */
}

static int cut_shard(psd_engine_t *self, psd_extent_t *extents, psd_err_t *err)
{
    const psd_engine_config_t *c = &self->config;
    int rc = psd_groups_assign(&c->groups, self->model.tensor->name, sizeof *self->model.tensor, extents, self->model.n,
                               self->group_of, err);
    if (!rc)
        rc = psd_partition_cut(&self->map, extents, self->model.n, self->n_servers, self->part_elements, err);
    if (!rc && !(self->shard = psd_shard_new(&c->groups, self->group_of, &c->clip, &c->codings, &self->map, self->index, err)))
        rc = PSD_ENOMEM;
    return rc;
}

/* Cut self->model for the servers and make room for this one's share. */
static int make_shard(psd_engine_t *self, psd_err_t *err)
{
    psd_extent_t *extents = psd_tensors_extents(&self->model);
    self->group_of = malloc(self->model.n);
    int rc = extents && self->group_of ? cut_shard(self, extents, err)
                                       : psd_err_set(err, PSD_ENOMEM, "no memory for the sizes of %u tensors", self->model.n);
    free(extents);
    if (rc == PSD_OK && self->config.new_weights &&
        !psd_shard_use(self->shard, self->config.new_weights, self->config.new_weights_arg))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the weights of %u tensors", self->model.n);
    if (rc == PSD_OK && gathers(self) && !psd_shard_make_sums(self->shard))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the sums of gradients of several rounds (sync.accumulate)");
    if (rc == PSD_OK && !psd_update_init(&self->update, self->shard, self->model.n))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the sums of %u tensors", self->model.n);
    if (rc == PSD_OK && !psd_ahead_init(&self->ahead, psd_shard_parts(self->shard)))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for a bitmap of %u parts", psd_shard_parts(self->shard));
    if (rc != PSD_OK)
        return rc;
    uint32_t parts = psd_shard_parts(self->shard);
    self->n_parts = parts ? parts : 1;
    psd_shard_inherit(self->shard, self->model.inherited);
    if (!psd_seeding_init(&self->seeding, self->n_parts))
        return psd_err_set(err, PSD_ENOMEM, "no memory for bitmaps of %u chunks", self->n_parts);
    if (!parts)
        psd_seeding_set_all(&self->seeding);
    return PSD_OK;
}

/* Server 0 logs which tensors are in which group. */
static void log_groups(const psd_engine_t *self, psd_actions_t *out)
{
    psd_engine_group_t group;
    char rule[PSD_RULE_TEXT];
    for (uint32_t g = 0; !self->index && self->config.groups.n > 1 && psd_engine_group(self, g, &group); g++)
        psd_actions_log(out, PSD_LEVEL_INFO, "optimizer.group",
                        "match=\"%s\" optimizer=\"%s\" lr_mult=%g clip=%s frozen=%s tensors=%u parameters=%" PRIu64,
                        group.is->match, self->config.print_rule(&group.is->rule, rule), group.is->lr_mult,
                        group.is->clips ? "on" : "off", group.is->freezes ? "yes" : "no", group.n_tensors, group.n_elements);
}

static void on_model(psd_engine_t *self, const psd_heard_t *in)
{
    psd_err_t err = { 0 };
    assert(!self->shard && "the log names the model once");
    if (psd_tensors_copy(&self->model, psd_body_tensors(in->payload)) != PSD_OK)
        psd_err_set(&err, PSD_ENOMEM, "no memory for the list of tensors");
    if (err.code || make_shard(self, &err) != PSD_OK) {
        psd_actions_finish(in->out, err.code, err.text);
        return;
    }
    uint32_t parts = psd_shard_parts(self->shard);
    self->log_done = in->msg->seq;
    psd_actions_log(in->out, PSD_LEVEL_INFO, "shard.model", "tensors=%u chunks=%u of=%u parts=%u parameters=%" PRIu64,
                    self->model.n, psd_shard_chunks(self->shard), self->map.n_chunks, parts, self->map.n_elements[self->index]);
    log_groups(self, in->out);
    send_state(self, in->now_ms, in->out);
}

/* Whether threads work for the open round, or for the step after the last: the log waits for them. */
static bool is_busy(const psd_engine_t *self) { return self->update.running || self->n_folding || self->ahead.running; }

static void on_log_entry(psd_engine_t *self, const psd_heard_t *in)
{
    if (self->leaving_run || !self->welcomed || self->restoring || in->msg->job != self->job)
        return;
    if (in->msg->seq <= self->log_done) {
        send_state(self, in->now_ms, in->out);
        return;
    }
    if (is_busy(self) || in->msg->seq > self->log_done + 1) {
        /* Early or out of order: keep it, so that a reordered log costs nothing. */
        for (uint32_t i = 0; i < self->n_early; i++)
            if (self->early[i].msg.seq == in->msg->seq)
                return;
        if (self->n_early < MAX_EARLY)
            self->early[self->n_early++] = (early_t){ *in->msg, psd_buf_ref(in->payload) };
        return;
    }
    carry_out(self, in);
    run_early_commands(self, in->now_ms, in->out);
}

static void run_early_commands(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    for (uint32_t i = 0; i < self->n_early && !is_busy(self); i++) {
        if (self->early[i].msg.seq > self->log_done + 1)
            continue;
        early_t next = self->early[i];
        self->early[i] = self->early[--self->n_early];
        if (next.msg.seq == self->log_done + 1)
            on_log_entry(self, &(psd_heard_t){ now_ms, PSD_PEER_COORDINATOR, &next.msg, next.payload, out });
        psd_buf_unref(&next.payload);
        i = UINT32_MAX; /* the list has changed: look again from its start */
    }
}

static void on_welcome(psd_engine_t *self, const psd_heard_t *in)
{
    if (self->leaving_run)
        return;
    if (in->msg->seq != self->config.nonce)
        return;
    psd_engine_word_t *word = &self->first.word;
    if (in->msg->code >= PSD_WELCOME_STATE) {
        word->known = true;
        word->state = in->msg->code / PSD_WELCOME_STATE - 1;
        word->ready = (in->msg->code & PSD_WELCOME_READY) != 0;
        snprintf(word->missing, sizeof word->missing, "%s", in->msg->text);
    }
    if (self->welcomed)
        return;
    if (in->msg->code & PSD_WELCOME_FINISHED) {
        psd_actions_finish(in->out, PSD_OK, "the job was finished before this server was started again");
        return;
    }
    self->welcomed = self->first.known = true;
    self->first.told[0] = '\0';
    self->index = in->msg->shard;
    self->n_servers = in->msg->world;
    self->part_elements = in->msg->n_elements;
    self->job = in->msg->job;
    self->shard_epoch = in->msg->shard_epoch;
    psd_actions_log(in->out, PSD_LEVEL_INFO, "shard.joined", "shard=%u of=%u epoch=%" PRIu64, self->index, self->n_servers,
                    self->shard_epoch);
    self->restoring = (in->msg->code & PSD_WELCOME_RESTORE) != 0;
    if (self->restoring)
        psd_actions_checkpoint(in->out, PSD_ACT_RESTORE, in->msg->clock, 0);
    else
        send_state(self, in->now_ms, in->out);
}

/* ---- messages of workers ---- */

/* A worker opens its session, or reopens it on a new connection. Only the log decides membership: a session that comes before its
 * entry is kept until the log admits a worker, and dropped then if it is not that worker's. */
static void on_attach(psd_engine_t *self, const psd_heard_t *in)
{
    psd_applied_row_t *w = psd_applied_row(&self->applied, in->msg->worker);
    if (in->msg->incarnation < w->logged || (in->msg->incarnation == w->logged && w->standing != PSD_MEMBER)) {
        fence(self, in->from, in->msg, in->out);
        return;
    }
    if (w->standing == PSD_MEMBER && in->msg->incarnation > w->incarnation) {
        psd_msg_t *wait = send_to(self, in->from, PSD_MSG_WAIT, NULL, in->out);
        wait->worker = in->msg->worker;
        snprintf(wait->text, sizeof wait->text, "shard %u waits for worker %u's older incarnation to be given up", self->index,
                 in->msg->worker);
        return;
    }
    if (w->standing == PSD_MEMBER && in->msg->seq != w->nonce) {
        refuse(self, in->from, PSD_REFUSAL_WORKER, in->out,
               "worker %u is another process: the number drawn at its start is not yours", in->msg->worker);
        return;
    }
    if (w->standing != PSD_MEMBER) {
        w->standing = PSD_PENDING;
        w->incarnation = in->msg->incarnation;
        w->nonce = in->msg->seq;
    }
    w->peer = in->from;
    send_to_worker(self, w, PSD_MSG_ATTACHED, NULL, in->out)->seq = in->msg->seq;
    if (w->has_saved && !w->kept && !w->is_loading) {
        w->is_loading = true;
        self->n_loading++;
        psd_actions_residual(in->out, PSD_ACT_LOAD_RESIDUAL, self->restored_clock, w->id, 0, NULL);
    }
    request_init(self, in->now_ms, in->out);
    pay_debts(self, in->out);
}

/* The sender's row, if the message comes from the session of a current member; otherwise it is answered and
 * NULL. */
static psd_applied_row_t *member_for(psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    psd_applied_row_t *w = self->applied.row[msg->worker];
    if (w && w->standing == PSD_MEMBER && msg->incarnation == w->incarnation) {
        if (w->peer == from)
            return w;
        refuse(self, from, PSD_REFUSAL_SESSION, out, "shard %u knows no session of worker %u on this connection: attach first",
               self->index, msg->worker);
        return NULL;
    }
    bool early = !w || msg->incarnation > w->incarnation || w->standing == PSD_PENDING;
    if (early)
        self->stats.rejected[PSD_REFUSAL_VIEW]++; /* the log will admit it; its probes ask again */
    else
        fence(self, from, msg, out);
    return NULL;
}

static void on_init(psd_engine_t *self, const psd_heard_t *in)
{
    if (!member_for(self, in->from, in->msg, in->out) || !self->shard)
        return;
    const uint32_t array = in->msg->code, part = in->msg->part;
    if (part >= psd_shard_parts(self->shard) || array >= psd_shard_initial_arrays(self->shard) ||
        in->msg->n_elements != psd_shard_initial_elements(self->shard, array, part)) {
        refuse(self, in->from, PSD_REFUSAL_SHAPE, in->out,
               "initial part %u of array %u with %u elements; shard %u has %u parts, each of %u arrays", part, array,
               in->msg->n_elements, self->index, psd_shard_parts(self->shard), psd_shard_initial_arrays(self->shard));
        return;
    }
    if (!psd_seeding_lacks(&self->seeding, array, part))
        return;
    if (!psd_checksum_ok(in->msg, in->payload->data, in->payload->n_bytes)) {
        self->stats.rejected[PSD_REFUSAL_CHECKSUM]++;
        return;
    }
    psd_shard_set_array(self->shard, array, part, in->payload->data);
    if (psd_seeding_came(&self->seeding, self->shard, part) && psd_applied_attached(&self->applied, self->seeding.worker))
        widen_seeding(self, in->now_ms, in->out);
    if (is_started(self)) {
        psd_actions_log(in->out, PSD_LEVEL_INFO, "shard.started", "worker=%u chunks=%u", in->msg->worker,
                        psd_shard_parts(self->shard));
        send_state(self, in->now_ms, in->out);
        pay_debts(self, in->out);
    }
}

/* Send the list of parts of the worker's open clock that have not arrived, as the answer to probe `seq` (0: unasked). */
static void send_progress(psd_engine_t *self, const psd_applied_row_t *w, uint64_t seq, psd_actions_t *out)
{
    psd_buf_t *lacking = psd_inbox_lacking(&w->inbox);
    psd_msg_t *msg = send_to_worker(self, w, PSD_MSG_PROGRESS, lacking, out);
    msg->clock = w->applied + 1;
    msg->seq = seq;
    psd_buf_unref(&lacking);
}

/* Request one damaged part again. Others that have not arrived may be on their way; a probe will tell. */
static void want_again(psd_engine_t *self, const psd_applied_row_t *w, uint32_t part, psd_actions_t *out)
{
    psd_buf_t *wanted = psd_inbox_lacking(&w->inbox);
    memset(wanted->data, 0, wanted->n_bytes);
    psd_bitmap_set(wanted->data, part);
    send_to_worker(self, w, PSD_MSG_PROGRESS, wanted, out)->clock = w->applied + 1;
    psd_buf_unref(&wanted);
}

static void on_complete(psd_engine_t *self, uint64_t now_ms, psd_applied_row_t *w, psd_actions_t *out)
{
    self->stats.pushes++;
    self->stats.folded += w->inbox.joint;
    psd_applied_complete(&self->applied, w, now_ms);
    const psd_progress_t p = look(self, w);
    const psd_push_t verdict = self->config.mode->whole_push(&p);
    if (psd_mode_has_rounds(self->config.mode)) {
        if (verdict == PSD_PUSH_DROPS)
            psd_inbox_drop_gradient(&w->inbox);
        fold_ready(self, out);
        tell_complete(self, now_ms, out);
        return;
    }
    psd_applied_enqueue(&self->applied, w);
    start_queued_push(self, now_ms, out);
}

/* Checks of one push that need the shard's knowledge. False when it was answered or dropped. */
static bool push_is_good(psd_engine_t *self, psd_peer_t from, psd_applied_row_t *w, const psd_msg_t *msg, psd_actions_t *out)
{
    if (msg->clock <= w->applied) {
        self->stats.rejected[PSD_REFUSAL_DUPLICATE]++;
        return false;
    }
    if (msg->clock > w->applied + 1) {
        self->stats.rejected[PSD_REFUSAL_CLOCK]++;
        send_progress(self, w, 0, out);
        return false;
    }
    bool whole = !msg->samples && !msg->n_elements; /* one empty part for a clock without samples */
    if (msg->parts != self->n_parts ||
        (msg->n_elements && (!is_part(self, msg->part, msg->n_elements) ||
                             (msg->chunks && msg->chunks != psd_shard_chunks_of(self->shard, msg->part))))) {
        refuse(self, from, PSD_REFUSAL_SHAPE, out, "push of part %u/%u with %u elements; shard %u has %u parts%s", msg->part,
               msg->parts, msg->n_elements, self->index, self->n_parts,
               msg->parts == self->n_parts ? ", this one of another size" : "");
        return false;
    }
    if (msg->n_elements && msg->codec != psd_coding_number(&self->config.codings.push)) {
        refuse(self, from, PSD_REFUSAL_SHAPE, out, "push of part %u in codec %u; this job's gradients are %s", msg->part,
               msg->codec, psd_coding_name(&self->config.codings.push));
        return false;
    }
    if (psd_inbox_has(&w->inbox, msg->part)) {
        self->stats.rejected[PSD_REFUSAL_DUPLICATE]++;
        return false;
    }
    if (w->inbox.held && (whole || msg->samples != w->inbox.samples)) {
        refuse(self, from, PSD_REFUSAL_SHAPE, out, "clock %" PRIu64 ": part %u has %" PRIu64 " samples, others %" PRIu64,
               msg->clock, msg->part, msg->samples, w->inbox.samples);
        return false;
    }
    return true;
}

/* Checksum and sum of squares of a part's gradient in one pass over memory: block by block, added in the order of blocks. One that
 * was proven on its way may have been measured there. */
static uint32_t inspect(const psd_buf_t *payload, size_t n_elements, bool proven, double *norm2)
{
    enum { BLOCK = 4096 };
    const float *x = payload->data;
    uint32_t crc = 0;
    *norm2 = proven ? psd_measured_squares(payload, n_elements) : 0;
    if (proven)
        return 0;
    for (size_t left = n_elements, n; left; left -= n, x += n) {
        n = left < BLOCK ? left : BLOCK;
        crc = psd_crc32c_extend(crc, x, n * sizeof *x);
        *norm2 += psd_sum_of_squares(x, n);
    }
    return psd_crc32c_extend(crc, x, payload->n_bytes - n_elements * sizeof *x);
}

/* Check a payload of the right size: compute its sum of squares and, if that is not finite, the number of the first bad chunk,
 * among the shard's, from 1. False, after an answer, if it was damaged on the way or cannot be decoded. */
static bool look_into(psd_engine_t *self, const psd_heard_t *in, psd_applied_row_t *w, double *norm2, uint32_t *bad)
{
    const psd_coding_t *coding = &self->config.codings.push;
    const uint32_t part = in->msg->part;
    const bool is_plain = psd_coding_is_lossless(coding);
    psd_err_t err = { 0 };
    uint32_t of_part = 0;
    bool is_whole;
    *norm2 = 0;
    *bad = 0;
    if (!in->payload)
        return true;
    if (is_plain)
        is_whole = inspect(in->payload, in->msg->n_elements, in->msg->proven, norm2) == in->msg->checksum;
    else
        is_whole = psd_checksum_ok(in->msg, in->payload->data, in->payload->n_bytes);
    if (!is_whole) {
        self->stats.rejected[PSD_REFUSAL_CHECKSUM]++;
        want_again(self, w, part, in->out);
        return false;
    }
    if (psd_coded_check(coding, &self->map, self->index, part, in->payload, in->msg->chunks != 0, &err) != PSD_OK) {
        refuse(self, in->from, PSD_REFUSAL_SHAPE, in->out, "push of part %u: %s", part, err.text);
        return false;
    }
    if (!is_plain || !isfinite(*norm2))
        *norm2 = psd_coded_squares(coding, &self->map, self->index, part, in->payload, &of_part);
    if (of_part)
        *bad = psd_shard_first(self->shard, part) + of_part;
    return true;
}

static void on_push(psd_engine_t *self, const psd_heard_t *in)
{
    psd_applied_row_t *w = member_for(self, in->from, in->msg, in->out);
    if (!w || !is_started(self) || !push_is_good(self, in->from, w, in->msg, in->out))
        return;
    double norm2;
    uint32_t bad;
    if (!look_into(self, in, w, &norm2, &bad))
        return;
    if (!joins_as_expected(self, w, in)) {
        want_again(self, w, in->msg->part, in->out);
        return;
    }
    self->stats.messages++;
    if (psd_inbox_take(&w->inbox, in->msg, in->payload, norm2, bad, self->version))
        on_complete(self, in->now_ms, w, in->out);
    begin_ahead(self, in->msg, in->out);
}

/* A connection keeps the order of messages: when an answer arrives, everything sent before it has arrived or is lost. So a probe
 * alone does not cause anything to be sent again; a worker that still misses something after the answer reports that. */
static void on_probe(psd_engine_t *self, const psd_heard_t *in)
{
    psd_applied_row_t *w = member_for(self, in->from, in->msg, in->out);
    if (!w)
        return;
    if (!is_started(self)) {
        if (psd_seeding_answered(&self->seeding, w->id, in->msg->base_version))
            widen_seeding(self, in->now_ms, in->out);
        return;
    }
    if (self->update.open || w->is_loading) {
        send_to_worker(self, w, PSD_MSG_ATTACHED, NULL, in->out); /* still here */
        return;
    }
    if (in->msg->clock > w->applied || !(in->msg->code & PSD_PROBE_SEND)) {
        send_progress(self, w, in->msg->seq, in->out);
        return;
    }
    /* The clock is closed, so the worker misses weights. */
    const uint8_t *wanted = in->payload->data;
    if (in->msg->parts != self->n_parts || !psd_shard_parts(self->shard)) {
        send_all_weights(self, w, in->out);
        return;
    }
    for (uint32_t p = 0; p < self->n_parts; p++)
        if (psd_bitmap_get(wanted, p))
            send_part(self, w, p, in->out);
}

static void on_pull_slow(psd_engine_t *self, const psd_heard_t *in)
{
    psd_applied_row_t *w = member_for(self, in->from, in->msg, in->out);
    if (!w || !is_started(self) || self->update.open || in->msg->parts != self->n_parts)
        return;
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        if (!psd_bitmap_get(in->payload->data, p))
            continue;
        psd_buf_t *slow = psd_shard_slow(self->shard, p);
        assert(slow && "no memory for a copy of slow weights");
        psd_msg_t *answer = send_to_worker(self, w, PSD_MSG_SLOW, slow, in->out);
        answer->part = p;
        answer->seq = in->msg->seq;
        answer->n_elements = psd_shard_elements(self->shard, p);
        answer->dtype = PSD_DTYPE_F32;
        answer->codec = PSD_CODEC_F32;
        psd_buf_unref(&slow);
        self->stats.pulls_slow++;
    }
}

/* A worker that resumes from a checkpoint requests its residual from there. */
static void on_residual_wanted(psd_engine_t *self, const psd_heard_t *in)
{
    psd_applied_row_t *w = member_for(self, in->from, in->msg, in->out);
    if (!w || !is_started(self) || in->msg->parts != self->n_parts)
        return;
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        if (!psd_bitmap_get(in->payload->data, p))
            continue;
        psd_msg_t *answer = send_to_worker(self, w, PSD_MSG_RESIDUAL, w->kept ? w->kept[p] : NULL, in->out);
        answer->part = p;
        answer->seq = in->msg->seq;
        if (!w->kept)
            continue;
        answer->n_elements = psd_shard_elements(self->shard, p);
        answer->dtype = PSD_DTYPE_F32;
        answer->codec = PSD_CODEC_F32;
    }
}

/* A part of a worker's residual, for the checkpoint, or its message that it no longer has it. */
static void on_residual(psd_engine_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    const psd_applied_row_t *w = member_for(self, in->from, msg, in->out);
    if (!w || !self->saver.awaits_residuals)
        return;
    if (!in->payload) {
        if (psd_residuals_wish(&self->residuals, w->id, w->incarnation) == msg->clock + 1)
            psd_residuals_leave_out(&self->residuals, w->id, w->incarnation);
        tend_residuals(self, in->now_ms, in->out);
        return;
    }
    if (msg->parts != self->n_parts || !is_part(self, msg->part, msg->n_elements) || msg->chunks || msg->codec != PSD_CODEC_F32) {
        refuse(self, in->from, PSD_REFUSAL_SHAPE, in->out, "residual of part %u/%u with %u elements; shard %u has %u parts",
               msg->part, msg->parts, msg->n_elements, self->index, self->n_parts);
        return;
    }
    if (!psd_checksum_ok(msg, in->payload->data, in->payload->n_bytes)) {
        self->stats.rejected[PSD_REFUSAL_CHECKSUM]++; /* it will be requested again */
        return;
    }
    if (!isfinite(psd_sum_of_squares(in->payload->data, msg->n_elements))) {
        refuse(self, in->from, PSD_REFUSAL_SHAPE, in->out, "residual of part %u has Inf or NaN; a residual is finite", msg->part);
        return;
    }
    if (!psd_residuals_take(&self->residuals, w->id, w->incarnation, msg->clock, msg->part, in->now_ms))
        return;
    psd_actions_residual(in->out, PSD_ACT_SAVE_RESIDUAL, self->saver.clock, w->id, msg->part, in->payload);
}

/* Server 0's message while it has no place for us. */
static void on_wait(psd_engine_t *self, const psd_heard_t *in)
{
    snprintf(self->first.told, sizeof self->first.told, "%.190s", in->msg->text);
}

static void on_refused(psd_engine_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    if (psd_refusal_end(msg->code)) {
        if (msg->seq == self->config.nonce)
            begin_failure(self, (psd_refusal_t)msg->code, msg->text, in->out);
    } else if (self->leaving_run) {
        return;
    } else if (msg->code == PSD_REFUSAL_RUN && self->welcomed) {
        self->leaving_run = msg->job != self->job;
        start_over_if_due(self, in->now_ms, in->out);
    } else if (msg->seq == self->config.nonce) {
        psd_actions_finish(in->out, PSD_EREFUSED, msg->text);
    }
}

/* The messages that a shard takes, with their handlers; an entry of the log is carried out when its turn comes. */
typedef void handler_fn(psd_engine_t *self, const psd_heard_t *in);
static const struct handler {
    handler_fn *take, *carry_out;
} handlers[] = {
    [PSD_MSG_ATTACH] = { .take = on_attach },
    [PSD_MSG_INIT] = { .take = on_init },
    [PSD_MSG_PUSH] = { .take = on_push },
    [PSD_MSG_PROBE] = { .take = on_probe },
    [PSD_MSG_PULL] = { .take = on_pull_slow },
    [PSD_MSG_RESIDUAL_WANTED] = { .take = on_residual_wanted },
    [PSD_MSG_RESIDUAL] = { .take = on_residual },
    [PSD_MSG_READ] = { .take = on_read },
    [PSD_MSG_WAIT] = { .take = on_wait },
    [PSD_MSG_REFUSED] = { .take = on_refused },
    [PSD_MSG_SHARD_WELCOME] = { .take = on_welcome },
    [PSD_MSG_COMMAND] = { .take = on_log_entry, .carry_out = on_command },
    [PSD_MSG_MODEL] = { .take = on_log_entry, .carry_out = on_model },
    [PSD_MSG_TOTALS] = { .take = on_log_entry, .carry_out = on_totals },
};

bool psd_engine_takes(psd_kind_t kind) { return (size_t)kind < sizeof handlers / sizeof *handlers && handlers[kind].take; }

static void carry_out(psd_engine_t *self, const psd_heard_t *in) { handlers[in->msg->kind].carry_out(self, in); }

static void on_worker_message(psd_engine_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    const bool is_followers = psd_kind_sender(msg->kind) & PSD_FROM_FOLLOWER; /* which match answers by these numbers */
    if (msg->job != self->job) {
        refuse(self, in->from, PSD_REFUSAL_JOB, in->out, "this is job run %016" PRIx64 ", you are of %016" PRIx64, self->job,
               msg->job)
            ->seq = is_followers ? msg->seq : 0;
        return;
    }
    if (msg->shard != self->index) {
        refuse(self, in->from, PSD_REFUSAL_SHARD, in->out, "this is shard %u, the message is for shard %u", self->index, msg->shard)
            ->seq = is_followers ? msg->seq : 0;
        return;
    }
    if (is_followers) {
        if (self->shard)
            handlers[msg->kind].take(self, in);
        return;
    }
    psd_seeding_heard(&self->seeding, msg->worker, msg->incarnation, in->now_ms);
    if (psd_engine_takes(msg->kind) && psd_kind_sender(msg->kind) & PSD_FROM_WORKER)
        handlers[msg->kind].take(self, in);
    else
        refuse(self, in->from, PSD_REFUSAL_SENDER, in->out, "%s is not for a shard", psd_kind_name(msg->kind));
}

/* ---- checkpoints ---- */

/* The checkpoint must hold the residual of each member after its last closed clock here. A member without a closed clock has no
 * residual yet. */
static void want_residuals(psd_engine_t *self, psd_save_point_t *point, uint32_t *residual_of)
{
    if (!self->config.saves_residuals || !keeps_of_gradients(self) || !psd_shard_parts(self->shard))
        return;
    psd_residuals_begin(&self->residuals, self->shard);
    for (uint32_t i = 0; i < self->applied.n_rows; i++) {
        const psd_applied_row_t *w = psd_applied_member(&self->applied, i);
        if (!w || !w->applied)
            continue;
        psd_residuals_add(&self->residuals, w->id, w->incarnation, w->applied);
        residual_of[point->n_residuals++] = w->id;
    }
}

/* Request the residuals, one worker after the other, leaving out workers that are given up; when all are in the file, it may
 * end. */
static void tend_residuals(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_residuals_t *residuals = &self->residuals;
    if (!self->saver.awaits_residuals || self->leaving_run)
        return;
    for (uint32_t i = 0; i < residuals->n; i++) {
        const psd_residual_row_t *row = &residuals->row[i];
        const psd_applied_row_t *w = psd_applied_member(&self->applied, row->worker);
        if (!row->is_over && (!w || w->incarnation != row->incarnation))
            psd_residuals_leave_out(residuals, row->worker, row->incarnation);
    }
    for (const psd_residual_row_t *row; (row = psd_residuals_silent(residuals, now_ms));) {
        psd_actions_log(out, PSD_LEVEL_WARN, "residual.unsaved",
                        "worker=%u clock=%" PRIu64 " reason=\"it does not answer\" effect=\"a worker that continues from this "
                        "checkpoint under this id starts without one\"",
                        row->worker, row->clock);
        psd_residuals_leave_out(residuals, row->worker, row->incarnation);
    }
    const psd_residual_row_t *ask = psd_residuals_ask(residuals, now_ms);
    const psd_applied_row_t *asked = ask ? psd_applied_attached(&self->applied, ask->worker) : NULL;
    if (asked) {
        psd_buf_t *map = psd_payload_copy(residuals->wanted, psd_bitmap_bytes(self->n_parts));
        send_to_worker(self, asked, PSD_MSG_RESIDUAL_WANTED, map, out)->clock = ask->clock;
        psd_buf_unref(&map);
    }
    if (psd_residuals_is_over(residuals))
        psd_saver_has_residuals(&self->saver, self->shard, self->update.busy, out);
}

void psd_engine_residual_saved(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_residuals_written(&self->residuals);
    if (!start_over_if_due(self, now_ms, out))
        tend_residuals(self, now_ms, out);
}

void psd_engine_residual_loaded(psd_engine_t *self, uint64_t now_ms, uint32_t worker, psd_buf_t **part, const char *failure,
                                psd_actions_t *out)
{
    psd_applied_row_t *w = self->applied.row[worker];
    self->n_loading--;
    w->is_loading = false;
    w->kept = part;
    w->n_kept = part ? psd_shard_parts(self->shard) : 0;
    if (failure) {
        psd_actions_log(out, PSD_LEVEL_WARN, "residual.damaged", "worker=%u reason=\"%s\" effect=\"it starts without one\"", worker,
                        failure);
        self->stats.residual_resets++;
    }
    if (failure || !w->has_saved) /* too late: it has continued as another life */
        psd_applied_forget_saved(w);
    if (!start_over_if_due(self, now_ms, out))
        pay_debts(self, out);
}

/* Begin the checkpoint that the log orders, if that is possible now: before the next round, with the state after this one. Between
 * the rounds of one step it holds the state before the first of them: the weights have not changed since, and a job that
 * continues from it makes these rounds again. No worker has its residual of that clock any more. */
static void begin_save(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_member_t applied[PSD_MAX_WORKERS];
    uint32_t residual_of[PSD_MAX_WORKERS];
    const uint64_t clock = clock_of_weights(self, self->clock);
    psd_save_point_t point = { .clock = clock,
                               .version = self->version,
                               .samples = self->samples,
                               .lr = self->lr,
                               .applied = applied,
                               .residual_of = residual_of };
    if (self->update.open || !is_started(self) || !psd_saver_may_begin(&self->saver, clock))
        return;
    for (uint32_t i = 0; i < self->applied.n_rows; i++) {
        const psd_applied_row_t *w = self->applied.row[i];
        if (w && (w->logged || w->resumes_at)) /* a worker that has attached but is not a member has pushed nothing */
            applied[point.n_applied++] =
                (psd_member_t){ .worker = i, .incarnation = w->logged, .samples = w->logged ? w->applied : w->resumes_at };
        if (w && self->gathered.rounds && point.n_applied && applied[point.n_applied - 1].samples > clock)
            applied[point.n_applied - 1].samples = clock;
    }
    if (!self->gathered.rounds)
        want_residuals(self, &point, residual_of);
    psd_saver_begin(&self->saver, &point, out);
    tend_residuals(self, now_ms, out);
}

/* Hand out the step that was deferred for the writer; NULL is fine. */
static void release(psd_engine_t *self, psd_work_t *work, psd_actions_t *out)
{
    if (!work)
        return;
    psd_bitmap_set(self->update.busy, work->part);
    psd_actions_work(out, work);
}

/* Only now, so that no step waits while a slow disk makes the file. */
void psd_engine_save_begun(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_saver_begun(&self->saver);
    if (!start_over_if_due(self, now_ms, out))
        psd_saver_go_on(&self->saver, self->shard, self->update.busy, out);
}

void psd_engine_part_saved(psd_engine_t *self, uint64_t now_ms, uint32_t part, psd_actions_t *out)
{
    release(self, psd_saver_part_saved(&self->saver, self->shard, part), out);
    if (!start_over_if_due(self, now_ms, out))
        psd_saver_go_on(&self->saver, self->shard, self->update.busy, out);
}

void psd_engine_saved(psd_engine_t *self, uint64_t now_ms, const char *failure, psd_actions_t *out)
{
    if (!self->saver.saving)
        return;
    psd_residuals_clear(&self->residuals);
    release(self, psd_saver_saved(&self->saver, self->shard, self->update.busy, failure), out);
    begin_save(self, now_ms, out);
    if (!start_over_if_due(self, now_ms, out))
        send_state(self, now_ms, out);
}

/* ---- starting over: from a checkpoint, or because the coordinator has begun another run of the job ---- */

int psd_engine_restore(psd_engine_t *self, const psd_tensor_list_t *model, psd_err_t *err)
{
    assert(self->restoring && !self->shard);
    if (psd_tensors_copy(&self->model, model) != PSD_OK)
        return psd_err_set(err, PSD_ENOMEM, "no memory for the model's list of tensors");
    return make_shard(self, err);
}

/* As if it had just been made: no model, no members, no round. */
static void forget_everything(psd_engine_t *self)
{
    psd_applied_clear(&self->applied);
    for (uint32_t i = 0; i < self->n_early; i++)
        psd_buf_unref(&self->early[i].payload);
    psd_update_clear(&self->update);
    psd_forecast_clear(&self->forecast);
    psd_ahead_clear(&self->ahead);
    self->n_folded = 0;
    memset(&self->gathered, 0, sizeof self->gathered);
    psd_saver_clear(&self->saver);
    psd_residuals_clear(&self->residuals);
    psd_seeding_clear(&self->seeding);
    psd_snapshot_clear(&self->snapshot);
    psd_shard_destroy(&self->shard);
    psd_partition_clear(&self->map);
    psd_tensors_clear(&self->model);
    free(self->group_of);
    self->group_of = NULL;
    self->n_early = self->told.n = 0;
    self->clock = self->version = self->samples = self->log_done = 0;
    self->restoring = self->restore_failed = self->held = false;
}

void psd_engine_restored(psd_engine_t *self, uint64_t now_ms, const char *failure, const psd_save_point_t *point,
                         psd_actions_t *out)
{
    if (!self->restoring)
        return;
    self->restoring = false;
    psd_saver_note_trouble(&self->saver, failure);
    if (!failure) {
        self->clock = point->clock;
        self->version = point->version;
        self->samples = point->samples;
        self->lr = point->lr;
        const psd_stepping_t with = next_stepping(self, self->lr);
        note_rates(self, &with);
        self->saver.saved = point->clock + 1;
        psd_seeding_set_all(&self->seeding);
        for (uint32_t i = 0; i < point->n_applied; i++)
            psd_applied_row(&self->applied, point->applied[i].worker)->resumes_at = point->applied[i].samples;
        self->restored_clock = point->clock;
        for (uint32_t i = 0; self->config.saves_residuals && keeps_of_gradients(self) && i < point->n_residuals; i++)
            psd_applied_row(&self->applied, point->residual_of[i])->has_saved = psd_shard_parts(self->shard) != 0;
        psd_actions_log(out, PSD_LEVEL_INFO, "shard.restored", "clock=%" PRIu64 " version=%" PRIu64, self->clock, self->version);
    } else {
        self->restore_failed = true; /* the coordinator names an older checkpoint */
    }
    if (!start_over_if_due(self, now_ms, out))
        send_state(self, now_ms, out);
}

/* Leave this run as soon as no thread works on the shard, and ask to join the next. */
static bool start_over_if_due(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (!self->leaving_run)
        return false;
    if (self->update.running - (self->saver.deferred ? 1 : 0) || self->n_folding || self->ahead.running ||
        psd_saver_is_writing(&self->saver) || self->restoring || self->residuals.n_writing || self->n_loading)
        return true;
    uint32_t index = self->index;
    forget_everything(self);
    self->leaving_run = self->welcomed = false;
    self->config.nonce++;
    self->config.wanted_index = (int)index;
    self->state_sent_ms = 0;
    psd_actions_log(out, PSD_LEVEL_WARN, "shard.restart", "reason=\"server 0 has begun another run of the job\"");
    psd_engine_tick(self, now_ms, out);
    return true;
}

/* ---- events ---- */

void psd_engine_message(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                        psd_actions_t *out)
{
    const psd_heard_t in = { now_ms, from, msg, payload, out };
    if (from != PSD_PEER_COORDINATOR) {
        if (self->welcomed && !self->leaving_run && !self->restoring)
            on_worker_message(self, &in);
        return;
    }
    self->first.heard_ms = now_ms;
    if (psd_engine_takes(msg->kind) && psd_kind_sender(msg->kind) & PSD_FROM_COORDINATOR)
        handlers[msg->kind].take(self, &in);
}

static void send_hello(const psd_engine_t *self, psd_actions_t *out)
{
    psd_shard_hello_t us = { 0 };
    snprintf(us.job, sizeof us.job, "%s", self->name);
    snprintf(us.endpoint, sizeof us.endpoint, "%s", self->endpoint);
    snprintf(us.settings, sizeof us.settings, "%s", self->settings);
    psd_buf_t *body = psd_body_of_shard_hello(&us);
    psd_msg_t *hello = psd_actions_send(out, PSD_PEER_COORDINATOR, PSD_MSG_SHARD_HELLO, body);
    hello->seq = self->config.nonce;
    hello->code = (uint32_t)(self->config.wanted_index + 1);
    psd_buf_unref(&body);
}

/* Watch server 0: without it nothing continues here, and no other process would report its loss. */
static void tend_first(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const uint64_t away_ms = psd_absence(&self->first.tick_ms, now_ms); /* time in which we did not listen is not silence */
    self->first.heard_ms = psd_absence_excuse(self->first.heard_ms, away_ms, now_ms);
    if (!self->config.lease_ms || !self->first.known)
        return;
    if (away_ms > self->config.lease_ms / 2)
        psd_actions_log(out, PSD_LEVEL_WARN, "server.away",
                        "ms=%" PRIu64 " effect=\"this process got no time; the silence of server 0 meanwhile does not count\"",
                        away_ms);
    const uint64_t silent_ms = now_ms - self->first.heard_ms;
    const bool was_lost = self->first.lost;
    self->first.lost = silent_ms > self->config.lease_ms;
    if (!self->first.lost && was_lost)
        psd_actions_log(out, PSD_LEVEL_INFO, "server.back", "shard=0 endpoint=%s", self->config.first);
    if (!self->first.lost)
        return;
    if (!was_lost)
        psd_actions_log(out, PSD_LEVEL_WARN, "server.lost", "shard=0 endpoint=%s silent_ms=%" PRIu64, self->config.first,
                        silent_ms);
    else if (now_ms >= self->first.line_ms + LINE_MS)
        psd_actions_log(out, PSD_LEVEL_WARN, "job.waiting", "for=\"server 0 at %s, silent for %" PRIu64 " s\"", self->config.first,
                        silent_ms / 1000);
    if (!was_lost || now_ms >= self->first.line_ms + LINE_MS)
        self->first.line_ms = now_ms;
    if (self->config.patience_ms && silent_ms >= self->config.patience_ms) {
        char why[256];
        snprintf(why, sizeof why, "gave up waiting for server 0 at %.120s, silent for %" PRIu64 " s (join_timeout)",
                 self->config.first, silent_ms / 1000);
        psd_actions_finish(out, PSD_EUNAVAILABLE, why);
    }
}

void psd_engine_tick(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (*self->failure.why) {
        end_failed(self, now_ms, out);
        return;
    }
    tend_first(self, now_ms, out);
    if (self->welcomed && !self->leaving_run && !self->restoring) {
        tell_complete(self, now_ms, out);
        tend_residuals(self, now_ms, out);
    }
    if (now_ms < self->state_sent_ms + STATE_EVERY_MS)
        return;
    self->state_sent_ms = now_ms;
    psd_snapshot_tick(&self->snapshot, now_ms);
    if (self->leaving_run || self->restoring)
        return;
    if (self->welcomed) {
        repeat_state(self, now_ms, out);
        if (self->update.measured && now_ms >= self->sums_sent_ms + STATE_EVERY_MS)
            send_sums(self, now_ms, out);
        request_init(self, now_ms, out);
    }
    /* Also when welcomed: on a connection that was lost and made again, the coordinator knows us only by this. */
    if (!self->welcomed || self->index)
        send_hello(self, out);
}

/* ---- beginning and end ---- */

psd_engine_t *psd_engine_new(const psd_engine_config_t *config, psd_err_t *err)
{
    psd_engine_t *self = calloc(1, sizeof *self);
    if (self) {
        self->config = *config;
        self->name = strdup(config->job);
        self->settings = strdup(config->settings);
        self->endpoint = strdup(config->endpoint);
        const psd_stepping_t with = next_stepping(self, psd_rule_lr(&psd_groups_rest(&config->groups)->rule));
        note_rates(self, &with);
    }
    if (!self || !self->name || !self->settings || !self->endpoint) {
        psd_err_set(err, PSD_ENOMEM, "no memory for an engine");
        psd_engine_destroy(&self);
    }
    return self;
}

void psd_engine_destroy(psd_engine_t **self_p)
{
    psd_engine_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    forget_everything(self);
    free(self->name);
    free(self->settings);
    free(self->endpoint);
    free(self);
}

/* ---- facts ---- */

void psd_engine_count_refusal(psd_engine_t *self, psd_refusal_t reason) { self->stats.rejected[reason]++; }

const psd_engine_stats_t *psd_engine_stats(const psd_engine_t *self) { return &self->stats; }
uint32_t psd_engine_index(const psd_engine_t *self) { return self->index; }
uint64_t psd_engine_first_silent_ms(const psd_engine_t *self)
{
    return self->first.lost ? self->first.tick_ms - self->first.heard_ms : 0;
}

bool psd_engine_was_ready(const psd_engine_t *self) { return self->first.known; }
const char *psd_engine_first(const psd_engine_t *self) { return self->config.first ? self->config.first : ""; }
const psd_engine_word_t *psd_engine_word(const psd_engine_t *self) { return &self->first.word; }
const char *psd_engine_told(const psd_engine_t *self) { return self->first.told; }
bool psd_engine_is_ready(const psd_engine_t *self) { return self->welcomed; }
uint64_t psd_engine_run(const psd_engine_t *self) { return self->welcomed ? self->job : 0; }
uint64_t psd_engine_epoch(const psd_engine_t *self) { return self->shard_epoch; }
uint64_t psd_engine_version(const psd_engine_t *self) { return self->version; }
uint64_t psd_engine_samples(const psd_engine_t *self) { return self->samples; }
uint64_t psd_engine_clock(const psd_engine_t *self) { return self->clock; }
const psd_shard_t *psd_engine_shard(const psd_engine_t *self) { return self->shard; }

bool psd_engine_group(const psd_engine_t *self, uint32_t g, psd_engine_group_t *out)
{
    if (g >= self->config.groups.n)
        return false;
    *out = (psd_engine_group_t){ .is = &self->config.groups.at[g], .lr = self->rates[g] };
    for (uint32_t t = 0; self->shard && t < self->model.n; t++)
        if (self->group_of[t] == g) {
            out->n_tensors++;
            out->n_elements += self->model.tensor[t].n_elements;
        }
    return true;
}

const psd_tensor_list_t *psd_engine_model(const psd_engine_t *self) { return &self->model; }

const psd_save_point_t *psd_engine_point(const psd_engine_t *self) { return &self->saver.point; }

const psd_partition_t *psd_engine_map(const psd_engine_t *self) { return &self->map; }

uint64_t psd_engine_sync_epoch(const psd_engine_t *self)
{
    return self->shard && psd_shard_parts(self->shard) && !self->update.open ? psd_shard_sync_epoch(self->shard)
                                                                             : self->stats.syncs;
}

uint64_t psd_engine_elements(const psd_engine_t *self) { return self->shard ? self->map.n_elements[self->index] : 0; }

bool psd_engine_worker(const psd_engine_t *self, uint32_t id, psd_engine_worker_t *out)
{
    const psd_applied_row_t *w = id < PSD_MAX_WORKERS ? psd_applied_member(&self->applied, id) : NULL;
    if (!w)
        return false;
    *out = (psd_engine_worker_t){ .incarnation = w->incarnation,
                                  .applied = w->applied,
                                  .pushes = w->pushes,
                                  .samples = w->samples,
                                  .loss = w->loss,
                                  .held = w->inbox.held,
                                  .parts = self->n_parts,
                                  .staleness = w->staleness,
                                  .last_push_ms = w->last_push_ms };
    return true;
}

void psd_engine_set_ledger(psd_engine_t *self, psd_ledger_fn *fn, void *arg)
{
    self->ledger = fn;
    self->ledger_arg = arg;
}

const char *psd_engine_hopeless(const psd_engine_t *self)
{
    return self->failure.refusal == PSD_REFUSAL_HOPELESS ? self->failure.why : NULL;
}
