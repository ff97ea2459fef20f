/* reference.c - the weights of a single process after the pushes that count, and the check that each shard has them. */
#include <assert.h>
#include <math.h>

#include "common/optim/whole.h"
#include "tests/sim/sim_state.h"

/* The whole model. */
enum { MAX_ROUNDS = 3, MAX_GRADIENTS = MAX_ROUNDS * SIM_MAX_WORKERS }; /* of one step */
typedef struct reference {
    float *w[MAX_TENSORS], *slot[MAX_TENSORS][PSD_MAX_SLOTS], *g[MAX_TENSORS][MAX_GRADIENTS];
    double weight[MAX_GRADIENTS]; /* of the gradients of the open step, ... */
    size_t n_gradients, n_rounds; /* ... the number of their rounds, ... */
    uint64_t n_samples;           /* ... and of their samples */
    psd_rule_state_t state[MAX_TENSORS];
    float *held[MAX_TENSORS];             /* the weights as workers get them */
    uint64_t clock;                       /* of the last round */
    uint64_t samples;                     /* samples behind the steps made */
    struct kept {                         /* the residual of this incarnation of a worker */
        uint64_t run, incarnation, clock; /* the clock of that incarnation after which it holds */
        float *residual[MAX_TENSORS];
    } kept[SIM_MAX_WORKERS];
} reference_t;

static const psd_rule_t *rule_of(const sim_t *self, uint32_t t) { return &self->groups.at[self->group_of[t]].rule; }

/* The state that the job begins with. */
static void inherit(const sim_t *self, reference_t *r)
{
    psd_inheritance_t *all = sim_inheritance(self);
    psd_extent_t *extents = psd_tensors_extents(&self->list);
    for (uint32_t t = 0; all && t < self->list.n; t++) {
        if (all->of[t].t)
            psd_rule_resume(rule_of(self, t), &r->state[t], all->of[t].t, all->of[t].scalar);
        for (int s = 0; s < PSD_MAX_SLOTS; s++)
            if (all->slot[t][s])
                memcpy(r->slot[t][s], all->slot[t][s], psd_rule_slot_length(rule_of(self, t), s, &extents[t]) * sizeof(float));
    }
    free(extents);
    psd_inheritance_destroy(&all);
}

static void reference_new(const sim_t *self, reference_t *r)
{
    memset(r, 0, sizeof *r);
    for (uint32_t t = 0; t < self->list.n; t++) {
        size_t n = self->list.tensor[t].n_elements;
        r->w[t] = calloc(n, sizeof(float));
        for (int i = 0; i < rule_of(self, t)->n_slots; i++)
            r->slot[t][i] = calloc(n, sizeof(float));
        r->held[t] = calloc(n, sizeof(float));
    }
    sim_initial_weights(self, r->w);
    for (uint32_t t = 0; t < self->list.n; t++)
        psd_rule_init(rule_of(self, t), &r->state[t], r->w[t], r->slot[t], self->list.tensor[t].n_elements);
    inherit(self, r);
}

static void reference_free(const sim_t *self, reference_t *r)
{
    for (uint32_t t = 0; t < self->list.n; t++) {
        free(r->w[t]);
        for (int i = 0; i < rule_of(self, t)->n_slots; i++)
            free(r->slot[t][i]);
        for (uint32_t k = 0; k < MAX_GRADIENTS; k++)
            free(r->g[t][k]);
        for (uint32_t k = 0; k < SIM_MAX_WORKERS; k++)
            free(r->kept[k].residual[t]);
        free(r->held[t]);
    }
}

/* The tensors of the reference, without gradients. */
static void tensors_of(const sim_t *self, reference_t *r, psd_whole_t whole[MAX_TENSORS])
{
    for (uint32_t t = 0; t < self->list.n; t++)
        whole[t] = (psd_whole_t){ .n = self->list.tensor[t].n_elements,
                                  .group = self->group_of[t],
                                  .w = r->w[t],
                                  .slot = r->slot[t],
                                  .state = &r->state[t],
                                  .shape = self->shape[t] };
}

static void sizes_of(const sim_t *self, uint64_t size[MAX_TENSORS])
{
    for (uint32_t t = 0; t < self->list.n; t++)
        size[t] = self->list.tensor[t].n_elements;
}

