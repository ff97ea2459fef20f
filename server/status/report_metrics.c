#include "server/status/report_state.h"

static void set_workers(const psd_report_t *self, psd_metrics_t *m, const psd_node_t *node, const psd_instant_t *now, double unix_s)
{
    const psd_membership_t *members = psd_coordinator_members(psd_node_coordinator(node));
    uint64_t front = psd_report_crowd(self, node, now).front;
    for (psd_worker_state_t state = PSD_WORKER_JOINING; state <= PSD_WORKER_LEFT; state++)
        psd_metrics_set(m, PSD_METRIC_WORKERS, psd_worker_state_name(state), psd_membership_count(members, state));
    for (uint32_t i = 0; i < members->n_rows; i++) {
        psd_engine_worker_t here;
        psd_pace_facts_t pace;
        char id[16];
        snprintf(id, sizeof id, "%u", i);
        if (!psd_engine_worker(psd_node_engine(node), i, &here)) {
            psd_metrics_remove(m, PSD_METRIC_WORKER_LAG, id);
            psd_metrics_remove(m, PSD_METRIC_WORKER_LAST_PUSH, id);
            psd_metrics_remove(m, PSD_METRIC_WORKER_AWAITED, id);
            continue;
        }
        psd_metrics_set(m, PSD_METRIC_WORKER_LAG, id, (double)(front > here.applied ? front - here.applied : 0));
        psd_metrics_set(m, PSD_METRIC_WORKER_SAMPLES, id, (double)here.samples);
        if (here.last_push_ms)
            psd_metrics_set(m, PSD_METRIC_WORKER_LAST_PUSH, id, unix_s - (double)(now->ms - here.last_push_ms) * 1e-3);
        if (psd_pace_facts(self->pace, i, now->ns, &pace))
            psd_metrics_set(m, PSD_METRIC_WORKER_AWAITED, id, pace.awaited);
    }
}

/* Workers that should be here, those that have finished counted in. Where lost workers are dropped that is workers.min. */
static double missing_workers(const psd_report_t *self, const psd_node_t *node, const psd_coordinator_facts_t *facts)
{
    const psd_membership_t *members = psd_coordinator_members(psd_node_coordinator(node));
    const bool drops = !strcmp(psd_options_string(self->options, PSD_OPT_workers_lost), "drop");
    const uint32_t due = drops ? facts->workers_min : facts->workers_want;
    uint32_t here = 0;
    for (uint32_t i = 0; i < members->n_rows; i++)
        here += psd_worker_is_here(&members->row[i]) || members->row[i].finished;
    return facts->state == PSD_JOB_FINISHED || here >= due ? 0 : due - here;
}

static void set_job(const psd_report_t *self, psd_metrics_t *m, const psd_node_t *node, uint64_t now_ms, double now)
{
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    psd_metrics_set(m, PSD_METRIC_MEMBERSHIP_EPOCH, NULL, (double)facts.view_id);
    psd_metrics_set(m, PSD_METRIC_ROUNDS_SKIPPED, NULL, (double)facts.skipped);
    psd_metrics_set(m, PSD_METRIC_ROUNDS_GATHERED, NULL, (double)facts.gathered);
    psd_metrics_set(m, PSD_METRIC_WORKERS_LOST, NULL, (double)facts.workers_lost);
    psd_metrics_set(m, PSD_METRIC_WORKERS_QUARANTINED, NULL, (double)facts.workers_quarantined);
    psd_metrics_set(m, PSD_METRIC_WORKERS_MISSING, NULL, missing_workers(self, node, &facts));
    if (facts.point_ms) {
        psd_metrics_set(m, PSD_METRIC_CHECKPOINT_TIME, NULL, now - (double)(now_ms - facts.point_ms) * 1e-3);
        psd_metrics_set(m, PSD_METRIC_CHECKPOINT_DURATION, NULL, (double)facts.save_ms * 1e-3);
    }
    const double epoch = psd_report_epoch(&facts, psd_node_engine(node)), left = psd_report_value(&facts, PSD_PROGRESS_LEFT);
    if (isfinite(epoch))
        psd_metrics_set(m, PSD_METRIC_EPOCH, NULL, epoch);
    if (isfinite(left) && facts.state == PSD_JOB_TRAINING) /* as in /status */
        psd_metrics_set(m, PSD_METRIC_TIME_LEFT, NULL, left);
    else
        psd_metrics_remove(m, PSD_METRIC_TIME_LEFT, NULL);
    for (uint32_t i = 0; i < facts.n_reports; i++)
        if (psd_report_is_free(facts.report[i].name) || !strcmp(facts.report[i].name, PSD_VALIDATION_LOSS))
            psd_metrics_set(m, PSD_METRIC_VALIDATION, facts.report[i].name, facts.report[i].value);
}

static void set_state(const psd_report_t *self, psd_metrics_t *m, const psd_node_t *node)
{
    /* Write all states each time, so that the last value from an earlier process does not remain in force. */
    static const char *const states[] = {
#define X(name, word) word,
        PSD_JOB_STATES(X)
#undef X
            "stopped",
        "failed"
    };
    const char *state = psd_report_state(self, node);
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        psd_metrics_set(m, PSD_METRIC_JOB_STATE, states[i], strcmp(states[i], state) == 0);
}

