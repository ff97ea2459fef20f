/* Any bytes as a model's encoding: refused with a sentence, or one whose print reads back as the same. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/encoding.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    psd_err_t err = { 0 };
    psd_encoding_t *self = psd_encoding_parse(text, &err);
    free(text);
    if (!self != !!err.code || !self != !!err.text[0])
        abort();
    if (!self)
        return 0;
    for (size_t i = 0; i < self->n_columns; i++)
        if (!self->column[i].is_word ? !isfinite(psd_encoding_value(&self->column[i], 1e30))
                                     : psd_encoding_feature(self, &self->column[i], "a", 1) != PSD_NO_FEATURE &&
                                           psd_encoding_feature(self, &self->column[i], "a", 1) >= self->n_features)
            abort();
    char *once = psd_encoding_print(self, &err);
    psd_encoding_t *back = once ? psd_encoding_parse(once, &err) : NULL;
    char *twice = back ? psd_encoding_print(back, &err) : NULL;
    if (!twice || strcmp(once, twice))
        abort();
    free(once);
    free(twice);
    psd_encoding_destroy(&back);
    psd_encoding_destroy(&self);
    return 0;
}
