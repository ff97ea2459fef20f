#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "server/core/membership.h"

TestSuite(membership, .timeout = 600);

static psd_membership_t *members;

static void give(psd_worker_row_t *row)
{
    row->state = PSD_WORKER_LIVE;
    row->user = 7;
}

static void setup(void)
{
    cr_assert_not_null(members = calloc(1, sizeof *members));
    for (uint32_t id = 0; id < 3; id++)
        give(psd_membership_admit(members, 0, 7));
}
static void teardown(void) { free(members); }

static void leave(uint32_t id, psd_worker_state_t state, bool finished)
{
    members->row[id].state = state;
    members->row[id].finished = finished;
}

Test(membership, a_new_life_has_nothing_of_the_one_before_but_its_place, .init = setup, .fini = teardown)
{
    psd_worker_row_t *row = &members->row[1];
    *row = (psd_worker_row_t){ .id = 1,
                               .state = PSD_WORKER_LOST,
                               .incarnation = 3,
                               .peer = psd_peer_make(1, 7),
                               .user = 7,
                               .nonce = 41,
                               .heard_ms = 5,
                               .clock = 12,
                               .finished = true,
                               .drains = true,
                               .served = true,
                               .going = true,
                               .divides = true,
                               .samples = 8,
                               .loss = 0.5,
                               .nonfinite = true,
                               .in_vain = 2,
                               .quarantined = true,
                               .setting = { .is_open = true, .code = 7, .value = 0.5 },
                               .name = "longer" };
    psd_server_set_add(&row->complete, 1);
    psd_worker_begin_life(row, psd_peer_make(2, 8), 42, "b", 900);
    cr_expect(row->id == 1 && row->state == PSD_WORKER_JOINING && row->incarnation == 4 && row->nonce == 42);
    cr_expect(row->peer == psd_peer_make(2, 8) && row->user == 8 && row->heard_ms == 900);
    cr_expect_str_eq(row->name, "b");
    cr_expect_eq(row->clock, 0);
    cr_expect_not(row->finished || row->drains || row->served || row->going || row->divides);
    cr_expect(row->complete.n == 0 && row->samples == 0 && row->loss == 0 && !row->nonfinite, "it has pushed nothing");
    cr_expect(row->in_vain == 0 && !row->quarantined, "its gradients are not yet known");
    cr_expect(!row->setting.is_open, "it has asked for nothing");
}

Test(membership, a_lost_workers_place_is_given_before_one_whose_work_is_done, .init = setup, .fini = teardown)
{
    leave(0, PSD_WORKER_LEFT, true);
    leave(2, PSD_WORKER_LOST, false);
    cr_assert_eq(psd_membership_admit(members, 0, 7)->id, 2);
}

Test(membership, that_a_worker_has_finished_is_not_forgotten_while_there_is_a_new_id, .init = setup, .fini = teardown)
{
    leave(1, PSD_WORKER_LEFT, true);
    cr_assert_eq(psd_membership_admit(members, 0, 7)->id, 3);
    cr_assert_eq(psd_membership_admit(members, 1 + 1, 7)->id, 1); /* the same worker comes back */
}

Test(membership, ids_do_not_run_out_because_workers_have_finished, .init = setup, .fini = teardown)
{
    for (uint32_t id = 0; id < PSD_MAX_WORKERS; id++)
        leave(id, PSD_WORKER_LEFT, true);
    cr_assert_eq(psd_membership_admit(members, 0, 7)->id, 0);
}

Test(membership, an_id_is_not_given_to_another_user, .init = setup, .fini = teardown)
{
    leave(1, PSD_WORKER_LOST, false);
    cr_assert_null(psd_membership_admit(members, 1 + 1, 8));
    cr_assert_eq(psd_membership_admit(members, 0, 8)->id, 3);
    cr_assert_eq(psd_membership_admit(members, 0, 7)->id, 1);
}

Test(membership, a_finished_worker_counts_towards_the_quorum_but_cannot_continue_itself, .init = setup, .fini = teardown)
{
    leave(0, PSD_WORKER_LEFT, true);
    leave(1, PSD_WORKER_DONE, true);
    cr_expect_eq(psd_membership_count_finished(members), 2);
    cr_expect(psd_membership_has_quorum(members, 1, 3));
    cr_expect_not(psd_membership_has_quorum(members, 1, 4));
    cr_expect_not(psd_membership_has_quorum(members, 0, 2));
}

