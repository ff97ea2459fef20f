#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "tests/support/data.h"
#include "worker/dataset.h"
#include "worker/draw.h"

static psd_err_t err;

TestSuite(dataset, .timeout = 600);
TestSuite(idx, .timeout = 600);
TestSuite(libsvm, .timeout = 600);
TestSuite(csv, .timeout = 600);
TestSuite(glyphs, .timeout = 600);

static psd_dataset_t *parse_text(const char *format, const char *text, psd_dataset_options_t options)
{
    psd_bytes_t file = { .name = "f", .at = (const unsigned char *)text, .n = strlen(text) };
    err.text[0] = '\0';
    return psd_dataset_parse(psd_dataset_reader(format), &file, NULL, &options, &err);
}

/* Parse text that must be refused with exactly this sentence. */
static void refused(const char *format, const char *text, psd_dataset_options_t options, const char *sentence)
{
    psd_dataset_t *set = parse_text(format, text, options);
    cr_expect_null(set, "accepted: %s", text);
    cr_expect_str_eq(err.text, sentence);
    psd_dataset_destroy(&set);
}

/* ---- Specs ---- */

Test(dataset, an_unknown_format_is_refused_with_the_list_of_formats)
{
    psd_dataset_options_t options = { .index_base = 1 };
    cr_assert_null(psd_dataset_load("parquet:x", &options, &err));
    cr_assert_eq(err.code, PSD_ECONFIG);
    cr_assert_str_eq(err.text,
                     "data set 'parquet:x': write FORMAT:FILE with a format of idx, libsvm, csv, vw, criteo, npy, glyphs");
    cr_assert_eq(psd_dataset_check_format("a/x.csv", &err), PSD_ECONFIG);
    cr_assert_str_eq(err.text,
                     "data set 'a/x.csv': write FORMAT:FILE with a format of idx, libsvm, csv, vw, criteo, npy, glyphs, such "
                     "as csv:a/x.csv");
    cr_assert_eq(psd_dataset_check_format("csv:x", &err), PSD_OK);
}

Test(dataset, a_file_that_is_not_there_is_missing_input)
{
    psd_dataset_options_t options = { .index_base = 1 };
    cr_assert_null(psd_dataset_load("libsvm:/nonexistent/file", &options, &err));
    cr_assert_eq(err.code, PSD_ENOINPUT);
    cr_assert_str_eq(err.text, "/nonexistent/file: No such file or directory");
}

/* Write `n` bytes to a new temporary file, gzipped or not, and put its path in `path`. */
static void write_file(char path[32], const void *bytes, size_t n, bool gz)
{
    strcpy(path, "/tmp/psd-test-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    if (gz) {
        gzFile file = gzdopen(fd, "wb");
        cr_assert_eq(gzwrite(file, bytes, (unsigned)n), (int)n);
        gzclose(file);
    } else {
        cr_assert_eq(write(fd, bytes, n), (ssize_t)n);
        close(fd);
    }
}

Test(dataset, a_gzipped_file_reads_like_the_plain_one)
{
    char path[32], spec[64];
    psd_dataset_options_t options = { .index_base = 1 };
    for (int gz = 0; gz < 2; gz++) {
        write_file(path, "1 1:2 3:4\n0 2:5\n", 16, gz);
        snprintf(spec, sizeof spec, "libsvm:%s", path);
        psd_dataset_t *set = psd_dataset_load(spec, &options, &err);
        unlink(path);
        cr_assert_not_null(set, "%s", err.text);
        cr_assert_eq(set->n_rows, 2);
        cr_assert_arr_eq(set->value, ((float[]){ 2, 4, 5 }), 12);
        psd_dataset_destroy(&set);
    }
}

Test(dataset, a_gzip_file_cut_short_is_damaged_data_and_not_a_shorter_set)
{
    char path[32], spec[64];
    char *text = malloc(100000);
    for (int i = 0; i < 100000; i += 10) {
        char line[16];
        snprintf(line, sizeof line, "1 %d:1.5\n", 100 + i % 891);
        memcpy(text + i, line, 10);
    }
    write_file(path, text, 100000, true);
    FILE *file = fopen(path, "rb+");
    fseek(file, 0, SEEK_END);
    cr_assert_eq(ftruncate(fileno(file), ftell(file) / 2), 0);
    fclose(file);
    snprintf(spec, sizeof spec, "libsvm:%s", path);
    psd_dataset_options_t options = { .index_base = 1 };
    cr_assert_null(psd_dataset_load(spec, &options, &err));
    unlink(path);
    free(text);
    cr_assert_eq(err.code, PSD_EDATA);
    cr_assert_not_null(strstr(err.text, "damaged gzip data"), "%s", err.text);
}

/* Write bytes to a file, and load it: it must be refused with a sentence that ends so. */
static void load_refused(const void *bytes, size_t n, const char *sentence)
{
    char path[32], spec[64];
    psd_dataset_options_t options = { .index_base = 1 };
    write_file(path, bytes, n, false);
    snprintf(spec, sizeof spec, "libsvm:%s", path);
    psd_dataset_t *set = psd_dataset_load(spec, &options, &err);
    unlink(path);
    cr_expect_null(set);
    cr_expect(strlen(err.text) > strlen(path) && !strncmp(err.text, path, strlen(path)) &&
                  !strcmp(err.text + strlen(path), sentence),
              "%s, and not %s", err.text, sentence);
    cr_expect_eq(err.code, PSD_EDATA);
    psd_dataset_destroy(&set);
}

/* Gzip `n` bytes at `text`, and append that to `out`; its size. */
static size_t gzip(const void *text, size_t n, unsigned char *out)
{
    z_stream z = { 0 };
    deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    z.next_in = (unsigned char *)(uintptr_t)text;
    z.avail_in = (unsigned)n;
    z.next_out = out;
    z.avail_out = 400;
    deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return 400 - z.avail_out;
}

Test(dataset, a_compressed_file_is_read_whole_or_named)
{
    unsigned char bytes[2000];
    char path[32], spec[64];
    size_t n = gzip("1 1:2\n", 6, bytes);
    n += gzip("0 1:3\n", 6, bytes + n);
    memset(bytes + n, 0, 600);
    psd_dataset_options_t options = { .index_base = 1 };
    write_file(path, bytes, n + 600, false);
    snprintf(spec, sizeof spec, "libsvm:%s", path);
    psd_dataset_t *set = psd_dataset_load(spec, &options, &err);
    unlink(path);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_rows, 2, "two members are one file, zeros are padding");
    psd_dataset_destroy(&set);

    memcpy(bytes + n, "1 1:1\n", 6);
    load_refused(bytes, n + 6,
                 ": bytes that are not gzip data follow the gzip data, which unpacks to 12 bytes; cut them off, or "
                 "fetch it again");
    memset(bytes + n, 0, 8);
    bytes[n + 8] = 'x';
    load_refused(bytes, n + 9,
                 ": bytes that are not gzip data follow the gzip data, which unpacks to 12 bytes; cut them off, or "
                 "fetch it again");
    load_refused(bytes, n - 1, ": damaged gzip data (it ends too early) after 12 bytes; fetch it again");
    load_refused(bytes, 10, ": damaged gzip data (it ends too early) after 0 bytes; fetch it again");
    const size_t once = gzip("1 1:2\n", 6, bytes);
    const size_t twice = gzip(bytes, once, bytes + 1000);
    load_refused(bytes + 1000, twice, ": this is gzip data inside gzip; unpack it once, with gzip -d");
}

