#include "deploy/psdctl/inspect/http.h"

#include <curl/curl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/array.h"
#include "common/net/address.h"
#include "common/net/keys.h"

enum { MAX_ANSWER = 16 << 20, MAX_PATH = 64, WAIT_MS = 5000 };

struct psd_http {
    CURLM *transfers; /* has one, the next transfer: libcurl's multi interface gives an answer piece by piece */
    CURL *transfer;
    char place[PSD_HOST_TEXT + PSD_PORT_TEXT + 4]; /* "host:port", for sentences */
    unsigned wait_ms;
    uint64_t heard_ms; /* when the peer last sent something, or accepted the connection; 0: not connected yet */
    char first[256];   /* the answer's first line */
    bool has_head;     /* the answer's head has come */
    char *bytes;       /* of its body, those not yet consumed */
    size_t n, room;
    CURLcode how; /* it ended, */
    bool is_over; /* if it has */
};

void psd_http_versions(const char **built, const char **runs)
{
    *built = LIBCURL_VERSION;
    *runs = curl_version_info(CURLVERSION_NOW)->version;
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* -- callbacks of libcurl ---------------------------------------------------------------------- */

static int on_connected(void *arg, char *peer, char *own, int peer_port, int own_port)
{
    (void)peer, (void)own, (void)peer_port, (void)own_port;
    psd_http_t *self = arg;
    self->heard_ms = now_ms();
    return CURL_PREREQFUNC_OK;
}

/* A line of the head. A head of 1xx comes before the one that counts. */
static size_t on_line(char *line, size_t size, size_t n, void *arg)
{
    psd_http_t *self = arg;
    long code = 0;
    self->heard_ms = now_ms();
    if (n > 5 && !memcmp(line, "HTTP/", 5))
        snprintf(self->first, sizeof self->first, "%.*s", (int)(n < sizeof self->first ? n : sizeof self->first), line);
    self->first[strcspn(self->first, "\r\n")] = '\0';
    curl_easy_getinfo(self->transfer, CURLINFO_RESPONSE_CODE, &code);
    self->has_head = self->has_head || ((*line == '\r' || *line == '\n') && code >= 200);
    return size * n;
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *arg)
{
    psd_http_t *self = arg;
    self->heard_ms = now_ms();
    if (self->n + n > MAX_ANSWER || psd_array_grow(&self->bytes, &self->room, self->n + n + 1, 1, NULL) != PSD_OK)
        return 0;
    memcpy(self->bytes + self->n, bytes, n);
    self->n += n;
    return size * n;
}

static void end(psd_http_t *self, CURLcode how)
{
    self->is_over = true;
    self->how = how;
}

/* Wait for more of the answer, or for its end: see is_over. libcurl bounds how long a connection takes. */
static void advance(psd_http_t *self)
{
    const uint64_t silent_ms = self->heard_ms ? now_ms() - self->heard_ms : 0;
    int n = 0;
    if (silent_ms >= self->wait_ms) {
        end(self, CURLE_OPERATION_TIMEDOUT);
        return;
    }
    curl_multi_poll(self->transfers, NULL, 0, (int)(self->wait_ms - silent_ms), NULL);
    const CURLMcode rc = curl_multi_perform(self->transfers, &n);
    const CURLMsg *message = curl_multi_info_read(self->transfers, &n);
    if (message || rc)
        end(self, message ? message->data.result : CURLE_OUT_OF_MEMORY);
}

/* -- errors --------------------------------------------------------------------------------------- */

#define STRANGE " answers, but is not a status address; use the one that the server prints"

/* Sentences for the ends of a transfer; the address goes between the two texts. */
static const struct ending {
    CURLcode how;
    int code;
    const char *before, *after;
} endings[] = {
    { CURLE_OUT_OF_MEMORY, PSD_ENOMEM, "no memory for the answer of ", "" },
    { CURLE_COULDNT_RESOLVE_HOST, PSD_EUNAVAILABLE, "", ": the host name cannot be resolved; check its spelling" },
    { CURLE_UNSUPPORTED_PROTOCOL, PSD_EUNAVAILABLE, "", STRANGE },
    { CURLE_WEIRD_SERVER_REPLY, PSD_EUNAVAILABLE, "", STRANGE },
    { CURLE_WRITE_ERROR, PSD_EUNAVAILABLE, "the answer of ", " is longer than 16 MiB; check that this is a status address" },
    { CURLE_BAD_CONTENT_ENCODING, PSD_EPROTO, "the answer of ",
      " is badly compressed; check that psd and this psdctl have the same version" },
};

/* The same for any other end, by the progress of the transfer. */
static const struct ending unconnected = { .code = PSD_EUNAVAILABLE,
                                           .before = "no server answers at ",
                                           .after = "; check that the server is running and that this is its status address" };
static const struct ending unanswered = { .code = PSD_EUNAVAILABLE, .before = "no answer from ", .after = "" };
static const struct ending partial = { .code = PSD_EUNAVAILABLE, .before = "the answer of ", .after = " is incomplete" };

static int explain(const psd_http_t *self, psd_err_t *err)
{
    const struct ending *found = !self->heard_ms ? &unconnected : !self->has_head ? &unanswered : &partial;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        found = endings[i].how == self->how ? &endings[i] : found;
    return psd_err_set(err, found->code, "%s%s%s", found->before, self->place, found->after);
}

/* Check that the answer has status 200. */
static bool is_good(psd_http_t *self, psd_err_t *err)
{
    long code = 0;
    while (!self->has_head && !self->is_over)
        advance(self);
    curl_easy_getinfo(self->transfer, CURLINFO_RESPONSE_CODE, &code);
    if (!self->has_head)
        explain(self, err);
    else if (code == 401)
        psd_err_set(err, PSD_EAUTH, "%s requires a token: give --token-file with the word of its status.token", self->place);
    else if (code != 200)
        psd_err_set(err, PSD_EUNAVAILABLE, "%s answers \"%s\"", self->place, self->first);
    return self->has_head && code == 200;
}

/* -- requests ------------------------------------------------------------------------------------------------ */

/* Parse the address: the scheme and a path may be missing. False when it is malformed, or has a user name. */
static bool read_url(CURLU *url, psd_http_t *self, const char *text, const char *path)
{
    static const char scheme[] = "http://";
    const char *start = strncmp(text, scheme, sizeof scheme - 1) == 0 ? text + sizeof scheme - 1 : text;
    const size_t n = strcspn(start, "/");
    char place[sizeof self->place], whole[sizeof scheme + sizeof self->place + MAX_PATH];
    psd_address_t address;
    if (n >= sizeof place)
        return false;
    snprintf(place, sizeof place, "%.*s", (int)n, start);
    if (!psd_address_split(&address, place) || !*address.port)
        return false;
    psd_address_join(self->place, sizeof self->place, address.host, address.port);
    snprintf(whole, sizeof whole, "%s%s%s", scheme, self->place, path);
    return curl_url_set(url, CURLUPART_URL, whole, CURLU_DISALLOW_USER) == CURLUE_OK;
}

/* The complete settings of a request. It goes directly to the cluster's addresses: without a proxy from the environment, and
 * without following redirects (libcurl's default). */
static bool prepare(psd_http_t *self, CURLU *url, const char *token)
{
    CURL *t = self->transfer;
    CURLcode rc = curl_easy_setopt(t, CURLOPT_CURLU, url);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_PROTOCOLS_STR, "http");
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_PROXY, "");
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_NOSIGNAL, 1L);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_ACCEPT_ENCODING, "gzip");
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_CONNECTTIMEOUT_MS, (long)self->wait_ms);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_PREREQFUNCTION, on_connected);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_PREREQDATA, self);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_HEADERFUNCTION, on_line);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_HEADERDATA, self);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_WRITEFUNCTION, on_bytes);
    rc = rc ? rc : curl_easy_setopt(t, CURLOPT_WRITEDATA, self);
    if (*token) {
        rc = rc ? rc : curl_easy_setopt(t, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        rc = rc ? rc : curl_easy_setopt(t, CURLOPT_XOAUTH2_BEARER, token);
    }
    return !rc && curl_multi_add_handle(self->transfers, t) == CURLM_OK;
}

