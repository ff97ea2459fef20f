#include "server/entrance/entrance.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/memory/local.h"
#include "common/system/log.h"
#include "server/entrance/descriptors.h"
#include "server/entrance/acl.h"
#include "server/entrance/intake.h"
#include "server/entrance/memory_guard.h"

enum {
    ALLOW_MS = 250,     /* between two checks whether the allow-list has changed */
    KNOCK_MS = 5000,    /* for a stranger to be refused */
    REBIND_MS = 5000,   /* for a closed address to become free */
    REFUSED_MS = 10000, /* between two lines on refused connections */
};

struct psd_entrance {
    psd_entrance_config_t config; /* without its texts */
    psd_acl_t *acl;               /* NULL: any process on this machine may connect */
    psd_socket_t *guard;          /* asks the list; NULL without one */
    psd_socket_t *router;         /* NULL while the address is being bound again */
    psd_socket_t *stranger;       /* the test at the start */
    psd_local_t *local;           /* links through memory with peers that the router knows; NULL: none */
    psd_intake_t *intake;         /* takes in their messages; NULL: none has come yet */
    char local_name[PSD_HANDOFF_NAME];
    bool is_open;      /* a stranger has been refused, or any process may connect */
    psd_err_t failure; /* of the test */
    char endpoint[PSD_ENDPOINT_TEXT];
    uv_timer_t memory_timer;
    psd_memory_guard_t memory;
    psd_descriptors_t descriptors;
    uint64_t first_tick_ms, allow_ms;
    uint64_t closed_ms; /* the first tick without a router; 0: there is one */
    uint64_t told, told_ms;
};

/* ---- the socket ---- */

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    psd_entrance_t *self = arg;
    if (self->is_open)
        self->config.on_message(self->config.arg, peer, header, n_header, payload);
}

static bool on_term(void *arg, uint64_t peer, const void *header, size_t n_header, size_t n_payload, psd_term_t *out)
{
    const psd_entrance_t *self = arg;
    return self->is_open && self->config.on_term && self->config.on_term(self->config.arg, peer, header, n_header, n_payload, out);
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    psd_entrance_t *self = arg;
    if (self->is_open)
        self->config.on_bad(self->config.arg, peer, why);
}

static int bind_router(psd_entrance_t *self, const char *endpoint, psd_err_t *err)
{
    const psd_socket_handler_t handler = { on_message, on_bad, NULL, self };
    self->router = psd_socket_bind(self->config.net, self->config.loop, endpoint, &handler, self->endpoint, err);
    return self->router ? PSD_OK : err->code;
}

/* ---- memory ---- */

/* The sender may still write to its memory, so the server checks and uses a copy. The copy counts against the sender like a message
 * from a socket. */
static void on_local_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    const psd_entrance_t *self = arg;
    psd_intake_put(self->intake, peer, header, n_header, payload);
}

static void on_local_link(void *arg, uint64_t peer, psd_link_t link)
{
    (void)arg;
    psd_log_debug("memory.link", "user=%u state=%s", psd_peer_user(peer), link == PSD_LINK_UP ? "up" : "closed");
}

/* A peer that links through memory has been authenticated by the router, and its link ends with the router. Without memory, all
 * messages go through sockets. */
static void open_local(psd_entrance_t *self)
{
    const psd_socket_handler_t handler = { on_local_message, on_bad, on_local_link, self };
    psd_err_t err;
    if (!self->config.arena || self->local)
        return;
    if (!self->intake && !(self->intake = psd_intake_new(self->config.loop, self->config.net, on_message, on_term, self)))
        psd_err_set(&err, PSD_ENOMEM, "no memory");
    else
        self->local = psd_local_new(self->config.loop, self->config.arena, SIZE_MAX / 2, &handler, &err);
    if (self->local && psd_local_listen(self->local, self->local_name, &err) != PSD_OK)
        psd_local_close(&self->local);
    if (!self->local)
        psd_log_warn("memory.unavailable", "reason=\"%s\" effect=\"workers of this machine are served by sockets\"", err.text);
}

bool psd_entrance_offer(psd_entrance_t *self, psd_peer_t to, psd_offer_t *out)
{
    *out = (psd_offer_t){ 0 };
    if (!self->local || psd_local_has(self->local, to) || psd_local_expect(self->local, to, out->token, NULL) != PSD_OK)
        return false;
    memcpy(out->name, self->local_name, sizeof self->local_name);
    return true;
}

