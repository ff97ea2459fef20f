/* order.h - psdctl launch's order to the agent on a host (agent.h): one line of JSON,
 *
 *     {"directory": "/home/ann/job", "make": "runs/mnist-1", "environment": {}, "words": ["psd", "--servers=2", ...],
 *      "secrets": {"--server-key": "secret ..."}}
 *
 * Secrets are in it rather than in the command line, which everyone on the host can read. */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "deploy/psdctl/run/keyring.h"

enum { PSD_ORDER_WORDS = 320 }; /* at most; the program's name is the first */

typedef struct psd_order {
    const char *directory, *make;      /* the program's working directory; a directory to make in it, "": none */
    const char *word[PSD_ORDER_WORDS]; /* the name of a program, then its arguments */
    size_t n_words;                    /* at least 1 */
    const json_t *environment;         /* an object of texts: variables for the program */
    const json_t *secrets;             /* an object of texts: for each option the contents of the file that it would name */
    json_t *all;                       /* owns all of the above */
} psd_order_t;

/* The line, with its end; the caller frees it, after a wipe. words[0] is the name of a program beside psdctl; secrets may be NULL.
 * NULL when memory runs out. */
char *psd_order_print(const char *directory, const char *make, char *const *words, const psd_keyring_t *secrets);

/* Read the `n` bytes of a line. PSD_EUSAGE when it is not an order. */
int psd_order_parse(psd_order_t *out, const char *line, size_t n, psd_err_t *err);
void psd_order_clear(psd_order_t *self);
