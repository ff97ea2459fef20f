/* groups_text.c - the grammar of parameter groups, declared in groups.h:
 *   groups := group { ";" group }     group := pattern "(" key "=" value { "," key "=" value } ")" */
#include "common/optim/groups.h"

#include <stdio.h>
#include <string.h>

#include "common/base/scanner.h"
#include "common/config/number.h"

enum { VALUE_TEXT = PSD_RULE_TEXT, CHANGES_TEXT = 1024 };

/* ---- reading ---- */

/* What a group says, before it is made of the job's rule. */
typedef struct said {
    char optimizer[VALUE_TEXT]; /* "": the job's */
    char changes[CHANGES_TEXT]; /* of the rule's values: "weight_decay=0, beta1=0.8" */
    double value[4];            /* of the words below */
    bool has[4];
} said_t;

enum { LR_MULT, CLIP, FREEZE, LOOKAHEAD, N_OWN };
static const char *const own[N_OWN] = { [LR_MULT] = "lr_mult", [CLIP] = "clip", [FREEZE] = "freeze", [LOOKAHEAD] = "lookahead" };

static int read_pattern(psd_scanner_t *p, char match[PSD_GROUP_PATTERN])
{
    psd_scanner_skip_spaces(p);
    const size_t n = strcspn(p->at, "(); ,=\"'");
    if (!n)
        return psd_scanner_expected(p, "a pattern of tensors' names");
    if (n >= PSD_GROUP_PATTERN)
        return psd_scanner_fail(p, p->at, "a pattern has at most %d characters", PSD_GROUP_PATTERN - 1);
    memcpy(match, p->at, n);
    match[n] = '\0';
    p->at += n;
    return PSD_OK;
}

/* Take the text up to the comma or bracket that ends an argument, brackets inside it being its own. */
static int read_text(psd_scanner_t *p, char text[VALUE_TEXT])
{
    size_t n = 0;
    int depth = 0;
    psd_scanner_skip_spaces(p);
    for (; p->at[n] && (depth || !strchr(",);", p->at[n])); n++)
        depth += (p->at[n] == '(') - (p->at[n] == ')');
    while (n && p->at[n - 1] == ' ')
        n--;
    if (!n)
        return psd_scanner_expected(p, "a value");
    if (n >= VALUE_TEXT)
        return psd_scanner_fail(p, p->at, "a value has at most %d characters", VALUE_TEXT - 1);
    memcpy(text, p->at, n);
    text[n] = '\0';
    p->at += n;
    return PSD_OK;
}

static int read_own(const psd_scanner_t *p, const char *at, int i, const char *text, said_t *said)
{
    double value;
    const bool truth = !strcmp(text, "true") || !strcmp(text, "false");
    if (said->has[i])
        return psd_scanner_fail(p, at, "argument '%s' is given twice", own[i]);
    if (i != LR_MULT && truth)
        value = text[0] == 't';
    else if (psd_number_read(text, &value) != strlen(text))
        return psd_scanner_fail(p, at, "%s is '%.40s'; it takes %s", own[i], text, i == LR_MULT ? "a number" : "0 or 1");
    if (i == LR_MULT ? !(value >= 0 && value <= 1e9) : value != 0 && value != 1)
        return psd_scanner_fail(p, at, "%s=%.40s is out of range: it must be %s", own[i], text,
                                i == LR_MULT ? "at least 0 and at most 1e9" : "0 or 1");
    said->value[i] = value;
    said->has[i] = true;
    return PSD_OK;
}

static int read_argument(psd_scanner_t *p, said_t *said)
{
    char key[PSD_SCANNER_WORD], text[VALUE_TEXT];
    int rc = psd_scanner_word(p, key, "an argument");
    if (rc)
        return rc;
    const char *at = p->at - strlen(key);
    if (!psd_scanner_take(p, '='))
        return psd_scanner_expected(p, "'='");
    if ((rc = read_text(p, text)))
        return rc;
    for (int i = 0; i < N_OWN; i++)
        if (!strcmp(key, own[i]))
            return read_own(p, at, i, text, said);
    if (!strcmp(key, "optimizer")) {
        if (*said->optimizer)
            return psd_scanner_fail(p, at, "argument 'optimizer' is given twice");
        memcpy(said->optimizer, text, strlen(text) + 1);
        return PSD_OK;
    }
    const size_t used = strlen(said->changes);
    const int n = snprintf(said->changes + used, sizeof said->changes - used, "%s%s=%s", used ? ", " : "", key, text);
    if (n < 0 || (size_t)n >= sizeof said->changes - used)
        return psd_scanner_fail(p, at, "a group has too many values");
    return PSD_OK;
}

