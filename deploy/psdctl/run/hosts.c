#include "deploy/psdctl/run/hosts.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 18 };

/* ---- words of a line ---- */

/* Whether ssh may get this word as a host: not an option, and without characters that a shell interprets. */
static bool is_host(const char *word)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@";
    const char *at = strchr(word, '@');
    return *word && *word != '-' && strspn(word, letters) == strlen(word) && at != word &&
           (!at || (at[1] && at[1] != '-' && !strchr(at + 1, '@')));
}

/* Read "workers=4", one of a host's numbers. */
static int read_count(psd_hosts_t *self, psd_host_t *host, const char *word, bool *known, psd_err_t *err)
{
    const struct {
        const char *name;
        unsigned *count;
        bool *told;
    } counts[] = { { "servers", &host->servers, &self->tells_servers }, { "workers", &host->workers, &self->tells_workers } };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const size_t n = strlen(counts[i].name);
        if (strncmp(word, counts[i].name, n) != 0 || word[n] != '=')
            continue;
        *known = true;
        const char *digits = word + n + 1;
        const long value = strtol(digits, NULL, 10);
        if (!*digits || digits[strspn(digits, "0123456789")] || value > PSD_MAX_PER_HOST)
            return psd_err_set(err, PSD_ECONFIG, "%s=\"%.40s\" must be a whole number from 0 to %d", counts[i].name, digits,
                               PSD_MAX_PER_HOST);
        *counts[i].told = true;
        *counts[i].count = (unsigned)value;
    }
    return PSD_OK;
}

static int read_word(psd_hosts_t *self, psd_host_t *host, const char *word, psd_err_t *err)
{
    static const char address[] = "address=";
    bool known = false;
    int rc = read_count(self, host, word, &known, err);
    if (rc != PSD_OK || known)
        return rc;
    if (strncmp(word, address, sizeof address - 1) != 0)
        return psd_err_set(err, PSD_ECONFIG, "\"%.40s\" is not servers=N, workers=N or address=HOST", word);
    word += sizeof address - 1;
    if (!is_host(word) || strchr(word, '@') || strlen(word) >= sizeof host->address)
        return psd_err_set(err, PSD_ECONFIG, "address=\"%.40s\" is not a name or number of a host", word);
    snprintf(host->address, sizeof host->address, "%s", word);
    return PSD_OK;
}

static int read_host(psd_host_t *host, const char *word, psd_err_t *err)
{
    const char *at = strchr(word, '@');
    if (!is_host(word) || strlen(word) >= sizeof host->target)
        return psd_err_set(err, PSD_ECONFIG, "\"%.40s\" is not a host; write HOST or USER@HOST", word);
    *host = (psd_host_t){ .servers = 0 };
    snprintf(host->target, sizeof host->target, "%s", word);
    snprintf(host->address, sizeof host->address, "%s", at ? at + 1 : word);
    return PSD_OK;
}

/* ---- lines ---- */

static int add_host(psd_hosts_t *self, const psd_host_t *host, psd_err_t *err)
{
    for (size_t i = 0; i < self->n; i++)
        if (strcmp(self->host[i].target, host->target) == 0)
            return psd_err_set(err, PSD_ECONFIG, "%s is listed already; write one line per host", host->target);
    if (self->n == PSD_MAX_HOSTS)
        return psd_err_set(err, PSD_ECONFIG, "more than %d hosts", PSD_MAX_HOSTS);
    self->host[self->n++] = *host;
    self->servers += host->servers;
    self->workers += host->workers;
    return PSD_OK;
}

/* Splits `line` in place. */
static int read_line(psd_hosts_t *self, char *line, psd_err_t *err)
{
    static const char blanks[] = " \t\r";
    char *rest, *word = strtok_r(line, blanks, &rest);
    psd_host_t host;
    if (!word || *word == '#')
        return PSD_OK;
    int rc = read_host(&host, word, err);
    while (rc == PSD_OK && (word = strtok_r(NULL, blanks, &rest)))
        rc = read_word(self, &host, word, err);
    return rc == PSD_OK ? add_host(self, &host, err) : rc;
}

static int check_sums(const psd_hosts_t *self, const char *file, psd_err_t *err)
{
    if (!self->n)
        return psd_err_set(err, PSD_ECONFIG, "%s names no host; write a line such as \"node1 servers=1 workers=2\"", file);
    if ((self->tells_servers && !self->servers) || (self->tells_workers && !self->workers))
        return psd_err_set(err, PSD_ECONFIG, "%s: no host has a %s", file,
                           self->tells_servers && !self->servers ? "server" : "worker");
    return PSD_OK;
}

static int read_lines(psd_hosts_t *self, const char *file, char *text, psd_err_t *err)
{
    char *rest = text, *line;
    psd_err_t why;
    for (unsigned number = 1; (line = strsep(&rest, "\n")); number++) {
        int rc = read_line(self, line, &why);
        if (rc != PSD_OK)
            return psd_err_set(err, rc, "%s:%u: %s", file, number, why.text);
    }
    return check_sums(self, file, err);
}

int psd_hosts_parse(psd_hosts_t *out, const char *file, const char *text, size_t n_bytes, psd_err_t *err)
{
    *out = (psd_hosts_t){ .host = calloc(PSD_MAX_HOSTS, sizeof *out->host) };
    char *copy = malloc(n_bytes + 1);
    int rc = PSD_OK;
    if (!out->host || !copy) {
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for %s", file);
    } else if (memchr(text, '\0', n_bytes)) {
        rc = psd_err_set(err, PSD_ECONFIG, "%s is not a text", file);
    } else {
        memcpy(copy, text, n_bytes);
        copy[n_bytes] = '\0';
        rc = read_lines(out, file, copy, err);
    }
    free(copy);
    if (rc != PSD_OK)
        psd_hosts_clear(out);
    return rc;
}

int psd_hosts_load(psd_hosts_t *out, const char *path, psd_err_t *err)
{
    static char text[MAX_FILE];
    *out = (psd_hosts_t){ .n = 0 };
    FILE *file = fopen(path, "re");
    if (!file)
        return psd_err_set(err, PSD_ENOINPUT, "%s: %s", path, strerror(errno));
    size_t n = fread(text, 1, sizeof text, file);
    const bool failed = ferror(file);
    const int why = errno;
    fclose(file);
    if (failed)
        return psd_err_set(err, PSD_ENOINPUT, "%s: %s", path, strerror(why));
    if (n == sizeof text)
        return psd_err_set(err, PSD_ECONFIG, "%s is too long for a hostfile", path);
    return psd_hosts_parse(out, path, text, n, err);
}

void psd_hosts_clear(psd_hosts_t *self)
{
    free(self->host);
    *self = (psd_hosts_t){ .n = 0 };
}

/* ---- placement ---- */

void psd_hosts_deal(psd_hosts_t *self, unsigned servers, unsigned workers)
{
    for (unsigned i = 0; i < servers && !self->tells_servers; i++)
        self->host[i % self->n].servers++;
    for (unsigned i = 0; i < workers && !self->tells_workers; i++)
        self->host[i % self->n].workers++;
}

const psd_host_t *psd_hosts_of_server(const psd_hosts_t *self, unsigned index)
{
    for (size_t i = 0; i < self->n; index -= self->host[i++].servers)
        if (index < self->host[i].servers)
            return &self->host[i];
    return NULL;
}

const psd_host_t *psd_hosts_of_worker(const psd_hosts_t *self, unsigned index)
{
    for (size_t i = 0; i < self->n; index -= self->host[i++].workers)
        if (index < self->host[i].workers)
            return &self->host[i];
    return NULL;
}
