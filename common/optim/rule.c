/* rule.c - the grammar of a rule, declared in optimizer.h:
 *   plain := name [ "(" [ argument { "," argument } ] ")" ]            argument := key "=" value
 *   masked := plain | "cautious" [ "(" [ plain | argument ] { "," argument } ")" ]
 *   rule  := masked | "lookahead" [ "(" [ masked | argument ] { "," argument } ")" ]
 * Lookahead without an inner rule is around radam, cautious around adamw. The depth is three, so nothing here recurses. */
#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/config/number.h"
#include "common/optim/optimizer.h"
#include "common/base/scanner.h"
#include "common/base/words.h"

enum { WORD_TEXT = PSD_SCANNER_WORD, SPEC_MAX = 1024 };

static const char *const pullbacks[] = {
    [PSD_PULLBACK_NONE] = "none", [PSD_PULLBACK_RESET] = "reset", [PSD_PULLBACK_PULLBACK] = "pullback"
};
enum { N_PULLBACKS = sizeof pullbacks / sizeof *pullbacks };

/* Lookahead's own arguments; the value of `pullback` is one of the words above. */
enum { K, ALPHA, PULLBACK };
static const psd_hyper_t lookahead_hyper[] = {
    [K] = { .name = "k", .def = 5, .min = 1, .max = 1e9, .help = "updates between syncs" },
    [ALPHA] = { .name = "alpha", .def = 0.5, .max = 1, .open_min = true, .help = "fraction of the way that the slow weights move" },
    [PULLBACK] = { .name = "pullback", .max = N_PULLBACKS - 1, .help = "what a sync does to first moments" },
    { .name = NULL },
};

/* That of cautious. */
static const psd_hyper_t cautious_hyper[] = {
    { .name = "caution_min", .def = 1e-3, .max = 1, .open_min = true, .help = "least share of a tensor that is taken to agree" },
    { .name = NULL },
};

/* ---- complaints ---- */

static int fail_optimizer(const psd_scanner_t *p, const char *at, const char *word)
{
    psd_nearest_t nearest = { 0 };
    char known[256] = "";
    for (size_t i = 0; psd_optimizer_at(i); i++) {
        const size_t used = strlen(known);
        psd_nearest_consider(&nearest, word, psd_optimizer_at(i)->name);
        snprintf(known + used, sizeof known - used, "%s, ", psd_optimizer_at(i)->name);
    }
    psd_nearest_consider(&nearest, word, "lookahead");
    psd_nearest_consider(&nearest, word, "cautious");
    if (*nearest.word)
        return psd_scanner_fail(p, at, "unknown optimizer '%s'; the nearest is '%s'", word, nearest.word);
    return psd_scanner_fail(p, at, "unknown optimizer '%s'; there are %sand lookahead and cautious around them", word, known);
}

static int fail_argument(const psd_scanner_t *p, const char *at, const char *word, const char *owner, const psd_hyper_t *hyper)
{
    psd_nearest_t nearest = { 0 };
    char known[256] = "";
    for (size_t i = 0; hyper[i].name; i++) {
        const size_t used = strlen(known);
        psd_nearest_consider(&nearest, word, hyper[i].name);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", hyper[i].name);
    }
    if (*nearest.word)
        return psd_scanner_fail(p, at, "unknown argument '%s' of %s; the nearest is '%s' (it takes %s)", word, owner, nearest.word,
                                known);
    return psd_scanner_fail(p, at, "unknown argument '%s' of %s; it takes %s", word, owner, known);
}

static int fail_range(const psd_scanner_t *p, const char *at, const char *owner, const psd_hyper_t *h)
{
    char min[PSD_NUMBER_TEXT], max[PSD_NUMBER_TEXT];
    const int n = (int)(p->at - at);
    return psd_scanner_fail(p, at, "%s=%.*s of %s is out of range: it must be %s %s and %s %s", h->name, n < 40 ? n : 40, at, owner,
                            h->open_min ? "above" : "at least", psd_number_print(h->min, min), h->open_max ? "below" : "at most",
                            psd_number_print(h->max, max));
}

/* ---- words and values ---- */

/* The index of the row named `word`, -1 without one. */
static int find(const psd_hyper_t *hyper, const char *word)
{
    for (int i = 0; hyper[i].name; i++)
        if (strcmp(hyper[i].name, word) == 0)
            return i;
    return -1;
}

