/* optimizers.c - `psdctl optimizers`: describes the update rules. */
#include "deploy/psdctl/verb.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/optimizer.h"

/* The printed facts of a rule. A wrapper around rules is not a row of the table, but is described like one. */
typedef struct entry {
    const char *name, *summary, *formula, *paper, *advice;
    psd_rule_t rule;   /* with all defaults */
    int n_inner_slots; /* the first of the rule's slots, which belong to the inner rule */
    unsigned optional; /* slots that only other values need, as a bit mask of opt->slots */
} entry_t;

static const entry_t around[] = {
    { .name = "cautious",
      .summary = "an update without the elements that it moves against their gradient",
      .formula = "agree = 1 where the update u and g have one sign, else 0; w -= step*u*agree/max(mean(agree), caution_min)",
      .paper = "Liang et al. 2024, arXiv 2411.16085",
      .advice = "Around adam, adamw, nadam, radam, lion, or sgd with momentum: often a little faster at the same learning rate. "
                "The mean is "
                "over a whole tensor, so it costs a pass before the step." },
    { .name = "lookahead",
      .summary = "slow weights that follow any rule at every k-th update",
      .formula = "every k updates: slow += alpha*(w-slow), w = slow; with pullback=reset, m = 0; with pullback=pullback, m = "
                 "alpha*m + (1-alpha)*slow_m, slow_m = m",
      .paper = "Zhang et al. 2019, arXiv 1907.08610",
      .advice = "Around any rule that wavers or depends on its learning rate: it damps the fast weights, at the cost of one "
                "more copy of the weights. Evaluate the slow weights." },
};

/* The i-th entry, wrappers last; false past the last. */
static bool entry_at(size_t i, entry_t *out)
{
    size_t n = 0;
    while (psd_optimizer_at(n))
        n++;
    if (i >= n + sizeof around / sizeof *around)
        return false;
    const psd_optimizer_t *opt = psd_optimizer_at(i);
    *out = opt ? (entry_t){ .name = opt->name,
                            .summary = opt->summary,
                            .formula = opt->formula,
                            .paper = opt->paper,
                            .advice = opt->advice }
               : around[i - n];
    if (psd_rule_parse(&out->rule, out->name, NULL) != PSD_OK)
        abort(); /* a row whose name and defaults alone are not a rule */
    out->n_inner_slots = out->rule.lookahead ? out->rule.slow_slot : out->rule.cautious ? out->rule.n_slots : 0;
    for (int s = 0; opt && opt->slots_used && s < PSD_MAX_SLOTS && opt->slots[s].name; s++)
        out->optional |= opt->slots_used(out->rule.hyper) >> s & 1 ? 0u : 1u << s;
    return true;
}

static int bytes_per_parameter(const entry_t *e) { return (int)psd_rule_state_bytes(&e->rule) - 4 * e->n_inner_slots; }

static void print_text(const entry_t *e)
{
    char rule[PSD_RULE_TEXT];
    printf("%s: %s\n  rule      %s\n  defaults  %s\n", e->name, e->summary, e->formula, psd_rule_print(&e->rule, rule));
    if (e->rule.opt->of_matrix)
        printf("  state     %s", e->rule.opt->of_matrix);
    else
        printf("  state     %d bytes per parameter", bytes_per_parameter(e));
    for (int i = e->n_inner_slots; i < e->rule.n_slots; i++)
        printf("%s%s", i == e->n_inner_slots ? ": " : ", ", e->rule.slot[i].name);
    if (e->n_inner_slots)
        printf(", beside the inner rule's; 4 more, slow_momentum, with pullback=pullback");
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        if (e->optional >> s & 1)
            printf("; 4 more for %s", e->rule.opt->slots[s].name);
    printf("\n  use       %s\n  paper     %s\n", e->advice, e->paper);
}

/* Print the formula as a block with one equation per line. */
static void print_equations(const char *formula)
{
    int depth = 0;
    printf("```\n");
    for (const char *c = formula; *c; c++) {
        depth += (*c == '(') - (*c == ')');
        if (*c == ';' && c[1] == ' ' && depth == 0) {
            putchar('\n');
            c++;
        } else
            putchar(*c);
    }
    printf("\n```\n");
}

