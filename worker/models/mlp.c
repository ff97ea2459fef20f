/* mlp.c - a multi-layer perceptron: affine layers of any sizes, an activation between them, softmax
 * cross-entropy on top. */
#include "worker/model.h"

static size_t outputs(const psd_dataset_t *train) { return train->n_classes; }

const psd_model_kind_t psd_model_mlp = {
    .name = "mlp",
    .summary = "multi-layer perceptron with relu, tanh or gelu",
    .loss_name = "softmax",
    .metric = "accuracy",
    .labels = PSD_LABEL_CLASS,
    .fewest_layers = 3,
    .most_layers = PSD_MAX_LAYERS + 1,
    .hidden = 128,
    .outputs = outputs,
    .loss = psd_softmax_loss,
    .score = psd_softmax_score,
};
