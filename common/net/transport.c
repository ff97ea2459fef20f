#include "common/net/transport.h"

#include <assert.h>
#include <errno.h>
#include <linux/filter.h>
#include <netdb.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <zmq.h>

#include "common/net/address.h"

/* Messages read per turn of the loop, so that a busy socket does not starve timers and others. */
enum { DRAIN = 64, COPY_BELOW = 512 };

/* Every libzmq of 4.3 has this option, but only those built with drafts declare its name. */
#ifndef ZMQ_ZAP_ENFORCE_DOMAIN
#define ZMQ_ZAP_ENFORCE_DOMAIN 93
#endif

/* Not empty: with an empty domain ZeroMQ skips the check and admits every peer. */
static const char domain[] = "psd";

/* Counts connections that came, and those that completed the handshake. One that has not within HANDSHAKE_MS never will. */
enum { HANDSHAKE_MS = 3000, SURELY_MS = HANDSHAKE_MS + 1000 };
typedef struct gate {
    uint64_t came, met;
    uint64_t look_ms, came_then; /* number that had come at the last look */
    uint64_t refused;
} gate_t;

struct psd_net {
    void *context;
    psd_keys_t *keys; /* in locked memory */
    bool guarded;
    struct meter *meter; /* NULL: no socket is bound */
    gate_t gate;         /* connections to bound sockets */
};

struct psd_socket {
    psd_net_t *net;
    void *zmq;
    bool (*read)(psd_socket_t *); /* reads one message and handles it; false when there is none */
    bool is_router;
    int listener;  /* descriptor of a ROUTER's; -1: none, or unknown */
    uint64_t peer; /* of a DEALER */
    psd_socket_handler_t handler;
    psd_admit_fn *admit; /* of a guard */
    void *admit_arg;
    psd_socket_t *monitor; /* of a DEALER: tells the state of its connection; NULL: not needed */
    uv_poll_t poll;        /* wakes the loop when ZeroMQ's mailbox has a command */
    bool is_stirred;       /* something has happened since it was last found empty */
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle; /* keeps the loop from sleeping while there is more to read */
    int open_handles;
};

static void meter_unref(struct meter *self);

void psd_net_versions(char built[24], char runs[24])
{
    int major, minor, patch;
    zmq_version(&major, &minor, &patch);
    snprintf(built, 24, "%d.%d.%d", ZMQ_VERSION_MAJOR, ZMQ_VERSION_MINOR, ZMQ_VERSION_PATCH);
    snprintf(runs, 24, "%d.%d.%d", major, minor, patch);
}

psd_net_t *psd_net_new(const psd_keys_t *keys, psd_err_t *err)
{
    psd_net_t *self = calloc(1, sizeof *self);
    if (self && sodium_init() >= 0 && (self->keys = sodium_malloc(sizeof *keys)) && (self->context = zmq_ctx_new())) {
        *self->keys = *keys;
        zmq_ctx_set(self->context, ZMQ_MAX_SOCKETS, 4096);
        return self;
    }
    psd_err_set(err, PSD_ESYSTEM, "ZeroMQ cannot start: %s", zmq_strerror(errno));
    if (self)
        sodium_free(self->keys);
    free(self);
    return NULL;
}

void psd_net_use_threads(psd_net_t *self, int n) { zmq_ctx_set(self->context, ZMQ_IO_THREADS, n); }

bool psd_net_is_keyed(const psd_net_t *self) { return !self->keys->insecure; }
const char *psd_net_public(const psd_net_t *self) { return self->keys->insecure ? "" : self->keys->public; }

void psd_net_trust(psd_net_t *self, const char server[PSD_KEY_TEXT]) { memcpy(self->keys->server, server, PSD_KEY_TEXT); }

void psd_net_destroy(psd_net_t **self_p)
{
    psd_net_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    while (zmq_ctx_term(self->context) && errno == EINTR)
        ;
    sodium_free(self->keys); /* this also wipes it */
    meter_unref(self->meter);
    free(self);
}

/* ---- received frames as buffers ---- */

/* Bytes of received payloads that are not yet released: the total in [0], then per user. Frames may outlive the net, so the last
 * holder frees it. */
