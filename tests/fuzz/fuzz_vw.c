/* Any bytes as vw text: refused with a sentence, or a sparse set whose columns are in bounds and ordered; then once more as a test
 * set of itself. The first byte chooses hash bits, the sort of labels, and rows to be predicted. */
#include <math.h>
#include <stdlib.h>

#include "worker/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const psd_bytes_t file = { "f", data + 1, size - 1 };
    psd_dataset_options_t options = { .hash_bits = 1 + (data[0] & 7),
                                      .predicts = data[0] & 8,
                                      .kind = data[0] & 16 ? PSD_LABEL_TARGET : PSD_LABEL_CLASS };
    psd_err_t err = { 0 };
    psd_dataset_t *set = psd_dataset_parse(psd_dataset_reader("vw"), &file, NULL, &options, &err);
    if (!set != !!err.code || !set != !!err.text[0])
        abort();
    if (!set)
        return 0;
    for (size_t i = 0; i < set->n_rows; i++)
        for (uint64_t k = set->row_start[i]; k < set->row_start[i + 1]; k++)
            if (set->column[k] >= set->n_features || !isfinite(set->value[k]) ||
                (k > set->row_start[i] && set->column[k] <= set->column[k - 1]))
                abort();
    for (size_t i = 0; set->weight && i < set->n_rows; i++)
        if (!(set->weight[i] >= 0))
            abort();
    options.train = set;
    psd_dataset_t *again = psd_dataset_parse(psd_dataset_reader("vw"), &file, NULL, &options, &err);
    if (!again || again->n_rows != set->n_rows)
        abort();
    psd_dataset_destroy(&again);
    psd_dataset_destroy(&set);
    return 0;
}
