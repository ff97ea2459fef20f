#include "deploy/psdctl/inspect/http.h"

#include <math.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/net/address.h"
#include "common/net/keys.h"

enum { MAX_ANSWER = 16 << 20, MAX_NAME = 256, WAIT_MS = 5000 };

struct psd_http {
    FILE *in;
    char place[2 * MAX_NAME]; /* "host:port", for sentences */
};

/* Split "http://host:port/..." (the scheme and the path may lack). False when there is no port. */
static bool split(const char *url, char *host, char *port)
{
    const char *start = strncmp(url, "http://", 7) == 0 ? url + 7 : url;
    char place[2 * MAX_NAME];
    psd_address_t address;
    snprintf(place, sizeof place, "%.*s", (int)strcspn(start, "/"), start);
    if (!psd_address_split(&address, place) || !*address.port)
        return false;
    snprintf(host, MAX_NAME, "%s", address.host);
    snprintf(port, MAX_NAME, "%s", address.port);
    return true;
}

int psd_http_dial(const char *host, const char *port, unsigned wait_ms, psd_err_t *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
    struct timeval wait = { .tv_sec = wait_ms / 1000, .tv_usec = (suseconds_t)(wait_ms % 1000) * 1000 };
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
    char place[2 * MAX_NAME];
    psd_address_join(place, sizeof place, host, port);
    return fd >= 0 ? fd
                   : psd_err_set(err, PSD_EUNAVAILABLE, "nobody answers at %s; is the server running, and this its status address?",
                                 place);
}

/* Send the request: every header that psdctl sends is here. */
static bool ask(int fd, const char *place, const char *path, const char *token)
{
    char request[2 * MAX_NAME + PSD_TOKEN_TEXT + 256];
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: %s\r\n%s%s%s\r\n", path, place,
                     *token ? "Authorization: Bearer " : "", token, *token ? "\r\n" : "");
    return send(fd, request, (size_t)n, MSG_NOSIGNAL) == n;
}

/* Read up to the empty line; whether the answer is a good one. */
static bool read_head(psd_http_t *self, psd_err_t *err)
{
    char line[1024], first[256];
    if (!fgets(first, sizeof first, self->in)) {
        psd_err_set(err, PSD_EUNAVAILABLE, "no answer from %s", self->place);
        return false;
    }
    first[strcspn(first, "\r\n")] = '\0';
    if (strncmp(first, "HTTP/1.1 401", 12) == 0) {
        psd_err_set(err, PSD_EAUTH, "%s asks for a token: give --token-file, the same as its status.token", self->place);
        return false;
    }
    if (strncmp(first, "HTTP/1.", 7) != 0 || strncmp(first + 8, " 200", 4) != 0) {
        psd_err_set(err, PSD_EUNAVAILABLE, "%s answers \"%s\"", self->place, first);
        return false;
    }
    while (fgets(line, sizeof line, self->in))
        if (!line[strspn(line, "\r\n")])
            return true;
    psd_err_set(err, PSD_EUNAVAILABLE, "the answer of %s is not whole", self->place);
    return false;
}

psd_http_t *psd_http_get(const char *url, const char *token_file, const char *path, unsigned wait_ms, psd_err_t *err)
{
    char host[MAX_NAME], port[MAX_NAME], token[PSD_TOKEN_TEXT] = "";
    if (token_file && psd_token_load(token, token_file, err) != PSD_OK)
        return NULL;
    if (!split(url, host, port)) {
        psd_err_set(err, PSD_EUSAGE, "%s is no URL; write http://HOST:PORT", url);
        return NULL;
    }
    int fd = psd_http_dial(host, port, wait_ms, err);
    if (fd < 0)
        return NULL;
    psd_http_t *self = calloc(1, sizeof *self);
    FILE *in = self ? fdopen(fd, "r") : NULL;
    if (!in) {
        psd_err_set(err, PSD_ENOMEM, "no memory for an answer");
        close(fd);
        free(self);
        return NULL;
    }
    self->in = in;
    psd_address_join(self->place, sizeof self->place, host, port);
    bool asked = ask(fd, self->place, path, token);
    explicit_bzero(token, sizeof token);
    if (!asked)
        psd_err_set(err, PSD_EUNAVAILABLE, "cannot ask %s", self->place);
    if (!asked || !read_head(self, err))
        psd_http_close(&self);
    return self;
}

