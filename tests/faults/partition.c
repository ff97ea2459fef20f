/* partition.c - a job on two networks that are partitioned repeatedly: namespaces with a pair of virtual interfaces between them,
 * whose link goes down, or with a filter that drops packets in one direction. On one side are server 0 and half of the workers, on
 * the other server 1 and the rest. A worker that is given up meanwhile exits when it learns of it, and is restarted. The networks
 * disappear with the process. */
#include "tests/faults/chaos.h"

#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/cluster.h"
#include "tests/support/ledger.h"
#include "tests/support/reference.h"

enum {
    WORKERS = 4,
    SEED = 9,
    BATCH = 60,
    STEPS = 4000,
    CALM_STEPS = 3000, /* after this, nothing disturbs the job any more */
    BETWEEN_MS = 300,  /* at most, from the job's first new round to the next partition */
    SHORTEST_MS = 100,
    LONGEST_MS = 60000, /* of a whole campaign */
    SHARE_MS = 2500,    /* of a share */
    HEALED_MS = 3000,   /* promised */
    BUSY_MS = 15000,    /* for a share, which runs beside other tests on any machine */
    WAIT_MS = 600000
};
#define DATA "glyphs:600"
#define RULE "adam(lr=0.002)"

static cluster_t cluster;
static int network[2] = { -1, -1 }; /* namespaces: server 0's, the other */

/* ---- networks ---- */

static void enter(int side)
{
    if (setns(network[side], CLONE_NEWNET))
        cluster_give_up(&cluster, "cannot enter a network namespace");
}

static bool sh(const char *format, ...) __attribute__((format(printf, 1, 2)));

static bool sh(const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command) == 0;
}

static bool write_file(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY);
    const bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return done;
}

/* Become root in a user namespace, if this process is not root. */
static bool become_root(void)
{
    char uid[32], gid[32];
    if (geteuid() == 0)
        return true;
    snprintf(uid, sizeof uid, "0 %u 1", (unsigned)geteuid());
    snprintf(gid, sizeof gid, "0 %u 1", (unsigned)getegid());
    return unshare(CLONE_NEWUSER) == 0 && write_file("/proc/self/uid_map", uid) && write_file("/proc/self/setgroups", "deny") &&
           write_file("/proc/self/gid_map", gid);
}

/* Make both namespaces, and put this process into server 0's; NULL, or the reason why not. */
static const char *make_networks(void)
{
    static const char filter[] = "nft 'add table inet chaos; add chain inet chaos in { type filter hook input priority 0; }; "
                                 "add chain inet chaos out { type filter hook output priority 0; }' 2>&1";
    if (!sh("command -v ip >/dev/null && command -v nft >/dev/null"))
        return "ip (iproute2) and nft (nftables) are needed";
    if (!become_root())
        return "no user namespace is permitted";
    for (int side = 1; side >= 0; side--)
        if (unshare(CLONE_NEWNET) || (network[side] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) < 0)
            return "no network namespace is permitted";
    if (!sh("ip link add v0 type veth peer name v1 && ip link set v1 netns /proc/%d/fd/%d && "
            "ip addr add 10.77.0.1/24 dev v0 && ip link set v0 up && ip link set lo up",
            (int)getpid(), network[1]))
        return "no virtual interfaces are permitted";
    if (!sh("%s", filter))
        return "no packet filter is permitted";
    enter(1);
    const bool up = sh("ip addr add 10.77.0.2/24 dev v1 && ip link set v1 up && ip link set lo up");
    enter(0);
    return up ? NULL : "no virtual interfaces are permitted";
}

/* Ways to partition the networks, from the side of server 0, and to join them again. */
static const struct parting {
    const char *name, *part, *heal;
} partings[] = {
    { "both ways", "ip link set v0 down", "ip link set v0 up" },
    { "inwards", "nft 'add rule inet chaos in iifname v0 drop'", "nft 'flush chain inet chaos in'" },
    { "outwards", "nft 'add rule inet chaos out oifname v0 drop'", "nft 'flush chain inet chaos out'" },
};
enum { N_PARTINGS = sizeof partings / sizeof *partings };

/* ---- the job ---- */

static void start_worker(unsigned w)
{
    enter(w % 2);
    cluster_start_worker_at(&cluster, w,
                            "--model-kind=mlp --model-layers=784,16,10 --seed=%d --data-train=" DATA
                            " --data-test=glyphs:100 --data-batch=%d --eval-every=0 --stop-steps=%d",
                            SEED, BATCH, STEPS);
    enter(0);
}

static void start_job(void)
{
    cluster_open(&cluster);
    cluster_make_keys(&cluster);
    for (int s = 0; s < 2; s++) {
        enter(s);
        cluster_start_server(&cluster, 2,
                             "--listen=tcp://10.77.0.%d:0 --workers-min=%d --lease=3s --threads=1 --log-level=debug "
                             "--optimizer=" RULE,
                             s + 1, WORKERS);
    }
    for (unsigned w = 0; w < WORKERS; w++)
        start_worker(w);
}

