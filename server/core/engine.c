#include <stdarg.h>
#include <stdio.h>

#include "common/base/absence.h"
#include "server/core/engine_state.h"

enum {
    LINE_MS = 5000,         /* between two lines that say that server 0 is waited for */
    STATE_EVERY_MS = 250,   /* repeat of what the coordinator must know */
    INIT_EVERY_MS = 500,    /* repeat of the newest request for initial values */
    INIT_SILENCE_MS = 2000, /* who is asked for them, and says nothing for so long, is asked no more if there is another */
    INIT_WINDOW = 1 << 20   /* elements that are asked for and have not come, 4 MiB */
};

psd_engine_t *psd_engine_new(const psd_engine_config_t *config, psd_err_t *err)
{
    psd_engine_t *self = calloc(1, sizeof *self);
    if (self) {
        self->config = *config;
        self->name = strdup(config->job);
        self->settings = strdup(config->settings);
        self->endpoint = strdup(config->endpoint);
    }
    if (!self || !self->name || !self->settings || !self->endpoint) {
        psd_err_set(err, PSD_ENOMEM, "no memory for an engine");
        psd_engine_destroy(&self);
    }
    return self;
}

/* No id stands in the queue twice, so that there is room for all. */
static void leave_queue(psd_engine_t *self, uint32_t id)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_queued; i++)
        if (self->queue[i] != id)
            self->queue[n++] = self->queue[i];
    self->n_queued = n;
}

/* Forget what has come of the worker's open clock. */
void psd_eng_drop_open_clock(psd_engine_t *self, psd_eng_worker_t *w)
{
    for (uint32_t p = 0; w->parked && p < self->n_parts; p++)
        psd_buf_unref(&w->parked[p]);
    if (w->have)
        memset(w->have, 0, psd_bitmap_bytes(self->n_parts));
    w->held = 0;
    w->samples = 0;
    w->loss = w->norm2 = 0;
    w->nonfinite = w->complete = false;
    w->bad_part = 0;
    leave_queue(self, w->id);
}

void psd_eng_drop_gradient(psd_engine_t *self, psd_eng_worker_t *w)
{
    for (uint32_t p = 0; p < self->n_parts; p++)
        psd_buf_unref(&w->parked[p]);
    w->samples = 0;
    w->norm2 = 0;
    w->nonfinite = false;
    w->bad_part = 0;
}

void psd_eng_free_worker(psd_engine_t *self, psd_eng_worker_t *w)
{
    psd_eng_drop_open_clock(self, w);
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
    psd_eng_forget_everything(self);
    free(self->name);
    free(self->settings);
    free(self->endpoint);
    free(self);
}

void psd_engine_count_refusal(psd_engine_t *self, psd_refusal_t reason) { self->stats.rejected[reason]++; }

/* ---- messages out ---- */

psd_msg_t *psd_eng_send_to(psd_engine_t *self, psd_peer_t to, psd_kind_t kind, psd_buf_t *payload, psd_actions_t *out)
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

psd_msg_t *psd_eng_send_to_worker(psd_engine_t *self, const psd_eng_worker_t *w, psd_kind_t kind, psd_buf_t *payload,
                                  psd_actions_t *out)
{
    psd_msg_t *msg = psd_eng_send_to(self, w->peer, kind, payload, out);
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

/* How the whole job does, beside the weights. */
static void tell_job(const psd_engine_t *self, psd_msg_t *msg)
{
    msg->loss = self->stats.loss;
    msg->value = (double)self->samples;
}

void psd_eng_send_chunk(psd_engine_t *self, const psd_eng_worker_t *w, uint32_t part, psd_actions_t *out)
{
    psd_buf_t *weights = psd_shard_weights(self->shard, part);
    psd_msg_t *msg = psd_eng_send_to_worker(self, w, PSD_MSG_WEIGHTS, weights, out);
    msg->part = part;
    msg->n_elements = psd_shard_elements(self->shard, part);
    msg->checksum = psd_shard_checksum(self->shard, part);
    msg->dtype = PSD_DTYPE_F32;
    msg->codec = PSD_CODEC_RAW;
    tell_job(self, msg);
    self->stats.pulls_fast++;
}

/* An empty WEIGHTS: all chunks of this shard are as they were, go on. */
void psd_eng_send_unchanged(psd_engine_t *self, const psd_eng_worker_t *w, psd_actions_t *out)
{
    tell_job(self, psd_eng_send_to_worker(self, w, PSD_MSG_WEIGHTS, NULL, out));
}

psd_progress_t psd_eng_progress(const psd_engine_t *self, const psd_eng_worker_t *w)
{
    return (psd_progress_t){ .clock = self->clock,
                             .members = self->world,
                             .push = w->applied + 1,
                             .slowest = self->slowest,
                             .resumes_at = w->resumes_at,
                             .staleness = self->version - w->base_version,
                             .max_staleness = self->config.max_staleness,
                             .lr_rule = self->config.lr_rule,
                             .held = self->held };
}

static bool may_pull(const psd_engine_t *self, const psd_eng_worker_t *w)
{
    const psd_progress_t p = psd_eng_progress(self, w);
    return self->config.mode->may_pull(&p);
}

bool psd_eng_is_started(const psd_engine_t *self) { return self->shard && self->n_started == psd_shard_parts(self->shard); }

void psd_eng_send_all_weights(psd_engine_t *self, psd_eng_worker_t *w, psd_actions_t *out)
{
    w->owed = false;
    if (!psd_shard_parts(self->shard))
        psd_eng_send_unchanged(self, w, out);
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++)
        psd_eng_send_chunk(self, w, p, out);
}