uint64_t psd_entrance_links(const psd_entrance_t *self) { return self->local ? psd_local_counts(self->local)->up : 0; }

_Static_assert((int)PSD_MAX_OFFER >= (int)PSD_HANDOFF_NAME && (int)PSD_OFFER_TOKEN == (int)PSD_TOKEN_BYTES, "an offer has room");

static void close_connections(psd_entrance_t *self)
{
    psd_socket_close(&self->router, 0);
    psd_local_close(&self->local);
}

/* ZeroMQ releases an address in its own thread, a little later. */
static int bind_again(psd_entrance_t *self, uint64_t now_ms, psd_err_t *err)
{
    if (self->router)
        return PSD_OK;
    if (!self->closed_ms)
        self->closed_ms = now_ms;
    if (psd_memory_guard_is_closing(&self->memory))
        return PSD_OK;
    if (bind_router(self, self->endpoint, err) != PSD_OK)
        return now_ms > self->closed_ms + REBIND_MS ? err->code : PSD_OK;
    self->closed_ms = 0;
    open_local(self);
    if (psd_descriptors_are_full(&self->descriptors))
        psd_socket_take(self->router, false);
    return PSD_OK;
}

/* ---- strangers ---- */

/* The outcome of the stranger's connection. */
static void on_knock(void *arg, uint64_t peer, psd_link_t link)
{
    psd_entrance_t *self = arg;
    (void)peer;
    if (link == PSD_LINK_DENIED)
        self->is_open = true;
    else if (link != PSD_LINK_BROKEN)
        psd_err_set(&self->failure, PSD_EAUTH,
                    "a key that is not on the allow-list was accepted: this libzmq does not check the list");
}

/* The test begins when the loop runs, because connections are not answered before. */
static int knock(psd_entrance_t *self, uint64_t now_ms, psd_err_t *err)
{
    const psd_socket_handler_t handler = { on_message, on_bad, on_knock, self };
    if (self->failure.code)
        return psd_err_set(err, self->failure.code, "%s", self->failure.text);
    if (self->is_open)
        psd_socket_close(&self->stranger, 0);
    else if (!self->stranger)
        self->stranger = psd_socket_knock(self->config.net, self->config.loop, self->endpoint, &handler, err);
    else if (now_ms > self->first_tick_ms + KNOCK_MS)
        return psd_err_set(
            err, PSD_EAUTH,
            "cannot confirm that a stranger's key is refused; can psd itself reach the address at which it listens?");
    return self->is_open || self->stranger ? PSD_OK : err->code;
}

static void reload(psd_entrance_t *self, bool asked)
{
    if (self->acl && psd_acl_reload(self->acl, asked))
        close_connections(self);
}

void psd_entrance_reload(psd_entrance_t *self) { reload(self, true); }

psd_refusal_t psd_entrance_judge(const psd_entrance_t *self, psd_peer_t from, psd_kind_t kind, uint32_t shard, char *why, size_t n)
{
    const uint64_t held = psd_net_held(self->config.net, psd_peer_user(from));
    return self->acl ? psd_acl_judge(self->acl, from, kind, shard, held, why, n) : PSD_REFUSAL_NONE;
}

/* Unknown keys are counted at once; connections that fail their handshake for another reason are counted seconds later. */
uint64_t psd_entrance_refused(psd_entrance_t *self, uint64_t now_ms)
{
    const uint64_t never_met = psd_net_refused(self->config.net, now_ms), denied = self->acl ? psd_acl_denied(self->acl) : 0;
    const uint64_t all = denied > never_met ? denied : never_met, own = self->acl && all ? 1 : 0, refused = all - own;
    if (refused != self->told && now_ms >= self->told_ms + REFUSED_MS) {
        psd_log_warn("connections.refused",
                     "more=%" PRIu64 " in_all=%" PRIu64
                     " why=\"no complete handshake: an unknown key, another protocol, or silence\"",
                     refused - self->told, refused);
        self->told = refused;
        self->told_ms = now_ms;
    }
    return refused;
}

/* ---- memory and descriptors ---- */

