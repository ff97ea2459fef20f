/* codec.h - how a chunk of floats becomes fewer bytes, and what comes back: the contract of a codec, the table of them,
 * and the grammar by which options name one: "f32", "bf16", "int8", "topk(0.01)", "sign".
 *
 * A chunk is coded as a whole. The number of bytes follows from the number of elements alone, and the bytes follow from
 * the values alone: the same on every instruction set and by every compiler, and so are the floats that come back. Bytes
 * that a peer has sent are checked once, by psd_codec_check(); any run of elements can then be decoded, by any thread, into
 * the floats that psd_aggregate() reads. Numbers are little-endian. The layouts are in the files of kernels/.
 *
 * Error feedback: what a code loses of a chunk stays with the sender, as its residual, and is added to the next one:
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
    PSD_MAX_CODED = 8,     /* no codec takes as many bytes for an element, however small the chunk */
    PSD_CODEC_BLOCK = 256, /* elements that share a scale; a run to decode begins at a multiple */
    PSD_CODEC_TEXT = 64    /* longest printed codec, with its end */
};

typedef struct psd_codec psd_codec_t;
struct psd_codec {
    const char *name;     /* "topk" */
    const char *summary;  /* one line for people */
    uint32_t number;      /* on the wire and in files, from 1; never given to another codec */
    const char *argument; /* what its one argument is, in a few words; NULL: it takes none */
    double min, max;      /* accepted range of the argument: above `min`, up to `max` */
    bool lossless;        /* what comes back has the same bits; all others leave a residual */
    bool keeps_nonfinite; /* Inf and NaN come back as such; all others cannot say them */
    bool needs_whole;     /* the code of an element depends on the whole chunk; else on its block at most */
    /* The bytes of `n` elements. All bytes 0 are the code of zeros, whatever the codec. */
    size_t (*n_bytes)(size_t n, double argument);
    /* Write the code of the elements [from, from + count) of a chunk of `n`; `y` are those elements alone, and begin at a
     * multiple of PSD_CODEC_BLOCK. All are finite unless the codec keeps others. With `needs_whole`, the run is the chunk. */
    void (*encode)(const float *y, size_t n, size_t from, size_t count, double argument, uint8_t *bytes);
    /* Whether the bytes, whose number is right, are a code of `n` elements; PSD_EPROTO with a sentence. NULL: all are. */
    int (*check)(const uint8_t *bytes, size_t n, double argument, psd_err_t *err);
    /* The inverse of `encode`, of bytes that have been checked. */
    void (*decode)(const uint8_t *bytes, size_t n, size_t from, size_t count, double argument, float *out);
};

/* A codec and the value of its argument, as an option or a message names them. All zero: f32. Plain data, copy freely. */
typedef struct psd_coding {
    const psd_codec_t *codec;
    double argument; /* 0 where it takes none */
} psd_coding_t;

/* What a job sends gradients in, and weights. All zero: f32. */
typedef struct psd_codings {
    psd_coding_t push, pull;
} psd_codings_t;

/* Read "bf16" or "topk(0.01)"; spaces are free. PSD_ECONFIG with the column, the reason and the nearest valid word when it
 * is none. (common/codec/spec.c) */
int psd_coding_parse(psd_coding_t *coding, const char *spec, psd_err_t *err);

/* Print it so that it parses back to the same; equal ones print alike. Returns `buf`. */
char *psd_coding_print(const psd_coding_t *coding, char buf[PSD_CODEC_TEXT]);

/* What a message or a file says: the codec of this number, with this argument. PSD_EPROTO when there is none, or it takes no
 * such argument. */
int psd_coding_of(psd_coding_t *coding, uint32_t number, double argument, psd_err_t *err);

/* The name and the number of its codec; whether what comes back has the same bits, so that there is no residual. */
const char *psd_coding_name(const psd_coding_t *coding);
uint32_t psd_coding_number(const psd_coding_t *coding);
bool psd_coding_is_lossless(const psd_coding_t *coding);

/* Bytes of a coded chunk of `n` elements. */
size_t psd_coding_bytes(const psd_coding_t *coding, size_t n);

/* Code the chunk g[0..n) into `bytes`, exactly psd_coding_bytes() of them, with error feedback by residual[0..n), which is
 * all 0 at birth; NULL: without. `g`, `residual` and `bytes` do not overlap. A lossless codec leaves the residual alone.
 *
 * False when a y is Inf or NaN. The residual is then as it was, and the bytes are a valid code, which the caller marks as
 * that of a gradient that is not finite: of the y themselves if the codec keeps such values, else of zeros. A lossless codec
 * does not look, and returns true. */
bool psd_coding_encode(const psd_coding_t *coding, const float *g, float *residual, size_t n, void *bytes);

/* Whether psd_coding_encode() would return true: it can then be asked of several chunks before any is encoded. */
bool psd_coding_can_say(const psd_coding_t *coding, const float *g, const float *residual, size_t n);

/* Whether `n_bytes` bytes from a peer are a coded chunk of `n` elements, to the last bit; PSD_EPROTO with a sentence why not.
 * What they decode to is finite, unless the codec keeps other values. */
int psd_coding_check(const psd_coding_t *coding, const void *bytes, size_t n_bytes, size_t n, psd_err_t *err);

/* Decode the elements [from, from + count) of a chunk of `n` that has been checked; `from` is a multiple of PSD_CODEC_BLOCK. The
 * result does not depend on how the elements are cut into calls. */
void psd_coding_decode(const psd_coding_t *coding, const void *bytes, size_t n, size_t from, size_t count, float *out);

/* The sum of squares of a chunk that has been checked: the bits of psd_sum_of_squares() of what it decodes to. It is finite exactly
 * when every value is. */
double psd_coding_sum_of_squares(const psd_coding_t *coding, const void *bytes, size_t n);

/* The i-th codec of the table in the order of documentation, NULL past its end. */
const psd_codec_t *psd_codec_at(size_t i);

/* By name; NULL when there is none. */
const psd_codec_t *psd_codec_find(const char *name);
