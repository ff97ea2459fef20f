#include "server/core/shard.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"
#include "proto/codec.h"

/* Elements stepped at a time: the summed gradient and the state of a block stay in the cache, so that sum, optimizer,
 * Lookahead's pull and the checksum of the result read memory once. */
enum { BLOCK = 4096 };

typedef struct slice {
    uint32_t n;                 /* elements */
    uint32_t checksum;          /* of the weights */
    psd_buf_t *w;               /* weights, shared with sends in flight */
    float *slot[PSD_MAX_SLOTS]; /* state, inside the shard's arrays */
    psd_rule_state_t state;
    psd_work_t work;
    psd_buf_t *kept_w; /* the chunk before the step that a checkpoint must not see; NULL: none kept */
    float *kept_slots; /* its state arrays, n floats each, one after the other */
    psd_rule_state_t kept_state;
} slice_t;

struct psd_shard {
    psd_rule_t rule;
    psd_clip_t clip;
    psd_passes_t passes;
    uint32_t n_parts;
    slice_t *slice;              /* n_parts */
    size_t n_array;              /* bytes of each state array */
    float *array[PSD_MAX_SLOTS]; /* rule.n_slots arrays over all chunks */
};

/* State arrays are mapped whole, in huge pages where the system has them: stepping is bound by memory, and by
 * address translation when pages are small. */
static float *map_array(size_t n_bytes)
{
    void *at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    madvise(at, n_bytes, MADV_HUGEPAGE);
    return at;
}

/* Chunks start on cache lines, and each array is shifted against the others so that the same element of several
 * arrays does not fall into the same set of the cache. */
static size_t padded(uint32_t n) { return ((size_t)n + 15) / 16 * 16; }
enum { SHIFT = 16 * 9 };

static int allocate(psd_shard_t *self, const psd_partition_t *map, uint32_t server)
{
    size_t total = SHIFT * PSD_MAX_SLOTS;
    for (uint32_t p = 0; p < self->n_parts; p++)
        total += padded(map->chunk[map->part[server][p]].n);
    self->n_array = total * sizeof(float);
    for (int s = 0; s < self->rule.n_slots; s++)
        if (!(self->array[s] = map_array(self->n_array)))
            return PSD_ENOMEM;
    size_t at = 0;
    for (uint32_t p = 0; p < self->n_parts; p++) {
        slice_t *c = &self->slice[p];
        c->n = map->chunk[map->part[server][p]].n;
        if (!(c->w = psd_buf_new(c->n * sizeof(float))))
            return PSD_ENOMEM;
        memset(c->w->data, 0, c->w->n_bytes);
        for (int s = 0; s < self->rule.n_slots; s++)
            c->slot[s] = self->array[s] + SHIFT * s + at;
        at += padded(c->n);
    }
    return PSD_OK;
}

psd_shard_t *psd_shard_new(const psd_rule_t *rule, const psd_clip_t *clip, const psd_partition_t *map, uint32_t server,
                           psd_err_t *err)
{
    assert(server < map->n_servers);
    psd_shard_t *self = calloc(1, sizeof *self);
    if (self) {
        self->rule = *rule;
        self->clip = *clip;
        self->passes = psd_passes_of(rule, clip);
        self->n_parts = map->n_parts[server];
        self->slice = calloc(self->n_parts + 1, sizeof *self->slice);
    }
    if (!self || !self->slice || allocate(self, map, server) != PSD_OK) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a shard of %llu elements and %d state arrays",
                    (unsigned long long)map->n_elements[server], rule->n_slots);
        psd_shard_destroy(&self);
    }
    return self;
}

static void drop_gradients(psd_work_t *work)
{
    for (uint32_t k = 0; k < work->n_gradients; k++)
        psd_buf_unref(&work->gradient[k]);
    work->n_gradients = 0;
}

void psd_shard_destroy(psd_shard_t **self_p)
{
    psd_shard_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    for (uint32_t p = 0; self->slice && p < self->n_parts; p++) {
        drop_gradients(&self->slice[p].work);
        psd_shard_forget(self, p);
        free(self->slice[p].work.gradient);
        free(self->slice[p].work.weight);
        psd_buf_unref(&self->slice[p].w);
    }
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        if (self->array[s])
            munmap(self->array[s], self->n_array);
    free(self->slice);
    free(self);
}

