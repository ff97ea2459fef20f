#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "worker/score.h"

TestSuite(score, .timeout = 60);

static double value(const psd_score_t *score, const char *name)
{
    for (size_t i = 0; psd_metric_at(i); i++)
        if (psd_metric_at(i) == psd_metric_find(name))
            return score->value[i];
    cr_assert_fail("no metric %s", name);
    return 0;
}

static psd_score_t of(const psd_dataset_t *set, const double *loss, const double *score, const float *z)
{
    psd_scorer_t *self = psd_scorer_new(set);
    for (size_t i = 0; i < set->n_rows; i++)
        psd_scorer_add(self, loss[i], score[i], z + i, 1);
    const psd_score_t out = psd_scorer_end(self, psd_metric_find(set->kind == PSD_LABEL_CLASS ? "auc" : "mae"));
    psd_scorer_destroy(&self);
    return out;
}

Test(score, two_classes_have_accuracy_auc_and_logloss_by_weight)
{
    const psd_dataset_t set = { .n_rows = 4, .n_classes = 2, .label = (float[]){ 0, 1, 0, 1 }, .weight = (float[]){ 1, 2, 3, 4 } };
    const psd_score_t s = of(&set, (double[]){ 0.1, 0.2, 0.3, 0.4 }, (double[]){ 1, 0, 1, 1 }, (float[]){ -1, -1, -2, 5 });
    cr_expect_float_eq(value(&s, "accuracy"), 8 / 10.0, 1e-12, "1 + 3 + 4 of 10");
    cr_expect_float_eq(value(&s, "logloss"), (0.1 + 0.4 + 0.9 + 1.6) / 10, 1e-12);
    cr_expect_eq(s.loss, value(&s, "logloss"));
    /* Pairs of a 1 and a 0, by the product of their weights: row 1 ties with row 0 (2 x 1, half) and beats row 2 (2 x 3); row 3
     * beats both (4 x 1, 4 x 3). Of (2 + 4) x (1 + 3) = 24: 1 + 6 + 4 + 12 = 23. */
    cr_expect_float_eq(value(&s, "auc"), 23 / 24.0, 1e-12);
    cr_expect_eq(s.metric, value(&s, "auc"));
    cr_expect(isnan(value(&s, "mse")));
    cr_expect_float_eq(psd_metric_find("accuracy")->chance(&set), 6 / 10.0, 1e-12, "class 1 has 2 + 4 of 10");
    cr_expect_float_eq(psd_metric_find("logloss")->chance(&set), -0.4 * log(0.4) - 0.6 * log(0.6), 1e-12);
}

Test(score, numbers_have_mse_mae_and_r2_by_weight)
{
    const psd_dataset_t set = {
        .n_rows = 3, .kind = PSD_LABEL_TARGET, .label = (float[]){ 1, 2, 4 }, .weight = (float[]){ 1, 1, 2 }
    };
    const psd_score_t s = of(&set, (double[]){ 0, 0, 0 }, (double[]){ 1, 0, 0.25 }, (float[]){ 2, 2, 3.5f });
    cr_expect_float_eq(value(&s, "mse"), (1 + 0 + 0.5) / 4, 1e-12);
    cr_expect_float_eq(value(&s, "mae"), (1 + 0 + 1) / 4.0, 1e-12);
    /* mean (1 + 2 + 8) / 4 = 2.75; squares 3.0625 + 0.5625 + 2 x 1.5625 = 6.75 */
    cr_expect_float_eq(value(&s, "r2"), 1 - 1.5 / 6.75, 1e-12);
    cr_expect_float_eq(psd_metric_find("mse")->chance(&set), 6.75 / 4, 1e-12);
    cr_expect_float_eq(psd_metric_find("mae")->chance(&set), (1 + 0 + 2 * 2) / 4.0, 1e-12, "around the median, 2");
    cr_expect(isnan(value(&s, "accuracy")));
}

Test(score, two_outputs_order_rows_by_their_difference)
{
    const psd_dataset_t set = { .n_rows = 3, .n_classes = 2, .label = (float[]){ 0, 1, 1 } };
    static const float z[][2] = { { 5, 6 }, { 1, 4 }, { 3, 5 } }; /* differences 1, 3 and 2 */
    psd_scorer_t *self = psd_scorer_new(&set);
    for (size_t i = 0; i < 3; i++)
        psd_scorer_add(self, 0, 1, z[i], 2);
    const psd_score_t s = psd_scorer_end(self, psd_metric_find("accuracy"));
    psd_scorer_destroy(&self);
    cr_expect_eq(value(&s, "auc"), 1, "rows 1 and 2 are above row 0");
    cr_expect_eq(s.metric, 1);
}

Test(score, numbers_that_are_large_and_close_have_the_r2_of_their_differences)
{
    enum { STEP = 128 }; /* the next float of 1.6e9: the squares of sums of these need more digits than a double has */
    const psd_dataset_t set = { .n_rows = 3,
                                .kind = PSD_LABEL_TARGET,
                                .label = (float[]){ 1.6e9f, 1.6e9f + STEP, 1.6e9f + 3 * STEP } };
    const psd_score_t s = of(&set, (double[]){ 0, 0, 0 }, (double[]){ STEP * STEP, 0, 0 }, (float[]){ 1.6e9f, 1.6e9f, 1.6e9f });
    cr_expect_float_eq(value(&s, "r2"), 1 - 3 / 14.0, 1e-12, "of 0 + 1 + 9 - 4 x 4 / 3");
}

