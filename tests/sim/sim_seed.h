/* sim_seed.h - the cluster and the faults that a seed stands for. */
#pragma once

#include "common/rng.h"
#include "tests/sim/sim.h"

static inline sim_config_t sim_config_of_seed(uint64_t seed)
{
    static const char *const rules[] = { "sgd(lr=0.1)", "momentum(lr=0.05)", "adam(lr=0.01)", "radam(lr=0.01)",
                                         "lookahead(radam(lr=0.01), k=3)", "lion(lr=0.01)", "adagrad", "nadam",
                                         "lookahead(momentum(lr=0.1), k=2, pullback=pullback)", "adadelta" };
    uint64_t s = seed * 0x9E3779B97F4A7C15u;
    sim_config_t config = {
        .seed = seed,
        .servers = 1 + (uint32_t)(psd_splitmix64(&s) % 4),
        .workers = 1 + (uint32_t)(psd_splitmix64(&s) % 5),
        .mode = psd_splitmix64(&s) % 4 ? "bsp" : "asp",
        .rule = rules[psd_splitmix64(&s) % (sizeof rules / sizeof *rules)],
        .rounds = 2 + (uint32_t)(psd_splitmix64(&s) % 10),
        .tensors = 1 + (uint32_t)(psd_splitmix64(&s) % 6),
        .delay_ms = (uint32_t)(psd_splitmix64(&s) % 60),
        .drop = psd_splitmix64(&s) % 2 ? 0 : 0.15 * psd_uniform(&s),
        .duplicate = psd_splitmix64(&s) % 2 ? 0 : 0.3 * psd_uniform(&s),
        .kill_worker = -1,
        .kill_chance = psd_splitmix64(&s) % 3 ? 0 : 0.01 * psd_uniform(&s),
        .nonfinite_clock = psd_splitmix64(&s) % 5 ? 0 : 2,
    };
    if (!(psd_splitmix64(&s) % 3) && config.mode[0] == 'b') {
        config.save_every = 1 + (uint32_t)(psd_splitmix64(&s) % 4);
        config.all_must_stay = true;
        config.crash_chance = 0.004 * psd_uniform(&s);
        config.disk_chance = psd_splitmix64(&s) % 3 ? 0 : 0.2 * psd_uniform(&s);
        return config;
    }
    if (config.workers > 1 && !(psd_splitmix64(&s) % 4))
        config.late_worker_ms = 1 + (uint32_t)(psd_splitmix64(&s) % 3000);
    return config;
}
