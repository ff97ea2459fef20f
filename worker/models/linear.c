/* linear.c - least squares:
 *   p = W x + b
 *   loss = (p - y)^2
 *   dloss/dp = 2 (p - y)
 * No factor 1/2, as torch's MSELoss. */
#include "worker/model.h"

static size_t outputs(const psd_dataset_t *train)
{
    (void)train;
    return 1;
}

static double loss(const float *z, size_t n, float label, float *dz)
{
    (void)n;
    const double error = (double)z[0] - (double)label;
    if (dz)
        dz[0] = (float)(2 * error);
    return error * error;
}

static double score(const float *z, size_t n, float label) { return loss(z, n, label, NULL); }

const psd_model_kind_t psd_model_linear = {
    .name = "linear",
    .summary = "linear regression",
    .loss_name = "mse",
    .metric = "mse",
    .labels = PSD_LABEL_TARGET,
    .most_layers = 2,
    .outputs = outputs,
    .loss = loss,
    .score = score,
};