/* Print a section of docs/optimizers.md. */
static void print_markdown(const entry_t *e)
{
    char rule[PSD_RULE_TEXT];
    printf("### %s\n\n", e->name);
    printf("%c%s.\n\n", toupper((unsigned char)*e->summary), e->summary + 1);
    print_equations(e->formula);
    printf("\n%s\n", e->advice);
    printf("\n- with its defaults: `%s`\n- state: ", psd_rule_print(&e->rule, rule));
    if (e->rule.opt->of_matrix)
        printf("%s", e->rule.opt->of_matrix);
    else
        printf("%d bytes per parameter", bytes_per_parameter(e));
    for (int i = e->n_inner_slots; i < e->rule.n_slots; i++)
        printf("%s`%s`", i == e->n_inner_slots ? ": " : ", ", e->rule.slot[i].name);
    if (e->n_inner_slots)
        printf(", beside the inner rule's");
    if (e->rule.lookahead)
        printf("; 4 more, `slow_momentum`, with `pullback=pullback`");
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        if (e->optional >> s & 1)
            printf("; 4 more for `%s`", e->rule.opt->slots[s].name);
    printf("\n- source: %s\n\n![%s on MNIST](pictures/%s.svg)\n\n", e->paper, e->name, e->name);
}

/* Print the table before the sections. */
static void print_overview(void)
{
    entry_t e;
    printf("| rule | state, bytes per parameter | |\n|---|---|---|\n");
    for (size_t i = 0; entry_at(i, &e); i++)
        printf("| [%s](#%s) | %d%s | %s |\n", e.name, e.name, bytes_per_parameter(&e),
               e.n_inner_slots         ? ", beside the inner rule's"
               : e.rule.opt->of_matrix ? ", fewer of a matrix"
                                       : "",
               e.summary);
    putchar('\n');
}

static json_t *hyper_json(const psd_rule_t *rule)
{
    json_t *defaults = json_object();
    for (int i = 0; rule->opt->hyper[i].name; i++)
        json_object_set_new(defaults, rule->opt->hyper[i].name, json_real(rule->hyper[i]));
    return defaults;
}

static json_t *entry_json(const entry_t *e)
{
    char text[PSD_RULE_TEXT];
    json_t *slots = json_array(), *optional = json_array();
    for (int i = e->n_inner_slots; i < e->rule.n_slots; i++)
        json_array_append_new(slots, json_string(e->rule.slot[i].name));
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        if (e->optional >> s & 1)
            json_array_append_new(optional, json_string(e->rule.opt->slots[s].name));
    json_t *defaults = e->rule.cautious ? json_pack("{s:f}", "caution_min", e->rule.caution_min)
                       : e->rule.lookahead
                           ? json_pack("{s:i, s:f, s:s}", "k", (int)e->rule.k, "alpha", e->rule.alpha, "pullback", "none")
                           : hyper_json(&e->rule);
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:i, s:o, s:o, s:s, s:s}", "name", e->name, "summary", e->summary, "formula",
                     e->formula, "rule", psd_rule_print(&e->rule, text), "defaults", defaults, "state_bytes_per_parameter",
                     bytes_per_parameter(e), "state", slots, "optional_state", optional, "use", e->advice, "paper", e->paper);
}

/* Print the rules, or the one called `name`. False when there is none. */
static bool print_entries(const char *name, bool as_json, bool as_markdown)
{
    entry_t e;
    size_t found = 0;
    json_t *all = as_json ? json_array() : NULL;
    if (as_markdown && !name)
        print_overview();
    for (size_t i = 0; entry_at(i, &e); i++) {
        if (name && strcmp(name, e.name) != 0)
            continue;
        if (as_json)
            json_array_append_new(all, entry_json(&e));
        else if (as_markdown)
            print_markdown(&e);
        else
            print_text(&e);
        found++;
    }
    if (as_json && found) {
        json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
        putchar('\n');
    }
    json_decref(all);
    return found > 0;
}

static int run(const psd_args_t *args)
{
    psd_rule_t rule;
    psd_err_t err;
    if (print_entries(args->word[0], args->flag[0], args->flag[1]))
        return 0;
    psd_rule_parse(&rule, args->word[0], &err);
    return psd_verb_misuse(args->verb, "%s", err.text);
}

const psd_verb_t psd_verb_optimizers = {
    .name = "optimizers",
    .words = "[NAME]",
    .does = "the update rules: mathematics, defaults, memory, when to use them",
    .about = "",
    .flag = { { .key = "json", .type = PSD_OPTION_SWITCH, .help = "as JSON" },
              { .key = "markdown", .type = PSD_OPTION_SWITCH, .help = "print them as sections of a page" } },
    .examples = "psdctl optimizers\npsdctl optimizers radam --json\n",
    .exits = "",
    .run = run,
};
