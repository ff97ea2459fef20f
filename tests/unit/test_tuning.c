#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/compare/tuning.h"

static psd_options_t *options;
static psd_tuning_t tuning;
static psd_err_t err;

static int begin_with(const char *rules, const char *sweep, const char *more)
{
    char of_rules[200], of_sweep[200];
    snprintf(of_rules, sizeof of_rules, "--compare-optimizers=%s", rules);
    snprintf(of_sweep, sizeof of_sweep, "--compare-lr-sweep=%s", sweep);
    options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    cr_assert_eq(psd_options_load(options, 6,
                                  (char *[]){ "psdctl", of_rules, of_sweep, "--compare-seeds=2", "--stop-steps=1600",
                                              (char *)(uintptr_t)more, NULL },
                                  &err),
                 PSD_OK, "%s", err.text);
    return psd_tuning_begin(&tuning, options, &err);
}

static int begin(const char *sweep) { return begin_with("sgd(lr=1); adam(lr=1)", sweep, "--job=t"); }

/* The losses of the range tests, 80 steps from 0.01 to 100: constant below rate `falls`, then less by 1 per decade, and from `diverges`
 * on not finite. */
static void fill_ranges(double falls, double diverges)
{
    psd_comparison_t *range = psd_tuning_now(&tuning);
    for (size_t c = 0; c < range->n; c++)
        for (unsigned s = 0; s < 2; s++) {
            psd_outcome_t *o = &range->contender[c].outcome[s];
            *o = (psd_outcome_t){ .read = true, .steps = 80, .losses = { .point = calloc(80, sizeof *o->losses.point), .n = 80 } };
            for (size_t i = 0; i < 80; i++) {
                const double lr = 0.01 * pow(10, ((double)i - 1) / 20);
                o->losses.point[i] =
                    (psd_point_t){ .step = (double)i + 1, .value = lr < diverges ? 2 - fmax(log10(lr / falls), 0) : NAN };
            }
        }
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
            round->contender[c].outcome[s] = (psd_outcome_t){ .read = true,
                                                              .final = 0.5,
                                                              .held = 0.9 - 0.1 * off + (s ? apart : -apart),
                                                              .loss = 1,
                                                              .metric = "accuracy",
                                                              .order = strdup("of rows") };
        }
}

static void fill_steps(uint64_t steps)
{
    psd_comparison_t *round = psd_tuning_now(&tuning);
    for (size_t c = 0; c < round->n; c++)
        for (unsigned s = 0; s < 2; s++)
            round->contender[c].outcome[s].steps = steps;
}

static size_t has(const psd_comparison_t *round, size_t named, double factor)
{
    size_t n = 0;
    for (size_t c = 0; c < round->n; c++)
        n += round->contender[c].named == named && round->contender[c].factor == factor;
    return n;
}

Test(tuning, rounds_keep_a_third_of_the_rates_and_train_longer_and_the_best_and_the_next_lower_are_trained_whole)
{
    bool done;
    cr_assert_eq(begin("0.01,0.03,0.1,0.3,1,3,10,30,100"), PSD_OK, "%s", err.text);
    cr_assert_eq(tuning.n_rounds, 3);
    cr_expect_eq(psd_tuning_now(&tuning)->n, 2, "a range test of each rule");
    cr_expect_float_eq(psd_tuning_now(&tuning)->share, 0.05, 1e-12);
    double steps = 2 * psd_tuning_now(&tuning)->share;
    fill_ranges(0.001, INFINITY);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_assert_not(done);
    cr_expect_eq(psd_tuning_now(&tuning)->n, 18, "which leave all rates");
    cr_expect_float_eq(psd_tuning_now(&tuning)->share, 0.05, 1e-12);
    steps += 18 * psd_tuning_now(&tuning)->share;
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
    cr_expect(has(last, 0, 10) && has(last, 0, 3) && has(last, 1, 1) && has(last, 1, 0.3));
    steps += 4;
    cr_expect_lt(steps, 0.985 * 18 / 3, "a third of the whole grid's, with room for runs that end at a whole step");
    fill(10, 0.001);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_expect(done);
    cr_assert_not_null(psd_tuning_choice(&tuning));
    cr_expect(psd_tuning_choice(&tuning)->is_best_of_sweep);
}

