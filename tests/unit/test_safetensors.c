#include <criterion/criterion.h>
#include <math.h>
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/safetensors.h"

static psd_err_t err;
static const float a[6] = { 1, 2, 3, 4, 5, 6 }, b[1] = { -0.5f };
static const psd_saved_t tensors[] = {
    { "fc1.weight", (const uint64_t[]){ 2, 3 }, 2, a, 6 },
    { "scalar", NULL, 0, b, 1 },
};
static const psd_note_t notes[] = { { "format", "pt" }, { "psd.optimizer", "adam(lr=\"x\")" } };

TestSuite(safetensors, .timeout = 600);

Test(safetensors, the_file_is_what_the_format_says)
{
    char dir[] = "/tmp/psd-test-XXXXXX", path[64], bytes[8192];
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/w.safetensors", dir);
    cr_assert_eq(psd_safetensors_write(path, tensors, 2, notes, 2, &err), PSD_OK, "%s", err.text);
    FILE *file = fopen(path, "rb");
    const size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    uint64_t header;
    memcpy(&header, bytes, 8);
    cr_assert_eq((8 + header) % 4096, 0, "data start at a page");
    cr_assert_eq(n, 8 + header + 28);
    cr_assert_arr_eq(bytes + 8 + header, a, sizeof a);
    cr_assert_arr_eq(bytes + 8 + header + sizeof a, b, sizeof b);
    cr_assert_eq(bytes[8], '{');
    json_t *root = json_loadb(bytes + 8, header, JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(root);
    const char *dtype, *note;
    int rows, columns, begin, end;
    cr_assert_eq(json_unpack(root, "{s:{s:s,s:[i,i!],s:[i,i!]!}}", "fc1.weight", "dtype", &dtype, "shape", &rows, &columns,
                             "data_offsets", &begin, &end),
                 0);
    cr_assert_str_eq(dtype, "F32");
    cr_assert(rows == 2 && columns == 3 && begin == 0 && end == 24);
    cr_assert_eq(json_unpack(root, "{s:{s:[!],s:[i,i!]}}", "scalar", "shape", "data_offsets", &begin, &end), 0);
    cr_assert(begin == 24 && end == 28);
    cr_assert_eq(json_unpack(root, "{s:{s:s}}", "__metadata__", "psd.optimizer", &note), 0);
    cr_assert_str_eq(note, notes[1].value);
    json_decref(root);
    unlink(path);
    cr_assert_eq(rmdir(dir), 0, "no temporary file is left");
}

Test(safetensors, a_write_that_fails_leaves_the_old_file)
{
    cr_assert_eq(psd_safetensors_write("/nonexistent/w", tensors, 2, notes, 2, &err), PSD_EIO);
    cr_assert_str_eq(err.text, "cannot write /nonexistent/w: No such file or directory");
    char dir[] = "/tmp/psd-test-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/w", dir);
    FILE *file = fopen(path, "w");
    fputs("old", file);
    fclose(file);
    char inside[80], text[4] = "";
    snprintf(inside, sizeof inside, "%s/x", path); /* a file is not a directory */
    cr_assert_eq(psd_safetensors_write(inside, tensors, 2, notes, 2, &err), PSD_EIO);
    file = fopen(path, "r");
    cr_assert_eq(fread(text, 1, 3, file), 3);
    fclose(file);
    cr_assert_str_eq(text, "old");
    unlink(path);
    rmdir(dir);
}

Test(safetensors, the_hash_is_that_of_the_bytes_one_tensor_after_the_other)
{
    char text[PSD_SHA256_TEXT];
    const psd_saved_t zero = { "z", NULL, 0, (const float[]){ 0 }, 1 };
    /* sha256sum of four zero bytes */
    cr_assert_str_eq(psd_weights_sha256(&zero, 1, text), "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119");
    char whole[PSD_SHA256_TEXT], parts[PSD_SHA256_TEXT];
    const psd_saved_t one = { "o", NULL, 1, a, 6 }, two[] = { { "x", NULL, 1, a, 2 }, { "y", NULL, 1, a + 2, 4 } };
    cr_assert_str_eq(psd_weights_sha256(&one, 1, whole), psd_weights_sha256(two, 2, parts));
}

