/* html.h - text within HTML, and pages made from template files with named places. */
#pragma once

#include <stddef.h>
#include <stdio.h>

/* Write `text` escaped, so that a browser shows it literally, between tags and in quoted attributes. */
void psd_html_put(FILE *out, const char *text);

/* A place of a page, {{name}}, and the text for it. */
typedef struct psd_html_place {
    const char *name;
    void (*put)(FILE *out, const void *arg);
} psd_html_place_t;

/* Write `page`, with each place filled by its row of the `n` at `places`, which is called with `arg`. The text that fills a place
 * is not searched for more places. */
void psd_html_fill(FILE *out, const char *page, const psd_html_place_t *places, size_t n, const void *arg);
