#include "server/entrance/intake.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/peer.h"
#include "common/memory/channel.h"
#include "proto/measured.h"

/* At most IN_HAND copies are made at a time, so that senders cannot make the server hold more. Below HERE bytes, waking the pool
 * does not pay, unless the waiting messages together exceed what a cache holds. */
enum { IN_HAND = 32, HERE = 512 << 10, MANY = 8 };

typedef enum state { WAITING, IN_POOL, DONE } state_t;

typedef struct message {
    uv_work_t request;
    psd_intake_t *intake;
    struct message *next;
    state_t state;
    uint64_t peer;
    psd_buf_t *payload; /* the sender's; when DONE, the copy; NULL: it was empty, or is `lost` */
    bool is_large, lost;
    size_t n_header;
    uint8_t header[];
} message_t;

struct psd_intake {
    uv_loop_t *loop;
    psd_net_t *net;
    psd_on_message_fn *on_message; /* NULL: closed */
    void *arg;
    message_t *first, **last, *next; /* all in their order; the first that no thread has begun */
    size_t n, in_hand;
};

psd_intake_t *psd_intake_new(uv_loop_t *loop, psd_net_t *net, psd_on_message_fn *on_message, void *arg)
{
    psd_intake_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    *self = (psd_intake_t){ .loop = loop, .net = net, .on_message = on_message, .arg = arg, .last = &self->first };
    return self;
}

/* The server's copy, or NULL. */
static psd_buf_t *take(const psd_intake_t *self, uint64_t peer, psd_buf_t *payload, bool is_large)
{
    psd_buf_t *own = psd_buf_new(payload->n_bytes);
    if (own)
        own = psd_net_charge(self->net, psd_peer_user(peer), own);
    if (!own)
        return NULL;
    const double squares = psd_measured_copy(own->data, payload, is_large);
    if (psd_channel_is_whole(payload))
        return psd_measured_new(&own, squares);
    psd_buf_unref(&own);
    return NULL;
}

static void run(uv_work_t *request)
{
    message_t *message = request->data;
    psd_buf_t *own = take(message->intake, message->peer, message->payload, message->is_large);
    psd_buf_unref(&message->payload);
    message->payload = own;
    message->lost = !own;
}

static void deliver(psd_intake_t *self)
{
    while (self->first && self->first->state == DONE) {
        message_t *message = self->first;
        self->first = message->next;
        if (!self->first)
            self->last = &self->first;
        self->n--;
        if (self->on_message && !message->lost)
            self->on_message(self->arg, message->peer, message->header, message->n_header, message->payload);
        psd_buf_unref(&message->payload);
        free(message);
    }
}

static void on_done(uv_work_t *request, int status);

static void hand_out(psd_intake_t *self)
{
    for (; self->next && self->in_hand < IN_HAND; self->next = self->next->next)
        if (self->next->state == WAITING) {
            self->next->state = IN_POOL;
            self->next->is_large = self->n >= MANY;
            self->in_hand++;
            uv_queue_work(self->loop, &self->next->request, run, on_done);
        }
}

static void on_done(uv_work_t *request, int status)
{
    (void)status;
    message_t *message = request->data;
    psd_intake_t *self = message->intake;
    message->state = DONE;
    self->in_hand--;
    hand_out(self);
    deliver(self);
    if (!self->on_message && !self->in_hand)
        free(self);
}

/* Behind all others. */
static void queue(psd_intake_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    message_t *message = calloc(1, sizeof *message + n_header);
    assert(message && "no memory for a message");
    message->request.data = message;
    message->intake = self;
    message->state = payload && payload->n_bytes > PSD_CHANNEL_SMALL ? WAITING : DONE;
    message->peer = peer;
    message->payload = psd_buf_ref(payload);
    message->n_header = n_header;
    memcpy(message->header, header, n_header);
    *self->last = message;
    self->last = &message->next;
    self->n++;
    if (!self->next)
        self->next = message;
    hand_out(self);
}

void psd_intake_put(psd_intake_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    if (self->first || (payload && payload->n_bytes >= HERE)) {
        queue(self, peer, header, n_header, payload);
        return;
    }
    psd_buf_t *own = payload ? take(self, peer, payload, false) : NULL;
    if (own || !payload)
        self->on_message(self->arg, peer, header, n_header, own);
    psd_buf_unref(&own);
}

void psd_intake_close(psd_intake_t **self_p)
{
    psd_intake_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    self->on_message = NULL;
    for (message_t *message = self->first; message; message = message->next)
        if (message->state == WAITING) {
            psd_buf_unref(&message->payload);
            message->state = DONE;
        }
    self->next = NULL;
    deliver(self);
    if (!self->in_hand)
        free(self);
}
