/* fuzz_options.c - any bytes as a job file: bound, or refused with a place and a cause; never both, never
 * neither. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/base/server_set.h"
#include "common/config/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    psd_err_t err = { 0 };
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL);
    if (!options)
        return 0;
    int rc = psd_options_load_text(options, "job", data, n_bytes, &err);
    assert(rc == PSD_OK || rc == PSD_ECONFIG);
    assert((rc == PSD_OK) == (*psd_options_complaints(options) == '\0'));
    assert(rc == PSD_OK || strncmp(err.text, "job:", 4) == 0);
    int64_t servers = psd_options_int(options, PSD_OPT_servers);
    assert(servers >= 1 && servers <= PSD_MAX_SERVERS && psd_options_ms(options, PSD_OPT_lease) >= 100);
    psd_options_destroy(&options);
    return 0;
}
