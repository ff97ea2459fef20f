/* drive_job.c - drive_job JOIN NAME=SHAPE... : acts as the only worker of a psd job whose model has these tensors (fc1.weight=3x4,
 * scale= for a scalar; frozen~7 never has a gradient). Standard input has the initial weights, then a gradient per step, each all
 * tensors' float32 values in their order; standard output gets the weights after each step. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "psd/worker.h"

enum { TENSORS = 16, DIMS = 8, ANSWER_MS = 60000 };

static psd_tensor_t model[TENSORS];
static uint64_t shape[TENSORS][DIMS];
static const float *gradient[TENSORS];
static bool frozen[TENSORS];
static size_t n_tensors, n_values;

/* "fc1.weight=3x4"; its name ends where '=' or '~' was. */
static size_t read_tensor(char *word, size_t i)
{
    size_t n = 1;
    char *at = strpbrk(word, "=~");
    if (!at)
        exit(64);
    frozen[i] = *at == '~';
    *at++ = '\0';
    model[i] = (psd_tensor_t){ .name = word, .shape = shape[i] };
    for (char *size; at && *at && model[i].n_dims < DIMS && (size = strsep(&at, "x"));)
        n *= shape[i][model[i].n_dims++] = strtoull(size, NULL, 10);
    return n;
}

static void place(float *weights, float *gradients, const size_t *n)
{
    for (size_t i = 0; i < n_tensors; i++) {
        model[i].data = weights;
        gradient[i] = frozen[i] ? NULL : gradients;
        weights += n[i];
        gradients += n[i];
    }
}

static int train(psd_worker_t *worker, float *weights, float *gradients)
{
    psd_ticket_t ticket;
    int rc = psd_worker_register(worker, model, n_tensors);
    while (!rc && fread(gradients, sizeof *gradients, n_values, stdin) == n_values) {
        rc = psd_worker_exchange(worker, gradient, 1, 0.0, &ticket);
        if (!rc)
            rc = psd_worker_wait(worker, ticket, ANSWER_MS);
        if (!rc && fwrite(weights, sizeof *weights, n_values, stdout) != n_values)
            rc = PSD_W_EINVAL;
    }
    return rc ? rc : psd_worker_leave(worker, 1, ANSWER_MS);
}

int main(int argc, char **argv)
{
    size_t n[TENSORS];
    if (argc < 3 || argc > 2 + TENSORS)
        return fputs("Usage: drive_job JOIN NAME=SHAPE...\n", stderr), 64;
    for (; n_tensors < (size_t)argc - 2; n_tensors++)
        n_values += n[n_tensors] = read_tensor(argv[2 + n_tensors], n_tensors);
    float *weights = calloc(2 * n_values, sizeof *weights);
    if (!weights || fread(weights, sizeof *weights, n_values, stdin) != n_values)
        return fputs("drive_job: no initial weights on standard input\n", stderr), 65;
    place(weights, weights + n_values, n);
    const psd_worker_config_t config = { .size = sizeof config, .join = argv[1], .insecure = 1 };
    psd_worker_t *worker;
    int rc = psd_worker_connect(&worker, &config);
    if (!rc)
        rc = train(worker, weights, weights + n_values);
    if (rc)
        fprintf(stderr, "drive_job: %s\n", worker ? psd_worker_error(worker) : psd_strerror(rc));
    psd_worker_close(&worker);
    free(weights);
    return rc != 0;
}
