#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "deploy/psdctl/inspect/http.h"

/* A server for one connection: it reads a request, sends the given answer, and closes, or waits for the other side to close. */
static struct {
    int listener;
    char url[64];
    char request[4096]; /* as received */
    const char *says;
    size_t n;
    bool stays; /* sends no more, but does not close */
    pthread_t thread;
} server;

static void *serve(void *arg)
{
    (void)arg;
    size_t n = 0;
    const int fd = accept(server.listener, NULL, NULL);
    for (ssize_t got; !strstr(server.request, "\r\n\r\n") && n < sizeof server.request - 1; n += (size_t)got)
        if ((got = read(fd, server.request + n, sizeof server.request - 1 - n)) <= 0)
            break;
    for (size_t at = 0; at < server.n;) {
        const ssize_t sent = send(fd, server.says + at, server.n - at, MSG_NOSIGNAL);
        if (sent <= 0)
            break;
        at += (size_t)sent;
    }
    char rest[1];
    shutdown(fd, server.stays ? SHUT_RD : SHUT_WR);
    while (!server.stays && read(fd, rest, sizeof rest) > 0)
        ;
    if (server.stays)
        return (void *)(intptr_t)fd;
    close(fd);
    return NULL;
}

static void listen_at(const char *host)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    const bool is_v6 = strchr(host, ':') != NULL;
    inet_pton(AF_INET, host, &v4.sin_addr);
    inet_pton(AF_INET6, host, &v6.sin6_addr);
    server.listener = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(server.listener, is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4, is_v6 ? sizeof v6 : sizeof v4)) {
        server.listener = -1;
        return;
    }
    cr_assert_eq(listen(server.listener, 8), 0);
    getsockname(server.listener, (struct sockaddr *)&at, &n);
    snprintf(server.url, sizeof server.url, "%s%s%s:%u", is_v6 ? "[" : "", host, is_v6 ? "]" : "",
             ntohs(is_v6 ? ((struct sockaddr_in6 *)&at)->sin6_port : ((struct sockaddr_in *)&at)->sin_port));
}

static void answer_bytes(const char *says, size_t n)
{
    if (!server.listener)
        listen_at("127.0.0.1");
    server.says = says;
    server.n = n;
    memset(server.request, 0, sizeof server.request);
    cr_assert_eq(pthread_create(&server.thread, NULL, serve, NULL), 0);
}

static void answer(const char *says) { answer_bytes(says, strlen(says)); }

static void finish(void)
{
    void *fd = NULL;
    pthread_join(server.thread, &fd);
    if (fd)
        close((int)(intptr_t)fd);
}

static psd_err_t err;

/* The answer as a whole is refused, for this reason. */
static void expect_error(const char *says, int code, const char *words)
{
    size_t n;
    answer(says);
    char *bytes = psd_http_fetch(server.url, NULL, "/status", &n, &err);
    finish();
    cr_assert_null(bytes, "%s", says);
    cr_expect_eq(err.code, code, "%s: %s", says, err.text);
    cr_expect_not_null(strstr(err.text, words), "%s: %s", says, err.text);
    cr_expect_not_null(strstr(err.text, server.url), "%s", err.text);
}

/* The whole answer has this body. */
static void expect_bytes(const char *says, const char *body)
{
    size_t n = 0;
    answer(says);
    char *bytes = psd_http_fetch(server.url, NULL, "/status", &n, &err);
    finish();
    cr_assert_not_null(bytes, "%s: %s", says, err.text);
    cr_expect_str_eq(bytes, body);
    cr_expect_eq(n, strlen(body));
    free(bytes);
}

TestSuite(http, .timeout = 600);