/* Give the weights to every worker. */
static void pull(const sim_t *self, reference_t *r)
{
    uint64_t size[MAX_TENSORS];
    sizes_of(self, size);
    for (uint32_t t = 0; t < self->list.n; t++)
        memcpy(r->held[t], r->w[t], size[t] * sizeof(float));
    psd_whole_code(&self->codings.pull, size, self->list.n, r->held, NULL);
}

/* Compute the gradient of a push, as it arrives, from the present weights into r->g[..][k]. */
static void make_push(const sim_t *self, reference_t *r, const push_t *push, size_t k)
{
    uint64_t size[MAX_TENSORS];
    float *g[MAX_TENSORS];
    sizes_of(self, size);
    for (uint32_t t = 0; t < self->list.n; t++) {
        if (!r->g[t][k])
            r->g[t][k] = calloc(size[t], sizeof(float));
        if (!r->kept[push->worker].residual[t])
            r->kept[push->worker].residual[t] = calloc(size[t], sizeof(float));
    }
    for (uint32_t t = 0; t < self->list.n; t++)
        sim_make_gradient(self, r->held[t], g[t] = r->g[t][k], size[t], t, push->clock, push->rank, push->world);
    if (sim_is_nonfinite(self, push))
        g[0][0] = NAN;
    psd_whole_send(&psd_groups_rest(&self->groups)->rule, &self->codings.push, size, self->list.n, g,
                   r->kept[push->worker].residual);
}

/* The incarnation whose residual this one has continued; NULL: it began with none. */
static const sim_life_t *ancestor(sim_t *self, const sim_life_t *life)
{
    const sim_heir_t *heir = sim_find_heir(self, life);
    const sim_life_t *found = NULL;
    for (uint32_t s = 0; heir && s < self->config.servers; s++) {
        if (!heir->of[s].run)
            continue;
        if (found && memcmp(found, &heir->of[s], sizeof *found))
            sim_broken(self, "worker %u continued with residuals of different incarnations or clocks", life->worker);
        found = &heir->of[s];
    }
    return found;
}

/* Advance the worker's residual over all pushes of this incarnation up to its clock, including rounds without a step. Another
 * incarnation begins with none, unless it is from a checkpoint. */
static void catch_up(sim_t *self, reference_t *r, const sim_life_t *life, size_t k)
{
    assert(life->worker < SIM_MAX_WORKERS && "ids are those of the workers");
    struct kept *kept = &r->kept[life->worker];
    if (kept->run != life->run || kept->incarnation != life->incarnation) {
        const sim_life_t *older = ancestor(self, life);
        if (older) {
            catch_up(self, r, older, k);
        } else {
            self->result->resets += sim_keeps(self) && life->clock > 0;
            kept->clock = r->clock;
            for (uint32_t t = 0; kept->residual[0] && t < self->list.n; t++)
                memset(kept->residual[t], 0, self->list.tensor[t].n_elements * sizeof(float));
        }
        kept->run = life->run;
        kept->incarnation = life->incarnation;
    }
    for (; kept->clock < life->clock; kept->clock++) {
        const push_t *push = sim_find_push(
            self,
            &(applied_t){ .run = life->run, .clock = kept->clock + 1, .incarnation = life->incarnation, .worker = life->worker });
        if (push)
            make_push(self, r, push, k);
    }
}

/* The rates of the next step, of each group. */
static void rates_now(const sim_t *self, const reference_t *r, double lr[PSD_MAX_GROUPS])
{
    const double progress = psd_schedule_progress(&self->schedule, self->result->steps, r->samples, self->list.rows);
    for (uint32_t g = 0; g < self->groups.n; g++)
        lr[g] = psd_groups_rate(&self->groups, g, &self->schedule, psd_rule_lr(&psd_groups_rest(&self->groups)->rule), progress);
}

/* The step of the rounds that were gathered. */
static void step_of_rounds(sim_t *self, reference_t *r)
{
    psd_whole_t whole[MAX_TENSORS];
    double lr[PSD_MAX_GROUPS];
    const double divisor =
        self->config.accumulate > 1 ? psd_reduce_divisor(self->config.reduce, r->n_samples, (uint32_t)r->n_gradients) : 0;
    tensors_of(self, r, whole);
    for (uint32_t t = 0; t < self->list.n; t++)
        whole[t].gradient = (const float *const *)r->g[t];
    rates_now(self, r, lr);
    psd_whole_step(&self->groups, &self->clip, whole, self->list.n, r->weight, r->n_gradients, divisor, lr);
    r->samples += r->n_samples;
    r->n_gradients = r->n_rounds = r->n_samples = 0;
    self->result->steps++;
}

