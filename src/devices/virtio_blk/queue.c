/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A virtqueue of the device: started, served, stopped. */
#include "devices/virtio_blk/inside.h"

#include "base/crash_point.h"
#include "base/log.h"
#include "link/crash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MAX_STARTS = 2 };

/* ---- opening and closing ---- */

static void shown(struct vblk_queue *q, bool started)
{
    struct vblk_dev *dev = q->dev;
    uint64_t bit = 1ULL << q->cfg.index, all = atomic_load(&dev->has_queue);

    atomic_store_explicit(&dev->has_queue, started ? all | bit : all & ~bit, memory_order_relaxed);
}

static void count_found(struct vblk_dev *dev, const struct virtq_found *found)
{
    counter_add(&dev->base.counts.records, found->records);
    counter_add(&dev->base.counts.live, found->live);
    counter_add(&dev->base.counts.intent_stored, found->intent_stored);
    counter_add(&dev->base.counts.posted, found->posted);
    counter_add(&dev->base.counts.unpublished, found->unpublished);
    counter_add(&dev->base.counts.from_area, found->from_area);
}

static struct virtq_inflight area_of(const struct vblk_dev *dev, unsigned index)
{
    struct function_inflight area = function_inflight_area(dev->base.f);
    uint64_t stride = virtq_inflight_stride(area.queue_size);

    if (!area.at || index >= area.queues || (index + 1ULL) * stride > area.size_bytes)
        return (struct virtq_inflight){0};
    return (struct virtq_inflight){(char *)area.at + index * stride, area.queue_size};
}

static int make_reqs(struct vblk_queue *q)
{
    size_t bytes = q->cfg.size * sizeof(struct vblk_req);

    if (q->reqs && q->reqs_bytes >= bytes)
        return 0;
    if (q->reqs)
        munmap(q->reqs, q->reqs_bytes);
    /* Zeroes, and resident only where a slot has been in use. */
    q->reqs = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (q->reqs == MAP_FAILED) {
        q->reqs = NULL;
        return -ENOMEM;
    }
    q->reqs_bytes = bytes;
    return 0;
}

/* Our own of a service before; the host may have altered it, and hurts itself alone. */
enum { REMARK_THROUGH = 1 };

static void put_remark(const struct vblk_queue *q)
{
    struct virtq_inflight area = area_of(q->dev, q->cfg.index);

    virtq_inflight_set_remark(&area, q->dev->writeback ? 0 : REMARK_THROUGH);
}

/* When snap_emu is new, the host's choice of write-through is found in the area only. */
static void look_at_remark(struct vblk_queue *q, bool adopted)
{
    struct virtq_inflight area = area_of(q->dev, q->cfg.index);

    vblk_config_written(q->dev);
    if (!adopted && q->dev->writeback && virtq_inflight_remark(&area) & REMARK_THROUGH) {
        q->dev->through_by_area = true;
        q->dev->writeback = false;
    }
    put_remark(q);
}

void vblk_queues_remark(struct vblk_dev *dev)
{
    for (unsigned i = 0; i < dev->nqueues; i++)
        if (dev->queue[i])
            put_remark(dev->queue[i]);
}

