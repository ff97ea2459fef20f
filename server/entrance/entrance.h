/* entrance.h - where workers, operators and other servers come in: the socket, and the limits on which of them and how many may use
 * it. The allow-list says who may connect (acl.h); a bound on memory (memory_guard.h) and one on descriptors (descriptors.h) keep
 * peers from taking the machine. ZeroMQ cannot close one connection, so to remove one peer all connections are closed and the
 * socket is bound again; the others reconnect, as after a network failure.
 *
 * With an allow-list no message is accepted until a connection with an unknown key has been seen to be refused. Loop's thread.
 * The callbacks must not call tick, reload or close, which close sockets. */
#pragma once

#include "common/memory/arena.h"
#include "common/net/transport.h"
#include "proto/actions.h"
#include "server/entrance/intake.h"

typedef struct psd_entrance psd_entrance_t;

typedef struct psd_entrance_config {
    psd_net_t *net;
    uv_loop_t *loop;
    const char *listen;  /* endpoint to bind; copied */
    const char *allow;   /* path of the allow-list; copied; "": any process on this machine may connect (--insecure) */
    bool has_peers;      /* the job has other servers, which have to let this one in */
    uint64_t memory_max; /* resident bytes at which all connections are closed; 0: no bound */
    psd_arena_t *arena;  /* holds the buffers that workers on this machine may read; borrowed; NULL: sockets only */
    psd_on_message_fn *on_message;
    psd_on_term_fn *on_term; /* intake.h; NULL: each gradient is taken in by itself */
    psd_on_bad_fn *on_bad;
    void *arg;
} psd_entrance_config_t;

/* Read the list and bind. NULL, with `err` set: as psd_acl_new, psd_acl_own and psd_socket_bind. */
psd_entrance_t *psd_entrance_new(const psd_entrance_config_t *config, psd_err_t *err);

/* Stop listening; messages just sent get `linger_ms` to leave. The loop must run once more before the net is destroyed. Sets
 * `*self_p` to NULL; NULL is fine. */
void psd_entrance_close(psd_entrance_t **self_p, int linger_ms);

/* Time passes; call every 50 ms. An error ends the server: PSD_EAUTH when a stranger's key is accepted, or when its refusal cannot
 * be confirmed; PSD_EIO when the address cannot be bound again. */
int psd_entrance_tick(psd_entrance_t *self, uint64_t now_ms, psd_err_t *err);

/* Read the allow-list again, changed or not. */
void psd_entrance_reload(psd_entrance_t *self);

/* The true endpoint; lives as long as the entrance. */
const char *psd_entrance_endpoint(const psd_entrance_t *self);

/* Whether messages are let in yet. */
bool psd_entrance_is_open(const psd_entrance_t *self);

/* As psd_acl_judge: whether the user of `from` may send `kind` to server `shard`. */
psd_refusal_t psd_entrance_judge(const psd_entrance_t *self, psd_peer_t from, psd_kind_t kind, uint32_t shard, char *why, size_t n);

/* The data that a worker that has just attached needs to be served through memory, if it runs on this machine; false when it has a
 * link already, or when memory is off. */
bool psd_entrance_offer(psd_entrance_t *self, psd_peer_t to, psd_offer_t *out);

/* Links through memory that are up. */
uint64_t psd_entrance_links(const psd_entrance_t *self);

/* Whether a message to a peer, if it `is_data`, goes through memory. */
bool psd_entrance_has_link(const psd_entrance_t *self, psd_peer_t to, bool is_data);

/* As psd_socket_send, but through memory if `is_data` and the peer has a link; also PSD_EAGAIN while the socket is being bound
 * again. */
int psd_entrance_send(psd_entrance_t *self, psd_peer_t to, bool is_data, const void *header, size_t n_header, psd_buf_t *payload);

/* Connections refused so far, a few seconds late. Logs how many more there are, at most every 10 s; call a few times a
 * second. */
uint64_t psd_entrance_refused(psd_entrance_t *self, uint64_t now_ms);