/* One bsp round: `a[0..n)` are its contributors in rank order. */
static void reference_round(sim_t *self, reference_t *r, const applied_t *a, size_t n)
{
    const push_t *push[SIM_MAX_WORKERS];
    const bool alone = self->config.accumulate < 2;
    uint64_t total = 0;
    for (size_t k = 0; k < n; k++) {
        if (n > SIM_MAX_WORKERS || !(push[k] = sim_find_push(self, &a[k]))) {
            sim_broken(self, "clock %" PRIu64 " applied a push that worker %" PRIu64 " did not make", a[k].clock, a[k].worker);
            return;
        }
        total += push[k]->samples;
    }
    pull(self, r);
    for (size_t k = 0; k < n; k++) {
        const size_t at = r->n_gradients++;
        r->weight[at] = alone ? psd_reduce_weight(self->config.reduce, push[k]->samples, total, (uint32_t)n)
                              : psd_reduce_term(self->config.reduce, push[k]->samples);
        catch_up(self, r, &(sim_life_t){ a[k].run, a[k].incarnation, a[k].clock - 1, (uint32_t)a[k].worker }, at);
        make_push(self, r, push[k], at);
        r->kept[a[k].worker].clock = a[k].clock;
    }
    r->clock = a[0].clock;
    r->n_samples += total;
    r->n_rounds++;
    if (alone || r->n_rounds == self->config.accumulate)
        step_of_rounds(self, r);
}

/* One asp step. */
static void reference_step(sim_t *self, reference_t *r, const applied_t *a)
{
    const push_t *push = sim_find_push(self, a);
    if (!push) {
        sim_broken(self, "clock %" PRIu64 " applied a push that worker %" PRIu64 " did not make", a->clock, a->worker);
        return;
    }
    psd_whole_t whole[MAX_TENSORS];
    double lr[PSD_MAX_GROUPS];
    const float *g[MAX_TENSORS], *at = push->gradient;
    tensors_of(self, r, whole);
    for (uint32_t t = 0; t < self->list.n; at += self->list.tensor[t++].n_elements) {
        g[t] = at;
        whole[t].gradient = &g[t];
    }
    rates_now(self, r, lr);
    psd_whole_step(&self->groups, &self->clip, whole, self->list.n, (double[]){ 1 }, 1, 0, lr);
    self->result->steps++;
    r->samples += push->samples;
}

static void replay(sim_t *self, reference_t *r, const ledger_t *ledger)
{
    self->result->steps = 0;
    for (size_t i = 0, n = 1; i < ledger->n; i += n) {
        if (!psd_mode_has_rounds(self->mode)) {
            reference_step(self, r, &ledger->at[i]);
            continue;
        }
        for (n = 1; i + n < ledger->n && ledger->at[i + n].clock == ledger->at[i].clock;)
            n++;
        reference_round(self, r, &ledger->at[i], n);
    }
}

static bool same_bits(const float *a, const float *b, size_t n) { return !memcmp(a, b, n * sizeof *a); }

/* A tensor's slow weights, which the caller frees. */
static float *slow_of(const sim_t *self, const reference_t *r, uint32_t t)
{
    const size_t n = self->list.tensor[t].n_elements;
    float *slow = malloc(n * sizeof *slow);
    psd_rule_slow(rule_of(self, t), r->w[t], r->slot[t], slow, n);
    return slow;
}

/* Compare one shard's chunks with the reference. */
static void check_shard(sim_t *self, const reference_t *r, uint32_t s)
{
    const psd_engine_t *engine = psd_node_engine(self->server[s].node);
    const psd_partition_t *map = psd_engine_map(engine);
    for (uint32_t i = 0; i < map->n_held[s]; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[s][i]];
        psd_buf_t *slow = psd_shard_slow(psd_engine_shard(engine), c->part);
        float *expected_slow = slow_of(self, r, c->tensor);
        if (!same_bits((const float *)psd_shard_weights(psd_engine_shard(engine), c->part)->data + c->at,
                       r->w[c->tensor] + c->offset, c->n))
            sim_broken(self, "shard %u chunk %u differs from the single-process weights of tensor %u", s, i, c->tensor);
        if (!same_bits((const float *)slow->data + c->at, expected_slow + c->offset, c->n))
            sim_broken(self, "shard %u chunk %u differs from the single-process slow weights of tensor %u", s, i, c->tensor);
        free(expected_slow);
        psd_buf_unref(&slow);
    }
}

