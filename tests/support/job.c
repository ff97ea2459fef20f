#include "tests/support/job.h"

#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/ledger.h"
#include "tests/support/reference.h"

#define DATA "glyphs:1200"
static const size_t layers[] = { 784, 16, 10 };

void job_open(job_t *self, unsigned n_servers, unsigned n_workers)
{
    static unsigned opened;
    *self = (job_t){ .n_servers = n_servers, .n_workers = n_workers };
    snprintf(self->name, sizeof self->name, "job-%d-%u", (int)getpid(), opened++);
    cluster_open(&self->cluster);
}

void job_close(job_t *self)
{
    if (self->process.pid)
        kill(self->process.pid, SIGKILL); /* its children end with it */
    cluster_wait(&self->process, JOB_WAIT_MS);
    cluster_close(&self->cluster);
}

_Noreturn void job_give_up(job_t *self, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char *err = cluster_printed(&self->cluster, &self->process, "err");
    const size_t n = strlen(err);
    fprintf(stderr, "---- psdctl run said:\n%s\n", n > 6000 ? err + n - 6000 : err);
    free(err);
    if (self->process.pid)
        kill(self->process.pid, SIGKILL);
    cluster_give_up(&self->cluster, "%s", text);
}

void job_start(job_t *self, const char *format, ...)
{
    char more[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(more, sizeof more, format, args);
    va_end(args);
    self->process = (cluster_process_t){ 0 };
    cluster_spawn(&self->cluster, &self->process, "job", "psdctl",
                  "run --data-train=" DATA " --data-test=glyphs:100 --data-batch=%d --model-kind=mlp "
                  "--job=%s --model-layers=784,16,10 --eval-every=0 --seed=%d --threads=1 --lease=1s "
                  "--status-listen=none --optimizer=" JOB_RULE " "
                  "--workers-min=%u --servers=%u --checkpoint-dir=%s/ckpt --run-dir=%s/run %s",
                  JOB_BATCH, self->name, JOB_SEED, self->n_workers, self->n_servers, self->cluster.directory,
                  self->cluster.directory, more);
}

/* Whether the process is a child of `parent` whose command line has `word`. */
static bool is_child(int pid, pid_t parent, const char *word)
{
    char path[64], line[4096], state = 'Z';
    int is = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    const int fields = file ? fscanf(file, "%*d %*s %c %d", &state, &is) : 0;
    if (file)
        fclose(file);
    if (fields != 2 || is != parent || state == 'Z')
        return false;
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    file = fopen(path, "r");
    const size_t n = file ? fread(line, 1, sizeof line, file) : 0;
    if (file)
        fclose(file);
    /* psdctl, before it has executed the program */
    return n && !memmem(line, n, "--as-child", 10) && memmem(line, n, word, strlen(word) + 1);
}

pid_t job_child(const job_t *self, job_role_t role)
{
    char word[32];
    pid_t found = 0;
    DIR *proc = opendir("/proc");
    snprintf(word, sizeof word, role.server ? "--server-index=%u" : "--worker-id=%u", role.index);
    for (struct dirent *entry; !found && (entry = readdir(proc));) {
        const int pid = atoi(entry->d_name);
        if (pid && is_child(pid, self->process.pid, word))
            found = pid;
    }
    closedir(proc);
    return found;
}

/* The largest number among the names below ckpt/ that begin with `prefix`, then have a number and `suffix`;
 * -1 without. */
static long long newest(const job_t *self, const char *prefix, const char *suffix)
{
    char path[128], *end;
    long long most = -1, clock;
    snprintf(path, sizeof path, "%s/ckpt", self->cluster.directory);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (!strncmp(entry->d_name, prefix, strlen(prefix))) {
            clock = strtoll(entry->d_name + strlen(prefix), &end, 10);
            if (end > entry->d_name + strlen(prefix) && !strcmp(end, suffix) && clock > most)
                most = clock;
        }
    if (dir)
        closedir(dir);
    return most;
}

long long job_checkpoint(const job_t *self) { return newest(self, "MANIFEST-", ".json"); }
long long job_begun_checkpoint(const job_t *self) { return newest(self, "", ""); }

/* `only`: the newest one. */
static void expect_whole(job_t *self, bool only)
{
    char clock[24] = "";
    cluster_process_t verify = { 0 };
    if (job_checkpoint(self) < 0)
        return; /* stopped before there was one */
    if (only)
        snprintf(clock, sizeof clock, " %lld", job_checkpoint(self));
    cluster_spawn(&self->cluster, &verify, "verify", "psdctl", "checkpoint verify %s/ckpt%s", self->cluster.directory, clock);
    if (cluster_wait(&verify, JOB_WAIT_MS)) {
        char *out = cluster_printed(&self->cluster, &verify, "out"), *err = cluster_printed(&self->cluster, &verify, "err");
        job_give_up(self, "psdctl checkpoint verify ended with %d: %s%s", verify.code, out, err);
    }
}

void job_expect_whole_checkpoints(job_t *self) { expect_whole(self, false); }
void job_expect_whole_checkpoint(job_t *self) { expect_whole(self, true); }

bool job_await_checkpoint_or_end(job_t *self, long long clock)
{
    const uint64_t end = cluster_now_ms() + JOB_WAIT_MS;
    for (; job_checkpoint(self) < clock; cluster_nap()) {
        if (cluster_wait(&self->process, 0) >= 0)
            return false;
        if (cluster_now_ms() > end)
            job_give_up(self, "no checkpoint of round %lld in %d ms", clock, JOB_WAIT_MS);
    }
    return true;
}

void job_await_checkpoint(job_t *self, long long clock)
{
    if (!job_await_checkpoint_or_end(self, clock))
        job_give_up(self, "the job ended with %d before the checkpoint of round %lld", self->process.code, clock);
}

void job_expect_code(job_t *self, int code)
{
    const int is = cluster_wait(&self->process, JOB_DONE_MS);
    if (is != code)
        job_give_up(self, "psdctl run ended with %d, not %d", is, code);
}

/* Hashes of the undisturbed run; the last ones are cached. */
static void reference_hashes(const job_t *job, const char *rule, uint64_t rounds, const char **fast, const char **slow)
{
    static char of[256], kept_fast[PSD_SHA256_TEXT], kept_slow[PSD_SHA256_TEXT];
    char asked[256];
    snprintf(asked, sizeof asked, "%s %llu %u %u", rule, (unsigned long long)rounds, job->n_workers, job->accumulate);
    if (strcmp(of, asked) && !reference_undisturbed(&(reference_config_t){ .data = DATA,
                                                                           .kind = "mlp",
                                                                           .layers = layers,
                                                                           .n_layers = sizeof layers / sizeof *layers,
                                                                           .batch = JOB_BATCH,
                                                                           .seed = JOB_SEED,
                                                                           .accumulate = job->accumulate,
                                                                           .rule = rule },
                                                    rounds, job->n_workers, kept_fast, kept_slow))
        exit(1);
    memcpy(of, asked, sizeof of);
    *fast = kept_fast;
    *slow = kept_slow;
}

void job_expect_weights(job_t *self, const char *rule, uint64_t rounds)
{
    const char *fast, *slow;
    reference_hashes(self, rule, rounds, &fast, &slow);
    for (unsigned w = 0; w < self->n_workers; w++) {
        char file[32] = "run/summary.json";
        if (w)
            snprintf(file, sizeof file, "run/summary-%u.json", w);
        char *text = cluster_file(&self->cluster, file);
        json_t *summary = json_loads(text ? text : "", 0, NULL);
        const char *sha = json_string_value(json_object_get(summary, "sha256"));
        const char *sha_slow = json_string_value(json_object_get(summary, "sha256_slow"));
        if (!sha || strcmp(sha, fast) || strcmp(sha_slow ? sha_slow : "", slow))
            job_give_up(self, "worker %u after %llu rounds: weights %s, slow %s; of the undisturbed run %s, %s", w,
                        (unsigned long long)rounds, sha ? sha : "none", sha_slow ? sha_slow : "none", fast, slow);
        json_decref(summary);
        free(text);
    }
}

char *job_server_log(const job_t *self, unsigned server)
{
    char file[32];
    snprintf(file, sizeof file, "run/logs/server-%u.log", server);
    char *log = cluster_file(&self->cluster, file);
    return log ? log : strdup("");
}

void job_expect_ledger(job_t *self, uint64_t steps)
{
    for (unsigned s = 0; s < self->n_servers; s++) {
        ledger_t ledger;
        psd_err_t err;
        char *log = job_server_log(self, s);
        int rc = ledger_read(&ledger, s, log, &err);
        if (rc == PSD_OK)
            rc = ledger_check(&ledger, steps, self->n_workers, &err);
        if (rc != PSD_OK)
            job_give_up(self, "ledger of shard %u: %s", s, err.text);
        ledger_clear(&ledger);
        free(log);
    }
}
