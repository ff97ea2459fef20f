/* doctor.h - the checks of `psdctl doctor`. None prints a secret. */
#pragma once

#include "common/config/options.h"
#include "deploy/psdctl/doctor/findings.h"

/* A check: examines one subject, and notes at least one finding. `has_job`: the user has given options; otherwise they are the
 * defaults. */
typedef void psd_check_fn(psd_findings_t *findings, const psd_options_t *options, bool has_job);

/* This program and this machine. */
psd_check_fn psd_check_program, psd_check_processor, psd_check_libraries, psd_check_memory, psd_check_limits, psd_check_clock;
/* Messages through the loopback, as servers and workers exchange them. */
psd_check_fn psd_check_loopback;
/* How fast the job's steps would be here, stage by stage, and which codec would make them shorter. */
psd_check_fn psd_check_codec;

/* Bytes per second of messages through the loopback, in chunks of 1 MiB; 0: none came back. */
double psd_loopback_speed(void);

/* The files and addresses in the job's options: keys, directories, addresses, data. */
psd_check_fn psd_check_keys, psd_check_outputs, psd_check_disk, psd_check_ports, psd_check_join, psd_check_data;
