#include "server/engine.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/aggregate.h"

enum {
    STATE_EVERY_MS = 250,     /* repeat of what the coordinator must know */
    INIT_EVERY_MS = 500,      /* repeat of the request for initial values */
    MAX_HELD_COMMANDS = 16    /* log entries kept while a step runs; more are asked for again by their number */
};

typedef enum standing { PENDING, MEMBER, GONE } standing_t;

/* One row of the applied table. */
typedef struct worker {
    uint32_t id;
    uint64_t incarnation, nonce; /* of the member as the log names it; before that, of whoever attached */
    uint64_t logged;             /* newest incarnation that the log has named; 0: none */
    standing_t standing;
    psd_peer_t peer;             /* its session; NONE before ATTACH */
    uint32_t rank;               /* in the view */
    uint64_t applied;            /* last clock that is closed for it */
    uint64_t resumes_at;         /* asp: clocks of this worker that a checkpoint holds; it goes on from there */
    bool owed;                   /* a new member that has not been sent the weights yet */
    /* its open clock, applied + 1 */
    uint64_t samples;
    double loss, norm2;
    bool nonfinite, complete;
    uint64_t base_version;
    uint32_t held;
    uint8_t *have;               /* bitmap of chunks held */
    psd_buf_t **parked;          /* their payloads; NULL: no gradient */
    psd_engine_worker_t facts;
} worker_t;

typedef struct held_command {
    psd_msg_t msg;
    psd_buf_t *payload;
} held_command_t;

struct psd_engine {
    psd_engine_config_t config;
    char *settings, *endpoint;
    bool welcomed;
    uint32_t index, n_servers;
    uint64_t job, shard_epoch, view_id, log_done;
    double lr;                   /* as the log last said */
    uint32_t world;              /* members of the view */

    psd_tensor_list_t model;
    psd_partition_t map;
    psd_shard_t *shard;
    uint32_t n_parts;            /* chunks here, at least 1: a shard without chunks is pushed one empty part */
    uint32_t n_started;          /* chunks that have initial values */
    uint8_t *started;            /* bitmap of those */

    worker_t *worker[PSD_MAX_WORKERS];
    uint64_t clock, version;
    uint32_t running;            /* chunks being stepped */
    uint32_t stepping_for;       /* asp: whose push is being stepped */
    uint64_t step_samples;
    uint32_t queue[PSD_MAX_WORKERS], n_queued; /* asp: workers whose push is complete, in order of arrival */
    held_command_t held[MAX_HELD_COMMANDS];
    uint32_t n_held;
    /* the checkpoint being written: chunks below save_next are done, the one before it may be with the writer */
    bool save_due, saving, save_in_flight;
    bool save_ending;            /* the writer makes the file durable */
    bool save_blocked;           /* the next chunk is being stepped: the writer gets it after that */
    uint8_t *stepping;           /* bitmap of chunks that a thread steps now */
    uint64_t save_order, save_clock; /* the clock whose state the log wants; that of the one being written */
    psd_engine_point_t save_point;   /* what its file says beside the chunks */
    psd_member_t save_applied[PSD_MAX_WORKERS];
    uint32_t save_next;
    psd_work_t *deferred;        /* the step of the chunk that the writer has just now */
    uint64_t saved;              /* newest durable clock + 1 */
    uint64_t save_failed;        /* clock + 1 of the newest failure */
    bool restore_failed;         /* the named checkpoint could not be loaded here */
    bool restoring;              /* between PSD_ACT_RESTORE and its outcome */
    bool leaving_run;            /* the coordinator has begun another run of the job: start over when nothing runs */
    uint64_t state_sent_ms, init_sent_ms;
    psd_engine_stats_t stats;
    psd_ledger_fn *ledger;
    void *ledger_arg;
};

psd_engine_t *psd_engine_new(const psd_engine_config_t *config, psd_err_t *err)
{
    psd_engine_t *self = calloc(1, sizeof *self);
    if (self) {
        self->config = *config;
        self->settings = strdup(config->settings);
        self->endpoint = strdup(config->endpoint);
    }
    if (!self || !self->settings || !self->endpoint) {
        psd_err_set(err, PSD_ENOMEM, "no memory for an engine");
        psd_engine_destroy(&self);
    }
    return self;
}

/* Forget what has come of the worker's open clock. */
static void drop_open_clock(psd_engine_t *self, worker_t *w)
{
    for (uint32_t p = 0; w->parked && p < self->n_parts; p++)
        psd_buf_unref(&w->parked[p]);
    if (w->have)
        memset(w->have, 0, psd_bitmap_bytes(self->n_parts));
    w->held = 0;
    w->samples = 0;
    w->loss = w->norm2 = 0;
    w->nonfinite = w->complete = false;
}

static void free_worker(psd_engine_t *self, worker_t *w)
{
    drop_open_clock(self, w);
    free(w->have);
    free(w->parked);
    free(w);
}

void psd_engine_destroy(psd_engine_t **self_p)
{
    psd_engine_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i])
            free_worker(self, self->worker[i]);
    for (uint32_t i = 0; i < self->n_held; i++)
        psd_buf_unref(&self->held[i].payload);
    psd_shard_destroy(&self->shard);
    psd_partition_clear(&self->map);
    psd_tensors_clear(&self->model);
    free(self->started);
    free(self->stepping);
    free(self->settings);
    free(self->endpoint);
    free(self);
}

void psd_engine_count_refusal(psd_engine_t *self, psd_refusal_t reason) { self->stats.rejected[reason]++; }

/* ---- messages out ------------------------------------------------------------------------------------------- */

static psd_msg_t *send_to(psd_engine_t *self, psd_peer_t to, psd_kind_t kind, psd_buf_t *payload,
                          psd_actions_t *out)
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

