#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "server/status/connections.h"
#include "server/status/status.h"
#include "tests/support/kept.h"

static psd_status_t *status;
static psd_err_t err;
static char reply[1 << 16];

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void publish(uint64_t tick_ms, bool ready)
{
    psd_status_publish(
        status, &(psd_status_snapshot_t){ .tick_ms = tick_ms,
                                          .ready = ready,
                                          .ready_lines = "[+]restore ok\n[-]quorum 1/2\n",
                                          .status_json = "{\"schema\":\"psd.status/1\",\"job\":\"<mnist>\",\"state\":\"training\","
                                                         "\"progress\":{\"step\":42},\"workers\":[{\"id\":0,\"host\":\"a&b\"}]}",
                                          .metrics = "psd_steps_total{shard=\"0\"} 42\n" });
}

static void setup(void)
{
    cr_assert_not_null(status = psd_status_new("127.0.0.1:0", "", &err), "%s", err.text);
    publish(now_ms(), true);
}
static void teardown(void) { psd_status_destroy(&status); }
TestSuite(status, .init = setup, .fini = teardown, .timeout = 600);

static int dial(void)
{
    const char *colon = strrchr(psd_status_url(status), ':');
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)atoi(colon + 1)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval wait = { .tv_sec = 10 };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Send `text` on a new connection; the whole answer is in `reply`; returns the status. */
static int ask(const char *text)
{
    int fd = dial(), code = 0;
    size_t n = 0;
    ssize_t got;
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        text = "";
    while (n < sizeof reply - 1 && (got = recv(fd, reply + n, sizeof reply - 1 - n, 0)) > 0)
        n += (size_t)got;
    reply[n] = '\0';
    close(fd);
    sscanf(reply, "HTTP/1.%*d %d", &code);
    return code;
}

static int get(const char *path)
{
    char text[256];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost:7471\r\nConnection: close\r\n\r\n", path);
    return ask(text);
}

Test(status, each_path_answers_from_the_snapshot)
{
    cr_assert_eq(get("/livez"), 200);
    cr_assert_eq(get("/healthz"), 200);
    cr_assert_eq(get("/readyz"), 200);
    cr_assert_not_null(strstr(reply, "\r\n\r\nok\n"));
    cr_assert_eq(get("/readyz?verbose"), 200);
    cr_assert_not_null(strstr(reply, "[+]restore ok\n[-]quorum 1/2\nreadyz check passed\n"));
    cr_assert_eq(get("/status"), 200);
    cr_assert_not_null(strstr(reply, "Content-Type: application/json"));
    cr_assert_not_null(strstr(reply, "\"step\":42"));
    cr_assert_eq(get("/metrics"), 200);
    cr_assert_not_null(strstr(reply, "text/plain; version=0.0.4; charset=utf-8"));
    cr_assert_not_null(strstr(reply, "psd_steps_total{shard=\"0\"} 42\n"));
    cr_assert_eq(get("/etc/passwd"), 404);
    static const char *const asked[] = { "/livez", "/healthz", "/readyz", "/readyz", "/status", "/metrics", "other" };
    uint64_t sum = 0;
    for (size_t row = 0; psd_status_path(row); row++) {
        uint64_t wanted = 0;
        for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
            wanted += strcmp(asked[i], psd_status_path(row)) == 0;
        cr_expect_eq(psd_status_requests(status, row), wanted, "%s", psd_status_path(row));
        sum += wanted;
    }
    cr_assert_eq(sum, 7);
}

Test(status, each_answer_forbids_what_a_page_of_numbers_does_not_need)
{
    static const char *const paths[] = { "/", "/livez", "/status", "/metrics", "/etc/passwd" };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        get(paths[i]);
        cr_expect_not_null(strstr(reply, "\r\nCache-Control: no-store\r\n"), "%s: %s", paths[i], reply);
        cr_expect_not_null(strstr(reply, "\r\nX-Content-Type-Options: nosniff\r\n"), "%s", paths[i]);
        cr_expect_not_null(strstr(reply, "\r\nContent-Security-Policy: default-src 'none'; script-src 'self'; "), "%s", paths[i]);
    }
}

