#include "common/config/option.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/jobfile.h"
#include "common/net/keys.h"
#include "common/base/logtext.h"
#include "common/codec/codec.h"
#include "common/optim/optimizer.h"
#include "common/optim/groups.h"
#include "common/optim/schedule.h"
#include "common/base/words.h"

enum { MAX_VALUE = 1023, MAX_TEXTS = PSD_JOBFILE_MAX_LIST - 1 };

static const psd_option_t rows[PSD_N_OPTIONS] = {
#define OPTION(id, name, kind, who, value, bounds, text)                                                                           \
    [PSD_OPT_##id] = { .key = name, .type = PSD_OPTION_##kind, .programs = who, .preset = value, .range = bounds, .help = text },
#include "common/config/options.def"
#undef OPTION
};

const psd_option_t *psd_option_at(size_t id) { return id < PSD_N_OPTIONS ? &rows[id] : NULL; }

const psd_option_t *psd_option_find(const char *key)
{
    for (size_t i = 0; i < PSD_N_OPTIONS; i++)
        if (strcmp(rows[i].key, key) == 0)
            return &rows[i];
    return NULL;
}

psd_option_id_t psd_option_id(const psd_option_t *row)
{
    assert(row >= rows && row < rows + PSD_N_OPTIONS);
    return (psd_option_id_t)(row - rows);
}

/* -- names ------------------------------------------------------------------------------------------------- */

void psd_option_flag(const char *key, char *out, size_t capacity)
{
    int n = snprintf(out, capacity, "--%s", key);
    assert(n > 0 && (size_t)n < capacity);
    for (char *p = out; *p; p++)
        if (*p == '.' || *p == '_')
            *p = '-';
}

void psd_option_variable(const char *key, char *out, size_t capacity)
{
    size_t n = (size_t)snprintf(out, capacity, "PSD_");
    for (; *key; key++) {
        assert(n + 3 < capacity);
        if (*key == '.')
            out[n++] = '_';
        out[n++] = *key == '.' ? '_' : (char)toupper((unsigned char)*key);
    }
    out[n] = '\0';
}

static const char *last_part(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? dot + 1 : key;
}

void psd_option_nearest(const char *key, char *out, size_t capacity)
{
    psd_nearest_t nearest = { 0 };
    for (size_t i = 0; i < PSD_N_OPTIONS; i++)
        psd_nearest_consider(&nearest, key, rows[i].key);
    for (size_t i = 0; i < PSD_N_OPTIONS && !*nearest.word; i++)
        if (strcmp(last_part(key), last_part(rows[i].key)) == 0)
            snprintf(nearest.word, sizeof nearest.word, "%s", rows[i].key);
    snprintf(out, capacity, "%s", nearest.word);
}

/* -- texts of each type ------------------------------------------------------------------------------------ */

/* A plain decimal number: no octal, hexadecimal, underscores, plus sign, inf or nan. Digits, and with `real` also a point and an
 * exponent. Returns its end, NULL when it is not such a number. */
static const char *number_end(const char *s, bool real)
{
    s += *s == '-';
    if (!isdigit((unsigned char)*s) || (*s == '0' && isdigit((unsigned char)s[1])))
        return NULL;
    s += strspn(s, "0123456789");
    if (real && *s == '.') {
        size_t n = strspn(s + 1, "0123456789");
        s += n ? n + 1 : 0;
    }
    if (real && (*s == 'e' || *s == 'E')) {
        const char *digits = s + 1 + (s[1] == '-' || s[1] == '+');
        size_t n = strspn(digits, "0123456789");
        s = n ? digits + n : s;
    }
    return s;
}

/* The factor that a suffix stands for, 0 for an unknown one. */
static uint64_t suffix_factor(const char *suffix)
{
    static const struct {
        const char *text;
        uint64_t factor;
    } suffixes[] = { { "", 1 },           { "k", 1000 },        { "m", 1000000 },
                     { "g", 1000000000 }, { "Ki", 1ull << 10 }, { "Mi", 1ull << 20 },
                     { "Gi", 1ull << 30 } };
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (strcmp(suffix, suffixes[i].text) == 0)
            return suffixes[i].factor;
    return 0;
}

static bool parse_whole(const char *text, psd_option_value_t *out)
{
    const char *end = number_end(text, false);
    uint64_t factor = end ? suffix_factor(end) : 0;
    if (!factor)
        return false;
    errno = 0;
    uint64_t magnitude = strtoull(text + (*text == '-'), NULL, 10);
    if (errno || magnitude > UINT64_MAX / factor)
        return false;
    magnitude *= factor;
    if (*text == '-' && magnitude > INT64_MAX)
        return false;
    out->u = magnitude;
    out->i = *text == '-' ? -(int64_t)magnitude : magnitude > INT64_MAX ? INT64_MAX : (int64_t)magnitude;
    out->d = *text == '-' ? -(double)magnitude : (double)magnitude;
    return true;
}

static bool parse_real(const char *text, psd_option_value_t *out)
{
    const char *end = number_end(text, true);
    out->d = end && !*end ? strtod(text, NULL) : NAN;
    return isfinite(out->d);
}

static bool parse_duration(const char *text, psd_option_value_t *out)
{
    const struct {
        const char *text;
        double ms;
    } units[] = { { "ms", 1 }, { "s", 1e3 }, { "m", 60e3 }, { "h", 3600e3 } };
    const char *end = number_end(text, true);
    if (!end || *text == '-')
        return false;
    double ms = NAN;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].text) == 0)
            ms = strtod(text, NULL) * units[i].ms;
    if (!(ms <= 1e12) || ms != floor(ms)) /* 31 years; the smallest unit is the millisecond */
        return false;
    out->u = (uint64_t)ms;
    out->d = ms;
    return true;
}

