#include "server/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/pace.h"

enum { LATE_MS = 1000, SILENT_MS = 1500 /* workers say something each second */ };

/* Whom to call slow: the round lacks its push alone for such a share of time, and so many times that of the worker that is
 * awaited least, for somebody is always the last; in asp, a push takes so many times as long as others'. */
static const double SLOW_SHARE = 0.1, SLOW_RATIO = 2, SLOW_FACTOR = 1.5;

/* What the trainer calls the loss on its test set. */
static const char VALIDATION_LOSS[] = "val/loss";

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
    const char *outcome;             /* state of a server that ends; NULL: it goes on */
    uint64_t start_ms;
    uint64_t received_bytes, sent_bytes, sends_lost, apply_ns;
    double apply_s[256];             /* the newest chunk steps, for quantiles */
    unsigned n_apply;
    psd_pace_t *pace;
    struct {
        uint64_t chunks, pushes, rounds; /* of the engine's counters */
    } seen;
    uint64_t stored_bytes;
    const char *told_state;              /* in the metrics; NULL: none yet */
};

/* The loop's clocks when a snapshot is made. */
typedef struct instant {
    uint64_t ms, ns;
} instant_t;

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
    if (self)
        self->pace = psd_pace_new(psd_mode_find(psd_options_string(options, "sync.mode"))->per_push);
    if (!self || !self->pace || psd_rule_parse(&rule, psd_options_string(options, "optimizer"), err) != PSD_OK) {
        if (!self || !self->pace)
            psd_err_set(err, PSD_ENOMEM, "no memory for a report");
        psd_report_destroy(&self);
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
    if (*self_p) {
        psd_metrics_destroy(&(*self_p)->metrics);
        psd_pace_destroy(&(*self_p)->pace);
    }
    free(*self_p);
    *self_p = NULL;
}

static void observe(psd_report_t *self, psd_metric_t metric, double seconds)
{
    if (self->metrics && seconds >= 0)
        psd_metrics_observe(self->metrics, metric, NULL, seconds);
}

void psd_report_apply(psd_report_t *self, uint64_t ns)
{
    self->apply_ns += ns;
    self->apply_s[self->n_apply++ % 256] = (double)ns * 1e-9;
    observe(self, PSD_METRIC_APPLY_DURATION, (double)ns * 1e-9);
}

void psd_report_end(psd_report_t *self, int code)
{
    self->outcome = code == PSD_OK ? "finished" : code == PSD_ESTOPPED ? "stopped" : "failed";
}

void psd_report_received(psd_report_t *self, size_t n_bytes) { self->received_bytes += n_bytes; }

void psd_report_sent(psd_report_t *self, const psd_msg_t *msg, size_t n_bytes, bool accepted, uint64_t ns)
{
    if (accepted)
        self->sent_bytes += n_bytes;
    else
        self->sends_lost++;
    if (msg->kind == PSD_MSG_WEIGHTS)
        observe(self, PSD_METRIC_PUSH_LATENCY, psd_pace_answer(self->pace, msg->worker, ns));
}

void psd_report_saw(psd_report_t *self, const psd_node_t *node, const psd_msg_t *msg, uint64_t ns)
{
    const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(node));
    if (msg && stats->pushes > self->seen.pushes)
        psd_pace_complete(self->pace, msg->worker, msg->samples, ns);
    else if (msg && stats->chunks > self->seen.chunks)
        psd_pace_chunk(self->pace, msg->worker, ns);
    if (stats->rounds > self->seen.rounds) {
        psd_pace_round_t round = psd_pace_close(self->pace, ns);
        observe(self, PSD_METRIC_ROUND_DURATION, round.duration_s);
        observe(self, PSD_METRIC_BARRIER_WAIT, round.barrier_s);
    }
    self->seen.chunks = stats->chunks;
    self->seen.pushes = stats->pushes;
    self->seen.rounds = stats->rounds;
}

void psd_report_stored(psd_report_t *self, uint64_t n_bytes) { self->stored_bytes = n_bytes; }

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

static const char *state_name(const psd_report_t *self, const psd_node_t *node)
{
    const psd_coordinator_t *coordinator = psd_node_coordinator(node);
    if (self->outcome)
        return self->outcome;
    if (!coordinator)
        return psd_engine_version(psd_node_engine(node)) ? "training" : "waiting";
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(coordinator, &facts);
    return psd_job_state_name(facts.state);
}

