/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/run.h - runs loads on several disks in one thread: steps them in turn, polls for a while
 * when none has work, then sleeps on all their descriptors. All main phases begin together. */
#ifndef CLIENT_RUN_H
#define CLIENT_RUN_H

#include "client/load.h"

/* One disk's load and how it ended. */
struct run_load {
    struct load *load;
    int rc;         /* 0, or why it could not go on */
    struct err err; /* the same as a sentence */
};

struct run_opts {
    uint32_t spin_us;   /* polls this long before it sleeps */
    bool yield;         /* while it polls without success, others of its CPU may run */
    bool stop_together; /* a load that fails ends the main phases of all others */
    /* About every 20 ms. False: end the main phases. */
    bool (*tick)(void *arg);
    void *arg;
};

/* Returns when all loads are over: 0, or the first error among them. */
int run_loads(struct run_load *loads, unsigned n, const struct run_opts *opts);

#endif
