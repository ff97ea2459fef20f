#include "server/core/shard.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"
#include "proto/actions.h"
#include "proto/coded.h"

/* Elements stepped at a time: the summed gradient and the state of a block stay in the cache, so that sum, optimizer,
 * Lookahead's pull and the checksum of the result read memory once. */
enum { BLOCK = 4096 };

typedef struct slice {
    uint32_t n;      /* elements */
    uint32_t at;     /* where in its part it begins */
    uint32_t part;   /* which */
    uint32_t tensor; /* of the model */
    size_t code_at;  /* where in a pushed part its code begins, in bytes */
    psd_rule_state_t state;
    psd_rule_state_t kept_state;
} slice_t;

typedef struct part {
    uint32_t n;                 /* elements */
    uint32_t first, n_chunks;   /* of its slices */
    size_t n_codes;             /* bytes of a pushed part, without a bitmap */
    psd_buf_t *w;               /* weights, shared with sends in flight */
    psd_buf_t *coded;           /* the same in the coding of pulls; NULL: they leave as they are */
    float *slot[PSD_MAX_SLOTS]; /* state, inside the shard's arrays */
    double *sum;                /* of contributions, inside the shard's array; NULL: there was none yet */
    uint8_t *has_sum;           /* bitmap of the chunks of which there is one now */
    psd_work_t work;
    psd_buf_t *kept_w; /* the part before the step that a checkpoint must not see; NULL: none kept */
    float *kept_slots; /* its state arrays, n floats each, one after the other */
} part_t;

struct psd_shard {
    psd_rule_t rule;
    psd_clip_t clip;
    psd_codings_t codings;
    psd_passes_t passes;
    uint32_t n_chunks, n_parts;
    slice_t *slice;                                   /* n_chunks */
    part_t *part;                                     /* n_parts */
    psd_buf_t *(*new_buf)(void *arg, size_t n_bytes); /* of weights; NULL: psd_buf_new */
    void *new_buf_arg;
    size_t n_array;              /* bytes of each state array */
    float *array[PSD_MAX_SLOTS]; /* rule.n_slots arrays over all parts */
    double *sums;                /* over all parts; NULL: nothing was ever added up early */
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

/* Parts start on cache lines, and each array is shifted against the others so that the same element of several
 * arrays does not fall into the same set of the cache. */
static size_t padded(uint32_t n) { return ((size_t)n + 15) / 16 * 16; }
enum { SHIFT = 16 * 9 };

static int allocate(psd_shard_t *self, const psd_partition_t *map, uint32_t server)
{
    size_t total = SHIFT * PSD_MAX_SLOTS;
    for (uint32_t p = 0; p < self->n_parts; p++)
        total += padded(map->part[server][p].n);
    self->n_array = total * sizeof(float);
    for (int s = 0; s < self->rule.n_slots; s++)
        if (!(self->array[s] = map_array(self->n_array)))
            return PSD_ENOMEM;
    for (uint32_t i = 0; i < self->n_chunks; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[server][i]];
        self->slice[i] = (slice_t){ .n = c->n, .at = c->at, .part = c->part, .tensor = c->tensor };
    }
    size_t at = 0;
    for (uint32_t p = 0; p < self->n_parts; p++) {
        part_t *part = &self->part[p];
        const psd_part_t *cut = &map->part[server][p];
        part->n = cut->n;
        part->first = cut->first;
        part->n_chunks = cut->n_chunks;
        for (uint32_t i = 0; i < part->n_chunks; i++) {
            self->slice[part->first + i].code_at = part->n_codes;
            part->n_codes += psd_coding_bytes(&self->codings.push, self->slice[part->first + i].n);
        }
        if (!(part->w = psd_buf_new(part->n * sizeof(float))))
            return PSD_ENOMEM;
        memset(part->w->data, 0, part->w->n_bytes);
        for (int s = 0; s < self->rule.n_slots; s++)
            part->slot[s] = self->array[s] + SHIFT * s + at;
        at += padded(part->n);
    }
    return PSD_OK;
}