Test(dataset, a_file_of_another_format_is_named_with_what_to_do)
{
    char tar[512] = "name";
    memcpy(tar + 257, "ustar", 5);
    load_refused("\xfd"
                 "7zXZ\0....",
                 10, ": this is xz data; unpack it with xz -d; gzip is read as it is");
    load_refused("\x28\xb5\x2f\xfd....", 8, ": this is zstd data; unpack it with zstd -d; gzip is read as it is");
    load_refused("BZh91AY&SY....", 14, ": this is bzip2 data; unpack it with bzip2 -d; gzip is read as it is");
    load_refused("PK\3\4....", 8, ": this is a zip archive (or an .xlsx or .npz); unpack it with unzip; gzip is read as it is");
    load_refused("PAR1\x15\x04", 6, ": this is a parquet file; write it as csv, with DataFrame.to_csv");
    load_refused(tar, sizeof tar, ": this is a tar archive; unpack it with tar -xf, and name the file in it");
    load_refused("version https://git-lfs.github.com/spec/v1\n", 43,
                 ": this is a pointer of git lfs, and not the file itself; fetch it with git lfs pull");
    load_refused("", 0, ": no rows; the data set is empty");
}

Test(dataset, a_directory_is_no_data_set)
{
    psd_dataset_options_t options = { .index_base = 1 };
    cr_assert_null(psd_dataset_load("libsvm:/tmp", &options, &err));
    cr_assert_eq(err.code, PSD_ENOINPUT);
    cr_assert_str_eq(err.text, "/tmp: is a directory; name the file in it");
}

Test(dataset, options_for_columns_are_refused_for_formats_without_columns)
{
    psd_dataset_options_t options = { .index_base = 1, .delimiter = ';' };
    cr_assert_null(psd_dataset_load("libsvm:x", &options, &err));
    cr_assert_str_eq(err.text, "data set 'libsvm:x' has no columns with names; leave data.delimiter out");
}

/* ---- idx ---- */

static psd_dataset_t *parse_idx(const char *image, size_t n_image, const char *label, size_t n_label, psd_dataset_options_t options)
{
    psd_bytes_t images = { "i", (const unsigned char *)image, n_image }, labels = { "l", (const unsigned char *)label, n_label };
    err.text[0] = '\0';
    return psd_dataset_parse(psd_dataset_reader("idx"), &images, &labels, &options, &err);
}

#define IMAGES                                                                                                                     \
    "\0\0\x08\3"                                                                                                                   \
    "\0\0\0\2"                                                                                                                     \
    "\0\0\0\1"                                                                                                                     \
    "\0\0\0\3"                                                                                                                     \
    "\0\x01\x80\xff\x7f\x03"
#define LABELS                                                                                                                     \
    "\0\0\x08\1"                                                                                                                   \
    "\0\0\0\2"                                                                                                                     \
    "\7\0"
#define IDX(images, labels, ...)                                                                                                   \
    parse_idx(images, sizeof images - 1, labels, sizeof labels - 1, (psd_dataset_options_t){ __VA_ARGS__ })

Test(idx, pixels_become_float32_quotients_by_255)
{
    psd_dataset_t *set = IDX(IMAGES, LABELS, 0);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_rows, 2);
    cr_assert_eq(set->n_features, 3);
    cr_assert_eq(set->n_classes, 8);
    float x[6], want[6] = { 255.0f / 255.0f, 127.0f / 255.0f, 3.0f / 255.0f, 0, 1.0f / 255.0f, 128.0f / 255.0f };
    psd_dataset_gather(set, (uint32_t[]){ 1, 0 }, 2, x);
    cr_assert_arr_eq(x, want, sizeof x);
    psd_dataset_destroy(&set);
}

Test(idx, sizes_that_do_not_fit_the_file_are_refused)
{
    cr_assert_null(IDX("\0\0\x08\2"
                       "\0\0\0\2"
                       "\0\0\0\3"
                       "12345",
                       LABELS, 0));
    cr_assert_str_eq(err.text, "i: offset 12: the sizes promise 6 values, the file holds 5; fetch it again");
    cr_assert_null(IDX("\0\0\x08\2"
                       "\0\0\0\2"
                       "\0\0\0\2"
                       "12345",
                       LABELS, 0));
    cr_assert_str_eq(err.text, "i: offset 12: the sizes promise 4 values, the file holds 5; fetch it again");
}

Test(idx, sizes_whose_product_overflows_are_refused)
{
    cr_assert_null(IDX("\0\0\x08\3"
                       "\xff\xff\xff\xff"
                       "\xff\xff\xff\xff"
                       "\xff\xff\xff\xff"
                       "1",
                       LABELS, 0));
    cr_assert_str_eq(err.text, "i: offset 12: the product of the sizes overflows; the header is damaged");
}

Test(idx, another_magic_type_or_an_early_end_is_refused_with_its_offset)
{
    cr_assert_null(IDX("\x1f\x8b\x08\0", LABELS, 0));
    cr_assert_str_eq(err.text, "i: offset 0: an idx file starts with bytes 00 00, this one with 1f 8b; is it another format?");
    cr_assert_null(IDX("\0\0\x0d\1"
                       "\0\0\0\1"
                       "1234",
                       LABELS, 0));
    cr_assert_str_eq(err.text, "i: offset 2: values of type 0x0d; only unsigned bytes (0x08) are read, convert the file");
    cr_assert_null(IDX("\0\0\x08\3"
                       "\0\0\0\1"
                       "\0\0",
                       LABELS, 0));
    cr_assert_str_eq(err.text, "i: offset 10: the file ends inside its 3 sizes; fetch it again");
    cr_assert_null(IDX("\0\0", LABELS, 0));
    cr_assert_str_eq(err.text, "i: offset 2: the file ends inside the 4 bytes of its magic; is it an idx file?");
}

Test(idx, labels_must_be_as_many_as_images_and_not_images_themselves)
{
    cr_assert_null(IDX(IMAGES,
                       "\0\0\x08\1"
                       "\0\0\0\3"
                       "\1\2\3",
                       0));
    cr_assert_str_eq(err.text, "l: 3 labels for 2 images; give files that belong together");
    cr_assert_null(IDX(IMAGES, IMAGES, 0));
    cr_assert_str_eq(err.text, "l: offset 3: labels have 1 dimension, these have 3; are images and labels swapped?");
}

