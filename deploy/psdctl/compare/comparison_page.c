#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/asset.h"
#include "common/base/html.h"
#include "common/system/json.h"
#include "deploy/psdctl/compare/comparison.h"

/* report/report.html, .css and .js. */
extern const psd_asset_t psd_asset_report_html, psd_asset_report_css, psd_asset_report_js;

/* Points of all curves of a chart, so that the page stays small. */
enum {
    HUES = 8,   /* number of colours in report.css; further curves repeat them, dashed */
    FEW = 6,    /* up to this many curves are drawn in full; */
    CALM = 34,  /* of more curves, each has at most this many points, */
    ROOM = 1000 /* and all on a chart this many together */
};

typedef struct chart {
    const psd_comparison_t *comparison;
    bool is_loss;  /* the training loss, otherwise the metric on the test set */
    size_t stride; /* number of points of a curve that are drawn as one */
} chart_t;

/* A point over the seeds. */
typedef struct dot {
    double step, seconds;
    psd_spread_t spread;
} dot_t;

typedef struct dots {
    dot_t at[PSD_CURVE_POINTS];
    size_t n;
} dots_t;

/* -- curves ------------------------------------------------------------------------------------------------ */

static const psd_curve_t *curve_of(const chart_t *chart, const psd_outcome_t *o) { return chart->is_loss ? &o->losses : &o->looks; }

static size_t longest_of(const chart_t *chart)
{
    size_t n = 1;
    for (size_t c = 0; c < chart->comparison->n; c++)
        for (unsigned s = 0; s < chart->comparison->n_seeds; s++) {
            const psd_outcome_t *o = &chart->comparison->contender[c].outcome[s];
            n = o->read && curve_of(chart, o)->n > n ? curve_of(chart, o)->n : n;
        }
    return n;
}

/* Mean of the points [from, from + stride) of one run; NaN if it has none there. */
static double mean_at(const psd_curve_t *curve, size_t from, size_t stride)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = from; i < from + stride && i < curve->n; i++, n++)
        sum += curve->point[i].value;
    return n ? sum / (double)n : NAN;
}

/* Over the successful seeds; if there are none, over all. */
static void collect(const chart_t *chart, const psd_contender_t *c, dots_t *out)
{
    double value[100];
    const psd_curve_t *longest = NULL;
    out->n = 0;
    for (unsigned s = 0; s < chart->comparison->n_seeds; s++)
        if (c->outcome[s].read && (!longest || curve_of(chart, &c->outcome[s])->n > longest->n))
            longest = curve_of(chart, &c->outcome[s]);
    for (size_t i = 0; longest && i < longest->n && out->n < PSD_CURVE_POINTS; i += chart->stride) {
        size_t n = 0;
        double seconds = 0;
        const size_t last = i + chart->stride <= longest->n ? i + chart->stride - 1 : longest->n - 1;
        for (unsigned s = 0; s < chart->comparison->n_seeds; s++) {
            const psd_outcome_t *o = &c->outcome[s];
            const psd_curve_t *curve = curve_of(chart, o);
            const bool good = o->read && ((!o->diverged && !o->undefined && !o->untrained) || !c->final.n);
            value[n] = good ? mean_at(curve, i, chart->stride) : NAN;
            if (!isfinite(value[n]))
                continue;
            seconds += curve->point[last < curve->n ? last : curve->n - 1].seconds;
            n++;
        }
        if (n)
            out->at[out->n++] =
                (dot_t){ .step = longest->point[last].step, .seconds = seconds / (double)n, .spread = psd_spread_of(value, n) };
    }
}

static void add(json_t *list, double value) { json_array_append_new(list, isfinite(value) ? json_real(value) : json_null()); }

/* {"x": steps, "t": seconds, "m": means, "lo": least, "hi": most}; the last two are left out for a single seed. */
static json_t *json_dots(const dots_t *dots, bool has_range)
{
    json_t *x = json_array(), *t = json_array(), *m = json_array(), *lo = json_array(), *hi = json_array();
    for (size_t i = 0; i < dots->n; i++) {
        add(x, dots->at[i].step);
        add(t, dots->at[i].seconds);
        add(m, dots->at[i].spread.mean);
        if (has_range)
            add(lo, dots->at[i].spread.least), add(hi, dots->at[i].spread.most);
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "x", x, "t", t, "m", m, "lo", lo, "hi", hi);
}

static json_t *json_curves(const psd_comparison_t *self, bool is_loss)
{
    chart_t chart = { .comparison = self, .is_loss = is_loss };
    dots_t *dots = calloc(1, sizeof *dots);
    json_t *list = json_array();
    const size_t points = self->n <= FEW ? PSD_CURVE_POINTS : self->n * CALM <= ROOM ? CALM : ROOM / self->n + 2;
    chart.stride = (longest_of(&chart) + points - 1) / points;
    for (size_t c = 0; dots && c < self->n; c++) {
        collect(&chart, &self->contender[c], dots);
        json_array_append_new(list, json_dots(dots, self->n_seeds > 1));
    }
    free(dots);
    return list;
}

