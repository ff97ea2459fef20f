#include "common/memory/channel.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/copy.h"
#include "common/memory/handoff.h"

/* Packets after the handshake: one byte to wake, or the next segment, with its descriptor. One turn of the loop reads at most
 * PACKETS. */
enum { WAKE = '!', SEGMENT = 'S', PACKETS = 64, ALIGN = 4 };

/* The peer's memory, and the payloads to release to the peer. Payloads hold a reference, and may outlive the channel. */
typedef struct lender {
    atomic_uint refs;
    pthread_mutex_t lock; /* guards the release of payloads: the next fields */
    int fd;               /* -1: the channel is closed, so there is no peer to wake */
    psd_boards_t boards;  /* the lock guards only `given`; the rest belongs to the channel */
    size_t n_held;        /* payloads */
    atomic_uint_fast64_t held_bytes;
    psd_segment_t mine, theirs; /* boards */
    psd_segment_t segment[PSD_ARENA_SEGMENTS];
    uint32_t n_segments;
    size_t room_bytes; /* bytes that may still be mapped */
} lender_t;

typedef struct view {
    psd_buf_t buf;
    lender_t *lender;
    uint32_t ticket;
} view_t;

/* A message that waits. */
typedef struct waiting {
    struct waiting *next;
    psd_buf_t *payload;
    size_t n_header;
    uint8_t header[];
} waiting_t;

struct psd_channel {
    lender_t *lender;
    psd_arena_t *arena;
    uint32_t n_told;                    /* own segments that the peer has */
    psd_buf_t *out[PSD_BOARD_TICKETS];  /* own payloads by ticket; NULL: the ticket is free */
    uint32_t ticket[PSD_BOARD_TICKETS]; /* the free tickets, n_free of them */
    size_t n_free;
    waiting_t *first, **last;
    size_t n_waiting;
    bool is_starved;
    bool lied; /* the peer lied, and `lie` says how */
    psd_err_t lie;
};

/* ---- the peer's memory ---- */

static void lender_unref(lender_t *self)
{
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < self->n_segments; i++)
        psd_segment_close(&self->segment[i]);
    psd_segment_close(&self->mine);
    psd_segment_close(&self->theirs);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

/* Wake the peer by the socket, because each end of a socket has its own flags: an eventfd is shared with the peer, which could make
 * a write to it block. If there is no room for a wake, the peer still has wakes to read. */
static void wake(lender_t *self)
{
    if (psd_board_must_wake(&self->boards))
        psd_handoff_send(self->fd, &(char){ WAKE }, 1, -1);
}

/* Any thread may release a payload: no code here reads it any more. */
static void release_view(psd_buf_t *buf)
{
    view_t *self = (view_t *)buf;
    lender_t *lender = self->lender;
    atomic_fetch_sub_explicit(&lender->held_bytes, buf->n_bytes, memory_order_relaxed);
    pthread_mutex_lock(&lender->lock);
    lender->n_held--;
    if (lender->fd >= 0) {
        psd_board_give_back(&lender->boards, self->ticket);
        if (psd_board_wants_room(&lender->boards))
            wake(lender);
    }
    pthread_mutex_unlock(&lender->lock);
    lender_unref(lender);
    free(self);
}

bool psd_channel_is_whole(const psd_buf_t *payload)
{
    return payload->release != release_view || !psd_board_has_left(&((const view_t *)payload)->lender->boards);
}

bool psd_channel_may_keep(const psd_buf_t *payload)
{
    if (payload->release != release_view)
        return false;
    lender_t *lender = ((const view_t *)payload)->lender;
    pthread_mutex_lock(&lender->lock);
    const bool may = lender->n_held <= PSD_BOARD_TICKETS / 2;
    pthread_mutex_unlock(&lender->lock);
    return may;
}

psd_buf_t *psd_channel_take(psd_buf_t *payload)
{
    if (payload->release != release_view)
        return psd_buf_ref(payload);
    psd_buf_t *copy = psd_buf_new(payload->n_bytes);
    if (!copy)
        return NULL;
    memcpy(copy->data, payload->data, payload->n_bytes);
    if (!psd_channel_is_whole(payload))
        psd_buf_unref(&copy);
    return copy;
}

