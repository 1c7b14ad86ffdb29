/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The device model: what link/ calls, and the motions (suspend, quit, reset, memory detach), which
 * are all the same: stop fetching, let finish or cancel, act when nothing is in flight.
 * nvme_dev_settle() looks which of them may go on; it never runs inside a bdev's done(), so that
 * queues and requests can be freed there. */
#include "devices/nvme/inside.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUIT_DRAIN_MS = 1000 };

static void settle_mailed(struct mail *m)
{
    struct nvme_dev *dev = container_of(m, struct nvme_dev, settle_mail);

    dev->settle_mailed = false;
    nvme_dev_settle(dev);
}

struct nvme_dev *nvme_dev_create(const struct nvme_dev_opts *opts, struct err *err)
{
    struct nvme_dev *dev = calloc(1, sizeof(*dev));

    if (!dev) {
        err_set(err, -ENOMEM, "no memory for controller %s", opts->name);
        return NULL;
    }
    snprintf(dev->name, sizeof(dev->name), "%s", opts->name);
    dev->ss = opts->subsystem;
    dev->reactor = opts->reactor;
    dev->num_queues = opts->num_queues;
    dev->mdts = opts->mdts;
    dev->max_bytes = (uint32_t)NVME_PAGE << opts->mdts;
    dev->fw_slots = opts->fw_slots;
    dev->write_zeroes = opts->write_zeroes;
    dev->dsm = opts->dsm;
    dev->hold = NVME_HOLD_DISABLED | NVME_HOLD_SUSPENDED;
    dev->settle_mail.fn = settle_mailed;
    list_init(&dev->detaching);
    return dev;
}

void nvme_dev_destroy(struct nvme_dev *dev)
{
    if (!dev)
        return;
    if (dev->f) {
        nvme_dev_close_queues(dev);
        nvme_iov_pool_free(dev);
    }
    if (dev->cntlid)
        nvme_subsystem_cntlid_put(dev->ss, dev->cntlid);
    free(dev->ns);
    free(dev->vectors);
    free(dev->pending_vectors);
    free(dev);
}

void nvme_dev_kick(struct nvme_dev *dev)
{
    if (!dev->f)
        return;
    if (unlikely(function_failed(dev->f) || dev->quit_cb) && !dev->settle_mailed) {
        /* A stopped function is not polled any more, but its motions must come to an end. */
        dev->settle_mailed = true;
        reactor_post(dev->reactor, &dev->settle_mail);
    }
    if (dev->kicked)
        return;
    dev->kicked = true;
    function_kick(dev->f);
}

void nvme_dev_fail(struct nvme_dev *dev, const char *why)
{
    dev->hold |= NVME_HOLD_FAILED;
    nvme_regs_fatal(dev);
    atomic_store(&dev->failed, true);
    function_fail(dev->f, "%s", why);
}

/* ---- the motions ---- */

static bool touches(const struct nvme_req *req, const struct nvme_detach_wait *w)
{
    for (int i = 0; req->io.iov && i < req->io.iovcnt; i++) {
        const char *base = req->io.iov[i].iov_base;

        if (base < w->host + w->size_bytes && w->host < base + req->io.iov[i].iov_len)
            return true;
    }
    return false;
}

/* Detaches what is in flight in the region; true when nothing uses it any more. */
static bool detached(struct nvme_dev *dev, const struct nvme_detach_wait *w)
{
    bool over = true;

    for (unsigned q = 1; q < NVME_QUEUES; q++) {
        struct nvme_sq *sq = dev->sq[q];

        for (uint32_t i = 0; sq && i < sq->used; i++) {
            struct nvme_req *req = &sq->reqs[i];

            if (req->state != NVME_REQ_PENDING || !req->in_bdev || req->detach == NVME_DETACHED ||
                !touches(req, w))
                continue;
            if (req->detach == NVME_ATTACHED)
                req->detach = bdev_detach(req->ns->channel, &req->io) == BDEV_PENDING
                                  ? NVME_DETACHING
                                  : NVME_DETACHED;
            over &= req->detach == NVME_DETACHED;
        }
    }
    return over;
}

static void settle_detaches(struct nvme_dev *dev)
{
    list_for_each_safe(it, &dev->detaching)
    {
        struct nvme_detach_wait *w = list_entry(it, struct nvme_detach_wait, node);
        void (*cb)(void *arg) = w->detached;
        void *arg = w->arg;

        if (!detached(dev, w))
            continue;
        list_remove(&w->node);
        free(w);
        cb(arg);
    }
}

