#include "deploy/psdctl/compare/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Options that change neither what is trained nor how it is measured; more rules and more seeds may be added too. All other
 * options, future ones included, must equal those of the runs already in the directory. */
static bool is_setting(const psd_option_t *row)
{
    static const psd_option_id_t others[] = {
        PSD_OPT_optimizer,    PSD_OPT_seed,        PSD_OPT_run_dir,           PSD_OPT_save,          PSD_OPT_trace,
        PSD_OPT_progress,     PSD_OPT_log_level,   PSD_OPT_progress_interval, PSD_OPT_log_format,    PSD_OPT_listen,
        PSD_OPT_advertise,    PSD_OPT_join,        PSD_OPT_join_timeout,      PSD_OPT_status_listen, PSD_OPT_restarts,
        PSD_OPT_worker_id,    PSD_OPT_worker_name, PSD_OPT_server_index,      PSD_OPT_stop_target,   PSD_OPT_hostfile,
        PSD_OPT_remote_shell, PSD_OPT_remote_bin
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (psd_option_id(row) == others[i])
            return false;
    return strncmp(row->key, "compare.", 8) != 0 && strncmp(row->key, "checkpoint.", 11) != 0;
}

char *psd_settings_from_anywhere(const psd_option_t *row, const char *text)
{
    const char *path = psd_option_path(row, text);
    char real[PATH_MAX], *placed = NULL;
    if (!path || (!realpath(path, real) && *path == '/'))
        return strdup(text);
    if (realpath(path, real))
        return asprintf(&placed, "%.*s%s", (int)(path - text), text, real) < 0 ? NULL : placed;
    return getcwd(real, sizeof real) && asprintf(&placed, "%.*s%s/%s", (int)(path - text), text, real, path) >= 0 ? placed : NULL;
}

static json_t *setting(const psd_option_t *row, const char *text)
{
    char *placed = psd_settings_from_anywhere(row, text);
    json_t *value = placed ? json_string(placed) : NULL;
    free(placed);
    return value;
}

#define VERB "verb of psdctl" /* a key of settings.json: compare and tune write files of the same names */

static json_t *make_settings(const psd_options_t *options, const char *verb)
{
    json_t *settings = json_object();
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++)
        if (is_setting(row))
            json_object_set_new(settings, row->key, setting(row, psd_options_text(options, psd_option_id(row))));
    json_object_set_new(settings, "version of psd", json_string(PSD_VERSION));
    json_object_set_new(settings, VERB, json_string(verb));
    return settings;
}

/* The cure first, because both values are whole: a long one must not cut it off. */
static int compare(const char *directory, const json_t *before, const json_t *now, psd_err_t *err)
{
    const char *key, *differs = NULL, *was = "", *is = "", *verb = json_string_value(json_object_get(before, VERB));
    json_t *value;
    size_t n = 0;
    char more[64] = "";
    if (verb && strcmp(verb, json_string_value(json_object_get(now, VERB))) != 0)
        return psd_err_set(err, PSD_ECONFIG, "%s is the directory of a psdctl %s; set run.dir to another", directory, verb);
    json_object_foreach((json_t *)(uintptr_t)now, key, value)
    {
        const char *old = json_string_value(json_object_get(before, key)), *new = json_string_value(value);
        if (!strcmp(key, VERB) || (old && !strcmp(old, new)) || n++)
            continue;
        differs = key;
        was = old ? old : "";
        is = new;
    }
    if (n > 1)
        snprintf(more, sizeof more, " (differences in all: %zu)", n);
    return differs ? psd_err_set(err, PSD_ECONFIG,
                                 "%s holds runs of another job; set run.dir to another, or change the setting back: %s was \"%s\" "
                                 "and is \"%s\"%s",
                                 directory, differs, was, is, more)
                   : PSD_OK;
}

/* With the directory reserved: the first process writes the file, later ones compare. */
static int read_or_write(const psd_options_t *options, const char *verb, const char *directory, const char *path, int fd,
                         psd_err_t *err)
{
    json_error_t why;
    const off_t n_bytes = lseek(fd, 0, SEEK_END);
    lseek(fd, 0, SEEK_SET);
    json_t *now = make_settings(options, verb), *before = n_bytes > 0 ? json_loadfd(fd, 0, &why) : NULL;
    int rc = PSD_OK;
    if (before)
        rc = compare(directory, before, now, err);
    else if (n_bytes > 0)
        rc = psd_err_set(err, PSD_EDATA, "%s:%d: %s; remove the directory, or set run.dir", path, why.line, why.text);
    else if (json_dumpfd(now, fd, JSON_INDENT(2) | JSON_SORT_KEYS))
        rc = psd_err_set(err, PSD_EIO, "cannot write %s: %s", path, strerror(errno));
    json_decref(before);
    json_decref(now);
    return rc;
}

int psd_settings_hold(const psd_options_t *options, const char *verb, char directory[PSD_PLACE_DIRECTORY], int *lock,
                      psd_err_t *err)
{
    char path[PATH_MAX], kind[16];
    if (!psd_options_uint(options, PSD_OPT_stop_steps) && !(psd_options_double(options, PSD_OPT_stop_epochs) > 0))
        return psd_err_set(err, PSD_ECONFIG, "nothing ends the runs: set stop.epochs or stop.steps");
    snprintf(kind, sizeof kind, "-%s", verb);
    psd_place_choose(options, kind, directory);
    snprintf(path, sizeof path, "%s/runs", directory);
    int rc = psd_place_make(path, err);
    rc = rc ? rc : psd_place_reserve(directory, lock, err);
    if (rc)
        return rc;
    snprintf(path, sizeof path, "%s/settings.json", directory);
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return psd_err_set(err, PSD_EIO, "cannot write %s: %s; set run.dir to another", path, strerror(errno));
    rc = read_or_write(options, verb, directory, path, fd, err);
    close(fd);
    return rc;
}