static int take_segment(lender_t *self, const uint8_t *packet, size_t n_bytes, int fd, psd_err_t *err)
{
    uint32_t number;
    if (fd < 0)
        return psd_err_set(err, PSD_EPROTO, "a segment without its memory");
    if (n_bytes == 1 + sizeof number)
        memcpy(&number, packet + 1, sizeof number);
    if (n_bytes != 1 + sizeof number || number != self->n_segments || number == PSD_ARENA_SEGMENTS) {
        close(fd);
        return psd_err_set(err, PSD_EPROTO, "a segment that is not the next of at most %d, after %" PRIu32, PSD_ARENA_SEGMENTS,
                           self->n_segments);
    }
    const int rc = psd_segment_map(&self->segment[number], fd, self->room_bytes, err);
    if (rc == PSD_OK) {
        self->room_bytes -= self->segment[number].n_bytes;
        self->n_segments++;
    }
    return rc;
}

int psd_channel_listen(psd_channel_t *self, psd_err_t *err)
{
    uint8_t packet[PSD_HANDOFF_PACKET];
    for (int i = 0; i < PACKETS; i++) {
        int fd = -1;
        const int n = psd_handoff_receive(self->lender->fd, packet, &fd, err);
        if (n == PSD_EAGAIN)
            return PSD_OK;
        if (n < 0)
            return n;
        int rc = PSD_OK;
        if (packet[0] == SEGMENT) {
            rc = take_segment(self->lender, packet, (size_t)n, fd, err);
        } else if (packet[0] != WAKE || n != 1 || fd >= 0) {
            rc = psd_err_set(err, PSD_EPROTO, "a packet that is neither a wake nor a segment");
            if (fd >= 0)
                close(fd);
        }
        if (rc != PSD_OK)
            return rc;
    }
    return PSD_OK;
}

/* ---- receiving ---- */

static int collect(psd_channel_t *self);

static int find_payload(psd_channel_t *self, const psd_post_t *post, const unsigned char **at, psd_err_t *err)
{
    lender_t *lender = self->lender;
    if (post->segment >= lender->n_segments) { /* the peer sent the segment before the message, but it has not been read yet */
        const int rc = psd_channel_listen(self, err);
        if (rc != PSD_OK && rc != PSD_EUNAVAILABLE)
            return rc;
    }
    if (post->segment >= lender->n_segments)
        return psd_err_set(err, PSD_EPROTO, "a payload in segment %" PRIu32 " of %" PRIu32, post->segment, lender->n_segments);
    const psd_segment_t *segment = &lender->segment[post->segment];
    if (post->n_bytes > PSD_CHANNEL_PAYLOAD || post->offset > segment->n_bytes || post->n_bytes > segment->n_bytes - post->offset ||
        post->offset % ALIGN)
        return psd_err_set(err, PSD_EPROTO, "a payload of %" PRIu64 " bytes at %" PRIu64 " of a segment of %zu", post->n_bytes,
                           post->offset, segment->n_bytes);
    *at = segment->at + post->offset;
    return PSD_OK;
}

static int make_view(psd_channel_t *self, const psd_post_t *post, psd_buf_t **payload, psd_err_t *err)
{
    lender_t *lender = self->lender;
    const unsigned char *at = NULL;
    const int rc = find_payload(self, post, &at, err);
    if (rc != PSD_OK)
        return rc;
    view_t *view = malloc(sizeof *view);
    assert(view && "no memory for a received payload");
    pthread_mutex_lock(&lender->lock);
    const bool fits = lender->n_held < PSD_BOARD_TICKETS;
    lender->n_held += fits;
    pthread_mutex_unlock(&lender->lock);
    if (!fits) {
        free(view);
        return psd_err_set(err, PSD_EPROTO, "more payloads than the %d that it may have out", PSD_BOARD_TICKETS);
    }
    atomic_fetch_add_explicit(&lender->refs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&lender->held_bytes, post->n_bytes, memory_order_relaxed);
    view->lender = lender;
    view->ticket = post->ticket;
    psd_buf_init(&view->buf, (void *)(uintptr_t)at, (size_t)post->n_bytes, release_view);
    *payload = &view->buf;
    return PSD_OK;
}

/* What the peer returned before it sent the message is released before the message is delivered, so that its receiver may write
 * there. */
int psd_channel_receive(psd_channel_t *self, psd_post_t *post, psd_buf_t **payload, psd_err_t *err)
{
    lender_t *lender = self->lender;
    psd_buf_t *view = NULL;
    *payload = NULL;
    int rc = psd_board_next(&lender->boards, post, err);
    if (rc != 1)
        return rc;
    if (collect(self) != PSD_OK)
        return psd_err_set(err, PSD_EPROTO, "%s", self->lie.text);
    if (psd_board_wants_room(&lender->boards))
        wake(lender);
    if (post->n_bytes && (rc = make_view(self, post, &view, err)) != PSD_OK)
        return rc;
    if (!view || view->n_bytes > PSD_CHANNEL_SMALL) {
        *payload = view;
        return 1;
    }
    *payload = psd_channel_take(view);
    psd_buf_unref(&view);
    return *payload != NULL; /* drop a message that may have changed; no more will come */
}