psd_http_t *psd_http_get(const char *url, const char *token_file, const char *path, unsigned wait_ms, psd_err_t *err)
{
    char token[PSD_TOKEN_TEXT] = "";
    if (token_file && psd_token_load(token, token_file, err) != PSD_OK)
        return NULL;
    psd_http_t *self = calloc(1, sizeof *self);
    CURLU *address = curl_url();
    bool is_asked = false;
    if (self && address) {
        self->wait_ms = wait_ms;
        self->transfers = curl_multi_init();
        self->transfer = curl_easy_init();
    }
    if (!self || !self->transfers || !self->transfer)
        psd_err_set(err, PSD_ENOMEM, "no memory to ask %.100s", url);
    else if (!read_url(address, self, url, path))
        psd_err_set(err, PSD_EUSAGE, "%s is not a URL; write http://HOST:PORT", url);
    else if (!prepare(self, address, token))
        psd_err_set(err, PSD_ENOMEM, "no memory to ask %s", self->place);
    else
        is_asked = true;
    explicit_bzero(token, sizeof token);
    if (!is_asked || !is_good(self, err))
        psd_http_close(&self);
    curl_url_cleanup(address);
    return self;
}

void psd_http_close(psd_http_t **self_p)
{
    psd_http_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    if (self->transfers && self->transfer)
        curl_multi_remove_handle(self->transfers, self->transfer);
    curl_easy_cleanup(self->transfer);
    curl_multi_cleanup(self->transfers);
    free(self->bytes);
    free(self);
}

