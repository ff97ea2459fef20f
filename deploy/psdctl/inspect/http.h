/* http.h - asking a server's status endpoint: one answer whole, or events as they come. One connection per question, by
 * libcurl, which is met here only; without the environment's proxies, and without following an answer elsewhere. */
#pragma once

#include <jansson.h>

#include "common/base/err.h"

/* libcurl's version, as it was when this was built and as it is now; both live as long as the process. */
void psd_http_versions(const char **built, const char **runs);

#define PSD_CTL_URL "127.0.0.1:7471" /* where a server on this machine answers unless it was told another place */

typedef struct psd_http psd_http_t;

/* Ask for `path` at `url` ("http://HOST:PORT"; the scheme may be missing, a path is ignored), and read the answer's
 * head. Each wait for the peer lasts `wait_ms` at most. NULL, with PSD_EUSAGE when `url` is none,
 * PSD_EUNAVAILABLE when nobody answers, or not with 200, PSD_EAUTH when the server asks for a token: that of `token_file`,
 * NULL for none. PSD_ENOMEM. */
psd_http_t *psd_http_get(const char *url, const char *token_file, const char *path, unsigned wait_ms, psd_err_t *err);
void psd_http_close(psd_http_t **self_p);

/* All that is left of the answer, at most 16 MiB, unpacked where the server compressed it, with a NUL behind it; the caller
 * frees it. NULL as below. */
char *psd_http_bytes(psd_http_t *self, size_t *n, psd_err_t *err);

/* All that is left of the answer, or the data of the next server-sent event, as a JSON object that the caller
 * owns. NULL, with PSD_EUNAVAILABLE when the peer closes or is silent before it is whole or sends more than that,
 * PSD_EPROTO when it is no object. */
json_t *psd_http_object(psd_http_t *self, psd_err_t *err);
json_t *psd_http_event(psd_http_t *self, psd_err_t *err);

/* The whole answer to `path` at `url`, or as an object; the status document. */
char *psd_http_fetch(const char *url, const char *token_file, const char *path, size_t *n, psd_err_t *err);
json_t *psd_http_fetch_object(const char *url, const char *token_file, const char *path, psd_err_t *err);
json_t *psd_http_status(const char *url, const char *token_file, psd_err_t *err);

/* Members of a document: object[key], or object[section][key] where `section` is not "". "" and 0 when it is
 * not there; NaN for a null, which stands for what is no number or not known. */
const char *psd_http_text_at(const json_t *object, const char *key);
double psd_http_number_at(const json_t *object, const char *section, const char *key);
