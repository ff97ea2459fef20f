#include <criterion/criterion.h>

#include <stdlib.h>

#include "server/core/applied.h"

static psd_applied_t table;

static void teardown(void) { psd_applied_clear(&table); }
TestSuite(applied, .fini = teardown, .timeout = 600);

/* The row of a member whose last closed clock is `clock`, with room for pushes of one part. */
static psd_applied_row_t *member(uint32_t id, uint64_t clock)
{
    psd_applied_row_t *row = psd_applied_row(&table, id);
    row->standing = PSD_MEMBER;
    row->applied = clock;
    psd_inbox_size(&row->inbox, 1);
    return row;
}

/* Its push of the open clock comes, of so many samples. */
static void push(psd_applied_row_t *row, uint64_t samples, double loss, uint64_t now_ms)
{
    cr_assert(psd_inbox_take(&row->inbox, &(psd_msg_t){ .samples = samples, .loss = loss }, NULL, 0, 0, 0));
    psd_applied_complete(&table, row, now_ms);
}

Test(applied, a_row_is_made_once_and_its_id_is_the_last_that_must_be_looked_at)
{
    cr_expect_null(psd_applied_member(&table, 3));
    psd_applied_row_t *row = psd_applied_row(&table, 3);
    cr_expect(row->id == 3 && row->standing == PSD_PENDING && table.n_rows == 4);
    cr_expect_eq(psd_applied_row(&table, 3), row);
    psd_applied_row(&table, 1);
    cr_expect_eq(table.n_rows, 4);
}

Test(applied, only_a_member_counts_as_one_and_only_with_a_session_as_attached)
{
    psd_applied_row_t *row = psd_applied_row(&table, 0);
    row->peer = 7;
    cr_expect(!psd_applied_member(&table, 0) && !psd_applied_attached(&table, 0), "it has attached, and is no member yet");
    row->standing = PSD_MEMBER;
    cr_expect(psd_applied_member(&table, 0) == row && psd_applied_attached(&table, 0) == row);
    row->peer = PSD_PEER_NONE;
    cr_expect(psd_applied_member(&table, 0) == row && !psd_applied_attached(&table, 0));
    row->standing = PSD_GONE;
    cr_expect_null(psd_applied_member(&table, 0));
}

Test(applied, a_push_is_counted_once_although_it_may_come_again)
{
    psd_applied_row_t *row = member(0, 0);
    push(row, 8, 0.5, 100);
    cr_expect(row->pushes == 1 && row->samples == 8 && row->loss == 0.5 && row->last_push_ms == 100 && table.n_complete == 1);
    psd_applied_drop_open(&table, row);
    cr_expect(table.n_complete == 0 && !row->inbox.complete);
    row->is_again = true;
    push(row, 8, 0.5, 200);
    cr_expect(row->pushes == 1 && row->samples == 8 && row->last_push_ms == 200 && table.n_complete == 1);
    psd_applied_close(&table, row, 1);
    push(row, 4, 0.25, 300);
    cr_expect(row->pushes == 2 && row->samples == 12 && row->loss == 0.25, "of the next clock it counts");
}

Test(applied, a_closed_clock_leaves_nothing_of_its_push_and_of_the_residual_from_the_checkpoint)
{
    psd_applied_row_t *row = member(0, 4);
    row->kept = calloc(2, sizeof *row->kept);
    row->n_kept = 2;
    for (uint32_t p = 0; p < row->n_kept; p++)
        row->kept[p] = psd_payload_copy("1234", 4);
    row->has_saved = row->is_again = true;
    push(row, 8, 0.5, 100);
    psd_applied_close(&table, row, 9);
    cr_expect(row->applied == 9 && !row->inbox.complete && !row->kept && !row->n_kept && !row->has_saved && !row->is_again);
    cr_expect_eq(table.n_complete, 0);
}

Test(applied, the_slowest_are_the_members_with_the_lowest_clock)
{
    member(0, 5);
    member(1, 3);
    member(2, 3);
    psd_applied_row(&table, 3)->standing = PSD_GONE;
    psd_applied_find_slowest(&table);
    cr_expect(table.slowest == 3 && table.n_slowest == 2);
}

Test(applied, the_slowest_are_found_anew_when_the_last_of_them_has_moved_on)
{
    psd_applied_row_t *fast = member(0, 5), *a = member(1, 3), *b = member(2, 3);
    psd_applied_find_slowest(&table);
    psd_applied_close_next(&table, fast);
    cr_expect(fast->applied == 6 && table.slowest == 3 && table.n_slowest == 2);
    psd_applied_close_next(&table, a);
    cr_expect(table.slowest == 3 && table.n_slowest == 1);
    psd_applied_close_next(&table, b);
    cr_expect(table.slowest == 4 && table.n_slowest == 2);
}

Test(applied, what_is_owed_is_counted_once_for_each_worker)
{
    psd_applied_row_t *a = member(0, 0), *b = member(1, 0);
    psd_applied_owe(&table, a, true);
    psd_applied_owe(&table, a, true);
    psd_applied_owe(&table, b, true);
    cr_expect(table.n_owed == 2 && a->owed && b->owed);
    psd_applied_owe(&table, a, false);
    cr_expect(table.n_owed == 1 && !a->owed);
}

Test(applied, the_queue_is_in_the_order_of_arrival_also_when_one_leaves_from_its_middle)
{
    psd_applied_row_t *row[3] = { member(0, 0), member(1, 0), member(2, 0) };
    cr_expect_null(psd_applied_front(&table));
    for (int i = 2; i >= 0; i--) {
        push(row[i], 1, 0, 0);
        psd_applied_enqueue(&table, row[i]);
    }
    psd_applied_drop_open(&table, row[1]);
    cr_expect_not(row[1]->is_queued);
    cr_expect_eq(psd_applied_front(&table), row[2]);
    psd_applied_leave_front(&table);
    cr_expect(!row[2]->is_queued && psd_applied_front(&table) == row[0]);
    psd_applied_leave_front(&table);
    cr_expect_null(psd_applied_front(&table));
}

Test(applied, the_queue_has_room_for_every_worker_wherever_it_begins)
{
    for (uint32_t i = 0; i < 5; i++) {
        psd_applied_enqueue(&table, member(i, 0));
        psd_applied_leave_front(&table);
    }
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        psd_applied_enqueue(&table, member(i, 0));
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++) {
        cr_expect_eq(psd_applied_front(&table)->id, i);
        psd_applied_leave_front(&table);
    }
    cr_expect_null(psd_applied_front(&table));
}

Test(applied, one_that_leaves_is_owed_nothing_and_has_no_push)
{
    psd_applied_row_t *row = member(0, 0);
    push(row, 1, 0, 0);
    psd_applied_enqueue(&table, row);
    psd_applied_owe(&table, row, true);
    psd_applied_leave(&table, row);
    cr_expect(row->standing == PSD_GONE && !row->owed && !row->inbox.complete);
    cr_expect(table.n_owed == 0 && table.n_complete == 0 && !psd_applied_front(&table));
}
