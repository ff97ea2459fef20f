#include "common/base/html.h"

#include <assert.h>
#include <string.h>

void psd_html_put(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            fputc(*text, out);
        }
}

static const psd_html_place_t *find(const psd_html_place_t *places, size_t n, const char *name, size_t n_name)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(places[i].name) == n_name && !memcmp(places[i].name, name, n_name))
            return &places[i];
    return NULL;
}

void psd_html_fill(FILE *out, const char *page, const psd_html_place_t *places, size_t n, const void *arg)
{
    for (const char *open; (open = strstr(page, "{{"));) {
        const char *name = open + 2, *end = strstr(name, "}}");
        const psd_html_place_t *place = end ? find(places, n, name, (size_t)(end - name)) : NULL;
        assert(place && "each place of a page has a row that fills it");
        fwrite(page, 1, (size_t)(open - page), out);
        place->put(out, arg);
        page = end + 2;
    }
    fputs(page, out);
}
