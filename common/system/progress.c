#include "common/system/progress.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/system/log.h"

enum { REDRAW_MS = 200, BAR_CELLS = 24, LINE = 256 };

struct psd_progress {
    enum { SILENT, BAR, LOG } show;
    int fd;
    uint64_t interval_ms;
    uint64_t begun_ms, shown_ms; /* times of the first update, and of the last one shown */
    bool begun;
    uint64_t first_samples, first_step; /* at the first update, for the rates of this process */
    psd_progress_state_t state;         /* the last */
    pthread_mutex_t lock;               /* of the line below and of fd */
    char line[LINE];                    /* the bar on the terminal; "" when there is none */
    char note[60];                      /* at the end of the line */
    bool is_urgent;                     /* the note is more important than the rest */
};

bool psd_progress_can_redraw(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && term && strcmp(term, "dumb") != 0;
}

psd_progress_t *psd_progress_new(const psd_progress_config_t *config, psd_err_t *err)
{
    const bool automatic = !strcmp(config->mode, "auto"), bar = !strcmp(config->mode, "bar"), log = !strcmp(config->mode, "log");
    if (!automatic && !bar && !log && strcmp(config->mode, "none") != 0) {
        psd_err_set(err, PSD_ECONFIG, "progress is '%.40s'; write auto, bar, log or none", config->mode);
        return NULL;
    }
    psd_progress_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the progress");
        return NULL;
    }
    self->show = bar || (automatic && config->terminal) ? BAR : log || automatic ? LOG : SILENT;
    self->fd = config->fd;
    self->interval_ms = self->show == BAR ? REDRAW_MS : config->interval_ms;
    pthread_mutex_init(&self->lock, NULL);
    return self;
}

void psd_progress_destroy(psd_progress_t **self_p)
{
    if (*self_p)
        pthread_mutex_destroy(&(*self_p)->lock);
    free(*self_p);
    *self_p = NULL;
}

/* Ignore errors: training continues when the terminal is gone. */
static void put(int fd, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, text, n);
        if (done <= 0)
            return;
        text += done;
        n -= (size_t)done;
    }
}

static double seconds(const psd_progress_t *self, uint64_t now_ms) { return (double)(now_ms - self->begun_ms) / 1e3; }

static double samples_per_s(const psd_progress_t *self, uint64_t now_ms)
{
    const double s = seconds(self, now_ms);
    return s > 0 ? (double)(self->state.samples - self->first_samples) / s : 0;
}

/* Seconds to the last step at the pace so far; -1 when unknown. */
static double time_left(const psd_progress_t *self, uint64_t now_ms)
{
    const uint64_t made = self->state.step > self->first_step ? self->state.step - self->first_step : 0;
    if (!self->state.steps || !made || self->state.step > self->state.steps)
        return -1;
    return seconds(self, now_ms) / (double)made * (double)(self->state.steps - self->state.step);
}

