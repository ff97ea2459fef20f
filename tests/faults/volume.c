#include "tests/faults/volume.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

const char *volume_own_mounts(void)
{
    if (unshare(CLONE_NEWNS) && (unshare(CLONE_NEWUSER | CLONE_NEWNS)))
        return "no mount namespace is permitted";
    return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ? "mounts cannot be made private" : NULL;
}

bool volume_mount_tmpfs(const char *directory, const char *size)
{
    char room[32];
    snprintf(room, sizeof room, "size=%s", size);
    return !mount("volume", directory, "tmpfs", 0, room);
}

static const char *fill_path(const char *directory)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/fill", directory);
    return path;
}

bool volume_fill(const char *directory)
{
    static char bytes[65536];
    const int fd = open(fill_path(directory), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    size_t n = sizeof bytes;
    while (fd >= 0 && n >= 512)
        if (write(fd, bytes, n) < 0)
            n /= 2;
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

bool volume_free(const char *directory) { return !unlink(fill_path(directory)); }
