#include "server/entrance/intake.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/peer.h"
#include "common/memory/arena.h"
#include "common/memory/channel.h"
#include "server/core/means.h"

/* At most IN_HAND jobs run at a time, so that senders cannot make the server hold more. Below HERE bytes, waking the pool does not
 * pay, unless the waiting messages together exceed what a cache holds. */
enum { IN_HAND = 32, HERE = 512 << 10, MANY = 8 };

typedef struct message {
    struct message *next;
    bool is_done;
    uint64_t peer;
    psd_buf_t *payload; /* the sender's; when done, what is delivered; NULL: it was empty, or is `lost` */
    bool lost;
    psd_mean_t *mean; /* that it is a term of, or was to be; NULL: none */
    psd_term_t term;  /* its place there */
    size_t n_header;
    uint8_t header[];
} message_t;

/* What a thread takes at a time: one message, or all terms of a mean. */
typedef struct job {
    uv_work_t request;
    struct job *next;
    psd_intake_t *intake;
    bool is_large;
    uint32_t n;
    message_t *message[PSD_AGGREGATE_TAKEN];
} job_t;

struct psd_intake {
    uv_loop_t *loop;
    psd_net_t *net;
    psd_arena_t *arena;            /* of what is taken in */
    psd_on_message_fn *on_message; /* NULL: closed */
    psd_on_term_fn *on_term;
    void *arg;
    uv_timer_t timer; /* to the end of holding terms */
    psd_means_t means;
    message_t *first, **last; /* all in their order */
    size_t n;
    job_t *next, **last_job; /* those that the pool does not have yet */
    size_t in_hand;
};

/* ---- in the pool ---- */

/* New memory, held on account of a message's sender, or NULL. */
static psd_buf_t *new_memory(const psd_intake_t *self, const message_t *message)
{
    const size_t n_bytes = message->payload->n_bytes;
    psd_buf_t *own = n_bytes >= HERE ? psd_arena_new_buf(self->arena, n_bytes) : NULL;
    if (!own)
        own = psd_buf_new(n_bytes);
    return own ? psd_net_charge(self->net, psd_peer_user(message->peer), own) : NULL;
}

/* Put what is delivered in the place of the sender's payload; NULL: it is lost. */
static void replace(message_t *message, psd_buf_t *own)
{
    psd_buf_unref(&message->payload);
    message->payload = own;
    message->lost = !own;
}

static psd_buf_t *copy_of(const psd_intake_t *self, const message_t *message, bool is_large)
{
    psd_buf_t *own = new_memory(self, message);
    if (!own)
        return NULL;
    const double squares = psd_measured_copy(own->data, message->payload, is_large);
    if (psd_channel_is_whole(message->payload))
        return psd_measured_new(&own, squares);
    psd_buf_unref(&own);
    return NULL;
}

/* Replace the terms by their mean. False, and nothing is changed, when one of them cannot be part of it: then they are copied, and
 * what is wrong is found in its own sender's copy. */
static bool join(const job_t *job)
{
    psd_buf_t *term[PSD_AGGREGATE_TAKEN], *mean = new_memory(job->intake, job->message[0]);
    double weight[PSD_AGGREGATE_TAKEN], squares[PSD_AGGREGATE_TAKEN];
    bool ok = mean != NULL;
    for (uint32_t k = 0; k < job->n; k++) {
        term[k] = job->message[k]->payload;
        weight[k] = job->message[k]->term.weight;
        ok &= term[k]->n_bytes == term[0]->n_bytes && term[k]->n_bytes % sizeof(float) == 0;
    }
    if (ok)
        psd_measured_join(mean->data, term, weight, job->n, job->is_large, squares);
    for (uint32_t k = 0; ok && k < job->n; k++)
        ok = isfinite(squares[k]) && psd_channel_is_whole(term[k]);
    for (uint32_t k = 0; ok && k < job->n; k++)
        replace(job->message[k], psd_measured_new_joint(mean, squares[k], job->message[k]->term.mean));
    psd_buf_unref(&mean);
    return ok;
}

static void run(uv_work_t *request)
{
    const job_t *job = request->data;
    if (job->n > 1 && join(job))
        return;
    for (uint32_t k = 0; k < job->n; k++)
        replace(job->message[k], copy_of(job->intake, job->message[k], job->is_large));
}

/* ---- on the loop's thread ---- */

static void on_timer_closed(uv_handle_t *timer)
{
    psd_intake_t *self = timer->data;
    psd_arena_destroy(&self->arena);
    free(self);
}

static void end_if_idle(psd_intake_t *self)
{
    if (!self->on_message && !self->in_hand)
        uv_close((uv_handle_t *)&self->timer, on_timer_closed);
}

static void deliver(psd_intake_t *self)
{
    while (self->first && self->first->is_done) {
        message_t *message = self->first;
        self->first = message->next;
        if (!self->first)
            self->last = &self->first;
        self->n--;
        if (self->on_message && !message->lost)
            self->on_message(self->arg, message->peer, message->header, message->n_header, message->payload);
        if (message->mean)
            psd_means_forget(&self->means, message->mean);
        psd_buf_unref(&message->payload);
        free(message);
    }
}