Test(status, only_prometheus_itself_counts_as_a_scrape)
{
    static const struct {
        const char *agent;
        unsigned n;
    } asked[] = {
        { "curl/8.0", 0 }, { "Prometheus/2.53", 1 }, { "NotPrometheus/1", 1 }, { "Prometheus-probe/1", 1 }, { "Prometheus/3", 2 }
    };
    get("/metrics");
    cr_expect_eq(psd_status_scrapes(status), 0, "without a name");
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        char text[256];
        snprintf(text, sizeof text, "GET /metrics HTTP/1.1\r\nHost: localhost:7471\r\nUser-Agent: %s\r\nConnection: close\r\n\r\n",
                 asked[i].agent);
        cr_expect_eq(ask(text), 200);
        cr_expect_eq(psd_status_scrapes(status), asked[i].n, "%s", asked[i].agent);
    }
}

Test(status, the_page_is_whole_and_escapes_what_people_typed)
{
    cr_assert_eq(get("/"), 200);
    cr_assert_not_null(strstr(reply, "<h1>&lt;mnist&gt;</h1>"));
    cr_assert_not_null(strstr(reply, "a&amp;b"));
    cr_assert_not_null(strstr(reply, "<b>42</b>step"));
    cr_assert_not_null(strstr(reply, "</html>"));
    cr_assert_not_null(strstr(reply, "Content-Security-Policy: default-src 'none'"));
}

Test(status, a_stuck_loop_is_neither_alive_nor_ready)
{
    publish(now_ms() - 6000, true);
    cr_assert_eq(get("/livez"), 500);
    cr_assert_eq(get("/readyz"), 503);
    publish(now_ms() - 3000, true);
    cr_expect_eq(get("/livez"), 200, "it may be busy for a while");
    cr_expect_eq(get("/readyz"), 200);
    publish(now_ms(), false);
    cr_assert_eq(get("/livez"), 200);
    cr_assert_eq(get("/readyz"), 503);
    cr_assert_not_null(strstr(reply, "readyz check failed\n"));
}

/* Read from `fd` into `reply`, after its present contents, until it contains `wanted` or the peer closes. */
static bool read_until(int fd, const char *wanted)
{
    size_t n = strlen(reply);
    ssize_t got = 1;
    while (!strstr(reply, wanted) && n < sizeof reply - 1 && (got = recv(fd, reply + n, sizeof reply - 1 - n, 0)) > 0)
        reply[n += (size_t)got] = '\0';
    return strstr(reply, wanted) != NULL;
}

static int follow(void)
{
    static const char text[] = "GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n";
    int fd = dial();
    reply[0] = '\0';
    cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
    return fd;
}

static void publish_document(const char *json)
{
    psd_status_publish(status, &(psd_status_snapshot_t){ .tick_ms = now_ms(), .status_json = json });
}

Test(status, each_new_snapshot_is_an_event)
{
    int fd = follow();
    cr_assert(read_until(fd, "\"step\":42"), "the newest comes at once: %s", reply);
    cr_assert_not_null(strstr(reply, "Content-Type: text/event-stream"));
    cr_assert_not_null(strstr(reply, "\r\n\r\nid: 0\ndata: {\"schema\""));
    for (int step = 43; step < 47; step++) {
        char json[64], wanted[96];
        snprintf(json, sizeof json, "{\n\"step\": %d\n}", step);
        snprintf(wanted, sizeof wanted, "\n\nid: 0\ndata: {\ndata: \"step\": %d\ndata: }\n\n", step);
        publish_document(json);
        cr_assert(read_until(fd, wanted), "%s", reply);
    }
    close(fd);
}

/* 140,000 bytes, of which no two blocks are alike. */
Test(status, an_event_of_many_blocks_comes_whole_and_once)
{
    enum { NUMBERS = 20000, DIGITS = 7 };
    static char event[NUMBERS * DIGITS + 64], got[sizeof event + 1024];
    size_t n = (size_t)snprintf(event, sizeof event, "\r\n\r\nid: 0\ndata: ");
    const char *json = event + n;
    for (unsigned i = 0; i < NUMBERS; i++)
        n += (size_t)snprintf(event + n, sizeof event - n, "%0*u", DIGITS, i);
    publish_document(json);
    snprintf(event + n, sizeof event - n, "\n\n");
    int fd = follow();
    ssize_t more = 1;
    for (n = 0; !strstr(got, event) && n < sizeof got - 1 && (more = recv(fd, got + n, sizeof got - 1 - n, 0)) > 0;)
        n += (size_t)more;
    cr_assert_not_null(strstr(got, event), "%zu bytes came", n);
    publish_document("{}");
    cr_expect(read_until(fd, "id: 0\ndata: {}\n\n"), "%.200s", reply);
    cr_expect_str_eq(reply, "id: 0\ndata: {}\n\n", "nothing of it comes again");
    close(fd);
}

