#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/compare/tuning.h"

static psd_options_t *options;
static psd_tuning_t tuning;
static psd_err_t err;

static int begin(const char *sweep)
{
    char flag[200];
    snprintf(flag, sizeof flag, "--compare-lr-sweep=%s", sweep);
    options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    cr_assert_eq(psd_options_load(
                     options, 4,
                     (char *[]){ "psdctl", "--compare-optimizers=sgd(lr=1); adam(lr=1)", flag, "--compare-seeds=2", NULL }, &err),
                 PSD_OK, "%s", err.text);
    return psd_tuning_begin(&tuning, options, &err);
}

static void teardown(void)
{
    psd_tuning_clear(&tuning);
    psd_options_destroy(&options);
}

TestSuite(tuning, .fini = teardown, .timeout = 60);

static double adams_lag; /* adam's runs end this much below sgd's */

/* Each run of the round ends with a value that depends on its factor: sgd is best at `best`, adam at 1; two seeds differ by
 * `apart`. */
static void fill(double best, double apart)
{
    psd_comparison_t *round = psd_tuning_now(&tuning);
    for (size_t c = 0; c < round->n; c++)
        for (unsigned s = 0; s < 2; s++) {
            const psd_contender_t *one = &round->contender[c];
            const double off = fabs(log10(one->factor / (one->named ? 1 : best))) + (one->named ? 10 * adams_lag : 0);
            round->contender[c].outcome[s] = (psd_outcome_t){
                .read = true, .final = 0.5, .held = 0.9 - 0.1 * off + (s ? apart : -apart), .loss = 1, .metric = "accuracy"
            };
        }
}

static size_t has(const psd_comparison_t *round, size_t named, double factor)
{
    size_t n = 0;
    for (size_t c = 0; c < round->n; c++)
        n += round->contender[c].named == named && round->contender[c].factor == factor;
    return n;
}

Test(tuning, rounds_keep_a_third_of_the_rates_and_train_longer_and_two_are_trained_whole)
{
    bool done;
    cr_assert_eq(begin("0.01,0.03,0.1,0.3,1,3,10,30,100"), PSD_OK, "%s", err.text);
    cr_assert_eq(tuning.n_rounds, 3);
    cr_expect_eq(psd_tuning_now(&tuning)->n, 18);
    cr_expect_float_eq(psd_tuning_now(&tuning)->share, 0.05, 1e-12);
    double steps = 18 * psd_tuning_now(&tuning)->share;
    fill(10, 0.001);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_assert_not(done);
    const psd_comparison_t *second = psd_tuning_now(&tuning);
    cr_expect_eq(second->n, 6);
    cr_expect_float_eq(second->share, 0.15, 1e-12);
    cr_expect(has(second, 0, 3) && has(second, 0, 10) && has(second, 0, 30));
    cr_expect(has(second, 1, 0.3) && has(second, 1, 1) && has(second, 1, 3));
    steps += 6 * second->share;
    fill(10, 0.001);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    const psd_comparison_t *last = psd_tuning_now(&tuning);
    cr_expect_eq(last->n, 4);
    cr_expect_eq(last->share, 1);
    cr_expect(has(last, 0, 10) && has(last, 1, 1));
    steps += 4;
    cr_expect_lt(steps, 0.98 * 18 / 3, "a third of the whole grid's, with room for runs that end at a whole step");
    fill(10, 0.001);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_expect(done);
    cr_assert_not_null(psd_tuning_choice(&tuning));
    cr_expect(psd_tuning_choice(&tuning)->is_best_of_sweep);
}

