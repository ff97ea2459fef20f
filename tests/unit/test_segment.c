#include <criterion/criterion.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/memory/segment.h"

TestSuite(segment, .timeout = 600);

static int count_descriptors(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

Test(segment, a_peer_sees_what_its_owner_writes)
{
    psd_segment_t mine, theirs;
    cr_assert_eq(psd_segment_make(&mine, 10000, NULL), PSD_OK);
    cr_expect_eq(mine.n_bytes, 12288, "whole pages");
    cr_assert_eq(psd_segment_map(&theirs, dup(mine.fd), 12288, NULL), PSD_OK);
    cr_expect_eq(theirs.at[9999], 0);
    mine.at[9999] = 7;
    cr_expect_eq(theirs.at[9999], 7);
    psd_segment_close(&mine);
    cr_expect_eq(theirs.at[9999], 7, "it outlives its owner");
    psd_segment_close(&theirs);
    cr_expect_null(theirs.at);
}

Test(segment, a_peer_can_neither_write_to_it_nor_change_its_size)
{
    psd_segment_t mine;
    char path[64];
    cr_assert_eq(psd_segment_make(&mine, 8192, NULL), PSD_OK);
    cr_expect_eq(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, mine.fd, 0), MAP_FAILED);
    cr_expect_lt(write(mine.fd, "x", 1), 0);
    cr_expect_neq(ftruncate(mine.fd, 4096), 0);
    cr_expect_neq(ftruncate(mine.fd, 16384), 0);
    cr_expect_neq(fcntl(mine.fd, F_ADD_SEALS, F_SEAL_WRITE), 0, "nor seal it further");
    snprintf(path, sizeof path, "/proc/self/fd/%d", mine.fd);
    const int again = open(path, O_RDWR | O_CLOEXEC);
    if (again >= 0) {
        cr_expect_eq(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
        cr_expect_neq(ftruncate(again, 4096), 0);
        close(again);
    }
    psd_segment_close(&mine);
}

Test(segment, its_reader_cannot_make_the_mapping_writable)
{
    psd_segment_t mine, theirs;
    psd_segment_make(&mine, 4096, NULL);
    cr_assert_eq(psd_segment_map(&theirs, dup(mine.fd), 4096, NULL), PSD_OK);
    cr_expect_neq(mprotect(theirs.at, 4096, PROT_READ | PROT_WRITE), 0);
    psd_segment_close(&mine);
    psd_segment_close(&theirs);
}

static int memory(size_t n_bytes, int seals)
{
    const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(fd, n_bytes), 0);
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static int shrunk(void)
{
    const int fd = memory(8192, 0);
    cr_assert_eq(ftruncate(fd, 100), 0);
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    return fd;
}

static int write_only(void)
{
    char path[64];
    const int fd = memory(8192, F_SEAL_SHRINK | F_SEAL_GROW);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const int other = open(path, O_WRONLY | O_CLOEXEC);
    close(fd);
    return other;
}

Test(segment, a_peers_memory_must_be_sealed_and_of_an_allowed_size)
{
    int pipes[2], pair[2];
    cr_assert_eq(pipe(pipes), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    const struct {
        const char *what;
        int fd, code;
        const char *says;
    } cases[] = {
        { "a pipe", pipes[0], PSD_EPROTO, "is not memory" },
        { "a socket", pair[0], PSD_EPROTO, "is not memory" },
        { "a device", open("/dev/zero", O_RDONLY), PSD_EPROTO, "is not memory" },
        { "a directory", open("/", O_RDONLY), PSD_EPROTO, "" },
        { "a file", open("/proc/self/exe", O_RDONLY), PSD_EPROTO, "is not memory" },
        { "memory without seals", memory(8192, 0), PSD_EPROTO, "smaller or larger" },
        { "memory that may shrink", memory(8192, F_SEAL_GROW), PSD_EPROTO, "smaller or larger" },
        { "memory that may grow", memory(8192, F_SEAL_SHRINK), PSD_EPROTO, "smaller or larger" },
        { "no bytes", memory(0, F_SEAL_SHRINK | F_SEAL_GROW), PSD_EPROTO, "whole pages" },
        { "a part of a page", shrunk(), PSD_EPROTO, "whole pages" },
        { "too much", memory(65536 + 4096, F_SEAL_SHRINK | F_SEAL_GROW), PSD_EPROTO, "larger than a peer may have" },
        { "what cannot be read", write_only(), PSD_ESYSTEM, "cannot be mapped" },
        { "no descriptor", -1, PSD_EPROTO, "is not memory" },
    };
    const int before = count_descriptors();
    int n_closed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        psd_segment_t segment = { .at = (unsigned char *)1 };
        psd_err_t err = { 0 };
        cr_expect_eq(psd_segment_map(&segment, cases[i].fd, 65536, &err), cases[i].code, "%s", cases[i].what);
        cr_expect(strstr(err.text, cases[i].says), "%s: %s", cases[i].what, err.text);
        cr_expect_null(segment.at);
        n_closed += cases[i].fd >= 0;
    }
    cr_expect_eq(count_descriptors(), before - n_closed, "each is closed");
}

/* Reading it fails with SIGBUS if no huge page is left, which its seals do not show. */
Test(segment, memory_of_huge_pages_that_may_run_out_is_refused)
{
    const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (fd < 0 || ftruncate(fd, 1 << 21))
        cr_skip_test("this system has no hugetlbfs");
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    psd_segment_t segment;
    psd_err_t err = { 0 };
    cr_expect_eq(psd_segment_map(&segment, fd, 1 << 30, &err), PSD_EPROTO);
    cr_expect(strstr(err.text, "another kind"), "%s", err.text);
}

Test(segment, a_limit_of_file_sizes_is_an_error_and_not_the_end_of_the_process)
{
    psd_segment_t segment;
    psd_err_t err = { 0 };
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 8192, 8192 });
    cr_expect_eq(psd_segment_make(&segment, 8193, &err), PSD_ESYSTEM);
    cr_expect(strstr(err.text, "ulimit -f"), "%s", err.text);
    cr_expect_eq(psd_segment_make(&segment, 8192, &err), PSD_OK);
    psd_segment_close(&segment);
}

Test(segment, more_than_any_memory_is_an_error)
{
    psd_segment_t segment;
    psd_err_t err = { 0 };
    const int before = count_descriptors();
    cr_expect_eq(psd_segment_make(&segment, SIZE_MAX - 5, &err), PSD_ESYSTEM);
    cr_expect_eq(psd_segment_make(&segment, SIZE_MAX / 4, &err), PSD_ESYSTEM);
    cr_expect(*err.text && !segment.at && segment.fd == -1);
    cr_expect_eq(count_descriptors(), before);
}
