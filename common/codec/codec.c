#include "common/codec/codec.h"

#include <assert.h>
#include <string.h>

#include "common/base/lanes.h"
#include "common/optim/kernels/kernel.h"

/* Elements coded at a time: few enough that they, their residual and their decoded values stay in the first-level cache. */
enum { RUN = 8 * PSD_CODEC_BLOCK };

/* ---- the table ---- */

/* The rows by which the program identifies codecs; those of other instruction sets differ only in their functions. */
static const psd_codec_t *const *table(void) { return psd_isa_plainest()->codecs; }

const psd_codec_t *psd_codec_at(size_t i)
{
    size_t n = 0;
    while (table()[n])
        n++;
    return i < n ? table()[i] : NULL;
}

const psd_codec_t *psd_codec_find(const char *name)
{
    for (size_t i = 0; table()[i]; i++)
        if (strcmp(table()[i]->name, name) == 0)
            return table()[i];
    return NULL;
}

int psd_coding_of(psd_coding_t *coding, uint32_t number, double argument, psd_err_t *err)
{
    for (size_t i = 0; table()[i]; i++) {
        const psd_codec_t *codec = table()[i];
        if (codec->number != number)
            continue;
        if (codec->argument ? !(argument > codec->min && argument <= codec->max) : argument != 0)
            return psd_err_set(err, PSD_EPROTO, "codec %s has an argument of %g", codec->name, argument);
        *coding = (psd_coding_t){ codec, argument };
        return PSD_OK;
    }
    return psd_err_set(err, PSD_EPROTO, "there is no codec %u", number);
}

/* The codec's row in the table of the instruction set in use; that of f32 is the first. */
static const psd_codec_t *active(const psd_coding_t *coding)
{
    size_t row = 0;
    while (coding->codec && table()[row] && table()[row] != coding->codec)
        row++;
    assert(table()[row]); /* codings come from psd_coding_parse() and psd_coding_of() */
    return psd_isa_active()->codecs[row];
}

/* ---- encoding and decoding ---- */

const char *psd_coding_name(const psd_coding_t *coding) { return active(coding)->name; }
uint32_t psd_coding_number(const psd_coding_t *coding) { return active(coding)->number; }
bool psd_coding_is_lossless(const psd_coding_t *coding) { return active(coding)->lossless; }

size_t psd_coding_bytes(const psd_coding_t *coding, size_t n) { return active(coding)->n_bytes(n, coding->argument); }

static size_t run_at(size_t n, size_t from, size_t longest) { return n - from < longest ? n - from : longest; }

/* y = g + residual; without a residual, y = g. */
static const float *add(float *y, const float *g, const float *residual, size_t n)
{
    if (!residual)
        return g;
    psd_isa_active()->feedback_add(y, g, residual, n);
    return y;
}

/* residual = y - decoded value, for the run [from, from + n), which has been encoded. */
static void keep_rest(const psd_coding_t *coding, const uint8_t *bytes, size_t n_chunk, size_t from, size_t n, const float *y,
                      float *residual)
{
    float back[RUN];
    active(coding)->decode(bytes, n_chunk, from, n, coding->argument, back);
    psd_isa_active()->feedback_take(residual, y, back, n);
}

/* The largest values of a chunk are chosen among all its y, so these are formed in place of the residual. */
static void encode_whole(const psd_coding_t *coding, const float *g, float *residual, size_t n, uint8_t *bytes)
{
    active(coding)->encode(add(residual, g, residual, n), n, 0, n, coding->argument, bytes);
    for (size_t from = 0; residual && from < n; from += RUN)
        keep_rest(coding, bytes, n, from, run_at(n, from, RUN), residual + from, residual + from);
}

bool psd_coding_can_say(const psd_coding_t *coding, const float *g, const float *residual, size_t n)
{
    return active(coding)->lossless || psd_isa_active()->feedback_is_finite(g, residual, n);
}

bool psd_coding_encode(const psd_coding_t *coding, const float *g, float *residual, size_t n, void *bytes)
{
    const psd_codec_t *codec = active(coding);
    if (codec->lossless) {
        codec->encode(g, n, 0, n, coding->argument, bytes);
        return true;
    }
    const bool is_finite = psd_isa_active()->feedback_is_finite(g, residual, n);
    if (!is_finite && !codec->keeps_nonfinite) {
        memset(bytes, 0, psd_coding_bytes(coding, n));
        return false;
    }
    if (codec->needs_whole) {
        encode_whole(coding, g, residual, n, bytes);
        return is_finite;
    }
    for (size_t from = 0; from < n; from += RUN) {
        const size_t count = run_at(n, from, RUN);
        float room[RUN];
        const float *y = add(room, g + from, residual ? residual + from : NULL, count);
        codec->encode(y, n, from, count, coding->argument, bytes);
        if (residual && is_finite)
            keep_rest(coding, bytes, n, from, count, y, residual + from);
    }
    return is_finite;
}

int psd_coding_check(const psd_coding_t *coding, const void *bytes, size_t n_bytes, size_t n, psd_err_t *err)
{
    const psd_codec_t *codec = active(coding);
    const size_t expected = psd_coding_bytes(coding, n);
    if (n_bytes != expected)
        return psd_err_set(err, PSD_EPROTO, "%s: %zu bytes for %zu values; expected %zu", codec->name, n_bytes, n, expected);
    return codec->check ? codec->check(bytes, n, coding->argument, err) : PSD_OK;
}

void psd_coding_decode(const psd_coding_t *coding, const void *bytes, size_t n, size_t from, size_t count, float *out)
{
    assert(from % PSD_CODEC_BLOCK == 0 && from <= n && count <= n - from);
    active(coding)->decode(bytes, n, from, count, coding->argument, out);
}

double psd_coding_sum_of_squares(const psd_coding_t *coding, const void *bytes, size_t n)
{
    psd_lanes_t sum = { 0 };
    float run[RUN];
    for (size_t from = 0; from < n; from += RUN) {
        const size_t count = run_at(n, from, RUN);
        psd_coding_decode(coding, bytes, n, from, count, run);
        psd_isa_active()->squares(sum, run, count);
    }
    return psd_lanes_total(sum);
}
