#include <criterion/criterion.h>

#include <stdlib.h>

#include "server/core/absent.h"

TestSuite(absent, .timeout = 600);

/* A job that trains with two servers and needs two workers, all of which are here at 1000 ms. */
enum { LEASE_MS = 2000, START_MS = 1000 };

static psd_servers_t servers;
static psd_membership_t *members;
static psd_absent_t absent;
static psd_absent_look_t look;

static void join(uint32_t s)
{
    char why[64];
    bool is_new;
    const psd_server_hello_t hello = {
        .from = s ? psd_peer_make(s, 1) : PSD_PEER_OWN_SHARD, .nonce = s + 1, .place = s + 1, .endpoint = "tcp://b:1"
    };
    cr_assert_eq(psd_servers_join(&servers, START_MS, &hello, 1, &is_new, why, sizeof why), (int)s);
}

static void setup(void)
{
    psd_servers_init(&servers, 2, LEASE_MS);
    cr_assert_not_null(members = calloc(1, sizeof *members));
    join(0);
    join(1);
    for (uint32_t i = 0; i < 2; i++) {
        psd_worker_row_t *row = psd_membership_admit(members, 0, 7);
        row->state = PSD_WORKER_LIVE;
        row->user = 7;
        row->heard_ms = START_MS;
        row->name[0] = (char)('a' + i);
    }
    absent = (psd_absent_t){ 0 };
    look =
        (psd_absent_look_t){ .servers = &servers, .members = members, .workers_min = 2, .workers_want = 3, .lease_ms = LEASE_MS };
}
static void teardown(void) { free(members); }

static const char *words(void)
{
    static char text[512];
    psd_absent_describe(&absent, &look, text, sizeof text);
    return text;
}

Test(absent, no_peer_is_missing_while_all_are_here, .init = setup, .fini = teardown)
{
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_eq(absent.n, 0);
    cr_expect_str_eq(words(), "");
    cr_expect_eq(psd_absent_waited_ms(&absent, START_MS + 100), 0);
}

Test(absent, a_lost_worker_is_named_with_the_seconds_of_its_silence, .init = setup, .fini = teardown)
{
    members->row[1].state = PSD_WORKER_LOST;
    psd_absent_note(&absent, START_MS + LEASE_MS, &look);
    cr_expect_str_eq(words(), "more workers: 1 of 2 workers are here"); /* between two runs, each worker is absent for a moment */
    psd_absent_note(&absent, START_MS + LEASE_MS + 1000, &look);
    cr_expect_str_eq(words(), "more workers: 1 of 2 workers are here; worker 1 (b), silent for 3 s");
}

Test(absent, a_finished_worker_is_not_missing, .init = setup, .fini = teardown)
{
    members->row[1].state = PSD_WORKER_LEFT;
    members->row[1].finished = true;
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_eq(absent.n, 0);
    members->row[0].state = PSD_WORKER_LOST; /* and now no worker is left to continue */
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_eq(absent.n, 1);
    cr_expect_str_eq(words(), "more workers: of 2 workers 1 has finished, and 0 are here");
    look.workers_min = 1;
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_eq(absent.n, 1, "somebody has to make the rounds that the lost one has left undone");
    cr_expect_str_eq(words(), "more workers: of 1 workers 1 has finished, and 0 are here");
}

Test(absent, a_worker_that_left_unfinished_is_named_with_the_reason, .init = setup, .fini = teardown)
{
    members->row[1].state = PSD_WORKER_LEFT;
    members->row[1].served = true;
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_str_eq(words(), "more workers: 1 of 2 workers are here; worker 1 (b), which left before its work was done");
    members->row[1].drains = true;
    cr_expect_str_eq(words(), "more workers: 1 of 2 workers are here; worker 1 (b), which left at an operator's request");
    members->row[1].served = false;
    cr_expect_str_eq(words(), "more workers: 1 of 2 workers are here", "it has never been a member");
}

Test(absent, a_server_that_has_left_the_run_is_waited_for_by_its_address, .init = setup, .fini = teardown)
{
    psd_servers_leave(&servers, 1);
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_eq(absent.n, 1);
    cr_expect_str_eq(words(), "server 1 at tcp://b:1, which is joining again");
}

Test(absent, patience_starts_again_when_one_of_several_has_come, .init = setup, .fini = teardown)
{
    psd_servers_leave(&servers, 1);
    members->row[1].state = PSD_WORKER_LOST;
    psd_absent_note(&absent, 2000, &look);
    psd_absent_note(&absent, 5000, &look);
    cr_expect_eq(psd_absent_waited_ms(&absent, 5000), 3000);
    join(1);
    psd_absent_note(&absent, 6000, &look);
    cr_expect_eq(psd_absent_waited_ms(&absent, 6500), 500);
    psd_servers_leave(&servers, 1); /* one more loss does not restart the wait */
    psd_absent_note(&absent, 7000, &look);
    cr_expect_eq(psd_absent_waited_ms(&absent, 7000), 1000);
    psd_absent_excuse(&absent, 400, 7400);
    cr_expect_eq(psd_absent_waited_ms(&absent, 7400), 1000);
}

Test(absent, a_paused_job_names_the_missing_without_waiting_and_one_that_ends_names_none, .init = setup, .fini = teardown)
{
    members->row[1].state = PSD_WORKER_LOST;
    look.paused = true;
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_eq(absent.n, 0);
    cr_expect_str_eq(words(), "more workers: 1 of 2 workers are here");
    look.over = true;
    cr_expect_str_eq(words(), "");
}

Test(absent, before_the_start_those_that_registered_count_and_workers_want_is_named, .init = setup, .fini = teardown)
{
    look.gathering = true;
    members->row[0].state = PSD_WORKER_WAITING;
    members->row[1].state = PSD_WORKER_JOINING;
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_str_eq(words(), "more workers: 1 of 3 workers have registered");
}

Test(absent, before_the_start_those_that_have_finished_count_too, .init = setup, .fini = teardown)
{
    look.gathering = true;
    look.workers_min = 3;
    members->row[0].state = PSD_WORKER_WAITING;
    members->row[1].state = PSD_WORKER_LEFT;
    members->row[1].finished = true;
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_str_eq(words(), "more workers: 2 of 3 workers have registered");
}

Test(absent, a_first_checkpoint_that_cannot_be_made_is_missing_too, .init = setup, .fini = teardown)
{
    look.no_first = "server 1: full";
    psd_absent_note(&absent, START_MS, &look);
    cr_expect(psd_absent_is_first_alone(&absent, &look));
    cr_expect_str_eq(words(), "the first checkpoint, before which nothing is trained; it cannot be made: server 1: full");
    members->row[1].state = PSD_WORKER_LOST;
    psd_absent_note(&absent, START_MS, &look);
    cr_expect_not(psd_absent_is_first_alone(&absent, &look));
}
