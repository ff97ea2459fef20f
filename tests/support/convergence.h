/* convergence.h - whole jobs on real data, two servers and two workers, compared with an independent reference: losses of the first
 * 20 steps (tests/golden/convergence_trace.tsv) and test accuracy after an epoch (convergence.tsv), for the same seed, initial
 * weights, order of samples and batches. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { CONVERGENCE_TRACE = 20, CONVERGENCE_RULE = 256 };

/* A row of convergence.tsv or the head of one of convergence_trace.tsv. */
typedef struct convergence_row {
    char model[16];     /* softmax (784-10) or mlp (784-128-10) */
    char optimizer[48]; /* its name in the table */
    char lr[16];
    double accuracy;                /* percent, seed 1, after one epoch */
    double loss[CONVERGENCE_TRACE]; /* of the trace */
} convergence_row_t;

/* The rule of that row; false when psd has no such optimizer. */
bool convergence_rule(const convergence_row_t *row, char rule[CONVERGENCE_RULE]);

/* Read the tables; returns the number of rows, at most `capacity`. */
size_t convergence_rows(convergence_row_t *rows, size_t capacity);
/* Traces: for MNIST, or for the drawn digits if MNIST is missing (data.h). */
size_t convergence_traces(convergence_row_t *rows, size_t capacity);

/* Train an epoch of MNIST: accuracy on the test images in percent. */
double convergence_accuracy(const convergence_row_t *row, const char *rule);

/* Train 20 steps of MNIST: the largest relative difference of a loss from the row's. */
double convergence_trace_error(const convergence_row_t *row, const char *rule);

/* Train a logistic model on agaricus, 5 epochs: accuracy in percent. */
double convergence_agaricus(void);
