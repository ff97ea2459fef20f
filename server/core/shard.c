#include "server/core/shard.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
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
    uint32_t n;                      /* elements */
    uint32_t at;                     /* where in its part it begins */
    uint32_t part;                   /* which */
    uint32_t tensor;                 /* of the model */
    size_t code_at;                  /* where in a pushed part its code begins, in bytes */
    uint64_t offset;                 /* where in its tensor it begins */
    uint8_t group;                   /* of its tensor */
    uint32_t whole;                  /* which of the whole tensors it is of; NOT_WHOLE: of none */
    uint32_t slot_at[PSD_MAX_SLOTS]; /* where in the part's state arrays its own begin */
    psd_rule_state_t state;
    psd_rule_state_t kept_state;
    psd_rule_state_t ahead; /* after a step that was made ahead */
} slice_t;

enum { NOT_WHOLE = UINT32_MAX };

/* A tensor whose rule needs all of it at once. Its step is made aside, on a copy, by the thread that sums the last of its
 * gradients; each chunk then takes its share when the step counts. So passes change nothing, and parts are stepped by any threads
 * as ever. */
typedef struct whole {
    uint32_t first, n_chunks;   /* of its slices */
    atomic_uint left, left_out; /* chunks whose gradient is not summed yet; that have not taken their share */
    float *copy;                /* the weights after the step, then the slots; NULL: none is made, or no worker has a gradient */
} whole_t;

/* What a step changes of a part, but for what is kept of each chunk. */
typedef struct values {
    psd_buf_t *w;               /* weights, shared with sends in flight */
    psd_buf_t *coded;           /* the same in the coding of pulls; NULL: they leave as they are */
    float *slot[PSD_MAX_SLOTS]; /* state, inside the shard's arrays */
} values_t;

typedef struct part {
    uint32_t n;               /* elements */
    uint32_t first, n_chunks; /* of its slices */
    size_t n_codes;           /* bytes of a pushed part, without a bitmap */
    values_t now, ahead; /* `ahead`: after a step that was made ahead, or room for one; its weights are NULL before the first */
    double *sum;         /* of contributions, inside the shard's array; NULL: there was none yet */
    uint8_t *has_sum;    /* bitmap of the chunks of which there is one now */
    psd_work_t work;
    psd_buf_t *kept_w; /* the part before the step that a checkpoint must not see; NULL: none kept */
    float *kept_slots; /* its state arrays, n floats each, one after the other */
} part_t;

struct psd_shard {
    psd_groups_t groups;
    int n_slots;         /* state arrays of the group that keeps most; the others never touch the rest */
    uint32_t looks_back; /* the first chunk whose rule has Lookahead; the number of chunks: none has */
    psd_clip_t clip;
    psd_codings_t codings;
    psd_passes_t passes;
    uint32_t n_chunks, n_parts;
    slice_t *slice;                                   /* n_chunks */
    part_t *part;                                     /* n_parts */
    psd_buf_t *(*new_buf)(void *arg, size_t n_bytes); /* of weights; NULL: psd_buf_new */
    void *new_buf_arg;
    size_t n_sums;                    /* bytes of the sums */
    size_t n_array[PSD_MAX_SLOTS];    /* bytes of each state array */
    float *array[PSD_MAX_SLOTS];      /* n_slots arrays over all parts */
    float *spare[PSD_MAX_SLOTS];      /* as many, for steps that are made ahead; NULL: none ever was */
    const psd_extent_t *tensor;       /* the model's */
    const psd_inherited_t *inherited; /* by its tensors; NULL: nothing is */
    uint32_t n_initial;               /* arrays of initial values */
    uint32_t n_whole;
    whole_t *whole;
    double *sums; /* over all parts; NULL: nothing was ever added up early */
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

static const psd_rule_t *rule_of(const psd_shard_t *self, const slice_t *c) { return &self->groups.at[c->group].rule; }

/* The state arrays of a chunk, from its element `at` on. */
static void find_slots(const psd_shard_t *self, const values_t *v, const slice_t *c, size_t at, float *slot[PSD_MAX_SLOTS])
{
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        slot[s] = s < rule_of(self, c)->n_slots ? v->slot[s] + c->slot_at[s] + at : NULL;
}

/* Elements of a chunk's s-th state array; 0 of one that its rule does not keep. */
static size_t n_of_slot(const psd_shard_t *self, const slice_t *c, int s)
{
    const psd_rule_t *rule = rule_of(self, c);
    return s < rule->n_slots ? psd_rule_slot_elements(rule, s, &self->tensor[c->tensor], c->offset, c->n) : 0;
}

static void make_slices(psd_shard_t *self, const uint8_t *group_of, const psd_partition_t *map, uint32_t server)
{
    self->looks_back = self->n_chunks;
    for (uint32_t i = 0; i < self->n_chunks; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[server][i]];
        self->slice[i] = (slice_t){ .n = c->n,
                                    .at = c->at,
                                    .part = c->part,
                                    .tensor = c->tensor,
                                    .offset = c->offset,
                                    .group = group_of ? group_of[c->tensor] : 0,
                                    .whole = NOT_WHOLE };
        if (self->looks_back == self->n_chunks && rule_of(self, &self->slice[i])->lookahead)
            self->looks_back = i;
    }
}

