/* flags.h - a command line, read word by word by tables of rows (option.h): flags of the program's own, and those of the
 * option table. Every program and every verb reads its words here, so that the same mistake is the same sentence everywhere.
 *
 *     --name=value, --name value     a flag and its value; the value may begin with -
 *     --name                         one without a value (SWITCH), or with an optional one (BOOL)
 *     -cvalue, -c value              a flag whose row has a letter
 *     --                             all that follow are words, even if they begin with -
 *
 * Abbreviated flags are refused: a script that relies on one would break when a flag is added. */
#pragma once

#include "common/config/option.h"

typedef struct psd_flags {
    /* Set by the caller, and unchanged while it reads. */
    const char *name;        /* of the program, for sentences: "psdctl status" */
    const psd_option_t *own; /* its own flags, the last row without a key; NULL: none */
    unsigned programs; /* programs whose flags of the option table it takes too, and with them a job file and --version; 0: none */
    int argc;
    char *const *argv;
    int next; /* the next word to read; begin with 1, after the program's name */
    bool flags_end;
    /* The last flag or word read. */
    int first;               /* its words are argv[first] up to argv[next] */
    const psd_option_t *row; /* of a flag */
    const char *value;       /* of a flag: NULL when it has none; or the word */
    char flag[80];           /* as it was written: "--lease", "-c" */
    char why[PSD_OPTION_WHY];
} psd_flags_t;

typedef enum psd_flags_kind {
    PSD_FLAGS_END,     /* there are no more words */
    PSD_FLAGS_HELP,    /* -h, --help, or --help=WORD with `value` */
    PSD_FLAGS_CONFIG,  /* -c FILE, --config=FILE */
    PSD_FLAGS_VERSION, /* -V, --version */
    PSD_FLAGS_ROW,     /* the flag of `row`; its value is not checked yet */
    PSD_FLAGS_WORD,    /* no flag */
    PSD_FLAGS_WRONG    /* `why` has error and cure; the next words may belong to it */
} psd_flags_kind_t;

/* Read the next flag, with its value, or the next word. Strings are those of argv. */
psd_flags_kind_t psd_flags_next(psd_flags_t *self);
