/* The readers of vw, criteo and npy; those of the other formats are in test_dataset.c. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/dataset.h"
#include "worker/murmur3.h"

static psd_err_t err;

TestSuite(vw, .timeout = 60);
TestSuite(criteo, .timeout = 60);
TestSuite(npy, .timeout = 60);

static psd_dataset_t *parse(const char *format, const char *text, psd_dataset_options_t options)
{
    const psd_bytes_t file = { .name = "f", .at = (const unsigned char *)text, .n = strlen(text) };
    err.text[0] = '\0';
    return psd_dataset_parse(psd_dataset_reader(format), &file, NULL, &options, &err);
}

static void refused(const char *format, const char *text, psd_dataset_options_t options, const char *sentence)
{
    psd_dataset_t *set = parse(format, text, options);
    cr_expect_null(set, "accepted: %s", text);
    cr_expect_str_eq(err.text, sentence);
    psd_dataset_destroy(&set);
}

/* ---- vw ---- */

#define BITS ((psd_dataset_options_t){ .hash_bits = 18 })

static float at(const psd_dataset_t *set, size_t row, uint32_t feature)
{
    for (uint64_t k = set->row_start[row]; k < set->row_start[row + 1]; k++)
        if (set->column[k] == feature)
            return set->value[k];
    return 0;
}

static uint32_t hash(const char *name, uint32_t seed) { return psd_murmur3(name, strlen(name), seed) & ((1 << 18) - 1); }

Test(vw, features_are_hashed_with_their_namespace_and_scaled_by_its_factor)
{
    psd_dataset_t *set = parse("vw", "1 'a|user:2 age:0.5 male |item red 17:3\n\n-1 0.5 |user age:4\r\n", BITS);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_eq(set->n_features, 1 << 18);
    cr_expect_eq(set->n_rows, 2);
    const uint32_t user = psd_murmur3("user", 4, 0), item = psd_murmur3("item", 4, 0);
    cr_expect_eq(at(set, 0, hash("age", user)), 1);
    cr_expect_eq(at(set, 0, hash("male", user)), 2);
    cr_expect_eq(at(set, 0, hash("red", item)), 1);
    cr_expect_eq(at(set, 0, (17 + item) & ((1 << 18) - 1)), 3, "a name of digits is its number");
    cr_expect_eq(at(set, 1, hash("age", user)), 4);
    cr_expect_eq(set->row_start[2], 5);
    cr_expect_arr_eq(set->label, ((float[]){ 1, 0 }), 8, "-1 and 1 are classes");
    cr_expect_arr_eq(set->weight, ((float[]){ 1, 0.5f }), 8, "importances, 1 where there is none");
    psd_dataset_destroy(&set);
}

Test(vw, one_feature_twice_in_a_row_adds_up)
{
    psd_dataset_t *set = parse("vw", "0 | a:1 b a:2\n1 | b\n", BITS);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_eq(set->row_start[1], 2);
    cr_expect_eq(at(set, 0, hash("a", 0)), 3);
    psd_dataset_destroy(&set);
}

Test(vw, each_mistake_is_named_with_line_column_cause_and_cure)
{
    refused("vw", "1 a b\n", BITS, "f:1:1: '1' begins a line without a bar; features follow a |");
    refused("vw", "1|x a\n", BITS, "f:1:1: '1' touches the bar, which makes it a tag; put a blank between label and bar");
    refused("vw", "1 | a\n | b\n", BITS, "f:2:2: '|' stands where the label is missing; a row starts with its label");
    refused("vw", "yes | a\n", BITS, "f:1:1: 'yes' is not a label; a row starts with a number");
    refused("vw", "1 -2 | a\n", BITS, "f:1:3: '-2' is not an importance; expected a number from 0");
    refused("vw", "1 2 3 | a\n", BITS, "f:1:5: '3' is a third number; only LABEL IMPORTANCE 'TAG are read before the bar");
    refused("vw", "1 | a:x\n", BITS, "f:1:5: 'a:x' has no number after its colon");
    refused("vw", "1 |c a:1e60\n", BITS, "f:1:6: 'a:1e60' exceeds the range of float32 (3.4e38); scale it down");
    refused("vw", "1e60 |c a\n", BITS, "f:1:1: '1e60' exceeds the range of float32 (3.4e38); scale it down");
    refused("vw", "1 1e60 |c a\n", BITS, "f:1:3: '1e60' exceeds the range of float32 (3.4e38); scale it down");
    refused("vw", "1 |c:1e60 a\n", BITS, "f:1:4: 'c:1e60' exceeds the range of float32 (3.4e38); scale it down");
    refused("vw", "1 | :3\n", BITS, "f:1:5: ':3' has no name before its colon; write FEATURE:VALUE");
    refused("vw", "1 |n:1e30 a:1e30\n", BITS, "f:1:11: 'a:1e30' is beyond the range of float32, with its namespace's factor");
    refused("vw", "1 |\n", BITS, "f: no row has a feature; write them behind a |");
    psd_dataset_t *train = parse("vw", "1 | a\n0 | b\n", BITS);
    refused("vw", "1 | a\n", (psd_dataset_options_t){ .hash_bits = 4, .train = train },
            "f: hashed into 16 features, and the training set has 262144; give both the same data.hash_bits");
    psd_dataset_options_t options = { .hash_bits = 18, .train = train, .predicts = true };
    psd_dataset_t *set = parse("vw", "'tag| a\n| b\n", options);
    cr_assert_not_null(set, "rows to be predicted need no label: %s", err.text);
    cr_expect(set->unlabelled);
    psd_dataset_destroy(&set);
    refused("vw", "| a\n1 | b\n", options, "f:2: this row has a label, and that of line 1 has none; label all rows, or none");
    psd_dataset_destroy(&train);
}

