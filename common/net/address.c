#include "common/net/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

bool psd_address_split(psd_address_t *out, const char *text)
{
    static const char tcp[] = "tcp://";
    const char *start = strncmp(text, tcp, sizeof tcp - 1) ? text : text + sizeof tcp - 1, *colon = strrchr(start, ':');
    if (!colon || colon == start || strstr(start, "://") || strlen(colon + 1) >= sizeof out->port)
        return false;
    const bool brackets = *start == '[' && colon[-1] == ']';
    const size_t n = (size_t)(colon - start) - (brackets ? 2 : 0);
    if (n >= sizeof out->host)
        return false;
    memcpy(out->host, start + brackets, n);
    out->host[n] = '\0';
    snprintf(out->port, sizeof out->port, "%s", colon + 1);
    return true;
}

void psd_address_join(char *out, size_t capacity, const char *host, const char *port)
{
    const bool v6 = strchr(host, ':') != NULL;
    snprintf(out, capacity, "%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

const struct addrinfo *psd_address_choose(const struct addrinfo *found)
{
    const struct addrinfo *v6 = NULL;
    for (; found && found->ai_family != AF_INET; found = found->ai_next)
        v6 = v6 || found->ai_family != AF_INET6 ? v6 : found;
    return found ? found : v6;
}

static int look_up(psd_sockaddr_t *out, const psd_address_t *address, int flags)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | flags };
    struct addrinfo *found = NULL;
    const char *host = strcmp(address->host, "*") ? address->host : "0.0.0.0";
    const int rc = getaddrinfo(host, strcmp(address->port, "*") ? address->port : "0", &hints, &found);
    const struct addrinfo *best = rc ? NULL : psd_address_choose(found);
    *out = (psd_sockaddr_t){ 0 };
    if (best) {
        memcpy(&out->at, best->ai_addr, best->ai_addrlen);
        out->n = best->ai_addrlen;
    }
    if (!rc)
        freeaddrinfo(found);
    return rc ? rc : best ? 0 : EAI_FAMILY;
}

int psd_address_resolve(psd_sockaddr_t *out, const psd_address_t *address, psd_err_t *err)
{
    const int rc = look_up(out, address, 0);
    return rc ? psd_err_set(err, PSD_ECONFIG, "the host name %.128s cannot be resolved: %s", address->host, gai_strerror(rc))
              : PSD_OK;
}

bool psd_address_parse(psd_sockaddr_t *out, const psd_address_t *address) { return look_up(out, address, AI_NUMERICHOST) == 0; }

bool psd_address_is_loopback(const struct sockaddr *at)
{
    if (at->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)at)->sin6_addr);
    return at->sa_family == AF_INET && ntohl(((const struct sockaddr_in *)(const void *)at)->sin_addr.s_addr) >> 24 == 127;
}