Test(http, an_answer_ends_with_its_length_its_last_chunk_or_the_connection)
{
    expect_bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, not this", "hello");
    expect_bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello");
    expect_bytes("HTTP/1.0 200 OK\r\n\r\nhello", "hello");
    expect_bytes("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "");
    expect_bytes("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi");
}

Test(http, an_answer_that_is_cut_short_is_an_error)
{
    expect_error("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", PSD_EUNAVAILABLE, "is incomplete");
    expect_error("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", PSD_EUNAVAILABLE, "is incomplete");
    expect_error("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n", PSD_EUNAVAILABLE, "is incomplete");
    expect_error("HTTP/1.1 200 OK\r\nContent-Le", PSD_EUNAVAILABLE, "no answer from");
    expect_error("", PSD_EUNAVAILABLE, "no answer from");
}

Test(http, an_answer_of_another_program_is_distinguished)
{
    expect_error("SSH-2.0-OpenSSH_9.2\r\n", PSD_EUNAVAILABLE, "answers, but is not a status address");
    expect_error("HTTP/1.1 twohundred OK\r\n\r\n", PSD_EUNAVAILABLE, "answers, but is not a status address");
    expect_error("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", PSD_EUNAVAILABLE,
                 "answers \"HTTP/1.1 503 Service Unavailable\"");
    expect_error("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", PSD_EAUTH, "requires a token: give --token-file");
    expect_error("HTTP/1.1 302 Found\r\nLocation: /status\r\nContent-Length: 0\r\n\r\n", PSD_EUNAVAILABLE,
                 "answers \"HTTP/1.1 302 Found\"");
}

Test(http, an_answer_above_16_mib_is_refused)
{
    static const char head[] = "HTTP/1.0 200 OK\r\n\r\n";
    const size_t n = sizeof head - 1 + (16 << 20) + 1;
    char *says = calloc(1, n);
    size_t n_bytes = 0;
    memcpy(says, head, sizeof head - 1);
    answer_bytes(says, n);
    char *bytes = psd_http_fetch(server.url, NULL, "/status", &n_bytes, &err);
    cr_expect_null(bytes);
    cr_expect_not_null(strstr(err.text, "longer than 16 MiB"), "%s", err.text);
    finish();
    answer_bytes(says, n - 1);
    bytes = psd_http_fetch(server.url, NULL, "/status", &n_bytes, &err);
    cr_expect_not_null(bytes, "%s", err.text);
    cr_expect_eq(n_bytes, 16 << 20);
    finish();
    free(bytes);
    free(says);
}

Test(http, a_compressed_answer_comes_unpacked)
{
    static char text[] = "body { color: red }";
    static const char head[] = "HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n";
    char says[512];
    z_stream zip = { .next_in = (Bytef *)text, .avail_in = sizeof text - 1 };
    memcpy(says, head, sizeof head - 1);
    zip.next_out = (Bytef *)says + sizeof head - 1;
    zip.avail_out = sizeof says - sizeof head;
    cr_assert_eq(deflateInit2(&zip, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    cr_assert_eq(deflate(&zip, Z_FINISH), Z_STREAM_END);
    deflateEnd(&zip);
    size_t n = 0;
    answer_bytes(says, sizeof head - 1 + zip.total_out);
    char *bytes = psd_http_fetch(server.url, NULL, "/dashboard.css", &n, &err);
    finish();
    cr_assert_not_null(bytes, "%s", err.text);
    cr_expect_str_eq(bytes, text);
    free(bytes);
    expect_error("HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip", PSD_EPROTO, "is badly compressed");
}

Test(http, the_request_names_path_host_and_token)
{
    char file[] = "/tmp/test_http.XXXXXX", host[96];
    const int fd = mkstemp(file);
    cr_assert_eq(write(fd, "secret0123456789\n", 17), 17);
    close(fd);
    setenv("http_proxy", "http://127.0.0.1:1", 1); /* where no server listens */
    answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    char url[96];
    snprintf(url, sizeof url, "http://%s/ignored", server.url);
    json_t *object = psd_http_fetch_object(url, file, "/history", &err);
    finish();
    unlink(file);
    cr_assert_not_null(object, "%s", err.text);
    json_decref(object);
    snprintf(host, sizeof host, "\r\nHost: %s\r\n", server.url);
    cr_expect_eq(strncmp(server.request, "GET /history HTTP/1.1\r\n", 23), 0, "%s", server.request);
    cr_expect_not_null(strstr(server.request, host), "%s", server.request);
    cr_expect_not_null(strstr(server.request, "\r\nAuthorization: Bearer secret0123456789\r\n"), "%s", server.request);
    answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    json_decref(psd_http_fetch_object(url, NULL, "/history", &err));
    finish();
    cr_expect_null(strstr(server.request, "Authorization"), "%s", server.request);
}

Test(http, an_address_of_ipv6_stands_in_brackets)
{
    listen_at("::1");
    if (server.listener < 0)
        cr_skip_test("there is no IPv6 on this machine");
    answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    json_t *object = psd_http_status(server.url, NULL, &err);
    finish();
    cr_assert_not_null(object, "%s", err.text);
    json_decref(object);
}

Test(http, a_text_that_is_not_an_address_is_wrong_usage)
{
    static const char *const wrong[] = {
        "nowhere", "https://127.0.0.1:1", "http://user@127.0.0.1:1", "127.0.0.1:", ":1", "127.0.0.1:many", "", "file:///etc/passwd"
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_expect_null(psd_http_status(wrong[i], NULL, &err));
        cr_expect_eq(err.code, PSD_EUSAGE, "%s: %s", wrong[i], err.text);
    }
}

Test(http, a_server_that_does_not_listen_is_named)
{
    listen_at("127.0.0.1");
    close(server.listener);
    cr_expect_null(psd_http_status(server.url, NULL, &err));
    cr_expect_eq(err.code, PSD_EUNAVAILABLE);
    cr_expect_not_null(strstr(err.text, "no server answers at 127.0.0.1:"), "%s", err.text);
    cr_expect_null(psd_http_status("no-such-host.invalid:1", NULL, &err));
    cr_expect_eq(err.code, PSD_EUNAVAILABLE);
    cr_expect_not_null(strstr(err.text, "no-such-host.invalid"), "%s", err.text);
}

Test(http, a_peer_that_falls_silent_is_given_up)
{
    server.stays = true;
    answer("");
    cr_expect_null(psd_http_get(server.url, NULL, "/events", 50, &err));
    cr_expect_eq(err.code, PSD_EUNAVAILABLE);
    cr_expect_not_null(strstr(err.text, "no answer from"), "%s", err.text);
    finish();
    answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe");
    psd_http_t *http = psd_http_get(server.url, NULL, "/events", 2000, &err);
    cr_assert_not_null(http, "%s", err.text);
    cr_expect_null(psd_http_event(http, &err));
    cr_expect_eq(err.code, PSD_EUNAVAILABLE);
    cr_expect_not_null(strstr(err.text, "is incomplete"), "%s", err.text);
    psd_http_close(&http);
    cr_expect_null(http);
    finish();
}

/* The next event's "n". */
static json_int_t next(psd_http_t *http)
{
    json_t *event = psd_http_event(http, &err);
    cr_assert_not_null(event, "%s", err.text);
    const json_int_t n = json_integer_value(json_object_get(event, "n"));
    json_decref(event);
    return n;
}

Test(http, events_come_one_by_one_however_they_are_cut)
{
    static const char *const chunks[] = {
        "id: 0\ndata: {\"n\": 1}\n\nid: 1", "\ndata:", " {\ndata: \"n\":\ndata: 2}\n\n: nothing\n\n", "data: {\"n\"",
        ": 3}\n\ndata: {\"n\": ",           ""
    };
    char says[1024] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
        sprintf(says + strlen(says), "%zx\r\n%s\r\n", strlen(chunks[i]), chunks[i]);
    answer(says);
    psd_http_t *http = psd_http_get(server.url, NULL, "/events", 5000, &err);
    cr_assert_not_null(http, "%s", err.text);
    cr_expect_eq(next(http), 1);
    cr_expect_eq(next(http), 2);
    cr_expect_eq(next(http), 3);
    cr_expect_null(psd_http_event(http, &err), "the stream has ended within an event");
    cr_expect_eq(err.code, PSD_EUNAVAILABLE);
    psd_http_close(&http);
    finish();
}

Test(http, an_event_that_is_not_an_object_breaks_the_protocol)
{
    answer("HTTP/1.0 200 OK\r\n\r\ndata: [1]\n\ndata: {\"n\": 1, \"n\": 2}\n\n");
    psd_http_t *http = psd_http_get(server.url, NULL, "/events", 5000, &err);
    cr_assert_not_null(http, "%s", err.text);
    cr_expect_null(psd_http_event(http, &err));
    cr_expect_eq(err.code, PSD_EPROTO);
    cr_expect_null(psd_http_event(http, &err));
    cr_expect_eq(err.code, PSD_EPROTO);
    psd_http_close(&http);
    finish();
}