static void settle_sqs(struct nvme_dev *dev)
{
    for (unsigned i = 1; i < NVME_QUEUES; i++)
        if (dev->sq[i] && dev->sq[i]->delete_req && dev->sq[i]->inflight == 0)
            nvme_admin_sq_drained(dev->sq[i]);
}

static bool drained(const struct nvme_dev *dev)
{
    if (dev->suspend_admin)
        return !dev->sq[0] || dev->sq[0]->inflight == 0;
    return dev->inflight == 0;
}

static void settle_suspend(struct nvme_dev *dev)
{
    nvme_dev_cb cb = dev->suspend_cb;

    if (!cb || !drained(dev))
        return;
    nvme_dev_post(dev);
    timer_cancel(&dev->suspend_timer);
    dev->suspend_cb = NULL;
    cb(dev->suspend_arg, 0, NULL);
}

static void settle_quit(struct nvme_dev *dev)
{
    nvme_dev_cb cb = dev->quit_cb;

    if (!cb || dev->inflight || !list_empty(&dev->detaching))
        return;
    if (dev->f)
        nvme_dev_post(dev);
    timer_cancel(&dev->quit_timer);
    timer_cancel(&dev->hold_timer);
    timer_cancel(&dev->irq_timer);
    timer_cancel(&dev->enable_timer);
    timer_cancel(&dev->leave_timer);
    dev->enable_waits = false;
    dev->shutdown_wanted = false;
    nvme_dev_ns_close_all(dev);
    dev->quit_cb = NULL;
    cb(dev->quit_arg, 0, NULL);
}

void nvme_dev_settle(struct nvme_dev *dev)
{
    if (dev->settling)
        return;
    dev->settling = true;
    while (dev->settle) {
        dev->settle = false;
        settle_sqs(dev);
        settle_detaches(dev);
        if (dev->f)
            nvme_regs_settle(dev);
        nvme_dev_ns_settle(dev);
        settle_suspend(dev);
    }
    dev->settling = false;
    settle_quit(dev); /* last: who waits for it may free dev */
}

static void suspend_expired(struct timer *t)
{
    struct nvme_dev *dev = container_of(t, struct nvme_dev, suspend_timer);
    nvme_dev_cb cb = dev->suspend_cb;
    struct err err;

    if (!cb)
        return;
    err_set(&err, -ETIMEDOUT, "controller %s: %u commands are still in flight; it runs on",
            dev->name, dev->inflight);
    dev->suspend_cb = NULL;
    dev->hold &= ~(uint32_t)(dev->suspend_admin ? NVME_HOLD_ADMIN : NVME_HOLD_SUSPENDED);
    nvme_dev_restart_held(dev);
    nvme_event_report(dev);
    nvme_dev_kick(dev);
    cb(dev->suspend_arg, -ETIMEDOUT, &err);
}

void nvme_dev_suspend(struct nvme_dev *dev, bool admin_only, uint64_t timeout_ms, nvme_dev_cb cb,
                      void *arg)
{
    struct err err;

    if (dev->suspend_cb || dev->quit_cb) {
        err_set(&err, -EBUSY, "controller %s is being suspended or destroyed already", dev->name);
        cb(arg, -EBUSY, &err);
        return;
    }
    dev->hold |= admin_only ? NVME_HOLD_ADMIN : NVME_HOLD_SUSPENDED;
    dev->suspend_admin = admin_only;
    dev->suspend_cb = cb;
    dev->suspend_arg = arg;
    if (timeout_ms)
        timer_arm(dev->reactor, &dev->suspend_timer, timeout_ms, suspend_expired);
    dev->settle = true;
    nvme_dev_settle(dev);
}

int nvme_dev_resume(struct nvme_dev *dev, struct err *err)
{
    int rc;

    if (!dev->f)
        return err_set(err, -EAGAIN, "controller %s waits for its function", dev->name);
    if (function_failed(dev->f))
        return err_set(err, -EIO, "controller %s has failed", dev->name);
    if (dev->suspend_cb || dev->quit_cb)
        return err_set(err, -EBUSY, "controller %s is being suspended or destroyed", dev->name);
    if (dev->adopted) {
        rc = nvme_adopt_identity(dev, err);
        if (rc == 0)
            rc = nvme_adopt_records(dev, err);
        if (rc < 0) {
            nvme_dev_fail(dev, err->msg);
            return rc;
        }
    }
    if (!dev->owns_state) {
        dev->owns_state = true;
        nvme_adopt_store_ns(dev);
    }
    dev->hold &= ~(uint32_t)(NVME_HOLD_SUSPENDED | NVME_HOLD_ADMIN);
    if (dev->adopted) {
        dev->adopted = false;
        nvme_adopt_restart(dev);
    }
    nvme_dev_restart_held(dev);
    nvme_event_report(dev);
    dev->settle = true; /* a shutdown may have waited */
    nvme_dev_kick(dev);
    return 0;
}

