#include <criterion/criterion.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/memory/channel.h"
#include "common/memory/handoff.h"
#include "tests/support/channels.h"

/* Both ends in one process, each with its own mappings. `liar` is how a dishonest far end writes: its board, and its end of the
 * socket. */
static psd_arena_t *near_arena, *far_arena;
static psd_channel_t *near, *far;
static psd_board_t *liar;
static int liar_fd;
static psd_post_t post;
static psd_buf_t *payload;
static psd_err_t err;
static const size_t MOST = (size_t)256 << 20;

static void setup(void)
{
    channels_t both;
    channels_open(&both, MOST);
    near_arena = both.arena[0];
    far_arena = both.arena[1];
    near = both.end[0];
    far = both.end[1];
    liar = both.board[1];
    liar_fd = both.fd[1];
}
static void teardown(void)
{
    psd_channel_close(&near);
    psd_channel_close(&far);
    psd_arena_destroy(&near_arena);
    psd_arena_destroy(&far_arena);
}
TestSuite(channel, .init = setup, .fini = teardown, .timeout = 600);

static int count_descriptors(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static psd_buf_t *filled(psd_arena_t *arena, size_t n_bytes, int with)
{
    psd_buf_t *buf = arena ? psd_arena_new_buf(arena, n_bytes) : psd_buf_new(n_bytes);
    cr_assert_not_null(buf);
    memset(buf->data, with, n_bytes);
    return buf;
}

/* ---- between honest ends ---- */

Test(channel, a_payload_in_the_arena_is_read_where_it_lies_and_comes_back_when_it_was_read)
{
    psd_buf_t *buf = filled(far_arena, 1 << 20, 7);
    cr_assert_eq(psd_channel_send(far, "head", 4, buf), PSD_OK);
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1, "%s", err.text);
    cr_expect(post.n_header == 4 && !memcmp(post.header, "head", 4));
    cr_expect(payload->n_bytes == 1 << 20 && ((char *)payload->data)[12345] == 7);
    ((char *)buf->data)[12345] = 8;
    cr_expect_eq(((char *)payload->data)[12345], 8, "it is the same memory");
    cr_expect_eq(psd_channel_held(near), 1 << 20);
    psd_channel_tend(far, &err);
    cr_expect_not(psd_buf_is_unique(buf));
    psd_buf_unref(&payload);
    cr_expect_eq(psd_channel_held(near), 0);
    psd_channel_tend(far, &err);
    cr_expect(psd_buf_is_unique(buf));
    psd_buf_unref(&buf);
}

Test(channel, a_part_of_an_array_in_the_arena_is_not_copied_and_is_held_until_it_was_read)
{
    psd_buf_t *array = filled(far_arena, 4 << 20, 1), *part = psd_buf_borrow((char *)array->data + (1 << 20), 1 << 20);
    const size_t used = psd_arena_used(far_arena);
    psd_channel_send(far, "h", 1, part);
    cr_expect_eq(psd_arena_used(far_arena), used);
    cr_expect_not(psd_buf_is_unique(part));
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    psd_buf_unref(&payload);
    psd_channel_tend(far, &err);
    cr_expect(psd_buf_is_unique(part));
    psd_buf_unref(&part);
    psd_buf_unref(&array);
}

Test(channel, any_other_payload_is_copied_at_once)
{
    psd_buf_t *buf = filled(NULL, 100000, 3), *odd = psd_buf_borrow((char *)buf->data + 1, 50000);
    psd_channel_send(far, "h", 1, buf);
    psd_channel_send(far, "h", 1, odd);
    cr_expect(psd_buf_is_unique(buf) && psd_buf_is_unique(odd));
    memset(buf->data, 4, buf->n_bytes);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
        cr_expect(((char *)payload->data)[49999] == 3 && (uintptr_t)payload->data % 64 == 0);
        psd_buf_unref(&payload);
    }
    psd_channel_tend(far, &err);
    cr_expect_eq(psd_arena_used(far_arena), 0);
    psd_buf_unref(&buf);
    psd_buf_unref(&odd);
    buf = filled(far_arena, 100000, 5); /* in the arena, but no floats can begin there */
    odd = psd_buf_borrow((char *)buf->data + 1, 50000);
    psd_channel_send(far, "h", 1, odd);
    cr_expect(psd_buf_is_unique(odd));
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1, "%s", err.text);
    cr_expect(((char *)payload->data)[49999] == 5 && (uintptr_t)payload->data % 64 == 0);
    psd_buf_unref(&payload);
    psd_buf_unref(&odd);
    psd_buf_unref(&buf);
}

