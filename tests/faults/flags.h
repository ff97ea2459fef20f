/* flags.h - flags of the proxies: a table of rows, each a number or a text. */
#pragma once

#include <stdint.h>

typedef struct flag {
    const char *name;  /* "delay": --delay=N; the last row has none */
    const char *takes; /* "MS", for the help */
    const char *help;
    uint64_t *number; /* where it goes, one of both */
    const char **text;
} flag_t;

/* Read the command line; ends the program with `about`, the flags and code 64 when it is wrong, 0 for --help. */
void flags_read(const flag_t *flags, const char *about, int argc, char **argv);
