#include "server/status/report_state.h"

enum { LATE_MS = 1000, SILENT_MS = 1500 /* workers send a message each second */ };

/* A worker is slow if the round waits only for its push for at least this share of the time, and this many times as long as for
 * the worker that it waits for least, because one worker is always last. Its pushes must also take this many times as long as the
 * others', and this many seconds longer, so that a difference of a millisecond does not count. A silent worker has no times. */
static const double SLOW_SHARE = 0.2, SLOW_RATIO = 2, SLOW_FACTOR = 1.5, SLOW_SECONDS = 0.01;

/* JSON has no NaN: what was not measured is null. */
static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static bool is_slow(const psd_report_t *self, const psd_pace_facts_t *pace, const psd_crowd_t *crowd, uint64_t silent_ms)
{
    const double own = pace->compute_s + pace->send_s + pace->serve_s, others = crowd->compute_s + crowd->send_s + crowd->serve_s;
    const bool takes_long = own > SLOW_FACTOR * others && own - others > SLOW_SECONDS;
    if (!psd_mode_has_rounds(psd_mode_find(psd_options_string(self->options, PSD_OPT_sync_mode))))
        return takes_long;
    return pace->awaited > SLOW_SHARE && pace->awaited > SLOW_RATIO * crowd->awaited && (takes_long || silent_ms > SILENT_MS);
}

/* The reason why the others wait for it; NULL when they do not. */
static const char *slow_reason(const psd_report_t *self, const psd_pace_facts_t *pace, const psd_crowd_t *crowd, uint64_t silent_ms)
{
    return !is_slow(self, pace, crowd, silent_ms)                                                               ? NULL
           : silent_ms > SILENT_MS                                                                              ? "silent"
           : pace->send_s + pace->serve_s - crowd->send_s - crowd->serve_s > pace->compute_s - crowd->compute_s ? "network"
                                                                                                                : "compute";
}

static void add_pace(json_t *w, const psd_pace_facts_t *pace)
{
    static const char *const phases[] = { [PSD_PHASE_COMPUTING] = "computing",
                                          [PSD_PHASE_SENDING] = "sending",
                                          [PSD_PHASE_WAITING] = "waiting",
                                          [PSD_PHASE_SERVING] = "served" };
    json_t *shares = json_object();
    for (unsigned i = 0; i < PSD_N_PHASES; i++)
        json_object_set_new(shares, phases[i], json_real(pace->share[i]));
    json_object_set_new(w, "time_shares", shares);
    json_object_set_new(w, "compute_seconds", json_real(pace->compute_s));
    json_object_set_new(w, "send_seconds", json_real(pace->send_s));
    json_object_set_new(w, "serve_seconds", json_real(pace->serve_s));
    json_object_set_new(w, "samples_per_second", json_real(pace->samples_per_s));
    json_object_set_new(w, "awaited_share", json_real(pace->awaited));
    json_object_set_new(w, "awaiting_seconds", json_real(pace->awaiting_s));
}

/* "12.3 ms", "1234 ms". */
static const char *in_ms(double seconds, char out[32])
{
    snprintf(out, 32, seconds < 0.9995 ? "%.3g ms" : "%.0f ms", seconds * 1e3);
    return out;
}

/* Describe a worker that the others wait for: by how much it differs from them. */
static void add_slow_alert(json_t *alerts, const psd_worker_row_t *row, const char *reason, const psd_pace_facts_t *pace,
                           const psd_crowd_t *crowd, double silent_s)
{
    char text[256], how[128], own[32], others[32];
    if (!strcmp(reason, "silent"))
        snprintf(how, sizeof how, "it has sent nothing for %.1f s", silent_s);
    else if (!strcmp(reason, "network") && pace->serve_s - crowd->serve_s > pace->send_s - crowd->send_s)
        snprintf(how, sizeof how, "weights take %s to reach it, others %s", in_ms(pace->serve_s, own),
                 in_ms(crowd->serve_s, others));
    else if (!strcmp(reason, "network"))
        snprintf(how, sizeof how, "its pushes take %s to arrive, others' %s", in_ms(pace->send_s, own),
                 in_ms(crowd->send_s, others));
    else
        snprintf(how, sizeof how, "it computes for %s a push, others for %s", in_ms(pace->compute_s, own),
                 in_ms(crowd->compute_s, others));
    if (pace->awaited > 0)
        snprintf(text, sizeof text, "rounds wait for worker %u (%.64s) %.0f %% of the time: %s", row->id, row->name,
                 pace->awaited * 100, how);
    else
        snprintf(text, sizeof text, "worker %u (%.64s) is slow: %s", row->id, row->name, how);
    json_array_append_new(alerts, json_string(text));
}

