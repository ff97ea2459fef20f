/* engine_push.c - what workers say to a shard, and the checks that need the shard's knowledge: whose session
 * it is, which clock is open, what has come before. */
#include <math.h>
#include <stdio.h>

#include "common/optim/aggregate.h"
#include "server/core/engine_state.h"

/* ---- messages of workers ---- */

/* A worker opens its session, or opens it again on a new connection. Only the log says who is a member: a
 * session that comes before it is kept until the log admits that worker, and is dropped then if it was not
 * that worker's. */
static void on_attach(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    psd_eng_worker_t *w = psd_eng_worker_row(self, msg->worker);
    if (msg->incarnation < w->logged || (msg->incarnation == w->logged && w->standing != PSD_MEMBER)) {
        psd_eng_fence(self, from, msg, out);
        return;
    }
    if (w->standing == PSD_MEMBER && msg->incarnation > w->incarnation) {
        psd_msg_t *wait = psd_eng_send_to(self, from, PSD_MSG_WAIT, NULL, out);
        wait->worker = msg->worker;
        snprintf(wait->text, sizeof wait->text, "shard %u waits for worker %u's older incarnation to be given up", self->index,
                 msg->worker);
        return;
    }
    if (w->standing == PSD_MEMBER && msg->seq != w->nonce) {
        psd_eng_refuse(self, from, PSD_REFUSAL_WORKER, out,
                       "worker %u is somebody else: the number drawn at its start is not yours", msg->worker);
        return;
    }
    if (w->standing != PSD_MEMBER) {
        w->standing = PSD_PENDING;
        w->incarnation = msg->incarnation;
        w->nonce = msg->seq;
    }
    w->peer = from;
    psd_eng_send_to_worker(self, w, PSD_MSG_ATTACHED, NULL, out);
    psd_eng_request_init(self, now_ms, out);
    psd_eng_pay_debts(self, out);
}

/* The sender's row, if the message comes from the session of a current member; otherwise it is answered and
 * NULL. */
static psd_eng_worker_t *member_for(psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    psd_eng_worker_t *w = self->worker[msg->worker];
    if (w && w->standing == PSD_MEMBER && msg->incarnation == w->incarnation) {
        if (w->peer == from)
            return w;
        psd_eng_refuse(self, from, PSD_REFUSAL_SESSION, out,
                       "shard %u knows no session of worker %u on this connection: attach first", self->index, msg->worker);
        return NULL;
    }
    bool early = !w || msg->incarnation > w->incarnation || w->standing == PSD_PENDING;
    if (early)
        self->stats.rejected[PSD_REFUSAL_VIEW]++; /* the log will admit it; its probes ask again */
    else
        psd_eng_fence(self, from, msg, out);
    return NULL;
}

static void on_init(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                    psd_actions_t *out)
{
    if (!member_for(self, from, msg, out) || !self->shard)
        return;
    if (msg->part >= psd_shard_parts(self->shard) || msg->n_elements != psd_shard_elements(self->shard, msg->part)) {
        psd_eng_refuse(self, from, PSD_REFUSAL_SHAPE, out, "initial chunk %u with %u elements; shard %u has %u chunks", msg->part,
                       msg->n_elements, self->index, psd_shard_parts(self->shard));
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
    psd_eng_init_came(self, now_ms, msg->part, out);
    if (psd_eng_is_started(self)) {
        psd_actions_log(out, PSD_LEVEL_INFO, "shard.started", "worker=%u chunks=%u", msg->worker, self->n_started);
        psd_eng_send_state(self, NULL, out);
        psd_eng_pay_debts(self, out);
    }
}

/* Send the list of chunks of the worker's open clock that have not arrived, as the answer to probe `seq` (0: unasked). */
static void send_progress(psd_engine_t *self, const psd_eng_worker_t *w, uint64_t seq, psd_actions_t *out)
{
    psd_buf_t *lacking = psd_payload_copy(w->have, psd_bitmap_bytes(self->n_parts));
    uint8_t *map = lacking->data;
    for (uint32_t p = 0; p < self->n_parts; p++) {
        psd_bitmap_unset(map, p);
        if (!w->complete && !psd_bitmap_get(w->have, p))
            psd_bitmap_set(map, p);
    }
    psd_msg_t *msg = psd_eng_send_to_worker(self, w, PSD_MSG_PROGRESS, lacking, out);
    msg->clock = w->applied + 1;
    msg->seq = seq;
    psd_buf_unref(&lacking);
}

/* Ask for one damaged chunk again. Others that have not arrived may be on their way; a probe will tell. */
static void want_again(psd_engine_t *self, const psd_eng_worker_t *w, uint32_t part, psd_actions_t *out)
{
    psd_buf_t *wanted = psd_payload_copy(w->have, psd_bitmap_bytes(self->n_parts));
    memset(wanted->data, 0, wanted->n_bytes);
    psd_bitmap_set(wanted->data, part);
    psd_eng_send_to_worker(self, w, PSD_MSG_PROGRESS, wanted, out)->clock = w->applied + 1;
    psd_buf_unref(&wanted);
}

static void on_complete(psd_engine_t *self, uint64_t now_ms, psd_eng_worker_t *w, psd_actions_t *out)
{
    w->complete = true;
    self->stats.pushes++;
    w->facts.pushes++;
    w->facts.samples += w->samples;
    w->facts.loss = w->loss;
    w->facts.last_push_ms = now_ms;
    const psd_progress_t p = psd_eng_progress(self, w);
    const psd_push_t verdict = self->config.mode->whole_push(&p);
    if (psd_mode_has_rounds(self->config.mode)) {
        if (verdict == PSD_PUSH_DROPS)
            psd_eng_drop_gradient(self, w);
        psd_eng_send_state(self, w, out);
        return;
    }
    assert(self->n_queued < PSD_MAX_WORKERS && "an id is queued once");
    self->queue[self->n_queued++] = w->id;
    psd_eng_start_queued_push(self, now_ms, out);
}

/* Checks of one push that need the shard's knowledge. False when it was answered or dropped. */
static bool push_is_good(psd_engine_t *self, psd_peer_t from, psd_eng_worker_t *w, const psd_msg_t *msg, psd_actions_t *out)
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
    if (msg->parts != self->n_parts || (msg->n_elements && msg->n_elements != psd_shard_elements(self->shard, msg->part))) {
        psd_eng_refuse(self, from, PSD_REFUSAL_SHAPE, out, "push of chunk %u/%u with %u elements; shard %u has %u chunks%s",
                       msg->part, msg->parts, msg->n_elements, self->index, self->n_parts,
                       msg->parts == self->n_parts ? ", this one of another size" : "");
        return false;
    }
    if (w->complete || psd_bitmap_get(w->have, msg->part)) {
        self->stats.rejected[PSD_REFUSAL_DUPLICATE]++;
        return false;
    }
    if (w->held && (whole || msg->samples != w->samples)) {
        psd_eng_refuse(self, from, PSD_REFUSAL_SHAPE, out, "clock %" PRIu64 ": chunk %u says %" PRIu64 " samples, others %" PRIu64,
                       msg->clock, msg->part, msg->samples, w->samples);
        return false;
    }
    return true;
}

