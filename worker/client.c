/* client.c - the library behind psd/worker.h: a thread with a loop, a session (worker/session.h) and one socket per
 * server. The caller's thread hands requests over and waits for the session's phase to change; it shares nothing else
 * with the library's thread but what `lock` guards. */
#include "psd/worker.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/base/absence.h"
#include "common/system/failpoint.h"
#include "common/base/logtext.h"
#include "common/base/printable.h"
#include "common/system/safetensors.h"
#include "common/net/uplink.h"
#include "worker/session.h"

enum { TICK_MS = 50, WAIT_LINE_MS = 4000, JOIN_MS = 60000, MAX_REQUESTS = 32, LINGER_MS = 200 };

_Static_assert((int)PSD_W_EINVAL == (int)PSD_EINVAL && (int)PSD_W_ENOMEM == (int)PSD_ENOMEM && (int)PSD_W_EIO == (int)PSD_EIO &&
                   (int)PSD_W_EDATA == (int)PSD_EDATA && (int)PSD_W_ENOINPUT == (int)PSD_ENOINPUT &&
                   (int)PSD_W_ESYSTEM == (int)PSD_ESYSTEM && (int)PSD_W_EFAILED == (int)PSD_EDIVERGED &&
                   (int)PSD_W_EREFUSED == (int)PSD_EREFUSED && (int)PSD_W_EFENCED == (int)PSD_EFENCED &&
                   (int)PSD_W_ETIMEOUT == (int)PSD_ETIMEOUT && (int)PSD_W_EUNAVAILABLE == (int)PSD_EUNAVAILABLE &&
                   (int)PSD_W_EAGAIN == (int)PSD_EAGAIN && (int)PSD_W_EAUTH == (int)PSD_EAUTH &&
                   (int)PSD_W_ECONFIG == (int)PSD_ECONFIG,
               "the public codes are those of common/base/err.h");
_Static_assert((int)PSD_LEVEL_WARN == (int)PSD_LOG_WARN && (int)PSD_LEVEL_INFO == (int)PSD_LOG_INFO, "levels are the same numbers");

typedef enum request_kind { REGISTER, EXCHANGE, PULL_SLOW, SET_LR, REPORT, LEAVE, STOP } request_kind_t;

typedef struct request {
    request_kind_t kind;
    const psd_tensor_list_t *list; /* REGISTER */
    float *const *data;            /* REGISTER, PULL_SLOW */
    const float *const *gradient;  /* EXCHANGE */
    uint64_t samples;              /* EXCHANGE */
    double value;                  /* EXCHANGE: loss; SET_LR, REPORT */
    bool finished;                 /* LEAVE */
    uint64_t rejoins;              /* LEAVE: of the run that is left; in a later one there is work again */
    char name[64];                 /* REPORT */
} request_t;

struct psd_worker {
    /* the library's thread alone */
    uv_loop_t loop;
    uv_timer_t tick;
    psd_net_t *net;
    psd_uplink_t *uplink;                         /* to server 0 */
    psd_socket_t *socket[PSD_MAX_SERVERS];        /* to each other one */
    char endpoint[PSD_MAX_SERVERS][PSD_MAX_NAME]; /* of each socket */
    uint32_t n_servers;                           /* connected to */
    uint64_t heard_ms[PSD_MAX_SERVERS];           /* when each other server last said something, or was not asked */
    uint64_t seen_ms;                             /* when the last tick was, for our own absence */
    psd_session_t *session;
    psd_actions_t out;
    psd_phase_t published;  /* the session's phase as the caller was last told */
    bool exchanging;        /* a ticket is open */
    uint64_t wait_since_ms; /* of the present phase, or of its last line */
    char trouble[400];      /* with a connection to another server than the first; "" when there is none */
    bool stopping;

    /* both, under `lock` */
    uv_mutex_t lock;
    uv_cond_t changed;
    uv_async_t wake;
    request_t request[MAX_REQUESTS];
    uint32_t n_requests;
    psd_phase_t phase; /* as published by the library's thread, or ahead of it by a request */
    psd_err_t failure;
    psd_session_position_t position;
    uint64_t rejoins;           /* how often the servers have begun another run */
    bool leaves;                /* psd_worker_leave was called, and has not been answered; since then: */
    uint64_t leave_rejoins;     /* `rejoins` at its first call */
    uint64_t moved;             /* chunks, as psd_session_moved counts them */
    char waiting[PSD_MAX_TEXT]; /* what is waited for */
    char settings[PSD_MAX_TEXT];
    char join[PSD_ENDPOINT_TEXT]; /* of server 0; written by the library's thread alone */
    bool has_slow, drains;
    bool unresolved; /* the name of server 0's host means nothing here */

    /* the caller alone; set before the thread starts, or by calls */
    uv_thread_t thread;
    bool running;
    int done_fd;
    char *job, *name, *recipe;
    char *file;       /* the cluster's; NULL: `join` is fixed */
    bool trusts_file; /* with the servers' public key */
    uint32_t wanted;
    int join_timeout_ms; /* -1: none */
    void (*log)(void *, int, const char *, const char *);
    void *log_arg;
    psd_tensor_list_t list;
    pid_t process;        /* that connected; a fork of it has no thread of the library's */
    float **data, **slow; /* arrays of the registered tensors; the last pull's */
    const float **gradient;
    psd_ticket_t ticket; /* the newest */
    psd_err_t error;
};

