/* spec.c - the grammar of a codec, declared in codec.h:
 *   codec := name [ "(" number ")" ]
 * The number is there exactly when the codec takes an argument. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/words.h"
#include "common/codec/codec.h"
#include "common/config/number.h"

enum { WORD_TEXT = 16 };

typedef struct parser {
    const char *spec; /* the whole text */
    const char *at;   /* where the reader is */
    psd_err_t *err;   /* of the caller */
} parser_t;

static int fail(const parser_t *p, const char *at, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int fail(const parser_t *p, const char *at, const char *format, ...)
{
    char what[sizeof p->err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return psd_err_set(p->err, PSD_ECONFIG, "codec, column %zu: %s", (size_t)(at - p->spec) + 1, what);
}

static int fail_expected(const parser_t *p, const char *expected)
{
    const unsigned char found = (unsigned char)*p->at;
    if (found == '\0')
        return fail(p, p->at, "expected %s, found the end", expected);
    if (isprint(found))
        return fail(p, p->at, "expected %s, found '%c'", expected, found);
    return fail(p, p->at, "expected %s, found byte 0x%02x", expected, found);
}

static int fail_name(const parser_t *p, const char *at, const char *word)
{
    psd_nearest_t nearest = { 0 };
    char known[128] = "";
    for (size_t i = 0; psd_codec_at(i); i++) {
        const size_t used = strlen(known);
        psd_nearest_consider(&nearest, word, psd_codec_at(i)->name);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", psd_codec_at(i)->name);
    }
    if (*nearest.word)
        return fail(p, at, "unknown codec '%s'; the nearest is '%s'", word, nearest.word);
    return fail(p, at, "unknown codec '%s'; there are %s", word, known);
}

static void skip_spaces(parser_t *p) { p->at += strspn(p->at, " \t\r\n"); }

/* Skip spaces, then take `c` if it is next. */
static bool take(parser_t *p, char c)
{
    skip_spaces(p);
    if (*p->at != c)
        return false;
    p->at++;
    return true;
}

static int read_name(parser_t *p, const psd_codec_t **codec)
{
    char word[WORD_TEXT];
    skip_spaces(p);
    const char *at = p->at;
    const size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    if (n == 0)
        return fail_expected(p, "the name of a codec");
    if (n >= sizeof word)
        return fail(p, at, "expected the name of a codec, found a word of %zu letters", n);
    memcpy(word, at, n);
    word[n] = '\0';
    p->at += n;
    *codec = psd_codec_find(word);
    return *codec ? PSD_OK : fail_name(p, at, word);
}

static int read_argument(parser_t *p, const psd_codec_t *codec, double *argument)
{
    char min[PSD_NUMBER_TEXT], max[PSD_NUMBER_TEXT];
    if (!take(p, '('))
        return fail(p, p->at, "%s takes an argument, the %s: %s(0.01)", codec->name, codec->argument, codec->name);
    skip_spaces(p);
    const char *at = p->at;
    const size_t n = psd_number_read(at, argument);
    if (n == 0)
        return fail_expected(p, "a finite decimal number");
    p->at += n;
    if (!(*argument > codec->min && *argument <= codec->max))
        return fail(p, at, "%.*s of %s is out of range: it must be above %s and at most %s", n < 40 ? (int)n : 40, at, codec->name,
                    psd_number_print(codec->min, min), psd_number_print(codec->max, max));
    return take(p, ')') ? PSD_OK : fail_expected(p, "')'");
}

int psd_coding_parse(psd_coding_t *coding, const char *spec, psd_err_t *err)
{
    parser_t p = { .spec = spec, .at = spec, .err = err };
    psd_coding_t read = { 0 };
    int rc = read_name(&p, &read.codec);
    if (!rc && read.codec->argument)
        rc = read_argument(&p, read.codec, &read.argument);
    if (rc)
        return rc;
    skip_spaces(&p);
    if (*p.at == '(')
        return fail(&p, p.at, "%s takes no argument", read.codec->name);
    if (*p.at)
        return fail_expected(&p, "nothing more");
    *coding = read;
    return PSD_OK;
}

char *psd_coding_print(const psd_coding_t *coding, char buf[PSD_CODEC_TEXT])
{
    char number[PSD_NUMBER_TEXT];
    const psd_codec_t *codec = coding->codec ? coding->codec : psd_codec_at(0);
    if (codec->argument)
        snprintf(buf, PSD_CODEC_TEXT, "%s(%s)", codec->name, psd_number_print(coding->argument, number));
    else
        snprintf(buf, PSD_CODEC_TEXT, "%s", codec->name);
    return buf;
}
