/* small_model.h - a model of 2 features and 3 classes, fc1.weight [3, 2] and fc1.bias [3], and a file for its weights or state. For
 * one suite: small_model_setup, small_model_teardown. */
#pragma once

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/model.h"

static psd_err_t err;
static char path[] = "/tmp/psd-test-XXXXXX";
static psd_dataset_t set;
static psd_model_t *model;

static inline void small_model_setup(void)
{
    close(mkstemp(path));
    set = (psd_dataset_t){ .n_rows = 1, .n_features = 2, .n_classes = 3, .dense = calloc(2, sizeof(float)) };
    model = psd_model_new(&(psd_model_config_t){ .kind = "softmax", .seed = 1 }, &set, &err);
    cr_assert_not_null(model, "%s", err.text);
}

static inline void small_model_teardown(void)
{
    psd_model_destroy(&model);
    free(set.dense);
    unlink(path);
}

/* Make `path` a safetensors file of this header and this data. */
static inline void small_model_write(const char *header, const void *data, size_t n)
{
    const uint64_t length = strlen(header);
    FILE *out = fopen(path, "wb");
    fwrite(&length, 8, 1, out);
    fwrite(header, 1, length, out);
    fwrite(data, 1, n, out);
    fclose(out);
}
