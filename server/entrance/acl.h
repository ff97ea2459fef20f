/* acl.h - access control: who may come in, and what each may say, by the allow-list (common/net/allow.h) as it is now. Users are
 * known to the rest by numbers (common/base/peer.h), a name having one number for as long as this process lives.
 * Loop's thread. */
#pragma once

#include "common/net/allow.h"
#include "proto/actions.h"

typedef struct psd_acl psd_acl_t;

/* Read the list at `path`. NULL with what psd_allow_load says. */
psd_acl_t *psd_acl_new(const char *path, psd_err_t *err);
void psd_acl_destroy(psd_acl_t **self_p);

/* A psd_admit_fn over a psd_acl_t. */
uint32_t psd_acl_admit(void *self, const uint8_t key[PSD_KEY_BYTES]);

/* Read the list again when its file has changed, or when `asked` to; one that is wrong is named in the log,
 * and the one before stays. True when somebody who was let in may no longer be here, or only as something
 * else: the connections are to be closed, all of them, for ZeroMQ closes none alone; they are made anew by
 * whoever may. */
bool psd_acl_reload(psd_acl_t *self, bool asked);

/* Whether the user of `from` may send this kind to server `shard`, while that holds `held` bytes of the
 * user's messages. PSD_REFUSAL_NONE: yes; else why not, with a sentence in `why`. */
psd_refusal_t psd_acl_judge(const psd_acl_t *self, psd_peer_t from, psd_kind_t kind, uint32_t shard, uint64_t held, char *why,
                            size_t n);

/* Whether the list lets this server's own key be a server's. PSD_ECONFIG, with a sentence, when it names the key for
 * another role, or, where there are other servers that have to let it in, not at all. */
int psd_acl_own(const psd_acl_t *self, const char public[PSD_KEY_TEXT], bool has_others, psd_err_t *err);

/* Connections that were refused so far. */
uint64_t psd_acl_denied(const psd_acl_t *self);
