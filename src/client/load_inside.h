/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/load_inside.h - a load from inside: load.c (phases, completions) and load_pick.c (what to
 * do next, and where). */
#ifndef CLIENT_LOAD_INSIDE_H
#define CLIENT_LOAD_INSIDE_H

#include "client/load.h"

struct slot {
    struct slot *next_free;
    struct disk_io disk; /* buf and iova are the slot's, the rest is the command's */
    struct verify_io io;
    uint64_t submitted_ns;
    unsigned queue;
    bool busy, reported;
};

struct load {
    struct load_opts o;
    struct disk_info info;
    const struct disk_ops *ops;
    struct verify *verify; /* without o.verify it only counts */
    struct load_result result;
    struct disk_stats stats_before;
    struct slot *slot;
    unsigned nslots;
    struct slot *free[DISK_MAX_QUEUES];
    uint64_t *floors;
    uint64_t rng, cursor, phase_ios, next_io_ns;
    uint64_t start_ns, last_completion_ns, last_check_ns, last_reset_ns;
    uint64_t poll_ns; /* of the poll that runs; 0: not looked at the clock yet */
    unsigned busy;
    bool stop, failed;
};

uint64_t load_random(struct load *l);
/* Chooses the command of a free slot. False: nothing can be written at this moment (all tries met a
 * write in flight). */
bool load_pick(struct load *l, struct slot *s);

#endif