Test(idx, a_test_label_that_training_never_saw_is_refused)
{
    psd_dataset_t *train = IDX(IMAGES, LABELS, 0);
    cr_assert_null(IDX(IMAGES,
                       "\0\0\x08\1"
                       "\0\0\0\2"
                       "\0\x08",
                       .train = train));
    cr_assert_not_null(strstr(err.text, "label 8, but the training set's largest is 7"), "%s", err.text);
    psd_dataset_destroy(&train);
}

/* MNIST, whose labels and mean every tutorial prints; otherwise the digits of tests/data/draw, which prints the same of its own. */
Test(idx, mnist_has_the_rows_and_sums_that_are_published)
{
    static const struct {
        size_t n_rows;
        float label[10];
        double mean, within; /* of a pixel, over 255 */
    } published = { 60000, { 5, 0, 4, 1, 9, 2, 1, 3, 1, 4 }, 0.1307, 5e-5 },
      drawn = { 640, { 6, 1, 6, 1, 6, 9, 4, 9, 6, 2 }, 8101312 / (640.0 * 784 * 255), 1e-12 };
    const bool is_drawn = data_is_drawn("mnist/train-images-idx3-ubyte.gz");
    char spec[DATA_PATH], labels[DATA_PATH];
    psd_dataset_options_t options = { .labels = data_path("mnist/train-labels-idx1-ubyte.gz", labels) };
    psd_dataset_t *set = psd_dataset_load(data_spec("idx", "mnist/train-images-idx3-ubyte.gz", spec), &options, &err);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_rows, is_drawn ? drawn.n_rows : published.n_rows);
    cr_assert_eq(set->n_features, 784);
    cr_assert_eq(set->n_classes, 10);
    cr_assert_arr_eq(set->label, is_drawn ? drawn.label : published.label, 40);
    uint64_t sum = 0;
    for (size_t i = 0; i < set->n_rows * 784; i++)
        sum += set->pixels[i];
    cr_assert_float_eq((double)sum / (double)(set->n_rows * 784 * 255), is_drawn ? drawn.mean : published.mean,
                       is_drawn ? drawn.within : published.within);
    psd_dataset_destroy(&set);
}

/* ---- libsvm ---- */

#define BASE1 ((psd_dataset_options_t){ .index_base = 1 })
#define BASE0 ((psd_dataset_options_t){ .index_base = 0 })

Test(libsvm, rows_comments_weights_and_queries_are_read_and_stay_sparse)
{
    psd_dataset_t *set = parse_text("libsvm", "\xef\xbb\xbf# head\n2:1 qid:7 4:-1e1 1:0.5 # tail\r\n\n0:2.5 \t2:3\n1:1\n", BASE1);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_rows, 3);
    cr_assert_eq(set->n_features, 4);
    cr_assert_eq(set->n_classes, 3);
    cr_assert_arr_eq(set->label, ((float[]){ 2, 0, 1 }), 12);
    cr_assert_arr_eq(set->weight, ((float[]){ 1, 2.5f, 1 }), 12);
    cr_assert_arr_eq(set->row_start, ((uint64_t[]){ 0, 2, 3, 3 }), 32);
    cr_assert_arr_eq(set->column, ((uint32_t[]){ 3, 0, 1 }), 12);
    cr_assert_arr_eq(set->value, ((float[]){ -10, 0.5f, 3 }), 12);
    psd_dataset_destroy(&set);
}

Test(libsvm, the_index_base_is_the_declared_one)
{
    psd_dataset_t *set = parse_text("libsvm", "1 0:5 2:6\n", BASE0);
    cr_assert_eq(set->n_features, 3);
    cr_assert_arr_eq(set->column, ((uint32_t[]){ 0, 2 }), 8);
    psd_dataset_destroy(&set);
    refused("libsvm", "1 1:1\n0 0:5\n", BASE1,
            "f:2:3: '0:5' has index 0, but indices were declared to start at 1; set data.index_base to 0");
}

Test(libsvm, labels_minus_one_and_one_become_0_and_1)
{
    psd_dataset_t *set = parse_text("libsvm", "-1 1:1\n+1 1:1\n-1 2:1\n", BASE1);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_arr_eq(set->label, ((float[]){ 0, 1, 0 }), 12);
    cr_assert_eq(set->n_classes, 2);
    psd_dataset_destroy(&set);
    refused("libsvm", "0 1:1\n-1 1:1\n", BASE1, "f:2: label -1, but line 1 has 0; use only -1 and 1, or classes from 0");
}

Test(libsvm, a_test_set_must_fit_the_training_set)
{
    psd_dataset_t *train = parse_text("libsvm", "-1 5:1\n1 1:1\n", BASE1);
    psd_dataset_options_t options = { .index_base = 1, .train = train };
    psd_dataset_t *test = parse_text("libsvm", "1 2:1\n", options);
    cr_assert_not_null(test, "%s", err.text);
    cr_assert_eq(test->n_features, 5);
    psd_dataset_destroy(&test);
    refused("libsvm", "1 2:1\n1 6:1\n", options,
            "f:2:3: '6:1' has an index that is not in the training set; leave that feature out");
    refused("libsvm", "1 2:1\n0 3:1\n", options, "f:2: label 0, but the training set's labels are -1 and 1");
    psd_dataset_destroy(&train);
}