psd_shard_t *psd_shard_new(const psd_rule_t *rule, const psd_clip_t *clip, const psd_codings_t *codings, const psd_partition_t *map,
                           uint32_t server, psd_err_t *err)
{
    assert(server < map->n_servers);
    psd_shard_t *self = calloc(1, sizeof *self);
    if (self) {
        self->rule = *rule;
        self->clip = *clip;
        self->codings = *codings;
        self->passes = psd_passes_of(rule, clip);
        self->n_chunks = map->n_held[server];
        self->slice = calloc(self->n_chunks + 1, sizeof *self->slice);
        self->part = calloc(map->n_parts[server] + 1, sizeof *self->part);
        self->n_parts = self->part ? map->n_parts[server] : 0;
    }
    if (!self || !self->slice || !self->part || allocate(self, map, server) != PSD_OK) {
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
    for (uint32_t p = 0; p < self->n_parts; p++) {
        part_t *part = &self->part[p];
        drop_gradients(&part->work);
        psd_shard_forget(self, p);
        free(part->work.gradient);
        free(part->work.weight);
        free(part->has_sum);
        psd_buf_unref(&part->w);
        psd_buf_unref(&part->coded);
    }
    if (self->sums)
        munmap(self->sums, 2 * self->n_array);
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        if (self->array[s])
            munmap(self->array[s], self->n_array);
    free(self->slice);
    free(self->part);
    free(self);
}

static psd_buf_t *new_weights(const psd_shard_t *self, size_t n_bytes)
{
    psd_buf_t *made = self->new_buf ? self->new_buf(self->new_buf_arg, n_bytes) : NULL;
    return made ? made : psd_buf_new(n_bytes);
}

bool psd_shard_use(psd_shard_t *self, psd_buf_t *(*new_buf)(void *arg, size_t n_bytes), void *arg)
{
    self->new_buf = new_buf;
    self->new_buf_arg = arg;
    for (uint32_t p = 0; p < self->n_parts; p++) {
        part_t *part = &self->part[p];
        psd_buf_t *moved = new_weights(self, part->w->n_bytes);
        if (!moved)
            return false;
        memcpy(moved->data, part->w->data, moved->n_bytes);
        psd_buf_unref(&part->w);
        part->w = moved;
    }
    return true;
}

const psd_rule_t *psd_shard_rule(const psd_shard_t *self) { return &self->rule; }
const psd_passes_t *psd_shard_passes(const psd_shard_t *self) { return &self->passes; }

uint32_t psd_shard_chunks(const psd_shard_t *self) { return self->n_chunks; }
uint32_t psd_shard_parts(const psd_shard_t *self) { return self->n_parts; }

static slice_t *slice_of(const psd_shard_t *self, uint32_t chunk)
{
    assert(chunk < self->n_chunks);
    return &self->slice[chunk];
}

static part_t *part_of(const psd_shard_t *self, uint32_t part)
{
    assert(part < self->n_parts);
    return &self->part[part];
}

uint32_t psd_shard_elements(const psd_shard_t *self, uint32_t part) { return part_of(self, part)->n; }
uint32_t psd_shard_first(const psd_shard_t *self, uint32_t part) { return part_of(self, part)->first; }
uint32_t psd_shard_chunks_of(const psd_shard_t *self, uint32_t part) { return part_of(self, part)->n_chunks; }
psd_buf_t *psd_shard_weights(const psd_shard_t *self, uint32_t part) { return part_of(self, part)->w; }

psd_shard_sent_t psd_shard_sent(const psd_shard_t *self, uint32_t part)
{
    const part_t *p = part_of(self, part);
    if (p->coded)
        return (psd_shard_sent_t){ p->coded, psd_coding_number(&self->codings.pull) };
    return (psd_shard_sent_t){ p->w, PSD_CODEC_F32 };
}

uint64_t psd_shard_sync_epoch(const psd_shard_t *self, uint32_t chunk) { return slice_of(self, chunk)->state.sync_epoch; }

static float *array_of(const psd_buf_t *buf, size_t at) { return (float *)buf->data + at; }

static bool codes_weights(const psd_shard_t *self) { return !psd_coding_is_lossless(&self->codings.pull); }

/* The weights of a part in the coding of pulls; NULL: it cannot say them. Without error feedback: what a worker holds is a rounding of
 * the weights that are trained, and no sum of roundings. */
static psd_buf_t *code_of_weights(const psd_shard_t *self, const part_t *p)
{
    const psd_coding_t *coding = &self->codings.pull;
    size_t n_bytes = 0, at = 0;
    for (uint32_t i = 0; i < p->n_chunks; i++)
        n_bytes += psd_coding_bytes(coding, self->slice[p->first + i].n);
    psd_buf_t *code = psd_buf_new(n_bytes);
    assert(code && "no memory for coded weights");
    for (uint32_t i = 0; code && i < p->n_chunks; i++) {
        const slice_t *c = &self->slice[p->first + i];
        if (!psd_coding_encode(coding, array_of(p->w, c->at), NULL, c->n, (uint8_t *)code->data + at))
            psd_buf_unref(&code);
        at += psd_coding_bytes(coding, c->n);
    }
    return code;
}

/* The part has new weights: make what leaves of them. */
static void publish(const psd_shard_t *self, part_t *p)
{
    psd_buf_unref(&p->coded);
    if (codes_weights(self))
        p->coded = code_of_weights(self, p);
    psd_buf_changed(p->w);
}

void psd_shard_set(psd_shard_t *self, uint32_t part, const float *values)
{
    part_t *p = part_of(self, part);
    assert(psd_buf_is_unique(p->w) && "initial values come before anything is sent");
    memcpy(p->w->data, values, p->w->n_bytes);
    publish(self, p);
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        slice_t *c = &self->slice[p->first + i];
        float *slot[PSD_MAX_SLOTS] = { 0 };
        for (int s = 0; s < self->rule.n_slots; s++)
            slot[s] = p->slot[s] + c->at;
        psd_rule_init(&self->rule, &c->state, array_of(p->w, c->at), slot, c->n);
    }
}

