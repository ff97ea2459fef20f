/* fuzz_board.c - any bytes as the board of a peer, changed between any two calls: a message is within its limits, or it is
 * refused. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory/board.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* The input is a list of changes: where (2 bytes: a word of the head, or of a slot), and a word of 8 bytes. */
enum { CHANGE = 10 };

static void change(psd_board_t *board, const uint8_t *at)
{
    const size_t head = offsetof(psd_board_t, ticket), slot = offsetof(psd_slot_t, header), words = (head + 64 + slot) / 8;
    const size_t word = (at[0] | (size_t)at[1] << 8) % (words * PSD_BOARD_SLOTS);
    const size_t inside = word % words * 8;
    const size_t offset =
        inside < head + 64 ? inside : offsetof(psd_board_t, slot) + word / words * sizeof(psd_slot_t) + inside - head - 64;
    memcpy((char *)board + offset, at + 2, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static psd_board_t *mine, *theirs;
    if (!mine) {
        mine = aligned_alloc(64, psd_board_bytes());
        theirs = aligned_alloc(64, psd_board_bytes());
    }
    memset(mine, 0, psd_board_bytes());
    memset(theirs, 0, psd_board_bytes());
    psd_boards_t self;
    psd_err_t err = { 0 };
    uint32_t ticket;
    size_t n_out = 0;
    psd_boards_init(&self, mine, theirs);
    for (size_t at = 0; at + CHANGE <= n_bytes; at += CHANGE) {
        psd_post_t post;
        change(theirs, data + at);
        psd_board_has_news(&self, at % 20 == 0);
        psd_board_must_wake(&self);
        int rc = psd_board_has_room(&self, &err);
        assert(rc == 0 || rc == 1 || (rc == PSD_EPROTO && *err.text));
        if (rc == 1 && n_out < PSD_BOARD_TICKETS) {
            psd_board_post(&self, &(psd_post_t){ .n_bytes = 1, .ticket = (uint32_t)n_out++ }, "h", 1);
        }
        rc = psd_board_next(&self, &post, &err);
        assert(rc == 0 || rc == 1 || rc == PSD_EPROTO);
        if (rc == 1)
            assert(post.n_header >= 1 && post.n_header <= PSD_BOARD_HEADER && (!post.n_bytes || post.ticket < PSD_BOARD_TICKETS));
        for (size_t i = 0; (rc = psd_board_returned(&self, n_out, &ticket, &err)) == 1; i++) {
            assert(ticket < PSD_BOARD_TICKETS && i < PSD_BOARD_TICKETS);
            n_out--;
        }
        assert(rc == 0 || rc == PSD_EPROTO);
        psd_board_sleep(&self);
        psd_board_give_back(&self, 1);
        psd_board_rise(&self);
    }
    return 0;
}
