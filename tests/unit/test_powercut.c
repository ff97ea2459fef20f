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

#include "common/base/rng.h"
#include "server/checkpoint/checkpoint.h"
#include "tests/support/disk.h"
#include "tests/support/alone.h"

/* What a power cut may leave of a run that saves checkpoints: every system call that changes files is recorded (the linker puts the
 * __wrap_ functions in their place). Then, for a cut after each of them, what was not flushed is lost or kept by chance: names by
 * directory, writes by file, whole or in part. Whatever remains, the newest checkpoint whose commit had returned must be there, or
 * a later one, and all that is listed must be whole. */

/* ---- the run ---- */

enum { CLOCKS = 5, SERVERS = 2 };
static char dir[] = "/tmp/psd-test-XXXXXX", after[32];
static const char *below = "";   /* the checkpoints' path from there, in directories that are created for them */
static int returned[CLOCKS + 1]; /* the number of calls when the commit of that clock had returned */
static float array[3][2048];

static void save(uint64_t clock)
{
    psd_err_t err;
    char into[64];
    snprintf(into, sizeof into, "%s%s", dir, below);
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2048 }, .n_elements = 2048 };
    const psd_tensor_list_t model = { .n = 1, .tensor = &tensor };
    psd_partition_t map;
    psd_rule_t rule;
    const psd_rule_state_t state = { .t = clock };
    psd_ckpt_facts_t facts = { .job = "job", .settings = "", .clock = clock, .version = clock, .n_shards = SERVERS };
    for (int i = 0; i < 2048; i++)
        array[0][i] = array[1][i] = array[2][i] = (float)(clock * 2048 + (uint64_t)i + 1);
    cr_assert_eq(psd_rule_parse(&rule, "adam", NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (const uint64_t[]){ 2048 }, 1, SERVERS, 1, NULL), PSD_OK);
    for (facts.shard = 0; facts.shard < SERVERS; facts.shard++) {
        psd_ckpt_writer_t *writer = psd_ckpt_begin(into, &facts, &model, &map, alone(&rule), &err);
        cr_assert_not_null(writer, "%s", err.text);
        for (uint32_t p = 0; p < map.n_held[facts.shard]; p++) {
            const uint64_t at = map.chunk[map.held[facts.shard][p]].offset;
            cr_assert_eq(psd_ckpt_chunk(writer, p, array[0] + at, (float *[]){ array[1] + at, array[2] + at }, &state, &err),
                         PSD_OK);
        }
        cr_assert_eq(psd_ckpt_end(&writer, &err), PSD_OK, "%s", err.text);
    }
    cr_assert_eq(psd_ckpt_commit(into, &facts, &model, 2, &err), PSD_OK, "%s", err.text);
    psd_partition_clear(&map);
}

static void run(void)
{
    cr_assert_not_null(mkdtemp(dir));
    disk_record(true);
    for (uint64_t clock = 1; clock <= CLOCKS; clock++) {
        save(clock);
        returned[clock] = disk_calls();
    }
    disk_record(false);
}

/* ---- the cut ---- */

/* Remove what the last cut left, without a process for each. */
static void unmake(const disk_entry_t *entries, int n)
{
    char path[PATH_MAX];
    for (int dirs = 0; dirs < 2; dirs++)
        for (int i = n - 1; i >= 0; i--) { /* the contents of a directory come after it */
            disk_moved(entries[i].path, dir, after, path);
            if ((entries[i].inode < 0) == dirs && disk_is_reachable(entries[i].path, dir))
                cr_assert_eq(dirs ? rmdir(path) : unlink(path), 0, "cannot remove %s: %s", path, strerror(errno));
        }
}

static void tell_loss(int k, uint64_t cut, uint64_t wanted, size_t n, const uint64_t *clocks, const disk_entry_t *entries,
                      int n_entries)
{
    char path[PATH_MAX];
    psd_err_t why;
    fprintf(stderr, "cut %llu after %d of %d calls: clock %llu was committed, %zu are listed\n", (unsigned long long)cut, k,
            disk_calls(), (unsigned long long)wanted, n);
    for (size_t i = 0; i < n; i++)
        if (psd_ckpt_verify(after, clocks[i], &why) != PSD_OK)
            fprintf(stderr, "  listed: %s\n", why.text);
    if (wanted && psd_ckpt_verify(after, wanted, &why) != PSD_OK)
        fprintf(stderr, "  committed: %s\n", why.text);
    for (int i = 0; i < n_entries; i++) {
        struct stat info = { 0 };
        fprintf(stderr, "  left: %s, %lld bytes\n", entries[i].path + strlen(dir),
                stat(disk_moved(entries[i].path, dir, after, path), &info) ? -1 : (long long)info.st_size);
    }
}

/* Cut after k calls. Whether the remaining files are valid. */
static bool survives(int k, uint64_t cut, int lie)
{
    uint64_t clocks[CLOCKS + 1], wanted = 0;
    bool ok = true;
    int n_entries;
    const disk_entry_t *entries = disk_cut(k, cut, lie, dir, after, &n_entries);
    for (uint64_t clock = 1; clock <= CLOCKS; clock++)
        wanted = returned[clock] <= k ? clock : wanted;
    char from[64];
    snprintf(from, sizeof from, "%s%s", after, below);
    const size_t n = psd_ckpt_list(from, clocks, CLOCKS + 1);
    ok = wanted == 0 || (n > 0 && clocks[0] >= wanted);
    for (size_t i = 0; ok && i < n; i++)
        ok = psd_ckpt_verify(from, clocks[i], NULL) == PSD_OK;
    if (!ok && lie == DISK_HONEST)
        tell_loss(k, cut, wanted, n, clocks, entries, n_entries);
    unmake(entries, n_entries);
    return ok;
}

/* The number of cuts, `cuts` after each call, that left too little. */
static int lost(int cuts, int lie)
{
    int n = 0;
    const char *given = getenv("PSD_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 1;
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    /* The remains are written tens of thousands of times: in memory, if there is such a file system. */
    strcpy(after, access("/dev/shm", W_OK) ? "/tmp/psd-test-XXXXXX" : "/dev/shm/psd-test-XXXXXX");
    cr_assert_not_null(mkdtemp(after));
    for (int k = 0; k <= disk_calls(); k++)
        for (int i = 0; i < cuts; i++)
            n += !survives(k, psd_splitmix64(&seed), lie);
    disk_remove(after);
    disk_remove(dir);
    return n;
}

TestSuite(powercut, .timeout = 600);

Test(powercut, the_last_committed_checkpoint_is_whole_whichever_writes_were_lost)
{
    run();
    cr_assert_gt(disk_calls(), 100);
    cr_assert_eq(lost(200, DISK_HONEST), 0);
}

Test(powercut, a_directory_that_is_new_is_there_with_its_first_checkpoint)
{
    below = "/new/deep";
    run();
    cr_assert_eq(lost(50, DISK_HONEST), 0);
}

Test(powercut, files_that_were_not_flushed_would_be_missed)
{
    run();
    cr_assert_gt(lost(5, DISK_SYNC_FILE), 0);
}

Test(powercut, names_that_were_not_flushed_would_be_missed)
{
    run();
    cr_assert_gt(lost(5, DISK_SYNC_DIR), 0);
}
