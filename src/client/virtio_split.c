/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Split virtqueues (2.7). Request id owns the descriptors from id * stride on. */
#include "client/virtio_ring.h"

#include <string.h>

static unsigned stride_of(const struct virtio_ring *r)
{
    return r->o.indirect ? 1 : r->o.max_segments;
}

static le16 *used_event(const struct virtio_ring *r) /* 2.7.7 */
{
    return &((struct virtq_avail *)r->o.memory.driver)->ring[r->o.size];
}

static const void *avail_event(const struct virtio_ring *r) /* 2.7.10 */
{
    return &((struct virtq_used *)r->o.memory.device)->ring[r->o.size];
}

void virtio_split_clear(struct virtio_ring *r)
{
    memset(r->o.memory.desc, 0, virtq_desc_bytes(r->o.size));
    memset(r->o.memory.driver, 0, virtq_avail_bytes(r->o.size));
    memset(r->o.memory.device, 0, virtq_used_bytes(r->o.size));
}

void virtio_split_add(struct virtio_ring *r, unsigned id, const struct virtio_seg *seg, unsigned n)
{
    struct virtq_avail *avail = r->o.memory.driver;
    unsigned head = id * stride_of(r);
    struct virtq_desc *d = (struct virtq_desc *)r->o.memory.desc + head;

    if (r->o.indirect) {
        d->addr = le64_of(virtio_ring_table(r, id, seg, n));
        d->len = le32_of(n * (uint32_t)sizeof(*d));
        d->flags = le16_of(VIRTQ_DESC_F_INDIRECT);
    } else {
        for (unsigned i = 0; i < n; i++) {
            bool last = i + 1 == n;

            d[i].addr = le64_of(seg[i].gpa);
            d[i].len = le32_of(seg[i].len);
            d[i].flags =
                le16_of((seg[i].write ? VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : VIRTQ_DESC_F_NEXT));
            d[i].next = le16_of((uint16_t)(last ? 0 : head + i + 1));
        }
    }
    avail->ring[r->avail++ & (r->o.size - 1)] = le16_of((uint16_t)head);
}

bool virtio_split_publish(struct virtio_ring *r)
{
    struct virtq_avail *avail = r->o.memory.driver;
    const struct virtq_used *used = r->o.memory.device;
    uint16_t old = r->published, now = r->avail, event;

    virtio_store16(&avail->idx, now, memory_order_release);
    r->published = now;
    atomic_thread_fence(memory_order_seq_cst); /* our store before the device's wish */
    if (!r->o.event_idx)
        return !(virtio_load16(&used->flags, memory_order_relaxed) & VIRTQ_USED_F_NO_NOTIFY);
    event = virtio_load16(avail_event(r), memory_order_relaxed);
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

bool virtio_split_next(struct virtio_ring *r, struct virtio_used *ret)
{
    const struct virtq_used *used = r->o.memory.device;
    const struct virtq_used_elem *e;
    unsigned stride = stride_of(r);

    if (r->used == r->used_limit) {
        r->used_limit = virtio_load16(&used->idx, memory_order_acquire);
        if (r->used == r->used_limit)
            return false;
        if ((uint16_t)(r->used_limit - r->used) > r->o.size) { /* more than the ring holds */
            *ret = (struct virtio_used){.len = r->used_limit, .id = -1, .bad_index = true};
            r->used = r->used_limit;
            return true;
        }
    }
    e = &used->ring[r->used++ & (r->o.size - 1)];
    ret->bad_index = false;
    ret->raw = le32_get(e->id);
    ret->len = le32_get(e->len);
    ret->id = ret->raw / stride < r->nids && ret->raw % stride == 0 ? (int)(ret->raw / stride) : -1;
    return true;
}

bool virtio_split_arm(struct virtio_ring *r)
{
    struct virtq_avail *avail = r->o.memory.driver;
    const struct virtq_used *used = r->o.memory.device;

    if (r->o.event_idx)
        virtio_store16(used_event(r), r->used, memory_order_relaxed);
    else
        virtio_store16(&avail->flags, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* our wish before we look once more */
    return virtio_load16(&used->idx, memory_order_acquire) == r->used;
}

void virtio_split_relax(struct virtio_ring *r)
{
    struct virtq_avail *avail = r->o.memory.driver;

    /* With an event index, the one that has passed asks for nothing. */
    if (!r->o.event_idx)
        virtio_store16(&avail->flags, VIRTQ_AVAIL_F_NO_INTERRUPT, memory_order_relaxed);
}
