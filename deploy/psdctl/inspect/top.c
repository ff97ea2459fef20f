/* top.c - `psdctl top`: shows a server's status on the whole terminal, refreshed each second. It only reads. */
#include "deploy/psdctl/verb.h"

#include <curses.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "deploy/psdctl/inspect/http.h"
#include "deploy/psdctl/say.h"

enum { RENEW_MS = 1000, KEY_MS = 100, MAX_ROWS = 1024, TEXT = 512 };

/* The columns by which workers are sorted, in descending order unless `rises`. */
static const struct order {
    const char *key, *title;
    bool rises;
} orders[] = {
    { "awaited_share", "waited for", false },    { "id", "worker", true },      { "compute_seconds", "computes", false },
    { "samples_per_second", "samples/s", true }, { "lag_steps", "lag", false }, { "last_push_age_seconds", "last push", false },
};

enum { N_ORDERS = sizeof orders / sizeof *orders };

typedef struct top {
    const char *url, *token_file; /* no file: NULL */
    json_t *now, *before;         /* the newest document, and the one before it; NULL: none */
    char trouble[TEXT];           /* why there is no newer one; "" if there is */
    size_t order;
    bool help;
} top_t;

/* ---- text ---- */

/* "11.4k": a count in at most five characters; what would be rounded to 1000 of a unit is 1 of the next. */
static const char *scaled(double x, char out[TEXT])
{
    static const char units[] = " kMGT";
    if (isnan(x))
        return "-";
    size_t i = 0;
    for (; x >= 999.5 && units[i + 1]; i++)
        x /= 1000;
    snprintf(out, TEXT, "%.3g%.1s", x, i ? units + i : "");
    return out;
}

static const char *whole(double x, const char *unit, char out[TEXT])
{
    snprintf(out, TEXT, "%.0f%s", x, unit);
    return isnan(x) ? "-" : out;
}

static const char *duration(double s, char out[TEXT])
{
    if (isnan(s))
        return "-";
    if (s >= 3600)
        snprintf(out, TEXT, "%.0fh%02.0fm", floor(s / 3600), floor(fmod(s / 60, 60)));
    else if (s >= 60)
        snprintf(out, TEXT, "%.0fm%02.0fs", floor(s / 60), floor(fmod(s, 60)));
    else if (s >= 0.9995 || s <= 0)
        snprintf(out, TEXT, "%.3gs", s);
    else
        snprintf(out, TEXT, s >= 0.9995e-3 ? "%.3gms" : "%.3gus", s >= 0.9995e-3 ? s * 1e3 : s * 1e6);
    return out;
}

