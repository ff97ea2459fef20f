/* option_page.h - the option table for users: --help, the table of docs/options.md, manual pages, a JSON Schema. */
#pragma once

#include <stdio.h>

#include "common/config/option.h"

/* A program, or a verb that takes options of the table. */
typedef struct psd_option_program {
    unsigned programs;    /* the programs whose flags it takes */
    const char *usage;    /* "psd [options] [JOB]" */
    const char *about;    /* a sentence or two */
    const char *examples; /* lines, each a command */
} psd_option_program_t;

/* The one of this name; otherwise, as of a program that was renamed, one that takes the flags of this mask. Never NULL. */
const psd_option_program_t *psd_option_program_of(const char *name, unsigned programs);

/* The program that takes a row's flag, for messages: the first of them, such as "psd-worker". */
const char *psd_option_program(const psd_option_t *row);

/* Write the --help of program `name`, with the flags of `programs`, to stdout; with `word`, only options that contain it. */
void psd_option_help(const char *name, unsigned programs, const char *word);

/* The text that a program prints without arguments: a usage line, examples, and where to find more. */
void psd_option_brief(FILE *out, const char *name, unsigned programs);

/* The table of docs/options.md. */
void psd_option_markdown(FILE *out);

/* Write text into a manual page (man(7)), escaped so that nothing in it is a command. */
void psd_man_text(FILE *out, const char *text);

/* The options as entries of a manual page: the flags of `programs`, or for 0 all keys of a job file. */
void psd_option_man(FILE *out, unsigned programs);

/* A JSON Schema (draft 7) of the job file, for editors; the caller frees it. NULL when memory runs out. */
char *psd_option_schema(void);