static uint64_t now_ms(void) { return uv_hrtime() / 1000000 + 1000; }

/* ---- the library's thread ---- */

static void say(psd_worker_t *self, int level, const char *id, const char *format, ...) __attribute__((format(printf, 4, 5)));

static void say(psd_worker_t *self, int level, const char *id, const char *format, ...)
{
    char line[1400];
    va_list args;
    va_start(args, format);
    psd_logtext_compose(line, sizeof line, format, args);
    va_end(args);
    if (self->log)
        self->log(self->log_arg, level, id, line);
}

/* A message that cannot be sent now is as good as lost, and the session asks again. */
static void carry_out(psd_worker_t *self)
{
    uint8_t header[PSD_MAX_FRAME_HEADER];
    for (size_t i = 0; i < self->out.n; i++) {
        const psd_action_t *a = &self->out.at[i];
        if (a->act == PSD_ACT_LOG)
            say(self, a->level, a->id, "%s", a->msg.text);
        if (a->act != PSD_ACT_SEND || a->to < PSD_PEER_SERVER || a->to - PSD_PEER_SERVER >= self->n_servers)
            continue;
        const uint32_t s = (uint32_t)(a->to - PSD_PEER_SERVER);
        PSD_FAILPOINT("wrk.send", psd_kind_name(a->msg.kind));
        size_t n = psd_msg_seal(&a->msg, a->payload ? a->payload->data : NULL, a->payload ? a->payload->n_bytes : 0, header);
        if (s)
            psd_socket_send(self->socket[s], a->to, header, n, a->payload);
        else
            psd_uplink_send(self->uplink, header, n, a->payload);
        PSD_FAILPOINT("wrk.sent", psd_kind_name(a->msg.kind));
    }
    psd_actions_drop(&self->out, self->out.n);
}

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);
static void publish(psd_worker_t *self);

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    say(arg, PSD_LEVEL_WARN, "server.malformed", "server=%" PRIu64 " reason=\"%s\"", peer - PSD_PEER_SERVER, why);
}

static void on_denied(void *arg, const char *why)
{
    psd_worker_t *self = arg;
    psd_session_shut_out(self->session, why);
    publish(self);
}

/* Who is not let in will not be, however often it asks; what breaks off may be a server that only comes up. */
static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    psd_worker_t *self = arg;
    self->trouble[0] = '\0';
    if (link == PSD_LINK_UP)
        return;
    psd_link_describe(self->net, link, self->endpoint[peer - PSD_PEER_SERVER], self->trouble, sizeof self->trouble);
    if (link != PSD_LINK_BROKEN)
        on_denied(self, self->trouble);
}

/* The socket of server `s`, in place of the one before if there is one. */
static int open_socket(psd_worker_t *self, uint32_t s, const char *endpoint, psd_err_t *err)
{
    psd_socket_handler_t handler = { on_message, on_bad, on_link, self };
    psd_socket_t *socket = psd_socket_connect(self->net, &self->loop, endpoint, PSD_PEER_SERVER + s, &handler, err);
    if (!socket)
        return err->code;
    if (s < self->n_servers)
        psd_socket_close(&self->socket[s], 0);
    else
        self->n_servers = s + 1;
    self->socket[s] = socket;
    self->heard_ms[s] = now_ms();
    return PSD_OK;
}

/* Server 0 is known by its join address; the welcome names the others, each time anew: one that was started again may
 * be at another address. */
static void connect_to_others(psd_worker_t *self)
{
    const psd_cluster_t *cluster = psd_session_cluster(self->session);
    psd_err_t err;
    for (uint32_t s = 1; cluster && s < cluster->n_servers; s++) {
        if (!strcmp(self->endpoint[s], cluster->endpoint[s]))
            continue;
        if (open_socket(self, s, cluster->endpoint[s], &err) != PSD_OK) {
            say(self, PSD_LEVEL_ERROR, "server.unreachable", "%s", err.text);
            break;
        }
        memcpy(self->endpoint[s], cluster->endpoint[s], sizeof self->endpoint[s]);
    }
}

static void tend_connections(psd_worker_t *self)
{
    psd_err_t err;
    if (psd_uplink_tick(self->uplink, now_ms(), psd_session_asks(self->session, 0), &err) != PSD_OK)
        say(self, PSD_LEVEL_ERROR, "server.unreachable", "%s", err.text);
    for (uint32_t s = 1; s < self->n_servers; s++) {
        if (!psd_session_asks(self->session, s))
            self->heard_ms[s] = now_ms();
        if (now_ms() >= self->heard_ms[s] + PSD_UPLINK_DEAF_MS && open_socket(self, s, self->endpoint[s], &err) != PSD_OK)
            say(self, PSD_LEVEL_ERROR, "server.unreachable", "%s", err.text);
    }
}

/* Whether a session that failed before it had joined may have been led astray by the file. */
static bool doubts(psd_worker_t *self)
{
    const psd_err_t *why = psd_session_error(self->session);
    return self->published == PSD_PHASE_JOINING && psd_uplink_doubts(self->uplink, now_ms(), why->code, why->text) &&
           !psd_uplink_refusal(self->uplink, now_ms());
}

