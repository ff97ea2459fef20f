/* verb.h - a verb of psdctl: one row has its name, its arguments and its function. Its command line is parsed by that row, and its
 * help, its manual page and its completion are made from it. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/config/options.h"
#include "common/config/usage.h"

enum { PSD_VERB_FLAGS = 8 };

typedef struct psd_verb psd_verb_t;

/* A command line, parsed by its verb's row with psd_usage_read (usage.h), or unparsed for a verb that is raw. */
typedef struct psd_args {
    const psd_verb_t *verb;
    const psd_verb_t *const *all;    /* the table of verbs, which ends with NULL */
    const char *const *flag;         /* in the order of the row: NULL: not given; "": given, and it takes no value */
    const psd_option_value_t *value; /* the same, read by its type */
    const char *const *word;         /* all words that are not flags; NULL after the last */
    int argc;                        /* the title, and flags of the option table */
    char **argv;
} psd_args_t;

struct psd_verb {
    const char *name;                      /* "checkpoint list" */
    const char *words;                     /* its words, "DIR [CLOCK]", with optional ones in brackets */
    const char *does;                      /* a phrase for --help */
    const char *about;                     /* more, in sentences, or "" */
    psd_option_t flag[PSD_VERB_FLAGS + 1]; /* its flags, rows like those of the option table; no key after the last */
    unsigned options;                      /* programs whose flags of the option table it takes too: mask of psd_program_t */
    bool is_raw;                           /* it parses its whole command line itself, from argv */
    const char *examples;                  /* lines, each a command */
    const char *exits;                     /* exit codes besides those of all verbs, such as "1 when it differs", or "" */
    int (*run)(const psd_args_t *args);    /* returns the exit code */
};

/* Parse the words after the verb (argv[0] is ignored) and run it; `all` is the table. Returns the exit code. A wrong command line
 * is reported on stderr: 64. */
int psd_verb_call(const psd_verb_t *verb, const psd_verb_t *const *all, int argc, char **argv);

/* Load the option table's flags and the job file among `args`, for the verb's programs, and call `then`. Returns the exit code:
 * that of `then`, or of the errors in the options, each of which is a line on stderr. */
int psd_verb_with_options(const psd_args_t *args, int (*then)(const psd_args_t *args, const psd_options_t *options));

/* Check that the file `to`, for the verb's flag `output`, is none that the verb reads: the job file, one of its data or key files,
 * or that of another flag. PSD_EUSAGE with the sentence. */
int psd_verb_check_output(const psd_args_t *args, const psd_options_t *options, size_t output, const char *to, psd_err_t *err);

/* Check that a verb may write the file `path`: no regular file has that name, unless `force`. PSD_EIO with the sentence; `other` is
 * what another name may be given to, "file" or "directory". */
int psd_verb_check_new(const char *path, bool force, const char *other, psd_err_t *err);

/* Its usage, for help and manual pages; `name`, its name after "psdctl", must live as long as that. */
enum { PSD_VERB_NAME = 64 };
psd_usage_t psd_verb_usage(const psd_verb_t *verb, char name[PSD_VERB_NAME]);

/* Print its --help. */
void psd_verb_help(FILE *out, const psd_verb_t *verb);

/* "psdctl VERB: sentence" on stderr. Returns the exit code of wrong usage. */
int psd_verb_misuse(const psd_verb_t *verb, const char *format, ...) __attribute__((format(printf, 2, 3)));