/* Checksum and sum of squares of a payload in one pass over memory: block by block, added in the order of
 * blocks. */
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
    psd_eng_worker_t *w = member_for(self, from, msg, out);
    if (!w || !psd_eng_is_started(self) || !push_is_good(self, from, w, msg, out))
        return;
    double norm2 = 0;
    if (payload && inspect(payload, &norm2) != msg->checksum) {
        self->stats.rejected[PSD_REFUSAL_CHECKSUM]++;
        want_again(self, w, msg->part, out);
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
    if (!isfinite(norm2) && !w->bad_part)
        w->bad_part = msg->part + 1;
    w->norm2 += isfinite(norm2) ? norm2 : 0;
    w->whole_norm2 = msg->norm2;
    self->stats.chunks++;
    if (w->held == self->n_parts || !msg->samples)
        on_complete(self, now_ms, w, out);
}

/* A connection keeps the order of messages: when an answer arrives, all that was sent before has arrived or is lost. So a
 * probe alone has nothing sent again; the worker who still lacks something after the answer says so. */
static void on_probe(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                     psd_actions_t *out)
{
    psd_eng_worker_t *w = member_for(self, from, msg, out);
    if (!w)
        return;
    if (!psd_eng_is_started(self)) {
        psd_eng_init_answered(self, now_ms, w, msg->base_version, out);
        return;
    }
    if (self->update.open) {
        psd_eng_send_to_worker(self, w, PSD_MSG_ATTACHED, NULL, out); /* still here */
        return;
    }
    if (msg->clock > w->applied || !(msg->code & PSD_PROBE_SEND)) {
        send_progress(self, w, msg->seq, out);
        return;
    }
    /* The clock is closed: what it lacks are weights. */
    const uint8_t *wanted = payload->data;
    if (msg->parts != self->n_parts || !psd_shard_parts(self->shard)) {
        psd_eng_send_all_weights(self, w, out);
        return;
    }
    for (uint32_t p = 0; p < self->n_parts; p++)
        if (psd_bitmap_get(wanted, p))
            psd_eng_send_chunk(self, w, p, out);
}

static void on_pull_slow(psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload, psd_actions_t *out)
{
    psd_eng_worker_t *w = member_for(self, from, msg, out);
    if (!w || !psd_eng_is_started(self) || self->update.open || msg->parts != self->n_parts)
        return;
    for (uint32_t p = 0; p < psd_shard_parts(self->shard); p++) {
        if (!psd_bitmap_get(payload->data, p))
            continue;
        psd_buf_t *slow = psd_shard_slow(self->shard, p);
        assert(slow && "no memory for a copy of slow weights");
        psd_msg_t *answer = psd_eng_send_to_worker(self, w, PSD_MSG_SLOW, slow, out);
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

void psd_eng_on_worker_message(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                               psd_actions_t *out)
{
    if (msg->job != self->job) {
        psd_eng_refuse(self, from, PSD_REFUSAL_JOB, out, "this is job run %016" PRIx64 ", you are of %016" PRIx64, self->job,
                       msg->job);
        return;
    }
    if (msg->shard != self->index) {
        psd_eng_refuse(self, from, PSD_REFUSAL_SHARD, out, "this is shard %u, the message is for shard %u", self->index,
                       msg->shard);
        return;
    }
    if (self->init.asking && msg->worker == self->init.worker)
        self->init.heard_ms = now_ms;
    switch (msg->kind) {
    case PSD_MSG_ATTACH:
        on_attach(self, now_ms, from, msg, out);
        break;
    case PSD_MSG_INIT:
        on_init(self, now_ms, from, msg, payload, out);
        break;
    case PSD_MSG_PUSH:
        on_push(self, now_ms, from, msg, payload, out);
        break;
    case PSD_MSG_PROBE:
        on_probe(self, now_ms, from, msg, payload, out);
        break;
    case PSD_MSG_PULL:
        on_pull_slow(self, from, msg, payload, out);
        break;
    default:
        psd_eng_refuse(self, from, PSD_REFUSAL_SENDER, out, "%s is not for a shard", psd_kind_name(msg->kind));
    }
}
