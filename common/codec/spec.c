/* spec.c - the grammar of a codec, declared in codec.h:
 *   codec := name [ "(" number ")" ]
 * The number is required if the codec takes an argument, and an error otherwise. */
#include <stdio.h>
#include <string.h>

#include "common/base/scanner.h"
#include "common/base/words.h"
#include "common/codec/codec.h"
#include "common/config/number.h"

static int fail_name(const psd_scanner_t *p, const char *at, const char *word)
{
    psd_nearest_t nearest = { 0 };
    char known[128] = "";
    for (size_t i = 0; psd_codec_at(i); i++) {
        const size_t used = strlen(known);
        psd_nearest_consider(&nearest, word, psd_codec_at(i)->name);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", psd_codec_at(i)->name);
    }
    if (*nearest.word)
        return psd_scanner_fail(p, at, "unknown codec '%s'; the nearest is '%s'", word, nearest.word);
    return psd_scanner_fail(p, at, "unknown codec '%s'; there are %s", word, known);
}

static int read_name(psd_scanner_t *p, const psd_codec_t **codec)
{
    char word[PSD_SCANNER_WORD];
    const int rc = psd_scanner_word(p, word, "the name of a codec");
    if (rc)
        return rc;
    *codec = psd_codec_find(word);
    return *codec ? PSD_OK : fail_name(p, p->at - strlen(word), word);
}

static int read_argument(psd_scanner_t *p, const psd_codec_t *codec, double *argument)
{
    char min[PSD_NUMBER_TEXT], max[PSD_NUMBER_TEXT];
    if (!psd_scanner_take(p, '('))
        return psd_scanner_fail(p, p->at, "%s takes an argument, the %s: %s(0.01)", codec->name, codec->argument, codec->name);
    psd_scanner_skip_spaces(p);
    const char *at = p->at;
    const size_t n = psd_number_read(at, argument);
    if (n == 0)
        return psd_scanner_expected(p, "a finite decimal number");
    p->at += n;
    if (!(*argument > codec->min && *argument <= codec->max))
        return psd_scanner_fail(p, at, "%.*s of %s is out of range: it must be above %s and at most %s", n < 40 ? (int)n : 40, at,
                                codec->name, psd_number_print(codec->min, min), psd_number_print(codec->max, max));
    return psd_scanner_take(p, ')') ? PSD_OK : psd_scanner_expected(p, "')'");
}

int psd_coding_parse(psd_coding_t *coding, const char *spec, psd_err_t *err)
{
    psd_scanner_t p = { .what = "codec", .text = spec, .at = spec, .err = err };
    psd_coding_t read = { 0 };
    int rc = read_name(&p, &read.codec);
    if (!rc && read.codec->argument)
        rc = read_argument(&p, read.codec, &read.argument);
    if (rc)
        return rc;
    psd_scanner_skip_spaces(&p);
    if (*p.at == '(')
        return psd_scanner_fail(&p, p.at, "%s takes no argument", read.codec->name);
    if (*p.at)
        return psd_scanner_expected(&p, "nothing more");
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
