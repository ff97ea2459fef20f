/* snapshot.h - a server's dashboard as one file: the page, what it loads, and what it would ask for, so that it
 * can be read later and elsewhere. It asks for nothing. */
#pragma once

#include <stdio.h>

#include <jansson.h>

#include "common/base/err.h"

/* Write the page of the server at `url` as of now; `*status` gets its status document, which the caller owns.
 * Nothing is written and `*status` is NULL when a negative code comes back: as of psd_http_get, or PSD_EPROTO
 * when the page is of another version than this program knows. */
int psd_snapshot_print(FILE *out, const char *url, const char *token_file, json_t **status, psd_err_t *err);
