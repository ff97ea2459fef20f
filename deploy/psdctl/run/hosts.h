/* hosts.h - the machines of psdctl launch: a text file, a host per line, and who runs where. Pure.
 *
 *   # host [servers=N] [workers=N] [address=A]
 *   node1            servers=1 workers=2
 *   ann@node2        workers=4 address=10.0.0.2
 *
 * The first word is a name or a number (IPv4) that ssh is given; `address` is the name under which servers there are reached by the others (default: the
 * host, without ann@). Words are parted by blanks; a line that begins with # is a remark. Without any servers=, the job's servers are dealt one by
 * one over the hosts, from the first; with one, hosts that say nothing have none. The same for workers=. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

enum { PSD_HOST_TEXT = 128, PSD_MAX_HOSTS = 4096, PSD_MAX_PER_HOST = 1024 };

typedef struct psd_host {
    char target[PSD_HOST_TEXT];  /* "ann@node2" */
    char address[PSD_HOST_TEXT]; /* "10.0.0.2" */
    unsigned servers, workers;   /* that run there */
} psd_host_t;

typedef struct psd_hosts {
    size_t n;
    psd_host_t *host;
    bool tells_servers, tells_workers; /* whether any line does */
    unsigned servers, workers;         /* sums of what the lines tell */
} psd_hosts_t;

/* Read a hostfile; `file` is what complaints call it. PSD_ECONFIG with "FILE:LINE: cause", PSD_ENOMEM; `out` is empty then. */
int psd_hosts_parse(psd_hosts_t *out, const char *file, const char *text, size_t n_bytes, psd_err_t *err);

/* The same from a file. PSD_ENOINPUT when it is not there or no file of text. */
int psd_hosts_load(psd_hosts_t *out, const char *path, psd_err_t *err);
void psd_hosts_clear(psd_hosts_t *self);

/* Deal so many over the hosts; only for those of whom no line tells a number. */
void psd_hosts_deal(psd_hosts_t *self, unsigned servers, unsigned workers);

/* The host of the server of this index, or of the worker (both from 0): each host in turn, as many as run there. NULL: there
 * are not so many. */
const psd_host_t *psd_hosts_of_server(const psd_hosts_t *self, unsigned index);
const psd_host_t *psd_hosts_of_worker(const psd_hosts_t *self, unsigned index);
