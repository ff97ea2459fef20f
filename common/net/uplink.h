/* uplink.h - a process's link to server 0 of its job: its address, the connection, and the reason for its silence.
 *
 * Server 0's address is fixed, or cluster.file holds it. The file may be left over from an earlier run, so the link reads it again
 * while server 0 is silent, or refuses this process, and moves when the file names another server. ZeroMQ abandons a connection
 * after a damaged frame, so a silent link also reconnects. While no server answers, a probe finds out why (common/net/probe.h).
 *
 * Time is an argument. Loop's thread; psd_uplink_new may run before there is one. No callback may close the link. */
#pragma once

#include "common/net/transport.h"
#include "common/system/log.h"

enum {
    PSD_UPLINK_REREAD_MS = 500, /* of silence, and between two reads of cluster.file */
    PSD_UPLINK_DOUBT_MS = 5000, /* how long a refusal at cluster.file's address may be from a wrong server */
    PSD_UPLINK_DEAF_MS = 5000   /* of silence, before it reconnects; answers come far more often */
};

typedef struct psd_uplink psd_uplink_t;

typedef struct psd_uplink_config {
    psd_net_t *net;
    const char *job;     /* its name; copied */
    const char *join;    /* server 0's address, tcp://HOST:PORT; copied. "": taken from `file` */
    const char *file;    /* cluster.file, read when `join` is ""; copied */
    bool trusts_file;    /* take the servers' public key from the file too */
    uint64_t timeout_ms; /* how long to wait for the file; 0: no limit */
    uint64_t peer;       /* the number that server 0's messages come from */
    psd_on_message_fn *on_message;
    psd_on_bad_fn *on_bad;
    void (*on_denied)(void *arg, const char *why);     /* server 0 refuses this key, or has no keys */
    void (*on_moved)(void *arg);                       /* the file names another server, which the link connects to next */
    bool (*on_waiting)(void *arg, const char *reason); /* while psd_uplink_new waits: as `waits` of psd_clusterfile_await */
    void (*log)(void *arg, psd_log_level_t level, const char *id, const char *line);
    void *arg;
} psd_uplink_config_t;

/* Find server 0's address: at once if it is fixed, otherwise when the file exists. NULL, with `err` set: PSD_ENOMEM, PSD_ETIMEOUT,
 * PSD_ESTOPPED, and the errors of psd_clusterfile_read. */
psd_uplink_t *psd_uplink_new(const psd_uplink_config_t *config, psd_err_t *err);

/* Connect; call it once, before all the functions below. PSD_ECONFIG when the address cannot be used. */
int psd_uplink_connect(psd_uplink_t *self, uv_loop_t *loop, psd_err_t *err);

/* Close the connection; messages just sent get `linger_ms` to leave. The loop must run once more. Sets `*self_p` to NULL; NULL is
 * fine. */
void psd_uplink_close(psd_uplink_t **self_p, int linger_ms);

/* Time passes; call it every 50 ms. `asks`: server 0 owes this process an answer, so that its silence counts. An error means that
 * no new connection could be made, with the reason; the link does not change. */
int psd_uplink_tick(psd_uplink_t *self, uint64_t now_ms, bool asks, psd_err_t *err);

/* As psd_socket_send. */
int psd_uplink_send(psd_uplink_t *self, const void *header, size_t n_header, psd_buf_t *payload);

/* Server 0 refuses this process with `code`. True: cluster.file gave its address, so the refusal is not final until
 * psd_uplink_refusal says so. False: it is final. */
bool psd_uplink_doubts(psd_uplink_t *self, uint64_t now_ms, int code, const char *why);

/* The first refusal, once it is PSD_UPLINK_DOUBT_MS old and the file still names that server; NULL otherwise. */
const psd_err_t *psd_uplink_refusal(const psd_uplink_t *self, uint64_t now_ms);

/* Why there is no connection, as one clause; "" when unknown. While server 0 is silent this probes its address, so call it from
 * time to time while an answer is missing. Valid until the loop runs. */
const char *psd_uplink_trouble(psd_uplink_t *self, uint64_t now_ms);

/* Whether the host name of server 0 cannot be resolved. */
bool psd_uplink_is_unresolved(const psd_uplink_t *self);

/* The address of server 0; lives as long as the link, and changes before on_moved. */
const char *psd_uplink_address(const psd_uplink_t *self);