typedef struct meter {
    atomic_uint refs;
    atomic_uint_fast64_t held[PSD_MAX_USERS];
} meter_t;

static void meter_add(meter_t *self, uint32_t user, uint64_t n)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&self->held[0], n, memory_order_relaxed);
    if (user)
        atomic_fetch_add_explicit(&self->held[user], n, memory_order_relaxed);
}

static void meter_unref(meter_t *self)
{
    if (self && atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) == 1)
        free(self);
}

static void meter_subtract(meter_t *self, uint32_t user, uint64_t n)
{
    atomic_fetch_sub_explicit(&self->held[0], n, memory_order_relaxed);
    if (user)
        atomic_fetch_sub_explicit(&self->held[user], n, memory_order_relaxed);
    meter_unref(self);
}

uint64_t psd_net_held(const psd_net_t *self, uint32_t user)
{
    return self->meter ? atomic_load_explicit(&self->meter->held[user], memory_order_relaxed) : 0;
}

typedef struct frame {
    psd_buf_t buf;
    zmq_msg_t msg;
    meter_t *meter; /* NULL: not counted */
    uint32_t user;
} frame_t;

static void release_frame(psd_buf_t *buf)
{
    frame_t *self = (frame_t *)buf;
    if (self->meter)
        meter_subtract(self->meter, self->user, buf->n_bytes);
    zmq_msg_close(&self->msg);
    free(self);
}

/* Take the bytes over from `msg`, which is then empty. Small frames lie unaligned in ZeroMQ's read buffer, so they are copied to be
 * readable as floats. */
static psd_buf_t *take_frame(meter_t *meter, uint32_t user, zmq_msg_t *msg)
{
    const size_t n = zmq_msg_size(msg);
    frame_t *self = malloc(sizeof *self);
    assert(self && "no memory for a received frame");
    if ((uintptr_t)zmq_msg_data(msg) % sizeof(float)) {
        int rc = zmq_msg_init_size(&self->msg, n);
        assert(!rc && "no memory for a received frame");
        memcpy(zmq_msg_data(&self->msg), zmq_msg_data(msg), n);
    } else {
        zmq_msg_init(&self->msg);
        zmq_msg_move(&self->msg, msg);
    }
    psd_buf_init(&self->buf, zmq_msg_data(&self->msg), n, release_frame);
    self->meter = meter;
    self->user = user;
    if (meter)
        meter_add(meter, user, n);
    return &self->buf;
}

typedef struct charge {
    psd_buf_t buf;
    psd_buf_t *payload;
    meter_t *meter;
    uint32_t user;
} charge_t;

static void release_charge(psd_buf_t *buf)
{
    charge_t *self = (charge_t *)buf;
    meter_subtract(self->meter, self->user, buf->n_bytes);
    psd_buf_unref(&self->payload);
    free(self);
}

psd_buf_t *psd_net_charge(psd_net_t *self, uint32_t user, psd_buf_t *payload)
{
    if (!self->meter)
        return payload;
    charge_t *charge = malloc(sizeof *charge);
    if (!charge) {
        psd_buf_unref(&payload);
        return NULL;
    }
    psd_buf_init(&charge->buf, payload->data, payload->n_bytes, release_charge);
    charge->payload = payload;
    charge->meter = self->meter;
    charge->user = user;
    meter_add(charge->meter, user, payload->n_bytes);
    return &charge->buf;
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
    uint64_t routing = 0;
    memcpy(&routing, id, PSD_ROUTING_BYTES);
    return psd_peer_make(routing, 0);
}

/* The same, with the user that the guard found for the connection's key. ZeroMQ 4.3.4 loses it on the first frame of a message
 * after a query of ZMQ_EVENTS; the last frame has it. */
