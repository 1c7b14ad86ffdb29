/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The motions: suspend, quit, reset, memory or bdev taken away, a ring stopped. All are the same:
 * stop fetching, let finish or cancel, act when nothing is in flight. vblk_dev_settle() looks which
 * of them may go on; it never runs inside a bdev's done(). */
#include "devices/virtio_blk/inside.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

enum { QUIT_DRAIN_MS = 1000, DETACH_DRAIN_MS = 2000 };

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
    const struct vblk_detach_wait *w;
    bool busy; /* something still uses it */
};

static bool inside(const struct vblk_detach_wait *w, const void *at, size_t bytes)
{
    const char *base = at;

    return base < w->host + w->size_bytes && w->host < base + bytes;
}

/* Only what the bdev moves is detached; a status byte alone is just not written. */
static void detach_one(struct vblk_req *req, void *arg)
{
    struct detaching *d = arg;
    bool data = false;

    for (int i = 0; req->bdev.iov && i < req->bdev.iovcnt && !data; i++)
        data = inside(d->w, req->bdev.iov[i].iov_base, req->bdev.iov[i].iov_len);
    req->last_away |= inside(d->w, req->io.last, 1);
    if (!data)
        return;
    if (req->detach == VBLK_ATTACHED)
        req->detach = bdev_detach(req->q->dev->disk.channel, &req->bdev) == BDEV_PENDING
                          ? VBLK_DETACHING
                          : VBLK_DETACHED;
    d->busy |= req->detach == VBLK_DETACHING;
}

static void settle_memory(struct vblk_dev *dev)
{
    list_for_each_safe(it, &dev->detaching)
    {
        struct vblk_detach_wait *w = list_entry(it, struct vblk_detach_wait, node);
        struct detaching d = {.w = w};
        void (*cb)(void *arg) = w->detached;
        void *arg = w->arg;

        for_each_pending(dev, detach_one, &d);
        if (d.busy)
            continue;
        list_remove(&w->node);
        free(w);
        cb(arg);
    }
}

void vblk_dev_memory_detach(struct vblk_dev *dev, const struct guest_region *region,
                            void (*detached)(void *arg), void *arg)
{
    struct vblk_detach_wait *w = malloc(sizeof(*w));

    if (!w) {
        vblk_dev_fail(dev, "out of memory"); /* and the region stays mapped */
        return;
    }
    *w = (struct vblk_detach_wait){
        .host = region->host, .size_bytes = region->size_bytes, .detached = detached, .arg = arg};
    list_append(&dev->detaching, &w->node);
    dev->settle = true;
    vblk_dev_settle(dev);
}

/* ---- suspend and resume ---- */

static void settle_suspend(struct vblk_dev *dev)
{
    controller_cb cb = dev->suspend_cb;

    if (!cb || dev->inflight)
        return;
    for (unsigned i = 0; i < dev->nqueues; i++)
        if (dev->queue[i] && dev->queue[i]->vq)
            vblk_queue_post(dev->queue[i]);
    timer_cancel(&dev->suspend_timer);
    dev->suspend_cb = NULL;
    cb(dev->suspend_arg, 0, NULL);
}

static void suspend_expired(struct timer *t)
{
    struct vblk_dev *dev = container_of(t, struct vblk_dev, suspend_timer);
    controller_cb cb = dev->suspend_cb;
    struct err err;

    if (!cb)
        return;
    err_set(&err, -ETIMEDOUT, "controller %s: %u requests are still in flight; it runs on",
            dev->name, dev->inflight);
    dev->suspend_cb = NULL;
    dev->hold &= ~(uint32_t)VBLK_HOLD_SUSPENDED;
    vblk_dev_kick(dev);
    cb(dev->suspend_arg, -ETIMEDOUT, &err);
}

