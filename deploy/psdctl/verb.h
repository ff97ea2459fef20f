/* verb.h - a verb of psdctl: one row says what it is called, what it takes and what it does. Its command line is read,
 * its help, its manual page and its completion are made from that row. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/config/option.h"

enum { PSD_VERB_FLAGS = 8, PSD_VERB_WORDS = 3 };

typedef struct psd_verb psd_verb_t;

/* A command line as its verb's row takes it. Strings are those of argv. */
typedef struct psd_args {
    const psd_verb_t *verb;
    const psd_verb_t *const *all;     /* the table that it stands in, which ends with NULL */
    const char *flag[PSD_VERB_FLAGS]; /* in the order of the row: NULL: not given; "": given, and it takes no value */
    const char *word[PSD_VERB_WORDS]; /* all that are no flags; NULL after the last */
    int argc;                         /* what is not the row's: the title, and flags of the option table */
    char **argv;
} psd_args_t;

struct psd_verb {
    const char *name;  /* "checkpoint list" */
    const char *words; /* what follows, "DIR [CLOCK]": in brackets what may lack */
    const char *does;  /* half a sentence */
    const char *about; /* more, in sentences, or "" */
    struct {
        const char *name;     /* "json"; NULL after the last */
        const char *argument; /* "FILE"; NULL: it takes none */
        const char *help;     /* half a sentence */
    } flag[PSD_VERB_FLAGS + 1];
    unsigned options;                   /* it takes the option table's flags of these programs too: mask of psd_program_t */
    bool is_raw;                        /* it reads its whole command line itself: all of it is in argv */
    const char *examples;               /* lines, each a command */
    const char *exits;                  /* exit codes beside those that all have, such as "1 when it differs", or "" */
    int (*run)(const psd_args_t *args); /* returns the exit code */
};

/* Read the words behind the verb of the table `all` (argv[0] is ignored) and run it. Returns the exit code. A wrong command line
 * is said on stderr: 64. */
int psd_verb_call(const psd_verb_t *verb, const psd_verb_t *const *all, int argc, char **argv);

/* Its --help. */
void psd_verb_help(FILE *out, const psd_verb_t *verb);

/* "psdctl VERB: sentence" on stderr. Returns the exit code of wrong usage. */
int psd_verb_misuse(const psd_verb_t *verb, const char *format, ...) __attribute__((format(printf, 2, 3)));