static psd_msg_t *send_to_worker(psd_engine_t *self, const worker_t *w, psd_kind_t kind, psd_buf_t *payload,
                                 psd_actions_t *out)
{
    psd_msg_t *msg = send_to(self, w->peer, kind, payload, out);
    msg->worker = w->id;
    msg->incarnation = w->incarnation;
    if (w->standing == MEMBER) {
        msg->rank = w->rank;
        msg->world = self->world;
    }
    msg->parts = self->n_parts;
    msg->clock = w->applied;
    return msg;
}

static void send_chunk(psd_engine_t *self, const worker_t *w, uint32_t part, psd_actions_t *out)
{
    psd_buf_t *weights = psd_shard_weights(self->shard, part);
    psd_msg_t *msg = send_to_worker(self, w, PSD_MSG_WEIGHTS, weights, out);
    msg->part = part;
    msg->n_elements = psd_shard_elements(self->shard, part);
    msg->checksum = psd_shard_checksum(self->shard, part);
    msg->dtype = PSD_DTYPE_F32;
    msg->codec = PSD_CODEC_RAW;
    self->stats.pulls_fast++;
}

/* An empty WEIGHTS: all chunks of this shard are as they were, go on. */
static void send_unchanged(psd_engine_t *self, const worker_t *w, psd_actions_t *out)
{
    send_to_worker(self, w, PSD_MSG_WEIGHTS, NULL, out);
}

static bool is_started(const psd_engine_t *self)
{
    return self->shard && self->n_started == psd_shard_parts(self->shard);
}

static void send_all_weights(psd_engine_t *self, worker_t *w, psd_actions_t *out)
{
    w->owed = false;
    if (!psd_shard_parts(self->shard))
        send_unchanged(self, w, out);
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++)
        send_chunk(self, w, p, out);
}

/* New members get the weights as soon as there are some, the worker is attached, and no step is under way. */
static void pay_debts(psd_engine_t *self, psd_actions_t *out)
{
    if (!is_started(self) || self->running)
        return;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        worker_t *w = self->worker[i];
        if (w && w->standing == MEMBER && w->owed && w->peer)
            send_all_weights(self, w, out);
    }
}

static void request_init(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (!self->shard || is_started(self) || now_ms < self->init_sent_ms + INIT_EVERY_MS)
        return;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        const worker_t *w = self->worker[i];
        if (!w || w->standing != MEMBER || !w->peer)
            continue;
        psd_buf_t *lacking = psd_payload_copy(self->started, psd_bitmap_bytes(self->n_parts));
        uint8_t *map = lacking->data;
        memset(map, 0, lacking->n_bytes);
        for (uint32_t p = 0; p < self->n_parts; p++)
            if (!psd_bitmap_get(self->started, p))
                psd_bitmap_set(map, p);
        send_to_worker(self, w, PSD_MSG_INIT_WANTED, lacking, out);
        psd_buf_unref(&lacking);
        self->init_sent_ms = now_ms;
        return;
    }
}

/* Tell the coordinator which log entries are done and whose pushes of the open clock are complete: of `only`, or of
 * all when it is NULL. */
static void send_state(psd_engine_t *self, const worker_t *only, psd_actions_t *out)
{
    psd_member_t *complete = calloc(PSD_MAX_WORKERS, sizeof *complete);
    uint8_t *bytes = malloc(PSD_MAX_LIST);
    assert(complete && bytes);
    psd_round_t state = { .clock = self->clock + 1, .contributor = complete };
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        const worker_t *w = self->worker[i];
        if (w && (!only || w == only) && w->standing == MEMBER && w->complete && !self->config.mode->per_push)
            complete[state.n_contributors++] =
                (psd_member_t){ .worker = w->id, .incarnation = w->incarnation, .samples = w->samples,
                                .loss = w->loss, .norm2 = w->norm2, .nonfinite = w->nonfinite };
    }
    psd_buf_t *payload = psd_payload_copy(bytes, psd_round_encode(&state, bytes, PSD_MAX_LIST));
    psd_msg_t *msg = send_to(self, PSD_PEER_COORDINATOR, PSD_MSG_SHARD_STATE, payload, out);
    msg->seq = self->log_done;
    msg->clock = self->clock;
    msg->saved = self->saved;
    msg->code = is_started(self) ? PSD_SHARD_STARTED : 0;
    if (self->save_failed > self->saved)
        msg->code |= PSD_SHARD_SAVE_FAILED;
    if (self->restore_failed)
        msg->code |= PSD_SHARD_RESTORE_FAILED;
    psd_buf_unref(&payload);
    free(complete);
    free(bytes);
}

static void refuse(psd_engine_t *self, psd_peer_t to, psd_refusal_t reason, psd_actions_t *out, const char *format,
                   ...) __attribute__((format(printf, 5, 6)));

static void refuse(psd_engine_t *self, psd_peer_t to, psd_refusal_t reason, psd_actions_t *out, const char *format,
                   ...)
{
    self->stats.rejected[reason]++;
    psd_msg_t *msg = send_to(self, to, PSD_MSG_REFUSED, NULL, out);
    msg->code = reason;
    va_list args;
    va_start(args, format);
    vsnprintf(msg->text, sizeof msg->text, format, args);
    va_end(args);
}

static void fence(psd_engine_t *self, psd_peer_t to, const psd_msg_t *about, psd_actions_t *out)
{
    self->stats.rejected[PSD_REFUSAL_INCARNATION]++;
    const worker_t *w = self->worker[about->worker];
    psd_msg_t *msg = send_to(self, to, PSD_MSG_FENCED, NULL, out);
    msg->worker = about->worker;
    msg->incarnation = w ? w->incarnation : 0;
    snprintf(msg->text, sizeof msg->text,
             "worker %u incarnation %" PRIu64 " is no longer a member; shard %u knows incarnation %" PRIu64,
             about->worker, about->incarnation, self->index, msg->incarnation);
}

