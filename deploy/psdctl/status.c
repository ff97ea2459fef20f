#include "deploy/psdctl/status.h"

#include <getopt.h>
#include <jansson.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/err.h"
#include "common/keys.h"

enum { MAX_ANSWER = 16 << 20, WAIT_S = 5 };

static const char usage[] = "Usage: psdctl status [--json] [--token-file FILE] [URL]\n"
                            "Print what the server at URL (default 127.0.0.1:7471) is doing.\n"
                            "  --json        the whole document, as the server gave it\n"
                            "  --status URL  the same as URL\n"
                            "  --token-file FILE  the token that the server asks for (its status.token)\n";

/* Split "http://host:port/..." (the scheme and the path may lack). False when there is no port. */
static bool split(const char *url, char *host, char *port, size_t capacity)
{
    const char *start = strncmp(url, "http://", 7) == 0 ? url + 7 : url;
    size_t n = strcspn(start, "/");
    const char *colon = memrchr(start, ':', n);
    if (!colon || (size_t)(colon - start) >= capacity || n - (size_t)(colon - start) >= capacity)
        return false;
    bool brackets = *start == '[' && colon[-1] == ']';
    snprintf(host, capacity, "%.*s", (int)(colon - start) - 2 * brackets, start + brackets);
    snprintf(port, capacity, "%.*s", (int)(start + n - colon - 1), colon + 1);
    return *host && *port;
}

static int dial(const char *host, const char *port, psd_err_t *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
    struct timeval wait = { .tv_sec = WAIT_S };
    int rc = getaddrinfo(host, port, &hints, &found), fd = -1;
    if (rc)
        return psd_err_set(err, PSD_EUNAVAILABLE, "%s: %s", host, gai_strerror(rc));
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
        if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd >= 0
               ? fd
               : psd_err_set(err, PSD_EUNAVAILABLE,
                             "nobody answers at %s:%s; is the server running, and this its status address?",
                             host, port);
}

/* All that comes until the peer closes; the caller frees it. */
static char *read_all(int fd, psd_err_t *err)
{
    char *text = malloc(MAX_ANSWER + 1);
    size_t n = 0;
    ssize_t got = 1;
    while (text && n < MAX_ANSWER && (got = recv(fd, text + n, MAX_ANSWER - n, 0)) > 0)
        n += (size_t)got;
    if (!text || got < 0 || n == MAX_ANSWER) {
        psd_err_set(err, PSD_EUNAVAILABLE, "the answer is not whole");
        free(text);
        return NULL;
    }
    text[n] = '\0';
    return text;
}

/* The body of GET /status; NULL with `err`. */
static char *fetch(const char *url, const char *token_file, psd_err_t *err)
{
    char host[256], port[256], token[PSD_TOKEN_TEXT] = "", request[1024];
    if (token_file && psd_token_load(token, token_file, err) != PSD_OK)
        return NULL;
    if (!split(url, host, port, sizeof host)) {
        psd_err_set(err, PSD_EUSAGE, "%s is no URL; http://HOST:PORT is wanted", url);
        return NULL;
    }
    int fd = dial(host, port, err);
    if (fd < 0)
        return NULL;
    int n = snprintf(request, sizeof request, "GET /status HTTP/1.0\r\nHost: %s\r\n%s%s%s\r\n", host,
                     *token ? "Authorization: Bearer " : "", token, *token ? "\r\n" : "");
    char *text = NULL;
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) == n)
        text = read_all(fd, err);
    else
        psd_err_set(err, PSD_EUNAVAILABLE, "cannot ask %s:%s", host, port);
    close(fd);
    char *body = text ? strstr(text, "\r\n\r\n") : NULL;
    if (text && strncmp(text, "HTTP/1.1 401", 12) == 0) {
        psd_err_set(err, PSD_EAUTH, "%s:%s asks for a token: give --token-file, the same as its status.token",
                    host, port);
        body = NULL;
    } else if (text && (!body || strncmp(text, "HTTP/1.", 7) != 0 || strncmp(text + 8, " 200", 4) != 0)) {
        psd_err_set(err, PSD_EUNAVAILABLE, "%s:%s answers \"%.*s\"", host, port, (int)strcspn(text, "\r\n"),
                    text);
        body = NULL;
    }
    char *out = body ? strdup(body + 4) : NULL;
    free(text);
    return out;
}

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static double number_at(const json_t *object, const char *section, const char *key)
{
    return json_number_value(json_object_get(*section ? json_object_get(object, section) : object, key));
}

