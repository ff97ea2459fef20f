/* plan.h - the decisions before a job's first child is started: the number of children, their hosts, programs, keys and
 * directories. */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "common/config/options.h"
#include "deploy/psdctl/run/hosts.h"
#include "deploy/psdctl/run/keyring.h"
#include "deploy/psdctl/run/place.h"

typedef struct psd_plan {
    unsigned n_servers, n_workers;
    unsigned least;                      /* smallest number of workers with which training continues */
    psd_hosts_t hosts;                   /* empty: all is on this machine */
    char directory[PSD_PLACE_DIRECTORY]; /* of the run */
    char here[PATH_MAX];                 /* the working directory, which must also exist on the hosts */
    psd_place_t place;
    const char *far_bin; /* directory of the programs on the hosts */
    psd_keyring_t keyring;
} psd_plan_t;

/* Make the plan from the options, which must outlive it: for this machine, or, `is_far`, for the hosts of `hostfile`. Makes the
 * run's directory with logs/ in it. PSD_EUSAGE, PSD_ECONFIG, PSD_ENOINPUT, PSD_EIO, PSD_ESYSTEM. */
int psd_plan_make(psd_plan_t *out, const psd_options_t *options, bool is_far, psd_err_t *err);

/* Clear it, and wipe its secrets. */
void psd_plan_clear(psd_plan_t *self);
