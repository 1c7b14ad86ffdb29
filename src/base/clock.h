/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/clock.h - the time since some moment that stays: CLOCK_MONOTONIC, the same
 * for all processes, never set back. Thread: any. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of one of the system's clocks. */
static inline uint64_t clock_read_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static inline uint64_t clock_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

static inline uint64_t clock_us(void)
{
    return clock_ns() / 1000;
}

static inline uint64_t clock_ms(void)
{
    return clock_ns() / 1000000;
}

/* As old as the kernel's last tick (at most 10 ms), and cheaper. */
static inline uint64_t clock_coarse_ms(void)
{
    return clock_read_ns(CLOCK_MONOTONIC_COARSE) / 1000000;
}

#endif