void vblk_dev_suspend(struct vblk_dev *dev, uint64_t timeout_ms, controller_cb cb, void *arg)
{
    struct err err;

    if (dev->suspend_cb || dev->quit_cb) {
        err_set(&err, -EBUSY, "controller %s is being suspended or destroyed already", dev->name);
        cb(arg, -EBUSY, &err);
        return;
    }
    dev->hold |= VBLK_HOLD_SUSPENDED;
    dev->suspend_cb = cb;
    dev->suspend_arg = arg;
    if (timeout_ms)
        timer_arm(dev->reactor, &dev->suspend_timer, timeout_ms, suspend_expired);
    dev->settle = true;
    vblk_dev_settle(dev);
}

/* The first one since the lease: the host goes on with what it knows, or the device fails. */
static int first_resume(struct vblk_dev *dev, struct err *err)
{
    int rc;

    if (vblk_host_knows_us(dev) && !dev->owns_state) {
        rc = vblk_adopt_identity(dev, err);
        if (rc < 0) {
            vblk_dev_fail(dev, err->msg);
            return rc;
        }
    }
    vblk_store_identity(dev);
    dev->owns_state = dev->resumed = true;
    dev->hold &= ~(uint32_t)VBLK_HOLD_SUSPENDED;
    dev->remap_until_us = reactor_now_us(dev->reactor) + VBLK_REMAP_US;
    vblk_recovery_begin(dev);
    for (unsigned i = 0; i < dev->nqueues; i++)
        if (dev->queue[i] && dev->queue[i]->vq && dev->queue[i]->adopted)
            vblk_queue_restart(dev->queue[i]);
    vblk_recovery_end(dev);
    function_signal_all(dev->f); /* an interrupt may have been due */
    return 0;
}

int vblk_dev_resume(struct vblk_dev *dev, struct err *err)
{
    int rc = 0;

    if (!dev->f)
        return err_set(err, -EAGAIN, "controller %s waits for its function", dev->name);
    if (function_failed(dev->f))
        return err_set(err, -EIO, "controller %s has failed", dev->name);
    if (dev->suspend_cb || dev->quit_cb)
        return err_set(err, -EBUSY, "controller %s is being suspended or destroyed", dev->name);
    if (!dev->resumed)
        rc = first_resume(dev, err);
    if (rc < 0)
        return rc;
    dev->hold &= ~(uint32_t)VBLK_HOLD_SUSPENDED;
    vblk_restart_held(dev);
    dev->settle = true; /* a ring's stop may have waited */
    vblk_dev_kick(dev);
    return 0;
}

/* ---- quit ---- */

static void settle_quit(struct vblk_dev *dev)
{
    controller_cb cb = dev->quit_cb;

    if (!cb || dev->inflight || !list_empty(&dev->detaching))
        return;
    for (unsigned i = 0; i < dev->nqueues; i++) {
        struct vblk_queue *q = dev->queue[i];

        if (!q)
            continue;
        if (q->vq)
            vblk_queue_post(q);
        vblk_queue_close(q); /* what is held stays recorded */
        q->stopped = NULL;   /* snap_emu asks the next holder */
    }
    timer_cancel(&dev->quit_timer);
    timer_cancel(&dev->detach_timer);
    timer_cancel(&dev->hold_timer);
    vblk_disk_close(dev);
    dev->quit_cb = NULL;
    cb(dev->quit_arg, 0, NULL);
}

static void quit_expired(struct timer *t)
{
    struct vblk_dev *dev = container_of(t, struct vblk_dev, quit_timer);

    if (!dev->quit_cb)
        return;
    /* What is cancelled now stays recorded: the next service executes it again, behind the fence.
     */
    log_line(LOG_WARNING, "vblk", "ctrl %s: %u requests in flight are left to the next service",
             dev->name, dev->inflight);
    dev->keeping = true;
    cancel_all(dev);
}

static void end_early(struct vblk_dev *dev, controller_cb *cb, void *arg, struct timer *t)
{
    controller_cb waiting = *cb;
    struct err err;

    timer_cancel(t);
    *cb = NULL;
    if (!waiting)
        return;
    err_set(&err, -ECANCELED, "controller %s is being destroyed", dev->name);
    waiting(arg, -ECANCELED, &err);
}

