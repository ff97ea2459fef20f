#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/html.h"
#include "deploy/psdctl/comparison.h"

/* A chart in its own units: people see it as wide as their window lets it be. */
enum {
    WIDTH = 520,
    HEIGHT = 320,
    LEFT = 56,
    RIGHT = 18,
    TOP = 10,
    BOTTOM = 36,
    HUES = 10,    /* colours; then they come again, dashed */
    OUTSIDE = 12, /* one of so many points may lie outside the chart */
    FEW = 6,      /* so few curves may be shaded well, and go up and down as they will; */
    CALM = 34,    /* of more, each has at most so many points, */
    ROOM = 1000   /* and all on a chart so many: each is about 36 bytes, for its mean, least and most */
};

typedef struct chart {
    const psd_comparison_t *comparison;
    const char *id, *title;
    bool is_loss; /* of training, else the metric on the test set */
    bool is_log;
    double steps, low, high; /* what the axes span */
    size_t stride;           /* so many points of a curve are drawn as one */
} chart_t;

/* A point over the seeds. */
typedef struct dot {
    double step;
    psd_spread_t spread;
} dot_t;

typedef struct dots {
    dot_t at[PSD_CURVE_POINTS];
    size_t n;
} dots_t;

/* -- curves ------------------------------------------------------------------------------------------------
 */

static const psd_curve_t *curve_of(const chart_t *chart, const psd_outcome_t *o)
{
    return chart->is_loss ? &o->losses : &o->looks;
}

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

/* Mean of the points [from, from + stride) of one run; NaN: it has none there. */
static double mean_at(const psd_curve_t *curve, size_t from, size_t stride)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = from; i < from + stride && i < curve->n; i++, n++)
        sum += curve->point[i].value;
    return n ? sum / (double)n : NAN;
}

/* Over those seeds that came to a good end; when none did, over all. */
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
        for (unsigned s = 0; s < chart->comparison->n_seeds; s++) {
            const psd_outcome_t *o = &c->outcome[s];
            value[n] = o->read && (!o->diverged || !c->final.n)
                           ? mean_at(curve_of(chart, o), i, chart->stride)
                           : NAN;
            n += isfinite(value[n]) ? 1 : 0;
        }
        const size_t last = i + chart->stride <= longest->n ? i + chart->stride - 1 : longest->n - 1;
        if (n)
            out->at[out->n++] =
                (dot_t){ .step = longest->point[last].step, .spread = psd_spread_of(value, n) };
    }
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Span the axes so that the ends of the curves fill the chart; the worst of all points, mostly those of the
 * very first steps, may lie outside. False when there is nothing to draw. */
static bool span_axes(chart_t *chart)
{
    const psd_comparison_t *self = chart->comparison;
    const bool down = chart->is_loss || self->smaller_is_better;
    double *value = calloc(self->n * PSD_CURVE_POINTS, sizeof *value);
    dots_t *dots = calloc(1, sizeof *dots);
    size_t n = 0;
    for (size_t c = 0; value && dots && c < self->n; c++) {
        collect(chart, &self->contender[c], dots);
        for (size_t i = 0; self->contender[c].final.n && i < dots->n; i++) {
            value[n++] = dots->at[i].spread.mean;
            chart->steps = fmax(chart->steps, dots->at[i].step);
        }
    }
    if (n) {
        qsort(value, n, sizeof *value, by_value);
        chart->low = down ? value[0] : value[n / OUTSIDE];
        chart->high = down ? value[n - 1 - n / OUTSIDE] : value[n - 1];
        chart->is_log = down && chart->low > 0;
        const double margin =
            chart->high > chart->low ? 0.04 * (chart->high - chart->low) : fabs(chart->high) * 0.01 + 1e-9;
        chart->low = chart->is_log ? chart->low / 1.15 : chart->low - margin;
        chart->high = chart->is_log ? chart->high * 1.3 : chart->high + margin;
    }
    free(value);
    free(dots);
    return n > 0;
}

static double x_of(const chart_t *chart, double step)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * step / chart->steps;
}

