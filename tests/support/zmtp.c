#include "tests/support/zmtp.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { COMMAND = 4, LONG = 2, BOX = crypto_box_MACBYTES, SHORT_NONCE = 8, LONG_NONCE = 16 };

int zmtp_dial(uint16_t port, uint32_t source, unsigned wait_ms)
{
    struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(127u << 24 | (source & 0xffffff)) };
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    const struct linger none = { .l_onoff = 1 };
    const struct timeval wait = { .tv_sec = wait_ms / 1000, .tv_usec = (suseconds_t)(wait_ms % 1000) * 1000 };
    const int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (wait_ms ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (!bind(fd, (struct sockaddr *)&from, sizeof from) &&
        (!connect(fd, (struct sockaddr *)&to, sizeof to) || (!wait_ms && errno == EINPROGRESS)))
        return fd;
    close(fd);
    return -1;
}

bool zmtp_read(int fd, uint8_t *out, size_t n)
{
    for (ssize_t got; n; n -= (size_t)got, out += got)
        if ((got = recv(fd, out, n, 0)) <= 0)
            return false;
    return true;
}

size_t zmtp_read_frame(int fd, uint8_t out[ZMTP_MOST])
{
    uint8_t head[9] = { 0 };
    if (!zmtp_read(fd, head, 2))
        return 0;
    size_t n = head[1];
    if (head[0] & LONG) {
        if (!zmtp_read(fd, head + 2, 7))
            return 0;
        n = (size_t)head[7] << 8 | head[8];
    }
    return n <= ZMTP_MOST && zmtp_read(fd, out, n) ? n : 0;
}

void zmtp_greeting(uint8_t out[ZMTP_GREETING], uint8_t major, const char *mechanism)
{
    memset(out, 0, ZMTP_GREETING);
    out[0] = 0xff;
    out[8] = 1;
    out[9] = 0x7f;
    out[10] = major;
    out[11] = major >= 3;
    memcpy(out + 12, mechanism, strlen(mechanism));
}

/* ---- boxes ---- */

/* A nonce: `name`, then random bytes or a counter. */
static void put_nonce(uint8_t nonce[crypto_box_NONCEBYTES], const char *name, const uint8_t *rest)
{
    const size_t n = strlen(name);
    memcpy(nonce, name, n);
    memcpy(nonce + n, rest, crypto_box_NONCEBYTES - n);
}

static void count(zmtp_t *self, uint8_t out[SHORT_NONCE])
{
    self->nonce++;
    for (size_t i = 0; i < SHORT_NONCE; i++)
        out[i] = (uint8_t)(self->nonce >> 8 * (SHORT_NONCE - 1 - i));
}

static uint8_t *seal(uint8_t *out, const uint8_t *text, size_t n, const char *name, const uint8_t *rest, const uint8_t *to,
                     const uint8_t *secret)
{
    uint8_t nonce[crypto_box_NONCEBYTES];
    put_nonce(nonce, name, rest);
    int rc = crypto_box_easy(out, text, n, nonce, to, secret);
    assert(!rc && "a key of libsodium's");
    return out + n + BOX;
}

static uint8_t *put(uint8_t *out, const void *bytes, size_t n)
{
    memcpy(out, bytes, n);
    return out + n;
}

/* ---- the handshake ---- */

size_t zmtp_hello(zmtp_t *self, uint8_t out[ZMTP_HELLO])
{
    static const uint8_t zeros[64];
    uint8_t *at = out, nonce[SHORT_NONCE];
    self->nonce = 0;
    crypto_box_keypair(self->short_public, self->short_secret);
    count(self, nonce);
    memset(out, 0, ZMTP_HELLO);
    at = put(at, "\x04\xc8\x05HELLO\x01\0", 10) + 72;
    at = put(at, self->short_public, ZMTP_KEY);
    at = put(at, nonce, sizeof nonce);
    at = seal(at, zeros, sizeof zeros, "CurveZMQHELLO---", nonce, self->server, self->short_secret);
    assert(at == out + ZMTP_HELLO);
    return ZMTP_HELLO;
}

bool zmtp_welcome(zmtp_t *self, const uint8_t frame[ZMTP_WELCOME])
{
    uint8_t nonce[crypto_box_NONCEBYTES], text[ZMTP_KEY + ZMTP_COOKIE];
    put_nonce(nonce, "WELCOME-", frame + 10);
    if (memcmp(frame, "\x04\xa8\x07WELCOME", 10) ||
        crypto_box_open_easy(text, frame + 10 + LONG_NONCE, sizeof text + BOX, nonce, self->server, self->short_secret))
        return false;
    memcpy(self->short_server, text, ZMTP_KEY);
    memcpy(self->cookie, text + ZMTP_KEY, ZMTP_COOKIE);
    return true;
}

size_t zmtp_initiate(zmtp_t *self, uint8_t out[ZMTP_INITIATE])
{
    static const char type[] = "\x0bSocket-Type\0\0\0\x06"
                               "DEALER";
    uint8_t vouch[2 * ZMTP_KEY], drawn[LONG_NONCE], text[256], *end = text, nonce[SHORT_NONCE], *at = out;
    put(put(vouch, self->short_public, ZMTP_KEY), self->server, ZMTP_KEY);
    randombytes_buf(drawn, sizeof drawn);
    end = put(end, self->public, ZMTP_KEY);
    end = put(end, drawn, sizeof drawn);
    end = seal(end, vouch, sizeof vouch, "VOUCH---", drawn, self->short_server, self->secret);
    end = put(end, type, sizeof type - 1);
    const size_t n = (size_t)(end - text), size = 9 + ZMTP_COOKIE + SHORT_NONCE + n + BOX;
    count(self, nonce);
    const uint8_t head[] = { COMMAND | LONG, 0, 0, 0, 0, 0, 0, (uint8_t)(size >> 8), (uint8_t)size };
    at = put(at, head, sizeof head);
    at = put(at, "\x08INITIATE", 9);
    at = put(at, self->cookie, ZMTP_COOKIE);
    at = put(at, nonce, sizeof nonce);
    at = seal(at, text, n, "CurveZMQINITIATE", nonce, self->short_server, self->short_secret);
    return (size_t)(at - out);
}

size_t zmtp_message(zmtp_t *self, const void *bytes, size_t n, bool more, uint8_t out[ZMTP_MOST])
{
    uint8_t text[1024], nonce[SHORT_NONCE], *at = out;
    const size_t size = 8 + SHORT_NONCE + 1 + n + BOX;
    assert(n < sizeof text);
    text[0] = more;
    memcpy(text + 1, bytes, n);
    count(self, nonce);
    const uint8_t head[] = { LONG, 0, 0, 0, 0, 0, 0, (uint8_t)(size >> 8), (uint8_t)size };
    at = put(at, head, sizeof head);
    at = put(at, "\x07MESSAGE", 8);
    at = put(at, nonce, sizeof nonce);
    at = seal(at, text, n + 1, "CurveZMQMESSAGEC", nonce, self->short_server, self->short_secret);
    return (size_t)(at - out);
}
