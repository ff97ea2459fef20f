#include <criterion/criterion.h>
#include <math.h>

#include "worker/patience.h"

static psd_patience_t self;

static void setup(void) { self = (psd_patience_t){ .limit = 2 }; }
static void teardown(void) { psd_patience_clear(&self); }
TestSuite(patience, .init = setup, .fini = teardown, .timeout = 60);

static void note(size_t n, const double *values)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(psd_patience_note(&self, 10 * (i + 1), values[i]));
}

Test(patience, it_ends_after_that_number_of_evaluations_no_better_than_the_best)
{
    note(4, (double[]){ 0.5, 0.7, 0.6, 0.75 });
    cr_expect_not(psd_patience_is_out(&self));
    cr_expect_eq(self.best, 0.75);
    psd_patience_note(&self, 50, 0.75);
    cr_expect_not(psd_patience_is_out(&self), "an equally good one is not better: 1 of 2");
    psd_patience_note(&self, 60, 0.74);
    cr_expect(psd_patience_is_out(&self));
    cr_expect_eq(self.best_step, 40);
}

Test(patience, errors_are_better_when_they_are_smaller)
{
    self.smaller_is_better = true;
    note(3, (double[]){ 0.5, 0.4, 0.45 });
    cr_expect_eq(self.best, 0.4);
    cr_expect_eq(self.waited, 1);
}

Test(patience, a_job_that_has_gone_back_forgets_what_came_after)
{
    note(4, (double[]){ 0.5, 0.9, 0.6, 0.6 });
    cr_expect(psd_patience_is_out(&self));
    psd_patience_note(&self, 20, 0.55);
    cr_expect_not(psd_patience_is_out(&self));
    cr_expect_eq(self.best, 0.55);
    psd_patience_note(&self, 30, 0.5);
    cr_expect_eq(self.waited, 1);
}

Test(patience, a_job_that_has_gone_back_remembers_what_came_before)
{
    note(4, (double[]){ 0.5, 0.9, 0.6, 0.6 });
    psd_patience_note(&self, 20, 0.3);
    cr_expect_eq(self.best, 0.5);
    cr_expect_eq(self.best_step, 10);
    cr_expect_eq(self.waited, 1);
    psd_patience_note(&self, 30, 0.4);
    cr_expect(psd_patience_is_out(&self));
}

Test(patience, nan_is_no_evaluation)
{
    note(6, (double[]){ NAN, NAN, NAN, 0.5, NAN, 0.4 });
    cr_expect_eq(self.best, 0.5);
    cr_expect_eq(self.best_step, 40);
    cr_expect_eq(self.waited, 1);
}

Test(patience, without_a_limit_it_never_ends)
{
    note(3, (double[]){ 0.5, 0.5, 0.5 });
    cr_expect(psd_patience_is_out(&self));
    self.limit = 0;
    cr_expect_not(psd_patience_is_out(&self));
}
