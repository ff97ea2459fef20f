#include "deploy/psdctl/inspect/trajectory.h"

#include <stdlib.h>
#include <string.h>

#include "common/optim/aggregate.h"

/* Weights and slots of a replay, `n` floats each, in one block. */
typedef struct stepper {
    float *arrays;              /* the block: weights, aggregated gradient, slots */
    float *g;                   /* room for an aggregated gradient */
    float *slot[PSD_MAX_SLOTS]; /* the rule's state */
    psd_rule_state_t state;     /* of the tensor */
} stepper_t;

static int stepper_init(stepper_t *self, const psd_golden_case_t *c, const psd_rule_t *rule, psd_err_t *err)
{
    self->arrays = calloc((size_t)(2 + rule->n_slots) * c->n, sizeof(float));
    if (!self->arrays)
        return psd_err_set(err, PSD_ENOMEM, "no memory to replay %zu weights", c->n);
    memcpy(self->arrays, c->w0, c->n * sizeof(float));
    self->g = self->arrays + c->n;
    for (int i = 0; i < rule->n_slots; i++)
        self->slot[i] = self->arrays + (size_t)(2 + i) * c->n;
    psd_rule_init(rule, &self->state, self->arrays, self->slot, c->n);
    return PSD_OK;
}

/* The gradient of a step: as given, or the mean over the samples of all workers, which `room` then holds. */
static const float *gradient_of(const psd_golden_step_t *step, size_t n, float *room)
{
    const float *g[PSD_GOLDEN_WORKERS];
    double weight[PSD_GOLDEN_WORKERS];
    uint64_t samples = 0;
    if (step->g)
        return step->g;
    for (size_t k = 0; k < step->n_pushes; k++)
        samples += step->pushes[k].samples;
    for (size_t k = 0; k < step->n_pushes; k++) {
        g[k] = step->pushes[k].g;
        weight[k] = (double)step->pushes[k].samples / (double)samples;
    }
    psd_aggregate(room, g, weight, step->n_pushes, n);
    return room;
}

int psd_trajectory_run(const psd_golden_case_t *c, const psd_rule_t *rule, psd_trajectory_each_t *each, void *arg, psd_err_t *err)
{
    stepper_t self;
    const int rc = stepper_init(&self, c, rule, err);
    if (rc)
        return rc;
    for (size_t t = 1; t <= c->n_steps; t++) {
        const psd_golden_step_t *step = &c->steps[t - 1];
        const float *g = gradient_of(step, c->n, self.g);
        const psd_plan_t plan = psd_rule_plan(rule, &self.state, step->has_lr ? step->lr : psd_rule_lr(rule));
        psd_rule_apply(rule, &plan, self.arrays, self.slot, g, c->n);
        each(arg, t, self.arrays, rule->slow_slot < 0 ? NULL : self.slot[rule->slow_slot]);
    }
    free(self.arrays);
    return PSD_OK;
}
