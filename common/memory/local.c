#include "common/memory/local.h"

#include <assert.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/array.h"

/* At most DRAIN messages of a link are read per turn of the loop. A stranger that has sent nothing within HELLO_MS is disconnected;
 * while there are STRANGERS of them, no more are accepted. */
enum { DRAIN = 64, HELLO_MS = 3000, STRANGERS = 32, MOST_EXPECTED = 65536, TICK_MS = 100, STARVED_MS = 5 };

/* How long to poll before a sleep. A wake-up costs about ten microseconds, so polling for much longer does not pay. */
static const uint64_t MOST_SPIN_NS = 50000, LEAST_SPIN_NS = 4000;
/* A yield that takes this long has let other threads run: leave the processor to them for a while, and for twice as long each time,
 * until polling has paid off again. A single slow yield may be chance. */
static const uint64_t BUSY_NS = 20000, LEAST_LEAVE_NS = 500000, MOST_LEAVE_NS = 64000000;

/* The handshake: a hello with the token and a board; a welcome with a board. */
enum { HELLO = 'H', WELCOME = 'W', VERSION = 1 };
typedef struct hello {
    uint8_t kind, version;
    uint8_t token[PSD_TOKEN_BYTES]; /* zero in a welcome */
} hello_t;

/* PARTED: this side has ended it, but the peer may still read payloads; ENDING: its end is being reported. */
typedef enum stage { STRANGER, KNOCKING, UP, PARTED, ENDING, GONE } stage_t;

typedef struct link {
    psd_local_t *hub; /* NULL: the hub is closed */
    uv_poll_t poll;
    stage_t stage;
    uint64_t peer;
    int fd;                 /* until UP; then the channel owns it */
    psd_segment_t board;    /* of this side, while KNOCKING */
    psd_channel_t *channel; /* while UP, PARTED or ENDING */
    uint64_t until_ms;      /* deadline while STRANGER or KNOCKING */
    bool is_closed;         /* its handle is closed, when GONE */
} link_t;

typedef struct expected {
    uint64_t peer;
    uint8_t token[PSD_TOKEN_BYTES];
} expected_t;

struct psd_local {
    uv_loop_t *loop;
    psd_arena_t *arena;
    size_t most_bytes;
    psd_socket_handler_t handler;
    psd_local_counts_t counts;
    link_t **link;
    size_t n_links, link_room, n_strangers;
    expected_t *expected;
    size_t n_expected, expected_room;
    int listener; /* -1: none */
    bool listens; /* the loop polls it */
    uv_poll_t door;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle; /* keeps the loop from sleeping while there is something to do */
    uv_timer_t timer;
    uint64_t timer_ms; /* its period; 0: stopped */
    size_t open_handles;
    uint64_t spin_ns, slept_at_ns, leave_ns, leave_until_ns;
    bool is_asleep;
};

/* ---- links ---- */

static void on_link_closed(uv_handle_t *handle)
{
    link_t *link = handle->data;
    link->is_closed = true;
    if (!link->hub)
        free(link);
}

static void take_down(link_t *link, stage_t stage)
{
    link->hub->n_strangers -= link->stage == STRANGER;
    link->hub->counts.up -= link->stage == UP;
    link->stage = stage;
}

/* The loop forgets the descriptor before it is closed, because its number may be reused at once. The link stays in the array until
 * a sweep, because a caller may be iterating over the array. */
static void let_go(link_t *link)
{
    take_down(link, GONE);
    uv_close((uv_handle_t *)&link->poll, on_link_closed);
    if (link->channel)
        psd_channel_close(&link->channel);
    else if (link->fd >= 0)
        close(link->fd);
    psd_segment_close(&link->board);
}

/* This side ends a link whose peer lives. Only the side that listens lends what it goes on using: the other's payloads belong to
 * callers, who may write to them as soon as the link is dropped. */
static void part(link_t *link)
{
    if (link->stage == UP && link->hub->listener >= 0 && psd_channel_part(link->channel))
        take_down(link, PARTED);
    else
        let_go(link);
}

static void sweep(psd_local_t *self)
{
    size_t n = 0;
    for (size_t i = 0; i < self->n_links; i++) {
        if (self->link[i]->stage == GONE && self->link[i]->is_closed)
            free(self->link[i]);
        else
            self->link[n++] = self->link[i];
    }
    self->n_links = n;
}

static link_t *find(const psd_local_t *self, uint64_t peer)
{
    for (size_t i = 0; i < self->n_links; i++)
        if (self->link[i]->peer == peer && (self->link[i]->stage == UP || self->link[i]->stage == KNOCKING))
            return self->link[i];
    return NULL;
}

