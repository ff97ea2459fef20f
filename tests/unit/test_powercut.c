#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/rng.h"
#include "server/checkpoint.h"

/* What a power cut may leave of a run that saves checkpoints: every system call that changes files is written
 * down (the linker puts the __wrap_ functions in their place). Then, for a cut after each of them, what was
 * not flushed is lost or kept by chance: names by directory, writes by file, whole or in part. Whatever
 * remains, the newest checkpoint whose commit had returned must be there, or a later one, and all that is
 * listed must be whole. */

enum { CREATE, WRITE, SYNC_FILE, RENAME, UNLINK, MKDIR, RMDIR, SYNC_DIR };

typedef struct op {
    int what, inode;
    char *path, *to; /* full names; of the directory for SYNC_DIR */
    uint8_t *bytes;
    size_t n, offset;
} op_t;

static op_t ops[4096];
static int n_ops, n_inodes, inode_of_fd[1024];
static bool recording;
static uint64_t chance; /* of the cut that is being made */

static uint32_t draw(void)
{
    return (uint32_t)(psd_splitmix64(&chance) >> 33);
}

static op_t *record(int what, int inode, const char *path)
{
    cr_assert_lt(n_ops, 4096);
    ops[n_ops] = (op_t){ .what = what, .inode = inode, .path = strdup(path) };
    return &ops[n_ops++];
}

/* The name of an open file, and of one in an open directory. */
static char *name_of(int fd, const char *below, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 300);
    cr_assert_gt(n, 0);
    path[n] = '\0';
    if (below)
        sprintf(path + n, "/%s", below);
    return path;
}

int __real_openat(int dir, const char *name, int flags, ...);
ssize_t __real_pwrite(int fd, const void *bytes, size_t n, off_t offset);
int __real_fdatasync(int fd), __real_fsync(int fd);
int __real_renameat(int from, const char *a, int to, const char *b);
int __real_unlink(const char *path), __real_unlinkat(int dir, const char *name, int flags);
int __real_mkdir(const char *path, mode_t mode), __real_rmdir(const char *path);

int __wrap_openat(int dir, const char *name, int flags, ...)
{
    char path[PATH_MAX];
    int fd = __real_openat(dir, name, flags, 0666);
    if (recording && fd >= 0 && (flags & O_CREAT))
        record(CREATE, inode_of_fd[fd] = n_inodes++, name_of(fd, NULL, path));
    return fd;
}

ssize_t __wrap_pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
    ssize_t done = __real_pwrite(fd, bytes, n, offset);
    if (recording && done > 0) {
        op_t *op = record(WRITE, inode_of_fd[fd], "");
        op->n = (size_t)done, op->offset = (size_t)offset;
        op->bytes = malloc(op->n);
        memcpy(op->bytes, bytes, op->n);
    }
    return done;
}

int __wrap_fdatasync(int fd)
{
    if (recording)
        record(SYNC_FILE, inode_of_fd[fd], "");
    return 0; /* no need to bother the disk */
}

int __wrap_fsync(int fd)
{
    char path[PATH_MAX];
    struct stat info;
    if (recording && fstat(fd, &info) == 0 && S_ISDIR(info.st_mode))
        record(SYNC_DIR, -1, name_of(fd, NULL, path));
    return 0;
}

/* The file that had the name last. */
static int inode_named(const char *path)
{
    for (int i = n_ops; i-- > 0;)
        if ((ops[i].what == CREATE && !strcmp(ops[i].path, path)) ||
            (ops[i].what == RENAME && !strcmp(ops[i].to, path)))
            return ops[i].inode;
    return -1;
}

int __wrap_renameat(int from, const char *a, int to, const char *b)
{
    char path[PATH_MAX];
    if (recording) {
        name_of(from, a, path);
        op_t *op = record(RENAME, inode_named(path), path);
        op->to = strdup(name_of(to, b, path));
    }
    return __real_renameat(from, a, to, b);
}

int __wrap_unlink(const char *path)
{
    if (recording)
        record(UNLINK, -1, path);
    return __real_unlink(path);
}

int __wrap_unlinkat(int dir, const char *name, int flags)
{
    char path[PATH_MAX];
    if (recording)
        record(UNLINK, -1, name_of(dir, name, path));
    return __real_unlinkat(dir, name, flags);
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    int rc = __real_mkdir(path, mode);
    if (recording && rc == 0)
        record(MKDIR, -1, path);
    return rc;
}

int __wrap_rmdir(const char *path)
{
    int rc = __real_rmdir(path);
    if (recording && rc == 0)
        record(RMDIR, -1, path);
    return rc;
}

/* ---- the run ---- */

enum { CLOCKS = 5, SERVERS = 2 };
static char dir[] = "/tmp/psd-test-XXXXXX", after[32];
static int returned[CLOCKS + 1]; /* how many calls there were when the commit of that clock had returned */
static float array[3][2048];