/* Let the caller see a new phase, with all that belongs to it. */
static void publish(psd_worker_t *self)
{
    psd_phase_t phase = psd_session_phase(self->session);
    if (phase == self->published || (phase == PSD_PHASE_FAILED && doubts(self)))
        return;
    const psd_cluster_t *cluster = psd_session_cluster(self->session);
    bool done = self->exchanging && (phase == PSD_PHASE_READY || phase == PSD_PHASE_FAILED);
    self->exchanging = self->exchanging && !done;
    self->published = phase;
    uv_mutex_lock(&self->lock);
    self->phase = phase;
    self->failure = *psd_session_error(self->session);
    self->position = psd_session_position(self->session);
    self->rejoins = psd_session_rejoins(self->session);
    if (cluster && !self->settings[0]) {
        snprintf(self->settings, sizeof self->settings, "%s", cluster->settings);
        self->has_slow = cluster->has_slow;
    }
    uv_cond_broadcast(&self->changed);
    uv_mutex_unlock(&self->lock);
    self->wait_since_ms = now_ms();
    if (done || phase == PSD_PHASE_FAILED) {
        uint64_t one = 1;
        (void)!write(self->done_fd, &one, sizeof one);
    }
}

static void after_event(psd_worker_t *self)
{
    connect_to_others(self);
    carry_out(self);
    publish(self);
}

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    psd_worker_t *self = arg;
    psd_msg_t msg;
    psd_err_t err;
    self->heard_ms[peer - PSD_PEER_SERVER] = now_ms();
    if (psd_msg_open(&msg, header, n_header, payload ? payload->data : NULL, payload ? payload->n_bytes : 0, &err) != PSD_OK) {
        on_bad(self, peer, err.text);
        if (msg.protocol && msg.protocol != PSD_PROTOCOL)
            psd_session_other_protocol(self->session, peer, msg.protocol);
        after_event(self);
        return;
    }
    PSD_FAILPOINT("wrk.recv", psd_kind_name(msg.kind));
    psd_session_message(self->session, now_ms(), peer, &msg, payload, &self->out);
    after_event(self);
}

static psd_session_t *new_session(const psd_worker_t *self);

/* A session that has not joined yet is new to another server 0. */
static void on_moved(void *arg)
{
    psd_worker_t *self = arg;
    psd_session_t *fresh = self->published == PSD_PHASE_JOINING ? new_session(self) : NULL;
    uv_mutex_lock(&self->lock);
    snprintf(self->join, sizeof self->join, "%s", psd_uplink_address(self->uplink));
    uv_mutex_unlock(&self->lock);
    if (fresh) {
        psd_session_destroy(&self->session);
        self->session = fresh;
    }
}

/* This process was away: the silence of the servers meanwhile does not count. */
static void excuse_absence(psd_worker_t *self)
{
    const uint64_t now = now_ms(), away_ms = psd_absence(&self->seen_ms, now);
    for (uint32_t s = 1; away_ms && s < self->n_servers; s++)
        self->heard_ms[s] = psd_absence_excuse(self->heard_ms[s], away_ms, now);
}

static void on_tick(uv_timer_t *timer)
{
    psd_worker_t *self = timer->data;
    excuse_absence(self);
    char text[PSD_MAX_TEXT - 8];
    tend_connections(self);
    psd_session_tick(self->session, now_ms(), &self->out);
    after_event(self);
    psd_session_describe_wait(self->session, text, sizeof text);
    const char *trouble = psd_uplink_trouble(self->uplink, now_ms());
    if (self->trouble[0])
        trouble = self->trouble;
    const bool troubled = text[0] && *trouble, says_so = !strncmp(text, "waiting for ", 12);
    uint32_t lost;
    const bool is_lost = psd_session_lost_server(self->session, &lost);
    if (troubled && is_lost) {
        const size_t n = strlen(text);
        snprintf(text + n, sizeof text - n, " (%.400s)", trouble);
    } else if (troubled) {
        snprintf(text, sizeof text, "%s", trouble);
    }
    uv_mutex_lock(&self->lock);
    self->unresolved = psd_uplink_is_unresolved(self->uplink);
    snprintf(self->waiting, sizeof self->waiting, "%s%.1000s", text[0] && (!troubled || is_lost) && !says_so ? "waiting for " : "",
             text);
    self->drains = psd_session_drains(self->session);
    self->moved = psd_session_moved(self->session);
    uv_mutex_unlock(&self->lock);
    if (text[0] && now_ms() > self->wait_since_ms + WAIT_LINE_MS) {
        self->wait_since_ms = now_ms();
        say(self, is_lost ? PSD_LEVEL_WARN : PSD_LEVEL_INFO, "worker.waiting", "for=\"%s\"", text);
    }
}

