#include <criterion/criterion.h>

#include <string.h>
#include <unistd.h>

#include "tests/support/channels.h"
#include "worker/views.h"

/* A server and a worker in one process, each with its own mappings. */
enum { PART = 1 << 18 };
static psd_arena_t *server_arena, *worker_arena;
static psd_channel_t *server, *worker;
static psd_views_t *views;
static psd_err_t err;
static const size_t MOST = (size_t)256 << 20;
static size_t page;

static void setup(void)
{
    channels_t both;
    channels_open(&both, MOST);
    server_arena = both.arena[0];
    worker_arena = both.arena[1];
    server = both.end[0];
    worker = both.end[1];
    views = psd_views_new();
    page = (size_t)sysconf(_SC_PAGESIZE) / sizeof(float);
    cr_assert_not_null(views);
}
static void teardown(void)
{
    psd_channel_close(&server);
    psd_channel_close(&worker);
    psd_views_destroy(&views);
    psd_arena_destroy(&server_arena);
    psd_arena_destroy(&worker_arena);
}
TestSuite(views, .init = setup, .fini = teardown, .timeout = 600);

static void fill(psd_buf_t *part, float value)
{
    for (size_t i = 0; i < part->n_bytes / sizeof(float); i++)
        ((float *)part->data)[i] = value;
}

static psd_buf_t *new_part(float value)
{
    psd_buf_t *part = psd_arena_new_buf(server_arena, PART * sizeof(float));
    cr_assert_not_null(part);
    fill(part, value);
    return part;
}

/* What the worker receives of it; the caller's reference. */
static psd_buf_t *received(psd_buf_t *part)
{
    psd_post_t post;
    psd_buf_t *payload;
    cr_assert_eq(psd_channel_send(server, "w", 1, part), PSD_OK);
    cr_assert_eq(psd_channel_receive(worker, &post, &payload, &err), 1, "%s", err.text);
    return payload;
}

/* Send a part and place its `n` floats from the `from`-th on. */
static bool place(float *to, psd_buf_t *part, size_t from, size_t n)
{
    psd_buf_t *payload = received(part);
    const bool placed = psd_views_place(views, to, payload, (const float *)payload->data + from, n);
    psd_buf_unref(&payload);
    psd_channel_tend(server, &err);
    return placed;
}

static void expect(const float *at, size_t n, float value)
{
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(at[i], value, "element %zu is %g, not %g", i, (double)at[i], (double)value);
}

Test(views, a_program_sees_the_servers_memory_without_a_copy_and_holds_it_until_it_lets_go)
{
    float *w = psd_views_take(views, PART);
    psd_buf_t *part = new_part(1);
    w[5] = 7;
    cr_assert(place(w, part, 0, PART));
    expect(w, PART, 1);
    cr_expect(psd_views_are_placed(views));
    cr_expect_not(psd_buf_is_unique(part), "the server must not step it in place");
    psd_views_let_go(views);
    cr_expect(psd_views_are_placed(views), "they still lie there, where the server may change them");
    psd_channel_tend(server, &err);
    cr_expect(psd_buf_is_unique(part));
    fill(part, 2);
    cr_assert(place(w, part, 0, PART), "the same memory again");
    expect(w, PART, 2);
    cr_expect_not(psd_buf_is_unique(part));
    psd_buf_unref(&part);
}

Test(views, other_memory_takes_the_place_of_the_one_before)
{
    float *w = psd_views_take(views, PART);
    psd_buf_t *one = new_part(1), *other = new_part(2);
    cr_assert(place(w, one, 0, PART) && place(w, other, 0, PART));
    expect(w, PART, 2);
    cr_expect(psd_buf_is_unique(one));
    cr_expect_not(psd_buf_is_unique(other));
    psd_buf_unref(&one);
    psd_buf_unref(&other);
}