/* The contender of a rule with this factor. */
static psd_contender_t *find(psd_comparison_t *round, size_t named, double factor)
{
    for (size_t c = 0; c < round->n; c++)
        if (round->contender[c].named == named && round->contender[c].factor == factor)
            return &round->contender[c];
    return NULL;
}

Test(tuning, a_rate_that_was_cut_is_trained_whole_if_it_is_the_next_below_the_best_unless_it_has_diverged)
{
    bool done;
    char what[PSD_CELL];
    cr_assert_eq(begin("0.01,0.03,0.1,0.3,1,3,10,30,100"), PSD_OK, "%s", err.text);
    fill_ranges(0.001, INFINITY);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    fill(30, 0.001);
    for (unsigned s = 0; s < 2; s++)
        find(psd_tuning_now(&tuning), 1, 0.1)->outcome[s].diverged = true;
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_expect(has(psd_tuning_now(&tuning), 0, 10) && !has(psd_tuning_now(&tuning), 0, 3));
    cr_expect(has(psd_tuning_now(&tuning), 1, 0.3) && has(psd_tuning_now(&tuning), 1, 3));
    fill(10, 0.001);
    for (unsigned s = 0; s < 2; s++)
        find(psd_tuning_now(&tuning), 1, 0.3)->outcome[s].held = 1; /* the rate below it has diverged */
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    psd_comparison_t *last = psd_tuning_now(&tuning);
    cr_expect_eq(last->n, 4);
    cr_expect(has(last, 0, 10) && has(last, 0, 3), "3 was cut");
    cr_expect(has(last, 1, 0.3) && has(last, 1, 1), "the second best of adam");
    psd_tuning_describe(&tuning, 0, (size_t)(find(&tuning.round[0], 0, 3) - tuning.round[0].contender), what);
    cr_expect_str_eq(what, "kept for the last round: next below the best");
    psd_tuning_describe(&tuning, 0, (size_t)(find(&tuning.round[0], 1, 0.1) - tuning.round[0].contender), what);
    cr_expect_str_eq(what, "cut: diverged");
}

Test(tuning, of_the_lower_rates_of_a_round_the_one_that_did_best_is_trained_whole)
{
    bool done;
    char what[PSD_CELL];
    cr_assert_eq(begin("0.01,0.03,0.1,0.3,1,3,10,30,100"), PSD_OK, "%s", err.text);
    fill_ranges(0.001, INFINITY);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    fill(3, 0.001);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    psd_comparison_t *now = psd_tuning_now(&tuning);
    cr_assert(has(now, 0, 1) && has(now, 0, 3) && has(now, 0, 10));
    fill(10, 0.001);
    for (unsigned s = 0; s < 2; s++)
        find(now, 0, 3)->outcome[s].held = find(now, 0, 1)->outcome[s].held - 0.1;
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_expect(has(psd_tuning_now(&tuning), 0, 10) && has(psd_tuning_now(&tuning), 0, 1) && !has(psd_tuning_now(&tuning), 0, 3));
    psd_tuning_describe(&tuning, 1, (size_t)(find(&tuning.round[1], 0, 1) - tuning.round[1].contender), what);
    cr_expect_str_eq(what, "kept: the best of the lower rates");
}

