/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/tick.h"

#include "base/clock.h"

static uint64_t counter(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t v;

    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
    return v;
#else
    return clock_ns();
#endif
}

/* The closest of some readings: a thread that is preempted between the two clocks tries again. */
struct tick_moment tick_moment(void)
{
    struct tick_moment best = {0};
    uint64_t closest = UINT64_MAX;

    for (int i = 0; i < 4; i++) {
        uint64_t before = counter(), ns = clock_ns(), after = counter();

        if (after - before < closest) {
            closest = after - before;
            best = (struct tick_moment){ns, before + closest / 2};
        }
    }
    return best;
}

uint64_t tick_rate(const struct tick_moment *from, const struct tick_moment *to)
{
    unsigned __int128 ticks = to->ticks - from->ticks;
    uint64_t ns = to->ns - from->ns, rate;

    if (ns == 0)
        return 1000000000;
    rate = (uint64_t)(ticks * 1000000000 / ns);
    return rate ? rate : 1;
}

uint64_t tick_span(uint64_t ns, uint64_t rate)
{
    return (uint64_t)((unsigned __int128)ns * rate / 1000000000);
}
