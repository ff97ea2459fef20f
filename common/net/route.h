/* route.h - which address of this machine others reach it at. Nothing is sent to find out. */
#pragma once

#include "common/base/err.h"

enum { PSD_ADDRESS_TEXT = 64, PSD_ROUTE_ENDPOINT_TEXT = 128 };

/* Cut HOST out of "tcp://HOST:PORT", without the brackets of an IPv6 address; "" when there is none. */
void psd_endpoint_host(const char *endpoint, char *host, size_t capacity);

/* The address that this machine speaks from when it speaks to `host`. When that is one of loopback, which
 * nobody elsewhere could use: psd_route_own's, as long as there is one. PSD_ECONFIG when the name of `host`
 * cannot be resolved, or there is no route. */
int psd_route_to(const char *host, char out[PSD_ADDRESS_TEXT], psd_err_t *err);

/* The address of this machine that its default route begins at, else that of its first interface that is up,
 * loopback left out. PSD_ECONFIG when it has none. */
int psd_route_own(char out[PSD_ADDRESS_TEXT], psd_err_t *err);

/* The endpoint to tell others, of a socket that is bound to `bound`. `given` is the HOST or HOST:PORT that an operator or a
 * launcher says they must use; "": the host of `bound`, or, where that is every address of this machine, the one that it
 * speaks to `peer` from (an endpoint; "": that of the default route). PSD_ECONFIG as above. */
int psd_route_advertise(char out[PSD_ROUTE_ENDPOINT_TEXT], const char *bound, const char *given, const char *peer, psd_err_t *err);