void vblk_dev_quit(struct vblk_dev *dev, controller_cb cb, void *arg)
{
    dev->hold |= VBLK_HOLD_QUIT;
    end_early(dev, &dev->suspend_cb, dev->suspend_arg, &dev->suspend_timer);
    end_early(dev, &dev->detach_cb, dev->detach_arg, &dev->detach_timer);
    dev->quit_cb = cb;
    dev->quit_arg = arg;
    if (dev->inflight)
        timer_arm(dev->reactor, &dev->quit_timer, QUIT_DRAIN_MS, quit_expired);
    dev->settle = true;
    vblk_dev_settle(dev);
}

/* ---- reset ---- */

static void settle_reset(struct vblk_dev *dev)
{
    void (*done)(void *arg) = dev->reset_done;

    if (!done || dev->inflight)
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
    vblk_state_reset(dev->st);
    atomic_store(&dev->st->life.recovering, 0);
    if (dev->reset_defaults)
        vblk_config_default(dev);
    vblk_queues_remark(dev);
    dev->dropping = false;
    dev->hold &= ~(uint32_t)(VBLK_HOLD_RESET | VBLK_HOLD_FAILED);
    atomic_store(&dev->failed, false);
    atomic_store_explicit(&function_state(dev->f)->svc.status, 0, memory_order_release);
    atomic_store_explicit(&function_state(dev->f)->svc.device_epoch, dev->reset_epoch,
                          memory_order_release);
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

    dev->hold |= VBLK_HOLD_RESET;
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
    dev->settle = true;
    vblk_dev_settle(dev);
}

/* ---- bdev taken away ---- */

static void settle_detach(struct vblk_dev *dev)
{
    controller_cb cb = dev->detach_cb;

    if (!cb || dev->inflight)
        return;
    timer_cancel(&dev->detach_timer);
    dev->detach_cb = NULL;
    vblk_disk_close(dev);
    dev->hold &= ~(uint32_t)VBLK_HOLD_DETACH;
    vblk_config_put(dev, true);
    vblk_store_identity(dev);
    vblk_dev_kick(dev);
    cb(dev->detach_arg, 0, NULL);
}

static void detach_expired(struct timer *t)
{
    struct vblk_dev *dev = container_of(t, struct vblk_dev, detach_timer);
    controller_cb cb = dev->detach_cb;
    struct err err;

    if (!cb)
        return;
    err_set(&err, -ETIMEDOUT,
            "controller %s: %u requests are still in flight after %d ms; it keeps its bdev and runs on",
            dev->name, dev->inflight, DETACH_DRAIN_MS);
    dev->detach_cb = NULL;
    dev->hold &= ~(uint32_t)VBLK_HOLD_DETACH;
    vblk_dev_kick(dev);
    cb(dev->detach_arg, -ETIMEDOUT, &err);
}

void vblk_dev_detach(struct vblk_dev *dev, controller_cb cb, void *arg)
{
    struct err err;

    if (dev->detach_cb || dev->quit_cb || !dev->disk.channel) {
        err_set(&err, -EBUSY, "controller %s: its bdev is being detached, or it is being destroyed",
                dev->name);
        cb(arg, -EBUSY, &err);
        return;
    }
    dev->hold |= VBLK_HOLD_DETACH;
    dev->detach_cb = cb;
    dev->detach_arg = arg;
    if (dev->inflight)
        timer_arm(dev->reactor, &dev->detach_timer, DETACH_DRAIN_MS, detach_expired);
    dev->settle = true;
    vblk_dev_settle(dev);
}

/* ---- all ---- */

void vblk_dev_settle(struct vblk_dev *dev)
{
    if (dev->settling)
        return;
    dev->settling = true;
    while (dev->settle) {
        dev->settle = false;
        settle_memory(dev);
        settle_reset(dev);
        settle_detach(dev);
        for (unsigned i = 0; i < dev->nqueues; i++)
            if (dev->queue[i])
                vblk_queue_settle(dev->queue[i]);
        settle_suspend(dev);
    }
    dev->settling = false;
    settle_quit(dev); /* last: who waits for it may free dev */
}