psd_buf_t *psd_shard_slow(const psd_shard_t *self, uint32_t part)
{
    const part_t *p = part_of(self, part);
    psd_buf_t *copy = psd_buf_new(p->w->n_bytes);
    if (copy)
        memcpy(copy->data, self->rule.slow_slot < 0 ? p->w->data : p->slot[self->rule.slow_slot], p->w->n_bytes);
    return copy;
}

psd_shard_state_t psd_shard_state(psd_shard_t *self, uint32_t chunk)
{
    slice_t *c = slice_of(self, chunk);
    const part_t *p = &self->part[c->part];
    psd_shard_state_t view = { .w = array_of(p->kept_w ? p->kept_w : p->w, c->at),
                               .state = p->kept_w ? &c->kept_state : &c->state };
    for (int s = 0; s < self->rule.n_slots; s++)
        view.slot[s] = (p->kept_w ? p->kept_slots + (size_t)s * p->n : p->slot[s]) + c->at;
    return view;
}

bool psd_shard_is_kept(const psd_shard_t *self, uint32_t part) { return part_of(self, part)->kept_w != NULL; }

void psd_shard_forget(psd_shard_t *self, uint32_t part)
{
    part_t *p = part_of(self, part);
    psd_buf_unref(&p->kept_w);
    free(p->kept_slots);
    p->kept_slots = NULL;
}

void psd_shard_filled(psd_shard_t *self, uint32_t part) { publish(self, part_of(self, part)); }

/* Weights are kept by a reference, which makes the step copy them before it writes; state arrays are copied here. */
static void preserve(psd_shard_t *self, part_t *p)
{
    const int n_slots = self->rule.n_slots;
    p->kept_w = psd_buf_ref(p->w);
    p->kept_slots = malloc((size_t)n_slots * p->n * sizeof(float) + 1);
    assert(p->kept_slots && "no memory to keep a part for a checkpoint");
    for (int s = 0; s < n_slots; s++)
        memcpy(p->kept_slots + (size_t)s * p->n, p->slot[s], p->n * sizeof(float));
    for (uint32_t i = 0; i < p->n_chunks; i++)
        self->slice[p->first + i].kept_state = self->slice[p->first + i].state;
}

