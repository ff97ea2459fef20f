/* option_page.h - the option table for readers: --help, the table of docs/options.md, manual pages, a JSON Schema. */
#pragma once

#include <stdio.h>

#include "common/config/option.h"

/* A program, or a verb that takes options of the table. */
typedef struct psd_option_program {
    unsigned programs;    /* whose flags it takes */
    const char *usage;    /* "psd [options] [JOB]" */
    const char *about;    /* a sentence or two */
    const char *examples; /* lines, each a command */
} psd_option_program_t;

/* The one that takes the flags of this mask; never NULL. */
const psd_option_program_t *psd_option_program_of(unsigned programs);

/* Whose flag a row is, for people: the first of them, such as "psd-worker". */
const char *psd_option_program(const psd_option_t *row);

/* Write --help to stdout: of the program `name` with the flags of `programs`; with `word`, only options that hold it. */
void psd_option_help(const char *name, unsigned programs, const char *word);

/* What a program says that was started without a word: a line of usage, examples, where more is. */
void psd_option_brief(FILE *out, unsigned programs);

/* The table of docs/options.md. */
void psd_option_markdown(FILE *out);

/* Text for a manual page (man(7)): nothing in it is taken for a command. */
void psd_man_text(FILE *out, const char *text);

/* The options as entries of a manual page: the flags of `programs`, or for 0 all keys of a job file. */
void psd_option_man(FILE *out, unsigned programs);

/* A JSON Schema (draft 7) of the job file, for editors; the caller frees it. NULL when memory runs out. */
char *psd_option_schema(void);
