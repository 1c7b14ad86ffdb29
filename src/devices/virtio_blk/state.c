/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/virtio_blk/state.h"

#include "base/crash_point.h"
#include "virtio/virtqueue.h"

#include <errno.h>
#include <string.h>

uint64_t vblk_state_bytes(uint32_t max_depth)
{
    return VBLK_STATE_RECORDS_OFFSET +
           (uint64_t)VBLK_STATE_QUEUES * max_depth *
               (sizeof(struct virtq_record) + sizeof(struct virtq_desc));
}

struct virtq_record *vblk_state_records(struct vblk_state *st, uint32_t max_depth, unsigned queue)
{
    return (struct virtq_record *)(void *)((char *)st + VBLK_STATE_RECORDS_OFFSET) +
           (size_t)queue * max_depth;
}

struct virtq_desc *vblk_state_saved(struct vblk_state *st, uint32_t max_depth, unsigned queue)
{
    void *behind = vblk_state_records(st, max_depth, VBLK_STATE_QUEUES);

    return (struct virtq_desc *)behind + (size_t)queue * max_depth;
}

void vblk_state_init(struct vblk_state *st, uint32_t max_depth)
{
    st->head.magic = 0;
    memset(&st->head.identity, 0, sizeof(st->head.identity));
    st->head.version = VBLK_STATE_VERSION;
    st->head.head_bytes = sizeof(*st);
    st->head.record_bytes = sizeof(struct virtq_record);
    st->head.max_depth = max_depth;
    st->head.queues = VBLK_STATE_QUEUES;
    atomic_store(&st->life.recovering, 0);
    vblk_state_reset(st);
    atomic_thread_fence(memory_order_release);
    crash_point(vblk_state_half);
    st->head.magic = VBLK_STATE_MAGIC;
}

int vblk_state_check(const struct vblk_state *st, uint32_t max_depth, struct err *err)
{
    if (st->head.magic != VBLK_STATE_MAGIC || st->head.version != VBLK_STATE_VERSION)
        return err_set(err, -EPROTO,
                       "virtio-blk state memory has version %u, this service knows version %d: run "
                       "the service that made it, or reset the function",
                       st->head.version, VBLK_STATE_VERSION);
    if (st->head.head_bytes != sizeof(*st) ||
        st->head.record_bytes != sizeof(struct virtq_record) ||
        st->head.queues != VBLK_STATE_QUEUES)
        return err_set(err, -EPROTO, "virtio-blk state memory has another layout");
    if (st->head.max_depth != max_depth)
        return err_set(err, -EPROTO, "virtio-blk state memory is for queue depth %u, not %u",
                       st->head.max_depth, max_depth);
    return 0;
}

void vblk_state_reset(struct vblk_state *st)
{
    for (unsigned i = 0; i < VBLK_STATE_QUEUES; i++)
        virtq_state_reset(&st->queue[i]);
}
