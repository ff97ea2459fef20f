/* usage.h - the whole command line of a small program, or of a verb: one description yields its --help, and what was given of
 * its flags and words. */
#pragma once

#include <stdio.h>

#include "common/base/err.h"
#include "common/config/option.h"

typedef struct psd_usage {
    const char *name;  /* "psdctl checkpoint list" */
    const char *words; /* what follows, "DIR [CLOCK]": in brackets what may lack; "[RULE...]": and as many as there are; "": none */
    const char *does;  /* half a sentence */
    const char *about; /* more, in sentences, or "" */
    const psd_option_t *flag; /* its rows, the last without a key */
    unsigned programs;        /* it takes flags of the option table and a job file too, and hands them on; 0: none */
    const char *examples;     /* lines, each a command, or "" */
} psd_usage_t;

/* What was given. Strings are those of argv. */
typedef struct psd_given {
    const char **flag;         /* in the order of the rows: NULL: not given; "": given, and it takes no value */
    psd_option_value_t *value; /* the same, read by its type; of a row with a preset that was not given, the preset */
    const char **word;         /* all that are no flags; NULL behind the last, and in the place of each that lacks */
    size_t n_words;
    int argc; /* what is to be handed on: the name, then flags of the option table and words */
    char **argv;
    size_t n_flags;
} psd_given_t;

/* Read argv (argv[0] is ignored). Where a flag of TEXTS is given several times, its items add up; of others the last one counts.
 * PSD_OK; 1 after --help wrote to stdout; PSD_EUSAGE with a sentence; PSD_ENOMEM. Clear `out` in any case. */
int psd_usage_read(const psd_usage_t *usage, int argc, char *const *argv, psd_given_t *out, psd_err_t *err);
void psd_usage_clear(psd_given_t *given);

/* The same for a program that has no more to do after help (it ends with 0) or after a wrong command line, which is said on
 * stderr (64). What it returns lives as long as the program. */
const psd_given_t *psd_usage_read_or_exit(const psd_usage_t *usage, int argc, char *const *argv);

/* Its --help. */
void psd_usage_help(FILE *out, const psd_usage_t *usage);

/* "psdctl export [options] DIR [CLOCK]". Returns `out`. */
const char *psd_usage_line(const psd_usage_t *usage, char *out, size_t capacity);