static uint64_t with_user(uint64_t peer, zmq_msg_t *last)
{
    const char *user = peer ? zmq_msg_gets(last, "User-Id") : NULL;
    return user ? psd_peer_make(peer & ~PSD_PEER_ROUTER, (uint32_t)strtoul(user, NULL, 10) & (PSD_MAX_USERS - 1)) : peer;
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

/* Read one message and deliver it; false when there is none. All frames of a message come together, unless its connection ends
 * while they are being read: then it is lost, and the next frame begins another. */
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
        if (zmq_msg_size(&id) == PSD_ROUTING_BYTES)
            peer = peer_of(zmq_msg_data(&id));
        else
            peer = 0, bad = "a routing id that the peer has chosen itself";
        zmq_msg_close(&id);
    }
    if (!self->is_router || more) {
        const bool came = receive(self, &header, &more), has_payload = came && more;
        if (!came || (has_payload && !receive(self, &payload, &more))) {
            zmq_msg_close(&header);
            zmq_msg_close(&payload);
            return self->is_router || came;
        }
        if (!has_payload && !bad)
            bad = "one frame instead of two";
        if (more && !bad)
            bad = "more than two frames";
        if (self->is_router)
            peer = with_user(peer, has_payload ? &payload : &header);
        skip_rest(self, more);
    }
    if (bad) {
        self->handler.on_bad(self->handler.arg, peer, bad);
    } else {
        psd_buf_t *buf = zmq_msg_size(&payload) ? take_frame(self->net->meter, psd_peer_user(peer), &payload) : NULL;
        self->handler.on_message(self->handler.arg, peer, zmq_msg_data(&header), zmq_msg_size(&header), buf);
        psd_buf_unref(&buf);
    }
    zmq_msg_close(&header);
    zmq_msg_close(&payload);
    return true;
}

/* ---- the state of connections ---- */

/* Read an event of a monitor: two frames, the event with its value, and an address. False when there is none. */
static bool take_event(psd_socket_t *self, uint16_t *event, uint32_t *value)
{
    zmq_msg_t msg;
    bool more = false;
    zmq_msg_init(&msg);
    const bool any = receive(self, &msg, &more);
    *event = 0;
    if (any && zmq_msg_size(&msg) == sizeof *event + sizeof *value) {
        memcpy(event, zmq_msg_data(&msg), sizeof *event);
        memcpy(value, (char *)zmq_msg_data(&msg) + sizeof *event, sizeof *value);
    }
    zmq_msg_close(&msg);
    skip_rest(self, more);
    return any;
}

/* Events of a bound socket. */
static bool read_gate(psd_socket_t *self)
{
    uint16_t event;
    uint32_t value;
    const bool any = take_event(self, &event, &value);
    self->net->gate.came += event == ZMQ_EVENT_ACCEPTED;
    self->net->gate.met += event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
    return any;
}

uint64_t psd_net_refused(psd_net_t *self, uint64_t now_ms)
{
    gate_t *gate = &self->gate;
    if (now_ms < gate->look_ms + SURELY_MS)
        return gate->refused;
    if (gate->came_then > gate->met + gate->refused)
        gate->refused = gate->came_then - gate->met;
    gate->look_ms = now_ms;
    gate->came_then = gate->came;
    return gate->refused;
}

static bool read_event(psd_socket_t *self)
{
    static const struct {
        uint16_t event;
        uint32_t value; /* 0: any */
        psd_link_t link;
    } links[] = {
        { ZMQ_EVENT_HANDSHAKE_SUCCEEDED, 0, PSD_LINK_UP },
        { ZMQ_EVENT_HANDSHAKE_FAILED_AUTH, 0, PSD_LINK_DENIED },
        { ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL, ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH, PSD_LINK_MISMATCH },
        { ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL, 0, PSD_LINK_BROKEN },
        { ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL, 0, PSD_LINK_BROKEN },
    };
    uint16_t event;
    uint32_t value;
    const bool any = take_event(self, &event, &value);
    for (size_t i = 0; any && i < sizeof links / sizeof *links; i++)
        if (event == links[i].event && (!links[i].value || value == links[i].value)) {
            self->handler.on_link(self->handler.arg, self->peer, links[i].link);
            break;
        }
    return any;
}

void psd_link_describe(const psd_net_t *net, psd_link_t link, const char *endpoint, char *text, size_t n)
{
    const bool insecure = net->keys->insecure;
    if (link == PSD_LINK_DENIED)
        snprintf(text, n, "%.128s refuses this key: add a line with it, %s, to the servers' allow-list", endpoint,
                 net->keys->public);
    else if (link == PSD_LINK_MISMATCH)
        snprintf(text, n, "%.128s %s", endpoint,
                 insecure ? "expects keys, but this program runs with --insecure"
                          : "runs with --insecure, but this program has keys");
    else
        snprintf(text, n, "%.128s accepts the connection, but not the handshake: check that it is a server of psd%s", endpoint,
                 insecure ? " without keys" : " and that server.public is its public key");
}

