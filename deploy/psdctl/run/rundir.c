#include "deploy/psdctl/run/rundir.h"

#include <errno.h>
#include <fnmatch.h>
#include <dirent.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "common/system/json.h"
#include "deploy/psdctl/run/place.h"

static int write_facts(const psd_rundir_t *self, const char *outcome, int code, psd_err_t *err)
{
    char path[PATH_MAX + 16], id[24];
    snprintf(path, sizeof path, "%s/run.json", self->path);
    snprintf(id, sizeof id, "%016" PRIx64, self->id);
    json_t *facts =
        json_pack("{s:s, s:s, s:f, s:s}", "schema", "psd.run/1", "id", id, "begun_ts", self->begun_ts, "outcome", outcome);
    if (code >= 0)
        json_object_set_new(facts, "exit_code", json_integer(code));
    char *text = psd_json_text(facts, JSON_INDENT(2));
    json_decref(facts);
    const int rc =
        text ? psd_durable_put(path, text, strlen(text), err) : psd_err_set(err, PSD_ENOMEM, "no memory to write %s", path);
    free(text);
    return rc;
}

/* Rename a file, replacing an earlier one that was set aside. */
static int set_results_aside(const psd_rundir_t *self, psd_err_t *err)
{
    DIR *all = opendir(self->path);
    int rc = PSD_OK;
    for (const struct dirent *one; !rc && all && (one = readdir(all));) {
        char from[PATH_MAX + NAME_MAX + 2], to[PATH_MAX + NAME_MAX + 16];
        if (fnmatch("summary.json", one->d_name, 0) && fnmatch("summary-*.json", one->d_name, 0))
            continue;
        snprintf(from, sizeof from, "%s/%s", self->path, one->d_name);
        snprintf(to, sizeof to, "%s.before", from);
        if (rename(from, to))
            rc = psd_err_set(err, PSD_EIO, "cannot set %.300s aside: %s", from, strerror(errno));
    }
    if (all)
        closedir(all);
    return rc;
}

int psd_rundir_take(psd_rundir_t *out, const char *path, psd_err_t *err)
{
    struct timespec now;
    *out = (psd_rundir_t){ .lock = -1 };
    snprintf(out->path, sizeof out->path, "%s", path);
    const int reserved = psd_place_reserve(path, &out->lock, err);
    if (reserved)
        return reserved;
    while (!out->id && getrandom(&out->id, sizeof out->id, 0) != sizeof out->id)
        ;
    clock_gettime(CLOCK_REALTIME, &now);
    out->begun_ts = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    const int rc = set_results_aside(out, err);
    return rc ? rc : write_facts(out, "running", -1, err);
}

int psd_rundir_end(psd_rundir_t *self, const char *outcome, int code, psd_err_t *err)
{
    if (self->lock < 0)
        return PSD_OK;
    const int rc = write_facts(self, outcome, code, err);
    close(self->lock);
    self->lock = -1;
    return rc;
}
