#include "server/page.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char head[] =
    "<!doctype html><html lang=en><head><meta charset=utf-8>"
    "<meta name=viewport content='width=device-width,initial-scale=1'><meta http-equiv=refresh content=2>"
    "<style>"
    ":root{color-scheme:light dark;--line:#8885;--soft:#8882;--good:#1a7f37;--bad:#cf222e;--busy:#0969da}"
    "@media(prefers-color-scheme:dark){:root{--good:#3fb950;--bad:#f85149;--busy:#58a6ff}}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1.5rem}"
    "h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}"
    "header{display:flex;gap:1rem;align-items:baseline;flex-wrap:wrap}"
    ".state{border:1px solid;border-radius:1rem;padding:0 .7rem;color:var(--busy)}"
    ".state.good{color:var(--good)}.state.bad{color:var(--bad)}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.2rem .9rem .2rem 0;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}"
    ".cards{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0}"
    ".card{background:var(--soft);border-radius:.5rem;padding:.5rem .9rem;min-width:7rem}"
    ".card b{display:block;font-size:1.25rem;font-variant-numeric:tabular-nums}"
    "footer{margin-top:2rem;opacity:.75}a{color:inherit}"
    "</style>";

static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
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

/* "samples_per_second" reads as "samples per second". */
static void put_label(FILE *out, const char *key)
{
    for (; *key; key++) {
        const char one[] = { *key == '_' ? ' ' : *key, '\0' };
        put_escaped(out, one);
    }
}

static void put_duration(FILE *out, double seconds)
{
    unsigned long s = (unsigned long)seconds;
    if (s >= 3600)
        fprintf(out, "%lu h %02lu min", s / 3600, s / 60 % 60);
    else if (s >= 60)
        fprintf(out, "%lu min %02lu s", s / 60, s % 60);
    else
        fprintf(out, "%.3g s", seconds);
}

static void put_value(FILE *out, const char *key, const json_t *value)
{
    size_t n = strlen(key), i;
    const json_t *item;
    double x = json_number_value(value);
    switch (json_typeof(value)) {
    case JSON_STRING:
        put_escaped(out, json_string_value(value));
        break;
    case JSON_INTEGER:
    case JSON_REAL:
        if (n > 8 && strcmp(key + n - 8, "_seconds") == 0 && x >= 0 && x < 1e12)
            put_duration(out, x);
        else if (x == floor(x) && fabs(x) < 1e15)
            fprintf(out, "%.0f", x);
        else
            fprintf(out, "%.5g", x);
        break;
    case JSON_ARRAY:
        json_array_foreach(value, i, item) {
            fputs(i ? ", " : "", out);
            put_value(out, "", item);
        }
        break;
    case JSON_TRUE:
        fputs("yes", out);
        break;
    case JSON_FALSE:
        fputs("no", out);
        break;
    case JSON_NULL:
    case JSON_OBJECT: /* deeper than people read; /status has it */
        fputs("–", out);
        break;
    }
}

static json_t *at(const json_t *object, const char *section, const char *key)
{
    return json_object_get(*section ? json_object_get(object, section) : object, key);
}

/* The few numbers that people look for first, as far as the document has them. */
static void put_cards(FILE *out, const json_t *status)
{
    static const struct {
        const char *section, *key, *label;
    } cards[] = {
        { "progress", "step", "step" },        { "progress", "epoch", "epoch" },
        { "loss", "train", "training loss" },  { "loss", "val", "test loss" },
        { "progress", "samples", "samples" },  { "optimizer", "lr_now", "learning rate" },
        { "progress", "eta_seconds", "left" }, { "", "uptime_seconds", "up" },
    };
    fputs("<div class=cards>", out);
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++) {
        const json_t *value = at(status, cards[i].section, cards[i].key);
        if (!value)
            continue;
        fprintf(out, "<div class=card><b>");
        put_value(out, cards[i].key, value);
        fprintf(out, "</b>%s</div>", cards[i].label);
    }
    fputs("</div>", out);
}

static void put_heading(FILE *out, const char *key)
{
    fputs("<h2>", out);
    put_label(out, key);
    fputs("</h2>", out);
}

/* A list of objects, a row each; the first one's keys are the columns. */
static void put_table(FILE *out, const char *key, json_t *list)
{
    size_t i;
    const char *column;
    json_t *row, *first = json_array_get(list, 0), *cell;
    put_heading(out, key);
    fputs("<div class=wide><table><tr>", out);
    json_object_foreach(first, column, cell) {
        fputs("<th>", out);
        put_label(out, column);
    }
    json_array_foreach(list, i, row) {
        fputs("<tr>", out);
        json_object_foreach(first, column, cell) {
            const json_t *value = json_object_get(row, column);
            fputs("<td>", out);
            if (value)
                put_value(out, column, value);
        }
    }
    fputs("</table></div>", out);
}

static void put_pairs(FILE *out, json_t *object, const char *prefix)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        if (json_is_object(value)) {
            put_pairs(out, value, key);
            continue;
        }
        fputs("<tr><th>", out);
        if (*prefix) {
            put_label(out, prefix);
            fputc(' ', out);
        }
        put_label(out, key);
        fputs("<td>", out);
        put_value(out, key, value);
    }
}

static void put_sections(FILE *out, json_t *status)
{
    const char *key;
    json_t *value;
    json_object_foreach(status, key, value) {
        if (json_is_array(value) && json_is_object(json_array_get(value, 0)))
            put_table(out, key, value);
    }
    json_object_foreach(status, key, value) {
        if (!json_is_object(value) || json_object_size(value) == 0)
            continue;
        put_heading(out, key);
        fputs("<div class=wide><table>", out);
        put_pairs(out, value, "");
        fputs("</table></div>", out);
    }
}

static void put_header(FILE *out, const json_t *status)
{
    const char *job = json_string_value(json_object_get(status, "job"));
    const char *state = json_string_value(json_object_get(status, "state"));
    const char *reason = json_string_value(json_object_get(status, "reason"));
    const json_t *index = at(status, "shard", "index"), *count = at(status, "shard", "count");
    const char *mood = !state                              ? ""
                       : strcmp(state, "training") == 0    ? " good"
                       : strcmp(state, "finished") == 0    ? " good"
                       : strcmp(state, "failed") == 0      ? " bad"
                                                           : "";
    fputs("<title>", out);
    put_escaped(out, job ? job : "psd");
    fputs(" – psd</title></head><body><header><h1>", out);
    put_escaped(out, job ? job : "psd");
    fprintf(out, "</h1><span class='state%s'>", mood);
    put_escaped(out, state ? state : "no status yet");
    fputs("</span>", out);
    if (index && count)
        fprintf(out, "<span>shard %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT "</span>",
                json_integer_value(index), json_integer_value(count));
    if (reason) {
        fputs("<span>", out);
        put_escaped(out, reason);
        fputs("</span>", out);
    }
    fputs("</header>", out);
}

char *psd_page_render(const char *status_json)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out)
        return NULL;
    json_t *status = json_loads(status_json, JSON_REJECT_DUPLICATES, NULL);
    fputs(head, out);
    put_header(out, status);
    put_cards(out, status);
    put_sections(out, status);
    fputs("<footer><a href=/status>status as JSON</a> · <a href=/metrics>metrics</a> · this page renews itself every "
          "2 s</footer></body></html>\n", out);
    json_decref(status);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
