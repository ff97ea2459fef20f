/* report_state.h - the inside of the report, shared by its four files and their test alone:
 *   report.c          what is told as it happens; publishing
 *   report_facts.c    what both documents say of a job
 *   report_status.c   the document of /status: who does what, whom the others wait for
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

/* What the trainer calls the loss on its test set. */
#define PSD_VALIDATION_LOSS "val/loss"

/* What it reports now and then: rows of a pass over the data; seconds to the last step at its pace so far. */
#define PSD_PROGRESS_ROWS "progress/rows"
#define PSD_PROGRESS_LEFT "progress/left_seconds"

struct psd_report {
    const psd_options_t *options;
    const char *settings;
    psd_metrics_t *metrics; /* NULL until the shard knows its number */
    char rule[PSD_RULE_TEXT];
    double lr;
    bool lookahead;
    uint32_t k;
    double alpha;
    double since;        /* Unix time of the start */
    const char *outcome; /* state of a server that ends; NULL: it goes on */
    uint64_t start_ms;
    uint64_t received_bytes, sent_bytes, sends_lost, apply_ns, connections_refused, memory_links;
    double apply_s[256]; /* the newest chunk steps, for quantiles */
    unsigned n_apply;
    psd_pace_t *pace;
    struct {
        uint64_t messages, pushes, rounds;     /* of the engine's counters */
        uint64_t incarnation[PSD_MAX_WORKERS]; /* newest life of each worker */
    } seen;
    uint64_t stored_bytes;
};

/* The loop's clocks when a snapshot is made. */
typedef struct instant {
    uint64_t ms, ns;
} psd_instant_t;

/* How the members do that a worker is compared with. */
typedef struct crowd {
    uint64_t front;                    /* clock of the first */
    double compute_s, send_s, serve_s; /* medians, per push */
    double awaited;                    /* share of the one that is awaited least */
} psd_crowd_t;

/* -- report_facts.c */

/* The newest value of a name that workers reported; NaN: none. */
double psd_report_value(const psd_coordinator_facts_t *facts, const char *name);

/* Passes over the data behind the samples of the job so far; NaN: no worker has said how many rows there are. */
double psd_report_epoch(const psd_coordinator_facts_t *facts, const psd_engine_t *engine);

/* Whether a name that workers reported is a number of the job's own, not one that stands in a place made for it. */
bool psd_report_is_free(const char *name);

/* Seconds in which 99 of 100 of the newest steps of a chunk were made. */
double psd_report_apply_p99(const psd_report_t *self);

/* Seconds since 1970. */
double psd_report_unix_time(void);

/* The state that the job, or this server, is in. */
const char *psd_report_state(const psd_report_t *self, const psd_node_t *node);

/* How the members do, at server 0. */
psd_crowd_t psd_report_crowd(const psd_report_t *self, const psd_node_t *node, const psd_instant_t *now);

/* Whom the job waits for, one clause each, as this server sees it: server 0 looks after all, the others after server 0, which tells
 * them of the rest. */
typedef struct psd_report_absent {
    uint32_t n, n_lost_servers;
    char text[PSD_MAX_ABSENT][PSD_ABSENT_TEXT];
} psd_report_absent_t;
void psd_report_absent(const psd_report_t *self, const psd_node_t *node, psd_report_absent_t *out);

/* Messages refused for that reason, by the shard and, in server 0, by the coordinator. */
uint64_t psd_report_rejected(const psd_node_t *node, unsigned reason);

/* -- report_status.c */

/* The document; NULL when memory runs out. */
json_t *psd_report_document(const psd_report_t *self, const psd_node_t *node, const psd_instant_t *now, bool ready);

/* -- report_metrics.c */

/* The text, which the caller frees; NULL before the shard knows its number, and when memory runs out. */
char *psd_report_metrics(psd_report_t *self, const psd_node_t *node, const psd_status_t *status, const psd_instant_t *now);
