/* The clock for durations: nanoseconds since some moment, never set back. */
#ifndef PM_BASE_CLOCK_H
#define PM_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t pm_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline double pm_seconds(void)
{
    return (double)pm_now_ns() * 1e-9;
}

#endif
