#include "deploy/psdctl/run/keyring.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const psd_option_id_t options_of[PSD_SECRETS] = {
    [PSD_SECRET_SERVER] = PSD_OPT_server_key, [PSD_SECRET_WORKER] = PSD_OPT_worker_key, [PSD_SECRET_ALLOW] = PSD_OPT_allow
};

int psd_keyring_load(psd_keyring_t *out, const psd_options_t *options, psd_err_t *err)
{
    const char *lacks = NULL;
    unsigned n = 0;
    *out = (psd_keyring_t){ .is_drawn = false };
    for (unsigned i = 0; i < PSD_SECRETS; i++)
        if (*psd_options_string(options, options_of[i]))
            n++;
        else
            lacks = psd_option_at(options_of[i])->key;
    if (n == 0)
        return PSD_OK;
    if (n < PSD_SECRETS)
        return psd_err_set(err, PSD_ECONFIG, "keys need server.key, worker.key and allow; %s is missing", lacks);
    psd_keys_t keys;
    int rc = psd_keys_load(&keys,
                           &(psd_keys_source_t){ .secret = psd_options_string(options, PSD_OPT_server_key),
                                                 .server = psd_options_string(options, PSD_OPT_server_public),
                                                 .insecure = psd_options_bool(options, PSD_OPT_insecure),
                                                 .is_server = true },
                           err);
    memcpy(out->server_public, keys.server, sizeof keys.server);
    psd_keys_wipe(&keys);
    return rc;
}

/* Make a key pair, and write its secret key as the text of a secret. */
static void draw(psd_secret_t *out, char public[PSD_KEY_TEXT])
{
    psd_keys_t keys;
    psd_keys_draw(&keys);
    snprintf(out->text, sizeof out->text, "secret %s\n", keys.secret);
    memcpy(public, keys.public, PSD_KEY_TEXT);
    psd_keys_wipe(&keys);
}

/* Remove the key of an earlier launch in this directory, which no server accepts any more. */
static void remove_old(const char *directory)
{
    static const char *const names[] = { "admin.key", "admin.pub", "server.pub" };
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
}

/* Write the key for the operator's commands. */
static int write_public(const char *directory, const char *public, psd_err_t *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/server.pub", directory);
    FILE *file = fopen(path, "wex");
    bool written = file && fprintf(file, "# psd: public key of the servers\npublic %s\n", public) > 0;
    if ((file && fclose(file)) || !written)
        return psd_err_set(err, PSD_EIO, "cannot write %s: %s", path, strerror(errno));
    return PSD_OK;
}

int psd_keyring_draw(psd_keyring_t *out, const char *directory, psd_err_t *err)
{
    char worker[PSD_KEY_TEXT], admin[PSD_KEY_TEXT], name[PATH_MAX];
    *out = (psd_keyring_t){ .is_drawn = true };
    for (unsigned i = 0; i < PSD_SECRETS; i++)
        out->secret[i].key = psd_option_at(options_of[i])->key;
    draw(&out->secret[PSD_SECRET_SERVER], out->server_public);
    draw(&out->secret[PSD_SECRET_WORKER], worker);
    remove_old(directory);
    snprintf(name, sizeof name, "%s/admin", directory);
    int rc = psd_keys_write(name, admin, err);
    snprintf(out->secret[PSD_SECRET_ALLOW].text, PSD_KEYRING_FILE, "server server %s\nworker worker %s\nadmin admin %s\n",
             out->server_public, worker, admin);
    return rc == PSD_OK ? write_public(directory, out->server_public, err) : rc;
}

void psd_keyring_wipe(psd_keyring_t *self) { explicit_bzero(self->secret, sizeof self->secret); }