Test(channel, a_small_payload_is_the_receivers_own_and_an_empty_one_is_none)
{
    psd_buf_t *buf = filled(far_arena, PSD_CHANNEL_SMALL, 1);
    psd_channel_send(far, "h", 1, buf);
    psd_channel_send(far, "h", 1, NULL);
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    memset(buf->data, 2, buf->n_bytes);
    cr_expect_eq(*(char *)payload->data, 1);
    psd_buf_unref(&payload);
    psd_channel_tend(far, &err);
    cr_expect(psd_buf_is_unique(buf));
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    cr_expect_null(payload);
    cr_expect_eq(psd_channel_receive(near, &post, &payload, &err), 0);
    psd_buf_unref(&buf);
}

Test(channel, messages_without_room_wait_in_order)
{
    enum { N = 3000 };
    psd_buf_t *buf = filled(far_arena, 64, 1);
    int sent = 0, got = 0;
    for (; sent < N; sent++)
        cr_assert_eq(psd_channel_send(far, &sent, sizeof sent, buf), PSD_OK);
    while (got < N) {
        int number, rc;
        while ((rc = psd_channel_receive(near, &post, &payload, &err)) == 1) {
            memcpy(&number, post.header, sizeof number);
            cr_assert_eq(number, got++);
            psd_buf_unref(&payload);
        }
        cr_assert_eq(rc, 0);
        if (got < N)
            cr_assert(psd_channel_has_news(far), "there is room again");
        cr_assert_eq(psd_channel_tend(far, &err), PSD_OK);
    }
    psd_channel_tend(far, &err);
    cr_expect(psd_buf_is_unique(buf));
    psd_buf_unref(&buf);
}

static psd_buf_t *held[PSD_BOARD_TICKETS];

/* The near end holds as many payloads as there are tickets, and one more waits. */
static void hold_all(psd_buf_t *buf)
{
    int n = 0;
    for (int i = 0; i <= PSD_BOARD_TICKETS; i++)
        cr_assert_eq(psd_channel_send(far, "h", 1, buf), PSD_OK);
    while (psd_channel_tend(far, &err) == PSD_OK && psd_channel_receive(near, &post, &payload, &err) == 1)
        held[n++] = payload;
    cr_assert_eq(n, PSD_BOARD_TICKETS);
}

Test(channel, a_peer_that_holds_all_tickets_gets_another_when_it_returns_one)
{
    psd_buf_t *buf = filled(far_arena, PSD_CHANNEL_SMALL + 4, 1);
    hold_all(buf);
    cr_expect_not(psd_channel_has_news(far));
    psd_buf_unref(&held[77]);
    cr_expect(psd_channel_has_news(far));
    cr_assert_eq(psd_channel_tend(far, &err), PSD_OK);
    cr_assert_eq(psd_channel_receive(near, &post, &held[77], &err), 1);
    for (int i = 0; i < PSD_BOARD_TICKETS; i++)
        psd_buf_unref(&held[i]);
    psd_channel_tend(far, &err);
    psd_buf_unref(&buf);
    cr_expect_eq(psd_arena_used(far_arena), 0);
}

/* Whether the near end has woken the far one since the last time. */
static bool is_woken(void)
{
    char packet;
    return recv(liar_fd, &packet, 1, MSG_DONTWAIT) == 1;
}

static void receive_number(int number)
{
    int got;
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1, "%s", err.text);
    memcpy(&got, post.header, sizeof got);
    cr_assert_eq(got, number);
    psd_buf_unref(&payload);
}

Test(channel, a_sender_that_sleeps_while_messages_wait_is_woken_when_there_is_room_and_sends_them_before_later_ones)
{
    enum { N = PSD_BOARD_SLOTS + 2 };
    for (int i = 0; i < N; i++)
        cr_assert_eq(psd_channel_send(far, &i, sizeof i, NULL), PSD_OK);
    psd_channel_sleep(far);
    cr_expect_not(is_woken());
    receive_number(0);
    cr_expect(is_woken());
    psd_channel_rise(far);
    cr_assert_eq(psd_channel_send(far, &(int){ N }, sizeof(int), NULL), PSD_OK);
    for (int i = 1; i <= N; i++) {
        receive_number(i);
        cr_assert_eq(psd_channel_tend(far, &err), PSD_OK);
    }
    cr_assert_eq(psd_channel_send(far, &(int){ 7 }, sizeof(int), NULL), PSD_OK);
    while (is_woken())
        ;
    psd_channel_sleep(far);
    receive_number(7);
    cr_expect_not(is_woken(), "nothing waits any more");
}

