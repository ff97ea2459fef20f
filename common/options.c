#include "common/options.h"

#include <argp.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/jobfile.h"

typedef enum {
    STRING,
    NAME,
    INT,
    UINT64,
    DOUBLE,
    BOOL,
    DURATION,
    SIZE,
    ENDPOINT,
    LISTEN,
    LIST,
    NUMBERS,
    TEXTS
} type_t;

/* What a value of each type is called, and the argument that --help shows; of a list, how a job file writes
 * it. */
static const struct {
    const char *what, *argument, *example;
} types[] = {
    [STRING] = { "text", "TEXT", NULL },
    [NAME] = { "name", "NAME", NULL },
    [INT] = { "whole number", "N", NULL },
    [UINT64] = { "whole number", "N", NULL },
    [DOUBLE] = { "number", "X", NULL },
    [BOOL] = { "true or false", "true|false", NULL },
    [DURATION] = { "duration", "TIME", NULL },
    [SIZE] = { "size", "BYTES", NULL },
    [ENDPOINT] = { "endpoint", "tcp://HOST:PORT", NULL },
    [LISTEN] = { "address", "HOST:PORT", NULL },
    [LIST] = { "list of whole numbers", "N,N,...", "[784, 128, 10]" },
    [NUMBERS] = { "list of numbers", "X,X,...", "[0.1, 1, 10]" },
    [TEXTS] = { "list of texts", "TEXT;TEXT;...", "each item on a line of its own, after \"- \"" },
};

#define OPTION(key, type, programs, preset, range, help) +1
enum {
    N_ROWS = 0
#include "common/options.def"
};
#undef OPTION

#define OPTION(key, type, programs, preset, range, help) type,
static const type_t row_types[N_ROWS] = {
#include "common/options.def"
};
#undef OPTION

#define OPTION(key, type, programs, preset, range, help) { key, programs, preset, range, help },
static const psd_option_t rows[N_ROWS] = {
#include "common/options.def"
};
#undef OPTION

/* Where a value came from; a later one wins. */
typedef enum { FROM_TABLE, FROM_FILE, FROM_ENVIRONMENT, FROM_FLAG } rank_t;

typedef struct value {
    char *text;
    char *origin;
    rank_t rank;
    int64_t i;     /* INT */
    uint64_t u;    /* UINT64, SIZE; DURATION in milliseconds; BOOL */
    double d;      /* any number, for its range */
    char *items;   /* of a list, each ended by NUL; what `item` points into */
    char **item;   /* LIST, NUMBERS, TEXTS */
    int64_t *list; /* LIST */
    double *real;  /* LIST, NUMBERS */
    size_t n_list;
} value_t;

struct psd_options {
    unsigned program; /* a mask of psd_program_t */
    const char *name; /* argv[0] without its directory */
    value_t value[N_ROWS];
    char *file;          /* job file that was named */
    const char *reading; /* what complaints of the job file are prefixed with */
    char *complaints;    /* one per line */
    size_t n_complaints;
    bool helped; /* --help or --version was served */
};

enum { WHY = 320, MAX_COMPLAINTS = 100, MAX_VALUE = 1023, MAX_TEXTS = PSD_JOBFILE_MAX_LIST - 1 };

extern char **environ;

/* -- names -------------------------------------------------------------------------------------------------
 */

void psd_options_flag(const char *key, char *out, size_t capacity)
{
    int n = snprintf(out, capacity, "--%s", key);
    assert(n > 0 && (size_t)n < capacity);
    for (char *p = out; *p; p++)
        if (*p == '.' || *p == '_')
            *p = '-';
}

void psd_options_variable(const char *key, char *out, size_t capacity)
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

static size_t find_row(const char *key)
{
    size_t i = 0;
    while (i < N_ROWS && strcmp(rows[i].key, key) != 0)
        i++;
    return i;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Edits (Levenshtein) that turn `a` into `b`; far, when either is long. */
static size_t distance(const char *a, const char *b)
{
    enum { LONGEST = 100 };
    size_t row[LONGEST + 1], n = strlen(b);
    if (strlen(a) > LONGEST || n > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = least(replaced, least(row[j], row[j - 1]) + 1);
        }
    }
    return row[n];
}

/* Remember `candidate` when it is closer to `word` than the closest so far, and close enough to be meant. */
static void consider(const char *word, const char *candidate, char *nearest, size_t capacity, size_t *closest)
{
    size_t d = distance(word, candidate);
    if (d < *closest && d <= 2 + strlen(word) / 8 && d < strlen(word)) {
        *closest = d;
        snprintf(nearest, capacity, "%s", candidate);
    }
}

static const char *last_part(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? dot + 1 : key;
}