static int read_pullback(psd_scanner_t *p, double *value)
{
    char word[WORD_TEXT];
    psd_nearest_t nearest = { 0 };
    const int rc = psd_scanner_word(p, word, "none, reset or pullback");
    if (rc)
        return rc;
    for (int i = 0; i < N_PULLBACKS; i++) {
        psd_nearest_consider(&nearest, word, pullbacks[i]);
        if (strcmp(pullbacks[i], word) == 0) {
            *value = i;
            return PSD_OK;
        }
    }
    const char *at = p->at - strlen(word);
    if (*nearest.word)
        return psd_scanner_fail(p, at, "unknown pullback '%s'; the nearest is '%s' (none, reset or pullback)", word, nearest.word);
    return psd_scanner_fail(p, at, "unknown pullback '%s'; it is none, reset or pullback", word);
}

/* Take "true" or "false" if it is next. */
static bool take_truth(psd_scanner_t *p, double *value)
{
    char word[WORD_TEXT];
    psd_scanner_t ahead = { .what = p->what, .text = p->text, .at = p->at };
    if (psd_scanner_word(&ahead, word, "") || (strcmp(word, "true") != 0 && strcmp(word, "false") != 0))
        return false;
    *value = word[0] == 't';
    p->at = ahead.at;
    return true;
}

static int read_value(psd_scanner_t *p, const char *owner, const psd_hyper_t *h, double *value)
{
    psd_scanner_skip_spaces(p);
    if (h == &lookahead_hyper[PULLBACK])
        return read_pullback(p, value);
    if (h->flag && take_truth(p, value))
        return PSD_OK;
    const char *start = p->at;
    const size_t n = psd_number_read(start, value);
    if (n == 0)
        return psd_scanner_expected(p, h->flag ? "0, 1, false or true" : "a finite decimal number");
    p->at += n;
    const double v = *value;
    if (!isfinite(v) || v < h->min || v > h->max || (h->open_min && v <= h->min) || (h->open_max && v >= h->max))
        return fail_range(p, start, owner, h);
    if ((h->flag || h == &lookahead_hyper[K]) && floor(v) != v)
        return psd_scanner_fail(p, start, "%s of %s must be %s", h->name, owner, h->flag ? "0 or 1" : "a whole number");
    *value = v + 0.0; /* -0 becomes 0, so that equal rules print alike */
    return PSD_OK;
}

/* ---- rules ---- */

/* Read one "key=value" into `values`; `seen` has a bit for each key that was already given. */
static int read_argument(psd_scanner_t *p, const char *owner, const psd_hyper_t *hyper, double *values, unsigned *seen)
{
    char key[WORD_TEXT];
    const int rc = psd_scanner_word(p, key, "an argument");
    if (rc)
        return rc;
    const char *at = p->at - strlen(key);
    const int i = find(hyper, key);
    if (i < 0 && (hyper == lookahead_hyper || hyper == cautious_hyper) && psd_optimizer_find(key))
        return psd_scanner_fail(p, at, "the inner rule '%s' must be the first argument of %s, and the only one", key, owner);
    if (i < 0)
        return fail_argument(p, at, key, owner, hyper);
    if (*seen >> i & 1)
        return psd_scanner_fail(p, at, "argument '%s' of %s is given twice", key, owner);
    *seen |= 1u << i;
    if (!psd_scanner_take(p, '='))
        return psd_scanner_expected(p, "'='");
    return read_value(p, owner, &hyper[i], &values[i]);
}

/* Read arguments up to the closing bracket; the opening one, or an argument if not `first`, is behind. */
static int read_arguments(psd_scanner_t *p, const char *owner, const psd_hyper_t *hyper, double *values, bool first)
{
    unsigned seen = 0;
    for (;; first = false) {
        if (psd_scanner_take(p, ')'))
            return PSD_OK;
        if (!first && !psd_scanner_take(p, ','))
            return psd_scanner_expected(p, "',' or ')'");
        const int rc = read_argument(p, owner, hyper, values, &seen);
        if (rc)
            return rc;
    }
}

static void set_defaults(const psd_hyper_t *hyper, double *values)
{
    for (int i = 0; hyper[i].name; i++)
        values[i] = hyper[i].def;
}

