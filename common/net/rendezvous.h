/* rendezvous.h - finds this process's place in its job and the address of server 0, from its options and from the
 * environment that the launcher (Slurm, mpirun, Kubernetes, ...) has set.
 *
 * Sources stand in two tables, one for addresses to join and one for ranks; the first that has a value counts, and a malformed
 * value is an error, never a reason to try the next. Pure: the environment is an argument. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/config/options.h"

enum { PSD_RENDEZVOUS_TEXT = 128 };

/* The surroundings of a process. */
typedef struct psd_surroundings {
    const char *(*variable)(void *arg, const char *name); /* an environment variable; NULL: not set */
    const char *host_name;
    void *arg;
} psd_surroundings_t;

typedef struct psd_rendezvous {
    const char *source;      /* "--join", "PSD_JOIN", "Slurm", ... or "none": this is server 0, and others are given its address */
    const char *rank_source; /* "server.index", "SLURM_PROCID", ...; NULL: not given */
    bool is_first;           /* this is server 0 */
    int index;               /* of a server; -1: the coordinator assigns one */
    int worker;              /* place among the workers, from 0; -1: the coordinator assigns one */
    int join_timeout_ms;     /* how long to try, as in psd/worker.h: -1 without a limit */
    char join[PSD_RENDEZVOUS_TEXT];      /* address of server 0; "": taken from `file`, or this is server 0 */
    char file[1024];                     /* cluster.file; "": none. Server 0 writes it, others read it if `join` is "" */
    char listen[PSD_RENDEZVOUS_TEXT];    /* of a server: its endpoint, ... */
    char advertise[PSD_RENDEZVOUS_TEXT]; /* HOST or HOST:PORT that others use; "": that of `listen`, or of the route */
    char status[PSD_RENDEZVOUS_TEXT];    /* and status.listen */
} psd_rendezvous_t;

/* Find out, for PSD_PROGRAM_SERVER or PSD_PROGRAM_WORKER. PSD_ECONFIG when a source is malformed, contradicts the options or does
 * not determine this process's number; PSD_EUSAGE when a worker has no source. */
int psd_rendezvous_find(psd_rendezvous_t *out, psd_program_t program, const psd_options_t *options,
                        const psd_surroundings_t *around, psd_err_t *err);

/* The same for this process, with a line in the log about the result. */
int psd_rendezvous_find_own(psd_rendezvous_t *out, psd_program_t program, const psd_options_t *options, psd_err_t *err);
