#include "common/base/metrics.h"

#include <assert.h>
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <uthash.h>

#include "common/system/log.h"

typedef enum { COUNTER, GAUGE, STEPS_HISTOGRAM, SECONDS_HISTOGRAM } type_t;

enum { MAX_LABEL = 128, N_BOUNDS = 12 };

static const struct row {
    const char *name;
    type_t type;
    bool per_shard;
    const char *label, *help;
} rows[PSD_N_METRICS] = {
#define X(NAME, type, name, per_shard, label, help) { name, type, per_shard, label, help },
    PSD_METRICS(X)
#undef X
};

/* Upper bounds of the buckets; another bucket takes all larger values. */
static const double bounds[][N_BOUNDS] = {
    [STEPS_HISTOGRAM] = { 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024 },
    [SECONDS_HISTOGRAM] = { 1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1, 2.5, 10, 60 },
};

typedef struct series {
    struct {
        psd_metric_t metric;
        char label[MAX_LABEL];
    } key;        /* hashed as bytes, so padding must be set */
    double value; /* of a histogram: the sum */
    uint64_t bucket[N_BOUNDS + 1];
    struct series *next; /* next series of the same metric, in order of appearance */
    UT_hash_handle hh;
} series_t;

struct psd_metrics {
    uint32_t shard;
    series_t *all; /* by key */
    series_t *first[PSD_N_METRICS];
    unsigned n[PSD_N_METRICS];
};

static bool is_histogram(psd_metric_t metric) { return rows[metric].type >= STEPS_HISTOGRAM; }

static series_t *find(const psd_metrics_t *self, psd_metric_t metric, const char *label, series_t *like)
{
    series_t *found;
    assert(metric < PSD_N_METRICS && (label != NULL) == (*rows[metric].label != '\0'));
    if (!label && self->first[metric])
        return self->first[metric]; /* of a metric with one series: found without a hash, because some are observed in each round */
    memset(&like->key, 0, sizeof like->key);
    like->key.metric = metric;
    snprintf(like->key.label, sizeof like->key.label, "%s", label ? label : "");
    HASH_FIND(hh, self->all, &like->key, sizeof like->key, found);
    return found;
}

/* Find or make the series; NULL when there is no room. */
static series_t *find_or_add(psd_metrics_t *self, psd_metric_t metric, const char *label)
{
    series_t like, *found = find(self, metric, label, &like);
    if (found || self->n[metric] == PSD_METRIC_MAX_SERIES || !(found = calloc(1, sizeof *found)))
        return found;
    found->key = like.key;
    HASH_ADD(hh, self->all, key, sizeof found->key, found);
    series_t **last = &self->first[metric];
    while (*last)
        last = &(*last)->next;
    *last = found;
    self->n[metric]++;
    return found;
}

psd_metrics_t *psd_metrics_new(uint32_t shard)
{
    psd_metrics_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->shard = shard;
    for (psd_metric_t m = 0; m < PSD_N_METRICS; m++)
        if (rows[m].type == COUNTER && !*rows[m].label)
            psd_metrics_set(self, m, NULL, 0);
    psd_metrics_set(self, PSD_METRIC_BUILD_INFO, PSD_VERSION, 1);
    return self;
}

void psd_metrics_destroy(psd_metrics_t **self_p)
{
    if (!*self_p)
        return;
    series_t *series, *after;
    HASH_ITER(hh, (*self_p)->all, series, after)
    {
        HASH_DEL((*self_p)->all, series);
        free(series);
    }
    free(*self_p);
    *self_p = NULL;
}

void psd_metrics_set(psd_metrics_t *self, psd_metric_t metric, const char *label, double x)
{
    assert(!is_histogram(metric));
    series_t *series = find_or_add(self, metric, label);
    if (series)
        series->value = x;
}

void psd_metrics_observe(psd_metrics_t *self, psd_metric_t metric, const char *label, double x)
{
    assert(is_histogram(metric));
    series_t *series = find_or_add(self, metric, label);
    if (!series || isnan(x))
        return;
    size_t i = 0;
    while (i < N_BOUNDS && x > bounds[rows[metric].type][i])
        i++;
    series->bucket[i]++;
    series->value += x;
}

void psd_metrics_set_buckets(psd_metrics_t *self, psd_metric_t metric, const char *label, const uint64_t *counts, size_t n,
                             double sum)
{
    assert(is_histogram(metric) && n == N_BOUNDS + 1);
    series_t *series = find_or_add(self, metric, label);
    if (!series)
        return;
    memcpy(series->bucket, counts, n * sizeof *counts);
    series->value = sum;
}

void psd_metrics_remove(psd_metrics_t *self, psd_metric_t metric, const char *label)
{
    series_t like, *series = find(self, metric, label, &like);
    if (!series)
        return;
    series_t **link = &self->first[metric];
    while (*link != series)
        link = &(*link)->next;
    *link = series->next;
    self->n[metric]--;
    HASH_DEL(self->all, series);
    free(series);
}