/* -- data for the script --------------------------------------------------------------------------------- */

static json_t *json_rule(const psd_comparison_t *self, size_t c)
{
    const psd_contender_t *one = &self->contender[c];
    const char *failure = psd_contender_failure(one);
    json_t *finals = json_array();
    for (unsigned s = 0; s < self->n_seeds; s++)
        add(finals, one->outcome[s].read ? one->outcome[s].final : (double)NAN);
    return json_pack("{s:s, s:i, s:f, s:b, s:b, s:o, s:o, s:o}", "label", one->label, "named", (int)one->named, "lr",
                     psd_rule_lr(&one->rule), "chosen", one->is_best_of_sweep, "edge", one->is_at_edge, "failure",
                     failure ? json_string(failure) : json_null(), "finals", finals, "score",
                     one->held.n    ? json_real(one->held.mean)
                     : one->final.n ? json_real(one->final.mean)
                                    : json_null());
}

/* Everything on the charts. NULL: no memory. */
static json_t *json_charts(const psd_comparison_t *self)
{
    json_t *rules = json_array();
    char chosen[PSD_CELL];
    for (size_t c = 0; c < self->n; c++)
        json_array_append_new(rules, json_rule(self, c));
    return json_pack("{s:s, s:b, s:o, s:b, s:I, s:o, s:o, s:o, s:o}", "metric", self->metric, "smaller", self->smaller_is_better,
                     "target", isnan(self->target) ? json_null() : json_real(self->target), "swept", self->is_swept, "seed",
                     (json_int_t)self->first_seed, "chosen_on",
                     psd_comparison_chosen_on(self, chosen) ? json_string(chosen) : json_null(), "rules", rules, "looks",
                     json_curves(self, false), "losses", json_curves(self, true));
}

/* -- the rest of the page ---------------------------------------------------------------------------------- */

static void put_swatch(FILE *out, size_t c)
{
    fprintf(out, "<svg class=\"s k h%zu d%zu\" viewBox=\"0 0 22 8\"><path class=\"l\" d=\"M0 4H22\"/></svg>", c % HUES,
            c / HUES % 4);
}

/* The sources for the places of report.html. */
typedef struct page {
    const psd_comparison_t *comparison;
    const psd_page_part_t *search; /* NULL: none */
    const char *data;              /* of the charts, JSON */
} page_t;

static void put_keys(FILE *out, const void *arg)
{
    const psd_comparison_t *self = ((const page_t *)arg)->comparison;
    for (size_t c = 0; c < self->n; c++) {
        const psd_contender_t *one = &self->contender[c];
        const char *failure = psd_contender_failure(one);
        fprintf(out, "<button type=\"button\" data-k=\"%zu\"%s aria-pressed=\"%s\">", c,
                one->is_best_of_sweep ? "" : " class=\"out\"", one->is_best_of_sweep ? "true" : "false");
        put_swatch(out, c);
        psd_html_put(out, one->label);
        if (failure)
            fprintf(out, "<em>%s</em>", failure);
        fputs("</button>\n", out);
    }
}

static void put_cell(FILE *out, const psd_comparison_t *self, const psd_column_t *column, size_t c)
{
    const psd_contender_t *one = &self->contender[c];
    const double value = column->value(one);
    char text[PSD_CELL];
    column->text(self, one, text);
    fprintf(out, "<td%s data-v=\"", column == psd_comparison_column(1) ? " class=\"w r\"" : column->is_text ? " class=\"w\"" : "");
    if (isfinite(value))
        fprintf(out, "%.9g", value);
    fputs("\">", out);
    if (column == psd_comparison_column(1))
        put_swatch(out, c);
    psd_html_put(out, column == psd_comparison_column(1) ? one->label : text);
    fputs("</td>", out);
}

static void put_titles(FILE *out, const void *arg)
{
    const psd_comparison_t *self = ((const page_t *)arg)->comparison;
    char title[PSD_CELL];
    const psd_column_t *column;
    for (size_t i = 0; (column = psd_comparison_column(i)); i++) {
        if (column->is_shown && !column->is_shown(self))
            continue;
        psd_comparison_title(self, i, title);
        fprintf(out, "<th%s>", column->is_text ? " class=\"w\"" : "");
        psd_html_put(out, title);
        fputs("</th>", out);
    }
}

static void put_rows(FILE *out, const void *arg)
{
    const psd_comparison_t *self = ((const page_t *)arg)->comparison;
    const psd_column_t *column;
    for (size_t c = 0; c < self->n; c++) {
        fprintf(out, "<tr data-k=\"%zu\">", c);
        for (size_t i = 0; (column = psd_comparison_column(i)); i++)
            if (!column->is_shown || column->is_shown(self))
                put_cell(out, self, column, c);
        fputs("</tr>\n", out);
    }
}