/* How the members do that a worker is compared with. */
typedef struct crowd {
    uint64_t front;           /* clock of the first */
    double compute_s, send_s; /* medians, per push */
    double awaited;           /* share of the one that is awaited least */
} crowd_t;

static bool is_slow(const psd_report_t *self, const psd_pace_facts_t *pace, const crowd_t *crowd)
{
    if (psd_mode_find(psd_options_string(self->options, "sync.mode"))->per_push)
        return pace->compute_s + pace->send_s > SLOW_FACTOR * (crowd->compute_s + crowd->send_s);
    return pace->awaited > SLOW_SHARE && pace->awaited > SLOW_RATIO * crowd->awaited;
}

/* Why the others wait for it; NULL when they do not. */
static const char *slow_reason(const psd_report_t *self, const psd_pace_facts_t *pace, const crowd_t *crowd, uint64_t silent_ms)
{
    return !is_slow(self, pace, crowd)                                               ? NULL
           : silent_ms > SILENT_MS                                                   ? "silent"
           : pace->send_s - crowd->send_s > pace->compute_s - crowd->compute_s ? "network"
                                                                                     : "compute";
}

static void add_pace(json_t *w, const psd_pace_facts_t *pace)
{
    static const char *const phases[] = { [PSD_PHASE_COMPUTING] = "computing", [PSD_PHASE_SENDING] = "sending",
                                          [PSD_PHASE_WAITING] = "waiting", [PSD_PHASE_SERVING] = "served" };
    json_t *shares = json_object();
    for (unsigned i = 0; i < PSD_N_PHASES; i++)
        json_object_set_new(shares, phases[i], json_real(pace->share[i]));
    json_object_set_new(w, "time_shares", shares);
    json_object_set_new(w, "compute_seconds", json_real(pace->compute_s));
    json_object_set_new(w, "send_seconds", json_real(pace->send_s));
    json_object_set_new(w, "samples_per_second", json_real(pace->samples_per_s));
    json_object_set_new(w, "awaited_share", json_real(pace->awaited));
    json_object_set_new(w, "awaiting_seconds", json_real(pace->awaiting_s));
}

/* Say of whom the others wait for by how much it differs from them. */
static void add_slow_alert(json_t *alerts, const psd_worker_row_t *row, const char *reason, const psd_pace_facts_t *pace,
                           const crowd_t *crowd, double silent_s)
{
    char text[256], how[128];
    if (!strcmp(reason, "silent"))
        snprintf(how, sizeof how, "nothing was heard of it for %.1f s", silent_s);
    else if (!strcmp(reason, "network"))
        snprintf(how, sizeof how, "its pushes take %.3g ms to arrive, others' %.3g ms", pace->send_s * 1e3, crowd->send_s * 1e3);
    else
        snprintf(how, sizeof how, "it computes for %.3g ms a push, others for %.3g ms", pace->compute_s * 1e3,
                 crowd->compute_s * 1e3);
    if (pace->awaited > 0)
        snprintf(text, sizeof text, "rounds wait for worker %u (%.64s) %.0f %% of the time: %s", row->id, row->name,
                 pace->awaited * 100, how);
    else
        snprintf(text, sizeof text, "worker %u (%.64s) is slow: %s", row->id, row->name, how);
    json_array_append_new(alerts, json_string(text));
}

static json_t *worker_json(const psd_report_t *self, const psd_node_t *node, const psd_worker_row_t *row, const instant_t *now,
                           const crowd_t *crowd, json_t *alerts)
{
    psd_engine_worker_t here = { 0 };
    psd_pace_facts_t pace;
    bool member = psd_engine_worker(psd_node_engine(node), row->id, &here);
    uint64_t silent_ms = now->ms - row->heard_ms;
    json_t *w = json_pack("{s:i, s:s, s:I, s:s, s:I, s:f}", "id", (int)row->id, "name", row->name, "incarnation",
                          (json_int_t)row->incarnation, "state",
                          row->state == PSD_WORKER_LIVE && silent_ms > LATE_MS ? "late" : psd_worker_state_name(row->state),
                          "step", (json_int_t)row->clock, "last_heard_age_seconds", (double)silent_ms * 1e-3);
    if (!member)
        return w;
    json_object_set_new(w, "lag_steps", json_integer((json_int_t)(crowd->front > here.applied ? crowd->front - here.applied : 0)));
    json_object_set_new(w, "pushes", json_integer((json_int_t)here.pushes));
    json_object_set_new(w, "samples", json_integer((json_int_t)here.samples));
    json_object_set_new(w, "loss", number(here.loss));
    json_object_set_new(w, "staleness", json_integer((json_int_t)here.staleness));
    json_object_set_new(w, "chunks_held", json_integer((json_int_t)here.held));
    json_object_set_new(w, "last_push_age_seconds",
                        here.last_push_ms ? json_real((double)(now->ms - here.last_push_ms) * 1e-3) : json_null());
    if (!psd_pace_facts(self->pace, row->id, now->ns, &pace))
        return w;
    const char *reason = slow_reason(self, &pace, crowd, silent_ms);
    add_pace(w, &pace);
    json_object_set_new(w, "slow_reason", reason ? json_string(reason) : json_null());
    if (reason)
        add_slow_alert(alerts, row, reason, &pace, crowd, (double)silent_ms * 1e-3);
    return w;
}