static void print_workers(const json_t *workers)
{
    size_t i;
    json_t *row;
    if (json_array_size(workers))
        printf("  %-7s %-24s %-8s %8s %6s %8s\n", "worker", "name", "state", "step", "lag", "loss");
    json_array_foreach(workers, i, row)
    {
        printf("  %-7.0f %-24.24s %-8s %8.0f %6.0f %8.4g\n", number_at(row, "", "id"), text_at(row, "name"),
               text_at(row, "state"), number_at(row, "", "step"), number_at(row, "", "lag_steps"),
               number_at(row, "", "loss"));
    }
}

static void print_human(const json_t *status)
{
    const json_t *optimizer = json_object_get(status, "optimizer"), *sync = json_object_get(status, "sync");
    const char *reason = text_at(status, "reason"), *rule = text_at(optimizer, "rule");
    printf("%s: %s%s%s, shard %.0f of %.0f, up %.0f s\n", text_at(status, "job"), text_at(status, "state"),
           *reason ? ", " : "", reason, number_at(status, "shard", "index"),
           number_at(status, "shard", "count"), number_at(status, "", "uptime_seconds"));
    printf("  step %.0f, samples %.0f", number_at(status, "progress", "step"),
           number_at(status, "progress", "samples"));
    if (json_is_number(json_object_get(json_object_get(status, "loss"), "train")))
        printf(", training loss %.5g", number_at(status, "loss", "train"));
    printf("\n  %s, %s, learning rate %.4g\n", *rule ? rule : text_at(optimizer, "name"),
           text_at(sync, "mode"), number_at(optimizer, "", "lr_now"));
    print_workers(json_object_get(status, "workers"));
}

static int state_code(const json_t *status)
{
    const char *state = text_at(status, "state");
    if (strcmp(state, "failed") == 0)
        return psd_err_exit_code(PSD_EDIVERGED);
    return strcmp(state, "training") == 0 || strcmp(state, "finished") == 0 ? 0
                                                                            : psd_err_exit_code(PSD_EAGAIN);
}

static int show(const char *url, const char *token_file, bool as_json)
{
    psd_err_t err = { .code = PSD_EUNAVAILABLE, .text = "no memory" };
    char *body = fetch(url, token_file, &err);
    json_t *status = body ? json_loads(body, JSON_REJECT_DUPLICATES, NULL) : NULL;
    int code = status ? state_code(status) : psd_err_exit_code(body ? PSD_EPROTO : err.code);
    if (!body)
        fprintf(stderr, "psdctl status: %s\n", err.text);
    else if (!status)
        fprintf(stderr, "psdctl status: %s answers something that is no status\n", url);
    else if (as_json)
        printf("%s\n", body);
    else
        print_human(status);
    json_decref(status);
    free(body);
    return code;
}

int psd_ctl_status(int argc, char **argv)
{
    static const struct option long_options[] = { { "json", no_argument, NULL, 'j' },
                                                  { "status", required_argument, NULL, 's' },
                                                  { "token-file", required_argument, NULL, 't' },
                                                  { "help", no_argument, NULL, 'h' },
                                                  { 0 } };
    const char *url = NULL, *token_file = NULL;
    bool as_json = false;
    for (int option; (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == '?') {
            fputs(usage, stderr);
            return psd_err_exit_code(PSD_EUSAGE);
        }
        as_json = as_json || option == 'j';
        url = option == 's' ? optarg : url;
        token_file = option == 't' ? optarg : token_file;
    }
    if (argc - optind > (url ? 0 : 1)) {
        fputs(usage, stderr);
        return psd_err_exit_code(PSD_EUSAGE);
    }
    return show(url ? url : optind < argc ? argv[optind] : "127.0.0.1:7471", token_file, as_json);
}
