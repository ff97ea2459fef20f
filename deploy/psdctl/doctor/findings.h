/* findings.h - the findings of `psdctl doctor`, line by line for a user to paste into a report, or as one JSON object. */
#pragma once

#include <stdbool.h>

typedef enum psd_verdict { PSD_VERDICT_OK, PSD_VERDICT_WARN, PSD_VERDICT_BAD } psd_verdict_t;

typedef struct psd_findings psd_findings_t;

/* An empty list. With `as_json`, findings are kept for psd_findings_conclude, otherwise each is printed at once. NULL: no
 * memory. */
psd_findings_t *psd_findings_new(bool as_json);
void psd_findings_destroy(psd_findings_t **self_p);

/* Note a finding about `subject`: the facts, and in `cure` what to do ("" for nothing). */
void psd_finding(psd_findings_t *self, psd_verdict_t verdict, const char *subject, const char *cure, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The worst verdict so far; OK if there is none. */
psd_verdict_t psd_findings_worst(const psd_findings_t *self);

/* Print the number of findings per verdict, or the object with all of them. */
void psd_findings_conclude(const psd_findings_t *self);