/* The lower one of two, so that one slow worker is compared with the other. */
static double median(double *x, unsigned n)
{
    qsort(x, n, sizeof *x, by_size);
    return n ? x[(n - 1) / 2] : 0;
}

static crowd_t look_at_members(const psd_report_t *self, const psd_node_t *node, const instant_t *now)
{
    static double compute_s[PSD_MAX_WORKERS], send_s[PSD_MAX_WORKERS]; /* one thread, and 16 KiB */
    const psd_membership_t *m = psd_coordinator_members(psd_node_coordinator(node));
    crowd_t crowd = { .awaited = 1 };
    unsigned n = 0;
    for (uint32_t i = 0; i < m->n_rows; i++) {
        psd_engine_worker_t here;
        psd_pace_facts_t pace;
        if (!psd_engine_worker(psd_node_engine(node), i, &here))
            continue;
        crowd.front = here.applied > crowd.front ? here.applied : crowd.front;
        if (psd_pace_facts(self->pace, i, now->ns, &pace)) {
            compute_s[n] = pace.compute_s;
            send_s[n++] = pace.send_s;
            crowd.awaited = fmin(crowd.awaited, pace.awaited);
        }
    }
    crowd.compute_s = median(compute_s, n);
    crowd.send_s = median(send_s, n);
    return crowd;
}

static json_t *workers_json(const psd_report_t *self, const psd_node_t *node, const instant_t *now, json_t *alerts)
{
    json_t *list = json_array();
    if (!psd_node_coordinator(node))
        return list;
    const psd_membership_t *m = psd_coordinator_members(psd_node_coordinator(node));
    crowd_t crowd = look_at_members(self, node, now);
    for (uint32_t i = 0; i < m->n_rows; i++)
        if (m->row[i].state != PSD_WORKER_ABSENT)
            json_array_append_new(list, worker_json(self, node, &m->row[i], now, &crowd, alerts));
    return list;
}

static json_t *servers_json(const psd_node_t *node, const instant_t *now)
{
    json_t *list = json_array();
    psd_server_facts_t facts;
    for (uint32_t i = 0; psd_node_coordinator(node) && psd_coordinator_server(psd_node_coordinator(node), i, &facts); i++)
        json_array_append_new(list, json_pack("{s:i, s:s, s:b, s:I, s:I, s:o}", "index", (int)i, "endpoint", facts.endpoint, "joined",
                                              facts.joined, "step", (json_int_t)facts.clock, "version", (json_int_t)facts.version,
                                              "last_heard_age_seconds",
                                              facts.joined ? json_real((double)(now->ms - facts.heard_ms) * 1e-3) : json_null()));
    return list;
}

static json_t *sync_json(const psd_report_t *self, const psd_node_t *node)
{
    const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(node));
    json_t *histogram = json_array();
    json_t *waiting = json_array();
    if (psd_node_coordinator(node)) {
        psd_coordinator_facts_t facts;
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
        if (facts.waiting_for[0])
            json_array_append_new(waiting, json_string(facts.waiting_for));
    }
    uint64_t n = 0;
    for (int i = 0; i < PSD_STALENESS_BUCKETS; i++) {
        n += stats->staleness[i];
        json_array_append_new(histogram, json_integer((json_int_t)stats->staleness[i]));
    }
    return json_pack("{s:s, s:{s:f, s:I, s:I, s:o}, s:o}", "mode", psd_options_string(self->options, "sync.mode"), "staleness", "mean",
                     n ? (double)stats->staleness_sum / (double)n : 0.0, "max", (json_int_t)stats->staleness_max,
                     "bound", (json_int_t)psd_options_uint(self->options, "sync.max_staleness"), "histogram", histogram, "waiting_for",
                     waiting);
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