static void run_request(psd_worker_t *self, const request_t *r)
{
    uint64_t now = now_ms();
    psd_err_t err = { 0 };
    int rc = PSD_OK;
    switch (r->kind) {
    case REGISTER:
        rc = psd_session_register(self->session, now, r->list, r->data, &self->out, &err);
        break;
    case EXCHANGE:
        self->exchanging = true;
        rc = psd_session_exchange(self->session, now, r->gradient, r->samples, r->value, &err);
        while (psd_session_pump(self->session, &self->out))
            carry_out(self);
        break;
    case PULL_SLOW:
        rc = psd_session_pull_slow(self->session, now, r->data, &self->out, &err);
        break;
    case SET_LR:
        rc = psd_session_set_lr(self->session, now, r->value, &self->out, &err);
        break;
    case REPORT:
        psd_session_report(self->session, r->name, r->value, &self->out);
        break;
    case LEAVE: /* the job may have gone back while this was on its way: then nobody has finished */
        if (!r->finished || psd_session_rejoins(self->session) == r->rejoins)
            psd_session_leave(self->session, now, r->finished, &self->out);
        break;
    case STOP:
        self->stopping = true;
        break;
    }
    if (rc != PSD_OK) {
        /* A session that failed while the request was on its way knows why better than that it came too late. */
        const bool failed = psd_session_phase(self->session) == PSD_PHASE_FAILED;
        uv_mutex_lock(&self->lock);
        self->failure = failed ? *psd_session_error(self->session) : err;
        self->phase = PSD_PHASE_FAILED;
        uv_cond_broadcast(&self->changed);
        uv_mutex_unlock(&self->lock);
    }
}

static void close_all(psd_worker_t *self)
{
    psd_uplink_close(&self->uplink, LINGER_MS);
    for (uint32_t s = 1; s < self->n_servers; s++)
        psd_socket_close(&self->socket[s], LINGER_MS);
    uv_close((uv_handle_t *)&self->tick, NULL);
    uv_close((uv_handle_t *)&self->wake, NULL);
}

static void on_request(uv_async_t *async)
{
    psd_worker_t *self = async->data;
    request_t request[MAX_REQUESTS];
    uv_mutex_lock(&self->lock);
    uint32_t n = self->n_requests;
    memcpy(request, self->request, n * sizeof *request);
    self->n_requests = 0;
    uv_cond_broadcast(&self->changed);
    uv_mutex_unlock(&self->lock);
    for (uint32_t i = 0; i < n; i++)
        run_request(self, &request[i]);
    after_event(self);
    if (self->stopping)
        close_all(self);
}

static void thread_main(void *arg)
{
    psd_worker_t *self = arg;
    uv_run(&self->loop, UV_RUN_DEFAULT);
}

/* ---- the caller's side ---- */

/* The library's thread takes all requests at once, and soon. */
static void post(psd_worker_t *self, const request_t *request)
{
    uv_mutex_lock(&self->lock);
    while (self->n_requests == MAX_REQUESTS)
        uv_cond_wait(&self->changed, &self->lock);
    self->request[self->n_requests++] = *request;
    uv_mutex_unlock(&self->lock);
    uv_async_send(&self->wake);
}

/* Whether this handle can be used here: it has connected, and in this process. */
static bool is_usable(psd_worker_t *self, const char *what)
{
    if (self->process != getpid())
        psd_err_set(&self->error, PSD_EINVAL, "%s: this handle is of process %d, which was forked: connect anew in this one", what,
                    (int)self->process);
    else if (!self->running && !self->error.code)
        psd_err_set(&self->error, PSD_EINVAL, "%s: this handle has not connected", what);
    return self->running && self->process == getpid();
}

/* Wait for a phase, or for failure, or for READY, which a session that joins again by itself reaches at last.
 * timeout_ms < 0: as long as it takes. */