/* host:port, with brackets around a host that contains a colon. */
static bool is_address(const char *s)
{
    const char *colon = *s == '[' ? strstr(s, "]:") : strchr(s, ':');
    if (!colon || colon == s)
        return false;
    colon += *s == '[';
    const char *end = number_end(colon + 1, false);
    return end && !*end && colon[1] != '-' && end - colon - 1 <= 5 && strtoul(colon + 1, NULL, 10) <= 65535 &&
           strcspn(s, " /") == strlen(s);
}

static bool is_endpoint(const char *s)
{
    return strncmp(s, "tcp://", 6) == 0 ? is_address(s + 6) : strncmp(s, "ipc://", 6) == 0 && s[6];
}

static bool is_name(const char *s)
{
    return isalnum((unsigned char)*s) && strlen(s) < 64 &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(s);
}

/* Cut `text` at each separator; "" has no items. False when memory runs out. */
static bool split(const char *text, char separator, psd_option_value_t *out)
{
    size_t capacity = 1;
    for (const char *p = text; *p; p++)
        capacity += *p == separator;
    out->items = strdup(text);
    out->item = calloc(capacity, sizeof *out->item);
    out->list = calloc(capacity, sizeof *out->list);
    out->real = calloc(capacity, sizeof *out->real);
    if (!out->items || !out->item || !out->list || !out->real)
        return false;
    const char cut[2] = { separator, '\0' };
    for (char *rest = out->items; *text && rest;)
        out->item[out->n_list++] = strsep(&rest, cut);
    return true;
}

static bool parse_numbers(bool whole, psd_option_value_t *out)
{
    bool good = true;
    for (size_t i = 0; good && i < out->n_list; i++) {
        psd_option_value_t one = { 0 };
        good = whole ? parse_whole(out->item[i], &one) : parse_real(out->item[i], &one);
        out->list[i] = one.i;
        out->real[i] = one.d;
    }
    return good;
}

/* Texts are separated by semicolons, with optional blanks. */
static bool take_texts(const char *text, psd_option_value_t *out)
{
    bool good = true;
    (void)text;
    for (size_t i = 0; good && i < out->n_list; i++) {
        char *end = out->item[i] + strlen(out->item[i]);
        while (end > out->item[i] && end[-1] == ' ')
            *--end = '\0';
        out->item[i] += strspn(out->item[i], " ");
        good = *out->item[i] != '\0';
    }
    return good;
}

