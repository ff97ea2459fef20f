/* hosts.h - the machines of psdctl launch: a text file, a host per line, and the placement of processes. Pure.
 *
 *   # host [servers=N] [workers=N] [address=A]
 *   node1            servers=1 workers=2
 *   ann@node2        workers=4 address=10.0.0.2
 *
 * The first word is a name or an IPv4 address for ssh; `address` is the name under which others reach servers there (default: the
 * host, without ann@). Words are separated by blanks; a line that begins with # is a comment. Without any servers=, the job's
 * servers are distributed one by one over the hosts, from the first; if any line has servers=, hosts without it have none. The same
 * for workers=. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

enum { PSD_HOST_TEXT = 128, PSD_MAX_HOSTS = 4096, PSD_MAX_PER_HOST = 1024 };

typedef struct psd_host {
    char target[PSD_HOST_TEXT];  /* "ann@node2" */
    char address[PSD_HOST_TEXT]; /* "10.0.0.2" */
    unsigned servers, workers;   /* number of processes there */
} psd_host_t;

typedef struct psd_hosts {
    size_t n;
    psd_host_t *host;
    bool tells_servers, tells_workers; /* whether any line does */
    unsigned servers, workers;         /* sums over the lines */
} psd_hosts_t;

/* Read a hostfile, which errors call `file`. PSD_ECONFIG with "FILE:LINE: cause", PSD_ENOMEM; `out` is empty then. */
int psd_hosts_parse(psd_hosts_t *out, const char *file, const char *text, size_t n_bytes, psd_err_t *err);

/* The same from a file. PSD_ENOINPUT when it does not exist or is not a text file. */
int psd_hosts_load(psd_hosts_t *out, const char *path, psd_err_t *err);
void psd_hosts_clear(psd_hosts_t *self);

/* Distribute this many processes over the hosts; only for the kind (servers, workers) without numbers in the lines. */
void psd_hosts_deal(psd_hosts_t *self, unsigned servers, unsigned workers);

/* The host of the server of this index, or of the worker (both from 0): the first host's come first, then the next one's. NULL:
 * there are fewer. */
const psd_host_t *psd_hosts_of_server(const psd_hosts_t *self, unsigned index);
const psd_host_t *psd_hosts_of_worker(const psd_hosts_t *self, unsigned index);
