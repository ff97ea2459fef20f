/* snapshot.h - a server's dashboard as one self-contained file: the page, its scripts and styles, and the data that it would
 * request, so that it can be read later and elsewhere. */
#pragma once

#include <stdio.h>

#include <jansson.h>

#include "common/base/err.h"

/* Write the present page of the server at `url`; `*status` gets its status document, which the caller owns. On a negative code
 * nothing is written and `*status` is NULL: the codes of psd_http_get, or PSD_EPROTO when the page is of another version. */
int psd_snapshot_print(FILE *out, const char *url, const char *token_file, json_t **status, psd_err_t *err);