void psd_http_close(psd_http_t **self_p)
{
    if (*self_p)
        fclose((*self_p)->in);
    free(*self_p);
    *self_p = NULL;
}

static json_t *parse(const psd_http_t *self, const char *text, size_t n, psd_err_t *err)
{
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(object))
        return object;
    psd_err_set(err, PSD_EPROTO, "%s answers something that is no status", self->place);
    json_decref(object);
    return NULL;
}

/* Text that grows line by line up to MAX_ANSWER. */
typedef struct text {
    char *bytes;
    size_t n;
    FILE *out;
} text_t;

/* The text, which the caller frees; NULL when it is not whole. */
static char *finish(const psd_http_t *self, text_t *text, bool whole, psd_err_t *err)
{
    if (text->out && fclose(text->out) == 0 && whole)
        return text->bytes;
    psd_err_set(err, PSD_EUNAVAILABLE, "the answer of %s is not whole", self->place);
    free(text->bytes);
    return NULL;
}

static json_t *finish_object(const psd_http_t *self, text_t *text, bool whole, psd_err_t *err)
{
    char *bytes = finish(self, text, whole, err);
    json_t *object = bytes ? parse(self, bytes, text->n, err) : NULL;
    free(bytes);
    return object;
}

/* Read up to the answer's end; false when it does not come. */
static bool read_all(psd_http_t *self, text_t *text)
{
    char block[1 << 14];
    size_t n = 0, got = 1;
    *text = (text_t){ .n = 0 };
    text->out = open_memstream(&text->bytes, &text->n);
    while (text->out && n < MAX_ANSWER && (got = fread(block, 1, sizeof block, self->in)) > 0)
        n += fwrite(block, 1, got, text->out);
    return feof(self->in) && !ferror(self->in);
}

char *psd_http_bytes(psd_http_t *self, size_t *n, psd_err_t *err)
{
    text_t text;
    const bool whole = read_all(self, &text);
    char *bytes = finish(self, &text, whole, err);
    *n = text.n;
    return bytes;
}

json_t *psd_http_object(psd_http_t *self, psd_err_t *err)
{
    text_t text;
    const bool whole = read_all(self, &text);
    return finish_object(self, &text, whole, err);
}

json_t *psd_http_event(psd_http_t *self, psd_err_t *err)
{
    char line[1 << 14];
    text_t text = { 0 };
    text.out = open_memstream(&text.bytes, &text.n);
    bool at_start = true, is_data = false, whole = false;
    for (size_t n = 0; text.out && !whole && n < MAX_ANSWER && fgets(line, sizeof line, self->in);) {
        if (at_start)
            is_data = strncmp(line, "data: ", 6) == 0;
        whole = at_start && n && *line == '\n';
        if (is_data)
            n += (size_t)(fputs(line + (at_start ? 6 : 0), text.out) >= 0) * strlen(line);
        at_start = strchr(line, '\n') != NULL;
    }
    return finish_object(self, &text, whole, err);
}

char *psd_http_fetch(const char *url, const char *token_file, const char *path, size_t *n, psd_err_t *err)
{
    psd_http_t *answer = psd_http_get(url, token_file, path, WAIT_MS, err);
    char *bytes = answer ? psd_http_bytes(answer, n, err) : NULL;
    psd_http_close(&answer);
    return bytes;
}

json_t *psd_http_fetch_object(const char *url, const char *token_file, const char *path, psd_err_t *err)
{
    psd_http_t *answer = psd_http_get(url, token_file, path, WAIT_MS, err);
    json_t *object = answer ? psd_http_object(answer, err) : NULL;
    psd_http_close(&answer);
    return object;
}

json_t *psd_http_status(const char *url, const char *token_file, psd_err_t *err)
{
    return psd_http_fetch_object(url, token_file, "/status", err);
}

const char *psd_http_text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

double psd_http_number_at(const json_t *object, const char *section, const char *key)
{
    const json_t *value = json_object_get(*section ? json_object_get(object, section) : object, key);
    return json_is_null(value) ? NAN : json_number_value(value);
}
