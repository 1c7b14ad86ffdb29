/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/virtio_blk/state.h - the device part of a virtio-blk function's state memory. An ABI
 * between service versions: change it only together with VBLK_STATE_VERSION. Written by the service
 * that holds the lease, read by the next one, which checks it as foreign input. */
#ifndef DEVICES_VIRTIO_BLK_STATE_H
#define DEVICES_VIRTIO_BLK_STATE_H

#include "bdev/bdev.h"
#include "virtio/state.h"

#define VBLK_STATE_MAGIC 0x314b4c4256534fULL /* "OSVBLK1" */
enum { VBLK_STATE_VERSION = 1, VBLK_STATE_QUEUES = 64, VBLK_STATE_RECORDS_OFFSET = 0x8000 };

/* Who the device is, for a host that has started queues. */
struct vblk_state_identity {
    char vblk_id[20];
    uint32_t num_queues, queue_size, seg_max, size_max;
    /* 0: no bdev; then uuid, nblocks and vblk_id say nothing. Stored last, voided first. */
    _Atomic uint32_t block_bytes;
    uint64_t features, nblocks;
    struct bdev_uuid uuid;
};

struct vblk_state {
    _Alignas(4096) struct {
        uint64_t magic;
        uint32_t version, head_bytes, record_bytes, max_depth, queues, reserved;
        _Alignas(64) struct vblk_state_identity identity;
    } head;
    _Alignas(4096) struct {
        _Atomic uint32_t recovering; /* adoptions begun and not ended */
    } life;
    _Alignas(4096) struct virtq_state queue[VBLK_STATE_QUEUES];
};
static_assert(sizeof(struct vblk_state) <= VBLK_STATE_RECORDS_OFFSET, "records begin behind it");
static_assert(offsetof(struct vblk_state, queue) == 0x2000, "ABI");

/* Bytes of the device part for a queue depth. */
uint64_t vblk_state_bytes(uint32_t max_depth);
struct virtq_record *vblk_state_records(struct vblk_state *st, uint32_t max_depth, unsigned queue);
struct virtq_desc *vblk_state_saved(struct vblk_state *st, uint32_t max_depth, unsigned queue);

/* Makes an empty device part in new memory, or memory whose maker died before it was done. */
void vblk_state_init(struct vblk_state *st, uint32_t max_depth);
/* 0, or -EPROTO with the field that does not fit this service. */
int vblk_state_check(const struct vblk_state *st, uint32_t max_depth, struct err *err);
/* Device reset: no queues, no records; identity stays. */
void vblk_state_reset(struct vblk_state *st);

#endif