/* ---- the step ----------------------------------------------------------------------------------------------- */

static void run_held_commands(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);
static void start_queued_push(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);
static bool start_over_if_due(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);

/* A member's clock is closed: it may push the next one. */
static void close_clock(psd_engine_t *self, worker_t *w, uint64_t clock)
{
    w->applied = clock;
    drop_open_clock(self, w);
}

/* ---- checkpoints: chunks are written one by one beside training; a step that would change one that is not written yet
 *      keeps a copy of it, and the one that the writer has just now is stepped when it is done ------------------- */

static void save_next_part(psd_engine_t *self, psd_actions_t *out)
{
    bool more = self->save_next < psd_shard_parts(self->shard);
    self->save_blocked = more && psd_bitmap_get(self->stepping, self->save_next);
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
    self->save_point = (psd_engine_point_t){ .clock = self->clock, .version = self->version, .lr = self->lr,
                                             .applied = self->save_applied };
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        const worker_t *w = self->worker[i];
        if (w && (w->incarnation || w->resumes_at))
            self->save_applied[self->save_point.n_applied++] =
                (psd_member_t){ .worker = i, .incarnation = w->incarnation,
                                .samples = w->standing == MEMBER ? w->applied : w->resumes_at };
    }
}

static void begin_save(psd_engine_t *self, psd_actions_t *out)
{
    if (!self->save_due || self->saving || !is_started(self))
        return;
    self->save_due = false;
    if (self->clock != self->save_order) {
        self->save_failed = self->save_order + 1; /* an older one took too long; the state of that clock is gone */
        return;
    }
    self->saving = true;
    self->save_clock = self->clock;
    note_point(self);
    self->save_next = 0;
    psd_actions_checkpoint(out, PSD_ACT_SAVE_BEGIN, self->save_clock, 0);
    save_next_part(self, out);
}

/* How this chunk's step must respect the checkpoint. False: it is put off. */
static bool may_step(psd_engine_t *self, psd_work_t *work)
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
    psd_bitmap_set(self->stepping, self->deferred->part);
    psd_actions_work(out, self->deferred);
    self->deferred = NULL;
}

void psd_engine_part_saved(psd_engine_t *self, uint64_t now_ms, uint32_t part, psd_actions_t *out)
{
    self->save_in_flight = false;
    psd_shard_forget(self->shard, part);
    release_deferred(self, out);
    if (!start_over_if_due(self, now_ms, out) && self->saving)
        save_next_part(self, out);
}

void psd_engine_saved(psd_engine_t *self, uint64_t now_ms, bool ok, psd_actions_t *out)
{
    if (!self->saving)
        return;
    self->saving = self->save_in_flight = self->save_ending = false;
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++)
        if (!psd_bitmap_get(self->stepping, p)) /* else when its step is done */
            psd_shard_forget(self->shard, p);
    release_deferred(self, out);
    if (ok)
        self->saved = self->save_clock + 1;
    else
        self->save_failed = self->save_clock + 1;
    if (!self->running)
        begin_save(self, out);
    if (!start_over_if_due(self, now_ms, out))
        send_state(self, NULL, out);
}

static void step_finished(psd_engine_t *self, uint64_t now_ms, bool stepped, psd_actions_t *out)
{
    if (stepped) {
        self->version++;
        self->stats.steps++;
        self->stats.samples += self->step_samples;
    }
    self->stats.syncs = psd_engine_sync_epoch(self);
    begin_save(self, out);
    pay_debts(self, out);
    run_held_commands(self, now_ms, out);
    start_queued_push(self, now_ms, out);
}

/* Hand out one piece of work per chunk: the mean over `contributor[0..n)`, whose samples sum to `total`. */
static void start_step(psd_engine_t *self, worker_t **contributor, uint32_t n, uint64_t total, double lr,
                       float scale, psd_actions_t *out)
{
    self->step_samples = total;
    self->stats.lr = lr;
    self->stats.loss = self->stats.grad_norm2 = 0;
    for (uint32_t k = 0; k < n; k++) {
        self->stats.loss += contributor[k]->loss * (double)contributor[k]->samples / (double)total;
        self->stats.grad_norm2 += contributor[k]->norm2;
        if (self->ledger)
            self->ledger(self->ledger_arg, self->index, contributor[k]->applied + 1, contributor[k]->id,
                         contributor[k]->incarnation);
    }
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        psd_work_t *work = psd_shard_work(self->shard, p, n);
        assert(work && "no memory for a step's list of contributions");
        work->lr = lr;
        work->scale = scale;
        for (uint32_t k = 0; k < n; k++) {
            if (!contributor[k]->parked[p])
                continue;
            work->weight[work->n_gradients] = (double)contributor[k]->samples / (double)total;
            work->gradient[work->n_gradients++] = psd_buf_ref(contributor[k]->parked[p]);
        }
        self->running++;
        if (!may_step(self, work))
            continue;
        psd_bitmap_set(self->stepping, p);
        psd_actions_work(out, work);
    }
}

void psd_engine_worked(psd_engine_t *self, uint64_t now_ms, psd_work_t *work, psd_actions_t *out)
{
    assert(self->running > 0);
    self->running--;
    psd_bitmap_unset(self->stepping, work->part);
    if (!self->saving)
        psd_shard_forget(self->shard, work->part);
    else if (self->save_blocked && work->part == self->save_next)
        save_next_part(self, out);
    if (self->leaving_run) {
        start_over_if_due(self, now_ms, out);
        return;
    }
    /* Weights carry the version that this step makes. */
    self->version++;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        worker_t *w = self->worker[i];
        if (!w || w->standing != MEMBER || !w->peer || w->owed)
            continue;
        if (self->config.mode->per_push && w->id != self->stepping_for)
            continue;
        send_chunk(self, w, work->part, out);
    }
    self->version--;
    if (!self->running)
        step_finished(self, now_ms, true, out);
}

