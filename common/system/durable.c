#include "common/system/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/system/failpoint.h"

/* How many names to try: leftovers of a process with the same id (always 1 in a container) may have some of them. */
enum { MOST_NAMES = 10000 };
static const char suffix[] = ".tmp";

struct psd_durable {
    int dir;          /* the directory, opened before anything is written, so that flushing it cannot fail at open */
    int fd;           /* the temporary file */
    char *path;       /* the path that the caller gave */
    char *file;       /* the file to which it leads */
    int stays;        /* an open device, FIFO or descriptor, to which the bytes are copied at the end; -1: none */
    const char *name; /* the last component of `file` */
    char temporary[NAME_MAX + 1];
};

/* The kind of file, for failpoints: "json". */
static const char *extension(const psd_durable_t *self)
{
    const char *dot = strrchr(self->name, '.');
    return dot ? dot + 1 : self->name;
}

int psd_durable_code(int number) { return number == ENOMEM ? PSD_ENOMEM : PSD_EIO; }

static int fail(psd_err_t *err, const char *verb, const char *path)
{
    return psd_err_set(err, psd_durable_code(errno), "cannot %s %s: %s", verb, path, strerror(errno));
}

/* Open the directory that contains `path`. */
static int open_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *parent = !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
    int fd = parent ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(parent);
    return fd;
}

static int sync_parent(const char *path)
{
    int fd = open_parent(path);
    if (fd < 0)
        return -1;
    int failed = fsync(fd), why = errno;
    close(fd);
    errno = why;
    return failed;
}

static bool is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Another process may make the same directory: each process that found it missing flushes its name, so that it is
 * on disk before any of them continues. */
static int make_one(const char *path)
{
    if (is_directory(path))
        return 0;
    if (mkdir(path, 0777) && !(errno == EEXIST && is_directory(path)))
        return -1;
    return sync_parent(path);
}

int psd_durable_mkdir(const char *dir, psd_err_t *err)
{
    char *path = strdup(dir);
    if (!path)
        return psd_err_set(err, PSD_ENOMEM, "no memory for the path %s", dir);
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = '\0';
    int failed = 0;
    for (char *at = path + 1; !failed && length && *at; at++)
        if (*at == '/' && at[-1] != '/') {
            *at = '\0';
            failed = make_one(path);
            *at = '/';
        }
    failed = failed || make_one(path);
    free(path);
    return failed ? fail(err, "make the directory", dir) : PSD_OK;
}

/* Shorten `path` to the nearest existing directory above it; false when that is not a directory. */
static bool find_ground(char *path)
{
    struct stat info;
    for (;;) {
        if (stat(path, &info) == 0) {
            errno = ENOTDIR;
            return S_ISDIR(info.st_mode);
        }
        if (errno != ENOENT)
            return false;
        if (lstat(path, &info) == 0)
            return false; /* a dangling link */
        char *slash = strrchr(path, '/');
        while (slash && slash > path && slash[-1] == '/')
            slash--;
        if (!slash)
            strcpy(path, ".");
        else if (slash == path)
            path[1] = '\0';
        else
            *slash = '\0';
    }
}

/* Make a file and remove it again; `path` ends in XXXXXX. False with errno. */
static bool try_file(char *path)
{
    const int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return false;
    unlink(path);
    close(fd);
    return true;
}

int psd_durable_probe(const char *dir, psd_err_t *err)
{
    char path[PATH_MAX + sizeof "/.psd-probe-XXXXXX"];
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    errno = n ? ENAMETOOLONG : ENOENT;
    if (!n || n >= PATH_MAX)
        return fail(err, "make files in", dir);
    memcpy(path, dir, n);
    path[n] = '\0';
    if (!find_ground(path))
        return fail(err, "make files in", dir);
    strcat(path, "/.psd-probe-XXXXXX");
    return try_file(path) ? PSD_OK : fail(err, "make files in", dir);
}

