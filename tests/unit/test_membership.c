#include <criterion/criterion.h>

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
    cr_assert_eq(psd_membership_admit(members, 1 + 1, 7)->id, 1); /* it comes back itself */
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
