#include <criterion/criterion.h>

#include <string.h>

#include "server/core/totals.h"
#include "tests/support/alone.h"

TestSuite(totals, .timeout = 600);

enum { TENSORS = 3, SUMS = 2, MOST = 64 };
static const psd_extent_t tensors[TENSORS] = { { .n = 5000 }, { .n = 3000 }, { .n = 7 } };

static psd_totals_t totals;

static void begin(const char *spec, double norm, uint32_t servers)
{
    psd_rule_t rule;
    cr_assert_eq(psd_rule_parse(&rule, spec, NULL), PSD_OK);
    psd_totals_init(&totals, alone(&rule), &(psd_clip_t){ .norm = norm });
    cr_assert_eq(psd_totals_begin(&totals, tensors, (const uint8_t[TENSORS]){ 0 }, TENSORS, servers), PSD_OK);
    psd_totals_await(&totals);
}

/* Sums of a chunk, such that the order of addition changes the last bits. */
static double term(uint32_t chunk, uint32_t k) { return 1.0 / (3.0 + chunk + 7.0 * k); }

static bool tell(uint32_t shard, int pass, uint32_t n_sums, uint32_t *n)
{
    double sums[MOST * SUMS];
    for (uint32_t p = 0; p < totals.map.n_held[shard]; p++)
        for (uint32_t k = 0; k < n_sums; k++)
            sums[p * n_sums + k] = term(totals.map.held[shard][p], k);
    return psd_totals_take(&totals, shard, pass, sums, (size_t)totals.map.n_held[shard] * n_sums, n);
}

Test(totals, a_rule_without_sums_awaits_none)
{
    static const char *const specs[] = { "adam", "adafactor" }; /* the second one makes a pass, but exchanges nothing */
    for (size_t i = 0; i < 2; i++) {
        begin(specs[i], 0, 2);
        cr_expect_not(psd_totals_is_awaiting(&totals));
        psd_totals_clear(&totals);
    }
}

Test(totals, sums_of_each_tensor_have_the_same_bits_for_any_number_of_servers_in_any_order)
{
    double want[TENSORS * SUMS];
    for (uint32_t servers = 1; servers <= 4; servers++) {
        uint32_t n = 0;
        begin("lamb", 0, servers);
        for (uint32_t s = servers; s-- > 1;)
            cr_expect_not(tell(s, 0, SUMS, &n));
        cr_assert(tell(0, 0, SUMS, &n));
        cr_assert_eq(n, TENSORS * SUMS);
        if (servers == 1)
            memcpy(want, totals.total, sizeof want);
        cr_expect_eq(memcmp(want, totals.total, sizeof want), 0, "%u servers", servers);
        psd_totals_await(&totals);
        for (uint32_t s = 0; s < servers; s++)
            cr_expect_eq(tell(s, 0, SUMS, &n), s + 1 == servers);
        cr_expect_eq(memcmp(want, totals.total, sizeof want), 0, "those of the next step are its own, %u servers", servers);
        cr_expect_not(psd_totals_is_awaiting(&totals));
        psd_totals_clear(&totals);
    }
    double first = 0;
    for (uint32_t c = 0; c < 5; c++) /* chunks of 1024 */
        first += term(c, 1);
    cr_expect_eq(want[1], first);
}

Test(totals, clipping_comes_before_the_rule_and_is_one_sum_over_the_model)
{
    uint32_t n = 0;
    begin("lamb", 1, 2);
    cr_expect_not(tell(0, 1, SUMS, &n), "the rule's pass is not made yet");
    cr_expect_not(tell(0, 0, 1, &n));
    cr_expect_not(tell(0, 0, 1, &n), "if it reports twice, it still counts as one shard");
    cr_assert(tell(1, 0, 1, &n));
    cr_expect_eq(n, 1);
    cr_expect(psd_totals_is_awaiting(&totals));
    cr_expect_not(tell(0, 0, 1, &n), "a late repeat");
    cr_expect_not(tell(1, 1, SUMS, &n));
    cr_assert(tell(0, 1, SUMS, &n));
    cr_expect_eq(n, TENSORS * SUMS);
    cr_expect_not(psd_totals_is_awaiting(&totals));
    psd_totals_clear(&totals);
}

Test(totals, sums_of_another_number_or_server_are_let_be)
{
    uint32_t n = 0;
    double sums[4] = { 0 };
    begin("sgd", 1, 1);
    cr_expect_not(psd_totals_take(&totals, 0, 0, sums, 3, &n));
    cr_expect_not(psd_totals_take(&totals, 5, 0, sums, 0, &n));
    psd_totals_clear(&totals);
    cr_expect_not(psd_totals_is_awaiting(&totals));
    cr_expect_not(psd_totals_take(&totals, 0, 0, sums, 3, &n));
}
