#include "tests/support/disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/rng.h"

typedef struct op {
    disk_call_t call;
    int inode;       /* of the file; -1 if there is none */
    int flushed_by;  /* the first call that made it durable; INT_MAX: none has */
    char *path, *to; /* full names; of the directory for SYNC_DIR */
    uint8_t *bytes;
    size_t n, offset;
} op_t;

static op_t *ops;
static int n_ops, capacity, n_inodes, inode_of_fd[1024];
static bool recording;
static disk_fault_t fault;
static disk_entry_t *entries;
static int n_entries, entry_capacity;

static bool is_in(const char *path, const char *dir)
{
    const size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/');
}

/* ---- recording ---- */

static op_t *record(disk_call_t call, int inode, const char *path)
{
    if (n_ops == capacity)
        ops = realloc(ops, (size_t)(capacity = 2 * capacity + 1024) * sizeof *ops);
    assert(ops && "no memory to write a call down");
    op_t *op = &ops[n_ops++];
    *op = (op_t){ .call = call, .inode = inode, .flushed_by = INT_MAX, .path = strdup(path) };
    return op;
}

/* What a flush makes durable: a file's writes, or a directory's names. */
static void flush(disk_call_t call, int inode, const char *path)
{
    record(call, inode, path);
    for (int i = 0; i < n_ops - 1; i++) {
        op_t *op = &ops[i];
        const bool its =
            call == DISK_SYNC_FILE ? op->call == DISK_WRITE && op->inode == inode : op->call != DISK_WRITE && is_in(op->path, path);
        if (its && op->flushed_by == INT_MAX)
            op->flushed_by = n_ops - 1;
    }
}

void disk_record(bool on) { recording = on; }

int disk_calls(void) { return n_ops; }

/* Forget the first `n` calls; the inodes of the others stay what they are. */
static void forget(int n)
{
    for (int i = 0; i < n; i++) {
        free(ops[i].path);
        free(ops[i].to);
        free(ops[i].bytes);
    }
    if (n)
        memmove(ops, ops + n, (size_t)(n_ops - n) * sizeof *ops);
    n_ops -= n;
    for (int i = 0; i < n_ops; i++)
        if (ops[i].flushed_by != INT_MAX)
            ops[i].flushed_by -= n;
}

void disk_forget(void)
{
    forget(n_ops);
    free(ops);
    free(entries);
    ops = NULL;
    entries = NULL;
    capacity = n_entries = entry_capacity = n_inodes = 0;
}

/* ---- the calls ---- */

void disk_break(disk_fault_t to) { fault = to; }

/* Whether to skip this call; then `*rc` is its result. */
static bool is_broken(int *rc)
{
    const bool reached = (fault.error || fault.dead) && !fault.left;
    if (fault.left)
        fault.left--;
    *rc = reached ? -1 : 0;
    if (reached)
        errno = fault.error ? fault.error : EIO;
    if (reached && !fault.dead)
        fault.error = 0;
    return reached;
}

/* The name of an open file, and of one in an open directory. */
static char *name_of(int fd, const char *below, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 300);
    assert(n > 0);
    path[n] = '\0';
    if (below)
        sprintf(path + n, "/%s", below);
    return path;
}

int __real_openat(int dir, const char *name, int flags, ...), __wrap_openat(int dir, const char *name, int flags, ...);
ssize_t __real_pwrite(int fd, const void *bytes, size_t n, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *bytes, size_t n, off_t offset);
int __real_posix_fallocate(int fd, off_t at, off_t n), __wrap_posix_fallocate(int fd, off_t at, off_t n);
int __real_fdatasync(int fd), __wrap_fdatasync(int fd);
int __real_fsync(int fd), __wrap_fsync(int fd);
int __real_renameat(int from, const char *a, int to, const char *b);
int __wrap_renameat(int from, const char *a, int to, const char *b);
int __real_unlink(const char *path), __wrap_unlink(const char *path);
int __real_unlinkat(int dir, const char *name, int flags), __wrap_unlinkat(int dir, const char *name, int flags);
int __real_mkdir(const char *path, mode_t mode), __wrap_mkdir(const char *path, mode_t mode);
int __real_rmdir(const char *path), __wrap_rmdir(const char *path);