/* ---- reading files from any source ---- */

/* Write a file with this header and `n_data` bytes of data, and read it. */
static int read_file(psd_safetensors_t *st, const char *header, uint64_t length, size_t n_data)
{
    char path[] = "/tmp/psd-test-XXXXXX";
    FILE *file = fdopen(mkstemp(path), "wb");
    fwrite(&length, sizeof length, 1, file);
    fputs(header, file);
    for (size_t i = 0; i < n_data; i++)
        fputc((int)i, file);
    fclose(file);
    int rc = psd_safetensors_open(st, path, &err);
    rc = rc ? rc : psd_safetensors_parse(st, &err);
    unlink(path);
    return rc;
}

static void expect_refused(const char *header, size_t n_data, const char *because)
{
    psd_safetensors_t st;
    cr_expect_eq(read_file(&st, header, strlen(header), n_data), PSD_EDATA, "%s is read", header);
    cr_expect(strstr(err.text, because), "%s: %s", header, err.text);
    psd_safetensors_close(&st);
}

Test(safetensors, written_tensors_read_back)
{
    char path[] = "/tmp/psd-test-XXXXXX";
    float got[6];
    psd_safetensors_t st;
    close(mkstemp(path));
    cr_assert_eq(psd_safetensors_write(path, tensors, 2, notes, 2, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_safetensors_open(&st, path, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_safetensors_parse(&st, &err), PSD_OK, "%s", err.text);
    cr_assert(st.n_entries == 2 && st.n_notes == 2 && st.n_data == 28);
    cr_assert_str_eq(st.entry[0].name, "fc1.weight");
    cr_assert_str_eq(st.entry[0].dtype, "F32");
    cr_assert(st.entry[0].n_dims == 2 && st.entry[0].shape[0] == 2 && st.entry[0].shape[1] == 3);
    cr_assert_eq(psd_safetensors_read(&st, &st.entry[0], got, &err), PSD_OK);
    cr_assert_arr_eq(got, a, sizeof a);
    cr_assert_str_eq(psd_safetensors_note(&st, "psd.optimizer"), notes[1].value);
    cr_assert_null(psd_safetensors_note(&st, "psd"));
    psd_safetensors_close(&st);
    unlink(path);
}

Test(safetensors, entries_are_given_in_the_order_of_their_data)
{
    psd_safetensors_t st;
    const char *header = "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[4,8]},"
                         "\"e\":{\"shape\":[0,7],\"data_offsets\":[4,4],\"dtype\":\"F64\"},"
                         "\"a\":{\"dtype\":\"F4\",\"shape\":[8],\"data_offsets\":[0,4]}}   ";
    cr_assert_eq(read_file(&st, header, strlen(header), 8), PSD_OK, "%s", err.text);
    cr_assert_eq(st.n_entries, 3);
    cr_assert_str_eq(st.entry[0].name, "a");
    cr_assert_str_eq(st.entry[1].name, "e");
    cr_assert_str_eq(st.entry[2].name, "b");
    psd_safetensors_close(&st);
}

#define ENTRY(name, shape, from, to) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" from "," to "]}"

Test(safetensors, keys_that_repeat_are_refused)
{
    expect_refused("{" ENTRY("a", "1", "0", "4") "," ENTRY("a", "1", "4", "8") "}", 8, "duplicate object key");
    expect_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "duplicate object key");
    expect_refused("{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}", 0, "duplicate object key");
}

Test(safetensors, arrays_cover_the_data_without_overlap_or_hole)
{
    expect_refused("{" ENTRY("a", "2", "0", "8") "," ENTRY("b", "2", "4", "12") "}", 12, "overlaps");
    expect_refused("{" ENTRY("a", "2", "0", "8") "," ENTRY("b", "2", "0", "8") "}", 8, "overlaps");
    expect_refused("{" ENTRY("a", "1", "0", "4") "," ENTRY("b", "1", "8", "12") "}", 12, "a hole before it");
    expect_refused("{" ENTRY("a", "1", "4", "8") "}", 8, "a hole before it");
    expect_refused("{" ENTRY("a", "1", "0", "4") "}", 5, "has 5 bytes of data, its entries 4");
    expect_refused("{}", 1, "has 1 bytes of data, its entries 0");
    expect_refused("{" ENTRY("a", "2", "0", "8") "}", 7, "not within the file");
    expect_refused("{" ENTRY("a", "1", "4", "0") "}", 4, "not within the file");
}

Test(safetensors, shapes_are_the_lengths_and_their_products_do_not_overflow)
{
    expect_refused("{" ENTRY("a", "3", "0", "8") "}", 8, "do not match its shape");
    /* 2^62 times 4 bytes, and 2^32 squared, are 0 in 64 bits. */
    expect_refused("{" ENTRY("a", "4611686018427387904", "0", "0") "}", 0, "do not match its shape");
    expect_refused("{" ENTRY("a", "4294967296,4294967296", "0", "0") "}", 0, "do not match its shape");
    expect_refused("{" ENTRY("a", "18446744073709551616", "0", "0") "}", 0, "too big integer");
    expect_refused("{" ENTRY("a", "-1", "0", "4") "}", 4, "is not a count");
    expect_refused("{" ENTRY("a", "1.0", "0", "4") "}", 4, "is not a count");
    expect_refused("{" ENTRY("a", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, "at most 8 sizes");
    expect_refused("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "do not match its shape");
}

Test(safetensors, an_entry_has_its_three_fields_of_the_known_types_and_no_more)
{
    expect_refused("{\"a\":7}", 0, "an entry is");
    expect_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "an entry is");
    expect_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "an entry is");
    expect_refused("{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype is unknown");
    expect_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "shape is not a list");
    expect_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "data_offsets");
    expect_refused("{\"__metadata__\":{\"k\":1}}", 0, "not a string");
    expect_refused("{\"__metadata__\":[]}", 0, "not an object");
}

