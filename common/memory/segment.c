#include "common/memory/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Newer than the headers of the systems on which psd is built. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
enum { TMPFS = 0x01021994, SIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW };

/* Declare that it is not executable: Linux 6.3 and later expect that, and may be configured to refuse other memory. */
static int make_file(void)
{
    const int fd = memfd_create("psd", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    return fd >= 0 || errno != EINVAL ? fd : memfd_create("psd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

/* Seal it after the owner has mapped it. Linux before 5.1 has no seal against writing by others: they get a read-only
 * descriptor. */
static int seal(int *fd)
{
    if (!fcntl(*fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL))
        return 0;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
    const int readable = errno == EINVAL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (readable < 0 || fcntl(*fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL)) {
        if (readable >= 0)
            close(readable);
        return -1;
    }
    close(*fd);
    *fd = readable;
    return 0;
}

/* Whether ulimit -f allows it: the system counts it as a file, and would kill the process with SIGXFSZ. */
static bool may_be_so_large(size_t n_bytes)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur == RLIM_INFINITY || n_bytes <= limit.rlim_cur;
}

int psd_segment_make(psd_segment_t *self, size_t n_bytes, psd_err_t *err)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *at = MAP_FAILED;
    *self = PSD_NO_SEGMENT;
    if (n_bytes > SIZE_MAX / 2)
        return psd_err_set(err, PSD_ESYSTEM, "%zu bytes are more than any machine has", n_bytes);
    n_bytes = (n_bytes + page - 1) / page * page;
    if (!may_be_so_large(n_bytes))
        return psd_err_set(err, PSD_ESYSTEM,
                           "cannot make %zu bytes of shared memory: the limit of a file's size (ulimit -f) is less", n_bytes);
    int fd = make_file();
    if (fd >= 0 && !ftruncate(fd, (off_t)n_bytes))
        at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED || seal(&fd)) {
        psd_err_set(err, PSD_ESYSTEM, "cannot make %zu bytes of shared memory: %s", n_bytes, strerror(errno));
        if (at != MAP_FAILED)
            munmap(at, n_bytes);
        if (fd >= 0)
            close(fd);
        return PSD_ESYSTEM;
    }
    madvise(at, n_bytes, MADV_HUGEPAGE);
    *self = (psd_segment_t){ .at = at, .n_bytes = n_bytes, .fd = fd };
    return PSD_OK;
}

int psd_segment_make_private(psd_segment_t *self, size_t n_bytes, psd_err_t *err)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *self = PSD_NO_SEGMENT;
    n_bytes = n_bytes > SIZE_MAX / 2 ? n_bytes : (n_bytes + page - 1) / page * page;
    void *at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return psd_err_set(err, PSD_ESYSTEM, "cannot make %zu bytes of memory: %s", n_bytes, strerror(errno));
    madvise(at, n_bytes, MADV_HUGEPAGE);
    *self = (psd_segment_t){ .at = at, .n_bytes = n_bytes, .fd = -1 };
    return PSD_OK;
}

/* Why a peer's descriptor is refused; NULL: it is not. Check the seals first, because any other query of a file on a user-space
 * file system could block until its owner answers. Refuse hugetlbfs, where a read fails when no huge page is left, even of a sealed
 * file. */
static const char *find_fault(int fd, size_t most_bytes, size_t *n_bytes)
{
    const int seals = fcntl(fd, F_GET_SEALS);
    struct statfs system;
    struct stat file;
    if (seals < 0)
        return "is not memory";
    if ((seals & SIZE_SEALS) != SIZE_SEALS)
        return "can be made smaller or larger";
    if (fstatfs(fd, &system) || system.f_type != TMPFS)
        return "is memory of another kind";
    if (fstat(fd, &file) || file.st_size <= 0 || file.st_size % sysconf(_SC_PAGESIZE))
        return "is not of whole pages";
    if ((uint64_t)file.st_size > most_bytes)
        return "is larger than a peer may have";
    *n_bytes = (size_t)file.st_size;
    return NULL;
}

int psd_segment_map(psd_segment_t *self, int fd, size_t most_bytes, psd_err_t *err)
{
    size_t n_bytes = 0;
    *self = PSD_NO_SEGMENT;
    const char *fault = find_fault(fd, most_bytes, &n_bytes);
    void *at = fault ? MAP_FAILED : mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
    const int reason = errno;
    close(fd);
    if (fault)
        return psd_err_set(err, PSD_EPROTO, "the memory that it hands over %s", fault);
    if (at == MAP_FAILED)
        return psd_err_set(err, PSD_ESYSTEM, "%zu bytes of a peer's memory cannot be mapped: %s", n_bytes, strerror(reason));
    madvise(at, n_bytes, MADV_HUGEPAGE);
    madvise(at, n_bytes, MADV_DONTDUMP); /* a core dump covers only this process's memory */
    *self = (psd_segment_t){ .at = at, .n_bytes = n_bytes, .fd = -1 };
    return PSD_OK;
}

void psd_segment_close(psd_segment_t *self)
{
    if (self->at)
        munmap(self->at, self->n_bytes);
    if (self->fd >= 0)
        close(self->fd);
    *self = PSD_NO_SEGMENT;
}
