/* trajectory.h - where an optimizer leads the weights of a golden case, stepped in this process. */
#pragma once

#include "common/optim/optimizer.h"
#include "deploy/psdctl/inspect/golden.h"

/* Told what came out of step `t`, from 1: a record 'w', the weights; with Lookahead a record 'x' too, the slow ones; of a case of
 * clipping instead a record 'c', the clipped gradient. `values` are borrowed for the call. */
typedef void psd_trajectory_each_t(void *arg, char record, size_t t, const float *values);

/* Step `rule` through the case, as psd_whole_step() does. PSD_ENOMEM. */
int psd_trajectory_run(const psd_golden_case_t *c, const psd_rule_t *rule, psd_trajectory_each_t *each, void *arg, psd_err_t *err);