/* The tensors that are stepped whole: their chunks lie one after the other. */
static int find_whole(psd_shard_t *self)
{
    self->whole = calloc(self->n_chunks + 1, sizeof *self->whole);
    for (uint32_t i = 0; self->whole && i < self->n_chunks; i++) {
        slice_t *c = &self->slice[i];
        if (!psd_rule_is_whole(rule_of(self, c)) || self->groups.at[c->group].freezes)
            continue;
        if (!c->offset)
            self->whole[self->n_whole++] = (whole_t){ .first = i };
        assert(self->n_whole && "a whole tensor lies on one server");
        c->whole = self->n_whole - 1;
        whole_t *whole = &self->whole[c->whole];
        whole->n_chunks++;
        atomic_init(&whole->left, whole->n_chunks);
    }
    return self->whole ? PSD_OK : PSD_ENOMEM;
}

/* Give each part its place in the state arrays, and each chunk its own in the part's. */
static int make_slots(psd_shard_t *self)
{
    for (int s = 0; s < self->n_slots; s++) {
        size_t total = SHIFT * (size_t)PSD_MAX_SLOTS, at = SHIFT * (size_t)s;
        for (int round = 0; round < 2; round++) {
            for (uint32_t p = 0; p < self->n_parts; p++) {
                uint32_t n = 0;
                for (uint32_t i = 0; i < self->part[p].n_chunks; i++) {
                    slice_t *c = &self->slice[self->part[p].first + i];
                    c->slot_at[s] = n;
                    n += (uint32_t)n_of_slot(self, c, s);
                }
                if (round)
                    self->part[p].now.slot[s] = self->array[s] + at;
                at += round ? padded(n) : 0;
                total += round ? 0 : padded(n);
            }
            self->n_array[s] = total * sizeof(float);
            if (!round && !(self->array[s] = map_array(self->n_array[s])))
                return PSD_ENOMEM;
        }
    }
    return PSD_OK;
}

static int allocate(psd_shard_t *self, const uint8_t *group_of, const psd_partition_t *map, uint32_t server)
{
    make_slices(self, group_of, map, server);
    for (uint32_t p = 0; p < self->n_parts; p++) {
        part_t *part = &self->part[p];
        const psd_part_t *cut = &map->part[server][p];
        part->n = cut->n;
        part->first = cut->first;
        part->n_chunks = cut->n_chunks;
        self->n_sums += padded(part->n) * sizeof(double);
        for (uint32_t i = 0; i < part->n_chunks; i++) {
            self->slice[part->first + i].code_at = part->n_codes;
            part->n_codes += psd_coding_bytes(&self->codings.push, self->slice[part->first + i].n);
        }
        if (!(part->now.w = psd_buf_new(part->n * sizeof(float))))
            return PSD_ENOMEM;
        memset(part->now.w->data, 0, part->now.w->n_bytes);
    }
    const int rc = make_slots(self);
    return rc ? rc : find_whole(self);
}

psd_shard_t *psd_shard_new(const psd_groups_t *groups, const uint8_t *group_of, const psd_clip_t *clip,
                           const psd_codings_t *codings, const psd_partition_t *map, uint32_t server, psd_err_t *err)
{
    assert(server < map->n_servers);
    psd_shard_t *self = calloc(1, sizeof *self);
    if (self) {
        self->groups = *groups;
        self->n_slots = psd_groups_slots(groups);
        self->clip = *clip;
        self->codings = *codings;
        self->passes = psd_passes_of(groups, clip);
        self->tensor = map->tensor;
        self->n_chunks = map->n_held[server];
        self->n_initial = 1;
        self->slice = calloc(self->n_chunks + 1, sizeof *self->slice);
        self->part = calloc(map->n_parts[server] + 1, sizeof *self->part);
        self->n_parts = self->part ? map->n_parts[server] : 0;
    }
    if (!self || !self->slice || !self->part || allocate(self, group_of, map, server) != PSD_OK) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a shard of %llu elements and %d state arrays",
                    (unsigned long long)map->n_elements[server], psd_groups_slots(groups));
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
        psd_buf_unref(&part->now.w);
        psd_buf_unref(&part->now.coded);
        psd_buf_unref(&part->ahead.w);
        psd_buf_unref(&part->ahead.coded);
    }
    if (self->sums)
        munmap(self->sums, self->n_sums);
    for (int s = 0; s < PSD_MAX_SLOTS; s++) {
        if (self->array[s])
            munmap(self->array[s], self->n_array[s]);
        if (self->spare[s])
            munmap(self->spare[s], self->n_array[s]);
    }
    for (uint32_t t = 0; t < self->n_whole; t++)
        free(self->whole[t].copy);
    free(self->whole);
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
        psd_buf_t *moved = new_weights(self, part->now.w->n_bytes);
        if (!moved)
            return false;
        memcpy(moved->data, part->now.w->data, moved->n_bytes);
        psd_buf_unref(&part->now.w);
        part->now.w = moved;
    }
    return true;
}

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
psd_buf_t *psd_shard_weights(const psd_shard_t *self, uint32_t part) { return part_of(self, part)->now.w; }

