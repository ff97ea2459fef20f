/* address.h - "HOST:PORT" and "tcp://HOST:PORT": host names, IPv4, and IPv6 in brackets, read in one place.
 * Where a name has addresses of both kinds, the IPv4 one is taken, by who listens as by who connects. */
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

/* False when it is no such address: ipc://PATH, a host alone. */
bool psd_address_split(psd_address_t *out, const char *text);

/* "HOST:PORT" again, with brackets around an IPv6 host. */
void psd_address_join(char *out, size_t capacity, const char *host, const char *port);

/* Look the host up, if it is a name: this may take seconds. "*" is all of this machine's IPv4 addresses.
 * PSD_ECONFIG when it means nothing here. */
int psd_address_resolve(psd_sockaddr_t *out, const psd_address_t *address, psd_err_t *err);

/* The same for what is an address already, and is not looked up; false for a name. */
bool psd_address_parse(psd_sockaddr_t *out, const psd_address_t *address);

/* Of what getaddrinfo found the one to take; NULL when there is none of either kind. */
const struct addrinfo *psd_address_choose(const struct addrinfo *found);

/* Whether it is one of loopback, which only this machine reaches. */
bool psd_address_is_loopback(const struct sockaddr *at);
