/* keyring.h - the keys of the children of psdctl run and psdctl launch: none, the job's, or new ones for this launch only, which
 * are never in a file on any host. */
#pragma once

#include <stdbool.h>

#include "common/net/keys.h"
#include "common/config/options.h"

enum { PSD_KEYRING_FILE = 512 };

/* The contents of a key file, and the option that names such a file. */
typedef struct psd_secret {
    const char *key; /* "server.key" */
    char text[PSD_KEYRING_FILE];
} psd_secret_t;

enum { PSD_SECRET_SERVER, PSD_SECRET_WORKER, PSD_SECRET_ALLOW, PSD_SECRETS };

typedef struct psd_keyring {
    char server_public[PSD_KEY_TEXT]; /* the servers' public key; "": no keys */
    bool is_drawn;                    /* use these secrets instead of the files in the options */
    psd_secret_t secret[PSD_SECRETS];
} psd_keyring_t;

/* The keys that the options name: none, or all of server.key, worker.key and allow. PSD_ECONFIG when some are missing, or one is
 * not a key; PSD_ENOINPUT. */
int psd_keyring_load(psd_keyring_t *out, const psd_options_t *options, psd_err_t *err);

/* New keys: one pair for the servers, one for the workers, and DIRECTORY/admin.key and .pub for the operator, with
 * DIRECTORY/server.pub. PSD_EIO. */
int psd_keyring_draw(psd_keyring_t *out, const char *directory, psd_err_t *err);

/* Wipe the secrets from memory. */
void psd_keyring_wipe(psd_keyring_t *self);
