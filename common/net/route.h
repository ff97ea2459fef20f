/* route.h - which address of this machine others reach it at. Nothing is sent to find out. */
#pragma once

#include "common/base/err.h"

enum { PSD_ADDRESS_TEXT = 64 };

/* Cut HOST out of "tcp://HOST:PORT", without the brackets of an IPv6 address; "" when there is none. */
void psd_endpoint_host(const char *endpoint, char *host, size_t capacity);

/* The address that this machine speaks from when it speaks to `host`. When that is one of loopback, which
 * nobody elsewhere could use: psd_route_own's, as long as there is one. PSD_ECONFIG when the name of `host`
 * cannot be resolved, or there is no route. */
int psd_route_to(const char *host, char out[PSD_ADDRESS_TEXT], psd_err_t *err);

/* The address of this machine that its default route begins at, else that of its first interface that is up,
 * loopback left out. PSD_ECONFIG when it has none. */
int psd_route_own(char out[PSD_ADDRESS_TEXT], psd_err_t *err);
