#include "server/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "common/metrics.h"

enum { LATE_MS = 1000, MAX_LABELLED_WORKERS = 1024 };

struct psd_report {
    const psd_options_t *options;
    const char *settings;
    psd_metrics_t *metrics;          /* NULL until the shard knows its number */
    char rule[PSD_RULE_TEXT];
    double lr;
    bool lookahead;
    uint32_t k;
    double alpha;
    double since;                    /* Unix time of the start */
    uint64_t start_ms;
    uint64_t received_bytes, sent_bytes, sends_lost, apply_ns, connections_refused;
    double apply_s[256];             /* the newest chunk steps, for quantiles */
    unsigned n_apply;
};

static double unix_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

psd_report_t *psd_report_new(const psd_options_t *options, const char *settings, psd_err_t *err)
{
    psd_report_t *self = calloc(1, sizeof *self);
    psd_rule_t rule;
    if (!self || psd_rule_parse(&rule, psd_options_string(options, "optimizer"), err) != PSD_OK) {
        if (!self)
            psd_err_set(err, PSD_ENOMEM, "no memory for a report");
        free(self);
        return NULL;
    }
    self->options = options;
    self->settings = settings;
    psd_rule_print(&rule, self->rule);
    self->lr = psd_rule_lr(&rule);
    self->lookahead = rule.lookahead;
    self->k = rule.k;
    self->alpha = rule.alpha;
    self->since = unix_time();
    return self;
}

void psd_report_destroy(psd_report_t **self_p)
{
    if (*self_p)
        psd_metrics_destroy(&(*self_p)->metrics);
    free(*self_p);
    *self_p = NULL;
}

void psd_report_apply(psd_report_t *self, uint64_t ns)
{
    self->apply_ns += ns;
    self->apply_s[self->n_apply++ % 256] = (double)ns * 1e-9;
    if (self->metrics)
        psd_metrics_observe(self->metrics, PSD_METRIC_APPLY_DURATION, NULL, (double)ns * 1e-9);
}

void psd_report_received(psd_report_t *self, size_t n_bytes) { self->received_bytes += n_bytes; }

void psd_report_sent(psd_report_t *self, size_t n_bytes, bool accepted)
{
    if (accepted)
        self->sent_bytes += n_bytes;
    else
        self->sends_lost++;
}

void psd_report_traffic(const psd_report_t *self, uint64_t *received_bytes, uint64_t *sent_bytes)
{
    *received_bytes = self->received_bytes;
    *sent_bytes = self->sent_bytes;
}

void psd_report_connections_refused(psd_report_t *self, uint64_t n) { self->connections_refused = n; }

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double apply_p99(const psd_report_t *self)
{
    double sorted[256];
    unsigned n = self->n_apply < 256 ? self->n_apply : 256;
    memcpy(sorted, self->apply_s, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_size);
    return n ? sorted[(n * 99) / 100 < n ? (n * 99) / 100 : n - 1] : 0;
}

/* ---- /status ---- */

/* JSON has no NaN: what was not measured is null. */
static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static const char *state_name(const psd_node_t *node)
{
    const psd_coordinator_t *coordinator = psd_node_coordinator(node);
    if (!coordinator)
        return psd_engine_version(psd_node_engine(node)) ? "training" : "waiting";
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(coordinator, &facts);
    return psd_job_state_name(facts.state);
}

static json_t *worker_json(const psd_node_t *node, const psd_worker_row_t *row, uint64_t now_ms, uint64_t front)
{
    psd_engine_worker_t here = { 0 };
    bool member = psd_engine_worker(psd_node_engine(node), row->id, &here);
    json_t *w = json_pack("{s:i, s:s, s:I, s:s, s:I, s:f}", "id", (int)row->id, "name", row->name, "incarnation",
                          (json_int_t)row->incarnation, "state",
                          row->state == PSD_WORKER_LIVE && now_ms > row->heard_ms + LATE_MS ? "late" : psd_worker_state_name(row->state),
                          "step", (json_int_t)row->clock, "last_heard_age_seconds", (double)(now_ms - row->heard_ms) * 1e-3);
    if (!member)
        return w;
    json_object_set_new(w, "lag_steps", json_integer((json_int_t)(front > here.applied ? front - here.applied : 0)));
    json_object_set_new(w, "pushes", json_integer((json_int_t)here.pushes));
    json_object_set_new(w, "samples", json_integer((json_int_t)here.samples));
    json_object_set_new(w, "loss", number(here.loss));
    json_object_set_new(w, "staleness", json_integer((json_int_t)here.staleness));
    json_object_set_new(w, "chunks_held", json_integer((json_int_t)here.held));
    json_object_set_new(w, "last_push_age_seconds",
                        here.last_push_ms ? json_real((double)(now_ms - here.last_push_ms) * 1e-3) : json_null());
    return w;
}

