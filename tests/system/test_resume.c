#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/rng.h"
#include "tests/support/cluster.h"
#include "tests/support/reference.h"

/* Jobs under `psdctl run` with checkpoints are disturbed: processes are killed at random moments, everything
 * is stopped and started again, on more or fewer servers. However that goes, the weights at the end are, bit
 * for bit, those of one process that did the same rounds without any of it. What cannot be gone on from is
 * refused. */

enum { BATCH = 240, SEED = 5, DONE_MS = 90000, WAIT_MS = 30000, MAX_KILLS = 1024 };
#define ADAM "adam(lr=0.002)"
static const size_t layers[] = { 784, 16, 10 };

static cluster_t cluster;
static cluster_process_t job; /* psdctl run */
static char name[32];         /* the job's: a port that is free for a moment may be another test's the next */
static void setup(void) { cluster_open(&cluster); }

static void teardown(void)
{
    if (job.pid)
        kill(job.pid, SIGKILL); /* its children die with it */
    cluster_wait(&job, WAIT_MS);
    cluster_close(&cluster);
}

TestSuite(resume, .init = setup, .fini = teardown, .timeout = 900);

/* ---- the job
 * ----------------------------------------------------------------------------------------------------- */

/* Start `psdctl run` in the test's directory; a later flag goes before an earlier one. */
static void start_job(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void start_job(const char *format, ...)
{
    char more[512];
    va_list args;
    snprintf(name, sizeof name, "resume-%d", (int)getpid());
    va_start(args, format);
    vsnprintf(more, sizeof more, format, args);
    va_end(args);
    job = (cluster_process_t){ 0 };
    cluster_spawn(&cluster, &job, "job", "psdctl",
                  "run --data-train=glyphs:1200 --data-test=glyphs:100 --data-batch=%d --model-kind=mlp "
                  "--job=%s --model-layers=784,16,10 --eval-every=0 --seed=%d --threads=1 --lease=1s "
                  "--status-listen=none "
                  "--workers-min=2 --servers=2 --checkpoint-dir=%s/ckpt --run-dir=%s/run %s",
                  BATCH, name, SEED, cluster.directory, cluster.directory, more);
}

static void print_job(void)
{
    char *err = cluster_printed(&cluster, &job, "err");
    size_t n = strlen(err);
    fprintf(stderr, "---- psdctl run said:\n%s\n", n > 6000 ? err + n - 6000 : err);
    free(err);
}

/* Wait for its end and compare the code. */
static void expect_code(int code)
{
    int is = cluster_wait(&job, DONE_MS);
    if (is != code)
        print_job();
    cr_assert_eq(is, code, "psdctl run ended with %d, not %d", is, code);
}

static void expect_said(const char *words)
{
    char *err = cluster_printed(&cluster, &job, "err");
    cr_expect_not_null(strstr(err, words), "\"%s\" is not in:\n%s", words, err);
    free(err);
}

/* The worker's weights at the end are those of the undisturbed rounds 1 to `steps`. */
static void expect_undisturbed_weights(const char *rule, uint64_t steps)
{
    static char of[128], fast[PSD_SHA256_TEXT],
        slow[PSD_SHA256_TEXT]; /* the last ones, for the next asking */
    char asked[128];
    snprintf(asked, sizeof asked, "%s %llu", rule, (unsigned long long)steps);
    if (strcmp(of, asked)) {
        reference_t *reference = reference_new(&(reference_config_t){ .data = "glyphs:1200",
                                                                      .kind = "mlp",
                                                                      .layers = layers,
                                                                      .n_layers = 3,
                                                                      .batch = BATCH,
                                                                      .seed = SEED,
                                                                      .rule = rule });
        cr_assert_not_null(reference);
        reference_run(reference, steps, 2);
        reference_hash(reference, fast, slow);
        reference_destroy(&reference);
        memcpy(of, asked, sizeof of);
    }
    for (unsigned w = 0; w < 2; w++) {
        char file[32];
        snprintf(file, sizeof file, w ? "run/summary-%u.json" : "run/summary.json", w + 1);
        char *text = cluster_file(&cluster, file);
        json_t *summary = json_loads(text ? text : "", 0, NULL);
        const char *sha = json_string_value(json_object_get(summary, "sha256"));
        const char *sha_slow = json_string_value(json_object_get(summary, "sha256_slow"));
        cr_expect(sha && !strcmp(sha, fast) && !strcmp(sha_slow ? sha_slow : "", slow),
                  "%s: weights %s, slow %s, of the undisturbed run %s, %s", asked, sha ? sha : "none",
                  sha_slow ? sha_slow : "none", fast, slow);
        json_decref(summary);
        free(text);
    }
}

/* ---- its processes and files
 * ------------------------------------------------------------------------------------- */

/* The running child whose command line has `word`, such as "--worker-id=2"; 0 when there is none now. */
static pid_t find_child(const char *word)
{
    pid_t found = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; !found && (entry = readdir(proc));) {
        char path[300], line[4096];
        int pid = atoi(entry->d_name), parent = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        FILE *file = pid ? fopen(path, "r") : NULL;
        if (!file)
            continue;
        char state = 'Z';
        int fields = fscanf(file, "%*d %*s %c %d", &state, &parent);
        fclose(file);
        if (fields != 2 || parent != job.pid || state == 'Z')
            continue;
        snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
        file = fopen(path, "r");
        size_t n = file ? fread(line, 1, sizeof line, file) : 0;
        if (file)
            fclose(file);
        /* Not yet itself: psdctl on the way to becoming it. */
        if (n && !memmem(line, n, "--as-child", 10) && memmem(line, n, word, strlen(word) + 1))
            found = pid;
    }
    closedir(proc);
    return found;
}

