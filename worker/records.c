#include "worker/records.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/array.h"
#include "worker/text.h"

void psd_records_begin(psd_records_t *self, const char *name, const char *at, const char *end, char delimiter)
{
    *self = (psd_records_t){ .name = name, .at = at, .end = end, .delimiter = delimiter, .line_at = at, .line = 1 };
}

void psd_records_rewind(psd_records_t *self, const char *at)
{
    self->at = self->line_at = at;
    self->line = 1;
}

void psd_records_clear(psd_records_t *self)
{
    free(self->field);
    self->field = NULL;
}

int psd_records_refuse(const psd_records_t *self, const psd_field_t *field, psd_err_t *err, const char *why)
{
    char shown[PSD_TEXT_QUOTE];
    return psd_err_set(err, PSD_EDATA, "%s:%zu:%zu: '%s' %s", self->name, field->line, field->column,
                       psd_text_quote(shown, field->at, field->end), why);
}

static void next_line(psd_records_t *self)
{
    self->line++;
    self->line_at = self->at;
}

static int read_quoted(psd_records_t *self, psd_field_t *out, psd_err_t *err)
{
    for (out->at = ++self->at; self->at < self->end; self->at++) {
        if (*self->at == '\n') {
            self->line++;
            self->line_at = self->at + 1;
        }
        if (*self->at != '"')
            continue;
        if (self->at + 1 < self->end && self->at[1] == '"') {
            self->at++;
            continue;
        }
        out->end = self->at++;
        if (self->at == self->end || *self->at == self->delimiter || *self->at == '\n' || *self->at == '\r')
            return PSD_OK;
        return psd_records_refuse(self, out, err, "continues after its closing quote; double the quotes inside a field");
    }
    out->end = self->end;
    return psd_records_refuse(self, out, err, "starts with a quote that is never closed");
}

static int read_field(psd_records_t *self, psd_field_t *out, psd_err_t *err)
{
    *out = (psd_field_t){ .line = self->line, .column = (size_t)(self->at - self->line_at) + 1 };
    if (self->at < self->end && *self->at == '"')
        return read_quoted(self, out, err);
    for (out->at = self->at; self->at < self->end && *self->at != self->delimiter && *self->at != '\n'; self->at++)
        if (*self->at == '"') {
            out->end = self->at;
            return psd_records_refuse(self, out, err, "is followed by a quote; put the whole field in quotes");
        }
    out->end = self->at;
    if (out->end > out->at && out->end[-1] == '\r' && (self->at == self->end || *self->at == '\n'))
        out->end--;
    return PSD_OK;
}

int psd_records_next(psd_records_t *self, psd_err_t *err)
{
    self->n_fields = 0;
    while (self->at < self->end && (*self->at == '\n' || (*self->at == '\r' && self->at + 1 < self->end && self->at[1] == '\n'))) {
        self->at += *self->at == '\r' ? 2 : 1;
        next_line(self);
    }
    if (self->at == self->end)
        return PSD_OK;
    for (;;) {
        int rc = psd_array_grow(&self->field, &self->room, self->n_fields + 1, sizeof *self->field, err);
        if (!rc)
            rc = read_field(self, &self->field[self->n_fields++], err);
        if (rc)
            return rc;
        if (self->at < self->end && *self->at == self->delimiter) {
            self->at++;
            continue;
        }
        if (self->at < self->end && *self->at == '\r')
            self->at++;
        if (self->at == self->end)
            return PSD_OK;
        if (*self->at != '\n')
            return psd_records_refuse(self, &self->field[self->n_fields - 1], err,
                                      "is followed by a carriage return inside the line");
        self->at++;
        next_line(self);
        return PSD_OK;
    }
}

psd_field_t psd_field_trimmed(psd_field_t field)
{
    while (field.at < field.end && (*field.at == ' ' || *field.at == '\t'))
        field.at++;
    while (field.at < field.end && (field.end[-1] == ' ' || field.end[-1] == '\t'))
        field.end--;
    return field;
}

bool psd_field_is(const psd_field_t *untrimmed, const char *name)
{
    const psd_field_t field = psd_field_trimmed(*untrimmed);
    const char *at = field.at, *end = name + strlen(name);
    name += strspn(name, " \t");
    while (end > name && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    for (; at < field.end && name < end; at++, name++) {
        if (*at != *name)
            return false;
        if (*at == '"' && at + 1 < field.end && at[1] == '"')
            at++;
    }
    return at == field.end && name == end;
}

const char *psd_field_copy(const psd_field_t *field, char *out)
{
    for (const char *at = field->at; at < field->end; at++) {
        *out++ = *at;
        if (*at == '"' && at + 1 < field->end && at[1] == '"')
            at++;
    }
    *out = '\0';
    return out;
}

char *psd_field_text(const psd_field_t *untrimmed)
{
    const psd_field_t field = psd_field_trimmed(*untrimmed);
    char *text = malloc((size_t)(field.end - field.at) + 1);
    if (text)
        psd_field_copy(&field, text);
    return text;
}
