/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The bdev behind the device, and the configuration space that tells the host of it (virtio 1.3,
 * 5.2.4). Configuration lies in the function's register image. */
#include "devices/virtio_blk/inside.h"

#include "base/crash_point.h"

#include <errno.h>
#include <string.h>

enum { WRITEBACK_OFFSET = 32 };

int vblk_disk_open(struct vblk_dev *dev, struct bdev *bdev, struct err *err)
{
    struct bdev_info info = bdev_get_info(bdev);
    struct vblk_disk *d = &dev->disk;

    if (d->channel)
        return err_set(err, -EBUSY, "controller %s has a bdev already", dev->base.name);
    if (info.block_bytes < VIRTIO_BLK_SECTOR || (info.block_bytes & (info.block_bytes - 1)))
        return err_set(err, -EINVAL,
                       "bdev '%s' has blocks of %u bytes; virtio-blk needs a power "
                       "of two from %d on",
                       bdev_name(bdev), info.block_bytes, VIRTIO_BLK_SECTOR);
    d->channel = bdev_channel_get(bdev, dev->base.reactor, err);
    if (!d->channel)
        return err->code ? err->code : -EIO;
    d->block_shift = (uint32_t)__builtin_ctz(info.block_bytes);
    d->nblocks = info.nblocks;
    d->write_cache = info.write_cache;
    d->read_only = info.read_only;
    d->can_unmap = info.can_unmap;
    d->can_write_zeroes = info.can_write_zeroes;
    d->copies = info.copies;
    d->uuid = info.uuid;
    return 0;
}

void vblk_disk_close(struct vblk_dev *dev)
{
    if (dev->disk.channel)
        bdev_channel_put(dev->disk.channel);
    dev->disk = (struct vblk_disk){0};
    dev->dirty = false;
}

void vblk_disk_resize(struct vblk_dev *dev, uint64_t nblocks)
{
    if (!dev->disk.channel || dev->disk.nblocks == nblocks)
        return;
    dev->disk.nblocks = nblocks;
    if (!dev->base.f)
        return;
    vblk_config_put(dev, true);
    crash_point(vblk_resize_told);
    if (dev->owns_state)
        vblk_store_identity(dev);
}

/* ---- configuration ---- */

static uint32_t in_sectors(const struct vblk_disk *d, uint64_t blocks)
{
    return (uint32_t)(blocks << (d->block_shift - 9));
}

void vblk_config_put(struct vblk_dev *dev, bool tell)
{
    const struct vblk_disk *d = &dev->disk;
    uint32_t align = d->channel ? in_sectors(d, 1) : 1;
    union {
        struct virtio_blk_config c;
        uint32_t dword[(sizeof(struct virtio_blk_config) + 3) / 4];
    } u = {.c = {
               .capacity = le64_of(d->channel ? d->nblocks << (d->block_shift - 9) : 0),
               .size_max = le32_of(dev->o.size_max),
               .seg_max = le32_of(dev->o.seg_max),
               .blk_size = le32_of(d->channel ? 1U << d->block_shift : VIRTIO_BLK_SECTOR),
               .min_io_size = le16_of(1),
               .writeback = 1,
               .num_queues = le16_of((uint16_t)dev->o.num_queues),
               .max_discard_sectors = le32_of(VBLK_MAX_RANGE_SECTORS),
               .max_discard_seg = le32_of(VBLK_MAX_RANGES),
               .discard_sector_alignment = le32_of(align),
               .max_write_zeroes_sectors = le32_of(VBLK_MAX_RANGE_SECTORS),
               .max_write_zeroes_seg = le32_of(VBLK_MAX_RANGES),
               .write_zeroes_may_unmap = 1,
           }};
    struct state_svc *svc = &function_state(dev->base.f)->svc;
    const unsigned wb = WRITEBACK_OFFSET / 4;

    static_assert(sizeof(u) == 60, "whole dwords");
    for (unsigned i = 0; i < ARRAY_SIZE(u.dword); i++) {
        function_reg_set(dev->base.f, i * 4, u.dword[i]);
        crash_point(vblk_config_half);
    }
    /* writeback is the host's to change, with CONFIG_WCE; it begins as 1. */
    if (dev->o.features & VIRTIO_BLK_F_CONFIG_WCE) {
        atomic_store_explicit(&svc->reg_mask[wb], 0xff, memory_order_release);
        if (!atomic_load_explicit(&svc->initialized, memory_order_acquire))
            atomic_store_explicit(&svc->reg_host_reset[wb], 1, memory_order_release);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(u.dword); i++)
        atomic_store_explicit(&svc->reg_dev_reset[i], u.dword[i], memory_order_release);
    atomic_store_explicit(&svc->initialized, 1, memory_order_release);
    if (tell)
        function_config_changed(dev->base.f,
                                atomic_load_explicit(&svc->status, memory_order_relaxed));
}

void vblk_config_written(struct vblk_dev *dev)
{
    struct state_svc *svc = &function_state(dev->base.f)->svc;
    uint32_t wanted = function_reg_host(dev->base.f, WRITEBACK_OFFSET) & 0xff;

    if (!(dev->o.features & VIRTIO_BLK_F_CONFIG_WCE))
        return;
    /* A guest that wants its writes on the medium is not asked again after a pause of its VM or a
     * new connection, which are resets for us: they leave it as it is. */
    atomic_store_explicit(&svc->reg_host_reset[WRITEBACK_OFFSET / 4], wanted, memory_order_release);
    dev->writeback = wanted && !dev->through_by_area;
}

void vblk_config_default(struct vblk_dev *dev)
{
    struct state_svc *svc = &function_state(dev->base.f)->svc;

    dev->writeback = true;
    dev->through_by_area = false;
    if (dev->o.features & VIRTIO_BLK_F_CONFIG_WCE)
        atomic_store_explicit(&svc->reg_host_reset[WRITEBACK_OFFSET / 4], 1, memory_order_release);
}

/* ---- identity ---- */

/* The host may know the device by what is there already, and this service may die in between: what
 * has not changed is never anything else, and a bdev is there as a whole or not at all. */
void vblk_store_identity(struct vblk_dev *dev)
{
    struct vblk_state_identity *id = &dev->st->head.identity;
    uint32_t block_bytes = dev->disk.channel ? 1U << dev->disk.block_shift : 0;
    bool same = atomic_load(&id->block_bytes) == block_bytes &&
                memcmp(&id->uuid, &dev->disk.uuid, sizeof(id->uuid)) == 0;

    if (!same)
        atomic_store_explicit(&id->block_bytes, 0, memory_order_seq_cst);
    id->num_queues = dev->o.num_queues;
    id->queue_size = dev->o.queue_size;
    id->seg_max = dev->o.seg_max;
    id->size_max = dev->o.size_max;
    crash_point(vblk_identity_stored);
    id->features = dev->o.features;
    memcpy(id->vblk_id, dev->o.vblk_id, sizeof(id->vblk_id));
    id->nblocks = dev->disk.nblocks;
    id->uuid = dev->disk.uuid;
    crash_point(vblk_identity_half);
    atomic_store_explicit(&id->block_bytes, block_bytes, memory_order_release);
}
