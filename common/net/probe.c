#include "common/net/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/net/address.h"
#include "common/net/route.h"

enum {
    SILENT_MS = 2000, /* before the first probe */
    AGAIN_MS = 5000,
    ANSWER_MS = 2000 /* for a connection to be made or refused */
};

struct psd_probe {
    uv_loop_t *loop;
    uv_getaddrinfo_t resolve;
    uv_tcp_t tcp;
    uv_connect_t connect;
    enum { REST, RESOLVING, CONNECTING, CLOSING } state;
    bool dropped; /* free it when no request is in progress */
    bool unknown;
    uint64_t begun_ms; /* when it probed last, by the loop's clock; 0: never */
    char host[256], port[8];
    char text[400];
};

psd_probe_t *psd_probe_new(uv_loop_t *loop)
{
    psd_probe_t *self = calloc(1, sizeof *self);
    if (self)
        self->loop = loop;
    return self;
}

static void rest(psd_probe_t *self)
{
    self->state = REST;
    if (self->dropped)
        free(self);
}

static void on_closed(uv_handle_t *handle) { rest(handle->data); }

static void close_connection(psd_probe_t *self)
{
    self->state = CLOSING;
    uv_close((uv_handle_t *)&self->tcp, on_closed);
}

static void on_connected(uv_connect_t *request, int status)
{
    psd_probe_t *self = request->data;
    if (self->state != CONNECTING)
        return;
    char at[sizeof self->host + sizeof self->port + 3];
    psd_address_join(at, sizeof at, self->host, self->port);
    self->text[0] = '\0';
    if (status)
        snprintf(self->text, sizeof self->text, "no process listens at %s: %s", at, uv_strerror(status));
    close_connection(self);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    psd_probe_t *self = request->data;
    self->unknown = status && status != UV_ECANCELED;
    if (status)
        snprintf(self->text, sizeof self->text, "the host name %s cannot be resolved: %s", self->host, uv_strerror(status));
    if (status || self->dropped) {
        uv_freeaddrinfo(found);
        rest(self);
        return;
    }
    uv_tcp_init(self->loop, &self->tcp);
    self->tcp.data = self->connect.data = self;
    self->state = CONNECTING;
    const struct addrinfo *best = psd_address_choose(found);
    int rc = best ? uv_tcp_connect(&self->connect, &self->tcp, best->ai_addr, on_connected) : UV_EAI_FAMILY;
    uv_freeaddrinfo(found);
    if (rc)
        on_connected(&self->connect, rc);
}

static void ask(psd_probe_t *self, const char *endpoint)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    psd_endpoint_host(endpoint, self->host, sizeof self->host);
    if (!*self->host) /* a path, not a host */
        return;
    snprintf(self->port, sizeof self->port, "%s", strrchr(endpoint, ':') + 1);
    self->begun_ms = uv_now(self->loop);
    self->resolve.data = self;
    if (!uv_getaddrinfo(self->loop, &self->resolve, on_resolved, self->host, self->port, &hints))
        self->state = RESOLVING;
}

void psd_probe_look(psd_probe_t *self, const char *endpoint, uint64_t silent_ms)
{
    if (!self)
        return;
    const uint64_t asked_ms = uv_now(self->loop) - self->begun_ms;
    if (self->state == REST && silent_ms >= SILENT_MS && (!self->begun_ms || asked_ms >= AGAIN_MS)) {
        ask(self, endpoint);
    } else if (self->state == CONNECTING && asked_ms >= ANSWER_MS) {
        snprintf(self->text, sizeof self->text,
                 "no answer from %s:%s, not even a refusal: check that the host is up and that no firewall blocks the port",
                 self->host, self->port);
        close_connection(self);
    }
}

const char *psd_probe_text(const psd_probe_t *self) { return self ? self->text : ""; }
bool psd_probe_is_unknown(const psd_probe_t *self) { return self && self->unknown; }

void psd_probe_forget(psd_probe_t *self)
{
    if (!self)
        return;
    self->text[0] = '\0';
    self->unknown = false;
}

void psd_probe_close(psd_probe_t **self_p)
{
    psd_probe_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    self->dropped = true;
    if (self->state == REST)
        free(self);
    else if (self->state == RESOLVING)
        uv_cancel((uv_req_t *)&self->resolve);
    else if (self->state == CONNECTING)
        close_connection(self);
}
