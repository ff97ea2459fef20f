#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/npz.h"

static psd_err_t err;
static psd_npz_t npz;
static unsigned char bytes[8192];
static size_t n;

/* A file written by numpy. */
static void load(const char *name)
{
    char path[400];
    snprintf(path, sizeof path, "%s/tests/fuzz/corpus/fuzz_npz/%s", PSD_SOURCE_DIR, name);
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
}

static int parse(void) { return psd_npz_read(&(psd_bytes_t){ "f", bytes, n }, &npz, &err); }
static void teardown(void) { psd_npz_clear(&npz); }
TestSuite(npz, .fini = teardown, .timeout = 60);

Test(npz, arrays_have_their_names_shapes_and_values)
{
    load("stored");
    cr_assert_eq(parse(), PSD_OK, "%s", err.text);
    cr_assert_eq(npz.n, 2);
    cr_expect_str_eq(npz.member[0].name, "0.weight");
    const psd_npy_t *a = &npz.member[0].array;
    cr_expect(a->n_dims == 2 && a->shape[0] == 2 && a->shape[1] == 3);
    for (size_t i = 0; i < 6; i++)
        cr_expect_eq(psd_npy_value(a, i), (double)i);
    psd_npz_clear(&npz);
    load("packed");
    cr_assert_eq(parse(), PSD_OK, "%s", err.text);
    cr_assert_eq(npz.n, 2);
    cr_expect_str_eq(npz.member[1].name, "step");
    cr_expect_eq(npz.member[1].array.n_dims, 0);
    cr_expect_eq(psd_npy_value(&npz.member[1].array, 0), 3);
    cr_expect_eq(psd_npy_value(&npz.member[0].array, 11), 1);
}

/* As psdctl export writes it. */
Test(npz, a_directory_is_found_by_the_record_of_zip64)
{
    load("wide");
    cr_assert_eq(parse(), PSD_OK, "%s", err.text);
    cr_assert_eq(npz.n, 2);
    cr_expect_str_eq(npz.member[0].name, "a");
    cr_expect_eq(npz.member[0].array.shape[0], 1100);
    cr_expect_eq(psd_npy_value(&npz.member[0].array, 2), 12);
    psd_npz_clear(&npz);
    unsigned char *locator = memmem(bytes, n, "PK\6\7", 4);
    cr_assert_not_null(locator);
    locator[15] = 1; /* far behind the end */
    cr_expect_eq(parse(), PSD_EDATA);
    cr_expect(strstr(err.text, "the place of its directory is missing"), "%s", err.text);
}

Test(npz, a_damaged_file_is_refused)
{
    load("stored");
    n -= 30;
    cr_expect_eq(parse(), PSD_EDATA);
    cr_expect_str_eq(err.text, "f: a damaged npz archive: it has no directory at its end; save it again with numpy.savez");
    psd_npz_clear(&npz);
    load("stored");
    unsigned char *data = memmem(bytes, n, "\0\0\x80\x3f", 4); /* 1.0 */
    cr_assert_not_null(data);
    data[2] ^= 1;
    cr_expect_eq(parse(), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, "a member's checksum is wrong"), "%s", err.text);
    psd_npz_clear(&npz);
    load("packed");
    unsigned char *directory = memmem(bytes, n, "PK\1\2", 4);
    directory[24]++;
    cr_expect_eq(parse(), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, "a member does not unpack to its size"), "%s", err.text);
}
