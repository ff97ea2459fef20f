#include "server/status.h"

#include <arpa/inet.h>
#include <ctype.h>
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

#include "common/keys.h"
#include "server/page.h"

enum { MAX_HOST = 256, LIVE_MS = 5000 };

/* One published snapshot; whoever holds a reference may read it. */
typedef struct shot {
    unsigned references; /* under the lock */
    uint64_t tick_ms;
    bool ready;
    char *ready_lines, *status_json, *metrics;
} shot_t;

struct psd_status {
    struct MHD_Daemon *daemon; /* NULL: serves nothing */
    char host[MAX_HOST];       /* as in `listen`, without brackets */
    char machine[MAX_HOST];    /* this machine's name */
    char url[MAX_HOST + 32];
    char token[PSD_TOKEN_TEXT]; /* "": none is asked for */
    pthread_mutex_t lock;       /* held to swap or take the pointer, never longer */
    shot_t *shot;
    atomic_uint_fast64_t requests;
};

/* -- snapshots ---------------------------------------------------------------------------------------------
 */

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
    self->shot = shot;
    pthread_mutex_unlock(&self->lock);
    shot_give(self, before);
}

static bool is_alive(const shot_t *shot)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    return shot && now_ms < shot->tick_ms + LIVE_MS;
}

/* -- answers -----------------------------------------------------------------------------------------------
 */

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned code, const char *type,
                              const char *text)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Content-Security-Policy",
                            "default-src 'none'; style-src 'unsafe-inline'");
    if (code == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static const char plain[] = "text/plain; charset=utf-8";

static enum MHD_Result answer_livez(struct MHD_Connection *connection, const shot_t *shot)
{
    bool alive = is_alive(shot);
    return answer(connection, alive ? 200 : 500, plain, alive ? "ok\n" : "the loop has not turned for 5 s\n");
}

static enum MHD_Result answer_readyz(struct MHD_Connection *connection, const shot_t *shot)
{
    bool ready = shot && shot->ready && is_alive(shot);
    bool verbose = MHD_lookup_connection_value_n(connection, MHD_GET_ARGUMENT_KIND, "verbose", 7, NULL, NULL);
    char text[2048];
    snprintf(text, sizeof text, "%sreadyz check %s\n", shot ? shot->ready_lines : "",
             ready ? "passed" : "failed");
    return answer(connection, ready ? 200 : 503, plain, ready && !verbose ? "ok\n" : text);
}

static enum MHD_Result answer_status(struct MHD_Connection *connection, const shot_t *shot)
{
    bool any = shot && *shot->status_json;
    return answer(connection, any ? 200 : 503, "application/json", any ? shot->status_json : "{}");
}

static enum MHD_Result answer_metrics(struct MHD_Connection *connection, const shot_t *shot)
{
    return answer(connection, 200, "text/plain; version=0.0.4; charset=utf-8", shot ? shot->metrics : "");
}

static enum MHD_Result answer_page(struct MHD_Connection *connection, const shot_t *shot)
{
    char *page = psd_page_render(shot ? shot->status_json : "");
    if (!page)
        return MHD_NO;
    enum MHD_Result result = answer(connection, 200, "text/html; charset=utf-8", page);
    free(page);
    return result;
}

static const struct {
    const char *path;
    enum MHD_Result (*answer)(struct MHD_Connection *connection, const shot_t *shot);
    bool open; /* without the token, too */
} paths[] = {
    { "/", answer_page, false },           { "/status", answer_status, false },
    { "/metrics", answer_metrics, false }, { "/livez", answer_livez, true },
    { "/healthz", answer_livez, true },    { "/readyz", answer_readyz, true },
};

/* Whether the request brings the token; how long it takes to say no tells nothing of it. */
static bool has_token(const psd_status_t *self, struct MHD_Connection *connection)
{
    static const char scheme[] = "Bearer ";
    const char *header =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
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

/* Whether a Host header names this server: an address as such (a rebound name is never one), localhost, the
 * host that was given to listen at, or this machine's name; with any port. */
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
           strcasecmp(host, "localhost") == 0 || strcasecmp(host, self->host) == 0 ||
           strcasecmp(host, self->machine) == 0;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *n_upload, void **state)
{
    psd_status_t *self = arg;
    (void)version, (void)upload, (void)n_upload, (void)state;
    atomic_fetch_add_explicit(&self->requests, 1, memory_order_relaxed);
    const char *host = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, plain, "GET and HEAD only\n");
    if (host && !is_our_host(self, host))
        return answer(connection, MHD_HTTP_FORBIDDEN, plain, "this server goes by another name\n");
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (strcmp(path, paths[i].path) == 0) {
            if (!paths[i].open && !has_token(self, connection))
                return answer(connection, MHD_HTTP_UNAUTHORIZED, plain,
                              "the token of status.token is wanted\n");
            shot_t *shot = shot_take(self);
            enum MHD_Result result = paths[i].answer(connection, shot);
            shot_give(self, shot);
            return result;
        }
    return answer(connection, MHD_HTTP_NOT_FOUND, plain, "there are / /status /metrics /livez /readyz\n");
}

