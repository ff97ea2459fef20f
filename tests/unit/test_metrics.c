#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/base/metrics.h"
#include "tests/support/kept.h"

static psd_metrics_t *metrics;

static void setup(void) { cr_assert_not_null(metrics = psd_metrics_new(2)); }
static void teardown(void) { psd_metrics_destroy(&metrics); }
TestSuite(metrics, .init = setup, .fini = teardown, .timeout = 600);

static void assert_has(const char *line)
{
    char *text = psd_metrics_prometheus(metrics);
    cr_assert_not_null(strstr(text, line), "lacks \"%s\" in:\n%s", line, text);
    free(text);
}

/* The value of the series whose line begins with `series`; NaN when there is none. */
static double value_of(const char *series)
{
    char *text = psd_metrics_prometheus(metrics), wanted[96];
    snprintf(wanted, sizeof wanted, "\n%s ", series);
    const char *at = strstr(text, wanted);
    const double value = at ? strtod(at + strlen(wanted), NULL) : NAN;
    free(text);
    return value;
}

Test(metrics, a_counter_starts_at_zero_and_is_what_it_is_set_to)
{
    assert_has("# TYPE psd_steps_total counter\npsd_steps_total{shard=\"2\"} 0\n");
    psd_metrics_set(metrics, PSD_METRIC_STEPS, NULL, 3);
    assert_has("psd_steps_total{shard=\"2\"} 3\n");
}

Test(metrics, each_label_value_is_a_series_and_can_go)
{
    psd_metrics_set(metrics, PSD_METRIC_WORKERS, "live", 2);
    psd_metrics_set(metrics, PSD_METRIC_WORKERS, "lost", 1);
    psd_metrics_set(metrics, PSD_METRIC_MESSAGES_REJECTED, "nonfinite", 1);
    assert_has("psd_workers{state=\"live\"} 2\npsd_workers{state=\"lost\"} 1\n");
    assert_has("psd_messages_rejected_total{shard=\"2\",reason=\"nonfinite\"} 1\n");
    psd_metrics_remove(metrics, PSD_METRIC_WORKERS, "live");
    psd_metrics_remove(metrics, PSD_METRIC_WORKERS, "never");
    char *text = psd_metrics_prometheus(metrics);
    cr_assert_null(strstr(text, "live"));
    cr_assert_not_null(strstr(text, "lost"));
    free(text);
}

Test(metrics, a_histogram_counts_the_values_up_to_each_bound)
{
    psd_metrics_observe(metrics, PSD_METRIC_STALENESS, NULL, 0);
    psd_metrics_observe(metrics, PSD_METRIC_STALENESS, NULL, 3);
    psd_metrics_observe(metrics, PSD_METRIC_STALENESS, NULL, 5000);
    psd_metrics_observe(metrics, PSD_METRIC_STALENESS, NULL, NAN);
    assert_has("psd_staleness_steps_bucket{le=\"0\"} 1\n");
    assert_has("psd_staleness_steps_bucket{le=\"2\"} 1\n");
    assert_has("psd_staleness_steps_bucket{le=\"4\"} 2\n");
    assert_has("psd_staleness_steps_bucket{le=\"1024\"} 2\n");
    assert_has("psd_staleness_steps_bucket{le=\"+Inf\"} 3\n");
    assert_has("psd_staleness_steps_sum 5003\n");
    assert_has("psd_staleness_steps_count 3\n");
}

Test(metrics, a_histogram_may_be_counted_elsewhere)
{
    const uint64_t counts[PSD_METRIC_BUCKETS] = { [0] = 4, [3] = 2, [PSD_METRIC_BUCKETS - 1] = 1 };
    psd_metrics_set_buckets(metrics, PSD_METRIC_STALENESS, NULL, counts, PSD_METRIC_BUCKETS, 2008);
    assert_has("psd_staleness_steps_bucket{le=\"0\"} 4\n");
    assert_has("psd_staleness_steps_bucket{le=\"2\"} 4\n");
    assert_has("psd_staleness_steps_bucket{le=\"4\"} 6\n");
    assert_has("psd_staleness_steps_bucket{le=\"+Inf\"} 7\n");
    assert_has("psd_staleness_steps_sum 2008\n");
    assert_has("psd_staleness_steps_count 7\n");
}

Test(metrics, numbers_and_labels_are_written_as_the_format_wants)
{
    psd_metrics_set(metrics, PSD_METRIC_TRAINING_LOSS, NULL, NAN);
    psd_metrics_set(metrics, PSD_METRIC_GRADIENT_NORM, NULL, INFINITY);
    psd_metrics_set(metrics, PSD_METRIC_LEARNING_RATE, NULL, 0.001);
    psd_metrics_set(metrics, PSD_METRIC_UP_SINCE, NULL, 1767225600);
    psd_metrics_set(metrics, PSD_METRIC_VALIDATION, "a\"b\\c\nd", 1);
    assert_has("psd_training_loss NaN\n");
    assert_has("psd_gradient_norm +Inf\n");
    assert_has("psd_learning_rate 0.001\n");
    assert_has("psd_up_since_timestamp_seconds 1767225600\n");
    psd_metrics_set(metrics, PSD_METRIC_UP_SINCE, NULL, 1234567890123457);
    assert_has("psd_up_since_timestamp_seconds 1234567890123457\n");
    assert_has("psd_validation_metric{name=\"a\\\"b\\\\c\\nd\"} 1\n");
}

