/* fuzz_http.c - any bytes as the answer of a status address to psdctl: a document, events, or refused with a sentence. */
#include <arpa/inet.h>
#include <assert.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "deploy/psdctl/inspect/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static int listener = -1;
static char url[64];
static const uint8_t *answer;
static size_t n_answer;

static void start(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof at;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(!bind(listener, (struct sockaddr *)&at, n) && !listen(listener, 8) &&
           !getsockname(listener, (struct sockaddr *)&at, &n));
    snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(at.sin_port));
}

/* One request and one answer. */
static void *serve(void *arg)
{
    char question[4096];
    (void)arg;
    const int peer = accept(listener, NULL, NULL);
    size_t n = 0;
    for (ssize_t got; n < sizeof question && !memmem(question, n, "\r\n\r\n", 4) &&
                      (got = recv(peer, question + n, sizeof question - n, 0)) > 0;)
        n += (size_t)got;
    for (size_t at = 0; at < n_answer;) {
        const ssize_t sent = send(peer, answer + at, n_answer - at, MSG_NOSIGNAL);
        if (sent <= 0)
            break;
        at += (size_t)sent;
    }
    close(peer);
    return NULL;
}

static void ask(void (*take)(psd_http_t *self))
{
    pthread_t thread;
    psd_err_t err = { 0 };
    assert(!pthread_create(&thread, NULL, serve, NULL));
    psd_http_t *http = psd_http_get(url, NULL, "/status", 5000, &err);
    assert(http || *err.text);
    if (http)
        take(http);
    psd_http_close(&http);
    pthread_join(thread, NULL);
}

static void take_object(psd_http_t *self)
{
    psd_err_t err = { 0 };
    json_t *object = psd_http_object(self, &err);
    assert(object ? json_is_object(object) : *err.text != '\0');
    if (object) {
        (void)psd_http_text_at(object, "state");
        (void)psd_http_number_at(object, "progress", "step");
    }
    json_decref(object);
}

static void take_events(psd_http_t *self)
{
    psd_err_t err = { 0 };
    for (json_t *object; (object = psd_http_event(self, &err)); json_decref(object))
        assert(json_is_object(object));
    assert(*err.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (listener < 0)
        start();
    answer = data;
    n_answer = n_bytes;
    ask(n_bytes && data[n_bytes - 1] % 2 ? take_object : take_events);
    return 0;
}