static int await(psd_worker_t *self, psd_phase_t phase, const char *what, int timeout_ms)
{
    const uint64_t limit = (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000;
    uint64_t deadline = uv_hrtime() + limit;
    int rc = PSD_OK;
    uv_mutex_lock(&self->lock);
    uint64_t moved = self->moved;
    while (self->phase != phase && self->phase != PSD_PHASE_FAILED && self->phase != PSD_PHASE_READY && rc == PSD_OK) {
        uint64_t now = uv_hrtime();
        if (self->phase == PSD_PHASE_REGISTERING && self->moved != moved) {
            moved = self->moved;
            deadline = now + limit; /* a model on its way, over however slow a link */
        }
        if (timeout_ms < 0)
            uv_cond_wait(&self->changed, &self->lock);
        else if (now >= deadline)
            rc = timeout_ms ? PSD_ETIMEOUT : PSD_EAGAIN;
        else
            uv_cond_timedwait(&self->changed, &self->lock, deadline - now);
    }
    if (self->phase == PSD_PHASE_FAILED)
        rc = psd_err_set(&self->error, self->failure.code, "%s", self->failure.text);
    else if (rc == PSD_OK && self->phase != phase)
        rc = psd_err_set(&self->error, PSD_EAGAIN, "%s: the servers have gone back to clock %" PRIu64, what, self->position.clock);
    else if (rc != PSD_OK)
        psd_err_set(&self->error, rc, "%s: nothing after %d ms; %.400s", what, timeout_ms,
                    self->waiting[0] ? self->waiting : "waiting for the server");
    uv_mutex_unlock(&self->lock);
    return rc;
}

/* Wait for what a request between two exchanges asked for. Unlike an exchange, it is not made good by weights from
 * another run of the servers, of which there had been `rejoins` before. */
static int await_answer(psd_worker_t *self, uint64_t rejoins, const char *what, int timeout_ms)
{
    int rc = await(self, PSD_PHASE_READY, what, timeout_ms);
    if (rc != PSD_OK)
        return rc;
    uv_mutex_lock(&self->lock);
    if (self->rejoins != rejoins)
        rc = psd_err_set(&self->error, PSD_EAGAIN, "%s: the servers have gone back to clock %" PRIu64, what, self->position.clock);
    uv_mutex_unlock(&self->lock);
    return rc;
}

static uint64_t count_rejoins(psd_worker_t *self)
{
    uv_mutex_lock(&self->lock);
    uint64_t rejoins = self->rejoins;
    uv_mutex_unlock(&self->lock);
    return rejoins;
}

/* Move the published phase ahead to what a request will make of it, if it is in `from`. */
static bool begin(psd_worker_t *self, psd_phase_t from, psd_phase_t to, const char *what)
{
    if (!is_usable(self, what))
        return false;
    uv_mutex_lock(&self->lock);
    bool ok = self->phase == from;
    if (ok)
        self->phase = to;
    else if (self->phase == PSD_PHASE_FAILED)
        self->error = self->failure;
    else
        psd_err_set(&self->error, PSD_EINVAL, "%s: connect, register, then one exchange or pull at a time", what);
    uv_mutex_unlock(&self->lock);
    return ok;
}

/* Programs that were built against an earlier header hand in a shorter configuration, and those from before there were keys
 * speak as they did. A longer one asks for what is not known here. */
static psd_worker_config_t read_config(const psd_worker_config_t *given)
{
    psd_worker_config_t config = { .insecure = 1 };
    if (given && given->size >= offsetof(psd_worker_config_t, key) && given->size <= sizeof config)
        memcpy(&config, given, given->size);
    return config;
}

static int open_net(psd_worker_t *self, const psd_worker_config_t *config)
{
    psd_keys_t keys;
    const psd_keys_source_t source = {
        .secret = config->key, .server = config->server_public, .insecure = config->insecure, .server_later = self->trusts_file
    };
    int rc = psd_keys_load(&keys, &source, &self->error);
    if (rc == PSD_OK && !keys.insecure && !self->trusts_file && !strcmp(keys.public, keys.server))
        rc = psd_err_set(&self->error, PSD_ECONFIG,
                         "the worker's key is that of the servers: give it one of its own, made by "
                         "psdctl keygen NAME");
    if (rc == PSD_OK && !(self->net = psd_net_new(&keys, &self->error)))
        rc = self->error.code;
    psd_keys_wipe(&keys);
    return rc;
}

static int copy_config(psd_worker_t *self, const psd_worker_config_t *config)
{
    char host[64] = "host", name[96];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%s:%d", host, (int)getpid());
    const bool by_file = !config->join || !*config->join;
    if (!config->size || (by_file && (!config->cluster_file || !*config->cluster_file)))
        return psd_err_set(&self->error, PSD_EINVAL,
                           "the configuration needs its size, of at most %zu bytes here, and `join` or "
                           "`cluster_file`",
                           sizeof *config);
    if (!by_file && strlen(config->join) >= sizeof self->join)
        return psd_err_set(&self->error, PSD_EINVAL, "`join` is longer than %zu bytes", sizeof self->join - 1);
    snprintf(self->join, sizeof self->join, "%s", by_file ? "" : config->join);
    self->file = by_file ? strdup(config->cluster_file) : NULL;
    self->trusts_file = by_file && (!config->server_public || !*config->server_public);
    self->job = strdup(config->job ? config->job : "psd");
    self->name = strdup(config->name ? config->name : name);
    self->recipe = strdup(config->recipe ? config->recipe : "");
    self->wanted = config->worker > 0 ? (uint32_t)config->worker : 0;
    self->join_timeout_ms = config->join_timeout_ms > 0 ? config->join_timeout_ms : config->join_timeout_ms < 0 ? -1 : JOIN_MS;
    self->log = config->log;
    self->log_arg = config->log_arg;
    if ((by_file && !self->file) || !self->job || !self->name || !self->recipe)
        return psd_err_set(&self->error, PSD_ENOMEM, "out of memory");
    if (!self->job[0] || strchr(self->job, ' ') || strlen(self->job) >= PSD_MAX_NAME || self->wanted > PSD_MAX_WORKERS)
        return psd_err_set(&self->error, PSD_EINVAL, "job \"%.60s\" must be one word, and worker at most %d", self->job,
                           PSD_MAX_WORKERS);
    if (!psd_logtext_is_plain(self->name, strlen(self->name)) || strlen(self->name) >= PSD_MAX_NAME)
        return psd_err_set(&self->error, PSD_EINVAL,
                           "\"%.60s\" cannot be a worker's name: it is one word of at most %d bytes, "
                           "without quotes, = or backslash",
                           self->name, PSD_MAX_NAME - 1);
    if (strlen(self->recipe) >= PSD_MAX_RECIPE)
        return psd_err_set(&self->error, PSD_EINVAL, "`recipe` has %zu bytes, at most %d fit", strlen(self->recipe),
                           PSD_MAX_RECIPE - 1);
    return PSD_OK;
}

static psd_session_t *new_session(const psd_worker_t *self)
{
    const uint64_t patience_ms = self->join_timeout_ms > 0 ? (uint64_t)self->join_timeout_ms : 0;
    uint64_t nonce = 0;
    while (!nonce && getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        ;
    return psd_session_new(&(psd_session_config_t){ self->job, self->name, self->wanted, nonce, self->recipe, patience_ms });
}

static void on_waiting(void *arg, const char *what) { say(arg, PSD_LEVEL_INFO, "worker.waiting", "for=\"%.500s\"", what); }

static void log_uplink(void *arg, psd_log_level_t level, const char *id, const char *line) { say(arg, (int)level, id, "%s", line); }

/* Where server 0 is, and what its key is, by the file. */
static int find_first(psd_worker_t *self)
{
    self->uplink =
        psd_uplink_new(&(psd_uplink_config_t){ .net = self->net,
                                               .job = self->job,
                                               .join = self->join,
                                               .file = self->file,
                                               .trusts_file = self->trusts_file,
                                               .timeout_ms = self->join_timeout_ms > 0 ? (uint64_t)self->join_timeout_ms : 0,
                                               .peer = PSD_PEER_SERVER,
                                               .on_message = on_message,
                                               .on_bad = on_bad,
                                               .on_denied = on_denied,
                                               .on_moved = on_moved,
                                               .on_waiting = on_waiting,
                                               .log = log_uplink,
                                               .arg = self },
                       &self->error);
    if (!self->uplink)
        return self->error.code;
    snprintf(self->join, sizeof self->join, "%s", psd_uplink_address(self->uplink));
    return PSD_OK;
}

static int start(psd_worker_t *self)
{
    self->session = new_session(self);
    self->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!self->session || self->done_fd < 0 || uv_loop_init(&self->loop))
        return psd_err_set(&self->error, PSD_ESYSTEM, "cannot start: %s", strerror(errno));
    self->wake.data = self->tick.data = self;
    self->wait_since_ms = now_ms();
    uv_async_init(&self->loop, &self->wake, on_request);
    uv_timer_init(&self->loop, &self->tick);
    uv_timer_start(&self->tick, on_tick, 0, TICK_MS);
    self->n_servers = 1;
    int rc = psd_uplink_connect(self->uplink, &self->loop, &self->error);
    if (rc == PSD_OK && uv_thread_create(&self->thread, thread_main, self))
        rc = psd_err_set(&self->error, PSD_ESYSTEM, "cannot start a thread");
    if (rc != PSD_OK) {
        close_all(self);
        uv_run(&self->loop, UV_RUN_DEFAULT);
        uv_loop_close(&self->loop);
        return rc;
    }
    self->running = true;
    return PSD_OK;
}

int psd_worker_connect(psd_worker_t **out, const psd_worker_config_t *given)
{
    const psd_worker_config_t config = read_config(given);
    if (!out)
        return PSD_EINVAL;
    psd_worker_t *self = *out = calloc(1, sizeof *self);
    if (!self)
        return PSD_ENOMEM;
    self->done_fd = -1;
    self->process = getpid();
    uv_mutex_init(&self->lock);
    uv_cond_init(&self->changed);
    int rc = copy_config(self, &config);
    if (rc == PSD_OK)
        rc = open_net(self, &config);
    if (rc == PSD_OK)
        rc = find_first(self);
    if (rc == PSD_OK)
        rc = start(self);
    if (rc != PSD_OK)
        return rc;
    rc = await(self, PSD_PHASE_JOINED, "join", self->join_timeout_ms);
    if (rc == PSD_ETIMEOUT) {
        uv_mutex_lock(&self->lock);
        rc = self->unresolved ? PSD_ECONFIG : rc;
        psd_err_set(&self->error, rc, "job %s at %s: not joined after %d ms; %.300s", self->job, self->join, self->join_timeout_ms,
                    self->waiting[0] ? self->waiting : "waiting for an answer from server 0");
        uv_mutex_unlock(&self->lock);
    }
    return rc;
}

static int describe_tensor(psd_tensor_desc_t *out, const psd_tensor_t *in, size_t i, psd_err_t *err)
{
    if (!in->name || !in->name[0] || strlen(in->name) >= PSD_MAX_NAME || in->n_dims > PSD_MAX_DIMS || (in->n_dims && !in->shape) ||
        !in->data)
        return psd_err_set(err, PSD_EINVAL, "tensor %zu needs a name of 1 to %d bytes, a shape of at most %d dimensions, and data",
                           i, PSD_MAX_NAME - 1, PSD_MAX_DIMS);
    snprintf(out->name, sizeof out->name, "%s", in->name);
    out->n_dims = (uint32_t)in->n_dims;
    out->n_elements = 1;
    for (size_t d = 0; d < in->n_dims; d++) {
        out->dim[d] = in->shape[d];
        if (!in->shape[d] || __builtin_mul_overflow(out->n_elements, in->shape[d], &out->n_elements))
            return psd_err_set(err, PSD_EINVAL, "tensor %s: dimension %zu is %" PRIu64, in->name, d, in->shape[d]);
    }
    return PSD_OK;
}

/* No training leads out of weights that are no numbers. */
static int check_finite(psd_worker_t *self)
{
    for (uint32_t t = 0; t < self->list.n; t++) {
        const size_t n = self->list.tensor[t].n_elements, i = psd_first_nonfinite(self->data[t], n);
        if (i < n)
            return psd_err_set(&self->error, PSD_EINVAL, "tensor %s: initial value %zu is %g; the weights must be finite",
                               self->list.tensor[t].name, i, (double)self->data[t][i]);
    }
    return PSD_OK;
}

static void forget_tensors(psd_worker_t *self)
{
    psd_tensors_clear(&self->list);
    free(self->data);
    free(self->slow);
    free(self->gradient);
    self->data = self->slow = NULL;
    self->gradient = NULL;
}

/* What the servers would refuse is told here: names twice, lists too long. */
static int take_tensors(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors)
{
    self->list.tensor = calloc(n_tensors, sizeof *self->list.tensor);
    self->data = calloc(n_tensors, sizeof *self->data);
    self->slow = calloc(n_tensors, sizeof *self->slow);
    self->gradient = calloc(n_tensors, sizeof *self->gradient);
    if (!self->list.tensor || !self->data || !self->slow || !self->gradient)
        return psd_err_set(&self->error, PSD_ENOMEM, "no memory for %zu tensors", n_tensors);
    self->list.n = (uint32_t)n_tensors;
    for (size_t i = 0; i < n_tensors; i++) {
        if (describe_tensor(&self->list.tensor[i], &tensors[i], i, &self->error) != PSD_OK)
            return self->error.code;
        self->data[i] = tensors[i].data;
    }
    uint8_t bytes[PSD_MAX_LIST];
    psd_tensor_list_t checked;
    size_t n = psd_tensors_encode(&self->list, bytes, sizeof bytes);
    if (!n)
        return psd_err_set(&self->error, PSD_EINVAL, "the list of %zu tensors is longer than %d bytes", n_tensors, PSD_MAX_LIST);
    if (psd_tensors_decode(&checked, bytes, n, &self->error) != PSD_OK)
        return self->error.code = PSD_EINVAL;
    psd_tensors_clear(&checked);
    return check_finite(self);
}

int psd_worker_register(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors)
{
    if (self->list.n)
        return psd_err_set(&self->error, PSD_EINVAL, "%" PRIu32 " tensors are registered already; register once", self->list.n);
    if (!tensors || !n_tensors || n_tensors > PSD_MAX_TENSORS)
        return psd_err_set(&self->error, PSD_EINVAL, "%zu tensors%s were given to register; 1 to %d are allowed: join small ones",
                           n_tensors, tensors ? "" : " at NULL", PSD_MAX_TENSORS);
    int rc = take_tensors(self, tensors, n_tensors);
    if (rc == PSD_OK && !begin(self, PSD_PHASE_JOINED, PSD_PHASE_REGISTERING, "register"))
        rc = self->error.code;
    if (rc != PSD_OK) {
        forget_tensors(self);
        return rc;
    }
    post(self, &(request_t){ .kind = REGISTER, .list = &self->list, .data = self->data });
    return await(self, PSD_PHASE_READY, "register", self->join_timeout_ms);
}

psd_position_t psd_worker_position(const psd_worker_t *self)
{
    psd_worker_t *mutable = (psd_worker_t *)(uintptr_t)self; /* the lock is no part of the handle's value */
    uv_mutex_lock(&mutable->lock);
    psd_session_position_t p = self->position;
    psd_position_t at = { .clock = p.clock,
                          .version = p.version,
                          .rank = p.rank,
                          .world = p.world,
                          .worker = p.worker,
                          .incarnation = p.incarnation,
                          .run = p.run,
                          .has_slow = self->has_slow };
    uv_mutex_unlock(&mutable->lock);
    return at;
}

const char *psd_worker_settings(const psd_worker_t *self) { return self->settings; }

/* A copy of what the other thread keeps up to date. */
static psd_session_position_t position_of(const psd_worker_t *self)
{
    psd_worker_t *mutable = (psd_worker_t *)(uintptr_t)self;
    uv_mutex_lock(&mutable->lock);
    const psd_session_position_t position = self->position;
    uv_mutex_unlock(&mutable->lock);
    return position;
}

double psd_worker_round_loss(const psd_worker_t *self) { return position_of(self).round_loss; }

uint64_t psd_worker_job_samples(const psd_worker_t *self)
{
    const double n = position_of(self).samples;
    return n > 0 && n < 0x1p63 ? (uint64_t)n : 0;
}

int psd_worker_exchange(psd_worker_t *self, const float *const *gradients, uint64_t samples, double loss, psd_ticket_t *ticket)
{
    if (samples && !gradients)
        return psd_err_set(&self->error, PSD_EINVAL, "an exchange with samples needs gradients");
    if (samples > PSD_MAX_SAMPLES)
        return psd_err_set(&self->error, PSD_EINVAL, "a gradient of %" PRIu64 " samples; at most %" PRIu64 " are counted", samples,
                           (uint64_t)PSD_MAX_SAMPLES);
    if (!ticket)
        return psd_err_set(&self->error, PSD_EINVAL, "an exchange needs a place for its ticket");
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_EXCHANGING, "exchange"))
        return self->error.code;
    uint64_t before;
    self->leaves = false;
    (void)!read(self->done_fd, &before, sizeof before);
    for (uint32_t i = 0; i < self->list.n; i++)
        self->gradient[i] = samples ? gradients[i] : NULL;
    post(self, &(request_t){ .kind = EXCHANGE, .gradient = self->gradient, .samples = samples, .value = loss });
    *ticket = ++self->ticket;
    return PSD_OK;
}