/* ---- criteo ---- */

/* A line with the same number and the same word in each of its fields. */
static const char *line(const char *label, const char *number, const char *word)
{
    static char text[4][1024];
    static unsigned next;
    char *out = text[next++ % 4];
    int n = sprintf(out, "%s", label);
    for (int i = 0; i < 39; i++)
        n += sprintf(out + n, "%s%s", i || *label ? "\t" : "", i < 13 ? number : word);
    sprintf(out + n, "\n");
    return out;
}

static psd_dataset_t *two_lines(const char *a, const char *b, psd_dataset_options_t options)
{
    char text[4096];
    snprintf(text, sizeof text, "%s%s", a, b);
    return parse("criteo", text, options);
}

Test(criteo, numbers_and_words_become_features_and_empty_fields_are_missing)
{
    psd_dataset_options_t options = { .na = PSD_NA_MEAN, .one_hot = 5, .log1p = (const char *const[]){ "I2" }, .n_log1p = 1 };
    psd_dataset_t *set = two_lines(line("1", "3", "0a1b2c3d"), line("0", "", ""), options);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_eq(set->n_features, 13 + 26 * 2, "each column of words has the empty one too");
    cr_expect_eq(at(set, 0, 0), 3);
    cr_expect_float_eq(at(set, 0, 1), log(4), 1e-6);
    cr_expect_eq(at(set, 1, 0), 3, "the mean of the present values");
    cr_expect_eq(at(set, 1, 13), 1);
    options.one_hot = 1;
    psd_dataset_t *hashed = two_lines(line("1", "3", "0a1b2c3d"), line("0", "1", "ff"), options);
    cr_expect_eq(hashed->n_features, 13 + (1 << PSD_HASH_BITS));
    psd_dataset_destroy(&hashed);
    options.train = set;
    options.predicts = true;
    psd_dataset_t *test = parse("criteo", line("", "1", "0a1b2c3d"), options);
    cr_assert_not_null(test, "39 fields, without a label: %s", err.text);
    cr_expect(test->unlabelled);
    psd_dataset_destroy(&test);
    psd_dataset_destroy(&set);
}

Test(criteo, each_mistake_is_named)
{
    const psd_dataset_options_t plain = { 0 }, zero = { .na = PSD_NA_ZERO };
    refused("criteo", "1\t2\n", plain, "f:1: 2 fields between tabs, where a row has 40: a label, 13 numbers, 26 words");
    refused("criteo", line("1", "", "ff"), plain,
            "f:1:3: '' is a missing value, as the format has many; set data.na to zero, mean or skip");
    refused("criteo", line("1", "x", "ff"), zero, "f:1:3: 'x' is not a number; fields 2 to 14 are numbers");
    refused("criteo", line("1", "2", "fx"), zero, "f:1:29: 'fx' is not a hexadecimal word, as fields 15 to 40 must be");
    refused("criteo", line("x", "2", "ff"), zero, "f:1:1: 'x' is not a label; a row starts with 0 or 1");
    psd_dataset_options_t wrong = { .log1p = (const char *const[]){ "I14" }, .n_log1p = 1 };
    refused("criteo", line("1", "2", "ff"), wrong, "f: data.log1p: no column is named 'I14'; they are I1 to C26");
}

/* ---- npy ---- */

typedef struct npy {
    unsigned char bytes[1024];
    size_t n;
} npy_t;

