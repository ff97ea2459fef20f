#include "common/net/keys.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { CHARACTERS = PSD_KEY_TEXT - 1, MAX_FILE = 1024, MAX_PATH = 1000 };

static const char z85[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

bool psd_key_decode(uint8_t out[PSD_KEY_BYTES], const char *text)
{
    char copy[PSD_KEY_TEXT] = "";
    memcpy(copy, text, strnlen(text, CHARACTERS));
    bool good = strspn(copy, z85) == CHARACTERS && zmq_z85_decode(out, copy);
    explicit_bzero(copy, sizeof copy);
    return good;
}

/* ---- files ---- */

/* A file that others can read, or could have written, is not a secret. */
static int check_secrecy(int fd, const char *path, psd_err_t *err)
{
    struct stat facts;
    if (fstat(fd, &facts) || !S_ISREG(facts.st_mode))
        return psd_err_set(err, PSD_ECONFIG, "%s is not a file", path);
    if (facts.st_uid != geteuid() && facts.st_uid != 0)
        return psd_err_set(
            err, PSD_ECONFIG,
            "%s holds a secret but belongs to another user (%u): chown it, or make a key of your own with psdctl keygen", path,
            (unsigned)facts.st_uid);
    if (facts.st_mode & 077)
        return psd_err_set(err, PSD_ECONFIG, "%s holds a secret, but its mode %03o lets others read it: chmod 600 %s", path,
                           (unsigned)facts.st_mode & 0777, path);
    return PSD_OK;
}

/* The text after `word` on the first line that is not a comment: one key. */
static bool find_key(const char *text, const char *word, char key[PSD_KEY_TEXT])
{
    uint8_t bytes[PSD_KEY_BYTES];
    while (*text == '#' || *text == '\n') {
        text += strcspn(text, "\n");
        text += *text == '\n';
    }
    size_t n = strlen(word);
    if (strncmp(text, word, n) || text[n] != ' ' || strcspn(text + n + 1, " \r\n") != CHARACTERS ||
        strspn(text + n + 1 + CHARACTERS, " \r\n") != strlen(text + n + 1 + CHARACTERS))
        return false;
    memcpy(key, text + n + 1, CHARACTERS);
    key[CHARACTERS] = '\0';
    bool good = psd_key_decode(bytes, key);
    explicit_bzero(bytes, sizeof bytes);
    return good;
}

/* Why the file cannot be opened; a missing one can be made. */
static int cannot_open(const char *path, const char *what, const char *maker, psd_err_t *err)
{
    if (errno == ENOENT)
        return psd_err_set(err, PSD_ENOINPUT, "there is no file %s with a %s; %s makes one", path, what, maker);
    return psd_err_set(err, PSD_ECONFIG, "cannot read %s: %s", path, strerror(errno));
}

/* Read the key in a file with the line "secret KEY" or "public KEY". */
static int read_key(const char *path, const char *word, char key[PSD_KEY_TEXT], psd_err_t *err)
{
    char text[MAX_FILE] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return cannot_open(path, "key", "psdctl keygen", err);
    int rc = PSD_OK;
    if (read(fd, text, sizeof text - 1) < 0 || !find_key(text, word, key))
        rc = psd_err_set(err, PSD_ECONFIG, "%s is not a file with a %s key; psdctl keygen makes one", path, word);
    else if (!strcmp(word, "secret"))
        rc = check_secrecy(fd, path, err);
    explicit_bzero(text, sizeof text);
    close(fd);
    return rc;
}

int psd_token_load(char token[PSD_TOKEN_TEXT], const char *path, psd_err_t *err)
{
    enum { LEAST = 16 };
    char text[PSD_TOKEN_TEXT + 2] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return cannot_open(path, "token", "openssl rand -hex 32", err);
    ssize_t got = read(fd, text, sizeof text - 1);
    size_t n = got < 0 ? 0 : strcspn(text, "\r\n"), visible = 0;
    while (text[visible] > ' ' && text[visible] < 127)
        visible++;
    int rc = check_secrecy(fd, path, err);
    if (rc == PSD_OK && (n < LEAST || n >= PSD_TOKEN_TEXT || visible != n || strspn(text + n, "\r\n") != strlen(text + n)))
        rc = psd_err_set(err, PSD_ECONFIG,
                         "%s is not a token: one line of %d to %d visible characters, such as openssl rand -hex 32 "
                         "writes",
                         path, LEAST, PSD_TOKEN_TEXT - 1);
    if (rc == PSD_OK) {
        memcpy(token, text, n);
        token[n] = '\0';
    }
    explicit_bzero(text, sizeof text);
    close(fd);
    return rc;
}

/* A new file with this mode, whole or not at all. */
static int write_key(const char *path, mode_t mode, const char *text, psd_err_t *err)
{
    const size_t n = strlen(text);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return psd_err_set(err, PSD_EIO, "%s: %s", path,
                           errno == EEXIST ? "it exists already; keys are not overwritten" : strerror(errno));
    bool written = write(fd, text, n) == (ssize_t)n && !fsync(fd);
    int why = errno;
    if (close(fd) || !written) {
        unlink(path);
        return psd_err_set(err, PSD_EIO, "cannot write %s: %s", path, strerror(why));
    }
    return PSD_OK;
}

int psd_keys_write(const char *name, char public[PSD_KEY_TEXT], psd_err_t *err)
{
    char secret_path[MAX_PATH + 8], public_path[MAX_PATH + 8], text[MAX_FILE];
    const char *base = strrchr(name, '/') ? strrchr(name, '/') + 1 : name;
    if (!*base || strlen(name) >= MAX_PATH)
        return psd_err_set(err, PSD_EUSAGE, "\"%.60s\" is not a name for a key", name);
    snprintf(secret_path, sizeof secret_path, "%s.key", name);
    snprintf(public_path, sizeof public_path, "%s.pub", name);
    psd_keys_t keys;
    psd_keys_draw(&keys);
    snprintf(text, sizeof text, "# psd: secret key of %.200s. Anyone who can read it can act as %.200s.\nsecret %s\n", base, base,
             keys.secret);
    int rc = write_key(secret_path, 0600, text, err);
    explicit_bzero(text, sizeof text);
    if (rc == PSD_OK) {
        snprintf(text, sizeof text, "# psd: public key of %.200s\npublic %s\n", base, keys.public);
        rc = write_key(public_path, 0644, text, err);
        if (rc != PSD_OK)
            unlink(secret_path);
    }
    memcpy(public, keys.public, PSD_KEY_TEXT);
    psd_keys_wipe(&keys);
    return rc;
}

/* ---- a program's keys ---- */

static int missing(const psd_keys_source_t *from, psd_err_t *err)
{
    if (from->insecure)
        return psd_err_set(err, PSD_ECONFIG, "both keys and --insecure are given: leave one of them out");
    return psd_err_set(err, PSD_ECONFIG,
                       from->is_server ? "without keys, anyone who reaches the port could join: give --server-key FILE and "
                                         "--allow FILE (psdctl keygen makes "
                                         "keys), or --insecure to accept anyone on this machine"
                                       : "without keys, the other end cannot be verified: give the key files "
                                         "(--worker-key FILE --server-public FILE; "
                                         "psdctl keygen makes them), or --insecure to run unencrypted on this machine");
}

int psd_keys_load(psd_keys_t *out, const psd_keys_source_t *from, psd_err_t *err)
{
    const bool has_secret = from->secret && *from->secret, has_server = from->server && *from->server;
    *out = (psd_keys_t){ .insecure = from->insecure };
    if (from->insecure != !(has_secret || has_server))
        return missing(from, err);
    if (from->insecure)
        return PSD_OK;
    if (!has_secret || (!has_server && !from->is_server && !from->server_later))
        return psd_err_set(err, PSD_ECONFIG, "%s is given without %s", has_secret ? "a secret key" : "the servers' public key",
                           has_secret ? "the servers' public key (--server-public)" : "a secret key of one's own");
    int rc = read_key(from->secret, "secret", out->secret, err);
    if (rc == PSD_OK && zmq_curve_public(out->public, out->secret))
        rc = psd_err_set(err, PSD_ESYSTEM, "this libzmq is built without CURVE");
    uint8_t bytes[PSD_KEY_BYTES];
    if (rc == PSD_OK && !has_server)
        memcpy(out->server, out->public, PSD_KEY_TEXT);
    else if (rc == PSD_OK && strlen(from->server) == CHARACTERS && access(from->server, F_OK) != 0 &&
             psd_key_decode(bytes, from->server)) /* a path may have the same length and characters as a key */
        memcpy(out->server, from->server, PSD_KEY_TEXT);
    else if (rc == PSD_OK)
        rc = read_key(from->server, "public", out->server, err);
    if (rc != PSD_OK)
        psd_keys_wipe(out);
    return rc;
}

void psd_keys_draw(psd_keys_t *self)
{
    *self = (psd_keys_t){ .insecure = false };
    int rc = zmq_curve_keypair(self->public, self->secret);
    assert(!rc && "libzmq is built with CURVE");
}

void psd_keys_wipe(psd_keys_t *self) { explicit_bzero(self, sizeof *self); }

void psd_keys_guard_process(void)
{
    prctl(PR_SET_DUMPABLE, 0);
    setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
}
