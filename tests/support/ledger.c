#include "tests/support/ledger.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double ledger_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

double ledger_line_ms(const char *line)
{
    struct tm tm = { 0 };
    double seconds;
    if (sscanf(line, "ts=%d-%d-%dT%d:%d:%lf", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &seconds) != 6)
        return 0;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    return (double)timegm(&tm) * 1e3 + seconds * 1e3;
}

/* Undo the rounds after `clock`. */
static void go_back(ledger_t *self, uint64_t clock)
{
    for (uint64_t c = clock + 1; c <= self->last && c < self->capacity; c++)
        self->who[c] = 0;
    self->last = clock;
}

static int apply(ledger_t *self, uint64_t clock, unsigned worker, const char *line, psd_err_t *err)
{
    if (clock >= self->capacity) {
        const size_t more = clock * 2 + 1024;
        uint16_t *who = realloc(self->who, more * sizeof *who);
        if (!who)
            return psd_err_set(err, PSD_ENOMEM, "no memory for a ledger of %zu rounds", more);
        memset(who + self->capacity, 0, (more - self->capacity) * sizeof *who);
        self->who = who;
        self->capacity = more;
    }
    if (clock != self->last && clock != self->last + 1)
        return psd_err_set(err, PSD_EDATA, "%s: follows round %" PRIu64, line, self->last);
    if (self->who[clock] & 1u << worker)
        return psd_err_set(err, PSD_EDATA, "%s: was applied before", line);
    self->who[clock] |= (uint16_t)(1u << worker);
    self->last = clock;
    self->applied++;
    return PSD_OK;
}

int ledger_read(ledger_t *out, unsigned shard, char *log, psd_err_t *err)
{
    unsigned long long run = 0, run_before = 0;
    int rc = PSD_OK;
    *out = (ledger_t){ 0 };
    for (char *rest = log, *line; !rc && (line = strsep(&rest, "\n"));) {
        unsigned of, worker;
        unsigned long long clock;
        const char *at = strstr(line, "id=push.applied ");
        if (!at ||
            sscanf(at, "id=push.applied shard=%u clock=%llu worker=%u incarnation=%*u run=%llx", &of, &clock, &worker, &run) != 4)
            continue;
        if (of != shard || worker >= LEDGER_WORKERS || !clock)
            rc = psd_err_set(err, PSD_EDATA, "%s: is not of shard %u", line, shard);
        else if (run != run_before && clock <= out->last)
            go_back(out, clock - 1);
        run_before = run;
        if (!rc)
            rc = apply(out, clock, worker, line, err);
    }
    if (rc)
        ledger_clear(out);
    return rc;
}

int ledger_check(const ledger_t *self, uint64_t steps, unsigned n_workers, psd_err_t *err)
{
    if (self->last != steps)
        return psd_err_set(err, PSD_EDATA, "the last round is %" PRIu64 " of %" PRIu64, self->last, steps);
    for (uint64_t c = 1; c <= steps; c++)
        if (self->who[c] != (1u << n_workers) - 1)
            return psd_err_set(err, PSD_EDATA, "round %" PRIu64 " has contributions of workers %x (a bit each) of %u", c,
                               self->who[c], n_workers);
    return PSD_OK;
}

void ledger_clear(ledger_t *self)
{
    free(self->who);
    *self = (ledger_t){ 0 };
}