Test(channel, a_sender_that_sleeps_without_a_ticket_is_woken_when_one_comes_back)
{
    psd_buf_t *buf = filled(far_arena, PSD_CHANNEL_SMALL + 4, 1);
    hold_all(buf);
    while (is_woken())
        ;
    psd_channel_sleep(far);
    psd_buf_unref(&held[5]);
    cr_expect(is_woken());
    for (int i = 0; i < PSD_BOARD_TICKETS; i++)
        psd_buf_unref(&held[i]);
    psd_buf_unref(&buf);
}

Test(channel, only_so_many_messages_wait)
{
    for (int i = 0; i < PSD_BOARD_SLOTS + PSD_CHANNEL_BACKLOG; i++)
        cr_assert_eq(psd_channel_send(far, "h", 1, NULL), PSD_OK);
    cr_expect_eq(psd_channel_send(far, "h", 1, NULL), PSD_EAGAIN);
}

Test(channel, an_arena_without_room_starves_its_messages_until_there_is_some)
{
    psd_buf_t *all = filled(far_arena, 255 << 20, 1), *buf = filled(NULL, 1 << 20, 2), *second = filled(NULL, 1 << 20, 3);
    psd_channel_send(far, "h", 1, buf);
    cr_expect_eq(psd_channel_send(far, "h", 1, second), PSD_OK);
    cr_expect(psd_channel_is_starved(far));
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    psd_buf_unref(&payload);
    cr_expect_eq(psd_channel_receive(near, &post, &payload, &err), 0);
    psd_buf_unref(&all);
    cr_assert_eq(psd_channel_tend(far, &err), PSD_OK);
    cr_expect_not(psd_channel_is_starved(far));
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    cr_expect_eq(*(char *)payload->data, 3);
    psd_buf_unref(&payload);
    psd_buf_unref(&buf);
    psd_buf_unref(&second);
}

Test(channel, segments_follow_as_the_arena_grows)
{
    const int before = count_descriptors();
    psd_buf_t *first = filled(far_arena, 64 << 20, 1), *second = filled(far_arena, 64 << 20, 2);
    psd_buf_t *part = psd_buf_borrow(second->data, 1 << 20);
    psd_channel_send(far, "h", 1, part);
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1, "%s", err.text);
    cr_expect_eq(*(char *)payload->data, 2);
    psd_buf_unref(&payload);
    cr_expect_eq(count_descriptors(), before + 2, "one of each segment, at its owner");
    psd_buf_unref(&first);
    psd_buf_unref(&second);
    psd_channel_tend(far, &err);
    psd_buf_unref(&part);
}

Test(channel, a_payload_outlives_its_channel_and_shows_when_it_may_have_changed)
{
    psd_buf_t *buf = filled(far_arena, 1 << 20, 1);
    psd_channel_send(far, "h", 1, buf);
    psd_channel_send(far, "h", 1, buf);
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    psd_buf_t *copy = psd_channel_take(payload);
    cr_expect(psd_channel_is_whole(payload) && copy && copy != payload && ((char *)copy->data)[99] == 1);
    psd_channel_close(&far);
    cr_expect(psd_buf_is_unique(buf), "its owner may write to it");
    cr_expect_not(psd_channel_is_whole(payload));
    cr_expect_null(psd_channel_take(payload));
    cr_expect(psd_channel_is_whole(copy));
    psd_buf_t *same = psd_channel_take(copy);
    cr_expect_eq(same, copy, "a buffer without other owners is taken as it is");
    cr_expect_eq(psd_channel_listen(near, &err), PSD_EUNAVAILABLE);
    psd_channel_close(&near);
    cr_expect_eq(((char *)payload->data)[99], 1);
    psd_buf_unref(&payload);
    psd_buf_unref(&copy);
    psd_buf_unref(&same);
    psd_buf_unref(&buf);
}

