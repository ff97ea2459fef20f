/* psd_sim.c - run many simulated clusters: psd-sim [--seeds N] [--seed FIRST] [--threads 1]. Each seed picks its own servers,
 * workers, optimizer, mode and faults. The first failure is printed with its seed, and ends the run. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim_seed.h"

int main(int argc, char **argv)
{
    uint64_t first = 1, seeds = 1000, messages = 0, kills = 0, crashes = 0, saves = 0, steps = 0;
    bool threads = false;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds"))
            seeds = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seed"))
            first = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--threads"))
            threads = argv[i + 1][0] == '1';
        else
            return fprintf(stderr, "usage: psd-sim [--seeds N] [--seed FIRST] [--threads 0|1]\n"), 64;
    }
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        sim_result_t result;
        sim_config_t config = sim_config_of_seed(seed);
        config.threads = threads;
        sim_run_and_compare(&config, &result);
        messages += result.total_messages;
        kills += result.kills;
        crashes += result.crashes;
        saves += result.saves;
        steps += result.steps;
        if (!result.ok) {
            printf("seed %" PRIu64 ": %s\n  %s, %u servers, %u workers, %s, drop %.3f, duplicate %.3f, delay %u ms\n"
                   "  again: psd-sim --seed %" PRIu64 " --seeds 1\n",
                   seed, result.why, config.mode, config.servers, config.workers, config.rule, config.drop,
                   config.duplicate, config.delay_ms, seed);
            return 1;
        }
    }
    printf("%" PRIu64 " seeds: %" PRIu64 " messages, %" PRIu64 " workers and %" PRIu64 " servers killed, %" PRIu64
           " checkpoints, %" PRIu64 " steps, no promise broken\n",
           seeds, messages, kills, crashes, saves, steps);
    return 0;
}
