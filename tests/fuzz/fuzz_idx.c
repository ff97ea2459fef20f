/* Any two byte strings as the images and labels of an idx data set: refused with a sentence, or complete and in bounds. The first
 * byte gives the share of the labels in the rest. */
#include <stdlib.h>

#include "worker/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const size_t n_labels = data[0] < size - 1 ? data[0] : size - 1;
    const psd_bytes_t labels = { "labels", data + 1, n_labels }, images = { "images", data + 1 + n_labels, size - 1 - n_labels };
    const psd_dataset_options_t options = { 0 };
    psd_err_t err = { 0 };
    psd_dataset_t *set = psd_dataset_parse(psd_dataset_reader("idx"), &images, &labels, &options, &err);
    if (!set != !!err.code || !set != !!err.text[0])
        abort();
    for (uint32_t i = 0; set && i < set->n_rows; i++) {
        float *row = malloc(set->n_features * sizeof *row);
        psd_dataset_gather(set, &i, 1, row);
        for (size_t j = 0; j < set->n_features; j++)
            if (!(row[j] >= 0 && row[j] <= 1))
                abort();
        if (!(set->label[i] < (float)set->n_classes))
            abort();
        free(row);
    }
    psd_dataset_destroy(&set);
    return 0;
}
