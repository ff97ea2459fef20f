/* records.h - text as RFC 4180 writes it, record by record: fields between delimiters, a field in double quotes may hold
 * delimiters, line ends and doubled quotes. Lines may end in LF or CRLF; empty lines are passed over. Not by libcsv, which does
 * not tell where a field stands: each complaint about one names line and column. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

typedef struct psd_field {
    const char *at, *end; /* what it holds, without the outer quotes, inner ones still doubled */
    size_t line, column;  /* where it starts, from 1 */
} psd_field_t;

typedef struct psd_records {
    const char *name;     /* of the file */
    const char *at, *end; /* what is still to be read */
    char delimiter;
    const char *line_at; /* first character of the line that holds `at` */
    size_t line;         /* its number */
    psd_field_t *field;  /* of the record just read */
    size_t n_fields, room;
} psd_records_t;

/* Begin at the text [at, end) of file `name`; both are borrowed. */
void psd_records_begin(psd_records_t *self, const char *name, const char *at, const char *end, char delimiter);

/* Read the next record into `field`; n_fields is 0 at the end of the file. PSD_EDATA, PSD_ENOMEM. */
int psd_records_next(psd_records_t *self, psd_err_t *err);

/* Go back to the first record. */
void psd_records_rewind(psd_records_t *self, const char *at);

/* Free the fields. */
void psd_records_clear(psd_records_t *self);

/* PSD_EDATA: "FILE:LINE:COLUMN: 'what it holds' `why`". */
int psd_records_refuse(const psd_records_t *self, const psd_field_t *field, psd_err_t *err, const char *why);

/* The field without the blanks around what it holds. */
psd_field_t psd_field_trimmed(psd_field_t field);

/* Whether the field, trimmed and with its doubled quotes made single, is `name`, of which blanks around do not count. */
bool psd_field_is(const psd_field_t *field, const char *name);

/* Write what it holds, with doubled quotes made single and a 0 at its end, to `out`, which has room for it as it stands and the 0.
 * Returns the end. */
const char *psd_field_copy(const psd_field_t *field, char *out);

/* What it holds, trimmed, with doubled quotes made single; the caller frees it. NULL: no memory. */
char *psd_field_text(const psd_field_t *field);
