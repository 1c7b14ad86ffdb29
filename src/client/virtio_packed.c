/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Packed virtqueues (2.8). A batch is written but for the flags of its first descriptor; storing
 * those shows all of it, because the device reads in order. */
#include "client/virtio_ring.h"

#include <string.h>

static struct virtq_packed_desc *desc_at(const struct virtio_ring *r, unsigned pos)
{
    return (struct virtq_packed_desc *)r->o.memory.desc + pos;
}

void virtio_packed_clear(struct virtio_ring *r)
{
    memset(r->o.memory.desc, 0, virtq_desc_bytes(r->o.size));
    memset(r->o.memory.driver, 0, sizeof(struct virtq_packed_event));
    memset(r->o.memory.device, 0, sizeof(struct virtq_packed_event));
}

static void put(struct virtio_ring *r, uint64_t addr, uint32_t len, unsigned id, uint16_t flags)
{
    struct virtq_packed_desc *d = desc_at(r, r->avail);

    flags |= r->avail_wrap ? VIRTQ_PACKED_F_AVAIL : VIRTQ_PACKED_F_USED;
    d->addr = le64_of(addr);
    d->len = le32_of(len);
    d->id = le16_of((uint16_t)id);
    if (r->unpublished++)
        virtio_store16(&d->flags, flags, memory_order_relaxed);
    else {
        r->head_pos = r->avail;
        r->head_flags = flags;
    }
    if (++r->avail == r->o.size) {
        r->avail = 0;
        r->avail_wrap = !r->avail_wrap;
    }
}

void virtio_packed_add(struct virtio_ring *r, unsigned id, const struct virtio_seg *seg, unsigned n)
{
    if (r->o.indirect) {
        uint64_t table = virtio_ring_table(r, id, seg, n);

        put(r, table, n * (uint32_t)sizeof(struct virtq_packed_desc), id, VIRTQ_DESC_F_INDIRECT);
        r->chain[id] = 1;
        return;
    }
    for (unsigned i = 0; i < n; i++)
        put(r, seg[i].gpa, seg[i].len, id,
            (uint16_t)((seg[i].write ? VIRTQ_DESC_F_WRITE : 0) |
                       (i + 1 < n ? VIRTQ_DESC_F_NEXT : 0)));
    r->chain[id] = (uint16_t)n;
}

/* 2.8.10.1: off_wrap of the device against what has become available since the last publish. */
static bool passed(const struct virtio_ring *r, uint16_t off_wrap, uint16_t added)
{
    int event = off_wrap & 0x7fff, now = r->avail;

    if (!!(off_wrap >> 15) != r->avail_wrap)
        event -= r->o.size;
    return (uint16_t)(now - event - 1) < added;
}

bool virtio_packed_publish(struct virtio_ring *r)
{
    const struct virtq_packed_event *wish = r->o.memory.device;
    uint16_t added = r->unpublished, flags;

    virtio_store16(&desc_at(r, r->head_pos)->flags, r->head_flags, memory_order_release);
    r->unpublished = 0;
    atomic_thread_fence(memory_order_seq_cst); /* our store before the device's wish */
    flags = virtio_load16(&wish->flags, memory_order_acquire) & 3;
    if (flags != VIRTQ_PACKED_EVENT_DESC || !r->o.event_idx)
        return flags != VIRTQ_PACKED_EVENT_DISABLE;
    return passed(r, virtio_load16(&wish->off_wrap, memory_order_relaxed), added);
}

static bool is_used(const struct virtio_ring *r, unsigned pos, bool wrap)
{
    uint16_t flags = virtio_load16(&desc_at(r, pos)->flags, memory_order_acquire);
    bool avail = flags & VIRTQ_PACKED_F_AVAIL, used = flags & VIRTQ_PACKED_F_USED;

    return avail == wrap && used == wrap;
}

/* Behind the used element at pos; by how much depends on the request it names. */
static void skip(const struct virtio_ring *r, unsigned id, uint16_t *pos, bool *wrap)
{
    unsigned n = id < r->nids && r->chain[id] ? r->chain[id] : 1;
    unsigned next = *pos + n;

    if (next >= r->o.size) {
        next -= r->o.size;
        *wrap = !*wrap;
    }
    *pos = (uint16_t)next;
}

bool virtio_packed_next(struct virtio_ring *r, struct virtio_used *ret)
{
    const struct virtq_packed_desc *d = desc_at(r, r->used);

    if (!is_used(r, r->used, r->used_wrap))
        return false;
    ret->bad_index = false;
    ret->raw = le16_get(d->id);
    ret->len = le32_get(d->len);
    ret->id = ret->raw < r->nids ? (int)ret->raw : -1;
    skip(r, ret->raw, &r->used, &r->used_wrap);
    return true;
}

bool virtio_packed_arm(struct virtio_ring *r)
{
    struct virtq_packed_event *wish = r->o.memory.driver;

    if (r->o.event_idx) {
        virtio_store16(&wish->off_wrap, (uint16_t)(r->used | r->used_wrap << 15),
                       memory_order_relaxed);
        virtio_store16(&wish->flags, VIRTQ_PACKED_EVENT_DESC, memory_order_release);
    } else {
        virtio_store16(&wish->flags, VIRTQ_PACKED_EVENT_ENABLE, memory_order_relaxed);
    }
    atomic_thread_fence(memory_order_seq_cst); /* our wish before we look once more */
    return !is_used(r, r->used, r->used_wrap);
}

void virtio_packed_relax(struct virtio_ring *r)
{
    struct virtq_packed_event *wish = r->o.memory.driver;

    virtio_store16(&wish->flags, VIRTQ_PACKED_EVENT_DISABLE, memory_order_relaxed);
}

uint32_t virtio_packed_base(const struct virtio_ring *r)
{
    uint16_t pos = r->used;
    bool wrap = r->used_wrap;
    uint32_t half;

    for (unsigned i = 0; i < r->o.size && is_used(r, pos, wrap); i++)
        skip(r, le16_get(desc_at(r, pos)->id), &pos, &wrap);
    half = pos | (uint32_t)wrap << 15;
    return half << 16 | half;
}