/* The key that was probably meant: the closest, else one that ends alike ("batch" for data.batch), else "". */
static void nearest_key(const char *key, char *out, size_t capacity)
{
    size_t closest = SIZE_MAX;
    *out = '\0';
    for (size_t i = 0; i < N_ROWS; i++)
        consider(key, rows[i].key, out, capacity, &closest);
    for (size_t i = 0; i < N_ROWS && !*out; i++)
        if (strcmp(last_part(key), last_part(rows[i].key)) == 0)
            snprintf(out, capacity, "%s", rows[i].key);
}

/* -- complaints --------------------------------------------------------------------------------------------
 */

static void complain(psd_options_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void complain(psd_options_t *self, const char *format, ...)
{
    char sentence[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    for (char *p = sentence; *p; p++) /* what people typed comes back; control bytes do not */
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
    if (self->n_complaints++ >= MAX_COMPLAINTS)
        return;
    size_t used = self->complaints ? strlen(self->complaints) : 0;
    char *more = realloc(self->complaints, used + strlen(sentence) + 2);
    if (!more)
        return;
    self->complaints = more;
    snprintf(more + used, strlen(sentence) + 2, "%s%s", used ? "\n" : "", sentence);
}

const char *psd_options_complaints(const psd_options_t *self)
{
    return self->complaints ? self->complaints : "";
}

/* Hand the complaints to `err` as code: whole lines, as many as fit. */
static int report(const psd_options_t *self, int code, psd_err_t *err)
{
    enum { ROOM = sizeof err->text - 24 };
    const char *all = psd_options_complaints(self);
    size_t n = strlen(all), lines = 0;
    if (n <= ROOM)
        return psd_err_set(err, code, "%s", all);
    for (n = ROOM; n > 0 && all[n] != '\n'; n--)
        ;
    for (size_t i = 0; i <= n; i++)
        lines += all[i] == '\n';
    if (n == 0)
        return psd_err_set(err, code, "%.*s", (int)ROOM, all);
    return psd_err_set(err, code, "%.*s\nand %zu more", (int)n, all, self->n_complaints - lines);
}

/* -- values ------------------------------------------------------------------------------------------------
 */

/* "1..64" -> "1 to 64", "full|1.." -> "full or 1 or more". */
static const char *describe_range(const char *range, char *out, size_t capacity)
{
    size_t n = 0;
    *out = '\0';
    while (*range && n < capacity) {
        size_t length = strcspn(range, "|");
        const char *dots = strstr(range, "..");
        if (n)
            n += (size_t)snprintf(out + n, capacity - n, " or ");
        if (n < capacity && dots && dots < range + length) {
            size_t least_length = (size_t)(dots - range), most_length = length - least_length - 2;
            n += (size_t)snprintf(out + n, capacity - n, "%.*s %s%.*s", (int)least_length, range,
                                  most_length ? "to " : "or more", (int)most_length, dots + 2);
        } else if (n < capacity) {
            n += (size_t)snprintf(out + n, capacity - n, "%.*s", (int)length, range);
        }
        range += length + (range[length] == '|');
    }
    return out;
}

/* A decimal number without surprises: no octal, hexadecimal, underscores, signs of plus, inf or nan. Digits,
 * and with `real` also a point and an exponent. Returns where it ends, NULL when it is none. */
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

static bool parse_whole(const char *text, value_t *out)
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
    out->i = *text == '-' ? -(int64_t)magnitude : (int64_t)least(magnitude, INT64_MAX);
    out->d = *text == '-' ? -(double)magnitude : (double)magnitude;
    return true;
}

static bool parse_real(const char *text, value_t *out)
{
    const char *end = number_end(text, true);
    out->d = end && !*end ? strtod(text, NULL) : NAN;
    return isfinite(out->d);
}

static bool parse_duration(const char *text, value_t *out)
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
    if (!(ms <= 1e12) || ms != floor(ms)) /* 31 years; and no unit below the millisecond */
        return false;
    out->u = (uint64_t)ms;
    out->d = ms;
    return true;
}

/* host:port, the host in brackets when it holds a colon itself. */
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

static bool is_list(type_t type) { return type == LIST || type == NUMBERS || type == TEXTS; }

/* Cut `text` at each separator; "" has no items. False without memory. */
static bool split(const char *text, char separator, value_t *out)
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

static bool parse_list(type_t type, const char *text, value_t *out)
{
    bool good = split(text, ',', out);
    for (size_t i = 0; good && i < out->n_list; i++) {
        value_t one = { 0 };
        good = type == LIST ? parse_whole(out->item[i], &one) : parse_real(out->item[i], &one);
        out->list[i] = one.i;
        out->real[i] = one.d;
    }
    return good;
}

