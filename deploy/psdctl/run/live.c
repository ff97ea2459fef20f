#include "deploy/psdctl/run/live.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/progress.h"

enum { MOST_WORKERS = 4096 };

struct psd_live {
    enum { SILENT, LINES, BAR } show;
    unsigned n_workers, n_gone;
    bool lost[MOST_WORKERS]; /* given up by server 0, and not yet back */
    psd_progress_t *progress;
    char metric[32]; /* name of the metric */
};

psd_live_t *psd_live_new(const psd_options_t *options, unsigned n_workers, psd_err_t *err)
{
    const char *mode = psd_options_string(options, PSD_OPT_progress);
    psd_live_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the progress");
        return NULL;
    }
    const bool terminal = psd_progress_can_redraw(STDERR_FILENO);
    self->n_workers = n_workers;
    self->show = !strcmp(mode, "none") ? SILENT : !strcmp(mode, "bar") || (!strcmp(mode, "auto") && terminal) ? BAR : LINES;
    self->progress = psd_progress_new(
        &(psd_progress_config_t){ .mode = self->show == BAR ? "bar" : "none", .fd = STDERR_FILENO, .terminal = terminal }, err);
    if (!self->progress) {
        free(self);
        return NULL;
    }
    return self;
}

void psd_live_destroy(psd_live_t **self_p)
{
    if (*self_p)
        psd_progress_destroy(&(*self_p)->progress);
    free(*self_p);
    *self_p = NULL;
}

bool psd_live_has_bar(const psd_live_t *self) { return self->show == BAR; }

void psd_live_say(psd_live_t *self, const char *line)
{
    char text[16384];
    const int n = snprintf(text, sizeof text, "%.*s\n", (int)sizeof text - 2, line);
    fflush(stderr);
    psd_progress_sink(self->progress, text, (size_t)n);
}

/* The number after "key=", which begins the line or follows a blank; NaN: there is none. */
static double field(const char *fields, const char *key)
{
    const size_t n = strlen(key);
    for (const char *at = fields; at; at = strchr(at, ' ')) {
        at += *at == ' ';
        if (!strncmp(at, key, n) && at[n] == '=')
            return strtod(at + n + 1, NULL);
    }
    return NAN;
}

static uint64_t whole(double x) { return x > 0 && x < 1e18 ? (uint64_t)x : 0; }

/* Convert the numbers and single words of a JSON line of the event `want` to logfmt; "" when it is another line. */
static void read_json(const char *line, const char *want, char *out, size_t capacity)
{
    json_t *all = json_loads(line, 0, NULL), *value;
    const char *id = json_string_value(json_object_get(all, "id")), *key;
    size_t n = 0;
    *out = '\0';
    if (id && !strcmp(id, want))
        json_object_foreach(all, key, value)
        {
            const char *word = json_string_value(value);
            if (json_is_number(value) && n < capacity)
                n += (size_t)snprintf(out + n, capacity - n, "%s%s=%.9g", n ? " " : "", key, json_number_value(value));
            else if (word && !strchr(word, ' ') && n < capacity)
                n += (size_t)snprintf(out + n, capacity - n, "%s%s=%s", n ? " " : "", key, word);
        }
    json_decref(all);
}

/* The fields of a line, logfmt or JSON, of the event `id`; NULL: it is of another. Those of JSON are in `numbers`. */
static const char *fields_of(const char *line, const char *id, char *numbers, size_t capacity)
{
    char key[40];
    const int n = snprintf(key, sizeof key, "id=%s ", id);
    const char *at = *line == '{' ? NULL : strstr(line, key);
    if (*line != '{')
        return at ? at + n : NULL;
    read_json(line, id, numbers, capacity);
    return *numbers ? numbers : NULL;
}

static void show_progress(psd_live_t *self, uint64_t now_ms, const char *fields)
{
    char key[40];
    const char *metric = strstr(fields, " val_");
    if (self->show == LINES)
        psd_live_say(self, fields);
    if (self->show != BAR)
        return;
    if (metric)
        snprintf(self->metric, sizeof self->metric, "%.*s", (int)strcspn(metric + 5, "="), metric + 5);
    snprintf(key, sizeof key, "val_%s", self->metric);
    const psd_progress_state_t state = { .step = whole(field(fields, "step")),
                                         .steps = whole(field(fields, "steps")),
                                         .epoch = field(fields, "epoch"),
                                         .samples = whole(field(fields, "samples")),
                                         .loss = field(fields, "loss"),
                                         .metric = metric ? field(fields, key) : (double)NAN,
                                         .metric_name = self->metric };
    psd_progress_update(self->progress, now_ms, &state);
}

bool psd_live_progress(psd_live_t *self, uint64_t now_ms, const char *line)
{
    char numbers[512];
    const char *fields = fields_of(line, "train.progress", numbers, sizeof numbers);
    if (!fields || isnan(field(fields, "step")))
        return false;
    show_progress(self, now_ms, fields);
    return true;
}

/* "2 of 3 workers": a process that is gone and a worker that is given up may be the same one. */
static void note(psd_live_t *self, uint64_t now_ms)
{
    char text[60];
    unsigned n_lost = 0;
    for (size_t i = 0; i < MOST_WORKERS; i++)
        n_lost += self->lost[i];
    const unsigned lack = n_lost > self->n_gone ? n_lost : self->n_gone;
    snprintf(text, sizeof text, "%u of %u workers", lack < self->n_workers ? self->n_workers - lack : 0, self->n_workers);
    psd_progress_note(self->progress, now_ms, text, lack > 0);
}

int psd_live_heard(psd_live_t *self, uint64_t now_ms, const char *line, psd_live_event_t *event)
{
    static const char *const ids[] = { [PSD_LIVE_JOINED] = "worker.joined",
                                       [PSD_LIVE_LOST] = "worker.lost",
                                       [PSD_LIVE_ASKED] = "worker.drain",
                                       [PSD_LIVE_LEFT] = "worker.left" };
    char fields[512];
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        const char *of = fields_of(line, ids[i], fields, sizeof fields);
        const double worker = of ? field(of, "worker") : (double)NAN;
        if (worker >= 0 && worker < MOST_WORKERS) {
            *event = i == PSD_LIVE_LEFT && strstr(of, " finished=true") ? PSD_LIVE_FINISHED : (psd_live_event_t)i;
            self->lost[(size_t)worker] = i == PSD_LIVE_LOST;
            note(self, now_ms);
            return (int)worker;
        }
    }
    return -1;
}

void psd_live_gone(psd_live_t *self, uint64_t now_ms, unsigned n)
{
    self->n_gone = n;
    note(self, now_ms);
}

void psd_live_end(psd_live_t *self, uint64_t now_ms) { psd_progress_end(self->progress, now_ms); }