/* The hashes that all runs of a seed share, which make them comparable. */
static void put_hashes(FILE *out, const void *arg)
{
    const psd_comparison_t *self = ((const page_t *)arg)->comparison;
    for (unsigned s = 0; s < self->n_seeds; s++) {
        const psd_outcome_t *one = NULL;
        for (size_t c = 0; c < self->n; c++) {
            const psd_outcome_t *o = &self->contender[c].outcome[s];
            one = o->read && (!one || o->steps > one->steps) ? o : one;
        }
        if (!one)
            continue;
        fprintf(out,
                "<p>seed %llu: weights before the first step <code>%s</code>; rows and labels in the order of the steps, "
                "by worker <code>",
                (unsigned long long)(self->first_seed + s), one->sha256_initial);
        psd_html_put(out, one->order);
        fputs("</code></p>\n", out);
    }
}

static void put_metric(FILE *out, const void *arg)
{
    const psd_comparison_t *self = ((const page_t *)arg)->comparison;
    psd_html_put(out, *self->metric ? self->metric : "the metric");
}

static void put_target(FILE *out, const void *arg)
{
    const psd_comparison_t *self = ((const page_t *)arg)->comparison;
    if (!isnan(self->target))
        fprintf(out, "The target, %.4g, is %s. ", self->target,
                self->target_is_ours ? "the final value of the worst seed of the first rule" : "the one given");
}

static void put_chosen(FILE *out, const void *arg)
{
    char chosen[PSD_CELL];
    if (psd_comparison_chosen_on(((const page_t *)arg)->comparison, chosen))
        fprintf(out, "For each rule, the learning rate is chosen on %s; the rules are compared at these rates. ", chosen);
}

static void put_job(FILE *out, const void *arg)
{
    psd_html_put(out, psd_options_string(((const page_t *)arg)->comparison->options, PSD_OPT_job));
}

static void put_count(FILE *out, const void *arg)
{
    const size_t n = ((const page_t *)arg)->comparison->n;
    fprintf(out, "%zu optimizer%s", n, n > 1 ? "s" : "");
}

static void put_setting(FILE *out, const void *arg)
{
    char line[1024];
    psd_comparison_describe(((const page_t *)arg)->comparison, line, sizeof line);
    psd_html_put(out, line);
}

static void put_verdict(FILE *out, const void *arg) { psd_html_put(out, ((const page_t *)arg)->comparison->verdict); }

static void put_advice(FILE *out, const void *arg)
{
    const psd_comparison_t *self = ((const page_t *)arg)->comparison;
    if (!*self->advice)
        return;
    fputs("<p class=\"verdict advice\">", out);
    psd_html_put(out, self->advice);
    fputs("</p>\n", out);
}

static void put_search(FILE *out, const void *arg)
{
    const psd_page_part_t *search = ((const page_t *)arg)->search;
    if (search)
        search->put(out, search->arg);
}

static void put_verb(FILE *out, const void *arg) { fputs(((const page_t *)arg)->search ? "tune" : "compare", out); }

static void put_css(FILE *out, const void *arg) { (void)arg, fputs(psd_asset_report_css.bytes, out); }
static void put_js(FILE *out, const void *arg) { (void)arg, fputs(psd_asset_report_js.bytes, out); }
static void put_version(FILE *out, const void *arg) { (void)arg, fputs(PSD_VERSION, out); }

/* Write JSON into an element that a script reads, escaped so that no text can end the element. */
static void put_data(FILE *out, const void *arg)
{
    for (const char *c = ((const page_t *)arg)->data; *c; c++)
        if (*c == '<')
            fputs("\\u003c", out);
        else
            fputc(*c, out);
}

static const psd_html_place_t places[] = {
    { "job", put_job },         { "css", put_css },         { "count", put_count },   { "setting", put_setting },
    { "verdict", put_verdict }, { "advice", put_advice },   { "keys", put_keys },     { "titles", put_titles },
    { "rows", put_rows },       { "metric", put_metric },   { "target", put_target }, { "chosen", put_chosen },
    { "hashes", put_hashes },   { "version", put_version }, { "data", put_data },     { "js", put_js },
    { "search", put_search },   { "verb", put_verb },
};

bool psd_comparison_page(const psd_comparison_t *self, const psd_page_part_t *search, FILE *out)
{
    json_t *json = json_charts(self);
    if (search)
        json_object_set(json, "ranges", search->ranges);
    char *data = psd_json_text(json, JSON_COMPACT | JSON_REAL_PRECISION(6));
    const page_t page = { .comparison = self, .search = search, .data = data };
    json_decref(json);
    if (!data)
        return false;
    psd_html_fill(out, psd_asset_report_html.bytes, places, sizeof places / sizeof *places, &page);
    free(data);
    return !ferror(out);
}
