/* job.c - what is trained: a model of a few tensors, and gradients that depend on the weights, the clock and
 * the slice, so that whatever is lost, repeated or mixed up shows in the weights. */
#include <math.h>

#include "tests/sim/sim_state.h"

static uint64_t data_seed(const sim_t *self) { return self->config.data_seed ? self->config.data_seed : self->config.seed; }

void sim_make_model(sim_t *self)
{
    uint64_t stream = data_seed(self) ^ 0x5eed;
    self->list.n = self->config.tensors ? self->config.tensors : 3;
    self->list.rows = 100;
    self->list.tensor = calloc(self->list.n, sizeof *self->list.tensor);
    for (uint32_t t = 0; t < self->list.n; t++) {
        psd_tensor_desc_t *d = &self->list.tensor[t];
        snprintf(d->name, sizeof d->name, "t%u", t);
        d->n_dims = 1;
        d->dim[0] = d->n_elements = 1 + psd_splitmix64(&stream) % (self->config.most_elements ? self->config.most_elements : 3000);
    }
}

size_t sim_model_size(const sim_t *self)
{
    size_t n = 0;
    for (uint32_t t = 0; t < self->list.n; t++)
        n += self->list.tensor[t].n_elements;
    return n;
}

void sim_initial_weights(const sim_t *self, float **w)
{
    uint64_t stream = data_seed(self);
    for (uint32_t t = 0; t < self->list.n; t++)
        for (size_t i = 0; i < self->list.tensor[t].n_elements; i++)
            w[t][i] = (float)(psd_uniform(&stream) - 0.5);
}

void sim_make_gradient(const sim_t *self, const float *w, float *g, size_t n, uint32_t tensor, uint64_t clock, uint32_t rank,
                       uint32_t world)
{
    uint64_t key = data_seed(self) * 31 + clock * 1000003 + rank * 8191 + world * 131 + tensor;
    for (size_t i = 0; i < n; i++)
        g[i] = 0.05f * w[i] + (float)(psd_uniform(&key) - 0.5);
}

static uint64_t slice(const sim_t *self, uint64_t clock, uint32_t rank, uint32_t world)
{
    const uint64_t batch = self->config.batch ? self->config.batch : BATCH;
    const bool is_odd = self->config.odd_every && clock % self->config.odd_every == 0 && rank + 1 == world;
    const uint64_t n = batch * (rank + 1) / world - batch * rank / world;
    return is_odd ? n / 2 : n;
}

/* ---- what was pushed ---- */

static void keep_gradient(const sim_t *self, push_t *push, float *const *g)
{
    float *to = push->gradient = malloc(sim_model_size(self) * sizeof *push->gradient);
    for (uint32_t t = 0; t < self->list.n; to += self->list.tensor[t++].n_elements)
        memcpy(to, g[t], self->list.tensor[t].n_elements * sizeof *to);
}

bool sim_is_nonfinite(const sim_t *self, const push_t *push)
{
    return push->rank == 0 && self->config.nonfinite_clock == push->clock;
}

push_t *sim_begin_push(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    psd_session_position_t at = psd_session_position(me->session);
    if (self->n_push == self->push_capacity) {
        self->push_capacity = self->push_capacity ? 2 * self->push_capacity : 256;
        self->push = realloc(self->push, self->push_capacity * sizeof *self->push);
    }
    push_t *push = &self->push[self->n_push++];
    *push = (push_t){ .worker = at.worker,
                      .rank = at.rank,
                      .world = at.world,
                      .incarnation = at.incarnation,
                      .clock = at.clock,
                      .samples = slice(self, at.clock, at.rank, at.world) };
    for (uint32_t t = 0; t < self->list.n; t++)
        sim_make_gradient(self, me->w[t], me->g[t], self->list.tensor[t].n_elements, t, at.clock, at.rank, at.world);
    if (sim_is_nonfinite(self, push))
        me->g[0][0] = NAN;
    if (!psd_mode_has_rounds(self->mode))
        keep_gradient(self, push, me->g);
    return push;
}

const push_t *sim_find_push(const sim_t *self, const applied_t *a)
{
    for (size_t i = self->n_push; i-- > 0;)
        if (self->push[i].worker == a->worker && self->push[i].clock == a->clock && self->push[i].incarnation == a->incarnation &&
            self->push[i].run == a->run)
            return &self->push[i];
    return NULL;
}
