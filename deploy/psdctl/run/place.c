#include "deploy/psdctl/run/place.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int psd_place_find(psd_place_t *self, psd_err_t *err)
{
    static const char *const programs[] = { PSD_PROGRAM_NAME, "psd-worker" };
    char copy[PATH_MAX], path[PATH_MAX + 16];
    ssize_t n = readlink("/proc/self/exe", self->self, sizeof self->self - 1);
    if (n < 0)
        return psd_err_set(err, PSD_ESYSTEM, "cannot find the path of psdctl: %s", strerror(errno));
    self->self[n] = '\0';
    snprintf(copy, sizeof copy, "%s", self->self);
    snprintf(self->bin, sizeof self->bin, "%s", dirname(copy));
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        snprintf(path, sizeof path, "%s/%s", self->bin, programs[i]);
        if (access(path, X_OK) != 0)
            return psd_err_set(err, PSD_ENOINPUT, "%s is missing beside psdctl", path);
    }
    return PSD_OK;
}

void psd_place_choose(const psd_options_t *options, const char *kind, char out[PSD_PLACE_DIRECTORY])
{
    const char *told = psd_options_string(options, PSD_OPT_run_dir);
    char stamp[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
    snprintf(out, PSD_PLACE_DIRECTORY, "%s", told);
    for (unsigned i = 0; !*told && i < 100; i++) {
        snprintf(out, PSD_PLACE_DIRECTORY, "runs/%s%s-%s", psd_options_string(options, PSD_OPT_job), kind, stamp);
        if (i)
            snprintf(out + strlen(out), 16, "-%u", i);
        if (access(out, F_OK) != 0)
            break;
    }
}

int psd_place_make(const char *path, psd_err_t *err)
{
    char copy[PATH_MAX];
    int failed = 0;
    snprintf(copy, sizeof copy, "%s", path);
    for (char *p = copy + 1; !failed && (p = strchr(p, '/')); *p++ = '/') {
        *p = '\0';
        failed = mkdir(copy, 0777) != 0 && errno != EEXIST;
    }
    failed = failed || (mkdir(copy, 0777) != 0 && errno != EEXIST);
    return failed ? psd_err_set(err, PSD_EIO, "cannot make %s: %s; set run.dir", path, strerror(errno)) : PSD_OK;
}

int psd_place_reserve(const char *directory, int *lock, psd_err_t *err)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/.lock", directory);
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*lock < 0)
        return psd_err_set(err, PSD_EIO, "run.dir: cannot write %.300s: %s", path, strerror(errno));
    if (!flock(*lock, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) /* a file system without locks never returns this */
        return PSD_OK;
    close(*lock);
    *lock = -1;
    return psd_err_set(err, PSD_ECONFIG,
                       "another psdctl works in %.300s: wait until it has ended, or set run.dir to another directory", directory);
}

static int remove_one(const char *path, const struct stat *facts, int kind, struct FTW *where)
{
    (void)facts, (void)kind, (void)where;
    return remove(path);
}

int psd_place_remove(const char *path, psd_err_t *err)
{
    enum { OPEN_AT_ONCE = 16 };
    if (nftw(path, remove_one, OPEN_AT_ONCE, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
        return psd_err_set(err, PSD_EIO, "cannot remove %s: %s", path, strerror(errno));
    return PSD_OK;
}