Test(metrics, a_metric_stops_at_its_most_series)
{
    char worker[16];
    for (int i = 0; i < 2 * PSD_METRIC_MAX_SERIES; i++) {
        snprintf(worker, sizeof worker, "%d", i);
        psd_metrics_set(metrics, PSD_METRIC_WORKER_LAG, worker, i + 1);
    }
    cr_assert_eq(value_of("psd_worker_lag_steps{worker=\"1099\"}"), 1100);
    cr_assert(isnan(value_of("psd_worker_lag_steps{worker=\"1100\"}")));
}

Test(metrics, the_process_is_described)
{
    psd_metrics_collect(metrics);
    cr_assert_geq(value_of("process_threads"), 1);
    cr_assert_geq(value_of("process_open_fds"), 2);
    const double now = (double)time(NULL), start = value_of("process_start_time_seconds");
    cr_expect(start <= now + 2 && start > now - 600, "a moment ago: %f, now %f", start, now);
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    cr_assert(file && fscanf(file, "%*d %ld", &pages) == 1);
    fclose(file);
    const double bytes = (double)pages * (double)sysconf(_SC_PAGESIZE), told = value_of("process_resident_memory_bytes");
    cr_expect(told > bytes / 2 && told < bytes * 2, "%f, not %f", told, bytes);
}

static double used(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

Test(metrics, the_processor_time_is_that_of_the_program_and_of_the_system_for_it)
{
    struct rusage usage;
    do { /* until both count */
        for (int i = 0; i < 1000; i++)
            (void)!lseek(-1, 0, SEEK_CUR);
        getrusage(RUSAGE_SELF, &usage);
    } while (!usage.ru_utime.tv_usec || usage.ru_stime.tv_usec < 20000);
    const double before = used();
    psd_metrics_collect(metrics);
    const double told = value_of("process_cpu_seconds_total");
    cr_expect(told >= before - 1e-6 && told <= used() + 1e-6, "%f is not from %f to %f", told, before, used());
}

Test(metrics, open_descriptors_are_those_of_the_process)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    psd_metrics_collect(metrics);
    cr_expect_eq(value_of("process_open_fds"), n);
}

Test(metrics, a_series_that_is_removed_makes_room_for_another)
{
    char worker[16];
    for (int i = 0; i <= PSD_METRIC_MAX_SERIES; i++) {
        snprintf(worker, sizeof worker, "%d", i);
        psd_metrics_set(metrics, PSD_METRIC_WORKER_LAG, worker, i);
        psd_metrics_remove(metrics, PSD_METRIC_WORKER_LAG, worker);
    }
    psd_metrics_set(metrics, PSD_METRIC_WORKER_LAG, "7", 9);
    cr_expect_eq(value_of("psd_worker_lag_steps{worker=\"7\"}"), 9);
}

Test(metrics, promtool_finds_nothing_to_complain_about)
{
    if (system("command -v promtool >/dev/null") != 0)
        cr_skip_test("promtool is not installed");
    psd_metrics_collect(metrics);
    psd_metrics_set(metrics, PSD_METRIC_WORKERS, "live", 2);
    psd_metrics_observe(metrics, PSD_METRIC_STALENESS, NULL, 3);
    psd_metrics_observe(metrics, PSD_METRIC_APPLY_DURATION, NULL, 3);
    char *text = psd_metrics_prometheus(metrics);
    FILE *lint = popen("promtool check metrics", "w");
    fputs(text, lint);
    cr_assert_eq(pclose(lint), 0);
    free(text);
}

/* ---- the page ---- */

static void print_page(FILE *out)
{
    static const struct {
        const char *type, *name, *label, *help;
    } rows[] = {
#define X(NAME, type, name, per_shard, label, help) { #type, name, label, help },
        PSD_METRICS(X)
#undef X
    };
    fputs("# Metrics\n\nAll metrics of `/metrics`, with their types and labels; those with a shard's own value also have the label "
          "`shard`. "
          "Made by\n`tests/unit/test_metrics.c` from `common/base/metrics.h`. [monitoring.md](monitoring.md) says how to watch a "
          "job with "
          "them.\n\n| metric | type | label | meaning |\n|---|---|---|---|\n",
          out);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *type = strstr(rows[i].type, "HISTOGRAM") ? "histogram" : !strcmp(rows[i].type, "COUNTER") ? "counter" : "gauge";
        fprintf(out, "| `%s` | %s | %s%s%s | %s |\n", rows[i].name, type, *rows[i].label ? "`" : "", rows[i].label,
                *rows[i].label ? "`" : "", rows[i].help);
    }
}

Test(metrics, the_page_lists_each_of_them)
{
    char *page = NULL;
    size_t n;
    FILE *out = open_memstream(&page, &n);
    print_page(out);
    fclose(out);
    expect_kept("docs/metrics.md", page);
    free(page);
}
