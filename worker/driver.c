#include "worker/driver.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <uv.h>

#include "common/base/absence.h"
#include "common/base/logtext.h"
#include "common/memory/local.h"
#include "common/net/uplink.h"
#include "common/system/failpoint.h"
#include "worker/turn.h"

enum { TICK_MS = 50, WAIT_LINE_MS = 4000, LINGER_MS = 200, LOOK_NS = 200000 };

_Static_assert((int)PSD_LEVEL_WARN == (int)PSD_LOG_WARN && (int)PSD_LEVEL_INFO == (int)PSD_LOG_INFO, "levels are the same numbers");

struct psd_driver {
    psd_driver_config_t config;
    uv_thread_t thread;
    uv_loop_t loop;
    psd_turn_t *turn; /* decides which thread runs the loop */
    uv_async_t wake;
    uv_timer_t tick, limit; /* `limit`: of a caller's turn */
    psd_session_t *session;
    psd_actions_t out;
    psd_phase_t published;                        /* the session's phase that the handover has */
    bool exchanging;                              /* an exchange is open */
    psd_uplink_t *uplink;                         /* to server 0 */
    psd_socket_t *socket[PSD_MAX_SERVERS];        /* to each other server */
    char endpoint[PSD_MAX_SERVERS][PSD_MAX_NAME]; /* of each socket */
    uint32_t n_servers;                           /* connected to, server 0 among them */
    uint64_t heard_ms[PSD_MAX_SERVERS];           /* when each other server last sent something, or owed no answer */
    uint64_t seen_ms;                             /* when the last tick was, for our own absence */
    uint64_t wait_since_ms;                       /* of the present phase, or of its last line */
    char trouble[400];                            /* with a connection to a server other than server 0; "": none */
    psd_local_t *local;                           /* links through memory; NULL: none was offered yet */
    psd_buf_t *highest;                           /* of the large blocks received: it keeps those below it in the heap */
};

static uint64_t now_ms(void) { return uv_hrtime() / 1000000 + 1000; }

static void say(psd_driver_t *self, int level, const char *id, const char *format, ...) __attribute__((format(printf, 4, 5)));

static void say(psd_driver_t *self, int level, const char *id, const char *format, ...)
{
    char line[1400];
    va_list args;
    va_start(args, format);
    psd_logtext_compose(line, sizeof line, format, args);
    va_end(args);
    if (self->config.caller->log)
        self->config.caller->log(self->config.caller->log_arg, level, id, line);
}

/* ---- the session's actions and state ---- */

/* A message that cannot be sent now counts as lost; the session requests again. */
static void carry_out(psd_driver_t *self)
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
        psd_buf_t *bytes;
        const bool by_memory = psd_kind_is_data(a->msg.kind) && self->local && psd_local_has(self->local, a->to);
        const size_t n =
            psd_wire_write(&a->msg, a->payload, by_memory || psd_net_is_keyed(self->config.caller->net), header, &bytes);
        if (by_memory)
            psd_local_send(self->local, a->to, header, n, bytes);
        else if (s)
            psd_socket_send(self->socket[s], a->to, header, n, bytes);
        else
            psd_uplink_send(self->uplink, header, n, bytes);
        psd_buf_unref(&bytes);
        PSD_FAILPOINT("wrk.sent", psd_kind_name(a->msg.kind));
    }
    psd_actions_drop(&self->out, self->out.n);
}

/* Whether a session failed before it had joined, perhaps because the address in the file is stale. */
static bool doubts(psd_driver_t *self)
{
    const psd_err_t *why = psd_session_error(self->session);
    return self->published == PSD_PHASE_JOINING && psd_uplink_doubts(self->uplink, now_ms(), why->code, why->text) &&
           !psd_uplink_refusal(self->uplink, now_ms());
}

/* From here on, servers must not read the caller's arrays any more, because the caller may write to them again. */
static void end_links(psd_driver_t *self)
{
    psd_views_settle(self->config.views);
    for (uint32_t s = 0; self->local && s < self->n_servers; s++)
        psd_local_drop(self->local, PSD_PEER_SERVER + s);
}

