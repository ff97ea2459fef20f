#include "common/net/uplink.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/absence.h"
#include "common/base/logtext.h"
#include "common/net/clusterfile.h"
#include "common/net/probe.h"

struct psd_uplink {
    psd_uplink_config_t config; /* its texts are below */
    uv_loop_t *loop;
    psd_socket_t *socket;
    psd_probe_t *probe; /* why no server answers */
    char address[PSD_ENDPOINT_TEXT];
    char *job, *file;        /* file "": the address is fixed */
    psd_clusterfile_t found; /* the file's contents at the last read */
    bool heard;              /* the file has moved the link since the last tick */
    uint64_t heard_ms;       /* when server 0 last sent something, or owed no answer */
    uint64_t seen_ms;        /* when the last tick was, to notice suspensions */
    uint64_t read_ms;        /* when the file was last read */
    uint64_t refused_ms;     /* when the first refusal came that may be from a wrong server; 0: none */
    psd_err_t refusal;
    char trouble[400]; /* with the connection; "" when there is none */
};

static void say(psd_uplink_t *self, psd_log_level_t level, const char *id, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void say(psd_uplink_t *self, psd_log_level_t level, const char *id, const char *format, ...)
{
    char line[1400];
    va_list args;
    va_start(args, format);
    psd_logtext_compose(line, sizeof line, format, args);
    va_end(args);
    self->config.log(self->config.arg, level, id, line);
}

/* ---- the connection ---- */

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    psd_uplink_t *self = arg;
    self->heard = true;
    psd_probe_forget(self->probe);
    self->config.on_message(self->config.arg, peer, header, n_header, payload);
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    psd_uplink_t *self = arg;
    self->config.on_bad(self->config.arg, peer, why);
}

/* A broken handshake may mean a server that is starting, so keep trying; a denied key stays denied. */
static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    psd_uplink_t *self = arg;
    (void)peer;
    self->trouble[0] = '\0';
    if (link == PSD_LINK_UP)
        return;
    psd_link_describe(self->config.net, link, self->address, self->trouble, sizeof self->trouble);
    if (link != PSD_LINK_BROKEN)
        self->config.on_denied(self->config.arg, self->trouble);
}

/* Open a connection, replacing the present one. */
static int reconnect(psd_uplink_t *self, psd_err_t *err)
{
    const psd_socket_handler_t handler = { on_message, on_bad, on_link, self };
    psd_socket_t *socket = psd_socket_connect(self->config.net, self->loop, self->address, self->config.peer, &handler, err);
    if (!socket)
        return err->code;
    psd_socket_close(&self->socket, 0);
    self->socket = socket;
    self->heard = true; /* a new connection gets the full time to answer */
    return PSD_OK;
}

int psd_uplink_connect(psd_uplink_t *self, uv_loop_t *loop, psd_err_t *err)
{
    self->loop = loop;
    self->probe = psd_probe_new(loop);
    return reconnect(self, err);
}

int psd_uplink_send(psd_uplink_t *self, const void *header, size_t n_header, psd_buf_t *payload)
{
    return psd_socket_send(self->socket, self->config.peer, header, n_header, payload);
}

/* ---- the address of server 0 ---- */

static void take(psd_uplink_t *self, const psd_clusterfile_t *found)
{
    self->found = *found;
    snprintf(self->address, sizeof self->address, "%s", found->data);
    if (self->config.trusts_file && *found->server_public)
        psd_net_trust(self->config.net, found->server_public);
}

static int find(psd_uplink_t *self, psd_err_t *err)
{
    psd_clusterfile_t found;
    const uint64_t timeout_ms = self->config.timeout_ms ? self->config.timeout_ms : UINT64_MAX / 2;
    if (!*self->file)
        return PSD_OK;
    int rc = psd_clusterfile_await(&found, self->file, self->job, timeout_ms, self->config.on_waiting, self->config.arg, err);
    if (rc == PSD_OK)
        take(self, &found);
    return rc;
}

