/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Its part of the motions of controller/device.h; and its own: reset, a bdev taken away. */
#include "devices/virtio_blk/inside.h"

#include "base/crash_point.h"
#include "link/crash.h"

#include <errno.h>

enum { DETACH_DRAIN_MS = 2000 };

static void for_each_pending(struct vblk_dev *dev, void (*fn)(struct vblk_req *req, void *arg),
                             void *arg)
{
    for (unsigned i = 0; i < dev->nqueues; i++) {
        struct vblk_queue *q = dev->queue[i];
        uint32_t left = q && q->vq ? q->pending : 0;

        for (uint32_t slot = 0; left > 0 && slot < q->cfg.size; slot++) {
            if (q->reqs[slot].state != VBLK_REQ_PENDING)
                continue;
            left--;
            fn(&q->reqs[slot], arg);
        }
    }
}

static void cancel_one(struct vblk_req *req, void *arg)
{
    (void)arg;
    bdev_cancel(req->q->dev->disk.channel, &req->bdev);
}

static void cancel_all(struct vblk_dev *dev)
{
    if (dev->disk.channel)
        for_each_pending(dev, cancel_one, NULL);
}

/* ---- memory ---- */

struct detaching {
    const struct device_detach *w;
    bool busy; /* something still uses it */
};

/* Only what the bdev moves is detached; a status byte alone is just not written. */
static void detach_one(struct vblk_req *req, void *arg)
{
    struct detaching *d = arg;
    bool data = false;

    for (int i = 0; req->bdev.iov && i < req->bdev.iovcnt && !data; i++)
        data = device_detach_touches(d->w, req->bdev.iov[i].iov_base, req->bdev.iov[i].iov_len);
    req->last_away |= device_detach_touches(d->w, req->io.last, 1);
    if (!data)
        return;
    if (req->detach == VBLK_ATTACHED)
        req->detach = bdev_detach(req->q->dev->disk.channel, &req->bdev) == BDEV_PENDING
                          ? VBLK_DETACHING
                          : VBLK_DETACHED;
    d->busy |= req->detach == VBLK_DETACHING;
}

static bool detach(struct device *d, const struct device_detach *w)
{
    struct detaching s = {.w = w};

    for_each_pending(vblk_dev_of(d), detach_one, &s);
    return !s.busy;
}

/* ---- resume ---- */

/* The first one since the lease: the host goes on with what it knows, or the device fails. */
static int resume(struct device *d, struct err *err)
{
    struct vblk_dev *dev = vblk_dev_of(d);
    struct state_memory *before;
    int rc;

    if (dev->resumed)
        return 0;
    if (vblk_host_knows_us(dev) && !dev->owns_state) {
        rc = vblk_adopt_identity(dev, err);
        if (rc < 0)
            return rc;
    }
    vblk_store_identity(dev);
    dev->owns_state = dev->resumed = true;
    crash_point(vblk_adopt_resuming);
    dev->base.hold &= ~(uint32_t)DEVICE_HOLD_SUSPENDED;
    dev->remap_until_us = reactor_now_us(dev->base.reactor) + VBLK_REMAP_US;
    before = crash_suspect(function_state(dev->base.f));
    vblk_recovery_begin(dev);
    for (unsigned i = 0; i < dev->nqueues; i++)
        if (dev->queue[i] && dev->queue[i]->vq && dev->queue[i]->adopted)
            vblk_queue_restart(dev->queue[i]);
    crash_point(vblk_adopt_writes);
    for (unsigned i = 0; i < dev->nqueues; i++)
        if (dev->queue[i] && dev->queue[i]->reads)
            vblk_queue_restart_reads(dev->queue[i]);
    vblk_recovery_end(dev);
    crash_suspect(before);
    crash_point(vblk_adopt_done);
    function_signal_all(dev->base.f); /* an interrupt may have been due */
    return 0;
}

/* ---- reset ---- */

static void settle_reset(struct vblk_dev *dev)
{
    void (*done)(void *arg) = dev->reset_done;

    if (!done || dev->base.inflight)
        return;
    for (unsigned i = 0; i < dev->nqueues; i++) {
        struct vblk_queue *q = dev->queue[i];

        if (!q)
            continue;
        vblk_queue_close(q);
        if (dev->reset_forgets)
            vblk_queue_forget(q);
        q->cfg.start = 0;
        q->cfg.run = false;
        if (q->stopped) { /* nobody waits for this answer any more */
            void (*stopped)(void *arg, uint32_t base) = q->stopped;

            q->stopped = NULL;
            stopped(q->stopped_arg, 0);
        }
    }
    crash_point(vblk_reset_rings);
    vblk_state_reset(dev->st);
    atomic_store(&dev->st->life.recovering, 0);
    crash_point(vblk_reset_state);
    if (dev->reset_defaults)
        vblk_config_default(dev);
    vblk_queues_remark(dev);
    dev->dropping = false;
    dev->base.hold &= ~(uint32_t)(DEVICE_HOLD_RESET | DEVICE_HOLD_FAILED);
    atomic_store(&dev->base.failed, false);
    atomic_store_explicit(&function_state(dev->base.f)->svc.status, 0, memory_order_release);
    atomic_store_explicit(&function_state(dev->base.f)->svc.device_epoch, dev->reset_epoch,
                          memory_order_release);
    crash_point(vblk_reset_epoch);
    vblk_store_identity(dev); /* the next driver finds us as we are */
    dev->owns_state = true;
    dev->reset_done = NULL;
    done(dev->reset_arg);
}

