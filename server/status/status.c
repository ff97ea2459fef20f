#include "server/status/status.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/asset.h"
#include "common/net/address.h"
#include "common/net/keys.h"
#include "server/status/connections.h"
#include "server/status/page.h"

enum {
    MAX_HOST = 256,
    MAX_PATHS = 16,
    LIVE_MS = 5000,
    MAX_STREAMS = 8, /* of the connections, which leaves some for probes and scrapes */
    STREAM_BLOCK = 32768,
    FAREWELL_MS = 500 /* how long the end waits for streams to take the last snapshot */
};

/* One published snapshot; a holder of a reference may read it. */
typedef struct shot {
    unsigned references; /* under the lock */
    uint64_t number;     /* from 1 */
    uint64_t n_lines;    /* of the log */
    uint64_t tick_ms;
    bool ready;
    char *ready_lines, *status_json, *metrics;
} shot_t;

/* A connection that gets each new snapshot, or only the newest if it is too slow for all. */
typedef struct stream {
    psd_status_t *status;
    struct MHD_Connection *connection;
    char *text; /* the event being sent; NULL: none */
    size_t n, at;
    uint64_t sent;         /* number of the snapshot in it */
    bool asleep;           /* suspended until there is another one */
    struct stream **place; /* in the list of streams */
    struct stream *next;
} stream_t;

struct psd_status {
    struct MHD_Daemon *daemon;     /* NULL: serves nothing */
    psd_connections_t connections; /* of its connections; its thread's */
    char host[MAX_HOST];           /* as in `listen`, without brackets */
    char machine[MAX_HOST];        /* this machine's name */
    char url[MAX_HOST + 32];
    char token[PSD_TOKEN_TEXT]; /* "": none is required */
    pthread_mutex_t lock;       /* held to swap or take the pointer, copy the history or wake streams, never longer */
    pthread_cond_t gone;        /* a stream has ended */
    shot_t *shot;
    psd_history_t history;
    stream_t *streams;
    unsigned n_streams;
    bool ending;                              /* streams end with the last snapshot */
    atomic_uint_fast64_t requests[MAX_PATHS]; /* by row of `paths` */
    atomic_uint_fast64_t scrapes;
};

/* -- snapshots --------------------------------------------------------------------------------------------- */

static void shot_free(shot_t *shot)
{
    if (!shot)
        return;
    free(shot->ready_lines);
    free(shot->status_json);
    free(shot->metrics);
    free(shot);
}

static shot_t *shot_take(psd_status_t *self)
{
    pthread_mutex_lock(&self->lock);
    shot_t *shot = self->shot;
    if (shot)
        shot->references++;
    pthread_mutex_unlock(&self->lock);
    return shot;
}

static void shot_give(psd_status_t *self, shot_t *shot)
{
    pthread_mutex_lock(&self->lock);
    bool last = shot && --shot->references == 0;
    pthread_mutex_unlock(&self->lock);
    if (last)
        shot_free(shot);
}

/* Call under the lock. Streams are suspended under it too, so that none misses a snapshot. */
static void wake_streams(psd_status_t *self)
{
    for (stream_t *stream = self->streams; stream; stream = stream->next)
        if (stream->asleep) {
            stream->asleep = false;
            MHD_resume_connection(stream->connection);
        }
}

void psd_status_publish(psd_status_t *self, const psd_status_snapshot_t *snapshot)
{
    shot_t *shot = calloc(1, sizeof *shot);
    if (!shot)
        return;
    *shot = (shot_t){ .references = 1,
                      .tick_ms = snapshot->tick_ms,
                      .ready = snapshot->ready,
                      .ready_lines = strdup(snapshot->ready_lines ? snapshot->ready_lines : ""),
                      .status_json = strdup(snapshot->status_json ? snapshot->status_json : ""),
                      .metrics = strdup(snapshot->metrics ? snapshot->metrics : "") };
    if (!shot->ready_lines || !shot->status_json || !shot->metrics) {
        shot_free(shot);
        return;
    }
    pthread_mutex_lock(&self->lock);
    shot_t *before = self->shot;
    shot->number = before ? before->number + 1 : 1;
    shot->n_lines = self->history.n_lines;
    self->shot = shot;
    if (snapshot->point)
        psd_history_add(&self->history, snapshot->point);
    wake_streams(self);
    pthread_mutex_unlock(&self->lock);
    shot_give(self, before);
}

