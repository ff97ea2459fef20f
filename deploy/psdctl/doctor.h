/* doctor.h - what `psdctl doctor` finds, line by line, for a person to paste into a report. No line holds a secret. */
#pragma once

#include "common/options.h"

typedef enum psd_verdict { PSD_VERDICT_OK, PSD_VERDICT_WARN, PSD_VERDICT_BAD } psd_verdict_t;

typedef struct psd_findings psd_findings_t;

/* Note one finding about `subject`: what is, with `cure` what to do about it ("" when nothing is). */
void psd_finding(psd_findings_t *self, psd_verdict_t verdict, const char *subject, const char *cure, const char *format,
                 ...) __attribute__((format(printf, 5, 6)));

/* A check: looks at one thing, and notes at least one finding. `has_job`: the options are somebody's, and not just the
 * defaults. */
typedef void psd_check_fn(psd_findings_t *findings, const psd_options_t *options, bool has_job);

/* This program and this machine. */
psd_check_fn psd_check_program, psd_check_processor, psd_check_libraries, psd_check_memory, psd_check_limits,
    psd_check_clock;
/* Messages through this machine's own network, as servers and workers exchange them. */
psd_check_fn psd_check_loopback;
/* What the job's options name: files of keys, directories, addresses, data. */
psd_check_fn psd_check_keys, psd_check_outputs, psd_check_disk, psd_check_ports, psd_check_join, psd_check_data;
