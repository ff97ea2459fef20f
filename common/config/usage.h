/* usage.h - the whole command line of a small program, or of a verb: one description yields its --help and reads its flags and
 * words. */
#pragma once

#include <stdio.h>

#include "common/base/err.h"
#include "common/config/option.h"

typedef struct psd_usage {
    const char *name;  /* "psdctl checkpoint list" */
    const char *words; /* the words that follow, "DIR [CLOCK]": optional ones in brackets; "[RULE...]": any number; "": none */
    const char *does;  /* a phrase for --help */
    const char *about; /* more, in sentences, or "" */
    const psd_option_t *flag; /* its rows, the last without a key */
    unsigned programs;        /* programs whose flags of the option table, with a job file, it takes and passes on; 0: none */
    const char *examples;     /* lines, each a command, or "" */
} psd_usage_t;

/* The arguments given. Strings are those of argv. */
typedef struct psd_given {
    const char **flag;         /* in the order of the rows: NULL: not given; "": given, and it takes no value */
    psd_option_value_t *value; /* the same, read by its type; the preset of a row if its flag was not given */
    const char **word;         /* the words that are not flags; NULL after the last, and in place of each omitted one */
    size_t n_words;
    int argc; /* the arguments to pass on: the name, then flags of the option table and words */
    char **argv;
    size_t n_flags;
} psd_given_t;

/* Read argv (argv[0] is ignored). A flag of TEXTS takes all words up to the next flag, unless its value follows an equals sign;
 * if it is given several times, its items add up. Of other flags the last one counts. PSD_OK; 1 after --help wrote to stdout;
 * PSD_EUSAGE with a sentence; PSD_ENOMEM. Clear `out` in any case. */
int psd_usage_read(const psd_usage_t *usage, int argc, char *const *argv, psd_given_t *out, psd_err_t *err);
void psd_usage_clear(psd_given_t *given);

/* The same for a program, which ends after help (0) and after a wrong command line (64, with a message on stderr). The result lives
 * as long as the program. */
const psd_given_t *psd_usage_read_or_exit(const psd_usage_t *usage, int argc, char *const *argv);

/* Print its --help. */
void psd_usage_help(FILE *out, const psd_usage_t *usage);

/* "psdctl export [options] DIR [CLOCK]". Returns `out`. */
const char *psd_usage_line(const psd_usage_t *usage, char *out, size_t capacity);