void psd_status_note(psd_status_t *self, const char *level, const char *id, const char *text)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    pthread_mutex_lock(&self->lock);
    psd_history_note(&self->history, (double)now.tv_sec + (double)now.tv_nsec * 1e-9, level, id, text);
    pthread_mutex_unlock(&self->lock);
}

static bool is_alive(const shot_t *shot)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    return shot && now_ms < shot->tick_ms + LIVE_MS;
}

/* -- answers ----------------------------------------------------------------------------------------------- */

/* Send `response`; NULL means that memory ran out. */
static enum MHD_Result respond(struct MHD_Connection *connection, unsigned code, const char *type, struct MHD_Response *response)
{
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Content-Security-Policy",
                            "default-src 'none'; script-src 'self'; connect-src 'self'; "
                            "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
                            "frame-ancestors 'none'");
    if (code == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned code, const char *type, const char *text)
{
    return respond(connection, code, type,
                   MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY));
}

static const char plain[] = "text/plain; charset=utf-8";

static enum MHD_Result answer_livez(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)self;
    bool alive = is_alive(shot);
    return answer(connection, alive ? 200 : 500, plain, alive ? "ok\n" : "the loop has not run for 5 s\n");
}

static enum MHD_Result answer_readyz(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)self;
    bool ready = shot && shot->ready && is_alive(shot);
    bool verbose = MHD_lookup_connection_value_n(connection, MHD_GET_ARGUMENT_KIND, "verbose", 7, NULL, NULL);
    char text[2048];
    snprintf(text, sizeof text, "%sreadyz check %s\n", shot ? shot->ready_lines : "", ready ? "passed" : "failed");
    return answer(connection, ready ? 200 : 503, plain, ready && !verbose ? "ok\n" : text);
}

static enum MHD_Result answer_status(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)self;
    bool any = shot && *shot->status_json;
    return answer(connection, any ? 200 : 503, "application/json", any ? shot->status_json : "{}");
}

static enum MHD_Result answer_metrics(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)self;
    const char *agent = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_USER_AGENT);
    const enum MHD_Result result = answer(connection, 200, "text/plain; version=0.0.4; charset=utf-8", shot ? shot->metrics : "");
    if (agent && !strncmp(agent, "Prometheus/", sizeof "Prometheus/" - 1))
        atomic_fetch_add_explicit(&self->scrapes, 1, memory_order_relaxed);
    return result;
}

/* A copy, because printing it takes milliseconds; NULL when memory runs out. The caller frees it. */
static psd_history_t *take_history(psd_status_t *self)
{
    psd_history_t *history = malloc(sizeof *history);
    if (!history)
        return NULL;
    pthread_mutex_lock(&self->lock);
    *history = self->history;
    pthread_mutex_unlock(&self->lock);
    return history;
}

/* Send `text`, which is freed; NULL: there was no memory for it. */
static enum MHD_Result answer_and_free(struct MHD_Connection *connection, const char *type, char *text)
{
    enum MHD_Result result = text ? answer(connection, 200, type, text) : MHD_NO;
    free(text);
    return result;
}

static enum MHD_Result answer_page(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    psd_history_t *history = take_history(self);
    char *page = psd_page_render(shot ? shot->status_json : "", history);
    free(history);
    return answer_and_free(connection, "text/html; charset=utf-8", page);
}

static enum MHD_Result answer_history(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)shot;
    psd_history_t *history = take_history(self);
    char *text = history ? psd_history_json(history) : NULL;
    free(history);
    return answer_and_free(connection, "application/json", text);
}

/* dashboard/dashboard.js behind Debian's dygraphs, and dashboard.css behind its style. */
extern const psd_asset_t psd_asset_dashboard_js, psd_asset_dashboard_css;