int __wrap_openat(int dir, const char *name, int flags, ...)
{
    char path[PATH_MAX];
    int rc;
    if ((flags & O_CREAT) && is_broken(&rc))
        return rc;
    int fd = __real_openat(dir, name, flags, 0666);
    if (recording && fd >= 0 && (flags & O_CREAT)) {
        assert(fd < (int)(sizeof inode_of_fd / sizeof *inode_of_fd));
        record(DISK_CREATE, inode_of_fd[fd] = n_inodes++, name_of(fd, NULL, path));
    }
    return fd;
}

ssize_t __wrap_pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
    int rc;
    if (is_broken(&rc))
        return rc;
    ssize_t done = __real_pwrite(fd, bytes, n, offset);
    if (recording && done > 0) {
        op_t *op = record(DISK_WRITE, inode_of_fd[fd], "");
        op->n = (size_t)done;
        op->offset = (size_t)offset;
        op->bytes = malloc(op->n);
        assert(op->bytes && "no memory to write a call down");
        memcpy(op->bytes, bytes, op->n);
    }
    return done;
}

int __wrap_posix_fallocate(int fd, off_t at, off_t n)
{
    int rc;
    return is_broken(&rc) ? errno : __real_posix_fallocate(fd, at, n);
}

/* A real disk need not flush. */
int __wrap_fdatasync(int fd)
{
    int rc;
    if (!is_broken(&rc) && recording && !fault.lies)
        flush(DISK_SYNC_FILE, inode_of_fd[fd], "");
    return rc;
}

int __wrap_fsync(int fd)
{
    char path[PATH_MAX];
    struct stat info;
    int rc;
    if (!is_broken(&rc) && recording && !fault.lies && fstat(fd, &info) == 0 && S_ISDIR(info.st_mode))
        flush(DISK_SYNC_DIR, -1, name_of(fd, NULL, path));
    return rc;
}

/* The file that last had the name. */
static int inode_named(const char *path)
{
    for (int i = n_ops; i-- > 0;)
        if ((ops[i].call == DISK_CREATE && !strcmp(ops[i].path, path)) || (ops[i].call == DISK_RENAME && !strcmp(ops[i].to, path)))
            return ops[i].inode;
    return -1;
}

int __wrap_renameat(int from, const char *a, int to, const char *b)
{
    char path[PATH_MAX];
    int rc;
    if (is_broken(&rc))
        return rc;
    if (recording) {
        name_of(from, a, path);
        op_t *op = record(DISK_RENAME, inode_named(path), path);
        op->to = strdup(name_of(to, b, path));
    }
    return __real_renameat(from, a, to, b);
}

int __wrap_unlink(const char *path)
{
    int rc;
    if (is_broken(&rc))
        return rc;
    if (recording)
        record(DISK_UNLINK, -1, path);
    return __real_unlink(path);
}

int __wrap_unlinkat(int dir, const char *name, int flags)
{
    char path[PATH_MAX];
    int rc;
    if (is_broken(&rc))
        return rc;
    if (recording)
        record(DISK_UNLINK, -1, name_of(dir, name, path));
    return __real_unlinkat(dir, name, flags);
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    int rc;
    if (is_broken(&rc))
        return rc;
    rc = __real_mkdir(path, mode);
    if (recording && rc == 0)
        record(DISK_MKDIR, -1, path);
    return rc;
}

int __wrap_rmdir(const char *path)
{
    int rc;
    if (is_broken(&rc))
        return rc;
    rc = __real_rmdir(path);
    if (recording && rc == 0)
        record(DISK_RMDIR, -1, path);
    return rc;
}

/* ---- the cut ---- */

static uint64_t chance; /* of the cut that is being made */

static uint32_t draw(void) { return (uint32_t)(psd_splitmix64(&chance) >> 33); }

static bool is_flushed(const op_t *op, int k, int lie) { return op->flushed_by < k && (int)ops[op->flushed_by].call != lie; }

static void set_entry(const char *path, int inode)
{
    int i = 0;
    while (i < n_entries && strcmp(entries[i].path, path) != 0)
        i++;
    if (i == entry_capacity)
        entries = realloc(entries, (size_t)(entry_capacity = 2 * i + 64) * sizeof *entries);
    assert(entries && strlen(path) < sizeof entries->path);
    n_entries += i == n_entries;
    strcpy(entries[i].path, path);
    entries[i].inode = inode;
}

static void drop_entry(const char *path)
{
    for (int i = 0; i < n_entries; i++)
        if (strcmp(entries[i].path, path) == 0) {
            entries[i] = entries[--n_entries];
            return;
        }
}

