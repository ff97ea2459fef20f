/* logistic.c - two classes from one output:
 *   z = W x + b
 *   loss = log(1 + e^z) - y z
 *   dloss/dz = 1 / (1 + e^-z) - y
 * Both are formed from e^-|z|, which cannot overflow:
 *   log(1 + e^z) = max(z, 0) + log1p(e^-|z|) */
#include <math.h>

#include "worker/model.h"

static size_t outputs(const psd_dataset_t *train) { return train->n_classes == 2 ? 1 : 0; }

static double loss(const float *z, size_t n, float label, float *dz)
{
    (void)n;
    const double x = z[0], small = exp(-fabs(x)), y = label;
    const double chance = x >= 0 ? 1 / (1 + small) : small / (1 + small);
    if (dz)
        dz[0] = (float)(chance - y);
    return (x > 0 ? x : 0) + log1p(small) - y * x;
}

/* z = 0 is a tie, which the first class wins. */
static double score(const float *z, size_t n, float label)
{
    (void)n;
    return (z[0] > 0) == (label > 0);
}

const psd_model_kind_t psd_model_logistic = {
    .name = "logistic",
    .summary = "logistic regression, two classes",
    .loss_name = "logistic",
    .metric = "accuracy",
    .labels = PSD_LABEL_CLASS,
    .most_layers = 2,
    .outputs = outputs,
    .loss = loss,
    .score = score,
};
