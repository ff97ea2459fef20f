/* json.h - a JSON value as text, whole or not at all. */
#pragma once

#include <jansson.h>

/* The text of `json` with jansson's `flags`; the caller frees it. NULL when `json` is NULL, or memory runs out: json_dumps of jansson
 * 2.14 may then return a text that lacks a piece in its middle. */
char *psd_json_text(const json_t *json, size_t flags);