/* New members get the weights as soon as there are some, the worker is attached, and no step is under way. */
void psd_eng_pay_debts(psd_engine_t *self, psd_actions_t *out)
{
    if (!psd_eng_is_started(self) || self->update.open)
        return;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        psd_eng_worker_t *w = self->worker[i];
        if (w && w->standing == PSD_MEMBER && w->owed && w->peer && may_pull(self, w))
            psd_eng_send_all_weights(self, w, out);
    }
}

static void send_init_wanted(psd_engine_t *self, uint64_t now_ms, const uint8_t *wanted, psd_actions_t *out)
{
    psd_buf_t *map = psd_payload_copy(wanted, psd_bitmap_bytes(self->n_parts));
    psd_eng_send_to_worker(self, self->worker[self->init.worker], PSD_MSG_INIT_WANTED, map, out)->seq = self->init.seq;
    psd_buf_unref(&map);
    self->init.sent_ms = now_ms;
}

/* Ask whoever is asked for more, up to the window. */
static void widen_init(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    uint32_t n = 0;
    memset(self->init.newest, 0, psd_bitmap_bytes(self->n_parts));
    for (uint32_t p = 0; p < psd_shard_parts(self->shard) && self->init.flying < INIT_WINDOW; p++) {
        if (psd_bitmap_get(self->started, p) || psd_bitmap_get(self->init.asked, p))
            continue;
        psd_bitmap_set(self->init.newest, p);
        psd_bitmap_set(self->init.asked, p);
        self->init.flying += psd_shard_elements(self->shard, p);
        n++;
    }
    if (!n)
        return;
    self->init.seq++;
    send_init_wanted(self, now_ms, self->init.newest, out);
}

static void forget_asked(psd_engine_t *self)
{
    memset(self->init.asked, 0, psd_bitmap_bytes(self->n_parts));
    self->init.flying = 0;
}

void psd_eng_request_init(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (!self->shard || psd_eng_is_started(self))
        return;
    const psd_eng_worker_t *asked = self->init.asking ? self->worker[self->init.worker] : NULL;
    if (asked && asked->standing == PSD_MEMBER && asked->peer && asked->incarnation == self->init.incarnation &&
        now_ms < self->init.heard_ms + INIT_SILENCE_MS) {
        if (now_ms >= self->init.sent_ms + INIT_EVERY_MS) /* by its number it is answered once */
            send_init_wanted(self, now_ms, self->init.newest, out);
        return;
    }
    /* Another member each time: the one asked before may be dead, and the view cannot change before there are weights. */
    for (uint32_t k = 0; k < PSD_MAX_WORKERS; k++) {
        const uint32_t i = (self->init.worker + self->init.asking + k) % PSD_MAX_WORKERS;
        const psd_eng_worker_t *w = self->worker[i];
        if (!w || w->standing != PSD_MEMBER || !w->peer)
            continue;
        self->init.asking = true;
        self->init.worker = i;
        self->init.incarnation = w->incarnation;
        self->init.heard_ms = now_ms;
        forget_asked(self);
        widen_init(self, now_ms, out);
        return;
    }
}

void psd_eng_init_answered(psd_engine_t *self, uint64_t now_ms, const psd_eng_worker_t *w, uint64_t seq, psd_actions_t *out)
{
    if (!self->init.asking || self->init.worker != w->id || seq != self->init.seq || !self->init.flying)
        return;
    forget_asked(self);
    widen_init(self, now_ms, out);
}

