/* trajectory.h - the weights of a golden case under an optimizer, stepped in this process. */
#pragma once

#include "common/optim/groups.h"
#include "deploy/psdctl/inspect/golden.h"

/* Called with the results of step `t`, from 1: a record 'w', the weights; if a rule keeps slow weights, also a record 'x' with
 * those; for a case of clipping, instead a record 'c', the clipped gradient. `values` are borrowed for the call. */
typedef void psd_trajectory_each_t(void *arg, char record, size_t t, const float *values);

/* Step the case's tensors by these rules, as psd_whole_step() does. PSD_ENOMEM; PSD_ECONFIG when a group has no tensor. */
int psd_trajectory_run(const psd_golden_case_t *c, const psd_groups_t *groups, psd_trajectory_each_t *each, void *arg,
                       psd_err_t *err);