static psd_shard_sent_t sent_of(const psd_shard_t *self, const values_t *v)
{
    if (v->coded)
        return (psd_shard_sent_t){ v->coded, psd_coding_number(&self->codings.pull) };
    return (psd_shard_sent_t){ v->w, PSD_CODEC_F32 };
}

psd_shard_sent_t psd_shard_sent(const psd_shard_t *self, uint32_t part) { return sent_of(self, &part_of(self, part)->now); }

uint64_t psd_shard_sync_epoch(const psd_shard_t *self)
{
    return self->looks_back < self->n_chunks ? self->slice[self->looks_back].state.sync_epoch : 0;
}

static float *array_of(const psd_buf_t *buf, size_t at) { return (float *)buf->data + at; }

static bool codes_weights(const psd_shard_t *self) { return !psd_coding_is_lossless(&self->codings.pull); }

/* Weights of a part in the coding of pulls; NULL: the codec cannot encode them. There is no error feedback: a worker holds a
 * rounding of the trained weights, not a sum of roundings. */
static psd_buf_t *code_of_weights(const psd_shard_t *self, const part_t *p, const psd_buf_t *w)
{
    const psd_coding_t *coding = &self->codings.pull;
    size_t n_bytes = 0, at = 0;
    for (uint32_t i = 0; i < p->n_chunks; i++)
        n_bytes += psd_coding_bytes(coding, self->slice[p->first + i].n);
    psd_buf_t *code = psd_buf_new(n_bytes);
    assert(code && "no memory for coded weights");
    for (uint32_t i = 0; code && i < p->n_chunks; i++) {
        const slice_t *c = &self->slice[p->first + i];
        if (!psd_coding_encode(coding, array_of(w, c->at), NULL, c->n, (uint8_t *)code->data + at))
            psd_buf_unref(&code);
        at += psd_coding_bytes(coding, c->n);
    }
    return code;
}

/* These are new weights of a part: encode them for sending. */
static void publish(const psd_shard_t *self, const part_t *p, values_t *v)
{
    psd_buf_unref(&v->coded);
    if (codes_weights(self))
        v->coded = code_of_weights(self, p, v->w);
    psd_buf_changed(v->w);
}

/* Updates that another job has made of a chunk; 0: its state is new. */
static uint64_t updates_of(const psd_shard_t *self, const slice_t *c)
{
    return self->inherited && !self->groups.at[c->group].freezes ? self->inherited[c->tensor].t : 0;
}

/* Whether a slot of a chunk is inherited. */
static bool inherits_slot(const psd_shard_t *self, const slice_t *c, uint32_t s)
{
    return updates_of(self, c) && s < (uint32_t)rule_of(self, c)->n_slots && self->inherited[c->tensor].arrays >> s & 1;
}

void psd_shard_set(psd_shard_t *self, uint32_t part, const float *values)
{
    part_t *p = part_of(self, part);
    assert(psd_buf_is_unique(p->now.w) && "initial values come before anything is sent");
    memcpy(p->now.w->data, values, p->now.w->n_bytes);
    publish(self, p, &p->now);
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        slice_t *c = &self->slice[p->first + i];
        float *slot[PSD_MAX_SLOTS];
        find_slots(self, &p->now, c, 0, slot);
        psd_rule_begin(rule_of(self, c), &c->state, &self->tensor[c->tensor], c->offset, array_of(p->now.w, c->at), slot, c->n);
        if (updates_of(self, c))
            psd_rule_resume(rule_of(self, c), &c->state, updates_of(self, c), self->inherited[c->tensor].scalar);
    }
}

