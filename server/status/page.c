#include "server/status/page.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/asset.h"
#include "common/base/html.h"

/* dashboard/page.html and page.css. */
extern const psd_asset_t psd_asset_page_html, psd_asset_page_css;

/* The sources of a page. */
typedef struct page {
    json_t *status;               /* an object, or any other value */
    const psd_history_t *history; /* NULL: none */
} page_t;

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), n_end = strlen(end);
    return n > n_end && strcmp(text + n - n_end, end) == 0;
}

/* "apply_seconds_p99" reads as "apply p99": the value brings its unit. */
static void put_label(FILE *out, const char *key)
{
    static const char unit[] = "_seconds";
    while (*key) {
        if (strncmp(key, unit, sizeof unit - 1) == 0) {
            key += sizeof unit - 1;
            continue;
        }
        const char one[] = { *key == '_' ? ' ' : *key, '\0' };
        psd_html_put(out, one);
        key++;
    }
}

/* In three digits; what would be rounded to 1000 of a unit is 1 of the next. */
static void put_duration(FILE *out, double seconds)
{
    unsigned long s = (unsigned long)seconds;
    if (s >= 3600)
        fprintf(out, "%lu h %02lu min", s / 3600, s / 60 % 60);
    else if (s >= 60)
        fprintf(out, "%lu min %02lu s", s / 60, s % 60);
    else if (seconds >= 0.9995 || seconds <= 0)
        fprintf(out, "%.3g s", seconds);
    else if (seconds >= 0.9995e-3)
        fprintf(out, "%.3g ms", seconds * 1e3);
    else
        fprintf(out, "%.3g µs", seconds * 1e6);
}

static void put_bytes(FILE *out, double bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    size_t i = 0;
    for (; bytes >= 1024 && i + 1 < sizeof units / sizeof *units; i++)
        bytes /= 1024;
    fprintf(out, "%.*g %s", bytes < 999.5 ? 3 : 4, bytes, units[i]);
}

static void put_number(FILE *out, const char *key, double x)
{
    if ((ends_with(key, "_seconds") || strstr(key, "_seconds_")) && x >= 0 && x < 1e12)
        put_duration(out, x);
    else if ((ends_with(key, "_bytes") || strcmp(key, "bytes") == 0) && x >= 0)
        put_bytes(out, x);
    else if (x == floor(x) && fabs(x) < 1e15)
        fprintf(out, "%.0f", x);
    else
        fprintf(out, "%.5g", x);
}

static void put_value(FILE *out, const char *key, json_t *value);

/* "stale 3, shape 1", leaving out zeros; "none" when all are zero. Documents are shallow: Jansson bounds how deep they can be. */
static void put_members(FILE *out, json_t *value)
{
    size_t i;
    const char *key, *comma = "";
    json_t *item;
    if (json_is_array(value))
        json_array_foreach(value, i, item)
        {
            fputs(i ? ", " : "", out);
            put_value(out, "", item);
        }
    else
        json_object_foreach(value, key, item)
        {
            if (json_is_integer(item) && json_integer_value(item) == 0)
                continue;
            fputs(comma, out);
            put_label(out, key);
            fputc(' ', out);
            put_value(out, key, item);
            comma = ", ";
        }
    if (json_is_array(value) ? json_array_size(value) == 0 : !*comma)
        fputs("none", out);
}

static void put_value(FILE *out, const char *key, json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        psd_html_put(out, json_string_value(value));
        break;
    case JSON_INTEGER:
    case JSON_REAL:
        put_number(out, key, json_number_value(value));
        break;
    case JSON_ARRAY:
    case JSON_OBJECT:
        put_members(out, value);
        break;
    case JSON_TRUE:
        fputs("yes", out);
        break;
    case JSON_FALSE:
        fputs("no", out);
        break;
    case JSON_NULL:
        fputs("–", out);
        break;
    }
}

static json_t *at(const json_t *object, const char *section, const char *key)
{
    return json_object_get(*section ? json_object_get(object, section) : object, key);
}

