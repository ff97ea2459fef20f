#include <criterion/criterion.h>
#include <string.h>

#include "tests/support/convergence.h"

/* A few rows of psd-convergence, on real data if available, otherwise on drawn ones. */

TestSuite(convergence, .timeout = 600);

enum { MAX_ROWS = 100 };

static void compare_traces(const char *optimizer)
{
    static convergence_row_t rows[MAX_ROWS];
    int compared = 0;
    const size_t n = convergence_traces(rows, MAX_ROWS);
    for (size_t i = 0; i < n; i++) {
        char rule[CONVERGENCE_RULE];
        if (strcmp(rows[i].optimizer, optimizer))
            continue;
        cr_assert(convergence_rule(&rows[i], rule));
        const double error = convergence_trace_error(&rows[i], rule);
        cr_expect_leq(error, 1e-5, "%s %s: %g", rows[i].model, optimizer, error);
        compared++;
    }
    cr_expect_eq(compared, 2);
}

Test(convergence, the_first_losses_of_sgd_are_the_references) { compare_traces("sgd"); }
Test(convergence, the_first_losses_of_adam_are_the_references) { compare_traces("adam"); }
Test(convergence, the_first_losses_of_lookahead_are_the_references) { compare_traces("lookahead-radam"); }

Test(convergence, a_logistic_model_tells_the_mushrooms_apart) { cr_expect_geq(convergence_agaricus(), 99); }