/* ---- the guard (ZAP, ZeroMQ RFC 27) ---- */

/* Frames of a request. */
enum { VERSION, REQUEST, DOMAIN, ADDRESS, IDENTITY, MECHANISM, KEY, FRAMES };

static bool frame_is(zmq_msg_t *msg, const char *text)
{
    return zmq_msg_size(msg) == strlen(text) && !memcmp(zmq_msg_data(msg), text, strlen(text));
}

/* The user of a request; 0 unless it is from a CURVE client with a known key. */
static uint32_t judge(psd_socket_t *self, zmq_msg_t frame[FRAMES], int n_frames)
{
    if (n_frames != FRAMES || !frame_is(&frame[VERSION], "1.0") || !frame_is(&frame[DOMAIN], domain) ||
        !frame_is(&frame[MECHANISM], "CURVE") || zmq_msg_size(&frame[KEY]) != PSD_KEY_BYTES)
        return 0;
    return self->admit(self->admit_arg, zmq_msg_data(&frame[KEY])) & (PSD_MAX_USERS - 1);
}

static bool read_request(psd_socket_t *self)
{
    zmq_msg_t frame[FRAMES];
    bool more = true;
    int n = 0;
    for (; n < FRAMES && more; n++) {
        zmq_msg_init(&frame[n]);
        if (!receive(self, &frame[n], &more))
            more = false;
    }
    const bool any = zmq_msg_size(&frame[VERSION]) > 0;
    if (any) {
        const uint32_t user = more ? 0 : judge(self, frame, n);
        skip_rest(self, more);
        char name[16] = "";
        if (user)
            snprintf(name, sizeof name, "%u", user);
        zmq_send(self->zmq, "1.0", 3, ZMQ_SNDMORE | ZMQ_DONTWAIT);
        zmq_send(self->zmq, n > REQUEST ? zmq_msg_data(&frame[REQUEST]) : "", n > REQUEST ? zmq_msg_size(&frame[REQUEST]) : 0,
                 ZMQ_SNDMORE | ZMQ_DONTWAIT);
        zmq_send(self->zmq, user ? "200" : "400", 3, ZMQ_SNDMORE | ZMQ_DONTWAIT);
        zmq_send(self->zmq, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
        zmq_send(self->zmq, name, strlen(name), ZMQ_SNDMORE | ZMQ_DONTWAIT);
        zmq_send(self->zmq, "", 0, ZMQ_DONTWAIT);
    }
    while (n)
        zmq_msg_close(&frame[--n]);
    return any;
}

/* ---- the loop ---- */

/* ZeroMQ's descriptor is edge-triggered and any call may consume the edge. So before each sleep, the true state of a socket is
 * queried if its descriptor or a call may have changed it; once it was found empty, the descriptor reports the next event. */

static bool is_readable(const psd_socket_t *self)
{
    int events = 0;
    size_t n = sizeof events;
    return !zmq_getsockopt(self->zmq, ZMQ_EVENTS, &events, &n) && (events & ZMQ_POLLIN);
}

static void on_wake(uv_poll_t *poll, int status, int events)
{
    psd_socket_t *self = poll->data;
    (void)status, (void)events;
    self->is_stirred = true;
}

static void on_idle(uv_idle_t *idle) { (void)idle; }

static void before_sleep(uv_prepare_t *prepare)
{
    psd_socket_t *self = prepare->data;
    self->is_stirred = self->is_stirred && is_readable(self);
    if (self->is_stirred)
        uv_idle_start(&self->idle, on_idle);
    else
        uv_idle_stop(&self->idle);
}

static void after_sleep(uv_check_t *check)
{
    psd_socket_t *self = check->data;
    for (int i = 0; self->is_stirred && i < DRAIN; i++)
        self->is_stirred = self->read(self);
}

/* ---- opening ---- */

static bool set_int(void *zmq, int option, int value) { return !zmq_setsockopt(zmq, option, &value, sizeof value); }

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
    set_int(zmq, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    /* Retry soon even after a long network failure: by default the system would wait up to a minute for an answer to its first
     * packet, and ZeroMQ would double its pauses. */
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
    self->is_stirred = true;
    uv_poll_start(&self->poll, UV_READABLE, on_wake);
    uv_prepare_start(&self->prepare, before_sleep);
    uv_check_start(&self->check, after_sleep);
}

static psd_socket_t *new_socket(psd_net_t *net, int type, bool (*read)(psd_socket_t *), psd_err_t *err)
{
    psd_socket_t *self = calloc(1, sizeof *self);
    if (!self || !(self->zmq = zmq_socket(net->context, type))) {
        psd_err_set(err, PSD_ESYSTEM, "no socket: %s", self ? zmq_strerror(errno) : "out of memory");
        free(self);
        return NULL;
    }
    self->net = net;
    self->read = read;
    self->is_router = type == ZMQ_ROUTER;
    self->listener = -1;
    set_limits(self->zmq);
    return self;
}

bool psd_net_is_of_this_machine(const char *endpoint)
{
    static const char ipc[] = "ipc://";
    psd_address_t address;
    psd_sockaddr_t at;
    if (!strncmp(endpoint, ipc, sizeof ipc - 1))
        return endpoint[sizeof ipc - 1] != '@';
    return psd_address_split(&address, endpoint) &&
           (!strcasecmp(address.host, "localhost") ||
            (psd_address_parse(&at, &address) && psd_address_is_loopback((struct sockaddr *)&at.at)));
}

static bool may_use(const psd_net_t *net, const char *endpoint, psd_err_t *err)
{
    if (!net->keys->insecure || psd_net_is_of_this_machine(endpoint))
        return true;
    psd_err_set(err, PSD_ECONFIG,
                "%.128s is not on this machine, and --insecure is only for loopback: give keys (psdctl keygen "
                "makes them), or an "
                "address of this machine such as tcp://127.0.0.1:7470",
                endpoint);
    return false;
}

/* A socket works without its monitor, but then no one can tell why a connection fails. */
static void watch_link(psd_socket_t *self, uv_loop_t *loop)
{
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "inproc://link-%p", (void *)self);
    psd_socket_t *monitor = new_socket(self->net, ZMQ_PAIR, read_event, NULL);
    if (!monitor)
        return;
    const int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                       ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    if (zmq_socket_monitor(self->zmq, endpoint, events) || zmq_connect(monitor->zmq, endpoint)) {
        zmq_close(monitor->zmq);
        free(monitor);
        return;
    }
    monitor->peer = self->peer;
    monitor->handler = self->handler;
    attach_to_loop(monitor, loop);
    self->monitor = monitor;
}

