/* jobfile.h - the strict subset of YAML that a job file is written in, read into dotted keys.
 *
 *     data: {train: glyphs, batch: 64}        data.train = "glyphs", data.batch = "64"
 *     model:
 *       layers: [784, 128, 10]                model.layers = "784,128,10"
 *     schedule.unit: epoch                    schedule.unit = "epoch"
 *
 * It refuses, because each has surprised users: anchors, aliases, tags, merge keys, several documents, directives, tabs, duplicate
 * keys, keys without a value, nesting deeper than 8, files over 1 MiB. The caller checks the values. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum {
    PSD_JOBFILE_MAX_BYTES = 1 << 20,
    PSD_JOBFILE_MAX_DEPTH = 8,
    PSD_JOBFILE_MAX_KEYS = 1000,
    PSD_JOBFILE_MAX_KEY = 128,  /* bytes of a dotted key, with its end */
    PSD_JOBFILE_MAX_LIST = 8192 /* bytes of a list's items, with the separators and the end */
};

typedef enum psd_key {
    PSD_KEY_UNKNOWN,
    PSD_KEY_SECTION,
    PSD_KEY_VALUE,
    PSD_KEY_TEXTS, /* a value whose list holds texts, plain or in quotes */
    PSD_KEY_GROUPS /* the same, or small sections: {match: "*.bias", weight_decay: 0} is "*.bias(weight_decay=0)" */
} psd_key_t;

typedef enum psd_form {
    PSD_FORM_PLAIN,  /* 64 */
    PSD_FORM_QUOTED, /* "64", or a block of text */
    PSD_FORM_LIST    /* [6, 4]: its items, separated by commas, or by "; " when they are texts */
} psd_form_t;

/* The receiver of keys and values. Lines and columns count from 1. */
typedef struct psd_jobfile_visitor {
    void *arg;
    psd_key_t (*key)(void *arg, const char *path); /* the kind of value that `path` takes; the value of an unknown key is skipped */
    void (*unknown)(void *arg, const char *path, size_t line, size_t column);
    void (*value)(void *arg, const char *path, const char *text, psd_form_t form, size_t line, size_t column);
    void (*complain)(void *arg, size_t line, size_t column, const char *sentence); /* reading continues after it */
} psd_jobfile_visitor_t;

/* Read `n_bytes` of a job file. PSD_ECONFIG after an error in the syntax or an unknown key, which it has reported
 * to the visitor; PSD_ENOMEM, and the visitor may have got only some of the values. */
int psd_jobfile_read(const void *text, size_t n_bytes, const psd_jobfile_visitor_t *visitor);
