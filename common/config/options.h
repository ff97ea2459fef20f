/* options.h - the settings of a program, by one table (options.def).
 *
 * A value comes from the flag, then the environment, then the job file, and last from the table. An unknown or misspelt option, a
 * value out of range or of the wrong type is an error, with its place, cause and cure.
 *
 * Relative paths in a job file are relative to its folder; those in flags, in the environment, and in a job file on standard input,
 * to the working directory. The values returned here are relative to the working directory. */
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

/* A copy, owned by the caller, to change and to look at, with the same values, origins and file; it has no complaints. NULL: no
 * memory. */
psd_options_t *psd_options_copy(const psd_options_t *from);

/* Read the command line (argv[0] is the program's name as help shows it, kept for the call), the environment, and the job file that
 * the command line names (JOB, or -c FILE). All of them are read, whatever is wrong before. Returns
 *   PSD_OK;
 *   1 after -h, --help, --help=WORD or --version wrote to stdout: end with 0;
 *   PSD_EUSAGE for a wrong command line or, after a brief help on stderr, for no arguments and no variables of psd in the
 * environment; otherwise PSD_ENOINPUT for a job file that cannot be read; PSD_ECONFIG for an error in the file or the environment;
 * PSD_ENOMEM. `err` holds the sentences that fit, one per line; all of them are in psd_options_complaints. */
int psd_options_load(psd_options_t *self, int argc, char *const *argv, psd_err_t *err);

/* The same for a library, which has no command line and prints nothing: the environment, and the job file `file`; NULL: none. */
int psd_options_load_job(psd_options_t *self, const char *file, psd_err_t *err);

/* The same for only the text of a job file, which errors call `name`. PSD_OK, PSD_ECONFIG or PSD_ENOMEM. */
int psd_options_load_text(psd_options_t *self, const char *name, const void *text, size_t n_bytes, psd_err_t *err);

/* All errors, one sentence per line; "" when there are none. */
const char *psd_options_complaints(const psd_options_t *self);

/* The job file that was given, "" for none; and whether it is a pipe or standard input ("-"), which cannot be read again. */
const char *psd_options_file(const psd_options_t *self);
bool psd_options_file_is_stream(const psd_options_t *self);

/* The first option that names data which can be read only once: a pipe, or another file that is not regular; PSD_N_OPTIONS: none. */
psd_option_id_t psd_options_stream(const psd_options_t *self);

/* Change an option after loading, as if `origin` had set it. PSD_ECONFIG, with all that is wrong with the value or contradicts it;
 * the option is changed nevertheless if the value itself is valid. PSD_ENOMEM. */
int psd_options_change(psd_options_t *self, psd_option_id_t id, const char *text, const char *origin, psd_err_t *err);

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

/* Any value as text, as a user would write it, and its source: "--lease", "PSD_LEASE", "job.yaml:12:8" or "default". */
const char *psd_options_text(const psd_options_t *self, psd_option_id_t id);
const char *psd_options_origin(const psd_options_t *self, psd_option_id_t id);
