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