static int check_values(const psd_scanner_t *p, const char *at, const psd_rule_t *rule)
{
    psd_err_t why;
    if (rule->opt->check && rule->opt->check(rule->hyper, &why))
        return psd_scanner_fail(p, at, "%s: %s", rule->opt->name, why.text);
    if (rule->cautious && rule->opt->decay == PSD_DECAY_UNSAID)
        return rule->opt->bold
                   ? psd_scanner_fail(p, at, "cautious around %s is not supported: %s", rule->opt->name, rule->opt->bold)
                   : psd_scanner_fail(p, at,
                                      "cautious around %s is not supported; it is made for adam, adamw, nadam, radam, lion, and "
                                      "sgd with momentum",
                                      rule->opt->name);
    if (rule->cautious && !psd_rule_has_momentum(rule))
        return psd_scanner_fail(p, at, "cautious around %s without momentum masks nothing: a step is the gradient then",
                                rule->opt->name);
    return PSD_OK;
}

/* What cannot be inside a Lookahead, with its values. */
static int check_lookahead(const psd_scanner_t *p, const char *at, const psd_rule_t *rule)
{
    int moments = 0;
    if (!rule->lookahead)
        return PSD_OK;
    if (rule->opt->alone)
        return psd_scanner_fail(p, at, "lookahead around %s is not supported: %s", rule->opt->name, rule->opt->alone);
    for (int i = 0; i < PSD_MAX_SLOTS && rule->opt->slots[i].name; i++)
        moments += rule->opt->slots[i].kind == PSD_SLOT_MOMENT;
    if (moments > 1 && rule->pullback == PSD_PULLBACK_PULLBACK)
        return psd_scanner_fail(
            p, at, "pullback=pullback is not supported around %s, which has two first moments; use none or reset", rule->opt->name);
    return PSD_OK;
}

/* Read the rest of a plain rule whose name, `word` at `at`, is behind. */
static int read_plain(psd_scanner_t *p, const char *word, const char *at, psd_rule_t *rule)
{
    rule->opt = psd_optimizer_find(word);
    if (!rule->opt)
        return fail_optimizer(p, at, word);
    set_defaults(rule->opt->hyper, rule->hyper);
    if (psd_scanner_take(p, '(')) {
        const int rc = read_arguments(p, word, rule->opt->hyper, rule->hyper, true);
        if (rc)
            return rc;
    }
    return check_values(p, at, rule);
}

/* Whether a rule, and not "key=", comes next in a wrapper with these arguments. */
static bool inner_is_next(const psd_scanner_t *p, const psd_hyper_t *own)
{
    char word[WORD_TEXT];
    psd_scanner_t ahead = { .what = p->what, .text = p->text, .at = p->at };
    return psd_scanner_word(&ahead, word, "") == PSD_OK && find(own, word) < 0 && !psd_scanner_take(&ahead, '=');
}

/* Read the rest of a cautious rule whose name is behind. */
static int read_cautious(psd_scanner_t *p, psd_rule_t *rule)
{
    char word[WORD_TEXT];
    int rc = PSD_OK;
    const char *at = p->at;
    rule->cautious = true;
    set_defaults(cautious_hyper, &rule->caution_min);
    rule->opt = psd_optimizer_find("adamw");
    set_defaults(rule->opt->hyper, rule->hyper);
    if (!psd_scanner_take(p, '('))
        return PSD_OK;
    const bool inner = inner_is_next(p, cautious_hyper);
    if (inner) {
        rc = psd_scanner_word(p, word, "an optimizer");
        at = p->at - strlen(word);
        if (!rc && (strcmp(word, "lookahead") == 0 || strcmp(word, "cautious") == 0))
            return psd_scanner_fail(p, at, "%s inside cautious is not supported%s", word,
                                    *word == 'l' ? "; write lookahead(cautious(...))" : "");
        rc = rc ? rc : read_plain(p, word, at, rule);
    }
    return rc ? rc : read_arguments(p, "cautious", cautious_hyper, &rule->caution_min, !inner);
}

/* Read the rest of a rule without Lookahead whose name, `word` at `at`, is behind. */
static int read_masked(psd_scanner_t *p, const char *word, const char *at, psd_rule_t *rule)
{
    if (strcmp(word, "cautious") != 0)
        return read_plain(p, word, at, rule);
    return read_cautious(p, rule);
}

/* Read the rule inside a Lookahead. */
static int read_inner(psd_scanner_t *p, psd_rule_t *rule)
{
    char word[WORD_TEXT];
    const int rc = psd_scanner_word(p, word, "an optimizer");
    if (rc)
        return rc;
    const char *at = p->at - strlen(word);
    if (strcmp(word, "lookahead") == 0)
        return psd_scanner_fail(p, at, "lookahead inside lookahead is not supported");
    return read_masked(p, word, at, rule);
}