void vblk_dev_reset(struct vblk_dev *dev, enum function_reset why, uint32_t epoch,
                    void (*done)(void *arg), void *arg)
{
    void (*older)(void *arg) = dev->reset_done;
    void *older_arg = dev->reset_arg;

    dev->base.hold |= DEVICE_HOLD_RESET;
    dev->dropping = true;
    dev->reset_epoch = epoch;
    /* A client that has gone may come back, with the in-flight area: what is in there is still to
     * be done. */
    dev->reset_forgets = why != FUNCTION_RESET_DISCONNECT;
    dev->reset_defaults = why != FUNCTION_RESET_DISCONNECT && why != FUNCTION_RESET_STATUS;
    dev->reset_done = done;
    dev->reset_arg = arg;
    if (older)
        older(older_arg);
    vblk_forget_held(dev, NULL);
    cancel_all(dev);
    dev->base.settle = true;
    device_settle(&dev->base);
}

/* ---- bdev taken away ---- */

static void settle_bdev(struct vblk_dev *dev)
{
    if (dev->base.quit.cb)
        motion_cancel(&dev->base, &dev->detach);
    if (!dev->detach.cb || dev->base.inflight)
        return;
    vblk_disk_close(dev);
    dev->base.hold &= ~(uint32_t)VBLK_HOLD_DETACH;
    vblk_config_put(dev, true);
    crash_point(vblk_detach_told);
    vblk_store_identity(dev);
    device_kick(&dev->base);
    motion_end(&dev->detach, 0, NULL);
}

static void detach_expired(struct timer *t)
{
    struct vblk_dev *dev = container_of(t, struct vblk_dev, detach.timer);
    struct err err;

    err_set(
        &err, -ETIMEDOUT,
        "controller %s: %u requests are still in flight after %d ms; it keeps its bdev and runs on",
        dev->base.name, dev->base.inflight, DETACH_DRAIN_MS);
    dev->base.hold &= ~(uint32_t)VBLK_HOLD_DETACH;
    device_kick(&dev->base);
    motion_end(&dev->detach, -ETIMEDOUT, &err);
}

void vblk_dev_detach(struct vblk_dev *dev, controller_cb cb, void *arg)
{
    struct err err;

    if (dev->detach.cb || dev->base.quit.cb || !dev->disk.channel) {
        err_set(&err, -EBUSY, "controller %s: its bdev is being detached, or it is being destroyed",
                dev->base.name);
        cb(arg, -EBUSY, &err);
        return;
    }
    dev->base.hold |= VBLK_HOLD_DETACH;
    motion_begin(&dev->base, &dev->detach, cb, arg, dev->base.inflight ? DETACH_DRAIN_MS : 0,
                 detach_expired);
}

/* ---- all ---- */

static void settle(struct device *d)
{
    struct vblk_dev *dev = vblk_dev_of(d);

    settle_reset(dev);
    settle_bdev(dev);
    for (unsigned i = 0; i < dev->nqueues; i++)
        if (dev->queue[i])
            vblk_queue_settle(dev->queue[i]);
}

static void go_on(struct device *d)
{
    vblk_restart_held(vblk_dev_of(d));
}

static void cancel(struct device *d)
{
    cancel_all(vblk_dev_of(d));
}

static void post(struct device *d)
{
    struct vblk_dev *dev = vblk_dev_of(d);

    for (unsigned i = 0; i < dev->nqueues; i++)
        if (dev->queue[i] && dev->queue[i]->vq)
            vblk_queue_post(dev->queue[i]);
}

static void close_device(struct device *d)
{
    struct vblk_dev *dev = vblk_dev_of(d);

    for (unsigned i = 0; i < dev->nqueues; i++) {
        if (!dev->queue[i])
            continue;
        vblk_queue_close(dev->queue[i]); /* what is held stays recorded */
        dev->queue[i]->stopped = NULL;   /* snap_emu asks the next holder */
    }
    timer_cancel(&dev->hold_timer);
    vblk_disk_close(dev);
}

static void broken(struct device *d)
{
    function_config_changed(d->f, VIRTIO_STATUS_NEEDS_RESET);
}

const struct device_ops vblk_device_ops = {
    .room = "vblk",
    .words = "requests",
    .resume = resume,
    .go_on = go_on,
    .settle = settle,
    .detach = detach,
    .cancel = cancel,
    .post = post,
    .close = close_device,
    .broken = broken,
};
