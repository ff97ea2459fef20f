/* zmtp.h - ZeroMQ connections made by hand, so that any byte of them can be wrong: ZMTP 3.1 with CURVE
 * (ZeroMQ RFCs 23 and 26), as far as a client goes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ZMTP_KEY = 32,
    ZMTP_GREETING = 64,
    ZMTP_HELLO = 202,
    ZMTP_WELCOME = 170,
    ZMTP_COOKIE = 96,
    ZMTP_INITIATE = 288,
    ZMTP_MOST = 2048 /* bytes of any of these, and of a short message */
};

/* One client's side of a handshake. */
typedef struct zmtp {
    uint8_t server[ZMTP_KEY], public[ZMTP_KEY], secret[ZMTP_KEY]; /* long-term keys; the caller sets them */
    uint8_t short_public[ZMTP_KEY], short_secret[ZMTP_KEY];       /* of this connection, both ends' */
    uint8_t short_server[ZMTP_KEY], cookie[ZMTP_COOKIE];          /* from WELCOME */
    uint64_t nonce;
} zmtp_t;

/* A connection to 127.0.0.1 at that port, from 127.`source`, which closes without lingering and waits at most `wait_ms` for
 * anything; 0: not even until it is connected. -1 when it cannot be made. */
int zmtp_dial(uint16_t port, uint32_t source, unsigned wait_ms);

/* Read exactly this many bytes; false when they do not come. */
bool zmtp_read(int fd, uint8_t *out, size_t n);

/* Read the next frame, without its flags and length; 0 when none comes. */
size_t zmtp_read_frame(int fd, uint8_t out[ZMTP_MOST]);

/* Write the greeting of a connection. */
void zmtp_greeting(uint8_t out[ZMTP_GREETING], uint8_t major, const char *mechanism);

/* Draw new keys for this connection and write HELLO; read WELCOME, false when it is not one; write INITIATE; write a message frame,
 * with `more` after it or not. Each returns its length. */
size_t zmtp_hello(zmtp_t *self, uint8_t out[ZMTP_HELLO]);
bool zmtp_welcome(zmtp_t *self, const uint8_t frame[ZMTP_WELCOME]);
size_t zmtp_initiate(zmtp_t *self, uint8_t out[ZMTP_INITIATE]);
size_t zmtp_message(zmtp_t *self, const void *bytes, size_t n, bool more, uint8_t out[ZMTP_MOST]);
