/* SPDX-License-Identifier: BSD-3-Clause
 *
 * runtime/inside.h - what the files of this room share. */
#ifndef RUNTIME_INSIDE_H
#define RUNTIME_INSIDE_H

#include "base/tick.h"
#include "runtime/reactor.h"

#include <pthread.h>
#include <stdatomic.h>

struct ring;

struct reactor {
    _Atomic(struct mail *) inbox; /* newest first */
    _Atomic uint32_t asleep;      /* mail must write wake_fd */
    _Atomic uint32_t *sleep_flag; /* the same for another process; never read by us */
    _Atomic uint32_t own_sleep_flag;
    atomic_bool stop;

    uint64_t now_us, last_work_us;
    uint64_t now_ns, busy_ns, idle_ns; /* meter.c: all time up to now_ns is one or the other */
    uint32_t window_us, configured_window_us;
    uint64_t crowd_checked_us, preempted;
    struct list pollers, timers; /* timers: earliest first */
    struct list *next_poller;
    struct epoll_event *events; /* of the turn that runs now */
    int nevents;

    struct ring *ring;
    int epoll_fd, wake_fd;
    bool no_pwait2; /* the kernel has said so */
    struct watch wake;
    pthread_t thread;
    bool spawned;
    struct tick_moment made;
    uint64_t tick_rate; /* 0: nobody has asked */
    char name[16];
};

unsigned timers_run(struct reactor *r);
int64_t timers_next_us(struct reactor *r); /* until the first one; -1: there is none */

#endif