/* Sent compressed without a check: only browsers request it. */
static enum MHD_Result answer_asset(struct MHD_Connection *connection, const psd_asset_t *asset, const char *type)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(asset->n_bytes, (void *)(uintptr_t)asset->bytes, MHD_RESPMEM_PERSISTENT);
    if (response)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
    return respond(connection, 200, type, response);
}

static enum MHD_Result answer_js(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)self, (void)shot;
    return answer_asset(connection, &psd_asset_dashboard_js, "text/javascript; charset=utf-8");
}

static enum MHD_Result answer_css(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)self, (void)shot;
    return answer_asset(connection, &psd_asset_dashboard_css, "text/css; charset=utf-8");
}

/* -- streams of events ------------------------------------------------------------------------------------- */

/* The document as one server-sent event, whose lines each begin with "data: ". */
static bool write_event(stream_t *stream, const shot_t *shot)
{
    const char *json = shot->status_json;
    FILE *out = open_memstream(&stream->text, &stream->n);
    if (!out)
        return false;
    fprintf(out, "id: %" PRIu64 "\n", shot->n_lines);
    while (*json) {
        size_t n = strcspn(json, "\n");
        fprintf(out, "data: %.*s\n", (int)n, json);
        json += n + (json[n] == '\n');
    }
    fputc('\n', out);
    stream->at = 0;
    return fclose(out) == 0;
}

/* The snapshot that the stream has not sent yet, with a reference. If there is none, NULL, and the stream is suspended or
 * `ended`. */
static shot_t *next_shot(stream_t *stream, bool *ended)
{
    psd_status_t *self = stream->status;
    pthread_mutex_lock(&self->lock);
    shot_t *shot = self->shot && self->shot->number > stream->sent ? self->shot : NULL;
    *ended = !shot && self->ending;
    if (shot) {
        shot->references++;
    } else if (!*ended) {
        stream->asleep = true;
        MHD_suspend_connection(stream->connection);
    }
    pthread_mutex_unlock(&self->lock);
    return shot;
}

static ssize_t read_stream(void *arg, uint64_t position, char *block, size_t most)
{
    (void)position;
    stream_t *stream = arg;
    if (!stream->text) {
        bool ended = false;
        shot_t *shot = next_shot(stream, &ended);
        if (!shot)
            return ended ? MHD_CONTENT_READER_END_OF_STREAM : 0;
        stream->sent = shot->number;
        bool written = write_event(stream, shot);
        shot_give(stream->status, shot);
        if (!written)
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    size_t left = stream->n - stream->at, n = left < most ? left : most;
    memcpy(block, stream->text + stream->at, n);
    stream->at += n;
    if (stream->at == stream->n) {
        free(stream->text);
        stream->text = NULL;
    }
    return (ssize_t)n;
}

static void end_stream(void *arg)
{
    stream_t *stream = arg;
    psd_status_t *self = stream->status;
    pthread_mutex_lock(&self->lock);
    *stream->place = stream->next;
    if (stream->next)
        stream->next->place = stream->place;
    self->n_streams--;
    pthread_cond_signal(&self->gone);
    pthread_mutex_unlock(&self->lock);
    free(stream->text);
    free(stream);
}

/* NULL when there are too many, or no memory. */
static stream_t *begin_stream(psd_status_t *self, struct MHD_Connection *connection)
{
    stream_t *stream = calloc(1, sizeof *stream);
    if (!stream)
        return NULL;
    pthread_mutex_lock(&self->lock);
    bool room = self->n_streams < MAX_STREAMS && !self->ending;
    if (room) {
        *stream = (stream_t){ .status = self, .connection = connection, .place = &self->streams, .next = self->streams };
        if (stream->next)
            stream->next->place = &stream->next;
        self->streams = stream;
        self->n_streams++;
    }
    pthread_mutex_unlock(&self->lock);
    if (room)
        return stream;
    free(stream);
    return NULL;
}

static psd_connection_t *place_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static enum MHD_Result answer_events(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)shot;
    stream_t *stream = begin_stream(self, connection);
    if (!stream)
        return answer(connection, MHD_HTTP_SERVICE_UNAVAILABLE, plain, "too many clients follow the events already\n");
    psd_connections_stay(place_of(connection));
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, stream, end_stream);
    if (!response)
        end_stream(stream);
    return respond(connection, MHD_HTTP_OK, "text/event-stream", response);
}