Test(status, an_event_is_numbered_by_the_lines_that_were_logged_before_it)
{
    int fd = follow();
    cr_assert(read_until(fd, "id: 0\ndata: {\"schema\""), "%s", reply);
    for (unsigned n = 1; n < 3; n++) {
        char wanted[64];
        psd_status_note(status, "info", "worker.joined", "worker=0");
        snprintf(wanted, sizeof wanted, "\n\nid: %u\ndata: {}\n\n", n);
        publish_document("{}");
        cr_expect(read_until(fd, wanted), "%s", reply);
    }
    for (unsigned n = 3; n <= PSD_HISTORY_LINES + 3; n++)
        psd_status_note(status, "info", "worker.joined", "worker=0");
    publish_document("{}");
    cr_expect(read_until(fd, "\n\nid: 203\ndata: {}\n\n"), "those that are kept no longer count, too: %s", reply);
    close(fd);
}

Test(status, events_end_with_the_server_and_its_last_word)
{
    int fd = follow();
    cr_assert(read_until(fd, "\"step\":42"));
    publish_document("{\"state\": \"finished\"}");
    psd_status_destroy(&status);
    cr_assert(read_until(fd, "\n\nid: 0\ndata: {\"state\": \"finished\"}\n\n"), "%s", reply);
    cr_assert_eq(recv(fd, reply, sizeof reply, 0), 0, "and then the end");
    close(fd);
}

/* A stream whose client has stopped reading: megabytes more than the buffers of any socket can hold. */
Test(status, a_client_that_does_not_read_its_events_delays_no_other)
{
    enum { BIG = 16 << 20 };
    char *big = malloc(BIG);
    memset(big, 'x', BIG - 1);
    big[BIG - 1] = '\0';
    int fd = follow();
    cr_assert(read_until(fd, "\"step\":42"));
    publish_document(big);
    free(big);
    for (int i = 0; i < 100; i++)
        publish_document("{}");
    cr_assert_eq(get("/livez"), 200);
    uint64_t start = now_ms();
    psd_status_destroy(&status);
    cr_assert_lt(now_ms() - start, 5000);
    close(fd);
}

Test(status, streams_are_bounded_and_one_that_is_left_makes_room)
{
    enum { STREAMS = 8 };
    int fd[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        fd[i] = follow();
        cr_assert(read_until(fd[i], "\"step\":42"));
    }
    cr_assert_eq(get("/events"), 503);
    cr_assert_eq(get("/livez"), 200);
    close(fd[3]);
    int code = 503;
    for (int i = 0; i < 1000 && code == 503; i++) { /* until the server has noticed it */
        publish_document("{\"state\":\"training\"}");
        int again = follow();
        cr_assert(read_until(again, "\r\n\r\n"));
        sscanf(reply, "HTTP/1.%*d %d", &code);
        close(again);
    }
    cr_assert_eq(code, 200);
    for (int i = STREAMS - 1; i >= 0; i--) /* the newest first, each next to the one before */
        if (i != 3)
            close(fd[i]);
    for (int n = 0, tries = 0; n < STREAMS && tries < 1000; tries++) { /* until all have their places again */
        publish_document("{\"state\":\"training\"}");
        fd[n] = follow();
        cr_assert(read_until(fd[n], "\r\n\r\n"));
        sscanf(reply, "HTTP/1.%*d %d", &code);
        n += code == 200;
        if (code != 200)
            close(fd[n]);
        cr_assert(n < STREAMS || tries < 999);
    }
    publish_document("{\"state\":\"paused\"}");
    for (int i = 0; i < STREAMS; i++) {
        reply[0] = '\0';
        cr_expect(read_until(fd[i], "\"paused\""), "stream %d: %s", i, reply);
        close(fd[i]);
    }
}