/* The round of the newest whole checkpoint; -1 without any. */
static long long newest_checkpoint(void)
{
    char path[128];
    long long newest = -1, clock;
    snprintf(path, sizeof path, "%s/ckpt", cluster.directory);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (sscanf(entry->d_name, "MANIFEST-%lld.json", &clock) == 1 && clock > newest)
            newest = clock;
    if (dir)
        closedir(dir);
    return newest;
}

static void await_checkpoint(long long clock)
{
    const uint64_t end = cluster_now_ms() + WAIT_MS;
    while (newest_checkpoint() < clock) {
        bool over = cluster_wait(&job, 0) >= 0;
        if (over || cluster_now_ms() > end)
            print_job();
        cr_assert(!over, "the job ended with %d before the checkpoint of round %lld", job.code, clock);
        cr_assert_leq(cluster_now_ms(), end, "no checkpoint of round %lld in %d ms", clock, WAIT_MS);
        cluster_nap();
    }
}

static void stop_job(void)
{
    kill(job.pid, SIGTERM);
    expect_code(75);
}

/* ---- kills
 * ------------------------------------------------------------------------------------------------------- */

typedef struct kills {
    unsigned servers, workers;
    struct {
        unsigned server;
        double at_ms; /* Unix time */
    } server[MAX_KILLS];
    double back_ms[MAX_KILLS]; /* from a server's death to the next closed round */
    unsigned n_back;
} kills_t;

static double unix_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* The time of a log line, "ts=2026-01-31T12:00:00.123456Z ..."; 0 when it has none. */
static double line_ms(const char *line)
{
    struct tm tm = { 0 };
    double seconds;
    if (sscanf(line, "ts=%d-%d-%dT%d:%d:%lf", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min,
               &seconds) != 6)
        return 0;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    return (double)timegm(&tm) * 1e3 + seconds * 1e3;
}

/* A server's log, appended by each of its lives: after each kill, the first line of a new life, and after
 * that the first push that it applied. */
static void measure_returns(kills_t *kills, unsigned first, unsigned server)
{
    char file[32];
    snprintf(file, sizeof file, "run/logs/server-%u.log", server);
    char *log = cluster_file(&cluster, file);
    cr_assert_not_null(log);
    unsigned k = first;
    bool lives = false;
    for (char *rest = log, *line; (line = strsep(&rest, "\n"));) {
        while (k < kills->servers && kills->server[k].server != server)
            k++;
        if (k == kills->servers)
            break;
        double ms = line_ms(line);
        if (ms > kills->server[k].at_ms && strstr(line, "id=server.start "))
            lives = true;
        if (!lives || !strstr(line, "id=push.applied "))
            continue;
        kills->back_ms[kills->n_back++] = ms - kills->server[k].at_ms;
        for (lives = false; k < kills->servers && kills->server[k].at_ms < ms;)
            k++; /* one that came before it was back is part of the same outage */
    }
    free(log);
}

/* Kill one child; false when it is not there just now. */
static bool kill_one(kills_t *kills, bool server, unsigned which)
{
    char word[32];
    snprintf(word, sizeof word, server ? "--server-index=%u" : "--worker-id=%u", server ? which : which + 1);
    pid_t pid = find_child(word);
    if (!pid || kill(pid, SIGKILL))
        return false;
    if (server) {
        kills->server[kills->servers].server = which;
        kills->server[kills->servers++].at_ms = unix_ms();
    } else {
        kills->workers++;
    }
    return true;
}