static void save(uint64_t clock)
{
    psd_err_t err;
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2048 }, .n_elements = 2048 };
    const psd_tensor_list_t model = { 1, &tensor };
    psd_partition_t map;
    psd_rule_t rule;
    const psd_rule_state_t state = { .t = clock };
    psd_ckpt_facts_t facts = {
        .job = "job", .settings = "", .clock = clock, .version = clock, .n_shards = SERVERS
    };
    for (int i = 0; i < 2048; i++)
        array[0][i] = array[1][i] = array[2][i] = (float)(clock * 2048 + (uint64_t)i + 1);
    cr_assert_eq(psd_rule_parse(&rule, "adam", NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (const uint64_t[]){ 2048 }, 1, SERVERS, NULL), PSD_OK);
    for (facts.shard = 0; facts.shard < SERVERS; facts.shard++) {
        psd_ckpt_writer_t *writer = psd_ckpt_begin(dir, &facts, &model, &map, &rule, &err);
        cr_assert_not_null(writer, "%s", err.text);
        for (uint32_t p = 0; p < map.n_parts[facts.shard]; p++) {
            const uint64_t at = map.chunk[map.part[facts.shard][p]].offset;
            cr_assert_eq(psd_ckpt_part(writer, p, array[0] + at, (float *[]){ array[1] + at, array[2] + at },
                                       &state, &err),
                         PSD_OK);
        }
        cr_assert_eq(psd_ckpt_end(&writer, &err), PSD_OK, "%s", err.text);
    }
    cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_OK, "%s", err.text);
    psd_partition_clear(&map);
}

static void run(void)
{
    cr_assert_not_null(mkdtemp(dir));
    recording = true;
    for (uint64_t clock = 1; clock <= CLOCKS; clock++) {
        save(clock);
        returned[clock] = n_ops;
    }
    recording = false;
}

/* ---- the cut ---- */

static bool in_dir(const char *path, const char *of)
{
    const size_t n = strlen(of);
    return strncmp(path, of, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/');
}

/* Whether call i was flushed by one of those before the k-th. */
static bool is_flushed(int i, int k, int lie)
{
    const op_t *op = &ops[i];
    for (int j = i + 1; j < k; j++) {
        if (ops[j].what == lie)
            continue;
        if (op->what == WRITE ? ops[j].what == SYNC_FILE && ops[j].inode == op->inode
                              : ops[j].what == SYNC_DIR && in_dir(op->path, ops[j].path))
            return true;
    }
    return false;
}

typedef struct entry {
    char path[128];
    int inode; /* -1 for a directory */
} entry_t;
static entry_t entries[128];
static int n_entries;

static void set_entry(const char *path, int inode)
{
    int i = 0;
    while (i < n_entries && strcmp(entries[i].path, path) != 0)
        i++;
    cr_assert_lt(i, 128);
    n_entries += i == n_entries;
    snprintf(entries[i].path, sizeof entries[i].path, "%s", path);
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
        if (in_dir(entries[i].path, path))
            return false;
    return true;
}

static void play_names(int k, int lie)
{
    n_entries = 0;
    for (int i = 0; i < k; i++) {
        const op_t *op = &ops[i];
        if (op->what == WRITE || op->what == SYNC_FILE || op->what == SYNC_DIR ||
            (!is_flushed(i, k, lie) && draw() % 2))
            continue;
        if (op->what == CREATE || op->what == MKDIR)
            set_entry(op->path, op->inode);
        if (op->what == RENAME)
            drop_entry(op->path), set_entry(op->to, op->inode);
        if (op->what == UNLINK || (op->what == RMDIR && is_empty(op->path)))
            drop_entry(op->path);
    }
}

/* The bytes that are left of a file: a write that was not flushed is kept, cut at a sector, or zeros, or
 * never was. */
static void write_file(const char *path, int inode, int k, int lie)
{
    static uint8_t bytes[1 << 16];
    size_t length = 0;
    memset(bytes, 0, sizeof bytes);
    for (int i = 0; i < k; i++) {
        const op_t *op = &ops[i];
        if (op->what != WRITE || op->inode != inode)
            continue;
        cr_assert_leq(op->offset + op->n, sizeof bytes);
        const uint32_t fate = is_flushed(i, k, lie) ? 0 : draw() % 4;
        const size_t kept = fate == 0 ? op->n : fate == 1 ? draw() % (op->n + 1) / 512 * 512 : 0;
        memcpy(bytes + op->offset, op->bytes, kept);
        if (fate != 3 && op->offset + op->n > length)
            length = op->offset + op->n;
    }
    /* What cannot be written here is not what the cut took: it must not look like it. */
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file, "cannot write %s: %s", path, strerror(errno));
    cr_assert_eq(fwrite(bytes, 1, length, file), length, "cannot write %s: %s", path, strerror(errno));
    cr_assert_eq(fclose(file), 0, "cannot write %s: %s", path, strerror(errno));
}