void psd_shard_inherit(psd_shard_t *self, const psd_inherited_t *inherited)
{
    self->inherited = inherited;
    self->n_initial = 1;
    for (uint32_t i = 0; i < self->n_chunks; i++)
        for (uint32_t s = 0; s < PSD_MAX_SLOTS; s++)
            if (s + 2 > self->n_initial && inherits_slot(self, &self->slice[i], s))
                self->n_initial = s + 2;
}

uint32_t psd_shard_initial_arrays(const psd_shard_t *self) { return self->n_initial; }

/* A chunk's elements of an array of initial values. */
static size_t n_initial(const psd_shard_t *self, const slice_t *c, uint32_t array)
{
    return !array ? c->n : inherits_slot(self, c, array - 1) ? n_of_slot(self, c, (int)array - 1) : 0;
}

uint32_t psd_shard_initial_elements(const psd_shard_t *self, uint32_t array, uint32_t part)
{
    const part_t *p = part_of(self, part);
    size_t n = 0;
    for (uint32_t i = 0; i < p->n_chunks; i++)
        n += n_initial(self, &self->slice[p->first + i], array);
    return (uint32_t)n;
}

void psd_shard_set_array(psd_shard_t *self, uint32_t array, uint32_t part, const float *values)
{
    const part_t *p = part_of(self, part);
    if (!array) {
        psd_shard_set(self, part, values);
        return;
    }
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        const slice_t *c = &self->slice[p->first + i];
        const size_t n = n_initial(self, c, array);
        if (n)
            memcpy(p->now.slot[array - 1] + c->slot_at[array - 1], values, n * sizeof *values);
        values += n;
    }
}

psd_buf_t *psd_shard_slow(const psd_shard_t *self, uint32_t part)
{
    const part_t *p = part_of(self, part);
    psd_buf_t *copy = psd_buf_new(p->now.w->n_bytes);
    for (uint32_t i = 0; copy && i < p->n_chunks; i++) {
        const slice_t *c = &self->slice[p->first + i];
        float *slot[PSD_MAX_SLOTS];
        find_slots(self, &p->now, c, 0, slot);
        psd_rule_slow(rule_of(self, c), array_of(p->now.w, c->at), slot, array_of(copy, c->at), c->n);
    }
    return copy;
}

psd_shard_state_t psd_shard_state(psd_shard_t *self, uint32_t chunk)
{
    slice_t *c = slice_of(self, chunk);
    const part_t *p = &self->part[c->part];
    psd_shard_state_t view = { .w = array_of(p->kept_w ? p->kept_w : p->now.w, c->at),
                               .state = p->kept_w ? &c->kept_state : &c->state };
    for (int s = 0; s < rule_of(self, c)->n_slots; s++)
        view.slot[s] = (p->kept_w ? p->kept_slots + (size_t)s * p->n : p->now.slot[s]) + c->slot_at[s];
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

void psd_shard_filled(psd_shard_t *self, uint32_t part)
{
    part_t *p = part_of(self, part);
    publish(self, p, &p->now);
}

/* Weights are kept by a reference, which makes the step copy them before it writes; state arrays are copied here. */
static void preserve(psd_shard_t *self, part_t *p)
{
    const int n_slots = self->n_slots;
    p->kept_w = psd_buf_ref(p->now.w);
    p->kept_slots = malloc((size_t)n_slots * p->n * sizeof(float) + 1);
    assert(p->kept_slots && "no memory to keep a part for a checkpoint");
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        slice_t *c = &self->slice[p->first + i];
        c->kept_state = c->state;
        for (int s = 0; s < rule_of(self, c)->n_slots; s++)
            memcpy(p->kept_slots + (size_t)s * p->n + c->slot_at[s], p->now.slot[s] + c->slot_at[s],
                   n_of_slot(self, c, s) * sizeof(float));
    }
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
    work->folds = work->ahead = work->onto = false;
    work->divisor = 0;
    work->is_bounded = false;
    memset(work->lr, 0, sizeof work->lr);
    work->momentum = NAN;
    work->scale = 1;
    work->sums = false;
    work->preserve = false;
    work->look = NULL;
    work->clipped = 1;
    return work;
}