/* How far the first of the members has come. */
static uint64_t front_clock(const psd_node_t *node)
{
    const psd_membership_t *m = psd_coordinator_members(psd_node_coordinator(node));
    uint64_t front = 0;
    for (uint32_t i = 0; i < m->n_rows; i++) {
        psd_engine_worker_t here;
        if (psd_engine_worker(psd_node_engine(node), i, &here) && here.applied > front)
            front = here.applied;
    }
    return front;
}

static json_t *workers_json(const psd_node_t *node, uint64_t now_ms)
{
    json_t *list = json_array();
    if (!psd_node_coordinator(node))
        return list;
    const psd_membership_t *m = psd_coordinator_members(psd_node_coordinator(node));
    uint64_t front = front_clock(node);
    for (uint32_t i = 0; i < m->n_rows; i++)
        if (m->row[i].state != PSD_WORKER_ABSENT)
            json_array_append_new(list, worker_json(node, &m->row[i], now_ms, front));
    return list;
}

static json_t *sync_json(const psd_report_t *self, const psd_node_t *node)
{
    const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(node));
    json_t *waiting = json_array();
    if (psd_node_coordinator(node)) {
        psd_coordinator_facts_t facts;
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
        if (facts.waiting_for[0])
            json_array_append_new(waiting, json_string(facts.waiting_for));
    }
    uint64_t n = 0;
    for (int i = 0; i < PSD_STALENESS_BUCKETS; i++)
        n += stats->staleness[i];
    return json_pack("{s:s, s:{s:f, s:I}, s:o}", "mode", psd_options_string(self->options, "sync.mode"), "staleness", "mean",
                     n ? (double)stats->staleness_sum / (double)n : 0.0, "max", (json_int_t)stats->staleness_max,
                     "waiting_for", waiting);
}

static json_t *optimizer_json(const psd_report_t *self, const psd_engine_t *engine)
{
    double lr = psd_engine_stats(engine)->steps ? psd_engine_stats(engine)->lr : self->lr;
    json_t *o = json_pack("{s:s, s:f}", "rule", self->rule, "lr_now", lr);
    if (self->lookahead)
        json_object_set_new(o, "lookahead", json_pack("{s:i, s:f, s:I, s:i}", "k", (int)self->k, "alpha", self->alpha,
                                                      "sync_epoch", (json_int_t)psd_engine_sync_epoch(engine), "phase",
                                                      (int)(psd_engine_version(engine) % self->k)));
    return o;
}

/* Messages refused for that reason, by the shard and, in server 0, by the coordinator. */
static uint64_t rejected(const psd_node_t *node, unsigned reason)
{
    psd_coordinator_facts_t facts = { 0 };
    if (psd_node_coordinator(node))
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
    return psd_engine_stats(psd_node_engine(node))->rejected[reason] + facts.rejected[reason];
}

static json_t *rejected_json(const psd_node_t *node)
{
    json_t *r = json_object();
    for (unsigned i = 1; i < PSD_N_REFUSALS; i++)
        json_object_set_new(r, psd_refusal_name(i), json_integer((json_int_t)rejected(node, i)));
    return r;
}

static json_t *shard_json(const psd_report_t *self, const psd_node_t *node)
{
    const psd_engine_t *engine = psd_node_engine(node);
    const psd_shard_t *shard = psd_engine_shard(engine);
    return json_pack("{s:i, s:I, s:I, s:I, s:I, s:i, s:f, s:I, s:I, s:I, s:o}", "index", (int)psd_engine_index(engine), "epoch",
                     (json_int_t)psd_engine_epoch(engine), "version",
                     (json_int_t)psd_engine_version(engine), "parameters", (json_int_t)psd_engine_elements(engine), "bytes",
                     (json_int_t)(psd_engine_elements(engine) * sizeof(float)), "chunks",
                     shard ? (int)psd_shard_parts(shard) : 0, "apply_seconds_p99", apply_p99(self), "received_bytes",
                     (json_int_t)self->received_bytes, "sent_bytes", (json_int_t)self->sent_bytes, "sends_lost",
                     (json_int_t)self->sends_lost, "rejected", rejected_json(node));
}