Test(tuning, rates_that_do_nothing_or_diverge_in_the_range_test_are_not_trained_and_it_is_said_why)
{
    bool done;
    char what[PSD_CELL], *text;
    size_t n_cut = 0, n;
    cr_assert_eq(begin("0.01,0.03,0.1,0.3,1,3,10,30,100"), PSD_OK, "%s", err.text);
    cr_expect_str_eq(psd_tuning_now(&tuning)->schedule,
                     "geometric(steps=80, start_factor=1, end_factor=10000, warmup=0, warmup_start=0)");
    cr_expect_str_eq(psd_tuning_now(&tuning)->contender[1].label, "adam(lr=0.01 to 100)");
    fill_ranges(1.5, 5);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    const psd_comparison_t *first = psd_tuning_now(&tuning);
    cr_expect_eq(first->n, 10, "0.1 to 10 of both rules: the neighbours too");
    cr_expect(has(first, 0, 0.1) && has(first, 0, 10) && has(first, 1, 0.1) && has(first, 1, 10));
    for (size_t c = 0; c < tuning.grid.n; c++) {
        psd_tuning_describe_cut(&tuning, c, what);
        n_cut += *what != '\0';
        cr_expect_eq(*what != '\0', !has(first, tuning.grid.contender[c].named, tuning.grid.contender[c].factor));
    }
    cr_expect_eq(n_cut, 8);
    cr_expect_eq(psd_tuning_grid_steps(&tuning), 0, "not known yet");
    for (uint64_t steps = 80; !done; steps = steps == 80 ? 240 : 1600) {
        fill(3, 0.001);
        fill_steps(steps);
        cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    }
    cr_expect_eq(psd_tuning_grid_steps(&tuning), 2 * 9 * 2 * 1600);
    /* Two seeds of two rules: the range test, 5 rates, 3, and 2. */
    cr_expect_eq(psd_tuning_steps(&tuning), 4 * (80 + 5 * 80 + 3 * 240 + 2 * 1600));
    FILE *out = open_memstream(&text, &n);
    psd_tuning_print_cuts(&tuning, out);
    fclose(out);
    cr_expect_not_null(
        strstr(text, "sgd(lr=0.01 to 100)   -                 5 of 9 rates kept: the loss falls from 1.4 on and diverges at 5\n"),
        "%s", text);
    cr_expect_not_null(
        strstr(text, "sgd(lr=0.01)          -                 cut by the range test: the loss falls only from 1.4 on\n"), "%s",
        text);
    cr_expect_not_null(strstr(text, "adam(lr=100)          -                 cut by the range test: the loss diverges at 5\n"),
                       "%s", text);
    cr_expect_not_null(strstr(text, "17600 steps; the whole grid would take 57600\n"), "%s", text);
    free(text);
    out = open_memstream(&text, &n);
    cr_expect(psd_tuning_page(&tuning, out));
    fclose(out);
    cr_expect_not_null(strstr(text, "<td class=\"w long\">cut by the range test: the loss diverges at 5</td>"));
    cr_expect_not_null(strstr(text, "\"ranges\":[{\"optimizer\":\"sgd(lr=0.01 to 100)\""), "and the curves");
    free(text);
    json_t *json = psd_tuning_json(&tuning), *tests = json_object_get(json, "range_tests"), *cut;
    cr_expect_eq(json_array_size(tests), 2);
    cut = json_object_get(json_array_get(tests, 0), "cut");
    cr_expect_eq(json_array_size(cut), 4);
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(cut, 3), "outcome")),
                     "cut by the range test: the loss diverges at 5");
    cr_expect_eq(json_integer_value(json_object_get(json, "steps")), 17600);
    json_decref(json);
}

