/* jobfile.h - the strict subset of YAML that a job file is written in, read into dotted keys.
 *
 *     data: {train: glyphs, batch: 64}        data.train = "glyphs", data.batch = "64"
 *     model:
 *       layers: [784, 128, 10]                model.layers = "784,128,10"
 *     schedule.unit: epoch                    schedule.unit = "epoch"
 *
 * Refused, because each has surprised people: anchors, aliases, tags, merge keys, several documents,
 * directives, tabs, duplicate keys, keys without a value, nesting deeper than 8, files over 1 MiB. What a
 * key's value may be is the caller's business. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum {
    PSD_JOBFILE_MAX_BYTES = 1 << 20,
    PSD_JOBFILE_MAX_DEPTH = 8,
    PSD_JOBFILE_MAX_KEYS = 1000,
    PSD_JOBFILE_MAX_KEY = 128,  /* bytes of a dotted key, with its end */
    PSD_JOBFILE_MAX_LIST = 8192 /* bytes of a list's items, with what stands between them and the end */
};

typedef enum psd_key {
    PSD_KEY_UNKNOWN,
    PSD_KEY_SECTION,
    PSD_KEY_VALUE,
    PSD_KEY_TEXTS /* a value whose list holds texts, plain or in quotes */
} psd_key_t;

typedef enum psd_form {
    PSD_FORM_PLAIN,  /* 64 */
    PSD_FORM_QUOTED, /* "64", or a block of text */
    PSD_FORM_LIST    /* [6, 4]: its items, with commas between, or with "; " when they are texts */
} psd_form_t;

/* Who listens. Lines and columns count from 1. */
typedef struct psd_jobfile_visitor {
    void *arg;
    psd_key_t (*key)(void *arg, const char *path); /* what `path` is; an unknown key's value is skipped */
    void (*unknown)(void *arg, const char *path, size_t line, size_t column);
    void (*value)(void *arg, const char *path, const char *text, psd_form_t form, size_t line, size_t column);
    void (*complain)(void *arg, size_t line, size_t column, const char *sentence); /* and reading goes on */
} psd_jobfile_visitor_t;

/* Read `n_bytes` of a job file. False when there was a complaint of its own; the visitor has heard it. */
bool psd_jobfile_read(const void *text, size_t n_bytes, const psd_jobfile_visitor_t *visitor);