static int open_ring(struct vblk_queue *q, struct err *err)
{
    struct vblk_dev *dev = q->dev;
    char name[LINK_NAME_BYTES + 24];
    struct virtq_found found;
    struct virtq_opts o = {
        .map = dev->map,
        .st = &dev->st->queue[q->cfg.index],
        .records = vblk_state_records(dev->st, dev->max_depth, q->cfg.index),
        .saved = vblk_state_saved(dev->st, dev->max_depth, q->cfg.index),
        .max_size = dev->max_depth,
        .cfg = {.size = q->cfg.size,
                .base = q->cfg.base,
                .start = q->cfg.start,
                .features = q->cfg.features,
                .desc_gpa = q->cfg.desc_gpa,
                .driver_gpa = q->cfg.driver_gpa,
                .device_gpa = q->cfg.device_gpa},
        .inflight = area_of(dev, q->cfg.index),
        .name = name,
    };
    bool adopted = atomic_load(&o.st->start) == q->cfg.start;
    int rc;

    snprintf(name, sizeof(name), "%s queue %u", dev->base.name, q->cfg.index);
    if (q->cfg.size > dev->o.queue_size)
        return err_set(err, -EINVAL, "%s: size %u, queue_size is %u", name, q->cfg.size,
                       dev->o.queue_size);
    if (q->cfg.features & ~(dev->o.features))
        return err_set(err, -EINVAL, "%s: features 0x%llx were not offered", name,
                       (unsigned long long)(q->cfg.features & ~dev->o.features));
    rc = make_reqs(q);
    if (rc < 0)
        return err_set(err, rc, "%s: no memory for %u requests", name, q->cfg.size);
    if (adopted) {
        vblk_recovery_begin(dev);
        crash_point(vblk_adopt_counted);
    }
    rc = virtq_open(&o, &q->vq, err);
    if (adopted) {
        crash_point(vblk_adopt_opened);
        vblk_recovery_end(dev);
    }
    if (rc < 0)
        return rc;
    q->through = !(q->cfg.features & VIRTIO_BLK_F_FLUSH);
    look_at_remark(q, adopted);
    found = virtq_get_found(q->vq);
    count_found(dev, &found);
    q->adopted = adopted || found.live > 0;
    if (adopted)
        atomic_store(&dev->base.counts.adopted, 1);
    if (found.records)
        log_line(LOG_INFO, "vblk",
                 "ctrl %s: queue %u: %u records: %u live, %u intent stored, %u posted, "
                 "%u unpublished, %u from the in-flight area",
                 dev->base.name, q->cfg.index, found.records, found.live, found.intent_stored,
                 found.posted, found.unpublished, found.from_area);
    return 0;
}

void vblk_queue_close(struct vblk_queue *q)
{
    q->told_broken = false;
    q->call = false;
    if (!q->vq)
        return;
    vblk_forget_held(q->dev, q);
    shown(q, false);
    virtq_close(q->vq);
    q->vq = NULL;
    q->adopted = false;
}

void vblk_queue_free(struct vblk_queue *q)
{
    if (!q)
        return;
    vblk_queue_close(q);
    if (q->reqs)
        munmap(q->reqs, q->reqs_bytes);
    free(q);
}

void vblk_queue_forget(struct vblk_queue *q)
{
    struct virtq_inflight area = area_of(q->dev, q->cfg.index);

    virtq_state_reset(&q->dev->st->queue[q->cfg.index]);
    virtq_inflight_clear(&area);
}

static struct vblk_queue *queue_at(struct vblk_dev *dev, unsigned index)
{
    struct vblk_queue *q = dev->queue[index];

    if (q)
        return q;
    q = calloc(1, sizeof(*q));
    if (!q)
        return NULL;
    q->dev = dev;
    dev->queue[index] = q;
    dev->nqueues = MAX(dev->nqueues, index + 1);
    return q;
}

/* The host can mend this by a reset only. */
static void needs_reset(struct vblk_queue *q, const char *why)
{
    static struct log_limit limit;

    if (q->told_broken)
        return;
    q->told_broken = true;
    log_limited(&limit, LOG_WARNING, "vblk", "ctrl %s: queue %u is stopped: %s", q->dev->base.name,
                q->cfg.index, why);
    function_config_changed(q->dev->base.f, VIRTIO_STATUS_NEEDS_RESET);
}

static void start_ring(struct vblk_queue *q)
{
    struct vblk_dev *dev = q->dev;
    struct err err = {0};

    if (!dev->owns_state && !vblk_host_knows_us(dev)) {
        vblk_store_identity(dev);
        dev->owns_state = true;
    }
    if (open_ring(q, &err) < 0) {
        needs_reset(q, err.msg);
        return;
    }
    shown(q, true);
    if (dev->resumed && q->adopted) {
        struct state_memory *before = crash_suspect(function_state(dev->base.f));

        vblk_queue_restart(q);
        vblk_queue_restart_reads(q);
        crash_suspect(before);
    }
}

void vblk_queue_changed(struct vblk_dev *dev, const struct function_queue *cfg,
                        void (*stopped)(void *arg, uint32_t base), void *arg)
{
    struct vblk_queue *q = cfg->index < dev->o.num_queues ? queue_at(dev, cfg->index) : NULL;

    if (!q || cfg->start == 0) {
        if (stopped)
            stopped(arg, cfg->base);
        return;
    }
    if (q->cfg.start != cfg->start) {
        vblk_queue_close(q); /* of an incarnation that is over; drained or reset before */
        q->cfg = *cfg;
        start_ring(q);
    }
    q->cfg.run = cfg->run;
    if (stopped) {
        q->stopped = stopped;
        q->stopped_arg = arg;
    }
    dev->base.settle = true;
    device_kick(&dev->base);
}