Test(channel, what_was_returned_before_a_message_was_sent_is_the_receivers_own_when_the_message_comes)
{
    psd_buf_t *lent = filled(far_arena, 1 << 20, 1), *answer = filled(near_arena, 1 << 20, 2);
    psd_channel_send(far, "h", 1, lent);
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    psd_buf_unref(&payload);
    psd_channel_send(near, "h", 1, answer);
    cr_expect_not(psd_buf_is_unique(lent));
    cr_assert_eq(psd_channel_receive(far, &post, &payload, &err), 1);
    cr_expect(psd_buf_is_unique(lent));
    psd_buf_unref(&payload);
    psd_buf_unref(&lent);
    psd_buf_unref(&answer);
}

Test(channel, payloads_may_be_kept_until_half_of_the_tickets_are_out)
{
    static psd_buf_t *held[PSD_BOARD_TICKETS];
    psd_buf_t *buf = filled(far_arena, PSD_CHANNEL_SMALL + 4, 1);
    for (int i = 0; i <= PSD_BOARD_TICKETS / 2; i++) {
        cr_assert_eq(psd_channel_send(far, "h", 1, buf), PSD_OK);
        cr_assert_eq(psd_channel_receive(near, &post, &held[i], &err), 1);
        cr_expect_eq(psd_channel_may_keep(held[i]), i < PSD_BOARD_TICKETS / 2, "payload %d", i);
    }
    cr_expect_not(psd_channel_may_keep(buf), "it is no peer's");
    for (int i = 0; i <= PSD_BOARD_TICKETS / 2; i++)
        psd_buf_unref(&held[i]);
    psd_channel_tend(far, &err);
    psd_buf_unref(&buf);
}

Test(channel, one_that_has_parted_leaves_what_it_has_lent_until_its_peer_has_closed)
{
    psd_buf_t *buf = filled(far_arena, 1 << 20, 1);
    cr_expect_not(psd_channel_part(far), "nothing is lent");
    psd_channel_send(far, "h", 1, buf);
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    psd_buf_t *late = filled(far_arena, 1 << 20, 2);
    for (int i = 0; i < PSD_BOARD_SLOTS; i++)
        psd_channel_send(far, "h", 1, NULL);
    psd_channel_send(far, "h", 1, late);
    cr_expect_not(psd_buf_is_unique(late), "it waits");
    cr_expect(psd_channel_part(far));
    cr_expect(psd_buf_is_unique(late), "and is not sent any more");
    psd_buf_unref(&late);
    cr_expect_eq(psd_channel_listen(near, &err), PSD_EUNAVAILABLE, "the peer learns of it");
    cr_expect_not(psd_channel_has_ended(far));
    cr_expect_not(psd_buf_is_unique(buf));
    cr_expect(psd_channel_is_whole(payload));
    psd_buf_unref(&payload);
    psd_channel_close(&near);
    cr_expect(psd_channel_has_ended(far));
    psd_channel_close(&far);
    cr_expect(psd_buf_is_unique(buf));
    psd_buf_unref(&buf);
}

Test(channel, a_small_payload_of_a_sender_that_has_left_is_none)
{
    psd_buf_t *buf = filled(far_arena, 100, 1);
    for (int i = 0; i < 3; i++)
        psd_channel_send(far, "h", 1, buf);
    cr_expect_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    psd_buf_unref(&payload);
    psd_channel_close(&far);
    cr_expect_eq(psd_channel_receive(near, &post, &payload, &err), 0);
    cr_expect_null(payload);
    psd_buf_unref(&buf);
}

static void *release(void *arg)
{
    psd_buf_t **held = arg;
    for (int i = 0; i < 200; i++)
        psd_buf_unref(&held[i]);
    return NULL;
}

Test(channel, any_thread_gives_payloads_back)
{
    static psd_buf_t *held[2][200];
    psd_buf_t *buf = filled(far_arena, PSD_CHANNEL_SMALL + 4, 1);
    pthread_t thread[2];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 400; i++) {
            psd_channel_send(far, "h", 1, buf);
            cr_assert_eq(psd_channel_receive(near, &post, &held[i % 2][i / 2], &err), 1);
        }
        psd_channel_sleep(far);
        for (int i = 0; i < 2; i++)
            pthread_create(&thread[i], NULL, release, held[i]);
        for (int i = 0; i < 2; i++)
            pthread_join(thread[i], NULL);
        psd_channel_rise(far);
        cr_assert_eq(psd_channel_tend(far, &err), PSD_OK);
        cr_assert(psd_buf_is_unique(buf));
    }
    psd_buf_unref(&buf);
}