/* -- the object --------------------------------------------------------------------------------------------
 */

/* Split "host:port", the host perhaps in brackets, and resolve it. NULL with `err` when it is no address. */
static struct addrinfo *resolve(psd_status_t *self, const char *listen, psd_err_t *err)
{
    const char *colon = strrchr(listen, ':');
    size_t n = colon ? (size_t)(colon - listen) : 0;
    if (n >= 2 && *listen == '[' && listen[n - 1] == ']')
        listen++, n -= 2;
    if (n == 0 || n >= sizeof self->host) {
        psd_err_set(err, PSD_ECONFIG, "status.listen is %.100s; HOST:PORT or none is wanted", listen);
        return NULL;
    }
    memcpy(self->host, listen, n);
    self->host[n] = '\0';
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *found = NULL;
    int rc = getaddrinfo(self->host, colon + 1, &hints, &found);
    if (rc)
        psd_err_set(err, PSD_ECONFIG, "status.listen: %s: %s", self->host, gai_strerror(rc));
    return rc ? NULL : found;
}

static bool start(psd_status_t *self, const struct addrinfo *address)
{
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL;
    if (address->ai_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    /* The limits keep 200 half-sent requests from holding what honest ones need; epoll, because select breaks
     * at 1024 descriptors, which a server with many workers has. */
    self->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, self, MHD_OPTION_SOCK_ADDR,
                                    address->ai_addr, MHD_OPTION_CONNECTION_LIMIT, 32u,
                                    MHD_OPTION_PER_IP_CONNECTION_LIMIT, 16u, MHD_OPTION_CONNECTION_TIMEOUT,
                                    2u, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)16384, MHD_OPTION_END);
    if (!self->daemon)
        return false;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(self->daemon, MHD_DAEMON_INFO_BIND_PORT);
    bool v6 = strchr(self->host, ':') != NULL;
    snprintf(self->url, sizeof self->url, "http://%s%s%s:%u", v6 ? "[" : "", self->host, v6 ? "]" : "",
             info ? info->port : 0u);
    return true;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
    return address->sa_family == AF_INET &&
           ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 == 127;
}

psd_status_t *psd_status_new(const char *listen, const char *token_file, psd_err_t *err)
{
    psd_status_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the status endpoint");
        return NULL;
    }
    pthread_mutex_init(&self->lock, NULL);
    snprintf(self->url, sizeof self->url, "none");
    gethostname(self->machine, sizeof self->machine - 1);
    if (strcmp(listen, "none") == 0)
        return self;
    if (*token_file && psd_token_load(self->token, token_file, err) != PSD_OK) {
        psd_status_destroy(&self);
        return NULL;
    }
    struct addrinfo *address = resolve(self, listen, err);
    bool may = address && (*self->token || is_loopback(address->ai_addr)),
         started = may && start(self, address);
    if (address && !may)
        psd_err_set(
            err, PSD_ECONFIG,
            "status.listen %s is beyond this machine, where everybody could read it: add --status-token "
            "FILE, or listen at 127.0.0.1",
            listen);
    else if (address && !started)
        psd_err_set(err, PSD_EUNAVAILABLE, "status.listen: cannot serve at %s; is the port taken?", listen);
    if (address)
        freeaddrinfo(address);
    if (!started)
        psd_status_destroy(&self);
    return self;
}

void psd_status_destroy(psd_status_t **self_p)
{
    psd_status_t *self = *self_p;
    if (!self)
        return;
    if (self->daemon)
        MHD_stop_daemon(self->daemon);
    shot_free(self->shot);
    pthread_mutex_destroy(&self->lock);
    explicit_bzero(self->token, sizeof self->token);
    free(self);
    *self_p = NULL;
}

const char *psd_status_url(const psd_status_t *self) { return self->url; }

uint64_t psd_status_requests(const psd_status_t *self) { return atomic_load(&self->requests); }
