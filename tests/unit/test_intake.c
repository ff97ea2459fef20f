#include <criterion/criterion.h>
#include <string.h>

#include "proto/measured.h"
#include "server/entrance/intake.h"

/* Messages of many sizes, in memory that stays mapped; system/test_memory tests a sender that leaves. */
enum { MESSAGES = 200, MOST = 1 << 20 };

static uv_loop_t loop;
static psd_net_t *net;
static psd_intake_t *intake;
static float floats[MOST / sizeof(float)];
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

static void setup(void)
{
    const psd_keys_t none = { .insecure = true };
    uv_loop_init(&loop);
    cr_assert(net = psd_net_new(&none, NULL));
    for (size_t i = 0; i < MOST / sizeof(float); i++)
        floats[i] = (float)i;
    cr_assert(intake = psd_intake_new(&loop, net, on_message, &next));
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
