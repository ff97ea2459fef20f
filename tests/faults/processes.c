/* processes.c - campaigns against the processes of a job under `psdctl run`, which restarts crashed processes: they are killed,
 * paused and stopped at random moments. In bsp with a fixed number of workers every disturbance is undone or made up for: at the
 * end each shard has applied each worker's contribution to each round once, and the weights are, bit for bit, those of a single
 * process that made the same rounds undisturbed. */
#include "tests/faults/chaos.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/job.h"
#include "tests/support/ledger.h"

enum {
    SERVERS = 2,
    WORKERS = 4,
    STEPS = 3000,         /* of a job; remaining kills go to the next one */
    JOB_FAULTS = 40,      /* at most, to one job */
    BETWEEN_MS = 200,     /* at most, from the return of one victim to the next fault */
    PAUSE_MS = 2500,      /* at most; the lease is 1 s */
    SAVE_MS = 300,        /* how long to wait for a save in which to kill */
    RESUME_P99_MS = 2000, /* promised */
    STOP_MS = 5000        /* promised */
};

static job_t job;

/* ---- faults ---- */

/* Deaths of servers in the present job, in order. */
static struct death {
    unsigned server;
    double at_ms; /* Unix time */
} death[JOB_FAULTS];
static unsigned n_deaths;

static void note_death(job_role_t role)
{
    if (role.server)
        death[n_deaths++] = (struct death){ role.index, ledger_now_ms() };
}

static bool hit(job_role_t role, int number)
{
    const pid_t pid = job_child(&job, role);
    return pid && kill(pid, number) == 0;
}

static bool do_kill(chaos_t *self, job_role_t role)
{
    (void)self;
    const bool done = hit(role, SIGKILL);
    if (done)
        note_death(role);
    return done;
}

static bool do_kill_in_save(chaos_t *self, job_role_t role)
{
    const uint64_t end = cluster_now_ms() + SAVE_MS;
    while (job_begun_checkpoint(&job) <= job_checkpoint(&job) && cluster_now_ms() < end)
        ;
    return do_kill(self, role);
}

static bool do_pause(chaos_t *self, job_role_t role)
{
    const pid_t pid = job_child(&job, role);
    if (!pid || kill(pid, SIGSTOP))
        return false;
    usleep((useconds_t)(1000 * (50 + chaos_below(self, PAUSE_MS))));
    kill(pid, SIGCONT);
    return true;
}

typedef bool fault_fn(chaos_t *self, job_role_t role);
typedef struct fault {
    fault_fn *inflict; /* false: the victim does not run at present */
    bool server;       /* of servers; else of workers */
} fault_t;

/* ---- from a server's death to the next round ---- */

/* Its log, to which each of its processes appends: after each death the first line of the new process, then the first push that it
 * applied. */
static void measure_returns(chaos_times_t *times, unsigned server)
{
    char *log = job_server_log(&job, server);
    unsigned k = 0;
    bool lives = false;
    for (char *rest = log, *line; (line = strsep(&rest, "\n"));) {
        while (k < n_deaths && death[k].server != server)
            k++;
        if (k == n_deaths)
            break;
        const double ms = ledger_line_ms(line);
        if (ms > death[k].at_ms && strstr(line, "id=server.start "))
            lives = true;
        if (!lives || !strstr(line, "id=push.applied "))
            continue;
        chaos_add(times, ms - death[k].at_ms);
        for (lives = false; k < n_deaths && death[k].at_ms < ms;)
            k++; /* one that came before it was back is part of the same outage */
    }
    free(log);
}

/* ---- campaigns ---- */

