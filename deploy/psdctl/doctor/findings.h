/* findings.h - what `psdctl doctor` finds, line by line, for a person to paste into a report, or as one JSON object. */
#pragma once

#include <stdbool.h>

typedef enum psd_verdict { PSD_VERDICT_OK, PSD_VERDICT_WARN, PSD_VERDICT_BAD } psd_verdict_t;

typedef struct psd_findings psd_findings_t;

/* None yet. With `as_json` they are kept for psd_findings_conclude, else each is printed when it is found. NULL: no memory. */
psd_findings_t *psd_findings_new(bool as_json);
void psd_findings_destroy(psd_findings_t **self_p);

/* Note one finding about `subject`: what is, with `cure` what to do about it ("" when nothing is). */
void psd_finding(psd_findings_t *self, psd_verdict_t verdict, const char *subject, const char *cure, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The worst verdict so far; OK while there is none. */
psd_verdict_t psd_findings_worst(const psd_findings_t *self);

/* Print how many there are of each verdict, or the object with all of them. */
void psd_findings_conclude(const psd_findings_t *self);