static void add_job_facts(json_t *status, const psd_node_t *node, uint64_t now_ms)
{
    if (!psd_node_coordinator(node))
        return;
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    json_object_set_new(status, "reason", json_string(facts.waiting_for));
    json_object_set_new(status, "view", json_integer((json_int_t)facts.view_id));
    json_object_set_new(status, "skipped_rounds", json_integer((json_int_t)facts.skipped));
    json_object_set_new(status, "runs", json_integer((json_int_t)facts.runs));
    if (facts.has_point) {
        json_t *point = json_pack("{s:I, s:b, s:b}", "last_step", (json_int_t)facts.point_clock, "saving", facts.saving, "failing",
                                  facts.save_failing);
        if (facts.point_ms) { /* else it was there before this process */
            json_object_set_new(point, "age_seconds", json_real((double)(now_ms - facts.point_ms) * 1e-3));
            json_object_set_new(point, "duration_seconds", json_real((double)facts.save_ms * 1e-3));
        }
        json_object_set_new(status, "checkpoint", point);
    }
    if (facts.has_report)
        json_object_set_new(status, "report", json_pack("{s:s, s:o}", "name", facts.report_name, "value", number(facts.report_value)));
}

static json_t *status_json(const psd_report_t *self, const psd_node_t *node, uint64_t now_ms)
{
    const psd_engine_t *engine = psd_node_engine(node);
    const psd_engine_stats_t *stats = psd_engine_stats(engine);
    json_t *status = json_pack(
        "{s:s, s:s, s:s, s:{s:i, s:I}, s:s, s:f, s:s, s:s, s:{s:I, s:I, s:I}, s:{s:o}, s:o, s:o, s:o, s:[o], s:[]}", "schema",
        "psd.status/1", "job", psd_options_string(self->options, "job"), "role", "server", "shard", "index",
        (int)psd_engine_index(engine), "count", (json_int_t)psd_options_int(self->options, "servers"), "version", PSD_VERSION,
        "uptime_seconds", (double)(now_ms - self->start_ms) * 1e-3, "state", state_name(node), "settings", self->settings,
        "progress", "step", (json_int_t)stats->steps, "rounds", (json_int_t)stats->rounds, "samples", (json_int_t)stats->samples,
        "loss", "train", stats->steps ? number(stats->loss) : json_null(), "optimizer", optimizer_json(self, engine), "sync",
        sync_json(self, node), "workers", workers_json(node, now_ms), "shards", shard_json(self, node), "alerts");
    if (status)
        add_job_facts(status, node, now_ms);
    return status;
}

/* ---- /metrics ---- */

static void set_workers(psd_metrics_t *m, const psd_node_t *node, uint64_t now_ms, double now)
{
    const psd_membership_t *members = psd_coordinator_members(psd_node_coordinator(node));
    uint64_t front = front_clock(node);
    for (psd_worker_state_t state = PSD_WORKER_JOINING; state <= PSD_WORKER_LEFT; state++)
        psd_metrics_set(m, PSD_METRIC_WORKERS, psd_worker_state_name(state), psd_membership_count(members, state));
    for (uint32_t i = 0; i < members->n_rows; i++) {
        psd_engine_worker_t here;
        char id[16];
        snprintf(id, sizeof id, "%u", i);
        if (!psd_engine_worker(psd_node_engine(node), i, &here)) {
            psd_metrics_remove(m, PSD_METRIC_WORKER_LAG, id);
            psd_metrics_remove(m, PSD_METRIC_WORKER_LAST_PUSH, id);
            continue;
        }
        psd_metrics_set(m, PSD_METRIC_WORKER_LAG, id, (double)(front > here.applied ? front - here.applied : 0));
        psd_metrics_set(m, PSD_METRIC_WORKER_SAMPLES, id, (double)here.samples);
        if (here.last_push_ms)
            psd_metrics_set(m, PSD_METRIC_WORKER_LAST_PUSH, id, now - (double)(now_ms - here.last_push_ms) * 1e-3);
    }
}

static void set_job(psd_metrics_t *m, const psd_node_t *node, uint64_t now_ms, double now)
{
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    psd_metrics_set(m, PSD_METRIC_MEMBERSHIP_EPOCH, NULL, (double)facts.view_id);
    if (facts.point_ms) {
        psd_metrics_set(m, PSD_METRIC_CHECKPOINT_TIME, NULL, now - (double)(now_ms - facts.point_ms) * 1e-3);
        psd_metrics_set(m, PSD_METRIC_CHECKPOINT_DURATION, NULL, (double)facts.save_ms * 1e-3);
    }
    if (facts.has_report)
        psd_metrics_set(m, PSD_METRIC_VALIDATION, facts.report_name, facts.report_value);
}

