#include "deploy/psdctl/inspect/snapshot.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/system/json.h"
#include "deploy/psdctl/inspect/http.h"

typedef struct moment {
    const char *url;
    char *page, *css, *js;
    json_t *status, *history;
} moment_t;

/* ---- the server's documents ---- */

static bool take(moment_t *self, const char *token_file, psd_err_t *err)
{
    size_t n;
    return (self->css = psd_http_fetch(self->url, token_file, "/dashboard.css", &n, err)) &&
           (self->js = psd_http_fetch(self->url, token_file, "/dashboard.js", &n, err)) &&
           (self->history = psd_http_fetch_object(self->url, token_file, "/history", err)) &&
           (self->status = psd_http_fetch_object(self->url, token_file, "/status", err)) &&
           (self->page = psd_http_fetch(self->url, token_file, "/", &n, err));
}

/* ---- embedding them in the page ---- */

static void put_text(const moment_t *self, FILE *out)
{
    char when[64];
    const time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S %z", localtime_r(&now, &tm));
    fprintf(out, "<footer>state of %s at ", when);
    for (const char *c = self->url; *c; c++)
        fprintf(out, strchr("<>&\"'", *c) ? "&#%d;" : "%c", *c);
    fputs("</footer>", out);
}

/* A browser may load nothing from elsewhere. */
static void put_policy(const moment_t *self, FILE *out)
{
    (void)self;
    fputs("<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; "
          "script-src 'unsafe-inline'\">",
          out);
}

static void put_style(const moment_t *self, FILE *out) { fprintf(out, "<style>%s</style>", self->css); }
static void put_nothing(const moment_t *self, FILE *out) { (void)self, (void)out; }

/* Write JSON into a script, with "<" escaped because it could end the script. */
static void put_data(const moment_t *self, FILE *out)
{
    json_t *all = json_pack("{s:O, s:O, s:I, s:s}", "status", self->status, "history", self->history, "saved",
                            (json_int_t)time(NULL), "from", self->url);
    char *text = psd_json_text(all, JSON_COMPACT | JSON_REAL_PRECISION(13));
    fputs("<script type='application/json' id=saved>", out);
    for (const char *c = text ? text : "null"; *c; c++)
        fputs(*c == '<' ? "\\u003c" : (const char[]){ *c, '\0' }, out);
    fprintf(out, "</script><script>%s</script></body>", self->js);
    free(text);
    json_decref(all);
}

/* Parts of the page, in order, and their replacements. */
static const struct part {
    const char *from, *to;
    void (*put)(const moment_t *self, FILE *out);
} parts[] = {
    { "<noscript><meta http-equiv=refresh", "</noscript>", put_policy },
    { "<link rel=stylesheet href=/dashboard.css>", "", put_style },
    { "<script src=/dashboard.js", "</script>", put_nothing },
    { "<footer>", "</footer>", put_text },
    { "</body>", "", put_data },
};
enum { N_PARTS = sizeof parts / sizeof *parts };

static int put_page(const moment_t *self, FILE *out, psd_err_t *err)
{
    const char *at = self->page;
    for (size_t i = 0; i < N_PARTS; i++) {
        const char *from = strstr(at, parts[i].from), *to = from ? strstr(from + 1, parts[i].to) : NULL;
        if (!to)
            return psd_err_set(err, PSD_EPROTO,
                               "the page at %s does not contain %s; check that psd and this psdctl have the same version",
                               self->url, parts[i].from);
        fwrite(at, 1, (size_t)(from - at), out);
        parts[i].put(self, out);
        at = *parts[i].to ? to + strlen(parts[i].to) : from + strlen(parts[i].from);
    }
    fputs(at, out);
    return PSD_OK;
}

int psd_snapshot_print(FILE *out, const char *url, const char *token_file, json_t **status, psd_err_t *err)
{
    moment_t self = { .url = url };
    char *text = NULL;
    size_t n = 0;
    *status = NULL;
    FILE *whole = take(&self, token_file, err) ? open_memstream(&text, &n) : NULL;
    int rc = whole ? put_page(&self, whole, err) : err->code;
    if (whole && fclose(whole) && !rc)
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the page");
    if (!rc) {
        fwrite(text, 1, n, out);
        *status = json_incref(self.status);
    }
    free(text);
    free(self.page);
    free(self.css);
    free(self.js);
    json_decref(self.status);
    json_decref(self.history);
    return rc;
}
