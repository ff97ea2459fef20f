#include "common/transport.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

/* Messages read per turn of the loop, so that a busy socket does not starve timers and others. */
enum { DRAIN = 64, ROUTING_ID = 5, COPY_BELOW = 512 };

#define ROUTER_PEER (UINT64_C(1) << 63)

struct psd_net {
    void *context;
};

struct psd_socket {
    void *zmq;
    bool is_router;
    uint64_t peer;               /* of a DEALER */
    psd_socket_handler_t handler;
    uv_poll_t poll;              /* wakes the loop when ZeroMQ's mailbox has something */
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;              /* keeps the loop from sleeping while there is more to read */
    int open_handles;
};

psd_net_t *psd_net_new(psd_err_t *err)
{
    psd_net_t *self = calloc(1, sizeof *self);
    if (self && (self->context = zmq_ctx_new())) {
        zmq_ctx_set(self->context, ZMQ_MAX_SOCKETS, 4096);
        return self;
    }
    free(self);
    psd_err_set(err, PSD_ESYSTEM, "ZeroMQ cannot start: %s", zmq_strerror(errno));
    return NULL;
}

void psd_net_destroy(psd_net_t **self_p)
{
    psd_net_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    while (zmq_ctx_term(self->context) && errno == EINTR)
        ;
    free(self);
}

/* ---- received frames as buffers ---- */

typedef struct frame {
    psd_buf_t buf;
    zmq_msg_t msg;
} frame_t;

static void release_frame(psd_buf_t *buf)
{
    frame_t *self = (frame_t *)buf;
    zmq_msg_close(&self->msg);
    free(self);
}

/* Take the bytes over from `msg`, which is left empty. Small frames lie unaligned in ZeroMQ's read buffer: those are
 * copied, so that whoever reads floats may. */
static psd_buf_t *take_frame(zmq_msg_t *msg)
{
    size_t n = zmq_msg_size(msg);
    void *data = zmq_msg_data(msg);
    if ((uintptr_t)data % sizeof(float)) {
        psd_buf_t *copy = psd_buf_new(n);
        assert(copy && "no memory for a received frame");
        memcpy(copy->data, data, n);
        return copy;
    }
    frame_t *self = malloc(sizeof *self);
    assert(self && "no memory for a received frame");
    zmq_msg_init(&self->msg);
    zmq_msg_move(&self->msg, msg);
    self->buf.data = zmq_msg_data(&self->msg);
    self->buf.n_bytes = n;
    self->buf.release = release_frame;
    self->buf.owner = NULL;
    atomic_init(&self->buf.refs, 1);
    return &self->buf;
}

/* ---- reading ---- */

static bool receive(psd_socket_t *self, zmq_msg_t *msg, bool *more)
{
    if (zmq_msg_recv(msg, self->zmq, ZMQ_DONTWAIT) < 0)
        return false;
    *more = zmq_msg_more(msg);
    return true;
}

static uint64_t peer_of(const void *id)
{
    uint64_t peer = 0;
    memcpy(&peer, id, ROUTING_ID);
    return ROUTER_PEER | peer;
}

static void skip_rest(psd_socket_t *self, bool more)
{
    while (more) {
        zmq_msg_t msg;
        zmq_msg_init(&msg);
        if (!receive(self, &msg, &more))
            more = false;
        zmq_msg_close(&msg);
    }
}

/* Read one message and hand it on; false when there is none. The frames of a message come all or none. */
static bool read_message(psd_socket_t *self)
{
    zmq_msg_t id, header, payload;
    bool more = false;
    uint64_t peer = self->peer;
    const char *bad = NULL;
    zmq_msg_init(&header);
    zmq_msg_init(&payload);
    if (self->is_router) {
        zmq_msg_init(&id);
        if (!receive(self, &id, &more)) {
            zmq_msg_close(&id);
            return false;
        }
        if (zmq_msg_size(&id) == ROUTING_ID)
            peer = peer_of(zmq_msg_data(&id));
        else
            peer = 0, bad = "a routing id of its own choice";
        zmq_msg_close(&id);
    }
    if (!self->is_router || more) {
        if (!receive(self, &header, &more) && !self->is_router)
            return false;
        if (more)
            receive(self, &payload, &more);
        else if (!bad)
            bad = "one frame instead of two";
        if (more && !bad)
            bad = "more than two frames";
        skip_rest(self, more);
    }
    if (bad) {
        self->handler.on_bad(self->handler.arg, peer, bad);
    } else {
        psd_buf_t *buf = zmq_msg_size(&payload) ? take_frame(&payload) : NULL;
        self->handler.on_message(self->handler.arg, peer, zmq_msg_data(&header), zmq_msg_size(&header), buf);
        psd_buf_unref(&buf);
    }
    zmq_msg_close(&header);
    zmq_msg_close(&payload);
    return true;
}

