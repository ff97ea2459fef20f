/* Any bytes as arrays of numpy, features and labels: refused with a sentence, or finite features; then once more as a test set of
 * itself. The first byte chooses missing values, scaling and the sort of labels, the second where the labels' file begins. */
#include <math.h>
#include <stdlib.h>

#include "worker/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    const size_t n = size - 2, first = data[1] < n ? n - data[1] : n;
    const psd_bytes_t file = { "f", data + 2, first }, labels = { "l", data + 2 + first, n - first };
    static const char *const all[] = { "*" };
    psd_dataset_options_t options = { .na = (psd_na_t)(data[0] & 3),
                                      .log1p = all,
                                      .n_log1p = data[0] >> 2 & 1,
                                      .standardise = data[0] & 8,
                                      .predicts = data[0] & 16,
                                      .kind = data[0] & 32 ? PSD_LABEL_TARGET : PSD_LABEL_CLASS };
    const psd_bytes_t *const of_labels = options.predicts ? NULL : &labels;
    psd_err_t err = { 0 };
    psd_dataset_t *set = psd_dataset_parse(psd_dataset_reader("npy"), &file, of_labels, &options, &err);
    if (!set != !!err.code || !set != !!err.text[0])
        abort();
    if (!set)
        return 0;
    for (size_t i = 0; i < set->n_rows * set->n_features; i++)
        if (!isfinite(set->dense[i]))
            abort();
    options.train = set;
    psd_dataset_t *again = psd_dataset_parse(psd_dataset_reader("npy"), &file, of_labels, &options, &err);
    if (!again || again->n_rows != set->n_rows)
        abort();
    psd_dataset_destroy(&again);
    psd_dataset_destroy(&set);
    return 0;
}
