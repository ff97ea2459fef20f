#include "worker/record.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "common/config/number.h"
#include "worker/slurp.h"
#include "worker/tfevents.h"

/* The columns of metrics.csv. Every line has all of them, so that a resumed run can append to its file. */
static const char *const columns[] = {
    "step",           "epoch",        "samples",       "train/samples", "train/skipped",    "train/loss",  "lr",
    "val/loss",       "val/accuracy", "val/mse",       "holdout/loss",  "holdout/accuracy", "holdout/mse", "val/auc",
    "val/logloss",    "val/mae",      "val/r2",        "holdout/auc",   "holdout/logloss",  "holdout/mae", "holdout/r2",
    "train/accuracy", "train/auc",    "train/logloss", "train/mse",     "train/mae",        "train/r2"
};

enum { N_COLUMNS = sizeof columns / sizeof *columns };

struct psd_record {
    FILE *metrics;           /* NULL: no record is kept */
    FILE *csv;               /* NULL: not requested */
    psd_tfevents_t *events;  /* NULL: not requested */
    int failed;              /* errno of the first line that could not be written; 0: none */
    char summary[PATH_MAX];  /* its path */
    char encoding[PATH_MAX]; /* the path of encoding.json; "": another worker keeps it */
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

static int open_csv(psd_record_t *self, const char *dir, psd_err_t *err)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/metrics.csv", dir);
    errno = ENAMETOOLONG;
    if (n >= (int)sizeof path || !(self->csv = fopen(path, "ae")))
        return psd_err_set(err, psd_durable_code(errno), "cannot write %.300s: %s", path, strerror(errno));
    fseek(self->csv, 0, SEEK_END);
    bool is_new = ftell(self->csv) == 0;
    for (size_t i = 0; is_new && i < N_COLUMNS; i++)
        fprintf(self->csv, "%s%s%s", i ? "," : "ts,", columns[i], i + 1 < N_COLUMNS ? "" : "\n");
    return PSD_OK;
}

static int open_events(psd_record_t *self, const char *dir, psd_err_t *err)
{
    char path[PATH_MAX];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (snprintf(path, sizeof path, "%s/tb", dir) >= (int)sizeof path || make_directories(path))
        return psd_err_set(err, psd_durable_code(errno), "cannot make %.300s/tb: %s", dir, strerror(errno));
    self->events = psd_tfevents_new(path, (double)now.tv_sec, err);
    return self->events ? PSD_OK : PSD_EIO;
}

psd_record_t *psd_record_new(const char *dir, uint32_t worker, const char *also, psd_err_t *err)
{
    psd_record_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the metrics");
        return NULL;
    }
    if (!dir || !*dir)
        return self;
    char path[PATH_MAX], suffix[16] = "";
    if (worker)
        snprintf(suffix, sizeof suffix, "-%u", worker);
    int long_name = snprintf(path, sizeof path, "%s/metrics%s.jsonl", dir, suffix) >= (int)sizeof path;
    long_name |=
        snprintf(self->summary, sizeof self->summary - 4, "%s/summary%s.json", dir, suffix) >= (int)sizeof self->summary - 4;
    long_name |= !worker && snprintf(self->encoding, sizeof self->encoding, "%s/encoding.json", dir) >= (int)sizeof self->encoding;
    errno = ENAMETOOLONG;
    if (long_name || make_directories(dir) || !(self->metrics = fopen(path, "ae"))) {
        psd_err_set(err, psd_durable_code(errno), "cannot write to the run's directory %s: %s; set run.dir to another", dir,
                    strerror(errno));
        psd_record_destroy(&self);
        return NULL;
    }
    setvbuf(self->metrics, NULL, _IOLBF, 1 << 12); /* readers of the file see whole lines */
    bool both = !worker && also && strcmp(also, "both") == 0;
    bool csv = both || (!worker && also && strcmp(also, "csv") == 0);
    bool events = both || (!worker && also && strcmp(also, "tensorboard") == 0);
    if ((csv && open_csv(self, dir, err) != PSD_OK) || (events && open_events(self, dir, err) != PSD_OK))
        psd_record_destroy(&self);
    return self;
}

void psd_record_destroy(psd_record_t **self_p)
{
    if (*self_p && (*self_p)->metrics)
        fclose((*self_p)->metrics);
    if (*self_p && (*self_p)->csv)
        fclose((*self_p)->csv);
    if (*self_p)
        psd_tfevents_destroy(&(*self_p)->events);
    free(*self_p);
    *self_p = NULL;
}

/* A cell is empty if this line does not have the value, or if it is not finite. */
static void write_row(psd_record_t *self, double ts, const psd_measure_t *measures, size_t n)
{
    char number[PSD_NUMBER_TEXT];
    size_t found = 0;
    fputs(psd_number_print(ts, number), self->csv);
    for (size_t c = 0; c < N_COLUMNS; c++) {
        fputc(',', self->csv);
        for (size_t i = 0; i < n; i++)
            if (strcmp(measures[i].name, columns[c]) == 0) {
                found++;
                if (isfinite(measures[i].value))
                    fputs(psd_number_print_digits(measures[i].value, 17, number), self->csv);
            }
    }
    assert(found == n && "each measure has a column");
    if (fputc('\n', self->csv) < 0 && !self->failed)
        self->failed = errno;
}

