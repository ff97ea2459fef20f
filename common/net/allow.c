#include "common/net/allow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_WORDS = 5, MAX_LINE = 512 };

static const char *const roles[] = {
#define X(name, word) [PSD_ROLE_##name] = word,
    PSD_ROLES(X)
#undef X
};
enum { N_ROLES = sizeof roles / sizeof *roles };

const char *psd_role_name(psd_role_t role) { return roles[role]; }

/* The line being read. */
typedef struct place {
    const char *file;
    unsigned line;
    psd_err_t *err;
} place_t;

static int wrong(const place_t *at, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int wrong(const place_t *at, const char *format, ...)
{
    char why[320];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return psd_err_set(at->err, PSD_ECONFIG, "%.120s:%u: %s", at->file, at->line, why);
}

/* ---- words ---- */

static int read_name(const place_t *at, const char *word, psd_user_t *user)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(word);
    if (n >= sizeof user->name || strspn(word, good) != n)
        return wrong(at, "\"%.80s\" is not a name: 1 to %d letters, digits, . _ -", word, PSD_USER_NAME - 1);
    memcpy(user->name, word, n + 1);
    return PSD_OK;
}

static int read_role(const place_t *at, const char *word, psd_user_t *user)
{
    for (int r = 0; r < N_ROLES; r++)
        if (!strcmp(word, roles[r])) {
            user->role = (psd_role_t)r;
            return PSD_OK;
        }
    return wrong(at, "\"%.80s\" is not a role; write worker, reader, monitor, admin or server", word);
}

static int read_key(const place_t *at, const char *word, psd_user_t *user)
{
    if (strlen(word) == PSD_KEY_TEXT - 1 && psd_key_decode(user->key, word))
        return PSD_OK;
    return wrong(at, "\"%.80s\" is not a public key: %d characters of Z85, as in NAME.pub of psdctl keygen", word,
                 PSD_KEY_TEXT - 1);
}

/* Read a number of digits only, up to `*end`. */
static bool read_number(const char *text, const char **end, uint64_t *value)
{
    *value = 0;
    for (*end = text; **end >= '0' && **end <= '9'; (*end)++)
        if (__builtin_mul_overflow(*value, 10, value) || __builtin_add_overflow(*value, (uint64_t)(**end - '0'), value))
            return false;
    return *end > text;
}

static void allow_every_shard(psd_user_t *user)
{
    for (uint32_t s = 0; s < PSD_MAX_SERVERS; s++)
        psd_server_set_add(&user->shards, s);
}

static int read_shards(const place_t *at, const char *word, psd_user_t *user)
{
    uint64_t first, last;
    const char *rest = word;
    if (!strcmp(word, "*"))
        return PSD_OK;
    user->shards = (psd_server_set_t){ 0 };
    do {
        bool good = read_number(rest, &rest, &first);
        last = first;
        if (good && *rest == '-')
            good = read_number(rest + 1, &rest, &last);
        if (!good || (*rest && *rest != ',') || first > last || last >= PSD_MAX_SERVERS)
            return wrong(at, "\"%.80s\" is not a list of servers: *, or such as 0,2-3, up to %d", word, PSD_MAX_SERVERS - 1);
        for (uint64_t s = first; s <= last; s++)
            psd_server_set_add(&user->shards, (uint32_t)s);
    } while (*rest++ == ',');
    return PSD_OK;
}

static int read_max_bytes(const place_t *at, const char *word, psd_user_t *user)
{
    static const struct {
        const char *unit;
        uint64_t bytes;
    } units[] = { { "", 1 }, { "Ki", UINT64_C(1) << 10 }, { "Mi", UINT64_C(1) << 20 }, { "Gi", UINT64_C(1) << 30 } };
    const char *end;
    if (!strcmp(word, "*"))
        return PSD_OK;
    if (read_number(word, &end, &user->max_bytes) && user->max_bytes)
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (!strcmp(end, units[i].unit) && !__builtin_mul_overflow(user->max_bytes, units[i].bytes, &user->max_bytes))
                return PSD_OK;
    return wrong(at, "\"%.80s\" is not a size: *, or a whole number of bytes, with Ki, Mi or Gi if large, from 1", word);
}

static int (*const columns[MAX_WORDS])(const place_t *, const char *, psd_user_t *) = { read_name, read_role, read_key, read_shards,
                                                                                        read_max_bytes };
enum { REQUIRED = 3 };

/* ---- lines ---- */