/* ---- asp: each complete push is a step ---------------------------------------------------------------------- */

static void count_staleness(psd_engine_t *self, worker_t *w, uint64_t staleness)
{
    uint32_t bucket = 0;
    while (bucket + 1 < PSD_STALENESS_BUCKETS && staleness > (bucket ? 1u << (bucket - 1) : 0))
        bucket++;
    self->stats.staleness[bucket]++;
    self->stats.staleness_sum += staleness;
    if (staleness > self->stats.staleness_max)
        self->stats.staleness_max = staleness;
    w->facts.staleness = staleness;
}

static void answer_without_step(psd_engine_t *self, worker_t *w, psd_refusal_t why, psd_actions_t *out)
{
    if (why)
        self->stats.rejected[why]++;
    close_clock(self, w, w->applied + 1);
    if (why == PSD_REFUSAL_STALE)
        send_all_weights(self, w, out);
    else
        send_unchanged(self, w, out);
}

static void start_queued_push(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    while (self->n_queued && !self->running) {
        worker_t *w = self->worker[self->queue[0]];
        memmove(self->queue, self->queue + 1, --self->n_queued * sizeof *self->queue);
        if (!w || w->standing != MEMBER || !w->complete)
            continue;
        uint64_t staleness = self->version - w->base_version;
        count_staleness(self, w, staleness);
        if (w->nonfinite || !w->samples) {
            answer_without_step(self, w, w->nonfinite ? PSD_REFUSAL_NONFINITE : PSD_REFUSAL_NONE, out);
            continue;
        }
        if (self->config.max_staleness && staleness > self->config.max_staleness) {
            answer_without_step(self, w, PSD_REFUSAL_STALE, out);
            continue;
        }
        self->stepping_for = w->id;
        double lr = self->lr * self->config.lr_rule->factor(self->world, staleness);
        start_step(self, &w, 1, w->samples, lr, 1, out);
        close_clock(self, w, w->applied + 1);
        self->stats.rounds++;
        if (!self->running) {
            send_unchanged(self, w, out);
            step_finished(self, now_ms, true, out);
        }
    }
}

/* ---- the coordinator's log ---------------------------------------------------------------------------------- */

static worker_t *worker_row(psd_engine_t *self, uint32_t id)
{
    if (!self->worker[id]) {
        worker_t *w = calloc(1, sizeof *w);
        assert(w && "no memory for a worker's row");
        w->id = id;
        self->worker[id] = w;
    }
    return self->worker[id];
}

static void size_row(psd_engine_t *self, worker_t *w)
{
    if (w->parked)
        return;
    assert(self->n_parts && "the log names the model before the members");
    w->parked = calloc(self->n_parts, sizeof *w->parked);
    w->have = calloc(1, psd_bitmap_bytes(self->n_parts));
    assert(w->parked && w->have && "no memory for a member's parked pushes");
}

static void install_view(psd_engine_t *self, const psd_round_t *round)
{
    self->view_id = round->view_id;
    self->world = round->n_members;
    bool stays[PSD_MAX_WORKERS] = { false };
    for (uint32_t r = 0; r < round->n_members; r++) {
        const psd_member_t *m = &round->member[r];
        worker_t *w = worker_row(self, m->worker);
        stays[m->worker] = true;
        w->rank = r;
        if (w->incarnation != m->incarnation || w->nonce != m->nonce)
            w->peer = PSD_PEER_NONE; /* nobody has attached, or somebody else */
        if (w->incarnation != m->incarnation || w->standing != MEMBER) {
            drop_open_clock(self, w);
            w->incarnation = m->incarnation;
            w->logged = m->incarnation;
            w->nonce = m->nonce;
            w->standing = MEMBER;
            w->applied = self->config.mode->per_push ? w->resumes_at : self->clock;
            w->owed = true;
        }
        size_row(self, w);
    }
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == MEMBER && !stays[i]) {
            drop_open_clock(self, self->worker[i]);
            self->worker[i]->standing = GONE;
        }
}

/* Close the round: a step from these contributors, or none; then every member may go on to the next. */
static void close_round(psd_engine_t *self, uint64_t now_ms, const psd_round_t *round, psd_actions_t *out)
{
    worker_t *contributor[PSD_MAX_WORKERS];
    uint64_t total = 0;
    uint32_t n = 0;
    for (uint32_t k = 0; k < round->n_contributors; k++) {
        worker_t *w = self->worker[round->contributor[k].worker];
        assert(w && w->complete && w->incarnation == round->contributor[k].incarnation &&
               "the coordinator counts only pushes that every shard holds");
        contributor[n++] = w;
        total += w->samples;
    }
    if (round->apply)
        start_step(self, contributor, n, total, round->lr, (float)round->clip_scale, out);
    self->clock = round->clock;
    self->stats.rounds++;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == MEMBER)
            close_clock(self, self->worker[i], round->clock);
    install_view(self, round);
    /* New members are served chunk by chunk with the others, by this very step. */
    for (uint32_t i = 0; self->running && i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == MEMBER && self->worker[i]->peer)
            self->worker[i]->owed = false;
    if (self->running)
        return;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == MEMBER && self->worker[i]->peer && !self->worker[i]->owed)
            send_unchanged(self, self->worker[i], out);
    step_finished(self, now_ms, round->apply, out);
}