static void take_lookahead(psd_rule_t *rule, const double *values)
{
    rule->k = (uint32_t)values[K];
    rule->alpha = values[ALPHA];
    rule->pullback = (psd_pullback_t)values[PULLBACK];
}

/* Read the rest of a Lookahead whose name is behind. */
static int read_lookahead(psd_scanner_t *p, psd_rule_t *rule)
{
    double values[sizeof lookahead_hyper / sizeof *lookahead_hyper];
    int rc = PSD_OK;
    const char *at = p->at;
    set_defaults(lookahead_hyper, values);
    rule->lookahead = true;
    rule->opt = psd_optimizer_find("radam");
    set_defaults(rule->opt->hyper, rule->hyper);

    if (psd_scanner_take(p, '(')) {
        const bool inner = inner_is_next(p, lookahead_hyper);
        if (inner)
            rc = read_inner(p, rule);
        if (!rc)
            rc = read_arguments(p, "lookahead", lookahead_hyper, values, !inner);
    }
    if (rc)
        return rc; /* the values may be out of range */
    take_lookahead(rule, values);
    return check_lookahead(p, at, rule);
}

/* Say which arrays the rule keeps, and in which order. */
static void lay_out_slots(psd_rule_t *rule)
{
    const psd_optimizer_t *opt = rule->opt;
    const unsigned used = opt->slots_used ? opt->slots_used(rule->hyper) : ~0u;
    bool moment = false;
    rule->slow_slot = -1;
    rule->n_slots = 0;
    for (int i = 0; i < PSD_MAX_SLOTS && opt->slots[i].name; i++)
        if (used >> i & 1) {
            rule->slot[rule->n_slots++] = opt->slots[i];
            moment |= opt->slots[i].kind == PSD_SLOT_MOMENT;
        }
    if (rule->lookahead) {
        rule->slow_slot = rule->n_slots;
        rule->slot[rule->n_slots++] = (psd_rule_slot_t){ "slow_param", PSD_SLOT_PLAIN };
    }
    if (rule->lookahead && moment && rule->pullback == PSD_PULLBACK_PULLBACK)
        rule->slot[rule->n_slots++] = (psd_rule_slot_t){ "slow_momentum", PSD_SLOT_PLAIN };
    assert(rule->n_slots <= PSD_MAX_SLOTS);
}

int psd_rule_parse(psd_rule_t *rule, const char *spec, psd_err_t *err)
{
    psd_scanner_t p = { .what = "rule", .text = spec, .at = spec, .err = err };
    psd_rule_t read = { 0 };
    char word[WORD_TEXT];

    if (strnlen(spec, SPEC_MAX + 1) > SPEC_MAX)
        return psd_scanner_fail(&p, spec + SPEC_MAX, "a rule has at most %d characters", SPEC_MAX);
    int rc = psd_scanner_word(&p, word, "the name of an optimizer");
    if (rc)
        return rc;
    if (strcmp(word, "lookahead") == 0)
        rc = read_lookahead(&p, &read);
    else
        rc = read_masked(&p, word, p.at - strlen(word), &read);
    if (rc)
        return rc;
    psd_scanner_skip_spaces(&p);
    if (*p.at)
        return psd_scanner_expected(&p, "nothing more");
    lay_out_slots(&read);
    *rule = read;
    return PSD_OK;
}

/* Whose argument comes next: the optimizer's, else Lookahead's, where it wraps the rule. */
static bool is_lookaheads(const psd_scanner_t *p, const psd_rule_t *rule)
{
    char word[WORD_TEXT];
    psd_scanner_t ahead = { .what = p->what, .text = p->text, .at = p->at };
    return rule->lookahead && !psd_scanner_word(&ahead, word, "") && find(rule->opt->hyper, word) < 0 &&
           find(lookahead_hyper, word) >= 0;
}

static bool is_cautious_s(const psd_scanner_t *p, const psd_rule_t *rule)
{
    char word[WORD_TEXT];
    psd_scanner_t ahead = { .what = p->what, .text = p->text, .at = p->at };
    return rule->cautious && !psd_scanner_word(&ahead, word, "") && find(cautious_hyper, word) >= 0;
}