Test(views, memory_that_is_shown_in_the_middle_of_other_leaves_the_rest_as_it_was)
{
    float *w = psd_views_take(views, PART);
    psd_buf_t *one = new_part(1), *other = new_part(2);
    cr_assert(place(w, one, 0, PART) && place(w + 4 * page, other, 0, 2 * page));
    expect(w, 4 * page, 1);
    expect(w + 4 * page, 2 * page, 2);
    expect(w + 6 * page, PART - 6 * page, 1);
    cr_expect(psd_buf_is_unique(one));
    cr_expect_not(psd_buf_is_unique(other));
    fill(one, 7);
    w[0] = w[4 * page - 1] = w[6 * page] = w[PART - 1] = 5; /* these pages are the array's own */
    expect(w + 1, 4 * page - 2, 1);
    cr_assert(place(w + 5 * page, one, 0, 2 * page), "over the end of the other");
    expect(w + 4 * page, page, 2);
    expect(w + 5 * page, 2 * page, 7);
    cr_expect_eq(w[7 * page], 1);
    cr_expect(psd_buf_is_unique(other));
    cr_assert(place(w + 5 * page, one, 0, page), "a part of what was there");
    w[6 * page] = 3; /* the other page is the array's own again */
    cr_assert(place(w + 21 * page, other, 0, 2 * page) && place(w + 20 * page, one, 0, 2 * page), "over a beginning");
    expect(w + 20 * page, 2 * page, 7);
    expect(w + 22 * page, page, 2);
    cr_expect(psd_buf_is_unique(other));
    cr_assert(place(w + 31 * page, other, 0, page) && place(w + 30 * page, one, 0, page + 3), "a rest in another's page");
    expect(w + 30 * page, page + 3, 7);
    expect(w + 31 * page + 3, page - 3, 2);
    cr_expect(psd_buf_is_unique(other));
    cr_assert(place(w + 10 * page, other, 0, 2 * page) && place(w + 12 * page, other, 2 * page, 2 * page));
    psd_buf_t *heap = psd_buf_new(2 * sizeof(float));
    cr_expect_not(psd_views_place(views, w + 12 * page - 1, heap, heap->data, 2));
    w[12 * page - 1] = w[12 * page] = 6; /* both runs gave way */
    psd_channel_tend(server, &err);
    cr_expect(psd_buf_is_unique(other));
    psd_views_let_go(views);
    psd_channel_tend(server, &err);
    cr_expect(psd_buf_is_unique(one));
    psd_buf_unref(&one);
    psd_buf_unref(&other);
    psd_buf_unref(&heap);
}

Test(views, an_array_that_is_given_back_or_freed_holds_nothing)
{
    float *a = psd_views_take(views, PART), *b = psd_views_take(views, PART), *c = psd_views_take(views, PART);
    psd_buf_t *one = new_part(1), *two = new_part(2), *three = new_part(3);
    cr_assert(place(a, one, 0, PART) && place(b, two, 0, PART) && place(c, three, 0, PART));
    psd_views_give_back(views, a);
    psd_channel_tend(server, &err);
    cr_expect(psd_buf_is_unique(one));
    cr_expect(!psd_buf_is_unique(two) && !psd_buf_is_unique(three));
    psd_views_let_go(views);
    psd_channel_tend(server, &err);
    cr_expect(psd_buf_is_unique(two) && psd_buf_is_unique(three), "all are let go");
    cr_assert(place(b, two, 0, PART) && place(c, three, 0, PART));
    cr_expect_eq(psd_views_size(views, b), PART);
    psd_views_settle(views);
    psd_channel_tend(server, &err);
    cr_expect(psd_buf_is_unique(two) && psd_buf_is_unique(three), "of every array");
    fill(two, 8);
    fill(three, 9);
    expect(b, PART, 2);
    expect(c, PART, 3);
    for (size_t i = 0; i < 2; i++) {
        cr_assert(place(i ? b : c, three, 0, PART));
        cr_expect(psd_views_are_placed(views), "some of them");
        if (!i)
            psd_views_settle(views);
    }
    psd_views_destroy(&views);
    psd_channel_tend(server, &err);
    cr_expect(psd_buf_is_unique(three));
    psd_buf_unref(&one);
    psd_buf_unref(&two);
    psd_buf_unref(&three);
}

Test(views, chunks_of_one_part_lie_wherever_their_tensors_do_and_a_rest_below_a_page_is_copied)
{
    const size_t n = 10 * page + 3;
    float *w = psd_views_take(views, 64 * page);
    psd_buf_t *part = new_part(1);
    for (size_t i = 0; i < PART; i++)
        ((float *)part->data)[i] = (float)i;
    cr_assert(place(w + 20 * page, part, 4 * page, n));
    cr_assert(place(w + 2 * page, part, 40 * page, 2 * page));
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(w[20 * page + i], (float)(4 * page + i));
    expect(w + 20 * page + n, page - 3, 0);
    expect(w, 2 * page, 0);
    cr_expect_eq(w[2 * page], (float)(40 * page));
    w[20 * page + n] = 5; /* the last page is the array's own */
    psd_buf_unref(&part);
}