Test(libsvm, each_mistake_is_named_with_line_column_cause_and_cure)
{
    refused("libsvm", "x 1:1\n", BASE1, "f:1:1: 'x' is not a label; a row starts with a number");
    refused("libsvm", "1:-2 1:1\n", BASE1, "f:1:1: '1:-2' has no weight after its colon; write LABEL:WEIGHT with a number from 0");
    refused("libsvm", "1 1:1\n1 7\n", BASE1, "f:2:3: '7' is not a feature; write INDEX:VALUE");
    refused("libsvm", "1 1.5:1\n", BASE1, "f:1:3: '1.5:1' has no index before its colon; indices are whole numbers");
    refused("libsvm", "1 1:nan\n", BASE1,
            "f:1:3: '1:nan' has no number after its colon: 'nan' is not finite; fill it in, or leave its row out");
    refused("libsvm", "1 1:\n", BASE1, "f:1:3: '1:' has no number after its colon");
    refused("libsvm", "1 1:1e999\n", BASE1,
            "f:1:3: '1:1e999' has no number after its colon: '1e999' exceeds the range of float32 (3.4e38); scale it down");
    refused("libsvm", "1 1:0x1p3\n", BASE1,
            "f:1:3: '1:0x1p3' has no number after its colon: '0x1p3' is hexadecimal; write it in decimal digits");
    refused("libsvm", "1 1:2x\n", BASE1,
            "f:1:3: '1:2x' has no number after its colon: '2x' is not a number; turn words into numbers first, or drop "
            "the column");
    refused("libsvm", "1 -1:2\n", BASE1, "f:1:3: '-1:2' has no index before its colon; indices are whole numbers");
    refused("libsvm", "1:inf 1:1\n", BASE1,
            "f:1:1: '1:inf' has no weight after its colon; write LABEL:WEIGHT with a number from 0");
    refused("libsvm", "nan 1:1\n", BASE1, "f:1:1: 'nan' is not a label; a row starts with a number");
    refused("libsvm", "1 qid:x 1:2\n", BASE1, "f:1:3: 'qid:x' has no query number after its colon");
    refused("libsvm", "1 9999999999:1\n", BASE1,
            "f:1:3: '9999999999:1' has an index beyond 2147483646; hash the features into fewer");
    refused("libsvm", "1.5 1:1\n", BASE1,
            "f:1: label 1.5 is not a class; classes are whole numbers from 0, or -1 and 1 throughout (to "
            "predict numbers choose "
            "model.kind linear)");
    refused("libsvm", "1048576 1:1\n", BASE1,
            "f:1: label 1048576 is too large for a class; 1048576 classes fit, numbered from 0 (to predict numbers choose "
            "model.kind linear)");
    refused("libsvm", "# nothing\n", BASE1, "f: no rows; the data set is empty");
    refused("libsvm", "1\n0\n", BASE1, "f: no row has a feature; write INDEX:VALUE after the labels");
}

Test(libsvm, a_row_without_its_label_is_not_taken_for_a_weighted_one)
{
    refused("libsvm", " 3:0.5 7:1\n", BASE1,
            "f:1:2: '3:0.5' follows a blank where the label is missing; a row starts with its label");
    refused("libsvm", "1 1:1\n\t3:0.5 7:1\n", BASE1,
            "f:2:2: '3:0.5' follows a blank where the label is missing; a row starts with its label");
    refused("libsvm", "1 1:1\n3:0.5 7:1\n", BASE1,
            "f:2:1: '3:0.5' has a colon: is it a feature, and the row's label missing? All labels have a weight, or none, "
            "and that of line 1 has none");
    refused("libsvm", "1:2 1:1\n# between\n0 7:1\n", BASE1,
            "f:3:1: '0' has no weight, but that of line 1 has one; all labels have a weight, or none");
    refused("libsvm", "qid:3 1:1\n", BASE1, "f:1:1: 'qid:3' stands where the label is missing; a row starts with its label");
    psd_dataset_t *set = parse_text("libsvm", "  1 1:1\n", BASE1);
    cr_assert_not_null(set, "a blank before a label says nothing: %s", err.text);
    psd_dataset_destroy(&set);
}

Test(libsvm, an_index_comes_once_a_row_in_any_order)
{
    refused("libsvm", "1 3:1 3:2\n", BASE1, "f:1:7: '3:2' has an index that occurs twice in this row; give each one value");
    refused("libsvm", "0 1:1\n1 9:1 3:1 7:2 qid:1 3:2\n", BASE1,
            "f:2:21: '3:2' has an index that occurs twice in this row; give each one value");
    refused("libsvm", "1 0:1 5:1 0:0\n", BASE0, "f:1:11: '0:0' has an index that occurs twice in this row; give each one value");
    psd_dataset_t *set = parse_text("libsvm", "1 9:1 3:2 7:3\n0 3:1 7:1 9:1\n", BASE1);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_arr_eq(set->column, ((uint32_t[]){ 8, 2, 6, 2, 6, 8 }), 24);
    psd_dataset_destroy(&set);
}

Test(libsvm, a_quoted_part_of_a_file_has_no_control_characters)
{
    refused("libsvm", "1 \x1b[31m\a:1\n", BASE1,
            "f:1:3: '\\x1b[31m\\x07:1' has no index before its colon; indices are whole numbers");
    refused("libsvm", "\xc3\xa9\xff\xc2\x9b 1:1\n", BASE1,
            "f:1:1: '\xc3\xa9\\xff\\xc2\\x9b' is not a label; a row starts with a number");
}

Test(libsvm, text_of_another_system_is_named)
{
    refused("libsvm", "1 1:1\r0 1:1\r", BASE1, "f: lines end in CR; convert them to LF, as tr '\\r' '\\n' does");
    refused("libsvm",
            "\xff\xfe"
            "1",
            BASE1, "f: UTF-16 text; save it as UTF-8");
}

Test(libsvm, classes_that_count_from_1_are_noticed)
{
    psd_dataset_t *set = parse_text("libsvm", "1 1:1\n2 1:2\n", BASE1);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->first_class, 1);
    psd_dataset_destroy(&set);
    set = parse_text("libsvm", "-1 1:1\n1 1:2\n", BASE1);
    cr_assert_eq(set->first_class, 0);
    psd_dataset_destroy(&set);
}

Test(libsvm, numbers_to_predict_stay_as_they_are)
{
    psd_dataset_t *set =
        parse_text("libsvm", "-1 1:1\n2.5 1:2\n", (psd_dataset_options_t){ .index_base = 1, .kind = PSD_LABEL_TARGET });
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_arr_eq(set->label, ((float[]){ -1, 2.5f }), 8);
    cr_assert_eq(set->n_classes, 0);
    psd_dataset_destroy(&set);
}

Test(libsvm, agaricus_has_its_rows_and_features)
{
    char spec[DATA_PATH];
    const bool drawn = data_is_drawn("agaricus/train.libsvm.gz");
    psd_dataset_options_t options = { .index_base = 1 };
    psd_dataset_t *train = psd_dataset_load(data_spec("libsvm", "agaricus/train.libsvm.gz", spec), &options, &err);
    cr_assert_not_null(train, "%s", err.text);
    cr_assert_eq(train->n_rows, drawn ? 2000 : 6513);
    cr_assert_eq(train->n_features, 126);
    options.train = train;
    psd_dataset_t *test = psd_dataset_load(data_spec("libsvm", "agaricus/test.libsvm.gz", spec), &options, &err);
    cr_assert_not_null(test, "%s", err.text);
    cr_assert_eq(test->n_rows, drawn ? 200 : 1611);
    psd_dataset_destroy(&test);
    psd_dataset_destroy(&train);
}

/* ---- csv ---- */

#define NAMED ((psd_dataset_options_t){ .header = true, .label_column = "y" })
#define FIRST ((psd_dataset_options_t){ .label_column = "0" })

Test(csv, quoted_fields_line_ends_and_byte_order_marks_read_as_rfc_4180_says)
{
    psd_dataset_t *set = parse_text("csv",
                                    "\xef\xbb\xbf"
                                    "a,\"y\",\"c,\"\"d\"\"\n\"\r\n1,\"1\",2.5\r\n\r\n-3, 0 ,\"4e0\"",
                                    NAMED);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_rows, 2);
    cr_assert_eq(set->n_features, 2);
    cr_assert_arr_eq(set->label, ((float[]){ 1, 0 }), 8);
    cr_assert_arr_eq(set->dense, ((float[]){ 1, 2.5f, -3, 4 }), 16);
    psd_dataset_destroy(&set);
}