static void add_job_facts(const psd_report_t *self, json_t *status, const psd_node_t *node, uint64_t now_ms)
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
        if (self->stored_bytes)
            json_object_set_new(point, "shard_bytes", json_integer((json_int_t)self->stored_bytes));
        json_object_set_new(point, "dir", json_string(psd_options_string(self->options, "checkpoint.dir")));
        json_object_set_new(status, "checkpoint", point);
    }
    for (uint32_t i = 0; i < facts.n_reports; i++)
        if (!strcmp(facts.report[i].name, VALIDATION_LOSS))
            json_object_set_new(json_object_get(status, "loss"), "val", number(facts.report[i].value));
        else
            json_object_set_new(status, "report",
                                json_pack("{s:s, s:o}", "name", facts.report[i].name, "value", number(facts.report[i].value)));
}

/* What somebody should look at, in sentences; workers have added theirs. */
static void add_job_alerts(json_t *alerts, const psd_node_t *node)
{
    psd_coordinator_facts_t facts = { 0 };
    char text[128];
    if (psd_node_coordinator(node))
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
    if (facts.save_failing)
        json_array_append_new(alerts, json_string("checkpoints cannot be written; see the log"));
    if (facts.skipped) {
        snprintf(text, sizeof text, "%" PRIu64 " rounds were skipped, for gradients with Inf or NaN", facts.skipped);
        json_array_append_new(alerts, json_string(text));
    }
}

static json_t *status_json(const psd_report_t *self, const psd_node_t *node, const instant_t *now, bool ready)
{
    json_t *alerts = json_array(), *workers = workers_json(self, node, now, alerts);
    add_job_alerts(alerts, node);
    const psd_engine_t *engine = psd_node_engine(node);
    const psd_engine_stats_t *stats = psd_engine_stats(engine);
    json_t *status = json_pack(
        "{s:s, s:s, s:s, s:{s:i, s:I}, s:s, s:f, s:f, s:s, s:b, s:s, s:{s:I, s:I, s:I}, s:{s:o}, s:o, s:o, s:o, s:[o], s:o, s:o}", "schema",
        "psd.status/1", "job", psd_options_string(self->options, "job"), "role", "server", "shard", "index",
        (int)psd_engine_index(engine), "count", (json_int_t)psd_options_int(self->options, "servers"), "version", PSD_VERSION,
        "now", unix_time(), "uptime_seconds", (double)(now->ms - self->start_ms) * 1e-3, "state", state_name(self, node), "ready", ready, "settings", self->settings,
        "progress", "step", (json_int_t)stats->steps, "rounds", (json_int_t)stats->rounds, "samples", (json_int_t)stats->samples,
        "loss", "train", stats->steps ? number(stats->loss) : json_null(), "optimizer", optimizer_json(self, engine), "sync",
        sync_json(self, node), "workers", workers, "shards", shard_json(self, node), "servers", servers_json(node, now), "alerts", alerts);
    if (status)
        add_job_facts(self, status, node, now->ms);
    return status;
}

/* ---- /metrics ---- */

