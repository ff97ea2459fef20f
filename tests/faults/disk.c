/* disk.c - campaigns against the disk that checkpoints go to, in a mount namespace of this process: it is filled and freed, made
 * read-only and writable again, or takes 5 s for each flush. Training continues undisturbed; the newest whole checkpoint stays
 * whole; /status reports that checkpoints fail while they do. */
#include "tests/faults/chaos.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/faults/volume.h"
#include "tests/support/cluster.h"

enum {
    SERVERS = 2,
    WORKERS = 2,
    WAIT_MS = 300000,
    STALL_MS = 5000, /* of each flush */
    STEP_MS = 1000,  /* the longest round while flushes stall: far from waiting for one */
    TRAIN_MS = 8000  /* duration, with stalls and without */
};

static cluster_t cluster;
static char disk[96]; /* where it is mounted: the directory of the checkpoints */

/* ---- disks ---- */

static bool mount_tmpfs(const char *device)
{
    (void)device;
    return volume_mount_tmpfs(disk, "4m");
}

/* A file of 64 MiB that contains a file system, whose room for checkpoints is somewhat less. */
static bool mount_ext4(const char *device)
{
    char command[512];
    snprintf(command, sizeof command, "truncate -s 16M %s && mkfs.ext4 -q -F -m 0 %s && mount -o loop %s %s", device, device,
             device, disk);
    return system(command) == 0;
}

static const struct disk {
    const char *name;
    bool (*mount)(const char *device);
} disks[] = { { "tmpfs", mount_tmpfs }, { "ext4", mount_ext4 } };
enum { N_DISKS = sizeof disks / sizeof *disks };

static bool fill(void) { return volume_fill(disk); }
static bool free_space(void) { return volume_free(disk); }

/* Busy while a file is being written. */
static bool make_read_only(void) { return !mount(NULL, disk, NULL, MS_REMOUNT | MS_RDONLY, NULL); }
static bool make_writable(void) { return !mount(NULL, disk, NULL, MS_REMOUNT, NULL); }

static const struct trouble {
    const char *name;
    bool (*begin)(void), (*end)(void); /* false: not now, try again */
} full = { "full", fill, free_space }, read_only = { "read-only", make_read_only, make_writable };

/* ---- the job ---- */

static void start_job(const char *flags)
{
    cluster_start_servers(&cluster, SERVERS,
                          "--workers-min=%d --lease=20s --threads=1 --checkpoint-dir=%s/ckpt --optimizer=adam(lr=0.002) %s",
                          WORKERS, cluster.directory, flags);
    for (unsigned w = 0; w < WORKERS; w++)
        cluster_start_worker(&cluster, "--model-kind=mlp --model-layers=784,16,10 --data-train=glyphs:600 "
                                       "--data-test=glyphs:100 --data-batch=60 --eval-every=0 --stop-steps=100000000");
}

/* Whether /status reports that checkpoints fail; -1 when it has no report yet. */
static long long checkpoint_says(const char *key)
{
    char *text = cluster_get(&cluster, 0, "/status");
    json_t *status = text ? json_loads(text, 0, NULL) : NULL;
    const json_t *value = json_object_get(json_object_get(status, "checkpoint"), key);
    const long long says = json_is_integer(value) ? json_integer_value(value) : value ? json_is_true(value) : -1;
    json_decref(status);
    free(text);
    return says;
}

static double steps(void) { return cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}"); }

static void await(const char *what, bool (*is)(const void *), const void *arg)
{
    const uint64_t end = cluster_now_ms() + WAIT_MS;
    for (; !is(arg); cluster_nap())
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "%s: not within %d ms", what, WAIT_MS);
}

static bool has_begun(const void *trouble) { return ((const struct trouble *)trouble)->begin(); }
static bool has_ended(const void *trouble) { return ((const struct trouble *)trouble)->end(); }

/* Also fill the room that pruning frees. */
static bool is_failing(const void *trouble)
{
    if (trouble == &full)
        fill();
    return checkpoint_says("failing") == 1;
}
static bool is_well(const void *trouble)
{
    (void)trouble;
    return checkpoint_says("failing") == 0;
}
static bool is_later(const void *before) { return checkpoint_says("last_step") > *(const long long *)before; }
static bool has_stepped(const void *before) { return steps() > *(const double *)before; }

static void expect_whole(const char *when)
{
    cluster_process_t verify = { 0 };
    cluster_spawn(&cluster, &verify, "verify", "psdctl", "checkpoint verify %s/ckpt", cluster.directory);
    if (cluster_wait(&verify, WAIT_MS))
        cluster_give_up(&cluster, "%s: psdctl checkpoint verify ended with %d: %s", when, verify.code,
                        cluster_printed(&cluster, &verify, "out"));
}

static void stop_servers(void)
{
    for (unsigned s = 0; s < SERVERS; s++)
        kill(cluster.server[s].pid, SIGTERM);
    for (unsigned s = 0; s < SERVERS; s++)
        if (cluster_wait(&cluster.server[s], WAIT_MS) != 75)
            cluster_give_up(&cluster, "server %u ended with %d, not 75", s, cluster.server[s].code);
}

/* Make the disk; false when this machine does not permit it. */
static bool open_disk(const struct disk *kind)
{
    char device[96];
    cluster_open(&cluster);
    snprintf(disk, sizeof disk, "%s/ckpt", cluster.directory);
    snprintf(device, sizeof device, "%s/device", cluster.directory);
    return !mkdir(disk, 0777) && kind->mount(device);
}