/* -- the answer -------------------------------------------------------------------------------------------- */

char *psd_http_bytes(psd_http_t *self, size_t *n, psd_err_t *err)
{
    while (!self->is_over)
        advance(self);
    if (self->how != CURLE_OK)
        return explain(self, err), NULL;
    if (psd_array_grow(&self->bytes, &self->room, self->n + 1, 1, err) != PSD_OK)
        return NULL;
    char *bytes = self->bytes;
    bytes[ *n = self->n] = '\0';
    self->bytes = NULL;
    self->n = self->room = 0;
    return bytes;
}

static json_t *parse(const psd_http_t *self, const char *text, size_t n, psd_err_t *err)
{
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(object))
        return object;
    psd_err_set(err, PSD_EPROTO, "%s did not answer with a status document", self->place);
    json_decref(object);
    return NULL;
}

json_t *psd_http_object(psd_http_t *self, psd_err_t *err)
{
    size_t n = 0;
    char *bytes = psd_http_bytes(self, &n, err);
    json_t *object = bytes ? parse(self, bytes, n, err) : NULL;
    free(bytes);
    return object;
}

/* The length of the next event with the empty line after it, once it is complete; otherwise 0. */
static size_t event_length(const psd_http_t *self)
{
    const char *found = self->n ? memmem(self->bytes, self->n, "\n\n", 2) : NULL;
    return found ? (size_t)(found - self->bytes) + 2 : 0;
}

/* Reduce an event to its data, a line for each "data: ". Returns the number of bytes. */
static size_t keep_data(char *event, size_t n)
{
    static const char data[] = "data: ";
    size_t kept = 0;
    for (size_t at = 0, next; at < n; at = next) {
        next = (size_t)((char *)memchr(event + at, '\n', n - at) - event) + 1;
        if (next - at < sizeof data - 1 || memcmp(event + at, data, sizeof data - 1) != 0)
            continue;
        memmove(event + kept, event + at + sizeof data - 1, next - at - (sizeof data - 1));
        kept += next - at - (sizeof data - 1);
    }
    return kept;
}

json_t *psd_http_event(psd_http_t *self, psd_err_t *err)
{
    json_t *object = NULL;
    for (size_t n_data = 0; !n_data;) {
        const size_t n = event_length(self);
        if (n) {
            n_data = keep_data(self->bytes, n);
            object = n_data ? parse(self, self->bytes, n_data, err) : NULL;
            memmove(self->bytes, self->bytes + n, self->n -= n);
        } else if (self->is_over) {
            explain(self, err);
            break;
        } else {
            advance(self);
        }
    }
    return object;
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
    return json_is_number(value) ? json_number_value(value) : NAN;
}
