#include "worker/caller.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/logtext.h"
#include "proto/actions.h"
#include "proto/message.h"
#include "worker/environment.h"

enum { DEFAULT_PATIENCE_MS = 60000 };

/* Programs built against an earlier header pass a shorter configuration; one from before there were keys runs without keys, as it
 * did then. A longer one may ask for features that this library does not know. */
static psd_worker_config_t whole_config(const psd_worker_config_t *given)
{
    psd_worker_config_t config = { .insecure = 1 };
    if (given && given->size >= offsetof(psd_worker_config_t, key) && given->size <= sizeof config)
        memcpy(&config, given, given->size);
    return config;
}

static bool is_set(const char *text) { return text && *text; }

static int check_texts(const psd_caller_t *self, psd_err_t *err)
{
    if (strlen(self->join) >= PSD_ENDPOINT_TEXT)
        return psd_err_set(err, PSD_EINVAL, "`join` is longer than %d bytes", PSD_ENDPOINT_TEXT - 1);
    if (!self->job[0] || strchr(self->job, ' ') || strlen(self->job) >= PSD_MAX_NAME)
        return psd_err_set(err, PSD_EINVAL, "job \"%.60s\" is not the name of a job: it is one word of at most %d bytes", self->job,
                           PSD_MAX_NAME - 1);
    if (self->wanted > PSD_MAX_WORKERS)
        return psd_err_set(err, PSD_EINVAL, "worker %u is too high: workers count from 0 to %d", self->wanted - 1,
                           PSD_MAX_WORKERS - 1);
    if (!psd_logtext_is_plain(self->name, strlen(self->name)) || strlen(self->name) >= PSD_MAX_NAME)
        return psd_err_set(err, PSD_EINVAL,
                           "\"%.60s\" cannot be a worker's name: it is one word of at most %d bytes, "
                           "without quotes, = or backslash",
                           self->name, PSD_MAX_NAME - 1);
    if (strlen(self->recipe) >= PSD_MAX_RECIPE)
        return psd_err_set(err, PSD_EINVAL, "`recipe` has %zu bytes, at most %d fit", strlen(self->recipe), PSD_MAX_RECIPE - 1);
    return PSD_OK;
}

static int copy(psd_caller_t *self, const psd_worker_config_t *config, psd_err_t *err)
{
    char host[64] = "host", name[96];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%s:%d", host, (int)getpid());
    const bool by_file = !is_set(config->join);
    if (!config->size || (by_file && !is_set(config->cluster_file)))
        return psd_err_set(err, PSD_EINVAL,
                           "the configuration needs `size`, at most %zu bytes here, and `join`, `cluster_file` or an environment "
                           "that names server 0",
                           sizeof *config);
    if (config->net_threads < 0 || config->net_threads > 16)
        return psd_err_set(err, PSD_EINVAL, "`net_threads` is %d; it takes 0 to 16", config->net_threads);
    self->join = strdup(by_file ? "" : config->join);
    self->file = by_file ? strdup(config->cluster_file) : NULL;
    self->job = strdup(config->job ? config->job : "psd");
    self->name = strdup(config->name ? config->name : name);
    self->recipe = strdup(config->recipe ? config->recipe : "");
    if (!self->join || (by_file && !self->file) || !self->job || !self->name || !self->recipe)
        return psd_err_set(err, PSD_ENOMEM, "out of memory");
    self->trusts_file = by_file && !is_set(config->server_public);
    self->rows = config->rows;
    self->wanted = config->worker > 0 ? (uint32_t)config->worker : 0;
    self->patience_ms = psd_caller_patience_ms(config->join_timeout_ms);
    self->log = config->log;
    self->log_arg = config->log_arg;
    self->interrupted = config->interrupted;
    self->interrupted_arg = config->interrupted_arg;
    return check_texts(self, err);
}

static int open_net(psd_caller_t *self, const psd_worker_config_t *config, psd_err_t *err)
{
    psd_keys_t keys;
    const psd_keys_source_t source = {
        .secret = config->key, .server = config->server_public, .insecure = config->insecure, .server_later = self->trusts_file
    };
    int rc = psd_keys_load(&keys, &source, err);
    if (rc == PSD_OK && !keys.insecure && !self->trusts_file && !strcmp(keys.public, keys.server))
        rc = psd_err_set(err, PSD_ECONFIG, "the worker's key is the servers' key: give it another, made by psdctl keygen NAME");
    if (rc == PSD_OK && !(self->net = psd_net_new(&keys, err)))
        rc = err->code;
    psd_keys_wipe(&keys);
    if (rc == PSD_OK && config->net_threads > 1)
        psd_net_use_threads(self->net, config->net_threads);
    return rc;
}

int psd_caller_read(psd_caller_t *out, const psd_worker_config_t *given, psd_err_t *err)
{
    psd_worker_config_t config = whole_config(given);
    psd_environment_t *environment = NULL;
    *out = (psd_caller_t){ .net = NULL };
    int rc = PSD_OK;
    if (config.size && !is_set(config.join) && !is_set(config.cluster_file))
        rc = psd_environment_fill(&config, &environment, err);
    rc = rc ? rc : copy(out, &config, err);
    rc = rc ? rc : open_net(out, &config, err);
    psd_environment_destroy(&environment);
    return rc;
}

psd_uplink_t *psd_caller_uplink(const psd_caller_t *self, const psd_uplink_config_t *calls, void *arg, psd_err_t *err)
{
    psd_uplink_config_t config = *calls;
    config.net = self->net;
    config.job = self->job;
    config.join = self->join;
    config.file = self->file;
    config.trusts_file = self->trusts_file;
    config.timeout_ms = self->patience_ms;
    config.peer = PSD_PEER_SERVER;
    config.arg = arg;
    return psd_uplink_new(&config, err);
}

void psd_caller_clear(psd_caller_t *self)
{
    psd_net_destroy(&self->net);
    free(self->join);
    free(self->file);
    free(self->job);
    free(self->name);
    free(self->recipe);
    *self = (psd_caller_t){ .net = NULL };
}

uint64_t psd_caller_patience_ms(int join_timeout_ms)
{
    return join_timeout_ms > 0 ? (uint64_t)join_timeout_ms : join_timeout_ms < 0 ? 0 : DEFAULT_PATIENCE_MS;
}
