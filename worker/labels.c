#include "worker/labels.h"

#include <math.h>
#include <stdint.h>

#include "common/base/array.h"

int psd_labels_add(psd_labels_t *self, float label, const char *name, size_t line, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    if (self->options->kind == PSD_LABEL_CLASS) {
        bool minus = label == -1;
        if (label >= PSD_MAX_CLASSES && truncf(label) == label)
            return psd_err_set(err, PSD_EDATA,
                               "%s:%zu: label %.9g is too large for a class; %d classes fit, numbered from 0 (to predict "
                               "numbers choose model.kind linear)",
                               name, line, (double)label, PSD_MAX_CLASSES);
        if (!minus && !(label >= 0 && truncf(label) == label))
            return psd_err_set(err, PSD_EDATA,
                               "%s:%zu: label %.9g is not a class; classes are whole numbers from 0, or -1 and 1 throughout "
                               "(to predict numbers choose model.kind linear)",
                               name, line, (double)label);
        if (minus && !self->minus_line)
            self->minus_line = line;
        if (!minus && label != 1 && !self->other_line) {
            self->other_line = line;
            self->other = label;
        }
        const psd_dataset_t *train = self->options->train;
        if (train && label >= (float)train->n_classes)
            return psd_err_set(err, PSD_EDATA,
                               "%s:%zu: label %g, but the training set's largest is %zu; give both the same classes", name, line,
                               (double)label, train->n_classes - 1);
        self->largest = label > self->largest ? label : self->largest;
        self->smallest = !set->n_rows || label < self->smallest ? label : self->smallest;
    }
    if (set->n_rows >= UINT32_MAX)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: more than 4294967295 rows; split the file", name, line);
    int rc = psd_array_grow(&set->label, &self->room, set->n_rows + 1, sizeof *set->label, err);
    if (!rc)
        set->label[set->n_rows++] = label;
    return rc;
}

int psd_labels_end(psd_labels_t *self, const char *name, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    const psd_dataset_t *train = self->options->train;
    if (!set->n_rows)
        return set->n_skipped
                   ? psd_err_set(err, PSD_EDATA, "%s: no rows are left; data.na=skip has left out all %zu", name, set->n_skipped)
                   : psd_err_set(err, PSD_EDATA, "%s: no rows; the data set is empty", name);
    set->kind = self->options->kind;
    if (set->kind != PSD_LABEL_CLASS)
        return PSD_OK;
    set->minus_one = self->minus_line > 0;
    if (set->minus_one && self->other_line)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: label -1, but line %zu has %g; use only -1 and 1, or classes from 0", name,
                           self->minus_line, self->other_line, (double)self->other);
    if (train && set->minus_one && !train->minus_one && !self->options->predicts)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: label -1, but the training set's classes start at 0", name, self->minus_line);
    if (train && train->minus_one && self->other_line && !self->options->predicts)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: label %g, but the training set's labels are -1 and 1", name, self->other_line,
                           (double)self->other);
    set->first_class = self->smallest > 0 ? (size_t)self->smallest : 0;
    for (size_t i = 0; set->minus_one && i < set->n_rows; i++)
        set->label[i] = set->label[i] > 0;
    set->n_classes = train ? train->n_classes : self->largest < 1 ? 2 : (size_t)self->largest + 1;
    return PSD_OK;
}