void psd_eng_init_came(psd_engine_t *self, uint64_t now_ms, uint32_t part, psd_actions_t *out)
{
    if (!psd_bitmap_get(self->init.asked, part))
        return;
    psd_bitmap_unset(self->init.asked, part);
    self->init.flying -= psd_shard_elements(self->shard, part);
    const psd_eng_worker_t *asked = self->worker[self->init.worker];
    if (self->init.flying <= INIT_WINDOW / 2 && asked && asked->standing == PSD_MEMBER && asked->peer)
        widen_init(self, now_ms, out);
}

/* Tell the coordinator which log entries are done and whose pushes of the open clock are complete: of `only`,
 * or of all when it is NULL. */
void psd_eng_send_state(psd_engine_t *self, const psd_eng_worker_t *only, psd_actions_t *out)
{
    psd_member_t *complete = self->complete;
    psd_round_t state = { .clock = self->clock + 1, .contributor = complete };
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        const psd_eng_worker_t *w = self->worker[i];
        if (w && (!only || w == only) && w->standing == PSD_MEMBER && w->complete && psd_mode_has_rounds(self->config.mode))
            complete[state.n_contributors++] = (psd_member_t){ .worker = w->id,
                                                               .incarnation = w->incarnation,
                                                               .samples = w->samples,
                                                               .loss = w->loss,
                                                               .norm2 = w->norm2,
                                                               .nonfinite = w->nonfinite };
    }
    psd_buf_t *payload = psd_payload_copy(self->list, psd_round_encode(&state, self->list, sizeof self->list));
    psd_msg_t *msg = psd_eng_send_to(self, PSD_PEER_COORDINATOR, PSD_MSG_SHARD_STATE, payload, out);
    msg->seq = self->log_done;
    msg->clock = self->clock;
    msg->saved = self->saved;
    msg->code = psd_eng_is_started(self) ? PSD_SHARD_STARTED : 0;
    if (self->save_failed > self->saved)
        msg->code |= PSD_SHARD_SAVE_FAILED;
    if (self->restore_failed)
        msg->code |= PSD_SHARD_RESTORE_FAILED;
    if (msg->code & (PSD_SHARD_SAVE_FAILED | PSD_SHARD_RESTORE_FAILED))
        snprintf(msg->text, sizeof msg->text, "%s", self->trouble);
    psd_buf_unref(&payload);
}

void psd_eng_refuse(psd_engine_t *self, psd_peer_t to, psd_refusal_t reason, psd_actions_t *out, const char *format, ...)
{
    self->stats.rejected[reason]++;
    psd_msg_t *msg = psd_eng_send_to(self, to, PSD_MSG_REFUSED, NULL, out);
    msg->code = reason;
    va_list args;
    va_start(args, format);
    vsnprintf(msg->text, sizeof msg->text, format, args);
    va_end(args);
}

void psd_eng_fence(psd_engine_t *self, psd_peer_t to, const psd_msg_t *about, psd_actions_t *out)
{
    self->stats.rejected[PSD_REFUSAL_INCARNATION]++;
    const psd_eng_worker_t *w = self->worker[about->worker];
    psd_msg_t *msg = psd_eng_send_to(self, to, PSD_MSG_FENCED, NULL, out);
    msg->worker = about->worker;
    msg->incarnation = w ? w->incarnation : 0;
    if (msg->incarnation > about->incarnation)
        snprintf(msg->text, sizeof msg->text, "worker %u incarnation %" PRIu64 " was replaced by incarnation %" PRIu64,
                 about->worker, about->incarnation, msg->incarnation);
    else
        snprintf(msg->text, sizeof msg->text,
                 "worker %u incarnation %" PRIu64 " is no longer a member: nothing was heard of it for "
                 "longer than the lease, or its push came later than round_timeout",
                 about->worker, about->incarnation);
}

/* ---- the step ---- */

static void run_early_commands(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);

/* A member's clock is closed: it may push the next one. */
static void close_clock(psd_engine_t *self, psd_eng_worker_t *w, uint64_t clock)
{
    w->applied = clock;
    psd_eng_drop_open_clock(self, w);
}

static void find_slowest(psd_engine_t *self)
{
    self->slowest = UINT64_MAX;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == PSD_MEMBER && self->worker[i]->applied < self->slowest)
            self->slowest = self->worker[i]->applied;
}

static void step_finished(psd_engine_t *self, uint64_t now_ms, bool stepped, psd_actions_t *out)
{
    if (stepped) {
        self->version++;
        self->samples += self->update.samples;
        self->stats.steps++;
        self->stats.samples += self->update.samples;
    }
    self->stats.syncs = psd_engine_sync_epoch(self);
    psd_eng_begin_save(self, out);
    psd_eng_pay_debts(self, out);
    run_early_commands(self, now_ms, out);
    psd_eng_start_queued_push(self, now_ms, out);
}