/* Whether the directory that an entry is in was not lost: the checkpoints' own is always there. */
static bool is_reachable(const char *path)
{
    if (in_dir(path, dir))
        return true;
    for (int i = 0; i < n_entries; i++)
        if (entries[i].inode < 0 && in_dir(path, entries[i].path))
            return true;
    return false;
}

static void clear(const char *path)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", path);
    cr_assert_eq(system(command), 0);
}

static const char *moved(const char *path, char to[PATH_MAX])
{
    snprintf(to, PATH_MAX, "%s%s", after, path + strlen(dir));
    return to;
}

/* Remove what the last cut left, without a process for each. */
static void unmake(void)
{
    char path[PATH_MAX];
    for (int dirs = 0; dirs < 2; dirs++)
        for (int i = 0; i < n_entries; i++) {
            moved(entries[i].path, path);
            if ((entries[i].inode < 0) == dirs && is_reachable(entries[i].path))
                cr_assert_eq(dirs ? rmdir(path) : unlink(path), 0, "cannot remove %s: %s", path,
                             strerror(errno));
        }
}

static void tell_loss(int k, uint64_t cut, uint64_t wanted, size_t n, const uint64_t *clocks)
{
    char path[PATH_MAX];
    psd_err_t why;
    fprintf(stderr, "cut %llu after %d of %d calls: clock %llu was committed, %zu are listed\n",
            (unsigned long long)cut, k, n_ops, (unsigned long long)wanted, n);
    for (size_t i = 0; i < n; i++)
        if (psd_ckpt_verify(after, clocks[i], &why) != PSD_OK)
            fprintf(stderr, "  listed: %s\n", why.text);
    if (wanted && psd_ckpt_verify(after, wanted, &why) != PSD_OK)
        fprintf(stderr, "  committed: %s\n", why.text);
    for (int i = 0; i < n_entries; i++) {
        struct stat info = { 0 };
        fprintf(stderr, "  left: %s, %lld bytes\n", entries[i].path + strlen(dir),
                stat(moved(entries[i].path, path), &info) ? -1 : (long long)info.st_size);
    }
}

/* Cut after k calls. Whether what remains is as it must be. */
static bool survives(int k, uint64_t cut, int lie)
{
    char path[PATH_MAX];
    uint64_t clocks[CLOCKS + 1], wanted = 0;
    bool ok = true;
    chance = cut;
    play_names(k, lie);
    for (int i = 0; i < n_entries; i++)
        if (entries[i].inode < 0)
            cr_assert_eq(mkdir(moved(entries[i].path, path), 0700), 0, "cannot make %s: %s", path,
                         strerror(errno));
    for (int i = 0; i < n_entries; i++)
        if (entries[i].inode >= 0 && is_reachable(entries[i].path))
            write_file(moved(entries[i].path, path), entries[i].inode, k, lie);
    for (uint64_t clock = 1; clock <= CLOCKS; clock++)
        wanted = returned[clock] <= k ? clock : wanted;
    const size_t n = psd_ckpt_list(after, clocks, CLOCKS + 1);
    ok = wanted == 0 || (n > 0 && clocks[0] >= wanted);
    for (size_t i = 0; ok && i < n; i++)
        ok = psd_ckpt_verify(after, clocks[i], NULL) == PSD_OK;
    if (!ok && lie < 0)
        tell_loss(k, cut, wanted, n, clocks);
    unmake();
    return ok;
}

/* Of so many cuts after each call, how many left too little. */
static int lost(int cuts, int lie)
{
    int n = 0;
    const char *given = getenv("PSD_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 1;
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    /* What is left is written tens of thousands of times: in memory where there is such a place. */
    strcpy(after, access("/dev/shm", W_OK) ? "/tmp/psd-test-XXXXXX" : "/dev/shm/psd-test-XXXXXX");
    cr_assert_not_null(mkdtemp(after));
    for (int k = 0; k <= n_ops; k++)
        for (int i = 0; i < cuts; i++)
            n += !survives(k, psd_splitmix64(&seed), lie);
    clear(after);
    clear(dir);
    return n;
}

TestSuite(powercut, .timeout = 250);

Test(powercut, whatever_was_not_flushed_the_last_committed_checkpoint_is_whole)
{
    run();
    cr_assert_gt(n_ops, 100);
    cr_assert_eq(lost(200, -1), 0);
}

Test(powercut, files_that_were_not_flushed_would_be_missed)
{
    run();
    cr_assert_gt(lost(5, SYNC_FILE), 0);
}

Test(powercut, names_that_were_not_flushed_would_be_missed)
{
    run();
    cr_assert_gt(lost(5, SYNC_DIR), 0);
}
