/*
 * The generator behind sampling and `synth`: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
 * State is one counter, so draw number i of seed s is pm_rng_at(s, i) on every machine and in any order.
 */
#ifndef PM_BASE_RNG_H
#define PM_BASE_RNG_H

#include <stdint.h>

static inline uint64_t pm_rng_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static inline uint64_t pm_rng_at(uint64_t seed, uint64_t i)
{
    return pm_rng_mix(seed + (i + 1) * 0x9E3779B97F4A7C15u);
}
static inline uint64_t pm_rng_next(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    return pm_rng_mix(*state);
}
/* Uniform in [0, 1), 53 bits. */
static inline double pm_rng_unit(uint64_t *state)
{
    return (double)(pm_rng_next(state) >> 11) * 0x1p-53;
}

#endif