bool psd_shard_make_sums(psd_shard_t *self)
{
    if (self->sums || !self->n_parts)
        return true;
    bool ok = true;
    for (uint32_t p = 0; p < self->n_parts; p++)
        if (!self->part[p].has_sum)
            ok &= (self->part[p].has_sum = calloc(1, psd_bitmap_bytes(self->part[p].n_chunks))) != NULL;
    if (!ok || !(self->sums = (double *)(void *)map_array(self->n_sums)))
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

/* The contributions to one chunk, in rank order, and how far its sum has come. */
typedef struct addends {
    uint32_t n;
    size_t n_elements, done;           /* of the chunk */
    const psd_coding_t *coding;        /* NULL: all are floats */
    float *room;                       /* where codes are decoded, BLOCK floats for each; NULL: all are floats */
    double *sum;                       /* of those before them; NULL: there are none */
    double divisor;                    /* of the sum, to which these are added; 0: none */
    bool is_first;                     /* `sum` is where they are added up; there is nothing before them */
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
    const bool has_sum = work->onto && !work->is_bounded && p->sum && psd_bitmap_get(p->has_sum, i);
    out->divisor = work->is_bounded ? 0 : work->divisor;
    out->is_first = !has_sum;
    for (uint32_t k = 0; k < work->n_gradients; k++) {
        if (!psd_coded_has(work->gradient[k], n_codes, i))
            continue;
        out->code[out->n] = (const uint8_t *)work->gradient[k]->data + at;
        out->weight[out->n++] = work->weight[k];
    }
    out->sum = has_sum || (out->divisor != 0 && out->n) ? p->sum + c->at : NULL;
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
static const float *sum_block(addends_t *from, const psd_rule_t *rule, const psd_clip_t *clip, float scale, size_t n, float *room)
{
    const bool is_one = from->n == 1 && !from->sum && from->weight[0] == 1.0 && !psd_rule_votes(rule), bounds = clip->value > 0;
    const float *sum = room;
    double *before = from->sum ? from->sum + from->done : NULL;
    look_at_block(from, n);
    if (is_one && !bounds && scale == 1.0f) {
        sum = from->gradient[0];
    } else {
        for (uint32_t k = 0; from->divisor != 0 && k < from->n; k++)
            psd_aggregate_add(before, from->gradient[k], from->weight[k], !k && from->is_first, n);
        if (from->divisor != 0)
            psd_aggregate_divide(room, before, from->divisor, n);
        else if (before)
            psd_aggregate_onto(room, before, from->gradient, from->weight, from->n, n);
        else
            psd_rule_sum(rule, room, from->gradient, from->weight, from->n, n);
        if (bounds)
            psd_clip_by_value(clip, room, n);
        if (scale != 1.0f)
            psd_isa_active()->scale(room, room, scale, n);
    }
    return sum;
}

/* Give `v` a buffer for the part's weights after a step: the one that it has, unless that is in use elsewhere. Returns the one that
 * it had before, if it has another now, to be dropped. */
static psd_buf_t *make_writable(const psd_shard_t *self, const part_t *p, values_t *v)
{
    psd_buf_t *former = v->w;
    if (former && psd_buf_is_unique(former))
        return NULL;
    v->w = new_weights(self, p->n * sizeof(float));
    assert(v->w && "no memory for a second copy of a part's weights");
    return former;
}

static psd_plan_t plan(const psd_work_t *work, const slice_t *c, psd_rule_state_t *state)
{
    const psd_shard_t *self = work->shard;
    const psd_group_t *group = &self->groups.at[c->group];
    const double *total[PSD_MAX_PASSES];
    for (int i = 0; i < PSD_MAX_PASSES; i++)
        total[i] = work->total[i] ? work->total[i] + work->stride[i] * c->tensor : NULL;
    psd_group_t moved;
    if (!isnan(work->momentum) && psd_rule_has_momentum(&group->rule)) {
        moved = *group;
        psd_rule_set_momentum(&moved.rule, work->momentum);
        group = &moved;
    }
    psd_plan_t plan = psd_passes_plan(&self->passes, group, &self->clip, state, work->lr[c->group], total, work->pass);
    if (group->clips)
        plan.scale *= work->scale;
    plan.shape = self->tensor[c->tensor].shape;
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
        const psd_group_t *group = &work->shard->groups.at[c->group];
        const psd_clip_t *clip = psd_group_clip(group, &work->shard->clip);
        const bool any = !group->freezes && (from.n || from.sum);
        if (any)
            psd_bitmap_set(map, i);
        float *to = array_of(sum, c->at);
        for (size_t at = 0, n; any && at < c->n; at += n, to += n) {
            n = block_of(c->n - at);
            const float *block = sum_block(&from, &group->rule, clip, 1.0f, n, to);
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

/* ---- whole tensors ---- */

/* Where a slot of a whole tensor begins in its copy. */
static float *slot_in_copy(const psd_shard_t *self, const whole_t *whole, int s)
{
    const slice_t *c = &self->slice[whole->first];
    const psd_extent_t *tensor = &self->tensor[c->tensor];
    float *at = whole->copy + tensor->n;
    for (int i = 0; i < s; i++)
        at += psd_rule_slot_length(rule_of(self, c), i, tensor);
    return at;
}

/* The summed gradient of a chunk after its part's pass; NULL: no worker had one. */
static const float *sum_of(const psd_shard_t *self, uint32_t chunk)
{
    const slice_t *c = &self->slice[chunk];
    const part_t *p = &self->part[c->part];
    const bool any = p->work.n_gradients && psd_coded_has(p->work.gradient[0], p->n * sizeof(float), chunk - p->first);
    return any ? array_of(p->work.gradient[0], c->at) : NULL;
}

/* Gather a tensor and its gradient, and make its step. Only a dishonest worker sends a gradient of some of its chunks: it counts as
 * 0 in the others. */
static void step_aside(const psd_work_t *work, whole_t *whole)
{
    const psd_shard_t *self = work->shard;
    const slice_t *first = &self->slice[whole->first];
    const psd_rule_t *rule = rule_of(self, first);
    const size_t n = self->tensor[first->tensor].n;
    float *slot[PSD_MAX_SLOTS] = { NULL };
    bool any = false;
    for (uint32_t i = 0; i < whole->n_chunks; i++)
        any |= sum_of(self, whole->first + i) != NULL;
    if (!any)
        return;
    psd_rule_state_t ahead = first->state;
    const psd_plan_t p = plan(work, first, &ahead);
    size_t n_copy = n;
    for (int s = 0; s < rule->n_slots; s++)
        n_copy += psd_rule_slot_length(rule, s, &self->tensor[first->tensor]);
    float *g = calloc(n, sizeof *g);
    whole->copy = malloc(n_copy * sizeof *whole->copy);
    assert(g && whole->copy && "no memory for the step of a whole tensor");
    for (int s = 0; s < rule->n_slots; s++)
        slot[s] = slot_in_copy(self, whole, s);
    for (uint32_t i = 0; i < whole->n_chunks; i++) {
        const slice_t *c = &self->slice[whole->first + i];
        const part_t *at = &self->part[c->part];
        const float *sum = sum_of(self, whole->first + i);
        if (sum)
            psd_isa_active()->scale(g + c->offset, sum, p.scale, c->n);
        memcpy(whole->copy + c->offset, array_of(at->now.w, c->at), c->n * sizeof *g);
        for (int s = 0; s < rule->n_slots; s++) {
            const size_t count = n_of_slot(self, c, s);
            if (count)
                memcpy(slot[s] + c->offset, at->now.slot[s] + c->slot_at[s], count * sizeof *g);
        }
    }
    psd_rule_apply(rule, &p, whole->copy, slot, g, n);
    free(g);
}

/* The chunks of a part have their gradients, if there are any. */
static void count_whole(const psd_work_t *work, const part_t *p)
{
    const psd_shard_t *self = work->shard;
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        const uint32_t w = self->slice[p->first + i].whole;
        if (w == NOT_WHOLE || atomic_fetch_sub_explicit(&self->whole[w].left, 1, memory_order_acq_rel) != 1)
            continue;
        atomic_store_explicit(&self->whole[w].left, self->whole[w].n_chunks, memory_order_relaxed);
        atomic_store_explicit(&self->whole[w].left_out, self->whole[w].n_chunks, memory_order_relaxed);
        step_aside(work, &self->whole[w]);
    }
}

/* A chunk takes its share of the step that was made aside: `w` are its weights. The last one frees the copy. */
static void take_share(psd_shard_t *self, const part_t *p, const slice_t *c, float *w)
{
    whole_t *whole = &self->whole[c->whole];
    assert(whole->copy && "a whole tensor is stepped aside before its step counts");
    memcpy(w, whole->copy + c->offset, c->n * sizeof *w);
    for (int s = 0; s < rule_of(self, c)->n_slots; s++) {
        const size_t count = n_of_slot(self, c, s);
        if (count)
            memcpy(p->now.slot[s] + c->slot_at[s], slot_in_copy(self, whole, s) + c->offset, count * sizeof *w);
    }
}

static void forget_share(psd_shard_t *self, const slice_t *c)
{
    whole_t *whole = c->whole == NOT_WHOLE ? NULL : &self->whole[c->whole];
    if (!whole || atomic_fetch_sub_explicit(&whole->left_out, 1, memory_order_acq_rel) != 1)
        return;
    free(whole->copy);
    whole->copy = NULL;
}

static void measure(psd_work_t *work, part_t *p)
{
    const psd_shard_t *self = work->shard;
    const int n_sums = self->passes.n_sums[work->pass];
    const bool any = work->n_gradients || work->onto;
    memset(work->sum, 0, (size_t)p->n_chunks * (size_t)n_sums * sizeof *work->sum);
    if (any)
        sum_up(work, p);
    if (psd_passes_is_whole(&self->passes, work->pass))
        count_whole(work, p);
    for (uint32_t i = 0; any && n_sums && i < p->n_chunks; i++) {
        slice_t *c = &self->slice[p->first + i];
        psd_rule_state_t ahead = c->state;
        float *slot[PSD_MAX_SLOTS];
        if (!psd_coded_has(work->gradient[0], p->n * sizeof(float), i) ||
            !psd_passes_measures(&self->passes, work->pass, &self->groups.at[c->group], &self->clip))
            continue;
        find_slots(self, &p->now, c, 0, slot);
        const psd_plan_t pass = plan(work, c, &ahead);
        psd_passes_measure(&self->passes, work->pass, rule_of(self, c), &pass, array_of(p->now.w, c->at), slot,
                           array_of(work->gradient[0], c->at), c->n, work->sum + i * (size_t)n_sums);
    }
}

/* Whether a step computes the checksum of its weights; coded weights get theirs when they are sent. */
static bool sums(const psd_work_t *work) { return work->sums && !codes_weights(work->shard); }

/* A chunk without a gradient in a step: `state` may change. */
static void pass_over(const psd_work_t *work, const slice_t *c, psd_rule_state_t *state)
{
    psd_rule_state_t after = *state;
    if (!psd_passes_move_all(&work->shard->groups.at[c->group]))
        return;
    plan(work, c, &after);
    memcpy(state->scalar, after.scalar, sizeof after.scalar);
}

/* The magnitude whose reach a look counts: the bound by value, as far as the gradient is scaled, or else where squares overflow. */
static float bound_of(const psd_shard_t *self, const slice_t *c, const psd_plan_t *plan)
{
    const float bound = (float)psd_group_clip(&self->groups.at[c->group], &self->clip)->value;
    return bound > 0 ? bound * plan->scale : PSD_LOOK_OVERFLOWS;
}

/* What the step that was made aside does to a chunk whose weights are still `w`. */
static void look_at_share(const psd_work_t *work, const slice_t *c, uint32_t i, const psd_plan_t *plan, const float *w)
{
    const psd_shard_t *self = work->shard;
    const float *after = self->whole[c->whole].copy + c->offset, *sum = sum_of(self, self->part[c->part].first + i);
    for (size_t at = 0, n; sum && at < c->n; at += n) {
        float g[BLOCK];
        n = block_of(c->n - at);
        psd_isa_active()->scale(g, sum + at, plan->scale, n);
        psd_look_add(work->look + i * (size_t)PSD_LOOK_TERMS, g, w + at, after + at, n, bound_of(self, c, plan));
    }
}

/* Where a step finds what it changes, and where it puts that; both may be the same. */
typedef struct move {
    const float *w;
    const values_t *from, *to;
} move_t;

/* Bring `n` elements of a chunk, from `at` on, to where the step changes them, unless they lie there already. State arrays that do
 * not have an element for each weight are those of whole tensors, which are never stepped ahead. */
static void bring(const psd_shard_t *self, const slice_t *c, const move_t *move, size_t at, size_t n)
{
    float *from[PSD_MAX_SLOTS], *to[PSD_MAX_SLOTS], *w = array_of(move->to->w, c->at);
    if (w != move->w + c->at)
        memcpy(w + at, move->w + c->at + at, n * sizeof *w);
    find_slots(self, move->from, c, at, from);
    find_slots(self, move->to, c, at, to);
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        if (to[s] != from[s])
            memcpy(to[s], from[s], n * sizeof *w);
}

/* The checksum of the part up to the end of a chunk that lies where the step puts it. */
static uint32_t sum_of_chunk(const psd_work_t *work, const slice_t *c, const move_t *move, uint32_t crc)
{
    return sums(work) ? psd_crc32c_extend(crc, array_of(move->to->w, c->at), c->n * sizeof(float)) : 0;
}

/* One chunk's step. Returns the checksum of the part up to here, `crc` being that of what lies before the chunk; 0 where it does
 * not sum. */
static uint32_t step_chunk(psd_work_t *work, part_t *p, uint32_t i, float *room_of_codes, const move_t *move, uint32_t crc)
{
    static const psd_clip_t none = { .value = 0 };
    const psd_shard_t *self = work->shard;
    slice_t *c = &self->slice[p->first + i];
    psd_rule_state_t *state = work->ahead ? &c->ahead : &c->state;
    addends_t from;
    find_addends(&from, work, p, i, room_of_codes);
    if (work->ahead)
        c->ahead = c->state;
    const bool has = !self->groups.at[c->group].freezes && (from.n || from.sum);
    if (!has) {
        pass_over(work, c, state);
        bring(self, c, move, 0, c->n);
        return sum_of_chunk(work, c, move, crc);
    }
    const psd_plan_t plan_of = plan(work, c, state);
    const psd_clip_t *clip = work->is_bounded ? &none : psd_group_clip(&self->groups.at[c->group], &self->clip);
    float *w = array_of(move->to->w, c->at);
    if (self->groups.at[c->group].clips)
        work->clipped = plan_of.scale;
    if (work->look)
        work->look[i * (size_t)PSD_LOOK_TERMS + PSD_LOOK_RATE] = work->lr[c->group];
    if (c->whole != NOT_WHOLE) {
        if (work->look)
            look_at_share(work, c, i, &plan_of, move->w + c->at);
        take_share(work->shard, p, c, w);
        return sum_of_chunk(work, c, move, crc);
    }
    for (size_t at = 0, n; at < c->n; at += n) {
        float room[BLOCK], before[BLOCK], *slot[PSD_MAX_SLOTS];
        n = block_of(c->n - at);
        bring(self, c, move, at, n);
        find_slots(self, move->to, c, at, slot);
        const float *g = sum_block(&from, rule_of(self, c), clip, plan_of.scale, n, room);
        if (work->look)
            memcpy(before, w + at, n * sizeof *w);
        psd_rule_apply(rule_of(self, c), &plan_of, w + at, slot, g, n);
        if (work->look)
            psd_look_add(work->look + i * (size_t)PSD_LOOK_TERMS, g, before, w + at, n, bound_of(self, c, &plan_of));
        crc = sums(work) ? psd_crc32c_extend(crc, w + at, n * sizeof *w) : 0;
    }
    return crc;
}

/* Step all chunks of a part from weights `w`: the result lies in `to`. */
static void step_chunks(psd_work_t *work, part_t *p, const float *w, values_t *to)
{
    const move_t move = { .w = w, .from = &p->now, .to = to };
    float *room = new_room(work);
    uint32_t crc = 0;
    for (uint32_t i = 0; i < p->n_chunks; i++)
        crc = step_chunk(work, p, i, room, &move, crc);
    free(room);
    publish(work->shard, p, to);
    if (sums(work))
        psd_buf_set_checksum(to->w, crc);
}

static void clear_look(psd_work_t *work, const part_t *p)
{
    if (work->look)
        memset(work->look, 0, p->n_chunks * (size_t)PSD_LOOK_TERMS * sizeof *work->look);
}

static void step(psd_work_t *work, part_t *p)
{
    const psd_shard_t *self = work->shard;
    if (work->preserve)
        preserve(work->shard, p);
    clear_look(work, p);
    if (work->n_gradients || work->onto) {
        const float *w = p->now.w->data;
        psd_buf_t *former = make_writable(self, p, &p->now);
        step_chunks(work, p, w, &p->now);
        psd_buf_unref(&former);
    } else {
        for (uint32_t i = 0; i < p->n_chunks; i++)
            pass_over(work, &self->slice[p->first + i], &self->slice[p->first + i].state);
    }
    for (uint32_t i = 0; self->n_whole && i < p->n_chunks; i++)
        forget_share(work->shard, &self->slice[p->first + i]);
    drop_gradients(work);
    if (work->onto)
        forget_sum(p);
}

/* ---- steps that are made ahead ---- */

bool psd_shard_make_spare(psd_shard_t *self)
{
    if (self->passes.n)
        return false;
    for (int s = 0; s < self->n_slots; s++) {
        if (self->spare[s])
            continue;
        if (!(self->spare[s] = map_array(self->n_array[s])))
            return false;
        for (uint32_t p = 0; p < self->n_parts; p++)
            self->part[p].ahead.slot[s] = self->spare[s] + (self->part[p].now.slot[s] - self->array[s]);
    }
    return true;
}

static void step_ahead(psd_work_t *work, part_t *p)
{
    psd_buf_t *former = make_writable(work->shard, p, &p->ahead);
    clear_look(work, p);
    step_chunks(work, p, p->now.w->data, &p->ahead);
    psd_buf_unref(&former);
    drop_gradients(work);
}

psd_shard_sent_t psd_shard_ahead(const psd_shard_t *self, uint32_t part) { return sent_of(self, &part_of(self, part)->ahead); }

void psd_shard_adopt(psd_shard_t *self, uint32_t part)
{
    part_t *p = part_of(self, part);
    const values_t former = p->now;
    p->now = p->ahead;
    p->ahead = former;
    for (uint32_t i = 0; i < p->n_chunks; i++)
        self->slice[p->first + i].state = self->slice[p->first + i].ahead;
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
    else if (work->ahead)
        step_ahead(work, p);
    else if (work->pass < work->shard->passes.n)
        measure(work, p);
    else
        step(work, p);
}