/* Workers vote by the job's rule; only what the servers do with the count may differ. */
static int check_votes(const psd_rule_t *its, const psd_rule_t *rule, psd_err_t *why)
{
    bool same = its->opt == rule->opt && its->lookahead == rule->lookahead;
    for (int i = 0; same && its->opt->hyper[i].name; i++)
        same = its->hyper[i] == rule->hyper[i] || !strcmp(its->opt->hyper[i].name, "lr") ||
               !strcmp(its->opt->hyper[i].name, "weight_decay");
    if (same || (!psd_rule_votes(its) && !psd_rule_votes(rule)))
        return PSD_OK;
    return psd_err_set(why, PSD_ECONFIG,
                       "with %s workers vote, by one rule for all tensors; a group may change lr, weight_decay, lr_mult and freeze",
                       psd_rule_votes(rule) ? rule->opt->name : its->opt->name);
}

/* Make the group of what it says; with `rule` NULL, of some job's rule, only as far as it does not depend on that. */
static int make_group(psd_group_t *group, const psd_rule_t *rule, const said_t *said, psd_err_t *why)
{
    if (rule)
        group->rule = *rule;
    group->lr_mult = said->has[LR_MULT] ? said->value[LR_MULT] : 1;
    group->clips = !said->has[CLIP] || said->value[CLIP] > 0;
    group->freezes = said->has[FREEZE] && said->value[FREEZE] > 0;
    if (group->freezes && (*said->optimizer || *said->changes || said->has[LR_MULT] || said->has[CLIP] || said->has[LOOKAHEAD]))
        return psd_err_set(why, PSD_ECONFIG, "frozen tensors are not trained, so freeze=1 must be the only argument");
    if (group->freezes)
        return psd_rule_parse(&group->rule, "sgd(lr=0)", why);
    int rc = *said->optimizer ? psd_rule_parse(&group->rule, said->optimizer, why) : PSD_OK;
    if (rc || !rule)
        return rc;
    if (said->has[LOOKAHEAD])
        rc = psd_rule_wrap(&group->rule, said->value[LOOKAHEAD] > 0, rule, why);
    rc = rc || !*said->changes ? rc : psd_rule_change(&group->rule, said->changes, why);
    return rc ? rc : check_votes(&group->rule, rule, why);
}

/* What a rule finds over the model is one for all its tensors, and so must be what it is found by. */
static int check_model_sums(const psd_groups_t *self, psd_err_t *why)
{
    const psd_rule_t *first = NULL;
    for (uint32_t g = 0; g < self->n; g++) {
        const psd_rule_t *rule = &self->at[g].rule;
        if (!psd_rule_n_sums(rule) || psd_rule_sums_over(rule) != PSD_SCOPE_MODEL)
            continue;
        first = first ? first : rule;
        bool same = rule->opt == first->opt && self->at[g].lr_mult == 1;
        for (int i = 0; same && rule->opt->hyper[i].name; i++)
            same = rule->hyper[i] == first->hyper[i] || !strcmp(rule->opt->hyper[i].name, "weight_decay");
        if (!same)
            return psd_err_set(why, PSD_ECONFIG,
                               "%s has one estimate for all its tensors; its groups may differ only in weight_decay",
                               rule->opt->name);
    }
    return PSD_OK;
}

/* The groups of tensors that a group's rule does not take. */
static int add_others(psd_groups_t *self, psd_err_t *why)
{
    int rc = PSD_OK;
    for (uint32_t g = 0; !rc && g < self->n_said; g++) {
        if (!self->at[g].rule.opt->others)
            continue;
        if (self->n == PSD_MAX_GROUPS)
            return psd_err_set(why, PSD_ECONFIG,
                               "%s splits its group into matrices and other tensors; that makes more than %d groups",
                               self->at[g].rule.opt->name, PSD_MAX_GROUPS);
        psd_group_t *others = &self->at[self->n];
        *others = self->at[g];
        rc = psd_rule_parse(&others->rule, self->at[g].rule.opt->others, why);
        rc = rc ? rc : psd_rule_wrap(&others->rule, self->at[g].rule.lookahead, &self->at[g].rule, why);
        self->at[g].others = (uint8_t)self->n++;
    }
    return rc;
}

