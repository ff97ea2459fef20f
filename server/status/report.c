#include "server/status/report_state.h"

#include <time.h>
#include <uv.h>
#include "common/system/json.h"

psd_report_t *psd_report_new(const psd_options_t *options, const char *settings, psd_err_t *err)
{
    psd_report_t *self = calloc(1, sizeof *self);
    psd_groups_t groups;
    if (self)
        self->pace = psd_pace_new(psd_mode_has_rounds(psd_mode_find(psd_options_string(options, PSD_OPT_sync_mode))));
    if (!self || !self->pace ||
        psd_groups_parse(&groups, psd_options_string(options, PSD_OPT_optimizer), psd_options_string(options, PSD_OPT_groups),
                         err) != PSD_OK) {
        if (!self || !self->pace)
            psd_err_set(err, PSD_ENOMEM, "no memory for a report");
        psd_report_destroy(&self);
        return NULL;
    }
    self->options = options;
    self->settings = settings;
    const psd_rule_t *rule = &psd_groups_rest(&groups)->rule;
    psd_rule_print(rule, self->rule);
    self->lookahead = rule->lookahead;
    self->k = rule->k;
    self->alpha = rule->alpha;
    self->since = psd_report_unix_time();
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

/* A worker that takes another's place starts with new counts. */
static void meet(psd_report_t *self, const psd_msg_t *msg, uint64_t ns)
{
    uint64_t *incarnation = &self->seen.incarnation[msg->worker];
    if (*incarnation && msg->incarnation > *incarnation)
        psd_pace_forget(self->pace, msg->worker, ns);
    *incarnation = msg->incarnation > *incarnation ? msg->incarnation : *incarnation;
}

void psd_report_sent(psd_report_t *self, const psd_msg_t *msg, size_t n_bytes, bool accepted, uint64_t ns)
{
    if (accepted)
        self->sent_bytes += n_bytes;
    else
        self->sends_lost++;
    if (msg->kind != PSD_MSG_WEIGHTS)
        return;
    meet(self, msg, ns);
    if (!(msg->code & PSD_WEIGHTS_AHEAD)) /* these answer nothing yet */
        observe(self, PSD_METRIC_PUSH_LATENCY, psd_pace_answer(self->pace, msg->worker, ns));
}

void psd_report_traffic(const psd_report_t *self, uint64_t *received_bytes, uint64_t *sent_bytes)
{
    *received_bytes = self->received_bytes;
    *sent_bytes = self->sent_bytes;
}

void psd_report_connections_refused(psd_report_t *self, uint64_t n) { self->connections_refused = n; }
void psd_report_memory_links(psd_report_t *self, uint64_t n) { self->memory_links = n; }

void psd_report_saw(psd_report_t *self, const psd_node_t *node, const psd_msg_t *msg, uint64_t ns)
{
    const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(node));
    if (msg && stats->pushes > self->seen.pushes)
        psd_pace_complete(self->pace, msg->worker, msg->samples, msg->value, ns);
    else if (msg && stats->messages > self->seen.messages)
        psd_pace_part(self->pace, msg->worker, msg->value, ns);
    if (stats->rounds > self->seen.rounds) {
        psd_pace_round_t round = psd_pace_close(self->pace, ns);
        observe(self, PSD_METRIC_ROUND_DURATION, round.duration_s);
        observe(self, PSD_METRIC_BARRIER_WAIT, round.barrier_s);
    }
    self->seen.messages = stats->messages;
    self->seen.pushes = stats->pushes;
    self->seen.rounds = stats->rounds;
}

void psd_report_stored(psd_report_t *self, uint64_t n_bytes) { self->stored_bytes = n_bytes; }

/* ---- publishing ---- */

static bool readiness(const psd_report_t *self, const psd_node_t *node, char *lines, size_t n)
{
    const psd_engine_t *engine = psd_node_engine(node);
    bool joined = psd_engine_is_ready(engine), quorum = true, saves = true;
    int at = snprintf(lines, n, "%s\n[+]listening ok\n", joined ? "[+]joined ok" : "[-]joined waiting for server 0");
    if (psd_node_coordinator(node)) {
        psd_coordinator_facts_t facts;
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
        quorum = facts.quorum;
        saves = !facts.lacks_first_point;
        snprintf(lines + at, n - (size_t)at, "[%c]quorum %u/%u\n", quorum ? '+' : '-', facts.n_members + facts.n_finished,
                 facts.workers_min);
    }
    const psd_engine_word_t *word = psd_engine_word(engine);
    if (!psd_node_coordinator(node) && joined && word->known) {
        quorum = word->ready;
        snprintf(lines + at, n - (size_t)at, "[%c]job %s\n", quorum ? '+' : '-', psd_job_state_name((psd_job_state_t)word->state));
    }
    psd_report_absent_t absent;
    psd_report_absent(self, node, &absent);
    const bool whole = !absent.n_lost_servers && saves;
    size_t end = strlen(lines);
    for (uint32_t i = 0; i < absent.n && end + 1 < n && (!whole || !quorum); i++)
        end += (size_t)snprintf(lines + end, n - end, "[-]missing %s\n", absent.text[i]);
    return joined && quorum && whole;
}

static psd_history_point_t point(const psd_report_t *self, const psd_node_t *node)
{
    const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(node));
    psd_coordinator_facts_t facts = { 0 };
    if (psd_node_coordinator(node))
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
    const double val_loss = psd_report_value(&facts, PSD_VALIDATION_LOSS);
    double report = NAN;
    for (uint32_t i = 0; i < facts.n_reports; i++)
        report = psd_report_is_free(facts.report[i].name) ? facts.report[i].value : report;
    return (psd_history_point_t){ .unix_s = psd_report_unix_time(),
                                  .step = psd_engine_version(psd_node_engine(node)),
                                  .samples = psd_engine_samples(psd_node_engine(node)),
                                  .received_bytes = self->received_bytes,
                                  .sent_bytes = self->sent_bytes,
                                  .loss = stats->steps ? stats->loss : NAN,
                                  .lr = stats->lr,
                                  .val_loss = val_loss,
                                  .report = report };
}

void psd_report_publish(psd_report_t *self, const psd_node_t *node, uint64_t now_ms, psd_status_t *status)
{
    struct timespec t;
    char lines[2048];
    if (!self->start_ms)
        self->start_ms = now_ms;
    bool ready = readiness(self, node, lines, sizeof lines);
    const psd_instant_t now = { .ms = now_ms, .ns = uv_hrtime() };
    /* As many digits as Unix time needs for milliseconds. */
    json_t *document = psd_report_document(self, node, &now, ready);
    char *json = psd_json_text(document, JSON_INDENT(2) | JSON_REAL_PRECISION(13));
    char *metrics = psd_report_metrics(self, node, status, &now);
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
