/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The device model as link/ sees it. */
#include "devices/virtio_blk/inside.h"

#include "base/crash_point.h"

#include <errno.h>
#include <stdlib.h>

struct vblk_dev *vblk_dev_create(const struct vblk_dev_opts *opts, struct err *err)
{
    struct vblk_dev *dev = calloc(1, sizeof(*dev));

    if (!dev) {
        err_set(err, -ENOMEM, "no memory for controller %s", opts->name);
        return NULL;
    }
    dev->o = *opts;
    device_init(&dev->base, &vblk_device_ops, opts->name, opts->reactor);
    dev->writeback = true;
    return dev;
}

void vblk_dev_destroy(struct vblk_dev *dev)
{
    if (!dev)
        return;
    for (unsigned i = 0; i < dev->nqueues; i++)
        vblk_queue_free(dev->queue[i]);
    vblk_iov_pool_free(dev);
    free(dev);
}

/* ---- function_ops ---- */

static int dev_adopt(void *p, struct function *f, struct err *err)
{
    struct vblk_dev *dev = p;
    int rc;

    dev->base.f = f;
    dev->map = function_memory(f);
    dev->max_depth = function_info(f)->max_queue_depth;
    dev->map_generation = guest_map_generation(dev->map);
    rc = vblk_adopt(dev, err);
    if (rc < 0)
        dev->base.f = NULL;
    return rc;
}

static void bind_rings(struct vblk_dev *dev)
{
    dev->map_generation = guest_map_generation(dev->map);
    for (unsigned i = 0; i < dev->nqueues; i++)
        if (dev->queue[i] && dev->queue[i]->vq)
            virtq_bind(dev->queue[i]->vq);
}

#define for_each_started(dev, q)                                                                   \
    for (uint64_t m_ = atomic_load_explicit(&(dev)->has_queue, memory_order_relaxed);              \
         m_ && ((q) = (dev)->queue[__builtin_ctzll(m_)]); m_ &= m_ - 1)

static unsigned dev_poll(void *p)
{
    struct vblk_dev *dev = p;
    struct vblk_queue *q;
    unsigned n = 0;

    dev->base.kicked = false;
    if (unlikely(dev->map_generation != guest_map_generation(dev->map)))
        bind_rings(dev);
    if (unlikely(dev->base.settle)) {
        device_settle(&dev->base);
        n++;
    }
    n += dev->dirty;
    for_each_started(dev, q)
    {
        if (likely(!vblk_queue_held(q)))
            n += vblk_queue_fetch(q);
        n += !q->adopted && virtq_has_done(q->vq);
    }
    return n;
}

static void dev_flush(void *p)
{
    struct vblk_dev *dev = p;
    struct vblk_queue *q;

    if (unlikely(dev->map_generation != guest_map_generation(dev->map)))
        bind_rings(dev);
    if (dev->dirty) {
        dev->dirty = false;
        if (likely(dev->disk.channel))
            bdev_flush_batch(dev->disk.channel);
    }
    for_each_started(dev, q) vblk_queue_post(q);
    atomic_store_explicit(&dev->base.counts.in_flight, dev->base.inflight, memory_order_relaxed);
    atomic_store_explicit(&dev->base.counts.kicks, function_kicks_seen(dev->base.f),
                          memory_order_relaxed);
    if (unlikely(dev->base.settle))
        device_settle(&dev->base);
}

static bool dev_arm(void *p)
{
    struct vblk_dev *dev = p;
    bool idle = !dev->base.settle && !dev->dirty;
    struct vblk_queue *q;

    if (dev->map_generation != guest_map_generation(dev->map))
        bind_rings(dev);
    for_each_started(dev, q)
    {
        if (!vblk_queue_held(q))
            idle &= virtq_arm(q->vq);
    }
    return idle;
}

/* What the host writes is the device configuration, and writeback is all it can change there. */
static void dev_reg_written(void *p, const struct state_reg_write *w)
{
    struct vblk_dev *dev = p;

    (void)w;
    dev->through_by_area = false;
    vblk_config_written(dev);
    crash_point(vblk_writeback_stored);
    vblk_queues_remark(dev);
}

static void dev_registers_lost(void *p)
{
    vblk_config_written(p);
}

static void dev_flags_changed(void *p, uint32_t flags)
{
    (void)p;
    (void)flags;
}

static void dev_memory_added(void *p)
{
    struct vblk_dev *dev = p;
    uint64_t now = reactor_now_us(dev->base.reactor);

    if (now < dev->remap_until_us) /* the pieces of a map that is being moved about */
        dev->remap_until_us = now + VBLK_REMAP_US;
    bind_rings(dev);
    vblk_restart_held(dev);
    device_kick(&dev->base);
}

static void dev_memory_detach(void *p, const struct guest_region *region, void (*cb)(void *arg),
                              void *arg)
{
    struct vblk_dev *dev = p;

    /* The map has lost the region already: nothing new finds it. */
    dev->remap_until_us = reactor_now_us(dev->base.reactor) + VBLK_REMAP_US;
    bind_rings(dev);
    device_memory_detach(&dev->base, region, cb, arg);
}

static void dev_reset(void *p, enum function_reset why, uint32_t epoch, void (*done)(void *arg),
                      void *arg)
{
    vblk_dev_reset(p, why, epoch, done, arg);
}

static void dev_queue_changed(void *p, const struct function_queue *q,
                              void (*stopped)(void *arg, uint32_t base), void *arg)
{
    vblk_queue_changed(p, q, stopped, arg);
}

const struct function_ops vblk_function_ops = {
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
    .queue_changed = dev_queue_changed,
};
