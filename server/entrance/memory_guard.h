/* memory_guard.h - when to close all connections because of the memory that peers take. ZeroMQ does not bound the memory of a
 * message that a peer has only begun to send; closing its connection frees it. psd cannot see which peer it is, so it closes all
 * connections, and honest peers reconnect. Pure: the caller passes the time and the memory. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PSD_MEMORY_GUARD_LOOK_MS = 10 };

typedef struct psd_memory_guard {
    uint64_t max;       /* bound on resident bytes; 0: none */
    uint64_t floor;     /* resident bytes after connections were last closed: the job's own, which closing does not free */
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

/* What to do now, with that many bytes resident. Call it every PSD_MEMORY_GUARD_LOOK_MS. Memory keeps rising at the rate since the
 * last call until all connections are closed, so they are closed before the bound: when half of the room above the job's own memory
 * is taken. */
psd_memory_guard_do_t psd_memory_guard_look(psd_memory_guard_t *self, uint64_t now_ms, uint64_t resident);

/* Whether connections are being closed: bind nothing meanwhile. */
bool psd_memory_guard_is_closing(const psd_memory_guard_t *self);
