/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/test_io.h - for unit tests: requests run one at a time on a real reactor with a real
 * ring. */
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
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEST_MANY = 40 };

struct test_io {
    struct reactor *reactor;
    struct ring *ring;
    struct bdev_set *set;
    struct bdev *bd;
    struct bdev_channel *ch;
    struct err err;
    struct mail mail;
    sem_t answered;
    struct bdev_req *reqs;
    unsigned n, left;
    int rcs[TEST_MANY];
    /* Right after the submits, on the reactor; may be NULL. */
    void (*submitted)(struct test_io *t);
};

static struct test_io *test_io_now;

/* Runs fn on the reactor; it or what it starts posts answered. */
static inline void test_io_call(struct test_io *t, void (*fn)(struct mail *m))
{
    test_io_now = t;
    t->mail.fn = fn;
    reactor_post(t->reactor, &t->mail);
    while (sem_wait(&t->answered) < 0)
        ;
}

static void test_io_done(struct bdev_req *req, int rc)
{
    struct test_io *t = test_io_now;

    t->rcs[req - t->reqs] = rc;
    if (--t->left == 0)
        sem_post(&t->answered);
}

static void test_io_start(struct mail *m)
{
    struct test_io *t = test_io_now;

    t->left++; /* ours: no answer before the last submit */
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
    if (--t->left == 0)
        sem_post(&t->answered);
}

/* Runs n requests at once; the result of the first. */
static inline int test_io_many(struct test_io *t, struct bdev_req *reqs, unsigned n)
{
    t->reqs = reqs;
    t->n = t->left = n;
    test_io_call(t, test_io_start);
    return t->rcs[0];
}

static inline int test_io_flags(struct test_io *t, enum bdev_op op, uint64_t lba, uint32_t nblocks,
                                void *buf, unsigned flags)
{
    uint32_t block_bytes = bdev_get_info(bdev_channel_bdev(t->ch)).block_bytes;
    struct iovec iov = {buf, (size_t)nblocks * block_bytes};
    struct bdev_req req = {.op = op,
                           .flags = flags,
                           .lba = lba,
                           .nblocks = nblocks,
                           .iov = &iov,
                           .iovcnt = buf ? 1 : 0};

    return test_io_many(t, &req, 1);
}

static inline int test_io(struct test_io *t, enum bdev_op op, uint64_t lba, uint32_t nblocks,
                          void *buf)
{
    return test_io_flags(t, op, lba, nblocks, buf, 0);
}

static void test_io_get(struct mail *m)
{
    test_io_now->ch = bdev_channel_get(test_io_now->bd, test_io_now->reactor, &test_io_now->err);
    sem_post(&test_io_now->answered);
}

static void test_io_put(struct mail *m)
{
    bdev_channel_put(test_io_now->ch);
    test_io_now->ch = NULL;
    sem_post(&test_io_now->answered);
}

static void test_io_nothing(struct mail *m)
{
    sem_post(&test_io_now->answered);
}

static inline void test_io_open(struct test_io *t, struct bdev *bd)
{
    t->bd = bd;
    test_io_call(t, test_io_get);
    if (!t->ch)
        fail_msg("%s", t->err.msg);
}

static inline void test_io_close(struct test_io *t)
{
    test_io_call(t, test_io_put);
    test_io_call(t, test_io_nothing); /* closed in a later turn */
    test_io_call(t, test_io_nothing); /* so is, then, the one of a bdev it stands on */
}

static inline struct test_io *test_io_create(void)
{
    struct test_io *t = calloc(1, sizeof(*t));

    sem_init(&t->answered, 0, 0);
    t->reactor = reactor_create("test", &t->err);
    t->ring = ring_create(t->reactor, 64, NULL, 0, &t->err);
    if (!t->ring && t->err.code != -ENOSYS && t->err.code != -EPERM) /* only files need one */
        fail_msg("%s", t->err.msg);
    if (reactor_spawn(t->reactor, -1, &t->err))
        fail_msg("%s", t->err.msg);
    t->set = bdev_set_create();
    return t;
}

static inline void test_io_destroy(struct test_io *t)
{
    if (t->ch)
        test_io_close(t);
    reactor_stop(t->reactor);
    reactor_join(t->reactor);
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