/* ---- lies ---- */

static void tell_a_segment(void)
{
    psd_buf_t *buf = filled(far_arena, 100000, 1);
    cr_assert_eq(psd_channel_send(far, "h", 1, buf), PSD_OK);
    cr_assert_eq(psd_channel_receive(near, &post, &payload, &err), 1);
    psd_buf_unref(&payload);
    psd_buf_unref(&buf);
}

static void lie(uint32_t segment, uint64_t offset, uint64_t n_bytes, uint32_t ticket)
{
    psd_slot_t *slot = &liar->slot[liar->sent % PSD_BOARD_SLOTS];
    slot->n_header = 1;
    slot->segment = segment;
    slot->offset = offset;
    slot->n_bytes = n_bytes;
    slot->ticket = ticket;
    liar->sent++;
}

/* The far arena has one segment, of 64 MiB. */
Test(channel, a_payload_outside_the_shared_memory_is_refused)
{
    static const struct {
        uint32_t segment;
        uint64_t offset, n_bytes;
        bool good;
    } cases[] = {
        { 0, 0, 1 << 20, true },
        { 0, (64 << 20) - 4, 4, true },
        { 1, 0, 4, false },
        { UINT32_MAX, 0, 4, false },
        { PSD_ARENA_SEGMENTS, 0, 4, false },
        { 0, 64 << 20, 4, false },
        { 0, (64 << 20) - 4, 8, false },
        { 0, UINT64_MAX - 3, 8, false },
        { 0, 8, UINT64_MAX - 4, false },
        { 0, 0, PSD_CHANNEL_PAYLOAD + 1, false },
        { 0, 0, UINT64_MAX, false },
        { 0, 1, 4, false },
    };
    tell_a_segment();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lie(cases[i].segment, cases[i].offset, cases[i].n_bytes, 1);
        const int rc = psd_channel_receive(near, &post, &payload, &err);
        cr_expect_eq(rc, cases[i].good ? 1 : PSD_EPROTO, "case %zu: %d", i, rc);
        cr_expect(cases[i].good || strstr(err.text, "a payload"), "%s", err.text);
        psd_buf_unref(&payload);
    }
}

Test(channel, more_payloads_than_there_are_tickets_are_refused)
{
    static psd_buf_t *held[PSD_BOARD_TICKETS];
    tell_a_segment();
    for (int i = 0; i < PSD_BOARD_TICKETS; i++) {
        lie(0, 0, PSD_CHANNEL_SMALL + 4, 5);
        cr_assert_eq(psd_channel_receive(near, &post, &held[i], &err), 1);
    }
    lie(0, 0, 100, 5);
    cr_expect_eq(psd_channel_receive(near, &post, &payload, &err), PSD_EPROTO);
    cr_expect(strstr(err.text, "4096"), "%s", err.text);
    for (int i = 0; i < PSD_BOARD_TICKETS; i++)
        psd_buf_unref(&held[i]);
}

Test(channel, returning_a_buffer_that_one_does_not_have_is_refused)
{
    psd_buf_t *buf = filled(near_arena, 100, 1);
    psd_channel_send(near, "h", 1, buf);
    liar->ticket[0] = 55; /* it has 0 */
    liar->given = 1;
    cr_expect_eq(psd_channel_send(near, "h", 1, buf), PSD_EPROTO);
    cr_expect(psd_channel_has_news(near), "so that it is tended");
    cr_expect_eq(psd_channel_tend(near, &err), PSD_EPROTO);
    cr_expect(strstr(err.text, "payload 55, which it does not have"), "%s", err.text);
    psd_channel_close(&near);
    cr_expect(psd_buf_is_unique(buf));
    psd_buf_unref(&buf);
}

Test(channel, giving_back_twice_or_too_much_is_refused)
{
    psd_buf_t *buf = filled(near_arena, 100, 1);
    psd_channel_send(near, "h", 1, buf);
    psd_channel_send(near, "h", 1, buf);
    liar->given = 2; /* ticket 0 both times */
    cr_expect_eq(psd_channel_tend(near, &err), PSD_EPROTO);
    psd_channel_close(&near);
    psd_buf_unref(&buf);
}

