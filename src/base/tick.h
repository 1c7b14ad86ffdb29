/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/tick.h - the processor's time-stamp counter. Any thread. */
#ifndef BASE_TICK_H
#define BASE_TICK_H

#include <stdint.h>

/* A moment in both clocks: CLOCK_MONOTONIC in nanoseconds, and time-stamp ticks (nanoseconds again
 * where there is no counter that a program may read). */
struct tick_moment {
    uint64_t ns, ticks;
};
struct tick_moment tick_moment(void);

/* Ticks a second, from two moments; the farther apart they are, the better: 1 ms gives five digits.
 * Never 0. */
uint64_t tick_rate(const struct tick_moment *from, const struct tick_moment *to);
/* A span of time in ticks. */
uint64_t tick_span(uint64_t ns, uint64_t rate);

#endif
