/* say.h - psdctl's output about untrusted files, without control characters, which could steer the terminal. */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "common/base/err.h"

/* Print the text, or its first `most` bytes, replacing each control character by a question mark. */
void psd_say_text(FILE *out, const char *text, size_t most);

/* "psdctl VERB: sentence" on standard error. Returns the error's exit code. */
int psd_say_error(const char *verb, const psd_err_t *err);