static void on_command(psd_engine_t *self, uint64_t now_ms, const psd_msg_t *msg, psd_buf_t *payload,
                       psd_actions_t *out)
{
    psd_round_t round;
    psd_err_t err;
    if (psd_round_decode(&round, payload->data, payload->n_bytes, &err) != PSD_OK) {
        psd_actions_log(out, PSD_LEVEL_ERROR, "log.unreadable", "seq=%" PRIu64 " reason=\"%s\"", msg->seq, err.text);
        return;
    }
    self->log_done = msg->seq;
    self->lr = round.lr;
    if (msg->code & PSD_COMMAND_SAVE) {
        self->save_due = true;
        self->save_order = round.clock;
        self->save_failed = 0; /* what is said of failure from here on is about this one */
    }
    if (msg->code & PSD_COMMAND_FINISH) {
        /* Server 0 ends when all others have read this, which its coordinator knows. */
        if (self->index && msg->code & PSD_COMMAND_STOP)
            psd_actions_finish(out, PSD_ESTOPPED, "stopped before the job was finished");
        else if (self->index)
            psd_actions_finish(out, PSD_OK, "every worker has finished");
    } else if (round.clock == self->clock + 1) {
        close_round(self, now_ms, &round, out);
    } else {
        install_view(self, &round);
        begin_save(self, out);
        request_init(self, now_ms, out);
        pay_debts(self, out);
    }
    psd_round_clear(&round);
    send_state(self, NULL, out);
}

/* Cut self->model for the servers and make room for this one's share. */
static int make_shard(psd_engine_t *self, psd_err_t *err)
{
    uint64_t sizes[PSD_MAX_TENSORS];
    for (uint32_t i = 0; i < self->model.n; i++)
        sizes[i] = self->model.tensor[i].n_elements;
    int rc = psd_partition_make(&self->map, sizes, self->model.n, self->n_servers, err);
    if (rc == PSD_OK && !(self->shard = psd_shard_new(&self->config.rule, &self->map, self->index, err)))
        rc = PSD_ENOMEM;
    if (rc != PSD_OK)
        return rc;
    uint32_t parts = psd_shard_parts(self->shard);
    self->n_parts = parts ? parts : 1;
    self->started = calloc(1, psd_bitmap_bytes(self->n_parts));
    self->stepping = calloc(1, psd_bitmap_bytes(self->n_parts));
    assert(self->started && self->stepping && "no memory for a bitmap of chunks");
    return PSD_OK;
}

static void on_model(psd_engine_t *self, const psd_msg_t *msg, psd_buf_t *payload, psd_actions_t *out)
{
    psd_err_t err = { 0 };
    assert(!self->shard && "the log names the model once");
    if (psd_tensors_decode(&self->model, payload->data, payload->n_bytes, &err) != PSD_OK) {
        psd_actions_log(out, PSD_LEVEL_ERROR, "log.unreadable", "seq=%" PRIu64 " reason=\"%s\"", msg->seq, err.text);
        return;
    }
    if (make_shard(self, &err) != PSD_OK) {
        psd_actions_finish(out, err.code, err.text);
        return;
    }
    uint32_t parts = psd_shard_parts(self->shard);
    self->log_done = msg->seq;
    psd_actions_log(out, PSD_LEVEL_INFO, "shard.model", "tensors=%u chunks=%u of=%u parameters=%" PRIu64,
                    self->model.n, parts, self->map.n_chunks, self->map.n_elements[self->index]);
    send_state(self, NULL, out);
}

static void on_log_entry(psd_engine_t *self, uint64_t now_ms, const psd_msg_t *msg, psd_buf_t *payload,
                         psd_actions_t *out)
{
    if (msg->seq <= self->log_done) {
        send_state(self, NULL, out);
        return;
    }
    if (self->running || msg->seq > self->log_done + 1) {
        /* Early or out of order: keep it, so that a reordered log costs nothing. */
        for (uint32_t i = 0; i < self->n_held; i++)
            if (self->held[i].msg.seq == msg->seq)
                return;
        if (self->n_held < MAX_HELD_COMMANDS)
            self->held[self->n_held++] = (held_command_t){ *msg, psd_buf_ref(payload) };
        return;
    }
    if (msg->kind == PSD_MSG_MODEL)
        on_model(self, msg, payload, out);
    else
        on_command(self, now_ms, msg, payload, out);
    run_held_commands(self, now_ms, out);
}

static void run_held_commands(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    for (uint32_t i = 0; i < self->n_held && !self->running; i++) {
        if (self->held[i].msg.seq > self->log_done + 1)
            continue;
        held_command_t next = self->held[i];
        self->held[i] = self->held[--self->n_held];
        if (next.msg.seq == self->log_done + 1)
            on_log_entry(self, now_ms, &next.msg, next.payload, out);
        psd_buf_unref(&next.payload);
        i = UINT32_MAX; /* the list has changed: look again from its start */
    }
}

static void on_welcome(psd_engine_t *self, const psd_msg_t *msg, psd_actions_t *out)
{
    if (self->welcomed || msg->seq != self->config.nonce)
        return;
    if (msg->code & PSD_WELCOME_FINISHED) {
        psd_actions_finish(out, PSD_OK, "the job was finished before this server was started again");
        return;
    }
    self->welcomed = true;
    self->index = msg->shard;
    self->n_servers = msg->world;
    self->job = msg->job;
    self->shard_epoch = msg->shard_epoch;
    psd_actions_log(out, PSD_LEVEL_INFO, "shard.joined", "shard=%u of=%u epoch=%" PRIu64, self->index, self->n_servers,
                    self->shard_epoch);
    self->restoring = (msg->code & PSD_WELCOME_RESTORE) != 0;
    if (self->restoring)
        psd_actions_checkpoint(out, PSD_ACT_RESTORE, msg->clock, 0);
    else
        send_state(self, NULL, out);
}