Test(csv, the_label_column_is_found_by_name_or_number)
{
    psd_dataset_t *set = parse_text("csv", "7,1,8\n9,0,10\n", (psd_dataset_options_t){ .label_column = "1" });
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_arr_eq(set->label, ((float[]){ 1, 0 }), 8);
    cr_assert_arr_eq(set->dense, ((float[]){ 7, 8, 9, 10 }), 16);
    psd_dataset_destroy(&set);
    refused("csv", "1,2\n", (psd_dataset_options_t){ .label_column = "2" },
            "f: data.label_column is 2, but the columns are 0 to 1");
    refused("csv", "a,b\n1,2\n", NAMED,
            "f: no column is named 'y'; set data.label_column to a name of the first line or a number from 0");
    set = parse_text("csv", "7,2,1\n9,3,0\n", (psd_dataset_options_t){ 0 });
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_arr_eq(set->label, ((float[]){ 1, 0 }), 8, "unnamed, it is the last");
    psd_dataset_destroy(&set);
}

Test(csv, each_mistake_is_named_with_line_column_cause_and_cure)
{
    refused("csv", "\"1,2\"\n", FIRST,
            "f:1: one column, where a label and at least one feature are needed; fields are separated by commas");
    refused("csv", "1,2\n0,x y\n", FIRST, "f:2:3: 'x y' is not a number; name its column in data.categorical, or drop it");
    refused("csv", "1,2\n0,2,3\n", FIRST, "f:2: 3 fields, where the first line has 2");
    refused("csv", "1,\"2\n", FIRST, "f:1:3: '2\\n' starts with a quote that is never closed");
    refused("csv", "1,\"2\"3\n", FIRST, "f:1:3: '2' continues after its closing quote; double the quotes inside a field");
    refused("csv", "1,2\"3\n", FIRST, "f:1:3: '2' is followed by a quote; put the whole field in quotes");
    refused("csv", "1\n", FIRST,
            "f:1: one column, where a label and at least one feature are needed; fields are separated by commas");
    refused("csv", "", FIRST, "f: no rows; no line has any text");
    refused("csv", "\n\n", FIRST, "f: no rows; no line has any text");
    refused("csv", "y,a\n", NAMED, "f: no rows; the data set is empty");
    refused("csv", "1,2\n0,inf\n", FIRST, "f:2:3: 'inf' is not finite; fill it in, or leave its row out");
    refused("csv", "1,2\n0,1e39\n", FIRST, "f:2:3: '1e39' exceeds the range of float32 (3.4e38); scale it down");
    refused("csv", "1,2\n0,0x10\n", FIRST, "f:2:3: '0x10' is hexadecimal; write it in decimal digits");
    refused("csv", "1,2\n0,\x1b[2J\n", FIRST, "f:2:3: '\\x1b[2J' is not a number; name its column in data.categorical, or drop it");
    refused("csv", "1,2\n0,\"1,5\"\n", FIRST,
            "f:2:3: '1,5' has a comma in it; write a decimal point, and nothing between thousands");
    refused("csv", "a,y\r1,2\r", NAMED, "f: lines end in CR; convert them to LF, as tr '\\r' '\\n' does");
    refused("csv", "y,\"a\nb\"\n1,\"\n\"\n", NAMED,
            "f:3:3: '\\n' is not a number; name its column in data.categorical, or drop it");
}

Test(csv, a_missing_value_is_an_error_or_0_or_leaves_the_row_out_as_declared)
{
    const char *text = "1,2,\n0,NA,4\n1,5,6\n";
    psd_dataset_options_t options = FIRST;
    refused("csv", text, options, "f:1:5: '' is a missing value; set data.na to zero, mean or skip, or fill it in");
    options.na = PSD_NA_ZERO;
    psd_dataset_t *set = parse_text("csv", text, options);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_arr_eq(set->dense, ((float[]){ 2, 0, 0, 4, 5, 6 }), 24);
    psd_dataset_destroy(&set);
    refused("csv", "NA,1\n", options, "f:1:1: 'NA' is a missing label; set data.na to skip, or fill it in");
    options.na = PSD_NA_SKIP;
    set = parse_text("csv", text, options);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_rows, 1);
    cr_assert_arr_eq(set->dense, ((float[]){ 5, 6 }), 8);
    psd_dataset_destroy(&set);
}

Test(csv, every_word_that_pandas_takes_for_missing_is_missing)
{
    static const char *const words[] = { "",       "#N/A",    "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan",
                                         "1.#IND", "1.#QNAN", "<NA>",     "N/A", "NA",      "NULL",     "NaN",  "None",
                                         "n/a",    "nan",     "null",     "?",   "none",    " NA " };
    psd_dataset_options_t options = FIRST;
    options.na = PSD_NA_SKIP;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        char text[64];
        snprintf(text, sizeof text, "1,%s\n0,5\n", words[i]);
        psd_dataset_t *set = parse_text("csv", text, options);
        cr_assert_not_null(set, "'%s': %s", words[i], err.text);
        cr_assert_eq(set->n_rows, 1, "'%s'", words[i]);
        cr_assert_eq(set->n_skipped, 1, "'%s'", words[i]);
        psd_dataset_destroy(&set);
    }
    refused("csv", "1,NA\n", options, "f: no rows are left; data.na=skip has left out all 1");
}

Test(csv, a_first_line_of_numbers_is_no_header)
{
    const char *sentence = "f:1: the first line is all numbers, where data.header says that it names the columns; set "
                           "data.header to false, or name them";
    const psd_dataset_options_t options = { .header = true };
    refused("csv", "1,2.5,-3e4\n4,5,6\n", options, sentence);
    refused("csv", "1,NA,\n4,5,6\n", options, sentence);
    psd_dataset_t *set = parse_text("csv", "1,2,y\n4,5,1\n", options);
    cr_assert_not_null(set, "%s", err.text);
    psd_dataset_destroy(&set);
}

Test(csv, a_first_line_of_words_may_be_a_header_after_all)
{
    refused("csv", "y,a\n1,2\n", FIRST,
            "f:1:1: 'y' is not a number; where the first line names the columns, set data.header to true");
}