/* Run one job with some of the faults; returns their number. Each fault waits until the job has continued after the one before. */
static unsigned disturb_job(chaos_t *self, const fault_t *faults, unsigned n_faults, unsigned most, bool one_by_one,
                            chaos_times_t *times)
{
    unsigned done = 0;
    n_deaths = 0;
    job_open(&job, SERVERS, WORKERS);
    job_start(&job, "--stop-steps=%d --checkpoint-every=50ms --restarts=100000 --log-level=debug", STEPS);
    bool on = job_await_checkpoint_or_end(&job, 1);
    while (on && done < most && done < JOB_FAULTS) {
        usleep((useconds_t)(1000 * chaos_below(self, BETWEEN_MS)));
        const fault_t *fault = &faults[chaos_below(self, n_faults)];
        const job_role_t role = { fault->server, (unsigned)chaos_below(self, fault->server ? SERVERS : WORKERS) };
        const long long before = job_checkpoint(&job);
        if (fault->inflict(self, role))
            done++;
        on = one_by_one ? job_await_checkpoint_or_end(&job, before + 1) : cluster_wait(&job.process, 0) < 0;
    }
    job_expect_code(&job, 0);
    job_expect_weights(&job, JOB_RULE, STEPS);
    job_expect_ledger(&job, STEPS);
    for (unsigned s = 0; times && s < SERVERS; s++)
        measure_returns(times, s);
    job_close(&job);
    return done;
}

/* Run jobs until there were as many faults as requested. */
static void disturb(chaos_t *self, const fault_t *faults, unsigned n_faults, bool one_by_one, chaos_times_t *times)
{
    unsigned jobs = 0;
    for (unsigned done = 0; done < self->count; jobs++)
        done += disturb_job(self, faults, n_faults, self->count - done, one_by_one, times);
    chaos_say(self, "%u in %u jobs of %u workers and %u servers, SHA-256 equal, ledgers exact", self->count, jobs, WORKERS,
              SERVERS);
}

void chaos_kill_workers(chaos_t *self)
{
    static const fault_t faults[] = { { do_kill, false } };
    disturb(self, faults, 1, true, NULL);
}

void chaos_kill_servers(chaos_t *self)
{
    static const fault_t faults[] = { { do_kill, true } };
    static chaos_times_t times;
    disturb(self, faults, 1, true, &times);
    chaos_say_times(self, "from a server's death to the next round", &times);
    if (chaos_quantile(&times, 0.99) > RESUME_P99_MS * PSD_PATIENCE)
        cluster_give_up(&job.cluster, "%s: more than %d ms", self->text, RESUME_P99_MS);
}

void chaos_mix(chaos_t *self)
{
    static const fault_t faults[] = { { do_kill, true },         { do_kill, false },  { do_kill_in_save, true },
                                      { do_kill_in_save, true }, { do_pause, false }, { do_pause, true } };
    disturb(self, faults, sizeof faults / sizeof *faults, false, NULL);
}

void chaos_pause(chaos_t *self)
{
    static const fault_t faults[] = { { do_pause, false }, { do_pause, true } };
    disturb(self, faults, 2, true, NULL);
}

/* Short jobs with one kill each, so that many kills hit the last round, the last checkpoint, and the leaving. */
void chaos_last_moments(chaos_t *self)
{
    enum { SHORT = 300, WITHIN_MS = 400 };
    unsigned killed = 0;
    static chaos_times_t times;
    for (unsigned i = 0; i < self->count; i++) {
        n_deaths = 0;
        job_open(&job, SERVERS, 2);
        job_start(&job, "--stop-steps=%d --checkpoint-every=100ms", SHORT);
        job_await_checkpoint(&job, 1);
        const job_role_t role = { chaos_below(self, 2), (unsigned)chaos_below(self, 2) };
        usleep((useconds_t)(1000 * chaos_below(self, WITHIN_MS)));
        const double at_ms = ledger_now_ms();
        killed += do_kill(self, role);
        job_expect_code(&job, 0);
        chaos_add(&times, ledger_now_ms() - at_ms);
        job_expect_weights(&job, JOB_RULE, SHORT);
        job_close(&job);
    }
    chaos_say(self, "%u jobs, %u in time, SHA-256 equal", self->count, killed);
    chaos_say_times(self, "from the kill to the job's end", &times);
}