/* Tell the coordinator what the pass has measured here. */
static void send_sums(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const uint32_t parts = psd_shard_parts(self->shard), n = psd_update_sums(&self->update);
    psd_buf_t *payload = parts ? psd_payload_copy(self->update.sum, (size_t)parts * n * sizeof(double)) : NULL;
    psd_msg_t *msg = psd_eng_send_to(self, PSD_PEER_COORDINATOR, PSD_MSG_SUMS, payload, out);
    msg->clock = self->clock;
    msg->code = (uint32_t)self->update.pass;
    msg->parts = parts;
    msg->n_elements = n;
    self->sums_sent_ms = now_ms;
    psd_buf_unref(&payload);
}

static uint32_t tensor_of(const psd_engine_t *self, uint32_t part)
{
    return self->map.chunk[self->map.part[self->index][part]].tensor;
}

/* Hand out the work of the update's pass, one piece per chunk. Whether that is all of it: this shard has no chunks. */
static bool hand_out(psd_engine_t *self, psd_actions_t *out)
{
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        psd_work_t *work = psd_shard_pending(self->shard, p);
        psd_update_hand_out(&self->update, work, tensor_of(self, p));
        if (psd_update_is_step(&self->update) && !psd_eng_may_step(self, work))
            continue;
        psd_bitmap_set(self->update.busy, p);
        psd_actions_work(out, work);
    }
    return psd_update_pass_is_over(&self->update);
}

/* Begin an update: the mean over `contributor[0..n)`, whose samples sum to `total`. With `measures`, clipping and the rule look
 * at the whole model before its step; else `scale` is known. */
static void start_update(psd_engine_t *self, psd_eng_worker_t **contributor, uint32_t n, uint64_t total, double lr, bool measures,
                         float scale, psd_actions_t *out)
{
    self->stats.lr = lr;
    self->stats.loss = self->stats.grad_norm2 = 0;
    self->stats.clip_scale = (double)scale;
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
    }
    psd_update_begin(&self->update, total, measures);
    hand_out(self, out);
}

/* A chunk's step has run: its weights go to whoever waits for them. */
static void send_stepped(psd_engine_t *self, const psd_work_t *work, psd_actions_t *out)
{
    /* Weights carry the version that this step makes, and the samples behind it. */
    self->version++;
    self->samples += self->update.samples;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        psd_eng_worker_t *w = self->worker[i];
        if (!w || w->standing != PSD_MEMBER || !w->peer || w->owed)
            continue;
        if (self->stepping_for && w != self->stepping_for)
            continue;
        if (may_pull(self, w))
            psd_eng_send_chunk(self, w, work->part, out);
        else
            w->owed = true;
    }
    self->version--;
    self->samples -= self->update.samples;
}

void psd_engine_worked(psd_engine_t *self, uint64_t now_ms, psd_work_t *work, psd_actions_t *out)
{
    const bool is_step = psd_update_is_step(&self->update), is_last = psd_update_returned(&self->update, work);
    psd_eng_chunk_stepped(self, work->part, out);
    if (self->leaving_run) {
        psd_eng_start_over_if_due(self, now_ms, out);
        return;
    }
    if (is_step) {
        self->stats.clip_scale = (double)work->clipped;
        send_stepped(self, work, out);
    }
    if (is_last && is_step)
        step_finished(self, now_ms, true, out);
    else if (is_last)
        send_sums(self, now_ms, out);
}

/* A step of a shard without chunks, or a round without a step: all members go on. */
static void finish_at_once(psd_engine_t *self, uint64_t now_ms, bool stepped, psd_actions_t *out)
{
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == PSD_MEMBER && self->worker[i]->peer && !self->worker[i]->owed)
            psd_eng_send_unchanged(self, self->worker[i], out);
    step_finished(self, now_ms, stepped, out);
}

/* What all shards have measured together. */
static void on_totals(psd_engine_t *self, uint64_t now_ms, const psd_msg_t *msg, psd_buf_t *payload, psd_actions_t *out)
{
    const size_t n = payload ? payload->n_bytes / sizeof(double) : 0;
    const bool wanted = psd_update_settle(&self->update, (int)msg->code, n ? payload->data : NULL, n);
    assert(wanted && "the coordinator adds up what every shard has told it");
    self->log_done = msg->seq;
    if (hand_out(self, out) && self->update.measured)
        send_sums(self, now_ms, out);
    else if (!self->update.open)
        finish_at_once(self, now_ms, true, out);
    psd_eng_send_state(self, NULL, out);
}

/* ---- gradients that are not finite ---- */