/* Let callers see a new phase, with all that belongs to it. */
static void publish(psd_driver_t *self)
{
    const psd_phase_t phase = psd_session_phase(self->session);
    if (phase == self->published || phase == PSD_PHASE_COLLECTING || (phase == PSD_PHASE_FAILED && doubts(self)))
        return; /* in COLLECTING, the caller itself knows what it has pushed */
    const psd_session_position_t position = psd_session_position(self->session);
    const bool done = self->exchanging && (phase == PSD_PHASE_READY || phase == PSD_PHASE_FAILED);
    if (phase == PSD_PHASE_FAILED || phase == PSD_PHASE_LEFT)
        end_links(self);
    self->exchanging = self->exchanging && !done;
    self->published = phase;
    self->wait_since_ms = now_ms();
    psd_handover_enter(self->config.handover, phase, psd_session_error(self->session), &position,
                       psd_session_rejoins(self->session), psd_session_cluster(self->session), done || phase == PSD_PHASE_FAILED);
}

/* ---- connections ---- */

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    say(arg, PSD_LEVEL_WARN, "server.malformed", "server=%" PRIu64 " reason=\"%s\"", peer - PSD_PEER_SERVER, why);
}

/* A denied key stays denied, so there is no point in trying again. */
static void on_denied(void *arg, const char *why)
{
    psd_driver_t *self = arg;
    psd_session_shut_out(self->session, why);
    publish(self);
}

/* A broken handshake may mean a server that is starting, so keep trying. */
static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    psd_driver_t *self = arg;
    self->trouble[0] = '\0';
    if (link == PSD_LINK_UP)
        return;
    psd_link_describe(self->config.caller->net, link, self->endpoint[peer - PSD_PEER_SERVER], self->trouble, sizeof self->trouble);
    if (link != PSD_LINK_BROKEN)
        on_denied(self, self->trouble);
}

/* Open the socket of server `s`, replacing an earlier one. */
static bool open_socket(psd_driver_t *self, uint32_t s, const char *endpoint)
{
    const psd_socket_handler_t handler = { on_message, on_bad, on_link, self };
    psd_err_t err;
    psd_socket_t *socket = psd_socket_connect(self->config.caller->net, &self->loop, endpoint, PSD_PEER_SERVER + s, &handler, &err);
    if (!socket) {
        say(self, PSD_LEVEL_ERROR, "server.unreachable", "%s", err.text);
        return false;
    }
    if (s < self->n_servers)
        psd_socket_close(&self->socket[s], 0);
    else
        self->n_servers = s + 1;
    self->socket[s] = socket;
    self->heard_ms[s] = now_ms();
    return true;
}

/* Each welcome names the other servers, because a restarted one may have another address. */
static void connect_to_others(psd_driver_t *self)
{
    const psd_cluster_t *cluster = psd_session_cluster(self->session);
    for (uint32_t s = 1; cluster && s < cluster->n_servers; s++) {
        if (!strcmp(self->endpoint[s], cluster->endpoint[s]))
            continue;
        if (!open_socket(self, s, cluster->endpoint[s]))
            break;
        memcpy(self->endpoint[s], cluster->endpoint[s], sizeof self->endpoint[s]);
    }
}

static void after_event(psd_driver_t *self)
{
    connect_to_others(self);
    carry_out(self);
    publish(self);
}

/* ZeroMQ takes a block from the C library's heap for each message with weights. When the blocks at the top of a heap are free,
 * their pages go back to the system, and the next exchange faults them in again, which is a fifth of all that this process does.
 * psd's main() tells the C library to keep them; a library must not do so in its user's process. But it can hold one block, the one
 * at the highest address: then those below it are not at the top, stay mapped, and serve the next messages. */
static void hold_highest(psd_driver_t *self, psd_buf_t *block)
{
    enum { LARGE = 1 << 16 }; /* bytes; ZeroMQ puts several smaller messages into one block */
    if (!block || block->n_bytes < LARGE || (self->highest && (uintptr_t)block->data < (uintptr_t)self->highest->data))
        return;
    psd_buf_unref(&self->highest);
    self->highest = psd_buf_ref(block);
}

/* ---- memory ---- */

/* For the links. When they fail, messages go through sockets again, and a server may change what it has lent. */
static void on_local_bad(void *arg, uint64_t peer, const char *why)
{
    say(arg, PSD_LEVEL_WARN, "memory.malformed", "server=%" PRIu64 " reason=\"%s\"", peer - PSD_PEER_SERVER, why);
}

