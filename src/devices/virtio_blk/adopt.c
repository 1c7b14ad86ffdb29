/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Taking over what the last service left. At the lease: layout, epoch, offered features. As
 * snap_emu tells of the rings: their records are sorted (queue.c). At the first resume, when the
 * disk is attached: identity, then the chains in flight are started again. */
#include "devices/virtio_blk/inside.h"

#include "base/crash_point.h"
#include "link/crash.h"

#include <errno.h>
#include <string.h>

enum { MAX_RECOVERIES = 2 };

void vblk_recovery_begin(struct vblk_dev *dev)
{
    atomic_store_explicit(&dev->st->life.recovering, atomic_load(&dev->st->life.recovering) + 1,
                          memory_order_release);
}

void vblk_recovery_end(struct vblk_dev *dev)
{
    atomic_store_explicit(&dev->st->life.recovering, 0, memory_order_release);
}

bool vblk_host_knows_us(const struct vblk_dev *dev)
{
    for (unsigned i = 0; i < VBLK_STATE_QUEUES; i++)
        if (atomic_load_explicit(&dev->st->queue[i].start, memory_order_acquire))
            return true;
    return false;
}

int vblk_adopt(struct vblk_dev *dev, struct err *err)
{
    struct state_memory *mem = function_state(dev->base.f);
    struct vblk_state *st = state_device(mem);
    uint32_t epoch = function_epoch(dev->base.f), recovering;
    int rc;

    if (dev->max_depth < 2 || dev->max_depth > VIRTQ_MAX_SIZE ||
        vblk_state_bytes(dev->max_depth) > function_device_bytes(dev->base.f))
        return err_set(err, -EPROTO, "state memory has %llu bytes, queue depth %u needs %llu",
                       (unsigned long long)function_device_bytes(dev->base.f), dev->max_depth,
                       (unsigned long long)vblk_state_bytes(dev->max_depth));
    dev->st = st;
    if (st->head.magic == 0) {
        vblk_state_init(st, dev->max_depth);
    } else {
        rc = vblk_state_check(st, dev->max_depth, err);
        if (rc < 0)
            return rc;
    }
    if (atomic_load_explicit(&mem->svc.device_epoch, memory_order_acquire) != epoch) {
        vblk_state_reset(st); /* the host was reset while nobody was here */
        atomic_store_explicit(&mem->svc.status, 0, memory_order_release);
        crash_point(vblk_adopt_epoch);
        atomic_store_explicit(&mem->svc.device_epoch, epoch, memory_order_release);
    }
    /* Only a holder that died of its own fault is evidence against the requests it had. */
    dev->after_crash = crash_mark_take(mem);
    if (!dev->after_crash)
        vblk_recovery_end(dev);
    recovering = atomic_load(&st->life.recovering);
    if (recovering >= MAX_RECOVERIES)
        return err_set(err, -EIO, "crash in recovery, %u times: reset the function", recovering);
    /* A host that is told features knows the device by them: they stay what they are. */
    if (vblk_host_knows_us(dev) && st->head.identity.features != dev->o.features)
        return err_set(err, -ESTALE, "identity: features were 0x%llx, are 0x%llx",
                       (unsigned long long)st->head.identity.features,
                       (unsigned long long)dev->o.features);
    function_offer(dev->base.f, dev->o.features, dev->o.num_queues, dev->o.queue_size);
    vblk_config_put(dev, false);
    return 0;
}

/* ---- identity ---- */

static int differs(struct err *err, const char *field, uint64_t was, uint64_t is)
{
    return err_set(err, -ESTALE, "identity: %s was %llu, is %llu", field, (unsigned long long)was,
                   (unsigned long long)is);
}

int vblk_adopt_identity(struct vblk_dev *dev, struct err *err)
{
    const struct vblk_state_identity *id = &dev->st->head.identity;
    char was[37], is[37];

    if (id->num_queues != dev->o.num_queues)
        return differs(err, "number of queues", id->num_queues, dev->o.num_queues);
    if (id->queue_size != dev->o.queue_size)
        return differs(err, "queue size", id->queue_size, dev->o.queue_size);
    if (id->seg_max != dev->o.seg_max)
        return differs(err, "seg_max", id->seg_max, dev->o.seg_max);
    if (id->size_max != dev->o.size_max)
        return differs(err, "size_max", id->size_max, dev->o.size_max);
    if (id->features != dev->o.features)
        return differs(err, "feature set", id->features, dev->o.features);
    if (id->block_bytes == 0) {
        /* Attached, saved, and our predecessor died before the host was told. */
        if (dev->disk.channel)
            vblk_config_put(dev, true);
        return 0;
    }
    if (memcmp(id->vblk_id, dev->o.vblk_id, sizeof(id->vblk_id)) != 0)
        return err_set(err, -ESTALE, "identity: serial number was '%.20s', is '%.20s'", id->vblk_id,
                       dev->o.vblk_id);
    if (!dev->disk.channel)
        return err_set(err, -ESTALE, "identity: there was a bdev, now there is none");
    bdev_uuid_format(&id->uuid, was);
    bdev_uuid_format(&dev->disk.uuid, is);
    if (strcmp(was, is) != 0)
        return err_set(err, -ESTALE, "identity: UUID of the bdev was %s, is %s", was, is);
    if (id->block_bytes != 1U << dev->disk.block_shift)
        return differs(err, "block size", id->block_bytes, 1U << dev->disk.block_shift);
    if (id->nblocks > dev->disk.nblocks)
        return differs(err, "capacity in blocks", id->nblocks, dev->disk.nblocks);
    if (id->nblocks < dev->disk.nblocks) /* a disk may grow while no service is there */
        vblk_config_put(dev, true);
    return 0;
}