/* End a link and report it to the owner. `why`: NULL when the peer is gone; PSD_EPROTO when it lied; otherwise the fault is on this
 * side. */
static void end(link_t *link, const psd_err_t *why)
{
    psd_local_t *self = link->hub;
    const stage_t stage = link->stage;
    take_down(link, ENDING);
    self->counts.refused += stage == STRANGER;
    if (stage == STRANGER) {
        let_go(link);
        return;
    }
    if (why && why->code == PSD_EPROTO) {
        self->counts.lies++;
        self->handler.on_bad(self->handler.arg, link->peer, why->text);
    }
    if (self->handler.on_link)
        self->handler.on_link(self->handler.arg, link->peer, PSD_LINK_BROKEN);
    let_go(link);
}

/* A newer link with the same peer takes the place of this one. */
static void replace(link_t *link)
{
    const psd_local_t *self = link->hub;
    const uint64_t peer = link->peer;
    if (self->listener < 0) {
        end(link, NULL);
        return;
    }
    part(link);
    if (self->handler.on_link)
        self->handler.on_link(self->handler.arg, peer, PSD_LINK_BROKEN);
}

static void bring_up(link_t *link, psd_segment_t *mine, psd_segment_t *theirs)
{
    psd_local_t *self = link->hub;
    psd_err_t err;
    link->channel = psd_channel_new(link->fd, mine, theirs, self->arena, self->most_bytes, &err);
    if (!link->channel) {
        link->fd = -1;
        end(link, &err);
        return;
    }
    self->n_strangers -= link->stage == STRANGER;
    link->stage = UP;
    self->counts.up++;
    if (self->handler.on_link)
        self->handler.on_link(self->handler.arg, link->peer, PSD_LINK_UP);
}

/* ---- the handshake ---- */

/* Compares all tokens, so that the time does not reveal which one matched. */
static expected_t *find_expected(psd_local_t *self, const uint8_t token[PSD_TOKEN_BYTES])
{
    expected_t *found = NULL;
    for (size_t i = 0; i < self->n_expected; i++)
        if (psd_token_is(self->expected[i].token, token))
            found = &self->expected[i];
    return found;
}

static void forget(psd_local_t *self, uint64_t peer)
{
    for (size_t i = 0; i < self->n_expected; i++)
        if (self->expected[i].peer == peer) {
            self->expected[i] = self->expected[--self->n_expected];
            return;
        }
}

/* A stranger's hello: it becomes the peer for which its token was drawn. */
static void admit(link_t *link, const hello_t *hello, int board)
{
    psd_local_t *self = link->hub;
    psd_segment_t mine = PSD_NO_SEGMENT, theirs = PSD_NO_SEGMENT;
    const hello_t welcome = { .kind = WELCOME, .version = VERSION };
    expected_t *expected = find_expected(self, hello->token);
    if (!expected) {
        close(board);
        end(link, NULL);
        return;
    }
    const uint64_t peer = expected->peer;
    *expected = self->expected[--self->n_expected];
    if (psd_segment_map(&theirs, board, psd_board_bytes(), NULL) != PSD_OK ||
        psd_segment_make(&mine, psd_board_bytes(), NULL) != PSD_OK ||
        psd_handoff_send(link->fd, &welcome, sizeof welcome, mine.fd) != PSD_OK) {
        psd_segment_close(&theirs);
        psd_segment_close(&mine);
        end(link, NULL);
        return;
    }
    close(mine.fd);
    mine.fd = -1;
    link_t *older = find(self, peer);
    if (older)
        replace(older);
    link->peer = peer;
    bring_up(link, &mine, &theirs);
}

/* The answer to this side's hello. */
static void enter(link_t *link, int board)
{
    psd_segment_t theirs;
    psd_err_t err;
    if (psd_segment_map(&theirs, board, psd_board_bytes(), &err) != PSD_OK) {
        end(link, &err);
        return;
    }
    close(link->board.fd);
    link->board.fd = -1;
    bring_up(link, &link->board, &theirs);
}

static void read_handshake(link_t *link)
{
    uint8_t packet[PSD_HANDOFF_PACKET];
    hello_t hello;
    psd_err_t err;
    int board = -1;
    const int n = psd_handoff_receive(link->fd, packet, &board, &err);
    if (n == PSD_EAGAIN)
        return;
    if (n < 0) {
        end(link, n == PSD_EUNAVAILABLE ? NULL : &err);
        return;
    }
    if (n == (int)sizeof hello)
        memcpy(&hello, packet, sizeof hello);
    if (n != (int)sizeof hello || hello.kind != (link->stage == STRANGER ? HELLO : WELCOME) || hello.version != VERSION ||
        board < 0) {
        if (board >= 0)
            close(board);
        psd_err_set(&err, PSD_EPROTO, "a handshake that is not psd's, or of another version");
        end(link, &err);
        return;
    }
    if (link->stage == STRANGER)
        admit(link, &hello, board);
    else
        enter(link, board);
}

