#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "common/memory/board.h"

static psd_board_t *board[2];
static psd_boards_t us, them;
static psd_post_t post;
static psd_err_t err;

static void setup(void)
{
    for (int i = 0; i < 2; i++) {
        board[i] = aligned_alloc(64, psd_board_bytes());
        memset(board[i], 0, psd_board_bytes());
    }
    psd_boards_init(&us, board[0], board[1]);
    psd_boards_init(&them, board[1], board[0]);
}
static void teardown(void)
{
    free(board[0]);
    free(board[1]);
}
TestSuite(board, .init = setup, .fini = teardown, .timeout = 600);

static void send_one(psd_boards_t *from, uint64_t n)
{
    cr_assert_eq(psd_board_has_room(from, NULL), 1);
    psd_board_post(from, &(psd_post_t){ .n_bytes = n, .offset = 64 * n, .segment = 3, .ticket = 9 }, &n, sizeof n);
}

Test(board, messages_arrive_in_order_round_after_round)
{
    for (uint64_t i = 0; i < 3 * PSD_BOARD_SLOTS; i++) {
        uint64_t said;
        send_one(&them, i);
        cr_assert_eq(psd_board_next(&us, &post, NULL), 1);
        memcpy(&said, post.header, sizeof said);
        cr_assert(said == i && post.n_header == sizeof said && post.n_bytes == i && post.offset == 64 * i && post.segment == 3 &&
                  post.ticket == 9);
        cr_assert_eq(psd_board_next(&us, &post, NULL), 0);
    }
}

Test(board, a_full_ring_has_room_when_the_first_was_read)
{
    for (int i = 0; i < PSD_BOARD_SLOTS; i++)
        send_one(&them, 1);
    cr_expect_eq(psd_board_has_room(&them, NULL), 0);
    psd_board_next(&us, &post, NULL);
    cr_expect_eq(psd_board_has_room(&them, NULL), 1);
}

Test(board, the_longest_header_arrives_whole)
{
    static uint8_t header[PSD_BOARD_HEADER];
    memset(header, 5, sizeof header);
    cr_assert_eq(psd_board_has_room(&them, NULL), 1);
    psd_board_post(&them, &(psd_post_t){ 0 }, header, sizeof header);
    cr_assert_eq(psd_board_next(&us, &post, NULL), 1);
    cr_expect_eq(post.n_header, sizeof header);
    cr_expect_eq(memcmp(post.header, header, sizeof header), 0);
}

Test(board, tickets_come_back_in_the_order_in_which_they_were_given)
{
    uint32_t ticket;
    cr_expect_eq(psd_board_returned(&us, 5, &ticket, NULL), 0);
    for (uint32_t i = 0; i < 2 * PSD_BOARD_TICKETS; i++) {
        psd_board_give_back(&them, i % 1000);
        cr_assert_eq(psd_board_returned(&us, 1, &ticket, NULL), 1);
        cr_assert_eq(ticket, i % 1000);
    }
}

/* ---- lies ---- */

static void write_board(size_t at, uint64_t value, size_t n_bytes) { memcpy((char *)board[1] + at, &value, n_bytes); }
#define WORD(field, value)    write_board(offsetof(psd_board_t, field), value, 8)
#define SLOT(field, value, n) write_board(offsetof(psd_board_t, slot) + offsetof(psd_slot_t, field), value, n)

Test(board, a_ring_that_claims_more_than_it_holds_is_a_lie)
{
    static const uint64_t lies[] = { PSD_BOARD_SLOTS + 1, 1 << 20, UINT64_MAX, UINT64_MAX / 2 };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        WORD(sent, lies[i]);
        cr_expect_eq(psd_board_next(&us, &post, &err), PSD_EPROTO);
        cr_expect(strstr(err.text, "its ring holds 256"), "%s", err.text);
    }
}

Test(board, a_ring_that_goes_back_is_a_lie)
{
    send_one(&them, 1);
    psd_board_next(&us, &post, NULL);
    WORD(sent, 0);
    cr_expect_eq(psd_board_next(&us, &post, &err), PSD_EPROTO);
}

Test(board, a_header_without_bytes_or_beyond_its_slot_is_a_lie)
{
    static const uint32_t lies[] = { 0, PSD_BOARD_HEADER + 1, UINT32_MAX };
    WORD(sent, 1);
    for (size_t i = 0; i < 3; i++) {
        SLOT(n_header, lies[i], 4);
        cr_expect_eq(psd_board_next(&us, &post, &err), PSD_EPROTO);
        cr_expect(strstr(err.text, "a header of"), "%s", err.text);
    }
}

Test(board, a_payload_under_a_ticket_that_does_not_exist_is_a_lie)
{
    WORD(sent, 1);
    SLOT(n_header, 1, 4);
    SLOT(n_bytes, 1, 8);
    SLOT(ticket, PSD_BOARD_TICKETS, 4);
    cr_expect_eq(psd_board_next(&us, &post, &err), PSD_EPROTO);
    cr_expect(strstr(err.text, "ticket 4096 of 4096"), "%s", err.text);
}

Test(board, having_read_more_than_was_sent_or_less_than_before_is_a_lie)
{
    send_one(&us, 1);
    send_one(&us, 1);
    WORD(read, 3);
    cr_expect_eq(psd_board_has_room(&us, &err), PSD_EPROTO);
    WORD(read, 2);
    cr_expect_eq(psd_board_has_room(&us, &err), 1);
    WORD(read, 1);
    cr_expect_eq(psd_board_has_room(&us, &err), PSD_EPROTO);
}

Test(board, giving_back_more_than_is_out_is_a_lie)
{
    uint32_t ticket;
    WORD(given, 3);
    cr_expect_eq(psd_board_returned(&us, 2, &ticket, &err), PSD_EPROTO);
    cr_expect_eq(psd_board_returned(&us, 3, &ticket, &err), 1);
    WORD(given, 0);
    cr_expect_eq(psd_board_returned(&us, 3, &ticket, &err), PSD_EPROTO, "nor may the count go back");
    WORD(given, 2);
    WORD(ticket[1], UINT32_MAX);
    cr_expect_eq(psd_board_returned(&us, 3, &ticket, &err), PSD_EPROTO);
}

/* ---- sleep ---- */

Test(board, a_sleeper_is_woken_once_for_each_sleep)
{
    cr_expect_not(psd_board_must_wake(&us));
    for (int i = 0; i < 3; i++) {
        psd_board_sleep(&them);
        psd_board_sleep(&them);
        cr_expect(psd_board_must_wake(&us));
        cr_expect_not(psd_board_must_wake(&us));
        psd_board_rise(&them);
        psd_board_rise(&them);
        cr_expect_not(psd_board_must_wake(&us));
    }
}

Test(board, messages_wake_a_reader_and_any_progress_wakes_a_writer_that_waits_for_room)
{
    cr_expect_not(psd_board_has_news(&us, true));
    send_one(&us, 1);
    psd_board_next(&them, &post, NULL);
    cr_expect_not(psd_board_has_news(&us, false));
    cr_expect(psd_board_has_news(&us, true));
    psd_board_has_room(&us, NULL);
    cr_expect_not(psd_board_has_news(&us, true));
    psd_board_give_back(&them, 1);
    cr_expect(psd_board_has_news(&us, true));
    send_one(&them, 1);
    cr_expect(psd_board_has_news(&us, false));
    psd_board_want_room(&them, true);
    cr_expect(psd_board_wants_room(&us));
    cr_expect_not(psd_board_has_left(&us));
    psd_board_leave(&them);
    cr_expect(psd_board_has_left(&us));
}
