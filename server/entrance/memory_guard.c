#include "server/entrance/memory_guard.h"

enum {
    CLOSE_MS = 200,        /* for ZeroMQ's thread to free what it held */
    AHEAD = 6,             /* looks during which it still takes in messages, and a spare one */
    LEAST_RISE = 64 << 20, /* above the floor */
};

/* If the job itself needs more than the bound, only memory beyond the job's own counts. */
static uint64_t limit(const psd_memory_guard_t *self)
{
    const uint64_t own = self->floor + self->floor / 8 + LEAST_RISE;
    return self->floor > self->max - self->max / 8 && own > self->max ? own : self->max;
}

/* Whether the bound is passed, or will be before closing has an effect. */
static bool is_over(const psd_memory_guard_t *self, uint64_t resident)
{
    const uint64_t bound = limit(self), rise = resident > self->seen ? resident - self->seen : 0;
    const uint64_t half = self->floor < bound ? self->floor + (bound - self->floor) / 2 : bound;
    return resident > bound || (resident > half && resident + AHEAD * rise > bound);
}

psd_memory_guard_do_t psd_memory_guard_look(psd_memory_guard_t *self, uint64_t now_ms, uint64_t resident)
{
    if (!self->max)
        return PSD_MEMORY_GUARD_REST;
    if (self->closed_ms) {
        if (now_ms < self->closed_ms + CLOSE_MS)
            return PSD_MEMORY_GUARD_REST;
        if (!self->trimmed++)
            return PSD_MEMORY_GUARD_TRIM;
        self->floor = self->seen = resident;
        self->closed_ms = 0;
        return PSD_MEMORY_GUARD_REST;
    }
    const bool over = is_over(self, resident);
    self->seen = resident;
    if (!over)
        return PSD_MEMORY_GUARD_REST;
    self->closed_ms = now_ms;
    self->trimmed = 0;
    self->closings++;
    return PSD_MEMORY_GUARD_CLOSE;
}

bool psd_memory_guard_is_closing(const psd_memory_guard_t *self) { return self->closed_ms != 0; }