/* ---- up ---- */

static int deliver(link_t *link, int most, psd_err_t *err)
{
    psd_local_t *self = link->hub;
    psd_post_t post;
    psd_buf_t *payload;
    int rc = PSD_OK;
    for (int i = 0; i < most && link->stage == UP && (rc = psd_channel_receive(link->channel, &post, &payload, err)) == 1; i++) {
        self->handler.on_message(self->handler.arg, link->peer, post.header, post.n_header, payload);
        psd_buf_unref(&payload);
    }
    return rc < 0 ? rc : PSD_OK;
}

/* Deliver the messages that the peer sent before it left; there are at most as many as a ring holds. */
static void on_packets(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    link_t *link = poll->data;
    psd_err_t err;
    if (link->stage == STRANGER || link->stage == KNOCKING) {
        read_handshake(link);
    } else if (link->stage == UP) {
        const int rc = psd_channel_listen(link->channel, &err);
        if (rc == PSD_OK)
            return;
        const bool failed = rc != PSD_EUNAVAILABLE || deliver(link, PSD_BOARD_SLOTS, &err) != PSD_OK;
        if (link->stage == UP)
            end(link, failed ? &err : NULL);
    } else if (link->stage == PARTED && psd_channel_has_ended(link->channel)) {
        let_go(link);
    }
}

static void tend(link_t *link)
{
    psd_err_t err;
    if (link->stage == UP && (psd_channel_tend(link->channel, &err) != PSD_OK || deliver(link, DRAIN, &err) != PSD_OK) &&
        link->stage == UP)
        end(link, &err);
}

/* ---- the door ---- */

static link_t *add(psd_local_t *self, int fd, stage_t stage, uint64_t peer)
{
    link_t *link = calloc(1, sizeof *link);
    if (!link || psd_array_grow(&self->link, &self->link_room, self->n_links + 1, sizeof *self->link, NULL) != PSD_OK ||
        uv_poll_init(self->loop, &link->poll, fd)) {
        free(link);
        return NULL;
    }
    link->hub = self;
    link->stage = stage;
    link->peer = peer;
    link->fd = fd;
    link->board = PSD_NO_SEGMENT;
    link->until_ms = uv_now(self->loop) + HELLO_MS;
    link->poll.data = link;
    self->n_strangers += stage == STRANGER;
    self->link[self->n_links++] = link;
    uv_poll_start(&link->poll, UV_READABLE, on_packets);
    return link;
}

static void stop_listening(psd_local_t *self)
{
    uv_poll_stop(&self->door);
    self->listens = false;
}

/* Without a free descriptor, the listener would stay readable and keep the loop busy, so stop polling it, and try again by the
 * timer. */
static void on_knock(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    psd_local_t *self = poll->data;
    for (int i = 0; i < STRANGERS; i++) {
        if (self->n_strangers == STRANGERS) {
            stop_listening(self);
            return;
        }
        const int fd = psd_handoff_accept(self->listener, NULL);
        if (fd == PSD_EAGAIN)
            return;
        if (fd == PSD_EAUTH) {
            self->counts.refused++;
        } else if (fd < 0) {
            stop_listening(self);
            return;
        } else if (!add(self, fd, STRANGER, 0)) {
            close(fd);
        }
    }
}

static void on_timer(uv_timer_t *timer)
{
    psd_local_t *self = timer->data;
    const uint64_t now_ms = uv_now(self->loop);
    for (size_t i = 0; i < self->n_links; i++) {
        link_t *link = self->link[i];
        if ((link->stage == STRANGER || link->stage == KNOCKING) && now_ms >= link->until_ms)
            end(link, NULL);
    }
    if (self->listener >= 0 && !self->listens && self->n_strangers < STRANGERS) {
        uv_poll_start(&self->door, UV_READABLE, on_knock);
        self->listens = true;
    }
}

/* ---- the loop ---- */

static bool has_news(const psd_local_t *self)
{
    for (size_t i = 0; i < self->n_links; i++)
        if (self->link[i]->stage == UP && psd_channel_has_news(self->link[i]->channel))
            return true;
    return false;
}

