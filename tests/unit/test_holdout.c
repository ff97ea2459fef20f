#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "worker/holdout.h"

static psd_err_t err;

static psd_dataset_t *parse(const char *reader, const char *text, psd_label_kind_t kind)
{
    const psd_bytes_t bytes = { .name = "x", .at = (const unsigned char *)text, .n = strlen(text) };
    psd_dataset_t *set = psd_dataset_parse(psd_dataset_reader(reader), &bytes, NULL,
                                           &(psd_dataset_options_t){ .kind = kind, .index_base = 1 }, &err);
    cr_assert_not_null(set, "%s", err.text);
    return set;
}

static const char rows[] = "0,1,0\n2,3,1\n4,5,1\n6,7,0\n8,9,1\n10,11,1\n12,13,0\n14,15,1\n16,17,1\n18,19,1\n";

/* Each row is in one of the two sets, the others in their order. */
Test(holdout, rows_are_moved_whole_and_the_seed_says_which)
{
    psd_dataset_t *train = parse("csv", rows, PSD_LABEL_CLASS), *again = parse("csv", rows, PSD_LABEL_CLASS),
                  *other = parse("csv", rows, PSD_LABEL_CLASS);
    psd_dataset_t *held = psd_holdout_take(&train, 0.3, 7, &err), *same = psd_holdout_take(&again, 0.3, 7, &err),
                  *else_ = psd_holdout_take(&other, 0.3, 8, &err);
    cr_assert(held && same && else_, "%s", err.text);
    cr_assert(held->n_rows == 3 && train->n_rows == 7);
    cr_expect(held->n_features == 2 && held->n_classes == 2 && train->n_classes == 2);
    cr_expect_eq(memcmp(held->dense, same->dense, 6 * sizeof(float)), 0);
    cr_expect_neq(memcmp(held->dense, else_->dense, 6 * sizeof(float)), 0);
    unsigned seen = 0;
    for (size_t i = 0; i < 10; i++) {
        const psd_dataset_t *set = i < 3 ? held : train;
        const float *row = set->dense + 2 * (i < 3 ? i : i - 3);
        seen |= 1u << (unsigned)(row[0] / 2);
        cr_expect_eq(row[1], row[0] + 1);
        cr_expect_eq(set->label[i < 3 ? i : i - 3], (int)(row[0] / 2) % 3 == 0 ? (row[0] < 18 ? 0 : 1) : 1);
        if (i > 3)
            cr_expect_gt(row[0], row[-2], "in the order of the file");
    }
    cr_expect_eq(seen, 0x3ff);
    psd_dataset_t *all[] = { train, again, other, held, same, else_ };
    for (size_t i = 0; i < 6; i++)
        psd_dataset_destroy(&all[i]);
}

Test(holdout, sparse_rows_too)
{
    psd_dataset_t *train = parse("libsvm", "0 1:1\n1 1:2 3:4\n0 2:5\n1 3:6\n", PSD_LABEL_CLASS);
    psd_dataset_t *held = psd_holdout_take(&train, 0.5, 1, &err);
    cr_assert_not_null(held, "%s", err.text);
    float sum = 0;
    for (size_t i = 0; i < 2; i++)
        for (int h = 0; h < 2; h++) {
            const psd_dataset_t *set = h ? held : train;
            for (uint64_t v = set->row_start[i]; v < set->row_start[i + 1]; v++)
                sum += set->value[v];
        }
    cr_expect_eq(sum, 18);
    cr_expect_eq(held->row_start[2] + train->row_start[2], 5);
    psd_dataset_destroy(&train);
    psd_dataset_destroy(&held);
}

Test(holdout, each_row_takes_its_weight_with_it)
{
    psd_dataset_t *train = parse("libsvm", "0:1 1:1\n1:2 1:2\n0:3 1:3\n1:4 1:4\n0:5 1:5\n1:6 1:6\n", PSD_LABEL_CLASS);
    psd_dataset_t *held = psd_holdout_take(&train, 0.5, 1, &err);
    cr_assert_not_null(held, "%s", err.text);
    for (size_t i = 0; i < 3; i++)
        for (int h = 0; h < 2; h++) {
            const psd_dataset_t *set = h ? held : train;
            cr_expect_eq(set->weight[i], set->value[set->row_start[i]]);
            cr_expect_eq(set->label[i], (int)set->weight[i] % 2 == 0);
        }
    psd_dataset_destroy(&train);
    psd_dataset_destroy(&held);
}

Test(holdout, a_share_that_leaves_no_row_is_refused)
{
    psd_dataset_t *train = parse("csv", "0,1,0\n2,3,1\n", PSD_LABEL_CLASS), *before = train;
    cr_expect_null(psd_holdout_take(&train, 0.9, 1, &err));
    cr_expect_eq(err.code, PSD_ECONFIG);
    cr_expect_eq(train, before);
    psd_dataset_destroy(&train);
}
