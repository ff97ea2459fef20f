#include "common/memory/board.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum { PAGE = 1 << 16 };

/* Values that a peer may change meanwhile are read by atomic loads: once, and whole. */
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics shared between processes must be lock-free");
_Static_assert(sizeof(psd_slot_t) % PSD_BOARD_LINE == 0 && sizeof(((psd_slot_t *)0)->header) >= PSD_BOARD_HEADER, "a header fits");

size_t psd_board_bytes(void) { return (sizeof(psd_board_t) + PAGE - 1) / PAGE * PAGE; }

void psd_boards_init(psd_boards_t *self, psd_board_t *mine, const psd_board_t *theirs)
{
    memset(self, 0, sizeof *self);
    self->mine = mine;
    self->theirs = theirs;
    atomic_init(&self->woken, 0);
}

static uint64_t look(const _Atomic uint64_t *at) { return atomic_load_explicit(at, memory_order_acquire); }
static uint32_t look_half(const _Atomic uint32_t *at) { return atomic_load_explicit(at, memory_order_relaxed); }

/* ---- this side ---- */

int psd_board_has_room(psd_boards_t *self, psd_err_t *err)
{
    const uint64_t read = look(&self->theirs->read);
    if (read < self->read_by_them || read > self->sent)
        return psd_err_set(err, PSD_EPROTO, "it has read %" PRIu64 " messages of %" PRIu64 ", after %" PRIu64, read, self->sent,
                           self->read_by_them);
    self->read_by_them = read;
    return self->sent - read < PSD_BOARD_SLOTS;
}

void psd_board_post(psd_boards_t *self, const psd_post_t *place, const void *header, size_t n_header)
{
    assert(n_header >= 1 && n_header <= PSD_BOARD_HEADER && self->sent - self->read_by_them < PSD_BOARD_SLOTS);
    psd_slot_t *slot = &self->mine->slot[self->sent % PSD_BOARD_SLOTS];
    atomic_store_explicit(&slot->n_header, (uint32_t)n_header, memory_order_relaxed);
    atomic_store_explicit(&slot->segment, place->segment, memory_order_relaxed);
    atomic_store_explicit(&slot->ticket, place->ticket, memory_order_relaxed);
    atomic_store_explicit(&slot->n_bytes, place->n_bytes, memory_order_relaxed);
    atomic_store_explicit(&slot->offset, place->offset, memory_order_relaxed);
    memcpy(slot->header, header, n_header);
    /* Publish this before reading whether the peer sleeps; the peer reads this after announcing its sleep: so at least one side
     * sees the other's write. */
    atomic_store(&self->mine->sent, ++self->sent);
}

int psd_board_returned(psd_boards_t *self, size_t n_out, uint32_t *ticket, psd_err_t *err)
{
    const uint64_t given = look(&self->theirs->given);
    if (given - self->returned > n_out)
        return psd_err_set(err, PSD_EPROTO, "it gives back %" PRIu64 " payloads, and has %zu", given - self->returned, n_out);
    if (given == self->returned)
        return 0;
    *ticket = look_half(&self->theirs->ticket[self->returned % PSD_BOARD_TICKETS]);
    if (*ticket >= PSD_BOARD_TICKETS)
        return psd_err_set(err, PSD_EPROTO, "it gives back payload %" PRIu32 " of %d", *ticket, PSD_BOARD_TICKETS);
    self->returned++;
    return 1;
}

void psd_board_want_room(psd_boards_t *self, bool wants) { atomic_store(&self->mine->wants_room, wants); }

void psd_board_leave(psd_boards_t *self)
{
    atomic_store(&self->mine->left, 1);
    atomic_thread_fence(memory_order_seq_cst); /* before any byte of a payload is overwritten */
}

/* ---- the peer's side ---- */

int psd_board_next(psd_boards_t *self, psd_post_t *post, psd_err_t *err)
{
    const uint64_t sent = look(&self->theirs->sent);
    if (sent - self->read > PSD_BOARD_SLOTS)
        return psd_err_set(err, PSD_EPROTO, "it has sent %" PRIu64 " messages, after %" PRIu64 ", and its ring holds %d", sent,
                           self->read, PSD_BOARD_SLOTS);
    if (sent == self->read)
        return 0;
    const psd_slot_t *slot = &self->theirs->slot[self->read % PSD_BOARD_SLOTS];
    post->n_header = look_half(&slot->n_header);
    post->segment = look_half(&slot->segment);
    post->ticket = look_half(&slot->ticket);
    post->n_bytes = atomic_load_explicit(&slot->n_bytes, memory_order_relaxed);
    post->offset = atomic_load_explicit(&slot->offset, memory_order_relaxed);
    if (post->n_header < 1 || post->n_header > PSD_BOARD_HEADER)
        return psd_err_set(err, PSD_EPROTO, "a header of %zu bytes, which has 1 to %d", post->n_header, PSD_BOARD_HEADER);
    if (post->n_bytes && post->ticket >= PSD_BOARD_TICKETS)
        return psd_err_set(err, PSD_EPROTO, "a payload with ticket %" PRIu32 " of %d", post->ticket, PSD_BOARD_TICKETS);
    memcpy(post->header, slot->header, post->n_header);
    atomic_store(&self->mine->read, ++self->read);
    return 1;
}

void psd_board_give_back(psd_boards_t *self, uint32_t ticket)
{
    atomic_store_explicit(&self->mine->ticket[self->given % PSD_BOARD_TICKETS], ticket, memory_order_relaxed);
    atomic_store(&self->mine->given, ++self->given);
}

bool psd_board_wants_room(const psd_boards_t *self) { return atomic_load(&self->theirs->wants_room); }

bool psd_board_has_left(const psd_boards_t *self)
{
    atomic_thread_fence(memory_order_acquire); /* earlier reads complete before this */
    return look_half(&self->theirs->left);
}

/* ---- sleep ---- */

bool psd_board_has_news(const psd_boards_t *self, bool for_room)
{
    return atomic_load(&self->theirs->sent) != self->read || (for_room && (atomic_load(&self->theirs->read) != self->read_by_them ||
                                                                           atomic_load(&self->theirs->given) != self->returned));
}

static void count_sleep(psd_boards_t *self, uint64_t odd)
{
    const uint64_t sleeps = atomic_load_explicit(&self->mine->sleeps, memory_order_relaxed);
    if (sleeps % 2 != odd)
        atomic_store(&self->mine->sleeps, sleeps + 1);
}

void psd_board_sleep(psd_boards_t *self) { count_sleep(self, 1); }
void psd_board_rise(psd_boards_t *self) { count_sleep(self, 0); }

bool psd_board_must_wake(psd_boards_t *self)
{
    const uint64_t sleeps = atomic_load(&self->theirs->sleeps);
    return sleeps % 2 && atomic_exchange(&self->woken, sleeps) != sleeps;
}