Test(status, connections_that_have_ended_take_no_room)
{
    for (unsigned i = 0; i < PSD_CONNECTIONS_ROOM + 10; i++)
        cr_assert_eq(get("/livez"), 200, "the one after %u", i);
}

Test(status, a_stream_stays_however_many_other_connections_come)
{
    int stream = follow(), other[PSD_CONNECTIONS_MOST + 10];
    cr_assert(read_until(stream, "\"step\":42"), "%s", reply);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        other[i] = dial();
    cr_assert_eq(get("/livez"), 200);
    publish_document("{\"state\":\"paused\"}");
    reply[0] = '\0';
    cr_expect(read_until(stream, "\"paused\""), "%s", reply);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        close(other[i]);
    close(stream);
}

Test(status, before_the_first_snapshot_it_says_so)
{
    psd_status_t *fresh = psd_status_new("127.0.0.1:0", "", &err), *old = status;
    status = fresh;
    cr_assert_eq(get("/livez"), 500);
    cr_assert_eq(get("/status"), 503);
    cr_assert_eq(get("/"), 200);
    cr_assert_not_null(strstr(reply, "no status yet"));
    status = old;
    psd_status_destroy(&fresh);
}

Test(status, a_line_of_the_log_is_in_the_history_with_its_time)
{
    struct timespec before, after;
    clock_gettime(CLOCK_REALTIME, &before);
    psd_status_note(status, "warn", "worker.lost", "worker=1 name=host1");
    clock_gettime(CLOCK_REALTIME, &after);
    cr_assert_eq(get("/history"), 200);
    const char *events = strstr(reply, "\"events\":[{\"ts\":");
    cr_assert_not_null(events, "%s", reply);
    char *rest;
    const double ts = strtod(events + strlen("\"events\":[{\"ts\":"), &rest);
    cr_expect_str_eq(rest, ",\"level\":\"warn\",\"id\":\"worker.lost\",\"text\":\"worker=1 name=host1\"}]}");
    cr_expect(ts >= (double)before.tv_sec + (double)before.tv_nsec * 1e-9 - 0.01 &&
                  ts <= (double)after.tv_sec + (double)after.tv_nsec * 1e-9 + 0.01,
              "%f", ts);
}