/* ---- the loop: ZeroMQ's descriptor is edge-triggered and any call may consume the edge, so its true state is asked
 *      before every sleep, and the descriptor only ends the sleep ------------------------------------------------- */

static bool is_readable(const psd_socket_t *self)
{
    int events = 0;
    size_t n = sizeof events;
    return !zmq_getsockopt(self->zmq, ZMQ_EVENTS, &events, &n) && (events & ZMQ_POLLIN);
}

static void on_wake(uv_poll_t *poll, int status, int events) { (void)poll, (void)status, (void)events; }
static void on_idle(uv_idle_t *idle) { (void)idle; }

static void before_sleep(uv_prepare_t *prepare)
{
    psd_socket_t *self = prepare->data;
    if (is_readable(self))
        uv_idle_start(&self->idle, on_idle);
    else
        uv_idle_stop(&self->idle);
}

static void after_sleep(uv_check_t *check)
{
    psd_socket_t *self = check->data;
    for (int i = 0; i < DRAIN && read_message(self); i++)
        ;
}

/* ---- opening ---- */

static void set_int(void *zmq, int option, int value) { zmq_setsockopt(zmq, option, &value, sizeof value); }

static void set_limits(void *zmq)
{
    int64_t max = PSD_MAX_FRAME;
    zmq_setsockopt(zmq, ZMQ_MAXMSGSIZE, &max, sizeof max);
    set_int(zmq, ZMQ_LINGER, 0);
    set_int(zmq, ZMQ_SNDHWM, 65536);
    set_int(zmq, ZMQ_RCVHWM, 1000);
    set_int(zmq, ZMQ_HEARTBEAT_IVL, 500);
    set_int(zmq, ZMQ_HEARTBEAT_TIMEOUT, 1500);
    set_int(zmq, ZMQ_HEARTBEAT_TTL, 2000);
    set_int(zmq, ZMQ_HANDSHAKE_IVL, 3000);
    /* However long a network was away, it is tried again soon: the system itself would wait up to a minute for an answer
     * to its first packet, and ZeroMQ doubles its pauses. */
    set_int(zmq, ZMQ_CONNECT_TIMEOUT, 1000);
    set_int(zmq, ZMQ_RECONNECT_IVL, 200);
    set_int(zmq, ZMQ_RECONNECT_IVL_MAX, 500);
}

static void attach_to_loop(psd_socket_t *self, uv_loop_t *loop)
{
    int fd = -1;
    size_t n = sizeof fd;
    zmq_getsockopt(self->zmq, ZMQ_FD, &fd, &n);
    uv_poll_init(loop, &self->poll, fd);
    uv_prepare_init(loop, &self->prepare);
    uv_check_init(loop, &self->check);
    uv_idle_init(loop, &self->idle);
    self->poll.data = self->prepare.data = self->check.data = self->idle.data = self;
    self->open_handles = 4;
    uv_poll_start(&self->poll, UV_READABLE, on_wake);
    uv_prepare_start(&self->prepare, before_sleep);
    uv_check_start(&self->check, after_sleep);
}

static psd_socket_t *new_socket(psd_net_t *net, int type, const psd_socket_handler_t *handler, psd_err_t *err)
{
    psd_socket_t *self = calloc(1, sizeof *self);
    if (!self || !(self->zmq = zmq_socket(net->context, type))) {
        psd_err_set(err, PSD_ESYSTEM, "no socket: %s", self ? zmq_strerror(errno) : "out of memory");
        free(self);
        return NULL;
    }
    self->handler = *handler;
    self->is_router = type == ZMQ_ROUTER;
    set_limits(self->zmq);
    return self;
}

