#include "server/core/lr_rule.h"

#include <string.h>

static double none(uint32_t members, uint64_t staleness)
{
    (void)members, (void)staleness;
    return 1;
}

static double by_members(uint32_t members, uint64_t staleness)
{
    (void)staleness;
    return 1.0 / (members ? members : 1);
}

/* A gradient that is tau steps old counts 1/tau (Zhang et al. 2016, arXiv 1511.05950); a fresh one counts whole. */
static double by_staleness(uint32_t members, uint64_t staleness)
{
    (void)members;
    return 1.0 / (double)(staleness ? staleness : 1);
}

static const psd_lr_rule_t lr_rules[] = {
    { "none", "the learning rate as it is: W workers move the weights W times as far", none },
    { "1/W", "divided by the number of workers, so that W pushes move them like one round", by_members },
    { "1/tau", "divided by the push's staleness", by_staleness },
};

const psd_lr_rule_t *psd_lr_rule_at(size_t i) { return i < sizeof lr_rules / sizeof *lr_rules ? &lr_rules[i] : NULL; }

const psd_lr_rule_t *psd_lr_rule_find(const char *name)
{
    for (size_t i = 0; psd_lr_rule_at(i); i++)
        if (!strcmp(lr_rules[i].name, name))
            return &lr_rules[i];
    return NULL;
}