/* Complete pushes of members that have no answer yet. */
static unsigned count_queue(const psd_report_t *self, const psd_engine_t *engine, const psd_instant_t *now)
{
    unsigned n = 0;
    psd_engine_worker_t here;
    psd_pace_facts_t pace;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        n +=
            psd_engine_worker(engine, i, &here) && psd_pace_facts(self->pace, i, now->ns, &pace) && pace.phase >= PSD_PHASE_WAITING;
    return n;
}

static void set_endpoint(psd_metrics_t *m, const psd_status_t *status)
{
    for (size_t row = 0; psd_status_path(row); row++)
        psd_metrics_set(m, PSD_METRIC_HTTP_REQUESTS, psd_status_path(row), (double)psd_status_requests(status, row));
}

static void set_engine(const psd_report_t *self, psd_metrics_t *m, const psd_node_t *node)
{
    const psd_engine_t *engine = psd_node_engine(node);
    const psd_engine_stats_t *stats = psd_engine_stats(engine);
    psd_metrics_set(m, PSD_METRIC_BUILD_INFO, PSD_VERSION, 1);
    psd_metrics_set(m, PSD_METRIC_UP_SINCE, NULL, self->since);
    psd_metrics_set(m, PSD_METRIC_STEPS, NULL, (double)stats->steps);
    psd_metrics_set(m, PSD_METRIC_SHARD_VERSION, NULL, (double)psd_engine_version(engine));
    psd_metrics_set(m, PSD_METRIC_ROUNDS, psd_options_string(self->options, PSD_OPT_sync_mode), (double)stats->rounds);
    psd_metrics_set(m, PSD_METRIC_SAMPLES, NULL, (double)stats->samples);
    psd_metrics_set(m, PSD_METRIC_PUSHES, NULL, (double)stats->messages);
    psd_metrics_set(m, PSD_METRIC_FOLDED, NULL, (double)stats->folded);
    psd_metrics_set(m, PSD_METRIC_ASKED_AGAIN, NULL, (double)stats->asked_again);
    psd_metrics_set(m, PSD_METRIC_AHEAD, NULL, (double)stats->ahead);
    psd_metrics_set(m, PSD_METRIC_AHEAD_IN_VAIN, NULL, (double)stats->ahead_in_vain);
    psd_metrics_set(m, PSD_METRIC_PULLS, "fast", (double)stats->pulls_fast);
    psd_metrics_set(m, PSD_METRIC_PULLS, "slow", (double)stats->pulls_slow);
    psd_metrics_set(m, PSD_METRIC_MEMORY_LINKS, NULL, (double)self->memory_links);
    psd_metrics_set(m, PSD_METRIC_CONNECTIONS_REFUSED, NULL, (double)self->connections_refused);
    psd_metrics_set(m, PSD_METRIC_RECEIVED_BYTES, NULL, (double)self->received_bytes);
    psd_metrics_set(m, PSD_METRIC_SENT_BYTES, NULL, (double)self->sent_bytes);
    psd_metrics_set_buckets(m, PSD_METRIC_STALENESS, NULL, stats->staleness, PSD_STALENESS_BUCKETS, (double)stats->staleness_sum);
    for (unsigned i = 1; i < PSD_N_REFUSALS; i++)
        psd_metrics_set(m, PSD_METRIC_MESSAGES_REJECTED, psd_refusal_name(i), (double)psd_report_rejected(node, i));
    psd_metrics_set(m, PSD_METRIC_LEARNING_RATE, NULL, stats->lr);
    psd_metrics_set(m, PSD_METRIC_LOOKAHEAD_SYNCS, NULL, (double)stats->syncs);
    psd_metrics_set(m, PSD_METRIC_RESIDUAL_RESETS, NULL, (double)stats->residual_resets);
    if (stats->steps) {
        psd_metrics_set(m, PSD_METRIC_TRAINING_LOSS, NULL, stats->loss);
        psd_metrics_set(m, PSD_METRIC_GRADIENT_NORM, NULL, sqrt(stats->grad_norm2));
        psd_metrics_set(m, PSD_METRIC_CLIP_SCALE, NULL, stats->clip_scale);
    }
}

char *psd_report_metrics(psd_report_t *self, const psd_node_t *node, const psd_status_t *status, const psd_instant_t *now)
{
    const psd_engine_t *engine = psd_node_engine(node);
    if (!self->metrics && psd_engine_is_ready(engine))
        self->metrics = psd_metrics_new(psd_engine_index(engine));
    if (!self->metrics)
        return NULL;
    set_engine(self, self->metrics, node);
    set_state(self, self->metrics, node);
    psd_report_absent_t absent;
    psd_report_absent(self, node, &absent);
    psd_metrics_set(self->metrics, PSD_METRIC_SERVERS_LOST, NULL, absent.n_lost_servers);
    psd_metrics_set(self->metrics, PSD_METRIC_QUEUE_LENGTH, NULL, count_queue(self, engine, now));
    if (self->stored_bytes)
        psd_metrics_set(self->metrics, PSD_METRIC_CHECKPOINT_BYTES, NULL, (double)self->stored_bytes);
    if (psd_node_coordinator(node)) {
        set_job(self, self->metrics, node, now->ms, psd_report_unix_time());
        set_workers(self, self->metrics, node, now, psd_report_unix_time());
        psd_report_health_metrics(self, node);
    }
    set_endpoint(self->metrics, status);
    psd_metrics_collect(self->metrics);
    return psd_metrics_prometheus(self->metrics);
}
