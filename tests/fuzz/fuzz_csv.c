/* Any bytes as a csv: refused with a sentence, or finite features that are in bounds; then once more as a test set of itself, and
 * as rows to be predicted. The first byte chooses header, missing values, sort and column of the labels, delimiter and what is
 * dropped; the second which columns are words, how they become features, and scaling. */
#include <math.h>
#include <stdlib.h>

#include "worker/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const psd_dataset_t *set)
{
    for (size_t i = 0; set->dense && i < set->n_rows * set->n_features; i++)
        if (!isfinite(set->dense[i]))
            abort();
    for (size_t i = 0; set->row_start && i < set->n_rows; i++)
        for (uint64_t k = set->row_start[i]; k < set->row_start[i + 1]; k++)
            if (set->column[k] >= set->n_features || !isfinite(set->value[k]) ||
                (k > set->row_start[i] && set->column[k] == set->column[k - 1]))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const psd_bytes_t file = { "f", data + 2, size - 2 };
    static const psd_na_t na[] = { PSD_NA_ERROR, PSD_NA_ZERO, PSD_NA_SKIP, PSD_NA_MEAN };
    static const char *const column[] = { "0", "1", "y", "a\"b" };
    static const char *const drop[] = { "z", "2" }, *const all[] = { "*" }, *const words[] = { "1", "y" };
    psd_dataset_options_t options = { .delimiter = data[0] & 64 ? ';' : 0,
                                      .drop = drop + (data[0] >> 7),
                                      .n_drop = data[0] >> 6 == 3,
                                      .header = data[0] & 1,
                                      .na = na[data[0] >> 1 & 3],
                                      .label_column = column[data[0] >> 3 & 3],
                                      .categorical = data[1] & 1 ? words : all,
                                      .n_categorical = data[1] & 1 ? 1 + (data[1] >> 1 & 1) : data[1] >> 1 & 1,
                                      .log1p = all,
                                      .n_log1p = data[1] >> 3 & 1,
                                      .standardise = data[1] & 16,
                                      .one_hot = data[1] >> 5 & 3,
                                      .hash_bits = 3,
                                      .held_share = data[1] & 128 ? 0.3 : 0,
                                      .kind = data[0] & 32 ? PSD_LABEL_TARGET : PSD_LABEL_CLASS };
    psd_err_t err = { 0 };
    psd_dataset_t *set = psd_dataset_parse(psd_dataset_reader("csv"), &file, NULL, &options, &err);
    if (!set != !!err.code || !set != !!err.text[0])
        abort();
    if (!set)
        return 0;
    check(set);
    options.train = set;
    psd_dataset_t *again = psd_dataset_parse(psd_dataset_reader("csv"), &file, NULL, &options, &err);
    if (!again || again->n_rows != set->n_rows)
        abort();
    check(again);
    psd_dataset_destroy(&again);
    options.predicts = true;
    again = psd_dataset_parse(psd_dataset_reader("csv"), &file, NULL, &options, &err);
    if (!again)
        abort();
    check(again);
    psd_dataset_destroy(&again);
    psd_dataset_destroy(&set);
    return 0;
}
