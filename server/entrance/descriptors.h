/* descriptors.h - when to take no new connections, because a process may have no more of them. ZeroMQ would try to
 * take the next one without end, which keeps its thread busy, and nothing else could be opened: no file, no
 * other connection. Connections that say nothing are closed by ZeroMQ soon; then there is room again.
 *
 * Some descriptors are held back, and let go when all others are in use: those who had knocked before find
 * room then. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    PSD_DESCRIPTORS_RESERVE = 128,  /* more than may have knocked (ZeroMQ's backlog is 100) */
    PSD_DESCRIPTORS_NEAR = 64,      /* so few left are none, for there are files to be opened as well */
    PSD_DESCRIPTORS_MOST = 65536,   /* connections and files that a process asks the system for */
    PSD_DESCRIPTORS_PAUSE_MS = 3500 /* longer than a handshake may take (common/net/transport.c) */
};

typedef struct psd_descriptors {
    int reserve[PSD_DESCRIPTORS_RESERVE]; /* descriptors held back */
    unsigned n_reserve;
    uint64_t full_ms; /* when no more were taken; 0: they are */
} psd_descriptors_t;

typedef enum psd_descriptors_do {
    PSD_DESCRIPTORS_REST,
    PSD_DESCRIPTORS_REFUSE, /* take no new connections */
    PSD_DESCRIPTORS_TAKE    /* take them again */
} psd_descriptors_do_t;

/* Ask the system for as many descriptors as it allows, up to PSD_DESCRIPTORS_MOST, and hold some back. */
void psd_descriptors_open(psd_descriptors_t *self);

/* What is to be done now. Ask often. */
psd_descriptors_do_t psd_descriptors_look(psd_descriptors_t *self, uint64_t now_ms);

/* Whether no new connections are to be taken at present. */
bool psd_descriptors_are_full(const psd_descriptors_t *self);

/* How many descriptors this process may have. */
unsigned psd_descriptors_limit(void);

void psd_descriptors_close(psd_descriptors_t *self);
