/* psd_sim.c - run many simulated clusters: psd-sim [--seeds N] [--seed FIRST] [--faults few|all] [--without
 * FAULT]
 * [--threads 0|1]. Each seed picks its own servers, workers, optimizer, mode and faults. The first failure is
 * printed with its seed, and ends the run. --without, by its name in tests/sim/sim.h, narrows a failure down. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/sim/sim.h"

typedef struct totals {
    uint64_t messages, steps, saves, restores, fallbacks, done[SIM_N_FAULTS];
} totals_t;

static void add(totals_t *self, const sim_result_t *result)
{
    self->messages += result->total_messages;
    self->steps += result->steps;
    self->saves += result->saves;
    self->restores += result->restores;
    self->fallbacks += result->fallbacks;
    for (int f = 0; f < SIM_N_FAULTS; f++)
        self->done[f] += result->done[f];
}

static void tell(const totals_t *self, uint64_t seeds)
{
    printf("%" PRIu64 " seeds: %" PRIu64 " messages, %" PRIu64 " steps, %" PRIu64 " checkpoints, %" PRIu64
           " shards restored, %" PRIu64 " checkpoints found damaged, no promise broken\n",
           seeds, self->messages, self->steps, self->saves, self->restores, self->fallbacks);
    for (int f = 0; f < SIM_N_FAULTS; f++)
        printf("%10" PRIu64 " %s\n", self->done[f], sim_fault_words((sim_fault_t)f));
}

/* An assert that fails is a finding like any other: say in which seed. */
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
    printf("seed %" PRIu64 ": %s\n  %s, %u servers, %u workers, %s, delay %u ms, %" PRIu64 " simulated ms\n ", seed, result->why,
           config->mode, config->servers, config->workers, config->rule, config->delay_ms, result->ended_ms);
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

int main(int argc, char **argv)
{
    uint64_t first = 1, seeds = 1000;
    bool threads = false, without[SIM_N_FAULTS] = { false };
    totals_t totals = { 0 };
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--seeds"))
            seeds = strtoull(value, NULL, 10);
        else if (!strcmp(argv[i], "--seed"))
            first = strtoull(value, NULL, 10);
        else if (!strcmp(argv[i], "--threads"))
            threads = value[0] == '1';
        else if (!strcmp(argv[i], "--faults") && (!strcmp(value, "few") || !strcmp(value, "all")))
            faults_now = value;
        else if (!strcmp(argv[i], "--without") && fault_named(value) >= 0)
            without[fault_named(value)] = true;
        else
            return fprintf(stderr, "usage: psd-sim [--seeds N] [--seed FIRST] [--faults few|all] [--without FAULT] "
                                   "[--threads 0|1]\n"),
                   64;
    }
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        sim_result_t result;
        sim_config_t config = sim_config_of_seed(seed_now = seed);
        if (!strcmp(faults_now, "all"))
            sim_add_faults(&config);
        for (int f = 0; f < SIM_N_FAULTS; f++)
            config.chance[f] = without[f] ? 0 : config.chance[f];
        config.threads = threads;
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