Test(tuning, a_rate_that_is_cut_within_the_range_of_the_chosen_one_is_marked)
{
    bool done;
    cr_assert_eq(begin("0.1,1,10"), PSD_OK, "%s", err.text);
    fill(1, 0.06); /* held out: 0.84 to 0.96 at the best rate, 0.74 to 0.86 at the others */
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    fill(1, 0.06);
    psd_tuning_next(&tuning, &done, &err);
    size_t marked = 0;
    for (size_t c = 0; c < 6; c++)
        marked += tuning.round[0].contender[c].factor != 1 && psd_tuning_overlaps(&tuning, 0, c);
    cr_expect_eq(marked, 4);
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    psd_tuning_print_cuts(&tuning, out);
    fclose(out);
    cr_expect_not_null(strstr(text, "cut: 3 of 3 ~"), "%s", text);
    cr_expect_not_null(strstr(text, "in longer runs the ranking may change"));
    free(text);
    json_t *json = psd_tuning_json(&tuning);
    cr_assert_not_null(json);
    cr_expect_eq(json_array_size(json_object_get(json, "rounds")), 2);
    cr_expect(json_is_string(json_object_get(json, "choice")));
    json_decref(json);
}

Test(tuning, when_every_rate_has_failed_none_is_chosen)
{
    bool done;
    cr_assert_eq(begin("0.1,1,10"), PSD_OK, "%s", err.text);
    fill(1, 0.01);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    fill(1, 0.01);
    for (size_t c = 0; c < tuning.round[1].n; c++)
        for (unsigned s = 0; s < 2; s++)
            tuning.round[1].contender[c].outcome[s].diverged = true;
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_expect(done);
    cr_expect_null(psd_tuning_choice(&tuning));
}

Test(tuning, a_rate_is_compared_only_with_the_rate_chosen_for_its_own_rule)
{
    bool done;
    cr_assert_eq(begin("0.1,1,10"), PSD_OK, "%s", err.text);
    adams_lag = 0.1; /* sgd: 0.9 at the best rate, 0.8 at the others; adam: 0.8 and 0.7 */
    fill(1, 0.01);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    fill(1, 0.01);
    psd_tuning_next(&tuning, &done, &err);
    for (size_t c = 0; c < 6; c++)
        cr_expect_eq(psd_tuning_overlaps(&tuning, 0, c), tuning.round[0].contender[c].factor == 1, "%s",
                     tuning.round[0].contender[c].label);
}

Test(tuning, a_chosen_rate_at_the_edge_of_the_grid_is_said_at_the_end)
{
    bool done;
    cr_assert_eq(begin("0.1,1,10"), PSD_OK, "%s", err.text);
    fill(10, 0.001);
    psd_tuning_next(&tuning, &done, &err);
    fill(10, 0.001);
    psd_tuning_next(&tuning, &done, &err);
    const psd_comparison_t *last = &tuning.round[1];
    for (size_t c = 0; c < last->n; c++)
        cr_expect_eq(last->contender[c].is_at_edge, last->contender[c].named == 0 && last->contender[c].factor == 10);
}

Test(tuning, a_rate_that_fails_is_cut_and_a_single_rate_is_not_a_search)
{
    bool done;
    cr_assert_eq(begin("0.1,1,10"), PSD_OK, "%s", err.text);
    fill(1, 0.001);
    for (size_t c = 0; c < 6; c++)
        if (tuning.round[0].contender[c].factor == 1)
            for (unsigned s = 0; s < 2; s++)
                tuning.round[0].contender[c].outcome[s].diverged = true;
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_expect(has(psd_tuning_now(&tuning), 0, 0.1) && has(psd_tuning_now(&tuning), 0, 10), "the others");
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    psd_tuning_print_cuts(&tuning, out);
    fclose(out);
    cr_expect_not_null(strstr(text, "cut: diverged"), "%s", text);
    free(text);
    teardown();
    cr_expect_eq(begin("1"), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "a search needs more than one learning rate: give --lr-sweep several factors");
    cr_expect_eq(psd_tuning_rounds(1), 1);
    cr_expect_eq(psd_tuning_rounds(9), 3);
    cr_expect_eq(psd_tuning_rounds(7), 3, "7, 3 and 2: a third is rounded up");
    cr_expect_eq(psd_tuning_rounds(28), 4);
}
