/* acl.h - access control: the current allow-list (common/net/allow.h) decides which users may connect, and what each may send. The
 * rest of the server knows users by numbers (common/base/peer.h); a name keeps its number for the life of this process.
 * Loop's thread. */
#pragma once

#include "common/net/allow.h"
#include "proto/actions.h"

typedef struct psd_acl psd_acl_t;

/* Read the list at `path`. NULL, with `err` set as by psd_allow_load. */
psd_acl_t *psd_acl_new(const char *path, psd_err_t *err);
void psd_acl_destroy(psd_acl_t **self_p);

/* A psd_admit_fn over a psd_acl_t. */
uint32_t psd_acl_admit(void *self, const uint8_t key[PSD_KEY_BYTES]);

/* Read the list again when its file has changed, or when `asked` to. A list with errors is logged, and the previous one stays in
 * force. True when a user who was admitted has been removed or has another role: then close all connections, because ZeroMQ cannot
 * close a single one; users on the list reconnect. */
bool psd_acl_reload(psd_acl_t *self, bool asked);

/* Whether the user of `from` may send this kind to server `shard`, which holds `held` bytes of the user's messages now.
 * PSD_REFUSAL_NONE: yes; otherwise the reason, with a sentence in `why`. */
psd_refusal_t psd_acl_judge(const psd_acl_t *self, psd_peer_t from, psd_kind_t kind, uint32_t shard, uint64_t held, char *why,
                            size_t n);

/* Check that the list accepts this server's own key as a server's. PSD_ECONFIG, with a sentence, when the list gives the key
 * another role, or when it does not contain the key although other servers must accept it. */
int psd_acl_own(const psd_acl_t *self, const char public[PSD_KEY_TEXT], bool has_others, psd_err_t *err);

/* The number of connections refused so far. */
uint64_t psd_acl_denied(const psd_acl_t *self);