/* Texts stand between semicolons, with or without blanks. */
static bool parse_texts(const char *text, value_t *out)
{
    bool good = split(text, ';', out);
    for (size_t i = 0; good && i < out->n_list; i++) {
        char *end = out->item[i] + strlen(out->item[i]);
        while (end > out->item[i] && end[-1] == ' ')
            *--end = '\0';
        out->item[i] += strspn(out->item[i], " ");
        good = *out->item[i] != '\0';
    }
    return good;
}

/* Whether `text` is a value of the type; fills its numbers. */
static bool parse_typed(type_t type, const char *text, value_t *out)
{
    switch (type) {
    case STRING:
        return true;
    case NAME:
        return is_name(text);
    case INT:
        return parse_whole(text, out);
    case UINT64:
    case SIZE:
        return *text != '-' && parse_whole(text, out);
    case DOUBLE:
        return parse_real(text, out);
    case BOOL:
        out->u = strcmp(text, "true") == 0;
        return out->u || strcmp(text, "false") == 0;
    case DURATION:
        return parse_duration(text, out);
    case ENDPOINT:
        return !*text || is_endpoint(text);
    case LISTEN:
        return is_address(text);
    case LIST:
    case NUMBERS:
        return parse_list(type, text, out);
    case TEXTS:
        return parse_texts(text, out);
    }
    return false;
}

/* What to write instead, by type. */
static const char *cure(type_t type, const char *text)
{
    switch (type) {
    case INT:
    case UINT64:
    case SIZE:
        return *text == '0' ? "decimal digits without a leading 0, with k, m, g, Ki, Mi or Gi"
                            : "decimal digits, with k, m, g, Ki, Mi or Gi if large";
    case DOUBLE:
        return "decimal, such as 0.5 or 1e-3";
    case BOOL:
        return "write true or false";
    case DURATION:
        return "a number and a unit, such as 500ms, 30s, 2m";
    case ENDPOINT:
        return "tcp://HOST:PORT or ipc://PATH";
    case LISTEN:
        return "HOST:PORT with a port up to 65535";
    case LIST:
        return "whole numbers, as [784, 128, 10] in a job file, 784,128,10 elsewhere";
    case NUMBERS:
        return "numbers, as [0.1, 1, 10] in a job file, 0.1,1,10 elsewhere";
    case TEXTS:
        return "texts, each a line after \"- \" in a job file, with ; between them elsewhere";
    case NAME:
        return "at most 63 letters, digits, dots, _ and -";
    case STRING:
        break;
    }
    return "text";
}

/* A bound of a range, as a number; `missing` when it is not there. */
static double bound(type_t type, const char *text, size_t n, double missing)
{
    char copy[40];
    value_t value = { 0 };
    snprintf(copy, sizeof copy, "%.*s", (int)n, text);
    if (!n)
        return missing;
    bool good = parse_typed(type == NUMBERS                      ? DOUBLE
                            : type == DURATION || type == DOUBLE ? type
                                                                 : INT,
                            copy, &value);
    assert(good);
    return value.d;
}

static bool within(type_t type, const char *alternative, size_t n, double x)
{
    const char *dots = strstr(alternative, "..");
    return dots && dots < alternative + n &&
           x >= bound(type, alternative, (size_t)(dots - alternative), -INFINITY) &&
           x <= bound(type, dots + 2, n - (size_t)(dots - alternative) - 2, INFINITY);
}

/* Whether one alternative of `range` takes the value; text that is a number there is rewritten in plain
 * digits. */
static bool in_range(type_t type, const char *range, const char *text, value_t *value)
{
    for (size_t n; *range; range += n + (range[n] == '|')) {
        n = strcspn(range, "|");
        if (strlen(text) == n && strncmp(range, text, n) == 0)
            return true;
        if (is_list(type)) {
            bool all = true;
            for (size_t i = 0; i < value->n_list; i++)
                all = all && within(type, range, n, value->real[i]);
            return all;
        }
        value_t number = { 0 };
        if (type == STRING && parse_whole(text, &number) && within(type, range, n, number.d)) {
            snprintf(value->text, strlen(value->text) + 24, "%" PRIu64, number.u);
            return true;
        }
        if (type != STRING && type != LISTEN && within(type, range, n, value->d))
            return true;
    }
    return false;
}

/* The word of a range that was probably meant, as "; did you mean bsp?". */
static void suggest_word(const char *range, const char *text, char *out, size_t capacity)
{
    char word[64], nearest[64] = "";
    size_t closest = SIZE_MAX;
    for (size_t n; *range; range += n + (range[n] == '|')) {
        n = strcspn(range, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, range);
        consider(text, word, nearest, sizeof nearest, &closest);
    }
    snprintf(out, capacity, *nearest ? "; did you mean %s?" : "%s", nearest);
}