static bool take_text(const char *text, psd_option_value_t *out)
{
    (void)text, (void)out;
    return true;
}

static bool take_name(const char *text, psd_option_value_t *out)
{
    (void)out;
    return is_name(text);
}

static bool take_word(const char *text, psd_option_value_t *out)
{
    (void)out;
    return !*text || (strlen(text) < 128 && psd_logtext_is_plain(text, strlen(text)));
}

static bool take_rule(const char *text, psd_option_value_t *out)
{
    psd_rule_t rule;
    (void)out;
    return psd_rule_parse(&rule, text, NULL) == PSD_OK;
}

static bool take_codec(const char *text, psd_option_value_t *out)
{
    psd_coding_t coding;
    (void)out;
    return psd_coding_parse(&coding, text, NULL) == PSD_OK;
}

static bool take_schedule(const char *text, psd_option_value_t *out)
{
    psd_schedule_t schedule;
    (void)out;
    return psd_schedule_parse(&schedule, text, NULL) == PSD_OK;
}

static bool take_groups(const char *text, psd_option_value_t *out)
{
    (void)out;
    return psd_groups_check(text, NULL) == PSD_OK;
}

static bool take_count(const char *text, psd_option_value_t *out) { return *text != '-' && parse_whole(text, out); }

static bool take_bool(const char *text, psd_option_value_t *out)
{
    out->u = strcmp(text, "true") == 0;
    return out->u || strcmp(text, "false") == 0;
}

static bool take_endpoint(const char *text, psd_option_value_t *out)
{
    (void)out;
    return !*text || is_endpoint(text);
}

static bool take_address(const char *text, psd_option_value_t *out)
{
    (void)out;
    return is_address(text);
}

static bool take_given(const char *text, psd_option_value_t *out)
{
    out->u = true;
    return !*text;
}

static bool take_list(const char *text, psd_option_value_t *out)
{
    (void)text;
    return parse_numbers(true, out);
}

static bool take_numbers(const char *text, psd_option_value_t *out)
{
    (void)text;
    return parse_numbers(false, out);
}

#define WHOLE "decimal digits, with k, m, g, Ki, Mi or Gi if large"

static const struct type {
    psd_option_words_t words;
    bool (*take)(const char *text, psd_option_value_t *out); /* checks the text, and fills in its numbers and list */
    const char *cure;                                        /* the cure, for messages */
} types[] = {
    [PSD_OPTION_STRING] = { { "text", "TEXT", NULL }, take_text, "text" },
    [PSD_OPTION_NAME] = { { "name", "NAME", NULL }, take_name, "at most 63 letters, digits, dots, _ and -" },
    [PSD_OPTION_WORD] = { { "word", "WORD", NULL }, take_word, "one word of at most 127 bytes, without quotes, = or backslash" },
    [PSD_OPTION_RULE] = { { "rule", "RULE", NULL }, take_rule, "such as adam(lr=1e-3)" },
    [PSD_OPTION_CODEC] = { { "codec", "CODEC", NULL }, take_codec, "such as bf16 or topk(0.01)" },
    [PSD_OPTION_SCHEDULE] = { { "schedule", "SCHEDULE", NULL }, take_schedule, "such as cosine(steps=10000, warmup=500)" },
    [PSD_OPTION_GROUPS] = { { "list of parameter groups", "GROUP;GROUP;...", "[{match: \"*.bias\", weight_decay: 0}]" },
                            take_groups, /* whether they go with the rule: common/config/contradictions.c */
                            "such as *.bias(weight_decay=0)" },
    [PSD_OPTION_INT] = { { "whole number", "N", NULL }, parse_whole, WHOLE },
    [PSD_OPTION_UINT64] = { { "whole number", "N", NULL }, take_count, WHOLE },
    [PSD_OPTION_DOUBLE] = { { "number", "X", NULL }, parse_real, "decimal, such as 0.5 or 1e-3" },
    [PSD_OPTION_BOOL] = { { "true or false", "true|false", NULL }, take_bool, "write true or false" },
    [PSD_OPTION_DURATION] = { { "duration", "TIME", NULL }, parse_duration, "a number and a unit, such as 500ms, 30s, 2m" },
    [PSD_OPTION_SIZE] = { { "size", "BYTES", NULL }, take_count, WHOLE },
    [PSD_OPTION_ENDPOINT] = { { "endpoint", "tcp://HOST:PORT", NULL }, take_endpoint, "tcp://HOST:PORT or ipc://PATH" },
    [PSD_OPTION_LISTEN] = { { "address", "HOST:PORT", NULL }, take_address, "HOST:PORT with a port up to 65535" },
    [PSD_OPTION_LIST] = { { "list of whole numbers", "N,N,...", "[784, 128, 10]" },
                          take_list,
                          "whole numbers, as [784, 128, 10] in a job file, 784,128,10 elsewhere" },
    [PSD_OPTION_NUMBERS] = { { "list of numbers", "X,X,...", "[0.1, 1, 10]" },
                             take_numbers,
                             "numbers, as [0.1, 1, 10] in a job file, 0.1,1,10 elsewhere" },
    [PSD_OPTION_TEXTS] = { { "list of texts", "TEXT;TEXT;...", "each item on a line of its own, after \"- \"" },
                           take_texts,
                           "texts, each a line after \"- \" in a job file, with ; between them elsewhere" },
    [PSD_OPTION_PATH] = { { "path", "PATH", NULL }, take_text, "a path" },
    [PSD_OPTION_DATA] = { { "name or format:path", "DATA", NULL }, take_text, "a name, or format:path" },
    [PSD_OPTION_KEY] = { { "public key or path", "KEY|PATH", NULL }, take_text, "a public key, or a path" },
    [PSD_OPTION_SWITCH] = { { "value", NULL, NULL }, take_given, "leave it out" },
};

