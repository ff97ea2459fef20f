#include "common/memory/arena.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Blocks are runs of units. Free ones are powers of two at multiples of their size (a buddy system, Knowlton 1965), so that freed
 * neighbours can be merged; the part of a power of two that a buffer does not need stays free. */
enum { UNIT = 512, ORDERS = 32, NONE = UINT8_MAX };
#define NOWHERE UINT32_MAX
static const size_t FIRST_BYTES = (size_t)64 << 20, MOST_GROWTH = (size_t)1 << 30;

typedef struct zone {
    psd_segment_t memory;
    uint32_t n_units;
    uint8_t *order;         /* of the free block that begins at a unit; NONE: none does */
    uint32_t *next, *prev;  /* free blocks of one order, by their first units; NOWHERE: the end */
    uint32_t first[ORDERS]; /* of the list of each order */
} zone_t;

struct psd_arena {
    atomic_uint refs; /* the owner's, and one of each buffer */
    pthread_mutex_t lock;
    int (*make)(psd_segment_t *self, size_t n_bytes, psd_err_t *err); /* its segments */
    size_t most_units, used_units, all_units;
    atomic_uint n_zones;
    zone_t *zone[PSD_ARENA_SEGMENTS]; /* pointers below n_zones never change; the lock guards the zones */
};

typedef struct block {
    psd_buf_t buf;
    psd_arena_t *arena;
    zone_t *zone;
    uint32_t first, n; /* units */
} block_t;

/* ---- free blocks of a zone ---- */

static void put(zone_t *self, uint32_t at, unsigned order)
{
    const uint32_t head = self->first[order];
    self->order[at] = (uint8_t)order;
    self->next[at] = head;
    self->prev[at] = NOWHERE;
    if (head != NOWHERE)
        self->prev[head] = at;
    self->first[order] = at;
}

static void take_out(zone_t *self, uint32_t at)
{
    const unsigned order = self->order[at];
    const uint32_t next = self->next[at], prev = self->prev[at];
    if (next != NOWHERE)
        self->prev[next] = prev;
    if (prev != NOWHERE)
        self->next[prev] = next;
    else
        self->first[order] = next;
    self->order[at] = NONE;
}

static void put_and_join(zone_t *self, uint32_t at, unsigned order)
{
    for (; (UINT32_C(1) << order) < self->n_units; order++) {
        const uint32_t neighbour = at ^ UINT32_C(1) << order;
        if (self->order[neighbour] != order)
            break;
        take_out(self, neighbour);
        at &= neighbour;
    }
    put(self, at, order);
}

static unsigned floor_order(uint32_t n) { return 31 - (unsigned)__builtin_clz(n); }
static unsigned ceil_order(uint32_t n) { return floor_order(n) + !!(n & (n - 1)); }

static void free_units(zone_t *self, uint32_t at, uint32_t n)
{
    while (n) {
        const unsigned fits = floor_order(n), lies = at ? (unsigned)__builtin_ctz(at) : ORDERS - 1;
        const unsigned order = fits < lies ? fits : lies;
        put_and_join(self, at, order);
        at += UINT32_C(1) << order;
        n -= UINT32_C(1) << order;
    }
}

static uint32_t take_units(zone_t *self, uint32_t n)
{
    for (unsigned order = ceil_order(n); order < ORDERS; order++) {
        const uint32_t at = self->first[order];
        if (at == NOWHERE)
            continue;
        take_out(self, at);
        free_units(self, at + n, (UINT32_C(1) << order) - n);
        return at;
    }
    return NOWHERE;
}

/* ---- zones ---- */

static void zone_destroy(zone_t *self)
{
    if (!self)
        return;
    psd_segment_close(&self->memory);
    free(self->order);
    free(self->next);
    free(self->prev);
    free(self);
}

/* A zone of `n_units`, a power of two. The arrays about units take memory only as units are used. */
static zone_t *zone_new(const psd_arena_t *arena, uint32_t n_units)
{
    zone_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->n_units = n_units;
    self->order = malloc(n_units);
    self->next = calloc(n_units, sizeof *self->next);
    self->prev = calloc(n_units, sizeof *self->prev);
    if (!self->order || !self->next || !self->prev || arena->make(&self->memory, (size_t)n_units * UNIT, NULL) != PSD_OK) {
        zone_destroy(self);
        return NULL;
    }
    memset(self->order, NONE, n_units);
    for (int i = 0; i < ORDERS; i++)
        self->first[i] = NOWHERE;
    put(self, 0, floor_order(n_units));
    return self;
}

