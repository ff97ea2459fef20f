/* err.h - an error: a code for the program, a sentence for the user.
 * Functions that can fail take a `psd_err_t *` last (NULL: the caller does not care) and return its code. */
#pragma once

#include <stddef.h>

/* X(name, value, text, exit code): the table of all errors. Negative, so that a count may share the return
 * value. The exit codes are those of sysexits.h: 64 usage, 65 bad data, 66 missing input, 69 peers
 * unavailable, 70 a bug, 71 system, 74 I/O, 75 stopped early (start it again), 76 protocol, 77 authority, 78
 * configuration. */
#define PSD_ERRORS(X)                                                                                                              \
    X(PSD_EINVAL, -1, "invalid argument", 65)                                                                                      \
    X(PSD_ENOMEM, -2, "out of memory", 71)                                                                                         \
    X(PSD_EIO, -3, "input or output failed", 74)                                                                                   \
    X(PSD_EPROTO, -4, "protocol violation", 76)                                                                                    \
    X(PSD_EUSAGE, -5, "wrong usage", 64)                                                                                           \
    X(PSD_EDATA, -6, "bad data", 65)                                                                                               \
    X(PSD_ENOINPUT, -7, "missing input", 66)                                                                                       \
    X(PSD_EUNAVAILABLE, -8, "peer unavailable", 69)                                                                                \
    X(PSD_ECONFIG, -9, "bad configuration", 78)                                                                                    \
    X(PSD_EREFUSED, -10, "refused by the server", 76)                                                                              \
    X(PSD_EFENCED, -11, "given up by the servers, or replaced", 75)                                                                \
    X(PSD_ETIMEOUT, -12, "deadline passed", 69)                                                                                    \
    X(PSD_EAGAIN, -13, "not now", 75)                                                                                              \
    X(PSD_ESYSTEM, -14, "operating system error", 71)                                                                              \
    X(PSD_EAUTH, -15, "not authorised", 77)                                                                                        \
    X(PSD_ESTOPPED, -16, "stopped before finishing", 75)                                                                           \
    X(PSD_EDIVERGED, -17, "job failed", 1)                                                                                         \
    X(PSD_EDRAINED, -18, "left at an operator's request", 0)

enum psd_error {
    PSD_OK = 0,
#define X(name, value, text, exit_code) name = value,
    PSD_ERRORS(X)
#undef X
};

typedef struct psd_err {
    int code;       /* PSD_OK or one of the table */
    char text[512]; /* one sentence: the error, its place, its cure; cut at the end when too long */
} psd_err_t;

/* Fill `err` (unless NULL) and return `code`, so that `return psd_err_set(...)` reads as one thought. Control
 * characters but '\n' become '?', whatever their origin. */
int psd_err_set(psd_err_t *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Put "context: " before the sentence already in `err`, keep its code, and return that code. */
int psd_err_wrap(psd_err_t *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The table's text for `code`; "unknown error" for any other number. Never NULL. */
const char *psd_err_text(int code);

/* The exit code of a program that ends with `code`: 0 for PSD_OK, 70 for a number that is not in the table. */
int psd_err_exit_code(int code);