static void on_done(uv_work_t *request, int status);

static void hand_out(psd_intake_t *self)
{
    for (job_t *job; self->in_hand < IN_HAND && (job = self->next); self->in_hand++) {
        if (!(self->next = job->next))
            self->last_job = &self->next;
        job->is_large = self->n >= MANY;
        uv_queue_work(self->loop, &job->request, run, on_done);
    }
}

/* The messages have been taken, or are not any more. */
static void finish(job_t *job)
{
    for (uint32_t k = 0; k < job->n; k++)
        job->message[k]->is_done = true;
    free(job);
}

static void on_done(uv_work_t *request, int status)
{
    (void)status;
    job_t *job = request->data;
    psd_intake_t *self = job->intake;
    finish(job);
    self->in_hand--;
    hand_out(self);
    deliver(self);
    end_if_idle(self);
}

static job_t *new_job(psd_intake_t *self)
{
    job_t *job = calloc(1, sizeof *job);
    assert(job && "no memory to hand a message to the pool");
    job->request.data = job;
    job->intake = self;
    *self->last_job = job;
    self->last_job = &job->next;
    return job;
}

static void take_alone(psd_intake_t *self, message_t *message)
{
    job_t *job = new_job(self);
    job->message[job->n++] = message;
}

static void take_together(psd_intake_t *self, const psd_mean_t *mean)
{
    job_t *job = new_job(self);
    while (job->n < mean->n) {
        job->message[job->n] = mean->item[job->n];
        job->n++;
    }
}

static void stop_holding(psd_intake_t *self, uint64_t now_ms)
{
    for (psd_mean_t *mean; (mean = psd_means_give_up(&self->means, now_ms));)
        for (uint32_t k = 0; k < mean->n; k++)
            if (mean->item[k])
                take_alone(self, mean->item[k]);
}

static void on_timer(uv_timer_t *timer)
{
    psd_intake_t *self = timer->data;
    const uint64_t now_ms = uv_now(self->loop);
    stop_holding(self, now_ms);
    hand_out(self);
    if (psd_means_end_ms(&self->means) != UINT64_MAX)
        uv_timer_start(timer, on_timer, psd_means_end_ms(&self->means) - now_ms, 0);
}

/* Take it alone, or together with others, now or later. */
static void take(psd_intake_t *self, message_t *message)
{
    if (self->on_term(self->arg, message->peer, message->header, message->n_header, message->payload->n_bytes, &message->term))
        message->mean = psd_means_add(&self->means, uv_now(self->loop), &message->term, message);
    if (!message->mean)
        take_alone(self, message);
    else if (!message->mean->is_held)
        take_together(self, message->mean);
    else if (!uv_is_active((uv_handle_t *)&self->timer))
        uv_timer_start(&self->timer, on_timer, PSD_MEANS_HOLD_MS, 0);
    hand_out(self);
}

/* Behind all others. */
static void queue(psd_intake_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    message_t *message = calloc(1, sizeof *message + n_header);
    assert(message && "no memory for a message");
    message->is_done = !payload || payload->n_bytes <= PSD_CHANNEL_SMALL;
    message->peer = peer;
    message->payload = psd_buf_ref(payload);
    message->n_header = n_header;
    memcpy(message->header, header, n_header);
    *self->last = message;
    self->last = &message->next;
    self->n++;
    if (!message->is_done)
        take(self, message);
}

void psd_intake_put(psd_intake_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    if (self->first || (payload && payload->n_bytes >= HERE)) {
        queue(self, peer, header, n_header, payload);
        return;
    }
    const message_t message = { .peer = peer, .payload = payload };
    psd_buf_t *own = payload ? copy_of(self, &message, false) : NULL;
    if (own || !payload)
        self->on_message(self->arg, peer, header, n_header, own);
    psd_buf_unref(&own);
}

/* ---- coming and going ---- */

psd_intake_t *psd_intake_new(uv_loop_t *loop, psd_net_t *net, psd_on_message_fn *on_message, psd_on_term_fn *on_term, void *arg)
{
    psd_intake_t *self = calloc(1, sizeof *self);
    psd_arena_t *arena = self ? psd_arena_new_private(SIZE_MAX / 2, NULL) : NULL;
    if (!arena) {
        free(self);
        return NULL;
    }
    *self = (psd_intake_t){
        .loop = loop, .net = net, .arena = arena, .on_message = on_message, .on_term = on_term, .arg = arg, .timer.data = self
    };
    self->last = &self->first;
    self->last_job = &self->next;
    psd_means_init(&self->means);
    uv_timer_init(loop, &self->timer);
    return self;
}

void psd_intake_close(psd_intake_t **self_p)
{
    psd_intake_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    self->on_message = NULL;
    stop_holding(self, UINT64_MAX);
    for (job_t *job; (job = self->next); finish(job))
        self->next = job->next;
    self->last_job = &self->next;
    deliver(self);
    end_if_idle(self);
}
