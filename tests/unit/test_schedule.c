#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/optim/schedule.h"
#include "deploy/psdctl/inspect/golden.h"

TestSuite(schedule, .timeout = 60);

static psd_schedule_t parsed(const char *spec)
{
    psd_schedule_t schedule;
    psd_err_t err;
    cr_assert_eq(psd_schedule_parse(&schedule, spec, &err), PSD_OK, "%s: %s", spec, err.text);
    return schedule;
}

/* ---- golden rates ---- */

Test(schedule, every_golden_rate_is_met)
{
    unsigned cases = 0, rates = 0, momenta = 0;
    psd_err_t err = { .text = "" };
    FILE *file = fopen(PSD_SOURCE_DIR "/tests/golden/schedule.txt", "r");
    cr_assert_not_null(file);
    psd_golden_t *reader = psd_golden_new(file, "schedule.txt", &err);
    for (psd_golden_case_t *c; psd_golden_next(reader, &c, &err) == PSD_OK && c; psd_golden_case_destroy(&c), cases++)
        for (size_t t = 0; t < c->n_steps; t++, rates++) {
            const psd_golden_step_t *step = &c->steps[t];
            const double ours = psd_schedule_rate(&c->schedule, c->lr, (double)t);
            double momentum = NAN;
            cr_expect(fabs(ours - step->lr) <= 1e-12 * c->lr, "%s at %zu: %.17g, not %.17g", c->id, t, ours, step->lr);
            cr_expect_eq(psd_schedule_momentum(&c->schedule, (double)t, &momentum), !isnan(step->momentum), "%s", c->id);
            if (isnan(step->momentum))
                continue;
            cr_expect(fabs(momentum - step->momentum) <= 1e-12, "%s at %zu: %.17g, not %.17g", c->id, t, momentum, step->momentum);
            momenta++;
        }
    psd_golden_destroy(&reader);
    fclose(file);
    cr_expect_str_eq(err.text, "");
    cr_expect_eq(cases, 15);
    cr_expect_eq(rates, 15 * 26);
    cr_expect_eq(momenta, 2 * 26);
}

/* ---- between whole steps, and past the end ---- */

Test(schedule, a_rate_between_two_steps_lies_between_theirs)
{
    static const char *const specs[] = { "exponential(gamma=0.9)", "geometric(steps=10, end_factor=1e-3)",
                                         "linear(steps=10)",       "polynomial(steps=10, power=1.7)",
                                         "cosine(steps=10)",       "wsd(stable=1, decay=9)" };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        const psd_schedule_t schedule = parsed(specs[i]);
        for (double s = 1; s < 9; s++) {
            const double a = psd_schedule_rate(&schedule, 1, s), b = psd_schedule_rate(&schedule, 1, s + 0.37),
                         c = psd_schedule_rate(&schedule, 1, s + 1);
            cr_expect(a > b && b > c, "%s at %g: %g %g %g", specs[i], s, a, b, c);
        }
    }
}

Test(schedule, powers_of_real_exponents_are_those_of_the_c_library)
{
    for (double gamma = 0.05; gamma <= 1; gamma += 0.07)
        for (double s = 0; s < 300; s = s * 1.7 + 0.31) {
            char spec[64];
            snprintf(spec, sizeof spec, "exponential(gamma=%.17g)", gamma);
            const psd_schedule_t schedule = parsed(spec);
            const double ours = psd_schedule_rate(&schedule, 1, s), theirs = pow(gamma, s);
            cr_expect(fabs(ours - theirs) <= 1e-12 * theirs, "%g^%g: %.17g, not %.17g", gamma, s, ours, theirs);
        }
}

Test(schedule, cosines_are_those_of_the_c_library)
{
    const psd_schedule_t schedule = parsed("cosine(steps=1000)");
    for (double s = 0; s <= 1000; s += 0.5) {
        const double theirs = (1 + cos(3.14159265358979323846 * s / 1000)) / 2;
        cr_expect(fabs(psd_schedule_rate(&schedule, 1, s) - theirs) <= 1e-15, "%g", s);
    }
}

Test(schedule, a_geometric_schedule_rises_by_the_same_factor_in_every_step)
{
    const psd_schedule_t schedule = parsed("geometric(steps=40, end_factor=1e4)");
    for (double s = 0; s <= 40; s++) {
        const double theirs = 0.005 * pow(10, s / 10), ours = psd_schedule_rate(&schedule, 0.005, s);
        cr_expect(fabs(ours - theirs) <= 1e-12 * theirs, "%g: %.17g, not %.17g", s, ours, theirs);
    }
}

