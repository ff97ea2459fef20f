/* psd_sim.c - run many simulated clusters: psd-sim, see --help. Each seed picks its own servers, workers, optimizer, mode and
 * faults. The first failure is printed with its seed, and ends the run. --without, with the name of a fault in tests/sim/sim.h,
 * narrows a failure down. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uv.h>

#include "common/config/usage.h"
#include "tests/sim/sim.h"

typedef struct totals {
    uint64_t messages, steps, saves, restores, fallbacks, folded, asked_again, joined, ahead, ahead_in_vain, readings, quarantined,
        done[SIM_N_FAULTS];
} totals_t;

static void add(totals_t *self, const sim_result_t *result)
{
    self->messages += result->total_messages;
    self->steps += result->steps;
    self->saves += result->saves;
    self->restores += result->restores;
    self->fallbacks += result->fallbacks;
    self->folded += result->folded;
    self->joined += result->joined;
    self->asked_again += result->asked_again;
    self->ahead += result->ahead;
    self->ahead_in_vain += result->ahead_in_vain;
    self->readings += result->readings;
    self->quarantined += result->quarantined;
    for (int f = 0; f < SIM_N_FAULTS; f++)
        self->done[f] += result->done[f];
}

static void tell(const totals_t *self, uint64_t seeds)
{
    printf("%" PRIu64 " seeds: %" PRIu64 " messages, %" PRIu64 " steps, %" PRIu64 " checkpoints, %" PRIu64
           " shards restored, %" PRIu64 " checkpoints found damaged, %" PRIu64 " pushes folded, %" PRIu64
           " asked for again, %" PRIu64 " parts taken in together, %" PRIu64 " stepped ahead, %" PRIu64
           " of these in vain, %" PRIu64 " shards read by followers, %" PRIu64 " workers quarantined, no promise broken\n",
           seeds, self->messages, self->steps, self->saves, self->restores, self->fallbacks, self->folded, self->asked_again,
           self->joined, self->ahead, self->ahead_in_vain, self->readings, self->quarantined);
    for (int f = 0; f < SIM_N_FAULTS; f++)
        printf("%10" PRIu64 " %s\n", self->done[f], sim_fault_words((sim_fault_t)f));
}

/* A failed assert is a failure like any other: print its seed. */
static volatile uint64_t seed_now;
static const char *faults_now = "all";

static void on_abort(int number)
{
    char line[128];
    int n = snprintf(line, sizeof line,
                     "seed %" PRIu64 ": died of signal %d\n  again: psd-sim --seed %" PRIu64 " --seeds 1 --faults %s\n", seed_now,
                     number, seed_now, faults_now);
    _exit(write(STDOUT_FILENO, line, (size_t)n) == n ? 1 : 2);
}

static void tell_failure(uint64_t seed, const sim_config_t *config, const sim_result_t *result)
{
    printf("seed %" PRIu64 ": %s\n  %s, %u servers, %u workers, %s, gradients in %s, weights in %s, delay %u ms, %" PRIu64
           " simulated ms\n ",
           seed, result->why, config->mode, config->servers, config->workers, config->rule, config->push ? config->push : "f32",
           config->pull ? config->pull : "f32", config->delay_ms, result->ended_ms);
    for (int f = 0; f < SIM_N_FAULTS; f++)
        if (config->chance[f] > 0)
            printf(" %s=%" PRIu64, sim_fault_name((sim_fault_t)f), result->done[f]);
    printf("\n  again: psd-sim --seed %" PRIu64 " --seeds 1 --faults %s\n", seed, faults_now);
}

static int fault_named(const char *name)
{
    for (int f = 0; f < SIM_N_FAULTS; f++)
        if (!strcmp(name, sim_fault_name((sim_fault_t)f)))
            return f;
    return -1;
}