static uint64_t resident_bytes(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Bound the memory of messages that peers begin and never end. */
static void on_memory(uv_timer_t *timer)
{
    psd_entrance_t *self = timer->data;
    const uint64_t resident = resident_bytes();
    switch (psd_memory_guard_look(&self->memory, uv_hrtime() / 1000000 + 1, resident)) {
    case PSD_MEMORY_GUARD_CLOSE:
        psd_log_warn("memory.over",
                     "resident=%" PRIu64 " max=%" PRIu64 " held=%" PRIu64 " effect=\"all connections are closed, and "
                     "made again by their peers\"",
                     resident, self->memory.max, psd_net_held(self->config.net, 0));
        close_connections(self);
        break;
    case PSD_MEMORY_GUARD_TRIM:
        malloc_trim(0);
        break;
    case PSD_MEMORY_GUARD_REST:
        break;
    }
}

static void bound_descriptors(psd_entrance_t *self, uint64_t now_ms)
{
    const psd_descriptors_do_t todo = psd_descriptors_look(&self->descriptors, now_ms);
    if (todo == PSD_DESCRIPTORS_REFUSE)
        psd_log_warn("connections.full", "limit=%u effect=\"no new connections for a while; existing ones stay\"",
                     psd_descriptors_limit());
    if (todo != PSD_DESCRIPTORS_REST && self->router)
        psd_socket_take(self->router, todo == PSD_DESCRIPTORS_TAKE);
}

/* ---- the whole ---- */

static int open_acl(psd_entrance_t *self, const psd_entrance_config_t *config, psd_err_t *err)
{
    self->is_open = !*config->allow;
    if (self->is_open)
        return PSD_OK;
    if (!(self->acl = psd_acl_new(config->allow, err)) ||
        psd_acl_own(self->acl, psd_net_public(config->net), config->has_peers, err) != PSD_OK)
        return err->code;
    self->guard = psd_socket_guard(config->net, config->loop, psd_acl_admit, self->acl, err);
    return self->guard ? PSD_OK : err->code;
}

psd_entrance_t *psd_entrance_new(const psd_entrance_config_t *config, psd_err_t *err)
{
    psd_entrance_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the entrance");
        return NULL;
    }
    self->config = *config;
    self->memory.max = config->memory_max;
    psd_descriptors_open(&self->descriptors);
    uv_timer_init(config->loop, &self->memory_timer);
    self->memory_timer.data = self;
    if (self->memory.max)
        uv_timer_start(&self->memory_timer, on_memory, 0, PSD_MEMORY_GUARD_LOOK_MS);
    if (open_acl(self, config, err) != PSD_OK || bind_router(self, config->listen, err) != PSD_OK)
        psd_entrance_close(&self, 0);
    else
        open_local(self);
    return self;
}

static void free_closed(uv_handle_t *timer) { free(timer->data); }

void psd_entrance_close(psd_entrance_t **self_p, int linger_ms)
{
    psd_entrance_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    psd_socket_close(&self->router, linger_ms);
    psd_local_close(&self->local);
    psd_intake_close(&self->intake);
    psd_socket_close(&self->stranger, 0);
    psd_socket_close(&self->guard, 0);
    psd_acl_destroy(&self->acl);
    psd_descriptors_close(&self->descriptors);
    uv_close((uv_handle_t *)&self->memory_timer, free_closed);
}

int psd_entrance_tick(psd_entrance_t *self, uint64_t now_ms, psd_err_t *err)
{
    if (!self->first_tick_ms)
        self->first_tick_ms = now_ms;
    if (bind_again(self, now_ms, err) != PSD_OK || knock(self, now_ms, err) != PSD_OK)
        return err->code;
    if (now_ms >= self->allow_ms + ALLOW_MS) {
        self->allow_ms = now_ms;
        reload(self, false);
    }
    bound_descriptors(self, now_ms);
    return PSD_OK;
}

const char *psd_entrance_endpoint(const psd_entrance_t *self) { return self->endpoint; }
bool psd_entrance_is_open(const psd_entrance_t *self) { return self->is_open; }

bool psd_entrance_has_link(const psd_entrance_t *self, psd_peer_t to, bool is_data)
{
    return is_data && self->local && psd_local_has(self->local, to);
}

int psd_entrance_send(psd_entrance_t *self, psd_peer_t to, bool is_data, const void *header, size_t n_header, psd_buf_t *payload)
{
    if (psd_entrance_has_link(self, to, is_data))
        return psd_local_send(self->local, to, header, n_header, payload);
    return self->router ? psd_socket_send(self->router, to, header, n_header, payload) : PSD_EAGAIN;
}
