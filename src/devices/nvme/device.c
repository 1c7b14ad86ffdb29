/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The device model: what link/ calls, and its part of the motions of controller/device.h. */
#include "devices/nvme/inside.h"

#include "link/crash.h"

#include <errno.h>
#include <stdlib.h>

/* ---- device_ops ---- */

static unsigned events_inflight(struct device *d)
{
    const struct nvme_dev *dev = nvme_dev_of(d);

    return dev->sq[0] ? dev->sq[0]->inflight : 0;
}

static int resume(struct device *d, struct err *err)
{
    struct nvme_dev *dev = nvme_dev_of(d);
    int rc = 0;

    if (dev->adopted) {
        rc = nvme_adopt_identity(dev, err);
        if (rc == 0)
            rc = nvme_adopt_records(dev, err);
        if (rc < 0)
            return rc;
    }
    if (!dev->owns_state) {
        dev->owns_state = true;
        nvme_adopt_store_ns(dev);
    }
    d->hold &= ~(uint32_t)(DEVICE_HOLD_SUSPENDED | DEVICE_HOLD_EVENTS);
    if (dev->adopted) {
        struct state_memory *before = crash_suspect(function_state(d->f));

        dev->adopted = false;
        nvme_adopt_restart(dev);
        crash_suspect(before);
    }
    return 0;
}

static void go_on(struct device *d)
{
    nvme_dev_restart_held(nvme_dev_of(d));
    nvme_event_report(nvme_dev_of(d));
}

static void settle(struct device *d)
{
    struct nvme_dev *dev = nvme_dev_of(d);

    for (unsigned i = 1; i < NVME_QUEUES; i++)
        if (dev->sq[i] && dev->sq[i]->delete_req && dev->sq[i]->inflight == 0)
            nvme_admin_sq_drained(dev->sq[i]);
    if (d->f)
        nvme_regs_settle(dev);
    nvme_dev_ns_settle(dev);
}

static bool touches(const struct nvme_req *req, const struct device_detach *w)
{
    for (int i = 0; req->io.iov && i < req->io.iovcnt; i++)
        if (device_detach_touches(w, req->io.iov[i].iov_base, req->io.iov[i].iov_len))
            return true;
    return false;
}