static bool is_printable(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return false;
    return true;
}

/* Read `text` as a value of row `i`. False, with the reason in `why`, when it is none. */
static bool parse_value(size_t i, const char *text, value_t *out, char why[WHY])
{
    const type_t type = row_types[i];
    const psd_option_t *row = &rows[i];
    char range[120], meant[80] = "";
    *out = (value_t){ 0 };
    const size_t longest = type == TEXTS ? MAX_TEXTS : MAX_VALUE;
    if (!is_printable(text)) {
        snprintf(why, WHY, "%s holds a control character; one line of text is wanted", row->key);
        return false;
    }
    if (strlen(text) > longest) {
        snprintf(why, WHY, "%s is longer than %zu bytes", row->key, longest);
        return false;
    }
    if (!(out->text = malloc(strlen(text) + 24))) { /* room for in_range to spell out 64k */
        snprintf(why, WHY, "no memory");
        return false;
    }
    memcpy(out->text, text, strlen(text) + 1);
    if (strcmp(text, row->preset) != 0 && *row->range && type == STRING &&
        !in_range(type, row->range, text, out)) {
        suggest_word(row->range, text, meant, sizeof meant);
        snprintf(why, WHY, "%s is \"%.60s\"; it takes %s%s", row->key, text,
                 describe_range(row->range, range, sizeof range), meant);
        return false;
    }
    if (type == LISTEN && in_range(type, row->range, text, out))
        return true;
    if (!parse_typed(type, text, out)) {
        snprintf(why, WHY, "%s is \"%.60s\", no %s; %s", row->key, text, types[type].what, cure(type, text));
        return false;
    }
    if (*row->range && type != STRING && type != LISTEN && !in_range(type, row->range, text, out)) {
        snprintf(why, WHY, "%s is %.60s; it takes %s", row->key, text,
                 describe_range(row->range, range, sizeof range));
        return false;
    }
    return true;
}

static void value_clear(value_t *value)
{
    free(value->text);
    free(value->origin);
    free(value->items);
    free(value->item);
    free(value->list);
    free(value->real);
    *value = (value_t){ 0 };
}

/* Give row `i` a value, unless a better source has. False, with `why`, when it is none. */
static bool set_value(psd_options_t *self, size_t i, const char *text, rank_t rank, const char *origin,
                      char why[WHY])
{
    value_t value;
    if (!parse_value(i, text, &value, why)) {
        value_clear(&value);
        return false;
    }
    value.rank = rank;
    value.origin = strdup(origin);
    if (!value.origin || rank < self->value[i].rank) {
        bool good = value.origin != NULL;
        snprintf(why, WHY, "no memory");
        value_clear(&value);
        return good;
    }
    value_clear(&self->value[i]);
    self->value[i] = value;
    return true;
}

/* -- job file ----------------------------------------------------------------------------------------------
 */

static psd_key_t on_key(void *arg, const char *path)
{
    (void)arg;
    size_t n = strlen(path);
    size_t row = find_row(path);
    if (row < N_ROWS)
        return row_types[row] == TEXTS ? PSD_KEY_TEXTS : PSD_KEY_VALUE;
    for (size_t i = 0; i < N_ROWS; i++)
        if (strncmp(rows[i].key, path, n) == 0 && rows[i].key[n] == '.')
            return PSD_KEY_SECTION;
    return PSD_KEY_UNKNOWN;
}

static void on_unknown(void *arg, const char *path, size_t line, size_t column)
{
    psd_options_t *self = arg;
    char nearest[64];
    nearest_key(path, nearest, sizeof nearest);
    complain(self, "%s:%zu:%zu: unknown key %s%s%s%s", self->reading, line, column, path,
             *nearest ? "; did you mean " : "; --help lists them all", nearest, *nearest ? "?" : "");
}

static void on_complaint(void *arg, size_t line, size_t column, const char *sentence)
{
    psd_options_t *self = arg;
    complain(self, "%s:%zu:%zu: %s", self->reading, line, column, sentence);
}

static bool wants_plain(type_t type)
{
    return type == INT || type == UINT64 || type == SIZE || type == DOUBLE || type == BOOL;
}

