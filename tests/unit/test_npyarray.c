#include <criterion/criterion.h>
#include <string.h>

#include "worker/npyarray.h"

static psd_err_t err;

/* A file of the given version; the length of its header has 2 bytes in version 1, and 4 later. */
static int parse(unsigned version, const char *dictionary, const void *data, size_t n_data, psd_npy_t *out)
{
    static unsigned char bytes[600];
    const size_t n = strlen(dictionary), of_length = version == 1 ? 2 : 4;
    memcpy(bytes, "\x93NUMPY", 6);
    bytes[6] = (unsigned char)version;
    memset(bytes + 7, 0, 5);
    bytes[8] = (unsigned char)n;
    memcpy(bytes + 8 + of_length, dictionary, n);
    memcpy(bytes + 8 + of_length + n, data, n_data);
    return psd_npy_read(&(psd_bytes_t){ "f", bytes, 8 + of_length + n + n_data }, out, &err);
}

Test(npyarray, each_version_type_and_shape_is_read)
{
    psd_npy_t a;
    const char *dictionary = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 1, 2), }";
    for (unsigned version = 1; version <= 3; version++) {
        cr_assert_eq(parse(version, dictionary, (int16_t[]){ 1, -2, 3, 30000 }, 8, &a), PSD_OK, "%s", err.text);
        cr_expect(a.n_dims == 3 && a.rows == 2 && a.width == 2 && a.shape[2] == 2);
        cr_expect_eq(psd_npy_value(&a, 1), -2);
        cr_expect_eq(psd_npy_value(&a, 3), 30000);
    }
    cr_assert_eq(parse(1, "{'descr': '<f8', 'fortran_order': False, 'shape': ()}", (double[]){ 0.1 }, 8, &a), PSD_OK, "%s",
                 err.text);
    cr_expect(a.n_dims == 0 && a.rows == 1 && a.width == 1 && psd_npy_value(&a, 0) == 0.1);
}

Test(npyarray, an_unsupported_array_is_named)
{
    psd_npy_t a;
    cr_expect_eq(parse(4, "{}", "", 0, &a), PSD_EDATA);
    cr_expect_str_eq(err.text, "f: a NumPy array of version 4; 1 to 3 are read");
    cr_expect_eq(parse(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1)}", "\0\0\0\0", 4, &a), PSD_EDATA);
    cr_expect_str_eq(err.text, "f: 5 dimensions; at most 4 are supported");
    cr_expect_eq(parse(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999)}", "", 0, &a), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, "its shape"), "%s", err.text);
    cr_expect_eq(parse(1, "{'descr': '<f4', 'color': 1}", "", 0, &a), PSD_EDATA);
    cr_expect_str_eq(err.text, "f: its header has an unknown key; save it again with numpy.save");
}
