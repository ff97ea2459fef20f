/* http.h - queries a server's status endpoint: a whole answer, or events as they come. One connection per request, by libcurl,
 * which only this module uses; without the environment's proxies, and without following redirects. */
#pragma once

#include <jansson.h>

#include "common/base/err.h"

/* libcurl's version at build time and at run time; both texts live as long as the process. */
void psd_http_versions(const char **built, const char **runs);

#define PSD_CTL_URL "127.0.0.1:7471" /* the default address of a server on this machine */

typedef struct psd_http psd_http_t;

/* Request `path` at `url` ("http://HOST:PORT"; the scheme may be missing, a path is ignored), and read the answer's head. Each wait
 * for the peer lasts `wait_ms` at most. NULL, with PSD_EUSAGE when `url` is not a URL, PSD_EUNAVAILABLE when there is no answer, or
 * not with 200, PSD_EAUTH when the server requires another token than that of `token_file` (NULL: none), PSD_ENOMEM. */
psd_http_t *psd_http_get(const char *url, const char *token_file, const char *path, unsigned wait_ms, psd_err_t *err);
void psd_http_close(psd_http_t **self_p);

/* The rest of the answer, at most 16 MiB, decompressed if necessary, followed by a NUL; the caller frees it. NULL as below. */
char *psd_http_bytes(psd_http_t *self, size_t *n, psd_err_t *err);

/* The rest of the answer, or the data of the next server-sent event, as a JSON object that the caller owns. NULL, with
 * PSD_EUNAVAILABLE when the peer closes or is silent before it is complete, or sends more than that, PSD_EPROTO when it is not an
 * object. */
json_t *psd_http_object(psd_http_t *self, psd_err_t *err);
json_t *psd_http_event(psd_http_t *self, psd_err_t *err);

/* The whole answer to `path` at `url`, or as an object; the status document. */
char *psd_http_fetch(const char *url, const char *token_file, const char *path, size_t *n, psd_err_t *err);
json_t *psd_http_fetch_object(const char *url, const char *token_file, const char *path, psd_err_t *err);
json_t *psd_http_status(const char *url, const char *token_file, psd_err_t *err);

/* Members of a document: object[key], or object[section][key] where `section` is not "". "" and NaN when it does not exist; NaN
 * also for null, which stands for a value that is not finite or not known. */
const char *psd_http_text_at(const json_t *object, const char *key);
double psd_http_number_at(const json_t *object, const char *section, const char *key);