static void quit_expired(struct timer *t)
{
    struct nvme_dev *dev = container_of(t, struct nvme_dev, quit_timer);

    if (!dev->quit_cb)
        return;
    /* What is cancelled now stays recorded: the next service executes it again, behind the fence.
     */
    log_line(LOG_WARNING, "nvme", "ctrl %s: %u commands in flight are left to the next service",
             dev->name, dev->inflight);
    dev->keeping = true;
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (dev->sq[i])
            nvme_sq_cancel(dev->sq[i]);
    if (dev->shutdown_flushing)
        bdev_cancel(dev->shutdown_ns->channel, &dev->shutdown_io);
}

void nvme_dev_quit(struct nvme_dev *dev, nvme_dev_cb cb, void *arg)
{
    nvme_dev_cb suspended = dev->suspend_cb;
    struct err err;

    dev->hold |= NVME_HOLD_QUIT;
    timer_cancel(&dev->suspend_timer);
    dev->suspend_cb = NULL;
    if (suspended) {
        err_set(&err, -ECANCELED, "controller %s is being destroyed", dev->name);
        suspended(dev->suspend_arg, -ECANCELED, &err);
    }
    dev->quit_cb = cb;
    dev->quit_arg = arg;
    if (dev->inflight)
        timer_arm(dev->reactor, &dev->quit_timer, QUIT_DRAIN_MS, quit_expired);
    dev->settle = true;
    nvme_dev_settle(dev);
}

/* ---- function_ops ---- */

static void apply_flags(struct nvme_dev *dev, uint32_t flags)
{
    if ((flags & STATE_BUS_MASTER) && (flags & STATE_POWERED))
        dev->hold &= ~(uint32_t)NVME_HOLD_BUS;
    else
        dev->hold |= NVME_HOLD_BUS;
}

static int dev_adopt(void *p, struct function *f, struct err *err)
{
    struct nvme_dev *dev = p;
    int rc;

    dev->f = f;
    dev->map = function_memory(f);
    dev->max_depth = function_info(f)->max_queue_depth;
    dev->nvectors = MIN(function_info(f)->num_msix, 2048U);
    dev->vectors = calloc(dev->nvectors + 1, sizeof(*dev->vectors));
    dev->pending_vectors = calloc(dev->nvectors + 1, sizeof(*dev->pending_vectors));
    if (!dev->vectors || !dev->pending_vectors)
        rc = err_set(err, -ENOMEM, "no memory for controller %s", dev->name);
    else
        rc = nvme_adopt(dev, err);
    if (rc < 0) {
        nvme_dev_close_queues(dev);
        nvme_iov_pool_free(dev);
        dev->f = NULL;
        return rc;
    }
    apply_flags(dev, function_flags(f));
    return 0;
}

static unsigned dev_poll(void *p)
{
    struct nvme_dev *dev = p;
    unsigned n = 0;

    dev->kicked = false;
    if (unlikely(dev->map_generation != guest_map_generation(dev->map)))
        nvme_dev_bind(dev);
    if (unlikely(dev->settle)) {
        nvme_dev_settle(dev);
        n++;
    }
    n += dev->dirty_ns != NULL;
    if (unlikely(dev->dirty_cqs && !(dev->hold & (NVME_HOLD_BUS | NVME_HOLD_FAILED))))
        for (struct nvme_cq *cq = dev->dirty_cqs; cq; cq = cq->next_dirty)
            n += !cq->parked && !cq->stopped && (!cq->full || nvme_cq_has_room(cq));
    if (unlikely(dev->hold & ~(uint32_t)NVME_HOLD_ADMIN))
        return n;
    for (uint32_t m = atomic_load_explicit(&dev->has_queue, memory_order_relaxed); m; m &= m - 1) {
        struct nvme_sq *sq = dev->sq[__builtin_ctz(m)];

        if (unlikely(dev->hold) && sq->qid == 0)
            continue;
        n += nvme_sq_fetch(sq);
    }
    return n;
}

static void dev_flush(void *p)
{
    struct nvme_dev *dev = p;

    if (unlikely(dev->map_generation != guest_map_generation(dev->map)))
        nvme_dev_bind(dev);
    while (dev->dirty_ns) {
        struct nvme_dev_ns *ns = dev->dirty_ns;

        dev->dirty_ns = ns->next_dirty;
        ns->dirty = false;
        bdev_flush_batch(ns->channel);
    }
    if (dev->dirty_cqs || dev->npending_vectors)
        nvme_dev_post(dev);
    atomic_store_explicit(&dev->inflight_shown, dev->inflight, memory_order_relaxed);
    if (unlikely(dev->settle))
        nvme_dev_settle(dev);
}

