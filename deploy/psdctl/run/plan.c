#include "deploy/psdctl/run/plan.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool is_given(const psd_options_t *options, psd_option_id_t id)
{
    return strcmp(psd_options_origin(options, id), "default") != 0;
}

/* ---- numbers ---- */

static void count_by_options(psd_plan_t *self, const psd_options_t *options)
{
    const int64_t least = psd_options_int(options, PSD_OPT_workers_min), want = psd_options_int(options, PSD_OPT_workers_want);
    self->n_servers = (unsigned)psd_options_int(options, PSD_OPT_servers);
    self->n_workers = (unsigned)(want > least ? want : least);
    self->least = (unsigned)least;
}

static int contradicts(const psd_options_t *options, unsigned by_hosts, psd_option_id_t id, psd_err_t *err)
{
    return psd_err_set(err, PSD_ECONFIG, "%s has %u %s in all, and %s (%s) is %s; change one of them",
                       psd_options_string(options, PSD_OPT_hostfile), by_hosts, id == PSD_OPT_servers ? "servers" : "workers",
                       psd_option_at(id)->key, psd_options_origin(options, id), psd_options_text(options, id));
}

/* The hostfile's numbers override the job's, if the job allows them. */
static int count_by_hosts(psd_plan_t *self, const psd_options_t *options, psd_err_t *err)
{
    const psd_hosts_t *hosts = &self->hosts;
    if (hosts->tells_servers && is_given(options, PSD_OPT_servers) && hosts->servers != self->n_servers)
        return contradicts(options, hosts->servers, PSD_OPT_servers, err);
    if (hosts->tells_workers && psd_options_int(options, PSD_OPT_workers_want) && hosts->workers != self->n_workers)
        return contradicts(options, hosts->workers, PSD_OPT_workers_want, err);
    if (hosts->tells_workers && hosts->workers < self->least)
        return contradicts(options, hosts->workers, PSD_OPT_workers_min, err);
    if (hosts->tells_servers)
        self->n_servers = hosts->servers;
    if (hosts->tells_workers)
        self->n_workers = hosts->workers;
    if (!is_given(options, PSD_OPT_workers_min))
        self->least = self->n_workers;
    return PSD_OK;
}

/* ---- places ---- */

static int find_hosts(psd_plan_t *self, const psd_options_t *options, psd_err_t *err)
{
    const char *bin = psd_options_string(options, PSD_OPT_remote_bin), *hostfile = psd_options_string(options, PSD_OPT_hostfile);
    self->far_bin = *bin ? bin : self->place.bin;
    if (!*hostfile)
        return psd_err_set(err, PSD_EUSAGE,
                           "psdctl launch needs a list of machines: give --hostfile FILE; psdctl run trains on this one");
    if (strchr(self->far_bin, '\''))
        return psd_err_set(err, PSD_ECONFIG, "remote.bin is %s; it takes a directory without '", self->far_bin);
    if (!getcwd(self->here, sizeof self->here))
        return psd_err_set(err, PSD_ESYSTEM, "the working directory does not exist: %s", strerror(errno));
    int rc = psd_hosts_load(&self->hosts, hostfile, err);
    rc = rc ? rc : count_by_hosts(self, options, err);
    if (rc == PSD_OK)
        psd_hosts_deal(&self->hosts, self->n_servers, self->n_workers);
    return rc;
}

/* Without keys, all children accept any process on this machine; if only some keys are given, the missing ones are an error here.
 * Between machines there are always keys. */
static int find_keys(psd_plan_t *self, const psd_options_t *options, psd_err_t *err)
{
    int rc = psd_keyring_load(&self->keyring, options, err);
    if (rc != PSD_OK || !self->hosts.n || *self->keyring.server_public)
        return rc;
    psd_keys_guard_process();
    return psd_keyring_draw(&self->keyring, self->directory, err);
}

int psd_plan_make(psd_plan_t *out, const psd_options_t *options, bool is_far, psd_err_t *err)
{
    char logs[PATH_MAX];
    *out = (psd_plan_t){ .n_servers = 0 };
    count_by_options(out, options);
    psd_place_choose(options, "", out->directory);
    snprintf(logs, sizeof logs, "%s/logs", out->directory);
    int rc = psd_place_find(&out->place, err);
    rc = rc || !is_far ? rc : find_hosts(out, options, err);
    rc = rc ? rc : psd_place_make(logs, err);
    return rc ? rc : find_keys(out, options, err);
}

void psd_plan_clear(psd_plan_t *self)
{
    psd_hosts_clear(&self->hosts);
    psd_keyring_wipe(&self->keyring);
}
