#include "common/net/route.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/net/address.h"

void psd_endpoint_host(const char *endpoint, char *host, size_t capacity)
{
    psd_address_t address;
    const bool is_tcp = !strncmp(endpoint, "tcp://", 6) && psd_address_split(&address, endpoint);
    const size_t n = is_tcp ? strnlen(address.host, capacity - 1) : 0;
    memcpy(host, address.host, n);
    host[n] = '\0';
}

static bool is_loopback(const psd_sockaddr_t *at) { return psd_address_is_loopback((const struct sockaddr *)&at->at); }

/* The source address of the route to `to`: connecting a UDP socket looks up the route, and sends nothing. */
static bool find_source(const psd_sockaddr_t *to, psd_sockaddr_t *out)
{
    *out = (psd_sockaddr_t){ .n = sizeof out->at };
    int fd = socket(to->at.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool found =
        fd >= 0 && !connect(fd, (const struct sockaddr *)&to->at, to->n) && !getsockname(fd, (struct sockaddr *)&out->at, &out->n);
    int why = errno;
    if (fd >= 0)
        close(fd);
    errno = why;
    return found;
}

/* Others can use an IPv6 address unless it is link-local. */
static bool is_for_others(const psd_sockaddr_t *at)
{
    return !is_loopback(at) && !(at->at.ss_family == AF_INET6 &&
                                 IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)(const void *)&at->at)->sin6_addr));
}

/* The address, of this family, of the first interface that is up. */
static bool find_interface(int family, psd_sockaddr_t *out)
{
    struct ifaddrs *all = NULL;
    bool found = false;
    if (getifaddrs(&all))
        return false;
    for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != family || !(i->ifa_flags & IFF_UP))
            continue;
        *out = (psd_sockaddr_t){ .n = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6) };
        memcpy(&out->at, i->ifa_addr, out->n);
        found = is_for_others(out);
    }
    freeifaddrs(all);
    return found;
}

static void write_out(const psd_sockaddr_t *at, char out[PSD_ADDRESS_TEXT])
{
    getnameinfo((const struct sockaddr *)&at->at, at->n, out, PSD_ADDRESS_TEXT, NULL, 0, NI_NUMERICHOST);
}

int psd_route_own(char out[PSD_ADDRESS_TEXT], psd_err_t *err)
{
    /* Addresses reserved for documentation (RFC 5737, RFC 3849), which never belong to this machine: the route to them is the
     * default route. */
    static const psd_address_t elsewhere[] = { { "192.0.2.1", "9" }, { "2001:db8::1", "9" } };
    static const int family[] = { AF_INET, AF_INET6 };
    psd_sockaddr_t to, from;
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        if ((psd_address_parse(&to, &elsewhere[i]) && find_source(&to, &from) && is_for_others(&from)) ||
            find_interface(family[i], &from)) {
            write_out(&from, out);
            return PSD_OK;
        }
    return psd_err_set(err, PSD_ECONFIG, "this machine has no address that others can reach; add --advertise HOST");
}

int psd_route_to(const char *host, char out[PSD_ADDRESS_TEXT], psd_err_t *err)
{
    psd_address_t address = { .port = "9" };
    psd_sockaddr_t to, from;
    snprintf(address.host, sizeof address.host, "%s", host);
    if (psd_address_resolve(&to, &address, err) != PSD_OK)
        return PSD_ECONFIG;
    if (!find_source(&to, &from))
        return psd_err_set(err, PSD_ECONFIG, "there is no route from here to %.128s: %s", host, strerror(errno));
    if (!is_loopback(&from) || psd_route_own(out, NULL) != PSD_OK)
        write_out(&from, out);
    return PSD_OK;
}

/* Whether HOST includes a port, of a forwarder for example. The colons of a bare IPv6 address do not count. */
static bool has_port(const char *host)
{
    const char *colon = strrchr(host, ':');
    return colon && colon[1] && !colon[1 + strspn(colon + 1, "0123456789")] && (strchr(host, ':') == colon || colon[-1] == ']');
}

int psd_route_advertise(char out[PSD_ROUTE_ENDPOINT_TEXT], const char *bound, const char *given, const char *peer, psd_err_t *err)
{
    char found[PSD_ADDRESS_TEXT], to[PSD_ROUTE_ENDPOINT_TEXT];
    const char *host = given, *port = strrchr(bound, ':');
    const bool is_wildcard = strstr(bound, "//0.0.0.0:") || strstr(bound, "//[::]:");
    if (is_wildcard && !*host) {
        psd_endpoint_host(peer, to, sizeof to);
        if ((*to ? psd_route_to(to, found, err) : psd_route_own(found, err)) != PSD_OK)
            return err->code;
        host = found;
    }
    const bool is_bare_v6 = strchr(host, ':') && *host != '[' && !has_port(host);
    if (*host && port)
        snprintf(out, PSD_ROUTE_ENDPOINT_TEXT, "tcp://%s%.90s%s%s", is_bare_v6 ? "[" : "", host, is_bare_v6 ? "]" : "",
                 has_port(host) ? "" : port);
    else
        snprintf(out, PSD_ROUTE_ENDPOINT_TEXT, "%s", bound);
    return PSD_OK;
}