uint64_t sim_hash(const sim_t *self, float *const *w)
{
    uint64_t hash = 14695981039346656037u;
    for (uint32_t t = 0; t < self->list.n; t++)
        for (size_t i = 0; i < self->list.tensor[t].n_elements * sizeof(float); i++)
            hash = (hash ^ ((const uint8_t *)w[t])[i]) * 1099511628211u;
    return hash;
}

static void hash_all(sim_t *self, const reference_t *r)
{
    float *slow[MAX_TENSORS];
    self->result->weights_hash = sim_hash(self, r->w);
    if (!psd_groups_have_slow(&self->groups))
        return;
    for (uint32_t t = 0; t < self->list.n; t++)
        slow[t] = slow_of(self, r, t);
    self->result->slow_hash = sim_hash(self, slow);
    for (uint32_t t = 0; t < self->list.n; t++)
        free(slow[t]);
}

/* Where to read a server's chunks into the reference. */
typedef struct place {
    reference_t *r;
    const psd_partition_t *map;
    uint32_t s;
} place_t;

static psd_ckpt_target_t chunk_of_reference(void *arg, uint32_t part)
{
    const place_t *at = arg;
    const psd_chunk_t *c = &at->map->chunk[at->map->held[at->s][part]];
    psd_ckpt_target_t to = { .w = at->r->w[c->tensor] + c->offset, .state = &at->r->state[c->tensor] };
    for (int i = 0; i < PSD_MAX_SLOTS; i++)
        to.slot[i] = at->r->slot[c->tensor][i] ? at->r->slot[c->tensor][i] + c->offset : NULL;
    return to;
}

/* A server that was restarted after the end of the job holds nothing: its share is on the disk. */
static void check_last_file(sim_t *self, const reference_t *r, uint32_t s)
{
    const psd_partition_t *map = psd_engine_map(psd_node_engine(self->server[0].node));
    reference_t saved;
    uint64_t newest = 0;
    psd_err_t err;
    reference_new(self, &saved);
    place_t place = { .r = &saved, .map = map, .s = s };
    if (!psd_ckpt_list(self->dir, &newest, 1) || psd_ckpt_load(self->dir, newest, &self->list, map, s, &self->groups,
                                                               chunk_of_reference, &place, NULL, NULL, &err) != PSD_OK)
        sim_broken(self, "shard %u does not exist at the end, nor does its file", s);
    for (uint32_t i = 0; i < map->n_held[s]; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[s][i]];
        if (!same_bits(saved.w[c->tensor] + c->offset, r->w[c->tensor] + c->offset, c->n))
            sim_broken(self, "shard %u chunk %u differs in its last file from the single-process weights", s, i);
    }
    reference_free(self, &saved);
}

/* A job also ends when its last weights could not be saved for too long; if a server dies then, its weights are lost. */
static bool last_is_safe(const sim_t *self)
{
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
    return facts.has_point && facts.point_clock == facts.clock;
}

void sim_check_weights(sim_t *self)
{
    const ledger_t *first = &self->server[0].ledger;
    reference_t r;
    for (uint32_t s = 0; s < self->config.servers; s++) {
        const ledger_t *its = &self->server[s].ledger;
        const bool holds = self->server[s].node && psd_engine_shard(psd_node_engine(self->server[s].node));
        if (s == 0 || !psd_mode_has_rounds(self->mode)) {
            reference_new(self, &r);
            replay(self, &r, its);
        }
        if (holds && psd_mode_has_rounds(self->mode) &&
            (its->n != first->n || (its->n && memcmp(its->at, first->at, its->n * sizeof *its->at))))
            sim_broken(self, "shards 0 and %u applied different contributors (%zu and %zu pushes)", s, first->n, its->n);
        if (holds)
            check_shard(self, &r, s);
        else if (psd_mode_has_rounds(self->mode) && last_is_safe(self))
            check_last_file(self, &r, s);
        if (!psd_mode_has_rounds(self->mode) || s + 1 == self->config.servers) {
            hash_all(self, &r);
            reference_free(self, &r);
        }
    }
}