/* -- the process ------------------------------------------------------------------------------------------- */

static double seconds(struct timeval t) { return (double)t.tv_sec + (double)t.tv_usec / 1e6; }

static unsigned count_fds(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n > 3 ? n - 3 : 0; /* "." and ".." and the directory itself */
}

/* Fields of /proc/self/stat behind the command name, which may hold anything but its own end. */
static void collect_stat(psd_metrics_t *self)
{
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "r");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file)
        fclose(file);
    text[n] = '\0';
    const char *rest = strrchr(text, ')');
    long threads;
    unsigned long long start, bytes;
    long pages;
    if (!rest || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu %llu %ld",
                        &threads, &start, &bytes, &pages) != 4)
        return;
    struct timespec wall, boot;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    double booted = (double)(wall.tv_sec - boot.tv_sec) + (double)(wall.tv_nsec - boot.tv_nsec) / 1e9;
    psd_metrics_set(self, PSD_METRIC_THREADS, NULL, (double)threads);
    psd_metrics_set(self, PSD_METRIC_START_TIME, NULL, booted + (double)start / (double)sysconf(_SC_CLK_TCK));
    psd_metrics_set(self, PSD_METRIC_VIRTUAL_MEMORY, NULL, (double)bytes);
    psd_metrics_set(self, PSD_METRIC_RESIDENT_MEMORY, NULL, (double)pages * (double)sysconf(_SC_PAGESIZE));
}

void psd_metrics_collect(psd_metrics_t *self)
{
    struct rusage usage;
    struct rlimit limit;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        psd_metrics_set(self, PSD_METRIC_CPU_SECONDS, NULL, seconds(usage.ru_utime) + seconds(usage.ru_stime));
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        psd_metrics_set(self, PSD_METRIC_MAX_FDS, NULL, (double)limit.rlim_cur);
    psd_metrics_set(self, PSD_METRIC_OPEN_FDS, NULL, count_fds());
    collect_stat(self);
    for (psd_log_level_t level = 0; level < PSD_LOG_LEVELS; level++)
        psd_metrics_set(self, PSD_METRIC_LOG_MESSAGES, psd_log_level_name(level), (double)psd_log_count(level));
}

/* -- text -------------------------------------------------------------------------------------------------- */

static void print_number(FILE *out, double x)
{
    if (isnan(x))
        fputs("NaN", out);
    else if (isinf(x))
        fputs(x > 0 ? "+Inf" : "-Inf", out);
    else
        fprintf(out, "%.*g", x == floor(x) && fabs(x) < 1e17 ? 17 : 15, x);
}

static void print_label(FILE *out, const char *name, const char *value, bool *open)
{
    fprintf(out, "%s%s=\"", *open ? "," : "{", name);
    for (; *value; value++)
        if (*value == '\n')
            fputs("\\n", out);
        else
            fprintf(out, *value == '"' || *value == '\\' ? "\\%c" : "%c", *value);
    fputc('"', out);
    *open = true;
}

/* One line: name and suffix, labels, `bound` as the label le unless NULL, number. */
static void print_line(const psd_metrics_t *self, FILE *out, const series_t *series, const char *suffix, const char *bound,
                       double x)
{
    const struct row *row = &rows[series->key.metric];
    char shard[16];
    bool open = false;
    fprintf(out, "%s%s", row->name, suffix);
    snprintf(shard, sizeof shard, "%" PRIu32, self->shard);
    if (row->per_shard)
        print_label(out, "shard", shard, &open);
    if (*row->label)
        print_label(out, row->label, series->key.label, &open);
    if (bound)
        print_label(out, "le", bound, &open);
    fputs(open ? "} " : " ", out);
    print_number(out, x);
    fputc('\n', out);
}

static void print_histogram(const psd_metrics_t *self, FILE *out, const series_t *series)
{
    uint64_t below = 0;
    for (size_t i = 0; i <= N_BOUNDS; i++) {
        char bound[32] = "+Inf";
        if (i < N_BOUNDS)
            snprintf(bound, sizeof bound, "%g", bounds[rows[series->key.metric].type][i]);
        below += series->bucket[i];
        print_line(self, out, series, "_bucket", bound, (double)below);
    }
    print_line(self, out, series, "_sum", NULL, series->value);
    print_line(self, out, series, "_count", NULL, (double)below);
}

char *psd_metrics_prometheus(const psd_metrics_t *self)
{
    static const char *const type_names[] = { "counter", "gauge", "histogram", "histogram" };
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out)
        return NULL;
    for (psd_metric_t m = 0; m < PSD_N_METRICS; m++) {
        if (!self->first[m])
            continue;
        fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", rows[m].name, rows[m].help, rows[m].name, type_names[rows[m].type]);
        for (const series_t *series = self->first[m]; series; series = series->next)
            if (is_histogram(m))
                print_histogram(self, out, series);
            else
                print_line(self, out, series, "", NULL, series->value);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
