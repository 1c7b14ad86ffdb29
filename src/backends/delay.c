/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A bdev that takes its time. The wait is before the base: an accepted write has changed nothing
 * yet and will, later, whatever has become of who sent it; a read returns what is there at the end
 * of its wait. So this is a disk whose writes are late. (SPDK's waits behind the base.) */
#include "backends/backends.h"
#include "backends/stacked.h"

#include <errno.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { P99_OF = 100 };

struct delay_disk {
    struct stacked_disk stacked;
    _Atomic uint64_t latency_us[DELAY_KINDS];
    _Atomic uint64_t held; /* requests that wait now */
};

struct delay_channel {
    struct stacked_channel stacked; /* first */
    struct delay_disk *disk;
    struct list held[DELAY_KINDS]; /* each by the end of the wait */
    struct timer timer;            /* of the earliest */
    unsigned seed;
};

static void *delay_open_channel(void *dev, struct reactor *r, struct err *err)
{
    struct delay_disk *d = dev;
    struct delay_channel *ch = calloc(1, sizeof(*ch));

    if (!ch) {
        err_set(err, -ENOMEM, "no memory for a channel");
        return NULL;
    }
    ch->disk = d;
    for (unsigned i = 0; i < DELAY_KINDS; i++)
        list_init(&ch->held[i]);
    if (stacked_open(&ch->stacked, &d->stacked, r, err) == 0)
        return ch;
    free(ch);
    return NULL;
}

static void delay_close_channel(void *ctx)
{
    struct delay_channel *ch = ctx;

    timer_cancel(&ch->timer);
    stacked_close(&ch->stacked);
    free(ch);
}

static void wait_over(struct timer *t);

static void arm(struct delay_channel *ch, uint64_t due_us)
{
    uint64_t now = reactor_now_us(ch->stacked.reactor);

    if (!ch->timer.armed || due_us < ch->timer.due_us)
        timer_arm_us(ch->stacked.reactor, &ch->timer, due_us > now ? due_us - now : 0, wait_over);
}

static void wait_over(struct timer *t)
{
    struct delay_channel *ch = container_of(t, struct delay_channel, timer);
    uint64_t now = reactor_now_us(ch->stacked.reactor);

    for (unsigned i = 0; i < DELAY_KINDS; i++) {
        while (!list_empty(&ch->held[i])) {
            struct stacked_io *io = list_entry(ch->held[i].next, struct stacked_io, node);

            if (io->due_us > now) {
                arm(ch, io->due_us);
                break;
            }
            list_remove(&io->node);
            atomic_fetch_sub_explicit(&ch->disk->held, 1, memory_order_relaxed);
            stacked_go(io);
        }
    }
    bdev_flush_batch(ch->stacked.base);
}

static void hold(struct delay_channel *ch, struct list *held, struct stacked_io *io, uint64_t us)
{
    struct list *at = held->prev;

    io->due_us = reactor_now_us(ch->stacked.reactor) + us;
    /* It is the last, unless the latency was changed. */
    while (at != held && list_entry(at, struct stacked_io, node)->due_us > io->due_us)
        at = at->prev;
    list_prepend(at, &io->node);
    atomic_fetch_add_explicit(&ch->disk->held, 1, memory_order_relaxed);
    arm(ch, io->due_us);
}

static int delay_submit(void *ctx, struct bdev_req *req)
{
    struct delay_channel *ch = ctx;
    struct stacked_io *io = stacked_take(&ch->stacked, req);
    bool p99 = (unsigned)rand_r(&ch->seed) % P99_OF == 0;
    enum delay_kind kind = p99 ? DELAY_P99_WRITE : DELAY_AVG_WRITE;
    uint64_t us;

    if (!io)
        return -ENOMEM;
    if (req->op == BDEV_READ)
        kind = p99 ? DELAY_P99_READ : DELAY_AVG_READ;
    us = atomic_load_explicit(&ch->disk->latency_us[kind], memory_order_relaxed);
    if (us == 0 || req->op == BDEV_FLUSH) /* a flush is for writes that are over: none is held */
        return stacked_submit(io);
    /* A service that was killed while it copied may have left half a block on a memory disk: nobody
     * is to read that before the write has been done again. */
    if (unlikely(req->flags & BDEV_RESENT && req->op != BDEV_READ))
        return stacked_submit(io);
    hold(ch, &ch->held[kind], io, us);
    return BDEV_PENDING;
}

static int delay_detach(void *ctx, struct bdev_req *req)
{
    struct delay_channel *ch = ctx;
    bool held = stacked_io_of(req)->where == STACKED_HELD;
    int rc = stacked_detach(ctx, req);

    if (held && stacked_io_of(req)->where != STACKED_HELD)
        atomic_fetch_sub_explicit(&ch->disk->held, 1, memory_order_relaxed);
    return rc;
}

/* What is accepted is done: only a read that waits can be given up. */
static void delay_cancel(void *ctx, struct bdev_req *req)
{
    struct delay_channel *ch = ctx;
    struct stacked_io *io = stacked_io_of(req);

    if (io->where == STACKED_BASE) {
        bdev_cancel(ch->stacked.base, &io->inner);
    } else if (io->where == STACKED_HELD && req->op == BDEV_READ) {
        atomic_fetch_sub_explicit(&ch->disk->held, 1, memory_order_relaxed);
        stacked_end_later(io, -ECANCELED);
    }
}

static void delay_describe(void *dev, json_t *out)
{
    static const char *const names[] = {[DELAY_AVG_READ] = "avg_read_latency",
                                        [DELAY_P99_READ] = "p99_read_latency",
                                        [DELAY_AVG_WRITE] = "avg_write_latency",
                                        [DELAY_P99_WRITE] = "p99_write_latency"};
    const struct delay_disk *d = dev;
    json_t *o = json_object();

    json_object_set_new(o, "name", json_string(bdev_name(d->stacked.bd)));
    json_object_set_new(o, "base_bdev_name", json_string(bdev_name(d->stacked.base)));
    for (unsigned i = 0; i < DELAY_KINDS; i++)
        json_object_set_new(o, names[i],
                            json_integer((json_int_t)atomic_load_explicit(&d->latency_us[i],
                                                                          memory_order_relaxed)));
    json_object_set_new(
        o, "held", json_integer((json_int_t)atomic_load_explicit(&d->held, memory_order_relaxed)));
    json_object_set_new(out, "delay", o);
}

static void delay_destroy(void *dev)
{
    struct delay_disk *d = dev;

    stacked_release(&d->stacked);
    free(d);
}

static const struct bdev_ops delay_ops = {
    .kind = "delay",
    .product = "delay",
    .open_channel = delay_open_channel,
    .close_channel = delay_close_channel,
    .submit = delay_submit,
    .flush_batch = stacked_flush_batch,
    .detach = delay_detach,
    .cancel = delay_cancel,
    .describe = delay_describe,
    .destroy = delay_destroy,
};

int delay_bdev_create(struct bdev_set *set, const struct delay_opts *opts, struct bdev **ret,
                      struct err *err)
{
    const uint64_t *us = opts->latency_us;
    struct delay_disk *d;
    int rc;

    if (us[DELAY_P99_READ] < us[DELAY_AVG_READ] || us[DELAY_P99_WRITE] < us[DELAY_AVG_WRITE])
        return err_set(err, -EINVAL,
                       "bdev '%s': a p99 latency is less than the average one it belongs to",
                       opts->name);
    d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(err, -ENOMEM, "bdev '%s': no memory", opts->name);
    for (unsigned i = 0; i < DELAY_KINDS; i++)
        atomic_init(&d->latency_us[i], us[i]);
    rc = stacked_register(set, opts->name, &delay_ops, d, &d->stacked, opts->base, opts->uuid, err);
    if (rc) {
        free(d);
        return rc;
    }
    if (ret)
        *ret = d->stacked.bd;
    return 0;
}

int delay_bdev_update(struct bdev *bd, enum delay_kind kind, uint64_t us, struct err *err)
{
    struct delay_disk *d = bdev_dev(bd);

    if (bdev_ops_of(bd) != &delay_ops)
        return err_set(err, -EINVAL, "bdev '%s' is not a delay bdev", bdev_name(bd));
    atomic_store_explicit(&d->latency_us[kind], us, memory_order_relaxed);
    return 0;
}