/* Parse a line; changes `line`. */
static int read_line(const place_t *at, char *line, psd_allow_t *out)
{
    psd_user_t user = { .max_bytes = UINT64_MAX };
    allow_every_shard(&user);
    int n = 0, rc = PSD_OK;
    for (char *word, *rest = line; (word = strsep(&rest, " \t\r"));) {
        if (!*word)
            continue;
        if (n == MAX_WORDS)
            return wrong(at, "a sixth word, \"%.80s\"; a line is name, role, key, shards, max_bytes_in_flight", word);
        if ((rc = columns[n++](at, word, &user)) != PSD_OK)
            return rc;
    }
    if (!n)
        return PSD_OK;
    if (n < REQUIRED)
        return wrong(at, "%d word%s; a line needs at least a name, a role and a public key", n, n == 1 ? "" : "s");
    const psd_user_t *same = psd_allow_by_name(out, user.name);
    if (same)
        return wrong(at, "%s is listed already; each name has one key", user.name);
    if ((same = psd_allow_by_key(out, user.key)))
        return wrong(at, "%s has the key of %s; each key belongs to one name", user.name, same->name);
    if (out->n == PSD_MAX_ALLOWED)
        return wrong(at, "more than %d users", PSD_MAX_ALLOWED);
    out->user[out->n++] = user;
    return PSD_OK;
}

static int read_lines(place_t *at, const char *text, size_t n_bytes, psd_allow_t *out)
{
    int rc = PSD_OK;
    for (const char *end = text + n_bytes; rc == PSD_OK && text < end; at->line++) {
        char line[MAX_LINE];
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const size_t n = (size_t)((stop ? stop : end) - text);
        if (*text != '#') {
            if (n >= sizeof line)
                return wrong(at, "a line of %zu bytes; at most %d are read", n, MAX_LINE - 1);
            if (memchr(text, '\0', n))
                return wrong(at, "a byte that is not printable ASCII");
            memcpy(line, text, n);
            line[n] = '\0';
            rc = read_line(at, line, out);
        }
        text += n + 1;
    }
    return rc;
}

int psd_allow_parse(psd_allow_t *out, const char *file, const char *text, size_t n_bytes, psd_err_t *err)
{
    place_t at = { file, 1, err };
    *out = (psd_allow_t){ .user = NULL };
    size_t most = 1;
    for (size_t i = 0; i < n_bytes && most < PSD_MAX_ALLOWED; i++)
        most += text[i] == '\n';
    if (!(out->user = calloc(most, sizeof *out->user)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu users", most);
    int rc = read_lines(&at, text, n_bytes, out);
    if (rc != PSD_OK)
        psd_allow_clear(out);
    return rc;
}

int psd_allow_load(psd_allow_t *out, const char *path, psd_err_t *err)
{
    *out = (psd_allow_t){ .user = NULL };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return psd_err_set(err, errno == ENOENT ? PSD_ENOINPUT : PSD_ECONFIG, "allow-list %s: %s", path, strerror(errno));
    struct stat facts;
    char *text = malloc(PSD_MAX_ALLOW_FILE);
    size_t n = 0;
    ssize_t got = 0;
    int rc = PSD_OK;
    if (fstat(fd, &facts) || !S_ISREG(facts.st_mode) || facts.st_mode & 022)
        rc = psd_err_set(err, PSD_ECONFIG,
                         "allow-list %s: only its owner may be able to write it, but its mode is %03o: chmod 644 %s", path,
                         (unsigned)facts.st_mode & 0777, path);
    else if (!text)
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the allow-list");
    while (rc == PSD_OK && n < PSD_MAX_ALLOW_FILE && (got = read(fd, text + n, PSD_MAX_ALLOW_FILE - n)) > 0)
        n += (size_t)got;
    if (rc == PSD_OK && (got < 0 || n == PSD_MAX_ALLOW_FILE))
        rc = psd_err_set(err, PSD_ECONFIG, "allow-list %s: %s", path, got < 0 ? strerror(errno) : "longer than 1 MiB");
    if (rc == PSD_OK)
        rc = psd_allow_parse(out, path, text, n, err);
    free(text);
    close(fd);
    return rc;
}

void psd_allow_clear(psd_allow_t *self)
{
    free(self->user);
    *self = (psd_allow_t){ .user = NULL };
}

/* ---- looking up ---- */

const psd_user_t *psd_allow_by_key(const psd_allow_t *self, const uint8_t key[PSD_KEY_BYTES])
{
    for (size_t i = 0; i < self->n; i++)
        if (!memcmp(self->user[i].key, key, PSD_KEY_BYTES))
            return &self->user[i];
    return NULL;
}

const psd_user_t *psd_allow_by_name(const psd_allow_t *self, const char *name)
{
    for (size_t i = 0; i < self->n; i++)
        if (!strcmp(self->user[i].name, name))
            return &self->user[i];
    return NULL;
}