/* Far outside is as good as further, and shorter to write. */
static double y_of(const chart_t *chart, double value)
{
    const double share = chart->is_log ? log(fmax(value, 1e-300) / chart->low) / log(chart->high / chart->low)
                                       : (value - chart->low) / (chart->high - chart->low);
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * fmin(fmax(share, -1), 2);
}

/* A single look is no line: a point, and how far the seeds lie apart. */
static void draw_point(FILE *out, const chart_t *chart, const dot_t *dot)
{
    enum { RADIUS = 4 };
    const double x = fmin(x_of(chart, dot->step), WIDTH - RIGHT - RADIUS); /* whole, at the end too */
    fprintf(out,
            "<path class=\"l\" d=\"M%.1f %.1fV%.1f\"/><circle class=\"p\" cx=\"%.1f\" cy=\"%.1f\" r=\"%d\"/>",
            x, y_of(chart, dot->spread.most), y_of(chart, dot->spread.least), x,
            y_of(chart, dot->spread.mean), RADIUS);
}

static void draw_line(FILE *out, const chart_t *chart, const dots_t *dots)
{
    fputs("<path class=\"l\" d=\"M", out);
    for (size_t i = 0; i < dots->n; i++)
        fprintf(out, "%.1f %.1f ", x_of(chart, dots->at[i].step), y_of(chart, dots->at[i].spread.mean));
    fputs("\"/>", out);
}

static void draw_curve(FILE *out, const chart_t *chart, size_t c, dots_t *dots)
{
    collect(chart, &chart->comparison->contender[c], dots);
    if (!dots->n)
        return;
    fprintf(out, "<g class=\"k h%zu d%zu%s\" data-k=\"%zu\">", c % HUES, c / HUES % 4,
            chart->comparison->contender[c].is_best_of_sweep ? "" : " off", c);
    if (chart->comparison->n_seeds > 1 && dots->n > 1) {
        fputs("<path class=\"b\" d=\"M", out);
        for (size_t i = 0; i < dots->n; i++)
            fprintf(out, "%.1f %.1f ", x_of(chart, dots->at[i].step), y_of(chart, dots->at[i].spread.most));
        for (size_t i = dots->n; i-- > 0;)
            fprintf(out, "%.1f %.1f ", x_of(chart, dots->at[i].step), y_of(chart, dots->at[i].spread.least));
        fputs("Z\"/>", out);
    }
    if (dots->n == 1)
        draw_point(out, chart, &dots->at[0]);
    else
        draw_line(out, chart, dots);
    fputs("</g>\n", out);
}

/* -- axes --------------------------------------------------------------------------------------------------
 */

/* 1, 2 or 5 times a power of ten, so that `span` has at most about `n` of them. */
static double round_step(double span, double n)
{
    const double raw = span / n, power = pow(10, floor(log10(raw)));
    return power * (raw / power > 5 ? 10 : raw / power > 2 ? 5 : raw / power > 1 ? 2 : 1);
}

static void draw_y_tick(FILE *out, const chart_t *chart, double value)
{
    const double y = y_of(chart, value);
    fprintf(out, "<path class=\"g\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" class=\"y\">%.10g</text>\n",
            LEFT, y, WIDTH - RIGHT, LEFT - 6, y + 4, value);
}

static void draw_axes(FILE *out, const chart_t *chart)
{
    static const double mantissa[] = { 1, 2, 5 };
    const double step = round_step(chart->high - chart->low, 6), steps = round_step(chart->steps, 6);
    for (int power = -12; chart->is_log && power < 13; power++)
        for (size_t m = 0; m < sizeof mantissa / sizeof *mantissa; m++) {
            const double value = mantissa[m] * pow(10, power);
            if (value >= chart->low && value <= chart->high)
                draw_y_tick(out, chart, value);
        }
    for (double i = ceil(chart->low / step); !chart->is_log && i * step <= chart->high; i++)
        draw_y_tick(out, chart, i * step);
    for (double i = 0; i * steps <= chart->steps; i++)
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" class=\"x\">%.10g</text>\n", x_of(chart, i * steps),
                HEIGHT - BOTTOM + 16, i * steps);
    fprintf(out, "<text x=\"%d\" y=\"%d\" class=\"x\">steps</text>\n", (LEFT + WIDTH - RIGHT) / 2,
            HEIGHT - 4);
    if (!chart->is_loss && !isnan(chart->comparison->target) && chart->comparison->target >= chart->low &&
        chart->comparison->target <= chart->high)
        fprintf(out, "<path class=\"t\" d=\"M%d %.1fH%d\"><title>target %.4g</title></path>\n", LEFT,
                y_of(chart, chart->comparison->target), WIDTH - RIGHT, chart->comparison->target);
}

