/* Any bytes as criteo log: refused with a sentence, or a sparse set whose features are finite; then once more as a test
 * set of itself. The first byte chooses missing values, scaling and how words become features. */
#include <math.h>
#include <stdlib.h>

#include "worker/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const psd_bytes_t file = { "f", data + 1, size - 1 };
    static const char *const all[] = { "*" };
    psd_dataset_options_t options = { .na = (psd_na_t)(data[0] & 3),
                                      .log1p = all,
                                      .n_log1p = data[0] >> 2 & 1,
                                      .standardise = data[0] & 8,
                                      .one_hot = data[0] >> 4 & 3,
                                      .hash_bits = 4,
                                      .kind = data[0] & 64 ? PSD_LABEL_TARGET : PSD_LABEL_CLASS };
    psd_err_t err = { 0 };
    psd_dataset_t *set = psd_dataset_parse(psd_dataset_reader("criteo"), &file, NULL, &options, &err);
    if (!set != !!err.code || !set != !!err.text[0])
        abort();
    if (!set)
        return 0;
    for (size_t i = 0; i < set->n_rows; i++)
        for (uint64_t k = set->row_start[i]; k < set->row_start[i + 1]; k++)
            if (set->column[k] >= set->n_features || !isfinite(set->value[k]))
                abort();
    options.train = set;
    psd_dataset_t *again = psd_dataset_parse(psd_dataset_reader("criteo"), &file, NULL, &options, &err);
    if (!again || again->n_rows != set->n_rows)
        abort();
    psd_dataset_destroy(&again);
    psd_dataset_destroy(&set);
    return 0;
}