/* ---- starting over: from a checkpoint, or because the coordinator has begun another run of the job ---------------- */

int psd_engine_restore(psd_engine_t *self, const psd_tensor_list_t *model, psd_err_t *err)
{
    assert(self->restoring && !self->shard);
    if (psd_tensors_copy(&self->model, model) != PSD_OK)
        return psd_err_set(err, PSD_ENOMEM, "no memory for the model's list of tensors");
    return make_shard(self, err);
}

psd_shard_t *psd_engine_restoring(psd_engine_t *self) { return self->restoring ? self->shard : NULL; }

static void forget_everything(psd_engine_t *self)
{
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i]) {
            free_worker(self, self->worker[i]);
            self->worker[i] = NULL;
        }
    for (uint32_t i = 0; i < self->n_held; i++)
        psd_buf_unref(&self->held[i].payload);
    psd_shard_destroy(&self->shard);
    psd_partition_clear(&self->map);
    psd_tensors_clear(&self->model);
    free(self->started);
    free(self->stepping);
    self->started = self->stepping = NULL;
    self->n_held = self->n_queued = self->n_started = 0;
    self->clock = self->version = self->log_done = self->saved = self->save_failed = 0;
    self->save_due = self->saving = self->save_blocked = self->restoring = self->restore_failed = false;
}

void psd_engine_restored(psd_engine_t *self, uint64_t now_ms, bool ok, const psd_engine_point_t *point,
                         psd_actions_t *out)
{
    if (!self->restoring)
        return;
    self->restoring = false;
    if (ok) {
        self->clock = point->clock;
        self->version = point->version;
        self->lr = point->lr;
        self->saved = point->clock + 1;
        self->n_started = psd_shard_parts(self->shard);
        memset(self->started, 0xff, psd_bitmap_bytes(self->n_parts));
        for (uint32_t i = 0; i < point->n_applied; i++)
            worker_row(self, point->applied[i].worker)->resumes_at = point->applied[i].samples;
        psd_actions_log(out, PSD_LEVEL_INFO, "shard.restored", "clock=%" PRIu64 " version=%" PRIu64, self->clock, self->version);
    } else {
        self->restore_failed = true; /* the coordinator names an older checkpoint */
    }
    if (!start_over_if_due(self, now_ms, out))
        send_state(self, NULL, out);
}