static psd_socket_t *give_up(psd_socket_t *self, const char *what, const char *endpoint, psd_err_t *err)
{
    psd_err_set(err, errno == EADDRINUSE || errno == EACCES ? PSD_EIO : PSD_ECONFIG, "%s %s: %s", what, endpoint,
                errno == ENODEV ? "neither a host name, nor an address or an interface of this machine" : zmq_strerror(errno));
    psd_socket_close(&self->monitor, 0);
    zmq_close(self->zmq);
    free(self);
    return NULL;
}

/* Make ZeroMQ ask the guard about each connection, and refuse it if there is no guard. False with errno. */
static bool lock_door(psd_socket_t *self)
{
    return set_int(self->zmq, ZMQ_CURVE_SERVER, 1) &&
           !zmq_setsockopt(self->zmq, ZMQ_CURVE_SECRETKEY, self->net->keys->secret, PSD_KEY_TEXT) &&
           !zmq_setsockopt(self->zmq, ZMQ_ZAP_DOMAIN, domain, strlen(domain)) && set_int(self->zmq, ZMQ_ZAP_ENFORCE_DOMAIN, 1);
}

/* ZeroMQ uses IPv6 only if the option is set, and then prefers a name's IPv6 address even if it has both. */
static void choose_family(psd_socket_t *self, const psd_sockaddr_t *at)
{
    set_int(self->zmq, ZMQ_IPV6, at->at.ss_family == AF_INET6);
}