int psd_worker_wait(psd_worker_t *self, psd_ticket_t ticket, int timeout_ms)
{
    if (!ticket || ticket > self->ticket)
        return psd_err_set(&self->error, PSD_EINVAL, "no such ticket: %" PRIu64, ticket);
    if (!is_usable(self, "exchange"))
        return self->error.code;
    return ticket < self->ticket ? PSD_OK : await(self, PSD_PHASE_READY, "exchange", timeout_ms);
}

int psd_worker_fd(const psd_worker_t *self) { return self->done_fd; }

int psd_worker_pull_slow(psd_worker_t *self, float *const *out, int timeout_ms)
{
    if (!out)
        return psd_err_set(&self->error, PSD_EINVAL, "a pull needs a place for each tensor");
    if (!is_usable(self, "pull"))
        return self->error.code;
    const uint64_t rejoins = count_rejoins(self);
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_PULLING, "pull"))
        return self->error.code;
    memcpy(self->slow, out, self->list.n * sizeof *out);
    post(self, &(request_t){ .kind = PULL_SLOW, .data = self->slow });
    return await_answer(self, rejoins, "pull", timeout_ms);
}

int psd_worker_set_lr(psd_worker_t *self, double lr, int timeout_ms)
{
    if (!(lr >= 0) || lr > 1e9)
        return psd_err_set(&self->error, PSD_EINVAL, "a learning rate is a number from 0 to 1e9, not %g", lr);
    if (!is_usable(self, "set the learning rate"))
        return self->error.code;
    const uint64_t rejoins = count_rejoins(self);
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_SETTING, "set the learning rate"))
        return self->error.code;
    post(self, &(request_t){ .kind = SET_LR, .value = lr });
    return await_answer(self, rejoins, "set the learning rate", timeout_ms);
}

