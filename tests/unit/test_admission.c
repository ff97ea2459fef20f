#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/core/admission.h"

TestSuite(admission, .timeout = 600);

enum { USER = 7, ANOTHER = 8, NOW = 5000 };

static psd_membership_t *members;
static psd_servers_t servers;
static psd_admission_look_t look;
static psd_admission_t out;

static void setup(void)
{
    cr_assert_not_null(members = calloc(1, sizeof *members));
    psd_servers_init(&servers, 2, 1000);
    servers.row[0].joined = servers.row[1].joined = true;
    look = (psd_admission_look_t){ .job = "digits", .servers = &servers };
}

static void teardown(void) { free(members); }

/* A worker with this nonce asks for id `wanted` - 1; 0: for any. */
static psd_admission_verdict_t ask_as(uint32_t user, const char *name, uint64_t nonce, uint32_t wanted)
{
    const psd_worker_hello_t hello = { .from = psd_peer_make(nonce, user), .nonce = nonce, .wanted = wanted, .name = name };
    psd_admission_judge(&out, &look, members, NOW, &hello);
    return out.verdict;
}

static psd_admission_verdict_t ask(uint64_t nonce, uint32_t wanted) { return ask_as(USER, "host:1", nonce, wanted); }

Test(admission, a_new_worker_begins_a_life_in_a_row_of_its_own, .init = setup, .fini = teardown)
{
    cr_assert_eq(ask(11, 0), PSD_ADMISSION_NEW);
    cr_assert_eq(out.row, &members->row[0]);
    cr_expect_eq(out.row->state, PSD_WORKER_JOINING);
    cr_expect_eq(out.row->incarnation, 1);
    cr_expect_eq(out.row->nonce, 11);
    cr_expect_eq(out.row->user, USER);
    cr_expect_eq(out.row->peer, psd_peer_make(11, USER));
    cr_expect_eq(out.row->heard_ms, NOW);
    cr_expect_str_eq(out.row->name, "host:1");
    cr_assert_eq(ask(12, 0), PSD_ADMISSION_NEW);
    cr_expect_eq(out.row, &members->row[1]);
}

Test(admission, a_life_that_asks_again_keeps_its_row_over_another_connection, .init = setup, .fini = teardown)
{
    ask(11, 0);
    members->row[0].state = PSD_WORKER_LIVE;
    members->row[0].heard_ms = 0;
    members->row[0].peer = 0;
    look.over = "is finished"; /* which is sent to newcomers only */
    cr_assert_eq(ask(11, 0), PSD_ADMISSION_KNOWN);
    cr_expect_eq(out.row, &members->row[0]);
    cr_expect_eq(out.row->state, PSD_WORKER_LIVE);
    cr_expect_eq(out.row->incarnation, 1);
    cr_expect_eq(out.row->peer, psd_peer_make(11, USER));
    cr_expect_eq(out.row->heard_ms, NOW);
}

Test(admission, a_life_that_is_over_is_fenced_and_the_next_in_its_row_has_another_incarnation, .init = setup, .fini = teardown)
{
    ask(11, 0);
    members->row[0].state = PSD_WORKER_LOST;
    cr_assert_eq(ask(11, 0), PSD_ADMISSION_FENCED);
    cr_expect_eq(out.row, &members->row[0]);
    cr_expect_eq(out.row->state, PSD_WORKER_LOST);
    cr_assert_eq(ask(12, 0), PSD_ADMISSION_NEW);
    cr_expect_eq(out.row, &members->row[0]);
    cr_expect_eq(out.row->incarnation, 2);
}

Test(admission, an_id_that_is_held_is_waited_for_and_its_holder_named, .init = setup, .fini = teardown)
{
    ask(11, 1);
    members->row[0].heard_ms = NOW - 300;
    cr_assert_eq(ask_as(USER, "host:2", 12, 1), PSD_ADMISSION_WAITS);
    cr_expect_null(out.row);
    cr_expect_str_eq(out.why, "worker 0 is host:1, last heard 300 ms ago; you are host:2; give each a worker.id of its own");
    cr_expect_eq(members->row[0].nonce, 11);
}

Test(admission, another_users_id_is_refused_no_matter_who_holds_it, .init = setup, .fini = teardown)
{
    ask(11, 1);
    members->row[0].state = PSD_WORKER_LOST;
    cr_assert_eq(ask_as(ANOTHER, "host:2", 12, 1), PSD_ADMISSION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_WORKER);
    cr_expect_str_eq(out.why, "worker id 0 belongs to another user");
    cr_expect_eq(ask_as(ANOTHER, "host:2", 11, 0), PSD_ADMISSION_REFUSED, "nor with the nonce of its previous holder");
    ask(13, PSD_MAX_WORKERS);
    cr_assert_eq(ask_as(ANOTHER, "host:2", 14, PSD_MAX_WORKERS), PSD_ADMISSION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_WORKER, "the last one is like the others: %s", out.why);
}

Test(admission, no_worker_begins_before_all_servers_have_joined, .init = setup, .fini = teardown)
{
    servers.row[1].joined = false;
    cr_assert_eq(ask(11, 0), PSD_ADMISSION_WAITS);
    cr_expect_str_eq(out.why, "waiting for servers: missing 1 of 2");
    cr_expect_eq(members->n_rows, 0);
}

Test(admission, finished_workers_count_towards_a_fixed_number_of_places, .init = setup, .fini = teardown)
{
    look.places = 2;
    ask(11, 0);
    ask(12, 0);
    psd_worker_let_go(&members->row[0]);
    cr_assert_eq(ask(13, 0), PSD_ADMISSION_WAITS);
    cr_expect_str_eq(out.why, "all 2 places are taken; a worker that is lost frees its own");
    members->row[1].state = PSD_WORKER_LOST;
    cr_assert_eq(ask(13, 0), PSD_ADMISSION_NEW);
    cr_expect_eq(out.row, &members->row[1]);
}

Test(admission, there_are_no_more_workers_than_ids, .init = setup, .fini = teardown)
{
    for (uint64_t k = 1; k <= PSD_MAX_WORKERS; k++)
        cr_assert_eq(ask(k, 0), PSD_ADMISSION_NEW);
    cr_assert_eq(ask(PSD_MAX_WORKERS + 1, 0), PSD_ADMISSION_WAITS);
    char why[64];
    snprintf(why, sizeof why, "all %d worker ids are in use", PSD_MAX_WORKERS);
    cr_expect_str_eq(out.why, why);
}

Test(admission, a_job_that_is_over_admits_no_new_worker, .init = setup, .fini = teardown)
{
    look.over = "was stopped";
    cr_assert_eq(ask(11, 0), PSD_ADMISSION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_JOB);
    cr_expect_str_eq(out.why, "job digits was stopped");
    cr_expect_eq(members->n_rows, 0);
}

Test(admission, a_name_that_would_break_a_log_line_is_refused, .init = setup, .fini = teardown)
{
    cr_assert_eq(ask_as(USER, "two words", 11, 0), PSD_ADMISSION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_CONFIG);
    cr_expect_not_null(strstr(out.why, "\"two words\" cannot be a worker's name"));
    cr_expect_eq(members->n_rows, 0);
}