static json_t *worker_json(const psd_report_t *self, const psd_node_t *node, const psd_worker_row_t *row, const psd_instant_t *now,
                           const psd_crowd_t *crowd, json_t *alerts)
{
    psd_engine_worker_t here = { 0 };
    psd_pace_facts_t pace;
    bool member = psd_engine_worker(psd_node_engine(node), row->id, &here);
    uint64_t silent_ms = now->ms - row->heard_ms;
    const uint64_t step = row->clock > here.applied ? row->clock : here.applied; /* its heartbeats may be a second old */
    json_t *w = json_pack("{s:i, s:s, s:I, s:s, s:I, s:f}", "id", (int)row->id, "name", row->name, "incarnation",
                          (json_int_t)row->incarnation, "state",
                          row->quarantined                                       ? "quarantined"
                          : row->state == PSD_WORKER_LIVE && silent_ms > LATE_MS ? "late"
                                                                                 : psd_worker_state_name(row->state),
                          "step", (json_int_t)step, "last_heard_age_seconds", (double)silent_ms * 1e-3);
    if (!member)
        return w;
    json_object_set_new(w, "lag_steps", json_integer((json_int_t)(crowd->front > here.applied ? crowd->front - here.applied : 0)));
    json_object_set_new(w, "pushes", json_integer((json_int_t)here.pushes));
    json_object_set_new(w, "samples", json_integer((json_int_t)here.samples));
    json_object_set_new(w, "loss", number(here.last_push_ms ? here.loss : NAN));
    json_object_set_new(w, "staleness", json_integer((json_int_t)here.staleness));
    json_object_set_new(w, "parts_held", json_integer((json_int_t)here.held));
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

static json_t *workers_json(const psd_report_t *self, const psd_node_t *node, const psd_instant_t *now, json_t *alerts)
{
    json_t *list = json_array();
    if (!psd_node_coordinator(node))
        return list;
    const psd_membership_t *m = psd_coordinator_members(psd_node_coordinator(node));
    psd_crowd_t crowd = psd_report_crowd(self, node, now);
    for (uint32_t i = 0; i < m->n_rows; i++)
        if (m->row[i].state != PSD_WORKER_ABSENT)
            json_array_append_new(list, worker_json(self, node, &m->row[i], now, &crowd, alerts));
    return list;
}

static json_t *servers_json(const psd_node_t *node, const psd_instant_t *now)
{
    json_t *list = json_array();
    psd_server_facts_t facts;
    for (uint32_t i = 0; psd_node_coordinator(node) && psd_coordinator_server(psd_node_coordinator(node), i, &facts); i++)
        json_array_append_new(
            list, json_pack("{s:i, s:s, s:b, s:b, s:I, s:I, s:o}", "index", (int)i, "endpoint", facts.endpoint, "joined",
                            facts.joined && !facts.lost, "lost", facts.lost, "step", (json_int_t)facts.clock, "version",
                            (json_int_t)facts.version, "last_heard_age_seconds",
                            facts.joined || facts.lost ? json_real((double)(now->ms - facts.heard_ms) * 1e-3) : json_null()));
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
    return json_pack("{s:s, s:{s:f, s:I, s:I, s:o}, s:{s:I, s:I}, s:{s:I, s:I}, s:o}", "mode",
                     psd_options_string(self->options, PSD_OPT_sync_mode), "staleness", "mean",
                     n ? (double)stats->staleness_sum / (double)n : 0.0, "max", (json_int_t)stats->staleness_max, "bound",
                     (json_int_t)psd_options_uint(self->options, PSD_OPT_sync_max_staleness), "histogram", histogram, "folded",
                     "pushes", (json_int_t)stats->folded, "asked_again", (json_int_t)stats->asked_again, "ahead", "parts",
                     (json_int_t)stats->ahead, "in_vain", (json_int_t)stats->ahead_in_vain, "waiting_for", waiting);
}

/* The parameter groups, the rest last; none if one rule trains all tensors. */
static json_t *groups_json(const psd_engine_t *engine)
{
    char rule[PSD_RULE_TEXT];
    psd_engine_group_t group, second;
    json_t *groups = json_array();
    for (uint32_t g = 0; psd_engine_group(engine, 1, &second) && psd_engine_group(engine, g, &group); g++)
        json_array_append_new(
            groups, json_pack("{s:s, s:s, s:f, s:f, s:b, s:b, s:i, s:I}", "match", *group.is->match ? group.is->match : "*", "rule",
                              group.is->freezes ? "" : psd_rule_print(&group.is->rule, rule), "lr_mult", group.is->lr_mult,
                              "lr_now", group.lr, "clip", group.is->clips, "frozen", group.is->freezes, "tensors",
                              (int)group.n_tensors, "parameters", (json_int_t)group.n_elements));
    return groups;
}

static json_t *optimizer_json(const psd_report_t *self, const psd_engine_t *engine)
{
    json_t *o = json_pack("{s:s, s:f, s:s, s:s}", "rule", self->rule, "lr_now", psd_engine_stats(engine)->lr, "schedule",
                          psd_options_string(self->options, PSD_OPT_schedule), "schedule_unit",
                          psd_options_string(self->options, PSD_OPT_schedule_unit));
    json_object_set_new(o, "groups", groups_json(engine));
    if (self->lookahead)
        json_object_set_new(o, "lookahead",
                            json_pack("{s:i, s:f, s:I, s:i}", "k", (int)self->k, "alpha", self->alpha, "sync_epoch",
                                      (json_int_t)psd_engine_sync_epoch(engine), "phase",
                                      (int)(psd_engine_version(engine) % self->k)));
    return o;
}

static json_t *rejected_json(const psd_node_t *node)
{
    json_t *r = json_object();
    for (unsigned i = 1; i < PSD_N_REFUSALS; i++)
        json_object_set_new(r, psd_refusal_name(i), json_integer((json_int_t)psd_report_rejected(node, i)));
    return r;
}

static json_t *shard_json(const psd_report_t *self, const psd_node_t *node)
{
    const psd_engine_t *engine = psd_node_engine(node);
    const psd_shard_t *shard = psd_engine_shard(engine);
    return json_pack("{s:i, s:I, s:I, s:I, s:I, s:i, s:f, s:I, s:I, s:I, s:I, s:o}", "index", (int)psd_engine_index(engine),
                     "epoch", (json_int_t)psd_engine_epoch(engine), "version", (json_int_t)psd_engine_version(engine), "parameters",
                     (json_int_t)psd_engine_elements(engine), "bytes", (json_int_t)(psd_engine_elements(engine) * sizeof(float)),
                     "chunks", shard ? (int)psd_shard_chunks(shard) : 0, "apply_seconds_p99", psd_report_apply_p99(self),
                     "received_bytes", (json_int_t)self->received_bytes, "sent_bytes", (json_int_t)self->sent_bytes, "sends_lost",
                     (json_int_t)self->sends_lost, "memory_links", (json_int_t)self->memory_links, "rejected", rejected_json(node));
}

/* List servers and workers that are lost, and what the job waits for. */
static void add_absent(const psd_report_t *self, json_t *status, const psd_node_t *node, const psd_instant_t *now)
{
    json_t *servers = json_array(), *workers = json_array(), *missing = json_array();
    psd_report_absent_t absent;
    psd_server_facts_t server;
    const psd_coordinator_t *coordinator = psd_node_coordinator(node);
    psd_report_absent(self, node, &absent);
    for (uint32_t i = 0; i < absent.n; i++)
        json_array_append_new(missing, json_string(absent.text[i]));
    for (uint32_t s = 0; coordinator && psd_coordinator_server(coordinator, s, &server); s++)
        if (server.lost)
            json_array_append_new(servers, json_pack("{s:i, s:s, s:f}", "index", (int)s, "endpoint", server.endpoint,
                                                     "last_heard_age_seconds", (double)(now->ms - server.heard_ms) * 1e-3));
    if (!coordinator && absent.n_lost_servers)
        json_array_append_new(servers, json_pack("{s:i, s:s, s:f}", "index", 0, "endpoint", psd_engine_first(psd_node_engine(node)),
                                                 "last_heard_age_seconds",
                                                 (double)psd_engine_first_silent_ms(psd_node_engine(node)) * 1e-3));
    for (uint32_t i = 0; coordinator && i < psd_coordinator_members(coordinator)->n_rows; i++) {
        const psd_worker_row_t *row = &psd_coordinator_members(coordinator)->row[i];
        if (psd_coordinator_worker_is_lost(coordinator, i))
            json_array_append_new(workers, json_pack("{s:i, s:s, s:f}", "id", (int)i, "name", row->name, "last_heard_age_seconds",
                                                     (double)(now->ms - row->heard_ms) * 1e-3));
    }
    json_object_set_new(status, "servers_lost", servers);
    json_object_set_new(status, "workers_lost", workers);
    json_object_set_new(status, "missing", missing);
    if (!coordinator && absent.n)
        json_object_set_new(status, "reason", json_string(absent.text[0]));
}

static void add_job_facts(const psd_report_t *self, json_t *status, const psd_node_t *node, uint64_t now_ms)
{
    if (!psd_node_coordinator(node))
        return;
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    json_object_set_new(status, "reason", json_string(facts.waiting_for));
    json_object_set_new(status, "workers_live", json_integer(facts.n_members));
    json_object_set_new(status, "workers_min", json_integer(facts.workers_min));
    json_object_set_new(status, "workers_want", json_integer(facts.workers_want));
    json_object_set_new(status, "view", json_integer((json_int_t)facts.view_id));
    json_object_set_new(status, "skipped_rounds", json_integer((json_int_t)facts.skipped));
    if (psd_options_int(self->options, PSD_OPT_sync_accumulate) > 1)
        json_object_set_new(status, "accumulate",
                            json_pack("{s:I, s:I}", "rounds", (json_int_t)psd_options_int(self->options, PSD_OPT_sync_accumulate),
                                      "gathered", (json_int_t)facts.gathered));
    json_object_set_new(status, "runs", json_integer((json_int_t)facts.runs));
    if (facts.has_point) {
        json_t *point = json_pack("{s:I, s:b, s:b}", "number", (json_int_t)facts.point_clock, "saving", facts.saving, "failing",
                                  facts.save_failing);
        if (psd_mode_has_rounds(
                psd_mode_find(psd_options_string(self->options, PSD_OPT_sync_mode)))) /* where it is called by its round */
            json_object_set_new(point, "last_step", json_integer((json_int_t)facts.point_clock));
        if (facts.point_ms) { /* otherwise it was set before this process */
            json_object_set_new(point, "age_seconds", json_real((double)(now_ms - facts.point_ms) * 1e-3));
            json_object_set_new(point, "duration_seconds", json_real((double)facts.save_ms * 1e-3));
        }
        if (self->stored_bytes)
            json_object_set_new(point, "shard_bytes", json_integer((json_int_t)self->stored_bytes));
        json_object_set_new(point, "dir", json_string(psd_options_string(self->options, PSD_OPT_checkpoint_dir)));
        json_object_set_new(status, "checkpoint", point);
    }
    json_t *progress = json_object_get(status, "progress");
    const double val_loss = psd_report_value(&facts, PSD_VALIDATION_LOSS), epoch = psd_report_epoch(&facts, psd_node_engine(node)),
                 left = psd_report_value(&facts, PSD_PROGRESS_LEFT);
    if (isfinite(val_loss))
        json_object_set_new(json_object_get(status, "loss"), "val", json_real(val_loss));
    if (isfinite(epoch))
        json_object_set_new(progress, "epoch", json_real(epoch));
    if (isfinite(left) && facts.state == PSD_JOB_TRAINING) /* otherwise the list would not get shorter */
        json_object_set_new(progress, "left_seconds", json_real(left));
    for (uint32_t i = 0; i < facts.n_reports; i++)
        if (psd_report_is_free(facts.report[i].name))
            json_object_set_new(status, "report",
                                json_pack("{s:s, s:o}", "name", facts.report[i].name, "value", number(facts.report[i].value)));
}

/* Lost workers that training continues without. */
static void add_lost_workers(json_t *alerts, const psd_node_t *node)
{
    const psd_coordinator_t *coordinator = psd_node_coordinator(node);
    psd_coordinator_facts_t facts;
    char text[256];
    if (coordinator)
        psd_coordinator_facts(coordinator, &facts);
    if (!coordinator || facts.state != PSD_JOB_TRAINING)
        return;
    for (uint32_t i = 0; i < psd_coordinator_members(coordinator)->n_rows; i++)
        if (psd_coordinator_worker_is_lost(coordinator, i)) {
            snprintf(text, sizeof text, "worker %u (%.100s) is lost; the others continue without it", i,
                     psd_coordinator_members(coordinator)->row[i].name);
            json_array_append_new(alerts, json_string(text));
        }
}

/* The warnings that need attention, as sentences; those on workers are there already. */
static void add_job_alerts(const psd_report_t *self, json_t *alerts, const psd_node_t *node)
{
    psd_coordinator_facts_t facts = { 0 };
    psd_report_absent_t absent;
    char text[256];
    psd_report_absent(self, node, &absent);
    const bool is_alarm = !strcmp(psd_report_state(self, node), psd_job_state_name(PSD_JOB_DEGRADED));
    for (uint32_t i = 0; is_alarm && i < absent.n; i++) {
        snprintf(text, sizeof text, "the job waits for %s", absent.text[i]);
        json_array_append_new(alerts, json_string(text));
    }
    add_lost_workers(alerts, node);
    if (psd_node_coordinator(node))
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
    if (facts.save_failing)
        json_array_append_new(alerts, json_string("checkpoints cannot be written; see the log"));
    if (facts.skipped) {
        snprintf(text, sizeof text, "%" PRIu64 " rounds were skipped because gradients had Inf or NaN", facts.skipped);
        json_array_append_new(alerts, json_string(text));
    }
    psd_report_health_alerts(node, alerts);
}

json_t *psd_report_document(const psd_report_t *self, const psd_node_t *node, const psd_instant_t *now, bool ready)
{
    json_t *alerts = json_array(), *workers = workers_json(self, node, now, alerts);
    add_job_alerts(self, alerts, node);
    const psd_engine_t *engine = psd_node_engine(node);
    const psd_engine_stats_t *stats = psd_engine_stats(engine);
    const bool has_rounds = psd_mode_has_rounds(psd_mode_find(psd_options_string(self->options, PSD_OPT_sync_mode)));
    const uint64_t rounds = has_rounds ? psd_engine_clock(engine) : psd_engine_version(engine);
    json_t *status = json_pack(
        "{s:s, s:s, s:s, s:{s:i, s:I}, s:s, s:f, s:f, s:s, s:b, s:s, s:{s:I, s:I, s:I}, s:{s:o}, s:o, s:o, s:o, s:[o], s:o, s:o}",
        "schema", "psd.status/1", "job", psd_options_string(self->options, PSD_OPT_job), "role", "server", "shard", "index",
        (int)psd_engine_index(engine), "count", (json_int_t)psd_options_int(self->options, PSD_OPT_servers), "version", PSD_VERSION,
        "now", psd_report_unix_time(), "uptime_seconds", (double)(now->ms - self->start_ms) * 1e-3, "state",
        psd_report_state(self, node), "ready", ready, "settings", self->settings, "progress", "step",
        (json_int_t)psd_engine_version(engine), "rounds", (json_int_t)rounds, "samples", (json_int_t)psd_engine_samples(engine),
        "loss", "train", stats->steps ? number(stats->loss) : json_null(), "optimizer", optimizer_json(self, engine), "sync",
        sync_json(self, node), "workers", workers, "shards", shard_json(self, node), "servers", servers_json(node, now), "alerts",
        alerts);
    if (status)
        add_job_facts(self, status, node, now->ms);
    if (status)
        psd_report_health(self, node, status);
    if (status)
        add_absent(self, status, node, now);
    return status;
}