/* Columns for the line: those of the terminal except the last, where it would wrap. */
static size_t width(const psd_progress_t *self)
{
    struct winsize size;
    const bool known = ioctl(self->fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    return known && size.ws_col < LINE ? size.ws_col - 1u : LINE - 1;
}

/* Parts of the line, in order; on a narrow terminal the one with the highest rank is left out first. */
enum { N_PARTS = 9 };
typedef struct part {
    unsigned rank;
    char text[64]; /* followed by a blank */
} part_t;

static void put_bar(part_t *part, uint64_t step, uint64_t steps, int cells)
{
    const uint64_t made = step < steps ? step : steps;
    const int full = (int)((uint64_t)cells * made / steps);
    snprintf(part->text, sizeof part->text, "[%.*s%.*s] ", full, "########################", cells - full,
             "........................");
}

static size_t length(const part_t *parts)
{
    size_t n = 0;
    for (size_t i = 0; i < N_PARTS; i++)
        n += strlen(parts[i].text);
    return n ? n - 1 : 0; /* without the last blank */
}

/* Shorten the bar, then leave out the least important parts, until the line fits. */
static void narrow(const psd_progress_t *self, part_t *parts, size_t room)
{
    if (*parts[0].text && length(parts) > room)
        put_bar(&parts[0], self->state.step, self->state.steps, BAR_CELLS / 2);
    while (length(parts) > room) {
        size_t least = 0;
        for (size_t i = 0; i < N_PARTS; i++)
            least = *parts[i].text && (!*parts[least].text || parts[i].rank > parts[least].rank) ? i : least;
        if (!*parts[least].text)
            return;
        parts[least].text[0] = '\0';
    }
}

static void draw(psd_progress_t *self, uint64_t now_ms)
{
    const psd_progress_state_t *s = &self->state;
    const uint64_t made = s->step < s->steps ? s->step : s->steps;
    const double left = time_left(self, now_ms);
    part_t p[N_PARTS] = { { 7, "" }, { 3, "" }, { 1, "" }, { 6, "" }, { 8, "" }, { 2, "" }, { 4, "" }, { 5, "" }, { 9, "" } };
    if (s->steps) {
        put_bar(&p[0], s->step, s->steps, BAR_CELLS);
        snprintf(p[1].text, sizeof p[1].text, "%3d%% ", (int)(100 * made / s->steps));
    }
    snprintf(p[2].text, sizeof p[2].text, "step %" PRIu64 " ", s->step);
    snprintf(p[3].text, sizeof p[3].text, "epoch %.2f ", s->epoch);
    snprintf(p[4].text, sizeof p[4].text, "%.0f samples/s ", samples_per_s(self, now_ms));
    if (!isnan(s->loss))
        snprintf(p[5].text, sizeof p[5].text, "loss %.4f ", s->loss);
    if (!isnan(s->metric))
        snprintf(p[6].text, sizeof p[6].text, "%.20s %.4f ", s->metric_name ? s->metric_name : "", s->metric);
    if (left >= 0)
        snprintf(p[7].text, sizeof p[7].text, "ETA %d:%02d ", (int)left / 60, (int)left % 60);
    if (*self->note)
        snprintf(p[8].text, sizeof p[8].text, "%s ", self->note);
    p[8].rank = self->is_urgent ? 0 : p[8].rank;
    narrow(self, p, width(self));
    size_t n = 0;
    self->line[0] = '\0';
    for (size_t i = 0; i < N_PARTS; i++)
        n += (size_t)snprintf(self->line + n, LINE - n, "%s", p[i].text);
    if (n)
        self->line[n - 1] = '\0';
    put(self->fd, "\r\033[K", 4);
    put(self->fd, self->line, strlen(self->line));
}

static void say(const psd_progress_t *self, uint64_t now_ms)
{
    const psd_progress_state_t *s = &self->state;
    char metric[64] = "", left[64] = "";
    if (!isnan(s->metric))
        snprintf(metric, sizeof metric, " val_%.20s=%.4f", s->metric_name ? s->metric_name : "metric", s->metric);
    if (time_left(self, now_ms) >= 0)
        snprintf(left, sizeof left, " eta_s=%.0f steps=%" PRIu64, time_left(self, now_ms), s->steps);
    psd_log_info("train.progress", "step=%" PRIu64 " epoch=%.3f samples=%" PRIu64 " samples_per_s=%.0f loss=%.6g%s%s", s->step,
                 s->epoch, s->samples, samples_per_s(self, now_ms), s->loss, metric, left);
}

static void show(psd_progress_t *self, uint64_t now_ms)
{
    self->shown_ms = now_ms;
    if (self->show == LOG)
        say(self, now_ms);
    if (self->show != BAR)
        return;
    pthread_mutex_lock(&self->lock);
    draw(self, now_ms);
    pthread_mutex_unlock(&self->lock);
}

void psd_progress_update(psd_progress_t *self, uint64_t now_ms, const psd_progress_state_t *state)
{
    const bool goes_back = self->begun && (state->step < self->state.step || state->samples < self->state.samples);
    self->state = *state;
    if (!self->begun || goes_back) { /* rates count from here */
        self->shown_ms = self->begun ? self->shown_ms : now_ms;
        self->begun = true;
        self->begun_ms = now_ms;
        self->first_samples = state->samples;
        self->first_step = state->step;
    }
    if (now_ms - self->shown_ms >= self->interval_ms)
        show(self, now_ms);
}

void psd_progress_note(psd_progress_t *self, uint64_t now_ms, const char *note, bool is_urgent)
{
    if (!strcmp(note, self->note) && is_urgent == self->is_urgent)
        return;
    snprintf(self->note, sizeof self->note, "%s", note);
    self->is_urgent = is_urgent;
    if (self->begun && self->show == BAR)
        show(self, now_ms);
}

void psd_progress_end(psd_progress_t *self, uint64_t now_ms)
{
    if (!self->begun)
        return;
    show(self, now_ms);
    pthread_mutex_lock(&self->lock);
    if (*self->line)
        put(self->fd, "\n", 1);
    *self->line = '\0';
    pthread_mutex_unlock(&self->lock);
}

void psd_progress_sink(void *progress, const char *line, size_t n_bytes)
{
    psd_progress_t *self = progress;
    pthread_mutex_lock(&self->lock);
    if (*self->line)
        put(self->fd, "\r\033[K", 4);
    put(self->fd, line, n_bytes);
    if (*self->line)
        put(self->fd, self->line, strlen(self->line));
    pthread_mutex_unlock(&self->lock);
}
