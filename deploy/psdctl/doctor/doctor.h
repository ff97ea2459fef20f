/* doctor.h - the checks of `psdctl doctor`. None tells a secret. */
#pragma once

#include "common/config/options.h"
#include "deploy/psdctl/doctor/findings.h"

/* A check: looks at one thing, and notes at least one finding. `has_job`: the options are somebody's, and not just the
 * defaults. */
typedef void psd_check_fn(psd_findings_t *findings, const psd_options_t *options, bool has_job);

/* This program and this machine. */
psd_check_fn psd_check_program, psd_check_processor, psd_check_libraries, psd_check_memory, psd_check_limits, psd_check_clock;
/* Messages through this machine's own network, as servers and workers exchange them. */
psd_check_fn psd_check_loopback;
/* What the job's options name: files of keys, directories, addresses, data. */
psd_check_fn psd_check_keys, psd_check_outputs, psd_check_disk, psd_check_ports, psd_check_join, psd_check_data;