/* Leave this run as soon as no thread works on the shard, and ask to join the next. */
static bool start_over_if_due(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (!self->leaving_run)
        return false;
    if (self->running - (self->deferred ? 1 : 0) || self->save_in_flight || self->save_ending || self->restoring)
        return true;
    self->deferred = NULL;
    self->running = 0;
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

/* ---- messages of workers ------------------------------------------------------------------------------------ */

/* A worker opens its session, or opens it again on a new connection. Only the log says who is a member: a session
 * that comes before it is kept until the log admits that worker, and is dropped then if it was not that worker's. */
static void on_attach(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                      psd_actions_t *out)
{
    worker_t *w = worker_row(self, msg->worker);
    if (msg->incarnation < w->logged || (msg->incarnation == w->logged && w->standing != MEMBER)) {
        fence(self, from, msg, out);
        return;
    }
    if (w->standing == MEMBER && msg->incarnation > w->incarnation) {
        psd_msg_t *wait = send_to(self, from, PSD_MSG_WAIT, NULL, out);
        wait->worker = msg->worker;
        snprintf(wait->text, sizeof wait->text, "shard %u waits for worker %u's older incarnation to be given up",
                 self->index, msg->worker);
        return;
    }
    if (w->standing == MEMBER && msg->seq != w->nonce) {
        refuse(self, from, PSD_REFUSAL_WORKER, out, "worker %u is somebody else: the number drawn at its start is not yours",
               msg->worker);
        return;
    }
    if (w->standing != MEMBER) {
        w->standing = PENDING;
        w->incarnation = msg->incarnation;
        w->nonce = msg->seq;
    }
    w->peer = from;
    send_to_worker(self, w, PSD_MSG_ATTACHED, NULL, out);
    request_init(self, now_ms, out);
    pay_debts(self, out);
}

/* The sender's row, if the message comes from the session of a current member; otherwise it is answered and NULL. */
static worker_t *member_for(psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    worker_t *w = self->worker[msg->worker];
    if (w && w->standing == MEMBER && msg->incarnation == w->incarnation) {
        if (w->peer == from)
            return w;
        refuse(self, from, PSD_REFUSAL_SESSION, out,
               "shard %u knows no session of worker %u on this connection: attach first", self->index, msg->worker);
        return NULL;
    }
    bool early = !w || msg->incarnation > w->incarnation || w->standing == PENDING;
    if (early)
        self->stats.rejected[PSD_REFUSAL_VIEW]++; /* the log will admit it; its probes ask again */
    else
        fence(self, from, msg, out);
    return NULL;
}

static void on_init(psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                    psd_actions_t *out)
{
    if (!member_for(self, from, msg, out) || !self->shard)
        return;
    if (msg->part >= psd_shard_parts(self->shard) || msg->n_elements != psd_shard_elements(self->shard, msg->part)) {
        refuse(self, from, PSD_REFUSAL_SHAPE, out, "initial chunk %u with %u elements; shard %u has %u chunks",
               msg->part, msg->n_elements, self->index, psd_shard_parts(self->shard));
        return;
    }
    if (psd_bitmap_get(self->started, msg->part))
        return;
    if (psd_crc32c(payload->data, payload->n_bytes) != msg->checksum) {
        self->stats.rejected[PSD_REFUSAL_CHECKSUM]++;
        return;
    }
    psd_shard_set(self->shard, msg->part, payload->data);
    psd_bitmap_set(self->started, msg->part);
    self->n_started++;
    if (is_started(self)) {
        psd_actions_log(out, PSD_LEVEL_INFO, "shard.started", "worker=%u chunks=%u", msg->worker, self->n_started);
        send_state(self, NULL, out);
        pay_debts(self, out);
    }
}

/* Which chunks of the worker's open clock still lack. */
static void send_progress(psd_engine_t *self, const worker_t *w, psd_actions_t *out)
{
    psd_buf_t *lacking = psd_payload_copy(w->have, psd_bitmap_bytes(self->n_parts));
    uint8_t *map = lacking->data;
    for (uint32_t p = 0; p < self->n_parts; p++) {
        psd_bitmap_unset(map, p);
        if (!w->complete && !psd_bitmap_get(w->have, p))
            psd_bitmap_set(map, p);
    }
    psd_msg_t *msg = send_to_worker(self, w, PSD_MSG_PROGRESS, lacking, out);
    msg->clock = w->applied + 1;
    psd_buf_unref(&lacking);
}

static void on_complete(psd_engine_t *self, uint64_t now_ms, worker_t *w, psd_actions_t *out)
{
    w->complete = true;
    self->stats.pushes++;
    w->facts.pushes++;
    w->facts.samples += w->samples;
    w->facts.loss = w->loss;
    w->facts.last_push_ms = now_ms;
    if (!self->config.mode->per_push) {
        send_state(self, w, out);
        return;
    }
    self->queue[self->n_queued++] = w->id;
    start_queued_push(self, now_ms, out);
}

/* Checks of one push that need the shard's knowledge. False when it was answered or dropped. */
static bool push_is_good(psd_engine_t *self, psd_peer_t from, worker_t *w, const psd_msg_t *msg, psd_actions_t *out)
{
    if (msg->clock <= w->applied) {
        self->stats.rejected[PSD_REFUSAL_DUPLICATE]++;
        return false;
    }
    if (msg->clock > w->applied + 1) {
        self->stats.rejected[PSD_REFUSAL_CLOCK]++;
        send_progress(self, w, out);
        return false;
    }
    bool whole = !msg->samples && !msg->n_elements; /* one empty part for a clock without samples */
    if (msg->parts != self->n_parts || (msg->n_elements && msg->n_elements != psd_shard_elements(self->shard, msg->part))) {
        refuse(self, from, PSD_REFUSAL_SHAPE, out, "push of chunk %u/%u with %u elements; shard %u has %u chunks%s",
               msg->part, msg->parts, msg->n_elements, self->index, self->n_parts,
               msg->parts == self->n_parts ? ", this one of another size" : "");
        return false;
    }
    if (w->complete || psd_bitmap_get(w->have, msg->part)) {
        self->stats.rejected[PSD_REFUSAL_DUPLICATE]++;
        return false;
    }
    if (w->held && (whole || msg->samples != w->samples)) {
        refuse(self, from, PSD_REFUSAL_SHAPE, out, "clock %" PRIu64 ": chunk %u says %" PRIu64 " samples, others %" PRIu64,
               msg->clock, msg->part, msg->samples, w->samples);
        return false;
    }
    return true;
}

/* Checksum and sum of squares of a payload in one pass over memory: block by block, added in the order of blocks. */
static uint32_t inspect(const psd_buf_t *payload, double *norm2)
{
    enum { BLOCK = 4096 };
    const float *x = payload->data;
    size_t left = payload->n_bytes / sizeof *x;
    uint32_t crc = 0;
    *norm2 = 0;
    for (size_t n; left; left -= n, x += n) {
        n = left < BLOCK ? left : BLOCK;
        crc = psd_crc32c_extend(crc, x, n * sizeof *x);
        *norm2 += psd_sum_of_squares(x, n);
    }
    return crc;
}

static void on_push(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                    psd_actions_t *out)
{
    worker_t *w = member_for(self, from, msg, out);
    if (!w || !is_started(self) || !push_is_good(self, from, w, msg, out))
        return;
    double norm2 = 0;
    if (payload && inspect(payload, &norm2) != msg->checksum) {
        self->stats.rejected[PSD_REFUSAL_CHECKSUM]++;
        send_progress(self, w, out);
        return;
    }
    psd_bitmap_set(w->have, msg->part);
    w->parked[msg->part] = psd_buf_ref(payload);
    w->held++;
    w->samples = msg->samples;
    w->loss = msg->loss;
    w->base_version = msg->base_version < self->version ? msg->base_version : self->version;
    /* The shard looks for itself: what a worker says of its gradient may be wrong. */
    w->nonfinite |= msg->nonfinite || !isfinite(norm2);
    w->norm2 += isfinite(norm2) ? norm2 : 0;
    self->stats.chunks++;
    if (w->held == self->n_parts || !msg->samples)
        on_complete(self, now_ms, w, out);
}

static void on_probe(psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                     psd_actions_t *out)
{
    worker_t *w = member_for(self, from, msg, out);
    if (!w || !is_started(self) || self->running)
        return;
    if (msg->clock > w->applied) {
        send_progress(self, w, out);
        return;
    }
    /* The clock is closed: what it lacks are weights. */
    const uint8_t *wanted = payload->data;
    if (msg->parts != self->n_parts || !psd_shard_parts(self->shard)) {
        send_all_weights(self, w, out);
        return;
    }
    for (uint32_t p = 0; p < self->n_parts; p++)
        if (psd_bitmap_get(wanted, p))
            send_chunk(self, w, p, out);
}

static void on_pull_slow(psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                         psd_actions_t *out)
{
    worker_t *w = member_for(self, from, msg, out);
    if (!w || !is_started(self) || self->running || msg->parts != self->n_parts)
        return;
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        if (!psd_bitmap_get(payload->data, p))
            continue;
        psd_buf_t *slow = psd_shard_slow(self->shard, p);
        assert(slow && "no memory for a copy of slow weights");
        psd_msg_t *answer = send_to_worker(self, w, PSD_MSG_SLOW, slow, out);
        answer->part = p;
        answer->seq = msg->seq;
        answer->n_elements = psd_shard_elements(self->shard, p);
        answer->checksum = psd_crc32c(slow->data, slow->n_bytes);
        answer->dtype = PSD_DTYPE_F32;
        answer->codec = PSD_CODEC_RAW;
        psd_buf_unref(&slow);
        self->stats.pulls_slow++;
    }
}