psd_work_t *psd_shard_work(psd_shard_t *self, uint32_t part, uint32_t capacity)
{
    psd_work_t *work = &part_of(self, part)->work;
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
    work->folds = work->onto = false;
    work->is_bounded = false;
    work->lr = 0;
    work->momentum = NAN;
    work->scale = 1;
    work->sums = false;
    work->preserve = false;
    work->clipped = 1;
    return work;
}

bool psd_shard_make_sums(psd_shard_t *self)
{
    if (self->sums)
        return true;
    bool ok = true;
    for (uint32_t p = 0; p < self->n_parts; p++)
        if (!self->part[p].has_sum)
            ok &= (self->part[p].has_sum = calloc(1, psd_bitmap_bytes(self->part[p].n_chunks))) != NULL;
    if (!ok || !(self->sums = (double *)(void *)map_array(2 * self->n_array)))
        return false;
    size_t at = 0;
    for (uint32_t p = 0; p < self->n_parts; at += padded(self->part[p++].n))
        self->part[p].sum = self->sums + at;
    return true;
}

static void forget_sum(part_t *p)
{
    if (p->has_sum)
        memset(p->has_sum, 0, psd_bitmap_bytes(p->n_chunks));
}

void psd_shard_forget_sums(psd_shard_t *self)
{
    for (uint32_t p = 0; p < self->n_parts; p++)
        forget_sum(&self->part[p]);
}

psd_work_t *psd_shard_pending(psd_shard_t *self, uint32_t part) { return &part_of(self, part)->work; }

/* Those who have a gradient of one chunk, in rank order, and how far its sum has come. */
typedef struct addends {
    uint32_t n;
    size_t n_elements, done;           /* of the chunk */
    const psd_coding_t *coding;        /* NULL: all are floats */
    float *room;                       /* where codes are decoded, BLOCK floats for each; NULL: all are floats */
    double *sum;                       /* of those before them; NULL: there are none */
    const void *code[PSD_MAX_WORKERS]; /* the chunk */
    const float *gradient[PSD_MAX_WORKERS];
    double weight[PSD_MAX_WORKERS];
} addends_t;

/* Whether the gradients of a work have to be decoded. */
static bool is_coded(const psd_work_t *work)
{
    return work->n_gradients && !work->is_bounded && !psd_coding_is_lossless(&work->shard->codings.push);
}

/* Where a work decodes to, for all its chunks; NULL: nowhere. */
static float *new_room(const psd_work_t *work)
{
    float *room = is_coded(work) ? malloc(work->n_gradients * (BLOCK * sizeof *room)) : NULL;
    assert((room || !is_coded(work)) && "no memory to decode gradients");
    return room;
}

static void find_addends(addends_t *out, const psd_work_t *work, const part_t *p, uint32_t i, float *room)
{
    const slice_t *c = &work->shard->slice[p->first + i];
    const size_t n_codes = room ? p->n_codes : p->n * sizeof(float), at = room ? c->code_at : c->at * sizeof(float);
    out->n = 0;
    out->n_elements = c->n;
    out->done = 0;
    out->coding = &work->shard->codings.push;
    out->room = room;
    out->sum = work->onto && !work->is_bounded && p->sum && psd_bitmap_get(p->has_sum, i) ? p->sum + c->at : NULL;
    for (uint32_t k = 0; k < work->n_gradients; k++) {
        if (!psd_coded_has(work->gradient[k], n_codes, i))
            continue;
        out->code[out->n] = (const uint8_t *)work->gradient[k]->data + at;
        out->weight[out->n++] = work->weight[k];
    }
}