/* Send every stream the last snapshot and the end, waiting for a limited time; none is suspended afterwards. */
static void end_streams(psd_status_t *self)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += FAREWELL_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&self->lock);
    self->ending = true;
    wake_streams(self);
    while (self->n_streams && pthread_cond_timedwait(&self->gone, &self->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&self->lock);
}

/* -- requests ---------------------------------------------------------------------------------------------- */

static enum MHD_Result answer_nothing(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot)
{
    (void)self, (void)shot;
    return answer(connection, MHD_HTTP_NOT_FOUND, plain, "there are / /status /events /history /metrics /livez /readyz\n");
}

static const struct {
    const char *path;
    enum MHD_Result (*answer)(psd_status_t *self, struct MHD_Connection *connection, const shot_t *shot);
    bool open; /* even without the token */
} paths[] = {
    { "/", answer_page, false },           { "/status", answer_status, false },
    { "/metrics", answer_metrics, false }, { "/events", answer_events, false },
    { "/livez", answer_livez, true },      { "/healthz", answer_livez, true },
    { "/readyz", answer_readyz, true },    { "/history", answer_history, false },
    { "/dashboard.js", answer_js, true },  { "/dashboard.css", answer_css, true },
    { "other", answer_nothing, true },
};

enum { N_PATHS = sizeof paths / sizeof *paths };
static_assert((int)N_PATHS <= (int)MAX_PATHS, "each path is counted");

const char *psd_status_path(size_t row) { return row < N_PATHS ? paths[row].path : NULL; }

uint64_t psd_status_scrapes(const psd_status_t *self) { return atomic_load_explicit(&self->scrapes, memory_order_relaxed); }

uint64_t psd_status_requests(const psd_status_t *self, size_t row)
{
    return atomic_load_explicit(&self->requests[row], memory_order_relaxed);
}

/* Whether the request has the token. The time that a refusal takes reveals nothing about it. */
static bool has_token(const psd_status_t *self, struct MHD_Connection *connection)
{
    static const char scheme[] = "Bearer ";
    const char *header = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (!*self->token)
        return true;
    if (!header || strncasecmp(header, scheme, sizeof scheme - 1) != 0)
        return false;
    const char *given = header + sizeof scheme - 1;
    const size_t n = strlen(self->token);
    unsigned differs = 0;
    if (strlen(given) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        differs |= (unsigned)(given[i] ^ self->token[i]);
    return !differs;
}

/* Whether a Host header names this server: an address as such (a rebound name is never one), localhost, the host in status.listen,
 * or this machine's name; with any port. */
static bool is_our_host(const psd_status_t *self, const char *header)
{
    char host[MAX_HOST];
    unsigned char address[16];
    size_t n = *header == '[' ? strcspn(header, "]") : strcspn(header, ":");
    size_t skip = *header == '[';
    if (n >= sizeof host || n < skip)
        return false;
    snprintf(host, sizeof host, "%.*s", (int)(n - skip), header + skip);
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1 ||
           strcasecmp(host, "localhost") == 0 || strcasecmp(host, self->host) == 0 || strcasecmp(host, self->machine) == 0;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *upload, size_t *n_upload, void **state)
{
    psd_status_t *self = arg;
    (void)version, (void)upload, (void)n_upload, (void)state;
    psd_connections_ask(&self->connections, place_of(connection));
    size_t row = 0;
    while (row + 1 < N_PATHS && strcmp(path, paths[row].path) != 0)
        row++;
    atomic_fetch_add_explicit(&self->requests[row], 1, memory_order_relaxed);
    const char *host = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, plain, "GET and HEAD only\n");
    if (host && !is_our_host(self, host))
        return answer(connection, MHD_HTTP_FORBIDDEN, plain, "this server has another name\n");
    if (!paths[row].open && !has_token(self, connection))
        return answer(connection, MHD_HTTP_UNAUTHORIZED, plain, "this endpoint requires the token of status.token\n");
    shot_t *shot = shot_take(self);
    enum MHD_Result result = paths[row].answer(self, connection, shot);
    shot_give(self, shot);
    return result;
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **place, enum MHD_ConnectionNotificationCode code)
{
    psd_status_t *self = arg;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (code == MHD_CONNECTION_NOTIFY_STARTED && info)
        *place = psd_connections_come(&self->connections, info->connect_fd);
    else if (code == MHD_CONNECTION_NOTIFY_CLOSED)
        psd_connections_go(*place);
}