static void set_workers(const psd_report_t *self, psd_metrics_t *m, const psd_node_t *node, const instant_t *now, double unix_s)
{
    const psd_membership_t *members = psd_coordinator_members(psd_node_coordinator(node));
    uint64_t front = look_at_members(self, node, now).front;
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

static void set_job(psd_metrics_t *m, const psd_node_t *node, uint64_t now_ms, double now)
{
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    psd_metrics_set(m, PSD_METRIC_MEMBERSHIP_EPOCH, NULL, (double)facts.view_id);
    psd_metrics_set(m, PSD_METRIC_ROUNDS_SKIPPED, NULL, (double)facts.skipped);
    if (facts.point_ms) {
        psd_metrics_set(m, PSD_METRIC_CHECKPOINT_TIME, NULL, now - (double)(now_ms - facts.point_ms) * 1e-3);
        psd_metrics_set(m, PSD_METRIC_CHECKPOINT_DURATION, NULL, (double)facts.save_ms * 1e-3);
    }
    for (uint32_t i = 0; i < facts.n_reports; i++)
        psd_metrics_set(m, PSD_METRIC_VALIDATION, facts.report[i].name, facts.report[i].value);
}

static void set_state(psd_report_t *self, psd_metrics_t *m, const psd_node_t *node)
{
    const char *state = state_name(self, node);
    if (self->told_state && strcmp(state, self->told_state))
        psd_metrics_set(m, PSD_METRIC_JOB_STATE, self->told_state, 0);
    psd_metrics_set(m, PSD_METRIC_JOB_STATE, state, 1);
    self->told_state = state;
}

/* Complete pushes of members that are not answered yet. */
static unsigned count_queue(const psd_report_t *self, const psd_engine_t *engine, const instant_t *now)
{
    unsigned n = 0;
    psd_engine_worker_t here;
    psd_pace_facts_t pace;
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        n += psd_engine_worker(engine, i, &here) && psd_pace_facts(self->pace, i, now->ns, &pace) && pace.phase >= PSD_PHASE_WAITING;
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
    psd_metrics_set(m, PSD_METRIC_ROUNDS, psd_options_string(self->options, "sync.mode"), (double)stats->rounds);
    psd_metrics_set(m, PSD_METRIC_SAMPLES, NULL, (double)stats->samples);
    psd_metrics_set(m, PSD_METRIC_PUSHES, NULL, (double)stats->chunks);
    psd_metrics_set(m, PSD_METRIC_PULLS, "fast", (double)stats->pulls_fast);
    psd_metrics_set(m, PSD_METRIC_PULLS, "slow", (double)stats->pulls_slow);
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

static char *metrics_text(psd_report_t *self, const psd_node_t *node, const psd_status_t *status, const instant_t *now)
{
    const psd_engine_t *engine = psd_node_engine(node);
    if (!self->metrics && psd_engine_is_ready(engine))
        self->metrics = psd_metrics_new(psd_engine_index(engine));
    if (!self->metrics)
        return NULL;
    set_engine(self, self->metrics, node);
    set_state(self, self->metrics, node);
    psd_metrics_set(self->metrics, PSD_METRIC_QUEUE_LENGTH, NULL, count_queue(self, engine, now));
    if (self->stored_bytes)
        psd_metrics_set(self->metrics, PSD_METRIC_CHECKPOINT_BYTES, NULL, (double)self->stored_bytes);
    if (psd_node_coordinator(node)) {
        set_job(self->metrics, node, now->ms, unix_time());
        set_workers(self, self->metrics, node, now, unix_time());
    }
    set_endpoint(self->metrics, status);
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

static psd_history_point_t point(const psd_report_t *self, const psd_node_t *node)
{
    const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(node));
    psd_coordinator_facts_t facts = { 0 };
    if (psd_node_coordinator(node))
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
    double val_loss = NAN, report = NAN;
    for (uint32_t i = 0; i < facts.n_reports; i++)
        *(strcmp(facts.report[i].name, VALIDATION_LOSS) ? &report : &val_loss) = facts.report[i].value;
    return (psd_history_point_t){ .unix_s = unix_time(), .step = stats->steps, .samples = stats->samples,
                                  .received_bytes = self->received_bytes, .sent_bytes = self->sent_bytes,
                                  .loss = stats->steps ? stats->loss : NAN, .lr = stats->steps ? stats->lr : self->lr,
                                  .val_loss = val_loss, .report = report };
}

void psd_report_publish(psd_report_t *self, const psd_node_t *node, uint64_t now_ms, psd_status_t *status)
{
    struct timespec t;
    char lines[256];
    if (!self->start_ms)
        self->start_ms = now_ms;
    bool ready = readiness(self, node, lines, sizeof lines);
    const instant_t now = { .ms = now_ms, .ns = uv_hrtime() };
    json_t *document = status_json(self, node, &now, ready);
    char *json = document ? json_dumps(document, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    char *metrics = metrics_text(self, node, status, &now);
    const psd_history_point_t here = point(self, node);
    clock_gettime(CLOCK_MONOTONIC, &t);
    psd_status_publish(status, &(psd_status_snapshot_t){
                                   .tick_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000,
                                   .ready = ready,
                                   .ready_lines = lines,
                                   .status_json = json,
                                   .metrics = metrics,
                                   .point = &here,
                               });
    json_decref(document);
    free(json);
    free(metrics);
}