Test(channel, a_ring_in_which_too_much_was_read_is_refused)
{
    liar->read = 17;
    cr_expect_eq(psd_channel_send(near, "h", 1, NULL), PSD_EPROTO);
    cr_expect_eq(psd_channel_tend(near, &err), PSD_EPROTO);
    cr_expect(strstr(err.text, "it has read 17 messages of 0"), "%s", err.text);
}

Test(channel, packets_that_are_neither_wakes_nor_the_next_segment_are_refused_and_their_descriptors_closed)
{
    const struct {
        const char *bytes;
        size_t n;
        int fd;
        const char *says;
    } cases[] = {
        { "x", 1, -1, "neither" },
        { "!!", 2, -1, "neither" },
        { "!", 1, liar_fd, "neither" },
        { "x", 1, liar_fd, "neither" },
        { "S\0\0\0\0", 5, -1, "without" },
        { "S\0\0\0", 4, liar_fd, "not the next" },
        { "S\1\0\0\0", 5, liar_fd, "next" },
        { "S\0\0\0\0", 5, liar_fd, "not memory" },
        { "S\0\0\0\0.", 6, liar_fd, "not the next" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int before = count_descriptors();
        cr_assert_eq(psd_handoff_send(liar_fd, cases[i].bytes, cases[i].n, cases[i].fd), PSD_OK);
        cr_expect_eq(psd_channel_listen(near, &err), PSD_EPROTO);
        cr_expect(strstr(err.text, cases[i].says), "%s", err.text);
        cr_expect_eq(count_descriptors(), before);
    }
}

Test(channel, more_memory_than_a_peer_may_have_is_refused)
{
    psd_segment_t large;
    cr_assert_eq(psd_segment_make(&large, MOST - 4096, NULL), PSD_OK);
    psd_handoff_send(liar_fd, "S\0\0\0\0", 5, large.fd);
    psd_handoff_send(liar_fd, "S\1\0\0\0", 5, large.fd);
    cr_expect_eq(psd_channel_listen(near, &err), PSD_EPROTO);
    cr_expect(strstr(err.text, "larger than a peer may have"), "%s", err.text);
    psd_segment_close(&large);
}

Test(channel, a_board_that_is_too_small_is_refused)
{
    psd_segment_t mine, small, theirs;
    int pair[2];
    const int before = count_descriptors();
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    psd_segment_make(&mine, psd_board_bytes(), NULL);
    psd_segment_make(&small, psd_board_bytes() - 4096, NULL);
    psd_segment_map(&theirs, dup(small.fd), MOST, NULL);
    cr_expect_null(psd_channel_new(pair[0], &mine, &theirs, near_arena, MOST, &err));
    cr_expect_eq(err.code, PSD_EPROTO);
    psd_segment_close(&small);
    close(pair[1]);
    cr_expect_eq(count_descriptors(), before);
}

/* A peer whose board changes while it is read: whatever it contains, every call returns, and reads nothing outside. */
static atomic_bool is_done;
static void *write_noise(void *arg)
{
    uint64_t state = (uintptr_t)arg;
    while (!atomic_load(&is_done)) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const uint64_t value = state >> 33;
        psd_slot_t *slot = &liar->slot[value % PSD_BOARD_SLOTS];
        slot->n_header = value % 5000;
        slot->offset = value % 2 ? state : state % (64 << 20);
        slot->n_bytes = value % 3 ? value % (1 << 21) : state;
        slot->segment = value % 3;
        slot->ticket = value % 5000;
        if (value % 7 == 0)
            liar->sent++;
        if (value % 11 == 0)
            liar->given++;
        liar->sleeps = state;
        liar->wants_room = value % 2;
    }
    return NULL;
}

Test(channel, a_board_that_changes_all_the_time_leads_nowhere)
{
    pthread_t thread;
    uint64_t sum = 0;
    tell_a_segment();
    pthread_create(&thread, NULL, write_noise, (void *)1);
    for (int i = 0; i < 20000; i++) {
        psd_channel_has_news(near);
        if (psd_channel_receive(near, &post, &payload, &err) == 1 && payload)
            for (size_t at = 0; at < payload->n_bytes; at += 4096)
                sum += ((unsigned char *)payload->data)[at];
        psd_buf_unref(&payload);
        psd_channel_send(near, "h", 1, NULL);
        psd_channel_tend(near, &err);
    }
    atomic_store(&is_done, true);
    pthread_join(thread, NULL);
    cr_expect_geq(sum, 0);
}