const psd_option_words_t *psd_option_words(psd_option_type_t type) { return &types[type].words; }

const char *psd_option_argument(const psd_option_t *row) { return row->argument ? row->argument : types[row->type].words.argument; }

bool psd_option_is_list(psd_option_type_t type) { return types[type].words.example != NULL; }

/* What stands between the items of a list, which `take` finds already cut; 0: the type has none. */
static char separator_of(psd_option_type_t type)
{
    return type == PSD_OPTION_LIST || type == PSD_OPTION_NUMBERS ? ',' : type == PSD_OPTION_TEXTS ? ';' : '\0';
}

static const char *cure(const psd_option_t *row, const char *text)
{
    const bool is_whole = types[row->type].take == parse_whole || types[row->type].take == take_count;
    return is_whole && *text == '0' ? "decimal digits without a leading 0, with k, m, g, Ki, Mi or Gi" : types[row->type].cure;
}

/* -- ranges ------------------------------------------------------------------------------------------------ */

static const char *range_of(const psd_option_t *row) { return row->range ? row->range : ""; }

size_t psd_option_alternative(const char **at)
{
    const size_t n = strcspn(*at, "|");
    *at += n + ((*at)[n] == '|');
    return n;
}

/* The dots of "1..64", an alternative of `n` bytes; NULL in a word. */
static const char *dots_of(const char *alternative, size_t n) { return memmem(alternative, n, "..", 2); }

const char *psd_option_range(const psd_option_t *row, char *out, size_t capacity)
{
    size_t used = 0;
    *out = '\0';
    for (const char *at = range_of(row), *one = at; *at && used < capacity; one = at) {
        const size_t n = psd_option_alternative(&at);
        const char *dots = dots_of(one, n), * or = used ? " or " : "";
        if (dots) {
            const size_t n_least = (size_t)(dots - one), n_most = n - n_least - 2;
            used += (size_t)snprintf(out + used, capacity - used, "%s%.*s %s%.*s", or, (int)n_least, one,
                                     n_most ? "to " : "or more", (int)n_most, dots + 2);
        } else {
            used += (size_t)snprintf(out + used, capacity - used, "%s%.*s", or, (int)n, one);
        }
    }
    return out;
}

