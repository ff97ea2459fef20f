/* follower.c - psd_follower_* of psd/worker.h: carries out the actions of a reading (worker/reading.h), on a loop that runs only
 * while a caller waits. */
#include "psd/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#include "common/net/uplink.h"
#include "worker/caller.h"
#include "worker/reading.h"

enum { TICK_MS = 50 };

struct psd_follower {
    psd_caller_t caller;
    pid_t process; /* that made it */
    bool has_loop;
    uv_loop_t loop;
    uv_timer_t tick;
    psd_uplink_t *uplink;                  /* to server 0 */
    psd_socket_t *socket[PSD_MAX_SERVERS]; /* to each other one */
    char endpoint[PSD_MAX_SERVERS][PSD_MAX_NAME];
    uint64_t heard_ms[PSD_MAX_SERVERS];
    uint32_t n_servers;
    psd_reading_t *reading;
    psd_actions_t out;
    psd_err_t error;
};

static uint64_t now_ms(void) { return uv_hrtime() / 1000000 + 1000; }

/* ---- messages ---- */

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);
static void on_bad(void *arg, uint64_t peer, const char *why) { (void)arg, (void)peer, (void)why; }
static void on_denied(void *arg, const char *why) { psd_reading_fail(((psd_follower_t *)arg)->reading, PSD_EAUTH, why); }

static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    psd_follower_t *self = arg;
    char why[400];
    if (link == PSD_LINK_UP || link == PSD_LINK_BROKEN)
        return; /* a broken handshake may come from a server that is starting */
    psd_link_describe(self->caller.net, link, self->endpoint[peer - PSD_PEER_SERVER], why, sizeof why);
    on_denied(self, why);
}

static void open_socket(psd_follower_t *self, uint32_t s)
{
    const psd_socket_handler_t handler = { on_message, on_bad, on_link, self };
    psd_err_t err;
    psd_socket_close(&self->socket[s], 0);
    self->heard_ms[s] = now_ms();
    if (!(self->socket[s] =
              psd_socket_connect(self->caller.net, &self->loop, self->endpoint[s], PSD_PEER_SERVER + s, &handler, &err)))
        psd_reading_fail(self->reading, err.code, err.text);
}

/* Each answer names the servers, because a restarted one may have another address. */
static void connect_to_others(psd_follower_t *self)
{
    const psd_cluster_t *cluster = psd_reading_cluster(self->reading);
    for (uint32_t s = 1; cluster && s < cluster->n_servers; s++) {
        if (!strcmp(self->endpoint[s], cluster->endpoint[s]))
            continue;
        memcpy(self->endpoint[s], cluster->endpoint[s], sizeof self->endpoint[s]);
        open_socket(self, s);
        self->n_servers = s + 1 > self->n_servers ? s + 1 : self->n_servers;
    }
}

/* A message that cannot be sent now counts as lost: it will be repeated. */
static void carry_out(psd_follower_t *self)
{
    uint8_t header[PSD_MAX_FRAME_HEADER];
    connect_to_others(self);
    for (size_t i = 0; i < self->out.n; i++) {
        const psd_action_t *a = &self->out.at[i];
        const uint32_t s = (uint32_t)(a->to - PSD_PEER_SERVER);
        psd_buf_t *bytes;
        if (a->act != PSD_ACT_SEND || (s && !self->socket[s]))
            continue;
        const size_t n = psd_wire_write(&a->msg, a->payload, psd_net_is_keyed(self->caller.net), header, &bytes);
        if (s)
            psd_socket_send(self->socket[s], a->to, header, n, bytes);
        else
            psd_uplink_send(self->uplink, header, n, bytes);
        psd_buf_unref(&bytes);
    }
    psd_actions_drop(&self->out, self->out.n);
}

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    psd_follower_t *self = arg;
    psd_msg_t msg;
    psd_err_t err;
    psd_buf_t *body;
    char why[160];
    self->heard_ms[peer - PSD_PEER_SERVER] = now_ms();
    if (psd_wire_read(&msg, &body, header, n_header, payload, &err) == PSD_OK) {
        psd_reading_message(self->reading, now_ms(), peer, &msg, body, &self->out);
    } else if (msg.protocol && msg.protocol != PSD_PROTOCOL) {
        snprintf(why, sizeof why, "server %" PRIu64 " uses protocol %u, this library %d; install one version everywhere",
                 peer - PSD_PEER_SERVER, msg.protocol, PSD_PROTOCOL);
        psd_reading_fail(self->reading, PSD_EREFUSED, why);
    }
    psd_buf_unref(&body);
    carry_out(self);
}

