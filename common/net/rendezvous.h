/* rendezvous.h - who this process is in its job and where it finds server 0, from its options and from what
 * the launcher (Slurm, mpirun, Kubernetes, ...) has put into the environment.
 *
 * Sources stand in one table each, for places to join and for ranks; the first that has something to say is
 * taken, and what it says wrongly is an error, never a reason to ask the next. Pure: the environment is an
 * argument. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/config/options.h"

enum { PSD_RENDEZVOUS_TEXT = 128 };

/* What a process finds around it. */
typedef struct psd_surroundings {
    const char *(*variable)(void *arg, const char *name); /* of the environment; NULL: not set */
    const char *host_name;
    void *arg;
} psd_surroundings_t;

typedef struct psd_rendezvous {
    const char *source;                  /* "--join", "PSD_JOIN", "Slurm", ... or "none": this is server 0, found by whoever
                           knows where */
    const char *rank_source;             /* "server.index", "SLURM_PROCID", ...; NULL: nobody has said */
    bool is_first;                       /* this is server 0 */
    int index;                           /* of a server; -1: the coordinator says */
    int worker;                          /* place among the workers, from 0; -1: the coordinator says */
    char join[PSD_RENDEZVOUS_TEXT];      /* where server 0 listens; "": `file` says, or nobody joins anybody */
    char file[1024];                     /* cluster.file; "": none. Server 0 writes it, others read it if `join` is "" */
    char listen[PSD_RENDEZVOUS_TEXT];    /* of a server: its endpoint, ... */
    char advertise[PSD_RENDEZVOUS_TEXT]; /* HOST or HOST:PORT that others use; "": that of `listen`, or of the
                                            route, */
    char status[PSD_RENDEZVOUS_TEXT];    /* and status.listen */
} psd_rendezvous_t;

/* Find out, for PSD_PROGRAM_SERVER or PSD_PROGRAM_WORKER. PSD_ECONFIG when a source is malformed, contradicts
 * the options or leaves open who this is; PSD_EUSAGE when a worker is told nothing at all. */
int psd_rendezvous_find(psd_rendezvous_t *out, psd_program_t program, const psd_options_t *options,
                        const psd_surroundings_t *around, psd_err_t *err);

/* The same for this process, and a line of the log that says what came of it. */
int psd_rendezvous_find_own(psd_rendezvous_t *out, psd_program_t program, const psd_options_t *options, psd_err_t *err);
