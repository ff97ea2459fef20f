/* doctor_net.c - measures messages through the loopback, as servers and workers exchange them: ZeroMQ on a libuv loop on each side,
 * and frames of a chunk's size. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/net/transport.h"
#include "deploy/psdctl/doctor/doctor.h"

enum { ROUNDS = 1000, WINDOW = 4, CHUNK = 1 << 20, FLOW_MS = 300, LOST_MS = 500, PATIENCE_MS = 5000, SILENCE_MS = 15000 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* -- the answering side ------------------------------------------------------------------------------------------- */

typedef struct echo {
    uv_loop_t loop;
    uv_async_t end; /* set by the other thread, because a message might be lost */
    psd_net_t *net;
    psd_socket_t *socket;
    char bound[PSD_ENDPOINT_TEXT];
} echo_t;

/* Send the header back, without the payload. */
static void on_asked(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    echo_t *self = arg;
    (void)payload;
    psd_socket_send(self->socket, peer, header, n, NULL);
}

static void on_end(uv_async_t *async) { uv_stop(async->loop); }

static void on_bad(void *arg, uint64_t peer, const char *why) { (void)arg, (void)peer, (void)why; }

static void *answer(void *arg)
{
    echo_t *self = arg;
    uv_run(&self->loop, UV_RUN_DEFAULT);
    return NULL;
}

static int echo_open(echo_t *self, psd_err_t *err)
{
    const psd_socket_handler_t handler = { .on_message = on_asked, .on_bad = on_bad, .arg = self };
    uv_loop_init(&self->loop);
    uv_async_init(&self->loop, &self->end, on_end);
    if ((self->net = psd_net_new(&(psd_keys_t){ .insecure = true }, err)))
        self->socket = psd_socket_bind(self->net, &self->loop, "tcp://127.0.0.1:0", &handler, self->bound, err);
    return self->socket ? PSD_OK : err->code;
}

static void echo_close(echo_t *self)
{
    psd_socket_close(&self->socket, 0);
    uv_close((uv_handle_t *)&self->end, NULL);
    uv_run(&self->loop, UV_RUN_DEFAULT);
    uv_loop_close(&self->loop);
    if (self->net)
        psd_net_destroy(&self->net);
}

/* -- the asking side ---------------------------------------------------------------------------------------------- */

typedef struct probe {
    uv_loop_t loop;
    uv_timer_t again, deadline;
    psd_socket_t *socket;
    psd_buf_t *chunk;
    size_t n_trips, n_chunks;
    double sent_s, flow_s; /* when the present round trip, or the stream, began */
    double trip_s[ROUNDS];
    double bytes_per_s; /* 0: it did not end */
    uint64_t begun_ms;
} probe_t;

static void on_again(uv_timer_t *timer);

static void send_trip(probe_t *self)
{
    self->sent_s = now_s();
    const bool is_sent = psd_socket_send(self->socket, 1, "t", 1, NULL) == PSD_OK; /* otherwise it is not connected yet */
    uv_timer_start(&self->again, on_again, is_sent ? LOST_MS : 5, 0);
}

static void on_again(uv_timer_t *timer) { send_trip(timer->data); }

static void begin_flow(probe_t *self)
{
    self->flow_s = now_s();
    uv_timer_stop(&self->again);
    for (unsigned i = 0; i < WINDOW; i++)
        psd_socket_send(self->socket, 1, "c", 1, self->chunk);
}

static void on_answer(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    probe_t *self = arg;
    (void)peer, (void)n, (void)payload;
    const double now = now_s();
    if (*(const char *)header == 't' && self->n_trips == ROUNDS)
        return; /* an answer to a repeated request */
    if (*(const char *)header == 't') {
        self->trip_s[self->n_trips++] = now - self->sent_s;
        if (self->n_trips < ROUNDS)
            send_trip(self);
        else
            begin_flow(self);
        return;
    }
    self->n_chunks++;
    if (now - self->flow_s < FLOW_MS / 1e3) {
        psd_socket_send(self->socket, 1, "c", 1, self->chunk);
        return;
    }
    self->bytes_per_s = (double)self->n_chunks * CHUNK / (now - self->flow_s);
    uv_stop(&self->loop);
}

