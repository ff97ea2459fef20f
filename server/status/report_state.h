/* report_state.h - the inside of the report, shared only by its five files and their test:
 *   report.c          events as they happen; publishing
 *   report_facts.c    what both documents say of a job
 *   report_status.c   the document of /status: the state of each worker, and which one the others wait for
 *   report_health.c   what both say of the tensors
 *   report_metrics.c  the text of /metrics */
#pragma once

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/metrics.h"
#include "server/core/pace.h"
#include "server/status/report.h"

/* The trainer's name for the loss on its test set. */
#define PSD_VALIDATION_LOSS "val/loss"

/* The trainer's names for what it reports from time to time: rows of a pass over the data; seconds to the last step at its pace so
 * far. */
#define PSD_PROGRESS_ROWS "progress/rows"
#define PSD_PROGRESS_LEFT "progress/left_seconds"

/* Tensors with series of their own in /metrics, so that a model with many does not flood Prometheus. */
enum { PSD_REPORT_SERIES = 32 };

struct psd_report {
    const psd_options_t *options;
    const char *settings;
    psd_metrics_t *metrics; /* NULL until the shard knows its number */
    char rule[PSD_RULE_TEXT];
    bool lookahead;
    uint32_t k;
    double alpha;
    double since;        /* Unix time of the start */
    const char *outcome; /* state of a server that is ending; NULL: it keeps running */
    uint64_t start_ms;
    uint64_t received_bytes, sent_bytes, sends_lost, apply_ns, connections_refused, memory_links;
    double apply_s[256]; /* the newest chunk steps, for quantiles */
    unsigned n_apply;
    psd_pace_t *pace;
    struct {
        uint64_t messages, pushes, rounds;     /* of the engine's counters */
        uint64_t incarnation[PSD_MAX_WORKERS]; /* newest incarnation of each worker */
    } seen;
    uint64_t stored_bytes;
    uint32_t n_series, series[PSD_REPORT_SERIES]; /* those tensors; none before the first look */
};

/* The loop's clocks when a snapshot is made. */
typedef struct instant {
    uint64_t ms, ns;
} psd_instant_t;

/* Figures of all members, for comparison with one worker. */
typedef struct crowd {
    uint64_t front;                    /* clock of the first */
    double compute_s, send_s, serve_s; /* medians, per push */
    double awaited;                    /* share of the member that the others wait for least */
} psd_crowd_t;

/* -- report_facts.c */

/* The newest value of a name that workers reported; NaN: none. */
double psd_report_value(const psd_coordinator_facts_t *facts, const char *name);

/* Passes over the data that the job's samples make so far; NaN: no worker has reported the number of rows. */
double psd_report_epoch(const psd_coordinator_facts_t *facts, const psd_engine_t *engine);

/* Whether a name that workers reported is a metric of the job, not one of the names that have a field of their own. */
bool psd_report_is_free(const char *name);

/* The 99th percentile of the newest steps of a chunk, in seconds. */
double psd_report_apply_p99(const psd_report_t *self);

/* Seconds since 1970. */
double psd_report_unix_time(void);

/* The state of the job, or of this server if it is ending. */
const char *psd_report_state(const psd_report_t *self, const psd_node_t *node);

/* Figures of the members, at server 0. */
psd_crowd_t psd_report_crowd(const psd_report_t *self, const psd_node_t *node, const psd_instant_t *now);

/* What the job waits for, one clause each, as this server sees it: server 0 watches all, the others watch server 0, which informs
 * them of the rest. */
typedef struct psd_report_absent {
    uint32_t n, n_lost_servers;
    char text[PSD_MAX_ABSENT][PSD_ABSENT_TEXT];
} psd_report_absent_t;
void psd_report_absent(const psd_report_t *self, const psd_node_t *node, psd_report_absent_t *out);

/* The number of messages refused for that reason by the shard and, in server 0, by the coordinator. */
uint64_t psd_report_rejected(const psd_node_t *node, unsigned reason);

/* -- report_status.c */

/* The document; NULL when memory runs out. */
json_t *psd_report_document(const psd_report_t *self, const psd_node_t *node, const psd_instant_t *now, bool ready);

/* -- report_health.c: the tensors, at server 0 */

/* Add the section "health" to the document; sentences about tensors that are ill to its alerts; their metrics. */
void psd_report_health(const psd_report_t *self, const psd_node_t *node, json_t *status);
void psd_report_health_alerts(const psd_node_t *node, json_t *alerts);
void psd_report_health_metrics(psd_report_t *self, const psd_node_t *node);

/* -- report_metrics.c */

/* The text, which the caller frees; NULL before the shard knows its number, and when memory runs out. */
char *psd_report_metrics(psd_report_t *self, const psd_node_t *node, const psd_status_t *status, const psd_instant_t *now);
