#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "worker/sampler.h"

TestSuite(sampler, .timeout = 600);

Test(sampler, the_order_of_an_epoch_is_the_shuffle_of_the_convergence_references)
{
    enum { N = 1000 };
    uint32_t p[N];
    uint64_t rng = 7 + 1000 * (2 + 1);
    for (uint32_t i = 0; i < N; i++)
        p[i] = i;
    for (uint32_t i = N - 1; i >= 1; i--) {
        uint32_t j = (uint32_t)(psd_splitmix64(&rng) % (i + 1)), swap = p[i];
        p[i] = p[j];
        p[j] = swap;
    }
    psd_sampler_t *sampler = psd_sampler_new(N, N, true, 7, NULL);
    psd_slice_t slice = psd_sampler_at(sampler, 3, 0, 1);
    cr_assert_eq(slice.epoch, 2);
    cr_assert_arr_eq(slice.rows, p, sizeof p);
    psd_sampler_destroy(&sampler);
}

Test(sampler, workers_slices_together_are_the_batch_of_one_worker_for_any_number_of_workers)
{
    psd_sampler_t *one = psd_sampler_new(103, 10, true, 5, NULL), *many = psd_sampler_new(103, 10, true, 5, NULL);
    for (uint64_t clock = 1; clock <= 25; clock++)
        for (uint32_t world = 1; world <= 13; world++) {
            psd_slice_t whole = psd_sampler_at(one, clock, 0, 1);
            cr_assert_eq(whole.n, whole.n_round);
            size_t at = 0;
            for (uint32_t rank = 0; rank < world; rank++) {
                psd_slice_t part = psd_sampler_at(many, clock, rank, world);
                cr_assert(at + part.n <= whole.n);
                cr_assert_arr_eq(part.rows, whole.rows + at, part.n * sizeof *part.rows);
                at += part.n;
            }
            cr_assert_eq(at, whole.n);
        }
    psd_sampler_destroy(&one);
    psd_sampler_destroy(&many);
}

Test(sampler, an_epoch_visits_every_row_once_and_its_last_batch_may_be_smaller)
{
    psd_sampler_t *sampler = psd_sampler_new(103, 10, true, 1, NULL);
    int seen[103] = { 0 };
    cr_assert_eq(psd_sampler_steps_per_epoch(sampler), 11);
    for (uint64_t clock = 12; clock <= 22; clock++) {
        psd_slice_t slice = psd_sampler_at(sampler, clock, 0, 1);
        cr_assert_eq(slice.epoch, 1);
        cr_assert_eq(slice.n, clock == 22 ? 3 : 10);
        cr_assert_eq(slice.ends_epoch, clock == 22);
        cr_assert_eq(slice.samples_before, 103 + 10 * (clock - 12));
        for (size_t i = 0; i < slice.n; i++)
            seen[slice.rows[i]]++;
    }
    for (int i = 0; i < 103; i++)
        cr_assert_eq(seen[i], 1);
    psd_sampler_destroy(&sampler);
}

Test(sampler, a_position_does_not_depend_on_earlier_calls)
{
    psd_sampler_t *walked = psd_sampler_new(50, 8, true, 3, NULL), *jumped = psd_sampler_new(50, 8, true, 3, NULL);
    for (uint64_t clock = 1; clock < 30; clock++)
        psd_sampler_at(walked, clock, 0, 2);
    psd_slice_t a = psd_sampler_at(walked, 30, 1, 2), b = psd_sampler_at(jumped, 30, 1, 2);
    cr_assert_eq(a.n, b.n);
    cr_assert_arr_eq(a.rows, b.rows, a.n * sizeof *a.rows);
    psd_sampler_destroy(&walked);
    psd_sampler_destroy(&jumped);
}

Test(sampler, without_shuffle_rows_come_in_the_order_of_the_file)
{
    psd_sampler_t *sampler = psd_sampler_new(10, 4, false, 3, NULL);
    cr_assert_arr_eq(psd_sampler_at(sampler, 2, 0, 1).rows, ((uint32_t[]){ 4, 5, 6, 7 }), 16);
    psd_sampler_destroy(&sampler);
}

Test(sampler, a_single_sample_leaves_all_but_one_worker_with_nothing)
{
    psd_sampler_t *sampler = psd_sampler_new(10, 1, true, 3, NULL);
    size_t total = 0;
    for (uint32_t rank = 0; rank < 3; rank++)
        total += psd_sampler_at(sampler, 1, rank, 3).n;
    cr_assert_eq(total, 1);
    psd_sampler_destroy(&sampler);
}

Test(sampler, a_batch_is_full_or_a_number_and_never_more_than_the_data)
{
    size_t batch = 0;
    psd_err_t err;
    cr_assert_eq(psd_batch_parse("full", 77, &batch, &err), PSD_OK);
    cr_assert_eq(batch, 77);
    cr_assert_eq(psd_batch_parse("64", 77, &batch, &err), PSD_OK);
    cr_assert_eq(batch, 64);
    cr_assert_eq(psd_batch_parse("1000", 77, &batch, &err), PSD_OK);
    cr_assert_eq(batch, 77);
    cr_assert_eq(psd_batch_parse("1", 77, &batch, &err), PSD_OK);
    cr_assert_eq(batch, 1);
    cr_assert_eq(psd_batch_parse("99999999999999999999999", 77, &batch, &err), PSD_OK);
    cr_assert_eq(batch, 77);
    const char *wrong[] = { "", "0", "-1", "64x", "Full", "1e3", " 8" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_assert_eq(psd_batch_parse(wrong[i], 77, &batch, &err), PSD_ECONFIG, "accepted '%s'", wrong[i]);
}