static unsigned dev_inflight(void *p)
{
    return ((const struct nvme_dev *)p)->inflight;
}

static bool dev_arm(void *p)
{
    struct nvme_dev *dev = p;
    bool idle = !dev->settle && !dev->dirty_ns;
    const struct nvme_cq *dirty = dev->dirty_cqs;

    if (dev->map_generation != guest_map_generation(dev->map))
        nvme_dev_bind(dev);
    if (dev->hold & (NVME_HOLD_BUS | NVME_HOLD_FAILED | NVME_HOLD_RESET))
        return idle;
    for (struct nvme_cq *cq = dev->dirty_cqs; cq; cq = cq->next_dirty)
        idle &= cq->parked || cq->stopped || (cq->full && nvme_cq_arm(cq));
    if (dev->hold & ~(uint32_t)NVME_HOLD_ADMIN)
        return idle;
    for (uint32_t m = atomic_load_explicit(&dev->has_queue, memory_order_relaxed); m; m &= m - 1) {
        struct nvme_sq *sq = dev->sq[__builtin_ctz(m)];

        if (!nvme_sq_held(dev, sq))
            idle &= nvme_sq_arm(sq);
    }
    nvme_doorbells_check(dev);
    /* A bad doorbell found just now may have completed an event request. */
    return idle && !dev->settle && dev->dirty_cqs == dirty;
}

/* Between our end of a function reset and snap_emu's, what the host wrote before it is still in the
 * log. */
static bool of_this_epoch(const struct nvme_dev *dev, uint32_t epoch)
{
    return epoch ==
           atomic_load_explicit(&function_state(dev->f)->svc.device_epoch, memory_order_relaxed);
}

static void dev_reg_written(void *p, const struct state_reg_write *w)
{
    if (of_this_epoch(p, w->epoch))
        nvme_regs_written(p, w);
}

static void dev_registers_lost(void *p)
{
    const struct nvme_dev *dev = p;

    if (of_this_epoch(dev, function_epoch(dev->f)))
        nvme_regs_lost(p);
}

static void dev_flags_changed(void *p, uint32_t flags)
{
    struct nvme_dev *dev = p;

    apply_flags(dev, flags);
    nvme_dev_kick(dev);
}

static void dev_memory_added(void *p)
{
    struct nvme_dev *dev = p;
    uint64_t now = reactor_now_us(dev->reactor);

    if (now < dev->remap_until_us) /* the pieces of a map that is being moved about */
        dev->remap_until_us = now + NVME_REMAP_US;
    nvme_dev_bind(dev);
    nvme_regs_memory_added(dev);
    nvme_dev_restart_held(dev);
    nvme_dev_kick(dev);
}

static void dev_memory_detach(void *p, const struct guest_region *region, void (*cb)(void *arg),
                              void *arg)
{
    struct nvme_dev *dev = p;
    struct nvme_detach_wait *w = malloc(sizeof(*w));

    /* The map has lost the region already: nothing new finds it. */
    dev->remap_until_us = reactor_now_us(dev->reactor) + NVME_REMAP_US;
    nvme_dev_bind(dev);
    if (!w) {
        nvme_dev_fail(dev, "out of memory"); /* and the region stays mapped */
        return;
    }
    *w = (struct nvme_detach_wait){
        .host = region->host, .size_bytes = region->size_bytes, .detached = cb, .arg = arg};
    list_append(&dev->detaching, &w->node);
    dev->settle = true;
    nvme_dev_settle(dev);
}

static void dev_reset(void *p, enum function_reset why, uint32_t epoch, void (*done)(void *arg),
                      void *arg)
{
    struct nvme_dev *dev = p;
    void (*older)(void *arg) = dev->reset_done;
    void *older_arg = dev->reset_arg;

    dev->reset_function = true;
    dev->reset_epoch = epoch;
    dev->reset_done = done;
    dev->reset_arg = arg;
    if (older)
        older(older_arg);
    nvme_regs_reset_begin(dev);
}

const struct function_ops nvme_function_ops = {
    .adopt = dev_adopt,
    .poll = dev_poll,
    .flush = dev_flush,
    .arm = dev_arm,
    .inflight = dev_inflight,
    .reg_written = dev_reg_written,
    .registers_lost = dev_registers_lost,
    .flags_changed = dev_flags_changed,
    .memory_added = dev_memory_added,
    .memory_detach = dev_memory_detach,
    .reset = dev_reset,
    .queue_changed = function_no_queues,
};
