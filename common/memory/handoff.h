/* handoff.h - the way by which processes of one machine and one user find each other and hand over descriptors: Unix-domain sockets
 * of packets with abstract names, drawn at random. A name in no file system needs no folder, has no length to fear, and leaves
 * nothing behind; it cannot be reached from another machine or another network namespace. Permissions it has none: whoever comes is
 * asked for by the kernel (SO_PEERCRED, the effective user), and has to know a token.
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
    PSD_TOKEN_BYTES = 32,     /* what a peer has to know, from the keyed connection */
    PSD_HANDOFF_PACKET = 256, /* bytes of a packet, at most */
};

/* 32 bytes that nobody can guess. */
void psd_token_draw(uint8_t token[PSD_TOKEN_BYTES]);

/* Whether both are the same, in a time that does not depend on where they differ. */
bool psd_token_is(const uint8_t a[PSD_TOKEN_BYTES], const uint8_t b[PSD_TOKEN_BYTES]);

/* Whether a peer with the user id `theirs` is of our own user. -1, what an id from outside of our namespace may read as, is nobody. */
bool psd_handoff_is_own(uid_t theirs, uid_t ours);

/* A socket that listens, under a new name. Its descriptor; below 0 with `err` set. */
int psd_handoff_listen(char name[PSD_HANDOFF_NAME], psd_err_t *err);

/* The next that knocks: its descriptor. PSD_EAGAIN: nobody; PSD_EAUTH: it was of another user, and is gone; PSD_ESYSTEM: no
 * descriptor is left for it, and it goes on knocking. */
int psd_handoff_accept(int listener, psd_err_t *err);

/* A connection to `name`: its descriptor. PSD_EUNAVAILABLE: nobody listens there, or too many knock; PSD_EAUTH: another user does. */
int psd_handoff_connect(const char *name, psd_err_t *err);

/* Send a packet, with a descriptor unless `pass` is below 0; both stay the caller's. PSD_EAGAIN: no room; PSD_EUNAVAILABLE: the
 * other end is gone. */
int psd_handoff_send(int fd, const void *packet, size_t n_bytes, int pass);

/* Read a packet: how many bytes it has, 1 to PSD_HANDOFF_PACKET. `*passed` is the descriptor that came with it and is the caller's;
 * -1: none. PSD_EAGAIN: none is there; PSD_EUNAVAILABLE: the other end is gone. PSD_EPROTO: it was too long, or more than one
 * descriptor came with it; PSD_ESYSTEM: this process may not have the one that came. What came is closed then. */
int psd_handoff_receive(int fd, uint8_t packet[PSD_HANDOFF_PACKET], int *passed, psd_err_t *err);