/* The endpoint to bind to: ZeroMQ treats a name as that of an interface, so replace a host's name by its address. */
static void place_to_bind(psd_socket_t *self, const char *endpoint, char place[PSD_ENDPOINT_TEXT])
{
    char numeric[INET6_ADDRSTRLEN + 24], at_port[PSD_HOST_TEXT];
    psd_address_t address;
    psd_sockaddr_t at;
    snprintf(place, PSD_ENDPOINT_TEXT, "%s", endpoint);
    if (!psd_address_split(&address, endpoint) || !strcmp(address.host, "*") || psd_address_resolve(&at, &address, NULL) != PSD_OK)
        return;
    choose_family(self, &at);
    if (getnameinfo((struct sockaddr *)&at.at, at.n, numeric, sizeof numeric, NULL, 0, NI_NUMERICHOST))
        return;
    psd_address_join(at_port, sizeof at_port, numeric, address.port);
    snprintf(place, PSD_ENDPOINT_TEXT, "tcp://%.120s", at_port);
}

/* ZeroMQ looks a name up whenever it connects; this look-up only finds the address family. */
static void prepare_to_connect(psd_socket_t *self, const char *endpoint)
{
    psd_address_t address;
    psd_sockaddr_t at;
    if (psd_address_split(&address, endpoint) && psd_address_resolve(&at, &address, NULL) == PSD_OK)
        choose_family(self, &at);
}

/* Bind, with a monitor that reports the listener's descriptor and then each connection. Without a monitor, connections are just not
 * counted. */
static bool bind_to(psd_socket_t *self, uv_loop_t *loop, const char *endpoint)
{
    char name[64];
    const int events = ZMQ_EVENT_LISTENING | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
    snprintf(name, sizeof name, "inproc://gate-%p", (void *)self);
    psd_socket_t *monitor = new_socket(self->net, ZMQ_PAIR, read_gate, NULL);
    const bool watches = monitor && !zmq_socket_monitor(self->zmq, name, events) && !zmq_connect(monitor->zmq, name);
    const bool bound = !zmq_bind(self->zmq, endpoint);
    const int reason = errno;
    uint16_t event;
    uint32_t value;
    if (bound && watches && take_event(monitor, &event, &value) && event == ZMQ_EVENT_LISTENING)
        self->listener = (int)value;
    if (bound && watches) {
        attach_to_loop(monitor, loop);
        self->monitor = monitor;
    } else if (monitor) {
        zmq_socket_monitor(self->zmq, NULL, 0);
        zmq_close(monitor->zmq);
        free(monitor);
    }
    errno = reason;
    return bound;
}

void psd_socket_take(psd_socket_t *self, bool new_ones)
{
    /* A filter in the kernel drops every packet for the listener, so that no new connections are made. */
    struct sock_filter drop = { .code = BPF_RET | BPF_K };
    struct sock_fprog program = { .len = 1, .filter = &drop };
    if (self->listener >= 0)
        setsockopt(self->listener, SOL_SOCKET, new_ones ? SO_DETACH_FILTER : SO_ATTACH_FILTER, &program, sizeof program);
}

psd_socket_t *psd_socket_bind(psd_net_t *net, uv_loop_t *loop, const char *endpoint, const psd_socket_handler_t *handler,
                              char bound[PSD_ENDPOINT_TEXT], psd_err_t *err)
{
    assert((net->guarded || net->keys->insecure) && "a net with keys has a guard before it binds");
    psd_socket_t *self = may_use(net, endpoint, err) ? new_socket(net, ZMQ_ROUTER, read_message, err) : NULL;
    if (!self)
        return NULL;
    if (!net->meter && (net->meter = calloc(1, sizeof *net->meter)))
        atomic_init(&net->meter->refs, 1);
    self->handler = *handler;
    size_t n = PSD_ENDPOINT_TEXT;
    char place[PSD_ENDPOINT_TEXT];
    place_to_bind(self, endpoint, place);
    if (!set_int(self->zmq, ZMQ_ROUTER_MANDATORY, 1) || !(net->keys->insecure || lock_door(self)) || !bind_to(self, loop, place) ||
        zmq_getsockopt(self->zmq, ZMQ_LAST_ENDPOINT, bound, &n))
        return give_up(self, "cannot listen on", endpoint, err);
    attach_to_loop(self, loop);
    return self;
}

