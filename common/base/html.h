/* html.h - text within HTML. */
#pragma once

#include <stdio.h>

/* Write `text` so that a browser shows it as it is, between tags and in quoted attributes. */
void psd_html_put(FILE *out, const char *text);