/* The next n elements of each addend, as floats. */
static void look_at_block(addends_t *self, size_t n)
{
    for (uint32_t k = 0; k < self->n; k++) {
        self->gradient[k] = self->room ? self->room + (size_t)k * BLOCK : (const float *)self->code[k] + self->done;
        if (self->room)
            psd_coding_decode(self->coding, self->code[k], self->n_elements, self->done, n, self->room + (size_t)k * BLOCK);
    }
    self->done += n;
}

/* The sum of the addends' next n elements, bounded by value and scaled: in `room`, or as it came when it is that. */
static const float *sum_block(addends_t *from, const psd_clip_t *clip, float scale, size_t n, float *room)
{
    const bool is_one = from->n == 1 && !from->sum && from->weight[0] == 1.0, bounds = clip->value > 0;
    const float *sum = room;
    double *before = from->sum ? from->sum + from->done : NULL;
    look_at_block(from, n);
    if (is_one && !bounds && scale == 1.0f) {
        sum = from->gradient[0];
    } else {
        if (before)
            psd_aggregate_onto(room, before, from->gradient, from->weight, from->n, n);
        else
            psd_aggregate(room, from->gradient, from->weight, from->n, n);
        if (bounds)
            psd_clip_by_value(clip, room, n);
        if (scale != 1.0f)
            psd_isa_active()->scale(room, room, scale, n);
    }
    return sum;
}

static float *writable_weights(const psd_shard_t *self, part_t *p)
{
    if (!psd_buf_is_unique(p->w)) {
        psd_buf_t *copy = new_weights(self, p->w->n_bytes);
        assert(copy && "no memory for a second copy of a part whose send is in flight");
        memcpy(copy->data, p->w->data, copy->n_bytes);
        psd_buf_unref(&p->w);
        p->w = copy;
    }
    return p->w->data;
}

static psd_plan_t plan(const psd_work_t *work, const slice_t *c, psd_rule_state_t *state)
{
    const psd_shard_t *self = work->shard;
    const double *total[PSD_MAX_PASSES];
    for (int i = 0; i < PSD_MAX_PASSES; i++)
        total[i] = work->total[i] ? work->total[i] + work->stride[i] * c->tensor : NULL;
    psd_rule_t rule;
    if (!isnan(work->momentum)) {
        rule = self->rule;
        psd_rule_set_momentum(&rule, work->momentum);
    }
    psd_plan_t plan = psd_passes_plan(&self->passes, isnan(work->momentum) ? &self->rule : &rule, &self->clip, state, work->lr,
                                      total, work->pass);
    plan.scale *= work->scale;
    return plan;
}

static size_t block_of(size_t left) { return left < BLOCK ? left : BLOCK; }

/* Put the sum of the gradients in their place: other passes follow. */
static void sum_up(psd_work_t *work, part_t *p)
{
    const size_t n_map = psd_bitmap_bytes(p->n_chunks);
    if (work->is_bounded)
        return;
    psd_buf_t *sum = psd_buf_new(p->n * sizeof(float) + n_map);
    assert(sum && "no memory for a summed gradient");
    float *room = new_room(work);
    uint8_t *map = (uint8_t *)array_of(sum, p->n);
    memset(map, 0, n_map);
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        const slice_t *c = &work->shard->slice[p->first + i];
        addends_t from;
        find_addends(&from, work, p, i, room);
        const bool any = from.n || from.sum;
        if (any)
            psd_bitmap_set(map, i);
        float *to = array_of(sum, c->at);
        for (size_t at = 0, n; any && at < c->n; at += n, to += n) {
            n = block_of(c->n - at);
            const float *block = sum_block(&from, &work->shard->clip, 1.0f, n, to);
            if (block != to)
                memcpy(to, block, n * sizeof *block);
        }
    }
    free(room);
    drop_gradients(work);
    forget_sum(p);
    work->gradient[0] = sum;
    work->weight[0] = 1;
    work->n_gradients = 1;
    work->is_bounded = true;
}

