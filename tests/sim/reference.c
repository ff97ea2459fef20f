/* reference.c - the weights that a single process comes to along the pushes that count, and whether each
 * shard has them. */
#include <assert.h>
#include <math.h>

#include "common/optim/whole.h"
#include "tests/sim/sim_state.h"

/* The whole model. */
typedef struct reference {
    float *w[MAX_TENSORS], *slot[MAX_TENSORS][PSD_MAX_SLOTS], *g[MAX_TENSORS][SIM_MAX_WORKERS];
    psd_rule_state_t state[MAX_TENSORS];
    float *held[MAX_TENSORS]; /* the weights as workers get them */
    uint64_t clock;           /* of the round that was made last */
    uint64_t samples;         /* behind the steps that were made */
    struct kept {             /* what coding its gradients has cost a worker, in this life of it */
        uint64_t run, incarnation;
        float *residual[MAX_TENSORS];
    } kept[SIM_MAX_WORKERS];
} reference_t;

static void reference_new(const sim_t *self, reference_t *r)
{
    memset(r, 0, sizeof *r);
    for (uint32_t t = 0; t < self->list.n; t++) {
        size_t n = self->list.tensor[t].n_elements;
        r->w[t] = calloc(n, sizeof(float));
        for (int i = 0; i < self->rule.n_slots; i++)
            r->slot[t][i] = calloc(n, sizeof(float));
        r->held[t] = calloc(n, sizeof(float));
    }
    sim_initial_weights(self, r->w);
    for (uint32_t t = 0; t < self->list.n; t++)
        psd_rule_init(&self->rule, &r->state[t], r->w[t], r->slot[t], self->list.tensor[t].n_elements);
}

static void reference_free(const sim_t *self, reference_t *r)
{
    for (uint32_t t = 0; t < self->list.n; t++) {
        free(r->w[t]);
        for (int i = 0; i < self->rule.n_slots; i++)
            free(r->slot[t][i]);
        for (uint32_t k = 0; k < SIM_MAX_WORKERS; k++)
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
        whole[t] = (psd_whole_t){ .n = self->list.tensor[t].n_elements, .w = r->w[t], .slot = r->slot[t], .state = &r->state[t] };
}

static void sizes_of(const sim_t *self, uint64_t size[MAX_TENSORS])
{
    for (uint32_t t = 0; t < self->list.n; t++)
        size[t] = self->list.tensor[t].n_elements;
}

/* Every worker gets the weights. */
static void pull(const sim_t *self, reference_t *r)
{
    uint64_t size[MAX_TENSORS];
    sizes_of(self, size);
    for (uint32_t t = 0; t < self->list.n; t++)
        memcpy(r->held[t], r->w[t], size[t] * sizeof(float));
    psd_whole_code(&self->codings.pull, size, self->list.n, r->held, NULL);
}

/* The gradient of a push, from the weights that are held, as it arrives: in r->g[..][k]. */
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
    psd_whole_code(&self->codings.push, size, self->list.n, g, r->kept[push->worker].residual);
}

/* What the worker has kept from the rounds since the last step: it pushed in those that made none, too. Another life of it, or another
 * run of the servers, has kept nothing. */
static void catch_up(sim_t *self, reference_t *r, const applied_t *a, size_t k)
{
    assert(a->worker < SIM_MAX_WORKERS && "ids are those of the workers");
    struct kept *kept = &r->kept[a->worker];
    if (kept->run != a->run || kept->incarnation != a->incarnation) {
        self->result->resets += !psd_coding_is_lossless(&self->codings.push) && a->clock > 1;
        for (uint32_t t = 0; kept->residual[0] && t < self->list.n; t++)
            memset(kept->residual[t], 0, self->list.tensor[t].n_elements * sizeof(float));
    }
    kept->run = a->run;
    kept->incarnation = a->incarnation;
    for (uint64_t clock = r->clock + 1; clock < a->clock; clock++) {
        const push_t *push =
            sim_find_push(self, &(applied_t){ .run = a->run, .clock = clock, .incarnation = a->incarnation, .worker = a->worker });
        if (push)
            make_push(self, r, push, k);
    }
}

/* The rate of the next step. */
static double rate_now(const sim_t *self, const reference_t *r)
{
    const double progress = psd_schedule_progress(self->config.unit, self->result->steps, r->samples, self->list.rows);
    return psd_schedule_rate(&self->schedule, psd_rule_lr(&self->rule), progress);
}

