/* The value that the gradients of a round combine to. */
#include <criterion/criterion.h>

#include "common/optim/aggregate.h"

Test(reduce, weights_are_shares_of_samples_or_of_workers_or_ones)
{
    cr_expect_eq(psd_reduce_weight(PSD_REDUCE_MEAN_SAMPLES, 16, 64, 3), 0.25);
    cr_expect_eq(psd_reduce_weight(PSD_REDUCE_MEAN_WORKERS, 16, 64, 4), 0.25);
    cr_expect_eq(psd_reduce_weight(PSD_REDUCE_SUM, 16, 64, 4), 1);
}

Test(reduce, a_gradient_without_samples_has_no_weight)
{
    for (int how = PSD_REDUCE_MEAN_SAMPLES; how <= PSD_REDUCE_SUM; how++)
        cr_expect_eq(psd_reduce_weight((psd_reduce_t)how, 0, 64, 4), 0);
}

Test(reduce, a_sum_is_the_mean_over_workers_as_often_as_there_are_workers)
{
    const float a[] = { 1, -2 }, b[] = { 3, 0.5f }, *const g[] = { a, b };
    float mean[2], sum[2];
    double weight[2];
    for (int k = 0; k < 2; k++)
        weight[k] = psd_reduce_weight(PSD_REDUCE_MEAN_WORKERS, 1 + 9 * (uint64_t)k, 11, 2);
    psd_aggregate(mean, g, weight, 2, 2);
    for (int k = 0; k < 2; k++)
        weight[k] = psd_reduce_weight(PSD_REDUCE_SUM, 1 + 9 * (uint64_t)k, 11, 2);
    psd_aggregate(sum, g, weight, 2, 2);
    cr_expect(sum[0] == 4 && sum[1] == -1.5f && sum[0] == 2 * mean[0] && sum[1] == 2 * mean[1]);
}

Test(reduce, each_is_found_by_its_name_and_others_are_not)
{
    psd_reduce_t how;
    for (int i = PSD_REDUCE_MEAN_SAMPLES; i <= PSD_REDUCE_SUM; i++)
        cr_expect(psd_reduce_find(psd_reduce_name((psd_reduce_t)i), &how) && (int)how == i);
    cr_expect_not(psd_reduce_find("mean", &how));
}

Test(reduce, terms_of_several_rounds_divided_by_all_samples_are_their_mean)
{
    const float a[] = { 1, -2 }, b[] = { 3, 0.5f };
    float mean[2];
    for (int how = PSD_REDUCE_MEAN_SAMPLES; how <= PSD_REDUCE_SUM; how++) {
        double acc[2];
        psd_aggregate_add(acc, a, psd_reduce_term((psd_reduce_t)how, 1), true, 2);
        psd_aggregate_add(acc, b, psd_reduce_term((psd_reduce_t)how, 3), false, 2);
        psd_aggregate_divide(mean, acc, psd_reduce_divisor((psd_reduce_t)how, 4, 2), 2);
        const float want[][2] = { { 2.5f, -0.125f }, { 2, -0.75f }, { 4, -1.5f } };
        cr_expect(mean[0] == want[how][0] && mean[1] == want[how][1], "%s: %g %g", psd_reduce_name((psd_reduce_t)how),
                  (double)mean[0], (double)mean[1]);
        cr_expect_eq(psd_reduce_term((psd_reduce_t)how, 0), 0);
    }
}
