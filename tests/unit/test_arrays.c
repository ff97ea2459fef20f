#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "deploy/psdctl/inspect/arrays.h"

/* Files of arrays are as other programs expect them, in whatever order their pieces came. */

static char directory[] = "/tmp/test_arrays_XXXXXX", path[64];
static uint8_t file[1 << 16];
static size_t n_file;

static void setup(void)
{
    cr_assert_not_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/arrays", directory);
}

static void teardown(void)
{
    unlink(path);
    cr_expect_eq(rmdir(directory), 0, "no other file is left");
}

TestSuite(arrays, .init = setup, .fini = teardown, .timeout = 600);

static const psd_array_t list[] = { { .name = "fc1.weight", .n_dims = 2, .shape = { 2, 3 } },
                                    { .name = "scale" },
                                    { .name = "fc1.bias", .n_dims = 1, .shape = { 4 } } };
static const float weight[] = { 1, 2, 3, 4, 5, 6 }, scale = 7, bias[] = { 8, 9, 10, 11 };

/* Write the three arrays, from the last piece to the first. */
static void write_all(const psd_arrays_format_t *format)
{
    const psd_note_t note = { "format", "pt" };
    psd_err_t err = { 0 };
    psd_arrays_t *arrays = psd_arrays_new(format, path, list, 3, &note, 1, &err);
    cr_assert_not_null(arrays, "%s", err.text);
    cr_assert_eq(psd_arrays_write(arrays, 2, 3, bias + 3, 1, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_arrays_write(arrays, 2, 0, bias, 3, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_arrays_write(arrays, 1, 0, &scale, 1, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_arrays_write(arrays, 0, 2, weight + 2, 4, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_arrays_write(arrays, 0, 0, weight, 2, &err), PSD_OK, "%s", err.text);
    cr_assert_neq(access(path, F_OK), 0, "the file has its name only when it is whole");
    cr_assert_eq(psd_arrays_end(&arrays, &err), PSD_OK, "%s", err.text);
    cr_assert_null(arrays);
}

static void read_file(void)
{
    FILE *in = fopen(path, "rb");
    cr_assert_not_null(in);
    n_file = fread(file, 1, sizeof file, in);
    fclose(in);
}

static uint64_t number(size_t at, int n_bytes)
{
    uint64_t value = 0;
    cr_assert_leq(at + (size_t)n_bytes, n_file);
    for (int i = n_bytes; i-- > 0;)
        value = value << 8 | file[at + (size_t)i];
    return value;
}

Test(arrays, safetensors_are_read_back_as_they_were)
{
    psd_safetensors_t st;
    psd_err_t err = { 0 };
    float got[6];
    write_all(psd_arrays_format_at(0));
    cr_assert_str_eq(psd_arrays_format_at(0)->name, "safetensors");
    cr_assert_eq(psd_safetensors_open(&st, path, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_safetensors_parse(&st, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(st.n_entries, 3);
    cr_expect_str_eq(psd_safetensors_note(&st, "format"), "pt");
    cr_expect_str_eq(st.entry[1].name, "scale");
    cr_expect_eq(st.entry[1].n_dims, 0);
    cr_assert_eq(psd_safetensors_read(&st, &st.entry[0], got, &err), PSD_OK);
    cr_expect_arr_eq(got, weight, sizeof weight);
    cr_assert_eq(psd_safetensors_read(&st, &st.entry[2], got, &err), PSD_OK);
    cr_expect_arr_eq(got, bias, sizeof bias);
    psd_safetensors_close(&st);
}

/* The entry that the directory's line at `*line` is of: its .npy begins at the result and has `*n` bytes.
 * Lines and heads as in section 4.3 of zip's APPNOTE, sizes and offset in zip64's field (4.5.3). */
static size_t entry_at(size_t *line, const char *name, size_t *n)
{
    const size_t n_name = number(*line + 28, 2), extra = *line + 46 + n_name;
    cr_assert_eq(number(*line, 4), 0x02014b50);
    cr_assert_eq(n_name, strlen(name));
    cr_expect_arr_eq(file + *line + 46, name, n_name);
    cr_expect_eq(number(*line + 20, 4) & number(*line + 24, 4) & number(*line + 42, 4), UINT32_MAX);
    cr_assert_eq(number(extra, 2), 1);
    *n = number(extra + 4, 8);
    cr_expect_eq(number(extra + 12, 8), *n, "stored: both sizes are one");
    const size_t local = number(extra + 20, 8), begin = local + 30 + number(local + 26, 2) + number(local + 28, 2);
    cr_assert_eq(number(local, 4), 0x04034b50);
    cr_expect_arr_eq(file + local + 30, name, n_name);
    cr_expect_eq(number(local + 30 + n_name + 4, 8), *n);
    cr_assert_leq(begin + *n, n_file);
    const uLong crc = crc32(0, file + begin, (uInt)*n);
    cr_expect_eq(number(local + 14, 4), crc, "the CRC of %s before its data", name);
    cr_expect_eq(number(*line + 16, 4), crc, "and in the directory");
    *line = extra + 4 + number(extra + 2, 2);
    return begin;
}

static void expect_npy(size_t *line, const char *name, const char *shape, const float *values, size_t n_values)
{
    char words[128];
    size_t n, begin = entry_at(line, name, &n);
    const size_t n_words = number(begin + 8, 2), data = 10 + n_words;
    const int length = snprintf(words, sizeof words, "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", shape);
    cr_expect_arr_eq(file + begin, "\x93NUMPY\x01\x00", 8);
    cr_expect_eq(data % 64, 0, "data of %s begin at %zu", name, data);
    cr_expect_arr_eq(file + begin + 10, words, (size_t)length, "%s", name);
    cr_expect_eq(file[begin + data - 1], '\n');
    cr_assert_eq(n, data + n_values * sizeof *values);
    cr_expect_arr_eq(file + begin + data, values, n_values * sizeof *values);
}

Test(arrays, an_npz_has_each_array_as_a_stored_npy_with_its_crc)
{
    cr_assert_str_eq(psd_arrays_format_at(1)->name, "npz");
    write_all(psd_arrays_format_at(1));
    read_file();
    /* From the end: the last record has 22 bytes, the locator of zip64's own 20, that one 56. */
    const size_t last = n_file - 22, locator = last - 20, end = number(locator + 8, 8);
    cr_assert_eq(number(last, 4), 0x06054b50);
    cr_assert_eq(number(locator, 4), 0x07064b50);
    cr_assert_eq(end, locator - 56);
    cr_assert_eq(number(end, 4), 0x06064b50);
    cr_expect_eq(number(end + 24, 8), 3);
    cr_expect_eq(number(end + 32, 8), 3);
    size_t line = number(end + 48, 8);
    cr_expect_eq(line + number(end + 40, 8), end);
    expect_npy(&line, "fc1.weight.npy", "(2, 3,)", weight, 6);
    expect_npy(&line, "scale.npy", "()", &scale, 1);
    expect_npy(&line, "fc1.bias.npy", "(4,)", bias, 4);
    cr_expect_eq(line, end);
}

Test(arrays, an_npz_of_nothing_is_zips_last_record)
{
    static const uint8_t wanted[22] = "PK\5\6";
    psd_err_t err = { 0 };
    psd_arrays_t *arrays = psd_arrays_new(psd_arrays_format_at(1), path, NULL, 0, NULL, 0, &err);
    cr_assert_not_null(arrays);
    cr_assert_eq(psd_arrays_end(&arrays, &err), PSD_OK, "%s", err.text);
    read_file();
    cr_assert_eq(n_file, sizeof wanted);
    cr_expect_arr_eq(file, wanted, sizeof wanted);
}

Test(arrays, an_abandoned_file_leaves_the_old_one)
{
    write_all(psd_arrays_format_at(0));
    for (size_t i = 0; psd_arrays_format_at(i); i++) {
        psd_err_t err = { 0 };
        psd_arrays_t *arrays = psd_arrays_new(psd_arrays_format_at(i), path, list, 3, NULL, 0, &err);
        cr_assert_not_null(arrays);
        cr_assert_eq(psd_arrays_write(arrays, 1, 0, &(const float){ -1 }, 1, &err), PSD_OK);
        psd_arrays_abandon(&arrays);
        cr_assert_null(arrays);
    }
    read_file();
    cr_expect_eq(number(4096 + sizeof weight, 4), 0x40e00000, "scale is 7 still");
}