/* ---- opening ---- */

static bool is_interrupted(const psd_follower_t *self)
{
    return self->caller.interrupted && self->caller.interrupted(self->caller.interrupted_arg);
}

static void on_moved(void *arg) { (void)arg; }

static bool on_waiting(void *arg, const char *reason)
{
    (void)reason;
    return !is_interrupted(arg);
}

static void on_log(void *arg, psd_log_level_t level, const char *id, const char *line)
{
    const psd_follower_t *self = arg;
    if (self->caller.log)
        self->caller.log(self->caller.log_arg, (int)level, id, line);
}

static int open_reading(psd_follower_t *self)
{
    uint64_t nonce = 0;
    while (!nonce && getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        ;
    self->reading =
        psd_reading_new(&(psd_reading_config_t){ self->caller.job, self->caller.name, nonce >> 1 | 1, psd_groups_parse });
    return self->reading ? PSD_OK : psd_err_set(&self->error, PSD_ENOMEM, "out of memory");
}

static int open_uplink(psd_follower_t *self)
{
    static const psd_uplink_config_t calls = { .on_message = on_message,
                                               .on_bad = on_bad,
                                               .on_denied = on_denied,
                                               .on_moved = on_moved,
                                               .on_waiting = on_waiting,
                                               .log = on_log };
    self->uplink = psd_caller_uplink(&self->caller, &calls, self, &self->error);
    if (!self->uplink)
        return self->error.code;
    self->n_servers = 1;
    snprintf(self->endpoint[0], sizeof self->endpoint[0], "%s", psd_uplink_address(self->uplink));
    if (uv_loop_init(&self->loop))
        return psd_err_set(&self->error, PSD_ESYSTEM, "cannot start a loop: %s", strerror(errno));
    self->has_loop = true;
    uv_timer_init(&self->loop, &self->tick);
    self->tick.data = self;
    return psd_uplink_connect(self->uplink, &self->loop, &self->error);
}

int psd_follower_open(psd_follower_t **out, const psd_worker_config_t *given)
{
    if (!out)
        return PSD_EINVAL;
    psd_follower_t *self = *out = calloc(1, sizeof *self);
    if (!self)
        return PSD_ENOMEM;
    self->process = getpid();
    int rc = psd_caller_read(&self->caller, given, &self->error);
    rc = rc ? rc : open_reading(self);
    rc = rc ? rc : open_uplink(self);
    return rc;
}

void psd_follower_close(psd_follower_t **self_p)
{
    psd_follower_t *self = self_p ? *self_p : NULL;
    if (!self)
        return;
    *self_p = NULL;
    if (self->process != getpid())
        return; /* a child of fork() does not have the threads behind this */
    psd_uplink_close(&self->uplink, 0);
    for (uint32_t s = 1; s < self->n_servers; s++)
        psd_socket_close(&self->socket[s], 0);
    if (self->has_loop) {
        uv_close((uv_handle_t *)&self->tick, NULL);
        uv_run(&self->loop, UV_RUN_DEFAULT);
        uv_loop_close(&self->loop);
    }
    psd_actions_clear(&self->out);
    psd_reading_destroy(&self->reading);
    psd_caller_clear(&self->caller);
    free(self);
}

/* ---- reading ---- */

static void on_tick(uv_timer_t *timer)
{
    psd_follower_t *self = timer->data;
    psd_err_t err;
    const uint64_t now = now_ms();
    psd_uplink_tick(self->uplink, now, true, &err);
    for (uint32_t s = 1; s < self->n_servers; s++)
        if (now >= self->heard_ms[s] + PSD_UPLINK_DEAF_MS)
            open_socket(self, s);
    psd_reading_tick(self->reading, now, &self->out);
    carry_out(self);
    psd_uplink_trouble(self->uplink, now); /* which also looks for it, if nobody answers */
}

static int timed_out(psd_follower_t *self, int timeout_ms)
{
    char text[400];
    const char *trouble = psd_uplink_trouble(self->uplink, now_ms());
    psd_reading_describe_wait(self->reading, text, sizeof text);
    psd_reading_stop(self->reading);
    return psd_err_set(&self->error, PSD_ETIMEOUT, "pull: nothing was read from %s in %d ms; waiting for %s%s%.300s%s",
                       psd_uplink_address(self->uplink), timeout_ms, text, *trouble ? " (" : "", trouble, *trouble ? ")" : "");
}

int psd_follower_pull(psd_follower_t *self, int slow, int timeout_ms)
{
    if (self->process != getpid())
        return psd_err_set(&self->error, PSD_EINVAL,
                           "pull: this handle belongs to process %d, of which this is a fork; open one in this process",
                           (int)self->process);
    if (!self->uplink || !self->has_loop)
        return self->error.code ? self->error.code : psd_err_set(&self->error, PSD_EINVAL, "pull: this handle is not open");
    const uint64_t began_ms = now_ms();
    for (uint32_t s = 1; s < self->n_servers; s++)
        self->heard_ms[s] = began_ms; /* no server was asked since the last pull */
    psd_reading_begin(self->reading, began_ms, slow != 0, &self->out);
    carry_out(self);
    uv_timer_start(&self->tick, on_tick, TICK_MS, TICK_MS);
    int rc = PSD_EAGAIN;
    while (rc == PSD_EAGAIN) {
        const psd_reading_phase_t phase = psd_reading_phase(self->reading);
        if (phase == PSD_READING_IDLE)
            rc = PSD_OK;
        else if (phase == PSD_READING_FAILED)
            rc = psd_err_set(&self->error, psd_reading_error(self->reading)->code, "%s", psd_reading_error(self->reading)->text);
        else if (timeout_ms >= 0 && now_ms() >= began_ms + (uint64_t)timeout_ms)
            rc = timed_out(self, timeout_ms);
        else if (is_interrupted(self))
            rc = (psd_reading_stop(self->reading), psd_err_set(&self->error, PSD_ESTOPPED, "pull: interrupted"));
        else
            uv_run(&self->loop, UV_RUN_ONCE);
    }
    uv_timer_stop(&self->tick);
    return rc;
}

size_t psd_follower_n_tensors(const psd_follower_t *self)
{
    return self->reading && psd_reading_weights(self->reading) ? psd_reading_model(self->reading)->n : 0;
}

int psd_follower_tensor(psd_follower_t *self, size_t i, psd_tensor_t *out)
{
    if (i >= psd_follower_n_tensors(self))
        return psd_err_set(&self->error, PSD_EINVAL, "tensor: there is no tensor %zu; %zu were pulled", i,
                           psd_follower_n_tensors(self));
    const psd_tensor_desc_t *tensor = &psd_reading_model(self->reading)->tensor[i];
    *out = (psd_tensor_t){
        .name = tensor->name, .shape = tensor->dim, .n_dims = tensor->n_dims, .data = psd_reading_weights(self->reading)[i]
    };
    return PSD_OK;
}

uint64_t psd_follower_version(const psd_follower_t *self) { return self->reading ? psd_reading_version(self->reading) : 0; }
const char *psd_follower_error(const psd_follower_t *self) { return self ? self->error.text : ""; }