Test(membership, a_worker_is_found_by_its_id_or_name_while_it_is_here, .init = setup, .fini = teardown)
{
    snprintf(members->row[1].name, sizeof members->row[1].name, "b");
    cr_expect_eq(psd_membership_find(members, "1"), &members->row[1]);
    cr_expect_eq(psd_membership_find(members, "b"), &members->row[1]);
    snprintf(members->row[2].name, sizeof members->row[2].name, "host:12");
    cr_expect_null(psd_membership_find(members, "host:1"), "that is another one");
    cr_expect_null(psd_membership_find(members, "01"));
    leave(1, PSD_WORKER_LOST, false);
    cr_expect_null(psd_membership_find(members, "b"));
    cr_expect(psd_membership_has_any(members));
}

Test(membership, the_first_worker_sets_the_recipe_until_only_one_is_left, .init = setup, .fini = teardown)
{
    cr_expect(psd_membership_agrees(members, &members->row[0], "mnist"));
    cr_expect_not(psd_membership_agrees(members, &members->row[1], "cifar"));
    cr_expect(psd_membership_agrees(members, &members->row[1], ""));
    leave(0, PSD_WORKER_LEFT, false);
    leave(2, PSD_WORKER_JOINING, false); /* one that has not registered does not count */
    cr_expect(psd_membership_agrees(members, &members->row[1], "cifar"));
}

/* What worker `id` divides otherwise than it should, as another has said it; "" if nothing. */
static const char *divides(uint32_t id, const char *text)
{
    const psd_division_t *other = psd_membership_divides_otherwise(members, &members->row[id], text);
    return other ? other->text : "";
}

Test(membership, rows_that_only_workers_that_have_gone_divided_are_no_longer_those_of_the_job, .init = setup, .fini = teardown)
{
    cr_expect_str_eq(divides(0, "60 rows"), "");
    for (uint32_t id = 0; id < 3; id++)
        leave(id, PSD_WORKER_LEFT, false);
    psd_worker_begin_life(&members->row[1], 1, 9, "b", 0);
    cr_expect_str_eq(divides(1, "50 rows"), "");
    psd_worker_begin_life(&members->row[2], 1, 10, "c", 0);
    cr_expect_str_eq(divides(2, "60 rows"), "50 rows");
}

Test(membership, a_worker_begins_with_rows_that_others_divide_and_may_go_on_to_others, .init = setup, .fini = teardown)
{
    cr_expect_str_eq(divides(0, "60 rows"), "");
    cr_expect_str_eq(divides(1, "61 rows"), "60 rows");
    cr_expect_str_eq(divides(2, "60 rows"), "");
    leave(1, PSD_WORKER_LEFT, false);
    cr_expect_str_eq(divides(0, "90 rows"), "", "the next phase of its training");
    cr_expect_str_eq(divides(2, "90 rows"), "");
    for (uint32_t phase = 0; phase < 2; phase++) {
        psd_worker_begin_life(&members->row[1], 1, 2 + phase, "b", 0);
        cr_expect_str_eq(divides(1, phase ? "90 rows" : "60 rows"), "", "it comes back in a phase that the others may have left");
    }
    psd_worker_begin_life(&members->row[1], 1, 4, "b", 0);
    cr_expect_str_eq(divides(1, "61 rows"), "90 rows");
    leave(0, PSD_WORKER_LOST, false);
    leave(1, PSD_WORKER_LEFT, false);
    leave(2, PSD_WORKER_LOST, false);
    give(psd_membership_admit(members, 0, 7));
    cr_expect_str_eq(divides(0, "61 rows"), "", "nobody else is here");
}

Test(membership, a_job_that_divides_other_rows_in_each_epoch_is_not_checked, .init = setup, .fini = teardown)
{
    char text[16];
    for (int seed = 0; seed < PSD_MAX_DIVISIONS + 2; seed++) {
        snprintf(text, sizeof text, "seed %d", seed);
        cr_expect_str_eq(divides(0, text), "");
    }
    cr_expect_str_eq(divides(1, text), "");
}

