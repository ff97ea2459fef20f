#include "worker/turn.h"

#include <stdint.h>
#include <stdlib.h>
#include <uv.h>

enum { GRACE_MS = 2, LONGEST_MS = 32 };
static const uint64_t MS = 1000000; /* nanoseconds */

typedef enum holder { NOBODY, LIBRARY, PROGRAM } holder_t;

struct psd_turn {
    uv_mutex_t lock;
    uv_cond_t changed;
    void (*interrupt)(void *arg);
    void *arg;
    holder_t holder;
    bool allowed, forbidden; /* the program's thread */
    bool wanted;             /* by the program's thread */
    bool ended;
    uint64_t given_ns, n_given;
};

psd_turn_t *psd_turn_new(void (*interrupt)(void *arg), void *arg)
{
    psd_turn_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->interrupt = interrupt;
    self->arg = arg;
    uv_mutex_init(&self->lock);
    uv_cond_init(&self->changed);
    return self;
}

void psd_turn_destroy(psd_turn_t **self_p)
{
    psd_turn_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    uv_cond_destroy(&self->changed);
    uv_mutex_destroy(&self->lock);
    free(self);
}

/* ---- the program's thread ---- */

static bool may(const psd_turn_t *self) { return self->allowed && !self->forbidden; }

void psd_turn_allow(psd_turn_t *self)
{
    uv_mutex_lock(&self->lock);
    self->allowed = true;
    uv_mutex_unlock(&self->lock);
}

void psd_turn_forbid(psd_turn_t *self)
{
    uv_mutex_lock(&self->lock);
    self->forbidden = true;
    uv_cond_broadcast(&self->changed);
    uv_mutex_unlock(&self->lock);
}

bool psd_turn_try(psd_turn_t *self)
{
    uv_mutex_lock(&self->lock);
    const bool taken = may(self) && self->holder == NOBODY;
    if (taken)
        self->holder = PROGRAM;
    uv_mutex_unlock(&self->lock);
    return taken;
}

/* The lock is held. */
static void take(psd_turn_t *self)
{
    self->wanted = true;
    if (self->holder == LIBRARY)
        self->interrupt(self->arg);
    while (self->holder != NOBODY)
        uv_cond_wait(&self->changed, &self->lock);
    self->wanted = false;
    self->holder = PROGRAM;
}

bool psd_turn_take(psd_turn_t *self)
{
    uv_mutex_lock(&self->lock);
    const bool taken = may(self);
    if (taken)
        take(self);
    uv_mutex_unlock(&self->lock);
    return taken;
}

/* This does not wake the library's thread, which checks from time to time. */
void psd_turn_give(psd_turn_t *self)
{
    uv_mutex_lock(&self->lock);
    self->holder = NOBODY;
    self->given_ns = uv_hrtime();
    self->n_given++;
    uv_mutex_unlock(&self->lock);
}

void psd_turn_end(psd_turn_t *self)
{
    uv_mutex_lock(&self->lock);
    take(self);
    self->ended = true;
    uv_cond_broadcast(&self->changed);
    uv_mutex_unlock(&self->lock);
}

/* ---- the library's thread ---- */

static bool is_in_use(const psd_turn_t *self)
{
    return self->holder != NOBODY || self->wanted || (may(self) && uv_hrtime() - self->given_ns < GRACE_MS * MS);
}

/* The longer the program stays within one turn, the less often this thread checks. */
bool psd_turn_await(psd_turn_t *self)
{
    uint64_t pause_ms = GRACE_MS;
    uv_mutex_lock(&self->lock);
    while (!self->ended && is_in_use(self)) {
        const uint64_t n_given = self->n_given;
        uv_cond_timedwait(&self->changed, &self->lock, pause_ms * MS);
        pause_ms = n_given != self->n_given ? GRACE_MS : pause_ms < LONGEST_MS ? 2 * pause_ms : LONGEST_MS;
    }
    const bool mine = !self->ended;
    if (mine)
        self->holder = LIBRARY;
    uv_mutex_unlock(&self->lock);
    return mine;
}

bool psd_turn_keep(psd_turn_t *self)
{
    uv_mutex_lock(&self->lock);
    const bool keeps = !self->wanted;
    if (!keeps) {
        self->holder = NOBODY;
        uv_cond_broadcast(&self->changed);
    }
    uv_mutex_unlock(&self->lock);
    return keeps;
}
