#include "common/system/outputs.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/system/durable.h"

/* ---- one row per option ---- */

static int probe_save(const char *path, psd_err_t *err) { return psd_durable_probe_file(path, false, err); }

static int probe_trace(const char *path, psd_err_t *err) { return psd_durable_probe_file(path, true, err); }

/* Files that a run's directory already has are appended to or replaced. */
static int probe_entry(const char *dir, const char *name, psd_err_t *err)
{
    static const char *const subdirectories[] = { "tb", "logs" };
    char path[PATH_MAX + NAME_MAX + 2];
    struct stat facts;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (size_t i = 0; i < sizeof subdirectories / sizeof *subdirectories; i++)
        if (!strcmp(name, subdirectories[i]))
            return stat(path, &facts) == 0 && !S_ISDIR(facts.st_mode) && (errno = ENOTDIR)
                       ? psd_err_set(err, PSD_EIO, "cannot write into %s: %s", path, strerror(ENOTDIR))
                       : psd_durable_probe(path, err);
    if (!strncmp(name, "metrics", 7))
        return psd_durable_probe_file(path, true, err);
    return !strncmp(name, "summary", 7) ? psd_durable_probe_file(path, false, err) : PSD_OK;
}

static int probe_run(const char *dir, psd_err_t *err)
{
    int rc = psd_durable_probe(dir, err);
    DIR *all = rc ? NULL : opendir(dir);
    for (const struct dirent *one; !rc && all && (one = readdir(all));)
        rc = probe_entry(dir, one->d_name, err);
    if (all)
        closedir(all);
    return rc;
}

static const struct {
    psd_option_id_t option;
    int (*probe)(const char *path, psd_err_t *err);
} rows[] = {
    { PSD_OPT_save, probe_save },
    { PSD_OPT_trace, probe_trace },
    { PSD_OPT_run_dir, probe_run },
    { PSD_OPT_checkpoint_dir, psd_durable_probe },
};

enum { N_ROWS = sizeof rows / sizeof *rows };

/* ---- all of them ---- */

psd_option_id_t psd_outputs_at(size_t i) { return i < N_ROWS ? rows[i].option : PSD_N_OPTIONS; }

int psd_outputs_probe(const psd_options_t *options, psd_option_id_t id, psd_err_t *err)
{
    const char *path = psd_options_string(options, id);
    psd_err_t why = { 0 };
    for (size_t i = 0; *path && i < N_ROWS; i++)
        if (rows[i].option == id && rows[i].probe(path, &why) && errno != ENOSPC && errno != EDQUOT)
            return psd_err_set(err, PSD_EIO, "%s: %s", psd_option_at(id)->key, why.text);
    return PSD_OK;
}

int psd_outputs_probe_all(const psd_options_t *options, unsigned programs, psd_err_t *err)
{
    int rc = PSD_OK;
    for (size_t i = 0; !rc && i < N_ROWS; i++)
        if (psd_option_at(rows[i].option)->programs & programs)
            rc = psd_outputs_probe(options, rows[i].option, err);
    return rc;
}
