/* replay.h - the work of `psdctl replay`: run an optimizer on the gradients of a golden file and print the weights. */
#pragma once

#include "deploy/psdctl/inspect/trajectory.h"

/* The number of workers that the case needs: those in its steps, at least one. */
uint32_t psd_replay_workers(const psd_golden_case_t *c);

/* Step the case's tensors as psd_trajectory_run() does, but on the servers of `job` at `join`, acting as all of their workers. The
 * servers must have this optimizer and these groups, untrained weights, and the workers.min that psd_replay_workers() returns.
 * Learning rates from the case are set step by step. */
int psd_replay_by_server(const psd_golden_case_t *c, const psd_groups_t *groups, const char *join, const char *job,
                         psd_trajectory_each_t *each, void *arg, psd_err_t *err);
