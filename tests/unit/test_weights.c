#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/small_model.h"
#include "worker/weights.h"

static psd_safetensors_t file = { .fd = -1 };

static void teardown(void)
{
    psd_safetensors_close(&file);
    small_model_teardown();
}

TestSuite(weights, .init = small_model_setup, .fini = teardown, .timeout = 60);

/* A file with this header and this data. */
static void write_file(const char *header, const void *data, size_t n)
{
    small_model_write(header, data, n);
    psd_safetensors_close(&file);
    cr_assert_eq(psd_safetensors_open(&file, path, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_safetensors_parse(&file, &err), PSD_OK, "%s", err.text);
}

#define HEADER                                                                                                                     \
    "{\"fc1.weight\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]},"                                                 \
    "\"fc1.bias\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[24,30]}"

/* Weights 1 to 6; and, with 16 bits, 1, -2 and 2^-24, the smallest value. */
static void write_both(const char *more)
{
    unsigned char data[30];
    const float weight[] = { 1, 2, 3, 4, 5, 6 };
    memcpy(data, weight, 24);
    memcpy(data + 24, "\x00\x3c\x00\xc0\x01\x00", 6);
    char header[400];
    snprintf(header, sizeof header, HEADER "%s}", more);
    write_file(header, data, 30);
}

Test(weights, tensors_are_taken_by_name_and_shape_as_float32)
{
    psd_weights_taken_t taken;
    write_both("");
    cr_assert_eq(psd_weights_take(model, &file, false, &taken, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(taken.n_taken, 2);
    cr_expect_arr_eq(psd_model_params(model)[0].data, ((float[]){ 1, 2, 3, 4, 5, 6 }), 24);
    cr_expect_arr_eq(psd_model_params(model)[1].data, ((float[]){ 1, -2, 0x1p-24f }), 12);
}

Test(weights, a_tensor_that_is_missing_or_has_another_shape_is_named_unless_partial)
{
    psd_weights_taken_t taken;
    const float before = psd_model_params(model)[1].data[2];
    write_file("{\"fc1.weight\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]},"
               "\"head.bias\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[24,28]}}",
               (float[7]){ 9 }, 28);
    cr_expect_eq(psd_weights_take(model, &file, false, &taken, &err), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, ": it has no tensor fc1.bias [3], but the model does"), "%s", err.text);
    cr_assert_eq(psd_weights_take(model, &file, true, &taken, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(taken.n_missing, 1);
    cr_expect_str_eq(taken.missing, "fc1.bias");
    cr_expect_str_eq(taken.unused, "head.bias");
    cr_expect_eq(taken.n_unused, 1);
    cr_expect_eq(psd_model_params(model)[0].data[0], 9);
    cr_expect_eq(psd_model_params(model)[1].data[2], before, "it begins as it was");
    write_file("{\"fc1.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", (float[6]){ 9 }, 24);
    cr_expect_eq(psd_weights_take(model, &file, false, &taken, &err), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, ": tensor fc1.weight is [2, 3] there, but [3, 2] in the model"), "%s", err.text);
    cr_expect_eq(psd_weights_take(model, &file, true, &taken, &err), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, ": none of its tensors fits the model"), "%s", err.text);
}

Test(weights, a_value_that_is_not_finite_is_refused_with_its_place)
{
    float out[2];
    write_file("{\"a\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]},\"b\":{\"dtype\":\"I64\",\"shape\":[1],"
               "\"data_offsets\":[16,24]}}",
               (double[3]){ 1, (double)NAN, 0 }, 24);
    cr_expect_eq(psd_weights_read(&file, &file.entry[0], out, 2, &err), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, ": tensor a, element 1 of 2 is NaN"), "%s", err.text);
    cr_expect_eq(psd_weights_read(&file, &file.entry[1], out, 1, &err), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, ": tensor b has type I64; save it as float32"), "%s", err.text);
    write_file("{\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}", "\x80\x3f\x40\xc0", 4);
    cr_assert_eq(psd_weights_read(&file, &file.entry[0], out, 2, &err), PSD_OK, "%s", err.text);
    cr_expect_arr_eq(out, ((float[]){ 1, -3 }), 8);
}