static bool is_printable(const char *text)
{
    for (size_t n = strlen(text), size; n; text += size, n -= size)
        if (!(size = psd_printable_character(text, n)))
            return false;
    return true;
}

int psd_worker_report(psd_worker_t *self, const char *name, double value)
{
    request_t request = { .kind = REPORT, .value = value };
    if (!name || !*name || strlen(name) >= sizeof request.name || !is_printable(name))
        return psd_err_set(&self->error, PSD_EINVAL, "a reported name has 1 to %zu bytes of printable UTF-8",
                           sizeof request.name - 1);
    if (!is_usable(self, "report"))
        return self->error.code;
    memcpy(request.name, name, strlen(name) + 1);
    post(self, &request);
    return PSD_OK;
}

int psd_worker_asked_to_leave(const psd_worker_t *self)
{
    psd_worker_t *mutable = (psd_worker_t *)(uintptr_t)self;
    uv_mutex_lock(&mutable->lock);
    bool drains = self->drains;
    uv_mutex_unlock(&mutable->lock);
    return drains;
}

int psd_worker_leave(psd_worker_t *self, int finished, int timeout_ms)
{
    if (self->process != getpid())
        return is_usable(self, "leave") ? PSD_OK : self->error.code;
    uv_mutex_lock(&self->lock);
    bool over = self->phase == PSD_PHASE_FAILED || self->phase == PSD_PHASE_LEFT;
    if (self->phase == PSD_PHASE_FAILED)
        self->error = self->failure;
    if (finished && !over && !self->list.n) {
        uv_mutex_unlock(&self->lock);
        return psd_err_set(&self->error, PSD_EINVAL,
                           "leave: no tensors are registered, so no work can be done; register first, or "
                           "leave unfinished");
    }
    if (!self->leaves)
        self->leave_rejoins = self->rejoins;
    self->leaves = true;
    const uint64_t rejoins = self->leave_rejoins;
    const bool went_back = finished && self->rejoins != rejoins;
    if (!over && !went_back)
        self->phase = PSD_PHASE_LEAVING;
    int rc = self->phase == PSD_PHASE_FAILED ? self->error.code : PSD_OK;
    uv_mutex_unlock(&self->lock);
    if (over || !self->running)
        return rc;
    if (!went_back)
        post(self, &(request_t){ .kind = LEAVE, .finished = finished != 0, .rejoins = rejoins });
    rc = await(self, PSD_PHASE_LEFT, "leave", timeout_ms);
    if (rc != PSD_ETIMEOUT && timeout_ms)
        self->leaves = false;
    return rc;
}

void psd_worker_close(psd_worker_t **self_p)
{
    psd_worker_t *self = self_p ? *self_p : NULL;
    if (!self)
        return;
    *self_p = NULL;
    if (self->process != getpid()) {
        close(self->done_fd); /* the rest is the other process's, whose thread is not here to end it */
        return;
    }
    if (self->running) {
        post(self, &(request_t){ .kind = STOP });
        uv_thread_join(&self->thread);
        uv_loop_close(&self->loop);
    }
    psd_uplink_close(&self->uplink, 0);
    psd_net_destroy(&self->net);
    psd_session_destroy(&self->session);
    psd_actions_clear(&self->out);
    forget_tensors(self);
    if (self->done_fd >= 0)
        close(self->done_fd);
    uv_cond_destroy(&self->changed);
    uv_mutex_destroy(&self->lock);
    free(self->file);
    free(self->job);
    free(self->name);
    free(self->recipe);
    free(self);
}

const char *psd_worker_error(const psd_worker_t *self) { return self ? self->error.text : ""; }
const char *psd_strerror(int code) { return psd_err_text(code); }
const char *psd_version(void) { return PSD_VERSION; }