static void on_value(void *arg, const char *path, const char *text, psd_form_t form, size_t line,
                     size_t column)
{
    psd_options_t *self = arg;
    size_t i = find_row(path);
    char why[WHY], origin[300];
    snprintf(origin, sizeof origin, "%s:%zu:%zu", self->reading, line, column);
    if (form == PSD_FORM_LIST && !is_list(row_types[i]))
        complain(self, "%s: %s takes one value, not a list", origin, path);
    else if (form != PSD_FORM_LIST && is_list(row_types[i]))
        complain(self, "%s: %s takes a list; write %s", origin, path, types[row_types[i]].example);
    else if (form == PSD_FORM_QUOTED && wants_plain(row_types[i]))
        complain(self, "%s: %s is text in quotes; write the %s without", origin, path,
                 types[row_types[i]].what);
    else if (!set_value(self, i, text, FROM_FILE, origin, why))
        complain(self, "%s: %s", origin, why);
}

int psd_options_load_text(psd_options_t *self, const char *name, const void *text, size_t n_bytes,
                          psd_err_t *err)
{
    const psd_jobfile_visitor_t visitor = { self, on_key, on_unknown, on_value, on_complaint };
    size_t before = self->n_complaints;
    self->reading = name;
    psd_jobfile_read(text, n_bytes, &visitor);
    return self->n_complaints > before ? report(self, PSD_ECONFIG, err) : PSD_OK;
}

static int load_file(psd_options_t *self, psd_err_t *err)
{
    FILE *file = fopen(self->file, "rb");
    char *text = malloc(PSD_JOBFILE_MAX_BYTES + 1);
    if (!file || !text) {
        int code = psd_err_set(err, file ? PSD_ENOMEM : PSD_ENOINPUT, "cannot read job file %s: %s",
                               self->file, strerror(errno));
        if (file)
            fclose(file);
        free(text);
        return code;
    }
    size_t n = fread(text, 1, PSD_JOBFILE_MAX_BYTES + 1, file);
    int rc = ferror(file)
                 ? psd_err_set(err, PSD_ENOINPUT, "cannot read job file %s: %s", self->file, strerror(errno))
                 : psd_options_load_text(self, self->file, text, n, err);
    fclose(file);
    free(text);
    return rc;
}

/* -- environment -------------------------------------------------------------------------------------------
 */

/* Kubernetes puts PSD_SERVICE_HOST, PSD_PORT_7470_TCP and the like beside every pod of a service called psd. */
static bool is_service_link(const char *variable)
{
    size_t n = strlen(variable);
    return strstr(variable, "_SERVICE_HOST") || strstr(variable, "_SERVICE_PORT") ||
           strstr(variable, "_PORT_") || (n > 5 && strcmp(variable + n - 5, "_PORT") == 0);
}

static void take_variable(psd_options_t *self, const char *variable, const char *text)
{
    char name[64], nearest[64] = "", why[WHY];
    size_t closest = SIZE_MAX;
    for (size_t i = 0; i < N_ROWS; i++) {
        psd_options_variable(rows[i].key, name, sizeof name);
        if (strcmp(variable, name) == 0) {
            if (!set_value(self, i, text, FROM_ENVIRONMENT, name, why))
                complain(self, "environment %s: %s", name, why);
            return;
        }
        consider(variable, name, nearest, sizeof nearest, &closest);
    }
    if (!is_service_link(variable))
        complain(self, "environment: %.80s is no option%s%s%s", variable,
                 *nearest ? "; did you mean " : "; unset it", nearest, *nearest ? "?" : "");
}

static void load_environment(psd_options_t *self)
{
    for (char **entry = environ; entry && *entry; entry++) {
        size_t n = strcspn(*entry, "=");
        char variable[256];
        if (strncmp(*entry, "PSD_", 4) != 0 || (*entry)[n] != '=')
            continue;
        snprintf(variable, sizeof variable, "%.*s", (int)n, *entry);
        take_variable(self, variable, *entry + n + 1);
    }
}

/* -- command line ------------------------------------------------------------------------------------------
 */

enum { KEY_ROW = 1000 }; /* argp's key of row i is KEY_ROW + i */

/* What argp is told: one entry per flag of the program, and its text. */
typedef struct table {
    struct argp_option entry[N_ROWS + 4];
    char flag[N_ROWS][64];
    char doc[N_ROWS][320];
} table_t;