/* Types whose values are exact in a float32, and what cannot be one. */
Test(weights, every_type_becomes_float32_and_a_single_number_a_double)
{
    unsigned char data[66];
    const double f64[] = { -0.25, 0x1.fffffep127 }, beyond = 0x1p128, nan64 = (double)NAN;
    const int64_t i64 = INT64_C(-5000000000);
    const int32_t i32 = -7;
    float out[5];
    memcpy(data, f64, 16);
    memcpy(data + 16, "\xff\x7b\x00\x84\xff\x83\x00\x80\x01\x04", 10);
    memcpy(data + 26, "\x00\x7c\x00\xfe", 4);
    memcpy(data + 30, &beyond, 8);
    memcpy(data + 38, &nan64, 8);
    memcpy(data + 46, &i64, 8);
    memcpy(data + 54, &i32, 4);
    memcpy(data + 58, f64, 8);
    write_file("{\"a\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]},"
               "\"b\":{\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[16,26]},"
               "\"c\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[26,28]},"
               "\"d\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[28,30]},"
               "\"e\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[30,38]},"
               "\"f\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[38,46]},"
               "\"g\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[46,54]},"
               "\"h\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[54,58]},"
               "\"i\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[58,66]}}",
               data, sizeof data);
    const struct {
        const char *name;
        size_t n;
        float values[5];
        const char *wrong; /* NULL: it has these values */
        double number;
        const char *no_number;
    } cases[] = {
        { "a", 2, { -0.25F, 0x1.fffffep127F }, NULL, 0, NULL },
        { "b", 5, { 65504, -0x1p-14F, -1023 * 0x1p-24F, -0.0F, 1025 * 0x1p-24F }, NULL, 0, NULL },
        { "c",
          1,
          { 0 },
          "tensor c, element 0 of 1 is beyond the range of float32; training cannot start from that",
          0,
          "c is Inf or NaN" },
        { "d", 1, { 0 }, "tensor d, element 0 of 1 is NaN; training cannot start from that", 0, "d is Inf or NaN" },
        { "e",
          1,
          { 0 },
          "tensor e, element 0 of 1 is beyond the range of float32; training cannot start from that",
          0x1p128,
          NULL },
        { "f", 1, { 0 }, "tensor f, element 0 of 1 is NaN; training cannot start from that", 0, "f is Inf or NaN" },
        { "g", 1, { 0 }, "tensor g has type I64; save it as float32", -5e9, NULL },
        { "h", 1, { 0 }, "tensor h has type I32; save it as float32", -7, NULL },
        { "i", 1, { 0 }, "tensor i has type U8; save it as float32", 0, "i has type U8; save it as float64" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[200];
        double number;
        const psd_entry_t *entry = file.entry;
        while (strcmp(entry->name, cases[i].name))
            entry++;
        const int rc = psd_weights_read(&file, entry, out, cases[i].n, &err);
        cr_expect_eq(rc, cases[i].wrong ? PSD_EDATA : PSD_OK, "%s", cases[i].name);
        snprintf(want, sizeof want, "%s: %s", path, cases[i].wrong ? cases[i].wrong : "");
        if (cases[i].wrong)
            cr_expect_str_eq(err.text, want);
        else
            cr_expect_arr_eq(out, cases[i].values, cases[i].n * sizeof *out, "%s", cases[i].name);
        if (cases[i].n > 1)
            continue; /* not a single number */
        cr_expect_eq(psd_weights_number(&file, entry, &number, &err), cases[i].no_number ? PSD_EDATA : PSD_OK, "%s", cases[i].name);
        snprintf(want, sizeof want, "%s: %s", path, cases[i].no_number ? cases[i].no_number : "");
        if (cases[i].no_number)
            cr_expect_str_eq(err.text, want);
        else
            cr_expect_eq(number, cases[i].number, "%s", cases[i].name);
    }
}

Test(weights, names_of_tensors_that_are_not_both_in_the_file_and_the_model_are_listed)
{
    psd_weights_taken_t taken;
    char want[300];
    write_file("{\"fc1.bias\":{\"dtype\":\"F32\",\"shape\":[3,1],\"data_offsets\":[0,12]},"
               "\"head\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]},"
               "\"tail\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[16,20]}}",
               (float[5]){ 9 }, 20);
    cr_expect_eq(psd_weights_take(model, &file, true, &taken, &err), PSD_EDATA);
    cr_expect_eq(taken.n_missing, 2);
    cr_expect_str_eq(taken.missing, "fc1.weight, fc1.bias");
    cr_expect_eq(taken.n_unused, 2);
    cr_expect_str_eq(taken.unused, "head, tail");
    snprintf(want, sizeof want, "%s: none of its tensors fits the model: the model's first is fc1.weight, the file has head, tail",
             path);
    cr_expect_str_eq(err.text, want);
    write_file("{\"fc1.bias\":{\"dtype\":\"F32\",\"shape\":[3,1],\"data_offsets\":[0,12]}}", (float[3]){ 9 }, 12);
    cr_expect_eq(psd_weights_take(model, &file, true, &taken, &err), PSD_EDATA);
    snprintf(want, sizeof want, "%s: none of its tensors fits the model: the model's first is fc1.weight, the file has none", path);
    cr_expect_str_eq(err.text, want);
}

/* Layers in any order, of which the highest is the last; other names and shapes are not layers. */
#define LAYERS                                                                                                                     \
    "{\"fc10.weight\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"                                                 \
    "\"fc1.weight\":{\"dtype\":\"F32\",\"shape\":[4,1],\"data_offsets\":[8,24]},"                                                  \
    "\"fc2.weight\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_offsets\":[24,56]},"                                                 \
    "\"fc11.weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[56,68]},"                                                  \
    "\"fc12.weights\":{\"dtype\":\"F32\",\"shape\":[3,1],\"data_offsets\":[68,80]},"                                               \
    "\"ffc1.weight\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[80,92]}"

Test(weights, the_first_layer_has_the_features_and_the_last_one_the_classes)
{
    char want[300];
    for (int encoded = 0; encoded < 4; encoded++) {
        char header[1200];
        snprintf(header, sizeof header, "%s%s%s%s}", LAYERS,
                 encoded ? ",\"__metadata__\":{\"psd.encoding\":\"{\\\"schema\\\":\\\"psd.encoding/1\\\",\\\"label\\\":\\\"y\\\","
                           "\\\"hash_bits\\\":4,\\\"columns\\\":[{\\\"name\\\":\\\"a\\\"}]"
                         : "",
                 encoded == 2   ? ",\\\"classes\\\":[\\\"n\\\",\\\"y\\\"]"
                 : encoded == 3 ? ",\\\"classes\\\":[\\\"l\\\",\\\"m\\\",\\\"n\\\"]"
                                : "",
                 encoded ? "}\"}" : "");
        write_file(header, (float[23]){ 9 }, 92);
        psd_dataset_t *frame = psd_weights_frame(&file, psd_model_kind_find("softmax"), &err);
        if (encoded == 3) {
            snprintf(want, sizeof want, "%s: its encoding has 3 classes, but its last tensor 1 outputs; train the model again",
                     path);
            cr_expect_null(frame);
            cr_expect_str_eq(err.text, want);
            continue;
        }
        cr_assert_not_null(frame, "%s", err.text);
        cr_expect_eq(frame->n_features, 1);
        cr_expect_eq(frame->n_classes, 2, "one output tells two classes apart");
        cr_expect_eq(frame->kind, PSD_LABEL_CLASS);
        cr_expect_eq(frame->encoding != NULL, encoded > 0);
        psd_dataset_destroy(&frame);
        if (encoded == 2)
            continue;
        cr_assert_not_null(frame = psd_weights_frame(&file, psd_model_kind_find("linear"), &err), "%s", err.text);
        cr_expect_eq(frame->n_classes, 0, "a target has none");
        cr_expect_eq(frame->kind, PSD_LABEL_TARGET);
        psd_dataset_destroy(&frame);
    }
    write_file("{\"fc1.weight\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]},"
               "\"__metadata__\":{\"psd.encoding\":\"7\"}}",
               (float[6]){ 9 }, 24);
    cr_expect_null(psd_weights_frame(&file, psd_model_kind_find("softmax"), &err));
    cr_expect_eq(strncmp(err.text, path, strlen(path)), 0, "%s", err.text);
    write_file("{\"fc2.weight\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]}}", (float[6]){ 9 }, 24);
    cr_expect_null(psd_weights_frame(&file, psd_model_kind_find("softmax"), &err), "its features are unknown");
}

Test(weights, a_file_tells_of_features_classes_and_encoding)
{
    const psd_model_kind_t *kind = psd_model_kind_find("softmax");
    write_both("");
    psd_dataset_t *frame = psd_weights_frame(&file, kind, &err);
    cr_assert_not_null(frame, "%s", err.text);
    cr_expect_eq(frame->n_features, 2);
    cr_expect_eq(frame->n_classes, 3);
    psd_dataset_destroy(&frame);
    write_both(
        ",\"__metadata__\":{\"psd.encoding\":\"{\\\"schema\\\":\\\"psd.encoding/1\\\",\\\"label\\\":\\\"y\\\",\\\"hash_bits\\\":4,"
        "\\\"columns\\\":[{\\\"name\\\":\\\"a\\\"}]}\"}");
    cr_expect_null(psd_weights_frame(&file, kind, &err));
    cr_expect_not_null(strstr(err.text, ": its encoding makes 1 features, but its first tensor takes 2"), "%s", err.text);
    write_file("{\"0.weight\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]}}", (float[6]){ 9 }, 24);
    cr_expect_null(psd_weights_frame(&file, kind, &err));
    cr_expect_not_null(strstr(err.text, "it has no tensor fc1.weight of two dimensions"), "%s", err.text);
}
