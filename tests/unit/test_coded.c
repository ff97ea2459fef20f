#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "proto/actions.h"
#include "proto/coded.h"

/* A part of three chunks. */
enum { A = 700, B = 40, C = 3, ALL = A + B + C };

static psd_partition_t map;
static psd_err_t err;

static void setup(void)
{
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ A, B, C }, 3, 1, PSD_MOST_OF_PART, NULL), PSD_OK);
    cr_assert(map.n_parts[0] == 1 && map.part[0][0].n_chunks == 3);
}
static void teardown(void) { psd_partition_clear(&map); }
TestSuite(coded, .init = setup, .fini = teardown, .timeout = 600);

/* A payload of 1, 2, 3, ..., with `n_more` bytes after its codes. */
static psd_buf_t *make(const psd_coding_t *coding, size_t n_more)
{
    float x[ALL];
    psd_buf_t *payload = psd_buf_new(psd_coded_bytes(coding, &map, 0, 0) + n_more);
    uint8_t *code = payload->data;
    memset(code, 0, payload->n_bytes);
    for (size_t i = 0; i < ALL; i++)
        x[i] = (float)(i + 1);
    for (uint32_t i = 0; i < 3; i++) {
        psd_coding_encode(coding, x + map.chunk[i].at, NULL, map.chunk[i].n, code);
        code += psd_coding_bytes(coding, map.chunk[i].n);
    }
    return payload;
}

static int check(const psd_coding_t *coding, psd_buf_t *payload, bool has_bitmap)
{
    return psd_coded_check(coding, &map, 0, 0, payload, has_bitmap, &err);
}

static const char *const specs[] = { "f32", "bf16", "int8", "topk(0.1)", "sign" };

Test(coded, a_part_is_as_long_as_the_codes_of_its_chunks_and_no_other_length_is_one)
{
    /* 3, 1 and 1 blocks; ceil(0.1 n) is 70, 4 and 1; ceil(n / 8) is 88, 5 and 1. */
    static const size_t lengths[] = { 4 * ALL, 2 * ALL, ALL + 4 * 5, 5 * 75 + 2 * 5, 4 * 5 + 2 * 94 };
    for (size_t i = 0; i < 5; i++) {
        psd_coding_t coding;
        cr_assert_eq(psd_coding_parse(&coding, specs[i], NULL), PSD_OK);
        cr_expect_eq(psd_coded_bytes(&coding, &map, 0, 0), lengths[i], "%s", specs[i]);
        psd_buf_t *payload = make(&coding, 2);
        for (payload->n_bytes = 1; payload->n_bytes <= lengths[i] + 2; payload->n_bytes++) {
            cr_expect_eq(check(&coding, payload, false) == PSD_OK, payload->n_bytes == lengths[i], "%s", specs[i]);
            cr_expect_eq(check(&coding, payload, true) == PSD_OK, payload->n_bytes == lengths[i] + 1, "%s", specs[i]);
        }
        psd_buf_unref(&payload);
    }
}

Test(coded, squares_are_those_of_the_chunks_that_there_are)
{
    const psd_coding_t f32 = { 0 };
    uint32_t bad;
    psd_buf_t *payload = make(&f32, 1);
    uint8_t *bitmap = (uint8_t *)payload->data + 4 * ALL;
    *bitmap = 1 | 4;
    cr_expect(psd_coded_has(payload, 4 * ALL, 0) && !psd_coded_has(payload, 4 * ALL, 1) && psd_coded_has(payload, 4 * ALL, 2));
    /* The sum of squares to n is n (n + 1) (2 n + 1) / 6: to 700, and 741 ^ 2 + 742 ^ 2 + 743 ^ 2. */
    cr_expect_eq(psd_coded_squares(&f32, &map, 0, 0, payload, &bad), 114578450.0 + 1651694.0);
    cr_expect_eq(bad, 0);
    ((float *)payload->data)[A] = INFINITY; /* in the chunk that is not sent */
    psd_coded_squares(&f32, &map, 0, 0, payload, &bad);
    cr_expect_eq(bad, 0);
    ((float *)payload->data)[ALL - 1] = NAN;
    psd_coded_squares(&f32, &map, 0, 0, payload, &bad);
    cr_expect_eq(bad, 3);
    psd_buf_unref(&payload);
}

Test(coded, the_first_chunk_that_cannot_be_decoded_is_named)
{
    const psd_coding_t sign = { psd_codec_find("sign"), 0 };
    psd_buf_t *payload = make(&sign, 1);
    float nan = NAN;
    memcpy((uint8_t *)payload->data + psd_coding_bytes(&sign, A), &nan, sizeof nan); /* the scale of the second chunk */
    ((uint8_t *)payload->data)[payload->n_bytes - 1] = 7;
    cr_expect_eq(check(&sign, payload, true), PSD_EPROTO);
    cr_expect_not_null(strstr(err.text, "chunk 1: "), "%s", err.text);
    ((uint8_t *)payload->data)[payload->n_bytes - 1] = 5;
    cr_expect_eq(check(&sign, payload, true), PSD_OK);
    psd_buf_unref(&payload);
}
