/* SPDX-License-Identifier: BSD-3-Clause
 *
 * bdev/channel.h - inside of the room: what bdev.c and stats.c share. */
#ifndef BDEV_CHANNEL_H
#define BDEV_CHANNEL_H

#include "base/counter.h"
#include "bdev/bdev.h"

#include <pthread.h>
#include <stdatomic.h>

/* Written by one reactor, read by the control thread. */
struct bdev_counters {
    _Atomic uint64_t ops[BDEV_OPS], bytes[BDEV_OPS], errors[BDEV_OPS];
    _Atomic uint64_t bounce_bytes;
};

struct bdev_channel {
    struct bdev *bd;
    void *ctx;
    int (*submit)(void *ctx, struct bdev_req *req);
    uint32_t block_bytes;
    bool read_only, can_unmap, can_write_zeroes;
    bool closing; /* mail is under way to the reactor */
    unsigned refs, inflight;
    struct reactor *reactor;
    struct list node; /* bdev.channels */
    struct mail close_mail;
    _Alignas(CACHE_LINE) struct bdev_counters counters;
};

struct bdev {
    struct list node; /* bdev_set.devices */
    struct bdev_set *set;
    char *name;
    const struct bdev_ops *ops;
    void *dev;
    _Atomic uint64_t nblocks;
    _Atomic bool gone; /* unregistered: new requests get -ENODEV */

    /* Control thread. */
    struct list listeners;
    unsigned nclaims;
    char claimed_by[128];    /* the newest claim; empty when it is not known which are left */
    struct reactor *control; /* who unregistered it */
    void (*gone_done)(void *arg);
    void *gone_arg;
    struct mail gone_mail;

    /* Attach, detach and the control thread only; never while submitting. */
    pthread_mutex_t lock;
    struct list channels;
    struct bdev_info info;
    struct bdev_stats closed; /* counted by channels that are closed */
};

/* Adds what the channel has counted to sum. */
void bdev_counters_sum(const struct bdev_counters *counters, struct bdev_stats *sum);

#endif
