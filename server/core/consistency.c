#include "server/core/consistency.h"

#include <string.h>

static const psd_mode_t modes[] = {
    { "bsp", "synchronous: every round waits for every member, one step of the weighted mean", false },
    { "asp", "asynchronous: each worker's push is a step at once, nobody waits", true },
};

const psd_mode_t *psd_mode_at(size_t i) { return i < sizeof modes / sizeof *modes ? &modes[i] : NULL; }

const psd_mode_t *psd_mode_find(const char *name)
{
    for (size_t i = 0; psd_mode_at(i); i++)
        if (!strcmp(modes[i].name, name))
            return &modes[i];
    return NULL;
}

static double whole(uint32_t workers, uint64_t staleness)
{
    (void)workers, (void)staleness;
    return 1;
}

static double by_workers(uint32_t workers, uint64_t staleness)
{
    (void)staleness;
    return 1.0 / (workers ? workers : 1);
}

/* A gradient that is tau steps old counts 1/tau (Zhang et al. 2016, arXiv 1511.05950); a fresh one counts whole. */
static double by_staleness(uint32_t workers, uint64_t staleness)
{
    (void)workers;
    return 1.0 / (double)(staleness ? staleness : 1);
}

static const psd_lr_rule_t lr_rules[] = {
    { "none", "the learning rate as it is: W workers move the weights W times as far", whole },
    { "1/W", "divided by the number of workers, so that W pushes move them like one round", by_workers },
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