/* Rounds are closed again, or the job is over. */
static void await_later_checkpoint(long long before)
{
    const uint64_t end = cluster_now_ms() + WAIT_MS;
    for (; newest_checkpoint() <= before && cluster_wait(&job, 0) < 0; cluster_nap())
        if (cluster_now_ms() > end) {
            print_job();
            cr_assert_fail("no round was closed in %d ms", WAIT_MS);
        }
}

/* One job of `steps` rounds with so many kills more, at random moments to its very end; one by one: the next
 * one when the job has gone on. */
static void run_and_kill(kills_t *kills, unsigned servers, unsigned workers, bool one_by_one,
                         uint64_t *chance, uint64_t steps)
{
    const unsigned first = kills->servers;
    start_job("--optimizer=" ADAM
              " --stop-steps=%llu --checkpoint-every=50ms --restarts=1000 --log-level=debug",
              (unsigned long long)steps);
    await_checkpoint(0);
    while (servers + workers) {
        usleep((useconds_t)(psd_splitmix64(chance) % 400000));
        if (cluster_wait(&job, 0) >= 0)
            break;
        const bool server = psd_splitmix64(chance) % (servers + workers) < servers;
        const long long before = newest_checkpoint();
        if (!kill_one(kills, server, (unsigned)(psd_splitmix64(chance) % 2)))
            continue;
        *(server ? &servers : &workers) -= 1;
        if (one_by_one)
            await_later_checkpoint(before);
    }
    expect_code(0);
    expect_undisturbed_weights(ADAM, steps);
    for (unsigned s = 0; s < 2; s++)
        measure_returns(kills, first, s);
    teardown(), setup();
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_returns(kills_t *kills, const char *title)
{
    const unsigned n = kills->n_back;
    qsort(kills->back_ms, n, sizeof *kills->back_ms, compare);
    fprintf(stderr, "%s: %u kills of servers, %u of workers", title, kills->servers, kills->workers);
    if (n)
        fprintf(stderr,
                "; from a server's death to the next round: median %.0f ms, 99th percentile %.0f ms, worst "
                "%.0f ms of %u",
                kills->back_ms[(n - 1) / 2], kills->back_ms[(unsigned)ceil(0.99 * n) - 1],
                kills->back_ms[n - 1], n);
    fputc('\n', stderr);
}

/* Servers alone, so that their return is measured without the lease of a worker that is lost too; then both.
 */
Test(resume, whatever_is_killed_the_weights_are_those_of_an_undisturbed_run)
{
    enum { STEPS = 4000, CAMPAIGN_MS = 420000 };
    static kills_t alone, mixed;
    const bool campaign = cluster_campaign();
    const unsigned each = campaign ? 200 : 3, at_once = campaign ? 10 : 2;
    const uint64_t seed = cluster_seed((uint64_t)getpid()), begin = cluster_now_ms();
    uint64_t chance = seed;
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    while ((alone.servers + mixed.servers < each || mixed.workers < each) &&
           (!campaign || cluster_now_ms() < begin + CAMPAIGN_MS)) {
        run_and_kill(&alone, at_once, 0, true, &chance, STEPS);
        run_and_kill(&mixed, campaign ? at_once : 1, campaign ? at_once : 3, false, &chance, STEPS);
    }
    print_returns(&alone, "one by one");
    print_returns(&mixed, "all together");
    cr_assert_gt(alone.n_back, 0, "no server came back");
    cr_expect(campaign || (alone.servers + mixed.servers >= each && mixed.workers >= each));
}

/* Short jobs and one kill each, so that many hit the last round, the last checkpoint, and the good-byes. */
Test(resume, a_kill_in_the_last_moments_of_a_job_changes_nothing)
{
    enum { STEPS = 300 };
    static kills_t kills;
    const unsigned jobs = 50;
    if (!cluster_campaign())
        cr_skip_test("only in a campaign (PSD_CAMPAIGN=1): it may wait out two timeouts of a minute per job");
    const uint64_t seed = cluster_seed((uint64_t)getpid());
    uint64_t chance = seed;
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    for (unsigned i = 0; i < jobs; i++) {
        kills.servers = 0;
        start_job("--optimizer=" ADAM " --stop-steps=%d --checkpoint-every=100ms", STEPS);
        await_checkpoint(1);
        const bool server = psd_splitmix64(&chance) % 2;
        const unsigned which = (unsigned)(psd_splitmix64(&chance) % 2);
        usleep((useconds_t)(psd_splitmix64(&chance) % 250000));
        const double at_ms = unix_ms();
        const bool killed = kill_one(&kills, server, which);
        expect_code(0);
        expect_undisturbed_weights(ADAM, STEPS);
        fprintf(stderr, "job %u: %s %u %s, over %.0f ms later\n", i, server ? "server" : "worker", which,
                killed ? "killed" : "gone already", unix_ms() - at_ms);
        teardown(), setup();
    }
}

/* ---- stopped, and started again
 * ---------------------------------------------------------------------------------- */

Test(resume, a_job_that_was_stopped_goes_on_where_it_was)
{
    enum { STEPS = 1500 };
    start_job("--optimizer=" ADAM " --stop-steps=%d --checkpoint-every=0s --checkpoint-every-steps=200",
              STEPS);
    await_checkpoint(400);
    stop_job();
    long long clock = newest_checkpoint();
    cr_expect(clock % 200 && clock < STEPS,
              "the last checkpoint, of round %lld, was made when it was stopped", clock);
    start_job("--optimizer=" ADAM " --stop-steps=%d", STEPS);
    expect_code(0);
    expect_undisturbed_weights(ADAM, STEPS);
    start_job("--optimizer=" ADAM " --stop-steps=%d",
              STEPS); /* there is nothing left to do, and that is no mistake */
    expect_code(0);
    expect_undisturbed_weights(ADAM, STEPS);
}

static void stop_and_go_on_with(const char *rule)
{
    enum { STEPS = 900 };
    static const unsigned servers[] = { 2, 1, 3 };
    teardown(), setup();
    for (unsigned i = 0; i < 3; i++) {
        /* One that the job now begun must make: a signal before it is up would end it by itself. */
        const long long next = newest_checkpoint() + 100;
        start_job(
            "--optimizer=%s --stop-steps=%d --checkpoint-every=0s --checkpoint-every-steps=100 --servers=%u",
            rule, STEPS, servers[i]);
        if (i < 2) {
            await_checkpoint(next);
            stop_job();
        }
    }
    expect_code(0);
    expect_undisturbed_weights(rule, STEPS);
}

Test(resume, a_job_goes_on_with_the_same_bits_on_fewer_servers_and_on_more)
{
    stop_and_go_on_with("sgd(lr=0.05)");
    stop_and_go_on_with("adam(lr=0.002)");
    stop_and_go_on_with("lookahead(radam(lr=0.002),k=5)");
}

/* ---- refused
 * ----------------------------------------------------------------------------------------------------- */

static void make_checkpoint(void)
{
    start_job("--optimizer=" ADAM " --stop-steps=50");
    expect_code(0);
    cr_assert_eq(newest_checkpoint(), 50);
}

Test(resume, another_optimizer_is_refused_and_both_are_named)
{
    make_checkpoint();
    start_job("--optimizer=sgd(lr=0.01) --stop-steps=100");
    expect_code(78);
    expect_said(" with mode=bsp optimizer=adam(lr=0.002,");
    expect_said(" with mode=bsp optimizer=sgd(lr=0.01,");
    cr_expect_eq(newest_checkpoint(), 50, "what was there is still there");
}

Test(resume, another_model_is_refused_and_both_are_named)
{
    make_checkpoint();
    start_job("--optimizer=" ADAM " --stop-steps=100 --model-layers=784,12,10");
    expect_code(76);
    expect_said("registers another model: tensor 0: ours ");
    expect_said("[16, 784]");
    expect_said("[12, 784]");
}

/* Flip a byte in the middle of each file that holds weights. */
static void damage_checkpoints(void)
{
    char command[256];
    snprintf(command, sizeof command,
             "cd %s/ckpt && for f in */*; do printf '\\125\\252\\125' | dd of=$f bs=1 seek=$(($(stat -c %%s "
             "$f) / 2)) "
             "conv=notrunc status=none || exit 1; done",
             cluster.directory);
    cr_assert_eq(system(command), 0);
}

Test(resume, a_directory_with_damaged_checkpoints_only_is_refused_and_left_as_it_is)
{
    make_checkpoint();
    damage_checkpoints();
    start_job("--optimizer=" ADAM " --stop-steps=100");
    expect_code(65);
    expect_said("/ckpt");
    cr_expect_eq(newest_checkpoint(), 50);
}

/* ---- asked for
 * --------------------------------------------------------------------------------------------------- */

Test(resume, a_signal_to_server_0_makes_a_checkpoint)
{
    start_job("--optimizer=" ADAM " --stop-steps=1000000 --checkpoint-every=0s");
    await_checkpoint(0);
    const uint64_t end = cluster_now_ms() + WAIT_MS;
    usleep(300000); /* let some rounds be closed */
    cr_assert_eq(newest_checkpoint(), 0);
    pid_t first = find_child("--server-index=0");
    cr_assert_gt(first, 0);
    kill(first, SIGUSR1);
    await_checkpoint(1);
    cr_expect_leq(cluster_now_ms(), end);
    stop_job();
}