uint64_t psd_channel_held(const psd_channel_t *self)
{
    return atomic_load_explicit(&self->lender->held_bytes, memory_order_relaxed);
}

/* ---- sending ---- */

static int lies(psd_channel_t *self)
{
    self->lied = true;
    return PSD_EPROTO;
}

static int collect(psd_channel_t *self)
{
    uint32_t ticket;
    int rc;
    while ((rc = psd_board_returned(&self->lender->boards, PSD_BOARD_TICKETS - self->n_free, &ticket, &self->lie)) == 1) {
        if (!self->out[ticket]) {
            psd_err_set(&self->lie, PSD_EPROTO, "it gives back payload %" PRIu32 ", which it does not have", ticket);
            return lies(self);
        }
        psd_buf_unref(&self->out[ticket]);
        self->ticket[self->n_free++] = ticket;
    }
    return rc == 0 ? PSD_OK : lies(self);
}

/* Hand own segments up to this one to the peer. */
static int tell_segments(psd_channel_t *self, uint32_t segment)
{
    for (; self->n_told <= segment; self->n_told++) {
        uint8_t packet[1 + sizeof self->n_told] = { SEGMENT };
        memcpy(packet + 1, &self->n_told, sizeof self->n_told);
        const int rc = psd_handoff_send(self->lender->fd, packet, sizeof packet, psd_arena_segment(self->arena, self->n_told)->fd);
        if (rc != PSD_OK)
            return rc;
    }
    return PSD_OK;
}

/* A payload in memory that the peer can read: itself, or a copy. NULL: there is no room for a copy. */
static psd_buf_t *place(psd_channel_t *self, psd_buf_t *payload, psd_post_t *post)
{
    if (psd_arena_find(self->arena, payload->data, payload->n_bytes, &post->segment, &post->offset) && post->offset % ALIGN == 0)
        return psd_buf_ref(payload);
    psd_buf_t *copy = psd_arena_new_buf(self->arena, payload->n_bytes);
    if (!copy)
        return NULL;
    psd_copy_large(copy->data, payload->data, payload->n_bytes, psd_copy_is_large(psd_arena_used(self->arena)));
    const bool found = psd_arena_find(self->arena, copy->data, copy->n_bytes, &post->segment, &post->offset);
    assert(found);
    return copy;
}

/* Send now: PSD_OK; PSD_EAGAIN: no room now; PSD_EPROTO. */
static int post_one(psd_channel_t *self, const void *header, size_t n_header, psd_buf_t *payload)
{
    psd_boards_t *boards = &self->lender->boards;
    psd_post_t post = { .n_bytes = payload ? payload->n_bytes : 0 };
    const int room = psd_board_has_room(boards, &self->lie);
    if (room < 0)
        return lies(self);
    if (!room || (post.n_bytes && !self->n_free))
        return PSD_EAGAIN;
    if (post.n_bytes) {
        psd_buf_t *placed = place(self, payload, &post);
        if (!placed || tell_segments(self, post.segment) != PSD_OK) {
            psd_buf_unref(&placed);
            self->is_starved = true;
            return PSD_EAGAIN;
        }
        post.ticket = self->ticket[--self->n_free];
        self->out[post.ticket] = placed;
    }
    psd_board_post(boards, &post, header, n_header);
    wake(self->lender);
    return PSD_OK;
}

/* Append a message to those that wait. */
static int queue(psd_channel_t *self, const void *header, size_t n_header, psd_buf_t *payload)
{
    if (self->n_waiting == PSD_CHANNEL_BACKLOG)
        return PSD_EAGAIN;
    waiting_t *message = malloc(sizeof *message + n_header);
    assert(message && "no memory for a message");
    message->next = NULL;
    message->payload = psd_buf_ref(payload);
    message->n_header = n_header;
    memcpy(message->header, header, n_header);
    *self->last = message;
    self->last = &message->next;
    if (self->n_waiting++ == 0)
        psd_board_want_room(&self->lender->boards, true);
    return PSD_OK;
}