/* -- the object -------------------------------------------------------------------------------------------- */

/* The address to serve at. False with `err` when it is malformed. */
static bool resolve(psd_status_t *self, const char *listen, psd_sockaddr_t *out, psd_err_t *err)
{
    psd_address_t address;
    psd_err_t why = { 0 };
    if (!psd_address_split(&address, listen) || strlen(address.host) >= sizeof self->host)
        return psd_err_set(err, PSD_ECONFIG, "status.listen is %.100s; expected HOST:PORT or none", listen), false;
    memcpy(self->host, address.host, strlen(address.host) + 1);
    if (psd_address_resolve(out, &address, &why) != PSD_OK)
        return psd_err_set(err, PSD_ECONFIG, "status.listen: %.300s", why.text), false;
    return true;
}

static bool start(psd_status_t *self, const psd_sockaddr_t *address)
{
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
    if (address->at.ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    /* The connection table keeps clients that never finish from blocking others; epoll, because select breaks at 1024
     * descriptors, which a server with many workers has. */
    self->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, on_request, self, MHD_OPTION_SOCK_ADDR, &address->at, MHD_OPTION_CONNECTION_LIMIT,
                         (unsigned)PSD_CONNECTIONS_ROOM, MHD_OPTION_NOTIFY_CONNECTION, on_connection, self,
                         MHD_OPTION_CONNECTION_TIMEOUT, 2u, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)16384, MHD_OPTION_END);
    if (!self->daemon)
        return false;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(self->daemon, MHD_DAEMON_INFO_BIND_PORT);
    bool v6 = strchr(self->host, ':') != NULL;
    snprintf(self->url, sizeof self->url, "http://%s%s%s:%u", v6 ? "[" : "", self->host, v6 ? "]" : "", info ? info->port : 0u);
    return true;
}

psd_status_t *psd_status_new(const char *listen, const char *token_file, psd_err_t *err)
{
    psd_status_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the status endpoint");
        return NULL;
    }
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->gone, NULL);
    psd_connections_init(&self->connections);
    snprintf(self->url, sizeof self->url, "none");
    gethostname(self->machine, sizeof self->machine - 1);
    if (strcmp(listen, "none") == 0)
        return self;
    if (*token_file && psd_token_load(self->token, token_file, err) != PSD_OK) {
        psd_status_destroy(&self);
        return NULL;
    }
    psd_sockaddr_t address;
    const bool found = resolve(self, listen, &address, err),
               may = found && (*self->token || psd_address_is_loopback((struct sockaddr *)&address.at)),
               started = may && start(self, &address);
    if (found && !may)
        psd_err_set(err, PSD_ECONFIG,
                    "status.listen %s can be reached from other machines, so anyone could read it: add --status-token "
                    "FILE, or listen at 127.0.0.1",
                    listen);
    else if (found && !started)
        psd_err_set(err, PSD_EIO, "status.listen: cannot serve at %s: %s", listen, strerror(errno));
    if (!started)
        psd_status_destroy(&self);
    return self;
}

void psd_status_destroy(psd_status_t **self_p)
{
    psd_status_t *self = *self_p;
    if (!self)
        return;
    if (self->daemon) {
        end_streams(self);
        MHD_stop_daemon(self->daemon);
    }
    shot_free(self->shot);
    pthread_cond_destroy(&self->gone);
    pthread_mutex_destroy(&self->lock);
    explicit_bzero(self->token, sizeof self->token);
    free(self);
    *self_p = NULL;
}

const char *psd_status_url(const psd_status_t *self) { return self->url; }