/* The best is drawn last, on top. */
static bool draw_chart(FILE *out, chart_t *chart)
{
    const psd_comparison_t *self = chart->comparison;
    dots_t *dots = calloc(1, sizeof *dots);
    const size_t points = self->n <= FEW           ? PSD_CURVE_POINTS
                          : self->n * CALM <= ROOM ? CALM
                                                   : ROOM / self->n + 2;
    chart->stride = (longest_of(chart) + points - 1) / points;
    if (!dots)
        return false;
    if (span_axes(chart)) {
        fprintf(
            out,
            "<figure><figcaption>%s%s</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">"
            "<clipPath id=\"%s\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>\n",
            chart->title, chart->is_log ? ", logarithmic" : "", WIDTH, HEIGHT, chart->title, chart->id, LEFT,
            TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        draw_axes(out, chart);
        fprintf(out, "<g clip-path=\"url(#%s)\">\n", chart->id);
        for (size_t c = self->n; c-- > 0;)
            draw_curve(out, chart, c, dots);
        fputs("</g></svg></figure>\n", out);
    }
    free(dots);
    return true;
}

/* -- the rest of the page ----------------------------------------------------------------------------------
 */

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1d2127;--dim:#667;--line:#dde1e7;--box:#f4f6f8;"
    "--0:#1f6fd6;--1:#d9480f;--2:#2b8a3e;--3:#9c36b5;--4:#c2255c;--5:#0b7285;--6:#8d6708;--7:#5f3dc4;--8:#"
    "5c940d;"
    "--9:#495057}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e6e9ee;--dim:#98a1ad;--line:#2c323a;--box:#"
    "1d2229;"
    "--0:#6cb2ff;--1:#ff9a5c;--2:#69db7c;--3:#da9cf0;--4:#ff8fb3;--5:#4fd1e0;--6:#f0c75e;--7:#a99cff;--8:#"
    "b5e26a;"
    "--9:#b8c0ca}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:1240px;padding:20px 16px 40px;background:var(--bg);"
    "color:var(--fg);font:15px/1.45 system-ui,sans-serif}h1{font-size:22px;margin:0 0 "
    "4px;overflow-wrap:anywhere}"
    "p{margin:6px 0}.dim{color:var(--dim);overflow-wrap:anywhere}"
    ".verdict{background:var(--box);border-left:4px solid var(--0);padding:10px 14px;margin:14px "
    "0;font-size:16px;"
    "overflow-wrap:anywhere}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:16px}"
    "figure{margin:0}figcaption{font-weight:600;margin-bottom:2px}svg{width:100%;height:auto;display:block}"
    "text{font-size:13px;fill:var(--dim)}.x{text-anchor:middle}.y{text-anchor:end}.g{stroke:var(--line);"
    "stroke-width:1}"
    ".t{stroke:var(--fg);stroke-width:1;stroke-dasharray:2 4;fill:none}\n"
    ".k .l{fill:none;stroke:var(--c);stroke-width:1.7;stroke-linejoin:round}.k "
    ".p{fill:var(--c)}.k .b{fill:var(--c);opacity:.07}.few .k .b{opacity:.16}"
    ".k.off{display:none}.hot .l{stroke-width:3.4}.charts .hot .b{opacity:.3}.pick .k:not(.hot){opacity:.18}"
    ".d1 .l{stroke-dasharray:7 3}.d2 .l{stroke-dasharray:2 3}.d3 .l{stroke-dasharray:9 3 2 3}\n"
    ".keys{display:flex;flex-wrap:wrap;gap:4px 6px;margin:12px 0}.keys button{font:13px/1.3 "
    "ui-monospace,monospace;"
    "border:1px solid var(--line);border-radius:4px;background:var(--box);color:inherit;padding:3px "
    "7px;cursor:pointer;"
    "text-align:left}.keys "
    "button.out{opacity:.45;text-decoration:line-through}svg.s{display:inline-block;width:22px;"
    "height:8px;margin-right:6px;vertical-align:middle}\n"
    ".scroll{overflow-x:auto;border:1px solid "
    "var(--line)}table{border-collapse:collapse;width:100%;font-size:13.5px;"
    "font-variant-numeric:tabular-nums}th,td{padding:5px 7px;text-align:right;white-space:nowrap;"
    "border-bottom:1px solid var(--line)}th{background:var(--box);cursor:pointer;font-weight:600}"
    "th[aria-sort=ascending]:after{content:\" \\2191\"}th[aria-sort=descending]:after{content:\" \\2193\"}"
    ".w{text-align:left}tbody "
    "tr:hover{background:var(--box)}td.r{font-family:ui-monospace,monospace;font-size:12.5px}"
    "details{margin-top:14px}summary{cursor:pointer}code{font:12px "
    "ui-monospace,monospace;overflow-wrap:anywhere}"
    "@media(max-width:600px){body{padding:12px 10px "
    "30px;font-size:14px}.verdict{font-size:14px}td.r,table{font-size:12px}"
    "th,td{padding:4px 6px}}\n";

/* Keys switch curves off and on; whatever names a curve, pointed at, makes it stand out; a column's head
 * sorts by it. */
static const char script[] =
    "const all=(s,e)=>[...(e||document).querySelectorAll(s)];\n"
    "function hot(k,on){all('.charts svg').forEach(s=>s.classList.toggle('pick',on));"
    "all('.k[data-k=\"'+k+'\"]').forEach(g=>g.classList.toggle('hot',on))}\n"
    "all('[data-k]').forEach(e=>{e.addEventListener('mouseenter',()=>hot(e.dataset.k,true));"
    "e.addEventListener('mouseleave',()=>hot(e.dataset.k,false))});\n"
    "all('.keys button').forEach(b=>b.addEventListener('click',()=>{const off=b.classList.toggle('out');"
    "b.setAttribute('aria-pressed',!off);"
    "all('.k[data-k=\"'+b.dataset.k+'\"]').forEach(g=>g.classList.toggle('off',off))}));\n"
    "all('th').forEach((th,i)=>th.addEventListener('click',()=>{const "
    "up=th.getAttribute('aria-sort')!=='ascending';"
    "all('th').forEach(o=>o.removeAttribute('aria-sort'));th.setAttribute('aria-sort',up?'ascending':'"
    "descending');"
    "const v=r=>r.cells[i].dataset.v,body=document.querySelector('tbody');"
    "all('tr',body).sort((a,b)=>v(a)===''?1:v(b)===''?-1:(up?1:-1)*(v(a)-v(b))).forEach(r=>body.append(r))}))"
    ";\n";

static void put_swatch(FILE *out, size_t c)
{
    fprintf(out, "<svg class=\"s k h%zu d%zu\" viewBox=\"0 0 22 8\"><path class=\"l\" d=\"M0 4H22\"/></svg>",
            c % HUES, c / HUES % 4);
}

static void put_keys(FILE *out, const psd_comparison_t *self)
{
    fputs("<div class=\"keys\">\n", out);
    for (size_t c = 0; c < self->n; c++) {
        const psd_contender_t *one = &self->contender[c];
        fprintf(out, "<button data-k=\"%zu\"%s aria-pressed=\"%s\">", c,
                one->is_best_of_sweep ? "" : " class=\"out\"", one->is_best_of_sweep ? "true" : "false");
        put_swatch(out, c);
        psd_html_put(out, one->label);
        fputs("</button>\n", out);
    }
    fputs("</div>\n", out);
}

static void put_cell(FILE *out, const psd_comparison_t *self, const psd_column_t *column, size_t c)
{
    const psd_contender_t *one = &self->contender[c];
    const double value = column->value(one);
    char text[PSD_CELL];
    column->text(self, one, text);
    fprintf(out, "<td%s data-v=\"",
            column == psd_comparison_column(1) ? " class=\"w r\""
            : column->is_text                  ? " class=\"w\""
                                               : "");
    if (isfinite(value))
        fprintf(out, "%.9g", value);
    fputs("\">", out);
    if (column == psd_comparison_column(1))
        put_swatch(out, c);
    psd_html_put(out, column == psd_comparison_column(1) ? one->label : text);
    fputs("</td>", out);
}

static void put_table(FILE *out, const psd_comparison_t *self)
{
    char title[PSD_CELL];
    const psd_column_t *column;
    fputs("<div class=\"scroll\"><table><thead><tr>", out);
    for (size_t i = 0; (column = psd_comparison_column(i)); i++) {
        psd_comparison_title(self, i, title);
        fprintf(out, "<th%s>", column->is_text ? " class=\"w\"" : "");
        psd_html_put(out, title);
        fputs("</th>", out);
    }
    fputs("</tr></thead><tbody>\n", out);
    for (size_t c = 0; c < self->n; c++) {
        fprintf(out, "<tr data-k=\"%zu\">", c);
        for (size_t i = 0; (column = psd_comparison_column(i)); i++)
            put_cell(out, self, column, c);
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}

/* What makes it a comparison: all runs of a seed have these. */
static void put_hashes(FILE *out, const psd_comparison_t *self)
{
    fputs("<details><summary>What all runs of a seed had in common</summary>\n", out);
    for (unsigned s = 0; s < self->n_seeds; s++) {
        const psd_outcome_t *one = NULL;
        for (size_t c = 0; c < self->n; c++) {
            const psd_outcome_t *o = &self->contender[c].outcome[s];
            one = o->read && (!one || o->steps > one->steps) ? o : one;
        }
        if (!one)
            continue;
        fprintf(out,
                "<p>seed %llu: weights before the first step <code>%s</code>; rows and labels in the order "
                "of the steps, "
                "by worker <code>",
                (unsigned long long)(self->first_seed + s), one->sha256_initial);
        psd_html_put(out, one->order);
        fputs("</code></p>\n", out);
    }
    fputs("</details>\n", out);
}

static void put_notes(FILE *out, const psd_comparison_t *self)
{
    fprintf(out,
            "<p class=\"dim\">Mean ± standard deviation over seeds; shaded: from the least to the most of "
            "them. Two rows that "
            "share a group cannot be told apart: their ranges of %s overlap. ",
            *self->metric ? self->metric : "the metric");
    if (!isnan(self->target))
        fprintf(out, "The target, %.4g, is %s. ", self->target,
                self->target_is_ours ? "where the worst seed of the first rule that was named ends"
                                     : "as it was told");
    fputs("Train loss: mean over the last tenth of the steps. Moved: bytes that all servers received and "
          "sent.</p>\n",
          out);
}

bool psd_comparison_page(const psd_comparison_t *self, FILE *out)
{
    char line[512], title[64];
    snprintf(title, sizeof title, "%s on the test set", self->metric);
    chart_t looks = { .comparison = self, .id = "cm", .title = title },
            losses = { .comparison = self, .id = "cl", .title = "training loss", .is_loss = true };
    psd_comparison_describe(self, line, sizeof line);
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>",
          out);
    psd_html_put(out, psd_options_string(self->options, "job"));
    fprintf(out, "</title>\n<style>%s", style);
    for (int i = 0; i < HUES; i++)
        fprintf(out, ".h%d{--c:var(--%d)}", i, i);
    fprintf(out, "</style></head><body>\n<h1>%s: %zu optimizers</h1>\n<p class=\"dim\">",
            psd_options_string(self->options, "job"), self->n);
    psd_html_put(out, line);
    fputs("</p>\n<p class=\"verdict\">", out);
    psd_html_put(out, self->verdict);
    fprintf(out, "</p>\n<div class=\"charts%s\">\n", self->n <= FEW ? " few" : "");
    const bool drawn = draw_chart(out, &looks) && draw_chart(out, &losses);
    fputs("</div>\n", out);
    put_keys(out, self);
    put_table(out, self);
    put_notes(out, self);
    put_hashes(out, self);
    fprintf(out, "<p class=\"dim\">psdctl compare, psd %s</p>\n<script>\n%s</script></body></html>\n",
            PSD_VERSION, script);
    return drawn && !ferror(out);
}