/* One bsp round: `a[0..n)` are its contributors in rank order. */
static void reference_round(sim_t *self, reference_t *r, const applied_t *a, size_t n)
{
    const push_t *push[SIM_MAX_WORKERS];
    double weight[SIM_MAX_WORKERS];
    psd_whole_t whole[MAX_TENSORS];
    uint64_t total = 0;
    tensors_of(self, r, whole);
    for (size_t k = 0; k < n; k++) {
        if (n > SIM_MAX_WORKERS || !(push[k] = sim_find_push(self, &a[k]))) {
            sim_broken(self, "clock %" PRIu64 " applied a push of worker %" PRIu64 " that nobody made", a[k].clock, a[k].worker);
            return;
        }
        total += push[k]->samples;
    }
    pull(self, r);
    for (size_t k = 0; k < n; k++) {
        weight[k] = (double)push[k]->samples / (double)total;
        catch_up(self, r, &a[k], k);
        make_push(self, r, push[k], k);
    }
    r->clock = a[0].clock;
    for (uint32_t t = 0; t < self->list.n; t++)
        whole[t].gradient = (const float *const *)r->g[t];
    psd_whole_step(&self->rule, &self->clip, whole, self->list.n, weight, n, rate_now(self, r));
    r->samples += total;
}

/* One asp step. */
static void reference_step(sim_t *self, reference_t *r, const applied_t *a)
{
    const push_t *push = sim_find_push(self, a);
    if (!push) {
        sim_broken(self, "clock %" PRIu64 " applied a push of worker %" PRIu64 " that nobody made", a->clock, a->worker);
        return;
    }
    psd_whole_t whole[MAX_TENSORS];
    const float *g[MAX_TENSORS], *at = push->gradient;
    tensors_of(self, r, whole);
    for (uint32_t t = 0; t < self->list.n; at += self->list.tensor[t++].n_elements) {
        g[t] = at;
        whole[t].gradient = &g[t];
    }
    psd_whole_step(&self->rule, &self->clip, whole, self->list.n, (double[]){ 1 }, 1, rate_now(self, r));
    r->samples += push->samples;
}

static void replay(sim_t *self, reference_t *r, const ledger_t *ledger)
{
    self->result->steps = 0;
    for (size_t i = 0, n = 1; i < ledger->n; i += n, self->result->steps++) {
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

/* Compare one shard's chunks with the reference. */
static void check_shard(sim_t *self, const reference_t *r, uint32_t s)
{
    const psd_engine_t *engine = psd_node_engine(self->server[s].node);
    const psd_partition_t *map = psd_engine_map(engine);
    for (uint32_t i = 0; i < map->n_held[s]; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[s][i]];
        psd_buf_t *slow = psd_shard_slow(psd_engine_shard(engine), c->part);
        const float *expected_slow = self->rule.lookahead ? r->slot[c->tensor][self->rule.slow_slot] : r->w[c->tensor];
        if (!same_bits((const float *)psd_shard_weights(psd_engine_shard(engine), c->part)->data + c->at,
                       r->w[c->tensor] + c->offset, c->n))
            sim_broken(self, "shard %u chunk %u differs from the single-process weights of tensor %u", s, i, c->tensor);
        if (!same_bits((const float *)slow->data + c->at, expected_slow + c->offset, c->n))
            sim_broken(self, "shard %u chunk %u differs from the single-process slow weights of tensor %u", s, i, c->tensor);
        psd_buf_unref(&slow);
    }
}

static uint64_t hash_model(const sim_t *self, float *const *w)
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
    self->result->weights_hash = hash_model(self, r->w);
    for (uint32_t t = 0; self->rule.lookahead && t < self->list.n; t++)
        slow[t] = r->slot[t][self->rule.slow_slot];
    if (self->rule.lookahead)
        self->result->slow_hash = hash_model(self, slow);
}

/* Where a server's chunks of the reference are to be read to. */
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

/* A server that was started again when the job was over holds nothing: its share is on the disk. */
static void check_last_file(sim_t *self, const reference_t *r, uint32_t s)
{
    const psd_partition_t *map = psd_engine_map(psd_node_engine(self->server[0].node));
    reference_t saved;
    uint64_t newest = 0;
    psd_err_t err;
    reference_new(self, &saved);
    place_t place = { .r = &saved, .map = map, .s = s };
    if (!psd_ckpt_list(self->dir, &newest, 1) ||
        psd_ckpt_load(self->dir, newest, &self->list, map, s, &self->rule, chunk_of_reference, &place, NULL, NULL, &err) != PSD_OK)
        sim_broken(self, "shard %u is not there at the end, nor is its file", s);
    for (uint32_t i = 0; i < map->n_held[s]; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[s][i]];
        if (!same_bits(saved.w[c->tensor] + c->offset, r->w[c->tensor] + c->offset, c->n))
            sim_broken(self, "shard %u chunk %u differs in its last file from the single-process weights", s, i);
    }
    reference_free(self, &saved);
}

/* A job also ends when its last weights could not be saved for too long; what a server held that dies then is
 * lost. */
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