/* Add a zone as large as all before it together, so that a few segments suffice for any memory. */
static zone_t *grow(psd_arena_t *self, uint32_t n_units)
{
    const unsigned n = atomic_load_explicit(&self->n_zones, memory_order_relaxed);
    size_t want = self->all_units * UNIT;
    want = want < FIRST_BYTES ? FIRST_BYTES : want > MOST_GROWTH ? MOST_GROWTH : want;
    const unsigned growth = ceil_order((uint32_t)(want / UNIT)), need = ceil_order(n_units), order = growth > need ? growth : need;
    zone_t *zone = n < PSD_ARENA_SEGMENTS && order < ORDERS ? zone_new(self, UINT32_C(1) << order) : NULL;
    if (!zone)
        return NULL;
    self->all_units += zone->n_units;
    self->zone[n] = zone;
    atomic_store_explicit(&self->n_zones, n + 1, memory_order_release);
    return zone;
}

/* ---- the arena ---- */

static psd_arena_t *new_arena(size_t most_bytes, int (*make)(psd_segment_t *, size_t, psd_err_t *), psd_err_t *err)
{
    psd_arena_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for an arena");
        return NULL;
    }
    self->make = make;
    self->most_units = most_bytes / UNIT;
    atomic_init(&self->refs, 1);
    pthread_mutex_init(&self->lock, NULL);
    return self;
}

psd_arena_t *psd_arena_new(size_t most_bytes, psd_err_t *err) { return new_arena(most_bytes, psd_segment_make, err); }

psd_arena_t *psd_arena_new_private(size_t most_bytes, psd_err_t *err)
{
    return new_arena(most_bytes, psd_segment_make_private, err);
}

static void unref(psd_arena_t *self)
{
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (unsigned i = 0; i < atomic_load_explicit(&self->n_zones, memory_order_relaxed); i++)
        zone_destroy(self->zone[i]);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

void psd_arena_destroy(psd_arena_t **self_p)
{
    if (*self_p)
        unref(*self_p);
    *self_p = NULL;
}

static void release(psd_buf_t *buf)
{
    block_t *self = (block_t *)buf;
    psd_arena_t *arena = self->arena;
    pthread_mutex_lock(&arena->lock);
    free_units(self->zone, self->first, self->n);
    arena->used_units -= self->n;
    pthread_mutex_unlock(&arena->lock);
    free(self);
    unref(arena);
}

static bool take_block(psd_arena_t *self, block_t *block)
{
    if (block->n > self->most_units - self->used_units)
        return false;
    block->first = NOWHERE;
    for (unsigned i = 0; i < self->n_zones && block->first == NOWHERE; i++) {
        block->zone = self->zone[i];
        block->first = take_units(block->zone, block->n);
    }
    if (block->first == NOWHERE && (block->zone = grow(self, block->n)))
        block->first = take_units(block->zone, block->n);
    if (block->first == NOWHERE)
        return false;
    self->used_units += block->n;
    return true;
}

psd_buf_t *psd_arena_new_buf(psd_arena_t *self, size_t n_bytes)
{
    const size_t n_units = n_bytes / UNIT + (n_bytes % UNIT || !n_bytes);
    block_t *block = n_units <= UINT32_MAX / 2 ? malloc(sizeof *block) : NULL;
    if (!block)
        return NULL;
    block->arena = self;
    block->n = (uint32_t)n_units;
    pthread_mutex_lock(&self->lock);
    const bool taken = take_block(self, block);
    pthread_mutex_unlock(&self->lock);
    if (!taken) {
        free(block);
        return NULL;
    }
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    psd_buf_init(&block->buf, block->zone->memory.at + (size_t)block->first * UNIT, n_bytes, release);
    return &block->buf;
}

const psd_segment_t *psd_arena_segment(psd_arena_t *self, uint32_t segment)
{
    return segment < atomic_load_explicit(&self->n_zones, memory_order_acquire) ? &self->zone[segment]->memory : NULL;
}

bool psd_arena_find(psd_arena_t *self, const void *data, size_t n_bytes, uint32_t *segment, uint64_t *offset)
{
    const psd_segment_t *memory;
    for (uint32_t i = 0; (memory = psd_arena_segment(self, i)); i++) {
        const uintptr_t from = (uintptr_t)data - (uintptr_t)memory->at;
        if (from < memory->n_bytes) { /* an address below wraps to a huge offset */
            *segment = i;
            *offset = from;
            return n_bytes <= memory->n_bytes - from;
        }
    }
    return false;
}

size_t psd_arena_used(psd_arena_t *self)
{
    pthread_mutex_lock(&self->lock);
    const size_t n = self->used_units * UNIT;
    pthread_mutex_unlock(&self->lock);
    return n;
}