static void close_disk(void)
{
    for (unsigned i = 0; i < CLUSTER_MAX; i++) {
        cluster_process_t *rows[] = { &cluster.server[i], &cluster.worker[i] };
        for (int r = 0; r < 2; r++)
            if (rows[r]->pid) {
                kill(rows[r]->pid, SIGKILL);
                cluster_wait(rows[r], WAIT_MS);
            }
    }
    umount2(disk, MNT_DETACH);
    cluster_close(&cluster);
}

/* ---- campaigns ---- */

static void trouble_once(const struct trouble *trouble)
{
    long long last;
    await(trouble->name, has_begun, trouble);
    await("the alarm is set", is_failing, trouble);
    const double before = steps();
    await("training goes on", has_stepped, &before);
    expect_whole(trouble->name);
    last = checkpoint_says("last_step");
    await("it ends", has_ended, trouble);
    await("a later checkpoint", is_later, &last);
    await("the alarm is cleared", is_well, trouble);
}

/* Cycles on each kind of disk; then all processes stop, and the last checkpoint must load. */
static void trouble_often(chaos_t *self, const struct trouble *trouble)
{
    unsigned done = 0;
    if ((self->skipped = volume_own_mounts()))
        return;
    for (unsigned d = 0; d < N_DISKS; d++) {
        const unsigned each = (self->count + N_DISKS - 1) / N_DISKS;
        if (!open_disk(&disks[d])) {
            chaos_say(self, "%s cannot be mounted here; ", disks[d].name);
            close_disk();
            continue;
        }
        start_job("--checkpoint-every=100ms");
        cluster_await_steps(&cluster, 10);
        for (unsigned i = 0; i < each; i++)
            trouble_once(trouble);
        stop_servers();
        expect_whole("at the end");
        chaos_say(self, "%u times on %s, ", each, disks[d].name);
        done += each;
        close_disk();
    }
    if (!done)
        self->skipped = "neither tmpfs nor ext4 can be mounted";
    chaos_say(self, "the newest checkpoint always whole, the alarm set and cleared");
}

void chaos_full_disk(chaos_t *self) { trouble_often(self, &full); }
void chaos_read_only_disk(chaos_t *self) { trouble_often(self, &read_only); }

/* Make each flush of the server take this long; NULL when that is not permitted. */
static pid_t slow_down(pid_t server, int ms)
{
    char inject[64], pid[16];
    const pid_t tracer = fork();
    snprintf(inject, sizeof inject, "inject=fsync,fdatasync:delay_enter=%d", 1000 * ms);
    snprintf(pid, sizeof pid, "%d", (int)server);
    if (tracer == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("strace", "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", inject, "-p", pid,
               (char *)NULL);
        _exit(127);
    }
    return tracer;
}

static bool is_traced(const void *server)
{
    char path[64], line[256];
    int tracer = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)*(const pid_t *)server);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "TracerPid: %d", &tracer);
    if (file)
        fclose(file);
    return tracer != 0;
}

/* The times between rounds of worker 0, from its metrics. */
static void read_rounds(chaos_times_t *times)
{
    char *text = cluster_file(&cluster, "metrics.jsonl");
    double before = 0;
    for (char *rest = text, *line; rest && (line = strsep(&rest, "\n"));) {
        json_t *row = json_loads(line, 0, NULL);
        const double at = json_number_value(json_object_get(row, "ts")) * 1e3;
        if (row && before > 0)
            chaos_add(times, at - before);
        before = row ? at : before;
        json_decref(row);
    }
    free(text);
}

static bool is_over(const void *end) { return cluster_now_ms() > *(const uint64_t *)end; }

/* Train a while under a tracer that holds each flush for `ms`; returns how many checkpoints came. */
static long long train_slowly(int ms, chaos_times_t *times)
{
    pid_t tracer[SERVERS];
    cluster_open(&cluster);
    start_job("--checkpoint-every=200ms");
    cluster_await_steps(&cluster, 10);
    for (unsigned s = 0; s < SERVERS; s++) {
        tracer[s] = slow_down(cluster.server[s].pid, ms);
        await("a tracer", is_traced, &cluster.server[s].pid);
    }
    const uint64_t end = cluster_now_ms() + TRAIN_MS;
    const long long before = checkpoint_says("last_step");
    await("time", is_over, &end);
    const long long after = checkpoint_says("last_step");
    for (unsigned s = 0; s < SERVERS; s++) {
        kill(tracer[s], SIGKILL);
        waitpid(tracer[s], NULL, 0);
    }
    read_rounds(times);
    cluster_close(&cluster);
    return after - before;
}

void chaos_slow_disk(chaos_t *self)
{
    static chaos_times_t with, without;
    if (system("strace -qq -o /dev/null -e inject=fsync:error=EIO:when=99 true 2>/dev/null")) {
        self->skipped = "strace is needed, and a system that permits it";
        return;
    }
    for (unsigned i = 0; i < self->count; i++) {
        train_slowly(0, &without);
        train_slowly(STALL_MS, &with);
    }
    chaos_say(self, "each flush held for %d ms", STALL_MS);
    chaos_say_times(self, "rounds", &with);
    chaos_say_times(self, "without", &without);
    if (chaos_quantile(&with, 1) > STEP_MS * PSD_PATIENCE)
        cluster_give_up(&cluster, "%s: a round waited for the disk", self->text);
}
