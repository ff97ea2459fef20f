#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "server/core/leases.h"

TestSuite(leases, .timeout = 600);

enum { LEASE_MS = 1000, ROUND_MS = 300, ALL_SHARDS = 3 };

static psd_membership_t *members;
static psd_leases_t leases;

/* Two members, last heard at 5000, in a round that was opened then. */
static void setup(void)
{
    cr_assert_not_null(members = calloc(1, sizeof *members));
    members->n_rows = 2;
    for (uint32_t i = 0; i < 2; i++)
        members->row[i] = (psd_worker_row_t){ .id = i, .state = PSD_WORKER_LIVE, .incarnation = 4, .heard_ms = 5000, .name = "w" };
    leases = (psd_leases_t){ .members = members,
                             .now_ms = 5000,
                             .lease_ms = LEASE_MS,
                             .round_timeout_ms = ROUND_MS,
                             .round_since_ms = 5000,
                             .in_round = true,
                             .n_shards = ALL_SHARDS };
}

static void teardown(void) { free(members); }

/* The reason for which worker `i` is given up; "": it stays. */
static const char *verdict(uint32_t i)
{
    const char *why = psd_leases_judge(&leases, &members->row[i], psd_leases_round_is_late(&leases));
    return why ? why : "";
}

Test(leases, silence_is_no_more_than_silence_until_the_lease_is_over, .init = setup, .fini = teardown)
{
    leases.now_ms = 5000 + LEASE_MS;
    cr_expect_str_eq(verdict(0), "");
    leases.now_ms++;
    cr_expect_str_eq(verdict(0), "lease");
    members->row[0].heard_ms = 5001;
    cr_expect_str_eq(verdict(0), "");
}

Test(leases, exactly_the_present_workers_have_a_lease, .init = setup, .fini = teardown)
{
    leases.now_ms = 5001 + LEASE_MS;
    for (psd_worker_state_t state = PSD_WORKER_ABSENT; state <= PSD_WORKER_LEFT; state++) {
        members->row[0].state = state;
        const bool is_here =
            state == PSD_WORKER_JOINING || state == PSD_WORKER_WAITING || state == PSD_WORKER_LIVE || state == PSD_WORKER_DONE;
        cr_expect_eq(*verdict(0) != 0, is_here, "%s", psd_worker_state_name(state));
    }
}

Test(leases, a_round_with_a_push_waits_for_round_timeout, .init = setup, .fini = teardown)
{
    members->row[1].complete.n = ALL_SHARDS;
    leases.now_ms = 5000 + ROUND_MS;
    cr_expect_str_eq(verdict(0), "");
    leases.now_ms++;
    cr_expect_str_eq(verdict(0), "round timeout");
    cr_expect_str_eq(verdict(1), "", "it has pushed");
    members->row[0].state = PSD_WORKER_WAITING;
    cr_expect_str_eq(verdict(0), "", "the round does not need it");
}

Test(leases, a_push_counts_when_every_shard_has_it, .init = setup, .fini = teardown)
{
    members->row[0].complete.n = 1;
    members->row[1].complete.n = ALL_SHARDS;
    leases.now_ms = 5001 + ROUND_MS;
    cr_expect_str_eq(verdict(0), "round timeout");
    members->row[0].complete.n = ALL_SHARDS;
    cr_expect_str_eq(verdict(0), "");
}

Test(leases, no_worker_is_late_before_a_member_has_pushed, .init = setup, .fini = teardown)
{
    leases.now_ms = 5000 + LEASE_MS;
    cr_expect_not(psd_leases_round_is_late(&leases));
    members->row[1].complete.n = ALL_SHARDS;
    cr_expect(psd_leases_round_is_late(&leases));
    members->row[1].state = PSD_WORKER_LOST;
    cr_expect_not(psd_leases_round_is_late(&leases));
}

Test(leases, no_worker_is_late_without_an_open_round_or_a_timeout, .init = setup, .fini = teardown)
{
    leases.now_ms = 5000 + LEASE_MS;
    members->row[1].complete.n = ALL_SHARDS;
    leases.in_round = false;
    cr_expect_str_eq(verdict(0), "");
    leases.in_round = true;
    leases.round_timeout_ms = 0;
    cr_expect_str_eq(verdict(0), "");
}

Test(leases, a_worker_that_is_given_up_is_lost_and_logged_with_its_silence, .init = setup, .fini = teardown)
{
    psd_actions_t out = { 0 };
    members->row[0].clock = 17;
    cr_expect(psd_leases_give_up(&members->row[0], 6500, "lease", &out));
    cr_expect_eq(members->row[0].state, PSD_WORKER_LOST);
    cr_assert_eq(out.n, 1);
    cr_expect_str_eq(out.at[0].id, "worker.lost");
    cr_expect_str_eq(out.at[0].msg.text, "worker=0 name=w incarnation=4 silent_ms=1500 clock=17 why=\"lease\"");
    psd_actions_clear(&out);
}

Test(leases, a_finished_worker_that_leaves_is_not_lost, .init = setup, .fini = teardown)
{
    psd_actions_t out = { 0 };
    members->row[0].state = PSD_WORKER_DONE;
    cr_expect_not(psd_leases_give_up(&members->row[0], 6500, "lease", &out));
    cr_expect_eq(members->row[0].state, PSD_WORKER_LEFT);
    cr_expect(members->row[0].finished);
    cr_expect_eq(out.n, 0);
    psd_actions_clear(&out);
}