Test(csv, each_column_that_is_read_has_a_name_of_its_own)
{
    refused("csv", "a,y, a\n1,0,2\n", NAMED, "f:1:5: 'a' names two columns; rename one, or drop it by its number");
    refused("csv", "y,a,y\n1,0,2\n", NAMED,
            "f: columns 0 and 2 are both named 'y'; set data.label_column to the number of the one that is meant");
    refused("csv", ",a,y\n1,0,2\n", NAMED,
            "f:1:1: column 0 has no name; name it, or leave it out with data.drop=0 (pandas writes its index so, unless "
            "index=False)");
    psd_dataset_options_t options = NAMED;
    options.drop = (const char *const[]){ "0" };
    options.n_drop = 1;
    psd_dataset_t *set = parse_text("csv", ",a,y\n1,7,0\n", options);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_features, 1);
    cr_assert_arr_eq(set->dense, ((float[]){ 7 }), 4);
    psd_dataset_destroy(&set);
    set = parse_text("csv", "a , y\n1,0\n", NAMED);
    cr_assert_not_null(set, "blanks around a name do not count: %s", err.text);
    cr_assert_eq(set->label[0], 0);
    psd_dataset_destroy(&set);
    refused("csv", "age,label\n1,0\n", (psd_dataset_options_t){ .header = true, .label_column = "lable" },
            "f: no column is named 'lable' (did you mean 'label'?); set data.label_column to a name of the first line or a "
            "number from 0");
}

static psd_dataset_options_t dropping(const char *const *names, size_t n)
{
    return (psd_dataset_options_t){ .header = true, .label_column = "y", .drop = names, .n_drop = n };
}

Test(csv, columns_of_any_contents_are_dropped_by_name_or_number)
{
    psd_dataset_t *set =
        parse_text("csv", "id,a,city,y\nx1,1,Rome,0\nx2,2,,1\n", dropping((const char *const[]){ "city", "0" }, 2));
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_features, 1);
    cr_assert_arr_eq(set->dense, ((float[]){ 1, 2 }), 8);
    psd_dataset_destroy(&set);
    refused("csv", "a,y\n1,0\n", dropping((const char *const[]){ "y" }, 1),
            "f: data.drop leaves out column 'y', which is the label");
    refused("csv", "a,y\n1,0\n", dropping((const char *const[]){ "a" }, 1),
            "f: data.drop leaves 1 of 2 columns, where a label and at least one feature are needed");
    refused("csv", "a,y\n1,0\n", dropping((const char *const[]){ "2" }, 1), "f: data.drop is 2, but the columns are 0 to 1");
    refused("csv", "city,y\n1,0\n", dropping((const char *const[]){ "citi" }, 1),
            "f: no column is named 'citi' (did you mean 'city'?); set data.drop to a name of the first line or a number "
            "from 0");
    psd_dataset_options_t options = { .drop = (const char *const[]){ "2", "2" }, .n_drop = 2 };
    set = parse_text("csv", "7,1,x\n", options);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->label[0], 1, "the label is the last column that is left");
    psd_dataset_destroy(&set);
}

Test(csv, fields_may_have_another_delimiter_between_them)
{
    for (const char *d = ";\t| :"; *d; d++) {
        char text[64];
        snprintf(text, sizeof text, "a%c\"b%cc\"%cy\r\n1%c\"2\"%c0\n", *d, *d, *d, *d, *d);
        psd_dataset_options_t options = NAMED;
        options.delimiter = *d;
        psd_dataset_t *set = parse_text("csv", text, options);
        cr_assert_not_null(set, "%s", err.text);
        cr_assert_arr_eq(set->dense, ((float[]){ 1, 2 }), 8);
        psd_dataset_destroy(&set);
    }
    refused("csv", "a;b;y\n1;2;0\n", NAMED,
            "f:1: one column, where a label and at least one feature are needed; fields are separated by commas; set "
            "data.delimiter to a semicolon, ';'");
    refused("csv", "a\tb\ty\n", NAMED,
            "f:1: one column, where a label and at least one feature are needed; fields are separated by commas; set "
            "data.delimiter to a tab, 'tab'");
    refused("csv", "a,b\n", (psd_dataset_options_t){ .header = true, .delimiter = '\t' },
            "f:1: one column, where a label and at least one feature are needed; fields are separated by tabs; set "
            "data.delimiter to a comma, ','");
    refused("csv", "1,2\n0,5;1\n", FIRST, "f:2:3: '5;1' is not a number; is data.delimiter a semicolon?");
}

Test(csv, a_test_set_with_its_columns_in_another_order_is_refused)
{
    psd_dataset_t *train = parse_text("csv", "y,a,b\n1,2,3\n", NAMED);
    psd_dataset_options_t options = NAMED;
    options.train = train;
    psd_dataset_t *test = parse_text("csv", "a,y,b\n1,0,3\n", options);
    cr_assert_not_null(test, "the label may stand elsewhere: %s", err.text);
    psd_dataset_destroy(&test);
    refused("csv", "y,b,a\n1,2,3\n", options,
            "f:1:3: 'b' stands in another place than in the training set; give both files the same order of columns");
    refused("csv", "y,a\n1,2\n", options, "f:1: no column is named 'b', which the training set has; add it");
    refused("csv", "y,a,c\n1,2,3\n", options,
            "f:1:5: 'c' is not a feature of the training set; remove it, or if both files have it, leave it out with data.drop");
    refused("csv", "y,a,b,c\n1,2,3,4\n", options,
            "f:1:7: 'c' is not a feature of the training set; remove it, or if both files have it, leave it out with data.drop");
    options.header = false;
    options.label_column = "0";
    refused("csv", "1,2\n", options, "f:1: 1 features, the training set has 2; give both the same columns");
    psd_dataset_destroy(&train);
}

Test(csv, criteo_is_refused_at_its_first_word_and_not_misread)
{
    char spec[DATA_PATH];
    psd_dataset_options_t options = { .header = true, .label_column = "label", .na = PSD_NA_ZERO };
    cr_assert_null(psd_dataset_load(data_spec("csv", "criteo/criteo_sample.csv", spec), &options, &err));
    cr_assert_not_null(strstr(err.text, "criteo_sample.csv:2:"), "%s", err.text);
    cr_assert_not_null(strstr(err.text, "'05db9164' is not a number"), "%s", err.text);
}

/* Words, missing words, and a label of words: the expected values are encoded by hand. */
static const char *const mixed = "age,work,city,y\n20,b,Rome,yes\n40,a,Oslo,no\n?,b,,no\n60,?,Rome,yes\n";

static const char *const every[] = { "*" };

static psd_dataset_options_t mixed_options(psd_na_t na)
{
    return (psd_dataset_options_t){ .header = true, .na = na, .categorical = every, .n_categorical = 1, .one_hot = 10 };
}

static float at(const psd_dataset_t *set, size_t row, size_t feature)
{
    float sum = 0;
    for (uint64_t k = set->row_start[row]; k < set->row_start[row + 1]; k++)
        sum += set->column[k] == feature ? set->value[k] : 0;
    return sum;
}