static void measure(psd_work_t *work, part_t *p)
{
    const psd_shard_t *self = work->shard;
    const int n_sums = self->passes.at[work->pass]->n_sums(&self->rule);
    memset(work->sum, 0, (size_t)p->n_chunks * (size_t)n_sums * sizeof *work->sum);
    if (!work->n_gradients && !work->onto)
        return;
    sum_up(work, p);
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        slice_t *c = &self->slice[p->first + i];
        psd_rule_state_t ahead = c->state;
        float *slot[PSD_MAX_SLOTS] = { 0 };
        if (!psd_coded_has(work->gradient[0], p->n * sizeof(float), i))
            continue;
        for (int s = 0; s < self->rule.n_slots; s++)
            slot[s] = p->slot[s] + c->at;
        const psd_plan_t pass = plan(work, c, &ahead);
        psd_passes_measure(&self->passes, work->pass, &self->rule, &pass, array_of(p->w, c->at), slot,
                           array_of(work->gradient[0], c->at), c->n, work->sum + i * (size_t)n_sums);
    }
}

/* Whether a step sums the weights that it makes; those in a code are summed when they leave. */
static bool sums(const psd_work_t *work) { return work->sums && !codes_weights(work->shard); }

/* One chunk's step. Returns the checksum of the part up to here, `crc` being that of what lies before the chunk; 0 where it does not
 * sum. */
static uint32_t step_chunk(psd_work_t *work, part_t *p, uint32_t i, float *room_of_codes, float *w, uint32_t crc)
{
    static const psd_clip_t none = { .value = 0 };
    const psd_shard_t *self = work->shard;
    slice_t *c = &self->slice[p->first + i];
    addends_t from;
    find_addends(&from, work, p, i, room_of_codes);
    w += c->at;
    if (!from.n && !from.sum)
        return sums(work) ? psd_crc32c_extend(crc, w, c->n * sizeof *w) : 0;
    const psd_plan_t plan_of = plan(work, c, &c->state);
    work->clipped = plan_of.scale;
    for (size_t at = 0, n; at < c->n; at += n) {
        float room[BLOCK], *slot[PSD_MAX_SLOTS] = { 0 };
        n = block_of(c->n - at);
        for (int s = 0; s < self->rule.n_slots; s++)
            slot[s] = p->slot[s] + c->at + at;
        const float *g = sum_block(&from, work->is_bounded ? &none : &self->clip, plan_of.scale, n, room);
        psd_rule_apply(&self->rule, &plan_of, w + at, slot, g, n);
        crc = sums(work) ? psd_crc32c_extend(crc, w + at, n * sizeof *w) : 0;
    }
    return crc;
}

static void step(psd_work_t *work, part_t *p)
{
    if (work->preserve)
        preserve(work->shard, p);
    if (work->n_gradients || work->onto) {
        float *w = writable_weights(work->shard, p), *room = new_room(work);
        uint32_t crc = 0;
        for (uint32_t i = 0; i < p->n_chunks; i++)
            crc = step_chunk(work, p, i, room, w, crc);
        free(room);
        publish(work->shard, p);
        if (sums(work))
            psd_buf_set_checksum(p->w, crc);
    }
    drop_gradients(work);
    if (work->onto)
        forget_sum(p);
}

/* Add the contributions to the sums, in their order. */
static void fold(psd_work_t *work, part_t *p)
{
    float *room = new_room(work);
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        const slice_t *c = &work->shard->slice[p->first + i];
        addends_t from;
        find_addends(&from, work, p, i, room);
        for (size_t at = 0, n; from.n && at < c->n; at += n) {
            n = block_of(c->n - at);
            look_at_block(&from, n);
            for (uint32_t k = 0; k < from.n; k++)
                psd_aggregate_add(p->sum + c->at + at, from.gradient[k], from.weight[k], !k && !psd_bitmap_get(p->has_sum, i), n);
        }
        if (from.n)
            psd_bitmap_set(p->has_sum, i);
    }
    free(room);
    drop_gradients(work);
}

void psd_work_run(psd_work_t *work)
{
    part_t *p = part_of(work->shard, work->part);
    if (work->folds)
        fold(work, p);
    else if (work->pass < work->shard->passes.n)
        measure(work, p);
    else
        step(work, p);
}
