/* replay.h - `psdctl replay`: step an optimizer along the gradients of a golden file and print where the
 * weights go. */
#pragma once

#include "deploy/psdctl/trajectory.h"

/* Step `rule` through the case as psd_trajectory_run() does, but by the servers of `job` that `join` leads
 * to, as their only worker: their optimizer must be `rule`, and their weights not yet trained. Refuses cases
 * with several workers or with learning rates of their own (PSD_EUSAGE). */
int psd_replay_by_server(const psd_golden_case_t *c, const psd_rule_t *rule, const char *join,
                         const char *job, psd_trajectory_each_t *each, void *arg, psd_err_t *err);

/* The verb: replay [--optimizer RULE] [--case ID] [--server tcp://HOST:PORT] [--job NAME] FILE. Prints w
 * (and, with Lookahead, x) records; where the file has several cases and none is picked, each between its
 * header and "end". Returns the exit code. */
int psd_ctl_replay(int argc, char **argv);
