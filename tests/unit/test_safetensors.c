#include <criterion/criterion.h>
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/safetensors.h"

static psd_err_t err;
static const float a[6] = { 1, 2, 3, 4, 5, 6 }, b[1] = { -0.5f };
static const psd_saved_t tensors[] = {
    { "fc1.weight", (const uint64_t[]){ 2, 3 }, 2, a, 6 },
    { "scalar", NULL, 0, b, 1 },
};
static const psd_note_t notes[] = { { "format", "pt" }, { "psd.optimizer", "adam(lr=\"x\")" } };

TestSuite(safetensors, .timeout = 10);

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
    cr_assert_eq(json_unpack(root, "{s:{s:s,s:[i,i!],s:[i,i!]!}}", "fc1.weight", "dtype", &dtype, "shape",
                             &rows, &columns, "data_offsets", &begin, &end),
                 0);
    cr_assert_str_eq(dtype, "F32");
    cr_assert(rows == 2 && columns == 3 && begin == 0 && end == 24);
    cr_assert_eq(json_unpack(root, "{s:{s:[!],s:[i,i!]}}", "scalar", "shape", "data_offsets", &begin, &end),
                 0);
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
    snprintf(inside, sizeof inside, "%s/x", path); /* a file is no directory */
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
    cr_assert_str_eq(psd_weights_sha256(&zero, 1, text),
                     "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119");
    char whole[PSD_SHA256_TEXT], parts[PSD_SHA256_TEXT];
    const psd_saved_t one = { "o", NULL, 1, a, 6 },
                      two[] = { { "x", NULL, 1, a, 2 }, { "y", NULL, 1, a + 2, 4 } };
    cr_assert_str_eq(psd_weights_sha256(&one, 1, whole), psd_weights_sha256(two, 2, parts));
}
