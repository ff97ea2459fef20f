/* route.h - finds the address at which others reach this machine, without sending anything. */
#pragma once

#include "common/base/err.h"

enum { PSD_ADDRESS_TEXT = 64, PSD_ROUTE_ENDPOINT_TEXT = 128 };

/* Cut HOST out of "tcp://HOST:PORT", without the brackets of an IPv6 address; "" when there is none. */
void psd_endpoint_host(const char *endpoint, char *host, size_t capacity);

/* The source address of this machine's messages to `host`. If that is a loopback address, which is useless elsewhere, the address
 * of psd_route_own, if there is one. PSD_ECONFIG when the name of `host` cannot be resolved, or there is no route. */
int psd_route_to(const char *host, char out[PSD_ADDRESS_TEXT], psd_err_t *err);

/* The source address of this machine's default route, otherwise that of its first interface that is up, except loopback.
 * PSD_ECONFIG when there is none. */
int psd_route_own(char out[PSD_ADDRESS_TEXT], psd_err_t *err);

/* The endpoint that others should use for a socket bound to `bound`. `given` is the HOST or HOST:PORT that an operator or a
 * launcher has set for that; "": the host of `bound` or, if that is every address of this machine, the source address of messages
 * to `peer` (an endpoint; "": of the default route). PSD_ECONFIG as above. */
int psd_route_advertise(char out[PSD_ROUTE_ENDPOINT_TEXT], const char *bound, const char *given, const char *peer, psd_err_t *err);
