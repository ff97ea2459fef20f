/* memory_guard.h - when to close all connections because of the memory that peers take. What a peer has begun to
 * send and not ended is in no message yet and has no bound in ZeroMQ; closing its connection frees it. Whose
 * it is cannot be seen, so all are closed, and made again by those who mean well. Pure: it is told the time
 * and the memory. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PSD_MEMORY_GUARD_LOOK_MS = 10 };

typedef struct psd_memory_guard {
    uint64_t max;       /* resident bytes that are not to be reached; 0: as many as may be */
    uint64_t floor;     /* what was left after connections were last closed: the job's own, which closing does not free */
    uint64_t seen;      /* at the last look */
    uint64_t closed_ms; /* when connections were last closed, until their memory is back; 0: nothing is closing */
    uint64_t closings;  /* how often */
    int trimmed;        /* freed memory has been given back to the system since */
} psd_memory_guard_t;

typedef enum psd_memory_guard_do {
    PSD_MEMORY_GUARD_REST,
    PSD_MEMORY_GUARD_CLOSE, /* close all connections */
    PSD_MEMORY_GUARD_TRIM   /* they are closed: give freed memory back to the system */
} psd_memory_guard_do_t;

/* What is to be done now, with so many bytes resident. Ask every PSD_MEMORY_GUARD_LOOK_MS: memory that rises as it did since the last
 * look goes on rising until all is closed, so they are closed before the bound, once the half of what may come on top of the job's own is
 * there. */
psd_memory_guard_do_t psd_memory_guard_look(psd_memory_guard_t *self, uint64_t now_ms, uint64_t resident);

/* Whether connections are being closed: bind nothing meanwhile. */
bool psd_memory_guard_is_closing(const psd_memory_guard_t *self);
