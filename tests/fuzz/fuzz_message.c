/* fuzz_message.c - any bytes as a message: a decoded one encodes and decodes to the same again; the rest is refused. The first byte
 * chooses the kind of the rest. A header's payload length is computed from its fields, to get past that check. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void check_header(const uint8_t *data, size_t n_bytes, size_t payload_bytes)
{
    psd_msg_t first, second;
    psd_err_t err;
    if (psd_msg_decode(&first, data, n_bytes, payload_bytes, &err) != PSD_OK) {
        first.kind = 0;
        first.protocol = 0;
        second = (psd_msg_t){ 0 };
        assert(memcmp(&first, &second, sizeof first) == 0 && err.code == PSD_EPROTO && *err.text);
        return;
    }
    uint8_t frame[PSD_MAX_HEADER];
    size_t n = psd_msg_encode(&first, frame);
    assert(n == n_bytes);
    assert(psd_msg_decode(&second, frame, n, payload_bytes, &err) == PSD_OK);
    assert(memcmp(&first, &second, sizeof first) == 0);
}

static void check_tensors(const uint8_t *data, size_t n_bytes)
{
    static uint8_t buf[PSD_MAX_LIST];
    psd_tensor_list_t first, second;
    if (psd_tensors_decode(&first, data, n_bytes, NULL) != PSD_OK)
        return;
    assert(psd_tensors_encode(&first, buf, sizeof buf) == n_bytes);
    assert(psd_tensors_decode(&second, buf, n_bytes, NULL) == PSD_OK);
    assert(psd_tensors_compare(&first, &second, NULL) == PSD_OK);
    psd_tensors_clear(&first);
    psd_tensors_clear(&second);
}

static void check_round(const uint8_t *data, size_t n_bytes)
{
    static uint8_t once[PSD_MAX_LIST], twice[PSD_MAX_LIST];
    psd_round_t first, second;
    if (psd_round_decode(&first, data, n_bytes, NULL) != PSD_OK)
        return;
    assert(psd_round_encode(&first, once, sizeof once) == n_bytes);
    assert(psd_round_decode(&second, once, n_bytes, NULL) == PSD_OK);
    assert(psd_round_encode(&second, twice, sizeof twice) == n_bytes);
    assert(memcmp(once, twice, n_bytes) == 0);
    psd_round_clear(&first);
    psd_round_clear(&second);
}

static void check_body(psd_payload_t payload, const uint8_t *data, size_t n_bytes)
{
    static uint8_t once[PSD_MAX_LIST];
    psd_buf_t *first, *second;
    if (psd_body_decode(payload, data, n_bytes, &first, NULL) != PSD_OK)
        return;
    assert(psd_body_encode(payload, first, once, sizeof once) == n_bytes);
    assert(psd_body_decode(payload, once, n_bytes, &second, NULL) == PSD_OK);
    assert(first->n_bytes == second->n_bytes && memcmp(first->data, second->data, first->n_bytes) == 0);
    psd_buf_unref(&first);
    psd_buf_unref(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (n_bytes == 0)
        return 0;
    unsigned what = *data++;
    n_bytes--;
    switch (what % 8) {
    case 0:
        check_tensors(data, n_bytes);
        break;
    case 1:
        check_body(PSD_PAYLOAD_CLUSTER, data, n_bytes);
        break;
    case 2:
        check_round(data, n_bytes);
        break;
    case 3:
        check_body(PSD_PAYLOAD_HELLO, data, n_bytes);
        break;
    case 4:
        check_body(PSD_PAYLOAD_SHARD_HELLO, data, n_bytes);
        break;
    case 5:
        check_body(PSD_PAYLOAD_ADMIN_REQUEST, data, n_bytes);
        break;
    case 6:
        check_body(PSD_PAYLOAD_OFFER, data, n_bytes);
        break;
    default:
        check_header(data, n_bytes, what / 8 * 4);
    }
    return 0;
}