static bool detach(struct device *d, const struct device_detach *w)
{
    struct nvme_dev *dev = nvme_dev_of(d);
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

static void cancel(struct device *d)
{
    struct nvme_dev *dev = nvme_dev_of(d);

    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (dev->sq[i])
            nvme_sq_cancel(dev->sq[i]);
    if (dev->shutdown_flushing)
        bdev_cancel(dev->shutdown_ns->channel, &dev->shutdown_io);
}

static void post(struct device *d)
{
    nvme_dev_post(nvme_dev_of(d));
}

static void close_device(struct device *d)
{
    struct nvme_dev *dev = nvme_dev_of(d);

    timer_cancel(&dev->hold_timer);
    timer_cancel(&dev->irq_timer);
    timer_cancel(&dev->enable_timer);
    dev->enable_waits = false;
    dev->shutdown_wanted = false;
    nvme_dev_ns_close_all(dev);
}

static void broken(struct device *d)
{
    nvme_regs_fatal(nvme_dev_of(d));
}

static const struct device_ops device_ops = {
    .room = "nvme",
    .words = "commands",
    .events_inflight = events_inflight,
    .resume = resume,
    .go_on = go_on,
    .settle = settle,
    .detach = detach,
    .cancel = cancel,
    .post = post,
    .close = close_device,
    .broken = broken,
};

/* ---- made and freed ---- */

struct nvme_dev *nvme_dev_create(const struct nvme_dev_opts *opts, struct err *err)
{
    struct nvme_dev *dev = calloc(1, sizeof(*dev));

    if (!dev) {
        err_set(err, -ENOMEM, "no memory for controller %s", opts->name);
        return NULL;
    }
    device_init(&dev->base, &device_ops, opts->name, opts->reactor);
    dev->ss = opts->subsystem;
    dev->num_queues = opts->num_queues;
    dev->mdts = opts->mdts;
    dev->max_bytes = (uint32_t)NVME_PAGE << opts->mdts;
    dev->fw_slots = opts->fw_slots;
    dev->write_zeroes = opts->write_zeroes;
    dev->dsm = opts->dsm;
    dev->base.hold |= NVME_HOLD_DISABLED;
    return dev;
}

void nvme_dev_destroy(struct nvme_dev *dev)
{
    if (!dev)
        return;
    if (dev->base.f) {
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

/* ---- function_ops ---- */

static void apply_flags(struct nvme_dev *dev, uint32_t flags)
{
    if ((flags & STATE_BUS_MASTER) && (flags & STATE_POWERED))
        dev->base.hold &= ~(uint32_t)NVME_HOLD_BUS;
    else
        dev->base.hold |= NVME_HOLD_BUS;
}

static int dev_adopt(void *p, struct function *f, struct err *err)
{
    struct nvme_dev *dev = p;
    int rc;

    dev->base.f = f;
    dev->map = function_memory(f);
    dev->max_depth = function_info(f)->max_queue_depth;
    dev->nvectors = MIN(function_info(f)->num_msix, 2048U);
    dev->vectors = calloc(dev->nvectors + 1, sizeof(*dev->vectors));
    dev->pending_vectors = calloc(dev->nvectors + 1, sizeof(*dev->pending_vectors));
    if (!dev->vectors || !dev->pending_vectors)
        rc = err_set(err, -ENOMEM, "no memory for controller %s", dev->base.name);
    else
        rc = nvme_adopt(dev, err);
    if (rc < 0) {
        nvme_dev_close_queues(dev);
        nvme_iov_pool_free(dev);
        dev->base.f = NULL;
        return rc;
    }
    apply_flags(dev, function_flags(f));
    return 0;
}

static unsigned dev_poll(void *p)
{
    struct nvme_dev *dev = p;
    unsigned n = 0;

    dev->base.kicked = false;
    if (unlikely(dev->map_generation != guest_map_generation(dev->map)))
        nvme_dev_bind(dev);
    if (unlikely(dev->base.settle)) {
        device_settle(&dev->base);
        n++;
    }
    n += dev->dirty_ns != NULL;
    if (unlikely(dev->dirty_cqs && !(dev->base.hold & (NVME_HOLD_BUS | DEVICE_HOLD_FAILED))))
        for (struct nvme_cq *cq = dev->dirty_cqs; cq; cq = cq->next_dirty)
            n += !cq->parked && !cq->stopped && (!cq->full || nvme_cq_has_room(cq));
    if (unlikely(dev->base.hold & ~(uint32_t)DEVICE_HOLD_EVENTS))
        return n;
    for (uint32_t m = atomic_load_explicit(&dev->has_queue, memory_order_relaxed); m; m &= m - 1) {
        struct nvme_sq *sq = dev->sq[__builtin_ctz(m)];

        if (unlikely(dev->base.hold) && sq->qid == 0)
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
    atomic_store_explicit(&dev->base.counts.in_flight, dev->base.inflight, memory_order_relaxed);
    if (unlikely(dev->base.settle))
        device_settle(&dev->base);
}

static bool dev_arm(void *p)
{
    struct nvme_dev *dev = p;
    bool idle = !dev->base.settle && !dev->dirty_ns;
    const struct nvme_cq *dirty = dev->dirty_cqs;

    if (dev->map_generation != guest_map_generation(dev->map))
        nvme_dev_bind(dev);
    if (dev->base.hold & (NVME_HOLD_BUS | DEVICE_HOLD_FAILED | DEVICE_HOLD_RESET))
        return idle;
    for (struct nvme_cq *cq = dev->dirty_cqs; cq; cq = cq->next_dirty)
        idle &= cq->parked || cq->stopped || (cq->full && nvme_cq_arm(cq));
    if (dev->base.hold & ~(uint32_t)DEVICE_HOLD_EVENTS)
        return idle;
    for (uint32_t m = atomic_load_explicit(&dev->has_queue, memory_order_relaxed); m; m &= m - 1) {
        struct nvme_sq *sq = dev->sq[__builtin_ctz(m)];

        if (!nvme_sq_held(dev, sq))
            idle &= nvme_sq_arm(sq);
    }
    nvme_doorbells_check(dev);
    /* A bad doorbell found just now may have completed an event request. */
    return idle && !dev->base.settle && dev->dirty_cqs == dirty;
}

/* Between our end of a function reset and snap_emu's, what the host wrote before it is still in the
 * log. */
static bool of_this_epoch(const struct nvme_dev *dev, uint32_t epoch)
{
    return epoch == atomic_load_explicit(&function_state(dev->base.f)->svc.device_epoch,
                                         memory_order_relaxed);
}

static void dev_reg_written(void *p, const struct state_reg_write *w)
{
    if (of_this_epoch(p, w->epoch))
        nvme_regs_written(p, w);
}

static void dev_registers_lost(void *p)
{
    const struct nvme_dev *dev = p;

    if (of_this_epoch(dev, function_epoch(dev->base.f)))
        nvme_regs_lost(p);
}

static void dev_flags_changed(void *p, uint32_t flags)
{
    struct nvme_dev *dev = p;

    apply_flags(dev, flags);
    device_kick(&dev->base);
}

static void dev_memory_added(void *p)
{
    struct nvme_dev *dev = p;
    uint64_t now = reactor_now_us(dev->base.reactor);

    if (now < dev->remap_until_us) /* the pieces of a map that is being moved about */
        dev->remap_until_us = now + NVME_REMAP_US;
    nvme_dev_bind(dev);
    nvme_regs_memory_added(dev);
    nvme_dev_restart_held(dev);
    device_kick(&dev->base);
}

static void dev_memory_detach(void *p, const struct guest_region *region, void (*cb)(void *arg),
                              void *arg)
{
    struct nvme_dev *dev = p;

    /* The map has lost the region already: nothing new finds it. */
    dev->remap_until_us = reactor_now_us(dev->base.reactor) + NVME_REMAP_US;
    nvme_dev_bind(dev);
    device_memory_detach(&dev->base, region, cb, arg);
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
    .inflight = device_inflight,
    .reg_written = dev_reg_written,
    .registers_lost = dev_registers_lost,
    .flags_changed = dev_flags_changed,
    .memory_added = dev_memory_added,
    .memory_detach = dev_memory_detach,
    .reset = dev_reset,
    .queue_changed = function_no_queues,
};
