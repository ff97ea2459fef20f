/* verbs.h - the table of verbs (all.h), and which of them a command line names. */
#pragma once

#include "deploy/psdctl/verb.h"

/* Row by row, in the order of documentation; NULL after the last. */
extern const psd_verb_t *const psd_verbs[];

/* The verb that argv[1], or argv[1] and argv[2], name; `*n` is how many words that were. NULL, with what is wrong and
 * what was probably meant in `err`, when there is none. */
const psd_verb_t *psd_verbs_find(int argc, char *const *argv, int *n, psd_err_t *err);