bool psd_durable_is_hopeless(int why)
{
    return why == EEXIST || why == ENOTDIR || why == EACCES || why == EPERM || why == EROFS || why == ENOENT || why == ELOOP ||
           why == ENAMETOOLONG;
}

static int open_temporary(psd_durable_t *self)
{
    static atomic_uint counter;
    for (int i = 0; i < MOST_NAMES; i++) {
        int n = snprintf(self->temporary, sizeof self->temporary, "%s.%ld-%u%s", self->name, (long)getpid(),
                         atomic_fetch_add(&counter, 1) + 1, suffix);
        if (n >= (int)sizeof self->temporary) {
            errno = ENAMETOOLONG;
            break;
        }
        int fd = openat(self->dir, self->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            PSD_FAILPOINT("disk.opened", extension(self));
            return fd;
        }
        if (errno != EEXIST)
            break;
    }
    self->temporary[0] = '\0'; /* another process's file: do not remove it */
    return -1;
}

static int reserve(int fd, uint64_t n_bytes)
{
    int rc;
    if (n_bytes == 0)
        return 0;
    do
        rc = posix_fallocate(fd, 0, (off_t)n_bytes);
    while (rc == EINTR);
    errno = rc;
    return rc == 0 || rc == EOPNOTSUPP || rc == EINVAL ? 0 : -1;
}

/* Make the object for `path`, which leads to `file`; opens nothing. */
static psd_durable_t *make(const char *path, const char *file, psd_err_t *err)
{
    psd_durable_t *self = calloc(1, sizeof *self);
    if (!self || !(self->path = strdup(path)) || !(self->file = strdup(file))) {
        free(self ? self->path : NULL);
        free(self);
        psd_err_set(err, PSD_ENOMEM, "no memory to write %s", path);
        return NULL;
    }
    const char *slash = strrchr(self->file, '/');
    self->name = slash ? slash + 1 : self->file;
    self->fd = self->dir = self->stays = -1;
    return self;
}

static psd_durable_t *begin(const char *path, const char *file, uint64_t n_bytes, psd_err_t *err)
{
    psd_durable_t *self = make(path, file, err);
    if (!self)
        return NULL;
    self->dir = open_parent(file);
    if (self->dir < 0 || (self->fd = open_temporary(self)) < 0 || reserve(self->fd, n_bytes)) {
        fail(err, "write", path);
        psd_durable_abandon(&self);
    } else {
        PSD_FAILPOINT("disk.reserved", extension(self));
    }
    return self;
}

psd_durable_t *psd_durable_new(const char *path, uint64_t n_bytes, psd_err_t *err) { return begin(path, path, n_bytes, err); }

/* The descriptor of this process to which `path` leads, as /dev/stdout does through /proc/self/fd/1; -1: none. */
static int descriptor_of(const char *path)
{
    char directory[PATH_MAX], real[PATH_MAX], own[64], *end;
    const char *slash = strrchr(path, '/');
    struct statfs facts;
    if (!slash || slash == path || slash[1] < '0' || slash[1] > '9')
        return -1;
    snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
    snprintf(own, sizeof own, "/proc/%ld/", (long)getpid());
    if (statfs(directory, &facts) || facts.f_type != PROC_SUPER_MAGIC || !realpath(directory, real) ||
        strncmp(real, own, strlen(own)) != 0)
        return -1;
    const unsigned long number = strtoul(slash + 1, &end, 10);
    return *end || number > INT_MAX ? -1 : (int)number;
}

/* Follow the symbolic links of `path` and put the target, existing or not, in `file`; `*descriptor` is the descriptor that it is,
 * otherwise -1. */
