/* html.h - text within HTML, and pages that are files with places to be filled. */
#pragma once

#include <stddef.h>
#include <stdio.h>

/* Write `text` so that a browser shows it as it is, between tags and in quoted attributes. */
void psd_html_put(FILE *out, const char *text);

/* A place of a page, {{name}}, and what fills it. */
typedef struct psd_html_place {
    const char *name;
    void (*put)(FILE *out, const void *arg);
} psd_html_place_t;

/* Write `page`, with each place filled by its row of the `n` at `places`, which is called with `arg`. What fills a place
 * is not looked at for more. */
void psd_html_fill(FILE *out, const char *page, const psd_html_place_t *places, size_t n, const void *arg);
