/* address.h - "HOST:PORT" and "tcp://HOST:PORT": host names, IPv4, and IPv6 in brackets, parsed in one place. If a name has
 * addresses of both kinds, both the listening and the connecting side take the IPv4 one. */
#pragma once

#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "common/base/err.h"

enum { PSD_HOST_TEXT = 256, PSD_PORT_TEXT = 8 };

typedef struct psd_address {
    char host[PSD_HOST_TEXT]; /* without brackets */
    char port[PSD_PORT_TEXT];
} psd_address_t;

/* A socket's address. */
typedef struct psd_sockaddr {
    struct sockaddr_storage at;
    socklen_t n;
} psd_sockaddr_t;

/* False when it is not such an address, for example ipc://PATH or a host without a port. */
bool psd_address_split(psd_address_t *out, const char *text);

/* "HOST:PORT" again, with brackets around an IPv6 host. */
void psd_address_join(char *out, size_t capacity, const char *host, const char *port);

/* Look the host up, if it is a name: this may take seconds. "*" means all of this machine's IPv4 addresses. PSD_ECONFIG when the
 * name cannot be resolved. */
int psd_address_resolve(psd_sockaddr_t *out, const psd_address_t *address, psd_err_t *err);

/* The same without a look-up, for a host that is an address; false for a name. */
bool psd_address_parse(psd_sockaddr_t *out, const psd_address_t *address);

/* Choose one of the addresses that getaddrinfo found; NULL when there is no IPv4 or IPv6 address. */
const struct addrinfo *psd_address_choose(const struct addrinfo *found);

/* Whether it is a loopback address, which only this machine can reach. */
bool psd_address_is_loopback(const struct sockaddr *at);
