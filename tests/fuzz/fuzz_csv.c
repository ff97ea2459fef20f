/* Any bytes as a csv: refused with a sentence, or finite numbers in as many columns as the first line has;
 * then once more as a test set of itself. The first byte chooses header, missing values, sort and column of
 * the labels, delimiter and what is dropped. */
#include <math.h>
#include <stdlib.h>

#include "worker/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const psd_bytes_t file = { "f", data + 1, size - 1 };
    static const psd_na_t na[] = { PSD_NA_ERROR, PSD_NA_ZERO, PSD_NA_SKIP, PSD_NA_ZERO };
    static const char *const column[] = { "0", "1", "y", "a\"b" };
    static const char *const drop[] = { "z", "2" };
    psd_dataset_options_t options = { .delimiter = data[0] & 64 ? ';' : 0,
                                      .drop = drop + (data[0] >> 7),
                                      .n_drop = data[0] >> 6 == 3,
                                      .header = data[0] & 1,
                                      .na = na[data[0] >> 1 & 3],
                                      .label_column = column[data[0] >> 3 & 3],
                                      .kind = data[0] & 32 ? PSD_LABEL_TARGET : PSD_LABEL_CLASS };
    psd_err_t err = { 0 };
    psd_dataset_t *set = psd_dataset_parse(psd_dataset_reader("csv"), &file, NULL, &options, &err);
    if (!set != !!err.code || !set != !!err.text[0])
        abort();
    if (!set)
        return 0;
    for (size_t i = 0; i < set->n_rows * set->n_features; i++)
        if (!isfinite(set->dense[i]))
            abort();
    options.train = set;
    psd_dataset_t *again = psd_dataset_parse(psd_dataset_reader("csv"), &file, NULL, &options, &err);
    if (!again || again->n_rows != set->n_rows)
        abort();
    psd_dataset_destroy(&again);
    psd_dataset_destroy(&set);
    return 0;
}
