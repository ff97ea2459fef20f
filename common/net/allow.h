/* allow.h - the allow-list: the users that may connect to a server, and their roles. A text file, a user per line:
 *
 *   # name  role  public key  [shards  [max_bytes_in_flight]]
 *   ps      server  rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7
 *   gpu-7   worker  Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID   0-1  512Mi
 *
 * Words are separated by blanks; a line whose first character is # is a comment (a key may begin with #, a name may not). Strict:
 * any error refuses the whole file, and the message names the line and the cause. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/server_set.h"
#include "common/net/keys.h"

enum { PSD_USER_NAME = 64, PSD_MAX_ALLOWED = 4096, PSD_MAX_ALLOW_FILE = 1 << 20 };

/* X(NAME, word): server/entrance/acl.c defines what each role may do. */
#define PSD_ROLES(X) X(WORKER, "worker") X(MONITOR, "monitor") X(ADMIN, "admin") X(SERVER, "server") X(READER, "reader")

typedef enum psd_role {
#define X(name, word) PSD_ROLE_##name,
    PSD_ROLES(X)
#undef X
} psd_role_t;

typedef struct psd_user {
    char name[PSD_USER_NAME]; /* letters, digits, . _ - */
    psd_role_t role;
    uint8_t key[PSD_KEY_BYTES];
    psd_server_set_t shards; /* servers to which it may send messages; default: all */
    uint64_t max_bytes;      /* of its messages that a server may hold at once; default: no limit */
} psd_user_t;

typedef struct psd_allow {
    size_t n;
    psd_user_t *user;
} psd_allow_t;

/* Read a list, which errors call `file`. PSD_ECONFIG with "FILE:LINE: cause", PSD_ENOMEM; `out` is empty then. An empty list is
 * valid. */
int psd_allow_parse(psd_allow_t *out, const char *file, const char *text, size_t n_bytes, psd_err_t *err);

/* The same from a file. PSD_ENOINPUT when it does not exist; PSD_ECONFIG also when anyone but its owner may write it. */
int psd_allow_load(psd_allow_t *out, const char *path, psd_err_t *err);
void psd_allow_clear(psd_allow_t *self);

/* NULL when no user has it. */
const psd_user_t *psd_allow_by_key(const psd_allow_t *self, const uint8_t key[PSD_KEY_BYTES]);
const psd_user_t *psd_allow_by_name(const psd_allow_t *self, const char *name);

const char *psd_role_name(psd_role_t role);
