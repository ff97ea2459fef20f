/* descriptors.h - when to refuse new connections because the process runs out of descriptors. Without this, ZeroMQ would retry the
 * next one without end, which keeps its thread busy, and the process could open no file and no other connection. ZeroMQ soon closes
 * silent connections, which makes room again.
 *
 * Some descriptors are held back, and released when all others are in use: peers that already wait for a connection
 * get one then. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    PSD_DESCRIPTORS_RESERVE = 128,  /* more than may wait (ZeroMQ's backlog is 100) */
    PSD_DESCRIPTORS_NEAR = 64,      /* treat this few as none: files need descriptors too */
    PSD_DESCRIPTORS_MOST = 65536,   /* connections and files that a process asks the system for */
    PSD_DESCRIPTORS_PAUSE_MS = 3500 /* longer than a handshake may take (common/net/transport.c) */
};

typedef struct psd_descriptors {
    int reserve[PSD_DESCRIPTORS_RESERVE]; /* descriptors held back */
    unsigned n_reserve;
    uint64_t full_ms; /* when it stopped taking connections; 0: it takes them */
} psd_descriptors_t;

typedef enum psd_descriptors_do {
    PSD_DESCRIPTORS_REST,
    PSD_DESCRIPTORS_REFUSE, /* take no new connections */
    PSD_DESCRIPTORS_TAKE    /* take them again */
} psd_descriptors_do_t;

/* Ask the system for as many descriptors as it allows, up to PSD_DESCRIPTORS_MOST, and hold some back. */
void psd_descriptors_open(psd_descriptors_t *self);

/* What to do now. Call it often. */
psd_descriptors_do_t psd_descriptors_look(psd_descriptors_t *self, uint64_t now_ms);

/* Whether new connections are refused at present. */
bool psd_descriptors_are_full(const psd_descriptors_t *self);

/* How many descriptors this process may have. */
unsigned psd_descriptors_limit(void);

void psd_descriptors_close(psd_descriptors_t *self);