Test(safetensors, a_header_is_json_that_fits_its_file)
{
    psd_safetensors_t st;
    expect_refused("", 0, "not a JSON object");
    expect_refused(" {}", 0, "not a JSON object");
    expect_refused("[]", 0, "not a JSON object");
    expect_refused("{}x", 0, "header, byte 3");
    expect_refused("{\"\xff\":1}", 0, "header, byte");
    expect_refused("{\"a\\u0000b\":1}", 0, "header, byte");
    cr_assert_eq(read_file(&st, "{}", 3, 0), PSD_EDATA);
    psd_safetensors_close(&st);
    cr_assert_eq(read_file(&st, "{}", UINT64_MAX, 0), PSD_EDATA);
    cr_assert(strstr(err.text, "a header of 18446744073709551615 bytes in a file of 10"), "%s", err.text);
    psd_safetensors_close(&st);
    cr_assert_eq(psd_safetensors_open(&st, "/nonexistent/w", &err), PSD_ENOINPUT);
    psd_safetensors_close(&st);
    cr_assert_eq(psd_safetensors_open(&st, "/tmp", &err), PSD_ENOINPUT);
    cr_assert_str_eq(err.text, "/tmp: is a directory; name the file in it");
    psd_safetensors_close(&st);
}

Test(safetensors, the_first_element_that_is_not_finite_is_named)
{
    float a[] = { 1, -3e38f, 0 }, b[] = { 1e-45f, INFINITY, NAN };
    const uint64_t shape[] = { 3 };
    const psd_saved_t both[] = { { .name = "a", .shape = shape, .n_dims = 1, .n = 3, .data = a },
                                 { .name = "b", .shape = shape, .n_dims = 1, .n = 3, .data = b } };
    psd_err_t why = { 0 };
    cr_assert_eq(psd_weights_look(both, 1, &why), PSD_OK);
    cr_assert_eq(psd_weights_look(both, 2, &why), PSD_EDIVERGED);
    cr_assert_str_eq(why.text, "the weights are not finite: b is infinite at element 1 of 3");
    b[1] = 0;
    cr_assert_eq(psd_weights_look(both, 2, &why), PSD_EDIVERGED);
    cr_assert_str_eq(why.text, "the weights are not finite: b is NaN at element 2 of 3");
    cr_assert_eq(psd_first_nonfinite(a, 0), 0);
    cr_assert_eq(psd_first_nonfinite(b, 3), 2);
}
