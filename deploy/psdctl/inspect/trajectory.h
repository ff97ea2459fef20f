/* trajectory.h - where an optimizer leads the weights of a golden case, stepped in this process. */
#pragma once

#include "common/optim/optimizer.h"
#include "deploy/psdctl/inspect/golden.h"

/* Told after each step `t`, from 1: the weights, and Lookahead's slow ones (else NULL), borrowed for the
 * call. */
typedef void psd_trajectory_each_t(void *arg, size_t t, const float *w, const float *slow);

/* Step `rule` through the case; several workers' gradients are summed by psd_aggregate(). PSD_ENOMEM. */
int psd_trajectory_run(const psd_golden_case_t *c, const psd_rule_t *rule, psd_trajectory_each_t *each, void *arg, psd_err_t *err);
