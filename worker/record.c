#include "worker/record.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/number.h"

struct psd_record {
    FILE *metrics;          /* NULL: nothing is kept */
    int failed;             /* errno of the first line that could not be written; 0: none */
    char summary[PATH_MAX]; /* its path */
};

static int make_directories(const char *dir)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", dir);
    for (char *slash = path + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        if (mkdir(path, 0777) && errno != EEXIST)
            return -1;
    }
    return mkdir(path, 0777) && errno != EEXIST ? -1 : 0;
}

psd_record_t *psd_record_new(const char *dir, uint32_t worker, psd_err_t *err)
{
    psd_record_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the metrics");
        return NULL;
    }
    if (!dir || !*dir)
        return self;
    char path[PATH_MAX], suffix[16] = "";
    if (worker > 1)
        snprintf(suffix, sizeof suffix, "-%u", worker);
    int long_name = snprintf(path, sizeof path, "%s/metrics%s.jsonl", dir, suffix) >= (int)sizeof path;
    long_name |= snprintf(self->summary, sizeof self->summary - 4, "%s/summary%s.json", dir, suffix) >=
                 (int)sizeof self->summary - 4;
    errno = ENAMETOOLONG;
    if (long_name || make_directories(dir) || !(self->metrics = fopen(path, "ae"))) {
        psd_err_set(err, PSD_EIO, "cannot write to the run's directory %s: %s; set run.dir to another", dir,
                    strerror(errno));
        psd_record_destroy(&self);
        return NULL;
    }
    setvbuf(self->metrics, NULL, _IOLBF, 1 << 12); /* whoever follows the file sees whole lines */
    return self;
}

void psd_record_destroy(psd_record_t **self_p)
{
    if (*self_p && (*self_p)->metrics)
        fclose((*self_p)->metrics);
    free(*self_p);
    *self_p = NULL;
}

void psd_record_line(psd_record_t *self, double ts, const psd_measure_t *measures, size_t n)
{
    if (!self->metrics)
        return;
    char number[PSD_NUMBER_TEXT];
    fprintf(self->metrics, "{\"ts\": %s", psd_number_print(ts, number));
    for (size_t i = 0; i < n; i++)
        fprintf(self->metrics, ", \"%s\": %s", measures[i].name,
                isfinite(measures[i].value) ? psd_number_print_digits(measures[i].value, 17, number)
                                            : "null");
    if (fputs("}\n", self->metrics) < 0 && !self->failed)
        self->failed = errno;
}

int psd_record_summarise(psd_record_t *self, const char *json, psd_err_t *err)
{
    if (!self->metrics)
        return PSD_OK;
    char temporary[PATH_MAX];
    snprintf(temporary, sizeof temporary, "%.*s.tmp", (int)sizeof temporary - 5, self->summary);
    FILE *file = fopen(temporary, "we");
    int failed = !file || fprintf(file, "%s\n", json) < 0 || fflush(file) || fsync(fileno(file));
    failed = (file && fclose(file)) || failed || rename(temporary, self->summary);
    if (failed)
        return psd_err_set(err, PSD_EIO, "cannot write %s: %s", self->summary, strerror(errno));
    if (!self->failed && (fflush(self->metrics) || fsync(fileno(self->metrics))))
        self->failed = errno;
    return self->failed ? psd_err_set(err, PSD_EIO, "the metrics beside %s are not whole: %s", self->summary,
                                      strerror(self->failed))
                        : PSD_OK;
}
