/* SPDX-License-Identifier: BSD-3-Clause */
#include "runtime/meter.h"

#include "runtime/inside.h"

#include <sched.h>
#include <unistd.h>

static uint64_t own_cpumask(void)
{
    uint64_t mask = 0;
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 0;
    for (unsigned cpu = 0; cpu < 64; cpu++)
        if (CPU_ISSET(cpu, &set))
            mask |= 1ULL << cpu;
    return mask;
}

struct reactor_times reactor_get_times(const struct reactor *r)
{
    return (struct reactor_times){
        .busy_ns = r->busy_ns,
        .idle_ns = r->idle_ns,
        .tid = gettid(),
        .cpu = sched_getcpu(),
        .cpumask = own_cpumask(),
        .sleeps = r->configured_window_us == 0,
    };
}

uint64_t reactor_tick_rate(struct reactor *r)
{
    if (r->tick_rate == 0) {
        struct tick_moment now = tick_moment();

        r->tick_rate = tick_rate(&r->made, &now);
    }
    return r->tick_rate;
}
