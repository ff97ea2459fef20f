/* softmax.c - any number of classes:
 *   z = W x + b
 *   p = e^z / sum e^z
 *   loss = -log p[y]
 *   dloss/dz = p - [y]
 * The largest z is subtracted first, so that no e^z overflows and the sum is at least 1. */
#include <math.h>

#include "worker/model.h"

static size_t outputs(const psd_dataset_t *train) { return train->n_classes; }

double psd_softmax_loss(const float *z, size_t n, float label, float *dz)
{
    const size_t y = (size_t)label;
    double most = z[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = z[i] > most ? z[i] : most;
    for (size_t i = 0; i < n; i++)
        sum += exp(z[i] - most);
    for (size_t i = 0; dz && i < n; i++)
        dz[i] = (float)(exp(z[i] - most) / sum - (i == y));
    return log(sum) - (z[y] - most);
}

double psd_softmax_score(const float *z, size_t n, float label)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (z[i] > z[best])
            best = i;
    return best == (size_t)label;
}

const psd_model_kind_t psd_model_softmax = {
    .name = "softmax",
    .summary = "softmax regression, any number of classes",
    .loss_name = "softmax",
    .metric = "accuracy",
    .labels = PSD_LABEL_CLASS,
    .most_layers = 2,
    .outputs = outputs,
    .loss = psd_softmax_loss,
    .score = psd_softmax_score,
};
