/* train_psd.c - steps of a whole job as a user starts it: `psdctl run` trains an MLP of 784-128-10 on glyphs, 64 rows a step in
 * all. A repetition is one job; its result is the time of a step, from the job's metrics: between the first line, when all
 * processes are warm, and the last one before the end. */
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/config/usage.h"
#include "tests/bench/repeat.h"

static char directory[] = "/tmp/psd-bench-XXXXXX";
static char job_path[64], run_path[64], metrics_path[64], said_path[64];

static int remove_one(const char *path, const struct stat *facts, int type, struct FTW *where)
{
    (void)facts, (void)type, (void)where;
    return remove(path);
}

static void clean_up(void) { nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static void write_job(uint64_t workers, uint64_t servers, uint64_t steps)
{
    if (!mkdtemp(directory))
        repeat_die("train_psd: cannot make a directory in /tmp");
    atexit(clean_up);
    snprintf(job_path, sizeof job_path, "%s/job.yaml", directory);
    snprintf(run_path, sizeof run_path, "%s/run", directory);
    snprintf(metrics_path, sizeof metrics_path, "%s/run/metrics.jsonl", directory);
    snprintf(said_path, sizeof said_path, "%s/said", directory);
    FILE *job = fopen(job_path, "w");
    if (!job)
        repeat_die("train_psd: cannot write %s", job_path);
    fprintf(job,
            "job: bench\nservers: %" PRIu64 "\nworkers: {min: %" PRIu64 "}\noptimizer: sgd(lr=0.1)\n"
            "model: {kind: mlp, layers: [784, 128, 10]}\ndata: {train: \"glyphs:6400\", batch: 64}\n"
            "stop: {steps: %" PRIu64 "}\neval: {every: 0}\nmetrics: {every: %" PRIu64 ", also: none}\n"
            "status: {listen: none}\nrun: {dir: %s}\nprogress: none\n",
            servers, workers, steps, steps / 6, run_path);
    fclose(job);
}

static _Noreturn void become_psdctl(void)
{
    char program[512];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 8);
    program[n > 0 ? n : 0] = '\0';
    snprintf(program + strlen(dirname(program)), 8, "/psdctl");
    const int said = open(said_path, O_WRONLY | O_CREAT | O_TRUNC, 0600), nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, STDIN_FILENO);
    dup2(said, STDOUT_FILENO);
    dup2(said, STDERR_FILENO);
    execl(program, "psdctl", "run", job_path, (char *)NULL);
    repeat_die("cannot start %s", program);
}

/* Seconds per step between the first and the last line with a step. */
static double step_s(void)
{
    double first_ts = 0, last_ts = 0;
    json_int_t first_step = 0, last_step = 0;
    char line[1024];
    FILE *metrics = fopen(metrics_path, "r");
    while (metrics && fgets(line, sizeof line, metrics)) {
        double ts = 0, loss = 0;
        json_int_t step = 0;
        json_t *row = json_loads(line, 0, NULL);
        if (row && !json_unpack(row, "{s:F, s:I, s:F}", "ts", &ts, "step", &step, "train/loss", &loss)) {
            if (!first_step) {
                first_ts = ts;
                first_step = step;
            }
            last_ts = ts;
            last_step = step;
        }
        json_decref(row);
    }
    if (metrics)
        fclose(metrics);
    if (last_step <= first_step)
        repeat_die("train_psd: %s does not have two steps", metrics_path);
    return (last_ts - first_ts) / (double)(last_step - first_step);
}

static void show_what_was_said(void)
{
    char line[512];
    FILE *said = fopen(said_path, "r");
    while (said && fgets(line, sizeof line, said))
        fputs(line, stderr);
    if (said)
        fclose(said);
}

static double train(void)
{
    int status = 0;
    unlink(metrics_path);
    const pid_t pid = repeat_fork();
    if (pid == 0)
        become_psdctl();
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status)) {
        show_what_was_said();
        repeat_die("train_psd: psdctl run has failed");
    }
    return step_s();
}

enum { WORKERS, SERVERS, STEPS };
static const psd_option_t flags[] = {
    [WORKERS] = { .key = "workers", .type = PSD_OPTION_UINT64, .preset = "2", .range = "1..64", .help = "processes" },
    [SERVERS] = { .key = "servers", .type = PSD_OPTION_UINT64, .preset = "1", .range = "1..64", .help = "processes" },
    [STEPS] = { .key = "steps", .type = PSD_OPTION_UINT64, .preset = "600", .range = "12..", .help = "in one repetition" },
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "train_psd",
                                   .words = "",
                                   .does = "train an MLP with psdctl run, whenever a line is read",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

int main(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    write_job(given->value[WORKERS].u, given->value[SERVERS].u, given->value[STEPS].u);
    train();
    repeat_ready();
    while (repeat_asked()) {
        const double seconds = train();
        repeat_answer(seconds, seconds);
    }
    return 0;
}