const psd_rule_t *psd_shard_rule(const psd_shard_t *self) { return &self->rule; }
const psd_passes_t *psd_shard_passes(const psd_shard_t *self) { return &self->passes; }

uint32_t psd_shard_parts(const psd_shard_t *self) { return self->n_parts; }

static slice_t *slice_of(const psd_shard_t *self, uint32_t part)
{
    assert(part < self->n_parts);
    return &self->slice[part];
}

uint32_t psd_shard_elements(const psd_shard_t *self, uint32_t part) { return slice_of(self, part)->n; }
psd_buf_t *psd_shard_weights(const psd_shard_t *self, uint32_t part) { return slice_of(self, part)->w; }
uint32_t psd_shard_checksum(const psd_shard_t *self, uint32_t part) { return slice_of(self, part)->checksum; }

uint64_t psd_shard_sync_epoch(const psd_shard_t *self, uint32_t part) { return slice_of(self, part)->state.sync_epoch; }

void psd_shard_set(psd_shard_t *self, uint32_t part, const float *values)
{
    slice_t *c = slice_of(self, part);
    assert(psd_buf_is_unique(c->w) && "initial values come before anything is sent");
    memcpy(c->w->data, values, c->w->n_bytes);
    c->checksum = psd_crc32c(c->w->data, c->w->n_bytes);
    psd_rule_init(&self->rule, &c->state, c->w->data, c->slot, c->n);
}

psd_buf_t *psd_shard_slow(const psd_shard_t *self, uint32_t part)
{
    const slice_t *c = slice_of(self, part);
    psd_buf_t *copy = psd_buf_new(c->w->n_bytes);
    if (copy)
        memcpy(copy->data, self->rule.slow_slot < 0 ? c->w->data : c->slot[self->rule.slow_slot], c->w->n_bytes);
    return copy;
}

psd_shard_state_t psd_shard_state(psd_shard_t *self, uint32_t part)
{
    slice_t *c = slice_of(self, part);
    psd_shard_state_t view = { .w = c->w->data, .state = &c->state };
    for (int s = 0; s < self->rule.n_slots; s++)
        view.slot[s] = c->slot[s];
    if (!c->kept_w)
        return view;
    view = (psd_shard_state_t){ .w = c->kept_w->data, .state = &c->kept_state };
    for (int s = 0; s < self->rule.n_slots; s++)
        view.slot[s] = c->kept_slots + (size_t)s * c->n;
    return view;
}

void psd_shard_forget(psd_shard_t *self, uint32_t part)
{
    slice_t *c = slice_of(self, part);
    psd_buf_unref(&c->kept_w);
    free(c->kept_slots);
    c->kept_slots = NULL;
}

void psd_shard_filled(psd_shard_t *self, uint32_t part)
{
    slice_t *c = slice_of(self, part);
    c->checksum = psd_crc32c(c->w->data, c->w->n_bytes);
}

/* Weights are kept by a reference, which makes the step copy them before it writes; state arrays are copied here. */
static void preserve(slice_t *c, int n_slots)
{
    c->kept_w = psd_buf_ref(c->w);
    c->kept_state = c->state;
    c->kept_slots = malloc((size_t)n_slots * c->n * sizeof(float) + 1);
    assert(c->kept_slots && "no memory to keep a chunk for a checkpoint");
    for (int s = 0; s < n_slots; s++)
        memcpy(c->kept_slots + (size_t)s * c->n, c->slot[s], c->n * sizeof(float));
}

psd_work_t *psd_shard_work(psd_shard_t *self, uint32_t part, uint32_t capacity)
{
    psd_work_t *work = &slice_of(self, part)->work;
    drop_gradients(work);
    if (capacity > work->capacity) {
        free(work->gradient);
        free(work->weight);
        work->capacity = 0;
        work->gradient = calloc(capacity, sizeof *work->gradient);
        work->weight = calloc(capacity, sizeof *work->weight);
        if (!work->gradient || !work->weight)
            return NULL;
        work->capacity = capacity;
    }
    work->shard = self;
    work->part = part;
    work->pass = 0;
    work->is_bounded = false;
    work->lr = 0;
    work->scale = 1;
    work->preserve = false;
    work->checksum = 0;
    work->clipped = 1;
    return work;
}

