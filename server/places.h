/* places.h - when to take no new connections, because a process may have no more of them. ZeroMQ would try to
 * take the next one without end, which keeps its thread busy, and nothing else could be opened: no file, no
 * other connection. Connections that say nothing are closed by ZeroMQ soon; then there is room again.
 *
 * Some descriptors are held back, and let go when all others are in use: those who had knocked before find
 * room then. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    PSD_PLACES_RESERVE = 128,  /* more than may have knocked (ZeroMQ's backlog is 100) */
    PSD_PLACES_NEAR = 64,      /* so few left are none, for there are files to be opened as well */
    PSD_PLACES_MOST = 65536,   /* connections and files that a process asks the system for */
    PSD_PLACES_PAUSE_MS = 3500 /* longer than a handshake may take (common/transport.c) */
};

typedef struct psd_places {
    int reserve[PSD_PLACES_RESERVE]; /* descriptors held back */
    unsigned n_reserve;
    uint64_t full_ms; /* when no more were taken; 0: they are */
} psd_places_t;

typedef enum psd_places_do {
    PSD_PLACES_REST,
    PSD_PLACES_REFUSE, /* take no new connections */
    PSD_PLACES_TAKE    /* take them again */
} psd_places_do_t;

/* Ask the system for as many descriptors as it allows, up to PSD_PLACES_MOST, and hold some back. */
void psd_places_open(psd_places_t *self);

/* What is to be done now. Ask often. */
psd_places_do_t psd_places_look(psd_places_t *self, uint64_t now_ms);

/* How many descriptors this process may have. */
unsigned psd_places_limit(void);

void psd_places_close(psd_places_t *self);