Test(csv, words_get_a_feature_each_in_the_order_of_their_bytes)
{
    psd_dataset_t *set = parse_text("csv", mixed, mixed_options(PSD_NA_ZERO));
    cr_assert_not_null(set, "%s", err.text);
    /* age; work: a b; city: Oslo Rome */
    cr_assert_eq(set->n_features, 1 + 2 + 2);
    const float expected[4][5] = { { 20, 0, 1, 0, 1 }, { 40, 1, 0, 1, 0 }, { 0, 0, 1, 0, 0 }, { 60, 0, 0, 0, 1 } };
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 5; j++)
            cr_expect_eq(at(set, i, j), expected[i][j], "row %zu feature %zu", i, j);
    cr_expect_arr_eq(set->label, ((float[]){ 1, 0, 0, 1 }), 16);
    cr_expect_eq(set->n_classes, 2);
    cr_expect_str_eq(set->encoding->class_word[1], "yes");
    psd_dataset_destroy(&set);
}

Test(csv, a_missing_number_is_the_mean_and_a_missing_word_one_of_its_own)
{
    psd_dataset_options_t options = mixed_options(PSD_NA_MEAN);
    psd_dataset_t *set = parse_text("csv", mixed, options);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_features, 1 + 3 + 3, "each column has the empty word too");
    cr_expect_eq(at(set, 2, 0), 40, "(20 + 40 + 60) / 3");
    cr_expect_eq(at(set, 3, 1), 1);
    cr_expect_eq(at(set, 2, 4), 1);
    options.train = set;
    psd_dataset_t *test = parse_text("csv", "age,work,city,y\n,c,Rome,no\n", options);
    cr_assert_not_null(test, "%s", err.text);
    cr_expect_eq(at(test, 0, 0), 40, "the mean is that of the training set");
    cr_expect_eq(test->n_unknown, 1, "no row of training has the word c");
    cr_expect_eq(test->row_start[1], 2);
    psd_dataset_destroy(&test);
    refused("csv", "age,work,city,y\n1,a,Rome,perhaps\n", options,
            "f:2:10: 'perhaps' is a label that the training set does not have");
    refused("csv", "age,work,city,y\nold,a,Rome,no\n", options,
            "f:2:1: 'old' is not a number, as it was in the training set; correct it, or leave its row out");
    psd_dataset_destroy(&set);
}

Test(csv, doubled_quotes_are_single_in_words_and_in_classes)
{
    psd_dataset_options_t options = {
        .header = true, .categorical = (const char *const[]){ "*" }, .n_categorical = 1, .one_hot = 9
    };
    psd_dataset_t *set = parse_text("csv", "w,y\n\"a \"\"b\"\"\",\"\"\"no\"\"\"\n\"\"\"\"\"\",yes\n", options);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->encoding->column[0].n_words, 2);
    cr_expect_str_eq(set->encoding->column[0].word[0], "\"\"");
    cr_expect_str_eq(set->encoding->column[0].word[1], "a \"b\"");
    cr_expect_str_eq(set->encoding->class_word[0], "\"no\"");
    psd_dataset_destroy(&set);
}

Test(csv, words_and_names_that_are_not_utf_8_are_refused_at_their_place_hashed_or_not)
{
    psd_dataset_options_t options = { .header = true, .categorical = (const char *const[]){ "w" }, .n_categorical = 1 };
    refused("csv", "w,y\na,0\nr\xf6t,1\n", options, "f:3:1: 'r\\xf6t' is not UTF-8; save the file as UTF-8");
    options.n_categorical = 0;
    refused("csv", "a,\xf6,y\n1,2,0\n", options, "f:1:3: '\\xf6' is not UTF-8; save the file as UTF-8");
}

Test(csv, a_column_of_more_words_than_one_hot_is_hashed)
{
    psd_dataset_options_t options = mixed_options(PSD_NA_ZERO);
    options.one_hot = 1;
    options.hash_bits = 4;
    psd_dataset_t *set = parse_text("csv", mixed, options);
    cr_assert_not_null(set, "%s", err.text);
    cr_assert_eq(set->n_features, 1 + 16, "both columns share 2^4");
    cr_expect_eq(set->row_start[1], 3);
    for (size_t i = 0; i < 17; i++)
        cr_expect_eq(at(set, 0, i) - (i ? 0 : 20), at(set, 3, i) - (i ? 0 : 60) + (i && at(set, 0, i) != at(set, 3, i)),
                     "Rome has the same feature in both rows, and b one more");
    psd_dataset_destroy(&set);
}

Test(csv, numbers_are_standardised_by_the_rows_that_are_trained_on)
{
    psd_dataset_options_t options = { .header = true, .standardise = true };
    psd_dataset_t *set = parse_text("csv", "a,b,y\n1,7,0\n3,7,1\n", options);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_arr_eq(set->dense, ((float[]){ -1, 0, 1, 0 }), 16, "mean 2, deviation 1; a constant is 0");
    options.train = set;
    psd_dataset_t *test = parse_text("csv", "a,b,y\n5,9,0\n", options);
    cr_expect_arr_eq(test->dense, ((float[]){ 3, 2 }), 8);
    psd_dataset_destroy(&test);
    psd_dataset_destroy(&set);
    /* Held-out rows have no influence: of four rows, the seed holds out two. */
    options = (psd_dataset_options_t){ .header = true, .standardise = true, .held_share = 0.5, .seed = 3 };
    set = parse_text("csv", "a,y\n0,0\n1,1\n10,0\n100,1\n", options);
    bool *held = psd_draw_rows(4, 2, 3);
    const float raw[] = { 0, 1, 10, 100 };
    double sum = 0;
    for (size_t i = 0; i < 4; i++)
        sum += held[i] ? 0 : raw[i];
    cr_expect_eq(set->encoding->column[0].mean, sum / 2);
    free(held);
    psd_dataset_destroy(&set);
}

Test(csv, log1p_keeps_the_sign)
{
    psd_dataset_options_t options = { .header = true, .log1p = (const char *const[]){ "a" }, .n_log1p = 1 };
    psd_dataset_t *set = parse_text("csv", "a,b,y\n0,5,0\n-1.718281828459045,5,1\n", options);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_float_eq(set->dense[2], -1, 1e-6);
    cr_expect_eq(set->dense[3], 5);
    psd_dataset_destroy(&set);
    options.categorical = options.log1p;
    options.n_categorical = 1;
    refused("csv", "a,b,y\nw,5,0\n", options, "f: data.log1p names column 'a', which holds words; name columns of numbers");
}

Test(csv, a_column_multiplies_the_rows_losses)
{
    psd_dataset_options_t options = { .header = true, .weight_column = "w" };
    psd_dataset_t *set = parse_text("csv", "a,w,y\n1,2,0\n3,0.5,1\n", options);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_eq(set->n_features, 1);
    cr_expect_arr_eq(set->weight, ((float[]){ 2, 0.5f }), 8);
    psd_dataset_destroy(&set);
    refused("csv", "a,w,y\n1,-2,0\n", options, "f:2:3: '-2' is not a weight; weights are from 0");
    options.weight_column = "y";
    refused("csv", "a,w,y\n1,2,0\n", options, "f: column 'y' cannot be both label and weight; set data.weight_column to another");
}