/* It catches SIGTERM: before that, the signal ends any program. */
static void await_handler(pid_t pid)
{
    char path[64], line[256];
    const uint64_t end = cluster_now_ms() + JOB_WAIT_MS;
    unsigned long long caught = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    while (!(caught & 1ull << (SIGTERM - 1))) {
        FILE *file = fopen(path, "r");
        while (file && fgets(line, sizeof line, file))
            sscanf(line, "SigCgt: %llx", &caught);
        if (file)
            fclose(file);
        if (cluster_now_ms() > end)
            job_give_up(&job, "psdctl run does not listen to SIGTERM");
    }
}

/* Stop and resume the job repeatedly, until its end. */
void chaos_terminate(chaos_t *self)
{
    enum { WITHIN_MS = 1200 };
    static chaos_times_t times;
    unsigned stops = 0, jobs = 0;
    for (bool open = false; stops < self->count || open;) {
        if (!open)
            job_open(&job, SERVERS, WORKERS);
        open = true;
        job_start(&job, "--stop-steps=%d --checkpoint-every=1s --log-level=debug", STEPS);
        await_handler(job.process.pid);
        if (stops < self->count)
            usleep((useconds_t)(1000 * chaos_below(self, WITHIN_MS)));
        const uint64_t asked = cluster_now_ms();
        if (stops < self->count && cluster_wait(&job.process, 0) < 0 && kill(job.process.pid, SIGTERM) == 0)
            stops++;
        const int code = cluster_wait(&job.process, JOB_DONE_MS);
        const double ms = (double)(cluster_now_ms() - asked);
        if (code == 75) {
            chaos_add(&times, ms);
            if (ms > STOP_MS * PSD_PATIENCE)
                job_give_up(&job, "it took %.0f ms to stop", ms);
            job_expect_whole_checkpoints(&job);
        } else {
            job_expect_code(&job, 0);
            job_expect_weights(&job, JOB_RULE, STEPS);
            job_expect_ledger(&job, STEPS);
            job_close(&job);
            open = false;
            jobs++;
        }
    }
    chaos_say(self, "%u in %u jobs, each last checkpoint whole, SHA-256 equal, ledgers exact", stops, jobs);
    chaos_say_times(self, "to the exit with 75", &times);
}

/* One allocation fails, in a server or a worker, at any point: the process may end with an error or by an assert, and is
 * restarted. */
void chaos_no_memory(chaos_t *self)
{
    enum { SHORT = 150, MOST = 6000 };
    unsigned hit = 0, restarted = 0;
    char once[96], library[512], at[16];
    if (PSD_PATIENCE > 1) {
        self->skipped = "a sanitizer has its own allocators";
        return;
    }
    for (unsigned i = 0; i < self->count; i++) {
        job_open(&job, SERVERS, 2);
        snprintf(once, sizeof once, "%s/once", job.cluster.directory);
        snprintf(library, sizeof library, "%s/libpsd-alloc-fault.so", job.cluster.bin);
        snprintf(at, sizeof at, "%llu", (unsigned long long)(1 + chaos_below(self, MOST)));
        fclose(fopen(once, "w"));
        setenv("ALLOC_FAULT_AT", at, 1);
        setenv("ALLOC_FAULT_IN", chaos_below(self, 2) ? "psd" : "psd-worker", 1);
        setenv("ALLOC_FAULT_ONCE", once, 1);
        setenv("LD_PRELOAD", library, 1);
        job_start(&job, "--stop-steps=%d --checkpoint-every=50ms --log-level=debug", SHORT);
        unsetenv("LD_PRELOAD");
        fprintf(stderr, "allocation %s of %s\n", at, getenv("ALLOC_FAULT_IN"));
        job_expect_code(&job, 0);
        job_expect_weights(&job, JOB_RULE, SHORT);
        job_expect_ledger(&job, SHORT);
        hit += access(once, F_OK) != 0;
        char *said = cluster_printed(&job.cluster, &job.process, "err");
        restarted += strstr(said, "run.restart ") != NULL;
        free(said);
        job_close(&job);
    }
    chaos_say(self,
              "%u jobs, in %u one allocation failed, in %u a process was restarted, SHA-256 equal, "
              "ledgers exact",
              self->count, hit, restarted);
}