static void drop_first(psd_channel_t *self)
{
    waiting_t *message = self->first;
    self->first = message->next;
    if (!self->first)
        self->last = &self->first;
    if (--self->n_waiting == 0)
        psd_board_want_room(&self->lender->boards, false);
    psd_buf_unref(&message->payload);
    free(message);
}

int psd_channel_send(psd_channel_t *self, const void *header, size_t n_header, psd_buf_t *payload)
{
    assert(n_header >= 1 && n_header <= PSD_BOARD_HEADER && (!payload || payload->n_bytes <= PSD_CHANNEL_PAYLOAD));
    if (self->lied || collect(self) != PSD_OK)
        return PSD_EPROTO;
    const int rc = self->first ? PSD_EAGAIN : post_one(self, header, n_header, payload);
    return rc == PSD_EAGAIN ? queue(self, header, n_header, payload) : rc;
}

int psd_channel_tend(psd_channel_t *self, psd_err_t *err)
{
    int rc = self->lied ? PSD_EPROTO : collect(self);
    self->is_starved = false;
    while (rc == PSD_OK && self->first) {
        rc = post_one(self, self->first->header, self->first->n_header, self->first->payload);
        if (rc == PSD_OK)
            drop_first(self);
    }
    return rc == PSD_EPROTO ? psd_err_set(err, rc, "%s", self->lie.text) : PSD_OK;
}

/* ---- sleep ---- */

bool psd_channel_has_news(const psd_channel_t *self)
{
    return self->lied || psd_board_has_news(&self->lender->boards, self->first != NULL);
}

void psd_channel_sleep(psd_channel_t *self) { psd_board_sleep(&self->lender->boards); }
void psd_channel_rise(psd_channel_t *self) { psd_board_rise(&self->lender->boards); }
bool psd_channel_is_starved(const psd_channel_t *self) { return self->is_starved; }

/* ---- coming and going ---- */

psd_channel_t *psd_channel_new(int fd, psd_segment_t *mine, psd_segment_t *theirs, psd_arena_t *arena, size_t most_bytes,
                               psd_err_t *err)
{
    const bool fits = theirs->n_bytes >= psd_board_bytes();
    psd_channel_t *self = fits ? calloc(1, sizeof *self) : NULL;
    lender_t *lender = self ? calloc(1, sizeof *lender) : NULL;
    if (!lender) {
        psd_err_set(err, fits ? PSD_ENOMEM : PSD_EPROTO, "%s", fits ? "no memory for a channel" : "the peer's board is too small");
        close(fd);
        psd_segment_close(mine);
        psd_segment_close(theirs);
        free(self);
        return NULL;
    }
    atomic_init(&lender->refs, 1);
    pthread_mutex_init(&lender->lock, NULL);
    lender->fd = fd;
    lender->mine = *mine;
    lender->theirs = *theirs;
    lender->room_bytes = most_bytes;
    *mine = *theirs = PSD_NO_SEGMENT;
    psd_boards_init(&lender->boards, (psd_board_t *)(void *)lender->mine.at, (const psd_board_t *)(const void *)lender->theirs.at);
    self->lender = lender;
    self->arena = arena;
    self->last = &self->first;
    while (self->n_free < PSD_BOARD_TICKETS) { /* so that the lowest is taken first */
        self->ticket[self->n_free] = (uint32_t)(PSD_BOARD_TICKETS - 1 - self->n_free);
        self->n_free++;
    }
    return self;
}

bool psd_channel_part(psd_channel_t *self)
{
    while (self->first)
        drop_first(self);
    if (collect(self) != PSD_OK || self->n_free == PSD_BOARD_TICKETS)
        return false;
    return !shutdown(self->lender->fd, SHUT_WR);
}

bool psd_channel_has_ended(psd_channel_t *self)
{
    uint8_t packet[PSD_HANDOFF_PACKET];
    for (int i = 0; i < PACKETS; i++) {
        int fd = -1;
        const int n = psd_handoff_receive(self->lender->fd, packet, &fd, NULL);
        if (fd >= 0)
            close(fd);
        if (n < 0)
            return n != PSD_EAGAIN;
    }
    return false;
}

void psd_channel_close(psd_channel_t **self_p)
{
    psd_channel_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    psd_board_leave(&self->lender->boards);
    while (self->first)
        drop_first(self);
    for (size_t i = 0; i < PSD_BOARD_TICKETS; i++)
        psd_buf_unref(&self->out[i]);
    pthread_mutex_lock(&self->lender->lock);
    close(self->lender->fd);
    self->lender->fd = -1;
    pthread_mutex_unlock(&self->lender->lock);
    lender_unref(self->lender);
    free(self);
}
