#include "common/memory/handoff.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 64, MOST_PASSED = 4, FLAGS = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK };

void psd_token_draw(uint8_t token[PSD_TOKEN_BYTES]) { randombytes_buf(token, PSD_TOKEN_BYTES); }

bool psd_token_is(const uint8_t a[PSD_TOKEN_BYTES], const uint8_t b[PSD_TOKEN_BYTES])
{
    return !sodium_memcmp(a, b, PSD_TOKEN_BYTES);
}

bool psd_handoff_is_own(uid_t theirs, uid_t ours) { return theirs == ours && theirs != (uid_t)-1; }

/* The first byte of an abstract name is 0; its length, not a NUL, ends it. */
static socklen_t address(struct sockaddr_un *at, const char *name)
{
    *at = (struct sockaddr_un){ .sun_family = AF_UNIX };
    const size_t n = strnlen(name, PSD_HANDOFF_NAME - 1);
    memcpy(at->sun_path + 1, name, n);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

static bool is_of_own_user(int fd)
{
    struct ucred peer;
    socklen_t n = sizeof peer;
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) && psd_handoff_is_own(peer.uid, geteuid());
}

int psd_handoff_listen(char name[PSD_HANDOFF_NAME], psd_err_t *err)
{
    struct sockaddr_un at;
    uint8_t drawn[16];
    size_t n = (size_t)snprintf(name, PSD_HANDOFF_NAME, "psd-");
    if (sodium_init() < 0)
        return psd_err_set(err, PSD_ESYSTEM, "libsodium cannot start");
    randombytes_buf(drawn, sizeof drawn);
    sodium_bin2hex(name + n, PSD_HANDOFF_NAME - n, drawn, sizeof drawn);
    const socklen_t n_at = address(&at, name);
    const int fd = socket(AF_UNIX, FLAGS, 0);
    if (fd >= 0 && !bind(fd, (struct sockaddr *)&at, n_at) && !listen(fd, BACKLOG))
        return fd;
    psd_err_set(err, PSD_ESYSTEM, "cannot listen for processes of this machine: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return PSD_ESYSTEM;
}

int psd_handoff_accept(int listener, psd_err_t *err)
{
    const int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED
                   ? PSD_EAGAIN
                   : psd_err_set(err, PSD_ESYSTEM, "cannot accept a connection from this machine: %s", strerror(errno));
    if (is_of_own_user(fd))
        return fd;
    close(fd);
    return psd_err_set(err, PSD_EAUTH, "a process of another user tried to connect");
}

int psd_handoff_connect(const char *name, psd_err_t *err)
{
    struct sockaddr_un at;
    const socklen_t n_at = address(&at, name);
    const int fd = socket(AF_UNIX, FLAGS, 0);
    int rc = PSD_OK;
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, n_at))
        rc = psd_err_set(err, PSD_EUNAVAILABLE, "cannot reach the peer through memory: %s", strerror(errno));
    else if (!is_of_own_user(fd))
        rc = psd_err_set(err, PSD_EAUTH, "another user's process listens under the peer's name");
    if (rc != PSD_OK && fd >= 0)
        close(fd);
    return rc == PSD_OK ? fd : rc;
}

typedef union control {
    struct cmsghdr head; /* for its alignment */
    char bytes[CMSG_SPACE(MOST_PASSED * sizeof(int))];
} control_t;

int psd_handoff_send(int fd, const void *packet, size_t n_bytes, int pass)
{
    struct iovec part = { .iov_base = (void *)(uintptr_t)packet, .iov_len = n_bytes };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    control_t control;
    if (pass >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof pass);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof pass);
        memcpy(CMSG_DATA(head), &pass, sizeof pass);
    }
    /* Not blocking, by a flag of the call, because flags of the descriptor are shared with other holders. ETOOMANYREFS: too many
     * descriptors are in flight. */
    if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return PSD_OK;
    return errno == EAGAIN || errno == EINTR || errno == ETOOMANYREFS || errno == ENOBUFS || errno == ENOMEM ? PSD_EAGAIN
                                                                                                             : PSD_EUNAVAILABLE;
}

/* Take the descriptors that came with a message: keep the first in `*passed`, close the rest, and return their number. */
static int take_descriptors(struct msghdr *message, int *passed)
{
    int n = 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; at + sizeof(int) <= head->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + at, sizeof fd);
            if (n++ == 0)
                *passed = fd;
            else
                close(fd);
        }
    }
    return n;
}

int psd_handoff_receive(int fd, uint8_t packet[PSD_HANDOFF_PACKET], int *passed, psd_err_t *err)
{
    control_t control;
    struct iovec part = { .iov_base = packet, .iov_len = PSD_HANDOFF_PACKET };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control };
    *passed = -1;
    const ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? PSD_EAGAIN : PSD_EUNAVAILABLE;
    const int n_passed = take_descriptors(&message, passed);
    if (n > 0 && n_passed <= 1 && !(message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)))
        return (int)n;
    if (*passed >= 0)
        close(*passed);
    *passed = -1;
    if (n == 0)
        return PSD_EUNAVAILABLE;
    if (message.msg_flags & MSG_TRUNC)
        return psd_err_set(err, PSD_EPROTO, "a packet of more than %d bytes", PSD_HANDOFF_PACKET);
    if (n_passed > 1)
        return psd_err_set(err, PSD_EPROTO, "more than one descriptor at once");
    return psd_err_set(err, PSD_ESYSTEM, "no descriptor is free for the one that a peer hands over");
}
