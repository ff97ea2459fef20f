#include <criterion/criterion.h>

#include <math.h>

#include "proto/measured.h"
#include "server/core/inbox.h"

enum { PARTS = 3 };
static psd_inbox_t inbox;

static void setup(void) { psd_inbox_size(&inbox, PARTS); }
static void teardown(void) { psd_inbox_clear(&inbox); }
TestSuite(inbox, .init = setup, .fini = teardown, .timeout = 600);

static bool take(uint32_t part, psd_buf_t *payload, double norm2)
{
    const psd_msg_t msg = { .part = part, .samples = 8, .loss = 0.5, .norm2 = 9, .base_version = 7 };
    return psd_inbox_take(&inbox, &msg, payload, norm2, isfinite(norm2) ? 0 : 10 * part + 4, 5);
}

Test(inbox, a_push_is_whole_with_its_last_part_in_any_order)
{
    cr_expect_not(take(2, NULL, 1));
    cr_expect_not(take(0, NULL, 2));
    cr_expect(psd_inbox_has(&inbox, 2) && !psd_inbox_has(&inbox, 1));
    cr_expect(take(1, NULL, 3));
    cr_expect(inbox.complete && inbox.held == PARTS && inbox.samples == 8 && inbox.loss == 0.5);
    cr_expect(inbox.norm2 == 6 && inbox.whole_norm2 == 9);
    cr_expect_eq(inbox.base_version, 5, "no worker can have newer weights than the shard");
}

Test(inbox, a_push_without_samples_is_whole_at_once_with_no_part_missing)
{
    const psd_msg_t msg = { .part = 0 };
    cr_expect(psd_inbox_take(&inbox, &msg, NULL, 0, 0, 0));
    cr_expect(psd_inbox_has(&inbox, 2));
    psd_buf_t *lacking = psd_inbox_lacking(&inbox);
    cr_expect_eq(*(const uint8_t *)lacking->data, 0);
    psd_buf_unref(&lacking);
}

Test(inbox, the_missing_parts_are_those_that_have_not_come)
{
    take(1, NULL, 0);
    psd_buf_t *lacking = psd_inbox_lacking(&inbox);
    cr_expect_eq(*(const uint8_t *)lacking->data, 1 << 0 | 1 << 2);
    psd_buf_unref(&lacking);
}

Test(inbox, a_value_that_is_not_finite_is_found_with_its_first_chunk)
{
    take(1, NULL, INFINITY);
    take(0, NULL, NAN);
    cr_expect(inbox.nonfinite && inbox.bad_chunk == 4);
    cr_expect_eq(inbox.norm2, 0);
}

Test(inbox, it_says_whether_any_part_stands_for_a_mean_with_others)
{
    psd_buf_t *mean = psd_payload_copy("12345678", 8), *joint = psd_measured_new_joint(mean, 3, 7);
    take(0, mean, 3);
    cr_expect_not(inbox.joint);
    take(1, joint, 3);
    take(2, mean, 3);
    cr_expect(inbox.joint);
    psd_inbox_drop_gradient(&inbox);
    cr_expect_not(inbox.joint);
    psd_buf_unref(&joint);
    psd_buf_unref(&mean);
}

static bool take_ahead(uint32_t part, psd_buf_t *payload)
{
    const psd_msg_t msg = { .part = part, .samples = 8, .code = PSD_PUSH_AHEAD };
    return psd_inbox_take(&inbox, &msg, payload, 0, 0, 5);
}

Test(inbox, a_part_may_be_stepped_ahead_if_its_sender_takes_that_and_no_part_stands_for_a_mean)
{
    psd_buf_t *mean = psd_payload_copy("12345678", 8), *joint = psd_measured_new_joint(mean, 3, 7);
    const psd_inbox_t unsized = { 0 };
    cr_expect_not(psd_inbox_goes_ahead(&unsized, 0));
    cr_expect_not(psd_inbox_goes_ahead(&inbox, 0), "it has not come");
    take_ahead(0, mean);
    take(1, mean, 0);
    cr_expect(psd_inbox_goes_ahead(&inbox, 0) && !psd_inbox_goes_ahead(&inbox, 1));
    psd_inbox_empty(&inbox);
    cr_expect_not(psd_inbox_goes_ahead(&inbox, 0), "that was another push");
    take_ahead(0, mean);
    take_ahead(2, joint);
    cr_expect_not(psd_inbox_goes_ahead(&inbox, 0));
    psd_buf_unref(&joint);
    psd_buf_unref(&mean);
}

Test(inbox, payloads_are_kept_until_it_is_emptied)
{
    psd_buf_t *payload = psd_payload_copy("12345678", 8);
    take(0, payload, 0);
    cr_expect_not(psd_buf_is_unique(payload));
    psd_inbox_empty(&inbox);
    cr_expect(psd_buf_is_unique(payload) && !psd_inbox_has(&inbox, 0) && !inbox.held && !inbox.complete);
    psd_buf_unref(&payload);
}

Test(inbox, a_gradient_that_is_dropped_leaves_a_whole_push_without_samples)
{
    psd_buf_t *payload = psd_payload_copy("12345678", 8);
    for (uint32_t p = 0; p < PARTS; p++)
        take(p, payload, INFINITY);
    psd_inbox_drop_gradient(&inbox);
    cr_expect(inbox.complete && !inbox.samples && !inbox.nonfinite && psd_buf_is_unique(payload));
    psd_buf_unref(&payload);
}
