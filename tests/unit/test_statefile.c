#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/small_model.h"
#include "worker/statefile.h"

static psd_statefile_t file;

static void teardown(void)
{
    psd_statefile_clear(&file);
    small_model_teardown();
}
TestSuite(statefile, .init = small_model_setup, .fini = teardown, .timeout = 60);

static int read_file(const char *header, const void *data, size_t n)
{
    small_model_write(header, data, n);
    psd_statefile_clear(&file);
    return psd_statefile_read(&file, path, model, &err);
}

static const psd_state_field_t *find(const char *tensor, const char *name)
{
    for (size_t i = 0; i < file.n; i++)
        if (!strcmp(file.field[i].tensor, tensor) && !strcmp(file.field[i].field, name))
            return &file.field[i];
    return NULL;
}

Test(statefile, names_of_arrays_come_apart_at_their_last_slash_or_dot)
{
    static const char *const names[][3] = { { "state/0/exp_avg", "0", "exp_avg" },
                                            { "state.12.step", "12", "step" },
                                            { "0/exp_avg", "0", "exp_avg" },
                                            { "state/fc1.weight/exp_avg_sq", "fc1.weight", "exp_avg_sq" },
                                            { "encoder/w/momentum_buffer", "encoder/w", "momentum_buffer" } };
    char tensor[128];
    const char *field;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cr_assert(psd_statefile_split(names[i][0], tensor, &field), "%s", names[i][0]);
        cr_expect_str_eq(tensor, names[i][1]);
        cr_expect_str_eq(field, names[i][2]);
    }
    cr_expect_not(psd_statefile_split("state/exp_avg", tensor, &field));
    cr_expect_not(psd_statefile_split("exp_avg", tensor, &field));
    cr_expect_not(psd_statefile_split("state/0/", tensor, &field));
    char name[200] = "state/";
    memset(name + 6, 'x', 127);
    strcpy(name + 133, "/sum");
    cr_assert(psd_statefile_split(name, tensor, &field));
    cr_expect_eq(strlen(tensor), 127);
    cr_expect_str_eq(field, "sum");
    strcpy(name + 133, "x/sum");
    cr_expect_not(psd_statefile_split(name, tensor, &field), "no tensor has so long a name");
}

Test(statefile, numbers_are_the_tensors_of_the_files_own_list_or_else_of_the_model)
{
    const double counts[2] = { 16777217, 3 };
    const char *arrays = "\"state/0/step\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
                         "\"state/fc1.bias/step\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[8,16]}}";
    char header[512];
    int64_t data[2] = { 0, 99 };
    memcpy(data, counts, 8);
    snprintf(header, sizeof header, "{%s", arrays);
    cr_assert_eq(read_file(header, data, 16), PSD_OK, "%s", err.text);
    cr_assert_not_null(find("fc1.weight", "step"));
    cr_expect_eq(find("fc1.weight", "step")->number, 16777217, "float32 has no such number");
    cr_expect_eq(find("fc1.bias", "step")->number, 99);
    cr_expect_null(file.optimizer);
    snprintf(header, sizeof header, "{\"__metadata__\":{\"psd.tensors\":\"head\\nbody\",\"psd.optimizer\":\"adam\"},%s", arrays);
    cr_assert_eq(read_file(header, data, 16), PSD_OK, "%s", err.text);
    cr_expect_not_null(find("head", "step"));
    cr_expect_not_null(find("fc1.bias", "step"));
    cr_expect_str_eq(file.optimizer, "adam");
}

Test(statefile, a_number_names_the_tensor_of_that_place_and_anything_else_itself)
{
    static const char *const name[] = { "w", "b", "7" };
    cr_expect_eq(psd_statefile_tensor("0", name, 3), name[0]);
    cr_expect_eq(psd_statefile_tensor("2", name, 3), name[2]);
    cr_expect_null(psd_statefile_tensor("3", name, 3));
    cr_expect_eq(psd_statefile_tensor("7", name, 3), name[2], "which is a name");
    cr_expect_str_eq(psd_statefile_tensor("1x", name, 3), "1x");
    cr_expect_eq(psd_statefile_tensor("000000000000000001", name, 3), name[1]);
    cr_expect_null(psd_statefile_tensor("0000000000000000001", name, 3), "too long for a number");
}