static void make_table(table_t *table, unsigned program, const char *word)
{
    size_t n = 0;
    for (size_t i = 0; i < N_ROWS; i++) {
        char range[120];
        const psd_option_t *row = &rows[i];
        if (!(row->programs & program) || (word && !strstr(row->key, word) && !strstr(row->help, word)))
            continue;
        psd_options_flag(row->key, table->flag[i], sizeof table->flag[i]);
        describe_range(row->range, range, sizeof range);
        snprintf(table->doc[i], sizeof table->doc[i], "%s%s%s%s%s%s", row->help, *range ? " (" : "", range,
                 *range ? ")" : "", *row->preset ? " [" : "", *row->preset ? row->preset : "");
        if (*row->preset)
            strncat(table->doc[i], "]", 2);
        table->entry[n++] = (struct argp_option){ table->flag[i] + 2,
                                                  KEY_ROW + (int)i,
                                                  types[row_types[i]].argument,
                                                  row_types[i] == BOOL ? OPTION_ARG_OPTIONAL : 0,
                                                  table->doc[i],
                                                  1 };
    }
    if (!word)
        table->entry[n++] =
            (struct argp_option){ "config", 'c', "FILE", 0, "the job file, instead of JOB", 2 };
    table->entry[n++] = (struct argp_option){
        "help", 'h', "WORD", OPTION_ARG_OPTIONAL, "this text, or the options that hold WORD", 2
    };
    if (!word)
        table->entry[n++] = (struct argp_option){ "version", 'V', NULL, 0, "the version", 2 };
    table->entry[n] = (struct argp_option){ 0 };
}

static void print_help(const psd_options_t *self, const char *word)
{
    static const struct {
        unsigned program;
        const char *about;
    } programs[] = {
        { PSD_PROGRAM_SERVER, "One server of a parameter-server training job: it holds a share of the "
                              "weights and trains them with the gradients that workers send." },
        { PSD_PROGRAM_WORKER,
          "One worker of a parameter-server training job: it computes gradients on its share of the data." },
        { PSD_PROGRAM_CTL, "A whole training job on this machine: servers, workers, progress and result." },
        { PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE, "The same job with several optimizers, on this machine." },
        { PSD_PROGRAM_CTL | PSD_PROGRAM_LAUNCH, "A whole training job on several machines, reached by ssh." },
    };
    const char *about = "";
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
        if (programs[i].program == self->program)
            about = programs[i].about;
    table_t *table = calloc(1, sizeof *table);
    char doc[400];
    if (!table)
        return;
    make_table(table, self->program, word);
    snprintf(doc, sizeof doc,
             "%s\vA flag goes before the environment (PSD_DATA__BATCH for --data-batch), that before the job "
             "file (data: {batch: 64}).",
             about);
    struct argp argp = { table->entry, NULL, "[JOB]", doc, NULL, NULL, NULL };
    setenv("ARGP_HELP_FMT", "no-dup-args-note", 0);
    argp_help(&argp, stdout, ARGP_HELP_STD_HELP & ~(unsigned)(ARGP_HELP_EXIT_OK),
              (char *)(uintptr_t)self->name);
    free(table);
}

/* Row of the flag `name` ("lease"), or N_ROWS; whoever's it is. */
static size_t find_flag(const char *name)
{
    char flag[64];
    size_t i = 0;
    for (; i < N_ROWS; i++) {
        psd_options_flag(rows[i].key, flag, sizeof flag);
        if (strcmp(flag + 2, name) == 0)
            break;
    }
    return i;
}

static int unknown_flag(const psd_options_t *self, const char *name, psd_err_t *err)
{
    static const char *const others[] = { "config", "help", "version" };
    char nearest[64] = "", flag[64], prefixed[64] = "";
    size_t closest = SIZE_MAX;
    for (size_t i = 0; i < N_ROWS; i++) {
        psd_options_flag(rows[i].key, flag, sizeof flag);
        if (!(rows[i].programs & self->program))
            continue;
        consider(name, flag + 2, nearest, sizeof nearest, &closest);
        if (!*prefixed &&
            (strncmp(name, flag + 2, strlen(name)) == 0 || strcmp(name, last_part(rows[i].key)) == 0))
            memcpy(prefixed, flag + 2, sizeof flag - 2);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        consider(name, others[i], nearest, sizeof nearest, &closest);
        if (strncmp(name, others[i], strlen(name)) == 0)
            snprintf(prefixed, sizeof prefixed, "%s", others[i]);
    }
    const char *meant = *prefixed ? prefixed : nearest;
    return psd_err_set(err, PSD_EUSAGE, "unknown option --%.60s; %s%s%s", name,
                       *meant ? "did you mean --" : "--help lists them all", meant, *meant ? "?" : "");
}

/* One long option: is it ours, whole, and does its value follow? Sets `*takes_next` when that is the next
 * word. */
