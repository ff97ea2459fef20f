#include "common/base/array.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int psd_array_grow(void *array_p, size_t *room, size_t need, size_t item_bytes, psd_err_t *err)
{
    if (need <= *room)
        return PSD_OK;
    size_t wanted = *room < 32 ? 64 : *room * 2;
    if (wanted < need)
        wanted = need;
    void *array;
    memcpy(&array, array_p, sizeof array);
    if (wanted > SIZE_MAX / 2 / item_bytes || !(array = realloc(array, wanted * item_bytes)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu items of %zu bytes", wanted, item_bytes);
    memcpy(array_p, &array, sizeof array);
    *room = wanted;
    return PSD_OK;
}