/* Poll for messages, and for the other events of the loop. */
static void spin(psd_local_t *self)
{
    const uint64_t from_ns = uv_hrtime();
    if (!self->spin_ns || from_ns < self->leave_until_ns)
        return;
    struct pollfd others = { .fd = uv_backend_fd(self->loop), .events = POLLIN };
    for (uint64_t now_ns = from_ns, i = 1; now_ns - from_ns < self->spin_ns; i++) {
        if (has_news(self) || (i % 4 == 0 && poll(&others, 1, 0) > 0)) {
            self->leave_ns = self->leave_ns / 2 > LEAST_LEAVE_NS ? self->leave_ns / 2 : LEAST_LEAVE_NS;
            return;
        }
        sched_yield();
        const uint64_t then_ns = now_ns;
        now_ns = uv_hrtime();
        if (now_ns - then_ns > BUSY_NS) {
            self->leave_until_ns = now_ns + self->leave_ns;
            self->leave_ns = 2 * self->leave_ns < MOST_LEAVE_NS ? 2 * self->leave_ns : MOST_LEAVE_NS;
            break;
        }
    }
    self->spin_ns = self->spin_ns / 2 >= LEAST_SPIN_NS ? self->spin_ns / 2 : 0;
}

static void sleep_now(psd_local_t *self)
{
    for (size_t i = 0; i < self->n_links; i++)
        if (self->link[i]->stage == UP)
            psd_channel_sleep(self->link[i]->channel);
    self->is_asleep = true;
    self->slept_at_ns = uv_hrtime();
}

/* If a message ended the sleep this soon, polling would have been faster, so poll for longer next time. */
static void rise(psd_local_t *self)
{
    for (size_t i = 0; i < self->n_links; i++)
        if (self->link[i]->stage == UP)
            psd_channel_rise(self->link[i]->channel);
    self->is_asleep = false;
    if (has_news(self) && uv_hrtime() - self->slept_at_ns < MOST_SPIN_NS)
        self->spin_ns = 2 * self->spin_ns < 2 * LEAST_SPIN_NS ? 2 * LEAST_SPIN_NS
                        : 2 * self->spin_ns > MOST_SPIN_NS    ? MOST_SPIN_NS
                                                              : 2 * self->spin_ns;
}

static void set_timer(psd_local_t *self)
{
    bool starved = false, waits = self->listener >= 0 && !self->listens;
    for (size_t i = 0; i < self->n_links; i++) {
        const link_t *link = self->link[i];
        starved |= link->stage == UP && psd_channel_is_starved(link->channel);
        waits |= link->stage == STRANGER || link->stage == KNOCKING;
    }
    const uint64_t ms = starved ? STARVED_MS : waits ? TICK_MS : 0;
    if (ms != self->timer_ms && ms)
        uv_timer_start(&self->timer, on_timer, ms, ms);
    else if (!ms)
        uv_timer_stop(&self->timer);
    self->timer_ms = ms;
}

static void on_idle(uv_idle_t *idle) { (void)idle; }

static void before_sleep(uv_prepare_t *prepare)
{
    psd_local_t *self = prepare->data;
    sweep(self);
    set_timer(self);
    uv_idle_stop(&self->idle);
    if (self->counts.up && !has_news(self) && uv_backend_timeout(self->loop))
        spin(self);
    /* Announce the sleep even if the loop does not seem about to sleep, because handlers that run before may change that. */
    if (!has_news(self))
        sleep_now(self);
    if (has_news(self))
        uv_idle_start(&self->idle, on_idle);
}

static void after_sleep(uv_check_t *check)
{
    psd_local_t *self = check->data;
    if (self->is_asleep)
        rise(self);
    for (size_t i = 0; i < self->n_links; i++)
        tend(self->link[i]);
}

/* ---- for the owner ---- */

psd_local_t *psd_local_new(uv_loop_t *loop, psd_arena_t *arena, size_t most_bytes, const psd_socket_handler_t *handler,
                           psd_err_t *err)
{
    psd_local_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for links in memory");
        return NULL;
    }
    *self = (psd_local_t){
        .loop = loop,
        .arena = arena,
        .most_bytes = most_bytes,
        .handler = *handler,
        .listener = -1,
        .spin_ns = MOST_SPIN_NS,
        .leave_ns = LEAST_LEAVE_NS,
    };
    uv_prepare_init(loop, &self->prepare);
    uv_check_init(loop, &self->check);
    uv_idle_init(loop, &self->idle);
    uv_timer_init(loop, &self->timer);
    self->open_handles = 4;
    self->prepare.data = self->check.data = self->idle.data = self->timer.data = self->door.data = self;
    uv_prepare_start(&self->prepare, before_sleep);
    uv_check_start(&self->check, after_sleep);
    return self;
}

