/* command.h - the command lines of psdctl run's children, and of psdctl compare's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/config/options.h"

enum { PSD_COMMAND_WORDS = 320, PSD_COMMAND_OWN = 128 /* words of the user's program, at most */ };

/* A command line being made; strings are owned. */
typedef struct psd_command {
    char *word[PSD_COMMAND_WORDS + 1]; /* NULL after the last */
    size_t n;
} psd_command_t;

/* Settings that are not in the options. Strings are borrowed. */
typedef struct psd_command_facts {
    const psd_options_t *options;
    const char *bin;           /* directory of the programs; NULL: for an agent, which knows it */
    const char *address;       /* address under which others reach the host; NULL: all processes are on this machine */
    const char *run_dir;       /* of the run */
    const char *join;          /* address of server 0 */
    const char *server_public; /* the servers' public key; "": no keys, and only this machine */
    unsigned index;            /* index of the server or worker, from 0 */
    unsigned n_servers, n_workers;
    unsigned least;            /* smallest number of workers with which training continues */
    const char *data, *status; /* addresses that this server has announced earlier; "" or NULL: none yet */
    bool short_progress;       /* the progress line is redrawn in place, so it may be updated often */
    char *const *program;      /* the user's program, with arguments, that runs instead of psd-worker; NULL: none */
} psd_command_facts_t;

/* In an order of psdctl launch, the word before those of the user's program; before it come variables of its environment. */
#define PSD_COMMAND_OF_USER "--"

void psd_command_server(psd_command_t *self, const psd_command_facts_t *facts);
void psd_command_worker(psd_command_t *self, const psd_command_facts_t *facts);

/* The remote shell that calls the agent on a host; `bin` is the directory of the programs there. */
void psd_command_shell(psd_command_t *self, const char *shell, const char *host, const char *bin);

/* A run of psdctl compare; the rest is in the options. Strings are borrowed. */
typedef struct psd_command_run {
    const psd_options_t *options;
    const char *psdctl; /* this program */
    const char *run_dir, *rule;
    uint64_t seed;
    unsigned n_workers;
    double validation;                    /* fraction of the training rows to hold out */
    double share;                         /* fraction of the job's steps and epochs that it trains for */
    const char *schedule, *schedule_unit; /* of a range test, which records every step; NULL: the job's */
    bool short_progress;                  /* as above */
} psd_command_run_t;

void psd_command_run(psd_command_t *self, const psd_command_run_t *run);

void psd_command_clear(psd_command_t *self);