Test(membership, a_new_run_removes_all_members_and_forgets_finished_ones_only_if_rounds_are_undone, .init = setup, .fini = teardown)
{
    leave(0, PSD_WORKER_LEFT, true);
    leave(1, PSD_WORKER_DONE, true);
    psd_membership_begin_run(members, false);
    cr_expect_eq(psd_membership_count_finished(members), 1);
    cr_expect_not(psd_membership_has_any(members));
    cr_expect(members->row[0].finished);
    cr_expect_not(members->row[1].finished, "it had not left yet, and has to come again");
    psd_membership_begin_run(members, true);
    cr_expect_eq(psd_membership_count_finished(members), 0);
}

Test(membership, the_end_names_those_that_have_not_finished, .init = setup, .fini = teardown)
{
    char text[512];
    for (uint32_t id = 0; id < 3; id++) {
        members->row[id].served = true;
        members->row[id].clock = 5;
        members->row[id].name[0] = 'w';
        leave(id, PSD_WORKER_LEFT, true);
    }
    psd_membership_describe_end(members, "round", false, text, sizeof text);
    cr_expect_str_eq(text, "every worker has finished");
    leave(2, PSD_WORKER_LOST, false);
    psd_membership_describe_end(members, "round", false, text, sizeof text);
    cr_expect_str_eq(text, "2 of 3 workers have finished; worker 2 (w) was lost at round 5");
    leave(0, PSD_WORKER_LEFT, false);
    leave(1, PSD_WORKER_LEFT, false);
    members->row[1].drains = true;
    psd_membership_describe_end(members, "step", true, text, sizeof text);
    cr_expect_str_eq(text,
                     "0 of 3 workers have finished; worker 0 (w) left before its work was done at step 5; worker 1 (w) left at "
                     "an operator's request at step 5; worker 2 (w) was lost and not replaced, at step 5");
    members->row[0].served = false;
    leave(2, PSD_WORKER_DONE, true);
    psd_membership_describe_end(members, "step", true, text, sizeof text);
    cr_expect_str_eq(text, "1 of 2 workers has finished; worker 1 (w) left at an operator's request at step 5");
}

Test(membership, a_fenced_incarnation_receives_the_reason, .init = setup, .fini = teardown)
{
    char text[256];
    members->row[1].incarnation = 2;
    psd_worker_describe_fenced(&members->row[1], 1, text, sizeof text);
    cr_expect_str_eq(text, "worker 1 incarnation 1 was replaced by incarnation 2");
    psd_worker_let_go(&members->row[1]);
    psd_worker_describe_fenced(&members->row[1], 2, text, sizeof text);
    cr_expect_str_eq(text, "worker 1 incarnation 2 has left");
}

Test(membership, one_that_is_going_is_waited_for_until_two_and_a_half_seconds_of_silence, .init = setup, .fini = teardown)
{
    members->row[1].heard_ms = 1000;
    cr_expect_not(psd_membership_any_going(members, 1000));
    members->row[1].going = true;
    cr_expect(psd_membership_any_going(members, 3499));
    cr_expect_not(psd_membership_any_going(members, 3500));
}

Test(membership, no_two_lives_of_a_row_have_the_same_incarnation, .init = setup, .fini = teardown)
{
    psd_worker_row_t *row = &members->row[1];
    row->finished = row->drains = true;
    psd_server_set_add(&row->complete, 3);
    psd_worker_begin_life(row, psd_peer_make(1, 7), 42, "b", 9);
    cr_expect_eq(row->incarnation, 1);
    psd_worker_begin_life(row, psd_peer_make(2, 7), 43, "c", 10);
    cr_expect_eq(row->incarnation, 2);
    cr_expect_eq(row->id, 1);
    cr_expect_eq(row->state, PSD_WORKER_JOINING);
    cr_expect_not(row->finished || row->drains || row->complete.n, "nothing of the life before is left");
    cr_expect_eq(psd_membership_by_nonce(members, 43), row);
    cr_expect_null(psd_membership_by_nonce(members, 42));
}

Test(membership, each_state_of_a_worker_has_its_word)
{
    static const char *const words[] = { "absent", "joining", "waiting", "live", "done", "lost", "left", "unknown" };
    for (psd_worker_state_t state = PSD_WORKER_ABSENT; state <= PSD_WORKER_LEFT + 1; state++)
        cr_expect_str_eq(psd_worker_state_name(state), words[state]);
}
