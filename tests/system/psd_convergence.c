/* psd_convergence.c - psd-convergence [OPTIMIZER]: every row of the convergence tables, as whole jobs on real MNIST, and agaricus.
 * Takes some minutes, so it is not one of the tests. Exit code 0: all within their limits; 77: no data. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/convergence.h"
#include "tests/support/data.h"

enum { MAX_ROWS = 100 };

static int failures;

static const char *verdict(int good)
{
    failures += !good;
    return good ? "ok" : "FAILED";
}

static void run_traces(const char *only)
{
    static convergence_row_t rows[MAX_ROWS];
    const size_t n = convergence_traces(rows, MAX_ROWS);
    double worst = 0;
    printf("first 20 losses, relative to the reference (bar 1e-5)\n");
    failures += n == 0;
    for (size_t i = 0; i < n; i++) {
        char rule[CONVERGENCE_RULE];
        if (*only && strcmp(only, rows[i].optimizer))
            continue;
        const double error = convergence_rule(&rows[i], rule) ? convergence_trace_error(&rows[i], rule) : INFINITY;
        worst = fmax(worst, error);
        printf("  %-8s %-18s %-6s %8.1e %s\n", rows[i].model, rows[i].optimizer, rows[i].lr, error, verdict(error <= 1e-5));
        fflush(stdout);
    }
    printf("  worst %.1e\n", worst);
}

static void run_row(const convergence_row_t *row)
{
    char rule[CONVERGENCE_RULE];
    if (!convergence_rule(row, rule)) {
        printf("  %-8s %-26s %-6s skipped: psd has no such optimizer\n", row->model, row->optimizer, row->lr);
        return;
    }
    const double bar = strcmp(row->model, "mlp") ? 0.1 : 0.4;
    const double ours = convergence_accuracy(row, rule), difference = ours - row->accuracy;
    /* Accuracies are multiples of 0.01, so the tolerance only has to absorb the binary rounding of 0.1. */
    printf("  %-8s %-26s %-6s %6.2f %6.2f %+6.2f %s\n", row->model, row->optimizer, row->lr, ours, row->accuracy, difference,
           verdict(fabs(difference) <= bar + 1e-6));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static convergence_row_t rows[MAX_ROWS];
    const char *only = argc > 1 ? argv[1] : "";
    if (data_is_drawn("mnist") || data_is_drawn("agaricus")) {
        printf("skipped: no data; set PSD_DATA to the folder of mnist and agaricus\n");
        return 77;
    }
    run_traces(only);
    printf("test accuracy after one epoch: psd, reference, difference (bars 0.1 softmax, 0.4 mlp)\n");
    const size_t n = convergence_rows(rows, MAX_ROWS);
    failures += n == 0;
    for (size_t i = 0; i < n; i++)
        if (!*only || !strcmp(only, rows[i].optimizer))
            run_row(&rows[i]);
    const double agaricus = convergence_agaricus();
    printf("agaricus, logistic: %.2f %s\n%d failed\n", agaricus, verdict(agaricus >= 99), failures);
    return failures != 0;
}