void psd_option_takes(const psd_option_t *row, char *out, size_t capacity)
{
    char range[120];
    const char *what = types[row->type].words.what;
    psd_option_range(row, range, sizeof range);
    if (row->type == PSD_OPTION_LISTEN && *range)
        snprintf(out, capacity, "%s or %s", what, range);
    else if (psd_option_is_list(row->type) && *range)
        snprintf(out, capacity, "%s, each %s", what, range);
    else
        snprintf(out, capacity, "%s", *range ? range : what);
}

/* A bound of a range, as a number; `missing` when it is not there. */
static double bound(psd_option_type_t type, const char *text, size_t n, double missing)
{
    char copy[40];
    psd_option_value_t value = { 0 };
    snprintf(copy, sizeof copy, "%.*s", (int)n, text);
    if (!n)
        return missing;
    const bool real = type == PSD_OPTION_DOUBLE || type == PSD_OPTION_NUMBERS;
    bool good = type == PSD_OPTION_DURATION ? parse_duration(copy, &value)
                : real                      ? parse_real(copy, &value)
                                            : parse_whole(copy, &value);
    assert(good);
    return value.d;
}

bool psd_option_bounds(const psd_option_t *row, double *least, double *most)
{
    bool found = false;
    for (const char *at = range_of(row), *one = at; *at; one = at) {
        const size_t n = psd_option_alternative(&at);
        const char *dots = dots_of(one, n);
        if (!dots)
            continue;
        *least = bound(row->type, one, (size_t)(dots - one), -INFINITY);
        *most = bound(row->type, dots + 2, n - (size_t)(dots - one) - 2, INFINITY);
        found = true;
    }
    return found;
}

/* Whether each number of the value lies between the bounds; texts that are numbers are rewritten in plain digits. */
static bool within(const psd_option_t *row, const char *text, psd_option_value_t *value)
{
    double least, most;
    if (!psd_option_bounds(row, &least, &most))
        return false;
    if (psd_option_is_list(row->type)) {
        for (size_t i = 0; i < value->n_list; i++)
            if (!(value->real[i] >= least && value->real[i] <= most))
                return false;
        return true;
    }
    psd_option_value_t number = *value;
    if (row->type == PSD_OPTION_STRING && !parse_whole(text, &number))
        return false;
    if (!(number.d >= least && number.d <= most))
        return false;
    if (row->type == PSD_OPTION_STRING)
        snprintf(value->text, strlen(value->text) + 24, "%" PRIu64, number.u);
    return true;
}

/* Whether `text` is one of the range's words. */
static bool is_word_of(const psd_option_t *row, const char *text)
{
    for (const char *at = range_of(row), *one = at; *at; one = at) {
        const size_t n = psd_option_alternative(&at);
        if (strlen(text) == n && strncmp(one, text, n) == 0)
            return true;
    }
    return false;
}

/* The word of the range that the user probably meant, as "; did you mean bsp?". */
static void suggest_word(const psd_option_t *row, const char *text, char *out, size_t capacity)
{
    psd_nearest_t nearest = { 0 };
    for (const char *at = range_of(row), *one = at; *at; one = at) {
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)psd_option_alternative(&at), one);
        psd_nearest_consider(&nearest, text, word);
    }
    snprintf(out, capacity, *nearest.word ? "; did you mean %s?" : "%s", nearest.word);
}

/* -- values ------------------------------------------------------------------------------------------------ */

static bool is_printable(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return false;
    return true;
}

/* Copy the value's text, with room for `within` to spell out 64k. */
static bool keep_text(const char *text, psd_option_value_t *out)
{
    const size_t n = strlen(text) + 1;
    if ((out->text = malloc(n + 24)))
        memcpy(out->text, text, n);
    return out->text;
}

/* Write why the text is not of the row's type. Rules, codecs, schedules and groups have many parts, so their parsers name the wrong
 * one, some as the option does. */
