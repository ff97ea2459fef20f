#include "common/route.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void psd_endpoint_host(const char *endpoint, char *host, size_t capacity)
{
    static const char tcp[] = "tcp://";
    const char *start = endpoint + sizeof tcp - 1, *colon = strrchr(endpoint, ':');
    const bool is_tcp = !strncmp(endpoint, tcp, sizeof tcp - 1) && colon >= start;
    const bool brackets = is_tcp && *start == '[' && colon[-1] == ']';
    snprintf(host, capacity, "%.*s", is_tcp ? (int)(colon - start) - (brackets ? 2 : 0) : 0,
             start + (brackets ? 1 : 0));
}

static bool is_loopback(struct in_addr address) { return ntohl(address.s_addr) >> 24 == 127; }

/* Where the way to `to` begins: to connect a UDP socket looks up the route, and no more. */
static bool find_source(const struct sockaddr *to, socklen_t n, struct in_addr *out)
{
    struct sockaddr_in from;
    socklen_t n_from = sizeof from;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool found = fd >= 0 && !connect(fd, to, n) && !getsockname(fd, (struct sockaddr *)&from, &n_from);
    *out = from.sin_addr;
    int why = errno;
    if (fd >= 0)
        close(fd);
    errno = why;
    return found;
}

/* That of the first interface that is up. */
static bool find_interface(struct in_addr *out)
{
    struct ifaddrs *all = NULL;
    bool found = false;
    if (getifaddrs(&all))
        return false;
    for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP))
            continue;
        struct sockaddr_in address;
        memcpy(&address, i->ifa_addr, sizeof address);
        *out = address.sin_addr;
        found = !is_loopback(*out);
    }
    freeifaddrs(all);
    return found;
}

int psd_route_own(char out[PSD_ADDRESS_TEXT], psd_err_t *err)
{
    /* An address of the range that is kept for documents (RFC 5737): wherever it is, it is elsewhere. */
    struct sockaddr_in elsewhere = { .sin_family = AF_INET, .sin_port = htons(9) };
    struct in_addr from;
    inet_pton(AF_INET, "192.0.2.1", &elsewhere.sin_addr);
    if ((!find_source((struct sockaddr *)&elsewhere, sizeof elsewhere, &from) || is_loopback(from)) &&
        !find_interface(&from))
        return psd_err_set(
            err, PSD_ECONFIG,
            "this machine has no address but loopback to give to others; add --advertise HOST");
    inet_ntop(AF_INET, &from, out, PSD_ADDRESS_TEXT);
    return PSD_OK;
}

int psd_route_to(const char *host, char out[PSD_ADDRESS_TEXT], psd_err_t *err)
{
    const struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_DGRAM };
    struct addrinfo *found = NULL;
    struct in_addr from;
    int rc = getaddrinfo(host, "9", &hints, &found);
    if (rc)
        return psd_err_set(err, PSD_ECONFIG, "the host name %.128s cannot be resolved: %s", host,
                           gai_strerror(rc));
    bool routed = false;
    for (const struct addrinfo *a = found; a && !routed; a = a->ai_next)
        routed = find_source(a->ai_addr, a->ai_addrlen, &from);
    int why = errno;
    freeaddrinfo(found);
    if (!routed)
        return psd_err_set(err, PSD_ECONFIG, "there is no way from here to %.128s: %s", host, strerror(why));
    if (is_loopback(from) && psd_route_own(out, NULL) == PSD_OK)
        return PSD_OK;
    inet_ntop(AF_INET, &from, out, PSD_ADDRESS_TEXT);
    return PSD_OK;
}
