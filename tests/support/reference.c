#include "tests/support/reference.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_WORLD = 16 };

struct reference {
    psd_dataset_t *data;
    psd_model_t *model;
    psd_reference_t *single;
};

reference_t *reference_new(const reference_config_t *config)
{
    reference_t *self = calloc(1, sizeof *self);
    psd_err_t err = { .text = "no memory" };
    const psd_model_config_t model = {
        .kind = config->kind, .layers = config->layers, .n_layers = config->n_layers, .seed = config->seed
    };
    const psd_dataset_options_t classes = { .kind = PSD_LABEL_CLASS };
    if (self && (self->data = psd_dataset_load(config->data, &classes, &err)) &&
        (self->model = psd_model_new(&model, self->data, &err)))
        self->single = psd_reference_new(&(psd_reference_config_t){ .model = self->model,
                                                                    .groups = "",
                                                                    .train = self->data,
                                                                    .batch = config->batch,
                                                                    .shuffle = true,
                                                                    .seed = config->seed,
                                                                    .rule = config->rule,
                                                                    .accumulate = config->accumulate,
                                                                    .world = MAX_WORLD },
                                         &err);
    if (!self || !self->single) {
        fprintf(stderr, "reference: %s\n", err.text);
        reference_destroy(&self);
    }
    return self;
}

void reference_destroy(reference_t **self_p)
{
    reference_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    psd_reference_destroy(&self->single);
    psd_model_destroy(&self->model);
    psd_dataset_destroy(&self->data);
    free(self);
}

void reference_round(reference_t *self, uint64_t clock, uint32_t world, const uint32_t *ranks, uint32_t n)
{
    psd_reference_round(self->single, clock, world, ranks, n);
}

void reference_run(reference_t *self, uint64_t last, uint32_t world)
{
    uint32_t ranks[MAX_WORLD];
    for (uint32_t r = 0; r < MAX_WORLD; r++)
        ranks[r] = r;
    for (uint64_t clock = 1; clock <= last; clock++)
        reference_round(self, clock, world, ranks, world);
}

void reference_hash(const reference_t *self, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT])
{
    psd_reference_hash(self->single, fast, slow);
}

bool reference_undisturbed(const reference_config_t *config, uint64_t last, uint32_t world, char fast[PSD_SHA256_TEXT],
                           char slow[PSD_SHA256_TEXT])
{
    reference_t *self = reference_new(config);
    if (!self)
        return false;
    reference_run(self, last, world);
    reference_hash(self, fast, slow);
    reference_destroy(&self);
    return true;
}
