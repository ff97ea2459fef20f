/* fuzz_clusterfile.c - any bytes as the file by which a job's processes find each other: an address and a key that can be used,
 * another job's, or refused. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/net/clusterfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("cluster", MFD_CLOEXEC);
        assert(fd >= 0 && fchmod(fd, 0600) == 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    assert(ftruncate(fd, 0) == 0 && pwrite(fd, data, n_bytes, 0) == (ssize_t)n_bytes);
    psd_clusterfile_t found;
    psd_err_t err = { 0 };
    const int rc = psd_clusterfile_read(&found, path, "glyphs", &err);
    assert(rc == PSD_OK || rc == PSD_EAGAIN || rc == PSD_EDATA);
    assert(rc == PSD_OK || strstr(err.text, path));
    if (rc == PSD_OK) {
        uint8_t key[PSD_KEY_BYTES];
        assert(strcmp(found.job, "glyphs") == 0);
        assert(!strncmp(found.data, "tcp://", 6) || !strncmp(found.data, "ipc://", 6));
        assert(!*found.server_public || psd_key_decode(key, found.server_public));
    }
    return 0;
}