Test(status, only_get_and_head_are_served)
{
    cr_assert_eq(ask("HEAD /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 200);
    cr_assert_null(strstr(reply, "step"));
    cr_assert_eq(ask("POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"), 405);
    cr_assert_not_null(strstr(reply, "Allow: GET, HEAD"));
    cr_assert_eq(ask("DELETE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 405);
}

Test(status, a_foreign_host_is_refused_and_an_address_is_not)
{
    cr_assert_eq(ask("GET /status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), 403);
    cr_assert_eq(ask("GET /status HTTP/1.1\r\nHost: 127.0.0.1.evil.example:7471\r\nConnection: close\r\n\r\n"), 403);
    cr_assert_eq(ask("GET /status HTTP/1.1\r\nHost: 127.0.0.1:7471\r\nConnection: close\r\n\r\n"), 200);
    cr_assert_eq(ask("GET /status HTTP/1.1\r\nHost: [::1]:7471\r\nConnection: close\r\n\r\n"), 200);
    cr_assert_eq(ask("GET /status HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n"), 403);
    cr_assert_eq(ask("GET /status HTTP/1.0\r\n\r\n"), 200);
}

Test(status, a_host_is_ours_as_a_whole_or_not_at_all)
{
    char machine[256] = "", many[300], text[600];
    gethostname(machine, sizeof machine - 1);
    memset(many, '1', sizeof many - 1);
    many[sizeof many - 1] = '\0';
    const struct {
        const char *host;
        int code;
    } rows[] = { { "LOCALHOST", 200 },
                 { "localhost:", 200 },
                 { machine, 200 },
                 { "[fe80::7]", 200 },
                 { "10.1.2.3", 200 },
                 { "localhost.evil.example", 403 },
                 { "127.0.0.1.evil.example:80", 403 },
                 { "evil.example", 403 },
                 { "[", 403 },
                 { "[]", 403 },
                 { "[::1x]", 403 },
                 { "1.2.3", 403 },
                 { "local", 403 },
                 { many, 403 } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(text, sizeof text, "GET /status HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", rows[i].host);
        cr_expect_eq(ask(text), rows[i].code, "%s", rows[i].host);
    }
}

Test(status, an_oversized_request_is_refused)
{
    size_t n = 40000;
    char *text = malloc(n + 1);
    snprintf(text, n, "GET /status HTTP/1.1\r\nHost: localhost\r\nX: ");
    size_t used = strlen(text);
    memset(text + used, 'x', n - used);
    text[n] = '\0';
    int code = ask(text);
    cr_assert(code == 431 || code == 0, "%d", code); /* or the connection is cut */
    memcpy(text, "GET /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 48);
    memset(text + 48, 'x', n - 48);
    code = ask(text);
    cr_assert(code == 414 || code == 431 || code == 0, "%d", code);
    free(text);
    cr_assert_eq(get("/livez"), 200);
}

Test(status, half_sent_requests_are_cut_and_do_not_keep_others_out)
{
    enum { HALF = 12 };
    int fd[HALF];
    for (int i = 0; i < HALF; i++) {
        fd[i] = dial();
        cr_assert_eq(send(fd[i], "GET /sta", 8, MSG_NOSIGNAL), 8);
    }
    cr_assert_eq(get("/livez"), 200);
    for (int i = 0; i < HALF; i++) {
        struct pollfd closed = { .fd = fd[i], .events = POLLIN };
        cr_assert_eq(poll(&closed, 1, 20000), 1, "a half-sent request is still open after 20 s");
        close(fd[i]);
    }
}

/* More clients than there is room for; each sends a little more before it counts as silent. */
Test(status, a_slow_client_keeps_no_other_out_and_stays_only_while_there_is_room)
{
    enum { SLOW = 100 };
    int fd[SLOW];
    unsigned open = 0;
    uint64_t longest = 0;
    for (int i = 0; i < SLOW; i++) {
        fd[i] = dial();
        cr_assert_eq(send(fd[i], "GET /status HTTP/1.1\r\nX: ", 25, MSG_NOSIGNAL), 25);
    }
    unsigned looks = 0; /* some more once there are few enough: no other client is disconnected */
    for (const uint64_t end = now_ms() + 60000; looks < 5 && now_ms() < end; looks += open <= 64) {
        const uint64_t asked = now_ms();
        cr_assert_eq(get("/livez"), 200);
        longest = now_ms() - asked > longest ? now_ms() - asked : longest;
        open = 0;
        for (int i = 0; i < SLOW; i++)
            open += send(fd[i], "x", 1, MSG_NOSIGNAL) == 1;
        usleep(50000);
    }
    cr_expect_leq(longest, 1000, "an honest one waited %llu ms", (unsigned long long)longest);
    unsigned told = 0;
    for (int i = 0; i < SLOW; i++) {
        char answer[256] = "";
        told += recv(fd[i], answer, sizeof answer - 1, MSG_DONTWAIT) > 0 && !strncmp(answer, "HTTP/1.1 503 ", 13) &&
                strstr(answer, "\r\nRetry-After: 1\r\n");
    }
    cr_expect_geq(told, SLOW - 64 - 1, "%u were told that it is busy", told);
    cr_expect_leq(open, 64, "%u are still open", open);
    cr_expect_gt(open, 0, "no client is disconnected while there is room");
    for (int i = 0; i < SLOW; i++)
        close(fd[i]);
}

Test(status, an_address_that_cannot_be_is_an_error)
{
    psd_err_t why;
    char wanted[400];
    cr_assert_null(psd_status_new("7471", "", &why));
    cr_assert_eq(why.code, PSD_ECONFIG);
    cr_expect_str_eq(why.text, "status.listen is 7471; expected HOST:PORT or none");
    const char *taken = psd_status_url(status) + strlen("http://");
    cr_assert_null(psd_status_new("no.such.host.invalid:1", "", &why));
    cr_assert_eq(why.code, PSD_ECONFIG);
    cr_expect(strstr(why.text, "status.listen: ") == why.text && strstr(why.text, "no.such.host.invalid"), "%s", why.text);
    cr_assert_null(psd_status_new(taken, "", &why));
    cr_assert_eq(why.code, PSD_EIO);
    snprintf(wanted, sizeof wanted, "status.listen: cannot serve at %s: Address already in use", taken);
    cr_expect_str_eq(why.text, wanted);
}

Test(status, an_address_of_ipv6_is_bracketed_and_served)
{
    psd_status_t *six = psd_status_new("[::1]:0", "", &err);
    if (!six) { /* a machine without it */
        cr_expect_eq(err.code, PSD_EIO, "%s", err.text);
        return;
    }
    struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
    int port = 0;
    char text[80] = "";
    cr_assert_eq(sscanf(psd_status_url(six), "http://[::1]:%d", &port), 1, "%s", psd_status_url(six));
    address.sin6_port = htons((uint16_t)port);
    const int fd = socket(AF_INET6, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    static const char asked[] = "GET /livez HTTP/1.0\r\n\r\n";
    cr_assert_gt(send(fd, asked, sizeof asked - 1, MSG_NOSIGNAL), 0);
    cr_assert_gt(recv(fd, text, sizeof text - 1, 0), 0);
    cr_expect_not_null(strstr(text, " 500 "), "nothing is published: %s", text);
    close(fd);
    psd_status_destroy(&six);
}

Test(status, none_serves_nothing)
{
    psd_status_t *none = psd_status_new("none", "", &err);
    cr_assert_str_eq(psd_status_url(none), "none");
    psd_status_publish(none, &(psd_status_snapshot_t){ .tick_ms = 1 });
    psd_status_destroy(&none);
    cr_assert_null(none);
}

/* ---- the token ---- */

static char token_file[] = "/tmp/psd-test-XXXXXX";

static void write_token(const char *text, mode_t mode)
{
    FILE *file = fopen(token_file, "w");
    fputs(text, file);
    fclose(file);
    chmod(token_file, mode);
}

static void setup_token(void)
{
    close(mkstemp(token_file));
    write_token("0123456789abcdef\n", 0600);
    cr_assert_not_null(status = psd_status_new("0.0.0.0:0", token_file, &err), "%s", err.text);
    publish(now_ms(), true);
}
static void teardown_token(void)
{
    psd_status_destroy(&status);
    unlink(token_file);
}

Test(status, a_client_without_the_token_sees_only_health, .init = setup_token, .fini = teardown_token)
{
    static const char *const wrong[] = { "",
                                         "Authorization: Bearer 0123456789abcdeF\r\n",
                                         "Authorization: Bearer 1123456789abcdef\r\n",
                                         "Authorization: Bearer 01234567A9abcdef\r\n",
                                         "Authorization: Bearer fedcba9876543210\r\n",
                                         "Authorization: Bearer \r\n",
                                         "Authorization: Bearer 0123456789abcde\r\n",
                                         "Authorization: 0123456789abcdef\r\n",
                                         "Authorization: Basic 0123456789abcdef\r\n",
                                         "Authorization: Bearer 0123456789abcdef0\r\n" };
    static const char *const paths[] = { "/", "/status", "/metrics" };
    char text[512];
    for (size_t p = 0; p < 3; p++) {
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            snprintf(text, sizeof text, "GET %s HTTP/1.0\r\nHost: localhost\r\n%s\r\n", paths[p], wrong[i]);
            cr_expect_eq(ask(text), 401, "%s", text);
            cr_expect(strstr(reply, "WWW-Authenticate: Bearer") && !strstr(strstr(reply, "\r\n\r\n"), "42"), "%s", reply);
        }
        snprintf(text, sizeof text, "GET %s HTTP/1.0\r\nHost: localhost\r\nauthorization: bearer 0123456789abcdef\r\n\r\n",
                 paths[p]);
        cr_expect_eq(ask(text), 200, "%s", text);
    }
    cr_expect_eq(get("/livez"), 200);
    cr_expect_eq(get("/healthz"), 200);
    cr_expect_eq(get("/readyz"), 200);
}

Test(status, beyond_this_machine_a_token_is_required)
{
    static const char *const listen[] = { "0.0.0.0:0", "[::]:0" };
    for (size_t i = 0; i < 2; i++) {
        err.text[0] = '\0';
        cr_expect_null(psd_status_new(listen[i], "", &err));
        cr_expect(err.code == PSD_ECONFIG && strstr(err.text, "--status-token FILE"), "%s", err.text);
    }
}

Test(status, a_wrong_token_is_refused, .init = setup_token, .fini = teardown_token)
{
    static const char *const texts[] = { "", "short", "0123456789abcdef more", "0123456789\nabcdef0123456789",
                                         "0123456789abcde\x01" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_token(texts[i], 0600);
        cr_expect_null(psd_status_new("127.0.0.1:0", token_file, &err), "%s", texts[i]);
        cr_expect(err.code == PSD_ECONFIG && strstr(err.text, "is not a token"), "%s", err.text);
    }
    write_token("0123456789abcdef", 0640);
    cr_expect_null(psd_status_new("127.0.0.1:0", token_file, &err));
    cr_expect_not_null(strstr(err.text, "chmod 600"), "%s", err.text);
    cr_expect_null(psd_status_new("127.0.0.1:0", "/tmp/psd-no-such-file", &err));
    cr_expect_eq(err.code, PSD_ENOINPUT);
}

/* ---- all answers, as tests/golden/endpoint.txt has them ---- */

/* Put a request and its whole answer, without the date, to `out`; of scripts and pages only the head. */
static void keep_answer(FILE *out, const char *method, const char *path, const char *header)
{
    char text[512];
    snprintf(text, sizeof text, "%s %s HTTP/1.1\r\n%s\r\nConnection: close\r\n\r\n", method, path, header);
    ask(text);
    fprintf(out, "==== %s %s, %s\n", method, path, header);
    char *body = strstr(reply, "\r\n\r\n");
    cr_assert_not_null(body, "%s", reply);
    *body = '\0';
    for (char *line = strtok(reply, "\r\n"); line; line = strtok(NULL, "\r\n"))
        if (strncmp(line, "Date: ", 6) && strncmp(line, "Content-Length: ", 16))
            fprintf(out, "%s\n", line);
    fputc('\n', out);
    if (strncmp(path, "/dashboard", 10) && strcmp(path, "/"))
        fputs(body + 4, out);
    if (strcmp(method, "HEAD"))
        fputc('\n', out);
}

static const char *const every_path[] = { "/",       "/status",  "/metrics",      "/livez",         "/healthz",
                                          "/readyz", "/history", "/dashboard.js", "/dashboard.css", "/nothing" };

Test(status, each_answer_is_as_kept, .fini = teardown)
{
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    psd_status_t *first = status;
    cr_assert_not_null(status = psd_status_new("127.0.0.1:0", "", &err), "%s", err.text);
    for (size_t i = 0; i < sizeof every_path / sizeof *every_path; i++)
        keep_answer(out, "GET", every_path[i], "Host: before.the.first:1");
    for (size_t i = 0; i < sizeof every_path / sizeof *every_path; i++)
        keep_answer(out, "GET", every_path[i], "Host: localhost");
    publish(now_ms() + 60000, false);
    keep_answer(out, "GET", "/readyz", "Host: LocalHost:1");
    publish(now_ms() + 60000, true); /* however long the answers take */
    for (size_t i = 0; i < sizeof every_path / sizeof *every_path; i++)
        keep_answer(out, i % 2 ? "GET" : "HEAD", every_path[i], "Host: 127.0.0.1");
    keep_answer(out, "GET", "/readyz?verbose", "Host: [::1]:9");
    keep_answer(out, "GET", "/readyz?verbos=1", "Host: 10.0.0.1:9");
    keep_answer(out, "PUT", "/status", "Host: localhost");
    publish(now_ms() - 5500, true);
    keep_answer(out, "GET", "/livez", "Host: localhost");
    keep_answer(out, "GET", "/readyz", "Host: localhost");
    for (size_t row = 0; psd_status_path(row); row++)
        fprintf(out, "%s was asked %u times\n", psd_status_path(row), (unsigned)psd_status_requests(status, row));
    psd_status_destroy(&status);
    status = first;
    fclose(out);
    expect_kept("tests/golden/report/endpoint.txt", text);
    free(text);
}

Test(status, each_answer_to_one_without_the_token_is_as_kept, .init = setup_token, .fini = teardown_token)
{
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    for (size_t i = 0; i < sizeof every_path / sizeof *every_path; i++)
        keep_answer(out, "GET", every_path[i], "Host: localhost");
    keep_answer(out, "GET", "/events", "Host: localhost");
    fclose(out);
    expect_kept("tests/golden/report/endpoint_token.txt", text);
    free(text);
}