/* The few numbers that readers look for first, if the document has them. */
static const struct card {
    const char *section, *key, *label;
} cards[] = {
    { "progress", "step", "step" },         { "progress", "epoch", "epoch" },     { "loss", "train", "training loss" },
    { "loss", "val", "test loss" },         { "progress", "samples", "samples" }, { "optimizer", "lr_now", "learning rate" },
    { "progress", "left_seconds", "left" }, { "", "uptime_seconds", "up" },
};

enum { N_CARDS = sizeof cards / sizeof *cards };

static void put_card(FILE *out, const char *key, json_t *value, const char *label)
{
    fputs("<div class=card><b>", out);
    put_value(out, key, value);
    fputs("</b>", out);
    psd_html_put(out, label);
    fputs("</div>", out);
}

/* The warnings that need attention, as sentences. */
static void put_alerts(FILE *out, const void *arg)
{
    const page_t *page = arg;
    size_t i;
    json_t *alert, *alerts = json_object_get(page->status, "alerts");
    if (json_array_size(alerts) == 0)
        return;
    fputs("<ul class=alerts>", out);
    json_array_foreach(alerts, i, alert)
    {
        fputs("<li>", out);
        put_value(out, "", alert);
    }
    fputs("</ul>", out);
}

static void put_cards(FILE *out, const void *arg)
{
    const json_t *status = ((const page_t *)arg)->status;
    const char *name = json_string_value(at(status, "report", "name"));
    json_t *value = at(status, "report", "value");
    fputs("<div class=cards>", out);
    if (name && *name && value)
        put_card(out, "", value, name);
    for (size_t i = 0; i < N_CARDS; i++)
        if ((value = at(status, cards[i].section, cards[i].key)))
            put_card(out, cards[i].key, value, cards[i].label);
    fputs("</div>", out);
}

/* A curve in its own units, which the browser scales to the window's width. */
enum { CURVE_WIDTH = 600, CURVE_HEIGHT = 120, CURVE_MARGIN = 4, CURVE_POINTS = 200 };

static void put_curve(FILE *out, const void *arg)
{
    const psd_history_t *history = ((const page_t *)arg)->history;
    double least = INFINITY, most = -INFINITY;
    size_t n = 0, first = 0, last = 0;
    for (size_t i = 0; history && i < history->n; i++)
        if (isfinite(history->point[i].loss)) {
            first = n ? first : i;
            least = fmin(least, history->point[i].loss);
            most = fmax(most, history->point[i].loss);
            last = i;
            n++;
        }
    if (n < 2)
        return;
    const double begin = history->point[first].unix_s, span = fmax(history->point[last].unix_s - begin, 1e-3);
    const double height = CURVE_HEIGHT - 2 * CURVE_MARGIN, range = fmax(most - least, 1e-300);
    fprintf(out,
            "<h2>training loss</h2><svg class=curve viewBox='0 0 %d %d' role=img aria-label='training loss'>"
            "<polyline fill=none stroke=currentColor stroke-width=2 points='",
            CURVE_WIDTH, CURVE_HEIGHT);
    const size_t stride = (last - first) / CURVE_POINTS + 1;
    for (size_t i = first + (last - first) % stride; i <= last; i += stride) {
        const psd_history_point_t *p = &history->point[i];
        if (isfinite(p->loss))
            fprintf(out, "%.1f,%.1f ", (p->unix_s - begin) / span * CURVE_WIDTH, CURVE_MARGIN + (most - p->loss) / range * height);
    }
    fprintf(out, "'/></svg><p>between %.4g and %.4g in ", least, most);
    put_duration(out, span);
    fputs("</p>", out);
}

/* Whether every member of a section is already shown above, on a card or in the header. */
static bool is_told(const char *section, json_t *object)
{
    const char *key;
    json_t *value;
    if (strcmp(section, "shard") == 0 || strcmp(section, "report") == 0)
        return true;
    json_object_foreach(object, key, value)
    {
        bool told = false;
        for (size_t i = 0; i < N_CARDS; i++)
            told = told || (strcmp(cards[i].section, section) == 0 && strcmp(cards[i].key, key) == 0);
        if (!told)
            return false;
    }
    return true;
}

