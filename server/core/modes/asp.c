/* asp.c - asynchronous: each whole push is a step of its own at each shard, and no worker waits for another. There are no rounds;
 * the coordinator's clock numbers the checkpoints. */
#include "server/core/modes/answers.h"

static psd_push_t whole_push(const psd_progress_t *p)
{
    return p->max_staleness && p->staleness > p->max_staleness ? PSD_PUSH_DROPS : PSD_PUSH_STEPS;
}

static bool may_step(const psd_progress_t *p) { return !p->held; }

/* Clocks are each worker's own. */
static uint64_t joins_at(const psd_progress_t *p) { return p->resumes_at; }

static double rate(const psd_progress_t *p) { return p->lr_rule->factor(p->members, p->staleness); }

static uint64_t progress(const psd_progress_t *p) { return p->steps; }

static uint64_t save_clock(const psd_progress_t *p) { return p->clock + 1; }

/* A shard's report may be older than its last step: at the end, only a checkpoint ordered after all pushes counts. */
static bool is_saved(const psd_progress_t *p) { return p->point_progress == p->steps && p->point_is_final; }

const psd_mode_t psd_mode_asp = {
    .name = "asp",
    .summary = "asynchronous: each worker's push is a step of its own, and no worker waits",
    .unit = "step",
    .whole_push = whole_push,
    .may_step = may_step,
    .may_pull = psd_answer_yes,
    .joins_at = joins_at,
    .rate = rate,
    .may_change_view = psd_answer_yes,
    .progress = progress,
    .save_clock = save_clock,
    .is_saved = is_saved,
};
