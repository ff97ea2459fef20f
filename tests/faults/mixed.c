/* mixed.c - all faults together, as in a bad week of a long job: kills of any process, including psdctl; stops of 2 to 10 s;
 * SIGTERM and a restart with another number of servers; checkpoints damaged, deleted, or without room. On MNIST if its files are
 * available (PSD_MNIST names their directory), otherwise on glyphs. Each job must end with the weights of an undisturbed one,
 * continue within a minute of each fault, and report the reason of each end. */
#include "tests/faults/chaos.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/faults/volume.h"
#include "tests/support/job.h"

enum {
    WORKERS = 2,
    MOST_SERVERS = 5,
    STEPS = 4000,        /* of a job; */
    FEW_STEPS = 800,     /* in the ordinary tests' share */
    JOB_FAULTS = 25,     /* at most, to one job */
    BETWEEN_MS = 300,    /* at most, from the return of one victim to the next fault */
    STOP_MIN_MS = 2000,  /* a stopped process continues after this time, */
    STOP_MAX_MS = 10000, /* up to this */
    FULL_MAX_MS = 2000,  /* a disk has room again after at most this time */
    HANG_MS = 60000,     /* promised: it continues within this time */
    SAVE_MS = 300,       /* how long to wait for a save in which to kill */
    STOPPED = 75,
    NOT_WRITTEN = 74,
};

/* The state shared by all jobs of a campaign. */
static job_t job;
static const char *rule;
static char data[512]; /* flags that name the data */
static int steps;
static bool own_disk; /* ckpt/ is a tmpfs that can be filled */
static char sha[2][160];
static const char *const rules[] = { "adam(lr=0.002)", "lookahead(radam(lr=0.005))" };

/* ---- the job ---- */

static const char *choose_data(void)
{
    const char *at = getenv("PSD_MNIST");
    char images[256];
    snprintf(images, sizeof images, "%s/train-images-idx3-ubyte.gz", at ? at : "");
    if (!at || access(images, R_OK)) {
        snprintf(data, sizeof data, "--data-train=glyphs:6000 --data-test=glyphs:100");
        return "glyphs";
    }
    snprintf(data, sizeof data,
             "--data-train=idx:%s --data-labels=%s/train-labels-idx1-ubyte.gz "
             "--data-test=idx:%s/t10k-images-idx3-ubyte.gz --data-test-labels=%s/t10k-labels-idx1-ubyte.gz",
             images, at, at, at);
    return "MNIST";
}

static void start(unsigned n_servers)
{
    job.n_servers = n_servers;
    job_start(&job,
              "%s --model-layers=784,128,10 --data-batch=64 --stop-steps=%d --checkpoint-every=300ms --lease=3s "
              "--restarts=100000 --servers=%u --optimizer=%s",
              data, steps, n_servers, rule);
}

static unsigned some_servers(chaos_t *self) { return 1 + (unsigned)chaos_below(self, MOST_SERVERS); }

/* The two hashes of the first worker's summary, as one text. */
static void read_sha(char text[160])
{
    char *file = cluster_file(&job.cluster, "run/summary.json");
    json_t *summary = json_loads(file ? file : "", 0, NULL);
    const char *fast = json_string_value(json_object_get(summary, "sha256"));
    const char *slow = json_string_value(json_object_get(summary, "sha256_slow"));
    snprintf(text, 160, "%s %s", fast ? fast : "none", slow ? slow : "");
    json_decref(summary);
    free(file);
}

/* Wait for the end of psdctl run, within a minute; returns its code. */
static int await_end(void)
{
    const int code = cluster_wait(&job.process, HANG_MS);
    if (code < 0)
        job_give_up(&job, "psdctl run did not end within %d ms", HANG_MS);
    return code;
}

/* Wait for a checkpoint later than this one, or the job's end: the job continues after the disturbance. */
static bool goes_on(long long before)
{
    const uint64_t end = cluster_now_ms() + HANG_MS;
    for (; job_checkpoint(&job) <= before; cluster_nap()) {
        if (cluster_wait(&job.process, 0) >= 0)
            return false;
        if (cluster_now_ms() > end)
            job_give_up(&job, "no checkpoint after that of round %lld within %d ms", before, HANG_MS);
    }
    return true;
}

