/* status.h - the HTTP endpoint for people, probes and Prometheus: it reads and never writes.
 *
 * It answers on a thread of its own from the last snapshot that the loop thread published, so a scrape can
 * neither block nor slow a round, and /livez still answers when the loop is stuck. GET and HEAD only; at most
 * PSD_CONNECTIONS_MOST connections (server/status/connections.h), each for 2 idle seconds and 16 KiB of request. A Host that is
 * neither an address nor this machine's name is refused, so that a web page elsewhere cannot read it through
 * a browser (DNS rebinding).
 *
 * If there is a token, a request without it (Authorization: Bearer) gets 401, except for the health checks.
 *
 *   /livez, /healthz    200 "ok" while the snapshot's tick is younger than 5 s, otherwise 500
 *   /readyz[?verbose]   200 when ready, otherwise 503; with one line per condition
 *   /status             the JSON document
 *   /events             the same each time it is new, as server-sent events; ends when the server does, with
 *                       the last one; each one's id is the number of lines that the log has had.
 *                       8 such connections at most
 *   /metrics            Prometheus text 0.0.4
 *   /history            points for curves, and the newest lines of the log, as JSON (server/status/history.h)
 *   /                   a page made from the JSON document (server/status/page.h); with scripts, /dashboard.js and
 *                       /dashboard.css make it live */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "server/status/history.h"

typedef struct psd_status psd_status_t;

/* The data that the endpoint serves. Texts are copied by psd_status_publish; NULL counts as "". */
typedef struct psd_status_snapshot {
    uint64_t tick_ms;                 /* CLOCK_MONOTONIC, when the loop last ran; uv_now() returns it */
    bool ready;                       /* /readyz */
    const char *ready_lines;          /* "[+]restore ok\n[-]quorum 2/3\n" */
    const char *status_json;          /* /status: one object, schema psd.status/1 */
    const char *metrics;              /* /metrics */
    const psd_history_point_t *point; /* of /history; NULL: none; borrowed */
} psd_status_snapshot_t;

/* Serve at `listen`, "host:port" with port 0 for any free one; "none" makes an object that serves nothing. `token_file` ("": none)
 * holds a token (common/net/keys.h) that callers must send, except for the health checks. NULL, with PSD_EIO when the
 * address cannot be bound, PSD_ECONFIG when it is malformed, or when other machines can reach it and there is no token. */
psd_status_t *psd_status_new(const char *listen, const char *token_file, psd_err_t *err);

/* Stop serving and free; waits for the thread, and half a second at most for streams to take the last
 * snapshot. */
void psd_status_destroy(psd_status_t **self_p);

/* "http://127.0.0.1:40002" with the port that was bound; "none" when nothing is served. */
const char *psd_status_url(const psd_status_t *self);

/* Answer from a copy of `snapshot` from now on. When memory runs out, the last one stays. Loop thread. */
void psd_status_publish(psd_status_t *self, const psd_status_snapshot_t *snapshot);

/* A line of the log, for /history. Loop thread. */
void psd_status_note(psd_status_t *self, const char *level, const char *id, const char *text);

/* Requests for a path since the start; the last row, "other", counts requests for unknown paths. NULL past it. Any thread. */
const char *psd_status_path(size_t row);
uint64_t psd_status_requests(const psd_status_t *self, size_t row);

/* How often Prometheus itself, by its User-Agent, has asked for /metrics. */
uint64_t psd_status_scrapes(const psd_status_t *self);
