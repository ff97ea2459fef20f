#include "worker/environment.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/net/rendezvous.h"

struct psd_environment {
    psd_options_t *options;
    psd_rendezvous_t at;
};

static const char *variable(void *arg, const char *name) { return (void)arg, getenv(name); }

/* An option's value, unless the caller has set it already. */
static const char *or_option(const char *known, const psd_environment_t *self, psd_option_id_t id)
{
    const char *text = psd_options_string(self->options, id);
    return known && *known ? known : *text ? text : NULL;
}

static int find(psd_environment_t *self, psd_err_t *err)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    const int rc =
        psd_rendezvous_find(&self->at, PSD_PROGRAM_WORKER, self->options, &(psd_surroundings_t){ variable, host, NULL }, err);
    if (rc != PSD_EUSAGE)
        return rc;
    return psd_err_set(
        err, PSD_ECONFIG,
        "the address of server 0 is missing: give it, set PSD_JOIN to it, or start this program by psdctl run JOB -- "
        "PROGRAM");
}

int psd_environment_fill(psd_worker_config_t *config, psd_environment_t **out, psd_err_t *err)
{
    psd_environment_t *self = *out = calloc(1, sizeof *self);
    if (self)
        self->options = psd_options_new(PSD_PROGRAM_WORKER);
    if (!self || !self->options)
        return psd_err_set(err, PSD_ENOMEM, "out of memory");
    const psd_options_t *o = self->options;
    int rc = psd_options_load_job(self->options, config->job_file, err);
    rc = rc ? rc : find(self, err);
    if (rc)
        return rc;
    config->join = self->at.join;
    config->cluster_file = self->at.file;
    config->job = or_option(config->job, self, PSD_OPT_job);
    config->name = or_option(config->name, self, PSD_OPT_worker_name);
    config->key = or_option(config->key, self, PSD_OPT_worker_key);
    config->server_public = or_option(config->server_public, self, PSD_OPT_server_public);
    config->insecure = config->insecure || psd_options_bool(o, PSD_OPT_insecure);
    if (!config->worker)
        config->worker = self->at.worker + 1;
    if (!config->join_timeout_ms)
        config->join_timeout_ms = self->at.join_timeout_ms;
    if (!config->net_threads)
        config->net_threads = (int)psd_options_int(o, PSD_OPT_net_threads);
    if (config->log) {
        char line[512];
        snprintf(line, sizeof line, "source=%s join=%.250s worker=%d by=%s", self->at.source,
                 *self->at.join ? self->at.join : self->at.file, self->at.worker,
                 self->at.rank_source ? self->at.rank_source : "server-0");
        config->log(config->log_arg, 2, "rendezvous", line);
    }
    return PSD_OK;
}

void psd_environment_destroy(psd_environment_t **self_p)
{
    if (*self_p)
        psd_options_destroy(&(*self_p)->options);
    free(*self_p);
    *self_p = NULL;
}
