/* Any bytes as an npz archive: refused with a sentence, or arrays all of whose elements can be read. */
#include <stdint.h>
#include <stdlib.h>

#include "worker/npz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const psd_bytes_t file = { "f", data, size };
    psd_npz_t npz;
    psd_err_t err = { 0 };
    const int rc = psd_npz_read(&file, &npz, &err);
    if (!rc != !err.code || !rc != !err.text[0])
        abort();
    volatile double sum = 0;
    for (size_t i = 0; !rc && i < npz.n; i++)
        for (size_t k = 0; k < npz.member[i].array.rows * npz.member[i].array.width; k++)
            sum = sum + psd_npy_value(&npz.member[i].array, k);
    psd_npz_clear(&npz);
    return 0;
}
