/* fuzz_order.c - any bytes as psdctl launch's order to the agent on a host: an order of texts, or refused. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "deploy/psdctl/run/order.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void check_texts(const json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) assert(*key || !*key), assert(json_string_value(value));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    psd_order_t order;
    psd_err_t err = { 0 };
    int rc = psd_order_parse(&order, (const char *)data, n_bytes, &err);
    assert(rc == PSD_OK || (rc == PSD_EUSAGE && !order.all && *err.text));
    if (rc)
        return 0;
    assert(order.n_words > 0 && order.n_words <= PSD_ORDER_WORDS && strlen(order.directory) + strlen(order.make) < n_bytes);
    for (size_t i = 0; i < order.n_words; i++)
        assert(strlen(order.word[i]) < n_bytes);
    check_texts(order.environment);
    check_texts(order.secrets);
    psd_order_clear(&order);
    return 0;
}
