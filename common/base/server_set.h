/* server_set.h - a set of a job's servers, by their indices. All zero is the empty set. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PSD_MAX_SERVERS = 256 }; /* servers of a job */

typedef struct psd_server_set {
    uint64_t bits[PSD_MAX_SERVERS / 64];
    uint32_t n; /* number of servers in it */
} psd_server_set_t;

/* Whether server `s`, below PSD_MAX_SERVERS, is in it. */
static inline bool psd_server_set_has(const psd_server_set_t *self, uint32_t s) { return self->bits[s / 64] >> s % 64 & 1; }

/* Add a server. Whether it was not in it before. */
static inline bool psd_server_set_add(psd_server_set_t *self, uint32_t s)
{
    if (psd_server_set_has(self, s))
        return false;
    self->bits[s / 64] |= UINT64_C(1) << s % 64;
    self->n++;
    return true;
}