/* A file of version 1 with this dictionary and data. */
static npy_t npy(const char *dictionary, const void *data, size_t n)
{
    npy_t out = { .bytes = "\x93NUMPY\1" };
    const size_t length = strlen(dictionary) + 1;
    out.bytes[7] = 0;
    out.bytes[8] = (unsigned char)length;
    memcpy(out.bytes + 10, dictionary, length - 1);
    out.bytes[10 + length - 1] = '\n';
    memcpy(out.bytes + 10 + length, data, n);
    out.n = 10 + length + n;
    return out;
}

static psd_dataset_t *parse_npy(npy_t x, npy_t y, psd_dataset_options_t options)
{
    const psd_bytes_t file = { "x", x.bytes, x.n }, labels = { "y", y.bytes, y.n };
    err.text[0] = '\0';
    return psd_dataset_parse(psd_dataset_reader("npy"), &file, &labels, &options, &err);
}

static npy_t two_labels(void) { return npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }", (int64_t[]){ 1, 0 }, 16); }

Test(npy, rows_of_any_shape_and_type_are_features)
{
    const npy_t x = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 2), }", (float[]){ 1, -2.5f, 3, NAN }, 16);
    psd_dataset_t *set = parse_npy(x, two_labels(), (psd_dataset_options_t){ .na = PSD_NA_MEAN });
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_eq(set->n_features, 2);
    cr_expect_arr_eq(set->dense, ((float[]){ 1, -2.5f, 3, -2.5f }), 16, "NaN is missing, and the mean");
    cr_expect_arr_eq(set->label, ((float[]){ 1, 0 }), 8);
    psd_dataset_destroy(&set);
    const npy_t bytes = npy("{\"shape\": (2,), \"descr\": '|u1', 'fortran_order': True}", (unsigned char[]){ 7, 255 }, 2);
    set = parse_npy(bytes, two_labels(), (psd_dataset_options_t){ 0 });
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_arr_eq(set->dense, ((float[]){ 7, 255 }), 8);
    psd_dataset_destroy(&set);
}

Test(npy, each_mistake_is_named)
{
    static const struct {
        const char *dictionary, *sentence;
    } cases[] = {
        { "{'descr': '>f4', 'fortran_order': False, 'shape': (2, 1)}",
          "x: values of type >f4; save it as float32, with array.astype('<f4')" },
        { "{'descr': '|O', 'fortran_order': False, 'shape': (2, 1)}",
          "x: values of type |O; save it as float32, with array.astype('<f4')" },
        { "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
          "x: its type is damaged, or a structure, which is not supported; save it again with numpy.save" },
        { "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1)}",
          "x: its order is Fortran's; save numpy.ascontiguousarray of it" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1)}",
          "x: its shape does not match the 8 bytes of data in the file; fetch it again" },
        { "{'descr': '<f4', 'shape': (2,", "x: its shape is not a tuple of sizes; save it again with numpy.save" },
        { "{'fortran_order': False, 'shape': (2,)}", "x: its header has no type, or no shape; save it again with numpy.save" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_null(parse_npy(npy(cases[i].dictionary, (float[]){ 1, 2 }, 8), two_labels(), (psd_dataset_options_t){ 0 }));
        cr_expect_str_eq(err.text, cases[i].sentence);
    }
    const char *plain = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1)}";
    cr_expect_null(parse_npy(npy(plain, (double[]){ 1, 1e39 }, 16), two_labels(), (psd_dataset_options_t){ 0 }));
    cr_expect_str_eq(err.text, "x: [1, 0] is beyond the range of float32 (3.4e38)");
    cr_expect_null(parse_npy(npy(plain, (double[]){ (double)NAN, 1 }, 16), two_labels(), (psd_dataset_options_t){ 0 }));
    cr_expect_str_eq(err.text, "x: [0, 0] is NaN, a missing value; set data.na to zero, mean or skip, or fill it in");
    cr_expect_null(parse_npy(npy("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", (double[]){ 1 }, 8), two_labels(),
                             (psd_dataset_options_t){ 0 }));
    cr_expect_str_eq(err.text, "x: a single value; expected an array with an element for each row");
    const npy_t three = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", "\0\1\1", 3);
    cr_expect_null(parse_npy(npy(plain, (double[]){ 1, 2 }, 16), three, (psd_dataset_options_t){ 0 }));
    cr_expect_str_eq(err.text, "y: 3 rows of 1 labels for 2 rows of features; give files that belong together");
    const npy_t half = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", (float[]){ 0.5f, 1 }, 8);
    cr_expect_null(parse_npy(npy(plain, (double[]){ 1, 2 }, 16), half, (psd_dataset_options_t){ 0 }));
    cr_expect_str_eq(err.text,
                     "y:0: label 0.5 is not a class; classes are whole numbers from 0, or -1 and 1 throughout (to predict numbers "
                     "choose model.kind linear) (the number after the file is the row, from 0)");
}