Test(csv, words_of_a_label_are_no_numbers_to_predict)
{
    psd_dataset_options_t options = mixed_options(PSD_NA_ZERO);
    options.kind = PSD_LABEL_TARGET;
    refused("csv", mixed, options,
            "f: the label is a word (data.categorical), and the model predicts numbers; choose another model.kind, or another "
            "data.label_column");
}

Test(csv, rows_to_be_predicted_have_their_columns_anywhere_and_need_no_label)
{
    psd_dataset_options_t options = mixed_options(PSD_NA_ZERO);
    psd_dataset_t *train = parse_text("csv", mixed, options);
    options.train = train;
    options.predicts = true;
    psd_dataset_t *set = parse_text("csv", "id,city,age,work\n7,Oslo,33,b\n", options);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect(set->unlabelled);
    cr_expect_eq(at(set, 0, 0), 33);
    cr_expect_eq(at(set, 0, 2), 1);
    cr_expect_eq(at(set, 0, 3), 1);
    psd_dataset_destroy(&set);
    set = parse_text("csv", "y,city,age,work\nyes,Oslo,33,b\n", options);
    cr_expect(!set->unlabelled);
    cr_expect_eq(set->label[0], 1);
    psd_dataset_destroy(&set);
    refused("csv", "city,work\nOslo,b\n", options, "f:1: no column is named 'age', which the model was trained on; add it");
    options.na = PSD_NA_ERROR; /* skip would leave a row without a prediction */
    refused("csv", "city,age,work\nOslo,,b\n", options, "f:2:6: '' is a missing value; set data.na to zero or mean, or fill it in");
    refused("csv", "y,city,age,work\n,Oslo,1,b\n", options, "f:2:1: '' is a missing label; fill it in, or leave the column out");
    options.na = PSD_NA_ZERO;
    psd_dataset_destroy(&train);
    /* Without a header: all columns, or only the features. */
    options = (psd_dataset_options_t){ .label_column = "0", .drop = (const char *const[]){ "1" }, .n_drop = 1 };
    train = parse_text("csv", "1,9,5,6\n0,9,7,8\n", options);
    options.train = train;
    options.predicts = true;
    set = parse_text("csv", "3,4\n", options);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_arr_eq(set->dense, ((float[]){ 3, 4 }), 8);
    psd_dataset_destroy(&set);
    set = parse_text("csv", "1,9,3,4\n", options);
    cr_expect_arr_eq(set->dense, ((float[]){ 3, 4 }), 8);
    psd_dataset_destroy(&set);
    refused("csv", "9,3,4\n", options,
            "f:1: 3 columns; the model was trained on a file of 4, and has 2 features: give all columns, or only the features");
    psd_dataset_destroy(&train);
}

Test(csv, criteos_words_are_read_where_they_are_named)
{
    /* "*" would not do: some words, 241546e0 for one, are numbers too. */
    static const char *const words[] = {
        "C1",  "C2",  "C3",  "C4",  "C5",  "C6",  "C7",  "C8",  "C9",  "C10", "C11", "C12", "C13",
        "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21", "C22", "C23", "C24", "C25", "C26"
    };
    char spec[DATA_PATH];
    psd_dataset_options_t options = { .header = true,
                                      .label_column = "label",
                                      .na = PSD_NA_ZERO,
                                      .one_hot = 20,
                                      .categorical = words,
                                      .n_categorical = sizeof words / sizeof *words };
    psd_dataset_t *set = psd_dataset_load(data_spec("csv", "criteo/criteo_sample.csv", spec), &options, &err);
    cr_assert_not_null(set, "%s", err.text);
    cr_expect_eq(set->encoding->n_columns, 39);
    cr_expect(set->encoding->column[15].is_hashed);
    psd_dataset_destroy(&set);
}

/* ---- glyphs ---- */

static uint64_t hash_of(const psd_dataset_t *set)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < set->n_rows * set->n_features; i++)
        hash = (hash ^ set->pixels[i]) * 0x100000001b3u;
    for (size_t i = 0; i < set->n_rows; i++)
        hash = (hash ^ (uint64_t)set->label[i]) * 0x100000001b3u;
    return hash;
}

Test(glyphs, every_machine_and_compiler_draws_the_same_bytes)
{
    psd_dataset_options_t options = { 0 };
    psd_dataset_t *train = psd_dataset_load("glyphs:2000", &options, &err);
    options.train = train;
    psd_dataset_t *test = psd_dataset_load("glyphs:2000", &options, &err);
    /* Recorded from gcc 12 at -O2 and clang 14 at -O0, which agree. */
    cr_expect_eq(hash_of(train), UINT64_C(0xbf14b4ac89d2db1), "train %#lx", (unsigned long)hash_of(train));
    cr_expect_eq(hash_of(test), UINT64_C(0xede07c5781f50c06), "test %#lx", (unsigned long)hash_of(test));
    psd_dataset_destroy(&test);
    psd_dataset_destroy(&train);
}

Test(glyphs, a_smaller_set_is_the_head_of_a_larger_one)
{
    psd_dataset_options_t options = { 0 };
    psd_dataset_t *small = psd_dataset_load("glyphs:10", &options, &err), *large = psd_dataset_load("glyphs:50", &options, &err);
    cr_assert_eq(small->n_classes, 10);
    cr_assert_arr_eq(small->pixels, large->pixels, 10 * 784);
    cr_assert_arr_eq(small->label, large->label, 10 * sizeof(float));
    psd_dataset_destroy(&small);
    psd_dataset_destroy(&large);
}

Test(glyphs, another_seed_and_the_test_set_are_other_samples)
{
    psd_dataset_options_t options = { 0 };
    psd_dataset_t *one = psd_dataset_load("glyphs:10:1", &options, &err), *two = psd_dataset_load("glyphs:10:2", &options, &err);
    options.train = one;
    psd_dataset_t *test = psd_dataset_load("glyphs:10:1", &options, &err);
    cr_assert_neq(memcmp(one->pixels, two->pixels, 10 * 784), 0);
    cr_assert_neq(memcmp(one->pixels, test->pixels, 10 * 784), 0);
    psd_dataset_destroy(&test);
    psd_dataset_destroy(&one);
    psd_dataset_destroy(&two);
}

Test(glyphs, a_wrong_argument_is_refused)
{
    const char *wrong[] = { "glyphs:0", "glyphs:x", "glyphs:-5", "glyphs:10:", "glyphs:10:1:2", "glyphs:99999999", "glyphs:10:-1" };
    psd_dataset_options_t options = { 0 };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_assert_null(psd_dataset_load(wrong[i], &options, &err), "accepted %s", wrong[i]);
}
