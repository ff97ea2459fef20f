/* codec.h - encodes a chunk of floats in fewer bytes, and decodes it: the contract of a codec, the table of them, and the grammar
 * by which options name one: "f32", "bf16", "int8", "topk(0.01)", "sign".
 *
 * A chunk is coded as a whole. The number of bytes depends only on the number of elements, and the bytes depend only on the values:
 * they are the same on every instruction set and with every compiler, and so are the decoded floats. Bytes that a peer has sent are
 * checked once, by psd_codec_check(); any run of elements can then be decoded, by any thread, into the floats that psd_aggregate()
 * reads. Numbers are little-endian. The layouts are in the files of kernels/.
 *
 * Error feedback: the sender keeps the part of a chunk that the code loses, its residual, and adds it to the next one:
 *   y = g + residual
 *   q = decode(encode(y))
 *   residual = y - q
 * each a float operation per element, rounded once. So a chunk is encoded once, and its bytes are kept until they have
 * arrived: encoding it again would give other bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    PSD_CODEC_F32 = 1,     /* number of f32 */
    PSD_MAX_CODEC = 5,     /* highest number of a codec */
    PSD_MAX_CODED = 8,     /* every codec takes fewer bytes for an element, however small the chunk */
    PSD_CODEC_BLOCK = 256, /* elements that share a scale; a run to decode begins at a multiple */
    PSD_CODEC_TEXT = 64    /* longest printed codec, with its end */
};

typedef struct psd_codec psd_codec_t;
struct psd_codec {
    const char *name;     /* "topk" */
    const char *summary;  /* one line for people */
    uint32_t number;      /* on the wire and in files, from 1; never given to another codec */
    const char *argument; /* the meaning of its argument, in a few words; NULL: it takes none */
    double min, max;      /* accepted range of the argument: above `min`, up to `max` */
    bool lossless;        /* decoded values have the same bits; other codecs leave a residual */
    bool keeps_nonfinite; /* it encodes Inf and NaN; other codecs cannot */
    bool needs_whole;     /* the code of an element depends on the whole chunk; otherwise at most on its block */
    /* The bytes of `n` elements. All bytes 0 are the code of zeros, whatever the codec. */
    size_t (*n_bytes)(size_t n, double argument);
    /* Write the code of the elements [from, from + count) of a chunk of `n`; `y` holds only those elements, and begins at a
     * multiple of PSD_CODEC_BLOCK. All are finite, unless the codec encodes Inf and NaN. With `needs_whole`, the run is the whole
     * chunk. */
    void (*encode)(const float *y, size_t n, size_t from, size_t count, double argument, uint8_t *bytes);
    /* Check that the bytes, whose number is right, are a code of `n` elements; PSD_EPROTO with a sentence. NULL: any bytes are. */
    int (*check)(const uint8_t *bytes, size_t n, double argument, psd_err_t *err);
    /* The inverse of `encode`, of bytes that have been checked. */
    void (*decode)(const uint8_t *bytes, size_t n, size_t from, size_t count, double argument, float *out);
};

/* A codec and the value of its argument, as options and messages name them. All zero: f32. Plain data, copy freely. */
typedef struct psd_coding {
    const psd_codec_t *codec;
    double argument; /* 0 if it takes none */
} psd_coding_t;

/* The codings of a job's gradients and weights. All zero: f32. */
typedef struct psd_codings {
    psd_coding_t push, pull;
} psd_codings_t;

/* Read "bf16" or "topk(0.01)"; spaces are free. PSD_ECONFIG with the column, the reason and the nearest valid word when it
 * is none. (common/codec/spec.c) */
int psd_coding_parse(psd_coding_t *coding, const char *spec, psd_err_t *err);

/* Print it so that it parses back to the same coding; equal ones print alike. Returns `buf`. */
char *psd_coding_print(const psd_coding_t *coding, char buf[PSD_CODEC_TEXT]);

/* From a message or a file: the codec with this number, with this argument. PSD_EPROTO when there is no such codec, or it does not
 * accept the argument. */
int psd_coding_of(psd_coding_t *coding, uint32_t number, double argument, psd_err_t *err);

/* The name and the number of its codec; whether decoded values have the same bits, so that there is no residual. */
const char *psd_coding_name(const psd_coding_t *coding);
uint32_t psd_coding_number(const psd_coding_t *coding);
bool psd_coding_is_lossless(const psd_coding_t *coding);

/* Bytes of a coded chunk of `n` elements. */
size_t psd_coding_bytes(const psd_coding_t *coding, size_t n);

/* Code the chunk g[0..n) into `bytes`, exactly psd_coding_bytes() of them, with error feedback by residual[0..n), which is all 0 at
 * first; NULL: without. `g`, `residual` and `bytes` do not overlap. A lossless codec does not change the residual.
 *
 * False when a y is Inf or NaN. Then the residual does not change, and the bytes are a valid code, which the caller must mark as
 * not finite: of the y themselves if the codec encodes such values, otherwise of zeros. A lossless codec does not check, and
 * returns true. */
bool psd_coding_encode(const psd_coding_t *coding, const float *g, float *residual, size_t n, void *bytes);

/* Whether psd_coding_encode() would return true, so that a caller can ask for several chunks before it encodes any. */
bool psd_coding_can_say(const psd_coding_t *coding, const float *g, const float *residual, size_t n);

/* Check that `n_bytes` bytes from a peer are a coded chunk of `n` elements, to the last bit; PSD_EPROTO with the reason. Decoded
 * values are then finite, unless the codec encodes Inf and NaN. */
int psd_coding_check(const psd_coding_t *coding, const void *bytes, size_t n_bytes, size_t n, psd_err_t *err);

/* Decode the elements [from, from + count) of a chunk of `n` that has been checked; `from` is a multiple of PSD_CODEC_BLOCK. The
 * result does not depend on how the elements are cut into calls. */
void psd_coding_decode(const psd_coding_t *coding, const void *bytes, size_t n, size_t from, size_t count, float *out);

/* The sum of squares of a chunk that has been checked, with the bits of psd_sum_of_squares() of its decoded values. It is finite
 * exactly when every value is. */
double psd_coding_sum_of_squares(const psd_coding_t *coding, const void *bytes, size_t n);

/* The i-th codec of the table in the order of documentation, NULL past its end. */
const psd_codec_t *psd_codec_at(size_t i);

/* By name; NULL when there is none. */
const psd_codec_t *psd_codec_find(const char *name);
