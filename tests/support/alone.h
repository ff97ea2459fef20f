/* alone.h - parameter groups that consist of one rule for all tensors. */
#pragma once

#include "common/optim/groups.h"

/* Valid until the next call. */
static inline const psd_groups_t *alone(const psd_rule_t *rule)
{
    static psd_groups_t groups;
    groups = psd_groups_alone(rule);
    return &groups;
}