/* Keep in self->bad whose it was, and in which tensor, as far as it is known here. */
static void note_bad(psd_engine_t *self, const psd_eng_worker_t *w)
{
    const char *tensor = "";
    if (w->bad_part)
        tensor = self->model.tensor[self->map.chunk[self->map.part[self->index][w->bad_part - 1]].tensor].name;
    snprintf(self->bad, sizeof self->bad, "the gradient of worker %u has Inf or NaN%s%.200s", w->id,
             *tensor ? ", first in tensor " : "", tensor);
}

/* The members of this shard are told here that the job fails, whatever becomes of another server's word on the way to them. That
 * training gets nowhere says who knows whose gradient it was. */
static void tell_failure(psd_engine_t *self, psd_actions_t *out)
{
    if (self->failure.refusal == PSD_REFUSAL_HOPELESS && !*self->bad)
        return;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == PSD_MEMBER && self->worker[i]->peer)
            psd_eng_refuse(self, self->worker[i]->peer, self->failure.refusal, out, "%s", self->failure.why);
}

static void begin_failure(psd_engine_t *self, psd_refusal_t refusal, const char *why, psd_actions_t *out)
{
    if (*self->failure.why)
        return;
    snprintf(self->failure.why, sizeof self->failure.why, "%s", why);
    self->failure.refusal = refusal;
    tell_failure(self, out);
}

/* A moment later, so that the words, and the log's, are not lost with the connections. */
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
             "%" PRIu64 " %s in a row made no step (sync.max_skipped): %s; lower the learning rate, or look at the data", n, what,
             *self->bad ? self->bad : "a gradient has Inf or NaN, at another server, which names it");
    begin_failure(self, PSD_REFUSAL_HOPELESS, why, out);
}

/* Before the round's pushes are forgotten. */
static void count_skipped(psd_engine_t *self, const psd_round_t *round, psd_actions_t *out)
{
    bool any = false;
    if (round->apply)
        self->skipped = 0;
    for (uint32_t i = 0; !round->apply && i < PSD_MAX_WORKERS; i++) {
        const psd_eng_worker_t *w = self->worker[i];
        if (!w || w->standing != PSD_MEMBER || !w->complete || !w->samples)
            continue;
        any = true;
        if (w->bad_part)
            note_bad(self, w);
    }
    self->skipped += any;
    if (any && self->config.max_skipped && self->skipped == self->config.max_skipped)
        give_up_hope(self, self->skipped, "rounds", out);
}

/* ---- pushes that are steps of their own ---- */

static void count_staleness(psd_engine_t *self, psd_eng_worker_t *w, uint64_t staleness)
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

/* A push that makes no step. One that is too old, or otherwise not wanted, is answered with the weights as they are now. */
static void answer_without_step(psd_engine_t *self, psd_eng_worker_t *w, psd_refusal_t why, psd_actions_t *out)
{
    if (why)
        self->stats.rejected[why]++;
    close_clock(self, w, w->applied + 1);
    find_slowest(self);
    if (!may_pull(self, w))
        w->owed = true;
    else if (why == PSD_REFUSAL_STALE)
        psd_eng_send_all_weights(self, w, out);
    else
        psd_eng_send_unchanged(self, w, out);
}

static void reject_nonfinite(psd_engine_t *self, psd_eng_worker_t *w, psd_actions_t *out)
{
    note_bad(self, w);
    psd_actions_log(out, PSD_LEVEL_WARN, "gradient.nonfinite",
                    "worker=%u clock=%" PRIu64 " effect=\"the push is rejected\" reason=\"%s\"", w->id, w->applied + 1, self->bad);
    if (++w->in_vain == self->config.max_skipped)
        give_up_hope(self, w->in_vain, "pushes of a worker", out);
    answer_without_step(self, w, PSD_REFUSAL_NONFINITE, out);
}

static void step_push(psd_engine_t *self, uint64_t now_ms, psd_eng_worker_t *w, const psd_progress_t *p, psd_actions_t *out)
{
    self->stepping_for = w;
    start_update(self, &w, 1, w->samples, self->lr * self->config.mode->rate(p), false,
                 psd_clip_scale(&self->config.clip, w->whole_norm2), out);
    close_clock(self, w, w->applied + 1);
    find_slowest(self);
    self->stats.rounds++;
    if (!self->update.open) {
        psd_eng_send_unchanged(self, w, out);
        step_finished(self, now_ms, true, out);
    }
}