/* metrics.jsonl is up to date, so this file may lag: writing each line at once would cost a system call per step. */
static void flush_copies(psd_record_t *self)
{
    int of_csv = self->csv && fflush(self->csv) ? errno : 0;
    int of_events = self->events ? psd_tfevents_flush(self->events) : 0;
    self->failed = self->failed ? self->failed : of_csv ? of_csv : of_events;
}

void psd_record_line(psd_record_t *self, double ts, const psd_measure_t *measures, size_t n)
{
    if (!self->metrics)
        return;
    char number[PSD_NUMBER_TEXT];
    fprintf(self->metrics, "{\"ts\": %s", psd_number_print(ts, number));
    for (size_t i = 0; i < n; i++)
        fprintf(self->metrics, ", \"%s\": %s", measures[i].name,
                isfinite(measures[i].value) ? psd_number_print_digits(measures[i].value, 17, number) : "null");
    if (fputs("}\n", self->metrics) < 0 && !self->failed)
        self->failed = errno;
    if (self->csv)
        write_row(self, ts, measures, n);
    if (self->events)
        psd_tfevents_add(self->events, ts, (uint64_t)measures[0].value, measures + 1, n - 1);
    if (n > 3 && strncmp(measures[3].name, "val/", 4) == 0) /* rare: flush, so that readers see it */
        flush_copies(self);
}

bool psd_record_has_events(const psd_record_t *self) { return self->events != NULL; }

void psd_record_event(psd_record_t *self, double ts, const psd_measure_t *measures, size_t n)
{
    psd_tfevents_add(self->events, ts, (uint64_t)measures[0].value, measures + 1, n - 1);
}

/* Whether the file of an earlier life is there, and is not this text. */
static bool encoding_differs(const psd_record_t *self, const char *json)
{
    psd_bytes_t earlier;
    if (psd_slurp(&earlier, self->encoding, NULL, NULL) != PSD_OK)
        return false;
    const bool differs = !json || earlier.n != strlen(json) || memcmp(earlier.at, json, earlier.n);
    psd_slurp_free(&earlier);
    return differs;
}

int psd_record_encoding(psd_record_t *self, const char *json, bool goes_on, psd_err_t *err)
{
    if (!*self->encoding)
        return PSD_OK;
    if (goes_on && encoding_differs(self, json))
        return psd_err_set(err, PSD_ECONFIG,
                           "the job goes on, but its columns would become other features than those that its weights were trained "
                           "on, which %s describes: restore the training data and the options of data, or begin another job, in "
                           "another run.dir and checkpoint.dir",
                           self->encoding);
    if (json)
        return psd_durable_put(self->encoding, json, strlen(json), err);
    if (unlink(self->encoding) && errno != ENOENT)
        return psd_err_set(err, psd_durable_code(errno), "cannot remove %s, which is another run's: %s", self->encoding,
                           strerror(errno));
    return PSD_OK;
}

int psd_record_summarise(psd_record_t *self, const char *json, psd_err_t *err)
{
    if (!self->metrics)
        return PSD_OK;
    char *text = NULL;
    const int n = asprintf(&text, "%s\n", json);
    if (n < 0)
        return psd_err_set(err, PSD_ENOMEM, "no memory to write %s", self->summary);
    const int rc = psd_durable_put(self->summary, text, (size_t)n, err);
    free(text);
    if (rc)
        return rc;
    flush_copies(self);
    if (!self->failed && (fflush(self->metrics) || fsync(fileno(self->metrics))))
        self->failed = errno;
    return self->failed ? psd_err_set(err, psd_durable_code(self->failed), "the metrics beside %s are incomplete: %s",
                                      self->summary, strerror(self->failed))
                        : PSD_OK;
}

/* The number behind `"name": ` in a line; false when there is none, or it is null. */
static bool find_number(const char *line, const char *name, double *out)
{
    char key[64];
    const int n = snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = n < (int)sizeof key ? strstr(line, key) : NULL;
    return at && psd_number_read(at + n, out) > 0;
}

void psd_record_history(const char *dir, uint32_t worker, const char *name, void (*each)(void *arg, uint64_t step, double value),
                        void *arg)
{
    char path[PATH_MAX], suffix[16] = "", line[4096];
    if (worker)
        snprintf(suffix, sizeof suffix, "-%u", worker);
    if (!dir || !*dir || snprintf(path, sizeof path, "%s/metrics%s.jsonl", dir, suffix) >= (int)sizeof path)
        return;
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        double step, value;
        if (find_number(line, "step", &step) && step >= 0 && step < 0x1p63 && find_number(line, name, &value))
            each(arg, (uint64_t)step, value);
    }
    if (file)
        fclose(file);
}