static void put_heading(FILE *out, const char *key)
{
    fputs("<h2>", out);
    put_label(out, key);
    fputs("</h2>", out);
}

/* What only scripts read. */
static bool is_for_scripts(const char *key) { return strcmp(key, "strip") == 0 || strcmp(key, "columns") == 0; }

static bool is_list(const json_t *value) { return json_is_object(json_array_get(value, 0)); }

/* A list of objects, a row each; the first one's keys are the columns. */
static void put_table(FILE *out, const char *key, json_t *list)
{
    size_t i;
    const char *column;
    json_t *row, *first = json_array_get(list, 0), *cell;
    put_heading(out, key);
    fputs("<div class='wide list'><table><tr>", out);
    json_object_foreach(first, column, cell)
    {
        if (is_for_scripts(column))
            continue;
        fputs("<th>", out);
        put_label(out, column);
    }
    json_array_foreach(list, i, row)
    {
        fputs("<tr>", out);
        json_object_foreach(first, column, cell)
        {
            json_t *value = json_object_get(row, column);
            if (is_for_scripts(column))
                continue;
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
    json_object_foreach(object, key, value)
    {
        if (json_is_object(value)) {
            put_pairs(out, value, key);
            continue;
        }
        if (is_list(value) || is_for_scripts(key))
            continue;
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

static void put_sections(FILE *out, const void *arg)
{
    json_t *status = ((const page_t *)arg)->status, *value, *list;
    const char *key, *inner;
    json_object_foreach(status, key, value)
    {
        if (is_list(value))
            put_table(out, key, value);
    }
    json_object_foreach(status, key, value)
    {
        if (json_is_object(value))
            json_object_foreach(value, inner, list)
            {
                if (is_list(list))
                    put_table(out, inner, list);
            }
    }
    fputs("<div class=pairs>", out);
    json_object_foreach(status, key, value)
    {
        if (!json_is_object(value) || json_object_size(value) == 0 || is_told(key, value))
            continue;
        fputs("<section>", out);
        put_heading(out, key);
        fputs("<table>", out);
        put_pairs(out, value, "");
        fputs("</table></section>", out);
    }
    fputs("</div>", out);
}

static void put_css(FILE *out, const void *arg)
{
    (void)arg;
    fputs(psd_asset_page_css.bytes, out);
}

static void put_job(FILE *out, const void *arg)
{
    const char *job = json_string_value(json_object_get(((const page_t *)arg)->status, "job"));
    psd_html_put(out, job ? job : "psd");
}

/* The job's state, the shard, and what it waits for. */
static void put_state(FILE *out, const void *arg)
{
    const json_t *status = ((const page_t *)arg)->status;
    const char *state = json_string_value(json_object_get(status, "state"));
    const char *reason = json_string_value(json_object_get(status, "reason"));
    const json_t *index = at(status, "shard", "index"), *count = at(status, "shard", "count");
    const char *mood = !state                           ? ""
                       : strcmp(state, "training") == 0 ? " good"
                       : strcmp(state, "finished") == 0 ? " good"
                       : strcmp(state, "failed") == 0   ? " bad"
                                                        : "";
    fprintf(out, "<span class='state%s'>", mood);
    psd_html_put(out, state ? state : "no status yet");
    fputs("</span>", out);
    if (index && count)
        fprintf(out, "<span>shard %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT "</span>", json_integer_value(index),
                json_integer_value(count));
    if (reason) {
        fputs("<span>", out);
        psd_html_put(out, reason);
        fputs("</span>", out);
    }
}

static const psd_html_place_t places[] = {
    { "css", put_css },     { "job", put_job },     { "state", put_state },       { "alerts", put_alerts },
    { "cards", put_cards }, { "curve", put_curve }, { "sections", put_sections },
};

char *psd_page_render(const char *status_json, const psd_history_t *history)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out)
        return NULL;
    const page_t page = { .status = json_loads(status_json, JSON_REJECT_DUPLICATES, NULL), .history = history };
    psd_html_fill(out, psd_asset_page_html.bytes, places, sizeof places / sizeof *places, &page);
    json_decref(page.status);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
