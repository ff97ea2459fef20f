/* report.h - the public facts and counters of a server, gathered on the loop's thread and published
 * as a snapshot for the status endpoint. Reads, never writes. */
#pragma once

#include "common/config/options.h"
#include "server/core/node.h"
#include "server/status/status.h"

typedef struct psd_report psd_report_t;

/* `settings`: the job's settings as text, borrowed like `options`. NULL, with `err` set, when memory runs out. */
psd_report_t *psd_report_new(const psd_options_t *options, const char *settings, psd_err_t *err);
void psd_report_destroy(psd_report_t **self_p);

/* Count a chunk's step that took `ns`; a received message; a message sent at `ns`, or not sent because no connection took it. */
void psd_report_apply(psd_report_t *self, uint64_t ns);
void psd_report_received(psd_report_t *self, size_t n_bytes);
void psd_report_sent(psd_report_t *self, const psd_msg_t *msg, size_t n_bytes, bool accepted, uint64_t ns);

/* `node` has had an event at `ns`: `msg`, or NULL when it was no message. */
void psd_report_saw(psd_report_t *self, const psd_node_t *node, const psd_msg_t *msg, uint64_t ns);

/* Size of the newest file of a checkpoint; 0: there is none. */
void psd_report_stored(psd_report_t *self, uint64_t n_bytes);

/* The server ends with `code`: snapshots published from now on show it. */
void psd_report_end(psd_report_t *self, int code);

/* Bytes of all messages so far, in and out. */
void psd_report_traffic(const psd_report_t *self, uint64_t *received_bytes, uint64_t *sent_bytes);

/* Set the number of connections refused in all. */
void psd_report_connections_refused(psd_report_t *self, uint64_t n);

/* Set the number of workers served through memory. */
void psd_report_memory_links(psd_report_t *self, uint64_t n);

/* Gather the facts of `node` and hand the snapshot to `status`. */
void psd_report_publish(psd_report_t *self, const psd_node_t *node, uint64_t now_ms, psd_status_t *status);