/* Print a line, cut at the screen's edge, without control characters. */
static void put(int y, attr_t how, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void put(int y, attr_t how, const char *format, ...)
{
    char text[2 * TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    if (y < 0 || y >= LINES)
        return;
    move(y, 0);
    clrtoeol();
    attrset((int)how);
    addnstr(text, COLS);
    attrset((int)A_NORMAL);
}

/* ---- the screen ---- */

static double rate(const top_t *self, const char *key)
{
    double seconds = psd_http_number_at(self->now, "", "now") - psd_http_number_at(self->before, "", "now");
    double n = psd_http_number_at(self->now, "progress", key) - psd_http_number_at(self->before, "progress", key);
    return self->before && seconds > 0 && n > 0 ? n / seconds : 0;
}

static int put_head(const top_t *self)
{
    char a[TEXT], b[TEXT], c[32], report[TEXT] = "", point[TEXT] = "", epoch[40] = "", left[240] = "";
    const json_t *s = self->now, *o = json_object_get(s, "optimizer"), *sync = json_object_get(s, "sync");
    const char *reason = psd_http_text_at(s, "reason");
    const json_t *progress = json_object_get(s, "progress");
    if (json_is_number(json_object_get(progress, "epoch")))
        snprintf(epoch, sizeof epoch, "   epoch %.2f", psd_http_number_at(progress, "", "epoch"));
    if (json_is_number(json_object_get(progress, "left_seconds")))
        snprintf(left, sizeof left, "   %.200s left", duration(floor(psd_http_number_at(progress, "", "left_seconds")), a));
    put(0, A_BOLD, "%s: %s   shard %.0f of %.0f   up %s%s%s   %s", psd_http_text_at(s, "job"), psd_http_text_at(s, "state"),
        psd_http_number_at(s, "shard", "index"), psd_http_number_at(s, "shard", "count"),
        duration(psd_http_number_at(s, "", "uptime_seconds"), a), epoch, left, self->trouble);
    if (json_object_get(s, "report"))
        snprintf(report, sizeof report, "   %.40s %.4g", psd_http_text_at(json_object_get(s, "report"), "name"),
                 psd_http_number_at(s, "report", "value"));
    snprintf(c, sizeof c, "%.4g", psd_http_number_at(s, "loss", "train"));
    put(1, A_NORMAL, "step %.0f   %s steps/s   %s samples/s   loss %s%s", psd_http_number_at(s, "progress", "step"),
        scaled(rate(self, "step"), a), scaled(rate(self, "samples"), b), psd_http_number_at(s, "progress", "step") > 0 ? c : "-",
        report);
    put(2, A_NORMAL, "%s", psd_http_text_at(o, "rule"));
    if (json_object_get(s, "checkpoint"))
        snprintf(point, sizeof point, "   checkpoint %.0f", psd_http_number_at(s, "checkpoint", "number"));
    if (json_is_number(json_object_get(json_object_get(s, "checkpoint"), "age_seconds"))) /* otherwise from before this process */
        snprintf(point + strlen(point), sizeof point - strlen(point), ", %.40s ago",
                 duration(psd_http_number_at(s, "checkpoint", "age_seconds"), b));
    snprintf(a, sizeof a, "%.0f of %.0f", psd_http_number_at(json_object_get(o, "lookahead"), "", "phase"),
             psd_http_number_at(json_object_get(o, "lookahead"), "", "k"));
    put(3, A_NORMAL, "learning rate %.4g%s%s%s", psd_http_number_at(o, "", "lr_now"),
        json_object_get(o, "lookahead") ? "   Lookahead phase " : "", json_object_get(o, "lookahead") ? a : "", point);
    put(4, A_NORMAL, "%s%s%s", psd_http_text_at(sync, "mode"), *reason ? "   waits for " : "", reason);
    int y = 5;
    size_t i;
    json_t *alert;
    json_array_foreach(json_object_get(s, "alerts"), i, alert)
    {
        const char *text = json_string_value(alert);
        size_t width = COLS > 2 ? (size_t)COLS - 2 : 1;
        for (size_t at = 0; at < strlen(text) && (y < LINES / 2 || at); at += width)
            put(y++, A_BOLD, "%c %.*s", at ? ' ' : '!', (int)width, text + at);
    }
    put(y, A_NORMAL, "%s", "");
    return y + 1;
}

static const struct order *sorted_by; /* qsort passes no argument */

static int by_order(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    double u = psd_http_number_at(x, "", sorted_by->key), v = psd_http_number_at(y, "", sorted_by->key);
    const double last = sorted_by->rises ? INFINITY : -INFINITY; /* a worker without this number */
    u = isnan(u) ? last : u;
    v = isnan(v) ? last : v;
    if (u == v)
        u = psd_http_number_at(x, "", "id"), v = psd_http_number_at(y, "", "id");
    else if (!sorted_by->rises)
        return u < v ? 1 : -1;
    return (u > v) - (u < v);
}

static void put_worker(int y, const json_t *w)
{
    char waited[TEXT], compute[TEXT], send[TEXT], samples[TEXT], lag[TEXT], push[TEXT];
    const char *why = psd_http_text_at(w, "slow_reason");
    put(y, *why ? A_BOLD : A_NORMAL, "%4.0f  %-14.14s %-7.7s %6s %8s %8s %6s %4s %6s %s", psd_http_number_at(w, "", "id"),
        psd_http_text_at(w, "name"), psd_http_text_at(w, "state"),
        whole(psd_http_number_at(w, "", "awaited_share") * 100, "%", waited),
        duration(psd_http_number_at(w, "", "compute_seconds"), compute), duration(psd_http_number_at(w, "", "send_seconds"), send),
        scaled(psd_http_number_at(w, "", "samples_per_second"), samples), whole(psd_http_number_at(w, "", "lag_steps"), "", lag),
        duration(psd_http_number_at(w, "", "last_push_age_seconds"), push), why);
}

static void put_workers(const top_t *self, int y)
{
    static json_t *rows[MAX_ROWS];
    const json_t *workers = json_object_get(self->now, "workers");
    size_t n = json_array_size(workers) < MAX_ROWS ? json_array_size(workers) : MAX_ROWS, i;
    for (i = 0; i < n; i++)
        rows[i] = json_array_get(workers, i);
    sorted_by = &orders[self->order];
    qsort(rows, n, sizeof *rows, by_order);
    put(y++, A_REVERSE, "%4s  %-14s %-7s %6s %8s %8s %6s %4s %6s %-7s%*s", "id", "worker", "state", "waited", "computes", "sends",
        "smpl/s", "lag", "push", "why", COLS, "");
    for (i = 0; i < n && y < LINES - 1; i++, y++)
        put_worker(y, rows[i]);
    if (i < n)
        put(LINES - 2, A_DIM, "and %zu more", n - i + 1);
    for (; y < LINES - 1; y++)
        put(y, A_NORMAL, "%s", "");
}

static void put_help(void)
{
    static const char *const lines[] = {
        "psdctl top shows the /status of a server, refreshed each second.",
        "",
        "  waited    share of the time in which only this worker's push was missing",
        "  computes  from new weights to its push's first chunk; data and the network included",
        "  sends     from that chunk to the last",
        "  smpl/s    samples per second",
        "  lag       steps behind the first",
        "  push      since its last push",
        "  why       compute: it computes longer than others; network: its pushes take",
        "            longer to arrive; silent: it sends nothing",
        "",
        "  q quit   s sort by another column   ? back",
    };
    erase();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        put((int)i, A_NORMAL, "%s", lines[i]);
}

static void draw(const top_t *self)
{
    if (self->help)
        put_help();
    else
        put_workers(self, put_head(self));
    put(LINES - 1, A_REVERSE, "q quit   s sorted by %s   ? help%*s", orders[self->order].title, COLS, "");
    refresh();
}

/* ---- the loop ---- */

static void renew(top_t *self)
{
    psd_err_t err;
    json_t *status = psd_http_status(self->url, self->token_file, &err);
    if (!status) {
        snprintf(self->trouble, sizeof self->trouble, "(old: %.200s)", err.text);
        return;
    }
    json_decref(self->before);
    self->before = self->now;
    self->now = status;
    self->trouble[0] = '\0';
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void watch(top_t *self)
{
    uint64_t renewed_ms = now_ms();
    for (int key = 0; key != 'q'; key = getch()) {
        bool due = now_ms() >= renewed_ms + RENEW_MS;
        if (due) {
            renew(self);
            renewed_ms = now_ms();
        }
        self->order = key == 's' ? (self->order + 1) % N_ORDERS : self->order;
        self->help = key == '?' ? !self->help : self->help;
        if (due || key != ERR)
            draw(self);
    }
}

static int show(top_t *self)
{
    psd_err_t err;
    self->now = psd_http_status(self->url, self->token_file, &err);
    if (!self->now)
        return psd_say_error("top", &err);
    SCREEN *screen = isatty(0) && isatty(1) ? newterm(NULL, stdout, stdin) : NULL;
    if (!screen) {
        psd_err_set(&err, PSD_EUSAGE, "this is not a terminal (TERM=%.40s); use psdctl status, which prints the same once",
                    getenv("TERM") ? getenv("TERM") : "");
        return psd_say_error("top", &err);
    }
    cbreak();
    noecho();
    keypad(stdscr, true);
    curs_set(0);
    timeout(KEY_MS);
    watch(self);
    endwin();
    delscreen(screen);
    return 0;
}

static int run(const psd_args_t *args)
{
    top_t self = { .url = args->word[0] ? args->word[0] : PSD_CTL_URL, .token_file = args->flag[0] };
    int code = show(&self);
    json_decref(self.now);
    json_decref(self.before);
    return code;
}

const psd_verb_t psd_verb_top = {
    .name = "top",
    .words = "[URL]",
    .does = "show the state of a server on the whole terminal, refreshed each second",
    .about = "URL is the status endpoint of a server; default " PSD_CTL_URL ". Keys: q ends, s sorts workers by another "
             "column, ? explains.",
    .flag = { { .key = "token-file",
                .type = PSD_OPTION_PATH,
                .argument = "FILE",
                .help = "file with the token that the server requires (its status.token)" } },
    .examples = "psdctl top http://127.0.0.1:7471\n",
    .exits = "64 without a terminal; 69 when no server answers at the start",
    .run = run,
};