enum { SEEDS, SEED, FAULTS, WITHOUT, THREADS, WORKERS, SERVERS, ROUNDS };
static const psd_option_t flags[] = {
    [SEEDS] = { .key = "seeds", .type = PSD_OPTION_UINT64, .preset = "1000", .help = "number of clusters" },
    [SEED] = { .key = "seed", .type = PSD_OPTION_UINT64, .preset = "1", .help = "seed of the first one" },
    [FAULTS] = { .key = "faults",
                 .type = PSD_OPTION_STRING,
                 .preset = "all",
                 .range = "few|all",
                 .argument = "few|all",
                 .help = "which are done" },
    [WITHOUT] = { .key = "without",
                  .type = PSD_OPTION_TEXTS,
                  .argument = "FAULT",
                  .help = "leave this fault out; may be given several times" },
    [THREADS] = { .key = "threads",
                  .type = PSD_OPTION_INT,
                  .preset = "0",
                  .range = "0..1",
                  .help = "1: run work on separate threads" },
    [WORKERS] = { .key = "workers",
                  .type = PSD_OPTION_INT,
                  .preset = "0",
                  .range = "0..1024",
                  .help = "one cluster with this many workers, of which 1 % are late and 1 % are killed in each round; 0: chosen "
                          "by each seed" },
    [SERVERS] = { .key = "servers",
                  .type = PSD_OPTION_INT,
                  .preset = "64",
                  .range = "1..64",
                  .help = "with --workers: its servers" },
    [ROUNDS] = { .key = "rounds",
                 .type = PSD_OPTION_INT,
                 .preset = "10",
                 .range = "1..1000",
                 .help = "with --workers: its rounds" },
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "psd-sim",
                                   .words = "",
                                   .does = "run simulated clusters, and check that each promise holds",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "psd-sim --seed=7 --seeds=1 --faults=few\n" };

/* False, after a message, when a name is not a fault. */
static bool leave_out(const psd_option_value_t *names, bool without[SIM_N_FAULTS])
{
    for (size_t i = 0; i < names->n_list; i++) {
        const int f = fault_named(names->item[i]);
        if (f < 0)
            return fprintf(stderr, "psd-sim: --without takes a fault of tests/sim/sim.h, not %s\n", names->item[i]), false;
        without[f] = true;
    }
    return true;
}

static int run_scale(uint32_t workers, uint32_t servers, uint32_t rounds)
{
    const sim_config_t config = sim_config_of_scale(workers, servers, rounds);
    sim_result_t result;
    const uint64_t began_ns = uv_hrtime();
    sim_run(&config, &result);
    const double took_s = (double)(uv_hrtime() - began_ns) / 1e9;
    if (!result.ok) {
        printf("%s\n", result.why);
        return 1;
    }
    printf("%" PRIu32 " workers, %" PRIu32 " servers: %" PRIu64 " steps, %" PRIu64 " workers late, %" PRIu64 " killed, %" PRIu64
           " messages, %" PRIu64
           " of them the leader's (%.1f per round and process, %.1f ms of its time a round), %.1f simulated s in %.1f s\n",
           workers, servers, result.steps, result.done[SIM_STRAGGLE], result.done[SIM_DIE_COMPUTING], result.total_messages,
           result.leader_messages, (double)result.leader_messages / (double)result.steps / (workers + servers),
           (double)result.leader_ns / 1e6 / (double)result.steps, (double)result.ended_ms / 1e3, took_s);
    return 0;
}

int main(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    const uint64_t first = given->value[SEED].u, seeds = given->value[SEEDS].u;
    bool without[SIM_N_FAULTS] = { false };
    totals_t totals = { 0 };
    faults_now = given->value[FAULTS].text;
    if (!leave_out(&given->value[WITHOUT], without))
        return 64;
    if (given->value[WORKERS].i)
        return run_scale((uint32_t)given->value[WORKERS].i, (uint32_t)given->value[SERVERS].i, (uint32_t)given->value[ROUNDS].i);
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        sim_result_t result;
        sim_config_t config = sim_config_of_seed(seed_now = seed);
        if (!strcmp(faults_now, "all"))
            sim_add_faults(&config);
        for (int f = 0; f < SIM_N_FAULTS; f++)
            config.chance[f] = without[f] ? 0 : config.chance[f];
        config.threads = given->value[THREADS].i;
        sim_run_and_compare(&config, &result);
        add(&totals, &result);
        if (!result.ok) {
            tell_failure(seed, &config, &result);
            return 1;
        }
    }
    tell(&totals, seeds);
    return 0;
}
