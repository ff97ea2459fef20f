/* replay.h - the work of `psdctl replay`: step an optimizer along the gradients of a golden file and print where the
 * weights go. */
#pragma once

#include "deploy/psdctl/inspect/trajectory.h"

/* How many workers the case needs: those that its steps name, at least one. */
uint32_t psd_replay_workers(const psd_golden_case_t *c);

/* Step `rule` through the case as psd_trajectory_run() does, but by the servers of `job` that `join` leads to, as all
 * of their workers: their optimizer must be `rule`, their weights not yet trained, and workers.min the number that
 * psd_replay_workers() gives. Learning rates of the case's own are set step by step. */
int psd_replay_by_server(const psd_golden_case_t *c, const psd_rule_t *rule, const char *join, const char *job,
                         psd_trajectory_each_t *each, void *arg, psd_err_t *err);
