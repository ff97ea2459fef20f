/* page.h - the status document as a complete HTML page, readable without scripts, light or dark. */
#pragma once

#include "server/status/history.h"

/* Render a status document (schema psd.status/1): numbers at the top, then a table for each list, then all other fields in order,
 * so that a new field appears without a change here. With a history (NULL: none) it adds the training loss as a curve. A document
 * that is not a JSON object gives a page that reports it. The caller frees it; NULL when memory runs out. */
char *psd_page_render(const char *status_json, const psd_history_t *history);
