/* rng.h - counter-like random numbers that are the same on every machine: splitmix64 (Steele, Lea, Flood 2014). psd draws every
 * random number of a job from a stream keyed by the seed and a purpose, never from the clock. */
#pragma once

#include <stdint.h>

/* The next number of the stream; `state` starts as the seed and is advanced. */
static inline uint64_t psd_splitmix64(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1): the upper 53 bits of the next number. */
static inline double psd_uniform(uint64_t *state) { return (double)(psd_splitmix64(state) >> 11) * 0x1p-53; }