static int check_flag(const psd_options_t *self, const char *word, bool *takes_next, psd_err_t *err)
{
    char name[80];
    size_t n = strcspn(word + 2, "=");
    bool has_value = word[2 + n] == '=';
    snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : 79, word + 2);
    *takes_next = false;
    if (strcmp(name, "help") == 0)
        return PSD_OK;
    if (strcmp(name, "version") == 0)
        return has_value ? psd_err_set(err, PSD_EUSAGE, "--version takes no value") : PSD_OK;
    size_t i = find_flag(name);
    if (i == N_ROWS && strcmp(name, "config") != 0)
        return unknown_flag(self, name, err);
    if (i < N_ROWS && !(rows[i].programs & self->program))
        return psd_err_set(err, PSD_EUSAGE, "--%s is an option of %s; in the job file, %s is fine", name,
                           rows[i].programs & PSD_PROGRAM_SERVER   ? "psd"
                           : rows[i].programs & PSD_PROGRAM_WORKER ? "psd-worker"
                           : rows[i].programs & PSD_PROGRAM_CTL    ? "psdctl run"
                           : rows[i].programs & PSD_PROGRAM_LAUNCH ? "psdctl launch"
                                                                   : "psdctl compare",
                           rows[i].key);
    *takes_next = !has_value && !(i < N_ROWS && row_types[i] == BOOL);
    return PSD_OK;
}

/* argp would take any unambiguous prefix for an option; a script that relies on one breaks when an option is
 * added. So every word is looked up before argp sees it. */
static int check_argv(const psd_options_t *self, int argc, char *const *argv, psd_err_t *err)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        bool takes_next = false;
        int rc = PSD_OK;
        if (strcmp(word, "--") == 0)
            return PSD_OK;
        if (strncmp(word, "--", 2) == 0)
            rc = check_flag(self, word, &takes_next, err);
        else if (word[0] == '-' && word[1] == 'c')
            takes_next = !word[2];
        else if (word[0] == '-' && word[1] && strcmp(word, "-h") != 0 && strcmp(word, "-V") != 0)
            rc = psd_err_set(err, PSD_EUSAGE, "unknown option %.60s; --help lists them all", word);
        if (rc)
            return rc;
        if (takes_next && i + 1 == argc)
            return psd_err_set(err, PSD_EUSAGE, "%s needs a value", word);
        i += takes_next;
    }
    return PSD_OK;
}

static error_t set_file(psd_options_t *self, const char *path)
{
    if (self->file) {
        complain(self, "two job files, %s and %s; one is wanted", self->file, path);
        return EINVAL;
    }
    self->file = strdup(path);
    return self->file ? 0 : ENOMEM;
}

static error_t on_argument(int key, char *arg, struct argp_state *state)
{
    psd_options_t *self = state->input;
    if (key >= KEY_ROW && key < KEY_ROW + N_ROWS) {
        char flag[64], why[WHY];
        psd_options_flag(rows[key - KEY_ROW].key, flag, sizeof flag);
        if (set_value(self, (size_t)(key - KEY_ROW), arg ? arg : "true", FROM_FLAG, flag, why))
            return 0;
        complain(self, "%s: %s", flag, why);
        return EINVAL;
    }
    switch (key) {
    case 'c':
    case ARGP_KEY_ARG:
        return set_file(self, arg);
    case 'h':
        print_help(self, arg);
        self->helped = true;
        return ECANCELED;
    case 'V':
        printf("%s %s\n", self->name, PSD_VERSION);
        self->helped = true;
        return ECANCELED;
    }
    return ARGP_ERR_UNKNOWN;
}

/* Flags win over all else and name the job file, so they are read first. */
static int load_argv(psd_options_t *self, int argc, char *const *argv, psd_err_t *err)
{
    int rc = check_argv(self, argc, argv, err);
    if (rc)
        return rc;
    table_t *table = calloc(1, sizeof *table);
    char **copy = calloc((size_t)argc + 1, sizeof *copy); /* argp reorders it */
    if (!table || !copy) {
        free(table);
        free(copy);
        return psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
    }
    memcpy(copy, argv, (size_t)argc * sizeof *copy);
    make_table(table, self->program, NULL);
    struct argp argp = { table->entry, on_argument, NULL, NULL, NULL, NULL, NULL };
    error_t failed = argp_parse(&argp, argc, copy, ARGP_NO_EXIT | ARGP_NO_HELP | ARGP_NO_ERRS, NULL, self);
    free(table);
    free(copy);
    if (self->helped)
        return 1;
    return self->n_complaints ? report(self, PSD_EUSAGE, err)
           : failed           ? psd_err_set(err, PSD_EUSAGE, "the command line cannot be read; try --help")
                              : PSD_OK;
}

int psd_options_load(psd_options_t *self, int argc, char *const *argv, psd_err_t *err)
{
    const char *slash = strrchr(argv[0], '/');
    self->name = slash ? slash + 1 : argv[0];
    int rc = load_argv(self, argc, argv, err);
    if (rc)
        return rc;
    if (self->file && (rc = load_file(self, err)) && rc != PSD_ECONFIG)
        return rc;
    load_environment(self);
    return self->n_complaints ? report(self, PSD_ECONFIG, err) : PSD_OK;
}

