#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "proto/measured.h"
#include "server/entrance/intake.h"

/* Messages of many sizes, in memory that stays mapped; system/test_memory tests a sender that leaves. */
enum { MESSAGES = 200, MOST = 1 << 20 };

static uv_loop_t loop;
static psd_net_t *net;
static psd_intake_t *intake;
static float floats[2 * MOST / sizeof(float)];
static uint32_t next;

static size_t size_of(uint32_t i) { return i % 5 ? (size_t)(i * 7919 % 256) * 4096 + 4 : 0; }

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    uint32_t number;
    cr_assert_eq(arg, &next);
    cr_assert_eq(n_header, sizeof number);
    memcpy(&number, header, sizeof number);
    cr_assert_eq(number, next, "message %u came when %u was to", number, next);
    cr_expect_eq(peer, number + 1);
    cr_assert_eq(payload ? payload->n_bytes : 0, size_of(number));
    if (payload) {
        cr_expect_neq(payload->data, floats, "a copy");
        cr_expect_eq(memcmp(payload->data, floats, payload->n_bytes), 0);
        cr_expect(psd_measured_is(payload, payload->n_bytes / sizeof(float)));
    }
    next++;
}

static bool on_term(void *arg, uint64_t peer, const void *header, size_t n_header, size_t n_payload, psd_term_t *out)
{
    (void)arg, (void)peer, (void)header, (void)n_header, (void)n_payload, (void)out;
    return false;
}

static void setup(void)
{
    const psd_keys_t none = { .insecure = true };
    uv_loop_init(&loop);
    cr_assert(net = psd_net_new(&none, NULL));
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        floats[i] = (float)i;
    cr_assert(intake = psd_intake_new(&loop, net, on_message, on_term, &next));
}

static void teardown(void)
{
    psd_intake_close(&intake);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(uv_loop_close(&loop), 0);
    psd_net_destroy(&net);
}
TestSuite(intake, .init = setup, .fini = teardown, .timeout = 600);

static void put(uint32_t number)
{
    psd_buf_t *payload = size_of(number) ? psd_buf_borrow(floats, size_of(number)) : NULL;
    psd_intake_put(intake, number + 1, &number, sizeof number, payload);
    psd_buf_unref(&payload);
}

Test(intake, messages_are_delivered_in_the_order_in_which_they_came_as_copies_that_are_measured)
{
    for (uint32_t i = 0; i < MESSAGES; i++) {
        put(i);
        if (i % 17 == 0)
            uv_run(&loop, UV_RUN_NOWAIT);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(next, MESSAGES);
}

Test(intake, a_small_message_with_nothing_before_it_is_delivered_at_once)
{
    put(0);
    cr_expect_eq(next, 1);
}

Test(intake, nothing_is_delivered_after_it_is_closed)
{
    for (uint32_t i = 1; i < 100; i++)
        put(next + i);
    const uint32_t before = next;
    psd_intake_close(&intake);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(next, before);
}

/* ---- means: sender 1 + 2 * p and its neighbour are the terms of part p's mean ---- */

enum { TOGETHER = 40, FLOATS = 200000 };
static float second[FLOATS];
static const float *came[TOGETHER]; /* what was delivered, by sender */
static psd_buf_t *kept[TOGETHER];
static unsigned n_came, n_joint;
static double expected_squares[2];

static void on_term_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    (void)arg, (void)header;
    cr_assert_eq(n_header, 1);
    cr_assert_eq(peer, n_came + 1, "in the order in which they came");
    cr_assert_not_null(payload);
    if (psd_measured_mean(payload)) {
        n_joint++;
        cr_expect_eq(psd_measured_mean(payload), 1 + n_came / 2);
        cr_expect_eq(psd_measured_squares(payload, FLOATS), expected_squares[n_came % 2], "its own");
    }
    came[n_came] = payload->data;
    kept[n_came++] = psd_buf_ref(payload);
}

static bool on_term_of_two(void *arg, uint64_t peer, const void *header, size_t n_header, size_t n_payload, psd_term_t *out)
{
    const uint32_t number = (uint32_t)peer - 1, index = number % 2;
    cr_assert_eq(arg, &next);
    cr_assert_eq(*(const char *)header, 'h');
    cr_assert_eq(n_header, 1);
    *out = (psd_term_t){ .mean = 1 + number / 2, .n = 2, .index = index, .weight = index ? 0.75 : 0.25 };
    return n_payload != 4 * 300000;
}

static void begin_means(void)
{
    psd_intake_close(&intake);
    cr_assert(intake = psd_intake_new(&loop, net, on_term_message, on_term_of_two, &next));
    for (size_t i = 0; i < FLOATS; i++)
        second[i] = (float)(i % 1000) - 3;
    const float *const of[] = { floats, second };
    for (int k = 0; k < 2; k++) {
        psd_buf_t *plain = psd_buf_borrow(of[k], FLOATS * sizeof(float));
        expected_squares[k] = psd_measured_squares(plain, FLOATS);
        psd_buf_unref(&plain);
    }
}

static void end_means(void)
{
    for (unsigned i = 0; i < n_came; i++)
        psd_buf_unref(&kept[i]);
}

static void put_term(uint64_t peer, const float *values, size_t n)
{
    psd_buf_t *payload = psd_buf_borrow(values, n * sizeof(float));
    psd_intake_put(intake, peer, "h", 1, payload);
    psd_buf_unref(&payload);
}

Test(intake, gradients_whose_mean_is_expected_become_one_that_stands_for_all_of_them, .init = begin_means, .fini = end_means)
{
    static float mean[FLOATS];
    psd_aggregate(mean, (const float *const[]){ floats, second }, (const double[]){ 0.25, 0.75 }, 2, FLOATS);
    for (unsigned i = 0; i < TOGETHER; i++)
        put_term(i + 1, i % 2 ? second : floats, FLOATS);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(n_came, TOGETHER);
    cr_expect_eq(n_joint, TOGETHER);
    for (unsigned i = 0; i < TOGETHER; i++) {
        cr_expect_eq(memcmp(came[i], mean, sizeof mean), 0);
        cr_expect_eq(came[i], came[i ^ 1], "kept once");
    }
}

Test(intake, a_gradient_that_cannot_be_part_of_the_mean_leaves_each_to_itself, .init = begin_means, .fini = end_means)
{
    static float bad[FLOATS];
    bad[FLOATS - 1] = INFINITY;
    put_term(1, floats, FLOATS);
    put_term(2, bad, FLOATS);
    put_term(3, floats, FLOATS);
    put_term(4, second, FLOATS - 1);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(n_came, 4);
    cr_expect_eq(n_joint, 0);
    cr_expect_eq(memcmp(came[0], floats, FLOATS * sizeof(float)), 0);
    cr_expect_eq(memcmp(came[1], bad, sizeof bad), 0);
    cr_expect_eq(memcmp(came[3], second, (FLOATS - 1) * sizeof(float)), 0);
}

Test(intake, a_gradient_whose_others_do_not_come_is_delivered_a_little_later, .init = begin_means, .fini = end_means)
{
    put_term(1, floats, FLOATS);
    cr_expect_eq(n_came, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(n_came, 1);
    put_term(2, second, FLOATS);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(n_came, 2);
    cr_expect_eq(n_joint, 0);
    cr_expect_eq(memcmp(came[1], second, sizeof second), 0);
}

Test(intake, what_is_held_is_dropped_when_it_is_closed, .init = begin_means, .fini = end_means)
{
    put_term(1, floats, FLOATS);
    put_term(2, floats, 300000);
    psd_intake_close(&intake);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(n_came, 0);
}
