/* codings.h - helpers for the tests of single codecs: code a few values on every instruction set, and compare bytes. */
#pragma once

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec/codec.h"
#include "common/optim/isa.h"

static inline psd_coding_t coding_of(const char *spec)
{
    psd_coding_t coding = { 0 };
    psd_err_t err = { .text = "" };
    cr_assert_eq(psd_coding_parse(&coding, spec, &err), PSD_OK, "%s: %s", spec, err.text);
    return coding;
}

/* The code of values on every instruction set, without a residual. */
static inline void expect_code(const char *spec, const float *y, size_t n, const uint8_t *expected, size_t n_expected)
{
    const psd_coding_t coding = coding_of(spec);
    cr_assert_eq(psd_coding_bytes(&coding, n), n_expected, "%s: %zu bytes", spec, psd_coding_bytes(&coding, n));
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        uint8_t *code = malloc(n_expected + 1);
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        cr_assert(psd_coding_encode(&coding, y, NULL, n, code));
        for (size_t i = 0; i < n_expected; i++)
            cr_expect_eq(code[i], expected[i], "%s on %s: byte %zu is 0x%02x instead of 0x%02x", spec, psd_isa_name(), i, code[i],
                         expected[i]);
        free(code);
    }
}

/* Check the decoded values of bytes, bit for bit, on every instruction set. */
static inline void expect_values(const char *spec, const uint8_t *code, size_t n_code, const float *expected, size_t n)
{
    const psd_coding_t coding = coding_of(spec);
    psd_err_t err = { .text = "" };
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        float *out = malloc(n * sizeof *out + 1);
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        cr_assert_eq(psd_coding_check(&coding, code, n_code, n, &err), PSD_OK, "%s", err.text);
        psd_coding_decode(&coding, code, n, 0, n, out);
        for (size_t i = 0; i < n; i++)
            cr_expect_eq(memcmp(&out[i], &expected[i], sizeof *out), 0, "%s on %s: value %zu is %a instead of %a", spec,
                         psd_isa_name(), i, (double)out[i], (double)expected[i]);
        free(out);
    }
}

/* Check that bytes are refused with this sentence. */
static inline void expect_refused(const char *spec, const uint8_t *code, size_t n_code, size_t n, const char *sentence)
{
    const psd_coding_t coding = coding_of(spec);
    psd_err_t err = { .text = "" };
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        cr_expect_eq(psd_coding_check(&coding, code, n_code, n, &err), PSD_EPROTO, "%s", sentence);
        cr_expect_str_eq(err.text, sentence, "%s: '%s' instead of '%s'", psd_isa_name(), err.text, sentence);
    }
}

/* Code y[0..n), with a residual of 0, and decode it. */
static inline void there_and_back(const char *spec, const float *y, float *residual, float *out, size_t n)
{
    const psd_coding_t coding = coding_of(spec);
    uint8_t *code = malloc(psd_coding_bytes(&coding, n) + 1);
    psd_err_t err = { .text = "" };
    cr_assert(psd_coding_encode(&coding, y, residual, n, code));
    cr_assert_eq(psd_coding_check(&coding, code, psd_coding_bytes(&coding, n), n, &err), PSD_OK, "%s", err.text);
    psd_coding_decode(&coding, code, n, 0, n, out);
    free(code);
}