static psd_socket_t *connect_as(psd_net_t *net, const psd_keys_t *keys, uv_loop_t *loop, const char *endpoint, uint64_t peer,
                                const psd_socket_handler_t *handler, psd_err_t *err)
{
    psd_socket_t *self = may_use(net, endpoint, err) ? new_socket(net, ZMQ_DEALER, read_message, err) : NULL;
    if (!self)
        return NULL;
    self->handler = *handler;
    self->peer = peer;
    set_int(self->zmq, ZMQ_IMMEDIATE, 1);
    if (!keys->insecure) {
        zmq_setsockopt(self->zmq, ZMQ_CURVE_PUBLICKEY, keys->public, PSD_KEY_TEXT);
        zmq_setsockopt(self->zmq, ZMQ_CURVE_SECRETKEY, keys->secret, PSD_KEY_TEXT);
        zmq_setsockopt(self->zmq, ZMQ_CURVE_SERVERKEY, keys->server, PSD_KEY_TEXT);
    }
    if (handler->on_link)
        watch_link(self, loop);
    prepare_to_connect(self, endpoint);
    if (zmq_connect(self->zmq, endpoint))
        return give_up(self, "cannot connect to", endpoint, err);
    attach_to_loop(self, loop);
    return self;
}

psd_socket_t *psd_socket_connect(psd_net_t *net, uv_loop_t *loop, const char *endpoint, uint64_t peer,
                                 const psd_socket_handler_t *handler, psd_err_t *err)
{
    return connect_as(net, net->keys, loop, endpoint, peer, handler, err);
}

psd_socket_t *psd_socket_knock(psd_net_t *net, uv_loop_t *loop, const char *endpoint, const psd_socket_handler_t *handler,
                               psd_err_t *err)
{
    psd_keys_t stranger;
    psd_keys_draw(&stranger);
    memcpy(stranger.server, net->keys->public, PSD_KEY_TEXT);
    psd_socket_t *self = connect_as(net, &stranger, loop, endpoint, 0, handler, err);
    psd_keys_wipe(&stranger);
    return self;
}

psd_socket_t *psd_socket_guard(psd_net_t *net, uv_loop_t *loop, psd_admit_fn *admit, void *arg, psd_err_t *err)
{
    static const char endpoint[] = "inproc://zeromq.zap.01";
    psd_socket_t *self = new_socket(net, ZMQ_REP, read_request, err);
    if (!self)
        return NULL;
    self->admit = admit;
    self->admit_arg = arg;
    if (zmq_bind(self->zmq, endpoint))
        return give_up(self, "cannot listen on", endpoint, err);
    net->guarded = true;
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
    if (self->monitor)
        zmq_socket_monitor(self->zmq, NULL, 0);
    psd_socket_close(&self->monitor, 0);
    uv_poll_stop(&self->poll);
    uv_close((uv_handle_t *)&self->poll, handle_closed);
    uv_close((uv_handle_t *)&self->prepare, handle_closed);
    uv_close((uv_handle_t *)&self->check, handle_closed);
    uv_close((uv_handle_t *)&self->idle, handle_closed);
    set_int(self->zmq, ZMQ_LINGER, linger_ms);
    zmq_close(self->zmq);
}

/* ---- sending ---- */

/* Called in ZeroMQ's thread when the bytes have been sent. */
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
    self->is_stirred = true;
    if (self->is_router &&
        (!(peer & PSD_PEER_ROUTER) || zmq_send(self->zmq, &peer, PSD_ROUTING_BYTES, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0))
        return errno == EAGAIN ? PSD_EAGAIN : PSD_EUNAVAILABLE;
    if (zmq_send(self->zmq, header, n_header, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return PSD_EAGAIN;
    zmq_msg_t msg;
    fill_payload(&msg, payload);
    int rc = zmq_msg_send(&msg, self->zmq, ZMQ_DONTWAIT);
    zmq_msg_close(&msg);
    return rc < 0 ? PSD_EAGAIN : PSD_OK;
}
