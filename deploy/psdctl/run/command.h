/* command.h - the command lines of psdctl run's children, and of psdctl compare's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/config/options.h"

enum { PSD_COMMAND_WORDS = 160 };

/* A command line being made; strings are owned. */
typedef struct psd_command {
    char *word[PSD_COMMAND_WORDS + 1]; /* NULL after the last */
    size_t n;
} psd_command_t;

/* What the options do not say. Strings are borrowed. */
typedef struct psd_command_facts {
    const psd_options_t *options;
    const char *bin;           /* directory of the programs; NULL: of an agent, which knows where they are */
    const char *address;       /* under which others reach the host; NULL: everything is on this one */
    const char *run_dir;       /* of the run */
    const char *join;          /* where server 0 takes messages */
    const char *server_public; /* the servers' public key; "": there are no keys, and nobody else is on this machine */
    unsigned index;            /* server from 0, worker from 0 */
    unsigned n_servers, n_workers;
    unsigned least;            /* workers with which training goes on */
    const char *data, *status; /* addresses that this server has announced before; "" or NULL: none yet */
    bool short_progress;       /* a line that is redrawn may be redrawn often */
} psd_command_facts_t;

void psd_command_server(psd_command_t *self, const psd_command_facts_t *facts);
void psd_command_worker(psd_command_t *self, const psd_command_facts_t *facts);

/* The remote shell that calls the agent on a host; `bin` is the directory of the programs there. */
void psd_command_shell(psd_command_t *self, const char *shell, const char *host, const char *bin);

/* A run of psdctl compare, of which the options say the rest. Strings are borrowed. */
typedef struct psd_command_run {
    const psd_options_t *options;
    const char *psdctl; /* this program */
    const char *run_dir, *rule;
    uint64_t seed;
    unsigned n_workers;
    double validation;   /* share of the training rows to hold out */
    bool short_progress; /* as above */
} psd_command_run_t;

void psd_command_run(psd_command_t *self, const psd_command_run_t *run);

void psd_command_clear(psd_command_t *self);
