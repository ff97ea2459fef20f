/* say.h - what psdctl says of files that a stranger may have written: no byte of them steers the terminal. */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "common/base/err.h"

/* Print the text, or its first `most` bytes, with a question mark for each control character. */
void psd_say_text(FILE *out, const char *text, size_t most);

/* "psdctl VERB: sentence" on standard error. Returns the error's exit code. */
int psd_say_error(const char *verb, const psd_err_t *err);
