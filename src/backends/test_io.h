/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/test_io.h - for unit tests: requests run one at a time on a real reactor with a real ring. */
#ifndef BACKENDS_TEST_IO_H
#define BACKENDS_TEST_IO_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backends/backends.h"
#include "runtime/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEST_MANY = 40 };

struct test_io {
    struct reactor *reactor;
    struct ring *ring;
    struct bdev_set *set;
    struct bdev_channel *ch;
    struct mail mail;
    struct timer settle;
    struct bdev_req *reqs;
    unsigned n, left;
    int rcs[TEST_MANY];
    void (*submitted)(struct test_io *t); /* right after the submits; may be NULL */
};

static struct test_io *test_io_now;

static void test_io_settled(struct timer *timer)
{
    reactor_stop(test_io_now->reactor);
}

static void test_io_done(struct bdev_req *req, int rc)
{
    struct test_io *t = test_io_now;

    t->rcs[req - t->reqs] = rc;
    if (--t->left == 0)
        timer_arm(t->reactor, &t->settle, 0, test_io_settled);
}

static void test_io_start(struct mail *m)
{
    struct test_io *t = test_io_now;

    for (unsigned i = 0; i < t->n; i++) {
        int rc;

        t->reqs[i].done = test_io_done;
        rc = bdev_submit(t->ch, &t->reqs[i]);
        if (rc != BDEV_PENDING)
            test_io_done(&t->reqs[i], rc);
    }
    bdev_flush_batch(t->ch);
    if (t->submitted)
        t->submitted(t);
}

/* Runs n requests at once; the result of the first. */
static inline int test_io_many(struct test_io *t, struct bdev_req *reqs, unsigned n)
{
    t->reqs = reqs;
    t->n = t->left = n;
    t->mail.fn = test_io_start;
    test_io_now = t;
    reactor_post(t->reactor, &t->mail);
    reactor_run(t->reactor);
    return t->rcs[0];
}

static inline int test_io_flags(struct test_io *t, enum bdev_op op, uint64_t lba, uint32_t nblocks,
                                void *buf, unsigned flags)
{
    uint32_t block_bytes = bdev_get_info(bdev_channel_bdev(t->ch)).block_bytes;
    struct iovec iov = {buf, (size_t)nblocks * block_bytes};
    struct bdev_req req = {.op = op, .flags = flags, .lba = lba, .nblocks = nblocks, .iov = &iov,
                           .iovcnt = buf ? 1 : 0};

    return test_io_many(t, &req, 1);
}

static inline int test_io(struct test_io *t, enum bdev_op op, uint64_t lba, uint32_t nblocks, void *buf)
{
    return test_io_flags(t, op, lba, nblocks, buf, 0);
}

static inline void test_io_open(struct test_io *t, struct bdev *bd)
{
    struct err err = {0};

    t->ch = bdev_channel_get(bd, t->reactor, &err);
    if (!t->ch)
        fail_msg("%s", err.msg);
}

static inline struct test_io *test_io_create(void)
{
    struct test_io *t = calloc(1, sizeof(*t));
    struct err err = {0};

    t->reactor = reactor_create("test", &err);
    t->ring = ring_create(t->reactor, 64, -1, &err);
    if (!t->ring)
        fail_msg("%s", err.msg);
    t->set = bdev_set_create();
    return t;
}

static inline void test_io_destroy(struct test_io *t)
{
    bdev_channel_put(t->ch);
    bdev_set_destroy(t->set);
    ring_destroy(t->ring);
    reactor_destroy(t->reactor);
    free(t);
}

static inline void fill(char *buf, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        buf[i] = (char)((i * 31 + i / 509 + seed * 77) ^ 0x5a);
}

#endif