/* One answer shows that the loopback works; before the first, allow more time for a busy machine. */
static void on_deadline(uv_timer_t *timer)
{
    const probe_t *self = timer->data;
    if (self->n_trips > 0 || uv_now(timer->loop) - self->begun_ms >= SILENCE_MS)
        uv_stop(timer->loop);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int ask(probe_t *self, const char *endpoint, psd_err_t *err)
{
    const psd_socket_handler_t handler = { .on_message = on_answer, .on_bad = on_bad, .arg = self };
    psd_net_t *net = psd_net_new(&(psd_keys_t){ .insecure = true }, err);
    uv_loop_init(&self->loop);
    uv_timer_init(&self->loop, &self->again);
    uv_timer_init(&self->loop, &self->deadline);
    self->again.data = self->deadline.data = self;
    self->chunk = psd_buf_new(CHUNK);
    if (net && self->chunk && (self->socket = psd_socket_connect(net, &self->loop, endpoint, 1, &handler, err))) {
        memset(self->chunk->data, 1, CHUNK);
        self->begun_ms = uv_now(&self->loop);
        uv_timer_start(&self->deadline, on_deadline, PATIENCE_MS, 500);
        send_trip(self);
        uv_run(&self->loop, UV_RUN_DEFAULT);
        psd_socket_close(&self->socket, 0);
    }
    uv_close((uv_handle_t *)&self->again, NULL);
    uv_close((uv_handle_t *)&self->deadline, NULL);
    uv_run(&self->loop, UV_RUN_DEFAULT);
    uv_loop_close(&self->loop);
    if (net)
        psd_net_destroy(&net);
    psd_buf_unref(&self->chunk);
    return self->n_trips > 0 ? PSD_OK : PSD_ETIMEOUT;
}

static void describe(probe_t *probe, psd_findings_t *findings)
{
    const size_t n = probe->n_trips;
    qsort(probe->trip_s, n, sizeof *probe->trip_s, compare);
    const double middle_us = 1e6 * probe->trip_s[n / 2], late_us = 1e6 * probe->trip_s[n * 99 / 100];
    const bool is_whole = probe->bytes_per_s > 0, slow = middle_us > 1000 || probe->bytes_per_s < 1e8;
    char flow[64] = "";
    if (is_whole)
        snprintf(flow, sizeof flow, "%.2f GB/s in chunks of 1 MiB", probe->bytes_per_s / 1e9);
    else
        snprintf(flow, sizeof flow, "too slow to measure more within %d s", PATIENCE_MS / 1000);
    psd_finding(findings, slow ? PSD_VERDICT_WARN : PSD_VERDICT_OK, "loopback",
                slow ? "another program keeps the processor busy, or a filter inspects each packet" : "",
                "round trip %.0f us median, %.0f us 99th percentile of %zu; %s", middle_us, late_us, n, flow);
}

/* Measure round trips and throughput. */
static int converse(probe_t *probe, psd_err_t *err)
{
    echo_t echo = { .net = NULL };
    pthread_t thread;
    int rc = echo_open(&echo, err);
    if (!rc && pthread_create(&thread, NULL, answer, &echo) == 0) {
        rc = ask(probe, echo.bound, err);
        uv_async_send(&echo.end);
        pthread_join(thread, NULL);
    }
    echo_close(&echo);
    return rc;
}

double psd_loopback_speed(void)
{
    psd_err_t err = { 0 };
    probe_t *probe = calloc(1, sizeof *probe);
    const double bytes_per_s = probe && converse(probe, &err) == PSD_OK ? probe->bytes_per_s : 0;
    free(probe);
    return bytes_per_s;
}

void psd_check_loopback(psd_findings_t *findings, const psd_options_t *options, bool has_job)
{
    (void)options, (void)has_job;
    psd_err_t err = { 0 };
    probe_t *probe = calloc(1, sizeof *probe);
    const int rc = probe ? converse(probe, &err) : psd_err_set(&err, PSD_ENOMEM, "no memory");
    if (rc)
        psd_finding(findings, PSD_VERDICT_BAD, "loopback", "check that the interface lo is up: ip link set lo up",
                    "no message comes back within %d s: %s", SILENCE_MS / 1000, *err.text ? err.text : psd_err_text(rc));
    else
        describe(probe, findings);
    free(probe);
}
