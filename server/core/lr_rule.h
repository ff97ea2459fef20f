/* lr_rule.h - how an asynchronous step scales its learning rate (sync.lr_rule): a row per rule. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct psd_lr_rule {
    const char *name;    /* as in sync.lr_rule */
    const char *summary; /* one line */
    /* On the learning rate. `members`: of the view; `staleness`: steps that the shard made between the pull and this push. */
    double (*factor)(uint32_t members, uint64_t staleness);
} psd_lr_rule_t;

/* By name; NULL when there is none. */
const psd_lr_rule_t *psd_lr_rule_find(const char *name);

/* The i-th, NULL past the end. */
const psd_lr_rule_t *psd_lr_rule_at(size_t i);