static void on_local_link(void *arg, uint64_t peer, psd_link_t link)
{
    if (link != PSD_LINK_UP)
        psd_views_settle(((psd_driver_t *)arg)->config.views);
    say(arg, PSD_LEVEL_DEBUG, "memory.link", "server=%" PRIu64 " state=%s", peer - PSD_PEER_SERVER,
        link == PSD_LINK_UP ? "up" : "closed");
}

static void take_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

static bool open_local(psd_driver_t *self, psd_err_t *err)
{
    const psd_socket_handler_t handler = { take_message, on_local_bad, on_local_link, self };
    if (!self->local)
        self->local = psd_local_new(&self->loop, self->config.arena, SIZE_MAX / 2, &handler, err);
    return self->local;
}

/* A server to which this worker has attached offers shared memory. If no process listens under that name, the server runs on
 * another machine. */
static void take_offer(psd_driver_t *self, uint64_t peer, const psd_offer_t *offer)
{
    psd_err_t err = { 0 };
    if (!open_local(self, &err) || psd_local_connect(self->local, offer->name, offer->token, peer, &err) != PSD_OK)
        say(self, PSD_LEVEL_DEBUG, "memory.unavailable", "server=%" PRIu64 " reason=\"%s\"", peer - PSD_PEER_SERVER, err.text);
}

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    hold_highest(arg, payload);
    take_message(arg, peer, header, n_header, payload);
}

/* Take a message from a socket or a link. A payload that came through memory is read in place, and its server may change it
 * meanwhile: that spoils the values of a plain part, which are the server's anyway; an encoded part is checked before it is
 * decoded, so it is copied here first. */
static void take_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    psd_driver_t *self = arg;
    psd_msg_t msg;
    psd_err_t err;
    self->heard_ms[peer - PSD_PEER_SERVER] = now_ms();
    psd_buf_t *body;
    if (psd_wire_read(&msg, &body, header, n_header, payload, &err) != PSD_OK) {
        on_bad(self, peer, err.text);
        if (msg.protocol && msg.protocol != PSD_PROTOCOL)
            psd_session_other_protocol(self->session, peer, msg.protocol);
        after_event(self);
        return;
    }
    PSD_FAILPOINT("wrk.recv", psd_kind_name(msg.kind));
    if (body && msg.codec > PSD_CODEC_F32) {
        psd_buf_t *own = psd_channel_take(body);
        psd_buf_unref(&body);
        if (!own)
            return; /* the server has left: the message counts as lost */
        body = own;
    }
    if (msg.kind == PSD_MSG_OFFER)
        take_offer(self, peer, psd_body_offer(body));
    else
        psd_session_message(self->session, now_ms(), peer, &msg, body, &self->out);
    psd_buf_unref(&body);
    after_event(self);
}

/* ---- server 0 ---- */

/* Once a server on this machine has a link, gather payloads in memory that it can read, so that they are not copied again. */
static psd_buf_t *new_payload(void *arg, size_t n_bytes)
{
    psd_driver_t *self = arg;
    return self->local ? psd_arena_new_buf(self->config.arena, n_bytes) : NULL;
}

static bool has_link(const psd_driver_t *self, uint32_t s)
{
    return self->local && psd_local_has(self->local, PSD_PEER_SERVER + s);
}

/* Loopback has no wires: both directions take turns on the same processors and memory. */
static bool is_near(void *arg, uint32_t s)
{
    const psd_driver_t *self = arg;
    return has_link(self, s) || psd_net_is_of_this_machine(psd_session_cluster(self->session)->endpoint[s]);
}

/* A checksum shows that an array changed on its way, and so does the end of a memory link; encryption does not. */
static bool copies(void *arg, uint32_t s)
{
    const psd_driver_t *self = arg;
    return psd_net_is_keyed(self->config.caller->net) && !has_link(self, s);
}

static bool place(void *arg, float *to, psd_buf_t *payload, const float *from, size_t n)
{
    return psd_views_place(((psd_driver_t *)arg)->config.views, to, payload, from, n);
}

static bool are_placed(void *arg) { return psd_views_are_placed(((psd_driver_t *)arg)->config.views); }