int psd_local_listen(psd_local_t *self, char name[PSD_HANDOFF_NAME], psd_err_t *err)
{
    assert(self->listener < 0);
    const int fd = psd_handoff_listen(name, err);
    if (fd < 0)
        return fd;
    if (uv_poll_init(self->loop, &self->door, fd)) {
        close(fd);
        return psd_err_set(err, PSD_ESYSTEM, "cannot wait for processes of this machine");
    }
    self->listener = fd;
    self->open_handles++;
    uv_poll_start(&self->door, UV_READABLE, on_knock);
    self->listens = true;
    return PSD_OK;
}

int psd_local_expect(psd_local_t *self, uint64_t peer, uint8_t token[PSD_TOKEN_BYTES], psd_err_t *err)
{
    forget(self, peer);
    if (self->n_expected == MOST_EXPECTED)
        return psd_err_set(err, PSD_EAGAIN, "%d peers are expected already", MOST_EXPECTED);
    if (psd_array_grow(&self->expected, &self->expected_room, self->n_expected + 1, sizeof *self->expected, err) != PSD_OK)
        return PSD_ENOMEM;
    psd_token_draw(token);
    expected_t *expected = &self->expected[self->n_expected++];
    expected->peer = peer;
    memcpy(expected->token, token, PSD_TOKEN_BYTES);
    return PSD_OK;
}

int psd_local_connect(psd_local_t *self, const char *name, const uint8_t token[PSD_TOKEN_BYTES], uint64_t peer, psd_err_t *err)
{
    hello_t hello = { .kind = HELLO, .version = VERSION };
    psd_segment_t board;
    memcpy(hello.token, token, PSD_TOKEN_BYTES);
    const int fd = psd_handoff_connect(name, err);
    if (fd < 0)
        return fd;
    int rc = psd_segment_make(&board, psd_board_bytes(), err);
    if (rc == PSD_OK && psd_handoff_send(fd, &hello, sizeof hello, board.fd) != PSD_OK)
        rc = psd_err_set(err, PSD_EUNAVAILABLE, "the peer left before the handshake");
    link_t *older = rc == PSD_OK ? find(self, peer) : NULL;
    if (older)
        replace(older);
    link_t *link = rc == PSD_OK ? add(self, fd, KNOCKING, peer) : NULL;
    if (rc == PSD_OK && !link)
        rc = psd_err_set(err, PSD_ESYSTEM, "cannot wait for a process of this machine");
    if (rc != PSD_OK) {
        psd_segment_close(&board);
        close(fd);
        return rc;
    }
    link->board = board;
    return PSD_OK;
}

bool psd_local_has(const psd_local_t *self, uint64_t peer)
{
    const link_t *link = find(self, peer);
    return link && link->stage == UP;
}

/* The loop's next turn reports a peer that broke the rules. */
int psd_local_send(psd_local_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    link_t *link = find(self, peer);
    const int rc = link && link->stage == UP ? psd_channel_send(link->channel, header, n_header, payload) : PSD_EUNAVAILABLE;
    return rc == PSD_EPROTO ? PSD_EUNAVAILABLE : rc;
}

void psd_local_drop(psd_local_t *self, uint64_t peer)
{
    link_t *link = find(self, peer);
    forget(self, peer);
    if (link)
        part(link);
}

uint64_t psd_local_held(const psd_local_t *self, uint64_t peer)
{
    const link_t *link = find(self, peer);
    return link && link->stage == UP ? psd_channel_held(link->channel) : 0;
}

const psd_local_counts_t *psd_local_counts(const psd_local_t *self) { return &self->counts; }

static void on_closed(uv_handle_t *handle)
{
    psd_local_t *self = handle->data;
    if (--self->open_handles == 0)
        free(self);
}

void psd_local_close(psd_local_t **self_p)
{
    psd_local_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    for (size_t i = 0; i < self->n_links; i++) {
        link_t *link = self->link[i];
        if (link->stage != GONE)
            let_go(link);
        link->hub = NULL;
        if (link->is_closed)
            free(link);
    }
    free(self->link);
    free(self->expected);
    if (self->listener >= 0) {
        uv_close((uv_handle_t *)&self->door, on_closed);
        close(self->listener);
    }
    uv_close((uv_handle_t *)&self->prepare, on_closed);
    uv_close((uv_handle_t *)&self->check, on_closed);
    uv_close((uv_handle_t *)&self->idle, on_closed);
    uv_close((uv_handle_t *)&self->timer, on_closed);
}
