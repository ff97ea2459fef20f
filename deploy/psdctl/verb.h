/* verb.h - a verb of psdctl: one row says what it is called, what it takes and what it does. Its command line is read,
 * its help, its manual page and its completion are made from that row. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/config/usage.h"

enum { PSD_VERB_FLAGS = 8 };

typedef struct psd_verb psd_verb_t;

/* A command line as its verb's row takes it: what psd_usage_read made of it (usage.h), or all of it for a verb that is raw. */
typedef struct psd_args {
    const psd_verb_t *verb;
    const psd_verb_t *const *all;    /* the table that it stands in, which ends with NULL */
    const char *const *flag;         /* in the order of the row: NULL: not given; "": given, and it takes no value */
    const psd_option_value_t *value; /* the same, read by its type */
    const char *const *word;         /* all that are no flags; NULL after the last */
    int argc;                        /* what is not the row's: the title, and flags of the option table */
    char **argv;
} psd_args_t;

struct psd_verb {
    const char *name;                      /* "checkpoint list" */
    const char *words;                     /* what follows, "DIR [CLOCK]": in brackets what may lack */
    const char *does;                      /* half a sentence */
    const char *about;                     /* more, in sentences, or "" */
    psd_option_t flag[PSD_VERB_FLAGS + 1]; /* its own, each a row as those of the option table; no key after the last */
    unsigned options;                      /* it takes the option table's flags of these programs too: mask of psd_program_t */
    bool is_raw;                           /* it reads its whole command line itself: all of it is in argv */
    const char *examples;                  /* lines, each a command */
    const char *exits;                     /* exit codes beside those that all have, such as "1 when it differs", or "" */
    int (*run)(const psd_args_t *args);    /* returns the exit code */
};

/* Read the words behind the verb of the table `all` (argv[0] is ignored) and run it. Returns the exit code. A wrong command line
 * is said on stderr: 64. */
int psd_verb_call(const psd_verb_t *verb, const psd_verb_t *const *all, int argc, char **argv);

/* What it takes, for help and manual pages; `name`, its name behind "psdctl", is kept as long as that. */
enum { PSD_VERB_NAME = 64 };
psd_usage_t psd_verb_usage(const psd_verb_t *verb, char name[PSD_VERB_NAME]);

/* Its --help. */
void psd_verb_help(FILE *out, const psd_verb_t *verb);

/* "psdctl VERB: sentence" on stderr. Returns the exit code of wrong usage. */
int psd_verb_misuse(const psd_verb_t *verb, const char *format, ...) __attribute__((format(printf, 2, 3)));
