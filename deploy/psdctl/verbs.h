/* verbs.h - the table of verbs (all.h), and the look-up of a command line's verb. */
#pragma once

#include "deploy/psdctl/verb.h"

/* Row by row, in the order of documentation; NULL after the last. */
extern const psd_verb_t *const psd_verbs[];

/* The verb named by argv[1], or by argv[1] and argv[2]; `*n` is the number of these words. NULL, with the error and the verb that
 * was probably meant in `err`, when there is none. */
const psd_verb_t *psd_verbs_find(int argc, char *const *argv, int *n, psd_err_t *err);