static bool is_empty(const char *path)
{
    for (int i = 0; i < n_entries; i++)
        if (is_in(entries[i].path, path))
            return false;
    return true;
}

static void play_names(int k, int lie)
{
    n_entries = 0;
    for (int i = 0; i < k; i++) {
        const op_t *op = &ops[i];
        if (op->call == DISK_WRITE || op->call == DISK_SYNC_FILE || op->call == DISK_SYNC_DIR ||
            (!is_flushed(op, k, lie) && draw() % 2))
            continue;
        if (op->call == DISK_CREATE || op->call == DISK_MKDIR)
            set_entry(op->path, op->inode);
        if (op->call == DISK_RENAME)
            drop_entry(op->path), set_entry(op->to, op->inode);
        if (op->call == DISK_UNLINK || (op->call == DISK_RMDIR && is_empty(op->path)))
            drop_entry(op->path);
    }
}

/* The remaining bytes of a file: a write that was not flushed is kept, cut at a sector, zero, or missing. */
static uint8_t *bytes_of(int inode, int k, int lie, size_t *length)
{
    uint8_t *bytes = NULL;
    size_t room = 0;
    *length = 0;
    for (int i = 0; i < k; i++) {
        const op_t *op = &ops[i];
        if (op->call != DISK_WRITE || op->inode != inode)
            continue;
        const size_t end = op->offset + op->n;
        if (end > room) {
            bytes = realloc(bytes, end);
            assert(bytes && "no memory for a file");
            memset(bytes + room, 0, end - room);
            room = end;
        }
        const uint32_t fate = is_flushed(op, k, lie) ? 0 : draw() % 4;
        const size_t kept = fate == 0 ? op->n : fate == 1 ? draw() % (op->n + 1) / 512 * 512 : 0;
        if (kept)
            memcpy(bytes + op->offset, op->bytes, kept);
        if (fate != 3 && end > *length)
            *length = end;
    }
    return bytes;
}

/* A failure to write here must not look like data lost in the cut. */
static void write_file(const char *path, int inode, int k, int lie)
{
    size_t length;
    uint8_t *bytes = bytes_of(inode, k, lie, &length);
    int fd = openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    const bool ok = fd >= 0 && (!length || pwrite(fd, bytes, length, 0) == (ssize_t)length) && fdatasync(fd) == 0;
    free(bytes);
    if (fd >= 0)
        close(fd);
    if (!ok)
        fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
    assert(ok && "the place for what a cut leaves is full");
}

bool disk_is_reachable(const char *path, const char *from)
{
    if (is_in(path, from))
        return true;
    for (int i = 0; i < n_entries; i++)
        if (entries[i].inode < 0 && is_in(path, entries[i].path))
            return true;
    return false;
}

const char *disk_moved(const char *path, const char *from, const char *to, char *out)
{
    snprintf(out, PATH_MAX, "%s%s", to, path + strlen(from));
    return out;
}

static void sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);
    assert(rc == 0 && "what a cut leaves is on disk");
    close(fd);
}

const disk_entry_t *disk_cut(int k, uint64_t seed, int lie, const char *from, const char *to, int *n)
{
    char path[PATH_MAX];
    const int before = n_ops;
    chance = seed;
    play_names(k, lie);
    for (int i = 0; i < n_entries; i++) {
        const int rc = entries[i].inode < 0 ? mkdir(disk_moved(entries[i].path, from, to, path), 0700) : 0;
        assert(rc == 0 && "a directory that a cut leaves can be made");
    }
    for (int i = 0; i < n_entries; i++)
        if (entries[i].inode >= 0 && disk_is_reachable(entries[i].path, from))
            write_file(disk_moved(entries[i].path, from, to, path), entries[i].inode, k, lie);
    /* A process that continues in the other directory begins with the remaining files, which will last. */
    for (int i = 0; recording && i < n_entries; i++)
        if (entries[i].inode < 0)
            sync_dir(disk_moved(entries[i].path, from, to, path));
    if (recording) {
        sync_dir(to);
        forget(before);
    }
    *n = n_entries;
    return entries;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info, (void)type, (void)at;
    return remove(path);
}

void disk_remove(const char *dir)
{
    const int rc = nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    assert(rc == 0 && "a directory of our own can be removed");
}
