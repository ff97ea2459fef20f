/* fuzz_hostlist.c - any text as a list of nodes: names that fit, or a sentence. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/net/hostlist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const size_t places[] = { 0, 1, 7, 1000, SIZE_MAX };
    char list[1024], host[32];
    psd_err_t err = { 0 };
    const size_t n = n_bytes < sizeof list ? n_bytes : sizeof list - 1;
    memcpy(list, data, n);
    list[n] = '\0';
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int rc = psd_hostlist_at(list, places[i], host, sizeof host, &err);
        assert(rc == PSD_OK ? *host && memchr(host, '\0', sizeof host) : rc == PSD_EINVAL && *err.text);
    }
    return 0;
}