/* ---- events ------------------------------------------------------------------------------------------------- */

static void on_worker_message(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                              psd_buf_t *payload, psd_actions_t *out)
{
    if (msg->job != self->job) {
        refuse(self, from, PSD_REFUSAL_JOB, out, "this is job run %016" PRIx64 ", you are of %016" PRIx64, self->job,
               msg->job);
        return;
    }
    if (msg->shard != self->index) {
        refuse(self, from, PSD_REFUSAL_SHARD, out, "this is shard %u, the message is for shard %u", self->index,
               msg->shard);
        return;
    }
    switch (msg->kind) {
    case PSD_MSG_ATTACH: on_attach(self, now_ms, from, msg, out); break;
    case PSD_MSG_INIT: on_init(self, from, msg, payload, out); break;
    case PSD_MSG_PUSH: on_push(self, now_ms, from, msg, payload, out); break;
    case PSD_MSG_PROBE: on_probe(self, from, msg, payload, out); break;
    case PSD_MSG_PULL: on_pull_slow(self, from, msg, payload, out); break;
    default: refuse(self, from, PSD_REFUSAL_SENDER, out, "%s is not for a shard", psd_kind_name(msg->kind));
    }
}

void psd_engine_message(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                        psd_buf_t *payload, psd_actions_t *out)
{
    if (from != PSD_PEER_COORDINATOR) {
        if (self->welcomed && !self->leaving_run && !self->restoring)
            on_worker_message(self, now_ms, from, msg, payload, out);
        return;
    }
    if (self->leaving_run)
        return;
    if (msg->kind == PSD_MSG_SHARD_WELCOME) {
        on_welcome(self, msg, out);
    } else if (msg->kind == PSD_MSG_REFUSED && msg->code == PSD_REFUSAL_RUN && self->welcomed) {
        self->leaving_run = msg->job != self->job;
        start_over_if_due(self, now_ms, out);
    } else if (msg->kind == PSD_MSG_REFUSED && msg->seq == self->config.nonce)
        psd_actions_finish(out, PSD_EREFUSED, msg->text);
    else if (self->welcomed && !self->restoring && (msg->kind == PSD_MSG_COMMAND || msg->kind == PSD_MSG_MODEL) && msg->job == self->job)
        on_log_entry(self, now_ms, msg, payload, out);
}

static void send_hello(const psd_engine_t *self, psd_actions_t *out)
{
    psd_msg_t *hello = psd_actions_send(out, PSD_PEER_COORDINATOR, PSD_MSG_SHARD_HELLO, NULL);
    hello->seq = self->config.nonce;
    hello->code = (uint32_t)(self->config.wanted_index + 1);
    snprintf(hello->text, sizeof hello->text, "%s %s", self->endpoint, self->settings);
}

void psd_engine_tick(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (now_ms < self->state_sent_ms + STATE_EVERY_MS)
        return;
    self->state_sent_ms = now_ms;
    if (self->leaving_run || self->restoring)
        return;
    if (self->welcomed) {
        send_state(self, NULL, out);
        request_init(self, now_ms, out);
    }
    /* Also when welcomed: over a connection that was lost and made again, the coordinator knows us by this alone. */
    if (!self->welcomed || self->index)
        send_hello(self, out);
}

/* ---- facts -------------------------------------------------------------------------------------------------- */

const psd_engine_stats_t *psd_engine_stats(const psd_engine_t *self) { return &self->stats; }
uint32_t psd_engine_index(const psd_engine_t *self) { return self->index; }
bool psd_engine_is_ready(const psd_engine_t *self) { return self->welcomed; }
uint64_t psd_engine_version(const psd_engine_t *self) { return self->version; }
uint64_t psd_engine_clock(const psd_engine_t *self) { return self->clock; }
const psd_shard_t *psd_engine_shard(const psd_engine_t *self) { return self->shard; }
const psd_tensor_list_t *psd_engine_model(const psd_engine_t *self) { return &self->model; }

const psd_engine_point_t *psd_engine_point(const psd_engine_t *self) { return &self->save_point; }

const psd_partition_t *psd_engine_map(const psd_engine_t *self) { return &self->map; }

uint64_t psd_engine_sync_epoch(const psd_engine_t *self)
{
    return self->shard && psd_shard_parts(self->shard) && !self->running ? psd_shard_sync_epoch(self->shard, 0)
                                                                         : self->stats.syncs;
}

uint64_t psd_engine_elements(const psd_engine_t *self)
{
    return self->shard ? self->map.n_elements[self->index] : 0;
}

bool psd_engine_worker(const psd_engine_t *self, uint32_t id, psd_engine_worker_t *out)
{
    const worker_t *w = id < PSD_MAX_WORKERS ? self->worker[id] : NULL;
    if (!w || w->standing != MEMBER)
        return false;
    *out = w->facts;
    out->incarnation = w->incarnation;
    out->applied = w->applied;
    out->held = w->held;
    out->parts = self->n_parts;
    return true;
}

void psd_engine_set_ledger(psd_engine_t *self, psd_ledger_fn *fn, void *arg)
{
    self->ledger = fn;
    self->ledger_arg = arg;
}
