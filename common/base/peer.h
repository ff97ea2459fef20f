/* peer.h - the number of a peer of a ROUTER: its connection and its user.
 *
 *   bit 63        set, so that it is none of the fixed numbers that a DEALER's owner gives
 *   bits 40 - 55  the user (by its key), from 1; 0: unknown, because there are no keys
 *   bits 0 - 39   the routing id that ZeroMQ chose for the connection */
#pragma once

#include <stdint.h>

enum { PSD_MAX_USERS = 1 << 16, PSD_ROUTING_BYTES = 5 };

#define PSD_PEER_ROUTER (UINT64_C(1) << 63)

static inline uint64_t psd_peer_make(uint64_t routing, uint32_t user)
{
    return PSD_PEER_ROUTER | (uint64_t)user << 8 * PSD_ROUTING_BYTES | routing;
}

static inline uint32_t psd_peer_user(uint64_t peer)
{
    return peer & PSD_PEER_ROUTER ? (uint32_t)(peer >> 8 * PSD_ROUTING_BYTES) & (PSD_MAX_USERS - 1) : 0;
}
