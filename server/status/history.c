#include "server/status/history.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "common/system/json.h"

void psd_history_add(psd_history_t *self, const psd_history_point_t *point)
{
    if (self->offered++ % (self->every ? self->every : 1))
        return;
    if (self->n == PSD_HISTORY_POINTS) { /* keep every other point; the new one would be the next to keep */
        self->n /= 2;
        for (size_t i = 0; i < self->n; i++)
            self->point[i] = self->point[2 * i];
        self->every = self->every ? 2 * self->every : 2;
    }
    self->point[self->n++] = *point;
}

/* The oldest line of the id with the most lines. */
static size_t least_needed(const psd_history_t *self)
{
    size_t most = 0, victim = 0;
    for (size_t i = 0; i < self->n_kept; i++) {
        size_t n = 0;
        for (size_t k = i; k < self->n_kept; k++) /* at the first line of an id, count all its lines */
            n += strcmp(self->line[i].id, self->line[k].id) == 0;
        if (n > most) {
            most = n;
            victim = i;
        }
    }
    return victim;
}

void psd_history_note(psd_history_t *self, double unix_s, const char *level, const char *id, const char *text)
{
    if (self->n_kept == PSD_HISTORY_LINES) {
        const size_t i = least_needed(self);
        memmove(&self->line[i], &self->line[i + 1], (--self->n_kept - i) * sizeof *self->line);
    }
    psd_history_line_t *line = &self->line[self->n_kept++];
    self->n_lines++;
    line->unix_s = unix_s;
    snprintf(line->level, sizeof line->level, "%s", level);
    snprintf(line->id, sizeof line->id, "%s", id);
    snprintf(line->text, sizeof line->text, "%s", text);
}

/* JSON has no NaN and no Inf. */
static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static json_t *rows_json(const psd_history_t *self)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < self->n; i++) {
        const psd_history_point_t *p = &self->point[i];
        json_array_append_new(rows, json_pack("[f, I, I, I, I, o, o, o, o]", p->unix_s, (json_int_t)p->step, (json_int_t)p->samples,
                                              (json_int_t)p->received_bytes, (json_int_t)p->sent_bytes, number(p->loss),
                                              number(p->val_loss), number(p->lr), number(p->report)));
    }
    return rows;
}

/* Text that comes from a peer need not be UTF-8, and a cut may lie within a character. */
static json_t *text_json(const char *text)
{
    char plain[PSD_HISTORY_TEXT];
    json_t *string = json_string(text);
    if (string)
        return string;
    size_t n = 0;
    for (; text[n] && n + 1 < sizeof plain; n++)
        plain[n] = (unsigned char)text[n] < 0x80 ? text[n] : '?';
    plain[n] = '\0';
    return json_string(plain);
}

static json_t *events_json(const psd_history_t *self)
{
    json_t *events = json_array();
    for (size_t i = 0; i < self->n_kept; i++) {
        const psd_history_line_t *line = &self->line[i];
        json_array_append_new(events, json_pack("{s:f, s:s, s:s, s:o}", "ts", line->unix_s, "level", line->level, "id", line->id,
                                                "text", text_json(line->text)));
    }
    return events;
}

char *psd_history_json(const psd_history_t *self)
{
    json_t *all = json_pack("{s:s, s:[s, s, s, s, s, s, s, s, s], s:o, s:o}", "schema", "psd.history/1", "columns", "ts", "step",
                            "samples", "received_bytes", "sent_bytes", "loss", "val_loss", "lr", "report", "rows", rows_json(self),
                            "events", events_json(self));
    char *text = psd_json_text(all, JSON_COMPACT | JSON_REAL_PRECISION(13));
    json_decref(all);
    return text;
}