static int read_group(psd_scanner_t *p, psd_groups_t *out, const psd_rule_t *rule)
{
    psd_group_t *group = &out->at[out->n];
    said_t said = { .optimizer = "" };
    psd_err_t why = { 0 };
    int rc = read_pattern(p, group->match);
    if (rc)
        return rc;
    const char *at = p->at - strlen(group->match);
    for (uint32_t i = 0; i < out->n; i++)
        if (!strcmp(out->at[i].match, group->match))
            return psd_scanner_fail(p, at, "pattern '%s' occurs twice; merge the two groups", group->match);
    if (!psd_scanner_take(p, '('))
        return psd_scanner_expected(p, "'(' and what the group changes");
    do
        rc = read_argument(p, &said);
    while (!rc && psd_scanner_take(p, ','));
    if (rc)
        return rc;
    if (!psd_scanner_take(p, ')'))
        return psd_scanner_expected(p, "',' or ')'");
    if (make_group(group, rule, &said, &why))
        return psd_scanner_fail(p, at, "group %s: %s", group->match, why.text);
    out->n++;
    return PSD_OK;
}

static int read_groups(psd_scanner_t *p, psd_groups_t *out, const psd_rule_t *rule)
{
    int rc;
    psd_scanner_skip_spaces(p);
    while (*p->at) {
        if (out->n == PSD_MAX_GROUPS - 1)
            return psd_scanner_fail(p, p->at, "a job has at most %d groups", PSD_MAX_GROUPS - 1);
        if ((rc = read_group(p, out, rule)))
            return rc;
        psd_scanner_skip_spaces(p);
        if (*p->at && !psd_scanner_take(p, ';'))
            return psd_scanner_expected(p, "';' between two groups");
        psd_scanner_skip_spaces(p);
    }
    return PSD_OK;
}

int psd_groups_check(const char *groups, psd_err_t *err)
{
    psd_scanner_t p = { .what = "groups", .text = groups, .at = groups, .err = err };
    psd_groups_t read = { .n = 0 };
    return read_groups(&p, &read, NULL);
}

int psd_groups_parse(psd_groups_t *out, const char *rule_text, const char *groups, psd_err_t *err)
{
    psd_scanner_t p = { .what = "groups", .text = groups, .at = groups, .err = err };
    psd_groups_t read = { .n = 0 };
    psd_rule_t rule;
    char text[PSD_GROUPS_TEXT];
    int rc = psd_rule_parse(&rule, rule_text, err);
    rc = rc ? rc : read_groups(&p, &read, &rule);
    if (rc)
        return rc;
    read.at[read.n++] = psd_groups_alone(&rule).at[0];
    read.n_said = read.n;
    psd_err_t why = { 0 };
    if (add_others(&read, &why) || check_model_sums(&read, &why))
        return psd_scanner_fail(&p, groups, "%s", why.text);
    if (!psd_groups_print(&read, text))
        return psd_scanner_fail(&p, groups, "the groups take more than %d characters; shorten them", PSD_GROUPS_TEXT - 1);
    *out = read;
    return PSD_OK;
}

/* ---- printing ---- */

static bool is_same_rule(const psd_rule_t *a, const psd_rule_t *b)
{
    char first[PSD_RULE_TEXT], second[PSD_RULE_TEXT];
    return !strcmp(psd_rule_print(a, first), psd_rule_print(b, second));
}

/* The group as it could be written; whether it fits. */
static bool print_group(const psd_groups_t *self, uint32_t g, char *text, size_t room, size_t *used)
{
    const psd_group_t *group = &self->at[g];
    char rule[PSD_RULE_TEXT + 16] = "", brief[PSD_RULE_TEXT], mult[PSD_NUMBER_TEXT + 16] = "", number[PSD_NUMBER_TEXT];
    if (!group->freezes && !is_same_rule(&group->rule, &psd_groups_rest(self)->rule))
        snprintf(rule, sizeof rule, "optimizer=%s", psd_rule_print_brief(&group->rule, brief));
    if (!group->freezes && (group->lr_mult != 1 || (!*rule && group->clips)))
        snprintf(mult, sizeof mult, "%slr_mult=%s", *rule ? ", " : "", psd_number_print(group->lr_mult, number));
    const int n = snprintf(text + *used, room - *used, "%s%s(%s%s%s%s)", *used ? "; " : "", group->match, rule, mult,
                           group->clips || group->freezes ? ""
                           : *rule || *mult               ? ", clip=0"
                                                          : "clip=0",
                           group->freezes ? "freeze=1" : "");
    if (n < 0 || (size_t)n >= room - *used)
        return false;
    *used += (size_t)n;
    return true;
}

char *psd_groups_print(const psd_groups_t *self, char text[PSD_GROUPS_TEXT])
{
    size_t used = 0;
    *text = '\0';
    for (uint32_t g = 0; g + 1 < self->n_said; g++)
        if (!print_group(self, g, text, PSD_GROUPS_TEXT, &used))
            return NULL;
    return text;
}