Test(statefile, arrays_become_float32_and_fit_the_rules_of_the_model)
{
    const double all[18] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
    const char *header = "{\"0.momentum_buffer\":{\"dtype\":\"F64\",\"shape\":[3,2],\"data_offsets\":[0,48]},"
                         "\"1.momentum_buffer\":{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[48,72]}}";
    cr_assert_eq(read_file(header, all, 72), PSD_OK, "%s", err.text);
    psd_inheritance_t *fits = psd_statefile_fit(&file, model, "sgd(momentum=0.9)", "", false, &err);
    cr_assert_not_null(fits, "%s", err.text);
    cr_expect_eq(fits->slot[0][0][5], 6);
    cr_expect_eq(fits->slot[1][0][2], 9);
    psd_inheritance_destroy(&fits);
    cr_expect_null(psd_statefile_fit(&file, model, "adam", "", false, &err));
    cr_expect_eq(err.code, PSD_EDATA);
    cr_expect(strstr(err.text, path) &&
                  strstr(err.text, "the state of tensor fc1.weight has momentum_buffer, which adam does not keep"),
              "%s", err.text);
}

Test(statefile, a_transposed_array_is_refused)
{
    const double six[6] = { 1, 2, 3, 4, 5, 6 };
    cr_expect_eq(read_file("{\"0.exp_avg\":{\"dtype\":\"F64\",\"shape\":[2,3],\"data_offsets\":[0,48]}}", six, 48), PSD_EDATA);
    cr_expect(strstr(err.text, "array 0.exp_avg has another shape than its tensor"), "%s", err.text);
    cr_expect_eq(read_file("{\"0.exp_avg\":{\"dtype\":\"F64\",\"shape\":[3,1,2],\"data_offsets\":[0,48]}}", six, 48), PSD_EDATA);
    cr_expect_eq(read_file("{\"0.exp_avg\":{\"dtype\":\"F64\",\"shape\":[6],\"data_offsets\":[0,48]}}", six, 48), PSD_OK, "flat");
    const double infinite = INFINITY;
    cr_expect_eq(read_file("{\"0.step\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}", &infinite, 8), PSD_EDATA);
    cr_expect(strstr(err.text, "0.step is Inf or NaN"), "%s", err.text);
}

Test(statefile, a_file_that_is_no_state_is_refused)
{
    const float three[3] = { 1, 2, 3 }, six[6] = { 0 };
    cr_expect_eq(read_file("{\"weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", three, 12), PSD_EDATA);
    cr_expect(strstr(err.text, "it has no optimizer state: its first array is weight, as a model has it. A model is for init; for "
                               "init.state, give what psdctl export --optimizer"),
              "%s", err.text);
    cr_expect_eq(read_file("{\"fc1.bias\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", three, 12), PSD_EDATA);
    cr_expect(strstr(err.text, "its first array is fc1.bias, as a model has it"), "%s", err.text);
    cr_expect_eq(read_file("{\"0/sum\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
                           "\"weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[12,24]}}",
                           six, 24),
                 PSD_EDATA);
    cr_expect(strstr(err.text, "array weight is not optimizer state"), "%s", err.text);
    cr_expect_eq(read_file("{\"2/sum\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", three, 12), PSD_EDATA);
    cr_expect(strstr(err.text, "tensor number 2, but there are 2 tensors, from 0"), "%s", err.text);
    cr_expect_eq(read_file("{}", three, 0), PSD_EDATA);
    cr_expect(strstr(err.text, "it has no optimizer state"), "%s", err.text);
    psd_statefile_clear(&file);
    cr_expect_eq(psd_statefile_read(&file, "/nowhere", model, &err), PSD_ENOINPUT);
}