Test(tuning, one_seed_that_fails_or_a_rule_with_a_rate_of_its_own_cuts_nothing)
{
    bool done;
    char *text;
    size_t n;
    cr_assert_eq(begin_with("sgd(lr=1); prodigy(lr=1); muon(lr=1)", "0.01,0.1,1,10,100", "--job=t"), PSD_OK, "%s", err.text);
    cr_expect_eq(psd_tuning_now(&tuning)->n, 1, "prodigy finds its rate, muon gives some tensors another");
    fill_ranges(0.25, 5);
    psd_outcome_clear(&psd_tuning_now(&tuning)->contender[0].outcome[1]);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_expect_eq(psd_tuning_now(&tuning)->n, 15);
    FILE *out = open_memstream(&text, &n);
    psd_tuning_print_cuts(&tuning, out);
    fclose(out);
    cr_expect_not_null(strstr(text, "5 of 5 rates kept: its range test failed\n"), "%s", text);
    cr_expect_not_null(strstr(text, "no range test: it finds its own rate\n"));
    cr_expect_not_null(strstr(text, "no range test: some tensors have a rate of their own\n"));
    free(text);
    teardown();
    cr_assert_eq(begin_with("sgd(lr=1)", "0.01,0.1,1,10", "--groups=*.bias(lr=0.1)"), PSD_OK, "%s", err.text);
    cr_expect_str_eq(tuning.rule[0].found.why_not, "some tensors have a rate of their own");
    cr_expect_eq(psd_tuning_now(&tuning)->n, 4, "nothing to test, so the first round begins at once");
    teardown();
    cr_assert_eq(begin_with("sgd(lr=1)", "0.01,0.1,1,10", "--groups=*.bias(freeze=1)"), PSD_OK, "%s", err.text);
    cr_expect(tuning.rule[0].is_tested);
    teardown();
    cr_assert_eq(begin_with("sgd(lr=1)", "0.01,0.1,1,10", "--stop-steps=140"), PSD_OK, "%s", err.text);
    cr_expect_str_eq(tuning.rule[0].found.why_not, "it would have too few steps", "7 for 4 rates");
    teardown();
    cr_assert_eq(begin("0.1,1,10"), PSD_OK, "%s", err.text);
    cr_expect_str_eq(tuning.rule[1].found.why_not, "there are few rates");
}