void psd_eng_start_queued_push(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const psd_mode_t *mode = self->config.mode;
    while (self->n_queued && !self->update.open) {
        psd_eng_worker_t *w = self->worker[self->queue[0]];
        const bool here = w && w->standing == PSD_MEMBER && w->complete;
        const psd_progress_t p = here ? psd_eng_progress(self, w) : (psd_progress_t){ 0 };
        if (here && !mode->may_step(&p))
            return;
        memmove(self->queue, self->queue + 1, --self->n_queued * sizeof *self->queue);
        if (!here)
            continue;
        count_staleness(self, w, p.staleness);
        if (w->nonfinite) {
            reject_nonfinite(self, w, out);
            continue;
        }
        if (w->samples)
            w->in_vain = 0;
        if (!w->samples)
            answer_without_step(self, w, PSD_REFUSAL_NONE, out);
        else if (mode->whole_push(&p) == PSD_PUSH_DROPS)
            answer_without_step(self, w, PSD_REFUSAL_STALE, out);
        else
            step_push(self, now_ms, w, &p, out);
    }
}

/* ---- the coordinator's log ---- */

psd_eng_worker_t *psd_eng_worker_row(psd_engine_t *self, uint32_t id)
{
    if (!self->worker[id]) {
        psd_eng_worker_t *w = calloc(1, sizeof *w);
        assert(w && "no memory for a worker's row");
        w->id = id;
        self->worker[id] = w;
    }
    return self->worker[id];
}

static void size_row(psd_engine_t *self, psd_eng_worker_t *w)
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
        psd_eng_worker_t *w = psd_eng_worker_row(self, m->worker);
        stays[m->worker] = true;
        w->rank = r;
        if (w->incarnation != m->incarnation || w->nonce != m->nonce)
            w->peer = PSD_PEER_NONE; /* nobody has attached, or somebody else */
        if (w->incarnation != m->incarnation || w->standing != PSD_MEMBER) {
            psd_eng_drop_open_clock(self, w);
            w->incarnation = m->incarnation;
            w->logged = m->incarnation;
            w->nonce = m->nonce;
            w->standing = PSD_MEMBER;
            const psd_progress_t p = psd_eng_progress(self, w);
            w->applied = self->config.mode->joins_at(&p);
            w->owed = true;
        }
        size_row(self, w);
    }
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == PSD_MEMBER && !stays[i]) {
            psd_eng_drop_open_clock(self, self->worker[i]);
            self->worker[i]->standing = PSD_GONE;
        }
    find_slowest(self);
}

static double rate_of_round(const psd_engine_t *self)
{
    const psd_progress_t p = { .clock = self->clock, .members = self->world, .lr_rule = self->config.lr_rule };
    return self->config.mode->rate(&p);
}

/* Close the round: a step from these contributors, or none; then every member may go on to the next. */
static void close_round(psd_engine_t *self, uint64_t now_ms, const psd_round_t *round, psd_actions_t *out)
{
    psd_eng_worker_t *contributor[PSD_MAX_WORKERS];
    uint64_t total = 0;
    uint32_t n = 0;
    for (uint32_t k = 0; k < round->n_contributors; k++) {
        psd_eng_worker_t *w = self->worker[round->contributor[k].worker];
        assert(w && w->complete && w->incarnation == round->contributor[k].incarnation &&
               "the coordinator counts only pushes that every shard holds");
        contributor[n++] = w;
        total += w->samples;
    }
    count_skipped(self, round, out);
    self->stepping_for = NULL;
    if (round->apply)
        start_update(self, contributor, n, total, round->lr * rate_of_round(self), true, 1, out);
    self->clock = round->clock;
    self->stats.rounds++;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == PSD_MEMBER)
            close_clock(self, self->worker[i], round->clock);
    install_view(self, round);
    /* New members are served chunk by chunk with the others, by this very step. */
    for (uint32_t i = 0; self->update.open && i < PSD_MAX_WORKERS; i++)
        if (self->worker[i] && self->worker[i]->standing == PSD_MEMBER && self->worker[i]->peer)
            self->worker[i]->owed = false;
    if (self->update.measured) /* without chunks a pass is over at once */
        send_sums(self, now_ms, out);
    else if (!self->update.open)
        finish_at_once(self, now_ms, round->apply, out);
}