static int follow_links(const char *path, char file[PATH_MAX], int *descriptor)
{
    enum { MOST_LINKS = 40 }; /* the kernel's limit */
    char link[PATH_MAX], next[2 * PATH_MAX];
    if (snprintf(file, PATH_MAX, "%s", path) >= PATH_MAX)
        return errno = ENAMETOOLONG, -1;
    for (int i = 0; i < MOST_LINKS; i++) {
        if ((*descriptor = descriptor_of(file)) >= 0)
            return 0;
        const ssize_t n = readlink(file, link, sizeof link - 1);
        if (n < 0)
            return 0;
        link[n] = '\0';
        const char *slash = strrchr(file, '/');
        const int n_directory = *link == '/' || !slash ? 0 : (int)(slash - file) + 1;
        if (snprintf(next, sizeof next, "%.*s%s", n_directory, file, link) >= PATH_MAX)
            return errno = ENAMETOOLONG, -1;
        snprintf(file, PATH_MAX, "%.*s", PATH_MAX - 1, next);
    }
    errno = ELOOP;
    return -1;
}

/* Make a file without a name, for output that must be written front to back. */
static int open_nameless(void)
{
    const char *directory = getenv("TMPDIR");
    const int fd = open(directory && *directory ? directory : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return fd >= 0 ? fd : memfd_create("psd", MFD_CLOEXEC);
}

psd_durable_t *psd_durable_follow(const char *path, uint64_t n_bytes, psd_err_t *err)
{
    char file[PATH_MAX];
    int descriptor = -1;
    struct stat facts;
    if (follow_links(path, file, &descriptor)) {
        fail(err, "write", path);
        return NULL;
    }
    const bool is_there = descriptor >= 0 ? fstat(descriptor, &facts) == 0 : stat(file, &facts) == 0;
    if (descriptor < 0 && (!is_there || S_ISREG(facts.st_mode)))
        return begin(path, file, n_bytes, err);
    if (is_there && (S_ISDIR(facts.st_mode) || S_ISBLK(facts.st_mode))) {
        psd_err_set(err, PSD_EIO, "cannot write %s: it is a %s; name a file", path, S_ISDIR(facts.st_mode) ? "directory" : "disk");
        return NULL;
    }
    psd_durable_t *self = make(path, file, err);
    if (!self)
        return NULL;
    self->stays = descriptor >= 0 ? fcntl(descriptor, F_DUPFD_CLOEXEC, 3) : open(file, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (self->stays < 0 || (self->fd = open_nameless()) < 0) {
        fail(err, "write", path);
        psd_durable_abandon(&self);
    }
    return self;
}

/* Check that a new file can get the name `file`, by making one beside it and removing it again. */
static bool can_make_beside(const char *file)
{
    char beside[PATH_MAX + sizeof "/.psd-probe-XXXXXX"];
    const char *slash = strrchr(file, '/');
    if (!*file || (slash && !slash[1])) {
        errno = *file ? EISDIR : ENOENT;
        return false;
    }
    snprintf(beside, sizeof beside, "%.*s.psd-probe-XXXXXX", slash ? (int)(slash - file) + 1 : 0, file);
    return try_file(beside);
}

int psd_durable_probe_file(const char *path, bool to_append, psd_err_t *err)
{
    char file[PATH_MAX];
    int descriptor = -1;
    struct stat facts;
    if (follow_links(path, file, &descriptor))
        return fail(err, "write", path);
    if (descriptor >= 0)
        return fcntl(descriptor, F_GETFL) < 0 ? fail(err, "write", path) : PSD_OK;
    const bool is_there = stat(file, &facts) == 0;
    if (!is_there && errno != ENOENT)
        return fail(err, "write", path);
    errno = EISDIR;
    if (is_there && (S_ISDIR(facts.st_mode) || (S_ISBLK(facts.st_mode) && !to_append)))
        return psd_err_set(err, PSD_EIO, "cannot write %s: it is a %s; name a file", path,
                           S_ISDIR(facts.st_mode) ? "directory" : "disk");
    if (is_there && (to_append || !S_ISREG(facts.st_mode)))
        return access(file, W_OK) ? fail(err, "write", path) : PSD_OK;
    return can_make_beside(file) ? PSD_OK : fail(err, "write", path);
}

int psd_durable_put(const char *path, const void *bytes, size_t n_bytes, psd_err_t *err)
{
    psd_durable_t *self = psd_durable_follow(path, n_bytes, err);
    if (!self)
        return err ? err->code : PSD_EIO;
    const int rc = psd_durable_write(self, bytes, n_bytes, 0, err);
    if (!rc)
        return psd_durable_end(&self, err);
    psd_durable_abandon(&self);
    return rc;
}

int psd_durable_write(psd_durable_t *self, const void *bytes, size_t n_bytes, uint64_t offset, psd_err_t *err)
{
    PSD_FAILPOINT("disk.write", extension(self));
    for (const char *at = bytes; n_bytes > 0;) {
        ssize_t done = pwrite(self->fd, at, n_bytes, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0)
            errno = ENOSPC;
        if (done <= 0)
            return fail(err, "write", self->path);
        at += done;
        offset += (size_t)done;
        n_bytes -= (size_t)done;
    }
    return PSD_OK;
}

static int write_all(int fd, const char *at, size_t n_bytes)
{
    while (n_bytes > 0) {
        const ssize_t done = write(fd, at, n_bytes);
        if (done < 0 && errno != EINTR)
            return -1;
        at += done < 0 ? 0 : done;
        n_bytes -= done < 0 ? 0 : (size_t)done;
    }
    return 0;
}

/* Copy all that was written, front to back, to the device, FIFO or descriptor. */
static int hand_over(const psd_durable_t *self, psd_err_t *err)
{
    char bytes[1 << 16];
    for (off_t offset = 0;;) {
        const ssize_t n = pread(self->fd, bytes, sizeof bytes, offset);
        if (n == 0)
            return PSD_OK;
        if (n < 0 || write_all(self->stays, bytes, (size_t)n))
            return fail(err, "write", self->path);
        offset += n;
    }
}

int psd_durable_end(psd_durable_t **self_p, psd_err_t *err)
{
    psd_durable_t *self = *self_p;
    if (self->stays >= 0) {
        const int rc = hand_over(self, err);
        psd_durable_abandon(self_p);
        return rc;
    }
    PSD_FAILPOINT("disk.sync", extension(self));
    int rc = PSD_OK, why = fdatasync(self->fd) ? errno : 0;
    PSD_FAILPOINT("disk.synced", extension(self));
    if (close(self->fd) && !why)
        why = errno;
    self->fd = -1;
    PSD_FAILPOINT("disk.rename", extension(self));
    if (!why && renameat(self->dir, self->temporary, self->dir, self->name))
        why = errno;
    errno = why;
    if (why)
        rc = fail(err, "write", self->path);
    else {
        self->temporary[0] = '\0'; /* it has its final name: do not remove it any more */
        PSD_FAILPOINT("disk.renamed", extension(self));
        if (fsync(self->dir))
            rc = fail(err, "flush the directory of", self->path);
        PSD_FAILPOINT("disk.done", extension(self));
    }
    psd_durable_abandon(self_p);
    return rc;
}

void psd_durable_abandon(psd_durable_t **self_p)
{
    psd_durable_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    const int why = errno;
    if (self->fd >= 0)
        close(self->fd);
    if (self->dir >= 0) {
        if (self->temporary[0])
            unlinkat(self->dir, self->temporary, 0);
        close(self->dir);
    }
    if (self->stays >= 0)
        close(self->stays);
    free(self->path);
    free(self->file);
    free(self);
    errno = why;
}

/* NAME.<digits>-<digits>.tmp */
bool psd_durable_is_temporary(const char *file, const char *name)
{
    size_t length = strlen(file);
    const char *at = file + length - (length < sizeof suffix ? 0 : sizeof suffix - 1);
    if (strcmp(at, suffix) != 0)
        return false;
    for (int part = 0; part < 2; part++) {
        const char *end = at;
        while (at > file && at[-1] >= '0' && at[-1] <= '9')
            at--;
        if (at == end || at == file || *--at != (part == 0 ? '-' : '.'))
            return false;
    }
    return at > file && (!name || (strlen(name) == (size_t)(at - file) && strncmp(file, name, strlen(name)) == 0));
}