/* -- the object --------------------------------------------------------------------------------------------
 */

psd_options_t *psd_options_new(unsigned program)
{
    psd_options_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->program = program;
    for (size_t i = 0; i < N_ROWS; i++) {
        char why[WHY] = "";
        if (!set_value(self, i, rows[i].preset, FROM_TABLE, "default", why)) {
            assert(strcmp(why, "no memory") == 0); /* else the table contradicts itself */
            psd_options_destroy(&self);
            return NULL;
        }
    }
    return self;
}

void psd_options_destroy(psd_options_t **self_p)
{
    psd_options_t *self = *self_p;
    if (!self)
        return;
    for (size_t i = 0; i < N_ROWS; i++)
        value_clear(&self->value[i]);
    free(self->file);
    free(self->complaints);
    free(self);
    *self_p = NULL;
}

const char *psd_options_file(const psd_options_t *self) { return self->file ? self->file : ""; }

/* The value of a key that the code names: it exists, or the code is wrong. */
static const value_t *value_of(const psd_options_t *self, const char *key, unsigned type_mask)
{
    size_t i = find_row(key);
    assert(i < N_ROWS && (type_mask >> row_types[i] & 1));
    return &self->value[i];
}

#define ONE(type) (1u << (type))

const char *psd_options_string(const psd_options_t *self, const char *key)
{
    return value_of(self, key, ONE(STRING) | ONE(NAME) | ONE(ENDPOINT) | ONE(LISTEN))->text;
}

int64_t psd_options_int(const psd_options_t *self, const char *key)
{
    return value_of(self, key, ONE(INT))->i;
}

uint64_t psd_options_uint(const psd_options_t *self, const char *key)
{
    return value_of(self, key, ONE(UINT64) | ONE(SIZE))->u;
}

double psd_options_double(const psd_options_t *self, const char *key)
{
    return value_of(self, key, ONE(DOUBLE))->d;
}
bool psd_options_bool(const psd_options_t *self, const char *key)
{
    return value_of(self, key, ONE(BOOL))->u;
}
uint64_t psd_options_ms(const psd_options_t *self, const char *key)
{
    return value_of(self, key, ONE(DURATION))->u;
}

const int64_t *psd_options_list(const psd_options_t *self, const char *key, size_t *n)
{
    const value_t *value = value_of(self, key, ONE(LIST));
    *n = value->n_list;
    return value->list;
}

const double *psd_options_numbers(const psd_options_t *self, const char *key, size_t *n)
{
    const value_t *value = value_of(self, key, ONE(NUMBERS));
    *n = value->n_list;
    return value->real;
}

const char *const *psd_options_texts(const psd_options_t *self, const char *key, size_t *n)
{
    const value_t *value = value_of(self, key, ONE(TEXTS));
    *n = value->n_list;
    return (const char *const *)value->item;
}

const char *psd_options_text(const psd_options_t *self, const char *key)
{
    return value_of(self, key, ~0u)->text;
}
const char *psd_options_origin(const psd_options_t *self, const char *key)
{
    return value_of(self, key, ~0u)->origin;
}

const psd_option_t *psd_options_row(size_t index) { return index < N_ROWS ? &rows[index] : NULL; }

/* What a row takes, for people: the range says it all but for addresses and lists, whose kind must be said too. */
static void describe_type(size_t i, char *out, size_t capacity)
{
    char range[120];
    const char *what = types[row_types[i]].what;
    describe_range(rows[i].range, range, sizeof range);
    if (row_types[i] == LISTEN && *range)
        snprintf(out, capacity, "%s or %s", what, range);
    else if (is_list(row_types[i]) && *range)
        snprintf(out, capacity, "%s, each %s", what, range);
    else
        snprintf(out, capacity, "%s", *range ? range : what);
}

char *psd_options_markdown(void)
{
    static const char *const programs[] = { "psd", "psd-worker", "psdctl",
                                            "psdctl compare" }; /* in the order of psd_program_t's bits */
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out)
        return NULL;
    fputs("| key | takes | default | flag of | meaning |\n|---|---|---|---|---|\n", out);
    for (size_t i = 0; i < N_ROWS; i++) {
        const psd_option_t *row = &rows[i];
        char takes[200];
        describe_type(i, takes, sizeof takes);
        const char *quote = *row->preset ? "`" : "", *comma = "";
        fprintf(out, "| `%s` | %s | %s%s%s | ", row->key, takes, quote, row->preset, quote);
        for (unsigned p = 0; p < sizeof programs / sizeof *programs; p++)
            if (row->programs >> p & 1) {
                fprintf(out, "%s%s", comma, programs[p]);
                comma = ", ";
            }
        fprintf(out, " | %s |\n", row->help);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
