#include "common/net/clusterfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "common/system/json.h"

enum { MAX_BYTES = 64 << 10, NAP_MS = 100, LINE_MS = 4000 };
static const char schema[] = "psd.cluster/1";

int psd_clusterfile_write(const psd_clusterfile_t *self, const char *path, psd_err_t *err)
{
    char run[24];
    snprintf(run, sizeof run, "%016" PRIx64, self->run);
    json_t *all = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "schema", schema, "job", self->job, "data", self->data, "status",
                            self->status, "server_public", self->server_public, "run", run);
    char *text = psd_json_text(all, JSON_INDENT(2));
    json_decref(all);
    if (!text)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %s", path);
    const mode_t before = umask(S_IWGRP | S_IWOTH); /* no other user may write it, whatever the umask */
    psd_durable_t *file = psd_durable_new(path, 0, err);
    umask(before);
    int rc = file ? psd_durable_write(file, text, strlen(text), 0, err) : err->code;
    rc = rc ? rc : psd_durable_write(file, "\n", 1, strlen(text), err);
    if (rc)
        psd_durable_abandon(&file);
    else
        rc = psd_durable_end(&file, err);
    free(text);
    return rc ? psd_err_wrap(err, "cluster.file") : PSD_OK;
}

static bool copy_text(const json_t *all, const char *key, char *out, size_t capacity)
{
    const char *text = json_string_value(json_object_get(all, key));
    if (!text || strlen(text) >= capacity || strpbrk(text, " \n"))
        return false;
    snprintf(out, capacity, "%s", text);
    return true;
}

static bool unpack(psd_clusterfile_t *out, const json_t *all)
{
    char name[32], run[24], *end = run;
    if (!copy_text(all, "schema", name, sizeof name) || strcmp(name, schema) || !copy_text(all, "job", out->job, sizeof out->job) ||
        !copy_text(all, "data", out->data, sizeof out->data) || !copy_text(all, "status", out->status, sizeof out->status) ||
        !copy_text(all, "server_public", out->server_public, sizeof out->server_public) || !copy_text(all, "run", run, sizeof run))
        return false;
    uint8_t key[PSD_KEY_BYTES];
    out->run = strtoull(run, &end, 16);
    return end == run + 16 && !*end && (!strncmp(out->data, "tcp://", 6) || !strncmp(out->data, "ipc://", 6)) &&
           (!*out->server_public || (strlen(out->server_public) == PSD_KEY_TEXT - 1 && psd_key_decode(key, out->server_public)));
}

static int check_owner(int fd, const char *path, psd_err_t *err)
{
    struct stat facts;
    if (fstat(fd, &facts))
        return psd_err_set(err, PSD_EIO, "cluster.file %s: %s", path, strerror(errno));
    if ((facts.st_uid != geteuid() && facts.st_uid != 0) || (facts.st_mode & (S_IWGRP | S_IWOTH)))
        return psd_err_set(
            err, PSD_ECONFIG,
            "cluster.file %s belongs to another user, or others may write it (chmod go-w): psd trusts the keys in it", path);
    return PSD_OK;
}

int psd_clusterfile_read(psd_clusterfile_t *out, const char *path, const char *job, psd_err_t *err)
{
    *out = (psd_clusterfile_t){ 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return psd_err_set(err, errno == ENOENT || errno == ESTALE ? PSD_EAGAIN : PSD_EIO, "cluster.file %s: %s", path,
                           strerror(errno));
    int rc = check_owner(fd, path, err);
    FILE *file = rc ? NULL : fdopen(fd, "r");
    if (!file) {
        close(fd);
        return rc ? rc : psd_err_set(err, PSD_ENOMEM, "no memory to read %s", path);
    }
    char *text = malloc(MAX_BYTES);
    const size_t n = text ? fread(text, 1, MAX_BYTES, file) : 0;
    json_t *all = text ? json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (!unpack(out, all))
        rc = psd_err_set(err, PSD_EDATA, "cluster.file %s has no valid %s of server 0: remove it, or name another", path, schema);
    else if (strcmp(out->job, job))
        rc = psd_err_set(err, PSD_EAGAIN, "cluster.file %s belongs to job %s, and this is job %s", path, out->job, job);
    json_decref(all);
    free(text);
    fclose(file);
    return rc;
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int psd_clusterfile_await(psd_clusterfile_t *out, const char *path, const char *job, uint64_t timeout_ms,
                          bool (*waits)(void *arg, const char *what), void *arg, psd_err_t *err)
{
    psd_err_t why = { 0 };
    const uint64_t begin = now_ms();
    uint64_t told = begin;
    for (;;) {
        int rc = psd_clusterfile_read(out, path, job, &why);
        if (rc != PSD_EAGAIN)
            return psd_err_set(err, rc, "%s", why.text);
        const uint64_t now = now_ms();
        if (now >= begin + timeout_ms)
            return psd_err_set(err, PSD_ETIMEOUT, "server 0 has not written its address within %" PRIu64 " ms: %.400s", timeout_ms,
                               why.text);
        const bool tells = now >= told + LINE_MS;
        told = tells ? now : told;
        if (!waits(arg, tells ? why.text : NULL))
            return psd_err_set(err, PSD_ESTOPPED, "interrupted while waiting for server 0: %.400s", why.text);
        nanosleep(&(struct timespec){ .tv_nsec = NAP_MS * 1000000L }, NULL);
    }
}

bool psd_clusterfile_is_same(const psd_clusterfile_t *a, const psd_clusterfile_t *b)
{
    return a->run == b->run && !strcmp(a->data, b->data) && !strcmp(a->server_public, b->server_public);
}

void psd_clusterfile_remove(const psd_clusterfile_t *self, const char *path)
{
    psd_clusterfile_t now;
    if (psd_clusterfile_read(&now, path, self->job, NULL) == PSD_OK && psd_clusterfile_is_same(&now, self))
        unlink(path);
}