/* ---- faults: each returns whether it was done; psdctl run runs before and after, unless the job has ended ---- */

/* Kill or stop a process of the job, possibly psdctl. */
static pid_t somebody(chaos_t *self)
{
    const unsigned n = job.n_servers + WORKERS + 1, i = (unsigned)chaos_below(self, n);
    if (i == n - 1)
        return job.process.pid;
    return job_child(&job, i < job.n_servers ? (job_role_t){ true, i } : (job_role_t){ false, i - job.n_servers });
}

static bool kill_somebody(chaos_t *self)
{
    const pid_t pid = somebody(self);
    const bool is_psdctl = pid == job.process.pid;
    if (!pid || cluster_wait(&job.process, 0) >= 0 || kill(pid, SIGKILL))
        return false;
    if (is_psdctl) {
        await_end();
        start(some_servers(self));
    }
    return true;
}

static bool kill_in_save(chaos_t *self)
{
    const uint64_t end = cluster_now_ms() + SAVE_MS;
    while (job_begun_checkpoint(&job) <= job_checkpoint(&job) && cluster_now_ms() < end)
        ;
    const pid_t pid = job_child(&job, (job_role_t){ true, (unsigned)chaos_below(self, job.n_servers) });
    return pid && !kill(pid, SIGKILL);
}

static bool stop_somebody(chaos_t *self)
{
    const pid_t pid = somebody(self);
    if (!pid || cluster_wait(&job.process, 0) >= 0 || kill(pid, SIGSTOP))
        return false;
    usleep((useconds_t)(1000 * (STOP_MIN_MS + chaos_below(self, STOP_MAX_MS - STOP_MIN_MS))));
    kill(pid, SIGCONT);
    return true;
}

/* Request a stop; false when the job has ended by itself. `may_fail`: its last checkpoint may have found no room, which it must
 * then report. */
static bool terminate(bool may_fail)
{
    if (cluster_wait(&job.process, 0) >= 0 || kill(job.process.pid, SIGTERM))
        return false;
    const int code = await_end();
    if (code == 0)
        return false;
    if (code != STOPPED && !(may_fail && code == NOT_WRITTEN))
        job_give_up(&job, "psdctl run ended with %d after SIGTERM", code);
    return true;
}

static bool stop_and_resume(chaos_t *self)
{
    if (!terminate(false))
        return false;
    job_expect_whole_checkpoint(&job);
    start(some_servers(self));
    return true;
}

/* Choose a file of the newest checkpoint's directory; false when there is none. */
static bool some_file(chaos_t *self, char path[512])
{
    char directory[256];
    unsigned n = 0;
    snprintf(directory, sizeof directory, "%s/ckpt/%012lld", job.cluster.directory, job_checkpoint(&job));
    DIR *dir = opendir(directory);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (*entry->d_name != '.' && chaos_below(self, ++n) == 0)
            snprintf(path, 512, "%s/%s", directory, entry->d_name);
    if (dir)
        closedir(dir);
    return n > 0;
}

static unsigned manifests(void)
{
    char path[128];
    unsigned n = 0;
    snprintf(path, sizeof path, "%s/ckpt", job.cluster.directory);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        n += !strncmp(entry->d_name, "MANIFEST-", 9);
    if (dir)
        closedir(dir);
    return n;
}

static bool flip_a_bit(chaos_t *self, const char *path)
{
    struct stat st;
    unsigned char byte = 0;
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    bool done = fd >= 0 && !fstat(fd, &st) && st.st_size;
    const off_t at = done ? (off_t)chaos_below(self, (uint64_t)st.st_size) : 0;
    done = done && pread(fd, &byte, 1, at) == 1;
    byte ^= (unsigned char)(1 << chaos_below(self, 8));
    done = done && pwrite(fd, &byte, 1, at) == 1;
    if (fd >= 0)
        close(fd);
    return done;
}

/* Damage the newest of several checkpoints while no process runs: the job must take the one before it. */
static bool spoil(chaos_t *self, bool (*harm)(chaos_t *self, const char *path))
{
    char path[512];
    if (!terminate(false))
        return false;
    const bool done = manifests() > 1 && some_file(self, path) && harm(self, path);
    start(some_servers(self));
    return done;
}