Test(views, a_part_that_is_placed_again_is_held_once)
{
    float *w = psd_views_take(views, PART);
    psd_buf_t *part = new_part(1);
    for (int i = 0; i < 3; i++)
        cr_assert(place(w, part, 0, PART));
    psd_views_let_go(views);
    psd_channel_tend(server, &err);
    cr_expect(psd_buf_is_unique(part));
    psd_buf_unref(&part);
}

Test(views, what_is_not_at_whole_pages_is_left_to_a_copy_into_memory_that_can_be_written)
{
    float *w = psd_views_take(views, PART);
    psd_buf_t *part = new_part(3), *heap = psd_buf_new(PART * sizeof(float));
    fill(heap, 4);
    cr_expect_not(place(w + 1, part, 0, page));
    cr_expect_not(place(w, part, 1, page));
    cr_expect_not(place(w, part, 0, page - 1));
    cr_expect_not(psd_views_place(views, w, heap, heap->data, PART), "not a server's memory");
    cr_expect_not(psd_views_place(views, heap->data, part, part->data, PART), "not an array of these");
    cr_assert(place(w, part, 0, PART));
    cr_expect_not(psd_views_place(views, w + page, heap, heap->data, page));
    expect(w, PART, 3);
    w[page] = w[2 * page - 1] = 5;
    cr_expect_eq(((float *)part->data)[page], 3, "the server's memory stays as it is");
    cr_expect(psd_buf_is_unique(part) || (psd_channel_tend(server, &err), psd_buf_is_unique(part)));
    psd_buf_unref(&part);
    psd_buf_unref(&heap);
}

Test(views, settled_weights_stay_whatever_the_server_does)
{
    float *w = psd_views_take(views, 2 * PART);
    psd_buf_t *one = new_part(1), *two = new_part(2);
    cr_assert(place(w, one, 0, PART) && place(w + PART, two, 0, PART));
    psd_views_settle(views);
    psd_channel_tend(server, &err);
    cr_expect_not(psd_views_are_placed(views));
    cr_expect(psd_buf_is_unique(one) && psd_buf_is_unique(two));
    fill(one, 8);
    fill(two, 9);
    expect(w, PART, 1);
    expect(w + PART, PART, 2);
    w[0] = w[2 * PART - 1] = 6;
    cr_expect_eq(((float *)one->data)[0], 8);
    psd_buf_unref(&one);
    psd_buf_unref(&two);
}

Test(views, weights_outlive_the_link_and_the_servers_memory)
{
    float *w = psd_views_take(views, PART);
    psd_buf_t *part = new_part(1);
    cr_assert(place(w, part, 0, PART));
    psd_buf_unref(&part);
    psd_channel_close(&worker);
    psd_channel_close(&server);
    psd_arena_destroy(&server_arena);
    expect(w, PART, 1);
    psd_views_settle(views);
    expect(w, PART, 1);
}

Test(views, a_worker_that_keeps_many_payloads_leaves_the_server_tickets_for_others)
{
    const size_t n = PSD_BOARD_TICKETS;
    float *w = psd_views_take(views, n * 2 * PSD_CHANNEL_SMALL / sizeof(float));
    psd_buf_t *part = psd_arena_new_buf(server_arena, 2 * PSD_CHANNEL_SMALL);
    size_t n_placed = 0;
    for (size_t i = 0; i < n; i++)
        n_placed += place(w + i * (part->n_bytes / sizeof(float)), part, 0, part->n_bytes / sizeof(float));
    cr_expect(n_placed >= n / 2 && n_placed <= n / 2 + 1, "%zu of %zu", n_placed, n);
    psd_buf_unref(&part);
}

Test(views, an_array_is_known_by_its_address_and_given_back)
{
    float *a = psd_views_take(views, 100), *b = psd_views_take(views, 0);
    cr_assert(a && b);
    expect(a, 100, 0);
    cr_expect_eq(psd_views_size(views, a), 100);
    cr_expect_eq(psd_views_size(views, b), 1);
    cr_expect_eq(psd_views_size(views, a + 1), 0);
    cr_expect(psd_views_has(views, a + 99));
    cr_expect_not(psd_views_has(views, a + 100));
    psd_views_give_back(views, a);
    cr_expect_eq(psd_views_size(views, a), 0);
    cr_expect_eq(psd_views_size(views, b), 1);
    cr_expect_null(psd_views_take(views, SIZE_MAX / 4));
}