psd_uplink_t *psd_uplink_new(const psd_uplink_config_t *config, psd_err_t *err)
{
    psd_uplink_t *self = calloc(1, sizeof *self);
    int rc = PSD_OK;
    if (self) {
        self->config = *config;
        snprintf(self->address, sizeof self->address, "%s", config->join);
        self->job = strdup(config->job);
        self->file = strdup(*config->join ? "" : config->file);
    }
    if (!self || !self->job || !self->file)
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the link to server 0");
    if (rc != PSD_OK || find(self, err) != PSD_OK)
        psd_uplink_close(&self, 0);
    return self;
}

void psd_uplink_close(psd_uplink_t **self_p, int linger_ms)
{
    psd_uplink_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    psd_socket_close(&self->socket, linger_ms);
    psd_probe_close(&self->probe);
    free(self->job);
    free(self->file);
    free(self);
}

/* ---- silence and refusals ---- */

static bool is_elsewhere(psd_uplink_t *self, psd_clusterfile_t *news)
{
    return psd_clusterfile_read(news, self->file, self->job, NULL) == PSD_OK && !psd_clusterfile_is_same(news, &self->found);
}

static int move(psd_uplink_t *self, const psd_clusterfile_t *news, psd_err_t *err)
{
    take(self, news);
    self->refused_ms = 0;
    self->trouble[0] = '\0';
    self->config.on_moved(self->config.arg);
    say(self, PSD_LOG_INFO, "join.elsewhere", "join=%s file=%.400s", self->address, self->file);
    return reconnect(self, err);
}

int psd_uplink_tick(psd_uplink_t *self, uint64_t now_ms, bool asks, psd_err_t *err)
{
    psd_clusterfile_t news;
    const uint64_t away_ms = psd_absence(&self->seen_ms, now_ms);
    if (away_ms)
        self->heard_ms = psd_absence_excuse(self->heard_ms, away_ms, now_ms);
    if (self->heard || !asks)
        self->heard_ms = now_ms;
    self->heard = false;
    const bool suspects = self->refused_ms || now_ms >= self->heard_ms + PSD_UPLINK_REREAD_MS;
    if (*self->file && suspects && now_ms >= self->read_ms + PSD_UPLINK_REREAD_MS) {
        self->read_ms = now_ms;
        if (is_elsewhere(self, &news))
            return move(self, &news, err);
    }
    return now_ms >= self->heard_ms + PSD_UPLINK_DEAF_MS ? reconnect(self, err) : PSD_OK;
}

bool psd_uplink_doubts(psd_uplink_t *self, uint64_t now_ms, int code, const char *why)
{
    if (!*self->file)
        return false;
    if (self->refused_ms)
        return true;
    self->refused_ms = now_ms;
    psd_err_set(&self->refusal, code, "%s", why);
    if (why != self->trouble)
        snprintf(self->trouble, sizeof self->trouble, "%.300s", why);
    say(self, PSD_LOG_WARN, "join.refused", "at=%s file=%.120s text=\"%.400s\"", self->address, self->file, self->trouble);
    return true;
}

const psd_err_t *psd_uplink_refusal(const psd_uplink_t *self, uint64_t now_ms)
{
    return self->refused_ms && now_ms >= self->refused_ms + PSD_UPLINK_DOUBT_MS ? &self->refusal : NULL;
}

const char *psd_uplink_trouble(psd_uplink_t *self, uint64_t now_ms)
{
    psd_probe_look(self->probe, self->address, now_ms > self->heard_ms ? now_ms - self->heard_ms : 0);
    return self->trouble[0] ? self->trouble : psd_probe_text(self->probe);
}

bool psd_uplink_is_unresolved(const psd_uplink_t *self) { return psd_probe_is_unknown(self->probe); }
const char *psd_uplink_address(const psd_uplink_t *self) { return self->address; }
