/* options.h - what a program was told, from one table (options.def).
 *
 * A value comes from the flag, else from the environment, else from the job file, else from the table.
 * Whatever is unknown, misspelt, out of range or of the wrong type is an error that says where, why and what
 * would do.
 *
 * Paths that a job file has count from the folder of that file, as it was named; those of flags and environment, and of
 * a job file on standard input, from the working directory. The values here are such that the system finds them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/config/option.h"

typedef struct psd_options psd_options_t;

/* Every option at its default, for `program`, or a mask of several whose flags are taken. NULL when memory
 * runs out. */
psd_options_t *psd_options_new(unsigned program);
void psd_options_destroy(psd_options_t **self_p);

/* Read the command line (argv[0] is the program's name as help
 * shows it, kept for the call), the environment, and the job file that
 * the command line names (JOB, or -c FILE). Returns
 *   PSD_OK;
 *   1 after -h, --help, --help=WORD or --version wrote to stdout: end with 0;
 *   PSD_EUSAGE for a wrong command line, and, after a brief help on stderr, when there is neither a word
 * nor a variable of the environment, PSD_ENOINPUT for a job file that cannot be read, PSD_ECONFIG for
 * what is wrong in the file or the environment. `err` holds the sentences that fit, one per line; all of them
 * are in psd_options_complaints. */
int psd_options_load(psd_options_t *self, int argc, char *const *argv, psd_err_t *err);

/* The same for the text of a job file alone; `name` is what its complaints call it. PSD_OK or PSD_ECONFIG. */
int psd_options_load_text(psd_options_t *self, const char *name, const void *text, size_t n_bytes, psd_err_t *err);

/* Everything that was wrong, one sentence per line; "" when nothing was. */
const char *psd_options_complaints(const psd_options_t *self);

/* The job file that was named, "" for none; and whether it is a pipe or standard input ("-"), which nobody can read
 * again. */
const char *psd_options_file(const psd_options_t *self);
bool psd_options_file_is_stream(const psd_options_t *self);

/* Values, each read from its place. The option must be of the type; text lives until destroy. `int` is for INT, `uint`
 * for UINT64 and SIZE, `ms` for DURATION, `list`, `numbers`, `texts` for LIST, NUMBERS, TEXTS (`*n` items),
 * `string` for all the others. */
const char *psd_options_string(const psd_options_t *self, psd_option_id_t id);
int64_t psd_options_int(const psd_options_t *self, psd_option_id_t id);
uint64_t psd_options_uint(const psd_options_t *self, psd_option_id_t id);
double psd_options_double(const psd_options_t *self, psd_option_id_t id);
bool psd_options_bool(const psd_options_t *self, psd_option_id_t id);
uint64_t psd_options_ms(const psd_options_t *self, psd_option_id_t id);
const int64_t *psd_options_list(const psd_options_t *self, psd_option_id_t id, size_t *n);
const double *psd_options_numbers(const psd_options_t *self, psd_option_id_t id, size_t *n);
const char *const *psd_options_texts(const psd_options_t *self, psd_option_id_t id, size_t *n);

/* Any value as text, as one would write it, and where it came from: "--lease", "PSD_LEASE", "job.yaml:12:8"
 * or "default". */
const char *psd_options_text(const psd_options_t *self, psd_option_id_t id);
const char *psd_options_origin(const psd_options_t *self, psd_option_id_t id);
