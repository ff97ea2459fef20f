/* psd_chaos.c - psd-chaos [--full] [--count N] [--seed N] ID: runs one campaign of faults, and prints a line of figures at its end.
 * Exit code 77 when this machine does not permit it. */
#include "common/config/usage.h"
#include "tests/faults/chaos.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/rng.h"
#include "tests/support/cluster.h"

static const struct campaign {
    const char *id, *title;
    unsigned full, share; /* faults of the whole, and of the ordinary tests' share */
    void (*run)(chaos_t *self);
} campaigns[] = {
    { "T1", "SIGKILL of workers", 1000, 8, chaos_kill_workers },
    { "T2", "SIGKILL of servers", 1000, 6, chaos_kill_servers },
    { "T3", "kills and pauses of any process, also during a checkpoint", 1000, 12, chaos_mix },
    { "T3-end", "a kill in the last moments of a short job", 50, 1, chaos_last_moments },
    { "T6", "a disk that is full", 200, 2, chaos_full_disk },
    { "T10", "a disk that is read-only", 40, 2, chaos_read_only_disk },
    { "T10-slow", "a disk that is slow", 5, 1, chaos_slow_disk },
    { "T11", "connections cut", 10000, 50, chaos_cut },
    { "T11-slow", "bytes held back", 60, 3, chaos_slow_network },
    { "T11-flip", "bits of the stream changed", 1000, 5, chaos_stream_flips },
    { "T12", "messages lost, repeated, reordered", 1000000, 5000, chaos_messages },
    { "T12-flip", "bits changed on the way", 10000, 100, chaos_flips },
    { "T13", "networks parted, one way and both", 200, 3, chaos_partition },
    { "T15", "SIGSTOP, then SIGCONT", 200, 4, chaos_pause },
    { "T16", "connections of strangers", 1000000, 5000, chaos_strangers },
    { "T18", "frames of 8 GiB announced", 1000, 100, chaos_announce },
    { "T18-frames", "messages without end, in MiB", 10240, 600, chaos_endless },
    { "T18-crowd", "more connections than descriptors", 20, 2, chaos_crowd },
    { "T18-status", "slow requests for the status, in seconds", 120, 5, chaos_slow_guests },
    { "T21", "an allocation that fails", 1000, 5, chaos_no_memory },
    { "T27", "kills, stops, resumes on other servers, spoilt checkpoints, full disks", 500, 4, chaos_mixed },
    { "T29", "SIGTERM at random moments", 1000, 5, chaos_terminate },
};
enum { N_CAMPAIGNS = sizeof campaigns / sizeof *campaigns };

uint64_t chaos_below(chaos_t *self, uint64_t n) { return psd_splitmix64(&self->chance) % n; }

void chaos_say(chaos_t *self, const char *format, ...)
{
    const size_t n = strlen(self->text);
    va_list args;
    va_start(args, format);
    vsnprintf(self->text + n, sizeof self->text - n, format, args);
    va_end(args);
}

void chaos_add(chaos_times_t *self, double ms)
{
    if (self->n < CHAOS_SAMPLES)
        self->ms[self->n++] = ms;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double chaos_quantile(chaos_times_t *self, double q)
{
    qsort(self->ms, self->n, sizeof *self->ms, ascending);
    const double at = ceil(q * self->n) - 1;
    return self->n ? self->ms[at > 0 ? (unsigned)at : 0] : 0;
}

void chaos_say_times(chaos_t *self, const char *what, chaos_times_t *times)
{
    chaos_say(self, "; %s p50 %.0f ms, p99 %.0f ms, longest %.0f ms of %u", what, chaos_quantile(times, 0.5),
              chaos_quantile(times, 0.99), chaos_quantile(times, 1), times->n);
}

enum { FULL, COUNT, SEED };
static const psd_option_t flags[] = {
    [FULL] = { .key = "full", .type = PSD_OPTION_SWITCH, .help = "as many faults as before a release; otherwise a share of them" },
    [COUNT] = { .key = "count", .type = PSD_OPTION_UINT64, .range = "1..1000000000", .help = "number of faults" },
    [SEED] = { .key = "seed", .type = PSD_OPTION_UINT64, .help = "random seed; default: another each time" },
    { .key = NULL },
};
static const psd_usage_t usage = {
    .name = "psd-chaos",
    .words = "[ID]",
    .does = "cause faults in real processes, and compare the final weights with those of an undisturbed run",
    .about = "Without ID it lists the campaigns.",
    .flag = flags,
    .examples = "psd-chaos --seed=7 T11\n"
};

static int list_campaigns(void)
{
    for (unsigned i = 0; i < N_CAMPAIGNS; i++)
        printf("%-10s %7u  %s\n", campaigns[i].id, campaigns[i].full, campaigns[i].title);
    return 64;
}

int main(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    const struct campaign *campaign = NULL;
    chaos_t self = { .seed = given->flag[SEED] ? given->value[SEED].u : (uint64_t)getpid(),
                     .whole = given->flag[FULL],
                     .count = (unsigned)given->value[COUNT].u };
    for (unsigned i = 0; i < N_CAMPAIGNS && given->word[0]; i++)
        if (!strcmp(given->word[0], campaigns[i].id))
            campaign = &campaigns[i];
    if (!campaign)
        return list_campaigns();
    if (!self.count)
        self.count = self.whole ? campaign->full : campaign->share;
    self.chance = self.seed;
    const uint64_t begin = cluster_now_ms();
    fprintf(stderr, "%s: seed %llu\n", campaign->id, (unsigned long long)self.seed);
    campaign->run(&self);
    if (self.skipped)
        printf("%s skipped: %s\n", campaign->id, self.skipped);
    else
        printf("%s passed: %s: %s, %.0f s, seed %llu\n", campaign->id, campaign->title, self.text,
               (double)(cluster_now_ms() - begin) / 1e3, (unsigned long long)self.seed);
    return self.skipped ? 77 : 0;
}
