/* report.h - what the world may know of a server: its facts and counters, gathered on the loop's thread and published
 * as a snapshot for the status endpoint. Reads, never writes. */
#pragma once

#include "common/config/options.h"
#include "server/core/node.h"
#include "server/status/status.h"

typedef struct psd_report psd_report_t;

/* `settings`: the job's settings as text, borrowed like `options`. NULL, with `err` set, when memory runs out. */
psd_report_t *psd_report_new(const psd_options_t *options, const char *settings, psd_err_t *err);
void psd_report_destroy(psd_report_t **self_p);

/* Count a chunk's step that took `ns`, a received message, one sent at `ns` (or one that found no way). */
void psd_report_apply(psd_report_t *self, uint64_t ns);
void psd_report_received(psd_report_t *self, size_t n_bytes);
void psd_report_sent(psd_report_t *self, const psd_msg_t *msg, size_t n_bytes, bool accepted, uint64_t ns);

/* `node` has had an event at `ns`: `msg`, or NULL when it was no message. */
void psd_report_saw(psd_report_t *self, const psd_node_t *node, const psd_msg_t *msg, uint64_t ns);

/* Size of the newest file of a checkpoint; 0: there is none. */
void psd_report_stored(psd_report_t *self, uint64_t n_bytes);

/* The server ends with `code`: what is published from here on says so. */
void psd_report_end(psd_report_t *self, int code);

/* Bytes of all messages so far, in and out. */
void psd_report_traffic(const psd_report_t *self, uint64_t *received_bytes, uint64_t *sent_bytes);

/* So many connections were refused in all. */
void psd_report_connections_refused(psd_report_t *self, uint64_t n);

/* So many workers are served through memory. */
void psd_report_memory_links(psd_report_t *self, uint64_t n);

/* Gather the facts of `node` and hand the snapshot to `status`. */
void psd_report_publish(psd_report_t *self, const psd_node_t *node, uint64_t now_ms, psd_status_t *status);
