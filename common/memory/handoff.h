/* handoff.h - lets processes of one machine and one user find each other and hand over descriptors, by Unix-domain packet sockets
 * with random abstract names. Such a name needs no folder, has no path limit, leaves nothing behind, and cannot be reached from
 * another machine or another network namespace. It has no permissions either, so each peer is checked by its effective user, which
 * the kernel reports (SO_PEERCRED), and by a token.
 *
 * All calls return at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/err.h"

enum {
    PSD_HANDOFF_NAME = 48,    /* bytes of a name, with its end */
    PSD_TOKEN_BYTES = 32,     /* the token that a peer learns through its keyed connection */
    PSD_HANDOFF_PACKET = 256, /* bytes of a packet, at most */
};

/* Draw 32 unpredictable random bytes. */
void psd_token_draw(uint8_t token[PSD_TOKEN_BYTES]);

/* Whether both are equal, in a time that does not depend on where they differ. */
bool psd_token_is(const uint8_t a[PSD_TOKEN_BYTES], const uint8_t b[PSD_TOKEN_BYTES]);

/* Whether a peer with the user id `theirs` runs as this process's user. -1, which an id from outside this namespace may read as,
 * never does. */
bool psd_handoff_is_own(uid_t theirs, uid_t ours);

/* Open a socket that listens under a new name. Returns its descriptor; below 0 with `err` set. */
int psd_handoff_listen(char name[PSD_HANDOFF_NAME], psd_err_t *err);

/* Accept the next connection: its descriptor. PSD_EAGAIN: none waits; PSD_EAUTH: it came from another user and was closed;
 * PSD_ESYSTEM: no descriptor is left for it, and it keeps waiting. */
int psd_handoff_accept(int listener, psd_err_t *err);

/* Connect to `name`: the descriptor. PSD_EUNAVAILABLE: no process listens there, or its queue is full; PSD_EAUTH: another
 * user listens there. */
int psd_handoff_connect(const char *name, psd_err_t *err);

/* Send a packet, with a descriptor unless `pass` is below 0; both descriptors still belong to the caller. PSD_EAGAIN: no room;
 * PSD_EUNAVAILABLE: the other end is gone. */
int psd_handoff_send(int fd, const void *packet, size_t n_bytes, int pass);

/* Read a packet; returns its length, 1 to PSD_HANDOFF_PACKET. `*passed` is the descriptor that came with it, which the caller
 * must close; -1: none. PSD_EAGAIN: none is there; PSD_EUNAVAILABLE: the other end is gone. PSD_EPROTO: it was too long, or more
 * than one descriptor came with it; PSD_ESYSTEM: this process has no descriptor free. On an error it closes the descriptors that
 * came. */
int psd_handoff_receive(int fd, uint8_t packet[PSD_HANDOFF_PACKET], int *passed, psd_err_t *err);