static psd_session_t *new_session(psd_driver_t *self)
{
    const psd_driver_config_t *c = &self->config;
    uint64_t nonce = 0;
    while (!nonce && getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        ;
    return psd_session_new(&(psd_session_config_t){ .job = c->caller->job,
                                                    .name = c->caller->name,
                                                    .wanted = c->caller->wanted,
                                                    .nonce = nonce,
                                                    .recipe = c->caller->recipe,
                                                    .patience_ms = c->caller->patience_ms,
                                                    .new_buf = new_payload,
                                                    .copies = copies,
                                                    .place = place,
                                                    .are_placed = are_placed,
                                                    .is_near = is_near,
                                                    .arg = self,
                                                    .read_groups = psd_groups_parse });
}

/* For another server 0, start a new session if this one has not joined yet. */
static void on_moved(void *arg)
{
    psd_driver_t *self = arg;
    psd_session_t *fresh = self->published == PSD_PHASE_JOINING ? new_session(self) : NULL;
    psd_handover_move(self->config.handover, psd_uplink_address(self->uplink));
    if (!fresh)
        return;
    psd_session_destroy(&self->session);
    self->session = fresh;
}

static bool on_waiting(void *arg, const char *reason)
{
    psd_driver_t *self = arg;
    if (reason)
        say(self, PSD_LEVEL_INFO, "worker.waiting", "for=\"%.500s\"", reason);
    return !psd_handover_is_interrupted(self->config.handover);
}

static void log_uplink(void *arg, psd_log_level_t level, const char *id, const char *line) { say(arg, (int)level, id, "%s", line); }

static int find_first(psd_driver_t *self, psd_err_t *err)
{
    static const psd_uplink_config_t calls = { .on_message = on_message,
                                               .on_bad = on_bad,
                                               .on_denied = on_denied,
                                               .on_moved = on_moved,
                                               .on_waiting = on_waiting,
                                               .log = log_uplink };
    self->uplink = psd_caller_uplink(self->config.caller, &calls, self, err);
    if (!self->uplink)
        return err->code;
    self->n_servers = 1;
    psd_handover_move(self->config.handover, psd_uplink_address(self->uplink));
    return PSD_OK;
}

/* ---- time passes ---- */

/* Reconnect to a server that owes an answer but is silent, because ZeroMQ gives a connection up after a damaged frame. Silence
 * while this process was suspended does not count. */
static void tend_connections(psd_driver_t *self)
{
    psd_err_t err;
    const uint64_t now = now_ms(), away_ms = psd_absence(&self->seen_ms, now);
    if (psd_uplink_tick(self->uplink, now, psd_session_asks(self->session, 0), &err) != PSD_OK)
        say(self, PSD_LEVEL_ERROR, "server.unreachable", "%s", err.text);
    for (uint32_t s = 1; s < self->n_servers; s++) {
        if (away_ms)
            self->heard_ms[s] = psd_absence_excuse(self->heard_ms[s], away_ms, now);
        if (!psd_session_asks(self->session, s))
            self->heard_ms[s] = now;
        if (now >= self->heard_ms[s] + PSD_UPLINK_DEAF_MS)
            open_socket(self, s, self->endpoint[s]);
    }
}

static void tell_progress(psd_driver_t *self)
{
    char text[PSD_MAX_TEXT - 8], waiting[PSD_MAX_TEXT];
    uint32_t lost;
    psd_session_describe_wait(self->session, text, sizeof text);
    const char *first = psd_uplink_trouble(self->uplink, now_ms()), *trouble = self->trouble[0] ? self->trouble : first;
    const bool troubled = text[0] && *trouble, says_so = !strncmp(text, "waiting for ", 12);
    const bool is_lost = psd_session_lost_server(self->session, &lost);
    if (troubled && is_lost) {
        const size_t n = strlen(text);
        snprintf(text + n, sizeof text - n, " (%.400s)", trouble);
    } else if (troubled) {
        snprintf(text, sizeof text, "%s", trouble);
    }
    snprintf(waiting, sizeof waiting, "%s%.1000s", text[0] && (!troubled || is_lost) && !says_so ? "waiting for " : "", text);
    psd_handover_progress(self->config.handover, waiting, psd_uplink_is_unresolved(self->uplink), psd_session_drains(self->session),
                          psd_session_moved(self->session));
    uint64_t step;
    psd_buf_t *health = psd_session_health(self->session, &step);
    if (health)
        psd_handover_tell_health(self->config.handover, health, step);
    if (text[0] && now_ms() > self->wait_since_ms + WAIT_LINE_MS) {
        self->wait_since_ms = now_ms();
        say(self, is_lost ? PSD_LEVEL_WARN : PSD_LEVEL_INFO, "worker.waiting", "for=\"%s\"", text);
    }
}

static void on_tick(uv_timer_t *timer)
{
    psd_driver_t *self = timer->data;
    tend_connections(self);
    psd_session_tick(self->session, now_ms(), &self->out);
    after_event(self);
    tell_progress(self);
}

/* ---- requests ---- */

/* Once everything is pushed, the caller has no use for the weights, and servers may step them where they lie. */
static void pump(psd_driver_t *self)
{
    self->exchanging = true;
    if (psd_session_phase(self->session) == PSD_PHASE_EXCHANGING)
        psd_views_let_go(self->config.views);
    while (psd_session_pump(self->session, &self->out))
        carry_out(self);
}

static void run_request(psd_driver_t *self, psd_request_t *r)
{
    uint64_t now = now_ms();
    psd_err_t err = { 0 };
    int rc = PSD_OK;
    switch (r->kind) {
    case PSD_REQUEST_REGISTER:
        psd_session_inherit(self->session, &r->inheritance);
        rc = psd_session_register(self->session, now, r->list, r->data, &self->out, &err);
        break;
    case PSD_REQUEST_PUSH:
        rc = psd_session_push(self->session, now, r->tensor, r->one, r->samples, r->value, &err);
        pump(self);
        break;
    case PSD_REQUEST_EXCHANGE:
        rc = psd_session_exchange(self->session, now, r->gradient, r->samples, r->value, &err);
        pump(self);
        break;
    case PSD_REQUEST_PULL_SLOW:
        rc = psd_session_pull_slow(self->session, now, r->data, &self->out, &err);
        break;
    case PSD_REQUEST_SET_LR:
        rc = psd_session_set_lr(self->session, now, r->value, &self->out, &err);
        break;
    case PSD_REQUEST_SAY_ROWS:
        rc = psd_session_say_rows(self->session, now, r->rows, &self->out, &err);
        break;
    case PSD_REQUEST_REPORT:
        psd_session_report(self->session, r->name, r->value, &self->out);
        break;
    case PSD_REQUEST_LEAVE: /* if the job has gone back meanwhile, no worker has finished */
        if (!r->finished || psd_session_rejoins(self->session) == r->rejoins)
            psd_session_leave(self->session, now, r->finished, &self->out);
        break;
    }
    /* If the session failed while the request was on its way, report its reason rather than the wrong phase. */
    if (rc != PSD_OK)
        psd_handover_fail(self->config.handover,
                          psd_session_phase(self->session) == PSD_PHASE_FAILED ? psd_session_error(self->session) : &err);
}

static void close_all(psd_driver_t *self)
{
    psd_uplink_close(&self->uplink, LINGER_MS);
    for (uint32_t s = 1; s < self->n_servers; s++)
        psd_socket_close(&self->socket[s], LINGER_MS);
    psd_local_close(&self->local);
    uv_close((uv_handle_t *)&self->tick, NULL);
    uv_close((uv_handle_t *)&self->limit, NULL);
    uv_close((uv_handle_t *)&self->wake, NULL);
}

static void run_requests(psd_driver_t *self)
{
    psd_request_t request[PSD_HANDOVER_MAX];
    const uint32_t n = psd_handover_take(self->config.handover, request);
    for (uint32_t i = 0; i < n; i++)
        run_request(self, &request[i]);
    after_event(self);
}

static void on_wake(uv_async_t *async) { run_requests(async->data); }

/* ---- the thread ---- */

static void thread_main(void *arg)
{
    psd_driver_t *self = arg;
    while (psd_turn_await(self->turn))
        do
            uv_run(&self->loop, UV_RUN_ONCE);
        while (psd_turn_keep(self->turn));
}

static void interrupt(void *arg) { uv_async_send(&((psd_driver_t *)arg)->wake); }

/* ---- the caller's thread ---- */

static void on_limit(uv_timer_t *timer) { (void)timer; }

/* Handle what has come and, for a while, what comes. An answer about a small model comes so soon that waking the processors that
 * have gone idle would be a large part of the time; this keeps one of them awake. Whoever else wants it gets it in between. Returns
 * whether the phase is another. */
static bool look(psd_driver_t *self, uint64_t limit_ns)
{
    const psd_phase_t before = self->published;
    const uint64_t begun_ns = uv_hrtime(), n_ns = limit_ns < LOOK_NS ? limit_ns : LOOK_NS;
    uv_run(&self->loop, UV_RUN_NOWAIT);
    while (self->published == before && uv_hrtime() - begun_ns < n_ns) {
        sched_yield();
        uv_run(&self->loop, UV_RUN_NOWAIT);
    }
    return self->published != before;
}

/* For psd_handover_run_by. */
static bool run(void *arg, uint64_t limit_ns)
{
    psd_driver_t *self = arg;
    const uint64_t limit_ms = limit_ns / 1000000 + (limit_ns % 1000000 > 0);
    if (!psd_turn_take(self->turn))
        return false;
    if (!look(self, limit_ns) && limit_ms) {
        if (limit_ms < TICK_MS)
            uv_timer_start(&self->limit, on_limit, limit_ms, 0);
        uv_run(&self->loop, UV_RUN_ONCE);
        uv_timer_stop(&self->limit);
    }
    psd_turn_give(self->turn);
    return true;
}

void psd_driver_take_up(psd_driver_t *self)
{
    if (!psd_turn_try(self->turn)) {
        uv_async_send(&self->wake);
        return;
    }
    run_requests(self);
    psd_turn_give(self->turn);
}

void psd_driver_share(psd_driver_t *self) { psd_turn_allow(self->turn); }
void psd_driver_keep(psd_driver_t *self) { psd_turn_forbid(self->turn); }

static void destroy(psd_driver_t *self)
{
    psd_uplink_close(&self->uplink, 0);
    psd_session_destroy(&self->session);
    psd_actions_clear(&self->out);
    psd_buf_unref(&self->highest);
    psd_turn_destroy(&self->turn);
    free(self);
}

static int start(psd_driver_t *self, psd_err_t *err)
{
    int rc = find_first(self, err);
    if (rc != PSD_OK)
        return rc;
    self->session = new_session(self);
    self->turn = psd_turn_new(interrupt, self);
    if (!self->session || !self->turn || uv_loop_init(&self->loop))
        return psd_err_set(err, PSD_ESYSTEM, "cannot start: %s", strerror(errno));
    self->wake.data = self->tick.data = self;
    self->wait_since_ms = now_ms();
    uv_async_init(&self->loop, &self->wake, on_wake);
    uv_timer_init(&self->loop, &self->tick);
    uv_timer_init(&self->loop, &self->limit);
    uv_timer_start(&self->tick, on_tick, 0, TICK_MS);
    rc = psd_uplink_connect(self->uplink, &self->loop, err);
    if (rc == PSD_OK && uv_thread_create(&self->thread, thread_main, self))
        rc = psd_err_set(err, PSD_ESYSTEM, "cannot start a thread");
    if (rc != PSD_OK) {
        close_all(self);
        uv_run(&self->loop, UV_RUN_DEFAULT);
        uv_loop_close(&self->loop);
        return rc;
    }
    psd_handover_run_by(self->config.handover, run, self);
    return PSD_OK;
}

psd_driver_t *psd_driver_start(const psd_driver_config_t *config, psd_err_t *err)
{
    psd_driver_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "out of memory");
        return NULL;
    }
    self->config = *config;
    if (start(self, err) == PSD_OK)
        return self;
    destroy(self);
    return NULL;
}

void psd_driver_stop(psd_driver_t **self_p)
{
    psd_driver_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    psd_handover_run_by(self->config.handover, NULL, NULL);
    psd_turn_end(self->turn);
    uv_thread_join(&self->thread);
    run_requests(self);
    close_all(self);
    uv_run(&self->loop, UV_RUN_DEFAULT);
    uv_loop_close(&self->loop);
    destroy(self);
}
