/* fuzz_hosts.c - any bytes as a hostfile: hosts that are safe to give to a shell, each with its numbers, or refused with a
 * cause. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "deploy/psdctl/run/hosts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void check_name(const char *name) { assert(*name && *name != '-' && !name[strcspn(name, " '\"`$;&|<>()\\*?~#!\n\t\r")]); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    enum { SERVERS = 3, WORKERS = 5 };
    psd_err_t err = { 0 };
    psd_hosts_t hosts;
    int rc = psd_hosts_parse(&hosts, "hosts", (const char *)data, n_bytes, &err);
    assert(rc == PSD_OK || (rc == PSD_ECONFIG && !hosts.host && strncmp(err.text, "hosts", 5) == 0));
    if (rc != PSD_OK)
        return 0;
    psd_hosts_deal(&hosts, SERVERS, WORKERS);
    const unsigned n_servers = hosts.tells_servers ? hosts.servers : SERVERS,
                   n_workers = hosts.tells_workers ? hosts.workers : WORKERS;
    assert(psd_hosts_of_server(&hosts, n_servers - 1) && !psd_hosts_of_server(&hosts, n_servers));
    assert(psd_hosts_of_worker(&hosts, n_workers - 1) && !psd_hosts_of_worker(&hosts, n_workers));
    for (size_t i = 0; i < hosts.n; i++) {
        check_name(hosts.host[i].target);
        check_name(hosts.host[i].address);
    }
    psd_hosts_clear(&hosts);
    return 0;
}