static void set_engine(const psd_report_t *self, psd_metrics_t *m, const psd_node_t *node)
{
    const psd_engine_t *engine = psd_node_engine(node);
    const psd_engine_stats_t *stats = psd_engine_stats(engine);
    psd_metrics_set(m, PSD_METRIC_BUILD_INFO, PSD_VERSION, 1);
    psd_metrics_set(m, PSD_METRIC_UP_SINCE, NULL, self->since);
    psd_metrics_set(m, PSD_METRIC_STEPS, NULL, (double)stats->steps);
    psd_metrics_set(m, PSD_METRIC_SHARD_VERSION, NULL, (double)psd_engine_version(engine));
    psd_metrics_set(m, PSD_METRIC_ROUNDS, psd_options_string(self->options, "sync.mode"), (double)stats->rounds);
    psd_metrics_set(m, PSD_METRIC_SAMPLES, NULL, (double)stats->samples);
    psd_metrics_set(m, PSD_METRIC_PUSHES, NULL, (double)stats->chunks);
    psd_metrics_set(m, PSD_METRIC_PULLS, "fast", (double)stats->pulls_fast);
    psd_metrics_set(m, PSD_METRIC_PULLS, "slow", (double)stats->pulls_slow);
    psd_metrics_set(m, PSD_METRIC_CONNECTIONS_REFUSED, NULL, (double)self->connections_refused);
    psd_metrics_set(m, PSD_METRIC_RECEIVED_BYTES, NULL, (double)self->received_bytes);
    psd_metrics_set(m, PSD_METRIC_SENT_BYTES, NULL, (double)self->sent_bytes);
    psd_metrics_set_buckets(m, PSD_METRIC_STALENESS, NULL, stats->staleness, PSD_STALENESS_BUCKETS,
                            (double)stats->staleness_sum);
    for (unsigned i = 1; i < PSD_N_REFUSALS; i++)
        psd_metrics_set(m, PSD_METRIC_MESSAGES_REJECTED, psd_refusal_name(i), (double)rejected(node, i));
    psd_metrics_set(m, PSD_METRIC_LEARNING_RATE, NULL, stats->steps ? stats->lr : self->lr);
    psd_metrics_set(m, PSD_METRIC_LOOKAHEAD_SYNCS, NULL, (double)stats->syncs);
    if (stats->steps) {
        psd_metrics_set(m, PSD_METRIC_TRAINING_LOSS, NULL, stats->loss);
        psd_metrics_set(m, PSD_METRIC_GRADIENT_NORM, NULL, sqrt(stats->grad_norm2));
    }
}

static char *metrics_text(psd_report_t *self, const psd_node_t *node, uint64_t now_ms)
{
    const psd_engine_t *engine = psd_node_engine(node);
    if (!self->metrics && psd_engine_is_ready(engine))
        self->metrics = psd_metrics_new(psd_engine_index(engine));
    if (!self->metrics)
        return NULL;
    set_engine(self, self->metrics, node);
    if (psd_node_coordinator(node)) {
        set_job(self->metrics, node, now_ms, unix_time());
        set_workers(self->metrics, node, now_ms, unix_time());
    }
    psd_metrics_collect(self->metrics);
    return psd_metrics_prometheus(self->metrics);
}

/* ---- publishing ---- */

static bool readiness(const psd_report_t *self, const psd_node_t *node, char *lines, size_t n)
{
    const psd_engine_t *engine = psd_node_engine(node);
    bool joined = psd_engine_is_ready(engine), quorum = true;
    int at = snprintf(lines, n, "%s\n[+]listening ok\n", joined ? "[+]joined ok" : "[-]joined waiting for server 0");
    if (psd_node_coordinator(node)) {
        psd_coordinator_facts_t facts;
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
        int64_t min = psd_options_int(self->options, "workers.min");
        quorum = facts.state == PSD_JOB_FINISHED || facts.n_members >= min;
        snprintf(lines + at, n - (size_t)at, "[%c]quorum %u/%" PRId64 "\n", quorum ? '+' : '-', facts.n_members, min);
    }
    return joined && quorum;
}

void psd_report_publish(psd_report_t *self, const psd_node_t *node, uint64_t now_ms, psd_status_t *status)
{
    struct timespec t;
    char lines[256];
    if (!self->start_ms)
        self->start_ms = now_ms;
    json_t *document = status_json(self, node, now_ms);
    char *json = document ? json_dumps(document, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    char *metrics = metrics_text(self, node, now_ms);
    clock_gettime(CLOCK_MONOTONIC, &t);
    psd_status_publish(status, &(psd_status_snapshot_t){
                                   .tick_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000,
                                   .ready = readiness(self, node, lines, sizeof lines),
                                   .ready_lines = lines,
                                   .status_json = json,
                                   .metrics = metrics,
                               });
    json_decref(document);
    free(json);
    free(metrics);
}
