#include "worker/progress.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

enum { REDRAW_MS = 200, BAR_CELLS = 24, LINE = 256 };

struct psd_progress {
    enum { SILENT, BAR, LOG } show;
    int fd;
    uint64_t interval_ms;
    uint64_t begun_ms, shown_ms; /* first update, and the last one that was shown */
    bool begun;
    uint64_t first_samples, first_step; /* at the first update, for the rates of this process */
    psd_progress_state_t state;         /* the last */
    pthread_mutex_t lock;               /* of the line below and of fd */
    char line[LINE];                    /* the bar on the terminal; "" when there is none */
};

bool psd_progress_can_redraw(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && term && strcmp(term, "dumb") != 0;
}

psd_progress_t *psd_progress_new(const psd_progress_config_t *config, psd_err_t *err)
{
    const bool automatic = !strcmp(config->mode, "auto"), bar = !strcmp(config->mode, "bar"),
               log = !strcmp(config->mode, "log");
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

/* A terminal that went away is no reason to stop training. */
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

static double seconds(const psd_progress_t *self, uint64_t now_ms)
{
    return (double)(now_ms - self->begun_ms) / 1e3;
}

static double samples_per_s(const psd_progress_t *self, uint64_t now_ms)
{
    const double s = seconds(self, now_ms);
    return s > 0 ? (double)(self->state.samples - self->first_samples) / s : 0;
}

/* Seconds to the last step at the pace so far; -1 when it cannot be told. */
static double time_left(const psd_progress_t *self, uint64_t now_ms)
{
    const uint64_t made = self->state.step - self->first_step;
    if (!self->state.steps || !made || self->state.step > self->state.steps)
        return -1;
    return seconds(self, now_ms) / (double)made * (double)(self->state.steps - self->state.step);
}

static size_t add(char *line, size_t n, const char *text)
{
    return n + (size_t)snprintf(line + n, n < LINE ? LINE - n : 0, "%s", text);
}

static void draw(psd_progress_t *self, uint64_t now_ms)
{
    const psd_progress_state_t *s = &self->state;
    char part[96];
    size_t n = 0;
    if (s->steps) {
        const int full = (int)(BAR_CELLS * (s->step < s->steps ? s->step : s->steps) / s->steps);
        snprintf(part, sizeof part, "[%.*s%.*s] %3d%% ", full, "########################", BAR_CELLS - full,
                 "........................",
                 (int)(100 * (s->step < s->steps ? s->step : s->steps) / s->steps));
        n = add(self->line, n, part);
    }
    snprintf(part, sizeof part, "step %" PRIu64 " epoch %.2f %.0f samples/s", s->step, s->epoch,
             samples_per_s(self, now_ms));
    n = add(self->line, n, part);
    snprintf(part, sizeof part, " loss %.4f", s->loss);
    n = isnan(s->loss) ? n : add(self->line, n, part);
    snprintf(part, sizeof part, " %.20s %.4f", s->metric_name ? s->metric_name : "", s->metric);
    n = isnan(s->metric) ? n : add(self->line, n, part);
    const double left = time_left(self, now_ms);
    snprintf(part, sizeof part, " ETA %d:%02d", (int)left / 60, (int)left % 60);
    if (left >= 0)
        add(self->line, n, part);
    put(self->fd, "\r\033[K", 4);
    put(self->fd, self->line, strlen(self->line));
}

static void say(const psd_progress_t *self, uint64_t now_ms)
{
    const psd_progress_state_t *s = &self->state;
    char metric[64] = "", left[32] = "";
    if (!isnan(s->metric))
        snprintf(metric, sizeof metric, " val_%.20s=%.4f", s->metric_name ? s->metric_name : "metric",
                 s->metric);
    if (time_left(self, now_ms) >= 0)
        snprintf(left, sizeof left, " eta_s=%.0f", time_left(self, now_ms));
    psd_log_info("train.progress",
                 "step=%" PRIu64 " epoch=%.3f samples=%" PRIu64 " samples_per_s=%.0f loss=%.6g%s%s", s->step,
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
    self->state = *state;
    if (!self->begun) {
        self->begun = true;
        self->begun_ms = self->shown_ms = now_ms;
        self->first_samples = state->samples;
        self->first_step = state->step;
    }
    if (now_ms - self->shown_ms >= self->interval_ms)
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