static void on_command(psd_engine_t *self, uint64_t now_ms, const psd_msg_t *msg, psd_buf_t *payload, psd_actions_t *out)
{
    psd_round_t round;
    psd_err_t err;
    if (psd_round_decode(&round, payload->data, payload->n_bytes, &err) != PSD_OK) {
        psd_actions_log(out, PSD_LEVEL_ERROR, "log.unreadable", "seq=%" PRIu64 " reason=\"%s\"", msg->seq, err.text);
        return;
    }
    self->log_done = msg->seq;
    self->lr = round.lr;
    self->held = (msg->code & PSD_COMMAND_HOLD) != 0;
    if (msg->code & PSD_COMMAND_SAVE) {
        self->save_due = true;
        self->save_order = round.clock;
        self->save_failed = 0; /* what is said of failure from here on is about this one */
    }
    if (msg->code & PSD_COMMAND_FINISH) {
        /* Server 0 ends when all others have read this, which its coordinator knows. */
        if (self->index && msg->code & PSD_COMMAND_STOP)
            psd_actions_finish(out, PSD_ESTOPPED, msg->text);
        else if (self->index)
            psd_actions_finish(out, PSD_OK, msg->text);
    } else if (msg->code & PSD_COMMAND_CLOSE) {
        close_round(self, now_ms, &round, out);
    } else {
        self->clock = round.clock;
        install_view(self, &round);
        psd_eng_begin_save(self, out);
        psd_eng_request_init(self, now_ms, out);
        psd_eng_pay_debts(self, out);
    }
    psd_round_clear(&round);
    psd_eng_send_state(self, NULL, out);
    psd_eng_start_queued_push(self, now_ms, out); /* which a pause held up */
}

/* Cut self->model for the servers and make room for this one's share. */
int psd_eng_make_shard(psd_engine_t *self, psd_err_t *err)
{
    uint64_t sizes[PSD_MAX_TENSORS];
    for (uint32_t i = 0; i < self->model.n; i++)
        sizes[i] = self->model.tensor[i].n_elements;
    int rc = psd_partition_make(&self->map, sizes, self->model.n, self->n_servers, err);
    if (rc == PSD_OK && !(self->shard = psd_shard_new(&self->config.rule, &self->config.clip, &self->map, self->index, err)))
        rc = PSD_ENOMEM;
    if (rc == PSD_OK && !psd_update_init(&self->update, self->shard, self->model.n))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the sums of %u tensors", self->model.n);
    if (rc != PSD_OK)
        return rc;
    uint32_t parts = psd_shard_parts(self->shard);
    self->n_parts = parts ? parts : 1;
    self->started = calloc(1, psd_bitmap_bytes(self->n_parts));
    self->init.asked = calloc(1, psd_bitmap_bytes(self->n_parts));
    self->init.newest = calloc(1, psd_bitmap_bytes(self->n_parts));
    assert(self->started && self->init.asked && self->init.newest && "no memory for a bitmap of chunks");
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
    if (psd_eng_make_shard(self, &err) != PSD_OK) {
        psd_actions_finish(out, err.code, err.text);
        return;
    }
    uint32_t parts = psd_shard_parts(self->shard);
    self->log_done = msg->seq;
    psd_actions_log(out, PSD_LEVEL_INFO, "shard.model", "tensors=%u chunks=%u of=%u parameters=%" PRIu64, self->model.n, parts,
                    self->map.n_chunks, self->map.n_elements[self->index]);
    psd_eng_send_state(self, NULL, out);
}

static void on_log_entry(psd_engine_t *self, uint64_t now_ms, const psd_msg_t *msg, psd_buf_t *payload, psd_actions_t *out)
{
    if (msg->seq <= self->log_done) {
        psd_eng_send_state(self, NULL, out);
        return;
    }
    if (self->update.running || msg->seq > self->log_done + 1) {
        /* Early or out of order: keep it, so that a reordered log costs nothing. */
        for (uint32_t i = 0; i < self->n_early; i++)
            if (self->early[i].msg.seq == msg->seq)
                return;
        if (self->n_early < PSD_MAX_HELD_COMMANDS)
            self->early[self->n_early++] = (psd_held_command_t){ *msg, psd_buf_ref(payload) };
        return;
    }
    if (msg->kind == PSD_MSG_MODEL)
        on_model(self, msg, payload, out);
    else if (msg->kind == PSD_MSG_TOTALS)
        on_totals(self, now_ms, msg, payload, out);
    else
        on_command(self, now_ms, msg, payload, out);
    run_early_commands(self, now_ms, out);
}

static void run_early_commands(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    for (uint32_t i = 0; i < self->n_early && !self->update.running; i++) {
        if (self->early[i].msg.seq > self->log_done + 1)
            continue;
        psd_held_command_t next = self->early[i];
        self->early[i] = self->early[--self->n_early];
        if (next.msg.seq == self->log_done + 1)
            on_log_entry(self, now_ms, &next.msg, next.payload, out);
        psd_buf_unref(&next.payload);
        i = UINT32_MAX; /* the list has changed: look again from its start */
    }
}