Test(schedule, past_its_end_the_rate_stays)
{
    static const struct {
        const char *spec;
        double at, rate;
    } rows[] = { { "linear(steps=10, end_factor=0.25)", 10, 0.25 },
                 { "geometric(steps=10, start_factor=0.5, end_factor=8)", 10, 8 },
                 { "polynomial(steps=10)", 10, 0 },
                 { "cosine(steps=10, min=0.125)", 10, 0.125 },
                 { "onecycle(steps=10, div_factor=4, final_div_factor=2)", 9, 0.125 },
                 { "wsd(stable=4, decay=6, min_ratio=0.5)", 10, 0.5 } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const psd_schedule_t schedule = parsed(rows[i].spec);
        cr_expect_eq(psd_schedule_rate(&schedule, 1, rows[i].at), rows[i].rate, "%s", rows[i].spec);
        cr_expect_eq(psd_schedule_rate(&schedule, 1, 1e12), rows[i].rate, "%s", rows[i].spec);
    }
}

Test(schedule, a_cycle_in_epochs_or_samples_rises_and_falls_over_all_of_them)
{
    psd_schedule_t schedule = parsed("onecycle(steps=2, pct_start=0.25, div_factor=4, final_div_factor=2, anneal=linear)");
    for (int unit = PSD_UNIT_SAMPLE; unit <= PSD_UNIT_EPOCH; unit++) {
        static const double rates[] = { 0.25, 0.625, 1, 0.5625, 0.125, 0.125 }, at[] = { 0, 0.25, 0.5, 1.25, 2, 3 };
        schedule.unit = (psd_schedule_unit_t)unit;
        for (size_t i = 0; i < sizeof at / sizeof *at; i++)
            cr_expect_float_eq(psd_schedule_rate(&schedule, 1, at[i]), rates[i], 1e-12, "%g", at[i]);
        double momentum;
        cr_expect(psd_schedule_momentum(&schedule, 0.5, &momentum) && fabs(momentum - 0.85) < 1e-12);
    }
}

Test(schedule, the_next_step_is_as_far_as_its_unit_counts)
{
    psd_schedule_t schedule = parsed("linear(steps=2)");
    cr_expect_eq(psd_schedule_progress(&schedule, 7, 96, 64), 7, "steps, unless told otherwise");
    schedule.unit = PSD_UNIT_SAMPLE;
    cr_expect_eq(psd_schedule_progress(&schedule, 7, 96, 64), 96);
    schedule.unit = PSD_UNIT_EPOCH;
    cr_expect_eq(psd_schedule_progress(&schedule, 7, 96, 64), 1.5);
    cr_expect_eq(psd_schedule_progress(&schedule, 7, 96, 0), 0);
}

Test(schedule, a_warm_up_comes_before_the_schedule_and_shifts_it)
{
    const psd_schedule_t schedule = parsed("step(step_size=3, gamma=0.5, warmup=4, warmup_start=0.5)");
    static const double rates[] = { 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 0.5, 0.5, 0.5, 0.25 };
    for (size_t s = 0; s < sizeof rates / sizeof *rates; s++)
        cr_expect_eq(psd_schedule_rate(&schedule, 1, (double)s), rates[s], "%zu", s);
}

/* ---- the grammar ---- */

Test(schedule, a_printed_schedule_reads_back_as_the_same)
{
    static const char *const specs[] = { "constant",
                                         "step(step_size=6)",
                                         "multistep(milestones=5/9.5/20)",
                                         "exponential(gamma=0.95)",
                                         "geometric(steps=20, end_factor=100)",
                                         "linear(steps=20)",
                                         "polynomial(steps=20,power=2)",
                                         " cosine ( steps = 20 , warmup=5 ) ",
                                         "onecycle(steps=26, anneal=linear, cycle_momentum=0)",
                                         "wsd(stable=10, decay=8, shape=cosine)" };
    cr_expect_eq(sizeof specs / sizeof *specs, 10);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        char text[PSD_SCHEDULE_TEXT], again[PSD_SCHEDULE_TEXT];
        const psd_schedule_t schedule = parsed(specs[i]), read = parsed(psd_schedule_print(&schedule, text));
        cr_expect_eq(schedule.kind, psd_schedule_kind_at(i), "every kind is among them");
        cr_expect_str_eq(psd_schedule_print(&read, again), text);
        for (double s = 0; s < 40; s += 0.5)
            cr_expect_eq(psd_schedule_rate(&schedule, 0.1, s), psd_schedule_rate(&read, 0.1, s), "%s", text);
    }
    cr_expect_null(psd_schedule_kind_at(10));
    char text[PSD_SCHEDULE_TEXT];
    const psd_schedule_t schedule = parsed("multistep(milestones=5/9.5/20, warmup=2)");
    cr_expect_str_eq(psd_schedule_print(&schedule, text), "multistep(milestones=5/9.5/20, gamma=0.1, warmup=2, warmup_start=0)");
}

