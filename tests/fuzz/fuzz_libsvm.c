/* Any bytes as libsvm text: refused with a sentence, or a sparse set whose columns are in bounds; then once
 * more as a test set of itself. The first byte chooses the index base and the sort of labels. */
#include <math.h>
#include <stdlib.h>

#include "worker/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const psd_dataset_t *set)
{
    for (size_t i = 0; i < set->n_rows; i++) {
        if (set->row_start[i] > set->row_start[i + 1])
            abort();
        for (uint64_t k = set->row_start[i]; k < set->row_start[i + 1]; k++)
            if (set->column[k] >= set->n_features || !isfinite(set->value[k]))
                abort();
        if (!isfinite(set->label[i]) || (set->weight && !(set->weight[i] >= 0)))
            abort();
        if (set->kind == PSD_LABEL_CLASS && !(set->label[i] >= 0 && set->label[i] < (float)set->n_classes))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const psd_bytes_t file = { "f", data + 1, size - 1 };
    psd_dataset_options_t options = { .index_base = data[0] & 1, .kind = data[0] & 2 ? PSD_LABEL_TARGET : PSD_LABEL_CLASS };
    psd_err_t err = { 0 };
    psd_dataset_t *set = psd_dataset_parse(psd_dataset_reader("libsvm"), &file, NULL, &options, &err);
    if (!set != !!err.code || !set != !!err.text[0])
        abort();
    if (!set)
        return 0;
    check(set);
    options.train = set;
    psd_dataset_t *again = psd_dataset_parse(psd_dataset_reader("libsvm"), &file, NULL, &options, &err);
    if (!again || again->n_rows != set->n_rows)
        abort();
    psd_dataset_destroy(&again);
    psd_dataset_destroy(&set);
    return 0;
}