Test(tuning, a_range_test_lasts_as_the_job_does_in_epochs_or_in_steps)
{
    cr_assert_eq(begin_with("sgd(lr=1)", "0.01,0.1,1,10", "--stop-epochs=2"), PSD_OK, "%s", err.text);
    cr_expect(tuning.rise.by_epoch && tuning.rise.length == 0.1 && tuning.rise.span == 1000);
    cr_expect_str_eq(tuning.range.schedule_unit, "epoch");
    teardown();
    cr_assert_eq(begin_with("sgd(lr=1)", "0.01,0.1,1,10", "--job=t"), PSD_OK, "%s", err.text);
    cr_expect(!tuning.rise.by_epoch && tuning.rise.length == 80);
    cr_expect_str_eq(tuning.range.schedule_unit, "step");
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

static char *table(void)
{
    static char *text;
    size_t n;
    free(text);
    FILE *out = open_memstream(&text, &n);
    psd_tuning_print_cuts(&tuning, out);
    fclose(out);
    return text;
}

Test(tuning, where_no_range_overlaps_none_is_marked_and_rates_are_those_of_the_rules, .fini = teardown)
{
    bool done;
    cr_assert_eq(begin_with("sgd(lr=0.5); adam(lr=0.25)", "0.1,1,10", "--job=t"), PSD_OK, "%s", err.text);
    fill(1, 0.01);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    fill(1, 0.01);
    psd_tuning_next(&tuning, &done, &err);
    cr_expect_null(strchr(table(), '~'), "%s", table());
    json_t *json = psd_tuning_json(&tuning), *rate;
    size_t i;
    json_array_foreach(json_object_get(json_array_get(json_object_get(json, "rounds"), 0), "rates"), i, rate)
    {
        const double lr = json_number_value(json_object_get(rate, "lr")),
                     factor = json_number_value(json_object_get(rate, "lr_factor"));
        const bool is_sgd = !strncmp(json_string_value(json_object_get(rate, "optimizer")), "sgd", 3);
        cr_expect_float_eq(lr, factor * (is_sgd ? 0.5 : 0.25), 1e-12, "%zu", i);
    }
    cr_expect_eq(i, 6);
    json_decref(json);
}

Test(tuning, a_rule_with_a_failed_seed_is_not_chosen_over_one_without_and_if_all_have_one_none_is)
{
    for (size_t n_failing = 1; n_failing <= 2; n_failing++) {
        bool done;
        cr_assert_eq(begin("0.1,1,10"), PSD_OK, "%s", err.text);
        adams_lag = 0.1; /* sgd does better with the seeds that train */
        fill(1, 0.01);
        cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
        fill(1, 0.01);
        for (size_t c = 0; c < tuning.round[1].n; c++)
            tuning.round[1].contender[c].outcome[1].diverged = tuning.round[1].contender[c].named < n_failing;
        cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
        cr_assert(done);
        if (n_failing == 1)
            cr_expect_str_eq(psd_tuning_choice(&tuning)->label, "adam(lr=1)");
        else
            cr_expect_null(psd_tuning_choice(&tuning));
        teardown();
    }
}

Test(tuning, the_table_of_rounds_is_in_the_order_by_which_rates_were_cut_and_says_why_the_next_lower_one_was_kept)
{
    bool done;
    cr_assert_eq(begin_with("sgd(lr=1); adam(lr=1)", "0.1,1,10", "--job=t"), PSD_OK, "%s", err.text);
    fill(10, 0.01); /* held out; sgd: 0.9 at rate 10, 0.8 at 1, 0.7 at 0.1; adam: 0.9 at 1, 0.8 at the others */
    psd_comparison_t *first = psd_tuning_now(&tuning);
    for (size_t c = 0; c < first->n; c++)
        for (unsigned s = 0; s < 2; s++)
            first->contender[c].outcome[s].final =
                0.5 - first->contender[c].outcome[s].held / 10; /* the test set says the opposite */
    find(first, 0, 10)->outcome[1].untrained = find(first, 0, 1)->outcome[0].diverged = true;
    find(first, 0, 0.1)->outcome[0].untrained = find(first, 0, 0.1)->outcome[1].untrained = true;
    for (unsigned s = 0; s < 2; s++)
        find(first, 1, 0.1)->outcome[s].diverged = true;
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    fill(10, 0.01);
    cr_assert_eq(psd_tuning_next(&tuning, &done, &err), PSD_OK);
    cr_expect_not_null(strstr(table(),
                              "1      0.15   sgd(lr=10)          0.8900            kept: the best, 1 of 2 failed to train\n"
                              "1      0.15   sgd(lr=1)           0.8100            kept: next below the best, 1 of 2 diverged\n"
                              "1      0.15   sgd(lr=0.1)         0.7000 +-0.014    cut: failed to train\n"),
                       "%s", table());
    cr_expect_not_null(strstr(table(), "kept: the best\n"), "%s", table());
    cr_expect_not_null(strstr(table(), "kept: the second best; the next lower rate, 0.1, diverged\n"), "%s", table());
    cr_expect_not_null(strstr(table(), "cut: diverged\n"), "%s", table());
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

Test(tuning, short_runs_are_long_enough_for_slow_weights_to_move)
{
    cr_assert_eq(begin_with("sgd(lr=1); lookahead(sgd(lr=1), k=400)", "0.1,1,10", "--job=t"), PSD_OK, "%s", err.text);
    cr_expect_float_eq(psd_tuning_now(&tuning)->share, 0.25, 1e-12, "400 of 1600 steps");
    teardown();
    cr_assert_eq(begin_with("sgd(lr=1); lookahead(sgd(lr=1), k=400)", "0.1,1,10", "--stop-epochs=9"), PSD_OK, "%s", err.text);
    cr_expect_float_eq(psd_tuning_now(&tuning)->share, 0.15, 1e-12, "the steps of an epoch are not known");
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
    cr_expect_str_eq(err.text,
                     "--compare-lr-sweep: a search needs more than one learning rate; give compare.lr_sweep several factors");
    cr_expect_eq(psd_tuning_rounds(1), 1);
    cr_expect_eq(psd_tuning_rounds(9), 3);
    cr_expect_eq(psd_tuning_rounds(7), 3, "7, 3 and 2: a third is rounded up");
    cr_expect_eq(psd_tuning_rounds(28), 4);
}
