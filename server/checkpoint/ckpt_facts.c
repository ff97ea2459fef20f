#include "server/checkpoint/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/schedule.h"

void psd_ckpt_facts_clear(psd_ckpt_facts_t *self)
{
    free(self->job);
    free(self->settings);
    free(self->applied);
    free(self->residual);
    *self = (psd_ckpt_facts_t){ 0 };
}

/* Find the schedule in the settings, "... schedule=KIND(...) schedule_unit=UNIT ..."; a constant rate has no entry there. */
static bool find_schedule(const char *settings, psd_schedule_t *schedule)
{
    char spec[PSD_SCHEDULE_TEXT], word[8];
    const char *from = strstr(settings, " schedule="), *to = strstr(settings, " schedule_unit=");
    if (!from || !to || to < from || sscanf(to, " schedule_unit=%7s", word) != 1)
        return false;
    from += strlen(" schedule=");
    const int n = snprintf(spec, sizeof spec, "%.*s", (int)(to - from), from);
    return n >= 0 && n < (int)sizeof spec && psd_schedule_parse(schedule, spec, NULL) == PSD_OK &&
           psd_schedule_unit_find(word, &schedule->unit);
}

/* The schedule's position at its next step, and the momentum there. A constant rate stays at position 0. */
static double find_progress(const psd_ckpt_facts_t *self, uint64_t rows, psd_schedule_t *schedule, double *momentum)
{
    *momentum = NAN;
    if (!find_schedule(self->settings, schedule)) {
        *schedule = (psd_schedule_t){ .kind = NULL };
        return 0;
    }
    const double progress = psd_schedule_progress(schedule, self->version, self->samples, rows);
    if (!psd_schedule_momentum(schedule, progress, momentum))
        *momentum = NAN;
    return progress;
}

double psd_ckpt_next_lr(const psd_ckpt_facts_t *self, uint64_t rows, double *momentum)
{
    psd_schedule_t schedule;
    const double progress = find_progress(self, rows, &schedule, momentum);
    return psd_schedule_rate(&schedule, self->lr, progress);
}

double psd_ckpt_group_lr(const psd_ckpt_facts_t *self, uint64_t rows, const psd_groups_t *groups, uint32_t g, double *momentum)
{
    psd_schedule_t schedule;
    const double progress = find_progress(self, rows, &schedule, momentum);
    return psd_groups_rate(groups, g, &schedule, self->lr, progress);
}