Test(score, many_classes_have_no_auc_and_one_class_has_none_either)
{
    const psd_dataset_t many = { .n_rows = 2, .n_classes = 3, .label = (float[]){ 0, 2 } },
                        one = { .n_rows = 2, .n_classes = 2, .label = (float[]){ 1, 1 } };
    psd_score_t s = of(&many, (double[]){ 1, 1 }, (double[]){ 1, 0 }, (float[]){ 0, 0 });
    cr_expect(isnan(value(&s, "auc")));
    cr_expect_eq(value(&s, "accuracy"), 0.5);
    s = of(&one, (double[]){ 1, 1 }, (double[]){ 1, 0 }, (float[]){ 0, 0 });
    cr_expect(isnan(value(&s, "auc")));
}

Test(score, equal_labels_leave_auc_and_r2_undefined)
{
    psd_dataset_t set = { .n_rows = 3, .n_classes = 2, .label = (float[]){ 0, 1, 1 } };
    cr_expect_null(psd_metric_flaw(psd_metric_find("auc"), &set));
    set.weight = (float[]){ 0, 1, 2 };
    cr_expect_str_eq(psd_metric_flaw(psd_metric_find("auc"), &set), "are of one class", "a row without weight does not count");
    cr_expect_str_eq(psd_metric_flaw(psd_metric_find("r2"), &set), "have the same label");
    cr_expect_null(psd_metric_flaw(psd_metric_find("logloss"), &set));
}

Test(score, chance_is_what_one_answer_for_all_scores)
{
    const psd_dataset_t classes = { .n_rows = 10, .n_classes = 2, .label = (float[]){ 1, 1, 1, 1, 1, 1, 1, 0, 0, 0 } },
                        numbers = { .n_rows = 4, .kind = PSD_LABEL_TARGET, .label = (float[]){ 1, 2, 3, 6 } };
    cr_expect_float_eq(psd_metric_find("accuracy")->chance(&classes), 0.7, 1e-12);
    cr_expect_eq(psd_metric_find("auc")->chance(&classes), 0.5);
    cr_expect_float_eq(psd_metric_find("logloss")->chance(&classes), -0.7 * log(0.7) - 0.3 * log(0.3), 1e-12);
    cr_expect_float_eq(psd_metric_find("mse")->chance(&numbers), (4 + 1 + 0 + 9) / 4.0, 1e-12);
    cr_expect_float_eq(psd_metric_find("mae")->chance(&numbers), (1 + 0 + 1 + 4) / 4.0, 1e-12, "around the median, 2");
    cr_expect_eq(psd_metric_find("r2")->chance(&numbers), 0);
    psd_dataset_t weighted = {
        .n_rows = 3, .kind = PSD_LABEL_TARGET, .label = (float[]){ 1, 2, 4 }, .weight = (float[]){ 5, 1, 1 }
    };
    cr_expect_float_eq(psd_metric_find("mae")->chance(&weighted), (0 + 1 + 3) / 7.0, 1e-12,
                       "around 1, which has most of the weight");
}

Test(score, chance_is_that_of_the_classes_that_training_knows)
{
    /* Class 0 is the most frequent; class 1 has one row; class 2 is not among the two. */
    const psd_dataset_t set = { .n_rows = 5, .n_classes = 2, .label = (float[]){ 0, 1, 0, 2, 0 } };
    cr_expect_float_eq(psd_metric_find("accuracy")->chance(&set), 3 / 5.0, 1e-12);
    cr_expect_float_eq(psd_metric_find("logloss")->chance(&set), -0.6 * log(0.6) - 0.2 * log(0.2), 1e-12);
}

Test(score, each_metric_says_what_it_is_and_whether_less_is_better)
{
    static const struct {
        const char *name, *summary;
        bool smaller_is_better;
        psd_label_kind_t labels;
        bool two_classes;
        const char *if_equal;
    } want[] = {
        { "accuracy", "share of rows whose class is predicted correctly", false, PSD_LABEL_CLASS, false, NULL },
        { "auc", "area under the ROC curve, of two classes", false, PSD_LABEL_CLASS, true, "are of one class" },
        { "logloss", "mean of -log of the probability of the right class", true, PSD_LABEL_CLASS, false, NULL },
        { "mse", "mean squared error", true, PSD_LABEL_TARGET, false, NULL },
        { "mae", "mean absolute error", true, PSD_LABEL_TARGET, false, NULL },
        { "r2", "share of the variance that the model explains", false, PSD_LABEL_TARGET, false, "have the same label" },
    };
    const size_t n = sizeof want / sizeof *want;
    for (size_t i = 0; i < n; i++) {
        const psd_metric_t *is = psd_metric_at(i);
        cr_assert_not_null(is);
        cr_expect_str_eq(is->name, want[i].name);
        cr_expect_str_eq(is->summary, want[i].summary);
        cr_expect_eq(is->smaller_is_better, want[i].smaller_is_better, "%s", is->name);
        cr_expect_eq(is->labels, want[i].labels, "%s", is->name);
        cr_expect_eq(is->two_classes, want[i].two_classes, "%s", is->name);
        cr_expect(want[i].if_equal ? is->if_equal && !strcmp(is->if_equal, want[i].if_equal) : !is->if_equal, "%s", is->name);
    }
    cr_expect_null(psd_metric_at(n));
}

Test(score, metrics_are_for_what_they_judge)
{
    const psd_dataset_t two = { .n_classes = 2 }, three = { .n_classes = 3 }, numbers = { .kind = PSD_LABEL_TARGET };
    cr_expect(psd_metric_suits(psd_metric_find("auc"), &two));
    cr_expect_not(psd_metric_suits(psd_metric_find("auc"), &three));
    cr_expect(psd_metric_suits(psd_metric_find("logloss"), &three));
    cr_expect_not(psd_metric_suits(psd_metric_find("r2"), &two));
    cr_expect(psd_metric_suits(psd_metric_find("r2"), &numbers));
    cr_expect_null(psd_metric_find("f1"));
}
