#include <criterion/criterion.h>
#include <string.h>

#include "common/base/buffer.h"
#include "common/base/crc32c.h"

TestSuite(buffer, .timeout = 600);

static size_t released;
static void release(psd_buf_t *self)
{
    (void)self;
    released++;
}

Test(buffer, the_last_reference_releases_the_bytes_once)
{
    char bytes[4];
    psd_buf_t buf, *one = &buf;
    psd_buf_init(&buf, bytes, sizeof bytes, release);
    psd_buf_t *two = psd_buf_ref(one);
    cr_expect_not(psd_buf_is_unique(one));
    psd_buf_unref(&one);
    cr_expect_null(one);
    cr_expect(psd_buf_is_unique(two));
    cr_expect_eq(released, 0);
    psd_buf_unref(&two);
    cr_expect_eq(released, 1);
    psd_buf_unref(&two);
    cr_expect_null(psd_buf_ref(NULL));
}

Test(buffer, bytes_are_summed_once_and_again_only_when_they_have_changed)
{
    psd_buf_t *buf = psd_buf_new(9);
    memcpy(buf->data, "123456789", 9);
    cr_expect_eq(psd_buf_checksum(buf), 0xe3069283u); /* the check value of the Castagnoli polynomial */
    ((char *)buf->data)[0] = '2';
    cr_expect_eq(psd_buf_checksum(buf), 0xe3069283u, "no call has reported that they changed");
    psd_buf_changed(buf);
    cr_expect_eq(psd_buf_checksum(buf), psd_crc32c("223456789", 9));
    psd_buf_unref(&buf);
}

Test(buffer, a_checksum_computed_before_is_taken_even_if_it_is_0)
{
    psd_buf_t *buf = psd_buf_new(1);
    psd_buf_set_checksum(buf, 0);
    cr_expect_eq(psd_buf_checksum(buf), 0);
    psd_buf_set_checksum(buf, UINT32_MAX);
    cr_expect_eq(psd_buf_checksum(buf), UINT32_MAX);
    psd_buf_unref(&buf);
}