static psd_socket_t *give_up(psd_socket_t *self, const char *what, const char *endpoint, psd_err_t *err)
{
    psd_err_set(err, errno == EADDRINUSE || errno == EACCES ? PSD_EIO : PSD_ECONFIG, "%s %s: %s", what, endpoint,
                zmq_strerror(errno));
    zmq_close(self->zmq);
    free(self);
    return NULL;
}

psd_socket_t *psd_socket_bind(psd_net_t *net, uv_loop_t *loop, const char *endpoint, const psd_socket_handler_t *handler,
                              char bound[PSD_ENDPOINT_TEXT], psd_err_t *err)
{
    psd_socket_t *self = new_socket(net, ZMQ_ROUTER, handler, err);
    if (!self)
        return NULL;
    set_int(self->zmq, ZMQ_ROUTER_MANDATORY, 1);
    size_t n = PSD_ENDPOINT_TEXT;
    if (zmq_bind(self->zmq, endpoint) || zmq_getsockopt(self->zmq, ZMQ_LAST_ENDPOINT, bound, &n))
        return give_up(self, "cannot listen on", endpoint, err);
    attach_to_loop(self, loop);
    return self;
}

psd_socket_t *psd_socket_connect(psd_net_t *net, uv_loop_t *loop, const char *endpoint, uint64_t peer,
                                 const psd_socket_handler_t *handler, psd_err_t *err)
{
    psd_socket_t *self = new_socket(net, ZMQ_DEALER, handler, err);
    if (!self)
        return NULL;
    self->peer = peer;
    set_int(self->zmq, ZMQ_IMMEDIATE, 1);
    if (zmq_connect(self->zmq, endpoint))
        return give_up(self, "cannot connect to", endpoint, err);
    attach_to_loop(self, loop);
    return self;
}

static void handle_closed(uv_handle_t *handle)
{
    psd_socket_t *self = handle->data;
    if (--self->open_handles == 0)
        free(self);
}

void psd_socket_close(psd_socket_t **self_p, int linger_ms)
{
    psd_socket_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    uv_poll_stop(&self->poll);
    uv_close((uv_handle_t *)&self->poll, handle_closed);
    uv_close((uv_handle_t *)&self->prepare, handle_closed);
    uv_close((uv_handle_t *)&self->check, handle_closed);
    uv_close((uv_handle_t *)&self->idle, handle_closed);
    set_int(self->zmq, ZMQ_LINGER, linger_ms);
    zmq_close(self->zmq);
}

/* ---- sending ---- */

/* In ZeroMQ's thread: the bytes have left. */
static void payload_sent(void *data, void *hint)
{
    (void)data;
    psd_buf_t *buf = hint;
    psd_buf_unref(&buf);
}

static void fill_payload(zmq_msg_t *msg, psd_buf_t *payload)
{
    int rc = 0;
    if (!payload) {
        zmq_msg_init(msg);
    } else if (payload->n_bytes < COPY_BELOW) {
        rc = zmq_msg_init_size(msg, payload->n_bytes);
        if (!rc)
            memcpy(zmq_msg_data(msg), payload->data, payload->n_bytes);
    } else {
        rc = zmq_msg_init_data(msg, payload->data, payload->n_bytes, payload_sent, psd_buf_ref(payload));
    }
    assert(!rc && "no memory for a message");
}

int psd_socket_send(psd_socket_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    if (self->is_router && (!(peer & ROUTER_PEER) || zmq_send(self->zmq, &peer, ROUTING_ID, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0))
        return errno == EAGAIN ? PSD_EAGAIN : PSD_EUNAVAILABLE;
    if (zmq_send(self->zmq, header, n_header, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return PSD_EAGAIN;
    zmq_msg_t msg;
    fill_payload(&msg, payload);
    int rc = zmq_msg_send(&msg, self->zmq, ZMQ_DONTWAIT);
    zmq_msg_close(&msg);
    return rc < 0 ? PSD_EAGAIN : PSD_OK;
}