static bool remove_file(chaos_t *self, const char *path)
{
    (void)self;
    return !unlink(path);
}

static bool damage(chaos_t *self) { return spoil(self, flip_a_bit); }
static bool delete (chaos_t *self) { return spoil(self, remove_file); }

/* Leave no room for a while; at its end the job may also be stopped. */
static bool fill_disk(chaos_t *self)
{
    char directory[128];
    snprintf(directory, sizeof directory, "%s/ckpt", job.cluster.directory);
    if (!own_disk || cluster_wait(&job.process, 0) >= 0 || !volume_fill(directory))
        return false;
    const uint64_t end = cluster_now_ms() + 100 + chaos_below(self, FULL_MAX_MS);
    for (; cluster_now_ms() < end; cluster_nap())
        volume_fill(directory); /* pruning makes room */
    const bool stop = chaos_below(self, 2) && terminate(true);
    volume_free(directory);
    if (stop)
        start(some_servers(self));
    return true;
}

static const struct fault {
    const char *name;
    bool (*inflict)(chaos_t *self);
} faults[] = { { "kills", kill_somebody },        { "kills in a save", kill_in_save },
               { "stops", stop_somebody },        { "SIGTERMs and resumes", stop_and_resume },
               { "damaged checkpoints", damage }, { "deleted files", delete },
               { "full disks", fill_disk } };
enum { N_FAULTS = sizeof faults / sizeof *faults };

/* ---- the campaign ---- */

static void open_job(void)
{
    char directory[128];
    job_open(&job, 1, WORKERS);
    snprintf(directory, sizeof directory, "%s/ckpt", job.cluster.directory);
    if (own_disk && (mkdir(directory, 0777) || !volume_mount_tmpfs(directory, "64m")))
        cluster_give_up(&job.cluster, "no tmpfs at %s: %s", directory, strerror(errno));
}

static void close_job(void)
{
    char directory[128];
    snprintf(directory, sizeof directory, "%s/ckpt", job.cluster.directory);
    if (job.process.pid)
        kill(job.process.pid, SIGKILL);
    cluster_wait(&job.process, JOB_WAIT_MS);
    if (own_disk)
        umount2(directory, MNT_DETACH);
    job_close(&job);
}

/* One job with some of the faults; adds each to `done`, and returns how many. */
static unsigned disturb(chaos_t *self, unsigned most, unsigned done[N_FAULTS], const char *expected)
{
    char got[160];
    unsigned n = 0;
    open_job();
    start(some_servers(self));
    bool on = goes_on(0);
    while (on && n < most && n < JOB_FAULTS) {
        usleep((useconds_t)(1000 * chaos_below(self, BETWEEN_MS)));
        const unsigned f = (unsigned)chaos_below(self, N_FAULTS);
        const bool inflicted = faults[f].inflict(self);
        done[f] += inflicted;
        n += inflicted;
        on = goes_on(job_checkpoint(&job));
    }
    job_expect_code(&job, 0);
    read_sha(got);
    if (strcmp(got, expected))
        job_give_up(&job, "after %u faults: weights %s; of the undisturbed job %s", n, got, expected);
    close_job();
    return n;
}

void chaos_mixed(chaos_t *self)
{
    unsigned done[N_FAULTS] = { 0 }, jobs = 0, n = 0;
    steps = self->whole ? STEPS : FEW_STEPS;
    own_disk = !volume_own_mounts();
    const char *name = choose_data();
    for (unsigned r = 0; r < 2; r++) {
        rule = rules[r];
        open_job();
        start(1);
        job_expect_code(&job, 0);
        read_sha(sha[r]);
        close_job();
    }
    for (; n < self->count; jobs++) {
        rule = rules[jobs % 2];
        n += disturb(self, self->count - n, done, sha[jobs % 2]);
        fprintf(stderr, "%u faults in %u jobs\n", n, jobs + 1);
    }
    chaos_say(self, "%u in %u jobs on %s, 1 to %d servers, SHA-256 equal:", n, jobs, name, MOST_SERVERS);
    for (unsigned f = 0; f < N_FAULTS; f++)
        chaos_say(self, "%s %u %s", f ? "," : "", done[f], faults[f].name);
}