/* Restart workers as a supervisor would. */
static unsigned start_again_who_was_given_up(void)
{
    unsigned n = 0;
    for (unsigned w = 0; w < WORKERS; w++)
        if (cluster_wait(&cluster.worker[w], 0) == 75) {
            start_worker(w);
            n++;
        }
    return n;
}

static double steps(void) { return cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}"); }

/* Wait until it has made a step after `before`, for at most `ms`; returns the time. */
static double await_step(double before, int ms, unsigned *restarts)
{
    const double begin = ledger_now_ms();
    while (steps() <= before && ledger_now_ms() < begin + ms) {
        *restarts += start_again_who_was_given_up();
        cluster_nap();
    }
    return ledger_now_ms() - begin;
}

/* Whether each has ended and will not be restarted. */
static void await_workers(unsigned *restarts)
{
    const uint64_t end = cluster_now_ms() + WAIT_MS;
    for (unsigned w = 0; w < WORKERS && cluster_now_ms() < end; cluster_nap()) {
        *restarts += start_again_who_was_given_up();
        w += cluster_wait(&cluster.worker[w], 0) >= 0;
    }
}

static void expect_undisturbed(const char *fast, const char *slow)
{
    for (unsigned w = 0; w < WORKERS; w++)
        if (!cluster_has_weights(&cluster, w, fast, slow))
            cluster_give_up(&cluster, "the weights differ");
    for (unsigned s = 0; s < 2; s++) {
        ledger_t ledger;
        psd_err_t err;
        char *log = cluster_printed(&cluster, &cluster.server[s], "err");
        if (ledger_read(&ledger, s, log, &err) || ledger_check(&ledger, STEPS, WORKERS, &err))
            cluster_give_up(&cluster, "ledger of shard %u: %s", s, err.text);
        ledger_clear(&ledger);
        free(log);
    }
}

/* ---- the campaign ---- */

/* Short ones are as many as long ones: the logarithm of the time is uniform. */
static double some_ms(chaos_t *self)
{
    const double longest = self->whole ? LONGEST_MS : SHARE_MS;
    return SHORTEST_MS * pow(longest / SHORTEST_MS, (double)chaos_below(self, 1001) / 1000);
}

void chaos_partition(chaos_t *self)
{
    static chaos_times_t healed;
    unsigned done = 0, jobs = 0, restarts = 0;
    double parted_ms = 0;
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    if ((self->skipped = make_networks()))
        return;
    if (!reference_undisturbed(&(reference_config_t){ .data = DATA,
                                                      .kind = "mlp",
                                                      .layers = (const size_t[]){ 784, 16, 10 },
                                                      .n_layers = 3,
                                                      .batch = BATCH,
                                                      .seed = SEED,
                                                      .rule = RULE },
                               STEPS, WORKERS, fast, slow))
        exit(1);
    for (; done < self->count; jobs++) {
        start_job();
        cluster_await_steps(&cluster, 10);
        for (; done < self->count && steps() < CALM_STEPS; done++) {
            const struct parting *parting = &partings[chaos_below(self, N_PARTINGS)];
            const double ms = some_ms(self);
            usleep((useconds_t)(1000 * chaos_below(self, BETWEEN_MS)));
            if (!sh("%s", parting->part))
                cluster_give_up(&cluster, "%s failed", parting->part);
            usleep((useconds_t)(1000 * ms));
            const double before = steps();
            if (!sh("%s", parting->heal))
                cluster_give_up(&cluster, "%s failed", parting->heal);
            const double back_ms = await_step(before, WAIT_MS, &restarts);
            if (back_ms > WAIT_MS)
                cluster_give_up(&cluster, "partitioned %s for %.0f ms, it did not continue within %d ms of the heal", parting->name,
                                ms, WAIT_MS);
            chaos_add(&healed, back_ms);
            parted_ms += ms;
        }
        await_workers(&restarts);
        cluster_finish(&cluster, WAIT_MS);
        expect_undisturbed(fast, slow);
        cluster_close(&cluster);
    }
    chaos_say(self,
              "%u partitions, %.0f s in all, in %u jobs, %u workers given up and started again, SHA-256 equal, "
              "ledgers exact",
              done, parted_ms / 1e3, jobs, restarts);
    chaos_say_times(self, "from the heal to the next round", &healed);
    const int most_ms = (self->whole ? HEALED_MS : BUSY_MS) * PSD_PATIENCE;
    if (chaos_quantile(&healed, 0.99) > most_ms)
        cluster_give_up(&cluster, "%s: more than %d ms", self->text, most_ms);
}