psd_work_t *psd_shard_pending(psd_shard_t *self, uint32_t part) { return &slice_of(self, part)->work; }

/* The sum of the contributions' elements [at, at + n), bounded by value and scaled: in `room`, or as it came when it is that. */
static const float *sum_block(const psd_work_t *work, const psd_clip_t *clip, float scale, size_t at, size_t n, float *room)
{
    const float *gradient[PSD_MAX_WORKERS];
    gradient[0] = NULL;
    const bool is_one = work->n_gradients == 1 && work->weight[0] == 1.0, bounds = clip->value > 0 && !work->is_bounded;
    for (uint32_t k = 0; k < work->n_gradients; k++)
        gradient[k] = (const float *)work->gradient[k]->data + at;
    if (is_one && !bounds && scale == 1.0f)
        return gradient[0];
    psd_aggregate(room, gradient, work->weight, work->n_gradients, n);
    if (bounds)
        psd_clip_by_value(clip, room, n);
    if (scale != 1.0f)
        psd_isa_active()->scale(room, room, scale, n);
    return room;
}

static float *writable_weights(slice_t *c)
{
    if (!psd_buf_is_unique(c->w)) {
        psd_buf_t *copy = psd_buf_new(c->w->n_bytes);
        assert(copy && "no memory for a second copy of a chunk whose send is in flight");
        memcpy(copy->data, c->w->data, copy->n_bytes);
        psd_buf_unref(&c->w);
        c->w = copy;
    }
    return c->w->data;
}

static psd_plan_t plan(const psd_work_t *work, psd_rule_state_t *state)
{
    const psd_shard_t *self = work->shard;
    psd_plan_t plan = psd_passes_plan(&self->passes, &self->rule, &self->clip, state, work->lr, work->total, work->pass);
    plan.scale *= work->scale;
    return plan;
}

/* Put the sum of the gradients in their place: other passes follow. */
static void sum_up(psd_work_t *work, const slice_t *c)
{
    if (work->is_bounded)
        return;
    psd_buf_t *sum = psd_buf_new(c->n * sizeof(float));
    assert(sum && "no memory for a summed gradient");
    float *all = sum->data;
    for (size_t at = 0, n; at < c->n; at += n) {
        n = c->n - at < BLOCK ? c->n - at : BLOCK;
        const float *block = sum_block(work, &work->shard->clip, 1.0f, at, n, all + at);
        if (block != all + at)
            memcpy(all + at, block, n * sizeof *block);
    }
    drop_gradients(work);
    work->gradient[0] = sum;
    work->weight[0] = 1;
    work->n_gradients = 1;
    work->is_bounded = true;
}

static void measure(psd_work_t *work, slice_t *c)
{
    const psd_shard_t *self = work->shard;
    psd_rule_state_t ahead = c->state;
    memset(work->sum, 0, sizeof work->sum);
    if (!work->n_gradients)
        return;
    sum_up(work, c);
    const psd_plan_t p = plan(work, &ahead);
    psd_passes_measure(&self->passes, work->pass, &self->rule, &p, c->w->data, c->slot, work->gradient[0]->data, c->n, work->sum);
}

static void step(psd_work_t *work, slice_t *c)
{
    const psd_rule_t *rule = &work->shard->rule;
    if (work->preserve)
        preserve(c, rule->n_slots);
    if (work->n_gradients) {
        float room[BLOCK], *w = writable_weights(c), *slot[PSD_MAX_SLOTS] = { 0 };
        const psd_plan_t p = plan(work, &c->state);
        work->clipped = p.scale;
        c->checksum = 0;
        for (size_t at = 0, n; at < c->n; at += n) {
            n = c->n - at < BLOCK ? c->n - at : BLOCK;
            for (int s = 0; s < rule->n_slots; s++)
                slot[s] = c->slot[s] + at;
            psd_rule_apply(rule, &p, w + at, slot, sum_block(work, &work->shard->clip, p.scale, at, n, room), n);
            c->checksum = psd_crc32c_extend(c->checksum, w + at, n * sizeof *w);
        }
    }
    work->checksum = c->checksum;
    drop_gradients(work);
}

void psd_work_run(psd_work_t *work)
{
    slice_t *c = slice_of(work->shard, work->part);
    if (work->pass < work->shard->passes.n)
        measure(work, c);
    else
        step(work, c);
}