Test(schedule, a_wrong_schedule_is_refused_with_the_column_and_the_reason)
{
    static const struct {
        const char *spec, *sentence;
    } rows[] = {
        { "", "schedule, column 1: expected the name of a schedule, found the end" },
        { "cosin(steps=5)", "schedule, column 1: unknown schedule 'cosin'; the nearest is 'cosine'" },
        { "zigzagging",
          "schedule, column 1: unknown schedule 'zigzagging'; there are constant, step, multistep, exponential, geometric, "
          "linear, polynomial, cosine, onecycle, wsd" },
        { "cosine", "schedule, column 7: cosine needs steps, until the rate is min" },
        { "cosine(", "schedule, column 8: expected the name of an argument, found the end" },
        { "geometric(steps=5)", "schedule, column 19: geometric needs end_factor, factor at the end" },
        { "geometric(steps=5, end_factor=0)",
          "schedule, column 31: 0 is out of range for end_factor: it must be above 0 and at most 1e+15" },
        { "cosine(step=5)", "schedule, column 8: cosine has no 'step'; the nearest is 'steps'" },
        { "cosine(steps 5)", "schedule, column 14: expected '=', found '5'" },
        { "cosine(steps=five)", "schedule, column 14: expected a finite decimal number, found 'f'" },
        { "cosine(steps=0)", "schedule, column 14: 0 is out of range for steps: it must be above 0 and at most 1e+15" },
        { "cosine(steps=5, min=-1)", "schedule, column 21: -1 is out of range for min: it must be at least 0 and at most 1000000" },
        { "cosine(steps=5, steps=6)", "schedule, column 17: steps is given twice" },
        { "cosine(steps=5", "schedule, column 15: expected ',' or ')', found the end" },
        { "cosine(steps=5) x", "schedule, column 17: expected nothing more, found 'x'" },
        { "multistep(milestones=5/5)", "schedule, column 24: milestones must rise" },
        { "multistep(milestones=1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17)", "schedule, column 61: more than 16 milestones" },
        { "wsd(stable=1, decay=1, shape=round)", "schedule, column 30: shape is sqrt|linear|cosine, not 'round'" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        psd_schedule_t schedule = { .value = { 7 } };
        psd_err_t err = { .text = "" };
        cr_expect_eq(psd_schedule_parse(&schedule, rows[i].spec, &err), PSD_ECONFIG, "%s", rows[i].spec);
        cr_expect_str_eq(err.text, rows[i].sentence);
        cr_expect(!schedule.kind && schedule.value[0] == 7, "nothing is changed");
    }
}

Test(schedule, one_that_does_not_fit_the_job_is_doubted_with_a_cure)
{
    static const struct {
        const char *spec;
        double base, end;
        const char *words; /* "": nothing is wrong */
    } rows[] = {
        { "constant", 0.1, 100, "" },
        { "cosine(steps=100, min=0.2)", 0.1, 100, "min is 0.2, above the optimizer's learning rate, 0.1, so the rate rises" },
        { "cosine(steps=100, min=0.2)", 0.1, 0, "min is 0.2, above" },
        { "cosine(steps=100, min=0.1)", 0.1, 100, "" },
        { "cosine(steps=100)", 0.1, 100, "" },
        { "cosine(steps=100)", 0.1, 0, "" },
        { "cosine(steps=100)", 0.1, 400,
          "the rate is 0 from about step 100 on, but the job ends after 400: the rest changes nothing" },
        { "cosine(steps=100, min=1e-4)", 0.1, 400, "" },
        { "linear(steps=90, warmup=10)", 0.1, 100, "" },
        { "linear(steps=90, warmup=100)", 0.1, 100, "the warm-up takes 100 steps, but the job ends after 100, before the rate" },
        { "polynomial(steps=50)", 0.1, 100, "the rate is 0 from about step 50 on" },
        { "wsd(stable=10, decay=10)", 0.1, 100, "the rate is 0 from about step 20 on" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const psd_schedule_t schedule = parsed(rows[i].spec);
        char why[PSD_SCHEDULE_DOUBT] = "";
        cr_expect_eq(psd_schedule_doubt(&schedule, rows[i].base, rows[i].end, why), *rows[i].words != '\0', "%s: %s", rows[i].spec,
                     why);
        cr_expect_not_null(strstr(why, rows[i].words), "%s: %s", rows[i].spec, why);
    }
}