static void explain(const psd_option_t *row, const char *text, char why[PSD_OPTION_WHY])
{
    psd_rule_t rule;
    psd_coding_t coding;
    psd_schedule_t schedule;
    psd_err_t err;
    if ((row->type == PSD_OPTION_RULE && psd_rule_parse(&rule, text, &err) != PSD_OK) ||
        (row->type == PSD_OPTION_CODEC && psd_coding_parse(&coding, text, &err) != PSD_OK) ||
        (row->type == PSD_OPTION_SCHEDULE && psd_schedule_parse(&schedule, text, &err) != PSD_OK) ||
        (row->type == PSD_OPTION_GROUPS && psd_groups_check(text, &err) != PSD_OK)) {
        const bool is_named = !strncmp(err.text, row->key, strlen(row->key));
        snprintf(why, PSD_OPTION_WHY, "%s%s%.*s", is_named ? "" : row->key, is_named ? "" : ": ", PSD_OPTION_WHY - 80, err.text);
    } else
        snprintf(why, PSD_OPTION_WHY, "%s is \"%.60s\", %s %s; %s", row->key, text,
                 row->type == PSD_OPTION_BOOL ? "not" : "not a valid", types[row->type].words.what, cure(row, text));
}

const char *psd_option_path(const psd_option_t *row, const char *text)
{
    static const char drawn[] = "glyphs"; /* after the colon in these there is a number */
    const char *colon = strchr(text, ':');
    uint8_t key[PSD_KEY_BYTES];
    switch (row->type) {
    case PSD_OPTION_PATH:
        break;
    case PSD_OPTION_DATA:
        text = colon && strncmp(text, drawn, sizeof drawn - 1) != 0 ? colon + 1 : "";
        break;
    case PSD_OPTION_KEY:
        text = strlen(text) == PSD_KEY_TEXT - 1 && psd_key_decode(key, text) ? "" : text;
        break;
    case PSD_OPTION_ENDPOINT:
        text = strncmp(text, "ipc://", 6) == 0 && text[6] != '@' ? text + 6 : "";
        break;
    default:
        text = "";
    }
    return *text ? text : NULL;
}

int psd_option_read(const psd_option_t *row, const char *text, psd_option_value_t *out, char why[PSD_OPTION_WHY])
{
    const struct type *type = &types[row->type];
    const size_t longest = row->type == PSD_OPTION_TEXTS || row->type == PSD_OPTION_GROUPS ? MAX_TEXTS : MAX_VALUE;
    char range[120], meant[80] = "";
    double least, most;
    *out = (psd_option_value_t){ 0 };
    psd_option_range(row, range, sizeof range);
    if (!is_printable(text))
        return snprintf(why, PSD_OPTION_WHY, "%s holds a control character; write one line of text", row->key), PSD_ECONFIG;
    if (strlen(text) > longest)
        return snprintf(why, PSD_OPTION_WHY, "%s is longer than %zu bytes", row->key, longest), PSD_ECONFIG;
    if (!keep_text(text, out))
        return snprintf(why, PSD_OPTION_WHY, "no memory"), PSD_ENOMEM;
    if (is_word_of(row, text) || (row->type == PSD_OPTION_STRING && row->preset && strcmp(text, row->preset) == 0))
        return PSD_OK;
    if (row->type == PSD_OPTION_STRING && *range_of(row) && !within(row, text, out)) {
        suggest_word(row, text, meant, sizeof meant);
        return snprintf(why, PSD_OPTION_WHY, "%s is \"%.60s\"; it takes %s%s", row->key, text, range, meant), PSD_ECONFIG;
    }
    const char separator = separator_of(row->type);
    if (separator && !split(text, separator, out))
        return snprintf(why, PSD_OPTION_WHY, "no memory"), PSD_ENOMEM;
    if (!type->take(text, out))
        return explain(row, text, why), PSD_ECONFIG;
    if (row->type != PSD_OPTION_STRING && psd_option_bounds(row, &least, &most) && !within(row, text, out))
        return snprintf(why, PSD_OPTION_WHY, "%s is %.60s; it takes %s", row->key, text, range), PSD_ECONFIG;
    return PSD_OK;
}

void psd_option_clear(psd_option_value_t *value)
{
    free(value->text);
    free(value->items);
    free(value->item);
    free(value->list);
    free(value->real);
    *value = (psd_option_value_t){ 0 };
}