void vblk_queue_settle(struct vblk_queue *q)
{
    struct vblk_dev *dev = q->dev;
    void (*stopped)(void *arg, uint32_t base) = q->stopped;
    uint32_t base = q->cfg.base;

    /* Chains of the last service are executed and answered first. */
    if (!stopped ||
        (dev->base.hold & (DEVICE_HOLD_RESET | DEVICE_HOLD_QUIT | DEVICE_HOLD_FAILED)) ||
        q->adopted)
        return;
    if (q->vq) {
        vblk_queue_post(q);
        /* A broken ring may hold chains that are never answered. */
        if (q->pending || (virtq_inflight(q->vq) && !virtq_broken(q->vq)))
            return;
        base = virtq_base(q->vq);
        crash_point(vblk_ring_drained);
        /* State memory keeps its cursors, and the in-flight area is snap_emu's to void: until that
         * has the answer, whoever comes after us has to find the same base. */
        vblk_queue_close(q);
        crash_point(vblk_ring_closed);
    }
    q->cfg.start = 0;
    q->cfg.run = false;
    q->stopped = NULL;
    stopped(q->stopped_arg, base);
}

/* ---- serving ---- */

bool vblk_queue_held(const struct vblk_queue *q)
{
    return q->dev->base.hold || !q->vq || !q->cfg.run || q->stopped || q->adopted;
}

static void look_if_broken(struct vblk_queue *q)
{
    const char *why = virtq_broken(q->vq);

    if (unlikely(why))
        needs_reset(q, why);
}

unsigned vblk_queue_fetch(struct vblk_queue *q)
{
    uint16_t slots[VBLK_BATCH];
    unsigned n = virtq_fetch(q->vq, slots, VBLK_BATCH);

    if (n == 0) {
        look_if_broken(q);
        return 0;
    }
    virtq_relax(q->vq);
    vblk_reqs_start(q, slots, n);
    look_if_broken(q);
    return n;
}

void vblk_queue_post(struct vblk_queue *q)
{
    if (q->adopted)
        return;
    if (virtq_has_done(q->vq))
        q->call |= virtq_post(q->vq);
    if (q->call) {
        q->call = false;
        function_irq(q->dev->base.f, q->cfg.index);
        counter_add(&q->dev->base.counts.interrupts, 1);
    }
}

/* ---- after adoption ---- */

static void restart_one(struct vblk_queue *q, unsigned slot)
{
    struct vblk_dev *dev = q->dev;

    if (!dev->after_crash)
        virtq_set_starts(q->vq, slot, 0);
    if (virtq_starts(q->vq, slot) >= MAX_STARTS) {
        log_line(LOG_ERROR, "vblk",
                 "ctrl %s: chain at descriptor %u of queue %u was started in %u services that "
                 "crashed: ended with an I/O error",
                 dev->base.name, virtq_head(q->vq, slot), q->cfg.index, virtq_starts(q->vq, slot));
        vblk_req_fail(q, slot);
        return;
    }
    vblk_req_start(q, slot, BDEV_RESENT);
    crash_point(vblk_adopt_restarted);
}

void vblk_queue_restart(struct vblk_queue *q)
{
    uint16_t *slots = calloc(q->cfg.size, sizeof(*slots));
    unsigned n;

    if (!slots) {
        device_fail(&q->dev->base, "out of memory");
        return;
    }
    n = virtq_live(q->vq, slots, q->cfg.size);
    q->adopted = false;
    vblk_queue_post(q); /* what the last service had meant to post */
    crash_point(vblk_adopt_reposted);
    q->reads = slots;
    q->nreads = 0;
    for (unsigned i = 0; i < n; i++) {
        if (vblk_req_reads(q, slots[i]))
            q->reads[q->nreads++] = slots[i];
        else
            restart_one(q, slots[i]);
    }
}

void vblk_queue_restart_reads(struct vblk_queue *q)
{
    for (unsigned i = 0; i < q->nreads; i++)
        restart_one(q, q->reads[i]);
    free(q->reads);
    q->reads = NULL;
    q->nreads = 0;
    look_if_broken(q);
}
