/* page.h - the status document as a page for people: whole HTML, readable without scripts, light or dark. */
#pragma once

#include "server/status/history.h"

/* Render a status document (schema psd.status/1): numbers at the top, then a table for each list, then the
 * rest as it comes, so that a new field shows without a change here. With a history (NULL: without) comes the training loss as a curve. What is no JSON object gives a page that
 * says so. The caller frees it; NULL when memory runs out. */
char *psd_page_render(const char *status_json, const psd_history_t *history);
