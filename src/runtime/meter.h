/* SPDX-License-Identifier: BSD-3-Clause
 *
 * runtime/meter.h - where a reactor's time goes. It reads no clock that the reactor does not read
 * anyway, but for one when it wakes. */
#ifndef RUNTIME_METER_H
#define RUNTIME_METER_H

#include "runtime/reactor.h"

#include <sys/types.h>

/* Nanoseconds since the reactor began to run, up to this turn. A turn that found work (mail, a due
 * timer, a ready descriptor, something polled) is busy from its begin to its end; one that found
 * none is idle, and so is sleep. */
struct reactor_times {
    uint64_t busy_ns, idle_ns;
    pid_t tid;        /* of the reactor's thread */
    int cpu;          /* on which it runs now */
    uint64_t cpumask; /* on which it may run; bit per CPU, the first 64 */
    bool sleeps;      /* as soon as it finds nothing to do: it does not poll */
};
/* Thread: r's own. */
struct reactor_times reactor_get_times(const struct reactor *r);

/* Time-stamp ticks a second (base/tick.h), measured since r was made; from the first call on it
 * stays the same. Thread: r's own. */
uint64_t reactor_tick_rate(struct reactor *r);

#endif