int psd_rule_change(psd_rule_t *rule, const char *arguments, psd_err_t *err)
{
    psd_scanner_t p = { .what = "values", .text = arguments, .at = arguments, .err = err };
    psd_rule_t changed = *rule;
    double values[] = { [K] = rule->k, [ALPHA] = rule->alpha, [PULLBACK] = rule->pullback };
    unsigned seen = 0, seen_outer = 0, seen_mask = 0;
    int rc;
    do
        rc = is_lookaheads(&p, rule)   ? read_argument(&p, "lookahead", lookahead_hyper, values, &seen_outer)
             : is_cautious_s(&p, rule) ? read_argument(&p, "cautious", cautious_hyper, &changed.caution_min, &seen_mask)
                                       : read_argument(&p, rule->opt->name, rule->opt->hyper, changed.hyper, &seen);
    while (!rc && psd_scanner_take(&p, ','));
    psd_scanner_skip_spaces(&p);
    if (!rc && *p.at)
        rc = psd_scanner_expected(&p, "',' or nothing more");
    if (rc || (rc = check_values(&p, arguments, &changed)))
        return rc;
    if (rule->lookahead)
        take_lookahead(&changed, values);
    if ((rc = check_lookahead(&p, arguments, &changed)))
        return rc;
    lay_out_slots(&changed);
    *rule = changed;
    return PSD_OK;
}

int psd_rule_wrap(psd_rule_t *rule, bool lookahead, const psd_rule_t *as, psd_err_t *err)
{
    double values[sizeof lookahead_hyper / sizeof *lookahead_hyper];
    const psd_scanner_t p = { .what = "lookahead", .text = "", .at = "", .err = err };
    set_defaults(lookahead_hyper, values);
    if (lookahead && !rule->lookahead) {
        if (as->lookahead) {
            rule->k = as->k;
            rule->alpha = as->alpha;
            rule->pullback = as->pullback;
        } else {
            take_lookahead(rule, values);
        }
    }
    rule->lookahead = lookahead;
    lay_out_slots(rule);
    return check_lookahead(&p, p.at, rule);
}

/* ---- printing ---- */

static void append(char buf[PSD_RULE_TEXT], const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(char buf[PSD_RULE_TEXT], const char *format, ...)
{
    const size_t used = strlen(buf);
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(buf + used, PSD_RULE_TEXT - used, format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < PSD_RULE_TEXT - used);
}

static void append_lookahead(char buf[PSD_RULE_TEXT], const psd_rule_t *rule, bool brief)
{
    char number[PSD_NUMBER_TEXT];
    if (!brief || rule->k != (uint32_t)lookahead_hyper[K].def)
        append(buf, ", k=%u", rule->k);
    if (!brief || rule->alpha != lookahead_hyper[ALPHA].def)
        append(buf, ", alpha=%s", psd_number_print(rule->alpha, number));
    if (!brief || rule->pullback != (psd_pullback_t)lookahead_hyper[PULLBACK].def)
        append(buf, ", pullback=%s", pullbacks[rule->pullback]);
    append(buf, ")");
}

static char *print(const psd_rule_t *rule, bool brief, char buf[PSD_RULE_TEXT])
{
    char number[PSD_NUMBER_TEXT];
    const psd_hyper_t *hyper = rule->opt->hyper;
    buf[0] = '\0';
    append(buf, "%s%s%s(", rule->lookahead ? "lookahead(" : "", rule->cautious ? "cautious(" : "", rule->opt->name);
    for (int i = 0; hyper[i].name; i++) /* the first is the learning rate */
        if (!brief || i == 0 || rule->hyper[i] != hyper[i].def)
            append(buf, "%s%s=%s", i ? ", " : "", hyper[i].name, psd_number_print(rule->hyper[i], number));
    append(buf, ")");
    if (rule->cautious && (!brief || rule->caution_min != cautious_hyper->def))
        append(buf, ", caution_min=%s", psd_number_print(rule->caution_min, number));
    if (rule->cautious)
        append(buf, ")");
    if (rule->lookahead)
        append_lookahead(buf, rule, brief);
    return buf;
}

char *psd_rule_print(const psd_rule_t *rule, char buf[PSD_RULE_TEXT]) { return print(rule, false, buf); }

char *psd_rule_print_brief(const psd_rule_t *rule, char buf[PSD_RULE_TEXT]) { return print(rule, true, buf); }