static void on_welcome(psd_engine_t *self, const psd_msg_t *msg, psd_actions_t *out)
{
    if (msg->seq != self->config.nonce)
        return;
    psd_engine_word_t *word = &self->first.word;
    if (msg->code >= PSD_WELCOME_STATE) {
        word->known = true;
        word->state = msg->code / PSD_WELCOME_STATE - 1;
        word->ready = (msg->code & PSD_WELCOME_READY) != 0;
        snprintf(word->missing, sizeof word->missing, "%s", msg->text);
    }
    if (self->welcomed)
        return;
    if (msg->code & PSD_WELCOME_FINISHED) {
        psd_actions_finish(out, PSD_OK, "the job was finished before this server was started again");
        return;
    }
    self->welcomed = self->first.known = true;
    self->first.told[0] = '\0';
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
        psd_eng_send_state(self, NULL, out);
}

/* ---- events ---- */

void psd_engine_message(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                        psd_actions_t *out)
{
    if (from != PSD_PEER_COORDINATOR) {
        if (self->welcomed && !self->leaving_run && !self->restoring)
            psd_eng_on_worker_message(self, now_ms, from, msg, payload, out);
        return;
    }
    self->first.heard_ms = now_ms;
    if (msg->kind == PSD_MSG_WAIT)
        snprintf(self->first.told, sizeof self->first.told, "%.190s", msg->text);
    if (msg->kind == PSD_MSG_REFUSED && psd_refusal_end(msg->code)) {
        if (msg->seq == self->config.nonce)
            begin_failure(self, (psd_refusal_t)msg->code, msg->text, out);
        return;
    }
    if (self->leaving_run)
        return;
    if (msg->kind == PSD_MSG_SHARD_WELCOME) {
        on_welcome(self, msg, out);
    } else if (msg->kind == PSD_MSG_REFUSED && msg->code == PSD_REFUSAL_RUN && self->welcomed) {
        self->leaving_run = msg->job != self->job;
        psd_eng_start_over_if_due(self, now_ms, out);
    } else if (msg->kind == PSD_MSG_REFUSED && msg->seq == self->config.nonce)
        psd_actions_finish(out, PSD_EREFUSED, msg->text);
    else if (self->welcomed && !self->restoring &&
             (msg->kind == PSD_MSG_COMMAND || msg->kind == PSD_MSG_MODEL || msg->kind == PSD_MSG_TOTALS) && msg->job == self->job)
        on_log_entry(self, now_ms, msg, payload, out);
}

void psd_eng_send_hello(const psd_engine_t *self, psd_actions_t *out)
{
    psd_msg_t *hello = psd_actions_send(out, PSD_PEER_COORDINATOR, PSD_MSG_SHARD_HELLO, NULL);
    hello->seq = self->config.nonce;
    hello->code = (uint32_t)(self->config.wanted_index + 1);
    snprintf(hello->text, sizeof hello->text, "%s %s %s", self->name, self->endpoint, self->settings);
}

/* Whether server 0 is still there: without it nothing goes on here, and nobody else would say so. */
static void tend_first(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out)
{
    const uint64_t away_ms = psd_absence(&self->first.tick_ms, now_ms); /* what nobody listened to is no silence */
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
    if (now_ms < self->state_sent_ms + STATE_EVERY_MS)
        return;
    self->state_sent_ms = now_ms;
    if (self->leaving_run || self->restoring)
        return;
    if (self->welcomed) {
        psd_eng_send_state(self, NULL, out);
        if (self->update.measured && now_ms >= self->sums_sent_ms + STATE_EVERY_MS)
            send_sums(self, now_ms, out);
        psd_eng_request_init(self, now_ms, out);
    }
    /* Also when welcomed: over a connection that was lost and made again, the coordinator knows us by this
     * alone. */
    if (!self->welcomed || self->index)
        psd_eng_send_hello(self, out);
}

/* ---- facts ---- */

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
const psd_tensor_list_t *psd_engine_model(const psd_engine_t *self) { return &self->model; }

const psd_engine_point_t *psd_engine_point(const psd_engine_t *self) { return &self->save_point; }

const psd_partition_t *psd_engine_map(const psd_engine_t *self) { return &self->map; }

uint64_t psd_engine_sync_epoch(const psd_engine_t *self)
{
    return self->shard && psd_shard_parts(self->shard) && !self->update.open ? psd_shard_sync_epoch(self->shard, 0)
                                                                             : self->stats.syncs;
}

uint64_t psd_engine_elements(const psd_engine_t *self) { return self->shard ? self->map.n_elements[self->index] : 0; }

bool psd_engine_worker(const psd_engine_t *self, uint32_t id, psd_engine_worker_t *out)
{
    const psd_eng_worker_t *w = id < PSD_MAX_WORKERS ? self->worker[id] : NULL;
    if (!w || w->standing != PSD_MEMBER)
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

const char *psd_engine_hopeless(const psd_engine_t *self)
{
    return self->failure.refusal == PSD_REFUSAL_HOPELESS ? self->failure.why : NULL;
}
